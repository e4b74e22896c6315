"""What a lab starts in the background, on both engines: the AWS account, Velero with its past, snapshots, and the scanner."""

from __future__ import annotations

import configparser
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
import yaml

from opslib import environments
from opslib.lab import engines
from opslib.lab.api import Api, Object
from opslib.lab.engines import real
from opslib.lab.velero import trouble
from opslib.lab.world.account import BACKUP_BUCKET
from opslib.lab.world.platform import NODES
from opslib.lab.world.vulnerabilities import LOG4J, OLD_IMAGE

VELERO = "/apis/velero.io/v1/namespaces/velero"
PARTS = ("kubernetes", "elasticsearch", "aws", "velero")


class Lab:
    """A lab with its environment, as a notebook would load it."""

    def __init__(self, lab: engines.Lab, environment: environments.Environment) -> None:
        self.folder, self.engine, self.addresses = lab.folder, lab.engine, lab.addresses
        self.environment = environment
        self.api = Api.from_kubeconfig(lab.kubeconfig)

    def client(self, service: str) -> Any:
        aws = self.environment.aws
        assert aws is not None and aws.credentials_file is not None
        read = configparser.ConfigParser()
        read.read(aws.credentials_file)
        return boto3.client(service, endpoint_url=aws.endpoint_url, region_name=aws.region, **read["default"])

    def backups(self) -> list[Object]:
        return list(self.api.list(f"{VELERO}/backups"))

    def phases(self, schedule: str = "daily") -> set[str]:
        return {one["status"]["phase"] for one in self.backups() if one["metadata"]["labels"]["velero.io/schedule-name"] == schedule}

    def location(self) -> str:
        status = self.api.get(f"{VELERO}/backupstoragelocations/default").get("status") or {}
        return str(status.get("phase", ""))


