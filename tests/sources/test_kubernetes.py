"""Reading a cluster: what a server that is slow, strict or strange gets out of us. The same source on a real API server: tests/real/."""

from __future__ import annotations

import json
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from opslib.errors import Expired, Forbidden, NotFound, SourceError, Unauthenticated, Unreachable
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.objects import Pod, Workload

COLUMNS = [{"name": name} for name in ("Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates")]


def status(code: int, reason: str, message: str, **more: Any) -> bytes:
    return json.dumps({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message, **more}).encode()


def reply(server: Any, routes: dict[str, Any]) -> Kubernetes:
    """A cluster that answers each path with an object, a (status, body) pair or a function of the query."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        content = routes.get(parts.path, (404, status(404, "NotFound", "not found")))
        if callable(content):
            content = content({name: values[0] for name, values in parse_qs(parts.query).items()})
        code, body = content if isinstance(content, tuple) else (200, json.dumps(content).encode())
        server.says(code, body)(handler)

    server.answers = [answer]
    return Kubernetes(server.transport(deadline_seconds=2))


def row(name: str, ready: str = "1/1", text: str = "Running", restarts: str = "0") -> dict[str, Any]:
    return {"cells": [name, ready, text, restarts, "5d", "10.0.0.1", "node-1", "<none>", "<none>"]}


def table(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "Table", "columnDefinitions": COLUMNS, "rows": list(rows)}


def namespaces(*names: str) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": name}} for name in names]}


def pod(namespace: str, name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "managedFields": [{"manager": "x"}]}, "status": {"phase": "Running"}}


def test_only_what_is_not_well_is_read_in_full(server: Any) -> None:
    rows = [row("well"), row("done", "0/1", "Completed"), row("half", "1/2"), row("loop", "0/1", "CrashLoopBackOff", "12 (3m ago)")]
    cluster = reply(
        server,
        {
            "/api/v1/namespaces": namespaces("shop", "empty"),
            "/api/v1/namespaces/shop/pods": table(*rows),
            "/api/v1/namespaces/empty/pods": {**table(), "rows": None},
            "/api/v1/namespaces/shop/pods/half": pod("shop", "half"),
            "/api/v1/namespaces/shop/pods/loop": pod("shop", "loop"),
        },
    )
    pods = cluster.unhealthy_pods()
    assert [item.metadata.name for item in pods.pods] == ["half", "loop"]
    assert (pods.total, pods.vanished, pods.unread) == (4, 0, ())
    assert pods.by_status == {"Running": 2, "Completed": 1, "CrashLoopBackOff": 1}
    assert pods.status == {("shop", "half"): "Running", ("shop", "loop"): "CrashLoopBackOff"}
    lists = [path for _method, path, _headers in server.seen if "/pods?" in path]
    assert all("includeObject=None" in path and "resourceVersion=0" in path for path in lists)


@pytest.mark.parametrize(
    ("restarts", "unhealthy"),
    [
        ("0", False),
        ("3", False),
        ("3 (59m ago)", True),
        ("3 (5m12s ago)", True),
        ("3 (61m ago)", False),
        ("3 (2d4h ago)", False),
        (7, False),
    ],
)
def test_a_pod_that_restarted_lately_is_not_well(server: Any, restarts: Any, unhealthy: bool) -> None:
    routes = {"/api/v1/namespaces/shop/pods": table(row("web", restarts=restarts)), "/api/v1/namespaces/shop/pods/web": pod("shop", "web")}
    assert bool(reply(server, routes).unhealthy_pods("shop").pods) == bool(unhealthy)


def test_pods_that_vanish_between_two_reads_are_counted(server: Any) -> None:
    rows = [row("gone", "0/1", "Error"), row("there", "0/1", "Error")]
    routes = {"/api/v1/namespaces/shop/pods": table(*rows), "/api/v1/namespaces/shop/pods/there": pod("shop", "there")}
    pods = reply(server, routes).unhealthy_pods("shop")
    assert ([item.metadata.name for item in pods.pods], pods.vanished) == (["there"], 1)


def test_where_most_of_many_are_unwell_the_namespace_is_listed(server: Any) -> None:
    names = [f"web-{number:03}" for number in range(60)]

    def pods(query: dict[str, str]) -> dict[str, Any]:
        if "limit" not in query:
            return table(*(row(name, "0/1", "Pending") for name in names))
        start = int(query.get("continue", "0"))
        more = {"continue": str(start + 50)} if start == 0 else {}
        return {"metadata": more, "items": [pod("shop", name) for name in [*names, "other"][start : start + 50]]}

    found = reply(server, {"/api/v1/namespaces/shop/pods": pods}).unhealthy_pods("shop")
    assert [item.metadata.name for item in found.pods] == names
    assert len(server.seen) == 3


def test_a_namespace_that_may_not_be_read_is_named_and_the_others_are_read(server: Any) -> None:
    message = 'pods is forbidden: User "ops" cannot list resource "pods" in API group "" in the namespace "secret"'
    routes = {
        "/api/v1/namespaces": namespaces("shop", "secret"),
        "/api/v1/namespaces/shop/pods": table(row("bad", "0/1", "Error")),
        "/api/v1/namespaces/shop/pods/bad": pod("shop", "bad"),
        "/api/v1/namespaces/secret/pods": (403, status(403, "Forbidden", message)),
    }
    pods = reply(server, routes).unhealthy_pods()
    assert [item.metadata.name for item in pods.pods] == ["bad"]
    [(namespace, error)] = pods.unread
    assert namespace == "secret"
    assert isinstance(error, Forbidden)
    with pytest.raises(Forbidden):
        reply(server, routes).unhealthy_pods("secret")


def test_a_missing_permission_names_verb_resource_and_rule(server: Any) -> None:
    message = 'deployments.apps is forbidden: User "ops" cannot list resource "deployments" in API group "apps" in the namespace "shop"'
    cluster = reply(server, {"/apis/apps/v1/namespaces/shop/deployments": (403, status(403, "Forbidden", message))})
    with pytest.raises(Forbidden) as error:
        cluster.list(Workload, "deployments.apps", "shop")
    text = error.value.message().text("en")
    assert "ops may not list deployments.apps in shop" in text
    assert '{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}' in text
    assert error.value.command == "kubectl -n shop create role opslib-list-deployments --verb=list --resource=deployments.apps"


def test_a_server_that_says_nothing_is_not_asked_for_every_namespace(server: Any) -> None:
    done = threading.Event()
    answered = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if urlsplit(handler.path).path == "/api/v1/namespaces" and not answered.is_set():
            answered.set()
            server.says(200, json.dumps(namespaces(*(f"ns-{number}" for number in range(200)))).encode())(handler)
        else:
            done.wait(30)

    server.answers = [answer]
    with pytest.raises(Unreachable):
        Kubernetes(server.transport(deadline_seconds=0.5)).unhealthy_pods()
    done.set()
    assert len(server.seen) < 50


def test_401_says_to_log_in(server: Any) -> None:
    cluster = reply(server, {"/version": (401, status(401, "Unauthorized", "Unauthorized"))})
    with pytest.raises(Unauthenticated, match="log in"):
        cluster.version()


def test_a_continue_token_that_expired_goes_on_with_the_fresh_one(server: Any) -> None:
    def pages(query: dict[str, str]) -> Any:
        token = query.get("continue")
        if token == "old":
            return 410, status(410, "Expired", "too old", metadata={"continue": "fresh"})
        names = ["b"] if token == "fresh" else ["a"]
        return {"metadata": {} if token else {"continue": "old"}, "items": [pod("shop", name) for name in names]}

    cluster = reply(server, {"/api/v1/pods": pages})
    assert [item.metadata.name for item in cluster.list(Pod, "pods")] == ["a", "b"]


def test_an_expired_list_without_a_fresh_token_is_an_error(server: Any) -> None:
    with pytest.raises(Expired):
        reply(server, {"/api/v1/pods": (410, status(410, "Expired", "too old"))}).list(Pod, "pods")


def test_nulls_and_unknown_fields_are_taken(server: Any) -> None:
    strange = {
        "metadata": {"name": "x", "labels": None, "futureField": {"a": [1]}},
        "spec": {"containers": None, "futureField": 1},
        "status": {"containerStatuses": None, "conditions": [{"type": "Ready", "lastProbeTime": None}]},
    }
    item = reply(server, {"/api/v1/namespaces/shop/pods/x": strange}).get(Pod, "pods", "x", "shop")
    assert (item.metadata.labels, item.spec.containers, item.status.conditions[0].type) == ({}, [], "Ready")


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b'{"items": 7}', b"", b"\xff\xfe"])
def test_what_is_no_kubernetes_answer_is_an_error_in_words(server: Any, body: bytes) -> None:
    with pytest.raises(SourceError, match="Kubernetes API server"):
        reply(server, {"/api/v1/pods": (200, body)}).list(Pod, "pods")


def test_names_cannot_leave_their_place_in_the_path(server: Any) -> None:
    with pytest.raises(NotFound):
        reply(server, {}).get(Pod, "pods", "../../secrets?x=", "a/b")
    assert server.seen[0][1] == "/api/v1/namespaces/a%2Fb/pods/..%2F..%2Fsecrets%3Fx%3D"


def test_logs_are_bounded_and_need_not_be_text(server: Any) -> None:
    body = b"\xff\xfe\x00binary\n" * 1000
    cluster = reply(server, {"/api/v1/namespaces/shop/pods/x/log": (200, body)})
    text = cluster.logs("shop", "x", "app", previous=True, tail_lines=5, limit_bytes=500)
    assert len(text) == 500
    query = parse_qs(urlsplit(server.seen[0][1]).query)
    assert query == {"container": ["app"], "tailLines": ["5"], "limitBytes": ["500"], "previous": ["true"]}


def test_of_a_log_of_a_gigabyte_little_is_kept_and_little_more_is_read(server: Any) -> None:
    """Even where the server does not heed the limit that it is asked for."""
    sent: list[int] = []
    line = b"2026-04-10T12:00:00Z ERROR payment failed\n" * 1600

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(1 << 30))
        handler.end_headers()
        for _chunk in range((1 << 30) // len(line)):
            handler.wfile.write(line)
            sent.append(len(line))

    server.answers = [endless]
    tracemalloc.start()
    text = Kubernetes(server.transport(deadline_seconds=60)).logs("shop", "x", "app", limit_bytes=1_000_000)
    _now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(text) == 1_000_000
    assert sum(sent) < 32_000_000, "what the sockets between hold, no more"
    assert most < 8_000_000


def test_no_previous_log_is_not_found(server: Any) -> None:
    message = 'previous terminated container "app" in pod "x" not found'
    cluster = reply(server, {"/api/v1/namespaces/shop/pods/x/log": (400, status(400, "BadRequest", message))})
    with pytest.raises(NotFound, match="previous terminated"):
        cluster.logs("shop", "x", "app", previous=True)


def test_the_version_of_a_custom_group_is_asked_for_once(server: Any) -> None:
    cluster = reply(
        server,
        {
            "/apis/monitoring.coreos.com": {"preferredVersion": {"version": "v1"}},
            "/apis/monitoring.coreos.com/v1/prometheusrules": {"items": [{"metadata": {"name": "rules"}}]},
        },
    )
    for _time in range(2):
        assert [item.metadata.name for item in cluster.metadata_list("prometheusrules.monitoring.coreos.com")] == ["rules"]
    assert [path.partition("?")[0] for _method, path, _headers in server.seen].count("/apis/monitoring.coreos.com") == 1
