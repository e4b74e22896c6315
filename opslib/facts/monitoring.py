"""Reads what chapter 3.1 looks at: Prometheus, Alertmanager, the cluster's monitoring objects, and the error logs.

Each system is asked first for the least that shows that it answers; one that does not is one gap, not thirty. Sums are made by the systems:
what comes back is a few rows a service, a node or a rule.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from opslib.diagnosis.monitoring.facts import (
    Delivery,
    ErrorCount,
    Facts,
    LogFacts,
    LogTemplate,
    MissingSeries,
    NodeUse,
    Parameters,
    ServiceUse,
    Then,
)
from opslib.diagnosis.monitoring.templates import PLACE, phrases, template
from opslib.errors import NotFound, SourceError, Unauthenticated, Unreachable
from opslib.facts import Answer, Questions
from opslib.facts.sources import Sources
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.monitored import AlertmanagerObject, Matcher, PrometheusRule, RuleGroup, SearchResult
from opslib.sources.prometheus import Prometheus, any_of, matcher, selector
from opslib.sources.redaction import MASK, redact

if TYPE_CHECKING:
    import pandas

    from opslib.environments import Logs, Metrics
    from opslib.sources.elasticsearch import Elasticsearch

T = TypeVar("T")

PARALLEL = 8
MOST_EXPRESSIONS = 1_000  # of rules, taken apart to see whether their metrics exist
PLOTTED = 8  # services in a plot: as many as can be told apart
MOST_LOG_SERVICES = 50
MOST_TEMPLATES = 60
TEMPLATE_ROUNDS = 4
# Not disks: memory, images, and mounts of single pods, which repeat the node's own disk.
NOT_DISKS = "tmpfs|devtmpfs|overlay|squashfs|ramfs|iso9660|nsfs|fuse.*|proc|sysfs|cgroup.*"
POD_MOUNTS = "/(run|var/lib/kubelet/pods|var/lib/containerd|var/lib/docker)(/.*)?"


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 3.1, read from all four systems at once."""
    environment = sources.environment
    now = datetime.now(UTC)
    prometheus = questions.ask(
        _("Prometheus (rules, alerts, targets, cluster use, application metrics)"),
        lambda: sources.prometheus.query("vector(1)") is not None,
    )
    alertmanager = questions.ask(
        _("Alertmanager (its cluster, alerts, silences)"),
        lambda: sources.alertmanager.status(),  # noqa: PLW0108 -- connecting may fail too, and is part of the question
    )
    fields = questions.ask(_("Elasticsearch (error logs)"), lambda: _fields(sources.elasticsearch, parameters))
    prometheus_rules = questions.ask(_("PrometheusRule objects"), lambda: _objects(sources, PrometheusRule, "prometheusrules"))
    alertmanager_objects = questions.ask(_("Alertmanager objects"), lambda: _objects(sources, AlertmanagerObject, "alertmanagers"))

    of_prometheus = _prometheus(sources, parameters, questions, now) if prometheus.get() else dict
    notified = questions.ask(_("Alertmanager's alerts"), sources.alertmanager.alerts) if alertmanager.get() else None
    silences = questions.ask(_("silences"), sources.alertmanager.silences) if alertmanager.get() else None
    known_fields = fields.get()
    logs = _logs(sources, parameters, questions, now, known_fields) if known_fields is not None else _nothing

    return Facts(
        now=now,
        environment=environment.name,
        zone=environment.zone,
        links=environment.links,
        metrics=environment.prometheus,
        logs_settings=environment.elasticsearch,
        context=environment.kubernetes.context or "",
        alertmanager=alertmanager.get(),
        notified=notified.get() if notified else None,
        silences=silences.get() if silences else None,
        prometheus_rules=prometheus_rules.get(),
        alertmanager_objects=alertmanager_objects.get(),
        logs=logs(),
        **of_prometheus(),
        gaps=questions.gaps,
    )


def _nothing() -> None:
    return None


def _objects(sources: Sources, kind: type[T], resource: str) -> list[T]:
    """The operator's objects; none where the cluster does not know the kind."""
    try:
        return sources.kubernetes.list(kind, f"{resource}.monitoring.coreos.com")
    except NotFound:
        return []


# --- Prometheus -----------------------------------------------------------------------------------------------------------------------


