"""The world's metrics, under the names and labels of the exporters that a cluster has.

They are computed when they are asked for, so that a week of the whole platform is there at once and takes no memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from opslib.lab.prometheus.store import Computed, Store
from opslib.lab.world.metrics import applications, containers, machines, objects
from opslib.lab.world.metrics.families import Family
from opslib.lab.world.noise import Floats, Integers

if TYPE_CHECKING:
    from opslib.lab.world.model import World

__all__ = ["Family", "families", "load"]

_FOR_EVER = 1 << 60


def families(world: World, since: float = -math.inf, until: float = math.inf) -> list[Family]:
    """All metrics of a world; without those of pods that were gone before `since`, or begin after `until` (Unix seconds)."""
    pods = np.flatnonzero((world.pods.started <= until) & (world.pods.removed >= since))
    found: list[Family] = []
    for part in (applications, containers, objects, machines):
        found += part.families(world, pods)
    return [family for family in found if len(family.labels)]


def load(store: Store, world: World, *, start: float, step_seconds: float, end: Callable[[], float]) -> int:
    """Hand a world's metrics to a store.

    Parameters
    ----------
    start, step_seconds
        The first sample's time (Unix seconds), and how far apart they are.
    end
        Gives the time of now: later samples do not exist yet. When something breaks, let it give that moment from then on, and load the
        broken world from there: up to then the two are the same.

    Returns
    -------
    int
        How many series there are.
    """
    count = 0
    for family in families(world, since=start):
        lives = None
        if family.lives is not None:
            bounded = np.nan_to_num(family.lives * 1000, posinf=float(_FOR_EVER), neginf=0.0)
            lives = np.ceil(bounded).astype(np.int64)
        store.add(
            Computed(
                [{"__name__": family.name, **labels} for labels in family.labels],
                functools.partial(_at, family),
                start=int(start * 1000),
                step=int(step_seconds * 1000),
                end=lambda: int(end() * 1000),
                lifetimes=lives,
            )
        )
        count += len(family.labels)
    return count


def _at(family: Family, rows: Integers, times: Integers) -> Floats:
    return family.values(rows, times / 1000)
