"""A small chapter and its notebooks, for tests of what runs chapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

import opslib.chapters
import opslib.facts
from opslib.chapters import Chapter
from opslib.environments import Environment
from opslib.messages import _
from opslib.running.runs import Plan

SAMPLE = Path(__file__).parent / "sample"
CHAPTER = Chapter("9.1", "sample", _("Sample"))

# The chapter is in no table of contents: the kernel is told where it is, and the session is made as `start` makes it.
START = f"""
import opslib.chapters, opslib.facts
opslib.chapters.__path__.append({str(SAMPLE / "chapters")!r})
opslib.facts.__path__.append({str(SAMPLE / "facts")!r})
from opslib.chapters import Chapter, sample
from opslib.environments import Environment
from opslib.messages import _
from opslib.running.session import Session, _show_errors_readably
_show_errors_readably()
ops = Session(Chapter("9.1", "sample", _("Sample")), Environment(name="lab", title="Lab <b>", timezone="Asia/Tokyo"), language, {{"count": count}})
ops.show_header()
"""


@pytest.fixture
def sample_chapter() -> Iterator[Chapter]:
    """The sample chapter, importable in this process."""
    opslib.chapters.__path__.append(str(SAMPLE / "chapters"))
    opslib.facts.__path__.append(str(SAMPLE / "facts"))
    yield CHAPTER
    opslib.chapters.__path__.remove(str(SAMPLE / "chapters"))
    opslib.facts.__path__.remove(str(SAMPLE / "facts"))


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., Plan]:
    """Makes a plan whose notebook has the given cells: text that begins with # is prose."""

    def make(*cells: str, language: str = "ja", count: int = 3) -> Plan:
        notebook = nbformat.v4.new_notebook()
        notebook.cells.append(nbformat.v4.new_markdown_cell("# 9.1 サンプル"))
        parameters = nbformat.v4.new_code_cell('environment = "lab"\nlanguage = "ja"\ncount = 1')
        parameters.metadata["tags"] = ["parameters"]
        notebook.cells.append(parameters)
        for cell in cells:
            made = nbformat.v4.new_markdown_cell(cell) if cell.startswith("#") else nbformat.v4.new_code_cell(cell)
            notebook.cells.append(made)
        path = tmp_path / "sample.ipynb"
        nbformat.write(notebook, path)
        environment = Environment(name="lab", title="Lab <b>", timezone="Asia/Tokyo")
        return Plan(CHAPTER, environment, "lab", language, {"count": count}, path)

    return make
