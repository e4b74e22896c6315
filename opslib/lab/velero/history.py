"""Backups of the days before the lab came up: put into the store, from where Velero takes them over as it does after a move.

What is in them are the cluster's objects of now: names of pods agree with what runs, and each can be restored.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from opslib.lab.api import Api, Object
from opslib.lab.velero import backups, times
from opslib.lab.velero.storage import Storage

DAYS = 8


def write(api: Api, storage: Storage, schedules: list[Object], now: datetime) -> dict[str, str]:
    """Write what schedules would have made in the last days, of the runs that are not in the store yet; by schedule the time of the last.

    Backups that would have expired meanwhile are left out.
    """
    last: dict[str, str] = {}
    there = set(storage.names())
    for schedule in schedules:
        template = dict(schedule["spec"].get("template") or {})
        source, count = "", 0
        for due in _due(str(schedule["spec"]["schedule"]), now):
            name = f"{schedule['metadata']['name']}-{due:%Y%m%d%H%M%S}"
            last[schedule["metadata"]["name"]] = times.stamp(due)
            if name in there or backups.expiration(template, due) <= now:
                continue
            if source:
                _copy(storage, source, name)
            else:
                source = name
                count = _fill(api, storage, name, template)
            storage.finish(_backup(schedule, name, template, due, count))
    return last


def backup_of(schedule: str, name: str, spec: dict[str, Any], labels: dict[str, str], status: dict[str, Any]) -> Object:
    """A Backup that a schedule made."""
    return {
        "apiVersion": "velero.io/v1",
        "kind": "Backup",
        "metadata": {
            "name": name,
            "namespace": "velero",
            "labels": {**labels, "velero.io/schedule-name": schedule, "velero.io/storage-location": "default"},
        },
        "spec": {"ttl": backups.DEFAULT_TTL, "storageLocation": "default", **spec},
        "status": {"version": 1, "formatVersion": "1.1.0", **status},
    }


def _due(schedule: str, now: datetime) -> Iterator[datetime]:
    moment = now - timedelta(days=DAYS)
    while (moment := times.next_due(schedule, moment)) <= now:
        yield moment


def _backup(schedule: Object, name: str, spec: dict[str, Any], start: datetime, count: int) -> Object:
    took = 20 + count // 12 + hashlib.sha256(name.encode()).digest()[0] // 16
    status: dict[str, Any] = {
        "phase": "Completed",
        "startTimestamp": times.stamp(start),
        "completionTimestamp": times.stamp(start + timedelta(seconds=took)),
        "expiration": times.stamp(backups.expiration(spec, start)),
        "progress": {"totalItems": count, "itemsBackedUp": count},
        "hookStatus": {},
    }
    return backup_of(schedule["metadata"]["name"], name, spec, schedule["metadata"].get("labels") or {}, status)


def _fill(api: Api, storage: Storage, name: str, spec: dict[str, Any]) -> int:
    """Write a backup of what there is now; how many objects that is."""
    items, outcome = backups.collect(api, spec)
    done = backups.follow(items, lambda done, total: None, lambda: False, outcome)
    storage.write_contents(name, done)
    storage.write_gzip("BackupLog", name, "\n".join([*outcome.log, ""]))
    storage.write_gzip("BackupResults", name, {})
    storage.write_gzip("BackupResourceList", name, backups.resource_list(done))
    storage.write_gzip("BackupVolumeSnapshots", name, [])
    return len(done)


def _copy(storage: Storage, source: str, name: str) -> None:
    folder = storage.folder / "backups" / source
    target = storage.folder / "backups" / name
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.glob(f"{source}*"):
        shutil.copyfile(file, target / file.name.replace(source, name, 1))
