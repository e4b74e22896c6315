"""Fixtures of the contract: one body, two engines, and what both must answer (``expected/``, recorded from the real server)."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kube_engines
import pytest
from kube_engines import Cluster

EXPECTED = Path(__file__).with_name("expected")


@pytest.fixture(scope="session")
def _embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with kube_engines.embedded(tmp_path_factory.mktemp("embedded")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _real(tmp_path_factory: pytest.TempPathFactory, need_servers: Callable[..., None]) -> Iterator[Cluster]:
    need_servers("etcd", "kubernetes")
    with kube_engines.real(tmp_path_factory.mktemp("real")) as cluster:
        yield cluster


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Each engine in turn."""
    found: Cluster = request.getfixturevalue(f"_{request.param}")
    return found


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[Cluster, Cluster]:
    """Both engines: the real one, the embedded one."""
    return request.getfixturevalue("_real"), request.getfixturevalue("_embedded")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, with its service account there."""
    name = f"contract-{secrets.token_hex(4)}"
    assert cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}}).status == 201
    path = f"/api/v1/namespaces/{name}/serviceaccounts"
    cluster.watch(path, 1, fieldSelector="metadata.name=default", timeoutSeconds=20)
    yield name
    cluster.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubectl(cluster: Cluster) -> None:
    """Skips where there is no kubectl."""
    if kube_engines.kubectl_program() is None:
        pytest.skip("no kubectl: `opslib lab build` builds it")


@pytest.fixture
def agrees(request: pytest.FixtureRequest, cluster: Cluster) -> Callable[[str, Any], None]:
    """Compares with what the real server answered. With OPSLIB_RECORD=1 the real engine's run writes it anew."""

    def check(name: str, result: Any) -> None:
        path = EXPECTED / f"{name}.json"
        if cluster.engine == "real" and os.environ.get("OPSLIB_RECORD") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
        assert result == json.loads(path.read_text("utf-8")), f"{cluster.engine}: {name}"

    return check
