"""Drains: evictions at the same time and within budgets, cut off and gone on with; and each case held against what kubectl drain does."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from opslib.actions import nodes, pipeline
from opslib.actions.pipeline import Desk
from opslib.actions.plans import Plan
from opslib.errors import InputError, NotNow, SourceError
from opslib.lab.api import ApiError
from tests.actions.conftest import Between, Place
from tests.actions.test_node_plans import create, pod
from tests.actions.test_pipeline import executed_until_killed
from tests.waiting import until

Object = dict[str, Any]

LIMITS = {"pods": 50, "nodes": 1, "namespaces": 9}


@pytest.fixture
def empty_nodes(place: Place) -> Iterator[list[str]]:
    """The nodes that nothing is on, but for what tests before are still taking away; uncordoned afterwards."""

    def found() -> list[str]:
        taken = {one["spec"].get("nodeName") for one in place.lab.api.list("/api/v1/pods")}
        return [one["metadata"]["name"] for one in place.lab.api.list("/api/v1/nodes") if one["metadata"]["name"] not in taken]

    until(lambda: len(found()) >= 2, "two nodes are empty")
    names = found()[:2]
    yield names
    for name in names:
        place.lab.api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": False}})


@pytest.fixture
def node(empty_nodes: list[str]) -> str:
    """One of them."""
    return empty_nodes[0]


def deployed(name: str, node: str, replicas: int = 1, **spec: Any) -> Object:
    """A Deployment whose pods fit on one node only."""
    labels = {"app": name}
    template = {
        "metadata": {"labels": labels},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": node}, "containers": [{"name": "main", "image": "main:1"}], **spec},
    }
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }  # fmt: skip


def budget(name: str, app: str, **spec: Any) -> Object:
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": app}}, **spec},
    }  # fmt: skip


def on(place: Place, node: str) -> list[Object]:
    return place.lab.api.list("/api/v1/pods", fields=f"spec.nodeName={node}")


def running(place: Place, node: str, count: int) -> list[Object]:
    """The pods of a node once so many run."""

    def found() -> list[Object]:
        return [one for one in on(place, node) if one.get("status", {}).get("phase") == "Running"]

    until(lambda: len(found()) == count, f"{count} pods run on {node}")
    return found()


def heeded(place: Place, count: int, namespace: str = "") -> None:
    """Wait until the budgets' controller has counted, with so many pods in sum."""
    path = f"/apis/policy/v1/namespaces/{namespace or place.namespace}/poddisruptionbudgets"
    until(lambda: sum(one.get("status", {}).get("currentHealthy", 0) for one in place.lab.api.list(path)) == count, "budgets are heeded")


def planned(place: Place, desk: Desk, node: str, **options: Any) -> Plan:
    plan = nodes.drain(place.system(desk), desk.environment, desk.who, node, **options)
    pipeline.file_plan(desk, plan)
    return plan


def evictions(between: Between) -> list[str]:
    return [path.split("/")[-2] for verb, path in between.seen if verb == "POST" and path.split("?")[0].endswith("/eviction")]


class Hook(list[tuple[str, str]]):
    """What a proxy has seen; called with each eviction's number before it is passed on."""

    def __init__(self, call: Callable[[int], None]) -> None:
        super().__init__()
        self._call, self._count, self._lock = call, 0, threading.Lock()

    def append(self, item: tuple[str, str]) -> None:
        super().append(item)
        if item[1].split("?")[0].endswith("/eviction"):
            with self._lock:
                self._count += 1
            self._call(self._count)


# --- at the same time -------------------------------------------------------------------------------------------------------------------


def test_pods_without_a_budget_are_evicted_at_the_same_time(place: Place, node: str, between: Between) -> None:
    create(place, deployed("free", node, replicas=4))
    running(place, node, 4)
    desk = place.desk(server=between.url, limits=LIMITS)
    plan = planned(place, desk, node)
    together = threading.Barrier(4)
    between.seen = Hook(lambda count: together.wait(60) and None)  # broken, and with it the test, where one waits for another
    progress: list[tuple[int, int, int]] = []
    assert pipeline.execute(desk, plan, progress=lambda *now: progress.append(now)).verified
    assert Counter(evictions(between)).most_common(1)[0][1] == 1
    assert max(under_way for _done, under_way, _total in progress) == 4
    assert progress[-1] == (5, 0, 5)
    found = [(record.event, record.data.get("step")) for record in desk.log.of(plan.id)]
    for number in range(5):
        assert found.index(("step.begins", number)) < found.index(("step.done", number))


