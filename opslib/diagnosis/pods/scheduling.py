"""Pods that no node takes: the scheduler's message taken apart.

The scheduler writes one line (``FitError`` in k8s.io/kubernetes, pkg/scheduler/framework/types.go): the number of nodes, then each
reason with the number of nodes it holds for, then what preemption would have brought:
``0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint(s). preemption: 0/5 nodes are available: ...``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from opslib.diagnosis.pods.cases import Case, Rule
from opslib.diagnosis.pods.symptoms import condition
from opslib.findings import Evidence, Finding, Step
from opslib.messages import Message, Text, _
from opslib.sources.fitting import matches
from opslib.sources.quantities import value_of


@dataclass(frozen=True, slots=True)
class Reason:
    """Why nodes do not take a pod: the check it leads to, how many nodes, and the scheduler's words."""

    check: str
    nodes: int
    words: str


# In the order of how much a reason says: where several hold for as many nodes, the first names the finding.
_CHECKS: tuple[tuple[str, str], ...] = (
    ("cpu", r"^Insufficient cpu$"),
    ("memory", r"^Insufficient memory$"),
    ("pod_limit", r"^Too many pods$"),
    ("resources", r"^Insufficient |cannot allocate all claims|resourceclaim"),
    ("volumes", r"volume|persistent|\bpvc\b|\bpv\(s\)|\bdisk\b|csi"),
    ("ports", r"free ports"),
    ("spread", r"topology spread"),
    ("anti_affinity", r"anti-affinity"),
    ("affinity", r"match pod affinity"),
    ("node_selector", r"node affinity|node selector|requested node name|plugin's?PreFilter"),
    ("cordoned", r"were unschedulable"),
    ("taints", r"taint"),
)
_ORDER = [check for check, _pattern in _CHECKS] + ["other"]
_HEAD = re.compile(r"^\s*(\d+)/(\d+) nodes are available:?\s*", re.IGNORECASE)
_PREEMPTION = re.compile(r"[.,]?\s*(?:no new claims to deallocate,?\s*)?preemption: .*$", re.IGNORECASE | re.DOTALL)
_PART = re.compile(r"(?:^|,\s+)(\d+) (?=node\(s\)|Insufficient|Too many|[A-Za-z(\"'])")


def reasons(message: str) -> tuple[int | None, list[Reason]]:
    """The scheduler's message taken apart.

    Returns
    -------
    nodes
        How many nodes there are; None where the message does not say.
    reasons
        Those that hold for most nodes first. A reason without a number holds for every node.
    """
    head = _HEAD.match(message)
    total = int(head[2]) if head else None
    body = _PREEMPTION.sub("", message[head.end() :] if head else message).strip().rstrip(".")
    parts = list(_PART.finditer(body))
    found: list[Reason] = []
    if not parts or parts[0].start() > 0:
        words = (body[: parts[0].start()] if parts else body).strip(" ,")
        if words:
            found.append(Reason(_check(words), total or 0, words))
    ends = [*(part.start() for part in parts[1:]), len(body)]
    for part, end in zip(parts, ends, strict=False):
        words = body[part.end() : end].strip(" ,")
        if words:
            found.append(Reason(_check(words), int(part[1]), words))
    found.sort(key=lambda reason: (-reason.nodes, _ORDER.index(reason.check)))
    return total, found


def _check(words: str) -> str:
    return next((check for check, pattern in _CHECKS if re.search(pattern, words, re.IGNORECASE)), "other")


def decisive(case: Case, found: list[Reason]) -> Reason:
    """The reason that names the finding: that of most nodes.

    Nodes without the labels that the pod asks for are not meant to take it. Where some node has them, what keeps the pod off those says
    more; where none has, nothing else matters.
    """
    chosen = next((reason for reason in found if reason.check == "node_selector"), None)
    if chosen is None or not case.facts.nodes:
        return found[0]
    if not any(matches(case.pod, node) for node in case.facts.nodes.values()):
        return chosen
    return next((reason for reason in found if reason.check != "node_selector"), chosen)


