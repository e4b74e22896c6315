"""What engines are made of: the servers that a lab starts, and what it starts them with.

An engine is a module of this package: `real` or `embedded`. A supervisor starts what its `specs` yield.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from opslib.lab.world import World

PARTS = ("kubernetes", "prometheus", "alertmanager", "elasticsearch", "aws", "velero")
ENGINES = ("embedded", "real")
DEFAULT_ENGINE = "embedded"
DEFAULT_SEED = 7
KEPT = "kept.json"
SERVICE_RANGE = "10.96.0.0/16"
LOOPBACK = "127.0.0.1:"
SELF_SCRAPED = ("prometheus", "alertmanager")
"""Jobs of Prometheus that have no past before the lab: the servers' own numbers."""

MANY_PODS = 1500  # with more, memory is what a lab is short of, and pages are big: scraped as often as the past has samples
_RULES = Path(__file__).parent.parent / "rules"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a lab is asked to be.

    Parameters
    ----------
    platform
        Whether there are workloads; without them the cluster has nodes and nothing else.
    seed
        The same seed gives the same platform with the same past.
    pods
        About how many pods the platform shall have; 0: as many as it has by itself.
    """

    engine: str = DEFAULT_ENGINE
    parts: tuple[str, ...] = PARTS
    platform: bool = True
    seed: int = DEFAULT_SEED
    pods: int = 0

    @classmethod
    def of(cls, text: str) -> Options:
        """The options of a text that `json.dumps(asdict(options))` made."""
        content = json.loads(text)
        return cls(**{**content, "parts": tuple(content["parts"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A server to start: its command, where it answers when it is well, and whom it waits for.

    One in the background starts when the lab is ready, takes the time that others leave, and may fail alone.
    """

    name: str
    part: str
    command: tuple[str, ...]
    health: str
    after: tuple[str, ...] = ()
    background: bool = False


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

    def specs(self, setup: Setup, part: str) -> Iterable[Spec]:
        """The servers of a part."""

    def plant(self, setup: Setup, world: World, *, platform: bool) -> bool:
        """Put nodes, permissions and the platform into the cluster before its start; False where that is to be done through its API."""


def is_kept(folder: Path) -> bool:
    """Whether the data of the lab in `folder` is kept from `down` to `up`."""
    return (folder / KEPT).is_file()


def load(name: str) -> Engine:
    """An engine by its name, of `ENGINES`."""
    if name not in ENGINES:
        raise ValueError(name)
    return cast("Engine", importlib.import_module(f"opslib.lab.engines.{name}"))


def prometheus_file(setup: Setup, *, reads: bool = False) -> Path:
    """Write Prometheus' configuration and the rules; where it is. With `reads` it asks the supervisor for the past."""
    from opslib.lab import stage

    found = stage.read(setup.folder)
    world = found[0] if found else None
    rules = setup.data("rules")
    for file in _RULES.glob("*.yaml"):
        shutil.copyfile(file, rules / file.name)
    own = [name for name in SELF_SCRAPED if name in setup.parts]
    jobs: list[dict[str, Any]] = [{"job_name": name, "static_configs": [{"targets": [_address(setup, name)]}]} for name in own]
    configuration: dict[str, Any] = {
        "global": _pace(world),
        "rule_files": [f"{rules}/*.yaml"],
        "scrape_configs": [*jobs, *(_jobs(setup, world) if "kubernetes" in setup.parts else ())],
    }
    if reads:
        configuration["remote_read"] = [{"url": f"http://{_address(setup, 'exporter')}/past", "read_recent": True}]
    if "alertmanager" in setup.parts:
        configuration["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [_address(setup, "alertmanager")]}]}]}
    (setup.folder / "data" / "past.json").unlink(missing_ok=True)  # of a lab that was kept: the supervisor writes another one
    path = setup.folder / "data" / "prometheus.yaml"
    _write_yaml(path, configuration)
    return path


def _address(setup: Setup, name: str) -> str:
    return f"{LOOPBACK}{setup.ports[name]}"


def _pace(world: World | None) -> dict[str, str]:
    """How often is scraped and evaluated. Rules about thousands of pods every five seconds would keep a processor busy all the time."""
    pods = sum(service.replicas or len(world.nodes) for service in world.services) if world else 0
    if pods > MANY_PODS:
        return {"scrape_interval": "15s", "scrape_timeout": "10s", "evaluation_interval": "30s"}
    return {"scrape_interval": "5s", "scrape_timeout": "4s", "evaluation_interval": "5s"}


def _jobs(setup: Setup, world: World | None) -> list[dict[str, Any]]:
    """What is scraped of the supervisor's exporter. Targets carry the labels that the exporters of a cluster would have."""
    from opslib.lab.world.metrics.objects import TARGET
    from opslib.lab.world.platform import NODES

    names = [node.name for node in (world.nodes if world else NODES)]
    exporter = _address(setup, "exporter")

    def job(name: str, path: str, *targets: dict[str, str]) -> dict[str, Any]:
        groups = [{"targets": [exporter], "labels": labels} for labels in targets]
        return {"job_name": name, "metrics_path": path, "honor_labels": True, "static_configs": groups}

    def each(**more: str) -> list[dict[str, str]]:
        return [{"__param_node": name, "instance": name, "node": name, **more} for name in names]

    return [
        job("kube-state-metrics", "/kube-state", {"instance": TARGET["instance"]}),
        job("kubelet", "/cadvisor", *each(metrics_path="/metrics/cadvisor")),
        job("node-exporter", "/node", *each()),
        job("pods", "/services", *({"__param_node": name, "instance": name} for name in names)),
        job("platform", "/platform", {"instance": "platform"}),
    ]


def alertmanager_file(setup: Setup) -> Path:
    """Write Alertmanager's configuration; where it is."""
    configuration = {
        "route": {"receiver": "nobody", "group_by": ["alertname", "namespace"], "group_wait": "1s", "group_interval": "5s"},
        "receivers": [{"name": "nobody"}],
    }
    path = setup.folder / "data" / "alertmanager.yaml"
    setup.data("alertmanager")
    _write_yaml(path, configuration)
    return path


def _write_yaml(path: Path, content: object) -> None:
    import yaml

    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
