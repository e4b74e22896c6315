"""Functions of range vectors: each window of each series, without a loop over either.

The formulas are those of Prometheus' promql/functions.go. Windows are open on the left: a sample exactly `range` old is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from opslib.lab.prometheus.labels import Labels
from opslib.lab.prometheus.parse import QueryError
from opslib.lab.prometheus.store import ABSENT_BITS, Booleans, Floats, Integers, Samples, is_absent, is_stale

_CUBE = 4_000_000


@dataclass(slots=True)
class Windows:
    """Series with samples at the same times, without gaps, and a window a step.

    Parameters
    ----------
    times, values
        Milliseconds of shape (times,), and values of shape (series, times).
    first, last
        Index of the first sample of each step's window, and of the one after its last.
    starts, ends
        Bounds of the windows in milliseconds; the start is not in it.
    steps
        The moments of evaluation, which differ from the ends where there is an offset.
    """

    labels: list[Labels]
    times: Integers
    values: Floats
    first: Integers
    last: Integers
    starts: Integers
    ends: Integers
    steps: Integers

    @property
    def count(self) -> Integers:
        """Samples a window."""
        return self.last - self.first

    def cubes(self) -> Iterator[tuple[slice, slice, Floats, Floats, Booleans]]:
        """Rows, steps, values (rows, steps, samples), times (steps, samples) in milliseconds, and which of them are in the window."""
        longest = max(1, int(self.count.max(initial=0)))
        steps = max(1, min(len(self.first), _CUBE // longest))
        rows = max(1, _CUBE // (longest * steps))
        for begin in range(0, len(self.first), steps):
            part = slice(begin, begin + steps)
            index = self.first[part, None] + np.arange(longest)
            inside = index < self.last[part, None]
            index = np.minimum(index, len(self.times) - 1)
            for row in range(0, len(self.labels), rows):
                where = slice(row, row + rows)
                yield where, part, self.values[where][:, index], self.times[index].astype(float), inside


def marked(values: Floats, present: Booleans) -> Floats:
    """Values with "no sample" where none is present."""
    result = np.array(values, np.float64, copy=True)
    result.view(np.uint64)[~present] = ABSENT_BITS
    return result


def split(samples: Samples, starts: Integers, ends: Integers, steps: Integers) -> Iterator[Windows]:
    """Series with the same gaps together, their gaps taken out. Markers of an end are no samples."""
    if not len(samples.labels) or not len(samples.times):
        return
    there = ~(is_absent(samples.values) | is_stale(samples.values))
    patterns: dict[bytes, list[int]] = {}
    if there.all():
        patterns[b""] = list(range(len(samples.labels)))
    else:
        for row, key in enumerate(np.packbits(there, axis=1)):
            patterns.setdefault(key.tobytes(), []).append(row)
    for rows in patterns.values():
        columns = there[rows[0]]
        times = samples.times[columns]
        if not len(times):
            continue
        values = samples.values[rows] if columns.all() else samples.values[rows][:, columns]
        first = np.searchsorted(times, starts, side="right")
        last = np.searchsorted(times, ends, side="right")
        yield Windows([samples.labels[row] for row in rows], times, values, first, last, starts, ends, steps)


Function = Callable[..., tuple[Floats, Booleans]]


def _reduced(ufunc: np.ufunc, windows: Windows, values: Floats) -> Floats:
    """A ufunc over each window; where a window is empty the result means nothing."""
    padded = np.concatenate([values, values[:, -1:]], axis=1)
    index = np.stack([windows.first, windows.last], axis=1).reshape(-1)
    result: Floats = ufunc.reduceat(padded, index, axis=1)[:, ::2]
    return result


def _ends(windows: Windows) -> tuple[Integers, Integers]:
    """Index of the first and last sample of each window, valid even where it is empty."""
    top = len(windows.times) - 1
    return np.minimum(windows.first, top), np.clip(windows.last - 1, 0, top)


def _steps_within(windows: Windows, events: Booleans) -> Floats:
    """How many of the events, each between a sample and the one before, are in each window."""
    sums = np.concatenate([np.zeros((len(events), 1)), np.cumsum(events, axis=1)], axis=1)
    low, high = _ends(windows)
    result: Floats = sums[:, high] - sums[:, low]
    return result


def _extrapolated(windows: Windows, *, counter: bool, per_second: bool) -> tuple[Floats, Booleans]:
    """What rate, increase and delta have in common: the difference of last and first sample, stretched to the bounds of the window."""
    low, high = _ends(windows)
    values = windows.values
    result = values[:, high] - values[:, low]
    present = windows.count >= 2
    if counter:
        before, after = values[:, :-1], values[:, 1:]
        drops = np.where(after < before, before, 0.0)
        if np.isfinite(drops).all():
            sums = np.concatenate([np.zeros((len(values), 1)), np.cumsum(drops, axis=1)], axis=1)
            result = result + (sums[:, high] - sums[:, low])
        else:
            for column in np.flatnonzero(present):
                result[:, column] += drops[:, low[column] : high[column]].sum(axis=1)
    to_start = (windows.times[low] - windows.starts) / 1000
    to_end = (windows.ends - windows.times[high]) / 1000
    sampled = (windows.times[high] - windows.times[low]) / 1000
    between = sampled / np.maximum(windows.count - 1, 1)
    to_start = np.where(to_start >= between * 1.1, between / 2, to_start)
    to_end = np.where(to_end >= between * 1.1, between / 2, to_end)
    start = np.broadcast_to(to_start, result.shape)
    if counter:  # a counter was never below zero
        first = values[:, low]
        to_zero = np.where((result > 0) & (first >= 0), sampled * (first / result), start)
        start = np.where(to_zero < start, to_zero, start)
    factor = np.where(sampled != 0, (sampled + start + to_end) / sampled, 1.0)
    if per_second:
        factor = factor / ((windows.ends - windows.starts) / 1000)
    return result * factor, present


def _instant(windows: Windows, *, counter: bool) -> tuple[Floats, Booleans]:
    """The last two samples."""
    present = windows.count >= 2
    _low, high = _ends(windows)
    before = np.maximum(high - 1, 0)
    last, previous = windows.values[:, high], windows.values[:, before]
    if not counter:
        return last - previous, present
    result = np.where(last < previous, last, last - previous)
    return result / ((windows.times[high] - windows.times[before]) / 1000), present


def _sum(windows: Windows) -> tuple[Floats, Booleans]:
    return _reduced(np.add, windows, windows.values), windows.count > 0


def _average(windows: Windows) -> tuple[Floats, Booleans]:
    count = np.maximum(windows.count, 1)
    result = _reduced(np.add, windows, windows.values) / count
    if not np.isfinite(result).all():  # the sum may be too large where the mean is not
        finite = _reduced(np.logical_and, windows, np.isfinite(windows.values))
        for row, column in zip(*np.nonzero(~np.isfinite(result) & finite & (windows.count > 0)), strict=True):
            piece = windows.values[row, windows.first[column] : windows.last[column]]
            result[row, column] = (piece / len(piece)).sum()
    return result, windows.count > 0


def _extreme(ufunc: np.ufunc) -> Function:
    return lambda windows: (_reduced(ufunc, windows, windows.values), windows.count > 0)


def _count(windows: Windows) -> tuple[Floats, Booleans]:
    return np.broadcast_to(windows.count.astype(float), (len(windows.labels), len(windows.first))), windows.count > 0


def _present(windows: Windows) -> tuple[Floats, Booleans]:
    return np.ones((len(windows.labels), len(windows.first))), windows.count > 0


def _picked(number: int) -> Function:
    def function(windows: Windows) -> tuple[Floats, Booleans]:
        return windows.values[:, _ends(windows)[number]], windows.count > 0

    return function


def _picked_time(number: int) -> Function:
    def function(windows: Windows) -> tuple[Floats, Booleans]:
        times = windows.times[_ends(windows)[number]] / 1000
        return np.broadcast_to(times, (len(windows.labels), len(times))), windows.count > 0

    return function


def _extreme_time(largest: bool) -> Function:
    """When the largest or smallest value was, the last of them."""

    def function(windows: Windows) -> tuple[Floats, Booleans]:
        result = np.zeros((len(windows.labels), len(windows.first)))
        for rows, steps, values, times, inside in windows.cubes():
            score = np.where(np.isnan(values), -np.inf, values if largest else -values)
            score = np.where(inside, score, -np.inf)
            best = score.max(axis=2, keepdims=True)
            hit = inside & (score == best)
            all_nan = np.isnan(np.where(inside, values, np.nan)).all(axis=2, keepdims=True)
            hit = np.where(all_nan, inside, hit & ~np.isnan(values))
            last = hit.shape[2] - 1 - hit[:, :, ::-1].argmax(axis=2)
            result[rows, steps] = np.take_along_axis(np.broadcast_to(times, values.shape), last[:, :, None], axis=2)[:, :, 0] / 1000
        return result, windows.count > 0

    return function


def _changes(windows: Windows) -> tuple[Floats, Booleans]:
    before, after = windows.values[:, :-1], windows.values[:, 1:]
    return _steps_within(windows, (before != after) & ~(np.isnan(before) & np.isnan(after))), windows.count > 0


def _resets(windows: Windows) -> tuple[Floats, Booleans]:
    return _steps_within(windows, windows.values[:, 1:] < windows.values[:, :-1]), windows.count > 0


def _by_cube(function: Callable[[Floats, Booleans], Floats]) -> Function:
    """A function of the values of a window and which of them count."""

    def whole(windows: Windows) -> tuple[Floats, Booleans]:
        result = np.zeros((len(windows.labels), len(windows.first)))
        for rows, steps, values, _times, inside in windows.cubes():
            result[rows, steps] = function(values, inside)
        return result, windows.count > 0

    return whole


def variance(values: Floats, inside: Booleans) -> Floats:
    """The population's variance along the last axis."""
    count = np.maximum(np.sum(inside, axis=-1, keepdims=True), 1)
    mean = np.sum(np.where(inside, values, 0.0), axis=-1, keepdims=True) / count
    mean = mean + np.sum(np.where(inside, values - mean, 0.0), axis=-1, keepdims=True) / count  # a constant has no variance at all
    result: Floats = np.sum(np.where(inside, (values - mean) ** 2, 0.0), axis=-1) / count[..., 0]
    return result


