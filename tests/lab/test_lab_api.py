"""The lab's client against the real API server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.errors import InputError
from opslib.lab.api import Api, ApiError
from opslib.lab.informer import Informer, shared
from tests.waiting import until

if TYPE_CHECKING:
    from tests.conftest import RealLab


texts = st.text("ab", max_size=2)
contents = st.recursive(
    texts | st.sampled_from((None, 0, 0.0, False, 1, 1.0, True)),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(texts, inside, max_size=3),
)


def config(name: str, space: str = "default", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": space}, "data": data}


def test_an_object_from_its_making_to_its_end(any_cluster: RealLab) -> None:
    api = any_cluster.api
    assert api.apply(config("life", one="1"))["data"] == {"one": "1"}
    path = api.path_of(config("life"))
    assert path == "/api/v1/namespaces/default/configmaps/life"
    assert api.apply(config("life", two="2"))["data"] == {"two": "2"}  # what is no longer applied is taken away
    assert api.patch(path, {"data": {"three": "3"}})["data"] == {"two": "2", "three": "3"}
    assert api.patch(path, [{"op": "remove", "path": "/data/two"}], "json")["data"] == {"three": "3"}
    assert api.replace(config("life", four="4"))["data"] == {"four": "4"}
    assert [one["kind"] for one in api.list("/api/v1/namespaces/default/configmaps", fields="metadata.name=life")] == ["ConfigMap"]
    with pytest.raises(ApiError) as caught:
        api.create(config("life"))
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    api.delete(path)
    api.delete(path)
    with pytest.raises(ApiError, match="404 NotFound"):
        api.delete(path, missing_ok=False)
    with pytest.raises(ApiError, match="404 NotFound"):
        api.get(path)


def test_status_is_written_apart(any_cluster: RealLab) -> None:
    api = any_cluster.api
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "apart"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    api.apply(claim)
    path = api.path_of(claim)
    assert api.patch(path, {"status": {"phase": "Lost"}})["status"]["phase"] == "Pending"
    assert api.patch(path, {"status": {"phase": "Lost"}}, subresource="status")["status"]["phase"] == "Lost"
    api.delete(path)


def test_paths_of_kinds_with_and_without_namespaces(any_cluster: RealLab) -> None:
    api = any_cluster.api
    metadata = {"name": "x", "namespace": "shop"}
    assert (
        api.path_of({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}) == "/apis/apps/v1/namespaces/shop/deployments/x"
    )
    assert api.path_of({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x"}}) == "/api/v1/nodes/x"
    networking = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata}
    assert api.path_of(networking, collection=True) == "/apis/networking.k8s.io/v1/namespaces/shop/ingresses"
    with pytest.raises(ApiError, match="no kind Cupboard in v1"):
        api.path_of({"apiVersion": "v1", "kind": "Cupboard", "metadata": metadata})


def test_a_long_list_comes_whole(any_cluster: RealLab) -> None:
    api = any_cluster.api
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "many"}})
    for number in range(1005):  # a page holds 1000
        api.create(config(f"c{number}", "many"))
    names = {one["metadata"]["name"] for one in api.list("/api/v1/namespaces/many/configmaps")}
    assert names >= {f"c{number}" for number in range(1005)}
    api.delete("/api/v1/namespaces/many")


@given(contents, contents)
def test_what_shares_with_another_is_the_same_as_before(new: Any, known: Any) -> None:
    assert json.dumps(shared(new, known), sort_keys=True) == json.dumps(new, sort_keys=True)  # 1 is not true, nor 1.0


def test_what_two_objects_have_in_common_is_there_once() -> None:
    first, second = ({"metadata": {"name": name}, "spec": {"containers": [{"image": "shop:1"}], "nodeName": name}} for name in "ab")
    lean = shared(second, first)
    assert lean == second
    assert lean["spec"]["containers"] is first["spec"]["containers"]


def test_an_informer_follows_many(any_cluster: RealLab) -> None:
    api, path = any_cluster.api, "/api/v1/namespaces/crowd/configmaps"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "crowd"}})
    names = {f"crowd-{number}" for number in range(300)}  # more than it reads at a time
    for name in names:
        api.create(config(name, "crowd"))
    informer = Informer(api, path)
    informer.start()
    assert informer.synced.wait(10)
    assert {one["metadata"]["name"] for one in informer.objects()} >= names
    api.delete("/api/v1/namespaces/crowd")
    until(lambda: not informer.objects(), "all are gone with their namespace")
    informer.close()


def test_an_informer_follows(any_cluster: RealLab) -> None:
    seen: list[tuple[str, str]] = []
    api = any_cluster.api
    api.apply(config("followed", state="old"))
    path = "/api/v1/namespaces/default/configmaps"
    informer = Informer(api, path, lambda event, obj: seen.append((event, obj["data"]["state"])), fields="metadata.name=followed")
    informer.start()
    assert informer.synced.wait(10)
    api.apply(config("followed", state="new"))
    api.delete(f"{path}/followed")
    deadline = time.monotonic() + 10
    while len(seen) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    informer.close()
    assert seen == [("ADDED", "old"), ("MODIFIED", "new"), ("DELETED", "new")]
    assert informer.objects() == []


def test_users_with_fewer_rights(any_cluster: RealLab) -> None:
    viewer = Api.from_kubeconfig(any_cluster.kubeconfig, "lab-viewer")
    assert viewer.list("/api/v1/namespaces/default/configmaps")
    with pytest.raises(ApiError, match='403 Forbidden: secrets is forbidden: User "viewer" cannot list'):
        viewer.list("/api/v1/namespaces/default/secrets")
    with pytest.raises(ApiError, match='403 Forbidden: pods is forbidden: User "nobody"'):
        Api.from_kubeconfig(any_cluster.kubeconfig, "lab-nobody").list("/api/v1/pods")


def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        Api.from_kubeconfig(tmp_path / "none")
    path = tmp_path / "kubeconfig"
    path.write_text("contexts: [")
    with pytest.raises(InputError, match="is not a kubeconfig that can be used"):
        Api.from_kubeconfig(path)
    path.write_text("{current-context: a, contexts: [], clusters: [], users: []}")
    with pytest.raises(InputError, match="nothing is called a"):
        Api.from_kubeconfig(path)
