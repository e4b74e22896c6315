"""Bodies of requests: decoded, checked against the kind's schema, and put into the form in which the API server keeps them."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from opslib.lab.kube import quantities
from opslib.lab.kube.errors import Object, Refused, bad_request, unsupported_media_type
from opslib.lab.kube.schema import Node

JSON = "application/json"
YAML = "application/yaml"
ACCEPTED = (JSON, YAML, "application/vnd.kubernetes.protobuf")


class _Pairs(dict[str, Any]):
    """A JSON object that remembers names that stood in it twice."""

    twice: list[str]


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    kept = _Pairs(made)
    seen: set[str] = set()
    kept.twice = []
    for name, _value in pairs:
        if name in seen:
            kept.twice.append(name)
        seen.add(name)
    return kept


def parse(body: bytes, content_type: str, expected: str = "Object") -> Any:
    """The data of a body.

    Raises
    ------
    Refused
        Its form is not known, or it is not well formed.
    """
    kind = content_type.partition(";")[0].strip().lower() or JSON
    if kind in (JSON, "*/*") or kind.endswith("+json"):
        try:
            return json.loads(body, object_pairs_hook=_pairs)
        except ValueError as error:
            if kind == JSON and body.lstrip()[:1] not in (b"{", b"["):
                return _yaml(body)  # clients that name no type may send YAML
            raise bad_request(
                f"the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; json parse error: {error}"
            ) from None
    if kind in (YAML, "text/yaml", "application/x-yaml", "application/apply-patch+yaml"):
        return _yaml(body)
    raise unsupported_media_type(ACCEPTED)


def _yaml(body: bytes) -> Any:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """YAML 1.2's idea of plain values: times stay texts."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    try:
        return yaml.load(body, Loader)  # noqa: S506 (a safe loader, without times)
    except yaml.YAMLError as error:
        raise bad_request(f"error converting YAML to JSON: {error}") from None


@dataclass(slots=True)
class Found:
    """What decoding noticed: fields that are not known, and fields that stood there twice."""

    unknown: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    lenient: bool = False  # let wrong types pass: a definition's schema finds them
    as_written: bool = False  # leave quantities and times as the client wrote them

    def texts(self) -> list[str]:
        """In the API server's words."""
        return [f'duplicate field "{path}"' for path in self.twice] + [f'unknown field "{path}"' for path in self.unknown]


class WrongType(Exception):
    """A value of another type than the field's."""


def conform(value: Any, node: Node, path: str, found: Found, owner: str = "") -> Any:
    """`value` in the form that is kept: unknown fields, nulls and meaningless zero values left out, quantities and times canonical.

    Raises
    ------
    WrongType
        A value has another type than its field.
    """
    if found.lenient and node.model == "":
        try:
            return _conform(value, node, path, found, owner)
        except WrongType:
            return value
    return _conform(value, node, path, found, owner)


def _conform(value: Any, node: Node, path: str, found: Found, owner: str) -> Any:
    kind = node.kind
    if kind == "struct":
        return _struct(value, node, path, found, owner)
    if kind == "list":
        if not isinstance(value, list):
            raise WrongType(_type_error(value, path, owner, f"[]{_go_type(node.item)}"))
        assert node.item is not None
        return [conform(one, node.item, f"{path}[{number}]", found, owner) for number, one in enumerate(value)]
    if kind == "map":
        if not isinstance(value, dict):
            raise WrongType(_type_error(value, path, owner, f"map[string]{_go_type(node.item)}"))
        item = node.item
        assert item is not None
        if item.kind == "string":  # most maps are; an error names the map, not the key
            return {
                name: one if isinstance(one, str) else "" if one is None else conform(one, item, path, found, owner)
                for name, one in value.items()
            }
        below = f"{path}." if item.kind == "struct" else ""
        return {
            name: conform(one, item, f"{below}{name}" if below else path, found, owner)
            for name, one in value.items()
            if one is not None or item.kind == "any"
        }
    if kind == "string":
        if isinstance(value, str):
            return value
        raise WrongType(_type_error(value, path, owner, "string"))
    if kind == "integer":
        if isinstance(value, bool) or not isinstance(value, int):
            if isinstance(value, float) and value.is_integer():
                return int(value)
            raise WrongType(_type_error(value, path, owner, node.format or "int64"))
        return value
    if kind == "boolean":
        if isinstance(value, bool):
            return value
        raise WrongType(_type_error(value, path, owner, "bool"))
    if kind == "quantity":
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise WrongType(quantities.MALFORMED)
        try:
            return str(value) if found.as_written and quantities.canonical(str(value)) else quantities.canonical(str(value))
        except ValueError as error:
            raise WrongType(str(error)) from None
    if kind == "int-or-string":
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise WrongType(_type_error(value, path, owner, "int32"))
        return value
    if kind in ("time", "microtime"):
        return _time(value, path, micro=kind == "microtime")
    if kind == "bytes":
        if not isinstance(value, str):
            raise WrongType(_type_error(value, path, owner, "[]uint8"))
        return _base64(value)
    if kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise WrongType(_type_error(value, path, owner, "float64"))
    return value


def _struct(value: Any, node: Node, path: str, found: Found, owner: str) -> Any:
    if not isinstance(value, dict):
        raise WrongType(_type_error(value, path, owner, f"v1.{node.model}" if node.model else "map[string]interface {}"))
    if type(value) is _Pairs:
        found.twice += [f"{path}.{name}" if path else name for name in value.twice]
    fields = node.fields
    made: dict[str, Any] = {}
    for name, one in value.items():
        known = fields.get(name)
        if known is None:
            if node.keep_unknown or (not fields and node.model == ""):
                made[name] = one
            else:
                found.unknown.append(f"{path}.{name}" if path else name)
            continue
        if one is None:
            continue
        kept = conform(one, known, f"{path}.{name}" if path else name, found, node.model)
        if not known.keep_zero and not kept and not known.required and kept is not None and known.kind != "struct":
            continue
        made[name] = kept
    return made


