"""What a cluster begins with: objects as a user would have written them, completed as if they had come in at their creation.

Nothing is refused here, and no admission but what fills something in takes part: the one who sets a lab up has made the objects.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import msgspec

from opslib.lab.kube import admission, defaults, ownership, validation
from opslib.lab.kube.decoding import fill
from opslib.lab.kube.errors import Object
from opslib.lab.kube.keeper import Keeper, establish
from opslib.lab.kube.objects import GENERATIONS, now_text
from opslib.lab.kube.resources import Registry, Resource
from opslib.lab.kube.store import Store

# what the others need: what they are, where they are, and what admission looks up for them
_FIRST = ("CustomResourceDefinition", "Namespace", "PriorityClass", "StorageClass", "ServiceAccount")
_BY_CONTROLLERS = {"Pod", "ReplicaSet", "EndpointSlice", "Endpoints", "ControllerRevision", "Lease"}
_NODE_PARTS = {"Pod", "Node"}


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""
    uid: str = ""


class _Head(msgspec.Struct):
    kind: str
    metadata: _Metadata

    @property
    def place(self) -> tuple[str, str, str]:
        return self.kind, self.metadata.namespace, self.metadata.name

    def uid(self) -> str:
        """An object without a uid has the same one each time: what has noted it finds it again."""
        return self.metadata.uid or str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(self.place)))


def plant(bodies: Iterable[bytes], store: Store, registry: Registry, world: admission.World, keeper: Keeper) -> None:
    """Put objects, as `opslib.lab.kube.state.write` was given them, into the store, and with them what each cluster has.

    They are decoded one by one: thousands of completed objects at once would take more memory than the server ever needs again.

    Raises
    ------
    ValueError
        An object is of a kind that nobody has defined.
    Refused
        A pod's service account or priority class is not there.
    """
    head = msgspec.json.Decoder(_Head).decode
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    found = [(head(body), body) for body in bodies]
    uids = {one.place: one.uid() for one, _body in found}
    known: dict[bytes, Object] = {}
    for wanted in _FIRST:
        for one, body in found:
            if one.kind == wanted:
                obj = decode(body)
                _plant(obj, uids[one.place], store, registry, world, uids, known)
                if wanted == "CustomResourceDefinition":
                    keeper.serve(obj)
    keeper.begin()
    for one, body in found:
        if one.kind not in _FIRST:
            _plant(decode(body), uids[one.place], store, registry, world, uids, known)


def _plant(
    obj: Object,
    uid: str,
    store: Store,
    registry: Registry,
    world: admission.World,
    uids: dict[tuple[str, str, str], str],
    known: dict[bytes, Object],
) -> None:
    api_version, kind = obj.pop("apiVersion"), obj.pop("kind")
    resource = registry.by_kind(api_version, kind)
    if resource is None:
        raise ValueError(f"{kind} in {api_version} of {obj['metadata'].get('name')} is not known")
    metadata = obj["metadata"]
    if resource.namespaced:
        metadata.setdefault("namespace", "default")
    metadata["uid"] = uid
    metadata.setdefault("creationTimestamp", now_text())
    if resource.storage in GENERATIONS or resource.custom is not None:
        metadata.setdefault("generation", 1)
    for owner in metadata.get("ownerReferences") or ():
        if not owner.get("uid"):
            at = metadata.get("namespace", "")
            owner["uid"] = uids.get((owner["kind"], at, owner["name"])) or uids.get((owner["kind"], "", owner["name"]), "")
    defaults.apply_defaults(resource.storage, obj)
    if resource.custom is not None:
        validation.custom_defaults(resource, obj)
    if "managedFields" not in metadata:
        manager = "kubelet" if kind == "Node" else "kube-controller-manager" if kind in _BY_CONTROLLERS else "kubectl-create"
        reporter = "kubelet" if kind in _NODE_PARTS else "kube-controller-manager"
        time = metadata["creationTimestamp"]
        ownership.begun(obj, resource.node(), manager=manager, reporter=reporter, api_version=api_version, time=time, known=known)
    _admit(resource, obj, world)
    if resource.custom is None:
        fill(obj, resource.node())
    store.create(resource.storage, (metadata.get("namespace", ""), metadata["name"]), obj)


def _admit(resource: Resource, obj: Object, world: admission.World) -> None:
    storage, status = resource.storage, obj.setdefault("status", {}) if "status" in resource.subresources else {}
    if storage == "pods":
        world.complete_pod(obj)
    elif storage == "services":
        world.allocate(obj)
    elif storage == "namespaces":
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        status.setdefault("phase", "Active")
    elif storage in ("persistentvolumeclaims", "persistentvolumes"):
        admission.protect(resource, obj)
    elif storage == "customresourcedefinitions.apiextensions.k8s.io":
        establish(obj)
