"""Instant vectors over all steps of a query, and what they have in common with labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from opslib.lab.prometheus import numbers
from opslib.lab.prometheus.labels import Labels
from opslib.lab.prometheus.parse import QueryError
from opslib.lab.prometheus.store import Booleans, Floats

_METADATA = frozenset({"__name__", "__type__", "__unit__"})
SAME_LABELS = "vector cannot contain metrics with the same labelset"


@dataclass(slots=True)
class Vector:
    """An instant vector a step: `values` and `present` are of shape (series, steps)."""

    labels: list[Labels]
    values: Floats
    present: Booleans

    @classmethod
    def stacked(cls, pieces: Sequence[Vector], steps: int) -> Vector:
        """Several as one."""
        if not pieces:
            return cls([], np.zeros((0, steps)), np.zeros((0, steps), bool))
        if len(pieces) == 1:
            return pieces[0]
        labels = [item for piece in pieces for item in piece.labels]
        return cls(labels, np.concatenate([piece.values for piece in pieces]), np.concatenate([piece.present for piece in pieces]))

    def rows(self, chosen: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Vector:
        """Some of the series, in that order."""
        return Vector([self.labels[row] for row in chosen], self.values[chosen], self.present[chosen])

    def compact(self) -> Vector:
        """Without series that have no value at all."""
        some = self.present.any(axis=1)
        return self if some.all() else self.rows(np.flatnonzero(some))

    def sorted(self) -> Vector:
        """Ordered by labels."""
        order = sorted(range(len(self.labels)), key=self.labels.__getitem__)
        return self if order == list(range(len(order))) else self.rows(np.array(order, np.int64))


@dataclass(slots=True)
class Notes:
    """What Prometheus tells beside an answer."""

    query: str = ""
    warnings: list[str] = field(default_factory=list)
    infos: list[str] = field(default_factory=list)

    def warn(self, text: str, place: str = "") -> None:
        """A warning, once."""
        self._add(self.warnings, f"PromQL warning: {text}", place)

    def inform(self, text: str, place: str = "") -> None:
        """A remark, once."""
        self._add(self.infos, f"PromQL info: {text}", place)

    def counters(self, labels: Iterable[Labels]) -> None:
        """Say so where a rate is taken of what is not named like a counter."""
        for name in dict.fromkeys(dict(series).get("__name__", "") for series in labels):
            if name and not name.endswith(("_total", "_sum", "_count", "_bucket")):
                self.inform(f'metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "{name}"', name)

    def quantile(self, level: Floats) -> None:
        """Say so where a quantile is not between 0 and 1."""
        for value in dict.fromkeys(level[np.isnan(level) | (level < 0) | (level > 1)].tolist()):
            self.warn(f"quantile value should be between 0 and 1, got {numbers.general(value)}", numbers.general(value))

    def _add(self, texts: list[str], text: str, place: str) -> None:
        match = re.search(rf"(?<![\w:]){re.escape(place)}(?![\w:])", self.query) if place else None
        if match:
            line = self.query.count("\n", 0, match.start()) + 1
            text += f" ({line}:{match.start() - self.query.rfind(chr(10), 0, match.start())})"
        if text not in texts:
            texts.append(text)


def without_name(labels: Iterable[Labels]) -> list[Labels]:
    """Labels without the metric's name, type and unit."""
    return [tuple(item for item in series if item[0] not in _METADATA) for series in labels]


def chosen(names: Iterable[str], *, keep: bool) -> Callable[[Labels], Labels]:
    """Labels with only the named ones, or without them and the metric's name."""
    known = frozenset(names)
    if keep:
        return lambda labels: tuple(item for item in labels if item[0] in known)
    dropped = known | _METADATA
    return lambda labels: tuple(item for item in labels if item[0] not in dropped)


def joined(vector: Vector, error: str = SAME_LABELS) -> Vector:
    """Series with the same labels made one, which they may be where they have no value at the same step.

    Raises
    ------
    QueryError
        Two of them have one.
    """
    first: dict[Labels, int] = {}
    target = np.array([first.setdefault(labels, len(first)) for labels in vector.labels], np.int64)
    if len(first) == len(target):
        return vector
    counts = np.zeros((len(first), vector.present.shape[1]), np.int64)
    np.add.at(counts, target, vector.present)
    if (counts > 1).any():
        raise QueryError(error)
    values = np.zeros(counts.shape)
    for row, place in enumerate(target):
        values[place] = np.where(vector.present[row], vector.values[row], values[place])
    return Vector(list(first), values, counts > 0)
