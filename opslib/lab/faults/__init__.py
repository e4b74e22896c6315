"""Faults: files that say how a cluster breaks, in a format that docs/faults.md explains.

One file a fault. `names` and `load` read them; `opslib.lab.player` applies them.
"""

from __future__ import annotations

import copy
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from opslib.errors import InputError
from opslib.lab import named
from opslib.messages import _

HOLD = "lab.opslib/hold"  # annotation: the lab's kubelet leaves the pod's status alone; with "forever" it does not let it end either
LABEL = "lab.opslib/fault"  # label on everything that a fault made, so that `reset` finds it
BEFORE = "lab.opslib/before"  # annotation on what a fault changed: how to put it back

Object = dict[str, Any]

_VERSIONS = {
    "v1": "ConfigMap Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod ResourceQuota Secret Service "
    "ServiceAccount",
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
VERSION_OF = {kind: version for version, kinds in _VERSIONS.items() for kind in kinds.split()}
CLUSTER_WIDE = frozenset(
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


def seconds_of(text: object) -> object:
    """ "-5m", "-90s", "-2h", "-3d", "0s" as seconds after now (negative: before)."""
    if not isinstance(text, str):
        return text
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if unit is None:
        raise ValueError(f'{text!r} is not a time like "-5m"')
    return float(text[:-1]) * unit


Ago = Annotated[float, BeforeValidator(seconds_of)]  # seconds after the moment at which the fault is applied


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
    namespace: str | None = None
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
    usage: dict[str, dict[str, str]] = Field(default={}, description="cpu and memory by container, as the metrics API reports it")
    deleted_grace_seconds: int | None = Field(default=None, description="then delete them with this grace; nobody lets them end")


class NodePlay(_Part):
    """A change of the last of the cluster's own nodes by name, undone by `reset`: taints and labels are added, it is cordoned."""

    taints: list[dict[str, str]] = []
    labels: dict[str, str] = {}
    cordon: bool = False
    lost: bool = Field(default=False, description="it stops answering, once the pods are placed and played")


class Fault(_Part):
    """One way in which a cluster breaks."""

    name: str
    title: str
    why: str = Field(default="", description="what really happened, for who wrote the diagnosis")
    namespace: str = named.NAMESPACE
    expect: list[Expectation] = []
    nodes: list[NodePlay] = []
    objects: list[Object]
    changes: list[Object] = Field(default=[], description="applied once the objects run; one that names an object above is merged into it")
    edits: list[Object] = Field(
        default=[], description="merged into objects that are there already (the platform's); `reset` puts back what they were"
    )
    pods: list[PodPlay] = []


# --- the catalogue ----------------------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The names of all faults, sorted."""
    return named.names(named.FAULTS)


def load(name: str) -> Fault:
    """The fault of that name.

    Raises
    ------
    InputError
        There is none (the nearest is named), or its file is not in the format.
    """
    path = named.path_of(named.FAULTS, name, _("There is no fault {name}", name=name))
    return parse(path.read_text("utf-8"), path.name)


def parse(text: str, file: str) -> Fault:
    """A fault from its YAML; `file` is named in errors."""
    try:
        return Fault.model_validate(named.content(text))
    except yaml.YAMLError as error:
        raise InputError(_("{file} is not YAML: {reason}", file=file, reason=str(error))) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(_("{file}: {field}: {reason}", file=file, field=field, reason=first["msg"])) from None


# --- whole objects from short ones -----------------------------------------------------------------------------------------------------


def complete(manifest: Object, fault: Fault, namespace: str, *, hold: bool = True) -> Object:
    """A whole object from a fault's manifest: apiVersion by kind, namespace, labels, selector, with `hold` that on pods, too.

    A pod is held from the lab's kubelet where a rule of `fault.pods` will take it.
    """
    obj: Object = _filled(manifest, namespace)
    obj.pop("status", None)
    kind = obj["kind"]
    obj.setdefault("apiVersion", VERSION_OF.get(kind, "v1"))
    metadata = obj.setdefault("metadata", {})
    if kind not in CLUSTER_WIDE:
        metadata.setdefault("namespace", namespace)
    if kind != "Namespace":  # it may have been there before; `apply_fault` labels those that it makes
        metadata.setdefault("labels", {}).setdefault(LABEL, fault.name)
    app = metadata["name"]
    if kind == "Pod":
        complete_pod(obj, app, fault, hold=hold)
    elif kind == "CronJob":
        job = obj["spec"]["jobTemplate"]["spec"]
        complete_pod(job["template"], app, fault, hold=hold)
    elif kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"):
        template = obj["spec"]["template"]
        complete_pod(template, app, fault, hold=hold)
        if kind != "Job":
            obj["spec"].setdefault("selector", {"matchLabels": {"app": template["metadata"]["labels"]["app"]}})
        if kind == "StatefulSet":
            obj["spec"].setdefault("serviceName", app)
    return obj


def complete_pod(pod: Object, app: str, fault: Fault, *, hold: bool) -> None:
    """Labels of a pod or pod template, and the hold where a rule will take it."""
    metadata = pod.setdefault("metadata", {})
    labels = metadata.setdefault("labels", {})
    labels.setdefault("app", app)
    labels.setdefault(LABEL, fault.name)
    rules = [rule for rule in fault.pods if labels_of(rule).items() <= labels.items()]
    if rules and hold:
        stuck = any(rule.deleted_grace_seconds is not None for rule in rules)
        metadata.setdefault("annotations", {})[HOLD] = "forever" if stuck else "true"


def holds_of(fault: Fault, namespace: str) -> list[Object]:
    """What the lab's kubelet leaves alone while a fault lasts, as rules of `opslib.lab.holds`."""
    return [
        {
            "by": fault.name,
            "namespace": rule.namespace or namespace,
            "labels": labels_of(rule),
            "forever": rule.deleted_grace_seconds is not None,
        }
        for rule in fault.pods
    ]


def labels_of(rule: PodPlay) -> dict[str, str]:
    return {"app": rule.of, **rule.labels}


def same(one: Object, other: Object) -> bool:
    return bool(one["kind"] == other["kind"] and one["metadata"]["name"] == other["metadata"]["name"])


def merged(before: Any, change: Any) -> Any:
    """RFC 7386: mappings are merged, null removes, all else (lists too) is replaced."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    result = dict(before) if isinstance(before, dict) else {}
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def _filled(content: Any, namespace: str) -> Any:
    """`content` with ``$namespace`` filled in."""
    if isinstance(content, dict):
        return {key: _filled(value, namespace) for key, value in content.items()}
    if isinstance(content, list):
        return [_filled(item, namespace) for item in content]
    return content.replace("$namespace", namespace) if isinstance(content, str) else content
