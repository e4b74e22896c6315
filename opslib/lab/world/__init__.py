"""One seeded, deterministic simulation of a platform, with a past: metrics, logs, changes and manifests of it for any time.

Everything is a pure function of the world and of time. A world is never changed: `World.breaks` gives another one.

>>> from opslib.lab.world import World
>>> from opslib.lab.world.faults import MemoryLeak
>>> world = World(seed=7, start=1_790_000_000, end=1_790_604_800)
>>> broken = world.breaks(MemoryLeak(service="recommendation"), start=1_790_600_000)
>>> [timed.service for timed in broken.faults]
['recommendation']
"""

from opslib.lab.world.model import World

__all__ = ["World"]
