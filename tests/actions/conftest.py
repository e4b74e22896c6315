"""A desk at a cluster, a workload to change on it, and a way to be cut off between any two requests."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from opslib.actions.kubernetes import KubernetesSystem
from opslib.actions.pipeline import Desk
from opslib.environments import Environment
from opslib.lab.api import ApiError
from opslib.sources.kubernetes import Kubernetes
from tests.conftest import RealLab
from tests.waiting import until


@dataclass
class Place:
    """A namespace of its own on a cluster, and the desk from which it is changed."""

    lab: RealLab
    namespace: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def environment(self, server: str = "", **more: Any) -> Environment:
        kubeconfig: dict[str, Any] = {"kubeconfig": str(self.lab.kubeconfig), "context": "lab"}
        if server:
            path = self.folder / "through.kubeconfig"
            path.write_text(
                yaml.safe_dump(
                    {
                        "apiVersion": "v1",
                        "kind": "Config",
                        "clusters": [{"name": "through", "cluster": {"server": server}}],
                        "users": [{"name": "through", "user": {}}],
                        "contexts": [{"name": "through", "context": {"cluster": "through", "user": "through"}}],
                        "current-context": "through",
                    }
                )
            )
            kubeconfig = {"kubeconfig": str(path), "context": "through"}
        return Environment.model_validate({"name": "test", "kubernetes": kubeconfig, **self.settings, **more})

    def desk(self, who: str = "hitomi", server: str = "", **more: Any) -> Desk:
        environment = self.environment(server, **more)
        return Desk(environment, self.folder / "actions", {"kubernetes": KubernetesSystem(Kubernetes.connect(environment))}, who)

    def system(self, desk: Desk) -> KubernetesSystem:
        system = desk.systems["kubernetes"]
        assert isinstance(system, KubernetesSystem)
        return system

    def deployment(self, name: str = "web") -> dict[str, Any]:
        return self.lab.api.get(f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{name}")

    def pods(self) -> list[dict[str, Any]]:
        return self.lab.api.list(f"/api/v1/namespaces/{self.namespace}/pods")

    until = staticmethod(until)


@pytest.fixture
def place(any_cluster: RealLab, tmp_path: Path) -> Iterator[Place]:
    """A namespace with a Deployment `web` of two pods that run, and its Service."""
    found = Place(any_cluster, f"actions-{uuid.uuid4().hex[:8]}", tmp_path)
    api = any_cluster.api
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": found.namespace}})
    metadata = {"namespace": found.namespace, "name": "web"}
    pod = {"containers": [{"name": "web", "image": "registry.example.com/web:1", "readinessProbe": {"httpGet": {"port": 80}}}]}
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod}}
    api.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})
    api.create({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})
    found.until(lambda: found.deployment().get("status", {}).get("availableReplicas") == 2, "web runs")
    yield found
    # A namespace is let be for five seconds before what is in it goes; tests about nodes wait for the pods of those before.
    for kind in ("deployments", "replicasets", "statefulsets", "daemonsets"):
        api.delete(f"/apis/apps/v1/namespaces/{found.namespace}/{kind}")
    api.delete(f"/api/v1/namespaces/{found.namespace}/pods")
    with contextlib.suppress(ApiError):
        api.delete(f"/api/v1/namespaces/{found.namespace}")


class Between:
    """A proxy that kills the client at its n-th request: before the server gets it, or once it has answered. In front of a lab's API
    server, or of the server at an address.
    """

    def __init__(self, server: RealLab | str) -> None:
        if isinstance(server, str):
            cluster, context = server, None
        else:
            user = yaml.safe_load(server.kubeconfig.read_text())
            cluster = user["clusters"][0]["cluster"]["server"]
            pki = server.folder / "pki"
            context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
            context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
        pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=20)
        self.seen: list[tuple[str, str]] = []
        self.kill: tuple[int, str] | None = None  # at which request, and whether "before" or "after"
        self.victim = 0
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                number = len(between.seen)
                between.seen.append((self.command, self.path))
                if between.kill == (number, "before"):
                    return between.strike()
                headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "accept-encoding")}
                answer = pool.request(self.command, f"{cluster}{self.path}", body=body or None, headers=headers)
                if between.kill == (number, "after"):
                    return between.strike()
                self.send_response(answer.status)
                self.send_header("content-type", answer.headers.get("content-type", "application/json"))
                self.send_header("content-length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data)
                return None

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that was killed is what this is for."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def strike(self) -> None:
        os.kill(self.victim, signal.SIGKILL)


@pytest.fixture
def between(any_cluster: RealLab) -> Iterator[Between]:
    found = Between(any_cluster)
    yield found
    found.http.shutdown()
