"""Prometheus' remote read protocol: a real Prometheus asks for the samples of a store (prompb/remote.proto in its source, SAMPLES form).

Requests and answers are protocol buffers in snappy's block format. The few messages are taken apart and put together by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from opslib.lab import wire
from opslib.lab.prometheus.labels import Labels, Matcher
from opslib.lab.prometheus.store import Floats, Integers, Samples, Store, is_absent

CONTENT_TYPE = "application/x-protobuf"
_SIGNS = ("=", "!=", "=~", "!~")


@dataclass(slots=True)
class Query:
    """What is asked for: times in milliseconds, both included."""

    start: int = 0
    end: int = 0
    matchers: list[Matcher] = field(default_factory=list)


def answer(store: Store, request: bytes) -> bytes:
    """The answer to a request, both as they are sent.

    Raises
    ------
    ValueError
        The request is not one.
    """
    import cramjam

    try:
        plain = bytes(cramjam.snappy.decompress_raw(request))
    except cramjam.DecompressionError as error:
        raise ValueError(f"not in snappy's block format: {error}") from error
    parts = [wire.field(1, b"".join(_results(store, query))) for query in queries(plain)]
    return bytes(cramjam.snappy.compress_raw(b"".join(parts)))


def queries(message: bytes) -> list[Query]:
    """The queries of a ReadRequest."""
    return [_query(value) for number, value in wire.fields(message) if number == 1 and isinstance(value, bytes)]


def _query(message: bytes) -> Query:
    query = Query()
    for number, value in wire.fields(message):
        if number == 1 and isinstance(value, int):
            query.start = wire.signed(value)
        elif number == 2 and isinstance(value, int):
            query.end = wire.signed(value)
        elif number == 3 and isinstance(value, bytes):
            parts = dict(wire.fields(value))
            name, text = parts.get(2, b""), parts.get(3, b"")
            kind = parts.get(1, 0)
            if not isinstance(name, bytes) or not isinstance(text, bytes) or kind not in range(len(_SIGNS)):
                raise ValueError("a matcher that is none")
            query.matchers.append(Matcher(name.decode(), _SIGNS[int(kind)], text.decode()))
    return query


def _results(store: Store, query: Query) -> Iterator[bytes]:
    """The series of a QueryResult, ordered by their labels as Prometheus wants them."""
    found = store.find(query.matchers, query.start, query.end)
    order: dict[Labels, bytes] = {}
    for samples in store.read(found, query.start, query.end):
        for labels, message in _series(samples):
            order[labels] = message
    for labels in store.labels(found):
        if labels in order:
            yield order[labels]


def _series(samples: Samples) -> Iterator[tuple[Labels, bytes]]:
    there = ~is_absent(samples.values)
    for row, labels in enumerate(samples.labels):
        if there[row].any():
            named = b"".join(wire.field(1, wire.field(1, name.encode()) + wire.field(2, value.encode())) for name, value in labels)
            yield labels, wire.field(1, named + _samples(samples.times[there[row]], samples.values[row, there[row]]))


def _samples(times: Integers, values: Floats) -> bytes:
    """Samples of a TimeSeries. Times of our century take six bytes each, so all are equally long and are written as one table."""
    table = np.empty((len(times), 18), np.uint8)
    table[:, 0], table[:, 1] = 0x12, 16  # field 2, so many bytes
    table[:, 2] = 0x09  # field 1, a double
    table[:, 3:11] = np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(-1, 8)
    table[:, 11] = 0x10  # field 2, a number
    rest = times.astype(np.uint64)
    for column in range(6):
        table[:, 12 + column] = (rest & np.uint64(0x7F)) | np.uint64(0x80 if column < 5 else 0)
        rest = rest >> np.uint64(7)
    return table.tobytes()
