"""The log of actions: nothing in it can be changed or lost without its showing."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from opslib.actions.audit import Log
from opslib.errors import InputError, OpsError


def filled(path: Path, count: int = 5) -> Log:
    log = Log(path / "audit.jsonl")
    for number in range(count):
        log.append("step.done", f"plan{number % 2}", "瞳", step=number)
    return log


def test_what_was_written_is_read(tmp_path: Path) -> None:
    log = filled(tmp_path)
    records, broken = log.verify()
    assert broken is None
    assert [one.number for one in records] == [1, 2, 3, 4, 5]
    assert [one.data["step"] for one in log.of("plan1")] == [1, 3]
    assert all(one.who == "瞳" and one.time.tzinfo is not None for one in records)


@pytest.mark.parametrize("place", range(5))
def test_a_changed_line_shows(tmp_path: Path, place: int) -> None:
    log = filled(tmp_path)
    lines = log.path.read_text("utf-8").splitlines()
    content = json.loads(lines[place])
    content["who"] = "somebody else"
    lines[place] = json.dumps(content)
    log.path.write_text("\n".join(lines) + "\n", "utf-8")
    records, broken = log.verify()
    assert len(records) == place
    assert broken is not None and str(place + 1) in broken.text("en")
    with pytest.raises(InputError):
        log.records()


@pytest.mark.parametrize("place", range(4))
def test_a_line_that_was_taken_out_shows(tmp_path: Path, place: int) -> None:
    log = filled(tmp_path)
    lines = log.path.read_text("utf-8").splitlines()
    del lines[place]
    log.path.write_text("\n".join(lines) + "\n", "utf-8")
    assert log.verify()[1] is not None


def test_a_line_made_up_anew_shows(tmp_path: Path) -> None:
    """With a right hash of its own even, since the next line knows the old one."""
    log, other = filled(tmp_path), Log(tmp_path / "other.jsonl")
    for number in range(2):
        other.append("step.done", "plan0", "瞳", step=number + 100)
    lines = log.path.read_text("utf-8").splitlines()
    lines[0] = other.path.read_text("utf-8").splitlines()[0]
    log.path.write_text("\n".join(lines) + "\n", "utf-8")
    assert log.verify()[1] is not None


@pytest.mark.parametrize("torn", [b"{", b'{"number": 6, "ev', b"\xff\xfe", "途".encode()[:2]])
def test_a_line_that_a_killed_writer_left_is_no_end(tmp_path: Path, torn: bytes) -> None:
    log = filled(tmp_path)
    with log.path.open("ab") as file:
        file.write(torn)
    assert log.verify()[1] is None
    log.append("finished", "plan0", "瞳")
    log.append("planned", "plan3", "瞳")
    records, broken = log.verify()
    assert broken is None
    assert [one.number for one in records] == [1, 2, 3, 4, 5, 6, 7]
    assert torn in log.path.read_bytes()


@pytest.mark.parametrize("torn", [b"", b"{" * 100_000], ids=["", "torn"])
def test_a_long_log_is_not_read_for_every_line(tmp_path: Path, torn: bytes) -> None:
    """However long its last lines are; the chain is the same as if it had been read."""
    log = Log(tmp_path / "audit.jsonl")
    for number in range(20):
        log.append("step.done", "plan", "瞳", step=number, more="x" * 200_000)
    with log.path.open("ab") as file:
        file.write(torn)
    before = _read_so_far()
    log.append("finished", "plan", "瞳")
    assert _read_so_far() - before < 2_000_000 < log.path.stat().st_size
    records, broken = log.verify()
    assert broken is None
    assert [one.number for one in records] == [*range(1, 22)]


def _read_so_far() -> int:
    """Bytes that this process has read of files."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def _write(path: Path, count: int) -> None:
    log = Log(path)
    for number in range(count):
        log.append("step.done", "plan", "瞳", step=number)


def test_writers_at_once_make_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path / "audit.jsonl", 20)) for _number in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    records, broken = Log(tmp_path / "audit.jsonl").verify()
    assert broken is None
    assert len(records) == 80


def test_where_nothing_can_be_written_nothing_is_done(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    with pytest.raises(OpsError, match=r"nothing is done|何も"):
        Log(tmp_path / "audit.jsonl").append("started", "plan", "瞳")
