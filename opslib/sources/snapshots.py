"""What Elasticsearch and OpenSearch say of snapshots, as far as opslib reads it.

https://www.elastic.co/docs/api/doc/elasticsearch/group/endpoint-snapshot
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec


class Shards(msgspec.Struct, kw_only=True):
    """How many shards took part, and how many failed."""

    total: int = 0
    failed: int = 0
    failures: list[dict[str, Any]] = []


class Repository(msgspec.Struct, kw_only=True):
    """A place for snapshots: `type` is "fs", "s3", ..."""

    type: str = ""
    settings: dict[str, Any] = {}


class ShardFailure(msgspec.Struct, kw_only=True):
    index: str = ""
    shard_id: int = 0
    reason: str = ""


class Snapshot(msgspec.Struct, kw_only=True):
    """A snapshot. `state` is IN_PROGRESS, SUCCESS, PARTIAL, FAILED or INCOMPATIBLE; times are milliseconds since 1970."""

    snapshot: str = ""
    repository: str = ""
    state: str = ""
    indices: list[str] = []
    start_time_in_millis: int = 0
    end_time_in_millis: int = 0
    failures: list[ShardFailure] = []
    shards: Shards = msgspec.field(default_factory=Shards)
    reason: str = ""

    @property
    def taken(self) -> datetime | None:
        """As of when it holds the indices: its start."""
        return datetime.fromtimestamp(self.start_time_in_millis / 1000, UTC) if self.start_time_in_millis else None


class Index(msgspec.Struct, kw_only=True):
    """An index with its size in bytes and its number of documents, as _cat/indices tells."""

    index: str = ""
    health: str | None = None
    documents: str | None = msgspec.field(default=None, name="docs.count")
    size: str | None = msgspec.field(default=None, name="store.size")
