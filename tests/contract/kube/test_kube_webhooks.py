"""Admission webhooks: who is asked about what, and what comes of each answer; the same on both engines."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import base64
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from kube_engines import Answer, Cluster

from opslib.lab import certificates
from tests.ports import free_port
from tests.waiting import until

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1"
MERGE = "application/merge-patch+json"
RULE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE", "DELETE"], "resources": ["configmaps"]}
Respond = Callable[[dict[str, Any]], Any]


class Hooks:
    """A server of webhooks: what each path responds, and what it was asked."""

    def __init__(self, port: int, bundle: str) -> None:
        self.port, self.bundle = port, bundle
        self.responds: dict[str, Respond] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.queries: list[str] = []
        self.over = threading.Event()

    def of(self, path: str) -> list[dict[str, Any]]:
        """The requests that came to a path."""
        return [request for at, request in self.asked if at == path]


def allowed(**more: Any) -> Respond:
    return lambda request: {"uid": request["uid"], "allowed": True, **more}


def denied(**status: Any) -> Respond:
    return lambda request: {"uid": request["uid"], "allowed": False, **({"status": status} if status else {})}


def patches(*operations: dict[str, Any]) -> Respond:
    patch = base64.b64encode(json.dumps(operations).encode()).decode()
    return allowed(patch=patch, patchType="JSONPatch")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hooks]:
    folder = tmp_path_factory.mktemp("hooks")
    authority = certificates.authority("hooks-ca")
    pair = certificates.issue(authority, "policy", hosts=["127.0.0.1", "localhost", "policy.contract.svc"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair.write(folder, "hooks"))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["content-length"])))
            path, _mark, query = self.path.partition("?")
            hooks.queries.append(query)
            hooks.asked.append((path, review["request"]))
            response = hooks.responds[path](review["request"])
            if not isinstance(response, tuple):
                response = 200, {**review, "request": None, "response": response}
            status, body, *kind = response
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", kind[0] if kind else "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    hooks = Hooks(listening.server_address[1], base64.b64encode(authority.certificate.encode()).decode())
    listening.socket = context.wrap_socket(listening.socket, server_side=True)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield hooks
    hooks.over.set()
    listening.shutdown()


class Place:
    """A cluster with a server of webhooks, and a namespace in which they are asked."""

    def __init__(self, cluster: Cluster, namespace: str, hooks: Hooks) -> None:
        self.cluster, self.namespace, self.hooks = cluster, namespace, hooks
        self.made: list[str] = []

    def hook(self, name: str, respond: Respond | None = None, **more: Any) -> dict[str, Any]:
        """A webhook ``<name>.example.com`` of this namespace, at the path of its name."""
        if respond is not None:
            self.hooks.responds[f"/{name}"] = respond
        client = {"url": f"https://127.0.0.1:{self.hooks.port}/{name}", "caBundle": self.hooks.bundle}
        return {
            "name": f"{name}.example.com", "clientConfig": client, "rules": [RULE], "sideEffects": "None",
            "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}, **more,
        }  # fmt: skip

    def configure(self, kind: str, *hooks: dict[str, Any], heeded: Callable[[Answer], object] | None = None) -> None:
        """Make a configuration, and wait until it is heeded: all its webhooks have been asked about something."""
        path = f"{CONFIGURATIONS}/{kind}webhookconfigurations"
        body = {"metadata": {"name": f"{self.namespace}-{kind}"}, "webhooks": [*hooks]}
        answer = self.cluster.request("POST", path, body)
        assert answer.status == 201, answer.json
        self.made.append(f"{path}/{self.namespace}-{kind}")
        paths = {f"/{hook['name'].partition('.')[0]}" for hook in hooks}
        met: set[str] = set()

        def is_heeded() -> bool:
            before = len(self.hooks.asked)
            trial = self.create("trial", dryRun="All")
            met.update(at for at, _request in self.hooks.asked[before:])
            return bool(heeded(trial)) if heeded is not None else paths <= met

        until(is_heeded, "the webhooks are heeded", seconds=30)
        self.hooks.asked.clear()
        self.hooks.queries.clear()

    def path(self, name: str = "", resource: str = "configmaps") -> str:
        return f"/api/v1/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def create(self, name: str, labels: dict[str, str] | None = None, **query: Any) -> Answer:
        body = {"metadata": {"name": name, "labels": labels or {}}, "data": {"a": "b"}}
        return self.cluster.request("POST", self.path(), body, **query)


@pytest.fixture
def place(cluster: Cluster, namespace: str, server: Hooks) -> Iterator[Place]:
    found = Place(cluster, namespace, server)
    yield found
    for path in found.made:
        assert cluster.request("DELETE", path).status == 200
    until(lambda: found.create("after", dryRun="All").status in (201, 403, 404), "no webhook is in the way of other tests")


# --- what is asked ------------------------------------------------------------------------------------------------------------------------


def test_the_review_says_who_does_what_to_what(place: Place) -> None:
    place.configure("validating", place.hook("watching", allowed()))
    assert place.create("one", {"x": "1"}, fieldManager="somebody").status == 201
    assert place.cluster.request("PATCH", place.path("one"), {"data": {"a": "c"}}, content_type=MERGE).status == 200
    assert place.cluster.request("DELETE", place.path("one"), {"gracePeriodSeconds": 0}).status == 200
    created, changed, gone = place.hooks.of("/watching")
    user = created.pop("userInfo")
    assert (user["username"], set(user["groups"])) == ("admin", {"system:masters", "system:authenticated"})
    obj = created.pop("object")
    assert obj["metadata"]["uid"] and obj["metadata"]["creationTimestamp"] and (obj["kind"], obj["apiVersion"]) == ("ConfigMap", "v1")
    assert [one["manager"] for one in obj["metadata"]["managedFields"]] == ["somebody"]
    assert created.pop("uid")
    kind, resource = {"group": "", "version": "v1", "kind": "ConfigMap"}, {"group": "", "version": "v1", "resource": "configmaps"}
    assert created == {
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "name": "one",
        "namespace": place.namespace,
        "operation": "CREATE",
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "somebody"},
    }
    assert (changed["operation"], changed["oldObject"]["data"], changed["object"]["data"]) == ("UPDATE", {"a": "b"}, {"a": "c"})
    assert (gone["operation"], gone["object"], gone["oldObject"]["data"]) == ("DELETE", None, {"a": "c"})
    assert (gone["options"]["kind"], gone["options"]["gracePeriodSeconds"]) == ("DeleteOptions", 0)
    assert set(place.hooks.queries) == {"timeout=10s"}


def test_dry_runs_are_said_to_be_so(place: Place) -> None:
    place.configure("validating", place.hook("dry", allowed()))
    assert place.create("one", dryRun="All").status == 201
    [request] = place.hooks.of("/dry")
    assert request["dryRun"] is True and request["options"]["dryRun"] == ["All"]


def test_mutating_webhooks_see_no_name_that_is_not_made_yet(place: Place) -> None:
    place.configure("mutating", place.hook("early", allowed()))
    place.configure("validating", place.hook("late", allowed()))
    answer = place.cluster.request("POST", place.path(), {"metadata": {"generateName": "made-"}})
    assert answer.status == 201
    [early], [late] = place.hooks.of("/early"), place.hooks.of("/late")
    assert "name" not in early and not early["object"]["metadata"].get("name") and "uid" not in early["object"]["metadata"]
    assert late["name"] == late["object"]["metadata"]["name"] == answer.json["metadata"]["name"]


def test_subresources_are_asked_about_by_their_own_names(place: Place) -> None:
    rule = {"apiGroups": ["", "apps"], "apiVersions": ["*"], "operations": ["*"]}
    rules = [RULE, {**rule, "resources": ["pods/eviction", "deployments/scale", "pods/status", "pods/binding"]}]
    place.configure("validating", place.hook("parts", allowed(), rules=rules))
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}
    deployment = {"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}}
    base = f"/apis/apps/v1/namespaces/{place.namespace}/deployments"
    assert place.cluster.request("POST", base, deployment).status == 201
    assert place.cluster.request("PATCH", f"{base}/d/scale", {"spec": {"replicas": 4}}, content_type=MERGE).status == 200
    pods = place.path("", "pods")
    assert place.cluster.request("POST", pods, {"metadata": {"name": "p"}, "spec": template["spec"]}).status == 201
    binding = {"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "somewhere"}}
    assert place.cluster.request("POST", f"{pods}/p/binding", binding).status == 201
    assert place.cluster.request("PATCH", f"{pods}/p/status", {"status": {"phase": "Running"}}, content_type=MERGE).status == 200
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}}
    assert place.cluster.request("POST", f"{pods}/p/eviction", eviction).status == 201
    asked = [(one["operation"], one["resource"]["resource"], one["subResource"], one["kind"]["kind"]) for one in place.hooks.of("/parts")]
    assert asked == [
        ("UPDATE", "deployments", "scale", "Scale"),
        ("CREATE", "pods", "binding", "Binding"),
        ("UPDATE", "pods", "status", "Pod"),
        ("CREATE", "pods", "eviction", "Eviction"),
    ]
    assert [place.hooks.of("/parts")[0][one]["spec"]["replicas"] for one in ("oldObject", "object")] == [1, 4]


def test_a_webhook_may_refuse_a_scale_and_a_deletion(place: Place) -> None:
    place.configure("validating", place.hook("kept", lambda request: {"uid": request["uid"], "allowed": request["operation"] != "DELETE"}))
    assert place.create("one").status == 201
    answer = place.cluster.request("DELETE", place.path("one"))
    assert (answer.status, answer.json["message"]) == (400, 'admission webhook "kept.example.com" denied the request without explanation')
    assert place.cluster.request("GET", place.path("one")).status == 200


# --- who is asked -------------------------------------------------------------------------------------------------------------------------


def test_rules_and_selectors_choose(place: Place) -> None:
    elsewhere = {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}
    place.configure(
        "validating",
        place.hook("all", allowed()),
        place.hook("labelled", allowed(), objectSelector={"matchExpressions": [{"key": "team", "operator": "In", "values": ["a"]}]}),
        place.hook("elsewhere", allowed(), namespaceSelector=elsewhere),
        place.hook("clusterwide", allowed(), rules=[{**RULE, "scope": "Cluster"}]),
        place.hook("namespaced", allowed(), rules=[{**RULE, "scope": "Namespaced", "operations": ["*"], "resources": ["*"]}]),
        place.hook("other", allowed(), rules=[{**RULE, "resources": ["secrets", "configmaps/status"]}]),
        place.hook("updates", allowed(), rules=[{**RULE, "operations": ["UPDATE"]}]),
        heeded=lambda trial: {"/all", "/namespaced"} <= {at for at, _request in place.hooks.asked},
    )
    assert place.create("one", {"team": "b"}).status == 201
    assert sorted(at for at, _request in place.hooks.asked) == ["/all", "/namespaced"]
    place.hooks.asked.clear()
    change = {"metadata": {"labels": {"team": "a"}}}
    assert place.cluster.request("PATCH", place.path("one"), change, content_type=MERGE).status == 200
    assert sorted(at for at, _request in place.hooks.asked) == ["/all", "/labelled", "/namespaced", "/updates"]
    place.hooks.asked.clear()
    change = {"metadata": {"labels": {"team": "b"}}}  # what it was is selected, too
    assert place.cluster.request("PATCH", place.path("one"), change, content_type=MERGE).status == 200
    assert "/labelled" in [at for at, _request in place.hooks.asked]


def test_another_version_of_the_same_objects_counts_where_it_is_to(place: Place) -> None:
    group = f"{place.namespace}.example.org"
    versions = [
        {
            "name": name, "served": True, "storage": name == "v1",
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        }
        for name in ("v1", "v2")
    ]  # fmt: skip
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    definition = {
        "metadata": {"name": f"things.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": versions},
    }
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert place.cluster.request("POST", definitions, definition).status == 201
    try:
        rules = [RULE, {**RULE, "apiGroups": [group], "apiVersions": ["v1"], "resources": ["things"]}]
        place.configure(
            "validating",
            place.hook("equivalent", allowed(), rules=rules, matchPolicy="Equivalent"),
            place.hook("exact", allowed(), rules=rules, matchPolicy="Exact"),
        )
        thing = {"apiVersion": f"{group}/v2", "kind": "Thing", "metadata": {"name": "t"}}
        path = f"/apis/{group}/v2/namespaces/{place.namespace}/things"
        until(lambda: place.cluster.request("POST", path, thing, dryRun="All").status == 201, "the definition is served", seconds=30)
        place.hooks.asked.clear()
        assert place.cluster.request("POST", path, thing).status == 201
        [(at, request)] = place.hooks.asked
        assert (at, request["kind"]["version"], request["requestKind"]["version"]) == ("/equivalent", "v1", "v2")
        assert request["object"]["apiVersion"] == f"{group}/v1"
    finally:
        place.cluster.request("DELETE", f"{definitions}/things.{group}")


# --- what is answered ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "reason", "message"),
    [
        ({}, 400, None, " without explanation"),
        ({"message": "no latest tags"}, 400, None, ": no latest tags"),
        ({"code": 403, "reason": "Forbidden", "message": "no latest tags"}, 403, "Forbidden", ": no latest tags"),
        ({"code": 200, "reason": "Because", "status": "Success"}, 400, "Because", ": Because"),
        ({"code": 422, "message": "look", "details": {"name": "n", "causes": [{"field": "spec.x"}]}}, 422, None, ": look"),
    ],
)
@pytest.mark.parametrize("kind", ["validating", "mutating"])
def test_a_denial_is_told_in_the_webhooks_words(
    place: Place, kind: str, status: dict[str, Any], code: int, reason: str | None, message: str
) -> None:
    place.configure(kind, place.hook("strict", denied(**status)))
    answer = place.create("one")
    body = answer.json
    assert (answer.status, body["code"], body.get("reason"), body["status"]) == (code, code, reason, "Failure")
    assert body["message"] == f'admission webhook "strict.example.com" denied the request{message}'
    assert body.get("details") == status.get("details")
    assert place.cluster.request("GET", place.path("one")).status == 404


def test_warnings_go_to_who_asks(place: Place) -> None:
    place.configure("validating", place.hook("warns", allowed(warnings=["this is old", "and this"])))
    answer = place.create("one")
    assert answer.status == 201 and answer.headers["warning"] == '299 - "this is old"\n299 - "and this"'


def test_a_patch_is_applied_and_is_nobodys(place: Place) -> None:
    label = {"op": "add", "path": "/metadata/labels", "value": {"added": "yes"}}
    place.configure("mutating", place.hook("adds", patches(label, {"op": "add", "path": "/data/c", "value": "d"})))
    created = place.create("one", fieldManager="somebody").json
    assert (created["metadata"]["labels"], created["data"]) == ({"added": "yes"}, {"a": "b", "c": "d"})
    [entry] = created["metadata"]["managedFields"]
    assert "f:c" not in json.dumps(entry) and entry["manager"] == "somebody"
    place.hooks.responds["/adds"] = patches({"op": "add", "path": "/data/e", "value": "f"})
    changed = place.cluster.request("PATCH", place.path("one"), {"data": {"a": "2"}}, content_type=MERGE, fieldManager="other").json
    assert changed["data"] == {"a": "2", "c": "d", "e": "f"}
    assert "f:e" not in json.dumps(changed["metadata"]["managedFields"])


def test_a_container_that_a_webhook_adds_is_completed(place: Place) -> None:
    added = {"op": "add", "path": "/spec/containers/-", "value": {"name": "side", "image": "y"}}
    respond: Respond = lambda request: (patches(added) if request["kind"]["kind"] == "Pod" else allowed())(request)  # noqa: E731
    rules = [RULE, {**RULE, "resources": ["pods"]}]
    place.configure("mutating", place.hook("injects", respond, rules=rules))
    pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}
    answer = place.cluster.request("POST", place.path("", "pods"), pod)
    assert answer.status == 201, answer.json
    [_first, side] = answer.json["spec"]["containers"]
    assert side["imagePullPolicy"] == "Always" and side["terminationMessagePolicy"] == "File"
    assert [one["mountPath"] for one in side["volumeMounts"]] == ["/var/run/secrets/kubernetes.io/serviceaccount"]


def test_mutating_webhooks_are_asked_in_order_and_again_at_most_once(place: Place) -> None:
    def appends(word: str) -> Respond:
        def respond(request: dict[str, Any]) -> Any:
            text = request["object"]["data"].get("order", "") + word
            return patches({"op": "add", "path": "/data/order", "value": text})(request)

        return respond

    place.configure(
        "mutating",
        place.hook("first", appends("1"), reinvocationPolicy="IfNeeded"),
        place.hook("second", appends("2"), reinvocationPolicy="Never"),
        place.hook("third", appends("3"), reinvocationPolicy="IfNeeded"),
    )
    assert place.create("one").json["data"]["order"] == "12313"
    assert [at for at, _request in place.hooks.asked] == ["/first", "/second", "/third", "/first", "/third"]


def test_one_that_changes_nothing_calls_nobody_again(place: Place) -> None:
    place.configure("mutating", place.hook("quiet", allowed(), reinvocationPolicy="IfNeeded"), place.hook("silent", allowed()))
    assert place.create("one").status == 201
    assert [at for at, _request in place.hooks.asked] == ["/quiet", "/silent"]


# --- what goes wrong ----------------------------------------------------------------------------------------------------------------------


def failing(place: Place, hook: dict[str, Any], kind: str = "validating") -> str:
    """What is said where a webhook must be asked; where it need not be, all goes on."""
    place.configure(kind, hook, heeded=lambda trial: trial.status == 500)
    answer = place.create("one")
    assert (answer.status, answer.json["reason"]) == (500, "InternalError"), answer.json
    assert answer.json["details"]["causes"][0]["message"] in answer.json["message"]
    path = place.made[-1]
    change = [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]
    assert place.cluster.request("PATCH", path, change, content_type="application/json-patch+json").status == 200
    until(lambda: place.create("two", dryRun="All").status == 201, "it is passed over", seconds=30)
    text = str(answer.json["message"])
    assert text.startswith(f'Internal error occurred: failed calling webhook "{hook["name"]}": ')
    return re.sub(r":\d+(?=/|: connect)", ":PORT", text.partition('.com": ')[2])


def test_nobody_listens(place: Place) -> None:
    client = {"url": f"https://127.0.0.1:{free_port()}/gone", "caBundle": place.hooks.bundle}
    assert failing(place, place.hook("gone", clientConfig=client, timeoutSeconds=2)) == (
        'failed to call webhook: Post "https://127.0.0.1:PORT/gone?timeout=2s": dial tcp 127.0.0.1:PORT: connect: connection refused'
    )


def test_its_certificate_is_of_somebody_else(place: Place) -> None:
    other = base64.b64encode(certificates.authority("other").certificate.encode()).decode()
    client = {"url": f"https://127.0.0.1:{place.hooks.port}/x", "caBundle": other}
    said = failing(place, place.hook("foreign", clientConfig=client))
    assert said.startswith(
        'failed to call webhook: Post "https://127.0.0.1:PORT/x?timeout=10s": '
        "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    )


def test_it_is_too_slow(place: Place) -> None:
    def waits(request: dict[str, Any]) -> Any:
        place.hooks.over.wait(3)
        return allowed()(request)

    begun = time.monotonic()
    said = failing(place, place.hook("slow", waits, timeoutSeconds=1))
    assert said == 'failed to call webhook: Post "https://127.0.0.1:PORT/slow?timeout=1s": context deadline exceeded'
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize(
    ("kind", "response", "said"),
    [
        ("validating", (500, b"oh\n", "text/plain"), 'failed to call webhook: an error on the server ("oh") has prevented the request from succeeding'),
        ("validating", (502, b"{}"), 'failed to call webhook: an error on the server ("unknown") has prevented the request from succeeding'),
        ("validating", (404, b"no"), "failed to call webhook: the server could not find the requested resource"),
        ("validating", {"uid": "another", "allowed": True}, r'received invalid webhook response: expected response\.uid="[^"]+", got "another"'),
        ("validating", (200, {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}), "received invalid webhook response: webhook response was absent"),
        ("validating", {"patch": "W10=", "patchType": "JSONPatch"}, r"received invalid webhook response: validating webhook may not return response\.patch"),
        ("mutating", {"patch": "W10="}, r"received invalid webhook response: webhook returned response\.patch but not response\.patchType"),
        ("mutating", {"patchType": "JSONPatch"}, r"received invalid webhook response: webhook returned response\.patchType but not response\.patch"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none(place: Place, kind: str, response: Any, said: str) -> None:
    def respond(request: dict[str, Any]) -> Any:
        return {"uid": request["uid"], "allowed": True, **response} if isinstance(response, dict) else response

    assert re.fullmatch(re.escape(said) if "\\" not in said else said, failing(place, place.hook("odd", respond), kind))


def test_a_service_that_is_not_there(place: Place) -> None:
    service = {"namespace": place.namespace, "name": "policy", "path": "/validate"}
    said = failing(place, place.hook("nowhere", clientConfig={"service": service, "caBundle": place.hooks.bundle}))
    assert said == (
        f'failed to call webhook: Post "https://policy.{place.namespace}.svc:PORT/validate?timeout=10s": service "policy" not found'
    )


def test_a_service_of_another_name_is_reached(place: Place, tmp_path: Any) -> None:
    """Its certificate has to be the Service's."""
    body = {"metadata": {"name": "policy"}, "spec": {"type": "ExternalName", "externalName": "localhost"}}
    assert place.cluster.request("POST", place.path("", "services"), body).status == 201
    service = {"namespace": place.namespace, "name": "policy", "path": "/named", "port": place.hooks.port}
    hook = place.hook("named", allowed(), clientConfig={"service": service, "caBundle": place.hooks.bundle})
    said = failing(place, hook)
    assert f'Post "https://policy.{place.namespace}.svc:PORT/named?timeout=10s": tls: failed to verify certificate: x509: ' in said
    assert f"policy.{place.namespace}.svc" in said.partition("x509")[2]


