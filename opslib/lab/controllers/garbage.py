"""The garbage collector: what has lost its owners goes too, before them or not at all, as the deletion wanted it
(pkg/controller/garbagecollector).

It knows the dependents in the collections of `RESOURCES`; their owners may be of any kind.
"""

from __future__ import annotations

from collections.abc import Iterable

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import KINDS, Cluster, Propagation
from opslib.lab.controllers.objects import is_deleted, namespace_of, uid_of
from opslib.lab.controllers.runner import Controller, Keys

RESOURCES = (
    "pods",
    "replicasets.apps",
    "controllerrevisions.apps",
    "jobs.batch",
    "deployments.apps",
    "statefulsets.apps",
    "daemonsets.apps",
    "cronjobs.batch",
    "services",
    "endpoints",
    "endpointslices.discovery.k8s.io",
    "persistentvolumeclaims",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "poddisruptionbudgets.policy",
    "horizontalpodautoscalers.autoscaling",
)
_FOREGROUND, _ORPHAN = "foregroundDeletion", "orphan"


def _key(resource: str, obj: Object) -> str:
    return f"{resource}|{uid_of(obj)}"


def _find(cluster: Cluster, key: str) -> Object | None:
    resource, _bar, uid = key.partition("|")
    return cluster[resource].by_uid(uid)


def _dependents(cluster: Cluster, uid: str) -> list[tuple[str, Object]]:
    return [(resource, obj) for resource in RESOURCES for obj in cluster[resource].dependents(uid)]


def _concerned(resource: str, cluster: Cluster, obj: Object) -> Iterable[str]:
    """The object itself where it is going, or has an owner that is not known to be well; where it is gone, its dependents, and its owners,
    which may wait for that."""
    now = cluster[resource].by_uid(uid_of(obj))
    references = obj["metadata"].get("ownerReferences") or ()
    if now is None:
        yield from (_key(kind, one) for kind, one in _dependents(cluster, uid_of(obj)))
        for reference in references:
            owner = _cached(cluster, reference)
            if owner is not None and is_deleted(owner):
                yield _key(KINDS[reference["kind"]], owner)
        return
    if now is not obj:  # what it was before
        return
    finalizers = obj["metadata"].get("finalizers") or ()
    if is_deleted(obj) and (_FOREGROUND in finalizers or _ORPHAN in finalizers):
        yield _key(resource, obj)
    elif references and not is_deleted(obj):
        owners = [_cached(cluster, reference) for reference in references]
        if any(owner is None or is_deleted(owner) for owner in owners):
            yield _key(resource, obj)


def _cached(cluster: Cluster, reference: Object) -> Object | None:
    resource = KINDS.get(reference["kind"])
    if resource is None or resource not in RESOURCES:
        return None
    return cluster[resource].by_uid(reference["uid"])


def _reconcile(cluster: Cluster, key: str) -> float | None:
    obj = _find(cluster, key)
    if obj is None:
        return None
    finalizers = obj["metadata"].get("finalizers") or ()
    if is_deleted(obj):
        if _ORPHAN in finalizers:
            _set_free(cluster, obj)
        elif _FOREGROUND in finalizers:
            return _wait_for_dependents(cluster, obj)
        return None
    references = obj["metadata"].get("ownerReferences") or ()
    solid, absent, waiting = [], [], []
    for reference in references:
        owner = _owner(cluster, reference, namespace_of(obj))
        if owner is None:
            absent.append(reference)
        elif is_deleted(owner) and _FOREGROUND in (owner["metadata"].get("finalizers") or ()):
            waiting.append(reference)
        else:
            solid.append(reference)
    if solid and (absent or waiting):
        gone = [{"$patch": "delete", "uid": one["uid"]} for one in [*absent, *waiting]]
        _patched(cluster, obj, {"metadata": {"uid": uid_of(obj), "ownerReferences": gone}})
    elif not solid and references:
        propagation: Propagation = "Background"
        if _ORPHAN in finalizers:
            propagation = "Orphan"
        elif _FOREGROUND in finalizers or (waiting and _dependents(cluster, uid_of(obj))):
            propagation = "Foreground"
        if waiting and propagation == "Foreground":
            _unblock(cluster, obj)
        cluster.delete(obj, propagation=propagation)
    return None


