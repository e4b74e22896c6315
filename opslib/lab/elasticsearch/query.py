"""The query language: which documents match, and how well (BM25, as Lucene reckons it)."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from opslib.lab.elasticsearch import dates
from opslib.lab.elasticsearch.analysis import tokens
from opslib.lab.elasticsearch.errors import Refused, ShardRefused
from opslib.lab.elasticsearch.index import Column, Index, Mask
from opslib.lab.elasticsearch.mapping import INTEGERS, KEYWORDS

Scores = npt.NDArray[np.float64]
_K1, _B = 1.2, 0.75


@dataclass(slots=True)
class Hits:
    """Which documents match, and their scores, which mean nothing elsewhere."""

    mask: Mask
    scores: Scores


@dataclass(frozen=True, slots=True)
class Context:
    """What a query is evaluated on."""

    index: Index
    now: int

    @property
    def size(self) -> int:
        return len(self.index.names)

    def nothing(self) -> Hits:
        return Hits(np.zeros(self.size, bool), np.zeros(self.size))

    def constant(self, mask: Mask, score: float = 1.0) -> Hits:
        return Hits(mask, np.where(mask, score, 0.0))


def evaluate(context: Context, query: Any) -> Hits:
    """The documents that a query matches, deleted ones among them.

    Raises
    ------
    Refused
        The query is not valid.
    ShardRefused
        It does not fit the fields of this index.
    """
    name, body = _only(query)
    handler = _QUERIES.get(name)
    if handler is None:
        cause = {"type": "named_object_not_found_exception", "reason": f"[1:1] unknown field [{name}]"}
        raise Refused(400, "parsing_exception", f"unknown query [{name}]", line=1, col=1, caused_by=cause)
    hits = handler(context, body)
    boost = body.get("boost", 1.0) if isinstance(body, Mapping) else 1.0
    if isinstance(boost, int | float) and boost != 1 and name in ("bool", "match_all", "constant_score", "dis_max", "ids"):
        hits = Hits(hits.mask, hits.scores * boost)
    return hits


def check(query: Any) -> None:
    """Refuse what is not a query, as is done before any index is asked."""
    name, body = _only(query)
    if name not in _QUERIES:
        cause = {"type": "named_object_not_found_exception", "reason": f"[1:1] unknown field [{name}]"}
        raise Refused(400, "parsing_exception", f"unknown query [{name}]", line=1, col=1, caused_by=cause)
    if name == "bool" and isinstance(body, Mapping):
        for clause in ("must", "filter", "should", "must_not"):
            for item in _listed(body.get(clause)):
                check(item)


def _only(query: Any) -> tuple[str, Any]:
    if not isinstance(query, Mapping):
        raise Refused(400, "parsing_exception", "[_na] query malformed, must start with start_object", line=1, col=1)
    if not query:
        raise Refused(400, "illegal_argument_exception", "query malformed, empty clause found at [1:1]")
    name, body = next(iter(query.items()))
    if len(query) > 1:
        raise Refused(400, "parsing_exception", f"[{name}] malformed query, expected [END_OBJECT] but found [FIELD_NAME]", line=1, col=1)
    return str(name), body


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _field(body: Any, name: str, short: str) -> tuple[str, dict[str, Any]]:
    """The field of a query and its options; `short` is what a bare value stands for."""
    if not isinstance(body, Mapping) or not body:
        raise Refused(400, "parsing_exception", f"[{name}] query malformed, no start_object after query name", line=1, col=1)
    names = [key for key in body if key not in ("boost", "_name")]
    if len(names) != 1:
        first, second = [*names, "", ""][:2]
        reason = f"[{name}] query doesn't support multiple fields, found [{first}] and [{second}]"
        raise Refused(400, "parsing_exception", reason, line=1, col=1)
    options = body[names[0]]
    result = dict(options) if isinstance(options, Mapping) else {short: options}
    return str(names[0]), result


# --- values ---


def _values(context: Context, name: str, value: Any) -> Any:
    """A value of a query as the field's column has it."""
    kind = context.index.mapping.type_of(name)
    if kind is None or kind in KEYWORDS or kind in ("text", "match_only_text"):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if kind == "boolean":
        if value in (True, "true"):
            return 1
        if value in (False, "false", ""):
            return 0
        raise _unparsed(f"Can't parse boolean value [{value}], expected [true] or [false]", "illegal_argument_exception")
    if kind in ("date", "date_nanos"):
        try:
            return dates.resolve(value, context.index.mapping.format_of(name), context.now)
        except dates.NotADate as error:
            raise _unparsed(str(error), "parse_exception", plain=True) from error
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise _unparsed(f'For input string: "{value}"', "number_format_exception") from error
    return int(value) if kind in INTEGERS and isinstance(value, int) else number


