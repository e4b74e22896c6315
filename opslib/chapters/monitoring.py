"""Chapter 3.1, the daily check: is the cluster well, are the applications, and would we be told if they were not."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.chapters import plotting
from opslib.chapters.tables import NOT_READ, about, table
from opslib.diagnosis.links import grafana_explore, kibana_discover, kql
from opslib.diagnosis.monitoring import diagnose
from opslib.diagnosis.monitoring.alerts import firing_alerts
from opslib.diagnosis.monitoring.capacity import ratio
from opslib.diagnosis.monitoring.facts import Facts, LogFacts, LogTemplate, Parameters
from opslib.diagnosis.monitoring.logs import release_of, usual
from opslib.findings import Column, Finding, Link, Severity, Table, Unit, by_severity
from opslib.messages import Message, Text, _

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["NOT_READ", "REQUIRES", "Facts", "Parameters", "about", "findings"]

REQUIRES: tuple[str, ...] = ()  # any of the systems may be down: that is what this chapter is for
READS = ("kubernetes", "prometheus", "alertmanager", "elasticsearch")


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that the reader should know, worst first; what could not be looked at is among it."""
    return by_severity([*facts.gaps, *diagnose(facts, parameters)])


# --- 1. the dashboards' view ----------------------------------------------------------------------------------------------------------


def nodes_table(facts: Facts) -> Table:
    """Use and requests of each node against what it can give to pods."""
    rows = None
    if facts.nodes is not None:
        rows = []
        for node in facts.nodes:
            disks = [(ratio(used, size) or 0, mount) for mount, (used, size) in node.filesystems.items()]
            fullest = max(disks, default=None)
            rows.append(
                (
                    node.name,
                    node.cpu_allocatable,
                    ratio(node.cpu_used, node.cpu_allocatable),
                    ratio(node.cpu_requested, node.cpu_allocatable),
                    node.memory_allocatable,
                    ratio(node.memory_used, node.memory_allocatable),
                    ratio(node.memory_requested, node.memory_allocatable),
                    fullest[0] if fullest else None,
                    fullest[1] if fullest else None,
                )
            )
    return table(
        "nodes",
        _("Use of the nodes"),
        (
            Column("node", _("Node")),
            Column("cpu", _("CPU"), Unit.CORES, _("Cores that pods can have (allocatable)")),
            Column("cpu_used", _("CPU used"), Unit.RATIO, _("Of allocatable, everything on the node counted")),
            Column("cpu_requested", _("CPU requested"), Unit.RATIO, _("Sum of the pods' requests, of allocatable")),
            Column("memory", _("Memory"), Unit.BYTES, _("Memory that pods can have (allocatable)")),
            Column("memory_used", _("Memory used"), Unit.RATIO, _("Of allocatable; what could be reclaimed is not counted")),
            Column("memory_requested", _("Memory requested"), Unit.RATIO, _("Sum of the pods' requests, of allocatable")),
            Column("disk_used", _("Disk used"), Unit.RATIO, _("Of the fullest file system")),
            Column("disk", _("Fullest file system")),
        ),
        rows,
        _("Prometheus has no metrics of nodes."),
    )


def services_table(facts: Facts) -> Table:
    """Requests, errors and latency of each service, now, yesterday and a week ago."""
    rows = None
    if facts.services is not None:
        rows = [
            (
                service.name,
                service.namespace,
                service.now.requests,
                service.yesterday.requests,
                service.last_week.requests,
                service.recent.error_ratio,
                service.now.error_ratio,
                service.yesterday.error_ratio,
                service.last_week.error_ratio,
                service.now.latency,
                service.yesterday.latency,
                service.last_week.latency,
            )
            for service in sorted(
                facts.services, key=lambda service: (-(service.now.error_ratio or 0), -(service.now.requests or 0), service.label)
            )
        ]
    at_this_time = _("The same window, one day earlier")
    a_week_ago = _("The same window, seven days earlier")
    return table(
        "services",
        _("Applications: requests, errors, latency"),
        (
            Column("service", _("Service")),
            Column("namespace", _("Namespace")),
            Column("requests", _("Requests"), Unit.PER_SECOND, _("Mean over the window")),
            Column("requests_yesterday", _("Requests yesterday"), Unit.PER_SECOND, at_this_time),
            Column("requests_last_week", _("Requests a week ago"), Unit.PER_SECOND, a_week_ago),
            Column("errors_recent", _("Errors now"), Unit.RATIO, _("Share of requests that failed in the last five minutes")),
            Column("errors", _("Errors"), Unit.RATIO, _("Share of requests that failed in the window")),
            Column("errors_yesterday", _("Errors yesterday"), Unit.RATIO, at_this_time),
            Column("errors_last_week", _("Errors a week ago"), Unit.RATIO, a_week_ago),
            Column("latency", _("Latency"), Unit.SECONDS, _("95th percentile over the window")),
            Column("latency_yesterday", _("Latency yesterday"), Unit.SECONDS, at_this_time),
            Column("latency_last_week", _("Latency a week ago"), Unit.SECONDS, a_week_ago),
        ),
        rows,
        _("Prometheus has no metrics of applications under the names that the environment gives."),
    )


