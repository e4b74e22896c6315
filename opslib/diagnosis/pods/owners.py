"""Owners that cannot make their pods: there is no pod to look at, and the owner's conditions and events say why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from opslib.diagnosis.pods.cases import evidence_of, kubectl, titled
from opslib.diagnosis.pods.facts import Facts, controller, ready_pods, top_of
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Message, Text, _
from opslib.sources.objects import Condition, Event, OwnerReference, Workload

# How the API server words a refusal: first the ones that say more.
_REFUSALS: tuple[tuple[str, str], ...] = (
    ("owner.quota", r"exceeded quota|failed quota|insufficient quota"),
    ("config.service_account_missing", r"service account .*not found|serviceaccount \"[^\"]*\" not found|error looking up service account"),
    ("owner.pod_security", r"violates PodSecurity"),
    ("owner.limit_range", r"(?:minimum|maximum) \S+ usage per|limit to request ratio per"),
    ("owner.webhook", r"admission webhook|failed calling webhook|ValidatingAdmissionPolicy"),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A pod that an owner wanted to make and could not."""

    owner: Subject
    message: str
    evidence: Evidence
    made: bool = False  # the owner has made a pod since


def refusals(facts: Facts) -> Iterator[Finding]:
    """Owners whose pods the API server refuses, by reason: from FailedCreate events and ReplicaFailure conditions."""
    found: dict[tuple[Subject, str], list[Refusal]] = {}
    for refusal in (*_from_conditions(facts), *_from_events(facts)):
        check = next((name for name, pattern in _REFUSALS if re.search(pattern, refusal.message, re.IGNORECASE)), "owner.admission")
        found.setdefault((refusal.owner, check), []).append(refusal)
    for (owner, check), items in found.items():
        yield _finding(facts, owner, check, items)


def no_progress(facts: Facts, explained: Iterable[Finding]) -> Iterator[Finding]:
    """Deployments whose rollout does not go on, where nothing else says why."""
    known = {finding.subject for finding in explained}
    for (namespace, name), workload in (facts.workloads.get("Deployment") or {}).items():
        subject = Subject("Deployment", name, namespace)
        condition = _condition(workload, "Progressing")
        if subject in known or condition is None or condition.status != "False" or condition.reason != "ProgressDeadlineExceeded":
            continue
        ready = workload.status.ready_replicas
        yield Finding(
            check="owner.no_progress",
            severity=Severity.WARNING if ready else Severity.CRITICAL,
            subject=subject,
            title=_("The rollout of {name} does not go on", name=name),
            cause=_(
                "Its new pods were not ready within {seconds} s, and no unhealthy pod says why.",
                seconds=workload.spec.progress_deadline_seconds or 600,
            ),
            evidence=(_condition_evidence(subject, condition), _ready_evidence(subject, workload)),
            steps=(
                Step(_("Look at the rollout"), kubectl(facts, namespace, "describe", "deployment", name)),
                Step(_("Go back to the revision before"), kubectl(facts, namespace, "rollout", "undo", f"deployment/{name}"), changes=True),
            ),
            since=condition.last_transition_time,
        )


def _from_conditions(facts: Facts) -> Iterator[Refusal]:
    for kind in ("Deployment", "ReplicaSet"):
        for (namespace, name), workload in (facts.workloads.get(kind) or {}).items():
            condition = _condition(workload, "ReplicaFailure")
            if condition is None or condition.status != "True":
                continue
            above = controller(workload.metadata.owner_references)
            owner = top_of(above, namespace, facts) if above else Subject(kind, name, namespace)
            yield Refusal(owner, condition.message, _condition_evidence(Subject(kind, name, namespace), condition))


def _from_events(facts: Facts) -> Iterator[Refusal]:
    """The newest FailedCreate of each object, unless the object is gone, has what it wants, or has made a pod since."""
    for events in (facts.events or {}).values():
        failed = [event for event in events if event.reason == "FailedCreate" and event.involved_object.kind != "Pod"]
        if not failed:
            continue
        event = failed[-1]
        if not _still(facts, event, events):
            continue
        about = event.involved_object
        workload = facts.workload(about.kind, about.namespace, about.name)
        above = controller(workload.metadata.owner_references) if workload else None
        owner = top_of(above or OwnerReference(about.kind, about.name), about.namespace, facts)
        if workload is None and about.kind == "ReplicaSet":
            owner = _deployment_of(facts, about.namespace, about.name) or owner
        yield Refusal(owner, event.message, evidence_of(event))


