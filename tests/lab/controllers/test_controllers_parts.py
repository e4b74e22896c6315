"""The controllers' parts that need no server: hashes, the queue, what a cache believes."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.lab.api import Api, ApiError
from opslib.lab.controllers import job, objects, revisions
from opslib.lab.controllers.cache import Cache
from opslib.lab.controllers.cronjob import _Schedule
from opslib.lab.controllers.hashing import fnv32, fnv32a, template_hash
from opslib.lab.controllers.runner import Controller, Runner
from opslib.lab.controllers.scheduler.filters import selects, tolerates
from opslib.lab.controllers.scheduler.nodes import requests_of


def obj(name: str, version: int, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": str(version), **metadata}}


# --- names ------------------------------------------------------------------------------------------------------------------------------


def test_fnv() -> None:
    """The values of the hash's own description."""
    assert (fnv32(b""), fnv32a(b"")) == (0x811C9DC5, 0x811C9DC5)
    assert (fnv32(b"foobar"), fnv32a(b"foobar")) == (0x31F0B262, 0xBF9CF968)


# made by a real controller-manager 1.36.3
_SPEC = {
    "containers": [
        {
            "image": "registry.example.com/shop/events-db:16",
            "imagePullPolicy": "IfNotPresent",
            "name": "db",
            "resources": {},
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "volumeMounts": [{"mountPath": "/data", "name": "data"}],
        }
    ],
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "terminationGracePeriodSeconds": 30,
}


def test_hash_of_a_stateful_sets_revision() -> None:
    template = {"metadata": {"labels": {"app": "events-db", "lab.opslib/fault": "claim-pending"}}, "spec": _SPEC}
    assert revisions.hash_of({"spec": {"template": {**template, "$patch": "replace"}}}, 0) == "5b76dd9b77"


def test_hash_of_a_pod_template() -> None:
    container = {name: value for name, value in _SPEC["containers"][0].items() if name != "volumeMounts"}  # type: ignore[index]
    spec = {**_SPEC, "containers": [{**container, "image": "registry.example.com/platform/node-tuner:1.0", "name": "tuner"}]}
    template = {"metadata": {"labels": {"app": "node-tuner", "lab.opslib/fault": "owner-priority-class"}}}
    hashed = template_hash({**template, "spec": {**spec, "priorityClassName": "platform-hgih"}}, None)
    assert hashed == "b99c8647d"
    assert template_hash({**template, "spec": {**spec, "priorityClassName": "platform-hgih"}}, 1) != hashed


@given(st.sets(st.integers(0, 200)))
def test_indexes_are_read_as_they_were_written(numbers: set[int]) -> None:
    assert job.read(job.written(numbers)) == numbers


# --- the cache --------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache() -> Cache:
    api = Api.__new__(Api)  # never asked: the cache is not started
    return Cache(api, "/api/v1/pods")


def test_what_is_older_is_not_heeded(cache: Cache) -> None:
    cache.note(obj("a", 5))
    cache._told("MODIFIED", obj("a", 4))
    found = cache.get("shop", "a")
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "5"


def test_what_is_gone_stays_gone(cache: Cache) -> None:
    cache.note(obj("a", 5))
    cache.forget(obj("a", 5))
    cache._told("MODIFIED", obj("a", 6))
    assert cache.list() == []


def test_a_new_object_of_an_old_name(cache: Cache) -> None:
    cache.note(obj("a", 5))
    cache.note(obj("a", 7, uid="other"))
    cache._told("DELETED", obj("a", 6))
    found = cache.get("shop", "a")
    assert found is not None
    assert found["metadata"]["uid"] == "other"


def test_owned_and_dependent(cache: Cache) -> None:
    cache.note(obj("a", 1, ownerReferences=[{"uid": "one", "controller": True}, {"uid": "two"}]))
    assert len(cache.owned("one")) == len(cache.dependents("two")) == 1
    assert cache.owned("two") == []
    assert cache.orphans("shop") == []
    cache.note(obj("a", 2, ownerReferences=[{"uid": "two"}]))
    assert cache.dependents("one") == []
    assert len(cache.dependents("two")) == len(cache.orphans("shop")) == 1
    assert cache.orphans("elsewhere") == []
    cache.note(obj("a", 3, ownerReferences=[]))
    assert cache.dependents("two") == []
    assert len(cache.orphans("shop")) == 1


# --- the queue --------------------------------------------------------------------------------------------------------------------------