def _unparsed(reason: str, kind: str, *, plain: bool = False) -> ShardRefused:
    if plain:
        return ShardRefused(kind, reason)
    return ShardRefused(
        "query_shard_exception", f"failed to create query: {reason}", query=True, caused_by={"type": kind, "reason": reason}
    )


def _docs(context: Context, column: Column, chosen: npt.NDArray[np.bool_]) -> Mask:
    mask = np.zeros(context.size, bool)
    mask[column.docs[chosen]] = True
    return mask


def _is_text(context: Context, name: str) -> bool:
    return context.index.mapping.type_of(name) in ("text", "match_only_text")


# --- scores ---


def _idf(total: int, having: int) -> float:
    return math.log(1 + (total - having + 0.5) / (having + 0.5))


def _term_scores(context: Context, column: Column, number: int, boost: float) -> Hits:
    """Documents with a word or keyword, and BM25."""
    size = context.size
    if column.kind == "text":
        frequency = np.bincount(column.words.docs_of(number), minlength=size).astype(float)
        mask = frequency > 0
        weight, holders = _weights(context, column, frequency)
    else:
        mask = _docs(context, column, column.values == number)
        having = np.zeros(size, bool)
        having[column.docs] = True
        weight, holders = np.ones(size), int(having.sum())
    scores = boost * _idf(holders, int(mask.sum())) * weight
    return Hits(mask, np.where(mask, scores, 0.0))


def _weights(context: Context, column: Column, frequency: Scores) -> tuple[Scores, int]:
    """The part of BM25 that comes from a document's own words, and how many documents have any."""
    lengths = np.bincount(column.docs, weights=column.lengths, minlength=context.size).astype(np.float64)
    holders = int((lengths > 0).sum())
    average = float(lengths.sum()) / max(1, holders)
    weight = (_K1 + 1) * frequency / (frequency + _K1 * (1 - _B + _B * _norm(lengths) / max(average, 1e-9)))
    return weight, holders


def _norm(lengths: Scores) -> Scores:
    """Lengths as Lucene keeps them: exact up to 40, with four significant bits above (SmallFloat.intToByte4)."""
    whole = lengths.astype(np.int64)
    shift = np.maximum(np.floor(np.log2(np.maximum(whole - 24, 1))).astype(np.int64) - 3, 0)
    return np.where(whole < 40, whole, 24 + (((whole - 24) >> shift) << shift)).astype(float)


# --- term level ---


def _term(context: Context, body: Any) -> Hits:
    name, options = _field(body, "term", "value")
    return term(context, name, options.get("value"), float(options.get("boost", 1.0)), bool(options.get("case_insensitive")))


def term(context: Context, name: str, value: Any, boost: float = 1.0, insensitive: bool = False) -> Hits:
    """Documents whose field has exactly this value."""
    if value is None:
        raise Refused(400, "illegal_argument_exception", "value cannot be null")
    column = context.index.column(name)
    wanted = _values(context, name, value)
    if column is None:
        return context.nothing()
    if column.kind in ("keyword", "text"):
        if insensitive:
            return _by_terms(context, column, lambda known: known.lower() == str(wanted).lower())
        number = column.numbers.get(str(wanted))
        return context.nothing() if number is None else _term_scores(context, column, number, boost)
    return context.constant(_docs(context, column, column.values == wanted), boost)


