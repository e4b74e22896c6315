"""How values are shown to a reader, by the unit of their column. One place, so that the notebook, the report and the index agree."""

from __future__ import annotations

import math
from datetime import UTC, datetime, tzinfo
from typing import Any

from opslib.findings import Severity, Unit
from opslib.messages import Message, text_of

UNKNOWN = "–"


def value_text(value: Any, unit: Unit, language: str, zone: tzinfo) -> str:
    """One value as text.

    Parameters
    ----------
    value
        None and NaN are "not known"; a value that its unit does not fit is shown as it is.
    unit
        Bytes are shown in binary steps (GiB), ratios as per cent, seconds as ``2h5m``, times in `zone` with its name.
    language
        For messages and severities.
    """
    if is_unknown(value):
        return UNKNOWN
    if isinstance(value, Message):
        return value.text(language)
    if isinstance(value, datetime):
        return time_text(value, zone)
    if isinstance(value, Severity):
        return value.label.text(language)
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item, unit, language, zone) for item in value)
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, int | float):
        return number_text(float(value), unit) if unit is not Unit.TEXT else str(value)
    return text_of(value, language)


def is_unknown(value: Any) -> bool:
    """Whether the value is not known: None, or a float that is no number. An infinite one is known."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number_text(value: float, unit: Unit) -> str:
    """A number of that unit."""
    match unit:
        case Unit.BYTES:
            return bytes_text(value)
        case Unit.SECONDS:
            return duration_text(value)
        case Unit.RATIO:
            return f"{_short(value * 100)} %"
        case Unit.PER_SECOND:
            return f"{_short(value)} /s"
        case _:
            return _short(value)


def bytes_text(value: float) -> str:
    """Bytes in binary steps: ``1.5 GiB``."""
    for step in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024:
            return f"{_short(value)} {step}"
        value /= 1024
    return f"{_short(value)} PiB"


def duration_text(seconds: float) -> str:
    """A duration by its two largest parts: ``3d4h``, ``2h5m``, ``90ms``."""
    if math.isinf(seconds):
        return _short(seconds)
    if seconds < 0:
        return f"-{duration_text(-seconds)}"
    if seconds < 1:
        return "0s" if seconds == 0 else f"{_short(seconds * 1000)}ms"
    if seconds < 10:
        return f"{_short(seconds)}s"
    whole = round(seconds)
    parts = [("d", whole // 86400), ("h", whole // 3600 % 24), ("m", whole // 60 % 60), ("s", whole % 60)]
    first = next(index for index, (_name, count) in enumerate(parts) if count)
    return "".join(f"{count}{name}" for name, count in parts[first : first + 2] if count)


def time_text(value: datetime, zone: tzinfo) -> str:
    """A time in the reader's zone, with the zone's name: ``2026-03-01 09:30:00 JST``. One without a zone counts as UTC."""
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return aware.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def _short(value: float) -> str:
    """Three figures are enough to judge by; whole numbers are shown whole."""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
