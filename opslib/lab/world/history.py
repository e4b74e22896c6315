"""Traffic, errors, latency and CPU of every service over time, and what has come together since the world began.

Rates are constant within a slot of 30 seconds and follow from the slot's time alone; a counter is their sum, kept by parts of twelve hours.
Requests come in from outside with the hour of the day and the day of the week in Japan, and go down the call graph; errors and waiting come
back up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from opslib.lab.world import noise
from opslib.lab.world.faults import BadDeploy, CertificateExpiry, CpuLimit, DependencyDown, Dns, NodeDown, Slow, TrafficSpike, VolumeFill
from opslib.lab.world.noise import Floats, Integers
from opslib.lab.world.platform import Call, ordered

if TYPE_CHECKING:
    from opslib.lab.world.model import World

Rates = npt.NDArray[np.float32]

SLOT = 30.0
SLOTS = 1440  # of a part, which is computed at once: twelve hours
PART = SLOT * SLOTS
DAY = 86400.0
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histograms' buckets in seconds, without the infinite one (the client libraries' default)."""

SPREAD = 3.0
"""Latencies are log-logistic with this shape: one request in a hundred takes 4.6 times the median."""

MEAN = np.pi / SPREAD / np.sin(np.pi / SPREAD)
"""Mean latency over the median."""

NOT_FOUND = 0.014
_KEPT = 18  # a week and more
MOST_BYTES = 128 * 2**20
"""So much of the sums is kept at most; a week of everything is twice as much, and seldom asked for."""


def shape(times: Floats) -> Floats:
    """Traffic at each time over that of the busiest hour: least before dawn in Tokyo, most at nine in the evening."""
    hour = (times / 3600 + 9) % 24
    weekday = (times / 86400 + 9 / 24 + 3) // 1 % 7  # 0 is Monday
    evening = np.minimum(np.abs(hour - 21), 24 - np.abs(hour - 21))
    office = np.where(weekday < 5, 1.0, 1.25)  # at weekends people shop by day too
    busy = 0.16 + 0.42 * office * np.exp(-(((hour - 13.5) / 4.2) ** 2)) + 0.66 * np.exp(-((evening / 2.6) ** 2))
    return np.asarray(np.clip(busy, 0.1, 1.0))


def below(bounds: Floats, medians: Floats) -> Floats:
    """The share of requests that take no longer than a bound."""
    ratio = medians / bounds
    return np.asarray(1 / (1 + ratio * ratio * ratio))


