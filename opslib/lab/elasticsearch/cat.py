"""The tables for people, /_cat: aligned text, or JSON where it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from opslib.lab.elasticsearch import snapshots
from opslib.lab.elasticsearch.cluster import Cluster
from opslib.lab.elasticsearch.errors import Refused

Rows = list[dict[str, str]]


def _size(count: float) -> str:
    for unit, size in (("gb", 1024**3), ("mb", 1024**2), ("kb", 1024)):
        if count >= size:
            return f"{int(count / size * 10) / 10:g}{unit}"
    return f"{int(count)}b"


def _clock(seconds: float) -> dict[str, str]:
    return {"epoch": str(int(seconds)), "timestamp": datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")}


def _indices(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    return [
        {
            "health": "yellow" if index.replicas else "green",
            "status": "close" if index.closed else "open",
            "index": index.name,
            "uuid": index.uuid,
            "pri": "1",
            "rep": str(index.replicas),
            "docs.count": str(index.count),
            "docs.deleted": str(index.deleted),
            "store.size": _size(index.bytes),
            "pri.store.size": _size(index.bytes),
        }
        for index in cluster.resolve(names.get("index", ""))
    ]


def _health(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    primaries, replicas = len(cluster.indices), sum(index.replicas for index in cluster.indices.values())
    return [
        {
            **_clock(time.time()),
            "cluster": cluster.name,
            "status": cluster.status(),
            "node.total": "1",
            "node.data": "1",
            "discovered_cluster_manager": "true",
            "shards": str(primaries),
            "pri": str(primaries),
            "relo": "0",
            "init": "0",
            "unassign": str(replicas),
            "pending_tasks": "0",
            "max_task_wait_time": "-",
            "active_shards_percent": f"{cluster.active_percent():.1f}%",
        }
    ]


def _count(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    return [{**_clock(time.time()), "count": str(sum(index.count for index in cluster.resolve(names.get("index", ""))))}]


def _shards(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    rows: Rows = []
    for index in cluster.resolve(names.get("index", "")):
        place = {"docs": str(index.count), "store": _size(index.bytes), "ip": "127.0.0.1", "node": cluster.node}
        rows.append({"index": index.name, "shard": "0", "prirep": "p", "state": "STARTED", **place})
        nothing = {"docs": "", "store": "", "ip": "", "node": ""}
        rows += [{"index": index.name, "shard": "0", "prirep": "r", "state": "UNASSIGNED", **nothing}] * index.replicas
    return rows


def _nodes(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    return [
        {
            "ip": "127.0.0.1",
            "heap.percent": "20",
            "ram.percent": "50",
            "cpu": "5",
            "load_1m": "0.10",
            "load_5m": "0.10",
            "load_15m": "0.10",
            "node.role": "dimr",
            "node.roles": "cluster_manager,data,ingest,remote_cluster_client",
            "cluster_manager": "*",
            "name": cluster.node,
        }
    ]


def _allocation(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    used = sum(index.bytes for index in cluster.indices.values())
    total = 100 * 1024**3
    return [
        {
            "shards": str(len(cluster.indices)),
            "disk.indices": _size(used),
            "disk.used": _size(used),
            "disk.avail": _size(total - used),
            "disk.total": _size(total),
            "disk.percent": str(int(100 * used / total)),
            "host": "127.0.0.1",
            "ip": "127.0.0.1",
            "node": cluster.node,
        }
    ]


def _repositories(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    return [{"id": name, "type": known["type"]} for name, known in sorted(cluster.snapshots.items())]


def _snapshots(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    chosen = [names["repository"]] if "repository" in names else sorted(cluster.snapshots)
    rows = []
    for repository in chosen:
        for item in snapshots.find(cluster, repository, "_all"):
            start, end = _clock(item["start_time_in_millis"] / 1000), _clock(item["end_time_in_millis"] / 1000)
            took = item["duration_in_millis"]
            rows.append(
                {
                    "id": item["snapshot"],
                    "status": item["state"],
                    "start_epoch": start["epoch"],
                    "start_time": start["timestamp"],
                    "end_epoch": end["epoch"],
                    "end_time": end["timestamp"],
                    "duration": "0s" if not took else f"{took}ms" if took < 1000 else f"{int(took / 100) / 10:g}s",
                    "indices": str(len(item["indices"])),
                    "successful_shards": str(item["shards"]["successful"]),
                    "failed_shards": str(item["shards"]["failed"]),
                    "total_shards": str(item["shards"]["total"]),
                }
            )
    return rows


def _templates(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    return [
        {
            "name": name,
            "index_patterns": f"[{', '.join(item['index_patterns'])}]",
            "order": str(item.get("priority", 0)),
            "version": str(item.get("version", "")),
            "composed_of": "[]",
        }
        for name, item in sorted(cluster.templates.items())
    ]


def _aliases(cluster: Cluster, names: Mapping[str, str]) -> Rows:
    rest = {"filter": "-", "routing.index": "-", "routing.search": "-", "is_write_index": "-"}
    return [{"alias": alias, "index": index.name, **rest} for index in cluster.indices.values() for alias in index.aliases]


TABLES: dict[str, Callable[[Cluster, Mapping[str, str]], Rows]] = {
    "indices": _indices,
    "health": _health,
    "count": _count,
    "shards": _shards,
    "nodes": _nodes,
    "allocation": _allocation,
    "repositories": _repositories,
    "snapshots": _snapshots,
    "templates": _templates,
    "aliases": _aliases,
}
_RIGHT = frozenset(  # numbers
    [
        "pri",
        "rep",
        "docs.count",
        "docs.deleted",
        "store.size",
        "pri.store.size",
        "count",
        "docs",
        "store",
        "shards",
        "duration",
        "indices",
        "successful_shards",
        "failed_shards",
        "total_shards",
        "heap.percent",
        "ram.percent",
        "cpu",
        "load_1m",
        "load_5m",
        "load_15m",
        "node.total",
        "node.data",
        "relo",
        "init",
        "unassign",
        "pending_tasks",
        "max_task_wait_time",
        "active_shards_percent",
        "disk.indices",
        "disk.used",
        "disk.avail",
        "disk.total",
        "disk.percent",
        "discovered_cluster_manager",
    ]
)


def answer(cluster: Cluster, name: str, names: Mapping[str, str], query: Mapping[str, str]) -> tuple[int, Any]:
    """A table as it is asked for: h (columns), s (order), v (headings), format."""
    rows = TABLES[name](cluster, names)
    if query.get("s"):
        for part in reversed(query["s"].split(",")):
            column, _colon, direction = part.partition(":")
            rows.sort(key=lambda row: _number(row.get(column, "")), reverse=direction == "desc")
    columns = query["h"].split(",") if query.get("h") else list(rows[0]) if rows else []
    known = set(rows[0]) if rows else set(columns)
    columns = [column for column in columns if column in known]
    if query.get("format") == "json":
        return 200, [{column: row[column] or None for column in columns} for row in rows]
    if query.get("format") not in (None, "text"):
        raise Refused(406, "illegal_argument_exception", f"format [{query['format']}] is not there in the embedded Elasticsearch")
    head = "v" in query and query["v"] != "false"
    lines = [dict(zip(columns, columns, strict=True))] * head + rows
    widths = {column: max((len(line[column]) for line in lines), default=0) for column in columns}
    last = columns[-1] if columns else ""
    return 200, "".join(" ".join(_cell(name, line[name], widths[name], name == last) for name in columns) + "\n" for line in lines)


def _cell(column: str, value: str, width: int, last: bool) -> str:
    if column in _RIGHT:
        return value.rjust(width)
    return value if last else value.ljust(width)


def _number(text: str) -> Any:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)
