"""What the lab's Prometheus scrapes: metrics under the names of kube-state-metrics, cAdvisor, node-exporter and the services themselves.

The first are derived from the objects in the API. The others follow formulas over the time of day and the pods that are ready, so that a
service without a ready pod answers 503 and a container that restarted begins anew. Names and labels:
https://github.com/kubernetes/kube-state-metrics/tree/main/docs, https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md,
https://github.com/prometheus/node_exporter.
"""

from __future__ import annotations

import hashlib
import math
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.lab.api import Api, Object
from opslib.lab.informer import Informer
from opslib.lab.kubelet import HOLD
from opslib.lab.platform import SERVICES, Workload
from opslib.lab.serving import Served
from opslib.lab.world import platform as _world

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

RULES = Path(__file__).parent / "rules"
NODES = tuple((node.name, node.zone, node.address) for node in _world.NODES)
CORES, MEMORY_BYTES, DISK_BYTES = 8, 32 << 30, 80 << 30

_DAY = 86400.0
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_POD_FAMILIES = (
    "kube_pod_container_status_waiting_reason",
    "kube_pod_container_status_last_terminated_reason",
    "kube_pod_container_resource_limits",
    "kube_pod_container_resource_requests",
)  # those that a healthy cluster may have no samples of
_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

Labels = Mapping[str, str]


