"""Errors in the logs: more than usual, sudden, or never seen before."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import datetime, timedelta

from opslib.diagnosis.links import kibana_discover, kql
from opslib.diagnosis.monitoring.facts import ErrorCount, Facts, LogFacts, LogTemplate, Parameters
from opslib.findings import Evidence, Finding, Link, Severity, Step, Subject
from opslib.messages import _, _n
from opslib.mining.rates import change

SURE = 0.001
"""A kind is called more frequent where chance alone makes it so less often than this: dozens of kinds are looked at every day."""
LATE = timedelta(minutes=15)  # since the newest line: shippers are minutes behind at most


def usual(count: ErrorCount) -> float | None:
    """Errors that are usual in this window: the median of the earlier days of which there are logs; None where there are none."""
    known = [earlier for earlier in count.earlier if earlier is not None]
    return statistics.median(known) if known else None


def stopped(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """No logs come in: then "no errors in the logs" says nothing."""
    logs = facts.logs
    if logs is None or not (logs.newest is None or facts.now - logs.newest > LATE):
        return
    yield Finding(
        check="logs.stopped",
        severity=Severity.CRITICAL,
        subject=Subject("System", "elasticsearch"),
        title=_("No logs arrive any more") if logs.newest else _("There are no logs at all"),
        cause=_(
            "The log shipper or its output is down, the disk of Elasticsearch is full, or the index pattern or the time field is wrong"
        ),
        evidence=(
            Evidence(
                text=_("The newest line is of the time shown")
                if logs.newest
                else _("Not one line in the last {days} days", days=parameters.baseline_days),
                source="elasticsearch",
                reference=facts.logs_settings.index if facts.logs_settings else "",
                time=logs.newest,
            ),
        ),
        steps=(
            Step(
                _("Check the log shipper's pods (chapter 4.1), Elasticsearch's health and disk, then the index pattern and the time field")
            ),
        ),
        since=logs.newest,
    )


def more_errors(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Services with many more errors than in the same hours of earlier days."""
    for count in facts.logs.errors if facts.logs else ():
        before = usual(count)
        if before is None or count.now < parameters.log_minimum or count.now < parameters.log_factor * before:
            continue
        known = [earlier for earlier in count.earlier if earlier is not None]
        if count.now <= max(known):
            continue
        yield Finding(
            check="logs.more_errors",
            severity=Severity.WARNING,
            subject=Subject("Service", count.service, parameters.namespace),
            title=_("{service} logs many more errors than in the same hours of earlier days", service=count.service),
            evidence=(
                Evidence(
                    text=_(
                        "{now} errors in the last {minutes} minutes; on earlier days {earlier}",
                        now=count.now,
                        minutes=parameters.window_minutes,
                        earlier=["-" if earlier is None else str(earlier) for earlier in count.earlier],
                    ),
                    source="elasticsearch",
                    reference=_query(facts, parameters, count.service),
                ),
            ),
            steps=(Step(_("Read the lines in Kibana, the newest kinds first, and see what changed just before")),),
            links=_discover(facts, parameters, count.service),
        )


