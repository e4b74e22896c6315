"""How far a backup, a restore or a snapshot is, and following it to its end. Nothing is changed: who stops following stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from opslib.errors import NotFound, Unreachable
from opslib.messages import _
from opslib.sources.velero import GOOD, UNDER_WAY, Backup, Restore

if TYPE_CHECKING:
    from opslib.sources.elasticsearch import Elasticsearch
    from opslib.sources.kubernetes import Kubernetes

_PATIENCE = 10  # so many questions in a row may stay without an answer


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is.

    Parameters
    ----------
    phase
        In the system's own word.
    done, total
        Objects of a backup or restore, shards of a snapshot; `total` is 0 while it is not known.
    done_bytes, total_bytes
        Of a snapshot.
    good
        Whether it came to a good end; None while it is under way.
    """

    phase: str
    done: int = 0
    total: int = 0
    done_bytes: int = 0
    total_bytes: int = 0
    errors: int = 0
    warnings: int = 0
    good: bool | None = None


def of_velero(cluster: Kubernetes, namespace: str, name: str, *, restore: bool = False) -> Progress:
    """How far a backup or a restore is; NotFound where there is none of that name."""
    phase, done, total, errors, warnings = "", 0, 0, 0, 0
    if restore:
        put_back = cluster.get(Restore, "restores.velero.io", name, namespace).status
        phase, errors, warnings = put_back.phase, put_back.errors, put_back.warnings
        done, total = put_back.progress.items_restored, put_back.progress.total_items
    else:
        taken = cluster.get(Backup, "backups.velero.io", name, namespace).status
        phase, errors, warnings = taken.phase, taken.errors, taken.warnings
        done, total = taken.progress.items_backed_up, taken.progress.total_items
    good = None if phase in UNDER_WAY else phase == GOOD
    return Progress(phase or "New", done, total, errors=errors, warnings=warnings, good=good)


def of_snapshot(source: Elasticsearch, repository: str, name: str) -> Progress:
    """How far a snapshot is, in shards and bytes; NotFound where there is none of that name."""
    answer = source.request("GET", f"/_snapshot/{quote(repository, safe='')}/{quote(name, safe='')}/_status")
    found = next(iter(answer.get("snapshots") or ()), None)
    if found is None:
        raise NotFound("elasticsearch", _("There is no snapshot {name} in {repository}", name=name, repository=repository))
    shards, stats, state = found.get("shards_stats") or {}, found.get("stats") or {}, str(found.get("state") or "")
    state = {"STARTED": "IN_PROGRESS", "INIT": "IN_PROGRESS"}.get(state, state)
    total = (stats.get("incremental") or stats.get("total") or {}).get("size_in_bytes", 0)
    done = (stats.get("processed") or {}).get("size_in_bytes", 0 if state == "IN_PROGRESS" else total)
    good = None if state in ("IN_PROGRESS", "ABORTED", "") else state == "SUCCESS"
    return Progress(state, shards.get("done", 0), shards.get("total", 0), done, total, errors=shards.get("failed", 0), good=good)


def follow(ask: Callable[[], Progress], *, every_seconds: float = 1) -> Iterator[Progress]:
    """Each change of it, until it is over; a system that does not answer for a while is asked again.

    Raises
    ------
    SourceError
        It is gone, or the system does not answer any more.
    """
    seen: Progress | None = None
    unanswered = 0
    while seen is None or seen.good is None:
        try:
            now, unanswered = ask(), 0
        except Unreachable:
            unanswered += 1
            if unanswered == _PATIENCE:
                raise
        else:
            if now != seen:
                yield now
            seen = now
            if now.good is not None:
                return
        time.sleep(every_seconds)
