"""Nodes cordoned and drained, held against what kubectl does with the same pods."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from opslib.actions import nodes, pipeline
from opslib.errors import InputError, Refused
from opslib.sources.fitting import selects
from tests.actions.conftest import Place


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    labels = {"app": name}
    body = {"nodeName": node, "containers": [{"name": "main", "image": "registry.example.com/main:1"}], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": body}


@pytest.fixture
def node(place: Place) -> Iterator[str]:
    """A node that `web` is on, without the pods of tests before; uncordoned afterwards."""
    name = str(place.pods()[0]["spec"]["nodeName"])

    def alone() -> bool:
        return all(one["metadata"]["namespace"] == place.namespace for one in place.lab.api.list("/api/v1/pods"))

    place.until(alone, "the pods of tests before are gone")
    yield name
    place.lab.api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": False}})


def create(place: Place, obj: dict[str, Any]) -> None:
    metadata = {**obj["metadata"], "namespace": place.namespace}
    place.lab.api.create({**obj, "metadata": metadata})


def budget(place: Place, **spec: Any) -> None:
    create(
        place,
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
         "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec}},
    )  # fmt: skip
    path = f"/apis/policy/v1/namespaces/{place.namespace}/poddisruptionbudgets/web"
    place.until(lambda: place.lab.api.get(path).get("status", {}).get("observedGeneration") == 1, "the budget is heeded")


def test_cordon_and_uncordon(place: Place, node: str) -> None:
    desk = place.desk()
    system = place.system(desk)
    plan = nodes.cordon(system, desk.environment, desk.who, node)
    pipeline.file_plan(desk, plan)
    pipeline.execute(desk, plan)
    place.until(lambda: bool(place.lab.api.get(f"/api/v1/nodes/{node}")["spec"].get("taints")), "the taint is there")
    with pytest.raises(InputError, match="cordon"):
        nodes.cordon(system, desk.environment, desk.who, node)
    assert pipeline.undo(desk, plan) == 1
    assert not place.lab.api.get(f"/api/v1/nodes/{node}")["spec"].get("unschedulable")
    with pytest.raises(InputError):
        nodes.uncordon(system, desk.environment, desk.who, node)


def test_a_drain_empties_the_node_and_can_be_taken_back(place: Place, node: str) -> None:
    budget(place, maxUnavailable=1)
    desk = place.desk(limits={"pods": 50, "nodes": 1, "namespaces": 5})
    plan = nodes.drain(place.system(desk), desk.environment, desk.who, node, patience_seconds=60)
    here = [one["metadata"]["name"] for one in place.pods() if one["spec"]["nodeName"] == node]
    assert [step.what for step in plan.steps if place.namespace in step.what] == [
        f"Evict {place.namespace}/{name}" for name in sorted(here)
    ]
    pipeline.file_plan(desk, plan)
    assert pipeline.execute(desk, plan).verified
    place.until(lambda: place.deployment()["status"].get("availableReplicas") == 2, "web runs elsewhere")
    assert all(one["spec"].get("nodeName") != node for one in place.pods() if "deletionTimestamp" not in one["metadata"])
    assert pipeline.undo(desk, plan) == 1
    assert not place.lab.api.get(f"/api/v1/nodes/{node}")["spec"].get("unschedulable")


def test_a_budget_stops_the_drain_and_it_goes_on_where_it_stopped(place: Place, node: str) -> None:
    budget(place, maxUnavailable=0)
    desk = place.desk(limits={"pods": 50, "nodes": 1, "namespaces": 5})
    plan = nodes.drain(place.system(desk), desk.environment, desk.who, node, patience_seconds=1)
    assert any(f"{place.namespace}/web" in caution for caution in plan.cautions)
    pipeline.file_plan(desk, plan)
    with pytest.raises(Refused, match="disruption budget"):
        pipeline.execute(desk, plan)
    assert len(place.pods()) == 2
    assert pipeline.state(desk, plan) == "begun"
    path = f"/apis/policy/v1/namespaces/{place.namespace}/poddisruptionbudgets/web"
    place.lab.api.patch(path, {"spec": {"maxUnavailable": 2}})
    place.until(lambda: bool(place.lab.api.get(path)["status"].get("disruptionsAllowed")), "the budget has room")
    assert pipeline.execute(desk, plan).verified


def test_one_node_in_a_plan(place: Place, node: str) -> None:
    desk = place.desk(limits={"pods": 1, "nodes": 1, "namespaces": 5})
    for number in range(2):
        create(place, pod(f"bare-{number}", node))
    plan = nodes.drain(place.system(desk), desk.environment, desk.who, node, force=True)
    with pytest.raises(InputError, match=r"limits\.pods"):
        pipeline.file_plan(desk, plan)


def test_what_goes_and_what_stops_it_is_what_kubectl_says(place: Place, node: str) -> None:
    """Every kind of pod, with every combination of the options."""
    create(place, pod("bare", node))
    create(place, pod("scratch", node, volumes=[{"name": "tmp", "emptyDir": {}}]))
    create(place, pod("ended", node, restartPolicy="Never"))
    template = {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "main", "image": "agent:1"}]}}
    spec = {"selector": {"matchLabels": {"app": "agent"}}, "template": template}
    create(place, {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": spec})
    place.until(lambda: sum(one["spec"].get("nodeName") == node for one in place.pods()) >= 5, "all pods are there")
    place.lab.api.patch(f"/api/v1/namespaces/{place.namespace}/pods/ended", {"status": {"phase": "Succeeded"}}, subresource="status")
    desk = place.desk(limits={"pods": 50, "nodes": 1, "namespaces": 5})
    system = place.system(desk)
    for emptied, forced in itertools.product((False, True), repeat=2):
        words = ["drain", node, "--ignore-daemonsets", "--dry-run=client"]
        words += ["--delete-emptydir-data"] * emptied + ["--force"] * forced
        said = place.lab.kubectl(*words, check=False)
        departures = nodes.departures_of(system, node, delete_emptydir_data=emptied, force=forced)
        stopping = {one.name for one in departures if one.fate == "stop"}
        mine = {one.name for one in departures if one.fate == "evict"}
        evicted = set(re.findall(r"evicting pod (\S+)", said))
        if stopping:
            assert not evicted
            refused = said[said.index("cannot delete") :]
            assert stopping == set(re.findall(rf"{place.namespace}/[a-z0-9-]+", refused)), said
        else:
            assert evicted == mine, said


@pytest.mark.parametrize("name", ["none", "a b", ""])
def test_a_node_that_is_not_there_is_refused(place: Place, name: str) -> None:
    desk = place.desk()
    with pytest.raises(InputError):
        nodes.drain(place.system(desk), desk.environment, desk.who, name or "-", force=True)


@pytest.mark.parametrize(
    ("selector", "labels", "taken"),
    [
        (None, {"app": "web"}, False),
        ({}, {}, True),
        ({"matchLabels": {"app": "web"}}, {"app": "web", "x": "y"}, True),
        ({"matchLabels": {"app": "web"}}, {"app": "api"}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}, {"app": "web"}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, {}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, {}, False),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, {}, True),
    ],
)
def test_selectors(selector: dict[str, Any] | None, labels: dict[str, str], taken: bool) -> None:
    assert selects(selector, labels) is taken


def test_a_taint_comes_and_goes_and_says_whom_it_ends(place: Place, node: str) -> None:
    desk = place.desk(limits={"pods": 50, "nodes": 1, "namespaces": 5})
    system = place.system(desk)
    here = [f"{place.namespace}/{one['metadata']['name']}" for one in place.pods() if one["spec"]["nodeName"] == node]
    ending = nodes.taint(system, desk.environment, desk.who, node, "example.com/broken:NoExecute")
    assert ending.reach.pods >= len(here)
    assert all(name in ending.cautions[0] for name in here)
    plan = nodes.taint(system, desk.environment, desk.who, node, "dedicated=batch:NoSchedule")
    assert plan.cautions == []
    pipeline.file_plan(desk, plan)
    pipeline.execute(desk, plan)

    def taints() -> set[tuple[str, str, str]]:
        found = place.lab.api.get(f"/api/v1/nodes/{node}")["spec"].get("taints") or []
        return {(one["key"], one.get("value", ""), one["effect"]) for one in found if one["key"] == "dedicated"}

    assert taints() == {("dedicated", "batch", "NoSchedule")}
    with pytest.raises(InputError, match="already"):
        nodes.taint(system, desk.environment, desk.who, node, "dedicated=batch:NoSchedule")
    assert pipeline.undo(desk, plan) == 1
    assert taints() == set()
    with pytest.raises(InputError, match="already"):
        nodes.taint(system, desk.environment, desk.who, node, "dedicated-")


@pytest.mark.parametrize("change", ["", "a", "a=b", "a:Never", "a b:NoSchedule", "-a:NoSchedule", "a=$(x):NoSchedule", "a:NoSchedule\n"])
def test_what_is_no_taint_is_refused(place: Place, change: str) -> None:
    desk = place.desk()
    node = str(place.pods()[0]["spec"]["nodeName"])
    with pytest.raises(InputError, match="no change of a taint"):
        nodes.taint(place.system(desk), desk.environment, desk.who, node, change)


def test_the_same_taints_as_kubectl_sets(place: Place, node: str) -> None:
    """One after the other, each first planned and then done by kubectl: the plan says what the node is like then."""
    desk = place.desk()
    system = place.system(desk)
    try:
        for change in ("a=1:NoSchedule", "a=2:NoSchedule", "a:PreferNoSchedule", "b.example.com/c:PreferNoSchedule", "a:NoSchedule-", "a-"):
            plan = nodes.taint(system, desk.environment, desk.who, node, change)
            place.lab.kubectl("taint", "node", node, change, "--overwrite")
            wanted = plan.steps[0].request["body"]["spec"]["taints"] or []
            found = place.lab.api.get(f"/api/v1/nodes/{node}")["spec"].get("taints") or []
            assert sorted(map(str, map(_plain, wanted))) == sorted(map(str, map(_plain, found))), change
    finally:
        place.lab.api.patch(f"/api/v1/nodes/{node}", {"spec": {"taints": None}})


def _plain(taint: dict[str, Any]) -> tuple[str, str, str]:
    return taint["key"], taint.get("value", ""), taint["effect"]


def test_the_plan_says_where_pods_would_fit_and_which_fit_nowhere(place: Place, node: str) -> None:
    desk = place.desk(limits={"pods": 50, "nodes": 1, "namespaces": 5})
    plan = nodes.drain(place.system(desk), desk.environment, desk.who, node)
    others = [one["metadata"]["name"] for one in place.lab.api.list("/api/v1/nodes") if one["metadata"]["name"] != node]
    mine = [step for step in plan.steps if f"Evict {place.namespace}/" in step.what]
    assert mine
    for step in mine:
        assert any(f"would fit on {other}" in step.why_no_inverse for other in others)
    for other in others:
        place.lab.api.patch(f"/api/v1/nodes/{other}", {"spec": {"unschedulable": True}})
    try:
        plan = nodes.drain(place.system(desk), desk.environment, desk.who, node)
    finally:
        for other in others:
            place.lab.api.patch(f"/api/v1/nodes/{other}", {"spec": {"unschedulable": False}})
    nowhere = [caution for caution in plan.cautions if "fits on no other node" in caution]
    assert len(nowhere) == len(mine)
    assert all("cordoned" in caution for caution in nowhere)
