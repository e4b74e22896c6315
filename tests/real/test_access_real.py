"""The rights that the chapters need: what they really ask for is what opslib/chapters/rights.py says, it is enough, and no less is."""

from __future__ import annotations

import importlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from opslib import chapters, environments
from opslib.actions import aws, backups, dumps, files, nodes, pipeline, volumes, workloads
from opslib.actions.aws import AwsSystem
from opslib.actions.dumps import Dumps
from opslib.actions.files import ContainerFiles
from opslib.actions.kubernetes import KubernetesSystem
from opslib.actions.pipeline import Desk
from opslib.actions.plans import Plan
from opslib.chapters import access
from opslib.chapters.access import Verdict
from opslib.chapters.rights import PLANS, RIGHTS, Right, merged
from opslib.environments import Environment
from opslib.errors import Forbidden
from opslib.facts import Questions
from opslib.facts import access as access_facts
from opslib.facts.sources import Sources
from opslib.findings import Finding
from opslib.lab import aws as lab_aws
from opslib.lab import faults, player
from opslib.lab.api import Api
from opslib.lab.installation import MANIFESTS
from opslib.lab.velero import Velero
from opslib.sources.aws import Aws
from opslib.sources.execution import NoSuchProgram
from opslib.sources.versions import NODE_GROUP
from tests.waiting import until

if TYPE_CHECKING:
    from opslib.sources.transport import Exchange
    from tests.conftest import RealLab

NAMESPACE = "access"
# What makes chapter 4.1 look at everything that it can look at.
FAULTS = (
    "crash-loop", "secret-missing", "config-map-missing", "claim-pending", "unschedulable-cpu", "restarted-and-back", "cron-job-failed",
    "service-selector-wrong", "ingress-class-missing",
)  # fmt: skip
# Owners that are in none of its lists: a ReplicaSet without a Deployment, and a Job one of whose pods has succeeded.
OWNERS = """
name: owners
title: Pods whose owners stand alone
objects:
  - kind: ReplicaSet
    metadata: {name: left-over}
    spec: {replicas: 1, template: {spec: {containers: [{name: main, image: "registry.example.com/shop/left-over:1"}]}}}
  - kind: Job
    metadata: {name: half-done}
    spec:
      completions: 2
      parallelism: 2
      template: {spec: {restartPolicy: OnFailure, containers: [{name: main, image: "registry.example.com/shop/half-done:1"}]}}
pods:
  - of: left-over
    containers: {main: {waiting: CrashLoopBackOff, restarts: 3, last: {exit: 1}}}
  - of: half-done
    count: 1
    phase: Succeeded
    containers: {main: {terminated: {exit: 0}, ready: false}}
  - of: half-done
    count: 1
    containers: {main: {waiting: CrashLoopBackOff, restarts: 3, last: {exit: 1}}}
"""
CHAPTERS = [chapter for chapter in chapters.CHAPTERS if chapter.slug in RIGHTS]
OF_EVERY_CHAPTER = ("get", "namespaces")
# What only metrics lead to, which there are none of here: tests/facts/test_read_usage.py asks for it.
LED_TO_BY_METRICS = {"cpu": {("get", "pods")}}


