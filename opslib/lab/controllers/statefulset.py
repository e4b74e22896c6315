"""StatefulSets: pods with a name, an order and volumes of their own (pkg/controller/statefulset)."""

from __future__ import annotations

import copy
import re

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers import revisions
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import (
    claim,
    is_available,
    is_deleted,
    is_ready,
    itself,
    labels_of,
    name_of,
    namespace_of,
    owner_of_kind,
    owner_reference,
    pod_from,
    split,
    uid_of,
)
from opslib.lab.controllers.replicaset import soonest
from opslib.lab.controllers.runner import Controller

SOURCE = "statefulset-controller"
REVISION = "controller-revision-hash"
_NAME = "statefulset.kubernetes.io/pod-name"
_INDEX = "apps.kubernetes.io/pod-index"
_HASH = "controller.kubernetes.io/hash"


class _Round:
    """One round for one set."""

    def __init__(self, cluster: Cluster, owner: Object) -> None:
        self.cluster = cluster
        self.owner = owner
        self.spec: Object = owner["spec"]
        self.first = int((self.spec.get("ordinals") or {}).get("start", 0))
        self.replicas = int(self.spec.get("replicas", 1))
        self.ordered = self.spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady"
        self.min_ready = int(self.spec.get("minReadySeconds", 0))
        pattern = re.compile(rf"{re.escape(name_of(owner))}-(\d+)")
        self.pods = {}
        for pod in claim(cluster, owner, "pods", lambda pod: pattern.fullmatch(name_of(pod)) is not None):
            match = pattern.fullmatch(name_of(pod))
            assert match is not None
            self.pods[int(match[1])] = pod

    def run(self) -> float | None:
        cluster, owner = self.cluster, self.owner
        history = revisions.history_of(cluster, owner)
        data = revisions.data_of(owner)
        update, collisions = revisions.current(cluster, owner, history, lambda count: revisions.hash_of(data, count), _HASH)
        wanted = owner.get("status", {}).get("currentRevision")
        current = next((one for one in history if name_of(one) == wanted), update)
        failure: ApiError | None = None
        if not is_deleted(owner):
            try:
                self._manage(current, update)
            except ApiError as error:
                failure = error
        owner = cluster.write_status(owner, self._status(current, update, collisions))
        status = owner["status"]
        used = {status.get("currentRevision", ""), status.get("updateRevision", "")} | {_revision(pod) for pod in self.pods.values()}
        revisions.truncate(cluster, owner, revisions.history_of(cluster, owner), used)
        if failure is not None:
            raise failure
        return soonest(cluster, list(self.pods.values()), self.min_ready)

    # --- pods ---

    def _manage(self, current: Object, update: Object) -> None:
        ordinals = range(self.first, self.first + self.replicas)
        condemned = sorted((number for number in self.pods if number not in ordinals), reverse=True)
        unhealthy = [number for number in [*ordinals, *reversed(condemned)] if not self._is_well(number)]
        failure: ApiError | None = None
        for number in ordinals:
            try:
                if self._process(number, current, update) and self.ordered:
                    return
            except ApiError as error:
                if self.ordered:
                    raise
                failure = error
        if failure is not None:
            raise failure
        for number in condemned:
            pod = self.pods[number]
            if is_deleted(pod):
                if self.ordered:
                    return
                continue
            if self.ordered and not self._is_well(number) and number != unhealthy[0]:
                return
            self._delete(number)
            if self.ordered:
                return
        if self.spec.get("updateStrategy", {}).get("type") == "OnDelete":
            return
        partition = (self.spec.get("updateStrategy", {}).get("rollingUpdate") or {}).get("partition", 0)
        for number in reversed(ordinals):
            if number - self.first < partition:
                return
            pod = self.pods[number]
            if _revision(pod) != name_of(update) and not is_deleted(pod):
                self._delete(number)
                return
            if not self._is_well(number):
                return

    def _process(self, number: int, current: Object, update: Object) -> bool:
        """Make or mend one replica; whether the next ones have to wait for it."""
        pod = self.pods.get(number)
        if pod is not None and pod.get("status", {}).get("phase") in ("Failed", "Succeeded"):
            if not is_deleted(pod):
                self._delete(number)
            return True
        if pod is None:
            if self._claims_are_going(number):
                return True
            self._create(number, current, update)
            return True
        if pod.get("status", {}).get("phase") == "Pending":
            self._make_claims(number)
        return not self._is_well(number)

    def _is_well(self, number: int) -> bool:
        pod = self.pods.get(number)
        if pod is None or is_deleted(pod) or pod.get("status", {}).get("phase") != "Running" or not is_ready(pod):
            return False
        return is_available(self.cluster, pod, self.min_ready)

    def _create(self, number: int, current: Object, update: Object) -> None:
        strategy = self.spec.get("updateStrategy", {})
        partition = (strategy.get("rollingUpdate") or {}).get("partition")
        limit = partition if partition is not None else self.owner.get("status", {}).get("currentReplicas", 0)
        old = strategy.get("type", "RollingUpdate") == "RollingUpdate" and number - self.first < limit
        revision = current if old else update
        name = f"{name_of(self.owner)}-{number}"
        pod = pod_from(revisions.template_of(revision), self.owner, name=name)
        pod["metadata"]["labels"] = {**(pod["metadata"].get("labels") or {}), REVISION: name_of(revision), _NAME: name, _INDEX: str(number)}
        pod["metadata"]["generateName"] = f"{name_of(self.owner)}-"
        pod["spec"] |= {"hostname": name, "subdomain": self.spec.get("serviceName", "")}
        if not pod["spec"]["subdomain"]:
            del pod["spec"]["subdomain"]
        templates = {one["metadata"]["name"]: f"{one['metadata']['name']}-{name}" for one in self.spec.get("volumeClaimTemplates") or ()}
        volumes = [one for one in pod["spec"].get("volumes") or () if one["name"] not in templates]
        volumes = [{"name": key, "persistentVolumeClaim": {"claimName": value}} for key, value in templates.items()] + volumes
        if volumes:
            pod["spec"]["volumes"] = volumes
        try:
            self._make_claims(number)
            self.pods[number] = self.cluster.create(pod)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                message = f"create Pod {name} in StatefulSet {name_of(self.owner)} failed error: {error.server_message}"
                self._event("Warning", "FailedCreate", message)
            raise
        self._event("Normal", "SuccessfulCreate", f"create Pod {name} in StatefulSet {name_of(self.owner)} successful")

    def _delete(self, number: int) -> None:
        pod = self.pods[number]
        what = f"delete Pod {name_of(pod)} in StatefulSet {name_of(self.owner)}"
        try:
            self.cluster.delete(pod)
        except ApiError as error:
            self._event("Warning", "FailedDelete", f"{what} failed error: {error.server_message}")
            raise
        self._event("Normal", "SuccessfulDelete", f"{what} successful")
        left = self.cluster["pods"].by_uid(uid_of(pod))
        if left is None:
            del self.pods[number]
        else:
            self.pods[number] = left

    def _event(self, kind: str, reason: str, message: str) -> None:
        message = message[0].upper() + message[1:]
        self.cluster.event(SOURCE, self.owner, "Normal" if kind == "Normal" else "Warning", reason, message)

    # --- claims ---

    def _claim_name(self, template: Object, number: int) -> str:
        return f"{template['metadata']['name']}-{name_of(self.owner)}-{number}"

    def _claims_are_going(self, number: int) -> bool:
        """A claim that waits for its end would be gone from under the new pod."""
        for template in self.spec.get("volumeClaimTemplates") or ():
            there = self.cluster["persistentvolumeclaims"].get(namespace_of(self.owner), self._claim_name(template, number))
            if there is not None and is_deleted(there):
                return True
        return False

    def _make_claims(self, number: int) -> None:
        selector_labels = self.spec["selector"].get("matchLabels") or {}
        for template in self.spec.get("volumeClaimTemplates") or ():
            name = self._claim_name(template, number)
            if self.cluster["persistentvolumeclaims"].get(namespace_of(self.owner), name) is not None:
                continue
            metadata = copy.deepcopy(template["metadata"])
            metadata.pop("creationTimestamp", None)
            metadata |= {
                "name": name,
                "namespace": namespace_of(self.owner),
                "labels": {**(metadata.get("labels") or {}), **selector_labels},
            }
            body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}
            policy = self.spec.get("persistentVolumeClaimRetentionPolicy") or {}
            if policy.get("whenDeleted") == "Delete":
                metadata["ownerReferences"] = [owner_reference(self.owner)]
            pod = f"{name_of(self.owner)}-{number}"
            try:
                self.cluster.create(body)
            except ApiError as error:
                if error.reason == "AlreadyExists":
                    continue
                what = f"create Claim {name} for Pod {pod} in StatefulSet {name_of(self.owner)} failed error: {error.server_message}"
                self._event("Warning", "FailedCreate", what)
                raise
            self._event("Normal", "SuccessfulCreate", f"create Claim {name} Pod {pod} in StatefulSet {name_of(self.owner)} success")

    # --- status ---

    def _status(self, current: Object, update: Object, collisions: int) -> Object:
        pods = list(self.pods.values())
        running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running" and is_ready(pod)]
        staying = [pod for pod in pods if not is_deleted(pod)]
        status = {
            "observedGeneration": self.owner["metadata"].get("generation", 0),
            "replicas": len(pods),
            "readyReplicas": len(running),
            "availableReplicas": sum(is_available(self.cluster, pod, self.min_ready) for pod in running),
            "currentReplicas": sum(_revision(pod) == name_of(current) for pod in staying),
            "updatedReplicas": sum(_revision(pod) == name_of(update) for pod in staying),
            "currentRevision": name_of(current),
            "updateRevision": name_of(update),
            "collisionCount": collisions,
        }
        rolling = self.spec.get("updateStrategy", {}).get("type", "RollingUpdate") == "RollingUpdate"
        if rolling and status["updatedReplicas"] == status["replicas"] == status["readyReplicas"] == self.replicas:
            status |= {"currentReplicas": status["updatedReplicas"], "currentRevision": status["updateRevision"]}
        always = ("replicas", "availableReplicas", "collisionCount")
        return {name: value for name, value in status.items() if value or name in always}


def _revision(pod: Object) -> str:
    return labels_of(pod).get(REVISION, "")


def _reconcile(cluster: Cluster, key: str) -> float | None:
    owner = cluster["statefulsets.apps"].get(*split(key))
    return _Round(cluster, owner).run() if owner is not None else None


def _of_claim(cluster: Cluster, claim_object: Object) -> list[str]:
    namespace, name = namespace_of(claim_object), name_of(claim_object)
    return [
        f"{namespace}/{name_of(owner)}"
        for owner in cluster["statefulsets.apps"].list(namespace)
        if any(name.startswith(f"{one['metadata']['name']}-{name_of(owner)}-") for one in owner["spec"].get("volumeClaimTemplates") or ())
    ]


STATEFUL_SET = Controller(
    name="statefulset",
    reconcile=_reconcile,
    watches={
        "statefulsets.apps": itself,
        "pods": owner_of_kind("StatefulSet"),
        "controllerrevisions.apps": lambda cluster, obj: (),
        "persistentvolumeclaims": _of_claim,
    },
)
