"""What the rules of chapter 3.1 look at, and how sharply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from opslib.environments import Links, Logs, Metrics
from opslib.findings import Finding
from opslib.messages import Message, _
from opslib.sources.monitored import AlertmanagerObject, AlertmanagerStatus, Notified, PrometheusRule, RuleGroup, Runtime, Silence, Target

if TYPE_CHECKING:
    import pandas


_TEXTS: dict[str, Message] = {
    "namespace": _("Only services and logs of this namespace; empty: all of them."),
    "window_minutes": _("How far to look back, in minutes."),
    "baseline_days": _("How many earlier days the same time of day is compared with."),
    "error_ratio_warning": _("Share of failed requests that is a warning (0 to 1)."),
    "error_ratio_critical": _("Share of failed requests that is critical (0 to 1)."),
    "latency_factor": _("Latency (95th percentile) this many times that of yesterday and last week is a warning."),
    "latency_floor_seconds": _("Latency below this is never a warning, in seconds."),
    "traffic_drop": _("Requests below this share of those of yesterday and last week are a warning (0 to 1)."),
    "traffic_floor_per_second": _("Services with fewer requests a second than this are not judged."),
    "use_warning": _("Use of a node's CPU, memory or file system that is a warning (0 to 1)."),
    "use_critical": _("Use of a node's memory or file system that is critical (0 to 1)."),
    "log_factor": _("This many times the errors in the logs of the same hour of earlier days are a warning."),
    "log_minimum": _("Fewer errors in the logs than this are never a warning."),
    "silence_ends_within_hours": _("A silence that ends within so many hours, while its alert still fires, is shown."),
    "silence_long_days": _("A silence that lasts longer than so many days counts as never ending."),
    "most_services": _("How many services are read at most; those with most requests or errors first."),
}


class Parameters(BaseModel):
    """What a reader may choose."""

    LABELS: ClassVar[dict[str, Message]] = _TEXTS

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = Field("", description=_TEXTS["namespace"].id)
    window_minutes: int = Field(60, ge=5, le=1440, description=_TEXTS["window_minutes"].id)
    baseline_days: int = Field(7, ge=1, le=30, description=_TEXTS["baseline_days"].id)
    error_ratio_warning: float = Field(0.01, gt=0, le=1, description=_TEXTS["error_ratio_warning"].id)
    error_ratio_critical: float = Field(0.05, gt=0, le=1, description=_TEXTS["error_ratio_critical"].id)
    latency_factor: float = Field(2.0, gt=1, description=_TEXTS["latency_factor"].id)
    latency_floor_seconds: float = Field(0.1, ge=0, description=_TEXTS["latency_floor_seconds"].id)
    traffic_drop: float = Field(0.5, gt=0, lt=1, description=_TEXTS["traffic_drop"].id)
    traffic_floor_per_second: float = Field(0.05, ge=0, description=_TEXTS["traffic_floor_per_second"].id)
    use_warning: float = Field(0.8, gt=0, le=1, description=_TEXTS["use_warning"].id)
    use_critical: float = Field(0.9, gt=0, le=1, description=_TEXTS["use_critical"].id)
    log_factor: float = Field(3.0, gt=1, description=_TEXTS["log_factor"].id)
    log_minimum: int = Field(20, ge=1, description=_TEXTS["log_minimum"].id)
    silence_ends_within_hours: float = Field(8, gt=0, description=_TEXTS["silence_ends_within_hours"].id)
    silence_long_days: float = Field(30, gt=0, description=_TEXTS["silence_long_days"].id)
    most_services: int = Field(50, ge=1, le=500, description=_TEXTS["most_services"].id)


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingSeries:
    """A rule's selector that selects nothing.

    `metric_known`: Prometheus has, or had, series of that metric's name; `metric_declared`: it has none, but an exporter that it scrapes
    says that it may give some.
    """

    group: str
    rule: str
    selector: str
    metric: str
    metric_known: bool
    metric_declared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Notifications of one integration of Alertmanager's in the window: how many were tried, how many failed."""

    integration: str
    receiver: str = ""
    reason: str = ""
    tried: float
    failed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Alerts that Prometheus tried to hand to one Alertmanager in the window, and how many of them failed."""

    alertmanager: str
    tried: float
    failed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUse:
    """One node. CPU in cores, memory and file systems in bytes; None: not known. File systems by mount point: used and size."""

    name: str
    cpu_used: float | None = None
    cpu_allocatable: float | None = None
    cpu_requested: float | None = None
    memory_used: float | None = None
    memory_allocatable: float | None = None
    memory_requested: float | None = None
    filesystems: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Then:
    """A service at one time, over the window; None: not known (0 requests: it is known that there were none).

    Requests a second, the share of them that failed, the 95th percentile of their latency in seconds.
    """

    requests: float | None = None
    error_ratio: float | None = None
    latency: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceUse:
    """A service over the window, over its last five minutes, and over the same window yesterday and a week ago.

    An outage that began a minute ago hardly shows in the mean of an hour: it shows in `recent`. `namespace` is empty where the metrics do
    not name it.
    """

    name: str
    namespace: str = ""
    now: Then
    yesterday: Then
    last_week: Then
    recent: Then = field(default_factory=Then)

    @property
    def label(self) -> str:
        """What it is called where services of several namespaces stand together."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCount:
    """Errors in the logs of one service in the window, and in the same window of earlier days.

    Yesterday comes first; None: there are no logs of that day.
    """

    service: str
    now: int
    earlier: tuple[int | None, ...] = ()