def prometheus_configuration(*, exporter: str, prometheus: str, alertmanager: str | None, rules: Path, cluster: bool) -> dict[str, Any]:
    """The configuration of the lab's Prometheus; `cluster` says whether there are objects to derive metrics from."""
    nodes = [{"targets": [exporter], "labels": {"__param_node": name, "instance": name}} for name, _zone, _address in NODES]

    def job(name: str, path: str, targets: list[dict[str, Any]]) -> dict[str, Any]:
        return {"job_name": name, "metrics_path": path, "honor_labels": True, "static_configs": targets}

    jobs = [{"job_name": "prometheus", "static_configs": [{"targets": [prometheus]}]}]
    if alertmanager is not None:
        jobs.append({"job_name": "alertmanager", "static_configs": [{"targets": [alertmanager]}]})
    if cluster:
        jobs += [
            job("kube-state-metrics", "/kube-state", [{"targets": [exporter]}]),
            job("kubelet", "/cadvisor", nodes),
            job("node-exporter", "/node", nodes),
            job("services", "/services", [{"targets": [exporter]}]),
        ]
    configuration: dict[str, Any] = {
        "global": {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "5s"},
        "rule_files": [f"{rules}/*.yaml"],
        "scrape_configs": jobs,
    }
    if alertmanager is not None:
        configuration["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return configuration


class Exporter:
    """Serves the metrics. Without a cluster (`api` None) it serves none."""

    def __init__(self, api: Api | None, pods: Informer | None) -> None:
        self._informers: dict[str, Informer] = {}
        if api is not None:
            self._informers = {
                # all pods, the unscheduled ones too, which the kubelet does not see
                "pods": Informer(api, "/api/v1/pods"),
                "nodes": Informer(api, "/api/v1/nodes"),
                "deployments": Informer(api, "/apis/apps/v1/deployments"),
                "statefulsets": Informer(api, "/apis/apps/v1/statefulsets"),
                "daemonsets": Informer(api, "/apis/apps/v1/daemonsets"),
            }
        self._counters: dict[tuple[Any, ...], float] = {}
        self._last = time.time()
        self._scraped: dict[str, float] = {}
        self._lock = threading.Lock()
        self._served: Served | None = None

    def start(self, held: socket.socket) -> None:
        """Serve on `held`, a socket that listens."""
        for informer in self._informers.values():
            informer.start()
        for informer in self._informers.values():
            informer.synced.wait(10)
        self._served = Served(self._application(), held=held)

    def close(self) -> None:
        """Stop serving."""
        for informer in self._informers.values():
            informer.close()
        if self._served is not None:
            self._served.close()

    def _application(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/kube-state", self._kube_state),
                Route("/cadvisor", self._cadvisor),
                Route("/node", self._node),
                Route("/services", self._services),
            ]
        )

    def _objects(self, kind: str) -> list[Object]:
        informer = self._informers.get(kind)
        return informer.objects() if informer else []

    def _kube_state(self, request: Request) -> Response:
        return _page(
            kube_state(
                self._objects("pods"),
                self._objects("nodes"),
                self._objects("deployments"),
                self._objects("statefulsets"),
                self._objects("daemonsets"),
            ),
            always=_POD_FAMILIES,
        )

    def _cadvisor(self, request: Request) -> Response:
        node = request.query_params.get("node", "")
        return self._gone(node) or _page(
            cadvisor([pod for pod in self._objects("pods") if pod["spec"].get("nodeName") == node], time.time())
        )

    def _node(self, request: Request) -> Response:
        node = request.query_params.get("node", "")
        pods = [pod for pod in self._objects("pods") if pod["spec"].get("nodeName") == node]
        busy, samples = node_exporter(node, pods)
        with self._lock:
            now = time.time()
            passed = now - self._scraped.get(node, now)
            self._scraped[node] = now
            for core in range(CORES):
                for mode, share in (("idle", 1 - busy), ("user", busy * 0.8), ("system", busy * 0.2)):
                    labels = (("instance", node), ("cpu", str(core)), ("mode", mode))
                    self._add("node_cpu_seconds_total", labels, passed * share)
                    samples.append(("node_cpu_seconds_total", dict(labels), self._counters["node_cpu_seconds_total", *labels]))
        return self._gone(node) or _page(samples)

    def _gone(self, name: str) -> Response | None:
        """A node that is held, or not there, answers nothing."""
        from starlette.responses import PlainTextResponse

        for node in self._objects("nodes"):
            if node["metadata"]["name"] == name and node["metadata"].get("annotations", {}).get(HOLD) != "true":
                return None
        return PlainTextResponse("the node does not answer\n", 503)

    def _services(self, request: Request) -> Response:
        with self._lock:
            now = time.time()
            ready = {
                (one["metadata"]["namespace"], one["metadata"]["name"]): (
                    one.get("status", {}).get("readyReplicas", 0),
                    one["spec"].get("replicas", 1),
                )
                for one in self._objects("deployments")
            }
            for service in SERVICES:
                replicas = ready.get((service.namespace, service.name))
                if replicas is not None:
                    self._count(service, *replicas, self._last, now)
            self._last = now
            samples = [(name, dict(labels), value) for (name, *labels), value in self._counters.items() if name.startswith("http_")]
        return _page(samples)

    def _count(self, service: Workload, ready: int, wanted: int, start: float, end: float) -> None:
        requests = (end - start) * service.requests_per_second * daily(end)
        base = (("namespace", service.namespace), ("service", service.name))
        # With no pod ready all fail; with fewer than wanted the rest are slower.
        codes = {"200": 0.985, "404": 0.0145, "500": 0.0005} if ready else {"503": 1.0}
        for code, share in codes.items():
            for method, part in (("GET", 0.8), ("POST", 0.2)):
                self._add("http_requests_total", (*base, ("code", code), ("method", method)), requests * share * part)
        if not ready:
            return
        latency = service.latency_seconds * max(1.0, wanted / ready)
        for bound in _BUCKETS:
            self._add("http_request_duration_seconds_bucket", (*base, ("le", str(bound))), requests * below(bound, latency))
        self._add("http_request_duration_seconds_bucket", (*base, ("le", "+Inf")), requests)
        self._add("http_request_duration_seconds_sum", base, requests * latency * math.exp(0.245))
        self._add("http_request_duration_seconds_count", base, requests)

    def _add(self, name: str, labels: tuple[tuple[str, str], ...], amount: float) -> None:
        key = (name, *labels)
        self._counters[key] = self._counters.get(key, 0.0) + amount


Sample = tuple[str, Labels, float]


