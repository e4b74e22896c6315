"""Elasticsearch's snapshots: is there a repository that works, did they succeed, is every index in a young one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.backup.facts import Facts, Parameters, good_snapshots, hours, is_covered, overdue
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, _n, one_line
from opslib.sources.snapshots import Snapshot

_MOST = 20


def no_repository(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """No repository: no snapshot can be taken."""
    if facts.repositories is not None and not facts.repositories and facts.indices:
        yield Finding(
            check="snapshots.no_repository",
            severity=Severity.CRITICAL,
            subject=Subject("System", "elasticsearch"),
            title=_("Elasticsearch has no snapshot repository: no index is backed up"),
            steps=(
                Step(
                    _("Register one"),
                    command(
                        "curl",
                        "-X",
                        "PUT",
                        f"{facts.elasticsearch_url}/_snapshot/backup",
                        "-H",
                        "Content-Type: application/json",
                        "-d",
                        '{"type": "s3", "settings": {"bucket": "…"}}',
                    ),
                    changes=True,
                ),
            ),
        )


def unverified(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A repository that a node cannot write to or read from."""
    for name, problem in sorted(facts.verified.items()):
        if problem:
            yield Finding(
                check="snapshots.unverified",
                severity=Severity.CRITICAL,
                subject=Subject("SnapshotRepository", name),
                title=_("The snapshot repository {name} does not verify: snapshots fail, and may not be readable", name=name),
                cause=one_line(problem, 300),
                evidence=(
                    Evidence(text=_("The server's words"), quote=problem, source="elasticsearch", reference=f"/_snapshot/{name}/_verify"),
                ),
                steps=(
                    Step(
                        _("See its settings, and whether bucket or path are there and writable"),
                        command("curl", f"{facts.elasticsearch_url}/_snapshot/{name}"),
                    ),
                    Step(_("Verify it again"), command("curl", "-X", "POST", f"{facts.elasticsearch_url}/_snapshot/{name}/_verify")),
                ),
            )


def failed(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Snapshots of the window that failed, or lack shards, by repository; critical while the newest is so."""
    since = facts.now - timedelta(days=parameters.window_days)
    by_repository: dict[str, list[Snapshot]] = {}
    for one in facts.snapshots or ():
        if one.taken and one.taken >= since and one.state != "IN_PROGRESS":
            by_repository.setdefault(one.repository, []).append(one)
    for repository, snapshots in sorted(by_repository.items()):
        ordered = sorted(snapshots, key=lambda one: one.start_time_in_millis, reverse=True)
        bad = [one for one in ordered if one.state != "SUCCESS"]
        if not bad:
            continue
        shards = sorted({f"{one.index}[{one.shard_id}]" for one in bad[0].failures})
        yield Finding(
            check="snapshots.failed",
            severity=Severity.WARNING if ordered[0].state == "SUCCESS" else Severity.CRITICAL,
            subject=Subject("SnapshotRepository", repository),
            title=_n(
                "{count} snapshot of the last {days} days is not whole",
                "{count} snapshots of the last {days} days are not whole",
                len(bad),
                days=parameters.window_days,
            ),
            cause=one_line(next((one.reason for one in bad[0].failures if one.reason), bad[0].reason), 300) or None,
            evidence=tuple(
                Evidence(
                    text=_(
                        "{name}: {state}, {failed} of {total} shards failed",
                        name=one.snapshot,
                        state=one.state,
                        failed=one.shards.failed,
                        total=one.shards.total,
                    ),
                    quote=one_line("; ".join(f"{each.index}[{each.shard_id}]: {each.reason}" for each in one.failures[:5]), 500),
                    source="elasticsearch",
                    reference=f"/_snapshot/{repository}/{one.snapshot}",
                    time=one.taken,
                )
                for one in bad[:5]
            ),
            steps=(
                Step(
                    _("See the shards that failed"),
                    command("curl", f"{facts.elasticsearch_url}/_snapshot/{repository}/{bad[0].snapshot}/_status"),
                ),
                Step(_("Take another one, once they are well"), snapshot_command(facts, repository), changes=True),
            ),
            affected=tuple(Subject("Shard", name) for name in shards[:_MOST]),
            since=bad[-1].taken,
        )


def stuck(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A snapshot that does not come to its end: no other can begin meanwhile."""
    for one in facts.snapshots or ():
        if one.state == "IN_PROGRESS" and one.taken and facts.now - one.taken > timedelta(hours=parameters.stuck_hours):
            yield Finding(
                check="snapshots.stuck",
                severity=Severity.CRITICAL,
                subject=Subject("Snapshot", one.snapshot),
                title=_("The snapshot {name} has been under way for {hours} hours", name=one.snapshot, hours=hours(facts.now - one.taken)),
                steps=(
                    Step(
                        _("See how far it is"),
                        command("curl", f"{facts.elasticsearch_url}/_snapshot/{one.repository}/{one.snapshot}/_status"),
                    ),
                ),
                since=one.taken,
            )


def stale(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Indices that are in no good snapshot younger than the target, nor whole in an older one; together by their newest one."""
    if facts.snapshots is None or facts.indices is None or not facts.repositories:
        return
    newest = {one.index: next(iter(good_snapshots(facts, one.index)), None) for one in facts.indices}
    points = {
        index: (one.snapshot, one.taken) if one else ("", None)
        for index, one in newest.items()
        if not is_covered(facts, parameters, index, one.taken if one else None)
    }
    for snapshot, taken, names in overdue(facts, parameters, points):
        if taken is not None:
            title = _n(
                "{count} index has no snapshot newer than {hours} hours",
                "{count} indices have no snapshot newer than {hours} hours",
                len(names),
                hours=hours(facts.now - taken),
            )
        else:
            title = _n("{count} index is in no snapshot", "{count} indices are in no snapshot", len(names))
        target = _("The newest good snapshot is {name}; the target is {hours} hours", name=snapshot, hours=parameters.target_hours)
        yield Finding(
            check="snapshots.stale" if taken else "snapshots.none",
            severity=Severity.WARNING,
            subject=Subject("Index", names[0]) if len(names) == 1 else Subject("Snapshot", snapshot or "-"),
            title=title,
            evidence=(Evidence(text=target, source="elasticsearch", time=taken),) if taken else (),
            steps=(Step(_("Take one now"), snapshot_command(facts, sorted(facts.repositories)[0]), changes=True),),
            affected=tuple(Subject("Index", name) for name in sorted(names)[:_MOST]),
            since=taken,
        )


def snapshot_command(facts: Facts, repository: str) -> str:
    """The runbook's command, with the time in the name too."""
    name = f"snapshot-{facts.now.astimezone(facts.zone):%Y%m%d-%H%M}"
    return command("curl", "-X", "PUT", f"{facts.elasticsearch_url}/_snapshot/{repository}/{name}?wait_for_completion=true")
