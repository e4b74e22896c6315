"""The lab's AWS account, asked by boto3 as anybody would, and its raw answers held against botocore's own service models."""

from __future__ import annotations

import csv
import gzip
import io
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError

from opslib.lab import aws
from opslib.lab.world.account import access_key, instance_id, provider_id
from opslib.lab.world.faults import BadDeploy, LeakedKey
from opslib.lab.world.platform import NODES

pytestmark = pytest.mark.xdist_group("aws")  # one process: the account is filled once
REGION = "ap-northeast-1"


@dataclass
class Clock:
    """A clock that a test turns."""

    moment: datetime = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
    tick: float = 0.0

    def now(self) -> datetime:
        return self.moment

    def ticks(self) -> float:
        self.tick += 10  # no two calls within a second, unless a test says so
        return self.tick

    def go(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@dataclass
class Lab:
    """A seeded account that is served."""

    server: aws.Server
    clock: Clock
    ended: list[str] = field(default_factory=list)

    @property
    def account(self) -> aws.Account:
        return self.server.account

    def client(self, service: str, region: str = REGION, key: str = "lab") -> Any:
        once = Config(retries={"total_max_attempts": 1})
        return boto3.client(
            service, endpoint_url=self.server.url, region_name=region, aws_access_key_id=key, aws_secret_access_key="lab", config=once
        )

    def cluster(self, name: str, version: str = "1.36", **node_groups: str) -> Any:
        """A cluster of the test's own; an EKS client."""
        eks = self.client("eks")
        role = f"arn:aws:iam::{self.account.account_id}:role/lab-cluster"
        eks.create_cluster(name=name, version=version, roleArn=role, resourcesVpcConfig={})
        for group, minor in node_groups.items():
            eks.create_nodegroup(
                clusterName=name,
                nodegroupName=group,
                subnets=["subnet-1"],
                nodeRole=role,
                version=minor,
                releaseVersion=f"{minor}.0-20250101",
            )
        return eks


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    clock = Clock()
    ended: list[str] = []
    account = aws.Account(now=clock.now, ticks=clock.ticks, on_update=lambda update: ended.append(f"{update.target} {update.status}"))
    server = aws.serve(account)
    try:
        aws.seed(server)
        yield Lab(server, clock, ended)
    finally:
        server.close()


def refused(call: Callable[..., Any], **parameters: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    return str(caught.value.response["Error"]["Code"])


# Shapes


def faults(shape: Any, value: Any, where: str = "") -> list[str]:
    """What in a raw JSON answer the service model does not know, or misses."""
    if shape is None:
        return [] if value == {} else [f"{where}: {value}, where nothing is expected"]
    kinds: dict[str, type | tuple[type, ...]] = {
        "structure": dict,
        "map": dict,
        "list": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "long": int,
        "double": (int, float),
        "timestamp": str if shape.serialization.get("timestampFormat") == "iso8601" else (int, float),
    }
    fits = isinstance(value, kinds[shape.type_name]) and (shape.type_name == "boolean" or not isinstance(value, bool))
    if not fits:
        return [f"{where}: {value!r} is no {shape.type_name}"]
    if shape.type_name == "structure":
        members = {member.serialization.get("name", name): member for name, member in shape.members.items()}
        found = [f"{where}.{key} is not in {shape.name}" for key in value.keys() - members.keys()]
        found += [f"{where} lacks {key}" for key in shape.required_members if key not in value]
        for key in value.keys() & members.keys():
            found += faults(members[key], value[key], f"{where}.{key}")
        return found
    if shape.type_name == "list":
        return [fault for number, one in enumerate(value) for fault in faults(shape.member, one, f"{where}[{number}]")]
    if shape.type_name == "map":
        return [fault for key, one in value.items() for fault in faults(shape.value, one, f"{where}[{key}]")]
    if shape.type_name == "string" and getattr(shape, "enum", None) and value not in shape.enum:
        return [f"{where}: {value} is none of {shape.enum}"]
    return []


def test_every_answer_fits_the_service_model_of_botocore(lab: Lab) -> None:
    seen: dict[str, list[str]] = {}

    def hold(client: Any) -> Any:
        def look(response_dict: dict[str, Any], operation_model: Any, **_: Any) -> None:
            if response_dict["status_code"] < 300:
                found = faults(operation_model.output_shape, json.loads(response_dict["body"]))
                seen.setdefault(operation_model.name, []).extend(found)

        client.meta.events.register("before-parse", look)
        return client

    lab.cluster("shapes", main="1.36")
    eks, trail, analyzer, ecr = (hold(lab.client(name)) for name in ("eks", "cloudtrail", "accessanalyzer", "ecr"))
    eks.describe_addon_versions()
    eks.describe_cluster_versions(includeAll=True)
    eks.create_addon(
        clusterName="shapes", addonName="vpc-cni", serviceAccountRoleArn="arn:aws:iam::123456789012:role/lab-vpc-cni", tags={"a": "b"}
    )
    eks.create_addon(
        clusterName="shapes", addonName="coredns", addonVersion="v1.12.4-eksbuild.1", configurationValues='{"replicaCount": 3}'
    )
    lab.clock.go(600)
    eks.list_addons(clusterName="shapes")
    eks.describe_addon(clusterName="shapes", addonName="coredns")
    eks.delete_addon(clusterName="shapes", addonName="vpc-cni")
    eks.update_addon(clusterName="shapes", addonName="coredns", addonVersion="v1.13.2-eksbuild.4", resolveConflicts="PRESERVE")
    for insight in eks.list_insights(clusterName="lab")["insights"]:
        eks.describe_insight(clusterName="lab", id=insight["id"])
    lab.account.fail_updates["shapes"] = ("OperationNotPermitted", "refused by the test")
    eks.update_nodegroup_version(clusterName="shapes", nodegroupName="main")
    update = eks.update_cluster_version(name="shapes", version="1.37", force=True)["update"]["id"]
    lab.clock.go(600)
    assert eks.list_updates(name="shapes")["updateIds"] == [update]
    assert eks.describe_update(name="shapes", updateId=update)["update"]["errors"]
    trail.lookup_events()
    for one in analyzer.list_analyzers()["analyzers"]:
        analyzer.get_analyzer(analyzerName=one["name"])
        for finding in analyzer.list_findings_v2(analyzerArn=one["arn"])["findings"]:
            analyzer.get_finding_v2(analyzerArn=one["arn"], id=finding["id"])
        for found in analyzer.list_findings(analyzerArn=one["arn"])["findings"]:
            analyzer.get_finding(analyzerArn=one["arn"], id=found["id"])
            analyzer.update_findings(analyzerArn=one["arn"], ids=[found["id"]], status="ACTIVE")
    ecr.describe_image_scan_findings(repositoryName="payments/payment-api", imageId={"imageTag": "5.0.3"})
    assert {name: found for name, found in seen.items() if found} == {}
    assert {name for operations in aws.OPERATIONS.values() for name in operations} <= seen.keys()


# Life cycles


def test_a_control_plane_moves_one_minor_at_a_time_and_takes_its_time(lab: Lab) -> None:
    eks = lab.cluster("stepwise", "1.34", main="1.34")
    assert refused(eks.update_cluster_version, name="stepwise", version="1.36") == "InvalidParameterException"
    assert refused(eks.update_cluster_version, name="stepwise", version="1.33") == "InvalidParameterException"
    assert refused(eks.update_cluster_version, name="stepwise", version="1.99") == "InvalidParameterException"
    assert refused(eks.update_cluster_version, name="nowhere", version="1.36") == "ResourceNotFoundException"
    begun = eks.update_cluster_version(name="stepwise", version="1.35", clientRequestToken="once")["update"]
    assert (begun["status"], begun["type"]) == ("InProgress", "VersionUpdate")
    assert {"type": "Version", "value": "1.35"} in begun["params"]
    assert eks.update_cluster_version(name="stepwise", version="1.35", clientRequestToken="once")["update"]["id"] == begun["id"]
    assert refused(eks.update_cluster_version, name="stepwise", version="1.35") == "ResourceInUseException"
    during = eks.describe_cluster(name="stepwise")["cluster"]
    assert (during["status"], during["version"]) == ("UPDATING", "1.34")
    lab.clock.go(aws.Durations().cluster - 1)
    assert eks.describe_update(name="stepwise", updateId=begun["id"])["update"]["status"] == "InProgress"
    lab.clock.go(1)
    assert eks.describe_update(name="stepwise", updateId=begun["id"])["update"]["status"] == "Successful"
    after = eks.describe_cluster(name="stepwise")["cluster"]
    assert (after["status"], after["version"]) == ("ACTIVE", "1.35")
    assert "stepwise Successful" in lab.ended


def test_upgrade_insights_block_an_update_until_they_pass_or_force_is_given(lab: Lab) -> None:
    eks = lab.cluster("blocked", "1.36", main="1.36")
    eks.create_addon(clusterName="blocked", addonName="aws-ebs-csi-driver", addonVersion="v1.53.0-eksbuild.1")
    lab.clock.go(600)
    held, lab.account.deprecated = lab.account.deprecated, []
    try:
        bad = eks.list_insights(clusterName="blocked", filter={"statuses": ["ERROR"]})["insights"]
        assert [one["name"] for one in bad] == ["EKS add-on version compatibility"]
        detail = eks.describe_insight(clusterName="blocked", id=bad[0]["id"])["insight"]["categorySpecificSummary"]
        assert detail["addonCompatibilityDetails"] == [{"name": "aws-ebs-csi-driver", "compatibleVersions": ["v1.57.0-eksbuild.1"]}]
        assert refused(eks.update_cluster_version, name="blocked", version="1.37") == "InvalidStateException"
        eks.update_addon(clusterName="blocked", addonName="aws-ebs-csi-driver", addonVersion="v1.57.0-eksbuild.1")
        lab.clock.go(600)
        assert eks.list_insights(clusterName="blocked", filter={"statuses": ["ERROR"]})["insights"] == []
        eks.update_cluster_version(name="blocked", version="1.37")
    finally:
        lab.account.deprecated = held


def test_kubelets_may_trail_by_three_minors_and_never_lead(lab: Lab) -> None:
    eks = lab.cluster("skewed", "1.36", old="1.33", new="1.36")
    assert refused(eks.update_cluster_version, name="skewed", version="1.37", force=True) == "InvalidParameterException"
    status = {one["name"]: one["insightStatus"]["status"] for one in eks.list_insights(clusterName="skewed")["insights"]}
    assert status["Kubelet version skew"] == "ERROR"
    assert refused(eks.update_nodegroup_version, clusterName="skewed", nodegroupName="new", version="1.37") == "InvalidParameterException"
    assert refused(eks.update_nodegroup_version, clusterName="skewed", nodegroupName="new", version="1.35") == "InvalidParameterException"
    assert (
        refused(eks.update_nodegroup_version, clusterName="skewed", nodegroupName="new", releaseVersion="1.36.9-20990101")
        == "InvalidParameterException"
    )
    update = eks.update_nodegroup_version(clusterName="skewed", nodegroupName="old")["update"]
    assert refused(eks.update_nodegroup_version, clusterName="skewed", nodegroupName="old") == "ResourceInUseException"
    lab.clock.go(600)
    assert eks.describe_update(name="skewed", nodegroupName="old", updateId=update["id"])["update"]["status"] == "Successful"
    group = eks.describe_nodegroup(clusterName="skewed", nodegroupName="old")["nodegroup"]
    assert (group["status"], group["version"], group["releaseVersion"]) == ("ACTIVE", "1.36", "1.36.3-20261105")


def test_an_update_that_fails_says_why_and_changes_nothing(lab: Lab) -> None:
    eks = lab.cluster("failing", "1.36", tight="1.35")
    lab.account.fail_updates["tight"] = (
        "PodEvictionFailure",
        "Reached max retries while trying to evict pods from nodes in node group tight",
    )
    update = eks.update_nodegroup_version(clusterName="failing", nodegroupName="tight")["update"]
    lab.clock.go(600)
    found = eks.describe_update(name="failing", nodegroupName="tight", updateId=update["id"])["update"]
    assert (found["status"], found["errors"][0]["errorCode"]) == ("Failed", "PodEvictionFailure")
    assert eks.describe_nodegroup(clusterName="failing", nodegroupName="tight")["nodegroup"]["version"] == "1.35"


def test_an_addon_lives_from_creating_to_gone(lab: Lab) -> None:
    eks = lab.cluster("addons", "1.36")
    where = {"clusterName": "addons", "addonName": "coredns"}
    assert refused(eks.describe_addon, **where) == "ResourceNotFoundException"
    assert refused(eks.create_addon, clusterName="addons", addonName="unheard-of") == "InvalidParameterException"
    assert refused(eks.create_addon, **where, addonVersion="v1.11.4-eksbuild.28") == "InvalidParameterException"
    assert refused(eks.create_addon, **where, configurationValues="replicas: [") == "InvalidParameterException"
    assert eks.create_addon(**where)["addon"]["status"] == "CREATING"
    assert refused(eks.create_addon, **where) == "ResourceInUseException"
    assert refused(eks.update_addon, **where, addonVersion="v1.14.1-eksbuild.1") == "ResourceInUseException"
    lab.clock.go(60)
    made = eks.describe_addon(**where)["addon"]
    assert (made["status"], made["addonVersion"]) == ("ACTIVE", "v1.13.2-eksbuild.4")
    eks.update_addon(**where, addonVersion="v1.14.1-eksbuild.1")
    assert eks.describe_addon(**where)["addon"]["status"] == "UPDATING"
    lab.clock.go(60)
    assert eks.describe_addon(**where)["addon"]["addonVersion"] == "v1.14.1-eksbuild.1"
    assert eks.delete_addon(**where)["addon"]["status"] == "DELETING"
    lab.clock.go(60)
    assert eks.list_addons(clusterName="addons")["addons"] == []
    eks.create_addon(**where)
    eks.delete_cluster(name="addons")
    assert lab.cluster("addons", "1.36").list_addons(clusterName="addons")["addons"] == []


# Versions and pages


def test_addon_versions_are_those_that_fit(lab: Lab) -> None:
    eks = lab.client("eks")
    one = eks.describe_addon_versions(addonName="kube-proxy", kubernetesVersion="1.37")["addons"][0]
    assert [version["addonVersion"] for version in one["addonVersions"]] == ["v1.37.1-eksbuild.2"]
    for minor in ("1.31", "1.36", "1.37"):
        for addon in eks.describe_addon_versions(kubernetesVersion=minor)["addons"]:
            defaults = [fit["defaultVersion"] for version in addon["addonVersions"] for fit in version["compatibilities"]]
            assert defaults.count(True) == 1, (minor, addon["addonName"])
    assert eks.describe_addon_versions(types=["storage"])["addons"][0]["addonName"] == "aws-ebs-csi-driver"


def test_versions_lose_their_support_as_time_goes_by(lab: Lab) -> None:
    eks = lab.client("eks")
    first = {one["clusterVersion"]: one["versionStatus"] for one in eks.describe_cluster_versions()["clusterVersions"]}
    assert (first["1.36"], first["1.33"]) == ("STANDARD_SUPPORT", "EXTENDED_SUPPORT")
    was, lab.clock.moment = lab.clock.moment, datetime(2027, 8, 1, tzinfo=UTC)
    try:
        later = {one["clusterVersion"]: one["versionStatus"] for one in eks.describe_cluster_versions(includeAll=True)["clusterVersions"]}
        assert (later["1.36"], later["1.33"], later["1.37"]) == ("EXTENDED_SUPPORT", "UNSUPPORTED", "STANDARD_SUPPORT")
        assert "1.33" not in {one["clusterVersion"] for one in eks.describe_cluster_versions()["clusterVersions"]}
    finally:
        lab.clock.moment = was


def test_pages_hold_all_of_it_once_and_their_tokens_answer_their_own_question(lab: Lab) -> None:
    eks = lab.client("eks")
    whole = [one["addonName"] for one in eks.describe_addon_versions()["addons"]]
    pages = [
        [one["addonName"] for one in page["addons"]]
        for page in eks.get_paginator("describe_addon_versions").paginate(PaginationConfig={"PageSize": 2})
    ]
    assert [len(page) for page in pages] == [2, 2, 2]
    assert [name for page in pages for name in page] == whole
    token = eks.describe_addon_versions(maxResults=2)["nextToken"]
    assert refused(eks.describe_addon_versions, maxResults=2, kubernetesVersion="1.36", nextToken=token) == "InvalidParameterException"
    assert refused(eks.list_addons, clusterName="lab", nextToken="rubbish") == "InvalidParameterException"


# CloudTrail


def test_the_event_history_tells_of_a_login_without_a_second_factor(lab: Lab) -> None:
    trail = lab.client("cloudtrail", "us-east-1")
    logins = trail.get_paginator("lookup_events").paginate(
        LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "ConsoleLogin"}]
    )
    records = [json.loads(event["CloudTrailEvent"]) for page in logins for event in page["Events"]]
    bad = [one for one in records if one["additionalEventData"]["MFAUsed"] == "No" and one["responseElements"]["ConsoleLogin"] == "Success"]
    assert [(one["userIdentity"]["userName"], one["sourceIPAddress"]) for one in bad] == [("kenji.sato", "198.51.100.77")]
    assert [one["eventTime"] for one in records] == sorted((one["eventTime"] for one in records), reverse=True)


