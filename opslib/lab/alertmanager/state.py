"""What an Alertmanager knows: alerts, groups of them, silences, and what it has sent (dispatch, silence, inhibit, notify).

The caller owns the clock: `tick()` flushes the groups that are due. Nothing leaves the machine: `Notification`s are kept, and
`deliver` says which of them would have failed.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opslib.lab.alertmanager.config import Config, Receiver, Route, matches
from opslib.lab.prometheus.labels import Matcher

_KEPT = 10_000
_SILENCE_RETENTION = 120 * 3600.0

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; times are Unix seconds. `timeout`: its end is only a guess, made since nobody said when it ends."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts: float
    ends: float
    updated: float
    generator: str = ""
    timeout: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of the labels (common/model, FNV-1a)."""
        return fingerprint(self.labels)

    def resolved(self, now: float) -> bool:
        """Whether it is over."""
        return self.ends <= now

    def merged(self, newer: Alert, now: float) -> Alert:
        """This alert after a newer message about it."""
        ends = newer.ends
        if newer.resolved(now):
            if self.resolved(now) and self.ends > ends:
                ends = self.ends
        elif self.ends > ends and not self.timeout:
            ends = self.ends
        return replace(newer, starts=min(self.starts, newer.starts), ends=ends)


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that match are muted from `starts` to `ends`, in Unix seconds."""

    id: str
    matchers: tuple[Matcher, ...]
    starts: float
    ends: float
    updated: float
    author: str = ""
    comment: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def state(self, now: float) -> str:
        """active, pending or expired."""
        return "pending" if now < self.starts else "active" if now < self.ends else "expired"


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that would have gone out. `error` is empty where it would have arrived."""

    time: float
    receiver: str
    integration: str
    group: Mapping[str, str]
    firing: tuple[Mapping[str, str], ...]
    resolved: tuple[Mapping[str, str], ...]
    error: str = ""


@dataclass(slots=True)
class Group:
    """Alerts that are sent together; `due` is when they are looked at next."""

    route: Route
    labels: Mapping[str, str]
    due: float
    alerts: dict[str, Alert] = field(default_factory=dict)
    flushed: bool = False
    sent: dict[int, tuple[float, frozenset[str], frozenset[str]]] = field(default_factory=dict)  # of an integration: when and what last


@dataclass(frozen=True, slots=True)
class Status:
    """Why an alert is muted: the ids of silences, the fingerprints of what inhibits it."""

    silenced_by: tuple[str, ...] = ()
    inhibited_by: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """active or suppressed."""
        return "suppressed" if self.silenced_by or self.inhibited_by else "active"


class NoSilence(LookupError):
    """There is no silence of that id."""


Deliver = Callable[[Receiver, str, Sequence[Alert]], str]


