"""The lab's Velero on the API server of each engine: backups that are really copied, and really put back."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.informer import Informer
from opslib.lab.velero import Velero

if TYPE_CHECKING:
    from tests.conftest import RealLab

SHOP = "velero-shop"


class Clock:
    """The wall's time, and as much later as a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Kit:
    """Velero in a cluster, and what the tests do with it."""

    api: Api
    clock: Clock
    velero: Velero
    phases: dict[str, list[str]]
    namespace: str = "velero"

    def path(self, plural: str, name: str = "") -> str:
        return f"/apis/velero.io/v1/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def make(self, kind: str, name: str, spec: Object) -> Object:
        return self.api.create(
            {"apiVersion": "velero.io/v1", "kind": kind, "metadata": {"name": name, "namespace": self.namespace}, "spec": spec}
        )

    def status(self, plural: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(self.path(plural, name)).get("status") or {}
        return found

    def ended(self, plural: str, name: str) -> dict[str, Any]:
        """The status of a backup or restore when it has ended."""
        ends = ("Completed", "PartiallyFailed", "Failed", "FailedValidation")
        soon(lambda: self.status(plural, name).get("phase") in ends, f"{plural} {name} to end")
        return self.status(plural, name)

    def backup(self, name: str, **spec: Any) -> dict[str, Any]:
        self.make("Backup", name, spec)
        return self.ended("backups", name)

    def restore(self, name: str, **spec: Any) -> dict[str, Any]:
        self.make("Restore", name, spec)
        return self.ended("restores", name)

    def download(self, kind: str, name: str) -> Any:
        """What a DownloadRequest brings, decoded."""
        request = f"get-{kind.lower()}-{name}"
        self.make("DownloadRequest", request, {"target": {"kind": kind, "name": name}})
        soon(lambda: "downloadURL" in self.status("downloadrequests", request), "an address to download from")
        with urllib.request.urlopen(self.status("downloadrequests", request)["downloadURL"], timeout=10) as answer:
            content = gzip.decompress(answer.read()).decode()
        return content if kind.endswith("Log") else json.loads(content)

    def gone(self, path: str) -> bool:
        try:
            self.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return True
            raise
        return False


def soon(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what} in vain"
        pause.wait(0.05)


@pytest.fixture(scope="module")
def kit(any_cluster: RealLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    clock = Clock()
    velero = Velero(any_cluster.api, tmp_path_factory.mktemp("store"), now=clock.now, tick_seconds=0.2)
    velero.install()
    velero.install()  # as the next `up` does
    phases: dict[str, list[str]] = {}

    def note(event: str, obj: Object) -> None:
        seen = phases.setdefault(obj["metadata"]["name"], [])
        phase = (obj.get("status") or {}).get("phase", "")
        if not seen or seen[-1] != phase:
            seen.append(phase)

    kit = Kit(any_cluster.api, clock, velero, phases)
    watchers = [Informer(any_cluster.api, kit.path(plural), note) for plural in ("backups", "restores")]
    for watcher in watchers:
        watcher.start()
        assert watcher.synced.wait(20)
    velero.start()
    soon(lambda: kit.status("backupstoragelocations", "default").get("phase") == "Available", "the location")
    try:
        fill(kit.api, SHOP)
        yield kit
    finally:
        velero.close()
        for watcher in watchers:
            watcher.close()


def fill(api: Api, namespace: str) -> None:
    """A small platform in a namespace."""
    labels = {"app": "web"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "registry.example.com/web:1"}]}}
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"team": "shop"}}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings", "labels": labels},
            "data": {"greeting": "いらっしゃいませ"},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}, "stringData": {"key": "s3cret"}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web", "labels": labels}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": labels, "ports": [{"port": 80}]}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "labels": labels},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "web"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "ServiceAccount", "name": "web", "namespace": namespace}],
        },
    ]
    for obj in objects:
        if obj["kind"] != "Namespace":
            obj["metadata"]["namespace"] = namespace
        api.apply(obj)
    soon(lambda: len(api.list(f"/api/v1/namespaces/{namespace}/pods")) == 2, "the pods")


