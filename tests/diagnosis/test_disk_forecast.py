"""When a file system is full: kinds of growth told apart, and an interval that means something."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from opslib.diagnosis.disk.facts import Parameters
from opslib.diagnosis.disk.forecast import Forecast, best, forecast
from opslib.diagnosis.disk.space import judge
from opslib.diagnosis.slopes import theil_sen
from opslib.lab.world import World, volumes
from opslib.lab.world.faults import VolumeFill

GIB = 2.0**30
CAPACITY = 50 * GIB
HOUR, DAY = 3600.0, 86400.0
END = 1_800_000_000.0
DAYS = np.arange(END - 7 * DAY, END + 1, 1800)
HOURS = np.arange(END - 6 * HOUR, END + 1, 120)

Curve = Callable[[np.ndarray], np.ndarray]


def seen(curve: Curve, *, noise: float = 0.02, seed: int = 1) -> Forecast:
    """The forecast for what was in use at a time, in GiB; with noise."""
    random = np.random.default_rng(seed)
    of = [forecast(list(x), list(curve(x) * GIB + random.normal(0, noise * GIB, len(x))), CAPACITY) for x in (DAYS, HOURS)]
    return best(of[0], of[1], CAPACITY, 6 * HOUR)


def since(x: np.ndarray, seconds: float) -> np.ndarray:
    """Seconds since so long before the end, 0 before that."""
    return np.clip(x - (END - seconds), 0, None)


def test_steady_growth_has_a_date_and_an_interval() -> None:
    found = seen(lambda x: 20 + 2 * since(x, 7 * DAY) / DAY)
    assert found.kind == "steady"
    assert found.is_sure
    assert found.slope * DAY / GIB == pytest.approx(2, rel=0.02)
    assert found.earliest < found.seconds < found.latest
    assert found.seconds / DAY == pytest.approx(8, rel=0.02)


def test_what_began_an_hour_ago_is_seen_though_a_week_was_quiet() -> None:
    found = seen(lambda x: 20 + 0.1 * since(x, 7 * DAY) / DAY + 16 * since(x, 1.5 * HOUR) / HOUR)
    assert found.kind == "steady"
    assert found.slope * HOUR / GIB == pytest.approx(16, rel=0.02)
    assert found.since == pytest.approx(END - 1.5 * HOUR, abs=600)


def test_the_ups_and_downs_of_a_day_are_no_growth() -> None:
    found = seen(lambda x: 20 + 0.3 * np.sin(2 * np.pi * x / DAY))
    assert found.kind == "flat"
    assert found.seconds == math.inf


def test_a_step_does_not_go_on() -> None:
    found = seen(lambda x: 20 + 15 * (since(x, 2 * DAY) > 0))
    assert found.kind == "step"
    assert found.steps[-1] / GIB == pytest.approx(15, abs=0.3)
    assert found.seconds == math.inf
    assert found.since == pytest.approx(END - 2 * DAY, abs=3600)


def test_of_a_sawtooth_the_peaks_count() -> None:
    level = seen(lambda x: 20 + 10 * (x % DAY) / DAY)
    assert level.kind == "sawtooth"
    assert not level.is_sure
    rising = seen(lambda x: 20 + 10 * (x % DAY) / DAY + since(x, 7 * DAY) / DAY)
    assert rising.kind == "sawtooth"
    assert rising.slope * DAY / GIB == pytest.approx(1, rel=0.05)


def test_one_clean_up_is_no_sawtooth_and_what_comes_after_counts() -> None:
    found = seen(lambda x: 20 + 3 * since(x, 7 * DAY) / DAY - 15 * (since(x, 3 * DAY) > 0))
    assert found.kind == "steady"
    assert found.slope * DAY / GIB == pytest.approx(3, rel=0.02)


def test_growth_that_has_stopped_is_none() -> None:
    found = seen(lambda x: 20 + 30 * np.minimum(x - DAYS[0], 6.5 * DAY) / (7 * DAY))
    assert found.kind == "flat"


def test_a_full_one_says_since_when_and_how_it_came() -> None:
    found = seen(lambda x: np.minimum(20 + 15 * since(x, 4 * HOUR) / HOUR, 50), noise=0.001)
    assert found.seconds == 0
    assert found.kind == "steady"
    assert found.slope * HOUR / GIB == pytest.approx(15, rel=0.05)
    assert found.full_since == pytest.approx(END - 2 * HOUR, abs=300)


def test_one_that_was_always_full_is_full() -> None:
    found = forecast(list(DAYS), [CAPACITY] * len(DAYS), CAPACITY)
    assert (found.seconds, found.full_since) == (0, DAYS[0])


def test_few_points_say_nothing() -> None:
    assert forecast([0.0, 60.0], [1.0, 2.0], 100).kind == "short"
    assert forecast([], [], 100).kind == "short"
    assert forecast(list(DAYS), [math.nan] * len(DAYS), 100).kind == "short"


def test_gaps_in_the_points_do_no_harm() -> None:
    values = 20 * GIB + GIB * (DAYS - DAYS[0]) / DAY
    values[50:150] = math.nan
    found = forecast(list(DAYS), list(values), CAPACITY)
    assert found.kind == "steady"
    assert found.slope * DAY / GIB == pytest.approx(1, rel=0.01)


def test_one_wrong_sample_moves_nothing() -> None:
    values = 20 * GIB + GIB * (DAYS - DAYS[0]) / DAY
    values[100] = 0
    assert theil_sen([(DAYS, values)], alike_at_most=0.99)[0] * DAY / GIB == pytest.approx(1, rel=0.01)


def test_neighbours_that_are_alike_make_the_interval_wider() -> None:
    """With the noise of a random walk as many points say less than with independent noise of the same size."""
    random = np.random.default_rng(3)
    independent = random.normal(0, 1, len(DAYS))
    walk = np.cumsum(random.normal(0, 1, len(DAYS)))
    walk *= independent.std() / walk.std()
    line = (DAYS - DAYS[0]) / DAY
    _, low, high = theil_sen([(DAYS, line + independent)], alike_at_most=0.99)
    _, walk_low, walk_high = theil_sen([(DAYS, line + walk)], alike_at_most=0.99)
    assert walk_high - walk_low > 2 * (high - low)


def test_the_interval_has_the_truth_in_it_mostly() -> None:
    true = 1.0
    hits = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.5, 100)
        x = np.arange(100.0)
        _slope, low, high = theil_sen([(x, true * x / 50 + noise)], alike_at_most=0.99)
        hits += low <= true / 50 <= high
    assert hits >= 34  # 95 of 100 are promised


@settings(deadline=None, max_examples=150)
@given(
    some.lists(some.one_of(some.floats(0, 2e12), some.just(math.nan)), max_size=60),
    some.floats(0, 1e12),
)
def test_any_series_has_a_forecast_in_order(values: list[float], capacity: float) -> None:
    times = [60.0 * number for number in range(len(values))]
    found = forecast(times, values, capacity)
    assert found.earliest <= found.seconds <= found.latest
    assert found.seconds >= 0
    assert found.low <= found.slope <= found.high


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_is_found_in_a_week_of_volumes_that_are_well(seed: int) -> None:
    world = World(seed, END - 9 * DAY, END)
    for place, replica in volumes.volumes(world):
        capacity = volumes.capacity(world, place)
        for moment in (END, END - 1.3 * DAY):
            series = [DAYS - (END - moment), HOURS - (END - moment)]
            of = [forecast(list(x), list(volumes.used(world, place, replica, x)), capacity) for x in series]
            found = best(of[0], of[1], capacity, 6 * HOUR)
            share = float(volumes.used(world, place, replica, np.array([moment]))[0]) / capacity
            assert judge(share, found, Parameters())[1] == ""


@pytest.mark.parametrize("rate", [1e9, 4e9, 16e9])
def test_a_volume_that_fills_is_found_within_half_an_hour_with_its_date(rate: float) -> None:
    world = World(0, END - 9 * DAY, END).breaks(VolumeFill(service="order-db", bytes_per_hour=rate), END - HOUR / 2)
    place = world.places["order-db"]
    capacity = volumes.capacity(world, place)
    of = [forecast(list(x), list(volumes.used(world, place, 0, x)), capacity) for x in (DAYS, HOURS)]
    found = best(of[0], of[1], capacity, 6 * HOUR)
    left = capacity - float(volumes.used(world, place, 0, np.array([END]))[0])
    assert found.seconds == pytest.approx(left / rate * HOUR, rel=0.05)
    assert judge(1 - left / capacity, found, Parameters())[1] == "fills"