@pytest.fixture(scope="module")
def broken(any_cluster: RealLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """A cluster with several faults in it, with the kinds that the monitoring and backup operators define, and with Velero, one of whose
    backups failed in part.
    """
    files = sorted(MANIFESTS.glob("2*.yaml"))
    manifests = [obj for file in files for obj in yaml.safe_load_all(file.read_text("utf-8")) if obj]
    definitions = [obj for obj in manifests if obj["kind"] == "CustomResourceDefinition"]
    for obj in definitions:
        any_cluster.api.apply(obj)
    for fault in (*FAULTS, faults.parse(OWNERS, "owners")):
        player.apply_fault(any_cluster.api, fault, namespace=NAMESPACE, logs=any_cluster.logs)
    velero = Velero(any_cluster.api, tmp_path_factory.mktemp("velero"), tick_seconds=0.2)
    velero.install()
    velero.start()
    try:
        _fail_in_part(any_cluster)
        yield any_cluster
    finally:
        velero.close()
    player.reset(any_cluster.api, logs=any_cluster.logs)
    for obj in (*definitions, *_role([])):
        any_cluster.api.delete(any_cluster.api.path_of(obj))


def _fail_in_part(cluster: RealLab) -> None:
    path = "/apis/velero.io/v1/namespaces/velero"
    location = f"{path}/backupstoragelocations/default"
    until(lambda: cluster.api.get(location).get("status", {}).get("phase") == "Available", "the location is available")
    backup = {"apiVersion": "velero.io/v1", "kind": "Backup", "metadata": {"name": "in-part", "namespace": "velero"}}
    cluster.api.create({**backup, "spec": {"includedNamespaces": ["velero"]}})
    until(lambda: cluster.api.get(f"{path}/backups/in-part").get("status", {}).get("phase") == "Completed", "the backup is taken")
    cluster.api.patch(f"{path}/backups/in-part", {"status": {"phase": "PartiallyFailed"}})


def _role(rights: list[Right]) -> list[dict[str, object]]:
    """A role with these rights, bound to the user "nobody"."""
    version, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
    name = {"name": "access-test"}
    reference = {"apiGroup": group, "kind": "ClusterRole", **name}
    subject = {"apiGroup": group, "kind": "User", "name": "nobody"}
    return [
        {"apiVersion": version, "kind": "ClusterRole", "metadata": name, "rules": merged(rights)},
        {"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": name, "roleRef": reference, "subjects": [subject]},
    ]


@pytest.fixture
def sources(broken: RealLab, tmp_path: Path) -> Callable[[str], Sources]:
    """The cluster as the user of a context sees it."""

    def connect(context: str) -> Sources:
        addresses = yaml.safe_load(broken.environment.read_text("utf-8"))["kubernetes"]
        content = {"name": context, "title": "test", "language": "en", "timezone": "UTC", "kubernetes": {**addresses, "context": context}}
        file = tmp_path / f"{context}.yaml"
        file.write_text(yaml.safe_dump(content), "utf-8")
        return Sources(environments.load(str(file)))

    return connect


@pytest.fixture
def allowed(broken: RealLab, sources: Callable[[str], Sources]) -> Callable[[list[Right]], Sources]:
    """The cluster as "nobody" sees it, who has just these rights."""

    def give(rights: list[Right]) -> Sources:
        for obj in _role(rights):
            broken.api.apply(obj)
        found = sources("lab-nobody")
        every = {right.key for rights_ in (*RIGHTS.values(), *PLANS.values()) for right in rights_}
        wanted = {key: key in {right.key for right in rights} for key in every}
        deadline = time.monotonic() + 20
        while not all(found.kubernetes.may(*key) is may for key, may in wanted.items()):  # the authorizer sees a role after a moment
            assert time.monotonic() < deadline, "the role does not come into force"
        return found

    return give


def run(slug: str, sources: Sources, namespace: str = "") -> list[Finding]:
    """Chapter `slug`, as a session runs it; what it could not look at."""
    module = importlib.import_module(f"opslib.chapters.{slug}")
    reader = importlib.import_module(f"opslib.facts.{slug}")
    given = {"namespace": namespace, "grace_seconds": 0}
    parameters = module.Parameters(**{name: value for name, value in given.items() if name in module.Parameters.model_fields})
    sources.check_cluster()
    sources.check_namespace(namespace)
    with ThreadPoolExecutor(17) as executor:
        facts = reader.read(sources, parameters, Questions(executor))
    return [gap for gap in facts.gaps if gap.check == "gap.kubernetes"]


_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/[^/]+)(?:/namespaces/[^/]+)?/(?P<resource>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[a-z]+))?)?"
)


