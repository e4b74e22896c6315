"""One backup, from its validation to its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.velero import selection, times
from opslib.lab.velero.storage import Storage

DEFAULT_TTL = "720h0m0s"


@dataclass
class Outcome:
    """What a backup or restore found: messages by namespace ("" for the cluster's own)."""

    errors: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def error(self, namespace: str, text: str) -> None:
        """Note an error."""
        self.errors.setdefault(namespace, []).append(text)
        self.log.append(f'level=error msg="{text}"')

    def warn(self, namespace: str, text: str) -> None:
        """Note a warning."""
        self.warnings.setdefault(namespace, []).append(text)
        self.log.append(f'level=warning msg="{text}"')

    @property
    def error_count(self) -> int:
        """How many errors."""
        return sum(map(len, self.errors.values()))

    @property
    def warning_count(self) -> int:
        """How many warnings."""
        return sum(map(len, self.warnings.values()))

    def results(self) -> dict[str, Any]:
        """As Velero's results files have it."""
        return {name: _by_namespace(found) for name, found in (("errors", self.errors), ("warnings", self.warnings)) if found}


def problems(spec: dict[str, Any], name: str, location: Object | None, storage: Storage | None) -> list[str]:
    """Why a backup cannot begin; empty where it can."""
    found = []
    if location is None or storage is None:
        found.append(
            f"an existing backup storage location was not found: {name or 'none is named, and none is the default'}. "
            "Name one that exists, or mark one as the default"
        )
    else:
        if (location.get("status") or {}).get("phase") != "Available":
            found.append(f"backup can't be created because BackupStorageLocation {location['metadata']['name']} is in Unavailable status.")
        if storage.read_only:
            found.append(
                f"backup can't be created because backup storage location {location['metadata']['name']} is currently in read-only mode"
            )
    for one in ("Namespaces", "Resources"):
        both = set(spec.get(f"included{one}") or []) & set(spec.get(f"excluded{one}") or [])
        found += [
            f"Invalid included/excluded {one.lower()} lists: excludes list cannot contain an item in the includes list: {item}"
            for item in sorted(both)
        ]
        if "*" in (spec.get(f"excluded{one}") or []):
            found.append(f"Invalid included/excluded {one.lower()} lists: excludes list cannot contain '*'")
    if spec.get("labelSelector") and spec.get("orLabelSelectors"):
        found.append("encountered labelSelector as well as orLabelSelectors in backup spec, only one can be specified")
    try:
        times.duration(spec.get("ttl") or DEFAULT_TTL)
    except ValueError as error:
        found.append(f"invalid ttl: {error}")
    return found


def expiration(spec: dict[str, Any], start: datetime) -> datetime:
    """When a backup that starts then is removed."""
    return start + times.duration(spec.get("ttl") or DEFAULT_TTL)


def collect(api: Api, spec: dict[str, Any]) -> tuple[list[tuple[str, Object]], Outcome]:
    """The objects that a backup takes, each with its resource's name, in the order in which they are written.

    A claim brings its volume, a namespace its own object. What cannot be listed is an error of the outcome, not the end.
    """
    outcome = Outcome()
    known, unasked = selection.resources(api)
    for text in unasked:
        outcome.warn("", text)
    existing = {one["metadata"]["name"]: one for one in api.list("/api/v1/namespaces")}
    taken = selection.namespaces(spec, sorted(existing))
    for name in spec.get("includedNamespaces") or []:
        if "*" not in name and name not in existing:
            outcome.warn(name, f"namespace {name} was named by the backup and does not exist")
    found: list[tuple[str, Object]] = []
    for resource, objects in selection.listed(api, spec, known, taken):
        if isinstance(objects, str):
            outcome.error("", objects)
            continue
        found += [(resource.name, obj) for obj in objects]
    used = {obj["metadata"]["namespace"] for _, obj in found if obj["metadata"].get("namespace")}
    if selection.includes(frozenset({"namespaces", "namespace", "ns"}), [], spec.get("excludedResources") or []):
        everything = selection.takes_all_namespaces(spec) and not spec.get("labelSelector") and not spec.get("orLabelSelectors")
        spaces = [existing[name] for name in taken if everything or name in used or name in (spec.get("includedNamespaces") or [])]
        found = [("namespaces", one) for one in spaces] + found
    if spec.get("includeClusterResources") is not False:
        found += _volumes(api, found, outcome)
    for _, obj in found:
        obj["metadata"].pop("managedFields", None)
    return found, outcome


def _volumes(api: Api, found: list[tuple[str, Object]], outcome: Outcome) -> list[tuple[str, Object]]:
    have = {obj["metadata"]["name"] for resource, obj in found if resource == "persistentvolumes"}
    more: list[tuple[str, Object]] = []
    for resource, obj in found:
        volume = (obj.get("spec") or {}).get("volumeName")
        if resource != "persistentvolumeclaims" or not volume or volume in have:
            continue
        namespace, name = obj["metadata"]["namespace"], obj["metadata"]["name"]
        try:
            more.append(("persistentvolumes", api.get(f"/api/v1/persistentvolumes/{volume}")))
            have.add(volume)
        except ApiError as error:
            outcome.error(
                namespace, f"error backing up persistentvolumeclaims {namespace}/{name}: error getting its volume: {error.server_message}"
            )
    return more


def follow(
    items: list[tuple[str, Object]], progress: Callable[[int, int], None], wait: Callable[[], bool], outcome: Outcome
) -> list[tuple[str, Object]]:
    """The items, one after the other as they are written; tells `progress` (done, of how many), stops when `wait` says so."""
    done: list[tuple[str, Object]] = []
    for number, (resource, obj) in enumerate(items, 1):
        where = "/".join(filter(None, (obj["metadata"].get("namespace"), obj["metadata"]["name"])))
        outcome.log.append(
            f'level=info msg="Backed up {number} items out of an estimated total of {len(items)}" name={where} resource={resource}'
        )
        done.append((resource, obj))
        progress(number, len(items))
        if wait():
            break
    return done


def resource_list(items: list[tuple[str, Object]]) -> dict[str, list[str]]:
    """What is in a backup, by group, version and kind, as ``velero backup describe --details`` shows it."""
    found: dict[str, list[str]] = {}
    for _, obj in items:
        where = "/".join(filter(None, (obj["metadata"].get("namespace"), obj["metadata"]["name"])))
        found.setdefault(f"{obj['apiVersion']}/{obj['kind']}", []).append(where)
    return {kind: sorted(names) for kind, names in sorted(found.items())}


def _by_namespace(found: dict[str, list[str]]) -> dict[str, Any]:
    own = {name: texts for name, texts in found.items() if name}
    return {**({"cluster": found[""]} if found.get("") else {}), **({"namespaces": own} if own else {})}


def overdue(backup: Object, now: datetime) -> bool:
    """Whether a backup's time is over."""
    text = (backup.get("status") or {}).get("expiration")
    return isinstance(text, str) and times.parse(text) < now
