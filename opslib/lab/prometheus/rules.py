"""Recording and alerting rules: evaluated in order, their results appended to the store (rules/group.go, rules/alerting.go).

The caller owns the clock: `Rules.evaluate(now)` evaluates each group whose interval has passed. Alerts to hand over to an Alertmanager
come out of it, in the form that its API takes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import numpy as np

from opslib.lab.prometheus import numbers, printer, templates
from opslib.lab.prometheus.evaluate import Engine
from opslib.lab.prometheus.labels import Labels, labels_of
from opslib.lab.prometheus.parse import QueryError, duration, kind, parse
from opslib.lab.prometheus.store import Floats, Scrape, absent
from opslib.lab.prometheus.vectors import Vector

_RESOLVED_RETENTION = 15 * 60
_RESEND_DELAY = 60
_STATES = ("inactive", "pending", "firing")


@dataclass(slots=True)
class Alert:
    """One alert of a rule; times are Unix seconds, 0 where they have not come."""

    labels: Labels
    annotations: dict[str, str]
    value: float
    active_at: float
    state: str = "pending"
    fired_at: float = 0
    resolved_at: float = 0
    sent_at: float = 0
    keep_since: float = 0


@dataclass(slots=True)
class Rule:
    """A rule and what became of it. `alerts` is empty for a recording rule."""

    name: str
    query: str
    alerting: bool
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    hold: float = 0
    keep: float = 0
    health: str = "unknown"
    error: str = ""
    duration: float = 0
    evaluated: float = 0
    alerts: dict[Labels, Alert] = field(default_factory=dict)
    written: Scrape | None = None

    @property
    def state(self) -> str:
        """The furthest state of its alerts."""
        if not self.evaluated:
            return "unknown"
        return _STATES[max((_STATES.index(alert.state) for alert in self.alerts.values()), default=0)]


@dataclass(slots=True)
class Group:
    """Rules that are evaluated one after another."""

    name: str
    file: str
    interval: float
    rules: list[Rule]
    limit: int = 0
    duration: float = 0
    evaluated: float = 0


class RuleError(ValueError):
    """A rule file that Prometheus would not load."""


class Rules:
    """Groups of rules over a store.

    Parameters
    ----------
    engine
        Where queries are evaluated; results are appended to its store.
    default_interval
        Seconds, for groups that name none.
    external_url
        Prometheus' own address, for the links in alerts.
    """

    def __init__(self, engine: Engine, *, default_interval: float = 60, external_url: str = "http://prometheus:9090") -> None:
        self.engine = engine
        self.default_interval = default_interval
        self.external_url = external_url.rstrip("/")
        self.groups: list[Group] = []
        self._lock = threading.RLock()

    def load(self, content: Mapping[str, Any], file: str) -> None:
        """Take the groups of a rule file, in place of those it had before; rules that are the same keep their alerts.

        Raises
        ------
        RuleError
            A group or rule is not valid.
        """
        new = [self._group(item, file) for item in content.get("groups") or []]
        with self._lock:
            before = {(group.name, rule.name, rule.query): rule for group in self.groups if group.file == file for rule in group.rules}
            for group in new:
                for rule in group.rules:
                    old = before.get((group.name, rule.name, rule.query))
                    if old is not None:
                        rule.alerts, rule.written = old.alerts, old.written
            self.groups = [group for group in self.groups if group.file != file] + new

    def remove(self, file: str) -> None:
        """Forget the groups of a file."""
        with self._lock:
            self.groups = [group for group in self.groups if group.file != file]

    def _group(self, item: Mapping[str, Any], file: str) -> Group:
        try:
            rules = [self._rule(rule) for rule in item.get("rules") or []]
            interval = duration(str(item["interval"])) / 1000 if item.get("interval") else self.default_interval
            return Group(str(item["name"]), file, interval, rules, int(item.get("limit") or 0))
        except (KeyError, ValueError, QueryError) as error:
            raise RuleError(f"{file}: group {item.get('name')!r}: {error}") from error

    def _rule(self, item: Mapping[str, Any]) -> Rule:
        if bool(item.get("alert")) == bool(item.get("record")):
            raise RuleError("one of 'record' or 'alert' must be set, and not both")
        name = str(item.get("alert") or item.get("record"))
        try:
            tree = parse(str(item.get("expr", "")), self.engine.experimental)
            if kind(tree) not in ("vector", "scalar"):
                raise RuleError(f"rule {name!r}: could not parse expression: it gives no vector")
        except QueryError as error:
            raise RuleError(f"rule {name!r}: could not parse expression: {error}") from error
        for part in ("labels", "annotations"):
            for key, text in (item.get(part) or {}).items():
                try:
                    templates.check(str(text))
                except templates.TemplateError as error:
                    raise RuleError(f'"{name}": {part.removesuffix("s")} "{key}": template: __alert_{name}:1: {error}') from error
        return Rule(
            name,
            printer.text(tree),
            bool(item.get("alert")),
            {key: str(value) for key, value in (item.get("labels") or {}).items()},
            {key: str(value) for key, value in (item.get("annotations") or {}).items()},
            duration(str(item.get("for") or "0")) / 1000,
            duration(str(item.get("keep_firing_for") or "0")) / 1000,
        )

    # --- evaluating ---

    def evaluate(self, now: float) -> list[dict[str, Any]]:
        """Evaluate the groups that are due at a time in Unix seconds; the alerts that are to be sent now, as Alertmanager takes them."""
        with self._lock:
            sent: list[dict[str, Any]] = []
            for group in self.groups:
                if not group.evaluated or now - group.evaluated >= group.interval:
                    sent += self._evaluate(group, now)
            return sent

    def remember(self, start: float, end: float, step: float) -> None:
        """Let the rules have been evaluated from `start` to `end` (Unix seconds), every `step` seconds: for a past that was given whole.

        What they gave then is appended, and alerts that last at the end are as old as their conditions are. The store has to have no
        results of these rules in that time.
        """
        first, last, distance = round(start * 1000), round(end * 1000), round(step * 1000)
        with self._lock:
            for group in self.groups:
                for rule in group.rules:
                    try:
                        result = self.engine.query_range(rule.query, first, last, distance)
                    except QueryError:
                        continue  # it fails in the present too, which is told there
                    if not result.value.labels:
                        continue
                    if rule.alerting:
                        self._remember_alerts(rule, result.times / 1000, result.value)
                    else:
                        labels = [{**dict(one), "__name__": rule.name, **rule.labels} for one in result.value.labels]
                        values = np.where(result.value.present, result.value.values, absent(result.value.values.shape))
                        self.engine.store.load(labels, result.times, values)
                group.evaluated = 0

    def _remember_alerts(self, rule: Rule, times: Floats, vector: Vector) -> None:
        numbers_ = np.arange(len(times))
        labels: list[dict[str, str]] = []
        columns: list[Floats] = []
        for row, series in enumerate(vector.labels):
            present = vector.present[row]
            began = np.maximum.accumulate(np.where(present & ~np.append(False, present[:-1]), numbers_, 0))
            active_at = times[began]
            firing = present & (times - active_at >= rule.hold)
            last = int(np.flatnonzero(present)[-1])
            alert = self._alert(rule, series, float(vector.values[row, last]), float(times[last]))
            alert.active_at = float(active_at[last])
            if present[-1]:
                if firing[-1]:
                    alert.state, alert.fired_at = "firing", alert.active_at + rule.hold
                known = rule.alerts.get(alert.labels)
                if known is None or known.state == "inactive" or known.active_at > alert.active_at:
                    rule.alerts[alert.labels] = alert
            own = {**rule.labels, **dict(alert.labels), "alertname": rule.name}
            for state, there in (("pending", present & ~firing), ("firing", firing)):
                if there.any():
                    labels.append({**own, "__name__": "ALERTS", "alertstate": state})
                    columns.append(np.where(there, 1.0, absent(times.shape)))
            labels.append({**own, "__name__": "ALERTS_FOR_STATE"})
            columns.append(np.where(present, np.floor(active_at), absent(times.shape)))
        self.engine.store.load(labels, np.round(times * 1000).astype(np.int64), np.stack(columns))

    def due(self, now: float) -> float:
        """Seconds until a group is due."""
        with self._lock:
            return max(0.0, min((group.evaluated + group.interval - now for group in self.groups), default=self.default_interval))

    def _evaluate(self, group: Group, now: float) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []
        began = time.perf_counter()
        for rule in group.rules:
            start = time.perf_counter()
            try:
                samples = self._alerting(rule, group, now) if rule.alerting else self._recording(rule, group, now)
                rule.health, rule.error = "ok", ""
            except QueryError as error:
                rule.health, rule.error = "err", str(error)
                samples = None
            if samples is not None:
                if rule.alerting:
                    sent += self._to_send(rule, group, now)
                self._write(rule, samples, now)
            rule.duration, rule.evaluated = time.perf_counter() - start, now
        group.duration, group.evaluated = time.perf_counter() - began, now
        return sent

    def _write(self, rule: Rule, samples: Mapping[Labels, float], now: float) -> None:
        if rule.written is None:
            if not samples:
                return
            rule.written = self.engine.store.scrape()
        try:
            rule.written.append(round(now * 1000), samples)
        except ValueError as error:
            rule.health, rule.error = "err", f"out of order sample: {error}"

    def _vector(self, text: str, now: float) -> list[tuple[Labels, float]]:
        result = self.engine.query(text, round(now * 1000))
        if isinstance(result.value, Vector):
            vector = result.value.compact()
            return list(zip(vector.labels, vector.values[:, 0].tolist(), strict=True))
        if result.kind == "scalar":
            return [((), float(result.value[0]))]
        raise QueryError("rule result is not a vector or scalar")

    def _recording(self, rule: Rule, group: Group, now: float) -> dict[Labels, float]:
        samples: dict[Labels, float] = {}
        for labels, value in self._vector(rule.query, now):
            result = labels_of({**dict(labels), "__name__": rule.name, **rule.labels})
            if result in samples:
                raise QueryError("vector contains metrics with the same labelset after applying rule labels")
            samples[result] = value
        if group.limit and len(samples) > group.limit:
            raise QueryError(f"exceeded limit of {group.limit} with {len(samples)} series")
        return samples

    def _alerting(self, rule: Rule, group: Group, now: float) -> dict[Labels, float]:
        raised = self._raised(rule, now)
        for labels, alert in raised.items():
            known = rule.alerts.get(labels)
            if known is not None and known.state != "inactive":
                known.value, known.annotations = alert.value, alert.annotations
            else:
                rule.alerts[labels] = alert
        samples: dict[Labels, float] = {}
        active = 0
        for labels, alert in list(rule.alerts.items()):
            if labels in raised:
                alert.keep_since = 0
            elif not self._kept(rule, alert, now):
                continue
            active += 1
            if alert.state == "pending" and now - alert.active_at >= rule.hold:
                alert.state, alert.fired_at = "firing", now
            own = {**rule.labels, **dict(labels), "alertname": rule.name}
            samples[labels_of({**own, "__name__": "ALERTS", "alertstate": alert.state})] = 1.0
            samples[labels_of({**own, "__name__": "ALERTS_FOR_STATE"})] = float(int(alert.active_at))
        if group.limit and active > group.limit:
            rule.alerts.clear()
            raise QueryError(f"exceeded limit of {group.limit} with {active} alerts")
        return samples

    def _raised(self, rule: Rule, now: float) -> dict[Labels, Alert]:
        raised: dict[Labels, Alert] = {}
        for labels, value in self._vector(rule.query, now):
            alert = self._alert(rule, labels, value, now)
            if alert.labels in raised:
                raise QueryError("vector contains metrics with the same labelset after applying alert labels")
            raised[alert.labels] = alert
        return raised

    def _alert(self, rule: Rule, labels: Labels, value: float, now: float) -> Alert:
        """The alert of a series that a rule's expression gives at a time."""
        given = dict(labels)

        def query(text: str) -> list[templates.Sample]:
            try:
                return [templates.Sample(dict(labels), value) for labels, value in self._vector(text, now)]
            except QueryError as error:
                raise templates.TemplateError(f"error calling query: {error}") from error

        def expand(text: str) -> str:
            return templates.expand(text, given, value, query=query, now=now, external_url=self.external_url)

        own = {name: text for name, text in given.items() if name != "__name__"}
        own |= {name: expand(text) for name, text in rule.labels.items()} | {"alertname": rule.name}
        return Alert(labels_of(own), {name: expand(text) for name, text in rule.annotations.items()}, value, now)

    def _kept(self, rule: Rule, alert: Alert, now: float) -> bool:
        """Whether an alert without a series goes on; where it does not, it is over."""
        keep = False
        if alert.state == "firing" and rule.keep > 0:
            alert.keep_since = alert.keep_since or now
            keep = now - alert.keep_since < rule.keep
        if alert.state == "pending" or (alert.resolved_at and now - alert.resolved_at > _RESOLVED_RETENTION):
            del rule.alerts[alert.labels]
        if alert.state != "inactive" and not keep:
            alert.state, alert.resolved_at = "inactive", now
        return keep

    # --- handing over ---

    def _to_send(self, rule: Rule, group: Group, now: float) -> list[dict[str, Any]]:
        result = []
        for alert in rule.alerts.values():
            if alert.state == "pending" or not (alert.resolved_at > alert.sent_at or alert.sent_at + _RESEND_DELAY < now):
                continue
            alert.sent_at = now
            ends = alert.resolved_at or now + 4 * max(group.interval, _RESEND_DELAY)
            result.append(
                {
                    "labels": dict(alert.labels),
                    "annotations": alert.annotations,
                    "startsAt": iso(alert.fired_at),
                    "endsAt": iso(ends),
                    "generatorURL": f"{self.external_url}/graph?g0.expr={quote_plus(rule.query)}&g0.tab=1",
                }
            )
        return result

    # --- for the API ---

    def describe(self) -> list[dict[str, Any]]:
        """All groups as /api/v1/rules shows them."""
        with self._lock:
            return [
                {
                    "name": group.name,
                    "file": group.file,
                    "rules": [_described(rule) for rule in group.rules],
                    "interval": group.interval,
                    "limit": group.limit,
                    "evaluationTime": group.duration,
                    "lastEvaluation": iso(group.evaluated),
                }
                for group in sorted(self.groups, key=lambda one: (one.file, one.name))
            ]


