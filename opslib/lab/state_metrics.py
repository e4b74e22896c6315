"""What kube-state-metrics says of the objects in the API (https://github.com/kubernetes/kube-state-metrics/tree/main/docs/metrics).

One function a kind of object, from the object to its samples. `opslib.lab.world.metrics.objects` says the same of the past; a test holds
the labels of the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from opslib.lab.world.metrics.objects import TARGET
from opslib.lab.world.present import amount, unix

Object = dict[str, Any]
Sample = tuple[str, dict[str, str], float]

_PHASES = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_CLAIM_PHASES = ("Bound", "Pending", "Lost")
_UNITS = {"cpu": "core", "memory": "byte", "ephemeral-storage": "byte"}
_ZONE = "topology.kubernetes.io/zone"
GAUGES = (
    "kube_pod_container_status_waiting_reason",
    "kube_pod_container_status_last_terminated_reason",
    "kube_pod_container_resource_limits",
    "kube_pod_container_resource_requests",
    "kube_job_status_failed",
    "kube_horizontalpodautoscaler_status_condition",
    "kube_persistentvolumeclaim_status_phase",
)
"""Those that a healthy cluster may have no samples of: kube-state-metrics names them all the same."""


def pod(obj: Object) -> Iterator[Sample]:
    """A pod and its containers."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status", {})
    labels = _named(obj, "pod")
    node = spec.get("nodeName", "")
    owner: Object = next(iter(metadata.get("ownerReferences") or ()), {})
    kind, name = owner.get("kind", "<none>"), owner.get("name", "<none>")
    yield (
        "kube_pod_info",
        {
            **labels,
            "node": node,
            "host_ip": status.get("hostIP", ""),
            "pod_ip": status.get("podIP", ""),
            "created_by_kind": kind,
            "created_by_name": name,
            "host_network": str(bool(spec.get("hostNetwork"))).lower(),
        },
        1,
    )
    controller = str(bool(owner.get("controller"))).lower() if owner else "<none>"
    yield "kube_pod_owner", {**labels, "owner_kind": kind, "owner_name": name, "owner_is_controller": controller}, 1
    yield "kube_pod_created", labels, unix(metadata.get("creationTimestamp", ""))
    if "deletionTimestamp" in metadata:
        yield "kube_pod_deletion_timestamp", labels, unix(metadata["deletionTimestamp"])
    if status.get("reason"):
        yield "kube_pod_status_reason", {**labels, "reason": status["reason"]}, 1
    for phase in _PHASES:
        yield "kube_pod_status_phase", {**labels, "phase": phase}, float(status.get("phase") == phase)
    for condition in status.get("conditions") or ():
        if condition["type"] == "Ready":
            for value in ("true", "false", "unknown"):
                yield "kube_pod_status_ready", {**labels, "condition": value}, float(condition["status"].lower() == value)
        elif condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield "kube_pod_status_unschedulable", labels, 1
    for one in status.get("containerStatuses") or ():
        yield from _container(one, {**labels, "container": one["name"]})
    for one in spec["containers"]:
        inside = {**labels, "container": one["name"]}
        for group in ("requests", "limits"):
            for resource, quantity in one.get("resources", {}).get(group, {}).items():
                yield f"kube_pod_container_resource_{group}", {**inside, "node": node, **_resource(resource)}, amount(quantity)


def _container(status: Object, labels: dict[str, str]) -> Iterator[Sample]:
    state = status.get("state", {})
    yield "kube_pod_container_info", {**labels, "image": status.get("image", "")}, 1
    yield "kube_pod_container_status_restarts_total", labels, float(status.get("restartCount", 0))
    yield "kube_pod_container_status_ready", labels, float(bool(status.get("ready")))
    yield "kube_pod_container_status_running", labels, float("running" in state)
    if "waiting" in state:
        yield "kube_pod_container_status_waiting_reason", {**labels, "reason": state["waiting"].get("reason", "")}, 1
    if "terminated" in state:
        yield "kube_pod_container_status_terminated_reason", {**labels, "reason": state["terminated"].get("reason", "")}, 1
    last = status.get("lastState", {}).get("terminated") or state.get("terminated")
    if last:
        yield "kube_pod_container_status_last_terminated_reason", {**labels, "reason": last.get("reason", "")}, 1


