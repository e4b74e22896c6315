"""Imports point one way, and what is heavy is imported where it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
HEAVY = (
    "pandas",
    "numpy",
    "matplotlib",
    "kubernetes",
    "boto3",
    "botocore",
    "papermill",
    "nbformat",
    "nbconvert",
    "IPython",
    "pydantic",
    "jinja2",
)


def imported(code: str) -> set[str]:
    """What a fresh interpreter has loaded after `code`."""
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys; print(); print(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    ["import opslib", "import opslib.findings", "import opslib.chapters", "from opslib.cli import main; main(['--help'])"],
    ids=["opslib", "findings", "chapters", "help"],
)
def test_starting_is_light(code: str) -> None:
    assert not imported(code) & set(HEAVY)


def test_the_check_above_can_fail() -> None:
    assert "pydantic" in imported("import opslib.environments")


def test_importing_does_not_print_or_start_anything() -> None:
    code = """
import importlib, pkgutil, sys, threading, opslib
def failed(name): raise
for module in pkgutil.walk_packages(opslib.__path__, "opslib.", onerror=failed):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert threading.active_count() == 1, threading.enumerate()
"""
    run = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", code], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_imports_point_one_way() -> None:
    run = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert run.returncode == 0, run.stdout + run.stderr