def _prometheus(sources: Sources, parameters: Parameters, questions: Questions, now: datetime) -> Callable[[], dict[str, Any]]:
    """Asks Prometheus everything; the result waits for the answers."""
    prometheus, metrics = sources.prometheus, sources.prometheus.settings
    window = f"{parameters.window_minutes}m"

    def ask(what: Text, promql: str, *labels: str) -> Answer[pandas.DataFrame]:
        return questions.ask(what, lambda: _whole(questions, prometheus.query(promql, now, labels=labels), what))

    groups = questions.ask(_("rules and their alerts"), prometheus.rules)
    targets = questions.ask(_("scrape targets"), prometheus.targets)
    runtime = questions.ask(_("Prometheus' own state"), prometheus.runtime)
    alertmanagers = questions.ask(_("the Alertmanagers that Prometheus sends to"), prometheus.alertmanagers)

    failed_metric, tried_metric = "alertmanager_notifications_failed_total", "alertmanager_notifications_total"
    failed = ask(
        _("failed notifications"), f"sum by (integration, receiver_name, reason) (increase({failed_metric}[{window}]))", "integration"
    )
    tried = ask(_("notifications"), f"sum by (integration, receiver_name) (increase({tried_metric}[{window}]))", "integration")
    lost_metric = "prometheus_notifications_errors_total"
    lost = ask(
        _("alerts that Prometheus could not hand over"), f"sum by (alertmanager) (increase({lost_metric}[{window}]))", "alertmanager"
    )

    nodes = {name: ask(_("use of the nodes"), promql, *labels) for name, (promql, labels) in _node_queries().items()}

    wanted = _ServiceQueries(metrics, parameters)
    offsets = {"now": "", "yesterday": " offset 1d", "last_week": " offset 1w"}
    services = {
        (then, name): ask(_("requests, errors and latency of the services"), promql, "namespace", metrics.service_label)
        for then, offset in offsets.items()
        for name, promql in wanted.instant(offset).items()
    }
    top = _top(services["now", "requests"].get(), metrics)
    over_time = {
        name: questions.ask(
            _("requests and errors over time"),
            lambda promql=promql: prometheus.query_range(  # type: ignore[misc]
                promql,
                now - timedelta(minutes=parameters.window_minutes),
                now,
                max(parameters.window_minutes * 60 / 120, 15),
                labels=("namespace", metrics.service_label),
            ),
        )
        for name, promql in wanted.over_time(top).items()
        if top
    }
    read_groups = groups.get()
    missing = (
        questions.ask(_("whether the metrics of each rule exist"), lambda: _missing(prometheus, read_groups, parameters, questions, now))
        if read_groups is not None
        else None
    )

    def answers() -> dict[str, Any]:
        _expect(questions, tried.get(), tried_metric, _("Scrape Alertmanager, to see whether notifications fail"))
        _expect(questions, lost.get(), lost_metric, _("Let Prometheus scrape itself, to see whether alerts are lost"))
        frames = {name: answer.get() for name, answer in nodes.items()}
        _expect(questions, frames["cpu_used"], "node_cpu_seconds_total", _("Scrape the node exporter on every node"))
        _expect(questions, frames["cpu_allocatable"], "kube_node_status_allocatable", _("Scrape kube-state-metrics"))
        requests = [services[then, "requests"].get() for then in offsets]
        if all(frame is not None and frame.empty for frame in requests):
            _expect(
                questions,
                requests[0],
                metrics.requests_metric,
                _("Name the counter of requests and its labels in the environment's file: {field}", field="prometheus.requests_metric"),
            )
        return {
            "groups": read_groups,
            "targets": targets.get(),
            "runtime": runtime.get(),
            "alertmanagers": alertmanagers.get(),
            "missing": missing.get() if missing else None,
            "deliveries": _deliveries(failed.get(), tried.get()),
            "lost": _lost(lost.get()),
            "nodes": _nodes(frames),
            "services": _services({key: answer.get() for key, answer in services.items()}, metrics, parameters),
            "requests_over_time": _series(over_time["requests"].get(), metrics) if over_time else None,
            "errors_over_time": _series(over_time["errors"].get(), metrics) if over_time else None,
        }

    return answers


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
                title=_("Could not look at {what}: Prometheus has no such metric", what=metric),
                evidence=(Evidence(text=_("The query gives no series"), source="prometheus", reference=frame.attrs.get("query", metric)),),
                steps=(Step(remedy),),
            )
        )


