"""Snapshots of indices as files in a repository's folder, and their way back.

A repository has ``index-N``, the list of its snapshots, and a folder a snapshot with a file an index. The files are this project's own, not
Lucene's: what counts is that they are really there, can be missing or damaged, and that a restore reads them.
"""

from __future__ import annotations

import fnmatch
import json
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from opslib.lab.elasticsearch import dates
from opslib.lab.elasticsearch.cluster import Cluster
from opslib.lab.elasticsearch.errors import Refused
from opslib.lab.elasticsearch.index import Index
from opslib.lab.elasticsearch.mapping import Mapping as FieldMapping

_VERSION = {"version_id": 136407927, "version": "2.19.1"}


# --- repositories ---


def put_repository(cluster: Cluster, name: str, body: Mapping[str, Any], *, verify: bool = True) -> None:
    """Register a folder as a repository.

    Raises
    ------
    Refused
        Another type than fs, or a folder that is not below path.repo, or cannot be written to.
    """
    kind = body.get("type")
    if kind != "fs":
        raise Refused(500, "repository_exception", f"[{name}] repository type [{kind}] does not exist")
    location = str((body.get("settings") or {}).get("location", ""))
    cause = ""
    if not location:
        cause = f"[{name}] missing location"
    elif cluster.repositories is None:
        cause = f"[{name}] location [{location}] doesn't match any of the locations specified by path.repo because this setting is empty"
    elif not _folder(cluster, location).is_relative_to(cluster.repositories.resolve()):
        cause = f"[{name}] location [{location}] doesn't match any of the locations specified by path.repo"
    if cause:
        inner = {"type": "repository_exception", "reason": cause}
        raise RepositoryRefused(name, inner)
    cluster.snapshots[name] = {"type": "fs", "settings": {key: str(value) for key, value in body["settings"].items()}}
    if verify:
        verify_repository(cluster, name)


class RepositoryRefused(Refused):
    """A repository that could not be made: the cause stands below."""

    def __init__(self, name: str, cause: dict[str, Any]) -> None:
        super().__init__(500, "repository_exception", f"[{name}] failed to create repository", caused_by=cause)
        self.cause = cause

    def content(self) -> dict[str, Any]:
        """The answer's body."""
        return {"error": {"root_cause": [self.cause], "type": self.kind, "reason": self.reason, **self.more}, "status": self.status}


def repository(cluster: Cluster, name: str) -> Path:
    """The folder of a repository.

    Raises
    ------
    Refused
        There is none of that name.
    """
    known = cluster.snapshots.get(name)
    if known is None:
        raise Refused(404, "repository_missing_exception", f"[{name}] missing")
    return _folder(cluster, known["settings"]["location"])


def _folder(cluster: Cluster, location: str) -> Path:
    return ((cluster.repositories or Path("/nonexistent")) / location).resolve()


def verify_repository(cluster: Cluster, name: str) -> dict[str, Any]:
    """Write to a repository's folder and read it back; the nodes that could."""
    folder = repository(cluster, name)
    probe = folder / f"tests-{secrets.token_hex(8)}"
    try:
        probe.mkdir(parents=True)
        (probe / "master.dat").write_bytes(b"probe")
        (probe / "master.dat").read_bytes()
        shutil.rmtree(probe)
    except OSError as error:
        reason = f"[{name}] path  is not accessible on cluster-manager node"
        cause = {"type": "i_o_exception", "reason": f"{error.strerror}: {folder}"}
        raise Refused(500, "repository_verification_exception", reason, caused_by=cause) from error
    return {"nodes": {cluster.uuid: {"name": cluster.node}}}


