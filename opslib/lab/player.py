"""Breaks the cluster on purpose: applies a fault's objects and plays the kubelet's part for their pods.

What the real scheduler and controllers do by themselves (an unschedulable pod, a refused quota, a pending claim) is left to them; the
player writes only what a kubelet would: a pod's status, its events, and the container's logs. It acts through the Kubernetes API alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import yaml

from opslib.errors import OpsError
from opslib.lab.api import Api, ApiError
from opslib.lab.faults import (
    BEFORE,
    HOLD,
    LABEL,
    VERSION_OF,
    Fault,
    NodePlay,
    Object,
    PodPlay,
    complete,
    labels_of,
    load,
    merged,
    names,
    same,
)
from opslib.lab.faults.kubelet import event_of, filled, pod_status, usage_of, with_times
from opslib.messages import _

__all__ = ["apply_fault", "load", "names", "reset"]


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
        The folder from which the lab's kubelet serves logs (``<namespace>/<pod>/<container>.log``); None: none are written.
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
    for node in fault.nodes:
        _change_nodes(api, node)
    objects = [complete(obj, fault, place) for obj in fault.objects]
    for obj in objects:
        _apply(api, obj, deadline)
    for obj in fault.status:
        full = complete(obj, fault, place)
        api.patch(api.path_of(full), {"status": with_times(obj["status"], datetime.now(UTC))}, subresource="status")
    if fault.changes:
        _wait_until_available(api, objects, deadline)
        for change in fault.changes:
            before = next((obj for obj in objects if same(obj, change)), {})
            after = complete(merged(before, change), fault, place)
            _apply(api, after, deadline)
            objects = [obj for obj in objects if obj is not before] + [after]
    played: set[str] = set()
    for rule in fault.pods:
        for pod in _take(api, rule, objects, place, played, deadline):
            _play(api, rule, pod, logs)
    return fault


def reset(api: Api, *, logs: Path | None = None, timeout_seconds: float = 90) -> int:
    """Take back everything that faults made; the number of objects deleted. Nodes get their taints and labels back."""
    count = 0
    for kind, version in VERSION_OF.items():
        if kind in ("Pod", "Node", "Namespace"):
            continue
        count += _delete_all(api, {"apiVersion": version, "kind": kind})
    deadline = time.monotonic() + timeout_seconds
    # Controllers may make a last pod while their owner goes; a held pod ends only when it is deleted without grace.
    while _delete_all(api, {"apiVersion": "v1", "kind": "Pod"}):
        if time.monotonic() > deadline:
            raise OpsError(_("Pods of faults are still there after {seconds} s", seconds=int(timeout_seconds)))
        time.sleep(0.2)
    count += _delete_all(api, {"apiVersion": "v1", "kind": "Node"})
    for node in api.list("/api/v1/nodes"):
        _restore_node(api, node)
    for space in api.list("/api/v1/namespaces", labels=LABEL):
        api.delete(api.path_of(space))
        count += 1
    if logs is not None:
        for file in logs.glob("*/*/.fault"):
            for log in file.parent.iterdir():
                log.unlink(missing_ok=True)
            file.parent.rmdir()
    return count


def _ensure_namespace(api: Api, name: str, fault: Fault, deadline: float) -> None:
    path = f"/api/v1/namespaces/{name}"
    _poll(lambda: _phase(api, path) != "Terminating", deadline, f"namespace {name} of an earlier fault is gone")
    if not _phase(api, path):
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {LABEL: fault.name}}})


def _phase(api: Api, path: str) -> str:
    """The object's phase; empty where it is not there."""
    try:
        return str(api.get(path).get("status", {}).get("phase", ""))
    except ApiError as error:
        if error.status != 404:
            raise
        return ""


