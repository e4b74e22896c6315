"""Reading chapter 4.1's facts from an API server at the socket: what is asked for, what is kept, and what happens when a part fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

from opslib import environments
from opslib.chapters import pods
from opslib.facts import Questions
from opslib.facts import pods as reader
from opslib.facts.sources import Sources
from opslib.findings import Severity
from opslib.messages import text_of

COLUMNS = ("Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates")
SECRET = "hunter2-very-secret"
Refuses = Callable[[str], tuple[int, str] | None]


class Cluster:
    """A small cluster: three pods of one Deployment that crash, one that is well, one that is gone when it is read."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.accepted: dict[str, str] = {}
        self.refuses: Refuses = lambda path: None
        self.ahead = timedelta()
        self.changed: dict[str, Any] = {}
        self.logs = f"starting\nDB_PASSWORD={SECRET}\ncannot connect\n".encode()
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                cluster.asked.append(unquote(self.path))
                cluster.accepted[urlsplit(self.path).path] = self.headers.get("accept", "")
                parts = urlsplit(self.path)
                status, content = cluster.answer(parts.path, {key: value[0] for key, value in parse_qs(parts.query).items()})
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return format_datetime(datetime.now(UTC) + cluster.ahead, usegmt=True)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        refused = self.refuses(path)
        if refused:
            status, message = refused
            return status, {"kind": "Status", "code": status, "reason": "Forbidden" if status == 403 else "", "message": message}
        if path.endswith("/log"):
            return 200, self.logs
        found = self.objects(path, query)
        if found is None:
            return 404, {"kind": "Status", "code": 404, "reason": "NotFound", "message": f"{path} not found"}
        return 200, found

    def objects(self, path: str, query: dict[str, str]) -> Any:
        fixed: dict[str, Any] = {
            "/api/v1/namespaces": {"items": [{"metadata": {"name": "shop"}}]},
            "/api/v1/namespaces/shop/pods": table(
                ["web-1", "0/1"], ["web-2", "0/1"], ["web-3", "0/1"], ["gone", "0/1"], well=["well", "1/1"]
            ),
            "/api/v1/nodes": table([], well=["node-1", ""]),
            "/api/v1/nodes/node-1": {"metadata": {"name": "node-1"}},
            "/apis/apps/v1/deployments": {"items": [DEPLOYMENT]},
            "/apis/apps/v1/namespaces/shop/replicasets": {"items": [replica_set(1), replica_set(2)]},
            "/api/v1/namespaces/shop/configmaps/settings": {"kind": "PartialObjectMetadata", "metadata": {"name": "settings"}},
        }
        for number in (1, 2, 3):
            fixed[f"/api/v1/namespaces/shop/pods/web-{number}"] = pod(f"web-{number}")
        if path.endswith("/events"):
            uid = query.get("fieldSelector", "").partition("involvedObject.uid=")[2]
            return {"items": [event(uid)] if uid else []}
        lists = (
            "statefulsets",
            "daemonsets",
            "jobs",
            "services",
            "endpointslices",
            "ingresses",
            "ingressclasses",
            "horizontalpodautoscalers",
        )
        if path.endswith((*lists, "resourcequotas", "storageclasses")):
            return {"items": []}
        return self.changed.get(path, fixed.get(path))


def table(*rows: list[str], well: list[str]) -> dict[str, Any]:
    cells = [[*row, "CrashLoopBackOff", "4 (1m ago)", "5m", "", "", "", "<none>"] for row in rows if row]
    cells.append([*well, "Running", "0", "5d", "", "", "", "<none>"])
    return {"kind": "Table", "columnDefinitions": [{"name": name} for name in COLUMNS], "rows": [{"cells": row} for row in cells]}


DEPLOYMENT = {
    "metadata": {"name": "web", "namespace": "shop", "uid": "d"},
    "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}}},
    "status": {"readyReplicas": 1},
}


