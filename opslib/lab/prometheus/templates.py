"""Go templates, as far as alerting rules use them: $labels, $value, pipelines, printf, if, range, with, and Prometheus' functions.

A template that asks for anything else is not guessed at: it expands to Prometheus' own "<error expanding template: ...>".
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from opslib.lab.prometheus import numbers
from opslib.lab.prometheus.labels import pattern
from opslib.lab.prometheus.parse import duration

_ACTION = re.compile(r"\{\{(- )?(.*?)( -)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+))|(?P<assign>:=|=)|(?P<pipe>\|)"""
    r"""|(?P<open>\()|(?P<close>\))|(?P<comma>,)|(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<dot>\.)|(?P<word>\w+))""",
    re.DOTALL,
)

_CONTEXT = frozenset({"query", "now", "externalURL", "pathPrefix"})

Query = Callable[[str], list["Sample"]]


class TemplateError(Exception):
    """A template that cannot be expanded."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One result of `query` in a template."""

    labels: dict[str, str]
    value: float


@dataclass(slots=True)
class _Scope:
    dot: Any
    variables: dict[str, Any]
    query: Query
    now: float
    external_url: str


def expand(
    text: str,
    labels: Mapping[str, str],
    value: float,
    *,
    query: Query = lambda text: [],
    now: float = 0,
    external_labels: Mapping[str, str] | None = None,
    external_url: str = "",
) -> str:
    """A label or annotation of an alert, for the labels and value of the series that raised it.

    Parameters
    ----------
    query
        Answers the template's own queries.
    now
        Time of the evaluation, in Unix seconds.
    """
    if "{{" not in text:
        return text
    outer = {"Labels": dict(labels), "Value": value, "ExternalLabels": dict(external_labels or {}), "ExternalURL": external_url}
    variables = {
        "$labels": outer["Labels"],
        "$value": value,
        "$externalLabels": outer["ExternalLabels"],
        "$externalURL": external_url,
        "$": outer,
    }
    scope = _Scope(outer, variables, query, now, external_url)
    try:
        parts = list(_parts(text))
        body, rest = _block(parts, 0)
        if rest != len(parts):
            raise TemplateError("unexpected {{end}}")
        return "".join(_run(body, scope))
    except (TemplateError, ArithmeticError, ValueError, TypeError, IndexError, KeyError) as error:
        return f"<error expanding template: error executing template: {error}>"


def check(text: str) -> None:
    """Find what Prometheus finds when it loads a rule: wrong syntax, functions and variables that are not there.

    Raises
    ------
    TemplateError
        It says what is wrong.
    """
    if "{{" in text:
        parts = list(_parts(text))
        _block(parts, 0)
        known = {"$", "$labels", "$value", "$externalLabels", "$externalURL"}
        for kind, content in parts:
            if kind == "action":
                _check_action(content, known)


def _check_action(content: str, known: set[str]) -> None:
    word = content.split(None, 1)[0] if content else ""
    if word in ("end", "else", "if", "range", "with"):
        content = content[len(word) :].strip()
        if word == "else" and content:
            return _check_action(content, known)
        if word in ("if", "range", "with") and not content:
            raise TemplateError(f"missing value for {word}")
    elif not content:
        raise TemplateError("missing value for command")
    tokens = _tokens(content)
    assigned = next((number for number, token in enumerate(tokens) if token[0] == "assign"), 0)
    known.update(text for kind, text in tokens[:assigned] if kind == "variable")
    for kind, text in tokens:
        if kind == "word" and text not in _FUNCTIONS and text not in _CONTEXT and text not in ("true", "false", "nil"):
            raise TemplateError(f'function "{text}" not defined')
        if kind == "variable" and text not in known:
            raise TemplateError(f'undefined variable "{text}"')
    return None


# --- parsing ---

_Part = tuple[str, str]  # "text" or "action", and what it says


def _parts(text: str) -> Iterator[_Part]:
    position = 0
    trim = False
    for match in _ACTION.finditer(text):
        before = text[position : match.start()]
        before = before.lstrip() if trim else before
        yield "text", before.rstrip() if match[1] else before
        if not match[2].strip().startswith("/*"):
            yield "action", match[2].strip()
        position, trim = match.end(), bool(match[3])
    rest = text[position:]
    if "{{" in rest:
        raise TemplateError("unclosed action")
    yield "text", rest.lstrip() if trim else rest


_Node = tuple[str, Any, list[Any], list[Any]]  # kind, what it says, body, else


