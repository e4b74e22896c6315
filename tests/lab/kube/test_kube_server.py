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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from opslib.lab import certificates
from opslib.lab.api import Api
from opslib.lab.kube.access import User
from opslib.lab.kube.server import Server, Settings, app, server
from tests.ports import free_port


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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server in this process with a pod; its kubeconfig."""
    folder = tmp_path_factory.mktemp("served")
    port = free_port()
    authority = certificates.authority("ca")
    authority.write(folder, "ca")
    certificate, key = certificates.issue(authority, "server", hosts=["127.0.0.1"]).write(folder, "server")
    application = app(
        Settings(
            tokens={"secret": User("admin", ("system:masters",)), "weak": User("weak")},
            root_certificate=authority.certificate,
            port=port,
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


def test_official_client(served: Path) -> None:
    """Lists, changes and watches with the client that most programs use."""
    from kubernetes import client, config, watch

    config.load_kube_config(str(served))
    core = client.CoreV1Api()
    assert [pod.metadata.name for pod in core.list_pod_for_all_namespaces().items] == ["p"]
    core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="watched"), data={"a": "b"}))
    seen = []
    for event in watch.Watch().stream(core.list_namespaced_config_map, "default", timeout_seconds=5):
        seen.append(event["object"].metadata.name)
        if "watched" in seen:
            break


def test_our_own_source(served: Path) -> None:
    """The library that the chapters read with finds what it needs."""
    from opslib.environments.model import Environment
    from opslib.sources.kubernetes import Kubernetes

    path = served.parent / "embedded.yaml"
    path.write_text(yaml.safe_dump({"name": "embedded", "kubernetes": {"kubeconfig": str(served)}}), "utf-8")
    from opslib import environments

    environment: Environment = environments.load(str(path))
    kubernetes = Kubernetes.connect(environment)
    assert kubernetes.version() == "v1.36.3"
    assert kubernetes.identity().username == "admin"
    assert kubernetes.may("list", "pods")
    assert [row["status"] for row in kubernetes.table("pods", "default")] == ["Pending"]
    assert kubernetes.unhealthy_pods().total == 1
