"""Backups and snapshots taken, and rehearsed, by plans: with the lab's Velero on an API server, and on an Elasticsearch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3

from opslib.actions import backups, pipeline
from opslib.actions.elasticsearch import ElasticsearchSystem
from opslib.actions.pipeline import Desk
from opslib.environments import Environment
from opslib.errors import InputError
from opslib.lab import engines
from opslib.lab.velero import Velero
from opslib.sources.elasticsearch import Elasticsearch
from tests.actions.conftest import Place
from tests.conftest import RealLab


@pytest.fixture
def velero(any_cluster: RealLab, tmp_path: Path) -> Iterator[Velero]:
    """Velero in the cluster, for one test."""
    found = Velero(any_cluster.api, tmp_path / "store", tick_seconds=0.2)
    found.install()
    found.start()
    yield found
    found.close()


def test_a_backup_and_its_rehearsal(place: Place, velero: Velero) -> None:
    desk = place.desk()
    system = place.system(desk)
    plan = backups.backup(system, desk.environment, desk.who, [place.namespace])
    pipeline.file_plan(desk, plan)
    assert pipeline.execute(desk, plan).verified
    name = plan.steps[0].request["name"]
    rehearsal = backups.restore_rehearsal(system, desk.environment, desk.who, name, place.namespace)
    pipeline.file_plan(desk, rehearsal)
    assert pipeline.execute(desk, rehearsal).verified
    [into] = rehearsal.reach.namespaces
    copied = place.lab.api.get(f"/apis/apps/v1/namespaces/{into}/deployments/web")
    assert copied["spec"]["replicas"] == 2
    assert pipeline.undo(desk, rehearsal) == 1

    def gone() -> bool:
        found = [one for one in place.lab.api.list("/api/v1/namespaces") if one["metadata"]["name"] == into]
        return all("deletionTimestamp" in one["metadata"] for one in found)

    place.until(gone, "the rehearsal is removed")
    assert place.deployment()["spec"]["replicas"] == 2


def test_a_backup_that_fails_is_no_backup(place: Place, velero: Velero) -> None:
    """Its storage goes away: the plan says so at once, not after a day."""
    path = "/apis/velero.io/v1/namespaces/velero/backupstoragelocations/default"
    place.lab.api.patch(path, {"spec": {"objectStorage": {"bucket": "elsewhere"}}})
    place.until(lambda: place.lab.api.get(path).get("status", {}).get("phase") == "Unavailable", "the location is not available")
    desk = place.desk()
    plan = backups.backup(place.system(desk), desk.environment, desk.who, [place.namespace])
    pipeline.file_plan(desk, plan)
    outcome = pipeline.execute(desk, plan)
    assert outcome.verified is False
    assert outcome.why is not None and "FailedValidation" in outcome.why.text("en")
    with pytest.raises(InputError, match="FailedValidation"):
        backups.restore_rehearsal(place.system(desk), desk.environment, desk.who, plan.steps[0].request["name"], place.namespace)


def test_what_cannot_be_backed_up_is_refused(place: Place, velero: Velero) -> None:
    desk = place.desk()
    system = place.system(desk)
    with pytest.raises(InputError, match="none-such"):
        backups.backup(system, desk.environment, desk.who, ["none-such"])
    with pytest.raises(InputError, match="none-such"):
        backups.restore_rehearsal(system, desk.environment, desk.who, "none-such", place.namespace)


# --- Elasticsearch ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Search:
    """An Elasticsearch with a repository and an index of ten documents."""

    address: str
    folder: Path

    def send(self, method: str, path: str, body: Any = None) -> Any:
        content = body if isinstance(body, str) else None if body is None else json.dumps(body)
        answer = urllib3.request(method, f"{self.address}{path}", body=content, headers={"content-type": "application/json"}, timeout=30)
        assert answer.status < 300, answer.data
        return answer.json()

    def desk(self, place: Path) -> Desk:
        environment = Environment.model_validate(
            {"name": "test", "elasticsearch": {"url": self.address}, "approval": {"identity": "login"}}
        )
        return Desk(environment, place, {"elasticsearch": ElasticsearchSystem(Elasticsearch.connect(environment))}, "hitomi")


@pytest.fixture(scope="module")
def search(engine: str, tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[Search]:
    if engine == "real":
        need_servers("opensearch")
    folder = tmp_path_factory.mktemp("search")
    lab = engines.up(folder, engine=engine, parts=("elasticsearch",), platform=False)
    try:
        found = Search(lab.addresses["elasticsearch"], folder)
        found.send("PUT", "/_snapshot/backup", {"type": "fs", "settings": {"location": str(folder / "data" / "snapshots" / "backup")}})
        lines = "".join(json.dumps(one) + "\n" for number in range(10) for one in ({"index": {"_index": "orders"}}, {"number": number}))
        found.send("POST", "/_bulk?refresh=true", lines)
        yield found
    finally:
        engines.down(folder)


def test_a_snapshot_and_its_rehearsal(search: Search, tmp_path: Path) -> None:
    desk = search.desk(tmp_path)
    system = desk.systems["elasticsearch"]
    assert isinstance(system, ElasticsearchSystem)
    plan = backups.snapshot(system, desk.environment, desk.who, "backup", "ord*")
    pipeline.file_plan(desk, plan)
    assert pipeline.rehearse(desk, plan).done == 0
    assert pipeline.execute(desk, plan).verified
    name = plan.steps[0].request["path"].rsplit("/", 1)[1]
    rehearsal = backups.snapshot_rehearsal(system, desk.environment, desk.who, "backup", name, "orders")
    pipeline.file_plan(desk, rehearsal)
    assert pipeline.execute(desk, rehearsal).verified
    into = rehearsal.steps[0].request["object"].lstrip("/")
    assert search.send("GET", f"/{into}/_count")["count"] == 10
    assert pipeline.undo(desk, rehearsal) == 1
    assert [one.index for one in system.source.indices("*orders")] == ["orders"]
    assert pipeline.undo(desk, plan) == 1
    assert not [one for one in system.source.snapshots("backup") if one.snapshot == name]


def test_a_snapshot_of_nothing_is_refused(search: Search, tmp_path: Path) -> None:
    desk = search.desk(tmp_path)
    system = desk.systems["elasticsearch"]
    assert isinstance(system, ElasticsearchSystem)
    for repository, pattern in (("none", "*"), ("backup", "none-*")):
        with pytest.raises(InputError, match="none"):
            backups.snapshot(system, desk.environment, desk.who, repository, pattern)
    with pytest.raises(InputError, match="none"):
        backups.snapshot_rehearsal(system, desk.environment, desk.who, "backup", "none", "orders")
