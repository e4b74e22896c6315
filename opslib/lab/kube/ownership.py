"""Who owns which field (``metadata.managedFields``), and server-side apply.

A set of fields is a set of paths; a path is a tuple of the parts of FieldsV1 ("f:spec", "f:replicas", 'k:{"name":"web"}', "v:...").
The rules are those of sigs.k8s.io/structured-merge-diff, for one version of each kind.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from opslib.lab.kube import schema
from opslib.lab.kube.errors import Object, Refused
from opslib.lab.kube.schema import ANY, Node

Path = tuple[str, ...]
Paths = dict[Path, Any]  # each path with its value; containers whose being there counts have `_HERE`

_HERE = ("here",)
_EMPTY = ("empty",)
_SYSTEM = {
    ("f:apiVersion",), ("f:kind",), ("f:metadata", "f:name"), ("f:metadata", "f:namespace"), ("f:metadata", "f:uid"),
    ("f:metadata", "f:creationTimestamp"), ("f:metadata", "f:generation"), ("f:metadata", "f:resourceVersion"),
    ("f:metadata", "f:selfLink"), ("f:metadata", "f:deletionTimestamp"), ("f:metadata", "f:deletionGracePeriodSeconds"),
}  # fmt: skip
_KEY_DEFAULTS = {"protocol": "TCP"}


def paths_of(obj: Object, node: Node) -> Paths:
    """Every field of an object, but for those that the server sets itself."""
    found: Paths = {}
    _collect(obj, node, (), found)
    for path in [path for path in found if path in _SYSTEM or path[:2] == ("f:metadata", "f:managedFields")]:
        del found[path]
    return found


def _collect(value: Any, node: Node, path: Path, found: Paths) -> None:
    if isinstance(value, dict) and not node.atomic and (node.kind in ("struct", "map") or (node.kind == "any" and path == ())):
        if path:
            found[path] = _HERE if value else _EMPTY
        for name, one in value.items():
            _collect(one, child_of(node, name), (*path, f"f:{name}"), found)
    elif isinstance(value, list) and node.kind == "list" and node.list_type == "map":
        item = node.item or ANY
        found[path] = _HERE if value else _EMPTY
        for one in value:
            if isinstance(one, dict):
                _collect(one, item, (*path, _key_part(one, node)), found)
    elif isinstance(value, list) and node.kind == "list" and node.list_type == "set":
        found[path] = _HERE if value else _EMPTY
        for one in value:
            found[(*path, f"v:{json.dumps(one)}")] = one
    elif path:
        found[path] = value


def _holds(value: Any) -> bool:
    """Whether the value of a path says that a part is there, rather than what stands there."""
    return value is _HERE or value is _EMPTY


def child_of(node: Node, name: str) -> Node:
    """The node of a member."""
    if node.kind == "struct":
        return node.fields.get(name, ANY)
    return (node.item or ANY) if node.kind == "map" else ANY


def _key_part(item: Mapping[str, Any], node: Node) -> str:
    keys = {key: item.get(key, _KEY_DEFAULTS.get(key)) for key in sorted(node.list_keys)}
    return "k:" + json.dumps({key: value for key, value in keys.items() if value is not None}, separators=(",", ":"))


def to_fields(paths: set[Path] | Paths) -> Object:
    """Paths as FieldsV1."""
    tree: Object = {}
    for path in sorted(paths):
        here = tree
        for part in path:
            here = here.setdefault(part, {})
        here["."] = {}
    _drop_leaf_dots(tree)
    return tree


def _drop_leaf_dots(tree: Object) -> None:
    for part, below in tree.items():
        if part == ".":
            continue
        if set(below) == {"."}:
            below.clear()
        else:
            _drop_leaf_dots(below)


def from_fields(fields: Object) -> set[Path]:
    """FieldsV1 as paths."""
    found: set[Path] = set()

    def walk(tree: Object, path: Path) -> None:
        if not tree and path:
            found.add(path)
        for part, below in tree.items():
            if part == ".":
                found.add(path)
            else:
                walk(below, (*path, part))

    walk(fields, ())
    return found


def _entries(obj: Object) -> list[Object]:
    return [*((obj.get("metadata") or {}).get("managedFields") or [])]


def _same(entry: Object, manager: str, operation: str, api_version: str, subresource: str) -> bool:
    return (
        entry.get("manager") == manager
        and entry.get("operation") == operation
        and entry.get("apiVersion") == api_version
        and entry.get("subresource", "") == subresource
    )


def _entry(manager: str, operation: str, api_version: str, subresource: str, paths: set[Path], time: str) -> Object:
    entry: Object = {
        "manager": manager,
        "operation": operation,
        "apiVersion": api_version,
        "time": time,
        "fieldsType": "FieldsV1",
        "fieldsV1": to_fields(paths),
    }
    if subresource:
        entry["subresource"] = subresource
    if subresource == "scale":
        del entry["time"]  # the real server keeps none
    return entry


def _write(obj: Object, entries: list[Object]) -> None:
    if entries:
        obj["metadata"]["managedFields"] = sorted(
            entries, key=lambda one: (one["operation"] != "Apply", one.get("time", ""), one["manager"])
        )
    else:
        obj["metadata"].pop("managedFields", None)


def updated(
    live: Object | None,
    obj: Object,
    node: Node,
    *,
    manager: str,
    api_version: str,
    subresource: str,
    time: str,
    resets_status: bool = False,
) -> None:
    """Note in `obj` that `manager` made it out of `live` by an update."""
    before = paths_of(live if live is not None else schema.empty(node), node)
    after = paths_of(obj, node)
    changed = {path for path, value in after.items() if path not in before or (not _holds(value) and before[path] != value)}
    if not subresource and resets_status:
        changed = {path for path in changed if path[0] != "f:status"}
    removed = set(before) - set(after)
    given = (obj.get("metadata") or {}).get("managedFields")
    if given == [{}] or (given == [] and live is not None):
        entries: list[Object] = []
    else:
        entries = _entries(live) if live is not None else []
    kept: list[Object] = []
    mine: set[Path] = set()
    mine_before: Object | None = None
    for entry in entries:
        if _same(entry, manager, "Update", api_version, subresource):
            mine |= from_fields(entry.get("fieldsV1") or {})
            mine_before = entry
            continue
        if not changed and not removed:
            kept.append(entry)
            continue
        there = from_fields(entry.get("fieldsV1") or {})
        left = there - {path for path in changed if not _holds(after[path])} - removed
        if left == there:
            kept.append(entry)
        elif left:
            kept.append({**entry, "fieldsV1": to_fields(left)})
    owned = (mine | changed) - removed
    if mine_before is not None and owned == mine:
        kept.append(mine_before)
    elif owned:
        kept.append(_entry(manager, "Update", api_version, subresource, owned, time))
    _write(obj, kept)


def begun(obj: Object, node: Node, *, manager: str, reporter: str, api_version: str, time: str, known: dict[bytes, Object]) -> None:
    """Note in `obj`, which is there from the beginning, that `manager` has made it, and that its status is `reporter`'s.

    Parameters
    ----------
    known
        The fields of objects that are alike but for their names, such as the pods of one replica set; filled here.
    """
    metadata = {name: value for name, value in obj["metadata"].items() if name not in ("name", "uid", "creationTimestamp")}
    spec = {name: value for name, value in (obj.get("spec") or {}).items() if name != "nodeName"}  # a binding's, which notes nothing
    rest = {name: value for name, value in obj.items() if name != "status"} | {"metadata": metadata} | ({"spec": spec} if spec else {})
    key = msgspec.json.encode((api_version, manager, rest))
    fields = known.get(key)
    if fields is None:
        nothing = paths_of(schema.empty(node), node)
        found = paths_of(rest, node)
        paths = {path for path, value in found.items() if path not in nothing or (not _holds(value) and nothing[path] != value)}
        fields = known[key] = to_fields(paths)
    entries = [{**_entry(manager, "Update", api_version, "", set(), time), "fieldsV1": fields}]
    if obj.get("status"):
        entries.append(_entry(reporter, "Update", api_version, "status", {*paths_of({"status": obj["status"]}, node)}, time))
    _write(obj, entries)


def agreed(live: Object, config: Object, node: Node) -> set[Path]:
    """The fields of a configuration that stand in the object as it has them."""
    there = paths_of(live, node)
    return {path for path, value in paths_of(config, node).items() if path in there and (_holds(value) or there[path] == value)}


def applied(
    live: Object | None,
    config: Object,
    node: Node,
    *,
    manager: str,
    api_version: str,
    subresource: str,
    force: bool,
    time: str,
    allowed: Collection[Path] = (),
) -> Object:
    """The object that results where `manager` applies `config`.

    Parameters
    ----------
    allowed
        Fields that may be taken from other managers even without `force`.

    Raises
    ------
    Refused
        Other managers own fields with other values, and `force` is not set.
    """
    config = copy.deepcopy(config)
    config.get("metadata", {}).pop("managedFields", None)
    wanted = paths_of(config, node)
    base: Object = copy.deepcopy(live) if live is not None else {"metadata": {}}
    present = paths_of(base, node)
    entries = _entries(base)
    mine: set[Path] = set()
    others: list[tuple[Object, set[Path]]] = []
    mine_before: Object | None = None
    for entry in entries:
        if _same(entry, manager, "Apply", api_version, subresource):
            mine = from_fields(entry.get("fieldsV1") or {})
            mine_before = entry
        else:
            others.append((entry, from_fields(entry.get("fieldsV1") or {})))

    conflicts = []
    for entry, theirs in sorted(others, key=lambda one: (one[0]["manager"], one[0]["operation"], one[0].get("subresource", ""))):
        clash = [
            path for path, value in wanted.items() if path in theirs and not _holds(value) and path in present and present[path] != value
        ]
        clash.sort(key=lambda path: [(number < len(path) - 1, part) for number, part in enumerate(path)])  # fields before what is deeper
        if clash:
            conflicts.append((entry, clash))
    refused = [(entry, [path for path in clash if path not in allowed]) for entry, clash in conflicts]
    refused = [(entry, clash) for entry, clash in refused if clash]
    if refused and not force:
        raise _conflict(refused)

    merged: Object = merge(base, config, node)
    held = set(wanted).union(*(theirs for _entry_, theirs in others))
    gone = {path for path in mine if path not in held}
    for path in sorted(gone, key=len):  # a list's item as a whole, before its fields
        if path[-1][:2] != "k:" or not any(one[: len(path)] == path for one in held):
            _remove(merged, node, path, whole=path[-1][:2] == "k:")
    clashing = {path for _entry_, clash in conflicts for path in clash}
    result = paths_of(merged, node)
    changed = {path for path, value in result.items() if not _holds(value) and (path not in present or present[path] != value)}
    kept: list[Object] = []
    for entry, theirs in others:
        left = {path for path in theirs - clashing if path not in changed and (path in result or path not in present)}
        if left == theirs:
            kept.append(entry)
        elif left:
            kept.append({**entry, "fieldsV1": to_fields(left)})
    fields = {path for path, value in wanted.items() if value is not _HERE or path[-1][:2] == "k:"}
    if mine_before is not None and fields == mine and not changed and not gone:
        kept.append(mine_before)
    else:
        kept += [_entry(manager, "Apply", api_version, subresource, fields, time)] if fields else []
    _write(merged, kept)
    return merged


def merge(live: Any, config: Any, node: Node) -> Any:
    """`live` with `config` laid over it, by the schema's rules."""
    if (
        isinstance(config, dict)
        and isinstance(live, dict)
        and not node.atomic
        and node.kind in ("struct", "map", "any")
        and (node.kind != "any")
    ):
        merged = dict(live)
        for name, one in config.items():
            child = child_of(node, name)
            merged[name] = merge(merged[name], one, child) if name in merged else one
        return merged
    if isinstance(config, list) and isinstance(live, list) and node.kind == "list":
        if node.list_type == "map":
            item = node.item or ANY
            wanted = {_key_part(one, node): one for one in config if isinstance(one, dict)}
            result = []
            for one in live:
                part = _key_part(one, node) if isinstance(one, dict) else ""
                result.append(merge(one, wanted.pop(part), item) if part in wanted else one)
            return [*result, *wanted.values()]
        if node.list_type == "set":
            return live + [one for one in config if one not in live]
    return config


