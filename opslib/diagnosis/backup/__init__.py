"""What is wrong with backups and snapshots, as Velero, Elasticsearch and S3 tell it.

A rule is a function ``(facts, parameters) -> Iterator[Finding]``; a family of them stands in one file. A field of the facts that is None
was not read: a rule says nothing about it, the gap does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opslib.diagnosis.backup import buckets, coverage, snapshots, velero
from opslib.diagnosis.backup.facts import Facts, Parameters
from opslib.findings import Finding

Rule = Callable[[Facts, Parameters], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    velero.not_installed,
    velero.locations,
    velero.schedules,
    velero.failed,
    velero.stuck,
    velero.volumes,
    velero.restores,
    coverage.stale,
    coverage.gaps,
    coverage.expiring,
    coverage.rehearsed,
    snapshots.no_repository,
    snapshots.unverified,
    snapshots.failed,
    snapshots.stuck,
    snapshots.stale,
    buckets.public,
    buckets.versioning,
    buckets.encryption,
    buckets.replication,
    buckets.lifecycle,
    buckets.object_lock,
)


def diagnose(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that any rule finds; gaps are not among them."""
    return [finding for rule in RULES for finding in rule(facts, parameters)]
