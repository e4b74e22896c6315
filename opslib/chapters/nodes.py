"""Chapter 4.2: which nodes are ill, full or forgotten, which pods that explains, and where those would fit.

Pure functions over `Facts`: findings, tables, plots. The rules stand in `opslib.diagnosis.nodes`; `opslib.facts.nodes` reads the facts.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.chapters import plotting
from opslib.chapters.tables import NOT_READ, about, table
from opslib.diagnosis.nodes import diagnose
from opslib.diagnosis.nodes.capacity import fitting
from opslib.diagnosis.nodes.facts import Facts, Parameters, owner_of, silence
from opslib.diagnosis.nodes.health import explained, is_bad
from opslib.diagnosis.nodes.history import stalls, threshold
from opslib.diagnosis.pods.symptoms import condition
from opslib.findings import Column, Finding, Severity, Table, Unit, by_severity
from opslib.messages import Text, _
from opslib.sources.fitting import requests_of, zone_of
from opslib.sources.objects import Node

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NOT_READ", "READS", "REQUIRES", "Facts", "Parameters", "about", "findings"]

REQUIRES: tuple[str, ...] = ("kubernetes",)
READS = ("kubernetes", "prometheus")

_SHOWN = 60  # nodes in one figure


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that the reader should know, worst first; what could not be looked at is among it."""
    return by_severity([*facts.gaps, *diagnose(facts, parameters)])


def nodes_table(facts: Facts, parameters: Parameters) -> Table:
    """The nodes: state and since when, heartbeat, version, taints."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.nodes is not None:
        rows = []
        for node in _ordered(facts):
            name, quiet, ready = node.metadata.name, silence(facts, node.metadata.name), condition(node, "Ready")
            state, severity = _state(facts, node)
            if severity < Severity.WARNING and quiet is not None and quiet.total_seconds() > parameters.lease_seconds:
                severity = Severity.WARNING
            taints = [f"{taint.key}{'=' + taint.value if taint.value else ''}:{taint.effect}" for taint in node.spec.taints]
            rows.append(
                (
                    severity,
                    name,
                    zone_of(node) or None,
                    state,
                    ready.last_transition_time if ready else None,
                    quiet.total_seconds() if quiet is not None else None,
                    _age(ready.last_heartbeat_time if ready else None, facts.now),
                    node.status.node_info.kubelet_version or None,
                    ", ".join(taints) or None,
                    _age(node.metadata.creation_timestamp, facts.now),
                )
            )
    return table(
        "nodes",
        _("Nodes"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("node", _("Node")),
            Column("zone", _("Zone")),
            Column("state", _("State")),
            Column("since", _("Ready or not since"), Unit.TIME),
            Column("lease", _("Silent for"), Unit.SECONDS, _("Age of its lease, which it renews every ten seconds")),
            Column("heartbeat", _("Status sent"), Unit.SECONDS, _("How long ago; it does so every five minutes where nothing changes")),
            Column("version", _("Kubelet")),
            Column("taints", _("Taints")),
            Column("age", _("Age"), Unit.SECONDS),
        ),
        rows,
        _("The cluster has no nodes."),
    )


def history_table(facts: Facts, parameters: Parameters) -> Table:
    """What metrics say of each node's last hours: bad conditions, evictions, stalls, and how near it came to evicting."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.past is not None:
        rows = []
        for name, past in sorted(facts.past.items()):
            spells = Counter(spell.condition for spell in past.spells)
            limit = threshold(facts, name, "memory.available", past.memory_total)
            disk = threshold(facts, name, "nodefs.available", 1.0)
            bad = bool(past.spells or past.evictions) or any(stalls(kind, share, parameters) for kind, share in past.stalled.items())
            rows.append(
                (
                    Severity.WARNING if bad else Severity.OK,
                    name,
                    ", ".join(f"{condition} ({count})" for condition, count in sorted(spells.items())) or None,
                    max((spell.end or facts.now for spell in past.spells), default=None),
                    ", ".join(f"{signal} ({count:.0f})" for signal, count in sorted(past.evictions.items())) or None,
                    *(past.stalled.get(kind) for kind in ("cpu", "memory", "io")),
                    past.load,
                    past.memory_least,
                    limit,
                    past.disk_least,
                    disk,
                )
            )
    return table(
        "history",
        _("The nodes' last {hours} hours", hours=f"{parameters.history_hours:g}"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("node", _("Node")),
            Column("conditions", _("Bad conditions"), meaning=_("How often each began, or was bad from the start")),
            Column("last", _("Last seen bad"), Unit.TIME),
            Column("evictions", _("Evictions"), meaning=_("Pods that the kubelet evicted, by what there was too little of")),
            Column("cpu", _("CPU stalls"), Unit.RATIO, _("Highest share of five minutes in which some work waited; empty: not measured")),
            Column("memory", _("Memory stalls"), Unit.RATIO, _("Highest share of five minutes in which all work stood still for memory")),
            Column("io", _("Disk stalls"), Unit.RATIO, _("Highest share of five minutes in which all work stood still for disks")),
            Column("load", _("Load per core"), Unit.COUNT, _("The highest of five minutes")),
            Column("least", _("Least memory available"), Unit.BYTES),
            Column("limit", _("Evicts below"), Unit.BYTES, _("The kubelet's own threshold where it says it, else its default")),
            Column("disk", _("Least disk available"), Unit.RATIO),
            Column("disk_limit", _("Evicts below"), Unit.RATIO),
        ),
        rows,
        _("Prometheus has no measurements of the nodes."),
    )


