"""Many questions, some of which fail: what was asked stays told apart from what was found."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from opslib.errors import Forbidden, SourceError, Unauthenticated, Unreachable
from opslib.facts import Questions
from opslib.findings import Severity, Subject
from opslib.messages import _


@pytest.fixture
def questions() -> Iterator[Questions]:
    with ThreadPoolExecutor(4) as executor:
        yield Questions(executor)


def fails(error: Exception) -> None:
    raise error


def test_an_answer_is_what_was_asked_and_a_failure_is_none_with_a_gap(questions: Questions) -> None:
    good = questions.ask("pods", lambda: [])
    bad = questions.ask("secrets", lambda: fails(Forbidden("kubernetes", "may not list secrets", "add the rule")))
    assert good.get() == []
    assert bad.get() is None
    (gap,) = questions.gaps
    assert gap.severity is Severity.UNKNOWN
    assert "secrets" in str(gap.title)
    assert gap.cause == "may not list secrets"


@pytest.mark.parametrize("kind", [Unreachable, Unauthenticated])
def test_a_system_that_is_down_is_one_gap_that_names_all_that_was_asked(questions: Questions, kind: type[SourceError]) -> None:
    for number in range(10):
        questions.ask(f"thing {number}", lambda number=number: fails(kind("prometheus", f"refused at path {number}"))).get()  # type: ignore[misc]
    questions.ask("logs", lambda: fails(kind("elasticsearch", "refused"))).get()
    gaps = {gap.check: gap for gap in questions.gaps}
    assert set(gaps) == {"gap.prometheus", "gap.elasticsearch"}
    assert all(f"thing {number}" in str(gaps["gap.prometheus"].title) for number in range(10))


def test_different_refusals_and_subjects_stay_apart(questions: Questions) -> None:
    questions.ask("a", lambda: fails(Forbidden("kubernetes", "no list on secrets"))).get()
    questions.ask("b", lambda: fails(Forbidden("kubernetes", "no list on nodes"))).get()
    questions.ask("c", lambda: fails(Unreachable("kubernetes", "slow")), Subject("Namespace", "shop")).get()
    questions.ask("d", lambda: fails(Unreachable("kubernetes", "slow")), Subject("Namespace", "web")).get()
    assert len(questions.gaps) == 4


def test_what_is_not_a_system_s_fault_is_not_hidden(questions: Questions) -> None:
    with pytest.raises(ZeroDivisionError):
        questions.ask("x", lambda: 1 / 0).get()


def test_the_same_words_are_said_once() -> None:
    with ThreadPoolExecutor(1) as executor:
        questions = Questions(executor)
        for what in (_("nodes"), "nodes"):
            questions.failed(SourceError("kubernetes", "refused"), what)
        assert questions.gaps[0].title.text("en") == "Could not look at nodes"  # type: ignore[union-attr]
