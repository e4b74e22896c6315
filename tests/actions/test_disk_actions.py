"""Files deleted by a reviewed list, and volumes expanded, by plans on a cluster; the storage driver is played by the tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from opslib.actions import pipeline
from opslib.actions.files import ContainerFiles, delete_files
from opslib.actions.pipeline import Desk
from opslib.actions.plans import Plan
from opslib.actions.volumes import expand
from opslib.errors import InputError, NotFound, SourceError
from opslib.facts.disk import inside, kubelets
from opslib.messages import text_of
from opslib.sources.execution import NoSuchProgram
from opslib.sources.kubernetes import Kubernetes
from tests.actions.conftest import Place
from tests.conftest import RealLab

GIB = 2**30


# --- files ------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Files:
    """A pod that runs, with files in /data, and who deletes them."""

    place: Place
    desk: Desk
    system: ContainerFiles
    pod: str

    def run(self, *words: str) -> str:
        result = self.system.cluster.execution.run(self.place.namespace, self.pod, "web", words)
        assert result.exit_status == 0, result.stderr
        return result.stdout.decode()

    def write(self, path: str, text: str) -> None:
        self.run("sh", "-c", f"echo {text} > {path}")

    def plan(self, *files: str, folder: str = "/data", container: str = "", empty: bool = False) -> Plan:
        environment, who = self.desk.environment, self.desk.who
        plan = delete_files(self.system, environment, who, self.pod, files, self.place.namespace, folder, container, empty=empty)
        pipeline.file_plan(self.desk, plan)
        return plan

    def left(self) -> list[str]:
        return self.run("ls", "/data").split()


@pytest.fixture
def files(place: Place) -> Files:
    desk = place.desk()
    system = ContainerFiles(place.system(desk).cluster)
    found = Files(place, Desk(desk.environment, desk.place, {"files": system}, desk.who), system, place.pods()[0]["metadata"]["name"])
    for name in ("a.log", "b.log", "kept.log"):
        found.write(f"/data/{name}", name)
    return found


def test_just_the_files_of_the_list_are_deleted(files: Files) -> None:
    plan = files.plan("/data/a.log", "/data/b.log")
    assert plan.action == "exec"
    assert [step.final for step in plan.steps] == [True, True]
    assert "/data/a.log  6 B" in plan.steps[0].difference
    assert files.left() == ["a.log", "b.log", "kept.log"]  # planning changes nothing
    outcome = pipeline.rehearse(files.desk, plan)
    assert len(outcome.previews) == 2
    assert files.left() == ["a.log", "b.log", "kept.log"]
    assert pipeline.execute(files.desk, plan).verified
    assert files.left() == ["kept.log"]
    with pytest.raises(InputError, match="cannot be taken back"):
        pipeline.undo(files.desk, plan)


def test_a_file_that_was_changed_since_is_left(files: Files) -> None:
    plan = files.plan("/data/a.log", "/data/b.log")
    files.write("/data/b.log", "somebody-has-written-more")
    with pytest.raises(SourceError, match="not as it was"):
        pipeline.execute(files.desk, plan)
    assert files.left() == ["a.log", "b.log", "kept.log"]  # not even the other


def test_the_same_list_has_the_same_mark(files: Files) -> None:
    def mark(plan: Plan) -> str:
        return plan.title.rpartition(" ")[2]

    first = files.plan("/data/a.log", "/data/b.log")
    assert mark(first) == mark(files.plan("/data/b.log", "/data/a.log"))
    assert mark(first) != mark(files.plan("/data/a.log"))


def test_a_log_is_emptied_and_stays(files: Files) -> None:
    plan = files.plan("/data/a.log", empty=True)
    files.write("/data/a.log", "it-is-written-all-the-time")  # which is no reason to refuse
    pipeline.execute(files.desk, plan)
    assert files.left() == ["a.log", "b.log", "kept.log"]
    assert files.run("cat", "/data/a.log") == ""
    assert files.run("cat", "/data/b.log") == "b.log\n"


NO_FILES = (
    ("/data/*.log", "/data", "is a pattern"),
    ("/data/[a].log", "/data", "is a pattern"),
    ("/data/../etc/passwd", "/data", "without detours"),
    ("data/a.log", "/data", "without detours"),
    ("/data/a.log/", "/data", "without detours"),
    ("/elsewhere/a.log", "/data", "is not in /data"),
    ("/data", "/data", "is not in /data"),
    ("/data-old/a.log", "/data", "is not in /data"),
    ("/data/a\nb.log", "/data", "cannot be shown"),
    ("/data/a\u202e.log", "/data", "cannot be shown"),
    ("/etc/hosts", "/etc", "Nothing is deleted in /etc"),
    ("/data/a.log", "/", "Nothing is deleted in /"),
    ("/usr/lib/a", "/usr/lib", "Nothing is deleted in /usr/lib"),
    ("/data/a.log", "/data/", "no whole path of a folder"),
    ("/data/gone.log", "/data", "There is no file"),
)


def test_what_is_not_certainly_one_file_is_refused(files: Files) -> None:
    for file, folder, reason in NO_FILES:
        with pytest.raises(InputError, match=reason):
            files.plan(file, folder=folder)
    assert files.left() == ["a.log", "b.log", "kept.log"]


def test_a_folder_is_no_file(files: Files) -> None:
    files.write("/data/deep/x.log", "x")
    with pytest.raises(InputError, match="is no file"):
        files.plan("/data/deep")


def test_nothing_and_too_much_are_refused(files: Files) -> None:
    with pytest.raises(InputError, match="Name the files"):
        files.plan()
    with pytest.raises(InputError, match="more than one plan"):
        files.plan(*(f"/data/{number}" for number in range(101)))
    with pytest.raises(InputError, match="has no container"):
        files.plan("/data/a.log", container="other")


def test_the_data_of_a_database_is_warned_of(files: Files) -> None:
    files.write("/data/pg_wal/000001", "x")
    assert any("database" in one for one in files.plan("/data/pg_wal/000001").cautions)
    assert not any("database" in one for one in files.plan("/data/a.log").cautions)


def test_a_pod_that_was_replaced_is_another(files: Files) -> None:
    """Its files are gone with it: nothing is done in the pod that took its place, or in none."""
    plan = files.plan("/data/a.log")
    files.place.lab.api.delete(f"/api/v1/namespaces/{files.place.namespace}/pods/{files.pod}")
    files.place.until(lambda: files.pod not in [one["metadata"]["name"] for one in files.place.pods()], "the pod is gone")
    with pytest.raises(SourceError, match="not as it was"):
        pipeline.execute(files.desk, plan)


def test_an_execution_that_was_cut_off_goes_on(files: Files) -> None:
    """Killed after the first file was gone, and before that was noted."""
    plan = files.plan("/data/a.log", "/data/b.log")
    files.desk.log.append("started", plan.id, files.desk.who, approver="")
    files.desk.log.append("step.begins", plan.id, files.desk.who, step=0, what=plan.steps[0].what)
    files.run("rm", "/data/a.log")
    assert pipeline.execute(files.desk, plan).verified
    assert files.left() == ["kept.log"]
    with pytest.raises(InputError, match="has been executed"):
        pipeline.execute(files.desk, plan)


def test_production_wants_an_approval(files: Files) -> None:
    rules = {"required_for": ["exec"], "approvers": ["sakura", "yuki"]}
    environment = files.place.environment(approval=rules)
    files.desk = Desk(environment, files.desk.place, files.desk.systems, files.desk.who)
    plan = files.plan("/data/a.log")
    with pytest.raises(InputError, match="needs an approval"):
        pipeline.execute(files.desk, plan)
    assert "a.log" in files.left()
    pipeline.approve(Desk(environment, files.desk.place, files.desk.systems, "sakura"), plan)
    assert pipeline.execute(files.desk, plan).verified


# --- commands in containers ---------------------------------------------------------------------------------------------------------------


def test_commands_run_in_a_container_and_folders_are_measured(files: Files) -> None:
    execution = files.system.cluster.execution
    where = (files.place.namespace, files.pod, "web")
    result = execution.run(*where, ["sh", "-c", "echo out; echo wrong >&2; exit 3"])
    assert (result.stdout, result.stderr, result.exit_status) == (b"out\n", b"wrong\n", 3)
    with pytest.raises(NoSuchProgram, match="no program nonsense"):
        execution.run(*where, ["nonsense"])
    with pytest.raises(SourceError):
        execution.run(files.place.namespace, "no-such-pod", "web", ["true"])
    found = inside.folders(execution, (*where, "/data", ""), 2)
    assert found.total is not None
    assert found.used is not None


# --- volumes ------------------------------------------------------------------------------------------------------------------------------


@dataclass
class Volume:
    """A claim of 10 GiB with a volume, and who expands it."""

    place: Place
    desk: Desk

    @property
    def cluster(self) -> Kubernetes:
        return self.place.system(self.desk).cluster

    def plan(self, size: str, claim: str = "data-web-0") -> Plan:
        plan = expand(self.place.system(self.desk), self.desk.environment, self.desk.who, claim, self.place.namespace, size)
        # nobody waits here for a provider
        plan = plan.model_copy(update={"verify": [one.model_copy(update={"deadline_seconds": 0.5}) for one in plan.verify]})
        pipeline.file_plan(self.desk, plan)
        return plan

    def path(self, claim: str = "data-web-0") -> str:
        return f"/api/v1/namespaces/{self.place.namespace}/persistentvolumeclaims/{claim}"

    def is_bound(self, claim: str) -> bool:
        return bool(self.place.lab.api.get(self.path(claim)).get("status", {}).get("phase") == "Bound")

    def claim(self) -> dict[str, Any]:
        return self.place.lab.api.get(self.path())

    def says(self, **status: Any) -> None:
        """What the storage driver writes."""
        self.place.lab.api.patch(self.path(), {"status": status}, "merge", subresource="status")


@pytest.fixture
def volume(place: Place) -> Iterator[Volume]:
    api, namespace = place.lab.api, place.namespace
    classes = {"grows": True, "stays": False}
    for name, allowed in classes.items():
        kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": f"{namespace}-{name}"}}
        api.create({**kind, "provisioner": "driver.example.com", "allowVolumeExpansion": allowed})
    for claim, kind_name in (("data-web-0", "grows"), ("fixed", "stays"), ("unbound", "grows")):
        spec: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": f"{namespace}-{kind_name}",
            "resources": {"requests": {"storage": "10Gi"}},
        }
        if claim != "unbound":
            spec["volumeName"] = f"{namespace}-{claim}"
            of = {"name": claim, "namespace": namespace, "apiVersion": "v1", "kind": "PersistentVolumeClaim"}
            disk = {"driver": "driver.example.com", "volumeHandle": f"{namespace}-{claim}"}
            api.create(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": spec["volumeName"]},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "10Gi"}, "claimRef": of, "csi": disk,
                        "storageClassName": spec["storageClassName"], "persistentVolumeReclaimPolicy": "Delete",
                    },
                }
            )  # fmt: skip
        metadata = {"name": claim, "namespace": namespace}
        api.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    found = Volume(place, place.desk())
    for claim in ("data-web-0", "fixed"):
        place.until(functools.partial(found.is_bound, claim), f"{claim} is bound")
    yield found
    for name in classes:
        api.delete(f"/apis/storage.k8s.io/v1/storageclasses/{namespace}-{name}")
    for claim in ("data-web-0", "fixed"):
        api.delete(f"/api/v1/persistentvolumes/{namespace}-{claim}")


def test_a_volume_is_expanded_and_followed(volume: Volume) -> None:
    plan = volume.plan("20Gi")
    assert plan.action == "scale"
    assert volume.claim()["spec"]["resources"]["requests"]["storage"] == "10Gi"
    outcome = pipeline.execute(volume.desk, plan)
    assert volume.claim()["spec"]["resources"]["requests"]["storage"] == "20Gi"
    assert outcome.verified is False  # the driver has done nothing yet
    [condition] = plan.verify
    system = volume.place.system(volume.desk)
    volume.says(conditions=[{"type": "FileSystemResizePending", "status": "True"}], capacity={"storage": "10Gi"})
    held, why = system.holds(condition.question)
    assert held is False
    assert "running pod" in str(why)
    volume.says(conditions=[], capacity={"storage": "21Gi"})  # drivers round up
    assert system.holds(condition.question)[0] is True
    with pytest.raises(InputError, match="cannot be taken back"):
        pipeline.undo(volume.desk, plan)


def test_what_the_driver_cannot_do_is_not_waited_for(volume: Volume) -> None:
    plan = volume.plan("20Gi")
    pipeline.execute(volume.desk, plan)
    system = volume.place.system(volume.desk)
    question = plan.verify[0].question
    volume.says(conditions=[{"type": "ControllerResizeError", "status": "True", "message": "quota exceeded"}])
    held, why = system.holds(question)
    assert (held, "quota exceeded" in str(why)) == (False, True)
    volume.says(conditions=[], allocatedResourceStatuses={"storage": "ControllerResizeInfeasible"})
    assert system.holds(question)[0] is None


def test_by_how_much_more(volume: Volume) -> None:
    plan = volume.plan("+5Gi")
    assert plan.steps[0].request["body"] == {"spec": {"resources": {"requests": {"storage": "15Gi"}}}}


CANNOT_GROW = (
    ("data-web-0", "5Gi", "cannot be made smaller"),
    ("data-web-0", "10Gi", "has 10Gi already"),
    ("data-web-0", "20 gigabytes", "is no size"),
    ("data-web-0", "-5Gi", "is no size"),
    ("data-web-0", "20", "is no size"),
    ("fixed", "20Gi", "does not allow to expand"),
    ("unbound", "20Gi", "has no volume"),
    ("none", "20Gi", "There is no pvc/none"),
)


def test_what_cannot_be_expanded_is_refused_before_anything_is_asked_for(volume: Volume) -> None:
    for claim, size, reason in CANNOT_GROW:
        with pytest.raises(InputError, match=reason):
            volume.plan(size, claim)


def test_an_expansion_on_its_way_is_not_asked_for_again(volume: Volume) -> None:
    pipeline.execute(volume.desk, volume.plan("20Gi"))
    with pytest.raises(InputError, match="is being expanded already"):
        volume.plan("30Gi")


def test_the_template_of_a_stateful_set_is_said_to_keep_its_size(volume: Volume) -> None:
    labels = {"app": "db"}
    template = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "registry.example.com/web:1"}]}}
    volume.place.lab.api.create(
        {
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": volume.place.namespace},
            "spec": {"serviceName": "web", "replicas": 0, "selector": {"matchLabels": labels}, "template": pod,
                     "volumeClaimTemplates": [template]},
        }
    )  # fmt: skip
    cautions = volume.plan("20Gi").cautions
    assert any("StatefulSet web" in one and "10Gi" in one for one in cautions), text_of(cautions)


def test_a_claim_that_was_changed_since_is_not_changed_again(volume: Volume) -> None:
    plan = volume.plan("20Gi")
    volume.place.lab.api.patch(volume.path(), {"spec": {"resources": {"requests": {"storage": "12Gi"}}}}, "merge")
    with pytest.raises(SourceError, match="not as it was"):
        pipeline.execute(volume.desk, plan)


# --- kubelets -----------------------------------------------------------------------------------------------------------------------------


def test_what_a_kubelet_serves_is_read_through_the_api_server(embedded_cluster: RealLab, tmp_path: Path) -> None:
    """On the embedded engine: a real API server hands nothing on to nodes at this machine's own address."""
    cluster = Kubernetes.connect(Place(embedded_cluster, "default", tmp_path).environment())
    node = embedded_cluster.api.list("/api/v1/nodes")[0]["metadata"]["name"]
    found = kubelets.kubelet(cluster.of_kubelet(node, "configz"), {})
    assert (found.log_max_bytes, found.log_max_files) == (10 * 2**20, 5)
    with pytest.raises(NotFound):
        cluster.of_kubelet(node, "no/such/page")
    with pytest.raises(NotFound):
        cluster.of_kubelet("no-such-node", "configz")
