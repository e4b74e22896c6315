"""`opslib logs`, as its user runs it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

LINES = "".join(f'{{"level":"error","service":"checkout","msg":"order {number} failed: payment declined"}}\n' for number in range(30))
TRACE = 'Traceback (most recent call last):\n  File "/app/main.py", line 3, in pay\n    pay()\nValueError: no card\n'


def logs(*arguments: str | Path, piped: str | bytes = b"", language: str = "en") -> subprocess.CompletedProcess[str]:
    """What the command says of what is piped in."""
    content = piped.encode() if isinstance(piped, str) else piped
    command = [str(Path(sys.executable).with_name("opslib")), "--lang", language, "logs", *map(str, arguments)]
    answer = subprocess.run(command, input=content, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, answer.returncode, answer.stdout.decode(), answer.stderr.decode())


def test_kinds_of_what_is_piped_in_the_most_frequent_first() -> None:
    answer = logs(piped=LINES + TRACE * 2 + "ready\n")
    assert answer.returncode == 0, answer.stderr
    first, example, writer, *rest = answer.stdout.splitlines()
    assert first.split() == ["30", "91%", "order", "<*>", "failed:", "payment", "declined"]
    assert example.strip() == "order 0 failed: payment declined"
    assert writer.strip() == "checkout"
    assert "ValueError: no card" in rest[0]
    assert rest[-1] == "33 events, 3 kinds"


def test_files_packed_or_not_and_levels(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text(LINES + '{"level":"info","msg":"served"}\n')
    (tmp_path / "app.log.1.gz").write_bytes(gzip.compress(LINES.encode()))
    answer = logs(tmp_path / "app.log", tmp_path / "app.log.1.gz", "--level", "ERROR", "--json")
    said = json.loads(answer.stdout)
    assert [(one["count"], one["labels"]) for one in said["templates"]] == [(60, {"checkout": 60})]
    assert said["events"] == 61


def test_what_is_no_text_is_counted_and_nothing_reaches_the_terminal() -> None:
    answer = logs(piped=b"\x00\x01\x02\x03\n" * 4 + b"failed \x1b]0;owned\x07\n" * 2 + b"x" * 1_000_000 + b"\nlast\n")
    assert "4 lines that are no text" in answer.stdout
    assert "\x1b" not in answer.stdout and "\x07" not in answer.stdout
    assert answer.stdout.splitlines()[-1].startswith("4 events")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "app.log.gz").write_text("not packed")
    packed = gzip.compress(LINES.encode() * 500)
    (tmp_path / "cut.log.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "damaged.log.gz").write_bytes(packed[:60] + bytes(40) + packed[100:])
    for name in ("app.log.gz", "cut.log.gz", "damaged.log.gz", "none.log"):
        answer = logs(tmp_path / name)
        assert answer.returncode == 3, answer.stderr
        assert name in answer.stderr


def test_it_speaks_japanese() -> None:
    assert logs(piped=LINES, language="ja").stdout.splitlines()[-1] == "イベント 30 件, 種類 1 件"
