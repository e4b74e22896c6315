"""From a firing alert to somebody's phone: Alertmanager, its cluster, its receivers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from opslib.diagnosis.monitoring.facts import Delivery, Facts, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, _n

ALL = 0.99  # of the attempts: both counters are extrapolated, each a little differently


def no_alertmanager(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Prometheus has alert rules, and no Alertmanager to send to."""
    if facts.alertmanagers is None or facts.alertmanagers:
        return
    if any(rule.type == "alerting" for group in facts.groups or [] for rule in group.rules):
        yield Finding(
            check="delivery.no_alertmanager",
            severity=Severity.CRITICAL,
            subject=Subject("System", "prometheus"),
            title=_("Prometheus sends its alerts to no Alertmanager, so nobody is told"),
            evidence=(Evidence(text=_("No Alertmanager is active"), source="prometheus", reference="/api/v1/alertmanagers"),),
            steps=(Step(_("Check the section alerting of Prometheus' configuration")),),
        )


def lost(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Alerts that Prometheus could not hand over; critical where no Alertmanager gets any."""
    nothing_arrives = all(item.failed >= ALL * item.tried for item in facts.lost or [])
    for item in sorted(facts.lost or [], key=lambda item: item.alertmanager):
        if item.failed < 0.5:
            continue
        yield Finding(
            check="delivery.lost",
            severity=Severity.CRITICAL if nothing_arrives else Severity.WARNING,
            subject=Subject("Alertmanager", item.alertmanager),
            title=_("Prometheus cannot hand all alerts to the Alertmanager {address}", address=item.alertmanager),
            evidence=(
                Evidence(
                    text=_(
                        "About {failed} of {tried} attempts failed in the last {minutes} minutes",
                        failed=round(item.failed),
                        tried=round(max(item.tried, item.failed)),
                        minutes=parameters.window_minutes,
                    ),
                    source="prometheus",
                    reference="prometheus_notifications_errors_total",
                ),
            ),
            steps=(Step(_("See whether this Alertmanager runs, and whether Prometheus can reach it")),),
        )


def receivers_failing(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Notifications that did not arrive; critical where none of an integration's did."""
    found: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
    for delivery in facts.deliveries or []:
        found[delivery.integration, delivery.receiver].append(delivery)
    for (integration, receiver), deliveries in sorted(found.items()):
        failed = sum(delivery.failed for delivery in deliveries)
        tried = max(delivery.tried for delivery in deliveries)
        if failed < 0.5:
            continue
        reasons = sorted({delivery.reason for delivery in deliveries if delivery.failed > 0 and delivery.reason})
        name = f"{receiver}/{integration}" if receiver else integration
        yield Finding(
            check="delivery.receiver_failing",
            severity=Severity.CRITICAL if failed >= ALL * tried else Severity.WARNING,
            subject=Subject("Receiver", name),
            title=_("Alertmanager cannot deliver notifications by {name}", name=name),
            evidence=(
                Evidence(
                    text=_(
                        "About {failed} of {tried} attempts failed in the last {minutes} minutes",
                        failed=round(failed),
                        tried=round(max(tried, failed)),
                        minutes=parameters.window_minutes,
                    ),
                    quote="\n".join(reasons),
                    source="prometheus",
                    reference="alertmanager_notifications_failed_total",
                ),
            ),
            steps=(
                Step(_("Look for the reason in Alertmanager's log, then check the receiver's address and credentials")),
                Step(_("Send a test alert"), "amtool alert add alertname=test severity=info"),
            ),
        )


def cluster(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Alertmanagers that do not see each other: each sends every notification, and a silence set in one does not hold in the others."""
    if facts.alertmanager is None:
        return
    state, peers = facts.alertmanager.cluster.status, len(facts.alertmanager.cluster.peers)
    expected = max(
        len(facts.alertmanagers or ()),
        max((item.spec.replicas or 1 for item in facts.alertmanager_objects or ()), default=0),
    )
    apart = expected > 1 and (state == "disabled" or peers < expected)
    if state == "settling" or apart:
        yield Finding(
            check="delivery.cluster",
            severity=Severity.WARNING,
            subject=Subject("System", "alertmanager"),
            title=_("The Alertmanagers do not see all of each other") if apart else _("The Alertmanager cluster has not settled yet"),
            cause=_("Notifications may come several times, and a silence may hold in one of them only") if apart else None,
            evidence=(
                Evidence(
                    text=_(
                        "State of the cluster: {state}; members: {peers}; expected: {expected}",
                        state=state,
                        peers=peers,
                        expected=expected,
                    ),
                    quote="\n".join(peer.address for peer in facts.alertmanager.cluster.peers),
                    source="alertmanager",
                    reference="/api/v2/status",
                ),
            ),
            steps=(Step(_("Check that their cluster port (9094) is open between them, TCP and UDP")),),
        )


def objects(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Alertmanager objects of the operator whose pods are not all there, or that the operator leaves alone."""
    for item in facts.alertmanager_objects or []:
        name, namespace = item.metadata.name, item.metadata.namespace
        context = ("--context", facts.context) if facts.context else ()
        wanted = 1 if item.spec.replicas is None else item.spec.replicas
        # Without a status the operator has not looked at it (or is older than the status, 0.61): not known.
        if item.status is not None and item.status.available_replicas < wanted:
            yield Finding(
                check="delivery.object",
                severity=Severity.CRITICAL if item.status.available_replicas == 0 else Severity.WARNING,
                subject=Subject("Alertmanager", name, namespace),
                title=_(
                    "{available} of {wanted} pods of the Alertmanager {name} are available",
                    available=item.status.available_replicas,
                    wanted=wanted,
                    name=f"{namespace}/{name}",
                ),
                evidence=tuple(
                    Evidence(text=_("Condition {type} is {status}", type=condition.type, status=condition.status), quote=condition.message)
                    for condition in item.status.conditions
                    if condition.status != "True"
                ),
                steps=(
                    Step(
                        _("See its pods, then chapter 4.1"),
                        command("kubectl", *context, "-n", namespace, "get", "pods", "-l", f"alertmanager={name}"),
                    ),
                ),
            )
        if item.spec.paused:
            yield Finding(
                check="delivery.paused",
                severity=Severity.INFO,
                subject=Subject("Alertmanager", name, namespace),
                title=_("The operator leaves the Alertmanager {name} alone: it is paused", name=f"{namespace}/{name}"),
                evidence=(Evidence(text=_("spec.paused is true: changes to it have no effect")),),
                steps=(Step(_("Set spec.paused to false when the work on it is done")),),
            )


def default_receiver(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """What no route takes goes to a receiver that sends nowhere."""
    status = facts.alertmanager
    if status and status.default_receiver and status.default_receiver in status.silent_receivers:
        yield Finding(
            check="delivery.default_receiver",
            severity=Severity.WARNING,
            subject=Subject("Receiver", status.default_receiver),
            title=_("Alerts that no route takes reach nobody: the default receiver {name} sends nowhere", name=status.default_receiver),
            evidence=(
                Evidence(
                    text=_n("The configuration has {count} receiver", "The configuration has {count} receivers", len(status.receivers)),
                    quote="\n".join(status.receivers[:20]),
                    source="alertmanager",
                    reference="/api/v2/status",
                ),
            ),
            steps=(
                Step(
                    _("Give the top route a receiver that somebody reads, and test a route with"),
                    "amtool config routes test alertname=test",
                ),
            ),
        )
