"""JSON patches (RFC 6902), merge patches (RFC 7396) and strategic merge patches, on decoded objects."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from opslib.lab.kube.errors import Object, Refused, bad_request
from opslib.lab.kube.schema import ANY, Node

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
APPLY_CBOR = "application/apply-patch+cbor"


def json_patch(obj: Object, operations: Any) -> Any:
    """`obj` with the operations of a JSON patch carried out.

    Raises
    ------
    Refused
        The patch is not one, or an operation cannot be carried out.
    """
    import jsonpatch
    from jsonpointer import JsonPointerException

    if not isinstance(operations, list):
        raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    try:
        return jsonpatch.JsonPatch(operations).apply(obj)
    except jsonpatch.JsonPatchTestFailed as error:
        path = next((one.get("path", "") for one in operations if one.get("op") == "test"), "")
        raise Refused(422, "Invalid", f"the server rejected our request due to an error in our request: testing value {path} failed",
                      {}) from error  # fmt: skip
    except (jsonpatch.InvalidJsonPatch, jsonpatch.JsonPatchConflict, JsonPointerException, KeyError, TypeError) as error:
        raise Refused(422, "Invalid", "the server rejected our request due to an error in our request", {}) from error


def merge_patch(value: Any, patch: Any) -> Any:
    """`value` with a merge patch."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, one in patch.items():
        if one is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), one)
    return merged


def strategic_patch(obj: Object, patch: Any, node: Node) -> Any:
    """`obj` with a strategic merge patch: lists that have a merge key are merged by it.

    Raises
    ------
    Refused
        The patch has directives that make no sense.
    """
    if not isinstance(patch, dict):
        raise bad_request("invalid JSON document")
    return _merge_map(copy.deepcopy(obj), patch, node)


def _merge_map(value: Any, patch: Mapping[str, Any], node: Node) -> Any:
    directive = patch.get("$patch")
    if directive == "replace":
        return _without_directives({name: one for name, one in patch.items() if name != "$patch"})
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"unrecognized type: {directive}")
    merged: dict[str, Any] = value if isinstance(value, dict) else {}
    retained = patch.get("$retainKeys")
    if retained is not None:
        merged = {name: one for name, one in merged.items() if name in retained}
    orders = {name.partition("/")[2]: one for name, one in patch.items() if name.startswith("$setElementOrder/")}
    for name, one in patch.items():
        if name in ("$patch", "$retainKeys") or name.startswith("$setElementOrder/"):
            continue
        if name.startswith("$deleteFromPrimitiveList/"):
            target = name.partition("/")[2]
            if isinstance(merged.get(target), list):
                merged[target] = [item for item in merged[target] if item not in one]
            continue
        if one is None:
            merged.pop(name, None)
            continue
        child = _child(node, name)
        if isinstance(one, dict):
            if child.replaced and not any(key.startswith("$") for key in one):
                merged[name] = one
            else:
                merged[name] = _merge_map(merged.get(name), one, child)
        elif isinstance(one, list):
            merged[name] = _merge_list(merged.get(name), one, child, orders.get(name))
        else:
            merged[name] = one
    for name, order in orders.items():
        if name not in patch and isinstance(merged.get(name), list):
            merged[name] = _in_order(merged[name], order, _child(node, name).merge_key)
    return merged


def _child(node: Node, name: str) -> Node:
    if node.kind == "struct":
        return node.fields.get(name, ANY)
    if node.kind == "map" and node.item is not None:
        return node.item
    return ANY


def _merge_list(value: Any, patch: list[Any], node: Node, order: list[Any] | None) -> list[Any]:
    item = node.item or ANY
    if node.merge_key and any(isinstance(one, dict) for one in patch):
        return _merge_objects(value, patch, node, item, order)
    if node.list_type == "set" and item.kind == "string" and node.kind == "list" and _merges_values(node):
        merged = [*(value if isinstance(value, list) else [])]
        merged += [one for one in patch if one not in merged]
        return _in_order(merged, order, "") if order else merged
    return [_without_directives(one) for one in patch]


def _merges_values(node: Node) -> bool:
    return node.list_type == "set"


def _merge_objects(value: Any, patch: list[Any], node: Node, item: Node, order: list[Any] | None) -> list[Any]:
    key = node.merge_key
    if any(isinstance(one, dict) and one.get("$patch") == "replace" for one in patch):
        return [_without_directives(one) for one in patch if not (isinstance(one, dict) and "$patch" in one)]
    merged: list[Any] = [*(value if isinstance(value, list) else [])]
    for one in patch:
        if not isinstance(one, dict) or (key not in one and "$patch" not in one):
            raise bad_request(f"map: {one} does not contain declared merge key: {key}")
        position = next((number for number, there in enumerate(merged) if isinstance(there, dict) and there.get(key) == one.get(key)), None)
        if one.get("$patch") == "delete":
            merged = [there for there in merged if not (isinstance(there, dict) and there.get(key) == one.get(key))]
        elif position is None:
            merged.append(_merge_map({}, one, item))
        else:
            merged[position] = _merge_map(merged[position], one, item)
    return _in_order(merged, order, key) if order else merged


def _in_order(values: list[Any], order: list[Any], key: str) -> list[Any]:
    """Values in the order that the patch asks for; those that it does not name stay after the one that they stood behind."""
    wanted = [one.get(key) if isinstance(one, dict) else one for one in order]

    def identity(value: Any) -> Any:
        return value.get(key) if isinstance(value, dict) else value

    named = {identity(value): value for value in values if identity(value) in wanted}
    arranged = [named[one] for one in wanted if one in named]
    previous: Any = None
    for value in values:
        if identity(value) not in wanted:
            position = next(
                (number + 1 for number, there in enumerate(arranged) if previous is not None and identity(there) == previous), None
            )
            arranged.insert(len(arranged) if position is None and previous is not None else position or 0, value)
        previous = identity(value)
    return arranged


def _without_directives(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_directives(one) for name, one in value.items() if not name.startswith("$") and one is not None}
    if isinstance(value, list):
        return [_without_directives(one) for one in value]
    return value
