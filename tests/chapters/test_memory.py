"""Chapter 4.3 memory on small facts: every rule with what it must find and what it must leave alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from opslib.chapters import memory
from opslib.diagnosis.memory.facts import Curve, Facts, Parameters
from opslib.diagnosis.monitoring.facts import NodeUse
from opslib.diagnosis.usage import Change, Cluster, Place, PodPlace, Use
from opslib.findings import Finding, Severity
from opslib.messages import _, use_language

NOW = datetime(2026, 4, 10, 12, 0, tzinfo=UTC)
PARAMETERS = Parameters()
MI = 2.0**20
CART = Place("shop", "cart", "cart")
POD = PodPlace("shop", "cart-abc-1", "cart")
TIMES = NOW.timestamp() - np.arange(180, 0, -1, dtype=np.float64) * 120.0
SINCE = (TIMES - TIMES[0]) / 3600
NOISE = np.random.default_rng(3).normal(0, 2 * MI, len(TIMES))
CALM = np.full(len(TIMES), 50.0)


def curve(rate: float = 0.0, level: float = 300, limit: float | None = 1024, **more: Any) -> Curve:
    values = level * MI + rate * MI * SINCE + NOISE
    return Curve(times=TIMES, working_set=values, **{"rss": values, "load": CALM, "limit": limit and limit * MI, **more})


def node(name: str, used: float | None = None, size: float | None = None) -> NodeUse:
    return NodeUse(
        name=name, cpu_used=None, cpu_allocatable=None, cpu_requested=None, memory_used=used and used * 2.0**30,
        memory_allocatable=size and size * 2.0**30, memory_requested=None, filesystems={},
    )  # fmt: skip


def use(highest: float = 300, **more: Any) -> Use:
    given = {"pods": 2, "total": 2 * highest * MI, "highest": highest * MI, "request": 512 * MI, "limit": 1024 * MI, **more}
    return Use(**given)


def facts(**fields: Any) -> Facts:
    """A service that is well: each test breaks one thing."""
    well: dict[str, Any] = {
        "cluster": Cluster({("shop", "cart"): "Deployment"}), "uses": {CART: use()}, "kills": {}, "curves": {POD: curve()},
        "places": {POD: CART}, "load_is_requests": frozenset({CART}),
        "nodes": (node("node-1", 8, 16),),
    }  # fmt: skip
    return Facts(now=NOW, environment="lab", **{**well, **fields})


def found(**fields: Any) -> list[Finding]:
    return memory.findings(facts(**fields), PARAMETERS)


def one(check: str, **fields: Any) -> Finding:
    [finding] = found(**fields)
    assert finding.check == check
    return finding


def test_nothing_is_found_where_all_is_well() -> None:
    assert found() == []


def test_what_was_not_read_is_not_judged_and_the_tables_say_so() -> None:
    nothing = Facts(now=NOW, environment="lab")
    assert memory.findings(nothing, PARAMETERS) == []
    for table in (memory.use_table(nothing, PARAMETERS), memory.growth_table(nothing), memory.sizing_table(nothing)):
        assert table.empty == memory.NOT_READ, table.name
    assert memory.curves_figure(nothing, PARAMETERS)


def test_a_leak_is_critical_where_its_end_is_near_or_containers_were_killed() -> None:
    near = one("growth.leak", curves={POD: curve(150)})
    assert near.severity is Severity.CRITICAL
    far = one("growth.leak", curves={POD: curve(20)})
    assert far.severity is Severity.WARNING
    assert one("growth.leak", curves={POD: curve(20)}, kills={CART: 3.0}).severity is Severity.CRITICAL
    assert str(near.subject) == "shop/Deployment/cart"
    assert [str(pod) for pod in near.affected] == ["shop/Pod/cart-abc-1"]
    assert any("heap-dump cart-abc-1 -n shop -c cart" in step.command for step in near.steps)


def test_a_leak_names_the_change_before_it_and_the_way_back() -> None:
    changed = (Change(NOW - timedelta(hours=7), "shop", "cart", "image", _("new image {image}", image="cart:2"), "cart"),)
    finding = one("growth.leak", curves={POD: curve(60)}, changes=changed)
    with use_language("en"):
        assert any("new image cart:2" in str(item.text) for item in finding.evidence)
    assert finding.steps[0].command == "opslib plan rollback deployment/cart -n shop --env lab"
    assert not any("rollback" in step.command for step in one("growth.leak", curves={POD: curve(60)}).steps)


def test_a_leak_says_what_could_not_be_told() -> None:
    finding = one("growth.leak", curves={POD: curve(60, rss=None, load=None)})
    with use_language("en"):
        texts = " ".join(str(item.text) for item in finding.evidence)
        assert "no metric of the resident set" in texts
        assert "neither requests nor CPU use are known" in texts
        sure = one("growth.leak", curves={POD: curve(60)})
        assert "likely" in str(sure.cause)
        assert "possibly" in str(finding.cause) or str(finding.cause) != str(sure.cause)


def test_load_that_reaches_the_limit_is_told_and_load_that_does_not_is_left() -> None:
    load = 50 + 20 * SINCE + np.random.default_rng(4).normal(0, 2, len(TIMES))
    grows = Curve(times=TIMES, working_set=200 * MI + 4 * load * MI + NOISE, load=load, limit=1024 * MI)
    assert one("growth.load", curves={POD: grows}).severity is Severity.WARNING
    assert found(curves={POD: Curve(times=TIMES, working_set=(200 + load) * MI + NOISE, load=load, limit=8192 * MI)}) == []


def test_cache_near_the_limit_is_no_warning() -> None:
    cached = curve(60, level=600, rss=np.full(len(TIMES), 200 * MI))
    finding = one("memory.cache", curves={POD: cached}, uses={CART: use(960)})
    assert finding.severity is Severity.INFO


def test_near_the_limit_without_growth_wants_a_higher_limit() -> None:
    finding = one("memory.near_limit", curves={POD: curve(0, level=960)}, uses={CART: use(960, p95=900 * MI, peak=980 * MI)})
    assert finding.severity is Severity.WARNING
    [step] = [step for step in finding.steps if step.changes]
    assert "set resources deployment/cart -c cart --limits=memory=1280Mi" in step.command


def test_killed_without_growth_is_a_limit_that_is_too_small() -> None:
    finding = one("memory.killed", kills={CART: 4.0})
    assert finding.severity is Severity.CRITICAL
    assert any("logs --previous" in step.command for step in finding.steps)
    assert one("memory.killed", kills={CART: 1.0}, curves={}, places={}).severity is Severity.WARNING
    assert found(kills={CART: 0.2}) == []


def test_a_container_without_a_limit_that_leaks_is_told_too() -> None:
    finding = one("growth.leak", curves={POD: curve(60, limit=None)}, uses={CART: use(limit=None)})
    with use_language("en"):
        assert "no limit" in str(finding.title)


def test_a_node_that_is_nearly_full() -> None:
    assert one("nodes.memory", nodes=(node("node-2", 15.8, 16),)).severity is Severity.CRITICAL
    assert found(nodes=(node("node-3"),)) == []


def test_sizes_come_from_percentiles_and_say_what_they_save() -> None:
    sized = use(p50=100 * MI, p95=200 * MI, p99=210 * MI, peak=256 * MI)
    table = memory.sizing_table(facts(uses={CART: sized, Place("shop", "new", "new"): use()}))
    [row] = table.frame().to_dict("records")  # without a history there is nothing to propose
    assert (row["new_request"], row["new_limit"]) == (240 * MI, 320 * MI)
    assert row["saving"] == 2 * (512 - 240) * MI
    with use_language("en"):
        assert "544Mi" in str(table.note)


def test_the_table_of_growth_has_a_row_a_pod_and_no_infinite_times() -> None:
    frame = memory.growth_table(facts(curves={POD: curve(150)})).frame()
    [row] = frame.to_dict("records")
    assert row["earliest"] <= row["seconds"] <= row["latest"]
    assert memory.growth_table(facts()).frame()["seconds"].isna().all()


@pytest.mark.parametrize("language", ["ja", "en"])
@pytest.mark.parametrize(
    "shape", [curve(150), curve(0, level=900), curve(60, limit=None), curve(60, restarts=(TIMES[60], TIMES[120]), kills=(TIMES[120],))]
)
def test_the_curves_are_drawn_with_limit_forecast_and_marks(language: str, shape: Curve) -> None:
    name = "cart-$x$-\u202e" + "y" * 200  # names are data
    pod = PodPlace("shop", name, "cart")
    changed = (Change(NOW - timedelta(hours=1), "shop", "cart", "rollout", _("rollout")),)
    of = facts(curves={pod: shape}, places={pod: CART}, kills={CART: 2.0}, changes=changed)
    with use_language(language):
        figure = memory.curves_figure(of, PARAMETERS)
        figure.canvas.draw()
    [axes] = figure.axes
    labels = [line.get_label() for line in axes.get_lines()]
    assert len([text for text in labels if not str(text).startswith("_")]) >= 2
