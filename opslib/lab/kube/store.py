"""The versioned store: every object in its newest version, and the changes of the last minutes.

One counter gives each change its resourceVersion, as etcd does. Objects are kept encoded (that is what most answers need); labels, the
fields that selectors may name, and the printed cells are kept beside them. All methods are called on one thread, the server's event loop.
With a file (`opslib.lab.kube.state`), changes are written behind the answers, and a server starts again with what is there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from opslib.lab.kube.errors import Object
from opslib.lab.kube.state import File

Key = tuple[str, str]  # namespace ("" where there is none), name

_encode = msgspec.json.Encoder(order="sorted").encode


class _Head(msgspec.Struct):
    metadata: msgspec.Raw


_head = msgspec.json.Decoder(_Head)
_decode = msgspec.json.Decoder()
_RESTART = 1_000_000

Cells = tuple[Any, ...]


class Record:
    """One object in one version. `body` is its JSON without ``kind`` and ``apiVersion``."""

    __slots__ = ("_cells", "body", "fields", "key", "labels", "uid", "version")

    def __init__(self, key: Key, version: int, body: bytes, uid: str, labels: dict[str, str], fields: dict[str, str]) -> None:
        self.key = key
        self.version = version
        self.body = body
        self.uid = uid
        self.labels = labels
        self.fields = fields
        self._cells: Cells | None = None

    @property
    def name(self) -> str:
        """The object's name."""
        return self.key[1]

    @property
    def namespace(self) -> str:
        """Its namespace, empty where there is none."""
        return self.key[0]

    def object(self) -> Object:
        """The object decoded, a new one each time."""
        decoded: Object = _decode.decode(self.body)
        return decoded

    def metadata(self) -> bytes:
        """The JSON of its metadata."""
        return bytes(_head.decode(self.body).metadata)

    def cells(self, printer: Callable[[Object], Cells]) -> Cells:
        """What `printer` prints of it, kept."""
        if self._cells is None:
            self._cells = printer(self.object())
        return self._cells


@dataclass(frozen=True, slots=True)
class Change:
    """One change: "ADDED", "MODIFIED" or "DELETED", with the object after it (its last state, in a new version, where it is gone)."""

    version: int
    type: str
    record: Record
    previous: Record | None
    time: float


class Compacted(Exception):
    """What was asked for is older than the changes that are kept. `oldest` is the first version that can be asked for."""

    def __init__(self, oldest: int) -> None:
        super().__init__(oldest)
        self.oldest = oldest


class Exists(Exception):
    """The name is taken."""


class Changed(Exception):
    """The object is not in the version expected, or not there."""


Fields = Callable[[str, Object], dict[str, str]]
Listener = Callable[[Change], None]


class _Shelf:
    """All objects of one resource."""

    __slots__ = ("_keys", "changes", "compacted", "listeners", "records")

    def __init__(self) -> None:
        self.records: dict[Key, Record] = {}
        self._keys: list[Key] | None = None
        self.changes: deque[Change] = deque()
        self.compacted = 0
        self.listeners: set[Listener] = set()

    def ordered(self) -> list[Key]:
        """All keys in order."""
        if self._keys is None:
            self._keys = sorted(self.records)
        return self._keys

    def touched(self) -> None:
        self._keys = None


