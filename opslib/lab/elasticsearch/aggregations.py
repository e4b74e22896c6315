"""Aggregations over the columns of one or several indices."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

import numpy as np
import numpy.typing as npt

from opslib.lab.elasticsearch import dates
from opslib.lab.elasticsearch.errors import Refused, ShardRefused, illegal
from opslib.lab.elasticsearch.index import Column, Index
from opslib.lab.elasticsearch.mapping import INTEGERS
from opslib.lab.elasticsearch.query import Context, evaluate, existing, in_range, regexp_test

Docs = npt.NDArray[np.int64]
_MOST_BUCKETS = 65_535


@dataclass(frozen=True, slots=True)
class Part:
    """Some documents of an index."""

    context: Context
    docs: Docs

    @property
    def index(self) -> Index:
        return self.context.index

    def of(self, mask: npt.NDArray[np.bool_]) -> Part:
        """Those of them that are in a mask."""
        return Part(self.context, self.docs[mask[self.docs]])


Parts = Sequence[Part]
Fetch = Callable[[Parts, Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """What all aggregations of a search share: the time of now, how hits are fetched, and all live documents (a background)."""

    now: int
    fetch: Fetch
    background: Parts


def check(body: Any) -> None:
    """Refuse what is no aggregation, as is done before any index is asked."""
    for name, one in (body or {}).items():
        if not re.fullmatch(r"[^\[\]>]+", name):
            raise Refused(400, "parsing_exception", f"Invalid aggregation name [{name}]", line=1, col=1)
        kind = _kind(name, one)
        if kind not in _METRICS and kind not in _BUCKETS:
            cause = {"type": "named_object_not_found_exception", "reason": f"[1:1] unknown field [{kind}]"}
            raise Refused(400, "parsing_exception", f"Unknown aggregation type [{kind}]", line=1, col=1, caused_by=cause)
        check(one.get("aggs") or one.get("aggregations"))


def _kind(name: str, body: Any) -> str:
    kinds = [key for key in body if key not in ("aggs", "aggregations", "meta")] if isinstance(body, Mapping) else []
    if not kinds:
        raise Refused(400, "parsing_exception", f"Missing definition for aggregation [{name}]", line=1, col=1)
    if len(kinds) > 1:
        reason = f"Found two aggregation type definitions in [{name}]: [{kinds[0]}] and [{kinds[1]}]"
        raise Refused(400, "parsing_exception", reason, line=1, col=1)
    return str(kinds[0])


def compute(run: Run, body: Mapping[str, Any] | None, parts: Parts) -> dict[str, Any]:
    """The answers to aggregations, by name."""
    result = {}
    for name, one in (body or {}).items():
        kind = _kind(name, one)
        below = one.get("aggs") or one.get("aggregations") or {}
        options = one[kind] or {}
        if kind in _METRICS:
            result[name] = _METRICS[kind](run, options, parts)
        else:
            result[name] = _BUCKETS[kind](run, options, parts, below)
        if "meta" in one:
            result[name] = {"meta": one["meta"], **result[name]}
    return result


def _bucket(run: Run, key: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    return {**key, "doc_count": sum(len(part.docs) for part in parts), **compute(run, below, parts)}


# --- values ---


def _column(part: Part, name: str) -> Column | None:
    kind = part.index.mapping.type_of(name)
    if kind in ("text", "match_only_text") and not part.index.mapping.fields[name].get("fielddata"):
        raise ShardRefused(
            "illegal_argument_exception",
            "Text fields are not optimised for operations that require per-document field data like aggregations and sorting, so these "
            "operations are disabled by default. Please use a keyword field instead. Alternatively, set fielddata=true on "
            f"[{name}] in order to load field data by uninverting the inverted index. Note that this can use significant memory.",
        )
    return part.index.column(name)


def _pairs(part: Part, name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Documents and values of a field, of the documents that count."""
    column = _column(part, name)
    if column is None:
        return np.zeros(0, np.int32), np.zeros(0)
    chosen = np.zeros(len(part.index.names), bool)
    chosen[part.docs] = True
    keep = chosen[column.docs]
    return column.docs[keep], column.values[keep]


