"""`opslib run` against real servers: the exit status, the report, and what a missing system or permission leaves of the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def _opslib(lab: Any, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import sys; from opslib.cli import main; sys.exit(main())", *words],
        env=os.environ | {"OPSLIB_LAB": str(lab.folder), "OPSLIB_LANG": "en"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _only(outputs: Path) -> Path:
    (folder,) = (path for path in (outputs / "lab").iterdir() if path.is_dir())
    return folder


@pytest.fixture
def crash_loop(any_cluster: Any) -> Any:
    broken = _opslib(any_cluster, "lab", "break", "crash-loop", "--namespace", "shop")
    assert broken.returncode == 0, broken.stderr
    yield any_cluster
    _opslib(any_cluster, "lab", "reset")


@pytest.mark.parametrize("language", ["ja", "en"])
def test_pods_of_a_cluster_with_a_crash_loop(crash_loop: Any, tmp_path: Path, language: str) -> None:
    words = ("run", "4.1", "--env", "lab", "-p", "namespace=shop", "--lang", language, "--outputs", str(tmp_path))
    answer = _opslib(crash_loop, *words)
    folder = _only(tmp_path)
    content = json.loads((folder / "findings.json").read_text())
    assert content["state"] == "finished", answer.stderr
    assert "container.crash_loop" in {finding["check"] for finding in content["findings"]}
    assert content["severity"] in ("critical", "warning", "unknown")
    assert answer.returncode == {"warning": 1, "critical": 2, "unknown": 3}[content["severity"]]
    page = (folder / "report.html").read_text()
    assert f'<html lang="{language}">' in page
    assert crash_loop.addresses["kubernetes"] in page
    assert len(page.encode()) < 2_000_000
    assert str(folder / "report.html") in answer.stdout
    assert "[" in answer.stderr  # progress

    # Once more, unchanged: everything is still there, nothing is new.
    again = _opslib(crash_loop, *words, "--fail-on", "never", "--no-html")
    assert again.returncode == 0
    index = (tmp_path / "index.html").read_text()
    assert 'class="still"' in index
    assert 'class="new"' not in index


def test_the_daily_check_without_its_systems_says_what_it_could_not_see(any_cluster: Any, tmp_path: Path) -> None:
    answer = _opslib(any_cluster, "run", "3.1", "--env", "lab", "--lang", "en", "--outputs", str(tmp_path))
    content = json.loads((_only(tmp_path) / "findings.json").read_text())
    assert content["state"] == "finished", answer.stderr
    gaps = {finding["subject"]["name"] for finding in content["findings"] if finding["check"].startswith("gap.")}
    assert {"prometheus", "alertmanager", "elasticsearch"} <= gaps
    assert content["severity"] in ("unknown", "critical")
    assert answer.returncode == (3 if content["severity"] == "unknown" else 2)
