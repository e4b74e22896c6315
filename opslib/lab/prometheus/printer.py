"""Queries as text, in Prometheus' own form (promql/parser/printer.go), and as the tree that /api/v1/parse_query shows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from json import dumps
from typing import Any

import promql_parser as ast

from opslib.lab.prometheus import numbers
from opslib.lab.prometheus.binary import Matching
from opslib.lab.prometheus.labels import Matcher
from opslib.lab.prometheus.parse import fixed_time, matchers, milliseconds, operator

_UNITS = (("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_NAME = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")


def duration_text(milliseconds: int) -> str:
    """ "1h30m": years and weeks and days only where nothing is left over (common/model, Duration.String)."""
    if milliseconds == 0:
        return "0s"
    parts = []
    rest = milliseconds
    for unit, size in _UNITS:
        if unit in "ywd" and rest % size:
            continue
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number}{unit}")
    return "".join(parts)


def _duration(value: timedelta | None) -> str:
    return duration_text(milliseconds(value))


def _labels(names: Iterable[str]) -> str:
    return ", ".join(name if _NAME.fullmatch(name) else dumps(name, ensure_ascii=False) for name in names)


def text(node: Any) -> str:
    """An expression on one line."""
    if isinstance(node, ast.AggregateExpr):
        arguments = [text(part) for part in (node.param, node.expr) if part is not None]
        return f"{operator(node)}{_grouping(node.modifier)}({', '.join(arguments)})"
    if isinstance(node, ast.BinaryExpr):
        matching = Matching.of(node.modifier)
        return f"{text(node.lhs)} {operator(node)}{' bool' if matching.as_bool else ''}{_matching(matching)} {text(node.rhs)}"
    if isinstance(node, ast.Call):
        return f"{node.func.name}({', '.join(map(text, node.args))})"
    if isinstance(node, ast.ParenExpr):
        return f"({text(node.expr)})"
    if isinstance(node, ast.UnaryExpr):
        return f"-{text(node.expr)}"
    if isinstance(node, ast.NumberLiteral):
        return numbers.plain(node.val)
    if isinstance(node, ast.StringLiteral):
        return dumps(node.val, ensure_ascii=False)
    if isinstance(node, ast.SubqueryExpr):
        step = _duration(node.step) if node.step else ""
        return f"{text(node.expr)}[{_duration(node.range)}:{step}]{_shift(node)}"
    if isinstance(node, ast.MatrixSelector):
        return f"{_selector(node.vector_selector)}[{_duration(node.range)}]{_shift(node.vector_selector)}"
    return f"{_selector(node)}{_shift(node)}"


def _grouping(modifier: Any) -> str:
    if modifier is None:
        return ""
    if str(modifier.type).endswith("Without"):
        return f" without ({_labels(modifier.labels)}) "
    return f" by ({_labels(modifier.labels)}) " if modifier.labels else ""


def _matching(matching: Matching) -> str:
    result = ""
    if matching.names or matching.on or matching.cardinality in ("ManyToOne", "OneToMany"):
        result = f" {'on' if matching.on else 'ignoring'} ({_labels(matching.names)})"
    if matching.cardinality in ("ManyToOne", "OneToMany"):
        result += f" group_{'left' if matching.cardinality == 'ManyToOne' else 'right'} ({_labels(matching.include)})"
    return result


def _selector(node: Any) -> str:
    conditions = [item for item in matchers(node) if node.name is None or item != Matcher("__name__", "=", node.name)]
    inside = [f"{_labels([item.name])}{item.sign}{dumps(item.value, ensure_ascii=False)}" for item in conditions]
    name = node.name or ""
    return f"{name}{{{','.join(sorted(inside))}}}" if inside else name


def _shift(node: Any) -> str:
    fixed = fixed_time(node)
    result = "" if fixed is None else f" @ {fixed}()" if isinstance(fixed, str) else f" @ {fixed / 1000:.3f}"
    offset = milliseconds(node.offset)
    if offset:
        result += f" offset {'-' if offset < 0 else ''}{duration_text(abs(offset))}"
    return result


def tree(node: Any) -> Any:
    """An expression as JSON (web/api/v1/translate_ast.go)."""
    if node is None:
        return None
    if isinstance(node, ast.AggregateExpr):
        return {
            "type": "aggregation",
            "op": operator(node),
            "expr": tree(node.expr),
            "param": tree(node.param),
            "grouping": list(node.modifier.labels) if node.modifier else [],
            "without": node.modifier is not None and str(node.modifier.type).endswith("Without"),
        }
    if isinstance(node, ast.BinaryExpr):
        return {
            "type": "binaryExpr",
            "op": operator(node),
            "lhs": tree(node.lhs),
            "rhs": tree(node.rhs),
            "matching": _matching_tree(node),
            "bool": Matching.of(node.modifier).as_bool,
        }
    if isinstance(node, ast.Call):
        function = node.func
        return {
            "type": "call",
            "func": {
                "name": function.name,
                "argTypes": [str(kind).rpartition(".")[2].lower() for kind in function.arg_types],
                "variadic": function.variadic,
                "returnType": str(function.return_type).rpartition(".")[2].lower(),
            },
            "args": [tree(argument) for argument in node.args],
        }
    if isinstance(node, ast.MatrixSelector):
        return {**_selector_tree(node.vector_selector), "type": "matrixSelector", "range": milliseconds(node.range), "rangeExpr": None}
    if isinstance(node, ast.SubqueryExpr):
        return {
            "type": "subquery",
            "expr": tree(node.expr),
            "range": milliseconds(node.range),
            "rangeExpr": None,
            "step": milliseconds(node.step),
            "stepExpr": None,
            **_shift_tree(node),
        }
    if isinstance(node, ast.NumberLiteral):
        return {"type": "numberLiteral", "val": numbers.plain(node.val)}
    if isinstance(node, ast.StringLiteral):
        return {"type": "stringLiteral", "val": node.val}
    if isinstance(node, ast.ParenExpr):
        return {"type": "parenExpr", "expr": tree(node.expr)}
    if isinstance(node, ast.UnaryExpr):
        return {"type": "unaryExpr", "op": "-", "expr": tree(node.expr)}
    return _selector_tree(node)


def _matching_tree(node: Any) -> Any:
    from opslib.lab.prometheus.parse import kind

    if kind(node.lhs) != "vector" or kind(node.rhs) != "vector":
        return None
    matching = Matching.of(node.modifier)
    cards = {"OneToOne": "one-to-one", "ManyToOne": "many-to-one", "OneToMany": "one-to-many", "ManyToMany": "many-to-many"}
    return {
        "card": cards[matching.cardinality],
        "labels": list(matching.names),
        "on": matching.on,
        "include": list(matching.include),
        "fillValues": {"lhs": None, "rhs": None},
    }


def _selector_tree(node: Any) -> dict[str, Any]:
    conditions = matchers(node)
    return {
        "type": "vectorSelector",
        "name": node.name or "",
        "matchers": [{"name": item.name, "value": item.value, "type": item.sign} for item in conditions],
        "anchored": False,
        "smoothed": False,
        **_shift_tree(node),
    }


def _shift_tree(node: Any) -> dict[str, Any]:
    fixed = fixed_time(node)
    return {
        "offset": milliseconds(node.offset),
        "offsetExpr": None,
        "timestamp": fixed if isinstance(fixed, int) else None,
        "startOrEnd": fixed if isinstance(fixed, str) else None,
    }
