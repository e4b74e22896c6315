"""Nodes: pressure, evictions, clean-up that fails, disks that cannot be written to, and how logs are rotated."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from opslib.diagnosis.disk.facts import Facts, Parameters, owner_of
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import Message, _, _n, one_line
from opslib.sources.objects import Event, Pod
from opslib.sources.quantities import text_of_bytes

CLEAN_UP = ("ImageGCFailed", "FreeDiskSpaceFailed", "ContainerGCFailed", "InvalidDiskCapacity", "EvictionThresholdMet")
"""Reasons of the kubelet's events about its disk (pkg/kubelet/events/event.go)."""

_MOST_LOGS_BYTES = 1024**3  # that one container's logs may take before that is worth a word


def pressure(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes that say DiskPressure: they evict pods and take no new ones."""
    for node in facts.nodes or ():
        describe = command("kubectl", *facts.kubectl, "describe", "node", node.metadata.name)
        for condition in node.status.conditions:
            if condition.type == "DiskPressure" and condition.status == "True":
                yield Finding(
                    check="nodes.disk_pressure",
                    severity=Severity.CRITICAL,
                    subject=Subject("Node", node.metadata.name),
                    title=_("The node {node} is short of disk", node=node.metadata.name),
                    cause=_("Its kubelet deletes images and evicts pods until there is room, and takes no new pods."),
                    evidence=(
                        Evidence(
                            text=_("The node says DiskPressure"),
                            quote=one_line(condition.message, 300),
                            reference=f"/api/v1/nodes/{node.metadata.name}",
                            time=condition.last_transition_time,
                        ),
                    ),
                    steps=(Step(_("See what the kubelet does"), describe),),
                    since=condition.last_transition_time,
                )


def readonly(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A disk that was mounted for writing and is read-only: the kernel does that after errors of the disk."""
    for one in facts.filesystems or ():
        if one.readonly:
            yield Finding(
                check="nodes.readonly",
                severity=Severity.CRITICAL if one.place.name == "/" else Severity.WARNING,
                subject=one.place.subject,
                title=_("The disk {name} can only be read", name=str(one.place)),
                cause=_("The kernel mounts a file system so after errors of the disk, unless it was meant to be so."),
                evidence=(
                    Evidence(text=_("Its mount is read-only"), source="prometheus", reference="node_filesystem_readonly"),
                    Evidence(text=_("The device"), quote=one.device, source="prometheus"),
                ),
                steps=(Step(_("Read the kernel's log there, drain the node, and replace it")),),
            )


def clean_up_failed(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """The kubelet's own words that it found no room."""
    newest: dict[tuple[str, str], Event] = {}
    for event in facts.node_events or ():
        if event.reason in CLEAN_UP and event.type == "Warning":
            key = (event.involved_object.name, event.reason)
            if key not in newest or (event.seen or facts.now) > (newest[key].seen or facts.now):
                newest[key] = event
    for (node, reason), event in sorted(newest.items()):
        yield Finding(
            check=f"nodes.{'eviction_threshold' if reason == 'EvictionThresholdMet' else 'clean_up_failed'}",
            severity=Severity.WARNING,
            subject=Subject("Node", node),
            title=_("The kubelet of {node} reclaims disk space", node=node)
            if reason == "EvictionThresholdMet"
            else _("The kubelet of {node} could not clean up its disk", node=node),
            evidence=(
                Evidence(
                    text=_("The event {reason}, {count} times", reason=reason, count=event.times),
                    quote=one_line(event.message, 400),
                    reference=f"/api/v1/namespaces/{event.metadata.namespace or 'default'}/events/{event.metadata.name}",
                    time=event.seen,
                ),
            ),
            steps=(Step(_("See below which images and containers take the room"), _images_on(facts, node)),),
            since=event.first_timestamp,
        )


def evictions(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Pods that were evicted for disk, by what ran out: the node's disk, or the pod's own limit."""
    groups: dict[tuple[str, str, str], list[Pod]] = defaultdict(list)
    for pod in facts.evicted or ():
        message = pod.status.message
        if not re.search(r"ephemeral|disk|inode|nodefs|imagefs|emptydir", message, re.IGNORECASE):
            continue  # memory is another chapter's
        own = bool(re.search(r"exceeds|exceeded", message, re.IGNORECASE))
        owner = owner_of(pod) or Subject("Pod", pod.metadata.name, pod.metadata.namespace)
        key = (owner.kind, owner.name, owner.namespace) if own else ("Node", pod.spec.node_name or "-", "")
        groups[key].append(pod)
    for (kind, name, namespace), pods in sorted(groups.items()):
        times = [when for pod in pods if (when := _ended(pod)) is not None]
        yield Finding(
            check="nodes.evicted" if kind == "Node" else "containers.evicted",
            severity=Severity.WARNING,
            subject=Subject(kind, name, namespace),
            title=_n(
                "{count} pod was evicted since its node ran short of disk",
                "{count} pods were evicted since their node ran short of disk",
                len(pods),
            )
            if kind == "Node"
            else _n(
                "{count} pod was evicted since it wrote more than it may",
                "{count} pods were evicted since they wrote more than they may",
                len(pods),
            ),
            evidence=(
                Evidence(
                    text=_("The kubelet's words"),
                    quote=one_line(pods[0].status.message, 400),
                    reference=f"/api/v1/namespaces/{pods[0].metadata.namespace}/pods/{pods[0].metadata.name}",
                    time=max(times, default=None),
                ),
            ),
            steps=(
                Step(_("See which container wrote so much; give what it keeps a volume, or raise its limit of ephemeral storage")),
                Step(
                    _("Remove the evicted pods once you have read them"),
                    command("kubectl", *facts.kubectl, "-n", pods[0].metadata.namespace, "delete", "pod",
                            *(pod.metadata.name for pod in pods[:5] if pod.metadata.namespace == pods[0].metadata.namespace)),
                    changes=True,
                ),
            ),
            affected=tuple(Subject("Pod", pod.metadata.name, pod.metadata.namespace) for pod in pods),
            since=min(times, default=None),
        )  # fmt: skip


def rotation(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Kubelets that let one container's logs grow very big. Nodes that are set up alike are one finding."""
    groups: dict[tuple[float, int], list[str]] = defaultdict(list)
    for node, kubelet in (facts.kubelets or {}).items():
        if kubelet.log_max_bytes and kubelet.log_max_files and kubelet.log_max_bytes * kubelet.log_max_files > _MOST_LOGS_BYTES:
            groups[kubelet.log_max_bytes, kubelet.log_max_files].append(node)
    for (size, files), nodes in groups.items():
        yield Finding(
            check="nodes.rotation",
            severity=Severity.WARNING,
            subject=Subject("Node", nodes[0]),
            title=_("The logs of one container may take {size}", size=text_of_bytes(size * files)),
            cause=_("Logs are rotated late: the kubelet keeps {files} files of {size} a container.", files=files, size=text_of_bytes(size)),
            evidence=(
                Evidence(
                    text=_("containerLogMaxSize and containerLogMaxFiles in the kubelet's settings"),
                    reference=f"/api/v1/nodes/{nodes[0]}/proxy/configz",
                ),
            ),
            steps=(Step(_("Lower them in the node group's kubelet settings (10Mi and 5 are the defaults)")),),
            affected=tuple(Subject("Node", node) for node in nodes),
        )


def rotation_text(size: float | None, files: int | None) -> Message | None:
    """How a kubelet rotates, in words; None where it does not say."""
    return None if size is None or files is None else _("{files} files of {size}", files=files, size=text_of_bytes(size))


def _images_on(facts: Facts, node: str) -> str:
    path = "{range .status.images[*]}{.sizeBytes}{'\\t'}{.names[-1]}{'\\n'}{end}"
    return command("kubectl", *facts.kubectl, "get", "node", node, "-o", f"jsonpath={path}")


def _ended(pod: Pod) -> datetime | None:
    times = [one.state.terminated.finished_at for one in pod.status.container_statuses if one.state.terminated]
    known = [when for when in times if when is not None]
    disruption = [one.last_transition_time for one in pod.status.conditions if one.type == "DisruptionTarget" and one.last_transition_time]
    return max([*known, *disruption], default=pod.status.start_time)
