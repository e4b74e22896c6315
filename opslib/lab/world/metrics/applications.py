"""What the services export themselves, and what the mesh counts between them.

Names: https://prometheus.io/docs/practices/naming/ and the client libraries' defaults for process, JVM (Micrometer), Go, Python and Node;
https://istio.io/latest/docs/reference/config/metrics/; postgres_exporter, redis_exporter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from opslib.lab.world.history import BOUNDS, MEAN, NOT_FOUND
from opslib.lab.world.metrics.families import Counter, Family, Labels, Total, Values, detailed, lives_of, of_pods
from opslib.lab.world.noise import Floats, Integers

if TYPE_CHECKING:
    from opslib.lab.world.model import World

_CODES = (
    # code, method, weights of: requests, own failures, failures of what it calls
    ("200", "GET", (0.8 * (1 - NOT_FOUND), -0.8 * (1 - NOT_FOUND), -0.8 * (1 - NOT_FOUND))),
    ("200", "POST", (0.2 * (1 - NOT_FOUND), -0.2 * (1 - NOT_FOUND), -0.2 * (1 - NOT_FOUND))),
    ("404", "GET", (NOT_FOUND, -NOT_FOUND, -NOT_FOUND)),
    ("500", "GET", (0.0, 0.8, 0.0)),
    ("500", "POST", (0.0, 0.2, 0.0)),
    ("503", "GET", (0.0, 0.0, 0.8)),
    ("503", "POST", (0.0, 0.0, 0.2)),
)

_MESH = {"job": "mesh", "instance": "telemetry.istio-system.svc:15014"}


def families(world: World, pods: Integers) -> Iterator[Family]:
    """Metrics of the services' own exporters."""
    if not detailed(world) or not len(pods):
        return
    http = pods[[world.services[number].serves_http for number in world.pods.service[pods]]]
    yield from _http(world, http)
    yield from _process(world, pods)
    yield from _runtimes(world, http)
    yield from _stores(world, pods)


def between(world: World, pods: Integers) -> Iterator[Family]:
    """What is counted between the services, and which pods answer Prometheus."""
    labels = [labels_of(world, pod) for pod in pods]
    yield Family(
        "up", "gauge", labels,
        lambda rows, times: world.pods.seen(pods[rows], times).astype(np.float64), lives_of(world, pods, objects=True),
    )  # fmt: skip
    yield _unserved(world)
    if not detailed(world):
        yield from _as_one(world)
    yield from _mesh(world)


def _unserved(world: World) -> Family:
    """Requests to a service none of whose pods is ready: the mesh's gateway counts them in its name."""
    labels, rows, parts = [], [], []
    for place, one in _services(world):
        for method, part in (("GET", 0.8), ("POST", 0.2)):
            labels.append({**one, "code": "503", "method": method, "counted_by": "gateway"})
            rows.append(place)
            parts.append(part)
    return Family("http_requests_total", "counter", labels, Total(world, {"unserved": (np.array(rows), np.array(parts))}, whole=True))


def _services(world: World) -> list[tuple[int, Labels]]:
    """The services that count requests: their places, and labels of what is counted for all of their pods."""
    found: list[tuple[int, Labels]] = []
    for place, service in enumerate(world.services):
        if service.serves_http:
            instance = f"{service.name}.{service.namespace}.svc:{service.port}"
            found.append((place, {"job": service.name, "instance": instance, "namespace": service.namespace, "service": service.name}))
    return found


def _as_one(world: World) -> Iterator[Family]:
    """The services' requests, for all of their pods together."""
    services = _services(world)
    plain, rows = [labels for _place, labels in services], np.array([place for place, _labels in services])
    labels = [{**one, "code": code, "method": method} for one in plain for code, method, _parts in _CODES]
    table = np.array([parts for _one in plain for *_code, parts in _CODES])
    each = np.repeat(rows, len(_CODES))
    counted = {name: (each, table[:, column]) for column, name in enumerate(("requests", "own_failures", "called_failures"))}
    yield Family("http_requests_total", "counter", labels, Total(world, counted, whole=True))
    name, count = "http_request_duration_seconds", len(BOUNDS)
    bounded = [{**one, "le": str(bound)} for one in plain for bound in BOUNDS]
    many = (rows[:, None] * count + np.arange(count)).ravel()
    yield Family(f"{name}_bucket", "counter", bounded, Total(world, {"buckets": (many, 1)}, whole=True))
    total = Total(world, {"requests": (rows, 1)}, whole=True)
    yield Family(f"{name}_bucket", "counter", [{**one, "le": "+Inf"} for one in plain], total)
    yield Family(f"{name}_count", "counter", plain, total)
    yield Family(f"{name}_sum", "counter", plain, Total(world, {"seconds": (rows, 1)}))


