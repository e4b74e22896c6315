"""The HTTP API (web/api/v1), as a Starlette application."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from opslib.lab.prometheus import numbers, printer
from opslib.lab.prometheus.evaluate import Engine, Result
from opslib.lab.prometheus.labels import Matcher
from opslib.lab.prometheus.parse import QueryError, duration, matchers, parse, unwrapped
from opslib.lab.prometheus.rules import Rules, iso

VERSION = "3.16.0"
_STATUS = {"bad_data": 400, "execution": 422, "internal": 500, "unavailable": 503, "not_found": 404, "timeout": 503, "canceled": 499}
_MOST_POINTS = 11_000
_TRUNCATED = "results truncated due to limit"


@dataclass(frozen=True, slots=True)
class Target:
    """Something that is scraped; times are Unix seconds."""

    labels: Mapping[str, str]
    url: str
    health: str = "up"
    error: str = ""
    last_scrape: float = 0
    duration_seconds: float = 0.005
    interval: str = "15s"
    discovered: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the API shows beside samples and rules.

    Parameters
    ----------
    targets, alertmanagers
        Called for each request: what is scraped, and the addresses that alerts go to.
    metadata
        Type, help and unit by metric family.
    now
        Unix seconds.
    config, flags
        The configuration as YAML, and command line flags.
    """

    targets: Callable[[], Sequence[Target]] = list
    alertmanagers: Callable[[], Sequence[str]] = list
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    now: Callable[[], float] = time.time
    config: str = "global:\n  scrape_interval: 15s\n"
    flags: Mapping[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.time)


class _Form:
    """Parameters of a request, of its body before its query."""

    def __init__(self, request: Request, body: bytes) -> None:
        kind = request.headers.get("content-type", "").partition(";")[0]
        posted = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True) if kind == "application/x-www-form-urlencoded" else []
        self.pairs = posted + list(request.query_params.multi_items())
        self.path: Mapping[str, str] = request.path_params

    def get(self, name: str) -> str:
        return next((value for key, value in self.pairs if key == name), "")

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key == name]

    def limit(self) -> int:
        text = self.get("limit")
        if not text:
            return 0
        if not re.fullmatch(r"[+-]?\d+", text):
            raise _wrong("limit", f'strconv.Atoi: parsing "{text}": invalid syntax')
        if int(text) < 0:
            raise _wrong("limit", "limit must be non-negative")
        return int(text)

    def time(self, name: str, default: int | None = None) -> int:
        """A time in milliseconds."""
        text = self.get(name)
        if not text and default is not None:
            return default
        try:
            return _time(text)
        except ValueError as error:
            raise _wrong(name, f"invalid time value for '{name}': {error}" if default is not None else str(error)) from error


def _wrong(parameter: str, reason: str) -> QueryError:
    return QueryError(f'invalid parameter "{parameter}": {reason}', "bad_data")


def _time(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        pass
    else:
        if math.isfinite(value):
            return math.floor(value * 1000 + 0.5)
    if re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text):
        try:
            return math.floor(datetime.fromisoformat(text.upper()).timestamp() * 1000)
        except ValueError:
            pass
    raise ValueError(f'cannot parse "{text}" to a valid timestamp')


