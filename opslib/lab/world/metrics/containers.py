"""What the kubelets export: cAdvisor's containers, and the volumes.

Names: https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md, and pkg/kubelet/metrics/collectors/volume_stats.go in the
kubelet's source.
The labels ``id`` and ``name`` are left out, as is usual to keep the number of series down: so a container that begins anew resets its
counters instead of opening new series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from opslib.lab.world import volumes
from opslib.lab.world.metrics.families import Counter, Family, Labels, constant, detailed, hidden, lives_of, of_pods
from opslib.lab.world.noise import Floats, Integers

if TYPE_CHECKING:
    from opslib.lab.world.model import World

PERIODS = 10.0
"""CFS periods a second: each is 100 ms long."""


def families(world: World, pods: Integers) -> Iterator[Family]:
    """Metrics of the kubelets' two endpoints."""
    if len(pods):
        yield from _containers(world, pods)
        if detailed(world):
            yield from _more(world, pods)
            yield from _network(world, pods)
    yield from _volumes(world)
    for name, values in (
        ("machine_cpu_cores", [node.cores for node in world.nodes]),
        ("machine_memory_bytes", [node.memory_bytes for node in world.nodes]),
    ):
        yield Family(name, "gauge", [_target(world, number) for number in range(len(world.nodes))], constant(values))


def _target(world: World, node: int, path: str = "/metrics/cadvisor") -> Labels:
    name = world.nodes[node].name
    return {"job": "kubelet", "instance": name, "node": name, "metrics_path": path}


def labels_of(world: World, pod: int) -> Labels:
    """Labels of a pod in cAdvisor's metrics."""
    one = world.pods.listed[pod]
    return {**_target(world, one.node), "namespace": world.services[one.service].namespace, "pod": one.name}


def _named(world: World, pods: Integers) -> list[Labels]:
    """Labels of the pods' containers."""
    labels = []
    for pod in pods:
        one = world.pods.listed[pod]
        service = world.services[one.service]
        labels.append({**labels_of(world, pod), "container": service.name, "image": f"{service.image}:{one.version}"})
    return labels


def _more(world: World, pods: Integers) -> Iterator[Family]:
    """What nobody asks for in a big world."""
    labels, service_of, lives = _named(world, pods), world.pods.service[pods], lives_of(world, pods)
    for name, function in (
        ("memory_cache", lambda each, times: 0.2 * world.pods.memory[1, each, None] + 0.0 * times),
        ("memory_usage_bytes", lambda each, times: world.pods.working_set(each, times) + 0.12 * world.pods.memory[1, each, None]),
        ("fs_usage_bytes", lambda each, times: 4e7 + 2e3 * np.minimum(times - world.pods.started[each, None], 4e5)),
    ):
        yield Family(f"container_{name}", "gauge", labels, of_pods(world, pods, function), lives)
    for name, weight in (("writes", 700), ("reads", 300)):
        counter = Counter(world, pods, {"requests": (service_of, weight)}, whole=True)
        yield Family(f"container_fs_{name}_bytes_total", "counter", labels, counter, lives)


def _containers(world: World, pods: Integers) -> Iterator[Family]:
    labels, service_of, lives = _named(world, pods), world.pods.service[pods], lives_of(world, pods)

    def gauge(name: str, function: Callable[[Integers, Floats], Floats]) -> Family:
        return Family(name, "gauge", labels, of_pods(world, pods, function), lives)

    def counter(name: str, values: Counter) -> Family:
        return Family(name, "counter", labels, values, lives)

    memory = world.pods.working_set
    yield counter("container_cpu_usage_seconds_total", Counter(world, pods, {"cores": (service_of, 1)}))
    yield gauge("container_memory_working_set_bytes", memory)
    yield gauge("container_memory_rss", lambda each, times: 0.86 * memory(each, times))
    yield gauge("container_spec_memory_limit_bytes", lambda each, times: world.pods.memory[0, each, None] + 0.0 * times)
    yield gauge("container_start_time_seconds", world.pods.began)
    yield Family(
        "container_oom_events_total", "counter", labels,
        lambda rows, times: hidden(kills(world, pods[rows], times), world.pods.seen(pods[rows], times)), lives,
    )  # fmt: skip

    # only a container with a CPU limit has periods to be throttled in
    limits = np.array([np.nan if one.cores_limit is None else one.cores_limit for one in world.pods.listed])
    limited = np.flatnonzero(np.isfinite(limits[pods]))
    some, chosen = [labels[number] for number in limited], pods[limited]
    where, seconds = service_of[limited], lives[limited]
    active = of_pods(
        world, chosen, lambda each, times: np.floor(PERIODS * np.maximum(times - np.maximum(world.pods.began(each, times), world.start), 0))
    )
    yield Family("container_cpu_cfs_periods_total", "counter", some, active, seconds)
    throttled = Counter(world, chosen, {"throttled": (where, PERIODS)}, shared=False, whole=True)
    yield Family("container_cpu_cfs_throttled_periods_total", "counter", some, throttled, seconds)
    yield Family(
        "container_cpu_cfs_throttled_seconds_total", "counter", some,
        Counter(world, chosen, {"throttled": (where, PERIODS * 0.045)}, shared=False), seconds,
    )  # fmt: skip
    yield Family(
        "container_spec_cpu_quota",
        "gauge",
        some,
        of_pods(world, chosen, lambda each, times: 1e5 * limits[each, None] + 0.0 * times),
        seconds,
    )
    yield Family(
        "container_spec_cpu_period",
        "gauge",
        some,
        of_pods(world, chosen, lambda each, times: np.full((len(each), len(times)), 1e5)),
        seconds,
    )


