"""What engines are made of: the servers that a lab starts, and what it starts them with.

An engine is a module of this package: `real` or `embedded`. A supervisor starts what its `specs` yield.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import yaml

PARTS = ("kubernetes", "prometheus", "alertmanager", "elasticsearch")
ENGINES = ("embedded", "real")
DEFAULT_ENGINE = "embedded"
SERVICE_RANGE = "10.96.0.0/16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A server to start: its command, where it answers when it is well, and whom it waits for."""

    name: str
    part: str
    command: tuple[str, ...]
    health: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a lab's servers are started with.

    Parameters
    ----------
    ports
        By the name of the server.
    pki
        Certificates, keys and tokens by the name of the file; empty without Kubernetes.
    """

    folder: Path
    parts: tuple[str, ...]
    ports: Mapping[str, int]
    pki: Mapping[str, Path] = field(default_factory=dict)

    def data(self, name: str) -> Path:
        """A server's own folder."""
        place = self.folder / "data" / name
        place.mkdir(parents=True, exist_ok=True)
        return place


class Engine(Protocol):
    """What a module of an engine has: names of ports, the server by part, and its servers."""

    PORTS: tuple[str, ...]
    SERVERS: Mapping[str, str]

    def check(self, parts: Sequence[str]) -> None:
        """Raise InputError where a server of these parts cannot be started."""

    def specs(self, setup: Setup) -> Iterable[Spec]:
        """The servers of the lab's parts."""


def load(name: str) -> Engine:
    """An engine by its name, of `ENGINES`."""
    if name not in ENGINES:
        raise ValueError(name)
    return cast("Engine", importlib.import_module(f"opslib.lab.engines.{name}"))


def prometheus_file(setup: Setup) -> Path:
    """Write Prometheus' configuration and the rules; where it is."""
    from opslib.lab import metrics

    rules = setup.data("rules")
    for file in metrics.RULES.glob("*.yaml"):
        shutil.copyfile(file, rules / file.name)
    configuration = metrics.prometheus_configuration(
        exporter=f"127.0.0.1:{setup.ports['exporter']}",
        prometheus=f"127.0.0.1:{setup.ports['prometheus']}",
        alertmanager=f"127.0.0.1:{setup.ports['alertmanager']}" if "alertmanager" in setup.parts else None,
        rules=rules,
        cluster="kubernetes" in setup.parts,
    )
    path = setup.folder / "data" / "prometheus.yaml"
    path.write_text(yaml.safe_dump(configuration, sort_keys=False), "utf-8")
    return path


def alertmanager_file(setup: Setup) -> Path:
    """Write Alertmanager's configuration; where it is."""
    configuration = {
        "route": {"receiver": "nobody", "group_by": ["alertname", "namespace"], "group_wait": "1s", "group_interval": "5s"},
        "receivers": [{"name": "nobody"}],
    }
    path = setup.folder / "data" / "alertmanager.yaml"
    setup.data("alertmanager")
    path.write_text(yaml.safe_dump(configuration), "utf-8")
    return path
