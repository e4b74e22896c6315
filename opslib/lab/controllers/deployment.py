"""Deployments: replica sets by template, rolling and recreating updates, history, progress (pkg/controller/deployment)."""

from __future__ import annotations

import copy
from typing import Any

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.clock import parse
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.hashing import template_hash
from opslib.lab.controllers.objects import (
    annotations_of,
    claim,
    condition_of,
    controller_of,
    created,
    is_deleted,
    is_terminating,
    itself,
    name_of,
    namespace_of,
    owner_of_kind,
    owner_reference,
    quoted,
    scaled,
    split,
    uid_of,
    with_condition,
    without_condition,
)
from opslib.lab.controllers.runner import Controller

SOURCE = "deployment-controller"
HASH = "pod-template-hash"
_REVISION = "deployment.kubernetes.io/revision"
_HISTORY = "deployment.kubernetes.io/revision-history"
_DESIRED = "deployment.kubernetes.io/desired-replicas"
_MAX = "deployment.kubernetes.io/max-replicas"
_NOT_COPIED = {
    "kubectl.kubernetes.io/last-applied-configuration",
    _REVISION,
    _HISTORY,
    _DESIRED,
    _MAX,
    "deprecated.deployment.rollback.to",
}
_HISTORY_LENGTH = 2000
_NEVER = 2**31 - 1


