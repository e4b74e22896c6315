"""Defaults, refusals and the life of objects: the same on both engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_engines import Cluster, normal

HERE = Path(__file__).parent
OBJECTS: dict[str, Any] = yaml.safe_load((HERE / "objects.yaml").read_text("utf-8"))
REFUSED: dict[str, Any] = yaml.safe_load((HERE / "refused.yaml").read_text("utf-8"))
Agrees = Callable[[str, Any], None]
CLUSTER_WIDE = {"Node", "Namespace", "PersistentVolume", "StorageClass", "PriorityClass"}
PLURALS = {
    "Ingress": "ingresses", "NetworkPolicy": "networkpolicies", "PodDisruptionBudget": "poddisruptionbudgets",
    "StorageClass": "storageclasses", "PriorityClass": "priorityclasses",
}  # fmt: skip
SERVED = {"wrong-kind": ("v1", "ConfigMap"), "wrong-version": ("v1", "ConfigMap")}


def collection(namespace: str, api_version: str, kind: str) -> str:
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    return f"{root}/{plural}" if kind in CLUSTER_WIDE else f"{root}/namespaces/{namespace}/{plural}"


def placed(obj: Any, namespace: str) -> Any:
    """The object with the test's namespace where its manifest says so."""
    if isinstance(obj, dict):
        return {name: placed(one, namespace) for name, one in obj.items()}
    if isinstance(obj, list):
        return [placed(one, namespace) for one in obj]
    return namespace if obj == "NAMESPACE" else obj


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_filled_in(cluster: Cluster, namespace: str, agrees: Agrees, name: str) -> None:
    obj = placed(OBJECTS[name], namespace)
    answer = cluster.request("POST", collection(namespace, obj["apiVersion"], obj["kind"]), obj, dryRun="All", fieldManager="contract")
    assert answer.status == 201, answer.body
    body = normal(answer.json, fields=True)
    if body["metadata"].get("generateName"):
        body["metadata"]["name"] = "GENERATED"
    agrees(f"objects/{name}", body)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(cluster: Cluster, namespace: str, agrees: Agrees, name: str) -> None:
    obj = REFUSED[name]
    api_version, kind = SERVED.get(name, (obj["apiVersion"], obj["kind"]))
    results = {}
    for validation in ("Strict", "Warn", "Ignore"):
        answer = cluster.request("POST", collection(namespace, api_version, kind), obj, dryRun="All", fieldValidation=validation)
        body = normal(answer.json) if answer.status >= 400 else None
        results[validation] = {"status": answer.status, "body": body, "warning": answer.headers.get("warning", "")}
    agrees(f"refused/{name}", results)


