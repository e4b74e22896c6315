"""Elasticsearch at the socket: whole answers, partial answers, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opslib.environments import Logs
from opslib.errors import SourceError
from opslib.sources.elasticsearch import Elasticsearch


def connected(server: Any) -> Elasticsearch:
    return Elasticsearch(server.transport(), Logs(url=server.url))


def says(server: Any, content: Any, status: int = 200) -> None:
    server.answers = [server.says(status, json.dumps(content).encode())]


@pytest.mark.parametrize("total", [12, {"value": 12, "relation": "eq"}])
def test_totals_of_both_shapes(server: Any, total: Any) -> None:
    says(server, {"timed_out": False, "_shards": {"total": 1, "failed": 0}, "hits": {"total": total, "hits": []}})
    result = connected(server).search({"query": {"match_all": {}}})
    assert result.total == 12
    assert result.partial == []
    method, path, _headers = server.seen[0]
    assert method == "POST"
    assert path.startswith("/logs-*/_search?")


def test_a_search_that_is_not_whole_says_why(server: Any) -> None:
    failures = [{"shard": 0, "reason": {"type": "x", "reason": "field data too large"}}]
    says(server, {"timed_out": True, "_shards": {"total": 5, "failed": 2, "failures": failures}, "hits": {"hits": []}})
    assert connected(server).search({}).partial == ["timed out", "2 of 5 shards failed: field data too large"]


def test_the_root_cause_is_told_not_that_all_shards_failed(server: Any) -> None:
    error = {
        "root_cause": [{"type": "illegal_argument_exception", "reason": "Text fields are not optimised"}],
        "reason": "all shards failed",
    }
    says(server, {"error": error, "status": 400}, 400)
    with pytest.raises(SourceError) as caught:
        connected(server).search({})
    assert "Text fields are not optimised" in caught.value.message().text("en")


def test_fields_that_no_index_has_are_not_in_the_answer(server: Any) -> None:
    fields = {
        "message": {"text": {"type": "text", "aggregatable": False}},
        "level": {"keyword": {"type": "keyword", "aggregatable": True}, "unmapped": {"type": "unmapped", "aggregatable": False}},
        "nowhere": {"unmapped": {"type": "unmapped", "aggregatable": False}},
    }
    says(server, {"indices": ["logs-1", "logs-2"], "fields": fields})
    indices, known = connected(server).fields(["message", "level", "nowhere"])
    assert indices == ["logs-1", "logs-2"]
    assert known == {"message": {"text": False}, "level": {"keyword": True}}


def test_an_index_name_cannot_leave_its_place_in_the_address(server: Any) -> None:
    says(server, {"count": 3})
    assert connected(server).count({"match_all": {}}, index="a/../_all?x=") == 3
    assert server.seen[0][1].startswith("/a%2F..%2F_all%3Fx%3D/_count?")
