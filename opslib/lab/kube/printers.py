"""The columns that the server prints of each kind (``kubectl get``), by the rules of pkg/printers/internalversion/printers.go.

A printer gives cells; a cell that depends on the time of day is an `Age`, which `show` turns into text. So cells can be kept with the
object, and only ages are written anew for each answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from opslib.lab.kube import selectors
from opslib.lab.kube.errors import Object

Cell = Any
Cells = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. Priority 1 is shown with ``-o wide`` alone."""

    name: str
    type: str = "string"
    format: str = ""
    priority: int = 0
    description: str = ""

    def as_object(self) -> Object:
        """As it stands in a Table."""
        return {"name": self.name, "type": self.type, "format": self.format, "description": self.description, "priority": self.priority}


@dataclass(frozen=True, slots=True)
class Age:
    """The time since `since` (an RFC 3339 text), written into `pattern`; `missing` where there is none. `until` fixes the end."""

    since: str
    missing: str = "<unknown>"
    pattern: str = "{}"
    until: str = ""

    def show(self, now: float) -> str:
        """The text at `now`, in Unix seconds."""
        if not self.since:
            return self.missing
        end = _moment(self.until) if self.until else now
        text = _shortened(int(end - _moment(self.since)))
        return text if self.pattern == "{}" else self.pattern.format(text)


def written(cells: Cells) -> tuple[bytes | Age, ...]:
    """Cells as JSON, in pieces around the ages, which alone are different the next time."""
    pieces: list[bytes | Age] = []
    text = b"["
    for number, cell in enumerate(cells):
        text += b"," if number else b""
        if type(cell) is Age:
            pieces += [text + b'"', cell]
            text = b'"'
        else:
            text += msgspec.json.encode(cell)
    return (*pieces, text + b"]")


def at(pieces: tuple[bytes | Age, ...], now: float) -> bytes:
    """What `written` gave, with the ages at `now`, in Unix seconds."""
    return b"".join([piece if type(piece) is bytes else piece.show(now).encode() for piece in pieces])  # type: ignore[union-attr]


@lru_cache(32_768)
def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def duration(value: float) -> str:
    """Seconds as kubectl shortens them (``HumanDuration`` of k8s.io/apimachinery)."""
    return _shortened(int(value))