def _terms(context: Context, body: Any) -> Hits:
    names = [key for key in body if key not in ("boost", "_name")]
    if len(names) != 1 or not isinstance(body[names[0]], list):
        raise Refused(400, "parsing_exception", "[terms] query does not support [" + (names[0] if names else "") + "]", line=1, col=1)
    name = names[0]
    values = [_values(context, name, value) for value in body[name]]
    column = context.index.column(name)
    if column is None:
        return context.nothing()
    score = float(body.get("boost", 1.0))
    if column.kind in ("keyword", "text"):
        numbers = {column.numbers[str(value)] for value in values if str(value) in column.numbers}
        return context.constant(_with_numbers(context, column, numbers), score)
    return context.constant(_docs(context, column, np.isin(column.values, values)), score)


def _with_numbers(context: Context, column: Column, numbers: set[int]) -> Mask:
    mask = np.zeros(context.size, bool)
    if numbers:
        if column.kind == "text":
            for number in numbers:
                mask[column.words.docs_of(number)] = True
            return mask
        chosen = np.zeros(len(column.terms), bool)
        chosen[list(numbers)] = True
        mask[column.docs[chosen[column.values]]] = True
    return mask


def _by_terms(context: Context, column: Column, test: Callable[[str], bool]) -> Hits:
    numbers = {number for number, known in enumerate(column.terms) if test(known)}
    return context.constant(_with_numbers(context, column, numbers))


def _pattern(name: str, short: str, compiled: Callable[[str, bool], Callable[[str], bool]]) -> Callable[[Context, Any], Hits]:
    def query(context: Context, body: Any) -> Hits:
        field, options = _field(body, name, short)
        text = options.get(short, options.get("wildcard", options.get("value")))
        column = context.index.column(field)
        if column is None:
            return context.nothing()
        if column.kind not in ("keyword", "text"):
            kind = context.index.mapping.type_of(field)
            reason = f"Can only use {name} queries on keyword, text and wildcard fields - not on [{field}] which is of type [{kind}]"
            raise _unparsed(reason, "query_shard_exception")
        hits = _by_terms(context, column, compiled(str(text), bool(options.get("case_insensitive"))))
        return context.constant(hits.mask, float(options.get("boost", 1.0)))

    return query


def wildcard_test(text: str, insensitive: bool = False) -> Callable[[str], bool]:
    """A test for a pattern with * and ?, and a backslash before what is meant as it is."""
    parts = re.findall(r"\\.|[*?]|[^\\*?]+|\\$", text)
    expression = "".join(
        {"*": ".*", "?": "."}.get(part, re.escape(part[1:] if part[0] == "\\" and len(part) > 1 else part)) for part in parts
    )
    compiled = re.compile(expression, re.DOTALL | (re.IGNORECASE if insensitive else 0))
    return lambda term: compiled.fullmatch(term) is not None


def _prefix_test(text: str, insensitive: bool) -> Callable[[str], bool]:
    if insensitive:
        return lambda term: term.lower().startswith(text.lower())
    return lambda term: term.startswith(text)


def regexp_test(text: str, insensitive: bool = False) -> Callable[[str], bool]:
    """A test for one of Lucene's regular expressions, as far as they are like others': no ~, &, <1-9>."""
    if re.search(r"(?<!\\)[~&<@]", text):
        raise Refused(400, "illegal_argument_exception", f"the operators ~ & < @ in [{text}] are not there in the embedded Elasticsearch")
    try:
        compiled = re.compile(re.sub(r"(?<!\\)([\^$])", r"\\\1", text), re.DOTALL | (re.IGNORECASE if insensitive else 0))
    except re.error as error:
        raise _unparsed(str(error), "illegal_argument_exception") from error
    return lambda term: compiled.fullmatch(term) is not None


def _exists(context: Context, body: Any) -> Hits:
    if not isinstance(body, Mapping) or "field" not in body:
        raise Refused(400, "parsing_exception", "[exists] must be provided with a [field]", line=1, col=1)
    return context.constant(existing(context, str(body["field"])), float(body.get("boost", 1.0)))


