"""What containers use that are not the platform's: those that a lesson or a user started. It follows from what they ask for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

from opslib.lab.world.present import amount, unix

Object = dict[str, Any]


def running(pods: Iterable[Object]) -> Iterator[tuple[Object, str, float, float, float]]:
    """The containers that run: their pod, name, cores and bytes in use, and their start in Unix seconds."""
    for pod in pods:
        statuses = {one["name"]: one for one in pod.get("status", {}).get("containerStatuses") or ()}
        for container in pod["spec"]["containers"]:
            state = statuses.get(container["name"], {}).get("state", {}).get("running")
            if state is None:
                continue
            requests = container.get("resources", {}).get("requests", {})
            share = int(hashlib.sha256((pod["metadata"]["name"] + container["name"]).encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
            cores = amount(requests.get("cpu", "50m")) * (0.33 + 0.33 * share)
            yield pod, container["name"], cores, amount(requests.get("memory", "64Mi")) * (0.5 + 0.4 * share), unix(state["startedAt"])


def samples(pods: Iterable[Object], node: str, now: float) -> Iterator[tuple[str, dict[str, str], float]]:
    """What a node's cAdvisor says of such containers."""
    for pod, name, cores, memory, started in running(pods):
        image = next(one.get("image", "") for one in pod["spec"]["containers"] if one["name"] == name)
        labels = {
            **{"job": "kubelet", "instance": node, "node": node, "metrics_path": "/metrics/cadvisor"},
            **{"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"], "container": name, "image": image},
        }
        seconds = max(0.0, now - started)
        yield "container_cpu_usage_seconds_total", labels, cores * seconds
        yield "container_memory_working_set_bytes", labels, memory * (1 - 0.2 * math.exp(-seconds / 600))
        yield "container_memory_rss", labels, memory * 0.8
        yield "container_start_time_seconds", labels, started
