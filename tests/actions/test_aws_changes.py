"""Changes of the EKS cluster in the lab's account: planned, refused, executed, followed, cut off, taken back."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from opslib.actions import aws, pipeline
from opslib.actions.aws import AwsSystem
from opslib.actions.kubernetes import KubernetesSystem
from opslib.actions.pipeline import Desk
from opslib.actions.plans import Plan
from opslib.chapters.rights import PLAN_ACTIONS
from opslib.environments import Environment
from opslib.errors import InputError, OpsError, SourceError, Unauthenticated
from opslib.lab import aws as lab
from opslib.sources.aws import Aws
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.versions import NODE_GROUP
from tests.actions.conftest import Between
from tests.conftest import RealLab
from tests.waiting import until

REGION = "ap-northeast-1"


@dataclass
class Account:
    """An account whose clusters are changed at once, and the Kubernetes cluster that belongs to them."""

    server: lab.Server
    cluster: RealLab
    credentials: Path
    asked: set[str] = field(default_factory=set)

    def eks(self) -> Any:
        import boto3

        return boto3.client("eks", endpoint_url=self.server.url, region_name=REGION, aws_access_key_id="lab", aws_secret_access_key="lab")

    def make(self, name: str, version: str, addons: dict[str, str], **groups: str) -> None:
        """A cluster of a test's own."""
        eks, role = self.eks(), f"arn:aws:iam::{self.server.account.account_id}:role/lab-cluster"
        eks.create_cluster(name=name, version=version, roleArn=role, resourcesVpcConfig={})
        for addon, wanted in addons.items():
            eks.create_addon(clusterName=name, addonName=addon, addonVersion=wanted)
            self.settled(name, addon)
        for group, minor in groups.items():
            eks.create_nodegroup(
                clusterName=name, nodegroupName=group, subnets=["subnet-1"], nodeRole=role, version=minor,
                releaseVersion=f"{minor}.0-20250101",
            )  # fmt: skip

    def note(self, service: str, operation: str) -> None:
        """Keep what is asked of the account, under the name that a policy gives it."""
        if service == "eks":
            self.asked.add(f"{service}:{operation}")

    def settled(self, name: str, addon: str = "coredns") -> None:
        """Wait until nothing is under way with an add-on."""
        until(lambda: self.eks().describe_addon(clusterName=name, addonName=addon)["addon"]["status"] == "ACTIVE")

    def desk(self, name: str, folder: Path, url: str = "", **more: Any) -> Desk:
        section = {"region": REGION, "endpoint_url": url or self.server.url, "credentials_file": str(self.credentials), "cluster": name}
        kubernetes = {"kubeconfig": str(self.cluster.kubeconfig), "context": "lab"}
        environment = Environment.model_validate({"name": "test", "aws": section, "kubernetes": kubernetes, "limits": {"nodes": 6}, **more})
        systems = {
            "aws": AwsSystem(Aws.connect(environment, self.note)),
            "kubernetes": KubernetesSystem(Kubernetes.connect(environment)),
        }
        return Desk(environment, folder / "actions", systems, "hitomi")