def _numbers(parts: Parts, options: Mapping[str, Any], agg: str) -> npt.NDArray[np.float64]:
    name = options.get("field")
    if name is None:
        raise Refused(400, "illegal_argument_exception", "Required one of fields [field, script], but none were specified. ")
    found = []
    for part in parts:
        kind = part.index.mapping.type_of(name)
        if kind in ("keyword", "ip", "wildcard", "version"):
            reason = f"Field [{name}] of type [{kind}] is not supported for aggregation [{agg}]"
            raise ShardRefused("illegal_argument_exception", reason)
        docs, values = _pairs(part, name)
        found.append(np.asarray(values, np.float64))
        if options.get("missing") is not None:
            found.append(np.full(len(part.docs) - len(np.unique(docs)), float(options["missing"])))
    return np.concatenate(found) if found else np.zeros(0)


def _date_format(parts: Parts, options: Mapping[str, Any]) -> str | None:
    """How values are written beside the numbers; None where the field is no date and no format is asked for."""
    if options.get("format"):
        return str(options["format"])
    for part in parts:
        if part.index.mapping.type_of(options.get("field", "")) in ("date", "date_nanos"):
            return part.index.mapping.format_of(options["field"])
    return None


def _zone(options: Mapping[str, Any]) -> tzinfo:
    try:
        return dates.zone_of(options.get("time_zone"))
    except dates.NotADate as error:
        raise illegal(str(error)) from error


# --- metrics ---


def _with_text(value: float, parts: Parts, options: Mapping[str, Any]) -> dict[str, Any]:
    form = _date_format(parts, options)
    result: dict[str, Any] = {"value": value}
    if (
        form is not None
        and math.isfinite(value)
        and any(part.index.mapping.type_of(options["field"]) in ("date", "date_nanos") for part in parts)
    ):
        result["value_as_string"] = dates.write(int(value), form)
    return result


