"""OpenAPI documents, made from the schemas when a client asks for them (k8s.io/kube-openapi)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from opslib.lab.kube import schema
from opslib.lab.kube.discovery import GIT_VERSION
from opslib.lab.kube.errors import Object
from opslib.lab.kube.resources import Registry, Resource, model_of
from opslib.lab.kube.schema import Node

_META = {
    "ObjectMeta", "LabelSelector", "LabelSelectorRequirement", "OwnerReference", "ManagedFieldsEntry", "ListMeta", "Status", "StatusCause",
    "StatusDetails", "DeleteOptions", "Preconditions", "Condition", "WatchEvent", "APIResource", "APIResourceList", "APIGroup",
}  # fmt: skip
_PACKAGES = {
    "": "io.k8s.api.core.v1",
    "apiextensions.k8s.io": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "apiregistration.k8s.io": "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
}
_INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
_TIME = "io.k8s.apimachinery.pkg.apis.meta.v1.Time"
_MICRO_TIME = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"
_PATCH = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
_SIMPLE: dict[str, Object] = {
    _INT_OR_STRING: {
        "description": "A whole number, or a text (a name, or a percentage).",
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
    },
    _QUANTITY: {"description": "A number with a suffix, such as 100m or 1Gi.", "oneOf": [{"type": "string"}, {"type": "number"}]},
    _TIME: {"description": "A time in RFC 3339 form.", "type": "string", "format": "date-time"},
    _MICRO_TIME: {"description": "A time in RFC 3339 form with microseconds.", "type": "string", "format": "date-time"},
    _PATCH: {"description": "A patch of the type that the Content-Type names.", "type": "object"},
}


def _query(name: str, kind: str, description: str) -> Object:
    return {"name": name, "in": "query", "description": description, "schema": {"type": kind, "uniqueItems": True}}


_DRY_RUN = _query("dryRun", "string", "All: go through every stage of the request, but store nothing.")
_MANAGER = _query("fieldManager", "string", "Who makes the change; at most 128 characters. Required where an object is applied.")
_VALIDATION = _query(
    "fieldValidation",
    "string",
    "What to do about unknown and duplicate fields: Ignore them, Warn of them (the default), or refuse them (Strict).",
)
_FORCE = _query("force", "boolean", "Take fields over from their managers; for applied objects only.")
_PRETTY = _query("pretty", "string", "Whether the answer is laid out for people.")
_LIST = [
    _query("allowWatchBookmarks", "boolean", "Whether the watch may send bookmarks."),
    _query("continue", "string", "The token of the page before."),
    _query("fieldSelector", "string", "Which objects, by their fields."),
    _query("labelSelector", "string", "Which objects, by their labels."),
    _query("limit", "integer", "At most so many objects in one answer."),
    _query("resourceVersion", "string", "Which state of the objects."),
    _query("resourceVersionMatch", "string", "How resourceVersion is meant."),
    _query("sendInitialEvents", "boolean", "Whether the watch begins with the objects that there are."),
    _query("timeoutSeconds", "integer", "How long the call may last."),
    _query("watch", "boolean", "Watch for changes."),
]


def index(registry: Registry) -> Object:
    """/openapi/v3: the documents that there are, each with a hash that changes with it."""
    paths: Object = {}
    for group, versions in registry.groups().items():
        for version in versions:
            if any(one.remote for one in registry.of_version(group, version)):
                continue  # described by who serves it
            path = f"apis/{group}/{version}" if group else f"api/{version}"
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest(registry, group, version)}"}
    return {"paths": dict(sorted(paths.items()))}


def digest(registry: Registry, group: str, version: str) -> str:
    """The hash of a document, without making it."""
    from importlib.metadata import version as installed

    parts = [GIT_VERSION, installed("kubernetes"), installed("opslib"), "1"]
    for resource in registry.of_version(group, version):
        parts.append(f"{resource.plural} {resource.kind} {resource.subresources}")
        if resource.custom is not None:
            parts.append(json.dumps(resource.custom, sort_keys=True))
    return hashlib.sha512("\n".join(parts).encode()).hexdigest().upper()


def document(registry: Registry, group: str, version: str) -> Object:
    """The document of one version of a group."""
    maker = _Maker("#/components/schemas/")
    paths: Object = {}
    for resource in registry.of_version(group, version):
        _paths(resource, maker, paths)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": ".".join(GIT_VERSION.removeprefix("v").split(".")[:2])},
        "paths": paths,
        "components": {"schemas": dict(sorted(maker.schemas.items()))},
    }


def swagger(registry: Registry) -> Object:
    """/openapi/v2, as JSON: the definitions of all kinds."""
    maker = _Maker("#/definitions/", old=True)
    for resource in registry:
        if resource.remote:
            continue
        if resource.custom is not None or schema.known(model_of(resource.group, resource.version, resource.kind)):
            maker.root(resource)
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": GIT_VERSION},
        "paths": {},
        "definitions": dict(sorted(maker.schemas.items())),
    }


def _package(group: str, version: str) -> str:
    if group in _PACKAGES:
        return _PACKAGES[group]
    return f"io.k8s.api.{group.partition('.')[0]}.{version}"


class _Maker:
    """Collects the schemas that are referred to."""

    def __init__(self, prefix: str, *, old: bool = False) -> None:
        self.prefix = prefix
        self.schemas: Object = {}
        self._old = old
        self._names: dict[str, str] = {}

    def root(self, resource: Resource) -> str:
        """The schema of a resource's objects; its name."""
        if resource.custom is not None:
            reverse = ".".join(reversed(resource.group.split(".")))
            name = f"{reverse}.{resource.version}.{resource.kind}"
            definition = (resource.custom.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
            content = dict(definition)
            metadata = schema.struct("V1ObjectMeta")
            content["properties"] = {
                **(definition.get("properties") or {}),
                "apiVersion": {"type": "string", "description": "The group and version of this kind of object."},
                "kind": {"type": "string", "description": "What kind of object this is."},
                "metadata": {"allOf": [{"$ref": self.prefix + self._struct(metadata, "")}], "description": "Standard object's metadata."},
            }
        else:
            identifier = model_of(resource.group, resource.version, resource.kind)
            if not schema.known(identifier):
                return ""
            name = self._struct(schema.struct(identifier), _package(resource.group, resource.version))
            content = self.schemas[name]
        content["x-kubernetes-group-version-kind"] = [{"group": resource.group, "version": resource.version, "kind": resource.kind}]
        self.schemas[name] = content
        return name

    def _struct(self, node: Node, package: str) -> str:
        if node.identifier in self._names:
            return self._names[node.identifier]
        home = "io.k8s.apimachinery.pkg.apis.meta.v1" if node.model in _META else package or "io.k8s.api.core.v1"
        if node.identifier.startswith("V1JSONSchemaProps"):
            home = _PACKAGES["apiextensions.k8s.io"]
        name = f"{home}.{node.model}"
        while name in self.schemas:
            name += "_"
        self._names[node.identifier] = name
        content: Object = {"type": "object"}
        self.schemas[name] = content
        text = schema.struct_description(node.identifier)
        if text:
            content["description"] = text
        needed = [field for field, one in node.fields.items() if one.required]
        content["properties"] = {field: self._field(one, home) for field, one in node.fields.items()}
        if needed:
            content["required"] = needed
        if node.atomic:
            content["x-kubernetes-map-type"] = "atomic"
        return name

    def _field(self, node: Node, package: str) -> Object:
        content = self._type(node, package)
        text = node.description or (schema.struct_description(node.identifier) if node.kind == "struct" else "")
        if text:
            if "$ref" in content and not self._old:
                content = {"allOf": [content]}
            content = {"description": text, **content}
        if node.kind == "list":
            if node.list_type:
                content["x-kubernetes-list-type"] = node.list_type
            if node.list_keys:
                content["x-kubernetes-list-map-keys"] = [*node.list_keys]
            if node.merge_key:
                content["x-kubernetes-patch-merge-key"] = node.merge_key
                content["x-kubernetes-patch-strategy"] = "merge,retainKeys" if node.retain_keys else "merge"
            elif node.values_merged:
                content["x-kubernetes-patch-strategy"] = "merge"
        elif node.retain_keys:
            content["x-kubernetes-patch-strategy"] = "retainKeys"
        elif node.replaced:
            content["x-kubernetes-patch-strategy"] = "replace"
        elif node.kind == "map" and node.atomic:
            content["x-kubernetes-map-type"] = "atomic"
        return content

    def _type(self, node: Node, package: str) -> Object:
        kind = node.kind
        if kind == "struct":
            home = package if not package.startswith("io.k8s.apimachinery") else ""
            return {"$ref": self.prefix + self._struct(node, _home_of(node, home))}
        if kind == "list":
            item = self._type(node.item or schema.ANY, package)
            return {"type": "array", "items": {"allOf": [item], "default": {}} if "$ref" in item and not self._old else item}
        if kind == "map":
            return {"type": "object", "additionalProperties": self._type(node.item or schema.ANY, package)}
        simple = {"int-or-string": _INT_OR_STRING, "quantity": _QUANTITY, "time": _TIME, "microtime": _MICRO_TIME}.get(kind)
        if simple:
            self.schemas.setdefault(simple, _SIMPLE[simple])
            return {"$ref": self.prefix + simple}
        if kind == "integer":
            return {"type": "integer", "format": node.format or "int32"}
        if kind == "number":
            return {"type": "number", "format": "double"}
        if kind == "bytes":
            return {"type": "string", "format": "byte"}
        return {"type": kind} if kind in ("string", "boolean") else {"type": "object"}


def _home_of(node: Node, package: str) -> str:
    """The package of a type that another one uses: pods' types stay in core, whoever uses them."""
    core = (
        "Pod",
        "Container",
        "Volume",
        "ObjectReference",
        "Toleration",
        "Affinity",
        "NodeSelector",
        "EnvVar",
        "SecurityContext",
        "PersistentVolumeClaim",
    )
    return (
        "io.k8s.api.core.v1"
        if node.model.startswith(core) and not node.model.startswith(("PodDisruption", "PodFailure", "PodsMetric"))
        else package
    )


def _paths(resource: Resource, maker: _Maker, paths: Object) -> None:
    name = maker.root(resource)
    reference = {"$ref": f"{maker.prefix}{name}"} if name else {"type": "object"}
    gvk = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    base = f"{resource.root}/namespaces/{{namespace}}/{resource.plural}" if resource.namespaced else f"{resource.root}/{resource.plural}"
    ok = {"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}, "401": {"description": "Unauthorized"}}
    body = {"content": {"*/*": {"schema": reference}}, "required": True}
    placed = [_path("namespace", "object name and auth scope, such as for teams and projects")] if resource.namespaced else []
    tag = [f"{(resource.group or 'core').partition('.')[0]}_{resource.version}"]

    def operation(action: str, verb: str, parameters: Iterable[Object] = (), request: Any = None) -> Object:
        made: Object = {
            "tags": tag,
            "description": f"{verb} {resource.kind}",
            "operationId": f"{verb}{resource.kind}{resource.version}{(resource.group or 'core').partition('.')[0]}",
            "parameters": [*parameters],
            "responses": ok,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk,
        }
        if request is not None:
            made["requestBody"] = request
        return made

    collection: Object = {"parameters": [*placed, _PRETTY]}
    one: Object = {"parameters": [_path("name", f"name of the {resource.kind}"), *placed, _PRETTY]}
    if "list" in resource.verbs:
        collection["get"] = operation("list", "list", _LIST)
    if "create" in resource.verbs:
        collection["post"] = operation("post", "create", (_DRY_RUN, _MANAGER, _VALIDATION), body)
    if "deletecollection" in resource.verbs:
        collection["delete"] = operation("deletecollection", "deleteCollection", (_DRY_RUN, *_LIST))
    if "get" in resource.verbs:
        one["get"] = operation("get", "read")
    if "update" in resource.verbs:
        one["put"] = operation("put", "replace", (_DRY_RUN, _MANAGER, _VALIDATION), body)
    if "patch" in resource.verbs:
        maker.schemas.setdefault(_PATCH, _SIMPLE[_PATCH])
        kinds = ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"]
        if resource.custom is None:
            kinds.append("application/strategic-merge-patch+json")
        content = {kind: {"schema": {"$ref": f"{maker.prefix}{_PATCH}"}} for kind in kinds}
        one["patch"] = operation("patch", "patch", (_DRY_RUN, _MANAGER, _VALIDATION, _FORCE), {"content": content, "required": True})
    if "delete" in resource.verbs:
        one["delete"] = operation("delete", "delete", (_DRY_RUN,))
    paths[base] = collection
    if len(one) > 1:
        paths[f"{base}/{{name}}"] = one
    if resource.namespaced and "list" in resource.verbs:
        paths[f"{resource.root}/{resource.plural}"] = {"get": operation("list", "listAll", _LIST)}


def _path(name: str, description: str) -> Object:
    return {"name": name, "in": "path", "description": description, "required": True, "schema": {"type": "string", "uniqueItems": True}}
