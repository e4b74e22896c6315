"""Pages of the world's metrics as Prometheus scrapes them: gauges as they are, counters that go on from where they were."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from opslib.lab.prometheus.store import ABSENT_BITS, STALE_BITS
from opslib.lab.world.metrics.families import Counter, Family, Total
from opslib.lab.world.noise import Floats, Integers

_HISTOGRAM = ("_bucket", "_sum", "_count")


@dataclass(slots=True)
class _Tally:
    """The series of a family on a page: how each is written, what it has counted, and up to when."""

    family: Family
    rows: Integers
    series: list[str]
    counted: Floats
    since: Floats


class Page:
    """Metrics of one target.

    Parameters
    ----------
    rows_of
        Gives the rows of a family that are on the page.
    before
        What counters go on from: by series, as `written` writes it, their values and the Unix second of those.
    """

    def __init__(
        self,
        families: Iterable[Family],
        rows_of: Callable[[Family], Sequence[int]] = lambda family: range(len(family.labels)),
        *,
        before: Mapping[str, tuple[float, float]],
    ) -> None:
        self._tallies: list[_Tally] = []
        for family in families:
            rows = rows_of(family)
            if not len(rows):
                continue
            series = [written(family.name, family.labels[row]) for row in rows]
            known = [before.get(one, (math.nan, -math.inf)) for one in series] if family.kind == "counter" else []
            values = np.array(known, np.float64).reshape(-1, 2)
            bare = replace(family, labels=())  # how they are written is enough
            self._tallies.append(_Tally(bare, np.array(rows, np.int64), series, values[:, 0].copy(), values[:, 1].copy()))

    def counters(self) -> dict[str, tuple[float, float]]:
        """What its counters have counted, and up to when."""
        return {
            series: (value, since)
            for tally in self._tallies
            for series, value, since in zip(tally.series, tally.counted.tolist(), tally.since.tolist(), strict=False)
            if since > -math.inf
        }

    def text(self, time: float) -> str:
        """The page at a time in Unix seconds."""
        lines: list[str] = []
        heads: set[str] = set()
        for tally in self._tallies:
            family = tally.family
            values = _counted(tally, time) if family.kind == "counter" else family.values(tally.rows, np.array([time]))[:, 0]
            bits = np.ascontiguousarray(values).view(np.uint64)
            there = (bits != STALE_BITS) & (bits != ABSENT_BITS)
            if family.lives is not None:
                lives = family.lives[tally.rows]
                there &= (lives[:, 0] <= time) & (time < lives[:, 1])
            head = _head(family)
            if head not in heads:
                heads.add(head)
                lines.append(head)
            lines += [f"{tally.series[row]} {value!r}\n" for row, value in zip(np.flatnonzero(there), values[there].tolist(), strict=True)]
        return "".join(lines)


class Counters:
    """The counters of a past, for pages to go on from."""

    def __init__(self, families: Iterable[Family]) -> None:
        counted = [family for family in families if family.kind == "counter"]
        inside: dict[int, list[str]] = {}  # several families have the same labels
        for family in counted:
            if id(family.labels) not in inside:
                inside[id(family.labels)] = [_inside(labels) for labels in family.labels]
        self._series = [(family, [f"{family.name}{text}" for text in inside[id(family.labels)]]) for family in counted]

    def at(self, time: float) -> dict[str, tuple[float, float]]:
        """What they have come to at a time in Unix seconds."""
        found: dict[str, tuple[float, float]] = {}
        for family, names in self._series:
            values = family.values(np.arange(len(names)), np.array([time]))[:, 0].tolist()
            found.update((name, (value, time)) for name, value in zip(names, values, strict=True) if not math.isnan(value))
        return found


def written(name: str, labels: Mapping[str, str]) -> str:
    """A series as a page has it."""
    return f"{name}{_inside(labels)}"


def _inside(labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{{{inside}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") if '"' in text or "\\" in text or "\n" in text else text


def _head(family: Family) -> str:
    for end in _HISTOGRAM:
        if family.name.endswith(end) and family.kind == "counter":
            return f"# TYPE {family.name.removesuffix(end)} histogram\n"
    return f"# TYPE {family.name} {family.kind}\n"


def _counted(tally: _Tally, time: float) -> Floats:
    """Let the counters of a family go on to a time; what they show then."""
    values = tally.family.values
    if isinstance(values, Counter | Total):
        grown, anew = values.growth(tally.rows, tally.since, time)
    else:
        grown, anew = _difference(tally, time)
    hidden = np.isnan(grown)
    start = anew | np.isnan(tally.counted)
    counted = np.where(start, grown, tally.counted + grown)
    tally.counted = np.where(hidden, tally.counted, counted)
    tally.since = np.where(hidden, tally.since, time)
    shown = np.floor(counted + 1e-6) if getattr(values, "whole", False) else counted
    return np.where(hidden, grown, shown)


def _difference(tally: _Tally, time: float) -> tuple[Floats, np.ndarray]:
    """The growth of counters that are functions of time alone; one that is less than before has begun anew."""
    times = np.unique(np.append(tally.since[np.isfinite(tally.since)], time))
    values = tally.family.values(tally.rows, times)
    now = values[:, -1]
    before = values[np.arange(len(tally.rows)), np.searchsorted(times, np.where(np.isfinite(tally.since), tally.since, time))]
    anew = (np.nan_to_num(before) > now) | ~np.isfinite(tally.since)
    return np.where(anew, now, now - np.nan_to_num(before, nan=0.0)), anew
