"""Releases and changes of configuration: the ordinary ones of office hours, and those that a fault came with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from opslib.lab.world import noise
from opslib.lab.world.faults import BadDeploy, CpuLimit, MemoryLeak
from opslib.lab.world.platform import Service

if TYPE_CHECKING:
    from opslib.lab.world.model import World

_Kind = Literal["release", "rollback", "limit"]

_WEEK, _DAY, _JST = 7 * 86400, 86400, 9 * 3600
_REASONS = (
    "Update dependencies",
    "表示の不具合を修正",
    "Reduce log volume",
    "Add a field to the response",
    "ヘルスチェックを改善",
    "Refactor retries",
)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a workload.

    Parameters
    ----------
    time
        Unix seconds.
    before, after
        The version, or for a limit the cores.
    actor
        Who rolled it out.
    """

    time: float
    kind: _Kind
    namespace: str
    service: str
    before: str
    after: str
    actor: str
    reason: str

    def document(self) -> dict[str, Any]:
        """It as a record of the deployment tool, with the field names of the Elastic Common Schema."""
        return {
            "@timestamp": iso(self.time),
            "event": {"kind": "event", "category": ["configuration"], "type": ["change"], "action": self.kind, "provider": "deploy"},
            "service": {"name": self.service, "version": self.after if self.kind != "limit" else ""},
            "kubernetes": {"namespace": self.namespace},
            "user": {"name": self.actor},
            "change": {"before": self.before, "after": self.after},
            "message": self.reason,
        }


def plan(world: World) -> tuple[Change, ...]:
    """All changes of a world, by time. A service that a fault is about gets no ordinary release once that has begun."""
    changes: list[Change] = []
    for service in world.services:
        if service.kind == "Deployment" and service.team != "platform":
            changes += _releases(world, service)
    changes.sort(key=lambda change: change.time)
    for timed in world.faults:
        changes += _of_fault(world, timed.fault, timed.start, timed.end, changes)
    return tuple(sorted(changes, key=lambda change: change.time))


def version_at(world: World, service: Service, time: float) -> str:
    """The version of a service that runs at a time."""
    version = service.version
    for change in world.changes:
        if change.service == service.name and change.kind != "limit" and change.time <= time:
            version = change.after
    return version


def limit_at(world: World, service: Service, time: float) -> float | None:
    """The CPU limit of a service's pods at a time, in cores."""
    limit = service.cores_limit
    for timed in world.faults:
        if isinstance(timed.fault, CpuLimit) and timed.fault.service == service.name and timed.start <= time < timed.end:
            limit = timed.fault.cores
    return limit


def _releases(world: World, service: Service) -> list[Change]:
    """Every other week or so, Monday to Thursday, between ten and five in Tokyo.

    Only the last part of a version counts up: the releases of scenarios have other minor versions, and never run already.
    """
    found, version = [], service.version
    frozen = min((timed.start for timed in world.faults if timed.service == service.name), default=math.inf)
    first = int((world.start + _JST - 4 * _DAY) // _WEEK)  # weeks from Monday to Sunday: the first of January 1970 was a Thursday
    last = int((world.end + _JST - 4 * _DAY) // _WEEK)
    for week in range(first, last + 1):
        if noise.one(world.seed, "release", service.name, week) > 0.45:
            continue
        monday = week * _WEEK + 4 * _DAY - _JST
        day = int(4 * noise.one(world.seed, "release day", service.name, week))
        time = float(int(monday + day * _DAY + 3600 * (10 + 7 * noise.one(world.seed, "release hour", service.name, week))))
        if not world.start + 3600 <= time < min(world.end, frozen):
            continue
        major, minor, patch = (int(part) for part in version.split("."))
        after = f"{major}.{minor}.{patch + 1}"
        reason = _REASONS[int(len(_REASONS) * noise.one(world.seed, "reason", service.name, week))]
        found.append(Change(time, "release", service.namespace, service.name, version, after, "ci-deployer", reason))
        version = after
    return found


def _of_fault(world: World, fault: Any, start: float, end: float, before: list[Change]) -> list[Change]:
    if not isinstance(fault, BadDeploy | CpuLimit | MemoryLeak):
        return []
    service = world.services[world.places[fault.service]]
    kind: _Kind
    back: _Kind
    if isinstance(fault, CpuLimit):
        old = "" if service.cores_limit is None else f"{service.cores_limit:g}"
        pair, kind, back, reason = (old, f"{fault.cores:g}"), "limit", "limit", "Right-size CPU limits"
    elif fault.release:
        version = service.version
        for change in before:
            if change.service == service.name and change.kind != "limit" and change.time <= start:
                version = change.after
        pair, kind, back, reason = (version, fault.release), "release", "rollback", "Release"
    else:
        return []
    found = [Change(start, kind, service.namespace, service.name, *pair, "ci-deployer", reason)]
    if end < math.inf:
        found.append(Change(end, back, service.namespace, service.name, pair[1], pair[0], "oncall", "Undo"))
    return found


def iso(time: float) -> str:
    """A time in RFC 3339 with milliseconds, as logs have it."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def stamp(time: float) -> str:
    """A time as the Kubernetes API writes it."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
