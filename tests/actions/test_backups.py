"""Backups and snapshots taken, and rehearsed, by plans: with the lab's Velero on an API server, and on an Elasticsearch."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3

from opslib.actions import backups, pipeline
from opslib.actions.elasticsearch import ElasticsearchSystem
from opslib.actions.pipeline import Desk
from opslib.actions.plans import Plan
from opslib.chapters.rights import SEARCH_ACTIONS
from opslib.environments import Environment
from opslib.errors import InputError
from opslib.lab import engines
from opslib.lab.velero import Velero
from opslib.sources.elasticsearch import Elasticsearch
from tests.actions.conftest import Between, Place
from tests.conftest import RealLab
from tests.waiting import until

LOCATIONS = "/apis/velero.io/v1/namespaces/velero/backupstoragelocations"
DEFAULT = f"{LOCATIONS}/default"


@pytest.fixture
def velero(any_cluster: RealLab, tmp_path: Path) -> Iterator[Velero]:
    """Velero in the cluster, for one test."""
    found = Velero(any_cluster.api, tmp_path / "store", tick_seconds=0.2)
    found.install()
    found.start()
    until(lambda: any_cluster.api.get(DEFAULT).get("status", {}).get("phase") == "Available", "the location is available")
    yield found
    found.close()


@pytest.fixture
def taken(place: Place, velero: Velero) -> str:
    """A backup of the place's namespace."""
    desk = place.desk()
    name = f"of-{place.namespace}"
    plan = backups.backup(place.system(desk), desk.environment, desk.who, [place.namespace], name=name)
    pipeline.file_plan(desk, plan)
    assert pipeline.execute(desk, plan).verified
    return name


def is_gone(place: Place, namespace: str) -> bool:
    found = [one for one in place.lab.api.list("/api/v1/namespaces") if one["metadata"]["name"] == namespace]
    return all("deletionTimestamp" in one["metadata"] for one in found)


def test_a_backup_and_its_rehearsal(place: Place, taken: str) -> None:
    desk = place.desk()
    rehearsal = backups.restore_rehearsal(place.system(desk), desk.environment, desk.who, taken, place.namespace)
    pipeline.file_plan(desk, rehearsal)
    assert pipeline.execute(desk, rehearsal).verified
    [into] = rehearsal.reach.namespaces
    assert f"--namespace-mappings {place.namespace}:{into}" in rehearsal.steps[0].command
    copied = place.lab.api.get(f"/apis/apps/v1/namespaces/{into}/deployments/web")
    assert copied["spec"]["replicas"] == 2
    assert pipeline.undo(desk, rehearsal) == 1
    place.until(lambda: is_gone(place, into), "the rehearsal is removed")
    assert place.deployment()["spec"]["replicas"] == 2


def test_a_rehearsal_that_brings_something_else_back_did_not_work(place: Place, taken: str) -> None:
    """As many objects, but not the same."""
    place.lab.api.patch(
        f"/apis/apps/v1/namespaces/{place.namespace}/deployments/web", {"spec": {"template": {"metadata": {"labels": {"later": "yes"}}}}}
    )
    desk = place.desk()
    plan = backups.restore_rehearsal(place.system(desk), desk.environment, desk.who, taken, place.namespace)
    short = [one.model_copy(update={"deadline_seconds": 60 if one is plan.verify[0] else 1}) for one in plan.verify]
    plan = plan.model_copy(update={"verify": short})
    pipeline.file_plan(desk, plan)
    outcome = pipeline.execute(desk, plan)
    assert outcome.verified is False
    assert outcome.why is not None and "deployments.apps web" in outcome.why.text("en")
    assert pipeline.undo(desk, plan) == 1


def test_a_backup_that_fails_is_no_backup(place: Place, velero: Velero) -> None:
    """Its storage goes away between plan and deed: the execution says so at once, not after a day."""
    desk = place.desk()
    plan = backups.backup(place.system(desk), desk.environment, desk.who, [place.namespace])
    pipeline.file_plan(desk, plan)
    with away(place):
        outcome = pipeline.execute(desk, plan)
        assert outcome.verified is False
        assert outcome.why is not None and "FailedValidation" in outcome.why.text("en")
    with pytest.raises(InputError, match="FailedValidation"):
        backups.restore_rehearsal(place.system(desk), desk.environment, desk.who, plan.steps[0].request["name"], place.namespace)