class FastClock:
    """A clock that runs a thousand times as fast as the wall's."""

    speed = 1000.0

    def __init__(self) -> None:
        self.start = datetime.now(UTC)

    def now(self) -> datetime:
        return self.start + (datetime.now(UTC) - self.start) * self.speed


def runner(reconcile: Any, clock: Any = None) -> Runner:
    made = Runner(None, clock or FastClock(), (Controller(name="c", reconcile=reconcile, watches={}),), workers=4)  # type: ignore[arg-type]
    made.start()
    return made


def test_a_key_is_never_worked_on_twice_at_the_same_time_and_no_change_is_missed() -> None:
    busy, seen, done = threading.Lock(), [], threading.Event()
    begun, go_on = threading.Event(), threading.Event()

    def reconcile(_cluster: Any, key: str) -> None:
        assert busy.acquire(blocking=False)
        begun.set()
        assert go_on.wait(10)
        seen.append(key)
        busy.release()
        if len(seen) == 2:
            done.set()

    queue = runner(reconcile)
    queue.add("c", "key")
    assert begun.wait(10)
    for _number in range(5):  # while it is worked on: once more, not five times
        queue.add("c", "key")
    go_on.set()
    assert done.wait(10)
    queue.close()
    assert seen == ["key", "key"]


def test_what_fails_is_tried_again() -> None:
    attempts, done = [], threading.Event()

    def reconcile(_cluster: Any, key: str) -> None:
        attempts.append(key)
        if len(attempts) < 4:
            raise ApiError("GET /", 500 if len(attempts) % 2 else 409, "Conflict", "")
        done.set()

    queue = runner(reconcile)
    queue.add("c", "key")
    assert done.wait(10)
    queue.close()
    assert len(attempts) == 4


def test_later_is_by_the_clock_that_was_given() -> None:
    """An hour of the clock is a few seconds."""
    rounds: list[datetime] = []
    done = threading.Event()
    clock = FastClock()

    def reconcile(_cluster: Any, _key: str) -> float | None:
        rounds.append(clock.now())
        if len(rounds) == 2:
            done.set()
            return None
        return 1800.0

    queue = runner(reconcile, clock)
    queue.add("c", "key")
    assert done.wait(20)
    queue.close()
    assert timedelta(seconds=1800) <= rounds[1] - rounds[0] < timedelta(seconds=4000)


# --- small rules ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toleration", "yes"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "a", "value": "b", "effect": "NoSchedule"}, True),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "a", "value": "c"}, False),
        ({"key": "a", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], yes: bool) -> None:
    assert tolerates([toleration], {"key": "a", "value": "b", "effect": "NoSchedule"}) is yes


def test_node_affinity() -> None:
    node = {"metadata": {"name": "n", "labels": {"zone": "a", "cores": "8"}}}

    def needs(*expressions: dict[str, Any]) -> dict[str, Any]:
        terms = {"nodeSelectorTerms": [{"matchExpressions": list(expressions)}]}
        return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}

    assert selects(node, needs({"key": "cores", "operator": "Gt", "values": ["4"]}))
    assert not selects(node, needs({"key": "cores", "operator": "Lt", "values": ["8"]}))
    assert not selects(node, needs({"key": "zone", "operator": "NotIn", "values": ["a"]}))
    assert selects(node, needs({"key": "gpu", "operator": "DoesNotExist"}))
    assert not selects(node, needs())


def test_requests_heed_init_containers_and_sidecars() -> None:
    def container(cpu: str, **rest: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **rest}

    spec = {
        "containers": [container("500m"), container("1")],
        "initContainers": [container("100m", restartPolicy="Always"), container("2")],
        "overhead": {"cpu": "50m"},
    }
    assert requests_of({"spec": spec}) == {"cpu": 2150}


@pytest.mark.parametrize(("value", "up", "count"), [(3, True, 3), ("25%", True, 2), ("25%", False, 1), (None, True, 0)])
def test_numbers_and_shares(value: int | str | None, up: bool, count: int) -> None:
    assert objects.scaled(value, 5, up=up) == count


def test_schedules_heed_their_zone() -> None:
    from zoneinfo import ZoneInfo

    noon = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    assert _Schedule("0 3 * * *", ZoneInfo("Asia/Tokyo")).next(noon) == datetime(2026, 3, 1, 18, 0, tzinfo=UTC)
    assert _Schedule("@every 1h30m", None).next(noon) == noon + timedelta(minutes=90)
    with pytest.raises(ValueError, match="61"):
        _Schedule("61 * * * *", None)
