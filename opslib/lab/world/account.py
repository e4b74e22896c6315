"""The AWS account that the platform runs in: the names on which its cluster, its audit trail and the account itself agree.

>>> from opslib.lab.world.platform import NODES
>>> provider_id(NODES[0])[:24]
'aws:///ap-northeast-1a/i'
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from opslib.lab.world import noise
from opslib.lab.world.vulnerabilities import OLD_IMAGE

if TYPE_CHECKING:
    from opslib.lab.world.model import World
    from opslib.lab.world.platform import Node, Service

ACCOUNT, REGION = "123456789012", "ap-northeast-1"
CLUSTER = "lab"
NODE_GROUP, SPARE_NODE_GROUP = "main", "batch"
"""The nodes are of the first (`Node.group`); the second has none."""
NODE_RELEASE = "1.36.2-20260813"
"""Release of the nodes' image: their kubelets are of its Kubernetes version."""

BACKUP_BUCKET, SNAPSHOT_BUCKET, TRAIL_BUCKET = "lab-velero-backups", "lab-elasticsearch-snapshots", "lab-audit-logs"
TRAIL = "lab-audit"
CLUSTER_LOG = f"/aws/eks/{CLUSTER}/cluster"

PEOPLE = ("aoi.tanaka", "kenji.sato", "mei.suzuki", "ren.takahashi")
"""Users of IAM that are people; the cluster knows them as ``NAME@example.com``."""
DEPLOYER = "ci-deployer"
"""Role of the pipeline that pushes images, and the service account with which it rolls them out."""
OPERATOR = "operator"
"""The user whose credentials the lab gives to who asks."""
KEYS = {"operator": 1, "aoi.tanaka": 1, "kenji.sato": 1, "ci-deploy": 2, "velero": 1, "old-contractor": 1}
"""How many access keys a user has."""
OFFICE = ("203.0.113.10", "203.0.113.11")
"""Addresses of the office; of the ranges for documents, as all addresses from outside here."""
PIPELINE = "198.51.100.7"


def instance_id(node: Node) -> str:
    """The EC2 instance that a node is."""
    return f"i-0{hashlib.sha256(node.name.encode()).hexdigest()[:16]}"


def provider_id(node: Node) -> str:
    """A node's ``spec.providerID``."""
    return f"aws:///{node.zone}/{instance_id(node)}"


def kubelet_version() -> str:
    """The nodes' ``status.nodeInfo.kubeletVersion``."""
    return f"v{NODE_RELEASE.partition('-')[0]}-eks-1a2b3c4"


def access_key(user: str, number: int = 0) -> str:
    """The id of a user's access key."""
    digest = hashlib.sha256(f"{user} {number}".encode()).digest()
    return "AKIA" + "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[byte % 32] for byte in digest[:16])


def principal_id(name: str, kind: str = "AIDA") -> str:
    """IAM's own identifier of a user (AIDA) or role (AROA)."""
    return f"{kind}{noise.name_part(0, name, length=17).upper()}"


def repository(service: Service) -> str:
    """The ECR repository of a service's image."""
    return f"{service.namespace}/{service.name}"


def images(world: World) -> dict[tuple[str, str], float]:
    """The images that the company builds, as repository and tag, and when each was pushed (Unix seconds)."""
    found: dict[tuple[str, str], float] = {}
    for service in world.services:
        if service.namespace in ("shop", "payments"):
            age = 20 + 60 * noise.one(world.seed, "built", service.name)
            found[repository(service), service.version] = float(int(world.start - 86400 * age))
            if service.name == OLD_IMAGE[0]:
                found[repository(service), OLD_IMAGE[1]] = float(int(world.start - 86400 * 1400))
    for change in world.changes:
        if change.kind == "release":
            found.setdefault((f"{change.namespace}/{change.service}", change.after), change.time - 180)
    return found
