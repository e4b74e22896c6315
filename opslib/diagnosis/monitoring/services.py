"""Requests, errors and latency of the applications, against the same time yesterday and last week."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.links import grafana_explore
from opslib.diagnosis.monitoring.facts import Facts, Parameters, ServiceUse
from opslib.findings import Evidence, Finding, Link, Severity, Step, Subject
from opslib.messages import Message, _


def errors(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Services that fail too often."""
    for service in facts.services or []:
        now = max(
            (
                time.error_ratio
                for time in (service.now, service.recent)
                if time.error_ratio is not None and (time.requests or 0) >= parameters.traffic_floor_per_second
            ),
            default=0.0,
        )
        if now < parameters.error_ratio_warning:
            continue
        yield Finding(
            check="services.errors",
            severity=Severity.CRITICAL if now >= parameters.error_ratio_critical else Severity.WARNING,
            subject=Subject("Service", service.name, service.namespace),
            title=_("Requests to {service} fail more often than they may", service=service.label),
            evidence=(
                Evidence(
                    text=_(
                        "{recent} of requests failed in the last five minutes, {now} in the last {minutes} minutes; "
                        "yesterday at this time {yesterday}, a week ago {last_week}",
                        recent=percent(service.recent.error_ratio),
                        now=percent(service.now.error_ratio),
                        minutes=parameters.window_minutes,
                        yesterday=percent(service.yesterday.error_ratio),
                        last_week=percent(service.last_week.error_ratio),
                    ),
                    source="prometheus",
                    reference=facts.metrics.requests_metric if facts.metrics else "",
                ),
            ),
            steps=(
                Step(_("Look at its errors in the logs, further down, and at its pods (chapter 4.1)")),
                Step(_("See what changed just before: a rollout that began together with the errors is rolled back first")),
            ),
            links=_explore(facts, parameters, service),
        )


def latency(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Services that answer more slowly than yesterday and than a week ago, both."""
    for service in facts.services or []:
        now = service.now.latency
        before = [value for value in (service.yesterday.latency, service.last_week.latency) if value]
        if now is None or not before or now < parameters.latency_floor_seconds or now < parameters.latency_factor * max(before):
            continue
        if (service.now.requests or 0) < parameters.traffic_floor_per_second:
            continue
        yield Finding(
            check="services.latency",
            severity=Severity.WARNING,
            subject=Subject("Service", service.name, service.namespace),
            title=_("{service} answers much more slowly than at this time on earlier days", service=service.label),
            evidence=(
                Evidence(
                    text=_(
                        "95 % of requests are answered within {now}; yesterday {yesterday}, a week ago {last_week}",
                        now=seconds(now),
                        yesterday=seconds(service.yesterday.latency),
                        last_week=seconds(service.last_week.latency),
                    ),
                    source="prometheus",
                    reference=facts.metrics.latency_metric if facts.metrics else "",
                ),
            ),
            steps=(Step(_("Look at the CPU and memory of its pods (chapter 4.3), and at what it calls")),),
            links=_explore(facts, parameters, service),
        )


def traffic(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Services with far fewer requests than yesterday and than a week ago, both: users, or what calls it, may not get through.

    Critical where none came in the last five minutes, and they came before: earlier in the window, yesterday or a week ago.
    """
    floor = parameters.traffic_floor_per_second
    for service in facts.services or []:
        now, recent = service.now.requests, service.recent.requests
        before = [value for value in (service.yesterday.requests, service.last_week.requests) if value is not None]
        busy = bool(before) and min(before) >= floor
        silent = recent == 0 and ((now or 0) >= floor or busy)
        fewer = now is not None and busy and now < parameters.traffic_drop * min(before)
        if not (silent or fewer):
            continue
        yield Finding(
            check="services.traffic",
            severity=Severity.CRITICAL if silent else Severity.WARNING,
            subject=Subject("Service", service.name, service.namespace),
            title=_("{service} gets no requests any more", service=service.label)
            if silent
            else _("{service} gets far fewer requests than at this time on earlier days", service=service.label),
            evidence=(
                Evidence(
                    text=_(
                        "{recent} requests a second in the last five minutes, {now} in the last {minutes} minutes; "
                        "yesterday at this time {yesterday}, a week ago {last_week}",
                        recent=_rate(recent),
                        now=_rate(now),
                        minutes=parameters.window_minutes,
                        yesterday=_rate(service.yesterday.requests),
                        last_week=_rate(service.last_week.requests),
                    ),
                    source="prometheus",
                    reference=facts.metrics.requests_metric if facts.metrics else "",
                ),
            ),
            steps=(Step(_("Look at the ingress, DNS and what calls it; see whether its pods run and its metrics are scraped")),),
            links=_explore(facts, parameters, service),
        )


def percent(value: float | None) -> str:
    """A share as per cent, in three digits at most; a dash where it is not known."""
    return "-" if value is None else f"{value * 100:.3g} %"


def seconds(value: float | None) -> Message | str:
    """A latency, in milliseconds below one second; a dash where it is not known."""
    if value is None:
        return "-"
    return _("{value} ms", value=f"{value * 1000:.3g}") if value < 1 else _("{value} s", value=f"{value:.3g}")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _explore(facts: Facts, parameters: Parameters, service: ServiceUse) -> tuple[Link, ...]:
    if facts.metrics is None:
        return ()
    from json import dumps

    metrics = facts.metrics
    quoted = dumps(service.name, ensure_ascii=False)  # PromQL's strings have JSON's escapes
    query = f"sum by ({metrics.status_label}) (rate({metrics.requests_metric}{{{metrics.service_label}={quoted}}}[5m]))"
    return grafana_explore(facts.links, query, facts.now - timedelta(minutes=parameters.window_minutes), facts.now)
