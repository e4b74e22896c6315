"""Searches and aggregations of the embedded Elasticsearch against the real node's, on the same documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from elasticsearch_servers import Node, embedded, fill, real

L = "logs-*"
RESET = {"match_phrase": {"message": "reset by peer"}}
LEVEL = {"terms": {"log.level": ["error", "warn"]}}


def q(query: Any, **more: Any) -> dict[str, Any]:
    return {"query": query, "sort": [{"@timestamp": "desc"}], "size": 20, **more}


def a(**aggs: Any) -> dict[str, Any]:
    return {"size": 0, "aggs": aggs}


TIME = {"range": {"@timestamp": {"gte": "2026-01-01T06:00:00Z", "lt": "2026-01-02T03:00:00+09:00", "format": "strict_date_optional_time"}}}

SEARCHES: list[tuple[str, dict[str, Any]]] = [
    (L, q({"match_all": {}})),
    (L, q({"match_none": {}})),
    (L, q({"term": {"log.level": "error"}})),
    (L, q({"term": {"log.level": {"value": "ERROR", "case_insensitive": True}}})),
    (L, q({"term": {"spent": 5}})),
    (L, q({"term": {"ok": True}})),
    (L, q({"term": {"ok": "false"}})),
    (L, q({"term": {"message": "failed"}})),
    (L, q({"term": {"message.keyword": "slow query on carts"}})),
    (L, q({"term": {"nothing": "x"}})),
    (L, q({"term": {"@timestamp": "2026-01-01T00:00:00.000Z"}})),
    (L, q({"terms": {"tags": ["a", "c"]}})),
    (L, q({"terms": {"spent": [1, 2, 3, 400]}})),
    (L, q({"range": {"spent": {"gt": 100, "lte": 200}}})),
    (L, q({"range": {"size": {"gte": "99.5"}}})),
    (L, q({"range": {"service.name": {"gte": "ch", "lt": "d"}}})),
    (L, q(TIME)),
    (L, q({"range": {"@timestamp": {"gte": "2026-01-01||+1d/d", "lt": "2026-01-02||/d+12h"}}})),
    (L, q({"range": {"@timestamp": {"lte": "2026-01-01"}}})),
    (L, q({"range": {"@timestamp": {"gt": "2026-01-01"}}})),
    (L, q({"range": {"@timestamp": {"gte": "2026-01-01T12:00", "lte": "2026-01-01T12", "time_zone": "+09:00"}}})),
    (L, q({"range": {"@timestamp": {"gte": 1767225600000, "lt": 1767240000000}}})),
    (L, q({"range": {"@timestamp": {"gte": "now-10y/M"}}})),
    (L, q({"exists": {"field": "service.name"}})),
    (L, q({"exists": {"field": "service"}})),
    (L, q({"exists": {"field": "tags"}})),
    (L, q({"exists": {"field": "nothing"}})),
    (L, q({"match": {"message": "connection exceeded"}})),
    (L, q({"match": {"message": {"query": "connection reset", "operator": "and"}}})),
    (L, q({"match": {"message": {"query": "connection reset deadline", "minimum_should_match": 2}}})),
    (L, q({"match": {"message": {"query": "connection reset deadline peer", "minimum_should_match": "75%"}}})),
    (L, q({"match": {"message": "失敗 商品"}})),
    (L, q({"match": {"service.name": "cart"}})),
    (L, q({"match": {"spent": "17"}})),
    (L, q({"match": {"message": ""}})),
    (L, q({"match_phrase": {"message": "deadline exceeded after"}})),
    (L, q({"match_phrase": {"message": "exceeded deadline"}})),
    (L, q({"match_phrase": {"message": "在庫引当に失敗"}})),
    (L, q({"match_phrase_prefix": {"message": "connection res"}})),
    (L, q({"match_phrase": {"message": "user@example.com signed"}})),
    (L, q({"multi_match": {"query": "connection cart", "fields": ["message", "service.name"]}})),
    (L, q({"multi_match": {"query": "reset by", "fields": ["message", "service.name"], "type": "phrase"}})),
    (L, q({"prefix": {"kubernetes.pod.name": "cart-"}})),
    (L, q({"wildcard": {"kubernetes.pod.name": {"value": "c*-?"}}})),
    (L, q({"wildcard": {"message.keyword": "*failed: * ms*"}})),
    (L, q({"wildcard": {"message.keyword": {"value": "GET*", "case_insensitive": True}}})),
    (L, q({"regexp": {"kubernetes.pod.name": "(cart|search)-[01]"}})),
    (L, q({"ids": {"values": ["01-3", "02-4", "x"]}})),
    (L, q({"bool": {"filter": [LEVEL, TIME], "must_not": [{"term": {"service.name": "cart"}}]}})),
    (
        L,
        q(
            {
                "bool": {
                    "should": [{"term": {"service.name": "cart"}}, {"match_phrase": {"message": "reset by peer"}}],
                    "minimum_should_match": 2,
                }
            }
        ),
    ),
    (L, q({"bool": {"must": {"match": {"message": "failed"}}, "should": [{"term": {"log.level": "error"}}]}})),
    (L, q({"bool": {}})),
    (L, q({"bool": {"must_not": {"exists": {"field": "service.name"}}}})),
    (L, q({"constant_score": {"filter": LEVEL}})),
    (L, q({"query_string": {"query": "message:failed AND log.level:error"}})),
    (L, q({"query_string": {"query": "failed OR reset", "default_field": "message"}})),
    (L, q({"query_string": {"query": "+failed -orders", "default_field": "message"}})),
    (L, q({"query_string": {"query": '"reset by peer" NOT log.level:info', "default_field": "message"}})),
    (L, q({"query_string": {"query": "service.name:(cart OR search) AND spent:[100 TO 200}"}})),
    (L, q({"query_string": {"query": "spent:>=450"}})),
    (L, q({"query_string": {"query": "kubernetes.pod.name:car* AND _exists_:tags"}})),
    (L, q({"query_string": {"query": "connection reset", "default_field": "message", "default_operator": "AND"}})),
    (L, q({"query_string": {"query": "*"}})),
    (L, q({"simple_query_string": {"query": "failed +orders", "fields": ["message"]}})),
    (L, q({"simple_query_string": {"query": '"reset by peer" | slow', "fields": ["message"]}})),
    (L, q({"simple_query_string": {"query": "fail* -orders", "fields": ["message"], "default_operator": "and"}})),
    # scores
    (L, {"query": {"match": {"message": "connection reset"}}, "size": 30, "sort": ["_score", {"trace.keyword": "asc"}]}),
    (L, {"query": {"match_phrase": {"message": "connection reset"}}, "size": 3, "sort": ["_score", {"trace.keyword": "asc"}]}),
    ("odd", {"query": {"match": {"text": "three two"}}}),
    ("odd", {"query": {"match": {"text": "three"}}}),
    ("odd", {"query": {"bool": {"should": [{"term": {"n": 1}}, {"match": {"text": {"query": "three", "boost": 2}}}]}}}),
    ("odd", {"query": {"dis_max": {"queries": [{"term": {"n": 1}}, {"match": {"text": "one"}}]}}}),
    ("odd", {"query": {"match": {"text": "three"}}, "min_score": 0.5}),
    # order, pages, sources
    (L, {"sort": [{"spent": "asc"}, {"trace.keyword": "asc"}], "from": 5, "size": 7}),
    (L, {"sort": [{"service.name": {"order": "asc", "missing": "_first"}}, {"trace.keyword": "desc"}], "size": 50}),
    (L, {"sort": [{"service.name": "desc"}, {"trace.keyword": "desc"}], "from": 240, "size": 60}),
    (L, {"sort": [{"size": "desc"}], "size": 5}),
    (L, {"sort": ["spent", "trace.keyword"], "size": 5, "search_after": [100, "f"]}),
    (L, {"sort": [{"@timestamp": "desc"}], "size": 5, "search_after": [1767300000000]}),
    (L, {"sort": [{"service.name": "asc"}, {"@timestamp": "asc"}], "size": 5, "search_after": ["checkout", 1767300000000]}),
    (L, {"sort": [{"tags.keyword": "asc"}, {"@timestamp": "asc"}], "size": 5}),
    (L, {"sort": [{"nothing": {"order": "asc", "unmapped_type": "keyword"}}, {"@timestamp": "asc"}], "size": 5}),
    ("odd", {"sort": [{"n": "asc"}]}),
    ("odd", {"sort": [{"n": {"order": "desc", "missing": 2}}]}),
    (L, q({"match_all": {}}, _source=["message", "kubernetes.*"])),
    (L, q({"match_all": {}}, _source="log")),
    (L, q({"match_all": {}}, _source=False)),
    (L, q({"match_all": {}}, _source={"includes": ["kubernetes", "spent"], "excludes": ["kubernetes.pod"]})),
    ("odd", {"_source": ["deep.er.x", "list.k"], "sort": [{"n": "asc"}]}),
    (L, q({"match_all": {}}, docvalue_fields=["@timestamp", {"field": "spent"}, "service.name", "ok"], _source=False, size=3)),
    (L, q({"match_all": {}}, track_total_hits=False)),
    (L, q({"match_all": {}}, track_total_hits=50)),
    (L, q({"match_all": {}}, track_total_hits=True, version=True)),
    (L, q(LEVEL, post_filter={"term": {"service.name": "cart"}}, aggs={"s": {"terms": {"field": "service.name"}}})),
    # aggregations
    (L, a(s={"terms": {"field": "service.name"}})),
    (L, a(s={"terms": {"field": "service.name", "size": 1}})),
    (L, a(s={"terms": {"field": "service.name", "missing": "-", "size": 50}})),
    (L, a(s={"terms": {"field": "tags.keyword", "order": {"_key": "desc"}}})),
    (L, a(s={"terms": {"field": "spent", "size": 5, "order": {"_key": "desc"}}})),
    (L, a(s={"terms": {"field": "ok"}})),
    (L, a(s={"terms": {"field": "nothing"}})),
    (L, a(s={"terms": {"field": "kubernetes.pod.name", "include": "cart.*", "exclude": ".*-1"}})),
    (L, a(s={"terms": {"field": "service.name", "order": {"m": "desc"}}, "aggs": {"m": {"max": {"field": "spent"}}}})),
    (L, a(s={"terms": {"field": "service.name", "order": {"m.avg": "asc"}}, "aggs": {"m": {"stats": {"field": "spent"}}}})),
    (L, a(s={"terms": {"field": "service.name", "min_doc_count": 90}})),
    (L, a(s={"terms": {"field": "log.level"}, "aggs": {"d": {"date_histogram": {"field": "@timestamp", "fixed_interval": "12h"}}}})),
    (L, a(d={"date_histogram": {"field": "@timestamp", "calendar_interval": "day"}})),
    (L, a(d={"date_histogram": {"field": "@timestamp", "calendar_interval": "month", "time_zone": "Asia/Tokyo"}})),
    (L, a(d={"date_histogram": {"field": "@timestamp", "calendar_interval": "1d", "time_zone": "+09:00", "format": "yyyy-MM-dd"}})),
    (L, a(d={"date_histogram": {"field": "@timestamp", "calendar_interval": "hour", "time_zone": "Asia/Tokyo", "min_doc_count": 7}})),
    (L, a(d={"date_histogram": {"field": "@timestamp", "fixed_interval": "5h", "offset": "+1h", "min_doc_count": 1}})),
    (L, a(d={"date_histogram": {"field": "@timestamp", "fixed_interval": "1d", "time_zone": "Asia/Tokyo", "keyed": True}})),
    (L, a(d={"date_histogram": {"field": "@timestamp", "calendar_interval": "week"}})),
    (L, a(d={"date_histogram": {"field": "@timestamp", "calendar_interval": "quarter"}})),
    (
        L,
        a(
            d={
                "date_histogram": {
                    "field": "@timestamp",
                    "fixed_interval": "21600s",
                    "format": "epoch_millis",
                    "min_doc_count": 0,
                    "extended_bounds": {"min": 1767139200000, "max": 1767484800000},
                }
            }
        ),
    ),
    (L, a(d={"date_histogram": {"field": "@timestamp", "calendar_interval": "day", "order": {"_count": "asc"}}})),
    (L, a(h={"histogram": {"field": "spent", "interval": 100}})),
    (L, a(h={"histogram": {"field": "size", "interval": 25, "offset": 5, "min_doc_count": 1}})),
    (L, a(h={"histogram": {"field": "spent", "interval": 200, "extended_bounds": {"min": -300, "max": 900}, "keyed": True}})),
    (L, a(f={"filter": LEVEL, "aggs": {"n": {"value_count": {"field": "spent"}}}})),
    (
        L,
        a(
            f={
                "filters": {"filters": {"b": LEVEL, "a": RESET}},
                "aggs": {"m": {"min": {"field": "@timestamp"}}},
            }
        ),
    ),
    (L, a(f={"filters": {"filters": {"x": LEVEL, "a": {"match": {"message": "failed"}}}, "other_bucket_key": "other"}})),
    (L, a(f={"filters": {"filters": [LEVEL, {"match_all": {}}], "other_bucket": True}})),
    (L, a(r={"range": {"field": "spent", "ranges": [{"to": 100}, {"from": 100, "to": 200.5}, {"from": 200.5}]}})),
    (L, a(r={"range": {"field": "spent", "keyed": True, "ranges": [{"key": "few", "to": 100}, {"from": 100}]}})),
    (L, a(r={"date_range": {"field": "@timestamp", "ranges": [{"to": "2026-01-01||+12h"}, {"from": "2026-01-02"}]}})),
    (L, a(r={"date_range": {"field": "@timestamp", "format": "yyyy-MM-dd", "ranges": [{"from": "2026-01-01", "to": "2026-01-02"}]}})),
    (L, a(m={"missing": {"field": "service.name"}})),
    (L, a(g={"global": {}, "aggs": {"n": {"value_count": {"field": "tags.keyword"}}}}) | {"query": LEVEL}),
    (L, a(x={"max": {"field": "@timestamp"}}, y={"min": {"field": "spent"}}, z={"avg": {"field": "size"}}, w={"sum": {"field": "spent"}})),
    (L, a(x={"max": {"field": "nothing"}}, y={"sum": {"field": "nothing"}}, z={"avg": {"field": "spent", "missing": 0}})),
    (L, a(x={"stats": {"field": "spent"}}, y={"stats": {"field": "nothing"}})),
    (
        L,
        a(
            x={"value_count": {"field": "tags.keyword"}},
            y={"cardinality": {"field": "kubernetes.pod.name"}},
            z={"cardinality": {"field": "spent"}},
        ),
    ),
    (L, a(x={"cardinality": {"field": "nothing"}}, y={"min": {"field": "@timestamp"}, "meta": {"a": 1}})),
    (
        L,
        a(
            s={
                "terms": {"field": "service.name"},
                "aggs": {"l": {"top_hits": {"size": 2, "sort": [{"@timestamp": "desc"}], "_source": ["message", "kubernetes.pod.name"]}}},
            }
        ),
    ),
    (
        L,
        a(c={"composite": {"size": 4, "sources": [{"o": {"terms": {"field": "ok"}}}, {"l": {"terms": {"field": "log.level"}}}]}}),
    ),
    (
        L,
        a(
            c={
                "composite": {
                    "size": 3,
                    "sources": [
                        {"d": {"date_histogram": {"field": "@timestamp", "calendar_interval": "1d"}}},
                        {"s": {"terms": {"field": "service.name", "order": "desc", "missing_bucket": True}}},
                    ],
                    "after": {"d": 1767225600000, "s": "checkout"},
                }
            }
        ),
    ),
    (L, a(t={"significant_terms": {"field": "message.keyword"}}) | {"query": {"term": {"log.level": "error"}}}),
    # refusals
    (L, {"query": {"foo": {}}}),
    (L, {"foo": 1}),
    (L, {"query": {"term": {"spent": "abc"}}}),
    (L, {"query": {"range": {"spent": {"gt": "abc"}}}}),
    (L, {"query": {"match": {"a": "b", "c": "d"}}}),
    (L, {"size": 10001}),
    (L, {"size": -1}),
    (L, {"sort": ["nothing"]}),
    (L, {"sort": ["message"]}),
    (L, a(x={"terms": {"field": "message"}})),
    (L, a(x={"foo": {}})),
    (L, a(x={"avg": {"field": "service.name"}})),
    (L, a(x={"date_histogram": {"field": "@timestamp"}})),
    (L, {"query": {"range": {"@timestamp": {"gte": "yesterday"}}}}),
    (L, {"query": {"bool": {"foo": []}}}),
    (L, {"sort": [{"@timestamp": {"order": "asc", "format": "strict_date_optional_time"}}], "size": 3}),
    ("nowhere", {}),
    ("nowhere-*", {}),
    ("odd,nowhere", {}),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[tuple[Node, Node]]:
    need_servers("opensearch")
    with embedded(tmp_path_factory.mktemp("embedded")) as ours, real(tmp_path_factory.mktemp("opensearch")) as theirs:
        fill(ours)
        fill(theirs)
        yield ours, theirs


def comparable(answer: Any, path: str = "") -> Any:
    """Without what differs from run to run; scores and other numbers rounded."""
    if isinstance(answer, dict):
        # the real one also leaves out shards that cannot match, and may find an error while it looks for them
        dropped = {
            "took",
            "skipped",
            "phase",
            "index_uuid",
            "node",
            "doc_count_error_upper_bound",
            "line",
            "col",
            "caused_by",
            "_version",
            "grouped",
        }
        result = {key: comparable(value, f"{path}.{key}") for key, value in answer.items() if key not in dropped}
        if "failed_shards" in result:
            del result["failed_shards"]
            result["root_cause"] = result["root_cause"][:1]
        if "root_cause" in result:  # every shard adds one on the real node
            result["root_cause"] = [{key: value for key, value in cause.items() if key != "index"} for cause in result["root_cause"]][:1]
        if "reason" in result and isinstance(result["reason"], str):
            result["reason"] = re.sub(r"\[\d+:\d+\] ?", "", result["reason"])
        return result
    if isinstance(answer, list):
        return [comparable(item, path) for item in answer]
    if isinstance(answer, float):
        return float(f"{answer:.5g}")
    return answer


@pytest.mark.real
@pytest.mark.parametrize(("index", "body"), SEARCHES, ids=[f"{number}-{str(body)[:60]}" for number, (_index, body) in enumerate(SEARCHES)])
def test_search_gives_what_the_real_one_gives(both: tuple[Node, Node], index: str, body: dict[str, Any]) -> None:
    ours, theirs = (node.search(index, body) for node in both)
    assert (ours[0], comparable(ours[1])) == (theirs[0], comparable(theirs[1]))
