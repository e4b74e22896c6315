"""What containers use of CPU and memory, by workload: what chapters 4.3 cpu and memory have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from opslib.findings import Subject, command
from opslib.messages import Text

if TYPE_CHECKING:
    import numpy

    Floats = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


class Place(NamedTuple):
    """A container of a workload's pods."""

    namespace: str
    workload: str
    container: str

    def __str__(self) -> str:
        name = self.workload if self.container in ("", self.workload) else f"{self.workload} ({self.container})"
        return f"{self.namespace}/{name}"


class PodPlace(NamedTuple):
    """A container of one pod."""

    namespace: str
    pod: str
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What the pods of a workload use in one container. Cores or bytes; None: not known.

    Parameters
    ----------
    pods
        How many pods there are.
    highest, total
        Now: of the pod that uses most, and of all.
    request, limit
        Of one pod; the largest where pods differ. None where none is set.
    p50, p95, p99, peak
        Over the history, of the pod that used most at each time; p50 is of the average pod.
    """

    pods: int | None = None
    highest: float | None = None
    total: float | None = None
    request: float | None = None
    limit: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    peak: float | None = None

    @property
    def of_limit(self) -> float | None:
        """Use of the pod that uses most against its limit."""
        return self.highest / self.limit if self.highest is not None and self.limit else None

    @property
    def of_request(self) -> float | None:
        """Use of the average pod against its request."""
        return self.total / self.pods / self.request if self.total is not None and self.pods and self.request else None


def moment(seconds: float) -> datetime:
    """Unix seconds as an aware time."""
    return datetime.fromtimestamp(seconds, UTC)


class Series(NamedTuple):
    """Values over time: Unix seconds, and a value for each."""

    times: Floats
    values: Floats


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was changed about a workload: "rollout" of a revision, another "image", "limit" of a container."""

    time: datetime
    namespace: str
    workload: str
    kind: Literal["rollout", "image", "limit"]
    text: Text
    container: str = ""

    def concerns(self, place: Place) -> bool:
        """Whether it is about this container, or all of its workload."""
        return (self.namespace, self.workload) == (place.namespace, place.workload) and self.container in ("", place.container)


@dataclass(frozen=True, slots=True)
class Cluster:
    """How the chapters' findings name and reach things: kinds of workloads, kubectl's options, pages to open."""

    kinds: Mapping[tuple[str, str], str] = field(default_factory=dict)
    kubectl: tuple[str, ...] = ()

    def subject(self, namespace: str, workload: str) -> Subject:
        """The workload as a finding's subject."""
        return Subject(self.kinds.get((namespace, workload), "Workload"), workload, namespace)

    def command(self, namespace: str, *words: object) -> str:
        """A kubectl command in a namespace ("": none)."""
        where = ("-n", namespace) if namespace else ()
        return command("kubectl", *self.kubectl, *where, *words)

    def set_resources(self, place: Place, *options: str) -> str:
        """The command that sets a container's requests or limits; empty where the workload's kind is not known."""
        kind = self.kinds.get((place.namespace, place.workload))
        if kind is None:
            return ""
        return self.command(place.namespace, "set", "resources", f"{kind.lower()}/{place.workload}", "-c", place.container, *options)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Another request and limit for one pod's container, and what that saves over all pods (negative: what it costs more)."""

    request: float
    limit: float | None
    saving: float | None


def propose(use: Use, *, request_headroom: float, limit_headroom: float, step: float, with_limit: bool) -> Proposal | None:
    """Request and limit from percentiles; None where there is no history.

    The request covers what the busiest pod needed in all but a twentieth of the time (p95), with a headroom; the limit covers the peak.
    Both are rounded up to `step`. The Vertical Pod Autoscaler's recommender works alike, with weights that decay
    (https://github.com/kubernetes/autoscaler/blob/master/vertical-pod-autoscaler/docs/components.md#recommender).
    """
    if use.p95 is None or use.peak is None:
        return None
    request = _up(use.p95 * request_headroom, step)
    limit = max(request, _up(use.peak * limit_headroom, step)) if with_limit else None
    saving = (use.request - request) * use.pods if use.request is not None and use.pods else None
    return Proposal(request, limit, saving)


def _up(value: float, step: float) -> float:
    import math

    return max(step, math.ceil(round(value / step, 6)) * step)


def before_after(series: Series, at: float, span: float = 3600) -> tuple[float, float] | None:
    """The median of a series in the time before a moment and in the time after it; None where one of them is not known."""
    import numpy as np

    known = np.isfinite(series.values)
    before = series.values[known & (series.times < at) & (series.times >= at - span)]
    after = series.values[known & (series.times > at) & (series.times <= at + span)]
    if not len(before) or not len(after):
        return None
    return float(np.median(before)), float(np.median(after))


def affected(pods: Iterable[PodPlace]) -> tuple[Subject, ...]:
    """Pods as subjects, each once."""
    return tuple(Subject("Pod", name, namespace) for namespace, name in sorted({(one.namespace, one.pod) for one in pods}))
