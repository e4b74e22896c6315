"""The world of now: the platform as the cluster has it at this moment, with the traffic that the world says.

`seen` reads the cluster's pods as the world's. `Observed` is a world whose pods are those of a cluster (or of one node of it), `Traffic`
its history at a single moment: what is served by how many pods, with the limits that they have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np

from opslib.lab.world.faults import CpuLimit
from opslib.lab.world.history import SLOT, History
from opslib.lab.world.model import World
from opslib.lab.world.noise import Floats, Integers
from opslib.lab.world.pods import Pod, Pods, weights
from opslib.lab.world.pods import observed as pod_of

Object = dict[str, Any]

_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_MOMENTS_KEPT = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """A pod of the platform in the cluster; times in Unix seconds.

    Parameters
    ----------
    service
        Place in the world's list.
    ordinal
        Its place among its service's pods by name.
    started
        When the pod began.
    began
        When its container began; infinite where it does not run.
    leaving
        Whether it is being deleted.
    """

    service: int
    name: str
    node: str
    ordinal: int
    address: str
    revision: str
    version: str
    started: float
    began: float
    restarts: int
    ready: bool
    leaving: bool
    cores_limit: float | None
    memory_limit: float

    def document(self) -> dict[str, Any]:
        """It as JSON can hold it."""
        return asdict(self) | {"began": None if math.isinf(self.began) else self.began}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Seen:
        """A pod of a document that `document` made."""
        return cls(**{**document, "began": math.inf if document["began"] is None else document["began"]})


def seen(world: World, pods: Iterable[Object]) -> tuple[list[Seen], list[Object]]:
    """The placed pods of a cluster that are pods of the world's services, by service and name, and those that are not."""
    places: dict[tuple[str, str, str], int] = {
        (service.namespace, service.kind, service.name): place for place, service in enumerate(world.services)
    }
    nodes = {node.name for node in world.nodes}
    found: list[Seen] = []
    others: list[Object] = []
    for pod in pods:
        place = places.get(_owner(pod))
        if place is None or pod["spec"].get("nodeName") not in nodes:
            others.append(pod)
        else:
            found.append(_seen(place, world.services[place].name, pod))
    found.sort(key=lambda one: (one.service, one.leaving, len(one.name), one.name))
    counts: dict[int, int] = {}
    for number, one in enumerate(found):
        ordinal = counts.get(one.service, 0)
        counts[one.service] = ordinal + 1
        found[number] = replace(one, ordinal=ordinal)
    return found, others


def _owner(pod: Object) -> tuple[str, str, str]:
    owner: Object = next(iter(pod["metadata"].get("ownerReferences") or ()), {})
    kind, name = owner.get("kind", ""), owner.get("name", "")
    if kind == "ReplicaSet":
        kind, name = "Deployment", name.rpartition("-")[0]
    return pod["metadata"]["namespace"], kind, name


def _seen(place: int, service: str, pod: Object) -> Seen:
    metadata, status = pod["metadata"], pod.get("status", {})
    container: Object = next((one for one in pod["spec"]["containers"] if one["name"] == service), pod["spec"]["containers"][0])
    state: Object = next((one for one in status.get("containerStatuses", ()) if one["name"] == container["name"]), {})
    running = state.get("state", {}).get("running")
    limits = container.get("resources", {}).get("limits", {})
    owner: Object = metadata["ownerReferences"][0]
    started = unix(status.get("startTime") or metadata.get("creationTimestamp", ""))
    return Seen(
        service=place,
        name=metadata["name"],
        node=pod["spec"]["nodeName"],
        ordinal=0,
        address=status.get("podIP", ""),
        revision=owner["name"].rpartition("-")[2] if owner["kind"] == "ReplicaSet" else "",
        version=container.get("image", "").rpartition(":")[2],
        started=started,
        began=math.inf if running is None else unix(running.get("startedAt", "")),
        restarts=state.get("restartCount", 0),
        ready=any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ())),
        leaving="deletionTimestamp" in metadata,
        cores_limit=amount(limits["cpu"]) if "cpu" in limits else None,
        memory_limit=amount(limits.get("memory", 0)),
    )


def unix(stamp: str) -> float:
    """Unix seconds of a time as the Kubernetes API writes it; 0 where there is none."""
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0


def amount(quantity: str | int | float) -> float:
    """A Kubernetes quantity ("250m", "128Mi") as a number of cores or bytes."""
    if isinstance(quantity, int | float):
        return float(quantity)
    number = quantity.rstrip("KMGTikm")
    return float(number) * _UNITS[quantity[len(number) :]]


@dataclass(frozen=True, eq=False)
class Observed(World):
    """A world whose pods are given, and whose traffic is that of a moment.

    Parameters
    ----------
    listed
        Its pods: all of the cluster, or those of one node.
    traffic
        Holds the traffic of the whole cluster, which is replaced as that changes.
    """

    listed: tuple[Pod, ...] = ()
    traffic: list[History] = field(default_factory=list)

    @cached_property
    def pods(self) -> Pods:
        """The pods that were given."""
        return Pods(self, list(self.listed))

    @property
    def history(self) -> History:
        """The traffic of now."""
        return self.traffic[0]


