"""APIs that another server serves behind the API server."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kube_engines import Cluster

from opslib.lab import certificates

GROUP = "behind.example.org"
ROOT = f"/apis/{GROUP}/v1"
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
THINGS = {
    "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/v1",
    "resources": [{"name": "things", "singularName": "thing", "namespaced": True, "kind": "Thing", "verbs": ["get", "list"]}],
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200 if self.path.startswith("/apis") else 404, THINGS if self.path == ROOT else self._asked())

    def do_PATCH(self) -> None:
        self._answer(422, {**self._asked(), "body": self.rfile.read(int(self.headers["content-length"])).decode()})

    def _asked(self) -> dict[str, Any]:
        names = ("x-remote-user", "x-remote-group", "authorization", "accept", "content-type")
        headers = {name: self.headers.get_all(name) for name in names if name in self.headers}
        return {"kind": "Thing", "apiVersion": f"{GROUP}/v1", "method": self.command, "path": self.path, "headers": headers}

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadingHTTPServer]:
    """A server to stand behind."""
    folder = tmp_path_factory.mktemp("behind")
    pair = certificates.issue(certificates.authority("behind"), "behind", hosts=["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.write(folder, "behind"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def condition(cluster: Cluster, reason: str) -> dict[str, Any]:
    """The condition of the API, once it has that reason."""
    deadline = time.monotonic() + 30
    while True:
        found = (cluster.request("GET", f"{SERVICES}/v1.{GROUP}").json.get("status") or {}).get("conditions") or [{}]
        if found[0].get("reason") == reason or time.monotonic() > deadline:
            found[0].pop("lastTransitionTime", None)
            return dict(found[0])
        time.sleep(0.1)


@pytest.fixture
def behind(cluster: Cluster, namespace: str, backend: ThreadingHTTPServer) -> Iterator[str]:
    """An API of that server; the namespace of its service."""
    service = {"metadata": {"name": "behind"}, "spec": {"type": "ExternalName", "externalName": "localhost"}}
    assert cluster.request("POST", f"/api/v1/namespaces/{namespace}/services", service).status == 201
    spec = {
        "group": GROUP, "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10, "insecureSkipTLSVerify": True,
        "service": {"namespace": namespace, "name": "behind", "port": backend.server_address[1]},
    }  # fmt: skip
    created = cluster.request("POST", SERVICES, {"metadata": {"name": f"v1.{GROUP}"}, "spec": spec})
    assert created.status == 201, created.json
    yield namespace
    cluster.request("DELETE", f"{SERVICES}/v1.{GROUP}")


def test_requests_are_handed_on(cluster: Cluster, behind: str) -> None:
    assert condition(cluster, "Passed") == {"type": "Available", "status": "True", "reason": "Passed", "message": "all checks passed"}
    deadline = time.monotonic() + 30
    while (answer := cluster.request("GET", f"{ROOT}/namespaces/x/things/y", limit=3, labelSelector="a=b")).status != 200:
        assert time.monotonic() < deadline, answer.body
        time.sleep(0.1)
    assert answer.json == {
        "kind": "Thing",
        "apiVersion": f"{GROUP}/v1",
        "method": "GET",
        "path": f"{ROOT}/namespaces/x/things/y?labelSelector=a%3Db&limit=3",
        "headers": {
            "accept": ["application/json"],
            "x-remote-user": ["admin"],
            "x-remote-group": ["system:masters", "system:authenticated"],
        },
    }
    patched = cluster.request("PATCH", f"{ROOT}/namespaces/x/things/y", b"{}", content_type="application/merge-patch+json")
    assert (patched.status, patched.json["body"]) == (422, "{}")
    assert patched.json["headers"]["content-type"] == ["application/merge-patch+json"]
    refused = cluster.request("GET", f"{ROOT}/namespaces/x/things", user="viewer")
    assert (refused.status, refused.json["message"]) == (
        403,
        f'things.{GROUP} is forbidden: User "viewer" cannot list resource "things" in API group "{GROUP}" in the namespace "x"',
    )


def test_they_take_part_in_discovery(cluster: Cluster, behind: str) -> None:
    condition(cluster, "Passed")
    form = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    deadline = time.monotonic() + 30
    while True:
        groups = {one["metadata"]["name"]: one for one in cluster.request("GET", "/apis", accept=form).json["items"]}
        if groups.get(GROUP, {}).get("versions", [{}])[0].get("resources"):
            break
        assert time.monotonic() < deadline, groups.get(GROUP)
        time.sleep(0.1)
    entry = groups[GROUP]["versions"][0]["resources"][0]
    assert (entry["resource"], entry["responseKind"]["kind"], entry["scope"], entry["verbs"]) == (
        "things",
        "Thing",
        "Namespaced",
        ["get", "list"],
    )
    plain = cluster.request("GET", "/apis").json["groups"]
    assert next(one for one in plain if one["name"] == GROUP)["preferredVersion"]["version"] == "v1"
    assert cluster.request("GET", ROOT).json == THINGS


def test_a_server_that_does_not_answer(cluster: Cluster, behind: str) -> None:
    condition(cluster, "Passed")
    assert cluster.request("DELETE", f"/api/v1/namespaces/{behind}/services/behind").status == 200
    assert condition(cluster, "ServiceNotFound") == {
        "type": "Available",
        "status": "False",
        "reason": "ServiceNotFound",
        "message": f'service/behind in "{behind}" is not present',
    }
    answer = cluster.request("GET", f"{ROOT}/namespaces/x/things")
    assert (answer.status, answer.body) == (503, b"service unavailable\n")
    assert cluster.request("DELETE", f"{SERVICES}/v1.{GROUP}").status == 200
    deadline = time.monotonic() + 30
    while (answer := cluster.request("GET", f"{ROOT}/namespaces/x/things")).status != 404:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert answer.body == b"404 page not found\n"


def test_own_apis_are_local(cluster: Cluster) -> None:
    found = {one["metadata"]["name"]: one for one in cluster.request("GET", SERVICES).json["items"]}
    shown = [(name, found[name]["spec"]["groupPriorityMinimum"], found[name]["spec"]["versionPriority"]) for name in ("v1.", "v1.apps")]
    assert shown == [("v1.", 18000, 1), ("v1.apps", 17800, 15)]
    assert found["v1.apps"]["metadata"]["labels"] == {"kube-aggregator.kubernetes.io/automanaged": "onstart"}
    assert found["v1.apps"]["status"]["conditions"][0]["message"] == "Local APIServices are always available"
