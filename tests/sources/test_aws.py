"""AWS through boto3, against the lab's account and against what does not answer."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.environments import Aws as AwsSettings
from opslib.environments import Environment
from opslib.errors import Forbidden, InputError, NotFound, SourceError, Unauthenticated, Unreachable
from opslib.lab import aws as lab
from opslib.sources.aws import Aws, _refusal
from tests.sources.conftest import Server

pytestmark = pytest.mark.xdist_group("aws")  # one process: the account is filled once


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, str]]:
    """Address, credentials file and number of a filled account."""
    server = lab.serve(lab.Account())
    lab.seed(server)
    credentials = tmp_path_factory.mktemp("aws") / "credentials"
    credentials.write_text("[default]\naws_access_key_id = operator\naws_secret_access_key = secret\n")
    yield server.url, credentials, server.account.account_id
    server.close()


@pytest.fixture(autouse=True)
def _nothing_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def environment(url: str, credentials: Path | None = None, **more: Any) -> Environment:
    section = {"region": "ap-northeast-1", "endpoint_url": url, "deadline_seconds": 5, **more}
    if credentials is not None:
        section["credentials_file"] = str(credentials)
    return Environment.model_validate({"name": "test", "aws": section})


def cluster_of(aws: Aws) -> str:
    name: str = aws.pages("eks", "list_clusters", "clusters")[0]
    return name


def test_who_we_are_and_every_request_is_counted(account: tuple[str, Path, str]) -> None:
    url, credentials, number = account
    calls: list[tuple[str, str]] = []
    aws = Aws.connect(environment(url, credentials, account=number), lambda service, operation: calls.append((service, operation)))
    assert aws.identity().account == number
    aws.check_account()
    assert calls == [("sts", "GetCallerIdentity")] * 2


def test_a_role_is_assumed_and_that_is_counted_too(account: tuple[str, Path, str]) -> None:
    url, credentials, number = account
    calls: list[tuple[str, str]] = []
    role = f"arn:aws:iam::{number}:role/reader"
    aws = Aws.connect(
        environment(url, credentials, account=number, role=role), lambda service, operation: calls.append((service, operation))
    )
    assert aws.identity().arn.startswith(f"arn:aws:sts::{number}:assumed-role/reader/opslib")
    aws.check_account()
    assert calls == [("sts", "AssumeRole"), ("sts", "GetCallerIdentity"), ("sts", "GetCallerIdentity")]


def asked_by_sso(server: Server, url: str, home: Path, token: dict[str, str] | None) -> str:
    """Who we are by a profile "sso" whose portal is a server here, and what was asked for it; or the error. In a process of its own, since
    botocore looks for those who have logged in where HOME was when it was loaded.
    """
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    if token is not None:
        (cache / f"{hashlib.sha1(b'office', usedforsecurity=False).hexdigest()}.json").write_text(json.dumps(token))
    (home / "config").write_text(
        "[sso-session office]\nsso_start_url = https://office.example.com/start\nsso_region = eu-west-1\n"
        "[profile sso]\nsso_session = office\nsso_account_id = 123456789012\nsso_role_name = Operator\n"
    )
    script = f"""
from opslib.environments import Environment
from opslib.errors import OpsError
from opslib.sources.aws import Aws
calls = []
section = {{"region": "ap-northeast-1", "endpoint_url": {url!r}, "profile": "sso"}}
aws = Aws.connect(Environment.model_validate({{"name": "test", "aws": section}}), lambda *call: calls.append(":".join(call)))
try:
    print(aws.identity().account, *calls)
except OpsError as error:
    print(type(error).__name__, error.command)
