"""Unhealthy pods out of many, asking for little."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from opslib.errors import NotFound, SourceError, Unreachable
from opslib.sources.objects import Pod

if TYPE_CHECKING:
    from opslib.sources.kubernetes import Kubernetes, Table

T = TypeVar("T")

PARALLEL = 8
LIST_FROM = 40  # pods wanted of a namespace: from here on, and where they are many of its pods, listing it costs less than single reads


@dataclass(frozen=True, slots=True, kw_only=True)
class UnhealthyPods:
    """The pods that are not well, in full, and how many there are of each status.

    Parameters
    ----------
    total
        Pods looked at.
    by_status
        Number of pods by STATUS as kubectl prints it, the healthy ones too.
    pods
        Every unhealthy pod, in full, by namespace and name.
    status
        STATUS as the server printed it, by (namespace, name) of the unhealthy ones.
    vanished
        Unhealthy pods that were gone before they could be read in full.
    unread
        Namespaces whose pods could not be read, and why.
    """

    total: int
    by_status: Mapping[str, int]
    pods: tuple[Pod, ...]
    status: Mapping[tuple[str, str], str] = field(default_factory=dict)
    vanished: int = 0
    unread: tuple[tuple[str, SourceError], ...] = ()


def unhealthy_pods(
    kubernetes: Kubernetes, namespace: str = "", *, labels: str = "", restarted_within_seconds: float = 3600
) -> UnhealthyPods:
    """Every pod that is not well, in full.

    The server prints its table of each namespace, a hundredth of the objects' size; only pods whose line is not that of a healthy one are
    read in full. Not well: any STATUS but Running and Completed, containers or readiness gates not ready, or a restart within the given
    time.

    Parameters
    ----------
    kubernetes
        The cluster.
    namespace
        Only this one; empty: all.
    labels
        Label selector.
    restarted_within_seconds
        How long a running pod counts as unhealthy after a restart.

    Raises
    ------
    Forbidden
        Namespaces may not be listed, and none is named.
    SourceError
        No namespace's pods could be read.
    """
    names = [namespace] if namespace else [item.metadata.name for item in kubernetes.metadata_list("namespaces")]
    total = 0
    by_status: dict[str, int] = {}
    status: dict[tuple[str, str], str] = {}
    pods: list[Pod] = []
    vanished = 0
    unread: dict[str, SourceError] = {}
    parts: list[tuple[str, list[str]]] = []
    with ThreadPoolExecutor(PARALLEL, "unhealthy-pods") as executor:
        for name, table in _each(executor, lambda name: kubernetes.print_table("pods", name, labels=labels), names):
            if isinstance(table, SourceError):
                unread[name] = table
                continue
            suspects = _sift(table, by_status, restarted_within_seconds)
            total += len(table.rows)
            status |= {(name, pod): text for pod, text in suspects.items()}
            parts += [(name, part) for part in _parts(list(suspects), len(table.rows))]
        for (name, part), found in _each(executor, lambda part: _read(kubernetes, *part), parts):
            if isinstance(found, SourceError):
                unread[name] = found
                continue
            pods += found
            vanished += len(part) - len(found)
    if names and len(unread) == len(names):
        raise next(iter(unread.values()))
    pods.sort(key=lambda pod: (pod.metadata.namespace, pod.metadata.name))
    return UnhealthyPods(
        total=total,
        by_status=by_status,
        pods=tuple(pods),
        status=status,
        vanished=vanished,
        unread=tuple(unread.items()),
    )


def _read(kubernetes: Kubernetes, namespace: str, names: list[str]) -> list[Pod]:
    """The named pods of a namespace in full, as far as they are still there."""
    if len(names) > LIST_FROM:
        wanted = set(names)
        return [pod for pod in kubernetes.iterate(Pod, "pods", namespace) if pod.metadata.name in wanted]
    pods = []
    for name in names:
        try:
            pods.append(kubernetes.get(Pod, "pods", name, namespace))
        except NotFound:
            continue
    return pods


_RESTARTED = re.compile(r"^\d+ \((?P<ago>\S+) ago\)$")
_DURATION = re.compile(r"(\d+)([smhdy])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}


def _sift(table: Table, by_status: dict[str, int], restarted_within_seconds: float) -> dict[str, str]:
    """The STATUS by name of each pod in the table whose line is not that of a healthy one; counts all of them in `by_status`."""
    names = [column.name for column in table.column_definitions]
    name_at, ready_at, status_at, restarts_at = (names.index(name) for name in ("Name", "Ready", "Status", "Restarts"))
    gates_at = names.index("Readiness Gates") if "Readiness Gates" in names else None
    suspects = {}
    for row in table.rows:
        cells = row.cells
        status = cells[status_at]
        by_status[status] = by_status.get(status, 0) + 1
        if status == "Completed":
            continue
        if status == "Running":
            ready, _slash, total = cells[ready_at].partition("/")
            gates_open = gates_at is None or _gates_open(cells[gates_at])
            if ready == total and gates_open and not _restarted_within(cells[restarts_at], restarted_within_seconds):
                continue
        suspects[cells[name_at]] = status
    return suspects


def _gates_open(gates: object) -> bool:
    """Whether the READINESS GATES column ("1/2", "<none>") tells of none that is closed: READY counts containers only."""
    is_open, slash, total = str(gates).partition("/")
    return not slash or is_open == total


def _restarted_within(restarts: object, seconds: float) -> bool:
    """Whether the RESTARTS column ("3 (5m12s ago)") tells of a restart within that time."""
    match = _RESTARTED.match(str(restarts))
    if not match:
        return False
    return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(match["ago"])) <= seconds


def _parts(names: list[str], count: int) -> list[list[str]]:
    """How to read the named pods, out of `count` in their namespace: all in one list, or a few at a time, one by one."""
    if len(names) > LIST_FROM and len(names) * 20 > count:
        return [names]
    return [names[start : start + 10] for start in range(0, len(names), 10)]


def _each(executor: ThreadPoolExecutor, function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[tuple[Any, T | SourceError]]:
    """What `function` returns for each item, in order, many at once, or why it failed.

    Once the system does not answer at all, what has not been asked yet is not asked any more: each question would only wait again.
    """
    futures = [(item, executor.submit(function, item)) for item in items]
    down: Unreachable | None = None
    try:
        for item, future in futures:
            if down and future.cancelled():
                yield item, down
                continue
            try:
                yield item, future.result()
            except SourceError as error:
                if isinstance(error, Unreachable) and not down:
                    down = error
                    for _item, other in futures:
                        other.cancel()
                yield item, error
    except BaseException:
        for _item, future in futures:
            future.cancel()
        raise
