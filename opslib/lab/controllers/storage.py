"""The storage driver of the lab: makes, grows, attaches and throws away volumes, as ebs.csi.aws.com's sidecars and the kubelets do.

No cluster brings a driver along, so this one runs on both engines. What the cluster's own controllers do of it (they bind, say that they
wait, ask for an attachment) is not here but in `volumes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import (
    annotations_of,
    is_deleted,
    itself,
    key_of,
    labels_of,
    name_of,
    namespace_of,
    split,
    uid_of,
    with_condition,
)
from opslib.lab.controllers.runner import Controller
from opslib.lab.controllers.volumes import PROVISIONED_BY, PROVISIONERS, SELECTED, claim_names, claim_reference, class_of, size_of

DRIVER = "ebs.csi.aws.com"
_SOURCE = f"{DRIVER}_ebs-csi-controller"
_RESIZER = f"external-resizer {DRIVER}"
_ZONE = "topology.kubernetes.io/zone"
_SECONDS = 1.0  # what the cloud takes to make a volume, or to grow one
_PROVISIONER_FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"
_ATTACHER_FINALIZER = "external-attacher/ebs-csi-aws-com"
_CLAIMS, _VOLUMES, _ATTACHMENTS = "persistentvolumeclaims", "persistentvolumes", "volumeattachments.storage.k8s.io"


# --- new volumes ------------------------------------------------------------------------------------------------------------------------


class _Provisioner:
    """Makes a volume for a claim that asks for one, a moment after it did."""

    def __init__(self) -> None:
        self._begun: set[str] = set()  # claims' uids

    def reconcile(self, cluster: Cluster, key: str) -> float | None:
        claim = cluster[_CLAIMS].get(*split(key))
        if claim is None or is_deleted(claim) or claim["spec"].get("volumeName"):
            return None
        if all(annotations_of(claim).get(name) != DRIVER for name in PROVISIONERS):
            return None
        found = cluster["storageclasses.storage.k8s.io"].get("", class_of(claim))
        if found is None or cluster[_VOLUMES].get("", f"pvc-{uid_of(claim)}") is not None:
            return None
        node = cluster["nodes"].get("", annotations_of(claim).get(SELECTED, ""))
        if node is None and found.get("volumeBindingMode") == "WaitForFirstConsumer":
            return None
        if uid_of(claim) not in self._begun:
            self._begun.add(uid_of(claim))
            cluster.event(_SOURCE, claim, "Normal", "Provisioning", f'External provisioner is provisioning volume for claim "{key}"')
            return _SECONDS
        volume = cluster.create(_volume(cluster, claim, found, node))
        self._begun.discard(uid_of(claim))
        cluster.event(_SOURCE, claim, "Normal", "ProvisioningSucceeded", f"Successfully provisioned volume {name_of(volume)}")
        return None


def _volume(cluster: Cluster, claim: Object, found: Object, node: Object | None) -> Object:
    zones = sorted({labels_of(one)[_ZONE] for one in ([node] if node is not None else cluster["nodes"].list()) if _ZONE in labels_of(one)})
    spec: Object = {
        "accessModes": claim["spec"]["accessModes"],
        "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
        "claimRef": claim_reference(claim),
        "csi": {
            "driver": DRIVER,
            "fsType": (found.get("parameters") or {}).get("csi.storage.k8s.io/fstype", "ext4"),
            "volumeHandle": f"vol-{hashlib.sha256(uid_of(claim).encode()).hexdigest()[:17]}",
        },
        "persistentVolumeReclaimPolicy": found.get("reclaimPolicy", "Delete"),
        "storageClassName": name_of(found),
        "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
    }
    if zones:
        terms = [{"matchExpressions": [{"key": _ZONE, "operator": "In", "values": zones[:1]}]}]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
    metadata = {"name": f"pvc-{uid_of(claim)}", "annotations": {PROVISIONED_BY: DRIVER}, "finalizers": [_PROVISIONER_FINALIZER]}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


def _of_class(cluster: Cluster, found: Object) -> Iterable[str]:
    return [key_of(claim) for claim in cluster[_CLAIMS].list() if class_of(claim) == name_of(found)]


# --- the end of volumes -----------------------------------------------------------------------------------------------------------------


def _delete(cluster: Cluster, key: str) -> None:
    """Throw away a volume whose claim is gone, where its class wants that."""
    volume = cluster[_VOLUMES].get("", split(key)[1])
    if volume is None or volume.get("status", {}).get("phase") != "Released" or not _is_ours(volume):
        return
    if annotations_of(volume).get(PROVISIONED_BY) != DRIVER or volume["spec"].get("persistentVolumeReclaimPolicy") != "Delete":
        return
    if any(one["spec"]["source"].get("persistentVolumeName") == name_of(volume) for one in cluster[_ATTACHMENTS].list()):
        return  # it is told when the attachment goes
    if not is_deleted(volume):
        cluster.delete(volume)
        volume = cluster[_VOLUMES].get("", name_of(volume))
    if volume is not None and is_deleted(volume):
        _let_go(cluster, volume, _PROVISIONER_FINALIZER)


def _is_ours(volume: Object) -> bool:
    return bool((volume["spec"].get("csi") or {}).get("driver") == DRIVER)


def _let_go(cluster: Cluster, obj: Object, finalizer: str) -> None:
    left = [one for one in obj["metadata"].get("finalizers") or () if one != finalizer]
    if left == (obj["metadata"].get("finalizers") or []):
        return
    body = {"metadata": {"uid": uid_of(obj), "resourceVersion": obj["metadata"]["resourceVersion"], "finalizers": left or None}}
    made = cluster.patch(obj, body, "merge")
    if not left:
        cluster.forget(made)


def _of_attachment(_cluster: Cluster, attachment: Object) -> Iterable[str]:
    name = attachment["spec"]["source"].get("persistentVolumeName")
    return (f"/{name}",) if name else ()


# --- growth -----------------------------------------------------------------------------------------------------------------------------


def _grow(cluster: Cluster, key: str) -> float | None:
    """One step of a claim that asks for more than it has: the volume, then, where a pod uses it, its file system."""
    claim = cluster[_CLAIMS].get(*split(key))
    if claim is None or claim.get("status", {}).get("phase") != "Bound":
        return None
    volume = cluster[_VOLUMES].get("", claim["spec"].get("volumeName", ""))
    status = claim["status"]
    wanted = claim["spec"]["resources"]["requests"]["storage"]
    if volume is None or not _is_ours(volume) or size_of(claim["spec"]["resources"]["requests"]) <= size_of(status.get("capacity")):
        return None
    step = (status.get("allocatedResourceStatuses") or {}).get("storage")
    if step is None or (step == "NodeResizePending" and size_of(volume["spec"]["capacity"]) < size_of({"storage": wanted})):
        conditions = [_condition(cluster, "Resizing"), *_others(status)]
        allocated = {"allocatedResources": {"storage": wanted}, "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"}}
        cluster.write_status(claim, {**status, **allocated, "conditions": conditions})
        cluster.event(_RESIZER, claim, "Normal", "Resizing", f"External resizer is resizing volume {name_of(volume)}")
        return _SECONDS
    if step == "ControllerResizeInProgress":
        began = next((one["lastTransitionTime"] for one in status.get("conditions") or () if one["type"] == "Resizing"), None)
        left = _SECONDS - cluster.since(began)
        if left > 0:
            return left
        if size_of(volume["spec"]["capacity"]) < size_of(status["allocatedResources"]):
            cluster.patch(volume, {"spec": {"capacity": status["allocatedResources"]}}, "merge")
        message = "Waiting for user to (re-)start a pod to finish file system resize of volume on node."
        conditions = with_condition(status.get("conditions") or [], _condition(cluster, "FileSystemResizePending", message))
        cluster.write_status(claim, {**status, "allocatedResourceStatuses": {"storage": "NodeResizePending"}, "conditions": conditions})
        message = "Require file system resize of volume on node"
        cluster.event(_RESIZER, claim, "Normal", "FileSystemResizeRequired", message)
        return None
    _grow_file_system(cluster, claim, volume)
    return None


def _grow_file_system(cluster: Cluster, claim: Object, volume: Object) -> None:
    """The kubelet's part, on the node of a pod that runs."""
    pods = [pod for pod in cluster["pods"].list(namespace_of(claim)) if name_of(claim) in claim_names(pod)]
    pod = next((one for one in pods if one.get("status", {}).get("phase") == "Running" and not is_deleted(one)), None)
    if pod is None:
        return
    status = {name: value for name, value in claim["status"].items() if name not in ("allocatedResourceStatuses", "conditions")}
    others = _others(claim["status"])
    status |= {"capacity": dict(volume["spec"]["capacity"])} | ({"conditions": others} if others else {})
    cluster.write_status(claim, status)
    message = f'MountVolume.NodeExpandVolume succeeded for volume "{name_of(volume)}" {pod["spec"]["nodeName"]}'
    for about in (pod, claim):
        cluster.event("kubelet", about, "Normal", "FileSystemResizeSuccessful", message)


