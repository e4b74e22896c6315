"""Samples as columns: series that are sampled together share one time axis, and a week of thousands of them stays small.

A `Store` holds groups of series. A group is `Computed` (the values of a moment come from a function: histories that are never stored) or
`Recorded` (appended column by column, and packed once a chunk is full). A series is its label set; where several groups have it, their
samples follow one another in time.

Two kinds of NaN have a meaning of their own here, told apart by their bits: "no sample at this time", and Prometheus' marker for a series
that has ended (model/value in its source).
"""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from opslib.lab.prometheus.index import Index, Places
from opslib.lab.prometheus.labels import Labels, Matcher, labels_of

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

STALE_BITS = np.uint64(0x7FF0000000000002)
ABSENT_BITS = np.uint64(0x7FF0000000000004)
_NEVER = (np.iinfo(np.int64).max, np.iinfo(np.int64).min)  # first and last time of what has no samples
_ORDERS_KEPT = 256
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
    """Series that share a time axis. `series` has the store's number of each row."""

    series: array[int]

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
    gaps
        Gives from when to when there are no samples, both included.
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
        gaps: Callable[[], Sequence[tuple[int, int]]] = tuple,
        lifetimes: Integers | None = None,
    ) -> None:
        self.given = labels  # until a store has them
        self.series = array("i")
        self._function = function
        self._start, self._step, self._end, self._gaps = start, step, end, gaps
        self._lifetimes = lifetimes

    def read(self, rows: Integers, start: int, end: int) -> tuple[Integers, Floats]:
        """See `Group.read`."""
        first = max(0, -(-(start - self._start) // self._step))
        last = (min(end, self._end()) - self._start) // self._step
        times = self._start + self._step * np.arange(first, last + 1, dtype=np.int64)
        for begin, until in self._gaps():
            times = times[(times < begin) | (times > until)]
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
    """A full piece of a group. Rows that never change are one number, those that fit are halves; nothing is rounded.

    Where samples are missing, or say that a series has ended, is the same for many rows (a scrape that failed): that is kept apart.
    """

    times: Integers
    kind: npt.NDArray[np.int8]
    place: npt.NDArray[np.int32]
    constant: Floats
    single: npt.NDArray[np.float32]
    double: Floats
    holes: npt.NDArray[np.uint64]  # as bits, those of samples 0; each pattern once
    pattern: npt.NDArray[Any]  # by row

    @classmethod
    def pack(cls, times: Integers, values: Floats) -> _Chunk:
        bits = values.view(np.uint64)
        marked = (bits == ABSENT_BITS) | (bits == STALE_BITS)
        first = bits[np.arange(len(bits)), marked.argmin(axis=1)]
        holes, pattern = np.unique(np.where(marked, bits, 0), axis=0, return_inverse=True)
        filled = np.where(marked, first[:, None], bits)
        constant = (filled == first[:, None]).all(axis=1)
        whole = filled.view(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            single = whole.astype(np.float32)
        fits = (single.astype(np.float64) == whole).all(axis=1) & ~constant
        kind = np.where(constant, 0, np.where(fits, 1, 2)).astype(np.int8)
        place = np.zeros(len(kind), np.int32)
        for number in range(3):
            place[kind == number] = np.arange(np.count_nonzero(kind == number))
        columns = whole[kind == 0, 0], single[kind == 1], whole[kind == 2]
        return cls(times.copy(), kind, place, *columns, holes, pattern.reshape(-1).astype(np.min_scalar_type(len(holes))))

    @property
    def bytes(self) -> int:
        """What it takes."""
        columns = (self.times, self.kind, self.place, self.constant, self.single, self.double, self.holes, self.pattern)
        return sum(column.nbytes for column in columns)

    def values(self, rows: Integers, columns: slice) -> Floats:
        times = self.times[columns]
        result = absent((len(rows), len(times)))
        known = np.flatnonzero(rows < len(self.kind))  # later series were not there yet
        kinds, places = self.kind[rows[known]], self.place[rows[known]]
        result[known[kinds == 0]] = self.constant[places[kinds == 0], None]
        result[known[kinds == 1]] = self.single[places[kinds == 1], columns]
        result[known[kinds == 2]] = self.double[places[kinds == 2], columns]
        if self.holes.any():
            holes = self.holes[self.pattern[rows[known]], columns]
            bits = result.view(np.uint64)
            bits[known] = np.where(holes, holes, bits[known])
        return result


class Recorded:
    """Series that are appended to, a column a time."""

    def __init__(self) -> None:
        self.series = array("i")
        self._chunks: list[_Chunk] = []
        self._times = np.zeros(_CHUNK, np.int64)
        self._values = absent((0, _CHUNK))  # of a group that was loaded whole there is no more than the chunks
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
                self._values = absent((len(self.series), _CHUNK))
                self._length = 0
            self._times[self._length] = time
            self._length += 1
        if len(self._values) < len(self.series):
            room = max(len(self.series), len(self._values) * 5 // 4) - len(self._values)
            self._values = np.vstack([self._values, absent((room, _CHUNK))])
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
        missing = len(self.series) - len(self._spans)
        if missing > 0:
            self._spans = np.vstack([self._spans, np.tile(np.array(_NEVER), (missing, 1))])

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
        newest = absent((len(rows), len(times[-1])))
        known = rows < len(self._values)  # others have had no sample yet, or were loaded whole
        newest[known] = self._values[rows[known], columns]
        values.append(newest)
        return np.concatenate(times), np.concatenate(values, axis=1)

    def span(self, row: int) -> tuple[int, int]:
        """See `Group.span`."""
        first, last = self._spans[row] if row < len(self._spans) else _NEVER
        return int(first), int(last)

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

    def pieces(self) -> list[tuple[int, int]]:
        """The last time of each chunk, and what it takes in bytes."""
        return [(int(chunk.times[-1]), chunk.bytes) for chunk in self._chunks]

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
    retention_bytes
        Where those that were recorded take more, the oldest are forgotten.
    """

    def __init__(self, retention_seconds: float = 15 * 86400, retention_bytes: float = math.inf) -> None:
        self.retention_seconds, self.retention_bytes = retention_seconds, retention_bytes
        self.lock = threading.RLock()
        self._groups: list[Group] = []
        self._free: list[int] = []  # places of groups that were taken away
        self._index = Index()
        self._places = Places()
        self._pruned = 0
        self._known: dict[tuple[Matcher, ...], array[int]] = {}
        self._known_of = 0  # so many series

    # --- writing ---

    def add(self, *groups: Computed) -> None:
        """Add series that are computed."""
        with self.lock:
            for group in groups:
                if self._free:
                    number = self._free.pop()
                    self._groups[number] = group
                else:
                    number = len(self._groups)
                    self._groups.append(group)
                for row, labels in enumerate(group.given):
                    self._place(labels_of(labels), group, number, row)
                group.given = ()

    def remove(self, groups: Sequence[Computed]) -> None:
        """Take series that are computed away again."""
        with self.lock:
            gone = {number for number, group in enumerate(self._groups) if any(group is one for one in groups)}
            for number in gone:
                self._places.remove(self._groups[number].series, gone)
                self._groups[number] = _NOTHING
                self._free.append(number)

    def erase(self, start: int, end: int, keep: Callable[[Labels], bool] = lambda labels: False) -> None:
        """Forget what was recorded from `start` to `end`, both included, in milliseconds; not of targets with a series to `keep`."""
        with self.lock:
            for group in self._groups:
                if isinstance(group, Recorded) and not any(keep(self._index[series]) for series in group.series):
                    group.erase(start, end)

    def load(self, labels: Sequence[Mapping[str, str]], times: Iterable[int], values: npt.ArrayLike) -> None:
        """Add whole histories: times in milliseconds, values of shape (series, times), of which NaN is a value like another."""
        group = Recorded()
        columns = np.fromiter(times, np.int64)
        shaped = np.asarray(values, np.float64).reshape(len(labels), len(columns))
        with self.lock:
            self._groups.append(group)
            for row, item in enumerate(labels):
                self._place(labels_of(item), group, len(self._groups) - 1, row)
            group.load(columns, shaped)

    def scrape(self) -> Scrape:
        """A target's series, to append to."""
        with self.lock:
            group = Recorded()
            self._groups.append(group)
            return Scrape(self, group, len(self._groups) - 1)

    def _place(self, labels: Labels, group: Group, number: int, row: int) -> None:
        series = self._index.number(labels)
        self._places.add(series, number, row)
        group.series.append(series)

    def prune(self, now: int) -> None:
        """Forget what is too old; cheap to call often."""
        before = now - int(self.retention_seconds * 1000)
        with self.lock:
            if before - self._pruned < 60_000:
                return
            self._pruned = before
            recorded = [group for group in self._groups if isinstance(group, Recorded)]
            used = 0
            for last, size in sorted((piece for group in recorded for piece in group.pieces()), reverse=True):
                used += size
                if used > self.retention_bytes:
                    before = max(before, last + 1)
                    break
            for group in recorded:
                group.forget(before)

    # --- finding ---

    def find(self, matchers: Sequence[Matcher], start: int | None = None, end: int | None = None) -> list[int]:
        """Series that fulfil every matcher, and have samples between the times, ordered by labels."""
        with self.lock:
            found = self._ordered(tuple(matchers))
            return [series for series in found if start is None or end is None or self._overlaps(series, start, end)]

    def _ordered(self, matchers: tuple[Matcher, ...]) -> array[int]:
        """Series that fulfil every matcher, ordered by labels: kept until a series comes, as rules always ask for the same."""
        if self._known_of != len(self._index):
            self._known_of, self._known = len(self._index), {}
        found = self._known.get(matchers)
        if found is None:
            if len(self._known) == _ORDERS_KEPT:
                self._known.clear()
            found = array("i", sorted(self._index.find(matchers).tolist(), key=self._index.__getitem__))
            self._known[matchers] = found
        return found

    def _overlaps(self, series: int, start: int, end: int) -> bool:
        for group, row in self._places.of(series):
            first, last = self._groups[group].span(row)
            if first <= end and last >= start:
                return True
        return False

    def labels(self, series: Iterable[int]) -> list[Labels]:
        """The labels of series that `find` found."""
        return [self._index[number] for number in series]

    def label_names(self, series: Iterable[int] | None = None) -> list[str]:
        """Label names, of all series or of some."""
        with self.lock:
            if series is None:
                return self._index.names()
            return sorted({name for number in series for name, _value in self._index[number]})

    def label_values(self, name: str, series: Iterable[int] | None = None) -> list[str]:
        """Values of a label, of all series or of some."""
        with self.lock:
            if series is None:
                return sorted(self._index.values(name))
            return sorted({value for number in series for key, value in self._index[number] if key == name})

    def counts(self) -> dict[str, dict[str, int]]:
        """How many series each value of each label has."""
        with self.lock:
            return {name: self._index.values(name) for name in self._index.names()}

    def __len__(self) -> int:
        return len(self._index)

    # --- reading ---

    def read(self, series: Sequence[int], start: int, end: int) -> list[Samples]:
        """Samples of series from `start` to `end`, both included, in milliseconds, those with a common time axis together."""
        with self.lock:
            together: dict[tuple[int, ...], tuple[list[int], list[list[int]]]] = {}
            for number in series:
                places = self._places.of(number)
                numbers, rows = together.setdefault(tuple([group for group, _row in places]), ([], []))
                numbers.append(number)
                rows.append([row for _group, row in places])
            return [self._samples(groups, *found, start, end) for groups, found in together.items()]

    def _samples(self, groups: tuple[int, ...], numbers: list[int], rows: list[list[int]], start: int, end: int) -> Samples:
        each = np.array(rows, np.int64).reshape(len(numbers), len(groups)).T
        parts = [self._groups[group].read(own, start, end) for group, own in zip(groups, each, strict=True)]
        labels = self.labels(numbers)
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
        self._before = np.zeros(0, np.int64)

    def row(self, labels: Labels) -> int:
        """The row of a series, for `append_rows`."""
        store = self._store
        with store.lock:
            row = store._places.row(store._index.number(labels), self._number)
            if row is None:
                row = len(self._group.series)
                store._place(labels, self._group, self._number, row)
            return row

    def append(self, time: int, values: Mapping[Labels, float]) -> None:
        """Append what was given at a time in milliseconds.

        Raises
        ------
        ValueError
            The time is not after the last one.
        """
        rows = np.array([self.row(labels) for labels in values], np.int64)
        self.append_rows(time, rows, np.fromiter(values.values(), np.float64, len(rows)))

    def append_rows(self, time: int, rows: Integers, values: Floats) -> None:
        """The same, by rows."""
        with self._store.lock:
            if self._group.last is not None and time <= self._group.last:
                raise ValueError(f"out of order: {time} after {self._group.last}")
            ended = np.setdiff1d(self._before, rows)
            marks = np.full(len(ended), STALE_BITS, np.uint64).view(np.float64)
            self._group.append(time, np.concatenate([rows, ended]), np.concatenate([values, marks]))
            self._before = np.unique(rows)
        self._store.prune(time)