"""
    settings = {"HOME": str(home), "AWS_CONFIG_FILE": str(home / "config"), "AWS_ENDPOINT_URL_SSO": server.url}
    answer = subprocess.run([sys.executable, "-c", script], env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def test_who_has_logged_in_by_sso_is_let_in(account: tuple[str, Path, str], server: Server, tmp_path: Path) -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    keys = {"accessKeyId": "operator", "secretAccessKey": "secret", "sessionToken": "s", "expiration": int(ends.timestamp() * 1000)}
    server.answers = [server.says(200, json.dumps({"roleCredentials": keys}).encode(), content_type="application/json")]
    token = {"accessToken": "token", "expiresAt": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}
    assert asked_by_sso(server, account[0], tmp_path, token) == f"{account[2]} sso:GetRoleCredentials sts:GetCallerIdentity"
    assert server.seen[0][2]["x-amz-sso_bearer_token"] == "token"


@pytest.mark.parametrize("token", [{"accessToken": "token", "expiresAt": "2026-01-01T00:00:00Z"}, None], ids=["has ended", "never was"])
def test_a_login_by_sso_that_is_none_names_the_command_for_one(
    account: tuple[str, Path, str], server: Server, tmp_path: Path, token: dict[str, str] | None
) -> None:
    assert asked_by_sso(server, account[0], tmp_path, token) == "Unauthenticated aws sso login --profile sso"
    assert server.seen == []


def test_who_is_throttled_waits_and_asks_again(account: tuple[str, Path, str], server: Server) -> None:
    busy = server.says(
        400, json.dumps({"__type": "ThrottlingException", "message": "Rate exceeded"}).encode(), content_type="application/json"
    )
    server.answers = [busy, busy, server.says(200, b'{"clusters": ["shop"]}', content_type="application/json")]
    calls: list[tuple[str, str]] = []
    aws = Aws.connect(environment(server.url, account[1]), lambda service, operation: calls.append((service, operation)))
    assert aws.pages("eks", "list_clusters", "clusters") == ["shop"]
    assert calls == [("eks", "ListClusters")] * 3


def test_another_account_is_refused(account: tuple[str, Path, str]) -> None:
    url, credentials, number = account
    with pytest.raises(InputError, match=number):
        Aws.connect(environment(url, credentials, account="999999999999")).check_account()


def test_eks_as_chapter_3_3_asks_it(account: tuple[str, Path, str]) -> None:
    url, credentials, _number = account
    name = cluster_of(Aws.connect(environment(url, credentials)))
    aws = Aws.connect(environment(url, credentials, cluster=name))
    version = aws.cluster()["version"]
    assert version in {one["clusterVersion"] for one in aws.cluster_versions()}
    offered = {one["addonName"] for one in aws.addon_versions(version)}
    assert {one["addonName"] for one in aws.addons()} <= offered
    assert all(one["version"] for one in aws.node_groups())
    assert {one["insightStatus"]["status"] for one in aws.insights()} <= {"PASSING", "WARNING", "ERROR", "UNKNOWN"}


def test_other_regions_and_accounts_are_asked_at_once_and_each_failure_is_its_own(account: tuple[str, Path, str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from opslib.facts import Questions
    from opslib.facts.patching import elsewhere

    url, credentials, number = account
    places: list[dict[str, Any]] = [
        {"region": "ap-northeast-1"}, {"region": "eu-west-1"}, {"region": "eu-west-1", "account": "999999999999"},
        {"region": "us-east-1", "profile": "nobody-has-it"},
    ]  # fmt: skip
    named = environment(url, credentials, account=number, also=places)
    with ThreadPoolExecutor(4) as executor:
        questions = Questions(executor)
        found = elsewhere(named, questions)()
    assert [one["name"] for one in found[f"ap-northeast-1, {number}"] or ()] == [cluster_of(Aws.connect(environment(url, credentials)))]
    assert found[f"eu-west-1, {number}"] == ()
    assert found["eu-west-1, 999999999999"] is None
    assert found["us-east-1, nobody-has-it"] is None
    assert {gap.subject.name for gap in questions.gaps} == {"eu-west-1, 999999999999", "us-east-1, nobody-has-it"}


def test_what_is_not_there_is_named(account: tuple[str, Path, str]) -> None:
    url, credentials, _number = account
    with pytest.raises(NotFound, match=r"eks:DescribeCluster.*ap-northeast-1"):
        Aws.connect(environment(url, credentials, cluster="none")).cluster()
    with pytest.raises(SourceError, match=r"aws\.cluster"):
        Aws.connect(environment(url, credentials)).cluster()


def test_without_credentials(account: tuple[str, Path, str]) -> None:
    with pytest.raises(Unauthenticated, match="aws sso login"):
        Aws.connect(environment(account[0])).identity()


def test_a_profile_that_is_not_there(account: tuple[str, Path, str]) -> None:
    with pytest.raises(InputError, match="nobody"):
        Aws.connect(environment(account[0], account[1], profile="nobody"))


def test_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        credentials = Path(__file__).parent / "none"
        aws = Aws.connect(environment(url, credentials))
        with pytest.raises(Unauthenticated):
            aws.identity()


def test_nobody_answers_with_credentials(account: tuple[str, Path, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        aws = Aws.connect(environment(f"http://127.0.0.1:{taken.getsockname()[1]}", account[1]))
        with pytest.raises(Unreachable, match="ap-northeast-1"):
            aws.identity()


@pytest.mark.parametrize(("region", "near"), [("ap-northeast-9", "ap-northeast-1"), ("zz-nowhere-1", "aws.region")])
def test_a_region_without_eks_is_named(account: tuple[str, Path, str], region: str, near: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        aws = Aws.connect(environment(f"http://127.0.0.1:{taken.getsockname()[1]}", account[1], region=region))
        with pytest.raises(SourceError, match=f"no EKS in a region {region}") as caught:
            aws.call("eks", "list_clusters")
    assert near in str(caught.value.remedy)


def test_an_environment_without_aws() -> None:
    with pytest.raises(SourceError, match=r"aws\.region"):
        Aws.connect(Environment.model_validate({"name": "test"}))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDeniedException", Forbidden),
        ("ExpiredTokenException", Unauthenticated),
        ("ThrottlingException", Unreachable),
        ("ResourceNotFoundException", NotFound),
        ("Odd", SourceError),
    ],
)
def test_what_refusals_mean(code: str, kind: type[SourceError]) -> None:
    settings = AwsSettings(region="eu-west-3", profile="night shift")
    error = _refusal("eks", "describe_addon_versions", {"Code": code, "Message": "words\nof AWS"}, settings)
    assert type(error) is kind
    assert (error.command == "aws sso login --profile 'night shift'") is (kind is Unauthenticated)
    assert "eks:DescribeAddonVersions" in str(error)
