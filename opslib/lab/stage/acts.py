"""What a fault of the world makes of the cluster's objects: through the API alone, as whoever or whatever does it in life.

`begin` is what happens at once (a release is rolled out, a node is lost); `show` is called again and again while a fault lasts, and writes
what the kubelet would write of it by now: restarts, their times, events.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.lab import certificates, player
from opslib.lab.api import Api, ApiError, Object
from opslib.lab.faults import VERSION_OF
from opslib.lab.holds import Holds
from opslib.lab.notes import Notes
from opslib.lab.world.changes import stamp
from opslib.lab.world.faults import (
    BadDeploy,
    CertificateExpiry,
    CpuLimit,
    DependencyDown,
    Dns,
    MemoryLeak,
    NodeDown,
    Timed,
)
from opslib.lab.world.manifests import COREFILE
from opslib.lab.world.model import World
from opslib.lab.world.platform import Service
from opslib.lab.world.pods import TOLERATION_SECONDS, Pod, observed

BY = "stage"
ROLLED_OUT = ("bad_deploy", "memory_leak", "cpu_limit")
"""The kinds of faults that a change of a workload brings, where one does."""

DEAD_RESOLVER = "203.0.113.53"


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster as the stage acts on it."""

    api: Api
    folder: Path

    @property
    def holds(self) -> Holds:
        return Holds(self.folder)

    def path(self, name: str, version: str = "") -> str:
        """The API path of ``Kind/namespace/name`` or ``Kind/name``."""
        kind, *rest = name.split("/")
        metadata = {"name": rest[-1], **({"namespace": rest[0]} if len(rest) == 2 else {})}
        return self.api.path_of({"apiVersion": version or VERSION_OF.get(kind, "v1"), "kind": kind, "metadata": metadata})

    def get(self, path: str) -> Object | None:
        """What is at a path; None where nothing is."""
        try:
            return self.api.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def patch(self, name: str, body: Object, *, by: str, version: str = "") -> None:
        """Change an object that is there, as `by`; what it was is noted for the reset."""
        path = self.path(name, version)
        Notes(self.folder).keep(path, self.api.get(path))
        kind = "merge" if version else "strategic-merge"
        self.api.request("PATCH", path, body, content_type=f"application/{kind}-patch+json", query={"fieldManager": by})

    def apply(self, obj: Object, *, by: str) -> None:
        """Make an object or change it, as `by`; what it was is noted for the reset."""
        obj = {"apiVersion": VERSION_OF.get(obj["kind"], "v1"), **obj}
        path = self.api.path_of(obj)
        Notes(self.folder).keep(path, self.get(path))
        self.api.apply(obj, field_manager=by)

    def pods(self, service: Service) -> list[Object]:
        """A service's pods that are not on their way out, by name."""
        listed = self.api.list(f"/api/v1/namespaces/{service.namespace}/pods", labels=f"app={service.name}")
        return sorted((pod for pod in listed if "deletionTimestamp" not in pod["metadata"]), key=lambda pod: str(pod["metadata"]["name"]))


def begin(cluster: Cluster, world: World, timed: Timed, now: float) -> None:
    """What happens to the cluster's objects when a fault begins, which may have been a while ago."""
    fault = timed.fault
    if isinstance(fault, BadDeploy | MemoryLeak) and fault.release:
        _release(cluster, _service(world, timed), fault.release)
    elif isinstance(fault, CpuLimit):
        service = _service(world, timed)
        limit, request = (f"{cores * 1000:.0f}m" for cores in (fault.cores, min(fault.cores, service.cores)))
        container = {"name": service.name, "resources": {"limits": {"cpu": limit}, "requests": {"cpu": request}}}
        note = {"annotations": {"kubernetes.io/change-cause": "Right-size CPU limits"}}
        body = {"metadata": note, "spec": {"template": {"spec": {"containers": [container]}}}}
        cluster.patch(_name(service), body, by="ci-deployer")
    elif isinstance(fault, DependencyDown) and fault.error_ratio >= 1:
        _unready(cluster, _service(world, timed), timed.start)
    elif isinstance(fault, NodeDown):
        _lose(cluster, fault.node, timed.start, now)
    elif isinstance(fault, Dns):
        _break_dns(cluster)
    elif isinstance(fault, CertificateExpiry):
        service = _service(world, timed)
        cluster.apply(tls_secret(service, timed.start), by="cert-manager")