def _lost(frame: pandas.DataFrame | None) -> dict[str, float] | None:
    if frame is None or frame.empty:
        return None
    return dict(zip(frame["alertmanager"].tolist(), frame["value"].tolist(), strict=True))


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


# --- nodes ----------------------------------------------------------------------------------------------------------------------------


def _node_queries() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name, query and labels; metrics of the node exporter and of kube-state-metrics."""
    disks = f"{matcher('fstype', NOT_DISKS, '!~')},{matcher('mountpoint', POD_MOUNTS, '!~')}"
    running = 'max by (namespace, pod) (kube_pod_status_phase{phase=~"Pending|Running"} == 1)'
    requests = 'kube_pod_container_resource_requests{resource="%s",node!=""}'
    requested = f"max by (namespace, pod, container, node) ({requests}) * on (namespace, pod) group_left () {running}"
    here, node = ("instance", "node"), ("node",)
    return {
        "cpu_used": ('sum by (instance, node) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[5m]))', here),
        "cpu_capacity": ('count by (instance, node) (node_cpu_seconds_total{mode="idle"})', here),
        "memory_used": ("sum by (instance, node) (node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes)", here),
        "memory_capacity": ("sum by (instance, node) (node_memory_MemTotal_bytes)", here),
        "filesystem_size": (f"max by (instance, node, mountpoint) (node_filesystem_size_bytes{{{disks}}})", (*here, "mountpoint")),
        "filesystem_avail": (f"max by (instance, node, mountpoint) (node_filesystem_avail_bytes{{{disks}}})", (*here, "mountpoint")),
        "cpu_allocatable": ('max by (node) (kube_node_status_allocatable{resource="cpu"})', node),
        "memory_allocatable": ('max by (node) (kube_node_status_allocatable{resource="memory"})', node),
        "cpu_requested": (f"sum by (node) ({requested % 'cpu'})", node),
        "memory_requested": (f"sum by (node) ({requested % 'memory'})", node),
        "info": ("max by (node, internal_ip) (kube_node_info)", ("node", "internal_ip")),
    }


def _nodes(frames: Mapping[str, pandas.DataFrame | None]) -> list[NodeUse] | None:
    """One entry a node. The node exporter knows addresses, kube-state-metrics knows names and which address is whose."""
    if all(frame is None for frame in frames.values()):
        return None
    info = frames["info"]
    addresses = dict(zip(info["internal_ip"].tolist(), info["node"].tolist(), strict=True)) if info is not None else {}
    found: dict[str, dict[str, float]] = defaultdict(dict)
    disks: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, frame in frames.items():
        if frame is None or name == "info":
            continue
        for row in frame.to_dict("records"):
            host = str(row.get("instance", "")).rpartition(":")[0].strip("[]") or str(row.get("instance", ""))
            node = row.get("node") or addresses.get(host, host)
            if name.startswith("filesystem"):
                disks[node][row["mountpoint"]][name] = row["value"]
            else:
                found[node][name] = row["value"]
    return [
        NodeUse(
            name=node,
            cpu_used=values.get("cpu_used"),
            cpu_allocatable=values.get("cpu_allocatable", values.get("cpu_capacity")),
            cpu_requested=values.get("cpu_requested"),
            memory_used=values.get("memory_used"),
            memory_allocatable=values.get("memory_allocatable", values.get("memory_capacity")),
            memory_requested=values.get("memory_requested"),
            filesystems={
                mount: (pair["filesystem_size"] - pair["filesystem_avail"], pair["filesystem_size"])
                for mount, pair in sorted(disks[node].items())
                if len(pair) == 2
            },
        )
        for node, values in sorted(found.items())
    ]


# --- services -------------------------------------------------------------------------------------------------------------------------


class _ServiceQueries:
    """The queries on the applications' own metrics, as the environment names them."""

    def __init__(self, metrics: Metrics, parameters: Parameters) -> None:
        self._metrics = metrics
        self._window = f"{parameters.window_minutes}m"
        self._most = parameters.most_services
        self._namespace = matcher("namespace", parameters.namespace) if parameters.namespace else ""
        self._by = f"namespace, {metrics.service_label}"
        self._failed = matcher(metrics.status_label, metrics.error_status, "=~")

    def instant(self, offset: str) -> dict[str, str]:
        """Requests a second, errors a second and latency over the window, that long ago."""
        metrics, ending = self._metrics, f"[{self._window}]{offset}"
        requests = f"sum by ({self._by}) (rate({selector(metrics.requests_metric, self._namespace)}{ending}))"
        errors = f"sum by ({self._by}) (rate({selector(metrics.requests_metric, self._namespace, self._failed)}{ending}))"
        buckets = selector(f"{metrics.latency_metric}_bucket", self._namespace)
        native = selector(metrics.latency_metric, self._namespace)
        return {
            "requests": f"topk({self._most}, {requests})",
            "errors": f"topk({self._most}, {errors} > 0)",
            "latency": f"histogram_quantile(0.95, sum by ({self._by}, le) (rate({buckets}{ending})))"
            f" or histogram_quantile(0.95, sum by ({self._by}) (rate({native}{ending})))",
        }

    def over_time(self, services: Iterable[str]) -> dict[str, str]:
        """Requests a second, and the share that failed, of these services, in steps of five minutes."""
        these = any_of(self._metrics.service_label, services)
        requests = f"sum by ({self._by}) (rate({selector(self._metrics.requests_metric, self._namespace, these)}[5m]))"
        errors = f"sum by ({self._by}) (rate({selector(self._metrics.requests_metric, self._namespace, these, self._failed)}[5m]))"
        return {"requests": requests, "errors": f"({errors} or {requests} * 0) / ({requests} > 0)"}