class Run(NamedTuple):
    """A version of a service in the logs: when its first line came, and how many there are, of any level."""

    first: datetime
    lines: int


Versions = Mapping[str, Mapping[str, int]]
"""Lines by service and version. "-": lines of which the version is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTemplate:
    """Lines that differ only in numbers, names in quotes and the like.

    `earlier` counts them in the days before the window; None: they could not be searched for, so that nothing is known. `same_hours` counts
    them in the same window of each earlier day, yesterday's first; empty: not known. `versions` counts the lines of the window by service
    and version, `versions_before` those of the days before; empty: not known. `example` is one line, without secrets.
    """

    text: str
    services: Mapping[str, int]
    now: int
    earlier: int | None
    example: str
    pod: str = ""
    first: datetime | None = None
    same_hours: tuple[int, ...] = ()
    versions: Versions = field(default_factory=dict)
    versions_before: Versions = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFacts:
    """Errors in the logs. `lines` are all lines of the window, of any level; `newest` is the time of the newest line at all.

    `earlier_lines` are all lines of the same window of earlier days; `uncovered` are errors that no template covers; `over_time` has the
    columns service, time and count, of the last day; `templates_over_time` the columns template, time and count, of the first templates.
    `runs` are the versions that logged anything in the window and in the same window of earlier days, by service; None: not known.
    """

    lines: int
    newest: datetime | None
    earlier_lines: tuple[int, ...]
    errors: tuple[ErrorCount, ...]
    templates: tuple[LogTemplate, ...] | None
    uncovered: int = 0
    over_time: pandas.DataFrame | None = None
    templates_over_time: pandas.DataFrame | None = None
    runs: Mapping[str, Mapping[str, Run]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the monitoring systems said. None: could not be read.

    Parameters
    ----------
    now, zone, environment, links, metrics, logs_settings
        When, in which zone times are shown, where, and what pages, metrics and fields are called there.
    context, alertmanager_url
        The kubeconfig's context and Alertmanager's address, for commands.
    groups, targets, runtime, missing, alertmanagers
        From Prometheus: rule groups with their alerts, targets, itself, selectors without series, the Alertmanagers it sends to.
    alertmanager, notified, silences
        From Alertmanager.
    deliveries, lost
        From Alertmanager's and Prometheus' own metrics: notifications by integration; alerts that could not be handed to an Alertmanager.
    nodes, services, requests_over_time, errors_over_time
        The cluster's and the applications' use. The frames have the columns service (its label), time and value: requests a second, and
        the share that failed.
    prometheus_rules, alertmanager_objects
        The operator's objects in the cluster.
    logs
        Errors in the logs.
    """

    now: datetime
    environment: str
    zone: tzinfo = UTC
    links: Links = field(default_factory=Links)
    metrics: Metrics | None = None
    logs_settings: Logs | None = None
    context: str = ""
    alertmanager_url: str = ""
    groups: list[RuleGroup] | None = None
    targets: list[Target] | None = None
    runtime: Runtime | None = None
    missing: list[MissingSeries] | None = None
    alertmanagers: list[str] | None = None
    alertmanager: AlertmanagerStatus | None = None
    notified: list[Notified] | None = None
    silences: list[Silence] | None = None
    deliveries: list[Delivery] | None = None
    lost: list[Lost] | None = None
    nodes: list[NodeUse] | None = None
    services: list[ServiceUse] | None = None
    requests_over_time: pandas.DataFrame | None = None
    errors_over_time: pandas.DataFrame | None = None
    prometheus_rules: list[PrometheusRule] | None = None
    alertmanager_objects: list[AlertmanagerObject] | None = None
    logs: LogFacts | None = None
    gaps: tuple[Finding, ...] = ()