class Store:
    """See the module's text.

    Parameters
    ----------
    fields
        Gives of a resource's object the fields that selectors may name.
    file
        Where the state is kept; None keeps everything in memory.
    window_seconds, window_bytes
        How long changes are kept, and how much of them.
    """

    def __init__(self, fields: Fields, file: File | None = None, *, window_seconds: float = 300, window_bytes: int = 64_000_000) -> None:
        self._fields = fields
        self._shelves: dict[str, _Shelf] = {}
        self._window_seconds = window_seconds
        self._window_bytes = window_bytes
        self._kept_bytes = 0
        self._log: deque[str] = deque()  # the resource of each kept change, oldest first
        self.version = 0
        self._begun = 0  # the version of the start: older ones are not known
        self._file = file
        if file is not None:
            self._load(file)

    def close(self) -> None:
        """Write what is owed to the file."""
        if self._file is not None:
            self._file.close()

    # --- reading ---

    def get(self, resource: str, key: Key) -> Record | None:
        """The newest version of an object."""
        return self._shelf(resource).records.get(key)

    def count(self, resource: str) -> int:
        """How many objects there are."""
        return len(self._shelf(resource).records)

    def resources(self) -> list[str]:
        """Resources of which objects are or were kept."""
        return [*self._shelves]

    def records(self, resource: str, namespace: str = "") -> list[Record]:
        """All objects, of one namespace where it is named, by namespace and name."""
        shelf = self._shelf(resource)
        if namespace:
            return [shelf.records[key] for key in shelf.ordered() if key[0] == namespace]
        return [shelf.records[key] for key in shelf.ordered()]

    def records_at(self, resource: str, version: int, namespace: str = "") -> list[Record]:
        """The same as it was at `version`.

        Raises
        ------
        Compacted
            The changes since then are no longer kept.
        """
        shelf = self._shelf(resource)
        if version >= self.version:
            return self.records(resource, namespace)
        self._forget_old()
        if version < shelf.compacted:
            raise Compacted(shelf.compacted)
        past: dict[Key, Record | None] = {}
        for change in reversed(shelf.changes):
            if change.version <= version:
                break
            past[change.record.key] = change.previous
        if not past:
            return self.records(resource, namespace)
        merged = {key: record for key, record in shelf.records.items() if key not in past}
        merged |= {key: record for key, record in past.items() if record is not None}
        return [merged[key] for key in sorted(merged) if not namespace or key[0] == namespace]

    def changes_since(self, resource: str, version: int) -> Iterator[Change]:
        """The kept changes after `version`, oldest first.

        Raises
        ------
        Compacted
            Some of them are no longer kept.
        """
        shelf = self._shelf(resource)
        self._forget_old()
        if version < shelf.compacted:
            raise Compacted(shelf.compacted)
        return iter([change for change in shelf.changes if change.version > version])

    def listen(self, resource: str, listener: Listener) -> Callable[[], None]:
        """Have `listener` called with every later change; what is returned ends that."""
        listeners = self._shelf(resource).listeners
        listeners.add(listener)
        return lambda: listeners.discard(listener)

    # --- writing ---

    def create(self, resource: str, key: Key, obj: Object) -> Record:
        """Add an object; its metadata gets the resourceVersion.

        Raises
        ------
        Exists
            The name is taken.
        """
        if key in self._shelf(resource).records:
            raise Exists
        return self._write("ADDED", resource, key, obj, None)

    def update(self, resource: str, obj: Object, previous: Record) -> Record:
        """Put `obj` in the place of `previous`. Where nothing has changed, `previous` stays.

        Raises
        ------
        Changed
            `previous` is no longer the newest version.
        """
        if self._shelf(resource).records.get(previous.key) is not previous:
            raise Changed
        obj["metadata"]["resourceVersion"] = str(previous.version)
        if _encode(obj) == previous.body:
            return previous
        return self._write("MODIFIED", resource, previous.key, obj, previous)

    def delete(self, resource: str, previous: Record, obj: Object | None = None) -> Record:
        """Remove an object; its last state (`obj` where it differs from the stored one) with the version of the removal.

        Raises
        ------
        Changed
            `previous` is no longer the newest version.
        """
        if self._shelf(resource).records.get(previous.key) is not previous:
            raise Changed
        return self._write("DELETED", resource, previous.key, obj if obj is not None else previous.object(), previous)

    def look_again(self, resource: str) -> None:
        """Read the selectable fields and the printed cells of all objects anew: the resource's definition has changed."""
        shelf = self._shelf(resource)
        if not shelf.records:
            shelf.compacted = self.version  # of what was before there were such objects nothing is known
        for record in shelf.records.values():
            record.fields = self._fields(resource, record.object())
            record._cells = None

    def forget(self, resource: str) -> None:
        """Drop a resource with all of its objects, without a word to listeners (its definition is gone)."""
        for record in self.records(resource):
            self.delete(resource, record)

    def _write(self, kind: str, resource: str, key: Key, obj: Object, previous: Record | None) -> Record:
        version = self.version + 1
        record = self._record(resource, key, version, obj)
        self.version = version
        shelf = self._shelf(resource)
        if kind == "DELETED":
            del shelf.records[key]
        else:
            shelf.records[key] = record
        if kind != "MODIFIED":
            shelf.touched()
        if self._file is not None:
            self._file.put(resource, *key, version, None if kind == "DELETED" else record.body)
        change = Change(version, kind, record, previous, time.monotonic())
        shelf.changes.append(change)
        self._log.append(resource)
        self._kept_bytes += len(record.body)
        self._forget_old()
        for listener in [*shelf.listeners]:
            listener(change)
        return record

    def _record(self, resource: str, key: Key, version: int, obj: Object) -> Record:
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(version)
        labels = metadata.get("labels") or {}
        return Record(key, version, _encode(obj), str(metadata.get("uid", "")), labels, self._fields(resource, obj))

    def _forget_old(self) -> None:
        """Drop the oldest changes that are too old, or too much. Some of each resource stay, so that its watchers can go on."""
        oldest = time.monotonic() - self._window_seconds
        while self._log:
            shelf = self._shelves[self._log[0]]
            change = shelf.changes[0]
            if change.time >= oldest and self._kept_bytes <= self._window_bytes:
                return
            self._log.popleft()
            shelf.changes.popleft()
            shelf.compacted = change.version
            self._kept_bytes -= len(change.record.body)

    def _shelf(self, resource: str) -> _Shelf:
        shelf = self._shelves.get(resource)
        if shelf is None:
            shelf = self._shelves[resource] = _Shelf()
            shelf.compacted = self._begun
        return shelf

    def _load(self, file: File) -> None:
        """Take up what the file has.

        No changes are kept over a restart, and the last ones before it may be lost, whose versions somebody may have seen. So versions go
        on from the next million: whoever asks for the changes since a version of before is told that they are gone.
        """
        known = file.version()
        if known:
            self.version = self._begun = (known // _RESTART + 1) * _RESTART
        for resource, namespace, name, version, body in file.rows():
            obj = _decode.decode(body)
            metadata = obj["metadata"]
            key = (namespace, name)
            uid, labels = str(metadata.get("uid", "")), metadata.get("labels") or {}
            self._shelf(resource).records[key] = Record(key, version, body, uid, labels, self._fields(resource, obj))
