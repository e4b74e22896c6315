"""Chapter 2 is read from systems in every state: well, refusing, another one, silent, with an expired certificate, with a wrong clock."""

from __future__ import annotations

import base64
import email.utils
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import opslib
from opslib import environments
from opslib.chapters import access
from opslib.chapters.access import Credential, Facts, Kind, Parameters, System
from opslib.environments import Environment
from opslib.errors import InputError, Unauthenticated, Unreachable, WrongTarget
from opslib.facts import Questions
from opslib.facts import access as reader
from opslib.facts.sources import Sources
from opslib.findings import Severity
from opslib.lab import certificates

if TYPE_CHECKING:
    from tests.conftest import RealLab

Pages = dict[str, tuple[int, Any]]
PROMETHEUS: Pages = {
    "/api/v1/status/runtimeinfo": (200, {"status": "success", "data": {}}),
    "/api/v1/status/buildinfo": (200, {"status": "success", "data": {"version": "3.1.0"}}),
}


def read(environment: Environment, patience_seconds: float = 30, namespace: str = "") -> Facts:
    return read_from(Sources(environment), patience_seconds, namespace)


def read_from(sources: Sources, patience_seconds: float = 30, namespace: str = "") -> Facts:
    executor = ThreadPoolExecutor(17)
    try:
        return reader.read(sources, Parameters(namespace=namespace), Questions(executor), patience_seconds)
    finally:
        executor.shutdown(wait=False)


def system(facts: Facts, name: str) -> System:
    found = facts.system(name)
    assert found is not None
    return found


def environment(folder: Path, **fields: Any) -> Environment:
    """One without a cluster, unless `fields` name it."""
    content = {"name": "test", "language": "en", "timezone": "UTC", "kubernetes": {"kubeconfig": str(folder / "none")}, **fields}
    return Environment.model_validate(content)


# --- a server that says what a test tells it to ---------------------------------------------------------------------------------------


class Server:
    """Answers with `pages`, over TLS where there is a certificate."""

    def __init__(self, pages: Pages, certificate: tuple[Path, Path] | None = None, clock: timedelta = timedelta(0)) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, content = pages.get(self.path.partition("?")[0], (404, {}))
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                self.do_GET()

            def date_time_string(self, timestamp: float | None = None) -> str:
                return email.utils.format_datetime(datetime.now(UTC) + clock, usegmt=True)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that does not accept the certificate is what a test is about."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*arguments: Any, **words: Any) -> Server:
        servers.append(Server(*arguments, **words))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()
        server.thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


# --- the cluster ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lab(any_cluster: RealLab, tmp_path: Path) -> Callable[..., Environment]:
    """The cluster's environment, with changes of its `kubernetes` section."""

    def make(**changes: Any) -> Environment:
        addresses = yaml.safe_load(any_cluster.environment.read_text("utf-8"))["kubernetes"]
        content = {"name": "mine", "language": "en", "timezone": "UTC", "kubernetes": {**addresses, **changes}}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content), "utf-8")
        return environments.load(str(tmp_path / "mine.yaml"))

    return make


def test_a_cluster_says_who_we_are_how_fast_it_is_and_when_its_certificates_end(lab: Callable[..., Environment]) -> None:
    facts = read(lab())
    cluster = system(facts, "kubernetes")
    assert cluster.error is None
    assert (cluster.version[:2], cluster.identity) == ("v1", "lab-admin")
    assert cluster.connected is not None
    assert cluster.answered is not None
    assert cluster.clock is not None
    assert abs(cluster.clock) <= 3
    ends = {(one.kind, one.subject, one.issuer) for one in facts.credentials}
    assert ends == {(Kind.CLIENT, "lab-admin", "opslib-lab"), (Kind.SERVER, "kube-apiserver", "opslib-lab")}
    assert all(one.ends > facts.now for one in facts.credentials)
    assert facts.gaps == ()
    assert [other.name for other in facts.systems if other.named] == ["kubernetes"]