def test_never_more_of_a_budget_than_it_allows(place: Place, node: str) -> None:
    """Two of five: the replacements run elsewhere before the next goes."""
    api = place.lab.api
    others = [one["metadata"]["name"] for one in api.list("/api/v1/nodes") if one["metadata"]["name"] != node]
    many = deployed("many", node, replicas=5)
    del many["spec"]["template"]["spec"]["nodeSelector"]
    for other in others:
        api.patch(f"/api/v1/nodes/{other}", {"spec": {"unschedulable": True}})
    try:
        create(place, many)
        running(place, node, 5)
    finally:
        for other in others:
            api.patch(f"/api/v1/nodes/{other}", {"spec": {"unschedulable": False}})
    create(place, budget("many", "many", maxUnavailable=2))
    heeded(place, 5)
    desk = place.desk(limits=LIMITS)
    plan = planned(place, desk, node, patience_seconds=120)
    assert {(step.lane, step.at_once) for step in plan.steps if step.lane} == {(f"{place.namespace}/many", 2)}
    healthy: list[int] = []
    over = threading.Event()

    def watch() -> None:
        path = f"/apis/policy/v1/namespaces/{place.namespace}/poddisruptionbudgets/many"
        while not over.wait(0.05):
            healthy.append(api.get(path)["status"]["currentHealthy"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert pipeline.execute(desk, plan).verified
    finally:
        over.set()
        watcher.join()
    assert min(healthy) >= 3
    under_way, most = 0, 0
    lanes = {number for number, step in enumerate(plan.steps) if step.lane}
    for record in desk.log.of(plan.id):
        if record.data.get("step") in lanes:
            under_way += {"step.begins": 1, "step.done": -1}[record.event]
            most = max(most, under_way)
    assert most <= 2


# --- cut off, refused, and gone on with -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_among_evictions_nothing_is_evicted_twice(place: Place, node: str, between: Between, when: str) -> None:
    create(place, deployed("free", node, replicas=4))
    running(place, node, 4)
    desk = place.desk(limits=LIMITS)
    plan = planned(place, desk, node)

    def kill_at_third(count: int) -> None:
        if count == 3:
            between.kill = (len(between.seen) - 1, when)

    between.seen = Hook(kill_at_third)
    assert executed_until_killed(place, between, plan) == -9
    first = evictions(between)
    until(lambda: sum("deletionTimestamp" not in one["metadata"] for one in on(place, node)) <= 4 - len(first) + (when == "before"),
          "what was sent has arrived")  # fmt: skip
    evicted = {step.request["name"] for step in plan.steps if step.lane} - {
        one["metadata"]["name"] for one in on(place, node) if "deletionTimestamp" not in one["metadata"]
    }
    between.kill, between.seen = None, []
    again = place.desk(server=between.url, limits=LIMITS)
    assert pipeline.execute(again, plan).verified
    assert not evicted & set(evictions(between)), "evicted twice"
    events = [(record.event, record.data.get("step")) for record in desk.log.of(plan.id)]
    assert Counter(step for event, step in events if event == "step.done") == dict.fromkeys(range(len(plan.steps)), 1)
    assert desk.log.verify()[1] is None


def test_a_refusal_that_lasts_stops_the_drain_which_says_what_is_left(place: Place, node: str) -> None:
    for name, replicas in (("free", 2), ("held", 3)):
        create(place, deployed(name, node, replicas=replicas))
    create(place, budget("held", "held", maxUnavailable=0))
    before = running(place, node, 5)
    heeded(place, 3)
    desk = place.desk(limits=LIMITS)
    plan = planned(place, desk, node, patience_seconds=1)
    assert pipeline.rehearse(desk, plan).done == 0
    assert len(pipeline.rehearse(desk, plan).held_up) == 3
    said: list[str] = []
    with pytest.raises(NotNow, match="disruption budget"):
        pipeline.execute(desk, plan, report=lambda text: said.append(str(text)))
    held = {one["metadata"]["name"] for one in before if one["metadata"]["labels"]["app"] == "held"}
    there = {one["metadata"]["name"] for one in on(place, node) if "deletionTimestamp" not in one["metadata"]}
    assert there == held
    assert all(name in said[-1] for name in held)
    events = [record.event for record in desk.log.of(plan.id)]
    assert events.count("step.failed") == 1, "once one has failed no other begins"
    assert pipeline.state(desk, plan) == "begun"
    path = f"/apis/policy/v1/namespaces/{place.namespace}/poddisruptionbudgets/held"
    place.lab.api.patch(path, {"spec": {"maxUnavailable": 3}})
    until(lambda: place.lab.api.get(path)["status"]["disruptionsAllowed"] == 3, "the budget has room")
    assert pipeline.execute(desk, plan).verified


def test_a_pod_that_goes_by_itself_is_no_drift(place: Place, node: str) -> None:
    create(place, deployed("free", node, replicas=3))
    names = [one["metadata"]["name"] for one in running(place, node, 3)]
    desk = place.desk(limits=LIMITS)
    plan = planned(place, desk, node)
    place.lab.api.delete(f"/api/v1/namespaces/{place.namespace}/pods/{names[0]}", grace_seconds=0)
    until(lambda: names[0] not in {one["metadata"]["name"] for one in on(place, node)}, "it is gone")
    place.lab.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"annotations": {"test.example.com/note": "drift"}}})
    with pytest.raises(SourceError, match="not as it was"):
        pipeline.execute(desk, plan)  # the node itself has changed: that is one
    place.lab.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"annotations": {"test.example.com/note": None}}})
    outcome = pipeline.execute(desk, plan)
    # its owner has made another there, before the node was cordoned: nobody has approved that this one goes
    assert outcome.verified is False
    assert "since the plan was made" in str(outcome.why)
    gone = next(number for number, step in enumerate(plan.steps) if step.request["name"] == names[0])
    done = {record.data["step"]: record.data["how"] for record in desk.log.of(plan.id) if record.event == "step.done"}
    assert done[gone] == "gone already"
    assert pipeline.execute(desk, planned(place, desk, node)).verified