def _block(parts: list[_Part], start: int, *, inner: bool = False) -> tuple[list[_Node], int]:
    """Nodes up to an end or else, and where that is."""
    nodes: list[_Node] = []
    position = start
    while position < len(parts):
        kind, content = parts[position]
        if kind == "text":
            nodes.append(("text", content, [], []))
            position += 1
            continue
        word = content.split(None, 1)[0] if content else ""
        if word in ("end", "else"):
            if not inner:
                raise TemplateError(f"unexpected {{{{{word}}}}}")
            return nodes, position
        if word in ("if", "range", "with"):
            node, position = _control(parts, position, word, content[len(word) :].strip())
            nodes.append(node)
            continue
        if word in ("define", "template", "block", "break", "continue"):
            raise TemplateError(f"{word} is not there in the embedded Prometheus")
        nodes.append(("action", content, [], []))
        position += 1
    if inner:
        raise TemplateError("unexpected EOF")
    return nodes, position


def _control(parts: list[_Part], position: int, word: str, condition: str) -> tuple[_Node, int]:
    body, position = _block(parts, position + 1, inner=True)
    otherwise: list[_Node] = []
    content = parts[position][1]
    if content.startswith("else"):
        further = content[4:].strip()
        if further:
            following, _space, rest = further.partition(" ")
            node, position = _control(parts, position, following, rest.strip())
            return (word, condition, body, [node]), position
        otherwise, position = _block(parts, position + 1, inner=True)
    return (word, condition, body, otherwise), position + 1


# --- running ---


def _run(nodes: list[_Node], scope: _Scope) -> Iterator[str]:
    for kind, content, body, otherwise in nodes:
        if kind == "text":
            yield content
        elif kind == "action":
            name, value = _assigned(content, scope)
            if not name:
                yield shown(value)
        else:
            yield from _branch(kind, content, body, otherwise, scope)


def _branch(kind: str, content: str, body: list[_Node], otherwise: list[_Node], scope: _Scope) -> Iterator[str]:
    names, value = _assigned(content, scope)
    if kind == "range":
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value or []))
        if isinstance(value, dict):
            items.sort()
        for key, item in items:
            variables = dict(scope.variables)
            if names:
                variables |= {names[-1]: item} | ({names[0]: key} if len(names) > 1 else {})
            yield from _run(body, _Scope(item, variables, scope.query, scope.now, scope.external_url))
        if not items:
            yield from _run(otherwise, scope)
        return
    if _true(value):
        dot = value if kind == "with" else scope.dot
        yield from _run(body, _Scope(dot, dict(scope.variables), scope.query, scope.now, scope.external_url))
    else:
        yield from _run(otherwise, scope)


def _assigned(content: str, scope: _Scope) -> tuple[list[str], Any]:
    """The variables that a pipeline is assigned to, and its value."""
    tokens = _tokens(content)
    names: list[str] = []
    position = next((number for number, token in enumerate(tokens) if token[0] == "assign"), None)
    if position is not None:
        names = [token[1] for token in tokens[:position] if token[0] == "variable"]
        tokens = tokens[position + 1 :]
    value, rest = _pipeline(tokens, 0, scope)
    if rest != len(tokens):
        raise TemplateError(f"unexpected {tokens[rest][1]!r}")
    for name in names[:1] if len(names) == 1 else []:
        scope.variables[name] = value
    return names, value


def _tokens(text: str) -> list[tuple[str, str]]:
    result: list[tuple[str, str]] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if not match or match.lastgroup is None:
            raise TemplateError(f"unexpected {text[position : position + 1]!r} in operand")
        glued = not match[0][:1].isspace() and position > 0
        kind = match.lastgroup
        if kind == "field" and glued and result and result[-1][0] in ("variable", "field", "close", "chain"):
            kind = "chain"
        result.append((kind, match[match.lastgroup]))
        position = match.end()
    return result


def _pipeline(tokens: list[tuple[str, str]], position: int, scope: _Scope) -> tuple[Any, int]:
    value, position = _command(tokens, position, scope, ())
    while position < len(tokens) and tokens[position][0] == "pipe":
        value, position = _command(tokens, position + 1, scope, (value,))
    return value, position


def _command(tokens: list[tuple[str, str]], position: int, scope: _Scope, last: tuple[Any, ...]) -> tuple[Any, int]:
    if position >= len(tokens):
        raise TemplateError("missing value for command")
    if tokens[position][0] == "word" and tokens[position][1] not in ("true", "false", "nil"):
        name = tokens[position][1]
        position += 1
        arguments = []
        while position < len(tokens) and tokens[position][0] not in ("pipe", "close"):
            argument, position = _operand(tokens, position, scope)
            arguments.append(argument)
        return _call(name, [*arguments, *last], scope), position
    value, position = _operand(tokens, position, scope)
    if last:
        raise TemplateError("non executable command in pipeline")
    return value, position


