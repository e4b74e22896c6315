"""The memory of the lab's processes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import until

LEAVES_HOLES = """
import sys
from opslib.lab import processes

pieces = [(bytearray(100_000), bytearray(600)) for _number in range(3000)]  # none is so big that it gets a place of its own
kept = [small for _big, small in pieces]
del pieces
print("freed", flush=True)
sys.stdin.readline()
processes.give_back(0.01)
sys.stdin.readline()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim is of glibc")
def test_what_is_freed_between_pieces_in_use_is_given_back() -> None:
    command = [sys.executable, "-c", LEAVES_HOLES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def megabytes() -> float:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text("ascii").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

        assert process.stdout.readline() == "freed\n"
        assert megabytes() > 280
        process.stdin.write("\n")
        process.stdin.flush()
        until(lambda: megabytes() < 60)
        process.stdin.write("\n")