def kube_state(
    pods: Iterable[Object],
    nodes: Iterable[Object],
    deployments: Iterable[Object],
    statefulsets: Iterable[Object],
    daemonsets: Iterable[Object],
) -> Iterator[Sample]:
    """The metrics of kube-state-metrics that rules and chapters use."""
    for pod in pods:
        yield from _pod_state(pod)
    for node in nodes:
        name = {"node": node["metadata"]["name"]}
        status = node.get("status", {})
        yield "kube_node_info", {**name, "kubelet_version": status.get("nodeInfo", {}).get("kubeletVersion", "")}, 1
        yield "kube_node_spec_unschedulable", name, float(bool(node["spec"].get("unschedulable")))
        for condition in status.get("conditions", []):
            for value in ("true", "false", "unknown"):
                labels = {**name, "condition": condition["type"], "status": value}
                yield "kube_node_status_condition", labels, float(condition["status"].lower() == value)
        for kind in ("allocatable", "capacity"):
            for resource, quantity in status.get(kind, {}).items():
                yield f"kube_node_status_{kind}", {**name, **_resource(resource)}, amount(quantity)
    for deployment in deployments:
        labels, spec, status = _named(deployment, "deployment"), deployment["spec"], deployment.get("status", {})
        yield "kube_deployment_spec_replicas", labels, float(spec.get("replicas", 1))
        yield "kube_deployment_status_replicas", labels, float(status.get("replicas", 0))
        yield "kube_deployment_status_replicas_available", labels, float(status.get("availableReplicas", 0))
        yield "kube_deployment_status_replicas_unavailable", labels, float(status.get("unavailableReplicas", 0))
        yield "kube_deployment_status_replicas_updated", labels, float(status.get("updatedReplicas", 0))
        yield "kube_deployment_metadata_generation", labels, float(deployment["metadata"].get("generation", 0))
        yield "kube_deployment_status_observed_generation", labels, float(status.get("observedGeneration", 0))
    for one in statefulsets:
        labels = _named(one, "statefulset")
        yield "kube_statefulset_replicas", labels, float(one["spec"].get("replicas", 1))
        yield "kube_statefulset_status_replicas_ready", labels, float(one.get("status", {}).get("readyReplicas", 0))
    for one in daemonsets:
        labels, status = _named(one, "daemonset"), one.get("status", {})
        yield "kube_daemonset_status_desired_number_scheduled", labels, float(status.get("desiredNumberScheduled", 0))
        yield "kube_daemonset_status_number_ready", labels, float(status.get("numberReady", 0))


def _pod_state(pod: Object) -> Iterator[Sample]:
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status", {})
    labels = _named(pod, "pod")
    node = spec.get("nodeName", "")
    owner: Object = next(iter(metadata.get("ownerReferences", [])), {})
    made_by = {"created_by_kind": owner.get("kind", ""), "created_by_name": owner.get("name", "")}
    yield "kube_pod_info", {**labels, "node": node, "pod_ip": status.get("podIP", ""), **made_by}, 1
    for phase in _PHASES:
        yield "kube_pod_status_phase", {**labels, "phase": phase}, float(status.get("phase") == phase)
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready":
            for value in ("true", "false", "unknown"):
                yield "kube_pod_status_ready", {**labels, "condition": value}, float(condition["status"].lower() == value)
    for one in status.get("containerStatuses", []):
        container = {**labels, "container": one["name"]}
        yield "kube_pod_container_status_restarts_total", container, float(one.get("restartCount", 0))
        yield "kube_pod_container_status_ready", container, float(bool(one.get("ready")))
        yield "kube_pod_container_status_running", container, float("running" in one.get("state", {}))
        if "waiting" in one.get("state", {}):
            yield "kube_pod_container_status_waiting_reason", {**container, "reason": one["state"]["waiting"].get("reason", "")}, 1
        last = one.get("lastState", {}).get("terminated") or one.get("state", {}).get("terminated")
        if last:
            yield "kube_pod_container_status_last_terminated_reason", {**container, "reason": last.get("reason", "")}, 1
    for one in spec["containers"]:
        for kind in ("requests", "limits"):
            for resource, quantity in one.get("resources", {}).get(kind, {}).items():
                where = {**labels, "container": one["name"], "node": node, **_resource(resource)}
                yield f"kube_pod_container_resource_{kind}", where, amount(quantity)


def cadvisor(pods: Iterable[Object], now: float) -> Iterator[Sample]:
    """A node's cAdvisor: use of the containers that run, between a third and two thirds of what they ask for, by the time of day."""
    for pod in pods:
        for labels, cores, memory, started in _running(pod):
            seconds = max(0.0, now - started)
            yield "container_cpu_usage_seconds_total", labels, cores * seconds
            yield "container_memory_working_set_bytes", labels, memory * (1 - 0.2 * math.exp(-seconds / 600))
            yield "container_memory_rss", labels, memory * 0.8
            yield "container_start_time_seconds", labels, started


