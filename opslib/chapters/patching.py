"""Chapter 3.3: what runs, what EKS offers, what stands in the way of the next version, and in which order it is done.

Pure functions over `Facts`: findings and tables. The rules stand in `opslib.diagnosis.patching`; `opslib.facts.patching` reads the facts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from opslib.chapters.tables import NOT_READ, about, table
from opslib.diagnosis.patching import diagnose
from opslib.diagnosis.patching.facts import Facts, Parameters, control_plane, offered, ordered, target
from opslib.diagnosis.patching.versions import upgrade
from opslib.findings import Column, Finding, Severity, Table, Unit, by_severity, command
from opslib.messages import _
from opslib.sources.versions import default_of, minor

__all__ = ["NOT_READ", "REQUIRES", "Facts", "Parameters", "about", "findings"]

REQUIRES: tuple[str, ...] = ()  # what AWS cannot tell the cluster still can
READS = ("kubernetes", "aws", "prometheus")


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that the reader should know, worst first; what could not be looked at is among it."""
    return by_severity([*facts.gaps, *diagnose(facts, parameters)])


def versions_table(facts: Facts) -> Table:
    """The versions that EKS offers, with the ends of their support."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.versions is not None:
        now = control_plane(facts)
        rows = [
            (
                str(one.get("clusterVersion", "")),
                _("runs here") if one.get("clusterVersion") == now else _("default") if one.get("defaultVersion") else None,
                one.get("endOfStandardSupportDate"),
                one.get("endOfExtendedSupportDate"),
                str(one.get("versionStatus") or one.get("status") or "").lower().replace("_", " "),
            )
            for one in sorted(facts.versions, key=lambda one: -(minor(str(one.get("clusterVersion", ""))) or 0))
        ]
    return table(
        "versions",
        _("Kubernetes versions on EKS"),
        (
            Column("version", _("Version")),
            Column("here", _("Here")),
            Column("standard", _("Standard support until"), Unit.TIME),
            Column("extended", _("Extended support until"), Unit.TIME, _("It costs extra; after it EKS upgrades by itself")),
            Column("status", _("Status")),
        ),
        rows,
        _("EKS names no versions."),
    )


def elsewhere_table(facts: Facts) -> Table:
    """The EKS clusters of the other regions and accounts that the environment names."""
    ends = {str(one.get("clusterVersion")): one.get("endOfStandardSupportDate") for one in facts.versions or ()}
    rows: list[tuple[Any, ...]] = []
    for place, clusters in facts.elsewhere.items():
        if clusters is None:
            rows.append((Severity.UNKNOWN, place, None, None, _("could not be looked at"), None))
        for one in clusters or ():
            version = str(one.get("version", ""))
            end = ends.get(version)
            ended = end is not None and end < facts.now
            severity = Severity.WARNING if ended else Severity.OK if end else Severity.INFO
            rows.append((severity, place, str(one.get("name", "")), version, str(one.get("status", "")).lower(), end))
        if clusters == ():
            rows.append((Severity.OK, place, None, None, _("no cluster"), None))
    return table(
        "elsewhere",
        _("Clusters in other regions and accounts"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("place", _("Region, account")),
            Column("cluster", _("Cluster")),
            Column("version", _("Version")),
            Column("status", _("Status")),
            Column("standard", _("Standard support until"), Unit.TIME),
        ),
        rows,
        _("The environment names no other region or account (aws.also)."),
    )


def addons_table(facts: Facts, parameters: Parameters) -> Table:
    """The add-ons: installed, default for what runs, and what the target needs."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.addons is not None:
        now, goal = control_plane(facts), target(facts, parameters)
        rows = []
        for one in sorted(facts.addons, key=lambda one: str(one["addonName"])):
            name, version = str(one["addonName"]), str(one.get("addonVersion", ""))
            default = default_of(offered(facts, name, now), now)
            known = offered(facts, name, goal)
            fits = any(each.get("addonVersion") == version for each in known) if known else None
            severity = (
                Severity.WARNING if fits is False else Severity.INFO if default and ordered(version) < ordered(default) else Severity.OK
            )
            rows.append(
                (
                    severity,
                    name,
                    version,
                    str(one.get("status", "")),
                    default or None,
                    _("yes") if fits else None if fits is None else _("no"),
                    default_of(known, goal) or None,
                )
            )
    return table(
        "addons",
        _("Add-ons"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("addon", _("Add-on")),
            Column("installed", _("Installed")),
            Column("status", _("Status")),
            Column("default", _("Default now"), meaning=_("For the version that runs")),
            Column("fits", _("Goes with the target")),
            Column("then", _("Default then"), meaning=_("For the target version")),
        ),
        rows,
        _("The cluster has no EKS add-ons."),
    )


