"""What the server has to offer, in the two forms that clients ask for (k8s.io/apiserver, pkg/endpoints/discovery)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from typing import Any

from opslib.lab.kube.errors import Object
from opslib.lab.kube.resources import Registry, Resource

GIT_VERSION = "v1.36.3"

# kind, group and version (where they differ from the resource's), and verbs of each subresource
_GET_UPDATE = ("get", "patch", "update")
_SUBRESOURCES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "attach": ("PodAttachOptions", "", "", ("create", "get")),
    "binding": ("Binding", "", "", ("create",)),
    "ephemeralcontainers": ("Pod", "", "", _GET_UPDATE),
    "eviction": ("Eviction", "policy", "v1", ("create",)),
    "exec": ("PodExecOptions", "", "", ("create", "get")),
    "log": ("Pod", "", "", ("get",)),
    "portforward": ("PodPortForwardOptions", "", "", ("create", "get")),
    "resize": ("Pod", "", "", _GET_UPDATE),
    "scale": ("Scale", "autoscaling", "v1", _GET_UPDATE),
    "token": ("TokenRequest", "authentication.k8s.io", "v1", ("create",)),
    "finalize": ("", "", "", ("update",)),
    "status": ("", "", "", _GET_UPDATE),
    "approval": ("", "", "", _GET_UPDATE),
    "proxy": ("", "", "", ("create", "delete", "get", "patch", "update")),
}


def subresource_kind(resource: Resource, name: str) -> tuple[str, str, str, tuple[str, ...]]:
    """Kind, group, version and verbs of a subresource; group and version are empty where they are the resource's."""
    kind, group, version, verbs = _SUBRESOURCES[name]
    if name == "proxy":
        kind = f"{resource.kind}ProxyOptions"
    return kind or resource.kind, group, version, verbs


def version() -> Object:
    """/version."""
    import platform

    major, minor, *_rest = GIT_VERSION.removeprefix("v").split(".")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return {
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": str(int(minor) - 1),
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": f"linux/{machine}",
    }


def _hash(resource: Resource) -> str:
    text = f"{resource.group}/{resource.version}/{resource.kind}"
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:8]).decode()


def resource_list(group: str, version_name: str, resources: Iterable[Resource]) -> Object:
    """The resources of one version of a group."""
    entries: list[Object] = []
    for resource in resources:
        entry: Object = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": sorted(resource.verbs),
        }
        if resource.short_names:
            entry["shortNames"] = [*resource.short_names]
        if resource.categories:
            entry["categories"] = [*resource.categories]
        if "watch" in resource.verbs:
            entry["storageVersionHash"] = _hash(resource)
        entries.append(entry)
        for name in resource.subresources:
            kind, other_group, other_version, verbs = subresource_kind(resource, name)
            sub: Object = {"name": f"{resource.plural}/{name}", "singularName": "", "namespaced": resource.namespaced}
            if other_group:
                sub |= {"group": other_group, "version": other_version}
            entries.append({**sub, "kind": kind, "verbs": [*verbs]})
    group_version = f"{group}/{version_name}" if group else version_name
    content: Object = {"kind": "APIResourceList", "groupVersion": group_version, "resources": entries}
    return {"kind": "APIResourceList", "apiVersion": "v1", **content} if group else content


def group_object(group: str, versions: list[str], *, alone: bool) -> Object:
    """One group with its versions."""
    listed = [{"groupVersion": f"{group}/{one}", "version": one} for one in versions]
    content: Object = {"name": group, "versions": listed, "preferredVersion": listed[0]}
    return {"kind": "APIGroup", "apiVersion": "v1", **content} if alone else content


def group_list(registry: Registry) -> Object:
    """/apis."""
    groups = [group_object(group, versions, alone=False) for group, versions in registry.groups().items() if group]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def core_versions(address: str) -> Object:
    """/api."""
    where = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": where}


def aggregated(registry: Registry, *, core: bool, api_version: str) -> Object:
    """Everything of /api (`core`) or /apis at once."""
    items = []
    for group, versions in registry.groups().items():
        if (group == "") is not core:
            continue
        entries = [
            {
                "version": one,
                "resources": [_aggregated_resource(resource) for resource in registry.of_version(group, one)],
                "freshness": "Current",
            }
            for one in versions
        ]
        metadata: Object = {"creationTimestamp": None}
        if group:
            metadata = {"name": group, **metadata}
        items.append({"metadata": metadata, "versions": entries})
    return {"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items}


def _aggregated_resource(resource: Resource) -> Object:
    entry: Object = {
        "resource": resource.plural,
        "responseKind": {
            "group": resource.group if resource.custom is not None or resource.remote else "",
            "version": resource.version if resource.custom is not None or resource.remote else "",
            "kind": resource.kind,
        },
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": sorted(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = [*resource.short_names]
    if resource.categories:
        entry["categories"] = [*resource.categories]
    subresources: list[Any] = []
    for name in resource.subresources:
        kind, group, version_name, verbs = subresource_kind(resource, name)
        response = {"group": group, "version": version_name, "kind": kind}
        if resource.custom is not None and not group:
            response = {"group": resource.group, "version": resource.version, "kind": kind}
        subresources.append({"subresource": name, "responseKind": response, "verbs": [*verbs]})
    if subresources:
        entry["subresources"] = subresources
    return entry