def _apply(api: Api, obj: Object, deadline: float) -> None:
    """Apply, and wait until the server heeds it where that takes a moment, so that what follows meets it."""
    for owner in obj["metadata"].get("ownerReferences", []):
        if "uid" not in owner:
            owner["uid"] = api.get(api.path_of({**owner, "metadata": {**obj["metadata"], "name": owner["name"]}}))["metadata"]["uid"]

    def accepted() -> bool:
        try:
            api.apply(obj)
        except ApiError as error:
            # a kind that was defined a moment ago; a bare pod in a new namespace, which has no ServiceAccount yet
            if error.status == 404 or (error.status == 403 and "serviceaccount" in error.server_message):
                return False
            raise
        return True

    what = f"{obj['kind']}/{obj['metadata']['name']}"
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
    """Wait until what nobody holds runs: a change must come to something that worked."""
    waiting = [obj for obj in objects if obj["kind"] in ("Deployment", "DaemonSet", "StatefulSet") and HOLD not in _annotations(obj)]
    for obj in waiting:
        path = api.path_of(obj)

        def available(path: str = path) -> bool:
            status = api.get(path).get("status", {})
            wanted = status.get("replicas", status.get("desiredNumberScheduled", 0))
            return bool(wanted) and status.get("readyReplicas", status.get("numberReady", 0)) >= wanted

        _poll(available, deadline, f"{obj['kind']}/{obj['metadata']['name']} runs before it is changed")


def _annotations(workload: Object) -> dict[str, str]:
    return workload["spec"]["template"].get("metadata", {}).get("annotations", {})  # type: ignore[no-any-return]


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


# --- nodes, and taking it back ----------------------------------------------------------------------------------------------------------


def _change_nodes(api: Api, change: NodePlay) -> None:
    nodes = sorted(api.list("/api/v1/nodes"), key=lambda node: str(node["metadata"]["name"]))
    nodes = [node for node in nodes if LABEL not in node["metadata"].get("labels", {})]
    if not nodes:
        raise OpsError(_("The cluster has no nodes to change"), _("See which of its servers answer"), "opslib lab status")
    for node in nodes if change.all else nodes[-1:]:
        metadata, taints = node["metadata"], node["spec"].get("taints", [])
        before = metadata.get("annotations", {}).get(BEFORE) or yaml.safe_dump({"taints": [], "labels": [], "cordon": False})
        added = yaml.safe_load(before)
        added["taints"] += [taint["key"] for taint in change.taints]
        added["labels"] += list(change.labels)
        added["cordon"] = added["cordon"] or change.cordon
        kept = [taint for taint in taints if taint["key"] not in added["taints"]]
        spec: Object = {"taints": [*kept, *change.taints]} | ({"unschedulable": True} if change.cordon else {})
        body = {"metadata": {"labels": change.labels, "annotations": {BEFORE: yaml.safe_dump(added)}}, "spec": spec}
        api.patch(api.path_of(node), body)


def _restore_node(api: Api, node: Object) -> None:
    text = node["metadata"].get("annotations", {}).get(BEFORE)
    if not text:
        return
    added = yaml.safe_load(text)
    kept = [taint for taint in node["spec"].get("taints", []) if taint["key"] not in added["taints"]]
    spec: Object = {"taints": kept} | ({"unschedulable": None} if added["cordon"] else {})
    body = {"metadata": {"annotations": {BEFORE: None}, "labels": dict.fromkeys(added["labels"])}, "spec": spec}
    api.patch(api.path_of(node), body)


def _delete_all(api: Api, kind: Object) -> int:
    objects = list(_made_by_faults(api, kind))
    for obj in objects:
        path = api.path_of(obj)
        try:
            if obj["metadata"].get("finalizers") and kind["kind"] in ("Pod", "PersistentVolume", "PersistentVolumeClaim"):
                api.patch(path, {"metadata": {"finalizers": None}})
            api.delete(path, grace_seconds=0)
        except ApiError as error:
            if error.status != 404:
                raise
    return len(objects)


def _made_by_faults(api: Api, kind: Object) -> Iterator[Object]:
    try:
        path = api.path_of({**kind, "metadata": {"name": "any", "namespace": "any"}}, collection=True).replace("/namespaces/any", "")
        yield from api.list(path, labels=LABEL)
    except ApiError as error:
        if error.status != 404:  # a kind that this cluster does not have
            raise