# --- configurations -----------------------------------------------------------------------------------------------------------------------


def test_configurations_are_completed_and_checked(place: Place) -> None:
    path = f"{CONFIGURATIONS}/mutatingwebhookconfigurations"
    hook = {"name": "a.example.com", "clientConfig": {"service": {"namespace": "x", "name": "y"}}, "admissionReviewVersions": ["v1"]}
    hook["rules"] = [RULE]
    body = {"metadata": {"name": f"{place.namespace}-checked"}, "webhooks": [{**hook, "sideEffects": "None"}]}
    made = place.cluster.request("POST", path, body, dryRun="All").json["webhooks"][0]
    assert {name: made[name] for name in ("failurePolicy", "matchPolicy", "timeoutSeconds", "reinvocationPolicy")} == {
        "failurePolicy": "Fail", "matchPolicy": "Equivalent", "timeoutSeconds": 10, "reinvocationPolicy": "Never",
    }  # fmt: skip
    assert made["namespaceSelector"] == made["objectSelector"] == {} and made["rules"][0]["scope"] == "*"
    assert made["clientConfig"]["service"]["port"] == 443
    wrong = {**hook, "timeoutSeconds": 31, "clientConfig": {"url": "http://x"}, "admissionReviewVersions": ["v9"]}
    answer = place.cluster.request("POST", path, {**body, "webhooks": [wrong]}, dryRun="All")
    fields = {one["field"] for one in answer.json["details"]["causes"]}
    assert answer.status == 422 and fields == {
        "webhooks[0].sideEffects",
        "webhooks[0].timeoutSeconds",
        "webhooks[0].clientConfig.url",
        "webhooks[0].admissionReviewVersions",
    }


def test_nobody_stands_in_the_way_of_a_configurations_end(place: Place) -> None:
    rules = [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]
    place.configure("validating", place.hook("jealous", denied(), rules=rules))
    assert place.create("one").status == 400
    path = place.made.pop()
    assert place.cluster.request("DELETE", path).status == 200
    until(lambda: place.create("one", dryRun="All").status == 201, "it is gone", seconds=30)


def test_conditions_in_cel_are_refused_and_not_passed_over(place: Place) -> None:
    path = f"{CONFIGURATIONS}/validatingwebhookconfigurations"
    hook = place.hook("conditional", allowed(), matchConditions=[{"name": "never", "expression": "false"}])
    answer = place.cluster.request("POST", path, {"metadata": {"name": f"{place.namespace}-cel"}, "webhooks": [hook]}, dryRun="All")
    if place.cluster.engine == "real":
        assert answer.status == 201
    else:
        assert answer.status == 422 and "does not evaluate CEL" in answer.json["message"]