@pytest.fixture(scope="module")
def account(embedded_cluster: RealLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    quick = lab.Durations(cluster=0.5, node_group=0.5, addon=0.2)
    server = lab.serve(lab.Account(durations=quick))
    lab.seed(server)
    credentials = tmp_path_factory.mktemp("aws") / "credentials"
    credentials.write_text("[default]\naws_access_key_id = operator\naws_secret_access_key = secret\n")
    yield Account(server, embedded_cluster, credentials)
    server.close()


@pytest.fixture(autouse=True)
def _nothing_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def versions(account: Account, addon: str, kubernetes: str) -> list[str]:
    """What EKS offers, newest first."""
    found = account.eks().describe_addon_versions(addonName=addon, kubernetesVersion=kubernetes)["addons"][0]["addonVersions"]
    return [one["addonVersion"] for one in found]


def planned_addon(desk: Desk, name: str = "coredns", version: str = "") -> Plan:
    plan = aws.addon(desk.systems["aws"], desk.environment, desk.who, name, version=version)  # type: ignore[arg-type]
    pipeline.file_plan(desk, plan)
    return plan


def both(desk: Desk) -> tuple[Any, Any, Environment, str]:
    return desk.systems["aws"], desk.systems["kubernetes"], desk.environment, desk.who


def events(desk: Desk, plan: Plan) -> list[str]:
    return [record.event for record in desk.log.of(plan.id)]


def test_an_addon_goes_to_another_version_and_back(account: Account, tmp_path: Path) -> None:
    newest, *_between, oldest = versions(account, "coredns", "1.36")
    account.make("there-and-back", "1.36", {"coredns": oldest})
    desk = account.desk("there-and-back", tmp_path)
    account.asked.clear()
    plan = planned_addon(desk, version=newest)
    assert f"-addon coredns: {oldest}\n+addon coredns: {newest}" in plan.steps[0].difference
    assert plan.steps[0].command.startswith("aws eks update-addon") and newest in plan.steps[0].command
    assert "token" not in plan.steps[0].difference.lower()
    assert pipeline.rehearse(desk, plan).previews
    assert account.eks().list_updates(name="there-and-back", addonName="coredns")["updateIds"] == []
    assert pipeline.execute(desk, plan).verified
    assert account.eks().describe_addon(clusterName="there-and-back", addonName="coredns")["addon"]["addonVersion"] == newest
    with pytest.raises(InputError, match="already"):
        planned_addon(desk, version=newest)
    older = planned_addon(desk, version=oldest)
    assert any("older" in one for one in older.cautions)
    assert pipeline.undo(desk, plan) == 1
    assert account.asked == set(PLAN_ACTIONS["addon"]), "deploy/iam has what a plan needs, and no more"
    account.settled("there-and-back")
    assert account.eks().describe_addon(clusterName="there-and-back", addonName="coredns")["addon"]["addonVersion"] == oldest


def test_without_a_version_an_addon_goes_to_the_default(account: Account, tmp_path: Path) -> None:
    account.make("default", "1.36", {"coredns": versions(account, "coredns", "1.36")[-1]})
    plan = planned_addon(account.desk("default", tmp_path))
    offered = account.eks().describe_addon_versions(addonName="coredns", kubernetesVersion="1.36")["addons"][0]["addonVersions"]
    default = next(one["addonVersion"] for one in offered if any(each["defaultVersion"] for each in one["compatibilities"]))
    assert plan.steps[0].request["parameters"]["addonVersion"] == default


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("cordns", "", "coredns"),
        ("coredns", "v9.9.9-eksbuild.1", "does not offer"),
        ("coredns", "$(reboot)\x1b[2J", "does not offer"),
    ],
)
def test_an_addon_or_version_that_is_not_there_is_refused(account: Account, tmp_path: Path, name: str, version: str, words: str) -> None:
    if "refusals" not in account.eks().list_clusters()["clusters"]:
        account.make("refusals", "1.36", {"coredns": versions(account, "coredns", "1.36")[-1]})
    with pytest.raises(InputError, match=words) as caught:
        planned_addon(account.desk("refusals", tmp_path), name, version)
    assert "\x1b" not in str(caught.value)


def test_drift_refuses_and_nothing_is_sent(account: Account, tmp_path: Path) -> None:
    newest, *_between, oldest = versions(account, "coredns", "1.36")
    account.make("drift", "1.36", {"coredns": oldest})
    desk = account.desk("drift", tmp_path)
    plan = planned_addon(desk, version=newest)
    account.eks().update_addon(clusterName="drift", addonName="coredns", configurationValues='{"replicaCount": 5}')
    account.settled("drift")
    with pytest.raises(SourceError, match=plan.short_id):
        pipeline.execute(desk, plan)
    assert len(account.eks().list_updates(name="drift", addonName="coredns")["updateIds"]) == 1


