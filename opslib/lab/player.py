"""Breaks the cluster on purpose: applies a fault's objects and plays the kubelet's part for their pods.

A fault is one YAML file in ``opslib/lab/faults/`` (docs/faults.md explains the format). What the real scheduler and controllers do by
themselves (an unschedulable pod, a refused quota, a pending claim) is left to them; the player writes only what a kubelet would: a pod's
status, its events, and the container's logs. It acts through the Kubernetes API alone.

The words of messages and events are the kubelet's and containerd's own: k8s.io/kubernetes/pkg/kubelet, github.com/containerd/containerd.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import string
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from opslib.errors import InputError, OpsError
from opslib.lab.api import Api, ApiError
from opslib.messages import _

FAULTS = Path(__file__).parent / "faults"
HOLD = "lab.opslib/hold"  # annotation: the lab's kubelet leaves the pod's status alone
LABEL = "lab.opslib/fault"  # label on everything that a fault made, so that `reset` finds it
TAINTED = "lab.opslib/before"  # annotation on a node that a fault changed: its taints and labels before

Object = dict[str, Any]

_VERSIONS = {
    "v1": "ConfigMap Namespace Node PersistentVolume PersistentVolumeClaim Pod LimitRange ResourceQuota Secret Service ServiceAccount",
    "apps/v1": "DaemonSet Deployment ReplicaSet StatefulSet",
    "autoscaling/v2": "HorizontalPodAutoscaler",
    "batch/v1": "CronJob Job",
    "networking.k8s.io/v1": "Ingress IngressClass",
    "policy/v1": "PodDisruptionBudget",
    "scheduling.k8s.io/v1": "PriorityClass",
    "storage.k8s.io/v1": "StorageClass",
    "admissionregistration.k8s.io/v1": "ValidatingWebhookConfiguration",
    "apiextensions.k8s.io/v1": "CustomResourceDefinition",
    "metrics.k8s.io/v1beta1": "PodMetrics",
}
_VERSION_OF = {kind: version for version, kinds in _VERSIONS.items() for kind in kinds.split()}
_CLUSTER_WIDE = frozenset(
    [
        "CustomResourceDefinition",
        "IngressClass",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "StorageClass",
        "ValidatingWebhookConfiguration",
    ]
)


# --- the format -------------------------------------------------------------------------------------------------------------------------


def _seconds(text: object) -> object:
    """ "-5m", "-90s", "-2h", "-3d", "0s" as seconds after now (negative: before)."""
    if not isinstance(text, str):
        return text
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if unit is None:
        raise ValueError(f'{text!r} is not a time like "-5m"')
    return float(text[:-1]) * unit


Ago = Annotated[float, BeforeValidator(_seconds)]  # seconds after the moment at which the fault is applied


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expectation(_Part):
    """What a right diagnosis names."""

    check: str
    subject: str = Field(description="Kind/name, as in Deployment/web")


class Terminated(_Part):
    """A container that ended. Without a reason it is "Completed" for exit code 0, else "Error", as the kubelet fills in."""

    exit: int = 0
    signal: int = 0
    reason: str | None = None
    message: str = ""
    started: Ago = -600.0
    finished: Ago = -20.0


class ContainerPlay(_Part):
    """One container's status: `waiting` (a reason), `terminated`, or neither for running."""

    waiting: str | None = None
    message: str = ""
    terminated: Terminated | None = None
    since: Ago = -600.0
    ready: bool = True
    started: bool = True
    restarts: int = 0
    last: Terminated | None = None
    absent: bool = Field(default=False, description="no status at all, as before the kubelet has seen it")


class ContainerLogs(_Part):
    """What a container wrote: in this run, and in the one before it."""

    current: str = ""
    previous: str = ""


class EventPlay(_Part):
    """An event about the pod (or, with `about: node`, about its node)."""

    reason: str
    message: str
    type: str = "Warning"
    container: str = ""
    about: str = "pod"
    source: str = "kubelet"
    first: Ago = -600.0
    last: Ago = -15.0
    count: int = 1


