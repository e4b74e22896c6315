"""What is wrong with a pod as far as the pod itself says: the start of every diagnosis, and how pods are put into groups.

A symptom is coarse on purpose: a container that crashes is "exited" whether it is waiting for its next start (CrashLoopBackOff) or has just
ended (Error), so that the pods of one Deployment, caught at different moments, stand together.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from opslib.sources.objects import Condition, Container, ContainerStatus, Node, Pod, StateTerminated

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
        "ErrInvalidImageName",
    }
)
CONFIG_REASONS = frozenset({"CreateContainerConfigError"})
START_REASONS = frozenset(
    {"CreateContainerError", "RunContainerError", "PreStartHookError", "PostStartHookError", "StartError", "ContainerCannotRun"}
)
# Reasons that only say "being made".
WAITING_REASONS = frozenset({"", "ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True, order=True)
class Symptom:
    """One thing that is wrong with a pod.

    Parameters
    ----------
    kind
        "terminating", "evicted" (ended by node or scheduler), "lost" (phase Unknown or NodeLost), "unscheduled", "image", "config",
        "start", "oom", "exited", "not_ready", "gate", "creating", "init" (runs on), "restarted" (well now), "failed" (not restarted),
        "other".
    container
        The container that it is about; empty where it is about the pod.
    detail
        What sets it apart within the kind: an exit code, a status reason, an image.
    """

    kind: str
    container: str = ""
    detail: str = ""


def symptoms(pod: Pod, now: datetime, grace: timedelta, restarted_within: timedelta = timedelta(hours=1)) -> tuple[Symptom, ...]:
    """What is wrong with `pod`, one a container at most; empty where it is well, has completed, or started less than `grace` ago.

    Parameters
    ----------
    pod
        In full.
    now
        When it was read.
    grace
        How long it may be scheduled, made, initialised, become ready, or end after its own grace time, before that is worth a word. What
        the kubelet itself calls an error counts at once.
    restarted_within
        How long a container that runs well counts as restarted.
    """
    status = pod.status
    if pod.metadata.deletion_timestamp is not None:
        # The API server sets the deletion time to when the pod's own grace period ends.
        overdue = now - pod.metadata.deletion_timestamp > min(grace, timedelta(seconds=30))
        return (Symptom("terminating"),) if overdue else ()
    if status.phase == "Succeeded":
        return ()
    if status.phase == "Unknown" or status.reason == "NodeLost":
        return (Symptom("lost", detail=pod.spec.node_name),)
    if status.phase == "Failed" and (status.reason or not _statuses(pod)):
        return (Symptom("evicted", detail=status.reason),)
    if status.phase in ("Pending", "") and not pod.spec.node_name and not _statuses(pod):
        reason = _unscheduled(pod)
        # Once the scheduler has said that no node fits, there is nothing to wait for.
        known = reason == "Unschedulable" or _older(pod.metadata.creation_timestamp, now, grace)
        return (Symptom("unscheduled", detail=reason),) if known else ()
    found = list(_containers(pod, now, grace, restarted_within))
    if found:
        return tuple(found)
    return _whole_pod(pod, now, grace)


def _containers(pod: Pod, now: datetime, grace: timedelta, restarted_within: timedelta) -> list[Symptom]:
    found: list[Symptom] = []
    sidecars = {container.name for container in pod.spec.init_containers if container.restart_policy == "Always"}
    init_names = {container.name for container in pod.spec.init_containers}
    once = pod.status.phase == "Failed" or pod.spec.restart_policy == "Never"
    initialising = False
    for container in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        init = container.name in init_names and container.name not in sidecars
        ended = container.state.terminated
        if init and ended and ended.exit_code == 0:
            continue
        if initialising and container.name not in sidecars:
            continue  # it waits for an init container before it, which has a word of its own
        symptom = _container(pod, container, init, once, now, grace, restarted_within)
        if symptom:
            found.append(symptom)
        if init or (container.name in sidecars and container.started is False):
            initialising = True
    return found


def _container(
    pod: Pod, status: ContainerStatus, init: bool, once: bool, now: datetime, grace: timedelta, restarted_within: timedelta
) -> Symptom | None:
    name = status.name
    waiting, running, ended = status.state.waiting, status.state.running, status.state.terminated
    last = status.last_state.terminated
    if waiting and waiting.reason in IMAGE_REASONS:
        return Symptom("image", name, status.image)
    if waiting and waiting.reason in CONFIG_REASONS:
        return Symptom("config", name, waiting.message)
    if waiting and waiting.reason in START_REASONS:
        return Symptom("start", name, waiting.reason)
    if waiting and waiting.reason == "CrashLoopBackOff":
        return _exited(name, last) if last else Symptom("exited", name)
    if waiting and waiting.reason not in WAITING_REASONS:
        return Symptom("other", name, waiting.reason)
    if ended:
        if ended.exit_code == 0 and (once or init or pod.spec.restart_policy == "OnFailure"):
            return None
        if once and ended.reason != "OOMKilled":
            return Symptom("failed", name, str(ended.exit_code))
        return _exited(name, ended)
    restarted = last is not None and status.restart_count > 0
    if running and (init or (restarted and not status.ready)):
        if restarted and last is not None:
            return _exited(name, last)
        if init and _older(running.started_at, now, grace):
            return Symptom("init", name)
        return None
    if running and not status.ready:
        since = _condition_time(pod, "ContainersReady") or running.started_at
        return Symptom("not_ready", name) if _older(since, now, grace) or _older(running.started_at, now, grace) else None
    if running and restarted and last is not None and _within(last.finished_at, now, restarted_within):
        return Symptom("restarted", name, _exited(name, last).kind)
    if waiting and _older(_scheduled(pod), now, grace) and not init:
        return Symptom("creating", name if restarted else "")
    if waiting and init and _older(_scheduled(pod), now, grace):
        return Symptom("creating")
    return None


def _exited(name: str, ended: StateTerminated | None) -> Symptom:
    if ended is None:
        return Symptom("exited", name)
    if ended.reason == "OOMKilled":
        return Symptom("oom", name)
    if ended.reason in START_REASONS:
        return Symptom("start", name, ended.reason)
    return Symptom("exited", name, str(ended.exit_code))


def _whole_pod(pod: Pod, now: datetime, grace: timedelta) -> tuple[Symptom, ...]:
    """What remains where no container has anything to say."""
    status = pod.status
    if status.phase == "Failed":
        return (Symptom("failed"),)
    if status.phase == "Pending" and pod.spec.node_name and not _statuses(pod):
        return (Symptom("creating"),) if _older(_scheduled(pod), now, grace) else ()
    ready = condition(pod, "Ready")
    if status.phase == "Running" and ready is not None and ready.status != "True":
        if not _older(ready.last_transition_time or status.start_time, now, grace):
            return ()
        gates = [str(gate.get("conditionType", "")) for gate in pod.spec.readiness_gates]
        waiting = [gate for gate in gates if (found := condition(pod, gate)) is None or found.status != "True"]
        if waiting and all(container.ready for container in status.container_statuses):
            return (Symptom("gate", detail=", ".join(waiting)),)
        if all(container.ready for container in status.container_statuses):
            return (Symptom("lost", detail=pod.spec.node_name),)
    return ()


def _unscheduled(pod: Pod) -> str:
    scheduled = condition(pod, "PodScheduled")
    return scheduled.reason if scheduled else ""


def _statuses(pod: Pod) -> list[ContainerStatus]:
    return pod.status.init_container_statuses + pod.status.container_statuses


def _scheduled(pod: Pod) -> datetime | None:
    return _condition_time(pod, "PodScheduled") or pod.status.start_time or pod.metadata.creation_timestamp


def _condition_time(pod: Pod, type_: str) -> datetime | None:
    found = condition(pod, type_)
    return found.last_transition_time if found else None


def _older(time: datetime | None, now: datetime, age: timedelta) -> bool:
    """Whether it is longer ago; a time that is not known counts as long ago, so that nothing hides behind it."""
    return time is None or now - time > age


def _within(time: datetime | None, now: datetime, age: timedelta) -> bool:
    return time is not None and now - time <= age


def condition(of: Pod | Node, type_: str) -> Condition | None:
    """One condition of a pod or a node; None where it has none of that type."""
    return next((item for item in of.status.conditions if item.type == type_), None)


def container_status(pod: Pod, name: str) -> ContainerStatus | None:
    """The status of one container, init containers too."""
    return next((item for item in _statuses(pod) if item.name == name), None)


def container_spec(pod: Pod, name: str) -> Container | None:
    """What one container should be, init containers too."""
    return next((item for item in (*pod.spec.init_containers, *pod.spec.containers) if item.name == name), None)
