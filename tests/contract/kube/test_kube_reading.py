"""Lists, selectors, pages, tables and watches: the same on both engines."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kube_engines import TABLE, Cluster, normal

Agrees = Callable[[str, Any], None]
PODS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "pods.yaml").read_text("utf-8"))


# fields that the installed package's newer release describes otherwise
KNOWN = {"NodeAllocatableResourceClaimStatus": ["resources"], "APIServiceSpec": ["caBundle"]}


def fill(cluster: Cluster, namespace: str, count: int) -> str:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    for number in range(count):
        body = {"metadata": {"name": f"c{number}", "labels": {"n": str(number), "odd": str(number % 2)}}}
        assert cluster.request("POST", path, body).status == 201
    return path


def test_pages(cluster: Cluster, namespace: str) -> None:
    path = fill(cluster, namespace, 5)
    first = cluster.request("GET", path, limit=2).json
    assert [one["metadata"]["name"] for one in first["items"]] == ["c0", "c1"]
    assert first["metadata"]["remainingItemCount"] == 4  # and kube-root-ca.crt
    assert first["kind"] == "ConfigMapList" and "kind" not in first["items"][0]
    cluster.request("DELETE", f"{path}/c2")
    cluster.request("POST", path, {"metadata": {"name": "c2a"}})
    rest = cluster.request("GET", path, limit=10, **{"continue": first["metadata"]["continue"]}).json
    assert [one["metadata"]["name"] for one in rest["items"]] == ["c2", "c3", "c4", "kube-root-ca.crt"]
    assert rest["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in rest["metadata"]
    selected = cluster.request("GET", path, limit=1, labelSelector="odd=0").json
    assert "remainingItemCount" not in selected["metadata"] and selected["metadata"]["continue"]
    whole = cluster.request("GET", path, limit=1, resourceVersion="0").json
    assert len(whole["items"]) == 6  # answered out of the cache, which knows no pages


@pytest.mark.parametrize(
    "query",
    [
        {"labelSelector": "odd=0"}, {"labelSelector": "odd!=0"}, {"labelSelector": "odd"}, {"labelSelector": "!odd"},
        {"labelSelector": "n in (1,2)"}, {"labelSelector": "n notin (1,2),odd"}, {"labelSelector": "n>2"}, {"labelSelector": "n<2,odd=1"},
        {"labelSelector": "a=b c"}, {"labelSelector": "a=-b"}, {"labelSelector": "a in b"}, {"labelSelector": "a b"}, {"labelSelector": "=x"},
        {"labelSelector": "a in ()"}, {"labelSelector": ","}, {"labelSelector": "n>x"},
        {"fieldSelector": "metadata.name=c1"}, {"fieldSelector": "metadata.name!=c1"}, {"fieldSelector": "data.a=b"},
        {"fieldSelector": "metadata.name"}, {"fieldSelector": "metadata.name=c1,metadata.namespace=nope"},
        {"resourceVersion": "x"}, {"resourceVersion": "999999999"}, {"limit": "x"}, {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "Odd", "resourceVersion": "1"}, {"continue": "junk"}, {"watch": "true", "resourceVersion": "x"},
        {"resourceVersionMatch": "Exact", "resourceVersion": "0"}, {"watch": "true", "sendInitialEvents": "true"},
        {"watch": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": "1"},
    ],
    ids=lambda query: "&".join(f"{key}={value}" for key, value in query.items()),
)  # fmt: skip
def test_queries(cluster: Cluster, namespace: str, agrees: Agrees, query: dict[str, str], request: pytest.FixtureRequest) -> None:
    path = fill(cluster, namespace, 4)
    answer = cluster.request("GET", path, **query)
    body = answer.json
    if answer.status == 200:
        result: Any = [one["metadata"]["name"] for one in body["items"]]
    else:
        import re

        body["message"] = re.sub(r"current: \d+", "current: N", body["message"])
        body["message"] = re.sub(r"(key is not valid): .*", r"\1", body["message"])  # how the token is encoded is the engine's own
        result = normal(body)
    import re

    name = re.sub(r"[^\w=,.-]+", "_", "&".join(f"{key}={value}" for key, value in query.items()))
    agrees(f"queries/{name}", [answer.status, result])


def test_exact_version(cluster: Cluster, namespace: str) -> None:
    path = fill(cluster, namespace, 2)
    version = cluster.request("GET", path).json["metadata"]["resourceVersion"]
    cluster.request("DELETE", f"{path}/c0")
    then = cluster.request("GET", path, resourceVersion=version, resourceVersionMatch="Exact").json
    assert [one["metadata"]["name"] for one in then["items"]] == ["c0", "c1", "kube-root-ca.crt"]
    assert then["metadata"]["resourceVersion"] == version
    now = cluster.request("GET", path, resourceVersion=version, resourceVersionMatch="NotOlderThan").json
    assert [one["metadata"]["name"] for one in now["items"]] == ["c1", "kube-root-ca.crt"]


def test_watch_follows_selectors(cluster: Cluster, namespace: str) -> None:
    path = fill(cluster, namespace, 1)
    version = cluster.request("GET", path).json["metadata"]["resourceVersion"]

    def label(value: str | None) -> None:
        cluster.request("PATCH", f"{path}/c0", {"metadata": {"labels": {"w": value}}}, content_type="application/merge-patch+json")

    label("1")
    label("2")
    label("1")
    cluster.request("PATCH", f"{path}/c0", {"data": {"a": "b"}}, content_type="application/merge-patch+json")
    cluster.request("DELETE", f"{path}/c0")
    events = cluster.watch(path, 5, resourceVersion=version, labelSelector="w=1")
    assert [event["type"] for event in events] == ["ADDED", "DELETED", "ADDED", "MODIFIED", "DELETED"]
    assert all(event["object"]["kind"] == "ConfigMap" for event in events)
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


def test_watch_begins_with_what_is_there(cluster: Cluster, namespace: str) -> None:
    path = fill(cluster, namespace, 2)
    events = cluster.watch(path, 3)
    assert sorted(event["object"]["metadata"]["name"] for event in events) == ["c0", "c1", "kube-root-ca.crt"]
    events = cluster.watch(path, 4, sendInitialEvents="true", resourceVersionMatch="NotOlderThan", allowWatchBookmarks="true")
    assert [event["type"] for event in events] == ["ADDED", "ADDED", "ADDED", "BOOKMARK"]
    metadata = events[-1]["object"]["metadata"]
    assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(metadata["resourceVersion"]) > 0


def test_watch_as_table(cluster: Cluster, namespace: str) -> None:
    path = fill(cluster, namespace, 2)
    events = cluster.watch(path, 2, accept=TABLE, labelSelector="odd")
    assert [len(event["object"]["columnDefinitions"] or []) for event in events] == [3, 0]
    assert events[0]["object"]["rows"][0]["cells"][0] in ("c0", "c1")


def test_watch_ends_in_time(cluster: Cluster, namespace: str) -> None:
    answer = cluster.request("GET", f"/api/v1/namespaces/{namespace}/secrets", watch="true", timeoutSeconds=1)
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("include", ["None", "Metadata", "Object", "Odd"])
def test_tables(cluster: Cluster, namespace: str, agrees: Agrees, include: str) -> None:
    path = fill(cluster, namespace, 1)
    answer = cluster.request("GET", path, accept=TABLE, includeObject=include, labelSelector="odd")
    body = answer.json
    for column in body.get("columnDefinitions") or []:
        del column["description"]
    for row in body.get("rows") or []:
        row["cells"][-1] = "AGE"
    agrees(f"tables/{include}", [answer.status, answer.headers["content-type"], normal(body)])


def test_metadata_alone(cluster: Cluster, namespace: str, agrees: Agrees) -> None:
    path = fill(cluster, namespace, 1)
    one = cluster.request("GET", f"{path}/c0", accept="application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
    many = cluster.request("GET", path, accept="application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", labelSelector="odd")
    agrees("tables/partial", [normal(one.json), normal(many.json)])
    assert cluster.request("GET", path, accept="text/html").status == 406
    assert cluster.request("GET", path, accept="application/yaml").headers["content-type"].startswith("application/yaml")


@pytest.mark.parametrize("name", PODS)
def test_rows_of_pods(cluster: Cluster, namespace: str, agrees: Agrees, name: str) -> None:
    """READY, STATUS and RESTARTS in every state that a pod can have."""
    case = PODS[name]
    path = f"/api/v1/namespaces/{namespace}/pods"
    spec = {"nodeName": "elsewhere", "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}], **case.get("spec", {})}
    assert cluster.request("POST", path, {"metadata": {"name": "p"}, "spec": spec}).status == 201
    answer = cluster.request("PATCH", f"{path}/p/status", {"status": case["status"]}, content_type="application/merge-patch+json")
    assert answer.status == 200, answer.body
    if case.get("deleted"):
        cluster.request("DELETE", f"{path}/p")
    table = cluster.request("GET", path, accept=TABLE).json
    row = table["rows"][0]
    import re

    cells = [re.sub(r"\(.* ago\)", "(AGE ago)", str(cell)) for cell in row["cells"]]
    cells[4] = "AGE"
    agrees(f"pods/{name}", [cells, row.get("conditions"), [column["name"] for column in table["columnDefinitions"]]])
    cluster.request("DELETE", f"{path}/p", {"gracePeriodSeconds": 0})


@pytest.mark.real
def test_columns_of_every_kind(pair: tuple[Cluster, Cluster]) -> None:
    real, embedded = pair
    differences = {}
    for group in embedded.request("GET", "/apis").json["groups"]:
        root = f"/apis/{group['preferredVersion']['groupVersion']}"
        differences |= _columns(real, embedded, root)
    differences |= _columns(real, embedded, "/api/v1")
    assert not differences, "\n".join(f"{name}: {one}" for name, one in differences.items())


def _columns(real: Cluster, embedded: Cluster, root: str) -> dict[str, Any]:
    found = {}
    for resource in embedded.request("GET", root).json["resources"]:
        if "list" not in resource["verbs"] or "metrics" in root:
            continue
        path = f"{root}/{resource['name']}"
        tables = [engine.request("GET", path, accept=TABLE, limit=1).json for engine in (real, embedded)]
        columns = [[(one["name"], one["type"], one["format"], one["priority"]) for one in table["columnDefinitions"]] for table in tables]
        if columns[0] != columns[1]:
            found[path] = columns
    return found


@pytest.mark.real
def test_discovery_is_the_same(pair: tuple[Cluster, Cluster]) -> None:
    real, embedded = pair
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    differences: dict[str, Any] = {}
    for path in ("/api", "/apis"):
        found: list[dict[str, Any]] = []
        for engine in (real, embedded):
            answer = engine.request("GET", path, accept=accept)
            assert answer.headers["content-type"] == accept
            entries = {}
            for group in answer.json["items"]:
                for version in group["versions"]:
                    for resource in version["resources"]:
                        key = f"{group['metadata'].get('name', '')}/{version['version']}/{resource['resource']}"
                        resource["subresources"] = sorted(resource.get("subresources", []), key=lambda one: one["subresource"])
                        for one in (resource, *resource["subresources"]):
                            one["verbs"] = sorted(one["verbs"])
                        entries[key] = resource
            found.append(entries)
        for key, entry in found[1].items():
            if not key.startswith("metrics.k8s.io") and found[0].get(key) != entry:
                differences[key] = [found[0].get(key), entry]
    assert not differences, "\n".join(f"{name}: {one}" for name, one in differences.items())


@pytest.mark.real
def test_schemas_are_the_same(pair: tuple[Cluster, Cluster]) -> None:
    """Every field of every kind, which ones are required, and how lists are merged."""
    real, embedded = pair
    differences: dict[str, Any] = {}
    paths = embedded.request("GET", "/openapi/v3").json["paths"]
    theirs = real.request("GET", "/openapi/v3").json["paths"]
    for path, entry in paths.items():
        if "metrics" in path or "admissionregistration" in path:  # the lab has no webhooks and no policies
            continue
        documents = []
        for engine, index in ((real, theirs[path]), (embedded, entry)):
            address, _question, query = index["serverRelativeURL"].partition("?")
            documents.append(engine.request("GET", f"{address}?{query}").json["components"]["schemas"])
        known = {name.rpartition(".")[2]: schema for name, schema in documents[0].items()}
        for name, schema in documents[1].items():
            kind = name.rpartition(".")[2].rstrip("_")
            there = documents[0].get(name) or known.get(kind)
            if there is None or "properties" not in there:
                continue
            fields = {field: _merge(one) for field, one in there["properties"].items()}
            ours = {field: _merge(one) for field, one in schema["properties"].items()}
            for field in KNOWN.get(kind, ()):
                fields.pop(field, None)
                ours.pop(field, None)
            if fields != ours:
                differences[name] = {
                    field: (fields.get(field), ours.get(field)) for field in {*fields, *ours} if fields.get(field) != ours.get(field)
                }
    assert not differences, "\n".join(f"{name}: {one}" for name, one in differences.items())


def _merge(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name.startswith("x-kubernetes-patch") or name.startswith("x-kubernetes-list")}


def test_json_of_watch_lines(cluster: Cluster, namespace: str) -> None:
    """A line holds one event, whatever stands in the object."""
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    text = 'line\nbreak \u2028 \\ " é 漢'
    assert cluster.request("POST", path, {"metadata": {"name": "odd"}, "data": {"a": text}}).status == 201
    event = cluster.watch(path, 1, fieldSelector="metadata.name=odd")[0]
    assert event["object"]["data"] == {"a": text}
    assert json.dumps(event)


def test_jobs_by_how_many_have_succeeded(cluster: Cluster, namespace: str) -> None:
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}
    for name in ("done", "begun"):
        assert cluster.request("POST", path, {"metadata": {"name": name}, "spec": {"template": {"spec": pod}}}).status == 201
    patch = {"status": {"startTime": "2026-01-01T00:00:00Z", "succeeded": 1, "uncountedTerminatedPods": {}}}
    assert cluster.request("PATCH", f"{path}/done/status", patch, content_type="application/merge-patch+json").status == 200
    for value, name in (("0", "begun"), ("1", "done")):
        found = cluster.request("GET", path, fieldSelector=f"status.successful={value}").json["items"]
        assert [one["metadata"]["name"] for one in found] == [name]


def test_what_is_too_old_to_watch(cluster: Cluster) -> None:
    """A version from before the objects' definition answers 410."""
    group = "aged.example.org"
    names = {"plural": "aged", "kind": "Aged", "listKind": "AgedList"}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
    spec = {"group": group, "scope": "Cluster", "names": names, "versions": [version]}
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert cluster.request("POST", definitions, {"metadata": {"name": f"aged.{group}"}, "spec": spec}).status == 201
    try:
        path = f"/apis/{group}/v1/aged"
        deadline = time.monotonic() + 30
        while cluster.request("POST", path, {"apiVersion": f"{group}/v1", "kind": "Aged", "metadata": {"name": "a"}}).status == 404:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        deadline = time.monotonic() + 30
        while cluster.request("GET", path, resourceVersion=0).status != 200:
            assert time.monotonic() < deadline  # the real server fills its cache
            time.sleep(0.05)
        event = cluster.watch(path, 1, resourceVersion=1)[0]
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert event["object"]["message"].startswith("too old resource version: 1 (")
    finally:
        cluster.request("DELETE", f"{definitions}/aged.{group}")
