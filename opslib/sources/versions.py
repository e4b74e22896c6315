"""Versions of Kubernetes and of EKS' add-ons, as far as rules and changes need to compare them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

SKEW = 3
"""How many minor versions a kubelet may trail the API server by: https://kubernetes.io/releases/version-skew-policy/"""

REMOVED: Mapping[str, Mapping[str, int]] = {
    "cronjobs.batch": {"batch/v2alpha1": 21, "batch/v1beta1": 25},
    "horizontalpodautoscalers.autoscaling": {"autoscaling/v2beta1": 25, "autoscaling/v2beta2": 26},
    "poddisruptionbudgets.policy": {"policy/v1beta1": 25},
    "ingresses.networking.k8s.io": {"extensions/v1beta1": 22, "networking.k8s.io/v1beta1": 22},
    "servicecidrs.networking.k8s.io": {"networking.k8s.io/v1beta1": 37},
    "customresourcedefinitions.apiextensions.k8s.io": {"apiextensions.k8s.io/v1beta1": 22},
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": {"admissionregistration.k8s.io/v1beta1": 22},
    "validatingwebhookconfigurations.admissionregistration.k8s.io": {"admissionregistration.k8s.io/v1beta1": 22},
    "validatingadmissionpolicies.admissionregistration.k8s.io": {
        "admissionregistration.k8s.io/v1alpha1": 32, "admissionregistration.k8s.io/v1beta1": 34,
    },
    "validatingadmissionpolicybindings.admissionregistration.k8s.io": {
        "admissionregistration.k8s.io/v1alpha1": 32, "admissionregistration.k8s.io/v1beta1": 34,
    },
    "mutatingadmissionpolicies.admissionregistration.k8s.io": {
        "admissionregistration.k8s.io/v1alpha1": 38, "admissionregistration.k8s.io/v1beta1": 40,
    },
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io": {
        "admissionregistration.k8s.io/v1alpha1": 38, "admissionregistration.k8s.io/v1beta1": 40,
    },
    "volumeattributesclasses.storage.k8s.io": {"storage.k8s.io/v1alpha1": 35, "storage.k8s.io/v1beta1": 37},
}  # fmt: skip
"""Kinds of which people keep manifests, with the minor release of Kubernetes that no longer serves a version of them:
APILifecycleRemoved in https://github.com/kubernetes/api (v0.36), https://kubernetes.io/docs/reference/using-api/deprecation-guide/"""

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
