"""What the rules of chapter 4.2 look at, and how sharply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import ClassVar

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from opslib.environments import Links
from opslib.findings import Finding, Subject, command
from opslib.messages import Message, _
from opslib.sources.fitting import PlacedPod, Room, is_ended
from opslib.sources.objects import Base, Metadata, Node, NodeStatus, Workload

_TEXTS: dict[str, Message] = {
    "lease_seconds": _("Seconds without a heartbeat after which a node that is said to be ready is a warning."),
    "cordoned_hours": _("Hours after which a cordoned node counts as forgotten."),
    "use_warning": _("Share of what a node has, in use or requested, that is a warning (0 to 1)."),
    "disk_warning": _("Share of a node's disk or inodes in use that is a warning (0 to 1)."),
    "overcommit_warning": _("Limits of memory against what a node has that are a warning (2: twice as much)."),
    "clock_seconds": _("Seconds that a node's clock may be off."),
    "certificate_days": _("Days before the end of a kubelet's certificate that are a warning."),
    "history_hours": _("Hours over which conditions, stalls and evictions are looked at, where metrics have them."),
    "stalled_warning": _("Share of five minutes in which work on a node stood still for want of something, that is a warning (0 to 1)."),
}


class Parameters(BaseModel):
    """What a reader may choose."""

    LABELS: ClassVar[dict[str, Message]] = _TEXTS

    model_config = ConfigDict(extra="forbid", frozen=True)

    lease_seconds: float = Field(40, gt=0, description=_TEXTS["lease_seconds"].id)
    cordoned_hours: float = Field(4, gt=0, description=_TEXTS["cordoned_hours"].id)
    use_warning: float = Field(0.9, gt=0, le=1, description=_TEXTS["use_warning"].id)
    disk_warning: float = Field(0.85, gt=0, le=1, description=_TEXTS["disk_warning"].id)
    overcommit_warning: float = Field(2.0, gt=0, description=_TEXTS["overcommit_warning"].id)
    clock_seconds: float = Field(1.0, gt=0, description=_TEXTS["clock_seconds"].id)
    certificate_days: float = Field(7, gt=0, description=_TEXTS["certificate_days"].id)
    history_hours: float = Field(24, ge=1, le=168, description=_TEXTS["history_hours"].id)
    stalled_warning: float = Field(0.2, gt=0, le=1, description=_TEXTS["stalled_warning"].id)


class Image(Base):
    """An image on a node."""

    names: list[str] = []
    size_bytes: int = 0


class Status(NodeStatus):
    """A node's status with its images."""

    images: list[Image] = []


class ImagedNode(Node):
    """A node with its images."""

    status: Status = msgspec.field(default_factory=Status)


class LeaseSpec(Base):
    """When a kubelet last said that it is alive, and for how long that holds."""

    renew_time: datetime | None = None
    lease_duration_seconds: int = 40


class Lease(Base):
    """A node's heartbeat (kube-node-lease)."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What metrics say of a node; None: they do not say.

    Parameters
    ----------
    cpu, memory
        Cores and bytes in use.
    disk, inodes
        Share in use of the fullest file system.
    clock
        Seconds that its clock is off; negative: behind.
    certificate
        When the kubelet's own certificate ends.
    """

    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None
    inodes: float | None = None
    clock: float | None = None
    certificate: datetime | None = None