class History:
    """Rates by service, edge and node; thread-safe.

    Names of what can be asked, with their rows:

    ======================  ========================================  ======================
    name                    what, each a second                       rows
    ======================  ========================================  ======================
    requests                requests served                           services
    own_failures            failed by itself                          services
    called_failures         failed for what it calls                  services
    unserved                met no pod that was ready                 services
    seconds                 seconds spent in requests                 services
    cores                   CPU seconds                               services
    throttled               share of CFS periods throttled            services
    buckets                 requests below each bound                 services x bounds
    edge_requests           requests from one service to another      edges
    edge_failures           those that failed                         edges
    edge_seconds            seconds spent in them                     edges
    edge_buckets            those below each bound                    edges x bounds
    node_cores              CPU seconds of the pods                   nodes
    ======================  ========================================  ======================

    and, as rates only: ``errors`` (share of requests that fail), ``latency`` (median seconds), ``load`` (CPU wanted over the limit).
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.edges: list[tuple[int, int, Call]] = [
            (caller, world.places[call.to], call) for caller, service in enumerate(world.services) for call in service.calls
        ]
        self._order = ordered(world.services)
        self.serving = np.array([service.replicas or len(world.nodes) for service in world.services], np.float64)[:, None]
        """How many pods serve, of shape (services, 1)."""
        self._parts: OrderedDict[tuple[str, int], dict[str, Rates]] = OrderedDict()
        self._sums: OrderedDict[tuple[str, int], Floats] = OrderedDict()
        self._before: dict[str, list[Floats]] = {}
        self._counts: dict[str, tuple[npt.NDArray[np.complex128], Floats]] = {}  # row + time * 1j in order, and what was counted then
        self._lock = threading.RLock()

    @property
    def gone(self) -> npt.NDArray[np.bool_]:
        """Services that no pod serves, of shape (services, 1)."""
        return np.asarray(self.serving == 0)

    @property
    def summed_bytes(self) -> int:
        """What the sums that are kept take."""
        return sum(sums.nbytes for sums in self._sums.values())

    def resume(self, other: History, since: float) -> None:
        """Take over what the history of another world has computed of the parts before `since`, up to which the two are the same."""
        if (self.world.seed, self.world.start, self.world.services) != (other.world.seed, other.world.start, other.world.services):
            return
        part = int(max(0.0, min(since, self.world.end + DAY) - self.world.start - SLOT) // PART)
        with self._lock, other._lock:
            self._parts.update((key, values) for key, values in other._parts.items() if key[1] < part)
            self._sums.update((key, values) for key, values in other._sums.items() if key[1] < part)
            self._before.update((name, before[: part + 1]) for name, before in other._before.items())
            for name, (moments, counted) in other._counts.items():
                same = moments.imag < since - SLOT
                self._counts[name] = moments[same], counted[same]

    def forget(self) -> None:
        """Give the memory of what was computed back; where each part begins, and what was counted when a container began, is kept."""
        with self._lock:
            self._parts.clear()
            self._sums.clear()

    # --- asking ---

    def rate(self, name: str, rows: Integers, times: Floats) -> Floats:
        """Rates of rows at times (Unix seconds, of shape (times,)), of shape (rows, times); those before the world began are its first."""
        result = np.empty((len(rows), len(times)))
        slots = np.clip(np.floor((times - self.world.start) / SLOT), 0, None).astype(np.int64)
        for part, columns in _parts_of(slots):
            values = self._part(part, name)
            result[:, columns] = values[rows][:, slots[columns] - part * SLOTS]
        return result

    def total(self, name: str, rows: Integers, times: Floats) -> Floats:
        """What has come together since the world began, of shape (rows, times)."""
        result = np.empty((len(rows), len(times)))
        place = np.clip((times - self.world.start) / SLOT, 0, None)
        slots = place.astype(np.int64)
        for part, columns in _parts_of(slots):
            sums = self._sum(part, name)[rows]
            index = slots[columns] - part * SLOTS
            low = sums[:, index]
            result[:, columns] = low + (sums[:, index + 1] - low) * (place - slots)[columns]
        return result

    def total_each(self, name: str, rows: Integers, times: Floats) -> Floats:
        """The same for one time a row; both of shape (rows,). Not finite times give 0.

        What was asked is kept: when containers began lies days back, and whole parts would have to be computed for it again.
        """
        result = np.zeros(len(rows))
        known = np.isfinite(times)
        asked, back = np.unique(rows[known] + 1j * times[known], return_inverse=True)
        with self._lock:
            moments, counted = self._counts.get(name, (np.empty(0, np.complex128), np.empty(0)))
            new = np.setdiff1d(asked, moments, assume_unique=True)
            if len(new):
                moments, counted = np.concatenate((moments, new)), np.concatenate((counted, self._counted(name, new)))
                order = np.argsort(moments)
                self._counts[name] = moments, counted = moments[order], counted[order]
        result[known] = counted[np.searchsorted(moments, asked)][back]
        return result

    def _counted(self, name: str, moments: npt.NDArray[np.complex128]) -> Floats:
        result = np.empty(len(moments))
        rows = moments.real.astype(np.int64)
        place = np.clip((moments.imag - self.world.start) / SLOT, 0, None)
        slots = place.astype(np.int64)
        for part, columns in _parts_of(slots):
            sums = self._sum(part, name)
            index = slots[columns] - part * SLOTS
            low = sums[rows[columns], index]
            result[columns] = low + (sums[rows[columns], index + 1] - low) * (place - slots)[columns]
        return result

    # --- by part ---

    def _part(self, part: int, name: str) -> Rates:
        group = name if name in ("buckets", "edge_buckets", "node_cores") else "services"
        with self._lock:
            found = self._parts.get((group, part))
            if found is None:
                times = np.asarray(self.world.start + (part * SLOTS + np.arange(SLOTS)) * SLOT, np.float64)
                computed = self._computed(group, part, times)
                found = self._parts[group, part] = {key: values.astype(np.float32) for key, values in computed.items()}
                # what the rest is made from is kept for a week and more, the rest only until it is summed
                kept = [key for key in self._parts if (key[0] == "services") == (group == "services")]
                if len(kept) > (_KEPT if group == "services" else 3):
                    del self._parts[kept[0]]
            self._parts.move_to_end((group, part))
            return found[name]

    def _sum(self, part: int, name: str) -> Floats:
        with self._lock:
            found = self._sums.get((name, part))
            if found is not None:
                self._sums.move_to_end((name, part))
                return found
            before = self._before.setdefault(name, [])
            while len(before) <= part:
                begin = before[-1] if before else None
                number = len(before) - 1
                if begin is None:
                    before.append(np.zeros(len(self._part(0, name))))
                else:
                    before.append(begin + self._part(number, name).sum(axis=1, dtype=np.float64) * SLOT)
            sums = np.empty((len(before[part]), SLOTS + 1))
            sums[:, 0] = 0
            np.cumsum(self._part(part, name), axis=1, dtype=np.float64, out=sums[:, 1:])
            sums *= SLOT
            sums += before[part][:, None]
            self._sums[name, part] = sums
            while self.summed_bytes > MOST_BYTES:
                self._sums.popitem(last=False)
            return sums

    def _computed(self, group: str, part: int, times: Floats) -> dict[str, Floats]:
        if group == "services":
            return self._services(times)
        self._part(part, "requests")
        return self._derived(group, self._parts["services", part], times)

    def _derived(self, group: str, rates: Mapping[str, Any], times: Floats) -> dict[str, Floats]:
        """What follows from the services' rates alone."""
        bounds = np.array(BOUNDS)[None, :, None]
        if group == "buckets":
            shares = below(bounds, rates["latency"][:, None, :])
            return {group: (shares * rates["requests"][:, None, :]).reshape(-1, len(times))}
        if group == "edge_buckets":
            callees = np.array([callee for _caller, callee, _call in self.edges])
            shares = below(bounds, rates["latency"][callees][:, None, :])
            return {group: (shares * rates["edge_requests"][:, None, :]).reshape(-1, len(times))}
        return {group: self._of_nodes(rates["cores"], times)}

    def _of_nodes(self, cores: Floats, times: Floats) -> Floats:
        result = np.zeros((len(self.world.nodes), len(times)))
        for pod in self.world.pods.listed:
            first, last = np.searchsorted(times, (pod.started, min(pod.ended, pod.gap[0])))
            result[pod.node, first:last] += pod.share * cores[pod.service, first:last]
        return result

    # --- the simulation ---

    @cached_property
    def _noise_keys(self) -> noise.Words:
        world = self.world
        names = [service.name for service in world.services]
        names += [f"{names[caller]}>{names[callee]}" for caller, callee, _call in self.edges]
        return noise.keys(world.seed, "traffic", rows=names)

    def _services(self, times: Floats) -> dict[str, Floats]:
        world, count = self.world, len(self.world.services)
        effects = _Effects(world, times)
        keys = self._noise_keys[:, None]
        slots = np.floor(times / SLOT).astype(np.int64)
        chance = (
            0.05 * noise.smooth(keys, times, 1800.0) + 0.05 * noise.smooth(keys, times, 240.0) + 0.06 * (noise.uniform(keys, slots) - 0.5)
        )
        requests = np.zeros((count, len(times)))
        edge_requests = np.zeros((len(self.edges), len(times)))
        busy = shape(times) * effects.traffic
        outgoing: dict[int, list[int]] = {}
        for number, (caller, _callee, _call) in enumerate(self.edges):
            outgoing.setdefault(caller, []).append(number)
        for caller in self._order:
            requests[caller] += world.services[caller].entry * busy * (1 + chance[caller])
            for number in outgoing.get(caller, ()):
                _caller, callee, call = self.edges[number]
                edge_requests[number] = requests[caller] * call.per_request * (1 + 0.4 * chance[count + number])
                requests[callee] += edge_requests[number]

        unserved = requests * self.gone
        requests -= unserved
        cores, throttled, load, slower = self._cpu(requests, effects)
        errors = np.zeros_like(requests)
        own = np.zeros_like(requests)
        latency = np.zeros_like(requests)
        edge_failures = np.zeros_like(edge_requests)
        background = 0.0004 * (1 + noise.smooth(keys[:count], times + 1e6, 600.0))
        for caller in reversed(self._order):
            timeouts = np.clip((load[caller] - 1.1) * 0.4, 0, 0.6)
            own[caller] = 1 - (1 - background[caller]) * (1 - effects.errors[caller]) * (1 - timeouts)
            passed = np.ones(len(times))
            wait = np.zeros(len(times))
            for number in outgoing.get(caller, ()):
                _caller, callee, call = self.edges[number]
                seen = latency[callee] + effects.lookup
                late = 1 - below(np.array(call.timeout_seconds), seen)
                failed = 1 - (1 - errors[callee]) * (1 - late) * (1 - effects.unresolved) * (1 - effects.refused[callee])
                edge_failures[number] = edge_requests[number] * failed
                often = min(call.per_request, 1.0)
                passed *= 1 - often * call.critical * failed
                if call.critical > 0:
                    wait += call.per_request * np.minimum(seen, call.timeout_seconds)
            errors[caller] = np.where(self.gone[caller], 1.0, 1 - (1 - own[caller]) * passed)
            latency[caller] = (
                world.services[caller].latency_seconds * effects.latency[caller] * slower[caller] * (1 + 0.5 * chance[caller]) + wait
            )
        callees = np.array([callee for _caller, callee, _call in self.edges])
        return {
            "requests": requests,
            "own_failures": requests * own,
            "called_failures": requests * (errors - own),
            "unserved": unserved,
            "seconds": requests * latency * MEAN,
            "cores": cores,
            "throttled": throttled,
            "errors": errors,
            "latency": latency,
            "load": load,
            "edge_requests": edge_requests,
            "edge_failures": edge_failures,
            "edge_seconds": edge_requests * latency[callees] * MEAN,
        }

    def _cpu(self, requests: Floats, effects: _Effects) -> tuple[Floats, Floats, Floats, Floats]:
        """CPU used, share of periods throttled, CPU wanted over the limit, and how much longer requests take for it."""
        services = self.world.services
        pods = np.maximum(self.serving, 1)
        idle = np.array([service.idle_cores for service in services])[:, None]
        each = np.array([service.cpu_seconds for service in services])[:, None]
        wanted = (idle + requests * each / pods) * effects.cpu
        load = np.nan_to_num(wanted / effects.limits)  # an infinite limit: 0
        used = np.minimum(wanted, effects.limits * 0.91)  # on average: the busiest pod is at its limit
        # a container is throttled in single periods long before it uses all of its limit on average
        throttled = np.clip((load - 0.5) / 0.6, 0, 0.97) ** 1.5
        usual = np.array([service.replicas or len(self.world.nodes) for service in services])[:, None]
        crowded = np.sqrt(np.maximum(usual / pods, 1))  # fewer pods than usual: requests wait for one another
        slower = (1 + 1.2 * throttled + 5 * np.clip(load - 1, 0, 3)) * crowded
        return used * pods, throttled, load, slower


