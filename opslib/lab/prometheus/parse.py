"""Queries, parsed by promql-parser, and what Prometheus refuses although that parser takes it."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import promql_parser as ast

from opslib.lab.prometheus.labels import Matcher, regexp_error

_EXPERIMENTAL_AGGREGATIONS = frozenset({"limitk", "limit_ratio"})
_EXPERIMENTAL = frozenset(
    {
        "double_exponential_smoothing",
        "end",
        "first_over_time",
        "histogram_quantiles",
        "info",
        "integral",
        "mad_over_time",
        "max_of",
        "min_of",
        "range",
        "sort_by_label",
        "sort_by_label_desc",
        "start",
        "start_timestamp",
        "step",
        "ts_of_first_over_time",
        "ts_of_last_over_time",
        "ts_of_max_over_time",
        "ts_of_min_over_time",
    }
)
_SIGNS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
_DURATION = re.compile(r"(?:(\d+)y)?(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`[^`]*`")
_UNITS = (365 * 86_400_000, 7 * 86_400_000, 86_400_000, 3_600_000, 60_000, 1000, 1)


class QueryError(Exception):
    """A query that is refused. `kind` is the errorType of the API: "bad_data" or "execution"."""

    def __init__(self, text: str, kind: str = "execution") -> None:
        super().__init__(text)
        self.kind = kind


def parse(text: str, experimental: bool = False) -> Any:
    """The tree of a query.

    Raises
    ------
    QueryError
        It is not valid, or needs what is not enabled.
    """
    try:
        tree = _parse(text)
    except ValueError as error:
        raise _refused(text, _reworded(str(error))) from error
    for node in walk(tree):
        reason = _unsupported(node, experimental)
        if reason:
            raise _refused(text, reason)
    return tree


def _refused(text: str, reason: str) -> QueryError:
    return QueryError(f"{_place(text, reason)}: parse error: {reason}", "bad_data")


def _place(text: str, reason: str) -> str:
    """Where in the query it is wrong, as line and column; the parser does not say, so only what its words tell is exact."""
    if reason.startswith("no expression"):
        return "unknown position"
    place = 0
    if reason.startswith(("unclosed", "unexpected end")):
        place = len(text)
    elif reason.startswith("error parsing regexp"):
        found = re.search(r"\w+\s*[=!]~", text)
        place = found.start() if found else 0
    elif "in aggregation expression" in reason:
        place = text.find("(") + 1
    elif not reason.startswith("set operator") and (named := re.search(r'(in call to function )?"(\w+)"', reason)):
        found = re.search(rf"\b{named[2]}\b", text)
        place = found.start() + (len(named[2]) + 1 if named[1] else 0) if found else 0
    return f"{text.count(chr(10), 0, place) + 1}:{place - text.rfind(chr(10), 0, place)}"


@functools.lru_cache(512)
def _parse(text: str) -> Any:
    if not text.strip():
        raise ValueError("no expression found in input")
    if re.search(r"@\s*-", _STRINGS.sub("", text)):
        raise ValueError("a negative time after @ is not supported here")  # promql-parser takes it for 0
    return ast.parse(text)


def _reworded(reason: str) -> str:
    """promql-parser's words for types, as Prometheus has them."""
    match = re.fullmatch(r"expected type (\w+) in (.*), got (\w+)", reason)
    if match:
        place = re.sub("'([^']*)'", r'"\1"', match[2])
        return f"expected type {_type_name(match[1])} in {place}, got {_type_name(match[3])}"
    illegal = re.fullmatch(r"illegal regex for (.*)", reason, re.DOTALL)
    if illegal:
        return regexp_error(illegal[1]) or reason
    reason = re.sub(r"^unknown function with name '(.*)'$", r'unknown function with name "\1"', reason)
    reason = re.sub(r"in call to '(\w+)'", r'in call to "\1"', reason)
    reason = reason.replace("only allowed on vector,", "only allowed on instant vector,")
    reason = re.sub(r"^set operator '(\w+)' not allowed", r'set operator "\1" not allowed', reason)
    return re.sub(r"^metric name must not be set twice: '(.*)' or '(.*)'$", r'metric name must not be set twice: "\1" or "\2"', reason)


def _type_name(name: str) -> str:
    return {"vector": "instant vector", "matrix": "range vector"}.get(name, name)


