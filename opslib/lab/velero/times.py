"""Times and durations as Velero's objects have them, and when a schedule is due."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_PIECE = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|µs|ns|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def stamp(moment: datetime) -> str:
    """A time as the API writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse(text: str) -> datetime:
    """The time that `stamp` wrote."""
    return datetime.fromisoformat(text)


def duration(text: str) -> timedelta:
    """A Go duration: "720h0m0s", "90m".

    Raises
    ------
    ValueError
        It is none.
    """
    pieces = _PIECE.findall(text)
    if not pieces or "".join(number + unit for number, unit in pieces) != text:
        raise ValueError(f"time: invalid duration {text!r}")
    return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in pieces))


def next_due(schedule: str, after: datetime) -> datetime:
    """When a cron expression is due next: five fields, "@daily" and its kind, "@every 6h", with "CRON_TZ=Asia/Tokyo " before it for a zone.

    Raises
    ------
    ValueError
        The expression cannot be read; the reason.
    """
    from croniter import croniter

    zone: ZoneInfo | None = None
    expression = schedule.strip()
    if found := re.match(r"(?:CRON_TZ|TZ)=(\S+)\s+", expression):
        try:
            zone = ZoneInfo(found[1])
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"provided bad location {found[1]}") from None
        expression = expression[found.end() :]
    if expression.startswith("@every "):
        return after + max(duration(expression.removeprefix("@every ").strip()), timedelta(seconds=1))
    if not expression.startswith("@") and len(expression.split()) != 5:
        raise ValueError(f"expected exactly 5 fields, found {len(expression.split())}: {expression!r}")
    try:
        due: datetime = croniter(expression, after.astimezone(zone or UTC)).get_next(datetime)
    except (KeyError, ValueError) as error:  # croniter's own errors are ValueErrors
        raise ValueError(str(error)) from None
    return due.astimezone(UTC)