def names(api: Api, path: str) -> set[str]:
    return {one["metadata"]["name"] for one in api.list(path)}


def test_a_backup_is_copied_and_restored_beside_the_original(kit: Kit) -> None:
    status = kit.backup("whole-shop", includedNamespaces=[SHOP])
    assert kit.phases["whole-shop"][-3:] == ["InProgress", "Finalizing", "Completed"]
    assert status["progress"]["itemsBackedUp"] == status["progress"]["totalItems"] >= 9
    assert {"errors", "warnings"} & status.keys() == set()
    start, end = (datetime.fromisoformat(status[name]) for name in ("startTimestamp", "expiration"))
    assert end - start == timedelta(days=30)
    listed = kit.download("BackupResourceList", "whole-shop")
    assert f"{SHOP}/web" in listed["apps/v1/Deployment"]
    assert kit.download("BackupResults", "whole-shop") == {}
    assert "resource=deployments.apps" in kit.download("BackupLog", "whole-shop")

    back = kit.restore("beside", backupName="whole-shop", namespaceMapping={SHOP: "velero-rehearsal"})
    assert kit.phases["beside"][-3:] == ["InProgress", "Finalizing", "Completed"], kit.download("RestoreResults", "beside")
    assert back["progress"]["itemsRestored"] == back["progress"]["totalItems"]
    there = "namespaces/velero-rehearsal"
    settings = kit.api.get(f"/api/v1/{there}/configmaps/settings")
    assert settings["data"] == {"greeting": "いらっしゃいませ"}
    assert settings["metadata"]["labels"] == {"app": "web", "velero.io/backup-name": "whole-shop", "velero.io/restore-name": "beside"}
    assert kit.api.get(f"/api/v1/{there}/secrets/token")["data"] == kit.api.get(f"/api/v1/namespaces/{SHOP}/secrets/token")["data"]
    here_ip, there_ip = (kit.api.get(f"/api/v1/namespaces/{one}/services/web")["spec"]["clusterIP"] for one in (SHOP, "velero-rehearsal"))
    assert here_ip != there_ip
    assert kit.api.get(f"/apis/rbac.authorization.k8s.io/v1/{there}/rolebindings/web")["subjects"][0]["namespace"] == "velero-rehearsal"
    assert kit.api.get("/api/v1/namespaces/velero-rehearsal")["metadata"]["labels"]["team"] == "shop"
    soon(lambda: kit.api.get(f"/apis/apps/v1/{there}/deployments/web").get("status", {}).get("replicas") == 2, "the deployment's pods")


def test_what_was_deleted_comes_back_and_what_has_changed_is_a_warning(kit: Kit) -> None:
    fill(kit.api, "velero-lost")
    assert kit.backup("before-loss", includedNamespaces=["velero-lost"])["phase"] == "Completed"
    kit.api.delete("/api/v1/namespaces/velero-lost/secrets/token")
    kit.api.patch("/api/v1/namespaces/velero-lost/configmaps/settings", {"data": {"greeting": "changed since"}})
    status = kit.restore("after-loss", backupName="before-loss")
    assert (status["phase"], status["warnings"]) == ("Completed", 1)
    assert not kit.gone("/api/v1/namespaces/velero-lost/secrets/token")
    warnings = kit.download("RestoreResults", "after-loss")["warnings"]["namespaces"]["velero-lost"]
    assert len(warnings) == 1
    assert "'settings' already exists" in warnings[0]
    kit.restore("after-loss-2", backupName="before-loss", existingResourcePolicy="update")
    assert kit.api.get("/api/v1/namespaces/velero-lost/configmaps/settings")["data"]["greeting"] == "いらっしゃいませ"