def _listed(folder: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads((folder / "index-0").read_text("utf-8"))
    except FileNotFoundError:
        return []
    return list(content["snapshots"])


def _list(folder: Path, snapshots: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "index-0.new"
    temporary.write_text(json.dumps({"snapshots": snapshots}, indent=1), "utf-8")
    temporary.replace(folder / "index-0")


# --- snapshots ---


def create(cluster: Cluster, repository_name: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Take a snapshot, whole before this returns; what the answer says of it.

    Raises
    ------
    Refused
        The repository or an index does not exist, or the name is taken or not valid.
    """
    folder = repository(cluster, repository_name)
    known = _listed(folder)
    reason = ""
    if any(item["snapshot"] == name for item in known):
        reason = f"Invalid snapshot name [{name}], snapshot with the same name already exists"
    elif name != name.lower():
        reason = f"Invalid snapshot name [{name}], must be lowercase"
    elif name.startswith("_"):
        reason = f"Invalid snapshot name [{name}], must not start with '_'"
    elif re.search(r'[ "*\\<|,>/?#]', name):
        char = re.search(r'[ "*\\<|,>/?#]', name)
        reason = f"Invalid snapshot name [{name}], must not contain '{char[0] if char else ''}'"
    if reason:
        raise Refused(400, "invalid_snapshot_name_exception", f"[{repository_name}:{name}] {reason}")
    given = body.get("indices") or "_all"
    expression = ",".join(given) if isinstance(given, list) else str(given)
    from opslib.lab.elasticsearch.cluster import Missing

    indices = cluster.resolve(expression, Missing(ignore=bool(body.get("ignore_unavailable"))))
    started = int(time.time() * 1000)
    uuid = secrets.token_urlsafe(16)
    failures = []
    for index in indices:
        try:
            _save(folder / uuid, index)
        except OSError as error:
            failures.append(
                {"index": index.name, "index_uuid": index.uuid, "shard_id": 0, "reason": str(error), "status": "INTERNAL_SERVER_ERROR"}
            )
    ended = int(time.time() * 1000)
    shards = {"total": len(indices), "failed": len(failures), "successful": len(indices) - len(failures)}
    snapshot: dict[str, Any] = {
        "snapshot": name,
        "uuid": uuid,
        **_VERSION,
        "remote_store_index_shallow_copy": False,
        "indices": sorted(index.name for index in indices),
        "data_streams": [],
        "include_global_state": bool(body.get("include_global_state", True)),
        **({"metadata": body["metadata"]} if body.get("metadata") else {}),
        "state": "SUCCESS" if not failures else "PARTIAL" if body.get("partial") else "FAILED",
        "start_time": dates.write(started),
        "start_time_in_millis": started,
        "end_time": dates.write(ended),
        "end_time_in_millis": ended,
        "duration_in_millis": ended - started,
        "failures": failures,
        "shards": shards,
    }
    _list(folder, [*known, snapshot])
    return snapshot


def _save(folder: Path, index: Index) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": index.settings,
        "mappings": index.mapping.content,
        "aliases": index.aliases,
        "documents": [[id, source.decode()] for id, source in index.sources()],
    }
    (folder / f"{index.name}.dat").write_bytes(zlib.compress(msgspec.msgpack.encode(content), 1))


def find(cluster: Cluster, repository_name: str, expression: str, *, ignore: bool = False) -> list[dict[str, Any]]:
    """Snapshots by name or pattern, the oldest first.

    Raises
    ------
    Refused
        One that is named does not exist.
    """
    known = _listed(repository(cluster, repository_name))
    found: dict[str, dict[str, Any]] = {}
    for part in expression.split(","):
        if part == "_current":
            continue
        matching = [item for item in known if part in ("_all", "*") or fnmatch.fnmatchcase(item["snapshot"], part)]
        if not matching and "*" not in part and part != "_all" and not ignore:
            raise Refused(404, "snapshot_missing_exception", f"[{repository_name}:{part}] is missing")
        found |= {item["snapshot"]: item for item in matching}
    return sorted(found.values(), key=lambda item: (item["start_time_in_millis"], item["snapshot"]))


def status(cluster: Cluster, repository_name: str, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """How far a snapshot is, with the size of its files."""
    folder = repository(cluster, repository_name) / snapshot["uuid"]
    start, took = snapshot["start_time_in_millis"], snapshot["duration_in_millis"]
    failed = {item["index"] for item in snapshot["failures"]}
    indices, sizes = {}, []
    for name in snapshot["indices"]:
        file = folder / f"{name}.dat"
        size = file.stat().st_size if file.exists() else 0
        sizes.append(size)
        stats = _stats(1, size, start, took)
        indices[name] = {
            "shards_stats": _shards_stats(0 if name in failed else 1, 1 if name in failed else 0),
            "stats": stats,
            "shards": {"0": {"stage": "FAILURE" if name in failed else "DONE", "stats": stats}},
        }
    return {
        "snapshot": snapshot["snapshot"],
        "repository": repository_name,
        "uuid": snapshot["uuid"],
        "state": snapshot["state"],
        "include_global_state": snapshot["include_global_state"],
        "shards_stats": _shards_stats(len(indices) - len(failed), len(failed)),
        "stats": _stats(len(sizes), sum(sizes), start, took),
        "indices": indices,
    }


def _shards_stats(done: int, failed: int) -> dict[str, int]:
    return {"initializing": 0, "started": 0, "finalizing": 0, "done": done, "failed": failed, "total": done + failed}


def _stats(files: int, size: int, start: int, took: int) -> dict[str, Any]:
    part = {"file_count": files, "size_in_bytes": size}
    return {"incremental": part, "total": part, "start_time_in_millis": start, "time_in_millis": took}


def delete(cluster: Cluster, repository_name: str, expression: str) -> None:
    """Delete snapshots and their files; Refused where one does not exist."""
    folder = repository(cluster, repository_name)
    chosen = find(cluster, repository_name, expression)
    for item in chosen:
        shutil.rmtree(folder / item["uuid"], ignore_errors=True)
    gone = {item["uuid"] for item in chosen}
    _list(folder, [item for item in _listed(folder) if item["uuid"] not in gone])


def restore(cluster: Cluster, repository_name: str, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Make indices from a snapshot again, perhaps under other names; what the answer says of it.

    Raises
    ------
    Refused
        The snapshot, or an index in it, does not exist, an index of the name does, or a file is missing or damaged.
    """
    folder = repository(cluster, repository_name)
    snapshot = next((item for item in _listed(folder) if item["snapshot"] == name), None)
    if snapshot is None:
        raise Refused(500, "snapshot_restore_exception", f"[{repository_name}:{name}] snapshot does not exist")
    label = f"[{repository_name}:{name}/{snapshot['uuid']}]"
    chosen = _chosen(snapshot["indices"], body)
    names = {}
    for original in chosen:
        target = original
        if body.get("rename_pattern"):
            replacement = re.sub(r"\$(\d+)", r"\\\1", str(body.get("rename_replacement", "")))
            target = re.sub(str(body["rename_pattern"]), replacement, original)
        if target in cluster.indices:
            raise Refused(
                500,
                "snapshot_restore_exception",
                f"{label} cannot restore index [{target}] because an open index with same name already exists in the cluster. Either "
                "close or delete the existing index or restore the index under a different name by providing a rename pattern and "
                "replacement name",
            )
        names[original] = target
    for original, target in names.items():
        try:
            packed = (folder / snapshot["uuid"] / f"{original}.dat").read_bytes()
            content = msgspec.msgpack.decode(zlib.decompress(packed))
        except (OSError, zlib.error, msgspec.DecodeError) as error:
            raise Refused(500, "snapshot_restore_exception", f"{label} cannot read index [{original}]: {error}") from error
        settings = {**content["settings"], **(body.get("index_settings") or {})}
        settings = {key.removeprefix("index."): str(value) for key, value in settings.items()}
        aliases = content["aliases"] if body.get("include_aliases", True) else {}
        index = Index(target, settings, FieldMapping(content["mappings"]), aliases)
        for id, source in content["documents"]:
            index.write(id, source.encode())
        cluster.indices[target] = index
    shards = {"total": len(names), "failed": 0, "successful": len(names)}
    return {"snapshot": {"snapshot": name, "indices": list(names.values()), "shards": shards}}


def _chosen(known: list[str], body: Mapping[str, Any]) -> list[str]:
    given = body.get("indices") or "*"
    found: list[str] = []
    for part in given if isinstance(given, list) else str(given).split(","):
        if part.startswith("-"):
            found = [name for name in found if not fnmatch.fnmatchcase(name, part[1:])]
            continue
        matching = [name for name in known if part in ("_all", "*") or fnmatch.fnmatchcase(name, part)]
        if not matching and "*" not in part and not body.get("ignore_unavailable"):
            raise Refused(404, "index_not_found_exception", f"no such index [{part}]", index=part, index_uuid="_na_")
        found += [name for name in matching if name not in found]
    return found
