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
    except (jsonpatch.JsonPatchException, JsonPointerException, KeyError, TypeError) as error:
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
            there = merged[name]
            merged[name] = _in_order(there, there, [], order, _child(node, name).merge_key)
    return merged


def _child(node: Node, name: str) -> Node:
    if node.kind == "struct":
        return node.fields.get(name, ANY)
    if node.kind == "map" and node.item is not None:
        return node.item
    return ANY


def _merge_list(value: Any, patch: list[Any], node: Node, order: list[Any] | None) -> list[Any]:
    item = node.item or ANY
    there: list[Any] = value if isinstance(value, list) else []
    if node.merge_key and any(isinstance(one, dict) for one in patch):
        return _merge_objects(there, patch, node, item, order)
    if node.list_type == "set" and item.kind == "string" and node.values_merged:
        merged = [*there, *(one for one in dict.fromkeys(patch) if one not in there)]
        return _in_order(merged, there, patch, order, "")
    return [_without_directives(one) for one in patch]


def _merge_objects(there: list[Any], patch: list[Any], node: Node, item: Node, order: list[Any] | None) -> list[Any]:
    key = node.merge_key
    if any(isinstance(one, dict) and one.get("$patch") == "replace" for one in patch):
        return [_without_directives(one) for one in patch if not (isinstance(one, dict) and "$patch" in one)]
    merged = [*there]
    for one in patch:
        if not isinstance(one, dict) or key not in one:
            raise Refused(500, "", f"map: {shown(one)} does not contain declared merge key: {key}")
        position = next((number for number, known in enumerate(merged) if _identity(known, key) == one[key]), None)
        if one.get("$patch") == "delete":
            merged = [known for known in merged if _identity(known, key) != one[key]]
        elif position is None:
            merged.append(_merge_map({}, one, item))
        else:
            merged[position] = _merge_map(merged[position], one, item)
    return _in_order(merged, there, patch, order, key)


def _identity(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) and key else value


def shown(value: Any) -> str:
    """Data as Go prints it."""
    if isinstance(value, dict):
        return f"map[{' '.join(f'{name}:{shown(one)}' for name, one in sorted(value.items()))}]"
    return str(value)


def _in_order(merged: list[Any], before: list[Any], patch: list[Any], order: list[Any] | None, key: str) -> list[Any]:
    """What the patch names in its order; each other value before the first named one that it stood before
    (``mergeSortedSlice`` in k8s.io/apimachinery, pkg/util/strategicpatch).
    """
    wanted = [_identity(one, key) for one in (order if order is not None else patch)]
    known = [_identity(one, key) for one in before]
    named = [_identity(one, key) for one in patch]
    if order is not None:
        named += wanted
    right = sorted(
        (one for one in merged if _identity(one, key) in named),
        key=lambda one: wanted.index(_identity(one, key)) if _identity(one, key) in wanted else len(wanted),
    )
    left = [one for one in merged if _identity(one, key) not in named]
    arranged: list[Any] = []
    while left and right:
        first, second = _identity(left[0], key), _identity(right[0], key)
        take_left = first in known and second in known and known.index(first) < known.index(second)
        arranged.append((left if take_left else right).pop(0))
    return arranged + left + right


def _without_directives(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_directives(one) for name, one in value.items() if not name.startswith("$") and one is not None}
    if isinstance(value, list):
        return [_without_directives(one) for one in value]
    return value