def capacity_table(facts: Facts, parameters: Parameters) -> Table:
    """What each node has for pods, what is requested of it, what is in use, and how many workloads would still fit."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.nodes is not None:
        rows = []
        for node in _ordered(facts):
            name, use = node.metadata.name, (facts.use or {}).get(node.metadata.name)
            cores, memory = facts.room.allocatable(name, "cpu"), facts.room.allocatable(name, "memory")
            fits = fitting(facts, name)
            limits = sum(requests_of(pod, limits=True).get("memory", 0.0) for pod in facts.on.get(name, ()))
            shares = (
                _requested(facts, name, "cpu"),
                _share(use.cpu if use else None, cores),
                _requested(facts, name, "memory"),
                _share(use.memory if use else None, memory),
            )
            disks = (use.disk if use else None, use.inodes if use else None)
            bad = any((share or 0) >= parameters.use_warning for share in (shares[1], shares[3]))
            bad = bad or any((share or 0) >= parameters.disk_warning for share in disks)
            rows.append(
                (
                    Severity.WARNING if bad or (fits is not None and fits[1] and not fits[0]) else Severity.OK,
                    name,
                    cores,
                    shares[0],
                    shares[1],
                    memory,
                    shares[2],
                    shares[3],
                    None if facts.pods is None else _share(limits, memory),
                    None if facts.pods is None else len(facts.on.get(name, ())),
                    facts.room.allocatable(name, "pods"),
                    *disks,
                    sum(image.size_bytes for image in node.status.images) or None,
                    fits[0] if fits else None,
                    fits[1] if fits else None,
                )
            )
    return table(
        "capacity",
        _("Room on the nodes"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("node", _("Node")),
            Column("cpu", _("CPU"), Unit.CORES, _("That pods may ask for")),
            Column("cpu_requested", _("CPU requested"), Unit.RATIO),
            Column("cpu_used", _("CPU in use"), Unit.RATIO),
            Column("memory", _("Memory"), Unit.BYTES, _("That pods may ask for")),
            Column("memory_requested", _("Memory requested"), Unit.RATIO),
            Column("memory_used", _("Memory in use"), Unit.RATIO),
            Column("memory_limits", _("Memory limits"), Unit.RATIO, _("Above 100 % the pods may together use more than there is")),
            Column("pods", _("Pods"), Unit.COUNT),
            Column("most_pods", _("At most"), Unit.COUNT),
            Column("disk", _("Disk"), Unit.RATIO, _("The fullest file system")),
            Column("inodes", _("Inodes"), Unit.RATIO),
            Column("images", _("Images"), Unit.BYTES, _("The largest ones: a kubelet names fifty")),
            Column(
                "fit",
                _("Workloads that fit"),
                Unit.COUNT,
                _("That would get another pod there, by requests, taints, labels, ports, volumes"),
            ),
            Column("may", _("Of those allowed"), Unit.COUNT),
        ),
        rows,
        _("The cluster has no nodes."),
    )


def priorities_table(facts: Facts) -> Table:
    """Pods by node and priority: what goes first where room is short."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.pods is not None:
        counts = Counter((pod.spec.node_name, pod.spec.priority, pod.spec.priority_class_name) for pod in facts.pods)
        agents = Counter(
            (pod.spec.node_name, pod.spec.priority, pod.spec.priority_class_name) for pod in facts.pods if owner_of(pod)[0] == "DaemonSet"
        )
        rows = [
            (node or _("(none yet)"), name or None, priority, count, agents[node, priority, name])
            for (node, priority, name), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[0][1], item[0][2]))
        ]
    return table(
        "priorities",
        _("Pods by priority"),
        (
            Column("node", _("Node")),
            Column("name", _("Priority class")),
            Column("priority", _("Priority"), Unit.COUNT, _("The lowest makes room first")),
            Column("pods", _("Pods"), Unit.COUNT),
            Column("agents", _("Of DaemonSets"), Unit.COUNT),
        ),
        rows,
        _("No pods run."),
    )


