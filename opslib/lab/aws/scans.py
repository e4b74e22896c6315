"""ECR's findings about images. moto answers a made-up one for every image, so this operation is ours."""

from __future__ import annotations

from collections import Counter
from typing import Any

from opslib.lab.aws.account import Account
from opslib.lab.aws.protocol import Answer, Call, Refusal, page


def describe_image_scan_findings(account: Account, call: Call) -> Answer:
    """DescribeImageScanFindings, of repositories and images that moto holds."""
    from moto.ecr.models import ecr_backends

    name, wanted = call.parameters["repositoryName"], call.parameters["imageId"]
    repository = ecr_backends[account.account_id][call.region].repositories.get(name)
    if repository is None:
        raise Refusal(
            "RepositoryNotFoundException",
            f"The repository with name '{name}' does not exist in the registry with id '{account.account_id}'",
        )
    tag, digest = wanted.get("imageTag"), wanted.get("imageDigest")
    image: Any = next(
        (one for one in repository.images if (not digest or one.get_image_digest() == digest) and (not tag or tag in one.image_tags)), None
    )
    label = f"{{imageDigest:'{digest or 'null'}', imageTag:'{tag or 'null'}'}}"
    if image is None:
        raise Refusal("ImageNotFoundException", f"The image with imageId {label} does not exist within the repository with name '{name}'")
    scan = account.scans.get((name, image.get_image_digest()))
    if scan is None:
        raise Refusal(
            "ScanNotFoundException", f"Image scan does not exist for the image with '{label}' in the repository with name '{name}'"
        )
    kind = "enhancedFindings" if "enhancedFindings" in scan else "findings"
    items, more = page(scan[kind], call.parameters, size=100)
    counts = dict(Counter(one["severity"] for one in scan[kind]))
    return {
        "registryId": account.account_id,
        "repositoryName": name,
        "imageId": {"imageDigest": image.get_image_digest(), **({"imageTag": tag} if tag else {})},
        "imageScanStatus": {"status": "COMPLETE", "description": "The scan was completed successfully."},
        "imageScanFindings": {**scan, kind: items, "findingSeverityCounts": counts},
        **more,
    }
