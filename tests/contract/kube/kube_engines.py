"""The two engines of the contract tests: the lab's own API server, and the real one with the few controllers that the tests need."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from opslib.lab import build, certificates, processes
from tests.ports import free_port

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
CONTROLLERS = "serviceaccount-controller,root-ca-certificate-publisher-controller,namespace-controller"


@dataclass(frozen=True)
class Answer:
    """An answer of a server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


@dataclass
class Cluster:
    """One engine that runs."""

    engine: str
    port: int
    folder: Path
    tokens: Mapping[str, str]
    authority: certificates.Pair
    home: Path
    _connections: dict[str, http.client.HTTPSConnection] = field(default_factory=dict)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    def connection(self, certificate: tuple[Path, Path] | None = None, seconds: float = 30) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate is not None:
            context.load_cert_chain(*(str(one) for one in certificate))
        return http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=seconds)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        user: str = "admin",
        accept: str = "application/json",
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        certificate: tuple[Path, Path] | None = None,
        **query: object,
    ) -> Answer:
        """One request; `user` "" sends no token."""
        address = path + (f"?{urlencode(query, doseq=True)}" if query else "")
        sent = {"Accept": accept, "User-Agent": "contract/1", **(headers or {})}
        if user:
            sent["Authorization"] = f"Bearer {self.tokens.get(user, user)}"
        payload = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if payload is not None:
            sent["Content-Type"] = content_type
        connection = self.connection(certificate)
        try:
            connection.request(method, address, payload, sent)
            answer = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in answer.getheaders():
                found[name.lower()] = f"{found[name.lower()]}\n{value}" if name.lower() in found else value
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def watch(self, path: str, count: int, *, accept: str = "application/json", **query: object) -> list[Any]:
        """The first `count` events of a watch."""
        connection = self.connection(seconds=10)
        try:
            address = f"{path}?{urlencode({'watch': 'true', **query})}"
            connection.request("GET", address, headers={"Authorization": f"Bearer {self.tokens['admin']}", "Accept": accept})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            return [json.loads(answer.readline()) for _number in range(count)]
        finally:
            connection.close()

    def kubectl(self, *words: str, input: str | None = None, folder: Path | None = None) -> tuple[int, str, str]:
        """Exit status, output and error output of the real kubectl."""
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "KUBECONFIG": str(self.kubeconfig)}
        command = [str(kubectl_program()), *words]
        answer = subprocess.run(command, input=input, capture_output=True, text=True, timeout=60, env=environment, cwd=folder, check=False)
        return answer.returncode, answer.stdout, answer.stderr

    def certificate(self, name: str, groups: Sequence[str]) -> tuple[Path, Path]:
        """A client certificate."""
        return certificates.issue(self.authority, name, groups=groups).write(self.folder, f"user-{name}")


def kubectl_program() -> Path | None:
    """The kubectl that was built: sessions are compared word for word, and another release has other words. None where it was not."""
    return build.program("kubectl") if build.is_built(build.find("kubernetes")) else None


def _until_ready(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    context = ssl._create_unverified_context()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text("utf-8", "replace")[-2000:]
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=2)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise AssertionError(f"not ready after {seconds} s: {log.read_text('utf-8', 'replace')[-2000:]}")


