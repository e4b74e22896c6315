"""What the comparisons of controllers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from controller_engines import Engines

    from tests.conftest import RealLab


@pytest.fixture(scope="module", params=["real API server", pytest.param("embedded", marks=pytest.mark.real)])
def engines(
    request: pytest.FixtureRequest, real_cluster: RealLab, need_servers: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engines]:
    """Our controllers, on a real API server and on the lab's own, and the real ones; each with the same nodes.

    As they run in a lab, on its own API server, they are compared with all tests on real servers; on a real one by `make test-compare`.
    """
    from controller_engines import Engine, ours

    need_servers("etcd", "kubernetes")
    theirs = Engine("theirs", real_cluster.api, real_cluster.kubeconfig)
    if request.param == "embedded":
        lab: RealLab = request.getfixturevalue("embedded_cluster")
        yield Engine("ours", lab.api, lab.kubeconfig), theirs
        return
    with ours(tmp_path_factory.mktemp("controllers")) as mine:
        yield mine, theirs