def test_a_backup_takes_what_its_spec_names(kit: Kit) -> None:
    kit.backup("only-labelled", includedNamespaces=[SHOP], labelSelector={"matchLabels": {"app": "web"}}, excludedResources=["pods"])
    found = kit.download("BackupResourceList", "only-labelled")
    assert found["v1/ConfigMap"] == [f"{SHOP}/settings"]
    assert found["apps/v1/Deployment"] == [f"{SHOP}/web"]
    assert {"v1/Secret", "v1/Pod", "v1/Service"} & found.keys() == set()
    kit.backup("only-secrets", includedNamespaces=[SHOP], includedResources=["secrets"])
    assert kit.download("BackupResourceList", "only-secrets").keys() == {"v1/Namespace", "v1/Secret"}
    kit.backup("everything")
    everything = kit.download("BackupResourceList", "everything")
    assert "system:node" in everything["rbac.authorization.k8s.io/v1/ClusterRole"]
    assert "kube-system" in everything["v1/Namespace"]
    narrow = kit.restore(
        "narrow",
        backupName="everything",
        includedNamespaces=[SHOP],
        includedResources=["configmaps"],
        namespaceMapping={SHOP: "velero-narrow"},
    )
    assert narrow["phase"] == "Completed"
    assert "settings" in names(kit.api, "/api/v1/namespaces/velero-narrow/configmaps")
    assert kit.api.list("/apis/apps/v1/namespaces/velero-narrow/deployments") == []


def test_what_cannot_begin_says_why(kit: Kit) -> None:
    refused = kit.backup("nowhere", storageLocation="no-such-place")
    assert refused["phase"] == "FailedValidation"
    assert "no-such-place" in refused["validationErrors"][0]
    assert "startTimestamp" not in refused
    assert kit.backup("contrary", includedNamespaces=[SHOP], excludedNamespaces=[SHOP])["phase"] == "FailedValidation"
    missing = kit.restore("of-nothing", backupName="never-made")
    assert missing["validationErrors"] == ['Error retrieving backup: backup.velero.io "never-made" not found']
    assert "not both" in kit.restore("of-two", backupName="a", scheduleName="b")["validationErrors"][0]
    assert "FailedValidation" in kit.restore("of-failed", backupName="contrary")["validationErrors"][0]


def test_a_claim_without_its_volume_leaves_a_backup_partial(kit: Kit) -> None:
    kit.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "velero-claims", "labels": {"team": "shop"}}})
    kit.api.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": "velero-claims"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
                "volumeName": "gone",
                "storageClassName": "",
            },
        }
    )
    status = kit.backup("without-volume", includedNamespaces=["velero-claims"])
    assert (status["phase"], status["errors"]) == ("PartiallyFailed", 1)
    assert kit.phases["without-volume"][-3:] == ["WaitingForPluginOperations", "FinalizingPartiallyFailed", "PartiallyFailed"]
    errors = kit.download("BackupResults", "without-volume")["errors"]["namespaces"]["velero-claims"]
    assert '"gone" not found' in errors[0]


def test_a_store_that_cannot_be_written_fails_the_backup(kit: Kit) -> None:
    bucket = kit.velero.folder / "broken"
    bucket.mkdir()
    (bucket / "backups").write_text("a file, where a folder is needed")
    kit.make("BackupStorageLocation", "broken", {"provider": "aws", "objectStorage": {"bucket": "broken"}})
    soon(lambda: kit.status("backupstoragelocations", "broken").get("phase") == "Available", "the location")
    status = kit.backup("unwritable", includedNamespaces=[SHOP], storageLocation="broken")
    assert status["phase"] == "Failed"
    assert status["failureReason"].startswith("error uploading backup")


