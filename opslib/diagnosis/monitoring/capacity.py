"""The cluster's use of its nodes."""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.monitoring.facts import Facts, NodeUse, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import Message, Text, _

ALMOST_FULL = 0.95  # of allocatable: from here on hardly any pod fits


def ratio(part: float | None, whole: float | None) -> float | None:
    """`part` of `whole`; None where either is not known."""
    return part / whole if part is not None and whole else None


def nodes_in_use(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes near their limits. Busy CPU slows things down (a warning at most); full memory or disk stops them."""
    for node in facts.nodes or []:
        yield from _use(facts, parameters, node, "cpu", _("CPU"), ratio(node.cpu_used, node.cpu_allocatable), None)
        yield from _use(
            facts, parameters, node, "memory", _("memory"), ratio(node.memory_used, node.memory_allocatable), parameters.use_critical
        )
        full = [(mount, use) for mount, (used, size) in node.filesystems.items() if (use := ratio(used, size)) is not None]
        if full:
            mount, use = max(full, key=lambda item: item[1])
            yield from _use(facts, parameters, node, "filesystem", _("file system {mount}", mount=mount), use, parameters.use_critical)


def _use(
    facts: Facts, parameters: Parameters, node: NodeUse, check: str, what: Message, use: float | None, critical: float | None
) -> Iterator[Finding]:
    if use is None or use < parameters.use_warning:
        return
    context = ("--context", facts.context) if facts.context else ()
    advice: Text = {
        "cpu": _("See chapter 4.3: the processes, the limits, scale-out"),
        "memory": _("See chapter 4.3: leaks and limits; the node may begin to evict pods"),
        "filesystem": _("See chapter 4.3: files to delete, log rotation, volume expansion"),
    }[check]
    yield Finding(
        check=f"nodes.{check}",
        severity=Severity.CRITICAL if critical is not None and use >= critical else Severity.WARNING,
        subject=Subject("Node", node.name),
        title=_("The node {node} is short of {what}", node=node.name, what=what),
        evidence=(
            Evidence(
                text=_(
                    "{percent} % of it is in use; from {limit} % on that is a warning",
                    percent=round(use * 100),
                    limit=round(parameters.use_warning * 100),
                ),
                source="prometheus",
            ),
        ),
        steps=(Step(advice), Step(_("See what runs there"), command("kubectl", *context, "describe", "node", node.name))),
    )


def requests(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A cluster in which the pods' requests fill nearly everything: the next pod, or those of a lost node, will not fit."""
    for check, what, pairs in (
        ("cpu", _("CPU"), [(node.cpu_requested, node.cpu_allocatable) for node in facts.nodes or []]),
        ("memory", _("memory"), [(node.memory_requested, node.memory_allocatable) for node in facts.nodes or []]),
    ):
        known = [(requested, allocatable) for requested, allocatable in pairs if requested is not None and allocatable]
        if not known:
            continue
        requested, allocatable = sum(pair[0] for pair in known), sum(pair[1] for pair in known)
        left = allocatable - max(pair[1] for pair in known)  # with the largest node gone
        if requested >= ALMOST_FULL * allocatable or (len(known) > 1 and requested > left):
            full = requested >= ALMOST_FULL * allocatable
            yield Finding(
                check=f"nodes.requests_{check}",
                severity=Severity.WARNING if full else Severity.INFO,
                subject=Subject("Cluster", facts.environment),
                title=_("The pods' requests leave hardly any {what} in the cluster", what=what)
                if full
                else _("If the largest node is lost, its pods do not fit on the others: {what}", what=what),
                evidence=(
                    Evidence(
                        text=_(
                            "Requests are {percent} % of what {nodes} nodes can give",
                            percent=round(100 * requested / allocatable),
                            nodes=len(known),
                        ),
                        source="prometheus",
                        reference="kube_pod_container_resource_requests / kube_node_status_allocatable",
                    ),
                ),
                steps=(Step(_("Add a node, or lower requests that are far above use")),),
            )
