"""Samples as columns: series that are sampled together share one time axis, and a week of thousands of them stays small.

A `Store` holds groups of series. A group is `Computed` (the values of a moment come from a function: histories that are never stored) or
`Recorded` (appended column by column, and packed once a chunk is full). A series is its label set; where several groups have it, their
samples follow one another in time.

Two kinds of NaN have a meaning of their own here, told apart by their bits: "no sample at this time", and Prometheus' marker for a series
that has ended (model/value in its source).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from opslib.lab.prometheus.labels import Labels, Matcher, labels_of

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

STALE_BITS = np.uint64(0x7FF0000000000002)
ABSENT_BITS = np.uint64(0x7FF0000000000004)
_CHUNK = 24  # a piece that is not full takes eight bytes a sample, and most series never change


def absent(shape: tuple[int, ...]) -> Floats:
    """An array in which there is no sample yet."""
    return np.full(shape, ABSENT_BITS, np.uint64).view(np.float64)


def is_absent(values: Floats) -> Booleans:
    """Where there is no sample."""
    return np.equal(values.view(np.uint64), ABSENT_BITS)


def is_stale(values: Floats) -> Booleans:
    """Where the sample says that its series has ended."""
    return np.equal(values.view(np.uint64), STALE_BITS)


@dataclass(slots=True)
class Samples:
    """Series with a common time axis.

    Parameters
    ----------
    labels
        One entry a series.
    times
        Milliseconds, ascending, of shape (times,).
    values
        Of shape (series, times); where a series has no sample, or its end, the value has the bits that say so.
    """

    labels: list[Labels]
    times: Integers
    values: Floats


class Group(Protocol):
    """Series that share a time axis."""

    labels: list[Labels]

    def read(self, rows: Integers, start: int, end: int) -> tuple[Integers, Floats]:
        """Times from `start` to `end`, both included, in milliseconds, and the values of `rows` then."""

    def span(self, row: int) -> tuple[int, int]:
        """First and last time of a series."""


class Computed:
    """Series whose values are computed when they are asked for.

    Parameters
    ----------
    labels
        One entry a series.
    function
        Called with rows and times (milliseconds); gives values of shape (rows, times), the same for the same arguments.
    start, step
        First time and distance of samples in milliseconds.
    end
        Gives the time of now: later samples do not exist yet.
    lifetimes
        First and last time of each series, of shape (series, 2); without it they live from `start` on and for ever.
    """

    def __init__(
        self,
        labels: Sequence[Mapping[str, str]],
        function: Callable[[Integers, Integers], Floats],
        *,
        start: int,
        step: int,
        end: Callable[[], int],
        lifetimes: Integers | None = None,
    ) -> None:
        self.labels = [labels_of(item) for item in labels]
        self._function = function
        self._start, self._step, self._end = start, step, end
        self._lifetimes = lifetimes

    def read(self, rows: Integers, start: int, end: int) -> tuple[Integers, Floats]:
        """See `Group.read`."""
        first = max(0, -(-(start - self._start) // self._step))
        last = (min(end, self._end()) - self._start) // self._step
        times = self._start + self._step * np.arange(first, last + 1, dtype=np.int64)
        if not len(times):
            return times, absent((len(rows), 0))
        values = np.array(self._function(rows, times), np.float64, copy=True)
        if self._lifetimes is not None:
            lives = self._lifetimes[rows]
            over = times > lives[:, 1:]
            values.view(np.uint64)[over | (times < lives[:, :1])] = ABSENT_BITS
            values.view(np.uint64)[over & (times - self._step <= lives[:, 1:])] = STALE_BITS
        return times, values

    def span(self, row: int) -> tuple[int, int]:
        """See `Group.span`."""
        if self._lifetimes is None:
            return self._start, self._end()
        return max(self._start, int(self._lifetimes[row, 0])), min(self._end(), int(self._lifetimes[row, 1]))


@dataclass(slots=True)
class _Chunk:
    """A full piece of a group. Rows that never change are one number, those that fit are halves; nothing is rounded."""

    times: Integers
    kind: npt.NDArray[np.int8]
    place: npt.NDArray[np.int32]
    constant: Floats
    single: npt.NDArray[np.float32]
    double: Floats

    @classmethod
    def pack(cls, times: Integers, values: Floats) -> _Chunk:
        bits = values.view(np.uint64)
        constant = (bits == bits[:, :1]).all(axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            single = values.astype(np.float32)
        fits = (single.astype(np.float64) == values).all(axis=1) & ~constant
        kind = np.where(constant, 0, np.where(fits, 1, 2)).astype(np.int8)
        place = np.zeros(len(kind), np.int32)
        for number in range(3):
            place[kind == number] = np.arange(np.count_nonzero(kind == number))
        return cls(times.copy(), kind, place, values[kind == 0, 0], single[kind == 1], values[kind == 2])

    def values(self, rows: Integers, columns: slice) -> Floats:
        times = self.times[columns]
        result = absent((len(rows), len(times)))
        known = np.flatnonzero(rows < len(self.kind))  # later series were not there yet
        kinds, places = self.kind[rows[known]], self.place[rows[known]]
        result[known[kinds == 0]] = self.constant[places[kinds == 0], None]
        result[known[kinds == 1]] = self.single[places[kinds == 1], columns]
        result[known[kinds == 2]] = self.double[places[kinds == 2], columns]
        return result


class Recorded:
    """Series that are appended to, a column a time."""

    def __init__(self) -> None:
        self.labels: list[Labels] = []
        self._chunks: list[_Chunk] = []
        self._times = np.zeros(_CHUNK, np.int64)
        self._values = absent((0, _CHUNK))
        self._length = 0
        self._spans = np.zeros((0, 2), np.int64)

    @property
    def last(self) -> int | None:
        """The newest time."""
        if self._length:
            return int(self._times[self._length - 1])
        return int(self._chunks[-1].times[-1]) if self._chunks else None

    def load(self, times: Integers, values: Floats) -> None:
        """Append many columns at once: values of shape (series, times)."""
        self._grow()
        for begin in range(0, len(times), _CHUNK):
            piece = slice(begin, begin + _CHUNK)
            self._note(np.arange(len(values)), values[:, piece], times[piece])
            self._chunks.append(_Chunk.pack(times[piece], values[:, piece]))

    def append(self, time: int, rows: Integers, values: Floats) -> None:
        """Append one column."""
        self._grow()
        if self._length == 0 or self._times[self._length - 1] != time:
            if self._length == _CHUNK:
                self._chunks.append(_Chunk.pack(self._times, self._values))
                self._values = absent((len(self.labels), _CHUNK))
                self._length = 0
            self._times[self._length] = time
            self._length += 1
        self._values[rows, self._length - 1] = values
        self._note(rows, values[:, None], np.array([time]))

    def _note(self, rows: Integers, values: Floats, times: Integers) -> None:
        there = ~is_absent(values)
        any_there = there.any(axis=1)
        rows, there = rows[any_there], there[any_there]
        first, last = times[there.argmax(axis=1)], times[len(times) - 1 - there[:, ::-1].argmax(axis=1)]
        self._spans[rows, 0] = np.minimum(self._spans[rows, 0], first)
        self._spans[rows, 1] = np.maximum(self._spans[rows, 1], last)

    def _grow(self) -> None:
        missing = len(self.labels) - len(self._spans)
        if missing > 0:
            limits = np.iinfo(np.int64)
            self._spans = np.vstack([self._spans, np.tile(np.array([limits.max, limits.min]), (missing, 1))])
        if len(self._values) < len(self.labels):
            room = max(len(self.labels), len(self._values) * 5 // 4) - len(self._values)
            self._values = np.vstack([self._values, absent((room, _CHUNK))])

    def read(self, rows: Integers, start: int, end: int) -> tuple[Integers, Floats]:
        """See `Group.read`."""
        times, values = [np.zeros(0, np.int64)], [absent((len(rows), 0))]
        for chunk in self._chunks:
            if chunk.times[-1] < start or chunk.times[0] > end:
                continue
            columns = _columns(chunk.times, start, end)
            times.append(chunk.times[columns])
            values.append(chunk.values(rows, columns))
        head = self._times[: self._length]
        columns = _columns(head, start, end)
        times.append(head[columns].copy())
        values.append(self._values[rows, columns])
        return np.concatenate(times), np.concatenate(values, axis=1)

    def span(self, row: int) -> tuple[int, int]:
        """See `Group.span`."""
        return int(self._spans[row, 0]), int(self._spans[row, 1])

    def erase(self, start: int, end: int) -> None:
        """Drop the samples from `start` to `end`, both included."""
        chunks = []
        for chunk in self._chunks:
            outside = (chunk.times < start) | (chunk.times > end)
            if outside.all():
                chunks.append(chunk)
            elif outside.any():
                values = chunk.values(np.arange(len(chunk.kind)), slice(None))
                chunks.append(_Chunk.pack(chunk.times[outside], np.ascontiguousarray(values[:, outside])))
        self._chunks = chunks
        times = self._times[: self._length]
        left = np.flatnonzero((times < start) | (times > end))
        values = self._values[:, left].copy()
        self._times[: len(left)] = times[left]
        self._values[:, : self._length] = absent((len(self._values), self._length))
        self._values[:, : len(left)] = values
        self._length = len(left)

    def forget(self, before: int) -> None:
        """Drop chunks that ended before a time."""
        self._chunks = [chunk for chunk in self._chunks if chunk.times[-1] >= before]


def _columns(times: Integers, start: int, end: int) -> slice:
    return slice(int(np.searchsorted(times, start)), int(np.searchsorted(times, end, side="right")))


_NOTHING = Computed([], lambda rows, times: absent((len(rows), len(times))), start=0, step=1, end=lambda: 0)
"""What stands in the place of a group that was taken away."""


class Store:
    """All series, found by their labels.

    Parameters
    ----------
    retention_seconds
        Samples older than this, against the newest, are forgotten.
    """

    def __init__(self, retention_seconds: float = 15 * 86400) -> None:
        self.retention_seconds = retention_seconds
        self.lock = threading.RLock()
        self._groups: list[Group] = []
        self._labels: list[Labels] = []
        self._places: list[list[tuple[int, int]]] = []  # of a series: the groups that have it, and its row there
        self._known: dict[Labels, int] = {}
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self._postings: dict[str, dict[str, list[int]]] = {}
        self._pruned = 0

    # --- writing ---

    def add(self, *groups: Computed) -> None:
        """Add series that are computed."""
        with self.lock:
            for group in groups:
                self._groups.append(group)
                for row, labels in enumerate(group.labels):
                    group.labels[row] = self._place(labels, len(self._groups) - 1, row)

    def remove(self, groups: Sequence[Computed]) -> None:
        """Take series that are computed away again."""
        with self.lock:
            gone = {number for number, group in enumerate(self._groups) if any(group is one for one in groups)}
            for number in gone:
                self._groups[number] = _NOTHING
            if gone:
                for places in self._places:
                    places[:] = [place for place in places if place[0] not in gone]

    def erase(self, start: int, end: int, keep: Callable[[Labels], bool] = lambda labels: False) -> None:
        """Forget what was recorded from `start` to `end`, both included, in milliseconds; not of targets with a series to `keep`."""
        with self.lock:
            for group in self._groups:
                if isinstance(group, Recorded) and not any(keep(labels) for labels in group.labels):
                    group.erase(start, end)

    def load(self, labels: Sequence[Mapping[str, str]], times: Iterable[int], values: npt.ArrayLike) -> None:
        """Add whole histories: times in milliseconds, values of shape (series, times), of which NaN is a value like another."""
        group = Recorded()
        columns = np.fromiter(times, np.int64)
        array = np.asarray(values, np.float64).reshape(len(labels), len(columns))
        with self.lock:
            self._groups.append(group)
            for item in labels:
                self._row(group, len(self._groups) - 1, labels_of(item))
            group.load(columns, array)

    def scrape(self) -> Scrape:
        """A target's series, to append to."""
        with self.lock:
            group = Recorded()
            self._groups.append(group)
            return Scrape(self, group, len(self._groups) - 1)

    def _row(self, group: Recorded, number: int, labels: Labels) -> int:
        group.labels.append(self._place(labels, number, len(group.labels)))
        return len(group.labels) - 1

    def shared(self, labels: Labels) -> Labels:
        """The same labels in as little memory as can be: pairs that other series have too are theirs."""
        series = self._known.get(labels)
        return tuple(self._pairs.setdefault(pair, pair) for pair in labels) if series is None else self._labels[series]

    def _place(self, labels: Labels, group: int, row: int) -> Labels:
        labels = self.shared(labels)
        series = self._known.get(labels)
        if series is None:
            series = self._known[labels] = len(self._labels)
            self._labels.append(labels)
            self._places.append([])
            for name, value in labels:
                self._postings.setdefault(name, {}).setdefault(value, []).append(series)
        self._places[series].append((group, row))
        return labels

    def prune(self, now: int) -> None:
        """Forget what is too old; cheap to call often."""
        before = now - int(self.retention_seconds * 1000)
        with self.lock:
            if before - self._pruned < 60_000:
                return
            self._pruned = before
            for group in self._groups:
                if isinstance(group, Recorded):
                    group.forget(before)

    # --- finding ---

    def find(self, matchers: Sequence[Matcher], start: int | None = None, end: int | None = None) -> list[int]:
        """Series that fulfil every matcher, and have samples between the times, ordered by labels."""
        with self.lock:
            found: set[int] | None = None
            for matcher in sorted(matchers, key=lambda item: item.sign != "="):
                values = self._postings.get(matcher.name, {})
                if matcher(""):  # series without the label match too
                    excluded = {series for value, listed in values.items() if not matcher(value) for series in listed}
                    found = (found if found is not None else set(range(len(self._labels)))) - excluded
                elif matcher.sign == "=":
                    listed = set(values.get(matcher.value, ()))
                    found = listed if found is None else found & listed
                else:
                    listed = {series for value, those in values.items() if matcher(value) for series in those}
                    found = listed if found is None else found & listed
                if not found:
                    return []
            chosen = sorted(range(len(self._labels)) if found is None else found, key=self._labels.__getitem__)
            if start is None or end is None:
                return chosen
            return [series for series in chosen if self._overlaps(series, start, end)]

    def _overlaps(self, series: int, start: int, end: int) -> bool:
        for group, row in self._places[series]:
            first, last = self._groups[group].span(row)
            if first <= end and last >= start:
                return True
        return False

    def labels(self, series: Iterable[int]) -> list[Labels]:
        """The labels of series that `find` found."""
        return [self._labels[number] for number in series]

    def label_names(self, series: Iterable[int] | None = None) -> list[str]:
        """Label names, of all series or of some."""
        with self.lock:
            if series is None:
                return sorted(self._postings)
            return sorted({name for number in series for name, _value in self._labels[number]})

    def label_values(self, name: str, series: Iterable[int] | None = None) -> list[str]:
        """Values of a label, of all series or of some."""
        with self.lock:
            if series is None:
                return sorted(self._postings.get(name, ()))
            return sorted({value for number in series for key, value in self._labels[number] if key == name})

    def counts(self) -> dict[str, dict[str, int]]:
        """How many series each value of each label has."""
        with self.lock:
            return {name: {value: len(listed) for value, listed in values.items()} for name, values in self._postings.items()}

    def __len__(self) -> int:
        return len(self._labels)

    # --- reading ---

    def read(self, series: Sequence[int], start: int, end: int) -> list[Samples]:
        """Samples of series from `start` to `end`, both included, in milliseconds, those with a common time axis together."""
        with self.lock:
            together: dict[tuple[int, ...], list[int]] = {}
            for number in series:
                together.setdefault(tuple(group for group, _row in self._places[number]), []).append(number)
            return [self._samples(groups, numbers, start, end) for groups, numbers in together.items()]

    def _samples(self, groups: tuple[int, ...], numbers: list[int], start: int, end: int) -> Samples:
        parts = []
        for position, group in enumerate(groups):
            rows = np.array([self._places[number][position][1] for number in numbers], np.int64)
            parts.append(self._groups[group].read(rows, start, end))
        labels = [self._labels[number] for number in numbers]
        parts = [part for part in parts if len(part[0])] or parts[:1]
        if len(parts) == 1:
            return Samples(labels, *parts[0])
        times = np.concatenate([part[0] for part in parts])
        values = np.concatenate([part[1] for part in parts], axis=1)
        order = np.argsort(times, kind="stable")
        times, values = times[order], values[:, order]
        for column in np.flatnonzero(times[1:] == times[:-1]):  # the first to have a sample at a time wins
            gap = is_absent(values[:, column])
            values[~gap, column + 1] = values[~gap, column]
        keep = np.append(times[1:] != times[:-1], True)
        return Samples(labels, times[keep], np.ascontiguousarray(values[:, keep]))


class Scrape:
    """What one target gives: a series that it no longer gives has ended, and is marked so."""

    def __init__(self, store: Store, group: Recorded, number: int) -> None:
        self._store, self._group, self._number = store, group, number
        self._rows: dict[Labels, int] = {}
        self._before: set[int] = set()

    def append(self, time: int, values: Mapping[Labels, float]) -> None:
        """Append what was given at a time in milliseconds.

        Raises
        ------
        ValueError
            The time is not after the last one.
        """
        with self._store.lock:
            if self._group.last is not None and time <= self._group.last:
                raise ValueError(f"out of order: {time} after {self._group.last}")
            rows = []
            for labels in values:
                row = self._rows.get(labels)
                if row is None:
                    row = self._rows[labels] = self._store._row(self._group, self._number, labels)
                rows.append(row)
            ended = self._before.difference(rows)
            column = np.fromiter(values.values(), np.float64, len(rows))
            marks = np.full(len(ended), STALE_BITS, np.uint64).view(np.float64)
            self._group.append(time, np.array([*rows, *ended], np.int64), np.concatenate([column, marks]))
            self._before = set(rows)
        self._store.prune(time)
