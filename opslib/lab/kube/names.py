"""Which names, labels and values are well formed, in the API server's words (k8s.io/apimachinery, pkg/util/validation)."""

from __future__ import annotations

import re
from typing import Any

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE = rf"({_QUALIFIED})?"
_KEY = r"[-._a-zA-Z0-9]+"
_ENVIRONMENT = r"[-._a-zA-Z][-._a-zA-Z0-9]*"


def _matches(pattern: str, value: str) -> bool:
    return re.fullmatch(pattern, value, re.ASCII) is not None


def _regex(message: str, pattern: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


def dns_label(value: str) -> list[str]:
    """RFC 1123 label."""
    problems = [f"must be no more than {63} characters"] if len(value) > 63 else []
    if not _matches(_LABEL, value):
        problems.append(
            _regex(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an"
                " alphanumeric character",
                _LABEL,
                "my-name",
                "123-abc",
            )
        )
    return problems


def dns_subdomain(value: str) -> list[str]:
    """RFC 1123 subdomain."""
    problems = [f"must be no more than {253} characters"] if len(value) > 253 else []
    if not _matches(_SUBDOMAIN, value):
        problems.append(
            _regex(
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end"
                " with an alphanumeric character",
                _SUBDOMAIN,
                "example.com",
            )
        )
    return problems


def dns_label_1035(value: str) -> list[str]:
    """RFC 1035 label, of services in older releases and of ports."""
    problems = [f"must be no more than {63} characters"] if len(value) > 63 else []
    if not _matches(_LABEL_1035, value):
        problems.append(
            _regex(
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end"
                " with an alphanumeric character",
                _LABEL_1035,
                "my-name",
                "abc-123",
            )
        )
    return problems


def path_segment(value: str) -> list[str]:
    """A name that only has to fit into a path (RBAC objects)."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{character}'" for character in ("/", "%") if character in value]


def qualified_name(value: str) -> list[str]:
    """A label's key."""
    problems = []
    prefix, slash, name = value.rpartition("/")
    if value.count("/") > 1:
        return [
            "a qualified name "
            + _regex(
                "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                _QUALIFIED,
                "MyName",
                "my.name",
                "123-abc",
            )
            + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    if slash:
        if not prefix:
            problems.append("prefix part must be non-empty")
        else:
            problems += [f"prefix part {problem}" for problem in dns_subdomain(prefix)]
    if not name:
        problems.append("name part must be non-empty")
    elif len(name) > 63:
        problems.append("name part must be no more than 63 characters")
    if not _matches(_QUALIFIED, name):
        problems.append(
            "name part "
            + _regex(
                "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
                _QUALIFIED,
                "MyName",
                "my.name",
                "123-abc",
            )
        )
    return problems


def label_value(value: Any) -> list[str]:
    """A label's value."""
    value = str(value)
    problems = ["must be no more than 63 characters"] if len(value) > 63 else []
    if not _matches(_VALUE, value):
        problems.append(
            _regex(
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end"
                " with an alphanumeric character",
                f"({_QUALIFIED})?",
                "MyValue",
                "my_value",
                "12345",
            )
        )
    return problems


def data_key(value: str) -> list[str]:
    """A key of a ConfigMap's or Secret's data."""
    problems = [f"must be no more than {253} characters"] if len(value) > 253 else []
    if not _matches(_KEY, value):
        problems.append(
            _regex("a valid config key must consist of alphanumeric characters, '-', '_' or '.'", _KEY, "key.name", "KEY_NAME", "key-name")
        )
    if value in (".", ".."):
        problems.append(f"must not be '{value}'")
    elif value.startswith(".."):
        problems.append("must not start with '..'")
    return problems
