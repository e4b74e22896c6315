"""Breaks the cluster on purpose: applies a fault's objects and plays the kubelet's part for their pods.

What the real scheduler and controllers do by themselves (an unschedulable pod, a refused quota, a pending claim) is left to them; the
player writes only what a kubelet would: a pod's status, its events, and the container's logs. It acts through the Kubernetes API alone.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opslib.errors import OpsError
from opslib.lab.api import Api, ApiError
from opslib.lab.faults import (
    BEFORE,
    CLUSTER_WIDE,
    HOLD,
    LABEL,
    VERSION_OF,
    Fault,
    NodePlay,
    Object,
    PodPlay,
    complete,
    complete_pod,
    holds_of,
    labels_of,
    load,
    merged,
    names,
    same,
)
from opslib.lab.faults.kubelet import event_of, filled, pod_status, stamp, usage_of
from opslib.lab.holds import Holds
from opslib.lab.notes import Notes, restored
from opslib.messages import _

__all__ = ["apply_fault", "load", "names", "reset"]

SECONDS_BEFORE_CHANGE = 2  # times in the API are whole seconds


# --- applying it ------------------------------------------------------------------------------------------------------------------------


def apply_fault(
    api: Api, name: str | Fault, namespace: str | None = None, *, logs: Path | None = None, timeout_seconds: float = 90
) -> Fault:
    """Break the cluster with the fault `name`; returns once the pods' states are written.

    Parameters
    ----------
    namespace
        Where; None: the fault's own.
    logs
        The folder ``logs`` of the lab, from which its kubelet serves them (``<namespace>/<pod>/<container>.log``). None: none are written,
        and what has to be kept about the fault stands in annotations in the cluster instead of in files of the lab.
    timeout_seconds
        How long to wait for the scheduler and the controllers.

    Raises
    ------
    InputError
        There is no such fault.
    OpsError
        The API server refused, or pods did not appear in time.
    """
    fault = load(name) if isinstance(name, str) else name
    place = namespace or fault.namespace
    deadline = time.monotonic() + timeout_seconds
    _ensure_namespace(api, place, fault, deadline)
    folder = None if logs is None else logs.parent
    if folder is not None:
        Holds(folder).add(*holds_of(fault, place))
    for node in fault.nodes:
        _change_node(api, node)
    objects = [complete(obj, fault, place, hold=folder is None) for obj in fault.objects]
    for obj in objects:
        _apply(api, obj, deadline)
    objects += [_edit(api, edit, fault, place, folder) for edit in fault.edits]
    if fault.changes:
        _wait_until_available(api, [obj for obj in objects if not _is_played(fault, obj)], deadline)
        for change in fault.changes:
            before = next((obj for obj in objects if same(obj, change)), {})
            after = complete(merged(before, change), fault, place, hold=folder is None)
            _apply(api, after, deadline)
            objects = [obj for obj in objects if obj is not before] + [after]
    played: set[str] = set()
    for rule in fault.pods:
        for pod in _take(api, rule, objects, rule.namespace or place, played, deadline):
            _play(api, rule, pod, logs)
    for node in fault.nodes:
        if node.lost:
            last = _last_node(api)
            if folder is None:
                api.patch(api.path_of(last), {"metadata": {"annotations": {HOLD: "true"}}})
            else:
                Holds(folder).add({"by": fault.name, "node": last["metadata"]["name"]})
            lose_node(api, last, datetime.now(UTC) - timedelta(minutes=12))
    return fault


def reset(api: Api, *, logs: Path | None = None, timeout_seconds: float = 90) -> int:
    """Take back everything that faults made; the number of objects deleted or put back.

    Raises
    ------
    OpsError
        The API server refused, or pods or nodes did not get well in time.
    """
    deadline = time.monotonic() + timeout_seconds
    lost: set[str] = set()
    if logs is not None:
        lost = {rule["node"] for rule in Holds(logs.parent).rules() if "node" in rule}
        Holds(logs.parent).drop()
    count = sum(_put_back(api, obj) for obj in _edited(api))
    if logs is not None:
        count += sum(_restore(api, path, before) for path, before in Notes(logs.parent).taken())
    for kind, version in VERSION_OF.items():
        if kind not in ("Pod", "Namespace", "PodMetrics"):  # what pods use goes with them, or with its definition
            count += _delete_all(api, version, kind)
    # Controllers may make a last pod while their owner goes; a held pod ends only when it is deleted without grace.
    _poll(lambda: not _delete_all(api, "v1", "Pod"), deadline, "the pods of faults are gone")
    for node in api.list("/api/v1/nodes"):
        count += _restore_node(api, node, deadline, lost=node["metadata"]["name"] in lost)
    for space in api.list("/api/v1/namespaces", labels=LABEL):
        if "deletionTimestamp" not in space["metadata"]:
            api.delete(api.path_of(space))
            count += 1
    for mark in logs.glob("*/*/.fault") if logs is not None else ():
        shutil.rmtree(mark.parent)
    return count


def _ensure_namespace(api: Api, name: str, fault: Fault, deadline: float) -> None:
    path = f"/api/v1/namespaces/{name}"
    _poll(lambda: _phase(api, path) != "Terminating", deadline, f"namespace {name} of an earlier fault is gone")
    if not _phase(api, path):
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {LABEL: fault.name}}})


def _get(api: Api, path: str) -> Object | None:
    try:
        return api.get(path)
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def _phase(api: Api, path: str) -> str:
    """The object's phase; empty where it is not there."""
    return str((_get(api, path) or {}).get("status", {}).get("phase", ""))


