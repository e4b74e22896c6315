"""Backups in trouble: what a scenario does to them, and takes back. May be called from any process of the lab."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from opslib.lab.api import Api, ApiError
from opslib.lab.velero import times
from opslib.lab.world.account import BACKUP_BUCKET

_BASE = "/apis/velero.io/v1/namespaces/velero"
_LOCATION = f"{_BASE}/backupstoragelocations/default"
_SET_ASIDE = ".set-aside"
WRONG_BUCKET = f"{BACKUP_BUCKET}-old"


def break_location(api: Api) -> None:
    """Let the storage location name a bucket that is not there: it becomes Unavailable. Naming the right one again ends it."""
    api.patch(_LOCATION, {"spec": {"objectStorage": {"bucket": WRONG_BUCKET}}})


def fail_backups(
    api: Api,
    folder: Path,
    since: datetime,
    phase: Literal["Failed", "PartiallyFailed", "FailedValidation"],
    message: str,
    *,
    schedule: str = "daily",
) -> int:
    """Let a schedule's backups since a time have failed; how many there were.

    Parameters
    ----------
    folder
        The lab's.
    message
        The reason why it failed or could not begin; of a partially failed one the error in its results.
    """
    store = folder / "data" / "velero" / BACKUP_BUCKET / "backups"
    aside = folder / "data" / "velero" / _SET_ASIDE
    aside.mkdir(parents=True, exist_ok=True)
    count = 0
    for backup in api.list(f"{_BASE}/backups"):
        name, status = backup["metadata"]["name"], backup.get("status") or {}
        mine = (backup["metadata"].get("labels") or {}).get("velero.io/schedule-name") == schedule
        if not mine or "startTimestamp" not in status or times.parse(status["startTimestamp"]) < since:
            continue
        count += 1
        if phase == "PartiallyFailed":
            changed: dict[str, Any] = {"phase": phase, "errors": 1}
        else:
            gone = {"expiration": None, "progress": None, "completionTimestamp": None}
            if phase == "FailedValidation":
                changed = {"phase": phase, "validationErrors": [message], "startTimestamp": None, **gone}
            else:
                changed = {"phase": phase, "failureReason": message, "progress": None, "completionTimestamp": status["startTimestamp"]}
        api.patch(f"{_BASE}/backups/{name}", {"status": changed})
        if phase == "PartiallyFailed":
            _results(store / name, {"errors": {"namespaces": {"data": [message]}}})
        elif (store / name).is_dir() and not (aside / name).exists():
            # Nothing of it is in the store, from where Velero would take it over; and not before it has failed: Velero deletes a
            # completed one that is not there.
            shutil.move(store / name, aside / name)
    return count


def repair(api: Api, folder: Path) -> None:
    """Take both back: the right bucket, and the backups as they were."""
    store = folder / "data" / "velero" / BACKUP_BUCKET / "backups"
    aside = folder / "data" / "velero" / _SET_ASIDE
    for backup in api.list(f"{_BASE}/backups"):
        name, status = backup["metadata"]["name"], backup.get("status") or {}
        kept = aside / name
        partial = status.get("phase") == "PartiallyFailed" and (store / name / "velero-backup.json").is_file()
        if kept.is_dir() or partial:
            api.delete(f"{_BASE}/backups/{name}")  # Velero takes it over from the store anew
        if partial:
            _results(store / name, {})
        if kept.is_dir() and not (store / name).exists():
            shutil.move(kept, store / name)
    try:
        api.patch(_LOCATION, {"spec": {"objectStorage": {"bucket": BACKUP_BUCKET}}})
    except ApiError as error:
        if error.status != 404:
            raise


def _results(folder: Path, content: dict[str, Any]) -> None:
    import gzip
    import json

    if folder.is_dir():
        (folder / f"{folder.name}-results.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
