"""Recovery points of namespaces: is there a good backup, is it young enough, was it ever restored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.backup.facts import Facts, Parameters, days, good, hours, overdue, wanted_namespaces
from opslib.diagnosis.backup.velero import backup_command
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, _n
from opslib.sources.velero import GOOD


def stale(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Namespaces whose newest good backup is older than the target, or that have none; all that have the same one are one finding."""
    if facts.backups is None or not facts.installed:
        return
    newest = {name: next(iter(good(facts, name)), None) for name in wanted_namespaces(facts, parameters)}
    points = {name: (one.metadata.name, one.taken) if one else ("", None) for name, one in newest.items()}
    for backup, taken, names in overdue(facts, parameters, points):
        subject = Subject("Namespace", names[0]) if len(names) == 1 else Subject("Backup", backup or "-", "velero")
        with_data = [name for name in names if (facts.namespaces or {}).get(name)]
        if taken is not None:
            title = _n(
                "{count} namespace has no backup newer than {hours} hours",
                "{count} namespaces have no backup newer than {hours} hours",
                len(names),
                hours=hours(facts.now - taken),
            )
        else:
            title = _n("{count} namespace has no backup at all", "{count} namespaces have no backup at all", len(names))
        target = _("The newest good backup is {name}; the target is {hours} hours", name=backup, hours=parameters.target_hours)
        yield Finding(
            check="coverage.stale" if taken else "coverage.none",
            severity=Severity.CRITICAL if taken or with_data else Severity.WARNING,
            subject=subject,
            title=title,
            cause=_("What has changed since then would be lost") if taken else None,
            evidence=(Evidence(text=target, time=taken),) if taken else (),
            steps=(Step(_("Take one now"), backup_command(facts, names), changes=True),),
            affected=tuple(Subject("Namespace", name) for name in names),
            since=taken,
        )


def gaps(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Days of the window without a good backup, of namespaces that have one by now."""
    if facts.backups is None:
        return
    missed: dict[tuple[str, ...], list[str]] = {}
    for name in wanted_namespaces(facts, parameters):
        taken = [one.taken for one in facts.backups if one.status.phase == GOOD and one.taken and one.spec.covers(name)]
        if not taken:
            continue
        first = min(taken)
        without = [
            f"{begin:%m-%d}"
            for begin, end in days(facts, parameters)
            if end - begin >= timedelta(days=1) and begin >= first and not any(begin <= one < end for one in taken)
        ]
        if without:
            missed.setdefault(tuple(without), []).append(name)
    for dates, names in sorted(missed.items()):
        yield Finding(
            check="coverage.gap",
            severity=Severity.INFO,
            subject=Subject("Namespace", names[0]) if len(names) == 1 else Subject("Namespaces", ",".join(names)[:200]),
            title=_n(
                "{count} day of the last {days} has no good backup",
                "{count} days of the last {days} have no good backup",
                len(dates),
                days=parameters.window_days,
            ),
            evidence=(Evidence(text=_("Days without one: {dates}", dates=list(dates))),),
            steps=(Step(_("See what happened on these days"), "velero backup get"),),
            affected=tuple(Subject("Namespace", name) for name in names),
        )


def expiring(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A namespace whose only good backup is about to expire, with none to follow."""
    for name in wanted_namespaces(facts, parameters):
        found = good(facts, name)
        ends = found[0].status.expiration if len(found) == 1 else None
        if ends is not None and ends - facts.now < timedelta(hours=parameters.expires_within_hours):
            yield Finding(
                check="coverage.expiring",
                severity=Severity.WARNING,
                subject=Subject("Namespace", name),
                title=_("The only good backup of {name} expires in {hours} hours", name=name, hours=hours(ends - facts.now)),
                evidence=(Evidence(text=_("{backup} is then deleted with its data", backup=found[0].metadata.name), time=ends),),
                steps=(Step(_("Take another one before"), backup_command(facts, [name]), changes=True),),
            )


def rehearsed(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """No restore has been rehearsed for long: nobody knows whether the backups can be restored."""
    if facts.restores is None or not facts.backups:
        return
    since = facts.now - timedelta(days=parameters.rehearsal_days)
    done = [one for one in facts.restores if one.status.phase == GOOD and one.status.completion_timestamp]
    last = max((one.status.completion_timestamp for one in done if one.status.completion_timestamp), default=None)
    if last is not None and last >= since:
        return
    newest = next(
        (one for one in sorted(facts.backups, key=lambda one: one.taken or since, reverse=True) if one.status.phase == GOOD), None
    )
    if newest is None:
        return
    name = next((one for one in wanted_namespaces(facts, parameters) if newest.spec.covers(one)), "")
    restore = f"rehearsal-{facts.now.astimezone(facts.zone):%Y%m%d-%H%M}"
    yield Finding(
        check="coverage.not_rehearsed",
        severity=Severity.WARNING,
        subject=Subject("System", "velero"),
        title=_("No restore has been rehearsed in the last {days} days", days=parameters.rehearsal_days),
        cause=_("A backup counts when it was restored once: into another namespace, with the counts compared"),
        evidence=(Evidence(text=_("The last restore that worked ended then"), time=last),) if last else (),
        steps=(
            Step(
                _("Restore the newest backup into a namespace of its own, compare, and delete that namespace"),
                command(
                    "velero",
                    "restore",
                    "create",
                    restore,
                    f"--from-backup={newest.metadata.name}",
                    f"--include-namespaces={name}",
                    f"--namespace-mappings={name}:{name}-{restore}",
                    "--wait",
                ),
                changes=True,
            ),
        ),
        since=last,
    )
