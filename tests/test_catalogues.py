"""The catalogues are complete and current, and the tool that says so finds what it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent


def run(tool: str, *arguments: str, project: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(project / "tools" / tool), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"},
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's texts, to be broken."""
    for folder in ("opslib", "tools", "notebooks"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "servers", ".ipynb_checkpoints"))
    return tmp_path


def test_nothing_is_missing_or_stale() -> None:
    checked = run("catalogues.py", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_japanese_notebooks_are_current() -> None:
    checked = run("notebooks.py", "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def add(copy: Path, code: str) -> None:
    path = copy / "opslib" / "errors.py"
    path.write_text(path.read_text("utf-8") + code, "utf-8")


WRONG = [
    ('_("A text that is new")', "errors.po: missing: 'A text that is new'"),
    ('_("{count} of {total}", count=1)', "has no value for total"),
    ('_("warning {name}")', "has no value for name"),
    ('_("A text without places", name=1)', "does not show name"),
    ('_(f"{Text}")', "the text must be a literal"),
    ('_("{name:>10}", name=1)', "must be a bare name"),
    ('(_n("{count} apple", "{count} apples", 2), _n("{count} apple", "{count} pears", 2))', "has two plurals"),
]


def test_texts_that_are_not_right_are_named(copy: Path) -> None:
    add(copy, "\n\ndef _never_called() -> None:\n" + "".join(f"    {code}\n" for code, _expected in WRONG))
    checked = run("catalogues.py", "check", project=copy)
    assert checked.returncode == 1
    for code, expected in WRONG:
        assert expected in checked.stdout, code


def test_translations_that_are_not_right_are_named(copy: Path) -> None:
    path = copy / "opslib" / "locales" / "ja" / "findings.po"
    text = path.read_text("utf-8")
    for english, japanese, instead in (
        ("info", "情報", ""),
        ("Nothing found.", "該当はありません。", "該当なし。"),
        ("Could not look at {what}", "{what}を確認できませんでした", "{wat}を確認できませんでした"),
    ):
        before = f'msgid "{english}"\nmsgstr "{japanese}"\n'
        assert before in text
        text = text.replace(before, f'msgid "{english}"\nmsgstr "{instead}"\n')
    path.write_text(text, "utf-8")
    checked = run("catalogues.py", "check", project=copy)
    assert checked.returncode == 1
    assert sorted(line.split(": ")[1] for line in checked.stdout.splitlines()) == [
        "missing",
        "older than the catalogues",
        "other places than in English ('{wat}を確認できませんでした')",
    ]


def test_a_reworded_text_keeps_its_translation_to_be_looked_at(copy: Path) -> None:
    path = copy / "opslib" / "findings.py"
    path.write_text(path.read_text("utf-8").replace("Could not look at {what}", "Could not look into {what}"), "utf-8")
    assert run("catalogues.py", "extract", project=copy).returncode == 0
    checked = run("catalogues.py", "check", project=copy).stdout
    assert "fuzzy, to be looked at: 'Could not look into {what}'" in checked
    assert "stale" not in checked


def test_collecting_and_building_again_changes_nothing(copy: Path) -> None:
    before = {path: path.read_bytes() for path in (copy / "opslib" / "locales").rglob("*") if path.is_file()}
    assert run("catalogues.py", "extract", project=copy).returncode == 0
    assert run("catalogues.py", "compile", project=copy).returncode == 0
    assert {path: path.read_bytes() for path in (copy / "opslib" / "locales").rglob("*") if path.is_file()} == before


def test_a_japanese_notebook_that_was_edited_by_hand_is_named(copy: Path) -> None:
    path = sorted((copy / "notebooks").glob("*.ipynb"))[0]
    path.write_text(path.read_text("utf-8").replace("opslib", "oplsib"), "utf-8")
    checked = run("notebooks.py", "check", project=copy)
    assert checked.returncode == 1
    assert f"{path.name}: not as `make notebooks` writes it" in checked.stdout