def _condition(cluster: Cluster, kind: str, message: str = "") -> Object:
    condition = {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": cluster.stamp()}
    return condition | ({"message": message} if message else {})


def _others(status: Object) -> list[Object]:
    return [one for one in status.get("conditions") or () if one["type"] not in ("Resizing", "FileSystemResizePending")]


def _claims_of_pod(_cluster: Cluster, pod: Object) -> Iterable[str]:
    return [f"{namespace_of(pod)}/{name}" for name in claim_names(pod)]


# --- attachments ------------------------------------------------------------------------------------------------------------------------


def _attach(cluster: Cluster, key: str) -> None:
    """Attach and detach at once what the cluster asks for."""
    attachment = cluster[_ATTACHMENTS].get("", split(key)[1])
    if attachment is None or attachment["spec"]["attacher"] != DRIVER:
        return
    if is_deleted(attachment):
        _let_go(cluster, attachment, _ATTACHER_FINALIZER)
        return
    if _ATTACHER_FINALIZER not in (attachment["metadata"].get("finalizers") or ()):
        attachment = cluster.patch(attachment, {"metadata": {"finalizers": [_ATTACHER_FINALIZER]}}, "merge")
    if not attachment.get("status", {}).get("attached"):
        try:
            cluster.patch(attachment, {"status": {"attached": True}}, "merge", subresource="status")
        except ApiError as error:
            if error.status != 404:
                raise


def drivers() -> tuple[Controller, ...]:
    """All of it, new."""
    provisioner = _Provisioner()
    return (
        Controller(
            name="csi-provisioner",
            reconcile=provisioner.reconcile,
            watches={
                _CLAIMS: itself,
                _VOLUMES: lambda cluster, obj: (),
                "storageclasses.storage.k8s.io": _of_class,
                "nodes": lambda cluster, obj: (),
            },
        ),
        Controller(name="csi-deleter", reconcile=_delete, watches={_VOLUMES: itself, _ATTACHMENTS: _of_attachment}),
        Controller(
            name="csi-resizer",
            reconcile=_grow,
            watches={_CLAIMS: itself, _VOLUMES: lambda cluster, obj: (), "pods": _claims_of_pod},
        ),
        Controller(name="csi-attacher", reconcile=_attach, watches={_ATTACHMENTS: itself}),
    )
