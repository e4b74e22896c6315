"""When a file system is full, from what was in use until now, and how sure that is.

The slope (`opslib.diagnosis.slopes`) is one that single outliers do not move, with an interval.

Three things that a straight line does not describe are told apart first: a sawtooth (files that are rotated or cleaned up, whose peaks
count), a step (something was put there at once, and does not go on), and a bend (what grows since an hour has no week's slope).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from opslib.diagnosis.slopes import theil_sen

if TYPE_CHECKING:
    import numpy

    Floats = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

Kind = Literal["steady", "sawtooth", "step", "flat", "shrinking", "short"]

FEWEST = 8
"""Points that a slope needs."""

FULL = 0.995
"""In use from here on, hardly anything can be written any more."""

MOST = 400
"""Points whose pairs are compared; of more, every n-th is taken."""

_ALIKE = 0.99  # that neighbours in time may count as, at most
_STEP_SHARE = 0.35  # of all that was gained, that one step must be
_LEAST = 0.004  # of the capacity, that a drop, a step or a growth must be to count as one


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What becomes of a file system.

    Parameters
    ----------
    kind
        "steady": it grows; "sawtooth": it grows and is cleaned up in turn; "step": something was put there at once; "flat", "shrinking";
        "short": too few points to say.
    slope, low, high
        Growth a second now, or of a sawtooth's peaks, and its interval of 95 per cent.
    since
        From when on it grows so (Unix seconds): the first point of the part that the slope is of.
    used
        In use at the end, as the fitted line has it; of a sawtooth the height of its last peak.
    seconds, earliest, latest
        From the last point until it is full; infinite where it never is.
    steps
        Size of the step, or of the drops (negative).
    full_since
        Since when it is full (Unix seconds); NaN where it is not. All else is then about the time before.
    """

    kind: Kind
    slope: float = 0.0
    low: float = 0.0
    high: float = 0.0
    since: float = math.nan
    used: float = math.nan
    seconds: float = math.inf
    earliest: float = math.inf
    latest: float = math.inf
    steps: tuple[float, ...] = ()
    full_since: float = math.nan

    @property
    def is_sure(self) -> bool:
        """Whether it grows with all that is known: the whole interval is above nothing."""
        return self.low > 0


