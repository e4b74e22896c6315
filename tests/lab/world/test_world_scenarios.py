"""Every scenario's file is sound and its signature is in the metrics; mistakes in one are named."""

from __future__ import annotations

import math
import re

import pytest
import yaml

from opslib.errors import InputError
from opslib.lab import named
from opslib.lab.prometheus import Engine, Store
from opslib.lab.world import scenarios
from opslib.lab.world.manifests import manifests
from opslib.lab.world.metrics import load
from opslib.lab.world.model import World
from opslib.lab.world.platform import sized

NOW = 1_790_604_800.0
SHOWN = [name for name in scenarios.names() if scenarios.load(name).signature]
TEXT = (named.SCENARIOS / "memory-leak.yaml").read_text("utf-8")


def engine_of(world: World, start: float, end: float) -> Engine:
    store = Store()
    load(store, world, start=start, step_seconds=30, end=lambda: end)
    return Engine(store)


def shown(engine: Engine, query: str, at: float) -> list[float]:
    return [float(value) for value in engine.query(query, int(at * 1000)).value.values[:, 0]]


def assert_shown(scenario: scenarios.Scenario, engine: Engine, begin: float) -> None:
    for sign in scenario.signature:
        values = shown(engine, sign.query, begin + sign.after)
        assert values and all(scenarios.holds(sign.is_, value) for value in values), (sign.query, sign.is_, values)


@pytest.mark.parametrize(("name", "seed"), [*((name, 7) for name in SHOWN), ("cascade", 2026), ("memory-leak", 2026)])
def test_the_metrics_show_the_signature(name: str, seed: int) -> None:
    scenario = scenarios.load(name)
    begin = scenario.begins(NOW)
    world = scenario.world(seed, NOW, history_days=1)
    last = max(sign.after for sign in scenario.signature)
    engine = engine_of(world, begin - 3600, begin + last)
    assert_shown(scenario, engine, begin)


@pytest.mark.parametrize("name", SHOWN)
def test_the_metrics_of_a_larger_platform_show_the_signature(name: str) -> None:
    scenario, (services, nodes) = scenarios.load(name), sized(600)
    begin = scenario.begins(NOW)
    world = scenario.broken(World(7, begin - 86400, begin, services=services, nodes=nodes), begin)
    engine = engine_of(world, begin - 3600, begin + max(sign.after for sign in scenario.signature))
    assert_shown(scenario, engine, begin)


@pytest.mark.parametrize("hour", range(0, 24, 3))
@pytest.mark.parametrize("name", ["cpu-throttling", "traffic-spike"])
def test_what_depends_on_traffic_shows_at_every_hour(name: str, hour: int) -> None:
    scenario = scenarios.load(name)
    begin = NOW + hour * 3600
    last = max(sign.after for sign in scenario.signature)
    engine = engine_of(scenario.broken(World(7, begin - 86400, begin), begin), begin - 3600, begin + last)
    assert_shown(scenario, engine, begin)


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_of_it_shows_in_a_world_where_nothing_breaks(name: str) -> None:
    scenario = scenarios.load(name)
    begin = scenario.begins(NOW)
    world = World(7, begin - 86400, begin)
    engine = engine_of(world, begin - 3600, begin + max(sign.after for sign in scenario.signature))
    whole = []
    for sign in scenario.signature:
        values = shown(engine, sign.query, begin + sign.after)
        whole.append(bool(values) and all(scenarios.holds(sign.is_, value) for value in values))
    assert not all(whole)


def test_what_a_scenario_releases_does_not_run_already() -> None:
    released = {
        found
        for name in scenarios.names()
        for found in re.findall(r"/([\w-]+):(\d+\.\d+\.\d+)", (named.SCENARIOS / f"{name}.yaml").read_text("utf-8"))
        + re.findall(r"service: ([\w-]+), .*release: ([\d.]+)", (named.SCENARIOS / f"{name}.yaml").read_text("utf-8"))
    }
    assert {("payment-api", "5.1.0"), ("recommendation", "1.5.0"), ("search", "0.30.9"), ("user", "5.0.0")} <= released
    for seed in (7, 2026):
        world = World(seed, NOW - 400 * 86400, NOW)
        ran = {(change.service, version) for change in world.changes for version in (change.before, change.after)}
        assert len(ran) > 200
        assert not ran & released