def gated(case: Case) -> Finding | None:
    """A scheduling gate holds the pod back."""
    if case.symptom.kind != "unscheduled":
        return None
    gates = [gate.name for gate in case.pod.spec.scheduling_gates]
    if case.symptom.detail != "SchedulingGated" and not gates:
        return None
    return case.finding(
        "scheduling.gated",
        _("The scheduling gates {gates} hold the pods back", gates=gates or ["?"]),
        cause=_("A controller has to take the gate away before the scheduler looks at the pod; it has not done so."),
        evidence=_scheduler_words(case),
        steps=(case.describe(), Step(_("Look at the controller that owns the gate"))),
    )


def no_scheduler(case: Case) -> Finding | None:
    """Nobody schedules the pod: the scheduler it names is not there, or the cluster's own is down."""
    if case.symptom.kind != "unscheduled" or condition(case.pod, "PodScheduled") is not None:
        return None
    events = case.facts.events
    if events is None or case.pod.metadata.uid not in events or case.events("FailedScheduling"):
        return None
    name = case.pod.spec.scheduler_name or "default-scheduler"
    return case.finding(
        "scheduling.no_scheduler",
        _("No scheduler has looked at the pods"),
        cause=_(
            "The pods ask for the scheduler {name}, and it has not said a word about them: it does not exist, or does not run.", name=name
        ),
        evidence=[case.pod_evidence(_("The pod has no node, no scheduling condition and no event; its scheduler is {name}", name=name))],
        steps=(
            Step(_("See whether that scheduler runs"), case.kubectl_anywhere("get", "pods", "-A", "-l", "component=kube-scheduler")),
            case.edit(_("Put right schedulerName in the template")),
        ),
    )


def unschedulable(case: Case) -> Finding | None:
    """No node fits, and the scheduler says why."""
    if case.symptom.kind != "unscheduled":
        return None
    message = scheduler_message(case)
    if re.search(r"no nodes available", message, re.IGNORECASE):
        return case.finding(
            "scheduling.no_nodes",
            _("The cluster has no node to schedule pods on"),
            evidence=_scheduler_words(case),
            steps=(Step(_("Look at the nodes and at what should add them"), case.kubectl_anywhere("get", "nodes")),),
        )
    total, found = reasons(message)
    if not found:
        return case.finding("scheduling.other", _("The pods are not scheduled"), evidence=_scheduler_words(case), steps=(case.describe(),))
    first = decisive(case, found)
    return case.finding(
        f"scheduling.{first.check}",
        _title(first.check),
        cause=_cause(total, found),
        evidence=[
            *_scheduler_words(case),
            *_asked_for(case, first.check),
            *_node_words(case, first.check),
            *case.event_evidence("NotTriggerScaleUp", limit=1),
        ],
        steps=_steps(case, first.check),
    )


RULES: tuple[Rule, ...] = (gated, no_scheduler, unschedulable)


def scheduler_message(case: Case) -> str:
    """The scheduler's last word: the pod's condition, else the newest event."""
    scheduled = condition(case.pod, "PodScheduled")
    if scheduled and scheduled.message:
        return scheduled.message
    return next((event.message for event in case.events("FailedScheduling")), "")


def _scheduler_words(case: Case) -> list[Evidence]:
    scheduled = condition(case.pod, "PodScheduled")
    if scheduled and scheduled.message:
        return [case.pod_evidence(_("The scheduler's words"), scheduled.message, scheduled.last_transition_time)]
    return case.event_evidence("FailedScheduling", limit=1)


def _title(check: str) -> Message:
    return {
        "cpu": _("No node has enough CPU left for the pods"),
        "memory": _("No node has enough memory left for the pods"),
        "resources": _("No node has enough of a resource left for the pods"),
        "pod_limit": _("The nodes hold as many pods as they may"),
        "volumes": _("No node can use the pods' volumes"),
        "ports": _("The host ports that the pods need are taken on every node"),
        "spread": _("The pods' spread constraints fit no node"),
        "anti_affinity": _("Anti-affinity keeps the pods off every node"),
        "affinity": _("The pods that these want to be near are on no node"),
        "node_selector": _("No node has the labels that the pods ask for"),
        "cordoned": _("The nodes that would fit are cordoned"),
        "taints": _("Every node has a taint that the pods do not tolerate"),
        "other": _("No node fits the pods"),
    }[check]


