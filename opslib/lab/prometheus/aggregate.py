"""Aggregations: sum by (...), topk, quantile and the others (promql/engine.go, aggregation and aggregationK)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from opslib.lab.prometheus import numbers, windows
from opslib.lab.prometheus.labels import Labels, labels_of
from opslib.lab.prometheus.parse import QueryError
from opslib.lab.prometheus.store import Booleans, Floats, Integers
from opslib.lab.prometheus.vectors import Notes, Vector, chosen

_LIMITS = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class Grouping:
    """The labels after by or without."""

    names: tuple[str, ...] = ()
    without: bool = False

    @classmethod
    def of(cls, modifier: Any) -> Grouping:
        """From the tree."""
        if modifier is None:
            return cls()
        return cls(tuple(modifier.labels), str(modifier.type).endswith("Without"))

    def groups(self, labels: list[Labels]) -> tuple[list[Labels], Integers]:
        """The groups' labels, in order of appearance, and the group of each series."""
        pick = chosen(self.names, keep=not self.without)
        known: dict[Labels, int] = {}
        place = np.array([known.setdefault(pick(series), len(known)) for series in labels], np.int64)
        return list(known), place


def aggregate(name: str, vector: Vector, grouping: Grouping, parameter: Floats | None, notes: Notes) -> Vector:
    """The aggregation `name` of a vector; `parameter` is the k of topk or the level of quantile, a value a step."""
    labels, place = grouping.groups(vector.labels)
    if name in ("topk", "bottomk", "limitk"):
        assert parameter is not None
        return _first(name, vector, place, len(labels), parameter)
    steps = vector.values.shape[1]
    if not labels:
        return Vector.stacked([], steps)
    if name == "quantile":
        assert parameter is not None
        return _quantile(vector, labels, place, parameter, notes)
    order = np.argsort(place, kind="stable")
    values, present = vector.values[order], vector.present[order]
    begins = np.flatnonzero(np.diff(place[order], prepend=-1))
    count = np.add.reduceat(present.astype(np.int64), begins, axis=0)
    some = count > 0
    if name == "count":
        return Vector(labels, count.astype(float), some)
    if name == "group":
        return Vector(labels, np.ones(count.shape), some)
    if name in ("min", "max"):
        ufunc = np.fmin if name == "min" else np.fmax
        return Vector(labels, ufunc.reduceat(np.where(present, values, np.nan), begins, axis=0), some)
    total = np.add.reduceat(np.where(present, values, 0.0), begins, axis=0)
    if name == "sum":
        return Vector(labels, total, some)
    mean = total / np.maximum(count, 1)
    groups = place[order]
    if name == "avg":
        if np.isinf(mean).any():  # the sum may be too large where the mean is not
            mean = np.add.reduceat(np.where(present, values, 0.0) / np.maximum(count, 1)[groups], begins, axis=0)
        return Vector(labels, mean, some)
    if name in ("stddev", "stdvar"):
        rest = np.add.reduceat(np.where(present, values - mean[groups], 0.0), begins, axis=0)
        mean = mean + rest / np.maximum(count, 1)  # what is the same everywhere has no variance at all
        squares = np.where(present, (values - mean[groups]) ** 2, 0.0)
        result = np.add.reduceat(squares, begins, axis=0) / np.maximum(count, 1)
        return Vector(labels, np.sqrt(result) if name == "stddev" else result, some)
    raise QueryError(f'the aggregation "{name}" is not there in the embedded Prometheus')


def _quantile(vector: Vector, labels: list[Labels], place: Integers, level: Floats, notes: Notes) -> Vector:
    notes.quantile(level)
    values, present = np.zeros((len(labels), len(level))), np.zeros((len(labels), len(level)), bool)
    for group in range(len(labels)):
        rows = np.flatnonzero(place == group)
        values[group] = windows.quantile(level, vector.values[rows].T, vector.present[rows].T)
        present[group] = vector.present[rows].any(axis=0)
    return Vector(labels, values, present)


def _first(name: str, vector: Vector, place: Integers, groups: int, parameter: Floats) -> Vector:
    """The series with the largest or smallest values, or any, of each group at each step."""
    if not len(vector.labels) or parameter.max() < 1:
        return Vector.stacked([], len(parameter))
    if np.isnan(parameter).any():
        raise QueryError("Parameter value is NaN")
    if parameter.min() <= _LIMITS.min:
        raise QueryError(f"Scalar value {numbers.general(float(parameter.min()))} underflows int64")
    if parameter.max() >= _LIMITS.max:
        raise QueryError(f"Scalar value {numbers.general(float(parameter.max()))} overflows int64")
    limit = np.trunc(parameter)
    present = np.zeros(vector.present.shape, bool)
    order: list[int] = []
    for group in range(groups):
        rows = np.flatnonzero(place == group)
        rank, sequence = _ranks(name, vector.values[rows], vector.present[rows])
        present[rows] = vector.present[rows] & (rank < limit)
        order += [int(row) for row in rows[sequence]]
    return Vector(vector.labels, vector.values, present).rows(np.array(order, np.int64)).compact()


def _ranks(name: str, values: Floats, present: Booleans) -> tuple[Integers, Integers]:
    """The rank of each series at each step, and their order at the first; NaN comes after every number."""
    key = np.zeros(values.shape) if name == "limitk" else -values if name == "topk" else values
    missing = np.where(~present, 2, np.where(np.isnan(values), 1 if name != "limitk" else 0, 0))
    row = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
    order = np.lexsort((row, np.nan_to_num(key, nan=0.0, posinf=np.inf, neginf=-np.inf), missing), axis=0)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(len(values))[:, None], order.shape), axis=0)
    return rank, order[:, 0]


def count_values(label: str, vector: Vector, grouping: Grouping) -> Vector:
    """How many series of a group have each value, which becomes a label."""
    if not label:
        raise QueryError('invalid label name ""')
    names = (*grouping.names, label) if not grouping.without else grouping.names
    pick = chosen(names, keep=not grouping.without)
    counts: dict[Labels, Floats] = {}
    for row, labels in enumerate(vector.labels):
        others = dict(labels)
        for value in np.unique(vector.values[row][vector.present[row]]):
            here = vector.present[row] & ((vector.values[row] == value) | (np.isnan(vector.values[row]) & np.isnan(value)))
            result = pick(labels_of({**others, label: numbers.plain(float(value))}))
            counts[result] = counts.get(result, np.zeros(len(here))) + here
    values = np.array(list(counts.values())).reshape(len(counts), vector.values.shape[1])
    return Vector(list(counts), values, values > 0)
