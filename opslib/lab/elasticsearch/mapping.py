"""Mappings: which fields there are, of which types, and what a document gives each of them."""

from __future__ import annotations

import copy
import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from opslib.lab.elasticsearch import dates
from opslib.lab.elasticsearch.errors import Refused

INTEGERS = {"long": 63, "integer": 31, "short": 15, "byte": 7, "unsigned_long": 64}
FLOATS = ("double", "float", "half_float", "scaled_float")
KEYWORDS = ("keyword", "wildcard", "constant_keyword", "ip", "version")
_KNOWN = {
    *INTEGERS,
    *FLOATS,
    *KEYWORDS,
    "text",
    "match_only_text",
    "date",
    "date_nanos",
    "boolean",
    "object",
    "flat_object",
    "alias",
    "binary",
}
_DYNAMIC_TEXT = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}


class Mapping:
    """The fields of an index. `fields` has every leaf by its whole name, multi-fields too."""

    def __init__(self, content: dict[str, Any] | None = None) -> None:
        self.content: dict[str, Any] = {}
        self.fields: dict[str, dict[str, Any]] = {}
        self.objects: set[str] = set()
        self._dynamics: dict[str, Any] = {}
        self.version = 0
        if content:
            self.merge(content)

    def merge(self, content: dict[str, Any]) -> None:
        """Add to the mapping.

        Raises
        ------
        Refused
            A type that is not known, or that differs from what the field already has.
        """
        new = copy.deepcopy(self.content)
        for key, value in content.items():
            if key == "properties":
                _merge_properties(new.setdefault("properties", {}), value, "")
            elif key in ("dynamic", "date_detection", "numeric_detection", "_source", "_meta", "dynamic_templates", "_routing"):
                new[key] = value
            else:
                reason = f"Root mapping definition has unsupported parameters:  [{key} : {value}]"
                raise Refused(400, "mapper_parsing_exception", f"Failed to parse mapping [_doc]: {reason}", root=reason)
        self.content = new
        self._flatten()

    def _flatten(self) -> None:
        self.fields, self.objects = {}, set()
        self._dynamics = dict(_dynamics(self.content.get("properties", {}), ""))
        self.version += 1
        for name, field in _leaves(self.content.get("properties", {}), "", self.objects):
            self.fields[name] = field
            for below, inner in field.get("fields", {}).items():
                self.fields[f"{name}.{below}"] = inner

    def type_of(self, name: str) -> str | None:
        """The type of a field; None where there is none."""
        field = self.fields.get(name)
        return None if field is None else str(field["type"])

    def format_of(self, name: str) -> str:
        """The date format of a field."""
        return str(self.fields.get(name, {}).get("format", dates.DEFAULT))

    # --- documents ---

    def flatten(self, source: dict[str, Any], id: str) -> list[tuple[str, Any]]:
        """What a document gives to which field, mapping new ones on the way.

        Raises
        ------
        Refused
            A value that its field cannot take.
        """
        found: list[tuple[str, Any]] = []
        self._object(source, "", self.content.get("dynamic", True), id, found)
        return found

    def _object(self, value: dict[str, Any], path: str, dynamic: Any, id: str, found: list[tuple[str, Any]]) -> None:
        for key, item in value.items():
            name = path + key
            field = self.fields.get(name)
            if field is not None and isinstance(item, str | int | float):
                self._field(name, field, item, id, found)
            else:
                self._value(item, name, dynamic, id, found)

    def _value(self, value: Any, name: str, dynamic: Any, id: str, found: list[tuple[str, Any]]) -> None:
        if value is None:
            return
        if isinstance(value, list):
            for item in value:
                self._value(item, name, dynamic, id, found)
            return
        if isinstance(value, dict):
            field = self.fields.get(name)
            if field is not None:
                if field["type"] == "flat_object":
                    return
                kind = field["type"]
                raise _unparsed(
                    name, kind, id, _java(value), f"Can't get text on a START_OBJECT at 1:{len(name) + 4}", "illegal_state_exception"
                )
            self._object(value, f"{name}.", self._dynamic(name, dynamic), id, found)
            return
        field = self.fields.get(name)
        if field is None:
            if name in self.objects:
                reason = (
                    f"object mapping for [{name}] tried to parse field [{name.rpartition('.')[2]}] as object, but found a concrete value"
                )
                raise Refused(400, "mapper_parsing_exception", reason)
            if str(dynamic).lower() == "false":
                return
            if dynamic == "strict":
                parent = name.rpartition(".")[0] or "_doc"
                reason = f"mapping set to strict, dynamic introduction of [{name.rpartition('.')[2]}] within [{parent}] is not allowed"
                raise Refused(400, "strict_dynamic_mapping_exception", reason)
            self._add(name, self._guess(value))
            field = self.fields[name]
        self._field(name, field, value, id, found)

    def _dynamic(self, name: str, inherited: Any) -> Any:
        return self._dynamics.get(name, inherited)

    def _field(self, name: str, field: dict[str, Any], value: Any, id: str, found: list[tuple[str, Any]]) -> None:
        if field.get("enabled") is False:
            return
        try:
            found.append((name, convert(field, value)))
        except ValueError as error:
            if not field.get("ignore_malformed"):
                kind = str(field["type"])
                raise _unparsed(name, kind, id, _shown(value), str(error)) from error
        for below, inner in field.get("fields", {}).items():
            try:
                found.append((f"{name}.{below}", convert(inner, value)))
            except ValueError:
                continue

    def _guess(self, value: Any) -> dict[str, Any]:
        if isinstance(value, bool):
            return {"type": "boolean"}
        if isinstance(value, int):
            return {"type": "long"}
        if isinstance(value, float):
            return {"type": "float"}
        if self.content.get("date_detection", True) and dates.looks_like_date(value):
            form = dates.dynamic_format(value)
            return {"type": "date", "format": form, "print_format": "yyyy/MM/dd HH:mm:ss"} if form else {"type": "date"}
        return copy.deepcopy(_DYNAMIC_TEXT)

    def _add(self, name: str, field: dict[str, Any]) -> None:
        node = self.content.setdefault("properties", {})
        parts = name.split(".")
        for part in parts[:-1]:
            node = node.setdefault(part, {}).setdefault("properties", {})
        node[parts[-1]] = field
        self._flatten()