def asked(exchange: Exchange) -> tuple[str, str] | None:
    """Verb and resource of a question to the cluster; None for what every user may ask."""
    match = _PATH.fullmatch(exchange.request.path)
    if exchange.system != "kubernetes" or match is None or match["resource"].startswith("selfsubject"):
        return None
    resource = ".".join(part for part in (match["resource"], match["group"]) if part)
    whole = f"{resource}/{match['sub']}" if match["sub"] else resource
    if exchange.request.method != "GET":
        return {"POST": "create", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}[exchange.request.method], whole
    return "get" if match["name"] else "list", whole


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
def test_what_a_chapter_asks_for_is_what_its_role_says(chapter: chapters.Chapter, sources: Callable[[str], Sources]) -> None:
    expected = {right.key for right in RIGHTS[chapter.slug]} - LED_TO_BY_METRICS.get(chapter.slug, set())
    seen: set[tuple[str, str] | None] = set()
    deadline = time.monotonic() + 60  # what is wrong is not all there at once: events come, and pods are tried again
    while True:
        for namespace in ("", NAMESPACE):
            found = sources("lab")
            with found.watched(lambda exchange: seen.add(asked(exchange))):
                run(chapter.slug, found, namespace)
        assert {verb for verb, resource in seen - {None} if resource != "downloadrequests.velero.io"} <= {"get", "list"}
        if not seen - {None} < expected or time.monotonic() > deadline:
            break
    assert seen - {None} == expected


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
def test_its_role_is_enough(chapter: chapters.Chapter, allowed: Callable[[list[Right]], Sources]) -> None:
    assert [str(gap.cause) for gap in run(chapter.slug, allowed(list(RIGHTS[chapter.slug])))] == []


@pytest.mark.parametrize(
    ("slug", "right"),
    [
        pytest.param(chapter.slug, right, id=f"{chapter.slug} {right}")
        for chapter in CHAPTERS
        for right in RIGHTS[chapter.slug]
        # Whether it is the right cluster is asked before a chapter begins; that it cannot be asked is chapter 2's to say.
        if (chapter.slug == "access" or right.key != OF_EVERY_CHAPTER) and right.key not in LED_TO_BY_METRICS.get(chapter.slug, ())
    ],
)
def test_one_right_less_is_a_gap_that_names_it(slug: str, right: Right, allowed: Callable[[list[Right]], Sources]) -> None:
    gaps = run(slug, allowed([other for other in RIGHTS[slug] if other != right]))
    assert [gap for gap in gaps if f"may not {right} " in f"{gap.cause} "], [str(gap.cause) for gap in gaps]


def facts_of(found: Sources, namespace: str = "") -> access.Facts:
    with ThreadPoolExecutor(17) as executor:
        return access_facts.read(found, access.Parameters(namespace=namespace), Questions(executor))


def verdicts(facts: access.Facts) -> dict[str, Verdict]:
    return {ability.chapter.slug: ability.verdict for ability in access.abilities(facts)}


def test_chapter_two_says_what_the_role_of_another_is_enough_for(allowed: Callable[[list[Right]], Sources]) -> None:
    facts = facts_of(allowed(list(RIGHTS["pods"])))
    found = {ability.chapter.slug: ability for ability in access.abilities(facts)}
    assert found["pods"].missing == ()
    assert {right.resource.partition(".")[0] for right in found["monitoring"].missing} == {"prometheusrules", "alertmanagers"}
    assert access.identity(facts) == "nobody"
    assert facts.may_change is False


@pytest.mark.parametrize("namespace", ["", NAMESPACE])
def test_who_may_do_everything_lacks_nothing(namespace: str, sources: Callable[[str], Sources]) -> None:
    facts = facts_of(sources("lab"), namespace)
    assert all(not ability.missing and not ability.unknown for ability in access.abilities(facts))
    assert facts.may_change is True


def test_a_viewer_lacks_what_the_server_refuses(sources: Callable[[str], Sources]) -> None:
    """The rules that are listed and the single answers agree with what happens."""
    found = sources("lab-viewer")
    facts = facts_of(found, NAMESPACE)
    assert facts.allowed is not None
    for (verb, resource), known in facts.allowed.items():
        everywhere = any(right.key == (verb, resource) and right.everywhere for rights in RIGHTS.values() for right in rights)
        assert known is found.kubernetes.may(verb, resource, "" if everywhere else NAMESPACE), (verb, resource)
    assert facts.allowed["get", "secrets"] is False
    assert verdicts(facts)["pods"] is Verdict.GAPS