def test_a_location_is_as_available_as_its_bucket(kit: Kit) -> None:
    kit.make("BackupStorageLocation", "second", {"provider": "aws", "objectStorage": {"bucket": "second", "prefix": "lab"}})
    soon(lambda: kit.status("backupstoragelocations", "second").get("phase") == "Unavailable", "the location to be unavailable")
    assert "NoSuchBucket" in kit.status("backupstoragelocations", "second")["message"]
    assert "Unavailable" in kit.backup("too-early", includedNamespaces=[SHOP], storageLocation="second")["validationErrors"][0]
    kit.make("BackupStorageLocation", "outside", {"provider": "aws", "objectStorage": {"bucket": "second", "prefix": "../../elsewhere"}})
    (kit.velero.folder / "second").mkdir()
    soon(lambda: "not valid" in kit.status("backupstoragelocations", "outside").get("message", ""), "the location to be refused")
    soon(lambda: kit.status("backupstoragelocations", "second").get("phase") == "Available", "the location to be available")
    assert "message" not in kit.status("backupstoragelocations", "second")
    assert kit.backup("in-time", includedNamespaces=[SHOP], storageLocation="second")["phase"] == "Completed"
    assert (kit.velero.folder / "second" / "lab" / "backups" / "in-time" / "velero-backup.json").is_file()


def test_a_schedule_makes_backups_when_due_and_not_while_paused(kit: Kit) -> None:
    kit.make("Schedule", "six-hourly", {"schedule": "@every 6h", "template": {"includedNamespaces": [SHOP], "ttl": "200h0m0s"}})
    kit.make("Schedule", "asleep", {"schedule": "@every 6h", "paused": True, "template": {"includedNamespaces": [SHOP]}})
    kit.make("Schedule", "unreadable", {"schedule": "at noon", "template": {}})
    soon(lambda: kit.status("schedules", "six-hourly").get("phase") == "Enabled", "the schedule to be accepted")
    soon(lambda: kit.status("schedules", "unreadable").get("phase") == "FailedValidation", "the schedule to be refused")
    assert "invalid schedule" in kit.status("schedules", "unreadable")["validationErrors"][0]

    def made(schedule: str) -> list[str]:
        return sorted(names_with(kit, f"velero.io/schedule-name={schedule}"))

    assert made("six-hourly") == []
    for count in (1, 2):
        kit.clock.ahead += timedelta(hours=6, minutes=1)
        soon(lambda count=count: len(made("six-hourly")) == count, "a backup of the schedule")  # type: ignore[misc]
        name = made("six-hourly")[-1]
        assert name.removeprefix("six-hourly-")[:8] == kit.clock.now().strftime("%Y%m%d")
        assert kit.ended("backups", name)["phase"] == "Completed"
    assert made("asleep") == []
    kit.restore("from-schedule", scheduleName="six-hourly", namespaceMapping={SHOP: "velero-scheduled"})
    assert kit.api.get(kit.path("restores", "from-schedule"))["spec"]["backupName"] == made("six-hourly")[-1]
    for name in ("six-hourly", "asleep", "unreadable"):
        kit.api.delete(kit.path("schedules", name))


def names_with(kit: Kit, labels: str) -> set[str]:
    return {one["metadata"]["name"] for one in kit.api.list(kit.path("backups"), labels=labels)}


def test_an_expired_backup_goes_with_its_files_and_restores(kit: Kit) -> None:
    kit.backup("short-lived", includedNamespaces=[SHOP], ttl="1h0m0s")
    kit.restore("of-short-lived", backupName="short-lived", namespaceMapping={SHOP: "velero-short"})
    files = kit.velero.folder / "lab-velero-backups" / "backups" / "short-lived"
    assert files.is_dir()
    kit.clock.ahead += timedelta(minutes=61)
    soon(lambda: kit.gone(kit.path("backups", "short-lived")), "the backup to be removed")
    assert kit.phases["short-lived"][-1] == "Deleting"
    soon(lambda: kit.gone(kit.path("restores", "of-short-lived")), "its restore to be removed")
    assert not files.exists()