def _operand(tokens: list[tuple[str, str]], position: int, scope: _Scope) -> tuple[Any, int]:
    kind, text = tokens[position]
    position += 1
    value: Any
    if kind == "string":
        from json import loads

        value = text[1:-1] if text[0] == "`" else loads(text)
    elif kind == "number":
        value = int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    elif kind == "variable":
        if text not in scope.variables:
            raise TemplateError(f"undefined variable {text!r}")
        value = scope.variables[text]
    elif kind == "dot":
        value = scope.dot
    elif kind in ("field", "chain"):
        value = _field(scope.dot, text[1:])
    elif kind == "open":
        value, position = _pipeline(tokens, position, scope)
        if position >= len(tokens) or tokens[position][0] != "close":
            raise TemplateError("unclosed left paren")
        position += 1
    elif kind == "word":
        value = {"true": True, "false": False, "nil": None}.get(text, text)
        if value is text:
            value = _call(text, [], scope)
    else:
        raise TemplateError(f"unexpected {text!r}")
    while position < len(tokens) and tokens[position][0] == "chain":
        value = _field(value, tokens[position][1][1:])
        position += 1
    return value, position


def _field(value: Any, name: str) -> Any:
    if isinstance(value, Sample):
        if name in ("Labels", "Value"):
            return value.labels if name == "Labels" else value.value
        raise TemplateError(f"can't evaluate field {name}")
    if isinstance(value, dict):
        return value.get(name, "")
    raise TemplateError(f"can't evaluate field {name} in type {type(value).__name__}")


def _true(value: Any) -> bool:
    return bool(value)


def shown(value: Any) -> str:
    """A value as a template prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return numbers.general(value)
    if isinstance(value, Sample):
        return f"{{{shown(value.labels)} {shown(value.value)}}}"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{shown(item)}' for key, item in sorted(value.items()))}]"
    if value is None:
        return "<nil>"
    if isinstance(value, datetime):
        fraction = f".{value.microsecond:06d}".rstrip("0") if value.microsecond else ""
        return f"{value:%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC"
    return str(value)


# --- functions ---


def _call(name: str, arguments: list[Any], scope: _Scope) -> Any:
    if name == "query":
        return scope.query(arguments[0])
    if name == "now":
        return scope.now
    if name in ("externalURL", "pathPrefix"):
        return scope.external_url
    function = _FUNCTIONS.get(name)
    if function is None:
        raise TemplateError(f'function "{name}" not defined')
    return function(*arguments)


def _number(value: Any) -> float:
    if isinstance(value, str):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TemplateError(f"can't convert {type(value).__name__} to float")
    return float(value)


def _four(value: float) -> str:
    """%.4g"""
    if math.isnan(value) or math.isinf(value):
        return numbers.plain(value)
    return re.sub(r"e([+-])(\d)$", r"e\g<1>0\2", f"{value:.4g}")


def _prefixed(value: float, step: float, prefixes: str) -> str:
    prefix = ""
    for item in prefixes.split():
        if abs(value) < step:
            break
        prefix = item
        value /= step
    return _four(value) + prefix


def humanize(value: Any) -> str:
    """With a metric prefix: 1234567 is 1.235M."""
    number = _number(value)
    if number == 0 or not math.isfinite(number):
        return _four(number)
    if abs(number) >= 1:
        return _prefixed(number, 1000, "k M G T P E Z Y")
    prefix = ""
    for item in "munpfazy":
        if abs(number) >= 1:
            break
        prefix = item
        number *= 1000
    return _four(number) + prefix


def humanize1024(value: Any) -> str:
    """With a binary prefix: 1048576 is 1Mi."""
    number = _number(value)
    return _four(number) if abs(number) <= 1 or not math.isfinite(number) else _prefixed(number, 1024, "ki Mi Gi Ti Pi Ei Zi Yi")


def humanize_duration(value: Any) -> str:
    """Seconds as "1d 2h 3m 4s"."""
    number = _number(value)
    if not math.isfinite(number):
        return _four(number)
    if number == 0:
        return "0s"
    if abs(number) >= 1:
        sign = "-" if number < 0 else ""
        whole = int(abs(number))
        seconds, minutes, hours, days = whole % 60, whole // 60 % 60, whole // 3600 % 24, whole // 86400
        if days:
            return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
        if hours:
            return f"{sign}{hours}h {minutes}m {seconds}s"
        if minutes:
            return f"{sign}{minutes}m {seconds}s"
        return f"{_four(number)}s"
    prefix = ""
    for item in "munpfazy":
        if abs(number) >= 1:
            break
        prefix = item
        number *= 1000
    return f"{_four(number)}{prefix}s"


def humanize_timestamp(value: Any) -> str:
    """Unix seconds as a date in UTC."""
    number = _number(value)
    if not math.isfinite(number):
        return _four(number)
    return shown(_to_time(number))


def _to_time(value: Any) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=_number(value))


def printf(form: str, *values: Any) -> str:
    """Go's Sprintf, for the verbs that rules use."""
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match[1], match[2]
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        if verb in "sv":
            return f"%{flags}s" % shown(value)
        if verb == "q":
            from json import dumps

            return dumps(str(value), ensure_ascii=False)
        if verb == "t":
            return shown(value)
        if verb in "dxX":
            if not isinstance(value, int):
                return f"%!{verb}(float64={shown(value)})" if isinstance(value, float) else f"%!{verb}(string={value})"
            return f"%{flags}{verb}" % value
        if not isinstance(value, float):
            return f"%!{verb}(int={value})" if isinstance(value, int) else f"%!{verb}(string={value})"
        if not math.isfinite(value):
            return numbers.plain(value)
        if verb in "gG" and "." not in flags:
            return numbers.general(value)
        return f"%{flags}{verb}" % value

    return re.sub(r"%([-+# 0]*\d*(?:\.\d+)?)([a-zA-Z%])", one, form)


