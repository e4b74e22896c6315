"""The Kubernetes source on a real API server: pages, tables, selectors, rights, identity, and every way to be somebody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from opslib.environments import Environment
from opslib.environments import Kubernetes as Settings
from opslib.errors import Forbidden, InputError, NotFound, Unauthenticated, Unreachable
from opslib.facts.sources import Sources
from opslib.sources import kubernetes as module
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.objects import ConfigMap, Node, Pod

NAMESPACE = "kubernetes-source"


def connect(kubeconfig: Path, context: str = "lab", **settings: Any) -> Kubernetes:
    return Kubernetes.connect(Environment(name="lab", kubernetes=Settings(kubeconfig=kubeconfig, context=context, **settings)))


@pytest.fixture
def cluster(any_cluster: Any) -> Kubernetes:
    return connect(any_cluster.kubeconfig)


@pytest.fixture(scope="module")
def namespace(any_cluster: Any) -> Iterator[str]:
    any_cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield NAMESPACE
    any_cluster.api.delete(f"/api/v1/namespaces/{NAMESPACE}")


def test_a_list_of_several_pages_is_whole(cluster: Kubernetes, any_cluster: Any, namespace: str) -> None:
    names = [f"map-{number:04}" for number in range(module.PAGE + 50)]
    for name in names:
        metadata = {"name": name, "namespace": namespace, "labels": {"odd": str(int(name[-1]) % 2)}}
        any_cluster.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": "value"}})
    listed = [item.metadata.name for item in cluster.list(ConfigMap, "configmaps", namespace)]
    assert [name for name in listed if name.startswith("map-")] == names
    odd = cluster.metadata_list("configmaps", namespace, labels="odd=1")
    assert len(odd) == len(names) // 2
    one = cluster.metadata_list("configmaps", namespace, fields="metadata.name=map-0007")
    assert [item.metadata.name for item in one] == ["map-0007"]


def test_metadata_alone_brings_no_content(cluster: Kubernetes, any_cluster: Any, namespace: str) -> None:
    any_cluster.api.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "password", "namespace": namespace},
            "stringData": {"password": "do-not-read-me"},
        }
    )
    path = f"/api/v1/namespaces/{namespace}/secrets/password"
    request = module.Request(path=path, headers={"accept": "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"})
    assert b"ZG8tbm90LXJlYWQtbWU" not in cluster._transport.send(request).body
    assert cluster.metadata("secrets", "password", namespace).metadata.name == "password"


def test_the_table_is_what_kubectl_prints(cluster: Kubernetes, any_cluster: Any) -> None:
    printed = any_cluster.kubectl("get", "nodes", "--no-headers").split("\n")
    rows = cluster.table("nodes")
    assert [row["name"] for row in rows] == [line.split()[0] for line in printed if line]
    assert [row["status"] for row in rows] == [line.split()[1] for line in printed if line]


def test_objects_are_read_as_the_server_has_them(cluster: Kubernetes, any_cluster: Any) -> None:
    theirs = {item["metadata"]["name"]: item for item in json.loads(any_cluster.kubectl("get", "nodes", "-o", "json"))["items"]}
    ours = cluster.list(Node, "nodes")
    assert {node.metadata.name for node in ours} == set(theirs)
    for node in ours:
        assert node.metadata.uid == theirs[node.metadata.name]["metadata"]["uid"]
        assert node.status.allocatable == theirs[node.metadata.name]["status"]["allocatable"]
    assert cluster.get(Node, "nodes", ours[0].metadata.name).metadata.uid == ours[0].metadata.uid


def test_who_and_what_we_are(cluster: Kubernetes, any_cluster: Any) -> None:
    assert cluster.version() == json.loads(any_cluster.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    assert cluster.cluster_uid() == any_cluster.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
    whoami = json.loads(any_cluster.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]
    identity = cluster.identity()
    assert (identity.username, set(identity.groups)) == (whoami["username"], set(whoami["groups"]))


@pytest.mark.parametrize("context", ["lab", "lab-viewer", "lab-nobody"])
@pytest.mark.parametrize(
    ("verb", "resource"),
    [("list", "pods"), ("get", "secrets"), ("get", "pods/log"), ("delete", "deployments.apps"), ("create", "pods/eviction")],
)
def test_rights_are_those_that_kubectl_names(any_cluster: Any, context: str, verb: str, resource: str) -> None:
    answer = any_cluster.kubectl(
        "auth", "can-i", verb, resource.partition("/")[0], "-n", "default", *_sub(resource), context=context, check=False
    )
    assert connect(any_cluster.kubeconfig, context).may(verb, resource, "default") is answer.strip().startswith("yes")


def _sub(resource: str) -> list[str]:
    subresource = resource.partition("/")[2]
    return [f"--subresource={subresource}"] if subresource else []


def test_the_rule_that_a_refusal_names_is_enough(any_cluster: Any, namespace: str) -> None:
    viewer = connect(any_cluster.kubeconfig, "lab-nobody")
    with pytest.raises(Forbidden) as error:
        viewer.list(ConfigMap, "configmaps", namespace)
    user = viewer.identity().username
    words = error.value.command.split()[1:]
    role = words[words.index("role") + 1]
    any_cluster.kubectl(*words)
    any_cluster.kubectl("-n", namespace, "create", "rolebinding", role, f"--role={role}", f"--user={user}")
    for _attempt in range(50):  # the server's authorizer learns of the role from its own watch
        if viewer.may("list", "configmaps", namespace):
            break
    viewer.list(ConfigMap, "configmaps", namespace)


def test_an_expired_or_wrong_token(any_cluster: Any, tmp_path: Path) -> None:
    content = yaml.safe_load(any_cluster.kubeconfig.read_text())
    user = next(entry["context"]["user"] for entry in content["contexts"] if entry["name"] == "lab")
    for entry in content["users"]:
        if entry["name"] == user:
            entry["user"] = {"token": "expired"}
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(Unauthenticated, match="log in"):
        connect(path).unhealthy_pods()


def test_a_certificate_of_another_authority(any_cluster: Any, tmp_path: Path) -> None:
    content = yaml.safe_load(any_cluster.kubeconfig.read_text())
    for entry in content["clusters"]:
        entry["cluster"] = {"server": entry["cluster"]["server"]}
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(Unreachable, match="certificate"):
        connect(path).version()


def test_what_is_not_there(cluster: Kubernetes) -> None:
    with pytest.raises(NotFound):
        cluster.get(Pod, "pods", "none", "default")
    with pytest.raises(NotFound):
        cluster.list(Pod, "widgets.example.com")


def test_a_namespace_that_does_not_exist_is_no_healthy_one(any_cluster: Any) -> None:
    def sources(context: str) -> Sources:
        return Sources(Environment(name="lab", kubernetes=Settings(kubeconfig=any_cluster.kubeconfig, context=context)))

    sources("lab").check_namespace("default")
    with pytest.raises(InputError, match="default"):
        sources("lab").check_namespace("defualt")
    sources("lab-nobody").check_namespace("defualt")  # may not look: that becomes a gap, later
