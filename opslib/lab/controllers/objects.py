"""What all controllers ask of objects: keys, owners, conditions, whether a pod is ready; and how they adopt and release what they own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import KINDS, Cluster
from opslib.lab.kube.selectors import from_object

__all__ = ["from_object"]

FINISHED = ("Succeeded", "Failed")


# --- names ------------------------------------------------------------------------------------------------------------------------------


def key_of(obj: Object) -> str:
    """ "namespace/name"; "/name" for what has no namespace."""
    return f"{namespace_of(obj)}/{name_of(obj)}"


def split(key: str) -> tuple[str, str]:
    """Namespace and name of a key."""
    namespace, _slash, name = key.partition("/")
    return namespace, name


def name_of(obj: Object) -> str:
    """An object's name."""
    return str(obj["metadata"]["name"])


def namespace_of(obj: Object) -> str:
    """An object's namespace; "" where it has none."""
    return str(obj["metadata"].get("namespace", ""))


def uid_of(obj: Object) -> str:
    """An object's uid."""
    return str(obj["metadata"]["uid"])


def labels_of(obj: Object) -> dict[str, str]:
    """An object's labels; not to be changed."""
    return obj["metadata"].get("labels") or {}


def annotations_of(obj: Object) -> dict[str, str]:
    """An object's annotations; not to be changed."""
    return obj["metadata"].get("annotations") or {}


def itself(_cluster: Cluster, obj: Object) -> Iterable[str]:
    """The keys that a change concerns, where it is the object's own."""
    return (key_of(obj),)


def is_deleted(obj: Object) -> bool:
    """Whether somebody asked for its deletion."""
    return obj["metadata"].get("deletionTimestamp") is not None


def created(obj: Object) -> str:
    """When it was made, as the API writes it: sorts as text."""
    return str(obj["metadata"].get("creationTimestamp") or "")


# --- owners -----------------------------------------------------------------------------------------------------------------------------


def controller_of(obj: Object) -> Object | None:
    """The reference to the object's controller."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return None


def owner_reference(owner: Object) -> Object:
    """The reference that makes `owner` the controller of an object."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name_of(owner),
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owner_of_kind(kind: str) -> Callable[[Cluster, Object], Iterable[str]]:
    """The key of an object's controller, where that is of this kind; where it has none, of all that select it and would adopt it."""

    def keys(cluster: Cluster, obj: Object) -> Iterable[str]:
        reference = controller_of(obj)
        if reference is not None:
            return (f"{namespace_of(obj)}/{reference['name']}",) if reference["kind"] == kind else ()
        if is_deleted(obj):
            return ()
        labels = labels_of(obj)
        return [
            key_of(owner)
            for owner in cluster[KINDS[kind]].list(namespace_of(obj))
            if labels and from_object(owner["spec"].get("selector"))(labels)
        ]

    return keys


def claim(cluster: Cluster, owner: Object, resource: str, wanted: Callable[[Object], bool] = lambda obj: True) -> list[Object]:
    """The objects of `resource` that `owner` controls. Those that it selects and nobody owns are adopted, others of its own released.

    An owner that is being deleted adopts nothing (``ControllerRefManager``).
    """
    matches = from_object(owner["spec"]["selector"])
    uid, going = uid_of(owner), is_deleted(owner)
    mine = []
    for obj in (*cluster[resource].owned(uid), *cluster[resource].orphans(namespace_of(owner))):
        if not wanted(obj):
            continue
        reference = controller_of(obj)
        fits = matches(labels_of(obj))
        if reference is not None:
            if fits:
                mine.append(obj)
            elif not going:
                _release(cluster, obj, uid)
        elif fits and not going and not is_deleted(obj):
            adopted = _adopt(cluster, owner, obj)
            if adopted is not None:
                mine.append(adopted)
    return mine


def _adopt(cluster: Cluster, owner: Object, obj: Object) -> Object | None:
    body = {"metadata": {"uid": uid_of(obj), "ownerReferences": [owner_reference(owner)]}}
    try:
        return cluster.patch(obj, body)
    except ApiError as error:
        if error.status in (404, 409, 422):
            return None
        raise


def _release(cluster: Cluster, obj: Object, uid: str) -> None:
    body = {"metadata": {"uid": uid_of(obj), "ownerReferences": [{"$patch": "delete", "uid": uid}]}}
    try:
        cluster.patch(obj, body)
    except ApiError as error:
        if error.status not in (404, 422):
            raise


# --- conditions -------------------------------------------------------------------------------------------------------------------------


def condition_of(obj: Object, kind: str) -> Object:
    """A condition of an object's status; {} where it has none of that type."""
    for one in obj.get("status", {}).get("conditions") or ():
        if one["type"] == kind:
            return dict(one)
    return {}


