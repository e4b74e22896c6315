"""What objects were like before something broke them, so that `reset` can put them back: a file of the lab."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Object = dict[str, Any]
_KEPT = ("apiVersion", "kind", "spec", "data", "stringData", "type")


class Notes:
    """The notes of one lab."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "data" / "before.json"

    def keep(self, path: str, obj: Object | None) -> None:
        """Note what is at an API path (None: nothing), unless there is an older note about it."""
        notes = self._read()
        if path not in notes:
            notes[path] = None if obj is None else _plain(obj)
            self._write(notes)

    def taken(self) -> Iterator[tuple[str, Object | None]]:
        """All notes, the latest first; then there are none."""
        notes = self._read()
        yield from reversed(notes.items())
        self._file.unlink(missing_ok=True)

    def _read(self) -> dict[str, Object | None]:
        try:
            notes: dict[str, Object | None] = json.loads(self._file.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        return notes

    def _write(self, notes: dict[str, Object | None]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(notes) + "\n", "utf-8")
        temporary.replace(self._file)


def _plain(obj: Object) -> Object:
    metadata = obj["metadata"]
    kept = {key: metadata[key] for key in ("name", "namespace", "labels", "annotations") if key in metadata}
    return {**{key: obj[key] for key in _KEPT if key in obj}, "metadata": kept}


def restored(now: Object | None, before: Object) -> Object:
    """The object to write so that it is as before: what the server alone knows stays."""
    if now is None:
        return before
    metadata = {**now["metadata"], **{key: before["metadata"].get(key, {}) for key in ("labels", "annotations")}}
    metadata.pop("managedFields", None)
    return {**{key: value for key, value in now.items() if key not in _KEPT}, **before, "metadata": metadata}