def test_the_event_history_has_bounds(lab: Lab) -> None:
    trail = lab.client("cloudtrail", "us-east-1")
    now = lab.clock.now()
    assert refused(trail.lookup_events, StartTime=now, EndTime=now - timedelta(hours=1)) == "InvalidTimeRangeException"
    two = [{"AttributeKey": "Username", "AttributeValue": "mei.suzuki"}, {"AttributeKey": "ReadOnly", "AttributeValue": "true"}]
    assert refused(trail.lookup_events, LookupAttributes=two) == "InvalidLookupAttributesException"
    assert refused(trail.lookup_events, NextToken="bm8=") == "InvalidNextTokenException"
    some = trail.lookup_events(StartTime=now - timedelta(days=4), EndTime=now - timedelta(days=2))["Events"]
    assert some
    assert all(now - timedelta(days=4) <= event["EventTime"] <= now - timedelta(days=2) for event in some)
    token = trail.lookup_events(MaxResults=1)["NextToken"]
    assert refused(trail.lookup_events, MaxResults=1, NextToken=token, StartTime=now - timedelta(days=9)) == "InvalidNextTokenException"


def test_the_event_history_answers_two_calls_a_second(lab: Lab) -> None:
    trail = lab.client("cloudtrail", "us-east-1")
    times = iter([1000.0, 1000.4, 1000.9, 1001.0, 1001.2, 1001.4])
    lab.account.ticks, kept = lambda: next(times), lab.account.ticks
    try:
        trail.lookup_events()
        trail.lookup_events()
        assert refused(trail.lookup_events) == "ThrottlingException"
        trail.lookup_events()
        assert refused(trail.lookup_events) == "ThrottlingException"
        trail.lookup_events()
    finally:
        lab.account.ticks = kept
        lab.account.lookups.clear()


