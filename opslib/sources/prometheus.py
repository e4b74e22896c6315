"""Prometheus: the query computes there, and what comes back is a small frame."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from opslib.errors import SourceError
from opslib.messages import Message, Text, _, one_line
from opslib.sources.answers import decode, refusal
from opslib.sources.decoding import decoder
from opslib.sources.monitored import Alert, Build, Matcher, RuleGroup, Runtime, Target
from opslib.sources.transport import Request, Response, Transport, Wrap, http, unwrapped

if TYPE_CHECKING:
    import pandas

    from opslib.environments import Environment, Metrics

T = TypeVar("T")

SYSTEM = "prometheus"
MOST_POINTS = 11_000  # of one series; Prometheus refuses more (web/api/v1)
_LONGEST_GET = 2_000  # characters of a query; longer ones are posted, which proxies for reading may not let through
_RESERVED = {"value": "label_value", "time": "label_time"}


class _Answer(msgspec.Struct, Generic[T], kw_only=True):
    data: T
    warnings: list[str] = []
    infos: list[str] = []


class _Refusal(msgspec.Struct, rename="camel", kw_only=True):
    error_type: str = ""
    error: str = ""


class _Series(msgspec.Struct, kw_only=True):
    metric: dict[str, str] = {}
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] = []
    histogram: msgspec.Raw = msgspec.Raw()
    histograms: msgspec.Raw = msgspec.Raw()


class _Result(msgspec.Struct, rename="camel", kw_only=True):
    result_type: str = ""
    result: msgspec.Raw = msgspec.Raw(b"[]")


class _Groups(msgspec.Struct, kw_only=True):
    groups: list[RuleGroup] | None = None


class _Alerts(msgspec.Struct, kw_only=True):
    alerts: list[Alert] | None = None


class _Targets(msgspec.Struct, rename="camel", kw_only=True):
    active_targets: list[Target] | None = None


class _Address(msgspec.Struct, kw_only=True):
    url: str = ""


class _Alertmanagers(msgspec.Struct, rename="camel", kw_only=True):
    active_alertmanagers: list[_Address] | None = None


def string(value: str) -> str:
    """`value` as a PromQL string literal: names from a cluster cannot leave it."""
    return '"' + "".join(_escaped(char) for char in value) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char == "\n":
        return "\\n"
    return char if char.isprintable() else f"\\U{ord(char):08x}" if not 0xD800 <= ord(char) <= 0xDFFF else "\ufffd"


def matcher(label: str, value: str, sign: str = "=") -> str:
    """A label matcher, ``label="value"``; `value` may be anything, `label` and `sign` are checked.

    Raises
    ------
    ValueError
        `sign` is not one of = != =~ !~.
    """
    if sign not in ("=", "!=", "=~", "!~"):
        raise ValueError(f"not a matcher's sign: {sign!r}")
    name = label if re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", label) else string(label)  # other names are quoted since 3.0 (UTF-8 names)
    return f"{name}{sign}{string(value)}"


def any_of(label: str, values: Iterable[str]) -> str:
    """A matcher for any of `values`, taken literally."""
    return matcher(label, "|".join(_literal(value) for value in values), "=~")


def _literal(value: str) -> str:
    """`value` as an RE2 expression for itself."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", value)


def selector(metric: str, *matchers: str) -> str:
    """``metric{matchers}``; empty matchers are left out, a metric's name may be anything."""
    return "{" + ",".join([matcher("__name__", metric), *(text for text in matchers if text)]) + "}"