class _Rollout:
    """One round for one deployment. `deployment` is a copy of its own, written back where it says so."""

    def __init__(self, cluster: Cluster, deployment: Object) -> None:
        self.cluster = cluster
        self.deployment = copy.deepcopy(deployment)
        self.spec: Object = self.deployment["spec"]
        self.status: Object = self.deployment.setdefault("status", {})
        sets = claim(cluster, deployment, "replicasets.apps")
        self.sets = sorted(sets, key=lambda one: (created(one), name_of(one)))

    # --- what is asked ---

    @property
    def replicas(self) -> int:
        return int(self.spec["replicas"])

    @property
    def is_rolling(self) -> bool:
        return bool(self.spec["strategy"]["type"] == "RollingUpdate")

    @property
    def surge(self) -> int:
        return self._fenceposts()[0]

    @property
    def unavailable(self) -> int:
        return min(self._fenceposts()[1], self.replicas) if self.replicas else 0

    def _fenceposts(self) -> tuple[int, int]:
        if not self.is_rolling:
            return 0, 0
        rolling = self.spec["strategy"].get("rollingUpdate") or {}
        surge = scaled(rolling.get("maxSurge"), self.replicas, up=True)
        unavailable = scaled(rolling.get("maxUnavailable"), self.replicas, up=False)
        return surge, unavailable if surge or unavailable else 1

    @property
    def has_deadline(self) -> bool:
        return self.spec.get("progressDeadlineSeconds") not in (None, _NEVER)

    def event(self, kind: Any, reason: str, message: str) -> None:
        self.cluster.event(SOURCE, self.deployment, kind, reason, message)

    # --- the round ---

    def run(self) -> float | None:
        if is_deleted(self.deployment):
            new, old = self.find(create=False)
            self.write(self.counted(new, old))
            return None
        self._note_pause()
        if self.spec.get("paused"):
            return self._sync()
        if self._is_scaling():
            return self._sync()
        return self._roll() if self.is_rolling else self._recreate()

    def _sync(self) -> float | None:
        new, old = self.find(create=False)
        old = self._scale(new, old)
        if self.spec.get("paused"):
            self._clean(old)
        new = self._fresh(new)
        self.write(self.counted(new, [self._fresh(one) or one for one in old]))
        return None

    def _roll(self) -> float | None:
        new, old = self.find(create=True)
        assert new is not None
        everything = [*old, new]
        changed = False
        if _size(new) > self.replicas:
            changed = self._resize(new, self.replicas)
        elif _size(new) < self.replicas:
            changed = self._resize(new, self._room_for(new, everything))
        if not changed:
            changed = self._shrink_old(new, old)
        if not changed and self._is_complete(self.status):
            self._clean(old)
        return self._report(new, old)

    def _recreate(self) -> float | None:
        new, old = self.find(create=False)
        scaled_down = False
        for one in old:
            scaled_down |= self._resize(one, 0)
        if scaled_down or self._old_runs(new, old):
            return self._report(new, old)
        if new is None:
            new, old = self.find(create=True)
        assert new is not None
        self._resize(new, self.replicas)
        if self._is_complete(self.status):
            self._clean(old)
        return self._report(new, old)

    def _old_runs(self, new: Object | None, old: list[Object]) -> bool:
        if any(one.get("status", {}).get("replicas") for one in old):
            return True
        return any(
            pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")
            for one in old
            if new is None or uid_of(one) != uid_of(new)
            for pod in self.cluster["pods"].owned(uid_of(one))
        )

    # --- replica sets ---

    def find(self, *, create: bool) -> tuple[Object | None, list[Object]]:
        """The replica set of the template as it is now, its revision in order (made where wished), and all others."""
        wanted = _without_hash(self.spec["template"])
        new = next((one for one in self.sets if _without_hash(one["spec"]["template"]) == wanted), None)
        old = [one for one in self.sets if new is None or uid_of(one) != uid_of(new)]
        revision = max((_revision(one) for one in old), default=0) + 1
        if new is not None:
            return self._in_order(new, revision), old
        return (self._make(old, revision) if create else None), old

    def _in_order(self, new: Object, revision: int) -> Object:
        annotations = self._annotations(new, revision)
        ready_seconds = self.spec.get("minReadySeconds", 0)
        if annotations != annotations_of(new) or new["spec"].get("minReadySeconds", 0) != ready_seconds:
            spec = {**new["spec"], "minReadySeconds": ready_seconds}
            changed = {**new, "metadata": {**new["metadata"], "annotations": annotations}, "spec": spec}
            return self._replace(new, changed)
        changed_self = self._set_revision(annotations.get(_REVISION, ""))
        if self.has_deadline and not condition_of(self.deployment, "Progressing"):
            self._progress(self.status, "True", "FoundNewReplicaSet", f"Found new replica set {quoted(name_of(new))}")
            changed_self = True
        if changed_self:
            self._save()
        return new

    def _annotations(self, replica_set: Object, revision: int) -> dict[str, str]:
        annotations = dict(annotations_of(replica_set))
        annotations |= {name: value for name, value in annotations_of(self.deployment).items() if name not in _NOT_COPIED}
        before = annotations.get(_REVISION)
        if before is not None and not before.isdigit():
            return annotations
        if int(before or 0) < revision:
            annotations[_REVISION] = str(revision)
            if before is not None:
                history = [one for one in annotations.get(_HISTORY, "").split(",") if one]
                while history and len(",".join([*history, before])) > _HISTORY_LENGTH:
                    history.pop(0)
                annotations[_HISTORY] = ",".join([*history, before])
        return annotations

    def _make(self, old: list[Object], revision: int) -> Object:
        deployment, template = self.deployment, copy.deepcopy(self.spec["template"])
        hashed = template_hash(template, self.status.get("collisionCount"))
        template.setdefault("metadata", {})["labels"] = {**(template["metadata"].get("labels") or {}), HASH: hashed}
        selector = copy.deepcopy(self.spec["selector"])
        selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH: hashed}
        name = f"{name_of(deployment)[: 253 - 1 - len(hashed)]}-{hashed}"
        new: Object = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": namespace_of(deployment),
                "labels": template["metadata"]["labels"],
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {"replicas": 0, "minReadySeconds": self.spec.get("minReadySeconds", 0), "selector": selector, "template": template},
        }
        size = self._room_for(new, [*old, new])
        new["spec"]["replicas"] = size
        new["metadata"]["annotations"] = self._annotations(new, revision) | self._size_annotations()
        try:
            made = self.cluster.create(new)
        except ApiError as error:
            return self._not_made(new, error, revision)
        self.sets.append(made)
        if size > 0:
            self.event("Normal", "ScalingReplicaSet", f"Scaled up replica set {name} from 0 to {size}")
        self._set_revision(str(revision))
        if self.has_deadline:
            self._progress(self.status, "True", "NewReplicaSetCreated", f"Created new replica set {quoted(name)}")
        self._save()
        return made

    def _not_made(self, new: Object, error: ApiError, revision: int) -> Object:
        if error.reason == "AlreadyExists":
            there = self.cluster.api.get(self.cluster.path(new))
            owner = controller_of(there)
            same = owner is not None and owner["uid"] == uid_of(self.deployment)
            if same and _without_hash(there["spec"]["template"]) == _without_hash(self.spec["template"]):
                self.cluster["replicasets.apps"].note(there)
                self.sets.append(there)
                if self._set_revision(str(revision)):
                    self._save()
                return there
            self.status["collisionCount"] = self.status.get("collisionCount", 0) + 1
            self._save()
            raise error
        if not is_terminating(error):
            message = f"Failed to create new replica set {quoted(name_of(new))}: {error.server_message}"
            if self.has_deadline:
                self._progress(self.status, "False", "ReplicaSetCreateError", message)
                self._save()
            self.event("Warning", "ReplicaSetCreateError", message)
        raise error

    def _room_for(self, new: Object, everything: list[Object]) -> int:
        """How many replicas the new set may have now (``NewRSNewReplicas``)."""
        if not self.is_rolling:
            return self.replicas
        surge = scaled((self.spec["strategy"].get("rollingUpdate") or {}).get("maxSurge"), self.replicas, up=True)
        room = self.replicas + surge - sum(_size(one) for one in everything)
        return _size(new) if room <= 0 else _size(new) + min(room, self.replicas - _size(new))

    def _size_annotations(self) -> dict[str, str]:
        return {_DESIRED: str(self.replicas), _MAX: str(self.replicas + self.surge)}

    def _resize(self, replica_set: Object, size: int, *, force: bool = False) -> bool:
        """Scale a replica set; whether its size changed. The object in `self.sets` is the new one then."""
        before = _size(replica_set)
        if before == size and not force:
            return False
        annotations = annotations_of(replica_set) | self._size_annotations()
        if before == size and annotations == annotations_of(replica_set):
            return False
        changed = {
            **replica_set,
            "metadata": {**replica_set["metadata"], "annotations": annotations},
            "spec": {**replica_set["spec"], "replicas": size},
        }
        self._replace(replica_set, changed)
        if before != size:
            word = "up" if before < size else "down"
            self.event("Normal", "ScalingReplicaSet", f"Scaled {word} replica set {name_of(replica_set)} from {before} to {size}")
        return before != size

    def _replace(self, before: Object, after: Object) -> Object:
        made = self.cluster.replace(after)
        self.sets = [made if uid_of(one) == uid_of(before) else one for one in self.sets]
        return made

    def _fresh(self, one: Object | None) -> Object | None:
        if one is None:
            return None
        return next((other for other in self.sets if uid_of(other) == uid_of(one)), one)

    def _shrink_old(self, new: Object, old: list[Object]) -> bool:
        """Scale old replica sets down as far as availability allows: what is unhealthy first."""
        active = [one for one in old if _size(one)]
        if not active:
            return False
        new = self._fresh(new) or new
        least = self.replicas - self.unavailable
        new_unavailable = _size(new) - new.get("status", {}).get("availableReplicas", 0)
        most = sum(_size(one) for one in [*old, new]) - least - new_unavailable
        if most <= 0:
            return False
        done = 0
        for one in active:
            unhealthy = _size(one) - one.get("status", {}).get("availableReplicas", 0)
            if done >= most or unhealthy <= 0:
                continue
            step = min(most - done, unhealthy)
            self._resize(one, _size(one) - step)
            done += step
        active = [self._fresh(one) or one for one in active]
        spare = sum(one.get("status", {}).get("availableReplicas", 0) for one in [*active, new]) - least
        down = 0
        for one in active:
            if down >= spare:
                break
            step = min(_size(one), spare - down)
            if step > 0:
                self._resize(one, _size(one) - step)
                down += step
        return done + down > 0

    def _is_scaling(self) -> bool:
        new, old = self.find(create=False)
        for one in [*old, *([new] if new is not None else [])]:
            desired = annotations_of(one).get(_DESIRED, "")
            if _size(one) and desired.isdigit() and int(desired) != self.replicas:
                return True
        return False

    def _scale(self, new: Object | None, old: list[Object]) -> list[Object]:
        """Scale in proportion, so that a rollout neither hurries nor stops when its deployment is scaled (``scale``)."""
        everything = [*old, *([new] if new is not None else [])]
        active = [one for one in everything if _size(one)]
        if everything and len(active) <= 1:
            newest = sorted(old, key=created, reverse=True)
            self._resize(active[0] if active else new if new is not None else newest[0], self.replicas)
        elif new is not None and self._is_saturated(new):
            for one in old:
                self._resize(one, 0)
        elif self.is_rolling and active:
            allowed = self.replicas + self.surge if self.replicas else 0
            self._spread(active, allowed - sum(_size(one) for one in active))
        return old

    def _is_saturated(self, new: Object) -> bool:
        available = new.get("status", {}).get("availableReplicas", 0)
        return _size(new) == self.replicas == available and annotations_of(new).get(_DESIRED) == str(self.replicas)

    def _spread(self, active: list[Object], to_add: int) -> None:
        if to_add > 0:
            active = sorted(sorted(active, key=created, reverse=True), key=_size, reverse=True)
        else:
            active = sorted(sorted(active, key=created), key=_size, reverse=True)
        sizes, added = {}, 0
        for one in active:
            share = 0
            if to_add and to_add != added:
                fraction, allowed = self._fraction(one), to_add - added
                share = min(fraction, allowed) if to_add > 0 else max(fraction, allowed)
            sizes[uid_of(one)] = _size(one) + share
            added += share
        for number, one in enumerate(active):
            size = sizes[uid_of(one)]
            if number == 0 and to_add:
                size = max(0, size + to_add - added)
            self._resize(one, size, force=True)

    def _fraction(self, one: Object) -> int:
        if not self.replicas:
            return -_size(one)
        text = annotations_of(one).get(_MAX, "")
        before = int(text) if text.isdigit() else 0
        before = before or self.status.get("replicas", 0)
        if not before:
            return 0
        exact = _size(one) * (self.replicas + self.surge) / before
        return int(exact + 0.5) - _size(one)

    def _clean(self, old: list[Object]) -> None:
        limit = self.spec.get("revisionHistoryLimit")
        if limit in (None, _NEVER):
            return
        alive = sorted((one for one in old if not is_deleted(one)), key=lambda one: (_revision(one), created(one)))
        for one in alive[: max(0, len(alive) - int(limit))]:
            status, metadata = one.get("status", {}), one["metadata"]
            if status.get("replicas") or _size(one) or metadata.get("generation", 0) > status.get("observedGeneration", 0):
                continue
            self.cluster.delete(one)

    # --- status ---

    def counted(self, new: Object | None, old: list[Object]) -> Object:
        """The status that follows from the replica sets."""
        everything = [one.get("status", {}) for one in [*old, *([new] if new is not None else [])]]
        wanted = sum(_size(one) for one in [*old, *([new] if new is not None else [])])
        available = sum(one.get("availableReplicas", 0) for one in everything)
        enough = available >= self.replicas - self.unavailable
        word, text = ("Available", "has") if enough else ("Unavailable", "does not have")
        conditions = with_condition(
            self.status.get("conditions") or [],
            self._condition("Available", str(enough), f"MinimumReplicas{word}", f"Deployment {text} minimum availability."),
        )
        terminating: int | None = 0
        for one in everything:
            if "terminatingReplicas" in one and terminating is not None:
                terminating += one["terminatingReplicas"]
            elif one.get("observedGeneration"):
                terminating = None
        status = {
            "observedGeneration": self.deployment["metadata"].get("generation", 0),
            "replicas": sum(one.get("replicas", 0) for one in everything),
            "updatedReplicas": (new or {}).get("status", {}).get("replicas", 0),
            "readyReplicas": sum(one.get("readyReplicas", 0) for one in everything),
            "availableReplicas": available,
            "unavailableReplicas": max(0, wanted - available),
            "collisionCount": self.status.get("collisionCount"),
            "conditions": conditions,
        }
        found = {name: value for name, value in status.items() if value}
        return found if terminating is None else found | {"terminatingReplicas": terminating}

    def _report(self, new: Object | None, old: list[Object]) -> float | None:
        """Write the status with the rollout's progress (``syncRolloutStatus``); seconds until its deadline is to be looked at."""
        new, old = self._fresh(new), [self._fresh(one) or one for one in old]
        status = self.counted(new, old)
        current = condition_of(self.deployment, "Progressing")
        if not self.has_deadline:
            status["conditions"] = without_condition(status["conditions"], "Progressing")
        done = status.get("replicas", 0) == status.get("updatedReplicas", 0) and current.get("reason") == "NewReplicaSetAvailable"
        if self.has_deadline and not done:
            what = f"ReplicaSet {quoted(name_of(new))}" if new is not None else f"Deployment {quoted(name_of(self.deployment))}"
            if self._is_complete(status):
                self._progress(status, "True", "NewReplicaSetAvailable", f"{what} has successfully progressed.")
            elif self._has_progressed(status):
                condition = self._condition("Progressing", "True", "ReplicaSetUpdated", f"{what} is progressing.")
                if current.get("status") == "True":
                    condition["lastTransitionTime"] = current["lastTransitionTime"]
                status["conditions"] = [*without_condition(status["conditions"], "Progressing"), condition]
            elif self._is_late(status):
                self._progress(status, "False", "ProgressDeadlineExceeded", f"{what} has timed out progressing.")
        failed = [
            condition_of(one, "ReplicaFailure")
            for one in ([new] if new is not None and condition_of(new, "ReplicaFailure") else [*old, *([new] if new is not None else [])])
        ]
        failed = [one for one in failed if one]
        if failed:
            failure = failed[0]
            condition = {**failure, "lastUpdateTime": failure["lastTransitionTime"]}
            status["conditions"] = with_condition(status["conditions"], condition)
        else:
            status["conditions"] = without_condition(status["conditions"], "ReplicaFailure")
        before = self.status
        self.write(status)
        current = next((one for one in before.get("conditions") or [] if one["type"] == "Progressing"), {})
        if not self.has_deadline or not current or self._is_complete(status) or current["reason"] == "ProgressDeadlineExceeded":
            return None
        left = self.spec["progressDeadlineSeconds"] - self.cluster.since(current["lastUpdateTime"])
        return left + 1 if left >= 1 else 0.2

    def _is_complete(self, status: Object) -> bool:
        same = all(status.get(name, 0) == self.replicas for name in ("updatedReplicas", "replicas", "availableReplicas"))
        return same and bool(status.get("observedGeneration", 0) >= self.deployment["metadata"].get("generation", 0))

    def _has_progressed(self, status: Object) -> bool:
        def count(one: Object, name: str) -> int:
            return int(one.get(name, 0))

        before = self.status
        old_before = count(before, "replicas") - count(before, "updatedReplicas")
        old_now = count(status, "replicas") - count(status, "updatedReplicas")
        return old_now < old_before or any(
            count(status, name) > count(before, name) for name in ("updatedReplicas", "readyReplicas", "availableReplicas")
        )

    def _is_late(self, status: Object) -> bool:
        current = next((one for one in status["conditions"] if one["type"] == "Progressing"), None)
        if current is None or current["reason"] == "NewReplicaSetAvailable":
            return False
        if current["reason"] == "ProgressDeadlineExceeded":
            return True
        passed = (self.cluster.now() - parse(current["lastUpdateTime"])).total_seconds()
        return bool(passed > self.spec["progressDeadlineSeconds"])

    def _note_pause(self) -> None:
        current = condition_of(self.deployment, "Progressing")
        if not self.has_deadline or current.get("reason") == "ProgressDeadlineExceeded":
            return
        paused, noted = bool(self.spec.get("paused")), current.get("reason") == "DeploymentPaused"
        if paused != noted:
            word = "Paused" if paused else "Resumed"
            self._progress(self.status, "Unknown", f"Deployment{word}", f"Deployment is {word.lower()}")
            self._save()

    def _condition(self, kind: str, status: str, reason: str, message: str) -> Object:
        now = self.cluster.stamp()
        times = {"lastUpdateTime": now, "lastTransitionTime": now}
        return {"type": kind, "status": status, **times, "reason": reason, "message": message}

    def _progress(self, status: Object, word: str, reason: str, message: str) -> None:
        status["conditions"] = with_condition(status.get("conditions") or [], self._condition("Progressing", word, reason, message))

    def _set_revision(self, revision: str) -> bool:
        annotations = self.deployment["metadata"].get("annotations") or {}
        if annotations.get(_REVISION) == revision:
            return False
        self.deployment["metadata"]["annotations"] = {**annotations, _REVISION: revision}
        return True

    def write(self, status: Object) -> None:
        """Write the status where it changed."""
        if status != self.status:
            self.deployment["status"] = self.status = status
            self._save()

    def _save(self) -> None:
        """Write status and annotations: both go by the status (as the real one does it, so that no generation is made)."""
        made = self.cluster.replace(self.deployment, subresource="status")
        self.deployment = copy.deepcopy(made)
        self.spec = self.deployment["spec"]
        self.status = self.deployment.setdefault("status", {})