def labels_of(world: World, pod: int) -> Labels:
    """Labels that Prometheus gives to what a pod exports."""
    one = world.pods.listed[pod]
    service = world.services[one.service]
    return {
        "job": service.name,
        "instance": f"{address_of(world, pod)}:{service.port}",
        "namespace": service.namespace,
        "service": service.name,
        "pod": one.name,
        "container": service.name,
    }


def address_of(world: World, pod: int) -> str:
    """A pod's address."""
    return world.pods.listed[pod].address or world.pods.addresses[pod]


def _http(world: World, pods: Integers) -> Iterator[Family]:
    labels, which, weights = [], [], []
    for pod in pods:
        for code, method, parts in _CODES:
            labels.append({**labels_of(world, pod), "code": code, "method": method})
            which.append(pod)
            weights.append(parts)
    each, table = np.array(which, np.int64), np.array(weights, np.float64).reshape(-1, 3)
    rows = world.pods.service[each]
    counted = {name: (rows, table[:, column]) for column, name in enumerate(("requests", "own_failures", "called_failures"))}
    yield Family("http_requests_total", "counter", labels, Counter(world, each, counted, whole=True), lives_of(world, each))
    yield from _histogram(world, pods)


def _histogram(world: World, pods: Integers) -> Iterator[Family]:
    name, count = "http_request_duration_seconds", len(BOUNDS)
    plain = [labels_of(world, pod) for pod in pods]
    service, lives = world.pods.service[pods], lives_of(world, pods)
    bounded = [{**one, "le": str(bound)} for one in plain for bound in BOUNDS]
    many = np.repeat(pods, count)
    rows = (service[:, None] * count + np.arange(count)).ravel()
    yield Family(
        f"{name}_bucket", "counter", bounded, Counter(world, many, {"buckets": (rows, 1)}, whole=True), np.repeat(lives, count, axis=0)
    )
    counted = Counter(world, pods, {"requests": (service, 1)}, whole=True)
    yield Family(f"{name}_bucket", "counter", [{**one, "le": "+Inf"} for one in plain], counted, lives)
    yield Family(f"{name}_count", "counter", plain, counted, lives)
    yield Family(f"{name}_sum", "counter", plain, Counter(world, pods, {"seconds": (service, 1)}), lives)
    yield Family(
        "http_requests_in_flight", "gauge", plain,
        of_pods(world, pods, lambda each, times: np.round(_rate(world, "seconds", each, times) * world.pods.share[each, None])), lives,
    )  # fmt: skip


def _process(world: World, pods: Integers) -> Iterator[Family]:
    labels, lives, service = [labels_of(world, pod) for pod in pods], lives_of(world, pods), world.pods.service[pods]
    yield Family("process_cpu_seconds_total", "counter", labels, Counter(world, pods, {"cores": (service, 1)}), lives)
    yield Family(
        "process_resident_memory_bytes",
        "gauge",
        labels,
        of_pods(world, pods, lambda each, times: 0.93 * world.pods.working_set(each, times)),
        lives,
    )
    yield Family("process_start_time_seconds", "gauge", labels, of_pods(world, pods, world.pods.began), lives)
    yield Family(
        "process_open_fds", "gauge", labels, of_pods(world, pods, lambda each, times: np.round(24 + _busy(world, each, times))), lives
    )
    yield Family(
        "process_max_fds", "gauge", labels, of_pods(world, pods, lambda each, times: np.full((len(each), len(times)), 1048576.0)), lives
    )