def _remove(obj: Any, node: Node, path: Path, *, whole: bool = False) -> None:
    """Take the field at `path` out; containers only where nothing is left in them, or `whole`."""
    here, at = obj, node
    for number, part in enumerate(path):
        last = number == len(path) - 1
        if part[:2] == "f:":
            name = part[2:]
            if not isinstance(here, dict) or name not in here:
                return
            if last:
                value = here[name]
                if not (
                    isinstance(value, dict) and value and child_of(at, name).kind in ("struct", "map") and not child_of(at, name).atomic
                ) and not (isinstance(value, list) and value and child_of(at, name).list_type in ("map", "set")):
                    del here[name]
                return
            here, at = here[name], child_of(at, name)
        elif not isinstance(here, list):
            return
        elif part[:2] == "k:":
            position = next((index for index, one in enumerate(here) if isinstance(one, dict) and _key_part(one, at) == part), None)
            if position is None:
                return
            if last:
                if whole or set(here[position]) <= {*at.list_keys}:
                    del here[position]
                return
            here, at = here[position], at.item or ANY
        elif part[:2] == "v:":
            value = json.loads(part[2:])
            if value in here:
                here.remove(value)
            return
        else:
            return


def _conflict(conflicts: list[tuple[Object, list[Path]]]) -> Refused:
    causes = []
    lines: list[tuple[str, str]] = []
    for entry, clash in conflicts:
        who = f'"{entry["manager"]}"'
        if entry.get("subresource"):
            who += f' with subresource "{entry["subresource"]}"'
        if entry["operation"] == "Update":
            who += f" using {entry['apiVersion']}"
        for path in clash:
            causes.append({"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": shown(path)})
            lines.append((who, shown(path)))
    if len(lines) == 1:
        message = f"Apply failed with 1 conflict: conflict with {lines[0][0]}: {lines[0][1]}"
    else:
        whos = list(dict.fromkeys(who for who, _path in lines))
        groups = "\n".join(f"conflicts with {who}:\n" + "\n".join(f"- {path}" for one, path in lines if one == who) for who in whos)
        message = f"Apply failed with {len(lines)} conflicts: {groups}"
    return Refused(409, "Conflict", message, {"causes": causes})


def shown(path: Path) -> str:
    """A path as it is written for people: ``.spec.containers[name="web"].image``."""
    text = ""
    for part in path:
        kind, value = part[:2], part[2:]
        if kind == "f:":
            text += f".{value}"
        elif kind == "k:":
            keys = json.loads(value)
            text += "[" + ",".join(f"{key}={json.dumps(one)}" for key, one in keys.items()) + "]"
        else:
            text += f"[={value}]"
    return text
