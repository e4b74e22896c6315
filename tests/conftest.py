"""Fixtures that all tests share: labs, on real servers and on the embedded ones, one a file: what a file breaks is nobody else's.

A test with `real_cluster` or `real_lab` is about the real servers. One with `any_cluster` or `any_lab` runs on both engines: always on the
embedded one, and, marked ``real``, on the real one. What is known to differ on the embedded one is marked ``differs("why")`` and stands in
docs/lab-differences.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opslib.lab import build, engines
from opslib.lab.api import Api
from opslib.lab.engines import background, real

# those in the background cost seconds and are asked by few tests, which start them for themselves
PARTS = tuple(part for part in engines.PARTS if part not in background.PARTS)


@dataclass(frozen=True, slots=True)
class RealLab:
    """A lab that runs, on real servers or on embedded ones: `api` may do everything; `environment` is the overlay with the addresses."""

    folder: Path
    kubeconfig: Path
    environment: Path
    addresses: dict[str, str]
    api: Api
    engine: str = "real"

    @property
    def logs(self) -> Path:
        """Where the kubelet finds the containers' logs: ``<namespace>/<pod>/<container>.log``."""
        return self.folder / "logs"

    def kubectl(self, *words: str, context: str = "lab", check: bool = True) -> str:
        """What the real kubectl prints; skips where there is none, built or installed."""
        program = build.program("kubectl") if build.is_built(build.find("kubernetes")) else shutil.which("kubectl")
        if program is None:
            pytest.skip("no kubectl: `opslib lab build` builds it")
        command = [str(program), "--kubeconfig", str(self.kubeconfig), "--context", context, *words]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert not check or answer.returncode == 0, answer.stderr
        return answer.stdout if check else answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def real_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """A real API server with controllers, scheduler and six ready nodes, and nothing that runs on them."""
    yield from start_lab("real", tmp_path_factory.mktemp("cluster"), parts=("kubernetes",), platform=False)


@pytest.fixture(scope="module")
def real_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """All the real servers, with the background platform."""
    yield from start_lab("real", tmp_path_factory.mktemp("lab"), parts=PARTS, platform=True)


@pytest.fixture(scope="module")
def embedded_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """As `real_cluster`, on the embedded engine."""
    yield from start_lab("embedded", tmp_path_factory.mktemp("embedded-cluster"), parts=("kubernetes",), platform=False)


@pytest.fixture(scope="module")
def embedded_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """As `real_lab`, on the embedded engine."""
    yield from start_lab("embedded", tmp_path_factory.mktemp("embedded-lab"), parts=PARTS, platform=True)


@pytest.fixture(scope="session", params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def any_cluster(engine: str, request: pytest.FixtureRequest) -> RealLab:
    """A cluster of each engine in turn, with nothing that runs on it."""
    found: RealLab = request.getfixturevalue(f"{engine}_cluster")
    return found


@pytest.fixture(scope="module")
def any_lab(engine: str, request: pytest.FixtureRequest) -> RealLab:
    """A whole lab of each engine in turn, with the background platform."""
    found: RealLab = request.getfixturevalue(f"{engine}_lab")
    return found


@pytest.fixture(scope="session")
def need_servers() -> Callable[..., None]:
    """Skips (with OPSLIB_REQUIRE_REAL=1: fails) a test where the servers that it names have not been built; none named: all."""
    return _need_servers


def _need_servers(*names: str) -> None:
    missing = [
        server.name
        for server in build.SERVERS
        if server.name in (names or [one.name for one in build.SERVERS]) and not build.is_built(server)
    ]
    if missing:
        reason = f"not built: {', '.join(missing)}; run `opslib lab build` once"
        if os.environ.get("OPSLIB_REQUIRE_REAL") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def start_lab(engine: str, folder: Path, *, parts: tuple[str, ...], platform: bool) -> Iterator[RealLab]:
    if engine == "real":
        _need_servers(*(name for part in parts for name in real.NEEDS[part]))
    lab = engines.up(folder, engine=engine, parts=parts, platform=platform)
    try:
        yield RealLab(lab.folder, lab.kubeconfig, lab.environment, lab.addresses, Api.from_kubeconfig(lab.kubeconfig), engine)
    finally:
        engines.down(folder)


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With xdist's ``--dist loadgroup`` the tests of a file that are on one engine go to one process: they share its lab.

    What differs on the embedded engine has to fail there: a difference that is gone is taken off the list.
    """
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.xdist_group(f"real {item.path.name}"))
            continue
        names = getattr(item, "fixturenames", ())
        if any(name.startswith(("embedded_", "any_")) for name in names):
            item.add_marker(pytest.mark.xdist_group(f"embedded {item.path.name}"))
        known = item.get_closest_marker("differs")
        if known is not None and "engine" in names:
            item.add_marker(pytest.mark.xfail(reason=known.args[0], strict=True))


def pytest_runtest_setup() -> None:
    """What has not begun by $OPSLIB_TESTS_UNTIL (seconds since 1970) is skipped, and counted so: CI has a limit of its own."""
    if time.time() > float(os.environ.get("OPSLIB_TESTS_UNTIL", "inf")):
        pytest.skip("no time left: $OPSLIB_TESTS_UNTIL is over")