def node_exporter(node: str, pods: Iterable[Object]) -> tuple[float, list[Sample]]:
    """A node's own use, that of its pods and the system's: the share of its cores that is busy, and all that is no counter."""
    used = [one for pod in pods for one in _running(pod)]
    busy = min(0.95, 0.06 + sum(cores for _labels, cores, _memory, _started in used) / CORES)
    memory = MEMORY_BYTES * 0.12 + sum(memory for _labels, _cores, memory, _started in used)
    name = {"instance": node}
    disk = {"instance": node, "device": "/dev/nvme0n1p1", "fstype": "xfs", "mountpoint": "/"}
    return busy, [
        ("node_memory_MemTotal_bytes", name, float(MEMORY_BYTES)),
        ("node_memory_MemAvailable_bytes", name, max(0.0, MEMORY_BYTES - memory)),
        ("node_filesystem_size_bytes", disk, float(DISK_BYTES)),
        ("node_filesystem_avail_bytes", disk, DISK_BYTES * (0.45 + 0.2 * _share(node))),
        ("node_filesystem_files", disk, 41_943_040.0),
        ("node_filesystem_files_free", disk, 41_943_040.0 * 0.97),
        ("node_load1", name, busy * CORES),
    ]


def daily(now: float) -> float:
    """How busy it is at a time, 0.4 to 1: most at nine in the evening in Tokyo, when people shop."""
    hour = (now / 3600 + 9) % 24
    return 0.7 + 0.3 * math.cos((hour - 21) / 24 * 2 * math.pi)


def below(bound: float, median: float) -> float:
    """The share of requests faster than `bound` seconds: log-normal about the median with sigma 0.7."""
    return 0.5 * (1 + math.erf(math.log(bound / median) / (0.7 * math.sqrt(2))))


def amount(quantity: str | int | float) -> float:
    """A Kubernetes quantity ("250m", "128Mi") as a number of cores or bytes."""
    if isinstance(quantity, int | float):
        return float(quantity)
    number = quantity.rstrip("KMGTikm")
    return float(number) * _UNITS[quantity[len(number) :]]


def _running(pod: Object) -> Iterator[tuple[Labels, float, float, float]]:
    """The containers that run: labels, cores and bytes used, start in Unix seconds."""
    statuses = {one["name"]: one for one in pod.get("status", {}).get("containerStatuses", [])}
    for container in pod["spec"]["containers"]:
        state = statuses.get(container["name"], {}).get("state", {}).get("running")
        if state is None:
            continue
        requests = container.get("resources", {}).get("requests", {})
        share = _share(pod["metadata"]["name"] + container["name"])
        started = _unix(state.get("startedAt", ""))
        labels = {**_named(pod, "pod"), "container": container["name"], "image": container.get("image", "")}
        cores = amount(requests.get("cpu", "50m")) * (0.33 + 0.33 * share)
        yield labels, cores, amount(requests.get("memory", "64Mi")) * (0.5 + 0.4 * share), started


def _unix(stamp: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(stamp).timestamp() if stamp else time.time()


def _share(text: str) -> float:
    """A number from 0 to 1 that is always the same for a text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def _named(obj: Object, kind: str) -> dict[str, str]:
    return {"namespace": obj["metadata"]["namespace"], kind: obj["metadata"]["name"]}


def _resource(name: str) -> dict[str, str]:
    units = {"cpu": "core", "memory": "byte", "ephemeral-storage": "byte"}
    return {"resource": name.replace("-", "_").replace("/", "_").replace(".", "_"), "unit": units.get(name, "integer")}


def _page(samples: Iterable[Sample], always: Iterable[str] = ()) -> Response:
    """The samples by family. Those of `always` have their head even without samples, as kube-state-metrics writes it: Prometheus then
    knows that the metric is on offer, and that there is nothing to count.
    """
    from starlette.responses import PlainTextResponse

    families: dict[str, list[str]] = {name: [] for name in always}
    for name, labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        families.setdefault(name, []).append(f"{name}{{{inside}}} {value!r}\n")
    lines = []
    for name, rows in families.items():
        if not name.endswith(("_bucket", "_sum", "_count")):  # parts of a histogram have one head for all, which nothing here reads
            lines.append(f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n")
        lines += rows
    return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