def _owner(cluster: Cluster, reference: Object, namespace: str) -> Object | None:
    """The owner, asked of the server where it is not known; None where it is gone."""
    known = _cached(cluster, reference)
    if known is not None:
        return known
    stub = {"apiVersion": reference["apiVersion"], "kind": reference["kind"], "metadata": {"name": reference["name"]}}
    if namespace:
        stub["metadata"]["namespace"] = namespace
    try:
        found = cluster.api.get(cluster.path(stub))
    except ApiError as error:
        if error.status != 404:
            raise
        if error.server_message.startswith("no kind "):
            return {"metadata": {"name": reference["name"]}}  # nobody knows: it is left alone
        return None
    return found if uid_of(found) == reference["uid"] else None


def _wait_for_dependents(cluster: Cluster, obj: Object) -> float | None:
    """Foreground: the dependents go first; those that do not block are not waited for."""
    left = _dependents(cluster, uid_of(obj))
    for _resource, one in left:
        if not is_deleted(one):
            others = [ref for ref in one["metadata"]["ownerReferences"] if ref["uid"] != uid_of(obj)]
            if any(_owner(cluster, ref, namespace_of(one)) is not None for ref in others):
                gone = [{"$patch": "delete", "uid": uid_of(obj)}]
                _patched(cluster, one, {"metadata": {"uid": uid_of(one), "ownerReferences": gone}})
                continue
            propagation: Propagation = "Foreground" if _dependents(cluster, uid_of(one)) else "Background"
            cluster.delete(one, propagation=propagation)
    blocking = [
        one
        for _resource, one in _dependents(cluster, uid_of(obj))
        if any(ref["uid"] == uid_of(obj) and ref.get("blockOwnerDeletion") for ref in one["metadata"]["ownerReferences"])
    ]
    if blocking:
        return None
    _drop(cluster, obj, _FOREGROUND)
    return None


def _set_free(cluster: Cluster, obj: Object) -> None:
    """Orphan: the dependents stay, without this owner."""
    for _resource, one in _dependents(cluster, uid_of(obj)):
        _patched(cluster, one, {"metadata": {"uid": uid_of(one), "ownerReferences": [{"$patch": "delete", "uid": uid_of(obj)}]}})
    _drop(cluster, obj, _ORPHAN)


def _unblock(cluster: Cluster, obj: Object) -> None:
    """An owner must not wait for one that waits for it."""
    references = [{**one, "blockOwnerDeletion": False} for one in obj["metadata"]["ownerReferences"]]
    _patched(cluster, obj, {"metadata": {"uid": uid_of(obj), "ownerReferences": references}})


def _patched(cluster: Cluster, obj: Object, body: Object) -> None:
    try:
        cluster.patch(obj, body)
    except ApiError as error:
        if error.status not in (404, 422):
            raise


def _drop(cluster: Cluster, obj: Object, finalizer: str) -> None:
    """Take the collector's own finalizer off; the object is gone with the last one."""
    left = [one for one in obj["metadata"].get("finalizers") or () if one != finalizer]
    body = {"metadata": {"uid": uid_of(obj), "resourceVersion": obj["metadata"]["resourceVersion"], "finalizers": left or None}}
    try:
        made = cluster.patch(obj, body, "merge")
    except ApiError as error:
        if error.status == 404:
            cluster.forget(obj)
            return
        raise
    if not left and not made["metadata"].get("deletionGracePeriodSeconds"):
        cluster.forget(made)


def _watch(resource: str) -> Keys:
    return lambda cluster, obj: [*_concerned(resource, cluster, obj)]


GARBAGE = Controller(name="garbagecollector", reconcile=_reconcile, watches={resource: _watch(resource) for resource in RESOURCES})
