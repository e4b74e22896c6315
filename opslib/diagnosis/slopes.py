"""How fast something grows, and how sure that is.

The slope is Theil and Sen's: the median of the slopes between all pairs of points, which single outliers do not move (Sen 1968,
https://doi.org/10.2307/2285891). Its interval comes from the ranks of the same slopes, with as many points as there are independent ones:
neighbours in time are alike, so there are fewer than were measured (Yue and Wang 2004, https://doi.org/10.1023/B:WARM.0000043140.61082.60).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy

    Floats = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

_DEVIATIONS = 1.96  # 95 per cent of a normal distribution


class Slope(NamedTuple):
    """Units a second, and the interval of 95 per cent."""

    value: float
    low: float
    high: float


NONE = Slope(0.0, 0.0, 0.0)


def theil_sen(curves: Iterable[tuple[Floats, Floats]], *, alike_at_most: float) -> Slope:
    """Median of the slopes between all pairs of points of the same curve, and the interval that its ranks give.

    Parameters
    ----------
    curves
        Seconds and values of each, in order.
    alike_at_most
        How alike neighbours may count as, from 0 to 1: the more, the wider the interval of what wanders slowly.
    """
    import numpy as np

    slopes, variance = [], 0.0
    for x, y in curves:
        count = len(x)
        first, second = np.triu_indices(count, 1)
        apart = x[second] - x[first]
        slopes.append((y[second] - y[first])[apart > 0] / apart[apart > 0])
        middle = float(np.median(slopes[-1])) if len(slopes[-1]) else 0.0
        # variance of Kendall's S, grown by how many points stand for one
        variance += count * (count - 1) * (2 * count + 5) / 18 * count / _independent(y - middle * x, alike_at_most)
    ordered = np.sort(np.concatenate(slopes)) if slopes else np.array([])
    if not len(ordered):
        return NONE
    rank = _DEVIATIONS * math.sqrt(variance) / 2
    middle = (len(ordered) - 1) / 2
    low, high = max(0, math.floor(middle - rank)), min(len(ordered) - 1, math.ceil(middle + rank))
    return Slope(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))


def _independent(residuals: Floats, alike_at_most: float) -> float:
    """How many independent points the residuals are worth, from how alike neighbours are; at least 4."""
    import numpy as np

    count = len(residuals)
    centred = residuals - residuals.mean()
    whole = float(np.dot(centred, centred))
    if whole <= 0:
        return float(count)
    alike = min(max(float(np.dot(centred[:-1], centred[1:])) / whole, 0.0), alike_at_most)
    return max(4.0, count * (1 - alike) / (1 + alike))
