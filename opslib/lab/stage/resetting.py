"""What a reset puts back beyond what the player and the notes know: nodes that were deleted, claims that grew, pods that were killed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opslib.lab.world.faults import MemoryLeak, NodeDown
from opslib.lab.world.manifests import nodes as manifests_of_nodes

if TYPE_CHECKING:
    from opslib.lab.stage.acts import Cluster
    from opslib.lab.world.model import World

SECONDS = 30.0


def nodes(cluster: Cluster, world: World) -> None:
    """Nodes that a scenario lost and somebody deleted are there again; their kubelet makes them ready."""
    lost = {timed.fault.node for timed in world.faults if isinstance(timed.fault, NodeDown)}
    for node in manifests_of_nodes(world):
        if node["metadata"]["name"] in lost and cluster.get(f"/api/v1/nodes/{node['metadata']['name']}") is None:
            cluster.api.apply({key: value for key, value in node.items() if key != "status"})


def leftovers(cluster: Cluster, world: World) -> int:
    """Pods whose restarts stay in their status are made anew, and claims are as large as they were; how many objects that were."""
    count = 0
    for timed in world.faults:
        if isinstance(timed.fault, MemoryLeak) and not timed.fault.release:
            for pod in cluster.pods(world.services[world.places[timed.service]]):
                cluster.api.delete(cluster.api.path_of(pod), grace_seconds=0)
                count += 1
        if timed.fault.kind == "volume_fill":
            service = world.services[world.places[timed.service]]
            count += _shrink(cluster, service.namespace, f"{service.name}-{timed.fault.replica}", service.volume_bytes)
    return count


def _shrink(cluster: Cluster, namespace: str, pod: str, size: float) -> int:
    """A claim that grew is made anew, with its volume, while its pod is away: a claim never shrinks."""
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/data-{pod}"
    claim = cluster.get(path)
    wanted = f"{size / 2**30:.0f}Gi"
    if claim is None or claim["spec"]["resources"]["requests"]["storage"] == wanted:
        return 0
    volume = cluster.get(f"/api/v1/persistentvolumes/{claim['spec'].get('volumeName', '')}")
    cluster.api.delete(path)
    deadline = time.monotonic() + SECONDS
    while cluster.get(path) == claim or (cluster.get(path) or {}).get("metadata", {}).get("uid") == claim["metadata"]["uid"]:
        cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/{pod}", grace_seconds=0)  # the claim goes once nothing uses it
        if time.monotonic() > deadline:
            return 0
        time.sleep(0.2)
    if volume is not None:
        where = f"/api/v1/persistentvolumes/{volume['metadata']['name']}"
        cluster.api.patch(where, {"metadata": {"finalizers": None}})
        cluster.api.delete(where)
        spec = {**volume["spec"], "capacity": {"storage": wanted}}
        spec["claimRef"] = {key: spec["claimRef"][key] for key in ("apiVersion", "kind", "namespace", "name") if key in spec["claimRef"]}
        kept = {key: volume["metadata"][key] for key in ("name", "labels", "annotations") if key in volume["metadata"]}
        cluster.api.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": kept, "spec": spec})
    return 1