def test_who_may_nothing_is_told_which_chapters_cannot_run(allowed: Callable[[list[Right]], Sources]) -> None:
    facts = facts_of(allowed([]))
    assert verdicts(facts)["pods"] is Verdict.CANNOT
    assert any("may not get namespaces" in str(gap.cause) for gap in facts.gaps)


# --- plans ------------------------------------------------------------------------------------------------------------------------------

PLANNED = "planned"
AGENTS = f"{PLANNED}-agents"
# Of commands for workloads: those that their plans are tried on, with their namespaces; the container is named as its workload.
WORKLOADS = {"deployments/web": PLANNED, "statefulsets/db": PLANNED, "daemonsets/agent": AGENTS}
Planner = Callable[[Any, Environment, str], Plan]
IN_CONTAINER = {("create", "pods/exec"), ("get", "pods/exec")}  # over a connection of its own, which nobody watches


def of(name: str) -> tuple[str, str]:
    """A workload as commands name it, and its namespace."""
    kind, _slash, workload = name.partition("/")
    return f"{kind[:-1]}/{workload}", WORKLOADS[name]


# By command: the system that it changes, and how its plan is made.
PLANNERS: dict[str, tuple[str, Planner]] = {
    "restart": ("kubernetes", lambda system, at, name: workloads.restart(system, at, "test", *of(name), steady_seconds=1)),
    "image": (
        "kubernetes",
        lambda system, at, name: workloads.image(
            system, at, "test", *of(name), name.partition("/")[2], f"registry.example.com/new:{uuid.uuid4().hex[:8]}", steady_seconds=1
        ),
    ),
    "rollback": ("kubernetes", lambda system, at, name: workloads.rollback(system, at, "test", *of(name), steady_seconds=1)),
    "cordon": ("kubernetes", lambda system, at, name: nodes.cordon(system, at, "test", name)),
    "uncordon": ("kubernetes", lambda system, at, name: nodes.uncordon(system, at, "test", name)),
    "taint": ("kubernetes", lambda system, at, name: nodes.taint(system, at, "test", name, "test.example.com/maintenance:NoSchedule")),
    "drain": ("kubernetes", lambda system, at, name: nodes.drain(system, at, "test", name, delete_emptydir_data=True, force=True)),
    "scale": ("kubernetes", lambda system, at, name: workloads.scale(system, at, "test", *of(name), 2, steady_seconds=1)),
    "delete": ("kubernetes", lambda system, at, name: workloads.delete_pods(system, at, "test", [name], PLANNED)),
    "expand-volume": ("kubernetes", lambda system, at, name: volumes.expand(system, at, "test", name, PLANNED, "20Gi")),
    "debug": ("kubernetes", lambda system, at, name: dumps.debug(system, at, "test", name, PLANNED)),
    "processes": ("dumps", lambda system, at, name: dumps.processes(system, at, "test", name, PLANNED)),
    "heap-dump": ("dumps", lambda system, at, name: dumps.heap_dump(system, at, "test", name, PLANNED, runtime="jvm")),
    "delete-files": ("files", lambda system, at, name: files.delete_files(system, at, "test", name, [FILE], PLANNED, "/data")),
    "backup": ("kubernetes", lambda system, at, name: backups.backup(system, at, "test", [PLANNED], name=name)),
    "backup-schedule": ("kubernetes", lambda system, at, name: backups.backup_schedule(system, at, "test", name, "0 3 * * *", [PLANNED])),
    "backup-delete": ("kubernetes", lambda system, at, name: backups.backup_delete(system, at, "test", name)),
    "restore-rehearsal": (
        "kubernetes",
        lambda system, at, name: backups.restore_rehearsal(system, at, "test", name, PLANNED, into=f"{name}-into"),
    ),
}  # fmt: skip
FILE = "/data/old.log"
TRIED_ON = {"restart": tuple(WORKLOADS), "image": tuple(WORKLOADS), "rollback": tuple(WORKLOADS), "scale": tuple(WORKLOADS)[:2]}