def test_life_of_an_object(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    body = {"metadata": {"name": "a"}, "data": {"k": "v"}}
    steps: list[Any] = []

    def step(method: str, where: str = "/a", content: object = None, **query: object) -> Any:
        answer = cluster.request(method, path + where, content, **query)
        steps.append([method, where, answer.status, normal(answer.json)])
        return answer.json

    step("GET")
    made = step("POST", "", body)
    step("POST", "", body)
    step("PUT", "/a", {**made, "data": {"k": "w"}})
    step("PUT", "/a", {**made, "data": {"k": "x"}})
    step("PUT", "/b", {"metadata": {"name": "a"}})
    step("PUT", "/b", {"metadata": {"name": "b"}})
    step("PUT", "/a", {"metadata": {"name": "a", "uid": "4b1b1b1b-0000-0000-0000-000000000000"}})
    step("DELETE", "/a", {"preconditions": {"resourceVersion": "1"}})
    step("DELETE", "/a", {"preconditions": {"uid": "4b1b1b1b-0000-0000-0000-000000000000"}})
    step("DELETE", "/a", None, dryRun="All")
    step("DELETE", "/a", {"propagationPolicy": "Sideways"})
    step("PATCH", "/a", {"a": 1})
    step("GET", "/a/status")
    step("DELETE")
    step("DELETE")
    step("POST", "", {"metadata": {"name": "f", "finalizers": ["example.com/stay"]}})
    step("DELETE", "/f")
    step("GET", "/f")
    held = cluster.request("GET", f"{path}/f").json
    held["metadata"]["finalizers"] = ["example.com/stay", "example.com/more"]
    step("PUT", "/f", held)
    del held["metadata"]["finalizers"]
    step("PUT", "/f", held)
    step("GET", "/f")
    step("POST", "", b"{")
    step("POST", "", {})
    for text in steps:
        if text[0] == "POST" and text[2] == 400:
            text[3]["message"] = text[3]["message"].partition("json parse error")[0]
    agrees("life/configmap", steps)


def test_unchanged_update_keeps_the_version(cluster: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    made = cluster.request("POST", path, {"metadata": {"name": "same"}, "data": {"a": "b"}}).json
    again = cluster.request("PUT", f"{path}/same", made).json
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_generations_and_status(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    deployment = {**OBJECTS["deployment"], "status": {"replicas": 7}}
    made = cluster.request("POST", path, deployment).json
    results = [normal(made.get("status")), made["metadata"]["generation"]]
    for where, patch in (
        ("", {"metadata": {"labels": {"x": "y"}}}),
        ("", {"spec": {"replicas": 3}}),
        ("", {"status": {"replicas": 3}}),
        ("/status", {"status": {"replicas": 3, "readyReplicas": 0, "observedGeneration": 1}, "spec": {"replicas": 9}}),
        ("/status", {"metadata": {"labels": {"no": "no"}, "annotations": {"a": "b"}}}),
    ):
        answer = cluster.request("PATCH", f"{path}/d{where}", patch, content_type="application/merge-patch+json")
        body = answer.json
        metadata = {key: value for key, value in body["metadata"].items() if key in ("generation", "labels", "annotations")}
        results.append([answer.status, metadata, body["spec"]["replicas"], body["status"]])
    agrees("life/generations", results)


def test_what_may_not_change(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    results: dict[str, Any] = {}
    for name, patch in (
        ("deployment", {"spec": {"selector": {"matchLabels": {"z": "z"}}}}),
        ("service", {"spec": {"clusterIP": "10.96.77.77", "clusterIPs": ["10.96.77.77"]}}),
        ("rolebinding", {"roleRef": {"name": "other"}}),
        ("statefulset", {"spec": {"serviceName": "other"}}),
        ("job", {"spec": {"completions": 4}}),
        ("secret", {"type": "other"}),
    ):
        obj = OBJECTS[name]
        path = collection(namespace, obj["apiVersion"], obj["kind"])
        assert cluster.request("POST", path, obj).status == 201
        answer = cluster.request("PATCH", f"{path}/{obj['metadata']['name']}", patch, content_type="application/merge-patch+json")
        results[name] = [answer.status, normal(answer.json)]
    agrees("life/immutable", results)


def test_deletions_answer(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    """Some kinds answer a deletion with the object, others with a Status."""
    results = {}
    for name in (
        "deployment", "statefulset", "daemonset", "job", "cronjob", "service", "claim", "configmap", "secret", "ingress", "networkpolicy",
        "autoscaler", "budget", "quota", "limitrange", "serviceaccount", "role", "rolebinding", "lease", "slice", "pod-small",
    ):  # fmt: skip
        obj = {**OBJECTS[name], "metadata": {"name": OBJECTS[name]["metadata"]["name"]}}
        path = collection(namespace, obj["apiVersion"], obj["kind"])
        assert cluster.request("POST", path, obj).status == 201, name
        answer = cluster.request("DELETE", f"{path}/{obj['metadata']['name']}")
        body = answer.json
        metadata = body.get("metadata") or {}
        results[name] = [
            answer.status,
            body["kind"],
            "deletionTimestamp" in metadata,
            metadata.get("finalizers"),
            answer.headers.get("warning", ""),
        ]
    agrees("life/deletions", results)


def test_graceful_deletion_of_pods(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"nodeName": "elsewhere", "containers": [{"name": "c", "image": "x"}]}
    assert cluster.request("POST", path, {"metadata": {"name": "p"}, "spec": spec}).status == 201
    results: list[Any] = []
    for options in (None, {"gracePeriodSeconds": 10}, {"gracePeriodSeconds": 60}, {"gracePeriodSeconds": 0}, None):
        answer = cluster.request("DELETE", f"{path}/p", options)
        metadata = answer.json.get("metadata") or {}
        results.append([answer.status, answer.json["kind"], metadata.get("deletionGracePeriodSeconds"), metadata.get("generation")])
    agrees("life/grace", results)


def test_collections_are_deleted(cluster: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        assert cluster.request("POST", path, {"metadata": {"name": name, "labels": {"l": label}}}).status == 201
    answer = cluster.request("DELETE", path, labelSelector="l=x")
    assert answer.status == 200
    left = [one["metadata"]["name"] for one in cluster.request("GET", path, labelSelector="l").json["items"]]
    assert left == ["c"]


def test_a_namespace_is_emptied(cluster: Cluster, agrees: Agrees) -> None:
    import secrets

    name = f"contract-{secrets.token_hex(4)}"
    made = cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}}).json
    version = made["metadata"]["resourceVersion"]
    path = f"/api/v1/namespaces/{name}"
    config = {"metadata": {"name": "held", "finalizers": ["example.com/stay"]}}
    assert cluster.request("POST", f"{path}/configmaps", config).status == 201
    ended = cluster.request("DELETE", path)
    refused = cluster.request("POST", f"{path}/configmaps", {"metadata": {"name": "late"}})
    results = [ended.status, ended.json["status"]["phase"], refused.status, normal(refused.json)]
    patch = [{"op": "remove", "path": "/metadata/finalizers"}]
    cluster.request("PATCH", f"{path}/configmaps/held", patch, content_type="application/json-patch+json")
    events: list[str] = []
    connection = cluster.connection(seconds=30)
    address = f"/api/v1/namespaces?watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={version}"
    connection.request("GET", address, headers={"Authorization": f"Bearer {cluster.tokens['admin']}"})
    answer = connection.getresponse()
    import json

    while not events or events[-1] != "DELETED":
        events.append(json.loads(answer.readline())["type"])
    connection.close()
    assert cluster.request("GET", path).status == 404
    agrees("life/namespace", results)
