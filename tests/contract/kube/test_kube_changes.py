"""Patches, server-side apply, subresources: the same on both engines."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kube_engines import Cluster, normal

Agrees = Callable[[str, Any], None]
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"
POD = {
    "metadata": {"name": "p", "labels": {"app": "p"}, "finalizers": ["example.com/a", "example.com/b"]},
    "spec": {
        "nodeName": "elsewhere",
        "containers": [{"name": name, "image": "x:1", "env": [{"name": "A", "value": "1"}]} for name in ("a", "b", "c")],
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    },
}


def deployment(**more: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x:1", **more}]}}
    return {"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}}


@pytest.mark.parametrize(
    ("name", "patch"),
    [
        ("add-first", {"spec": {"template": {"spec": {"containers": [{"name": "n", "image": "y"}]}}}}),
        ("change", {"spec": {"template": {"spec": {"containers": [{"name": "b", "image": "y"}]}}}}),
        ("delete", {"spec": {"template": {"spec": {"containers": [{"name": "b", "$patch": "delete"}]}}}}),
        ("replace-list", {"spec": {"template": {"spec": {"containers": [{"$patch": "replace"}, {"name": "z", "image": "z"}]}}}}),
        (
            "order",
            {
                "spec": {
                    "template": {
                        "spec": {
                            "$setElementOrder/containers": [{"name": "c"}, {"name": "n"}, {"name": "a"}],
                            "containers": [{"name": "n", "image": "n"}],
                        }
                    }
                }
            },
        ),
        ("env", {"spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "B", "value": "2"}]}]}}}}),
        ("env-gone", {"spec": {"template": {"spec": {"containers": [{"name": "a", "env": None}]}}}}),
        ("atomic-list", {"spec": {"template": {"spec": {"tolerations": [{"key": "n", "operator": "Exists"}]}}}}),
        ("strategy", {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        ("labels", {"metadata": {"labels": {"n": "o", "app": None}}}),
        ("replace-map", {"metadata": {"labels": {"$patch": "replace", "only": "this"}}}),
        ("no-key", {"spec": {"template": {"spec": {"containers": [{"image": "y"}]}}}}),
        ("finalizers", {"metadata": {"finalizers": ["example.com/c"]}}),
        ("finalizers-gone", {"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/a"]}}),
        ("unknown", {"spec": {"nope": 1}}),
        ("type", {"spec": {"replicas": "many"}}),
    ],
)
def test_strategic_patches(cluster: Cluster, namespace: str, agrees: Agrees, name: str, patch: object) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    obj = deployment()
    obj["metadata"] |= {"labels": {"app": "d"}, "finalizers": ["example.com/a", "example.com/b"]}
    obj["spec"]["template"]["spec"] = {**POD["spec"]}
    del obj["spec"]["template"]["spec"]["nodeName"]
    assert cluster.request("POST", path, obj).status == 201
    answer = cluster.request("PATCH", f"{path}/d", patch, content_type=STRATEGIC, fieldValidation="Warn", dryRun="All")
    body = answer.json
    result: Any = normal(body)
    if answer.status == 200:
        spec = body["spec"]["template"]["spec"]
        result = [
            body["metadata"].get("labels"),
            body["metadata"].get("finalizers"),
            body["spec"]["strategy"],
            spec["containers"],
            spec["tolerations"],
        ]
    agrees(f"patches/strategic-{name}", [answer.status, answer.headers.get("warning", ""), result])
    cluster.request("PATCH", f"{path}/d", {"metadata": {"finalizers": None}}, content_type=MERGE)


@pytest.mark.parametrize(
    ("name", "kind", "patch"),
    [
        ("json", JSON, [{"op": "add", "path": "/data/x", "value": "y"}, {"op": "remove", "path": "/data/a"}]),
        ("json-test", JSON, [{"op": "test", "path": "/data/a", "value": "no"}]),
        ("json-missing", JSON, [{"op": "remove", "path": "/data/nope"}]),
        ("json-escape", JSON, [{"op": "add", "path": "/metadata/labels", "value": {"a/b": "c"}}, {"op": "replace", "path": "/metadata/labels/a~1b", "value": "d"}]),
        ("merge", MERGE, {"data": {"a": None, "n": "1"}}),
        ("merge-null", MERGE, {"data": None}),
        ("rename", MERGE, {"metadata": {"name": "other"}}),
        ("version", MERGE, {"metadata": {"resourceVersion": "1"}}),
        ("uid", MERGE, {"metadata": {"uid": "4b1b1b1b-0000-0000-0000-000000000000"}}),
        ("strict", MERGE, {"odd": 1}),
    ],
)  # fmt: skip
def test_other_patches(cluster: Cluster, namespace: str, agrees: Agrees, name: str, kind: str, patch: object) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    assert cluster.request("POST", path, {"metadata": {"name": "c"}, "data": {"a": "b"}}).status == 201
    answer = cluster.request("PATCH", f"{path}/c", patch, content_type=kind, fieldValidation="Strict")
    agrees(f"patches/{name}", [answer.status, normal(answer.json)])


def test_apply(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    """Who owns what, what is taken back, and conflicts."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/d"
    results: list[Any] = []

    def apply(manager: str, obj: dict[str, Any], **query: object) -> None:
        body = {"apiVersion": "apps/v1", "kind": "Deployment", **obj}
        answer = cluster.request("PATCH", path, body, content_type=APPLY, fieldManager=manager, **query)
        result = normal(answer.json, fields=True)
        if answer.status == 409:  # the real server lists conflicts as they come
            result["details"]["causes"].sort(key=lambda cause: str(cause["field"]))
            result["message"] = sorted(result["message"].replace(": conflicts", ":\nconflicts").splitlines())
        if answer.status < 300:
            result = [result["metadata"]["managedFields"], result["spec"]["replicas"], result["spec"]["template"]["spec"]["containers"]]
        results.append([manager, answer.status, result])

    apply("one", deployment(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]))
    apply("one", deployment(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]))
    apply("two", {"metadata": {"name": "d"}, "spec": {"replicas": 4}})
    apply("two", {"metadata": {"name": "d"}, "spec": {"replicas": 4}}, force="true")
    apply("one", deployment(env=[{"name": "B", "value": "3"}]))
    without = deployment(env=[{"name": "B", "value": "3"}], resources={"limits": {"cpu": "1000m"}})
    del without["spec"]["replicas"]
    apply("one", without)
    cluster.request("PATCH", path, {"spec": {"replicas": 7}}, content_type=MERGE, fieldManager="three")
    apply("two", {"metadata": {"name": "d"}})
    apply("four", {"metadata": {"name": "d"}, "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "z"}]}}}})
    apply("", {"metadata": {"name": "d"}})
    apply("bad", {"metadata": {"name": "d"}, "spec": {"odd": 1}})
    apply("bad", {"metadata": {"name": "other"}})
    agrees("apply/deployment", results)


def test_scale(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    assert cluster.request("POST", path, deployment()).status == 201
    results = []
    scale = cluster.request("GET", f"{path}/d/scale").json
    for method, body, kind in (
        ("GET", None, JSON),
        ("PUT", {**scale, "spec": {"replicas": 3}}, "application/json"),
        ("PATCH", {"spec": {"replicas": 2}}, MERGE),
        ("PATCH", {"spec": {"replicas": -1}}, MERGE),
        ("PUT", {**scale, "spec": {"replicas": 5}}, "application/json"),
    ):
        answer = cluster.request(method, f"{path}/d/scale", body, content_type=kind)
        results.append([answer.status, normal(answer.json)])
    fields = normal(cluster.request("GET", f"{path}/d").json["metadata"]["managedFields"], fields=True)
    agrees("subresources/scale", [results, fields])


def test_binding(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"containers": [{"name": "c", "image": "x"}]}
    assert cluster.request("POST", path, {"metadata": {"name": "p"}, "spec": spec}).status == 201
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}}
    results = []
    for _number in range(2):
        answer = cluster.request("POST", f"{path}/p/binding", binding)
        results.append([answer.status, normal(answer.json)])
    pod = normal(cluster.request("GET", f"{path}/p").json)
    agrees("subresources/binding", [results, pod["spec"]["nodeName"], pod["status"]])


def test_eviction(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    budgets = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    for name in ("a", "b", "c"):
        pod = {"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "x"}]}}
        assert cluster.request("POST", path, pod).status == 201
        status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        assert cluster.request("PATCH", f"{path}/{name}/status", status, content_type=MERGE).status == 200
    budget = {"metadata": {"name": "pdb"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "x"}}}}
    assert cluster.request("POST", budgets, budget).status == 201
    results: list[Any] = []

    def evict(name: str, **query: object) -> None:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        answer = cluster.request("POST", f"{path}/{name}/eviction", body, **query)
        results.append([answer.status, normal(answer.json), answer.headers.get("retry-after", "")])

    def observe(**status: object) -> None:
        answer = cluster.request("PATCH", f"{budgets}/pdb/status", {"status": {"observedGeneration": 1, **status}}, content_type=MERGE)
        assert answer.status == 200

    evict("a")  # the budget has not been looked at yet
    observe(disruptionsAllowed=1, currentHealthy=3, desiredHealthy=2, expectedPods=3)
    evict("a", dryRun="All")
    evict("a")
    evict("b")
    evict("nope")
    pod = cluster.request("GET", f"{path}/a").json
    results.append(["deletionTimestamp" in pod["metadata"], cluster.request("GET", f"{budgets}/pdb").json["status"]["disruptionsAllowed"]])
    status = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    cluster.request("PATCH", f"{path}/c/status", status, content_type=MERGE)
    evict("c")  # not ready, but the budget is met only by itself
    agrees("subresources/eviction", results)


def test_other_subresources(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    path = f"/api/v1/namespaces/{namespace}"
    spec = {"nodeName": "n", "containers": [{"name": "c", "image": "x"}]}
    assert cluster.request("POST", f"{path}/pods", {"metadata": {"name": "p"}, "spec": spec}).status == 201
    results: list[Any] = []
    patch = {"spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox", "targetContainerName": "c"}]}}
    answer = cluster.request("PATCH", f"{path}/pods/p/ephemeralcontainers", patch, content_type=STRATEGIC)
    results.append([answer.status, normal(answer.json["spec"]["ephemeralContainers"])])
    for method, where in (
        ("GET", "pods/p/nope"),
        ("POST", "pods/p/log"),
        ("PUT", "pods/p/binding"),
        ("GET", "pods/p/exec"),
        ("GET", "configmaps/a/scale"),
    ):
        answer = cluster.request(method, f"{path}/{where}", {} if method != "GET" else None)
        results.append([method, where, answer.status, normal(answer.json)])
    asked = {"spec": {"expirationSeconds": 700}}
    answer = cluster.request("POST", f"{path}/serviceaccounts/default/token", asked)
    token = answer.json["status"]["token"]
    who = cluster.request(
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
        user=token,
    )
    info = who.json["status"]["userInfo"]
    results.append(
        [answer.status, sorted(answer.json["spec"]), normal(info["username"]), normal(info["groups"]), sorted(info.get("extra", {}))]
    )
    answer = cluster.request("POST", f"{path}/serviceaccounts/default/token", {"spec": {"expirationSeconds": 5}})
    results.append([answer.status, normal(answer.json)])
    agrees("subresources/other", results)