def kills(world: World, pods: Integers, times: Floats) -> Floats:
    """How often each pod's container was killed for its memory until each time."""
    result = np.zeros((len(pods), len(times)))
    for row, pod in enumerate(pods):
        known = world.pods.listed[pod].kills
        if known:
            result[row] = np.searchsorted(known, times, side="right")
    return result


def _network(world: World, pods: Integers) -> Iterator[Family]:
    labels = [{**labels_of(world, pod), "interface": "eth0"} for pod in pods]
    rows, lives = world.pods.service[pods], lives_of(world, pods)
    for name, size in (("receive_bytes", 900), ("transmit_bytes", 4200), ("receive_packets", 4), ("transmit_packets", 6)):
        yield Family(
            f"container_network_{name}_total", "counter", labels, Counter(world, pods, {"requests": (rows, size)}, whole=True), lives
        )
    for name in ("receive_errors", "transmit_errors", "receive_packets_dropped", "transmit_packets_dropped"):
        yield Family(f"container_network_{name}_total", "counter", labels, constant(np.zeros(len(pods))), lives)


def _volumes(world: World) -> Iterator[Family]:
    home = {(pod.service, pod.ordinal): pod for pod in world.pods.listed if world.services[pod.service].kind == "StatefulSet"}
    known = [one for one in volumes.volumes(world) if one in home]
    labels = []
    for service, replica in known:
        one = world.services[service]
        labels.append(
            {
                **_target(world, home[service, replica].node, "/metrics"),
                "namespace": one.namespace,
                "persistentvolumeclaim": f"data-{one.name}-{replica}",
            }
        )
    sizes = np.array([volumes.capacity(world, service) for service, _replica in known])
    gaps = np.array([home[one].gap for one in known]).reshape(-1, 2)

    def used(rows: Integers, times: Floats) -> Floats:
        result = np.empty((len(rows), len(times)))
        for row, number in enumerate(rows):
            service, replica = known[number]
            result[row] = np.round(volumes.used(world, service, replica, times))
        return result

    def shown(function: Callable[[Integers, Floats], Floats]) -> Callable[[Integers, Floats], Floats]:
        return lambda rows, times: hidden(function(rows, times), ~((times >= gaps[rows, :1]) & (times < gaps[rows, 1:])))

    inodes = np.round(sizes / 16384)
    yield Family("kubelet_volume_stats_capacity_bytes", "gauge", labels, shown(constant(np.round(sizes))))
    yield Family("kubelet_volume_stats_used_bytes", "gauge", labels, shown(used))
    yield Family(
        "kubelet_volume_stats_available_bytes", "gauge", labels, shown(lambda rows, times: np.round(sizes[rows, None]) - used(rows, times))
    )
    yield Family("kubelet_volume_stats_inodes", "gauge", labels, shown(constant(inodes)))
    yield Family("kubelet_volume_stats_inodes_used", "gauge", labels, shown(lambda rows, times: np.round(used(rows, times) / 400000) + 11))
    yield Family(
        "kubelet_volume_stats_inodes_free",
        "gauge",
        labels,
        shown(lambda rows, times: inodes[rows, None] - np.round(used(rows, times) / 400000) - 11),
    )