def soon(check: Callable[[], object], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def _all_well(folder: Path) -> bool:
    found = {one.name: one.health for one in engines.status(folder)}
    return {"aws", "velero"} <= found.keys() and set(found.values()) == {"ok"}


@pytest.fixture(scope="module")
def lab(engine: str, tmp_path_factory: pytest.TempPathFactory, need_servers: Callable[..., None]) -> Iterator[Lab]:
    if engine == "real":
        need_servers(*(name for part in PARTS for name in real.NEEDS.get(part, ())))
    folder = tmp_path_factory.mktemp("background")
    up = engines.up(folder, engine=engine, parts=PARTS)
    try:
        soon(lambda: _all_well(folder), "the servers in the background", 300)
        file = folder / "here.yaml"
        file.write_text("name: here\naddresses_file: environment.yaml\n", "utf-8")
        yield Lab(up, environments.load(str(file)))
    finally:
        engines.down(folder)


def test_the_environment_leads_to_the_account(lab: Lab) -> None:
    aws = lab.environment.aws
    assert aws is not None and aws.credentials_file is not None and lab.environment.velero is not None
    assert aws.credentials_file.stat().st_mode & 0o777 == 0o600
    assert "AKIA" not in json.dumps(yaml.safe_load((lab.folder / "environment.yaml").read_text("utf-8")))
    identity = lab.client("sts").get_caller_identity()
    assert (identity["Account"], identity["Arn"].rpartition("/")[2]) == (aws.account, "operator")
    version = lab.client("eks").describe_cluster(name=aws.cluster)["cluster"]["version"]
    assert lab.api.get("/version")["gitVersion"].startswith(f"v{version}.")


def test_the_cluster_s_nodes_are_the_account_s_instances(lab: Lab) -> None:
    reservations = lab.client("ec2").describe_instances()["Reservations"]
    instances = {one["InstanceId"]: one for each in reservations for one in each["Instances"]}
    nodes = {one["spec"]["providerID"].rpartition("/")[2]: one for one in lab.api.list("/api/v1/nodes")}
    assert len(nodes) == len(NODES) and set(nodes) == set(instances)
    for name, node in nodes.items():
        labels, tags = node["metadata"]["labels"], {one["Key"]: one["Value"] for one in instances[name]["Tags"]}
        assert labels["node.kubernetes.io/instance-type"] == instances[name]["InstanceType"]
        assert labels["topology.kubernetes.io/zone"] == instances[name]["Placement"]["AvailabilityZone"]
        assert labels["eks.amazonaws.com/nodegroup"] == tags["eks:nodegroup-name"]
    group = lab.client("eks").describe_nodegroup(clusterName="lab", nodegroupName="main")["nodegroup"]
    release = group["releaseVersion"].partition("-")[0]
    assert {node["status"]["nodeInfo"]["kubeletVersion"].partition("-")[0] for node in nodes.values()} == {f"v{release}"}


def test_a_week_of_backups_is_there_and_none_is_made_for_it(lab: Lab) -> None:
    soon(lambda: lab.location() == "Available" and lab.backups(), "the backups of the last days")
    now = datetime.now(UTC)
    ages = []
    for one in lab.backups():
        status = one["status"]
        assert status["phase"] == "Completed" and status["progress"]["itemsBackedUp"] > 50
        start, end = (datetime.fromisoformat(status[name]) for name in ("startTimestamp", "completionTimestamp"))
        assert start < end < now < datetime.fromisoformat(status["expiration"])
        if one["metadata"]["labels"]["velero.io/schedule-name"] == "daily":
            ages.append((now - start) / timedelta(days=1))
    assert len(ages) >= 7 and max(ages) > 6
    assert all(late - early < 1.01 for early, late in zip(sorted(ages), sorted(ages)[1:], strict=False))
    last = lab.api.get(f"{VELERO}/schedules/daily")["status"]["lastBackup"]
    assert abs((now - datetime.fromisoformat(last)) / timedelta(days=1) - min(ages)) < 0.001


def test_a_backup_of_the_past_can_be_restored(lab: Lab) -> None:
    soon(lab.backups, "the backups of the last days")
    source = next(one["metadata"]["name"] for one in lab.backups() if one["metadata"]["labels"]["velero.io/schedule-name"] == "payments")
    spec = {
        "backupName": source,
        "includedNamespaces": ["payments"],
        "includedResources": ["configmaps"],
        "namespaceMapping": {"payments": "trial"},
    }
    lab.api.create({"apiVersion": "velero.io/v1", "kind": "Restore", "metadata": {"name": "trial", "namespace": "velero"}, "spec": spec})
    soon(lambda: (lab.api.get(f"{VELERO}/restores/trial").get("status") or {}).get("phase") == "Completed", "the restore")
    names = {one["metadata"]["name"] for one in lab.api.list("/api/v1/namespaces/trial/configmaps")}
    assert names >= {"payment-api", "ledger"}


def test_backups_fail_and_are_repaired(lab: Lab) -> None:
    soon(lambda: lab.phases() == {"Completed"}, "the backups of the last days")
    before = {one["metadata"]["name"] for one in lab.backups()}
    count = trouble.fail_backups(lab.api, lab.folder, datetime.now(UTC) - timedelta(days=6), "Failed", "no space")
    trouble.break_location(lab.api)
    assert count >= 5
    soon(lambda: lab.location() == "Unavailable", "the location to be seen as broken")
    failed = [one["status"]["failureReason"] for one in lab.backups() if one["status"]["phase"] == "Failed"]
    assert failed == ["no space"] * count
    trouble.repair(lab.api, lab.folder)
    soon(lambda: lab.location() == "Available", "the location to be available")
    soon(lambda: {one["metadata"]["name"] for one in lab.backups()} == before and lab.phases() == {"Completed"}, "the backups to come back")
    assert (lab.folder / "data" / "velero" / BACKUP_BUCKET).is_dir()


def test_each_day_s_logs_are_in_a_snapshot(lab: Lab) -> None:
    url = f"{lab.addresses['elasticsearch']}/_snapshot/daily/_all"

    def snapshots() -> list[dict[str, Any]]:
        answer = urllib3.request("GET", url)
        return list(answer.json()["snapshots"]) if answer.status == 200 else []

    soon(lambda: len(snapshots()) >= 6 and not any(one["state"] == "IN_PROGRESS" for one in snapshots()), "the last days' snapshots", 240)
    found = {one["snapshot"]: one for one in snapshots()}
    for name, one in found.items():
        assert one["state"] == "SUCCESS" and one["indices"] == [name.replace("daily-", "logs-")]
    if lab.engine == "embedded":
        soon(lambda: snapshots()[0]["start_time_in_millis"] < (time.time() - 5 * 86400) * 1000, "the snapshots' dates")


def test_the_scanner_and_the_registry_find_the_same(lab: Lab) -> None:
    reports = "/apis/aquasecurity.github.io/v1alpha1/namespaces/shop/vulnerabilityreports"
    deployments = {one["metadata"]["name"] for one in lab.api.list("/apis/apps/v1/namespaces/shop/deployments")}
    soon(lambda: len(lab.api.list(reports)) >= len(deployments), "reports of all workloads")
    ecr, some = lab.client("ecr"), 0
    for report in lab.api.list(reports):
        artifact = report["report"]["artifact"]
        found = {one["vulnerabilityID"] for one in report["report"]["vulnerabilities"]}
        if artifact["repository"] == "shop/mail":
            continue  # nobody has set the registry up to scan it
        image = {"imageTag": artifact["tag"]}
        scan = ecr.describe_image_scan_findings(repositoryName=artifact["repository"], imageId=image)["imageScanFindings"]
        assert found == {one["name"] for one in scan["findings"]}
        some += len(found)
    assert some > 5


def test_the_scanner_follows_what_runs(lab: Lab) -> None:
    reports = "/apis/aquasecurity.github.io/v1alpha1/namespaces/shop/vulnerabilityreports"

    def found() -> list[bool]:
        """Of each report of the old image, whether the worst is in it."""
        old = [
            one["report"]
            for one in lab.api.list(reports)
            if one["report"]["artifact"] == {"repository": "shop/search", "tag": OLD_IMAGE[1]}
        ]
        return [LOG4J.name in {one["vulnerabilityID"] for one in report["vulnerabilities"]} for report in old]

    path = "/apis/apps/v1/namespaces/shop/deployments/search"
    (container,) = lab.api.get(path)["spec"]["template"]["spec"]["containers"]
    before, old = container["image"], f"{container['image'].rpartition(':')[0]}:{OLD_IMAGE[1]}"

    def run(image: str) -> None:
        change = {"spec": {"template": {"spec": {"containers": [{"name": "search", "image": image}]}}}}
        lab.api.patch(path, change, type="strategic")

    run(old)
    soon(lambda: found() == [True], "a report of the old image")
    run(before)
    soon(lambda: found() == [], "that report to go")