def _first(values: list[Sample]) -> Sample:
    if not values:
        raise TemplateError("error calling first: first() called on vector with no elements")
    return values[0]


def _replace(expression: str, replacement: str, text: str) -> str:
    from opslib.lab.prometheus.functions import expanded

    compiled = pattern(expression)
    result, position = [], 0
    for match in compiled.finditer(text):
        result += [text[position : match.start()], expanded(replacement, match)]
        position = match.end()
    return "".join([*result, text[position:]])


def _strip_port(text: str) -> str:
    match = re.fullmatch(r"\[(.*)\]:[^:]*|([^:\[\]]*):[^:]*", text)
    return (match[1] if match[1] is not None else match[2]) if match else text


def _compare(test: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def function(first: Any, *others: Any) -> bool:
        for other in others:
            if isinstance(first, str) != isinstance(other, str) or isinstance(first, float) != isinstance(other, float):
                raise TemplateError("incompatible types for comparison")
        return any(test(first, other) for other in others)

    return function


def _and(*values: Any) -> Any:
    return next((value for value in values if not _true(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if _true(value)), values[-1])


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key, "") if isinstance(value, dict) else value[key]
    return value


def _title(text: str) -> str:
    return re.sub(r"\b\w", lambda match: match[0].upper(), text)


def _escaped(text: str) -> str:
    from urllib.parse import quote_plus

    return quote_plus(text)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "humanize": humanize,
    "humanize1024": humanize1024,
    "humanizeDuration": humanize_duration,
    "humanizePercentage": lambda value: f"{_four(_number(value) * 100)}%",
    "humanizeTimestamp": humanize_timestamp,
    "toTime": _to_time,
    "printf": printf,
    "print": lambda *values: "".join(map(shown, values)),
    "println": lambda *values: " ".join(map(shown, values)) + "\n",
    "first": _first,
    "label": lambda name, sample: sample.labels.get(name, ""),
    "value": lambda sample: sample.value,
    "strvalue": lambda sample: sample.labels.get("__value__", ""),
    "sortByLabel": lambda name, samples: sorted(samples, key=lambda sample: sample.labels.get(name, "")),
    "title": _title,
    "toUpper": str.upper,
    "toLower": str.lower,
    "match": lambda expression, text: pattern(expression).search(text) is not None,
    "reReplaceAll": _replace,
    "stripPort": _strip_port,
    "urlQueryEscape": _escaped,
    "parseDuration": lambda text: duration(text) / 1000,
    "args": lambda *values: {f"arg{number}": value for number, value in enumerate(values)},
    "safeHtml": lambda text: text,
    "eq": _compare(lambda first, second: bool(first == second)),
    "ne": _compare(lambda first, second: bool(first != second)),
    "lt": _compare(lambda first, second: bool(first < second)),
    "le": _compare(lambda first, second: bool(first <= second)),
    "gt": _compare(lambda first, second: bool(first > second)),
    "ge": _compare(lambda first, second: bool(first >= second)),
    "and": _and,
    "or": _or,
    "not": lambda value: not _true(value),
    "len": len,
    "index": _index,
}
