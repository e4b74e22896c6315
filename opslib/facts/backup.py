"""Reads what chapter 3.2 looks at: Velero's objects in the cluster, and Elasticsearch's snapshots."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from opslib.diagnosis.backup.facts import Facts, Parameters
from opslib.errors import NotFound, SourceError
from opslib.facts import Questions
from opslib.facts.sources import Sources
from opslib.messages import _, text_of
from opslib.sources.velero import Backup, BackupStorageLocation, Restore, Schedule, VolumeCopy

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
    return Facts(
        now=datetime.now(UTC),
        environment=environment.name,
        zone=environment.zone,
        kubectl=environment.kubernetes.kubectl_options,
        elasticsearch_url=environment.elasticsearch.url if environment.elasticsearch else "",
        namespaces=namespaces.get(),
        installed=installed.get(),
        volumes=None if None in copied else tuple(one for found in copied for one in found or ()),
        **velero,
        **(snapshots.get() or {}),
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
    }
