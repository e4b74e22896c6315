"""The OpenAPI v2 document as protobuf, in which kubectl asks for it where version 3 has no answer, such as for lists of objects.

The messages are those of gnostic's OpenAPIv2.proto; parts of schemas that it does not know are left out, as the real server does.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from opslib.lab.kube.errors import Object
from opslib.lab.wire import field, varint

MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
MEDIA_TYPES = (MEDIA_TYPE, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13}
_DOUBLES = {"multipleOf": 6, "maximum": 7, "minimum": 9}
_NUMBERS = {"maxLength": 11, "minLength": 12, "maxItems": 14, "minItems": 15, "maxProperties": 17, "minProperties": 18}
_FLAGS = {"exclusiveMaximum": 8, "exclusiveMinimum": 10, "uniqueItems": 16, "readOnly": 26}


def encode(document: Object) -> bytes:
    """The document's bytes."""
    info = document["info"]
    definitions = b"".join(field(1, _named(name, schema)) for name, schema in document["definitions"].items())
    about = field(1, info["title"].encode()) + field(2, info["version"].encode())
    return field(1, document["swagger"].encode()) + field(2, about) + field(8, b"") + field(9, definitions)


def _schema(schema: Object) -> bytes:
    made = [field(number, schema[name].encode()) for name, number in _TEXTS.items() if schema.get(name)]
    if "default" in schema:
        made.append(field(5, _any(schema["default"])))
    made += [varint(number << 3 | 1) + struct.pack("<d", schema[name]) for name, number in _DOUBLES.items() if name in schema]
    made += [varint(number << 3) + varint(schema[name]) for name, number in _NUMBERS.items() if name in schema]
    made += [varint(number << 3) + b"\x01" for name, number in _FLAGS.items() if schema.get(name) is True]
    made += [field(19, name.encode()) for name in schema.get("required") or ()]
    made += [field(20, _any(value)) for value in schema.get("enum") or ()]
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        made.append(field(21, field(1, _schema(more))))
    elif more:
        made.append(field(21, varint(2 << 3) + b"\x01"))
    if schema.get("type"):
        made.append(field(22, field(1, schema["type"].encode())))
    if isinstance(schema.get("items"), dict):
        made.append(field(23, field(1, _schema(schema["items"]))))
    made += [field(24, _schema(one)) for one in schema.get("allOf") or ()]
    properties = schema.get("properties")
    if properties:
        made.append(field(25, b"".join(field(1, _named(name, one)) for name, one in properties.items())))
    for name, value in schema.items():
        if name.startswith("x-"):
            made.append(field(31, field(1, name.encode()) + field(2, _any(value))))
    return b"".join(made)


def _named(name: str, schema: Object) -> bytes:
    return field(1, name.encode()) + field(2, _schema(schema))


def _any(value: Any) -> bytes:
    return field(2, (json.dumps(value) + "\n").encode())  # JSON is YAML
