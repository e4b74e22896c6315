"""What a kubelet writes about a pod, made from the few words of a fault's file: status, conditions, events.

The rules are the kubelet's: getPhase in pkg/kubelet/kubelet_pods.go and pkg/kubelet/status/generate.go of k8s.io/kubernetes.
"""

from __future__ import annotations

import hashlib
import string
from datetime import datetime, timedelta

from opslib.errors import InputError
from opslib.lab.faults import LABEL, ContainerPlay, EventPlay, Object, PodPlay, Terminated
from opslib.messages import _


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
        status["startTime"] = stamp(now, rule.started)
    if placed:
        status |= {"hostIP": "10.0.1.10", "hostIPs": [{"ip": "10.0.1.10"}]}
    if placed and rule.sandbox and status["phase"] != "Failed":
        ip = address(pod)
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    for field in ("reason", "message"):
        value = getattr(rule, field)
        if value is not None:
            status[field] = filled(value, pod, mains[0]["name"], now)
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
            status["state"] = {"waiting": {"reason": play.waiting, "message": filled(play.message, pod, name, now)}}
            if not play.message:
                del status["state"]["waiting"]["message"]
        elif play.terminated is not None:
            status["state"] = {"terminated": _terminated(play.terminated, pod, name, now)}
        else:
            status["state"] = {"running": {"startedAt": stamp(now, play.since)}}
        if play.last is not None:
            status["lastState"] = {"terminated": _terminated(play.last, pod, name, now)}
        statuses.append(status)
    return statuses


def _terminated(play: Terminated, pod: Object, container: str, now: datetime) -> Object:
    reason = play.reason if play.reason is not None else "Error" if play.exit or play.signal else "Completed"
    state: Object = {
        "exitCode": play.exit,
        "startedAt": stamp(now, play.started),
        "finishedAt": stamp(now, play.finished),
        "containerID": _container_id(pod, container),
    }
    if reason:
        state["reason"] = reason
    if play.signal:
        state["signal"] = play.signal
    if play.message:
        state["message"] = filled(play.message, pod, container, now)
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
        state, _space, rest = filled(text, pod, spec["containers"][0]["name"], now).partition(" ")
        reason, _space, message = rest.partition(" ")
        found[type] = (state, reason, message)
    since = stamp(now, rule.started if rule.started is not None else 0)
    return [
        {"type": type, "status": state, "lastTransitionTime": since}
        | ({"reason": reason} if reason else {})
        | ({"message": message} if message else {})
        for type, (state, reason, message) in found.items()
    ]


def event_of(play: EventPlay, pod: Object, now: datetime) -> Object:
    metadata, node = pod["metadata"], pod["spec"].get("nodeName", "")
    inits = {container["name"] for container in pod["spec"].get("initContainers") or []}
    message = filled(play.message, pod, play.container or pod["spec"]["containers"][0]["name"], now)
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
        "firstTimestamp": stamp(now, play.first),
        "lastTimestamp": stamp(now, play.last),
        "source": {"component": play.source} | ({"host": node} if play.source == "kubelet" and node else {}),
        "reportingComponent": play.source,
    }


def usage_of(rule: PodPlay, pod: Object, now: datetime) -> Object:
    """What the metrics API says that the pod uses."""
    metadata = pod["metadata"]
    return {
        "apiVersion": "metrics.k8s.io/v1beta1",
        "kind": "PodMetrics",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "labels": metadata["labels"]},
        "timestamp": stamp(now, 0),
        "window": "15s",
        "containers": [{"name": name, "usage": usage} for name, usage in rule.usage.items()],
    }


def filled(text: str, pod: Object, container: str, now: datetime) -> str:
    """`text` with $pod, $namespace, $uid, $pod_id, $node, $ip, $container, $image, $container_id, and $time filled in."""
    metadata, spec = pod["metadata"], pod["spec"]
    images = {item["name"]: item.get("image", "") for item in [*spec["containers"], *(spec.get("initContainers") or [])]}
    return string.Template(text).safe_substitute(
        pod=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        pod_id=f"{metadata['name']}_{metadata['namespace']}({metadata['uid']})",
        node=spec.get("nodeName", ""),
        ip=address(pod),
        container=container,
        image=images.get(container, ""),
        container_id=_container_id(pod, container).removeprefix("containerd://"),
        time=stamp(now, -30),
    )


def stamp(now: datetime, after: float) -> str:
    return (now + timedelta(seconds=after)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _container_id(pod: Object, container: str) -> str:
    return f"containerd://{_digest(pod['metadata']['uid'] + container)}"


def address(pod: Object) -> str:
    number = int(_digest(pod["metadata"]["uid"])[:6], 16)
    return f"10.244.{number >> 8 & 255}.{number % 254 + 1}"
