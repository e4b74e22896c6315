from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.findings import Severity, Unit
from opslib.messages import _
from opslib.reporting.format import UNKNOWN, duration_text, value_text

TOKYO = ZoneInfo("Asia/Tokyo")


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, Unit.BYTES, UNKNOWN),
        (float("nan"), Unit.RATIO, UNKNOWN),
        (0, Unit.COUNT, "0"),
        (1234567, Unit.COUNT, "1,234,567"),
        (512, Unit.BYTES, "512 B"),
        (1536, Unit.BYTES, "1.5 KiB"),
        (2**31, Unit.BYTES, "2 GiB"),
        (3 * 2**50, Unit.BYTES, "3 PiB"),
        (0.123456, Unit.RATIO, "12.3 %"),
        (1, Unit.RATIO, "100 %"),
        (12.345, Unit.PER_SECOND, "12.3 /s"),
        (0.25, Unit.CORES, "0.25"),
        (0, Unit.SECONDS, "0s"),
        (0.25, Unit.SECONDS, "250ms"),
        (300, Unit.SECONDS, "5m"),
        (7500, Unit.SECONDS, "2h5m"),
        (86400 * 3 + 3600 * 4 + 59, Unit.SECONDS, "3d4h"),
        (59.7, Unit.SECONDS, "1m"),
        (-90, Unit.SECONDS, "-1m30s"),
        (float("inf"), Unit.SECONDS, "∞"),
        (42, Unit.TEXT, "42"),
        ("x\x1b[31m", Unit.TEXT, "x\\x1b[31m"),
        (["a", "b"], Unit.TEXT, "a, b"),
        (True, Unit.TEXT, "✓"),
        (datetime(2026, 3, 1, 0, 30, tzinfo=UTC), Unit.TIME, "2026-03-01 09:30:00 JST"),
        (Severity.CRITICAL, Unit.SEVERITY, "critical"),
        (_("{count} pods", count=3), Unit.TEXT, "3 pods"),
    ],
)
def test_values_are_shown_by_their_unit(value: Any, unit: Unit, shown: str) -> None:
    assert value_text(value, unit, "en", TOKYO) == shown


@given(st.floats(min_value=0, max_value=10 * 365 * 86400))
def test_a_duration_reads_back_within_its_second_part(seconds: float) -> None:
    text = duration_text(seconds)
    sizes = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    if text.endswith("ms"):
        assert seconds < 1
        return
    total, digits, smallest = 0.0, "", "s"
    for char in text:
        if char in sizes:
            total += float(digits) * sizes[char]
            digits, smallest = "", char
        else:
            digits += char
    # What is left out is less than one of the unit after the first.
    first = next(char for char in text if char in sizes)
    following = {"d": 3600, "h": 60, "m": 1, "s": 0.1}[first]
    assert abs(total - seconds) < following + 1
    assert smallest in sizes


@given(st.floats(allow_nan=False), st.sampled_from(list(Unit)))
def test_every_number_has_a_text(value: float, unit: Unit) -> None:
    assert value_text(value, unit, "en", TOKYO)


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=40000)))
def test_every_time_has_a_text(since: timedelta) -> None:
    assert value_text(datetime(1990, 1, 1, tzinfo=UTC) + since, Unit.TIME, "en", TOKYO).endswith("JST")
