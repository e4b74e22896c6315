"""The embedded engine: servers of our own, each a Python process, which need nothing but what pip has installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from opslib.lab.engines.servers import Setup, Spec, alertmanager_file, prometheus_file

PORTS = ("kube-apiserver", "controllers", "prometheus", "alertmanager", "elasticsearch")
SERVERS = {"kubernetes": "kube-apiserver", "prometheus": "prometheus", "alertmanager": "alertmanager", "elasticsearch": "elasticsearch"}


def check(parts: Sequence[str]) -> None:
    """Raise nothing: there is nothing to build."""


def specs(setup: Setup) -> Iterator[Spec]:
    """The servers of the lab's parts."""
    ports = setup.ports
    if "kubernetes" in setup.parts:
        address = f"https://127.0.0.1:{ports['kube-apiserver']}/readyz"
        yield _spec(setup, "kube-apiserver", "kubernetes", setup.folder, health=address)
        yield _spec(
            setup,
            "controllers",
            "kubernetes",
            setup.folder / "kubeconfig",
            health=f"http://127.0.0.1:{ports['controllers']}/healthz",
        )
    if "prometheus" in setup.parts:
        yield _spec(setup, "prometheus", "prometheus", prometheus_file(setup), health=f"http://127.0.0.1:{ports['prometheus']}/-/ready")
    if "alertmanager" in setup.parts:
        yield _spec(
            setup, "alertmanager", "alertmanager", alertmanager_file(setup), health=f"http://127.0.0.1:{ports['alertmanager']}/-/ready"
        )
    if "elasticsearch" in setup.parts:
        address = f"http://127.0.0.1:{ports['elasticsearch']}/_cluster/health"
        yield _spec(setup, "elasticsearch", "elasticsearch", setup.data("snapshots"), health=address)


def _spec(setup: Setup, name: str, part: str, path: Path, *, health: str) -> Spec:
    # -P: the folder in which it runs is not a place to import from
    command = (sys.executable, "-P", "-m", "opslib.lab.engines.serve", name, str(setup.ports[name]), str(path))
    return Spec(name=name, part=part, command=command, health=health)