def test_pages_of_the_event_history_stay_whole_while_new_events_come(lab: Lab) -> None:
    trail = lab.client("cloudtrail", "us-east-1")
    first = trail.lookup_events(MaxResults=5)
    lab.clock.go(60)
    lab.client("iam").create_group(GroupName="came-meanwhile")
    second = trail.lookup_events(MaxResults=5, NextToken=first["NextToken"])
    assert not {one["EventId"] for one in first["Events"]} & {one["EventId"] for one in second["Events"]}
    both = [one["EventId"] for one in first["Events"] + second["Events"]]
    whole = [one["EventId"] for one in trail.lookup_events(MaxResults=11)["Events"]]
    assert whole[1:] == both


def test_the_event_history_follows_the_world(lab: Lab) -> None:
    before = lab.account.world
    assert before is not None
    key, now = access_key("ci-deploy"), lab.clock.now().timestamp()
    wanted = [{"AttributeKey": "AccessKeyId", "AttributeValue": key}]
    iam, (bucket, group) = lab.client("iam"), ("lab-audit-logs", "/aws/eks/lab/cluster")

    def records() -> list[dict[str, Any]]:
        s3 = lab.client("s3")
        found: list[dict[str, Any]] = []
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for one in page["Contents"]:
                found += json.loads(gzip.decompress(s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()))["Records"]
        return found

    def leaked() -> list[dict[str, Any]]:
        return [one for one in records() if one["userIdentity"].get("accessKeyId") == key]

    assert not leaked()
    broken = before.breaks(LeakedKey(user="ci-deploy", access_key=key), now - 3 * 3600)
    broken = broken.breaks(BadDeploy(service="payment-api", release="5.9.9"), now - 7200)
    aws.follow(lab.server, broken)
    here = [json.loads(one["CloudTrailEvent"]) for one in lab.client("cloudtrail").lookup_events(LookupAttributes=wanted)["Events"]]
    everywhere = lab.client("cloudtrail", "us-east-1").lookup_events(LookupAttributes=wanted)["Events"]
    assert everywhere[-1]["EventName"] == "GetCallerIdentity" and everywhere[-1]["Username"] == "ci-deploy"
    assert {one["sourceIPAddress"] for one in here} == {"198.51.100.173"}
    assert "AccessDenied" in {one.get("errorCode") for one in here} and None in {one.get("errorCode") for one in here}
    assert {one["eventID"] for one in leaked()} <= {one["eventID"] for one in here} | {one["EventId"] for one in everywhere}
    assert len(leaked()) > 5
    tags = [one["imageTag"] for one in lab.client("ecr").list_images(repositoryName="payments/payment-api")["imageIds"]]
    assert "5.9.9" in tags
    audit = lab.client("logs").filter_log_events(logGroupName=group, filterPattern='"payment-api"')["events"]
    assert any(json.loads(one["message"])["verb"] == "patch" for one in audit)
    # the key is taken out of the wrong hands, and all of it is taken back later
    iam.update_access_key(UserName="ci-deploy", AccessKeyId=key, Status="Inactive")
    aws.follow(lab.server, broken.ended(0, now))
    assert "Inactive" in {one["Status"] for one in iam.list_access_keys(UserName="ci-deploy")["AccessKeyMetadata"]}
    iam.delete_access_key(UserName="ci-deploy", AccessKeyId=key)
    aws.follow(lab.server, before)
    kept = {one["AccessKeyId"]: one["Status"] for one in iam.list_access_keys(UserName="ci-deploy")["AccessKeyMetadata"]}
    assert kept[key] == "Active" and len(kept) == 2
    assert lab.client("cloudtrail").lookup_events(LookupAttributes=wanted)["Events"] == []
    assert not leaked()