def _top(requests: pandas.DataFrame | None, metrics: Metrics) -> list[str]:
    """The services with most requests."""
    if requests is None or requests.empty:
        return []
    ordered = requests.sort_values("value", ascending=False)[metrics.service_label]
    return list(dict.fromkeys(ordered.tolist()))[:PLOTTED]


def _services(
    frames: Mapping[tuple[str, str], pandas.DataFrame | None], metrics: Metrics, parameters: Parameters
) -> list[ServiceUse] | None:
    if frames["now", "requests"] is None:
        return None
    values: dict[tuple[str, str], dict[tuple[str, str], float]] = {
        key: {} if frame is None else {(row["namespace"], row[metrics.service_label]): row["value"] for row in frame.to_dict("records")}
        for key, frame in frames.items()
    }

    def then(when: str, service: tuple[str, str]) -> Then:
        requests, errors, latency = (values[when, name].get(service) for name in ("requests", "errors", "latency"))
        # No series of errors means no errors, where there are requests and the errors could be asked for.
        ratio = (errors or 0) / requests if requests and frames[when, "errors"] is not None else None
        return Then(requests=requests, error_ratio=ratio, latency=None if latency is None or latency != latency else latency)

    names = dict.fromkeys(service for when in ("now", "yesterday", "last_week") for service in values[when, "requests"])
    return [
        ServiceUse(
            name=name,
            namespace=namespace,
            now=then("now", (namespace, name)),
            yesterday=then("yesterday", (namespace, name)),
            last_week=then("last_week", (namespace, name)),
        )
        for namespace, name in names
    ]


def _series(frame: pandas.DataFrame | None, metrics: Metrics) -> pandas.DataFrame | None:
    """The frame with the columns service (namespace/name), time and value."""
    import pandas

    if frame is None:
        return None
    labels = [f"{space}/{name}" if space else name for space, name in zip(frame["namespace"], frame[metrics.service_label], strict=True)]
    return pandas.DataFrame({"service": labels, "time": frame["time"], "value": frame["value"]})


# --- rules without data ---------------------------------------------------------------------------------------------------------------