@contextlib.contextmanager
def away(place: Place) -> Iterator[None]:
    """The storage location names a bucket that is not there."""
    bucket = place.lab.api.get(DEFAULT)["spec"]["objectStorage"]["bucket"]
    for name, phase in (("elsewhere", "Unavailable"), (bucket, "Available")):
        place.lab.api.patch(DEFAULT, {"spec": {"objectStorage": {"bucket": name}}})
        place.until(lambda phase=phase: place.lab.api.get(DEFAULT).get("status", {}).get("phase") == phase, f"the location is {phase}")
        if name == "elsewhere":
            yield


def test_what_cannot_be_backed_up_is_refused(place: Place, taken: str) -> None:
    """Before anything changes, and with what is wrong in the words."""
    desk = place.desk()
    system, environment, who, namespace = place.system(desk), desk.environment, desk.who, place.namespace
    before = len(place.lab.api.list("/apis/velero.io/v1/namespaces/velero/backups"))
    for refused, words in (
        (lambda: backups.backup(system, environment, who, ["none-such"]), "no namespace none-such"),
        (lambda: backups.backup(system, environment, who, name=taken), f"named {taken} already"),
        (lambda: backups.backup(system, environment, who, name="A/B"), "no name for an object"),
        (lambda: backups.backup(system, environment, who, location="none-such"), "no storage location none-such"),
        (lambda: backups.restore_rehearsal(system, environment, who, "none-such", namespace), "no backup none-such"),
        (lambda: backups.restore_rehearsal(system, environment, who, taken, "none-such"), "does not have the namespace none-such"),
        (lambda: backups.restore_rehearsal(system, environment, who, taken, namespace, into=namespace), f"named {namespace} already"),
        (lambda: backups.backup_delete(system, environment, who, "none-such"), "no backup none-such"),
        (lambda: backups.backup_schedule(system, environment, who, "daily", "0 3 * * *"), "named daily already"),
        (lambda: backups.backup_schedule(system, environment, who, "weekly", "at night"), "at night"),
    ):
        with pytest.raises(InputError, match=words):
            refused()
    with away(place):
        for refused in (
            lambda: backups.backup(system, environment, who),
            lambda: backups.backup_schedule(system, environment, who, "weekly", "0 3 * * 0"),
            lambda: backups.restore_rehearsal(system, environment, who, taken, namespace),
            lambda: backups.backup_delete(system, environment, who, taken),
        ):
            with pytest.raises(InputError, match=r"default is not available: .*elsewhere"):
                refused()
    place.lab.api.patch(DEFAULT, {"spec": {"accessMode": "ReadOnly"}})
    try:
        with pytest.raises(InputError, match="default is read-only"):
            backups.backup(system, environment, who)
        assert backups.restore_rehearsal(system, environment, who, taken, namespace).steps
    finally:
        place.lab.api.patch(DEFAULT, {"spec": {"accessMode": "ReadWrite"}})
    assert len(place.lab.api.list("/apis/velero.io/v1/namespaces/velero/backups")) == before


def test_velero_may_be_in_another_namespace(place: Place) -> None:
    desk = place.desk(velero={"namespace": "elsewhere"})
    if place.system(desk).cluster.knows("velero.io"):
        with pytest.raises(InputError, match="no default storage location"):
            backups.backup(place.system(desk), desk.environment, desk.who, [place.namespace])
    else:
        with pytest.raises(InputError, match="not installed"):
            backups.backup(place.system(desk), desk.environment, desk.who, [place.namespace])


def test_a_schedule_and_back(place: Place, velero: Velero) -> None:
    desk = place.desk()
    system = place.system(desk)
    name = f"weekly-{place.namespace}"
    plan = backups.backup_schedule(system, desk.environment, desk.who, name, "0 3 * * 0", [place.namespace], kept_hours=90.5)
    pipeline.file_plan(desk, plan)
    expected = f"velero schedule create {name} '--schedule=0 3 * * 0' --include-namespaces={place.namespace} --ttl=90h30m0s"
    assert plan.steps[0].command == expected
    assert pipeline.execute(desk, plan).verified
    made = place.lab.api.get(f"/apis/velero.io/v1/namespaces/velero/schedules/{name}")
    assert made["spec"]["template"] == {"includedNamespaces": [place.namespace], "ttl": "90h30m0s"}
    assert pipeline.undo(desk, plan) == 1
    assert name not in [one["metadata"]["name"] for one in place.lab.api.list("/apis/velero.io/v1/namespaces/velero/schedules")]


