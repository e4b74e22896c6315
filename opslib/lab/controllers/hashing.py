"""The names that the real controllers make of a pod template: FNV hashes, written without vowels."""

from __future__ import annotations

import json

from opslib.lab.api import Object
from opslib.lab.controllers import spew

_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def fnv32(data: bytes) -> int:
    """FNV-1, 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value


def fnv32a(data: bytes) -> int:
    """FNV-1a, 32 bits."""
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def safe(text: str) -> str:
    """A text in letters of which no bad word can be made (``SafeEncodeString``)."""
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in text.encode())


def go_json(content: object) -> bytes:
    """JSON as Go writes it of maps: keys sorted, no spaces, HTML's special characters escaped."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def template_hash(template: Object, collisions: int | None) -> str:
    """The hash of a pod template, as the label pod-template-hash has it (``ComputeHash``)."""
    data = spew.template(template).encode()
    if collisions is not None:
        data += collisions.to_bytes(4, "little") + b"\0\0\0\0"
    return safe(str(fnv32a(data)))
