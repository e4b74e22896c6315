"""Which series there are: label sets by number, found by what they are or by a condition, in about a hundred bytes each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from opslib.lab.prometheus.labels import Labels, Matcher

Numbers = npt.NDArray[np.int32]

_FREE = -1


class Index:
    """Label sets, numbered in the order in which they came; none is ever taken out.

    A pair of name and value has a number too, and a label set is the numbers of its pairs, one after another in one array for all. A table
    with open addressing leads from a set to its number: a dict would take as much as all the rest.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[str, str]] = []
        self._values: dict[str, dict[str, int]] = {}  # the number of a pair, by name and value
        self._having: list[array[int]] = []  # by pair: the sets that have it, ascending
        self._content = array("i")
        self._begins = array("q", [0])
        self._table = array("i", [_FREE]) * 1024

    def __len__(self) -> int:
        return len(self._begins) - 1

    def __getitem__(self, number: int) -> Labels:
        pairs = self._pairs
        return tuple([pairs[pair] for pair in self._set(number)])

    def number(self, labels: Labels) -> int:
        """The number of a label set, a new one where it has none yet."""
        pairs = array("i", [self._pair(name, value) for name, value in labels])
        slot = self._slot(pairs)
        if self._table[slot] == _FREE:
            number = len(self)
            for pair in pairs:
                self._having[pair].append(number)
            self._content.extend(pairs)
            self._begins.append(len(self._content))
            self._table[slot] = number
            if 3 * len(self) > 2 * len(self._table):
                self._widen()
            return number
        return self._table[slot]

    def find(self, matchers: Iterable[Matcher]) -> Numbers:
        """The label sets that fulfil every matcher, ascending."""
        found: Numbers | None = None
        for matcher in sorted(matchers, key=lambda item: item.sign != "="):
            values = self._values.get(matcher.name, {})
            if matcher(""):  # sets without the label match too
                excluded = self._with(pair for value, pair in values.items() if not matcher(value))
                found = np.setdiff1d(self._all() if found is None else found, excluded, assume_unique=True)
            else:
                pairs = [values[matcher.value]] if matcher.sign == "=" and matcher.value in values else []
                if matcher.sign != "=":
                    pairs = [pair for value, pair in values.items() if matcher(value)]
                having = self._with(pairs)
                found = having if found is None else np.intersect1d(found, having, assume_unique=True)
            if not len(found):
                return found
        return self._all() if found is None else found

    def names(self) -> list[str]:
        """All label names, in order."""
        return sorted(self._values)

    def values(self, name: str) -> dict[str, int]:
        """How many label sets have each value of a label."""
        return {value: len(self._having[pair]) for value, pair in self._values.get(name, {}).items()}

    def _all(self) -> Numbers:
        return np.arange(len(self), dtype=np.int32)

    def _with(self, pairs: Iterable[int]) -> Numbers:
        having = [np.array(self._having[pair], np.int32) for pair in pairs]  # a copy: an array that somebody looks into cannot grow
        if len(having) == 1:
            return having[0]
        return np.sort(np.concatenate(having)) if having else np.zeros(0, np.int32)

    def _pair(self, name: str, value: str) -> int:
        values = self._values.setdefault(name, {})
        pair = values.get(value)
        if pair is None:
            pair = values[value] = len(self._pairs)
            self._pairs.append((name, value))
            self._having.append(array("i"))
        return pair

    def _set(self, number: int) -> array[int]:
        return self._content[self._begins[number] : self._begins[number + 1]]

    def _slot(self, pairs: array[int]) -> int:
        """Where a label set is in the table, or where there is room for it."""
        table, mask = self._table, len(self._table) - 1
        slot = hash(pairs.tobytes()) & mask
        while (number := table[slot]) != _FREE and self._set(number) != pairs:
            slot = (slot + 1) & mask
        return slot

    def _widen(self) -> None:
        self._table = array("i", [_FREE]) * (2 * len(self._table))
        for number in range(len(self)):
            self._table[self._slot(self._set(number))] = number


class Places:
    """Of each series the groups that have it, and its row there, in the order in which they came."""

    def __init__(self) -> None:
        self._first = array("i")  # by series
        self._group, self._row, self._next = array("i"), array("i"), array("i")
        self._free = _FREE  # the first of those that were taken away

    def add(self, series: int, group: int, row: int) -> None:
        """A group has a series."""
        while len(self._first) <= series:
            self._first.append(_FREE)
        place = self._free
        if place == _FREE:
            place = len(self._group)
            for column in (self._group, self._row, self._next):
                column.append(_FREE)
        else:
            self._free = self._next[place]
        self._group[place], self._row[place], self._next[place] = group, row, _FREE
        before, after = _FREE, self._first[series]
        while after != _FREE:
            before, after = after, self._next[after]
        if before == _FREE:
            self._first[series] = place
        else:
            self._next[before] = place

    def of(self, series: int) -> list[tuple[int, int]]:
        """The groups that have a series, and its rows there."""
        found, place = [], self._first[series]
        while place != _FREE:
            found.append((self._group[place], self._row[place]))
            place = self._next[place]
        return found

    def row(self, series: int, group: int) -> int | None:
        """The row of a series in a group; None where it is not there."""
        return next((row for one, row in self.of(series) if one == group), None) if series < len(self._first) else None

    def remove(self, series: Sequence[int], groups: set[int]) -> None:
        """Groups have these series no longer."""
        for one in series:
            kept, place = [], self._first[one]
            while place != _FREE:
                after = self._next[place]
                if self._group[place] in groups:
                    self._next[place], self._free = self._free, place
                else:
                    kept.append(place)
                place = after
            self._first[one] = kept[0] if kept else _FREE
            for place, after in zip(kept, [*kept[1:], _FREE], strict=False):
                self._next[place] = after