class PodPlay(_Part):
    """How the kubelet's part is played for some pods: those with the label ``app: <of>``, and `labels` if any, that no rule took before."""

    of: str
    labels: dict[str, str] = {}
    count: int | None = Field(default=None, description="how many; without it all that the owner wants")
    placed: bool = Field(default=True, description="wait for the scheduler to place them")
    containers: dict[str, ContainerPlay] = Field(default={}, description="init containers too; not named: as it follows from the others")
    phase: str | None = None
    reason: str | None = None
    message: str | None = None
    started: Ago | None = -3600.0
    conditions: dict[str, str] = Field(default={}, description='a condition\'s status, or "status reason message"')
    sandbox: bool = Field(default=True, description="false: no network and no address yet")
    events: list[EventPlay] = []
    logs: dict[str, ContainerLogs] = {}
    deleted_grace_seconds: int | None = Field(default=None, description="then delete them with this grace; nobody lets them end")


class NodePlay(_Part):
    """A change of one of the cluster's own nodes, undone by `reset`: taints and labels are added."""

    taints: list[dict[str, str]] = []
    labels: dict[str, str] = {}
    all: bool = Field(default=False, description="every node instead of the last by name")


class Fault(_Part):
    """One way in which a cluster breaks."""

    name: str
    title: str
    why: str = Field(default="", description="what really happened, for who wrote the diagnosis")
    namespace: str = "shop"
    expect: list[Expectation] = []
    nodes: list[NodePlay] = []
    objects: list[Object]
    changes: list[Object] = Field(default=[], description="applied once the objects run; one that names an object above is merged into it")
    status: list[Object] = Field(default=[], description="objects whose status is written as it stands (nodes, claims)")
    pods: list[PodPlay] = []


# --- the catalogue ----------------------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The names of all faults, sorted."""
    return sorted(path.stem for path in FAULTS.glob("*.yaml"))


def load(name: str) -> Fault:
    """The fault of that name.

    Raises
    ------
    InputError
        There is none (the nearest is named), or its file is not in the format.
    """
    path = FAULTS / f"{name}.yaml"
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        what = _("There is no fault {name}", name=name)
        if near:
            raise InputError(what, _("Did you mean {near}? All of them", near=near[0]), "opslib lab list")
        raise InputError(what, _("All of them"), "opslib lab list")
    return parse(path.read_text("utf-8"), path.name)


def parse(text: str, file: str) -> Fault:
    """A fault from its YAML; `file` is named in errors."""
    try:
        return Fault.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InputError(_("{file} is not YAML: {reason}", file=file, reason=str(error))) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(_("{file}: {field}: {reason}", file=file, field=field, reason=first["msg"])) from None


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
    _ensure_namespace(api, place, fault)
    for node in fault.nodes:
        _change_nodes(api, node)
    objects = [complete(obj, fault, place) for obj in fault.objects]
    for obj in objects:
        _apply(api, obj, deadline)
    for obj in fault.status:
        full = complete(obj, fault, place)
        api.patch(api.path_of(full), {"status": _with_times(obj["status"], datetime.now(UTC))}, subresource="status")
    if fault.changes:
        _wait_until_available(api, objects, deadline)
        for change in fault.changes:
            before = next((obj for obj in objects if _same(obj, change)), {})
            after = complete(_merged(before, change), fault, place)
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
    for kind, version in _VERSION_OF.items():
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


