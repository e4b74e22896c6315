"""The scheduler: a node for every pod that asks for it (pkg/scheduler), with the real one's filters, words and preemption.

A pod that no node can take waits until something changes that could help: what refused it says what that is.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import condition_of, created, is_deleted, key_of, labels_of, name_of, namespace_of, uid_of
from opslib.lab.controllers.runner import Controller
from opslib.lab.controllers.scheduler import claims
from opslib.lab.controllers.scheduler.filters import Question, Refused, Verdict, is_bound, prepare, refuses
from opslib.lab.controllers.scheduler.nodes import NodeInfo, PodInfo
from opslib.lab.controllers.scheduler.preemption import preempt
from opslib.lab.controllers.scheduler.scores import best

SOURCE = "default-scheduler"
_QUEUE = "queue"
_FIRST_WAIT, _LAST_WAIT = 1.0, 10.0  # seconds until a refused pod is tried again, doubled each time
_ANYWAY = 300.0  # seconds after which a refused pod is tried again, even if nothing changed
_VOLUMES_SECONDS = 600.0
_AT_A_TIME = 16  # pods that are taken from the queue together; one of a higher priority waits for so many at most

# what can help a pod, by what refused it: changes of nodes always can
_HELPS = {
    "node": frozenset(["node"]),
    "pods": frozenset(["node", "pod gone"]),
    "count": frozenset(["node", "pod gone", "small pod gone"]),
    "volumes": frozenset(["node", "volume"]),
    "spread": frozenset(["node", "pod gone", "small pod gone", "pod"]),
    "affinity": frozenset(["node", "pod gone", "small pod gone", "pod"]),
}


@dataclass(slots=True)
class _Pending:
    key: str
    attempts: int = 0
    not_before: datetime | None = None  # the pause after a refusal
    until: datetime | None = None  # waits for a change, but no longer
    helps: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Assumed:
    """A pod that has a node, before the API server says so."""

    node: str
    info: PodInfo
    waiting: list[str] = field(default_factory=list)  # claims that must be bound first
    since: datetime | None = None


class Scheduler:
    """All of the scheduler's memory: nodes with their pods, and the pods that wait."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._nodes: dict[str, NodeInfo] = {}
        self._orphans: dict[str, dict[str, PodInfo]] = {}  # pods of nodes that are not there (yet)
        self._placed: dict[str, str] = {}  # node by pod
        self._pending: dict[str, _Pending] = {}
        self._assumed: dict[str, _Assumed] = {}
        self._hopes: dict[str, tuple[str, PodInfo]] = {}  # nominated node by pod
        self._binder = ThreadPoolExecutor(4, thread_name_prefix="binding")

    def controller(self) -> Controller:
        """As the runner wants it."""
        return Controller(
            name="scheduler",
            reconcile=self._reconcile,
            watches={
                "pods": self._pod,
                "nodes": self._node,
                "persistentvolumeclaims": self._volume,
                "persistentvolumes": self._volume,
                "storageclasses.storage.k8s.io": self._volume,
                "csinodes.storage.k8s.io": self._volume,
                "namespaces": lambda cluster, obj: (),
                "services": lambda cluster, obj: (),
                "replicasets.apps": lambda cluster, obj: (),
                "statefulsets.apps": lambda cluster, obj: (),
                "poddisruptionbudgets.policy": lambda cluster, obj: (),
            },
        )

    # --- changes ---

    def _pod(self, cluster: Cluster, pod: Object) -> Iterable[str]:
        uid = uid_of(pod)
        now = cluster["pods"].by_uid(uid)
        with self._lock:
            if now is None or now.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                self._pending.pop(uid, None)
                self._hopes.pop(uid, None)
                self._assumed.pop(uid, None)
                gone = self._take_off(uid)
                if gone is None:
                    return ()
                return self._help("pod gone" if gone.requests or gone.ports or gone.claims else "small pod gone")
            node = now["spec"].get("nodeName")
            if node:
                new = self._placed.get(uid) != node
                self._pending.pop(uid, None)
                self._hopes.pop(uid, None)
                self._assumed.pop(uid, None)
                if new or labels_of(pod) != labels_of(now) or pod["spec"] != now["spec"] or is_deleted(pod) != is_deleted(now):
                    self._take_off(uid)
                    self._put_on(node, uid, PodInfo.of(now))
                    return self._help("pod")
                self._keep_newest(node, uid, now)
                return ()
            if not self._is_ours(now):
                self._pending.pop(uid, None)
                return ()
            known = self._pending.get(uid)
            if known is None and uid not in self._assumed:
                self._pending[uid] = _Pending(key_of(now))
                return (_QUEUE,)
            if known is not None and (pod["spec"] != now["spec"] or labels_of(pod) != labels_of(now)):
                known.until = known.not_before = None
                return (_QUEUE,)
            return ()

    def _node(self, cluster: Cluster, node: Object) -> Iterable[str]:
        name = name_of(node)
        now = cluster["nodes"].get("", name)
        with self._lock:
            if now is None:
                gone = self._nodes.pop(name, None)
                if gone is not None:
                    self._orphans[name] = gone.pods
                return ()
            known = self._nodes.get(name)
            if known is None:
                known = self._nodes[name] = NodeInfo(now)
                for info in self._orphans.pop(name, {}).values():
                    known.add(info)
                return self._help("node")
            before, known.node = known.node, now
            same = (
                before["spec"] == now["spec"]
                and labels_of(before) == labels_of(now)
                and before.get("status", {}).get("allocatable") == now.get("status", {}).get("allocatable")
            )
            return () if same else self._help("node")

    def _volume(self, _cluster: Cluster, _obj: Object) -> Iterable[str]:
        with self._lock:
            if any(one.waiting for one in self._assumed.values()):
                self._help("volume")
                return (_QUEUE,)
            return self._help("volume")

    def _help(self, what: str) -> Iterable[str]:
        """Something changed: those pods that it could help are tried again, after their pause."""
        helped = [one for one in self._pending.values() if one.until is not None and what in one.helps]
        for one in helped:
            one.until = None
        return (_QUEUE,) if helped else ()

    @staticmethod
    def _is_ours(pod: Object) -> bool:
        spec = pod["spec"]
        return spec.get("schedulerName", SOURCE) == SOURCE and not spec.get("schedulingGates") and not is_deleted(pod)

    def _put_on(self, node: str, uid: str, info: PodInfo) -> None:
        self._placed[uid] = node
        if node in self._nodes:
            self._nodes[node].add(info)
        else:
            self._orphans.setdefault(node, {})[uid] = info

    def _keep_newest(self, node: str, uid: str, pod: Object) -> None:
        found = self._nodes.get(node)
        if found is not None and uid in found.pods and found.pods[uid].pod is not pod:
            found.renew(replace(found.pods[uid], pod=pod))

    def _take_off(self, uid: str) -> PodInfo | None:
        node = self._placed.pop(uid, None)
        if node is None:
            return None
        return self._nodes[node].remove(uid) if node in self._nodes else self._orphans.get(node, {}).pop(uid, None)

    # --- rounds ---

    def _reconcile(self, cluster: Cluster, _key: str) -> float | None:
        self._finish_volumes(cluster)
        while chosen := self._next(cluster):
            for uid in chosen:
                pod = cluster["pods"].by_uid(uid)
                if pod is not None and uid in self._pending:
                    self._schedule(cluster, uid, pod)
        return self._pause(cluster)

    def _next(self, cluster: Cluster) -> list[str]:
        """Of the pods that may be tried now, the first few: those of the highest priority, then the oldest."""
        now = cluster.now()
        with self._lock:
            if not self._nodes and not cluster["nodes"].synced:
                return []
            ready = []
            for uid, one in list(self._pending.items()):
                if (one.until is not None and one.until > now) or (one.not_before is not None and one.not_before > now):
                    continue
                pod = cluster["pods"].by_uid(uid)
                if pod is None or pod["spec"].get("nodeName"):
                    del self._pending[uid]
                    continue
                ready.append((-int(pod["spec"].get("priority") or 0), created(pod), one.key, uid))
            return [uid for *_order, uid in heapq.nsmallest(_AT_A_TIME, ready)]

    def _pause(self, cluster: Cluster) -> float | None:
        now = cluster.now()
        with self._lock:
            moments = [max(filter(None, (one.until, one.not_before)), default=now) for one in self._pending.values()]
            moments += [one.since + timedelta(seconds=_VOLUMES_SECONDS) for one in self._assumed.values() if one.waiting and one.since]
        return max(0.01, (min(moments) - now).total_seconds()) if moments else None

    def _schedule(self, cluster: Cluster, uid: str, pod: Object) -> None:
        with self._lock:
            nodes = sorted(self._nodes.values(), key=lambda one: one.name)
            info = PodInfo.of(pod)
            if not nodes:
                self._refuse(cluster, uid, pod, "no nodes available to schedule pods", {"node"})
                return
            try:
                question = prepare(cluster, info, self._with_hopes(uid, info, nodes))
            except Refused as refused:
                message = f"0/{len(nodes)} nodes are available: {refused.message}. not found"
                self._refuse(cluster, uid, pod, message, {"volumes"})
                return
            asked = [one for one in question.nodes if question.only is None or one.name in question.only]
            verdicts = {one.name: refuses(question, one) for one in asked}
            fitting = [one for one in asked if verdicts[one.name] is None]
            if fitting:
                node = next((one for one in fitting if one.name == pod.get("status", {}).get("nominatedNodeName")), None)
                self._take(cluster, uid, question, (node or best(question, fitting)).name)
                return
        refused_by = {name: verdict for name, verdict in verdicts.items() if verdict is not None}
        self._no_node(cluster, uid, question, refused_by)

    def _with_hopes(self, uid: str, info: PodInfo, nodes: list[NodeInfo]) -> list[NodeInfo]:
        """The nodes as they will be when more important pods, for which others have been ended, are on them."""
        hopes: dict[str, list[PodInfo]] = {}
        for other, (node, hoping) in self._hopes.items():
            if other != uid and hoping.priority >= info.priority:
                hopes.setdefault(node, []).append(hoping)
        if not hopes:
            return nodes
        seen = []
        for one in nodes:
            if one.name in hopes:
                one = one.copy()
                for hoping in hopes[one.name]:
                    one.add(hoping)
            seen.append(one)
        return seen

    def _no_node(self, cluster: Cluster, uid: str, question: Question, refused: dict[str, Verdict]) -> None:
        nodes, pod = question.nodes, question.pod
        reasons = Counter(reason for verdict in refused.values() for reason in verdict.reasons)
        if question.only is not None and len(refused) < len(nodes):
            reasons["node(s) didn't satisfy plugin(s) [NodeAffinity]"] += len(nodes) - len(refused)
        words = ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
        message = f"0/{len(nodes)} nodes are available: {words}."
        node, after = preempt(question, refused)
        if node:
            with self._lock:
                self._hopes[uid] = (node, question.info)
        else:
            message += f" no new claims to deallocate, {after}"
        self._refuse(cluster, uid, pod, message, {verdict.plugin for verdict in refused.values()} or {"node"}, hope=node)

    def _refuse(self, cluster: Cluster, uid: str, pod: Object, message: str, plugins: set[str], *, hope: str = "") -> None:
        now = cluster.now()
        with self._lock:
            pending = self._pending.get(uid)
            if pending is not None:
                pending.attempts += 1
                pending.not_before = now + timedelta(seconds=min(_FIRST_WAIT * 2 ** (pending.attempts - 1), _LAST_WAIT))
                pending.until = now + timedelta(seconds=_ANYWAY)
                pending.helps = frozenset(what for plugin in plugins for what in _HELPS[plugin])
                if hope:
                    pending.helps |= {"pod gone"}
        cluster.recorder.scheduling(pod, "Warning", "FailedScheduling", "Scheduling", message)
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": None,
            "lastTransitionTime": cluster.stamp(),
            "observedGeneration": pod["metadata"].get("generation", 1),
        }
        before = condition_of(pod, "PodScheduled")
        if before.get("status") == "False":
            condition["lastTransitionTime"] = before["lastTransitionTime"]
        status: Object = {}
        if any(before.get(name) != condition[name] for name in ("status", "reason", "message")):
            status["conditions"] = [condition]
        if hope and pod.get("status", {}).get("nominatedNodeName") != hope:
            status["nominatedNodeName"] = hope
        if status:
            try:
                cluster.patch(pod, {"metadata": {"uid": uid}, "status": status}, subresource="status")
            except ApiError as error:
                if error.status not in (404, 409, 422):
                    raise

    # --- binding ---

    def _take(self, cluster: Cluster, uid: str, question: Question, node: str) -> None:
        self._pending.pop(uid, None)
        self._hopes.pop(uid, None)
        waiting = [name_of(claim) for claim in question.waiting]
        self._assumed[uid] = _Assumed(node, question.info, waiting, cluster.now())
        self._put_on(node, uid, question.info)
        self._binder.submit(self._bind_soon, cluster, uid, question, node)

    def _bind_soon(self, cluster: Cluster, uid: str, question: Question, node: str) -> None:
        try:
            if question.waiting:
                found = cluster["nodes"].get("", node)
                if found is not None:
                    claims.ask_for(cluster, question.waiting, found)
                return  # `_finish_volumes` goes on when they are bound
            self._bind(cluster, question.pod, node)
        except ApiError as error:
            self._again(cluster, uid, question.pod, error)

    def _bind(self, cluster: Cluster, pod: Object, node: str) -> None:
        name, namespace = name_of(pod), namespace_of(pod)
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid_of(pod)},
            "target": target,
        }
        cluster.api.request("POST", f"/api/v1/namespaces/{namespace}/pods/{name}/binding", body)
        note = f"Successfully assigned {namespace}/{name} to {node}"
        cluster.recorder.scheduling(pod, "Normal", "Scheduled", "Binding", note)

    def _again(self, cluster: Cluster, uid: str, pod: Object, error: ApiError) -> None:
        """The pod could not be bound: it waits as before, if it is still there."""
        with self._lock:
            if self._assumed.pop(uid, None) is None:
                return
            self._take_off(uid)
            now = cluster["pods"].by_uid(uid)
            if error.status != 404 and now is not None and not now["spec"].get("nodeName"):
                pending = self._pending[uid] = _Pending(key_of(pod))
                pending.not_before = cluster.now() + timedelta(seconds=_FIRST_WAIT)
                self._help("pod gone")

    def _finish_volumes(self, cluster: Cluster) -> None:
        with self._lock:
            waiting = [(uid, one) for uid, one in self._assumed.items() if one.waiting]
        for uid, one in waiting:
            pod = one.info.pod
            found = [cluster["persistentvolumeclaims"].get(namespace_of(pod), name) for name in one.waiting]
            if all(claim is not None and is_bound(claim) for claim in found):
                with self._lock:
                    one.waiting = []
                try:
                    self._bind(cluster, pod, one.node)
                except ApiError as error:
                    self._again(cluster, uid, pod, error)
            elif one.since is not None and (cluster.now() - one.since).total_seconds() > _VOLUMES_SECONDS:
                claims.give_up(cluster, [claim for claim in found if claim is not None])
                self._again(cluster, uid, pod, ApiError("", 408, "Timeout", ""))
                message = f'running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded'  # noqa: F541
                cluster.recorder.scheduling(pod, "Warning", "FailedScheduling", "Scheduling", message)