def show(cluster: Cluster, world: World, timed: Timed, now: float, handover: float) -> float:
    """Write what the kubelet would have written of a fault by now; when there is more to write, in Unix seconds.

    A pod that was there at the `handover` has been there as long as the world says, whenever its object was made.
    """
    fault = timed.fault
    if not isinstance(fault, BadDeploy | MemoryLeak | CpuLimit):
        return float("inf")
    service = _service(world, timed)
    if not rolled_out(cluster, service):
        return now + 0.5
    wake = float("inf")
    for pod, one in _as_the_world_has_them(cluster, world, service, now, handover):
        if one.started >= timed.start - 1 and _time(pod["metadata"]["creationTimestamp"]) <= handover:
            pod = _began_at(cluster, pod, one.started)
        if isinstance(fault, MemoryLeak):
            wake = min(wake, _kill(cluster, service, pod, one, now))
    return wake


def _as_the_world_has_them(cluster: Cluster, world: World, service: Service, now: float, handover: float) -> list[tuple[Object, Pod]]:
    """A service's pods that run, each with what the world knows of it: those that were there at the handover in the world's order."""
    number = world.places[service.name]
    known = iter(sorted((one for one in world.pods.listed if one.service == number and one.started <= now < one.ended), key=_ordinal))
    found = []
    for pod in cluster.pods(service):
        if pod.get("status", {}).get("startTime"):
            one = next(known, None) if _time(pod["metadata"]["creationTimestamp"]) <= handover else None
            found.append((pod, one or observed(world, number, pod["metadata"]["name"], _time(pod["status"]["startTime"]))))
    return found


def _ordinal(pod: Pod) -> int:
    return pod.ordinal


def ended(cluster: Cluster, timed: Timed) -> int:
    """Set free what a fault held; how many holds that were."""
    if isinstance(timed.fault, NodeDown):
        return cluster.holds.drop(BY, node=timed.fault.node)
    return cluster.holds.drop(BY, service=timed.service) if timed.service else 0


# --- single acts ------------------------------------------------------------------------------------------------------------------------


def _service(world: World, timed: Timed) -> Service:
    return world.services[world.places[timed.service]]


def _name(service: Service) -> str:
    return f"{service.kind}/{service.namespace}/{service.name}"


def _release(cluster: Cluster, service: Service, release: str) -> None:
    container = {"name": service.name, "image": f"{service.image}:{release}"}
    version = {"labels": {"app.kubernetes.io/version": release}}
    body = {
        "metadata": {**version, "annotations": {"kubernetes.io/change-cause": f"Release {release}"}},
        "spec": {"template": {"metadata": version, "spec": {"containers": [container]}}},
    }
    cluster.patch(_name(service), body, by="ci-deployer")


def rolled_out(cluster: Cluster, service: Service) -> bool:
    """Whether all pods of a workload are those of its last change, and ready."""
    workload = cluster.api.get(cluster.path(_name(service)))
    status, wanted = workload.get("status", {}), workload["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= workload["metadata"]["generation"]
        and status.get("updatedReplicas", 0) >= wanted
        and status.get("readyReplicas", 0) >= wanted
        and status.get("replicas", 0) == wanted
    )


def _began_at(cluster: Cluster, pod: Object, began: float) -> Object:
    """A pod has run since then: its status says so, though its object is new."""
    status = pod["status"]
    if _time(status["startTime"]) <= began + 1:
        return pod
    text = stamp(began)
    conditions = [{**one, "lastTransitionTime": text} for one in status.get("conditions", [])]
    containers = [
        {**one, "state": {"running": {"startedAt": text}}} if "running" in one["state"] else one for one in status["containerStatuses"]
    ]
    change = {"startTime": text, "conditions": conditions, "containerStatuses": containers}
    _write(cluster, pod, change)
    return {**pod, "status": {**status, **change}}


def _kill(cluster: Cluster, service: Service, pod: Object, one: Pod, now: float) -> float:
    """Write a leaking pod's kills up to now, which its metrics show too; when the next one is."""
    status = pod["status"]
    done = [kill for kill in one.kills if kill <= now]
    [before] = [item for item in status["containerStatuses"] if item["name"] == service.name]
    if len(done) > before["restartCount"]:
        kill, started = done[-1], [start for start in one.starts if start < done[-1]][-1]
        last = {
            "exitCode": 137,
            "reason": "OOMKilled",
            "startedAt": stamp(started),
            "finishedAt": stamp(kill),
            "containerID": before.get("containerID", ""),
        }
        running = {"running": {"startedAt": stamp(kill + 2)}}
        after = {**before, "restartCount": len(done), "lastState": {"terminated": last}, "state": running}
        _write(cluster, pod, {"containerStatuses": [after if item is before else item for item in status["containerStatuses"]]})
        words = f'Container image "{before["image"]}" already present on machine and can be accessed by the pod'
        for reason, message in (("Pulled", words), ("Created", "Container created"), ("Started", "Container started")):
            _tell(cluster, pod, reason, message, done[0] + 2, kill + 2, len(done), kind="Normal", container=service.name)
    return min((kill for kill in one.kills if kill > now), default=float("inf"))


