"""What the rules of chapter 4.3 CPU look at, and how sharply."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from opslib.diagnosis.usage import Change, Cluster, Place, Proposal, Series, Use, before_after, propose
from opslib.environments import Links
from opslib.findings import Finding
from opslib.messages import Message, _
from opslib.sources.fitting import PlacedPod, Room
from opslib.sources.objects import Autoscaler
from opslib.sources.objects import Node as ClusterNode

_TEXTS: dict[str, Message] = {
    "namespace": _("Only this namespace; empty: all of them."),
    "hours": _("How many hours are looked at for throttling and for changes before it."),
    "history_days": _("How many days percentiles and peaks are taken from."),
    "throttled_warning": _("Share of its CPU periods in which a container is held back, that is a warning (0 to 1)."),
    "throttled_critical": _("Share of its CPU periods in which a container is held back, that is critical (0 to 1)."),
    "use_warning": _("Use of a container's limit, or of a node's CPU, that is a warning (0 to 1)."),
    "steal_warning": _("Share of a node's CPU that the hypervisor keeps back, that is a warning (0 to 1)."),
    "load_warning": _("Load of five minutes a core that is a warning."),
    "most": _("How many containers are looked at closely."),
}


class Parameters(BaseModel):
    """What a reader may choose."""

    LABELS: ClassVar[dict[str, Message]] = _TEXTS

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = Field("", pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", description=_TEXTS["namespace"].id)
    hours: float = Field(6, ge=1, le=168, description=_TEXTS["hours"].id)
    history_days: int = Field(7, ge=1, le=30, description=_TEXTS["history_days"].id)
    throttled_warning: float = Field(0.25, gt=0, le=1, description=_TEXTS["throttled_warning"].id)
    throttled_critical: float = Field(0.75, gt=0, le=1, description=_TEXTS["throttled_critical"].id)
    use_warning: float = Field(0.9, gt=0, le=1, description=_TEXTS["use_warning"].id)
    steal_warning: float = Field(0.05, gt=0, le=1, description=_TEXTS["steal_warning"].id)
    load_warning: float = Field(2.0, gt=0, description=_TEXTS["load_warning"].id)
    most: int = Field(24, ge=1, le=100, description=_TEXTS["most"].id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """CPU of one node, in cores, and what else of it is requested: memory in bytes. None: not known.

    Parameters
    ----------
    steal, waiting
        Cores that the hypervisor kept back; cores that waited for disks.
    load
        Processes that run or wait, over five minutes.
    pods
        How many there are.
    """

    name: str
    cores: float | None = None
    used: float | None = None
    requested: float | None = None
    memory_requested: float | None = None
    steal: float | None = None
    waiting: float | None = None
    load: float | None = None
    pods: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What chapter 4.3 CPU knows. None: could not be read (a gap says why).

    Parameters
    ----------
    uses
        By place: those that use most, and those that are conspicuous.
    throttled
        Share of the CPU periods in which containers were held back: of the last hour or the last quarter of it, whichever is worse.
    throttling, using, limits
        Over time, of the places that are throttled or use most: that share, cores of the pod that uses most, cores of its limit.
    busiest
        The pod that uses most, by place.
    schedulable
        The nodes as the scheduler sees them: labels, taints, what they have for pods.
    examples
        One pod of a workload, by namespace and workload: of those that are throttled or have an autoscaler.
    """

    now: datetime
    environment: str
    zone: tzinfo = UTC
    cluster: Cluster = field(default_factory=Cluster)
    links: Links = field(default_factory=Links)
    prometheus_url: str = ""
    uses: Mapping[Place, Use] | None = None
    throttled: Mapping[Place, float] | None = None
    throttling: Mapping[Place, Series] = field(default_factory=dict)
    using: Mapping[Place, Series] = field(default_factory=dict)
    limits: Mapping[Place, Series] = field(default_factory=dict)
    busiest: Mapping[Place, str] = field(default_factory=dict)
    schedulable: tuple[ClusterNode, ...] | None = None
    examples: Mapping[tuple[str, str], PlacedPod] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    nodes: tuple[Node, ...] | None = None
    autoscalers: tuple[Autoscaler, ...] | None = None
    gaps: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """What throttling was like in the hour before a change and in the hour after it."""

    change: Change
    before: float
    after: float


def effects(facts: Facts, place: Place) -> Iterator[Effect]:
    """Throttling of a place before and after each of its changes, oldest first."""
    series = facts.throttling.get(place)
    if series is None:
        return
    for one in facts.changes:
        if one.concerns(place):
            found = before_after(series, one.time.timestamp())
            if found is not None:
                yield Effect(one, *found)


def culprit(facts: Facts, place: Place) -> Effect | None:
    """The change after which throttling rose most, by at least a tenth of the periods; a changed limit before anything else."""
    found = [one for one in effects(facts, place) if one.after - one.before >= 0.1]
    return max(found, key=lambda one: (one.change.kind == "limit", one.after - one.before), default=None)


def proposal(use: Use) -> Proposal | None:
    """Request and limit of one pod: a seventh more than p95; half more than the peak, where there is a limit; in steps of 10m.

    The peak is of averages over five minutes, and bursts are higher.
    """
    return propose(use, request_headroom=1.15, limit_headroom=1.5, step=0.01, with_limit=use.limit is not None)


def better_limit(use: Use, throttled: float) -> float | None:
    """A limit that does not hold back, in cores: half more than the peak of the history, and than the present limit.

    Where it is throttled in half of its periods or more, at least twice the present: what it would use is not to be seen in what it uses.
    """
    if use.limit is None:
        return None
    wanted = max(use.limit * (1.5 if throttled < 0.5 else 2.0), (use.peak or 0) * 1.5)
    return math.ceil(round(wanted * 20, 6)) / 20


def room(facts: Facts, namespace: str, workload: str) -> tuple[int, int] | None:
    """How many further pods of a workload fit, and on how many nodes; None where that is not known.

    The scheduler's filters for a pod and a node (`opslib.sources.fitting`), beside what is requested there already; rules about other pods
    and the zones of volumes are not looked at.
    """
    pod, taken = facts.examples.get((namespace, workload)), {one.name: one for one in facts.nodes or () if one.requested is not None}
    known = Room([one for one in facts.schedulable or () if one.metadata.name in taken], ())
    if pod is None or not known.nodes:
        return None
    for name in known.nodes:
        node = taken[name]
        known.take(name, {"cpu": node.requested or 0.0, "memory": node.memory_requested or 0.0, "pods": node.pods or 0.0})
    fits = [known.how_many(pod, name) for name in known.nodes]
    return sum(fits), sum(one > 0 for one in fits)


def cores(value: float) -> str:
    """Cores as Kubernetes writes them: "250m", "1.5"."""
    return f"{round(value * 1000)}m" if value < 1 else f"{value:.2f}".rstrip("0").rstrip(".")
