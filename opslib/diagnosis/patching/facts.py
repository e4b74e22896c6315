"""What the rules of chapter 3.3 look at, and how sharply. What AWS says is kept as it answers (botocore's own shapes)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from opslib.findings import Finding
from opslib.messages import Message, _
from opslib.sources.objects import DisruptionBudget
from opslib.sources.versions import minor

_TEXTS: dict[str, Message] = {
    "support_days": _("The end of a version's standard support within so many days is a warning."),
    "target_version": _("Kubernetes version to go to, such as 1.36; empty: the next one."),
    "look_for_drift": _("Look for changes made outside Terraform, which runs Terraform and takes its time."),
}


class Parameters(BaseModel):
    """What a reader may choose."""

    LABELS: ClassVar[dict[str, Message]] = _TEXTS

    model_config = ConfigDict(extra="forbid", frozen=True)

    support_days: int = Field(180, ge=1, le=1000, description=_TEXTS["support_days"].id)
    target_version: str = Field("", pattern=r"^(1\.\d{1,3})?$", description=_TEXTS["target_version"].id)
    look_for_drift: bool = Field(False, description=_TEXTS["look_for_drift"].id)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeprecatedApi:
    """An API that is asked for and will be removed, as the API server counts it (apiserver_requested_deprecated_apis)."""

    group: str
    version: str
    resource: str
    removed_release: str

    @property
    def name(self) -> str:
        """Resource, version and group, as kubectl writes them."""
        return ".".join(part for part in (self.resource, self.version, self.group) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Objects that were last written by somebody through a version of their API that a release of Kubernetes does not serve.

    Parameters
    ----------
    resource, api
        "ingresses.networking.k8s.io", "extensions/v1beta1".
    removed
        The minor number of that release.
    objects
        Namespace and name of each, by who wrote them ("kubectl-client-side-apply", "helm").
    """

    resource: str
    api: str
    removed: int
    objects: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What chapter 3.3 knows. None: could not be read (a gap says why).

    Parameters
    ----------
    server_version
        The API server's: "v1.36.3".
    kubelets
        Kubelet's version by node.
    groups
        Node group by node, where the node says it.
    budgets
        Those that allow no disruption now.
    elsewhere
        The clusters of other regions and accounts, by "region" or "region, account or role"; None where they could not be looked at.
    stored
        Custom resources with the versions in which some of their objects may be stored and which are not served any more.
    written
        Of the resources that could be read.
    addon_versions
        For the cluster's version and the target: what EKS offers of each add-on.
    drift
        Address and action of each resource that was changed outside Terraform; None, too, where it was not asked for.
    state_lock
        Terraform's words where somebody has locked its state.
    """

    now: datetime
    environment: str
    zone: tzinfo = UTC
    kubectl: tuple[str, ...] = ()
    region: str = ""
    terraform_folder: str = ""
    server_version: str | None = None
    kubelets: Mapping[str, str] | None = None
    groups: Mapping[str, str] | None = None
    budgets: tuple[DisruptionBudget, ...] | None = None
    deprecated: tuple[DeprecatedApi, ...] | None = None
    stored: Mapping[str, tuple[str, ...]] | None = None
    written: tuple[Written, ...] = ()
    cluster: Mapping[str, Any] | None = None
    elsewhere: Mapping[str, tuple[Mapping[str, Any], ...] | None] = field(default_factory=dict)
    versions: tuple[Mapping[str, Any], ...] | None = None
    addons: tuple[Mapping[str, Any], ...] | None = None
    addon_versions: Mapping[str, tuple[Mapping[str, Any], ...]] | None = None
    node_groups: tuple[Mapping[str, Any], ...] | None = None
    insights: tuple[Mapping[str, Any], ...] | None = None
    drift: tuple[tuple[str, str], ...] | None = None
    state_lock: str = ""
    gaps: tuple[Finding, ...] = ()


def control_plane(facts: Facts) -> str:
    """The control plane's minor version, "1.36", as EKS or the API server says it; empty where neither did."""
    if facts.cluster and facts.cluster.get("version"):
        return str(facts.cluster["version"])
    number = minor(facts.server_version or "")
    return "" if number is None else f"1.{number}"


def target(facts: Facts, parameters: Parameters) -> str:
    """The version to go to: one minor further, unless the reader says otherwise; empty where nothing is known."""
    if parameters.target_version:
        return parameters.target_version
    number = minor(control_plane(facts))
    return "" if number is None else f"1.{number + 1}"


def offered(facts: Facts, addon: str, kubernetes: str) -> list[Mapping[str, Any]]:
    """The versions of an add-on that EKS offers for a version of Kubernetes, as it lists them (newest first)."""
    for one in (facts.addon_versions or {}).get(kubernetes, ()):
        if one.get("addonName") == addon:
            return list(one.get("addonVersions", ()))
    return []


def ordered(version: str) -> tuple[int, ...]:
    """A version's numbers, for comparing two of one add-on: "v1.21.2-eksbuild.3" is (1, 21, 2, 3)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))
