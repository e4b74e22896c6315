"""What the monitoring systems say, only as far as opslib reads it: rules, alerts, targets, silences, answers to searches."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from opslib.sources.objects import Base, Condition, Metadata


class Matcher(msgspec.Struct, frozen=True, kw_only=True):
    """One condition on a label, as Prometheus parses it: `type` is one of = != =~ !~."""

    name: str
    value: str = ""
    type: str = "="


# --- Prometheus -----------------------------------------------------------------------------------------------------------------------


class Alert(Base):
    """One alert of Prometheus': pending or firing, with the labels of the series that raised it."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    state: str = ""
    active_at: datetime | None = None
    value: str = ""

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.labels.get("alertname", "")


class Rule(Base):
    """An alerting or recording rule. `health` is "ok", "err" or "unknown" (not evaluated yet); durations are in seconds."""

    name: str = ""
    type: str = ""
    query: str = ""
    state: str = ""
    health: str = ""
    last_error: str = ""
    duration: float = 0
    evaluation_time: float = 0
    last_evaluation: datetime | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    alerts: list[Alert] = []


class RuleGroup(Base):
    """Rules that are evaluated one after another, every `interval` seconds; `evaluation_time` is what the last round took."""

    name: str = ""
    file: str = ""
    interval: float = 0
    evaluation_time: float = 0
    last_evaluation: datetime | None = None
    rules: list[Rule] = []


class Target(Base):
    """Something that Prometheus scrapes. `health` is "up", "down" or "unknown" (not scraped yet)."""

    labels: dict[str, str] = {}
    scrape_pool: str = ""
    scrape_url: str = ""
    last_error: str = ""
    last_scrape: datetime | None = None
    last_scrape_duration: float = 0
    health: str = ""

    @property
    def job(self) -> str:
        """Its job."""
        return self.labels.get("job", self.scrape_pool)

    @property
    def instance(self) -> str:
        """Its instance."""
        return self.labels.get("instance", self.scrape_url)


class Runtime(Base):
    """Prometheus itself: whether it took its configuration, and since when it runs."""

    start_time: datetime | None = None
    server_time: datetime | None = None
    reload_config_success: bool = True
    last_config_time: datetime | None = None
    corruption_count: int = 0
    storage_retention: str = ""


class Build(Base):
    version: str = ""


# --- Alertmanager ---------------------------------------------------------------------------------------------------------------------


class Peer(Base):
    name: str = ""
    address: str = ""


class Cluster(Base):
    """`status` is "ready", "settling" or "disabled" (a single one, without clustering)."""

    status: str = ""
    peers: list[Peer] = []


class AlertmanagerStatus(Base):
    """One Alertmanager, as it sees its cluster and its configuration.

    `silent_receivers` are the receivers that send nowhere; `default_receiver` gets what no other route takes.
    """

    cluster: Cluster = msgspec.field(default_factory=Cluster)
    version: str = ""
    start_time: datetime | None = None
    default_receiver: str = ""
    receivers: list[str] = []
    silent_receivers: list[str] = []


class NotifiedState(Base):
    state: str = ""
    silenced_by: list[str] = []
    inhibited_by: list[str] = []
    muted_by: list[str] = []


class Receiver(Base):
    name: str = ""


class Notified(Base):
    """One alert, as Alertmanager has it: `status.state` is "active", "suppressed" or "unprocessed"."""

    fingerprint: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    starts_at: datetime | None = None
    updated_at: datetime | None = None
    receivers: list[Receiver] = []
    status: NotifiedState = msgspec.field(default_factory=NotifiedState)
    generator_url: str = msgspec.field(default="", name="generatorURL")

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.labels.get("alertname", "")


class SilenceMatcher(Base):
    name: str = ""
    value: str = ""
    is_regex: bool = False
    is_equal: bool = True

    def __str__(self) -> str:
        sign = ("=~" if self.is_regex else "=") if self.is_equal else ("!~" if self.is_regex else "!=")
        return f'{self.name}{sign}"{self.value}"'


class SilenceState(Base):
    state: str = ""


class Silence(Base):
    """`status.state` is "active", "pending" or "expired"."""

    id: str = ""
    comment: str = ""
    created_by: str = ""
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    matchers: list[SilenceMatcher] = []
    status: SilenceState = msgspec.field(default_factory=SilenceState)


# --- the operator's objects in the cluster --------------------------------------------------------------------------------------------


class OperatorRule(Base):
    alert: str = ""
    record: str = ""


class OperatorRuleGroup(Base):
    name: str = ""
    rules: list[OperatorRule] = []


class PrometheusRuleSpec(Base):
    groups: list[OperatorRuleGroup] = []


class PrometheusRule(Base):
    """monitoring.coreos.com/v1 PrometheusRule."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: PrometheusRuleSpec = msgspec.field(default_factory=PrometheusRuleSpec)


class AlertmanagerSpec(Base):
    replicas: int | None = None
    paused: bool = False


class AlertmanagerObjectStatus(Base):
    replicas: int = 0
    available_replicas: int = 0
    conditions: list[Condition] = []


class AlertmanagerObject(Base):
    """monitoring.coreos.com/v1 Alertmanager."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: AlertmanagerSpec = msgspec.field(default_factory=AlertmanagerSpec)
    status: AlertmanagerObjectStatus | None = None


# --- Elasticsearch --------------------------------------------------------------------------------------------------------------------


class SearchResult(msgspec.Struct, kw_only=True):
    """The answer to a search: `partial` says why it does not cover everything, and is empty where it does."""

    total: int = 0
    hits: list[dict[str, Any]] = []
    aggregations: dict[str, Any] = {}
    partial: list[str] = []
