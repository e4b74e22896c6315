"""Reads what chapter 3.2 looks at: Velero's objects and files, Elasticsearch's snapshots, and the buckets that hold them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from opslib.diagnosis.backup.buckets import kept_days
from opslib.diagnosis.backup.facts import Facts, Parameters, Use
from opslib.errors import NotFound, SourceError
from opslib.facts import Questions
from opslib.facts.sources import Sources
from opslib.messages import _, text_of
from opslib.sources import buckets, velero_files
from opslib.sources.elasticsearch import Elasticsearch
from opslib.sources.snapshots import Repository
from opslib.sources.velero import Backup, BackupStorageLocation, Problem, Restore, Schedule, VolumeCopy

T = TypeVar("T")

_KINDS: dict[str, tuple[type[Any], str]] = {
    "locations": (BackupStorageLocation, "backupstoragelocations.velero.io"),
    "schedules": (Schedule, "schedules.velero.io"),
    "backups": (Backup, "backups.velero.io"),
    "restores": (Restore, "restores.velero.io"),
}
_COPIES = ("podvolumebackups.velero.io", "datauploads.velero.io")


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 3.2, read from the cluster and from Elasticsearch at once."""
    environment = sources.environment
    installed = questions.ask("velero.io", lambda: sources.kubernetes.knows("velero.io"))
    lists = {name: questions.ask(resource, _list(sources, kind, resource)) for name, (kind, resource) in _KINDS.items()}
    copies = [questions.ask(resource, _list(sources, VolumeCopy, resource)) for resource in _COPIES]
    namespaces = questions.ask(_("namespaces and their volume claims"), lambda: _namespaces(sources))
    snapshots = questions.ask(_("Elasticsearch's snapshots"), lambda: _snapshots(sources, parameters, questions))
    velero: dict[str, Any] = {name: None if (found := answer.get()) is None else tuple(found) for name, answer in lists.items()}
    copied = [answer.get() for answer in copies]
    problems = _problems(sources, parameters, questions, velero)
    searched = snapshots.get() or {}
    uses = bucket_uses(velero["locations"] or (), velero["schedules"] or (), velero["backups"] or (), searched.get("repositories") or {})
    held = _buckets(sources, questions, uses)
    return Facts(
        now=datetime.now(UTC),
        environment=environment.name,
        zone=environment.zone,
        kubectl=environment.kubernetes.kubectl_options,
        elasticsearch_url=environment.elasticsearch.url if environment.elasticsearch else "",
        namespaces=namespaces.get(),
        installed=installed.get(),
        volumes=None if None in copied else tuple(one for found in copied for one in found or ()),
        problems=None if problems is None else {key: tuple(one) for key, one in problems.items()},
        region=environment.aws.region if environment.aws else "",
        bucket_uses=uses,
        buckets=held,
        **velero,
        **searched,
        gaps=questions.gaps,
    )


def _list(sources: Sources, kind: type[T], resource: str) -> Callable[[], list[T]]:
    """The question for all objects of a kind; none where the cluster does not know it."""

    def ask() -> list[T]:
        try:
            return sources.kubernetes.list(kind, resource)
        except NotFound:
            return []

    return ask


def _namespaces(sources: Sources) -> dict[str, int]:
    claims = Counter(one.metadata.namespace for one in sources.kubernetes.metadata_list("persistentvolumeclaims"))
    return {
        one.metadata.name: claims[one.metadata.name]
        for one in sources.kubernetes.metadata_list("namespaces")
        if not one.metadata.deletion_timestamp
    }


def _snapshots(sources: Sources, parameters: Parameters, questions: Questions) -> dict[str, Any]:
    """The fields of `Facts` that come from Elasticsearch."""
    elasticsearch = sources.elasticsearch
    indices = questions.ask(_("indices"), lambda: elasticsearch.indices(parameters.indices))
    written = questions.ask(_("when each index was last written"), lambda: _written(elasticsearch, parameters.indices))
    repositories = elasticsearch.repositories()
    lists = {
        name: questions.ask(_("snapshots in {name}", name=name), functools.partial(elasticsearch.snapshots, name)) for name in repositories
    }
    verified: dict[str, str] = {}
    if parameters.verify_repositories:
        for name in repositories:
            try:
                elasticsearch.verify_repository(name)
                verified[name] = ""
            except SourceError as error:
                verified[name] = text_of(error.what)
    answers = {name: answer.get() for name, answer in lists.items()}
    every = [one for found in answers.values() for one in found or ()]
    names = indices.get()
    return {
        "repositories": repositories,
        "verified": verified,
        "snapshots": None if answers and all(found is None for found in answers.values()) else tuple(every),
        "indices": None if names is None else tuple(one for one in names if not one.index.startswith(".")),
        "written": written.get() or {},
    }


