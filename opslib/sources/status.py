"""READY, STATUS and RESTARTS of a pod, as ``kubectl get pods`` prints them.

The rules are those of the API server's own printer (``printPod`` in k8s.io/kubernetes, pkg/printers/internalversion/printers.go); tests
compare the two on the real server for every state that can be made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from opslib.sources.objects import Container, ContainerStatus, Pod, StateTerminated

TERMINAL_PHASES = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class PodLine:
    """What kubectl prints of a pod.

    Parameters
    ----------
    ready, total
        Containers that are ready, and all that should be (sidecars count).
    status
        The STATUS column.
    restarts
        Restarts of the containers that run now, or of the init containers while those run.
    last_restart
        When the latest of these restarts happened; None where there was none.
    """

    ready: int
    total: int
    status: str
    restarts: int
    last_restart: datetime | None

    def restarts_text(self, now: datetime) -> str:
        """The RESTARTS column: "3 (5m ago)"."""
        if self.restarts and self.last_restart:
            return f"{self.restarts} ({human_duration(now - self.last_restart)} ago)"
        return str(self.restarts)


def is_sidecar(container: Container | None) -> bool:
    """Whether an init container keeps running beside the others."""
    return container is not None and container.restart_policy == "Always"


def pod_status(pod: Pod) -> PodLine:
    """READY, STATUS and RESTARTS of `pod`."""
    status = pod.status.reason or pod.status.phase
    if any(condition.type == "PodScheduled" and condition.reason == "SchedulingGated" for condition in pod.status.conditions):
        status = "SchedulingGated"
    init_containers = {container.name: container for container in pod.spec.init_containers}
    total = len(pod.spec.containers) + sum(is_sidecar(container) for container in pod.spec.init_containers)

    ready = 0
    initializing = False
    seen: list[ContainerStatus] = []
    for index, container in enumerate(pod.status.init_container_statuses):
        seen.append(container)
        sidecar = is_sidecar(init_containers.get(container.name))
        terminated, waiting = container.state.terminated, container.state.waiting
        if terminated and terminated.exit_code == 0:
            continue
        if sidecar and container.started:
            ready += container.ready
            continue
        if terminated:
            status = f"Init:{_ended(terminated)}"
        elif waiting and waiting.reason not in ("", "PodInitializing"):
            status = f"Init:{waiting.reason}"
        else:
            status = f"Init:{index}/{len(pod.spec.init_containers)}"
        initializing = True
        break

    initialized = next((condition.status == "True" for condition in pod.status.conditions if condition.type == "Initialized"), False)
    if not initializing or initialized:
        running = False
        error = ""
        for container in reversed(pod.status.container_statuses):
            terminated, waiting = container.state.terminated, container.state.waiting
            if waiting and waiting.reason:
                status = waiting.reason
            elif terminated:
                status = _ended(terminated)
                error = status if terminated.exit_code else error
            elif container.ready and container.state.running:
                running = True
                ready += 1
        if status == "Completed":
            if running and _is_true(pod, "Ready"):
                status = "Running"
            elif error or running:
                status = error or "NotReady"
        # From here on init containers are history, except those that keep running.
        seen = [container for container in seen if is_sidecar(init_containers.get(container.name))] + pod.status.container_statuses

    if pod.metadata.deletion_timestamp:
        if pod.status.reason == "NodeLost":
            status = "Unknown"
        elif pod.status.phase not in TERMINAL_PHASES:
            status = "Terminating"
    ends = [container.last_state.terminated.finished_at for container in seen if container.last_state.terminated]
    return PodLine(
        ready=ready,
        total=total,
        status=status,
        restarts=sum(container.restart_count for container in seen),
        last_restart=max((end for end in ends if end), default=None),
    )


def _ended(state: StateTerminated) -> str:
    if state.reason:
        return state.reason
    return f"Signal:{state.signal}" if state.signal else f"ExitCode:{state.exit_code}"


def _is_true(pod: Pod, condition_type: str) -> bool:
    return any(condition.type == condition_type and condition.status == "True" for condition in pod.status.conditions)


def human_duration(duration: timedelta) -> str:
    """A duration as kubectl shortens it: "119s", "5m12s", "3h20m", "2d4h" (``HumanDuration`` in k8s.io/apimachinery)."""
    seconds = int(duration.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if hours < 192:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