def node(obj: Object) -> Iterator[Sample]:
    """A node."""
    labels, status = {**TARGET, "node": obj["metadata"]["name"]}, obj.get("status", {})
    info = status.get("nodeInfo", {})
    addresses = {one["type"]: one["address"] for one in status.get("addresses") or ()}
    yield (
        "kube_node_info",
        {
            **labels,
            "kubelet_version": info.get("kubeletVersion", ""),
            "container_runtime_version": info.get("containerRuntimeVersion", ""),
            "os_image": info.get("osImage", ""),
            "kernel_version": info.get("kernelVersion", ""),
            "internal_ip": addresses.get("InternalIP", ""),
        },
        1,
    )
    zone = obj["metadata"].get("labels", {}).get(_ZONE, "")
    yield "kube_node_labels", {**labels, "label_topology_kubernetes_io_zone": zone}, 1
    yield "kube_node_spec_unschedulable", labels, float(bool(obj["spec"].get("unschedulable")))
    for taint in obj["spec"].get("taints") or ():
        yield "kube_node_spec_taint", {**labels, "key": taint["key"], "value": taint.get("value", ""), "effect": taint["effect"]}, 1
    for condition in status.get("conditions") or ():
        for value in ("true", "false", "unknown"):
            where = {**labels, "condition": condition["type"], "status": value}
            yield "kube_node_status_condition", where, float(condition["status"].lower() == value)
    for kind in ("capacity", "allocatable"):
        for resource, quantity in status.get(kind, {}).items():
            yield f"kube_node_status_{kind}", {**labels, **_resource(resource)}, amount(quantity)


def deployment(obj: Object) -> Iterator[Sample]:
    """A Deployment."""
    labels, status = _named(obj, "deployment"), obj.get("status", {})
    yield "kube_deployment_spec_replicas", labels, float(obj["spec"].get("replicas", 1))
    yield "kube_deployment_spec_paused", labels, float(bool(obj["spec"].get("paused")))
    yield "kube_deployment_status_replicas", labels, float(status.get("replicas", 0))
    yield "kube_deployment_status_replicas_ready", labels, float(status.get("readyReplicas", 0))
    yield "kube_deployment_status_replicas_available", labels, float(status.get("availableReplicas", 0))
    yield "kube_deployment_status_replicas_unavailable", labels, float(status.get("unavailableReplicas", 0))
    yield "kube_deployment_status_replicas_updated", labels, float(status.get("updatedReplicas", 0))
    yield from _generations("deployment", labels, obj)


def statefulset(obj: Object) -> Iterator[Sample]:
    """A StatefulSet."""
    labels, status = _named(obj, "statefulset"), obj.get("status", {})
    yield "kube_statefulset_replicas", labels, float(obj["spec"].get("replicas", 1))
    for name, field in (
        ("", "replicas"),
        ("_current", "currentReplicas"),
        ("_ready", "readyReplicas"),
        ("_available", "availableReplicas"),
    ):
        yield f"kube_statefulset_status_replicas{name}", labels, float(status.get(field, 0))
    yield from _generations("statefulset", labels, obj)


def daemonset(obj: Object) -> Iterator[Sample]:
    """A DaemonSet."""
    labels, status = _named(obj, "daemonset"), obj.get("status", {})
    for name, field in (
        ("desired_number_scheduled", "desiredNumberScheduled"),
        ("current_number_scheduled", "currentNumberScheduled"),
        ("number_ready", "numberReady"),
        ("number_available", "numberAvailable"),
        ("number_unavailable", "numberUnavailable"),
    ):
        yield f"kube_daemonset_status_{name}", labels, float(status.get(field, 0))
    yield from _generations("daemonset", labels, obj)


def _generations(kind: str, labels: dict[str, str], obj: Object) -> Iterator[Sample]:
    yield f"kube_{kind}_metadata_generation", labels, float(obj["metadata"].get("generation", 0))
    yield f"kube_{kind}_status_observed_generation", labels, float(obj.get("status", {}).get("observedGeneration", 0))


