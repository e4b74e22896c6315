"""Long-running commands on a terminal: Ctrl-C leaves nothing half done, ends with 130, and what is shown says how to go on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
import yaml

from opslib.actions.audit import log_in
from opslib.lab import engines
from opslib.lab.velero import Velero
from tests.terminal import terminal
from tests.waiting import until

if TYPE_CHECKING:
    from tests.conftest import RealLab

BACKUPS = "/apis/velero.io/v1/namespaces/velero/backups"


class Paused:
    """Velero in a cluster that is told when to work."""

    def __init__(self, lab: RealLab, folder: Path) -> None:
        self.lab, self._folder = lab, folder
        self._velero = self._new()
        self._velero.install()

    def _new(self) -> Velero:
        return Velero(self.lab.api, self._folder, tick_seconds=0.2)

    def work(self) -> None:
        self._velero = self._new()
        self._velero.start()

    def rest(self) -> None:
        self._velero.close()

    def phase(self, name: str) -> str:
        return str(self.lab.api.get(f"{BACKUPS}/{name}").get("status", {}).get("phase", "New"))


@pytest.fixture
def velero(any_cluster: RealLab, tmp_path: Path) -> Iterator[Paused]:
    """With a storage location that is available, and at rest."""
    found = Paused(any_cluster, tmp_path / "store")
    location = "/apis/velero.io/v1/namespaces/velero/backupstoragelocations/default"
    found.work()
    until(lambda: any_cluster.api.get(location).get("status", {}).get("phase") == "Available", "the location is available")
    found.rest()
    yield found
    found.rest()


@pytest.fixture
def environment(any_cluster: RealLab, tmp_path: Path) -> str:
    kubernetes = {"kubeconfig": str(any_cluster.kubeconfig), "context": "lab"}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"name": "mine", "title": "test", "timezone": "UTC", "kubernetes": kubernetes}), "utf-8")
    return str(file)


def test_following_a_backup_stops_and_goes_on(velero: Paused, environment: str) -> None:
    name = f"followed-{uuid.uuid4().hex[:8]}"
    metadata = {"name": name, "namespace": "velero"}
    spec = {"includedNamespaces": ["velero"]}
    velero.lab.api.create({"apiVersion": "velero.io/v1", "kind": "Backup", "metadata": metadata, "spec": spec})
    words = ("backup", "follow", name, "--env", environment, "--every", "0.1")
    with terminal(*words) as screen:
        screen.wait_for("New")
        screen.interrupt()
        assert screen.ended() == 130
    assert f"opslib backup follow {name} --env {environment}" in screen.screen
    assert "Traceback" not in screen.screen
    assert velero.phase(name) == "New", "following changes nothing"
    with terminal(*words) as screen:
        screen.wait_for("New")
        velero.work()
        assert screen.ended() == 0
    assert "100%" in screen.screen and "Completed" in screen.screen
    assert "\r" in screen.screen.partition("Completed")[0], "one line that changes"


def test_an_execution_that_is_interrupted_goes_on_and_is_not_done_twice(velero: Paused, environment: str, tmp_path: Path) -> None:
    name = f"executed-{uuid.uuid4().hex[:8]}"
    place = ("--env", environment, "--outputs", str(tmp_path / "outputs"))
    with terminal("plan", "backup", "-n", "velero", "--name", name, *place) as screen:
        assert screen.ended() == 0
    plan = screen.screen.split()[0]
    words = ("execute", plan, "--no-dry-run", *place)
    with terminal(*words) as screen:
        screen.wait_for("so far")
        screen.interrupt()
        assert screen.ended() == 130
    assert f"opslib execute {plan} --env {environment} --no-dry-run" in screen.screen
    assert "Traceback" not in screen.screen
    velero.work()
    with terminal(*words) as screen:
        assert screen.ended() == 0
    assert "Done and verified" in screen.screen
    assert [one["metadata"]["name"] for one in velero.lab.api.list(BACKUPS)].count(name) == 1
    records, broken = log_in(tmp_path / "outputs" / "actions" / "mine").verify()
    assert broken is None
    assert [one.event for one in records if one.event.startswith("step")] == ["step.begins", "step.done"]


def test_an_undo_that_is_interrupted_goes_on(velero: Paused, environment: str, tmp_path: Path) -> None:
    """It waits for the restore that it takes back: nothing may be put back after it."""
    name = f"undone-{uuid.uuid4().hex[:8]}"
    place = ("--env", environment, "--outputs", str(tmp_path / "outputs"))
    velero.work()
    velero.lab.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    for words in (("backup", "-n", name, "--name", name), ("restore-rehearsal", name, "-n", name, "--into", f"{name}-into")):
        with terminal("plan", *words, *place) as screen:
            assert screen.ended() == 0, screen.screen
        plan = screen.screen.split()[0]
        if words[0] == "backup":
            with terminal("execute", plan, "--no-dry-run", *place) as screen:
                assert screen.ended() == 0, screen.screen
    velero.rest()
    with terminal("execute", plan, "--no-dry-run", *place) as screen:
        screen.wait_for("so far")
        screen.interrupt()
        assert screen.ended() == 130
    with terminal("undo", plan, *place) as screen:
        screen.wait_for("so far")
        screen.interrupt()
        assert screen.ended() == 130
    assert f"opslib undo {plan} --env {environment}" in screen.screen
    velero.work()
    with terminal("undo", plan, *place) as screen:
        assert screen.ended() == 0, screen.screen
    spaces = [one for one in velero.lab.api.list("/api/v1/namespaces") if one["metadata"]["name"] == f"{name}-into"]
    assert all("deletionTimestamp" in one["metadata"] for one in spaces)
    velero.lab.api.delete(f"/api/v1/namespaces/{name}")


# --- a snapshot that takes its time -----------------------------------------------------------------------------------------------------


def send(address: str, method: str, path: str, body: Any = None) -> Any:
    content = body if isinstance(body, str) else None if body is None else json.dumps(body)
    answer = urllib3.request(method, f"{address}{path}", body=content, headers={"content-type": "application/json"}, timeout=60)
    assert answer.status < 300, answer.data
    return answer.json()


@pytest.mark.real
def test_following_a_snapshot_shows_how_far_it_is(need_servers: Any, tmp_path: Path) -> None:
    need_servers("opensearch")
    lab = engines.up(tmp_path / "lab", engine="real", parts=("elasticsearch",), platform=False)
    try:
        address = lab.addresses["elasticsearch"]
        location = str(tmp_path / "lab" / "data" / "snapshots" / "slow")
        send(address, "PUT", "/_snapshot/slow", {"type": "fs", "settings": {"location": location, "max_snapshot_bytes_per_sec": "50kb"}})
        for number, count in enumerate((50, 150, 400, 800)):  # so that one is done before the other
            lines = [json.dumps(one) for _each in range(count) for one in ({"index": {}}, {"text": uuid.uuid4().hex * 32})]
            send(address, "POST", f"/orders-{number}/_bulk?refresh=true", "\n".join(lines) + "\n")
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump({"name": "mine", "title": "test", "timezone": "UTC", "elasticsearch": {"url": address}}), "utf-8")
        send(address, "PUT", "/_snapshot/slow/taken", {"indices": "orders-*"})
        words = ("backup", "follow", "taken", "--repository", "slow", "--env", str(file), "--every", "0.1")
        with terminal(*words) as screen:
            screen.wait_for("IN_PROGRESS", times=2)
            screen.interrupt()
            assert screen.ended() == 130
        assert not any("100%" in line for line in screen.screen.split("\r") if "IN_PROGRESS" in line)
        assert f"opslib backup follow taken --repository slow --env {file}" in screen.screen
        with terminal(*words) as screen:
            assert screen.ended() == 0
        shown = [line for line in screen.screen.split("\r") if "%" in line]
        assert "SUCCESS" in shown[-1] and "4/4" in shown[-1]
    finally:
        engines.down(tmp_path / "lab")
