"""Bodies in Kubernetes' protobuf form, which kubectl sends for some commands: decoded into the same data as JSON.

The envelope is four bytes ``k8s\\0`` and a ``runtime.Unknown``. What a field is follows from the kind's schema; only the numbers of
the fields stand in ``protobuf.txt``, which ``python -m opslib.lab.kube.protobuf FOLDER...`` writes from the published .proto files.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opslib.lab import wire
from opslib.lab.kube.errors import Object, bad_request
from opslib.lab.kube.schema import ANY, Node

PROTOBUF = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_TABLE = Path(__file__).with_name("protobuf.txt")


@functools.cache
def _messages() -> dict[str, dict[int, tuple[str, str]]]:
    """Fields of each message by their number: the name, and the message that is laid into this one under no name."""
    table: dict[str, dict[int, tuple[str, str]]] = {}
    for line in _TABLE.read_text("ascii").splitlines():
        name, *fields = line.split()
        numbers = table[name] = {}
        for field in fields:
            label, _equals, rest = field.partition("=")
            number, _plus, inline = rest.partition("+")
            numbers[int(number)] = (label, inline)
    return table


def parse(body: bytes, node_of: Callable[[str, str], Node | None]) -> Object:
    """The data of a body; `node_of` gives the schema of a version and kind.

    Raises
    ------
    Refused
        It cannot be decoded.
    """
    if not body.startswith(_MAGIC):
        raise bad_request("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    try:
        unknown = dict(wire.fields(body[4:]))
        about = {number: bytes(value).decode() for number, value in wire.fields(unknown.get(1, b""))}
        api_version, kind = about.get(1, ""), about.get(2, "")
        node = node_of(api_version, kind)
        if node is None:
            raise bad_request(f'no kind "{kind}" is registered for version "{api_version}"')
        content = _message(bytes(unknown.get(2, b"")), node, message_name(node))
    except (ValueError, KeyError) as error:
        raise bad_request(f"unable to decode the protobuf body: {error}") from None
    return {"apiVersion": api_version, "kind": kind, **content}


def _message(data: bytes, node: Node, name: str) -> Object:
    table = _messages().get(name)
    if table is None:
        raise ValueError(f"unknown message {name}")
    made: Object = {}
    for number, value in wire.fields(data):
        label, inline = table.get(number, ("", ""))
        if inline:
            made.update(_message(bytes(value), node, inline))
            continue
        child = node.fields.get(label)
        if child is None:
            continue
        if child.kind == "list":
            item = child.item or ANY
            made.setdefault(label, []).append(_value(value, item))
        elif child.kind == "map":
            entry = dict(wire.fields(value))
            item = child.item or ANY
            made.setdefault(label, {})[bytes(entry.get(1, b"")).decode()] = _value(entry.get(2, b""), item)
        else:
            decoded = _value(value, child)
            if decoded is not None:
                made[label] = decoded
    return made


def _value(value: Any, node: Node) -> Any:
    kind = node.kind
    if kind == "struct":
        return _message(bytes(value), node, message_name(node))
    if kind == "string":
        return bytes(value).decode()
    if kind == "integer":
        return wire.signed(value)
    if kind == "boolean":
        return bool(value)
    if kind == "bytes":
        return base64.b64encode(bytes(value)).decode()
    if kind == "quantity":
        return next((bytes(one).decode() for number, one in wire.fields(value) if number == 1), "0")
    if kind in ("time", "microtime"):
        parts = {number: wire.signed(one) for number, one in wire.fields(value)}
        if not parts.get(1):
            return None
        moment = datetime.fromtimestamp(parts[1], UTC).replace(microsecond=parts.get(2, 0) // 1000)
        return moment.isoformat().replace("+00:00", "Z")
    if kind == "int-or-string":
        parts = dict(wire.fields(value))
        return bytes(parts.get(3, b"")).decode() if parts.get(1) else wire.signed(parts.get(2, 0))
    if kind == "list":  # lists in maps: a message of their own
        return [_value(one, node.item or ANY) for _number, one in wire.fields(value)]
    if kind == "any" and isinstance(value, bytes):
        raw = next((one for number, one in wire.fields(value) if number == 1), b"")
        return json.loads(raw) if raw else None
    return value


def message_name(node: Node) -> str:
    """The message of a struct: its type's name, with the group before it where another group has a type of that name."""
    group = re.match(r"[A-Z][a-z]+(?=V\d)", node.identifier)
    name = f"{group[0].lower()}.{node.model}" if group else node.model
    return name if name in _messages() else node.model


def field_names(name: str) -> set[str]:
    """The fields that a message has in the served release, those laid into it included; empty where it is not in the table."""
    names: set[str] = set()
    for label, inline in _messages().get(name, {}).values():
        names |= field_names(inline) if inline else {label}
    return names


def collect(folders: list[Path]) -> str:
    """The table's text from the .proto files in `folders`, in that order: of two messages of one name the later one gets its group's."""
    found: dict[str, dict[str, tuple[int, str]]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("generated.proto"), reverse=True):
            if re.search(r"alpha|beta", str(path)):
                continue
            text = re.sub(r"//[^\n]*", "", path.read_text("utf-8"))
            package = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
            group = package[1].split(".")[-2] if package else ""
            for message in re.finditer(r"^message (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL):
                name = f"{group}.{message[1]}" if message[1] in found else message[1]
                if name in found:
                    continue  # an older version of the group
                fields = found.setdefault(name, {})
                for field in re.finditer(
                    r"(?:optional|repeated)\s+([\w.]+)\s+(\w+)\s*=\s*(\d+)|(map<[^>]*>)\s+(\w+)\s*=\s*(\d+)", message[2]
                ):
                    kind, label, number = (field[1], field[2], field[3]) if field[1] else ("map", field[5], field[6])
                    fields[_json_name(label, name)] = (int(number), kind.rpartition(".")[2])
    lines = [
        " ".join(
            [
                name,
                *(
                    f"{label}={number}" + (f"+{kind}" if label in _INLINE and kind[0].isupper() else "")
                    for label, (number, kind) in fields.items()
                ),
            ]
        )
        for name, fields in sorted(found.items())
        if fields
    ]
    return "\n".join(lines) + "\n"


_INLINE = {
    "volumeSource", "persistentVolumeSource", "handler", "ephemeralContainerCommon", "localObjectReference", "ingressRuleValue",
}  # fmt: skip


def _json_name(label: str, message: str) -> str:
    if message == "JSONSchemaProps":
        if label in ("ref", "schema"):
            return f"${label}"
        if label.startswith("xKubernetes"):
            return re.sub(r"[A-Z]", lambda letter: f"-{letter[0].lower()}", label)
    return "apiGroup" if label == "aPIGroup" else label[0].lower() + label[1:]


if __name__ == "__main__":
    sys.stdout.write(collect([Path(one) for one in sys.argv[1:]]))
