"""The logs of containers: of those of the world computed when they are asked for, of all others files.

Files are ``<folder>/<namespace>/<pod>/<container>.log`` and ``<container>.previous.log``. A line may begin with a time in RFC 3339, as the
container runtime keeps it: it is shown only where timestamps are asked for, and decides for ``sinceSeconds``. Whoever breaks a pod of the
world on purpose and writes files for it marks their folder with ``.fault``: then they count.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opslib.lab.api import Object
    from opslib.lab.world import World
    from opslib.lab.world.pods import Pod

KEPT_SECONDS = 12 * 3600.0
"""How much of the log of a container of the world is kept: kubelets rotate logs."""

_WINDOWS = (600.0, 3600.0, 4 * 3600.0, KEPT_SECONDS)
_LINE = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)) (.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for of a log: the last `tail` lines of those at or after `since` (Unix seconds), at most `limit_bytes` of them."""

    tail: int | None = None
    since: float | None = None
    limit_bytes: int | None = None
    timestamps: bool = False


def span(pod: Object, container: str, *, previous: bool = False) -> tuple[float, float] | str:
    """From when to when the container ran whose log is meant, in Unix seconds; the end is infinite while it runs.

    Where there is none it is the kubelet's words for that (validateContainerLogStatus in pkg/kubelet/kubelet_pods.go).
    """
    name, status = pod["metadata"]["name"], pod.get("status", {})
    kinds = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")
    one = next((one for kind in kinds for one in status.get(kind) or [] if one["name"] == container), None)
    if one is None:
        return f'container "{container}" in pod "{name}" is not available'
    state, last = one.get("state") or {}, (one.get("lastState") or {}).get("terminated")
    if previous:
        return _lasted(last) if last else f'previous terminated container "{container}" in pod "{name}" not found'
    if "running" in state:
        return _time(state["running"]), math.inf
    if "terminated" in state:
        return _lasted(state["terminated"])
    if last:
        return _lasted(last)
    reason = (state.get("waiting") or {}).get("reason", "")
    why = {"ErrImagePull": "image can't be pulled", "ImagePullBackOff": "trying and failing to pull image"}.get(reason, reason)
    return f'container "{container}" in pod "{name}" is waiting to start: {why}'


def pod_of(world: World, pod: Object) -> Pod | None:
    """A pod of the cluster as one of the world's; None where the world has no service that it belongs to."""
    return next(iter(pods_of(world, [pod])), None)


def pods_of(world: World, pods: Iterable[Object]) -> list[Pod]:
    """The pods of a cluster that belong to services of the world, as the world's."""
    from opslib.lab.world.pods import Pod

    nodes = {node.name: number for number, node in enumerate(world.nodes)}
    known = {one.name: one for one in world.pods.listed}
    found = []
    for pod in pods:
        metadata, spec = pod["metadata"], pod["spec"]
        name, place = metadata["name"], world.places.get((metadata.get("labels") or {}).get("app", ""))
        if place is None or world.services[place].namespace != metadata["namespace"]:
            continue
        service = world.services[place]
        container = next((one for one in spec["containers"] if one["name"] == service.name), None)
        if container is None:
            continue
        life = span(pod, service.name)
        started, ended = (math.inf, math.inf) if isinstance(life, str) else life
        version = container.get("image", "").partition("@")[0].rpartition(":")[2]
        # its own share of the traffic where the world has one for it, so that its lines of the past and of now are the same
        share = known[name].share if name in known and known[name].service == place else 1 / (service.replicas or len(world.nodes))
        node = nodes.get(spec.get("nodeName", ""), 0)
        found.append(Pod(name, place, node, 0, share, started, ended, ended, starts=[started], version=version))
    return found


def written(world: World, pod: Pod, start: float, end: float) -> Iterator[tuple[float, str]]:
    """Times and lines that a container of the world has written, of its time from `start` up to `end`."""
    from opslib.lab.world.logs import CONTAINERS, lines

    for line in lines(world, max(start, pod.started), min(end, pod.ended), CONTAINERS, pods=[pod]):
        for text in line.text().split("\n"):
            yield line.time, text


def of_world(world: World, pod: Pod, wanted: Wanted, now: float) -> bytes:
    """What a kubelet would send of the log of a container of the world that ran as `pod` says."""
    end = min(now, pod.ended)
    oldest = max(pod.started, end - KEPT_SECONDS)
    begin = oldest if wanted.since is None else max(oldest, wanted.since)
    found: list[tuple[float, str]] = []
    if wanted.tail is None:
        found = list(written(world, pod, begin, end))
    elif wanted.tail:
        for window in _WINDOWS:
            found = list(written(world, pod, max(begin, end - window), end))
            if len(found) >= wanted.tail or end - window <= begin:
                break
        found = found[-wanted.tail :]
    return _sent(found, wanted)


def fresh(world: World, pod: Pod, start: float, end: float, *, timestamps: bool) -> bytes:
    """What a follower gets for a stretch of time."""
    return _sent(list(written(world, pod, start, end)), Wanted(timestamps=timestamps))


def of_file(path: Path, wanted: Wanted) -> bytes:
    """What a kubelet would send of the log in a file; nothing where it is not there."""
    return select(path.read_text("utf-8", "surrogateescape") if path.exists() else "", wanted)


def select(text: str, wanted: Wanted) -> bytes:
    """The lines that a kubelet would send of a log."""
    chosen = []
    for line in text.splitlines(keepends=True):
        match = _LINE.match(line)
        if wanted.since is not None and match is not None and datetime.fromisoformat(match[1]).timestamp() < wanted.since:
            continue
        chosen.append(line if match is None or wanted.timestamps else match[2])
    if wanted.tail is not None:
        chosen = chosen[len(chosen) - min(wanted.tail, len(chosen)) :]
    content = "".join(chosen).encode("utf-8", "surrogateescape")
    return content if wanted.limit_bytes is None else content[: wanted.limit_bytes]


def of_life(pod: Pod, begun: float, ended: float) -> Pod:
    """The same pod as it was in one life of its container."""
    return replace(pod, started=begun, ended=ended, removed=ended, starts=[begun])


def _sent(found: list[tuple[float, str]], wanted: Wanted) -> bytes:
    rows = (f"{_stamp(time)} {line}\n" if wanted.timestamps else f"{line}\n" for time, line in found)
    content = "".join(rows).encode()
    return content if wanted.limit_bytes is None else content[: wanted.limit_bytes]


def _lasted(terminated: dict[str, Any]) -> tuple[float, float]:
    end = _time(terminated, "finishedAt")
    return min(_time(terminated), end), end


def _time(state: dict[str, Any], field: str = "startedAt") -> float:
    text = state.get(field)
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _stamp(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds").replace("+00:00", "000Z")
