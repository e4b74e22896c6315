"""The past that a lab shows: its worlds, one after another, up to the handover.

A `Layer` is a world from one time to another. The last generation of its pods carries the names that the cluster's pods have, so that what
was and what is are the same series. When something breaks "a while ago", the layers are cut there and a new one is laid on top; when a
reset brings back the world below, the two become one, so that a past has no more layers than things are broken. The supervisor writes them
to ``<folder>/data/past.json``, which the embedded Prometheus reads.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from opslib.lab.prometheus.store import Computed, Store
from opslib.lab.world.metrics import load
from opslib.lab.world.model import World
from opslib.lab.world.pods import Pod, Pods
from opslib.lab.world.present import Seen

STEP_SECONDS = 15.0
_GONE_SECONDS = 2 * STEP_SECONDS


@dataclass(frozen=True, eq=False)
class Adopted(World):
    """A world whose pods carry the names of those in a cluster.

    Parameters
    ----------
    adopted
        The cluster's pods.
    at
        When they were seen, in Unix seconds. Of the world's pods at that time, those that the cluster does not have are gone a moment
        before.
    """

    adopted: tuple[Seen, ...] = ()
    at: float = math.inf

    @property
    def asked_until(self) -> float:
        """See `World.asked_until`: from then on it is observed."""
        return self.at

    @cached_property
    def pods(self) -> Pods:
        """The world's pods under the cluster's names."""
        pods = Pods.of(self)
        for pod, one in self.pairs(pods.listed):
            if one is None:
                pod.ended = pod.removed = max(pod.started, self.at - _GONE_SECONDS)
                continue
            pod.name, pod.address, pod.revision = one.name, one.address, one.revision
            pod.node = next(number for number, node in enumerate(self.nodes) if node.name == one.node)
        return pods

    def pairs(self, pods: Sequence[Pod]) -> list[tuple[Pod, Seen | None]]:
        """The world's pods at the time, each with the cluster's that it stands for."""
        there: dict[int, list[Pod]] = {}
        for pod in pods:
            if pod.started <= self.at < pod.removed:
                there.setdefault(pod.service, []).append(pod)
        found: list[tuple[Pod, Seen | None]] = []
        for place, mine in there.items():
            mine.sort(key=lambda pod: pod.ordinal)
            theirs = _newest([one for one in self.adopted if one.service == place and not one.leaving])
            if self.services[place].kind == "DaemonSet":
                by_node = {one.node: one for one in theirs}
                found += [(pod, by_node.get(self.nodes[pod.node].name)) for pod in mine]
            else:  # those that have their names already, then the others in turn
                names = {one.name: one for one in theirs}
                same = {pod.name for pod in mine if pod.name in names}
                others = iter([one for one in theirs if one.name not in same])
                found += [(pod, names[pod.name] if pod.name in same else next(others, None)) for pod in mine]
        return found


def _newest(pods: list[Seen]) -> list[Seen]:
    """Those of the newest template."""
    if not pods:
        return []
    newest = max(pods, key=lambda one: one.started).revision
    return [one for one in pods if one.revision == newest]


def adopt(world: World, pods: Sequence[Seen], at: float) -> Adopted:
    """A world whose pods carry the names of those that were seen in a cluster."""
    return Adopted(world.seed, world.start, world.end, world.faults, world.services, world.nodes, adopted=tuple(pods), at=at)


@dataclass(frozen=True, slots=True)
class Layer:
    """A world from one time to another, in Unix seconds, the second not included. In its gaps the lab was observed."""

    world: Adopted
    start: float
    end: float
    gaps: tuple[tuple[float, float], ...] = ()

    def document(self) -> dict[str, Any]:
        """It as JSON can hold it."""
        pods, gaps = [one.document() for one in self.world.adopted], [list(gap) for gap in self.gaps]
        return {"world": self.world.document(), "pods": pods, "at": self.world.at, "start": self.start, "end": self.end, "gaps": gaps}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Layer:
        """A layer of a document that `document` made."""
        pods = [Seen.of(one) for one in document["pods"]]
        gaps = tuple((start, end) for start, end in document.get("gaps", ()))  # a past of an earlier version has none
        return cls(adopt(World.of(document["world"]), pods, document["at"]), document["start"], document["end"], gaps)

    def until(self, time: float) -> Layer:
        """It, cut at a time after its start."""
        if self.end <= time:
            return self
        kept = [(start, end) for start, end in self.gaps if start < time]
        if kept and kept[-1][1] >= time:  # what is there ends where the gap begins
            time = kept.pop()[0]
        return replace(self, end=time, gaps=tuple(kept))


def lay(layers: Sequence[Layer], world: Adopted, start: float, end: float) -> tuple[Layer, ...]:
    """The layers with a new one on top: they end where it begins. One of the same world but for names goes on instead."""
    below = [layer.until(start) for layer in layers if layer.start < start]
    if below and below[-1].world.document() == world.document():
        same = below.pop()
        return (*below, Layer(world, same.start, end, (*same.gaps, (same.end, start)) if same.end < start else same.gaps))
    return (*below, Layer(world, start, end))


def differs_since(old: World, new: World) -> float:
    """From when on two worlds that begin alike are different, in Unix seconds; infinite where they are the same."""
    changed = set(old.faults) ^ set(new.faults)
    starts = [timed.start for timed in changed]
    for timed in old.faults:
        for other in new.faults:
            if (timed.fault, timed.start) == (other.fault, other.start) and timed.end != other.end:
                starts = [start for start in starts if start != timed.start]
                starts.append(min(timed.end, other.end))
    return min(starts, default=math.inf)


def write(folder: Path, layers: Sequence[Layer]) -> None:
    """Write a lab's past to its folder."""
    file = folder / "data" / "past.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".json.new")
    temporary.write_text(json.dumps([layer.document() for layer in layers]) + "\n", "utf-8")
    temporary.replace(file)


