"""A clock that runs at any speed and may start in the past."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Clock:
    """The time of a world.

    Parameters
    ----------
    start
        The time that it shows at first, aware.
    speed
        Its seconds in one second of the wall's.
    ticks
        The seconds that it goes by.

    Raises
    ------
    ValueError
        The speed is not above 0, or `start` has no zone.

    Examples
    --------
    >>> now = iter([0.0, 60.0])
    >>> clock = Clock(datetime(2026, 3, 1, tzinfo=UTC), speed=60, ticks=lambda: next(now))
    >>> clock.now()
    datetime.datetime(2026, 3, 1, 1, 0, tzinfo=datetime.timezone.utc)
    """

    def __init__(self, start: datetime, speed: float = 1.0, *, ticks: Callable[[], float] = time.monotonic) -> None:
        if start.tzinfo is None:
            raise ValueError("the start has no zone")
        self._ticks = ticks
        self._lock = threading.Lock()
        self._start, self._since, self._speed = start.astimezone(UTC), ticks(), _checked(speed)

    @property
    def speed(self) -> float:
        """Its seconds in one second of the wall's. Setting it makes no jump."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        with self._lock:
            ticks = self._ticks()
            self._start += timedelta(seconds=(ticks - self._since) * self._speed)
            self._since, self._speed = ticks, _checked(speed)

    def now(self) -> datetime:
        """The time, aware, in UTC."""
        with self._lock:
            return self._start + timedelta(seconds=(self._ticks() - self._since) * self._speed)

    def time(self) -> float:
        """The same in Unix seconds."""
        return self.now().timestamp()


def _checked(speed: float) -> float:
    if not speed > 0:
        raise ValueError(f"a clock does not run at {speed}")
    return float(speed)
