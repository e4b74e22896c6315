"""Velero's objects, as far as opslib reads them: they are read from the cluster like any others (``backups.velero.io``).

Phases and fields: https://velero.io/docs/main/api-types/ and pkg/apis/velero in its source.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from datetime import datetime

import msgspec

from opslib.findings import command
from opslib.sources.objects import Base, Metadata

GOOD = "Completed"
"""The only phase of a backup that can be relied on: PartiallyFailed is not a backup."""

BAD = frozenset({"PartiallyFailed", "Failed", "FailedValidation", "WaitingForPluginOperationsPartiallyFailed", "FinalizingPartiallyFailed"})
UNDER_WAY = frozenset(
    {
        "", "New", "Queued", "ReadyToStart", "InProgress", "WaitingForPluginOperations", "Finalizing", "Deleting",
        "WaitingForPluginOperationsPartiallyFailed", "FinalizingPartiallyFailed",
    }
)  # fmt: skip


def velero_command(namespace: str, *words: str) -> str:
    """The command of velero's own tool, for Velero in that namespace."""
    return command("velero", *(["-n", namespace] if namespace != "velero" else []), *words)


class ObjectStorage(Base):
    bucket: str = ""
    prefix: str = ""


class LocationSpec(Base):
    provider: str = ""
    default: bool = False
    access_mode: str = ""
    config: dict[str, str] = {}
    object_storage: ObjectStorage = msgspec.field(default_factory=ObjectStorage)


class LocationStatus(Base):
    phase: str = ""
    message: str = ""
    last_validation_time: datetime | None = None


class BackupStorageLocation(Base):
    """Where backups are kept. `phase` is "Available" or "Unavailable"."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: LocationSpec = msgspec.field(default_factory=LocationSpec)
    status: LocationStatus = msgspec.field(default_factory=LocationStatus)


class BackupSpec(Base):
    included_namespaces: list[str] = []
    excluded_namespaces: list[str] = []
    storage_location: str = ""
    ttl: str = ""

    def covers(self, namespace: str) -> bool:
        """Whether it takes a namespace. No inclusions take all, as ``*`` does."""
        included = any(fnmatch.fnmatchcase(namespace, one) for one in self.included_namespaces or ["*"])
        return included and not any(fnmatch.fnmatchcase(namespace, one) for one in self.excluded_namespaces)


class Progress(Base):
    total_items: int = 0
    items_backed_up: int = 0
    items_restored: int = 0


class BackupStatus(Base):
    phase: str = ""
    start_timestamp: datetime | None = None
    completion_timestamp: datetime | None = None
    expiration: datetime | None = None
    errors: int = 0
    warnings: int = 0
    failure_reason: str = ""
    validation_errors: list[str] = []
    progress: Progress = msgspec.field(default_factory=Progress)
    backup_item_operations_failed: int = 0


class Backup(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: BackupSpec = msgspec.field(default_factory=BackupSpec)
    status: BackupStatus = msgspec.field(default_factory=BackupStatus)

    @property
    def schedule(self) -> str:
        """The Schedule that made it; empty where somebody did by hand."""
        return self.metadata.labels.get("velero.io/schedule-name", "")

    @property
    def taken(self) -> datetime | None:
        """As of when it holds the cluster: its start."""
        return self.status.start_timestamp or self.metadata.creation_timestamp


class ScheduleSpec(Base):
    schedule: str = ""
    paused: bool = False
    template: BackupSpec = msgspec.field(default_factory=BackupSpec)


class ScheduleStatus(Base):
    phase: str = ""
    last_backup: datetime | None = None
    validation_errors: list[str] = []


class Schedule(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: ScheduleSpec = msgspec.field(default_factory=ScheduleSpec)
    status: ScheduleStatus = msgspec.field(default_factory=ScheduleStatus)


class RestoreSpec(Base):
    backup_name: str = ""
    schedule_name: str = ""
    included_namespaces: list[str] = []
    namespace_mapping: dict[str, str] = {}


class RestoreStatus(Base):
    phase: str = ""
    start_timestamp: datetime | None = None
    completion_timestamp: datetime | None = None
    errors: int = 0
    warnings: int = 0
    failure_reason: str = ""
    progress: Progress = msgspec.field(default_factory=Progress)


class Restore(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: RestoreSpec = msgspec.field(default_factory=RestoreSpec)
    status: RestoreStatus = msgspec.field(default_factory=RestoreStatus)


class VolumeCopySpec(Base):
    """Of a PodVolumeBackup (`volume` of `pod`) and of a DataUpload (`sourcePVC` in `sourceNamespace`)."""

    volume: str = ""
    source_namespace: str = ""
    source_pvc: str = msgspec.field(default="", name="sourcePVC")


class VolumeCopyStatus(Base):
    phase: str = ""
    message: str = ""


class VolumeCopy(Base):
    """The copy of one volume's data: a PodVolumeBackup or a DataUpload."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: VolumeCopySpec = msgspec.field(default_factory=VolumeCopySpec)
    status: VolumeCopyStatus = msgspec.field(default_factory=VolumeCopyStatus)

    @property
    def backup(self) -> str:
        """Name of the backup that it belongs to."""
        return self.metadata.labels.get("velero.io/backup-name", "")


