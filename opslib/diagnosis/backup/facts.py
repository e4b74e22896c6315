"""What the rules of chapter 3.2 look at, and how sharply."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from opslib.findings import Finding
from opslib.messages import Message, _
from opslib.sources.buckets import Bucket
from opslib.sources.snapshots import Index, Repository, Snapshot
from opslib.sources.velero import GOOD, Backup, BackupStorageLocation, Problem, Restore, Schedule, VolumeCopy

_TEXTS: dict[str, Message] = {
    "namespace": _("Only this namespace; empty: all of them."),
    "target_hours": _("Recovery-point target: how old the newest good backup may be, in hours."),
    "window_days": _("How many days of backups are looked at for gaps."),
    "stuck_hours": _("A backup that runs longer than so many hours is stuck."),
    "expires_within_hours": _("The last good backup that expires within so many hours is shown."),
    "rehearsal_days": _("A backup counts when a restore was rehearsed within so many days."),
    "ignored_namespaces": _("Namespaces that need no backup, with commas between; * stands for any characters."),
    "indices": _("Indices that need a snapshot, as a pattern."),
    "verify_repositories": _("Whether each snapshot repository is verified: every node writes to it and reads from it."),
    "described": _("Of how many of the newest backups and restores that failed in part the errors are read by resource."),
}


class Parameters(BaseModel):
    """What a reader may choose."""

    LABELS: ClassVar[dict[str, Message]] = _TEXTS

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = Field("", pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", description=_TEXTS["namespace"].id)
    target_hours: float = Field(26, gt=0, description=_TEXTS["target_hours"].id)
    window_days: int = Field(7, ge=1, le=60, description=_TEXTS["window_days"].id)
    stuck_hours: float = Field(4, gt=0, description=_TEXTS["stuck_hours"].id)
    expires_within_hours: float = Field(24, gt=0, description=_TEXTS["expires_within_hours"].id)
    rehearsal_days: int = Field(90, ge=1, description=_TEXTS["rehearsal_days"].id)
    ignored_namespaces: str = Field(
        "default,kube-node-lease,kube-public,velero", max_length=2000, description=_TEXTS["ignored_namespaces"].id
    )
    indices: str = Field("*", min_length=1, max_length=500, description=_TEXTS["indices"].id)
    verify_repositories: bool = Field(True, description=_TEXTS["verify_repositories"].id)
    described: int = Field(5, ge=0, le=50, description=_TEXTS["described"].id)

    def wants(self, namespace: str) -> bool:
        """Whether a namespace needs a backup."""
        ignored = [one.strip() for one in self.ignored_namespaces.split(",") if one.strip()]
        return (not self.namespace or namespace == self.namespace) and not any(fnmatch.fnmatchcase(namespace, one) for one in ignored)


@dataclass(frozen=True, slots=True)
class Use:
    """What a bucket is for.

    Parameters
    ----------
    user
        The storage location or the snapshot repository.
    prefix
        Below which its files are.
    kept_days
        How long a backup is kept at most; None where that is not known.
    repository
        Whether it is a snapshot repository of Elasticsearch.
    """

    user: str
    prefix: str = ""
    kept_days: float | None = None
    repository: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What chapter 3.2 knows. None: could not be read (a gap says why).

    Parameters
    ----------
    namespaces
        Every namespace of the cluster, with how many volume claims it has.
    installed
        Whether the cluster knows Velero's kinds at all.
    volumes
        Copies of volumes' data that failed.
    problems
        What went wrong by resource, by kind ("Backup", "Restore") and name of those that were asked for; one that could not be read is
        not among them.
    buckets
        The S3 buckets that could be read; `bucket_uses` says what each is for.
    written
        The times of the oldest and the newest document by index, where they are known.
    repositories
        Elasticsearch's repositories by name; `verified` has what is wrong with each, empty where it verified.
    """

    now: datetime
    environment: str
    zone: tzinfo = UTC
    kubectl: tuple[str, ...] = ()
    elasticsearch_url: str = ""
    namespaces: Mapping[str, int] | None = None
    installed: bool | None = None
    locations: tuple[BackupStorageLocation, ...] | None = None
    schedules: tuple[Schedule, ...] | None = None
    backups: tuple[Backup, ...] | None = None
    restores: tuple[Restore, ...] | None = None
    volumes: tuple[VolumeCopy, ...] | None = None
    problems: Mapping[tuple[str, str], tuple[Problem, ...]] | None = None
    region: str = ""
    bucket_uses: Mapping[str, tuple[Use, ...]] = field(default_factory=dict)
    buckets: tuple[Bucket, ...] | None = None
    repositories: Mapping[str, Repository] | None = None
    verified: Mapping[str, str] = field(default_factory=dict)
    snapshots: tuple[Snapshot, ...] | None = None
    indices: tuple[Index, ...] | None = None
    written: Mapping[str, tuple[datetime, datetime]] = field(default_factory=dict)
    gaps: tuple[Finding, ...] = ()


