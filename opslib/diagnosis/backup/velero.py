"""Velero itself: is it there, can it store, do its schedules run, did its backups work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.backup.facts import Facts, Parameters, hours, newest
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import Text, _, _n, one_line
from opslib.sources.velero import BAD, GOOD, UNDER_WAY, Backup

_MOST = 20
_SHOWN = 5  # errors by resource in a finding; the table has all


def not_installed(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """The cluster does not know Velero's kinds: nothing is backed up."""
    if facts.installed is False:
        yield Finding(
            check="velero.missing",
            severity=Severity.CRITICAL,
            subject=Subject("System", "velero"),
            title=_("Velero is not installed: nothing of this cluster is backed up"),
            evidence=(Evidence(text=_("The cluster has no kind {kind}", kind="backups.velero.io"), reference="/apis/velero.io"),),
            steps=(Step(_("Install it, or say in ignored_namespaces that no namespace needs a backup"), changes=True),),
        )


def locations(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A storage location that is not available takes no backup and gives none back; none at all, too."""
    if facts.locations is not None and not facts.locations and facts.installed:
        yield Finding(
            check="velero.no_location",
            severity=Severity.CRITICAL,
            subject=Subject("System", "velero"),
            title=_("Velero has no storage location: it can store nothing"),
            steps=(Step(_("Make one for the environment's bucket"), "velero backup-location create --help", changes=True),),
        )
    for one in facts.locations or ():
        subject = Subject("BackupStorageLocation", one.metadata.name, one.metadata.namespace)
        if one.status.phase == "Unavailable":
            yield Finding(
                check="velero.location_unavailable",
                severity=Severity.CRITICAL,
                subject=subject,
                title=_("The storage location {name} is not available: backups cannot be taken or restored", name=one.metadata.name),
                cause=one_line(one.status.message, 300) or None,
                evidence=(
                    Evidence(
                        text=_(
                            "Velero could not reach bucket {bucket} ({provider})",
                            bucket=one.spec.object_storage.bucket,
                            provider=one.spec.provider,
                        ),
                        quote=one.status.message,
                        reference=_path(subject, "backupstoragelocations"),
                        time=one.status.last_validation_time,
                    ),
                ),
                steps=(
                    Step(_("See whether bucket and credentials are right"), _describe(facts, subject)),
                    Step(
                        _("See the bucket itself"),
                        command("aws", "s3", "ls", f"s3://{one.spec.object_storage.bucket}/{one.spec.object_storage.prefix}"),
                    ),
                ),
                since=one.status.last_validation_time,
            )
        elif one.spec.access_mode == "ReadOnly":
            yield Finding(
                check="velero.location_read_only",
                severity=Severity.WARNING,
                subject=subject,
                title=_("The storage location {name} is read-only: no backup goes there", name=one.metadata.name),
                steps=(Step(_("Allow writing again once a restore is over"), _describe(facts, subject)),),
            )


def schedules(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """No schedule, a paused one, or one that Velero does not accept."""
    if facts.schedules is not None and not facts.schedules and facts.installed:
        yield Finding(
            check="velero.no_schedule",
            severity=Severity.WARNING,
            subject=Subject("System", "velero"),
            title=_("No schedule takes backups: they depend on somebody's remembering"),
            steps=(
                Step(_("Make a daily one"), command("velero", "schedule", "create", "eks-backup", "--schedule=0 3 * * *"), changes=True),
            ),
        )
    for one in facts.schedules or ():
        subject = Subject("Schedule", one.metadata.name, one.metadata.namespace)
        last = one.status.last_backup
        if one.spec.paused:
            yield Finding(
                check="velero.schedule_paused",
                severity=Severity.WARNING,
                subject=subject,
                title=_("The schedule {name} is paused", name=one.metadata.name),
                evidence=(Evidence(text=_("Its last backup began at this time"), time=last),) if last else (),
                steps=(Step(_("Let it go on"), command("velero", "schedule", "unpause", one.metadata.name), changes=True),),
            )
        elif one.status.phase == "FailedValidation":
            yield Finding(
                check="velero.schedule_invalid",
                severity=Severity.CRITICAL,
                subject=subject,
                title=_("Velero does not accept the schedule {name}: it takes no backup", name=one.metadata.name),
                cause=one_line("; ".join(one.status.validation_errors), 300) or None,
                steps=(Step(_("Mend it"), _describe(facts, subject)),),
            )


def failed(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Backups of the window that failed, by the schedule that made them: one finding each, critical while the newest is bad."""
    since = facts.now - timedelta(days=parameters.window_days)
    by_schedule: dict[str, list[Backup]] = {}
    for one in facts.backups or ():
        if one.taken is not None and one.taken >= since and one.status.phase in BAD | {GOOD}:
            by_schedule.setdefault(one.schedule, []).append(one)
    for schedule, backups in sorted(by_schedule.items()):
        bad = sorted((one for one in backups if one.status.phase in BAD), key=lambda one: one.taken or facts.now, reverse=True)
        if not bad:
            continue
        last = newest(backups)
        recovered = last is not None and last.status.phase == GOOD
        subject = (
            Subject("Schedule", schedule, bad[0].metadata.namespace)
            if schedule
            else Subject("Backup", bad[0].metadata.name, bad[0].metadata.namespace)
        )
        first_bad = bad[-1]
        for one in sorted(backups, key=lambda one: one.taken or facts.now, reverse=True):
            if one.status.phase == GOOD:
                break
            first_bad = one
        title = (
            _n(
                "{count} backup of {name} failed in the last {days} days; the newest worked",
                "{count} backups of {name} failed in the last {days} days; the newest worked",
                len(bad),
                name=schedule or bad[0].metadata.name,
                days=parameters.window_days,
            )
            if recovered
            else _n(
                "The newest backup of {name} failed ({count} in the last {days} days)",
                "The newest backups of {name} failed ({count} in the last {days} days)",
                len(bad),
                name=schedule or bad[0].metadata.name,
                days=parameters.window_days,
            )
        )
        yield Finding(
            check="velero.backup_failed",
            severity=Severity.WARNING if recovered else Severity.CRITICAL,
            subject=subject,
            title=title,
            cause=_why(bad[0]) or _first(facts, "Backup", bad[0].metadata.name) or _count(bad[0]),
            evidence=(*_by_resource(facts, "Backup", bad[0].metadata.name), *(_evidence(one) for one in bad[:5])),
            steps=(
                Step(_("See the errors by resource"), command("velero", "backup", "describe", bad[0].metadata.name, "--details")),
                Step(_("See its log"), command("velero", "backup", "logs", bad[0].metadata.name)),
                Step(_("Take one now, once the cause is gone"), backup_command(facts, bad[0].spec.included_namespaces), changes=True),
            ),
            affected=tuple(Subject("Backup", one.metadata.name, one.metadata.namespace) for one in bad[:_MOST]),
            since=first_bad.taken,
        )


def stuck(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A backup that has been under way for longer than any takes."""
    for one in facts.backups or ():
        if one.status.phase in UNDER_WAY and one.taken and facts.now - one.taken > timedelta(hours=parameters.stuck_hours):
            subject = Subject("Backup", one.metadata.name, one.metadata.namespace)
            yield Finding(
                check="velero.backup_stuck",
                severity=Severity.CRITICAL,
                subject=subject,
                title=_(
                    "The backup {name} has been {phase} for {hours} hours",
                    name=one.metadata.name,
                    phase=one.status.phase or "New",
                    hours=hours(facts.now - one.taken),
                ),
                evidence=(_evidence(one),),
                steps=(
                    Step(
                        _("See whether Velero runs, and what its log says"),
                        command("kubectl", *facts.kubectl, "-n", one.metadata.namespace, "logs", "deployment/velero", "--tail=100"),
                    ),
                    Step(
                        _("Velero works on one backup after the other: delete this one where it holds up others"),
                        command("velero", "backup", "delete", one.metadata.name),
                        changes=True,
                    ),
                ),
                since=one.taken,
            )


def volumes(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Data of volumes that was not copied: the backup has the claim, and not what was in it."""
    by_backup: dict[str, list[Subject]] = {}
    words: dict[str, str] = {}
    for one in facts.volumes or ():
        if one.status.phase in ("Failed", "Canceled"):
            claim = one.spec.source_pvc or one.spec.volume
            by_backup.setdefault(one.backup, []).append(
                Subject("PersistentVolumeClaim", claim, one.spec.source_namespace or one.metadata.namespace)
            )
            words.setdefault(one.backup, one.status.message)
    for backup, subjects in sorted(by_backup.items()):
        yield Finding(
            check="velero.volume_failed",
            severity=Severity.WARNING,
            subject=Subject("Backup", backup),
            title=_n(
                "The data of {count} volume is not in the backup {name}",
                "The data of {count} volumes is not in the backup {name}",
                len(subjects),
                name=backup,
            ),
            cause=one_line(words[backup], 300) or None,
            steps=(Step(_("See the copies of volumes"), command("velero", "backup", "describe", backup, "--details")),),
            affected=tuple(subjects[:_MOST]),
        )


def restores(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Restores of the window that did not end well: what is in the cluster is not what was in the backup."""
    since = facts.now - timedelta(days=parameters.window_days)
    for one in facts.restores or ():
        begun = one.status.start_timestamp or one.metadata.creation_timestamp
        if one.status.phase in BAD and begun and begun >= since:
            subject = Subject("Restore", one.metadata.name, one.metadata.namespace)
            yield Finding(
                check="velero.restore_failed",
                severity=Severity.WARNING,
                subject=subject,
                title=_(
                    "The restore {name} of backup {backup} ended with {phase}",
                    name=one.metadata.name,
                    backup=one.spec.backup_name,
                    phase=one.status.phase,
                ),
                cause=one_line(one.status.failure_reason, 300) or _first(facts, "Restore", one.metadata.name),
                evidence=(
                    *_by_resource(facts, "Restore", one.metadata.name),
                    Evidence(
                        text=_("{errors} errors, {warnings} warnings", errors=one.status.errors, warnings=one.status.warnings), time=begun
                    ),
                ),
                steps=(Step(_("See the errors by resource"), command("velero", "restore", "describe", one.metadata.name, "--details")),),
                since=begun,
            )


def backup_command(facts: Facts, namespaces: list[str]) -> str:
    """The runbook's command, with the time in the name too: a second backup in a day must not collide."""
    name = f"eks-backup-{facts.now.astimezone(facts.zone):%Y%m%d-%H%M}"
    chosen = [f"--include-namespaces={','.join(namespaces)}"] if namespaces and namespaces != ["*"] else []
    return command("velero", "backup", "create", name, *chosen, "--wait")


def _why(one: Backup) -> Text | None:
    words = one.status.failure_reason or "; ".join(one.status.validation_errors)
    return one_line(words, 300) if words else None


def _count(one: Backup) -> Text | None:
    if not one.status.errors:
        return None
    return _n("{count} object could not be backed up", "{count} objects could not be backed up", one.status.errors)


def _first(facts: Facts, kind: str, name: str) -> str | None:
    """The first error of a backup or restore; None where none is known."""
    errors = [one for one in (facts.problems or {}).get((kind, name), ()) if not one.warning]
    return one_line(errors[0].text, 300) if errors else None


def _by_resource(facts: Facts, kind: str, name: str) -> tuple[Evidence, ...]:
    """The errors of a backup or restore, each with what it is about."""
    errors = [one for one in (facts.problems or {}).get((kind, name), ()) if not one.warning]
    return tuple(
        Evidence(
            text=_(
                "{name}: {resource}", name=name, resource="/".join(part for part in (one.namespace, one.resource, one.name) if part) or "-"
            ),
            quote=one_line(one.text, 500),
            source="velero",
        )
        for one in errors[:_SHOWN]
    )


def _evidence(one: Backup) -> Evidence:
    return Evidence(
        text=_(
            "{name}: {phase}, {done} of {total} objects, {errors} errors, {warnings} warnings",
            name=one.metadata.name,
            phase=one.status.phase or "New",
            done=one.status.progress.items_backed_up,
            total=one.status.progress.total_items,
            errors=one.status.errors,
            warnings=one.status.warnings,
        ),
        quote=one_line(one.status.failure_reason or "; ".join(one.status.validation_errors), 500),
        reference=_path(Subject("Backup", one.metadata.name, one.metadata.namespace), "backups"),
        time=one.taken,
    )


def _path(subject: Subject, plural: str) -> str:
    return f"/apis/velero.io/v1/namespaces/{subject.namespace}/{plural}/{subject.name}"


def _describe(facts: Facts, subject: Subject) -> str:
    return command("kubectl", *facts.kubectl, "-n", subject.namespace, "describe", f"{subject.kind.lower()}s.velero.io", subject.name)
