"""Versions of Kubernetes and of EKS' add-ons, as far as rules and changes need to compare them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

SKEW = 3
"""How many minor versions a kubelet may trail the API server by: https://kubernetes.io/releases/version-skew-policy/"""

NODE_GROUP = "eks.amazonaws.com/nodegroup"
"""The label that EKS puts on the nodes of a managed group."""


def minor(version: str) -> int | None:
    """The minor number of "v1.36.2-eks-1a2b" or "1.36"; None where it is no version."""
    found = re.match(r"v?1\.(\d+)", version)
    return int(found[1]) if found else None


def default_of(versions: Iterable[Mapping[str, Any]], kubernetes: str) -> str:
    """Of an add-on's versions (DescribeAddonVersions) the default one for a version of Kubernetes; empty where none is marked so."""
    for one in versions:
        if any(each.get("defaultVersion") and each.get("clusterVersion") == kubernetes for each in one.get("compatibilities", ())):
            return str(one.get("addonVersion", ""))
    return ""
