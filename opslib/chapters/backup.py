"""Chapter 3.2: are there backups, are they whole and young enough, and was one ever restored.

Pure functions over `Facts`: findings, tables, a plot. The rules stand in `opslib.diagnosis.backup`; `opslib.facts.backup` reads the facts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opslib.chapters import plotting
from opslib.chapters.tables import NOT_READ, about, table
from opslib.diagnosis.backup import diagnose
from opslib.diagnosis.backup.facts import Facts, Parameters, days, good, good_snapshots, is_covered, wanted_namespaces
from opslib.findings import Column, Finding, Severity, Table, Unit, by_severity
from opslib.messages import _, one_line
from opslib.sources.velero import BAD, GOOD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NOT_READ", "REQUIRES", "Facts", "Parameters", "about", "findings"]

REQUIRES: tuple[str, ...] = ()  # what the one system cannot tell the other still can
READS = ("kubernetes", "elasticsearch", "aws")


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that the reader should know, worst first; what could not be looked at is among it."""
    return by_severity([*facts.gaps, *diagnose(facts, parameters)])


def recovery_points_table(facts: Facts, parameters: Parameters) -> Table:
    """The newest good backup of each namespace that needs one, and whether it meets the target."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.backups is not None and facts.namespaces is not None:
        rows = []
        for name in wanted_namespaces(facts, parameters):
            found = good(facts, name)
            taken = found[0].taken if found else None
            age = (facts.now - taken).total_seconds() if taken else None
            met = age is not None and age <= parameters.target_hours * 3600
            rows.append(
                (
                    Severity.OK if met else Severity.CRITICAL,
                    name,
                    facts.namespaces[name],
                    found[0].metadata.name if found else None,
                    taken,
                    age,
                    len(found),
                )
            )
    return table(
        "recovery_points",
        _("Recovery points by namespace"),
        (
            Column("severity", _("Target met"), Unit.SEVERITY),
            Column("namespace", _("Namespace")),
            Column("claims", _("Volume claims"), Unit.COUNT),
            Column("backup", _("Newest good backup"), meaning=_("Completed, and not expired")),
            Column("taken", _("Taken"), Unit.TIME, _("As of when it holds the namespace")),
            Column("age", _("Age"), Unit.SECONDS),
            Column("backups", _("Good backups"), Unit.COUNT),
        ),
        rows,
        _("No namespace needs a backup."),
    )


def backups_table(facts: Facts) -> Table:
    """Every backup, newest first."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.backups is not None:
        ordered = sorted(facts.backups, key=lambda one: one.taken or facts.now, reverse=True)
        rows = [
            (
                Severity.OK if one.status.phase == GOOD else Severity.CRITICAL if one.status.phase in BAD else Severity.INFO,
                one.metadata.name,
                one.schedule or None,
                one.status.phase or "New",
                one.taken,
                (one.status.completion_timestamp - one.taken).total_seconds() if one.status.completion_timestamp and one.taken else None,
                one.status.progress.items_backed_up,
                one.status.errors,
                one.status.warnings,
                one.status.expiration,
                ",".join(one.spec.included_namespaces) or "*",
            )
            for one in ordered[:500]
        ]
    return table(
        "backups",
        _("Velero backups"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("backup", _("Backup")),
            Column("schedule", _("Schedule")),
            Column("phase", _("Phase"), meaning=_("Only Completed can be relied on")),
            Column("taken", _("Taken"), Unit.TIME),
            Column("took", _("Duration"), Unit.SECONDS),
            Column("objects", _("Objects"), Unit.COUNT),
            Column("errors", _("Errors"), Unit.COUNT),
            Column("warnings", _("Warnings"), Unit.COUNT),
            Column("expires", _("Expires"), Unit.TIME),
            Column("namespaces", _("Namespaces")),
        ),
        rows,
        _("There are no backups."),
    )


