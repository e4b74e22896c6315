"""Lists, single objects, tables and watches: from the store's records to bytes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from opslib.lab.kube import errors, events, printers, selectors
from opslib.lab.kube.errors import Object, bad_request
from opslib.lab.kube.resources import Resource
from opslib.lab.kube.store import Change, Compacted, Record, Store

_encode = msgspec.json.encode
BOOKMARK_SECONDS = 60.0
_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue"
    " parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token"
    " results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and"
    " now may show up in the list."
)
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is to be written.

    Parameters
    ----------
    kind
        "object", "table" or "metadata".
    include
        For tables, what of each object to add: "None", "Metadata" or "Object".
    """

    kind: str = "object"
    include: str = "Metadata"
    version: str = "v1"

    @property
    def meta_version(self) -> str:
        """The version of tables and partial objects."""
        return f"meta.k8s.io/{self.version}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource."""

    namespace: str
    labels: selectors.Match
    fields: selectors.Match
    name: str = ""

    @property
    def all(self) -> bool:
        """Whether no selector stands."""
        return self.labels is selectors.everything and self.fields is selectors.everything

    def of(self, records: Iterable[Record]) -> Iterable[Record]:
        """Those of the namespace's records that are among them."""
        if self.fields is not selectors.everything:
            fields = self.fields
            records = [record for record in records if fields(record.fields)]
        if self.labels is not selectors.everything:
            labels = self.labels
            records = [record for record in records if labels(record.labels)]
        return records

    def takes(self, record: Record) -> bool:
        """Whether the record is one of them."""
        return (not self.namespace or record.namespace == self.namespace) and self.labels(record.labels) and self.fields(record.fields)


def body_of(resource: Resource, record: Record) -> bytes:
    """An object's JSON without kind and version, in the resource's form."""
    if resource.group == "events.k8s.io":
        return _encode(events.from_core(record.object()))
    return record.body


def whole(resource: Resource, record: Record) -> bytes:
    """An object's JSON."""
    return resource.header + body_of(resource, record)[1:]


def partial(resource: Resource, record: Record, form: Form, *, in_list: bool = False) -> bytes:
    """The object's metadata alone."""
    head = b'{"kind":"PartialObjectMetadata","apiVersion":"%s",' % form.meta_version.encode()
    return (b"{" if in_list else head) + b'"metadata":' + record.metadata() + b"}"


# --- tables ---


class Tables:
    """Writes tables of one resource."""

    def __init__(self, resource: Resource, form: Form, *, headers: bool = True) -> None:
        self._resource = resource
        self._form = form
        self._columns, self._printer = printers.printer_of(resource.storage, resource.custom)
        self._headers = headers

    def _written(self, obj: Object) -> tuple[Any, ...]:
        return printers.written(self._printer(obj))

    def head(self, metadata: Object, *, headers: bool = True) -> bytes:
        """The start of a table, up to its rows."""
        content: Object = {"kind": "Table", "apiVersion": self._form.meta_version, "metadata": metadata}
        content["columnDefinitions"] = [column.as_object() for column in self._columns] if headers else []
        return _encode(content)[:-1] + b',"rows":['

    def row(self, record: Record, now: float) -> bytes:
        """One row, with ages at `now` in Unix seconds."""
        cells = printers.at(record.cells(self._written), now)
        include = self._form.include
        if include == "None":
            obj = b"null"
        elif include == "Object":
            obj = whole(self._resource, record)
        else:
            obj = partial(self._resource, record, self._form)
        conditions = _conditions(self._resource, record)
        return b'{"cells":' + cells + conditions + b',"object":' + obj + b"}"

    def whole(self, record: Record, *, headers: bool = True) -> bytes:
        """A table of one object."""
        return self.head({"resourceVersion": str(record.version)}, headers=headers) + self.row(record, time.time()) + b"]}"