def complete(manifest: Object, fault: Fault, namespace: str) -> Object:
    """A whole object from a fault's manifest: apiVersion by kind, namespace, labels, selector, and the hold on pods that are played.

    A pod is held from the lab's kubelet where a rule of `fault.pods` will take it.
    """
    obj = copy.deepcopy(manifest)
    obj.pop("status", None)
    kind = obj["kind"]
    obj.setdefault("apiVersion", _VERSION_OF.get(kind, "v1"))
    metadata = obj.setdefault("metadata", {})
    if kind not in _CLUSTER_WIDE:
        metadata.setdefault("namespace", namespace)
    metadata.setdefault("labels", {}).setdefault(LABEL, fault.name)
    app = metadata["name"]
    if kind == "Pod":
        _complete_pod(obj, app, fault)
    elif kind == "CronJob":
        job = obj["spec"]["jobTemplate"]["spec"]
        _complete_pod(job["template"], app, fault)
    elif kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"):
        template = obj["spec"]["template"]
        _complete_pod(template, app, fault)
        if kind != "Job":
            obj["spec"].setdefault("selector", {"matchLabels": {"app": template["metadata"]["labels"]["app"]}})
        if kind == "StatefulSet":
            obj["spec"].setdefault("serviceName", app)
    return obj


def _complete_pod(pod: Object, app: str, fault: Fault) -> None:
    metadata = pod.setdefault("metadata", {})
    labels = metadata.setdefault("labels", {})
    labels.setdefault("app", app)
    labels.setdefault(LABEL, fault.name)
    if any(_labels_of(rule).items() <= labels.items() for rule in fault.pods):
        metadata.setdefault("annotations", {})[HOLD] = "true"


def _labels_of(rule: PodPlay) -> dict[str, str]:
    return {"app": rule.of, **rule.labels}


def _same(one: Object, other: Object) -> bool:
    return bool(one["kind"] == other["kind"] and one["metadata"]["name"] == other["metadata"]["name"])


