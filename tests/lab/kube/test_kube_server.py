"""The server as a process: it starts fast, survives being killed, and other clients than kubectl work with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from opslib.lab import certificates
from opslib.lab.api import Api
from opslib.lab.kube.access import User
from opslib.lab.kube.errors import Refused
from opslib.lab.kube.server import Server, Settings, app, server
from opslib.lab.kube.streams import LogRequest, Providers, Terminal


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(check: Any, seconds: float = 20) -> Any:
    """The first true value of `check`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = check()
        except (OSError, urllib3.exceptions.HTTPError):
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def start(folder: Path, port: int) -> tuple[subprocess.Popen[bytes], float]:
    """A server that answers, and the seconds of processor time that it took to get there, whatever else the machine does."""
    process = subprocess.Popen([sys.executable, "-m", "opslib.lab.kube", "--port", str(port), "--state", str(folder)])
    pool = urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False)
    urllib3.disable_warnings()
    until(lambda: pool.request("GET", f"https://127.0.0.1:{port}/readyz", timeout=1).status == 200)
    ticks = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()[11:13]
    return process, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def test_killed_and_started_again(tmp_path: Path) -> None:
    """After kill -9 all is there that was there a moment before it, and the versions go on."""
    port = free_port()
    process, seconds = start(tmp_path, port)
    try:
        assert seconds < 3  # 0.8 s, keys and certificates included
        api = Api.from_kubeconfig(tmp_path / "kubeconfig")
        path = "/api/v1/namespaces/default/configmaps"
        for number in range(20):
            api.request("POST", path, {"metadata": {"name": f"c{number}"}})
        version = int(api.request("GET", path)["metadata"]["resourceVersion"])
        with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as database:
            until(lambda: database.execute("SELECT version FROM revision").fetchone()[0] >= version)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        process, _seconds = start(tmp_path, port)
        again = Api.from_kubeconfig(tmp_path / "kubeconfig")
        listed = again.request("GET", path)
        assert {f"c{number}" for number in range(20)} <= {one["metadata"]["name"] for one in listed["items"]}
        assert int(listed["metadata"]["resourceVersion"]) >= version
    finally:
        process.kill()
        process.wait(10)


async def _log(request: LogRequest) -> Any:
    if request.previous:
        raise Refused(400, "BadRequest", "no previous one")
    for number in range(3):
        yield f"{request.container} {number}\n".encode()


async def _run(namespace: str, pod: str, container: str, words: Sequence[str], terminal: Terminal) -> int:
    if words[0] == "cat":
        while (data := await terminal.read()) is not None:
            await terminal.write(data)
        return 0
    await terminal.write(f"{container}: {' '.join(words)}\n".encode())
    await terminal.write(b"oops\n", error=True)
    return 3


