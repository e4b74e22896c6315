"""Objects of a backup put into a cluster again.

What Velero takes off an object before it makes it anew: https://velero.io/docs/main/restore-reference/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.velero import selection
from opslib.lab.velero.backups import Outcome

# first these, in this order, then the rest by name
_FIRST = (
    "customresourcedefinitions.apiextensions.k8s.io",
    "namespaces",
    "storageclasses.storage.k8s.io",
    "persistentvolumeclaims",
    "serviceaccounts",
    "secrets",
    "configmaps",
    "limitranges",
    "pods",
    "replicasets.apps",
)
_NEVER = frozenset(
    {
        "nodes",
        "events",
        "events.events.k8s.io",
        "backups.velero.io",
        "restores.velero.io",
        "csinodes.storage.k8s.io",
        "volumeattachments.storage.k8s.io",
        "persistentvolumes",  # the lab has no snapshots of them; their claims are provisioned anew
        "endpointslices.discovery.k8s.io",  # the cluster's own controllers make these
        "leases.coordination.k8s.io",
    }
)
_BOUND = ("pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller", "volume.kubernetes.io/selected-node",
          "volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner")  # fmt: skip
_OWN_LABELS = ("velero.io/backup-name", "velero.io/restore-name")


def wanted(spec: Mapping[str, Any], items: list[tuple[str, Object]], known: Mapping[str, selection.Resource]) -> list[tuple[str, Object]]:
    """The items of a backup that a restore takes, in the order in which they are made."""
    included, excluded = spec.get("includedResources") or [], spec.get("excludedResources") or []
    cluster = spec.get("includeClusterResources")
    spaces = set(selection.namespaces(spec, sorted({_space(resource, obj) for resource, obj in items} - {""})))
    found = []
    for resource, obj in items:
        names = known[resource].names if resource in known else frozenset({resource, resource.split(".")[0]})
        space = _space(resource, obj)
        if resource in _NEVER or _is_done(resource, obj) or (space and space not in spaces):
            continue
        if resource == "namespaces":
            if any(obj["metadata"]["name"] == other["metadata"].get("namespace") for _, other in items) or not included:
                found.append((resource, obj))
            continue
        if not selection.includes(names, included, excluded) or not selection.labels_wanted(spec, obj):
            continue
        if not space and not (selection.takes_all_namespaces(spec) if cluster is None else cluster):
            continue
        found.append((resource, obj))
    order = {name: number for number, name in enumerate(_FIRST)}
    return sorted(found, key=lambda item: (order.get(item[0], len(_FIRST)), item[0]))


def put_back(
    api: Api,
    restore: Object,
    items: list[tuple[str, Object]],
    backup: str,
    progress: Callable[[int, int], None],
    wait: Callable[[], bool],
) -> Outcome:
    """Make the items; what is there already and differs is a warning, or with `existingResourcePolicy: update` is changed."""
    outcome = Outcome()
    spec, name = restore["spec"], restore["metadata"]["name"]
    mapping = spec.get("namespaceMapping") or {}
    for number, (resource, obj) in enumerate(items, 1):
        fresh = prepared(resource, obj, mapping)
        labels = fresh["metadata"].setdefault("labels", {})
        labels["velero.io/backup-name"], labels["velero.io/restore-name"] = _label(backup), _label(name)
        space = fresh["metadata"].get("namespace", "")
        try:
            api.create(fresh)
            outcome.log.append(f'level=info msg="Restored" resource={resource} name={space}/{fresh["metadata"]["name"]}')
        except ApiError as error:
            if error.reason == "AlreadyExists":
                _exists(api, resource, fresh, spec.get("existingResourcePolicy", "none"), outcome)
            else:
                where = "/".join(filter(None, (space, fresh["metadata"]["name"])))
                outcome.error(space, f"error restoring {resource}/{where}: {error.server_message}")
        progress(number, len(items))
        if wait():
            break
    return outcome


def prepared(resource: str, obj: Object, mapping: Mapping[str, str]) -> Object:
    """An object without what belonged to its former life, in its new namespace."""
    fresh = deepcopy(obj)
    fresh.pop("status", None)
    fresh["metadata"] = {name: value for name, value in fresh["metadata"].items() if name in ("name", "namespace", "labels", "annotations")}
    if "namespace" in fresh["metadata"]:
        fresh["metadata"]["namespace"] = mapping.get(fresh["metadata"]["namespace"], fresh["metadata"]["namespace"])
    spec = fresh.get("spec") or {}
    if resource == "namespaces":
        fresh["metadata"]["name"] = mapping.get(fresh["metadata"]["name"], fresh["metadata"]["name"])
        labels = fresh["metadata"].get("labels") or {}
        if "kubernetes.io/metadata.name" in labels:
            labels["kubernetes.io/metadata.name"] = fresh["metadata"]["name"]
        fresh.pop("spec", None)
    elif resource == "pods":
        _pod(spec)
    elif resource == "services":
        if spec.get("clusterIP") != "None":
            spec.pop("clusterIP", None)
            spec.pop("clusterIPs", None)
        spec.pop("healthCheckNodePort", None)
        for port in spec.get("ports") or []:
            port.pop("nodePort", None)
    elif resource == "persistentvolumeclaims":
        spec.pop("volumeName", None)
        annotations = fresh["metadata"].get("annotations") or {}
        for one in _BOUND:
            annotations.pop(one, None)
    elif resource == "jobs.batch":
        # the API server gives a new identity, which must not contradict the old one's selector
        for labels in (fresh["metadata"].get("labels") or {}, spec["template"]["metadata"].get("labels") or {}):
            for one in ("controller-uid", "batch.kubernetes.io/controller-uid"):
                labels.pop(one, None)
        if not spec.get("manualSelector"):
            spec.pop("selector", None)
    elif resource in ("rolebindings.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io"):
        for subject in fresh.get("subjects") or []:
            if subject.get("namespace") in mapping:
                subject["namespace"] = mapping[subject["namespace"]]
    elif resource == "serviceaccounts":
        fresh.pop("secrets", None)
    return fresh


def _pod(spec: dict[str, Any]) -> None:
    spec.pop("nodeName", None)
    spec.pop("priority", None)
    spec.pop("ephemeralContainers", None)  # cannot be there when a pod is made
    tokens = {one["name"] for one in spec.get("volumes") or [] if one["name"].startswith("kube-api-access-")}
    spec["volumes"] = [one for one in spec.get("volumes") or [] if one["name"] not in tokens]
    for container in (spec.get("containers") or []) + (spec.get("initContainers") or []):
        container["volumeMounts"] = [one for one in container.get("volumeMounts") or [] if one["name"] not in tokens]


def _exists(api: Api, resource: str, fresh: Object, policy: str, outcome: Outcome) -> None:
    space, name = fresh["metadata"].get("namespace", ""), fresh["metadata"]["name"]
    try:
        there = prepared(resource, api.get(api.path_of(fresh)), {})
        if resource in ("namespaces", "serviceaccounts") or _bare(there) == _bare(fresh):
            return
        if policy == "update":
            api.patch(api.path_of(fresh), fresh)
            return
    except ApiError as error:
        outcome.error(space, f"error restoring {resource}/{name}: {error.server_message}")
        return
    outcome.warn(
        space,
        f"could not restore, {fresh['kind']} {name!r} already exists. Warning: the in-cluster version is different than the backed-up one",
    )


def _bare(obj: Object) -> Object:
    labels = {name: value for name, value in (obj["metadata"].get("labels") or {}).items() if name not in _OWN_LABELS}
    return {**obj, "metadata": {**obj["metadata"], "labels": labels, "annotations": obj["metadata"].get("annotations") or {}}}


def _space(resource: str, obj: Object) -> str:
    return str(obj["metadata"]["name"] if resource == "namespaces" else obj["metadata"].get("namespace", ""))


def _is_done(resource: str, obj: Object) -> bool:
    status = obj.get("status") or {}
    return (resource == "pods" and status.get("phase") in ("Succeeded", "Failed")) or (
        resource == "jobs.batch" and bool(status.get("completionTime"))
    )


def _label(name: str) -> str:
    return name if len(name) <= 63 else name[:63].rstrip("-.")
