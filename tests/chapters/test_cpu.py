"""Chapter 4.3 CPU on small facts: every rule with what it must find and what it must leave alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.chapters import cpu
from opslib.diagnosis.cpu.facts import Facts, Node, Parameters, better_limit, cores, culprit, room
from opslib.diagnosis.usage import Change, Cluster, Place, Series, Use
from opslib.findings import Finding, Severity
from opslib.messages import _, use_language
from opslib.sources.fitting import PlacedPod
from opslib.sources.objects import Autoscaler, convert
from opslib.sources.objects import Node as ClusterNode

NOW = datetime(2026, 4, 10, 12, 0, tzinfo=UTC)
PARAMETERS = Parameters()
CART = Place("shop", "cart", "cart")
TIMES = NOW.timestamp() - np.arange(180, -1, -1, dtype=np.float64) * 120.0
CHANGED = NOW - timedelta(hours=2)


def series(before: float, after: float, at: datetime = CHANGED) -> Series:
    return Series(TIMES, np.where(at.timestamp() > TIMES, before, after))


def use(**more: Any) -> Use:
    return Use(**{"pods": 3, "total": 0.9, "highest": 0.3, "request": 0.25, "limit": 1.0, **more})


def change(kind: Any = "limit", hours: float = 2, container: str = "cart", workload: str = "cart") -> Change:
    return Change(NOW - timedelta(hours=hours), "shop", workload, kind, _("rollout"), container)


def scaler(current: int = 3, wanted: int = 3, most: int = 5, limited: str | None = None) -> Autoscaler:
    conditions = [] if limited is None else [{"type": "ScalingLimited", "status": "True", "reason": limited, "message": "the desired ..."}]
    return convert(
        {
            "metadata": {"name": "cart", "namespace": "shop"},
            "spec": {"minReplicas": 2, "maxReplicas": most, "scaleTargetRef": {"kind": "Deployment", "name": "cart"}},
            "status": {"currentReplicas": current, "desiredReplicas": wanted, "conditions": conditions},
        },
        Autoscaler,
    )


def node(**more: Any) -> Node:
    given: dict[str, Any] = {
        "name": "node-1", "cores": 4.0, "used": 1.0, "requested": 2.0, "memory_requested": 8e9, "steal": 0.0,
        "waiting": 0.0, "load": 1.0, "pods": 20.0,
    }  # fmt: skip
    return Node(**{**given, **more})


def machine(name: str = "node-1", **spec: Any) -> ClusterNode:
    allocatable = {"cpu": "4", "memory": "16G", "pods": "58"}
    return convert({"metadata": {"name": name}, "spec": spec, "status": {"allocatable": allocatable}}, ClusterNode)


def example(cpu: str = "250m", memory: str = "1G", **spec: Any) -> PlacedPod:
    resources = {"requests": {"cpu": cpu, "memory": memory}}
    return convert({"metadata": {"namespace": "shop"}, "spec": {"containers": [{"resources": resources}], **spec}}, PlacedPod)


def facts(**fields: Any) -> Facts:
    """A service that is well: each test breaks one thing."""
    well: dict[str, Any] = {
        "cluster": Cluster({("shop", "cart"): "Deployment"}), "uses": {CART: use()}, "throttled": {}, "nodes": (node(),),
        "busiest": {CART: "cart-abc-1"}, "schedulable": (machine(),),
        "examples": {("shop", "cart"): example()}, "autoscalers": (scaler(),),
    }  # fmt: skip
    return Facts(now=NOW, environment="lab", **{**well, **fields})


def found(**fields: Any) -> list[Finding]:
    return cpu.findings(facts(**fields), PARAMETERS)


def one(check: str, **fields: Any) -> Finding:
    [finding] = found(**fields)
    assert finding.check == check
    return finding


def test_nothing_is_found_where_all_is_well() -> None:
    assert found() == []


def test_what_was_not_read_is_not_judged_and_the_tables_say_so() -> None:
    nothing = Facts(now=NOW, environment="lab")
    assert cpu.findings(nothing, PARAMETERS) == []
    for table in (
        cpu.use_table(nothing, PARAMETERS), cpu.changes_table(nothing), cpu.sizing_table(nothing), cpu.autoscalers_table(nothing),
        cpu.nodes_table(nothing, PARAMETERS),
    ):  # fmt: skip
        assert table.empty == cpu.NOT_READ, table.name
    assert cpu.throttling_figure(nothing, PARAMETERS)


@pytest.mark.parametrize(("share", "severity"), [(0.3, Severity.WARNING), (0.8, Severity.CRITICAL)])
def test_a_throttled_container(share: float, severity: Severity) -> None:
    finding = one("cpu.throttled", throttled={CART: share})
    assert finding.severity is severity
    assert [str(pod) for pod in finding.affected] == ["shop/Pod/cart-abc-1"]
    assert any("opslib plan processes cart-abc-1 -n shop -c cart" in step.command for step in finding.steps)
    assert found(throttled={CART: 0.1}) == []


def test_throttling_that_began_with_a_limit_names_it_and_proposes_another() -> None:
    finding = one(
        "cpu.throttled", throttled={CART: 0.5}, throttling={CART: series(0.01, 0.6)}, changes=(change(), change("rollout", 5, "")),
        uses={CART: use(limit=0.18, peak=0.32)},
    )  # fmt: skip
    assert finding.since == CHANGED
    with use_language("en"):
        assert "limit" in str(finding.cause)
        assert any("1 % before, in 60 % after" in str(item.text) for item in finding.evidence)
    assert not any("rollback" in step.command for step in finding.steps)
    assert any(step.command.endswith("set resources deployment/cart -c cart --limits=cpu=500m") for step in finding.steps)


def test_throttling_that_began_with_a_release_can_be_taken_back() -> None:
    finding = one("cpu.throttled", throttled={CART: 0.5}, throttling={CART: series(0.0, 0.6)}, changes=(change("image"),))
    assert finding.steps[0].command == "opslib plan rollback deployment/cart -n shop --env lab"


def test_a_change_after_which_it_did_not_rise_is_not_to_blame() -> None:
    of = facts(throttling={CART: series(0.6, 0.6)}, changes=(change(), change("rollout", 1)))
    assert culprit(of, CART) is None
    of = facts(throttling={CART: series(0.0, 0.6)}, changes=(change(workload="other"), change(container="sidecar")))
    assert culprit(of, CART) is None


def test_a_container_at_its_limit_that_is_not_known_to_be_throttled() -> None:
    assert one("cpu.near_limit", uses={CART: use(highest=0.95)}, throttled=None).severity is Severity.WARNING
    assert found(uses={CART: use(highest=0.95, limit=None)}) == []


def test_nodes_that_are_busy_kept_back_or_queue() -> None:
    assert one("nodes.busy", nodes=(node(used=3.8),))
    assert one("nodes.steal", nodes=(node(steal=0.4),))
    assert one("nodes.load", nodes=(node(load=10.0),))
    with use_language("en"):
        assert "disks" in str(one("nodes.load", nodes=(node(load=10.0, waiting=1.0),)).cause)
    assert found(nodes=(Node(name="node-2"),)) == []


def test_an_autoscaler_at_its_maximum_says_where_more_would_fit() -> None:
    finding = one("scaling.at_maximum", autoscalers=(scaler(5, 5, 5, "TooManyReplicas"),))
    with use_language("en"):
        assert any("8 more of its pods fit, on 1 nodes" in str(step.text) for step in finding.steps)
    assert any('{"spec":{"maxReplicas":8}}' in step.command for step in finding.steps)


@pytest.mark.parametrize(
    "well",
    [
        scaler(5, 5, 5, "TooFewReplicas"),  # held up by its minimum
        scaler(4, 4, 5),
        convert({"spec": {"minReplicas": 3, "maxReplicas": 3}, "status": {"currentReplicas": 3, "desiredReplicas": 3}}, Autoscaler),
        Autoscaler(),
    ],
)
def test_an_autoscaler_that_does_not_want_more_is_left_alone(well: Autoscaler) -> None:
    assert found(autoscalers=(well,)) == []


def test_where_pods_fit() -> None:
    def fitting(pod: PlacedPod, *machines: ClusterNode, **more: Any) -> tuple[int, int] | None:
        nodes = tuple(node(name=one.metadata.name, **more) for one in machines)
        return room(facts(examples={("shop", "cart"): pod}, schedulable=machines, nodes=nodes), "shop", "cart")

    assert fitting(example("500m"), machine()) == (4, 1)  # by CPU
    assert fitting(example("500m", "4G"), machine()) == (2, 1)  # by memory
    assert fitting(example("500m"), machine(), pods=57.0) == (1, 1)  # by the number of pods
    assert fitting(example("500m"), machine(), requested=5.0) == (0, 0)
    assert fitting(example(), machine(), machine("node-2", unschedulable=True)) == (8, 1)
    tainted = machine("node-2", taints=[{"key": "dedicated", "value": "batch", "effect": "NoSchedule"}])
    assert fitting(example(), machine(), tainted) == (8, 1)
    assert fitting(example(tolerations=[{"operator": "Exists"}]), machine(), tainted) == (16, 2)
    assert fitting(example(nodeSelector={"disk": "ssd"}), machine()) == (0, 0)
    ported = {"containers": [{"ports": [{"hostPort": 80}]}]}
    assert fitting(example(**ported), machine()) == (1, 1)
    assert room(facts(nodes=(node(), Node(name="x"))), "shop", "cart") == (8, 1)  # of the other it is not known
    assert room(facts(nodes=None), "shop", "cart") is None
    assert room(facts(schedulable=None), "shop", "cart") is None
    assert room(facts(), "shop", "unknown") is None


def test_sizes_come_from_percentiles_and_say_what_they_save() -> None:
    sized = use(p50=0.05, p95=0.1, p99=0.15, peak=0.2)
    [row] = cpu.sizing_table(facts(uses={CART: sized})).frame().to_dict("records")
    assert row["new_request"] == pytest.approx(0.12)
    assert row["new_limit"] == pytest.approx(0.3)
    assert row["saving"] == pytest.approx(3 * 0.13)
    [row] = cpu.sizing_table(facts(uses={CART: use(p95=0.1, peak=0.2, limit=None)})).frame().to_dict("records")
    assert row["new_limit"] is None  # where there is no limit none is proposed


@given(limit=st.floats(0.01, 64), peak=st.none() | st.floats(0, 64), share=st.floats(0, 1))
def test_a_better_limit_is_always_a_higher_one(limit: float, peak: float | None, share: float) -> None:
    found = better_limit(use(limit=limit, peak=peak), share)
    assert found is not None
    assert found >= 1.5 * limit - 1e-9
    assert found >= 1.5 * (peak or 0) - 1e-9


def test_cores_are_written_as_kubernetes_does() -> None:
    assert [cores(value) for value in (0.18, 0.25, 1, 1.5, 12)] == ["180m", "250m", "1", "1.5", "12"]


def test_changes_stand_with_what_they_did() -> None:
    of = facts(throttled={CART: 0.5}, throttling={CART: series(0.1, 0.6)}, changes=(change(),))
    [row] = cpu.changes_table(of).frame().to_dict("records")
    assert (row["before"], row["after"]) == (pytest.approx(0.1), pytest.approx(0.6))


@pytest.mark.parametrize("language", ["ja", "en"])
def test_throttling_is_drawn_with_limit_and_changes(language: str) -> None:
    place = Place("shop", "cart-$x$-\u202e", "cart")
    of = facts(
        throttled={place: 0.5}, throttling={place: series(0.1, 0.6)}, using={place: series(0.3, 0.18)}, limits={place: series(1, 0.18)},
        uses={place: use()}, changes=(change(workload=place.workload),),
    )  # fmt: skip
    with use_language(language):
        figure = cpu.throttling_figure(of, PARAMETERS)
        figure.canvas.draw()
    assert len(figure.axes) == 2
    assert sum(len(axes.get_lines()) for axes in figure.axes) >= 5