def _single(function: Callable[[npt.NDArray[np.float64]], float], agg: str) -> Callable[[Run, Mapping[str, Any], Parts], dict[str, Any]]:
    def metric(run: Run, options: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
        values = _numbers(parts, options, agg)
        if not len(values) and agg != "sum":
            return {"value": None}
        return _with_text(float(function(values)), parts, options)

    return metric


def _value_count(run: Run, options: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    return {"value": sum(len(_pairs(part, options["field"])[0]) for part in parts)}


def _cardinality(run: Run, options: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    seen: set[Any] = set()
    for part in parts:
        column = _column(part, options["field"])
        if column is not None:
            unique = np.unique(_pairs(part, options["field"])[1])
            seen.update(column.terms[int(number)] for number in unique) if column.kind in ("keyword", "text") else seen.update(
                unique.tolist()
            )
    return {"value": len(seen)}


def _stats(run: Run, options: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    values = _numbers(parts, options, "stats")
    if not len(values):
        return {"count": 0, "min": None, "max": None, "avg": None, "sum": 0.0}
    result: dict[str, Any] = {
        "count": len(values),
        "min": float(values.min()),
        "max": float(values.max()),
        "avg": float(values.mean()),
        "sum": float(values.sum()),
    }
    form = _date_format(parts, options)
    if form is not None and any(part.index.mapping.type_of(options["field"]) in ("date", "date_nanos") for part in parts):
        result |= {f"{name}_as_string": dates.write(int(result[name]), form) for name in ("min", "max", "avg", "sum")}
    return result


def _percentiles(run: Run, options: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    """Exact percentiles, between ranks as the real one's digest has them where it is exact: at (rank + 1/2) / count."""
    values = np.sort(_numbers(parts, options, "percentiles"))
    percents = [float(item) for item in options.get("percents", (1, 5, 25, 50, 75, 95, 99))]
    found: list[float | None] = []
    for percent in percents:
        if not len(values):
            found.append(None)
            continue
        place = percent / 100 * len(values) - 0.5
        low = min(max(math.floor(place), 0), len(values) - 1)
        high = min(max(math.floor(place) + 1, 0), len(values) - 1)
        found.append(float(values[low] + (values[high] - values[low]) * min(max(place - low, 0.0), 1.0)))
    if options.get("keyed", True):
        return {"values": dict(zip(map(str, percents), found, strict=True))}
    return {"values": [{"key": key, "value": value} for key, value in zip(percents, found, strict=True)]}


def _top_hits(run: Run, options: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    return {"hits": run.fetch(parts, {"size": 3, **options})}


# --- terms ---


def _key(kind: str | None, value: Any, form: str | None) -> dict[str, Any]:
    """A bucket's key as the answer has it."""
    if kind == "boolean":
        return {"key": int(value), "key_as_string": "true" if value else "false"}
    if kind in ("date", "date_nanos"):
        return {"key": int(value), "key_as_string": dates.write(int(value), form or dates.DEFAULT)}
    return {"key": value}


def _grouped(part: Part, name: str, missing: Any) -> dict[Any, Docs]:
    """Documents by value; one that has several values is under each."""
    column = _column(part, name)
    docs, values = _pairs(part, name)
    result: dict[Any, Docs] = {}
    if len(values):
        order = np.lexsort((docs, values))
        docs, values = docs[order], values[order]
        begins = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
        for begin, end in zip(begins, np.append(begins[1:], len(values)), strict=True):
            raw = values[begin].item()
            assert column is not None
            key = column.terms[raw] if column.kind in ("keyword", "text") else raw
            result[key] = np.unique(docs[begin:end]).astype(np.int64)
    if missing is not None:
        without = np.setdiff1d(part.docs, docs)
        if len(without):
            result[missing] = np.union1d(result.get(missing, np.zeros(0, np.int64)), without).astype(np.int64)
    return result


def _terms(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    name = options.get("field")
    if name is None:
        raise Refused(400, "illegal_argument_exception", "Required one of fields [field, script], but none were specified. ")
    size = int(options.get("size", 10))
    if size <= 0:
        raise illegal(f"[size] must be greater than 0. Found [{size}] in [terms]")
    by_key: dict[Any, list[Part]] = {}
    for part in parts:
        for key, docs in _grouped(part, name, options.get("missing")).items():
            by_key.setdefault(key, []).append(Part(part.context, docs))
    test = _included(options)
    counts = {key: sum(len(part.docs) for part in found) for key, found in by_key.items() if test(key)}
    least = int(options.get("min_doc_count", 1))
    chosen = [key for key, count in counts.items() if count >= least]
    kind = next((part.index.mapping.type_of(name) for part in parts if part.index.mapping.type_of(name)), None)
    form = options.get("format") or next(
        (part.index.mapping.format_of(name) for part in parts if kind and part.index.mapping.type_of(name)), None
    )
    chosen = _sorted_keys(run, options.get("order"), chosen, counts, by_key, below)
    taken = chosen[:size]
    buckets = [_bucket(run, _key(kind, key, form), by_key[key], below) for key in taken]
    return {
        "doc_count_error_upper_bound": 0,
        "sum_other_doc_count": sum(counts[key] for key in chosen[size:]),
        "buckets": buckets,
    }


def _included(options: Mapping[str, Any]) -> Callable[[Any], bool]:
    tests: list[Callable[[Any], bool]] = []
    for option, wanted in (("include", True), ("exclude", False)):
        given = options.get(option)
        if isinstance(given, list):
            known = set(map(str, given))
            tests.append(lambda key, known=known, wanted=wanted: (str(key) in known) == wanted)  # type: ignore[misc]
        elif isinstance(given, str):
            test = regexp_test(given)
            tests.append(lambda key, test=test, wanted=wanted: test(str(key)) == wanted)  # type: ignore[misc]
        elif given is not None:
            raise illegal(f"[{option}] with partitions is not there in the embedded Elasticsearch")
    return lambda key: all(test(key) for test in tests)


def _plain_key(key: Any) -> Any:
    return (0, key.encode()) if isinstance(key, str) else (1, key)


def _sorted_keys(
    run: Run, order: Any, keys: list[Any], counts: Mapping[Any, int], by_key: Mapping[Any, Parts], below: Mapping[str, Any]
) -> list[Any]:
    orders = order if isinstance(order, list) else [order] if order else [{"_count": "desc"}]
    result = sorted(keys, key=_plain_key)
    for one in reversed(orders):
        name, direction = next(iter(one.items()))
        descending = str(direction).lower() == "desc"
        if name == "_count":
            result.sort(key=lambda key: counts[key], reverse=descending)
        elif name in ("_key", "_term"):
            result.sort(key=_plain_key, reverse=descending)
        else:
            head, _dot, member = name.partition(".")
            if head not in below:
                raise Refused(
                    400,
                    "aggregation_execution_exception",
                    f"Invalid aggregator order path [{name}]. The provided aggregation [{head}] either does not exist, or is a pipeline "
                    "aggregation and cannot be used to sort the buckets.",
                )
            values = {key: compute(run, {head: below[head]}, by_key[key])[head] for key in keys}
            picked = {key: item.get(member or "value") if not head.startswith("_") else None for key, item in values.items()}
            picked = {key: item if item is not None else values[key].get("doc_count") for key, item in picked.items()}
            missing = -math.inf if descending else math.inf
            ranks = {key: missing if item is None else float(item) for key, item in picked.items()}
            result.sort(key=ranks.__getitem__, reverse=descending)
    return result


def _significant(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    """Terms that are more frequent here than in all documents, by the JLH score."""
    name = options["field"]
    total = sum(len(part.docs) for part in run.background)
    here = sum(len(part.docs) for part in parts)
    known: dict[Any, int] = {}
    for part in run.background:
        for key, docs in _grouped(part, name, None).items():
            known[key] = known.get(key, 0) + len(docs)
    by_key: dict[Any, list[Part]] = {}
    for part in parts:
        for key, docs in _grouped(part, name, None).items():
            by_key.setdefault(key, []).append(Part(part.context, docs))
    scored = []
    for key, found in by_key.items():
        count = sum(len(part.docs) for part in found)
        share, usual = count / max(here, 1), known[key] / max(total, 1)
        if count >= int(options.get("min_doc_count", 3)) and share > usual:
            scored.append(((share - usual) * (share / usual), key, found))
    scored.sort(key=lambda item: (-item[0], _plain_key(item[1])))
    buckets = []
    for score, key, found in scored[: int(options.get("size", 10))]:
        bucket = _bucket(run, {"key": key}, found, {})
        buckets.append({**bucket, "score": score, "bg_count": known[key], **compute(run, below, found)})
    return {"doc_count": here, "bg_count": total, "buckets": buckets}


# --- filters ---


def _filtered(parts: Parts, query: Any) -> list[Part]:
    return [part.of(evaluate(part.context, query).mask) for part in parts]


def _filter(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    return _bucket(run, {}, _filtered(parts, options), below)


def _filters(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    given = options.get("filters") or {}
    named = isinstance(given, Mapping)
    queries = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
    masks = {key: [evaluate(part.context, query).mask for part in parts] for key, query in queries.items()}
    found = {key: [part.of(mask) for part, mask in zip(parts, each, strict=True)] for key, each in masks.items()}
    if options.get("other_bucket") or options.get("other_bucket_key"):
        rest = [part.of(~np.any([each[number] for each in masks.values()], axis=0)) if masks else part for number, part in enumerate(parts)]
        found[options.get("other_bucket_key", "_other_")] = rest
    if named:
        return {
            "buckets": {key: _bucket(run, {}, found[key], below) for key in sorted(found) if key in queries}
            | _other(run, found, queries, below)
        }
    return {"buckets": [_bucket(run, {}, item, below) for item in found.values()]}


def _other(run: Run, found: Mapping[Any, Parts], queries: Mapping[Any, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _bucket(run, {}, item, below) for key, item in found.items() if key not in queries}


def _missing(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    return _bucket(run, {}, [part.of(~existing(part.context, options["field"])) for part in parts], below)


def _global(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    return _bucket(run, {}, run.background, below)


# --- ranges ---


def _ranges(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    return _range_buckets(run, options, parts, below, float, lambda value: "", lambda value: str(float(value)))


def _date_ranges(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    form = _date_format(parts, options) or dates.DEFAULT
    zone = _zone(options)

    def number(value: Any) -> float:
        try:
            return float(dates.resolve(value, form, run.now, zone=zone))
        except dates.NotADate as error:
            raise ShardRefused("parse_exception", str(error)) from error

    return _range_buckets(
        run,
        options,
        parts,
        below,
        number,
        lambda value: dates.write(int(value), form, zone),
        lambda value: dates.write(int(value), form, zone),
    )


def _range_buckets(
    run: Run,
    options: Mapping[str, Any],
    parts: Parts,
    below: Mapping[str, Any],
    number: Callable[[Any], float],
    text: Callable[[float], Any],
    shown: Callable[[float], str],
) -> dict[str, Any]:
    buckets = []
    for one in options.get("ranges", ()):
        limits = {name: None if one.get(name) is None else number(one[name]) for name in ("from", "to")}
        bounds = {bound: limits[name] for name, bound in (("from", "gte"), ("to", "lt")) if limits[name] is not None}
        found = [part.of(_between(part, options["field"], bounds)) for part in parts]
        key = one.get("key") or "-".join("*" if limits[name] is None else shown(limits[name] or 0.0) for name in ("from", "to"))
        bucket: dict[str, Any] = {"key": key}
        for name in ("from", "to"):
            value = limits[name]
            if value is not None:
                bucket[name] = value
                written = text(value)
                if written:
                    bucket[f"{name}_as_string"] = written
        order = (limits["from"] if limits["from"] is not None else -math.inf, limits["to"] if limits["to"] is not None else math.inf)
        buckets.append((order, bucket, found))
    buckets.sort(key=lambda item: item[0])
    if options.get("keyed"):
        return {
            "buckets": {
                item["key"]: _bucket(run, {k: v for k, v in item.items() if k != "key"}, found, below) for _o, item, found in buckets
            }
        }
    return {"buckets": [_bucket(run, item, found, below) for _order, item, found in buckets]}


def _between(part: Part, name: str, bounds: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    kind = part.index.mapping.type_of(name)
    if kind in INTEGERS:
        bounds = {key: int(value) for key, value in bounds.items()}
    if kind in ("date", "date_nanos"):
        bounds = {**{key: int(value) for key, value in bounds.items()}, "format": "epoch_millis"}
    mask = in_range(part.context, name, bounds)
    return mask & existing(part.context, name)


# --- histograms ---


def _histogram(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    interval = float(options.get("interval") or 0)
    if interval <= 0:
        raise illegal("[interval] must be >0 for histogram aggregation [histogram]")
    offset = float(options.get("offset", 0))
    by_key: dict[float, list[Part]] = {}
    for part in parts:
        _numbers([part], options, "histogram")
        docs, values = _pairs(part, options["field"])
        values = np.asarray(values, np.float64)
        if options.get("missing") is not None:
            without = np.setdiff1d(part.docs, docs)
            docs, values = np.concatenate([docs, without]), np.concatenate([values, np.full(len(without), float(options["missing"]))])
        keys = np.floor((values - offset) / interval)
        for key in np.unique(keys):
            by_key.setdefault(float(key), []).append(Part(part.context, np.unique(docs[keys == key]).astype(np.int64)))
    least = int(options.get("min_doc_count", 0))
    bounds = options.get("extended_bounds") or {}
    chosen = sorted(by_key)
    if least == 0:
        limits = chosen + [math.floor((float(bounds[name]) - offset) / interval) for name in ("min", "max") if bounds.get(name) is not None]
        chosen = [float(key) for key in range(int(min(limits)), int(max(limits)) + 1)] if limits else []
    _check_count(len(chosen))
    buckets = [
        _bucket(run, {"key": key * interval + offset}, by_key.get(key, []), below)
        for key in chosen
        if sum(len(part.docs) for part in by_key.get(key, [])) >= least
    ]
    return _keyed(options, _reordered(options, buckets), lambda bucket: str(bucket["key"]))


def _check_count(count: int) -> None:
    if count > _MOST_BUCKETS:
        reason = (
            f"Trying to create too many buckets. Must be less than or equal to: [{_MOST_BUCKETS}] but was [{_MOST_BUCKETS + 1}]. This "
            "limit can be set by changing the [search.max_buckets] cluster level setting."
        )
        raise Refused(503, "too_many_buckets_exception", reason, max_buckets=_MOST_BUCKETS)


def _reordered(options: Mapping[str, Any], buckets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    order = options.get("order")
    for one in reversed(order if isinstance(order, list) else [order] if order else []):
        name, direction = next(iter(one.items()))
        member = {"_count": "doc_count", "_key": "key", "_time": "key"}.get(name, name)
        buckets.sort(
            key=lambda bucket: bucket[member]["value"] if isinstance(bucket[member], dict) else bucket[member],
            reverse=str(direction).lower() == "desc",
        )
    return buckets


def _keyed(options: Mapping[str, Any], buckets: list[dict[str, Any]], name: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    return {"buckets": {name(bucket): bucket for bucket in buckets}} if options.get("keyed") else {"buckets": buckets}


@dataclass(frozen=True, slots=True)
class _Rounding:
    """How times are rounded down, and which comes next."""

    fixed: int
    unit: str
    zone: tzinfo
    offset: int

    @classmethod
    def of(cls, options: Mapping[str, Any], agg: str = "date_histogram") -> _Rounding:
        text = options.get("fixed_interval") or options.get("calendar_interval") or options.get("interval")
        if text is None:
            raise ShardRefused("illegal_argument_exception", "Invalid interval specified, must be non-null and non-empty")
        zone = _zone(options)
        raw = str(options.get("offset", "0"))
        offset = (dates.fixed_interval(raw.lstrip("+-")) or int(re.sub(r"\D", "", raw) or 0)) * (-1 if raw.startswith("-") else 1)
        unit = None if options.get("fixed_interval") else dates.calendar_unit(str(text))
        if unit:
            return cls(0, unit, zone, offset)
        fixed = None if options.get("calendar_interval") else dates.fixed_interval(str(text))
        if fixed is None or fixed <= 0:
            if options.get("calendar_interval"):
                raise illegal(f"The supplied interval [{text}] could not be parsed as a calendar interval.")
            reason = f"failed to parse setting [{agg}.fixedInterval] with value [{text}] as a time value: unit is missing or unrecognized"
            raise illegal(reason)
        return cls(fixed, "", zone, offset)

    def floor(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.unit:
            unique, inverse = np.unique(values - self.offset, return_inverse=True)
            if self.unit in "dhm" and self.zone.utcoffset(None) is not None:
                size = dates.UNITS[self.unit]
                shift = self._shift(0)
                return (np.floor_divide(values - self.offset + shift, size) * size) - shift + self.offset
            starts = np.array([dates.rounded(int(value), self.unit, self.zone) for value in unique], np.int64)
            return starts[inverse] + self.offset
        shift = self._shift(int(values[0]) if len(values) else 0)
        return np.floor_divide(values - self.offset + shift, self.fixed) * self.fixed - shift + self.offset

    def _shift(self, value: int) -> int:
        """The zone's offset at a time, in milliseconds."""
        delta = self.zone.utcoffset(dates.moment(value).replace(tzinfo=None))
        return int(delta.total_seconds() * 1000) if delta else 0

    def next(self, key: int) -> int:
        if self.unit:
            return dates.following(key - self.offset, self.unit, self.zone) + self.offset
        return key + self.fixed


def _date_histogram(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    rounding = _Rounding.of(options)
    form = _date_format(parts, options) or dates.DEFAULT
    by_key: dict[int, list[Part]] = {}
    for part in parts:
        docs, values = _pairs(part, options["field"])
        values = np.asarray(values, np.int64)
        if options.get("missing") is not None:
            without = np.setdiff1d(part.docs, docs)
            moment = dates.resolve(options["missing"], form, run.now)
            docs, values = np.concatenate([docs, without]), np.concatenate([values, np.full(len(without), moment, np.int64)])
        if not len(values):
            continue
        keys = rounding.floor(values)
        order = np.lexsort((docs, keys))
        docs, keys = docs[order], keys[order]
        begins = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        for begin, end in zip(begins, np.append(begins[1:], len(keys)), strict=True):
            by_key.setdefault(int(keys[begin]), []).append(Part(part.context, np.unique(docs[begin:end]).astype(np.int64)))
    chosen = _date_keys(run, options, by_key, rounding, form)
    least = int(options.get("min_doc_count", 0))
    buckets = [
        _bucket(run, {"key_as_string": dates.write(key, form, rounding.zone), "key": key}, by_key.get(key, []), below)
        for key in chosen
        if sum(len(part.docs) for part in by_key.get(key, [])) >= least
    ]
    return _keyed(options, _reordered(options, buckets), lambda bucket: str(bucket["key_as_string"]))


def _date_keys(run: Run, options: Mapping[str, Any], by_key: Mapping[int, Parts], rounding: _Rounding, form: str) -> list[int]:
    chosen = sorted(by_key)
    hard = _date_bounds(run, options.get("hard_bounds"), form, rounding)
    if hard:
        chosen = [key for key in chosen if hard[0] <= key <= hard[1]]
    if int(options.get("min_doc_count", 0)) > 0:
        return chosen
    extended = _date_bounds(run, options.get("extended_bounds"), form, rounding)
    limits = [*chosen, *(extended or ())]
    if not limits:
        return []
    result, key = [], min(limits)
    while key <= max(limits):
        result.append(key)
        _check_count(len(result))
        key = rounding.next(key)
    return result


def _date_bounds(run: Run, bounds: Any, form: str, rounding: _Rounding) -> tuple[int, int] | None:
    if not bounds:
        return None
    found = []
    for name in ("min", "max"):
        value = bounds.get(name)
        if value is None:
            return None
        moment = value if isinstance(value, int) else dates.resolve(value, form, run.now, zone=rounding.zone)
        found.append(int(rounding.floor(np.array([moment], np.int64))[0]))
    return found[0], found[1]


# --- composite ---


def _composite(run: Run, options: Mapping[str, Any], parts: Parts, below: Mapping[str, Any]) -> dict[str, Any]:
    sources = [next(iter(item.items())) for item in options.get("sources") or ()]
    if not sources:
        raise illegal("Composite [sources] cannot be null or empty")
    combined: dict[tuple[Any, ...], list[Part]] = {}
    for part in parts:
        groups: list[tuple[tuple[Any, ...], Docs]] = [((), part.docs)]
        for _name, source in sources:
            kind, one = next(iter(source.items()))
            by_key = _source_groups(run, part, kind, one)
            groups = [
                ((*key, value), shared)
                for key, docs in groups
                for value, others in by_key.items()
                if len(shared := np.intersect1d(docs, others))
            ]
        for key, docs in groups:
            combined.setdefault(key, []).append(Part(part.context, docs))
    descending = [str(next(iter(source.values())).get("order", "asc")).lower() == "desc" for _name, source in sources]

    def rank(key: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_Reversed(_ranked(value)) if down else _ranked(value) for value, down in zip(key, descending, strict=True))

    ordered = sorted(combined, key=rank)
    after = options.get("after")
    if after:
        last = rank(tuple(after.get(name) for name, _source in sources))
        ordered = [key for key in ordered if rank(key) > last]
    names = [name for name, _source in sources]
    taken = ordered[: int(options.get("size", 10))]
    result: dict[str, Any] = {}
    if taken:
        result["after_key"] = dict(zip(names, taken[-1], strict=True))
    result["buckets"] = [_bucket(run, {"key": dict(zip(names, key, strict=True))}, combined[key], below) for key in taken]
    return result


@dataclass(frozen=True, slots=True)
class _Reversed:
    value: Any

    def __lt__(self, other: _Reversed) -> bool:
        return bool(other.value < self.value)


def _ranked(value: Any) -> Any:
    return (0,) if value is None else (1, value.encode()) if isinstance(value, str) else (1, value)


def _source_groups(run: Run, part: Part, kind: str, one: Mapping[str, Any]) -> dict[Any, Docs]:
    name = one["field"]
    if kind == "terms":
        found = _grouped(part, name, None)
        if part.index.mapping.type_of(name) == "boolean":
            found = {bool(key): docs for key, docs in found.items()}
    elif kind == "histogram":
        docs, values = _pairs(part, name)
        keys = np.floor(np.asarray(values, np.float64) / float(one["interval"])) * float(one["interval"])
        found = {float(key): np.unique(docs[keys == key]).astype(np.int64) for key in np.unique(keys)}
    elif kind == "date_histogram":
        rounding = _Rounding.of(one)
        docs, values = _pairs(part, name)
        starts = rounding.floor(np.asarray(values, np.int64))
        found = {int(key): np.unique(docs[starts == key]).astype(np.int64) for key in np.unique(starts)}
        if one.get("format"):
            found = {dates.write(key, one["format"], rounding.zone): docs for key, docs in found.items()}
    else:
        raise Refused(400, "parsing_exception", f"invalid source type: {kind}", line=1, col=1)
    if one.get("missing_bucket"):
        without = np.setdiff1d(part.docs, _pairs(part, name)[0])
        if len(without):
            found[None] = without.astype(np.int64)
    return found


_METRICS: dict[str, Callable[[Run, Mapping[str, Any], Parts], dict[str, Any]]] = {
    "avg": _single(lambda values: float(values.mean()), "avg"),
    "min": _single(lambda values: float(values.min()), "min"),
    "max": _single(lambda values: float(values.max()), "max"),
    "sum": _single(lambda values: float(values.sum()), "sum"),
    "value_count": _value_count,
    "cardinality": _cardinality,
    "stats": _stats,
    "percentiles": _percentiles,
    "top_hits": _top_hits,
}
_BUCKETS: dict[str, Callable[[Run, Mapping[str, Any], Parts, Mapping[str, Any]], dict[str, Any]]] = {
    "terms": _terms,
    "significant_terms": _significant,
    "filter": _filter,
    "filters": _filters,
    "missing": _missing,
    "global": _global,
    "range": _ranges,
    "date_range": _date_ranges,
    "histogram": _histogram,
    "date_histogram": _date_histogram,
    "composite": _composite,
}