@pytest.mark.parametrize("name", [name for name in SHOWN if any(end.metrics or end.objects for end in scenarios.load(name).accepted)])
def test_a_right_fix_leaves_the_state_that_is_accepted(name: str) -> None:
    scenario = scenarios.load(name)
    begin = scenario.begins(NOW)
    broken = scenario.world(7, NOW, history_days=1)
    fixed_at = begin + max(sign.after for sign in scenario.signature)
    for end in scenario.accepted:
        ours = all(state.object.startswith("Deployment/") for state in end.objects)  # what the world has itself
        if ours:
            assert not (end.objects and scenarios.objects_fit(end, manifests(broken, fixed_at - 60)))
        world = broken
        faults = [number for number, step in enumerate(scenario.timeline) if step.fault]
        for number in end.ends:
            world = world.ended(faults.index(number), fixed_at)
        if ours:
            assert scenarios.objects_fit(end, manifests(world, fixed_at + 1))
        for state in end.metrics:
            at = fixed_at + state.within
            values = shown(engine_of(world, fixed_at - 3600, at), state.query, at)
            assert values and all(scenarios.holds(state.is_, value) for value in values), (state.query, values)
            worse = shown(engine_of(broken, fixed_at - 3600, at), state.query, at)
            if name != "memory-leak":  # its curve comes down by itself, when it is killed
                assert not all(scenarios.holds(state.is_, value) for value in worse)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clock": 14}, "clock"),
        ({"level": 9}, "level"),
        ({"timeline": []}, "timeline"),
        ({"timeline": [{"after": "1m"}]}, "timeline.0: .*one of fault"),
        ({"timeline": [{"play": "no-such-fault"}]}, "no-such-fault"),
        ({"timeline": [{"after": "soon", "fault": {"kind": "slow", "service": "web", "latency_factor": 3}}]}, "timeline.0.after: .*soon"),
        ({"timeline": [{"fault": {"kind": "slow", "service": "web"}}]}, "timeline.0.fault.slow.latency_factor"),
        ({"timeline": [{"fault": {"kind": "magic"}}]}, "timeline.0.fault: .*magic"),
        ({"timeline": [{"fault": {"kind": "memory_leak", "service": "nothing"}}]}, "there is no service nothing"),
        ({"timeline": [{"fault": {"kind": "memory_leak", "service": "web"}, "after": "2h", "until": "1h"}]}, "ends before it begins"),
        ({"diagnosis": {"cause": "dns", "subjects": ["Deployment/shop/web"]}}, "diagnosis.cause: dns"),
        ({"diagnosis": {"cause": "memory_leak", "subjects": ["Deployment/shop/no"]}}, "no Deployment/shop/no"),
        ({"signature": [{"after": "1h", "query": "up", "is": "about 3"}]}, "signature.0.is: .*about 3"),
        (
            {"accepted": [{"title": {"en": "a", "ja": "b"}, "ends": [3], "metrics": [{"within": "1m", "query": "up", "is": "== 1"}]}]},
            "accepted.0.ends",
        ),
        ({"accepted": [{"title": {"en": "a", "ja": "b"}}]}, "accepted.0: it needs"),
        ({"story": {"en": "only English"}}, "story.ja"),
        ({"more": 1}, "more"),
    ],
)
def test_a_mistake_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        scenarios.parse(yaml.safe_dump({**yaml.safe_load(TEXT), **change}), "memory-leak.yaml")
    assert "memory-leak.yaml" in str(caught.value)


def test_a_text_that_is_no_yaml_and_a_name_that_is_not_there() -> None:
    with pytest.raises(InputError, match="not YAML"):
        scenarios.parse("a: [", "x.yaml")
    with pytest.raises(InputError, match=r"x\.yaml: scenario"):
        scenarios.parse("- a list", "x.yaml")
    with pytest.raises(InputError, match="memory-leak"):
        scenarios.load("memory-leek")


def test_conditions_and_acts() -> None:
    assert scenarios.holds(">= 500m", "1") and not scenarios.holds(">= 500m", "499m")
    assert scenarios.holds("> 50Gi", "51Gi") and not scenarios.holds("> 50Gi", 51e9)
    assert scenarios.holds("!= a:1", "a:2") and not scenarios.holds("== a:1", "a:2") and not scenarios.holds("> 1", "a:2")
    assert not scenarios.holds("> 1", math.nan)
    [act] = [one for one in scenarios.load("full-volume").forbidden if one.resource == "statefulsets.apps"]
    assert act.covers("delete", "statefulsets.apps", "data", "order-db")
    assert not act.covers("delete", "statefulsets.apps", "monitoring", "prometheus") and not act.covers(
        "patch", "statefulsets.apps", "data"
    )
    right = scenarios.load("memory-leak").diagnosis
    assert right.fits("recommendation が OOMKilled になっている。メモリリークの疑い") and not right.fits("gateway OOM leak")
