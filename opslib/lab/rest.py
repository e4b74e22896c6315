"""Work that comes again and again, and takes no more than a part of the time, however big a lab is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Rest:
    """The rest after each piece of work: so many times as long as that took."""

    def __init__(self, times: float = 4.0) -> None:
        self._times = times
        self._until = 0.0  # monotonic

    @contextlib.contextmanager
    def after(self) -> Iterator[None]:
        """Do a piece of work in the block."""
        begun = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._until = now + self._times * (now - begun)

    @property
    def seconds(self) -> float:
        """How much of it is left."""
        return max(0.0, self._until - time.monotonic())

    def end(self) -> None:
        """There is something that cannot wait."""
        self._until = 0.0
