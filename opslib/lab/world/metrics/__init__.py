"""The world's metrics, under the names and labels of the exporters that a cluster has.

They are computed when they are asked for, so that a week of the whole platform is there at once and takes no memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from opslib.lab.prometheus.store import Computed, Store
from opslib.lab.world.metrics import applications, containers, machines, objects
from opslib.lab.world.metrics.families import Family, Values
from opslib.lab.world.noise import Floats, Integers

if TYPE_CHECKING:
    from opslib.lab.world.model import World

__all__ = ["Family", "families", "load"]

_FOR_EVER = 1 << 60


def families(world: World, since: float = -math.inf, until: float = math.inf) -> Iterator[Family]:
    """All metrics of a world; without those of pods that were gone before `since`, or begin after `until` (Unix seconds)."""
    pods = np.flatnonzero((world.pods.started <= until) & (world.pods.removed >= since))
    for part in (applications.families, applications.between, containers.families, objects.families):
        yield from (family for family in part(world, pods) if len(family.labels))
    yield from machines.families(world)
    yield from machines.platform(world)


def load(
    store: Store,
    world: World,
    *,
    start: float,
    end: Callable[[], float],
    gaps: Callable[[], Sequence[Sequence[float]]] = tuple,
    step_seconds: float = 15.0,
) -> list[Computed]:
    """Hand a world's metrics to a store.

    Parameters
    ----------
    start
        The first sample's time, in Unix seconds.
    end
        Gives the time at which there are no samples any more.
    gaps
        Gives from when to when in between there are none.
    step_seconds
        How far apart samples are; they are at multiples of it.

    Returns
    -------
    list of Computed
        What the store got; `Store.remove` takes it back.
    """
    groups = []
    step = int(step_seconds * 1000)
    first = -(-int(start * 1000) // step) * step

    def last() -> int:
        return math.ceil(end() * 1000) - 1

    def between() -> list[tuple[int, int]]:
        return [(math.ceil(begin * 1000), math.ceil(until * 1000) - 1) for begin, until in gaps()]

    with store.lock:
        for family in families(world, since=start, until=end()):
            lives = None
            if family.lives is not None:
                bounded = np.nan_to_num(family.lives * 1000, posinf=float(_FOR_EVER), neginf=0.0)
                lives = np.ceil(bounded).astype(np.int64)
            labels = [{"__name__": family.name, **labels} for labels in family.labels]
            values = functools.partial(_at, family.values)  # not the family, whose labels take more memory than all else
            groups.append(Computed(labels, values, start=first, step=step, end=last, gaps=between, lifetimes=lives))
            store.add(groups[-1])
    return groups


def _at(values: Values, rows: Integers, times: Integers) -> Floats:
    return values(rows, times / 1000)
