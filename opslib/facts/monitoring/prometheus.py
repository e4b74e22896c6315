"""Asks Prometheus everything at once: itself, its rules, notifications, nodes and services."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.diagnosis.monitoring.facts import Delivery, Lost, Parameters
from opslib.facts import Answer, Questions
from opslib.facts.monitoring import nodes, services
from opslib.facts.monitoring.rules import missing_series
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.prometheus import Prometheus, any_of, selector

if TYPE_CHECKING:
    import pandas

    from opslib.sources.monitored import RuleGroup

# Alertmanager's own counters (notify/notify.go), and Prometheus' (notifier/metric.go): `sent` counts the alerts whose sending failed too.
TRIED, FAILED = "alertmanager_notifications_total", "alertmanager_notifications_failed_total"
SENT, LOST = "prometheus_notifications_sent_total", "prometheus_notifications_errors_total"


def read(prometheus: Prometheus, parameters: Parameters, questions: Questions, now: datetime) -> dict[str, Any]:
    """The fields of `Facts` that come from Prometheus; a part that cannot be read is None, and a gap.

    Raises
    ------
    SourceError
        It does not answer at all.
    """
    prometheus.query("vector(1)")
    metrics, window = prometheus.settings, f"{parameters.window_minutes}m"

    def ask(what: Text, promql: str, *labels: str) -> Answer[pandas.DataFrame]:
        return questions.ask(what, lambda: _whole(questions, prometheus.query(promql, now, labels=labels), what))

    groups = questions.ask(_("rules and their alerts"), prometheus.rules)
    targets = questions.ask(_("scrape targets"), prometheus.targets)
    runtime = questions.ask(_("Prometheus' own state"), prometheus.runtime)
    alertmanagers = questions.ask(_("the Alertmanagers that Prometheus sends to"), prometheus.alertmanagers)
    failed = ask(_("failed notifications"), f"sum by (integration, receiver_name, reason) (increase({FAILED}[{window}]))", "integration")
    tried = ask(_("notifications"), f"sum by (integration, receiver_name) (increase({TRIED}[{window}]))", "integration")
    lost = ask(_("alerts that Prometheus could not hand over"), f"sum by (alertmanager) (increase({LOST}[{window}]))", "alertmanager")
    sent = ask(_("alerts that Prometheus handed over"), f"sum by (alertmanager) (increase({SENT}[{window}]))", "alertmanager")
    of_nodes = {name: ask(_("use of the nodes"), promql, *labels) for name, (promql, labels) in nodes.queries().items()}
    wanted = services.Queries(metrics, parameters)
    of_services = {
        (then, name): ask(_("requests, errors and latency of the services"), promql, "namespace", metrics.service_label)
        for then in services.TIMES
        for name, promql in wanted.instant(then).items()
    }

    def missing() -> Answer[Any] | None:
        known: list[RuleGroup] | None = groups.get()
        if known is None:
            return None
        return questions.ask(
            _("whether the metrics of each rule exist"), lambda: missing_series(prometheus, known, parameters, questions, now)
        )

    of_rules = missing()
    top = services.top(of_services["now", "requests"].get(), metrics)
    start, step = now - timedelta(minutes=parameters.window_minutes), max(parameters.window_minutes * 60 / 120, 15)

    def over_time(promql: str) -> Answer[pandas.DataFrame]:
        labels = ("namespace", metrics.service_label)
        return questions.ask(_("requests and errors over time"), lambda: prometheus.query_range(promql, start, now, step, labels=labels))

    lines = {name: over_time(promql) for name, promql in wanted.over_time(top).items()} if top else {}

    _expect(questions, tried.get(), TRIED, _("Scrape Alertmanager, to see whether notifications fail"))
    _expect(questions, sent.get(), SENT, _("Let Prometheus scrape itself, to see whether alerts are lost"))
    frames = {name: answer.get() for name, answer in of_nodes.items()}
    _expect(questions, frames["cpu_used"], "node_cpu_seconds_total", _("Scrape the node exporter on every node"))
    _expect(questions, frames["cpu_allocatable"], "kube_node_status_allocatable", _("Scrape kube-state-metrics"))
    requests = [of_services[then, "requests"].get() for then in services.TIMES]
    if all(frame is not None and frame.empty for frame in requests):
        remedy = _("Name the counter of requests and its labels in the environment's file: {field}", field="prometheus.requests_metric")
        _expect(questions, requests[0], metrics.requests_metric, remedy)
    return {
        "groups": groups.get(),
        "targets": targets.get(),
        "runtime": runtime.get(),
        "alertmanagers": alertmanagers.get(),
        "missing": of_rules.get() if of_rules else None,
        "deliveries": _deliveries(failed.get(), tried.get()),
        "lost": _lost(lost.get(), sent.get()),
        "nodes": nodes.nodes(frames),
        "services": services.services({key: answer.get() for key, answer in of_services.items()}, metrics, parameters.most_services),
        "requests_over_time": services.over_time(lines["requests"].get(), metrics) if lines else None,
        "errors_over_time": services.over_time(lines["errors"].get(), metrics) if lines else None,
    }


def _whole(questions: Questions, frame: pandas.DataFrame, what: Text) -> pandas.DataFrame:
    """The frame; what Prometheus warns of (parts that it could not read) becomes a gap."""
    for warning in frame.attrs.get("warnings", ()):
        questions.gap(
            Finding(
                check="gap.prometheus",
                severity=Severity.UNKNOWN,
                subject=Subject("System", "prometheus"),
                title=_("Prometheus could answer only in part: {what}", what=what),
                evidence=(Evidence(text=_("Its warning"), quote=warning, source="prometheus", reference=frame.attrs["query"]),),
            )
        )
    return frame


def _expect(questions: Questions, frame: pandas.DataFrame | None, metric: str, remedy: Text) -> None:
    """A metric without any series is a gap: nothing that rests on it could be looked at."""
    if frame is not None and frame.empty:
        questions.gap(
            Finding(
                check="gap.prometheus",
                severity=Severity.UNKNOWN,
                subject=Subject("Metric", metric),
                title=_("Could not look at {what}: Prometheus has no such metric, or too few samples of it yet", what=metric),
                evidence=(Evidence(text=_("The query gives no series"), source="prometheus", reference=frame.attrs.get("query", metric)),),
                steps=(Step(remedy),),
            )
        )


def _lost(lost: pandas.DataFrame | None, sent: pandas.DataFrame | None) -> list[Lost] | None:
    if lost is None or sent is None or sent.empty:
        return None
    tried = dict(zip(sent["alertmanager"].tolist(), sent["value"].tolist(), strict=True))
    return [
        Lost(alertmanager=address, failed=count, tried=tried.get(address, 0))
        for address, count in zip(lost["alertmanager"].tolist(), lost["value"].tolist(), strict=True)
    ]


def _deliveries(failed: pandas.DataFrame | None, tried: pandas.DataFrame | None) -> list[Delivery] | None:
    if failed is None or tried is None:
        return None
    attempts = {(row["integration"], row.get("receiver_name", "")): row["value"] for row in tried.to_dict("records")}
    return [
        Delivery(
            integration=row["integration"],
            receiver=row.get("receiver_name", ""),
            reason=row.get("reason", ""),
            failed=row["value"],
            tried=attempts.get((row["integration"], row.get("receiver_name", "")), 0),
        )
        for row in failed.to_dict("records")
    ]


def images(prometheus: Prometheus, pods: Sequence[str], parameters: Parameters, now: datetime) -> dict[str, dict[str, frozenset[str]]]:
    """The versions that pods' images had in the window and the days before, by pod and container: their tags, else the start of the digest.

    A pod that kept its name through a release has several.
    """
    prefix = prometheus.settings.state_prefix
    labels = (f"{prefix}pod", f"{prefix}container", "image")
    series = selector("kube_pod_container_info", any_of(labels[0], pods))
    span = f"{parameters.baseline_days * 1440 + parameters.window_minutes}m"
    frame = prometheus.query(f"count by ({', '.join(labels)}) (last_over_time({series}[{span}]))", now, labels=labels)
    found: dict[str, dict[str, frozenset[str]]] = {}
    for pod, container, image in zip(*(frame[label].astype(str) for label in labels), strict=True):
        containers = found.setdefault(pod, {})
        containers[container] = containers.get(container, frozenset()) | {version_of(image)}
    return found


def version_of(image: str) -> str:
    """The tag of an image, else the start of its digest.

    >>> version_of("registry.example.com:5000/shop/web:1.2.3@sha256:0123456789abcdef")
    '1.2.3'
    >>> version_of("shop/web@sha256:0123456789abcdef")
    'sha256:0123456789ab'
    """
    name, _at, digest = image.partition("@")
    if name.startswith("sha256:"):  # by its id alone
        name, digest = "", name
    tag = name.rpartition("/")[2].partition(":")[2]
    return tag or digest[: len("sha256:") + 12] or "latest"
