"""PromQL, evaluated for all steps of a query at once.

An instant vector is a matrix: a row a series, a column a step, and a mask of where there is a value. The rules follow Prometheus'
evaluator (promql/engine.go), which goes step by step; where a rule speaks of "the vector", it is meant of each column.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import promql_parser as ast

from opslib.lab.prometheus import aggregate, binary, functions, windows
from opslib.lab.prometheus.labels import Labels, Matcher
from opslib.lab.prometheus.parse import QueryError, fixed_time, kind, matchers, milliseconds, operator, parse, unwrapped
from opslib.lab.prometheus.store import Floats, Integers, Samples, Store, is_absent, is_stale
from opslib.lab.prometheus.vectors import Notes, Vector, joined, without_name
from opslib.lab.prometheus.windows import Windows

_BATCH = 2_000_000  # samples that are read at once
_USUAL_STEP = 15_000


@dataclass(frozen=True, slots=True)
class Result:
    """What a query gives.

    Parameters
    ----------
    kind
        "vector", "scalar", "string" or "matrix".
    times
        Steps in milliseconds.
    value
        A `Vector`, an array of scalars, a str; for the instant query of a range vector a list of (labels, times, values).
    """

    kind: str
    times: Integers
    value: Any
    notes: Notes


@dataclass(frozen=True, slots=True)
class Engine:
    """Evaluates queries over a store.

    Parameters
    ----------
    lookback
        How old a sample may be that still counts for a moment, in milliseconds.
    default_step
        Step of subqueries that name none, in milliseconds: the global evaluation interval.
    experimental
        Whether functions are known that Prometheus has behind --enable-feature=promql-experimental-functions.
    """

    store: Store
    lookback: int = 300_000
    default_step: int = 60_000
    experimental: bool = False

    def query(self, text: str, time: int) -> Result:
        """The value of an expression at a time in milliseconds.

        Raises
        ------
        QueryError
            It is not valid, or cannot be evaluated on these samples.
        """
        tree = parse(text, self.experimental)
        steps = np.array([time], np.int64)
        evaluator = _Evaluator(self, steps, time, time, Notes(text))
        node = unwrapped(tree)
        with np.errstate(all="ignore"):
            if isinstance(node, ast.StringLiteral):
                return Result("string", steps, node.val, evaluator.notes)
            if kind(node) == "matrix":
                return Result("matrix", steps, list(evaluator.raw(node)), evaluator.notes)
            value = evaluator.value(tree)
        return Result("scalar" if isinstance(value, np.ndarray) else "vector", steps, value, evaluator.notes)

    def query_range(self, text: str, start: int, end: int, step: int) -> Result:
        """The values of an expression from `start` to `end`, every `step` milliseconds; errors as of `query`."""
        tree = parse(text, self.experimental)
        given = kind(tree)
        if given not in ("vector", "scalar"):
            name = {"matrix": "range vector"}.get(given, given)
            raise QueryError(f'invalid expression type "{name}" for range query, must be Scalar or instant Vector', "bad_data")
        steps = np.arange(start, end + 1, step, dtype=np.int64)
        evaluator = _Evaluator(self, steps, start, end, Notes(text))
        with np.errstate(all="ignore"):
            value = evaluator.value(tree)
        if isinstance(value, np.ndarray):
            value = Vector([()], value[None, :], np.ones((1, len(steps)), bool))
        return Result("matrix", steps, value.compact().sorted(), evaluator.notes)


@dataclass(slots=True)
class _Evaluator:
    """One evaluation. `start` and `end` are those of the whole query, which @ start() and @ end() mean."""

    engine: Engine
    times: Integers
    start: int
    end: int
    notes: Notes = field(default_factory=Notes)

    # --- any expression ---

    def value(self, node: Any) -> Vector | Floats:
        """An instant vector or scalar over all steps."""
        node = unwrapped(node)
        if isinstance(node, ast.NumberLiteral):
            return np.full(len(self.times), node.val)
        if isinstance(node, ast.VectorSelector):
            return self._select(node)
        if isinstance(node, ast.UnaryExpr):
            value = self.value(node.expr)
            if isinstance(value, Vector):
                return joined(Vector(without_name(value.labels), -value.values, value.present))
            return -value
        if isinstance(node, ast.AggregateExpr):
            return self._aggregate(node)
        if isinstance(node, ast.BinaryExpr):
            return self._binary(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        raise QueryError(f"unhandled expression of type: {type(node).__name__}")

    def vector(self, node: Any) -> Vector:
        """The same where the types say that it is a vector."""
        value = self.value(node)
        assert isinstance(value, Vector)
        return value

    def scalar(self, node: Any) -> Floats:
        """The same where the types say that it is a scalar."""
        value = self.value(node)
        assert isinstance(value, np.ndarray)
        return value

    # --- selectors ---

    def _moments(self, node: Any) -> Integers:
        """The times that a selector looks at, a step each."""
        fixed = fixed_time(node)
        at: Integers = self.times
        if fixed is not None:
            moment = self.start if fixed == "start" else self.end if fixed == "end" else int(fixed)
            at = np.full(len(self.times), moment, np.int64)
        return at - milliseconds(node.offset)

    def _read(self, conditions: Sequence[Matcher], after: int, until: int) -> Iterator[Samples]:
        """Samples of the series that fulfil the conditions, some series at a time."""
        store = self.engine.store
        series = store.find(conditions, after + 1, until)
        size = max(1, _BATCH // (1 + (until - after) // _USUAL_STEP))
        for begin in range(0, len(series), size):
            yield from store.read(series[begin : begin + size], after + 1, until)

    def _select(self, node: Any, function: Callable[[Samples, Integers], Floats] | None = None) -> Vector:
        """The newest sample of each series at each moment, not older than the lookback."""
        moments = self._moments(node)
        lookback = self.engine.lookback
        pieces = []
        for samples in self._read(matchers(node), int(moments.min()) - lookback, int(moments.max())):
            if not len(samples.times):
                continue
            index = np.searchsorted(samples.times, moments, side="right") - 1
            gaps = is_absent(samples.values)
            if gaps.any():
                newest = np.maximum.accumulate(np.where(gaps, -1, np.arange(len(samples.times))), axis=1)
                index = np.where(index >= 0, newest[:, index], -1)
            else:
                index = np.broadcast_to(index, (len(samples.labels), len(index)))
            values = np.take_along_axis(samples.values, np.maximum(index, 0), axis=1)
            present = (index >= 0) & (samples.times[index] > moments - lookback) & ~is_stale(values)
            if function is not None:
                values = function(samples, index)
            pieces.append(Vector(samples.labels, values, present))
        return Vector.stacked(pieces, len(self.times)).compact().sorted()

    def raw(self, node: Any) -> Iterator[tuple[Labels, Integers, Floats]]:
        """The samples of a range vector at the one step, by series."""
        for item in sorted(self._windows(node), key=lambda one: one.labels):
            for labels, values in zip(item.labels, item.values, strict=True):
                begin, end = int(item.first[0]), int(item.last[0])
                if end > begin:
                    yield labels, item.times[begin:end], values[begin:end]

    def _windows(self, node: Any) -> Iterator[Windows]:
        """The samples of a range vector, with their windows."""
        node = unwrapped(node)
        span = milliseconds(node.range)
        selector = node.vector_selector if isinstance(node, ast.MatrixSelector) else node
        ends = self._moments(selector)
        if isinstance(node, ast.MatrixSelector):
            read: Iterator[Samples] = self._read(matchers(selector), int(ends.min()) - span, int(ends.max()))
        else:
            read = iter([self._subquery(node, ends, span)])
        for samples in read:
            yield from windows.split(samples, ends - span, ends, self.times)

    def _subquery(self, node: Any, ends: Integers, span: int) -> Samples:
        """The inner expression at the steps of the subquery, which are multiples of its own step."""
        step = milliseconds(node.step) or self.engine.default_step
        begin = int(ends.min()) - span
        first = step * math.floor(begin / step)
        if first <= begin:
            first += step
        times = np.arange(first, int(ends.max()) + 1, step, dtype=np.int64)
        if not len(times):
            return Samples([], times, np.zeros((0, 0)))
        inner = _Evaluator(self.engine, times, self.start, self.end, self.notes).value(node.expr)
        if isinstance(inner, np.ndarray):
            return Samples([()], times, inner[None, :].copy())
        return Samples(inner.labels, times, windows.marked(inner.values, inner.present))

    # --- operators ---

    def _aggregate(self, node: Any) -> Vector:
        name = operator(node)
        grouping = aggregate.Grouping.of(node.modifier)
        if name == "count_values":
            return aggregate.count_values(unwrapped(node.param).val, self.vector(node.expr), grouping)
        parameter = None if node.param is None else self.scalar(node.param)
        return aggregate.aggregate(name, self.vector(node.expr), grouping, parameter, self.notes)

    def _binary(self, node: Any) -> Vector | Floats:
        left, right = self.value(node.lhs), self.value(node.rhs)
        name = operator(node)
        matching = binary.Matching.of(node.modifier)
        if isinstance(left, Vector) and isinstance(right, Vector):
            if name in ("and", "or", "unless"):
                return binary.sets(name, left, right, matching)
            return binary.vectors(name, left, right, matching)
        if isinstance(left, Vector) and isinstance(right, np.ndarray):
            return binary.with_scalar(name, left, right, matching.as_bool, swapped=False)
        if isinstance(right, Vector) and isinstance(left, np.ndarray):
            return binary.with_scalar(name, right, left, matching.as_bool, swapped=True)
        assert isinstance(left, np.ndarray) and isinstance(right, np.ndarray)
        return binary.scalars(name, left, right)

    # --- functions ---

    def _call(self, node: Any) -> Vector | Floats:
        name = node.func.name
        arguments = [unwrapped(argument) for argument in node.args]
        if name in windows.FUNCTIONS:
            return self._over_time(name, arguments)
        if name in ("absent", "absent_over_time"):
            return self._absent(name, arguments[0])
        if name == "timestamp" and isinstance(arguments[0], ast.VectorSelector):
            vector = self._select(arguments[0], lambda samples, index: samples.times[index] / 1000)
            return joined(Vector(without_name(vector.labels), vector.values, vector.present))
        if name in ("label_replace", "label_join"):
            texts = [argument.val for argument in arguments[1:]]
            change = functions.label_replace if name == "label_replace" else functions.label_join
            return change(self.vector(arguments[0]), *texts)
        function = functions.FUNCTIONS.get(name)
        if function is None:
            raise QueryError(f'the function "{name}" is not there in the embedded Prometheus')
        values = [argument.val if isinstance(argument, ast.StringLiteral) else self.value(argument) for argument in arguments]
        result: Vector | Floats = function(functions.Moment(self.times, self.notes), *values)
        return result

    def _over_time(self, name: str, arguments: list[Any]) -> Vector:
        """A function of a range vector, and perhaps scalars."""
        position = next(number for number, argument in enumerate(arguments) if kind(argument) == "matrix")
        scalars = [self.scalar(argument) for number, argument in enumerate(arguments) if number != position]
        pieces = []
        for item in self._windows(arguments[position]):
            values, present = windows.FUNCTIONS[name](item, *scalars)
            present = np.broadcast_to(present, values.shape)
            if name in ("rate", "increase"):
                self.notes.counters([item.labels[row] for row in np.flatnonzero(present.any(axis=1))])
            labels = item.labels if name in ("last_over_time", "first_over_time") else without_name(item.labels)
            pieces.append(Vector(labels, values, present))
        if name == "quantile_over_time" and any(piece.present.any() for piece in pieces):
            self.notes.quantile(scalars[0])
        return joined(Vector.stacked(pieces, len(self.times)).compact()).sorted()

    def _absent(self, name: str, argument: Any) -> Vector:
        if name == "absent":
            there = np.any(self.vector(argument).present, axis=0)
        else:
            there = np.zeros(len(self.times), bool)
            for item in self._windows(argument):
                there |= bool(item.labels) & (item.last > item.first)
        selector = argument.vector_selector if isinstance(argument, ast.MatrixSelector) else argument
        labels = functions.absent_labels(matchers(selector) if isinstance(selector, ast.VectorSelector) else [])
        return Vector([labels], np.ones((1, len(self.times))), ~there[None, :]).compact()
