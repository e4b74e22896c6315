"""How often work comes again."""

from __future__ import annotations

from typing import Any

import pytest

from opslib.lab.rest import Rest


def test_a_rest_is_as_long_as_work_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: dict[str, Any] = {"now": 100.0}
    monkeypatch.setattr("opslib.lab.rest.time.monotonic", lambda: clock["now"])
    mine = Rest(3)
    assert mine.seconds == 0
    with mine.after():
        clock["now"] += 2
    assert mine.seconds == 6
    clock["now"] += 5
    assert mine.seconds == 1
    mine.end()
    assert mine.seconds == 0
