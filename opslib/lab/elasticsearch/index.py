"""One index: documents, and a column a field over which searches and aggregations run.

A column is a list of (document, value) pairs in the order of documents, so that missing and multiple values cost nothing. Keywords
and the words of texts are numbers into a list of terms; a text is its words one after another, which is all that a phrase needs.
Sources are kept in compressed blocks.
"""

from __future__ import annotations

import secrets
import time
import zlib
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from opslib.lab.elasticsearch.analysis import tokens
from opslib.lab.elasticsearch.errors import Refused
from opslib.lab.elasticsearch.mapping import FLOATS, INTEGERS, KEYWORDS, Mapping

Docs = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
_BLOCK = 128


class Growing:
    """An array that is appended to; `view` is what is there, and stays as it is when more comes."""

    def __init__(self, kind: type) -> None:
        self._array: npt.NDArray[Any] = np.zeros(16, kind)
        self._length = 0
        self._new: list[Any] = []

    def append(self, value: Any) -> None:
        self._new.append(value)

    def extend(self, values: Iterable[Any]) -> None:
        self._new.extend(values)

    def __len__(self) -> int:
        return self._length + len(self._new)

    @property
    def view(self) -> npt.NDArray[Any]:
        if self._new:
            length = self._length + len(self._new)
            if length > len(self._array):
                larger = np.zeros(max(length, 2 * len(self._array)), self._array.dtype)
                larger[: self._length] = self._array[: self._length]
                self._array = larger
            self._array[self._length : length] = self._new
            self._length = length
            self._new = []
        return self._array[: self._length]


@dataclass(frozen=True, slots=True)
class Words:
    """An index of a text's words. `owner` is the number of the text that each word is in."""

    docs: Docs
    owner: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    begins: npt.NDArray[np.int64]

    @classmethod
    def of(cls, docs: Docs, values: npt.NDArray[Any], lengths: npt.NDArray[np.int32], terms: int) -> Words:
        """Of the words one after another, and how many each text has."""
        order = np.argsort(values, kind="stable")
        begins = np.searchsorted(values[order], np.arange(terms + 1))
        return cls(docs, np.repeat(np.arange(len(lengths)), lengths), order, begins)

    def places(self, number: int) -> npt.NDArray[np.int64]:
        """Where a word is, ascending."""
        return self.order[self.begins[number] : self.begins[number + 1]]

    def docs_of(self, number: int) -> Docs:
        """The document of each place of a word."""
        return self.docs[self.owner[self.places(number)]]


class Column:
    """The values of a field. `kind` is "keyword", "integer", "float" or "text"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._docs = Growing(np.int32)
        self._values = Growing({"integer": np.int64, "float": np.float64}.get(kind, np.int32))
        self.terms: list[str] = []
        self.numbers: dict[str, int] = {}
        self._lengths = Growing(np.int32)  # of a text: words a value
        self._sorted: tuple[int, npt.NDArray[np.int32]] | None = None
        self._words: tuple[int, Words] | None = None

    def add(self, doc: int, value: Any) -> None:
        """Append a value of a document that is not before the last one."""
        if self.kind == "text":
            words = [self._number(word) for word in tokens(value)]
            self._docs.append(doc)
            self._lengths.append(len(words))
            self._values.extend(words)
            return
        self._docs.append(doc)
        self._values.append(self._number(value) if self.kind == "keyword" else value)

    def _number(self, term: str) -> int:
        number = self.numbers.get(term)
        if number is None:
            number = self.numbers[term] = len(self.terms)
            self.terms.append(term)
        return number

    @property
    def docs(self) -> Docs:
        """Document of each value; of a text, of each whole text."""
        return self._docs.view

    @property
    def values(self) -> npt.NDArray[Any]:
        """Values, or numbers of terms; of a text, of all words of all texts."""
        return self._values.view

    @property
    def words(self) -> Words:
        """Of a text: where each word is."""
        values = self._values.view
        if self._words is None or self._words[0] != len(values):
            self._words = (len(values), Words.of(self._docs.view, values, self._lengths.view, len(self.terms)))
        return self._words[1]

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Of a text: words of each value."""
        return self._lengths.view

    def order(self) -> npt.NDArray[np.int32]:
        """The rank of each term."""
        if self._sorted is None or self._sorted[0] != len(self.terms):
            rank = np.empty(len(self.terms), np.int32)
            rank[sorted(range(len(self.terms)), key=lambda number: self.terms[number].encode())] = np.arange(len(self.terms))
            self._sorted = (len(self.terms), rank)
        return self._sorted[1]


