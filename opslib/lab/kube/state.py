"""The state on disk: one SQLite file, from which the server starts again, and into which whoever sets a lab up writes what it begins with.

The server keeps all objects in memory and answers from there. A thread of its own writes the changes behind it, several at a time: what
the server loses by being killed is the last moment (`BEHIND_SECONDS`), never the file. Where the disk is full the server goes on, says
so in its log, and writes what it owes once there is room.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

BEHIND_SECONDS = 0.05
_RETRY_SECONDS = 5.0
_log = logging.getLogger(__name__)
Row = tuple[str, str, str, int, bytes]  # resource, namespace, name, version, body

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (resource TEXT, namespace TEXT, name TEXT, version INTEGER, body BLOB,
    PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revision (version INTEGER);
CREATE TABLE IF NOT EXISTS seed (body BLOB);
INSERT INTO revision SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM revision);
"""


def path(folder: Path) -> Path:
    """Where the state of the lab in `folder` is."""
    return folder / "data" / "kubernetes.db"


def write(path: Path, objects: Iterable[dict[str, Any]]) -> None:
    """Write the file of a server that shall begin with `objects`.

    Parameters
    ----------
    path
        The file; one that is there is replaced.
    objects
        As a user would write them, with ``apiVersion`` and ``kind``, and besides with what a user cannot give: ``status``, and in the
        metadata ``creationTimestamp``, ``uid``, ``generation`` and ``managedFields``. The server fills in what is left out
        (`opslib.lab.kube.seeding`).
    """
    encode = msgspec.json.Encoder().encode
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        database.execute("BEGIN")
        for statement in _TABLES.split(";"):
            database.execute(statement)
        database.executemany("INSERT INTO seed VALUES (?)", ((encode(obj),) for obj in objects))
        database.execute("COMMIT")
    for suffix in ("-wal", "-shm"):  # of the old file: they would be taken for the new one's
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    new.replace(path)


class File:
    """The file of a running server.

    Parameters
    ----------
    path
        The file. One that cannot be read is put aside, so that it does not stop the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._owed: dict[tuple[str, str, str], tuple[int, bytes | None]] = {}
        self._version = 0
        self._lock = threading.Condition()
        self._closed = False
        self._failed = ""
        self._database = _open(path.absolute())
        self._seeded = bool(self._database.execute("SELECT EXISTS (SELECT 1 FROM seed)").fetchone()[0])
        self._thread = threading.Thread(target=self._run, name="state", daemon=True)
        self._thread.start()

    # --- the start ---

    def version(self) -> int:
        """The newest version that the file knows of."""
        return int(self._database.execute("SELECT version FROM revision").fetchone()[0])

    def rows(self) -> Iterator[Row]:
        """All objects."""
        return iter(self._database.execute("SELECT resource, namespace, name, version, body FROM objects").fetchall())

    def seed(self) -> list[bytes]:
        """The objects to begin with as JSON, once: they are gone from the file when the first change has been written."""
        return [body for (body,) in self._database.execute("SELECT body FROM seed ORDER BY rowid")]

    # --- changes ---

    def put(self, resource: str, namespace: str, name: str, version: int, body: bytes | None) -> None:
        """Have an object written soon; None: that it is gone."""
        with self._lock:
            self._owed[(resource, namespace, name)] = (version, body)
            self._version = version
            if len(self._owed) == 1:
                self._lock.notify_all()

    def close(self) -> None:
        """Write what is owed, and end."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join(10)
        self._database.close()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._owed or self._closed)
                if not self._closed:  # more changes come with the first one; and a full disk is not asked all the time
                    self._lock.wait_for(lambda: self._closed, _RETRY_SECONDS if self._failed else BEHIND_SECONDS)
                closed, version = self._closed, self._version
                owed, self._owed = self._owed, {}
            try:
                if owed:
                    self._write(owed, version)
            except sqlite3.Error as error:
                self._complain(error)
                with self._lock:
                    self._owed = {**owed, **self._owed}  # what has changed since is newer
            else:
                if self._failed and owed:
                    _log.warning("%s is written again", self._path)
                    self._failed = ""
            if closed:
                return

    def _write(self, owed: dict[tuple[str, str, str], tuple[int, bytes | None]], version: int) -> None:
        gone = [key for key, (_version, body) in owed.items() if body is None]
        kept = [(*key, number, body) for key, (number, body) in owed.items() if body is not None]
        with self._database:
            self._database.executemany("DELETE FROM objects WHERE resource=? AND namespace=? AND name=?", gone)
            self._database.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", kept)
            self._database.execute("UPDATE revision SET version=?", (version,))
            if self._seeded:
                self._database.execute("DELETE FROM seed")
        self._seeded = False

    def _complain(self, error: sqlite3.Error) -> None:
        if not self._failed:
            _log.error(
                "%s cannot be written: %s; the server goes on in memory, and a restart would find the state of before", self._path, error
            )
        self._failed = str(error)


def _open(path: Path) -> sqlite3.Connection:
    try:
        return _prepared(path)
    except sqlite3.OperationalError as error:  # no room, no right: what is there is read, and nothing written
        _log.error("%s cannot be written: %s; the server goes on in memory, and a restart would find the state of before", path, error)
        return _copied(path)
    except sqlite3.DatabaseError as error:
        aside = path.with_suffix(".unreadable")
        _log.error("%s cannot be read: %s; it is put aside as %s", path, error, aside.name)
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return _prepared(path)


def _copied(path: Path) -> sqlite3.Connection:
    """The database in memory, with what the file has."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as file:
        file.backup(database)
    for statement in _TABLES.split(";"):
        database.execute(statement)
    database.commit()
    return database


def _prepared(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level="DEFERRED", check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=OFF")  # the operating system has it: a killed process loses nothing of what was written
        with database:
            for statement in _TABLES.split(";"):
                database.execute(statement)
    except sqlite3.Error:
        database.close()
        raise
    return database
