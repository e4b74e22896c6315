"""The world: a platform, a seed, and what breaks when. All else is computed from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from opslib.lab.world.clock import WALL, Pace
from opslib.lab.world.faults import CpuLimit, Fault, NodeDown, Timed
from opslib.lab.world.platform import NODES, SERVICES, Call, Node, Service

if TYPE_CHECKING:
    from opslib.lab.world.changes import Change
    from opslib.lab.world.history import History
    from opslib.lab.world.pods import Pods


@dataclass(frozen=True)
class World:
    """A simulated platform with a past.

    Parameters
    ----------
    seed
        The same seed gives the same world.
    start
        When it begins, in Unix seconds: counters count from here.
    end
        Until when its ordinary changes (releases) are planned, in Unix seconds. It goes on after that, without them.
    faults
        What breaks, and when.
    """

    seed: int
    start: float
    end: float
    faults: tuple[Timed, ...] = ()
    services: tuple[Service, ...] = SERVICES
    nodes: tuple[Node, ...] = NODES

    @property
    def asked_until(self) -> float:
        """No later moment is asked for, in Unix seconds: what comes after it need not be computed."""
        return float("inf")

    def breaks(self, fault: Fault, start: float, end: float = float("inf"), pace: Pace = WALL) -> World:
        """The same world, in which something breaks, and develops at a pace. Until `start` nothing is different.

        Raises
        ------
        ValueError
            The fault is about a service, node, limit or volume that is not there.
        """
        timed = Timed(fault, start, end, pace)
        if timed.service and timed.service not in self.places:
            raise ValueError(f"there is no service {timed.service}")
        if isinstance(fault, NodeDown) and fault.node not in {node.name for node in self.nodes}:
            raise ValueError(f"there is no node {fault.node}")
        if isinstance(fault, CpuLimit) and self.services[self.places[fault.service]].kind == "DaemonSet":
            raise ValueError(f"{fault.service} is a DaemonSet")
        if fault.kind == "volume_fill":
            service = self.services[self.places[fault.service]]
            if not service.volume_bytes or fault.replica >= service.replicas:
                raise ValueError(f"{fault.service} has no volume {fault.replica}")
        return replace(self, faults=(*self.faults, timed))

    def ended(self, number: int, end: float) -> World:
        """The same world, in which fault `number` ends at a time: what a right fix does."""
        faults = list(self.faults)
        faults[number] = replace(faults[number], end=end)
        return replace(self, faults=tuple(faults))

    def document(self) -> dict[str, Any]:
        """It as JSON can hold it, for another process: `World.of` reads it. Services and nodes are in it only where they are others."""
        faults = [
            {"fault": timed.fault.model_dump(), "start": timed.start, "end": None if timed.end == float("inf") else timed.end}
            | ({"pace": asdict(timed.pace)} if timed.pace != WALL else {})
            for timed in self.faults
        ]
        document: dict[str, Any] = {"seed": self.seed, "start": self.start, "end": self.end, "faults": faults}
        if self.services != SERVICES:
            document["services"] = [asdict(service) for service in self.services]
        if self.nodes != NODES:
            document["nodes"] = [asdict(node) for node in self.nodes]
        return document

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> World:
        """The world of a document that `document` made."""
        read = TypeAdapter[Fault](Fault).validate_python
        faults = tuple(
            Timed(read(one["fault"]), one["start"], float("inf") if one["end"] is None else one["end"], Pace(**one.get("pace", {})))
            for one in document["faults"]
        )
        services = tuple(Service(**{**one, "calls": tuple(Call(**call) for call in one["calls"])}) for one in document.get("services", ()))
        nodes = tuple(Node(**one) for one in document.get("nodes", ()))
        return cls(document["seed"], document["start"], document["end"], faults, services or SERVICES, nodes or NODES)

    @cached_property
    def places(self) -> dict[str, int]:
        """The place of each service by its name."""
        return {service.name: number for number, service in enumerate(self.services)}

    @cached_property
    def changes(self) -> tuple[Change, ...]:
        """Releases and changes of configuration, by time."""
        from opslib.lab.world.changes import plan

        return plan(self)

    @cached_property
    def full(self) -> tuple[float, ...]:
        """For each fault, when the volume that it fills is full; infinite for the others."""
        from opslib.lab.world.volumes import full_since

        return tuple(full_since(self, timed) for timed in self.faults)

    @cached_property
    def pods(self) -> Pods:
        """All pods that ever were."""
        from opslib.lab.world.pods import Pods

        return Pods.of(self)

    @cached_property
    def history(self) -> History:
        """Traffic and what follows from it, over time."""
        from opslib.lab.world.history import History

        return History(self)
