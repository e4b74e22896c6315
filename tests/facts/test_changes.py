"""Changes that other records tell of: events, EKS, CloudTrail, Terraform's state, opslib's own log."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.actions import audit, plans
from opslib.diagnosis.pods import timeline
from opslib.diagnosis.pods.changes import blamed, changes
from opslib.diagnosis.pods.facts import ACTION, EKS, SCALING, TERRAFORM, Change, Facts
from opslib.environments import Environment
from opslib.errors import SourceError
from opslib.facts import Questions
from opslib.facts import changes as reader
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity, Subject
from opslib.lab import aws as lab
from opslib.lab.aws.account import Event as Trail
from opslib.messages import text_of
from opslib.sources import terraform
from opslib.sources.objects import Autoscaler, convert
from tests.diagnosis.pod_facts import NOW, ago, event, facts, workload
from tests.waiting import until

REGION = "ap-northeast-1"
WEB = Subject("Deployment", "web", "shop")


@pytest.fixture
def questions() -> Iterator[Questions]:
    with ThreadPoolExecutor(8) as executor:
        yield Questions(executor)


def said(found: list[Change]) -> list[str]:
    return [text_of(change.text, "en") for change in found]


# --- scaling ----------------------------------------------------------------------------------------------------------------------------

RESIZED = "Scaled {} replica set {} from {} to {}"


def of_deployment(message: str, minutes: float, name: str = "web") -> Any:
    return event("ScalingReplicaSet", message, f"Deployment/{name}", type="Normal", lastTimestamp=ago(minutes=minutes))


def autoscaler(name: str = "web") -> Autoscaler:
    spec = {"minReplicas": 2, "maxReplicas": 9, "scaleTargetRef": {"kind": "Deployment", "name": name}}
    return convert({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}, Autoscaler)


def test_one_replica_set_that_grew_is_scaling_two_are_a_rollout() -> None:
    known = facts(
        workloads=(workload("Deployment", "web"), workload("Deployment", "pay"), workload("Deployment", "new", created=ago(minutes=9)))
    )
    events = [
        of_deployment(RESIZED.format("up", "web-5d9", 2, 5), 12),
        of_deployment("Scaled down replica set web-5d9 to 1 from 5", 40),  # as older versions wrote it
        of_deployment(RESIZED.format("up", "pay-2", 0, 1), 10, "pay"),
        of_deployment(RESIZED.format("down", "pay-1", 2, 1), 9, "pay"),
        of_deployment(RESIZED.format("up", "new-1", 0, 2), 9, "new"),
        of_deployment("Scaled something else", 5),
    ]
    found = reader.scalings(None, (), events, known)
    assert [(change.subject, change.kind, change.suspect) for change in found] == [(WEB, SCALING, True)] * 2
    assert said(found) == ["Deployment web was scaled from 2 to 5", "Deployment web was scaled from 5 to 1"]


def test_what_an_autoscaler_did_is_its_and_no_cause() -> None:
    known = facts(autoscalers=(autoscaler(),))
    message = "New size: 5; reason: cpu resource utilization (percentage of request) above target"
    rescale = event("SuccessfulRescale", message, "HorizontalPodAutoscaler/web", type="Normal", lastTimestamp=ago(minutes=12))
    resized = [of_deployment(RESIZED.format("up", "web-5d9", 2, 5), 12), of_deployment(RESIZED.format("down", "web-5d9", 5, 1), 40)]
    found = reader.scalings(None, [rescale], resized, known)
    assert len(found) == 2  # both records of the first are one change
    assert "autoscaler web scaled Deployment web to 5: cpu resource" in said(found)[0]
    assert "unless somebody did it by hand" in said(found)[1]
    assert not any(change.suspect for change in found)
    stranger = event("SuccessfulRescale", message, "HorizontalPodAutoscaler/other", type="Normal")
    assert reader.scalings(None, [stranger], (), known) == []


def trouble(minutes: float, subject: Subject = WEB, check: str = "traffic.errors") -> Finding:
    return Finding(check=check, severity=Severity.CRITICAL, subject=subject, title="trouble", since=NOW - timedelta(minutes=minutes))


def test_scaling_down_just_before_is_evidence_and_the_cause_where_none_is_known() -> None:
    down = Change(NOW - timedelta(minutes=12), WEB, "web was scaled from 3 to 1", kind=SCALING, source="prometheus", reference="replicas")
    known = replace(facts(), noted=(down,))
    finding = blamed(trouble(10), known, WEB, changes(known, WEB))
    assert "scaled from 3 to 1" in text_of(finding.cause or "", "en")
    assert [(item.source, item.reference) for item in finding.evidence] == [("prometheus", "replicas")]
    other = Subject("Deployment", "other", "shop")
    assert changes(known, other) == []
    by_itself = replace(known, noted=(replace(down, suspect=False),))
    finding = blamed(trouble(10), by_itself, WEB, changes(by_itself, WEB))
    assert finding.cause is None
    assert len(finding.evidence) == 1


def test_the_axis_ranks_what_is_near_before_what_may_bear_on_everything() -> None:
    def change(minutes: float, subject: Subject, **more: Any) -> Change:
        return Change(NOW - timedelta(minutes=minutes), subject, f"{subject.name} {minutes}", **more)

    known = replace(
        facts(workloads=(workload("Deployment", "web"),)),
        noted=(
            change(11, Subject("Cluster", "prod"), kind=EKS, everywhere=True, suspect=False),
            change(20, WEB, kind=SCALING),
            change(5, WEB, kind=ACTION),  # after it began
            change(12, Subject("Deployment", "idle", "shop"), kind=SCALING, suspect=False),  # an autoscaler's, of one that is well
            change(15, Subject("Node", "gone"), kind="node", about=frozenset({WEB})),
        ),
    )
    moments = timeline.timeline(known, [trouble(10)])
    assert [(item.kind, item.subject.name, item.rank) for item in moments] == [
        ("scaling", "web", 2),
        ("node", "gone", 1),
        ("eks", "prod", 3),
        ("symptom", "web", 0),
        ("action", "web", 0),
    ]


# --- AWS --------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[lab.Server, Path]]:
    server = lab.serve(lab.Account(durations=lab.Durations(cluster=0.5, node_group=0.5, addon=0.2)))
    lab.seed(server)
    credentials = tmp_path_factory.mktemp("aws") / "credentials"
    credentials.write_text("[default]\naws_access_key_id = operator\naws_secret_access_key = secret\n")
    yield server, credentials
    server.close()


@pytest.fixture
def environment(account: tuple[lab.Server, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Environment]:
    server, credentials = account
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def made(**more: Any) -> Environment:
        section = {
            "region": REGION, "endpoint_url": server.url, "credentials_file": str(credentials), "cluster": "lab", "deadline_seconds": 60,
        } | more.pop("aws", {})  # fmt: skip
        return Environment.model_validate({"name": "test", "aws": section, **more})

    return made


def test_updates_of_add_ons_and_node_groups_that_began_in_the_window(
    account: tuple[lab.Server, Path], environment: Callable[..., Environment]
) -> None:
    import boto3

    server = account[0]
    eks = boto3.client("eks", endpoint_url=server.url, region_name=REGION, aws_access_key_id="lab", aws_secret_access_key="lab")
    sources, began = Sources(environment()), datetime.now(UTC) - timedelta(minutes=1)
    assert reader._updates(sources, began) == []
    version = eks.describe_cluster(name="lab")["cluster"]["version"]
    offered = eks.describe_addon_versions(addonName="coredns", kubernetesVersion=version)["addons"][0]["addonVersions"]
    now = eks.describe_addon(clusterName="lab", addonName="coredns")["addon"]["addonVersion"]
    wanted = next(one["addonVersion"] for one in offered if one["addonVersion"] != now)
    eks.update_addon(clusterName="lab", addonName="coredns", addonVersion=wanted)
    eks.update_nodegroup_version(clusterName="lab", nodegroupName="batch")
    found = {change.subject: change for change in reader._updates(sources, began)}
    addon, group = found.pop(Subject("Addon", "coredns")), found.pop(Subject("NodeGroup", "batch"))
    assert found == {}
    assert wanted in text_of(addon.text, "en")
    assert (addon.kind, addon.source, addon.everywhere, group.everywhere) == (EKS, "aws", True, False)
    assert addon.bears_on(Subject("Deployment", "coredns", "kube-system"))
    ahead = datetime.now(UTC) + timedelta(minutes=10)
    assert all(change.time >= began for change in reader._updates(sources, ahead)), "those that are still under way, if any"
    until(lambda: reader._updates(sources, ahead) == [], "both have ended")


def test_what_terraform_did_in_the_account_is_one_apply_by_whom(
    account: tuple[lab.Server, Path], environment: Callable[..., Environment], questions: Questions
) -> None:
    now = datetime.now(UTC)
    agent = "APN/1.0 HashiCorp/1.0 Terraform/1.9.8 (+https://www.terraform.io) terraform-provider-aws/5.70.0"

    def did(minutes: float, name: str, user: str, who: str, read_only: bool = False) -> None:
        record = {"userAgent": who}
        account[0].account.events.append(
            Trail(now - timedelta(minutes=minutes), name, "eks.amazonaws.com", user, read_only, record=record, region=REGION)
        )

    did(30, "UpdateNodegroupConfig", "ci-terraform", agent)
    did(29, "ModifySecurityGroupRules", "ci-terraform", agent)
    did(29, "DescribeCluster", "ci-terraform", agent, read_only=True)
    did(28, "DeleteNodegroup", "aoi.tanaka", "Mozilla/5.0")
    did(10, "CreateNodegroup", "kenji.sato", agent)
    sources = Sources(environment())
    found = reader._applies(sources, questions, now - timedelta(hours=1), now)
    assert [(change.kind, change.everywhere, change.suspect) for change in found] == [(TERRAFORM, True, False)] * 2
    first, second = sorted(found, key=lambda change: change.time)
    assert text_of(first.text, "en") == "Terraform, as ci-terraform, changed AWS: UpdateNodegroupConfig, ModifySecurityGroupRules"
    assert "kenji.sato" in text_of(second.text, "en")
    assert questions.gaps == ()


def test_an_account_that_is_another_one_is_not_believed(environment: Callable[..., Environment]) -> None:
    with pytest.raises(SourceError, match="account"):
        reader._updates(Sources(environment(aws={"account": "999999999999"})), datetime.now(UTC))


def test_versions_of_the_state_in_a_bucket_are_applies(
    account: tuple[lab.Server, Path], environment: Callable[..., Environment], tmp_path: Path
) -> None:
    import boto3

    s3 = boto3.client("s3", endpoint_url=account[0].url, region_name=REGION, aws_access_key_id="lab", aws_secret_access_key="lab")
    s3.create_bucket(Bucket="states", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket="states", VersioningConfiguration={"Status": "Enabled"})
    for _number in range(2):
        s3.put_object(Bucket="states", Key="env:/blue/prod.tfstate", Body=b"{}")
    s3.put_object(Bucket="states", Key="env:/blue/prod.tfstate.old", Body=b"{}")
    root_module(tmp_path, {"type": "s3", "config": {"bucket": "states", "key": "prod.tfstate"}}, workspace="blue")
    sources = Sources(environment(terraform={"folder": str(tmp_path)}))
    since = datetime.now(UTC) - timedelta(minutes=1)
    assert [change.reference for change in reader._states(sources, since)] == ["s3://states/env:/blue/prod.tfstate"] * 2
    assert reader._states(sources, datetime.now(UTC) + timedelta(minutes=1)) == []


# --- Terraform's state ------------------------------------------------------------------------------------------------------------------


def root_module(folder: Path, backend: dict[str, Any] | None = None, workspace: str = "") -> None:
    (folder / "main.tf").write_text('terraform {\n  required_version = ">= 1.5"\n}\n')
    (folder / ".terraform").mkdir()
    if backend:
        (folder / ".terraform" / "terraform.tfstate").write_text(json.dumps({"version": 3, "backend": backend}))
    if workspace:
        (folder / ".terraform" / "environment").write_text(workspace)


@pytest.mark.parametrize(
    ("workspace", "file"),
    [("", "terraform.tfstate"), ("default", "terraform.tfstate"), ("blue", "terraform.tfstate.d/blue/terraform.tfstate")],
)
def test_the_file_of_the_state_tells_when_it_was_written(workspace: str, file: str, tmp_path: Path) -> None:
    root_module(tmp_path, workspace=workspace)
    assert terraform.state_of(tmp_path) is None  # never applied
    state = tmp_path / file
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps({"version": 4, "serial": 12}))
    os.utime(state, (NOW.timestamp(), NOW.timestamp()))
    sources = Sources(Environment.model_validate({"name": "test", "terraform": {"folder": str(tmp_path)}}))
    (change,) = reader._states(sources, NOW - timedelta(hours=1))
    assert (change.time, change.kind) == (NOW, TERRAFORM)
    assert "serial 12" in text_of(change.text, "en")
    assert reader._states(sources, NOW + timedelta(seconds=1)) == []
    state.write_text("torn")
    with pytest.raises(SourceError, match="cannot be read"):
        reader._states(sources, NOW)


@pytest.mark.parametrize(
    ("backend", "configuration", "words"),
    [
        ({"type": "http", "config": {}}, "", "does not tell"),
        (None, 'terraform {\n  backend "s3" {}\n}\n', "has not been initialised"),
        (None, "terraform {\n  cloud {\n  }\n}\n", "has not been initialised"),
    ],
)
def test_a_state_that_cannot_be_found_is_no_state_that_was_not_written(
    backend: dict[str, Any] | None, configuration: str, words: str, tmp_path: Path
) -> None:
    root_module(tmp_path, backend)
    (tmp_path / "backend.tf").write_text(configuration)
    with pytest.raises(SourceError, match=words):
        terraform.state_of(tmp_path)


# --- opslib's own actions ---------------------------------------------------------------------------------------------------------------


def test_what_opslib_executed_is_a_change_of_what_its_plan_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, questions: Questions
) -> None:
    monkeypatch.setenv("OPSLIB_OUTPUTS", str(tmp_path))
    environment = Environment(name="test")
    place = plans.folder(environment, tmp_path)
    request = {"verb": "patch", "resource": "deployments.apps", "namespace": "shop", "name": "web"}
    step = plans.Step(what="scale", system="kubernetes", request=request, before={}, after={})
    plan = plans.Plan(
        action="scale",
        title="Scale web to 1",
        environment="test",
        target={},
        requester="mei",
        created=NOW,
        reach=plans.Reach(),
        steps=[step],
    )
    log = audit.log_in(place)
    assert reader._actions(environment, questions, NOW) == []
    plans.write(plan, place)
    log.append("planned", plan.id, "mei", title=plan.title, action=plan.action)
    assert reader._actions(environment, questions, NOW) == []  # planned is not done
    log.append("started", plan.id, "aoi")
    log.append("finished", plan.id, "aoi", verified=True)
    log.append("started", "f" * 64, "ren")  # whose plan is gone
    log.append("undo.started", plan.id, "aoi")
    began = datetime.now(UTC) - timedelta(minutes=1)
    found = [change for change, _pods in reader._actions(environment, questions, began)]
    assert said(found) == [
        "opslib: aoi executed Scale web to 1",
        "opslib: ren executed ffffffffffff",
        "opslib: aoi took back Scale web to 1",
    ]
    assert [change.subject for change in found] == [WEB, Subject("Plan", "f" * 12), WEB]
    assert found[0].reference == f"opslib audit {plan.short_id}"
    assert questions.gaps == ()
    log.path.write_bytes(log.path.read_bytes().replace(b'"ren"', b'"xxx"'))
    assert said([change for change, _pods in reader._actions(environment, questions, began)]) == said(found)[:1]
    (gap,) = questions.gaps
    assert gap.check == "gap.opslib"


def test_what_cannot_be_asked_is_a_gap_each_and_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, questions: Questions
) -> None:
    monkeypatch.setenv("OPSLIB_OUTPUTS", str(tmp_path))
    root_module(tmp_path, {"type": "http", "config": {}})
    nowhere = {"url": "http://127.0.0.1:9", "deadline_seconds": 2}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}],"
        " users: [{name: a, user: {}}], clusters: [{name: a, cluster: {server: 'http://127.0.0.1:9'}}]}"
    )
    environment = Environment.model_validate(
        {
            "name": "test", "prometheus": nowhere, "terraform": {"folder": str(tmp_path)}, "kubernetes": {"kubeconfig": str(kubeconfig)},
            "aws": {"region": REGION, "cluster": "lab", "endpoint_url": "http://127.0.0.1:9", "deadline_seconds": 1},
        }
    )  # fmt: skip
    audit.log_in(plans.folder(environment, tmp_path)).append("started", "f" * 64, "ren")
    now = datetime.now(UTC)
    asked = reader.ask(Sources(environment), questions, "", now)
    found = reader.read(asked, Facts(now=now, environment="test"), questions, 1.0)
    assert [change.kind for change in found] == [ACTION]
    assert {"gap.prometheus", "gap.kubernetes", "gap.aws", "gap.terraform"} <= {gap.check for gap in questions.gaps}
