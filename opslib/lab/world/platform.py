"""The simulated platform: a shop, its payments, their data stores, and what a cluster carries besides.

One description, from which metrics, logs, changes and manifests follow.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, Literal

Language = Literal["jvm", "go", "python", "node", "postgres", "redis", "kafka", "opensearch", "nginx"]
Kind = Literal["Deployment", "StatefulSet", "DaemonSet"]

MEBI, GIBI = float(1 << 20), float(1 << 30)

KUBELET_VERSION = "v1.36.2-eks-1a2b3c4"
RUNTIME = "containerd://2.1.5"
OS_IMAGE = "Amazon Linux 2023.9.20251110"
KERNEL = "6.12.55-74.119.amzn2023.x86_64"


@dataclass(frozen=True, slots=True)
class Node:
    """A node. `address` is its internal one."""

    name: str
    zone: str
    address: str
    cores: int = 8
    memory_bytes: float = 32 * GIBI
    disk_bytes: float = 80 * GIBI
    group: str = "main"
    instance_type: str = "m6i.2xlarge"
    most_pods: int = 58


def _node_name(address: str) -> str:
    return f"ip-{address.replace('.', '-')}.ap-northeast-1.compute.internal"


NODES = tuple(
    Node(_node_name(address), f"ap-northeast-1{zone}", address)
    for zone, address in (
        ("a", "10.0.1.17"),
        ("a", "10.0.1.42"),
        ("c", "10.0.2.8"),
        ("c", "10.0.2.77"),
        ("d", "10.0.3.25"),
        ("d", "10.0.3.91"),
    )
)


@dataclass(frozen=True, slots=True)
class Call:
    """What a service asks of another.

    Parameters
    ----------
    per_request
        Calls for one request that the caller serves.
    critical
        Share of this call's failures that fail the caller's request: 1 where it cannot do without, 0 where nobody waits for the answer.
    """

    to: str
    per_request: float = 1.0
    critical: float = 1.0
    timeout_seconds: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service, all of whose pods are alike.

    Parameters
    ----------
    cores, cores_limit
        CPU request and limit of a pod; no limit where None.
    memory_bytes
        Memory request of a pod; its limit is `memory_limit`.
    idle_cores, cpu_seconds
        CPU of a pod without traffic, and CPU time that one request takes.
    latency_seconds
        Median time that it spends on a request itself, without waiting for others.
    entry
        Requests per second from outside at the busiest hour.
    volume_bytes
        Size of each pod's volume; 0 where it has none.
    """

    namespace: str
    name: str
    team: str
    language: Language
    version: str = "1.0.0"
    kind: Kind = "Deployment"
    replicas: int = 2
    port: int = 8080
    cores: float = 0.25
    cores_limit: float | None = None
    memory_bytes: float = 256 * MEBI
    memory_limit: float = 512 * MEBI
    idle_cores: float = 0.01
    cpu_seconds: float = 0.004
    latency_seconds: float = 0.01
    entry: float = 0.0
    calls: tuple[Call, ...] = ()
    volume_bytes: float = 0.0
    max_replicas: int = 0

    @property
    def image(self) -> str:
        """Its image without a tag."""
        return f"registry.example.com/{self.namespace}/{self.name}"

    @property
    def serves_http(self) -> bool:
        """Whether it counts HTTP requests itself."""
        return self.language in ("jvm", "go", "python", "node", "nginx") and self.namespace in ("shop", "payments", "ingress")


def _app(namespace: str, name: str, team: str, language: Language, *calls: Call, **more: Any) -> Service:
    defaults: dict[str, dict[str, Any]] = {
        "jvm": {"memory_bytes": 768 * MEBI, "memory_limit": 1024 * MEBI, "cores": 0.5, "cores_limit": 1.0, "cpu_seconds": 0.006},
        "go": {"memory_bytes": 96 * MEBI, "memory_limit": 256 * MEBI, "cores_limit": 0.5, "cpu_seconds": 0.002},
        "python": {"memory_bytes": 320 * MEBI, "memory_limit": 512 * MEBI, "cores": 0.4, "cores_limit": 1.0, "cpu_seconds": 0.012},
        "node": {"memory_bytes": 192 * MEBI, "memory_limit": 384 * MEBI, "cores_limit": 1.0, "cpu_seconds": 0.005},
    }
    fields = {**defaults.get(language, {}), **more}
    return Service(namespace=namespace, name=name, team=team, language=language, calls=calls, **fields)


