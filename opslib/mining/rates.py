"""Whether something has become more frequent, said with its confidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Change:
    """How many times as frequent as before, with its interval, and the probability of as much or more by chance alone.

    `ratio` and `high` are infinite where there was none before.
    """

    ratio: float
    low: float
    high: float
    chance: float


def change(now: int, before: Sequence[int], *, confidence: float = 0.95) -> Change:
    """The change of a count against counts of the same length of time before.

    Given how many there are in all, those of now follow a binomial distribution if nothing has changed (the conditional test of two Poisson
    rates: Przyborowski and Wilenski 1940); the interval is Clopper and Pearson's. Log lines come in bursts, though: where the counts
    before stray more than Poisson's would, all counts are divided by that overdispersion (quasi-Poisson), which widens the interval.

    Raises
    ------
    ValueError
        There is no count before, or a count is negative.
    """
    if not before or now < 0 or min(before) < 0:
        raise ValueError("counts of at least one earlier time are needed, none of them negative")
    mean = sum(before) / len(before)
    spread = sum((count - mean) ** 2 for count in before) / (len(before) - 1) if len(before) > 1 else mean
    scale = max(1.0, spread / mean) if mean else 1.0
    a, b, share = now / scale, sum(before) / scale, 1 / (1 + len(before))
    chance = _beta(a, b + 1, share) if a > 0 else 1.0
    tail = (1 - confidence) / 2
    low = _quantile(a, b + 1, tail) if a > 0 else 0.0
    high = _quantile(a + 1, b, 1 - tail) if b > 0 else 1.0
    return Change(now / mean if mean else (math.inf if now else 1.0), _odds(low, len(before)), _odds(high, len(before)), chance)


def _odds(share: float, times: int) -> float:
    return math.inf if share >= 1 else times * share / (1 - share)


def _quantile(a: float, b: float, probability: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _beta(a, b, middle) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22), with Lentz's method."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    result = d
    for m in range(1, 20_000):
        for step in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / (1 + step * d or tiny)
            c = 1 + step / c or tiny
            result *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return min(1.0, front * result)