def job(obj: Object) -> Iterator[Sample]:
    """A Job."""
    labels, status = _named(obj, "job_name"), obj.get("status", {})
    yield "kube_job_spec_completions", labels, float(obj["spec"].get("completions", 1))
    yield "kube_job_status_active", labels, float(status.get("active", 0))
    yield "kube_job_status_succeeded", labels, float(status.get("succeeded", 0))
    yield "kube_job_status_failed", labels, float(status.get("failed", 0))
    for condition in status.get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            yield f"kube_job_{condition['type'].lower()}", {**labels, "condition": "true"}, 1
    if status.get("startTime"):
        yield "kube_job_status_start_time", labels, unix(status["startTime"])


def cronjob(obj: Object) -> Iterator[Sample]:
    """A CronJob."""
    labels, status = _named(obj, "cronjob"), obj.get("status", {})
    yield "kube_cronjob_spec_suspend", labels, float(bool(obj["spec"].get("suspend")))
    yield "kube_cronjob_status_active", labels, float(len(status.get("active") or ()))
    if status.get("lastScheduleTime"):
        yield "kube_cronjob_status_last_schedule_time", labels, unix(status["lastScheduleTime"])
    if status.get("lastSuccessfulTime"):
        yield "kube_cronjob_status_last_successful_time", labels, unix(status["lastSuccessfulTime"])


def scaler(obj: Object) -> Iterator[Sample]:
    """A HorizontalPodAutoscaler."""
    labels, spec, status = _named(obj, "horizontalpodautoscaler"), obj["spec"], obj.get("status", {})
    yield "kube_horizontalpodautoscaler_spec_min_replicas", labels, float(spec.get("minReplicas", 1))
    yield "kube_horizontalpodautoscaler_spec_max_replicas", labels, float(spec["maxReplicas"])
    yield "kube_horizontalpodautoscaler_status_current_replicas", labels, float(status.get("currentReplicas", 0))
    yield "kube_horizontalpodautoscaler_status_desired_replicas", labels, float(status.get("desiredReplicas", 0))
    for condition in status.get("conditions") or ():
        for value in ("true", "false", "unknown"):
            where = {**labels, "condition": condition["type"], "status": value}
            yield "kube_horizontalpodautoscaler_status_condition", where, float(condition["status"].lower() == value)


def budget(obj: Object) -> Iterator[Sample]:
    """A PodDisruptionBudget."""
    labels, status = _named(obj, "poddisruptionbudget"), obj.get("status", {})
    for name, field in (
        ("expected_pods", "expectedPods"),
        ("desired_healthy", "desiredHealthy"),
        ("current_healthy", "currentHealthy"),
        ("pod_disruptions_allowed", "disruptionsAllowed"),
    ):
        yield f"kube_poddisruptionbudget_status_{name}", labels, float(status.get(field, 0))


def claim(obj: Object) -> Iterator[Sample]:
    """A PersistentVolumeClaim."""
    labels, spec = _named(obj, "persistentvolumeclaim"), obj["spec"]
    yield "kube_persistentvolumeclaim_info", {**labels, "storageclass": spec.get("storageClassName") or "<none>"}, 1
    size = spec.get("resources", {}).get("requests", {}).get("storage")
    if size is not None:
        yield "kube_persistentvolumeclaim_resource_requests_storage_bytes", labels, amount(size)
    for phase in _CLAIM_PHASES:
        yield "kube_persistentvolumeclaim_status_phase", {**labels, "phase": phase}, float(obj.get("status", {}).get("phase") == phase)


KINDS: Mapping[str, Callable[[Object], Iterator[Sample]]] = {
    "/api/v1/pods": pod,
    "/api/v1/nodes": node,
    "/apis/apps/v1/deployments": deployment,
    "/apis/apps/v1/statefulsets": statefulset,
    "/apis/apps/v1/daemonsets": daemonset,
    "/apis/batch/v1/jobs": job,
    "/apis/batch/v1/cronjobs": cronjob,
    "/apis/autoscaling/v2/horizontalpodautoscalers": scaler,
    "/apis/policy/v1/poddisruptionbudgets": budget,
    "/api/v1/persistentvolumeclaims": claim,
}
"""The kinds by their collection."""


def _named(obj: Object, kind: str) -> dict[str, str]:
    return {**TARGET, "namespace": obj["metadata"]["namespace"], kind: obj["metadata"]["name"]}


def _resource(name: str) -> dict[str, str]:
    return {"resource": name.replace("-", "_").replace("/", "_").replace(".", "_"), "unit": _UNITS.get(name, "integer")}
