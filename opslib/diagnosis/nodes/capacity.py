"""Nodes that nothing fits on any more, that promised more than they have, whose disks are full; zones out of balance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from opslib.diagnosis.nodes.facts import Facts, Parameters, owner_of, representatives, subject
from opslib.diagnosis.pods.symptoms import condition
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Message, _, _n
from opslib.sources.fitting import requests_of, zone_of
from opslib.sources.objects import Node


def full(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes on which no workload of the cluster would get another pod; one finding says whether any node is left."""
    if not facts.nodes or facts.pods is None:
        return
    usable = [node for node in facts.nodes if _in_service(node)]
    fits = {node.metadata.name: fitting(facts, node.metadata.name) for node in usable}
    taken = [node for node in usable if (found := fits[node.metadata.name]) is not None and found[1] and not found[0]]
    if not taken:
        return
    none_left = len(taken) == len(usable)
    names = [node.metadata.name for node in taken]
    yield Finding(
        check="capacity.full",
        severity=Severity.CRITICAL if none_left else Severity.WARNING,
        subject=Subject("System", "kubernetes") if none_left or len(taken) > 1 else subject(taken[0]),
        title=_("No node has room for another pod of any workload")
        if none_left
        else _n("On {count} node nothing fits any more", "On {count} nodes nothing fits any more", len(taken)),
        cause=_("By requests, taints and labels; what is really in use may be much less."),
        evidence=tuple(
            Evidence(text=_("{node}: {reasons}", node=name, reasons=_reasons(facts, name)), reference=f"/api/v1/nodes/{name}")
            for name in names[:10]
        ),
        affected=tuple(subject(node) for node in taken),
        steps=(
            Step(_("Add nodes, or see why the autoscaler does not"), facts.command("get", "nodes")),
            Step(_("See which requests are larger than what is used"), f"opslib run cpu --env {facts.environment}"),
        ),
    )


def fitting(facts: Facts, node: str) -> tuple[int, int] | None:
    """How many of the workloads that may run on a node would get another pod there, and how many may; None where that is not known."""
    if facts.pods is None:
        return None
    room, fit, may = facts.room, 0, 0
    for pod in representatives(facts):
        why = room.why_not(pod, node, others=False)
        kept_off = why is not None and why.id in ("labels", "taint {taint}", "volume of another zone or node")
        may += not kept_off
        fit += why is None
    return fit, may


def _reasons(facts: Facts, node: str) -> list[Message]:
    found: dict[str, Message] = {}
    for pod in representatives(facts):
        why = facts.room.why_not(pod, node, others=False)
        if why is not None:
            found[str(why)] = why
    return list(found.values())[:4]


def overcommitted(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes whose pods may together use far more memory than there is: the kernel kills where they do."""
    if facts.pods is None:
        return
    for node in facts.nodes or ():
        name = node.metadata.name
        whole = facts.room.allocatable(name, "memory")
        limits = sum(requests_of(pod, limits=True).get("memory", 0.0) for pod in facts.on.get(name, ()))
        if not whole or limits / whole < parameters.overcommit_warning:
            continue
        use = (facts.use or {}).get(name)
        pressing = bool(use and use.memory is not None and use.memory / whole >= parameters.use_warning)
        yield Finding(
            check="capacity.overcommitted",
            severity=Severity.WARNING if pressing else Severity.INFO,
            subject=subject(node),
            title=_("The limits of the pods on node {node} are {percent} % of its memory", node=name, percent=round(100 * limits / whole)),
            cause=_(
                "It holds as long as they do not all use it at once. Where they do, the kernel kills, those with the lowest requests first."
            ),
            evidence=(
                Evidence(
                    text=_("Sum of the containers' memory limits against what the node has for pods"), reference=f"/api/v1/nodes/{name}"
                ),
            ),
            steps=(Step(_("Bring limits and requests nearer to each other"), f"opslib run memory --env {facts.environment}"),),
        )


def disks(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes whose file systems or inodes are nearly used up, and whose kubelet does not say so yet."""
    for node in facts.nodes or ():
        use, short = (facts.use or {}).get(node.metadata.name), condition(node, "DiskPressure")
        if use is None or (short is not None and short.status == "True"):
            continue
        shares = ((use.disk, _("disk"), "node_filesystem_avail_bytes"), (use.inodes, _("inodes"), "node_filesystem_files_free"))
        for share, what, metric in shares:
            if share is None or share < parameters.disk_warning:
                continue
            yield Finding(
                check="capacity.disk",
                severity=Severity.WARNING,
                subject=subject(node),
                title=_(
                    "{percent} % of a file system's {what} on node {node} are in use",
                    percent=round(share * 100),
                    what=what,
                    node=node.metadata.name,
                ),
                cause=_("Once it runs short the kubelet deletes images, then evicts pods."),
                evidence=(Evidence(text=_("The fullest file system of the node"), source="prometheus", reference=metric),),
                steps=(Step(_("Go on with chapter 4.3 disk"), f"opslib run disk --env {facts.environment}"),),
            )


def zones(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Zones of which one has no working node, or far fewer than the others."""
    known = [node for node in facts.nodes or () if zone_of(node)]
    every, working = Counter(zone_of(node) for node in known), Counter(zone_of(node) for node in known if _in_service(node))
    if len(every) < 2:
        return
    most, fewest = max(working.get(zone, 0) for zone in every), min(working.get(zone, 0) for zone in every)
    if fewest and most < 2 * fewest + 1:
        return
    poorest = sorted(zone for zone in every if working.get(zone, 0) == fewest)
    pods = Counter(zone_of(node) for node in known for pod in facts.on.get(node.metadata.name, ()) if owner_of(pod)[0] != "DaemonSet")
    yield Finding(
        check="capacity.zones",
        severity=Severity.WARNING,
        subject=Subject("Zone", poorest[0]),
        title=_("Zone {zones} has {fewest} working nodes, another has {most}", zones=poorest, fewest=fewest, most=most),
        cause=_(
            "Pods that are bound to a zone by their volume find no place there, and the loss of the full zone would take most pods away."
        ),
        evidence=(
            Evidence(
                text=_(
                    "Working nodes and pods by zone: {zones}",
                    zones=[f"{zone}: {working.get(zone, 0)}/{pods[zone]}" for zone in sorted(every)],
                )
            ),
        ),
        steps=(
            Step(
                _("See the node groups' zones and the autoscaler's balance"),
                facts.command("get", "nodes", "-L", "topology.kubernetes.io/zone"),
            ),
        ),
    )


def _in_service(node: Node) -> bool:
    ready = condition(node, "Ready")
    return not node.spec.unschedulable and (ready is None or ready.status == "True")