def nodes_figure(facts: Facts, parameters: Parameters) -> Figure:
    """CPU, memory and disk in use, a bar each a node, with the thresholds."""
    nodes = facts.nodes or []
    figure, axes = plotting.new_figure(_("Use of the nodes"), height=1.2 + 0.5 * max(len(nodes), 2), x_label=_("In use, of allocatable"))
    if not nodes:
        plotting.no_data(axes, NOT_READ if facts.nodes is None else _("Prometheus has no metrics of nodes."))
        return figure
    plotting.horizontal_bars(
        axes,
        [node.name for node in nodes],
        {
            _("CPU"): [ratio(node.cpu_used, node.cpu_allocatable) for node in nodes],
            _("Memory"): [ratio(node.memory_used, node.memory_allocatable) for node in nodes],
            _("Fullest file system"): [
                max((ratio(used, size) or 0 for used, size in node.filesystems.values()), default=None) for node in nodes
            ],
        },
    )
    plotting.unit_axis(axes.xaxis, Unit.RATIO)
    axes.set_xlim(0, max(1.0, axes.get_xlim()[1]))
    plotting.threshold(axes, parameters.use_warning, _("warning"), vertical=True)
    plotting.threshold(axes, parameters.use_critical, _("critical"), vertical=True)
    return figure


def requests_figure(facts: Facts) -> Figure:
    """Requests a second over the window, a line a service."""
    return _lines(facts, facts.requests_over_time, _("Requests"), _("Requests a second"), Unit.PER_SECOND)


def errors_figure(facts: Facts, parameters: Parameters) -> Figure:
    """The share of requests that failed over the window, a line a service, with the thresholds that matter at this height."""
    figure = _lines(facts, facts.errors_over_time, _("Error rate"), _("Share of requests that failed"), Unit.RATIO)
    if facts.errors_over_time is not None and not facts.errors_over_time.empty:
        axes = figure.axes[0]
        top = max(axes.get_ylim()[1], parameters.error_ratio_warning * 1.5)
        axes.set_ylim(0, top)
        for value, text in ((parameters.error_ratio_warning, _("warning")), (parameters.error_ratio_critical, _("critical"))):
            if value < top:
                plotting.threshold(axes, value, text)
    return figure


def _lines(facts: Facts, frame: pandas.DataFrame | None, title: Message, y_label: Message, unit: Unit) -> Figure:
    figure, axes = plotting.new_figure(title, y_label=y_label)
    if frame is None or frame.empty:
        plotting.no_data(axes, NOT_READ if frame is None and facts.services is None else _("There is nothing to draw."))
        return figure
    most = frame.groupby("service")["value"].max().sort_values(ascending=False, kind="stable").index[: len(plotting.PALETTE)]
    for number, service in enumerate(sorted(most)):
        rows = frame[frame["service"] == service]
        axes.plot(rows["time"].to_numpy(), rows["value"].to_numpy(), label=plotting.label(str(service), 36), **plotting.line_style(number))
    plotting.time_axis(axes, facts.zone)
    plotting.unit_axis(axes.yaxis, unit)
    axes.set_ylim(bottom=0)
    plotting.legend(axes)
    return figure


# --- 2. Prometheus' alerts ------------------------------------------------------------------------------------------------------------