def spikes(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A burst of errors within the window, against the service's own last day."""
    frame = facts.logs.over_time if facts.logs else None
    if frame is None or frame.empty:
        return
    start = facts.now - timedelta(minutes=parameters.window_minutes)
    for service, rows in frame.groupby("service", sort=True):
        recent = rows[rows["time"] >= start]
        before = rows[rows["time"] < start]["count"]
        if recent.empty or len(before) < 4:
            continue
        count, when = max(zip(recent["count"].tolist(), recent["time"].dt.to_pydatetime().tolist(), strict=True))
        # The burst is compared with what is usual and with how far the day strays from it, so that a noisy service is not named every day.
        typical, high = float(before.median()), float(before.quantile(0.99))
        if count < parameters.log_minimum or count < parameters.log_factor * max(typical, high):
            continue
        yield Finding(
            check="logs.spike",
            severity=Severity.WARNING,
            subject=Subject("Service", str(service), parameters.namespace),
            title=_("A burst of errors in the logs of {service}", service=str(service)),
            evidence=(
                Evidence(
                    text=_(
                        "{count} errors in one interval; on the day before it was {usual} as a rule",
                        count=int(count),
                        usual=f"{typical:g}",
                    ),
                    source="elasticsearch",
                    reference=_query(facts, parameters, str(service)),
                    time=when,
                ),
            ),
            steps=(Step(_("Compare the time with rollouts, alerts and node events")),),
            links=_discover(facts, parameters, str(service), when),
            since=when,
        )


def release_of(template: LogTemplate, logs: LogFacts) -> tuple[str, str] | None:
    """The release (service, version) that brought a kind of errors; None where none did, or where it is not known.

    All lines of the kind, of the window and of the days before, are of one version, though an older one ran in that time and wrote so many
    lines that chance alone would not leave it without any.
    """
    for service in sorted(template.versions, key=lambda name: (-template.services.get(name, 0), name)):
        seen = {*template.versions[service], *template.versions_before.get(service, ())}
        runs = (logs.runs or {}).get(service, {})
        version = next(iter(seen))
        if len(seen) > 1 or version not in runs:
            continue
        count = template.versions[service][version] + template.versions_before.get(service, {}).get(version, 0)
        mine = runs[version]
        older = sum(run.lines for run in runs.values() if run.first < mine.first)
        if older and (mine.lines / (mine.lines + older)) ** count < SURE:
            return service, version
    return None


def new_templates(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Kinds of errors that no earlier day has. A kind that could not be searched for is not called new."""
    for template in (facts.logs.templates if facts.logs else None) or ():
        if template.earlier != 0:
            continue
        services = sorted(template.services, key=lambda name: -template.services[name])
        release = release_of(template, facts.logs) if facts.logs else None
        yield Finding(
            check="logs.new",
            severity=Severity.WARNING if template.now >= parameters.log_minimum else Severity.INFO,
            subject=Subject("LogTemplate", template.text, parameters.namespace),
            title=_("{service}: an error that is new since release {version}", service=release[0], version=release[1])
            if release
            else _("{services}: an error that was not logged before", services=services[:3]),
            evidence=(
                Evidence(
                    text=_n(
                        "{count} line in the window, none in the {days} days before; one of them",
                        "{count} lines in the window, none in the {days} days before; one of them",
                        template.now,
                        days=parameters.baseline_days,
                    ),
                    quote=template.example,
                    source="elasticsearch",
                    reference=template.text,
                    time=template.first,
                ),
                *_only(facts, release),
            ),
            steps=(Step(_("Read what it says; see which rollout brought it")),),
            links=_discover(facts, parameters, services[0]) if services else (),
            affected=tuple(Subject("Service", name, parameters.namespace) for name in services),
            since=template.first,
        )


def new_since_release(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Kinds of errors that were there on the days before too, but only since a release."""
    for template in (facts.logs.templates if facts.logs else None) or ():
        release = release_of(template, facts.logs) if facts.logs and template.earlier else None
        if release is None or template.now < parameters.log_minimum:
            continue
        yield Finding(
            check="logs.new_since_release",
            severity=Severity.WARNING,
            subject=Subject("LogTemplate", template.text, parameters.namespace),
            title=_("{service}: an error that is new since release {version}", service=release[0], version=release[1]),
            evidence=(
                Evidence(
                    text=_(
                        "{now} lines in the window, {earlier} in the days before, none of an older version; one of them",
                        now=template.now,
                        earlier=template.earlier,
                    ),
                    quote=template.example,
                    source="elasticsearch",
                    reference=template.text,
                    time=template.first,
                ),
                *_only(facts, release),
            ),
            steps=(Step(_("Read what it says; where it matters, go back to the release before")),),
            links=_discover(facts, parameters, release[0]),
            affected=(Subject("Service", release[0], parameters.namespace),),
        )


def _only(facts: Facts, release: tuple[str, str] | None) -> tuple[Evidence, ...]:
    """That a release brought a kind of errors: which versions there were."""
    if release is None or facts.logs is None or facts.logs.runs is None:
        return ()
    service, version = release
    runs = facts.logs.runs[service]
    older = sorted((name for name, run in runs.items() if run.first < runs[version].first), key=lambda name: runs[name].first)
    text = _("{service} {version} alone logs it; {older} ran too, and did not", service=service, version=version, older=older[-3:])
    return (Evidence(text=text, source="elasticsearch", time=runs[version].first),)


def more_of_a_kind(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Kinds of errors that have become more frequent, where their service as a whole need not have."""
    for template in (facts.logs.templates if facts.logs else None) or ():
        earlier = [
            count for count, lines in zip(template.same_hours, facts.logs.earlier_lines if facts.logs else (), strict=False) if lines
        ]
        if len(earlier) < 2 or not template.earlier or template.now < parameters.log_minimum or template.now <= max(earlier):
            continue
        found = change(template.now, earlier)
        if found.ratio < parameters.log_factor or found.low <= 1 or found.chance >= SURE:
            continue
        services = sorted(template.services, key=lambda name: -template.services[name])
        yield Finding(
            check="logs.more_of_a_kind",
            severity=Severity.WARNING,
            subject=Subject("LogTemplate", template.text, parameters.namespace),
            title=_("{services}: an error has become more frequent", services=services[:3]),
            evidence=(
                Evidence(
                    text=_(
                        "{now} lines in the window, in the same hours of earlier days {earlier}; at least {low} times as many, with 95 %"
                        " confidence; one of them",
                        now=template.now,
                        earlier=[str(count) for count in earlier],
                        low=f"{found.low:.1f}",
                    ),
                    quote=template.example,
                    source="elasticsearch",
                    reference=template.text,
                    time=template.first,
                ),
            ),
            steps=(Step(_("Read what it says; see which change, or which dependency, explains the time of its rise")),),
            links=_discover(facts, parameters, services[0]) if services else (),
            affected=tuple(Subject("Service", name, parameters.namespace) for name in services),
        )


def _query(facts: Facts, parameters: Parameters, service: str) -> str:
    """The errors of a service, in Kibana's query language."""
    settings = facts.logs_settings
    if settings is None:
        return ""
    parts = [kql(settings.service_field, service), kql(settings.level_field, settings.error_levels)]
    if parameters.namespace:
        parts.append(kql(settings.namespace_field, parameters.namespace))
    return " and ".join(parts)


def _discover(facts: Facts, parameters: Parameters, service: str, when: datetime | None = None) -> tuple[Link, ...]:
    start = facts.now - timedelta(minutes=parameters.window_minutes)
    if when:
        start = min(start, when)
    return kibana_discover(facts.links, _query(facts, parameters, service), start, facts.now)
