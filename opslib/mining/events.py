"""A stream of log lines, of any size: what each event says, and the kinds of the errors among them."""

from __future__ import annotations

import codecs
import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from opslib.mining.masks import clean
from opslib.mining.miner import Miner, Template
from opslib.mining.traces import MOST_CHARACTERS, essence, fold

BATCH = 5_000
LATER = 300
"""Seconds that a line may be ahead of now; beyond, its clock is wrong."""

MOST_BYTES = 64_000
"""Bytes of a line that are read."""

# ECS, logback, zap, zerolog, pino, bunyan, structlog, serilog, Microsoft.Extensions.Logging, Docker, OpenTelemetry
_MESSAGE = (
    *("message", "msg", "log", "@message", "event.original", "body", "text", "event", "Message"),
    *("@m", "RenderedMessage", "@mt", "MessageTemplate"),
)
_LEVEL = ("level", "log.level", "severity", "levelname", "lvl", "@level", "severityText", "@l", "Level", "LogLevel")
_TIME = ("@timestamp", "timestamp", "time", "ts", "@t", "Timestamp", "asctime")
_SERVICE = ("service.name", "service", "app", "kubernetes.labels.app", "kubernetes.labels.app_kubernetes_io/name", "logger")
_VERSION = ("service.version", "version", "kubernetes.labels.version", "kubernetes.labels.app_kubernetes_io/version")
_TYPE = ("error.type", "exception.type", "err.type", "exception_class")
_ERROR = ("error", "err", "error.message", "err.message", "exception.message")
_TRACE = (
    *("error.stack_trace", "exception.stacktrace", "stack_trace", "stack", "err.stack", "exc_info", "stacktrace", "exception", "@x"),
    "Exception",
)
_NUMBERED = {"10": "trace", "20": "debug", "30": "info", "40": "warn", "50": "error", "60": "fatal"}
"""Levels of pino and bunyan (https://getpino.io/#/docs/api?id=loggerlevels-object)."""
_ENCODINGS = ("euc_jp", "cp932")
"""What Japanese text may be that is no UTF-8; Shift_JIS is hardly ever valid EUC-JP, which is therefore the first."""
_JAPANESE = re.compile("[^\x00-\x7f]{2}")
"""... of which one character hardly ever stands alone, as an accented letter of Latin-1 does."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a log. What is empty, or None, it does not say."""

    text: str
    level: str = ""
    service: str = ""
    version: str = ""
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Mined:
    """Kinds of events; `events` were read, `binary` lines are no text, `future` have a time that is not yet, `dropped` had no room.

    Labels of the templates are `service version`, as far as known.
    """

    templates: list[Template]
    events: int
    binary: int
    future: int
    dropped: int


def mine(lines: Iterable[str | bytes], *, now: datetime, levels: frozenset[str] = frozenset(), most_shapes: int = 20_000) -> Mined:
    """The kinds of events in a log, read as a stream: memory does not grow with it.

    `levels`: only events of these levels (small letters), and those that do not say theirs; empty: all.
    """
    miner = Miner(most_shapes=most_shapes)
    events = future = 0
    counted = {"binary": 0}
    stream = read(_texts(lines, counted))
    while batch := list(islice(stream, BATCH)):
        events += len(batch)
        future += sum(1 for event in batch if event.time is not None and (event.time - now).total_seconds() > LATER)
        wanted = [event for event in batch if not levels or not event.level or event.level in levels]
        miner.add([event.text for event in wanted], [f"{event.service} {event.version}".strip() for event in wanted])
    return Mined(miner.templates(), events, counted["binary"], future, miner.dropped)


def read(lines: Iterable[str]) -> Iterator[Event]:
    """Events of plain lines, of lines of JSON, and of a mixture; a stack trace is reduced to what it is about."""
    for text in fold(lines):
        yield parse(text)


def parse(text: str) -> Event:
    """An event of its text, which may be a JSON object."""
    if text.startswith("{") and text.endswith("}"):
        import msgspec

        try:
            fields = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            return _of_fields(fields, text)
    return Event(essence(text).text if "\n" in text else text[:MOST_CHARACTERS])


def _of_fields(fields: Mapping[str, Any], text: str) -> Event:
    message, kind, error, trace = (_first(fields, names) for names in (_MESSAGE, _TYPE, _ERROR, _TRACE))
    said = essence(message or text).text
    if error and error not in said and error not in trace:
        said = f"{said}: {essence(error).text}"
    if trace:
        about = essence(trace)
        first = "" if about.frame.startswith(about.first) else about.first  # Go's begins with a frame
        said = " | ".join(dict.fromkeys(part for part in (said, about.root or first, about.frame) if part))
    elif kind and kind not in said:
        said = f"{kind}: {said}"
    return Event(said, _level(fields), _first(fields, _SERVICE), _first(fields, _VERSION), _moment(_first(fields, _TIME)))


def _level(fields: Mapping[str, Any]) -> str:
    level = _first(fields, _LEVEL).lower()
    if not level and "@t" in fields:  # serilog leaves out this one: https://clef-json.org
        return "information"
    return _NUMBERED.get(level, level)


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> str:
    """The first of these fields that says something; they may be nested, or written with dots in their name."""
    for name in names:
        value: Any = fields.get(name)
        if value is None and "." in name:
            value = fields
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
            return str(value)
    return ""


def _moment(text: str) -> datetime | None:
    """A time in ISO 8601, or in seconds, milliseconds, micro- or nanoseconds since 1970; None where it is neither."""
    if not text:
        return None
    try:
        if text[:1].isdigit() and text.replace(".", "", 1).isdigit():
            number = float(text)
            while number > 1e11 and not math.isinf(number):
                number /= 1000
            return datetime.fromtimestamp(number, UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _texts(lines: Iterable[str | bytes], counted: dict[str, int]) -> Iterator[str]:
    """Lines as text, those that are none counted and left out."""
    for line in lines:
        if isinstance(line, bytes):
            line = _decoded(line[:MOST_BYTES])
        head = line[:400]
        strange = sum(1 for char in head if char == "\ufffd" or (char < " " and char not in "\t\r\n\x1b")) if not head.isprintable() else 0
        if strange > len(head) * 0.1:
            counted["binary"] += 1
            continue
        yield clean(line).rstrip("\n") if strange or "\x1b" in head else line


def _decoded(line: bytes) -> str:
    try:
        return codecs.utf_8_decode(line, "strict", False)[0].removeprefix("\ufeff")  # a character that was cut off is left out
    except UnicodeDecodeError:
        pass
    for encoding in _ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError):
            if _JAPANESE.search(text := line.decode(encoding)):
                return text
    return line.decode("utf-8", "replace")