def test_of_another_cluster_nothing_is_read_but_that_it_is_another(lab: Callable[..., Environment]) -> None:
    sources = Sources(lab(expected_cluster_uid="00000000-0000-0000-0000-000000000000"))
    asked: list[str] = []
    with sources.watched(lambda exchange: asked.append(exchange.request.path)):
        facts = read_from(sources)
    assert asked == ["/api/v1/namespaces/kube-system"]
    assert isinstance(system(facts, "kubernetes").error, WrongTarget)
    assert facts.allowed is None
    first = access.findings(facts, Parameters())[0]
    assert (first.check, first.severity) == ("systems.wrong_target", Severity.CRITICAL)


def test_at_another_address_nothing_is_asked_at_all(lab: Callable[..., Environment]) -> None:
    sources = Sources(lab(expected_server="https://127.0.0.1:1"))
    asked: list[str] = []
    with sources.watched(lambda exchange: asked.append(exchange.request.path)):
        facts = read_from(sources)
    assert asked == []
    assert isinstance(system(facts, "kubernetes").error, WrongTarget)


def test_this_chapter_begins_where_the_cluster_is_another_and_the_others_do_not(lab: Callable[..., Environment]) -> None:
    wrong = lab(expected_cluster_uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(WrongTarget):
        opslib.start("pods", wrong, language="en")
    session = opslib.start("access", wrong, language="en")
    with pytest.raises(WrongTarget):
        _ = session.sources.kubernetes
    assert "systems.wrong_target" in {finding.check for finding in session.findings}


def test_a_namespace_that_is_not_there_is_named(lab: Callable[..., Environment]) -> None:
    with pytest.raises(InputError, match="There is no namespace kube-sistem"):
        read(lab(), namespace="kube-sistem")


def test_a_context_that_is_not_there_is_the_cluster_s_trouble_alone(lab: Callable[..., Environment], serve: Callable[..., Server]) -> None:
    prometheus = environment(Path(), prometheus={"url": serve(PROMETHEUS).url}).prometheus
    wrong = lab(context="lap").model_copy(update={"prometheus": prometheus})
    facts = read(wrong)
    assert "has no context lap" in str(system(facts, "kubernetes").error)
    assert system(facts, "prometheus").version == "3.1.0"


# --- the others -----------------------------------------------------------------------------------------------------------------------


def test_each_system_has_its_own_reason(tmp_path: Path, serve: Callable[..., Server], silent: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused = f"http://127.0.0.1:{taken.getsockname()[1]}"
        facts = read(
            environment(
                tmp_path,
                prometheus={"url": refused, "deadline_seconds": 2},
                alertmanager={"url": silent, "deadline_seconds": 0.5},
                elasticsearch={"url": serve({"/": (401, {"error": "missing credentials"})}).url},
            )
        )
    errors = {one.name: one.error for one in facts.systems}
    assert "connection refused" in str(errors["prometheus"])
    assert "no answer in time" in str(errors["alertmanager"])
    assert isinstance(errors["elasticsearch"], Unauthenticated)
    assert "There is no kubeconfig" in str(errors["kubernetes"])


def test_who_does_not_answer_while_there_is_patience_is_left_behind(tmp_path: Path, serve: Callable[..., Server], silent: str) -> None:
    began = time.monotonic()
    facts = read(environment(tmp_path, prometheus={"url": serve(PROMETHEUS).url}, alertmanager={"url": silent, "deadline_seconds": 300}), 3)
    assert time.monotonic() - began < 60
    assert isinstance(system(facts, "alertmanager").error, Unreachable)
    assert system(facts, "alertmanager").address == silent
    assert system(facts, "prometheus").error is None


@pytest.mark.parametrize("minutes", [-10, 0, 10])
def test_a_clock_that_is_off_is_seen(minutes: int, tmp_path: Path, serve: Callable[..., Server]) -> None:
    facts = read(environment(tmp_path, prometheus={"url": serve(PROMETHEUS, clock=timedelta(minutes=minutes)).url}))
    clock = system(facts, "prometheus").clock
    assert clock is not None
    assert abs(clock - minutes * 60) <= 3


@pytest.mark.parametrize(
    ("pages", "version", "identity"),
    [
        ({"/": (200, {"version": {"number": "8.17.0"}}), "/_security/_authenticate": (200, {"username": "reader"})}, "8.17.0", "reader"),
        (
            {
                "/": (200, {"version": {"number": "2.19.1", "distribution": "opensearch"}}),
                "/_plugins/_security/authinfo": (200, {"user_name": "watcher"}),
            },
            "opensearch 2.19.1",
            "watcher",
        ),
        ({"/": (200, {"version": {"number": "7.17.0"}}), "/_security/_authenticate": (400, {"error": "no handler"})}, "7.17.0", ""),
    ],
)
def test_elasticsearch_and_opensearch_say_who_we_are(
    pages: Pages, version: str, identity: str, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    elasticsearch = system(read(environment(tmp_path, elasticsearch={"url": serve(pages).url})), "elasticsearch")
    assert (elasticsearch.error, elasticsearch.version, elasticsearch.identity) == (None, version, identity)


STS = b"""<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:iam::123456789012:user/reader</Arn><UserId>AIDAEXAMPLE</UserId><Account>123456789012</Account>
</GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"""


@pytest.mark.parametrize(("account", "wrong"), [("123456789012", False), ("210987654321", True)])
def test_aws_says_who_we_are_and_another_account_is_a_wrong_target(
    account: str, wrong: bool, tmp_path: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "example")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    server = serve({"/": (200, STS)}, clock=timedelta(minutes=7))
    facts = read(environment(tmp_path, aws={"region": "ap-northeast-1", "account": account, "endpoint_url": server.url}))
    aws = system(facts, "aws")
    assert isinstance(aws.error, WrongTarget) is wrong
    assert aws.identity == ("" if wrong else "arn:aws:iam::123456789012:user/reader")
    checks = {(one.check, one.severity) for one in access.findings(facts, Parameters()) if one.subject.name == "aws"}
    assert checks == {("systems.wrong_target" if wrong else "systems.clock", Severity.CRITICAL)}


# --- certificates and tokens ----------------------------------------------------------------------------------------------------------


def of_server(facts: Facts) -> Credential:
    (found,) = (one for one in facts.credentials if one.kind is Kind.SERVER)
    return found


@pytest.mark.parametrize("days", [90, -2])
def test_a_server_certificate_s_end_is_known_even_where_it_is_over(days: int, tmp_path: Path, serve: Callable[..., Server]) -> None:
    ca = certificates.authority("Example CA")
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    pair = certificates.issue(ca, "prometheus", hosts=["127.0.0.1"], since=until - timedelta(days=100), until=until)
    (tmp_path / "ca.pem").write_text(ca.certificate)
    server = serve(PROMETHEUS, certificate=pair.write(tmp_path, "prometheus"))
    facts = read(environment(tmp_path, prometheus={"url": server.url, "ca_file": str(tmp_path / "ca.pem"), "deadline_seconds": 5}))
    one = of_server(facts)
    assert (one.system, one.subject, one.issuer, one.ends) == ("prometheus", "prometheus", "Example CA", until)
    error = system(facts, "prometheus").error
    assert error is None if days > 0 else "certificate has expired" in str(error)
    severities = [found.severity for found in access.findings(facts, Parameters()) if found.check.startswith("credentials.")]
    assert severities == ([] if days > 0 else [Severity.CRITICAL])


def token(**claims: Any) -> str:
    parts: tuple[dict[str, Any], ...] = ({"alg": "none"}, claims, {})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)


def test_a_token_s_end_and_a_client_certificate_s_are_read_from_the_settings(
    tmp_path: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=10)
    monkeypatch.setenv("A_TOKEN", token(exp=ends.timestamp()))
    pair = certificates.issue(certificates.authority("Example CA"), "reader")
    certificate, key = pair.write(tmp_path, "reader")
    facts = read(
        environment(
            tmp_path,
            prometheus={"url": serve(PROMETHEUS).url, "token_env": "A_TOKEN"},
            alertmanager={"url": serve({}).url, "client_certificate": str(certificate), "client_key": str(key)},
        )
    )
    known = {(one.system, one.kind): one for one in facts.credentials}
    assert known["prometheus", Kind.TOKEN].ends == ends
    assert known["alertmanager", Kind.CLIENT].subject == "reader"
    assert [one.check for one in access.findings(facts, Parameters()) if one.check.startswith("credentials.")] == ["credentials.ending"]
