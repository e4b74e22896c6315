"""Alerts that fire."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from opslib.diagnosis.links import grafana_explore
from opslib.diagnosis.monitoring.facts import Facts, Parameters
from opslib.findings import Evidence, Finding, Link, Severity, Step, Subject
from opslib.messages import _, _n, one_line
from opslib.sources.monitored import Alert, Notified, Rule

# What rules call their severity, by convention only; a label that is not here counts as a warning.
SEVERITIES = {
    "critical": Severity.CRITICAL,
    "page": Severity.CRITICAL,
    "error": Severity.CRITICAL,
    "emergency": Severity.CRITICAL,
    "warning": Severity.WARNING,
    "info": Severity.INFO,
    "none": Severity.INFO,
}
RUNBOOKS = ("runbook_url", "runbook")
# An alert is handed to Alertmanager again every minute at most: younger ones may be on their way.
ON_ITS_WAY = timedelta(minutes=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class FiringAlert:
    """All firing alerts of one name, from Prometheus and Alertmanager together.

    `series` are the labels of each, `suppressed` how many of them nobody is told about (silenced or inhibited), `silences` the silences'
    ids.
    """

    name: str
    severity: Severity
    series: tuple[Mapping[str, str], ...]
    annotations: Mapping[str, str]
    since: datetime | None
    query: str = ""
    suppressed: int = 0
    silences: tuple[str, ...] = ()


def firing_alerts(facts: Facts) -> list[FiringAlert] | None:
    """Firing alerts by name, worst and oldest first; None where neither Prometheus nor Alertmanager could be read.

    Alertmanager knows of silences, and of alerts that something else than this Prometheus raised; Prometheus knows the rule.
    """
    if facts.groups is None and facts.notified is None:
        return None
    rules: dict[str, Rule] = {rule.name: rule for group in facts.groups or [] for rule in group.rules if rule.type == "alerting"}
    found: dict[str, list[Alert | Notified]] = defaultdict(list)
    for alert in facts.notified or []:
        found[alert.name].append(alert)
    for rule in (rule for group in facts.groups or [] for rule in group.rules):
        firing = [alert for alert in rule.alerts if alert.state == "firing"]
        if firing and rule.name not in found:
            found[rule.name].extend(firing)
    return sorted(
        (_together(name, alerts, rules.get(name)) for name, alerts in found.items()),
        key=lambda alert: (-alert.severity, alert.since.timestamp() if alert.since else 0, alert.name),
    )


def _together(name: str, alerts: list[Alert | Notified], rule: Rule | None) -> FiringAlert:
    starts = [start for alert in alerts if (start := alert.starts_at if isinstance(alert, Notified) else alert.active_at)]
    suppressed = [alert for alert in alerts if isinstance(alert, Notified) and alert.status.state == "suppressed"]
    return FiringAlert(
        name=name,
        severity=max(SEVERITIES.get(alert.labels.get("severity", "").lower(), Severity.WARNING) for alert in alerts),
        series=tuple(alert.labels for alert in alerts),
        annotations=alerts[0].annotations,
        since=min(starts, default=None),
        query=rule.query if rule else "",
        suppressed=len(suppressed),
        silences=tuple(sorted({silence for alert in suppressed for silence in alert.status.silenced_by})),
    )


def firing(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """One finding an alert's name. An alert that is wholly silenced or inhibited is only information: somebody decided so."""
    for alert in firing_alerts(facts) or []:
        silenced = alert.suppressed == len(alert.series)
        summary = next((alert.annotations[name] for name in ("summary", "message", "description") if alert.annotations.get(name)), "")
        evidence = [Evidence(text=_("What the alert says"), quote=summary, source="alertmanager", time=alert.since)] if summary else []
        evidence.append(
            Evidence(
                text=_n("{count} series fires it", "{count} series fire it", len(alert.series)),
                quote="\n".join(_labels(labels) for labels in alert.series[:5]),
                source="prometheus",
                reference=alert.query,
                time=alert.since,
            )
        )
        if alert.suppressed:
            evidence.append(
                Evidence(
                    text=_n("{count} of them is silenced or inhibited", "{count} of them are silenced or inhibited", alert.suppressed),
                    quote="\n".join(alert.silences),
                    source="alertmanager",
                    reference="/api/v2/alerts",
                )
            )
        runbook = next((alert.annotations[name] for name in RUNBOOKS if alert.annotations.get(name)), "")
        yield Finding(
            check="alerts.silenced" if silenced else "alerts.firing",
            severity=min(alert.severity, Severity.INFO) if silenced else alert.severity,
            subject=Subject("Alert", alert.name),
            title=_("The alert {name} fires, but is silenced or inhibited", name=alert.name)
            if silenced
            else _("The alert {name} fires", name=alert.name),
            evidence=tuple(evidence),
            steps=_steps(runbook),
            links=(*_runbook(runbook), *(_explore(facts, parameters, alert) if alert.query else ())),
            affected=tuple(dict.fromkeys(_subject(labels) for labels in alert.series)),
            since=alert.since,
        )


