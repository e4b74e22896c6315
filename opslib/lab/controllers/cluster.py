"""What a controller works with: caches of the collections that it watches, writes that the caches know of at once, events, and the time."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.controllers.cache import Cache
from opslib.lab.controllers.clock import Clock, stamp
from opslib.lab.controllers.recorder import Kind, Recorder, reference_to

_GROUPS = {
    "v1": "configmaps endpoints namespaces nodes persistentvolumeclaims persistentvolumes pods resourcequotas secrets serviceaccounts "
    "services",
    "apps/v1": "controllerrevisions daemonsets deployments replicasets statefulsets",
    "autoscaling/v2": "horizontalpodautoscalers",
    "batch/v1": "cronjobs jobs",
    "coordination.k8s.io/v1": "leases",
    "discovery.k8s.io/v1": "endpointslices",
    "policy/v1": "poddisruptionbudgets",
    "rbac.authorization.k8s.io/v1": "clusterroles",
    "scheduling.k8s.io/v1": "priorityclasses",
    "storage.k8s.io/v1": "csinodes storageclasses volumeattachments",
}
PATHS = {
    (f"{resource}.{version.partition('/')[0]}" if "/" in version else resource): (
        f"/apis/{version}/{resource}" if "/" in version else f"/api/{version}/{resource}"
    )
    for version, resources in _GROUPS.items()
    for resource in resources.split()
}
KINDS = {
    "ClusterRole": "clusterroles.rbac.authorization.k8s.io",
    "ConfigMap": "configmaps",
    "ControllerRevision": "controllerrevisions.apps",
    "CronJob": "cronjobs.batch",
    "DaemonSet": "daemonsets.apps",
    "Deployment": "deployments.apps",
    "EndpointSlice": "endpointslices.discovery.k8s.io",
    "Endpoints": "endpoints",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers.autoscaling",
    "Job": "jobs.batch",
    "Namespace": "namespaces",
    "Node": "nodes",
    "PersistentVolume": "persistentvolumes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets.policy",
    "ReplicaSet": "replicasets.apps",
    "ResourceQuota": "resourcequotas",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "StatefulSet": "statefulsets.apps",
    "VolumeAttachment": "volumeattachments.storage.k8s.io",
}

Propagation = Literal["Background", "Foreground", "Orphan"]


class Cluster:
    """See the module's text. ``cluster["pods"]`` is the cache of pods.

    Parameters
    ----------
    resources
        The collections to keep, of `PATHS`.
    """

    def __init__(self, api: Api, clock: Clock, resources: Iterable[str]) -> None:
        self.api = api
        self.clock = clock
        self.recorder = Recorder(api, clock)
        # leases of nodes are the only ones that a controller asks for
        self._caches = {name: Cache(api, PATHS[name]) for name in dict.fromkeys(resources)}

    def __getitem__(self, resource: str) -> Cache:
        return self._caches[resource]

    def caches(self) -> list[Cache]:
        """All caches."""
        return [*self._caches.values()]

    def now(self) -> datetime:
        """The time by the controllers' clock."""
        return self.clock.now()

    def stamp(self) -> str:
        """The time as the API writes it."""
        return stamp(self.clock.now())

    def since(self, text: str | None) -> float:
        """Seconds from a time in an object until now; 0 where there is none."""
        return (self.clock.now() - datetime.fromisoformat(text)).total_seconds() if text else 0.0

    def exists(self, path: str) -> bool:
        """Whether the server itself knows an object that the caches do not."""
        try:
            self.api.get(path)
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    # --- writing; ApiError where the server refuses ---

    def create(self, obj: Object) -> Object:
        """Create an object; it as it is now."""
        made = self.api.create(obj)
        self._note(made)
        return made

    def replace(self, obj: Object, *, subresource: str = "") -> Object:
        """Replace an object (or its status) by `obj`, made from its resourceVersion; conflict (409) where that is old."""
        made = self.api.replace(obj, subresource=subresource)
        self._note(made)
        return made

    def write_status(self, obj: Object, status: Object) -> Object:
        """Write an object's status, where it differs from what it has; the object as it is now."""
        if obj.get("status", {}) == status:
            return obj
        return self.replace({**obj, "status": status}, subresource="status")

    def patch(
        self, obj: Object, body: object, type: Literal["merge", "strategic", "json"] = "strategic", *, subresource: str = ""
    ) -> Object:
        """Change a part of an object; it as it is now."""
        made = self.api.patch(self.path(obj), body, type, subresource=subresource)
        self._note(made)
        return made

    def delete(
        self, obj: Object, *, grace_seconds: int | None = None, propagation: Propagation | None = None, version: bool = False
    ) -> bool:
        """Delete this object, none that has got its name since; False where it was gone.

        Parameters
        ----------
        version
            Only if it is still as it is in `obj`.
        """
        metadata = obj["metadata"]
        preconditions = {"uid": metadata["uid"]} | ({"resourceVersion": metadata["resourceVersion"]} if version else {})
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        try:
            answer = self.api.request("DELETE", self.path(obj), options)
        except ApiError as error:
            if error.status == 404 or (error.status == 409 and "UID" in error.server_message):
                self.forget(obj)
                return False
            raise
        if answer.get("kind") == "Status" or not _stays(answer):
            self.forget(obj)
        else:
            self._note(answer)
        return True

    def path(self, obj: Object) -> str:
        """Where an object lives."""
        return self.api.path_of(obj)

    # --- telling ---

    def event(self, source: str, about: Object, kind: Kind, reason: str, message: str) -> None:
        """Record an event."""
        self.recorder.event(source, reference_to(about), kind, reason, message)

    def _note(self, obj: Object) -> None:
        cache = self._cache_of(obj)
        if cache is not None:
            cache.note(obj)

    def forget(self, obj: Object) -> None:
        """The object is known to be gone."""
        cache = self._cache_of(obj)
        if cache is not None:
            cache.forget(obj)

    def _cache_of(self, obj: Object) -> Cache | None:
        return self._caches.get(KINDS.get(obj.get("kind", ""), ""))


def _stays(obj: Object) -> bool:
    """Whether an object that a DELETE gave back is still there."""
    metadata = obj["metadata"]
    return bool(metadata.get("finalizers")) or (
        metadata.get("deletionTimestamp") is not None and metadata.get("deletionGracePeriodSeconds", 0) > 0
    )
