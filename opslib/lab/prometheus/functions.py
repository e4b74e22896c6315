"""Functions of instant vectors and scalars (promql/functions.go), without those of range vectors, which are in `windows`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import re2

from opslib.lab.prometheus.labels import Labels, Matcher, labels_of, pattern
from opslib.lab.prometheus.parse import QueryError
from opslib.lab.prometheus.store import Booleans, Floats, Integers
from opslib.lab.prometheus.vectors import Notes, Vector, joined, without_name

_MONOTONIC_TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Moment:
    """The steps of the evaluation in milliseconds, and where to tell what is odd."""

    times: Integers
    notes: Notes


def absent_labels(conditions: Sequence[Matcher]) -> Labels:
    """The labels of absent()'s answer: those that the selector names exactly, once."""
    result: dict[str, str] = {}
    seen: set[str] = set()
    for condition in conditions:
        if condition.name in ("__name__", "__type__", "__unit__"):
            continue
        if condition.sign == "=" and condition.name not in seen:
            result[condition.name] = condition.value
            seen.add(condition.name)
        else:
            result.pop(condition.name, None)
    return labels_of(result)


# --- value by value ---


def _each(function: Callable[..., Floats]) -> Callable[..., Vector]:
    """A function of each value; further arguments are scalars."""

    def whole(_moment: Moment, vector: Vector, *scalars: Floats) -> Vector:
        return joined(Vector(without_name(vector.labels), function(vector.values, *scalars), vector.present))

    return whole


def _round(values: Floats, nearest: Floats | float = 1.0) -> Floats:
    inverse = 1.0 / nearest
    result: Floats = np.floor(values * inverse + 0.5) / inverse
    return result


def _clamp(_moment: Moment, vector: Vector, low: Floats, high: Floats) -> Vector:
    values = np.maximum(low, np.minimum(high, vector.values))
    return joined(Vector(without_name(vector.labels), values, vector.present & (high >= low))).compact()


def _sign(values: Floats) -> Floats:
    return np.where(values > 0, 1.0, np.where(values < 0, -1.0, values))


# --- time ---


def _date(function: Callable[[np.ndarray[Any, np.dtype[np.datetime64]]], Floats]) -> Callable[..., Vector]:
    """A function of dates: of the values as Unix times in UTC, or of the evaluation's own times."""

    def whole(moment: Moment, vector: Vector | None = None) -> Vector:
        if vector is None:
            seconds = moment.times // 1000
            return Vector([()], function(seconds.astype("datetime64[s]"))[None, :], np.ones((1, len(seconds)), bool))
        usable = np.isfinite(vector.values) & (np.abs(vector.values) < 1e11)
        values = function(np.where(usable, np.trunc(vector.values), 0).astype(np.int64).astype("datetime64[s]"))
        return joined(Vector(without_name(vector.labels), np.where(usable, values, np.nan), vector.present))

    return whole


def _part(small: str, large: str, first: int) -> Callable[..., Vector]:
    """How many units `small` have passed since the last `large`."""

    def function(dates: np.ndarray[Any, np.dtype[np.datetime64]]) -> Floats:
        whole = dates.astype(f"datetime64[{large}]").astype(f"datetime64[{small}]")
        return np.asarray(dates.astype(f"datetime64[{small}]") - whole).astype(np.float64) + first

    return _date(function)


def _days_in_month(dates: np.ndarray[Any, np.dtype[np.datetime64]]) -> Floats:
    month = dates.astype("datetime64[M]")
    return np.asarray((month + 1).astype("datetime64[D]") - month.astype("datetime64[D]")).astype(np.float64)


def _weekday(dates: np.ndarray[Any, np.dtype[np.datetime64]]) -> Floats:
    return ((dates.astype("datetime64[D]").astype(np.int64) + 4) % 7).astype(np.float64)


def _time(moment: Moment) -> Floats:
    return moment.times / 1000


