"""Refusals, in the shapes of the real one."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """A request that is refused with `status`.

    Parameters
    ----------
    kind
        Type of the error, such as "index_not_found_exception".
    root
        The reason of the root cause, where it differs.
    more
        Further members of the error: index, line, col, caused_by.
    """

    def __init__(self, status: int, kind: str, reason: str, *, root: str = "", **more: Any) -> None:
        super().__init__(reason)
        self.root = root or reason
        self.status = status
        self.kind = kind
        self.reason = reason
        self.more = more

    def content(self) -> dict[str, Any]:
        """The answer's body."""
        cause = {"type": self.kind, "reason": self.root, **{key: value for key, value in self.more.items() if key != "caused_by"}}
        return {"error": {"root_cause": [cause], "type": self.kind, "reason": self.reason, **self.more}, "status": self.status}


class ShardRefused(Exception):
    """A search that an index refused: the coordinator says that all shards failed, and the cause stands below."""

    def __init__(self, kind: str, reason: str, *, query: bool = False, caused_by: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.query = query
        self.caused_by = caused_by

    def content(self, index: str, uuid: str) -> dict[str, Any]:
        """The answer's body."""
        cause: dict[str, Any] = {"type": self.kind, "reason": self.reason}
        if self.query:
            cause |= {"index": index, "index_uuid": uuid}
        inner = {**cause, "caused_by": self.caused_by} if self.caused_by else cause
        error: dict[str, Any] = {
            "root_cause": [cause],
            "type": "search_phase_execution_exception",
            "reason": "all shards failed",
            "phase": "query",
            "grouped": True,
            "failed_shards": [{"shard": 0, "index": index, "node": "lab", "reason": inner}],
        }
        if not self.query:
            error["caused_by"] = {**cause, "caused_by": cause}
        return {"error": error, "status": 400}


def missing_index(name: str, kind: str = "index_or_alias") -> Refused:
    """No index is called so."""
    more = {"index": name, "resource.id": name, "resource.type": kind, "index_uuid": "_na_"}
    return Refused(404, "index_not_found_exception", f"no such index [{name}]", **more)


def illegal(reason: str, status: int = 400) -> Refused:
    """An argument that cannot be."""
    return Refused(status, "illegal_argument_exception", reason)


def parsing(reason: str) -> Refused:
    """A body that cannot be read."""
    return Refused(400, "parsing_exception", reason, line=1, col=1)
