"""ReplicaSets: as many pods as wanted (pkg/controller/replicaset)."""

from __future__ import annotations

import math

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import (
    FINISHED,
    annotations_of,
    available_in,
    batched,
    claim,
    condition_of,
    controller_of,
    create_pod,
    created,
    delete_pod,
    is_active,
    is_deleted,
    is_ready,
    itself,
    labels_of,
    owner_of_kind,
    pod_from,
    split,
    uid_of,
    with_condition,
    without_condition,
)
from opslib.lab.controllers.runner import Controller

SOURCE = "replicaset-controller"
_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_BURST = 500


def _reconcile(cluster: Cluster, key: str) -> float | None:
    replica_set = cluster["replicasets.apps"].get(*split(key))
    if replica_set is None:
        return None
    pods = claim(cluster, replica_set, "pods", lambda pod: pod.get("status", {}).get("phase") not in FINISHED)
    active = [pod for pod in pods if is_active(pod)]
    ending = [pod for pod in pods if is_deleted(pod)]
    failure: ApiError | None = None
    if not is_deleted(replica_set):
        active, failure = _manage(cluster, replica_set, active)
    status = _status(cluster, replica_set, active, len(ending), failure)
    replica_set = cluster.write_status(replica_set, status)
    if failure is not None:
        raise failure
    return soonest(cluster, active, replica_set["spec"].get("minReadySeconds", 0))


def soonest(cluster: Cluster, pods: list[Object], min_ready_seconds: int) -> float | None:
    """Seconds until the next of the ready pods becomes available."""
    waits = [available_in(cluster, pod, min_ready_seconds) for pod in pods]
    return min((seconds for seconds in waits if seconds), default=None)


def _manage(cluster: Cluster, replica_set: Object, active: list[Object]) -> tuple[list[Object], ApiError | None]:
    """Create or delete pods; the active ones as they are counted now (new ones count in the next round), and what failed."""
    missing = replica_set["spec"]["replicas"] - len(active)
    template = replica_set["spec"]["template"]
    if missing > 0:
        _done, failure = batched(min(missing, _BURST), lambda: create_pod(cluster, SOURCE, replica_set, pod_from(template, replica_set)))
        return active, failure
    failure = None
    if missing < 0:
        for pod in to_delete(cluster, active, _related(cluster, replica_set), min(-missing, _BURST)):
            try:
                delete_pod(cluster, SOURCE, replica_set, pod)
            except ApiError as error:
                failure = error
    return active, failure


def _related(cluster: Cluster, replica_set: Object) -> list[Object]:
    """The pods of the replica sets of the same owner, this one's too."""
    owner = controller_of(replica_set)
    sets = cluster["replicasets.apps"].owned(owner["uid"]) if owner is not None else [replica_set]
    return [pod for one in sets for pod in cluster["pods"].owned(uid_of(one)) if is_active(pod)]


def to_delete(cluster: Cluster, pods: list[Object], related: list[Object], count: int) -> list[Object]:
    """The `count` pods that are least worth keeping (``ActivePodsWithRanks``)."""
    on_node: dict[str, int] = {}
    for pod in related:
        node = pod["spec"].get("nodeName", "")
        on_node[node] = on_node.get(node, 0) + 1

    def rank(pod: Object) -> tuple[object, ...]:
        status, node = pod.get("status", {}), pod["spec"].get("nodeName", "")
        ready = is_ready(pod)
        ready_seconds = cluster.since(condition_of(pod, "Ready").get("lastTransitionTime")) if ready else 0.0
        restarts = max((one.get("restartCount", 0) for one in status.get("containerStatuses") or ()), default=0)
        try:
            cost = int(annotations_of(pod).get(_DELETION_COST, "0"))
        except ValueError:
            cost = 0
        return (
            bool(node),
            {"Pending": 0, "Unknown": 1, "Running": 2}.get(status.get("phase", ""), 0),
            ready,
            cost,
            -on_node.get(node, 0),
            _age_class(ready_seconds),
            -restarts,
            _age_class(cluster.since(created(pod))),
            uid_of(pod),
        )

    return sorted(pods, key=rank)[:count]


def _age_class(seconds: float) -> int:
    """Ages are told apart by powers of two, so that scaling down does not always end the youngest."""
    return int(math.log2(seconds)) + 1 if seconds >= 1 else 0


def _status(cluster: Cluster, replica_set: Object, active: list[Object], ending: int, failure: ApiError | None) -> Object:
    before = replica_set.get("status", {})
    spec = replica_set["spec"]
    wanted = (spec["template"].get("metadata", {}).get("labels") or {}).items()
    conditions = before.get("conditions") or []
    if failure is None:
        conditions = without_condition(conditions, "ReplicaFailure")
    elif not condition_of(replica_set, "ReplicaFailure"):
        reason = "FailedCreate" if len(active) < spec["replicas"] else "FailedDelete"
        failed = {"type": "ReplicaFailure", "status": "True", "lastTransitionTime": cluster.stamp(), "reason": reason}
        conditions = with_condition(conditions, {**failed, "message": failure.server_message})
    status = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(wanted <= labels_of(pod).items() for pod in active),
        "readyReplicas": sum(is_ready(pod) for pod in active),
        "availableReplicas": sum(available_in(cluster, pod, spec.get("minReadySeconds", 0)) == 0 for pod in active),
        "observedGeneration": replica_set["metadata"].get("generation", 0),
        "conditions": conditions,
    }
    return {"replicas": status["replicas"], "terminatingReplicas": ending} | {name: value for name, value in status.items() if value}


REPLICA_SET = Controller(name="replicaset", reconcile=_reconcile, watches={"replicasets.apps": itself, "pods": owner_of_kind("ReplicaSet")})