def quantile(level: Floats, values: Floats, inside: Booleans) -> Floats:
    """The quantile along the last axis, interpolated; NaN counts as the smallest. `level` broadcasts to the result's shape."""
    inside = np.broadcast_to(inside, values.shape)
    count = inside.sum(axis=-1)
    nans = (np.isnan(values) & inside).sum(axis=-1)
    ordered = np.sort(np.where(inside, np.where(np.isnan(values), -np.inf, values), np.inf), axis=-1)
    rank = np.clip(level, 0, 1) * (count - 1)
    low = np.clip(np.nan_to_num(np.floor(rank)), 0, values.shape[-1] - 1).astype(np.int64)
    high = np.minimum(np.maximum(count - 1, 0), low + 1)
    weight = rank - np.floor(rank)

    def at(index: Integers) -> Floats:
        picked = np.take_along_axis(ordered, index[..., None], axis=-1)[..., 0]
        return np.where(index < nans, np.nan, picked)

    result = np.where(weight == 0, at(low), at(low) * (1 - weight) + at(high) * weight)
    result = np.where(level < 0, -np.inf, np.where(level > 1, np.inf, result))
    return np.where(np.isnan(level) | (count == 0), np.nan, result)


def _quantile(windows: Windows, level: Floats) -> tuple[Floats, Booleans]:
    result = np.zeros((len(windows.labels), len(windows.first)))
    for rows, steps, values, _times, inside in windows.cubes():
        result[rows, steps] = quantile(level[steps], values, inside)
    return result, windows.count > 0


