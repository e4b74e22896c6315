"""Runs in real kernels: what a folder tells after each kind of end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from sample_plan import START, plan

from opslib.findings import Severity
from opslib.messages import text_of
from opslib.reporting import index, records
from opslib.running import runs

SHOW = "ops.show(ops.findings)"
TABLE = "ops.show(sample.table(ops.facts))"
FINISH = "ops.finish()"


def test_a_run_leaves_notebook_findings_report_and_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSLIB_TEST_PASSWORD", "s3cret-of-the-environment")
    seen: list[tuple[int, int, str]] = []
    check = "import os\nassert os.environ['OPSLIB_TEST_PASSWORD'].startswith('s3cret')"
    figure = "from opslib.chapters import plotting\nfigure, axes = plotting.new_figure('メモリ')\nops.show(figure)"
    cells = (START, check, "## 状態確認", SHOW, TABLE, figure, "print('to stdout')", "import sys; print('noise', file=sys.stderr)", FINISH)
    run = runs.execute(plan(tmp_path, *cells), tmp_path / "outputs", progress=lambda *step: seen.append(step))

    folder = run.record.folder
    assert re.fullmatch(r"\d{8}T\d{6}Z-9\.1_sample", folder.name)
    assert folder.parent == tmp_path / "outputs" / "lab"
    assert sorted(path.name for path in folder.iterdir()) == ["findings.json", "notebook.ipynb", "report.html", "run.json"]
    assert run.record.state == "finished"
    # Three from the facts, and the gap: the environment has no Alertmanager.
    assert run.record.counts == {"critical": 1, "unknown": 1, "warning": 2}
    assert run.exit_status() == 2
    assert run.exit_status(None) == 0

    content = json.loads((folder / "findings.json").read_text())
    assert [finding["severity"] for finding in content["findings"]] == ["critical", "unknown", "warning", "warning"]
    assert content["severity"] == "critical"
    assert records.read(folder) == run.record

    page = (folder / "report.html").read_text()
    assert "to stdout" in page
    assert "noise" not in page
    assert "OPSLIB_TEST_PASSWORD" not in page  # code is not shown
    assert page.count("data:image/png;base64,") == 1
    assert '<html lang="ja">' in page
    assert "12:04:05 JST" in page
    for path in (tmp_path / "outputs").rglob("*"):
        assert path.is_dir() or "s3cret-of-the-environment" not in path.read_text()

    assert (len(seen), seen[-1]) == (10, (12, 12, "状態確認")), seen
    assert "9.1 sample" in (tmp_path / "outputs" / "index.html").read_text()


def test_the_language_reaches_every_cell_and_thread(tmp_path: Path) -> None:
    """A kernel may run each cell in a context of its own; the facts are read in threads."""
    look = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from opslib.messages import current_language\n"
        "with ThreadPoolExecutor(1) as one:\n"
        "    print('languages', current_language(), one.submit(current_language).result())"
    )
    run = runs.execute(plan(tmp_path, START, look, FINISH, language="en"), tmp_path / "outputs")
    page = (run.record.folder / "report.html").read_text()
    assert "languages en en" in page
    assert "Environment" in page
    assert '<html lang="en">' in page


def test_a_failing_cell_leaves_a_report_that_names_it(tmp_path: Path) -> None:
    run = runs.execute(plan(tmp_path, START, "## 状態確認", SHOW, "## 計算", "1/0", FINISH, language="en"), tmp_path / "outputs")
    assert run.record.state == "failed"
    assert run.exit_status() == 3
    assert run.exit_status(None) == 3
    # What was found before that is kept, and the worst of it counts.
    assert run.record.severity is Severity.CRITICAL
    assert len(run.findings) == 4
    failure = text_of(run.record.failure, "en")
    assert failure == "Cell 8 of 9 (計算) failed: ZeroDivisionError: division by zero"
    page = (run.record.folder / "report.html").read_text()
    assert failure in page
    assert "what is missing was not looked at" in page
    assert "\x1b" not in page
    assert nbformat.read(run.record.folder / "notebook.ipynb", as_version=4).cells


def test_a_failure_before_anything_was_found_is_unknown_not_ok(tmp_path: Path) -> None:
    run = runs.execute(plan(tmp_path, "raise SystemError('x')", START, FINISH), tmp_path / "outputs")
    assert run.record.severity is Severity.UNKNOWN
    assert json.loads((run.record.folder / "findings.json").read_text())["state"] == "failed"


def test_an_error_with_a_remedy_is_a_block_without_traceback(tmp_path: Path) -> None:
    error = "from opslib.errors import Forbidden\nraise Forbidden('kubernetes', _('No pods'), _('Add a rule'), 'kubectl create role x')"
    run = runs.execute(plan(tmp_path, START, error, FINISH, language="en"), tmp_path / "outputs")
    assert text_of(run.record.failure, "en") == "Cell 5 of 6 (9.1 サンプル) failed: No pods. Add a rule: kubectl create role x"
    notebook = nbformat.read(run.record.folder / "notebook.ipynb", as_version=4)
    trace = next(output.traceback for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "error")
    assert trace == ["No pods", "Add a rule", "  kubectl create role x"]


def test_a_kernel_that_dies_is_a_failure(tmp_path: Path) -> None:
    run = runs.execute(plan(tmp_path, START, SHOW, "import os; os._exit(9)", FINISH, language="en"), tmp_path / "outputs")
    assert run.record.state == "failed"
    assert run.exit_status() == 3
    assert "Cell 6 of 7" in text_of(run.record.failure, "en")
    assert len(run.findings) == 4


def test_a_notebook_without_verdict_is_not_all_well(tmp_path: Path) -> None:
    run = runs.execute(plan(tmp_path, START, "ops.facts", count=0), tmp_path / "outputs")
    assert run.record.state == "failed"
    assert run.exit_status() == 3


def test_runs_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    made: list[runs.Run] = []
    plans = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        plans.append(plan(folder, START, SHOW, FINISH, count=number))
    threads = [threading.Thread(target=lambda one=one: made.append(runs.execute(one, tmp_path / "outputs"))) for one in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.record.folder for run in made}) == 2
    assert sorted(len(run.findings) for run in made) == [2, 3]
    assert len(records.read_all(tmp_path / "outputs")) == 2


def test_folders_of_the_same_second_differ(tmp_path: Path) -> None:
    one = plan(tmp_path)
    started = records.datetime(2026, 1, 2, 3, 4, 5, tzinfo=records.UTC)
    first, second = (records.new_folder(tmp_path, "lab", one.chapter, started) for _number in (1, 2))
    assert (first.name, second.name) == ("20260102T030405Z-9.1_sample", "20260102T030405Z-9.1_sample-2")


class _Process:
    """A run in a process of its own that hangs in its last but one cell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The kernel's id is written where the test can read it.
        hang = f"import os, threading; open({str(folder / 'kernel')!r}, 'w').write(str(os.getpid())); threading.Event().wait()"
        words = [sys.executable, str(Path(__file__).with_name("sample_plan.py")), str(folder), START, SHOW, "## 遅い", hang, FINISH]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.kernel = int(_eventually(lambda: (folder / "kernel").exists() and (folder / "kernel").read_text()))

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    @property
    def run(self) -> Path:
        return next((self.folder / "outputs" / "lab").iterdir())

    def kernel_is_gone(self) -> bool:
        try:
            status = Path(f"/proc/{self.kernel}/stat").read_text()
        except OSError:
            return True
        return status.rpartition(")")[2].split()[0] == "Z"