# --- what went wrong ---

# what Velero's log hook writes: " resource: /pods name: /web-0 message: /... error: /...", each part only where it is known
_RESULT = re.compile(
    r"\s*(?:resource: /(?P<resource>\S*))?\s*(?:name: /(?P<name>\S*))?\s*(?:message: /(?P<message>.*?))?\s*(?:error: /(?P<error>.*))?", re.S
)
# what others write: "error restoring pods/shop/web-0: ...", "error backing up persistentvolumeclaims data/data-0: ..."
_WORDS = re.compile(r"error (?:restoring|backing up) (?P<resource>[a-z0-9.-]+)[/ ](?P<name>\S+): (?P<message>.*)", re.S)


class Result(Base):
    """Messages of Velero itself, of objects of the whole cluster, and by namespace."""

    velero: list[str] = []
    cluster: list[str] = []
    namespaces: dict[str, list[str]] = {}


class Results(Base):
    """What went wrong in a backup or restore (``...-results.gz``)."""

    errors: Result = msgspec.field(default_factory=Result)
    warnings: Result = msgspec.field(default_factory=Result)


class Problem(Base):
    """One thing that went wrong, with the resource that it is about as far as Velero says it. Texts are as Velero has them."""

    warning: bool
    namespace: str
    resource: str
    name: str
    text: str


def problems(results: Results) -> list[Problem]:
    """Everything that went wrong, errors first, one a resource."""
    return [
        *(one for part in (results.errors,) for one in _problems(part, warning=False)),
        *(one for part in (results.warnings,) for one in _problems(part, warning=True)),
    ]


def _problems(part: Result, *, warning: bool) -> Iterator[Problem]:
    for namespace, texts in (("", [*part.velero, *part.cluster]), *sorted(part.namespaces.items())):
        for text in texts:
            yield problem(text, namespace, warning=warning)


def problem(text: str, namespace: str = "", *, warning: bool = False) -> Problem:
    """One message taken apart.

    >>> problem(" resource: /pods name: /web-0 error: /timed out", "shop")
    Problem(warning=False, namespace='shop', resource='pods', name='web-0', text='timed out')
    """
    found = _RESULT.fullmatch(text)
    if found is not None and (found["resource"] or found["error"] or found["message"]):
        said = ": ".join(part.strip() for part in (found["message"], found["error"]) if part and part.strip())
        return Problem(
            warning=warning, namespace=namespace, resource=found["resource"] or "", name=found["name"] or "", text=said or text.strip()
        )
    found = _WORDS.match(text)
    if found is not None:
        name = found["name"].removeprefix(f"{namespace}/")
        return Problem(warning=warning, namespace=namespace, resource=found["resource"], name=name, text=found["message"])
    return Problem(warning=warning, namespace=namespace, resource="", name="", text=text.strip())
