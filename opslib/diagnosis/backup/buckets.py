"""The buckets of backups and snapshots: who may read them, what deletes from them, and whether what is lost could be had back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from opslib.diagnosis.backup.facts import Facts, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import Message, _
from opslib.sources.buckets import Bucket

_SWITCHES = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_COLD = ("GLACIER", "DEEP_ARCHIVE")
_NONE = "-"


def public(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A bucket that everybody may read, or that nothing keeps from becoming so: backups have the cluster's Secrets in them."""
    for one in facts.buckets or ():
        if one.is_public:
            yield _finding(
                facts, one, "public", Severity.CRITICAL,
                _("Everybody may read the bucket {name}: the backups in it have the cluster's Secrets", name=one.name),
                _("PolicyStatus.IsPublic is {value}", value="true"), "get-bucket-policy-status",
                _close(facts, one, _("Close it")),
            )  # fmt: skip
        elif one.public_access_block is not None and (open_ := [name for name in _SWITCHES if not one.public_access_block.get(name)]):
            yield _finding(
                facts, one, "public_access_block", Severity.WARNING,
                _("Nothing but its policy keeps the bucket {name} from being public", name=one.name),
                _("Not set: {names} (the account may block public access as a whole)", names=open_), "get-public-access-block",
                _close(facts, one, _("Block public access")),
            )  # fmt: skip


def _close(facts: Facts, one: Bucket, text: Message) -> Step:
    switches = ",".join(f"{name}=true" for name in _SWITCHES)
    where = ("--bucket", one.name, *_place(facts))
    return Step(
        text, command("aws", "s3api", "put-public-access-block", *where, "--public-access-block-configuration", switches), changes=True
    )


def versioning(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Without versions, what is deleted or overwritten, by mistake or by an attacker, is gone."""
    for one in facts.buckets or ():
        if one.versioning is not None and one.versioning != "Enabled":
            yield _finding(
                facts, one, "versioning", Severity.WARNING,
                _("The bucket {name} keeps no versions: what is deleted or overwritten there is gone", name=one.name),
                _("Versioning is {value}", value=one.versioning or _NONE), "get-bucket-versioning",
                Step(
                    _("Keep versions, and let a lifecycle rule remove old ones"),
                    command(
                        "aws", "s3api", "put-bucket-versioning", "--bucket", one.name, *_place(facts),
                        "--versioning-configuration", "Status=Enabled",
                    ),
                    changes=True,
                ),
            )  # fmt: skip


def encryption(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A bucket without default encryption."""
    for one in facts.buckets or ():
        if one.encryption is not None and not one.encryption:
            yield _finding(
                facts, one, "encryption", Severity.WARNING, _("The bucket {name} has no default encryption", name=one.name),
                _("No rule is set"), "get-bucket-encryption",
            )  # fmt: skip


def replication(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A bucket whose content is in one region, or one account, alone."""
    for one in facts.buckets or ():
        if one.replication is not None and not one.replication:
            yield _finding(
                facts, one, "replication", Severity.INFO,
                _("The bucket {name} is not replicated: the loss of its region or account takes all backups along", name=one.name),
                _("No rule is on"), "get-bucket-replication",
            )  # fmt: skip


def lifecycle(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Rules that delete what backups still need, or put it where it cannot be read at once.

    Velero removes expired backups itself, and snapshots of Elasticsearch build on files of older ones: a rule that deletes by age is wrong
    below a snapshot repository, whatever its age.
    """
    for one in facts.buckets or ():
        for rule in one.lifecycle or ():
            use = next((each for each in facts.bucket_uses.get(one.name, ()) if _meets(rule, each.prefix)), None)
            if use is None:
                continue
            name = str(rule.get("ID") or _NONE)
            days = (rule.get("Expiration") or {}).get("Days")
            if days is not None and use.repository:
                yield _finding(
                    facts, one, "lifecycle", Severity.CRITICAL,
                    _("A lifecycle rule of the bucket {name} deletes files of the snapshot repository {user} by their age: snapshots break",
                      name=one.name, user=use.user),
                    _("The rule {rule} deletes after {days} days", rule=name, days=days), "get-bucket-lifecycle-configuration",
                )  # fmt: skip
            elif days is not None and use.kept_days is not None and days < use.kept_days:
                yield _finding(
                    facts, one, "lifecycle", Severity.CRITICAL,
                    _("A lifecycle rule of the bucket {name} deletes backups before they expire", name=one.name),
                    _("The rule {rule} deletes after {days} days; backups of {user} are kept for {kept} days",
                      rule=name, days=days, user=use.user, kept=math.ceil(use.kept_days)), "get-bucket-lifecycle-configuration",
                )  # fmt: skip
            cold = [each for each in rule.get("Transitions") or () if each.get("StorageClass") in _COLD]
            if cold:
                yield _finding(
                    facts, one, "lifecycle_cold", Severity.WARNING,
                    _("A lifecycle rule of the bucket {name} archives backups: they have to be retrieved for hours before a restore",
                      name=one.name),
                    _("The rule {rule} moves them to {kind} after {days} days",
                      rule=name, kind=str(cold[0].get("StorageClass")), days=cold[0].get("Days", 0)),
                    "get-bucket-lifecycle-configuration",
                )  # fmt: skip


def object_lock(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A lock that holds files longer than backups are kept: what expires cannot be removed. Elasticsearch cannot work with one at all."""
    for one in facts.buckets or ():
        lock = one.object_lock or {}
        days = lock.get("Days") or 365 * (lock.get("Years") or 0)
        for use in facts.bucket_uses.get(one.name, ()):
            if days and (use.repository or (use.kept_days is not None and days > use.kept_days)):
                yield _finding(
                    facts, one, "object_lock", Severity.WARNING,
                    _("The bucket {name} locks files for longer than {user} keeps them: what expires cannot be removed",
                      name=one.name, user=use.user),
                    _("Files are locked for {days} days ({mode})", days=days, mode=str(lock.get("Mode") or _NONE)),
                    "get-object-lock-configuration",
                )  # fmt: skip
                break


def kept_days(ttl: str) -> float | None:
    """Days of a duration as Go writes it ("720h0m0s"); None where it is none."""
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", ttl)
    if not ttl or parts is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in parts.groups())
    return hours / 24 + minutes / 1440 + seconds / 86400


def _meets(rule: Mapping[str, Any], prefix: str) -> bool:
    """Whether a rule is about files below a prefix: its own begins so, or the other way round. One by tags is about some of them."""
    chosen = rule.get("Filter") or {}
    own = str(rule.get("Prefix") or chosen.get("Prefix") or (chosen.get("And") or {}).get("Prefix") or "")
    below = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    return own.startswith(below) or below.startswith(own)


def _finding(
    facts: Facts, bucket: Bucket, check: str, severity: Severity, title: Message, evidence: Message, question: str, *steps: Step
) -> Finding:
    return Finding(
        check=f"buckets.{check}",
        severity=severity,
        subject=Subject("Bucket", bucket.name),
        title=title,
        evidence=(Evidence(text=evidence, source="aws", reference=f"s3://{bucket.name}"),),
        steps=(Step(_("See it"), command("aws", "s3api", question, "--bucket", bucket.name, *_place(facts))), *steps),
    )


def _place(facts: Facts) -> tuple[str, ...]:
    return ("--region", facts.region) if facts.region else ()