def _cause(total: int | None, found: list[Reason]) -> Message:
    parts: list[Text] = []
    for reason in found:
        parts.append(_("{nodes} nodes: {words}", nodes=reason.nodes, words=reason.words) if reason.nodes else reason.words)
    if total is None:
        return _("What keeps the pods off: {parts}", parts=parts)
    return _("Of {total} nodes none fits: {parts}", total=total, parts=parts)


def _asked_for(case: Case, check: str) -> list[Evidence]:
    """What the pod asks for, as far as it matters."""
    spec = case.pod.spec
    if check in ("cpu", "memory", "resources"):
        requests: dict[str, float] = {}
        for container in spec.containers:
            for name, quantity in container.resources.requests.items():
                requests[name] = requests.get(name, 0) + (value_of(quantity) or 0)
        shown = ", ".join(
            f"{container.name}: {name}={quantity}"
            for container in spec.containers
            for name, quantity in container.resources.requests.items()
        )
        return [case.pod_evidence(_("The pod requests"), shown)] if shown else []
    quote = ""
    if check == "node_selector":
        quote = json.dumps(
            {"nodeSelector": spec.node_selector, **({"affinity": spec.affinity} if spec.affinity else {})}, ensure_ascii=False
        )
    elif check == "taints":
        quote = ", ".join(f"{item.key or '*'}{'=' + item.value if item.value else ''}:{item.effect or '*'}" for item in spec.tolerations)
    elif check in ("affinity", "anti_affinity") and spec.affinity:
        quote = json.dumps(spec.affinity, ensure_ascii=False)
    elif check == "spread":
        quote = json.dumps(spec.topology_spread_constraints, ensure_ascii=False)
    elif check == "ports":
        quote = ", ".join(str(port.host_port) for container in spec.containers for port in container.ports if port.host_port)
    elif check == "volumes":
        quote = ", ".join(volume.persistent_volume_claim.claim_name for volume in spec.volumes if volume.persistent_volume_claim)
    if not quote:
        return []
    texts = {
        "node_selector": _("The pod asks for"),
        "taints": _("The pod tolerates"),
        "affinity": _("The pod asks for"),
        "anti_affinity": _("The pod asks for"),
        "spread": _("The pod asks for"),
        "ports": _("Host ports of the pod"),
        "volumes": _("Claims of the pod"),
    }
    return [case.pod_evidence(texts[check], quote)]


def _node_words(case: Case, check: str) -> list[Evidence]:
    """The taints or cordons of the nodes that were read."""
    nodes = case.facts.nodes
    if not nodes:
        return []
    if check == "taints":
        shown = [f"{node.metadata.name}: {taint.key}={taint.value}:{taint.effect}" for node in nodes.values() for taint in node.spec.taints]
        return [Evidence(text=_("Taints of nodes"), quote="\n".join(shown[:10]), reference="/api/v1/nodes")] if shown else []
    if check == "cordoned":
        shown = [node.metadata.name for node in nodes.values() if node.spec.unschedulable]
        return [Evidence(text=_("Cordoned nodes"), quote=", ".join(shown[:20]), reference="/api/v1/nodes")] if shown else []
    return []


def _steps(case: Case, check: str) -> tuple[Step, ...]:
    nodes = Step(_("Look at the nodes: allocatable against requests"), case.kubectl_anywhere("describe", "nodes"))
    if check in ("cpu", "memory", "resources", "pod_limit"):
        return (
            nodes,
            Step(_("Add nodes, or free room: scale down what is not needed")),
            case.edit(_("Or lower the pods' requests, if they are larger than the use")),
        )
    if check == "cordoned":
        return (
            Step(_("See which nodes are cordoned, and why"), case.kubectl_anywhere("get", "nodes")),
            Step(_("Uncordon a node whose maintenance is over"), case.kubectl_anywhere("uncordon", "NODE"), changes=True),
        )
    if check in ("taints", "node_selector"):
        return (
            Step(_("See the nodes' labels and taints"), case.kubectl_anywhere("get", "nodes", "--show-labels", "-o", "wide")),
            case.edit(_("Put right nodeSelector, affinity or tolerations in the template")),
        )
    if check == "volumes":
        return (Step(_("Look at the claims and their volumes"), case.kubectl("get", "pvc,pv", "-o", "wide")), case.describe())
    return (case.describe(), case.edit(_("Put right the rule in the template, or have fewer replicas")))