def existing(context: Context, name: str) -> Mask:
    """Documents that have a field, or one below it."""
    mask = np.zeros(context.size, bool)
    for known, column in context.index.columns.items():
        if (known == name or (known.startswith(f"{name}.") and name in context.index.mapping.objects)) or fnmatch.fnmatchcase(known, name):
            mask[column.docs] = True
    if name in ("_id", "_index"):
        mask[:] = True
    return mask


def _ids(context: Context, body: Any) -> Hits:
    mask = np.zeros(context.size, bool)
    for id in _listed(body.get("values")):
        doc = context.index.ids.get(str(id))
        if doc is not None:
            mask[doc] = True
    return context.constant(mask)


_BOUNDS = ("gt", "gte", "lt", "lte", "from", "to", "include_lower", "include_upper", "format", "time_zone", "boost", "relation", "_name")


def _range(context: Context, body: Any) -> Hits:
    name, options = _field(body, "range", "")
    for key in options:
        if key not in _BOUNDS:
            raise Refused(400, "parsing_exception", f"[range] query does not support [{key}]", line=1, col=1)
    return context.constant(in_range(context, name, options), float(options.get("boost", 1.0)))


def in_range(context: Context, name: str, options: Mapping[str, Any]) -> Mask:
    """Documents with a value between bounds."""
    bounds = {key: options.get(key) for key in ("gt", "gte", "lt", "lte")}
    if options.get("from") is not None:
        bounds["gte" if options.get("include_lower", True) else "gt"] = options["from"]
    if options.get("to") is not None:
        bounds["lte" if options.get("include_upper", True) else "lt"] = options["to"]
    bounds = {key: value for key, value in bounds.items() if value is not None}
    kind = context.index.mapping.type_of(name)
    limits = {key: _bound(context, name, kind, key, value, options) for key, value in bounds.items()}
    column = context.index.column(name)
    if column is None:
        return np.zeros(context.size, bool)
    if column.kind in ("keyword", "text"):
        tests = {"gt": lambda a, b: a > b, "gte": lambda a, b: a >= b, "lt": lambda a, b: a < b, "lte": lambda a, b: a <= b}
        wanted = {key: str(value).encode() for key, value in limits.items()}
        numbers = {
            number for number, known in enumerate(column.terms) if all(tests[key](known.encode(), value) for key, value in wanted.items())
        }
        return _with_numbers(context, column, numbers)
    values = column.values
    chosen = np.ones(len(values), bool)
    for key, value in limits.items():
        chosen &= {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}[key](values, value)
    return _docs(context, column, chosen)


def _bound(context: Context, name: str, kind: str | None, key: str, value: Any, options: Mapping[str, Any]) -> Any:
    if kind not in ("date", "date_nanos"):
        return _values(context, name, value)
    try:
        zone = dates.zone_of(options.get("time_zone"))
        form = str(options.get("format") or context.index.mapping.format_of(name))
        return dates.resolve(value, form, context.now, zone=zone, up=key in ("gt", "lte"))
    except dates.NotADate as error:
        caused = {"type": "illegal_argument_exception", "reason": str(error)}
        raise ShardRefused("parse_exception", f"{error}: [{error}]", caused_by=caused) from error


# --- texts ---


def _match(context: Context, body: Any) -> Hits:
    name, options = _field(body, "match", "query")
    if options.get("fuzziness") not in (None, 0, "0"):
        raise Refused(400, "illegal_argument_exception", "[fuzziness] is not there in the embedded Elasticsearch")
    return match(context, name, options.get("query"), options)