def unknown_to_alertmanager(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Alerts that fire in Prometheus, and of which Alertmanager has none of that name: nobody is told."""
    if facts.groups is None or facts.notified is None:
        return
    known = {alert.name for alert in facts.notified}
    lost = {
        alert.name or rule.name: alert.active_at
        for group in facts.groups
        for rule in group.rules
        for alert in rule.alerts
        if alert.state == "firing"
        and alert.active_at is not None
        and facts.now - alert.active_at > timedelta(seconds=rule.duration) + ON_ITS_WAY
        and (alert.name or rule.name) not in known
    }
    if lost:
        yield Finding(
            check="alerts.not_delivered",
            severity=Severity.CRITICAL,
            subject=Subject("System", "alertmanager"),
            title=_n(
                "{count} alert that fires in Prometheus is not known to Alertmanager",
                "{count} alerts that fire in Prometheus are not known to Alertmanager",
                len(lost),
            ),
            cause=_("Prometheus sends to another Alertmanager, cannot reach it, or drops the alert by alert_relabel_configs"),
            evidence=(
                Evidence(
                    text=_("They fire, and /api/v2/alerts does not have them"),
                    quote="\n".join(sorted(lost)),
                    source="prometheus",
                    reference="/api/v1/rules",
                ),
            ),
            steps=(
                Step(
                    _(
                        "Check the section alerting of Prometheus' configuration, and the metric {metric}",
                        metric="prometheus_notifications_errors_total",
                    )
                ),
            ),
            affected=tuple(Subject("Alert", name) for name in sorted(lost)),
            since=min((since for since in lost.values() if since), default=None),
        )


def _labels(labels: Mapping[str, str]) -> str:
    return one_line(", ".join(f"{name}={value}" for name, value in sorted(labels.items()) if name not in ("alertname", "prometheus")), 300)


def _subject(labels: Mapping[str, str]) -> Subject:
    """The most telling object that an alert's labels name."""
    for label, kind in (
        ("pod", "Pod"),
        ("deployment", "Deployment"),
        ("statefulset", "StatefulSet"),
        ("daemonset", "DaemonSet"),
        ("job_name", "Job"),
        ("persistentvolumeclaim", "PersistentVolumeClaim"),
        ("node", "Node"),
        ("service", "Service"),
        ("instance", "Target"),
        ("namespace", "Namespace"),
        ("job", "Job"),
    ):
        if labels.get(label):
            return Subject(kind, labels[label], labels.get("namespace", "") if kind not in ("Node", "Target", "Namespace") else "")
    return Subject("Alert", labels.get("alertname", ""))


def _steps(runbook: str) -> tuple[Step, ...]:
    if runbook:
        return (Step(_("Follow the alert's own runbook page")),)
    return (
        Step(_("The alert names no runbook page: look at the query's series, then at the pods and nodes they name (chapters 4.1 to 4.3)")),
    )


def _runbook(address: str) -> tuple[Link, ...]:
    try:
        return (Link(_("Runbook"), address),) if address else ()
    except ValueError:  # not a web address
        return ()


def _explore(facts: Facts, parameters: Parameters, alert: FiringAlert) -> tuple[Link, ...]:
    start = min(facts.now - timedelta(minutes=parameters.window_minutes), alert.since or facts.now)
    return grafana_explore(facts.links, alert.query, start, facts.now)