def alerts_table(facts: Facts) -> Table:
    """Alerts that fire, grouped by name."""
    alerts = firing_alerts(facts)
    rows = None
    if alerts is not None:
        rows = [
            (
                alert.severity,
                alert.name,
                len(alert.series),
                alert.suppressed if facts.notified is not None else None,
                alert.since,
                _summary(alert.annotations),
            )
            for alert in alerts
        ]
    return table(
        "alerts",
        _("Firing alerts"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("alert", _("Alert")),
            Column("series", _("Series"), Unit.COUNT, _("Series that fire it")),
            Column("suppressed", _("Silenced"), Unit.COUNT, _("Of these, silenced or inhibited: nobody is told")),
            Column("since", _("Since"), Unit.TIME),
            Column("summary", _("What it says")),
        ),
        rows,
        _("No alert fires."),
    )


def _summary(annotations: Any) -> str:
    return next((annotations[name] for name in ("summary", "message", "description") if annotations.get(name)), "")


def rules_table(facts: Facts) -> Table:
    """Rule groups: how many rules, how they fare, how long a round takes."""
    rows = None
    if facts.groups is not None:
        rows = [
            (
                group.name,
                len(group.rules),
                sum(rule.health == "err" for rule in group.rules),
                sum(rule.state == "firing" for rule in group.rules),
                group.interval,
                group.evaluation_time,
                group.last_evaluation if group.last_evaluation and group.last_evaluation.year > 1 else None,
                group.file,
            )
            for group in sorted(facts.groups, key=lambda group: (-sum(rule.health == "err" for rule in group.rules), group.name))
        ]
    return table(
        "rules",
        _("Rule groups"),
        (
            Column("group", _("Group")),
            Column("rules", _("Rules"), Unit.COUNT),
            Column("failing", _("Failing"), Unit.COUNT, _("Rules whose last evaluation failed")),
            Column("firing", _("Firing"), Unit.COUNT),
            Column("interval", _("Interval"), Unit.SECONDS),
            Column("took", _("Last round took"), Unit.SECONDS),
            Column("last", _("Last round"), Unit.TIME),
            Column("file", _("File")),
        ),
        rows,
        _("Prometheus has no rules."),
    )


def targets_table(facts: Facts) -> Table:
    """Scrape targets by job."""
    rows = None
    if facts.targets is not None:
        jobs: dict[str, list[Any]] = {}
        for target in facts.targets:
            jobs.setdefault(target.job, []).append(target)
        rows = sorted(
            (
                (
                    job,
                    len(targets),
                    sum(target.health == "down" for target in targets),
                    max(target.last_scrape_duration for target in targets),
                )
                for job, targets in jobs.items()
            ),
            key=lambda row: (-row[2], row[0]),
        )
    return table(
        "targets",
        _("Scrape targets"),
        (
            Column("job", _("Job")),
            Column("targets", _("Targets"), Unit.COUNT),
            Column("down", _("Down"), Unit.COUNT),
            Column("slowest", _("Slowest scrape"), Unit.SECONDS),
        ),
        rows,
        _("Prometheus scrapes nothing."),
    )


def silences_table(facts: Facts) -> Table:
    """Silences that hold or will hold."""
    rows = None
    if facts.silences is not None:
        rows = [
            (
                " ".join(str(matcher) for matcher in silence.matchers),
                sum(silence.id in alert.status.silenced_by for alert in facts.notified) if facts.notified is not None else None,
                silence.starts_at,
                silence.ends_at,
                silence.created_by,
                silence.comment,
            )
            for silence in sorted(
                facts.silences, key=lambda silence: (silence.ends_at or datetime.max.replace(tzinfo=facts.now.tzinfo), silence.id)
            )
        ]
    return table(
        "silences",
        _("Silences"),
        (
            Column("matchers", _("Holds for")),
            Column("alerts", _("Alerts"), Unit.COUNT, _("Firing alerts that it hides now")),
            Column("starts", _("Starts"), Unit.TIME),
            Column("ends", _("Ends"), Unit.TIME),
            Column("author", _("Author")),
            Column("comment", _("Comment")),
        ),
        rows,
        _("Nothing is silenced."),
    )


