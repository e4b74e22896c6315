"""What reads a chapter's facts from the sources, one file a chapter, many questions at once.

A question that fails leaves None in its place and a finding that says why: None is "could not look", empty is "nothing found".
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

from opslib.errors import SourceError, Unauthenticated, Unreachable
from opslib.findings import Finding, Subject
from opslib.messages import Text, _, text_of

T = TypeVar("T")


class Answer(Generic[T]):
    """The answer to one question, once it is there."""

    def __init__(self, future: Future[T | None]) -> None:
        self._future = future

    def get(self, seconds: float | None = None) -> T | None:
        """The answer; None where the question failed (a gap says why).

        Raises
        ------
        TimeoutError
            It is not there after `seconds` (None: however long it takes).
        """
        return self._future.result(seconds)


class Questions:
    """Asks many systems at once and keeps what could not be answered as findings."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lock = threading.Lock()
        self._failures: dict[tuple[object, ...], tuple[SourceError, Subject | None, list[Text]]] = {}
        self._gaps: dict[str, Finding] = {}

    def ask(self, what: Text, question: Callable[[], T], subject: Subject | None = None) -> Answer[T]:
        """Ask in the background. `what` names it for the reader of a gap: "firing alerts"."""
        return Answer(self._executor.submit(self._answered, what, question, subject))

    def _answered(self, what: Text, question: Callable[[], T], subject: Subject | None) -> T | None:
        try:
            return question()
        except SourceError as error:
            self.failed(error, what, subject)
            return None

    def failed(self, error: SourceError, what: Text, subject: Subject | None = None) -> None:
        """Keep that `what` could not be read. Questions that failed for one reason become one gap, which names them all.

        A system that does not answer, or does not accept the credentials, is one reason, whatever was asked; else the reason is the error's
        own words.
        """
        as_a_whole = isinstance(error, Unreachable | Unauthenticated)
        key = (error.system, subject, type(error) if as_a_whole else error.what)
        with self._lock:
            self._failures.setdefault(key, (error, subject, []))[2].append(what)

    def gap(self, finding: Finding) -> None:
        """Keep a gap that no failed question stands for; one a check, subject and title."""
        with self._lock:
            self._gaps.setdefault(f"{finding.fingerprint} {finding.title}", finding)

    @property
    def gaps(self) -> tuple[Finding, ...]:
        """What could not be looked at, so far."""
        with self._lock:
            failures = [
                (error, subject, list({str(what): what for what in whats}.values())) for error, subject, whats in self._failures.values()
            ]
            known = tuple(self._gaps.values())
        return (*(_gap(error, subject, whats) for error, subject, whats in failures), *known)


def _gap(error: SourceError, subject: Subject | None, whats: list[Text]) -> Finding:
    """One gap for all that failed for one reason, each thing named once."""
    named = sorted({text_of(what): what for what in whats}.items())
    return Finding.gap(error, named[0][1] if len(named) == 1 else _("{what}", what=[what for _text, what in named]), subject)
