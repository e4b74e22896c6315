"""What a metric of the world is: its name, its series, and how their values are computed for any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from opslib.lab.prometheus.store import STALE_BITS
from opslib.lab.world.noise import Floats, Integers

if TYPE_CHECKING:
    from opslib.lab.world.model import World

Values = Callable[[Integers, Floats], Floats]
Labels = dict[str, str]

_TOGETHER = 64
_MANY_PODS = 1000


@dataclass(frozen=True, slots=True)
class Family:
    """Series of one name.

    Parameters
    ----------
    labels
        One entry a series, without the name.
    values
        Called with rows and times (Unix seconds, of shape (times,)); gives values of shape (rows, times).
    lives
        First and last time of each series in Unix seconds, of shape (series, 2); without it they are always there.
    """

    name: str
    kind: Literal["counter", "gauge"]
    labels: Sequence[Labels]
    values: Values
    lives: Floats | None = None


def detailed(world: World) -> bool:
    """Whether pods have all of their metrics: in a big world they have those alone that chapters ask for, and services count as one."""
    return sum(service.replicas or len(world.nodes) for service in world.services) <= _MANY_PODS


def constant(values: npt.ArrayLike) -> Values:
    """Values that never change, one a series."""
    known = np.asarray(values, np.float64)

    def function(rows: Integers, times: Floats) -> Floats:
        return np.repeat(known[rows][:, None], len(times), axis=1)

    return function


def hidden(values: Floats, seen: npt.NDArray[np.bool_]) -> Floats:
    """Values, with the mark of a series that has ended where it is not seen."""
    if not seen.all():
        values = np.array(values, np.float64)
        values.view(np.uint64)[~seen] = STALE_BITS
    return values


class Counter:
    """Counters of pods, that begin anew with each container: shares of what their services have counted.

    Parameters
    ----------
    pods
        Place of each series' pod.
    parts
        Names of what `History` counts, each with the row and the weight of each series.
    shared
        Whether the service's count is divided among its pods; otherwise each counts it all.
    whole
        Whether it counts things, which come whole.
    """

    def __init__(
        self,
        world: World,
        pods: Integers,
        parts: Mapping[str, tuple[Integers, npt.ArrayLike]],
        *,
        shared: bool = True,
        whole: bool = False,
    ) -> None:
        self._world, self._pods, self.whole = world, pods, whole
        self._shared = shared
        self._parts = [
            (name, rows, np.broadcast_to(np.asarray(weights, np.float64), rows.shape)) for name, (rows, weights) in parts.items()
        ]

    @cached_property
    def _bases(self) -> list[Floats]:
        """What had been counted when each container began, a column a container, for each part."""
        starts = self._world.pods.starts[self._pods]
        series, lives = np.nonzero(np.isfinite(starts) & (starts <= self._world.asked_until))
        bases = []
        for name, rows, _weights in self._parts:
            base = np.zeros(starts.shape)
            base[series, lives] = self._world.history.total_each(name, rows[series], starts[series, lives])
            bases.append(base)
        return bases

    def __call__(self, rows: Integers, times: Floats) -> Floats:
        result = np.zeros((len(rows), len(times)))
        for begin in range(0, len(rows), _TOGETHER):  # not all at once: what is needed on the way would be several times the result
            piece = slice(begin, begin + _TOGETHER)
            result[piece] = self._counted(rows[piece], times, result[piece])
        return result

    def _counted(self, rows: Integers, times: Floats, result: Floats) -> Floats:
        pods = self._pods[rows]
        lives = self._world.pods.life(pods, times)
        for (name, places, weights), bases in zip(self._parts, self._bases, strict=True):
            asked, back = np.unique(places[rows], return_inverse=True)
            counted = self._world.history.total(name, asked, times)[back]
            counted -= np.take_along_axis(bases[rows], lives, axis=1)
            counted *= weights[rows][:, None]
            result += counted
        if self._shared:
            result *= self._world.pods.share[pods][:, None]
        np.maximum(result, 0, out=result)
        if self.whole:
            np.floor(result + 1e-6, out=result)
        return hidden(result, self._world.pods.seen(pods, times))

    def growth(self, rows: Integers, since: Floats, time: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """What rows have counted between `since` and a time at the rate of that time, and which have begun anew in between."""
        pods, now = self._pods[rows], np.array([time])
        began = self._world.pods.began(pods, now)[:, 0]
        rate = _rate(self._world, self._parts, rows, now)
        if self._shared:
            rate *= self._world.pods.share[pods]
        grown = rate * np.maximum(time - np.maximum(since, began), 0)
        return hidden(grown[:, None], self._world.pods.seen(pods, now))[:, 0], began > since


class Total:
    """Counters that no restart touches: weighted sums of what `History` has counted since the world began.

    Parameters
    ----------
    parts, whole
        As for `Counter`.
    steady
        What each series counts a second besides.
    shown
        Whether each row is seen at each time; without it always.
    """

    def __init__(
        self,
        world: World,
        parts: Mapping[str, tuple[Integers, npt.ArrayLike]],
        *,
        steady: npt.ArrayLike = 0.0,
        shown: Callable[[Integers, Floats], npt.NDArray[np.bool_]] | None = None,
        whole: bool = False,
    ) -> None:
        self._world, self.whole, self._shown = world, whole, shown
        self._parts = [
            (name, rows, np.broadcast_to(np.asarray(weights, np.float64), rows.shape)) for name, (rows, weights) in parts.items()
        ]
        self._steady = np.broadcast_to(np.asarray(steady, np.float64), self._parts[0][1].shape)

    def __call__(self, rows: Integers, times: Floats) -> Floats:
        result = self._steady[rows][:, None] * np.maximum(times - self._world.start, 0)
        for name, places, weights in self._parts:
            asked, back = np.unique(places[rows], return_inverse=True)
            result += self._world.history.total(name, asked, times)[back] * weights[rows][:, None]
        np.maximum(result, 0, out=result)
        if self.whole:
            np.floor(result + 1e-6, out=result)
        return result if self._shown is None else hidden(result, self._shown(rows, times))

    def growth(self, rows: Integers, since: Floats, time: float) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """See `Counter.growth`; none begins anew, and one that is not known from before counts from now on."""
        now = np.array([time])
        rate = _rate(self._world, self._parts, rows, now) + self._steady[rows]
        grown = rate * np.where(np.isfinite(since), time - since, 0)
        if self._shown is not None:
            grown = hidden(grown[:, None], self._shown(rows, now))[:, 0]
        return grown, np.zeros(len(rows), np.bool_)


def _rate(world: World, parts: Sequence[tuple[str, Integers, Floats]], rows: Integers, now: Floats) -> Floats:
    rate = np.zeros(len(rows))
    for name, places, weights in parts:
        asked, back = np.unique(places[rows], return_inverse=True)
        rate += world.history.rate(name, asked, now)[back, 0] * weights[rows]
    return np.asarray(np.maximum(rate, 0))


def of_pods(world: World, pods: Integers, function: Callable[[Integers, Floats], Floats]) -> Values:
    """Values of pods (their places, and times), hidden where the pod does not run or its node does not answer."""

    def values(rows: Integers, times: Floats) -> Floats:
        chosen = pods[rows]
        return hidden(function(chosen, times), world.pods.seen(chosen, times))

    return values


def lives_of(world: World, pods: Integers, *, objects: bool = False) -> Floats:
    """From when to when the pods' containers run; with `objects`, until their objects go."""
    return np.stack([world.pods.started[pods], (world.pods.removed if objects else world.pods.ended)[pods]], axis=1)
