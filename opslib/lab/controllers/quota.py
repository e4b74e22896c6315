"""ResourceQuotas: what a namespace uses (pkg/controller/resourcequota, pkg/quota)."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from opslib.lab.api import Object
from opslib.lab.controllers.cluster import PATHS, Cluster
from opslib.lab.controllers.objects import is_deleted, itself, key_of, namespace_of, split
from opslib.lab.controllers.runner import Controller, Keys
from opslib.lab.kube.quantities import canonical, parse, write

_COUNTED = {
    "configmaps": "configmaps",
    "persistentvolumeclaims": "persistentvolumeclaims",
    "secrets": "secrets",
    "services": "services",
    "resourcequotas": "resourcequotas",
}
_BINARY = ("memory", "storage", "hugepages-")


def _reconcile(cluster: Cluster, key: str) -> None:
    quota = cluster["resourcequotas"].get(*split(key))
    if quota is None:
        return
    hard: dict[str, str] = {name: canonical(str(value)) for name, value in (quota["spec"].get("hard") or {}).items()}
    used = {name: _written(name, _used(cluster, quota, name), hard[name]) for name in hard}
    cluster.write_status(quota, {"hard": hard, "used": used} if hard else {})


def _written(name: str, value: Decimal, hard: str) -> str:
    binary = any(word in name for word in _BINARY) and ((value >= 1024 and hard[-1:] == "i") or value % 1024 == 0)
    return write(value, "binary" if binary else "decimal")


def _used(cluster: Cluster, quota: Object, name: str) -> Decimal:
    namespace = namespace_of(quota)
    if name.startswith("count/"):
        resource = name.removeprefix("count/")
        if resource == "pods":
            return Decimal(len([pod for pod in cluster["pods"].list(namespace) if _in_scope(quota, pod)]))
        return Decimal(len(cluster[resource].list(namespace))) if resource in PATHS and resource in _KNOWN else Decimal(0)
    if name in _COUNTED:
        return Decimal(len(cluster[_COUNTED[name]].list(namespace)))
    if name.startswith("services."):
        wanted = {"services.loadbalancers": ("LoadBalancer",), "services.nodeports": ("NodePort", "LoadBalancer")}[name]
        return Decimal(sum(one["spec"].get("type") in wanted for one in cluster["services"].list(namespace)))
    if name == "requests.storage" or name.endswith((".storageclass.storage.k8s.io/requests.storage", "/persistentvolumeclaims")):
        return _storage(cluster, namespace, name)
    pods = [pod for pod in cluster["pods"].list(namespace) if _counts(cluster, pod) and _in_scope(quota, pod)]
    if name == "pods":
        return Decimal(len(pods))
    kind, _dot, resource = name.partition(".")
    if kind not in ("requests", "limits"):
        kind, resource = "requests", name
    return sum((_pod_amount(pod, kind, resource) for pod in pods), Decimal(0))


def _storage(cluster: Cluster, namespace: str, name: str) -> Decimal:
    of_class = name.partition(".storageclass.")[0] if ".storageclass." in name else None
    total = Decimal(0)
    for claim in cluster["persistentvolumeclaims"].list(namespace):
        if of_class is None or claim["spec"].get("storageClassName") == of_class:
            size = (claim["spec"].get("resources", {}).get("requests") or {}).get("storage", "0")
            total += 1 if name.endswith("/persistentvolumeclaims") else parse(str(size))
    return total


def _counts(cluster: Cluster, pod: Object) -> bool:
    """A pod that ended, or should have long ago, uses nothing (``QuotaV1Pod``)."""
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return False
    if is_deleted(pod):
        return cluster.since(pod["metadata"]["deletionTimestamp"]) < 0
    return True


def _pod_amount(pod: Object, kind: str, resource: str) -> Decimal:
    def of(container: Object) -> Decimal:
        return parse(str((container.get("resources", {}).get(kind) or {}).get(resource, "0")))

    spec = pod["spec"]
    inits = spec.get("initContainers") or ()
    sidecars = sum((of(one) for one in inits if one.get("restartPolicy") == "Always"), Decimal(0))
    total = sum((of(one) for one in spec["containers"]), Decimal(0)) + sidecars
    largest = max((of(one) for one in inits if one.get("restartPolicy") != "Always"), default=Decimal(0))
    overhead = parse(str((spec.get("overhead") or {}).get(resource, "0")))
    return max(total, largest) + overhead


def _in_scope(quota: Object, pod: Object) -> bool:
    spec = quota["spec"]
    wanted: list[tuple[str, str, list[str]]] = [(scope, "Exists", []) for scope in spec.get("scopes") or ()]
    expressions = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    wanted += [(one["scopeName"], one["operator"], one.get("values") or []) for one in expressions]
    return all(_matches(pod, *one) for one in wanted)


def _matches(pod: Object, scope: str, operator: str, values: list[str]) -> bool:
    spec = pod["spec"]
    if scope == "PriorityClass":
        name = spec.get("priorityClassName", "")
        return {"In": name in values, "NotIn": name not in values, "Exists": bool(name), "DoesNotExist": not name}.get(operator, False)
    best_effort = all(
        not (one.get("resources", {}).get("requests") or one.get("resources", {}).get("limits"))
        for one in [*spec["containers"], *(spec.get("initContainers") or ())]
    )
    ends = spec.get("activeDeadlineSeconds") is not None
    terms = [*(((spec.get("affinity") or {}).get(kind) or {}) for kind in ("podAffinity", "podAntiAffinity"))]
    crossing = any(
        "namespaces" in term or "namespaceSelector" in term
        for one in terms
        for term in one.get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    )
    return {
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
        "Terminating": ends,
        "NotTerminating": not ends,
        "CrossNamespacePodAffinity": crossing,
    }.get(scope, False)


def _quotas(cluster: Cluster, obj: Object) -> Iterable[str]:
    return [key_of(one) for one in cluster["resourcequotas"].list(namespace_of(obj))]


_KNOWN = (
    "pods",
    "configmaps",
    "secrets",
    "services",
    "persistentvolumeclaims",
    "deployments.apps",
    "replicasets.apps",
    "statefulsets.apps",
    "jobs.batch",
    "cronjobs.batch",
)


def _watches() -> dict[str, Keys]:
    return {"resourcequotas": itself, **dict.fromkeys(_KNOWN, _quotas)}


RESOURCE_QUOTA = Controller(name="resourcequota", reconcile=_reconcile, watches=_watches())