def table_of(kind: str, form: Form, objects: Iterable[Object]) -> bytes:
    """A table of objects that are not kept, as `printers` has them under `kind`."""
    columns, printer = printers.printer_of(kind)
    now = time.time()
    rows = []
    for obj in objects:
        about: Object | None = {"kind": "PartialObjectMetadata", "apiVersion": form.meta_version, "metadata": obj["metadata"]}
        if form.include != "Metadata":
            about = obj if form.include == "Object" else None
        rows.append({"cells": msgspec.Raw(printers.at(printers.written(printer(obj)), now)), "object": about})
    head = {"kind": "Table", "apiVersion": form.meta_version, "metadata": {}}
    return _encode({**head, "columnDefinitions": [one.as_object() for one in columns], "rows": rows})


def _conditions(resource: Resource, record: Record) -> bytes:
    if resource.storage != "pods":
        return b""
    phase = record.fields.get("status.phase")
    if phase == "Succeeded":
        text = "The pod has completed successfully."
    elif phase == "Failed":
        text = "The pod failed."
    else:
        return b""
    return b',"conditions":' + _encode([{"type": "Completed", "status": "True", "reason": phase, "message": text}])


# --- lists ---


class Lists:
    """Lists from the store, whole or by pages."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self, resource: Resource, selection: Selection, query: Callable[[str], str], form: Form) -> Iterator[bytes]:
        """A list's JSON in parts.

        Raises
        ------
        Refused
            The query cannot be answered.
        """
        version, match = query("resourceVersion"), query("resourceVersionMatch")
        limit = _number(query("limit"), "limit")
        token = query("continue")
        _check_query(version, match, token)
        start, at, asked = "", self._store.version, 0
        if token:
            at, start = self._token(token, resource)
        elif version and version != "0":
            asked = _number(version, "resourceVersion")
            if match == "Exact":
                at = asked
        if version == "0" and not token:
            limit = 0
        records = self._records(resource, selection, at, start, exact=bool(token) or match == "Exact")
        chosen: list[Record] = []
        following: Record | None = None
        remaining = 0
        counted = selection.all
        if not limit:
            chosen, records = [*records], ()
        for record in records:
            if len(chosen) == limit:
                if following is None:
                    following = record
                if not counted:
                    break
                remaining += 1
                continue
            chosen.append(record)
        metadata: Object = {"resourceVersion": str(at)}
        if following is not None:
            metadata["continue"] = _continue_token(at, chosen[-1])
            if counted:
                metadata["remainingItemCount"] = remaining
        return self._write(resource, chosen, metadata, form)

    def _records(self, resource: Resource, selection: Selection, at: int, start: str, *, exact: bool) -> Iterable[Record]:
        if selection.name and selection.namespace == "" and not resource.namespaced:
            record = self._store.get(resource.storage, ("", selection.name))
            found: list[Record] = [record] if record is not None and not exact else []
            if exact:
                found = self._store.records_at(resource.storage, at)
        elif exact:
            try:
                found = self._store.records_at(resource.storage, at, selection.namespace)
            except Compacted as error:
                if start:
                    raise errors.gone(_TOO_OLD, _encode_token({"v": "meta.k8s.io/v1", "rv": -1, "start": start})) from None
                raise errors.gone(f"The resourceVersion for the provided list is too old. (oldest: {error.oldest})") from None
        else:
            found = self._store.records(resource.storage, selection.namespace)
        if start:
            found = [record for record in found if _place(record) > start]
        return selection.of(found)

    def _token(self, token: str, resource: Resource) -> tuple[int, str]:
        try:
            content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            version, start = int(content["rv"]), str(content["start"])
            if content["v"] != "meta.k8s.io/v1":
                raise ValueError
        except (ValueError, KeyError, TypeError, binascii.Error):
            raise bad_request("invalid continue token: continue key is not valid: incorrect encoding") from None
        if version == -1:
            return self._store.version, start.rstrip("\x00")
        return version, start.rstrip("\x00")

    def _write(self, resource: Resource, records: list[Record], metadata: Object, form: Form) -> Iterator[bytes]:
        if form.kind == "table":
            tables = Tables(resource, form)
            yield tables.head(metadata)
            now = time.time()
            yield from _joined(tables.row(record, now) for record in records)
        elif form.kind == "metadata":
            head = {"kind": "PartialObjectMetadataList", "apiVersion": form.meta_version, "metadata": metadata}
            yield _encode(head)[:-1] + b',"items":['
            kind = f'{{"kind":"PartialObjectMetadata","apiVersion":"{form.meta_version}",'.encode()
            yield from _joined(kind + b'"metadata":' + record.metadata() + b"}" for record in records)
        else:
            head = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": metadata}
            yield _encode(head)[:-1] + b',"items":['
            if resource.custom is not None:
                yield from _joined(whole(resource, record) for record in records)
            else:
                yield from _joined(body_of(resource, record) for record in records)
        yield b"]}"


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Parts with commas between them, gathered to about half a megabyte."""
    gathered: list[bytes] = []
    size = 0
    first = True
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size > 500_000:
            yield (b"" if first else b",") + b",".join(gathered)
            first = False
            gathered, size = [], 0
    if gathered:
        yield (b"" if first else b",") + b",".join(gathered)


