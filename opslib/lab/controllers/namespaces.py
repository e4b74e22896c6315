"""Namespaces: what each has from the start (default service account, the cluster's certificate), and their end
(pkg/controller/serviceaccount, certificates/rootcacertpublisher, namespace)."""

from __future__ import annotations

from collections.abc import Iterable

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import is_deleted, is_terminating, itself, name_of, namespace_of, split
from opslib.lab.controllers.runner import Controller

_ROOT = "kube-root-ca.crt"
_AGAIN_SECONDS = 0.5
_ANNOTATION = "kubernetes.io/description"
_DESCRIPTION = (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or "
    "kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)


# --- furnishing -------------------------------------------------------------------------------------------------------------------------


def _account(cluster: Cluster, key: str) -> None:
    namespace = cluster["namespaces"].get("", split(key)[1])
    if namespace is None or is_deleted(namespace) or cluster["serviceaccounts"].get(name_of(namespace), "default") is not None:
        return
    metadata = {"name": "default", "namespace": name_of(namespace)}
    _create(cluster, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


def _create(cluster: Cluster, obj: Object) -> None:
    try:
        cluster.create(obj)
    except ApiError as error:
        if error.reason != "AlreadyExists" and not is_terminating(error) and error.status != 404:
            raise


def _of_namespaced(_cluster: Cluster, obj: Object) -> Iterable[str]:
    return (f"/{namespace_of(obj)}",)


SERVICE_ACCOUNT = Controller(name="serviceaccount", reconcile=_account, watches={"namespaces": itself, "serviceaccounts": _of_namespaced})


def root_certificate(certificate: str) -> Controller:
    """Keeps the authority's certificate (PEM) in every namespace."""

    def publish(cluster: Cluster, key: str) -> None:
        namespace = cluster["namespaces"].get("", split(key)[1])
        if namespace is None or is_deleted(namespace):
            return
        there = cluster["configmaps"].get(name_of(namespace), _ROOT)
        metadata = {"name": _ROOT, "namespace": name_of(namespace), "annotations": {_ANNOTATION: _DESCRIPTION}}
        if there is None:
            _create(cluster, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": certificate}})
        elif there.get("data") != {"ca.crt": certificate}:
            cluster.replace({**there, "data": {"ca.crt": certificate}})

    def of_map(_cluster: Cluster, obj: Object) -> Iterable[str]:
        return (f"/{namespace_of(obj)}",) if name_of(obj) == _ROOT else ()

    return Controller(name="root-ca-certificate-publisher", reconcile=publish, watches={"namespaces": itself, "configmaps": of_map})


# --- the end ----------------------------------------------------------------------------------------------------------------------------


def _empty(cluster: Cluster, key: str) -> float | None:
    """Delete all that is in a namespace that is to go; then let it go (``namespacedResourcesDeleter``)."""
    namespace = cluster["namespaces"].get("", split(key)[1])
    if namespace is None or not is_deleted(namespace):
        return None
    name = name_of(namespace)
    if "kubernetes" not in (namespace["spec"].get("finalizers") or ()):
        return None
    left: dict[str, int] = {}
    finalizers: dict[str, int] = {}
    trouble: dict[str, str] = {"discovery": "", "deletion": ""}
    resources = _resources(cluster, trouble)
    pods_first = sorted(resources, key=lambda one: one[1] != "pods")
    for base, resource, group in pods_first:
        path = f"{base}/namespaces/{name}/{resource}"
        try:
            objects = _all(cluster, path)
            if objects:
                _delete_all(cluster, path, objects)
                objects = _all(cluster, path)
        except ApiError as error:
            if error.status in (404, 405):
                continue
            trouble["deletion"] = error.server_message
            continue
        if objects:
            left[f"{resource}.{group}"] = len(objects)
            for obj in objects:
                for one in obj["metadata"].get("finalizers") or ():
                    finalizers[one] = finalizers.get(one, 0) + 1
        if resource == "pods" and objects:
            break
    conditions = _conditions(cluster, namespace, trouble, left, finalizers)
    namespace = cluster.write_status(namespace, {**namespace.get("status", {}), "phase": "Terminating", "conditions": conditions})
    if left or any(trouble.values()):
        return _AGAIN_SECONDS
    spec = {**namespace["spec"], "finalizers": [one for one in namespace["spec"]["finalizers"] if one != "kubernetes"]}
    made = cluster.api.request("PUT", f"/api/v1/namespaces/{name}/finalize", {**namespace, "spec": spec})
    if not made["spec"].get("finalizers") and not made["metadata"].get("finalizers"):
        cluster.forget(made)
    return None


def _resources(cluster: Cluster, trouble: dict[str, str]) -> list[tuple[str, str, str]]:
    """Every namespaced resource that can be listed and deleted: base path, name, group. Each group's preferred version is enough."""
    found = []
    bases = [("/api/v1", "")]
    for group in cluster.api.get("/apis")["groups"]:
        bases.append((f"/apis/{group['preferredVersion']['groupVersion']}", group["name"]))
    for base, group in bases:
        try:
            resources = cluster.api.get(base)["resources"]
        except ApiError as error:
            trouble["discovery"] = error.server_message
            continue
        for one in resources:
            if one["namespaced"] and "/" not in one["name"] and {"list", "delete"} <= set(one["verbs"]):
                found.append((base, one["name"], group))
    return found


def _all(cluster: Cluster, path: str) -> list[Object]:
    objects: list[Object] = cluster.api.list(path)
    return objects


def _delete_all(cluster: Cluster, path: str, objects: list[Object]) -> None:
    """Delete them one by one: what cannot be deleted as a collection is no different then."""
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    for obj in objects:
        if is_deleted(obj):
            continue
        try:
            cluster.api.request("DELETE", f"{path}/{name_of(obj)}", options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise


def _conditions(
    cluster: Cluster, namespace: Object, trouble: dict[str, str], left: dict[str, int], finalizers: dict[str, int]
) -> list[Object]:
    remaining = ", ".join(f"{resource} has {count} resource instances" for resource, count in sorted(left.items()))
    held = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
    wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            bool(trouble["discovery"]),
            ("DiscoveryFailed", trouble["discovery"]),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            False,
            ("GroupVersionParsingFailed", ""),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            bool(trouble["deletion"]),
            ("ContentDeletionFailed", f"Failed to delete all resource types, 1 remaining: {trouble['deletion']}"),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            bool(remaining),
            ("SomeResourcesRemain", f"Some resources are remaining: {remaining}"),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            bool(held),
            ("SomeFinalizersRemain", f"Some content in the namespace has finalizers remaining: {held}"),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
    before = {one["type"]: one for one in namespace.get("status", {}).get("conditions") or ()}
    conditions = []
    for kind, bad, yes, no in wanted:
        status, (reason, message) = ("True", yes) if bad else ("False", no)
        old = before.get(kind, {})
        since = old["lastTransitionTime"] if old.get("status") == status else cluster.stamp()
        conditions.append({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message})
    return conditions


NAMESPACE = Controller(name="namespace", reconcile=_empty, watches={"namespaces": itself})
