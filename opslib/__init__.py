"""Operations notebooks that really operate.

``opslib.start`` is what a notebook's first cell calls; everything else is reached from what it returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opslib.running.session import start as start

__version__ = "0.1.0"
__all__ = ["__version__", "start"]


def __getattr__(name: str) -> Any:
    # Heavy imports happen where they are used: `import opslib` alone must stay light.
    if name == "start":
        from opslib.running.session import start

        return start
    raise AttributeError(f"module 'opslib' has no attribute {name!r}")