class Prometheus:
    """One Prometheus, or what speaks its HTTP API (Thanos, Mimir, VictoriaMetrics).

    Parameters
    ----------
    transport
        Where requests go.
    settings
        Names of the application's metrics.
    """

    def __init__(self, transport: Transport, settings: Metrics) -> None:
        self._transport = transport
        self.settings = settings

    @classmethod
    def connect(cls, environment: Environment, wrap: Wrap = unwrapped) -> Prometheus:
        """The Prometheus of an environment, which must name one. No request is sent yet."""
        if environment.prometheus is None:
            raise SourceError(
                SYSTEM,
                _("The environment {name} has no Prometheus", name=environment.name),
                _("Add the field {field}", field="prometheus.url"),
            )
        return cls(wrap(http(SYSTEM, environment.prometheus)), environment.prometheus)

    # --- queries ---

    def query(self, promql: str, at: datetime | None = None, *, labels: Sequence[str] = ()) -> pandas.DataFrame:
        """The value of an expression at one moment.

        Parameters
        ----------
        promql
            An expression that gives a vector or a scalar.
        at
            The moment, aware; without it now.
        labels
            Labels whose columns exist even where no series has them.

        Returns
        -------
        DataFrame
            One row a series: a column (str) a label, empty where a series lacks it; `value` (float) and `time` (UTC). A label that is
            itself called value or time is in `label_value`, `label_time`. `attrs` has `query`, `warnings` (parts that Prometheus could
            not read: the answer is not whole), `infos`, and `histograms`, the number of series that were left out since they are native
            histograms.

        Raises
        ------
        SourceError
            Prometheus refused the expression, or did not answer.
        """
        form = [("query", promql)]
        if at is not None:
            form.append(("time", _time(at)))
        return self._frame(promql, "/api/v1/query", form, labels)

    def query_range(
        self, promql: str, start: datetime, end: datetime, step_seconds: float, *, labels: Sequence[str] = ()
    ) -> pandas.DataFrame:
        """The values of an expression over time.

        More than 11,000 points a series are refused by Prometheus: the step is raised as far as needed.

        Returns
        -------
        DataFrame
            As of `query`, one row a sample, the samples of a series together and in order; `attrs["step_seconds"]` is the step used.
        """
        span = (end - start).total_seconds()
        if span < 0 or step_seconds <= 0:
            raise ValueError("the end is before the start, or the step is not positive")
        step_seconds = max(step_seconds, math.ceil(span / (MOST_POINTS - 1)))
        form = [("query", promql), ("start", _time(start)), ("end", _time(end)), ("step", repr(float(step_seconds)))]
        frame = self._frame(promql, "/api/v1/query_range", form, labels)
        frame.attrs["step_seconds"] = step_seconds
        return frame

    def _frame(self, promql: str, path: str, form: list[tuple[str, str]], labels: Sequence[str]) -> pandas.DataFrame:
        answer = self._ask(_Result, path, form, _("the query {query}", query=one_line(promql, 300)), len(promql) > _LONGEST_GET)
        result = answer.data
        if result.result_type in ("scalar", "string"):
            series = [_Series(value=decode(SYSTEM, bytes(result.result), tuple[float, str]))]
        else:
            series = decode(SYSTEM, bytes(result.result), list[_Series])
        if result.result_type == "string":
            raise SourceError(SYSTEM, _("The query {query} gives a text, not numbers", query=promql))
        frame = _tidy(series, labels)
        frame.attrs |= {
            "query": promql,
            "warnings": tuple(answer.warnings),
            "infos": tuple(answer.infos),
            "histograms": sum(1 for item in series if bytes(item.histogram) or bytes(item.histograms)),
        }
        return frame

    # --- what is known of it ---

    def rules(self) -> list[RuleGroup]:
        """Every rule group, with the state of each rule."""
        return self._ask(_Groups, "/api/v1/rules", [], _("the rules")).data.groups or []

    def alerts(self) -> list[Alert]:
        """Alerts that are pending or firing."""
        return self._ask(_Alerts, "/api/v1/alerts", [], _("the alerts")).data.alerts or []

    def targets(self) -> list[Target]:
        """What is scraped, up or down."""
        return self._ask(_Targets, "/api/v1/targets", [("state", "active")], _("the targets")).data.active_targets or []

    def alertmanagers(self) -> list[str]:
        """Addresses of the Alertmanagers that alerts are sent to."""
        answer = self._ask(_Alertmanagers, "/api/v1/alertmanagers", [], _("the Alertmanagers that Prometheus knows"))
        return [item.url for item in answer.data.active_alertmanagers or []]

    def runtime(self) -> Runtime:
        """Whether it took its configuration, and since when it runs."""
        return self._ask(Runtime, "/api/v1/status/runtimeinfo", [], _("its runtime information")).data

    def build(self) -> Build:
        """Its version."""
        return self._ask(Build, "/api/v1/status/buildinfo", [], _("its version")).data

    def label_values(
        self, label: str, selectors: Sequence[str] = (), start: datetime | None = None, end: datetime | None = None
    ) -> list[str]:
        """The values of a label, of the series that any of `selectors` selects; from the index alone, samples are not read."""
        query = [("match[]", text) for text in selectors] + _span(start, end)
        return self._ask(
            list[str], f"/api/v1/label/{quote(label, safe='')}/values", query, _("the values of the label {label}", label=label)
        ).data

    def series(
        self, selectors: Sequence[str], start: datetime | None = None, end: datetime | None = None, limit: int = 10_000
    ) -> list[dict[str, str]]:
        """The series (their labels) that any of `selectors` selects, at most `limit`; from the index alone."""
        query = [*(("match[]", text) for text in selectors), *_span(start, end), ("limit", str(limit))]
        long = sum(map(len, selectors)) > _LONGEST_GET
        return self._ask(
            list[dict[str, str]], "/api/v1/series", query, _("the series {selectors}", selectors=list(selectors)[:3]), long
        ).data

    def metadata(self, metric: str) -> dict[str, str]:
        """Type, help and unit of a metric, as its exporter gives them; empty where they are not known."""
        answer = self._ask(
            dict[str, list[dict[str, str]]], "/api/v1/metadata", [("metric", metric)], _("the metadata of {metric}", metric=metric)
        )
        known = answer.data.get(metric, [])
        return known[0] if known else {}

    def selectors(self, promql: str) -> list[tuple[Matcher, ...]]:
        """The series selectors in an expression, as Prometheus itself parses it, each as its matchers.

        The metric's name is a matcher too, of the label ``__name__``, and comes first. Those
        inside ``absent()`` and ``absent_over_time()`` are left out: they are there to select nothing.

        Raises
        ------
        SourceError
            The expression is not valid, or this Prometheus is older than 2.54 and does not show how it parses.
        """
        long = len(promql) > _LONGEST_GET
        tree = self._ask(
            dict[str, Any], "/api/v1/parse_query", [("query", promql)], _("parsing {query}", query=one_line(promql, 300)), long
        ).data
        return list(dict.fromkeys(_selectors(tree)))

    # --- asking ---

    def _ask(self, kind: type[T], path: str, form: list[tuple[str, str]], what: Text, post: bool = False) -> _Answer[T]:
        if post:
            body = urlencode(form).encode()
            headers = {"content-type": "application/x-www-form-urlencoded"}
            request = Request(method="POST", path=path, body=body, headers=headers, what=what, safe=True)
        else:
            request = Request(path=path, query=tuple(form), what=what)
        response = self._transport.send(request)
        if response.status >= 400:
            raise refusal(SYSTEM, request, response, _reason(response))
        if b'"status":"error"' in response.body[:100]:
            raise SourceError(SYSTEM, _("{system} refused {what}: {reason}", system="Prometheus", what=what, reason=_reason(response)))
        return decode(SYSTEM, response.body, _Answer[kind])  # type: ignore[valid-type]


