"""What a lab runs on: `embedded` is pip alone, `real` starts the servers that `opslib lab build` made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opslib.lab.engines.lifecycle import Lab as Lab
    from opslib.lab.engines.lifecycle import ServerStatus as ServerStatus
    from opslib.lab.engines.lifecycle import down as down
    from opslib.lab.engines.lifecycle import running as running
    from opslib.lab.engines.lifecycle import state_folder as state_folder
    from opslib.lab.engines.lifecycle import status as status
    from opslib.lab.engines.lifecycle import up as up
    from opslib.lab.engines.servers import DEFAULT_ENGINE as DEFAULT_ENGINE
    from opslib.lab.engines.servers import DEFAULT_SEED as DEFAULT_SEED
    from opslib.lab.engines.servers import ENGINES as ENGINES
    from opslib.lab.engines.servers import PARTS as PARTS

_SERVERS = ("DEFAULT_ENGINE", "DEFAULT_SEED", "ENGINES", "PARTS")
_LIFECYCLE = ("Lab", "ServerStatus", "down", "running", "state_folder", "status", "up")
__all__ = ["DEFAULT_ENGINE", "DEFAULT_SEED", "ENGINES", "PARTS", "Lab", "ServerStatus", "down", "running", "state_folder", "status", "up"]


def __getattr__(name: str) -> Any:
    # Each server of the embedded engine is a module of this package: it must not load what starts labs.
    if name in _SERVERS or name in _LIFECYCLE:
        place = "servers" if name in _SERVERS else "lifecycle"
        return getattr(importlib.import_module(f"{__name__}.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
