"""Processes that the lab starts: they die with their parent, and are ended by what they are, never by a name alone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_THRIFTY = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def thrifty() -> dict[str, str]:
    """An environment in which a process gives memory back that it needs no longer (mallopt(3), of glibc; elsewhere without effect).

    Left to itself, glibc keeps big arrays in one heap for every few threads, of which it gives nothing back while the last piece is in use.
    What computes with arrays takes about a third longer with it.
    """
    return {**_THRIFTY, **os.environ}


def give_back(seconds: float = 20.0) -> None:
    """Give the system back what this process has freed, from now on and now and then (malloc_trim(3), of glibc; elsewhere nothing).

    Work with big arrays leaves hundreds of megabytes of it, between pieces that are in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is None:
        return

    def work() -> None:
        while True:
            time.sleep(seconds)
            trim(0)

    threading.Thread(target=work, name="memory", daemon=True).start()


def die_with_parent(nice: int = 0) -> Callable[[], None]:
    """A `preexec_fn` with which a child is killed when the thread that started it ends, however that ends (Linux; elsewhere nothing).

    It gives way to others by `nice`.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    libc = ctypes.CDLL(None, use_errno=True)  # loaded here: between fork and exec nothing may be allocated that can block
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)
        if nice:
            os.nice(nice)

    return prepare


def identity(pid: int) -> dict[str, Any] | None:
    """What tells a process from a later one with the same number; None where there is none (a zombie counts as none)."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return {"pid": pid, "created": process.create_time()}
    except psutil.Error:
        return None


def is_alive(known: dict[str, Any]) -> bool:
    """Whether the process that `identity` described still runs."""
    now = identity(int(known["pid"]))
    return now is not None and abs(now["created"] - float(known["created"])) < 1


def end(known: Iterable[dict[str, Any]], seconds: float = 10) -> list[dict[str, Any]]:
    """End processes that `identity` described: ask first, after `seconds` kill. The ones that still run, normally none."""
    alive = [one for one in known if is_alive(one)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for one in alive:
            try:
                os.kill(int(one["pid"]), number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + seconds
        while alive and time.monotonic() < deadline:
            time.sleep(0.05)
            alive = [one for one in alive if is_alive(one)]
        if not alive:
            break
    return alive


def memory_bytes(pid: int) -> int:
    """Resident memory; 0 where there is no such process."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a log file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16384))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-count:])