def _timestamp(moment: Moment, vector: Vector) -> Vector:
    values = np.broadcast_to(moment.times / 1000, vector.values.shape)
    return joined(Vector(without_name(vector.labels), values, vector.present))


# --- scalars and order ---


def _vector(_moment: Moment, scalar: Floats) -> Vector:
    return Vector([()], scalar[None, :], np.ones((1, len(scalar)), bool))


def _scalar(_moment: Moment, vector: Vector) -> Floats:
    count = vector.present.sum(axis=0)
    return np.where(count == 1, np.where(vector.present, vector.values, 0.0).sum(axis=0), np.nan)


def _sort(descending: bool) -> Callable[..., Vector]:
    def function(moment: Moment, vector: Vector) -> Vector:
        if len(moment.times) > 1:
            _note_sort(moment)
            return vector
        values = vector.values[:, 0]
        order = np.lexsort((-values if descending else values, np.isnan(values)))
        return vector.rows(order)

    return function


def _sort_by_label(descending: bool) -> Callable[..., Vector]:
    def function(moment: Moment, vector: Vector, *names: str) -> Vector:
        if len(moment.times) > 1:
            _note_sort(moment)
            return vector

        def key(row: int) -> tuple[Any, ...]:
            known = dict(vector.labels[row])
            return (*(_natural(known.get(name, "")) for name in names), vector.labels[row])

        return vector.rows(np.array(sorted(range(len(vector.labels)), key=key, reverse=descending), np.int64))

    return function


def _note_sort(moment: Moment) -> None:
    moment.notes.warn("sort is ineffective for range queries since results are always ordered by labels", "sort")


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part)


# --- labels ---


def label_replace(vector: Vector, target: str, replacement: str, source: str, expression: str) -> Vector:
    """The label `target` made from a match of `expression` in the label `source`; series that do not match stay as they are."""
    try:
        compiled = pattern(expression)
    except re2.error as error:
        raise QueryError(f"invalid regular expression in label_replace(): {expression}") from error
    _check_label(target, "invalid destination label name in label_replace(): {}")
    labels = []
    for series in vector.labels:
        known = dict(series)
        match = compiled.fullmatch(known.get(source, ""))
        labels.append(labels_of({**known, target: expanded(replacement, match)}) if match is not None else series)
    return joined(Vector(labels, vector.values, vector.present)).sorted()


