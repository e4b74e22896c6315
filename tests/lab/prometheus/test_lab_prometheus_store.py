"""The column store: nothing is rounded, nothing is lost, what has ended is marked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.lab.prometheus import Computed, Engine, Store, labels_of
from opslib.lab.prometheus.index import Index, Places
from opslib.lab.prometheus.labels import Matcher
from opslib.lab.prometheus.parse import QueryError
from opslib.lab.prometheus.store import is_absent, is_stale

BASE = 1_700_000_000_000


def labels(**values: str) -> tuple[tuple[str, str], ...]:
    return labels_of(values)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.1, 1.0, 2.0**24 + 1]), min_size=1, max_size=700))
def test_what_goes_in_comes_out_to_the_bit(values: list[float]) -> None:
    store = Store(retention_seconds=10**9)
    scrape = store.scrape()
    for number, value in enumerate(values):
        scrape.append(BASE + number * 1000, {labels(a="changing"): value, labels(a="constant"): 7.5})
    for name, expected in (("changing", np.array(values)), ("constant", np.full(len(values), 7.5))):
        (samples,) = store.read(store.find([Matcher("a", "=", name)]), BASE, BASE + 10**7)
        assert samples.times.tolist() == [BASE + number * 1000 for number in range(len(values))]
        assert samples.values[0].tobytes() == expected.tobytes()


def test_a_series_that_is_no_longer_given_has_ended() -> None:
    store = Store()
    scrape = store.scrape()
    scrape.append(BASE, {labels(__name__="up", i="1"): 1, labels(__name__="up", i="2"): 1})
    scrape.append(BASE + 15_000, {labels(__name__="up", i="1"): 1})
    scrape.append(BASE + 30_000, {labels(__name__="up", i="1"): 1})
    (samples,) = store.read(store.find([Matcher("i", "=", "2")]), BASE, BASE + 60_000)
    assert is_stale(samples.values)[0].tolist() == [False, True, False]
    assert is_absent(samples.values)[0].tolist() == [False, False, True]
    result = Engine(store).query("up", BASE + 31_000)
    assert result.value.compact().labels == [labels(__name__="up", i="1")]


def test_samples_must_come_in_order() -> None:
    scrape = Store().scrape()
    scrape.append(BASE, {labels(a="b"): 1})
    with pytest.raises(ValueError, match="out of order"):
        scrape.append(BASE, {labels(a="b"): 2})


def test_a_history_and_a_scrape_of_the_same_series_are_one() -> None:
    store = Store()
    store.load([{"__name__": "c_total"}], range(BASE, BASE + 600_000, 15_000), np.arange(40)[None, :])
    scrape = store.scrape()
    for number in range(40, 60):
        scrape.append(BASE + number * 15_000, {labels(__name__="c_total"): number})
    (samples,) = store.read(store.find([Matcher("__name__", "=", "c_total")]), BASE, BASE + 10**6)
    assert samples.values[0].tolist() == list(range(60))
    rate = Engine(store).query("rate(c_total[10m])", BASE + 59 * 15_000).value.values[0, 0]
    assert rate == pytest.approx(1 / 15)


def test_computed_series_live_as_long_as_they_are_said_to() -> None:
    lives = np.array([[BASE, BASE + 100_000], [BASE + 45_000, BASE + 10**9]])
    store = Store()
    store.add(
        Computed(
            [{"__name__": "m", "p": "first"}, {"__name__": "m", "p": "second"}],
            lambda rows, times: rows[:, None] * 1000.0 + (times - BASE) / 1000,
            start=BASE,
            step=15_000,
            end=lambda: BASE + 300_000,
            lifetimes=lives,
        )
    )
    engine = Engine(store)
    assert engine.query("m", BASE + 100_000).value.compact().labels == [labels(__name__="m", p="first"), labels(__name__="m", p="second")]
    assert engine.query("m", BASE + 110_000).value.compact().labels == [labels(__name__="m", p="second")]
    assert engine.query("count_over_time(m[10m])", BASE + 300_000).value.values[:, 0].tolist() == [7.0, 18.0]
    assert engine.query("m", BASE + 400_000).value.values[:, 0].tolist() == [1300.0]  # nothing is there after now
    assert store.find([Matcher("__name__", "=", "m")], BASE + 200_000, BASE + 300_000) == [1]


def test_what_is_too_old_is_forgotten() -> None:
    store = Store(retention_seconds=3600)
    scrape = store.scrape()
    for number in range(1000):
        scrape.append(BASE + number * 15_000, {labels(a="b"): number})
    (samples,) = store.read(store.find([Matcher("a", "=", "b")]), 0, BASE * 2)
    assert samples.times[-1] == BASE + 999 * 15_000
    assert BASE + 999 * 15_000 - 3600_000 - 240 * 15_000 <= samples.times[0] <= BASE + 999 * 15_000 - 3600_000


@pytest.mark.parametrize(
    ("matchers", "expected"),
    [
        ([("a", "=", "x")], ["x1", "x2"]),
        ([("a", "!=", "x")], ["n", "y"]),
        ([("a", "=", "")], ["n"]),
        ([("a", "!=", "")], ["x1", "x2", "y"]),
        ([("a", "=~", "x|y")], ["x1", "x2", "y"]),
        ([("a", "=~", "x?")], ["n", "x1", "x2"]),
        ([("a", "!~", "x|y")], ["n"]),
        ([("a", "=", "x"), ("id", "!=", "x1")], ["x2"]),
        ([("b", "=", "x")], []),
        ([], ["n", "x1", "x2", "y"]),
    ],
)
def test_matchers(matchers: list[tuple[str, str, str]], expected: list[str]) -> None:
    store = Store()
    given = [{"a": "x", "id": "x1"}, {"a": "x", "id": "x2"}, {"a": "y", "id": "y"}, {"id": "n"}]
    store.load(given, [BASE], np.ones((4, 1)))
    found = store.labels(store.find([Matcher(*item) for item in matchers]))
    assert sorted(dict(item)["id"] for item in found) == expected


def test_what_is_not_there_is_refused_not_guessed() -> None:
    engine = Engine(Store())
    for query in ("foo @ -5", "mad_over_time(a[5m])", "info(a)", 'a{x="1" or y="2"}', "a + fill(0) b"):
        with pytest.raises(QueryError):
            engine.query(query, BASE)


names = st.sampled_from(["__name__", "a", "b", "le"])
sets = st.lists(st.dictionaries(names, st.sampled_from(["", "x", "y", "xy", "0.5"]), min_size=1), min_size=1, max_size=40)
conditions = st.lists(
    st.tuples(names, st.sampled_from(["=", "!=", "=~", "!~"]), st.sampled_from(["", "x", "x|y", "x.*", ".+", ".*", "absent"])), max_size=3
)


@given(sets, conditions)
def test_an_index_finds_what_looking_at_every_set_finds(given_sets: list[dict[str, str]], asked: list[tuple[str, str, str]]) -> None:
    index = Index()
    numbers = [index.number(labels_of(one)) for one in given_sets]
    assert [dict(index[number]) for number in numbers] == [{name: value for name, value in one.items() if value} for one in given_sets]
    assert len(index) == len({labels_of(one) for one in given_sets})
    matchers = [Matcher(*one) for one in asked]
    expected = {number for number in numbers if all(one(dict(index[number]).get(one.name, "")) for one in matchers)}
    assert index.find(matchers).tolist() == sorted(expected)


def test_an_index_of_many_sets_knows_each_again() -> None:
    index = Index()
    sets = [labels(pod=f"p{number}", le=str(number % 11)) for number in range(5000)]
    assert [index.number(one) for one in sets] == list(range(5000))  # its table has been widened meanwhile
    assert [index.number(one) for one in sets] == list(range(5000))
    assert index.values("le")["0"] == 455


def test_a_group_that_is_taken_away_leaves_the_others_and_its_room() -> None:
    places = Places()
    for group in range(4):
        for series in range(3):
            places.add(series, group, series)
    places.remove([0, 1, 2], {0, 2})
    assert places.of(1) == [(1, 1), (3, 1)]
    places.add(1, 9, 7)
    assert places.of(1) == [(1, 1), (3, 1), (9, 7)]
    assert places.row(1, 9) == 7
    assert places.row(1, 2) is None
    assert places.row(99, 1) is None


def test_a_scrape_that_fails_costs_next_to_nothing() -> None:
    """Series that have ended and begin again in a piece, and never change, are kept as small as those that are always there."""
    sizes = []
    for failed in ((), (5, 6)):
        store, many = Store(), {labels(__name__="up_to", number=str(number)): number / 3 for number in range(500)}
        scrape = store.scrape()
        for number in range(49):
            scrape.append(BASE + number * 15_000, {} if number in failed else many)
        sizes.append(sum(size for _last, size in store._groups[0].pieces()))  # type: ignore[attr-defined]
    assert sizes[1] < 1.1 * sizes[0]
    (samples,) = store.read(store.find([Matcher("__name__", "=", "up_to")]), BASE, BASE + 10**6)
    expected = np.repeat([[many[one]] for one in samples.labels], 49, axis=1)
    assert is_stale(samples.values[:, 5]).all() and is_absent(samples.values[:, 6]).all()
    assert np.array_equal(np.delete(samples.values, (5, 6), axis=1), expected[:, :47])


def test_the_oldest_are_forgotten_where_all_take_too_much() -> None:
    store = Store(retention_bytes=50_000)
    first, second = store.scrape(), store.scrape()
    for number in range(2000):
        first.append(BASE + number * 15_000, {labels(a="b", c=str(one)): number * one / 7 for one in range(5)})
        second.append(BASE + number * 15_000, {labels(a="b", d="e"): number / 7})
    for one in store.read(store.find([Matcher("a", "=", "b")]), 0, BASE * 2):
        assert 20_000 / 48 < len(one.times) < 50_000 / 48 + 300 and one.times[-1] == BASE + 1999 * 15_000


def test_a_series_that_comes_later_is_found_among_those_that_were_there() -> None:
    store = Store()
    for count, name in enumerate("bca", 1):
        store.load([{"__name__": "m", "p": name}], [BASE], [[1.0]])
        for _time in range(2):
            found = store.labels(store.find([Matcher("__name__", "=", "m")], BASE, BASE))
            assert found == [labels(__name__="m", p=one) for one in sorted("bca"[:count])]
    assert store.find([Matcher("__name__", "=", "m")], BASE + 1, BASE + 2) == []
