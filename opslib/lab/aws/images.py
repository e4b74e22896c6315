"""The images that the company builds, in ECR: those of the world's releases, with what a scanner found in each."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opslib.lab.world import account as names
from opslib.lab.world.vulnerabilities import UNSCANNED, Vulnerability, of_image

if TYPE_CHECKING:
    from opslib.lab.aws.server import Server
    from opslib.lab.world import World
    from opslib.lab.world.platform import Service


def push(server: Server, ecr: Any, world: World) -> None:
    """Make the repositories and images of a world that are not there yet, and note what a scanner found in them.

    Parameters
    ----------
    ecr
        A client of the account.
    """
    from moto.ecr.models import ecr_backends

    account = server.account
    held = ecr_backends[account.account_id][account.region].repositories
    services = {names.repository(service): service for service in world.services}
    for (repository, tag), pushed in names.images(world).items():
        if repository not in held:
            ecr.create_repository(
                repositoryName=repository,
                imageScanningConfiguration={"scanOnPush": repository not in UNSCANNED},
                imageTagMutability="IMMUTABLE" if repository.startswith("payments/") else "MUTABLE",
            )
        if any(tag in image.image_tags for image in held[repository].images):
            continue
        image = ecr.put_image(repositoryName=repository, imageTag=tag, imageManifest=_manifest(repository, tag))["image"]
        digest = image["imageId"]["imageDigest"]
        next(one for one in held[repository].images if one.get_image_digest() == digest).image_pushed_at = int(pushed)
        if repository not in UNSCANNED:
            account.scans[repository, digest] = _scan(services[repository], tag, pushed, account.now())


def _scan(service: Service, tag: str, pushed: float, now: datetime) -> dict[str, Any]:
    done = min(datetime.fromtimestamp(pushed + 95, UTC), now)
    return {
        "imageScanCompletedAt": done,
        "vulnerabilitySourceUpdatedAt": done,
        "findings": [_finding(one) for one in of_image(service, tag)],
    }


def _finding(one: Vulnerability) -> dict[str, Any]:
    values = {
        "package_name": one.package,
        "package_version": one.installed,
        "CVSS3_SCORE": str(one.score),
        "CVSS3_VECTOR": one.vector,
    }
    return {
        "name": one.name,
        "description": one.title,
        "uri": one.link,
        "severity": one.severity,
        "attributes": [{"key": key, "value": value} for key, value in values.items()],
    }


def _manifest(repository: str, tag: str) -> str:
    content = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 7023, "digest": _digest(repository, tag)},
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "size": 31_000_000 + len(repository) * 1_000_003,
                "digest": _digest(repository, tag, "layer"),
            }
        ],
    }
    return json.dumps(content)


def _digest(*words: str) -> str:
    return f"sha256:{hashlib.sha256(' '.join(words).encode()).hexdigest()}"