def good(facts: Facts, namespace: str) -> list[Backup]:
    """The backups of a namespace that can be relied on and are still there, newest first."""
    found = [
        one
        for one in facts.backups or ()
        if one.status.phase == GOOD
        and one.taken is not None
        and (one.status.expiration is None or one.status.expiration > facts.now)
        and one.spec.covers(namespace)
    ]
    return sorted(found, key=lambda one: one.taken or facts.now, reverse=True)


def good_snapshots(facts: Facts, index: str) -> list[Snapshot]:
    """The snapshots of an index that can be relied on, newest first: whole ones, or partial ones in which all of its shards are."""
    found = [
        one
        for one in facts.snapshots or ()
        if index in one.indices
        and one.taken is not None
        and (one.state == "SUCCESS" or (one.state == "PARTIAL" and not any(failure.index == index for failure in one.failures)))
    ]
    return sorted(found, key=lambda one: one.start_time_in_millis, reverse=True)


def is_covered(facts: Facts, parameters: Parameters, index: str, taken: datetime | None) -> bool:
    """Whether an index needs no younger snapshot than one of that time (None: it is in none).

    One that has its newest document has all of it: yesterday's logs do not change. An index whose first document is younger than the target
    has had no time to miss it.
    """
    if index not in facts.written:
        return False
    oldest, newest = facts.written[index]
    return newest < taken if taken is not None else facts.now - oldest <= timedelta(hours=parameters.target_hours)


def overdue(
    facts: Facts, parameters: Parameters, points: Mapping[str, tuple[str, datetime | None]]
) -> list[tuple[str, datetime | None, list[str]]]:
    """What has no recovery point as young as the target, together by the newest that it has.

    Parameters
    ----------
    points
        By what is to be recovered: name and time of its newest good backup or snapshot; "" and None where there is none.

    Returns
    -------
    list
        Name and time of a recovery point, and whose newest it is; ordered by its name.
    """
    groups: dict[str, tuple[datetime | None, list[str]]] = {}
    for name, (point, taken) in points.items():
        if taken is None or facts.now - taken > timedelta(hours=parameters.target_hours):
            groups.setdefault(point, (taken, []))[1].append(name)
    return [(point, taken, names) for point, (taken, names) in sorted(groups.items(), key=lambda group: group[0])]


def days(facts: Facts, parameters: Parameters) -> Iterator[tuple[datetime, datetime]]:
    """The days of the window in the reader's zone, oldest first: begin and end, aware. The last is today so far."""
    today = facts.now.astimezone(facts.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    for number in range(parameters.window_days - 1, -1, -1):
        begin = today - timedelta(days=number)
        yield begin, min(begin + timedelta(days=1), facts.now)


def wanted_namespaces(facts: Facts, parameters: Parameters) -> list[str]:
    """The namespaces that need a backup; none where they could not be read."""
    return sorted(name for name in facts.namespaces or () if parameters.wants(name))


def hours(delta: timedelta) -> float:
    """A span in hours, to one decimal."""
    return round(delta.total_seconds() / 3600, 1)


def newest(found: Iterable[Backup]) -> Backup | None:
    """The newest of some backups by their start."""
    dated = [one for one in found if one.taken is not None]
    return max(dated, key=lambda one: one.taken or datetime.min.replace(tzinfo=UTC), default=None)
