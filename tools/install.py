"""Make .venv from the lock: `make install` runs this with any Python 3.11 or later. It needs nothing but the standard library.

uv does it in seconds and comes out of the lock itself, its hash checked; where it cannot be used, pip does the same more slowly.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
LOCK = PROJECT / "requirements.lock"
PYTHON = VENV / "bin" / "python"
UV = VENV / "bin" / "uv"
STAMP = VENV / ".installed"
OLDEST = (3, 11)


def main() -> int:
    """Install; the exit status."""
    if sys.version_info < OLDEST:
        return _with_newer_python()
    if not _works([str(PYTHON), "-c", "import pip"]) and not _make_venv():
        return 1
    STAMP.unlink(missing_ok=True)
    if not _uv_installs() and not _pip_installs():
        print("install: the packages of requirements.lock could not be installed; the reason stands above", file=sys.stderr)
        return 1
    STAMP.touch()
    return 0


def _with_newer_python() -> int:
    for minor in range(OLDEST[1] + 8, OLDEST[1] - 1, -1):
        newer = shutil.which("python3.%d" % minor)  # noqa: UP031 - an older Python must get as far as this
        if newer:
            os.execv(newer, [newer, *sys.argv])
    print("install: Python 3.11 or later is needed; name it: make install PYTHON=/path/to/python3", file=sys.stderr)
    return 1


def _make_venv() -> bool:
    if not _works([sys.executable, "-c", "import ensurepip, venv"]):
        # Debian keeps these two in a package of their own.
        package = f"python3.{sys.version_info.minor}-venv"
        if os.geteuid() or not shutil.which("apt-get"):
            print(f"install: Python's venv module is missing; install it: sudo apt-get install {package}", file=sys.stderr)
            return False
        if not _runs(["apt-get", "update", "-q"]) or not _runs(["apt-get", "install", "-y", "-q", package]):
            return False
    return _runs([sys.executable, "-m", "venv", "--clear", str(VENV)])


def _uv_installs() -> bool:
    if not _locked_uv():
        return False
    environment = {**os.environ, **_pip_settings()}
    # compiled now: some machines never write bytecode by themselves, and every process would compile it all again
    sync = [str(UV), "pip", "sync", "--compile-bytecode", "--python", str(PYTHON), "--require-hashes", str(LOCK)]
    return _runs(sync, environment) and _runs(
        [str(UV), "pip", "install", "--python", str(PYTHON), "--no-deps", "--no-build-isolation", "--editable", str(PROJECT)], environment
    )


def _locked_uv() -> bool:
    lines = LOCK.read_text("utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("uv=="))
    version = lines[start].split()[0].partition("==")[2]
    if UV.exists() and subprocess.run([str(UV), "--version"], capture_output=True, text=True, check=False).stdout.split()[1:2] == [version]:
        return True
    block = [lines[start]]
    for line in lines[start + 1 :]:
        if not line.startswith("    --hash"):
            break
        block.append(line)
    with tempfile.TemporaryDirectory() as folder:
        only = Path(folder) / "uv.lock"
        only.write_text("\n".join(block).rstrip("\\ ") + "\n", "utf-8")
        return _runs([str(PYTHON), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps", "-r", str(only)])


def _pip_settings() -> dict[str, str]:
    """What pip is configured to use here, in uv's own variables: uv does not read pip's files."""
    settings = {}
    for name, variable in (("index-url", "UV_DEFAULT_INDEX"), ("cert", "SSL_CERT_FILE")):
        got = subprocess.run(
            [str(PYTHON), "-m", "pip", "config", "get", f"global.{name}"], capture_output=True, text=True, check=False
        ).stdout.strip()
        if got and variable not in os.environ:
            settings[variable] = got
    return settings


def _pip_installs() -> bool:
    print("install: uv could not be used, trying pip", file=sys.stderr)
    pip = [str(PYTHON), "-m", "pip", "install"]
    return _runs([*pip, "--require-hashes", "-r", str(LOCK)]) and _runs([*pip, "--no-deps", "--no-build-isolation", "-e", str(PROJECT)])


def _works(words: list[str]) -> bool:
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _runs(words: list[str], environment: dict[str, str] | None = None) -> bool:
    return subprocess.run(words, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    raise SystemExit(main())
