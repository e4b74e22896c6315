"""The log of everything that was planned, approved and done: appended to, chained, and never rewritten.

A line is a JSON object; its ``hash`` is the SHA-256 of the line's other fields, among them the hash of the line before (``previous``). Who
changes or removes a line breaks the chain from there on, and `verify` says where. The end can be cut off without a break: note the last
hash somewhere else (`opslib audit` prints it).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opslib.errors import InputError, OpsError
from opslib.messages import Message, _, one_line

START = "0" * 64
_BLOCK = 16 * 1024  # bytes at the end, in which the last record almost always is


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the log.

    Parameters
    ----------
    number
        From 1 on.
    time
        Aware, UTC.
    event
        What happened: "planned", "approved", "refused", "started", "step.begins", "step.done", "step.failed", "finished", "undo.started",
        "undo.begins", "undo.done", "undone".
    plan
        Its id.
    who
        The identity that did it; `host` and `process` say from where.
    data
        More, by event.
    """

    number: int
    time: datetime
    event: str
    plan: str
    who: str
    host: str
    process: int
    data: dict[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True)
class Log:
    """The log in a file."""

    path: Path

    def append(self, event: str, plan: str, who: str, **data: Any) -> Record:
        """Add a record; it is on the disk when this returns.

        Raises
        ------
        OpsError
            It could not be written: then nothing must be done that it was to tell of.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked() as file:
                last, torn = _last(file)
                content: dict[str, Any] = {
                    "number": (last.number if last else 0) + 1,
                    "time": datetime.now(UTC).isoformat(),
                    "event": event,
                    "plan": plan,
                    "who": who,
                    "host": socket.gethostname(),
                    "process": os.getpid(),
                    "data": data,
                    "previous": last.hash if last else START,
                }
                if torn:  # a writer was killed in the middle of a line; what it wrote stays, and is told apart from a record
                    content["data"] = {**data, "torn": hashlib.sha256(torn).hexdigest()}
                content["hash"] = _hash(content)
                file.seek(0, os.SEEK_END)
                file.write((b"\n" if torn else b"") + json.dumps(content, ensure_ascii=False, sort_keys=True).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OpsError(
                _("The log of actions cannot be written, so nothing is done: {reason}", reason=str(error)), _("Make room in its folder")
            ) from error
        return _record(content)

    def records(self) -> list[Record]:
        """All records in order.

        Raises
        ------
        InputError
            The chain is broken.
        """
        records, broken = self.verify()
        if broken is not None:
            raise InputError(broken, _("Find out who changed it, before anything else is changed"), "opslib audit --verify")
        return records

    def verify(self) -> tuple[list[Record], Message | None]:
        """The records up to the first that does not hold, and what is wrong with that one; None where all hold."""
        if not self.path.exists():
            return [], None
        records: list[Record] = []
        before = START
        lines = self.path.read_bytes().split(b"\n")
        for place, line in enumerate(lines[:-1], 1):
            try:
                content = json.loads(line)
                record = _record(content)
            except (ValueError, KeyError, TypeError):
                if _is_torn(line, lines[place:]):
                    continue
                return records, _("line {number} of {file} is no record", number=place, file=self.path)
            if record.hash != _hash({name: value for name, value in content.items() if name != "hash"}):
                return records, _("line {number} of {file} has been changed", number=place, file=self.path)
            if record.previous != before or record.number != len(records) + 1:
                return records, _("before line {number} of {file} something is missing or was changed", number=place, file=self.path)
            records.append(record)
            before = record.hash
        return records, None

    def of(self, plan: str) -> list[Record]:
        """The records about one plan."""
        return [record for record in self.records() if record.plan == plan]

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        with self.path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def log_in(place: Path) -> Log:
    """The log of a folder of plans."""
    return Log(place / "audit.jsonl")


def _last(file: Any) -> tuple[Record | None, bytes]:
    """The last record, and what stands after the last line's end; no more of the file is read than that takes."""
    size, length = file.seek(0, os.SEEK_END), _BLOCK
    while True:
        begin = max(0, size - length)
        file.seek(begin)
        lines = file.read().split(b"\n")
        torn: bytes = lines.pop()
        for line in reversed(lines[1 if begin else 0 :]):  # the first may have begun before
            try:
                return _record(json.loads(line)), torn
            except (ValueError, KeyError, TypeError):
                continue
        if not begin:
            return None, torn
        length *= 4


def _is_torn(line: bytes, rest: list[bytes]) -> bool:
    """Whether a line that is no record was left by a writer that was killed: the next record tells of it."""
    try:
        data = json.loads(rest[0])["data"]
    except (IndexError, ValueError, KeyError, TypeError):
        return False
    return isinstance(data, dict) and data.get("torn") == hashlib.sha256(line).hexdigest()


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


def _record(content: dict[str, Any]) -> Record:
    return Record(
        content["number"],
        datetime.fromisoformat(content["time"]),
        one_line(content["event"]),
        content["plan"],
        content["who"],
        content["host"],
        content["process"],
        content["data"],
        content["previous"],
        content["hash"],
    )
