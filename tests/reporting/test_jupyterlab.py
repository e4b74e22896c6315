"""A notebook in a real JupyterLab, in a real Chromium: what is shown there is as alive as the report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import urllib3

from tests.ports import free_port
from tests.waiting import until

PROJECT = Path(__file__).parent.parent.parent
CELLS = (
    """import opslib
from opslib.findings import Column, Table, Unit
ops = opslib.start("access", environment="lab", language="en")""",
    """columns = (Column("name", "Name"), Column("memory", "Memory", Unit.BYTES))
rows = [("<b>web</b>", 900), ("db", 2**30), ("job", None), ("cache", 5 * 2**20)]
ops.show(Table(name="pods/all", title="Pods", columns=columns, rows=rows))""",
)


@pytest.fixture
def jupyterlab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab on a folder with a notebook of `CELLS`; the environment `lab` is one where nothing answers."""
    port = free_port()
    nothing = tmp_path / "lab"
    nothing.mkdir()
    (nothing / "environment.yaml").write_text("prometheus: {url: 'http://127.0.0.1:9'}\n")
    work = tmp_path / "work"
    work.mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]  # type: ignore[no-untyped-call]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), work / "tables.ipynb")  # type: ignore[no-untyped-call]
    folders = {name: str(tmp_path / name.lower()) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    folders |= {"OPSLIB_LAB": str(nothing), "OPSLIB_PARAMETERS": str(PROJECT / "parameters")}
    with (tmp_path / "jupyter.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0",
             "--IdentityProvider.token=", f"--ServerApp.root_dir={work}", "--LabApp.news_url="],
            env={**os.environ, **folders}, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                assert server.poll() is None, (tmp_path / "jupyter.log").read_text()
                try:
                    return urllib3.request("GET", f"{address}/api/status", retries=False, timeout=2).status == 200
                except urllib3.exceptions.HTTPError:
                    return False

            until(answers, "JupyterLab answers")
            yield address
        finally:
            server.terminate()
            server.wait(30)


def test_tables_sort_and_export(browser: Any, jupyterlab: str) -> None:
    tab = browser.new_context(accept_downloads=True).new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(f"{jupyterlab}/lab/tree/tables.ipynb")
    tab.locator(".jp-Notebook .cm-content").first.click(timeout=60_000)
    for _cell in CELLS:
        tab.keyboard.press("Shift+Enter")
    heading = tab.locator(".opslib th button", has_text="Memory")
    heading.click(timeout=60_000)

    def column(number: int) -> list[str]:
        return [text.strip() for text in tab.locator(f".opslib.table tbody tr td:nth-child({number})").all_inner_texts()]

    assert column(2) == ["900 B", "5 MiB", "1 GiB", "–"]
    heading.click()
    assert column(1) == ["db", "cache", "<b>web</b>", "job"]
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Save as CSV").click()
    assert waiting.value.suggested_filename == "pods_all.csv"
    assert Path(waiting.value.path()).read_text("utf-8-sig").splitlines()[1] == '"db",1073741824'
    assert errors == []
