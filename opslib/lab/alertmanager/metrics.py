"""Alertmanager's own metrics, and times as its API writes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from opslib.lab.prometheus import numbers
from opslib.lab.prometheus.labels import Labels, labels_of

REASONS = ("authError", "clientError", "contextCanceled", "contextDeadlineExceeded", "other", "rateLimited", "serverError")


def series(name: str, **labels: str) -> Labels:
    """The labels of a series."""
    return labels_of({"__name__": name, **labels})


def text(values: Mapping[Labels, float]) -> str:
    """Prometheus' text format."""
    from json import dumps

    lines = []
    for labels, value in sorted(values.items()):
        known = dict(labels)
        name = known.pop("__name__")
        inside = ",".join(f"{key}={dumps(item, ensure_ascii=False)}" for key, item in known.items())
        lines.append(f"{name}{{{inside}}} {numbers.general(float(value))}" if inside else f"{name} {numbers.general(float(value))}")
    return "\n".join(lines) + "\n"


def iso(seconds: float) -> str:
    """Milliseconds, in UTC."""
    moment = datetime.fromtimestamp(int(seconds * 1000) / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{round(moment.microsecond / 1000):03d}Z"
