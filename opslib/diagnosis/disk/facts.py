"""What the rules of chapter 4.3 (disk) look at, and how sharply."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from opslib.diagnosis.disk.forecast import Forecast, best, forecast
from opslib.environments import Links
from opslib.findings import Finding, Subject
from opslib.messages import Message, _
from opslib.sources.objects import Base, Claim, Condition, Event, Metadata, Pod, StorageClass

HOURS = 6
"""How far back the near history goes, whose points are close together."""

_TEXTS: dict[str, Message] = {
    "namespace": _("Only this namespace; empty: all of them."),
    "use_warning": _("A file system of which this much is in use is a warning."),
    "use_critical": _("A file system of which this much is in use is critical."),
    "critical_hours": _("A file system that is full within so many hours is critical."),
    "warning_days": _("A file system that is full within so many days is a warning."),
    "history_days": _("How many days of history the forecast rests on."),
    "looked_at_closely": _("File systems whose history is read; the fullest, and those that fill, first."),
    "look_inside": _("Whether commands (df, du) look for the biggest folders in the containers that have a full volume."),
    "pod": _("Pod whose folders are looked at, as namespace/name; empty: those of the fullest volumes."),
    "path": _("Folder in that pod; empty: where its volumes are mounted."),
    "depth": _("How many levels of folders are looked at."),
    "big_writer_gib": _("A container that has written so many GiB outside its volumes is shown, where it has no limit."),
}


class Parameters(BaseModel):
    """What a reader may choose."""

    LABELS: ClassVar[dict[str, Message]] = _TEXTS

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = Field("", pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", description=_TEXTS["namespace"].id)
    use_warning: float = Field(0.85, gt=0, le=1, description=_TEXTS["use_warning"].id)
    use_critical: float = Field(0.95, gt=0, le=1, description=_TEXTS["use_critical"].id)
    critical_hours: float = Field(24, gt=0, le=1000, description=_TEXTS["critical_hours"].id)
    warning_days: float = Field(7, gt=0, le=366, description=_TEXTS["warning_days"].id)
    history_days: float = Field(7, ge=1, le=60, description=_TEXTS["history_days"].id)
    looked_at_closely: int = Field(30, ge=1, le=200, description=_TEXTS["looked_at_closely"].id)
    look_inside: bool = Field(True, description=_TEXTS["look_inside"].id)
    pod: str = Field("", max_length=317, pattern=r"^([a-z0-9.-]+/[a-z0-9.-]+)?$", description=_TEXTS["pod"].id)
    path: str = Field("", max_length=1000, pattern=r"^(/.*)?$", description=_TEXTS["path"].id)
    depth: int = Field(3, ge=1, le=6, description=_TEXTS["depth"].id)
    big_writer_gib: float = Field(5, gt=0, description=_TEXTS["big_writer_gib"].id)


What = Literal["bytes", "inodes"]


@dataclass(frozen=True, slots=True)
class Place:
    """A file system: of a volume (`namespace` and `name` of its claim), or of a node (`node` and mount point)."""

    kind: Literal["volume", "node"]
    namespace: str
    name: str

    @property
    def subject(self) -> Subject:
        """What a finding about it is about."""
        if self.kind == "volume":
            return Subject("PersistentVolumeClaim", self.name, self.namespace)
        return Subject("Node", self.namespace)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.kind == "volume" else f"{self.namespace} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """What there is of it now; None: not measured.

    Parameters
    ----------
    size, available
        Bytes. Available to everybody: what is kept for root counts as used.
    inodes, inodes_free
        Pieces; file systems that have no fixed number of them say 0, which counts as not measured.
    device, fstype
        Of a node's.
    queries
        What gives bytes and inodes in use, as PromQL, for the reader to see it again.
    """

    place: Place
    size: float
    available: float
    inodes: float | None = None
    inodes_free: float | None = None
    device: str = ""
    fstype: str = ""
    readonly: bool = False
    queries: Mapping[What, str] = field(default_factory=dict)

    def amounts(self, what: What) -> tuple[float, float] | None:
        """In use, and all there is; None where it is not measured."""
        whole, free = (self.size, self.available) if what == "bytes" else (self.inodes, self.inodes_free)
        return (whole - free, whole) if whole and free is not None else None

    def share(self, what: What = "bytes") -> float | None:
        """How much of it is in use, 0 to 1."""
        amounts = self.amounts(what)
        return None if amounts is None else amounts[0] / amounts[1]


@dataclass(frozen=True, slots=True)
class Series:
    """What was in use over time: Unix seconds, and bytes or inodes at each."""

    times: tuple[float, ...] = ()
    used: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class History:
    """The days, with points far apart, and the last hours, with points close together."""

    days: Series = field(default_factory=Series)
    hours: Series = field(default_factory=Series)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """A container, and what it has written outside its volumes.

    Parameters
    ----------
    used
        Bytes of its own file system; None: not measured.
    growth
        Bytes a second, over the last hours.
    limit, request
        Bytes of ephemeral storage; None: none is set.
    logs
        Bytes of its logs on the node; None: not measured.
    """

    namespace: str
    pod: str
    container: str
    used: float | None = None
    growth: float | None = None
    limit: float | None = None
    request: float | None = None
    logs: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogVolume:
    """Lines that a pod has written into the log store: in the last hour, and an hour's mean of the day before."""

    namespace: str
    pod: str
    lines: int
    before: float | None


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder in a container, and the bytes below it."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class File:
    """A file in a container, its bytes, and when it was last changed."""

    path: str
    size: int
    changed: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """What ``du`` said of a mount, and ``df`` of its file system; None: it said nothing.

    Parameters
    ----------
    folders
        The biggest first; the mount itself is among them.
    files
        The biggest first; None: the image cannot look for them.
    used
        Bytes in use on the file system.
    claim
        Name of the claim whose volume it is; empty where it is none.
    cut
        Whether there were more than could be kept.
    """

    namespace: str
    pod: str
    container: str
    path: str
    folders: tuple[Folder, ...]
    files: tuple[File, ...] | None = None
    used: int | None = None
    claim: str = ""
    cut: bool = False

    @property
    def total(self) -> int | None:
        """Bytes in all its files."""
        return next((one.size for one in self.folders if one.path == self.path), None)


