"""Pods that their node ended, refused, or lost."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

from opslib.diagnosis.pods.cases import Case, Rule, kubectl
from opslib.diagnosis.pods.symptoms import condition
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.objects import Condition, Node

# Reasons with which the kubelet turns away a pod that was bound to its node (pkg/kubelet/lifecycle/predicate.go and others).
REFUSALS = re.compile(
    r"^OutOf|^NodeAffinity$|^NodeSelector|^NodePorts$|^NodeName$|^NodeUnschedulable$|^Taint|Admission|^TopologyAffinity|^SysctlForbidden$|^PodOSNotSupported|^PodOSSelector|^InvalidNodeInfo$|^AppArmor$|^UnexpectedPredicate"
)


def lost(case: Case) -> Finding | None:
    """The pod's node does not answer."""
    node = case.facts.node(case.pod.spec.node_name)
    down = not_answering(node)
    named = case.pod.status.reason == "NodeLost" or case.pod.status.phase == "Unknown"
    if not (named or (down and case.symptom.kind in ("lost", "not_ready", "exited", "creating", "gate"))):
        return None
    if case.symptom.kind == "terminating":
        return None
    found = case.finding(
        "node.lost",
        _("Node {node} does not answer", node=case.pod.spec.node_name or "?"),
        cause=_(
            "The node's kubelet no longer reports: the machine, its network or the kubelet is down. What the pods do there is not known."
        ),
        evidence=[*node_evidence(case, down), *_status_evidence(case)],
        steps=(
            Step(_("Look at the node"), kubectl(case.facts, "", "describe", "node", case.pod.spec.node_name)),
            Step(_("Go on with the runbook's section 4.2 (node failures)")),
            Step(
                _("Only when the machine is surely off: take its pods away from it, so that they start elsewhere"),
                case.kubectl("delete", "pod", case.pod.metadata.name, "--force", "--grace-period=0"),
                changes=True,
            ),
        ),
    )
    if down is None or node is None:
        return found
    # What the pods' owners serve failed with the node; of the pods that is said later, and of some not at all.
    found = replace(found, since=min((time for time in (found.since, down.last_transition_time) if time), default=None))
    if found.severity > Severity.WARNING:
        return found
    # Owners that serve from elsewhere are one finding a node, or a lost node would be told once for each of its pods.
    return replace(
        found,
        subject=Subject("Node", node.metadata.name),
        title=_("Node {node} does not answer; its pods' owners have others that are ready", node=node.metadata.name),
        affected=tuple(Subject("Pod", pod.metadata.name, pod.metadata.namespace) for pod in case.pods),
        steps=found.steps[:2],
    )


def _status_evidence(case: Case) -> list[Evidence]:
    status = case.pod.status
    if not status.reason:
        return []
    return [case.pod_evidence(_("The pod ended: {reason}", reason=status.reason), status.message)]


def preempted(case: Case) -> Finding | None:
    """A pod of higher priority took its place."""
    target = condition(case.pod, "DisruptionTarget")
    reason = target.reason if target and target.status == "True" else ""
    if case.symptom.kind != "evicted" or not (case.pod.status.reason in ("Preempting", "Preempted") or reason == "PreemptionByScheduler"):
        return None
    return case.finding(
        "node.preempted",
        _("The pods had to make room for pods of higher priority"),
        cause=_("The cluster had no room, and their priority class ({name}) is lower.", name=case.pod.spec.priority_class_name or "-"),
        evidence=_end(case, target),
        steps=(Step(_("Add nodes, or give the pods a higher priority class")), _tidy(case)),
    )


def shutdown(case: Case) -> Finding | None:
    """The node was shut down."""
    if case.symptom.kind != "evicted" or not (
        case.pod.status.reason in ("NodeShutdown", "Shutdown", "Terminated")
        or re.search(r"node shutdown", case.pod.status.message, re.IGNORECASE)
    ):
        return None
    return case.finding(
        "node.shutdown",
        _("The pods were ended because node {node} was shut down", node=case.pod.spec.node_name or "?"),
        cause=_("Their owner has made new ones elsewhere; these are left to be tidied away."),
        evidence=_end(case, condition(case.pod, "DisruptionTarget")),
        steps=(_tidy(case),),
        severity=_done(case),
    )


