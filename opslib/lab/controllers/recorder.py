"""Events as the real controllers record them: the same one again is counted, too many alike are told as one, and a flood is cut.

The rules are those of client-go's event correlator (tools/record/events_cache.go), the scheduler's those of its newer recorder
(tools/events): a series, and a note.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.controllers.clock import Clock, micro_stamp, stamp

log = logging.getLogger(__name__)

Kind = Literal["Normal", "Warning"]

_ALIKE, _ALIKE_SECONDS = 10, 600  # so many different texts of one reason in that time, then they are told together
_BURST, _REFILL_SECONDS = 25, 300  # so many events of one source about one object at once, then one in that time
_REMEMBERED = 4096
_MESSAGE = 1024


@dataclass(slots=True)
class _Flood:
    left: float = _BURST
    since: datetime | None = None


@dataclass(slots=True)
class _Alike:
    texts: set[str] = field(default_factory=set)
    last: datetime | None = None


@dataclass(slots=True)
class _Seen:
    path: str
    count: int
    first: datetime


class Recorder:
    """Writes events from a thread of its own, in order; the controllers do not wait for it."""

    def __init__(self, api: Api, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._queue: queue.SimpleQueue[tuple[Object, str, str, Kind, str, str, datetime, Object | None] | None] = queue.SimpleQueue()
        self._seen: OrderedDict[tuple[str, ...], _Seen] = OrderedDict()
        self._alike: OrderedDict[tuple[str, ...], _Alike] = OrderedDict()
        self._floods: OrderedDict[tuple[str, str], _Flood] = OrderedDict()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self, seconds: float = 2) -> None:
        """Write what is there, but no longer than `seconds`, and stop."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)

    def event(self, source: str, about: Object, kind: Kind, reason: str, message: str) -> None:
        """An event about an object (or a reference to one), as a controller named `source` records it."""
        self._queue.put((about, source, "", kind, reason, message, self._clock.now(), None))

    def scheduling(self, about: Object, kind: Kind, reason: str, action: str, note: str, related: Object | None = None) -> None:
        """An event of the scheduler's kind."""
        self._queue.put((about, "default-scheduler", action, kind, reason, note, self._clock.now(), related))

    # --- the thread ---

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._write(*item)
            except ApiError as error:  # the namespace goes away, or the server is; an event is not worth more
                log.debug("no event: %s", error)
            except Exception:
                log.exception("no event")

    def _write(
        self, about: Object, source: str, action: str, kind: Kind, reason: str, message: str, now: datetime, related: Object | None
    ) -> None:
        reference = reference_to(about)
        if action:
            self._write_series(reference, source, action, kind, reason, message, now, related)
            return
        identity = (source, _identity(reference), kind, reason)
        text, together = self._told_together(identity, message[:_MESSAGE], now)
        if not self._passes((source, identity[1]), now):
            return
        key = identity if together else (*identity, text)
        seen = self._seen.get(key)
        if seen is not None:
            body = {"count": seen.count + 1, "lastTimestamp": stamp(now), "message": text}
            try:
                self._api.patch(seen.path, body, "strategic")
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                seen.count += 1
                self._seen.move_to_end(key)
                return
        event = self._event(reference, kind, reason, text, now) | {
            "count": 1,
            "firstTimestamp": stamp(now),
            "lastTimestamp": stamp(now),
            "source": {"component": source},
            "reportingComponent": source,
            "reportingInstance": "",
        }
        made = self._api.create(event)
        _remember(self._seen, key, _Seen(_path(made), 1, now))

    def _write_series(
        self, reference: Object, source: str, action: str, kind: Kind, reason: str, note: str, now: datetime, related: Object | None
    ) -> None:
        key = (source, _identity(reference), kind, reason, action, note)
        seen = self._seen.get(key)
        if seen is not None and now - seen.first < timedelta(minutes=6):
            series = {"count": seen.count + 1, "lastObservedTime": micro_stamp(now)}
            try:
                self._api.patch(seen.path, {"series": series}, "strategic")
            except ApiError as error:
                if error.status != 404:
                    raise
            else:
                seen.count += 1
                seen.first = now  # the time of the last one: a series ends when it pauses
                return
        event = self._event(reference, kind, reason, note[:_MESSAGE], now) | {
            "eventTime": micro_stamp(now),
            "firstTimestamp": None,
            "lastTimestamp": None,
            "source": {},
            "action": action,
            "reportingComponent": source,
            "reportingInstance": f"{source}-lab",
        }
        if related is not None:
            event["related"] = reference_to(related)
        made = self._api.create(event)
        _remember(self._seen, key, _Seen(_path(made), 1, now))

    def _event(self, reference: Object, kind: Kind, reason: str, message: str, now: datetime) -> Object:
        nanoseconds = int(now.timestamp() * 1_000_000) * 1000 + len(self._seen) % 1000
        namespace = reference.get("namespace") or "default"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{reference['name']}.{nanoseconds:x}", "namespace": namespace},
            "involvedObject": reference,
            "reason": reason,
            "message": message,
            "type": kind,
        }

    def _told_together(self, identity: tuple[str, ...], message: str, now: datetime) -> tuple[str, bool]:
        alike = self._alike.get(identity)
        if alike is None or alike.last is None or now - alike.last > timedelta(seconds=_ALIKE_SECONDS):
            alike = _Alike()
            _remember(self._alike, identity, alike)
        alike.texts.add(message)
        alike.last = now
        if len(alike.texts) < _ALIKE:
            return message, False
        alike.texts.pop()
        return f"(combined from similar events): {message}"[:_MESSAGE], True

    def _passes(self, key: tuple[str, str], now: datetime) -> bool:
        flood = self._floods.get(key)
        if flood is None:
            flood = _Flood()
            _remember(self._floods, key, flood)
        if flood.since is not None:
            flood.left = min(_BURST, flood.left + (now - flood.since).total_seconds() / _REFILL_SECONDS)
        flood.since = now
        if flood.left < 1:
            return False
        flood.left -= 1
        return True


def reference_to(obj: Object) -> Object:
    """How an event names its object; a reference is given back as it is."""
    if "metadata" not in obj:
        return obj
    metadata = obj["metadata"]
    names = {"namespace": metadata.get("namespace"), "name": metadata["name"], "uid": metadata["uid"]}
    reference = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], **names, "resourceVersion": metadata.get("resourceVersion")}
    return {name: value for name, value in reference.items() if value}


def _identity(reference: Object) -> str:
    return json.dumps({key: value for key, value in reference.items() if key != "resourceVersion"}, sort_keys=True)


def _remember(table: OrderedDict, key: object, value: object) -> None:  # type: ignore[type-arg]
    table[key] = value
    if len(table) > _REMEMBERED:
        table.popitem(last=False)


def _path(event: Object) -> str:
    return f"/api/v1/namespaces/{event['metadata']['namespace']}/events/{event['metadata']['name']}"