def schedules_table(facts: Facts) -> Table:
    """Schedules with their last backup, and the storage location that they use."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.schedules is not None:
        phases = {one.metadata.name: one.status.phase for one in facts.locations or ()}
        default = next((one.metadata.name for one in facts.locations or () if one.spec.default), "default")
        rows = []
        for one in sorted(facts.schedules, key=lambda one: one.metadata.name):
            location = one.spec.template.storage_location or default
            rows.append(
                (
                    one.metadata.name,
                    one.spec.schedule,
                    _("paused") if one.spec.paused else one.status.phase or None,
                    one.status.last_backup,
                    one.spec.template.ttl or None,
                    ",".join(one.spec.template.included_namespaces) or "*",
                    location,
                    phases.get(location) or None,
                )
            )
    return table(
        "schedules",
        _("Velero schedules and storage"),
        (
            Column("schedule", _("Schedule")),
            Column("cron", _("When"), meaning=_("As cron writes it, in Velero's zone (UTC)")),
            Column("phase", _("Phase")),
            Column("last", _("Last backup"), Unit.TIME),
            Column("kept", _("Kept for")),
            Column("namespaces", _("Namespaces")),
            Column("location", _("Storage location")),
            Column("available", _("Storage"), meaning=_("Whether Velero reaches the bucket")),
        ),
        rows,
        _("There are no schedules."),
    )


def snapshots_table(facts: Facts) -> Table:
    """Every snapshot, newest first."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.snapshots is not None:
        rows = [
            (
                Severity.OK if one.state == "SUCCESS" else Severity.INFO if one.state == "IN_PROGRESS" else Severity.CRITICAL,
                one.repository,
                one.snapshot,
                one.state,
                one.taken,
                (one.end_time_in_millis - one.start_time_in_millis) / 1000 if one.end_time_in_millis else None,
                len(one.indices),
                one.shards.total,
                one.shards.failed,
            )
            for one in sorted(facts.snapshots, key=lambda one: one.start_time_in_millis, reverse=True)[:500]
        ]
    return table(
        "snapshots",
        _("Elasticsearch snapshots"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("repository", _("Repository")),
            Column("snapshot", _("Snapshot")),
            Column("state", _("State")),
            Column("taken", _("Taken"), Unit.TIME),
            Column("took", _("Duration"), Unit.SECONDS),
            Column("indices", _("Indices"), Unit.COUNT),
            Column("shards", _("Shards"), Unit.COUNT),
            Column("failed", _("Failed shards"), Unit.COUNT),
        ),
        rows,
        _("There are no snapshots."),
    )


def indices_table(facts: Facts, parameters: Parameters) -> Table:
    """The newest good snapshot of each index."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.indices is not None and facts.snapshots is not None:
        rows = []
        for one in sorted(facts.indices, key=lambda one: one.index):
            found = good_snapshots(facts, one.index)
            taken = found[0].taken if found else None
            age = (facts.now - taken).total_seconds() if taken else None
            met = is_covered(facts, parameters, one.index, taken) or (age is not None and age <= parameters.target_hours * 3600)
            size, documents = (int(value) if value and value.isdigit() else None for value in (one.size, one.documents))
            rows.append(
                (
                    Severity.OK if met else Severity.WARNING,
                    one.index,
                    documents,
                    facts.written[one.index][1] if one.index in facts.written else None,
                    size,
                    found[0].snapshot if found else None,
                    taken,
                    age,
                )
            )
    return table(
        "indices",
        _("Recovery points by index"),
        (
            Column("severity", _("Target met"), Unit.SEVERITY),
            Column("index", _("Index")),
            Column("documents", _("Documents"), Unit.COUNT),
            Column("written", _("Newest document"), Unit.TIME, _("An index that is older than its snapshot is whole in it")),
            Column("size", _("Size"), Unit.BYTES),
            Column("snapshot", _("Newest good snapshot")),
            Column("taken", _("Taken"), Unit.TIME),
            Column("age", _("Age"), Unit.SECONDS),
        ),
        rows,
        _("There are no indices."),
    )


def restores_table(facts: Facts) -> Table:
    """Restores and rehearsals, newest first."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.restores is not None:
        rows = [
            (
                one.metadata.name,
                one.spec.backup_name,
                ", ".join(f"{source} → {target}" for source, target in sorted(one.spec.namespace_mapping.items())) or None,
                one.status.phase or "New",
                one.status.start_timestamp,
                one.status.progress.items_restored,
                one.status.errors,
            )
            for one in sorted(facts.restores, key=lambda one: one.status.start_timestamp or facts.now, reverse=True)[:200]
        ]
    return table(
        "restores",
        _("Restores and rehearsals"),
        (
            Column("restore", _("Restore")),
            Column("backup", _("Backup")),
            Column("mapping", _("Namespaces mapped")),
            Column("phase", _("Phase")),
            Column("began", _("Began"), Unit.TIME),
            Column("objects", _("Objects"), Unit.COUNT),
            Column("errors", _("Errors"), Unit.COUNT),
        ),
        rows,
        _("Nothing has been restored."),
    )