def test_nodes_are_instances_of_their_node_group(lab: Lab) -> None:
    group = lab.client("eks").describe_nodegroup(clusterName="lab", nodegroupName="main")["nodegroup"]
    name = group["resources"]["autoScalingGroups"][0]["name"]
    (scaling,) = lab.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    assert (scaling["MinSize"], scaling["DesiredCapacity"]) == (len(NODES), len(NODES)) == (group["scalingConfig"]["desiredSize"],) * 2
    ids = [one["InstanceId"] for one in scaling["Instances"]]
    assert sorted(ids) == sorted(instance_id(node) for node in NODES)
    found = {
        one["PrivateDnsName"]: one
        for reservation in lab.client("ec2").describe_instances(InstanceIds=ids)["Reservations"]
        for one in reservation["Instances"]
    }
    for node in NODES:
        instance = found[node.name]
        assert provider_id(node) == f"aws:///{instance['Placement']['AvailabilityZone']}/{instance['InstanceId']}"
        assert {"Key": "eks:nodegroup-name", "Value": "main"} in instance["Tags"]
        assert instance["State"]["Name"] == "running"


def test_the_account_runs_by_itself_and_tells_when_it_is_filled() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "opslib.lab.aws", str(port)])
    try:
        retries = urllib3.Retry(total=None, connect=200, status_forcelist=[503], status=200, backoff_factor=0.05, backoff_max=0.2)
        assert urllib3.request("GET", f"http://127.0.0.1:{port}/readyz", retries=retries).data == b"ok"
        sts = boto3.client(
            "sts",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name=REGION,
            aws_access_key_id="lab",
            aws_secret_access_key="lab",
        )
        assert sts.get_caller_identity()["Account"] == "123456789012"
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_what_is_changed_in_the_lab_stands_in_its_event_history(lab: Lab) -> None:
    lab.clock.go(1)
    key = lab.client("iam").list_access_keys(UserName="aoi.tanaka")["AccessKeyMetadata"][0]["AccessKeyId"]
    lab.client("eks", key=key).delete_addon(clusterName="lab", addonName="kube-proxy")
    lab.client("iam", key=key).create_group(GroupName="auditors")
    assert refused(lab.client("eks", key=key).create_addon, clusterName="nowhere", addonName="coredns") == "ResourceNotFoundException"
    mine = [{"AttributeKey": "AccessKeyId", "AttributeValue": key}]
    here = lab.client("cloudtrail").lookup_events(LookupAttributes=mine)["Events"]
    assert {(event["EventName"], event["Username"]) for event in here} == {("DeleteAddon", "aoi.tanaka"), ("CreateAddon", "aoi.tanaka")}
    failed = next(json.loads(event["CloudTrailEvent"]) for event in here if event["EventName"] == "CreateAddon")
    assert failed["errorCode"] == "ResourceNotFoundException"
    assert failed["userAgent"].startswith("Boto3/")
    everywhere = lab.client("cloudtrail", "us-east-1").lookup_events(LookupAttributes=mine)["Events"]
    assert [event["EventName"] for event in everywhere] == ["CreateGroup"]