def _missing(
    prometheus: Prometheus, groups: list[RuleGroup], parameters: Parameters, questions: Questions, now: datetime
) -> list[MissingSeries]:
    """Selectors of rules that select nothing.

    Prometheus itself takes each expression apart, and its index, without samples, says which metrics exist (at any time that it keeps) and
    which selectors have series in the window.
    """
    users: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for group in groups:
        for rule in group.rules:
            users[rule.query].append((group.name, rule.name))
    if len(users) > MOST_EXPRESSIONS:
        questions.gap(
            Finding(
                check="gap.prometheus",
                severity=Severity.INFO,
                subject=Subject("System", "prometheus"),
                title=_(
                    "Only the first {some} of {all} rules were searched for metrics that do not exist",
                    some=MOST_EXPRESSIONS,
                    all=len(users),
                ),
            )
        )
    expressions = list(users)[:MOST_EXPRESSIONS]
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="rules") as executor:
        parsed = list(executor.map(lambda text: _selectors(prometheus, text), expressions))
        wanted = list(dict.fromkeys(matchers for found in parsed for matchers in found))
        names = sorted({name for matchers in wanted if (name := _metric(matchers))})
        known = {name for chunk in _chunks(names) for name in prometheus.label_values("__name__", [f"{{{any_of('__name__', chunk)}}}"])}
        # Alerts themselves are series only while one is pending or firing.
        known |= {"ALERTS", "ALERTS_FOR_STATE"}
        narrow = [matchers for matchers in wanted if len(matchers) > 1 and (not _metric(matchers) or _metric(matchers) in known)]
        since = now - timedelta(minutes=max(parameters.window_minutes, 60))
        has_series = dict(
            zip(narrow, executor.map(lambda matchers: bool(prometheus.series([_text(matchers)], since, now, 1)), narrow), strict=True)
        )
    missing = []
    for text, found in zip(expressions, parsed, strict=True):
        for matchers in found:
            metric = _metric(matchers)
            unknown = bool(metric) and metric not in known
            if metric in ("ALERTS", "ALERTS_FOR_STATE") or not (unknown or has_series.get(matchers) is False):
                continue
            missing += [
                MissingSeries(group=group, rule=rule, selector=_text(matchers), metric=metric or _text(matchers), metric_known=not unknown)
                for group, rule in users[text]
            ]
    return missing


def _selectors(prometheus: Prometheus, promql: str) -> list[tuple[Matcher, ...]]:
    try:
        return prometheus.selectors(promql)
    except (NotFound, Unreachable, Unauthenticated):
        raise
    except SourceError:  # this one expression cannot be parsed: its rule's health says so
        return []


def _metric(matchers: Sequence[Matcher]) -> str:
    return next((item.value for item in matchers if item.name == "__name__" and item.type == "="), "")


def _text(matchers: Sequence[Matcher]) -> str:
    return "{" + ",".join(matcher(item.name, item.value, item.type) for item in matchers) + "}"


def _chunks(names: Sequence[str], longest: int = 4_000) -> Iterable[list[str]]:
    """`names` in lists whose text is short enough for an address."""
    chunk: list[str] = []
    for name in names:
        if chunk and sum(map(len, chunk)) + len(name) > longest:
            yield chunk
            chunk = []
        chunk.append(name)
    if chunk:
        yield chunk


# --- logs -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fields:
    """Which fields the logs really have. `missing` are those that the environment names and no index has, with their parameter."""

    indices: int
    missing: Mapping[str, str]
    message_types: frozenset[str]


def _fields(elasticsearch: Elasticsearch, parameters: Parameters) -> _Fields:
    """Whether the configured fields exist and can be counted by."""
    settings = elasticsearch.settings
    names = {
        "time_field": settings.time_field,
        "level_field": settings.level_field,
        "service_field": settings.service_field,
        "message_field": settings.message_field,
        "pod_field": settings.pod_field,
    }
    if parameters.namespace:
        names["namespace_field"] = settings.namespace_field
    indices, known = elasticsearch.fields([*names.values(), *(f"{name}.keyword" for name in names.values())])
    missing = {}
    for parameter, name in names.items():
        types = known.get(name, {})
        counted = parameter in ("message_field", "pod_field") or any(types.values())
        if not types or not counted:
            missing[parameter] = f"{name}.keyword" if f"{name}.keyword" in known else ""
    return _Fields(len(indices), missing, frozenset(known.get(settings.message_field, {})))


