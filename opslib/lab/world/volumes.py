"""How full the volumes are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from opslib.lab.world import noise
from opslib.lab.world.faults import Timed, VolumeFill
from opslib.lab.world.noise import Floats

if TYPE_CHECKING:
    from opslib.lab.world.model import World

CAPACITY_SHARE = 0.978
"""What a file system leaves of its volume."""


def volumes(world: World) -> list[tuple[int, int]]:
    """Place of the service, and number of the replica, of each volume."""
    return [(number, one) for number, service in enumerate(world.services) if service.volume_bytes for one in range(service.replicas)]


def capacity(world: World, service: int) -> float:
    """Size of a volume's file system in bytes."""
    return world.services[service].volume_bytes * CAPACITY_SHARE


def used(world: World, service: int, replica: int, times: Floats) -> Floats:
    """Bytes in use at each time: slow growth from a level of its own, and what faults add until it is full."""
    whole = capacity(world, service)
    name = world.services[service].name
    level = 0.3 + 0.25 * noise.one(world.seed, "volume", name, replica)
    daily = whole * 0.004 * (0.5 + noise.one(world.seed, "volume growth", name, replica))
    days = (times - world.start) / 86400
    # files are written and cleaned up in turn
    breath = whole * 0.002 * np.sin(2 * np.pi * days + 6.28 * noise.one(world.seed, "volume phase", name))
    total = whole * level + daily * days + breath
    for timed in world.faults:
        if isinstance(timed.fault, VolumeFill) and timed.fault.service == name and timed.fault.replica == replica:
            hours = timed.passed(times) / 3600
            # the fault ends by cleaning up, or a bigger volume, which for the share comes to the same
            total = total + np.where(times < timed.end, timed.fault.bytes_per_hour * hours, 0.0)
    return np.asarray(np.clip(total, 0, whole))


def full_since(world: World, timed: Timed) -> float:
    """When the volume of a fault is full, to the second; infinite where it never is, or the fault is about none."""
    fault = timed.fault
    if not isinstance(fault, VolumeFill):
        return math.inf
    service = world.places[fault.service]
    whole = capacity(world, service)
    low, high = timed.start, min(timed.end, timed.pace.after(timed.start, 3600 * whole / fault.bytes_per_hour) + 1) - 1e-3

    def full(time: float) -> bool:
        return bool(used(world, service, fault.replica, np.array([time]))[0] >= whole)

    if not full(high):
        return math.inf
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if full(middle) else (middle, high)
    return high
