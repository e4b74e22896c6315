"""Claims and volumes: bound to each other, lost, given back, and kept while in use (pkg/controller/volume: persistentvolume, pvcprotection,
pvprotection, ephemeral). Volumes are made and thrown away by whoever plays the storage driver, as in a real cluster.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from decimal import Decimal

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import (
    annotations_of,
    from_object,
    is_deleted,
    itself,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    quoted,
    split,
    uid_of,
)
from opslib.lab.controllers.runner import Controller
from opslib.lab.kube.quantities import parse

SOURCE = "persistentvolume-controller"
BOUND_BY = "pv.kubernetes.io/bound-by-controller"
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
SELECTED = "volume.kubernetes.io/selected-node"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
PROVISIONERS = ("volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner")
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_AGAIN_SECONDS = 15.0  # the real one goes through all claims so often, and tells again what is wrong


def claim_reference(claim: Object) -> Object:
    """How a volume names the claim that has it."""
    metadata = claim["metadata"]
    reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace_of(claim), "name": name_of(claim)}
    return reference | {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}


def class_of(claim: Object) -> str:
    """The name of a claim's storage class; "" for none."""
    legacy = annotations_of(claim).get("volume.beta.kubernetes.io/storage-class")
    return str(legacy if legacy is not None else claim["spec"].get("storageClassName") or "")


def is_for(volume: Object, claim: Object) -> bool:
    """Whether a volume is bound, or kept, for this claim (``IsVolumeBoundToClaim``)."""
    reference = volume["spec"].get("claimRef")
    if reference is None or reference["name"] != name_of(claim) or reference.get("namespace") != namespace_of(claim):
        return False
    return reference.get("uid") in (None, "", uid_of(claim))


def _mode(spec: Object) -> str:
    return str(spec.get("volumeMode") or "Filesystem")


def size_of(amounts: Object | None) -> Decimal:
    """The storage in a list of resources, in bytes; 0 where it says nothing of it."""
    return parse(str((amounts or {}).get("storage", "0")))


def best_match(claim: Object, volumes: Iterable[Object], *, only_kept: bool = False) -> Object | None:
    """The smallest volume that a claim can have; one that is kept for it goes first (``FindMatchingVolume``).

    Parameters
    ----------
    only_kept
        Take none that is free for everybody: the claim waits for its pod's node.
    """
    spec = claim["spec"]
    wanted, modes = size_of(spec.get("resources", {}).get("requests")), set(spec.get("accessModes") or ())
    matches = from_object(spec["selector"]) if spec.get("selector") is not None else None
    found: tuple[Decimal, str, Object] | None = None
    for volume in volumes:
        has = volume["spec"]
        size = size_of(has.get("capacity"))
        if _mode(has) != _mode(spec) or is_deleted(volume):
            continue
        if is_for(volume, claim):
            if size >= wanted:
                return volume
            continue
        if only_kept or has.get("claimRef") is not None or volume.get("status", {}).get("phase") != "Available" or size < wanted:
            continue
        if (has.get("storageClassName") or "") != class_of(claim) or not modes <= set(has.get("accessModes") or ()):
            continue
        if matches is not None and not matches(labels_of(volume)):
            continue
        if found is None or (size, name_of(volume)) < found[:2]:
            found = (size, name_of(volume), volume)
    return found[2] if found is not None else None


# --- claims -----------------------------------------------------------------------------------------------------------------------------


def _sync_claim(cluster: Cluster, key: str) -> float | None:
    claim = cluster["persistentvolumeclaims"].get(*split(key))
    if claim is None:
        return None
    if BIND_COMPLETED in annotations_of(claim):
        return _sync_bound(cluster, claim)
    return _sync_unbound(cluster, claim)


