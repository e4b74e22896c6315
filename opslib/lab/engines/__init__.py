"""What a lab runs on: `embedded` is pip alone, `real` starts the servers that `opslib lab build` made."""

from __future__ import annotations

from opslib.lab.engines.lifecycle import Lab, ServerStatus, down, running, state_folder, status, up
from opslib.lab.engines.servers import DEFAULT_ENGINE, DEFAULT_SEED, ENGINES, PARTS

__all__ = ["DEFAULT_ENGINE", "DEFAULT_SEED", "ENGINES", "PARTS", "Lab", "ServerStatus", "down", "running", "state_folder", "status", "up"]