def _still(facts: Facts, event: Event, events: tuple[Event, ...]) -> bool:
    about = event.involved_object
    if (about.kind, about.namespace, about.name) in facts.missing:
        return False
    workload = facts.workload(about.kind, about.namespace, about.name)
    if workload is not None:
        if about.uid and workload.metadata.uid and about.uid != workload.metadata.uid:
            return False
        status = workload.status
        if about.kind == "DaemonSet":
            return status.number_ready < status.desired_number_scheduled
        if about.kind == "Job":
            return not status.active and not any(
                item.type in ("Complete", "Failed") and item.status == "True" for item in status.conditions
            )
        return status.replicas < (1 if workload.spec.replicas is None else workload.spec.replicas)
    made = [item for item in events if item.reason == "SuccessfulCreate" and item.seen and event.seen and item.seen > event.seen]
    return not made


def _deployment_of(facts: Facts, namespace: str, name: str) -> Subject | None:
    """The Deployment that a ReplicaSet's name comes from, where the ReplicaSet itself was not read."""
    deployment, _dash, hash_ = name.rpartition("-")
    if hash_ and facts.workload("Deployment", namespace, deployment):
        return Subject("Deployment", deployment, namespace)
    return None


def _finding(facts: Facts, owner: Subject, check: str, items: list[Refusal]) -> Finding:
    message = items[0].message
    workload = facts.workload(owner.kind, owner.namespace, owner.name)
    ready = ready_pods(owner, facts) or 0
    # The condition of a Deployment repeats that of its ReplicaSet, and both repeat the event.
    evidence = list({item.evidence.quote: item.evidence for item in reversed(items)}.values())[::-1][:2]
    if workload is not None:
        evidence.append(_ready_evidence(owner, workload))
    if check == "owner.quota":
        evidence += _quota_evidence(facts, owner.namespace)
    return Finding(
        check=check,
        severity=Severity.WARNING if ready or owner.kind in ("Job", "CronJob") else Severity.CRITICAL,
        subject=owner,
        title=titled(owner, _title(check, message)),
        cause=_cause(check, message),
        evidence=tuple(evidence),
        steps=_steps(facts, owner, check),
        since=min((item.evidence.time for item in items if item.evidence.time), default=None),
    )


def _title(check: str, message: str) -> Message:
    account = re.search(r"serviceaccount \"([^\"]*)\"", message)
    return {
        "owner.quota": _("New pods are refused: the namespace's quota is used up"),
        "config.service_account_missing": _(
            "New pods are refused: the service account {name} does not exist", name=account[1] if account else "?"
        ),
        "owner.pod_security": _("New pods are refused: they break the namespace's pod security standard"),
        "owner.limit_range": _("New pods are refused: their resources break the namespace's limits"),
        "owner.webhook": _("New pods are refused by an admission webhook or policy"),
        "owner.admission": _("New pods are refused by the API server"),
    }[check]


