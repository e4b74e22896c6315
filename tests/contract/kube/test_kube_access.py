"""Who is who and who may what: the same on both engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kube_engines import Cluster, normal

from tests.waiting import until

Agrees = Callable[[str, Any], None]
REVIEWS = "/apis/authorization.k8s.io/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def test_refusals(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    results = []
    for user, method, path in (
        ("viewer", "GET", "/api/v1/pods"),
        ("viewer", "GET", f"/api/v1/namespaces/{namespace}/pods"),
        ("viewer", "GET", f"/api/v1/namespaces/{namespace}/pods/x"),
        ("viewer", "GET", f"/api/v1/namespaces/{namespace}/pods/x/log"),
        ("viewer", "POST", f"/api/v1/namespaces/{namespace}/pods"),
        ("viewer", "DELETE", f"/apis/apps/v1/namespaces/{namespace}/deployments"),
        ("viewer", "PATCH", "/api/v1/nodes/n"),
        ("viewer", "GET", "/api/v1/nodes?watch=true"),
        ("viewer", "GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn"),
        ("viewer", "GET", "/apis/nope/v1/things"),
        ("viewer", "GET", "/metrics"),
        ("viewer", "GET", "/version"),
        ("viewer", "GET", "/api"),
        ("viewer", "GET", "/nope"),
        ("", "GET", "/api/v1/pods"),
        ("", "GET", "/version"),
        ("", "GET", "/api"),
        ("wrong-token", "GET", "/version"),
        ("admin", "GET", "/nope"),
        ("admin", "GET", "/api/v1/nopes"),
        ("admin", "GET", "/apis/apps/v1/nopes/x"),
        ("admin", "GET", "/apis/nope/v1/things"),
        ("admin", "PUT", "/api/v1/nodes"),
        ("admin", "POST", "/api/v1/pods"),
        ("admin", "DELETE", "/api/v1/namespaces"),
        ("admin", "DELETE", "/api/v1/namespaces/default"),
    ):
        answer = cluster.request(method, path, {} if method in ("POST", "PATCH", "PUT") else None, user=user)
        kind = answer.headers.get("content-type", "")
        body = normal(answer.json) if kind.startswith("application/json") and answer.status >= 400 else None
        results.append([user, method, normal(path), answer.status, kind.partition(";")[0], body])
    agrees("access/refusals", results)


def test_roles(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    """A role and its binding let exactly what they name; also through impersonation, and for service accounts."""
    rules = [
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]},
    ]
    assert cluster.request("POST", f"{RBAC}/namespaces/{namespace}/roles", {"metadata": {"name": "r"}, "rules": rules}).status == 201
    subjects = [
        {"kind": "Group", "name": "readers", "apiGroup": "rbac.authorization.k8s.io"},
        {"kind": "ServiceAccount", "name": "default", "namespace": namespace},
    ]
    reference = {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}
    binding = {"metadata": {"name": "b"}, "roleRef": reference, "subjects": subjects}
    assert cluster.request("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding).status == 201
    account = f"system:serviceaccount:{namespace}:default"
    results: list[Any] = []
    pods = f"/api/v1/namespaces/{namespace}/pods"
    until(lambda: cluster.request("GET", pods, user="viewer").status == 200, "the server sees its own roles")
    for path in ("pods", "pods/x", "pods/x/log", "secrets", "secrets/one", "secrets/two", "configmaps"):
        answer = cluster.request("GET", f"/api/v1/namespaces/{namespace}/{path}", user="viewer")
        spoken = cluster.request("GET", f"/api/v1/namespaces/{namespace}/{path}", headers={"Impersonate-User": account})
        results.append([path, answer.status, spoken.status, normal(spoken.json) if spoken.status == 403 else None])
    other = cluster.request(
        "GET", f"/api/v1/namespaces/{namespace}/pods", headers={"Impersonate-User": "x", "Impersonate-Group": "readers"}
    )
    denied = cluster.request("GET", "/version", user="viewer", headers={"Impersonate-User": "x"})
    results += [other.status, denied.status, normal(denied.json)]
    spec = {"resourceAttributes": {"namespace": namespace, "verb": "get", "resource": "pods", "subresource": "log"}}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
    results.append(normal(cluster.request("POST", f"{REVIEWS}/selfsubjectaccessreviews", review, user="viewer").json))
    spec["resourceAttributes"]["verb"] = "delete"
    results.append(normal(cluster.request("POST", f"{REVIEWS}/selfsubjectaccessreviews", review, user="viewer").json["status"]))
    rules_review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
    status = cluster.request("POST", f"{REVIEWS}/selfsubjectrulesreviews", rules_review, user="viewer").json["status"]
    results.append(sorted(map(str, normal(status["resourceRules"]))))
    subject = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": {"namespace": namespace, "verb": "list", "resource": "pods"}},
    }
    results.append(normal(cluster.request("POST", f"{REVIEWS}/subjectaccessreviews", subject).json["status"]))
    empty = cluster.request(
        "POST",
        f"{REVIEWS}/selfsubjectaccessreviews",
        {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {}},
    )
    results.append([empty.status, normal(empty.json)])
    agrees("access/roles", results)


def test_what_starts_a_command_needs_the_right_to_create(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    """With a GET too, whose refusal names no verb."""
    for name, verbs in (("getter", ["get"]), ("creator", ["create"]), ("both", ["get", "create"])):
        rules = [{"apiGroups": [""], "resources": ["pods/exec"], "verbs": verbs}]
        assert cluster.request("POST", f"{RBAC}/namespaces/{namespace}/roles", {"metadata": {"name": name}, "rules": rules}).status == 201
        binding = {
            "metadata": {"name": name},
            "roleRef": {"kind": "Role", "name": name, "apiGroup": "rbac.authorization.k8s.io"},
            "subjects": [{"kind": "User", "name": name, "apiGroup": "rbac.authorization.k8s.io"}],
        }
        assert cluster.request("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding).status == 201
    path = f"/api/v1/namespaces/{namespace}/pods/p/exec?command=ls&stdout=true"
    until(lambda: cluster.request("GET", path, headers={"Impersonate-User": "both"}).status != 403, "the server sees its own roles")
    results = []
    for name in ("nobody", "getter", "creator", "both"):
        for method in ("GET", "POST"):
            answer = cluster.request(method, path, headers={"Impersonate-User": name})
            results.append([name, method, answer.status, normal(answer.json)])
    agrees("access/commands", results)


def test_identities(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    certificate = cluster.certificate("alice", ["devs", "ops"])
    with_certificate = cluster.request("POST", path, review, user="", certificate=certificate)
    results: list[Any] = [with_certificate.status]
    info = with_certificate.json["status"]["userInfo"]
    results += [info["username"], info["groups"], sorted(info.get("extra", {}))]
    results.append(normal(cluster.request("POST", path, review, user="viewer").json["status"]))
    refused = cluster.request("GET", "/api/v1/nodes", user="", certificate=certificate)
    results.append([refused.status, normal(refused.json)])
    token = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": cluster.tokens["viewer"]}}
    status = cluster.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", token).json["status"]
    results.append([status["authenticated"], status["user"]["username"], sorted(status["user"]["groups"])])
    token["spec"] = {"token": "nope"}
    results.append(cluster.request("POST", "/apis/authentication.k8s.io/v1/tokenreviews", token).json["status"].get("authenticated", False))
    agrees("access/identities", results)
