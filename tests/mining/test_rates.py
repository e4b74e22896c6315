"""Whether a count is more than before, and how sure that is."""

from __future__ import annotations

import math
import random

import pytest

from opslib.mining.rates import change


def test_the_exact_probability() -> None:
    """With one earlier time of the same length it is the sign test: all of 5 lines now has a chance of one in 2⁵."""
    assert change(5, [0]).chance == pytest.approx(1 / 32)
    assert change(3, [1]).chance == pytest.approx(5 / 16)


def test_the_interval_of_clopper_and_pearson() -> None:
    """8 of 10: the interval of the share is 0.4439 to 0.9748 (any table of it), so the ratio's is its odds."""
    found = change(8, [2])
    assert found.low == pytest.approx(0.4439 / 0.5561, rel=1e-3)
    assert found.high == pytest.approx(0.9748 / 0.0252, rel=1e-2)


def test_no_line_before_has_no_upper_end() -> None:
    found = change(20, [0, 0, 0])
    assert found.ratio == found.high == math.inf
    assert found.low > 5
    assert change(0, [0, 0]).chance == 1


def test_bursts_before_make_it_less_sure() -> None:
    steady, bursts = change(60, [20, 20, 20, 20]), change(60, [0, 60, 0, 20])
    assert steady.ratio == bursts.ratio == 3
    assert steady.chance < 1e-6 < 0.05 < bursts.chance
    assert bursts.low < 1 < steady.low


def test_without_a_change_it_is_rarely_called_one() -> None:
    """At one percent, of 2,000 draws with nothing changed about 20 may be called a change; 40 would need a rate of twice that."""
    chance = random.Random(11)

    def count() -> int:
        return sum(chance.random() < 0.1 for _ in range(100))

    called = sum(change(count(), [count() for _ in range(7)]).chance < 0.01 for _ in range(2_000))
    assert called < 40


@pytest.mark.parametrize(("now", "before"), [(1, []), (-1, [1]), (1, [1, -1])])
def test_counts_that_are_none(now: int, before: list[int]) -> None:
    with pytest.raises(ValueError, match="counts"):
        change(now, before)


def test_large_counts() -> None:
    assert change(1_100_000, [1_000_000] * 7).chance < 1e-12
    assert change(1_000_000, [1_000_000] * 7).chance == pytest.approx(0.5, abs=0.01)
