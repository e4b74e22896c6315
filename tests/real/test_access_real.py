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
from opslib.actions import backups, nodes, pipeline, workloads
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
from opslib.lab import faults, player
from opslib.lab.api import Api
from opslib.lab.installation import MANIFESTS
from opslib.lab.velero import Velero
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
    expected = {right.key for right in RIGHTS[chapter.slug]}
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
        if chapter.slug == "access" or right.key != OF_EVERY_CHAPTER
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
PLANNERS: dict[str, Callable[[KubernetesSystem, Environment, str], Plan]] = {
    "restart": lambda system, environment, name: workloads.restart(
        system, environment, "test", "deployment/web", PLANNED, steady_seconds=0
    ),
    "image": lambda system, environment, name: workloads.image(
        system, environment, "test", "deployment/web", PLANNED, "web", f"registry.example.com/web:{name[-8:]}", steady_seconds=0
    ),
    "rollback": lambda system, environment, name: workloads.rollback(
        system, environment, "test", "deployment/web", PLANNED, steady_seconds=0
    ),
    "cordon": lambda system, environment, name: nodes.cordon(system, environment, "test", name),
    "taint": lambda system, environment, name: nodes.taint(system, environment, "test", name, "test.example.com/maintenance:NoSchedule"),
    "scale": lambda system, environment, name: workloads.scale(system, environment, "test", "deployment/web", PLANNED, 2),
    "delete": lambda system, environment, name: workloads.delete_pods(system, environment, "test", [name], PLANNED),
    "backup": lambda system, environment, name: backups.backup(system, environment, "test", [PLANNED], name=name),
    "backup-schedule": lambda system, environment, name: backups.backup_schedule(
        system, environment, "test", name, "0 3 * * *", [PLANNED]
    ),
    "backup-delete": lambda system, environment, name: backups.backup_delete(system, environment, "test", name),
    "restore-rehearsal": lambda system, environment, name: backups.restore_rehearsal(
        system, environment, "test", name, PLANNED, into=f"{name}-into"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def planned(broken: RealLab) -> RealLab:
    """A Deployment that runs."""
    api = broken.api
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PLANNED}})
    metadata = {"namespace": PLANNED, "name": "web"}
    pod = {"containers": [{"name": "web", "image": "registry.example.com/web:1"}]}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod}}
    api.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    until(lambda: available(api), "web runs")
    return broken


def available(api: Api) -> bool:
    status = api.get(f"/apis/apps/v1/namespaces/{PLANNED}/deployments/web").get("status", {})
    return bool(status.get("availableReplicas"))


def make_backup(cluster: RealLab, name: str) -> None:
    path = "/apis/velero.io/v1/namespaces/velero/backups"
    backup = {"apiVersion": "velero.io/v1", "kind": "Backup", "metadata": {"name": name, "namespace": "velero"}}
    cluster.api.create({**backup, "spec": {"includedNamespaces": [PLANNED]}})
    until(lambda: cluster.api.get(f"{path}/{name}").get("status", {}).get("phase") == "Completed", "the backup is taken")


def carried_out(command: str, cluster: RealLab, sources: Sources, place: Path) -> str:
    """Make a plan, execute it, undo it; the words of whoever refused, empty where nobody did."""
    name = f"{command}-{uuid.uuid4().hex[:8]}"
    if command in ("backup-delete", "restore-rehearsal"):
        make_backup(cluster, name)
    if command == "delete":
        until(lambda: available(cluster.api), "web runs")
        pods = cluster.api.list(f"/api/v1/namespaces/{PLANNED}/pods")
        name = next(one["metadata"]["name"] for one in pods if "deletionTimestamp" not in one["metadata"])
    if command in ("cordon", "taint"):
        found = cluster.api.list("/api/v1/nodes")
        name = next(one["metadata"]["name"] for one in found if not one["spec"].get("unschedulable"))
    if command == "rollback":
        deployment = f"/apis/apps/v1/namespaces/{PLANNED}/deployments/web"
        note = {"metadata": {"annotations": {"test.example.com/note": name}}}
        cluster.api.patch(deployment, {"spec": {"template": note}})
        until(lambda: _rolled_out(cluster.api.get(deployment)), "the newer revision is out")
    environment = sources.environment
    try:
        desk = Desk(environment, place, {"kubernetes": KubernetesSystem(sources.kubernetes)}, "test")
        plan = PLANNERS[command](desk.systems["kubernetes"], environment, name)  # type: ignore[arg-type]
        pipeline.file_plan(desk, plan)
        outcome = pipeline.execute(desk, plan, report=lambda text: _stop_where_refused(str(text)))
        assert outcome.verified is not False, outcome.why
        if plan.steps[0].inverse is not None:
            pipeline.undo(desk, plan)
    except (Forbidden, _RefusedError) as error:
        return str(error)
    return ""


def _rolled_out(deployment: dict[str, Any]) -> bool:
    status = deployment.get("status", {})
    return bool(status.get("observedGeneration") == deployment["metadata"]["generation"] and status.get("updatedReplicas") == 1)


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
        assert carried_out(command, planned, found, tmp_path / "actions") == ""
    assert seen - {None} == {right.key for right in PLANS[command]}


@pytest.mark.parametrize("command", PLANNERS)
def test_the_role_of_a_plan_is_enough(command: str, planned: RealLab, allowed: Callable[[list[Right]], Sources], tmp_path: Path) -> None:
    assert carried_out(command, planned, allowed(list(PLANS[command])), tmp_path / "actions") == ""


@pytest.mark.parametrize(
    ("command", "right"),
    [pytest.param(name, one, id=f"{name} {one}") for name in ("scale", "backup-delete", "restore-rehearsal") for one in PLANS[name]],
)
def test_one_right_less_stops_a_plan_and_is_named(
    command: str, right: Right, planned: RealLab, allowed: Callable[[list[Right]], Sources], tmp_path: Path
) -> None:
    less = allowed([other for other in PLANS[command] if other != right])
    assert f"may not {right} " in f"{carried_out(command, planned, less, tmp_path / 'actions')} "