def _runtimes(world: World, pods: Integers) -> Iterator[Family]:
    language = np.array([world.services[number].language for number in world.pods.service[pods]])

    def gauges(which: Integers, name: str, function: Values, **more: str) -> Family:
        labels = [{**labels_of(world, pod), **more} for pod in which]
        return Family(name, "gauge", labels, of_pods(world, which, function), lives_of(world, which))

    def memory(share: float) -> Values:
        return lambda each, times: share * world.pods.working_set(each, times)

    jvm = pods[language == "jvm"]
    limit = world.pods.memory[0]
    yield gauges(jvm, "jvm_memory_used_bytes", lambda each, times: _heap(world, each, times), area="heap", id="G1 Old Gen")
    yield gauges(jvm, "jvm_memory_used_bytes", lambda each, times: _eden(world, each, times), area="heap", id="G1 Eden Space")
    yield gauges(jvm, "jvm_memory_used_bytes", memory(0.12), area="nonheap", id="Metaspace")
    yield gauges(jvm, "jvm_memory_max_bytes", lambda each, times: _wide(0.75 * limit[each], times), area="heap", id="G1 Old Gen")
    yield gauges(jvm, "jvm_threads_live_threads", lambda each, times: np.round(38 + _busy(world, each, times)))
    service, labels = (
        world.pods.service[jvm],
        [{**labels_of(world, pod), "action": "end of minor GC", "cause": "G1 Evacuation Pause"} for pod in jvm],
    )
    yield Family(
        "jvm_gc_pause_seconds_count",
        "counter",
        labels,
        Counter(world, jvm, {"requests": (service, 0.01)}, whole=True),
        lives_of(world, jvm),
    )
    yield Family("jvm_gc_pause_seconds_sum", "counter", labels, Counter(world, jvm, {"requests": (service, 0.0001)}), lives_of(world, jvm))

    go = pods[language == "go"]
    yield gauges(go, "go_goroutines", lambda each, times: np.round(12 + 4 * _busy(world, each, times)))
    yield gauges(go, "go_memstats_heap_inuse_bytes", memory(0.6))
    yield gauges(go, "go_threads", lambda each, times: np.round(9 + 0.2 * _busy(world, each, times)))
    service, labels = world.pods.service[go], [labels_of(world, pod) for pod in go]
    yield Family(
        "go_gc_duration_seconds_count",
        "counter",
        labels,
        Counter(world, go, {"requests": (service, 0.004)}, whole=True),
        lives_of(world, go),
    )
    yield Family("go_gc_duration_seconds_sum", "counter", labels, Counter(world, go, {"requests": (service, 4e-7)}), lives_of(world, go))

    python = pods[language == "python"]
    for generation, weight in (("0", 0.2), ("1", 0.018), ("2", 0.0016)):
        labels = [{**labels_of(world, pod), "generation": generation} for pod in python]
        counter = Counter(world, python, {"requests": (world.pods.service[python], weight)}, whole=True)
        yield Family("python_gc_collections_total", "counter", labels, counter, lives_of(world, python))

    node = pods[language == "node"]
    yield gauges(node, "nodejs_heap_size_used_bytes", memory(0.55))
    yield gauges(node, "nodejs_heap_size_total_bytes", memory(0.7))
    yield gauges(node, "nodejs_eventloop_lag_seconds", lambda each, times: 0.0012 + 0.02 * _rate(world, "throttled", each, times))


def _stores(world: World, pods: Integers) -> Iterator[Family]:
    language = np.array([world.services[number].language for number in world.pods.service[pods]])
    postgres, redis = pods[language == "postgres"], pods[language == "redis"]
    for name, which, values in (
        ("pg_stat_activity_count", postgres, lambda each, times: np.round(6 + 2 * _busy(world, each, times))),
        ("pg_settings_max_connections", postgres, lambda each, times: np.full((len(each), len(times)), 200.0)),
        ("redis_memory_used_bytes", redis, lambda each, times: 0.9 * world.pods.working_set(each, times)),
        ("redis_connected_clients", redis, lambda each, times: np.round(14 + _busy(world, each, times))),
    ):
        yield Family(name, "gauge", [labels_of(world, pod) for pod in which], of_pods(world, which, values), lives_of(world, which))
    yield Family(
        "redis_commands_processed_total", "counter", [labels_of(world, pod) for pod in redis],
        Counter(world, redis, {"requests": (world.pods.service[redis], 1.4)}, whole=True), lives_of(world, redis),
    )  # fmt: skip


