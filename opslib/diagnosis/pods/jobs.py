"""Jobs that failed for good: too many tries, or too long."""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.pods.cases import evidence_of, kubectl
from opslib.diagnosis.pods.facts import Facts, controller
from opslib.diagnosis.pods.words import last_words
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Message, Text, _
from opslib.sources.objects import Condition, OwnerReference, Workload

_CHECKS = {"BackoffLimitExceeded": "job.backoff_limit", "DeadlineExceeded": "job.deadline"}


def failed_jobs(facts: Facts) -> Iterator[Finding]:
    """Every Job with the condition Failed; one finding a CronJob, about its latest run.

    Critical, but information only where the CronJob has had a success since.
    """
    latest: dict[tuple[Subject, str], tuple[Workload, Condition]] = {}
    for (namespace, name), job in (facts.workloads.get("Job") or {}).items():
        condition = failure(job)
        if condition is None:
            continue
        above = controller(job.metadata.owner_references) or OwnerReference("Job", name)
        subject = Subject(above.kind, above.name, namespace)
        key = (subject, _CHECKS.get(condition.reason, "job.failed"))
        known = latest.get(key)
        if known is None or str(known[0].metadata.creation_timestamp) < str(job.metadata.creation_timestamp):
            latest[key] = (job, condition)
    for (subject, check), (job, condition) in latest.items():
        yield _finding(facts, subject, check, job, condition)


def failure(job: Workload) -> Condition | None:
    """The condition that says that a Job failed for good."""
    return next((item for item in job.status.conditions if item.type == "Failed" and item.status == "True"), None)


def _finding(facts: Facts, subject: Subject, check: str, job: Workload, condition: Condition) -> Finding:
    name, namespace = job.metadata.name, job.metadata.namespace
    cron = facts.workload("CronJob", namespace, subject.name) if subject.kind == "CronJob" else None
    success = cron.status.last_successful_time if cron else None
    recovered = bool(success and condition.last_transition_time and success > condition.last_transition_time)
    titles: dict[str, Message] = {
        "job.backoff_limit": _("Job {name} failed: it used up its tries", name=name),
        "job.deadline": _("Job {name} failed: it ran longer than it may", name=name),
        "job.failed": _("Job {name} failed: {reason}", name=name, reason=condition.reason or "?"),
    }
    limit: Text | None = None
    if check == "job.deadline" and job.spec.active_deadline_seconds is not None:
        limit = _(
            "activeDeadlineSeconds is {seconds}. Its pods were ended with it, so that their logs may be gone.",
            seconds=job.spec.active_deadline_seconds,
        )
    elif check == "job.backoff_limit":
        limit = _(
            "{failed} pods failed, and backoffLimit is {limit}.",
            failed=job.status.failed,
            limit=6 if job.spec.backoff_limit is None else job.spec.backoff_limit,
        )
    ends = _pod_evidence(facts, job)
    said = last_words("\n".join(item.quote for item in ends))
    evidence = [
        Evidence(
            text=_("Condition {type}: {reason}", type=condition.type, reason=condition.reason or "-"),
            quote=condition.message,
            reference=f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}",
            time=condition.last_transition_time,
        ),
        *ends,
        *[evidence_of(event) for event in reversed(facts.events_of(job.metadata.uid))][:2],
    ]
    if recovered:
        evidence.append(
            Evidence(
                text=_("The CronJob has had a success since"),
                reference=f"/apis/batch/v1/namespaces/{namespace}/cronjobs/{subject.name}",
                time=success,
            )
        )
    again = (
        kubectl(facts, namespace, "create", "job", f"{subject.name}-again", f"--from=cronjob/{subject.name}")
        if subject.kind == "CronJob"
        else kubectl(facts, namespace, "delete", "job", name)
    )
    return Finding(
        check=check,
        severity=Severity.INFO if recovered else Severity.CRITICAL,
        subject=subject,
        title=titles[check],
        cause=said.cause if said else limit,
        evidence=tuple(evidence),
        steps=(
            Step(_("Read the log of its last pod"), kubectl(facts, namespace, "logs", f"job/{name}")),
            Step(_("Look at the Job and its events"), kubectl(facts, namespace, "describe", "job", name)),
            Step(
                _("Once the cause is put right, run it again")
                if subject.kind == "CronJob"
                else _("Once the cause is put right, delete it and apply its manifest again"),
                again,
                changes=True,
            ),
        ),
        affected=(Subject("Job", name, namespace),) if subject.kind == "CronJob" else (),
        since=condition.last_transition_time,
    )


def _pod_evidence(facts: Facts, job: Workload) -> list[Evidence]:
    """The last lines that the Job's newest failed pod wrote, and how it ended."""
    mine = [
        pod
        for pod in facts.pods or ()
        if any(owner.kind == "Job" and owner.uid == job.metadata.uid for owner in pod.metadata.owner_references)
    ]
    for pod in sorted(mine, key=lambda item: str(item.metadata.creation_timestamp), reverse=True):
        for status in pod.status.container_statuses:
            ended = status.state.terminated
            if ended is None or ended.exit_code == 0:
                continue
            log = facts.logs.get((pod.metadata.namespace, pod.metadata.name, status.name))
            lines = [line for line in (log.of_failure if log else "").splitlines() if line.strip()][-8:]
            return [
                Evidence(
                    text=_(
                        "Container {container} of pod {pod} ended with exit code {code}",
                        container=status.name,
                        pod=pod.metadata.name,
                        code=ended.exit_code,
                    ),
                    quote="\n".join(lines) or ended.message,
                    reference=f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}",
                    time=ended.finished_at,
                )
            ]
    return []
