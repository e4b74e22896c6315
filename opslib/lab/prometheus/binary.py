"""Operators: arithmetic, comparison and sets, with Prometheus' vector matching (promql/engine.go, VectorBinop and its neighbours)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opslib.lab.prometheus.labels import Labels, labels_of
from opslib.lab.prometheus.parse import QueryError
from opslib.lab.prometheus.store import Booleans, Floats
from opslib.lab.prometheus.vectors import Vector, chosen, joined, without_name

_ARITHMETIC: dict[str, Callable[[Floats, Floats], Floats]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,
    "^": np.power,
    "atan2": np.arctan2,
}
_COMPARISON: dict[str, Callable[[Floats, Floats], Booleans]] = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}


@dataclass(frozen=True, slots=True)
class Matching:
    """How series of two vectors find each other.

    Parameters
    ----------
    cardinality
        "OneToOne", "ManyToOne" (group_left), "OneToMany" (group_right) or "ManyToMany" (sets).
    on
        Whether `names` are the labels that count, or those that do not.
    include
        Labels taken over from the side with one.
    as_bool
        Whether a comparison gives 0 or 1 rather than filter.
    """

    cardinality: str = "OneToOne"
    on: bool = False
    names: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    as_bool: bool = False

    @classmethod
    def of(cls, modifier: Any) -> Matching:
        """From the tree."""
        if modifier is None:
            return cls()
        matching = modifier.matching
        return cls(
            str(modifier.card).rpartition(".")[2],
            matching is not None and str(matching.type).endswith("Include"),
            tuple(matching.labels) if matching is not None else (),
            tuple(modifier.group_labels or ()),
            modifier.return_bool,
        )


def scalars(name: str, left: Floats, right: Floats) -> Floats:
    """Two scalars."""
    if name in _ARITHMETIC:
        return _ARITHMETIC[name](left, right)
    return _COMPARISON[name](left, right).astype(float)


def _applied(name: str, left: Floats, right: Floats, as_bool: bool) -> tuple[Floats, Booleans | None]:
    """The values, and which are kept (None: all). A comparison that filters keeps the left value."""
    if name in _ARITHMETIC:
        return _ARITHMETIC[name](left, right), None
    holds = _COMPARISON[name](left, right)
    return (holds.astype(float), None) if as_bool else (left, holds)


def with_scalar(name: str, vector: Vector, scalar: Floats, as_bool: bool, *, swapped: bool) -> Vector:
    """A vector and a scalar; `swapped` where the scalar stands on the left. The vector's value is what a comparison keeps."""
    left, right = (np.broadcast_to(scalar, vector.values.shape), vector.values) if swapped else (vector.values, scalar)
    values, kept = _applied(name, left, np.broadcast_to(right, vector.values.shape), as_bool)
    if kept is not None:
        return Vector(vector.labels, vector.values, vector.present & kept).compact()
    return joined(Vector(without_name(vector.labels), values, vector.present))


def vectors(name: str, left: Vector, right: Vector, matching: Matching) -> Vector:
    """Two vectors, series by series.

    Raises
    ------
    QueryError
        The matching is ambiguous at some step.
    """
    swapped = matching.cardinality == "OneToMany"
    many, one = (right, left) if swapped else (left, right)
    steps = left.values.shape[1]
    if not many.labels or not one.labels:
        return Vector.stacked([], steps)
    signature = chosen(matching.names, keep=matching.on)
    ones: dict[Labels, list[int]] = {}
    for row, labels in enumerate(one.labels):
        ones.setdefault(signature(labels), []).append(row)
    _check_unique(one, ones, np.any(many.present, axis=0), "left" if swapped else "right")
    pairs = [(row, other) for row, labels in enumerate(many.labels) for other in ones.get(signature(labels), ())]
    if not pairs:
        return Vector.stacked([], steps)
    rows, others = np.array(pairs, np.int64).T
    present = many.present[rows] & one.present[others]
    sides = (one.values[others], many.values[rows]) if swapped else (many.values[rows], one.values[others])
    values, kept = _applied(name, *sides, matching.as_bool)
    drop = matching.as_bool or name in _ARITHMETIC
    results = [_result(many.labels[row], one.labels[other], matching, drop) for row, other in pairs]
    signatures = [signature(many.labels[row]) for row, _other in pairs]
    if matching.cardinality == "OneToOne":
        keys: list[Any] = list(signatures)
        error = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
    else:
        keys = list(zip(signatures, results, strict=True))
        error = "multiple matches for labels: grouping labels must ensure unique matches"
    joined(Vector(keys, values, present), error)
    return joined(Vector(results, values, present if kept is None else present & kept)).compact()


def _check_unique(one: Vector, ones: dict[Labels, list[int]], asked: Any, side: str) -> None:
    """Two series of the side with one must not have the same signature at a step at which the other side has anything."""
    for shared, rows in ones.items():
        if len(rows) < 2:
            continue
        doubled = (one.present[rows].sum(axis=0) > 1) & asked
        if doubled.any():
            step = int(np.flatnonzero(doubled)[0])
            first, second = sorted(text(one.labels[row]) for row in rows if one.present[row, step])[:2]
            raise QueryError(
                f"found duplicate series for the match group {text(shared)} on the {side} hand-side of the operation: "
                f"[{first}, {second}];many-to-many matching not allowed: matching labels must be unique on one side"
            )


def text(labels: Labels) -> str:
    """Labels as Prometheus prints them in errors."""
    from json import dumps

    return "{" + ", ".join(f"{name}={dumps(value, ensure_ascii=False)}" for name, value in labels) + "}"


def _result(many: Labels, one: Labels, matching: Matching, drop_name: bool) -> Labels:
    result = dict(many)
    if drop_name:
        result.pop("__name__", None)
    if matching.cardinality == "OneToOne":
        known = set(matching.names)
        result = {name: value for name, value in result.items() if (name in known) == matching.on}
    other = dict(one)
    for name in matching.include:
        result[name] = other.get(name, "")
    return labels_of(result)


def sets(name: str, left: Vector, right: Vector, matching: Matching) -> Vector:
    """and, or, unless."""
    signature = chosen(matching.names, keep=matching.on)
    here = {item: number for number, item in enumerate(dict.fromkeys(map(signature, [*left.labels, *right.labels])))}
    shape = (len(here), left.values.shape[1])
    left_place = np.array([here[signature(labels)] for labels in left.labels], np.int64)
    right_place = np.array([here[signature(labels)] for labels in right.labels], np.int64)
    if name == "or":
        on_left = np.zeros(shape, bool)
        np.logical_or.at(on_left, left_place, left.present)
        rest = Vector(right.labels, right.values, right.present & ~on_left[right_place])
        return joined(Vector.stacked([left, rest], shape[1]).compact())
    on_right = np.zeros(shape, bool)
    np.logical_or.at(on_right, right_place, right.present)
    matched = on_right[left_place]
    return Vector(left.labels, left.values, left.present & (matched if name == "and" else ~matched)).compact()