# The rest of the account


def test_the_credential_report_shows_old_keys_and_missing_second_factors(lab: Lab) -> None:
    iam = lab.client("iam")
    iam.generate_credential_report()
    rows = {row["user"]: row for row in csv.DictReader(io.StringIO(iam.get_credential_report()["Content"].decode()))}
    assert rows["<root_account>"]["mfa_active"] == "true"
    assert {user for user, row in rows.items() if row["password_enabled"] == "true" and row["mfa_active"] == "false"} == {
        "kenji.sato",
        "old-contractor",
    }
    assert rows["ci-deploy"]["access_key_2_last_used_date"] == "N/A"
    made = datetime.fromisoformat(rows["ci-deploy"]["access_key_1_last_rotated"])
    assert (lab.clock.now() - made).days >= 400


def test_the_newest_node_image_is_newer_than_that_of_the_nodes(lab: Lab) -> None:
    name = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023/x86_64/standard/recommended/release_version"
    newest = lab.client("ssm").get_parameter(Name=name)["Parameter"]["Value"]
    group = lab.client("eks").describe_nodegroup(clusterName="lab", nodegroupName="main")["nodegroup"]
    assert group["releaseVersion"] < newest and newest.startswith("1.36.")
    assert refused(lab.client("ssm").get_parameter, Name=name.replace("1.36", "1.99")) == "ParameterNotFound"


