"""The controller: what Velero's server does with each of its kinds, one object after the other."""

from __future__ import annotations

import logging
import tarfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from opslib.lab.api import Api, ApiError, Object, Objects
from opslib.lab.informer import Informer
from opslib.lab.velero import backups, history, restores, selection, times
from opslib.lab.velero.downloads import Downloads
from opslib.lab.velero.storage import Storage
from opslib.lab.world.account import BACKUP_BUCKET as BUCKET

GROUP = "velero.io/v1"
SERVER_VERSION = "v1.18.3"

_WATCHED = (
    "backupstoragelocations",
    "schedules",
    "backups",
    "restores",
    "deletebackuprequests",
    "downloadrequests",
    "serverstatusrequests",
)
_BUSY = ("InProgress", "WaitingForPluginOperations", "Finalizing")
_BEFORE = ("", "New", "Queued", "ReadyToStart")
_PROGRESS_SECONDS = 0.5  # at most one progress patch in this time

_log = logging.getLogger(__name__)


def _wall() -> datetime:
    return datetime.now(UTC)


class Velero:
    """Velero's server for one cluster.

    Parameters
    ----------
    api
        As a user that may read and make everything.
    folder
        The object store: a folder a bucket.
    namespace
        Where its objects are.
    now
        The clock by which schedules are due and backups expire: aware.
    tick_seconds
        How often schedules, expiry and locations are looked at, in the wall's seconds. What is new is seen at once.
    seconds_an_item
        How long each object takes, so that there is something to follow; 0: no longer than it takes.
    seconds_of_operations
        How long a backup with volumes waits for its plugin's operations.
    """

    def __init__(
        self,
        api: Api,
        folder: Path,
        *,
        namespace: str = "velero",
        now: Callable[[], datetime] = _wall,
        tick_seconds: float = 5,
        seconds_an_item: float = 0,
        seconds_of_operations: float = 0,
    ) -> None:
        self.folder = folder
        self.namespace = namespace
        self._api = api
        self._now = now
        self._tick_seconds = tick_seconds
        self._seconds_an_item = seconds_an_item
        self._seconds_of_operations = seconds_of_operations
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._informers = {plural: Informer(api, self._path(plural), lambda event, obj: self._wake.set()) for plural in _WATCHED}
        self.ready = threading.Event()  # set when all that was there has been looked at once
        self._downloads = Downloads()
        self._thread = threading.Thread(target=self._run, name="velero", daemon=True)

    def install(self) -> None:
        """Velero's kinds, its namespace, the location "default" with its bucket, and the schedules, as far as they are not there.

        Raises
        ------
        ApiError
            The API server refused.
        """
        deadline = time.monotonic() + 30
        manifests = files("opslib.lab") / "manifests"
        for name in ("21_velero.yaml", "22_backups.yaml"):
            for obj in yaml.safe_load_all(manifests.joinpath(name).read_text("utf-8")):
                if obj["kind"] == "Namespace":
                    obj["metadata"]["name"] = self.namespace
                elif obj["apiVersion"] == GROUP:
                    obj["metadata"]["namespace"] = self.namespace
                while not self._made(obj, last=time.monotonic() > deadline):
                    self._stop.wait(0.1)
        (self.folder / BUCKET).mkdir(parents=True, exist_ok=True)

    def _made(self, obj: Object, *, last: bool) -> bool:
        """Make an object that is not there; False: a kind that was made just now is served a moment later."""
        try:
            self._api.create(obj)
        except ApiError as error:
            if error.status == 404 and not last:
                return False
            if error.reason != "AlreadyExists":
                raise
        return True

    def remember(self) -> None:
        """Have made the backups of the last days; before `start`."""
        location = self._api.get(self._path("backupstoragelocations", "default"))
        storage = self._storage(location)
        if storage.missing():
            return
        for name, time_ in history.write(self._api, storage, list(self._list("schedules")), self._now()).items():
            self._api.patch(self._path("schedules", name), {"status": {"phase": "Enabled", "lastBackup": time_}})

    def start(self) -> None:
        """Begin. Backups and restores that were under way when the last server ended are marked as failed, as Velero does."""
        self._downloads.start()
        for informer in self._informers.values():
            informer.start()
        self._thread.start()

    def close(self) -> None:
        """Stop; what is under way stays so until the next start."""
        self._stop.set()
        self._wake.set()
        for informer in self._informers.values():
            informer.close()
        self._downloads.close()
        if self._thread.is_alive():
            self._thread.join(10)

    # The loop

    def _run(self) -> None:
        for informer in self._informers.values():
            while not informer.synced.wait(1):
                if self._stop.is_set():
                    return
        self._each("backups", self._mark_interrupted)
        self._each("restores", self._mark_interrupted)
        ticked = float("-inf")
        while not self._stop.is_set():
            self._wake.clear()
            self._each("backupstoragelocations", self._validate_location)
            if time.monotonic() - ticked >= self._tick_seconds:
                ticked = time.monotonic()
                self._each("backupstoragelocations", self._synchronize)
                self._each("backups", self._collect_garbage)
            self._each("schedules", self._schedule)
            self._each("deletebackuprequests", self._delete_backup)
            self._each("backups", self._back_up)
            self._each("restores", self._restore)
            self._each("downloadrequests", self._download)
            self._each("serverstatusrequests", self._tell_status)
            self.ready.set()
            self._wake.wait(self._tick_seconds)

    def _each(self, plural: str, action: Callable[[Object], None]) -> None:
        for obj in sorted(
            self._informers[plural].objects(), key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["name"])
        ):
            if self._stop.is_set():
                return
            try:
                action(obj)
            except ApiError as error:
                if error.status != 404:  # 404: it has gone meanwhile
                    _log.warning("%s %s: %s", plural, obj["metadata"]["name"], error)

    # Locations

    def _validate_location(self, location: Object) -> None:
        missing = self._storage(location).missing()
        status = location.get("status") or {}
        phase = "Unavailable" if missing else "Available"
        message = f'BackupStorageLocation "{location["metadata"]["name"]}" is unavailable: {missing}' if missing else ""
        checked = status.get("lastValidationTime")
        try:
            every = times.duration(location["spec"].get("validationFrequency") or "1m0s")
        except ValueError:
            every = timedelta(minutes=1)
        due = not checked or times.parse(checked) + every <= self._now()
        if due or status.get("phase") != phase:
            self._status(
                "backupstoragelocations", location, phase=phase, message=message or None, lastValidationTime=times.stamp(self._now())
            )

    def _synchronize(self, location: Object) -> None:
        """What stands in the store and not in the cluster is made, and the other way round: as Velero keeps the two the same."""
        storage = self._storage(location)
        if storage.missing():
            return
        name, stored = location["metadata"]["name"], storage.names()
        here = {one["metadata"]["name"]: one for one in self._list("backups")}
        for missing in [one for one in stored if one not in here]:
            content = storage.backup(missing)
            if content is not None and not backups.overdue(content, self._now()):
                labels = {**(content["metadata"].get("labels") or {}), "velero.io/storage-location": name}
                meta = {**content["metadata"], "namespace": self.namespace, "labels": labels}
                self._api.create({**content, "metadata": meta})
        for one in here.values():
            done = (one.get("status") or {}).get("phase") in ("Completed", "PartiallyFailed")
            mine = one["spec"].get("storageLocation") == name
            if done and mine and one["metadata"]["name"] not in stored:
                self._api.delete(self._path("backups", one["metadata"]["name"]))
        self._status("backupstoragelocations", location, lastSyncedTime=times.stamp(self._now()))

    def _location(self, name: str) -> Object | None:
        """The location of that name, the default one for ""."""
        for one in self._list("backupstoragelocations"):
            if one["metadata"]["name"] == name or (not name and one["spec"].get("default")):
                return one
        return None

    def _storage(self, location: Object) -> Storage:
        return Storage(self.folder, location)

    # Schedules

    def _schedule(self, seen: Object) -> None:
        due, wrong = _due(seen)
        status = seen.get("status") or {}
        if due is None:
            if status.get("phase") != "FailedValidation":
                self._status("schedules", seen, phase="FailedValidation", validationErrors=[f"invalid schedule: {wrong}"])
            return
        if status.get("phase") != "Enabled":
            self._status("schedules", seen, phase="Enabled", validationErrors=None)
        if due > self._now():
            return
        schedule = self._fresh("schedules", seen)  # what the informer had may be from before the last backup
        due, _ = _due(schedule)
        spec = schedule["spec"]
        if due is None or due > self._now() or spec.get("paused"):
            return
        name = schedule["metadata"]["name"]
        own = [one for one in self._list("backups") if (one["metadata"].get("labels") or {}).get("velero.io/schedule-name") == name]
        if any((one.get("status") or {}).get("phase", "") in (*_BEFORE, *_BUSY) for one in own):
            return  # the last one is not done yet
        now = self._now()
        template = dict(spec.get("template") or {})
        meta = template.pop("metadata", None) or {}
        labels = {**(schedule["metadata"].get("labels") or {}), **(meta.get("labels") or {}), "velero.io/schedule-name": name}
        backup: Object = {
            "apiVersion": GROUP,
            "kind": "Backup",
            "metadata": {"name": f"{name}-{now.astimezone(UTC):%Y%m%d%H%M%S}", "namespace": self.namespace, "labels": labels},
            "spec": template,
        }
        if spec.get("useOwnerReferencesInBackup"):
            owner = {"apiVersion": GROUP, "kind": "Schedule", "name": name, "uid": schedule["metadata"]["uid"], "controller": True}
            backup["metadata"]["ownerReferences"] = [owner]
        try:
            self._api.create(backup)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        self._status("schedules", schedule, lastBackup=times.stamp(now))

    # Backups

    def _back_up(self, seen: Object) -> None:
        if (seen.get("status") or {}).get("phase", "") not in _BEFORE or "deletionTimestamp" in seen["metadata"]:
            return
        backup = self._fresh("backups", seen)
        if (backup.get("status") or {}).get("phase", "") not in _BEFORE:
            return  # what the informer had was old
        spec, name = backup["spec"], backup["metadata"]["name"]
        location = self._location(str(spec.get("storageLocation") or ""))
        storage = self._storage(location) if location else None
        wrong = backups.problems(spec, str(spec.get("storageLocation") or ""), location, storage)
        if storage is not None and not wrong and name in storage.names():
            wrong = [f"backup already exists in object storage: {name}"]
        start = self._now()
        if wrong or location is None or storage is None:
            self._status("backups", backup, phase="FailedValidation", validationErrors=wrong, version=1, formatVersion="1.1.0")
            return
        where = location["metadata"]["name"]
        self._api.patch(
            self._path("backups", name),
            {
                "metadata": {"labels": {"velero.io/storage-location": where}},
                "spec": {"storageLocation": where, "ttl": spec.get("ttl") or backups.DEFAULT_TTL},
            },
        )
        self._status(
            "backups",
            backup,
            phase="InProgress",
            version=1,
            formatVersion="1.1.0",
            startTimestamp=times.stamp(start),
            expiration=times.stamp(backups.expiration(spec, start)),
            progress={},
            hookStatus={},
        )
        try:
            self._write(backup, storage)
        except OSError as error:
            text = f"error uploading backup to object storage: {error.strerror}: {Path(str(error.filename or '')).name}"
            self._status("backups", backup, phase="Failed", failureReason=text, completionTimestamp=times.stamp(self._now()))
        except ApiError as error:
            if error.status == 404:
                raise
            text = f"error collecting items: {error.server_message}"
            self._status("backups", backup, phase="Failed", failureReason=text, completionTimestamp=times.stamp(self._now()))

    def _write(self, backup: Object, storage: Storage) -> None:
        name = backup["metadata"]["name"]
        items, outcome = backups.collect(self._api, backup["spec"])
        done = backups.follow(items, self._progress("backups", backup, "itemsBackedUp"), self._pace, outcome)
        if self._stop.is_set():
            return  # as a server that is killed: marked as failed at the next start
        storage.write_contents(name, done)
        claims = [obj for resource, obj in done if resource == "persistentvolumeclaims" and (obj.get("spec") or {}).get("volumeName")]
        if claims and backup["spec"].get("snapshotVolumes") is not False:
            attempted = len(claims)
            self._status("backups", backup, phase="WaitingForPluginOperations", backupItemOperationsAttempted=attempted)
            if self._stop.wait(self._seconds_of_operations):
                return
            self._status("backups", backup, backupItemOperationsCompleted=attempted)
        counts = {name: count for name, count in (("errors", outcome.error_count), ("warnings", outcome.warning_count)) if count}
        failed = bool(outcome.error_count)
        self._status("backups", backup, phase="FinalizingPartiallyFailed" if failed else "Finalizing", **counts)
        storage.write_gzip("BackupLog", name, "\n".join([*outcome.log, ""]))
        storage.write_gzip("BackupResults", name, outcome.results())
        storage.write_gzip("BackupResourceList", name, backups.resource_list(done))
        storage.write_gzip("BackupVolumeSnapshots", name, [])
        last = {"phase": "PartiallyFailed" if failed else "Completed", "completionTimestamp": times.stamp(self._now())}
        current = self._fresh("backups", backup)
        storage.finish({**current, "status": {**current["status"], **last}})
        self._status("backups", backup, **last)

    def _collect_garbage(self, backup: Object) -> None:
        """An expired backup is asked to go, as a user would: by a DeleteBackupRequest."""
        name = backup["metadata"]["name"]
        if not backups.overdue(backup, self._now()) or (backup.get("status") or {}).get("phase") in (*_BEFORE, *_BUSY, "Deleting"):
            return
        self._fresh("backups", backup)  # 404, where it has gone since the informer was told of it
        location = self._location(str(backup["spec"].get("storageLocation") or ""))
        reason = "BSLNotFound" if location is None else "BSLReadOnly" if self._storage(location).read_only else ""
        if reason:
            self._api.patch(self._path("backups", name), {"metadata": {"labels": {"velero.io/gc-failure": reason}}})
            return
        pending = [one for one in self._list("deletebackuprequests") if one["spec"].get("backupName") == name]
        if any((one.get("status") or {}).get("phase", "") in ("", "New", "InProgress") for one in pending):
            return
        self._api.create(
            {
                "apiVersion": GROUP,
                "kind": "DeleteBackupRequest",
                "metadata": {
                    "generateName": f"{name}-",
                    "namespace": self.namespace,
                    "labels": {"velero.io/backup-name": name[:63].rstrip("-."), "velero.io/backup-uid": backup["metadata"]["uid"]},
                },
                "spec": {"backupName": name},
            }
        )
        self._wake.set()

    def _delete_backup(self, request: Object) -> None:
        if (request.get("status") or {}).get("phase", "") not in ("", "New"):
            return
        request = self._fresh("deletebackuprequests", request)
        if (request.get("status") or {}).get("phase", "") not in ("", "New"):
            return
        name = str(request["spec"].get("backupName") or "")
        found = next((one for one in self._list("backups") if one["metadata"]["name"] == name), None)
        location = self._location(str(found["spec"].get("storageLocation") or "")) if found else None
        wrong = ""
        if not name:
            wrong = "spec.backupName is required"
        elif found is None:
            wrong = "backup not found"
        elif (found.get("status") or {}).get("phase") in _BUSY:
            wrong = "backup is still in progress"
        elif (found.get("status") or {}).get("phase") == "FailedValidation":
            location = None  # it has nothing in a store
        elif location is None:
            wrong = f"backup storage location {found['spec'].get('storageLocation')} not found"
        elif self._storage(location).read_only:
            wrong = f"cannot delete backup because backup storage location {location['metadata']['name']} is currently in read-only mode"
        if not wrong and location is not None and (missing := self._storage(location).missing()):
            wrong = f"error getting backup storage: {missing}"
        if wrong or found is None:
            self._status("deletebackuprequests", request, phase="Processed", errors=[wrong])
            return
        self._status("deletebackuprequests", request, phase="InProgress")
        self._status("backups", found, phase="Deleting")
        storage = self._storage(location) if location else None
        if storage is not None:
            storage.remove("backups", name)
        for restore in self._list("restores"):
            if restore["spec"].get("backupName") == name:
                if storage is not None:
                    storage.remove("restores", restore["metadata"]["name"])
                self._api.delete(self._path("restores", restore["metadata"]["name"]))
        self._api.delete(self._path("backups", name))
        self._status("deletebackuprequests", request, phase="Processed")
        for other in self._list("deletebackuprequests"):
            if other["spec"].get("backupName") == name:
                self._api.delete(self._path("deletebackuprequests", other["metadata"]["name"]))

    # Restores

    def _restore(self, seen: Object) -> None:
        if (seen.get("status") or {}).get("phase", "") not in ("", "New") or "deletionTimestamp" in seen["metadata"]:
            return
        restore = self._fresh("restores", seen)
        if (restore.get("status") or {}).get("phase", "") not in ("", "New"):
            return
        backup, wrong = self._backup_to_restore(restore)
        location = self._location(str(backup["spec"].get("storageLocation") or "")) if backup else None
        if backup is not None and location is None:
            wrong.append(f"Error retrieving BackupStorageLocation {backup['spec'].get('storageLocation')}: not found")
        if wrong or backup is None or location is None:
            self._status("restores", restore, phase="FailedValidation", validationErrors=wrong)
            return
        name, source, storage = restore["metadata"]["name"], backup["metadata"]["name"], self._storage(location)
        if not restore["spec"].get("backupName"):
            restore = self._api.patch(self._path("restores", name), {"spec": {"backupName": source}})
        self._status("restores", restore, phase="InProgress", startTimestamp=times.stamp(self._now()), progress={}, hookStatus={})
        try:
            known = {one.name: one for one in selection.resources(self._api)[0]}
            items = restores.wanted(restore["spec"], storage.read_contents(source), known)
            outcome = restores.put_back(self._api, restore, items, source, self._progress("restores", restore, "itemsRestored"), self._pace)
            if self._stop.is_set():
                return
            counts = {one: count for one, count in (("errors", outcome.error_count), ("warnings", outcome.warning_count)) if count}
            failed = bool(outcome.error_count)
            self._status("restores", restore, phase="FinalizingPartiallyFailed" if failed else "Finalizing", **counts)
            storage.write_gzip("RestoreLog", name, "\n".join([*outcome.log, ""]))
            storage.write_gzip("RestoreResults", name, outcome.results())
            storage.write_gzip("RestoreResourceList", name, backups.resource_list(items))
        except (OSError, tarfile.TarError, ValueError) as error:
            text = f"error downloading backup: {getattr(error, 'strerror', None) or error}"
            self._status("restores", restore, phase="Failed", failureReason=text, completionTimestamp=times.stamp(self._now()))
            return
        phase = "PartiallyFailed" if failed else "Completed"
        self._status("restores", restore, phase=phase, completionTimestamp=times.stamp(self._now()))

    def _backup_to_restore(self, restore: Object) -> tuple[Object | None, list[str]]:
        spec = restore["spec"]
        named, schedule = spec.get("backupName"), spec.get("scheduleName")
        wrong = []
        for one in ("Namespaces", "Resources"):
            both = set(spec.get(f"included{one}") or []) & set(spec.get(f"excluded{one}") or [])
            wrong += [f"Invalid included/excluded {one.lower()} lists: {item} is in both" for item in sorted(both)]
        wrong += [f"{one} are non-restorable resources" for one in spec.get("includedResources") or [] if one in ("nodes", "events")]
        if bool(named) == bool(schedule):
            return None, [*wrong, "Either a backup or schedule must be specified as a source for the restore, but not both"]
        done = ("Completed", "PartiallyFailed")
        if named:
            found = next((one for one in self._list("backups") if one["metadata"]["name"] == named), None)
            if found is None:
                return None, [*wrong, f'Error retrieving backup: backup.velero.io "{named}" not found']
            if (found.get("status") or {}).get("phase") not in done:
                wrong.append(f"backup {named} is {(found.get('status') or {}).get('phase', 'New')}; only a completed one can be restored")
            return found, wrong
        own = [
            one
            for one in self._list("backups")
            if (one["metadata"].get("labels") or {}).get("velero.io/schedule-name") == schedule
            and (one.get("status") or {}).get("phase") in done
        ]
        if not own:
            return None, [*wrong, f"No completed backups found for schedule {schedule}"]
        return max(own, key=lambda one: str(one["status"]["startTimestamp"])), wrong

    # Small ones

    def _mark_interrupted(self, obj: Object) -> None:
        phase = (obj.get("status") or {}).get("phase")
        if phase not in (*_BUSY, "FinalizingPartiallyFailed"):
            return
        plural = "backups" if obj["kind"] == "Backup" else "restores"
        text = f'found a {obj["kind"].lower()} with status "{phase}" during the server starting, mark it as "Failed"'
        self._status(plural, obj, phase="Failed", failureReason=text, completionTimestamp=times.stamp(self._now()))

    def _download(self, request: Object) -> None:
        status = request.get("status") or {}
        if status.get("expiration") and times.parse(status["expiration"]) < self._now():
            self._api.delete(self._path("downloadrequests", request["metadata"]["name"]))
            return
        if status.get("phase", "") not in ("", "New"):
            return
        target = request["spec"].get("target") or {}
        kind, name = str(target.get("kind", "")), str(target.get("name", ""))
        source = name
        if kind.startswith("Restore"):
            restore = next((one for one in self._list("restores") if one["metadata"]["name"] == name), None)
            source = str(restore["spec"].get("backupName", "")) if restore else ""
        backup = next((one for one in self._list("backups") if one["metadata"]["name"] == source), None)
        location = self._location(str(backup["spec"].get("storageLocation") or "")) if backup else None
        path = self._storage(location).file(kind, name) if location else None
        if path is None or not path.is_file():
            return  # not there yet, or never: who asked waits until his own deadline, as with Velero
        expires = self._now() + timedelta(minutes=10)
        self._status(
            "downloadrequests", request, phase="Processed", downloadURL=self._downloads.address(path), expiration=times.stamp(expires)
        )

    def _tell_status(self, request: Object) -> None:
        status = request.get("status") or {}
        if status.get("phase") == "Processed":
            if times.parse(status["processedTimestamp"]) + timedelta(minutes=1) < self._now():
                self._api.delete(self._path("serverstatusrequests", request["metadata"]["name"]))
            return
        plugins = [{"name": "velero.io/aws", "kind": "ObjectStore"}, {"name": "velero.io/pod", "kind": "BackupItemAction"}]
        self._status(
            "serverstatusrequests",
            request,
            phase="Processed",
            processedTimestamp=times.stamp(self._now()),
            serverVersion=SERVER_VERSION,
            plugins=plugins,
        )

    # The API

    def _path(self, plural: str, name: str = "") -> str:
        base = f"/apis/{GROUP}/namespaces/{self.namespace}/{plural}"
        return f"{base}/{name}" if name else base

    def _list(self, plural: str) -> Objects:
        return self._api.list(self._path(plural))

    def _fresh(self, plural: str, obj: Object) -> Object:
        return self._api.get(self._path(plural, obj["metadata"]["name"]))

    def _status(self, plural: str, obj: Object, **fields: Any) -> None:
        self._api.patch(self._path(plural, obj["metadata"]["name"]), {"status": fields})

    def _progress(self, plural: str, obj: Object, done_name: str) -> Callable[[int, int], None]:
        told = float("-inf")

        def progress(done: int, total: int) -> None:
            nonlocal told
            if done == total or time.monotonic() - told >= _PROGRESS_SECONDS:
                told = time.monotonic()
                self._status(plural, obj, progress={"totalItems": total, done_name: done})

        return progress

    def _pace(self) -> bool:
        return self._stop.wait(self._seconds_an_item) if self._seconds_an_item else self._stop.is_set()


def _due(schedule: Object) -> tuple[datetime | None, str]:
    """When a schedule makes its next backup; None and the reason where it cannot be read."""
    status = schedule.get("status") or {}
    marks = [schedule["metadata"]["creationTimestamp"], status.get("lastBackup"), status.get("lastSkipped")]
    try:
        return times.next_due(str(schedule["spec"].get("schedule") or ""), max(times.parse(mark) for mark in marks if mark)), ""
    except ValueError as error:
        return None, str(error)
