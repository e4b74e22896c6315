"""The control plane's version: how long it is supported, where it can go, and what the next one no longer serves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from opslib.diagnosis.patching.facts import Facts, Parameters, control_plane, target
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, _n, one_line
from opslib.sources.versions import minor


def support(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """The end of support: standard, after which EKS costs more, and extended, after which EKS upgrades by itself."""
    step = upgrade(facts, target(facts, parameters))
    yield from _support(facts, parameters, control_plane(facts), str((facts.cluster or {}).get("name", "-")), step)
    for place, clusters in facts.elsewhere.items():
        for one in clusters or ():
            arn = str(one.get("arn") or place)
            if facts.cluster is None or arn != facts.cluster.get("arn"):
                yield from _support(facts, parameters, str(one.get("version", "")), arn, "")


def _support(facts: Facts, parameters: Parameters, version: str, name: str, step: str) -> Iterator[Finding]:
    row = next((one for one in facts.versions or () if one.get("clusterVersion") == version), None)
    if row is None:
        return
    standard, extended = _time(row.get("endOfStandardSupportDate")), _time(row.get("endOfExtendedSupportDate"))
    soon = timedelta(days=parameters.support_days)
    if extended is not None and extended - facts.now < soon:
        severity, end, title = (
            Severity.CRITICAL,
            extended,
            _("Extended support of Kubernetes {version} ends: EKS then upgrades by itself", version=version),
        )
    elif standard is not None and standard < facts.now:
        severity, end, title = (
            Severity.WARNING,
            standard,
            _("Standard support of Kubernetes {version} has ended: extended support costs extra", version=version),
        )
    elif standard is not None and standard - facts.now < soon:
        severity, end, title = Severity.WARNING, standard, _("Standard support of Kubernetes {version} ends", version=version)
    else:
        return
    yield Finding(
        check="versions.support",
        severity=severity,
        subject=Subject("Cluster", name),
        title=title,
        evidence=(Evidence(text=_("The end, as EKS says it"), source="aws", reference="eks:DescribeClusterVersions", time=end),),
        steps=(
            Step(
                _("Plan the upgrade: control plane, add-ons, node groups, one minor version at a time"),
                step,
            ),
        ),
    )


def skips(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A target that is not the next minor version: EKS goes one at a time; or one that it does not offer."""
    now, then = minor(control_plane(facts)), minor(parameters.target_version)
    if now is None or then is None:
        return
    known = {str(one.get("clusterVersion")) for one in facts.versions or ()}
    subject = Subject("Cluster", str((facts.cluster or {}).get("name", "-")))
    if then > now + 1 or then < now:
        yield Finding(
            check="versions.skips",
            severity=Severity.CRITICAL,
            subject=subject,
            title=_("Kubernetes goes from 1.{now} to 1.{next} at most, not to 1.{then}", now=now, next=now + 1, then=then),
            cause=_("EKS moves the control plane one minor version at a time, and never back"),
            steps=(Step(_("Go to the next one first"), upgrade(facts, f"1.{now + 1}")),),
        )
    elif known and parameters.target_version not in known:
        yield Finding(
            check="versions.not_offered",
            severity=Severity.CRITICAL,
            subject=subject,
            title=_("EKS does not offer Kubernetes {version}", version=parameters.target_version),
            evidence=(Evidence(text=_("It offers {versions}", versions=sorted(known)), source="aws"),),
        )


