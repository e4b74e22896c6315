"""What node-exporter says of the nodes, the API server and DNS of themselves, and a prober of certificates.

Names: https://github.com/prometheus/node_exporter, the API server's own, CoreDNS' prometheus plugin, blackbox_exporter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from opslib.lab.world import noise
from opslib.lab.world.faults import CertificateExpiry, Dns, NodeDown
from opslib.lab.world.metrics.families import Family, Labels, Total, Values, constant, hidden
from opslib.lab.world.noise import Floats, Integers

if TYPE_CHECKING:
    from opslib.lab.world.model import World

_MODES = (("user", 0.78), ("system", 0.2), ("softirq", 0.02))  # shares of what pods use
_OLD = {
    "group": "storage.k8s.io",
    "version": "v1beta1",
    "resource": "volumeattributesclasses",
    "subresource": "",
    "removed_release": "1.37",
}
SYSTEM_CORES = 0.25  # what a node uses without pods
_REQUESTS = (("LIST", "pods", "200", 0.4), ("GET", "configmaps", "200", 1.1), ("WATCH", "pods", "200", 0.2), ("PATCH", "pods", "200", 0.15),
             ("PUT", "leases", "200", 6.0), ("GET", "secrets", "403", 0.002), ("UPDATE", "deployments", "409", 0.004))  # fmt: skip


def families(world: World) -> Iterator[Family]:
    """Metrics of node-exporter."""
    yield from _nodes(world)


def platform(world: World) -> Iterator[Family]:
    """Metrics of the API server, DNS and certificates."""
    yield from _control_plane(world)
    yield from _certificates(world)


def _nodes(world: World) -> Iterator[Family]:
    plain: list[Labels] = [{"job": "node-exporter", "instance": node.name, "node": node.name} for node in world.nodes]
    keys = noise.keys(world.seed, "machine", rows=[node.name for node in world.nodes])
    rows = np.arange(len(world.nodes))
    up = _up(world)
    yield Family("up", "gauge", plain, lambda which, times: up(which, times).astype(np.float64))

    def family(name: str, values: Values, kind: Literal["counter", "gauge"] = "gauge", **labels: str) -> Family:
        return Family(name, kind, [{**one, **labels} for one in plain], lambda which, times: hidden(values(which, times), up(which, times)))

    def spent(name: str, each: float, **labels: str) -> Family:
        """A counter that grows with the CPU seconds of the node's pods."""
        counter = Total(world, {"node_cores": (rows, each)}, shown=up, whole=each > 100)
        return Family(name, "counter", [{**one, **labels} for one in plain], counter)

    yield _processors(world, plain, up)

    def load(which: Integers, times: Floats) -> Floats:
        wander = 0.25 * noise.smooth(keys[which, None], times, 180.0)
        return np.asarray((world.history.rate("node_cores", which, times) + SYSTEM_CORES) * (1 + wander))

    yield family("node_load1", load)
    yield family("node_load5", lambda which, times: 0.98 * load(which, np.floor(times / 300) * 300))
    yield family("node_load15", lambda which, times: 0.97 * load(which, np.floor(times / 900) * 900))

    memory = np.array([node.memory_bytes for node in world.nodes])
    of_node = [np.flatnonzero(world.pods.node == number) for number in rows]

    def taken(which: Integers, times: Floats) -> Floats:
        result = np.empty((len(which), len(times)))
        for row, number in enumerate(which):
            there = of_node[number]
            there = there[(world.pods.started[there] <= times[-1]) & (world.pods.ended[there] > times[0])] if len(times) else there
            result[row] = (world.pods.working_set(there, times) * world.pods.seen(there, times)).sum(axis=0)
        return np.asarray(np.round(result + 1.6e9))

    yield family("node_memory_MemTotal_bytes", constant(memory))
    yield family("node_memory_MemAvailable_bytes", lambda which, times: memory[which, None] - taken(which, times))
    yield family("node_memory_MemFree_bytes", lambda which, times: 0.6 * (memory[which, None] - taken(which, times)))
    yield family("node_memory_Cached_bytes", lambda which, times: 0.35 * (memory[which, None] - taken(which, times)))
    yield family("node_memory_Buffers_bytes", constant(np.full(len(rows), 4.2e6)))
    yield from _disks(world, family, keys)
    yield spent("node_network_receive_bytes_total", 2.1e6, device="ens5")
    yield spent("node_network_transmit_bytes_total", 2.6e6, device="ens5")
    for name in ("receive_errs", "transmit_errs", "receive_drop", "transmit_drop"):
        yield family(f"node_network_{name}_total", constant(0.0 * rows), "counter", device="ens5")
    yield spent("node_context_switches_total", 9000)
    for name, each in (
        ("io_time_seconds", 0.05),
        ("read_bytes", 1.2e5),
        ("written_bytes", 9e5),
        ("reads_completed", 8.0),
        ("writes_completed", 40.0),
    ):
        yield spent(f"node_disk_{name}_total", each, device="nvme0n1")
    yield family("node_boot_time_seconds", constant(np.floor(world.start - 86400 * (3 + 9 * noise.uniform(keys, 1)))))
    yield family("node_time_seconds", lambda which, times: np.repeat(times[None], len(which), axis=0))
    yield family("node_filefd_allocated", lambda which, times: np.round(2400 + 400 * noise.smooth(keys[which, None], times, 600.0)))
    yield family("node_procs_running", lambda which, times: np.round(1 + load(which, times)))
    names = [
        {**one, "nodename": node.name, "sysname": "Linux", "machine": "x86_64", "release": "6.12.55-74.119.amzn2023.x86_64"}
        for one, node in zip(plain, world.nodes, strict=True)
    ]
    yield Family("node_uname_info", "gauge", names, lambda which, times: hidden(np.ones((len(which), len(times))), up(which, times)))