def test_a_node_that_vanishes(place: Place) -> None:
    """Before the drain it is refused; in the midst of it its pods are gone with it."""
    name = "vanishing"
    place.lab.api.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
    path = f"/api/v1/nodes/{name}"
    try:
        create(place, pod("lonely", name))
        desk = place.desk(limits=LIMITS)
        plan = planned(place, desk, name, force=True, grace_seconds=0)
        place.lab.api.delete(path)
        with pytest.raises(SourceError, match="not as it was"):
            pipeline.execute(desk, plan)
        with pytest.raises(InputError, match=name):
            planned(place, desk, name, force=True)
        said = place.lab.kubectl("drain", name, "--force", check=False)
        assert "not found" in said
    finally:
        with contextlib.suppress(ApiError):
            place.lab.api.delete(path)


# --- as kubectl does --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Objects on a node, drained with the same options by kubectl and by us.

    `evicted` and `ends_well` are what kubectl does, so that it is known that a case is about something.
    """

    objects: Callable[[str], list[Object]]
    count: int
    evicted: set[str]
    words: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    ends_well: bool = True
    healthy: int = 0  # in sum of the budgets
    phases: dict[str, str] = field(default_factory=dict)
    ending: tuple[str, ...] = ()  # pods that are deleted before, and stay


HELD = {"finalizers": ["test.example.com/held"]}


def held(name: str, node: str, **spec: Any) -> Object:
    """A pod that stays, ending, so that how long it was given can be seen."""
    found = pod(name, node, **spec)
    return {**found, "metadata": {**found["metadata"], **HELD}}


def owned(found: Object, kind: str, name: str) -> Object:
    owner = {"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "00000000-0000-0000-0000-000000000000", "controller": True}
    return {**found, "metadata": {**found["metadata"], "ownerReferences": [owner]}}


def mirror(name: str, node: str) -> Object:
    found = pod(name, node)
    return {**found, "metadata": {**found["metadata"], "annotations": {nodes.MIRROR: "0123456789abcdef"}}}


def daemonset(name: str, node: str) -> Object:
    return {**deployed(name, node), "kind": "DaemonSet", "spec": {
        name: value for name, value in deployed(name, node)["spec"].items() if name != "replicas"}}  # fmt: skip


def job(name: str, node: str) -> Object:
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "nodeSelector": {"kubernetes.io/hostname": node},
                 "containers": [{"name": "main", "image": "main:1"}]},
    }  # fmt: skip
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template}}


SCRATCH = {"volumes": [{"name": "scratch", "emptyDir": {}}]}
CASES: dict[str, Case] = {
    "owned": Case(lambda node: [deployed("web", node)], 1, {"web"}),
    "daemonset": Case(lambda node: [daemonset("agent", node), deployed("web", node)], 2, {"web"}),
    "daemonset that is gone": Case(
        lambda node: [owned(held("agent", node), "DaemonSet", "none"), deployed("web", node)], 2, set(), ends_well=False,
        ending=("agent",),
    ),
    "daemonset that is gone, let go": Case(
        lambda node: [owned(held("agent", node), "DaemonSet", "none"), deployed("web", node)], 2, {"web"},
        ("--force", "--timeout=4s"), {"force": True}, ends_well=False, ending=("agent",),
    ),
    "mirror pod": Case(lambda node: [mirror("static", node), deployed("web", node)], 2, {"web"}),
    "empty dir": Case(lambda node: [deployed("cache", node, **SCRATCH), deployed("web", node)], 2, set(), ends_well=False),
    "empty dir, let go": Case(
        lambda node: [deployed("cache", node, **SCRATCH)], 1, {"cache"}, ("--delete-emptydir-data",), {"delete_emptydir_data": True}
    ),
    "no owner": Case(lambda node: [pod("bare", node), deployed("web", node)], 2, set(), ends_well=False),
    "no owner, let go": Case(
        lambda node: [pod("bare", node), deployed("web", node)], 2, {"bare", "web"}, ("--force",), {"force": True}
    ),
    "no owner and empty dir, half let go": Case(lambda node: [pod("bare", node, **SCRATCH)], 1, set(), ("--force",), {"force": True},
                                                ends_well=False),
    "job": Case(lambda node: [job("batch", node)], 1, {"batch"}),
    "ended": Case(
        lambda node: [pod("ended", node, restartPolicy="Never", **SCRATCH), pod("failed", node, restartPolicy="Never")], 2,
        {"ended", "failed"}, phases={"ended": "Succeeded", "failed": "Failed"},
    ),
    "budget": Case(
        lambda node: [deployed("free", node), deployed("full", node), budget("full", "full", maxUnavailable=0)], 2, {"free"},
        ("--timeout=4s",), {"patience_seconds": 3}, ends_well=False, healthy=1,
    ),
    "two budgets": Case(
        lambda node: [deployed("free", node), deployed("twice", node), budget("one", "twice", maxUnavailable=1),
                      budget("two", "twice", maxUnavailable=1)],
        2, {"free"}, ("--timeout=4s",), {"patience_seconds": 3}, ends_well=False, healthy=2,
    ),
    "two budgets about one that has ended": Case(
        lambda node: [pod("twice", node, restartPolicy="Never"), budget("one", "twice", maxUnavailable=0),
                      budget("two", "twice", maxUnavailable=0)],
        1, {"twice"}, phases={"twice": "Succeeded"},
    ),
    "chosen by labels": Case(
        lambda node: [pod("bare", node), deployed("web", node), deployed("api", node)], 3, {"web"},
        ("--pod-selector=app=web",), {"pod_selector": "app=web"},
    ),
    "ending already": Case(
        lambda node: [held("going", node), deployed("web", node)], 2, {"web"},
        ("--force", "--timeout=4s"), {"force": True}, ends_well=False, ending=("going",),
    ),
    "long grace": Case(
        lambda node: [held("slow", node, terminationGracePeriodSeconds=3600)], 1, {"slow"},
        ("--force", "--timeout=4s"), {"force": True}, ends_well=False,
    ),
    "another grace": Case(
        lambda node: [held("slow", node, terminationGracePeriodSeconds=3600)], 1, {"slow"},
        ("--force", "--timeout=4s", "--grace-period=7"), {"force": True, "grace_seconds": 7}, ends_well=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Drained:
    """What came of it: pods by their label app; seconds that those which are still ending were given."""

    evicted: set[str]
    ends_well: bool
    grace: dict[str, int]


@pytest.mark.parametrize("name", CASES)
def test_the_same_as_kubectl_drain(place: Place, empty_nodes: list[str], name: str) -> None:
    case = CASES[name]
    theirs, ours = ((node, f"{place.namespace}-{number}") for number, node in enumerate(empty_nodes))
    try:
        for node, namespace in (theirs, ours):
            prepare(place, case, node, namespace)
        expected = drained(place, *theirs, lambda: by_kubectl(place, theirs[0], case))
        assert (expected.evicted, expected.ends_well) == (case.evicted, case.ends_well)
        assert drained(place, *ours, lambda: by_us(place, ours[0], case)) == expected
    finally:
        for _node, namespace in (theirs, ours):
            for one in place.lab.api.list(f"/api/v1/namespaces/{namespace}/pods"):
                if one["metadata"].get("finalizers"):
                    path = f"/api/v1/namespaces/{namespace}/pods/{one['metadata']['name']}"
                    place.lab.api.patch(path, {"metadata": {"finalizers": None}})
            place.lab.api.delete(f"/api/v1/namespaces/{namespace}")


def prepare(place: Place, case: Case, node: str, namespace: str) -> None:
    api = place.lab.api
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    made = [{**obj, "metadata": {**obj["metadata"], "namespace": namespace}} for obj in case.objects(node)]
    budgets = [obj for obj in made if obj["kind"] == "PodDisruptionBudget"]
    for obj in made:
        if obj not in budgets:
            api.create(obj)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    until(lambda: len([one for one in api.list(pods) if one["spec"].get("nodeName") == node]) == case.count, "the pods are there")
    if case.healthy:  # of two budgets about a pod the controller counts again for one alone when the pod becomes ready
        until(lambda: all(_ready(one) for one in api.list(pods)), "the pods are ready")
    for obj in budgets:
        api.create(obj)
    for name, phase in case.phases.items():
        until(lambda name=name: api.get(f"{pods}/{name}")["status"].get("phase") == "Running", "it runs before it ends")  # type: ignore[misc]
        api.patch(f"{pods}/{name}", {"status": {"phase": phase}}, subresource="status")
    if case.healthy:
        heeded(place, case.healthy, namespace)
    for name in case.ending:
        api.delete(f"{pods}/{name}")


def _ready(one: Object) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in one.get("status", {}).get("conditions", ()))


def drained(place: Place, node: str, namespace: str, drain: Callable[[], bool]) -> Drained:
    def pods() -> dict[str, Object]:
        return {one["metadata"]["uid"]: one["metadata"] for one in on(place, node) if one["metadata"]["namespace"] == namespace}

    before = pods()
    ends_well = drain()
    after = pods()
    here = {metadata["labels"]["app"]: after.get(uid) for uid, metadata in before.items() if "deletionTimestamp" not in metadata}
    evicted = {app for app, metadata in here.items() if metadata is None or "deletionTimestamp" in metadata}
    grace = {app: metadata["deletionGracePeriodSeconds"] for app, metadata in here.items() if metadata and "finalizers" in metadata
             and app in evicted}  # fmt: skip
    return Drained(evicted, ends_well, grace)


def by_kubectl(place: Place, node: str, case: Case) -> bool:
    said = place.lab.kubectl("drain", node, "--ignore-daemonsets", *case.words, check=False)
    return f"node/{node} drained" in said


def by_us(place: Place, node: str, case: Case) -> bool:
    desk = place.desk(limits=LIMITS)
    try:
        plan = nodes.drain(place.system(desk), desk.environment, desk.who, node, **case.options)
        plan = plan.model_copy(update={"verify": [plan.verify[0].model_copy(update={"deadline_seconds": 3})]})
        pipeline.file_plan(desk, plan)
        return bool(pipeline.execute(desk, plan).verified)
    except (InputError, SourceError):
        return False