def _unready(cluster: Cluster, service: Service, start: float) -> None:
    """The pods that are there fail their readiness probe, until others take their place."""
    for pod in cluster.pods(service):
        text = stamp(start)
        cluster.holds.add({"by": BY, "service": service.name, "namespace": service.namespace, "uid": pod["metadata"]["uid"]})
        status = pod["status"]
        why = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{service.name}]"}
        conditions = [
            {**one, "status": "False", "lastTransitionTime": text, **why} if one["type"] in ("Ready", "ContainersReady") else one
            for one in status.get("conditions", [])
        ]
        containers = [{**one, "ready": False} for one in status["containerStatuses"]]
        _write(cluster, pod, {"conditions": conditions, "containerStatuses": containers})
        message = f"Readiness probe failed: dial tcp {status.get('podIP', '')}:{service.port}: i/o timeout"
        _tell(cluster, pod, "Unhealthy", message, start, time.time(), max(1, int((time.time() - start) / 10)), container=service.name)


def _lose(cluster: Cluster, node: str, start: float, now: float) -> None:
    """A node stops answering. After five minutes its pods are on their way out, and stay so, since nobody there confirms it."""
    cluster.holds.add({"by": BY, "node": node})
    there = cluster.get(cluster.path(f"Node/{node}"))
    if there is not None:
        player.lose_node(cluster.api, there, datetime.fromtimestamp(start, UTC))
    if now - start < TOLERATION_SECONDS:
        return  # the cluster's own controller does it in time
    for pod in cluster.api.list("/api/v1/pods", fields=f"spec.nodeName={node}"):
        if not any(owner["kind"] == "DaemonSet" for owner in pod["metadata"].get("ownerReferences", [])):
            cluster.api.delete(cluster.api.path_of(pod))


def _break_dns(cluster: Cluster) -> None:
    """Somebody sends every name that is asked for to a resolver that does not answer."""
    name = "ConfigMap/kube-system/coredns"
    now = cluster.api.get(cluster.path(name))
    before = now.get("data", {}).get("Corefile", COREFILE)
    after = before.replace("forward . /etc/resolv.conf", f"forward . {DEAD_RESOLVER}").replace(
        "kubernetes cluster.local", "kubernetes lab.local"
    )
    cluster.patch(name, {"data": {"Corefile": after}}, by="kubectl-edit")


def tls_secret(service: Service, end: float) -> Object:
    """A service's serving certificate, good until `end` (Unix seconds), as a Secret."""
    host = f"{service.name}.{service.namespace}.svc"
    until = datetime.fromtimestamp(end, UTC)
    pair = certificates.issue(
        certificates.authority("shop-internal-ca"),
        host,
        hosts=[host, f"{host}.cluster.local"],
        since=until - timedelta(days=90),
        until=until,
    )
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": f"{service.name}-tls", "namespace": service.namespace, "labels": {"app": service.name}},
        "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key},
    }


# --- small things -----------------------------------------------------------------------------------------------------------------------


def _write(cluster: Cluster, pod: Object, status: Object) -> None:
    try:
        cluster.api.patch(cluster.api.path_of(pod), {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}, subresource="status")
    except ApiError as error:
        if error.status not in (404, 409):  # gone, or another one of that name
            raise


def _tell(
    cluster: Cluster,
    pod: Object,
    reason: str,
    message: str,
    first: float,
    last: float,
    count: int,
    *,
    kind: str = "Warning",
    container: str,
) -> None:
    """An event of the kubelet about a pod's container; one about the same is told anew."""
    metadata = pod["metadata"]
    about: Any = {"apiVersion": "v1", "kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": metadata["namespace"], "name": f"{metadata['name']}.{reason.lower()}.{metadata['uid'][:8]}"},
        "involvedObject": {**about, "fieldPath": f"spec.containers{{{container}}}"},
        "reason": reason,
        "message": message,
        "type": kind,
        "count": count,
        "firstTimestamp": stamp(first),
        "lastTimestamp": stamp(last),
        "source": {"component": "kubelet", "host": pod["spec"].get("nodeName", "")},
        "reportingComponent": "kubelet",
    }
    Notes(cluster.folder).keep(cluster.api.path_of(event), None)
    cluster.api.apply(event)


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() if text else 0.0