def read(file: Path) -> list[dict[str, Any]]:
    """The documents of the layers of a past.json; none where there is none yet."""
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return []
    return found


class Shown:
    """The layers of a past as series of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layers: list[_Loaded] = []

    def show(self, layers: Sequence[Mapping[str, Any]]) -> float:
        """Make the store's past these layers (documents); the time from which on something is different, infinite where nothing is."""
        known, changed = [one.document for one in self._layers], [{"gaps": [], **layer} for layer in layers]
        same = 0
        while same < min(len(known), len(changed)) and _named(known[same]) == _named(changed[same]):
            self._layers[same].document = changed[same]  # it may end elsewhere now
            same += 1
        before = self._layers[-1].world if self._layers else None
        for one in self._layers[same:]:
            self._store.remove(one.groups)
        del self._layers[same:]
        for document in changed[same:]:
            layer = Layer.of(document)
            if before is not None:
                layer.world.history.resume(before.history, differs_since(before, layer.world))
            loaded = _Loaded(document, layer.world)
            end, gaps = functools.partial(_end, loaded), functools.partial(_gaps, loaded)
            loaded.groups = load(self._store, layer.world, start=layer.start, end=end, gaps=gaps)
            self._layers.append(loaded)
        return min((_parting(one, other) for one, other in zip_longest(known, changed)), default=math.inf)


@dataclass(slots=True)
class _Loaded:
    document: dict[str, Any]
    world: World
    groups: list[Computed] = field(default_factory=list)


def _end(loaded: _Loaded) -> float:
    return float(loaded.document["end"])


def _gaps(loaded: _Loaded) -> Sequence[Sequence[float]]:
    gaps: Sequence[Sequence[float]] = loaded.document["gaps"]
    return gaps


def _named(layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """A layer's document without its times."""
    return {**layer, "end": None, "gaps": None}


def _parting(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> float:
    """From when on two layers (documents), of which one may not be there, are different but for names."""
    if one is None or other is None or one["world"] != other["world"]:
        return float(min(layer["start"] for layer in (one, other) if layer is not None))
    edges = [[layer["start"], *(edge for gap in layer["gaps"] for edge in gap), layer["end"]] for layer in (one, other)]
    return min((min(pair) for pair in zip_longest(*edges, fillvalue=math.inf) if pair[0] != pair[1]), default=math.inf)