def test_an_update_that_fails_says_so_in_the_words_of_eks(account: Account, tmp_path: Path) -> None:
    newest, *_between, oldest = versions(account, "coredns", "1.36")
    account.make("failing", "1.36", {"coredns": oldest})
    account.server.account.fail_updates["coredns"] = ("ConfigurationConflict", "Conflicts found in Deployment coredns")
    try:
        desk = account.desk("failing", tmp_path)
        outcome = pipeline.execute(desk, planned_addon(desk, version=newest))
    finally:
        account.server.account.fail_updates.clear()
    assert outcome.verified is False
    assert "ConfigurationConflict" in str(outcome.why) and "Conflicts found" in str(outcome.why)


def test_the_control_plane_goes_one_version_at_a_time(account: Account, tmp_path: Path) -> None:
    account.make("steps", "1.34", {})
    desk = account.desk("steps", tmp_path)
    for version, words in (
        ("1.36", "one minor version"),
        ("1.33", "one minor version"),
        ("1.34", "one minor version"),
        ("2.0", "no version"),
    ):
        with pytest.raises(InputError, match=words):
            aws.control_plane(*both(desk), version=version)
    account.asked.clear()
    plan = aws.control_plane(*both(desk))
    pipeline.file_plan(desk, plan)
    assert pipeline.execute(desk, plan).verified
    assert account.asked <= set(PLAN_ACTIONS["control-plane"])
    # a cluster without add-ons, whose insights all pass, asks for less
    assert set(PLAN_ACTIONS["control-plane"]) - account.asked <= {
        "eks:DescribeAddon",
        "eks:DescribeInsight",
        "eks:ListUpdates",
        "eks:DescribeUpdate",
    }
    assert account.eks().describe_cluster(name="steps")["cluster"]["version"] == "1.35"
    with pytest.raises(InputError, match="no control plane back"):
        pipeline.undo(desk, plan)


def test_an_insight_that_says_no_is_heard(account: Account, tmp_path: Path) -> None:
    """The seeded cluster has an add-on that does not go with the next version."""
    name = next(one for one in account.eks().list_clusters()["clusters"] if account.eks().list_insights(clusterName=one)["insights"])
    errors = [one for one in account.eks().list_insights(clusterName=name)["insights"] if one["insightStatus"]["status"] == "ERROR"]
    desk = account.desk(name, tmp_path)
    if errors:
        with pytest.raises(InputError, match="Upgrade insights"):
            aws.control_plane(*both(desk))
    else:
        assert aws.control_plane(*both(desk)).steps


def test_a_node_group_follows_the_control_plane(account: Account, tmp_path: Path) -> None:
    account.make("groups", "1.35", {}, main="1.34")
    desk = account.desk("groups", tmp_path)
    with pytest.raises(InputError, match="newer than the control plane"):
        aws.node_group(*both(desk), "main", version="1.36")
    with pytest.raises(InputError, match="no node group back"):
        aws.node_group(*both(desk), "main", version="1.33")
    with pytest.raises(InputError, match="main"):
        aws.node_group(*both(desk), "mian")
    account.asked.clear()
    plan = aws.node_group(*both(desk), "main")
    pipeline.file_plan(desk, plan)
    nodes = [node for node in account.cluster.api.list("/api/v1/nodes") if node["metadata"]["labels"].get(NODE_GROUP) == "main"]
    assert plan.reach.nodes == len(nodes)
    assert pipeline.execute(desk, plan).verified
    assert account.asked | {"eks:DescribeAddon"} == set(PLAN_ACTIONS["node-group"])  # it has no add-on to be described
    assert account.eks().describe_nodegroup(clusterName="groups", nodegroupName="main")["nodegroup"]["version"] == "1.35"
    with pytest.raises(InputError, match="--release"):
        aws.node_group(*both(desk), "main")


