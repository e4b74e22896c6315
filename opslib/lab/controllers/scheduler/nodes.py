"""What the scheduler knows of nodes and the pods on them: requests, ports, labels, worked out once for each version of a pod."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from opslib.lab.api import Object
from opslib.lab.controllers.objects import labels_of, name_of, namespace_of, uid_of
from opslib.lab.kube.quantities import parse

Resources = dict[str, int]  # cpu in thousandths of a core, all else in its own unit

# what a container without requests is taken for where nodes are compared (GetNonzeroRequests)
_LEAST_CPU, _LEAST_MEMORY = 100, 200 << 20


@lru_cache(4096)
def amount(resource: str, text: str) -> int:
    """A quantity as a whole number, rounded up."""
    return math.ceil(parse(text) * (1000 if resource == "cpu" else 1))


def amounts(resources: Object | None) -> Resources:
    """A list of resources as numbers."""
    return {name: amount(name, str(value)) for name, value in (resources or {}).items()}


def _add(total: Resources, more: Resources) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def requests_of(pod: Object) -> Resources:
    """What a pod requests in all: containers and sidecars together, or the largest init container; and its overhead (``PodRequests``)."""
    spec = pod["spec"]
    total: Resources = {}
    for container in spec["containers"]:
        _add(total, amounts(container.get("resources", {}).get("requests")))
    sidecars: Resources = {}
    largest: Resources = {}
    for container in spec.get("initContainers") or ():
        wanted = amounts(container.get("resources", {}).get("requests"))
        if container.get("restartPolicy") == "Always":
            _add(total, wanted)
            _add(sidecars, wanted)
            wanted = dict(sidecars)
        else:
            _add(wanted, sidecars)
        for name, value in wanted.items():
            largest[name] = max(largest.get(name, 0), value)
    for name, value in largest.items():
        total[name] = max(total.get(name, 0), value)
    total |= amounts(spec.get("resources", {}).get("requests"))  # of the pod as a whole
    _add(total, amounts(spec.get("overhead")))
    return total


@dataclass(frozen=True, slots=True, eq=False)
class PodInfo:
    """A pod as the scheduler sees it."""

    pod: Object
    requests: Resources
    cpu_and_memory: tuple[int, int]
    ports: frozenset[tuple[str, str, int]]  # protocol, address, port
    priority: int
    required_anti: tuple[Object, ...]
    preferred: tuple[tuple[int, Object], ...]  # weight (below 0: away from it) and term
    required: tuple[Object, ...]
    claims: tuple[str, ...]

    @classmethod
    def of(cls, pod: Object) -> PodInfo:
        """Work it out."""
        spec = pod["spec"]
        affinity = spec.get("affinity") or {}
        near, away = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
        key, soft = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
        requests = requests_of(pod)
        preferred = [(one["weight"], one["podAffinityTerm"]) for one in near.get(soft) or ()]
        preferred += [(-one["weight"], one["podAffinityTerm"]) for one in away.get(soft) or ()]
        claims = [
            volume["persistentVolumeClaim"]["claimName"] for volume in spec.get("volumes") or () if volume.get("persistentVolumeClaim")
        ]
        claims += [f"{name_of(pod)}-{volume['name']}" for volume in spec.get("volumes") or () if volume.get("ephemeral")]
        return cls(
            pod,
            requests,
            (requests.get("cpu") or _LEAST_CPU, requests.get("memory") or _LEAST_MEMORY),
            frozenset(_ports(spec)),
            int(spec.get("priority") or 0),
            tuple(away.get(key) or ()),
            tuple(preferred),
            tuple(near.get(key) or ()),
            tuple(claims),
        )


def _ports(spec: Object) -> Iterable[tuple[str, str, int]]:
    for container in (*spec["containers"], *(one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always")):
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield port.get("protocol", "TCP"), port.get("hostIP") or "0.0.0.0", port["hostPort"]  # noqa: S104 - compared, not bound


def collide(one: frozenset[tuple[str, str, int]], other: frozenset[tuple[str, str, int]]) -> bool:
    """Whether two pods want the same port of a node."""
    anywhere = "0.0.0.0"  # noqa: S104 - compared, not bound
    return any(
        protocol == protocol2 and port == port2 and (address == address2 or anywhere in (address, address2))
        for protocol, address, port in one
        for protocol2, address2, port2 in other
    )


@dataclass(slots=True)
class NodeInfo:
    """A node and its pods."""

    node: Object
    pods: dict[str, PodInfo] = field(default_factory=dict)
    requested: Resources = field(default_factory=dict)
    used: list[int] = field(default_factory=lambda: [0, 0])  # cpu and memory, with what pods without requests are taken for
    ports: set[tuple[str, str, int]] = field(default_factory=set)
    anti: dict[str, PodInfo] = field(default_factory=dict)  # those of the pods that want some others away, or near
    spaces: dict[str, dict[str, PodInfo]] = field(default_factory=dict)  # the pods by namespace

    @property
    def name(self) -> str:
        """The node's name."""
        return name_of(self.node)

    @property
    def labels(self) -> dict[str, str]:
        """The node's labels."""
        return labels_of(self.node)

    @property
    def allocatable(self) -> Resources:
        """What its pods may have."""
        status = self.node.get("status", {})
        return amounts(status.get("allocatable") or status.get("capacity"))

    def add(self, info: PodInfo) -> None:
        """Put a pod on it."""
        self.renew(info)
        self._count(info, 1)
        self.ports |= info.ports
        if info.required_anti or info.preferred or info.required:
            self.anti[uid_of(info.pod)] = info

    def renew(self, info: PodInfo) -> None:
        """Have a newer version of a pod in the place of the one that is there."""
        self.pods[uid_of(info.pod)] = info
        self.spaces.setdefault(namespace_of(info.pod), {})[uid_of(info.pod)] = info

    def remove(self, uid: str) -> PodInfo | None:
        """Take a pod off it; what it was."""
        info = self.pods.pop(uid, None)
        if info is not None:
            del self.spaces[namespace_of(info.pod)][uid]
            self._count(info, -1)
            if info.ports:
                self.ports = {port for other in self.pods.values() for port in other.ports}
            self.anti.pop(uid, None)
        return info

    def _count(self, info: PodInfo, sign: int) -> None:
        for name, value in info.requests.items():
            self.requested[name] = self.requested.get(name, 0) + sign * value
        for place in (0, 1):
            self.used[place] += sign * info.cpu_and_memory[place]

    def copy(self) -> NodeInfo:
        """One that can be changed for a trial."""
        spaces = {name: dict(pods) for name, pods in self.spaces.items()}
        return NodeInfo(self.node, dict(self.pods), dict(self.requested), list(self.used), set(self.ports), dict(self.anti), spaces)


def in_namespaces(term: Object, pod: Object, namespace_labels: dict[str, dict[str, str]]) -> frozenset[str]:
    """The namespaces that an affinity term of `pod` is about."""
    from opslib.lab.controllers.objects import from_object

    names = set(term.get("namespaces") or ())
    selector = term.get("namespaceSelector")
    if selector is not None:
        matches = from_object(selector)
        names |= {name for name, labels in namespace_labels.items() if matches(labels)}
    elif not names:
        names.add(namespace_of(pod))
    return frozenset(names)
