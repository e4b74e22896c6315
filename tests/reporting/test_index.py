"""The index: every state of a run's folder, and what changed between two runs."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hostile import HOSTILE, hostile_finding

from opslib.chapters import find
from opslib.findings import Finding, Severity, Subject
from opslib.messages import _
from opslib.reporting import index, records
from opslib.reporting.records import Record

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _run(outputs: Path, minutes: int, findings: list[Finding], state: str = "finished", **fields: Any) -> Record:
    started = STARTED + timedelta(minutes=minutes)
    folder = records.new_folder(outputs, fields.get("environment", "lab"), find("pods"), started)
    record = Record(folder=folder, **{"section": "4.1", "slug": "pods", "environment": "lab", "started": started} | fields)
    ended = records.closed(record, state, findings)
    ended = dataclasses.replace(ended, finished=started + timedelta(seconds=90))
    records.write_findings(ended, findings)
    (folder / "report.html").write_text("report")
    records.write_record(ended)
    return ended


def test_findings_are_new_still_there_or_resolved() -> None:
    one, two, three = (hostile_finding(number, f"web-{number}") for number in (1, 2, 3))
    found = index.changes([one, two], [two, three])
    assert (found.new, found.still, found.resolved) == ([three], [two], [one])


def test_what_could_not_be_looked_at_is_not_resolved() -> None:
    one = hostile_finding(1, "web-1")
    gap = Finding(check="gap.kubernetes", severity=Severity.UNKNOWN, subject=Subject("System", "kubernetes"), title=_("Could not look"))
    assert index.changes([one], [gap]).resolved is None
    # And a gap that is closed is no trouble that was resolved.
    assert index.changes([gap], []).resolved == []


def test_the_index_shows_runs_and_changes(tmp_path: Path) -> None:
    one, two, three = (hostile_finding(number, f"web-{number}") for number in (1, 2, 3))
    _run(tmp_path, 0, [one, two])
    _run(tmp_path, 1, [three], parameters={"namespace": "other"})  # asks something else
    _run(tmp_path, 2, [], state="failed")  # was not the whole
    _run(tmp_path, 3, [two, three])
    page = index.build(tmp_path, "en").read_text()
    assert page.count('<tr class="run">') == 4
    assert page.count("1 new") == page.count("1 resolved") == page.count("1 still there") == 1
    assert "1m30s" in page
    assert page.index("03:07:05") < page.index("03:04:05")
    assert 'href="lab/20260102T030705Z-4.1_pods/report.html"' in page


def test_broken_folders_do_not_stop_it(tmp_path: Path) -> None:
    good = _run(tmp_path, 0, [])
    for number, content in enumerate(("", "{", "[]", '{"state": "finished"}', "null", "\x00")):
        folder = tmp_path / "lab" / f"broken-{number}"
        folder.mkdir()
        (folder / "run.json").write_text(content)
    (tmp_path / "lab" / "notes.txt").write_text("not a run")
    other = _run(tmp_path, 1, [])
    (other.folder / "findings.json").write_text("{")
    (good.folder / "findings.json").unlink()
    assert index.build(tmp_path, "en").read_text().count('<tr class="run">') == 2


def test_a_run_that_lives_is_running_and_a_dead_one_did_not_finish(tmp_path: Path) -> None:
    folder = records.new_folder(tmp_path, "lab", find("pods"), STARTED)
    record = Record(folder=folder, section="4.1", slug="pods", environment="lab", started=STARTED)
    with records.lock(folder):
        records.write_record(record)
        assert ">running<" in index.build(tmp_path, "en").read_text()
    assert ">did not finish<" in index.build(tmp_path, "en").read_text()


def test_names_in_the_index_are_escaped(tmp_path: Path) -> None:
    text = " ".join(HOSTILE)
    _run(tmp_path, 0, [hostile_finding(1, "x")], parameters={"namespace": text}, timezone="No/Where")
    _run(tmp_path, 1, [hostile_finding(2, text)], parameters={"namespace": text})
    page = index.build(tmp_path, "en").read_text()
    assert "<script>document" not in page
    assert "<img" not in page
    assert page.count("<script") == 1


def test_no_runs(tmp_path: Path) -> None:
    assert "opslib run" in index.build(tmp_path / "new", "en").read_text()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    records.write(path, "old")

    records.write(path, "half \ud800 character")
    assert path.read_text() == "half \\ud800 character"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