def test_one_group_opens_ssh_to_the_world(lab: Lab) -> None:
    found = []
    for group in lab.client("ec2").describe_security_groups()["SecurityGroups"]:
        for rule in group["IpPermissions"]:
            world = {"0.0.0.0/0", "::/0"} & {one.get("CidrIp", one.get("CidrIpv6")) for one in rule["IpRanges"] + rule["Ipv6Ranges"]}
            if world and rule["FromPort"] == 22:
                found.append(group["GroupName"])
    assert found == ["lab-bastion"]


def test_the_bucket_for_backups_is_versioned_and_closed(lab: Lab) -> None:
    s3 = lab.client("s3")
    assert s3.get_bucket_versioning(Bucket="lab-velero-backups")["Status"] == "Enabled"
    assert all(s3.get_public_access_block(Bucket="lab-velero-backups")["PublicAccessBlockConfiguration"].values())
    assert refused(s3.get_public_access_block, Bucket="lab-static-assets") == "NoSuchPublicAccessBlockConfiguration"


def test_images_have_the_findings_that_were_given(lab: Lab) -> None:
    ecr = lab.client("ecr")
    by_tag = ecr.describe_image_scan_findings(repositoryName="shop/search", imageId={"imageTag": "0.30.9"})
    by_digest = ecr.describe_image_scan_findings(repositoryName="shop/search", imageId={"imageDigest": by_tag["imageId"]["imageDigest"]})
    assert by_tag["imageScanFindings"]["findings"] == by_digest["imageScanFindings"]["findings"]
    assert by_tag["imageScanFindings"]["findingSeverityCounts"] == {"CRITICAL": 2}
    assert "CVE-2021-44228" in {one["name"] for one in by_tag["imageScanFindings"]["findings"]}
    assert refused(ecr.describe_image_scan_findings, repositoryName="shop/mail", imageId={"imageTag": "0.8.1"}) == "ScanNotFoundException"
    assert refused(ecr.describe_image_scan_findings, repositoryName="shop/search", imageId={"imageTag": "0"}) == "ImageNotFoundException"
    assert refused(ecr.describe_image_scan_findings, repositoryName="shop/none", imageId={"imageTag": "0"}) == "RepositoryNotFoundException"


