"""Nodes: lost ones are noticed, tainted, and emptied; pods that do not tolerate a taint are ended in time
(pkg/controller/nodelifecycle and tainteviction)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.clock import stamp
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import condition_of, is_deleted, itself, key_of, name_of, namespace_of, split, uid_of
from opslib.lab.controllers.runner import Controller
from opslib.lab.controllers.scheduler.filters import tolerates

SOURCE = "node-controller"
_EVICTION = "taint-eviction-controller"
_GRACE_SECONDS = 50.0  # without a sign of life
_MONITOR_SECONDS = 5.0  # the real one looks at nodes so often, and only then corrects their pods
_LEASES = "leases.coordination.k8s.io"

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
_BY_CONDITION = {
    "MemoryPressure": {"True": "node.kubernetes.io/memory-pressure"},
    "DiskPressure": {"True": "node.kubernetes.io/disk-pressure"},
    "PIDPressure": {"True": "node.kubernetes.io/pid-pressure"},
    "NetworkUnavailable": {"True": "node.kubernetes.io/network-unavailable"},
    "Ready": {"False": NOT_READY, "Unknown": UNREACHABLE},
}
_UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
_OURS = {key for keys in _BY_CONDITION.values() for key in keys.values()} | {_UNSCHEDULABLE}


@dataclass(slots=True)
class _Seen:
    """A node's last sign of life: what it was, and when it came by the controller's own clock."""

    heartbeat: str
    lease: str
    at: datetime
    ready: str = ""
    down_since: datetime | None = None


class NodeLifecycle:
    """What the controller remembers of each node."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def controller(self) -> Controller:
        """As the runner wants it."""
        return Controller(
            name="nodelifecycle",
            reconcile=self._reconcile,
            watches={"nodes": itself, _LEASES: self._of_lease, "pods": self._of_pod},
        )

    @staticmethod
    def _of_lease(_cluster: Cluster, lease: Object) -> Iterable[str]:
        return (f"/{name_of(lease)}",) if namespace_of(lease) == "kube-node-lease" else ()

    @staticmethod
    def _of_pod(cluster: Cluster, pod: Object) -> Iterable[str]:
        """A pod that is ready on a node that is not must be corrected."""
        node = cluster["nodes"].get("", pod["spec"].get("nodeName") or "")
        lost = node is not None and condition_of(node, "Ready").get("status") in ("False", "Unknown")
        return (f"/{pod['spec']['nodeName']}",) if lost else ()

    def _reconcile(self, cluster: Cluster, key: str) -> float | None:
        name = split(key)[1]
        node = cluster["nodes"].get("", name)
        if node is None:
            if self._seen.pop(name, None) is not None:
                cluster.event(
                    SOURCE, _reference(name, name), "Normal", "RemovingNode", f"Node {name} event: Removing Node {name} from Controller"
                )
            return None
        lease = cluster[_LEASES].get("kube-node-lease", name)
        seen = self._note(cluster, node, lease)
        silent = (cluster.now() - seen.at).total_seconds()
        if silent > _GRACE_SECONDS:
            node = self._lose(cluster, node)
        ready = condition_of(node, "Ready").get("status", "")
        if seen.ready == "True" and ready != "True":
            reference = _reference(name, uid_of(node))
            cluster.event(SOURCE, reference, "Normal", "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        seen.ready = ready
        self._taint(cluster, node)
        if ready not in ("False", "Unknown"):
            seen.down_since = None
        else:
            seen.down_since = seen.down_since or cluster.now()
            left = _MONITOR_SECONDS - (cluster.now() - seen.down_since).total_seconds()
            if left > 0:
                return left
            _say_not_ready(cluster, node)
        return max(0.5, _GRACE_SECONDS - silent + 0.5) if silent <= _GRACE_SECONDS else None

    def _note(self, cluster: Cluster, node: Object, lease: Object | None) -> _Seen:
        heartbeat = str(condition_of(node, "Ready").get("lastHeartbeatTime") or "")
        renewed = str((lease or {}).get("spec", {}).get("renewTime") or "")
        name = name_of(node)
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = _Seen(heartbeat, renewed, cluster.now(), condition_of(node, "Ready").get("status", ""))
            reference = _reference(name, uid_of(node))
            cluster.event(SOURCE, reference, "Normal", "RegisteredNode", f"Node {name} event: Registered Node {name} in Controller")
        elif heartbeat > seen.heartbeat or renewed > seen.lease:
            seen.heartbeat, seen.lease, seen.at = heartbeat, renewed, cluster.now()
        return seen

    def _lose(self, cluster: Cluster, node: Object) -> Object:
        """Nobody knows any more how the node is."""
        conditions = []
        now = cluster.stamp()
        known = {one["type"] for one in node.get("status", {}).get("conditions") or ()}
        for one in node.get("status", {}).get("conditions") or ():
            if one["type"] in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure") and one["status"] != "Unknown":
                one = {**one, "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": now}
                one["message"] = "Kubelet stopped posting node status."
            conditions.append(one)
        for kind in ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure"):
            if kind not in known:
                message = "Kubelet never posted node status."
                times = {"lastHeartbeatTime": node["metadata"]["creationTimestamp"], "lastTransitionTime": now}
                conditions.append({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated", "message": message, **times})
        if conditions == (node.get("status", {}).get("conditions") or []):
            return node
        return cluster.write_status(node, {**node["status"], "conditions": conditions})

    def _taint(self, cluster: Cluster, node: Object) -> None:
        """The taints that follow from the conditions, and from being cordoned; those of others are left alone."""
        now = cluster.stamp()
        wanted: list[Object] = []
        for kind, keys in _BY_CONDITION.items():
            key = keys.get(condition_of(node, kind).get("status", ""))
            if key is not None:
                wanted.append({"key": key, "effect": "NoSchedule"})
                if kind == "Ready":
                    wanted.append({"key": key, "effect": "NoExecute"})
        if node["spec"].get("unschedulable"):
            wanted.append({"key": _UNSCHEDULABLE, "effect": "NoSchedule"})
        before = node["spec"].get("taints") or []
        taints = []
        for one in before:
            ours = one["key"] in _OURS and one["effect"] in ("NoSchedule", "NoExecute")
            if not ours or any(one["key"] == other["key"] and one["effect"] == other["effect"] for other in wanted):
                taints.append(one)
        for one in wanted:
            if not any(one["key"] == other["key"] and one["effect"] == other["effect"] for other in taints):
                taints.append({**one, "timeAdded": now})
        if taints != before:
            version = node["metadata"]["resourceVersion"]
            cluster.patch(node, {"metadata": {"resourceVersion": version}, "spec": {"taints": taints or None}}, "merge")


def _reference(name: str, uid: str) -> Object:
    return {"kind": "Node", "apiVersion": "v1", "name": name, "uid": uid}


def _say_not_ready(cluster: Cluster, node: Object) -> None:
    """The pods of a node that is not ready are not either (``MarkPodsNotReady``)."""
    for pod in cluster["pods"].list():
        if pod["spec"].get("nodeName") != name_of(node) or condition_of(pod, "Ready").get("status") != "True":
            continue
        condition = {"type": "Ready", "status": "False", "lastTransitionTime": cluster.stamp()}
        try:
            cluster.patch(pod, {"metadata": {"uid": uid_of(pod)}, "status": {"conditions": [condition]}}, subresource="status")
        except ApiError as error:
            if error.status not in (404, 409, 422):
                raise
            continue
        cluster.event(SOURCE, pod, "Warning", "NodeNotReady", "Node is not ready")


# --- eviction by taint ------------------------------------------------------------------------------------------------------------------


class TaintEviction:
    """Ends pods that do not tolerate a NoExecute taint of their node, those that tolerate it for a time after that."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}  # when the pod's end was planned

    def controller(self) -> Controller:
        """As the runner wants it."""
        return Controller(name="taint-eviction", reconcile=self._reconcile, watches={"pods": self._of_pod, "nodes": _pods_of_node})

    @staticmethod
    def _of_pod(cluster: Cluster, pod: Object) -> Iterable[str]:
        node = cluster["nodes"].get("", pod["spec"].get("nodeName") or "")
        return (key_of(pod),) if node is not None and _executing(node) else ()

    def _reconcile(self, cluster: Cluster, key: str) -> float | None:
        pod = cluster["pods"].get(*split(key))
        if pod is None or is_deleted(pod) or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            self._since.pop(key, None)
            return None
        node = cluster["nodes"].get("", pod["spec"].get("nodeName") or "")
        taints = _executing(node) if node is not None else []
        if not taints:
            self._cancel(cluster, key, pod)
            return None
        seconds = _tolerated_seconds(pod, taints)
        if seconds is None:
            self._cancel(cluster, key, pod)
            return None
        due = self._since.setdefault(key, cluster.now()) + timedelta(seconds=seconds)
        left = (due - cluster.now()).total_seconds()
        if left > 0:
            return left
        self._end(cluster, pod)
        return None

    def _cancel(self, cluster: Cluster, key: str, pod: Object) -> None:
        if self._since.pop(key, None) is not None:
            cluster.event(_EVICTION, _pod_reference(pod), "Normal", "TaintManagerEviction", f"Cancelling deletion of Pod {key}")

    def _end(self, cluster: Cluster, pod: Object) -> None:
        self._since.pop(key_of(pod), None)
        cluster.event(_EVICTION, _pod_reference(pod), "Normal", "TaintManagerEviction", f"Marking for deletion Pod {key_of(pod)}")
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastProbeTime": None,
            "lastTransitionTime": stamp(cluster.now()),
            "observedGeneration": pod["metadata"].get("generation", 1),
        }
        try:
            pod = cluster.patch(pod, {"metadata": {"uid": uid_of(pod)}, "status": {"conditions": [condition]}}, subresource="status")
            cluster.delete(pod)
        except ApiError as error:
            if error.status not in (404, 422):
                raise


def _executing(node: Object) -> list[Object]:
    return [one for one in node["spec"].get("taints") or () if one["effect"] == "NoExecute"]


def _tolerated_seconds(pod: Object, taints: list[Object]) -> float | None:
    """For how long a pod stays; None: for ever."""
    tolerations = pod["spec"].get("tolerations") or ()
    used = []
    for taint in taints:
        found = [one for one in tolerations if tolerates([one], taint)]
        if not found:
            return 0.0
        used.append(found[0])
    limits = [one["tolerationSeconds"] for one in used if one.get("tolerationSeconds") is not None]
    return max(0.0, float(min(limits))) if limits else None


def _pods_of_node(cluster: Cluster, node: Object) -> Iterable[str]:
    """The pods of a node whose taints changed."""
    now = cluster["nodes"].get("", name_of(node))
    if now is not None and now is not node and _executing(now) == _executing(node):
        return []
    if now is node and not _executing(node):
        return []
    return [key_of(pod) for pod in cluster["pods"].list() if pod["spec"].get("nodeName") == name_of(node)]


def _pod_reference(pod: Object) -> Object:
    return {"kind": "Pod", "apiVersion": "v1", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)}