def replica_set(revision: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"web-{revision}",
            "namespace": "shop",
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "creationTimestamp": "2026-03-01T10:00:00Z",
            "ownerReferences": [{"kind": "Deployment", "name": "web", "controller": True}],
        },
        "spec": {"template": {"spec": {"containers": [{"name": "app", "image": f"shop/web:{revision}"}]}}},
    }


def pod(name: str) -> dict[str, Any]:
    ended = {"exitCode": 1, "reason": "Error", "message": f"token: {SECRET}", "finishedAt": "2026-03-01T10:05:00Z"}
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "creationTimestamp": "2026-03-01T10:00:00Z",
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-2", "controller": True}],
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [
                {
                    "name": "app",
                    "image": "shop/web:2",
                    "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "credentials"}}],
                }
            ],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [
                {"name": "app", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}
            ],
        },
    }


def event(uid: str) -> dict[str, Any]:
    about = {"kind": "Pod", "name": uid.removeprefix("uid-"), "namespace": "shop", "uid": uid}
    return {
        "metadata": {"name": f"e-{uid}", "namespace": "shop"},
        "involvedObject": about,
        "reason": "BackOff",
        "message": f"password={SECRET}",
        "type": "Warning",
    }


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    thread = threading.Thread(target=cluster.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield cluster
    cluster.http.shutdown()
    cluster.http.server_close()
    thread.join()


@pytest.fixture
def read(cluster: Cluster, tmp_path: Path) -> Callable[..., pods.Facts]:
    """Read the facts of that cluster."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config), "utf-8")
    settings = {"name": "test", "kubernetes": {"kubeconfig": "kubeconfig", "context": "test", "deadline_seconds": 3}}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(settings), "utf-8")

    def run(**parameters: Any) -> pods.Facts:
        with ThreadPoolExecutor(8) as executor:
            return reader.read(Sources(environments.load(str(tmp_path / "test.yaml"))), pods.Parameters(**parameters), Questions(executor))

    return run


def test_the_unhealthy_pods_and_what_stands_around_them(read: Callable[..., pods.Facts]) -> None:
    facts = read()
    assert [item.metadata.name for item in facts.pods or ()] == ["web-1", "web-2", "web-3"]
    assert facts.total == 5
    assert facts.gaps == ()
    assert facts.kubectl[-2:] == ("--context", "test")
    assert ("ConfigMap", "shop", "settings") in facts.found
    assert facts.missing == {("Secret", "shop", "credentials")}
    (finding,) = pods.findings(facts, pods.Parameters())
    assert (finding.check, str(finding.subject), finding.severity) == ("container.crash_loop", "shop/Deployment/web", Severity.WARNING)
    assert len(finding.affected) == 3
    assert {item.metadata.name for item in (facts.workloads["ReplicaSet"] or {}).values()} == {"web-1", "web-2"}


def test_no_secret_becomes_a_fact(read: Callable[..., pods.Facts]) -> None:
    facts = read()
    assert facts.logs
    assert SECRET not in repr(facts)
    assert "cannot connect" in repr(facts.logs)


def test_the_content_of_secrets_is_never_asked_for(cluster: Cluster, read: Callable[..., pods.Facts]) -> None:
    read()
    asked = {path: accept for path, accept in cluster.accepted.items() if "/secrets" in path}
    assert list(asked) == ["/api/v1/namespaces/shop/secrets/credentials"]
    assert all("as=PartialObjectMetadata" in accept for accept in asked.values())


def test_few_of_many_are_looked_at_closely(cluster: Cluster, read: Callable[..., pods.Facts]) -> None:
    names = [f"web-{number}" for number in range(1, 31)]
    objects = cluster.objects

    def many(path: str, query: dict[str, str]) -> Any:
        if path == "/api/v1/namespaces/shop/pods":
            return table(*[[name, "0/1"] for name in names], well=["well", "1/1"])
        name = path.rpartition("/")[2]
        return pod(name) if path.startswith("/api/v1/namespaces/shop/pods/") and name in names else objects(path, query)

    cluster.objects = many  # type: ignore[method-assign]
    facts = read()
    assert len(facts.pods or ()) == 30
    assert len(facts.logs) == 3
    assert len([path for path in cluster.asked if "involvedObject.uid" in path]) == 3
    (finding,) = pods.findings(facts, pods.Parameters())
    assert len(finding.affected) == 30
    assert any("cannot connect" in item.quote for item in finding.evidence)


def refuse(part: str) -> Refuses:
    return lambda path: (403, "no, you may not") if part in path else None


@pytest.mark.parametrize(
    ("part", "resource"),
    [
        ("/secrets/", "secrets"),
        ("/log", "pods/log"),
        ("/events", "events"),
        ("replicasets", "replicasets"),
        ("services", "services"),
        ("/nodes", "nodes"),
    ],
)
def test_what_may_not_be_read_is_a_gap_and_the_rest_works(
    cluster: Cluster, read: Callable[..., pods.Facts], part: str, resource: str
) -> None:
    cluster.refuses = refuse(part)
    facts = read()
    findings = pods.findings(facts, pods.Parameters())
    gaps = [item for item in findings if item.check == "gap.kubernetes"]
    assert gaps
    assert resource.partition("/")[0] in str([(item.cause, item.steps) for item in gaps])
    (finding,) = [item for item in findings if item.check.startswith("container.")]
    assert (finding.check, str(finding.subject)) == ("container.crash_loop", "shop/Deployment/web") or part == "replicasets"
    assert not any(item.check.startswith("config.") for item in findings)  # not known is not missing


def test_no_lines_asked_for_none_read(cluster: Cluster, read: Callable[..., pods.Facts]) -> None:
    assert read(log_lines=0).logs == {}
    assert not any("/log" in path for path in cluster.asked)


def test_a_log_of_any_bytes(cluster: Cluster, read: Callable[..., pods.Facts]) -> None:
    cluster.logs = bytes(range(256)) * 8 + b"\n" + b"x" * 2_000_000
    facts = read()
    assert all(len(log.current or "") <= reader.LOG_BYTES for log in facts.logs.values())
    assert pods.findings(facts, pods.Parameters())


@pytest.mark.parametrize("hours", [-3, 0, 3])
def test_times_in_the_cluster_are_compared_with_its_own_clock(cluster: Cluster, read: Callable[..., pods.Facts], hours: int) -> None:
    """Whatever this machine's clock says, a pod that is new by the cluster's is still starting."""
    cluster.ahead = timedelta(hours=hours)
    there = datetime.now(UTC) + cluster.ahead
    young = {"metadata": {"creationTimestamp": (there - timedelta(seconds=5)).isoformat()}, "status": {"phase": "Pending"}}
    for number in (1, 2, 3):
        cluster.changed[f"/api/v1/namespaces/shop/pods/web-{number}"] = {
            **pod(f"web-{number}"), "status": young["status"], "metadata": {**pod(f"web-{number}")["metadata"], **young["metadata"]}
        }  # fmt: skip
    facts = read(grace_seconds=60)
    assert abs(facts.now - there) < timedelta(seconds=30)
    assert pods.findings(facts, pods.Parameters(grace_seconds=60)) == []
    assert pods.findings(read(grace_seconds=0), pods.Parameters(grace_seconds=0))


def test_when_pods_may_not_be_read_that_is_what_is_told(cluster: Cluster, read: Callable[..., pods.Facts]) -> None:
    cluster.refuses = refuse("/pods")
    facts = read(namespace="shop")
    assert facts.pods is None
    gaps = [item for item in pods.findings(facts, pods.Parameters()) if item.severity is Severity.UNKNOWN]
    assert any("pods in shop" in text_of(item.title, "en") for item in gaps)
