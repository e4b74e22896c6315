"""The background platform: a shop and its payments on the lab's nodes, with what an EKS cluster carries besides."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from opslib.errors import OpsError
from opslib.lab.api import Api, ApiError, Object
from opslib.messages import _

MANIFESTS = Path(__file__).parent / "manifests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One workload, all of whose objects are alike.

    Parameters
    ----------
    requests_per_second
        Traffic at the busiest hour; 0 where it serves none.
    cpu, memory
        Requests of its container; the memory limit is twice the request.
    """

    namespace: str
    name: str
    version: str
    replicas: int = 2
    kind: Literal["Deployment", "StatefulSet", "DaemonSet", "CronJob"] = "Deployment"
    port: int = 8080
    cpu: str = "100m"
    memory: str = "128Mi"
    requests_per_second: float = 0
    latency_seconds: float = 0.05

    @property
    def image(self) -> str:
        """Its image."""
        return f"registry.example.com/{self.namespace}/{self.name}:{self.version}"


WORKLOADS = (
    Workload(namespace="shop", name="web", version="3.12.0", replicas=3, requests_per_second=40, latency_seconds=0.08),
    Workload(namespace="shop", name="catalog", version="2.8.1", replicas=3, cpu="200m", memory="256Mi", requests_per_second=60),
    Workload(namespace="shop", name="cart", version="1.19.4", requests_per_second=12, latency_seconds=0.03),
    Workload(namespace="shop", name="checkout", version="4.2.0", replicas=3, cpu="150m", requests_per_second=5, latency_seconds=0.15),
    Workload(namespace="shop", name="search", version="0.31.2", cpu="250m", memory="512Mi", requests_per_second=18, latency_seconds=0.12),
    Workload(namespace="shop", name="session-store", version="7.4.2", kind="StatefulSet", port=6379, memory="256Mi"),
    Workload(namespace="payments", name="payment-api", version="5.0.3", requests_per_second=5, latency_seconds=0.18),
    Workload(namespace="payments", name="fraud-check", version="1.7.0", cpu="200m", requests_per_second=5, latency_seconds=0.15),
    Workload(namespace="payments", name="ledger", version="2.1.5", kind="StatefulSet", port=5432, cpu="200m", memory="512Mi"),
    Workload(namespace="payments", name="settlement", version="1.3.2", kind="CronJob"),
    Workload(namespace="monitoring", name="kube-state-metrics", version="2.17.0", replicas=1),
    Workload(namespace="monitoring", name="node-exporter", version="1.10.2", kind="DaemonSet", port=9100, cpu="50m", memory="64Mi"),
    Workload(namespace="logging", name="fluent-bit", version="4.1.1", kind="DaemonSet", port=2020, cpu="50m", memory="64Mi"),
    Workload(namespace="ingress", name="ingress-controller", version="1.14.0", requests_per_second=80, latency_seconds=0.09),
    Workload(namespace="kube-system", name="coredns", version="1.13.1", port=53, memory="70Mi"),
)

SERVICES = tuple(workload for workload in WORKLOADS if workload.requests_per_second > 0)


def permissions(api: Api) -> None:
    """What the test users may: `viewer` reads all but secrets, `nobody` nothing."""
    api.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "lab-viewer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "viewer"}],
        }
    )


def apply(api: Api) -> None:
    """Set the platform up: what it needs first, and its volumes bound, so that no pod has a failure in its past."""
    files = [obj for path in sorted(MANIFESTS.glob("*.yaml")) for obj in yaml.safe_load_all(path.read_text("utf-8")) if obj]
    for obj in (*files, *(obj for workload in WORKLOADS for obj in objects(workload))):
        _apply(api, obj)


