"""The pods that ever were: where they ran, from when to when, and when their containers began anew."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from opslib.lab.world import clock, noise
from opslib.lab.world.changes import limit_at, version_at
from opslib.lab.world.faults import DependencyDown, MemoryLeak, NodeDown
from opslib.lab.world.noise import Floats, Integers
from opslib.lab.world.platform import Service

if TYPE_CHECKING:
    from opslib.lab.world.model import World

TOLERATION_SECONDS = 300.0
"""How long pods of a node that is lost are kept: the default toleration of node.kubernetes.io/unreachable."""

ROUND_SECONDS = 20.0
"""How long a round of a rolling update takes."""

_STARTUP = {"jvm": 24.0, "python": 9.0, "node": 6.0}
_MEMORY_SHARE = {"jvm": 0.62, "python": 0.5, "node": 0.48, "go": 0.34, "postgres": 0.55, "redis": 0.4, "kafka": 0.6, "opensearch": 0.65}
_MOST_KILLS = 300
_RANGES = (64, 128, 192)  # the third number of the addresses that a zone's pods begin with
_RANGE = 64 * 256


@dataclass(slots=True)
class Pod:
    """One pod; times in Unix seconds.

    Parameters
    ----------
    service, node
        Places in the world's lists.
    share
        Part of its service's traffic.
    started, ended
        From when to when its containers run.
    removed
        When its object goes: later than `ended` where its node was lost.
    kills
        When its container was killed for its memory.
    starts
        When its container began, `started` first.
    gap
        From when to when its node does not answer.
    revision
        The hash of its template; empty where its owner is no ReplicaSet.
    """

    name: str
    service: int
    node: int
    ordinal: int
    share: float
    started: float
    ended: float = math.inf
    removed: float = math.inf
    kills: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    gap: tuple[float, float] = (math.inf, math.inf)
    revision: str = ""
    version: str = ""
    cores_limit: float | None = None
    memory_share: float = 0.5
    leak: tuple[float, float, float, float, float] = (math.inf, math.inf, 0.0, 0.0, 1.0)  # from, to, bytes a second; its pace
    address: str = ""  # where a cluster gave it one
    memory_limit: float = 0.0  # where it is another than the service's


class Pods:
    """All pods, also as arrays of shape (pods,)."""

    def __init__(self, world: World, listed: list[Pod]) -> None:
        self.world = world
        self.listed = listed

    @classmethod
    def of(cls, world: World) -> Pods:
        """The pods of a world."""
        listed: list[Pod] = []
        for number, service in enumerate(world.services):
            listed += _pods_of(world, number, service)
        for pod in listed:
            _lose(world, pod)
            _leak(world, pod)
        return cls(world, listed)

    def __len__(self) -> int:
        return len(self.listed)

    @cached_property
    def service(self) -> Integers:
        """Places of their services."""
        return np.array([pod.service for pod in self.listed], np.int64)

    @cached_property
    def node(self) -> Integers:
        """Places of their nodes."""
        return np.array([pod.node for pod in self.listed], np.int64)

    @cached_property
    def share(self) -> Floats:
        """Their parts of their services' traffic."""
        return np.array([pod.share for pod in self.listed])

    @cached_property
    def started(self) -> Floats:
        """When they began."""
        return np.array([pod.started for pod in self.listed])

    @cached_property
    def ended(self) -> Floats:
        """When they ended; infinite while they run."""
        return np.array([pod.ended for pod in self.listed])

    @cached_property
    def removed(self) -> Floats:
        """When their objects went."""
        return np.array([pod.removed for pod in self.listed])

    @cached_property
    def gaps(self) -> Floats:
        """When their nodes did not answer, of shape (pods, 2)."""
        return np.array([pod.gap for pod in self.listed]).reshape(-1, 2)

    @cached_property
    def starts(self) -> Floats:
        """When their containers began, of shape (pods, most), filled with infinity."""
        return _padded([pod.starts for pod in self.listed])

    @cached_property
    def kills(self) -> Floats:
        """When their containers were killed, of shape (pods, most), filled with infinity."""
        return _padded([pod.kills for pod in self.listed])

    @cached_property
    def memory(self) -> Floats:
        """Memory limit, and what a container uses once it is warm, in bytes, of shape (2, pods)."""
        usual = np.array([self.world.services[pod.service].memory_limit for pod in self.listed])
        limits = np.array([pod.memory_limit or limit for pod, limit in zip(self.listed, usual, strict=True)])
        return np.stack([limits, np.minimum(usual * np.array([pod.memory_share for pod in self.listed]), limits)])

    @cached_property
    def addresses(self) -> list[str]:
        """Their addresses: each its own, in a range of its zone."""
        zones = sorted({node.zone for node in self.world.nodes})
        zone = [zones.index(node.zone) % len(_RANGES) for node in self.world.nodes]
        taken: list[set[int]] = [set() for _range in _RANGES]
        found = [""] * len(self.listed)
        for number in sorted(range(len(self.listed)), key=lambda one: (self.listed[one].started, self.listed[one].name)):
            pod = self.listed[number]
            here = zone[pod.node]
            place = noise.key(self.world.seed, "address", pod.name) % _RANGE
            while place in taken[here] or place % 256 in (0, 255):
                place = (place + 1) % _RANGE
            taken[here].add(place)
            found[number] = f"10.0.{_RANGES[here] + place // 256}.{place % 256}"
        return found

    def seen(self, pods: Integers, times: Floats) -> npt.NDArray[np.bool_]:
        """Whether each pod runs and its node answers, of shape (pods, times)."""
        gaps = self.gaps[pods]
        return (times >= self.started[pods, None]) & (times < self.ended[pods, None]) & ~((times >= gaps[:, :1]) & (times < gaps[:, 1:]))

    def life(self, pods: Integers, times: Floats) -> Integers:
        """Which of a pod's container lives it is at each time: 0 for the first, of shape (pods, times)."""
        asked, back = np.unique(pods, return_inverse=True)
        later = self.starts[asked, 1:]
        lives = np.zeros((len(asked), len(times)), np.int64)
        for row in np.flatnonzero(np.isfinite(later).any(axis=1)):
            lives[row] = np.searchsorted(later[row], times, side="right")
        return lives[back]

    def began(self, pods: Integers, times: Floats) -> Floats:
        """When the container that runs at each time began, of shape (pods, times)."""
        return np.take_along_axis(self.starts[pods], self.life(pods, times), axis=1)

    def working_set(self, pods: Integers, times: Floats) -> Floats:
        """Memory in use in bytes, of shape (pods, times): warming up, breathing, and growing where it leaks."""
        began = self.began(pods, times)
        age = np.maximum(times - began, 0.0)
        limits, bases = self.memory[0, pods, None], self.memory[1, pods, None]
        wander = noise.smooth(self.keys[pods, None], times, 900.0)
        used = bases * (1 - 0.35 * np.exp(-age / 240)) * (1 + 0.04 * wander)
        first, last, slope, *pace = np.array([self.listed[pod].leak for pod in pods]).reshape(-1, 5, 1).swapaxes(0, 1)
        grown = np.clip(clock.own(np.minimum(times, last), *pace) - clock.own(np.maximum(began, first), *pace), 0, None) * slope
        return np.asarray(np.minimum(used + grown, limits * 0.999))

    @cached_property
    def keys(self) -> noise.Words:
        """A number for each, by its name."""
        return noise.keys(self.world.seed, "memory", rows=[pod.name for pod in self.listed])


