"""Decoders of JSON into typed objects, made one at a time.

msgspec learns the shape of a class the first time that it is used, and shows the unfinished result to other threads: two that meet a class
for the first time at the same moment crash the process. Chapters ask many questions at once, so every class is learnt under a lock here.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Hashable
from typing import Any, cast

import msgspec

_learning = threading.Lock()


def decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    """What decodes JSON as `kind`, taking "1" for 1; the same one each time. Decoding itself may go on in many threads."""
    with _learning:
        return _decoder(cast(Hashable, kind))


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, strict=False)
