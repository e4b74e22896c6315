"""A backup storage location as a folder: what Velero puts in a bucket, under the same names."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from opslib.lab.api import Object

Results = dict[str, dict[str, Any]]

# what a DownloadRequest names, and the file
FILES = {
    "BackupLog": "backups/{name}/{name}-logs.gz",
    "BackupContents": "backups/{name}/{name}.tar.gz",
    "BackupResourceList": "backups/{name}/{name}-resource-list.json.gz",
    "BackupResults": "backups/{name}/{name}-results.gz",
    "BackupVolumeSnapshots": "backups/{name}/{name}-volumesnapshots.json.gz",
    "RestoreLog": "restores/{name}/restore-{name}-logs.gz",
    "RestoreResults": "restores/{name}/restore-{name}-results.gz",
    "RestoreResourceList": "restores/{name}/restore-{name}-resource-list.json.gz",
}


class Storage:
    """The folder of one location. `missing` says why it cannot be used."""

    def __init__(self, root: Path, location: Object) -> None:
        store = location["spec"].get("objectStorage") or {}
        self.bucket = str(store.get("bucket", ""))
        self._bucket_folder = root / self.bucket
        self._prefix = str(store.get("prefix") or "").strip("/")
        self.folder = self._bucket_folder / self._prefix
        self.read_only = location["spec"].get("accessMode") == "ReadOnly"

    def missing(self) -> str:
        """Why the location is not available; empty where it is."""
        if not self.bucket or "/" in self.bucket or self.bucket in (".", ".."):
            return f"the bucket's name {self.bucket!r} is not valid"
        if ".." in self._prefix.split("/"):
            return f"the prefix {self._prefix!r} is not valid"
        if not self._bucket_folder.is_dir():
            return f"rpc error: code = Unknown desc = NoSuchBucket: The specified bucket does not exist: {self.bucket}"
        return ""

    def names(self) -> list[str]:
        """The backups that are complete."""
        folder = self.folder / "backups"
        return sorted(one.name for one in folder.iterdir() if (one / "velero-backup.json").is_file()) if folder.is_dir() else []

    def backup(self, name: str) -> Object | None:
        """The Backup object as it was written beside its contents."""
        try:
            content: Object = json.loads((self.folder / "backups" / name / "velero-backup.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return content

    def file(self, kind: str, name: str) -> Path | None:
        """The file that a DownloadRequest's target names; None: there is no such kind of file."""
        pattern = FILES.get(kind)
        return None if pattern is None or "/" in name else self.folder / pattern.format(name=name)

    def write_contents(self, name: str, objects: Iterable[tuple[str, Object]]) -> None:
        """The archive of a backup's objects, each with its resource's name."""
        folder = self.folder / "backups" / name
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            _add(archive, "metadata/version", b"1.1.0\n")
            for resource, obj in objects:
                _add(archive, _member(resource, obj), json.dumps(obj, ensure_ascii=False).encode())

    def read_contents(self, name: str) -> list[tuple[str, Object]]:
        """The objects of a backup, each with its resource's name.

        Raises
        ------
        OSError, tarfile.TarError, ValueError
            The archive is not there, or broken.
        """
        found: list[tuple[str, Object]] = []
        with tarfile.open(self.folder / "backups" / name / f"{name}.tar.gz", "r:gz") as archive:
            for member in archive:
                if member.name.startswith("resources/") and (content := archive.extractfile(member)) is not None:
                    found.append((member.name.split("/")[1], json.load(content)))
        return found

    def write_gzip(self, kind: str, name: str, content: object) -> None:
        """One of the files beside: text as it is, everything else as JSON."""
        path = self.file(kind, name)
        if path is None:
            raise ValueError(kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress((content if isinstance(content, str) else json.dumps(content)).encode()))

    def finish(self, backup: Mapping[str, Any]) -> None:
        """Write the Backup object: with it the backup is there."""
        folder = self.folder / "backups" / backup["metadata"]["name"]
        kept = {name: value for name, value in backup["metadata"].items() if name in ("name", "namespace", "labels", "annotations")}
        part = folder / "velero-backup.json.part"
        part.write_text(json.dumps({**backup, "metadata": kept}), "utf-8")
        part.replace(folder / "velero-backup.json")

    def remove(self, kind: str, name: str) -> None:
        """Remove all files of a backup or restore (`kind`: "backups", "restores")."""
        if "/" not in name and name not in ("", ".", ".."):
            shutil.rmtree(self.folder / kind / name, ignore_errors=True)


def _member(resource: str, obj: Object) -> str:
    namespace, name = obj["metadata"].get("namespace"), obj["metadata"]["name"]
    return f"resources/{resource}/namespaces/{namespace}/{name}.json" if namespace else f"resources/{resource}/cluster/{name}.json"


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
