"""Searches: query, order, page, source, aggregations, over one or several indices."""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from opslib.lab.elasticsearch import aggregations, dates
from opslib.lab.elasticsearch import query as queries
from opslib.lab.elasticsearch.aggregations import Part
from opslib.lab.elasticsearch.errors import Refused, ShardRefused, illegal
from opslib.lab.elasticsearch.index import Index
from opslib.lab.elasticsearch.query import Context, Hits

_KNOWN = {
    "query", "from", "size", "sort", "_source", "aggs", "aggregations", "track_total_hits", "search_after", "pit", "min_score", "timeout",
    "track_scores", "version", "seq_no_primary_term", "stored_fields", "docvalue_fields", "fields", "terminate_after", "post_filter",
    "highlight", "explain", "profile", "stats", "indices_boost", "script_fields", "runtime_mappings", "ext",
}  # fmt: skip
_LAST = {"integer": (2**63 - 1, -(2**63)), "float": (math.inf, -math.inf)}


@dataclass(frozen=True, slots=True)
class _Order:
    """One criterion of an order."""

    field: str
    descending: bool
    missing: Any = "_last"
    unmapped: str | None = None


def search(indices: Sequence[Index], body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a search.

    Raises
    ------
    Refused
        It is not valid.
    """
    started = time.perf_counter()
    for key, value in body.items():
        if key not in _KNOWN:
            token = {bool: "VALUE_BOOLEAN", dict: "START_OBJECT", list: "START_ARRAY", str: "VALUE_STRING"}.get(type(value), "VALUE_NUMBER")
            raise Refused(400, "parsing_exception", f"Unknown key for a {token} in [{key}].", line=1, col=2)
        if key in ("highlight", "script_fields", "runtime_mappings", "stored_fields"):
            raise illegal(f"[{key}] is not there in the embedded Elasticsearch")
    size, begin = int(body.get("size", 10)), int(body.get("from", 0))
    if size < 0:
        raise illegal(f"[size] parameter cannot be negative, found [{size}]")
    query = body.get("query") or {"match_all": {}}
    queries.check(query)
    aggs = body.get("aggs") or body.get("aggregations")
    aggregations.check(aggs)
    now = int(time.time() * 1000)
    parts: list[Part] = []
    found: list[Hits] = []
    for index in indices:
        with _shard(index):
            if begin + size > 10_000:
                raise ShardRefused(
                    "illegal_argument_exception",
                    f"Result window is too large, from + size must be less than or equal to: [10000] but was [{begin + size}]. See the "
                    "scroll api for a more efficient way to request large data sets. This limit can be set by changing the "
                    "[index.max_result_window] index level setting.",
                )
            context = Context(index, now)
            hits = queries.evaluate(context, query)
            mask = hits.mask & index.live
            if body.get("min_score") is not None:
                mask &= hits.scores >= float(body["min_score"])
            parts.append(Part(context, np.flatnonzero(mask)))
            found.append(hits)
    total = sum(len(part.docs) for part in parts)
    fetched = parts
    if body.get("post_filter"):
        fetched = [part.of(queries.evaluate(part.context, body["post_filter"]).mask) for part in parts]
        total = sum(len(part.docs) for part in fetched)
    page = _page(fetched, found, body)
    result: dict[str, Any] = {
        "took": 0,
        "timed_out": False,
        "_shards": {"total": len(indices), "successful": len(indices), "skipped": 0, "failed": 0},
        "hits": {**_total(total, body.get("track_total_hits", True if not indices else None)), **page},
    }
    if aggs:
        run = aggregations.Run(now, lambda some, options: _inner(some, options, parts, found), _background(indices, now))
        try:
            result["aggregations"] = aggregations.compute(run, aggs, parts)
        except ShardRefused as error:
            raise _as_refused(error, indices[0]) from error
    result["took"] = int((time.perf_counter() - started) * 1000)
    return result


def _background(indices: Sequence[Index], now: int) -> list[Part]:
    return [Part(Context(index, now), np.flatnonzero(index.live)) for index in indices]


class _shard:
    """Within it, what an index refuses becomes the answer of a search that failed on it."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ShardRefused):
            raise _as_refused(error, self.index) from error


class SearchFailed(Refused):
    """All shards failed; `body` is the whole answer."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(400, "search_phase_execution_exception", "all shards failed")
        self.body = body

    def content(self) -> dict[str, Any]:
        """The answer's body."""
        return self.body


def _as_refused(error: ShardRefused, index: Index) -> SearchFailed:
    return SearchFailed(error.content(index.name, index.uuid))


def _total(total: int, tracked: Any) -> dict[str, Any]:
    if tracked is False:
        return {}
    limit = 10_000 if tracked is None else None if tracked is True else int(tracked)
    if limit is not None and total > limit:
        return {"total": {"value": limit, "relation": "gte"}}
    return {"total": {"value": total, "relation": "eq"}}


# --- order and page ---


def _orders(body: Mapping[str, Any]) -> list[_Order]:
    given = body.get("sort")
    result = []
    for item in given if isinstance(given, list) else [given] if given else []:
        if isinstance(item, str):
            name, _colon, direction = item.partition(":")
            result.append(_Order(name, (direction or ("desc" if name == "_score" else "asc")) == "desc"))
            continue
        for name, options in item.items():
            if isinstance(options, str):
                options = {"order": options}
            for key in options:
                if key not in ("order", "missing", "unmapped_type", "mode", "numeric_type", "nested"):
                    raise Refused(400, "x_content_parse_exception", f"[1:1] [field_sort] unknown field [{key}]")
            direction = options.get("order", "desc" if name == "_score" else "asc")
            if direction.lower() not in ("asc", "desc"):
                raise illegal(f"No enum constant org.opensearch.search.sort.SortOrder.{direction.upper()}")
            result.append(_Order(name, direction.lower() == "desc", options.get("missing", "_last"), options.get("unmapped_type")))
    return result


def _page(parts: Sequence[Part], found: Sequence[Hits], body: Mapping[str, Any]) -> dict[str, Any]:
    """max_score and hits."""
    size, begin = int(body.get("size", 10)), int(body.get("from", 0))
    orders = _orders(body)
    scored = not orders or any(order.field == "_score" for order in orders) or bool(body.get("track_scores"))
    best = max((float(hits.scores[part.docs].max()) for part, hits in zip(parts, found, strict=True) if len(part.docs)), default=None)
    ranked = bool(size) and (not orders or bool(body.get("track_scores")))
    result: dict[str, Any] = {"max_score": _single(best) if best is not None and ranked else None}
    if not parts and size:
        result["max_score"] = 0.0
    entries: list[tuple[tuple[Any, ...], int, int, list[Any]]] = []
    keep = begin + size
    for number, (part, hits) in enumerate(zip(parts, found, strict=True)):
        entries += _entries(number, part, hits, orders or [_Order("_score", True)], keep, body.get("search_after") if orders else None)
    entries.sort(key=lambda entry: (entry[0], entry[1], entry[2]))
    result["hits"] = [
        _hit(parts[number], found[number], doc, body, values if orders else None, scored)
        for _key, number, doc, values in entries[begin:keep]
    ]
    return result


def _single(value: float) -> float:
    """As a float of four bytes prints: scores are such."""
    return float(str(np.float32(value)))


def _entries(
    number: int, part: Part, hits: Hits, orders: Sequence[_Order], keep: int, after: Sequence[Any] | None
) -> list[tuple[tuple[Any, ...], int, int, list[Any]]]:
    """The first `keep` documents of an index in order: sort key, index, document, sort values."""
    if keep == 0 or not len(part.docs):
        for order in orders:
            _sort_column(part, order)
        return []
    ranks, columns = [], []
    docs = part.docs
    for order in orders:
        rank, values = _ranks(part, hits, order, docs)
        ranks.append(rank)
        columns.append(values)
    if after is not None:
        if len(after) != len(orders):
            reason = f"search_after has {len(after)} value(s) but sort has {len(orders)}."
            raise illegal(reason)
        limit = [_after_rank(part, order, value) for order, value in zip(orders, after, strict=True)]
        behind = np.zeros(len(docs), bool)
        same = np.ones(len(docs), bool)
        for rank, (low, exact) in zip(ranks, limit, strict=True):
            behind |= same & (rank > low)
            same &= (rank == low) & exact
        docs = docs[behind]
        ranks = [rank[behind] for rank in ranks]
        columns = [
            [values[place] for place in np.flatnonzero(behind)] if isinstance(values, list) else values[behind] for values in columns
        ]
    if not len(docs):
        return []
    order_ = np.lexsort((docs, *reversed(ranks)))[:keep]
    result = []
    for place in order_:
        values = [_sort_value(part, order, column[place]) for order, column in zip(orders, columns, strict=True)]
        key = tuple(_comparable(order, value, column[place]) for order, value, column in zip(orders, values, columns, strict=True))
        result.append((key, number, int(docs[place]), values))
    return result


def _sort_column(part: Part, order: _Order) -> Any:
    if order.field in ("_score", "_doc", "_shard_doc"):
        return None
    index = part.index
    kind = index.mapping.type_of(order.field)
    if kind is None and order.field not in ("_id", "_index"):
        if order.unmapped is None:
            with _shard(index):
                raise ShardRefused("query_shard_exception", f"No mapping found for [{order.field}] in order to sort on", query=True)
        return None
    with _shard(index):
        return aggregations._column(part, order.field)


def _ranks(part: Part, hits: Hits, order: _Order, docs: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """A rank that ascends in the order, and what the sort value is made from, for each document."""
    sign = -1 if order.descending else 1
    if order.field == "_score":
        scores = hits.scores[docs].astype(np.float32).astype(float)
        return sign * scores, scores
    if order.field in ("_doc", "_shard_doc"):
        return sign * docs, docs
    column = _sort_column(part, order)
    size = len(part.index.names)
    first = order.missing == "_first"
    if column is None:
        return np.zeros(len(docs)), np.full(len(docs), np.nan)
    values = column.order()[column.values].astype(float) if column.kind == "keyword" else column.values
    wide = np.full(size, -np.inf if order.descending else np.inf) if column.kind != "integer" else np.full(size, 0, np.int64)
    have = np.zeros(size, bool)
    have[column.docs] = True
    if column.kind == "integer":
        wide[:] = np.iinfo(np.int64).min if order.descending else np.iinfo(np.int64).max
    (np.maximum if order.descending else np.minimum).at(wide, column.docs, values)
    picked = wide[docs]
    missing = ~have[docs]
    if column.kind == "integer":
        rank = np.where(picked == np.iinfo(np.int64).min, np.iinfo(np.int64).max, -picked) if order.descending else picked
    else:
        rank = sign * picked
    if missing.any():
        if order.missing not in ("_first", "_last"):
            value = int(order.missing) if column.kind == "integer" else float(order.missing)
            picked = np.where(missing, value, picked)
            rank = np.where(missing, sign * value, rank)
        else:
            ends = (np.iinfo(np.int64).min, np.iinfo(np.int64).max) if column.kind == "integer" else (-np.inf, np.inf)
            rank = np.where(missing, ends[0 if first else 1], rank)
            picked = np.where(missing, ends[0 if first != order.descending else 1], picked)
    if column.kind == "keyword":
        by_rank = np.empty(len(column.terms), object)
        by_rank[column.order()] = column.terms
        return rank, [None if gap else by_rank[int(value)] for value, gap in zip(picked, missing, strict=True)]
    return rank, picked


def _after_rank(part: Part, order: _Order, value: Any) -> tuple[Any, bool]:
    """The rank that a value of search_after stands at, and whether documents can have just that rank."""
    sign = -1 if order.descending else 1
    if order.field in ("_score", "_doc", "_shard_doc"):
        return sign * value, True
    column = _sort_column(part, order)
    if column is None:
        return 0, True
    if column.kind == "keyword":
        if value is None:
            return np.inf, True
        ordered = sorted(term.encode() for term in column.terms)
        place = int(np.searchsorted(np.array(ordered, object), str(value).encode())) if ordered else 0
        exact = str(value) in column.numbers
        if exact:
            return sign * place, True
        return sign * (place - 0.5), False
    if value is None:
        return (np.iinfo(np.int64).max if column.kind == "integer" else np.inf), True
    if isinstance(value, str) and part.index.mapping.type_of(order.field) in ("date", "date_nanos"):
        value = dates.resolve(value, part.index.mapping.format_of(order.field), part.context.now)
    number = int(value) if column.kind == "integer" else float(value)
    if order.descending and column.kind == "integer":
        return (np.iinfo(np.int64).max if number == np.iinfo(np.int64).min else -number), True
    return sign * number, True


def _sort_value(part: Part, order: _Order, raw: Any) -> Any:
    if raw is None or isinstance(raw, str):
        return raw
    value = raw.item() if hasattr(raw, "item") else raw
    if isinstance(value, float) and (math.isnan(value) or (order.unmapped and _sort_column(part, order) is None)):
        return None if order.unmapped in ("keyword", None) else _LAST["integer"][1 if order.descending else 0]
    if order.field == "_score":
        return _single(value)
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


@dataclass(frozen=True, slots=True)
class _Descending:
    """A key that sorts the other way."""

    value: Any

    def __lt__(self, other: _Descending) -> bool:
        return bool(other.value < self.value)


def _comparable(order: _Order, value: Any, raw: Any) -> Any:
    """A sort value that compares with those of other indices."""
    gone = value is None
    last = 0 if gone and order.missing == "_first" else 2 if gone else 1
    inner: Any = 0 if gone else value.encode() if isinstance(value, str) and isinstance(raw, str) else float(raw)
    return (last, _Descending(inner) if order.descending else inner)


# --- hits ---


def _hit(part: Part, hits: Hits, doc: int, body: Mapping[str, Any], values: list[Any] | None, scored: bool) -> dict[str, Any]:
    index = part.index
    id = index.names[doc]
    result: dict[str, Any] = {"_index": index.name, "_id": id, "_score": _single(float(hits.scores[doc])) if scored else None}
    if body.get("version"):
        result["_version"] = index.versions.get(id, 1)
    wanted = body.get("_source", True)
    if wanted is not False:
        source = index.source(doc)
        result["_source"] = msgspec.Raw(source) if wanted is True else filtered(msgspec.json.decode(source), wanted)
    fields = {}
    for item in [*(body.get("docvalue_fields") or ()), *(body.get("fields") or ())]:
        name, form = (item, None) if isinstance(item, str) else (item["field"], item.get("format"))
        for known in [field for field in index.mapping.fields if fnmatch.fnmatchcase(field, name)]:
            found = _doc_values(index, known, doc, form)
            if found:
                fields[known] = found
    if fields:
        result["fields"] = fields
    if values is not None:
        result["sort"] = values
    return result


def _doc_values(index: Index, name: str, doc: int, form: str | None) -> list[Any]:
    column = index.column(name)
    if column is None or column.kind == "text":
        return []
    begin, end = np.searchsorted(column.docs, [doc, doc + 1])
    kind = index.mapping.type_of(name)
    result: list[Any] = []
    for raw in column.values[begin:end].tolist():
        if column.kind == "keyword":
            result.append(column.terms[raw])
        elif kind in ("date", "date_nanos"):
            result.append(dates.write(raw, form or index.mapping.format_of(name)))
        else:
            result.append(bool(raw) if kind == "boolean" else raw)
    return result


def filtered(source: Any, wanted: Any) -> Any:
    """A source with the fields that are wanted alone; names may have stars, and stand for all below them."""
    if isinstance(wanted, str):
        wanted = [wanted]
    if isinstance(wanted, list):
        includes, excludes = wanted, []
    else:
        includes = wanted.get("includes", wanted.get("include", []))
        excludes = wanted.get("excludes", wanted.get("exclude", []))
        includes = [includes] if isinstance(includes, str) else includes
        excludes = [excludes] if isinstance(excludes, str) else excludes
    return _filtered(source, "", list(includes), list(excludes), not includes)


def _filtered(value: Any, path: str, includes: list[str], excludes: list[str], taken: bool) -> Any:
    if isinstance(value, list):
        items = [_filtered(item, path, includes, excludes, taken) if isinstance(item, dict | list) else item for item in value]
        return [item for item in items if taken or not isinstance(item, dict) or item]
    result = {}
    for key, item in value.items():
        name = f"{path}{key}"
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in excludes):
            continue
        inside = taken or any(fnmatch.fnmatchcase(name, pattern) for pattern in includes)
        if isinstance(item, dict) or (isinstance(item, list) and any(isinstance(one, dict) for one in item)):
            below = _filtered(item, f"{name}.", includes, excludes, inside)
            if below or inside:
                result[key] = below
        elif inside:
            result[key] = item
    return result


def _inner(some: Sequence[Part], options: Mapping[str, Any], parts: Sequence[Part], found: Sequence[Hits]) -> dict[str, Any]:
    """The hits of a top_hits aggregation."""
    by_index = {id(part.index): hits for part, hits in zip(parts, found, strict=True)}
    total = sum(len(part.docs) for part in some)
    page = _page(some, [by_index[id(part.index)] for part in some], options)
    return {"total": {"value": total, "relation": "eq"}, **page}