def _described(rule: Rule) -> dict[str, Any]:
    common: dict[str, Any] = {
        "name": rule.name,
        "query": rule.query,
        "labels": rule.labels,
        "health": rule.health,
        "evaluationTime": rule.duration,
        "lastEvaluation": iso(rule.evaluated),
    }
    if rule.error:
        common["lastError"] = rule.error
    if not rule.alerting:
        return common | {"type": "recording"}
    return common | {
        "state": rule.state,
        "duration": rule.hold,
        "keepFiringFor": rule.keep,
        "annotations": rule.annotations,
        "alerts": [_alert(alert) for alert in rule.alerts.values() if not alert.resolved_at],
        "type": "alerting",
    }


def _alert(alert: Alert) -> dict[str, Any]:
    result: dict[str, Any] = {
        "labels": dict(alert.labels),
        "annotations": alert.annotations,
        "state": alert.state,
        "activeAt": iso(alert.active_at),
        "value": numbers.exponent(alert.value),
    }
    if alert.keep_since:
        result["keepFiringSince"] = iso(alert.keep_since)
    return result


def iso(seconds: float) -> str:
    """A time as the API writes it; the year 1 where there is none yet, as Go's zero time."""
    if not seconds:
        return "0001-01-01T00:00:00Z"
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


Poster = Callable[[Sequence[Mapping[str, Any]]], None]


def run(rules: Rules, now: Callable[[], float], posters: Iterable[Poster], stop: threading.Event) -> None:
    """Evaluate until told to stop, and hand alerts over. For a thread; `now` may run faster than the wall clock."""
    posters = list(posters)
    while not stop.is_set():
        began = now()
        alerts = rules.evaluate(began)
        if alerts:
            for post in posters:
                post(alerts)
        stop.wait(min(1.0, max(0.02, rules.due(now()) / 10)))