@pytest.fixture(scope="module")
def planned(broken: RealLab) -> Iterator[RealLab]:
    """A Deployment and a StatefulSet that run, on one node with a DaemonSet's pod; and a storage class that lets volumes grow."""
    api = broken.api
    for name in (PLANNED, AGENTS):
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    node = min(one["metadata"]["name"] for one in api.list("/api/v1/nodes"))
    for kind, name, namespace in (("Deployment", "web", PLANNED), ("StatefulSet", "db", PLANNED), ("DaemonSet", "agent", AGENTS)):
        pod = {
            "containers": [{"name": name, "image": f"registry.example.com/{name}:1"}], "nodeSelector": {"kubernetes.io/hostname": node},
        }  # fmt: skip
        labels = {"app": name}
        spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}}
        api.create({"apiVersion": "apps/v1", "kind": kind, "metadata": {"namespace": namespace, "name": name}, "spec": spec})
    kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": PLANNED}}
    api.create({**kind, "provisioner": "driver.example.com", "allowVolumeExpansion": True})
    until(lambda: available(api) and len(api.list(f"/api/v1/namespaces/{AGENTS}/pods")) == 1, "web, db and agent run")
    yield broken
    api.delete(f"/apis/storage.k8s.io/v1/storageclasses/{PLANNED}")


def available(api: Api) -> bool:
    """Whether what is changed runs, and what runs stays."""
    path = f"/apis/apps/v1/namespaces/{PLANNED}"
    found = [api.get(f"{path}/{name}").get("status", {}).get("availableReplicas") for name in ("deployments/web", "statefulsets/db")]
    pods = api.list(f"/api/v1/namespaces/{PLANNED}/pods")
    return all(found) and len(pods) == 1 + found[0] and all("deletionTimestamp" not in one["metadata"] for one in pods)


def make_backup(cluster: RealLab, name: str) -> None:
    path = "/apis/velero.io/v1/namespaces/velero/backups"
    backup = {"apiVersion": "velero.io/v1", "kind": "Backup", "metadata": {"name": name, "namespace": "velero"}}
    cluster.api.create({**backup, "spec": {"includedNamespaces": [PLANNED]}})
    until(lambda: cluster.api.get(f"{path}/{name}").get("status", {}).get("phase") == "Completed", "the backup is taken")


def make_claim(api: Api, name: str) -> None:
    """A claim of 10 GiB with a volume; its driver is quick, and gives what it will be asked for before that."""
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": PLANNED}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"namespace": PLANNED, "name": name}}
    disk = {"csi": {"driver": "driver.example.com", "volumeHandle": name}, "persistentVolumeReclaimPolicy": "Delete"}
    of = {"claimRef": {"name": name, "namespace": PLANNED}, "capacity": {"storage": "10Gi"}}
    api.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {**spec, **disk, **of}})
    api.create({**claim, "spec": {**spec, "volumeName": name, "resources": {"requests": {"storage": "10Gi"}}}})
    path = f"/api/v1/namespaces/{PLANNED}/persistentvolumeclaims/{name}"
    until(lambda: api.get(path).get("status", {}).get("phase") == "Bound", "the claim is bound")


def prepared(command: str, workload: str, cluster: RealLab, admin: Sources) -> str:
    """What a plan of that command is about, and there for it; its name."""
    api, name = cluster.api, workload or f"{command}-{uuid.uuid4().hex[:8]}"
    if command in ("backup-delete", "restore-rehearsal"):
        make_backup(cluster, name)
    elif command == "expand-volume":
        make_claim(api, name)
    elif command in ("delete", "debug", "drain", "processes", "heap-dump", "delete-files"):
        until(lambda: available(api), "web and db run")
        pod = next(one for one in api.list(f"/api/v1/namespaces/{PLANNED}/pods") if one["metadata"]["labels"]["app"] == "web")
        name = pod["spec"]["nodeName"] if command == "drain" else pod["metadata"]["name"]
        if command == "delete-files":
            admin.kubernetes.execution.run(PLANNED, name, "web", ["sh", "-c", f"echo 1 > {FILE}"])
    elif command in ("cordon", "uncordon", "taint"):
        found = api.list("/api/v1/nodes")
        name = next(one["metadata"]["name"] for one in found if not one["spec"].get("unschedulable"))
        if command == "uncordon":
            api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})
    elif command == "rollback":
        note = {"test.example.com/note": uuid.uuid4().hex}
        api.patch(path_of(name), {"spec": {"template": {"metadata": {"annotations": note}}}})
        until(lambda: _rolled_out(api.get(path_of(name))), "the newer revision is out")
    return name