def _reason(response: Response) -> Message | str:
    """Prometheus' own words on a refusal; empty where they are somebody else's."""
    try:
        refused: _Refusal = decoder(_Refusal).decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return _("{kind}: {reason}", kind=refused.error_type, reason=one_line(refused.error, 400)) if refused.error else ""


def _time(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise ValueError("the time has no zone")
    return f"{moment.timestamp():.3f}"


def _span(start: datetime | None, end: datetime | None) -> list[tuple[str, str]]:
    return [(name, _time(moment)) for name, moment in (("start", start), ("end", end)) if moment is not None]


def _tidy(series: list[_Series], labels: Sequence[str]) -> pandas.DataFrame:
    import numpy
    import pandas

    series = [item for item in series if item.value is not None or item.values]
    samples = [item.values or ([item.value] if item.value else []) for item in series]
    lengths = [len(item) for item in samples]
    names = list(dict.fromkeys([*labels, *(name for item in series for name in item.metric)]))
    columns: dict[str, Any] = {
        _RESERVED.get(name, name): numpy.repeat(numpy.array([item.metric.get(name, "") for item in series], dtype=object), lengths)
        for name in names
    }
    # NaN, +Inf and -Inf are written as Python reads them.
    columns["value"] = numpy.array([float(sample[1]) for item in samples for sample in item], dtype=float)
    times = numpy.array([sample[0] for item in samples for sample in item], dtype=float)
    columns["time"] = pandas.to_datetime((times * 1000).round().astype("int64"), unit="ms", utc=True)
    return pandas.DataFrame(columns)


def _selectors(tree: Any) -> Iterator[tuple[Matcher, ...]]:
    """The selectors in what /api/v1/parse_query gives (web/api/v1/translate_ast.go), from left to right."""
    if isinstance(tree, list):
        for item in tree:
            yield from _selectors(item)
    if not isinstance(tree, Mapping):
        return
    function = tree.get("func")
    if isinstance(function, Mapping) and function.get("name") in ("absent", "absent_over_time"):
        return
    if isinstance(matchers := tree.get("matchers"), list):
        decoder(Matcher)  # learns the class, alone
        yield tuple(
            sorted((msgspec.convert(item, Matcher) for item in matchers), key=lambda item: (item.name != "__name__", item.name, item.value))
        )
    for value in tree.values():
        if isinstance(value, list | Mapping):
            yield from _selectors(value)