def _logs(sources: Sources, parameters: Parameters, questions: Questions, now: datetime, fields: _Fields) -> Callable[[], LogFacts | None]:
    """Asks for the error logs; the result waits for the answers."""
    elasticsearch = sources.elasticsearch
    settings = elasticsearch.settings
    if not fields.indices:
        questions.gap(
            Finding(
                check="gap.elasticsearch",
                severity=Severity.UNKNOWN,
                subject=Subject("Index", settings.index),
                title=_("Could not look at {what}: no index is called {index}", what=_("error logs"), index=settings.index),
                steps=(Step(_("Name the logs' index pattern in the environment's file: {field}", field="elasticsearch.index")),),
            )
        )
        return _nothing
    for parameter, instead in fields.missing.items():
        questions.gap(_missing_field(settings, parameter, instead))
    if not fields.missing.keys().isdisjoint({"time_field", "level_field", "service_field", "namespace_field"}):
        return _nothing
    search = _LogSearches(settings, parameters, now, fields.message_types)
    counts = questions.ask(
        _("errors in the logs, now and on earlier days"),
        lambda: _complete(questions, elasticsearch.search(search.counts(), what=_("errors by service"))),
    )
    over_time = questions.ask(
        _("errors in the logs over the last day"),
        lambda: _complete(questions, elasticsearch.search(search.over_time(), what=_("errors over time"))),
    )
    newest = questions.ask(_("the newest log line"), lambda: elasticsearch.search(search.newest(), what=_("the newest line")))
    templates = (
        questions.ask(_("kinds of errors in the logs"), lambda: _templates(elasticsearch, search, questions))
        if "message_field" not in fields.missing
        else None
    )

    def answers() -> LogFacts | None:
        counted, last = counts.get(), newest.get()
        if counted is None or last is None:
            return None
        slices = counted.aggregations["slices"]["buckets"]
        lines = [slices[f"day{day}"]["doc_count"] for day in range(parameters.baseline_days + 1)]
        errors = [
            {bucket["key"]: bucket["doc_count"] for bucket in slices[f"day{day}"]["errors"]["services"]["buckets"]}
            for day in range(parameters.baseline_days + 1)
        ]
        services = sorted({service for day in errors for service in day}, key=lambda name: (-errors[0].get(name, 0), str(name)))
        found, uncovered = (templates.get() if templates else None) or (None, 0)
        return LogFacts(
            lines=lines[0],
            newest=_moment(last.aggregations["newest"].get("value")),
            earlier_lines=tuple(lines[1:]),
            errors=tuple(
                ErrorCount(
                    service=str(service),
                    now=errors[0].get(service, 0),
                    earlier=tuple(errors[day].get(service, 0) if lines[day] else None for day in range(1, len(lines))),
                )
                for service in services
            ),
            templates=found,
            uncovered=uncovered,
            over_time=_histogram(over_time.get()),
        )

    return answers


def _missing_field(settings: Logs, parameter: str, instead: str) -> Finding:
    name = getattr(settings, parameter)
    remedy = (
        _("Name {instead} in the environment's file: {field}", instead=instead, field=f"elasticsearch.{parameter}")
        if instead
        else _("Name the field in the environment's file: {field}", field=f"elasticsearch.{parameter}")
    )
    return Finding(
        check="gap.elasticsearch",
        severity=Severity.UNKNOWN,
        subject=Subject("Field", name),
        title=_("Could not look at all of the error logs: the field {name} is not there, or cannot be counted by", name=name),
        evidence=(
            Evidence(
                text=_("In the indices {index}", index=settings.index), source="elasticsearch", reference=f"/{settings.index}/_field_caps"
            ),
        ),
        steps=(Step(remedy),),
    )


def _complete(questions: Questions, result: SearchResult) -> SearchResult:
    """The result; where it covers only a part of the logs, that is a gap."""
    for reason in result.partial:
        questions.gap(
            Finding(
                check="gap.elasticsearch",
                severity=Severity.UNKNOWN,
                subject=Subject("System", "elasticsearch"),
                title=_("Elasticsearch could answer only in part: errors in the logs may be missing here"),
                evidence=(Evidence(text=_("Its reason"), quote=reason, source="elasticsearch"),),
                steps=(
                    Step(
                        _("See which shards are not there"),
                        'curl "$ELASTICSEARCH/_cat/shards?v&h=index,shard,prirep,state,unassigned.reason"',
                    ),
                ),
            )
        )
    return result