def forecast(times: Sequence[float], used: Sequence[float], capacity: float) -> Forecast:
    """What becomes of it, from one series.

    Parameters
    ----------
    times
        Unix seconds, in order.
    used
        What was in use at each; NaN where that is not known. "Used" is what is not available: blocks that are kept for root count.
    capacity
        What there is now.
    """
    import numpy as np

    x, y = np.asarray(times, float), np.asarray(used, float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < FEWEST or capacity <= 0:
        return Forecast(kind="short")
    if len(x) > MOST:
        stride = math.ceil(len(x) / MOST)
        x, y = x[::-1][::stride][::-1], y[::-1][::stride][::-1]  # the last point stays
    if y[-1] >= FULL * capacity:
        return _full(x, y, capacity)
    now = float(y[-1])
    left = max(capacity - now, 0.0)
    drops = _jumps(-y, capacity)
    if len(drops) >= 2:
        return _sawtooth(x, y, drops, capacity)
    jumps = sorted([*drops, *_jumps(y, capacity)])
    begin = (jumps[-1] + 1) if jumps else 0
    sizes = tuple(float(y[place + 1] - y[place]) for place in jumps)
    if len(x) - begin < FEWEST:
        full = 0.0 if left <= 0 else math.inf
        return Forecast(kind="step" if sizes[-1] > 0 else "short", since=float(x[begin]), used=now, steps=sizes, seconds=full)
    begin = _bend(x, y, begin, capacity)
    slope, low, high = theil_sen([(x[begin:], y[begin:])], alike_at_most=_ALIKE)
    gained = slope * (x[-1] - x[begin])
    if low <= 0 <= high or abs(gained) < _LEAST * capacity / 4:
        kind: Kind = "step" if sizes and sizes[-1] > 0 else "flat"
        return _until_full(kind, 0.0, min(low, 0.0), max(high, 0.0), float(x[begin]), now, left, sizes)
    kind = "steady" if slope > 0 else "shrinking"
    return _until_full(kind, slope, low, high, float(x[begin]), now, left, sizes)


def _full(x: Floats, y: Floats, capacity: float) -> Forecast:
    """How it got full: what came before the part at the end in which nothing more could be written."""
    import numpy as np

    room = np.flatnonzero(y < FULL * capacity)
    begin = int(room[-1]) + 1 if len(room) else 0
    before = forecast(x[:begin].tolist(), y[:begin].tolist(), capacity)
    return dataclasses.replace(before, used=float(y[-1]), seconds=0.0, earliest=0.0, latest=0.0, full_since=float(x[begin]))


def best(long: Forecast, short: Forecast, capacity: float, short_span: float) -> Forecast:
    """Of a forecast from days and one from hours the one to go by.

    What fills now has no week behind it: the hours count where they show a growth of their own that is at least three times as steep
    and not just the day's ups and downs (a hundredth of the capacity in the time that was looked at). A sawtooth stays one unless its peaks
    have been passed.
    """
    if math.isfinite(short.full_since) and short.kind == "steady":
        return short  # the hours know better when, and how fast at the end
    if short.kind in ("short", "sawtooth") or math.isfinite(long.full_since):
        return long if long.kind != "short" else short
    if long.kind == "short":
        return short
    matters = short.kind == "steady" and short.slope * short_span >= 0.01 * capacity
    if long.kind == "sawtooth":
        return short if matters and short.used > long.used + 0.02 * capacity else long
    if matters and short.slope > 3 * max(long.slope, 0.0):
        return short
    if long.kind == "steady" and short.kind in ("flat", "shrinking") and long.slope * short_span >= 0.01 * capacity:
        return short  # it did grow, and has stopped
    return long


def _until_full(
    kind: Kind, slope: float, low: float, high: float, since: float, used: float, left: float, steps: tuple[float, ...] = ()
) -> Forecast:
    def after(rate: float) -> float:
        return 0.0 if left <= 0 else left / rate if rate > 0 else math.inf

    return Forecast(
        kind=kind, slope=slope, low=low, high=high, since=since, used=used,
        seconds=after(slope), earliest=after(high), latest=after(low), steps=steps,
    )  # fmt: skip


def _noise(y: Floats) -> float:
    """How far neighbours differ without anything having happened."""
    import numpy as np

    changes = np.diff(y)
    return 1.4826 * float(np.median(np.abs(changes - np.median(changes))))


def _jumps(y: Floats, capacity: float) -> list[int]:
    """Places after which it rises at once: much more than noise, and a good part of all that it rose and fell."""
    import numpy as np

    changes = np.diff(y)
    least = max(8 * _noise(y) + float(np.median(changes)), _STEP_SHARE * float(y.max() - y.min()), _LEAST * capacity)
    places = [int(place) for place in np.flatnonzero(changes > least)]
    return places if len(places) <= len(y) / 4 else []


def _sawtooth(x: Floats, y: Floats, drops: list[int], capacity: float) -> Forecast:
    """The peaks before the drops count, and the last tooth where it is higher than they."""
    import numpy as np

    peaks = np.array([*drops, len(x) - 1] if y[-1] > y[drops].min() else drops)
    top = float(y[peaks].max())
    left = max(capacity - top, 0.0)
    sizes = tuple(float(y[place + 1] - y[place]) for place in drops)
    if len(peaks) < 4:
        return Forecast(kind="sawtooth", since=float(x[0]), used=top, steps=sizes, seconds=0.0 if left <= 0 else math.inf)
    slope, low, high = theil_sen([(x[peaks], y[peaks])], alike_at_most=_ALIKE)
    if low <= 0 <= high or abs(slope * (x[-1] - x[0])) < _LEAST * capacity:
        return _until_full("sawtooth", 0.0, min(low, 0.0), max(high, 0.0), float(x[0]), top, left, sizes)
    return _until_full("sawtooth", slope, low, high, float(x[0]), top, left, sizes)


def _bend(x: Floats, y: Floats, begin: int, capacity: float) -> int:
    """Where the part begins that the end belongs to: lines through two parts that are far better than one through both."""
    import numpy as np

    while True:
        u, v = x[begin:] - x[begin], y[begin:]
        count = len(u)
        if count < 2 * FEWEST:
            return begin
        whole, parts = _squares(u, v), np.full(count, np.inf)
        for place in range(FEWEST, count - FEWEST + 1):
            parts[place] = _squares(u[:place], v[:place]) + _squares(u[place:], v[place:])
        place = int(parts.argmin())
        # worth two more parameters, and far enough away from the line to matter to anybody
        if parts[place] > 0.25 * whole or math.sqrt(whole / count) < _LEAST * capacity / 4:
            return begin
        begin += place


def _squares(u: Floats, v: Floats) -> float:
    """Sum of squares around the best line."""
    import numpy as np

    du, dv = u - u.mean(), v - v.mean()
    spread = float(np.dot(du, du))
    return max(0.0, float(np.dot(dv, dv)) - (float(np.dot(du, dv)) ** 2 / spread if spread > 0 else 0.0))