def has(obj: Object, kind: str, status: str = "True") -> bool:
    """Whether a condition has this status."""
    return bool(condition_of(obj, kind).get("status") == status)


def with_condition(conditions: list[Object], condition: Object) -> list[Object]:
    """The conditions with one of them replaced, or added at the end.

    Nothing changes where status and reason are the same; the time of transition stays where the status does (``SetDeploymentCondition``
    and its like).
    """
    before = next((one for one in conditions if one["type"] == condition["type"]), None)
    if before is None:
        return [*conditions, condition]
    if before["status"] == condition["status"] and before.get("reason") == condition.get("reason"):
        return conditions
    if before["status"] == condition["status"]:
        condition = {**condition, "lastTransitionTime": before.get("lastTransitionTime")}
    return [*(one for one in conditions if one["type"] != condition["type"]), condition]


def without_condition(conditions: list[Object], kind: str) -> list[Object]:
    """The conditions without those of a type."""
    return [one for one in conditions if one["type"] != kind]


# --- pods -------------------------------------------------------------------------------------------------------------------------------


def is_active(pod: Object) -> bool:
    """Whether a pod runs or will: neither ended nor being deleted."""
    return pod.get("status", {}).get("phase") not in FINISHED and not is_deleted(pod)


def is_ready(pod: Object) -> bool:
    """Whether a pod's Ready condition is true."""
    return has(pod, "Ready")


def available_in(cluster: Cluster, pod: Object, min_ready_seconds: int) -> float | None:
    """Seconds until a ready pod is available (0: it is); None where it is not ready."""
    condition = condition_of(pod, "Ready")
    if condition.get("status") != "True":
        return None
    if not min_ready_seconds:
        return 0.0
    since = condition.get("lastTransitionTime")
    return max(0.0, min_ready_seconds - cluster.since(since)) if since else None


def is_available(cluster: Cluster, pod: Object, min_ready_seconds: int) -> bool:
    """Whether a pod is ready, and has been for `min_ready_seconds`."""
    return available_in(cluster, pod, min_ready_seconds) == 0.0


def pod_from(template: Object, owner: Object, *, name: str | None = None) -> Object:
    """A pod of a template, owned by `owner`; without `name` the server finds one that begins like the owner's."""
    source = template.get("metadata") or {}
    metadata: Object = {"namespace": namespace_of(owner), "ownerReferences": [owner_reference(owner)]}
    for field in ("labels", "annotations", "finalizers"):
        if source.get(field):
            metadata[field] = copy.copy(source[field])
    if name is None:
        prefix = f"{name_of(owner)}-"
        metadata["generateName"] = prefix if len(prefix) <= 253 else name_of(owner)
    else:
        metadata["name"] = name
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}


def create_pod(cluster: Cluster, source: str, owner: Object, pod: Object) -> Object:
    """Create a pod, and tell of it or of why not (``RealPodControl.createPods``)."""
    try:
        made = cluster.create(pod)
    except ApiError as error:
        if not is_terminating(error):
            cluster.event(source, owner, "Warning", "FailedCreate", f"Error creating: {error.server_message}")
        raise
    cluster.event(source, owner, "Normal", "SuccessfulCreate", f"Created pod: {name_of(made)}")
    return made


def delete_pod(cluster: Cluster, source: str, owner: Object, pod: Object) -> None:
    """Delete a pod, and tell of it (``RealPodControl.DeletePod``)."""
    try:
        there = cluster.delete(pod)
    except ApiError as error:
        cluster.event(source, owner, "Warning", "FailedDelete", f"Error deleting: {error.server_message}")
        raise
    if there:
        cluster.event(source, owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name_of(pod)}")


def is_terminating(error: ApiError) -> bool:
    """Whether the server refused because the namespace is going away."""
    return error.status == 403 and "being terminated" in error.server_message


def batched(count: int, step: Callable[[], Any]) -> tuple[int, ApiError | None]:
    """Do `step` so many times, in batches of 1, 2, 4...; after a batch with an error no more (``slowStartBatch``).

    Returns
    -------
    How many went well, and the last error.
    """
    done, size = 0, 1
    left = count
    while left > 0:
        failure: ApiError | None = None
        for _number in range(min(size, left)):
            try:
                step()
                done += 1
            except ApiError as error:
                failure = error
        left -= min(size, left)
        if failure is not None:
            return done, failure
        size *= 2
    return done, None


def scaled(value: int | str | None, total: int, *, up: bool) -> int:
    """A number, or a percentage of `total`, rounded up or down (``GetScaledValueFromIntOrPercent``)."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    percent = int(str(value).removesuffix("%"))
    return -(-percent * total // 100) if up else percent * total // 100


def quoted(text: object) -> str:
    """A text as Go's %q writes it."""
    escaped = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'