def _written(elasticsearch: Elasticsearch, pattern: str) -> dict[str, tuple[datetime, datetime]]:
    """The times of each index' oldest and newest document, as Elasticsearch finds them; not of indices without the field of times."""
    time = {"field": elasticsearch.settings.time_field}
    by_index = {"by_index": {"terms": {"field": "_index", "size": 10_000}, "aggs": {"oldest": {"min": time}, "newest": {"max": time}}}}
    found = elasticsearch.search({"size": 0, "aggs": by_index}, index=pattern, what=_("when each index was last written"))
    if found.partial:
        return {}  # it may be newer than what was seen of it
    return {
        str(one["key"]): (
            datetime.fromtimestamp(one["oldest"]["value"] / 1000, UTC),
            datetime.fromtimestamp(one["newest"]["value"] / 1000, UTC),
        )
        for one in found.aggregations.get("by_index", {}).get("buckets", ())
        if one["newest"].get("value") is not None
    }


def _problems(
    sources: Sources, parameters: Parameters, questions: Questions, velero: Mapping[str, Any]
) -> dict[tuple[str, str], list[Problem]] | None:
    """What went wrong by resource in the newest backups and restores of the window that failed in part; None where they are not known.

    Those that failed as a whole say why in their status, and have no such file.
    """
    if velero["backups"] is None or velero["restores"] is None:
        return None
    since = datetime.now(UTC) - timedelta(days=parameters.window_days)
    answers = {}
    for kind, objects in (("Backup", velero["backups"]), ("Restore", velero["restores"])):
        dated = [
            (one.status.start_timestamp or one.metadata.creation_timestamp, one) for one in objects if one.status.phase == "PartiallyFailed"
        ]
        recent = sorted(((begun, one) for begun, one in dated if begun and begun >= since), key=lambda pair: pair[0], reverse=True)
        for _begun, one in recent[: parameters.described]:
            name, where = one.metadata.name, one.metadata.namespace
            ask = functools.partial(_read_problems, sources, where, kind, name)
            answers[kind, name] = questions.ask(_("the errors of {name} by resource", name=name), ask)
    found = {key: answer.get() for key, answer in answers.items()}
    return {key: one for key, one in found.items() if one is not None} if any(found.values()) or not found else None


def _read_problems(sources: Sources, namespace: str, kind: str, name: str) -> list[Problem]:
    return velero_files.results(sources.kubernetes, namespace, kind, name)


def bucket_uses(
    locations: Iterable[BackupStorageLocation],
    schedules: Iterable[Schedule],
    backups: Iterable[Backup],
    repositories: Mapping[str, Repository],
) -> dict[str, tuple[Use, ...]]:
    """What is in which bucket of AWS: storage locations of another provider, or with an address of their own (MinIO), are none of them."""
    uses: dict[str, list[Use]] = {}
    specs = [*(one.spec.template for one in schedules), *(one.spec for one in backups)]
    for one in locations:
        store = one.spec.object_storage
        if one.spec.provider.rpartition("/")[2] != "aws" or one.spec.config.get("s3Url") or not store.bucket:
            continue
        own = [each.ttl for each in specs if each.storage_location == one.metadata.name or (not each.storage_location and one.spec.default)]
        kept = [days for each in own if (days := kept_days(each or "720h")) is not None]  # Velero's own default
        uses.setdefault(store.bucket, []).append(Use(one.metadata.name, store.prefix, max(kept, default=None)))
    for name, repository in repositories.items():
        bucket = str(repository.settings.get("bucket") or "")
        if repository.type == "s3" and bucket and not repository.settings.get("endpoint"):
            uses.setdefault(bucket, []).append(Use(name, str(repository.settings.get("base_path") or ""), repository=True))
    return {name: tuple(each) for name, each in uses.items()}


def _buckets(sources: Sources, questions: Questions, uses: Mapping[str, tuple[Use, ...]]) -> tuple[buckets.Bucket, ...] | None:
    """The buckets that could be read; None where none could."""
    answers = {name: questions.ask(_("the bucket {name}", name=name), functools.partial(_bucket, sources, name)) for name in uses}
    found = [one for answer in answers.values() if (one := answer.get()) is not None]
    for one in found:
        for operation, error in one.errors.items():
            questions.failed(
                error, _("{question} of the bucket {name}", question=operation.removeprefix("get_").replace("_", " "), name=one.name)
            )
    return None if answers and not found else tuple(found)


def _bucket(sources: Sources, name: str) -> buckets.Bucket:
    return buckets.read(sources.aws, name)
