"""A command on a terminal of its own, as a person has it before them: what it shows, and Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

# its session takes the terminal, so that Ctrl-C reaches it
PROGRAM = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from opslib.cli import main; sys.exit(main())"


class Terminal:
    """`opslib` with these words, on a terminal; `screen` is all that it has written there so far."""

    def __init__(self, *words: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.screen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "OPSLIB_LANG": "en", **environment},
        )  # fmt: skip
        os.close(slave)

    def wait_for(self, text: str, *, times: int = 1, seconds: float = 120) -> None:
        """Until it has shown a text so many times, or fail."""
        deadline = time.monotonic() + seconds
        while self.screen.count(text) < times:
            assert self._read() and time.monotonic() < deadline, self.screen

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._master, b"\x03")

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        while self._read():
            pass
        return self.process.wait(60)

    def close(self) -> None:
        """End it, however far it is."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self) -> bool:
        """Take what there is within a moment; False once nobody has the terminal open any more."""
        if select.select([self._master], [], [], 0.2)[0]:
            try:
                self.screen += os.read(self._master, 65536).decode(errors="replace")
            except OSError:
                return False
        return True


@contextmanager
def terminal(*words: str, **environment: str) -> Iterator[Terminal]:
    """`Terminal`, ended at the end of the block."""
    found = Terminal(*words, **environment)
    try:
        yield found
    finally:
        found.close()