def zones_table(facts: Facts) -> Table:
    """Zones: nodes, working ones, pods, room."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.nodes is not None:
        rows = []
        for zone in sorted({zone_of(node) for node in facts.nodes}):
            here = [node for node in facts.nodes if zone_of(node) == zone]
            working = [node for node in here if not node.spec.unschedulable and explained(facts, node.metadata.name) is None]
            free = [(facts.room.free(node.metadata.name, "cpu"), facts.room.free(node.metadata.name, "memory")) for node in working]
            known = facts.pods is not None
            rows.append(
                (
                    Severity.OK if len(working) == len(here) else Severity.WARNING,
                    zone or _("(none)"),
                    len(here),
                    len(working),
                    sum(len(facts.on.get(node.metadata.name, ())) for node in here) if known else None,
                    sum(cpu or 0 for cpu, _memory in free) if known else None,
                    sum(memory or 0 for _cpu, memory in free) if known else None,
                )
            )
    return table(
        "zones",
        _("Zones"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("zone", _("Zone")),
            Column("nodes", _("Nodes"), Unit.COUNT),
            Column("working", _("Working"), Unit.COUNT, _("Ready and not cordoned")),
            Column("pods", _("Pods"), Unit.COUNT),
            Column("cpu", _("CPU not requested"), Unit.CORES),
            Column("memory", _("Memory not requested"), Unit.BYTES),
        ),
        rows,
        _("The cluster has no nodes."),
    )


def conditions_figure(facts: Facts, parameters: Parameters) -> Figure:
    """When which condition of which node was bad: a bar a spell, a row a node and condition."""
    from matplotlib.dates import date2num

    title = _("Bad conditions over the last {hours} hours", hours=f"{parameters.history_hours:g}")
    spells = [(name, spell) for name, past in sorted((facts.past or {}).items()) for spell in past.spells]
    rows = list(dict.fromkeys((name, spell.condition) for name, spell in spells))[:_SHOWN]
    figure, axes = plotting.new_figure(title, height=1.2 + 0.32 * max(3, len(rows)))
    if not rows:
        plotting.no_data(axes, NOT_READ if facts.past is None else _("No condition was bad."))
        return figure
    kinds = sorted({condition for _node, condition in rows})
    for place, row in enumerate(rows):
        mine = [(spell.begin, spell.end or facts.now) for name, spell in spells if (name, spell.condition) == row]
        bars = [(date2num(begin), max(0.0005, date2num(end) - date2num(begin))) for begin, end in mine]  # type: ignore[no-untyped-call]
        axes.broken_barh(bars, (place - 0.35, 0.7), **plotting.bar_style(kinds.index(row[1])))
    axes.set_yticks(
        range(len(rows)), [plotting.label(_("{node}: {condition}", node=_short(facts, name), condition=one)) for name, one in rows]
    )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(facts.now - timedelta(hours=parameters.history_hours), facts.now)  # type: ignore[arg-type]
    plotting.time_axis(axes, facts.zone)
    return figure


def heat_figure(facts: Facts) -> Figure:
    """A map of the nodes by zone: what is requested and in use, dark where it is much, the number in each field."""
    title = _("Nodes: requested and in use")
    shown = _ordered(facts, by_zone=True)[:_SHOWN]
    figure, axes = plotting.new_figure(title, height=1.4 + 0.28 * max(3, len(shown)))
    if not shown:
        plotting.no_data(axes, NOT_READ if facts.nodes is None else _("The cluster has no nodes."))
        return figure
    headings = (
        _("CPU requested"), _("CPU in use"), _("Memory requested"), _("Memory in use"), _("Pods"), _("Disk"), _("Inodes"),
    )  # fmt: skip
    values = [_heat(facts, node) for node in shown]
    axes.imshow([[min(1.0, share or 0.0) for share in row] for row in values], cmap="Greys", vmin=0, vmax=1.25, aspect="auto")
    for row, shares in enumerate(values):
        for place, share in enumerate(shares):
            text = "-" if share is None else f"{round(share * 100)}%" + ("!" if share >= 0.9 else "")
            dark = (share or 0) > 0.7
            weight = "bold" if (share or 0) >= 0.9 else "normal"
            axes.text(place, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black", weight=weight)
    axes.set_xticks(range(len(headings)), [plotting.label(one) for one in headings])
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(shown)), [plotting.label(_named(facts, node), 60) for node in shown])
    axes.tick_params(length=0)
    axes.grid(False)
    for row in range(1, len(shown)):
        if zone_of(shown[row]) != zone_of(shown[row - 1]):
            axes.axhline(row - 0.5, color="black", linewidth=1.2)
    return figure


def fit_figure(facts: Facts) -> Figure:
    """How many of the workloads that may run on a node would get another pod there."""
    from matplotlib.ticker import MaxNLocator

    title = _("Where another pod would fit")
    shown = _ordered(facts, by_zone=True)[:_SHOWN]
    figure, axes = plotting.new_figure(title, height=1.2 + 0.36 * max(3, len(shown)), x_label=_("Workloads"))
    found = [fitting(facts, node.metadata.name) for node in shown]
    if not shown or facts.pods is None:
        plotting.no_data(axes, NOT_READ if facts.nodes is None or facts.pods is None else _("The cluster has no nodes."))
        return figure
    series: dict[Text, list[float | None]] = {
        _("fit"): [float(one[0]) if one else None for one in found],
        _("are kept off by a lack of room, or a cordon"): [float(one[1] - one[0]) if one else None for one in found],
    }
    plotting.horizontal_bars(axes, [_named(facts, node) for node in shown], series)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _ordered(facts: Facts, *, by_zone: bool = False) -> list[Any]:
    """The nodes: ill ones first, or by zone."""

    def key(node: Node) -> tuple[Any, ...]:
        return (zone_of(node), node.metadata.name) if by_zone else (-_state(facts, node)[1], zone_of(node), node.metadata.name)

    return sorted(facts.nodes or (), key=key)


def _state(facts: Facts, node: Node) -> tuple[Text, Severity]:
    wrong = explained(facts, node.metadata.name)
    if wrong is not None:
        return wrong, Severity.CRITICAL
    if any(one.type != "Ready" and is_bad(one) for one in node.status.conditions):
        return _("ready, with a condition"), Severity.WARNING
    return (_("cordoned"), Severity.INFO) if node.spec.unschedulable else (_("ready"), Severity.OK)


def _age(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else max(0.0, (now - moment).total_seconds())


def _share(value: float | None, whole: float | None) -> float | None:
    return None if value is None or not whole else value / whole


def _requested(facts: Facts, node: str, resource: str) -> float | None:
    return None if facts.pods is None else _share(facts.room.taken[node].get(resource, 0.0), facts.room.allocatable(node, resource))


def _heat(facts: Facts, node: Node) -> tuple[float | None, ...]:
    name = node.metadata.name
    use = (facts.use or {}).get(name)
    return (
        _requested(facts, name, "cpu"),
        _share(use.cpu if use else None, facts.room.allocatable(name, "cpu")),
        _requested(facts, name, "memory"),
        _share(use.memory if use else None, facts.room.allocatable(name, "memory")),
        _requested(facts, name, "pods"),
        use.disk if use else None,
        use.inodes if use else None,
    )


def _named(facts: Facts, node: Node) -> Text:
    state, severity = _state(facts, node)
    name, zone = _short(facts, node.metadata.name), zone_of(node)
    shown = f"{zone} {name}" if zone else name
    return _("{node} ({state})", node=shown, state=state) if severity > Severity.OK else shown


def _short(facts: Facts, name: str) -> str:
    """A node's name without its domain, where that is enough to tell it from the others."""
    host = name.partition(".")[0]
    return host if sum(node.metadata.name.partition(".")[0] == host for node in facts.nodes or ()) == 1 else name
