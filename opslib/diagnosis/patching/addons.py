"""EKS add-ons: are they well, do they go with the next version, are they behind."""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.patching.facts import Facts, Parameters, control_plane, offered, ordered, target
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, one_line
from opslib.sources.versions import default_of

_BAD = frozenset({"DEGRADED", "CREATE_FAILED", "UPDATE_FAILED", "DELETE_FAILED"})


def unwell(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """An add-on that EKS says is not well."""
    for one in facts.addons or ():
        issues = one.get("health", {}).get("issues", [])
        if one.get("status") in _BAD or issues:
            yield Finding(
                check="addons.unwell",
                severity=Severity.CRITICAL,
                subject=Subject("Addon", str(one["addonName"])),
                title=_("The add-on {name} is {status}", name=one["addonName"], status=one.get("status", "-")),
                cause=one_line("; ".join(str(issue.get("message", issue.get("code", ""))) for issue in issues), 300) or None,
                steps=(Step(_("See what EKS says of it"), _describe(facts, str(one["addonName"]))),),
            )


def incompatible(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """An add-on whose version does not go with the target: it has to be updated first, or with it."""
    goal = target(facts, parameters)
    if not facts.addon_versions or goal not in facts.addon_versions:
        return
    for one in facts.addons or ():
        name, version = str(one["addonName"]), str(one.get("addonVersion", ""))
        known = offered(facts, name, goal)
        if not known or any(each.get("addonVersion") == version for each in known):
            continue
        best = default_of(known, goal) or str(known[0].get("addonVersion", ""))
        yield Finding(
            check="addons.incompatible",
            severity=Severity.WARNING,
            subject=Subject("Addon", name),
            title=_("{name} {version} does not go with Kubernetes {target}", name=name, version=version, target=goal),
            evidence=(
                Evidence(
                    text=_("With {target} go {versions}", target=goal, versions=[str(each.get("addonVersion")) for each in known[:5]]),
                    source="aws",
                    reference="eks:DescribeAddonVersions",
                ),
            ),
            steps=(Step(_("Update it, after the control plane and before the node groups"), _update(facts, name, best), changes=True),),
        )


def outdated(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """An add-on that is older than the default for the version that runs."""
    version = control_plane(facts)
    for one in facts.addons or ():
        name, installed = str(one["addonName"]), str(one.get("addonVersion", ""))
        default = default_of(offered(facts, name, version), version)
        if default and ordered(installed) < ordered(default):
            yield Finding(
                check="addons.outdated",
                severity=Severity.INFO,
                subject=Subject("Addon", name),
                title=_("{name} {installed} is older than the default {default}", name=name, installed=installed, default=default),
                steps=(Step(_("Update it in a maintenance window"), _update(facts, name, default), changes=True),),
            )


def _describe(facts: Facts, addon: str) -> str:
    return command("aws", "eks", "describe-addon", *_where(facts), "--addon-name", addon)


def _update(facts: Facts, addon: str, version: str) -> str:
    return command("opslib", "plan", "addon", addon, "--version", version, "--env", facts.environment)


def _where(facts: Facts) -> list[str]:
    return [*(["--region", facts.region] if facts.region else []), "--cluster-name", str((facts.cluster or {}).get("name", "…"))]