def path_of(workload: str) -> str:
    kind, _slash, name = workload.partition("/")
    return f"/apis/apps/v1/namespaces/{WORKLOADS[workload]}/{kind}/{name}"


def carried_out(command: str, cluster: RealLab, admin: Sources, sources: Sources, place: Path) -> str:
    """Make a plan, execute it, undo it; the words of whoever refused, and of who could not look, empty where nobody did."""
    tried = TRIED_ON.get(command, ("",))
    return " ".join(_carried_out(command, workload, cluster, admin, sources, place) for workload in tried).strip()


def _carried_out(command: str, workload: str, cluster: RealLab, admin: Sources, sources: Sources, place: Path) -> str:
    name = prepared(command, workload, cluster, admin)
    environment = sources.environment
    sources.check_cluster()
    system, make = PLANNERS[command]
    systems = {
        "kubernetes": KubernetesSystem(sources.kubernetes), "dumps": Dumps(sources.kubernetes, place),
        "files": ContainerFiles(sources.kubernetes),
    }  # fmt: skip
    desk = Desk(environment, place, systems, "test")
    try:
        plan = make(systems[system], environment, name)
        pipeline.file_plan(desk, plan)
        if command == "expand-volume":
            path = f"/api/v1/namespaces/{PLANNED}/persistentvolumeclaims/{name}"
            cluster.api.patch(path, {"status": {"capacity": {"storage": "20Gi"}}}, "merge", subresource="status")
        outcome = pipeline.execute(desk, plan, report=lambda text: _stop_where_refused(str(text)))
        assert outcome.verified is not False, outcome.why
        if any(step.inverse is not None for step in plan.steps):
            pipeline.undo(desk, plan)
    except (Forbidden, _RefusedError) as error:
        return str(error)
    except NoSuchProgram:  # the image has no Java: that was asked for last
        assert command == "heap-dump"
        return ""
    finally:
        if command in ("uncordon", "drain"):
            cluster.api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": False}})
        if command == "scale":
            cluster.api.patch(path_of(name), {"spec": {"replicas": 1}})
    return " ".join(one for one in plan.cautions if "may not" in one)


def _rolled_out(workload: dict[str, Any]) -> bool:
    status = workload.get("status", {})
    updated = status.get("updatedNumberScheduled" if workload["kind"] == "DaemonSet" else "updatedReplicas")
    return bool(status.get("observedGeneration") == workload["metadata"]["generation"] and updated == 1)


class _RefusedError(Exception):
    """What was to be verified could not be looked at."""


def _stop_where_refused(said: str) -> None:
    if "may not" in said:
        raise _RefusedError(said)


@pytest.mark.parametrize("command", PLANNERS)
def test_what_a_plan_asks_for_is_what_its_role_says(
    command: str, planned: RealLab, sources: Callable[[str], Sources], tmp_path: Path
) -> None:
    seen: set[tuple[str, str] | None] = set()
    found = sources("lab")
    with found.watched(lambda exchange: seen.add(asked(exchange))):
        assert carried_out(command, planned, sources("lab"), found, tmp_path / "actions") == ""
    assert seen - {None} == {right.key for right in PLANS[command]} - IN_CONTAINER


@pytest.mark.parametrize("command", PLANNERS)
def test_the_role_of_a_plan_is_enough(
    command: str, planned: RealLab, sources: Callable[[str], Sources], allowed: Callable[[list[Right]], Sources], tmp_path: Path
) -> None:
    assert carried_out(command, planned, sources("lab"), allowed(list(PLANS[command])), tmp_path / "actions") == ""