def match(context: Context, name: str, text: Any, options: Mapping[str, Any]) -> Hits:
    """Documents with some, or all, of the words of a text."""
    boost = float(options.get("boost", 1.0))
    if not _is_text(context, name):
        return term(context, name, text, boost)
    words = tokens(str(text))
    if not words:
        return context.constant(np.ones(context.size, bool)) if options.get("zero_terms_query") == "all" else context.nothing()
    column = context.index.column(name)
    if column is None:
        return context.nothing()
    found = []
    for word in words:
        number = column.numbers.get(word)
        found.append(context.nothing() if number is None else _term_scores(context, column, number, boost))
    if str(options.get("operator", "or")).lower() == "and":
        needed = len(words)
    else:
        needed = minimum(options.get("minimum_should_match"), len(words), 1)
    count = np.sum([hits.mask for hits in found], axis=0)
    mask = count >= max(1, needed)
    return Hits(mask, np.where(mask, np.sum([hits.scores for hits in found], axis=0), 0.0))


def minimum(value: Any, clauses: int, default: int) -> int:
    """How many of the clauses must match, from a number or a share (-1, "75%")."""
    if value is None:
        return default
    text = str(value).strip()
    if text.endswith("%"):
        share = float(text[:-1])
        number = int(clauses * abs(share) / 100)
        return clauses - number if share < 0 else number
    number = int(text)
    return max(0, clauses + number) if number < 0 else min(number, clauses) if clauses else number


def _match_phrase(context: Context, body: Any) -> Hits:
    name, options = _field(body, "match_phrase", "query")
    if options.get("slop"):
        raise Refused(400, "illegal_argument_exception", "[slop] is not there in the embedded Elasticsearch")
    return phrase(context, name, options.get("query"), float(options.get("boost", 1.0)))


def _match_phrase_prefix(context: Context, body: Any) -> Hits:
    name, options = _field(body, "match_phrase_prefix", "query")
    return phrase(context, name, options.get("query"), float(options.get("boost", 1.0)), prefix=True)


def phrase(context: Context, name: str, text: Any, boost: float = 1.0, *, prefix: bool = False) -> Hits:
    """Documents with the words of a text one after another; `prefix`: the last one may go on."""
    if not _is_text(context, name):
        return term(context, name, text, boost)
    column = context.index.column(name)
    words = tokens(str(text))
    if column is None or not words:
        return context.nothing()
    numbers = [column.numbers.get(word) for word in words]
    last = {number for number, known in enumerate(column.terms) if known.startswith(words[-1])} if prefix else set()
    if None in (numbers[:-1] if prefix else numbers) or (prefix and not last):
        return context.nothing()
    if len(words) == 1 and not prefix:
        return _term_scores(context, column, int(numbers[0] or 0), boost)
    values, index = column.values, column.words
    # from the places of the rarest word, look at its neighbours
    known = [(place, number) for place, number in enumerate(numbers) if number is not None and not (prefix and place == len(words) - 1)]
    if known:
        offset, rarest = min(known, key=lambda item: len(index.places(item[1])))
        starts = index.places(rarest) - offset
    else:
        starts = np.sort(np.concatenate([index.places(number) for number in last]))
    starts = starts[(starts >= 0) & (starts + len(words) <= len(values))]
    for place, number in enumerate(numbers):
        part = values[starts + place]
        starts = starts[np.isin(part, list(last)) if prefix and place == len(words) - 1 else part == number]
    owner = index.owner
    starts = starts[owner[starts] == owner[starts + len(words) - 1]]  # a phrase does not go over the end of a text
    docs = column.docs[owner[starts]]
    mask = np.zeros(context.size, bool)
    mask[docs] = True
    frequency = np.bincount(docs, minlength=context.size).astype(float)
    weight, holding = _weights(context, column, frequency)
    total = 0.0
    for number in [number for number in numbers if number is not None]:
        holders = np.zeros(context.size, bool)
        holders[index.docs_of(number)] = True
        total += _idf(holding, int(holders.sum()))
    return Hits(mask, np.where(mask, boost * total * weight, 0.0))


def _multi_match(context: Context, body: Any) -> Hits:
    names = _expanded(context, _listed(body.get("fields")) or ["*"])
    kind = body.get("type", "best_fields")
    found = []
    for name, boost in names:
        options = {**body, "boost": boost}
        try:
            if kind in ("phrase", "phrase_prefix"):
                found.append(phrase(context, name, body.get("query"), boost, prefix=kind == "phrase_prefix"))
            else:
                found.append(match(context, name, body.get("query"), options))
        except ShardRefused:
            if not body.get("lenient") and body.get("fields"):
                raise
    return _best(context, found, float(body.get("tie_breaker", 1.0 if kind == "most_fields" else 0.0)))


