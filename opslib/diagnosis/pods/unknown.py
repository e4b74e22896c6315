"""What no rule explains: nothing that is unhealthy is dropped."""

from __future__ import annotations

from opslib.diagnosis.pods.cases import Case, Rule
from opslib.findings import Finding, Step
from opslib.messages import _
from opslib.sources.status import pod_status


def readiness_gate(case: Case) -> Finding | None:
    """All containers are ready; a controller has not opened the pod's readiness gate."""
    if case.symptom.kind != "gate":
        return None
    return case.finding(
        "pod.readiness_gate",
        _("The containers are ready, but a readiness gate is not"),
        cause=_(
            "The controller behind {gates} has not said that the pod may take traffic (with a load balancer's gate: the target is not"
            " healthy yet).",
            gates=case.symptom.detail,
        ),
        evidence=[
            case.pod_evidence(
                _("Condition {type}: {reason}", type=item.type, reason=item.reason or "-"), item.message, item.last_transition_time
            )
            for item in case.pod.status.conditions
            if item.type in case.symptom.detail.split(", ") or (item.type == "Ready" and item.status != "True")
        ],
        steps=(case.describe(), Step(_("Look at the controller that owns the gate"))),
    )


def unknown(case: Case) -> Finding:
    """Unhealthy, cause not known: status, conditions, events and log are shown as they are."""
    line = pod_status(case.pod)
    conditions = [item for item in case.pod.status.conditions if item.status != "True" and (item.message or item.reason)]
    return case.finding(
        "pod.unknown",
        _("The pods are not well ({status}), and the cause is not known", status=line.status or "?"),
        evidence=[
            case.pod_evidence(
                _("STATUS {status}, {ready} of {total} containers ready", status=line.status or "?", ready=line.ready, total=line.total),
                case.pod.status.message,
            ),
            *([case.waiting_evidence()] if case.waiting_message else []),
            *[
                case.pod_evidence(
                    _("Condition {type}: {reason}", type=item.type, reason=item.reason or "-"), item.message, item.last_transition_time
                )
                for item in conditions
            ],
            *case.event_evidence(*{event.reason for event in case.events() if event.type == "Warning"} or {"-"}, limit=3),
            *case.log_evidence(),
        ],
        steps=(case.describe(), *([case.logs(previous=False)] if case.symptom.container else [])),
    )


RULES: tuple[Rule, ...] = (readiness_gate,)
