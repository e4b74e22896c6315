"""Protocol buffers' wire format: the fields of a message, read and written (https://protobuf.dev/programming-guides/encoding/).

What a field means is the business of who asks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message in order, each with its number: int, bytes, or float for those of fixed length.

    Raises
    ------
    ValueError
        It is none: it ends in the middle, or has a field of a kind that is not known.
    """
    position, size = 0, len(data)
    while position < size:
        tag, position = _number(data, position)
        kind = tag & 7
        value: Any
        if kind == 0:
            value, position = _number(data, position)
        else:
            length = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                length, position = _number(data, position)
            if length is None:
                raise ValueError(f"illegal wire type {kind}")
            if position + length > size:
                raise ValueError("unexpected EOF")
            value, position = data[position : position + length], position + length
            if kind != 2:
                value = struct.unpack("<d" if kind == 1 else "<f", value)[0]
        yield tag >> 3, value


def signed(value: int) -> int:
    """A number of `fields` as an int64: negative ones come as very large."""
    return value - (1 << 64) if value >= 1 << 63 else value


def field(number: int, content: bytes) -> bytes:
    """A field with text, bytes or a message in it."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number that is not negative."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _number(data: bytes, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise ValueError("unexpected EOF")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("integer overflow")
