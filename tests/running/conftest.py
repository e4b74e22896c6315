"""The sample chapter, importable in this process too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sample_plan import CHAPTER, SAMPLE

import opslib.chapters
import opslib.facts
from opslib.chapters import Chapter


@pytest.fixture
def sample_chapter() -> Iterator[Chapter]:
    """The sample chapter."""
    opslib.chapters.__path__.append(str(SAMPLE / "chapters"))
    opslib.facts.__path__.append(str(SAMPLE / "facts"))
    yield CHAPTER
    opslib.chapters.__path__.remove(str(SAMPLE / "chapters"))
    opslib.facts.__path__.remove(str(SAMPLE / "facts"))