def _go_type(node: Node | None) -> str:
    if node is None:
        return "interface {}"
    if node.kind == "struct":
        return f"v1.{node.model}"
    return {"integer": node.format or "int32", "boolean": "bool", "any": "interface {}"}.get(node.kind, node.kind)


def _type_error(value: Any, path: str, owner: str, wanted: str) -> str:
    given = (
        "bool"
        if isinstance(value, bool)
        else {str: "string", int: "number", float: "number", list: "array", dict: "object"}.get(type(value), "null")
    )
    if given == "number" and wanted.startswith(("int", "float")):
        given = f"number {value}"
    clean = re.sub(r"\[\d+\]", "", path)
    return f"json: cannot unmarshal {given} into Go struct field {owner}.{clean} of type {wanted}"


def _time(value: Any, path: str, *, micro: bool) -> str:
    if not isinstance(value, str):
        raise WrongType(f"json: cannot unmarshal {'number' if isinstance(value, int | float) else 'object'} into Go value of type string")
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
    except ValueError:
        form = "2006-01-02T15:04:05.000000Z07:00" if micro else "2006-01-02T15:04:05Z07:00"
        raise WrongType(f'parsing time "{value}" as "{form}": cannot parse "{value}" as "2006"') from None
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def _base64(value: str) -> str:
    import base64
    import binascii

    try:
        raw = base64.b64decode(value.replace("\n", ""), validate=True)
    except binascii.Error:
        good = re.match(r"[A-Za-z0-9+/]*", value)
        raise WrongType(f"illegal base64 data at input byte {good.end() if good else 0}") from None
    return base64.b64encode(raw).decode()


def object_of(
    data: Any, node: Node, kind: str, api_version: str, validation: str, *, as_written: bool = False, custom: bool = False
) -> tuple[Object, list[str]]:
    """An object from a body, and the warnings about it.

    Parameters
    ----------
    validation
        "Strict", "Warn" or "Ignore": what to do about unknown fields.
    custom
        Whether it is a custom resource: then its definition's schema says later which types are wrong.
    """
    if not isinstance(data, dict):
        raise bad_request("the object provided is unrecognized (must be of type Object): couldn't get version/kind")
    given_kind, given_version = data.get("kind") or "", data.get("apiVersion") or ""
    if (given_kind and given_kind != kind) or (given_version and given_version != api_version):
        version = given_version.rpartition("/")[2]
        if given_kind == kind:
            why = f'no kind "{kind}" is registered for version "{given_version}" in scheme "pkg/runtime/scheme.go:111"'
            raise bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {why}')
        raise bad_request(f"{given_kind} in version \"{given_version.rpartition('/')[2]}\" cannot be handled as a {kind}: converting "
                          f"({version}.{given_kind}) to ({_internal_name(api_version, kind)}): unknown conversion")  # fmt: skip
    found = Found(as_written=as_written, lenient=custom)
    version = api_version.rpartition("/")[2]
    try:
        obj = conform(data, node, "", found, kind)
    except WrongType as error:
        raise bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {error}') from None
    texts = found.texts()
    if texts and validation == "Strict":
        words = ", ".join(texts)
        raise bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: {words}')
    obj.pop("kind", None)
    obj.pop("apiVersion", None)
    if not isinstance(obj.get("metadata"), dict):
        obj["metadata"] = {}
    return obj, texts if validation == "Warn" else []


def _internal_name(api_version: str, kind: str) -> str:
    """The type inside the API server that a kind is converted to."""
    group = api_version.rpartition("/")[0].partition(".")[0] or "core"
    return f"{group}.{kind}"


def fill(obj: Any, node: Node, *, root: bool = True) -> None:
    """Give what must stand there its zero value, as a struct of the API server has it when it is written out."""
    if root and "status" in node.fields and node.fields["status"].kind == "struct" and node.model not in ("APIService",):
        obj.setdefault("status", {})
    if node.kind == "list" and node.item is not None and node.item.kind in ("struct", "list", "map") and isinstance(obj, list):
        for one in obj:
            fill(one, node.item, root=False)
    elif node.kind == "struct" and isinstance(obj, dict):
        fields = node.fields
        for name, value in obj.items():
            below = fields.get(name)
            if below is not None and below.kind in ("struct", "list") and name != "metadata":
                fill(value, below, root=False)
        for name, below, zero in _zeros(node):
            if name not in obj:
                obj[name] = zero
                if below is not None:
                    obj[name] = {}
                    fill(obj[name], below, root=False)


@functools.cache
def _zeros(node: Node) -> tuple[tuple[str, Node | None, Any], ...]:
    """What a struct has where nothing is said: the names, and what stands there (a struct, or a value)."""
    found: list[tuple[str, Node | None, Any]] = []
    for name, below in node.fields.items():
        if below.kind == "struct":
            if below.keep_zero:
                found.append((name, below, None))
        elif below.kind in ("time", "microtime"):
            if below.keep_zero:
                found.append((name, None, None))
        elif name == "currentMetrics" and node.model == "HorizontalPodAutoscalerStatus":
            found.append((name, None, None))
        elif below.filled and below.kind in ("integer", "boolean", "string"):
            found.append((name, None, {"integer": 0, "boolean": False, "string": ""}[below.kind]))
    return tuple(found)


def internal_error(error: Exception) -> Refused:
    """For what should not happen."""
    from opslib.lab.kube.errors import internal

    return internal(f"{type(error).__name__}: {error}")
