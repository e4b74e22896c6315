"""Use of the nodes, from the node exporter's and kube-state-metrics' metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opslib.diagnosis.monitoring.facts import (
    NodeUse,
)
from opslib.sources.prometheus import matcher

if TYPE_CHECKING:
    import pandas


# Not disks: memory, images, and mounts of single pods, which repeat the node's own disk.
NOT_DISKS = "tmpfs|devtmpfs|overlay|squashfs|ramfs|iso9660|nsfs|fuse.*|proc|sysfs|cgroup.*"
POD_MOUNTS = "/(run|var/lib/kubelet/pods|var/lib/containerd|var/lib/docker)(/.*)?"


def queries() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name, query and labels; metrics of the node exporter and of kube-state-metrics."""
    disks = f"{matcher('fstype', NOT_DISKS, '!~')},{matcher('mountpoint', POD_MOUNTS, '!~')}"
    running = 'max by (namespace, pod) (kube_pod_status_phase{phase=~"Pending|Running"} == 1)'
    requests = 'kube_pod_container_resource_requests{resource="%s",node!=""}'
    requested = f"max by (namespace, pod, container, node) ({requests}) * on (namespace, pod) group_left () {running}"
    here, node = ("instance", "node"), ("node",)
    return {
        "cpu_used": ('sum by (instance, node) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[5m]))', here),
        "cpu_capacity": ('count by (instance, node) (node_cpu_seconds_total{mode="idle"})', here),
        "memory_used": ("sum by (instance, node) (node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes)", here),
        "memory_capacity": ("sum by (instance, node) (node_memory_MemTotal_bytes)", here),
        "filesystem_size": (f"max by (instance, node, mountpoint) (node_filesystem_size_bytes{{{disks}}})", (*here, "mountpoint")),
        "filesystem_avail": (f"max by (instance, node, mountpoint) (node_filesystem_avail_bytes{{{disks}}})", (*here, "mountpoint")),
        "cpu_allocatable": ('max by (node) (kube_node_status_allocatable{resource="cpu"})', node),
        "memory_allocatable": ('max by (node) (kube_node_status_allocatable{resource="memory"})', node),
        "cpu_requested": (f"sum by (node) ({requested % 'cpu'})", node),
        "memory_requested": (f"sum by (node) ({requested % 'memory'})", node),
        "info": ("max by (node, internal_ip) (kube_node_info)", ("node", "internal_ip")),
    }


def nodes(frames: Mapping[str, pandas.DataFrame | None]) -> list[NodeUse] | None:
    """One entry a node. The node exporter knows addresses, kube-state-metrics knows names and which address is whose."""
    if all(frame is None for frame in frames.values()):
        return None
    info = frames["info"]
    addresses = dict(zip(info["internal_ip"].tolist(), info["node"].tolist(), strict=True)) if info is not None else {}
    found: dict[str, dict[str, float]] = defaultdict(dict)
    disks: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, frame in frames.items():
        if frame is None or name == "info":
            continue
        for row in frame.to_dict("records"):
            host = str(row.get("instance", "")).rpartition(":")[0].strip("[]") or str(row.get("instance", ""))
            node = row.get("node") or addresses.get(host, host)
            if name.startswith("filesystem"):
                disks[node][row["mountpoint"]][name] = row["value"]
            else:
                found[node][name] = row["value"]
    return [
        NodeUse(
            name=node,
            cpu_used=values.get("cpu_used"),
            cpu_allocatable=values.get("cpu_allocatable", values.get("cpu_capacity")),
            cpu_requested=values.get("cpu_requested"),
            memory_used=values.get("memory_used"),
            memory_allocatable=values.get("memory_allocatable", values.get("memory_capacity")),
            memory_requested=values.get("memory_requested"),
            filesystems={
                mount: (pair["filesystem_size"] - pair["filesystem_avail"], pair["filesystem_size"])
                for mount, pair in sorted(disks[node].items())
                if len(pair) == 2
            },
        )
        for node, values in sorted(found.items())
    ]


def by_node(info: pandas.DataFrame | None, frame: pandas.DataFrame | None) -> dict[str, float]:
    """Values by the node's name, whatever labels the metric has: read as the use of CPU is."""
    found = nodes({"info": info, "cpu_used": frame}) or ()
    return {one.name: one.cpu_used for one in found if one.cpu_used is not None}
