"""Every notebook runs from top to bottom against real servers: under nbval, and under papermill in both languages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import papermill
import pytest

from opslib.chapters import CHAPTERS, Chapter
from opslib.messages import _

if TYPE_CHECKING:
    from tests.conftest import RealLab

PROJECT = Path(__file__).parent.parent.parent
NOTEBOOKS = PROJECT / "notebooks"

# A table's title that stands on the page however well everything is.
ALWAYS_SHOWN = {"monitoring": _("Rule groups"), "pods": _("Pods by status")}

pytestmark = pytest.mark.real


@pytest.fixture
def _lab(real_lab: RealLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment `lab` is the one that the tests started."""
    monkeypatch.setenv("OPSLIB_LAB", str(real_lab.folder))
    monkeypatch.setenv("OPSLIB_PARAMETERS", str(PROJECT / "parameters"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_lab")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.section)
@pytest.mark.parametrize("folder", [NOTEBOOKS, NOTEBOOKS / "en"], ids=["ja", "en"])
def test_nbval_runs_it(chapter: Chapter, folder: Path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "120"),
            *("-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(folder), "-c", os.devnull, str(folder / chapter.notebook)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout


@pytest.mark.usefixtures("_lab")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.section)
@pytest.mark.parametrize(("language", "folder"), [("ja", NOTEBOOKS), ("en", NOTEBOOKS / "en")])
def test_papermill_runs_it_in_both_languages(chapter: Chapter, language: str, folder: Path, tmp_path: Path) -> None:
    done = papermill.execute_notebook(
        str(folder / chapter.notebook),
        str(tmp_path / "done.ipynb"),
        parameters={"environment": "lab", "language": language},
        kernel_name="python3",
        progress_bar=False,
        execution_timeout=120,
    )
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = "".join(_html(output) for output in outputs)
    other = "en" if language == "ja" else "ja"
    title = ALWAYS_SHOWN[chapter.slug]
    assert title.text(language) in shown
    assert title.text(other) not in shown


def _html(output: Any) -> str:
    html = output.get("data", {}).get("text/html", "")
    return "".join(html) if isinstance(html, list) else html
