"""Attachments of volumes: asked for where a pod that uses one has a node, and taken back when it has none any more
(pkg/controller/volume/attachdetach). The volume's driver attaches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import FINISHED, created, is_deleted, name_of, namespace_of, quoted, split, uid_of
from opslib.lab.controllers.runner import Controller
from opslib.lab.controllers.volumes import claim_names

SOURCE = "attachdetach-controller"
_PODS, _CLAIMS, _VOLUMES = "pods", "persistentvolumeclaims", "persistentvolumes"
_ATTACHMENTS = "volumeattachments.storage.k8s.io"
_NEW_SECONDS = 120.0  # a pod that has run for longer had its volumes before this controller looked
_SHARED = {"ReadWriteMany", "ReadOnlyMany"}


class _Attacher:
    """Remembers what it has told."""

    def __init__(self) -> None:
        self._awaited: set[str] = set()  # attachments whose success is to be told
        self._told: set[tuple[str, str]] = set()  # volumes and nodes to which they could not go

    def reconcile(self, cluster: Cluster, key: str) -> None:
        name = split(key)[1]
        volume = cluster[_VOLUMES].get("", name)
        there = {
            one["spec"]["nodeName"]: one
            for one in cluster[_ATTACHMENTS].list()
            if one["spec"]["source"].get("persistentVolumeName") == name
        }
        users: dict[str, list[Object]] = {}
        for pod in _users(cluster, volume):
            users.setdefault(pod["spec"]["nodeName"], []).append(pod)
        for node, attachment in there.items():
            if node not in users:
                if not is_deleted(attachment):
                    cluster.delete(attachment)
            elif attachment.get("status", {}).get("attached") and name_of(attachment) in self._awaited:
                self._awaited.discard(name_of(attachment))
                for pod in users[node]:
                    message = f"AttachVolume.Attach succeeded for volume {quoted(name)} "
                    cluster.event(SOURCE, pod, "Normal", "SuccessfulAttachVolume", message)
        if volume is None:
            return
        for node, pods in users.items():
            if node in there:
                continue
            if there and not _SHARED & set(volume["spec"]["accessModes"]):
                self._refuse(cluster, name, node, pods, [pod for other in there for pod in users.get(other, ())])
                continue
            self._told.discard((name, node))
            there[node] = self._ask(cluster, volume, node, told=any(cluster.since(created(pod)) < _NEW_SECONDS for pod in pods))

    def _ask(self, cluster: Cluster, volume: Object, node: str, *, told: bool) -> Object:
        source = volume["spec"]["csi"]
        named = attachment_name(volume, node)
        spec = {"attacher": source["driver"], "nodeName": node, "source": {"persistentVolumeName": name_of(volume)}}
        made = {"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": named}, "spec": spec}
        if told:
            self._awaited.add(named)
        try:
            return cluster.create(made)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return made

    def _refuse(self, cluster: Cluster, volume: str, node: str, pods: list[Object], others: list[Object]) -> None:
        if (volume, node) in self._told or not others:
            return  # without others it is being detached, in a moment
        self._told.add((volume, node))
        why = f"Volume is already used by pod(s) {', '.join(sorted(name_of(one) for one in others))}"
        for pod in pods:
            cluster.event(SOURCE, pod, "Warning", "FailedAttachVolume", f"Multi-Attach error for volume {quoted(volume)} {why}")


def attachment_name(volume: Object, node: str) -> str:
    """What the attachment of a volume to a node is called (``getAttachmentName``)."""
    source = volume["spec"]["csi"]
    digest = hashlib.sha256(f"{source['volumeHandle']}{source['driver']}{node}".encode()).hexdigest()
    return f"csi-{digest}"


def _users(cluster: Cluster, volume: Object | None) -> list[Object]:
    """The pods with a node that use a volume and have not ended."""
    reference = (volume or {}).get("spec", {}).get("claimRef")
    if volume is None or reference is None or not volume["spec"].get("csi"):
        return []
    claim = cluster[_CLAIMS].get(reference.get("namespace", ""), reference["name"])
    if claim is None or uid_of(claim) != reference.get("uid"):
        return []
    return [
        pod
        for pod in cluster[_PODS].list(namespace_of(claim))
        if pod["spec"].get("nodeName") and name_of(claim) in claim_names(pod) and pod.get("status", {}).get("phase") not in FINISHED
    ]


def _of_pod(cluster: Cluster, pod: Object) -> Iterable[str]:
    for name in claim_names(pod):
        claim = cluster[_CLAIMS].get(namespace_of(pod), name)
        if claim is not None and claim["spec"].get("volumeName"):
            yield f"/{claim['spec']['volumeName']}"


def _of_claim(_cluster: Cluster, claim: Object) -> Iterable[str]:
    name = claim["spec"].get("volumeName")
    return (f"/{name}",) if name else ()


def _of_attachment(_cluster: Cluster, attachment: Object) -> Iterable[str]:
    name = attachment["spec"]["source"].get("persistentVolumeName")
    return (f"/{name}",) if name else ()


def attacher() -> Controller:
    """The controller of attachments, new."""
    return Controller(
        name="persistentvolume-attach-detach",
        reconcile=_Attacher().reconcile,
        watches={_PODS: _of_pod, _CLAIMS: _of_claim, _VOLUMES: lambda cluster, obj: (f"/{name_of(obj)}",), _ATTACHMENTS: _of_attachment},
    )
