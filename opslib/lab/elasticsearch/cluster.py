"""All indices of the embedded node, their templates and aliases, points in time, and bulk writes."""

from __future__ import annotations

import fnmatch
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from opslib.lab.elasticsearch.errors import Refused, illegal, missing_index
from opslib.lab.elasticsearch.index import Index
from opslib.lab.elasticsearch.mapping import Mapping as FieldMapping
from opslib.lab.elasticsearch.search import filtered

_FORBIDDEN = ' "*\\<|,>/?'


@dataclass(frozen=True, slots=True)
class Missing:
    """What to do with index names that do not exist: `ignore` leaves them out, `allow_none` takes a pattern that matches nothing."""

    ignore: bool = False
    allow_none: bool = True


@dataclass(slots=True)
class Cluster:
    """The node and what it holds.

    Parameters
    ----------
    name, node
        Names of the cluster and of its one node.
    repositories
        Folder below which snapshot repositories may stand (path.repo); None: nowhere.
    """

    name: str = "opslib-lab"
    node: str = "lab-0"
    repositories: Path | None = None
    uuid: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    indices: dict[str, Index] = field(default_factory=dict)
    templates: dict[str, dict[str, Any]] = field(default_factory=dict)
    snapshots: dict[str, dict[str, Any]] = field(default_factory=dict)  # repositories: type and settings
    points: dict[str, tuple[float, list[Index]]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=lambda: {"persistent": {}, "transient": {}})
    lock: threading.RLock = field(default_factory=threading.RLock)

    # --- indices ---

    def create(self, name: str, body: Mapping[str, Any] | None = None) -> Index:
        """A new index, with what templates say of it.

        Raises
        ------
        Refused
            It exists, or the name or the body is not valid.
        """
        check_name(name)
        known = self.indices.get(name)
        if known is not None:
            reason = f"index [{name}/{known.uuid}] already exists"
            raise Refused(400, "resource_already_exists_exception", reason, index=name, index_uuid=known.uuid)
        settings: dict[str, Any] = {}
        mapping = FieldMapping()
        aliases: dict[str, Any] = {}
        layers = [*self._template(name), *([body] if body else [])]
        for layer in layers:
            for key in layer:
                if key not in ("settings", "mappings", "aliases"):
                    raise Refused(400, "parse_exception", f"unknown key [{key}] for create index")
            settings |= _settings(layer.get("settings") or {})
            mapping.merge(layer.get("mappings") or {})
            aliases |= layer.get("aliases") or {}
        settings.setdefault("number_of_shards", "1")
        settings.setdefault("number_of_replicas", "1")
        index = self.indices[name] = Index(name, settings, mapping, aliases)
        return index

    def _template(self, name: str) -> Iterator[Mapping[str, Any]]:
        found = [
            item
            for item in self.templates.values()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in _names(item["index_patterns"]))
        ]
        found.sort(key=lambda item: int(item.get("priority", item.get("order", 0))))
        if found:
            yield found[-1].get("template", {})

    def writable(self, name: str) -> Index:
        """The index to write to, made where it is not there; an alias of one stands for it."""
        index = self.indices.get(name)
        if index is not None:
            return index
        having = [known for known in self.indices.values() if name in known.aliases]
        if having:
            return having[0]
        return self.create(name)

    def delete(self, expression: str) -> None:
        """Delete indices."""
        for part in expression.split(","):
            if part not in self.indices and any(part in index.aliases for index in self.indices.values()):
                reason = f"The provided expression [{part}] matches an alias, specify the corresponding concrete indices instead."
                raise illegal(reason)
        for index in self.resolve(expression, kind="index_or_alias"):
            del self.indices[index.name]

    def resolve(self, expression: str, missing: Missing = Missing(), *, kind: str = "index_or_alias") -> list[Index]:
        """The indices that an expression names: names, aliases, patterns, those after a minus left out.

        Raises
        ------
        Refused
            One of them does not exist.
        """
        found: dict[str, Index] = {}
        for part in (expression or "_all").split(","):
            if part in ("_all", "*"):
                found |= {name: self.indices[name] for name in sorted(self.indices)}
            elif part.startswith("-") and found:
                found = {name: index for name, index in found.items() if not fnmatch.fnmatchcase(name, part[1:])}
            elif "*" in part:
                matching = {
                    name: index
                    for name, index in sorted(self.indices.items())
                    if fnmatch.fnmatchcase(name, part) or any(fnmatch.fnmatchcase(alias, part) for alias in index.aliases)
                }
                if not matching and not missing.allow_none:
                    raise missing_index(part, kind)
                found |= matching
            else:
                named = {name: index for name, index in self.indices.items() if name == part or part in index.aliases}
                if not named and not missing.ignore:
                    if part.startswith("_"):
                        reason = f"Invalid index name [{part}], must not start with '_'."
                        raise Refused(400, "invalid_index_name_exception", reason, index=part, index_uuid="_na_")
                    raise missing_index(part, kind)
                found |= named
        return list(found.values())

    # --- documents ---

    def update(self, index: Index, id: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change parts of a document.

        Raises
        ------
        Refused
            It is not there, or the change is no document.
        """
        known = index.ids.get(id)
        if "script" in body:
            raise illegal("scripts are not there in the embedded Elasticsearch")
        change = body.get("doc")
        if known is None:
            if body.get("doc_as_upsert") and change is not None:
                return index.write(id, msgspec.json.encode(change))
            if body.get("upsert") is not None:
                return index.write(id, msgspec.json.encode(body["upsert"]))
            reason = f"[{id}]: document missing"
            raise Refused(404, "document_missing_exception", reason, index=index.name, shard="0", index_uuid=index.uuid)
        if change is None:
            raise Refused(400, "action_request_validation_exception", "Validation Failed: 1: script or doc is missing;")
        source = msgspec.json.decode(index.source(known))
        merged = _merged(source, change)
        if merged == source and body.get("detect_noop", True):
            return {**index._result(id, "noop", index.versions.get(id, 1)), "_shards": {"total": 0, "successful": 0, "failed": 0}}
        return index.write(id, msgspec.json.encode(merged))

    def bulk(self, lines: bytes, default: str = "") -> dict[str, Any]:
        """Many writes at once; each is answered by itself."""
        started = time.perf_counter()
        items: list[dict[str, Any]] = []
        rest = iter(lines.split(b"\n"))
        number = 0
        for line in rest:
            number += 1
            if not line.strip():
                continue
            action, options = _action(line, number)
            source = next(rest, b"") if action != "delete" else b""
            number += action != "delete"
            name = options.get("_index") or default
            if not name:
                raise Refused(400, "action_request_validation_exception", f"Validation Failed: {len(items) + 1}: index is missing;")
            items.append({action: self._bulk_one(action, name, options, source)})
        if not items:
            raise Refused(400, "parse_exception", "request body is required")
        failed = any("error" in next(iter(item.values())) for item in items)
        return {"took": int((time.perf_counter() - started) * 1000), "errors": failed, "items": items}

    def _bulk_one(self, action: str, name: str, options: Mapping[str, Any], source: bytes) -> dict[str, Any]:
        id = None if options.get("_id") is None else str(options["_id"])
        uuid = "_na_"
        try:
            index = self.writable(name)
            uuid = index.uuid
            if action == "delete":
                result = index.delete(id or "")
            elif action == "update":
                result = self.update(index, id or "", msgspec.json.decode(source))
            else:
                result = index.write(id, source, create=action == "create")
        except Refused as error:
            del uuid
            cause = {"type": error.kind, "reason": error.reason, **error.more}
            return {"_index": name, "_id": id, "status": error.status, "error": cause}
        status = {"created": 201, "not_found": 404}.get(result["result"], 200)
        return {**result, "status": status}

    def get(self, index: Index, id: str, wanted: Any = True) -> dict[str, Any] | None:
        """A document as the answer has it; None where it is not there."""
        doc = index.ids.get(id)
        if doc is None:
            return None
        raw = index.source(doc)
        version = index.versions.get(id, 1)
        result: dict[str, Any] = {"_index": index.name, "_id": id, "_version": version, "_seq_no": doc, "_primary_term": 1, "found": True}
        if wanted is not False:
            result["_source"] = msgspec.Raw(raw) if wanted is True else filtered(msgspec.json.decode(raw), wanted)
        return result

    # --- points in time ---

    def open_point(self, indices: list[Index], seconds: float) -> str:
        """A point in time. It holds the indices, of which documents written later are left out by nobody here: see the docs."""
        now = time.monotonic()
        self.points = {key: value for key, value in self.points.items() if value[0] > now}
        id = secrets.token_urlsafe(64)
        self.points[id] = (now + seconds, [_frozen(index) for index in indices])
        return id

    def point(self, id: str) -> list[Index]:
        """The indices of a point in time.

        Raises
        ------
        Refused
            It is over, or never was.
        """
        known = self.points.get(id)
        if known is None or known[0] < time.monotonic():
            raise Refused(404, "search_context_missing_exception", "No search context found for id [1]")
        return known[1]

    # --- health ---

    def active_percent(self) -> float:
        """Shards that are there, of all that are wanted."""
        wanted = sum(1 + index.replicas for index in self.indices.values())
        return 100.0 * len(self.indices) / wanted if wanted else 100.0

    def status(self, indices: list[Index] | None = None) -> str:
        """green, or yellow where an index wants replicas, for which there is no node."""
        chosen = list(self.indices.values()) if indices is None else indices
        return "yellow" if any(index.replicas for index in chosen) else "green"


def _frozen(index: Index) -> Index:
    """The index as it is now: later writes go elsewhere."""
    frozen = Index.__new__(Index)
    frozen.__dict__.update(index.__dict__)
    frozen.names = list(index.names)
    frozen.ids = dict(index.ids)
    frozen._live = _Fixed(index.live.copy())  # type: ignore[assignment]
    frozen._dead = set()
    frozen._blocks, frozen._open = list(index._blocks), list(index._open)
    frozen.columns = {name: _FrozenColumn(column) for name, column in index.columns.items()}  # type: ignore[misc]
    return frozen


class _Fixed:
    def __init__(self, view: Any) -> None:
        self.view = view


class _FrozenColumn:
    """A column as it was."""

    def __init__(self, column: Any) -> None:
        self.kind = column.kind
        self.docs, self.values = column.docs, column.values
        self.terms, self.numbers = list(column.terms), dict(column.numbers)
        self.lengths = column.lengths
        self.words = column.words if column.kind == "text" else None
        self._rank = column.order()

    def order(self) -> Any:
        return self._rank


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def check_name(name: str) -> None:
    """Refuse a name that no index can have."""
    reason = ""
    if name != name.lower():
        reason = f"Invalid index name [{name}], must be lowercase"
    elif any(char in _FORBIDDEN for char in name):
        reason = f'Invalid index name [{name}], must not contain the following characters [ , ", *, \\, <, |, ,, >, /, ?]'
    elif name[:1] in "_-+":
        reason = f"Invalid index name [{name}], must not start with '_', '-', or '+'"
    elif "#" in name or ":" in name:
        char = "#" if "#" in name else ":"
        reason = f"Invalid index name [{name}], must not contain '{char}'"
    elif name in (".", ".."):
        reason = f"Invalid index name [{name}], must not be '.' or '..'"
    elif len(name.encode()) > 255:
        reason = f"Invalid index name [{name}], index name is too long, ({len(name.encode())} > 255)"
    if reason:
        raise Refused(400, "invalid_index_name_exception", reason, index=name, index_uuid="_na_")


def nested_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as templates show them: below index, as text."""
    nested: dict[str, Any] = {}
    for name, value in _settings(given).items():
        node = nested
        *path, last = name.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return {"index": nested}


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the prefix index, flat, as text."""
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                walk(item, f"{path}.{key}" if path else key)
        else:
            flat[path.removeprefix("index.")] = str(value).lower() if isinstance(value, bool) else str(value)

    walk(given, "")
    return flat


def _merged(source: Any, change: Any) -> Any:
    if not isinstance(source, dict) or not isinstance(change, dict):
        return change
    return {**source, **{key: _merged(source.get(key), value) for key, value in change.items()}}


def _action(line: bytes, number: int) -> tuple[str, dict[str, Any]]:
    try:
        content = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        reason = f"Malformed action/metadata line [{number}], expected START_OBJECT or END_OBJECT but found [VALUE_STRING]"
        raise illegal(reason) from error
    if not isinstance(content, dict) or len(content) != 1:
        raise illegal(f"Malformed action/metadata line [{number}], expected START_OBJECT or END_OBJECT but found [VALUE_NUMBER]")
    action, options = next(iter(content.items()))
    if action not in ("index", "create", "update", "delete"):
        found = f"Malformed action/metadata line [{number}], expected one of [create, delete, index, update] but found [{action}]"
        raise illegal(found)
    for key in options or {}:
        if key not in ("_index", "_id", "routing", "_routing", "require_alias", "pipeline", "version", "version_type", "retry_on_conflict"):
            raise illegal(f"Action/metadata line [{number}] contains an unknown parameter [{key}]")
    return action, dict(options or {})
