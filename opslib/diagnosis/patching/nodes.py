"""Node groups and kubelets: are they well, how far behind, and what would hold up their roll."""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.patching.facts import Facts, Parameters, control_plane
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, _n, one_line
from opslib.sources.versions import SKEW, minor

_BAD = frozenset({"DEGRADED", "CREATE_FAILED", "DELETE_FAILED"})


def groups_unwell(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A node group that EKS says is not well: an update of it fails."""
    for one in facts.node_groups or ():
        issues = one.get("health", {}).get("issues", [])
        if one.get("status") in _BAD or issues:
            yield Finding(
                check="nodes.group_unwell",
                severity=Severity.CRITICAL,
                subject=Subject("NodeGroup", str(one["nodegroupName"])),
                title=_("The node group {name} is {status}", name=one["nodegroupName"], status=one.get("status", "-")),
                cause=one_line("; ".join(str(issue.get("message", issue.get("code", ""))) for issue in issues), 300) or None,
                steps=(Step(_("See what EKS says of it"), _aws(facts, "describe-nodegroup", str(one["nodegroupName"]))),),
            )


def groups_behind(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A node group of an older version than the control plane."""
    plane = minor(control_plane(facts))
    for one in facts.node_groups or ():
        version = minor(str(one.get("version", "")))
        if plane is None or version is None or version >= plane:
            continue
        behind = plane - version
        yield Finding(
            check="nodes.group_behind",
            severity=Severity.CRITICAL if behind > SKEW else Severity.WARNING,
            subject=Subject("NodeGroup", str(one["nodegroupName"])),
            title=_n(
                "The node group {name} is {count} minor version behind the control plane",
                "The node group {name} is {count} minor versions behind the control plane",
                behind,
                name=one["nodegroupName"],
            ),
            evidence=(
                Evidence(
                    text=_(
                        "It has 1.{version} ({release}), the control plane 1.{plane}",
                        version=version,
                        release=str(one.get("releaseVersion", "-")),
                        plane=plane,
                    ),
                    source="aws",
                    reference="eks:DescribeNodegroup",
                ),
            ),
            steps=(
                Step(
                    _("Update it, once the add-ons are done; its nodes are drained one after the other"),
                    command("opslib", "plan", "node-group", str(one["nodegroupName"]), "--env", facts.environment),
                    changes=True,
                ),
            ),
        )


def skew(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Kubelets that are too old for the API server, newer than it, or that would be too old after the upgrade."""
    plane = minor(facts.server_version or "") or minor(control_plane(facts))
    if plane is None or facts.kubelets is None:
        return
    ahead, behind, last = [], [], []
    for node, version in sorted(facts.kubelets.items()):
        number = minor(version)
        if number is None:
            continue
        if number > plane:
            ahead.append(node)
        elif plane - number > SKEW:
            behind.append(node)
        elif plane - number == SKEW:
            last.append(node)
    for nodes, check, severity, title in (
        (
            ahead,
            "nodes.ahead",
            Severity.CRITICAL,
            _n("{count} kubelet is newer than the API server", "{count} kubelets are newer than the API server", len(ahead)),
        ),
        (
            behind,
            "nodes.too_old",
            Severity.CRITICAL,
            _n("{count} kubelet is older than the API server allows", "{count} kubelets are older than the API server allows", len(behind)),
        ),
        (
            last,
            "nodes.would_be_too_old",
            Severity.WARNING,
            _n(
                "{count} kubelet would be too old after the next upgrade",
                "{count} kubelets would be too old after the next upgrade",
                len(last),
            ),
        ),
    ):
        if nodes:
            yield Finding(
                check=check,
                severity=severity,
                subject=Subject("Node", nodes[0]) if len(nodes) == 1 else Subject("Nodes", f"1.{plane}"),
                title=title,
                cause=_("A kubelet may trail the API server by {count} minor versions, and never lead", count=SKEW),
                steps=(Step(_("See the versions"), command("kubectl", *facts.kubectl, "get", "nodes")),),
                affected=tuple(Subject("Node", name) for name in nodes[:20]),
            )


def budgets(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Disruption budgets with no room: they hold up the drain of a node, and with it the update of a node group."""
    for one in facts.budgets or ():
        if one.status.disruptions_allowed or not one.status.expected_pods:
            continue
        subject = Subject("PodDisruptionBudget", one.metadata.name, one.metadata.namespace)
        yield Finding(
            check="nodes.budget",
            severity=Severity.WARNING,
            subject=subject,
            title=_("The disruption budget {name} allows nothing: a node with one of its pods cannot be drained", name=one.metadata.name),
            evidence=(
                Evidence(
                    text=_(
                        "{healthy} of {expected} pods are healthy, {wanted} must be",
                        healthy=one.status.current_healthy,
                        expected=one.status.expected_pods,
                        wanted=one.status.desired_healthy,
                    ),
                    reference=f"/apis/policy/v1/namespaces/{one.metadata.namespace}/poddisruptionbudgets/{one.metadata.name}",
                ),
            ),
            steps=(
                Step(
                    _("See which pods are missing; if all are there, the budget itself leaves no room: one more replica gives some"),
                    command("kubectl", *facts.kubectl, "-n", one.metadata.namespace, "describe", "pdb", one.metadata.name),
                ),
            ),
        )


def _aws(facts: Facts, verb: str, group: str) -> str:
    where = ["--region", facts.region] if facts.region else []
    return command("aws", "eks", verb, *where, "--cluster-name", str((facts.cluster or {}).get("name", "…")), "--nodegroup-name", group)
