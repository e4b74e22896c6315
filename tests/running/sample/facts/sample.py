"""Reads the sample chapter's facts: one question that is answered, and one to the environment's Alertmanager."""

from __future__ import annotations

from datetime import UTC, datetime

from opslib.chapters import sample  # type: ignore[attr-defined]
from opslib.facts import Questions
from opslib.facts.sources import Sources
from opslib.messages import _


def read(sources: Sources, parameters: sample.Parameters, questions: Questions) -> sample.Facts:
    text = questions.ask(_("the text"), lambda: sample.HOSTILE)
    questions.ask(_("silences"), lambda: sources.ping("alertmanager")).get()
    return sample.Facts(
        now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        environment=sources.environment.name,
        gaps=questions.gaps,
        text=text.get(),
        count=parameters.count,
    )