class Alertmanager:
    """One Alertmanager.

    Parameters
    ----------
    config
        Routes, receivers, inhibition.
    now
        Unix seconds.
    deliver
        Called for each message with receiver, integration and alerts; gives why it failed ("serverError", "other" ...), or nothing.
    """

    def __init__(self, config: Config, now: Callable[[], float], deliver: Deliver = lambda receiver, integration, alerts: "") -> None:
        self.config = config
        self.now = now
        self.started = now()
        self.deliver = deliver
        self.alerts: dict[str, Alert] = {}
        self.silences: dict[str, Silence] = {}
        self.groups: dict[tuple[str, Labels], Group] = {}
        self.notifications: deque[Notification] = deque(maxlen=_KEPT)
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.lock = threading.RLock()

    # --- alerts ---

    def put(self, alerts: Sequence[Alert]) -> None:
        """Take alerts, new or known, and put them into their groups."""
        with self.lock:
            now = self.now()
            for alert in alerts:
                key = alert.fingerprint
                known = self.alerts.get(key)
                if known is not None and alert.starts < known.ends and known.starts < alert.ends:  # they overlap: it is the same one
                    alert = known.merged(alert, now)
                self.alerts[key] = alert
                for route in self.config.route.match(alert.labels):
                    self._insert(route, alert, now)

    def _insert(self, route: Route, alert: Alert, now: float) -> None:
        names = alert.labels if route.group_by is None else route.group_by
        labels = {name: alert.labels[name] for name in names if name in alert.labels}
        place = (f"{route.key}:{id(route)}", tuple(sorted(labels.items())))
        group = self.groups.get(place)
        if group is None:
            group = self.groups[place] = Group(route, labels, now + route.group_wait)
        group.alerts[alert.fingerprint] = alert
        if not group.flushed and alert.starts + route.group_wait < now:
            group.due = now

    def pending(self) -> Iterator[tuple[Alert, list[str]]]:
        """Alerts that are not over, with their receivers."""
        with self.lock:
            now = self.now()
            for key in sorted(self.alerts):
                alert = self.alerts[key]
                if not alert.resolved(now):
                    yield alert, [route.receiver for route in self.config.route.match(alert.labels)]

    def status(self, labels: Mapping[str, str]) -> Status:
        """Whether alerts with these labels are muted now, and by what."""
        now = self.now()
        silenced = tuple(
            silence.id for silence in self.silences.values() if silence.state(now) == "active" and matches(silence.matchers, labels)
        )
        return Status(silenced, self._inhibited(labels, now))

    def _inhibited(self, labels: Mapping[str, str], now: float) -> tuple[str, ...]:
        for rule in self.config.inhibitions:
            if not matches(rule.target, labels):
                continue
            two_sided = matches(rule.source, labels)
            for alert in self.alerts.values():
                if alert.resolved(now) or not matches(rule.source, alert.labels):
                    continue
                if two_sided and matches(rule.target, alert.labels):
                    continue
                if all(alert.labels.get(name, "") == labels.get(name, "") for name in rule.equal):
                    return (alert.fingerprint,)
        return ()

    # --- silences ---

    def set_silence(self, silence: Silence) -> str:
        """Make a silence, or change the one of that id; where it cannot be changed it ends, and another takes its place. Its id.

        Raises
        ------
        NoSilence
            There is none of the id.
        """
        with self.lock:
            now = self.now()
            known = self.silences.get(silence.id)
            if silence.id and known is None:
                raise NoSilence(silence.id)
            if known is not None and _can_change(known, silence, now):
                self.silences[silence.id] = replace(silence, updated=now)
                return silence.id
            if known is not None and known.state(now) != "expired":
                self.expire_silence(known.id)
            new = replace(silence, id=str(uuid.uuid4()), starts=max(silence.starts, now), updated=now)
            self.silences[new.id] = new
            return new.id

    def expire_silence(self, id: str) -> None:
        """End a silence now; NoSilence where there is none of the id."""
        with self.lock:
            now = self.now()
            known = self.silences.get(id)
            if known is None:
                raise NoSilence(id)
            if known.state(now) == "active":
                self.silences[id] = replace(known, ends=now, updated=now)
            elif known.state(now) == "pending":
                self.silences[id] = replace(known, starts=now, ends=now, updated=now)

    # --- groups and messages ---

    def tick(self) -> list[Notification]:
        """Look at the groups that are due, and send what is to be sent; call it often."""
        with self.lock:
            now = self.now()
            made: list[Notification] = []
            for place, group in list(self.groups.items()):
                if now >= group.due:
                    made += self._flush(group, now)
                    group.flushed = True
                    group.due = now + group.route.group_interval
                    if not group.alerts:
                        del self.groups[place]
            self.notifications.extend(made)
            grouped = {key for group in self.groups.values() for key in group.alerts}
            for key in [key for key, alert in self.alerts.items() if alert.resolved(now) and key not in grouped]:
                del self.alerts[key]
            for id in [id for id, silence in self.silences.items() if silence.ends + _SILENCE_RETENTION < now]:
                del self.silences[id]
            return made

    def _flush(self, group: Group, now: float) -> list[Notification]:
        known = list(group.alerts.values())
        audible = [alert for alert in known if self.status(alert.labels).state == "active"]
        firing = [alert for alert in audible if not alert.resolved(now)]
        resolved = [alert for alert in audible if alert.resolved(now)]
        receiver = next(item for item in self.config.receivers if item.name == group.route.receiver)
        made = []
        well = True
        if audible:
            for number, (integration, sends_resolved) in enumerate(receiver.integrations):
                notification = self._send(group, number, receiver, integration, sends_resolved, firing, resolved, now)
                if notification is not None:
                    made.append(notification)
                    well = well and not notification.error
        if well:
            for alert in known:
                if alert.resolved(now) and group.alerts.get(alert.fingerprint) is alert:
                    del group.alerts[alert.fingerprint]
        return made

    def _send(
        self,
        group: Group,
        number: int,
        receiver: Receiver,
        integration: str,
        sends_resolved: bool,
        firing: list[Alert],
        resolved: list[Alert],
        now: float,
    ) -> Notification | None:
        current = frozenset(alert.fingerprint for alert in firing), frozenset(alert.fingerprint for alert in resolved)
        if not _is_news(group.sent.get(number), current, sends_resolved, group.route.repeat_interval, now):
            return None
        if not sends_resolved and not firing:  # nobody is told, but the log forgets the alerts
            group.sent[number] = (now, *current)
            return None
        alerts = [*firing, *(resolved if sends_resolved else [])]
        error = self.deliver(receiver, integration, alerts)
        self.counts["alertmanager_notifications_total", integration] += 1
        self.counts["alertmanager_notification_requests_total", integration] += 1
        if error:
            self.counts["alertmanager_notifications_failed_total", integration, error] += 1
            self.counts["alertmanager_notification_requests_failed_total", integration] += 1
        else:
            group.sent[number] = (now, *current)
        return Notification(
            now,
            receiver.name,
            integration,
            group.labels,
            tuple(alert.labels for alert in firing),
            tuple(alert.labels for alert in resolved) if sends_resolved else (),
            error,
        )

    # --- metrics ---

    def metrics(self) -> dict[Labels, float]:
        """Its own metrics, for whoever plays its exporter."""
        from opslib.lab.alertmanager.config import INTEGRATIONS
        from opslib.lab.alertmanager.metrics import REASONS, series

        with self.lock:
            now = self.now()
            values: dict[Labels, float] = {}
            for integration in INTEGRATIONS:
                for name in (
                    "alertmanager_notifications_total",
                    "alertmanager_notification_requests_total",
                    "alertmanager_notification_requests_failed_total",
                ):
                    values[series(name, integration=integration)] = self.counts[name, integration]
                for reason in REASONS:
                    name = "alertmanager_notifications_failed_total"
                    values[series(name, integration=integration, reason=reason)] = self.counts[name, integration, reason]
            states = Counter(self.status(alert.labels).state for alert in self.alerts.values() if not alert.resolved(now))
            for state in ("active", "suppressed", "unprocessed"):
                values[series("alertmanager_alerts", state=state)] = states[state]
            silences = Counter(silence.state(now) for silence in self.silences.values())
            for state in ("active", "pending", "expired"):
                values[series("alertmanager_silences", state=state)] = silences[state]
            for status in ("firing", "resolved"):
                values[series("alertmanager_alerts_received_total", status=status, version="v2")] = self.counts["received", status]
            values[series("alertmanager_alerts_invalid_total", version="v2")] = self.counts["invalid",]
            values[series("alertmanager_dispatcher_aggregation_groups")] = len(self.groups)
            values[series("alertmanager_receivers")] = len(self.config.receivers)
            values[series("alertmanager_integrations")] = sum(len(receiver.integrations) for receiver in self.config.receivers)
            values[series("alertmanager_config_last_reload_successful")] = 1
            values[series("alertmanager_config_last_reload_success_timestamp_seconds")] = self.started
            values[series("alertmanager_build_info", version="0.34.2")] = 1
            return values


