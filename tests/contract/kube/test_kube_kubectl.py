"""The real kubectl does not notice which engine it talks to: its output, word for word."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_engines import Cluster, normal_text

from opslib.lab import certificates

pytestmark = pytest.mark.usefixtures("kubectl")
Agrees = Callable[[str, Any], None]
SESSIONS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "sessions.yaml").read_text("utf-8"))


@pytest.mark.parametrize("name", SESSIONS)
def test_session(cluster: Cluster, namespace: str, agrees: Agrees, name: str, tmp_path: Path) -> None:
    """Commands one after the other; exit status and both outputs of each are compared."""
    session = SESSIONS[name]
    for file, content in (session.get("files") or {}).items():
        (tmp_path / file).write_text(content.replace("NAMESPACE", namespace), "utf-8")
    results = []
    for line in session["commands"]:
        words = [word.replace("NAMESPACE", namespace) for word in (line if isinstance(line, list) else line.split())]
        code, output, error = cluster.kubectl("-n", namespace, *words, folder=tmp_path)
        lines = [one for one in normal_text(error).splitlines() if "memcache.go" not in one]
        results.append(
            {
                "command": " ".join(words).replace(namespace, "NAMESPACE"),
                "code": code,
                "out": normal_text(output).splitlines(),
                "err": lines,
            }
        )
    for line in session.get("after") or []:
        cluster.kubectl(*line.split(), folder=tmp_path)
    agrees(f"sessions/{name}", results)


class _Kubelet(http.server.BaseHTTPRequestHandler):
    """Serves logs as a kubelet does."""

    def do_GET(self) -> None:
        if "previous=true" in self.path:
            body, status = b'previous terminated container "c" in pod "p" not found', 400
        else:
            body, status = f"{self.path.partition('containerLogs')[2]}\nline\n".encode(), 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[int]:
    """A kubelet's port."""
    certificate, key = certificates.issue(certificates.authority("kubelet"), "kubelet", hosts=["127.0.0.1"]).write(tmp_path, "kubelet")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Kubelet)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join(5)


def test_logs(cluster: Cluster, namespace: str, agrees: Agrees, kubelet: int) -> None:
    """Logs come from the node's kubelet, with what was asked for; its refusals are passed on."""
    node = f"logs-{namespace}"
    status = {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet}}}
    assert cluster.request("POST", "/api/v1/nodes", {"metadata": {"name": node}, "status": status}).status == 201
    spec = {
        "nodeName": node,
        "containers": [{"name": "c", "image": "x"}, {"name": "d", "image": "x"}],
        "initContainers": [{"name": "i", "image": "x"}],
    }
    path = f"/api/v1/namespaces/{namespace}/pods"
    assert cluster.request("POST", path, {"metadata": {"name": "p"}, "spec": spec}).status == 201
    results = []
    for words in (
        ["p"], ["p", "-c", "c"], ["p", "-c", "i", "--tail=5", "--since=10s", "--timestamps"], ["p", "-c", "c", "-p"], ["p", "-c", "nope"], ["p", "-c", "c", "--limit-bytes=7"], ["nope"],
    ):  # fmt: skip
        code, output, error = cluster.kubectl("-n", namespace, "logs", *words)
        results.append([words, code, normal_text(output), normal_text(error)])
    for query in (
        {},
        {"container": "c", "tailLines": "-1"},
        {"container": "c", "sinceSeconds": "0"},
        {"container": "c", "limitBytes": "x"},
    ):
        answer = cluster.request("GET", f"{path}/p/log", **query)
        results.append([query, answer.status, normal_text(answer.body.decode())])
    cluster.request("DELETE", f"/api/v1/nodes/{node}")
    gone = cluster.request("GET", f"{path}/p/log", container="c").json
    results.append([gone["code"], gone["message"].replace(node, "NODE")])
    agrees("sessions/logs", json.loads(json.dumps(results).replace(namespace, "NAMESPACE")))
