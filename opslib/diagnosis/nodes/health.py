"""Nodes that do not answer, are not ready, or run short of something.

One finding a node explains all pods on it.
"""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.nodes.facts import Facts, Parameters, owner_of, silence, subject
from opslib.diagnosis.pods.nodes import not_answering
from opslib.diagnosis.pods.symptoms import condition
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Message, Text, _, _n
from opslib.sources.objects import Condition, Node

_SHORT: dict[str, Message] = {
    "MemoryPressure": _("memory"),
    "DiskPressure": _("disk space or inodes"),
    "PIDPressure": _("process ids"),
}


def not_ready(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes whose condition Ready is not True: Unknown is one that nobody hears from, False says itself that it cannot."""
    for node in facts.nodes or ():
        down = not_answering(node)
        if down is None:
            continue
        name, unreachable = node.metadata.name, down.status != "False"
        pods = _affected(facts, name)
        yield Finding(
            check="node.unreachable" if unreachable else "node.not_ready",
            severity=Severity.CRITICAL,
            subject=subject(node),
            title=_n(
                "Node {node} does not answer; {count} pod on it is lost or stands still",
                "Node {node} does not answer; {count} pods on it are lost or stand still",
                len(pods),
                node=name,
            )
            if unreachable
            else _n(
                "Node {node} says that it is not ready; {count} pod on it is affected",
                "Node {node} says that it is not ready; {count} pods on it are affected",
                len(pods),
                node=name,
            ),
            cause=_(
                "The machine, its network or its kubelet is down: nobody hears from it, and what its pods do is not known. Their owners "
                "make others elsewhere after about five minutes; StatefulSets do not."
            )
            if unreachable
            else _("Its kubelet runs and reports, but the container runtime or the network of pods does not work."),
            evidence=(_evidence(node, down), *_heartbeat(facts, node)),
            affected=pods,
            since=down.last_transition_time,
            confidence=0.95,
            refuted_by=(Step(_("A node that has come back is Ready again"), facts.command("get", "node", name)),),
            steps=(
                Step(_("Look at its conditions, events and pods"), facts.command("describe", "node", name)),
                *(
                    (
                        Step(_("See whether the machine runs, in EC2's console or with its command"), _instance(node)),
                        Step(_("Keep new pods off it, then replace it"), facts.plan("cordon", name), changes=True),
                        Step(
                            _("Only when the machine is surely off: let StatefulSets' pods start elsewhere"),
                            facts.command("taint", "node", name, "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"),
                            changes=True,
                        ),
                    )
                    if unreachable
                    else (
                        Step(_("Look at the kubelet's and the runtime's log on it (journalctl -u kubelet -u containerd)")),
                        Step(_("Take its pods away before it is restarted or replaced"), facts.plan("drain", name), changes=True),
                    )
                ),
            ),
        )


def silent(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes that are said to be ready and whose heartbeat has stopped: about to become unreachable."""
    for node in facts.nodes or ():
        quiet = silence(facts, node.metadata.name)
        if quiet is None or not_answering(node) is not None or quiet.total_seconds() <= parameters.lease_seconds:
            continue
        yield Finding(
            check="node.silent",
            severity=Severity.WARNING,
            subject=subject(node),
            title=_(
                "Node {node} has given no sign of life for {seconds} s, and still counts as ready",
                node=node.metadata.name,
                seconds=round(quiet.total_seconds()),
            ),
            cause=_("Its kubelet has stopped or is cut off; the control plane has not noticed yet, or does not look."),
            evidence=tuple(_heartbeat(facts, node)),
            affected=_affected(facts, node.metadata.name),
            since=(facts.leases or {}).get(node.metadata.name),
            steps=(Step(_("See whether it becomes NotReady within a minute"), facts.command("get", "node", node.metadata.name, "-w")),),
        )


def pressure(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes that run short of something, or whose network does not work: what any condition but Ready says."""
    for node in facts.nodes or ():
        for one in node.status.conditions:
            if one.type == "Ready" or not is_bad(one):
                continue
            name, short = node.metadata.name, _SHORT.get(one.type)
            yield Finding(
                check="node.pressure" if short else "node.condition",
                severity=Severity.CRITICAL if short else Severity.WARNING,
                subject=subject(node),
                title=_("Node {node} runs short of {what} and evicts pods", node=name, what=short)
                if short
                else _("Node {node} reports {condition}", node=name, condition=one.type),
                cause=_("It takes no new pods until that has passed, and evicts those that use more than they asked for first.")
                if short
                else None,
                evidence=(_evidence(node, one),),
                affected=_affected(facts, name),
                since=one.last_transition_time,
                steps=(
                    Step(_("See what uses it"), facts.command("describe", "node", name)),
                    *(
                        (Step(_("Go on with chapter 4.3 disk"), f"opslib run disk --env {facts.environment}"),)
                        if one.type == "DiskPressure"
                        else ()
                    ),
                    *(
                        (Step(_("Go on with chapter 4.3 memory"), f"opslib run memory --env {facts.environment}"),)
                        if one.type == "MemoryPressure"
                        else ()
                    ),
                ),
            )


def is_bad(one: Condition) -> bool:
    """Whether a condition says that something is wrong: what is called ready (KernelReady) where it is not, all others where they hold."""
    return one.status == ("False" if one.type.endswith("Ready") else "True")


def explained(facts: Facts, node: str) -> Text | None:
    """What is wrong with a node, in a few words; None where nothing is."""
    found = next((one for one in facts.nodes or () if one.metadata.name == node), None)
    if found is None:
        return None
    down = not_answering(found)
    if down is not None:
        return _("unreachable") if down.status != "False" else _("not ready")
    return next(
        (_("short of {what}", what=what) for kind, what in _SHORT.items() if (one := condition(found, kind)) and one.status == "True"), None
    )


def _affected(facts: Facts, node: str) -> tuple[Subject, ...]:
    """The pods on a node that are missed when it is down; the kubelet's own and DaemonSets' belong to it."""
    return tuple(
        Subject("Pod", pod.metadata.name, pod.metadata.namespace)
        for pod in facts.on.get(node, ())
        if owner_of(pod)[0] not in ("DaemonSet", "Node")
    )


def _evidence(node: Node, one: Condition) -> Evidence:
    return Evidence(
        text=_("Condition {type} is {status} ({reason})", type=one.type, status=one.status, reason=one.reason or "-"),
        quote=one.message,
        reference=f"/api/v1/nodes/{node.metadata.name}",
        time=one.last_transition_time,
    )


def _heartbeat(facts: Facts, node: Node) -> Iterator[Evidence]:
    name, quiet = node.metadata.name, silence(facts, node.metadata.name)
    if quiet is not None:
        yield Evidence(
            text=_("Its last heartbeat is {seconds} s older than the newest of all nodes", seconds=round(quiet.total_seconds())),
            reference=f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}",
            time=(facts.leases or {}).get(name),
        )


def _instance(node: Node) -> str:
    from opslib.findings import command

    found = node.spec.provider_id.rpartition("/")[2] if node.spec.provider_id.startswith("aws:") else ""
    return command("aws", "ec2", "describe-instance-status", "--include-all-instances", "--instance-ids", found) if found else ""
