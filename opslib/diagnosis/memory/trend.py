"""Whether a container's memory grows, by itself, with its load, or as cache; and when it is at its limit.

The slope (`opslib.diagnosis.slopes`) is one that bursts and garbage collections do not move. It is of pairs of points between restarts
only: a restart begins a new curve, and a leak that is killed every hour is seen best in all of its curves together.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from opslib.diagnosis.slopes import NONE, Slope, theil_sen

if TYPE_CHECKING:
    import numpy

    Floats = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

Kind = Literal["leak", "load", "cache", "warming", "flat", "short"]

FEWEST = 6
"""Points that a curve needs between two restarts; shorter ones are left out."""

_ALIKE = 0.95  # that neighbours in time may count as, at most
_MOST = 150  # points of one curve whose pairs are compared
_START_SHARE = 0.15  # of a curve, and at most half an hour: what a program takes as it starts is no trend
_MATERIAL = 0.05  # of the level, or of the limit: growth of less over all that was seen is flat
_SHORTEST = 2700.0  # seconds that all curves together must last: a program that has just begun grows
_NARROW = 0.25  # of the slope, that the lower end of its interval must be
_ABOVE_NOISE = 4.5  # times what a point is usually away from the line
_LATER_SHARE = 0.25  # of the early slope: a curve whose later half is less steep than that has levelled off
_RSS_SHARE = 0.4  # of the growth, that must be in the resident set for it not to be cache
_LOAD_SHARE = 0.35  # of the growth, that must remain once the load is taken out for it not to be load


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """What becomes of a container's memory.

    Parameters
    ----------
    kind
        "leak": it grows by itself; "load": it grows with what is asked of it; "cache": pages of files, which the kernel takes back;
        "warming": it grew after the start, and has levelled off; "flat"; "short": too little is known.
    slope
        Bytes a second between restarts.
    level
        Bytes at the end, as the fitted line has them.
    begin
        When the curve began that the end belongs to (Unix seconds).
    curves
        How many curves there were between restarts, and how many of them rise.
    rss_share, load_share
        Of the growth: what is in the resident set; what remains once the load is taken out. None: not known.
    seconds, earliest, latest
        From the last point until the limit is reached; infinite where it never is, or there is none.
    confidence
        0 to 1, for `kind`.
    """

    kind: Kind
    slope: Slope = NONE
    level: float = math.nan
    begin: float = math.nan
    curves: int = 0
    rising: int = 0
    rss_share: float | None = None
    load_share: float | None = None
    seconds: float = math.inf
    earliest: float = math.inf
    latest: float = math.inf
    confidence: float = 0.0

    @property
    def grows(self) -> bool:
        """Whether it grows for whatever reason."""
        return self.kind in ("leak", "load", "cache")


def trend(
    times: Sequence[float] | Floats,
    working_set: Sequence[float] | Floats,
    *,
    limit: float | None = None,
    restarts: Sequence[float] = (),
    rss: Sequence[float] | Floats | None = None,
    load: Sequence[float] | Floats | None = None,
) -> Trend:
    """What becomes of it, from one container of one pod.

    Parameters
    ----------
    times
        Unix seconds, in order.
    working_set, rss, load
        At each of them: bytes, bytes, and anything that tells how much is asked of it (requests a second, cores). NaN: not known.
    limit
        Bytes; None where there is none.
    restarts
        When the container began anew. Drops to less than half from one point to the next count as well.
    """
    import numpy as np

    x, y = np.asarray(times, float), np.asarray(working_set, float)
    known = np.isfinite(x) & np.isfinite(y)
    side = {name: np.asarray(one, float)[known] for name, one in (("rss", rss), ("load", load)) if one is not None}
    x, y = x[known], y[known]
    parts = _curves(x, y, restarts)
    span = float(sum(x[part][-1] - x[part][0] for part in parts))
    if not parts or span < _SHORTEST:
        return Trend(kind="short")
    last = parts[-1]
    slope = pooled([(x[part], y[part]) for part in parts])
    rises = [pooled([(x[part], y[part])]) for part in parts]
    rising = sum(one.value > 0 and one.value >= slope.value / 4 for one in rises)
    # a curve that is too young to be one has the level that counts, all the same
    level = float(np.median(y[last] - slope.value * (x[last] - x[last][-1])) if last.stop == len(x) else np.median(y[-3:]))
    span = float(sum(x[part][-1] - x[part][0] for part in parts))
    made = Trend(kind="flat", slope=slope, level=level, begin=float(x[last][0]), curves=len(parts), rising=rising, confidence=0.5)
    gained = slope.value * span / len(parts)
    noise = float(np.median(np.concatenate([_spread(x[part], y[part], slope.value) for part in parts])))
    if slope.low <= slope.value * _NARROW or gained < max(_MATERIAL * min(max(level, 1.0), limit or math.inf), _ABOVE_NOISE * noise):
        return made
    if len(parts) == 1 and _levelled_off(x[last], y[last], slope):
        return _until(made, "warming", None, 0.6)
    rss_share = _share_of_rss(x, side["rss"], parts, slope) if "rss" in side else None
    load_share = _share_without_load(x, y, side["load"], parts) if "load" in side else None
    kind: Kind = "leak"
    if rss_share is not None and rss_share < _RSS_SHARE:
        kind = "cache"
    elif load_share is not None and load_share < _LOAD_SHARE:
        kind = "load"
    confidence = _confidence(kind, made, rss_share, load_share)
    return _until(dataclasses.replace(made, rss_share=rss_share, load_share=load_share), kind, limit, confidence)


def pooled(curves: Sequence[tuple[Floats, Floats]]) -> Slope:
    """The slope of curves together (`opslib.diagnosis.slopes.theil_sen`), of each at most `_MOST` points."""
    thinned = []
    for x, y in curves:
        stride = math.ceil(len(x) / _MOST)
        thinned.append((x[::-1][::stride][::-1], y[::-1][::stride][::-1]))
    return theil_sen(thinned, alike_at_most=_ALIKE)


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _spread(x: Floats, y: Floats, slope: float) -> Floats:
    """How far each point is from the line."""
    import numpy as np

    residuals = y - slope * x
    return np.abs(residuals - np.median(residuals))


def _curves(x: Floats, y: Floats, restarts: Sequence[float]) -> list[slice]:
    """The parts between restarts, each without what the program took as it started."""
    import numpy as np

    cuts = {int(np.searchsorted(x, moment)) for moment in restarts}
    cuts |= {int(place) + 1 for place in np.flatnonzero(y[1:] < 0.5 * y[:-1])}
    borders = [0, *sorted(cut for cut in cuts if 0 < cut < len(x)), len(x)]
    found = []
    for number, (begin, end) in enumerate(itertools.pairwise(borders)):
        if number or any(x[0] - 300 <= moment <= x[0] + 60 for moment in restarts):
            skipped = x[begin] + min(1800.0, _START_SHARE * (x[end - 1] - x[begin]))
            begin = int(np.searchsorted(x, skipped))
        if end - begin >= FEWEST and x[end - 1] > x[begin]:
            found.append(slice(begin, end))
    return found


def _levelled_off(x: Floats, y: Floats, slope: Slope) -> bool:
    """Whether the later third no longer grows as the whole did: a program that has reached its size."""
    begin = len(x) - max(FEWEST, len(x) // 3)
    if begin < FEWEST:
        return False
    later, earlier = pooled([(x[begin:], y[begin:])]), pooled([(x[:begin], y[:begin])])
    return later.value < _LATER_SHARE * max(earlier.value, slope.value) and earlier.low > 0


def _share_of_rss(x: Floats, rss: Floats, parts: list[slice], slope: Slope) -> float | None:
    """How much of the growth is in the resident set."""
    import numpy as np

    pairs = [(x[part][known], rss[part][known]) for part in parts if (known := np.isfinite(rss[part])).sum() >= FEWEST]
    return pooled(pairs).value / slope.value if pairs else None


def _share_without_load(x: Floats, y: Floats, load: Floats, parts: list[slice]) -> float | None:
    """How much of the growth remains once the load is taken out.

    Least squares of memory on time and load together, each curve with a level of its own: what the time explains alone, against what it
    explains without the load.
    """
    import numpy as np

    rows, memory, groups = [], [], 0
    for part in parts:
        known = np.isfinite(load[part])
        if known.sum() < FEWEST:
            continue
        u, v, w = x[part][known], y[part][known], load[part][known]
        rows.append(np.column_stack([u - u.mean(), w - w.mean()]))
        memory.append(v - v.mean())
        groups += 1
    if not groups:
        return None
    matrix, target = np.concatenate(rows), np.concatenate(memory)
    scale = matrix.std(axis=0)
    if scale[0] <= 0:
        return None
    if scale[1] <= 1e-9 or scale[1] < 0.02 * float(np.nanmean(np.abs(load))):
        return 1.0  # the load is as it was
    matrix = matrix / scale
    together = np.linalg.lstsq(matrix, target, rcond=None)[0]
    alone = float(np.dot(matrix[:, 0], target) / np.dot(matrix[:, 0], matrix[:, 0]))
    if alone <= 0:
        return None
    return float(together[0] / alone)


def _confidence(kind: Kind, made: Trend, rss_share: float | None, load_share: float | None) -> float:
    """How sure the kind is: what speaks for it adds, what was not seen does not."""
    narrow = made.slope.low / made.slope.value if made.slope.value > 0 else 0.0
    points = 0.4 + 0.15 * max(narrow, 0.0)
    if kind == "leak":
        points += 0.15 if made.curves > 1 and made.rising > 0.7 * made.curves else 0.0
        points += 0.15 if rss_share is not None and rss_share > 0.7 else 0.0
        points += 0.15 if load_share is not None and load_share > 0.7 else 0.0
    elif kind == "cache":
        points += 0.3 if rss_share is not None and rss_share < 0.2 else 0.15
    elif kind == "load":
        points += 0.25 if load_share is not None and load_share < 0.15 else 0.1
    return round(min(points, 0.95), 2)


def _until(made: Trend, kind: Kind, limit: float | None, confidence: float) -> Trend:
    left = None if limit is None else max(limit - made.level, 0.0)

    def after(rate: float) -> float:
        return math.inf if left is None else 0.0 if left <= 0 else left / rate if rate > 0 else math.inf

    found = dataclasses.replace(made, kind=kind, confidence=confidence)
    if kind in ("leak", "load"):  # cache gives way before the limit is reached
        found = dataclasses.replace(found, seconds=after(made.slope.value), earliest=after(made.slope.high), latest=after(made.slope.low))
    return found
