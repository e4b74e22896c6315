"""Chapter 4.2 on small facts: one finding a node, what fits where, and what is not known said so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from opslib.chapters import nodes
from opslib.diagnosis.nodes.facts import ImagedNode, Past, Spell, Use
from opslib.findings import Severity
from opslib.sources.fitting import PlacedPod, Room, requests_of, tolerates
from opslib.sources.objects import Node, PersistentVolume, Taint, Toleration, Workload

NOW = datetime(2026, 11, 25, 3, tzinfo=UTC)


def node(
    name: str, zone: str = "a", *, ready: str = "True", taints: Any = (), cpu: str = "4", conditions: Any = (), **spec: Any
) -> ImagedNode:
    since = (NOW - timedelta(minutes=10)).isoformat()
    return msgspec.convert(
        {
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}},
            "spec": {"taints": list(taints), **spec},
            "status": {
                "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"},
                "nodeInfo": {"kubeletVersion": "v1.36.2"},
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}, *conditions],
            },
        },
        ImagedNode,
        strict=False,
    )


def pod(name: str, on: str = "", cpu: str = "100m", *, owner: str = "ReplicaSet", labels: Any = None, **spec: Any) -> PlacedPod:
    references = [{"kind": owner, "name": name.partition("-")[0], "controller": True}] if owner else []
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "shop", "labels": labels or {}, "ownerReferences": references},
            "spec": {"nodeName": on, "containers": [{"resources": {"requests": {"cpu": cpu}, "limits": {"memory": "1Gi"}}}], **spec},
            "status": {"phase": "Running"},
        },
        PlacedPod,
    )


def facts(*found: ImagedNode, pods: Any = (), **more: Any) -> nodes.Facts:
    leases = {one.metadata.name: NOW for one in found}
    return nodes.Facts(
        now=NOW, environment="test", server_version="v1.36.3", nodes=found, pods=tuple(pods), **{"leases": leases, "daemonsets": (), **more}
    )


def checks(of: nodes.Facts) -> dict[str, Severity]:
    return {one.check: one.severity for one in nodes.findings(of, nodes.Parameters())}


def test_nothing_is_found_on_nodes_that_are_well() -> None:
    assert checks(facts(node("one"), node("two", "b"), pods=[pod("web-1", "one"), pod("web-2", "two")])) == {}


@pytest.mark.parametrize(("ready", "check"), [("Unknown", "node.unreachable"), ("False", "node.not_ready")])
def test_a_node_that_is_down_is_one_finding_with_its_pods(ready: str, check: str) -> None:
    pods = [*(pod(f"web-{number}", "one") for number in range(5)), pod("agent-1", "one", owner="DaemonSet"), pod("web-9", "two")]
    found = nodes.findings(facts(node("one", ready=ready), node("two"), pods=pods), nodes.Parameters())
    assert [one.check for one in found] == [check]
    assert {one.name for one in found[0].affected} == {f"web-{number}" for number in range(5)}
    assert found[0].since == NOW - timedelta(minutes=10)
    assert found[0].severity is Severity.CRITICAL


def test_a_heartbeat_that_stopped_is_told_before_the_condition_changes_and_not_for_a_wrong_clock_of_ours() -> None:
    one, two = node("one"), node("two")
    late = {"one": NOW - timedelta(seconds=90), "two": NOW - timedelta(seconds=1)}
    assert checks(facts(one, two, leases=late)) == {"node.silent": Severity.WARNING}
    assert checks(facts(one, two, leases={name: NOW - timedelta(hours=1) for name in ("one", "two")})) == {}


def test_pressure_cordons_clocks_certificates_and_versions() -> None:
    short = node("one", conditions=[{"type": "DiskPressure", "status": "True", "reason": "KubeletHasDiskPressure"}])
    assert checks(facts(short)) == {"node.pressure": Severity.CRITICAL}
    added = (NOW - timedelta(hours=9)).isoformat()
    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "timeAdded": added}
    assert checks(facts(node("one", unschedulable=True, taints=[taint])))["upkeep.cordoned"] is Severity.WARNING
    fresh = {**taint, "timeAdded": (NOW - timedelta(minutes=9)).isoformat()}
    assert checks(facts(node("one", unschedulable=True, taints=[fresh])))["upkeep.cordoned"] is Severity.INFO
    use = {"one": Use(clock=-3.0, certificate=NOW + timedelta(days=2), disk=0.9, inodes=0.2)}
    assert set(checks(facts(node("one"), use=use))) == {"upkeep.clock", "upkeep.certificate", "capacity.disk"}
    old = msgspec.structs.replace(facts(node("one")).nodes[0])  # type: ignore[index]
    old.status.node_info.kubelet_version = "v1.32.1"
    assert checks(facts(old)) == {"upkeep.version_skew": Severity.CRITICAL}


def test_a_daemonset_is_missed_only_where_it_should_be() -> None:
    agents = Workload(kind="DaemonSet")
    agents.metadata.name, agents.metadata.namespace = "agent", "shop"
    tainted = node("two", taints=[{"key": "dedicated", "effect": "NoSchedule"}])
    present = [pod("agent-1", "one", owner="DaemonSet")]
    assert checks(facts(node("one"), tainted, daemonsets=(agents,), pods=present)) == {}
    found = nodes.findings(facts(node("one"), node("three"), daemonsets=(agents,), pods=present), nodes.Parameters())
    assert [(one.check, [each.name for each in one.affected]) for one in found] == [("upkeep.agents_missing", ["three"])]


def test_full_nodes_and_zones_out_of_balance() -> None:
    full = [pod("big-1", "one", "4"), pod("big-2", "two", "4")]
    assert checks(facts(node("one"), node("two"), pods=full)) == {"capacity.full": Severity.CRITICAL}
    assert checks(facts(node("one"), node("two"), node("three"), pods=full)) == {"capacity.full": Severity.WARNING}
    assert "capacity.zones" in checks(facts(node("one"), node("two"), node("three", "b", ready="Unknown")))


def test_what_could_not_be_read_is_not_nothing() -> None:
    blind = nodes.Facts(now=NOW, environment="test")
    parameters = nodes.Parameters()
    assert nodes.findings(blind, parameters) == []
    for shown in (
        nodes.nodes_table(blind, parameters),
        nodes.capacity_table(blind, parameters),
        nodes.zones_table(blind),
        nodes.priorities_table(blind),
    ):
        assert shown.empty == nodes.NOT_READ
    without_pods = facts(node("one"))
    row = dict(
        zip(
            (column.name for column in nodes.capacity_table(without_pods, parameters).columns),
            nodes.capacity_table(nodes.Facts(now=NOW, environment="test", nodes=without_pods.nodes), parameters).rows[0],
            strict=True,
        )
    )
    assert row["cpu_requested"] is None
    assert row["fit"] is None
    for figure in (nodes.heat_figure(blind), nodes.fit_figure(blind), nodes.heat_figure(without_pods), nodes.fit_figure(without_pods)):
        figure.canvas.draw()


# --- what fits where ----------------------------------------------------------------------------------------------------------------------


def why(room: Room, one: PlacedPod, name: str) -> str:
    return str(room.why_not(one, name) or "")


def test_requests_are_the_scheduler_s() -> None:
    containers = [{"resources": {"requests": {"cpu": "200m"}}}, {"resources": {"requests": {"cpu": "300m"}}}]
    sidecar = {"restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}}
    first = {"resources": {"requests": {"cpu": "1"}}}
    one = pod("a", containers=containers, initContainers=[sidecar, first], overhead={"cpu": "50m"})
    assert requests_of(one)["cpu"] == pytest.approx(1.15)
    one = pod("a", containers=containers, initContainers=[first, sidecar])
    assert requests_of(one)["cpu"] == pytest.approx(1.0)
    one = pod("a", containers=containers, initContainers=[sidecar])
    assert requests_of(one)["cpu"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("toleration", "holds"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "a", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "a", "value": "1"}, True),
        ({"key": "a", "operator": "Equal", "value": "2"}, False),
        ({"key": "b", "operator": "Exists"}, False),
    ],
)
def test_tolerations(toleration: dict[str, str], holds: bool) -> None:
    assert tolerates([msgspec.convert(toleration, Toleration)], Taint(key="a", value="1", effect="NoSchedule")) is holds


def test_what_keeps_a_pod_off_a_node() -> None:
    tainted = node("tainted", taints=[{"key": "dedicated", "effect": "NoSchedule"}])
    found: list[Node] = [node("one"), node("two", "b"), tainted, node("off", unschedulable=True)]
    web = {"app": "web"}
    volume = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["b"]}]}]}
    disk = msgspec.convert(
        {"spec": {"claimRef": {"namespace": "shop", "name": "data"}, "nodeAffinity": {"required": volume}}}, PersistentVolume
    )
    room = Room(found, [pod("web-1", "one", "3500m", labels=web)], [disk])
    assert [why(room, pod("x", cpu="1"), name) for name in ("one", "two", "tainted", "off")] == [
        "too little cpu", "", "taint dedicated", "cordoned",
    ]  # fmt: skip
    with_data = pod("db-0", volumes=[{"persistentVolumeClaim": {"claimName": "data"}}])
    assert why(room, with_data, "one") == "volume of another zone or node"
    assert why(room, with_data, "two") == ""
    apart = {"labelSelector": {"matchLabels": web}, "topologyKey": "topology.kubernetes.io/zone"}
    rule = "requiredDuringSchedulingIgnoredDuringExecution"
    lonely = pod("web-2", labels=web, affinity={"podAntiAffinity": {rule: [apart]}})
    assert (why(room, lonely, "one"), why(room, lonely, "two")) == ("anti-affinity", "")
    near = pod("api-1", affinity={"podAffinity": {rule: [apart]}})
    assert (why(room, near, "one"), why(room, near, "two")) == ("", "affinity")
    spread = pod("web-3", labels=web, topologySpreadConstraints=[{**apart, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}])
    assert (why(room, spread, "one"), why(room, spread, "two")) == ("spread over zones or nodes", "")
    assert why(room, pod("x", nodeSelector={"disk": "ssd"}), "two") == "labels"
    assert room.where(pod("x", cpu="1")) == ["two"]


# --- the hours before -------------------------------------------------------------------------------------------------------------------


def spell(ago: float, minutes: float, condition: str = "DiskPressure", *, over: bool = True) -> Spell:
    begin = NOW - timedelta(minutes=ago)
    return Spell(condition, begin, begin + timedelta(minutes=minutes) if over else None)


def test_a_condition_that_comes_and_goes_is_seen_though_all_is_well_now() -> None:
    flaps = {"one": Past(spells=(spell(300, 5), spell(200, 5), spell(100, 5)))}
    (finding,) = nodes.findings(facts(node("one"), past=flaps), nodes.Parameters())
    assert (finding.check, finding.severity, finding.since) == ("node.flapping", Severity.WARNING, NOW - timedelta(minutes=300))
    assert checks(facts(node("one"), past={"one": Past(spells=(spell(300, 5),))})) == {"node.was_bad": Severity.INFO}
    assert checks(facts(node("one"), past={"one": Past(spells=(spell(3, 3, over=False),))})) == {}  # the condition itself is a finding
    assert checks(facts(node("one"), past={"gone": Past(spells=(spell(300, 5),) * 3)})) == {}


def test_a_node_that_has_just_joined_was_not_ready_of_course() -> None:
    new = node("one")
    new.metadata.creation_timestamp = NOW - timedelta(minutes=61)
    assert checks(facts(new, past={"one": Past(spells=(spell(60, 1, "Ready"),))})) == {}


def test_evictions_stalls_and_the_way_to_them() -> None:
    def found(**past: Any) -> dict[str, Severity]:
        return checks(facts(node("one"), past={"one": Past(**past)}))

    assert found(evictions={"memory.available": 3.0}) == {"node.evicted": Severity.WARNING}
    assert found(stalled={"memory": 0.3, "io": 0.1, "cpu": 0.5}) == {"node.stalled_memory": Severity.WARNING}
    assert found(stalled={"cpu": 0.9}) == {"node.stalled_cpu": Severity.WARNING}
    assert found(memory_total=8e9, memory_least=150 * 2.0**20) == {"node.near_eviction": Severity.WARNING}
    assert found(memory_total=8e9, memory_least=2e9, disk_least=0.4) == {}
    assert found(disk_least=0.11) == {"node.near_eviction": Severity.WARNING}
    own = facts(node("one"), past={"one": Past(disk_least=0.11)}, thresholds={"one": {"nodefs.available": "5%"}})
    assert checks(own) == {}


@pytest.mark.parametrize(
    ("kind", "status", "bad"), [("KernelReady", "True", False), ("KernelReady", "False", True), ("FrequentRestarts", "True", True)]
)
def test_a_condition_that_is_called_ready_is_bad_where_it_is_not(kind: str, status: str, bad: bool) -> None:
    assert ("node.condition" in checks(facts(node("one", conditions=[{"type": kind, "status": status}])))) is bad


def test_the_past_is_a_table_and_a_figure_and_what_was_not_read_says_so() -> None:
    past = {"one": Past(spells=(spell(300, 5), spell(100, 5)), stalled={"memory": 0.3}, memory_total=8e9, memory_least=2e9)}
    of = facts(node("one"), past=past)
    (row,) = nodes.history_table(of, nodes.Parameters()).rows
    assert row[:3] == (Severity.WARNING, "one", "DiskPressure (2)")
    assert row[10] == 100 * 2.0**20
    axes = nodes.conditions_figure(of, nodes.Parameters()).axes[0]
    assert len(axes.collections) == 1
    for none in (None, {}):
        assert nodes.conditions_figure(facts(node("one"), past=none), nodes.Parameters()).axes[0].texts