def observed(
    world: World,
    service: int,
    name: str,
    started: float,
    ordinal: int = 0,
    node: int = 0,
    *,
    began: float = math.inf,
    memory_limit: float = 0.0,
) -> Pod:
    """A pod of this name that began at a time in Unix seconds, as the world has it from then on: its kills for its memory, its limits.

    With `began`, its container began then, later than the pod; with `memory_limit`, in bytes, it has another one than the service.
    """
    pod = _pod(world, service, name, node, ordinal, max(started, began) if math.isfinite(began) else started)
    pod.memory_limit = memory_limit
    _lose(world, pod)
    _leak(world, pod)
    return pod


def surge(replicas: int) -> int:
    """How many pods a rolling update begins in one round: a Deployment's own maxSurge, a quarter rounded up."""
    return max(1, -(-replicas // 4))


def _names(world: World, *of: str, count: int) -> list[str]:
    """The last parts of so many pods' names: five letters each, no two alike, as the API server refuses a name that is taken."""
    found: dict[str, None] = {}
    for number in range(count):
        part, tries = noise.name_part(world.seed, *of, number, length=5), 0
        while part in found:
            tries += 1
            part = noise.name_part(world.seed, *of, number, tries, length=5)
        found[part] = None
    return list(found)


def _pods_of(world: World, number: int, service: Service) -> list[Pod]:
    if service.kind == "DaemonSet":
        return [
            _pod(
                world,
                number,
                f"{service.name}-{part}",
                node,
                node,
                _born(world, service.name, node),
            )
            for node, part in enumerate(_names(world, service.name, count=len(world.nodes)))
        ]
    if service.kind == "StatefulSet":
        pods = [
            _pod(world, number, f"{service.name}-{one}", _place(world, service, one, 0), one, _born(world, service.name, one))
            for one in range(service.replicas)
        ]
        for change in world.changes:  # the same pod again, with a new template
            if change.service == service.name:
                for pod in pods:
                    pod.starts.append(change.time + 30.0 * pod.ordinal + 15)
        return pods
    times = [change.time for change in world.changes if change.service == service.name]
    found: list[Pod] = []
    running: list[Pod] = []
    for generation, time in enumerate([-math.inf, *times]):
        revision = noise.name_part(world.seed, service.name, "template", round(time) if generation else 0, length=10)
        fresh = []
        for one, part in enumerate(_names(world, service.name, revision, count=service.replicas)):
            turn = ROUND_SECONDS * (one // surge(service.replicas))
            started = _born(world, service.name, one) if generation == 0 else time + turn + _STARTUP.get(service.language, 4.0)
            name = f"{service.name}-{revision}-{part}"
            pod = _pod(world, number, name, _place(world, service, one, generation, started), one, started)
            pod.revision = revision
            fresh.append(pod)
        for old, new in zip(running, fresh, strict=False):
            old.ended = old.removed = max(new.started, old.started)
        found += fresh
        running = fresh
    return [*found, *_moved(world, service, found)]


def _pod(world: World, number: int, name: str, node: int, ordinal: int, started: float) -> Pod:
    service = world.services[number]
    parts = weights(world.seed, service.name, service.replicas or len(world.nodes))
    pod = Pod(name, number, node, ordinal, parts[ordinal % len(parts)] / sum(parts), started)
    pod.starts.append(started)
    pod.version = version_at(world, service, max(started, world.start))
    pod.cores_limit = limit_at(world, service, max(started, world.start))
    pod.memory_share = _MEMORY_SHARE.get(service.language, 0.4) * (0.94 + 0.12 * noise.one(world.seed, "memory", name))
    return pod


@functools.lru_cache(256)
def weights(seed: int, service: str, count: int) -> tuple[float, ...]:
    """How much of the traffic each pod of a service gets against the others."""
    return tuple(1 + 0.16 * (noise.one(seed, "share", service, one) - 0.5) for one in range(count))


def _born(world: World, name: str, one: int) -> float:
    return float(int(world.start - 86400 * (1 + 6 * noise.one(world.seed, "born", name, one))))


def _place(world: World, service: Service, one: int, generation: int, started: float = -math.inf) -> int:
    """A node for a pod: the zones in turn, none that is down."""
    zones = sorted({node.zone for node in world.nodes})
    turn = int(len(zones) * noise.one(world.seed, "zone", service.name)) + one + generation
    down = {timed.fault.node for timed in world.faults if isinstance(timed.fault, NodeDown) and timed.start <= started < timed.end}
    for attempt in range(len(zones)):
        there = [
            number for number, node in enumerate(world.nodes) if node.zone == zones[(turn + attempt) % len(zones)] and node.name not in down
        ]
        if there:
            return there[int(len(there) * noise.one(world.seed, "node", service.name, one, generation))]
    return 0


def _moved(world: World, service: Service, pods: list[Pod]) -> list[Pod]:
    """The pods that take the place of those on a node that is lost."""
    found: list[Pod] = []
    for timed in world.faults:
        if not isinstance(timed.fault, NodeDown):
            continue
        for pod in [*pods, *found]:
            lost, later = timed.start, timed.start + TOLERATION_SECONDS
            if (
                world.nodes[pod.node].name != timed.fault.node
                or not pod.started <= lost < pod.ended
                or later >= min(pod.removed, timed.end)
            ):
                continue
            node = _place(world, service, pod.ordinal, round(lost) % 1000, later)
            name = f"{service.name}-{pod.revision}-{noise.name_part(world.seed, pod.name, 'moved', round(lost), length=5)}"
            new = _pod(world, pod.service, name, node, pod.ordinal, later + _STARTUP.get(service.language, 4.0))
            new.revision, new.ended, new.removed = pod.revision, pod.ended, pod.removed
            pod.ended, pod.removed = lost, later
            found.append(new)
    return found


def _lose(world: World, pod: Pod) -> None:
    for timed in world.faults:
        if isinstance(timed.fault, NodeDown) and world.nodes[pod.node].name == timed.fault.node and timed.start < pod.removed:
            pod.gap = (timed.start, timed.end)


def _leak(world: World, pod: Pod) -> None:
    service = world.services[pod.service]
    for timed in world.faults:
        if not isinstance(timed.fault, MemoryLeak) or timed.fault.service != service.name:
            continue
        start, end = max(timed.start, pod.started), min(timed.end, pod.ended)
        if start >= end:
            continue
        slope = timed.fault.bytes_per_hour / 3600 * (0.92 + 0.16 * noise.one(world.seed, "leak", pod.name))
        pod.leak = (timed.start, timed.end, slope, timed.pace.since, timed.pace.speed)
        room = max((pod.memory_limit or service.memory_limit) - service.memory_limit * pod.memory_share, 2.0**20)
        time = timed.pace.after(start, room / slope)
        while time < end and len(pod.kills) < _MOST_KILLS:
            pod.kills.append(time)
            pod.starts.append(time + 2)
            time = timed.pace.after(time + 2, room / slope)
    pod.starts.sort()


def answers(world: World, service: Service, times: Floats) -> Floats:
    """Share of a service's pods that are ready for it at each time, as far as faults of the whole service go: 1 or 0."""
    ready = np.ones(times.shape)
    for timed in world.faults:
        if isinstance(timed.fault, DependencyDown) and timed.fault.service == service.name and timed.fault.error_ratio >= 1:
            ready[timed.size(times) >= 1] = 0.0
    return ready


def _padded(rows: list[list[float]]) -> Floats:
    width = max((len(row) for row in rows), default=1) or 1
    result = np.full((len(rows), width), np.inf)
    for number, row in enumerate(rows):
        result[number, : len(row)] = row
    return result
