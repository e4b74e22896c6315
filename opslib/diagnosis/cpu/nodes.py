"""Nodes whose CPU is used up, held back, or waited for; autoscalers at their end."""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.cpu.containers import scale_out
from opslib.diagnosis.cpu.facts import Facts, Node, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Message, Text, _
from opslib.sources.objects import Autoscaler


def busy(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes that have no CPU left, whose hypervisor keeps it back, or whose processes queue."""
    for node in facts.nodes or ():
        if not node.cores:
            continue
        used, steal = (node.used or 0) / node.cores, (node.steal or 0) / node.cores
        load, waiting = (node.load or 0) / node.cores, (node.waiting or 0) / node.cores
        if steal >= parameters.steal_warning:
            yield _finding(
                facts, node, "nodes.steal",
                _("The hypervisor keeps {percent} % of node {node}'s CPU back", percent=round(steal * 100), node=node.name),
                _("A burstable instance has used up its credits, or its host is overbooked: pods are slow there without any throttling."),
                _("Move pods away (opslib plan drain), and choose an instance type that is not burstable, or unlimited credits"),
            )  # fmt: skip
        if used >= parameters.use_warning:
            yield _finding(
                facts, node, "nodes.busy",
                _("The CPU of node {node} is {percent} % in use", node=node.name, percent=round(used * 100)),
                _("Pods get what they asked for, and nothing beyond: those that use more than their request become slow."),
                _("Scale out or move pods; raise the requests of those that use more than they asked for"),
            )  # fmt: skip
        elif load >= parameters.load_warning:
            disks = waiting >= 0.1
            yield _finding(
                facts, node, "nodes.load",
                _("On node {node} {load} processes a core run or wait", node=node.name, load=f"{load:.1f}"),
                _("They wait for disks: {percent} % of the CPU's time goes by with that.", percent=round(waiting * 100))
                if disks else _("More processes want to run than there are cores."),
                _("Look at the disks (chapter 4.3 disk)") if disks else _("See which pods run there, and move some"),
            )  # fmt: skip


def _finding(facts: Facts, node: Node, check: str, title: Message, cause: Text, advice: Text) -> Finding:
    assert node.cores
    return Finding(
        check=check,
        severity=Severity.WARNING,
        subject=Subject("Node", node.name),
        title=title,
        cause=cause,
        evidence=(
            Evidence(
                text=_(
                    "Of {cores} cores {used} are in use, {steal} kept back by the hypervisor, {waiting} wait for disks; load {load}",
                    cores=f"{node.cores:g}", used=_number(node.used), steal=_number(node.steal), waiting=_number(node.waiting),
                    load=_number(node.load),
                ),
                source="prometheus", reference="node_cpu_seconds_total, node_load5", time=facts.now,
            ),
        ),
        steps=(Step(_("See what runs there"), facts.cluster.command("", "describe", "node", node.name)), Step(advice)),
    )  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def at_maximum(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Autoscalers that would have more pods, and may not."""
    for one in facts.autoscalers or ():
        if not is_at_maximum(one):
            continue
        target, namespace, name = one.spec.scale_target_ref, one.metadata.namespace, one.metadata.name
        yield Finding(
            check="scaling.at_maximum",
            severity=Severity.WARNING,
            subject=Subject("HorizontalPodAutoscaler", name, namespace),
            title=_("The autoscaler {name} is at its maximum of {count} pods and wants more", name=name, count=one.spec.max_replicas),
            cause=_("More is asked of {target} than its pods can do, or each of them does less than before.", target=target.name),
            evidence=tuple(
                Evidence(
                    text=_("Condition {type}: {reason}", type=condition.type, reason=condition.reason or "-"), quote=condition.message,
                    reference=f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers/{name}",
                    time=condition.last_transition_time,
                )
                for condition in one.status.conditions
                if condition.type == "ScalingLimited"
            ),
            steps=(
                Step(_("See first whether its pods are throttled or slow for another reason: more of them would not help then")),
                Step(scale_out(facts, namespace, target.name)),
                Step(
                    _("If the load is real, raise the maximum, best in the manifest it is deployed from"),
                    facts.cluster.command(
                        namespace, "patch", f"hpa/{name}", "--type=merge",
                        "-p", f'{{"spec":{{"maxReplicas":{max(one.spec.max_replicas + 1, round(one.spec.max_replicas * 1.5))}}}}}',
                    ),
                    changes=True,
                ),
            ),
        )  # fmt: skip


def is_at_maximum(one: Autoscaler) -> bool:
    """Whether the maximum keeps an autoscaler from what it wants.

    It says so itself in its condition ScalingLimited (reason TooManyReplicas); where it has none, being at a maximum above its minimum
    does.
    """
    limited = next((condition for condition in one.status.conditions if condition.type == "ScalingLimited"), None)
    full = one.status.current_replicas >= one.spec.max_replicas > 0
    if limited is not None:
        return full and limited.status == "True" and limited.reason == "TooManyReplicas"
    return full and one.status.desired_replicas >= one.spec.max_replicas > (one.spec.min_replicas or 1)
