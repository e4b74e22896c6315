"""The facts of chapter 3.2 as they are read: Velero's files through its DownloadRequests, and the buckets of an AWS account."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import click.testing
import pytest
import yaml

from opslib import cli, environments
from opslib.chapters import backup as chapter
from opslib.environments import Environment
from opslib.errors import Forbidden, NotFound, SourceError
from opslib.facts import Questions, backup
from opslib.facts.sources import Sources
from opslib.lab import engines
from opslib.lab.velero import Velero
from opslib.sources import velero_files
from opslib.sources.aws import Aws
from opslib.sources.buckets import QUESTIONS, read
from tests.conftest import RealLab
from tests.waiting import until

BACKUPS = "/apis/velero.io/v1/namespaces/velero/backups"
NAMESPACE = "read-backup"


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An AWS account; the section of an environment's file that leads to it."""
    folder = tmp_path_factory.mktemp("account")
    lab = engines.up(folder, engine="embedded", parts=("aws",), platform=False)
    try:
        section: dict[str, Any] = yaml.safe_load(lab.environment.read_text("utf-8"))["aws"]
        section.pop("cluster", None)
        until(lambda: "aws" in {one.name for one in engines.status(folder) if one.health == "ok"}, "the account answers", seconds=180)
        yield section
    finally:
        engines.down(folder)


@dataclass
class Kit:
    """Velero in a cluster, with a backup `whole` and one `part` that lacks an object."""

    lab: RealLab
    velero: Velero
    folder: Path

    def environment(self, context: str = "lab", **more: Any) -> Path:
        kubernetes = {"kubeconfig": str(self.lab.kubeconfig), "context": context}
        file = self.folder / f"{context}.yaml"
        content = {"name": context, "title": "test", "language": "en", "timezone": "UTC", "kubernetes": kubernetes, **more}
        file.write_text(yaml.safe_dump(content), "utf-8")
        return file

    def sources(self, context: str = "lab", **more: Any) -> Sources:
        return Sources(environments.load(str(self.environment(context, **more))))

    def store(self, kind: str, name: str, content: bytes) -> None:
        """Another file in the place of the one that Velero keeps."""
        [folder] = self.velero.folder.glob(f"*/backups/{name}")
        (folder / f"{name}-{kind}.gz").write_bytes(content)


@pytest.fixture(scope="module")
def kit(any_cluster: RealLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    folder = tmp_path_factory.mktemp("kit")
    velero = Velero(any_cluster.api, folder / "store", tick_seconds=0.2)
    velero.install()
    velero.start()
    api = any_cluster.api
    try:
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": "",
            "volumeName": "gone",
        }
        path = "/apis/velero.io/v1/namespaces/velero/backupstoragelocations/default"
        until(lambda: api.get(path).get("status", {}).get("phase") == "Available", "the location is available")
        take(any_cluster, "whole")
        name = {"name": "data-0", "namespace": NAMESPACE}
        api.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": name, "spec": claim})
        take(any_cluster, "part")
        yield Kit(any_cluster, velero, folder)
    finally:
        velero.close()


def take(lab: RealLab, name: str) -> None:
    spec = {"includedNamespaces": [NAMESPACE]}
    lab.api.create({"apiVersion": "velero.io/v1", "kind": "Backup", "metadata": {"name": name, "namespace": "velero"}, "spec": spec})
    until(lambda: "completionTimestamp" in (lab.api.get(f"{BACKUPS}/{name}").get("status") or {}), f"{name} is done")


def facts(sources: Sources) -> backup.Facts:
    with ThreadPoolExecutor(17) as executor:
        return backup.read(sources, backup.Parameters(verify_repositories=False), Questions(executor))


def test_errors_by_resource_are_read_of_what_failed_in_part(kit: Kit, account: dict[str, Any]) -> None:
    found = facts(kit.sources(aws=account))
    assert found.problems is not None
    assert set(found.problems) == {("Backup", "part")}
    [one] = found.problems["Backup", "part"]
    assert (one.namespace, one.resource, one.name) == (NAMESPACE, "persistentvolumeclaims", "data-0")
    assert "gone" in one.text
    [finding] = [
        one for one in chapter.findings(found, backup.Parameters()) if one.check == "velero.backup_failed" and one.subject.name == "part"
    ]
    assert finding.evidence[0].text.text("en") == f"part: {NAMESPACE}/persistentvolumeclaims/data-0"  # type: ignore[union-attr]
    assert [str(one.cause) for one in found.gaps if one.check != "gap.elasticsearch"] == []


def test_the_buckets_are_read(kit: Kit, account: dict[str, Any]) -> None:
    found = facts(kit.sources(aws=account))
    assert found.buckets is not None
    assert [one.name for one in found.buckets] == ["lab-velero-backups"]
    assert {one.check for one in chapter.findings(found, backup.Parameters()) if one.check.startswith("buckets.")} == {
        "buckets.replication"
    }
    assert list(chapter.buckets_table(found).frame()["versioning"]) == ["Enabled"]