def test_a_backup_is_deleted_with_its_data(place: Place, velero: Velero, taken: str) -> None:
    desk = place.desk()
    plan = backups.backup_delete(place.system(desk), desk.environment, desk.who, taken)
    assert any(place.namespace in one for one in plan.cautions), "it is the only one"
    pipeline.file_plan(desk, plan)
    [stored] = velero.folder.glob(f"*/backups/{taken}")
    assert pipeline.execute(desk, plan).verified
    assert not stored.exists()
    with pytest.raises(InputError, match="cannot be taken back"):
        pipeline.undo(desk, plan)


# --- cut off ----------------------------------------------------------------------------------------------------------------------------


def cut_off(between: Between, number: int, when: str, run: Callable[[], object]) -> int | None:
    """Run it in a process that is killed at its n-th request; its exit status."""
    between.seen.clear()
    between.kill, between.victim = (number, when), 0
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    assert process.pid is not None
    between.victim = process.pid
    process.join(120)
    return process.exitcode


def finish(desk: Desk, plan: Plan) -> None:
    """What an operator does with a plan that was cut off: execute it again, then undo it."""
    state = pipeline.state(desk, plan)
    if state in ("planned", "begun"):
        assert pipeline.execute(desk, plan).verified
    if state != "undone" and plan.steps[0].inverse is not None:
        pipeline.undo(desk, plan)
    events = [record.event for record in desk.log.of(plan.id)]
    assert events.count("step.done") == events.count("finished") == 1
    assert desk.log.verify()[1] is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_backup_that_is_cut_off_at_any_request_is_taken_once(place: Place, velero: Velero, between: Between, when: str) -> None:
    desk = place.desk()
    path, number = "/apis/velero.io/v1/namespaces/velero/backups", 0
    while True:
        name = f"cut-{when}-{number}-{place.namespace}"
        plan = backups.backup(place.system(desk), desk.environment, desk.who, [place.namespace], name=name)
        pipeline.file_plan(desk, plan)
        status = cut_off(between, number, when, lambda plan=plan: pipeline.execute(place.desk(server=between.url), plan))
        if status != 0:
            assert status == -9
            finish(desk, plan)
        assert [one["status"]["phase"] for one in place.lab.api.list(path) if one["metadata"]["name"] == name] == ["Completed"]
        removal = backups.backup_delete(place.system(desk), desk.environment, desk.who, name)
        pipeline.file_plan(desk, removal)
        removed = cut_off(between, number, when, lambda plan=removal: pipeline.execute(place.desk(server=between.url), plan))
        if removed != 0:
            assert removed == -9
            finish(desk, removal)
        assert not [one for one in place.lab.api.list(path) if one["metadata"]["name"] == name]
        if status == removed == 0:
            break
        number += 1
    assert number >= 5


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rehearsal_that_is_cut_off_at_any_request_leaves_nothing(place: Place, taken: str, between: Between, when: str) -> None:
    desk = place.desk()
    number = 0

    def rehearse(plan: Plan) -> None:
        through = place.desk(server=between.url)
        pipeline.execute(through, plan)
        pipeline.undo(through, plan)

    while True:
        into = f"cut-{when}-{number}-{place.namespace}"
        plan = backups.restore_rehearsal(place.system(desk), desk.environment, desk.who, taken, place.namespace, into=into)
        name = plan.steps[0].request["name"]
        pipeline.file_plan(desk, plan)
        status = cut_off(between, number, when, lambda plan=plan: rehearse(plan))
        if status != 0:
            assert status == -9
            finish(desk, plan)
        restores = place.lab.api.list("/apis/velero.io/v1/namespaces/velero/restores")
        assert [one["status"]["phase"] for one in restores if one["metadata"]["name"] == name] == ["Completed"]
        place.until(lambda into=into: is_gone(place, into), f"{into} is removed")
        if status == 0:
            break
        number += 1
    assert number >= 8