def deliveries_table(facts: Facts, parameters: Parameters) -> Table:
    """Notifications by integration."""
    rows = None
    if facts.deliveries is not None:
        counts: dict[tuple[str, str], list[float]] = {}
        for delivery in facts.deliveries:
            count = counts.setdefault((delivery.receiver, delivery.integration), [0.0, 0.0])
            count[0] = max(count[0], delivery.tried)
            count[1] += delivery.failed
        rows = sorted(
            (
                (receiver, integration, round(tried), round(failed))
                for (receiver, integration), (tried, failed) in counts.items()
                if tried or failed
            ),
            key=lambda row: (-row[3], row[1]),
        )
    return table(
        "deliveries",
        _("Notifications"),
        (
            Column("receiver", _("Receiver"), Unit.TEXT, _("Empty where Alertmanager does not say it in its metrics")),
            Column("integration", _("Integration")),
            Column("tried", _("Tried"), Unit.COUNT),
            Column("failed", _("Failed"), Unit.COUNT),
        ),
        rows,
        _("No notification was sent."),
        _("In the last {minutes} minutes, about: counters are extrapolated.", minutes=parameters.window_minutes),
    )


def alerts_figure(facts: Facts, parameters: Parameters) -> Figure:
    """Firing alerts on a time line, the oldest on top; an arrow where one began before what is shown."""
    alerts = [alert for alert in firing_alerts(facts) or [] if alert.since is not None]
    alerts = sorted(alerts, key=lambda alert: (alert.since, alert.name))[:20]
    figure, axes = plotting.new_figure(_("Firing alerts"), height=1.1 + 0.3 * max(len(alerts), 2))
    if not alerts:
        plotting.no_data(axes, NOT_READ if firing_alerts(facts) is None else _("No alert fires."))
        return figure
    from matplotlib.dates import date2num

    def number(moment: datetime) -> float:
        return float(date2num(moment))  # type: ignore[no-untyped-call]

    begin = facts.now - max(timedelta(minutes=parameters.window_minutes), timedelta(hours=6))
    named: set[Severity] = set()
    for row, alert in enumerate(alerts):
        since = alert.since or facts.now
        start = max(since, begin)
        label = "" if alert.severity in named else plotting.label(alert.severity.label)
        named.add(alert.severity)
        axes.barh(
            row,
            number(facts.now) - number(start),
            left=number(start),
            height=0.6,
            label=label or None,
            **plotting.severity_style(alert.severity),
        )
        if since < begin:
            axes.plot(number(begin), row, marker="<", color="black", markersize=6, clip_on=False)
    axes.set_yticks(range(len(alerts)), [plotting.label(alert.name) for alert in alerts])
    axes.set_ylim(len(alerts) - 0.4, -0.6)
    axes.set_xlim(number(begin), number(facts.now))
    axes.grid(False, axis="y")
    plotting.time_axis(axes, facts.zone)
    plotting.legend(axes)
    return figure


# --- 3. the logs ----------------------------------------------------------------------------------------------------------------------


def errors_table(facts: Facts) -> Table:
    """Errors in the logs by service, against the same hours of earlier days."""
    rows = None
    if facts.logs is not None:
        rows = [
            (
                count.service,
                count.now,
                usual(count),
                count.now / before if (before := usual(count)) else None,
                max((day for day in count.earlier if day is not None), default=None),
            )
            for count in facts.logs.errors
        ]
    return table(
        "log_errors",
        _("Errors in the logs"),
        (
            Column("service", _("Service")),
            Column("now", _("Errors"), Unit.COUNT, _("In the window")),
            Column("usual", _("Usual"), Unit.COUNT, _("Median of the same hours of earlier days of which there are logs")),
            Column("factor", _("Times the usual"), Unit.COUNT),
            Column("most", _("Most before"), Unit.COUNT, _("On the worst of these days")),
        ),
        rows,
        _("No errors in the logs."),
    )


def templates_table(facts: Facts) -> Table:
    """Kinds of errors, those that were never seen before first."""
    rows = None
    note: Text = ""
    if facts.logs is not None and facts.logs.templates is not None:
        rows = [
            (
                template.text,
                ", ".join(sorted(template.services)),
                _versions(template),
                " ".join(release_of(template, facts.logs) or ()) or None,
                template.now,
                template.earlier,
                template.first,
                template.example,
            )
            for template in facts.logs.templates
        ]
        if facts.logs.uncovered:
            note = _("{count} further errors are of kinds that are not shown.", count=facts.logs.uncovered)
    return table(
        "log_templates",
        _("Kinds of errors in the logs"),
        (
            Column("template", _("Kind"), Unit.TEXT, _("<*> stands for what differs from line to line")),
            Column("services", _("Services")),
            Column(
                "versions", _("Versions"), meaning=_("Lines in the window by version; empty: neither the logs nor the pods' images tell it")
            ),
            Column("release", _("Since release"), meaning=_("Only this release logs it, though an older one ran in that time")),
            Column("now", _("Lines"), Unit.COUNT, _("In the window")),
            Column("earlier", _("Before"), Unit.COUNT, _("In the days before; 0: not seen before; empty: could not be searched for")),
            Column("first", _("First"), Unit.TIME, _("First line in the window")),
            Column("example", _("Example"), Unit.TEXT, _("Secrets are taken out")),
        ),
        rows,
        _("No errors in the logs."),
        note,
    )