def _start(command: Sequence[object], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen([str(word) for word in command], stdout=output, stderr=output, preexec_fn=processes.die_with_parent())  # noqa: PLW1509


@contextmanager
def embedded(folder: Path, *more: str, port: int | None = None) -> Iterator[Cluster]:
    """The lab's own server."""
    port = port or free_port()
    log = folder / "server.log"
    folder.mkdir(parents=True, exist_ok=True)
    process = _start([sys.executable, "-m", "opslib.lab.kube", "--port", port, "--state", folder, *more], log)
    try:
        _until_ready(port, process, log)
        admin, viewer = (folder / "tokens").read_text("ascii").split("\n")
        pair = certificates.Pair((folder / "ca.crt").read_text("ascii"), (folder / "ca.key").read_text("ascii"))
        yield Cluster("embedded", port, folder, {"admin": admin, "viewer": viewer}, pair, folder)
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def real(folder: Path) -> Iterator[Cluster]:
    """etcd, kube-apiserver, and the controllers of namespaces and service accounts."""
    folder.mkdir(parents=True, exist_ok=True)
    port, client, peer = free_port(), free_port(), free_port()
    authority = certificates.authority("contract-ca")
    authority.write(folder, "ca")
    certificates.issue(authority, "kube-apiserver", hosts=["127.0.0.1", "localhost"]).write(folder, "server")
    private, public = certificates.signing_key()
    certificates.write_private(folder / "sa.key", private)
    (folder / "sa.pub").write_text(public, "ascii")
    tokens = {name: secrets.token_urlsafe(16) for name in ("admin", "viewer")}
    lines = [f"{tokens['admin']},admin,admin,system:masters", f"{tokens['viewer']},viewer,viewer,readers"]
    (folder / "tokens.csv").write_text("\n".join(lines) + "\n", "ascii")
    text = certificates.kubeconfig(f"https://127.0.0.1:{port}", authority.certificate, tokens)
    certificates.write_private(folder / "kubeconfig", text)
    started = []
    try:
        started.append(
            _start(
                [
                    build.program("etcd"), "--data-dir", folder / "etcd", "--unsafe-no-fsync",
                    "--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls", f"http://127.0.0.1:{client}",
                    "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                    "--initial-cluster", f"default=http://127.0.0.1:{peer}",
                ],
                folder / "etcd.log",
            )
        )  # fmt: skip
        server = _start(
            [
                build.program("kube-apiserver"), "--etcd-servers", f"http://127.0.0.1:{client}", "--secure-port", port,
                "--bind-address", "127.0.0.1", "--tls-cert-file", folder / "server.crt", "--tls-private-key-file", folder / "server.key",
                "--client-ca-file", folder / "ca.crt", "--token-auth-file", folder / "tokens.csv", "--authorization-mode", "RBAC",
                "--service-account-key-file", folder / "sa.pub", "--service-account-signing-key-file", folder / "sa.key",
                "--service-account-issuer", "https://kubernetes.default.svc", "--service-cluster-ip-range", "10.96.0.0/16",
                "--kubelet-preferred-address-types", "InternalIP",
            ],
            folder / "server.log",
        )  # fmt: skip
        started.append(server)
        _until_ready(port, server, folder / "server.log")
        started.append(
            _start(
                [
                    build.program("kube-controller-manager"), "--kubeconfig", folder / "kubeconfig", "--leader-elect=false",
                    "--secure-port", "0", "--service-account-private-key-file", folder / "sa.key", "--root-ca-file", folder / "ca.crt",
                    "--controllers", CONTROLLERS,
                ],
                folder / "controllers.log",
            )
        )  # fmt: skip
        yield Cluster("real", port, folder, tokens, authority, folder)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


# --- comparing ---

_PATTERNS = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"), "TIME"),
    (re.compile(r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000"), "TIME"),
    (re.compile(r"kube-api-access-[a-z0-9]{5}"), "kube-api-access-XXXXX"),
    (re.compile(r"\b10\.96\.\d+\.\d+"), "10.96.X.X"),
    (re.compile(r"\bcontract-[a-z0-9]+\b"), "NAMESPACE"),
    (re.compile(r'Invalid value: "\{.*\}": strict'), 'Invalid value: "OBJECT": strict'),
    (re.compile(r'Invalid value: \\"\{.*\}\\": strict'), 'Invalid value: "OBJECT": strict'),
    (re.compile(r"in record \(\d+\)"), "in record (N)"),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"\S+/(LIVE|MERGED)-\d+"), r"\1"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ [+-]\d{4}"), "TIME"),
)


def normal_text(text: str) -> str:
    """A text without what differs from run to run; runs of blanks count as one."""
    for pattern, word in _PATTERNS:
        text = pattern.sub(word, text)
    text = re.sub(r"(?<![\w.])(\d+[smhd]){1,2}(?= ago\b|\s|$|\))", "AGE", text)
    text = re.sub(r"(Resource Version:\s+)\d+", r"\1VERSION", text)
    text = re.sub(r"(\"?resourceVersion\"?: )\"\d+\"", r'\1"VERSION"', text)
    return "\n".join(re.sub(r"[ \t]+", " ", line).rstrip() for line in text.splitlines())


def in_order(values: list[Any]) -> list[Any]:
    """The managed fields of an object by manager: servers list them by time, and a second may begin between two requests."""
    if values and all(isinstance(one, dict) and "fieldsType" in one for one in values):
        return sorted(values, key=lambda one: [str(one.get(name, "")) for name in ("operation", "manager", "subresource")])
    return values


def normal(value: Any, *, fields: bool = False) -> Any:
    """Data without what differs from run to run. Managed fields stay with `fields` alone."""
    if isinstance(value, dict):
        made = {}
        for name, one in sorted(value.items()):
            if name == "resourceVersion" and isinstance(one, str):
                one = "VERSION"
            elif name == "managedFields" and not fields:
                continue
            elif name == "nodePort" and isinstance(one, int):
                one = 30000
            made[normal(name) if isinstance(name, str) else name] = normal(one, fields=fields)
        return made
    if isinstance(value, list):
        return in_order([normal(one, fields=fields) for one in value])
    if isinstance(value, str):
        for pattern, word in _PATTERNS:
            value = pattern.sub(word, value)
    return value