class Index:
    """One index; whoever uses it holds the cluster's lock."""

    def __init__(self, name: str, settings: dict[str, Any], mapping: Mapping, aliases: dict[str, Any] | None = None) -> None:
        self.name = name
        self.uuid = secrets.token_urlsafe(16)
        self.created = int(time.time() * 1000)
        self.settings = settings
        self.mapping = mapping
        self.aliases = aliases or {}
        self.closed = False
        self.columns: dict[str, Column] = {}
        self.ids: dict[str, int] = {}
        self.names: list[str] = []
        self.versions: dict[str, int] = {}  # of documents that were written more than once
        self.sequence = -1
        self._live = Growing(np.bool_)
        self._dead: set[int] = set()
        self._blocks: list[bytes] = []
        self._open: list[bytes] = []
        self._cache: tuple[int, list[bytes]] = (-1, [])
        self.bytes = 0

    # --- writing ---

    def write(self, id: str | None, source: bytes, *, create: bool = False) -> dict[str, Any]:
        """Index a document; what the answer says of it.

        Raises
        ------
        Refused
            It exists already (`create`), is no object, or has a value that its field cannot take.
        """
        id = id or urlsafe_b64encode(secrets.token_bytes(15)).decode()
        known = self.ids.get(id)
        if create and known is not None:
            raise self.conflict(id, "document already exists", self.versions.get(id, 1))
        try:
            content = msgspec.json.decode(source)
        except msgspec.DecodeError as error:
            cause = {"type": "json_parse_exception", "reason": str(error)}
            raise Refused(400, "mapper_parsing_exception", "failed to parse", caused_by=cause) from error
        if not isinstance(content, dict):
            cause = {"type": "not_x_content_exception", "reason": "not an object"}
            raise Refused(400, "mapper_parsing_exception", "failed to parse", caused_by=cause)
        values = self.mapping.flatten(content, id)
        if known is not None:
            self._dead.add(known)
        doc = len(self.names)
        for name, value in values:
            if value is not None:
                self._column(name).add(doc, value)
        self.names.append(id)
        self.ids[id] = doc
        self._live.append(True)
        self._keep(source)
        return self._result(id, "created" if known is None else "updated", self._bump(id, known is None))

    def _bump(self, id: str, fresh: bool) -> int:
        version = self.versions.get(id, 0 if fresh else 1) + 1
        if version > 1:
            self.versions[id] = version
        self.sequence += 1
        return version

    def delete(self, id: str) -> dict[str, Any]:
        """Delete a document; the result says where there was none."""
        doc = self.ids.pop(id, None)
        if doc is None:
            return self._result(id, "not_found", self._bump(id, True))
        self._dead.add(doc)
        return self._result(id, "deleted", self._bump(id, False))

    def conflict(self, id: str, what: str, version: int) -> Refused:
        """The refusal of a write that came too late."""
        reason = f"[{id}]: version conflict, {what} (current version [{version}])"
        return Refused(409, "version_conflict_engine_exception", reason, index=self.name, shard="0", index_uuid=self.uuid)

    def _result(self, id: str, result: str, version: int) -> dict[str, Any]:
        return {
            "_index": self.name,
            "_id": id,
            "_version": version,
            "result": result,
            "_shards": {"total": 1 + self.replicas, "successful": 1, "failed": 0},
            "_seq_no": self.sequence,
            "_primary_term": 1,
        }

    def _column(self, name: str) -> Column:
        column = self.columns.get(name)
        if column is None:
            column = self.columns[name] = Column(column_kind(str(self.mapping.fields[name]["type"])))
        return column

    def _keep(self, source: bytes) -> None:
        self.bytes += len(source)
        self._open.append(source)
        if len(self._open) == _BLOCK:
            self._blocks.append(zlib.compress(msgspec.msgpack.encode(self._open), 1))
            self._open = []

    # --- reading ---

    @property
    def replicas(self) -> int:
        """Replicas, none of which is ever there: there is one node."""
        return int(self.settings.get("number_of_replicas", 1))

    @property
    def live(self) -> Mask:
        """Which documents are there."""
        view = self._live.view
        if self._dead:
            view[list(self._dead)] = False
            self._dead = set()
        return view

    @property
    def count(self) -> int:
        """How many documents are there."""
        return len(self.ids)

    @property
    def deleted(self) -> int:
        """How many were deleted or written over."""
        return len(self.names) - len(self.ids)

    def source(self, doc: int) -> bytes:
        """The source of a document."""
        block, place = divmod(doc, _BLOCK)
        if block == len(self._blocks):
            return self._open[place]
        if self._cache[0] != block:
            self._cache = (block, msgspec.msgpack.decode(zlib.decompress(self._blocks[block]), type=list[bytes]))
        return self._cache[1][place]

    def column(self, name: str) -> Column | None:
        """The column of a field; None where no document has it."""
        if name == "_id":
            column = Column("keyword")
            for doc, id in enumerate(self.names):
                column.add(doc, id)
            return column
        if name == "_index":
            column = Column("keyword")
            for doc in range(len(self.names)):
                column.add(doc, self.name)
            return column
        return self.columns.get(name)

    def sources(self) -> Iterable[tuple[str, bytes]]:
        """All documents: id and source."""
        for id, doc in self.ids.items():
            yield id, self.source(doc)


def column_kind(kind: str) -> str:
    """The kind of column for a type."""
    if kind in INTEGERS or kind in ("date", "date_nanos", "boolean"):
        return "integer"
    if kind in FLOATS:
        return "float"
    return "keyword" if kind in (*KEYWORDS, "binary") else "text"


def docs_of(mask: Mask) -> Sequence[int] | npt.NDArray[np.int64]:
    """Documents of a mask."""
    return np.flatnonzero(mask)