def test_add_ons_come_before_the_nodes(account: Account, tmp_path: Path) -> None:
    before = [one for one in versions(account, "kube-proxy", "1.34") if one not in versions(account, "kube-proxy", "1.35")]
    account.make("order", "1.34", {"kube-proxy": before[0]}, main="1.34")
    desk = account.desk("order", tmp_path)
    plan = aws.control_plane(*both(desk))
    pipeline.file_plan(desk, plan)
    assert any("kube-proxy" in one for one in plan.cautions)
    assert pipeline.execute(desk, plan).verified
    with pytest.raises(InputError, match="kube-proxy") as caught:
        aws.node_group(*both(desk), "main")
    assert "opslib plan addon kube-proxy" in caught.value.command


def test_a_budget_with_no_room_stops_a_node_group_before_it_begins(account: Account, tmp_path: Path) -> None:
    api = account.cluster.api
    group = "tight-group"
    node = api.list("/api/v1/nodes")[0]["metadata"]["name"]
    labels = api.get(f"/api/v1/nodes/{node}")["metadata"]["labels"]
    account.make("tight", "1.35", {}, **{group: "1.34"})
    metadata = {"namespace": "default", "name": "tight"}
    try:
        api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {NODE_GROUP: group}}})
        api.create({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata,
                    "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "tight"}}}})  # fmt: skip
        template = {"metadata": {"labels": {"app": "tight"}}, "spec": {
            "nodeName": node, "containers": [{"name": "tight", "image": "registry.example.com/tight:1"}]}}  # fmt: skip
        api.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
                    "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "tight"}}, "template": template}})  # fmt: skip
        until(lambda: api.get("/apis/apps/v1/namespaces/default/deployments/tight").get("status", {}).get("readyReplicas"))
        until(lambda: api.get("/apis/policy/v1/namespaces/default/poddisruptionbudgets/tight").get("status", {}).get("expectedPods"))
        with pytest.raises(InputError, match="default/tight"):
            aws.node_group(*both(account.desk("tight", tmp_path)), group)
        assert account.eks().list_updates(name="tight", nodegroupName=group)["updateIds"] == []
    finally:
        api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {NODE_GROUP: labels.get(NODE_GROUP)}}})
        api.delete("/apis/apps/v1/namespaces/default/deployments/tight")
        api.delete("/apis/policy/v1/namespaces/default/poddisruptionbudgets/tight")


def test_a_plan_that_reaches_more_nodes_than_allowed_is_refused(account: Account, tmp_path: Path) -> None:
    groups = [node["metadata"]["labels"].get(NODE_GROUP) for node in account.cluster.api.list("/api/v1/nodes")]
    group = next(name for name in groups if name)
    account.make("wide", "1.35", {}, **{group: "1.34"})
    desk = account.desk("wide", tmp_path, limits={"nodes": 1})
    plan = aws.node_group(*both(desk), group)
    with pytest.raises(InputError, match=r"limits\.nodes"):
        pipeline.file_plan(desk, plan)


def test_a_plan_for_another_account_is_refused(account: Account, tmp_path: Path) -> None:
    account.make("one", "1.36", {"coredns": versions(account, "coredns", "1.36")[-1]})
    account.make("other", "1.36", {"coredns": versions(account, "coredns", "1.36")[-1]})
    plan = planned_addon(account.desk("one", tmp_path))
    with pytest.raises(InputError, match="leads to"):
        pipeline.execute(account.desk("other", tmp_path), plan)


