"""Reads what chapter 4.2 looks at: nodes, heartbeats, pods and DaemonSets from the cluster, use from metrics; all at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from opslib.diagnosis.disk.facts import Kubelet
from opslib.diagnosis.nodes.facts import Facts, ImagedNode, Lease, Parameters, Use
from opslib.errors import NotFound, SourceError
from opslib.facts import Questions, node_history
from opslib.facts.containers import Asker
from opslib.facts.disk import kubelets
from opslib.facts.monitoring import nodes as metrics
from opslib.facts.sources import Sources
from opslib.messages import _
from opslib.sources.fitting import PlacedPod
from opslib.sources.objects import Base, Metadata, Workload
from opslib.sources.prometheus import matcher
from opslib.sources.quantities import value_of

T = TypeVar("T")

_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"  # what has ended takes no room
_LEASES = "kube-node-lease"


class NodeMetrics(Base):
    """A node's use as metrics-server has it (metrics.k8s.io)."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    usage: dict[str, str | int | float] = {}


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 4.2, from the cluster and Prometheus; use from metrics-server where Prometheus has none."""
    environment, now = sources.environment, sources.now()
    version = questions.ask(_("the API server's version"), lambda: sources.kubernetes.version())  # noqa: PLW0108 - connecting may fail, too
    nodes = questions.ask(_("nodes"), lambda: sources.kubernetes.list(ImagedNode, "nodes"))
    leases = questions.ask(_("the nodes' heartbeats"), lambda: sources.kubernetes.list(Lease, "leases.coordination.k8s.io", _LEASES))
    pods = questions.ask(_("pods"), lambda: sources.kubernetes.list(PlacedPod, "pods", fields=_RUNNING))
    agents = questions.ask(_("DaemonSets"), lambda: sources.kubernetes.list(Workload, "daemonsets.apps"))
    measured = questions.ask(_("use of the nodes"), lambda: _measured(sources, questions, now))
    past = questions.ask(_("the nodes' last hours"), lambda: node_history.read(sources, questions, parameters, now))
    use = measured.get()
    if not any(one.cpu is not None for one in (use or {}).values()):
        use = questions.ask(_("use of the nodes"), lambda: _of_metrics_server(sources)).get() or use
    beats, known = leases.get(), nodes.get()
    thresholds = _thresholds(sources, questions, [one.metadata.name for one in known or ()])
    return Facts(
        now=now,
        environment=environment.name,
        zone=environment.zone,
        kubectl=environment.kubernetes.kubectl_options,
        links=environment.links,
        server_version=version.get(),
        nodes=_tuple(known),
        leases=None if beats is None else {one.metadata.name: one.spec.renew_time for one in beats if one.spec.renew_time},
        pods=_tuple(pods.get()),
        daemonsets=_tuple(agents.get()),
        use=use,
        past=past.get(),
        thresholds=thresholds,
        gaps=questions.gaps,
    )


def _tuple(found: list[T] | None) -> tuple[T, ...] | None:
    return None if found is None else tuple(found)


def _measured(sources: Sources, questions: Questions, now: datetime) -> dict[str, Use] | None:
    """Use by node from Prometheus; None where it could not be asked."""
    asker, prometheus = Asker(sources, questions, now), sources.prometheus
    assert prometheus is not None
    known = metrics.queries()
    here = ("instance", "node")
    disks = f"{matcher('fstype', metrics.NOT_DISKS, '!~')},{matcher('mountpoint', metrics.POD_MOUNTS, '!~')}"
    size, free = f"node_filesystem_size_bytes{{{disks}}}", f"node_filesystem_avail_bytes{{{disks}}}"
    files, files_free = f"(node_filesystem_files{{{disks}}} > 0)", f"node_filesystem_files_free{{{disks}}}"
    queries = {
        "info": known["info"],
        "cpu": known["cpu_used"],
        "memory": known["memory_used"],
        "disk": (f"max by (instance, node) (1 - {free} / {size})", here),
        "inodes": (f"max by (instance, node) (1 - {files_free} / {files})", here),
        "clock": ("max by (instance, node) (node_timex_offset_seconds)", here),
        "certificate": ("min by (instance, node) (kubelet_certificate_manager_client_expiration_seconds)", here),
    }
    asked = {name: asker.ask(_("use of the nodes"), promql, ", ".join(labels)) for name, (promql, labels) in queries.items()}
    frames = {name: answer.get() for name, answer in asked.items()}
    if all(frame is None for frame in frames.values()):
        return None
    values = {name: metrics.by_node(frames["info"], frame) for name, frame in frames.items() if name != "info"}
    return {
        node: Use(
            cpu=values["cpu"].get(node),
            memory=values["memory"].get(node),
            disk=values["disk"].get(node),
            inodes=values["inodes"].get(node),
            clock=values["clock"].get(node),
            certificate=_time(values["certificate"].get(node)),
        )
        for node in sorted({node for found in values.values() for node in found})
    }


def _thresholds(sources: Sources, questions: Questions, nodes: list[str]) -> dict[str, dict[str, str]]:
    """What the kubelets evict at, where they may be asked and answer; of the others their defaults are taken, and the page says so."""
    try:
        if not nodes or not sources.kubernetes.may("get", "nodes/proxy"):
            return {}
    except SourceError:
        return {}
    wanted = nodes[: kubelets.MOST]
    answers = [questions.ask(_("the kubelet's settings"), kubelets.question(sources.kubernetes, name, summary=False)) for name in wanted]
    found = {name: answer.get() for name, answer in zip(wanted, answers, strict=True)}
    return {name: dict(one.eviction_hard) for name, one in found.items() if isinstance(one, Kubelet) and one.eviction_hard}


def _time(seconds: float | None) -> datetime | None:
    """A moment; None for what never ends (infinite) or is not known."""
    return None if seconds is None or not 0 < seconds < 1e11 else datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)


def _of_metrics_server(sources: Sources) -> dict[str, Use]:
    try:
        found = sources.kubernetes.list(NodeMetrics, "nodes.metrics.k8s.io")
    except NotFound:
        return {}
    return {one.metadata.name: Use(cpu=value_of(one.usage.get("cpu")), memory=value_of(one.usage.get("memory"))) for one in found}