def _place(record: Record) -> str:
    return f"{record.namespace}/{record.name}" if record.namespace else record.name


def _continue_token(version: int, last: Record) -> str:
    return _encode_token({"v": "meta.k8s.io/v1", "rv": version, "start": f"{_place(last)}\x00"})


def _encode_token(content: Object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content, separators=(",", ":")).encode()).rstrip(b"=").decode()


def _number(text: str, name: str) -> int:
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        if name == "resourceVersion":
            raise bad_request(
                f'invalid resource version: resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
            ) from None
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _check_query(version: str, match: str, token: str) -> None:
    problems = []
    if match:
        if not version:
            problems.append(
                errors.forbidden_field("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
            )
        elif token:
            problems.append(errors.forbidden_field("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"))
        elif match not in ("Exact", "NotOlderThan"):
            problems.append(errors.unsupported("resourceVersionMatch", match, ("Exact", "NotOlderThan", "")))
        elif match == "Exact" and version == "0":
            problems.append(
                errors.forbidden_field("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')
            )
    if problems:
        raise errors.invalid_object("meta.k8s.io", "ListOptions", "", problems)
    if token and version not in ("", "0"):
        raise bad_request("specifying resource version is not allowed when using continue")


# --- watches ---


class Watch:
    """One watch: its events as lines of JSON.

    Parameters
    ----------
    start
        The version after which changes are wanted; None begins with the objects that there are.
    initial_events
        Whether the beginning ends with a bookmark that says so.
    queues
        Where the watch puts its queue while it goes on; None in a queue ends the watch.
    """

    def __init__(
        self,
        store: Store,
        resource: Resource,
        selection: Selection,
        form: Form,
        *,
        start: int | None,
        initial_events: bool,
        bookmarks: bool,
        seconds: float,
        queues: set[asyncio.Queue[Change | None]],
    ) -> None:
        self._store = store
        self._resource = resource
        self._selection = selection
        self._form = form
        self._start = start
        self._initial_events = initial_events
        self._bookmarks = bookmarks
        self._seconds = seconds
        self._queues = queues
        self._tables = Tables(resource, form) if form.kind == "table" else None
        self._headers_sent = False

    async def lines(self) -> AsyncIterator[bytes]:
        """The events."""
        queue: asyncio.Queue[Change | None] = asyncio.Queue()
        stop = self._store.listen(self._resource.storage, queue.put_nowait)
        self._queues.add(queue)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        try:
            begun = self._store.version
            if self._start is None:
                for record in self._store.records(self._resource.storage, self._selection.namespace):
                    if self._selection.takes(record):
                        yield self._event("ADDED", record)
                if self._initial_events:
                    yield self._bookmark(begun, {INITIAL_EVENTS_END: "true"})
            else:
                try:
                    for change in self._store.changes_since(self._resource.storage, self._start):
                        line = self._line(change)
                        if line:
                            yield line
                except Compacted as error:
                    yield self._failure(errors.gone(f"too old resource version: {self._start} ({error.oldest})"))
                    return
                begun = max(begun, self._start)
            next_bookmark = loop.time() + BOOKMARK_SECONDS
            while True:
                left = min(end, next_bookmark if self._bookmarks else end) - loop.time()
                if left <= 0:
                    if self._bookmarks:
                        yield self._bookmark(self._store.version, None)
                        next_bookmark = loop.time() + BOOKMARK_SECONDS
                    if loop.time() >= end:
                        return
                    continue
                try:
                    changes = [await asyncio.wait_for(queue.get(), left)]
                except TimeoutError:
                    continue
                while not queue.empty():
                    changes.append(queue.get_nowait())
                if None in changes:  # the server stops
                    return
                lines = [self._line(change) for change in changes if change is not None and change.version > begun]
                text = b"".join(line for line in lines if line)
                if text:
                    yield text
        finally:
            stop()
            self._queues.discard(queue)

    def _line(self, change: Change) -> bytes | None:
        selection = self._selection
        if selection.namespace and change.record.namespace != selection.namespace:
            return None
        if change.type == "DELETED":
            previous = change.previous
            return self._event("DELETED", change.record) if previous is None or selection.takes(previous) else None
        now = selection.takes(change.record)
        before = change.previous is not None and selection.takes(change.previous)
        if now and before:
            return self._event("MODIFIED", change.record)
        if now:
            return self._event("ADDED", change.record)
        return self._event("DELETED", change.record) if before else None

    def _event(self, kind: str, record: Record) -> bytes:
        if self._tables is not None:
            obj = self._tables.whole(record, headers=not self._headers_sent)
            self._headers_sent = True
        elif self._form.kind == "metadata":
            obj = partial(self._resource, record, self._form)
        else:
            obj = whole(self._resource, record)
        return b'{"type":"' + kind.encode() + b'","object":' + obj + b"}\n"

    def _bookmark(self, version: int, annotations: Object | None) -> bytes:
        metadata: Object = {"resourceVersion": str(version), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        about = {"kind": self._resource.kind, "apiVersion": self._resource.api_version}
        if self._form.kind == "metadata":
            about = {"kind": "PartialObjectMetadata", "apiVersion": self._form.meta_version}
        obj: Object = {**about, "metadata": metadata}
        if self._tables is not None:
            head = self._tables.head({"resourceVersion": str(version)}, headers=not self._headers_sent)
            self._headers_sent = True
            columns, _printer = printers.printer_of(self._resource.storage, self._resource.custom)
            row = {
                "cells": ["" for _column in columns],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": self._form.meta_version, "metadata": metadata},
            }
            return b'{"type":"BOOKMARK","object":' + head + _encode(row) + b"]}}\n"
        return _encode({"type": "BOOKMARK", "object": obj}) + b"\n"

    @staticmethod
    def _failure(error: errors.Refused) -> bytes:
        return _encode({"type": "ERROR", "object": error.status()}) + b"\n"


def check_watch(query: Callable[[str], str]) -> tuple[int | None, bool, bool]:
    """A watch's start, whether it sends its initial events, and bookmarks.

    Raises
    ------
    Refused
        The query makes no sense.
    """
    version, match = query("resourceVersion"), query("resourceVersionMatch")
    initial, bookmarks = query("sendInitialEvents"), query("allowWatchBookmarks") in ("true", "1")
    if initial:
        if match != "NotOlderThan":
            problem = errors.forbidden_field(
                "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
            raise errors.invalid_object("meta.k8s.io", "ListOptions", "", [problem])
    elif match:
        problem = errors.forbidden_field(
            "resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        )
        raise errors.invalid_object("meta.k8s.io", "ListOptions", "", [problem])
    if version and not version.isdigit():
        message = f'resourceVersion: Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
        raise errors.Refused(500, "", message)
    number = int(version or 0)
    if initial in ("true", "1"):
        return None, True, bookmarks
    if initial in ("false", "0"):
        return number, False, bookmarks
    return (number if number else None), False, bookmarks


def too_new(asked: int, current: int) -> errors.Refused:
    """504 for a version that is not there yet."""
    causes: list[Any] = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return errors.Refused(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        {"causes": causes, "retryAfterSeconds": 1},
    )