def problems_table(facts: Facts) -> Table:
    """What went wrong in backups and restores, by resource."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.problems is not None:
        rows = [
            (
                Severity.WARNING if one.warning else Severity.CRITICAL,
                f"{kind}/{name}",
                one.namespace or None,
                one.resource or None,
                one.name or None,
                one_line(one.text, 500),
            )
            for (kind, name), found in facts.problems.items()
            for one in found
        ][:1000]
    return table(
        "problems",
        _("Errors by resource"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("of", _("Backup or restore")),
            Column("namespace", _("Namespace")),
            Column("resource", _("Resource")),
            Column("name", _("Name")),
            Column("text", _("Message")),
        ),
        rows,
        _("No backup or restore failed in part."),
    )


def buckets_table(facts: Facts) -> Table:
    """The buckets that hold backups and snapshots, and how they are protected."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.buckets is not None:
        rows = []
        for one in sorted(facts.buckets, key=lambda one: one.name):
            block = one.public_access_block
            algorithms = [
                str((each.get("ApplyServerSideEncryptionByDefault") or {}).get("SSEAlgorithm", "")) for each in one.encryption or ()
            ]
            rows.append(
                (
                    one.name,
                    ", ".join(each.user for each in facts.bucket_uses.get(one.name, ())),
                    None if one.versioning is None else one.versioning or _("off"),
                    None if one.is_public is None else _("yes") if one.is_public else _("no"),
                    None if block is None else _("yes") if block and all(block.values()) else _("no"),
                    None if one.encryption is None else ", ".join(algorithms) or _("off"),
                    None if one.replication is None else len(one.replication),
                    None if one.lifecycle is None else len(one.lifecycle),
                    None if one.object_lock is None else _("yes") if one.object_lock.get("Enabled") else _("no"),
                )
            )
    return table(
        "buckets",
        _("Buckets"),
        (
            Column("bucket", _("Bucket")),
            Column("users", _("Used by"), meaning=_("Storage locations and snapshot repositories")),
            Column("versioning", _("Versioning")),
            Column("public", _("Public"), meaning=_("Whether its policy lets everybody in")),
            Column("blocked", _("Public access blocked")),
            Column("encryption", _("Encryption")),
            Column("replication", _("Replication rules"), Unit.COUNT),
            Column("lifecycle", _("Lifecycle rules"), Unit.COUNT),
            Column("lock", _("Object lock")),
        ),
        rows,
        _("No backup or snapshot is in a bucket of S3."),
    )


def calendar_figure(facts: Facts, parameters: Parameters) -> Figure:
    """A square a day and namespace: a good backup, only a bad one, none."""
    names = wanted_namespaces(facts, parameters)[:40]
    columns = list(days(facts, parameters))
    figure, axes = plotting.new_figure(_("Backups by day"), height=1.3 + 0.28 * max(len(names), 2))
    if facts.backups is None or not names:
        plotting.no_data(axes, NOT_READ if facts.backups is None or facts.namespaces is None else _("No namespace needs a backup."))
        return figure
    kinds = ((Severity.OK, _("good")), (Severity.CRITICAL, _("only failed ones")), (Severity.UNKNOWN, _("none")))
    places: dict[Severity, list[tuple[int, int]]] = {kind: [] for kind, _label in kinds}
    for row, name in enumerate(names):
        for column, (begin, end) in enumerate(columns):
            phases = {one.status.phase for one in facts.backups if one.taken and begin <= one.taken < end and one.spec.covers(name)}
            kind = Severity.OK if GOOD in phases else Severity.CRITICAL if phases & BAD else Severity.UNKNOWN
            places[kind].append((row, column))
    for kind, text in kinds:
        rows = [row for row, _column in places[kind]]
        left = [column - 0.45 for _row, column in places[kind]]
        axes.barh(rows, [0.9] * len(rows), 0.8, left=left, label=plotting.label(text), **plotting.severity_style(kind))
    axes.set_yticks(range(len(names)), [plotting.label(name) for name in names])
    axes.set_xticks(range(len(columns)), [f"{begin:%m-%d}" for begin, _end in columns])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False)
    plotting.legend(axes)
    return figure