def _cause(check: str, message: str) -> Text | None:
    if check == "owner.quota":
        quota = re.search(
            r"(?:exceeded|failed|insufficient) quota:? (?P<name>[^,: ]+)"
            r"(?:, requested: (?P<requested>.*?), used: (?P<used>.*?), limited: (?P<limited>.*))?",
            message,
        )
        if quota and quota["requested"]:
            return _(
                "Quota {name}: the pod wants {requested}, {used} are in use, {limited} are allowed.",
                name=quota["name"],
                requested=quota["requested"],
                used=quota["used"],
                limited=quota["limited"].rstrip("."),
            )
        must = re.search(r"must specify (.*)", message)
        if must:
            return _("The quota wants every container to say {resources}.", resources=must[1])
    elif check == "owner.pod_security":
        violated = re.search(r'violates PodSecurity "([^"]+)": (.*)', message, re.DOTALL)
        if violated:
            return _("The standard {level} forbids: {what}", level=violated[1], what=violated[2])
    elif check == "owner.webhook":
        calling = re.search(r'failed calling webhook "([^"]+)"', message)
        if calling:
            return _("The webhook {name} does not answer, and pods are not let in without it.", name=calling[1])
        denied = re.search(r'admission webhook "([^"]+)" denied the request:? ?(.*)', message, re.DOTALL)
        if denied:
            return _("The webhook {name} says: {what}", name=denied[1], what=denied[2] or "-")
        policy = re.search(r"ValidatingAdmissionPolicy '([^']+)'.*denied request: (.*)", message, re.DOTALL)
        if policy:
            return _("The policy {name} says: {what}", name=policy[1], what=policy[2])
    elif check == "owner.admission":
        priority = re.search(r"no PriorityClass with name (\S+) was found", message)
        if priority:
            return _("The priority class {name} does not exist.", name=priority[1])
    return None


def _steps(facts: Facts, owner: Subject, check: str) -> tuple[Step, ...]:
    namespace = owner.namespace
    look = Step(_("Look at the owner and its events"), kubectl(facts, namespace, "describe", owner.kind.lower(), owner.name))
    change = Step(_("Put right the template"), kubectl(facts, namespace, "edit", f"{owner.kind.lower()}/{owner.name}"), changes=True)
    if check == "owner.quota":
        return (
            Step(_("See what the quota allows and what uses it"), kubectl(facts, namespace, "describe", "resourcequota")),
            Step(_("Free room (scale down what is not needed), or ask for a larger quota")),
        )
    if check == "config.service_account_missing":
        return (
            Step(_("See what there is"), kubectl(facts, namespace, "get", "serviceaccounts")),
            Step(_("Create the service account, or name the right one in the template")),
            look,
        )
    if check == "owner.webhook":
        return (
            look,
            Step(
                _("Look at the webhooks and policies, and at the service behind them"),
                kubectl(facts, "", "get", "validatingwebhookconfigurations,mutatingwebhookconfigurations"),
            ),
        )
    if check == "owner.limit_range":
        return (Step(_("See the limits"), kubectl(facts, namespace, "describe", "limitrange")), change)
    return (look, change)


def _quota_evidence(facts: Facts, namespace: str) -> list[Evidence]:
    found = []
    for quota in facts.quotas or ():
        if quota.metadata.namespace != namespace:
            continue
        shown = ", ".join(f"{name}: {quota.status.used.get(name, '?')}/{hard}" for name, hard in sorted(quota.status.hard.items()))
        found.append(
            Evidence(
                text=_("Quota {name}: in use / allowed", name=quota.metadata.name),
                quote=shown,
                reference=f"/api/v1/namespaces/{namespace}/resourcequotas/{quota.metadata.name}",
                time=facts.now,
            )
        )
    return found[:3]


def _condition(workload: Workload, type_: str) -> Condition | None:
    return next((item for item in workload.status.conditions if item.type == type_), None)


def _condition_evidence(subject: Subject, condition: Condition) -> Evidence:
    return Evidence(
        text=_(
            "Condition {type} of {kind} {name}: {reason}",
            type=condition.type,
            kind=subject.kind,
            name=subject.name,
            reason=condition.reason or "-",
        ),
        quote=condition.message,
        reference=f"/apis/apps/v1/namespaces/{subject.namespace}/{subject.kind.lower()}s/{subject.name}",
        time=condition.last_transition_time,
    )


def _ready_evidence(subject: Subject, workload: Workload) -> Evidence:
    status = workload.status
    if subject.kind == "DaemonSet":
        ready, wanted = status.number_ready, status.desired_number_scheduled
    else:
        ready, wanted = status.ready_replicas, 1 if workload.spec.replicas is None else workload.spec.replicas
    return Evidence(
        text=_("{kind} {name}: {ready} of {wanted} pods ready", kind=subject.kind, name=subject.name, ready=ready, wanted=wanted),
        reference=f"/apis/apps/v1/namespaces/{subject.namespace}/{subject.kind.lower()}s/{subject.name}",
    )