def _step(text: str) -> int:
    """A duration in milliseconds."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            return duration(text)
        except ValueError:
            raise _wrong("step", f'cannot parse "{text}" to a valid duration') from None
    if not math.isfinite(seconds) or abs(seconds) > 2**63 / 1e9:
        raise _wrong("step", f'cannot parse "{text}" to a valid duration. It overflows int64')
    return int(seconds * 1000)


_Answer = tuple[Any, list[str], list[str]]


def app(engine: Engine, rules: Rules | None = None, settings: Settings | None = None) -> Starlette:
    """The application that answers Prometheus' API from `engine`'s store."""
    known = _Api(engine, rules, settings or Settings())
    answers: dict[str, Callable[[_Form], _Answer]] = {
        "query": known.query,
        "query_range": known.query_range,
        "format_query": known.format_query,
        "parse_query": known.parse_query,
        "series": known.series,
        "labels": known.labels,
        "label/{name}/values": known.label_values,
        "metadata": known.metadata,
        "targets": known.targets,
        "scrape_pools": known.scrape_pools,
        "rules": known.rules_,
        "alerts": known.alerts,
        "alertmanagers": known.alertmanagers,
        "query_exemplars": lambda form: ([], [], []),
        "status/buildinfo": known.build,
        "status/runtimeinfo": known.runtime,
        "status/config": known.config,
        "status/flags": known.flags,
        "status/tsdb": known.tsdb,
    }
    posted = {"query", "query_range", "format_query", "parse_query", "series", "labels", "query_exemplars"}
    routes = [
        Route(f"/api/v1/{path}", _endpoint(answer), methods=["GET", "POST"] if path in posted else ["GET"])
        for path, answer in answers.items()
    ]
    for path, word in (("healthy", "Healthy"), ("ready", "Ready")):
        routes.append(Route(f"/-/{path}", _saying(f"Prometheus Server is {word}.\n"), methods=["GET", "HEAD"]))
    return Starlette(routes=routes, exception_handlers={404: _not_found})


def _saying(text: str) -> Callable[[Request], PlainTextResponse]:
    return lambda request: PlainTextResponse(text)


def _not_found(request: Request, error: Exception) -> Response:
    return PlainTextResponse("404 page not found\n", 404)


def _endpoint(answer: Callable[[_Form], _Answer]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        form = _Form(request, await request.body())
        return await run_in_threadpool(_response, answer, form)

    return endpoint


def _response(answer: Callable[[_Form], _Answer], form: _Form) -> Response:
    try:
        data, warnings, infos = answer(form)
    except QueryError as error:
        refused = {"status": "error", "errorType": error.kind, "error": str(error)}
        return Response(msgspec.json.encode(refused), _STATUS[error.kind], media_type="application/json")
    content: dict[str, Any] = {"status": "success", "data": data}
    if warnings:
        content["warnings"] = warnings
    if infos:
        content["infos"] = infos
    return Response(msgspec.json.encode(content), media_type="application/json")


@dataclass(frozen=True, slots=True)
class _Api:
    engine: Engine
    rules: Rules | None
    settings: Settings

    @property
    def now(self) -> int:
        return int(self.settings.now() * 1000)

    # --- queries ---

    def query(self, form: _Form) -> _Answer:
        limit = form.limit()
        moment = form.time("time", self.now)
        text = form.get("query")
        self._tree(text)
        return _data(self._engine(form).query(text, moment), limit)

    def query_range(self, form: _Form) -> _Answer:
        limit = form.limit()
        start, end = form.time("start"), form.time("end")
        if end < start:
            raise _wrong("end", "end timestamp must not be before start time")
        step = _step(form.get("step"))
        if step <= 0:
            raise _wrong("step", "zero or negative query resolution step widths are not accepted. Try a positive integer")
        if (end - start) // step > _MOST_POINTS:
            raise QueryError(
                "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)", "bad_data"
            )
        text = form.get("query")
        self._tree(text)
        try:
            return _data(self._engine(form).query_range(text, start, end, step), limit)
        except QueryError as error:
            if error.kind == "bad_data":
                raise _wrong("query", str(error)) from error
            raise

    def _engine(self, form: _Form) -> Engine:
        text = form.get("lookback_delta")
        if not text:
            return self.engine
        from dataclasses import replace

        try:
            return replace(self.engine, lookback=_step(text))
        except QueryError as error:
            raise QueryError("error parsing lookback delta duration: " + str(error).partition(": ")[2], "bad_data") from error

    def _tree(self, text: str) -> Any:
        try:
            return parse(text, self.engine.experimental)
        except QueryError as error:
            raise _wrong("query", str(error)) from error

    def format_query(self, form: _Form) -> _Answer:
        tree = self._tree(form.get("query"))
        line = printer.text(tree)
        return line if len(line) <= 100 else tree.prettify(), [], []

    def parse_query(self, form: _Form) -> _Answer:
        return printer.tree(self._tree(form.get("query"))), [], []

    # --- series and labels ---

    def _selected(self, form: _Form) -> list[int] | None:
        """Series that any match[] selects, with samples in the time range; None where there is no match[] and no range."""
        start, end = form.time("start", -(2**62)), form.time("end", 2**62)
        texts = form.all("match[]")
        if not texts and not form.get("start") and not form.get("end"):
            return None
        found: dict[int, None] = {}
        for conditions in map(_conditions, texts) if texts else [[]]:
            found.update(dict.fromkeys(self.engine.store.find(conditions, start, end)))
        return list(found)

    def series(self, form: _Form) -> _Answer:
        if not form.all("match[]"):
            raise QueryError("no match[] parameter provided", "bad_data")
        limit = form.limit()
        found = sorted(self.engine.store.labels(self._selected(form) or []))
        return _limited([dict(labels) for labels in found], limit)

    def labels(self, form: _Form) -> _Answer:
        limit = form.limit()
        return _limited(self.engine.store.label_names(self._selected(form)), limit)

    def label_values(self, form: _Form) -> _Answer:
        limit = form.limit()
        return _limited(self.engine.store.label_values(form.path["name"], self._selected(form)), limit)

    def metadata(self, form: _Form) -> _Answer:
        for name in ("limit", "limit_per_metric"):
            if form.get(name) and not re.fullmatch(r"[+-]?\d+", form.get(name)):
                raise QueryError(f"{name} must be a number", "bad_data")
        limit = int(form.get("limit") or -1)
        wanted = form.get("metric")
        chosen = {
            name: [{"type": item.get("type", "unknown"), "unit": item.get("unit", ""), "help": item.get("help", "")}]
            for name, item in self.settings.metadata.items()
            if wanted in ("", name)
        }
        return dict(list(chosen.items())[: limit if limit >= 0 else None]), [], []

    # --- what runs ---

    def targets(self, form: _Form) -> _Answer:
        wanted, pool = form.get("state") or "any", form.get("scrapePool")
        active = [_target(item) for item in self.settings.targets() if pool in ("", item.labels.get("job", ""))]
        data: dict[str, Any] = {"activeTargets": active if wanted in ("any", "active") else []}
        data |= {"droppedTargets": [], "droppedTargetCounts": {}} if wanted != "active" else {"droppedTargets": []}
        return data, [], []

    def scrape_pools(self, form: _Form) -> _Answer:
        return {"scrapePools": sorted({item.labels.get("job", "") for item in self.settings.targets()})}, [], []

    def rules_(self, form: _Form) -> _Answer:
        kind = form.get("type").lower()
        if kind not in ("", "alert", "record"):
            raise _wrong("type", f'not supported value "{kind}"')
        groups = self.rules.describe() if self.rules else []
        result = []
        for group in groups:
            if form.all("rule_group[]") and group["name"] not in form.all("rule_group[]"):
                continue
            if form.all("file[]") and group["file"] not in form.all("file[]"):
                continue
            rules = [rule for rule in group["rules"] if kind in ("", rule["type"].removesuffix("ing"))]
            if form.all("rule_name[]"):
                rules = [rule for rule in rules if rule["name"] in form.all("rule_name[]")]
            if form.get("exclude_alerts").lower() == "true":
                rules = [{**rule, "alerts": None} if rule["type"] == "alerting" else rule for rule in rules]
            if rules:
                result.append({**group, "rules": rules})
        return {"groups": result}, [], []

    def alerts(self, form: _Form) -> _Answer:
        groups = self.rules.describe() if self.rules else []
        return {"alerts": [alert for group in groups for rule in group["rules"] for alert in rule.get("alerts", [])]}, [], []

    def alertmanagers(self, form: _Form) -> _Answer:
        active = [{"url": f"{url.rstrip('/')}/api/v2/alerts"} for url in self.settings.alertmanagers()]
        return {"activeAlertmanagers": active, "droppedAlertmanagers": []}, [], []

    def build(self, form: _Form) -> _Answer:
        names = ("revision", "branch", "buildUser", "buildDate", "goVersion")
        return {"version": VERSION, **dict.fromkeys(names, "")}, [], []

    def runtime(self, form: _Form) -> _Answer:
        started = iso(self.settings.started)
        return (
            {
                "startTime": started,
                "CWD": "/prometheus",
                "hostname": "prometheus-0",
                "serverTime": iso(self.settings.now()),
                "reloadConfigSuccess": True,
                "lastConfigTime": started,
                "corruptionCount": 0,
                "goroutineCount": 1,
                "GOMAXPROCS": 1,
                "GOMEMLIMIT": 0,
                "GOGC": "",
                "GODEBUG": "",
                "storageRetention": printer.duration_text(int(self.engine.store.retention_seconds * 1000)),
            },
            [],
            [],
        )

    def config(self, form: _Form) -> _Answer:
        return {"yaml": self.settings.config}, [], []

    def flags(self, form: _Form) -> _Answer:
        return dict(self.settings.flags), [], []

    def tsdb(self, form: _Form) -> _Answer:
        limit = form.limit() or 10
        counts = self.engine.store.counts()
        names = counts.get("__name__", {})

        def top(values: Mapping[str, int]) -> list[dict[str, Any]]:
            ordered = sorted(values.items(), key=lambda item: -item[1])[:limit]
            return [{"name": name, "value": value} for name, value in ordered]

        pairs = {f"{name}={value}": count for name, values in counts.items() for value, count in values.items()}
        return (
            {
                "headStats": {
                    "numSeries": len(self.engine.store),
                    "numLabelPairs": len(pairs),
                    "chunkCount": len(self.engine.store),
                    "minTime": int(self.now - self.engine.store.retention_seconds * 1000),
                    "maxTime": self.now,
                },
                "seriesCountByMetricName": top(names),
                "labelValueCountByLabelName": top({name: len(values) for name, values in counts.items()}),
                "memoryInBytesByLabelName": top({name: sum(map(len, values)) for name, values in counts.items()}),
                "seriesCountByLabelValuePair": top(pairs),
            },
            [],
            [],
        )


def _conditions(text: str) -> list[Matcher]:
    try:
        tree = unwrapped(parse(text))
    except QueryError as error:
        raise _wrong("match[]", str(error)) from error
    import promql_parser

    if not isinstance(tree, promql_parser.VectorSelector):
        raise _wrong("match[]", "1:1: parse error: unexpected expression, expected a series selector")
    return matchers(tree)


def _limited(items: list[Any], limit: int) -> _Answer:
    if limit and len(items) > limit:
        return items[:limit], [_TRUNCATED], []
    return items, [], []


def _target(item: Target) -> dict[str, Any]:
    job = item.labels.get("job", "")
    return {
        "discoveredLabels": dict(item.discovered) or {"__address__": item.labels.get("instance", ""), "job": job},
        "labels": dict(item.labels),
        "scrapePool": job,
        "scrapeUrl": item.url,
        "globalUrl": item.url,
        "lastError": item.error,
        "lastScrape": iso(item.last_scrape),
        "lastScrapeDuration": item.duration_seconds,
        "health": item.health,
        "scrapeInterval": item.interval,
        "scrapeTimeout": item.interval,
    }


# --- results ---


def _seconds(times: Any) -> list[float | int]:
    return [int(value) // 1000 if value % 1000 == 0 else value / 1000 for value in times.tolist()]


def _texts(values: Any) -> list[str]:
    return [numbers.json(value) for value in values.tolist()]


def _data(result: Result, limit: int) -> _Answer:
    """The data of an answer."""
    times = _seconds(result.times)
    warnings = list(result.notes.warnings)
    items: Any
    if result.kind == "string":
        items = [times[0], result.value]
    elif result.kind == "scalar":
        items = [times[0], numbers.plain(float(result.value[0]))]
    elif isinstance(result.value, list):
        items = [
            {"metric": dict(labels), "values": list(zip(_seconds(moments), _texts(values), strict=True))}
            for labels, moments, values in result.value
        ]
    elif result.kind == "vector":
        vector = result.value.compact()
        items = [
            {"metric": dict(labels), "value": [times[0], text]}
            for labels, text in zip(vector.labels, _texts(vector.values[:, 0]), strict=True)
        ]
    else:
        items = []
        for labels, values, present in zip(result.value.labels, result.value.values, result.value.present, strict=True):
            there = np.flatnonzero(present)
            chosen = times if len(there) == len(times) else [times[step] for step in there]
            items.append({"metric": dict(labels), "values": list(zip(chosen, _texts(values[there]), strict=True))})
    if limit and result.kind in ("vector", "matrix") and len(items) > limit:
        items = items[:limit]
        warnings.append(_TRUNCATED)
    return {"resultType": result.kind, "result": items}, warnings, list(result.notes.infos)
