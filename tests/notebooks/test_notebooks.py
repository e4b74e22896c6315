"""The notebooks as they are kept: thin, without outputs, the same code in both languages, and their parameters those of the chapter."""

from __future__ import annotations

import ast
import importlib
import io
import tokenize
from pathlib import Path
from typing import Any

import nbformat
import pytest
from papermill.inspection import inspect_notebook

from opslib.chapters import CHAPTERS, Chapter

PROJECT = Path(__file__).parent.parent.parent
ENGLISH = PROJECT / "notebooks" / "en"
BOTH = [
    pytest.param(chapter, folder, id=f"{chapter.section}-{language}")
    for chapter in CHAPTERS
    for language, folder in (("ja", ENGLISH.parent), ("en", ENGLISH))
]
SESSION = {"environment", "language"}  # what every notebook has beside its chapter's own


def read(folder: Path, chapter: Chapter) -> Any:
    return nbformat.read(folder / chapter.notebook, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize(("chapter", "folder"), BOTH)
def test_a_notebook_is_kept_clean(chapter: Chapter, folder: Path) -> None:
    notebook = read(folder, chapter)
    nbformat.validate(notebook)
    for cell in code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
def test_the_languages_differ_in_text_only(chapter: Chapter) -> None:
    japanese, english = read(ENGLISH.parent, chapter), read(ENGLISH, chapter)
    assert [cell.id for cell in japanese.cells] == [cell.id for cell in english.cells]
    assert [(cell.source, cell.metadata) for cell in code(japanese)] == [(cell.source, cell.metadata) for cell in code(english)]
    texts = [(ja.source, en.source) for ja, en in zip(japanese.cells, english.cells, strict=True) if en.cell_type == "markdown"]
    assert texts
    assert all(ja != en and not ja.isascii() and en.strip() for ja, en in texts)


@pytest.mark.parametrize(("chapter", "folder"), BOTH)
def test_the_page_begins_with_its_section(chapter: Chapter, folder: Path) -> None:
    first = read(folder, chapter).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {chapter.section} ")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
def test_the_parameters_are_the_chapter_s(chapter: Chapter) -> None:
    model = importlib.import_module(f"opslib.chapters.{chapter.slug}").Parameters
    given = inspect_notebook(str(ENGLISH / chapter.notebook))
    assert set(given) == SESSION | set(model.model_fields)
    defaults = {name: ast.literal_eval(parameter["default"]) for name, parameter in given.items()}
    assert defaults["language"] == ""
    model.model_validate({name: value for name, value in defaults.items() if name not in SESSION})
    wanted = model().model_dump(mode="json")
    assert {name: value for name, value in defaults.items() if name not in SESSION} == wanted


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
def test_code_cells_are_short_calls_into_the_library(chapter: Chapter) -> None:
    for cell in code(read(ENGLISH, chapter)):
        tree = ast.parse(cell.source)
        logic = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.If | ast.For | ast.While | ast.FunctionDef | ast.ClassDef | ast.Try | ast.Lambda)
        ]
        assert not logic, cell.source
        assert len(cell.source.splitlines()) <= 20, cell.source
        comments = [token for token in tokenize.generate_tokens(io.StringIO(cell.source).readline) if token.type == tokenize.COMMENT]
        assert not comments, f"a comment is not translated: {cell.source}"
