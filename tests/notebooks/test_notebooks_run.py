"""Every notebook runs from top to bottom, under nbval and under papermill in both languages: on real servers, and where nothing answers."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import papermill
import pytest
import yaml

from opslib.chapters import CHAPTERS, Chapter
from opslib.findings import Severity
from opslib.messages import _

if TYPE_CHECKING:
    from tests.conftest import RealLab

PROJECT = Path(__file__).parent.parent.parent
NOTEBOOKS = PROJECT / "notebooks"

# A table's title that stands on the page however well everything is.
ALWAYS_SHOWN = {
    "access": _("Chapters with these credentials"),
    "monitoring": _("Rule groups"),
    "backup": _("Velero backups"),
    "patching": _("Kubelet versions"),
    "pods": _("Pods by status"),
    "nodes": _("Nodes"),
    "cpu": _("CPU by workload"),
    "memory": _("Memory by workload"),
    "disk": _("Volumes"),
}


@pytest.fixture
def _lab(real_lab: RealLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment `lab` is the one that the tests started."""
    monkeypatch.setenv("OPSLIB_LAB", str(real_lab.folder))
    monkeypatch.setenv("OPSLIB_PARAMETERS", str(PROJECT / "parameters"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _nothing_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The environment `lab` has addresses at which every connection is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there meanwhile
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        kubeconfig = {
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": f"https://{address}"}}],
            "users": [{"name": "lab", "user": {"token": "x"}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        systems = {name: {"url": f"http://{address}"} for name in ("prometheus", "alertmanager", "elasticsearch")}
        (tmp_path / "environment.yaml").write_text(yaml.safe_dump({"kubernetes": {"kubeconfig": str(tmp_path / "kubeconfig")}, **systems}))
        monkeypatch.setenv("OPSLIB_LAB", str(tmp_path))
        monkeypatch.setenv("OPSLIB_PARAMETERS", str(PROJECT / "parameters"))
        monkeypatch.chdir(tmp_path)
        yield


@pytest.mark.real
@pytest.mark.usefixtures("_lab")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
@pytest.mark.parametrize("folder", [NOTEBOOKS, NOTEBOOKS / "en"], ids=["ja", "en"])
def test_nbval_runs_it(chapter: Chapter, folder: Path) -> None:
    nbval(folder / chapter.notebook)


@pytest.mark.usefixtures("_nothing_answers")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
def test_nbval_runs_it_where_nothing_answers(chapter: Chapter) -> None:
    nbval(NOTEBOOKS / chapter.notebook)


@pytest.mark.usefixtures("_nothing_answers")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
@pytest.mark.parametrize(("language", "folder"), [("ja", NOTEBOOKS), ("en", NOTEBOOKS / "en")])
def test_a_page_where_nothing_answers_says_so(chapter: Chapter, language: str, folder: Path, tmp_path: Path) -> None:
    shown = papermill_html(folder / chapter.notebook, language, tmp_path)
    assert Severity.UNKNOWN.label.text(language) in shown
    assert _("connection refused").text(language) in shown


def nbval(notebook: Path) -> None:
    """Every cell of the notebook runs without an error."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "120"),
            *("-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(notebook.parent), "-c", os.devnull, str(notebook)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert " passed" in run.stdout


@pytest.mark.real
@pytest.mark.usefixtures("_lab")
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.slug)
@pytest.mark.parametrize(("language", "folder"), [("ja", NOTEBOOKS), ("en", NOTEBOOKS / "en")])
def test_papermill_runs_it_in_both_languages(chapter: Chapter, language: str, folder: Path, tmp_path: Path) -> None:
    shown = papermill_html(folder / chapter.notebook, language, tmp_path)
    other = "en" if language == "ja" else "ja"
    title = ALWAYS_SHOWN[chapter.slug]
    assert title.text(language) in shown
    assert title.text(other) not in shown


def papermill_html(notebook: Path, language: str, tmp_path: Path) -> str:
    """What the notebook shows, all of it, when papermill runs it on the environment `lab`."""
    done = papermill.execute_notebook(
        str(notebook),
        str(tmp_path / "done.ipynb"),
        parameters={"environment": "lab", "language": language},
        kernel_name="python3",
        progress_bar=False,
        execution_timeout=120,
    )
    outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    return "".join(_html(output) for output in outputs)


def _html(output: Any) -> str:
    html = output.get("data", {}).get("text/html", "")
    return re.sub("<script.*?</script>", "", "".join(html), flags=re.DOTALL)
