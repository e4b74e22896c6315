"""How the time of what breaks goes against the wall's: as fast as that until a moment, at another speed from then on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np

from opslib.lab.world.noise import Floats


@dataclass(frozen=True, slots=True)
class Pace:
    """The speed of what breaks. Nothing else follows it: requests a second, scrapes, tokens and leases are the wall's.

    Parameters
    ----------
    since
        Until then, in Unix seconds, its time is the wall's.
    speed
        Its seconds in one second of the wall's from then on.

    Raises
    ------
    ValueError
        The speed is not above 0.

    Examples
    --------
    >>> pace = Pace(since=1000.0, speed=10)
    >>> pace.passed(900.0, 1030.0)  # 100 seconds before, 30 seconds at ten times the speed after
    400.0
    >>> pace.after(900.0, 400.0)
    1030.0
    """

    since: float = 0.0
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.speed < float("inf"):
            raise ValueError(f"time does not go at {self.speed}")

    def after(self, start: float, seconds: float) -> float:
        """When, in Unix seconds, so many seconds of its own have passed since `start`."""
        before = min(max(self.since - start, 0.0), seconds)
        return start + before + (seconds - before) / self.speed

    @overload
    def passed(self, start: float, times: float) -> float: ...
    @overload
    def passed(self, start: float, times: Floats) -> Floats: ...
    def passed(self, start: float, times: float | Floats) -> float | Floats:
        """The seconds of its own from `start` to each of `times`, which are Unix seconds."""
        passed = own(times, self.since, self.speed) - own(start, self.since, self.speed)
        return passed if isinstance(times, np.ndarray) else float(passed)


WALL = Pace()
"""The wall's own."""


def own(times: float | Floats, since: float | Floats, speed: float | Floats) -> Floats:
    """What a clock of that pace shows at each time of the wall's."""
    return np.asarray(np.minimum(times, since) + speed * np.maximum(times - since, 0.0))
