"""Label and field selectors, parsed and matched as the API server does (k8s.io/apimachinery, pkg/labels and pkg/fields)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opslib.lab.kube import names
from opslib.lab.kube.errors import bad_request

Match = Callable[[Mapping[str, str]], bool]

_TOKEN = re.compile(r"\s*(==|!=|=|!|>|<|\(|\)|,|[^\s=!<>(),]+)")


class _NoRequirement(ValueError):
    """What is wrong stands between requirements, not in one."""


def everything(labels: Mapping[str, str]) -> bool:
    """The empty selector."""
    return True


def parse_labels(text: str) -> Match:
    """A label selector from a query.

    Raises
    ------
    Refused
        It cannot be parsed.
    """
    if not text.strip():
        return everything
    try:
        requirements = _requirements(text)
    except _NoRequirement as error:
        raise bad_request(str(error)) from None
    except ValueError as error:
        raise bad_request(f"unable to parse requirement: {error}") from None
    return requirements[0] if len(requirements) == 1 else lambda labels: all(requirement(labels) for requirement in requirements)


def _has(key: str, wanted: bool) -> Match:
    return lambda labels: (key in labels) is wanted


def _equals(key: str, value: str, wanted: bool) -> Match:
    return lambda labels: (labels.get(key) == value) is wanted


def _among(key: str, values: frozenset[str], wanted: bool) -> Match:
    return lambda labels: (labels.get(key) in values) is wanted


def _requirements(text: str) -> list[Match]:
    words = _tokens(text)
    found: list[Match] = []
    position = 0

    def take() -> str:
        nonlocal position
        word = words[position] if position < len(words) else ""
        position += 1
        return word

    while True:
        word = take()
        if word == "!":
            key = take()
            _check_key(key)
            found.append(_has(key, False))
            word = take()
        else:
            key = word
            if key in ("", ",", "(", ")", "=", "==", "!=", ">", "<"):
                raise _NoRequirement(f"found '{key}', expected: !, identifier, or 'end of string'")
            _check_key(key)
            operator = take()
            if operator in ("", ","):
                found.append(_has(key, True))
                word = operator
            elif operator in ("=", "==", "!="):
                value = words[position] if position < len(words) and words[position] != "," else ""
                if value:
                    position += 1
                _check_value(key, value)
                if operator == "!=":
                    found.append(_equals(key, value, False))
                else:
                    found.append(_equals(key, value, True))
                word = take()
            elif operator in ("in", "notin"):
                values = _values(take)
                for value in values:
                    _check_value(key, value)
                if operator == "in":
                    found.append(_among(key, values, True))
                else:
                    found.append(_among(key, values, False))
                word = take()
            elif operator in (">", "<"):
                bound = take()
                try:
                    number = int(bound)
                except ValueError:
                    raise ValueError(
                        f"values[0]: Invalid value: \"{bound}\": for 'Gt', 'Lt' operators, the value must be an integer"
                    ) from None
                found.append(_compared(key, operator, number))
                word = take()
            else:
                raise ValueError(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")
        if word == "":
            return found
        if word != ",":
            raise _NoRequirement(f"found '{word}', expected: ',' or 'end of string'")
        if position >= len(words):
            raise _NoRequirement("found '', expected: identifier after ','")


def _values(take: Callable[[], str]) -> frozenset[str]:
    if (word := take()) != "(":
        raise ValueError(f"found '{word}' expected: '('")
    values: set[str] = set()
    last = ","
    while (word := take()) != ")":
        if word == "":
            raise ValueError("found '', expected: ',', ')' or identifier")
        if word == ",":
            if last == ",":
                values.add("")
        else:
            values.add(word)
        last = word
    if last == ",":
        values.add("")
    return frozenset(values)


def _compared(key: str, operator: str, number: int) -> Match:
    def matches(labels: Mapping[str, str]) -> bool:
        try:
            value = int(labels[key])
        except (KeyError, ValueError):
            return False
        return value > number if operator == ">" else value < number

    return matches


def _tokens(text: str) -> list[str]:
    words = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if not match:
            raise ValueError(f"found '{text[position:]}', expected: identifier")
        words.append(match[1])
        position = match.end()
    return words


def _check_key(key: str) -> None:
    problems = names.qualified_name(key)
    if problems:
        raise ValueError(f'key: Invalid value: "{key}": {"; ".join(problems)}')


def _check_value(key: str, value: str) -> None:
    problems = names.label_value(value)
    if problems:
        raise ValueError(f'values[0][{key}]: Invalid value: "{value}": {"; ".join(problems)}')


def from_object(selector: Mapping[str, Any] | None) -> Match:
    """A selector that stands in an object (``matchLabels`` and ``matchExpressions``). None matches nothing, empty everything."""
    if selector is None:
        return lambda labels: False
    wanted = selector.get("matchLabels") or {}
    expressions = selector.get("matchExpressions") or []

    def matches(labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in wanted.items()) and all(_expression(one, labels) for one in expressions)

    return matches


def _expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, operator, values = expression.get("key", ""), expression.get("operator"), expression.get("values") or []
    if operator == "In":
        return labels.get(key) in values
    if operator == "NotIn":
        return labels.get(key) not in values
    if operator == "Exists":
        return key in labels
    return operator == "DoesNotExist" and key not in labels


def parse_fields(text: str, supported: Sequence[str], *, listed: bool = False) -> tuple[Match, str]:
    """A field selector from a query, and the object's name where it asks for one name only.

    Raises
    ------
    Refused
        It cannot be parsed, or names a field that this resource cannot be selected by.
    """
    if not text:
        return everything, ""
    requirements: list[tuple[str, str, bool]] = []
    name = ""
    for term in _terms(text):
        match = re.search(r"==|!=|=", term)
        if not match:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        field, value = term[: match.start()], re.sub(r"\\(.)", r"\1", term[match.end() :])
        if field not in supported:
            if listed:
                raise bad_request(f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"')
            raise bad_request(f"field label not supported: {field}")
        equal = match[0] != "!="
        if field == "metadata.name" and equal:
            name = value
        requirements.append((field, value, equal))
    if len(requirements) == 1:  # as nearly always; it is asked of every object
        [(only, wanted, same)] = requirements
        return (lambda fields: fields.get(only, "") == wanted) if same else (lambda fields: fields.get(only, "") != wanted), name
    return lambda fields: all((fields.get(field, "") == value) is equal for field, value, equal in requirements), name


def _terms(text: str) -> list[str]:
    terms = re.findall(r"(?:\\.|[^,\\])+", text)
    return [term for term in terms if term]


def describe(selector: Mapping[str, Any] | None) -> str:
    """A selector as it is printed; "<none>" where there is none (``FormatLabelSelector``)."""
    if not selector:
        return "<none>"
    parts: list[tuple[str, str]] = [(key, f"{key}={value}") for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or []:
        key, operator, values = one.get("key", ""), one.get("operator"), one.get("values") or []
        text = {
            "In": f"{key} in ({','.join(sorted(values))})",
            "NotIn": f"{key} notin ({','.join(sorted(values))})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }.get(operator, "")
        parts.append((key, text))
    return ",".join(text for _key, text in sorted(parts)) or "<none>"