def _eventually(condition: Any, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        threading.Event().wait(0.05)
    raise AssertionError("it did not come about in time")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_so_and_leaves_no_kernel(tmp_path: Path, number: int) -> None:
    process = _Process(tmp_path)
    assert process.end(number) == 130
    _eventually(process.kernel_is_gone)
    record = records.read(process.run)
    assert record is not None
    assert record.state == "interrupted"
    assert "Interrupted at cell 7 of 8 (遅い)" in text_of(record.failure, "en")
    assert sorted(path.name for path in process.run.iterdir()) == ["findings.json", "notebook.ipynb", "report.html", "run.json"]
    # What had been shown before stands in it.
    assert len(record.findings or []) == 4
    assert text_of(record.failure, "ja") in (process.run / "report.html").read_text()


def test_a_killed_run_is_seen_as_one_that_did_not_finish(tmp_path: Path) -> None:
    process = _Process(tmp_path)
    running = records.read(process.run)
    assert running is not None
    assert running.state == "running"
    process.end(signal.SIGKILL)
    record = records.read(process.run)
    assert record is not None
    assert record.state == "unfinished"
    assert "did not finish" in index.build(tmp_path / "outputs", "en").read_text()
    _eventually(process.kernel_is_gone)
    # The notebook as far as it came is whole, with all that had been shown before.
    cells = nbformat.read(process.run / "running.ipynb", as_version=4).cells
    assert [cell.metadata.papermill.status for cell in cells[-2:]] == ["running", "pending"]
    assert [bool(cell.outputs) for cell in cells if cell.cell_type == "code"].count(True) >= 2


def test_outputs_that_are_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("")
    with pytest.raises(runs.InputError):
        runs.execute(plan(tmp_path, START), tmp_path / "outputs")