def test_a_bucket_that_cannot_be_looked_at_is_a_gap(kit: Kit, account: dict[str, Any]) -> None:
    """None of the account's, and no account at all."""
    path = "/apis/velero.io/v1/namespaces/velero/backupstoragelocations"
    other = {"provider": "aws", "objectStorage": {"bucket": "not-there"}}
    name = {"name": "other", "namespace": "velero"}
    kit.lab.api.create({"apiVersion": "velero.io/v1", "kind": "BackupStorageLocation", "metadata": name, "spec": other})
    try:
        found = facts(kit.sources(aws=account))
        assert [one.name for one in found.buckets or ()] == ["lab-velero-backups"]
        assert any(one.check == "gap.aws" and "not-there" in one.title.text("en") for one in found.gaps)  # type: ignore[union-attr]
    finally:
        kit.lab.api.delete(f"{path}/other")
    found = facts(kit.sources())
    assert found.buckets is None
    assert any(one.check == "gap.aws" for one in found.gaps)


def test_each_question_about_a_bucket(account: dict[str, Any]) -> None:
    environment = Environment.model_validate({"name": "test", "aws": account})
    calls: list[str] = []
    aws = Aws.connect(environment, lambda service, operation: calls.append(operation))
    credentials = aws._session.get_credentials()
    s3: Any = boto3.client(
        "s3", endpoint_url=account["endpoint_url"], region_name=account["region"],
        aws_access_key_id=credentials.access_key, aws_secret_access_key=credentials.secret_key,
    )  # fmt: skip
    s3.create_bucket(Bucket="bare", CreateBucketConfiguration={"LocationConstraint": account["region"]}, ObjectLockEnabledForBucket=True)
    rules = [
        {"ID": "on", "Status": "Enabled", "Filter": {"Prefix": "a/"}, "Expiration": {"Days": 5}},
        {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}},
    ]
    s3.put_bucket_lifecycle_configuration(Bucket="bare", LifecycleConfiguration={"Rules": rules})
    retention = {"Mode": "GOVERNANCE", "Days": 7}
    s3.put_object_lock_configuration(
        Bucket="bare", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}
    )
    policy = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bare/*"}
    s3.put_bucket_policy(Bucket="bare", Policy=json.dumps({"Version": "2012-10-17", "Statement": [policy]}))
    found = read(aws, "bare")
    assert [rule["ID"] for rule in found.lifecycle or ()] == ["on"]
    assert found.object_lock == {"Enabled": True, **retention}
    assert found.replication == ()
    assert found.public_access_block == {}
    assert found.errors == {}
    assert len(calls) == len(QUESTIONS)
    with pytest.raises(NotFound):
        read(aws, "not-there")


# --- files ------------------------------------------------------------------------------------------------------------------------------


def test_a_log_and_what_is_in_a_backup(kit: Kit) -> None:
    cluster = kit.sources().kubernetes
    assert b"Backed up" in velero_files.download(cluster, "velero", "BackupLog", "part")
    assert velero_files.resource_list(cluster, "velero", "Backup", "part")["v1/PersistentVolumeClaim"] == [f"{NAMESPACE}/data-0"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8bnot gzip", "broken"),
        (gzip.compress(b'{"errors": {}}')[:-9], "broken"),
        (gzip.compress(b"<html>"), "not understood"),
        (gzip.compress(b'{"errors": 7}'), "not understood"),
        (gzip.compress(bytes(velero_files.LIMIT_BYTES + 1)), "longer than"),
    ],
    ids=["no gzip", "cut off", "a page", "another shape", "too long"],
)
def test_a_file_that_is_not_what_it_should_be(kit: Kit, content: bytes, words: str) -> None:
    kit.store("results", "whole", content)
    with pytest.raises(SourceError, match=words):
        velero_files.results(kit.sources().kubernetes, "velero", "Backup", "whole")


def test_who_may_not_ask_is_told_so(kit: Kit) -> None:
    with pytest.raises(Forbidden, match=r"create downloadrequests\.velero\.io"):
        velero_files.results(kit.sources("lab-nobody").kubernetes, "velero", "Backup", "part")


def test_what_velero_does_not_answer(kit: Kit) -> None:
    with pytest.raises(SourceError, match="has not given BackupLog of none-such within 0 s"):
        velero_files.download(kit.sources().kubernetes, "velero", "BackupLog", "none-such", wait_seconds=0.1)


# --- the command ------------------------------------------------------------------------------------------------------------------------


def run(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli._group(), words)


def test_the_command_describes_and_follows(kit: Kit) -> None:
    file = str(kit.environment())
    shown = run("backup", "describe", "part", "--env", file)
    assert "persistentvolumeclaims/data-0: error getting its volume" in shown.output
    assert "velero backup describe part --details" in shown.output
    listed = run("backup", "list", "--env", file)
    assert sorted(line.split()[2:4] for line in listed.output.splitlines()) == [["Completed", "whole"], ["PartiallyFailed", "part"]]
    followed = run("backup", "follow", "part", "--env", file)
    assert "PartiallyFailed" in followed.output
    assert "opslib backup describe part" in followed.output
    assert "100%" in run("backup", "follow", "whole", "--env", file).output