class _Effects:
    """What the faults of a world do at some times: factors and shares, a row a service."""

    def __init__(self, world: World, times: Floats) -> None:
        shape_ = (len(world.services), len(times))
        self.errors = np.zeros(shape_)
        self.latency = np.ones(shape_)
        self.cpu = np.ones(shape_)
        self.refused = np.zeros(shape_)  # by the callers: its certificate is no good
        self.limits = np.empty(shape_)
        self.traffic = np.ones(len(times))
        self.unresolved = np.zeros(len(times))
        self.lookup = np.zeros(len(times))
        for number, service in enumerate(world.services):
            self.limits[number] = np.inf if service.cores_limit is None else service.cores_limit
        for number, timed in enumerate(world.faults):
            fault, size = timed.fault, timed.size(times)
            place = world.places.get(timed.service, -1)
            if isinstance(fault, BadDeploy):
                self._fail(place, fault.error_ratio * size)
                self.latency[place] *= 1 + (fault.latency_factor - 1) * size
                self.cpu[place] *= 1 + 0.1 * (fault.latency_factor - 1) * size
            elif isinstance(fault, CpuLimit):
                self.limits[place] = np.where(size > 0, fault.cores, self.limits[place])
            elif isinstance(fault, DependencyDown):
                self._fail(place, fault.error_ratio * size)
            elif isinstance(fault, Slow):
                self.latency[place] *= 1 + (fault.latency_factor - 1) * size
            elif isinstance(fault, CertificateExpiry):
                self.refused[place] = 1 - (1 - self.refused[place]) * (1 - size)
            elif isinstance(fault, TrafficSpike):
                self.traffic *= 1 + (fault.factor - 1) * size
            elif isinstance(fault, Dns):
                self.unresolved = 1 - (1 - self.unresolved) * (1 - fault.error_ratio * size)
                self.lookup = np.maximum(self.lookup, 0.2 * fault.lookup_seconds * size)
            elif isinstance(fault, VolumeFill):
                # reads go on; a store that cannot write fails the rest
                self._fail(place, 0.6 / max(1, world.services[place].replicas - 1) * (times >= world.full[number]) * (size > 0))
            elif isinstance(fault, NodeDown):
                self._lose(world, times, fault.node, timed.start, timed.end)
        for pod in world.pods.listed:
            for kill in pod.kills:  # what was under way fails, and nothing is served until it has begun again
                if times[0] - 40 < kill <= times[-1] + SLOT:
                    self._fail(pod.service, pod.share * ((times >= kill - SLOT) & (times < kill + 40)))

    def _fail(self, place: int, share: npt.NDArray[Any]) -> None:
        self.errors[place] = 1 - (1 - self.errors[place]) * (1 - np.clip(share, 0, 1))

    def _lose(self, world: World, times: Floats, node: str, start: float, end: float) -> None:
        """Until endpoints are taken out (40 s), a lost node's share of requests fails; its stores' is missed until it is back."""
        for pod in world.pods.listed:
            if world.nodes[pod.node].name != node or not pod.started <= start < pod.removed:
                continue
            until = end if world.services[pod.service].kind == "StatefulSet" else start + 40
            self._fail(pod.service, pod.share * 0.9 * ((times >= start) & (times < until)))


def _parts_of(slots: Integers) -> list[tuple[int, Integers]]:
    parts = slots // SLOTS
    return [(int(part), np.flatnonzero(parts == part)) for part in np.unique(parts)]