def walk(node: Any) -> Iterator[Any]:
    """A node and all below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def children(node: Any) -> list[Any]:
    """The nodes right below."""
    if isinstance(node, ast.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, ast.Call):
        return list(node.args)
    if isinstance(node, ast.AggregateExpr):
        return [node.expr] if node.param is None else [node.param, node.expr]
    if isinstance(node, ast.MatrixSelector):
        return [node.vector_selector]
    if isinstance(node, ast.UnaryExpr | ast.ParenExpr | ast.SubqueryExpr):
        return [node.expr]
    return []


def _unsupported(node: Any, experimental: bool) -> str:
    """Why a node is refused; empty where it is not."""
    if isinstance(node, ast.Call):
        if node.func.name in _EXPERIMENTAL and not experimental:
            return f'function "{node.func.name}" is not enabled'
    elif isinstance(node, ast.AggregateExpr):
        if operator(node) in _EXPERIMENTAL_AGGREGATIONS and not experimental:
            return f"{operator(node)}() is experimental and must be enabled with --enable-feature=promql-experimental-functions"
    elif isinstance(node, ast.VectorSelector):
        if node.matchers.or_matchers:
            return 'unexpected identifier "or" in label matching, expected "," or "}"'
        for matcher in matchers(node):
            if "~" in matcher.sign and (reason := regexp_error(matcher.value)):
                return reason
    elif isinstance(node, ast.BinaryExpr) and node.modifier is not None:
        fill = node.modifier.fill_values
        if fill.lhs is not None or fill.rhs is not None:
            return "binop fill modifiers are experimental and not enabled"
    return ""


def operator(node: Any) -> str:
    """The operator or aggregation of a node: "+", "and", "sum" ..."""
    return str(node.op)


def matchers(selector: Any) -> list[Matcher]:
    """The conditions of a selector; the metric's name is one of them, and comes last, as in Prometheus."""
    found = [Matcher(item.name, _SIGNS[str(item.op)], item.value) for item in selector.matchers.matchers]
    if selector.name is not None:
        found = [item for item in found if not (item.name == "__name__" and item.sign == "=" and item.value == selector.name)]
        found.append(Matcher("__name__", "=", selector.name))
    return found


def fixed_time(node: Any) -> str | int | None:
    """What is after the @ of a selector or subquery: "start", "end", milliseconds, or None."""
    if node.at is None:
        return None
    where = str(node.at.type).rpartition(".")[2]
    if where != "At":
        return where.lower()
    match = re.search(
        r"@ (\d+)\.(\d{3})", _STRINGS.sub("", str(node)).rpartition("]")[2] if "]" in str(node) else _STRINGS.sub("", str(node))
    )
    if match is None:
        raise QueryError(f"cannot read the time after @ in {node}")
    return int(match[1]) * 1000 + int(match[2])


def unwrapped(node: Any) -> Any:
    """A node without the parentheses around it."""
    while isinstance(node, ast.ParenExpr):
        node = node.expr
    return node


def milliseconds(duration: timedelta | None) -> int:
    """A duration of the tree."""
    return 0 if duration is None else round(duration / timedelta(milliseconds=1))


def duration(text: str) -> int:
    """A duration as Prometheus writes it ("1h30m"), in milliseconds; ValueError where it is none."""
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if not match or not text:
        raise ValueError(f"not a valid duration string: {text!r}")
    return sum(int(number) * unit for number, unit in zip(match.groups(), _UNITS, strict=True) if number)


def kind(node: Any) -> str:
    """The type of an expression: "vector", "scalar", "matrix" or "string"."""
    node = unwrapped(node)
    if isinstance(node, ast.MatrixSelector | ast.SubqueryExpr):
        return "matrix"
    if isinstance(node, ast.NumberLiteral):
        return "scalar"
    if isinstance(node, ast.StringLiteral):
        return "string"
    if isinstance(node, ast.Call):
        return str(node.func.return_type).rpartition(".")[2].lower()
    if isinstance(node, ast.BinaryExpr):
        return "scalar" if kind(node.lhs) == kind(node.rhs) == "scalar" else "vector"
    if isinstance(node, ast.UnaryExpr):
        return kind(node.expr)
    return "vector"