def node_groups_table(facts: Facts) -> Table:
    """Managed node groups with their versions and sizes, and how many nodes the cluster sees of each."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.node_groups is not None:
        seen = Counter((facts.groups or {}).values())
        rows = []
        for one in sorted(facts.node_groups, key=lambda one: str(one["nodegroupName"])):
            size = one.get("scalingConfig", {})
            update = one.get("updateConfig", {})
            together = update.get("maxUnavailable") or (
                f"{update['maxUnavailablePercentage']} %" if update.get("maxUnavailablePercentage") else None
            )
            rows.append(
                (
                    str(one["nodegroupName"]),
                    str(one.get("version", "")),
                    str(one.get("releaseVersion", "")),
                    str(one.get("amiType", "")),
                    ", ".join(one.get("instanceTypes", ())),
                    size.get("desiredSize"),
                    None if facts.groups is None else seen[str(one["nodegroupName"])],
                    None if together is None else str(together),
                    str(one.get("status", "")),
                )
            )
    return table(
        "node_groups",
        _("Node groups"),
        (
            Column("group", _("Node group")),
            Column("version", _("Version")),
            Column("release", _("AMI release")),
            Column("ami", _("AMI type")),
            Column("instances", _("Instance types")),
            Column("wanted", _("Wanted"), Unit.COUNT),
            Column("nodes", _("Nodes"), Unit.COUNT, _("That the cluster sees")),
            Column("together", _("Updated together"), meaning=_("How many nodes may be away at once")),
            Column("status", _("Status")),
        ),
        rows,
        _("The cluster has no managed node groups."),
    )


def kubelets_table(facts: Facts) -> Table:
    """How many nodes have which kubelet."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.kubelets is not None:
        plane = minor(facts.server_version or "") or minor(control_plane(facts))
        counts = Counter(facts.kubelets.values())
        rows = []
        for version, count in sorted(counts.items()):
            number = minor(version)
            rows.append((version, count, plane - number if plane is not None and number is not None else None))
    return table(
        "kubelets",
        _("Kubelet versions"),
        (
            Column("version", _("Version")),
            Column("nodes", _("Nodes"), Unit.COUNT),
            Column("behind", _("Minor versions behind"), Unit.COUNT, _("Three at most")),
        ),
        rows,
        _("The cluster has no nodes."),
    )


def work_table(facts: Facts, parameters: Parameters) -> Table:
    """What is done in which order: control plane, add-ons, node groups."""
    goal = target(facts, parameters)
    rows: list[tuple[Any, ...]] | None = None
    if goal:
        rows = [
            (
                1,
                _("Control plane"),
                control_plane(facts) or None,
                goal,
                upgrade(facts, goal),
            )
        ]
        for one in sorted(facts.addons or (), key=lambda one: str(one["addonName"])):
            name, version = str(one["addonName"]), str(one.get("addonVersion", ""))
            then = default_of(offered(facts, name, goal), goal)
            if then and then != version:
                how = command("opslib", "plan", "addon", name, "--version", then, "--env", facts.environment)
                rows.append((2, name, version, then, how))
        for one in sorted(facts.node_groups or (), key=lambda one: str(one["nodegroupName"])):
            name = str(one["nodegroupName"])
            how = command("opslib", "plan", "node-group", name, "--version", goal, "--env", facts.environment)
            rows.append((3, name, str(one.get("version", "")) or None, goal, how))
    return table(
        "work",
        _("Order of work"),
        (
            Column("step", _("Step"), Unit.COUNT, _("Each when all of the one before are done")),
            Column("what", _("What")),
            Column("now", _("Now")),
            Column("then", _("Then")),
            Column("how", _("How")),
        ),
        rows,
        _("There is nothing to do."),
    )