@lru_cache(4096)
def _shortened(seconds: int) -> str:
    if seconds < -1:
        return "<invalid>"
    if seconds < 0:
        return "0s"
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 10:
        return _pair(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _pair(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _pair(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _pair(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _pair(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


_NAME = Column("Name", format="name")
_AGE = Column("Age")


def _columns(text: str) -> tuple[Column, ...]:
    """Columns from "Ready, Desired:integer, +IP" (a plus: with -o wide alone)."""
    columns = []
    for word in text.split(", "):
        name, _colon, kind = word.lstrip("+").partition(":")
        columns.append(Column(name, kind or "string", "", 1 if word[0] == "+" else 0))
    return tuple(columns)


def _meta(obj: Object) -> tuple[str, Age]:
    metadata = obj["metadata"]
    return metadata.get("name", ""), Age(metadata.get("creationTimestamp") or "")


def _spec(obj: Object) -> Object:
    return obj.get("spec") or {}


def _status(obj: Object) -> Object:
    return obj.get("status") or {}


def _labels(labels: Object | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or "<none>"


def _containers(spec: Object) -> tuple[str, str]:
    containers = spec.get("containers") or []
    return ",".join(one.get("name", "") for one in containers), ",".join(one.get("image", "") for one in containers)


def _template(obj: Object) -> Object:
    return (_spec(obj).get("template") or {}).get("spec") or {}


# --- pods ---


def _pod(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec, status = _spec(obj), _status(obj)
    ready, total, reason, restarts, last = pod_line(obj)
    restarts_cell: Cell = str(restarts)
    if restarts and last:
        restarts_cell = Age(last, pattern=f"{restarts} ({{}} ago)")
    gates = "<none>"
    conditions = status.get("conditions") or []
    if spec.get("readinessGates"):
        met = 0
        for gate in spec["readinessGates"]:
            first: Object = next((one for one in conditions if one.get("type") == gate.get("conditionType")), {})
            met += first.get("status") == "True"
        gates = f"{met}/{len(spec['readinessGates'])}"
    addresses = status.get("podIPs") or []
    return (
        name,
        f"{ready}/{total}",
        reason,
        restarts_cell,
        age,
        (addresses[0].get("ip", "") if addresses else "") or "<none>",
        spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        gates,
    )


def pod_line(obj: Object) -> tuple[int, int, str, int, str]:
    """Ready and all containers, STATUS, restarts and the end of the latest run before them."""
    spec, status = _spec(obj), _status(obj)
    phase = status.get("phase", "")
    reason = status.get("reason") or phase
    conditions = status.get("conditions") or []
    if any(one.get("type") == "PodScheduled" and one.get("reason") == "SchedulingGated" for one in conditions):
        reason = "SchedulingGated"
    init_containers = spec.get("initContainers") or []
    sidecars = {one.get("name") for one in init_containers if one.get("restartPolicy") == "Always"}
    total = len(spec.get("containers") or []) + len(sidecars)
    ready = restarts = sidecar_restarts = 0
    last = sidecar_last = ""
    initializing = False
    for index, one in enumerate(status.get("initContainerStatuses") or []):
        restarts += one.get("restartCount", 0)
        ended = _last_end(one)
        last = max(last, ended)
        sidecar = one.get("name") in sidecars
        if sidecar:
            sidecar_restarts += one.get("restartCount", 0)
            sidecar_last = max(sidecar_last, ended)
        state = one.get("state") or {}
        terminated, waiting = state.get("terminated"), state.get("waiting")
        if terminated is not None and terminated.get("exitCode", 0) == 0:
            continue
        if sidecar and one.get("started"):
            ready += bool(one.get("ready"))
            continue
        if terminated is not None:
            reason = f"Init:{_ended(terminated)}"
        elif waiting is not None and waiting.get("reason") not in (None, "", "PodInitializing"):
            reason = f"Init:{waiting['reason']}"
        else:
            reason = f"Init:{index}/{len(init_containers)}"
        initializing = True
        break
    initialized = next((one.get("status") == "True" for one in conditions if one.get("type") == "Initialized"), False)
    if not initializing or initialized:
        restarts, last = sidecar_restarts, sidecar_last
        running = False
        error = ""
        for one in reversed(status.get("containerStatuses") or []):
            restarts += one.get("restartCount", 0)
            last = max(last, _last_end(one))
            state = one.get("state") or {}
            terminated, waiting = state.get("terminated"), state.get("waiting")
            if waiting is not None and waiting.get("reason"):
                reason = waiting["reason"]
            elif terminated is not None:
                reason = _ended(terminated)
                if terminated.get("exitCode", 0):
                    error = reason
            elif one.get("ready") and state.get("running") is not None:
                running = True
                ready += 1
        if reason == "Completed":
            if running and any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions):
                reason = "Running"
            elif error:
                reason = error
            elif running:
                reason = "NotReady"
    if obj["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            reason = "Unknown"
        elif phase not in ("Succeeded", "Failed"):
            reason = "Terminating"
    return ready, total, reason, restarts, last


def _last_end(status: Object) -> str:
    return ((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""


def _ended(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    return f"Signal:{terminated['signal']}" if terminated.get("signal") else f"ExitCode:{terminated.get('exitCode', 0)}"


# --- workloads ---


def _pod_template(obj: Object) -> Cells:
    template = obj.get("template") or {}
    names, images = _containers(template.get("spec") or {})
    return obj["metadata"].get("name", ""), names, images, _labels((template.get("metadata") or {}).get("labels"))


def _replica_set(obj: Object) -> Cells:
    name, age = _meta(obj)
    status = _status(obj)
    names, images = _containers(_template(obj))
    selector = _spec(obj).get("selector")
    text = selectors.describe(selector)
    return name, _spec(obj).get("replicas", 0), status.get("replicas", 0), status.get("readyReplicas", 0), age, names, images, text


def _replication_controller(obj: Object) -> Cells:
    name, age = _meta(obj)
    status = _status(obj)
    names, images = _containers(_template(obj))
    labels = _labels(_spec(obj).get("selector"))
    return name, _spec(obj).get("replicas", 0), status.get("replicas", 0), status.get("readyReplicas", 0), age, names, images, labels


def _deployment(obj: Object) -> Cells:
    name, age = _meta(obj)
    status = _status(obj)
    names, images = _containers(_template(obj))
    text = selectors.describe(_spec(obj).get("selector"))
    return (
        name,
        f"{status.get('readyReplicas', 0)}/{_spec(obj).get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age,
        names,
        images,
        "" if text == "<none>" else text,
    )


def _stateful_set(obj: Object) -> Cells:
    name, age = _meta(obj)
    return name, f"{_status(obj).get('readyReplicas', 0)}/{_spec(obj).get('replicas', 0)}", age, *_containers(_template(obj))


def _daemon_set(obj: Object) -> Cells:
    name, age = _meta(obj)
    status = _status(obj)
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
    names, images = _containers(_template(obj))
    return (
        name,
        *(status.get(one, 0) for one in counts),
        _labels(_template(obj).get("nodeSelector")),
        age,
        names,
        images,
        selectors.describe(_spec(obj).get("selector")),
    )


def _job(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec, status = _spec(obj), _status(obj)
    done = status.get("succeeded", 0)
    if spec.get("completions") is not None:
        completions = f"{done}/{spec['completions']}"
    elif (spec.get("parallelism") or 0) > 1:
        completions = f"{done}/1 of {spec['parallelism']}"
    else:
        completions = f"{done}/1"
    took = Age(status.get("startTime") or "", missing="", until=status.get("completionTime") or "")
    true = {one.get("type"): one.get("status") == "True" for one in reversed(status.get("conditions") or [])}
    if true.get("Complete"):
        state = "Complete"
    elif true.get("Failed"):
        state = "Failed"
    elif obj["metadata"].get("deletionTimestamp"):
        state = "Terminating"
    else:
        state = next((one for one in ("Suspended", "FailureTarget", "SuccessCriteriaMet") if true.get(one)), "Running")
    names, images = _containers(_template(obj))
    return name, state, completions, took, age, names, images, selectors.describe(spec.get("selector"))


def _cron_job(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec, status = _spec(obj), _status(obj)
    suspend = spec.get("suspend")
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    names, images = _containers((job.get("template") or {}).get("spec") or {})
    return (
        name,
        spec.get("schedule", ""),
        spec.get("timeZone") if spec.get("timeZone") is not None else "<none>",
        "<unset>" if suspend is None else "True" if suspend else "False",
        len(status.get("active") or []),
        Age(status.get("lastScheduleTime") or "", missing="<none>"),
        age,
        names,
        images,
        selectors.describe(job.get("selector")),
    )


def _budget(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec = _spec(obj)
    bounds = (str(spec[one]) if spec.get(one) is not None else "N/A" for one in ("minAvailable", "maxUnavailable"))
    return name, *bounds, _status(obj).get("disruptionsAllowed", 0), age


def _autoscaler(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec, status = _spec(obj), _status(obj)
    target = spec.get("scaleTargetRef") or {}
    return (
        name,
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _metrics(spec.get("metrics") or [], status.get("currentMetrics") or []),
        str(spec["minReplicas"]) if spec.get("minReplicas") is not None else "<unset>",
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        age,
    )


_METRIC_PARTS = {
    "External": "external", "Pods": "pods", "Object": "object", "Resource": "resource", "ContainerResource": "containerResource",
}  # fmt: skip


def _metrics(specs: Sequence[Object], statuses: Sequence[Object]) -> str:
    if not specs:
        return "<none>"
    texts = []
    for index, one in enumerate(specs):
        part = _METRIC_PARTS.get(one.get("type", ""))
        if part is None:
            texts.append("<unknown type>")
            continue
        target = (one.get(part) or {}).get("target") or {}
        measured = (statuses[index].get(part) if index < len(statuses) else None) or {}
        current = measured.get("current") or {}
        if part in ("external", "object"):
            if target.get("averageValue") is not None:
                texts.append(f"{current.get('averageValue', '<unknown>')}/{target['averageValue']} (avg)")
            else:
                texts.append(f"{current.get('value', '0') if measured else '<unknown>'}/{target.get('value', '0')}")
        elif part == "pods":
            texts.append(f"{current.get('averageValue', '0') if measured else '<unknown>'}/{target.get('averageValue', '0')}")
        else:
            label = (one.get(part) or {}).get("name", "")
            if target.get("averageValue") is not None:
                texts.append(f"{label}: {current.get('averageValue', '0') if measured else '<unknown>'}/{target['averageValue']}")
            else:
                use = current.get("averageUtilization")
                wanted = target.get("averageUtilization")
                texts.append(f"{label}: {'<unknown>' if use is None else f'{use}%'}/{'<auto>' if wanted is None else f'{wanted}%'}")
    if len(texts) > 2:
        return f"{', '.join(texts[:2])} + {len(texts) - 2} more..."
    return ", ".join(texts)


# --- network ---


def _service(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec = _spec(obj)
    addresses = spec.get("clusterIPs") or []
    ports = []
    for port in spec.get("ports") or []:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port.get('port', 0)}{node_port}/{port.get('protocol', '')}")
    return (
        name,
        spec.get("type", ""),
        addresses[0] if addresses else "<none>",
        _external_address(obj),
        ",".join(ports) or "<none>",
        age,
        _labels(spec.get("selector")),
    )


def _balancer(status: Object) -> str:
    found = {one.get("ip") or one.get("hostname") for one in (status.get("loadBalancer") or {}).get("ingress") or []}
    return ",".join(sorted(one for one in found if one))


def _external_address(obj: Object) -> Cell:
    spec = _spec(obj)
    given = spec.get("externalIPs") or []
    kind = spec.get("type")
    if kind in ("ClusterIP", "NodePort"):
        return ",".join(given) or "<none>"
    if kind == "LoadBalancer":
        balancer = _balancer(_status(obj))
        if given:
            return ",".join([*(balancer.split(",") if balancer else []), *given])
        return balancer or "<pending>"
    return spec.get("externalName", "") if kind == "ExternalName" else "<unknown>"


def _ingress(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec = _spec(obj)
    rules = spec.get("rules") or []
    hosts = [rule.get("host", "") for rule in rules[:3] if rule.get("host")]
    text = ",".join(hosts) or "*"
    if hosts and len(rules) > 3:
        text += f" + {len(rules) - 3} more..."
    ports = "80, 443" if spec.get("tls") else "80"
    class_name = spec.get("ingressClassName")
    return name, "<none>" if class_name is None else class_name, text, _balancer(_status(obj)), ports, age


def _ingress_class(obj: Object) -> Cells:
    name, age = _meta(obj)
    if ((obj["metadata"].get("annotations") or {}).get("ingressclass.kubernetes.io/is-default-class")) == "true":
        name += " (default)"
    spec = _spec(obj)
    parameters = "<none>"
    if spec.get("parameters"):
        one = spec["parameters"]
        group = f".{one['apiGroup']}" if one.get("apiGroup") is not None else ""
        parameters = f"{one.get('kind', '')}{group}/{one.get('name', '')}"
    return name, spec.get("controller", ""), parameters, age


def _endpoints(obj: Object) -> Cells:
    name, age = _meta(obj)
    shown: list[str] = []
    count = 0
    for subset in obj.get("subsets") or []:
        addresses = [one.get("ip", "") for one in subset.get("addresses") or []]
        if not subset.get("ports"):
            count += len(addresses)
            shown += addresses
        for port in subset.get("ports") or []:
            count += len(addresses)
            shown += [f"[{one}]:{port.get('port', 0)}" if ":" in one else f"{one}:{port.get('port', 0)}" for one in addresses]
    if not obj.get("subsets"):
        text = "<none>"
    else:
        text = ",".join(shown[:3]) + (f" + {count - 3} more..." if count > 3 else "")
    return name, text, age


def _slice(obj: Object) -> Cells:
    name, age = _meta(obj)
    ports = [str(one["port"]) if one.get("port") is not None else one.get("name", "*") for one in obj.get("ports") or []]
    addresses = [address for one in obj.get("endpoints") or [] for address in one.get("addresses") or []]
    return name, obj.get("addressType", ""), _first(ports), _first(addresses), age


def _first(texts: Sequence[str]) -> str:
    if len(texts) > 3:
        return f"{','.join(texts[:3])} + {len(texts) - 3} more..."
    return ",".join(texts) or "<unset>"


def _network_policy(obj: Object) -> Cells:
    name, age = _meta(obj)
    return name, selectors.describe(_spec(obj).get("podSelector")), age


# --- nodes, storage, the rest ---


def _node(obj: Object) -> Cells:
    name, age = _meta(obj)
    status = _status(obj)
    ready = next((one for one in reversed(status.get("conditions") or []) if one.get("type") == "Ready"), None)
    states = ["Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"]
    if _spec(obj).get("unschedulable"):
        states.append("SchedulingDisabled")
    roles = set()
    for key, value in (obj["metadata"].get("labels") or {}).items():
        if key.startswith("node-role.kubernetes.io/") and len(key) > 24:
            roles.add(key[24:])
        elif key == "kubernetes.io/role" and value:
            roles.add(value)
    info = status.get("nodeInfo") or {}
    kernel = info.get("kernelVersion") or "<unknown>"
    if info.get("architecture"):
        kernel += f" ({info['architecture']})"
    address = {one.get("type"): one.get("address") for one in reversed(status.get("addresses") or [])}
    return (
        name,
        ",".join(states),
        ",".join(sorted(roles)) or "<none>",
        age,
        info.get("kubeletVersion", ""),
        address.get("InternalIP") or "<none>",
        address.get("ExternalIP") or "<none>",
        info.get("osImage") or "<unknown>",
        kernel,
        info.get("containerRuntimeVersion") or "<unknown>",
    )


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _modes(modes: Sequence[str] | None) -> str:
    return ",".join(short for name, short in _MODES.items() if name in (modes or []))


def _volume(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec, status = _spec(obj), _status(obj)
    claim = spec.get("claimRef")
    return (
        name,
        (spec.get("capacity") or {}).get("storage", "0"),
        _modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", ""),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        _storage_class_of(obj),
        spec.get("volumeAttributesClassName") or "<unset>",
        status.get("reason", ""),
        age,
        spec.get("volumeMode") or "<unset>",
    )


def _storage_class_of(obj: Object) -> str:
    old = (obj["metadata"].get("annotations") or {}).get("volume.beta.kubernetes.io/storage-class")
    return old if old is not None else _spec(obj).get("storageClassName") or ""


def _claim(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec, status = _spec(obj), _status(obj)
    bound = bool(spec.get("volumeName"))
    return (
        name,
        "Terminating" if obj["metadata"].get("deletionTimestamp") else status.get("phase", ""),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "0") if bound else "",
        _modes(status.get("accessModes")) if bound else "",
        _storage_class_of(obj),
        spec.get("volumeAttributesClassName") or "<unset>",
        age,
        spec.get("volumeMode") or "<unset>",
    )


def _storage_class(obj: Object) -> Cells:
    name, age = _meta(obj)
    annotations = obj["metadata"].get("annotations") or {}
    if "true" in (
        annotations.get("storageclass.kubernetes.io/is-default-class"),
        annotations.get("storageclass.beta.kubernetes.io/is-default-class"),
    ):
        name += " (default)"
    return (
        name,
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy") or "Delete",
        obj.get("volumeBindingMode") or "Immediate",
        bool(obj.get("allowVolumeExpansion")),
        age,
    )


def _driver(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec = _spec(obj)
    tokens = spec.get("tokenRequests")
    return (
        name,
        spec.get("attachRequired", True),
        spec.get("podInfoOnMount", False),
        spec.get("storageCapacity", False),
        "<unset>" if tokens is None else ",".join(one.get("audience", "") for one in tokens),
        spec.get("requiresRepublish", False),
        ",".join(spec.get("volumeLifecycleModes") or []) or "<none>",
        age,
    )


def _event(obj: Object) -> Cells:
    first = Age(obj.get("firstTimestamp") or obj.get("eventTime") or "")
    last = Age(obj.get("lastTimestamp") or first.since)
    count = obj.get("count") or 0
    if obj.get("series"):
        last = Age(obj["series"].get("lastObservedTime") or "")
        count = obj["series"].get("count", 0)
    elif not count:
        count = 1
    about = obj.get("involvedObject") or {}
    target = about.get("kind", "").lower() + (f"/{about['name']}" if about.get("name") else "")
    source = obj.get("source") or {}
    component = source.get("component") or obj.get("reportingComponent") or ""
    host = source.get("host") or obj.get("reportingInstance") or ""
    return (
        last,
        obj.get("type", ""),
        obj.get("reason", ""),
        target,
        about.get("fieldPath", ""),
        f"{component}, {host}" if host else component,
        (obj.get("message") or "").strip(),
        first,
        count,
        obj["metadata"].get("name", ""),
    )


def _role_binding(obj: Object) -> Cells:
    name, age = _meta(obj)
    role = obj.get("roleRef") or {}
    subjects = obj.get("subjects") or []
    users = [one.get("name", "") for one in subjects if one.get("kind") == "User"]
    groups = [one.get("name", "") for one in subjects if one.get("kind") == "Group"]
    accounts = [f"{one.get('namespace', '')}/{one.get('name', '')}" for one in subjects if one.get("kind") == "ServiceAccount"]
    return name, f"{role.get('kind', '')}/{role.get('name', '')}", age, ", ".join(users), ", ".join(groups), ", ".join(accounts)


def _quota(obj: Object) -> Cells:
    name, age = _meta(obj)
    status = _status(obj)
    used, hard = status.get("used") or {}, status.get("hard") or {}
    requests = [f"{one}: {used.get(one, '0')}/{hard[one]}" for one in sorted(hard) if not one.startswith("limits.")]
    limits = [f"{one}: {used.get(one, '0')}/{hard[one]}" for one in sorted(hard) if one.startswith("limits.")]
    return name, ", ".join(requests), ", ".join(limits), age


def _created(obj: Object) -> Cells:
    return obj["metadata"].get("name", ""), obj["metadata"].get("creationTimestamp", "")


def _plain(*values: Callable[[Object], Cell]) -> Callable[[Object], Cells]:
    """A printer of the name, `values` and the age."""

    def printer(obj: Object) -> Cells:
        name, age = _meta(obj)
        return name, *(value(obj) for value in values), age

    return printer


def _revision(obj: Object) -> Cells:
    name, age = _meta(obj)
    owner = next((one for one in obj["metadata"].get("ownerReferences") or [] if one.get("controller")), None)
    text = "<none>"
    if owner:
        group = owner["apiVersion"].rpartition("/")[0]
        text = f"{owner['kind'].lower()}{f'.{group}' if group else ''}/{owner['name']}"
    return name, text, obj.get("revision", 0), age


def _signing_request(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec, status = _spec(obj), _status(obj)
    types = {one.get("type") for one in status.get("conditions") or []}
    state = "Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"
    state += (",Failed" if "Failed" in types else "") + (",Issued" if status.get("certificate") else "")
    seconds = spec.get("expirationSeconds")
    return (
        name,
        age,
        spec.get("signerName") or "<none>",
        spec.get("username", ""),
        "<none>" if seconds is None else duration(seconds),
        state,
    )


def _attachment(obj: Object) -> Cells:
    name, age = _meta(obj)
    spec = _spec(obj)
    volume = (spec.get("source") or {}).get("persistentVolumeName") or ""
    return name, spec.get("attacher", ""), volume, spec.get("nodeName", ""), bool(_status(obj).get("attached")), age


def _api_service(obj: Object) -> Cells:
    name, age = _meta(obj)
    service = _spec(obj).get("service")
    condition = next((one for one in _status(obj).get("conditions") or [] if one.get("type") == "Available"), None)
    state = "Unknown"
    if condition:
        state = (
            condition.get("status", "") if condition.get("status") == "True" else f"{condition.get('status')} ({condition.get('reason')})"
        )
    return name, f"{service.get('namespace')}/{service.get('name')}" if service else "Local", state, age


def _priority_class(obj: Object) -> Cells:
    name, age = _meta(obj)
    return name, obj.get("value", 0), bool(obj.get("globalDefault")), age, obj.get("preemptionPolicy", "")


def _scale(obj: Object) -> Cells:
    name, age = _meta(obj)
    return name, _spec(obj).get("replicas", 0), _status(obj).get("replicas", 0), age


def _parameter_kind(obj: Object) -> str:
    kind = _spec(obj).get("paramKind")
    return f"{kind.get('apiVersion', '')}/{kind.get('kind', '')}" if kind else "<unset>"


def _parameter(obj: Object) -> str:
    reference = _spec(obj).get("paramRef") or {}
    return f"{reference.get('namespace') or '*'}/{reference['name']}" if reference.get("name") else "<unset>"


Printer = Callable[[Object], Cells]
_GENERIC: tuple[tuple[Column, ...], Printer] = ((_NAME, Column("Created At", "date")), _created)

PRINTERS: dict[str, tuple[tuple[Column, ...], Printer]] = {
    "pods": ((_NAME, *_columns("Ready, Status, Restarts, Age, +IP, +Node, +Nominated Node, +Readiness Gates")), _pod),
    "podtemplates": ((_NAME, *_columns("Containers, Images, Pod Labels")), _pod_template),
    "replicationcontrollers": (
        (_NAME, *_columns("Desired:integer, Current:integer, Ready:integer, Age, +Containers, +Images, +Selector")),
        _replication_controller,
    ),
    "replicasets.apps": (
        (_NAME, *_columns("Desired:integer, Current:integer, Ready:integer, Age, +Containers, +Images, +Selector")),
        _replica_set,
    ),
    "deployments.apps": ((_NAME, *_columns("Ready, Up-to-date, Available, Age, +Containers, +Images, +Selector")), _deployment),
    "statefulsets.apps": ((_NAME, *_columns("Ready, Age, +Containers, +Images")), _stateful_set),
    "daemonsets.apps": (
        (
            _NAME,
            *_columns(
                "Desired:integer, Current:integer, Ready:integer, Up-to-date:integer, Available:integer, Node Selector, Age,"
                " +Containers, +Images, +Selector"
            ),
        ),
        _daemon_set,
    ),
    "controllerrevisions.apps": ((_NAME, *_columns("Controller, Revision, Age")), _revision),
    "jobs.batch": ((_NAME, *_columns("Status, Completions, Duration, Age, +Containers, +Images, +Selector")), _job),
    "cronjobs.batch": (
        (
            _NAME,
            *_columns("Schedule, Timezone, Suspend:boolean, Active:integer, Last Schedule, Age, +Containers, +Images, +Selector"),
        ),
        _cron_job,
    ),
    "poddisruptionbudgets.policy": (
        (_NAME, *_columns("Min Available, Max Unavailable, Allowed Disruptions:integer, Age")),
        _budget,
    ),
    "horizontalpodautoscalers.autoscaling": (
        (_NAME, *_columns("Reference, Targets, MinPods, MaxPods, Replicas, Age")),
        _autoscaler,
    ),
    "services": ((_NAME, *_columns("Type, Cluster-IP, External-IP, Port(s), Age, +Selector")), _service),
    "ingresses.networking.k8s.io": ((_NAME, *_columns("Class, Hosts, Address, Ports, Age")), _ingress),
    "ingressclasses.networking.k8s.io": ((_NAME, *_columns("Controller, Parameters, Age")), _ingress_class),
    "networkpolicies.networking.k8s.io": ((_NAME, *_columns("Pod-Selector, Age")), _network_policy),
    "endpoints": ((_NAME, *_columns("Endpoints, Age")), _endpoints),
    "endpointslices.discovery.k8s.io": ((_NAME, *_columns("AddressType, Ports, Endpoints, Age")), _slice),
    "nodes": (
        (
            _NAME,
            *_columns("Status, Roles, Age, Version, +Internal-IP, +External-IP, +OS-Image, +Kernel-Version, +Container-Runtime"),
        ),
        _node,
    ),
    "persistentvolumes": (
        (
            _NAME,
            *_columns(
                "Capacity, Access Modes, Reclaim Policy, Status, Claim, StorageClass, VolumeAttributesClass, Reason, Age, +VolumeMode"
            ),
        ),
        _volume,
    ),
    "persistentvolumeclaims": (
        (_NAME, *_columns("Status, Volume, Capacity, Access Modes, StorageClass, VolumeAttributesClass, Age, +VolumeMode")),
        _claim,
    ),
    "storageclasses.storage.k8s.io": (
        (_NAME, *_columns("Provisioner, ReclaimPolicy, VolumeBindingMode, AllowVolumeExpansion, Age")),
        _storage_class,
    ),
    "csidrivers.storage.k8s.io": (
        (
            _NAME,
            *_columns(
                "AttachRequired:boolean, PodInfoOnMount:boolean, StorageCapacity:boolean, TokenRequests, RequiresRepublish:boolean,"
                " Modes, Age"
            ),
        ),
        _driver,
    ),
    "csinodes.storage.k8s.io": (
        (_NAME, *_columns("Drivers:integer, Age")),
        _plain(lambda obj: len(_spec(obj).get("drivers") or [])),
    ),
    "volumeattachments.storage.k8s.io": (
        (_NAME, Column("Attacher", format="name"), *_columns("PV, Node, Attached:boolean, Age")),
        _attachment,
    ),
    "events": (
        (
            *_columns("Last Seen, Type, Reason, Object, +Subobject, +Source, Message, +First Seen, +Count"),
            Column("Name", format="name", priority=1),
        ),
        _event,
    ),
    "namespaces": ((_NAME, *_columns("Status, Age")), _plain(lambda obj: _status(obj).get("phase", ""))),
    "componentstatuses": ((_NAME, *_columns("Status, Message, Error")), lambda obj: (obj["metadata"].get("name", ""), "", "", "")),
    "ipaddresses.networking.k8s.io": (
        (_NAME, *_columns("ParentRef")),
        lambda obj: (obj["metadata"].get("name", ""), "/".join(str(one) for one in (_spec(obj).get("parentRef") or {}).values())),
    ),
    "servicecidrs.networking.k8s.io": ((_NAME, *_columns("CIDRs, Age")), _plain(lambda obj: ",".join(_spec(obj).get("cidrs") or []))),
    "volumeattributesclasses.storage.k8s.io": ((_NAME, *_columns("DriverName, Age")), _plain(lambda obj: obj.get("driverName", ""))),
    "configmaps": (
        (_NAME, *_columns("Data, Age")),
        _plain(lambda obj: len(obj.get("data") or {}) + len(obj.get("binaryData") or {})),
    ),
    "secrets": ((_NAME, *_columns("Type, Data, Age")), _plain(lambda obj: obj.get("type", ""), lambda obj: len(obj.get("data") or {}))),
    "serviceaccounts": ((_NAME, _AGE), _plain()),
    "resourcequotas": ((_NAME, *_columns("Request, Limit, Age")), _quota),
    "rolebindings.rbac.authorization.k8s.io": ((_NAME, *_columns("Role, Age, +Users, +Groups, +ServiceAccounts")), _role_binding),
    "clusterrolebindings.rbac.authorization.k8s.io": ((_NAME, *_columns("Role, Age, +Users, +Groups, +ServiceAccounts")), _role_binding),
    "leases.coordination.k8s.io": ((_NAME, *_columns("Holder, Age")), _plain(lambda obj: _spec(obj).get("holderIdentity") or "")),
    "runtimeclasses.node.k8s.io": ((_NAME, *_columns("Handler, Age")), _plain(lambda obj: obj.get("handler", ""))),
    "priorityclasses.scheduling.k8s.io": (
        (_NAME, *_columns("Value:integer, Global-Default:boolean, Age"), Column("PreemptionPolicy")),
        _priority_class,
    ),
    "csistoragecapacities.storage.k8s.io": _GENERIC,
    "mutatingadmissionpolicies.admissionregistration.k8s.io": (
        (_NAME, *_columns("Mutations:integer, ParamKind, Age")),
        _plain(lambda obj: len(_spec(obj).get("mutations") or []), _parameter_kind),
    ),
    "validatingadmissionpolicies.admissionregistration.k8s.io": (
        (_NAME, *_columns("Validations:integer, ParamKind, Age")),
        _plain(lambda obj: len(_spec(obj).get("validations") or []), _parameter_kind),
    ),
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io": (
        (_NAME, *_columns("PolicyName, ParamRef, Age")),
        _plain(lambda obj: _spec(obj).get("policyName", ""), _parameter),
    ),
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": (
        (_NAME, *_columns("PolicyName, ParamRef, Age")),
        _plain(lambda obj: _spec(obj).get("policyName", ""), _parameter),
    ),
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": (
        (_NAME, *_columns("Webhooks:integer, Age")),
        _plain(lambda obj: len(obj.get("webhooks") or [])),
    ),
    "validatingwebhookconfigurations.admissionregistration.k8s.io": (
        (_NAME, *_columns("Webhooks:integer, Age")),
        _plain(lambda obj: len(obj.get("webhooks") or [])),
    ),
    "certificatesigningrequests.certificates.k8s.io": (
        (_NAME, *_columns("Age, SignerName, Requestor, RequestedDuration, Condition")),
        _signing_request,
    ),
    "apiservices.apiregistration.k8s.io": ((_NAME, *_columns("Service, Available, Age")), _api_service),
    "scales.autoscaling": ((Column("Name"), *_columns("Desired:integer, Available:integer, Age")), _scale),
}


def printer_of(storage: str, custom: Object | None = None) -> tuple[tuple[Column, ...], Printer]:
    """The columns and the printer of a resource; `custom` is the version's entry of a custom resource definition."""
    if custom is None:
        return PRINTERS.get(storage, _GENERIC)
    columns = custom.get("additionalPrinterColumns")
    if not columns:
        return (_NAME, _AGE), _meta
    return _custom(columns)


def _custom(columns: Sequence[Object]) -> tuple[tuple[Column, ...], Printer]:
    headings = tuple(
        Column(one["name"], one["type"], one.get("format", ""), one.get("priority", 0), one.get("description", "")) for one in columns
    )
    finders = [(_finder(one["jsonPath"]), one["type"]) for one in columns]

    def printer(obj: Object) -> Cells:
        return obj["metadata"].get("name", ""), *(_custom_cell(find(obj), kind) for find, kind in finders)

    return (_NAME, *headings), printer


def _custom_cell(values: list[Any], kind: str) -> Cell:
    if not values or values[0] is None:
        return None
    value = values[0]
    if kind == "date":
        return Age(str(value))
    if kind == "integer":
        return value if isinstance(value, int) and not isinstance(value, bool) else int(value) if isinstance(value, float) else None
    if kind == "number":
        return value if isinstance(value, int | float) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, separators=(",", ":")) if isinstance(value, dict | list) else str(value)


@lru_cache(1024)
def _finder(path: str) -> Callable[[Object], list[Any]]:
    """What finds the values of a column's path (a subset of kubectl's JSONPath; python-jsonpath does the work)."""
    import jsonpath

    text = path.strip().removeprefix("{").removesuffix("}")
    text = re.sub(
        r"\.((?:[^.\[\]\\]|\\.)+)",
        lambda match: f"['{match[1].replace(chr(92), '')}']" if "\\" in match[1] or "-" in match[1] or "/" in match[1] else match[0],
        text,
    )
    query = jsonpath.compile("$" + (text if text.startswith((".", "[")) else f".{text}"))
    return query.findall
