"""Chapter 3.2 on small facts: every rule with what it must find and what it must leave alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.chapters import backup
from opslib.diagnosis.backup.buckets import kept_days
from opslib.diagnosis.backup.facts import Facts, Parameters, Use
from opslib.facts.backup import bucket_uses
from opslib.findings import Finding, Severity
from opslib.messages import use_language
from opslib.sources.buckets import Bucket
from opslib.sources.objects import convert
from opslib.sources.snapshots import Index, Repository, ShardFailure, Snapshot
from opslib.sources.velero import Backup, BackupSpec, BackupStorageLocation, Problem, Restore, Schedule, VolumeCopy, problem

NOW = datetime(2026, 4, 10, 12, 0, tzinfo=UTC)
PARAMETERS = Parameters()


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).isoformat()


def taken(name: str = "eks-backup", phase: str = "Completed", hours: float = 2, schedule: str = "daily", **more: Any) -> Backup:
    status = {"phase": phase, "startTimestamp": ago(hours=hours), "expiration": ago(hours=hours - 720), **more.pop("status", {})}
    labels = {"velero.io/schedule-name": schedule} if schedule else {}
    return convert({"metadata": {"name": name, "namespace": "velero", "labels": labels}, "spec": more, "status": status}, Backup)


def snapshot(
    state: str = "SUCCESS", hours: float = 2, name: str = "snapshot-1", indices: tuple[str, ...] = ("logs-a",), **more: Any
) -> Snapshot:
    begin = int((NOW - timedelta(hours=hours)).timestamp() * 1000)
    return Snapshot(snapshot=name, repository="backup", state=state, indices=list(indices), start_time_in_millis=begin, **more)


def facts(**fields: Any) -> Facts:
    """A cluster that is well: each test breaks one thing."""
    location = convert(
        {"metadata": {"name": "default", "namespace": "velero"}, "spec": {"default": True}, "status": {"phase": "Available"}},
        BackupStorageLocation,
    )
    schedule = convert(
        {"metadata": {"name": "daily", "namespace": "velero"}, "spec": {"schedule": "0 3 * * *"}, "status": {"phase": "Enabled"}}, Schedule
    )
    rehearsal = convert({"metadata": {"name": "r"}, "status": {"phase": "Completed", "completionTimestamp": ago(days=3)}}, Restore)
    well: dict[str, Any] = {
        "namespaces": {"shop": 0, "data": 3, "kube-public": 0}, "installed": True, "locations": (location,), "schedules": (schedule,),
        "backups": tuple(taken(f"eks-backup-{day}", hours=2 + 24 * day) for day in range(8)), "restores": (rehearsal,), "volumes": (),
        "repositories": {"backup": Repository(type="fs")}, "verified": {"backup": ""},
        "snapshots": (snapshot(),), "indices": (Index(index="logs-a"),),
    }  # fmt: skip
    return Facts(now=NOW, environment="lab", **{**well, **fields})


def found(check: str, parameters: Parameters = PARAMETERS, **fields: Any) -> list[Finding]:
    return [finding for finding in backup.findings(facts(**fields), parameters) if finding.check == check]


def test_nothing_is_found_where_all_is_well() -> None:
    assert backup.findings(facts(), PARAMETERS) == []


def test_what_was_not_read_is_not_judged() -> None:
    nothing = Facts(now=NOW, environment="lab")
    assert backup.findings(nothing, PARAMETERS) == []
    for table in (
        backup.recovery_points_table(nothing, PARAMETERS), backup.backups_table(nothing), backup.schedules_table(nothing),
        backup.snapshots_table(nothing),
        backup.indices_table(nothing, PARAMETERS), backup.restores_table(nothing), backup.problems_table(nothing),
        backup.buckets_table(nothing),
    ):  # fmt: skip
        assert table.empty == backup.NOT_READ, table.name


def test_without_velero_nothing_is_backed_up() -> None:
    [finding] = found("velero.missing", installed=False, backups=(), schedules=(), locations=(), restores=())
    assert finding.severity is Severity.CRITICAL


def test_a_location_that_is_not_available() -> None:
    broken = convert(
        {
            "metadata": {"name": "default", "namespace": "velero"},
            "spec": {"objectStorage": {"bucket": "b"}},
            "status": {"phase": "Unavailable", "message": "AccessDenied"},
        },
        BackupStorageLocation,
    )
    [finding] = found("velero.location_unavailable", locations=(broken,))
    assert finding.cause == "AccessDenied"
    assert finding.evidence[0].quote == "AccessDenied"
    [_none] = found("velero.no_location", locations=())
    read_only = convert(
        {"metadata": {"name": "default"}, "spec": {"accessMode": "ReadOnly"}, "status": {"phase": "Available"}}, BackupStorageLocation
    )
    [finding] = found("velero.location_read_only", locations=(read_only,))
    assert finding.severity is Severity.WARNING


def test_schedules() -> None:
    [_none] = found("velero.no_schedule", schedules=())
    paused = convert({"metadata": {"name": "daily"}, "spec": {"paused": True}}, Schedule)
    [_paused] = found("velero.schedule_paused", schedules=(paused,))
    wrong = convert(
        {"metadata": {"name": "daily"}, "status": {"phase": "FailedValidation", "validationErrors": ["invalid schedule"]}}, Schedule
    )
    [finding] = found("velero.schedule_invalid", schedules=(wrong,))
    assert finding.cause == "invalid schedule"


@pytest.mark.parametrize("phase", ["PartiallyFailed", "Failed", "FailedValidation"])
def test_a_failed_backup_is_critical_until_one_works_again(phase: str) -> None:
    older = taken("old", hours=30)
    bad = taken("bad", phase, hours=6, status={"errors": 2, "failureReason": "no space left"})
    [finding] = found("velero.backup_failed", backups=(older, bad))
    assert finding.severity is Severity.CRITICAL
    assert finding.subject.name == "daily"
    assert finding.cause == "no space left"
    [finding] = found("velero.backup_failed", backups=(older, bad, taken("new", hours=1)))
    assert finding.severity is Severity.WARNING
    assert found("velero.backup_failed", backups=(older, taken("long ago", phase, hours=24 * 30))) == []


def test_a_week_of_failures_is_one_finding_with_its_beginning() -> None:
    bad = tuple(taken(f"bad-{day}", "Failed", hours=2 + 24 * day) for day in range(6))
    [finding] = found("velero.backup_failed", backups=(*bad, taken("good", hours=2 + 24 * 6)))
    assert len(finding.affected) == 6
    assert finding.since == NOW - timedelta(hours=2 + 24 * 5)


def test_a_backup_that_does_not_end() -> None:
    [finding] = found("velero.backup_stuck", backups=(taken("slow", "InProgress", hours=6),))
    assert "slow" in finding.title.text("en")  # type: ignore[union-attr]
    assert found("velero.backup_stuck", backups=(taken("quick", "InProgress", hours=1),)) == []


def test_volumes_that_were_not_copied() -> None:
    copy = convert(
        {
            "metadata": {"labels": {"velero.io/backup-name": "b"}},
            "spec": {"sourceNamespace": "data", "sourcePVC": "data-0"},
            "status": {"phase": "Failed", "message": "timeout"},
        },
        VolumeCopy,
    )
    [finding] = found("velero.volume_failed", volumes=(copy,))
    assert str(finding.affected[0]) == "data/PersistentVolumeClaim/data-0"


def test_namespaces_without_a_young_backup() -> None:
    [finding] = found("coverage.stale", backups=(taken("old", hours=40),))
    assert [one.name for one in finding.affected] == ["data", "shop"]
    assert finding.severity is Severity.CRITICAL
    [finding] = found("coverage.none", backups=(taken(includedNamespaces=["shop"]),))
    assert [one.name for one in finding.affected] == ["data"]
    assert finding.severity is Severity.CRITICAL, "it has volumes"
    [finding] = found("coverage.none", backups=(taken(includedNamespaces=["data"]),))
    assert finding.severity is Severity.WARNING
    assert found("coverage.none", Parameters(ignored_namespaces="sh*,kube-public"), backups=(taken(includedNamespaces=["data"]),)) == []


def test_a_backup_that_has_expired_counts_no_more() -> None:
    assert found("coverage.none", backups=(taken(status={"expiration": ago(minutes=1)}),))


def test_days_without_a_backup() -> None:
    every = [taken(f"b{day}", hours=2 + 24 * day) for day in range(8)]
    [finding] = found("coverage.gap", backups=tuple(one for number, one in enumerate(every) if number not in (2, 3)))
    assert finding.evidence[0].text.text("en").endswith("04-07, 04-08")  # type: ignore[union-attr]
    assert [one.name for one in finding.affected] == ["data", "shop"]


def test_the_last_backup_expires() -> None:
    [first, _second] = found("coverage.expiring", backups=(taken(status={"expiration": ago(hours=-5)}),))
    assert first.subject.name == "data"


def test_no_rehearsal() -> None:
    [finding] = found("coverage.not_rehearsed", restores=())
    assert "--namespace-mappings=data:data-rehearsal-20260410-1200" in finding.steps[0].command
    old = convert({"status": {"phase": "Completed", "completionTimestamp": ago(days=100)}}, Restore)
    assert found("coverage.not_rehearsed", restores=(old,))
    failed = convert(
        {
            "metadata": {"name": "r"},
            "status": {"phase": "PartiallyFailed", "startTimestamp": ago(days=1), "completionTimestamp": ago(days=1)},
        },
        Restore,
    )
    assert found("coverage.not_rehearsed", restores=(failed,))
    assert found("velero.restore_failed", restores=(failed,))


def test_repositories() -> None:
    [finding] = found("snapshots.no_repository", repositories={}, verified={}, snapshots=())
    assert finding.severity is Severity.CRITICAL
    [finding] = found("snapshots.unverified", verified={"backup": "path is not accessible on node n1"})
    assert finding.cause == "path is not accessible on node n1"


def test_snapshots_that_are_not_whole() -> None:
    failure = ShardFailure(index="logs-a", shard_id=1, reason="no such file")
    [finding] = found("snapshots.failed", snapshots=(snapshot("PARTIAL", failures=[failure]),))
    assert finding.severity is Severity.CRITICAL
    assert [one.name for one in finding.affected] == ["logs-a[1]"]
    [finding] = found("snapshots.failed", snapshots=(snapshot("FAILED", hours=20, name="old"), snapshot()))
    assert finding.severity is Severity.WARNING
    assert found("snapshots.stuck", snapshots=(snapshot("IN_PROGRESS", hours=6),))


def test_indices_without_a_young_snapshot() -> None:
    [finding] = found("snapshots.stale", snapshots=(snapshot(hours=50),))
    assert finding.subject.name == "logs-a"
    taken, minute = NOW - timedelta(hours=50), timedelta(minutes=1)
    before, after = (taken - timedelta(days=1), taken - minute), (taken - timedelta(days=1), taken + minute)
    assert not found("snapshots.stale", snapshots=(snapshot(hours=50),), written={"logs-a": before})
    assert found("snapshots.stale", snapshots=(snapshot(hours=50),), written={"logs-a": after})
    assert found("snapshots.stale", snapshots=(snapshot(hours=50),), written={"another": before})
    [finding] = found("snapshots.none", indices=(Index(index="logs-a"), Index(index="logs-b")))
    assert finding.subject.name == "logs-b"
    both = (Index(index="logs-a"), Index(index="logs-b"))
    assert not found("snapshots.none", indices=both, written={"logs-b": (NOW - timedelta(hours=9), NOW)})
    assert found("snapshots.none", indices=both, written={"logs-b": (NOW - timedelta(hours=40), NOW)})
    partial = snapshot("PARTIAL", indices=("logs-a", "logs-b"), failures=[ShardFailure(index="logs-b", shard_id=0)])
    [finding] = found("snapshots.none", indices=(Index(index="logs-a"), Index(index="logs-b")), snapshots=(partial,))
    assert finding.subject.name == "logs-b"


@pytest.mark.parametrize("language", ["en", "ja"])
def test_commands_carry_the_time_and_quote(language: str) -> None:
    with use_language(language):
        for finding in backup.findings(facts(backups=(taken("it's; rm -rf /", "Failed"),)), PARAMETERS):
            for step in finding.steps:
                assert "rm -rf" not in step.command or "'it'\"'\"'s; rm -rf /'" in step.command


def test_tables_and_plot() -> None:
    now = facts(backups=(taken("a"), taken("b", "Failed", hours=30)))
    points = backup.recovery_points_table(now, PARAMETERS).frame()
    assert list(points["namespace"]) == ["data", "shop"]
    assert list(points["age"]) == [7200.0, 7200.0]
    assert list(backup.backups_table(now).frame()["phase"]) == ["Completed", "Failed"]
    figure = backup.calendar_figure(now, PARAMETERS)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["data", "shop"]


names = st.sampled_from(["shop", "data", "shop-test", "kube-system"])


@given(included=st.lists(names, max_size=3), excluded=st.lists(names, max_size=3), name=names)
def test_what_a_backup_covers(included: list[str], excluded: list[str], name: str) -> None:
    spec = BackupSpec(included_namespaces=included, excluded_namespaces=excluded)
    assert spec.covers(name) == ((not included or name in included) and name not in excluded)


# --- what went wrong by resource --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "resource", "name", "words"),
    [
        (" resource: /pods name: /web-0 message: /Error backing up item error: /late", "pods", "web-0", "Error backing up item: late"),
        (" name: /web-0 error: /timed out", "", "web-0", "timed out"),
        ("error restoring pods/shop/web-0: denied", "pods", "web-0", "denied"),
        ("no such bucket", "", "", "no such bucket"),
        ("", "", "", ""),
    ],
)  # fmt: skip
def test_a_message_is_taken_apart(text: str, resource: str, name: str, words: str) -> None:
    found = problem(text, "shop")
    assert (found.namespace, found.resource, found.name, found.text) == ("shop", resource, name, words)


@given(st.text())
def test_any_message_is_taken_apart(text: str) -> None:
    assert isinstance(problem(text).text, str)


def test_errors_by_resource_are_in_the_finding_and_in_the_table() -> None:
    hostile = "denied \x1b[31m<script>\nalert"
    errors = (
        Problem(warning=False, namespace="shop", resource="pods", name="web-0", text=hostile),
        Problem(warning=True, namespace="", resource="", name="", text="slow"),
    )
    bad = taken("bad", "PartiallyFailed", status={"errors": 1})
    given_ = {"backups": (taken("old", hours=30), bad), "problems": {("Backup", "bad"): errors}}
    [finding] = found("velero.backup_failed", **given_)
    assert finding.cause == "denied \ufffd[31m<script> alert" or "\x1b" not in str(finding.cause)
    assert finding.evidence[0].text.text("en") == "bad: shop/pods/web-0"  # type: ignore[union-attr]
    frame = backup.problems_table(facts(**given_)).frame()
    assert list(frame["of"]) == ["Backup/bad", "Backup/bad"]
    assert not any("\x1b" in text or "\n" in text for text in frame["text"])


# --- buckets ----------------------------------------------------------------------------------------------------------------------------

CLOSED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)


def bucket(**fields: Any) -> dict[str, Any]:
    """A bucket that is well, but for what a test says."""
    well: dict[str, Any] = {
        "name": "b", "versioning": "Enabled", "public_access_block": CLOSED, "is_public": False,
        "encryption": ({"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}},), "replication": ({"Status": "Enabled"},),
        "lifecycle": (), "object_lock": {},
    }  # fmt: skip
    use = fields.pop("use", Use("default", "", 30.0))
    return {"buckets": (Bucket(**{**well, **fields}),), "bucket_uses": {"b": (use,)}, "region": "ap-northeast-1"}


def test_a_bucket_that_is_well() -> None:
    assert backup.findings(facts(**bucket()), PARAMETERS) == []
    unknown = dict.fromkeys(("versioning", "public_access_block", "is_public", "encryption", "replication", "lifecycle", "object_lock"))
    assert backup.findings(facts(**bucket(**unknown)), PARAMETERS) == [], "what could not be read is not judged"


@pytest.mark.parametrize(
    ("check", "severity", "fields"),
    [
        ("public", Severity.CRITICAL, {"is_public": True}),
        ("public_access_block", Severity.WARNING, {"public_access_block": {}}),
        ("public_access_block", Severity.WARNING, {"public_access_block": {**CLOSED, "BlockPublicAcls": False}}),
        ("versioning", Severity.WARNING, {"versioning": "Suspended"}),
        ("versioning", Severity.WARNING, {"versioning": ""}),
        ("encryption", Severity.WARNING, {"encryption": ()}),
        ("replication", Severity.INFO, {"replication": ()}),
        ("lifecycle", Severity.CRITICAL, {"lifecycle": ({"ID": "old", "Filter": {"Prefix": ""}, "Expiration": {"Days": 29}},)}),
        ("lifecycle", Severity.CRITICAL, {"lifecycle": ({"Prefix": "", "Expiration": {"Days": 900}},), "use": Use("es", repository=True)}),
        ("lifecycle_cold", Severity.WARNING, {"lifecycle": ({"Transitions": [{"Days": 3, "StorageClass": "GLACIER"}]},)}),
        ("object_lock", Severity.WARNING, {"object_lock": {"Enabled": True, "Mode": "COMPLIANCE", "Days": 31}}),
        ("object_lock", Severity.WARNING, {"object_lock": {"Enabled": True, "Mode": "GOVERNANCE", "Years": 1}}),
    ],
)
def test_what_is_wrong_with_a_bucket(check: str, severity: Severity, fields: dict[str, Any]) -> None:
    [finding] = backup.findings(facts(**bucket(**fields)), PARAMETERS)
    assert (finding.check, finding.severity) == (f"buckets.{check}", severity)
    assert finding.evidence
    assert finding.steps[0].command.startswith("aws s3api get-")
    assert finding.steps[0].command.endswith("--bucket b --region ap-northeast-1")


@pytest.mark.parametrize(
    "fields",
    [
        {"lifecycle": ({"Prefix": "", "Expiration": {"Days": 30}},)},
        {"lifecycle": ({"Prefix": "logs/", "Expiration": {"Days": 1}},), "use": Use("default", "velero", 30)},
        {"lifecycle": ({"Prefix": "", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}},)},
        {"object_lock": {"Enabled": True, "Mode": "COMPLIANCE", "Days": 30}},
    ],
)
def test_what_is_right_with_a_bucket(fields: dict[str, Any]) -> None:
    assert backup.findings(facts(**bucket(**fields)), PARAMETERS) == []


def test_which_bucket_holds_what() -> None:
    def location(name: str, **spec: Any) -> BackupStorageLocation:
        return convert(
            {"metadata": {"name": name}, "spec": {"provider": "aws", "objectStorage": {"bucket": name}, **spec}}, BackupStorageLocation
        )

    locations = (
        location("one", default=True), location("two", provider="velero.io/aws"), location("minio", config={"s3Url": "http://minio:9000"}),
        location("gcs", provider="gcp"),
    )  # fmt: skip
    schedules = tuple(
        convert({"metadata": {"name": "s"}, "spec": {"template": template}}, Schedule)
        for template in ({"ttl": "2160h0m0s"}, {"storageLocation": "two"}, {"storageLocation": "two", "ttl": "odd"})
    )
    repositories = {
        "es": Repository(type="s3", settings={"bucket": "two", "base_path": "es"}), "fs": Repository(type="fs", settings={"bucket": "no"}),
        "own": Repository(type="s3", settings={"bucket": "no", "endpoint": "minio"}),
    }  # fmt: skip
    uses = bucket_uses(locations, schedules, (), repositories)
    assert uses == {"one": (Use("one", "", 90.0),), "two": (Use("two", "", 30.0), Use("es", "es", repository=True))}
    assert kept_days("1h30m") == pytest.approx(0.0625)
    assert kept_days("") is kept_days("3 days") is None
