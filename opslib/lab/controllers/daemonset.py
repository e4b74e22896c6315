"""DaemonSets: a pod on every node that may have one (pkg/controller/daemon)."""

from __future__ import annotations

import copy

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers import revisions
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.hashing import template_hash
from opslib.lab.controllers.objects import (
    annotations_of,
    claim,
    create_pod,
    created,
    delete_pod,
    is_available,
    is_deleted,
    is_ready,
    itself,
    key_of,
    labels_of,
    name_of,
    owner_of_kind,
    pod_from,
    scaled,
    split,
)
from opslib.lab.controllers.replicaset import soonest
from opslib.lab.controllers.runner import Controller
from opslib.lab.controllers.scheduler.filters import selects, tolerates

SOURCE = "daemonset-controller"
REVISION = "controller-revision-hash"
_GENERATION = "pod-template-generation"
_GENERATION_ANNOTATION = "deprecated.daemonset.template.generation"

# what every daemon's pod can live with
_TOLERATIONS = [
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/disk-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/pid-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
]
_NETWORK_TOLERATION = {"key": "node.kubernetes.io/network-unavailable", "operator": "Exists", "effect": "NoSchedule"}


class _Round:
    """One round for one set."""

    def __init__(self, cluster: Cluster, owner: Object) -> None:
        self.cluster = cluster
        self.owner = owner
        self.spec: Object = owner["spec"]
        self.min_ready = int(self.spec.get("minReadySeconds", 0))
        self.by_node: dict[str, list[Object]] = {}
        for pod in claim(cluster, owner, "pods"):
            self.by_node.setdefault(node_of(pod), []).append(pod)
        self.nodes = sorted(cluster["nodes"].list(), key=name_of)
        self.fits = {name_of(node): _may_have(self.spec["template"]["spec"], node) for node in self.nodes}

    def run(self) -> float | None:
        cluster, owner = self.cluster, self.owner
        history = revisions.history_of(cluster, owner)
        template = self.spec["template"]
        update, _count = revisions.current(
            cluster, owner, history, lambda count: template_hash(template, count or owner.get("status", {}).get("collisionCount")), REVISION
        )
        hashed = labels_of(update).get(REVISION, "")
        failure: ApiError | None = None
        if not is_deleted(owner):
            failure = self._manage(hashed)
            if failure is None and self.spec.get("updateStrategy", {}).get("type", "RollingUpdate") == "RollingUpdate":
                failure = self._roll(hashed)
        cluster.write_status(owner, self._status(hashed))
        used = {f"{name_of(owner)}-{hashed}"} | {f"{name_of(owner)}-{labels_of(pod).get(REVISION)}" for pod in self._pods()}
        revisions.truncate(cluster, owner, revisions.history_of(cluster, owner), used)
        if failure is not None:
            raise failure
        return soonest(cluster, self._pods(), self.min_ready)

    def _pods(self) -> list[Object]:
        return [pod for pods in self.by_node.values() for pod in pods]

    def _manage(self, hashed: str) -> ApiError | None:
        cluster = self.cluster
        wanted: list[str] = []
        extra: list[Object] = []
        surge = bool((self.spec.get("updateStrategy", {}).get("rollingUpdate") or {}).get("maxSurge"))
        for node in self.nodes:
            run, stay = self.fits[name_of(node)]
            pods = self.by_node.get(name_of(node), [])
            if run and not pods:
                wanted.append(name_of(node))
            elif stay:
                alive = []
                for pod in pods:
                    phase = pod.get("status", {}).get("phase")
                    if is_deleted(pod):
                        continue
                    if phase == "Failed":
                        message = f"Found failed daemon pod {key_of(pod)} on node {name_of(node)}, will try to kill it"
                        cluster.event(SOURCE, self.owner, "Warning", "FailedDaemonPod", message)
                        extra.append(pod)
                    elif phase == "Succeeded":
                        message = f"Found succeeded daemon pod {key_of(pod)} on node {name_of(node)}, will try to delete it"
                        cluster.event(SOURCE, self.owner, "Normal", "SucceededDaemonPod", message)
                        extra.append(pod)
                    else:
                        alive.append(pod)
                if not surge:
                    extra += sorted(alive, key=created)[1:]
            else:
                extra += [pod for pod in pods if not is_deleted(pod)]
        known = {name_of(node) for node in self.nodes}
        extra += [pod for node, pods in self.by_node.items() if node not in known for pod in pods if not is_deleted(pod) and node]
        failure: ApiError | None = None
        for name in wanted:
            try:
                create_pod(cluster, SOURCE, self.owner, self._pod(name, hashed))
            except ApiError as error:
                failure = error
        for pod in extra:
            try:
                delete_pod(cluster, SOURCE, self.owner, pod)
            except ApiError as error:
                failure = error
        return failure

    def _pod(self, node: str, hashed: str) -> Object:
        pod = pod_from(self.spec["template"], self.owner)
        labels = {**(pod["metadata"].get("labels") or {}), REVISION: hashed}
        if _GENERATION_ANNOTATION in annotations_of(self.owner):
            labels[_GENERATION] = annotations_of(self.owner)[_GENERATION_ANNOTATION]
        pod["metadata"]["labels"] = labels
        spec = pod["spec"]
        tolerations = list(spec.get("tolerations") or ())
        for one in [*_TOLERATIONS, *([_NETWORK_TOLERATION] if spec.get("hostNetwork") else [])]:
            if one not in tolerations:
                tolerations.append(one)
        spec["tolerations"] = tolerations
        spec["affinity"] = _only_on(spec.get("affinity"), node)
        return pod

    def _roll(self, hashed: str) -> ApiError | None:
        """End old pods, as many as may be missing; or with a surge, make the new ones first."""
        rolling = self.spec.get("updateStrategy", {}).get("rollingUpdate") or {}
        desired = sum(run for run, _stay in self.fits.values())
        most = scaled(rolling.get("maxUnavailable", 1), desired, up=True)
        surge = scaled(rolling.get("maxSurge", 0), desired, up=True)
        if not most and not surge:
            most = 1
        return self._roll_with_surge(hashed, surge) if surge else self._roll_without(hashed, most)

    def _sorted(self, pods: list[Object], hashed: str) -> tuple[Object | None, Object | None]:
        """The new and the old pod of a node."""
        new = next((pod for pod in pods if labels_of(pod).get(REVISION) == hashed), None)
        old = next((pod for pod in pods if labels_of(pod).get(REVISION) != hashed), None)
        return new, old

    def _roll_without(self, hashed: str, most: int) -> ApiError | None:
        missing = 0
        replace: list[Object] = []
        candidates: list[Object] = []
        for node in self.nodes:
            run, _stay = self.fits[name_of(node)]
            new, old = self._sorted(self.by_node.get(name_of(node), []), hashed)
            if not run and not (new or old):
                continue
            if old is not None and new is None:
                if is_deleted(old):
                    missing += 1
                elif not is_available(self.cluster, old, self.min_ready):
                    missing += 1
                    replace.append(old)
                else:
                    candidates.append(old)
            elif new is None or old is not None or not is_available(self.cluster, new, self.min_ready):
                missing += 1
        return self._end([*replace, *candidates[: max(0, most - missing)]])

    def _roll_with_surge(self, hashed: str, surge: int) -> ApiError | None:
        failure: ApiError | None = None
        going = 0
        waiting: list[str] = []
        ending: list[Object] = []
        for node in self.nodes:
            run, _stay = self.fits[name_of(node)]
            new, old = self._sorted(self.by_node.get(name_of(node), []), hashed)
            if old is None:
                continue
            if new is None:
                if not run:
                    continue
                waiting.append(name_of(node))
            elif is_available(self.cluster, new, self.min_ready):
                if not is_deleted(old):
                    ending.append(old)
            else:
                going += 1
        for name in waiting[: max(0, surge - going)]:
            try:
                create_pod(self.cluster, SOURCE, self.owner, self._pod(name, hashed))
            except ApiError as error:
                failure = error
        return self._end(ending) or failure

    def _end(self, pods: list[Object]) -> ApiError | None:
        failure: ApiError | None = None
        for pod in pods:
            try:
                delete_pod(self.cluster, SOURCE, self.owner, pod)
            except ApiError as error:
                failure = error
        return failure

    def _status(self, hashed: str) -> Object:
        count = dict.fromkeys(("desired", "scheduled", "misscheduled", "ready", "available", "updated"), 0)
        for node in self.nodes:
            run, _stay = self.fits[name_of(node)]
            pods = sorted(self.by_node.get(name_of(node), []), key=lambda pod: (not is_ready(pod), created(pod)))
            if run:
                count["desired"] += 1
                if pods:
                    count["scheduled"] += 1
                    count["ready"] += is_ready(pods[0])
                    count["available"] += is_available(self.cluster, pods[0], self.min_ready)
                    count["updated"] += labels_of(pods[0]).get(REVISION) == hashed
            elif pods:
                count["misscheduled"] += 1
        status = {
            "currentNumberScheduled": count["scheduled"],
            "numberMisscheduled": count["misscheduled"],
            "desiredNumberScheduled": count["desired"],
            "numberReady": count["ready"],
            "observedGeneration": self.owner["metadata"].get("generation", 0),
            "updatedNumberScheduled": count["updated"],
            "numberAvailable": count["available"],
            "numberUnavailable": count["desired"] - count["available"],
        }
        always = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")
        before = self.owner.get("status", {})
        kept = {name: before[name] for name in ("collisionCount", "conditions") if name in before}
        return kept | {name: value for name, value in status.items() if value or name in always}


