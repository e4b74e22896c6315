"""The embedded engine: servers of our own, each a Python process, which need nothing but what pip has installed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.lab.engines import background
from opslib.lab.engines.servers import Setup, Spec, alertmanager_file, prometheus_file

if TYPE_CHECKING:
    from opslib.lab.world import World

PORTS = ("kube-apiserver", "controllers", "prometheus", "alertmanager", "elasticsearch", *background.PARTS)
SERVERS = {
    "kubernetes": "kube-apiserver",
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
    "elasticsearch": "elasticsearch",
    **background.SERVERS,
}


def check(parts: Sequence[str]) -> None:
    """Raise nothing: there is nothing to build."""


def plant(setup: Setup, world: World, *, platform: bool) -> bool:
    """Write the file from which the API server starts: a cluster in which the platform has been running."""
    from opslib.lab import installation
    from opslib.lab.kube import state
    from opslib.lab.world.seed import Cluster

    applied = [*installation.permissions(), *(installation.objects(world) if platform else ())]
    cluster = Cluster(world, time.time(), setup.ports["kubelet"])
    state.write(state.path(setup.folder), cluster.objects(applied))
    return True


def specs(setup: Setup, part: str) -> Iterator[Spec]:
    """The servers of a part."""
    ports = setup.ports
    if part == "kubernetes":
        address = f"https://127.0.0.1:{ports['kube-apiserver']}/readyz"
        yield _spec(setup, "kube-apiserver", part, setup.folder, health=address)
        health = f"http://127.0.0.1:{ports['controllers']}/healthz"
        yield _spec(setup, "controllers", part, setup.folder / "kubeconfig", health=health)
    elif part == "prometheus":
        yield _spec(setup, part, part, prometheus_file(setup), health=f"http://127.0.0.1:{ports[part]}/-/ready")
    elif part == "alertmanager":
        yield _spec(setup, part, part, alertmanager_file(setup), health=f"http://127.0.0.1:{ports[part]}/-/ready")
    elif part == "elasticsearch":
        yield _spec(setup, part, part, setup.data("snapshots"), health=f"http://127.0.0.1:{ports[part]}/_cluster/health")
    else:
        yield from background.specs(setup, part)


def _spec(setup: Setup, name: str, part: str, path: Path, *, health: str) -> Spec:
    # -P: the folder in which it runs is not a place to import from
    command = (sys.executable, "-P", "-m", "opslib.lab.engines.serve", name, str(setup.ports[name]), str(path))
    return Spec(name=name, part=part, command=command, health=health)
