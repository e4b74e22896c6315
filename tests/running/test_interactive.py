"""Notebooks for a person: the copy to work in, and a kernel in which somebody is watching."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from sample_plan import START, plan

from opslib.running import interactive


def test_the_copy_has_the_parameters_and_the_kept_one_stays(tmp_path: Path) -> None:
    one = plan(tmp_path, START, "ops.finish()", language="en", count=7)
    before = one.notebook.read_bytes()
    path = interactive.copy(one, tmp_path / "outputs")
    assert one.notebook.read_bytes() == before
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    assert any("count = 7" in source and 'language = "en"' in source for source in sources)


def test_progress_is_shown_while_reading_and_leaves_nothing(tmp_path: Path) -> None:
    slow = (
        "import threading\n"
        "from opslib.running.session import WatchedQuestions\n"
        "opslib.chapters.sample.HOSTILE = 'text'\n"
        "import opslib.facts.sample as reader\n"
        "read = reader.read\n"
        "def slow(sources, parameters, questions):\n"
        "    questions.ask(_('a slow thing'), lambda: threading.Event().wait(1.5)).get()\n"
        "    return read(sources, parameters, questions)\n"
        "reader.read = slow\n"
        "ops.facts and None"
    )
    copy = interactive.copy(plan(tmp_path, START, slow, "ops.finish()", language="en", count=0), tmp_path / "outputs")
    notebook = nbformat.read(copy, as_version=4)
    shown: list[str] = []

    class Client(NotebookClient):
        def process_message(self, msg: dict, cell: object, cell_index: int) -> object:
            if "text/plain" in msg["content"].get("data", {}):
                shown.append(msg["content"]["data"]["text/plain"])
            return super().process_message(msg, cell, cell_index)

    Client(notebook, timeout=120).execute()
    assert any("waiting for a slow thing" in text for text in shown)
    assert "waiting for a slow thing" not in nbformat.writes(notebook)