def node_of(pod: Object) -> str:
    """The node that a daemon's pod is on or meant for; "" for none."""
    if pod["spec"].get("nodeName"):
        return str(pod["spec"]["nodeName"])
    affinity = ((pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in affinity.get("nodeSelectorTerms") or ():
        for one in term.get("matchFields") or ():
            if one["key"] == "metadata.name":
                return str(one["values"][0])
    return ""


def _may_have(spec: Object, node: Object) -> tuple[bool, bool]:
    """Whether a daemon's pod should run on a node, and whether one that runs there may stay."""
    if (spec.get("nodeName") and spec["nodeName"] != name_of(node)) or not selects(node, spec):
        return False, False
    tolerations = [*(spec.get("tolerations") or ()), *_TOLERATIONS, *([_NETWORK_TOLERATION] if spec.get("hostNetwork") else [])]
    taints = [one for one in node["spec"].get("taints") or () if not tolerates(tolerations, one)]
    run = not any(one["effect"] in ("NoSchedule", "NoExecute") for one in taints)
    return run, not any(one["effect"] == "NoExecute" for one in taints)


def _only_on(affinity: Object | None, node: str) -> Object:
    """An affinity that allows this node alone."""
    made = copy.deepcopy(affinity) if affinity else {}
    fields = [{"key": "metadata.name", "operator": "In", "values": [node]}]
    nodes = made.setdefault("nodeAffinity", {})
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = (nodes.get(key) or {}).get("nodeSelectorTerms") or [{}]
    nodes[key] = {"nodeSelectorTerms": [{**term, "matchFields": fields} for term in terms]}
    return made


def _reconcile(cluster: Cluster, key: str) -> float | None:
    owner = cluster["daemonsets.apps"].get(*split(key))
    if owner is None:
        return None
    if owner["spec"].get("selector") == {}:
        message = "This daemon set is selecting all pods. A non-empty selector is required."
        cluster.event(SOURCE, owner, "Warning", "SelectingAll", message)
        return None
    return _Round(cluster, owner).run()


def _of_node(cluster: Cluster, node: Object) -> list[str]:
    """All sets where a node is new, gone, or differs in what they ask of it."""
    now = cluster["nodes"].get("", name_of(node))
    if now is not None and now is not node and labels_of(now) == labels_of(node) and now["spec"] == node["spec"]:
        return []
    return [key_of(one) for one in cluster["daemonsets.apps"].list()]


DAEMON_SET = Controller(
    name="daemonset",
    reconcile=_reconcile,
    watches={
        "daemonsets.apps": itself,
        "pods": owner_of_kind("DaemonSet"),
        "nodes": _of_node,
        "controllerrevisions.apps": lambda cluster, obj: (),
    },
)