def _is_known(api: Api, obj: Object) -> bool:
    """Whether the cluster has objects of this kind."""
    try:
        api.path_of(obj)
    except ApiError as error:
        if error.status != 404:
            raise
        return False
    return True


def _any_of(definition: Object) -> Object:
    """An object of the kind that a definition is about."""
    spec = definition["spec"]
    version = f"{spec['group']}/{spec['versions'][0]['name']}"
    return {"apiVersion": version, "kind": spec["names"]["kind"], "metadata": {"name": "-", "namespace": "-"}}


def _apply(api: Api, obj: Object, deadline: float) -> None:
    """Apply, and wait until the server heeds it where that takes a moment, so that what follows meets it."""
    for owner in obj["metadata"].get("ownerReferences", []):
        if "uid" not in owner:
            owner["uid"] = api.get(api.path_of({**owner, "metadata": {**obj["metadata"], "name": owner["name"]}}))["metadata"]["uid"]

    what = f"{obj['kind']}/{obj['metadata']['name']}"
    there = _get(api, api.path_of(obj)) if _is_known(api, obj) else None
    if there is not None and LABEL not in there["metadata"].get("labels", {}):
        if obj["kind"] in CLUSTER_WIDE and obj["kind"] != "Namespace":
            return  # a class or a definition that the cluster has anyway
        raise OpsError(_("{name} is there already and belongs to no fault", name=what), _("Choose another namespace for the fault"))
    if obj["kind"] == "CustomResourceDefinition" and there is None and _is_known(api, _any_of(obj)):
        return  # another server has this kind: the lab's own serves metrics.k8s.io

    def accepted() -> bool:
        try:
            api.apply(obj)
        except ApiError as error:
            # a kind that was defined a moment ago; a bare pod in a new namespace, which has no ServiceAccount yet
            if error.status == 404 or (error.status == 403 and "serviceaccount" in error.server_message):
                return False
            raise
        return True

    _poll(accepted, deadline, f"{what} is accepted")
    if obj["kind"] == "ResourceQuota":
        path = api.path_of(obj)
        _poll(lambda: "hard" in api.get(path).get("status", {}), deadline, f"{what} is heeded")
    if obj["kind"] == "ValidatingWebhookConfiguration":
        space = obj["webhooks"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        _poll(lambda: _refuses_pods(api, space), deadline, f"{what} is heeded")


def _refuses_pods(api: Api, namespace: str) -> bool:
    """Whether a pod would be refused for another reason than that the namespace is too new."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "trial", "namespace": namespace},
        "spec": {"containers": [{"name": "trial", "image": "trial"}]},
    }
    try:
        api.request("POST", api.path_of(pod, collection=True), pod, query={"dryRun": "All"})
    except ApiError as error:
        return "serviceaccount" not in error.server_message
    return False


def _wait_until_available(api: Api, objects: Iterable[Object], deadline: float) -> None:
    """Wait until these run, and a little: a change must come to something that worked, and not in the second of its making."""
    begun = time.monotonic()
    _poll(lambda: time.monotonic() - begun >= SECONDS_BEFORE_CHANGE, deadline, "the change")
    for obj in (obj for obj in objects if obj["kind"] in ("Deployment", "DaemonSet", "StatefulSet")):
        path = api.path_of(obj)

        def available(path: str = path) -> bool:
            status = api.get(path).get("status", {})
            wanted = status.get("replicas", status.get("desiredNumberScheduled", 0))
            return bool(wanted) and status.get("readyReplicas", status.get("numberReady", 0)) >= wanted

        _poll(available, deadline, f"{obj['kind']}/{obj['metadata']['name']} runs before it is changed")


def _is_played(fault: Fault, obj: Object) -> bool:
    """Whether the fault plays the object's pods, which then do not run by themselves."""
    return any(_makes(obj, rule) for rule in fault.pods)


def _poll(ready: Callable[[], bool], deadline: float, what: str) -> None:
    while not ready():
        if time.monotonic() > deadline:
            raise OpsError(
                _("The lab did not get there in time: {what}", what=what), _("See which of its servers answer"), "opslib lab status"
            )
        time.sleep(0.1)


def _take(api: Api, rule: PodPlay, objects: list[Object], namespace: str, played: set[str], deadline: float) -> list[Object]:
    """The pods that `rule` is about, once they are there."""
    wanted = rule.count if rule.count is not None else sum(_wanted(obj) for obj in objects if _makes(obj, rule))
    selector = ",".join(f"{key}={value}" for key, value in labels_of(rule).items())
    found: list[Object] = []

    def there() -> bool:
        pods = [pod for pod in api.list(f"/api/v1/namespaces/{namespace}/pods", labels=selector) if pod["metadata"]["uid"] not in played]
        if rule.placed:
            pods = [pod for pod in pods if pod["spec"].get("nodeName")]
        found[:] = sorted(pods, key=lambda pod: pod["metadata"]["name"])[:wanted]
        return len(found) == wanted

    _poll(there, deadline, f"{wanted} pods of {rule.of} in {namespace}")
    played.update(pod["metadata"]["uid"] for pod in found)
    return found


def _makes(obj: Object, rule: PodPlay) -> bool:
    pod = obj if obj["kind"] == "Pod" else obj.get("spec", {}).get("template", {})
    labels = pod.get("metadata", {}).get("labels", {})
    return bool(labels_of(rule).items() <= labels.items())


def _wanted(obj: Object) -> int:
    return int(obj["spec"].get("replicas", obj["spec"].get("parallelism", 1)))


# --- playing the kubelet ----------------------------------------------------------------------------------------------------------------


def _play(api: Api, rule: PodPlay, pod: Object, logs: Path | None) -> None:
    now = datetime.now(UTC)
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    api.patch(path, {"status": pod_status(rule, pod, now)}, subresource="status")
    if rule.usage:
        api.apply(usage_of(rule, pod, now))
    for event in rule.events:
        api.create(event_of(event, pod, now))
    if logs is not None and rule.logs:
        folder = logs / namespace / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".fault").touch()
        for container, texts in rule.logs.items():
            for text, ending in ((texts.current, "log"), (texts.previous, "previous.log")):
                if text:
                    (folder / f"{container}.{ending}").write_text(filled(text, pod, container, now), "utf-8")
    if rule.deleted_grace_seconds is not None:
        api.delete(path, grace_seconds=rule.deleted_grace_seconds)


