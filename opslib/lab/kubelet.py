"""Plays the kubelet of every node: registers the nodes, keeps them ready, and runs what is scheduled to them.

"Running" a pod means to write the status that a kubelet would write when all goes well. A pod with the annotation
``lab.opslib/hold: "true"`` is left alone until it is deleted, and with "forever" then too: who breaks the cluster writes its status. A node
with ``lab.opslib/hold: "true"`` stops answering, as a lost one does. What it serves of its containers is `opslib.lab.containers`.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.containers import Containers
from opslib.lab.holds import Holds
from opslib.lab.informer import Informer
from opslib.lab.serving import Served
from opslib.lab.world.manifests import node_conditions, node_object, node_status
from opslib.lab.world.platform import NODES, Node

HOLD = "lab.opslib/hold"
RUN_SECONDS = "lab.opslib/run-seconds"  # annotation on a Job's pod: how long it runs

_LEASE_SECONDS = 40


class Kubelet:
    """The kubelets of all nodes.

    Parameters
    ----------
    folder
        The lab's folder; its ``logs`` are served.
    port
        Where the API server finds the kubelet, on the loopback.
    certificate, key, ca
        Its serving certificate, and the authority of the clients' certificates (PEM files).
    nodes
        The machines. A node that is not there yet is registered.
    """

    def __init__(self, api: Api, folder: Path, port: int, *, certificate: Path, key: Path, ca: Path, nodes: Sequence[Node] = NODES) -> None:
        self.api = api
        self._machines = {node.name: node for node in nodes}
        self.holds = Holds(folder)
        self.pods = Informer(api, "/api/v1/pods", self._pod_changed)
        self.nodes = Informer(api, "/api/v1/nodes")
        self.containers = Containers(api, folder / "logs", self.pods, self.nodes)
        self.containers.lost = self._is_held_node
        self._port = port
        self._tls = (certificate, key, ca)
        self._workers = ThreadPoolExecutor(8, thread_name_prefix="kubelet")
        self._stop = threading.Event()
        self._served: Served | None = None
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._addresses = itertools.count(2)
        self._wake = threading.Condition()
        self._ending: set[str] = set()  # uids whose end is already planned

    def start(self) -> None:
        """Register the nodes and begin; returns when pods can be scheduled to them."""
        certificate, key, ca = self._tls
        self._served = Served(self.containers.application(), self._port, certificate=certificate, key=key, ca=ca)
        self.nodes.start()
        self.nodes.synced.wait(10)
        for done in [self._workers.submit(self._register, node) for node in self._machines.values()]:
            done.result()
        threading.Thread(target=self._keep_alive, name="node leases", daemon=True).start()
        threading.Thread(target=self._run_later, name="kubelet clock", daemon=True).start()
        self.pods.start()
        # the controller takes the taint of a node that is not ready away a moment after it is
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not self._stop.wait(0.1):
            if not any(node["spec"].get("taints") for node in self.nodes.objects()):
                return

    def close(self) -> None:
        """Stop playing."""
        self._stop.set()
        self.pods.close()
        self.nodes.close()
        with self._wake:
            self._wake.notify_all()
        self._workers.shutdown(wait=False, cancel_futures=True)
        if self._served is not None:
            self._served.close()

    # --- nodes ---

    def _register(self, node: Node) -> None:
        there = self.nodes.get("", node.name)
        if there is None:
            self.api.apply({key: value for key, value in node_object(node).items() if key != "status"})
        port = (there or {}).get("status", {}).get("daemonEndpoints", {}).get("kubeletEndpoint", {}).get("Port")
        if not self._is_held_node(node.name):
            if port != self._port or not self._is_ready_node(node.name):
                self._write_node_status(node)
            self._renew(node.name)

    def _write_node_status(self, node: Node) -> None:
        now = time.time()
        there = self.nodes.get("", node.name) if self.nodes.synced.is_set() else None
        before = {one["type"]: one for one in (there or {}).get("status", {}).get("conditions", [])}
        conditions = node_conditions(now, now)
        for one in conditions:
            old = before.get(one["type"], {})
            if old.get("status") == one["status"]:
                one["lastTransitionTime"] = old["lastTransitionTime"]
        endpoint = {"kubeletEndpoint": {"Port": self._port}}
        status = {**node_status(node), "conditions": conditions, "daemonEndpoints": endpoint}
        self.api.patch(f"/api/v1/nodes/{node.name}", {"status": status}, "merge", subresource="status")

    def _renew(self, name: str) -> None:
        """Give the sign of life of a node."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"
        try:
            self.api.patch(path, {"spec": {"renewTime": now}})
        except ApiError as error:
            if error.status != 404:
                raise
            self._make_lease(name, now)

    def _make_lease(self, name: str, now: str) -> None:
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now},
        }
        deadline = time.monotonic() + 20
        while not self._stop.is_set():
            try:
                self.api.apply(lease)
            except ApiError as error:
                if error.status != 404 or time.monotonic() > deadline:  # the namespace is made a moment after the start
                    raise
                self._stop.wait(0.1)
            else:
                return

    def _keep_alive(self) -> None:
        rounds = 0
        while not self._stop.wait(10):
            rounds += 1
            with contextlib.suppress(RuntimeError, CancelledError):  # the workers were stopped in this moment
                # side by side: many nodes must not wait for one another longer than they are waited for
                for done in [self._workers.submit(self._look_after, node, rounds) for node in self._machines.values()]:
                    done.exception()

    def _look_after(self, node: Node, rounds: int) -> None:
        """A node's sign of life; each minute, or where it is not ready, its status too."""
        if self._is_held_node(node.name) or self.nodes.get("", node.name) is None:  # one that was deleted does not come back by itself
            return
        with contextlib.suppress(ApiError):  # the server is away or the node was deleted; the next round tries again
            self._renew(node.name)
            if rounds % 6 == 0 or not self._is_ready_node(node.name):
                self._write_node_status(node)

    def _is_held_node(self, name: str) -> bool:
        node = self.nodes.get("", name)
        return self.holds.node(name) or (node is not None and node["metadata"].get("annotations", {}).get(HOLD) == "true")

    def _is_ready_node(self, name: str) -> bool:
        node = self.nodes.get("", name)
        conditions = (node or {}).get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    # --- pods ---

    def look_again(self) -> None:
        """Look at all pods once more: some may be held no longer."""
        for pod in self.pods.objects():
            self._pod_changed("MODIFIED", pod)

    def _pod_changed(self, event: str, pod: Object) -> None:
        if event == "DELETED":
            self._ending.discard(pod["metadata"]["uid"])
            return
        if self._is_ours(pod) and not self._stop.is_set():
            self._workers.submit(self._sync, pod)
        node = pod["spec"].get("nodeName", "")
        if node and pod["spec"].get("ephemeralContainers") and not self._is_held_node(node) and not self._stop.is_set():
            self._workers.submit(self.containers.begin_added, pod)

    def _is_ours(self, pod: Object) -> bool:
        node = pod["spec"].get("nodeName", "")
        hold = pod["metadata"].get("annotations", {}).get(HOLD) or self.holds.pod(pod)
        held = hold == "forever" or (hold == "true" and "deletionTimestamp" not in pod["metadata"])
        return not held and node in self._machines and not self._is_held_node(node)

    def _sync(self, pod: Object) -> None:
        try:
            metadata, status = pod["metadata"], pod.get("status", {})
            if "deletionTimestamp" in metadata:
                if metadata["uid"] not in self._ending:
                    self._ending.add(metadata["uid"])
                    # the containers end quickly when asked to
                    grace = float(metadata.get("deletionGracePeriodSeconds") or 0)
                    self._after(min(grace, 1), lambda: self._remove(pod))
                return
            if status.get("phase") in ("Succeeded", "Failed"):
                return
            if status.get("phase") == "Running" and _ready(status) == "True" and not pod["spec"].get("readinessGates"):
                return
            wanted = self._running_status(pod)
            if status.get("phase") == "Running" and _ready(status) == _ready(wanted):
                return
            if status.get("phase") != "Running":
                self.containers.begin(pod)
                if any(owner["kind"] == "Job" for owner in metadata.get("ownerReferences", [])):
                    seconds = float(metadata.get("annotations", {}).get(RUN_SECONDS, "3"))
                    self._after(seconds, lambda: self._complete(pod))
            self.api.patch(_path(pod), {"metadata": {"uid": metadata["uid"]}, "status": wanted}, subresource="status")
        except ApiError:
            return  # gone or changed in the meantime: another event tells

    def _running_status(self, pod: Object) -> Object:
        now = _now()
        spec, before = pod["spec"], pod.get("status", {})
        started = before.get("startTime", now)
        conditions = {one["type"]: one for one in before.get("conditions", [])}
        gates = [gate["conditionType"] for gate in spec.get("readinessGates", [])]
        ready = all(conditions.get(gate, {}).get("status") == "True" for gate in gates)
        for kind, value in (
            ("PodReadyToStartContainers", True),
            ("Initialized", True),
            ("ContainersReady", True),
            ("Ready", ready),
            ("PodScheduled", True),
        ):
            word = str(value)
            if conditions.get(kind, {}).get("status") != word:
                conditions[kind] = {"type": kind, "status": word, "lastTransitionTime": now}
        if not ready:
            conditions["Ready"] |= {"reason": "ReadinessGatesNotReady", "message": 'the status of pod readiness gates is not "True"'}
        address = before.get("podIP") or self._address(spec["nodeName"])
        host = self._machines[spec["nodeName"]].address
        status: Object = {
            "phase": "Running",
            "conditions": list(conditions.values()),
            "startTime": started,
            "hostIP": host,
            "hostIPs": [{"ip": host}],
            "podIP": address,
            "podIPs": [{"ip": address}],
            "qosClass": before.get("qosClass", "Burstable"),
            "containerStatuses": [_container(pod, one, {"running": {"startedAt": started}}) for one in spec["containers"]],
        }
        inits = spec.get("initContainers", [])
        if inits:
            ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": started, "finishedAt": started}}
            status["initContainerStatuses"] = [
                _container(pod, one, {"running": {"startedAt": started}} if one.get("restartPolicy") == "Always" else ended)
                for one in inits
            ]
        return status

    def _complete(self, pod: Object) -> None:
        """A Job's pod has done its work."""
        try:
            now = self.api.get(_path(pod))
            status = now.get("status", {})
            if now["metadata"]["uid"] != pod["metadata"]["uid"] or status.get("phase") != "Running":
                return
            end = _now()
            ended = [
                _container(
                    pod, one, {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": status["startTime"], "finishedAt": end}}
                )
                for one in pod["spec"]["containers"]
            ]
            conditions = [
                {**one, "status": "False", "reason": "PodCompleted", "lastTransitionTime": end}
                if one["type"] in ("Ready", "ContainersReady")
                else {**one, "reason": "PodCompleted"}
                if one["type"] == "Initialized"
                else one
                for one in status["conditions"]
            ]
            body = {"phase": "Succeeded", "conditions": conditions, "containerStatuses": ended}
            self.api.patch(_path(pod), {"status": body}, subresource="status")
        except ApiError:
            return

    def _remove(self, pod: Object) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        try:
            self.api.request("DELETE", _path(pod), options)
        except ApiError:
            return

    def _address(self, node: str) -> str:
        """An address that no pod has, in the part of the network that is the zone's."""
        zones = sorted({one.zone for one in self._machines.values()})
        first = 64 * (1 + zones.index(self._machines[node].zone) % 3)
        for number in self._addresses:
            address = f"10.0.{first + number // 250 % 64}.{number % 250 + 2}"
            if address not in self._taken:
                return address
        raise AssertionError("numbers do not end")

    @cached_property
    def _taken(self) -> set[str]:
        """The addresses of the pods that were there at the start."""
        return {pod.get("status", {}).get("podIP", "") for pod in self.pods.objects()}

    # --- clock ---

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        with self._wake:
            heapq.heappush(self._later, (time.monotonic() + seconds, next(self._sequence), action))
            self._wake.notify()

    def _run_later(self) -> None:
        while not self._stop.is_set():
            with self._wake:
                while not self._later and not self._stop.is_set():
                    self._wake.wait()
                if self._stop.is_set():
                    return
                due, _number, action = self._later[0]
                rest = due - time.monotonic()
                if rest > 0:
                    self._wake.wait(rest)
                    continue
                heapq.heappop(self._later)
            self._workers.submit(action)


def _ready(status: Object) -> str:
    return next((str(one["status"]) for one in status.get("conditions", []) if one["type"] == "Ready"), "")


def _container(pod: Object, container: Object, state: Object) -> Object:
    running = "running" in state
    image = container.get("image", "")
    before = (*pod.get("status", {}).get("containerStatuses", []), *pod.get("status", {}).get("initContainerStatuses", []))
    restarts = next((one.get("restartCount", 0) for one in before if one["name"] == container["name"]), 0)
    return {
        "name": container["name"],
        "image": image,
        "imageID": f"{image.partition('@')[0].rpartition(':')[0] or image}@sha256:{_digest(image)}",
        "containerID": f"containerd://{_digest(pod['metadata']['uid'] + container['name'])}",
        "ready": running or (state.get("terminated", {}).get("exitCode") == 0 and container in pod["spec"].get("initContainers", [])),
        "started": running,
        "restartCount": restarts,
        "state": state,
    }


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
