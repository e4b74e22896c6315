"""S3 buckets, as far as what is kept in them depends on it: who may read it, what deletes it, and whether it could be had back.

Which permission each operation needs: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opslib.errors import Forbidden, NotFound, SourceError

if TYPE_CHECKING:
    from opslib.sources.aws import Aws

QUESTIONS: Mapping[str, tuple[str, str]] = {
    "get_bucket_versioning": ("s3:GetBucketVersioning", ""),
    "get_public_access_block": ("s3:GetBucketPublicAccessBlock", "NoSuchPublicAccessBlockConfiguration"),
    "get_bucket_policy_status": ("s3:GetBucketPolicyStatus", "NoSuchBucketPolicy"),
    "get_bucket_encryption": ("s3:GetEncryptionConfiguration", "ServerSideEncryptionConfigurationNotFoundError"),
    "get_bucket_replication": ("s3:GetReplicationConfiguration", "ReplicationConfigurationNotFoundError"),
    "get_bucket_lifecycle_configuration": ("s3:GetLifecycleConfiguration", "NoSuchLifecycleConfiguration"),
    "get_object_lock_configuration": ("s3:GetBucketObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"),
}
"""By operation: the permission that it needs, and the error that says that nothing is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket. None: could not be read; empty: nothing is set. The rest is as S3 answers.

    Parameters
    ----------
    versioning
        "Enabled", "Suspended", or empty where it never was on.
    public_access_block
        The four switches.
    is_public
        Whether its policy lets everybody in.
    encryption
        The default encryption's rules.
    replication
        The rules that are on.
    lifecycle
        The rules that are on.
    object_lock
        The default retention ("Mode", "Days" or "Years"), and "Enabled".
    """

    name: str
    versioning: str | None = None
    public_access_block: Mapping[str, bool] | None = None
    is_public: bool | None = None
    encryption: tuple[Mapping[str, Any], ...] | None = None
    replication: tuple[Mapping[str, Any], ...] | None = None
    lifecycle: tuple[Mapping[str, Any], ...] | None = None
    object_lock: Mapping[str, Any] | None = None
    errors: Mapping[str, SourceError] = field(default_factory=dict)
    """By operation, why it could not be asked."""


def read(aws: Aws, name: str) -> Bucket:
    """Everything about a bucket that these credentials may read; why the rest could not be is in `Bucket.errors`.

    Raises
    ------
    SourceError
        There is no such bucket, it is another account's, or nothing of it may be read.
    """
    owner = {"ExpectedBucketOwner": aws.settings.account} if aws.settings.account else {}
    answers: dict[str, dict[str, Any]] = {}
    errors: dict[str, SourceError] = {}
    for operation, (_permission, nothing) in QUESTIONS.items():
        try:
            answers[operation] = aws.call("s3", operation, Bucket=name, **owner)
        except SourceError as error:
            if nothing and _code(error) == nothing:
                answers[operation] = {}
            elif isinstance(error, NotFound) or not isinstance(error, Forbidden):
                raise
            else:
                errors[operation] = error
    if not answers:
        raise next(iter(errors.values()))

    def of(operation: str, *path: str, missing: Any) -> Any:
        if operation not in answers:
            return None
        value: Any = answers[operation]
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return missing if value is None else value

    replication = of("get_bucket_replication", "ReplicationConfiguration", "Rules", missing=())
    lifecycle = of("get_bucket_lifecycle_configuration", "Rules", missing=())
    encryption = of("get_bucket_encryption", "ServerSideEncryptionConfiguration", "Rules", missing=())
    lock = of("get_object_lock_configuration", "ObjectLockConfiguration", missing={})
    return Bucket(
        name=name,
        versioning=of("get_bucket_versioning", "Status", missing=""),
        public_access_block=of("get_public_access_block", "PublicAccessBlockConfiguration", missing={}),
        is_public=of("get_bucket_policy_status", "PolicyStatus", "IsPublic", missing=False),
        encryption=None if encryption is None else tuple(encryption),
        replication=None if replication is None else tuple(one for one in replication if one.get("Status") == "Enabled"),
        lifecycle=None if lifecycle is None else tuple(one for one in lifecycle if one.get("Status") == "Enabled"),
        object_lock=None if lock is None else {"Enabled": lock.get("ObjectLockEnabled") == "Enabled", **_retention(lock)} if lock else {},
        errors=errors,
    )


def _retention(lock: Mapping[str, Any]) -> dict[str, Any]:
    kept = (lock.get("Rule") or {}).get("DefaultRetention") or {}
    return {name: value for name, value in kept.items() if value}


def _code(error: SourceError) -> str:
    """AWS' own word for an error."""
    response = getattr(error.__cause__, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
