"""What the rules of chapter 4.3 memory look at, and how sharply."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from opslib.diagnosis.memory.trend import Trend, trend
from opslib.diagnosis.usage import Change, Cluster, Place, PodPlace, Proposal, Use, propose
from opslib.environments import Links
from opslib.findings import Finding
from opslib.messages import Message, _

if TYPE_CHECKING:
    import numpy

    from opslib.diagnosis.monitoring.facts import NodeUse

    Floats = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

MI = 2.0**20

_TEXTS: dict[str, Message] = {
    "namespace": _("Only this namespace; empty: all of them."),
    "hours": _("How many hours are looked at for growth and for containers that ran out of memory."),
    "history_days": _("How many days percentiles and peaks are taken from."),
    "use_warning": _("Use of a container's limit that is a warning (0 to 1)."),
    "horizon_hours": _("A container that will be at its limit within so many hours is a warning; within a tenth of that it is critical."),
    "most": _("How many containers are looked at closely."),
}


class Parameters(BaseModel):
    """What a reader may choose."""

    LABELS: ClassVar[dict[str, Message]] = _TEXTS

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = Field("", pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", description=_TEXTS["namespace"].id)
    hours: float = Field(6, ge=1, le=168, description=_TEXTS["hours"].id)
    history_days: int = Field(7, ge=1, le=30, description=_TEXTS["history_days"].id)
    use_warning: float = Field(0.9, gt=0, le=1, description=_TEXTS["use_warning"].id)
    horizon_hours: float = Field(72, gt=0, description=_TEXTS["horizon_hours"].id)
    most: int = Field(24, ge=1, le=100, description=_TEXTS["most"].id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One container of one pod over time; arrays of one length, NaN where nothing is known.

    Parameters
    ----------
    times
        Unix seconds.
    working_set, rss, cache
        Bytes.
    load
        What is asked of its workload: requests a second, else cores.
    limit
        Bytes; None where there is none.
    restarts
        When it began anew (Unix seconds).
    kills
        Those of them before which it was killed for want of memory.
    """

    times: Floats
    working_set: Floats
    rss: Floats | None = None
    cache: Floats | None = None
    load: Floats | None = None
    limit: float | None = None
    restarts: tuple[float, ...] = ()
    kills: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What chapter 4.3 memory knows. None: could not be read (a gap says why).

    Parameters
    ----------
    uses
        By place: those that use most, and those that are conspicuous.
    kills
        How often containers ran out of memory in the hours that were looked at.
    curves
        Of the pods that were looked at closely.
    load_is_requests
        Of the workloads whose load is requests; that of the others is CPU.
    nodes
        Use of the nodes.
    """

    now: datetime
    environment: str
    zone: tzinfo = UTC
    cluster: Cluster = field(default_factory=Cluster)
    links: Links = field(default_factory=Links)
    prometheus_url: str = ""
    uses: Mapping[Place, Use] | None = None
    kills: Mapping[Place, float] | None = None
    curves: Mapping[PodPlace, Curve] = field(default_factory=dict)
    places: Mapping[PodPlace, Place] = field(default_factory=dict)
    load_is_requests: frozenset[Place] = frozenset()
    changes: tuple[Change, ...] = ()
    nodes: tuple[NodeUse, ...] | None = None
    gaps: tuple[Finding, ...] = ()

    def changed(self, place: Place, since: datetime) -> list[Change]:
        """What was changed about a place since then, newest first."""
        return [one for one in reversed(self.changes) if one.concerns(place) and one.time >= since]


def trends(facts: Facts) -> dict[PodPlace, Trend]:
    """The trend of each curve."""
    return {
        pod: trend(one.times, one.working_set, limit=one.limit, restarts=one.restarts, rss=one.rss, load=one.load)
        for pod, one in facts.curves.items()
    }


def of_place(facts: Facts, found: Mapping[PodPlace, Trend]) -> dict[Place, list[tuple[PodPlace, Trend]]]:
    """Trends by place, those that reach their limit first at the front."""
    grouped: dict[Place, list[tuple[PodPlace, Trend]]] = {}
    for pod, one in found.items():
        grouped.setdefault(facts.places[pod], []).append((pod, one))
    for members in grouped.values():
        members.sort(key=lambda member: (member[1].kind != "leak", member[1].seconds, member[0]))
    return grouped


def proposal(use: Use) -> Proposal | None:
    """Request and limit of one pod: a seventh more than p95, a quarter more than the peak; in steps of 16 MiB."""
    return propose(use, request_headroom=1.15, limit_headroom=1.25, step=16 * MI, with_limit=True)


def in_words(seconds: float) -> Message:
    """A length of time, roughly, for a sentence."""
    if not math.isfinite(seconds):
        return _("never")
    if seconds < 5400:
        return _("{count} min", count=max(1, round(seconds / 60)))
    if seconds < 48 * 3600:
        return _("{count} h", count=round(seconds / 3600))
    return _("{count} days", count=round(seconds / 86400))


def since(facts: Facts, hours: float) -> datetime:
    """That many hours ago."""
    return facts.now - timedelta(hours=hours)
