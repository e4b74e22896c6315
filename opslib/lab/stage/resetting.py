"""What a reset puts back beyond what the player and the notes know: what was deleted, changed by hand, grew, or was killed."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from opslib.lab import installation
from opslib.lab.world.faults import MemoryLeak, NodeDown, VolumeFill
from opslib.lab.world.manifests import nodes as manifests_of_nodes
from opslib.lab.world.scenarios import holds

if TYPE_CHECKING:
    from opslib.lab.api import Object
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
    """Pods whose restarts stay in their status are made anew, and claims that grew, with their volumes; how many objects that were."""
    count = 0
    for timed in world.faults:
        if isinstance(timed.fault, MemoryLeak) and not timed.fault.release:
            for pod in cluster.pods(world.services[world.places[timed.service]]):
                cluster.api.delete(cluster.api.path_of(pod), grace_seconds=0)
                count += 1
        if isinstance(timed.fault, VolumeFill):
            service = world.services[world.places[timed.service]]
            count += _shrink(cluster, service.namespace, f"{service.name}-{timed.fault.replica}", service.volume_bytes)
    return count


def _shrink(cluster: Cluster, namespace: str, pod: str, size: float) -> int:
    """A claim never shrinks: it goes while its pod is away, and its StatefulSet makes another one."""
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/data-{pod}"
    claim = cluster.get(path)
    if claim is None or holds(f"== {size:.0f}", claim["spec"]["resources"]["requests"]["storage"]):
        return 0
    cluster.api.delete(path)
    deadline = time.monotonic() + SECONDS
    while (cluster.get(path) or {}).get("metadata", {}).get("uid") == claim["metadata"]["uid"] and time.monotonic() < deadline:
        cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/{pod}", grace_seconds=0)  # the claim goes once nothing uses it
        time.sleep(0.2)
    return 1


def platform(cluster: Cluster, world: World) -> int:
    """What is not as it was applied is applied again; how many objects that were.

    Certificates stay, since each is another one; of volumes and claims nothing can be put back.
    """
    there: dict[str, dict[tuple[str, str], Object]] = {}
    count = 0
    for obj in installation.objects(world):
        if obj["kind"] in ("PersistentVolume", "PersistentVolumeClaim"):
            continue
        kind = f"{obj['apiVersion']} {obj['kind']}"
        if kind not in there:
            collection = re.sub(r"/namespaces/[^/]+(?=/)", "", cluster.api.path_of(obj, collection=True))
            there[kind] = {_key(one): one for one in cluster.api.list(collection)}
        now = there[kind].get(_key(obj))
        if now is None or (obj["kind"] != "Secret" and not _within(obj, now)):
            cluster.api.apply({key: value for key, value in obj.items() if key != "status"})
            count += 1
    return count


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _within(wanted: Any, now: Any) -> bool:
    """Whether all that is wanted is so now. A quantity that is written otherwise counts as another one: it is only applied once more."""
    if isinstance(wanted, dict):
        return isinstance(now, dict) and all(key == "status" or _within(value, now.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(now, list) and len(wanted) == len(now) and all(_within(*pair) for pair in zip(wanted, now, strict=True))
    return bool(wanted == now)