@dataclass(frozen=True, slots=True)
class Spell:
    """A time in which a condition was bad; `end` is None where it still is. Shorter than a scrape's interval, it is not seen."""

    condition: str
    begin: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What metrics say of a node's last hours; None: they do not say.

    Parameters
    ----------
    spells
        When conditions were bad, oldest first.
    evictions
        Pods that the kubelet evicted, by the signal that made it do so ("memory.available").
    stalled
        By "cpu", "memory" and "io": the highest share of five minutes in which some work (CPU) or all work (memory, io) on the node stood
        still for it (pressure stall information, https://docs.kernel.org/accounting/psi.html).
    load
        The highest load average of five minutes, for each core.
    memory_total, memory_least
        Bytes of the machine, and the least that was available.
    disk_least
        The least share of the fullest file system that was available.
    """

    spells: tuple[Spell, ...] = ()
    evictions: Mapping[str, float] = field(default_factory=dict)
    stalled: Mapping[str, float] = field(default_factory=dict)
    load: float | None = None
    memory_total: float | None = None
    memory_least: float | None = None
    disk_least: float | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What chapter 4.2 knows. None: could not be read (a gap says why).

    Parameters
    ----------
    leases
        When each node last renewed its lease.
    pods
        All that have not ended, also those without a node.
    use
        By node.
    past
        By node, over the parameters' hours.
    thresholds
        What the kubelets evict at, by node and signal; a node that is not in it has not been asked.
    """

    now: datetime
    environment: str
    zone: tzinfo = UTC
    kubectl: tuple[str, ...] = ()
    links: Links = field(default_factory=Links)
    server_version: str | None = None
    nodes: tuple[ImagedNode, ...] | None = None
    leases: Mapping[str, datetime] | None = None
    pods: tuple[PlacedPod, ...] | None = None
    daemonsets: tuple[Workload, ...] | None = None
    use: Mapping[str, Use] | None = None
    past: Mapping[str, Past] | None = None
    thresholds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    gaps: tuple[Finding, ...] = ()

    @cached_property
    def room(self) -> Room:
        """Nodes and what is on them, for asking what fits."""
        return Room(self.nodes or (), self.pods or ())

    @cached_property
    def on(self) -> dict[str, list[PlacedPod]]:
        """The pods on each node that have not ended."""
        found: dict[str, list[PlacedPod]] = {node.metadata.name: [] for node in self.nodes or ()}
        for pod in self.pods or ():
            if pod.spec.node_name and not is_ended(pod):
                found.setdefault(pod.spec.node_name, []).append(pod)
        return found

    def command(self, *words: object) -> str:
        """A kubectl command."""
        return command("kubectl", *self.kubectl, *words)

    def plan(self, action: str, node: str, *more: object) -> str:
        """The command that plans a change of a node."""
        return command("opslib", "plan", action, node, *more, "--env", self.environment)


def owner_of(pod: PlacedPod) -> tuple[str, str]:
    """Kind and name of who makes a pod; empty where nobody does."""
    found = next((one for one in pod.metadata.owner_references if one.controller), None)
    return (found.kind, found.name) if found else ("", "")


def silence(facts: Facts, node: str) -> timedelta | None:
    """For how long a node has given no sign of life; None where that is not known.

    Counted from the newest heartbeat of all nodes, so that a wrong clock on the reader's side does not make every node look dead.
    """
    if not facts.leases or node not in facts.leases:
        return None
    newest = max(facts.leases.values()) if len(facts.leases) > 1 else facts.now
    return max(timedelta(0), newest - facts.leases[node])


def subject(node: Node) -> Subject:
    """A node as a finding's subject."""
    return Subject("Node", node.metadata.name)


def cordoned_since(node: Node) -> datetime | None:
    """When a node was cordoned, as its taint says; None where it does not."""
    return next((taint.time_added for taint in node.spec.taints if taint.key == "node.kubernetes.io/unschedulable"), None)


def representatives(facts: Facts) -> list[PlacedPod]:
    """One pod of each owner, DaemonSets' and mirror pods left out: what the cluster's workloads ask for."""
    found: dict[tuple[str, str, str], PlacedPod] = {}
    for pod in facts.pods or ():
        kind, name = owner_of(pod)
        if kind in ("DaemonSet", "Node") or is_ended(pod):
            continue
        found.setdefault((pod.metadata.namespace, kind, name or pod.metadata.name), pod)
    return list(found.values())
