"""Changes in Elasticsearch: snapshots, and indices restored from them.

A request is ``{"method", "path", "body", "object"}``: `object` is the path of what is made or deleted, which `observe` asks for.
Elasticsearch has no dry run: a preview says what would be sent, and looks whether it could be.
"""

from __future__ import annotations

import json
from typing import Any

from opslib.actions.systems import ABSENT, CREATED, Preview
from opslib.errors import Conflict, NotFound
from opslib.messages import Message, _
from opslib.sources.elasticsearch import Elasticsearch
from opslib.sources.progress import of_snapshot


class ElasticsearchSystem:
    """One Elasticsearch. See `opslib.actions.systems.System`."""

    name = "elasticsearch"

    def __init__(self, source: Elasticsearch) -> None:
        self.source = source

    def target(self) -> str:
        """The cluster's UUID."""
        return self.source.cluster_uuid()

    def observe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Whether the object is there."""
        try:
            self.source.request("GET", request["object"])
        except NotFound:
            return ABSENT
        return CREATED

    def preview(self, request: dict[str, Any]) -> Preview:
        """What would be sent."""
        body = json.dumps(request["body"], indent=1, ensure_ascii=False) if request.get("body") else ""
        after = ABSENT if request["method"] == "DELETE" else CREATED
        return Preview(after, f"{request['method']} {request['path']}\n{body}".rstrip() + "\n")

    def reached(self, request: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> bool:
        """See `System.reached`."""
        return now == after

    def send(self, request: dict[str, Any], before: dict[str, Any]) -> None:
        """See `System.send`."""
        if self.observe(request) != before:
            raise Conflict(
                self.name,
                _("{path} is not as it was when the plan was made", path=request["object"]),
                _("Look at what changed, and make the plan again"),
            )
        self.source.request(request["method"], request["path"], request.get("body"))

    def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        """``{"snapshot": [repository, name]}``: it is whole; ``{"documents": [index, index], "sample": n}``: both have as many documents,
        and n of the second are the same in the first; ``{"absent": path}``: it is gone.
        """
        if "snapshot" in question:
            repository, name = question["snapshot"]
            state = next((one.state for one in self.source.snapshots(repository) if one.snapshot == name), "-")
            why = _("it is {state}", state=state)
            if state == "IN_PROGRESS":
                now = of_snapshot(self.source, repository, name)
                why = _("it is {state}, {done} of {total} shards", state=state, done=now.done, total=now.total)
            return (True if state == "SUCCESS" else None if state in ("FAILED", "PARTIAL", "INCOMPATIBLE") else False), why
        if "documents" in question:
            one, other = (self.source.count({"match_all": {}}, index=name) for name in question["documents"])
            if one != other:
                return False, _("{one} and {other} documents", one=one, other=other)
            differing = self._differing(question["documents"][0], question["documents"][1], question.get("sample", 0))
            return not differing, _("documents differ in content: {differing}", differing=differing[:10])
        return self.observe({"object": question["absent"]}) == ABSENT, _("it is still there")

    def _differing(self, original: str, copy: str, size: int) -> list[str]:
        """The ids of a sample of the copy's documents that are not the same in the original."""
        if not size:
            return []
        taken = {one["_id"]: one.get("_source") for one in self.source.search({"size": size, "query": {"match_all": {}}}, index=copy).hits}
        query = {"size": size, "query": {"ids": {"values": sorted(taken)}}}
        known = {one["_id"]: one.get("_source") for one in self.source.search(query, index=original).hits}
        return [name for name, source in sorted(taken.items()) if name not in known or known[name] != source]
