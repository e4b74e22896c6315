"""Fixtures that all tests share: the real servers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opslib.lab import build, engines
from opslib.lab.api import Api
from opslib.lab.engines import real


@dataclass(frozen=True, slots=True)
class RealLab:
    """Real servers that run: `api` may do everything; `environment` is the overlay with the addresses."""

    folder: Path
    kubeconfig: Path
    environment: Path
    addresses: dict[str, str]
    api: Api

    @property
    def logs(self) -> Path:
        """Where the kubelet finds the containers' logs: ``<namespace>/<pod>/<container>.log``."""
        return self.folder / "logs"

    def kubectl(self, *words: str, context: str = "lab", check: bool = True) -> str:
        """What the real kubectl prints."""
        command = [str(build.program("kubectl")), "--kubeconfig", str(self.kubeconfig), "--context", context, *words]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert not check or answer.returncode == 0, answer.stderr
        return answer.stdout if check else answer.stdout + answer.stderr


@pytest.fixture(scope="session")
def real_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """A real API server with controllers, scheduler and four ready nodes, and nothing that runs on them."""
    yield from _lab(tmp_path_factory.mktemp("cluster"), parts=("kubernetes",), platform=False)


@pytest.fixture(scope="session")
def real_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """All the real servers, with the background platform."""
    yield from _lab(tmp_path_factory.mktemp("lab"), parts=engines.PARTS, platform=True)


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


def _lab(folder: Path, *, parts: tuple[str, ...], platform: bool) -> Iterator[RealLab]:
    _need_servers(*(name for part in parts for name in real.NEEDS[part]))
    lab = engines.up(folder, engine="real", parts=parts, platform=platform)
    try:
        yield RealLab(lab.folder, lab.kubeconfig, lab.environment, lab.addresses, Api.from_kubeconfig(lab.kubeconfig))
    finally:
        engines.down(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With xdist's ``--dist loadgroup`` all tests on real servers go to one process, which starts them once."""
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(pytest.mark.xdist_group("real"))
