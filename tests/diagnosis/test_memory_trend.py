"""Leak, load, cache or nothing: curves whose answer is known, and properties that must hold for any."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.diagnosis.memory.trend import Trend, trend

MI = 2.0**20
TIMES = np.arange(0, 6 * 3600, 120.0)
HOURS = TIMES / 3600
NOISE = np.random.default_rng(1).normal(0, 3 * MI, len(TIMES))
LOAD = 100 + 50 * np.sin(HOURS * 2 * np.pi / 6)


def of(values: Any, **more: Any) -> Trend:
    return trend(TIMES, values, **{"limit": 1024 * MI, **more})


def test_a_leak_is_told_with_its_slope_and_its_end() -> None:
    curve = 300 * MI + 20 * MI * HOURS + NOISE
    found = of(curve, rss=curve - 20 * MI, load=LOAD)
    assert found.kind == "leak"
    assert found.confidence >= 0.8
    assert found.slope.low < 20 * MI / 3600 < found.slope.high
    # from 420 MiB at the end up to 1024 at 20 an hour
    assert found.earliest < 30.2 * 3600 < found.latest
    assert found.earliest <= found.seconds <= found.latest


def test_what_follows_the_load_is_no_leak() -> None:
    load = 100 + 40 * HOURS + np.random.default_rng(2).normal(0, 3, len(HOURS))
    curve = 200 * MI + load * MI + NOISE
    assert of(curve, rss=curve, load=load).kind == "load"
    assert of(curve, rss=curve).kind == "leak"  # nobody can tell without the load
    assert of(curve, rss=curve).confidence < of(curve, rss=curve, load=np.full(len(HOURS), 100.0)).confidence


def test_a_leak_under_a_load_that_rises_and_falls_is_one() -> None:
    curve = 200 * MI + 25 * MI * HOURS + 0.5 * MI * LOAD + NOISE
    found = of(curve, rss=curve, load=LOAD)
    assert found.kind == "leak"
    assert found.load_share is not None and found.load_share > 0.7


def test_cache_of_files_is_no_leak() -> None:
    found = of(300 * MI + 20 * MI * HOURS + NOISE, rss=200 * MI + NOISE, load=LOAD)
    assert found.kind == "cache"
    assert found.seconds == math.inf  # the kernel takes it back before


@pytest.mark.parametrize(
    "curve",
    [
        300 * MI + NOISE,
        300 * MI + (TIMES % 1200) * 60 * MI / 1200 + NOISE,  # garbage collections
        300 * MI + 0.5 * MI * LOAD + NOISE,  # a day's ups and downs, without the load known
        np.full(len(TIMES), 300 * MI),
    ],
    ids=["noise", "collections", "ups and downs", "constant"],
)
def test_what_does_not_grow_is_flat(curve: Any) -> None:
    assert of(curve).kind == "flat"


def test_a_program_that_takes_its_memory_and_stays_there_does_not_leak() -> None:
    curve = 100 * MI + 500 * MI * (1 - np.exp(-HOURS / 0.5)) + NOISE
    assert of(curve).kind in ("warming", "flat")


@pytest.mark.parametrize("told", [True, False], ids=["restarts known", "restarts seen as drops"])
def test_a_leak_that_is_killed_every_hour_is_seen_in_all_its_curves(told: bool) -> None:
    curve = 200 * MI + (TIMES % 4000) * 400 * MI / 3600 + NOISE
    restarts = [4000.0 * number for number in range(1, 6)] if told else []
    found = of(curve, limit=700 * MI, rss=curve, restarts=restarts)
    assert found.kind == "leak"
    assert (found.curves, found.rising) == (6, 6)
    assert found.slope.value * 3600 / MI == pytest.approx(400, rel=0.05)
    # without the restarts between, one line through all of it would be flat
    assert found.seconds < 3600


def test_a_program_that_has_just_begun_is_too_young_to_say() -> None:
    few = TIMES[:20]
    assert trend(few, 100 * MI + few * MI, limit=1024 * MI).kind == "short"
    assert trend([], [], limit=None).kind == "short"


def test_after_a_restart_the_level_is_that_of_now() -> None:
    curve = np.concatenate([np.linspace(200, 480, 175), np.linspace(100, 104, 5)]) * MI
    found = of(curve, limit=512 * MI, restarts=[float(TIMES[175])])
    assert found.level < 110 * MI
    assert found.seconds > 3600


def test_noise_with_a_memory_of_its_own_is_hardly_ever_a_leak() -> None:
    wrong = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        steps, walk = random.normal(0, 4 * MI, len(TIMES)), np.zeros(len(TIMES))
        for place in range(1, len(TIMES)):
            walk[place] = 0.9 * walk[place - 1] + steps[place]
        wrong += of(300 * MI + walk, limit=600 * MI).grows
    assert wrong <= 2


def test_points_that_are_not_known_are_left_out() -> None:
    curve = 300 * MI + 20 * MI * HOURS + NOISE
    holes = curve.copy()
    holes[::3] = np.nan
    rss = curve.copy()
    rss[5:] = np.nan
    found = of(holes, rss=rss, load=np.full(len(HOURS), np.nan))
    assert found.kind == "leak"
    assert found.rss_share is None
    assert found.load_share is None


@given(
    rate=st.floats(min_value=-200, max_value=200), level=st.floats(min_value=1, max_value=4000), limit=st.none() | st.floats(1, 1e5),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_whatever_the_curve_the_interval_holds_the_slope_and_time_is_not_negative(
    rate: float, level: float, limit: float | None, seed: int
) -> None:
    noise = np.random.default_rng(seed).normal(0, 5 * MI, 60)
    times = np.arange(0, 60 * 120, 120.0)
    found = trend(times, np.maximum(level * MI + rate * MI * times / 3600 + noise, 0), limit=limit and limit * MI)
    assert found.slope.low <= found.slope.value <= found.slope.high
    assert 0 <= found.earliest <= found.seconds <= found.latest
    assert 0 <= found.confidence <= 0.95
    if rate < 0 and found.curves == 1:
        assert not found.grows
