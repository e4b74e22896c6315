"""Making room for a pod by ending pods of lower priority (pkg/scheduler/framework/preemption and plugins/defaultpreemption)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import from_object, is_deleted, labels_of, name_of, namespace_of, uid_of
from opslib.lab.controllers.scheduler.filters import Question, Verdict, refuses, without
from opslib.lab.controllers.scheduler.nodes import NodeInfo, PodInfo

SOURCE = "default-scheduler"
NOT_HELPFUL = "Preemption is not helpful for scheduling"


@dataclass(frozen=True, slots=True)
class _Candidate:
    node: NodeInfo
    victims: tuple[PodInfo, ...]  # the most important first
    violations: int


def preempt(question: Question, refused: Mapping[str, Verdict]) -> tuple[str, str]:
    """End the pods that stand in the way on one of the nodes.

    Returns
    -------
    The node that the pod may hope for, "" for none; and what there is to say about it where it is none.
    """
    cluster, pod = question.cluster, question.pod
    if question.spec.get("preemptionPolicy") == "Never":
        return "", "preemption: not eligible due to preemptionPolicy=Never."
    hoped = next((one for one in question.nodes if one.name == pod.get("status", {}).get("nominatedNodeName")), None)
    if hoped is not None and not refused.get(hoped.name, Verdict((), False, "")).final:
        ending = (other for other in hoped.pods.values() if is_deleted(other.pod) and other.priority < question.info.priority)
        if any(_was_preempted(other.pod) for other in ending):
            return "", "preemption: not eligible due to a terminating pod on the nominated node."
    candidates: list[_Candidate] = []
    reasons: Counter[str] = Counter()
    for info in question.nodes:
        verdict = refused.get(info.name)
        if verdict is None or verdict.final:
            reasons[NOT_HELPFUL] += 1
            continue
        found = _victims(question, info)
        if isinstance(found, _Candidate):
            candidates.append(found)
        else:
            reasons.update(found)
    if not candidates:
        words = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
        return "", f"preemption: 0/{len(question.nodes)} nodes are available: {words}."
    chosen = min(candidates, key=_cost)
    for victim in chosen.victims:
        _end(cluster, question.pod, victim.pod, chosen.node.name)
    return chosen.node.name, ""


def _was_preempted(pod: Object) -> bool:
    return any(
        one["type"] == "DisruptionTarget" and one["status"] == "True" and one.get("reason") == "PreemptionByScheduler"
        for one in pod.get("status", {}).get("conditions") or ()
    )


def _victims(question: Question, info: NodeInfo) -> _Candidate | tuple[str, ...]:
    """The fewest and least important pods of a node without which the pod fits; reasons where there are none."""
    possible = [other for other in info.pods.values() if other.priority < question.info.priority]
    if not possible:
        return ("No preemption victims found for incoming pod",)
    gone = {uid_of(other.pod) for other in possible}
    verdict = refuses(*without(question, info, gone))
    if verdict is not None:
        return verdict.reasons
    possible.sort(key=lambda other: (-other.priority, _started(other.pod)))
    violating, others = _by_budget(question.cluster, possible)
    victims, violations = [], 0
    for group, counts in ((violating, True), (others, False)):
        for other in group:
            gone.discard(uid_of(other.pod))
            if refuses(*without(question, info, gone)) is not None:
                gone.add(uid_of(other.pod))
                victims.append(other)
                violations += counts
    victims.sort(key=lambda other: (-other.priority, _started(other.pod)))
    return _Candidate(info, tuple(victims), violations)


def _by_budget(cluster: Cluster, pods: list[PodInfo]) -> tuple[list[PodInfo], list[PodInfo]]:
    """Those whose end would break a disruption budget, and the others."""
    budgets = cluster["poddisruptionbudgets.policy"].list()
    left = {uid_of(one): one.get("status", {}).get("disruptionsAllowed", 0) for one in budgets}
    violating: list[PodInfo] = []
    others: list[PodInfo] = []
    for info in pods:
        broken = False
        for budget in budgets:
            selector = budget["spec"].get("selector")
            if namespace_of(budget) != namespace_of(info.pod) or not selector or not from_object(selector)(labels_of(info.pod)):
                continue
            if name_of(info.pod) in (budget.get("status", {}).get("disruptedPods") or {}):
                continue
            left[uid_of(budget)] -= 1
            broken = broken or left[uid_of(budget)] < 0
        (violating if broken else others).append(info)
    return violating, others


def _cost(one: _Candidate) -> tuple[object, ...]:
    priorities = [victim.priority for victim in one.victims]
    latest_start = max((_started(victim.pod) for victim in one.victims if victim.priority == max(priorities)), default="")
    reverse_start = tuple(-ord(letter) for letter in latest_start)
    return (one.violations, max(priorities, default=0), sum(priorities), len(priorities), reverse_start, one.node.name)


def _started(pod: Object) -> str:
    return str(pod.get("status", {}).get("startTime") or pod["metadata"].get("creationTimestamp") or "")


def _end(cluster: Cluster, pod: Object, victim: Object, node: str) -> None:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": f"{pod['spec'].get('schedulerName', SOURCE)}: preempting to accommodate a higher priority pod",
        "lastProbeTime": None,
        "lastTransitionTime": cluster.stamp(),
        "observedGeneration": victim["metadata"].get("generation", 1),
    }
    try:
        victim = cluster.patch(victim, {"status": {"conditions": [condition]}}, subresource="status")
        cluster.delete(victim)
    except ApiError as error:
        if error.status != 404:
            raise
    note = f"Preempted by pod {uid_of(pod)} on node {node}"
    cluster.recorder.scheduling(victim, "Normal", "Preempted", "Preempting", note, related=pod)