@pytest.mark.parametrize(
    ("command", "right"),
    [
        pytest.param(name, one, id=f"{name} {one}")
        for name in PLANNERS
        if name not in ("restart", "image", "uncordon", "taint", "processes", "heap-dump")  # as rollback, cordon and delete-files
        for one in PLANS[name]
    ],
)
def test_one_right_less_stops_a_plan_and_is_named(
    command: str,
    right: Right,
    planned: RealLab,
    sources: Callable[[str], Sources],
    allowed: Callable[[list[Right]], Sources],
    tmp_path: Path,
) -> None:
    less = allowed([other for other in PLANS[command] if other != right])
    assert f"may not {right} " in f"{carried_out(command, planned, sources('lab'), less, tmp_path / 'actions')} "


# --- plans for EKS: of the cluster they only look at what they reach ---------------------------------------------------------------------

EKS: dict[str, Callable[[AwsSystem, KubernetesSystem, Environment, str], Plan]] = {
    "node-group": lambda system, cluster, at, group: aws.node_group(system, cluster, at, "test", group),
    "control-plane": lambda system, cluster, at, group: aws.control_plane(system, cluster, at, "test"),
}


@pytest.fixture(scope="module")
def account(planned: RealLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The environment's section for an account with a cluster, one of whose node groups is that of the nodes here."""
    import boto3

    server = lab_aws.serve(lab_aws.Account(durations=lab_aws.Durations(cluster=0, node_group=0, addon=0)))
    region, name = "ap-northeast-1", "planned"
    client = boto3.client("eks", endpoint_url=server.url, region_name=region, aws_access_key_id="lab", aws_secret_access_key="lab")
    role = f"arn:aws:iam::{server.account.account_id}:role/lab-cluster"
    client.create_cluster(name=name, version="1.35", roleArn=role, resourcesVpcConfig={})
    client.create_nodegroup(
        clusterName=name, nodegroupName=group_of(planned), subnets=["subnet-1"], nodeRole=role, version="1.34",
        releaseVersion="1.34.0-20250101",
    )  # fmt: skip
    credentials = tmp_path_factory.mktemp("aws") / "credentials"
    credentials.write_text("[default]\naws_access_key_id = operator\naws_secret_access_key = secret\n")
    yield {"region": region, "endpoint_url": server.url, "credentials_file": str(credentials), "cluster": name}
    server.close()


def group_of(cluster: RealLab) -> str:
    """The node group of the node that the Deployment is on."""
    (pod,) = (one for one in cluster.api.list(f"/api/v1/namespaces/{PLANNED}/pods") if one["metadata"]["labels"]["app"] == "db")
    labels: dict[str, str] = cluster.api.get(f"/api/v1/nodes/{pod['spec']['nodeName']}")["metadata"]["labels"]
    return labels[NODE_GROUP]


def planned_for_eks(command: str, account: dict[str, Any], cluster: RealLab, sources: Sources) -> str:
    """Make a plan; the words of whoever refused, empty where nobody did."""
    environment = Environment.model_validate({"name": "test", "aws": account})
    sources.check_cluster()
    try:
        EKS[command](AwsSystem(Aws.connect(environment)), KubernetesSystem(sources.kubernetes), environment, group_of(cluster))
    except Forbidden as error:
        return str(error)
    return ""


@pytest.mark.parametrize("command", EKS)
def test_what_a_plan_for_eks_asks_of_the_cluster_is_what_its_role_says(
    command: str,
    account: dict[str, Any],
    planned: RealLab,
    sources: Callable[[str], Sources],
    allowed: Callable[[list[Right]], Sources],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    seen: set[tuple[str, str] | None] = set()
    found = sources("lab")
    with found.watched(lambda exchange: seen.add(asked(exchange))):
        assert planned_for_eks(command, account, planned, found) == ""
    assert seen - {None} == {right.key for right in PLANS[command]}
    assert planned_for_eks(command, account, planned, allowed(list(PLANS[command]))) == ""
    for right in PLANS[command]:
        if right.key != OF_EVERY_CHAPTER:  # whether it is the right cluster is then not known, and AWS' own name decides
            less = allowed([other for other in PLANS[command] if other != right])
            assert f"may not {right} " in f"{planned_for_eks(command, account, planned, less)} "


def test_every_plan_that_needs_a_role_is_held_against_it() -> None:
    assert {*PLANNERS, *EKS} == set(PLANS)