def _processors(world: World, plain: list[Labels], up: Callable[[Integers, Floats], npt.NDArray[np.bool_]]) -> Family:
    labels, nodes, weights, steady = [], [], [], []
    for number, node in enumerate(world.nodes):
        for processor in range(node.cores):
            for mode, share in (*_MODES, ("iowait", 0.01), ("steal", 0.0005), ("idle", -1.0105)):
                labels.append({**plain[number], "cpu": str(processor), "mode": mode})
                nodes.append(number)
                weights.append(share / node.cores)
                steady.append((mode == "idle") + SYSTEM_CORES * share / node.cores)
    node_of = np.array(nodes)
    counter = Total(
        world, {"node_cores": (node_of, np.array(weights))}, steady=np.array(steady), shown=lambda rows, times: up(node_of[rows], times)
    )
    return Family("node_cpu_seconds_total", "counter", labels, counter)


def _disks(world: World, family: Callable[..., Family], keys: noise.Words) -> Iterator[Family]:
    size = np.array([node.disk_bytes for node in world.nodes])
    where = {"device": "/dev/nvme0n1p1", "fstype": "xfs", "mountpoint": "/"}
    level = noise.uniform(keys, 2)

    def left(which: Integers, times: Floats) -> Floats:
        """Images and logs come, and are cleaned up every other day."""
        saw = 0.06 * ((times - world.start) / 172800 + level[which, None]) % 0.06
        return np.asarray(np.round(size[which, None] * (0.52 + 0.2 * level[which, None] - saw)))

    yield family("node_filesystem_size_bytes", constant(size), **where)
    yield family("node_filesystem_avail_bytes", left, **where)
    yield family("node_filesystem_free_bytes", left, **where)
    yield family("node_filesystem_files", constant(np.full(len(size), 41_943_040.0)), **where)
    yield family(
        "node_filesystem_files_free",
        lambda which, times: 41_943_040.0 - np.round((size[which, None] - left(which, times)) / 60000),
        **where,
    )
    yield family("node_filesystem_readonly", constant(0 * size), **where)


def _up(world: World) -> Callable[[Integers, Floats], npt.NDArray[np.bool_]]:
    spans = [
        [(timed.start, timed.end) for timed in world.faults if isinstance(timed.fault, NodeDown) and timed.fault.node == node.name]
        for node in world.nodes
    ]

    def function(rows: Integers, times: Floats) -> npt.NDArray[np.bool_]:
        result = np.ones((len(rows), len(times)), np.bool_)
        for row, number in enumerate(rows):
            for begin, end in spans[number]:
                result[row, (times >= begin) & (times < end)] = False
        return result

    return function


def _steady(world: World, each: list[float], *, whole: bool = True) -> Values:
    """Counters that grow by so much a second."""
    known = np.array(each)

    def values(rows: Integers, times: Floats) -> Floats:
        counted = known[rows][:, None] * np.maximum(times - world.start, 0)
        return np.floor(counted) if whole else counted

    return values


def _control_plane(world: World) -> Iterator[Family]:
    api = {"job": "apiserver", "instance": "10.0.0.10:443"}
    yield Family(
        "apiserver_requested_deprecated_apis", "gauge",
        [{**api, "group": "", "version": "v1", "resource": "endpoints", "subresource": "", "removed_release": ""}, {**api, **_OLD}],
        constant([1, 1]),
    )  # fmt: skip
    labels = [{**api, "verb": verb, "resource": resource, "code": code, "version": "v1"} for verb, resource, code, _rate in _REQUESTS]
    yield Family("apiserver_request_total", "counter", labels, _steady(world, [rate for *_what, rate in _REQUESTS]))
    yield from _dns(world)


def _dns(world: World) -> Iterator[Family]:
    server = {"job": "coredns", "instance": "kube-dns.kube-system.svc:9153", "namespace": "kube-system", "server": "dns://:53", "zone": "."}
    broken = [(timed, timed.fault.error_ratio) for timed in world.faults if isinstance(timed.fault, Dns)]

    def failed(times: Floats) -> Floats:
        """Questions that failed until each time; the ramp is left out."""
        total = np.zeros(len(times))
        for timed, ratio in broken:
            total += 60 * ratio * np.clip(np.minimum(times, timed.end) - timed.start, 0, None)
        return total

    def answers(rows: Integers, times: Floats) -> Floats:
        asked = 60 * np.maximum(times - world.start, 0)
        each = np.stack([0.82 * asked - failed(times) * 0.82, 0.18 * asked - failed(times) * 0.18, failed(times)])
        return np.asarray(np.floor(each[rows]))

    codes = [{**server, "rcode": code} for code in ("NOERROR", "NXDOMAIN", "SERVFAIL")]
    yield Family("coredns_dns_responses_total", "counter", codes, answers)
    yield Family("coredns_dns_requests_total", "counter", [{**server, "type": "A", "proto": "udp"}], _steady(world, [60.0]))


def _certificates(world: World) -> Iterator[Family]:
    labels, ends = [], []
    for service in world.services:
        if not service.serves_http:
            continue
        end = world.end + 86400 * (20 + 60 * noise.one(world.seed, "certificate", service.name))
        for timed in world.faults:
            if isinstance(timed.fault, CertificateExpiry) and timed.fault.service == service.name:
                end = timed.start
        labels.append({"job": "blackbox", "instance": f"https://{service.name}.{service.namespace}.svc:{service.port}/healthz"})
        ends.append(float(int(end)))
    yield Family("probe_ssl_earliest_cert_expiry", "gauge", labels, constant(ends))