def _store(name: str, team: str, language: Language, **more: Any) -> Service:
    kinds: dict[str, dict[str, Any]] = {
        "postgres": {"port": 5432, "memory_bytes": GIBI, "memory_limit": 2 * GIBI, "cores": 0.5, "cpu_seconds": 0.002},
        "redis": {"port": 6379, "memory_bytes": 256 * MEBI, "memory_limit": 512 * MEBI, "cpu_seconds": 0.0002, "latency_seconds": 0.0008},
        "kafka": {"port": 9092, "memory_bytes": GIBI, "memory_limit": 2 * GIBI, "cpu_seconds": 0.0005, "latency_seconds": 0.003},
        "opensearch": {"port": 9200, "memory_bytes": 2 * GIBI, "memory_limit": 3 * GIBI, "cores": 0.5, "cpu_seconds": 0.006},
    }
    fields = {"latency_seconds": 0.004, "volume_bytes": 20 * GIBI, **kinds[language], **more}
    return Service(namespace="data", name=name, team=team, language=language, kind="StatefulSet", **fields)


def _agent(namespace: str, name: str, port: int) -> Service:
    return Service(
        namespace=namespace, name=name, team="platform", language="go", kind="DaemonSet", replicas=0, port=port, cores=0.05,
        memory_bytes=64 * MEBI, memory_limit=192 * MEBI, idle_cores=0.02,
    )  # fmt: skip


SERVICES = (
    _app(
        "ingress", "ingress-controller", "platform", "nginx", Call("web", 0.4), Call("gateway", 0.6),
        version="1.14.0", entry=240, latency_seconds=0.002, cpu_seconds=0.0008,
    ),
    _app(
        "shop", "web", "storefront", "node", Call("gateway", 1.5), Call("session-store", 1, 0.2),
        version="3.12.0", replicas=3, latency_seconds=0.03, max_replicas=8,
    ),
    _app(
        "shop", "gateway", "storefront", "go", Call("catalog", 0.5), Call("search", 0.15), Call("cart", 0.12), Call("user", 0.15),
        Call("recommendation", 0.15, 0.05, 0.8), Call("review", 0.12, 0.1, 1.0), Call("checkout", 0.04, 1.0, 5.0), Call("coupon", 0.03),
        version="2.31.4", replicas=3, latency_seconds=0.004, max_replicas=10,
    ),
    _app(
        "shop", "catalog", "catalog", "jvm", Call("product-cache", 1, 0.1), Call("catalog-db", 0.3),
        version="2.8.1", replicas=3, latency_seconds=0.012, max_replicas=8,
    ),
    _app("shop", "search", "catalog", "jvm", Call("search-index"), version="0.31.2", latency_seconds=0.015),
    _app(
        "shop", "recommendation", "catalog", "python", Call("product-cache", 2, 0.2), Call("catalog", 0.3, 0.5),
        version="1.4.0", latency_seconds=0.04,
    ),
    _app("shop", "review", "catalog", "python", Call("catalog-db", 0.6), version="1.11.2", latency_seconds=0.025),
    _app("shop", "user", "account", "go", Call("session-store"), Call("user-db", 0.4), version="4.0.9", latency_seconds=0.006),
    _app("shop", "point", "account", "go", Call("user-db", 1.2), version="1.2.3", latency_seconds=0.005),
    _app(
        "shop", "cart", "order", "node", Call("session-store", 1.5), Call("coupon", 0.1, 0.2), Call("catalog", 0.2, 0.5),
        version="1.19.4", latency_seconds=0.012,
    ),
    _app("shop", "coupon", "account", "go", Call("product-cache"), version="0.9.8", latency_seconds=0.004),
    _app(
        "shop", "checkout", "order", "jvm", Call("cart"), Call("stock", 1.2), Call("payment-api", 1.0, 1.0, 4.0), Call("order"),
        version="4.2.0", replicas=3, latency_seconds=0.04, max_replicas=8,
    ),
    _app(
        "shop", "order", "order", "jvm", Call("order-db", 2), Call("queue", 1, 0.5), Call("mail", 1, 0.0), Call("shipping", 0.8, 0.0),
        Call("point", 1, 0.1), version="3.7.5", latency_seconds=0.02,
    ),
    _app("shop", "stock", "order", "go", Call("stock-db", 1.5, 1.0, 2.0), version="2.2.0", latency_seconds=0.006),
    _app("shop", "shipping", "logistics", "python", Call("order-db", 1), version="1.0.14", latency_seconds=0.05),
    _app("shop", "mail", "logistics", "python", Call("queue"), version="0.8.1", latency_seconds=0.06),
    _app(
        "payments", "payment-api", "payment", "jvm", Call("fraud-check", 1, 1.0, 2.0), Call("ledger", 1.1),
        version="5.0.3", replicas=3, latency_seconds=0.05,
    ),
    _app("payments", "fraud-check", "payment", "python", Call("session-store", 2, 0.2), version="1.7.0", latency_seconds=0.06),
    _app("payments", "ledger", "payment", "jvm", Call("ledger-db", 2), version="2.1.5", latency_seconds=0.01),
    _app("payments", "settlement", "payment", "jvm", Call("ledger-db", 5), version="1.3.2", replicas=1, entry=0.05, latency_seconds=0.08),
    _store("catalog-db", "catalog", "postgres", version="16.9"),
    _store("user-db", "account", "postgres", version="16.9"),
    _store("order-db", "order", "postgres", version="16.9", volume_bytes=50 * GIBI),
    _store("stock-db", "order", "postgres", version="15.13"),
    _store("ledger-db", "payment", "postgres", version="16.9", volume_bytes=50 * GIBI),
    _store("session-store", "account", "redis", version="7.4.2", volume_bytes=5 * GIBI),
    _store("product-cache", "catalog", "redis", version="7.4.2", volume_bytes=5 * GIBI),
    _store("queue", "platform", "kafka", version="3.9.1", replicas=3, volume_bytes=30 * GIBI),
    _store("search-index", "catalog", "opensearch", version="2.19.1", replicas=3, latency_seconds=0.02),
    Service(
        namespace="kube-system", name="coredns", team="platform", language="go", version="1.13.1", port=53, cores=0.1,
        memory_bytes=70 * MEBI, memory_limit=170 * MEBI, idle_cores=0.02,
    ),
    Service(
        namespace="monitoring", name="kube-state-metrics", team="platform", language="go", version="2.17.0", replicas=1, cores=0.1,
        idle_cores=0.03,
    ),
    Service(
        namespace="monitoring", name="prometheus", team="platform", language="go", version="3.16.0", kind="StatefulSet", replicas=1,
        port=9090, cores=0.5, memory_bytes=GIBI, memory_limit=2 * GIBI, idle_cores=0.2, volume_bytes=50 * GIBI,
    ),
    _agent("kube-system", "kube-proxy", 10249),
    _agent("kube-system", "aws-node", 61678),
    _agent("monitoring", "node-exporter", 9100),
    _agent("logging", "fluent-bit", 2020),
)  # fmt: skip

