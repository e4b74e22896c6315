"""Labels and conditions on them, which also what knows no samples has (Alertmanager)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import re2

Labels = tuple[tuple[str, str], ...]
_GO_WORDS = {
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
    "bad repetition operator": "invalid nested repetition operator",
    "invalid repetition size": "invalid repeat count",
    "invalid perl operator": "invalid or unsupported Perl syntax",
}


def labels_of(labels: Mapping[str, str]) -> Labels:
    """Labels as the store keeps them: sorted, without empty ones, which Prometheus takes for missing."""
    return tuple(sorted((name, value) for name, value in labels.items() if value != ""))


@dataclass(frozen=True, slots=True)
class Matcher:
    """A condition on a label; `sign` is one of = != =~ !~. A label that is missing is empty."""

    name: str
    sign: str
    value: str

    def __call__(self, value: str) -> bool:
        if self.sign == "=":
            return value == self.value
        if self.sign == "!=":
            return value != self.value
        return (pattern(self.value).fullmatch(value) is not None) == (self.sign == "=~")


@functools.lru_cache(1024)
def pattern(text: str) -> Any:
    """An expression as Prometheus compiles it: RE2, a dot matches a newline too."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(f"(?s:{text})", options)


def regexp_error(text: str, shown: str | None = None) -> str:
    """What is wrong with an expression, as Go's regexp says it; empty where nothing is. `shown` is the whole as it was compiled."""
    try:
        pattern(text)
    except re2.error as error:
        reason, _colon, place = error.args[0].decode("utf-8", "replace").rpartition(": ")
        if reason.startswith("missing "):
            place = text if shown is None else shown
        return f"error parsing regexp: {_GO_WORDS.get(reason, reason)}: `{place}`"
    return ""
