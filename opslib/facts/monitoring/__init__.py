"""Reads what chapter 3.1 looks at: Prometheus, Alertmanager, the cluster's monitoring objects, and the error logs.

Each system is asked first for the least that shows that it answers; one that does not is one gap, not thirty. Sums are made by the systems:
what comes back is a few rows a service, a node or a rule.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, TypeVar

from opslib.diagnosis.monitoring.facts import Facts, Parameters
from opslib.errors import NotFound
from opslib.facts import Questions
from opslib.facts.monitoring import logs, prometheus
from opslib.facts.sources import Sources
from opslib.messages import _
from opslib.sources.alertmanager import Alertmanager
from opslib.sources.monitored import AlertmanagerObject, PrometheusRule

T = TypeVar("T")


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 3.1, read from all four systems at once.

    A question about a system asks further ones and waits for them: the executor behind `questions` needs eight workers or more.
    """
    environment = sources.environment
    now = datetime.now(UTC)
    of_prometheus = questions.ask(
        _("Prometheus (rules, alerts, targets, cluster use, application metrics)"),
        lambda: prometheus.read(sources.prometheus, parameters, questions, now),
    )
    of_alertmanager = questions.ask(
        _("Alertmanager (its cluster, alerts, silences)"), lambda: _alertmanager(sources.alertmanager, questions)
    )
    of_logs = questions.ask(
        _("Elasticsearch (error logs)"),
        lambda: logs.read(
            sources.elasticsearch, parameters, questions, now, lambda pods: prometheus.images(sources.prometheus, pods, parameters, now)
        ),
    )
    prometheus_rules = questions.ask(_("PrometheusRule objects"), lambda: _objects(sources, PrometheusRule, "prometheusrules"))
    alertmanager_objects = questions.ask(_("Alertmanager objects"), lambda: _objects(sources, AlertmanagerObject, "alertmanagers"))
    answers: dict[str, Any] = {
        **(of_prometheus.get() or {}),
        **(of_alertmanager.get() or {}),
        "logs": of_logs.get(),
        "prometheus_rules": prometheus_rules.get(),
        "alertmanager_objects": alertmanager_objects.get(),
    }
    return Facts(
        now=now,
        environment=environment.name,
        zone=environment.zone,
        links=environment.links,
        metrics=environment.prometheus,
        logs_settings=environment.elasticsearch,
        context=environment.kubernetes.context or "",
        alertmanager_url=environment.alertmanager.url if environment.alertmanager else "",
        **answers,
        gaps=questions.gaps,
    )


def _alertmanager(alertmanager: Alertmanager, questions: Questions) -> dict[str, Any]:
    """The fields of `Facts` that come from Alertmanager."""
    status = alertmanager.status()
    notified = questions.ask(_("Alertmanager's alerts"), alertmanager.alerts)
    silences = questions.ask(_("silences"), alertmanager.silences)
    return {"alertmanager": status, "notified": notified.get(), "silences": silences.get()}


def _objects(sources: Sources, kind: type[T], resource: str) -> list[T]:
    """The operator's objects; none where the cluster does not know the kind."""
    try:
        return sources.kubernetes.list(kind, f"{resource}.monitoring.coreos.com")
    except NotFound:
        return []
