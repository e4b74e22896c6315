"""Pods that do not end, and init containers that keep the others waiting."""

from __future__ import annotations

import re

from opslib.diagnosis.pods.cases import Case, Rule, age, kubectl
from opslib.diagnosis.pods.nodes import node_evidence, not_answering
from opslib.findings import Evidence, Finding, Severity, Step
from opslib.messages import Text, _

_UNMOUNT = r"unmount|teardown|detach|unmap|volume.*(?:busy|in use)"


def terminating_node(case: Case) -> Finding | None:
    """The node that should end the pod does not answer."""
    if case.symptom.kind != "terminating":
        return None
    node = case.facts.node(case.pod.spec.node_name)
    down = not_answering(node)
    gone = case.pod.spec.node_name and ("Node", "", case.pod.spec.node_name) in case.facts.missing
    if not (down or gone or case.pod.status.reason == "NodeLost"):
        return None
    return _finding(
        case,
        "lifecycle.terminating_node",
        cause=_("Its node {node} does not answer, so nothing confirms that the pod has ended.", node=case.pod.spec.node_name),
        evidence=node_evidence(case, down),
        steps=(
            Step(_("Look at the node"), kubectl(case.facts, "", "describe", "node", case.pod.spec.node_name)),
            _force(case, _("Only when the machine is surely off: take the pod out of the cluster's books")),
        ),
    )


def terminating_finalizer(case: Case) -> Finding | None:
    """Finalizers hold the pod, and its containers have ended."""
    finalizers = case.pod.metadata.finalizers
    if case.symptom.kind != "terminating" or not finalizers:
        return None
    return _finding(
        case,
        "lifecycle.terminating_finalizer",
        cause=_(
            "The controller behind the finalizers {finalizers} has not done its part: it is down, or waits for something.",
            finalizers=finalizers,
        ),
        evidence=[case.pod_evidence(_("Finalizers of the pod"), ", ".join(finalizers))],
        steps=(
            Step(_("See whether the finalizers' controller runs, and what it logs")),
            Step(
                _("Only when it is clear that its work is done or not needed: take the finalizers away"),
                case.kubectl("patch", "pod", case.pod.metadata.name, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'),
                changes=True,
            ),
        ),
    )


def terminating_volume(case: Case) -> Finding | None:
    """A volume cannot be unmounted."""
    if case.symptom.kind != "terminating":
        return None
    reasons = ("FailedUnMount", "FailedUnmount", "FailedKillPod", "FailedDetachVolume", "FailedUnmapDevice")
    said = [item for item in case.event_evidence(*reasons, limit=5) if re.search(_UNMOUNT, item.quote, re.IGNORECASE)]
    if not said:
        return None
    return _finding(
        case,
        "lifecycle.terminating_volume",
        cause=_("A volume cannot be taken off the pod: still in use, or its storage does not answer."),
        evidence=said[:2],
        steps=(case.describe(), Step(_("Look at the storage and its driver's pod on node {node}", node=case.pod.spec.node_name or "?"))),
    )


def terminating(case: Case) -> Finding | None:
    """Past its time, for a reason that is not known."""
    if case.symptom.kind != "terminating":
        return None
    running = [status.name for status in case.pod.status.container_statuses if status.state.running]
    return _finding(
        case,
        "lifecycle.terminating",
        cause=_("Containers still run: {names}. The kubelet or the runtime has not been able to end them.", names=running)
        if running
        else None,
        evidence=case.event_evidence("FailedKillPod", "FailedPreStopHook", "Killing", limit=2),
        steps=(
            case.describe(),
            _force(case, _("Only when it is clear that its containers have ended: take the pod out of the cluster's books")),
        ),
    )


def init_failing(case: Case) -> Finding | None:
    """An init container ends with an error; the others wait for it."""
    if not case.is_init or case.symptom.kind not in ("exited", "failed"):
        return None
    ended = case.ended
    return case.finding(
        "init.failing",
        _("Init container {container} fails, and the pods do not start", container=case.symptom.container),
        cause=None
        if case.last_words
        else _(
            "The application's containers wait until {container} ends without an error; it ends with code {code}.",
            container=case.symptom.container,
            code=ended.exit_code if ended else "?",
        ),
        evidence=[*case.end_evidence(), *case.log_evidence(), *case.event_evidence("BackOff", limit=1)],
        steps=(case.logs(), case.describe(), case.restart()),
    )


def init_waiting(case: Case) -> Finding | None:
    """An init container runs on and on: most wait for something."""
    if case.symptom.kind != "init":
        return None
    status = case.status
    started = status.state.running.started_at if status and status.state.running else None
    names = [container.name for container in case.pod.spec.init_containers]
    position = names.index(case.symptom.container) + 1 if case.symptom.container in names else 0
    return case.finding(
        "init.waiting",
        _("Init container {container} does not end, and the pods do not start", container=case.symptom.container),
        cause=_(
            "The application's containers wait for it: most such containers wait for another system, such as a database or a migration."
        ),
        evidence=[
            case.pod_evidence(
                _(
                    "Init container {position} of {total} has run for {ran}",
                    position=position,
                    total=len(names),
                    ran=age(case.facts.now - started) if started else "?",
                ),
                time=started,
            ),
            *case.log_evidence(),
        ],
        steps=(case.logs(previous=False), case.describe()),
    )


TERMINATING_RULES: tuple[Rule, ...] = (terminating_node, terminating_volume, terminating_finalizer, terminating)
INIT_RULES: tuple[Rule, ...] = (init_failing, init_waiting)


def _finding(case: Case, check: str, *, cause: Text | None, evidence: list[Evidence], steps: tuple[Step, ...]) -> Finding:
    metadata = case.pod.metadata
    overdue = age(case.facts.now - metadata.deletion_timestamp) if metadata.deletion_timestamp else "?"
    first = case.pod_evidence(
        _(
            "The pod should have ended {overdue} ago (its grace time of {grace} s included)",
            overdue=overdue,
            grace=metadata.deletion_grace_period_seconds or 0,
        ),
        time=metadata.deletion_timestamp,
    )
    return case.finding(check, _("The pods do not end"), cause=cause, evidence=[first, *evidence], steps=steps, severity=Severity.WARNING)


def _force(case: Case, text: Text) -> Step:
    return Step(text, case.kubectl("delete", "pod", case.pod.metadata.name, "--force", "--grace-period=0"), changes=True)
