"""The played kubelet, seen through the real API server as kubectl sees it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from opslib.lab import kubelet
from opslib.lab.api import ApiError
from opslib.lab.world.platform import NODES
from tests.waiting import until

if TYPE_CHECKING:
    from tests.conftest import RealLab


# --- pods -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space(any_cluster: RealLab) -> str:
    any_cluster.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubelet-test"}})
    account = "/api/v1/namespaces/kubelet-test/serviceaccounts/default"

    def there() -> bool:
        try:
            return bool(any_cluster.api.get(account))
        except ApiError:
            return False

    until(there)
    return "kubelet-test"


def pod(name: str, space: str, **more: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "image": "example.com/x:1"}], **more.pop("spec", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": space, **more}, "spec": spec}


def status(lab: RealLab, space: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.api.get(f"/api/v1/namespaces/{space}/pods/{name}")["status"]
    return found


def test_nodes_stand_in_three_zones_and_are_ready(any_cluster: RealLab) -> None:
    nodes = any_cluster.api.list("/api/v1/nodes")
    assert len({node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes}) == 3
    assert any_cluster.kubectl("get", "nodes", "--no-headers").count(" Ready ") == len(nodes) == 6
    assert all(not node["spec"].get("taints") for node in nodes)


def test_a_deployment_rolls_out_and_over_and_away(any_cluster: RealLab, space: str) -> None:
    labels = {"app": "roll"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "roll", "namespace": space},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "example.com/roll:1"}]}},
        },
    }
    any_cluster.api.apply(deployment)
    any_cluster.kubectl("rollout", "status", "deployment/roll", "-n", space, "--timeout=60s")
    deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "example.com/roll:2"  # type: ignore[index]
    any_cluster.api.apply(deployment)
    any_cluster.kubectl("rollout", "status", "deployment/roll", "-n", space, "--timeout=60s")
    pods = f"/api/v1/namespaces/{space}/pods"
    until(lambda: len(any_cluster.api.list(pods, labels="app=roll")) == 3)
    assert {one["status"]["containerStatuses"][0]["image"] for one in any_cluster.api.list(pods, labels="app=roll")} == {
        "example.com/roll:2"
    }
    any_cluster.api.delete(f"/apis/apps/v1/namespaces/{space}/deployments/roll")
    until(lambda: not any_cluster.api.list(pods, labels="app=roll"))


def test_a_held_pod_is_left_alone(any_cluster: RealLab, space: str) -> None:
    """Until it is deleted; one that is held for ever then too."""
    for name, hold in (("held", "true"), ("stuck", "forever")):
        any_cluster.api.create(pod(name, space, annotations={kubelet.HOLD: hold}))
    any_cluster.api.create(pod("free", space))
    until(lambda: status(any_cluster, space, "free").get("phase") == "Running")
    assert status(any_cluster, space, "held")["phase"] == status(any_cluster, space, "stuck")["phase"] == "Pending"
    path = f"/api/v1/namespaces/{space}/pods"
    for name in ("stuck", "held", "free"):
        any_cluster.api.delete(f"{path}/{name}")
    until(lambda: [one["metadata"]["name"] for one in any_cluster.api.list(path)] == ["stuck"])
    assert "deletionTimestamp" in any_cluster.api.get(f"{path}/stuck")["metadata"]
    any_cluster.api.delete(f"{path}/stuck", grace_seconds=0)
    until(lambda: not any_cluster.api.list(path))


def test_a_job_completes(any_cluster: RealLab, space: str) -> None:
    template = {
        "metadata": {"annotations": {kubelet.RUN_SECONDS: "0.5"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.com/job:1"}]},
    }
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once", "namespace": space}, "spec": {"template": template}}
    any_cluster.api.apply(job)
    any_cluster.kubectl("wait", "--for=condition=complete", "job/once", "-n", space, "--timeout=60s")
    assert "Completed" in any_cluster.kubectl("get", "pods", "-n", space, "-l", "job-name=once")


def test_init_containers_end_and_sidecars_go_on(any_cluster: RealLab, space: str) -> None:
    inits = [{"name": "setup", "image": "example.com/x:1"}, {"name": "proxy", "image": "example.com/x:1", "restartPolicy": "Always"}]
    any_cluster.api.create(pod("sided", space, spec={"initContainers": inits}))
    until(lambda: status(any_cluster, space, "sided").get("phase") == "Running")
    assert any_cluster.kubectl("get", "pod", "sided", "-n", space, "--no-headers").split()[1:3] == ["2/2", "Running"]


def test_a_readiness_gate_is_waited_for(any_cluster: RealLab, space: str) -> None:
    any_cluster.api.create(pod("gated", space, spec={"readinessGates": [{"conditionType": "example.com/open"}]}))

    def ready() -> str:
        return next((one["status"] for one in status(any_cluster, space, "gated").get("conditions", []) if one["type"] == "Ready"), "")

    until(lambda: ready() == "False" and status(any_cluster, space, "gated")["phase"] == "Running")
    gate = {"type": "example.com/open", "status": "True"}
    path = f"/api/v1/namespaces/{space}/pods/gated"
    any_cluster.api.patch(path, {"status": {"conditions": [gate]}}, "strategic", subresource="status")
    until(lambda: ready() == "True")


def test_kubectl_logs(any_cluster: RealLab, space: str) -> None:
    any_cluster.api.create(pod("talks", space))
    until(lambda: status(any_cluster, space, "talks").get("phase") == "Running")
    folder = any_cluster.logs / space / "talks"
    until((folder / "main.log").exists)
    now = datetime.now(UTC)
    lines = [f"{(now - timedelta(seconds=age)).isoformat()} 行 {age}\n" for age in (3600, 60, 5)]
    (folder / "main.log").write_text("".join(lines))

    def logs(*words: str) -> str:
        return any_cluster.kubectl("logs", "talks", "-n", space, *words, check=False)

    assert logs() == "行 3600\n行 60\n行 5\n"
    assert logs("--tail=1") == "行 5\n"
    assert logs("--since=10m") == "行 60\n行 5\n"
    assert logs("--limit-bytes=5") == "行 3"
    assert logs("--timestamps", "--tail=1") == lines[-1]
    assert 'previous terminated container "main" in pod "talks" not found' in logs("--previous")
    (folder / "main.previous.log").write_text("last words\n")
    assert logs("--previous") == "last words\n"
    any_cluster.api.create(pod("silent", space, annotations={kubelet.HOLD: "true"}))
    until(lambda: any_cluster.api.get(f"/api/v1/namespaces/{space}/pods/silent")["spec"].get("nodeName"))
    state = {
        "name": "main",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"waiting": {"reason": "ErrImagePull"}},
    }
    path = f"/api/v1/namespaces/{space}/pods/silent"
    any_cluster.api.patch(path, {"status": {"containerStatuses": [state]}}, subresource="status")
    wanted = 'container "main" in pod "silent" is waiting to start: image can\'t be pulled'
    until(lambda: wanted in any_cluster.kubectl("logs", "silent", "-n", space, check=False))
    any_cluster.api.delete(path, grace_seconds=0)


def test_a_held_node_is_lost_and_comes_back(any_cluster: RealLab) -> None:
    path = f"/api/v1/nodes/{NODES[-1].name}"

    def ready() -> str:
        return next(str(one["status"]) for one in any_cluster.api.get(path)["status"]["conditions"] if one["type"] == "Ready")

    any_cluster.api.patch(path, {"metadata": {"annotations": {kubelet.HOLD: "true"}}})
    until(lambda: ready() == "Unknown", seconds=90)
    any_cluster.api.patch(path, {"metadata": {"annotations": {kubelet.HOLD: None}}})
    until(lambda: ready() == "True")
    until(lambda: not any_cluster.api.get(path)["spec"].get("taints"))
