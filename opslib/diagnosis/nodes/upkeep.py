"""Nodes that were forgotten or left behind: cordoned, old, with a wrong clock, an ending certificate, or without their agents."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.nodes.facts import Facts, Parameters, cordoned_since, owner_of, subject
from opslib.diagnosis.pods.nodes import not_answering
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import _, _n
from opslib.sources.fitting import matches, tolerates
from opslib.sources.objects import Node, Pod, Toleration, Workload
from opslib.sources.versions import SKEW, minor

# Taints that the DaemonSet controller's pods tolerate of themselves (https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/).
_OWN = tuple(
    Toleration(key=f"node.kubernetes.io/{name}", operator="Exists")
    for name in ("not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure", "unschedulable", "network-unavailable")
)


def cordoned(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes that take no new pods, for so long that somebody forgot them."""
    for node in facts.nodes or ():
        if not node.spec.unschedulable:
            continue
        name, since = node.metadata.name, cordoned_since(node)
        forgotten = since is None or facts.now - since >= timedelta(hours=parameters.cordoned_hours)
        rest = sum(owner_of(pod)[0] not in ("DaemonSet", "Node") for pod in facts.on.get(name, ()))
        yield Finding(
            check="upkeep.cordoned",
            severity=Severity.WARNING if forgotten else Severity.INFO,
            subject=subject(node),
            title=_("Node {node} is cordoned: it takes no new pods", node=name),
            cause=_n(
                "Somebody took it out of service and has not put it back or away; {count} pod is left on it.",
                "Somebody took it out of service and has not put it back or away; {count} pods are left on it.",
                rest,
            ),
            evidence=(Evidence(text=_("spec.unschedulable is true"), reference=f"/api/v1/nodes/{name}", time=since),),
            since=since,
            steps=(
                Step(_("Ask who works on it; see who planned what"), f"opslib audit --env {facts.environment}"),
                Step(_("Where nobody does, put it back into service"), facts.plan("uncordon", name), changes=True),
            ),
        )


def version_skew(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Kubelets that are newer than the API server or too much older."""
    server = minor(facts.server_version or "")
    if server is None:
        return
    for node in facts.nodes or ():
        version = node.status.node_info.kubelet_version
        own = minor(version)
        if own is None or 0 <= server - own < SKEW:
            continue
        beyond = own > server or server - own > SKEW
        yield Finding(
            check="upkeep.version_skew",
            severity=Severity.CRITICAL if beyond else Severity.WARNING,
            subject=subject(node),
            title=_(
                "Node {node} runs {version} under an API server {server}",
                node=node.metadata.name,
                version=version,
                server=facts.server_version or "",
            ),
            cause=_("That is beyond what works together.")
            if beyond
            else _("It is as old as it may be: the API server cannot be upgraded before it."),
            evidence=(
                Evidence(
                    text=_("status.nodeInfo.kubeletVersion: {version}", version=version), reference=f"/api/v1/nodes/{node.metadata.name}"
                ),
            ),
            steps=(Step(_("Go on with chapter 3.3 (patching)"), f"opslib run patching --env {facts.environment}"),),
        )


def clock(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes whose clock is off."""
    for name, use in sorted((facts.use or {}).items()):
        if use.clock is None or abs(use.clock) < parameters.clock_seconds:
            continue
        yield Finding(
            check="upkeep.clock",
            severity=Severity.WARNING,
            subject=Subject("Node", name),
            title=_("The clock of node {node} is off by {seconds} s", node=name, seconds=f"{use.clock:+.1f}"),
            cause=_("Certificates and tokens seem not to be valid yet or any more there, and logs have wrong times."),
            evidence=(
                Evidence(
                    text=_("Measured: {seconds} s", seconds=f"{use.clock:+.3f}"), source="prometheus", reference="node_timex_offset_seconds"
                ),
            ),
            steps=(Step(_("Look at its time service on it (chronyc tracking), and restart that")),),
        )


def certificate(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Kubelets whose certificate ends soon: then the node is lost."""
    for name, use in sorted((facts.use or {}).items()):
        if use.certificate is None or use.certificate - facts.now > timedelta(days=parameters.certificate_days):
            continue
        days = max(0, (use.certificate - facts.now).days)
        yield Finding(
            check="upkeep.certificate",
            severity=Severity.CRITICAL if days < 1 else Severity.WARNING,
            subject=Subject("Node", name),
            title=_n(
                "The certificate of node {node}'s kubelet ends in {count} day",
                "The certificate of node {node}'s kubelet ends in {count} days",
                days,
                node=name,
            ),
            cause=_("It renews itself long before; so a renewal was asked for and not approved, or the kubelet cannot ask."),
            evidence=(
                Evidence(
                    text=_("Its end, as the kubelet says"),
                    source="prometheus",
                    time=use.certificate,
                    reference="kubelet_certificate_manager_client_expiration_seconds",
                ),
            ),
            steps=(Step(_("See whether requests wait for an approval"), facts.command("get", "certificatesigningrequests")),),
        )


def agents_missing(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes on which a pod of a DaemonSet should be and is not."""
    if facts.pods is None:
        return
    for one in facts.daemonsets or ():
        present = {
            pod.spec.node_name
            for pod in facts.pods
            if pod.metadata.namespace == one.metadata.namespace and owner_of(pod) == ("DaemonSet", one.metadata.name)
        }
        missing = [
            node for node in facts.nodes or () if _wanted(one, node) and node.metadata.name not in present and not_answering(node) is None
        ]
        if not missing:
            continue
        names = [node.metadata.name for node in missing]
        yield Finding(
            check="upkeep.agents_missing",
            severity=Severity.WARNING,
            subject=Subject("DaemonSet", one.metadata.name, one.metadata.namespace),
            title=_n(
                "DaemonSet {name} has no pod on {count} node where it should have one",
                "DaemonSet {name} has no pod on {count} nodes where it should have one",
                len(missing),
                name=one.metadata.name,
            ),
            cause=_("The node has no room for it, or the controller cannot make the pod (a quota, an admission rule)."),
            evidence=(
                Evidence(
                    text=_("Nodes without it: {nodes}", nodes=names[:10]),
                    reference=f"/apis/apps/v1/namespaces/{one.metadata.namespace}/daemonsets/{one.metadata.name}",
                ),
            ),
            affected=tuple(subject(node) for node in missing),
            steps=(Step(_("See its events"), facts.command("-n", one.metadata.namespace, "describe", "daemonset", one.metadata.name)),),
        )


def _wanted(one: Workload, node: Node) -> bool:
    template = one.spec.template
    blocking = [taint for taint in node.spec.taints if taint.effect in ("NoSchedule", "NoExecute")]
    return matches(Pod(spec=template.spec), node) and all(tolerates((*template.spec.tolerations, *_OWN), taint) for taint in blocking)
