"""PodDisruptionBudgets: how many pods may go now (pkg/controller/disruption)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.clock import stamp
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import (
    condition_of,
    controller_of,
    from_object,
    is_deleted,
    is_ready,
    itself,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    quoted,
    scaled,
    split,
    uid_of,
)
from opslib.lab.controllers.runner import Controller
from opslib.lab.kube.selectors import describe

SOURCE = "controllermanager"
_EVICTION_SECONDS = 120.0  # an eviction that has not happened by then is not counted any more
_SCALED = {"ReplicaSet": "replicasets.apps", "StatefulSet": "statefulsets.apps", "Deployment": "deployments.apps"}


class _Unknown(Exception):
    """How many pods there should be cannot be said."""


def _reconcile(cluster: Cluster, key: str) -> float | None:
    budget = cluster["poddisruptionbudgets.policy"].get(*split(key))
    if budget is None:
        return None
    matches = from_object(budget["spec"].get("selector"))
    pods = [pod for pod in cluster["pods"].list(namespace_of(budget)) if matches(labels_of(pod))]
    pods = [pod for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
    if not pods:
        cluster.event(SOURCE, budget, "Normal", "NoPods", "No matching pods found")
    try:
        expected, desired, unmanaged = _expected(cluster, budget, pods)
    except _Unknown as error:
        message = f"Failed to calculate the number of expected pods: {error}"
        cluster.event(SOURCE, budget, "Warning", "CalculateExpectedPodCountFailed", message)
        _fail_safe(cluster, budget, str(error))
        return None
    if unmanaged:
        cluster.event(SOURCE, budget, "Warning", "UnmanagedPods", _unmanaged_message(budget))
    disrupted, again = _disrupted(cluster, budget, pods)
    healthy = sum(is_ready(pod) and not is_deleted(pod) and name_of(pod) not in disrupted for pod in pods)
    allowed = max(0, healthy - desired) if expected > 0 else 0
    status: Object = {
        "observedGeneration": budget["metadata"].get("generation", 0),
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": expected,
        "disruptionsAllowed": allowed,
        "conditions": _conditions(cluster, budget, allowed),
    }
    if disrupted:
        status["disruptedPods"] = disrupted
    cluster.write_status(budget, status)
    return again


def _expected(cluster: Cluster, budget: Object, pods: list[Object]) -> tuple[int, int, bool]:
    """Pods that there should be, healthy ones that there must be, and whether some have no owner that could say so."""
    spec = budget["spec"]
    if "maxUnavailable" in spec:
        count, unmanaged = _scale_of(cluster, pods)
        return count, max(0, count - scaled(spec["maxUnavailable"], count, up=True)), unmanaged
    least = spec.get("minAvailable")
    if isinstance(least, str):
        count, unmanaged = _scale_of(cluster, pods)
        return count, scaled(least, count, up=True), unmanaged
    return (len(pods), int(least), False) if least is not None else (0, 0, False)


def _scale_of(cluster: Cluster, pods: list[Object]) -> tuple[int, bool]:
    scales: dict[str, int] = {}
    unmanaged = False
    for pod in pods:
        reference = controller_of(pod)
        if reference is None:
            unmanaged = True
            continue
        owner = _cached(cluster, reference, namespace_of(pod))
        above = controller_of(owner) if owner is not None else None
        if owner is not None and above is not None and above["kind"] == "Deployment":
            reference, owner = above, _cached(cluster, above, namespace_of(pod))
        if reference["uid"] in scales:
            continue
        if owner is None:
            owner = _with_scale(cluster, reference, namespace_of(pod))
        if owner is None:
            raise _Unknown(f'found no controllers for pod "{name_of(pod)}"')
        scales[reference["uid"]] = int(owner["spec"].get("replicas", 0))
    return sum(scales.values()), unmanaged


def _cached(cluster: Cluster, reference: Object, namespace: str) -> Object | None:
    resource = _SCALED.get(reference["kind"])
    if resource is None:
        return None
    found = cluster[resource].get(namespace, reference["name"])
    return found if found is not None and uid_of(found) == reference["uid"] else None


def _with_scale(cluster: Cluster, reference: Object, namespace: str) -> Object | None:
    """The scale of any other owner, where it has one."""
    stub = {
        "apiVersion": reference["apiVersion"],
        "kind": reference["kind"],
        "metadata": {"name": reference["name"], "namespace": namespace},
    }
    try:
        path = cluster.path(stub)
        scale = cluster.api.get(f"{path}/scale")
    except ApiError as error:
        if error.status != 404:
            raise
        group, _slash, _version = reference["apiVersion"].partition("/")
        resource = f"{reference['kind'].lower()}s.{group}"
        raise _Unknown(f"{resource} does not implement the scale subresource") from None
    return scale if uid_of(scale) == reference["uid"] else None


def _unmanaged_message(budget: Object) -> str:
    selector = describe(budget["spec"].get("selector"))
    return (
        f"Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status of the PDB "
        "cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set "
        '".spec.minAvailable" field of the PDB to an integer value.'
    )


def _disrupted(cluster: Cluster, budget: Object, pods: list[Object]) -> tuple[dict[str, str], float | None]:
    """Pods whose eviction was accepted and that are still there; seconds until the first of them is given up."""
    kept: dict[str, str] = {}
    waits = []
    noted = budget.get("status", {}).get("disruptedPods") or {}
    for pod in pods:
        moment = noted.get(name_of(pod))
        if moment is None or is_deleted(pod):
            continue
        left = (datetime.fromisoformat(moment) + timedelta(seconds=_EVICTION_SECONDS) - cluster.now()).total_seconds()
        if left <= 0:
            message = f"Pod was expected by PDB {key_of(budget)} to be deleted but it wasn't"
            cluster.event(SOURCE, pod, "Warning", "NotDeleted", message)
            continue
        kept[name_of(pod)] = moment
        waits.append(left)
    return kept, min(waits, default=None)


def _conditions(cluster: Cluster, budget: Object, allowed: int) -> list[Object]:
    status, reason = ("True", "SufficientPods") if allowed > 0 else ("False", "InsufficientPods")
    before = condition_of(budget, "DisruptionAllowed")
    since = before["lastTransitionTime"] if before.get("status") == status else stamp(cluster.now())
    condition = {"type": "DisruptionAllowed", "status": status, "reason": reason, "message": "", "lastTransitionTime": since}
    return [condition | {"observedGeneration": budget["metadata"].get("generation", 0)}]


def _fail_safe(cluster: Cluster, budget: Object, message: str) -> None:
    """Nothing may be disrupted where nobody knows."""
    before = budget.get("status", {})
    current = condition_of(budget, "DisruptionAllowed")
    since = current["lastTransitionTime"] if current.get("status") == "False" else stamp(cluster.now())
    condition = {"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed", "message": message, "lastTransitionTime": since}
    condition["observedGeneration"] = budget["metadata"].get("generation", 0)
    numbers = {name: before.get(name, 0) for name in ("currentHealthy", "desiredHealthy", "expectedPods")}
    kept = {name: before[name] for name in ("observedGeneration", "disruptedPods") if name in before}
    cluster.write_status(budget, kept | numbers | {"disruptionsAllowed": 0, "conditions": [condition]})


def _of_pod(cluster: Cluster, pod: Object) -> Iterable[str]:
    budgets = [
        one
        for one in cluster["poddisruptionbudgets.policy"].list(namespace_of(pod))
        if from_object(one["spec"].get("selector"))(labels_of(pod))
    ]
    if len(budgets) > 1 and cluster["pods"].by_uid(uid_of(pod)) is pod:
        where = f"{quoted(namespace_of(pod))}/{quoted(name_of(pod))}"
        message = f"Pod {where} matches multiple PodDisruptionBudgets.  Chose {quoted(name_of(budgets[0]))} arbitrarily."
        cluster.event(SOURCE, pod, "Warning", "MultiplePodDisruptionBudgets", message)
    return [key_of(one) for one in budgets]


def _of_owner(cluster: Cluster, owner: Object) -> Iterable[str]:
    """Budgets that mean the pods of a workload whose size changed."""
    labels = (owner["spec"].get("template", {}).get("metadata") or {}).get("labels") or {}
    for budget in cluster["poddisruptionbudgets.policy"].list(namespace_of(owner)):
        if from_object(budget["spec"].get("selector"))(labels):
            yield key_of(budget)


DISRUPTION = Controller(
    name="disruption",
    reconcile=_reconcile,
    watches={
        "poddisruptionbudgets.policy": itself,
        "pods": _of_pod,
        "replicasets.apps": _of_owner,
        "statefulsets.apps": _of_owner,
        "deployments.apps": _of_owner,
    },
)