def _is_news(
    last: tuple[float, frozenset[str], frozenset[str]] | None,
    current: tuple[frozenset[str], frozenset[str]],
    sends_resolved: bool,
    repeat: float,
    now: float,
) -> bool:
    """Whether a group differs from what was said of it last, or that is long ago (notify, DedupStage.needsUpdate)."""
    firing, resolved = current
    if last is None:
        return bool(firing)
    when, told_firing, told_resolved = last
    if not firing <= told_firing:
        return True
    if not firing:
        return bool(told_firing)
    if sends_resolved and not resolved <= told_resolved:
        return True
    return when < now - repeat


def _can_change(known: Silence, new: Silence, now: float) -> bool:
    if sorted(map(str, known.matchers)) != sorted(map(str, new.matchers)):
        return False
    state = known.state(now)
    if state == "active":
        return int(known.starts) == int(new.starts) and new.ends >= now
    return state == "pending" and new.starts >= now


def fingerprint(labels: Mapping[str, str]) -> str:
    """FNV-1a over sorted names and values, each ended by 0xff."""
    value = 0xCBF29CE484222325
    for name in sorted(labels):
        for byte in b"".join((name.encode(), b"\xff", labels[name].encode(), b"\xff")):
            value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def describe(alert: Alert, status: Status, receivers: Sequence[str]) -> dict[str, Any]:
    """An alert as API v2 shows it."""
    from opslib.lab.alertmanager.metrics import iso

    result: dict[str, Any] = {
        "annotations": dict(alert.annotations),
        "endsAt": iso(alert.ends),
        "fingerprint": alert.fingerprint,
        "receivers": [{"name": name} for name in receivers],
        "startsAt": iso(alert.starts),
        "status": {
            "inhibitedBy": list(status.inhibited_by),
            "mutedBy": [],
            "silencedBy": list(status.silenced_by),
            "state": status.state,
        },
        "updatedAt": iso(alert.updated),
        "labels": dict(sorted(alert.labels.items())),
    }
    if alert.generator:
        result["generatorURL"] = alert.generator
    return result
