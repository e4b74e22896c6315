"""What EKS offers in the lab: Kubernetes versions with their support ends, and add-ons with what they fit.

The dates up to 1.35 follow Amazon's calendar (https://docs.aws.amazon.com/eks/latest/userguide/kubernetes-versions.html); later
ones, and the add-ons' versions, are of the same pattern and made up. No chapter may rest on a particular version here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Version:
    """A Kubernetes minor version. `patch` is the control plane's; `node_releases` are the node images', oldest first."""

    minor: str
    patch: str
    platform: str
    released: datetime
    standard_end: datetime
    extended_end: datetime
    node_releases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddonVersion:
    """A version of an add-on and the Kubernetes minors that it fits; `default_for` are those where it is the default."""

    version: str
    fits: tuple[str, ...]
    default_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AddonKind:
    """An add-on; its versions newest first, as `describe-addon-versions` lists them."""

    name: str
    type: str
    namespace: str
    versions: tuple[AddonVersion, ...]
    needs_role: bool = False
    owner: str = "aws"
    publisher: str = "eks"


def number(minor: str) -> int:
    """The minor's number: 36 of "1.36"; 0 of what is no version."""
    major, _, rest = minor.partition(".")
    return int(rest) if major == "1" and rest.isdigit() else 0


def versions() -> dict[str, Version]:
    """All Kubernetes versions that EKS knows, oldest first, by their minor."""
    rows = (
        ("1.31", "1.31.14", "eks.48", (2024, 9, 26), (2025, 11, 26), (2026, 11, 26), ("1.31.13-20251016", "1.31.14-20260921")),
        ("1.32", "1.32.11", "eks.41", (2025, 1, 23), (2026, 3, 23), (2027, 3, 23), ("1.32.9-20251016", "1.32.11-20260921")),
        ("1.33", "1.33.9", "eks.34", (2025, 5, 29), (2026, 7, 29), (2027, 7, 29), ("1.33.5-20251016", "1.33.9-20260921")),
        ("1.34", "1.34.7", "eks.25", (2025, 10, 2), (2026, 12, 2), (2027, 12, 2), ("1.34.2-20260114", "1.34.7-20260921")),
        ("1.35", "1.35.5", "eks.16", (2026, 1, 27), (2027, 3, 27), (2028, 3, 27), ("1.35.1-20260312", "1.35.5-20260921")),
        ("1.36", "1.36.3", "eks.8", (2026, 5, 28), (2027, 7, 28), (2028, 7, 28), ("1.36.1-20260611", "1.36.2-20260813", "1.36.3-20261105")),
        ("1.37", "1.37.1", "eks.2", (2026, 10, 6), (2027, 12, 6), (2028, 12, 6), ("1.37.1-20261105",)),
    )
    return {
        minor: Version(minor, patch, platform, _day(released), _day(standard), _day(extended), releases)
        for minor, patch, platform, released, standard, extended, releases in rows
    }


def addons() -> dict[str, AddonKind]:
    """All add-ons that EKS offers, by name."""
    all_minors = tuple(versions())
    recent = ("1.33", "1.34", "1.35", "1.36", "1.37")
    kinds = (
        AddonKind(
            "vpc-cni",
            "networking",
            "kube-system",
            (
                AddonVersion("v1.22.1-eksbuild.1", recent, ("1.37",)),
                AddonVersion("v1.21.2-eksbuild.3", all_minors, ("1.34", "1.35", "1.36")),
                AddonVersion("v1.20.4-eksbuild.2", all_minors[:-1], ("1.31", "1.32", "1.33")),
            ),
            needs_role=True,
        ),
        AddonKind(
            "coredns",
            "networking",
            "kube-system",
            (
                AddonVersion("v1.14.1-eksbuild.1", ("1.35", "1.36", "1.37"), ("1.37",)),
                AddonVersion("v1.13.2-eksbuild.4", ("1.34", "1.35", "1.36", "1.37"), ("1.36",)),
                AddonVersion("v1.12.4-eksbuild.1", ("1.32", "1.33", "1.34", "1.35", "1.36"), ("1.33", "1.34", "1.35")),
                AddonVersion("v1.11.4-eksbuild.28", ("1.31", "1.32", "1.33"), ("1.31", "1.32")),
            ),
        ),
        AddonKind(
            "kube-proxy",
            "networking",
            "kube-system",
            tuple(AddonVersion(f"v{one.patch}-eksbuild.2", (one.minor,), (one.minor,)) for one in reversed(versions().values())),
        ),
        AddonKind(
            "aws-ebs-csi-driver",
            "storage",
            "kube-system",
            (
                AddonVersion("v1.57.0-eksbuild.1", recent, ("1.36", "1.37")),
                AddonVersion("v1.53.0-eksbuild.1", all_minors[:-1], ("1.31", "1.32", "1.33", "1.34", "1.35")),
            ),
            needs_role=True,
        ),
        AddonKind("eks-pod-identity-agent", "security", "kube-system", (AddonVersion("v1.3.11-eksbuild.1", all_minors, all_minors),)),
        AddonKind(
            "metrics-server",
            "observability",
            "kube-system",
            (AddonVersion("v0.8.1-eksbuild.2", all_minors, all_minors),),
            owner="community",
            publisher="eks",
        ),
    )
    return {kind.name: kind for kind in kinds}


def _day(parts: tuple[int, int, int]) -> datetime:
    return datetime(*parts, tzinfo=UTC)
