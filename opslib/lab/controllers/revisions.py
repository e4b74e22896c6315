"""The history of StatefulSets and DaemonSets: one ControllerRevision for each template (pkg/controller/history)."""

from __future__ import annotations

from collections.abc import Callable

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.hashing import fnv32, go_json, safe
from opslib.lab.controllers.objects import annotations_of, claim, is_deleted, name_of, namespace_of, owner_reference, uid_of


def data_of(owner: Object) -> Object:
    """What a revision keeps of its owner: the pod template, as a patch that puts it back."""
    return {"spec": {"template": {**owner["spec"]["template"], "$patch": "replace"}}}


def template_of(revision: Object) -> Object:
    """The pod template that a revision keeps."""
    return {name: value for name, value in revision["data"]["spec"]["template"].items() if name != "$patch"}


def hash_of(data: Object, collisions: int) -> str:
    """The hash in the name of a StatefulSet's revision (``HashControllerRevision``)."""
    return safe(str(fnv32(go_json(data) + str(collisions).encode())))


def history_of(cluster: Cluster, owner: Object) -> list[Object]:
    """The owner's revisions, the oldest first."""
    return sorted(
        claim(cluster, owner, "controllerrevisions.apps"), key=lambda one: (one["revision"], one["metadata"]["creationTimestamp"])
    )


def current(cluster: Cluster, owner: Object, history: list[Object], hashed: Callable[[int], str], label: str) -> tuple[Object, int]:
    """The revision of the template as it is now, the newest of all; made, or brought to the front, where it is not.

    Returns
    -------
    The revision, and the number of collisions that its name takes into account.
    """
    collisions = owner.get("status", {}).get("collisionCount", 0)
    data = data_of(owner)
    same = [one for one in history if one["data"] == data]
    number = max((one["revision"] for one in history), default=0)
    if same:
        found = same[-1]
        if found["revision"] < number:
            found = cluster.replace({**found, "revision": number + 1})
        return found, collisions
    while True:
        key = hashed(collisions)
        revision = {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": f"{name_of(owner)}-{key}",
                "namespace": namespace_of(owner),
                "labels": {**((owner["spec"]["template"].get("metadata") or {}).get("labels") or {}), label: key},
                "annotations": annotations_of(owner),
                "ownerReferences": [owner_reference(owner)],
            },
            "data": data,
            "revision": number + 1,
        }
        try:
            return cluster.create(revision), collisions
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            there = cluster.api.get(cluster.path(revision))
            if there["data"] == data and any(one["uid"] == uid_of(owner) for one in there["metadata"].get("ownerReferences") or ()):
                cluster["controllerrevisions.apps"].note(there)
                return there, collisions
            collisions += 1


def truncate(cluster: Cluster, owner: Object, history: list[Object], used: set[str]) -> None:
    """Delete the oldest revisions that nobody uses any more, above the limit."""
    spare = [one for one in history if name_of(one) not in used and not is_deleted(one)]
    limit = owner["spec"].get("revisionHistoryLimit", 10)
    for one in spare[: max(0, len(spare) - limit)]:
        cluster.delete(one)