# --- changes of what is there, and taking them back -------------------------------------------------------------------------------------


def _edit(api: Api, edit: Object, fault: Fault, namespace: str, folder: Path | None) -> Object:
    """Merge `edit` into an object of the platform; the object as it is then. A note says what it was: in the lab's `folder`, or on it."""
    asked = complete(edit, fault, namespace)
    path = api.path_of(asked)
    now = api.get(path)
    annotations = now["metadata"].get("annotations", {})
    after: Object = merged(now, {key: edit[key] for key in edit if key in ("spec", "data")})
    if folder is None:
        note = annotations.get(BEFORE) or json.dumps({key: now[key] for key in ("spec", "data") if key in now})
        after["metadata"]["annotations"] = {**annotations, BEFORE: note}
    else:
        Notes(folder).keep(path, now)
    after["metadata"].pop("managedFields", None)
    template = after.get("spec", {}).get("template")
    if template is not None and "template" in edit["spec"] and folder is None:
        complete_pod(template, after["metadata"]["name"], fault, hold=True)
    return api.replace(after)


def _restore(api: Api, path: str, before: Object | None) -> bool:
    """Put back what was at an API path, by its note."""
    if before is None:
        api.delete(path)
        return True
    for _attempt in range(5):
        now = _get(api, path)
        try:
            if now is None:
                api.create(before)
            else:
                api.replace(restored(now, before))
        except ApiError as error:
            if error.status not in (404, 409):
                raise
        else:
            return True
    return False


def _edited(api: Api) -> Iterator[Object]:
    for kind in ("ConfigMap", "Deployment", "StatefulSet", "DaemonSet", "Service", "Ingress"):
        for obj in api.list(_all(api, VERSION_OF[kind], kind)):
            if BEFORE in obj["metadata"].get("annotations", {}):
                yield obj


def _put_back(api: Api, obj: Object) -> bool:
    before = json.loads(obj["metadata"]["annotations"].pop(BEFORE))
    obj["metadata"].pop("managedFields", None)
    api.replace({**{key: value for key, value in obj.items() if key not in ("spec", "data")}, **before})
    return True


