"""What reads a chapter's facts from the sources, one file a chapter, many questions at once.

A question that fails leaves None in its place and a finding that says why: None is "could not look", empty is "nothing found".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from opslib.errors import SourceError
from opslib.findings import Finding, Subject
from opslib.messages import Text

T = TypeVar("T")


class Answer(Generic[T]):
    """The answer to one question, once it is there."""

    def __init__(self, future: Future[T | None]) -> None:
        self._future = future

    def get(self) -> T | None:
        """The answer; None where the question failed (a gap says why)."""
        return self._future.result()


class Questions:
    """Asks many systems at once and keeps what could not be answered as findings."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._gaps: dict[str, Finding] = {}

    def ask(self, what: Text, question: Callable[[], T], subject: Subject | None = None) -> Answer[T]:
        """Ask in the background. `what` names it for the reader of a gap: "firing alerts"."""
        return Answer(self._executor.submit(self._answered, what, question, subject))

    def _answered(self, what: Text, question: Callable[[], T], subject: Subject | None) -> T | None:
        try:
            return question()
        except SourceError as error:
            self.gap(Finding.gap(error, what, subject))
            return None

    def gap(self, finding: Finding) -> None:
        """Keep a gap; one a check and subject, and one a system where the system as a whole does not answer."""
        with self._lock:
            self._gaps.setdefault(f"{finding.fingerprint} {finding.title}", finding)

    @property
    def gaps(self) -> tuple[Finding, ...]:
        """What could not be looked at, so far."""
        return tuple(self._gaps.values())