def _size(replica_set: Object) -> int:
    return int(replica_set["spec"].get("replicas", 1))


def _revision(replica_set: Object) -> int:
    text = annotations_of(replica_set).get(_REVISION, "0")
    return int(text) if text.isdigit() else 0


def _without_hash(template: Object) -> Object:
    metadata = template.get("metadata") or {}
    labels = {name: value for name, value in (metadata.get("labels") or {}).items() if name != HASH}
    metadata = {name: value for name, value in metadata.items() if name != "creationTimestamp" and value}
    return {**template, "metadata": {**metadata, "labels": labels}}


def _reconcile(cluster: Cluster, key: str) -> float | None:
    deployment = cluster["deployments.apps"].get(*split(key))
    if deployment is None:
        return None
    if deployment["spec"].get("selector") == {}:
        message = "This deployment is selecting all pods. A non-empty selector is required."
        cluster.event(SOURCE, deployment, "Warning", "SelectingAll", message)
        return None
    return _Rollout(cluster, deployment).run()


def _of_pod(cluster: Cluster, pod: Object) -> list[str]:
    """A pod that goes away may be what a recreating deployment waits for."""
    owner = controller_of(pod)
    if owner is None or owner["kind"] != "ReplicaSet":
        return []
    replica_set = cluster["replicasets.apps"].by_uid(owner["uid"])
    above = controller_of(replica_set) if replica_set is not None else None
    if above is None or above["kind"] != "Deployment":
        return []
    deployment = cluster["deployments.apps"].get(namespace_of(pod), above["name"])
    waits = deployment is not None and deployment["spec"]["strategy"]["type"] == "Recreate"
    return [f"{namespace_of(pod)}/{above['name']}"] if waits else []


DEPLOYMENT = Controller(
    name="deployment",
    reconcile=_reconcile,
    watches={"deployments.apps": itself, "replicasets.apps": owner_of_kind("Deployment"), "pods": _of_pod},
)
