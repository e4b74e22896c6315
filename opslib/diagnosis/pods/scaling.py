"""Autoscalers that can do no more, or cannot see."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.pods.cases import kubectl
from opslib.diagnosis.pods.facts import Facts
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.objects import Autoscaler, Condition

# in the controller's words that there are no metrics since no pod of the target is ready: the pods' own findings say why
_UNREADY = "pods might be unready"
# New pods have no metrics until they were asked for them twice (metrics-server, every 15 to 60 s): a rollout of all of them looks so.
_NONE_YET = "no metrics returned"
_FIRST_METRICS = timedelta(minutes=3)


def autoscalers(facts: Facts) -> Iterator[Finding]:
    """Horizontal pod autoscalers at their limit, without metrics, or without a target."""
    for item in facts.autoscalers or ():
        target = item.spec.scale_target_ref
        name = item.metadata.name
        look = Step(_("Look at the autoscaler"), kubectl(facts, item.metadata.namespace, "describe", "hpa", name))
        able, active, limited = _condition(item, "AbleToScale"), _condition(item, "ScalingActive"), _condition(item, "ScalingLimited")
        if able and able.status == "False" and able.reason == "FailedGetScale":
            yield _finding(
                facts,
                item,
                able,
                "scaling.target_missing",
                Severity.CRITICAL,
                _("Autoscaler {name} has no target: {kind} {target} cannot be read", name=name, kind=target.kind, target=target.name),
                None,
                (look, Step(_("Name the right target in scaleTargetRef"))),
            )
        elif active and active.status == "False" and active.reason != "ScalingDisabled" and not _passing(active, facts):
            yield _finding(
                facts,
                item,
                active,
                "scaling.no_metrics",
                Severity.WARNING,
                _("Autoscaler {name} cannot read its metrics: it does not scale", name=name),
                _(
                    "Without metrics the number of replicas stays as it is: metrics-server or its adapter does not answer, or the pods"
                    " name no requests."
                ),
                (look, Step(_("See whether the metrics API answers"), kubectl(facts, "", "get", "apiservices", "v1beta1.metrics.k8s.io"))),
            )
        elif (
            limited
            and limited.status == "True"
            and limited.reason == "TooManyReplicas"
            and item.status.current_replicas >= item.spec.max_replicas
        ):
            yield _finding(
                facts,
                item,
                limited,
                "scaling.at_limit",
                Severity.WARNING,
                _("Autoscaler {name} is at its limit of {limit} replicas and wants more", name=name, limit=item.spec.max_replicas),
                _(
                    "The load is higher than {limit} replicas of {target} can carry within the autoscaler's target.",
                    limit=item.spec.max_replicas,
                    target=target.name,
                ),
                (
                    look,
                    Step(
                        _("If the nodes have room, raise the limit"),
                        kubectl(
                            facts,
                            item.metadata.namespace,
                            "patch",
                            "hpa",
                            name,
                            "-p",
                            f'{{"spec":{{"maxReplicas":{item.spec.max_replicas + max(1, item.spec.max_replicas // 2)}}}}}',
                        ),
                        changes=True,
                    ),
                ),
            )


def _passing(active: Condition, facts: Facts) -> bool:
    since = active.last_transition_time
    return _UNREADY in active.message or (_NONE_YET in active.message and since is not None and facts.now - since < _FIRST_METRICS)


def _condition(item: Autoscaler, type_: str) -> Condition | None:
    return next((condition for condition in item.status.conditions if condition.type == type_), None)


def _finding(
    facts: Facts,
    item: Autoscaler,
    condition: Condition,
    check: str,
    severity: Severity,
    title: Text,
    cause: Text | None,
    steps: tuple[Step, ...],
) -> Finding:
    metadata = item.metadata
    return Finding(
        check=check,
        severity=severity,
        subject=Subject("HorizontalPodAutoscaler", metadata.name, metadata.namespace),
        title=title,
        cause=cause,
        evidence=(
            Evidence(
                text=_("Condition {type}: {reason}", type=condition.type, reason=condition.reason or "-"),
                quote=condition.message,
                reference=f"/apis/autoscaling/v2/namespaces/{metadata.namespace}/horizontalpodautoscalers/{metadata.name}",
                time=condition.last_transition_time,
            ),
            Evidence(
                text=_(
                    "{current} replicas, {desired} wanted, between {least} and {most} allowed",
                    current=item.status.current_replicas,
                    desired=item.status.desired_replicas,
                    least=1 if item.spec.min_replicas is None else item.spec.min_replicas,
                    most=item.spec.max_replicas,
                ),
                time=facts.now,
            ),
        ),
        steps=steps,
        since=condition.last_transition_time,
    )
