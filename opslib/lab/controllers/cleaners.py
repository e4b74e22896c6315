"""Small controllers that clean up: pods whose node is gone or that are too many, jobs whose time is over, roles made of others
(pkg/controller/podgc, ttlafterfinished, clusterroleaggregation)."""

from __future__ import annotations

from collections.abc import Iterable

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.cronjob import finished
from opslib.lab.controllers.objects import condition_of, created, from_object, is_deleted, itself, key_of, labels_of, name_of, split, uid_of
from opslib.lab.controllers.runner import Controller

_QUARANTINE_SECONDS = 40.0  # a node may be registered again
_MOST_ENDED = 12_500
_ENDED = "ended"


# --- pods -------------------------------------------------------------------------------------------------------------------------------


class PodCollector:
    """Ends pods of nodes that are not there any more."""

    def __init__(self) -> None:
        self._missing: dict[str, float] = {}

    def controller(self) -> Controller:
        """As the runner wants it."""
        return Controller(name="pod-garbage-collector", reconcile=self._reconcile, watches={"pods": self._of_pod, "nodes": self._of_node})

    @staticmethod
    def _of_pod(cluster: Cluster, pod: Object) -> Iterable[str]:
        node = pod["spec"].get("nodeName")
        ended = [_ENDED] if pod.get("status", {}).get("phase") in ("Succeeded", "Failed") else []
        if (node and cluster["nodes"].get("", node) is None) or (not node and is_deleted(pod)):
            return [key_of(pod), *ended]
        return ended

    @staticmethod
    def _of_node(cluster: Cluster, node: Object) -> Iterable[str]:
        if cluster["nodes"].get("", name_of(node)) is not None:
            return []
        return [key_of(pod) for pod in cluster["pods"].list() if pod["spec"].get("nodeName") == name_of(node)]

    def _reconcile(self, cluster: Cluster, key: str) -> float | None:
        if key == _ENDED:
            self._too_many(cluster)
            return None
        pod = cluster["pods"].get(*split(key))
        if pod is None:
            return None
        node = pod["spec"].get("nodeName")
        if not node:
            if is_deleted(pod):
                cluster.delete(pod, grace_seconds=0)
            return None
        now = cluster.now().timestamp()
        if cluster["nodes"].get("", node) is not None:
            self._missing.pop(node, None)
            return None
        left = self._missing.setdefault(node, now) + _QUARANTINE_SECONDS - now
        if left > 0:
            return left
        try:
            cluster.api.get(f"/api/v1/nodes/{node}")
        except ApiError as error:
            if error.status != 404:
                raise
            _end(cluster, pod)
        return None

    @staticmethod
    def _too_many(cluster: Cluster) -> None:
        ended = [
            pod for pod in cluster["pods"].list() if pod.get("status", {}).get("phase") in ("Succeeded", "Failed") and not is_deleted(pod)
        ]
        for pod in sorted(ended, key=created)[: max(0, len(ended) - _MOST_ENDED)]:
            cluster.delete(pod, grace_seconds=0)


def _end(cluster: Cluster, pod: Object) -> None:
    """A pod of a node that is gone: it failed, and goes without grace."""
    if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByPodGC",
            "message": "PodGC: node no longer exists",
            "lastProbeTime": None,
            "lastTransitionTime": cluster.stamp(),
            "observedGeneration": pod["metadata"].get("generation", 1),
        }
        status = {"phase": "Failed", "conditions": [condition]}
        pod = cluster.patch(pod, {"metadata": {"uid": uid_of(pod)}, "status": status}, subresource="status")
    cluster.delete(pod, grace_seconds=0)


# --- jobs -------------------------------------------------------------------------------------------------------------------------------


def _expire(cluster: Cluster, key: str) -> float | None:
    job = cluster["jobs.batch"].get(*split(key))
    if job is None or is_deleted(job) or job["spec"].get("ttlSecondsAfterFinished") is None or not finished(job):
        return None
    ended = condition_of(job, finished(job))["lastTransitionTime"]
    left: float = job["spec"]["ttlSecondsAfterFinished"] - cluster.since(ended)
    if left > 0:
        return left
    cluster.delete(job, propagation="Foreground")
    return None


TTL_AFTER_FINISHED = Controller(name="ttl-after-finished", reconcile=_expire, watches={"jobs.batch": itself})


# --- roles ------------------------------------------------------------------------------------------------------------------------------


def _aggregate(cluster: Cluster, key: str) -> None:
    role = cluster["clusterroles.rbac.authorization.k8s.io"].get("", split(key)[1])
    if role is None or not role.get("aggregationRule") or is_deleted(role):
        return
    rules: list[Object] = []
    for selector in role["aggregationRule"].get("clusterRoleSelectors") or ():
        matches = from_object(selector)
        for other in sorted(cluster["clusterroles.rbac.authorization.k8s.io"].list(), key=name_of):
            if uid_of(other) != uid_of(role) and matches(labels_of(other)):
                rules += [rule for rule in other.get("rules") or () if rule not in rules]
    if rules != (role.get("rules") or []):
        cluster.replace({**role, "rules": rules})


def _aggregating(cluster: Cluster, role: Object) -> Iterable[str]:
    return [key_of(one) for one in cluster["clusterroles.rbac.authorization.k8s.io"].list() if one.get("aggregationRule")]


ROLE_AGGREGATION = Controller(
    name="clusterrole-aggregation", reconcile=_aggregate, watches={"clusterroles.rbac.authorization.k8s.io": _aggregating}
)