class _LogSearches:
    """The searches on the error logs, in the query language that Elasticsearch and OpenSearch share."""

    def __init__(self, settings: Logs, parameters: Parameters, now: datetime, message_types: frozenset[str]) -> None:
        self.settings = settings
        self._parameters = parameters
        self._now = now
        self._window = timedelta(minutes=parameters.window_minutes)
        self._phrases = not message_types <= {"keyword", "wildcard"}
        self._errors = {"terms": {settings.level_field: settings.error_levels}}
        self._where = [{"term": {settings.namespace_field: parameters.namespace}}] if parameters.namespace else []

    def _range(self, start: datetime, end: datetime) -> dict[str, Any]:
        return {"range": {self.settings.time_field: {"gte": start.isoformat(), "lt": end.isoformat()}}}

    def window(self) -> dict[str, Any]:
        """Lines of the window."""
        return self._range(self._now - self._window, self._now)

    def before(self) -> dict[str, Any]:
        """Lines of the days before the window."""
        start = self._now - self._window
        return self._range(start - timedelta(days=self._parameters.baseline_days), start)

    def errors(self, span: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
        """A query for the errors of a time."""
        return {"bool": {"filter": [span, self._errors, *self._where, *others]}}

    def counts(self) -> dict[str, Any]:
        """Errors by service, in the window and in the same window of earlier days; only those windows are read."""
        slices = {
            f"day{day}": self._range(self._now - self._window - timedelta(days=day), self._now - timedelta(days=day))
            for day in range(self._parameters.baseline_days + 1)
        }
        services = {"terms": {"field": self.settings.service_field, "size": MOST_LOG_SERVICES, "missing": "-"}}
        return {
            "size": 0,
            "track_total_hits": False,
            "query": {"bool": {"filter": [*self._where, {"bool": {"should": list(slices.values()), "minimum_should_match": 1}}]}},
            "aggs": {
                "slices": {"filters": {"filters": slices}, "aggs": {"errors": {"filter": self._errors, "aggs": {"services": services}}}}
            },
        }

    def over_time(self) -> dict[str, Any]:
        """Errors by service over the last day, in quarters of the window."""
        start = self._now - max(timedelta(days=1), self._window * 4)
        seconds = max(60, int(self._window.total_seconds() // 4))
        histogram = {
            "field": self.settings.time_field,
            "fixed_interval": f"{seconds}s",
            "min_doc_count": 0,
            "extended_bounds": {"min": int(start.timestamp() * 1000), "max": int(self._now.timestamp() * 1000)},
        }
        return {
            "size": 0,
            "track_total_hits": False,
            "query": self.errors(self._range(start, self._now)),
            "aggs": {
                "services": {
                    "terms": {"field": self.settings.service_field, "size": 20, "missing": "-"},
                    "aggs": {"over_time": {"date_histogram": histogram}},
                }
            },
        }

    def newest(self) -> dict[str, Any]:
        """The time of the newest line. Lines from the future, of a clock that is wrong, do not count."""
        span = self._range(self._now - timedelta(days=self._parameters.baseline_days), self._now + timedelta(minutes=5))
        return {
            "size": 0,
            "track_total_hits": False,
            "query": {"bool": {"filter": [span]}},
            "aggs": {"newest": {"max": {"field": self.settings.time_field}}},
        }

    def sample(self, without: Sequence[str]) -> dict[str, Any]:
        """The newest few errors of each service that none of the templates `without` covers."""
        settings = self.settings
        query = self.errors(self.window())
        query["bool"]["must_not"] = [self.of_template(text) for text in without]
        return {
            "size": 0,
            "track_total_hits": False,
            "query": query,
            "aggs": {
                "services": {
                    "terms": {"field": settings.service_field, "size": MOST_LOG_SERVICES, "missing": "-"},
                    "aggs": {
                        "lines": {
                            "top_hits": {
                                "size": 20,
                                "sort": [{settings.time_field: "desc"}],
                                "_source": [settings.message_field, settings.pod_field],
                            }
                        }
                    },
                }
            },
        }

    def by_template(self, templates: Sequence[str], span: dict[str, Any]) -> dict[str, Any]:
        """How many errors each template covers, by service, and since when; and how many none does."""
        return {
            "size": 0,
            "track_total_hits": False,
            "query": self.errors(span),
            "aggs": {
                "templates": {
                    "filters": {
                        "filters": {f"t{number}": self.of_template(text) for number, text in enumerate(templates)},
                        "other_bucket_key": "other",
                    },
                    "aggs": {
                        "services": {"terms": {"field": self.settings.service_field, "size": MOST_LOG_SERVICES, "missing": "-"}},
                        "first": {"min": {"field": self.settings.time_field}},
                    },
                }
            },
        }

    def of_template(self, text: str) -> dict[str, Any]:
        """A query for the lines of a template: all its phrases, or, where the field is not analysed, its phrases with anything between."""
        parts = phrases(text)
        if self._phrases:
            return {"bool": {"filter": [{"match_phrase": {self.settings.message_field: part}} for part in parts]}}
        pattern = "*".join(["", *(_wildcard(part) for part in parts), ""])
        return {"wildcard": {self.settings.message_field: {"value": pattern}}}


def _wildcard(text: str) -> str:
    return "".join("\\" + char if char in "\\*?" else char for char in text)


def _templates(elasticsearch: Elasticsearch, search: _LogSearches, questions: Questions) -> tuple[tuple[LogTemplate, ...], int]:
    """The kinds of errors in the window, and how many errors no kind covers.

    A few lines of each service are read and made into templates; the next round reads lines that no template covers yet, so that the rare
    kinds are found beside the frequent ones. Then Elasticsearch counts each template, in the window and in the days before.
    """
    settings = search.settings
    examples: dict[str, tuple[str, str]] = {}
    for _round in range(TEMPLATE_ROUNDS):
        # A template of one or two words would hide most other lines from the next round.
        without = [text for text in examples if len(" ".join(phrases(text)).split()) > 2 or not text.isascii()]
        result = elasticsearch.search(search.sample(without), what=_("error lines"))
        fresh: Counter[str] = Counter()
        for service in result.aggregations["services"]["buckets"]:
            for hit in service["lines"]["hits"]["hits"]:
                line = redact(str(_value(hit.get("_source", {}), settings.message_field) or ""))
                text = template(line.replace(MASK, PLACE))
                if text and text not in examples:
                    fresh[text] += 1
                    examples.setdefault(text, (line[:2_000], str(_value(hit.get("_source", {}), settings.pod_field) or "")))
        if not fresh or len(examples) >= MOST_TEMPLATES:
            break
    texts = list(examples)[:MOST_TEMPLATES]
    if not texts:
        return (), 0
    now = _complete(questions, elasticsearch.search(search.by_template(texts, search.window()), what=_("kinds of errors now")))
    before = elasticsearch.search(search.by_template(texts, search.before()), what=_("kinds of errors before"))
    these, those = now.aggregations["templates"]["buckets"], before.aggregations["templates"]["buckets"]
    found = []
    for number, text in enumerate(texts):
        bucket = these[f"t{number}"]
        # A template that does not even find the line that it was made from cannot say that there was none before.
        known = bucket["doc_count"] > 0 and not before.partial
        line, pod = examples[text]
        found.append(
            LogTemplate(
                text=text,
                services={str(item["key"]): item["doc_count"] for item in bucket["services"]["buckets"]},
                now=bucket["doc_count"],
                earlier=those[f"t{number}"]["doc_count"] if known else None,
                example=line,
                pod=pod,
                first=_moment(bucket["first"].get("value")),
            )
        )
    found.sort(key=lambda item: (item.earlier != 0, -item.now, item.text))
    return tuple(found), these["other"]["doc_count"]


def _histogram(result: SearchResult | None) -> pandas.DataFrame | None:
    """Columns service, time (UTC) and count."""
    import pandas

    if result is None:
        return None
    rows = [
        (str(service["key"]), bucket["key"], bucket["doc_count"])
        for service in result.aggregations["services"]["buckets"]
        for bucket in service["over_time"]["buckets"]
    ]
    frame = pandas.DataFrame(rows, columns=["service", "time", "count"])
    frame["time"] = pandas.to_datetime(frame["time"].astype("int64"), unit="ms", utc=True)
    return frame


def _value(source: Any, path: str) -> Any:
    """The value of a field in a document, which may be nested, or written with dots in its name."""
    if not isinstance(source, dict):
        return None
    if path in source:
        return source[path]
    names = path.split(".")
    for number in range(len(names) - 1, 0, -1):
        head = ".".join(names[:number])
        if head in source:
            return _value(source[head], ".".join(names[number:]))
    return None


def _moment(milliseconds: Any) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(float(milliseconds) / 1000, UTC)