def _sync_bound(cluster: Cluster, claim: Object) -> float | None:
    name = claim["spec"].get("volumeName", "")
    volume = cluster["persistentvolumes"].get("", name) if name else None
    if volume is None:
        what = "its PersistentVolume" if name else "reference to PersistentVolume"
        _lose(cluster, claim, "ClaimLost", f"Bound claim has lost {what}. Data on the volume is lost!")
        return None
    reference = volume["spec"].get("claimRef")
    if reference is None or reference.get("uid") == uid_of(claim):
        _bind(cluster, volume, claim)
        return None
    _lose(cluster, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
    return None


def _lose(cluster: Cluster, claim: Object, reason: str, message: str) -> None:
    if claim.get("status", {}).get("phase") != "Lost":
        cluster.write_status(claim, {"phase": "Lost"})
        cluster.event(SOURCE, claim, "Warning", reason, message)


def _sync_unbound(cluster: Cluster, claim: Object) -> float | None:
    name = claim["spec"].get("volumeName")
    if name:
        return _sync_named(cluster, claim, name)
    found = cluster["storageclasses.storage.k8s.io"].get("", class_of(claim))
    delayed = found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"
    volume = best_match(claim, cluster["persistentvolumes"].list(), only_kept=delayed and SELECTED not in annotations_of(claim))
    if volume is not None:
        _bind(cluster, volume, claim)
        return None
    if _give_default_class(cluster, claim):
        return None
    if delayed and SELECTED not in annotations_of(claim):
        reason, message = "WaitForFirstConsumer", "waiting for first consumer to be created before binding"
        pods = [pod for pod in _users(cluster, claim) if not pod["spec"].get("nodeName")]
        if pods:
            names = ", ".join(sorted(name_of(pod) for pod in pods))
            word = "pod" if len(pods) == 1 else "pods"
            reason, message = "WaitForPodScheduled", f"waiting for {word} {names} to be scheduled"
        cluster.event(SOURCE, claim, "Normal", reason, message)
    elif class_of(claim):
        _provision(cluster, claim, found)
        return _AGAIN_SECONDS
    else:
        message = "no persistent volumes available for this claim and no storage class is set"
        cluster.event(SOURCE, claim, "Normal", "FailedBinding", message)
    _set_pending(cluster, claim)
    return _AGAIN_SECONDS


def _sync_named(cluster: Cluster, claim: Object, name: str) -> float | None:
    volume = cluster["persistentvolumes"].get("", name)
    if volume is None:
        _set_pending(cluster, claim)
        return None
    if volume["spec"].get("claimRef") is None:
        mismatch = _mismatch(volume, claim)
        if mismatch:
            cluster.event(SOURCE, claim, "Warning", "VolumeMismatch", f"Cannot bind to requested volume {quoted(name)}: {mismatch}")
            _set_pending(cluster, claim)
            return _AGAIN_SECONDS
        _bind(cluster, volume, claim)
    elif is_for(volume, claim):
        _bind(cluster, volume, claim)
    else:
        cluster.event(SOURCE, claim, "Warning", "FailedBinding", f"volume {quoted(name)} already bound to a different claim.")
        _set_pending(cluster, claim)
        return _AGAIN_SECONDS
    return None


def _mismatch(volume: Object, claim: Object) -> str:
    has, wants = volume["spec"], claim["spec"]
    if size_of(has.get("capacity")) < size_of(wants.get("resources", {}).get("requests")):
        return "requested PV is too small"
    if (has.get("storageClassName") or "") != class_of(claim):
        return "storageClassName does not match"
    if _mode(has) != _mode(wants):
        return "incompatible volumeMode"
    if not set(wants.get("accessModes") or ()) <= set(has.get("accessModes") or ()):
        return "incompatible accessMode"
    return ""


def _set_pending(cluster: Cluster, claim: Object) -> None:
    if claim.get("status", {}).get("phase") != "Pending":
        cluster.write_status(claim, {**claim.get("status", {}), "phase": "Pending"})


def _give_default_class(cluster: Cluster, claim: Object) -> bool:
    """A claim that says nothing of its class gets the default one, also when that came later."""
    if claim["spec"].get("storageClassName") is not None or "volume.beta.kubernetes.io/storage-class" in annotations_of(claim):
        return False
    defaults = [one for one in cluster["storageclasses.storage.k8s.io"].list() if annotations_of(one).get(_DEFAULT_CLASS) == "true"]
    if not defaults:
        return False
    newest = max(defaults, key=lambda one: (one["metadata"]["creationTimestamp"], name_of(one)))
    cluster.patch(claim, {"spec": {"storageClassName": name_of(newest)}}, "merge")
    return True


def _provision(cluster: Cluster, claim: Object, found: Object | None) -> None:
    if found is None and cluster.exists(f"/apis/storage.k8s.io/v1/storageclasses/{class_of(claim)}"):
        return  # made this moment: the watch is about to tell of it
    if found is None:
        message = f"storageclass.storage.k8s.io {quoted(class_of(claim))} not found"
        cluster.event(SOURCE, claim, "Warning", "ProvisioningFailed", message)
        _set_pending(cluster, claim)
        return
    provisioner = found["provisioner"]
    if provisioner in ("kubernetes.io/no-provisioner", ""):
        cluster.event(SOURCE, claim, "Warning", "ProvisioningFailed", f"no volume plugin matched name: {provisioner}")
        _set_pending(cluster, claim)
        return
    if any(annotations_of(claim).get(name) != provisioner for name in PROVISIONERS):
        claim = cluster.patch(claim, {"metadata": {"annotations": dict.fromkeys(PROVISIONERS, provisioner)}}, "merge")
    message = (
        f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. "
        "If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    )
    cluster.event(SOURCE, claim, "Normal", "ExternalProvisioning", message)
    _set_pending(cluster, claim)


def _bind(cluster: Cluster, volume: Object, claim: Object) -> None:
    """Volume first, then claim, so that what was interrupted can be taken up again."""
    reference = volume["spec"].get("claimRef") or {}
    if not is_for(volume, claim) or reference.get("uid") != uid_of(claim):
        made = copy.deepcopy(volume)
        if not reference:
            made["metadata"]["annotations"] = {**annotations_of(volume), BOUND_BY: "yes"}
        made["spec"]["claimRef"] = claim_reference(claim)
        volume = cluster.replace(made)
    if volume.get("status", {}).get("phase") != "Bound":
        volume = _set_phase(cluster, volume, "Bound")
    annotations = dict(annotations_of(claim))
    spec = claim["spec"]
    if spec.get("volumeName") != name_of(volume):
        spec = {**spec, "volumeName": name_of(volume)}
        annotations[BOUND_BY] = "yes"
    annotations[BIND_COMPLETED] = "yes"
    if annotations != annotations_of(claim) or spec != claim["spec"]:
        claim = cluster.replace({**claim, "metadata": {**claim["metadata"], "annotations": annotations}, "spec": spec})
    status = {**claim.get("status", {}), "phase": "Bound", "accessModes": volume["spec"]["accessModes"]}
    if "capacity" not in claim.get("status", {}) or claim["status"].get("phase") != "Bound":
        status["capacity"] = {"storage": volume["spec"]["capacity"]["storage"]}
    cluster.write_status(claim, status)


def _set_phase(cluster: Cluster, volume: Object, phase: str, *, message: str = "") -> Object:
    status = {"phase": phase, "lastPhaseTransitionTime": cluster.stamp()} | ({"message": message} if message else {})
    return cluster.write_status(volume, status)


# --- volumes ----------------------------------------------------------------------------------------------------------------------------


def _sync_volume(cluster: Cluster, key: str) -> float | None:
    volume = cluster["persistentvolumes"].get("", split(key)[1])
    if volume is None:
        return None
    phase = volume.get("status", {}).get("phase")
    reference = volume["spec"].get("claimRef")
    if reference is None or not reference.get("uid"):
        if phase != "Available":
            _set_phase(cluster, volume, "Available")
        return None
    claim = cluster["persistentvolumeclaims"].get(reference.get("namespace", ""), reference["name"])
    if claim is not None and uid_of(claim) == reference["uid"]:
        if claim["spec"].get("volumeName") == name_of(volume):
            if phase != "Bound":
                _set_phase(cluster, volume, "Bound")
        elif claim["spec"].get("volumeName") and BOUND_BY in annotations_of(volume):
            _unbind(cluster, volume)
        return None
    if claim is None and not _is_gone(cluster, reference):
        return 1.0
    if phase not in ("Released", "Failed"):
        volume = _set_phase(cluster, volume, "Released")
    _reclaim(cluster, volume)
    return None


def _is_gone(cluster: Cluster, reference: Object) -> bool:
    path = f"/api/v1/namespaces/{reference.get('namespace')}/persistentvolumeclaims/{reference['name']}"
    try:
        return bool(uid_of(cluster.api.get(path)) != reference["uid"])
    except ApiError as error:
        if error.status == 404:
            return True
        raise


def _unbind(cluster: Cluster, volume: Object) -> None:
    made = copy.deepcopy(volume)
    del made["spec"]["claimRef"]
    made["metadata"]["annotations"] = {name: value for name, value in annotations_of(volume).items() if name != BOUND_BY}
    cluster.replace(made)


def _reclaim(cluster: Cluster, volume: Object) -> None:
    if volume["spec"].get("persistentVolumeReclaimPolicy", "Retain") != "Delete" or volume.get("status", {}).get("phase") == "Failed":
        return
    if volume["spec"].get("csi") or PROVISIONED_BY in annotations_of(volume):
        return  # the storage driver deletes it
    message = f"error getting deleter volume plugin for volume {quoted(name_of(volume))}: no deletable volume plugin matched"
    _set_phase(cluster, volume, "Failed", message=message)
    cluster.event(SOURCE, volume, "Warning", "VolumeFailedDelete", message)


# --- who is concerned -------------------------------------------------------------------------------------------------------------------


def _claims_of_volume(cluster: Cluster, volume: Object) -> Iterable[str]:
    reference = volume["spec"].get("claimRef")
    if reference is not None:
        yield f"{reference.get('namespace', '')}/{reference['name']}"
    name = name_of(volume)
    for claim in cluster["persistentvolumeclaims"].list():
        wanted = claim["spec"].get("volumeName")
        if wanted == name or (reference is None and not wanted and (volume["spec"].get("storageClassName") or "") == class_of(claim)):
            yield key_of(claim)


def _claims_of_class(cluster: Cluster, found: Object) -> Iterable[str]:
    name, default = name_of(found), annotations_of(found).get(_DEFAULT_CLASS) == "true"
    for claim in cluster["persistentvolumeclaims"].list():
        if BIND_COMPLETED not in annotations_of(claim) and (class_of(claim) == name or (default and not class_of(claim))):
            yield key_of(claim)


def _volume_of_claim(_cluster: Cluster, claim: Object) -> Iterable[str]:
    name = claim["spec"].get("volumeName")
    return (f"/{name}",) if name else ()


CLAIMS = Controller(
    name="persistentvolumeclaim-binder",
    reconcile=_sync_claim,
    watches={
        "persistentvolumeclaims": itself,
        "persistentvolumes": _claims_of_volume,
        "storageclasses.storage.k8s.io": _claims_of_class,
    },
)
VOLUMES = Controller(
    name="persistentvolume-binder",
    reconcile=_sync_volume,
    watches={"persistentvolumes": itself, "persistentvolumeclaims": _volume_of_claim},
)


# --- growth -----------------------------------------------------------------------------------------------------------------------------


class _Expander:
    """Says of a claim that is to grow that somebody else must see to it: no driver of a volume is part of the cluster."""

    def __init__(self) -> None:
        self._said: dict[str, Decimal] = {}  # the size that was asked for last, by the claim's uid

    def reconcile(self, cluster: Cluster, key: str) -> None:
        claim = cluster["persistentvolumeclaims"].get(*split(key))
        if claim is None or claim.get("status", {}).get("phase") != "Bound":
            return
        wanted = size_of(claim["spec"]["resources"].get("requests"))
        if wanted <= size_of(claim["status"].get("capacity")):
            self._said.pop(uid_of(claim), None)
        elif self._said.get(uid_of(claim), Decimal(0)) < wanted:
            self._said[uid_of(claim)] = wanted
            cluster.event("volume_expand", claim, "Normal", "ExternalExpanding", "waiting for an external controller to expand this PVC")


def expander() -> Controller:
    """The controller of growing claims, new."""
    return Controller(name="persistentvolume-expander", reconcile=_Expander().reconcile, watches={"persistentvolumeclaims": itself})


# --- protection -------------------------------------------------------------------------------------------------------------------------


def claim_names(pod: Object) -> Iterable[str]:
    """The claims that a pod uses."""
    for volume in pod["spec"].get("volumes") or ():
        if volume.get("persistentVolumeClaim"):
            yield volume["persistentVolumeClaim"]["claimName"]
        elif volume.get("ephemeral"):
            yield f"{name_of(pod)}-{volume['name']}"


def _users(cluster: Cluster, claim: Object) -> list[Object]:
    """The pods that use a claim and have not ended."""
    return [
        pod
        for pod in cluster["pods"].list(namespace_of(claim))
        if name_of(claim) in claim_names(pod) and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]


def _protect(cluster: Cluster, obj: Object, finalizer: str, *, used: bool) -> None:
    there = obj["metadata"].get("finalizers") or []
    if is_deleted(obj):
        if finalizer in there and not used:
            left = [one for one in there if one != finalizer]
            body = {"metadata": {"uid": uid_of(obj), "resourceVersion": obj["metadata"]["resourceVersion"], "finalizers": left or None}}
            _patch_away(cluster, obj, body)
    elif finalizer not in there:
        cluster.patch(obj, {"metadata": {"uid": uid_of(obj), "finalizers": [finalizer]}})


def _patch_away(cluster: Cluster, obj: Object, body: Object) -> None:
    made = cluster.patch(obj, body, "merge")
    if is_deleted(made) and not made["metadata"].get("finalizers"):
        cluster.forget(made)


def _protect_claim(cluster: Cluster, key: str) -> None:
    claim = cluster["persistentvolumeclaims"].get(*split(key))
    if claim is not None:
        used = any(pod["spec"].get("nodeName") for pod in _users(cluster, claim))
        _protect(cluster, claim, "kubernetes.io/pvc-protection", used=used)


def _protect_volume(cluster: Cluster, key: str) -> None:
    volume = cluster["persistentvolumes"].get("", split(key)[1])
    if volume is not None:
        _protect(cluster, volume, "kubernetes.io/pv-protection", used=volume.get("status", {}).get("phase") == "Bound")


def _claims_of_pod(_cluster: Cluster, pod: Object) -> Iterable[str]:
    return [f"{namespace_of(pod)}/{name}" for name in claim_names(pod)]


CLAIM_PROTECTION = Controller(
    name="persistentvolumeclaim-protection",
    reconcile=_protect_claim,
    watches={"persistentvolumeclaims": itself, "pods": _claims_of_pod},
)
VOLUME_PROTECTION = Controller(name="persistentvolume-protection", reconcile=_protect_volume, watches={"persistentvolumes": itself})


# --- claims that live as long as their pod ----------------------------------------------------------------------------------------------


def _make_ephemeral(cluster: Cluster, key: str) -> None:
    pod = cluster["pods"].get(*split(key))
    if pod is None or is_deleted(pod):
        return
    for volume in pod["spec"].get("volumes") or ():
        if not volume.get("ephemeral"):
            continue
        name = f"{name_of(pod)}-{volume['name']}"
        there = cluster["persistentvolumeclaims"].get(namespace_of(pod), name)
        if there is None:
            template = volume["ephemeral"]["volumeClaimTemplate"]
            metadata = {**(template.get("metadata") or {}), "name": name, "namespace": namespace_of(pod)}
            metadata["ownerReferences"] = [owner_reference(pod)]
            cluster.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": template["spec"]})
        elif not any(one["uid"] == uid_of(pod) for one in there["metadata"].get("ownerReferences") or ()):
            message = f"ephemeral volume {volume['name']}: PVC {key_of(there)} was not created for pod {key_of(pod)} (pod is not owner)"
            cluster.event("ephemeral-volume-controller", pod, "Warning", "FailedBinding", message)


def _with_ephemeral(_cluster: Cluster, pod: Object) -> Iterable[str]:
    return (key_of(pod),) if any(volume.get("ephemeral") for volume in pod["spec"].get("volumes") or ()) else ()


EPHEMERAL = Controller(name="ephemeral-volume", reconcile=_make_ephemeral, watches={"pods": _with_ephemeral})