def _merged(before: Any, change: Any) -> Any:
    """RFC 7386: mappings are merged, null removes, all else (lists too) is replaced."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    merged = dict(before) if isinstance(before, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _ensure_namespace(api: Api, name: str, fault: Fault) -> None:
    try:
        api.get(f"/api/v1/namespaces/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {LABEL: fault.name}}})


def _apply(api: Api, obj: Object, deadline: float) -> None:
    """Apply; a kind that was just defined, and a bare pod in a new namespace (its ServiceAccount), are accepted after a moment."""
    while True:
        try:
            api.apply(obj)
        except ApiError as error:
            early = error.status == 404 or (error.status == 403 and "serviceaccount" in error.server_message)
            if not early or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


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
    selector = ",".join(f"{key}={value}" for key, value in _labels_of(rule).items())
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
    return bool(_labels_of(rule).items() <= labels.items())


def _wanted(obj: Object) -> int:
    return int(obj["spec"].get("replicas", obj["spec"].get("parallelism", 1)))


# --- playing the kubelet ----------------------------------------------------------------------------------------------------------------


def _play(api: Api, rule: PodPlay, pod: Object, logs: Path | None) -> None:
    now = datetime.now(UTC)
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    api.patch(path, {"status": pod_status(rule, pod, now)}, subresource="status")
    for event in rule.events:
        api.create(_event(event, pod, now))
    if logs is not None and rule.logs:
        folder = logs / namespace / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".fault").touch()
        for container, texts in rule.logs.items():
            for text, ending in ((texts.current, "log"), (texts.previous, "previous.log")):
                if text:
                    (folder / f"{container}.{ending}").write_text(_filled(text, pod, container, now), "utf-8")
    if rule.deleted_grace_seconds is not None:
        api.delete(path, grace_seconds=rule.deleted_grace_seconds)


def pod_status(rule: PodPlay, pod: Object, now: datetime) -> Object:
    """The whole status that a kubelet would write for `pod` when its containers are as `rule` says.

    Phase and conditions follow from the containers as in the kubelet (getPhase in kubelet_pods.go, status/generate.go), unless `rule` sets
    them.
    """
    spec = pod["spec"]
    inits, mains = spec.get("initContainers") or [], spec["containers"]
    unknown = rule.containers.keys() - {container["name"] for container in [*inits, *mains]}
    if unknown:
        raise InputError(_("The pod has no container {name}", name=sorted(unknown)[0]))
    init_plays = _init_plays(inits, rule)
    initialized = all(_is_initialized(container, play) for container, play in zip(inits, init_plays, strict=True))
    main_plays = [rule.containers.get(container["name"], _default_main(initialized, rule)) for container in mains]
    status: Object = {
        "initContainerStatuses": _statuses(inits, init_plays, pod, now, init=True),
        "containerStatuses": _statuses(mains, main_plays, pod, now),
        "phase": rule.phase or _phase(spec, init_plays, main_plays, initialized),
        "observedGeneration": pod["metadata"].get("generation", 1),
    }
    placed = bool(spec.get("nodeName"))
    if placed and rule.started is not None:
        status["startTime"] = _stamp(now, rule.started)
    if placed:
        status |= {"hostIP": "10.0.1.10", "hostIPs": [{"ip": "10.0.1.10"}]}
    if placed and rule.sandbox and status["phase"] != "Failed":
        address = _address(pod)
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    for field in ("reason", "message"):
        value = getattr(rule, field)
        if value is not None:
            status[field] = _filled(value, pod, mains[0]["name"], now)
    status["conditions"] = _conditions(rule, pod, status, initialized, now)
    return {key: value for key, value in status.items() if value not in ([], None)}


def _init_plays(inits: list[Object], rule: PodPlay) -> list[ContainerPlay]:
    plays = []
    going = True
    for container in inits:
        default = ContainerPlay() if _is_sidecar(container) else ContainerPlay(terminated=Terminated())
        waiting = ContainerPlay(waiting="PodInitializing", ready=False, started=False)
        play = rule.containers.get(container["name"], default if going and rule.sandbox else waiting)
        plays.append(play)
        going = going and _is_initialized(container, play)
    return plays


def _is_sidecar(container: Object) -> bool:
    return container.get("restartPolicy") == "Always"


def _is_initialized(container: Object, play: ContainerPlay) -> bool:
    if _is_sidecar(container):
        return play.waiting is None and play.terminated is None and play.started
    return play.terminated is not None and play.terminated.exit == 0 and play.terminated.signal == 0


def _default_main(initialized: bool, rule: PodPlay) -> ContainerPlay:
    if not rule.sandbox:
        return ContainerPlay(waiting="ContainerCreating", ready=False, started=False)
    return ContainerPlay() if initialized else ContainerPlay(waiting="PodInitializing", ready=False, started=False)


def _statuses(containers: list[Object], plays: list[ContainerPlay], pod: Object, now: datetime, *, init: bool = False) -> list[Object]:
    statuses = []
    for container, play in zip(containers, plays, strict=True):
        if play.absent:
            continue
        name = container["name"]
        running = play.waiting is None and play.terminated is None
        ran = running or play.terminated is not None or play.last is not None
        done = init and not _is_sidecar(container) and _is_initialized(container, play)
        status: Object = {
            "name": name,
            "image": container.get("image", ""),
            "imageID": f"{container.get('image', '').split(':')[0]}@sha256:{_digest(container.get('image', ''))}" if ran else "",
            "ready": (running and play.ready) or done,
            "started": running and play.started,
            "restartCount": play.restarts,
        }
        if ran:
            status["containerID"] = _container_id(pod, name)
        if play.waiting is not None:
            status["state"] = {"waiting": {"reason": play.waiting, "message": _filled(play.message, pod, name, now)}}
            if not play.message:
                del status["state"]["waiting"]["message"]
        elif play.terminated is not None:
            status["state"] = {"terminated": _terminated(play.terminated, pod, name, now)}
        else:
            status["state"] = {"running": {"startedAt": _stamp(now, play.since)}}
        if play.last is not None:
            status["lastState"] = {"terminated": _terminated(play.last, pod, name, now)}
        statuses.append(status)
    return statuses


def _terminated(play: Terminated, pod: Object, container: str, now: datetime) -> Object:
    reason = play.reason if play.reason is not None else "Error" if play.exit or play.signal else "Completed"
    state: Object = {
        "exitCode": play.exit,
        "startedAt": _stamp(now, play.started),
        "finishedAt": _stamp(now, play.finished),
        "containerID": _container_id(pod, container),
    }
    if reason:
        state["reason"] = reason
    if play.signal:
        state["signal"] = play.signal
    if play.message:
        state["message"] = _filled(play.message, pod, container, now)
    return state


def _phase(spec: Object, inits: list[ContainerPlay], mains: list[ContainerPlay], initialized: bool) -> str:
    policy = spec.get("restartPolicy", "Always")
    if not initialized:
        failed = any(play.terminated is not None and play.terminated.exit for play in inits)
        return "Failed" if failed and policy == "Never" else "Pending"
    if any((play.waiting is not None and play.last is None) or play.absent for play in mains):
        return "Pending"
    if any(play.waiting is None and play.terminated is None for play in mains):
        return "Running"
    ends = [play.terminated or play.last for play in mains]
    failed = any(end is not None and (end.exit or end.signal) for end in ends)
    if policy == "Always" or (policy == "OnFailure" and failed):
        return "Running"
    return "Failed" if failed else "Succeeded"


def _conditions(rule: PodPlay, pod: Object, status: Object, initialized: bool, now: datetime) -> list[Object]:
    spec = pod["spec"]
    mains = status["containerStatuses"]
    sidecars = {container["name"] for container in spec.get("initContainers") or [] if _is_sidecar(container)}
    unready = [
        item["name"]
        for item in [*mains, *status["initContainerStatuses"]]
        if not item["ready"] and (item in mains or item["name"] in sidecars)
    ]
    unready += [container["name"] for container in spec["containers"] if container["name"] not in {item["name"] for item in mains}]
    unfinished = [
        item["name"]
        for item in status["initContainerStatuses"]
        if not item["ready"] and (item["name"] not in sidecars or not item["started"])
    ]
    why = f"containers with unready status: [{' '.join(unready)}]"
    gates = [gate["conditionType"] for gate in spec.get("readinessGates") or []]
    if status["phase"] == "Succeeded":
        not_ready = ("PodCompleted", "")
    elif status["phase"] == "Failed":
        not_ready = ("PodFailed", "")
    else:
        not_ready = ("ContainersNotReady", why)
    closed = [gate for gate in gates if rule.conditions.get(gate, "").split(" ")[0] != "True"]
    all_ready = not unready and status["phase"] == "Running"
    found: dict[str, tuple[str, str, str]] = {}
    found["PodReadyToStartContainers"] = ("True" if rule.sandbox and status["phase"] not in ("Succeeded", "Failed") else "False", "", "")
    found["Initialized"] = (
        ("True", "", "")
        if initialized
        else ("False", "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(unfinished)}]")
    )
    found["ContainersReady"] = ("True", "", "") if all_ready else ("False", *not_ready)
    if all_ready and closed:
        words = [f'corresponding condition of pod readiness gate "{gate}" does not exist.' for gate in closed]
        found["Ready"] = ("False", "ReadinessGatesNotReady", ", ".join(words))
    else:
        found["Ready"] = found["ContainersReady"]
    found["PodScheduled"] = ("True", "", "")
    for type, text in rule.conditions.items():
        state, _space, rest = _filled(text, pod, spec["containers"][0]["name"], now).partition(" ")
        reason, _space, message = rest.partition(" ")
        found[type] = (state, reason, message)
    since = _stamp(now, rule.started if rule.started is not None else 0)
    return [
        {"type": type, "status": state, "lastTransitionTime": since}
        | ({"reason": reason} if reason else {})
        | ({"message": message} if message else {})
        for type, (state, reason, message) in found.items()
    ]


def _event(play: EventPlay, pod: Object, now: datetime) -> Object:
    metadata, node = pod["metadata"], pod["spec"].get("nodeName", "")
    inits = {container["name"] for container in pod["spec"].get("initContainers") or []}
    message = _filled(play.message, pod, play.container or pod["spec"]["containers"][0]["name"], now)
    about: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
    if play.container:
        about["fieldPath"] = f"spec.{'initContainers' if play.container in inits else 'containers'}{{{play.container}}}"
    if play.about == "node":
        about = {"kind": "Node", "name": node, "uid": node}  # the kubelet names its node by name in uid too
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": "default" if play.about == "node" else metadata["namespace"],
            "generateName": f"{about['name']}.",
            "labels": {LABEL: metadata.get("labels", {}).get(LABEL, "")},
        },
        "involvedObject": about,
        "reason": play.reason,
        "message": message[:1024],
        "type": play.type,
        "count": play.count,
        "firstTimestamp": _stamp(now, play.first),
        "lastTimestamp": _stamp(now, play.last),
        "source": {"component": play.source} | ({"host": node} if play.source == "kubelet" and node else {}),
        "reportingComponent": play.source,
    }


def _filled(text: str, pod: Object, container: str, now: datetime) -> str:
    """`text` with $pod, $namespace, $uid, $pod_id, $node, $ip, $container, $image, $container_id, and $time filled in."""
    metadata, spec = pod["metadata"], pod["spec"]
    images = {item["name"]: item.get("image", "") for item in [*spec["containers"], *(spec.get("initContainers") or [])]}
    return string.Template(text).safe_substitute(
        pod=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        pod_id=f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})",
        node=spec.get("nodeName", ""),
        ip=_address(pod),
        container=container,
        image=images.get(container, ""),
        container_id=_container_id(pod, container).removeprefix("containerd://"),
        time=_stamp(now, -30),
    )


def _stamp(now: datetime, after: float) -> str:
    return (now + timedelta(seconds=after)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _with_times(content: Any, now: datetime) -> Any:
    """Times in a status that is written as it stands: "$-5m" is five minutes ago."""
    if isinstance(content, dict):
        return {key: _with_times(value, now) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_times(item, now) for item in content]
    if isinstance(content, str) and content.startswith("$-"):
        return _stamp(now, float(str(_seconds(content[1:]))))
    return content


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _container_id(pod: Object, container: str) -> str:
    return f"containerd://{_digest(pod['metadata']['uid'] + container)}"


def _address(pod: Object) -> str:
    number = int(_digest(pod["metadata"]["uid"])[:6], 16)
    return f"10.244.{number >> 8 & 255}.{number % 254 + 1}"


# --- nodes, and taking it back ----------------------------------------------------------------------------------------------------------


def _change_nodes(api: Api, change: NodePlay) -> None:
    nodes = sorted(api.list("/api/v1/nodes"), key=lambda node: str(node["metadata"]["name"]))
    nodes = [node for node in nodes if LABEL not in node["metadata"].get("labels", {})]
    if not nodes:
        raise OpsError(_("The cluster has no nodes to change"), _("See which of its servers answer"), "opslib lab status")
    for node in nodes if change.all else nodes[-1:]:
        metadata, taints = node["metadata"], node["spec"].get("taints", [])
        before = metadata.get("annotations", {}).get(TAINTED) or yaml.safe_dump({"taints": [], "labels": []})
        added = yaml.safe_load(before)
        added["taints"] += [taint["key"] for taint in change.taints]
        added["labels"] += list(change.labels)
        kept = [taint for taint in taints if taint["key"] not in added["taints"]]
        body = {
            "metadata": {"labels": change.labels, "annotations": {TAINTED: yaml.safe_dump(added)}},
            "spec": {"taints": [*kept, *change.taints]},
        }
        api.patch(api.path_of(node), body)


def _restore_node(api: Api, node: Object) -> None:
    text = node["metadata"].get("annotations", {}).get(TAINTED)
    if not text:
        return
    added = yaml.safe_load(text)
    kept = [taint for taint in node["spec"].get("taints", []) if taint["key"] not in added["taints"]]
    body = {"metadata": {"annotations": {TAINTED: None}, "labels": dict.fromkeys(added["labels"])}, "spec": {"taints": kept}}
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