def test_findings_of_the_analyzer_are_filtered_and_archived(lab: Lab) -> None:
    analyzer = lab.client("accessanalyzer")
    arn = analyzer.list_analyzers(type="ACCOUNT")["analyzers"][0]["arn"]
    public = analyzer.list_findings(analyzerArn=arn, filter={"isPublic": {"eq": ["true"]}})["findings"]
    assert [one["resource"] for one in public] == ["arn:aws:s3:::lab-static-assets"]
    foreign = analyzer.list_findings(analyzerArn=arn, filter={"principal.AWS": {"contains": ["2109"]}})["findings"]
    assert [one["resourceType"] for one in foreign] == ["AWS::IAM::Role"]
    analyzer.update_findings(analyzerArn=arn, ids=[public[0]["id"]], status="ARCHIVED")
    active = analyzer.list_findings_v2(analyzerArn=arn, filter={"status": {"eq": ["ACTIVE"]}})["findings"]
    assert public[0]["id"] not in {one["id"] for one in active}
    analyzer.update_findings(analyzerArn=arn, ids=[public[0]["id"]], status="ACTIVE")
    assert refused(analyzer.list_findings_v2, analyzerArn=arn + "x") == "ResourceNotFoundException"
    assert lab.client("accessanalyzer", "eu-west-1").list_analyzers()["analyzers"] == []


def test_credentials_that_have_expired_are_refused_by_every_service(lab: Lab) -> None:
    lab.account.expired_keys.add("ASIAEXPIRED")
    calls = (
        ("sts", "get_caller_identity"),
        ("eks", "list_clusters"),
        ("cloudtrail", "lookup_events"),
        ("s3", "list_buckets"),
        ("ec2", "describe_vpcs"),
    )
    codes = {service: refused(getattr(lab.client(service, key="ASIAEXPIRED"), call)) for service, call in calls}
    assert codes == {
        "sts": "ExpiredToken",
        "eks": "ExpiredTokenException",
        "cloudtrail": "ExpiredTokenException",
        "s3": "ExpiredToken",
        "ec2": "ExpiredToken",
    }


def test_a_request_that_breaks_the_model_is_refused(lab: Lab) -> None:
    unchecked = boto3.client(
        "eks",
        endpoint_url=lab.server.url,
        region_name=REGION,
        aws_access_key_id="lab",
        aws_secret_access_key="lab",
        config=Config(parameter_validation=False),
    )
    assert refused(unchecked.update_cluster_version, name="lab") == "InvalidParameterException"
    assert refused(unchecked.describe_addon_versions, maxResults="many") == "SerializationException"