class Image(Base):
    names: list[str] = []
    size_bytes: int = 0


class NodeAddress(Base):
    type: str = ""
    address: str = ""


class NodeDiskStatus(Base):
    addresses: list[NodeAddress] = []
    conditions: list[Condition] = []
    images: list[Image] = []


class NodeDisk(Base):
    """A node, as far as its disks are concerned."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    status: NodeDiskStatus = msgspec.field(default_factory=NodeDiskStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubelet:
    """What a kubelet says of its own settings and its image file system; None: it does not say."""

    log_max_bytes: float | None = None
    log_max_files: int | None = None
    image_gc_high_percent: int | None = None
    eviction_hard: Mapping[str, str] = field(default_factory=dict)
    image_size: float | None = None
    image_used: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What chapter 4.3 (disk) knows. None: could not be read (a gap says why).

    Parameters
    ----------
    volumes, filesystems
        File systems of claims that a pod has mounted, and of nodes.
    histories
        Of those looked at closely, by place and what was measured.
    mounts
        Pods (namespace, name) of a claim, by place.
    owners
        The StatefulSet or other owner of those pods, by place.
    images_in_use
        Names and ids of the images of all pods.
    evicted
        Pods that were evicted and are still there.
    node_events
        Events about nodes.
    kubelets
        By node; those that were asked.
    log_volumes
        Pods with the most lines in the log store.
    """

    now: datetime
    environment: str
    zone: tzinfo = UTC
    kubectl: tuple[str, ...] = ()
    links: Links = field(default_factory=Links)
    prometheus_url: str = ""
    volumes: tuple[FileSystem, ...] | None = None
    filesystems: tuple[FileSystem, ...] | None = None
    histories: Mapping[tuple[Place, What], History] | None = None
    claims: tuple[Claim, ...] | None = None
    classes: tuple[StorageClass, ...] | None = None
    mounts: Mapping[Place, tuple[Pod, ...]] = field(default_factory=dict)
    writers: tuple[Writer, ...] | None = None
    log_volumes: tuple[LogVolume, ...] | None = None
    nodes: tuple[NodeDisk, ...] | None = None
    images_in_use: frozenset[str] | None = None
    evicted: tuple[Pod, ...] | None = None
    node_events: tuple[Event, ...] | None = None
    kubelets: Mapping[str, Kubelet] | None = None
    folders: tuple[Folders, ...] | None = None
    gaps: tuple[Finding, ...] = ()

    def claim(self, place: Place) -> Claim | None:
        """The claim of a volume; None where it is not known."""
        wanted = (place.namespace, place.name)
        return next((one for one in self.claims or () if (one.metadata.namespace, one.metadata.name) == wanted), None)

    def storage_class(self, claim: Claim | None) -> StorageClass | None:
        """The class of a claim; None where it has none or it is not known."""
        name = claim.spec.storage_class_name if claim else None
        return next((one for one in self.classes or () if one.metadata.name == name), None)

    def owner(self, place: Place) -> Subject | None:
        """The controller of the pods that have a volume mounted."""
        return next((owner for pod in self.mounts.get(place, ()) if (owner := owner_of(pod)) is not None), None)


def owner_of(pod: Pod) -> Subject | None:
    """Who looks after a pod: of a ReplicaSet's the Deployment, as far as the names say it; None where nobody does."""
    metadata = pod.metadata
    owner = next((one for one in metadata.owner_references if one.controller), None)
    if owner is None:
        return None
    ending = f"-{metadata.labels.get('pod-template-hash', '')}"
    if owner.kind == "ReplicaSet" and ending != "-" and owner.name.endswith(ending):
        return Subject("Deployment", owner.name.removesuffix(ending), metadata.namespace)
    return Subject(owner.kind, owner.name, metadata.namespace)


def forecast_of(facts: Facts, one: FileSystem, what: What = "bytes") -> Forecast | None:
    """What becomes of a file system; None where its history was not read."""
    history, amounts = (facts.histories or {}).get((one.place, what)), one.amounts(what)
    return None if history is None or amounts is None else _forecast(history, amounts[1])


@functools.lru_cache(maxsize=1000)  # findings, tables and plots ask for the same
def _forecast(history: History, capacity: float) -> Forecast:
    days, hours = history.days, history.hours
    span = hours.times[-1] - hours.times[0] if hours.times else 0.0
    return best(forecast(days.times, days.used, capacity), forecast(hours.times, hours.used, capacity), capacity, span)


def number(value: Any) -> float | None:
    """A sample as a number; None where it is none."""
    return float(value) if isinstance(value, int | float) and value == value and abs(value) != float("inf") else None