def objects(workload: Workload) -> Iterator[Object]:
    """A workload's objects: ServiceAccount, ConfigMap, the workload, its Service, and its disruption budget."""
    labels = {"app": workload.name, "app.kubernetes.io/name": workload.name, "app.kubernetes.io/part-of": workload.namespace}
    metadata = {"namespace": workload.namespace, "name": workload.name, "labels": labels}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"LOG_LEVEL": "info", "PORT": str(workload.port)}}
    selector = {"matchLabels": {"app": workload.name}}
    template = {"metadata": {"labels": labels}, "spec": _pod(workload)}
    if workload.kind == "CronJob":
        template["spec"]["restartPolicy"] = "OnFailure"
        job = {"backoffLimit": 2, "template": template}
        spec: dict[str, Any] = {"schedule": "*/30 * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": job}}
        yield {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec}
        return
    spec = {"selector": selector, "template": template}
    if workload.kind != "DaemonSet":
        spec["replicas"] = workload.replicas
    if workload.kind == "StatefulSet":
        spec["serviceName"] = workload.name
        spec["volumeClaimTemplates"] = [
            {
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "gp3", "resources": {"requests": {"storage": "10Gi"}}},
            }
        ]
        template["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        for number in range(workload.replicas):
            yield from _claim(workload, number, spec["volumeClaimTemplates"][0]["spec"])
    yield {"apiVersion": "apps/v1", "kind": workload.kind, "metadata": metadata, "spec": spec}
    ports = [{"name": "main", "port": workload.port, "targetPort": "main"}]
    headless = {"clusterIP": "None"} if workload.kind == "StatefulSet" else {}
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": {"app": workload.name}, "ports": ports, **headless},
    }
    if workload.kind == "Deployment" and workload.replicas > 1:
        budget = {"maxUnavailable": 1, "selector": selector}
        yield {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": budget}


def _pod(workload: Workload) -> dict[str, Any]:
    amount = int(workload.memory.removesuffix("Mi"))
    container: dict[str, Any] = {
        "name": workload.name,
        "image": workload.image,
        "ports": [{"name": "main", "containerPort": workload.port}],
        "envFrom": [{"configMapRef": {"name": workload.name}}],
        "resources": {"requests": {"cpu": workload.cpu, "memory": workload.memory}, "limits": {"memory": f"{2 * amount}Mi"}},
    }
    if workload.requests_per_second:
        container["readinessProbe"] = {"httpGet": {"path": "/ready", "port": "main"}, "periodSeconds": 5}
        container["livenessProbe"] = {"httpGet": {"path": "/live", "port": "main"}, "periodSeconds": 10}
    pod: dict[str, Any] = {"serviceAccountName": workload.name, "containers": [container]}
    if workload.kind == "DaemonSet":
        pod["tolerations"] = [{"operator": "Exists"}]
    elif workload.kind == "Deployment":
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": workload.name}},
            }
        ]
    return pod


def _claim(workload: Workload, number: int, wanted: dict[str, Any]) -> Iterator[Object]:
    """The volume and the claim of a StatefulSet's pod, there before it, since no storage driver runs here."""
    claim = f"data-{workload.name}-{number}"
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{workload.namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "gp3",
            "csi": {"driver": "ebs.csi.aws.com", "volumeHandle": f"vol-{workload.name}-{number}"},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": workload.namespace, "name": claim},
        },
    }
    metadata = {"namespace": workload.namespace, "name": claim, "labels": {"app": workload.name}}
    yield {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": wanted}


def wait(api: Api, *, deadline_seconds: float = 120, stop: threading.Event | None = None) -> None:
    """Wait until every workload has all its pods ready.

    Raises
    ------
    OpsError
        Some have not within `deadline_seconds`; they are named.
    """
    deadline = time.monotonic() + deadline_seconds
    while True:
        late = [
            f"{workload.namespace}/{workload.name}" for workload in WORKLOADS if workload.kind != "CronJob" and not _is_ready(api, workload)
        ]
        if not late:
            return
        if time.monotonic() > deadline:
            raise OpsError(_("The platform's workloads are not ready: {names}", names=late))
        if (stop or threading.Event()).wait(0.3):
            raise InterruptedError("stopped")


def _is_ready(api: Api, workload: Workload) -> bool:
    status = api.get(f"/apis/apps/v1/namespaces/{workload.namespace}/{workload.kind.lower()}s/{workload.name}").get("status", {})
    if workload.kind == "DaemonSet":
        return bool(status.get("desiredNumberScheduled")) and status.get("numberReady") == status["desiredNumberScheduled"]
    return bool(status.get("readyReplicas", 0) == workload.replicas)


def _apply(api: Api, obj: Object) -> None:
    """Apply; a kind that was just defined is known to the server after a moment only."""
    deadline = time.monotonic() + 15
    while True:
        try:
            applied = api.apply(obj)
            if obj["kind"] == "PersistentVolumeClaim":
                while applied.get("status", {}).get("phase") != "Bound" and time.monotonic() < deadline:
                    time.sleep(0.1)
                    applied = api.get(api.path_of(obj))
        except ApiError as error:
            if error.status != 404 or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
