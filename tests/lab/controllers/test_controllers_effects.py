"""What a fix changes has its effect in the cluster, on both engines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from opslib.lab.api import Api, ApiError, Object
from tests.conftest import RealLab
from tests.waiting import until

_SECONDS = 60
_NAMESPACE = "effects"


@pytest.fixture(scope="module")
def api(any_cluster: RealLab) -> Iterator[Api]:
    """A cluster with a namespace for this file and a storage class whose volumes may grow."""
    api = any_cluster.api
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}})
    account = f"/api/v1/namespaces/{_NAMESPACE}/serviceaccounts/default"
    until(lambda: found(api, account) is not None, "the namespace is furnished")
    for name, grows in (("growing", True), ("fixed", False)):
        kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "ebs.csi.aws.com"}
        api.create(kind | {"metadata": {"name": name}, "allowVolumeExpansion": grows})
    yield api
    api.delete(f"/api/v1/namespaces/{_NAMESPACE}")
    for name in ("growing", "fixed"):
        api.delete(f"/apis/storage.k8s.io/v1/storageclasses/{name}")


def found(api: Api, path: str) -> Object | None:
    try:
        return api.get(path)
    except ApiError as error:
        assert error.status == 404
        return None


def claim(api: Api, name: str, kind: str) -> str:
    """A claim of one gibibyte, bound; its path."""
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": kind, "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": name, "namespace": _NAMESPACE}
    api.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec})
    path = f"/api/v1/namespaces/{_NAMESPACE}/persistentvolumeclaims/{name}"
    until(lambda: api.get(path)["status"].get("phase") == "Bound", f"{name} is bound")
    return path


def larger(api: Api, path: str) -> None:
    api.patch(path, {"spec": {"resources": {"requests": {"storage": "3Gi"}}}})


def test_a_claim_that_is_expanded_grows_once_a_pod_uses_it(api: Api) -> None:
    path = claim(api, "data", "growing")
    volume = f"/api/v1/persistentvolumes/{api.get(path)['spec']['volumeName']}"
    larger(api, path)
    until(lambda: api.get(path)["status"].get("allocatedResourceStatuses") == {"storage": "NodeResizePending"}, "the volume has grown")
    status = api.get(path)["status"]
    assert api.get(volume)["spec"]["capacity"] == {"storage": "3Gi"}
    assert status["capacity"] == {"storage": "1Gi"}
    assert "FileSystemResizePending" in [one["type"] for one in status["conditions"]]
    spec = {"containers": [{"name": "db", "image": "db:1"}], "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "db", "namespace": _NAMESPACE}, "spec": spec})
    until(lambda: api.get(path)["status"]["capacity"] == {"storage": "3Gi"}, "the file system has grown")
    assert "conditions" not in api.get(path)["status"]

    def told() -> set[str]:
        events = api.list(f"/api/v1/namespaces/{_NAMESPACE}/events", fields="involvedObject.name=data")
        return {event["reason"] for event in events}

    until(
        lambda: {"ExternalExpanding", "Resizing", "FileSystemResizeRequired", "FileSystemResizeSuccessful"} <= told(), "events tell of it"
    )
    api.delete(f"/api/v1/namespaces/{_NAMESPACE}/pods/db", grace_seconds=0)
    api.delete(path)
    until(lambda: found(api, volume) is None, "the volume goes with its claim")


def test_a_claim_whose_class_forbids_it_does_not_grow(api: Api) -> None:
    path = claim(api, "small", "fixed")
    with pytest.raises(ApiError, match="only dynamically provisioned pvc can be resized") as refused:
        larger(api, path)
    assert refused.value.status == 403
    api.delete(path)


def test_a_taint_drives_pods_to_other_nodes(api: Api) -> None:
    labels = {"app": "moves"}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}}
    spec["template"] = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}
    api.create({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "moves", "namespace": _NAMESPACE}, "spec": spec})

    def nodes() -> list[str]:
        pods = api.list(f"/api/v1/namespaces/{_NAMESPACE}/pods", labels="app=moves")
        running = [pod for pod in pods if pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]]
        return [pod["spec"]["nodeName"] for pod in running]

    until(lambda: len(nodes()) == 2, "the pods run")
    node = f"/api/v1/nodes/{nodes()[0]}"
    api.patch(node, {"spec": {"taints": [{"key": "maintenance", "effect": "NoExecute"}]}})
    try:
        until(lambda: len(nodes()) == 2 and node.rpartition("/")[2] not in nodes(), "they run elsewhere")
    finally:
        api.patch(node, {"spec": {"taints": None}})