def _median_deviation(values: Floats, inside: Booleans) -> Floats:
    middle = np.array(0.5)
    median = quantile(middle, values, inside)
    result = quantile(middle, np.abs(values - median[..., None]), inside)
    return np.where((np.isnan(values) & inside).any(axis=-1), np.nan, result)


def _regression(windows: Windows, origin: Integers) -> tuple[Floats, Floats]:
    """Slope a second, and value at `origin` (milliseconds, one a step), of the least-squares line."""
    shape = (len(windows.labels), len(windows.first))
    slope, intercept = np.zeros(shape), np.zeros(shape)
    for rows, steps, values, times, inside in windows.cubes():
        x = np.where(inside, (times - origin[steps, None]) / 1000, 0.0)
        y = np.where(inside, values, 0.0)
        count = inside.sum(axis=-1)
        sum_x, sum_y = x.sum(axis=-1), y.sum(axis=-1)
        covariance = (x * y).sum(axis=-1) - sum_x * sum_y / count
        spread = (x * x).sum(axis=-1) - sum_x * sum_x / count
        part = covariance / spread
        first = values[..., :1]
        flat = np.where(inside, values == first, True).all(axis=-1)
        level = np.where(np.isinf(first[..., 0]), np.nan, first[..., 0])
        slope[rows, steps] = np.where(flat, np.where(np.isinf(first[..., 0]), np.nan, 0.0), part)
        intercept[rows, steps] = np.where(flat, level, sum_y / count - part * sum_x / count)
    return slope, intercept


