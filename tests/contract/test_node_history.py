"""Chapter 4.2's look back, asked of the embedded Prometheus and of the real one: conditions that came and went, evictions, stalls."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from prometheus_servers import History, real, serving
from test_prometheus_promql import filled

from opslib.diagnosis.nodes.facts import Parameters, Past
from opslib.environments import Environment
from opslib.facts import Questions, node_history
from opslib.facts.sources import Sources
from opslib.lab.prometheus import Engine, app

END = 1_700_000_000
NOW = datetime.fromtimestamp(END, UTC)


def history() -> History:
    """Twenty-five hours of three nodes: one whose disk pressure comes and goes, one that is lost now, one that is well."""
    found = History()
    times = (END + np.arange(-25 * 3600, 1, 60)) * 1000
    ago = (END * 1000 - times) / 60_000  # minutes

    def add(name: str, values: Any, **labels: str) -> None:
        found.add({"__name__": name, **labels}, times, np.broadcast_to(values, times.shape))

    pressed = ((ago > 60) & (ago <= 90)) | ((ago > 300) & (ago <= 310)) | ((ago > 600) & (ago <= 640)) | (ago > 24.5 * 60)
    for number, node in enumerate(("flaps", "lost", "well")):
        here = {"node": node, "job": "ksm"}
        add("kube_node_info", 1.0, internal_ip=f"10.0.0.{number}", **here)
        ready = np.where(ago <= 10, 0, 1) if node == "lost" else np.ones(len(times))
        pressure = np.where(pressed, 1, 0) if node == "flaps" else np.zeros(len(times))
        for condition, bad in (("Ready", 1 - ready), ("DiskPressure", pressure), ("KernelReady", np.zeros(len(times)))):
            true = bad if condition == "DiskPressure" else 1 - bad
            add("kube_node_status_condition", true, condition=condition, status="true", **here)
            add("kube_node_status_condition", 1 - true, condition=condition, status="false", **here)
        at = {"instance": f"10.0.0.{number}:9100", "job": "node"}
        stalled = np.cumsum(np.where((ago > 60) & (ago <= 90), 30.0, 0.1)) if node == "flaps" else np.cumsum(np.full(len(times), 0.1))
        add("node_pressure_memory_stalled_seconds_total", stalled, **at)
        add("node_load5", np.where(ago == 120, 12.0, 2.0), **at)
        for core in "0123":
            add("node_cpu_seconds_total", np.arange(len(times)) * 1.0, mode="idle", cpu=core, **at)
        add("node_memory_MemTotal_bytes", 8 * 2.0**30, **at)
        add("node_memory_MemAvailable_bytes", np.where(ago == 120, 2.0**27, 2.0**32), **at)
        add("node_filesystem_size_bytes", 1e11, fstype="ext4", mountpoint="/", **at)
        add("node_filesystem_avail_bytes", np.where(ago == 120, 5e9, 5e10), fstype="ext4", mountpoint="/", **at)
    evictions = np.where(ago > 80, 2, 5)
    add("kubelet_evictions", evictions, eviction_signal="nodefs.available", instance="10.0.0.0:10250", node="flaps", job="kubelet")
    return found


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def past(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[dict[str, Past]]:
    with ExitStack() as stack:
        if request.param == "real":
            need_servers("prometheus")
            base = stack.enter_context(real(tmp_path_factory.mktemp("prometheus"), history())).base
        else:
            base = stack.enter_context(serving(app(Engine(filled(history())))))
        sources = Sources(Environment.model_validate({"name": "test", "prometheus": {"url": base, "deadline_seconds": 120}}))
        with ThreadPoolExecutor(8) as executor:
            questions = Questions(executor)
            found = node_history.read(sources, questions, Parameters(), NOW)
        assert questions.gaps == ()
        assert found is not None
        yield found


def test_a_condition_that_came_and_went_has_its_spells(past: dict[str, Past]) -> None:
    spells = past["flaps"].spells
    assert [spell.condition for spell in spells] == ["DiskPressure"] * 3
    minutes = [((NOW - spell.begin) / timedelta(minutes=1), (NOW - (spell.end or NOW)) / timedelta(minutes=1)) for spell in spells]
    assert [begin for begin, _end in minutes] == pytest.approx([640, 310, 90], abs=1.5)
    assert [end for _begin, end in minutes] == pytest.approx([600, 300, 60], abs=1.5)
    (lost,) = past["lost"].spells
    assert (lost.condition, lost.end) == ("Ready", None)
    assert past["well"].spells == ()


def test_evictions_stalls_and_what_was_left_are_of_the_node_that_had_them(past: dict[str, Past]) -> None:
    flaps, well = past["flaps"], past["well"]
    assert flaps.evictions == {"nodefs.available": pytest.approx(3, abs=0.1)}
    assert flaps.stalled == {"memory": pytest.approx(0.5, abs=0.05)}
    assert (well.evictions, well.stalled) == ({}, {"memory": pytest.approx(0.1 / 60, abs=1e-3)})
    assert flaps.load == pytest.approx(3)
    assert (flaps.memory_total, flaps.memory_least) == (8 * 2.0**30, 2.0**27)
    assert flaps.disk_least == pytest.approx(0.05)