def expanded(template: str, match: Any) -> str:
    """Go's Regexp.Expand: $1, ${1}, $name, $$; what is not there is empty."""

    def group(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name = found[1] or found[2]
        try:
            return match.group(int(name) if name.isdecimal() else name) or ""
        except (IndexError, KeyError):
            return ""

    return re.sub(r"\$\$|\$\{(\w+)\}|\$(\w+)", group, template)


def label_join(vector: Vector, target: str, separator: str, *sources: str) -> Vector:
    """The label `target` made from others, joined."""
    for source in sources:
        _check_label(source, "invalid source label name in label_join(): {}")
    _check_label(target, "invalid destination label name in label_join(): {}")
    labels = []
    for series in vector.labels:
        known = dict(series)
        labels.append(labels_of({**known, target: separator.join(known.get(source, "") for source in sources)}))
    return joined(Vector(labels, vector.values, vector.present)).sorted()


def _check_label(name: str, error: str) -> None:
    if not name:
        raise QueryError(error.format(name))


# --- histograms ---


def _bounds(text: str) -> float | None:
    if re.fullmatch(r"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|[Ii]nf(inity)?)", text):
        return float(text)
    return None


def _histograms(moment: Moment, vector: Vector) -> list[tuple[Labels, Floats, Floats, Booleans]]:
    """Classic histograms: labels, ascending upper bounds, cumulated counts of shape (buckets, steps), and where there are any."""
    groups: dict[Labels, list[tuple[float, int]]] = {}
    for row, labels in enumerate(vector.labels):
        known = dict(labels)
        text = known.pop("le", "")
        bound = _bounds(text)
        if bound is None:
            moment.notes.warn(f'bucket label "le" is missing or has a malformed value of "{text}"')
            continue
        groups.setdefault(labels_of(known), []).append((bound, row))
    result = []
    for labels, buckets in groups.items():
        buckets.sort()
        rows = [row for _bound, row in buckets]
        result.append((labels, np.array([bound for bound, _row in buckets]), vector.values[rows], vector.present[rows]))
    return result


def _by_histogram(moment: Moment, vector: Vector, function: Callable[[Floats, Floats, Integers], Floats]) -> Vector:
    """`function` of bounds, counts and step numbers, for each histogram, steps with the same buckets together."""
    labels, values, present = [], [], []
    for name, bounds, counts, there in _histograms(moment, vector):
        labels.append(name)
        result = np.full(len(moment.times), np.nan)
        patterns: dict[bytes, list[int]] = {}
        for step, key in enumerate(np.packbits(there, axis=0).T):
            patterns.setdefault(key.tobytes(), []).append(step)
        for steps in patterns.values():
            rows = there[:, steps[0]]
            if rows.any():
                chosen = np.array(steps, np.int64)
                result[chosen] = function(*_coalesced(bounds[rows], counts[rows][:, chosen]), chosen)
        values.append(result)
        present.append(there.any(axis=0))
    if not labels:
        return Vector.stacked([], len(moment.times))
    return joined(Vector(without_name(labels), np.array(values), np.array(present)))


def _coalesced(bounds: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Buckets of the same bound ("1" and "1.0") added up."""
    unique, begins = np.unique(bounds, return_index=True)
    return unique, np.add.reduceat(counts, begins, axis=0)


def _histogram_quantile(moment: Moment, level: Floats, vector: Vector) -> Vector:
    moment.notes.quantile(level)

    def function(bounds: Floats, counts: Floats, steps: Integers) -> Floats:
        return bucket_quantile(level[steps], bounds, counts, moment.notes)

    return _by_histogram(moment, vector, function)


def bucket_quantile(level: Floats, bounds: Floats, counts: Floats, notes: Notes) -> Floats:
    """A quantile from a classic histogram, interpolated within its bucket (promql/quantile.go, BucketQuantile).

    Parameters
    ----------
    level
        Of shape (steps,).
    bounds
        Ascending upper bounds of shape (buckets,).
    counts
        Cumulated, of shape (buckets, steps).
    """
    outside = np.where(np.isnan(level), np.nan, np.where(level < 0, -np.inf, np.inf))
    inside = (level >= 0) & (level <= 1)
    if not np.isposinf(bounds[-1]) or len(bounds) < 2:
        return np.where(inside, np.nan, outside)
    counts = _monotonic(counts, notes)
    total = counts[-1]
    rank = level * total
    steps = np.arange(counts.shape[1])
    reached = counts[:-1] >= rank
    bucket = np.where(reached.any(axis=0), reached.argmax(axis=0), len(bounds) - 1)
    below = np.maximum(bucket - 1, 0)
    start = np.where(bucket > 0, bounds[below], 0.0)
    before = np.where(bucket > 0, counts[below, steps], 0.0)
    inner = start + (bounds[bucket] - start) * ((rank - before) / (counts[bucket, steps] - before))
    result = np.where(bucket == len(bounds) - 1, bounds[-2], inner)
    result = np.where((bucket == 0) & (bounds[0] <= 0), bounds[0], result)
    return np.where(inside, np.where(total == 0, np.nan, result), outside)


def _monotonic(counts: Floats, notes: Notes) -> Floats:
    """Counts that never fall from bucket to bucket; differences within rounding are taken for none."""
    result = counts.copy()
    previous = counts[0].copy()
    forced = False
    for row in range(1, len(counts)):
        current = counts[row]
        small = np.abs(current - previous) < _MONOTONIC_TOLERANCE * np.maximum(np.abs(current) + np.abs(previous), np.finfo(float).tiny)
        falls = (current < previous) & ~small & (current != previous)
        forced |= bool(falls.any())
        result[row] = previous = np.where(small | falls, previous, current)
    if forced:
        notes.inform(
            "input to histogram_quantile needed to be fixed for monotonicity (see "
            "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
        )
    return result


def _histogram_fraction(moment: Moment, lower: Floats, upper: Floats, vector: Vector) -> Vector:
    def function(bounds: Floats, counts: Floats, steps: Integers) -> Floats:
        if not np.isposinf(bounds[-1]):
            return np.full(len(steps), np.nan)
        low, high, total = lower[steps], upper[steps], counts[-1]
        share = (_rank(bounds, counts, high) - _rank(bounds, counts, low)) / total
        share = np.where(low >= high, 0.0, share)
        return np.where((total == 0) | np.isnan(low) | np.isnan(high), np.nan, share)

    return _by_histogram(moment, vector, function)


def _rank(bounds: Floats, counts: Floats, value: Floats) -> Floats:
    """How many observations are below a value, interpolated; in a bucket without a bound on one side they count as a whole."""
    steps = np.arange(counts.shape[1])
    lowest = 0.0 if bounds[0] > 0 else -np.inf
    bucket = np.searchsorted(bounds, value, side="right")
    bucket = np.minimum(bucket, len(bounds) - 1)
    below = np.maximum(bucket - 1, 0)
    start = np.where(bucket > 0, bounds[below], lowest)
    before = np.where(bucket > 0, counts[below, steps], 0.0)
    there = counts[bucket, steps]
    inner = before + (there - before) * (value - start) / (bounds[bucket] - start)
    inner = np.where(np.isneginf(start), there, inner)
    inner = np.where(value <= start, before, inner)
    return np.where(np.isposinf(value), counts[-1], inner)


def _of_native(moment: Moment, vector: Vector) -> Vector:
    """Functions of native histograms leave floats out, and there is nothing else here."""
    return Vector.stacked([], len(moment.times))


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _each(getattr(np, name)) for name in ("ceil", "floor", "exp", "sqrt", "log2", "log10", "sin", "cos", "tan")},
    **{name: _each(getattr(np, name)) for name in ("sinh", "cosh", "tanh")},
    **{f"a{name}": _each(getattr(np, f"arc{name}")) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "abs": _each(np.abs),
    "ln": _each(np.log),
    "sgn": _each(_sign),
    "deg": _each(np.degrees),
    "rad": _each(np.radians),
    "round": _each(_round),
    "clamp": _clamp,
    "clamp_min": _each(lambda values, low: np.maximum(low, values)),
    "clamp_max": _each(lambda values, high: np.minimum(high, values)),
    "pi": lambda moment: np.full(len(moment.times), np.pi),
    "time": _time,
    "timestamp": _timestamp,
    "minute": _part("m", "h", 0),
    "hour": _part("h", "D", 0),
    "day_of_month": _part("D", "M", 1),
    "day_of_year": _part("D", "Y", 1),
    "month": _part("M", "Y", 1),
    "year": _date(lambda dates: dates.astype("datetime64[Y]").astype(float) + 1970),
    "day_of_week": _date(_weekday),
    "days_in_month": _date(_days_in_month),
    "vector": _vector,
    "scalar": _scalar,
    "sort": _sort(descending=False),
    "sort_desc": _sort(descending=True),
    "sort_by_label": _sort_by_label(descending=False),
    "sort_by_label_desc": _sort_by_label(descending=True),
    "histogram_quantile": _histogram_quantile,
    "histogram_fraction": _histogram_fraction,
    **{f"histogram_{name}": _of_native for name in ("avg", "count", "sum", "stddev", "stdvar")},
}