def test_a_backup_is_deleted_by_request_and_comes_back_otherwise(kit: Kit) -> None:
    kit.backup("wanted-still", includedNamespaces=[SHOP])
    kit.api.delete(kit.path("backups", "wanted-still"))
    soon(lambda: not kit.gone(kit.path("backups", "wanted-still")), "the backup to be found in the store again")
    assert kit.status("backups", "wanted-still")["phase"] == "Completed"
    kit.make("DeleteBackupRequest", "away-with-it", {"backupName": "wanted-still"})
    soon(lambda: kit.gone(kit.path("backups", "wanted-still")), "the backup to be removed")
    soon(lambda: kit.gone(kit.path("deletebackuprequests", "away-with-it")), "the request to go with it")
    kit.make("DeleteBackupRequest", "of-nothing", {"backupName": "never-made"})
    soon(lambda: kit.status("deletebackuprequests", "of-nothing").get("phase") == "Processed", "the request to be answered")
    assert kit.status("deletebackuprequests", "of-nothing")["errors"] == ["backup not found"]


def test_a_server_that_ends_half_way_marks_its_backup_as_failed_at_the_next_start(kit: Kit, tmp_path: Path) -> None:
    slow = Velero(kit.api, tmp_path, namespace="velero-slow", seconds_an_item=30)
    slow.install()
    slow.start()
    own = Kit(kit.api, kit.clock, slow, {}, namespace="velero-slow")
    soon(lambda: own.status("backupstoragelocations", "default").get("phase") == "Available", "the location")
    own.make("Backup", "cut-off", {"includedNamespaces": [SHOP]})
    soon(lambda: own.status("backups", "cut-off").get("progress", {}).get("itemsBackedUp") == 1, "the first item")
    assert own.status("backups", "cut-off")["phase"] == "InProgress"
    slow.close()
    again = Velero(kit.api, tmp_path, namespace="velero-slow")
    again.start()
    try:
        status = own.ended("backups", "cut-off")
        assert status["phase"] == "Failed"
        assert "during the server starting" in status["failureReason"]
        assert own.backup("anew", includedNamespaces=[SHOP])["phase"] == "Completed"
    finally:
        again.close()


def test_it_runs_by_itself(kit: Kit, any_cluster: RealLab, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "opslib.lab.velero", str(any_cluster.kubeconfig), str(tmp_path), "--namespace", "velero-process"]
    process = subprocess.Popen(command)
    own = Kit(kit.api, kit.clock, kit.velero, {}, namespace="velero-process")
    try:
        soon(lambda: not own.gone(own.path("backupstoragelocations", "default")), "the location to be there")
        soon(lambda: own.status("backupstoragelocations", "default").get("phase") == "Available", "the location")
        assert own.backup("by-a-process", includedNamespaces=[SHOP], includedResources=["configmaps"])["phase"] == "Completed"
        assert (tmp_path / "lab-velero-backups" / "backups" / "by-a-process" / "velero-backup.json").is_file()
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_the_server_tells_its_version(kit: Kit) -> None:
    kit.make("ServerStatusRequest", "who", {})
    soon(lambda: kit.status("serverstatusrequests", "who").get("phase") == "Processed", "an answer")
    assert kit.status("serverstatusrequests", "who")["serverVersion"].startswith("v1.")


def test_kubectl_shows_the_kinds(kit: Kit, any_cluster: RealLab) -> None:
    kit.backup("shown", includedNamespaces=[SHOP], includedResources=["configmaps"])
    head, *rows = any_cluster.kubectl("-n", "velero", "get", "backups.velero.io").splitlines()
    assert head.split()[:2] == ["NAME", "PHASE"]
    assert any(row.split()[:2] == ["shown", "Completed"] for row in rows)
    assert "Available" in any_cluster.kubectl("-n", "velero", "get", "bsl")
