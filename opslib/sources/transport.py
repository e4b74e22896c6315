"""The one way out: every source sends its requests through a `Transport`.

Here retries, deadlines, decompression and the bound on memory live, once; and here responses can be recorded and replayed, since a double of
this interface is all that a source needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from opslib.messages import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a system.

    Parameters
    ----------
    method, path
        The path is relative to the system's base address and starts with a slash.
    query
        Query parameters in order; repeated names are allowed.
    what
        What is asked for, for the reader of an error: "pods in shop".
    safe
        Whether repeating it changes nothing. True for GET and HEAD; a POST that only searches says so.
    deadline_seconds
        Time for the whole question, retries included; None: the transport's own.
    limit_bytes
        The most that is kept of the answer; what is longer is cut off, and `Response.truncated` says so, or, with
        `refuse_longer`, is an error.
    """

    method: str = "GET"
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    what: Text = ""
    safe: bool | None = None
    deadline_seconds: float | None = None
    limit_bytes: int = 256 * 1024 * 1024
    refuse_longer: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer, whole and decompressed."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    truncated: bool = False


class Transport(Protocol):
    """What a source sends through. Statuses of 400 and more come back as responses: the source knows what they mean in its system."""

    system: str

    def send(self, request: Request) -> Response:
        """Answer `request`; `opslib.errors.Unreachable` where no answer came in time."""

    def stream(self, request: Request) -> Iterator[bytes]:
        """The answer's lines as they come, for logs and watches."""