def evicted(case: Case) -> Finding | None:
    """The node ran short of something, and the kubelet chose this pod."""
    if case.symptom.kind != "evicted" or case.pod.status.reason != "Evicted":
        return None
    return case.finding(
        "node.evicted",
        _("The pods were evicted from node {node}", node=case.pod.spec.node_name or "?"),
        cause=pressure(case.pod.status.message),
        evidence=[*_end(case, condition(case.pod, "DisruptionTarget")), *node_evidence(case, None)],
        steps=(
            Step(
                _("Look at the node: its conditions and what uses it"), kubectl(case.facts, "", "describe", "node", case.pod.spec.node_name)
            ),
            case.edit(_("Give the containers requests and limits that fit (ephemeral-storage too)")),
            _tidy(case),
        ),
        severity=_done(case),
    )


def refused(case: Case) -> Finding | None:
    """The kubelet turned the pod away after it was bound to the node."""
    if case.symptom.kind != "evicted" or not REFUSALS.search(case.pod.status.reason):
        return None
    return case.finding(
        "node.refused",
        _("Node {node} refused the pods: {reason}", node=case.pod.spec.node_name or "?", reason=case.pod.status.reason),
        cause=_(
            "What the scheduler believed of the node was no longer true when the pod got there, or the pod was bound without the scheduler."
        ),
        evidence=_end(case, None),
        steps=(Step(_("Look at the node"), kubectl(case.facts, "", "describe", "node", case.pod.spec.node_name)), _tidy(case)),
        severity=_done(case),
    )


LOST_RULES: tuple[Rule, ...] = (lost,)
RULES: tuple[Rule, ...] = (preempted, shutdown, evicted, refused)


def pressure(message: str) -> Text:
    """Which pressure evicted a pod, from the kubelet's message."""
    lowered = message.lower()
    if re.search(r"exceed(?:s|ed).*(?:limit)", lowered):
        if "emptydir" in lowered:
            return _("An emptyDir volume grew over its limit.")
        return _("The pod's own files on the node (logs, writable layer, emptyDir) grew over its ephemeral-storage limit.")
    if "inodes" in lowered:
        return _("The node ran short of inodes: too many small files.")
    if "pids" in lowered or "pidpressure" in lowered:
        return _("The node ran short of process ids.")
    if "ephemeral-storage" in lowered or "diskpressure" in lowered or "nodefs" in lowered or "imagefs" in lowered:
        return _("The node ran short of disk space.")
    if "memory" in lowered:
        return _("The node ran short of memory, and these pods used more than they request.")
    if "taint" in lowered:
        return _("The node got a taint that the pods do not tolerate.")
    return _("The node ran short of a resource.")


def not_answering(node: Node | None) -> Condition | None:
    """The node's Ready condition where it is not True; None where it is ready or not known."""
    if node is None:
        return None
    return next((item for item in node.status.conditions if item.type == "Ready" and item.status != "True"), None)


def node_evidence(case: Case, down: Condition | None) -> list[Evidence]:
    """The node's conditions that are not as they should be."""
    node = case.facts.node(case.pod.spec.node_name)
    if node is None:
        return []
    bad = [item for item in node.status.conditions if (item.status == "True") != (item.type == "Ready")]
    shown = [down] if down and down not in bad else bad
    return [
        Evidence(
            text=_(
                "Condition {type} of node {node} is {status} ({reason})",
                type=item.type,
                node=node.metadata.name,
                status=item.status,
                reason=item.reason,
            ),
            quote=item.message,
            reference=f"/api/v1/nodes/{node.metadata.name}",
            time=item.last_transition_time,
        )
        for item in shown
    ]


def _end(case: Case, target: Condition | None) -> list[Evidence]:
    status = case.pod.status
    time: datetime | None = target.last_transition_time if target else None
    evidence = [case.pod_evidence(_("The pod ended: {reason}", reason=status.reason or "-"), status.message, time)]
    if target and target.message and target.message != status.message:
        evidence.append(case.pod_evidence(_("Condition {type}: {reason}", type=target.type, reason=target.reason), target.message, time))
    return evidence


def _done(case: Case) -> Severity:
    """Ended pods are history where their owner has all its pods again."""
    return Severity.INFO if case.fully_ready else case.severity


def _tidy(case: Case) -> Step:
    return case.delete(_("Tidy away the ended pod"))