def removed_apis(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """APIs that are still called, and that the target no longer serves."""
    goal = minor(target(facts, parameters))
    for one in facts.deprecated or ():
        gone = minor(one.removed_release)
        if gone is None or goal is None:
            continue
        yield Finding(
            check="versions.removed_api",
            severity=Severity.CRITICAL if gone <= goal else Severity.INFO,
            subject=Subject("API", one.name),
            title=_("{api} is called, and is gone in Kubernetes {release}", api=one.name, release=one.removed_release),
            cause=_("Who calls it fails after the upgrade") if gone <= goal else None,
            evidence=(
                Evidence(text=_("The API server counts calls of it"), source="prometheus", reference="apiserver_requested_deprecated_apis"),
            ),
            steps=(
                Step(_("Find who calls it in the audit log, and move them to the API that follows")),
                Step(_("See what is stored of it"), command("kubectl", *facts.kubectl, "get", one.name, "-A")),
            ),
        )


def written(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Objects that somebody last wrote through an API that the target no longer serves: whoever did will fail at the next time.

    The objects themselves stay, and are read through the API that follows; no call is counted before the manifests are applied again.
    """
    goal = minor(target(facts, parameters))
    for one in facts.written:
        names = sorted({name for known in one.objects.values() for name in known})
        yield Finding(
            check="versions.written",
            severity=Severity.WARNING if goal is not None and one.removed <= goal else Severity.INFO,
            subject=Subject("API", f"{one.resource} {one.api}"),
            title=_n(
                "{count} object of {resource} was last written through {api}, which is gone in Kubernetes {release}",
                "{count} objects of {resource} were last written through {api}, which is gone in Kubernetes {release}",
                len(names),
                resource=one.resource,
                api=one.api,
                release=f"1.{one.removed}",
            ),
            cause=_("Manifests that still name it are refused when they are applied again; the objects themselves stay"),
            evidence=tuple(
                Evidence(
                    text=_("{manager} wrote {names}", manager=one_line(manager, 100), names=list(known[:10])), reference="managedFields"
                )
                for manager, known in sorted(one.objects.items())
            ),
            steps=(
                Step(
                    _("See who wrote what, and when"),
                    command("kubectl", *facts.kubectl, "get", one.resource, "-A", "--show-managed-fields", "-o", "yaml"),
                ),
                Step(_("Move the manifests of who wrote them to the API that follows, and apply them")),
            ),
            affected=tuple(Subject(one.resource, name) for name in names[:20]),
        )


def stored(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Custom resources that may still be stored in a version that is not served: an operator's upgrade that drops it is refused.

    https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/
    """
    for name, gone in sorted((facts.stored or {}).items()):
        yield Finding(
            check="versions.stored",
            severity=Severity.WARNING,
            subject=Subject("CustomResourceDefinition", name),
            title=_("{name} may be stored as {versions}, which is not served any more", name=name, versions=list(gone)),
            cause=_("The version cannot be taken out of the definition before its objects are written anew"),
            evidence=(
                Evidence(
                    text=_("status.storedVersions has {versions}", versions=list(gone)),
                    reference=f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}",
                ),
            ),
            steps=(
                Step(_("See which versions there are"), command("kubectl", *facts.kubectl, "get", "crd", name, "-o", "yaml")),
                Step(
                    _("Write every object anew, then take the version out of status.storedVersions"),
                    " | ".join(
                        command("kubectl", *facts.kubectl, *words) for words in (("get", name, "-A", "-o", "yaml"), ("replace", "-f", "-"))
                    ),
                    changes=True,
                ),
            ),
        )


def insights(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """EKS' own upgrade insights that do not pass."""
    for one in facts.insights or ():
        status = one.get("insightStatus", {})
        if status.get("status") not in ("ERROR", "WARNING"):
            continue
        resources = [str(each.get("kubernetesResourceUri") or each.get("arn") or "-") for each in one.get("resources", ())]
        yield Finding(
            check="versions.insight",
            severity=Severity.CRITICAL if status["status"] == "ERROR" else Severity.WARNING,
            subject=Subject("Insight", str(one.get("name", "-"))),
            title=_("EKS says that the upgrade to {version} would break something", version=str(one.get("kubernetesVersion", "-"))),
            cause=one_line(status.get("reason", ""), 300) or None,
            evidence=(
                Evidence(
                    text=_("The insight's words"),
                    quote=one_line(one.get("description", ""), 500),
                    source="aws",
                    reference=f"eks:DescribeInsight {one.get('id', '')}",
                ),
            ),
            steps=(Step(one_line(one.get("recommendation", ""), 300) or _("Read the insight")),),
            affected=tuple(Subject("Resource", name) for name in resources[:20]),
        )


def upgrade(facts: Facts, version: str) -> str:
    """The command that plans the control plane's upgrade: through Terraform where that manages it, which would otherwise take it back."""
    if facts.terraform_folder:
        return command("opslib", "plan", "terraform", "--env", facts.environment, "--var", f"kubernetes_version={version}")
    return command("opslib", "plan", "control-plane", "--version", version, "--env", facts.environment)


def _time(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None