def _run(account: Account, folder: Path, url: str, name: str, plan: Plan) -> None:
    pipeline.execute(account.desk(name, folder, url), plan)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_request_nothing_is_lost_or_done_twice(account: Account, tmp_path: Path, when: str) -> None:
    newest, *_others, oldest = versions(account, "coredns", "1.36")
    name = f"killed-{when}"
    account.make(name, "1.36", {"coredns": oldest})
    desk, eks = account.desk(name, tmp_path), account.eks()
    between = Between(account.server.url)
    number = updates = 0
    try:
        while True:
            there = eks.describe_addon(clusterName=name, addonName="coredns")["addon"]["addonVersion"]
            plan = planned_addon(desk, version=newest if there == oldest else oldest).model_copy(update={"verify": []})
            pipeline.file_plan(desk, plan)
            between.seen.clear()
            between.kill, between.victim = (number, when), 0
            process = multiprocessing.get_context("fork").Process(target=_run, args=(account, tmp_path, between.url, name, plan))
            process.start()
            assert process.pid is not None
            between.victim = process.pid
            process.join(60)
            updates += 1
            if process.exitcode == 0:  # it has fewer requests than that
                assert number >= 4
                break
            assert process.exitcode == -9
            assert pipeline.execute(desk, plan).done == 1
            assert len(eks.list_updates(name=name, addonName="coredns")["updateIds"]) == updates, "done twice, or not at all"
            found = events(desk, plan)
            assert found.count("step.done") == found.count("finished") == 1
            account.settled(name)
            number += 1
    finally:
        between.http.shutdown()
    assert desk.log.verify()[1] is None


def test_two_at_once_do_not_both_execute(account: Account, tmp_path: Path) -> None:
    newest, *_between, oldest = versions(account, "coredns", "1.36")
    account.make("two", "1.36", {"coredns": oldest})
    one, other = account.desk("two", tmp_path), account.desk("two", tmp_path / "elsewhere")
    plan = planned_addon(one, version=newest)
    pipeline.file_plan(other, plan)
    with pipeline._alone(one), pytest.raises(OpsError):
        pipeline.execute(one, plan)
    assert pipeline.execute(one, plan).verified
    with pytest.raises(SourceError, match=plan.short_id):
        pipeline.execute(other, plan)
    assert len(account.eks().list_updates(name="two", addonName="coredns")["updateIds"]) == 1


def test_expired_credentials_and_a_region_without_the_cluster_are_refused(account: Account, tmp_path: Path) -> None:
    account.make("reached", "1.36", {"coredns": versions(account, "coredns", "1.36")[-1]})
    elsewhere = account.desk("reached", tmp_path)
    settings = elsewhere.environment.aws
    assert settings is not None
    moved = elsewhere.environment.model_copy(update={"aws": settings.model_copy(update={"region": "eu-west-3"})})
    with pytest.raises(SourceError, match="ResourceNotFound"):
        aws.addon(AwsSystem(Aws.connect(moved)), moved, "hitomi", "coredns")
    gone = elsewhere.environment.model_copy(update={"aws": settings.model_copy(update={"credentials_file": tmp_path / "none"})})
    with pytest.raises(SourceError) as caught:
        aws.addon(AwsSystem(Aws.connect(gone)), gone, "hitomi", "coredns")
    assert "aws sso login" in caught.value.command
    ended = tmp_path / "ended"
    ended.write_text("[default]\naws_access_key_id = ASIAEXPIRED\naws_secret_access_key = secret\naws_session_token = old\n")
    account.server.account.expired_keys.add("ASIAEXPIRED")
    expired = elsewhere.environment.model_copy(update={"aws": settings.model_copy(update={"credentials_file": ended})})
    with pytest.raises(Unauthenticated, match="ExpiredToken") as caught:
        aws.addon(AwsSystem(Aws.connect(expired)), expired, "hitomi", "coredns")
    assert "aws sso login" in caught.value.command
    assert account.eks().list_updates(name="reached", addonName="coredns")["updateIds"] == []


def test_plans_are_files_that_can_be_read(account: Account, tmp_path: Path) -> None:
    account.make("read", "1.36", {"coredns": versions(account, "coredns", "1.36")[-1]})
    desk = account.desk("read", tmp_path)
    plan = aws.addon(desk.systems["aws"], desk.environment, desk.who, "coredns")  # type: ignore[arg-type]
    content = yaml.safe_load(pipeline.file_plan(desk, plan).read_text("utf-8"))
    assert content["steps"][0]["request"]["operation"] == "update_addon"
    assert content["target"]["aws"].endswith("cluster/read")
