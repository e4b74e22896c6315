"""What kube-state-metrics says of the cluster's objects (https://github.com/kubernetes/kube-state-metrics/tree/main/docs/metrics)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from opslib.lab.world import volumes
from opslib.lab.world.faults import NodeDown
from opslib.lab.world.manifests import node_status
from opslib.lab.world.metrics.applications import address_of
from opslib.lab.world.metrics.containers import kills
from opslib.lab.world.metrics.families import Family, Labels, Values, constant, lives_of
from opslib.lab.world.noise import Floats, Integers
from opslib.lab.world.platform import KERNEL, KUBELET_VERSION, OS_IMAGE, RUNTIME, Service
from opslib.lab.world.pods import answers
from opslib.lab.world.present import amount

if TYPE_CHECKING:
    from opslib.lab.world.model import World

TARGET = {"job": "kube-state-metrics", "instance": "kube-state-metrics.monitoring.svc:8080"}
"""Labels that Prometheus gives to what kube-state-metrics exports."""

_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_GRACE_SECONDS = 40.0  # the node monitor's: so long a node that is silent is still called ready
_RESOURCES = {"cpu": "core", "memory": "byte", "pods": "integer", "ephemeral-storage": "byte"}


def families(world: World, pods: Integers) -> Iterator[Family]:
    """Metrics of kube-state-metrics."""
    yield from _pods(world, pods)
    yield from _workloads(world)
    yield from _nodes(world)
    yield from _claims(world)


def _gauge(name: str, labels: list[Labels], values: Values, lives: Floats | None = None) -> Family:
    return Family(name, "gauge", labels, values, lives)


def _named(service: Service, kind: str) -> Labels:
    return {**TARGET, "namespace": service.namespace, kind: service.name}


def _pods(world: World, pods: Integers) -> Iterator[Family]:
    lives = lives_of(world, pods, objects=True)
    plain: list[Labels] = []
    inside: list[Labels] = []
    info: list[Labels] = []
    owners: list[Labels] = []
    for pod in pods:
        one = world.pods.listed[pod]
        service, node = world.services[one.service], world.nodes[one.node]
        kind = "ReplicaSet" if one.revision else service.kind
        owner = f"{service.name}-{one.revision}" if one.revision else service.name
        labels = {**TARGET, "namespace": service.namespace, "pod": one.name}
        plain.append(labels)
        inside.append({**labels, "container": service.name})
        owners.append({**labels, "owner_kind": kind, "owner_name": owner, "owner_is_controller": "true"})
        info.append(
            {
                **labels,
                "node": node.name,
                "host_ip": node.address,
                "pod_ip": address_of(world, pod),
                "created_by_kind": kind,
                "created_by_name": owner,
                "host_network": "false",
            }
        )
    ones, count = np.ones(len(pods)), len(pods)
    yield _gauge("kube_pod_info", info, constant(ones), lives)
    yield _gauge("kube_pod_owner", owners, constant(ones), lives)
    yield _gauge("kube_pod_created", plain, constant(world.pods.started[pods]), lives)
    for phase in _PHASES:
        yield _gauge("kube_pod_status_phase", [{**one, "phase": phase} for one in plain], constant(ones * (phase == "Running")), lives)

    def ready(rows: Integers, times: Floats) -> Floats:
        chosen = pods[rows]
        result = np.empty((len(rows), len(times)))
        for row, pod in enumerate(chosen):
            result[row] = answers(world, world.services[world.pods.listed[pod].service], times)
        # a container that has just begun again is not ready yet
        return np.asarray(result * (times - world.pods.began(chosen, times) >= 5) * ~_lost(world.pods.gaps[chosen], times))

    yield _gauge("kube_pod_status_ready", [{**one, "condition": "true"} for one in plain], ready, lives)
    yield _gauge(
        "kube_pod_status_ready", [{**one, "condition": "false"} for one in plain], lambda rows, times: 1 - ready(rows, times), lives
    )
    yield _gauge("kube_pod_status_ready", [{**one, "condition": "unknown"} for one in plain], constant(np.zeros(count)), lives)
    yield _gauge("kube_pod_container_status_ready", inside, ready, lives)
    yield _gauge("kube_pod_container_status_running", inside, constant(ones), lives)
    yield Family("kube_pod_container_status_restarts_total", "counter", inside, lambda rows, times: kills(world, pods[rows], times), lives)
    yield _gauge(
        "kube_pod_container_info",
        [{**one, "image": _image(world, pod)} for one, pod in zip(inside, pods, strict=True)],
        constant(ones),
        lives,
    )
    killed = np.flatnonzero([bool(world.pods.listed[pod].kills) for pod in pods])
    since = lives[killed].copy()
    since[:, 0] = [world.pods.listed[pods[row]].kills[0] for row in killed]
    yield _gauge(
        "kube_pod_container_status_last_terminated_reason",
        [{**inside[row], "reason": "OOMKilled"} for row in killed],
        constant(np.ones(len(killed))),
        since,
    )
    yield from _resources(world, pods, inside, lives)


def _image(world: World, pod: int) -> str:
    one = world.pods.listed[pod]
    return f"{world.services[one.service].image}:{one.version}"


def _resources(world: World, pods: Integers, inside: list[Labels], lives: Floats) -> Iterator[Family]:
    listed = [world.pods.listed[pod] for pod in pods]
    owners = [world.services[pod.service] for pod in listed]
    for name, resource, unit, values in (
        ("requests", "cpu", "core", [service.cores for service in owners]),
        ("requests", "memory", "byte", [service.memory_bytes for service in owners]),
        ("limits", "cpu", "core", [np.nan if pod.cores_limit is None else pod.cores_limit for pod in listed]),
        ("limits", "memory", "byte", [service.memory_limit for service in owners]),
    ):
        known = np.asarray(values, np.float64)
        there = np.flatnonzero(np.isfinite(known))
        labels = [{**inside[row], "node": world.nodes[listed[row].node].name, "resource": resource, "unit": unit} for row in there]
        yield _gauge(f"kube_pod_container_resource_{name}", labels, constant(known[there]), lives[there])


def _available(world: World, place: int) -> Callable[[Floats], Floats]:
    """How many pods of a service are ready at each time."""
    which = np.flatnonzero(world.pods.service == place)

    def function(times: Floats) -> Floats:
        return np.asarray(world.pods.seen(which, times).sum(axis=0) * answers(world, world.services[place], times))

    return function


def _workloads(world: World) -> Iterator[Family]:
    for kind, names in (
        ("Deployment", ("kube_deployment_spec_replicas", "kube_deployment_status_replicas", "kube_deployment_status_replicas_updated")),
        ("StatefulSet", ("kube_statefulset_replicas", "kube_statefulset_status_replicas", "kube_statefulset_status_replicas_current")),
        ("DaemonSet", ("kube_daemonset_status_desired_number_scheduled", "kube_daemonset_status_current_number_scheduled")),
    ):
        places = [place for place, service in enumerate(world.services) if service.kind == kind]
        labels = [_named(world.services[place], kind.lower()) for place in places]
        wanted = np.array([world.services[place].replicas or len(world.nodes) for place in places], np.float64)
        for name in names:
            yield _gauge(name, labels, constant(wanted))
        counts = [_available(world, place) for place in places]
        yield from _readiness(kind, labels, counts, wanted)
        prefix = f"kube_{kind.lower()}"
        generation = [_generation(world, place) for place in places]
        for name in (f"{prefix}_metadata_generation", f"{prefix}_status_observed_generation"):
            yield _gauge(name, labels, _each(generation))
    yield from _scalers(world)


def _readiness(kind: str, labels: list[Labels], counts: list[Callable[[Floats], Floats]], wanted: Floats) -> Iterator[Family]:
    ready = _each(counts)

    def missing(rows: Integers, times: Floats) -> Floats:
        return np.maximum(wanted[rows, None] - ready(rows, times), 0)

    if kind == "Deployment":
        yield _gauge("kube_deployment_status_replicas_available", labels, ready)
        yield _gauge("kube_deployment_status_replicas_ready", labels, ready)
        yield _gauge("kube_deployment_status_replicas_unavailable", labels, missing)
    elif kind == "StatefulSet":
        yield _gauge("kube_statefulset_status_replicas_ready", labels, ready)
        yield _gauge("kube_statefulset_status_replicas_available", labels, ready)
    else:
        yield _gauge("kube_daemonset_status_number_ready", labels, ready)
        yield _gauge("kube_daemonset_status_number_available", labels, ready)
        yield _gauge("kube_daemonset_status_number_unavailable", labels, missing)


def _each(functions: list[Callable[[Floats], Floats]]) -> Values:
    def values(rows: Integers, times: Floats) -> Floats:
        return np.stack([functions[row](times) for row in rows]) if len(rows) else np.zeros((0, len(times)))

    return values


def _generation(world: World, place: int) -> Callable[[Floats], Floats]:
    times_of = [change.time for change in world.changes if change.service == world.services[place].name]
    return lambda times: np.asarray(np.searchsorted(times_of, times, side="right") + 1, np.float64)


def _scalers(world: World) -> Iterator[Family]:
    places = [place for place, service in enumerate(world.services) if service.max_replicas]
    labels = [_named(world.services[place], "horizontalpodautoscaler") for place in places]
    low = [world.services[place].replicas for place in places]
    yield _gauge("kube_horizontalpodautoscaler_spec_min_replicas", labels, constant(low))
    yield _gauge(
        "kube_horizontalpodautoscaler_spec_max_replicas", labels, constant([world.services[place].max_replicas for place in places])
    )
    yield _gauge("kube_horizontalpodautoscaler_status_current_replicas", labels, constant(low))
    yield _gauge("kube_horizontalpodautoscaler_status_desired_replicas", labels, constant(low))
    budgets = [place for place, service in enumerate(world.services) if service.kind == "Deployment" and service.replicas > 1]
    labels = [_named(world.services[place], "poddisruptionbudget") for place in budgets]
    ready = _each([_available(world, place) for place in budgets])
    wanted = np.array([world.services[place].replicas for place in budgets], np.float64)
    yield _gauge("kube_poddisruptionbudget_status_expected_pods", labels, constant(wanted))
    yield _gauge("kube_poddisruptionbudget_status_desired_healthy", labels, constant(wanted - 1))
    yield _gauge("kube_poddisruptionbudget_status_current_healthy", labels, ready)
    yield _gauge(
        "kube_poddisruptionbudget_status_pod_disruptions_allowed",
        labels,
        lambda rows, times: np.maximum(ready(rows, times) - wanted[rows, None] + 1, 0),
    )


def _nodes(world: World) -> Iterator[Family]:
    plain = [{**TARGET, "node": node.name} for node in world.nodes]
    ones = np.ones(len(world.nodes))
    info = {
        "kubelet_version": KUBELET_VERSION,
        "container_runtime_version": RUNTIME,
        "os_image": OS_IMAGE,
        "kernel_version": KERNEL,
    }
    yield _gauge(
        "kube_node_info",
        [{**one, **info, "internal_ip": node.address} for one, node in zip(plain, world.nodes, strict=True)],
        constant(ones),
    )
    zones = [{**one, "label_topology_kubernetes_io_zone": node.zone} for one, node in zip(plain, world.nodes, strict=True)]
    yield _gauge("kube_node_labels", zones, constant(ones))
    yield _gauge("kube_node_spec_unschedulable", plain, constant(0 * ones))
    statuses = [node_status(node) for node in world.nodes]
    for resource, unit in _RESOURCES.items():
        labels = [{**one, "resource": resource.replace("-", "_"), "unit": unit} for one in plain]
        for kind in ("capacity", "allocatable"):
            yield _gauge(f"kube_node_status_{kind}", labels, constant([amount(status[kind][resource]) for status in statuses]))
    spans = [
        [
            (timed.start + _GRACE_SECONDS, timed.end)
            for timed in world.faults
            if isinstance(timed.fault, NodeDown) and timed.fault.node == node.name
        ]
        for node in world.nodes
    ]

    def silent(rows: Integers, times: Floats) -> Floats:
        result = np.zeros((len(rows), len(times)))
        for row, number in enumerate(rows):
            for begin, end in spans[number]:
                result[row, (times >= begin) & (times < end)] = 1
        return result

    for condition in _CONDITIONS:
        healthy = "true" if condition == "Ready" else "false"
        for status in ("true", "false", "unknown"):
            labels = [{**one, "condition": condition, "status": status} for one in plain]
            if status == "unknown":
                values: Values = silent
            elif status == healthy:
                values = lambda rows, times: 1 - silent(rows, times)  # noqa: E731 - one of three
            else:
                values = constant(0 * ones)
            yield _gauge("kube_node_status_condition", labels, values)


def _claims(world: World) -> Iterator[Family]:
    labels, sizes = [], []
    for place, replica in volumes.volumes(world):
        service = world.services[place]
        labels.append({**TARGET, "namespace": service.namespace, "persistentvolumeclaim": f"data-{service.name}-{replica}"})
        sizes.append(service.volume_bytes)
    yield _gauge("kube_persistentvolumeclaim_info", [{**one, "storageclass": "gp3"} for one in labels], constant(np.ones(len(labels))))
    yield _gauge("kube_persistentvolumeclaim_resource_requests_storage_bytes", labels, constant(sizes))
    for phase in ("Bound", "Pending", "Lost"):
        yield _gauge(
            "kube_persistentvolumeclaim_status_phase",
            [{**one, "phase": phase} for one in labels],
            constant(np.full(len(labels), float(phase == "Bound"))),
        )


def _lost(gaps: Floats, times: Floats) -> npt.NDArray[np.bool_]:
    return np.asarray((times >= gaps[:, :1] + _GRACE_SECONDS) & (times < gaps[:, 1:]))
