"""What was wrong with a node and is not now: conditions that come and go, evictions, stalls. The cluster keeps no record of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

from opslib.diagnosis.nodes.facts import Facts, Parameters, Past, Spell
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Message, _, _n
from opslib.sources.quantities import text_of_bytes, value_of

Show = Callable[[float], str]

FLAPS = 3  # as often within the window, a condition comes and goes
NEAR = 2.0  # times the threshold: so little memory was left
NEAR_DISK = 0.02  # of the disk above the threshold

# https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#hard-eviction-thresholds
DEFAULTS = {"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%"}
_STALLED: dict[str, Message] = {"cpu": _("CPU"), "memory": _("memory"), "io": _("its disks")}


def threshold(facts: Facts, node: str, signal: str, whole: float | None) -> float | None:
    """Below what the kubelet of a node evicts, in the unit of `whole`: its own setting where it was asked, else its default."""
    text = facts.thresholds.get(node, DEFAULTS).get(signal, "")
    if text.endswith("%"):
        share = value_of(text[:-1])
        return None if share is None or whole is None else share / 100 * whole
    return value_of(text)


def flapping(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Conditions that were bad within the window and are fine now."""
    known = {node.metadata.name: node for node in facts.nodes or ()}
    for name, past in sorted((facts.past or {}).items()):
        node = known.get(name)
        born = node.metadata.creation_timestamp if node else None
        # a node that has just joined is not ready for its first minutes
        over = [one for one in past.spells if not (born and one.begin - born < timedelta(minutes=5))]
        for condition in sorted({one.condition for one in over}):
            mine = [one for one in over if one.condition == condition]
            if node is None or mine[-1].end is None:
                continue  # gone, or bad now: that is another finding
            often = len(mine) >= FLAPS
            yield Finding(
                check="node.flapping" if often else "node.was_bad",
                severity=Severity.WARNING if often else Severity.INFO,
                subject=Subject("Node", name),
                title=_(
                    "Node {node} flaps: {condition} was bad {count} times in {hours} hours, and is fine now",
                    node=name,
                    condition=condition,
                    count=len(mine),
                    hours=f"{parameters.history_hours:g}",
                )
                if often
                else _("Node {node}: {condition} was bad, and is fine now", node=name, condition=condition),
                cause=_("What comes and goes will come again: the pods on it move each time, and nobody sees why.") if often else None,
                evidence=tuple(_spell(one) for one in mine[-3:]),
                since=mine[0].begin,
                steps=(
                    Step(
                        _("Compare the times with what ran there, and with the machine's own log"), facts.command("describe", "node", name)
                    ),
                ),
            )


def evicted(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes whose kubelet evicted pods within the window."""
    for name, past in sorted((facts.past or {}).items()):
        count = round(sum(past.evictions.values()))
        if not count:
            continue
        yield Finding(
            check="node.evicted",
            severity=Severity.WARNING,
            subject=Subject("Node", name),
            title=_n(
                "Node {node} evicted {count} pod in {hours} hours, for want of {signals}",
                "Node {node} evicted {count} pods in {hours} hours, for want of {signals}",
                count,
                node=name,
                hours=f"{parameters.history_hours:g}",
                signals=sorted(past.evictions),
            ),
            cause=_("The kubelet evicts those first that use more than they asked for: they ask for too little, or something grew."),
            evidence=tuple(
                Evidence(
                    text=_("{signal}: {count}", signal=signal, count=f"{value:.0f}"), source="prometheus", reference="kubelet_evictions"
                )
                for signal, value in sorted(past.evictions.items())
            ),
            steps=(Step(_("See what uses more than it asked for"), f"opslib run memory --env {facts.environment}"),),
        )


def stalls(kind: str, share: float, parameters: Parameters) -> bool:
    """Whether such a share of the time is trouble: some work waits for CPU on every busy node, which is none before it is nearly always."""
    return share >= (max(0.8, parameters.stalled_warning) if kind == "cpu" else parameters.stalled_warning)


def stalled(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes on which work stood still for want of memory or disks, or waited for CPU."""
    for name, past in sorted((facts.past or {}).items()):
        for kind, share in sorted(past.stalled.items()):
            if not stalls(kind, share, parameters):
                continue
            yield Finding(
                check=f"node.stalled_{kind}",
                severity=Severity.WARNING,
                subject=Subject("Node", name),
                title=_(
                    "Work on node {node} stood still for {what} in up to {share} of the time",
                    node=name,
                    what=_STALLED[kind],
                    share=f"{share:.0%}",
                ),
                evidence=(
                    Evidence(
                        text=_("The highest share of five minutes in the last {hours} hours", hours=f"{parameters.history_hours:g}"),
                        source="prometheus",
                        reference=f"node_pressure_{kind}_{'waiting' if kind == 'cpu' else 'stalled'}_seconds_total",
                    ),
                ),
                steps=(Step(_("See who uses it"), f"opslib run {'disk' if kind == 'io' else kind} --env {facts.environment}"),),
            )


def near_eviction(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes that came near to evicting pods, and have not."""
    for name, past in sorted((facts.past or {}).items()):
        if past.evictions:
            continue
        for what, least, limit, shown in _near(facts, name, past):
            yield Finding(
                check="node.near_eviction",
                severity=Severity.WARNING,
                subject=Subject("Node", name),
                title=_("Node {node} came near to evicting pods: {what}", node=name, what=what),
                evidence=(
                    Evidence(
                        text=_("At least {least} were available; the kubelet evicts below {limit}", least=shown(least), limit=shown(limit)),
                        source="prometheus",
                    ),
                ),
                steps=(Step(_("See what it has room for, and move something away"), facts.command("describe", "node", name)),),
            )


def _near(facts: Facts, node: str, past: Past) -> Iterator[tuple[Message, float, float, Show]]:
    memory = threshold(facts, node, "memory.available", past.memory_total)
    if memory is not None and past.memory_least is not None and past.memory_least < NEAR * memory:
        yield _("memory"), past.memory_least, memory, text_of_bytes
    disk = threshold(facts, node, "nodefs.available", 1.0)
    if disk is not None and disk < 1 and past.disk_least is not None and past.disk_least < disk + NEAR_DISK:
        yield _("disk space or inodes"), past.disk_least, disk, _share


def _share(value: float) -> str:
    return f"{value:.0%}"


def _spell(one: Spell) -> Evidence:
    minutes = round(((one.end or one.begin) - one.begin).total_seconds() / 60)
    return Evidence(
        text=_("{condition} was bad for {minutes} min", condition=one.condition, minutes=max(1, minutes)),
        source="prometheus",
        reference="kube_node_status_condition",
        time=one.begin,
    )