def _expanded(context: Context, names: Sequence[str]) -> list[tuple[str, float]]:
    result: list[tuple[str, float]] = []
    for item in names:
        name, _caret, boost = item.partition("^")
        if "*" in name:
            known = [field for field in context.index.mapping.fields if fnmatch.fnmatchcase(field, name)]
            result += [(field, float(boost or 1)) for field in known]
        else:
            result.append((name, float(boost or 1)))
    return result


def _best(context: Context, found: Sequence[Hits], tie: float) -> Hits:
    if not found:
        return context.nothing()
    mask = np.any([hits.mask for hits in found], axis=0)
    scores = np.array([hits.scores for hits in found])
    best = scores.max(axis=0)
    return Hits(mask, best + tie * (scores.sum(axis=0) - best))


# --- compound ---


def _bool(context: Context, body: Any) -> Hits:
    for key in body:
        if key not in ("must", "filter", "should", "must_not", "minimum_should_match", "boost", "_name", "adjust_pure_negative"):
            raise Refused(400, "x_content_parse_exception", f"[1:1] [bool] unknown field [{key}]")
    must = [evaluate(context, item) for item in _listed(body.get("must"))]
    filters = [evaluate(context, item) for item in _listed(body.get("filter"))]
    should = [evaluate(context, item) for item in _listed(body.get("should"))]
    must_not = [evaluate(context, item) for item in _listed(body.get("must_not"))]
    mask = np.ones(context.size, bool)
    scores = np.zeros(context.size)
    for hits in must:
        mask &= hits.mask
        scores += hits.scores
    for hits in filters:
        mask &= hits.mask
    needed = minimum(body.get("minimum_should_match"), len(should), 0 if must or filters else min(1, len(should)))
    if should:
        count = np.sum([hits.mask for hits in should], axis=0)
        mask &= count >= needed
        scores += np.sum([hits.scores for hits in should], axis=0)
    for hits in must_not:
        mask &= ~hits.mask
    if not must and not should and not filters:
        scores = np.ones(context.size) if not must_not else np.zeros(context.size)
    return Hits(mask, np.where(mask, scores, 0.0))


def _constant_score(context: Context, body: Any) -> Hits:
    return context.constant(evaluate(context, body.get("filter")).mask)


def _dis_max(context: Context, body: Any) -> Hits:
    return _best(context, [evaluate(context, item) for item in _listed(body.get("queries"))], float(body.get("tie_breaker", 0.0)))


def _match_all(context: Context, body: Any) -> Hits:
    return context.constant(np.ones(context.size, bool))


def _match_none(context: Context, body: Any) -> Hits:
    return context.nothing()


def _query_string(context: Context, body: Any) -> Hits:
    from opslib.lab.elasticsearch.lucene import query_string

    return query_string(context, body)


def _simple_query_string(context: Context, body: Any) -> Hits:
    from opslib.lab.elasticsearch.lucene import simple_query_string

    return simple_query_string(context, body)


_QUERIES: dict[str, Callable[[Context, Any], Hits]] = {
    "match_all": _match_all,
    "match_none": _match_none,
    "match": _match,
    "match_phrase": _match_phrase,
    "match_phrase_prefix": _match_phrase_prefix,
    "multi_match": _multi_match,
    "term": _term,
    "terms": _terms,
    "range": _range,
    "exists": _exists,
    "ids": _ids,
    "prefix": _pattern("prefix", "value", _prefix_test),
    "wildcard": _pattern("wildcard", "value", wildcard_test),
    "regexp": _pattern("regexp", "value", regexp_test),
    "bool": _bool,
    "constant_score": _constant_score,
    "dis_max": _dis_max,
    "query_string": _query_string,
    "simple_query_string": _simple_query_string,
}