def _mesh(world: World) -> Iterator[Family]:
    edges = world.history.edges
    plain: list[Labels] = []
    rows: list[int] = []
    for reporter in ("source", "destination"):
        for number, (caller, callee, _call) in enumerate(edges):
            source, target = world.services[caller], world.services[callee]
            if target.namespace == "data":
                continue  # the mesh takes their protocols for TCP, and counts no requests
            host = f"{target.name}.{target.namespace}.svc.cluster.local"
            rows.append(number)
            plain.append(
                {
                    **_MESH,
                    "reporter": reporter,
                    "source_workload": source.name,
                    "source_workload_namespace": source.namespace,
                    "source_app": source.name,
                    "source_canonical_service": source.name,
                    "destination_workload": target.name,
                    "destination_workload_namespace": target.namespace,
                    "destination_app": target.name,
                    "destination_canonical_service": target.name,
                    "destination_service": host,
                    "destination_service_name": target.name,
                    "destination_service_namespace": target.namespace,
                    "request_protocol": "http",
                    "connection_security_policy": "mutual_tls" if reporter == "destination" else "unknown",
                }
            )
    each, count = np.array(rows), len(BOUNDS)
    for code, flags, weights in (
        ("200", "-", (1 - NOT_FOUND, NOT_FOUND - 1)),
        ("404", "-", (NOT_FOUND, -NOT_FOUND)),
        ("503", "URX", (0.0, 1.0)),
    ):
        labels = [{**one, "response_code": code, "response_flags": flags} for one in plain]
        yield Family(
            "istio_requests_total", "counter", labels,
            Total(world, {"edge_requests": (each, weights[0]), "edge_failures": (each, weights[1])}, whole=True),
        )  # fmt: skip
    labels = [{**one, "response_code": "200", "response_flags": "-"} for one in plain]
    name = "istio_request_duration_milliseconds"
    bounded = [{**one, "le": str(bound * 1000)} for one in labels for bound in BOUNDS]
    many = (each[:, None] * count + np.arange(count)).ravel()
    yield Family(f"{name}_bucket", "counter", bounded, Total(world, {"edge_buckets": (many, 1)}, whole=True))
    counted = Total(world, {"edge_requests": (each, 1)}, whole=True)
    yield Family(f"{name}_bucket", "counter", [{**one, "le": "+Inf"} for one in labels], counted)
    yield Family(f"{name}_count", "counter", labels, counted)
    yield Family(f"{name}_sum", "counter", labels, Total(world, {"edge_seconds": (each, 1000)}))


def _rate(world: World, name: str, pods: Integers, times: Floats) -> Floats:
    asked, back = np.unique(world.pods.service[pods], return_inverse=True)
    return np.asarray(world.history.rate(name, asked, times)[back])


def _busy(world: World, pods: Integers, times: Floats) -> Floats:
    """Requests that a pod has under way, on average."""
    return np.asarray(_rate(world, "seconds", pods, times) * world.pods.share[pods, None] / MEAN)


def _heap(world: World, pods: Integers, times: Floats) -> Floats:
    used = world.pods.working_set(pods, times)
    return np.asarray(np.clip(used - 0.3 * world.pods.memory[1, pods, None], 0.1 * used, 0.74 * world.pods.memory[0, pods, None]))


def _eden(world: World, pods: Integers, times: Floats) -> Floats:
    """A saw: it fills until the collector empties it."""
    size = 0.1 * world.pods.memory[0, pods, None]
    period = 20 + 40 * (world.pods.keys[pods, None] % np.uint64(11)) / 11
    return np.asarray(size * (0.05 + 0.9 * (times / period % 1)))


def _wide(values: Floats, times: Floats) -> Floats:
    return np.repeat(values[:, None], len(times), axis=1)