def observe(world: World, pods: Sequence[Seen], known: Mapping[str, tuple[Seen, Pod]], traffic: list[History]) -> Observed:
    """The world of now.

    Parameters
    ----------
    world
        What the stage says: services, traffic, faults.
    pods
        What the cluster has.
    known
        By name, how pods of the past were seen at its end, and what they are there: until a container begins anew, it is that one.
    traffic
        An empty list, which gets the traffic; the worlds of single nodes share it.
    """
    services = list(world.services)
    for one in pods:  # the newest template's limits are the service's
        service = services[one.service]
        if one.ready and one.cores_limit != service.cores_limit:
            services[one.service] = replace(service, cores_limit=one.cores_limit)
    faults = tuple(timed for timed in world.faults if not isinstance(timed.fault, CpuLimit))  # what the cluster's pods say counts
    place = {node.name: number for number, node in enumerate(world.nodes)}
    ready = np.zeros(len(services))
    for one in pods:
        ready[one.service] += serves(one)
    listed = []
    for one in pods:
        before = known.get(one.name)
        if before is not None and (before[0].began, before[0].restarts) == (one.began, one.restarts):
            pod = replace(before[1], node=place[one.node], ended=math.inf, removed=math.inf)
        else:
            where = (one.ordinal, place[one.node])
            pod = pod_of(world, one.service, one.name, one.started, *where, began=one.began, memory_limit=one.memory_limit)
            pod.revision = one.revision
        pod.ordinal, pod.address, pod.version, pod.cores_limit = one.ordinal, one.address, one.version, one.cores_limit
        pod.memory_limit = one.memory_limit
        if math.isinf(one.began):  # its object is there, and nothing runs
            pod.ended = pod.started
        listed.append(pod)
    shape = (world.seed, world.start, world.end, faults, tuple(services), world.nodes)
    found = Observed(*shape, listed=tuple(listed), traffic=traffic)
    found.pods.share[:] = shares(found, pods)
    traffic[:] = [Traffic(found, ready[:, None])]
    return found


def on_node(world: Observed, node: int, before: Observed | None) -> Observed:
    """The part of a world of now that is on one node: the one before, where nothing but the traffic is different."""
    rows = np.flatnonzero(world.pods.node == node)
    listed = tuple(world.listed[row] for row in rows)
    if before is None or before.listed != listed or before.faults != world.faults:
        before = replace(world, listed=listed)
    before.pods.share[:] = world.pods.share[rows]
    return before


def serves(pod: Seen) -> bool:
    """Whether a pod gets requests."""
    return pod.ready and not pod.leaving and math.isfinite(pod.began)


def shares(world: World, pods: Sequence[Seen]) -> Floats:
    """Each pod's part of its service's traffic: nothing where it is not ready."""
    parts = np.zeros(len(pods))
    sums = np.zeros(len(world.services))
    for number, one in enumerate(pods):
        if serves(one):
            service = world.services[one.service]
            known = weights(world.seed, service.name, service.replicas or len(world.nodes))
            parts[number] = known[one.ordinal % len(known)]
            sums[one.service] += parts[number]
    services = np.array([one.service for one in pods], np.int64)
    return np.asarray(parts / np.maximum(sums[services], 1e-9))


class Traffic(History):
    """Traffic of a world of now: rates of any moment, computed for that moment alone, and no sums.

    Parameters
    ----------
    serving
        How many pods of each service are ready, of shape (services, 1).
    """

    def __init__(self, world: World, serving: Floats) -> None:
        super().__init__(world)
        self.serving = serving
        self._moments: dict[int, dict[str, Floats]] = {}

    def rate(self, name: str, rows: Integers, times: Floats) -> Floats:
        """See `History.rate`."""
        result = np.empty((len(rows), len(times)))
        for column, slot in enumerate(np.floor((times - self.world.start) / SLOT).astype(np.int64)):
            result[:, column] = self._moment(int(slot), name)[rows, 0]
        return result

    def _moment(self, slot: int, name: str) -> Floats:
        with self._lock:
            found = self._moments.get(slot)
            if found is None:
                if len(self._moments) >= _MOMENTS_KEPT:
                    del self._moments[next(iter(self._moments))]
                found = self._moments[slot] = self._services(np.array([self.world.start + slot * SLOT]))
            if name not in found:
                found |= self._derived(name, found, np.array([self.world.start + slot * SLOT]))
            return found[name]

    def _of_nodes(self, cores: Floats, times: Floats) -> Floats:
        pods = self.world.pods
        running = pods.ended > times[0]
        each = cores[pods.service, 0] * pods.share * running
        return np.bincount(pods.node, each, len(self.world.nodes)).astype(np.float64)[:, None]