@pytest.fixture(scope="module")
def provided(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server in this process whose logs, commands and metrics come from functions; its kubeconfig."""
    folder = tmp_path_factory.mktemp("provided")
    port = free_port()
    authority = certificates.authority("ca")
    authority.write(folder, "ca")
    certificate, key = certificates.issue(authority, "server", hosts=["127.0.0.1"]).write(folder, "server")
    node = {"metadata": {"name": "n1"}, "timestamp": "2026-01-01T00:00:00Z", "window": "10s", "usage": {"cpu": "250m", "memory": "1Gi"}}
    pod = {
        "metadata": {"name": "p", "namespace": "default"}, "timestamp": "2026-01-01T00:00:00Z", "window": "10s",
        "containers": [{"name": "c", "usage": {"cpu": "100m", "memory": "64Mi"}}],
    }  # fmt: skip
    providers = Providers(logs=_log, run=_run, node_metrics=lambda: [node], pod_metrics=lambda namespace: [pod])
    application = app(
        Settings(
            tokens={"secret": User("admin", ("system:masters",)), "weak": User("weak")},
            root_certificate=authority.certificate,
            port=port,
            providers=providers,
        )
    )
    running: list[Server] = []

    def serve() -> None:
        made = server(application, host="127.0.0.1", port=port, certificate=certificate, key=key, client_authority=folder / "ca.crt")
        running.append(made)
        asyncio.run(made.serve())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    kubeconfig = folder / "kubeconfig"
    text = certificates.kubeconfig(f"https://127.0.0.1:{port}", authority.certificate, {"admin": "secret", "weak": "weak"})
    kubeconfig.write_text(text, "utf-8")
    until(lambda: running and running[0].started)
    api = Api.from_kubeconfig(kubeconfig)
    api.request("POST", "/api/v1/nodes", {"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "1", "memory": "4Gi"}}})
    spec = {"nodeName": "n1", "containers": [{"name": "c", "image": "x"}]}
    api.request("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": "p"}, "spec": spec})
    yield kubeconfig
    running[0].should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def test_official_client(provided: Path) -> None:
    """Lists, watches, logs and exec with the client that most programs use."""
    from kubernetes import client, config, stream, watch

    config.load_kube_config(str(provided))
    core = client.CoreV1Api()
    assert [pod.metadata.name for pod in core.list_pod_for_all_namespaces().items] == ["p"]
    assert core.read_namespaced_pod_log("p", "default", container="c") == "c 0\nc 1\nc 2\n"
    with pytest.raises(client.exceptions.ApiException) as caught:
        core.read_namespaced_pod_log("p", "default", previous=True)
    assert caught.value.status == 400
    core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="watched"), data={"a": "b"}))
    seen = []
    for event in watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=5):
        seen.append(event["object"].metadata.name)
        if "watched" in seen:
            break
    answer = stream.stream(
        core.connect_get_namespaced_pod_exec, "p", "default", command=["ls", "-l"], stderr=True, stdin=False, stdout=True, tty=False,
        _preload_content=False,
    )  # fmt: skip
    answer.run_forever(timeout=10)
    assert (answer.read_stdout(), answer.read_stderr(), answer.returncode) == ("c: ls -l\n", "oops\n", 3)


def test_our_own_source(provided: Path) -> None:
    """The library that the chapters read with finds what it needs."""
    from opslib.environments.model import Environment
    from opslib.sources.kubernetes import Kubernetes

    path = provided.parent / "embedded.yaml"
    path.write_text(yaml.safe_dump({"name": "embedded", "kubernetes": {"kubeconfig": str(provided)}}), "utf-8")
    from opslib import environments

    environment: Environment = environments.load(str(path))
    kubernetes = Kubernetes.connect(environment)
    assert kubernetes.version() == "v1.36.3"
    assert kubernetes.identity().username == "admin"
    assert kubernetes.may("list", "pods")
    assert [row["status"] for row in kubernetes.table("pods", "default")] == ["Pending"]
    assert kubernetes.unhealthy_pods().total == 1
    assert kubernetes.logs("default", "p", "c").startswith("c 0")


def test_kubectl_exec_and_top(provided: Path, tmp_path: Path) -> None:
    from opslib.lab import build

    if not build.program("kubectl").exists():
        pytest.skip("no kubectl: `opslib lab build` builds it")

    def kubectl(*words: str, given: str = "", context: str = "lab") -> tuple[int, str, str]:
        command = [str(build.program("kubectl")), "--kubeconfig", str(provided), "--context", context, *words]
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        answer = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, env=environment, check=False)
        return answer.returncode, answer.stdout, answer.stderr

    assert kubectl("exec", "p", "--", "ls") == (3, "c: ls\n", "oops\ncommand terminated with exit code 3\n")
    assert kubectl("exec", "-i", "p", "--", "cat", given="hello\n")[:2] == (0, "hello\n")
    assert 'pods "p" is forbidden' in kubectl("exec", "p", "--", "ls", context="lab-weak")[2]
    assert kubectl("top", "nodes")[1].split("\n")[1].split() == ["n1", "250m", "25%", "1024Mi", "25%"]
    assert kubectl("top", "pods")[1].split("\n")[1].split() == ["p", "100m", "64Mi"]
    assert kubectl("logs", "-f", "p")[1] == "c 0\nc 1\nc 2\n"