def _java(value: Any) -> str:
    """A value as Java prints it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_java(item)}" for key, item in value.items()) + "}"
    return f"[{', '.join(map(_java, value))}]" if isinstance(value, list) else _shown(value)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unparsed(name: str, kind: str, id: str, value: str, cause: str, cause_kind: str = "illegal_argument_exception") -> Refused:
    reason = f"failed to parse field [{name}] of type [{kind}] in document with id '{id}'. Preview of field's value: '{value}'"
    return Refused(400, "mapper_parsing_exception", reason, caused_by={"type": cause_kind, "reason": cause})


def _leaves(properties: dict[str, Any], path: str, objects: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, field in properties.items():
        if "properties" in field or field.get("type", "object") in ("object", "nested"):
            objects.add(f"{path}{name}")
            yield from _leaves(field.get("properties", {}), f"{path}{name}.", objects)
        else:
            yield f"{path}{name}", field


def _dynamics(properties: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    """Which objects say themselves whether they take new fields."""
    for name, field in properties.items():
        if "dynamic" in field:
            yield f"{path}{name}", field["dynamic"]
        yield from _dynamics(field.get("properties", {}), f"{path}{name}.")


def _merge_properties(known: dict[str, Any], new: dict[str, Any], path: str) -> None:
    for name, field in new.items():
        if "." in name:
            head, _dot, rest = name.partition(".")
            _merge_properties(known, {head: {"properties": {rest: field}}}, path)
            continue
        kind = field.get("type", "object")
        if kind not in _KNOWN:
            reason = f"No handler for type [{kind}] declared on field [{name}]"
            raise Refused(400, "mapper_parsing_exception", f"Failed to parse mapping [_doc]: {reason}", root=reason)
        if name not in known:
            known[name] = {}
        old = known[name]
        old_kind = old.get("type", "object" if old else kind)
        if old and old_kind != kind:
            reason = f"mapper [{path}{name}] cannot be changed from type [{old_kind}] to [{kind}]"
            raise Refused(400, "illegal_argument_exception", reason)
        for key, value in field.items():
            if key == "properties":
                _merge_properties(old.setdefault("properties", {}), value, f"{path}{name}.")
            elif key == "type" and kind == "object":
                continue
            else:
                old[key] = copy.deepcopy(value)


def convert(field: dict[str, Any], value: Any) -> Any:
    """A value as its field keeps it: int, float, bool as int, milliseconds, or str; None where it is ignored.

    Raises
    ------
    ValueError
        The field cannot take it.
    """
    kind = field["type"]
    if kind == "text" and type(value) is str:
        return value
    if kind in INTEGERS:
        return _integer(value, kind)
    if kind in FLOATS:
        return _number(value)
    if kind == "boolean":
        if value in (True, "true"):
            return 1
        if value in (False, "false", ""):
            return 0
        raise ValueError(f"Failed to parse value [{value}] as only [true] or [false] are allowed.")
    if kind in ("date", "date_nanos"):
        return dates.parse(value, field.get("format", dates.DEFAULT))
    text = _shown(value)
    if kind == "ip":
        try:
            return str(ipaddress.ip_address(text))
        except ValueError as error:
            raise ValueError(f"'{text}' is not an IP string literal.") from error
    if kind in KEYWORDS and len(text) > field.get("ignore_above", 2**31):
        return None
    return text


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("Current token (VALUE_TRUE) not numeric, can not use numeric value accessors")  # noqa: TRY004 - it is a value's fault
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f'For input string: "{value}"') from error


def _integer(value: Any, kind: str) -> int:
    number = int(value) if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value) else value
    if not isinstance(number, int) or isinstance(number, bool):
        number = int(_number(value))
    if abs(number) > 2 ** INTEGERS[kind]:
        raise ValueError(f"Value [{value}] is out of range for {'an ' if kind == 'integer' else 'a '}{kind}")
    return number
