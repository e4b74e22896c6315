"""Which objects of a cluster a backup or restore takes: its resources, namespaces and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.informer import lean

EXCLUDE_LABEL = "velero.io/exclude-from-backup"

# of two resources that hold the same objects, the one that is left out
_COHABITING = frozenset({"events.events.k8s.io", "deployments.extensions", "daemonsets.extensions", "replicasets.extensions"})


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource of the API server. `name` is "pods" or "deployments.apps"."""

    name: str
    kind: str
    version: str
    namespaced: bool
    names: frozenset[str]

    def path(self, namespace: str = "") -> str:
        """Its collection; of one namespace, or of all."""
        base = f"/apis/{self.version}" if "/" in self.version else f"/api/{self.version}"
        plural = self.name.split(".")[0]
        return f"{base}/namespaces/{namespace}/{plural}" if namespace else f"{base}/{plural}"


def resources(api: Api) -> tuple[list[Resource], list[str]]:
    """All resources that can be listed and made again, and what could not be asked for.

    Of a group the preferred version is taken, as Velero does by default.
    """
    found: list[Resource] = []
    problems: list[str] = []
    groups = ["v1", *(group["preferredVersion"]["groupVersion"] for group in api.get("/apis")["groups"])]
    for version in groups:
        try:
            answer = api.get(f"/apis/{version}" if "/" in version else f"/api/{version}")
        except ApiError as error:  # an aggregated API whose server is away
            problems.append(f"cannot list the resources of {version}: {error.server_message}")
            continue
        group = version.split("/")[0] if "/" in version else ""
        for item in answer["resources"]:
            name = f"{item['name']}.{group}" if group else item["name"]
            if "/" in item["name"] or not {"list", "create", "get", "delete"} <= set(item["verbs"]) or name in _COHABITING:
                continue
            names = frozenset({name, item["name"], item["singularName"] or item["kind"].lower(), *item.get("shortNames", [])})
            found.append(Resource(name, item["kind"], version, item["namespaced"], names))
    return found, problems


def includes(names: frozenset[str], included: Sequence[str], excluded: Sequence[str]) -> bool:
    """Whether one of `names` is wanted; nothing included, or "*", means all."""
    if any(fnmatchcase(name, one) for name in names for one in excluded):
        return False
    return not included or any(fnmatchcase(name, one) for name in names for one in included)


def namespaces(spec: Mapping[str, Any], every: Sequence[str]) -> list[str]:
    """Those of all namespaces that a spec takes."""
    included, excluded = spec.get("includedNamespaces") or [], spec.get("excludedNamespaces") or []
    return [name for name in every if includes(frozenset({name}), included, excluded)]


def takes_all_namespaces(spec: Mapping[str, Any]) -> bool:
    """Whether a spec leaves no namespace out."""
    return (spec.get("includedNamespaces") or ["*"]) == ["*"] and not spec.get("excludedNamespaces")


def label_matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector takes an object with these labels."""
    if not selector:
        return True
    if any(labels.get(name) != value for name, value in (selector.get("matchLabels") or {}).items()):
        return False
    for one in selector.get("matchExpressions") or []:
        value, values = labels.get(one["key"]), one.get("values") or []
        fits = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }.get(one["operator"], False)
        if not fits:
            return False
    return True


def labels_wanted(spec: Mapping[str, Any], obj: Object) -> bool:
    """Whether a spec's `labelSelector`, or one of its `orLabelSelectors`, takes an object."""
    labels = obj["metadata"].get("labels") or {}
    either = spec.get("orLabelSelectors") or [spec.get("labelSelector")]
    return any(label_matches(one, labels) for one in either)


def listed(
    api: Api, spec: Mapping[str, Any], known: Sequence[Resource], taken: Sequence[str]
) -> Iterator[tuple[Resource, list[Object] | str]]:
    """Each resource that a backup takes with its objects, or with the reason why they could not be listed.

    Parameters
    ----------
    taken
        The namespaces that are backed up.
    """
    everywhere = takes_all_namespaces(spec)
    included, excluded = spec.get("includedResources") or [], spec.get("excludedResources") or []
    cluster = spec.get("includeClusterResources")
    wanted_namespaces = set(taken)
    for resource in known:
        if resource.name == "namespaces":  # they come with what is in them
            continue
        if not includes(resource.names, included, excluded):
            continue
        if not resource.namespaced and not (everywhere if cluster is None else cluster):
            continue
        paths = [resource.path(name) for name in taken] if resource.namespaced and not everywhere else [resource.path()]
        like: dict[str, Object] = {}
        try:
            objects = [
                lean(obj, like)
                for path in paths
                for page, _version in api.pages(path, limit=250)
                for obj in page
                if (not resource.namespaced or obj["metadata"]["namespace"] in wanted_namespaces)
                and labels_wanted(spec, obj)
                and (obj["metadata"].get("labels") or {}).get(EXCLUDE_LABEL) != "true"
                and "deletionTimestamp" not in obj["metadata"]
            ]
        except ApiError as error:
            yield resource, f"error listing {resource.name}: {error.server_message}"
            continue
        yield resource, objects
