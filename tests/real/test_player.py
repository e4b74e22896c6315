"""Faults are put on a real cluster and taken back whole; what is no fault's is not touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from opslib.errors import OpsError
from opslib.lab import player
from opslib.lab.api import ApiError
from opslib.lab.faults import LABEL

if TYPE_CHECKING:
    from tests.conftest import RealLab


@pytest.fixture
def cluster(any_cluster: RealLab) -> Iterator[RealLab]:
    yield any_cluster
    player.reset(any_cluster.api, logs=any_cluster.logs)


def test_logs_are_served_as_a_kubelet_does(cluster: RealLab) -> None:
    player.apply_fault(cluster.api, "crash-loop", namespace="logs", logs=cluster.logs)
    name = cluster.api.list("/api/v1/namespaces/logs/pods")[0]["metadata"]["name"]
    assert "panic: rules are required" in cluster.kubectl("logs", "-n", "logs", name, "--previous")
    assert "BackOff" in cluster.kubectl("describe", "pod", "-n", "logs", name)
    player.reset(cluster.api, logs=cluster.logs)
    assert not list(cluster.logs.glob("logs/*/*.log"))


def test_broken_pods_can_be_deleted_and_rolled_back(cluster: RealLab) -> None:
    """What the runbook tells the operator to do works on them."""
    player.apply_fault(cluster.api, "change-image", namespace="undo")
    cluster.kubectl("rollout", "undo", "deployment/wishlist", "-n", "undo")
    cluster.kubectl("rollout", "status", "deployment/wishlist", "-n", "undo", "--timeout=30s")
    cluster.kubectl("wait", "pods", "-n", "undo", "-l", "release=42", "--for=delete", "--timeout=30s")


def test_same_fault_may_be_applied_again(cluster: RealLab) -> None:
    for _round in range(2):
        player.apply_fault(cluster.api, "secret-missing", namespace="twice")
        player.reset(cluster.api)
    assert player.reset(cluster.api) == 0


@pytest.mark.parametrize("name", ["unschedulable-taint", "unschedulable-cordoned", "node-lost"])
def test_node_gets_back_what_it_had(name: str, cluster: RealLab) -> None:
    def nodes() -> dict[str, Any]:
        """What a fault may change; taints of the cluster's own controllers follow the node's conditions in their own time."""
        return {
            node["metadata"]["name"]: (
                [taint["key"] for taint in node["spec"].get("taints", []) if not taint["key"].startswith("node.kubernetes.io/")],
                node["spec"].get("unschedulable", False),
                node["metadata"]["labels"],
                any_ready(node),
            )
            for node in cluster.api.list("/api/v1/nodes")
        }

    before = nodes()
    player.apply_fault(cluster.api, name)
    assert nodes() != before
    player.reset(cluster.api)
    assert nodes() == before


def any_ready(node: dict[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"]["conditions"])


def test_what_is_there_already_is_not_touched(cluster: RealLab) -> None:
    own = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "own"}}
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "parcels-settings", "namespace": "own"}, "data": {"MINE": "1"}}
    cluster.api.create(own)
    try:
        cluster.api.create(mine)
        with pytest.raises(OpsError, match="ConfigMap/parcels-settings is there already"):
            player.apply_fault(cluster.api, "config-key-missing", namespace="own")
        player.reset(cluster.api)
        assert cluster.api.get(cluster.api.path_of(mine))["data"] == {"MINE": "1"}
        with pytest.raises(OpsError, match="Namespace/own is there already"):
            player.apply_fault(cluster.api, "owner-pod-security", namespace="own")
        assert LABEL not in cluster.api.get(cluster.api.path_of(own))["metadata"].get("labels", {})
    finally:
        cluster.api.delete(cluster.api.path_of(own))


def test_edits_of_the_platform_are_put_back(cluster: RealLab) -> None:
    """The incident edits objects of the platform; here one of them stands alone."""
    from opslib.lab.faults import parse

    fault = parse(
        """
        name: edit
        title: An edit
        namespace: edited
        objects: []
        edits:
          - {kind: ConfigMap, metadata: {name: settings}, data: {TIMEOUT: never, NEW: "1"}}
          - {kind: Service, metadata: {name: web}, spec: {selector: {app: other}}}
        """,
        "edit.yaml",
    )
    cluster.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "edited"}})
    try:
        settings = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings", "namespace": "edited"},
            "data": {"TIMEOUT": "5s"},
        }
        spec = {"selector": {"app": "web"}, "ports": [{"port": 80}]}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "edited"}, "spec": spec}
        made = [cluster.api.create(obj) for obj in (settings, service)]
        for _round in range(2):  # a second edit must not take the first for what was there before
            player.apply_fault(cluster.api, fault)
        now = [cluster.api.get(cluster.api.path_of(obj)) for obj in made]
        assert now[0]["data"] == {"TIMEOUT": "never", "NEW": "1"}
        assert now[1]["spec"]["selector"] == {"app": "other"}
        player.reset(cluster.api)
        back = [cluster.api.get(cluster.api.path_of(obj)) for obj in made]
        assert [content(obj) for obj in back] == [content(obj) for obj in made]
    finally:
        cluster.api.delete("/api/v1/namespaces/edited")


def content(obj: dict[str, Any]) -> str:
    kept = {key: obj[key] for key in ("spec", "data") if key in obj}
    return json.dumps([kept, obj["metadata"].get("annotations"), obj["metadata"].get("labels")], sort_keys=True)


def test_unknown_kind_is_refused_with_the_servers_word(cluster: RealLab) -> None:
    from opslib.lab.faults import parse

    odd = "{name: odd, title: Odd, namespace: odd, objects: [{kind: Widget, apiVersion: v1, metadata: {name: w}}]}"
    with pytest.raises((OpsError, ApiError)):
        player.apply_fault(cluster.api, parse(odd, "odd.yaml"), timeout_seconds=1)