def _derivative(windows: Windows) -> tuple[Floats, Booleans]:
    return _regression(windows, windows.times[_ends(windows)[0]])[0], windows.count >= 2


def _predict(windows: Windows, seconds: Floats) -> tuple[Floats, Booleans]:
    slope, intercept = _regression(windows, windows.steps)
    return slope * seconds + intercept, windows.count >= 2


def _smoothed(windows: Windows, smoothing: Floats, trend: Floats) -> tuple[Floats, Booleans]:
    """Holt's double exponential smoothing."""
    for name, factor in (("smoothing", smoothing), ("trend", trend)):
        wrong = factor[(factor <= 0) | (factor >= 1)]
        if len(wrong) and windows.count.any():
            raise QueryError(f"invalid {name} factor. Expected: 0 < {name[0]}f < 1, got: {wrong[0]:f}")
    result = np.zeros((len(windows.labels), len(windows.first)))
    for rows, steps, values, _times, inside in windows.cubes():
        factor, lean = smoothing[steps], trend[steps]
        before, now = np.zeros(values.shape[:2]), values[:, :, 0]
        slope = values[:, :, 1] - values[:, :, 0] if values.shape[2] > 1 else np.zeros(values.shape[:2])
        for number in range(1, values.shape[2]):
            if number > 1:
                slope = np.where(inside[:, number], lean * (now - before) + (1 - lean) * slope, slope)
            then = factor * values[:, :, number] + (1 - factor) * (now + slope)
            before, now = np.where(inside[:, number], now, before), np.where(inside[:, number], then, now)
        result[rows, steps] = now
    return result, windows.count >= 2


FUNCTIONS: dict[str, Function] = {
    "rate": lambda windows: _extrapolated(windows, counter=True, per_second=True),
    "increase": lambda windows: _extrapolated(windows, counter=True, per_second=False),
    "delta": lambda windows: _extrapolated(windows, counter=False, per_second=False),
    "irate": lambda windows: _instant(windows, counter=True),
    "idelta": lambda windows: _instant(windows, counter=False),
    "sum_over_time": _sum,
    "avg_over_time": _average,
    "min_over_time": _extreme(np.fmin),
    "max_over_time": _extreme(np.fmax),
    "count_over_time": _count,
    "present_over_time": _present,
    "first_over_time": _picked(0),
    "last_over_time": _picked(1),
    "ts_of_first_over_time": _picked_time(0),
    "ts_of_last_over_time": _picked_time(1),
    "ts_of_max_over_time": _extreme_time(largest=True),
    "ts_of_min_over_time": _extreme_time(largest=False),
    "stdvar_over_time": _by_cube(variance),
    "stddev_over_time": _by_cube(lambda values, inside: np.sqrt(variance(values, inside))),
    "mad_over_time": _by_cube(_median_deviation),
    "quantile_over_time": _quantile,
    "changes": _changes,
    "resets": _resets,
    "deriv": _derivative,
    "predict_linear": _predict,
    "double_exponential_smoothing": _smoothed,
}