_LARGE = Node("", "", "", cores=32, memory_bytes=128 * GIBI, disk_bytes=160 * GIBI, instance_type="m6i.8xlarge", most_pods=234)


def sized(pods: int) -> tuple[tuple[Service, ...], tuple[Node, ...]]:
    """A platform with about so many pods, on larger nodes: the Deployments have more replicas, all else is as it is."""
    scaled = [service for service in SERVICES if service.kind == "Deployment"]
    agents = sum(service.kind == "DaemonSet" for service in SERVICES)
    others = sum(service.replicas for service in SERVICES if service.kind == "StatefulSet")
    room = 0.6 * _LARGE.cores  # for requests, on each node
    # with each round of replicas come nodes, and agents on them
    each = sum(service.replicas * (1 + agents * service.cores / room) for service in scaled)
    factor = max(1.0, (pods - others) / each)

    def larger(service: Service) -> Service:
        replicas = round(service.replicas * factor)
        return replace(service, replicas=replicas, max_replicas=round(service.max_replicas * factor))

    services = tuple(larger(service) if service.kind == "Deployment" else service for service in SERVICES)
    cores = sum(service.cores * service.replicas for service in services)
    count = max(len(NODES), math.ceil(cores / room))
    usual = {node.address: node.zone for node in NODES}  # scenarios name some of them
    more = ((f"10.0.{number % 3 + 1}.{10 + 2 * (number // 3)}", f"ap-northeast-1{'acd'[number % 3]}") for number in itertools.count())
    added = itertools.islice((place for place in more if place[0] not in usual), count - len(NODES))
    places = [*usual.items(), *added]
    return services, tuple(replace(_LARGE, name=_node_name(address), zone=zone, address=address) for address, zone in places)


TEAMS = {
    "platform": ("#team-platform", "platform-oncall@example.com"),
    "storefront": ("#team-storefront", "storefront@example.com"),
    "catalog": ("#team-catalog", "catalog@example.com"),
    "account": ("#team-account", "account@example.com"),
    "order": ("#team-order", "order@example.com"),
    "payment": ("#team-payment", "payment-oncall@example.com"),
    "logistics": ("#team-logistics", "logistics@example.com"),
}
"""Where each team is reached: its channel and its address."""


def ordered(services: tuple[Service, ...]) -> list[int]:
    """Places of the services, every caller before what it calls.

    Raises
    ------
    ValueError
        A call leads nowhere, or in a circle.
    """
    place = {service.name: number for number, service in enumerate(services)}
    callers = [0] * len(services)
    for service in services:
        for call in service.calls:
            if call.to not in place:
                raise ValueError(f"{service.name} calls {call.to}, which is not there")
            callers[place[call.to]] += 1
    ready = [number for number, count in enumerate(callers) if count == 0]
    result = []
    while ready:
        number = ready.pop()
        result.append(number)
        for call in services[number].calls:
            callers[place[call.to]] -= 1
            if callers[place[call.to]] == 0:
                ready.append(place[call.to])
    if len(result) < len(services):
        raise ValueError("the calls lead in a circle")
    return result


def callers_of(name: str, services: tuple[Service, ...] = SERVICES) -> set[str]:
    """The services that reach `name` by their calls, itself included: those that a fault of it may touch."""
    found = {name}
    while True:
        more = {service.name for service in services if any(call.to in found for call in service.calls)} - found
        if not more:
            return found
        found |= more