def test_a_rehearsal_is_not_removed_before_the_restore_is_over(place: Place, taken: str, velero: Velero) -> None:
    """Undone at once after it was cut off: what Velero still restores would come back after it."""
    desk = place.desk()
    plan = backups.restore_rehearsal(place.system(desk), desk.environment, desk.who, taken, place.namespace)
    pipeline.file_plan(desk, plan)
    velero.close()
    desk.log.append("step.begins", plan.id, desk.who, step=0, what=plan.steps[0].what)
    place.system(desk).send(plan.steps[0].request, plan.steps[0].before)
    said: list[str] = []
    undo = threading.Thread(target=lambda: pipeline.undo(desk, plan, lambda text: said.append(str(text))), daemon=True)
    undo.start()
    place.until(lambda: len(said) >= 3, "it waits for the restore")
    again = Velero(place.lab.api, velero.folder, tick_seconds=0.2)
    again.start()
    try:
        undo.join(60)
        assert not undo.is_alive()
        [into] = plan.reach.namespaces
        name = plan.steps[0].request["name"]
        assert place.lab.api.get(f"/apis/velero.io/v1/namespaces/velero/restores/{name}")["status"]["phase"] == "Completed"
        place.until(lambda: is_gone(place, into), "the rehearsal is removed")
        assert pipeline.state(desk, plan) == "undone"
    finally:
        again.close()


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

    def asked(self) -> list[str]:
        """The actions that clients have asked it for so far, as its log tells them."""
        log = self.folder / "servers" / "opensearch.log"
        mark = "[cluster:monitor/task]"
        known = log.read_text("utf-8").count(mark)
        self.send("GET", "/_cluster/pending_tasks")
        until(lambda: log.read_text("utf-8").count(mark) > known, "the log has come so far")
        found = re.findall(r"register \S+ \[transport\] \[((?:cluster|indices):[a-z_/]+)\]", log.read_text("utf-8"))
        return [one for one in found if one != mark.strip("[]") and "/seq_no/" not in one]

    def desk(self, place: Path, url: str = "") -> Desk:
        environment = Environment.model_validate(
            {"name": "test", "elasticsearch": {"url": url or self.address}, "approval": {"identity": "login"}}
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


def test_what_elasticsearch_cannot_do_is_refused(search: Search, tmp_path: Path) -> None:
    """Before anything changes: a repository that is read-only or does not verify, and names that are there."""
    desk = search.desk(tmp_path)
    system, environment, who = desk.systems["elasticsearch"], desk.environment, desk.who
    assert isinstance(system, ElasticsearchSystem)
    location = search.folder / "data" / "snapshots" / "backup"
    plan = backups.snapshot(system, environment, who, "backup", "orders", name="kept")
    pipeline.file_plan(desk, plan)
    assert pipeline.execute(desk, plan).verified
    search.send("PUT", "/_snapshot/archive", {"type": "fs", "settings": {"location": str(location), "readonly": "true"}})
    for refused, words in (
        (lambda: backups.snapshot(system, environment, who, "archive"), "archive is read-only"),
        (lambda: backups.snapshot_delete(system, environment, who, "archive", "kept"), "archive is read-only"),
        (lambda: backups.snapshot(system, environment, who, "backup", name="kept"), "a snapshot kept already"),
        (lambda: backups.snapshot_delete(system, environment, who, "backup", "none"), "no snapshot none"),
        (lambda: backups.snapshot_rehearsal(system, environment, who, "backup", "kept", "none"), "with the index none"),
        (
            lambda: backups.snapshot_rehearsal(system, environment, who, "backup", "kept", "orders", into="orders"),
            "an index orders already",
        ),
    ):
        with pytest.raises(InputError, match=words):
            refused()
    assert backups.snapshot_rehearsal(system, environment, who, "archive", "kept", "orders").steps
    removal = backups.snapshot_delete(system, environment, who, "backup", "kept")
    assert any("orders" in one for one in removal.cautions), "it is the only one"
    pipeline.file_plan(desk, removal)
    assert pipeline.execute(desk, removal).verified
    with pytest.raises(InputError, match="cannot be taken back"):
        pipeline.undo(desk, removal)
    search.send("DELETE", "/_snapshot/archive")


def test_a_repository_that_does_not_verify_is_refused(search: Search, tmp_path: Path) -> None:
    """What it writes to has gone since, and is a file now."""
    desk = search.desk(tmp_path)
    system = desk.systems["elasticsearch"]
    assert isinstance(system, ElasticsearchSystem)
    location = search.folder / "data" / "snapshots" / "gone"
    search.send("PUT", "/_snapshot/gone", {"type": "fs", "settings": {"location": str(location)}})
    shutil.rmtree(location, ignore_errors=True)
    location.write_text("")
    try:
        with pytest.raises(InputError, match="gone does not verify"):
            backups.snapshot(system, desk.environment, desk.who, "gone")
    finally:
        location.unlink()
        search.send("DELETE", "/_snapshot/gone")


@pytest.mark.parametrize("engine", [pytest.param("real", marks=pytest.mark.real)], indirect=True)
def test_what_plans_ask_of_elasticsearch_is_what_their_roles_say(search: Search, tmp_path: Path) -> None:
    """The server itself names each action that it is asked for, as roles name it."""
    desk = search.desk(tmp_path)
    system, environment, who = desk.systems["elasticsearch"], desk.environment, desk.who
    assert isinstance(system, ElasticsearchSystem)
    search.send("PUT", "/_cluster/settings", {"transient": {"logger.org.opensearch.tasks.TaskManager": "TRACE"}})
    makers: dict[str, Callable[[], Plan]] = {
        "snapshot": lambda: backups.snapshot(system, environment, who, "backup", "orders", name="undone"),
        "snapshot-rehearsal": lambda: backups.snapshot_rehearsal(system, environment, who, "backup", "kept", "orders"),
        "snapshot-delete": lambda: backups.snapshot_delete(system, environment, who, "backup", "kept"),
    }
    kept = backups.snapshot(system, environment, who, "backup", "orders", name="kept")
    pipeline.file_plan(desk, kept)
    assert pipeline.execute(desk, kept).verified
    for command, make in makers.items():
        begin = len(search.asked())
        plan = make()
        pipeline.file_plan(desk, plan)
        assert pipeline.execute(desk, plan).verified
        if plan.steps[0].inverse is not None:
            pipeline.undo(desk, plan)
        role = {action for actions in SEARCH_ACTIONS[command].values() for action in actions}
        asked = set(search.asked()[begin:])
        assert asked <= role, command
        assert role - asked <= {"cluster:admin/snapshot/status"}, command  # asked for while it is under way
    search.send("PUT", "/_cluster/settings", {"transient": {"logger.org.opensearch.tasks.TaskManager": None}})


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_snapshot_and_rehearsal_that_are_cut_off_at_any_request(search: Search, tmp_path: Path, when: str) -> None:
    """Nothing is taken twice, and the rehearsal leaves no index."""
    desk = search.desk(tmp_path)
    system = desk.systems["elasticsearch"]
    assert isinstance(system, ElasticsearchSystem)
    between = Between(search.address)
    number = 0

    def run(plan: Plan, *, undo: bool) -> None:
        through = search.desk(tmp_path, between.url)
        pipeline.execute(through, plan)
        if undo:
            pipeline.undo(through, plan)

    try:
        while True:
            name, into = f"cut-{when}-{number}", f"cut-{when}-{number}-orders"
            plan = backups.snapshot(system, desk.environment, desk.who, "backup", "orders", name=name)
            pipeline.file_plan(desk, plan)
            taken = cut_off(between, number, when, lambda plan=plan: run(plan, undo=False))
            if taken != 0:
                assert taken == -9
                if pipeline.state(desk, plan) != "finished":
                    assert pipeline.execute(desk, plan).verified
            assert [one.state for one in system.source.snapshots("backup") if one.snapshot == name] == ["SUCCESS"]
            plan = backups.snapshot_rehearsal(system, desk.environment, desk.who, "backup", name, "orders", into=into)
            pipeline.file_plan(desk, plan)
            rehearsed = cut_off(between, number, when, lambda plan=plan: run(plan, undo=True))
            if rehearsed != 0:
                assert rehearsed == -9
                finish(desk, plan)
            assert not system.source.indices(f"{into}*")
            if taken == rehearsed == 0:
                break
            number += 1
        assert number >= 6
        assert system.source.count({"match_all": {}}, index="orders") == 10
    finally:
        between.http.shutdown()
