"""Waiting in tests: for what comes about by itself, and no longer than a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(done: Callable[[], object], what: str = "not within the deadline", *, seconds: float = 60) -> None:
    """Ask `done` again and again until it says so; fail with `what` when the time is over."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