def _versions(template: LogTemplate) -> str | None:
    counts: dict[str, int] = {}
    for service, versions in template.versions.items():
        for version, count in versions.items():
            name = version if len(template.versions) == 1 else f"{service} {version}"
            counts[name] = counts.get(name, 0) + count
    return ", ".join(f"{name} ({counts[name]})" for name in sorted(counts, key=lambda name: (-counts[name], name))[:6]) or None


def log_errors_figure(facts: Facts) -> Figure:
    """Errors in the logs over the last day, a line a service, those with most errors."""
    figure, axes = plotting.new_figure(_("Errors in the logs over the last day"), y_label=_("Errors in each interval"))
    frame = facts.logs.over_time if facts.logs else None
    if frame is None or frame.empty:
        plotting.no_data(axes, NOT_READ if frame is None else _("No errors in the logs."))
        return figure
    most = frame.groupby("service")["count"].sum().sort_values(ascending=False).index[:8]
    for number, service in enumerate(most):
        rows = frame[frame["service"] == service]
        axes.plot(rows["time"].to_numpy(), rows["count"].to_numpy(), label=plotting.label(str(service), 36), **plotting.line_style(number))
    plotting.time_axis(axes, facts.zone)
    axes.set_ylim(bottom=0)
    plotting.legend(axes)
    return figure


def templates_figure(facts: Facts) -> Figure:
    """The first kinds of errors over the last day, one small plot each above the same axis of time; what is new comes first."""
    logs = facts.logs
    frame = logs.templates_over_time if logs else None
    texts = [] if frame is None else list(dict.fromkeys(frame["template"]))
    title = _("Kinds of errors over the last day")
    if frame is None or not texts:
        figure, axes = plotting.new_figure(title)
        plotting.no_data(axes, NOT_READ if logs is None or logs.templates is None else _("No errors in the logs."))
        return figure
    figure, rows = plotting.stacked_figure(title, len(texts))
    known = {template.text: template for template in (logs.templates if logs else None) or ()}
    for axes, text in zip(rows, texts, strict=True):
        of = frame[frame["template"] == text]
        axes.fill_between(of["time"].to_numpy(), of["count"].to_numpy(), step="post", color="#BBBBBB", linewidth=0)
        axes.plot(of["time"].to_numpy(), of["count"].to_numpy(), color="black", linewidth=1, drawstyle="steps-post")
        axes.set_ylim(bottom=0)
        axes.set_title(plotting.label(_named(known.get(text), logs) or text, 110), loc="left", fontsize=8, pad=2)
    plotting.time_axis(rows[-1], facts.zone)
    return figure


def _named(template: LogTemplate | None, logs: LogFacts | None) -> Message | None:
    """A kind that is new, as such; None where it is not."""
    if template is None or logs is None:
        return None
    release = release_of(template, logs)
    if release is not None:
        return _("new since {service} {version}: {kind}", service=release[0], version=release[1], kind=template.text)
    return _("new: {kind}", kind=template.text) if template.earlier == 0 else None


# --- the pages themselves -------------------------------------------------------------------------------------------------------------


def links(facts: Facts, parameters: Parameters) -> list[Link]:
    """Grafana and Kibana, at the window and with the query set; empty where the environment names neither."""
    start = facts.now - timedelta(minutes=parameters.window_minutes)
    found: list[Link] = []
    if facts.metrics is not None:
        found += grafana_explore(
            facts.links, f"sum by ({facts.metrics.service_label}) (rate({facts.metrics.requests_metric}[5m]))", start, facts.now
        )
    if facts.logs_settings is not None:
        parts = [kql(facts.logs_settings.level_field, facts.logs_settings.error_levels)]
        if parameters.namespace:
            parts.append(kql(facts.logs_settings.namespace_field, parameters.namespace))
        found += kibana_discover(facts.links, " and ".join(parts), start, facts.now)
    return found