def _change_node(api: Api, change: NodePlay) -> None:
    """Taint, label and cordon the last of the nodes by name, which keeps a note of what was done to it."""
    node = _last_node(api)
    metadata = node["metadata"]
    note = {"taints": [], "labels": [], "cordon": False} | json.loads(metadata.get("annotations", {}).get(BEFORE, "{}"))
    note["taints"] += [taint["key"] for taint in change.taints]
    note["labels"] += list(change.labels)
    note["cordon"] = note["cordon"] or change.cordon
    kept = [taint for taint in node["spec"].get("taints", []) if taint["key"] not in note["taints"]]
    spec: Object = {"taints": [*kept, *change.taints]} | ({"unschedulable": True} if change.cordon else {})
    body = {"metadata": {"labels": change.labels, "annotations": {BEFORE: json.dumps(note)}}, "spec": spec}
    api.patch(api.path_of(node), body)


def _last_node(api: Api) -> Object:
    nodes = api.list("/api/v1/nodes")
    if not nodes:
        raise OpsError(_("The cluster has no nodes to change"), _("See which of its servers answer"), "opslib lab status")
    return max(nodes, key=lambda node: str(node["metadata"]["name"]))


def lose_node(api: Api, node: Object, since: datetime) -> None:
    """Write what the node lifecycle controller writes of a node that has not answered `since` then (markNodeAsNotReady, after 50 seconds).

    Its kubelet is to be held. Taints, and the deletion of its pods after five minutes, are left to that controller.
    """
    unknown = {
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.",
        "lastHeartbeatTime": stamp(since, 0),
        "lastTransitionTime": stamp(since, 50),
    }
    conditions = [{**condition, **unknown} for condition in node["status"]["conditions"]]
    api.patch(api.path_of(node), {"status": {"conditions": conditions}}, subresource="status")
    _say_ready(api, node, "False", unknown["lastTransitionTime"])


def _say_ready(api: Api, node: Object, status: str, since: str) -> None:
    """Write whether the running pods of a node are ready."""
    for pod in api.list("/api/v1/pods", fields=f"spec.nodeName={node['metadata']['name']},status.phase=Running"):
        conditions = [
            {**one, "status": status, "lastTransitionTime": since} if one["type"] == "Ready" else one
            for one in pod["status"].get("conditions", [])
        ]
        try:
            api.patch(api.path_of(pod), {"status": {"conditions": conditions}}, subresource="status")
        except ApiError as error:
            if error.status != 404:  # it has gone meanwhile, as pods do in a rollout
                raise


def _restore_node(api: Api, node: Object, deadline: float, *, lost: bool) -> bool:
    path, annotations = api.path_of(node), node["metadata"].get("annotations", {})
    if BEFORE in annotations:
        note = json.loads(annotations[BEFORE])
        kept = [taint for taint in node["spec"].get("taints", []) if taint["key"] not in note["taints"]]
        spec: Object = {"taints": kept} | ({"unschedulable": None} if note["cordon"] else {})
        api.patch(path, {"metadata": {"annotations": {BEFORE: None, HOLD: None}, "labels": dict.fromkeys(note["labels"])}, "spec": spec})
    if lost or annotations.get(HOLD) == "true":
        _poll(lambda: _is_ready(api.get(path)), deadline, f"{node['metadata']['name']} answers again")
        _say_ready(api, node, "True", stamp(datetime.now(UTC), 0))
        return True
    return BEFORE in annotations


def _is_ready(obj: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in obj.get("status", {}).get("conditions", []))


def _delete_all(api: Api, version: str, kind: str) -> int:
    """Delete all objects of a kind that faults made; how many there were."""
    try:
        objects = api.list(_all(api, version, kind), labels=LABEL)
    except ApiError as error:
        if error.status != 404:  # a kind that this cluster does not have
            raise
        return 0
    for obj in objects:
        path = api.path_of(obj)
        try:
            if obj["metadata"].get("finalizers") and kind in ("Pod", "PersistentVolume", "PersistentVolumeClaim"):
                api.patch(path, {"metadata": {"finalizers": None}})
            api.delete(path, grace_seconds=0)
        except ApiError as error:
            if error.status != 404:
                raise
    return len(objects)


def _all(api: Api, version: str, kind: str) -> str:
    """The path of all objects of a kind, in all namespaces."""
    any_one = {"apiVersion": version, "kind": kind, "metadata": {"name": "-", "namespace": "-"}}
    return api.path_of(any_one, collection=True).replace("/namespaces/-/", "/")
