"""What a system must be able to do so that it can be changed by plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from opslib.messages import Message

ABSENT: dict[str, Any] = {"absent": True}
"""The state of an object that is not there."""

CREATED: dict[str, Any] = {"created": True}
"""The state after a step that makes an object: it is there, whatever its controller has written into it since."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a request would do, as the system itself says it without doing it.

    Parameters
    ----------
    after
        What the object would be like, as `System.observe` says it.
    difference
        What would change, as a unified diff.
    """

    after: dict[str, Any]
    difference: str


class System(Protocol):
    """A system that can be changed. Requests, states and questions are in its own terms, as JSON data.

    All methods raise `opslib.errors.SourceError` where the system does not answer or refuses.
    """

    name: str

    def target(self) -> str:
        """What identifies it: a plan is executed nowhere else."""

    def observe(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the object of a request is like now, apart from what changes by itself; `ABSENT` where it is not there."""

    def preview(self, request: dict[str, Any]) -> Preview:
        """What a request would do."""

    def reached(self, request: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> bool:
        """Whether an object that is like `now` is as the request was to make it (`after`)."""

    def send(self, request: dict[str, Any], before: dict[str, Any]) -> None:
        """Do it, if the object is still like `before`; `opslib.errors.Conflict` where it is not."""

    def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        """Whether a condition is true now, and what it is instead where it is not; None where it will not become true any more."""
