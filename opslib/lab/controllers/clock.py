"""The time that controllers go by: the wall's, or that of a world which runs at another speed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What a controller asks of a clock."""

    def now(self) -> datetime:
        """The time, aware, in UTC."""
        ...

    @property
    def speed(self) -> float:
        """Seconds of this clock in one second of the wall's; above 0. It may change at any time."""
        ...


class WallClock:
    """The wall's clock."""

    speed = 1.0

    def now(self) -> datetime:
        """The time, aware, in UTC."""
        return datetime.now(UTC)


def stamp(moment: datetime) -> str:
    """A time as the API writes it: "2026-03-01T12:00:00Z"."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(moment: datetime) -> str:
    """A time with microseconds, as leases and the new kind of events have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: str) -> datetime:
    """The time that `stamp` or `micro_stamp` wrote."""
    return datetime.fromisoformat(text)
