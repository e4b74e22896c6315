"""Reading the facts of chapters 4.3 CPU and memory: workloads out of pods' names, other names of labels, and a whole lab, well and ill."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib import environments
from opslib.actions import dumps, pipeline
from opslib.actions.kubernetes import KubernetesSystem
from opslib.actions.pipeline import Desk
from opslib.diagnosis.usage import Place, PodPlace, Series, before_after
from opslib.environments import Environment, Metrics
from opslib.errors import InputError
from opslib.facts import Questions, containers
from opslib.facts import memory as reader
from opslib.facts.containers import Containers, placed, series_of, workload_of
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity
from opslib.lab import control
from tests.conftest import RealLab
from tests.waiting import until

SAFE = "bcdfghjklmnpqrstvwxz2456789"


@pytest.mark.parametrize(
    ("pod", "workload"),
    [
        ("catalog-798c88fbf7-f5h27", "catalog"),
        ("order-api-5fvstw8r2w-zpgdm", "order-api"),
        ("order-db-0", "order-db"),
        ("order-db-12", "order-db"),
        ("aws-node-wm6h8", "aws-node"),
        ("report-29374860-x7k2p", "report"),
        ("alone", "alone"),
        ("kube-proxy-ip-10-0-1-17.ec2.internal", "kube-proxy-ip-10-0-1-17.ec2.internal"),
    ],
)
def test_a_workload_is_had_from_its_pods_names(pod: str, workload: str) -> None:
    assert workload_of(pod) == workload


@given(
    name=st.from_regex(r"[a-z]{1,8}(-[aeiou]{1,5}){0,2}", fullmatch=True), hash_=st.text(SAFE, min_size=8, max_size=10),
    end=st.text(SAFE, min_size=5, max_size=5),
)  # fmt: skip
def test_whatever_its_ending_a_pod_is_its_workloads(name: str, hash_: str, end: str) -> None:
    assert workload_of(f"{name}-{hash_}-{end}") == workload_of(f"{name}-{end}") == workload_of(f"{name}-3") == name


def test_labels_of_other_set_ups_are_asked_for_and_come_back_with_their_usual_names() -> None:
    metrics = Metrics(url="http://x", pod_label="pod_name", container_label="container_name", state_prefix="exported_")
    some = Containers(metrics, 'shop"}', [Place("shop", "web.1", "web")])
    promql = some.usage("container_cpu_usage_seconds_total", how="sum", over="rate(%s[5m])")
    assert 'container_name!="POD"' in promql
    assert '"pod", "$1", "pod_name"' in promql
    assert r'namespace="shop\"}"' in promql  # a name cannot leave its string
    assert r'pod_name=~"web\\.1(-.+)?"' in promql
    assert promql.startswith("sum by (namespace, pod, container)")
    assert 'exported_container!=""' in some.state("kube_pod_container_resource_limits")
    assert "label_replace(" not in Containers(Metrics(url="http://x")).usage("x")
    assert placed("max", "x").startswith("max by (namespace, workload, container)")


def test_series_keep_their_times_whatever_unit_pandas_has() -> None:
    times = pd.to_datetime([1000, 61_000, 1000], unit="ms", utc=True)
    frame = pd.DataFrame({"namespace": ["a", "a", "b"], "value": [1.0, 2.0, 3.0], "time": times})
    for unit in ("ms", "ns"):
        found = series_of(frame.assign(time=frame["time"].dt.as_unit(unit)), "namespace")
        assert found[("a",)].times.tolist() == [1.0, 61.0]
        assert found[("b",)].values.tolist() == [3.0]
    assert series_of(None, "namespace") == series_of(frame.iloc[:0], "namespace") == {}


def test_a_restart_after_which_the_last_end_was_for_want_of_memory_is_a_kill() -> None:
    pod = PodPlace("shop", "cart-1", "cart")
    times = np.arange(0.0, 3600, 60)
    values = {
        "working_set": np.full(60, 1e9),
        "start": np.where(times < 1200, 0, np.where(times < 2400, 1200, 2400)),
        "killed": np.where(times >= 2400, 1.0, np.nan),
    }
    series = {name: {} for name in ("rss", "cache", "restarts", "limit", "limit_set")}
    known = {name: {tuple(pod): Series(times[np.isfinite(of)], of[np.isfinite(of)])} for name, of in values.items()}
    curve = reader._curve({**series, **known}, pod, None)
    assert curve is not None
    assert (curve.restarts, curve.kills) == ((1200.0, 2400.0), (2400.0,))


def test_changes_of_limits_and_images_are_seen() -> None:
    times = np.arange(0.0, 600.0, 60.0)
    limit = Series(times, np.array([1.0] * 4 + [0.18] * 6))
    assert containers.steps_of({("a",): limit}) == {("a",): [(240.0, 1.0, 0.18)]}
    old, new = Series(times[:5], np.ones(5)), Series(times[4:], np.ones(6))
    key = ("shop", "web", "web")
    [found] = containers.image_changes({(*key, "x/web:1"): old, (*key, "x/web:2"): new}, 0.0)
    assert (found.time, found.kind, found.container) == (datetime.fromtimestamp(240, UTC), "image", "web")
    assert containers.image_changes({(*key, "x/web:2"): new}, 0.0) == []  # it was not there before
    assert before_after(limit, 240.0) == (1.0, 0.18)
    assert before_after(limit, 0.0) is None


# --- a whole lab ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(any_lab: RealLab, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The lab, which may take its time: other tests run beside this one."""
    monkeypatch.setenv("OPSLIB_LAB", str(any_lab.folder))
    found = environments.load(str(Path(__file__).parents[2] / "parameters" / "lab.yaml"))
    assert found.prometheus is not None
    patient: dict[str, Any] = {"deadline_seconds": 300.0}
    return found.model_copy(
        update={"prometheus": found.prometheus.model_copy(update=patient), "kubernetes": found.kubernetes.model_copy(update=patient)}
    )


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as found:
        yield found


def read(slug: str, environment: Environment, executor: ThreadPoolExecutor, **parameters: Any) -> tuple[Any, list[Finding]]:
    """The facts of a chapter, and what it finds."""
    chapter = importlib.import_module(f"opslib.chapters.{slug}")
    chosen = chapter.Parameters(**parameters)
    facts = importlib.import_module(f"opslib.facts.{slug}").read(Sources(environment), chosen, Questions(executor))
    return facts, chapter.findings(facts, chosen)


@pytest.mark.parametrize("slug", ["cpu", "memory"])
def test_of_a_lab_that_is_well_everything_is_read_and_nothing_found(
    slug: str, environment: Environment, executor: ThreadPoolExecutor
) -> None:
    facts, findings = read(slug, environment, executor)
    assert findings == []
    use = facts.uses[Place("shop", "catalog", "catalog")]
    assert None not in (use.pods, use.highest, use.total, use.request, use.limit, use.p50, use.p95, use.p99, use.peak)
    assert use.p50 <= use.p95 * 1.0001 <= use.p99 * 1.0002 <= use.peak * 1.0003
    assert use.highest <= use.total
    assert facts.cluster.kinds[("shop", "catalog")] == "Deployment"
    assert facts.cluster.kinds[("data", "catalog-db")] == "StatefulSet"
    assert len(facts.nodes) == 6


def test_where_more_pods_fit_is_had_from_the_nodes(environment: Environment, executor: ThreadPoolExecutor) -> None:
    from opslib.diagnosis.cpu.facts import room

    facts, _findings = read("cpu", environment, executor, namespace="shop")
    assert {place.namespace for place in facts.uses} == {"shop"}
    count, nodes = room(facts, "shop", "catalog") or (0, 0)
    assert count > 0
    assert 0 < nodes <= 6
    assert facts.autoscalers


@pytest.mark.parametrize("slug", ["cpu", "memory"])
def test_labels_that_are_not_there_are_a_gap_and_not_nothing(slug: str, environment: Environment, executor: ThreadPoolExecutor) -> None:
    assert environment.prometheus is not None
    other = environment.prometheus.model_copy(update={"container_label": "container_name", "pod_label": "pod_name"})
    _facts, findings = read(slug, environment.model_copy(update={"prometheus": other}), executor)
    assert [(finding.check, finding.severity) for finding in findings] == [("gap.prometheus", Severity.UNKNOWN)]


@pytest.mark.parametrize("slug", ["cpu", "memory"])
def test_without_a_prometheus_the_cluster_is_read_all_the_same(slug: str, environment: Environment, executor: ThreadPoolExecutor) -> None:
    facts, findings = read(slug, environment.model_copy(update={"prometheus": None}), executor)
    assert facts.uses is None
    assert facts.cluster.kinds
    assert [finding.check for finding in findings] == ["gap.prometheus"]


@pytest.mark.parametrize("away", ["not in the environment", "does not answer"])
def test_without_a_prometheus_the_metrics_server_says_what_nodes_use(
    away: str, environment: Environment, executor: ThreadPoolExecutor
) -> None:
    assert environment.prometheus is not None
    silent = environment.prometheus.model_copy(update={"url": "http://127.0.0.1:9", "deadline_seconds": 2.0})
    prometheus = None if away == "not in the environment" else silent
    facts, findings = read("nodes", environment.model_copy(update={"prometheus": prometheus}), executor)
    assert len(facts.use) == len(facts.nodes) == 6
    assert all(one.cpu is not None and one.memory is not None for one in facts.use.values())
    assert all((one.disk, one.inodes, one.clock) == (None, None, None) for one in facts.use.values()), "it does not know these"
    assert {one.check for one in findings if one.severity is Severity.UNKNOWN} == {"gap.prometheus"}


def test_a_debug_container_is_added_beside_one_without_tools(any_lab: RealLab, environment: Environment, tmp_path: Path) -> None:
    system = KubernetesSystem(Sources(environment).kubernetes)
    desk = Desk(environment, tmp_path, {"kubernetes": system}, "hitomi")
    name = any_lab.api.list("/api/v1/namespaces/shop/pods", labels="app=gateway")[0]["metadata"]["name"]
    plan = dumps.debug(system, environment, "hitomi", name, "shop", minutes=5)
    assert plan.action == "exec"
    assert "ephemeralContainers" in plan.steps[0].difference
    pipeline.file_plan(desk, plan)
    pipeline.execute(desk, plan)
    [added] = any_lab.api.get(f"/api/v1/namespaces/shop/pods/{name}")["spec"]["ephemeralContainers"]
    assert (added["targetContainerName"], added["command"]) == ("gateway", ["sleep", "300"])
    with pytest.raises(InputError, match="executed"):
        pipeline.execute(desk, plan)


def test_a_leak_is_found_with_its_release_and_nothing_else_is(
    any_lab: RealLab, environment: Environment, executor: ThreadPoolExecutor
) -> None:
    try:
        control.ask(any_lab.folder, "break", {"kind": "scenario", "name": "memory-leak"})
        seen: list[Finding] = []

        def named() -> bool:
            seen[:] = read("memory", environment, executor)[1]
            return "growth.leak" in [finding.check for finding in seen]

        until(named, "the leak is found")
        [finding] = seen
        assert str(finding.subject) == "shop/Deployment/recommendation"
        assert finding.severity is Severity.CRITICAL
        assert any("recommendation:1.5.0" in str(item.text) for item in finding.evidence)
    finally:
        control.ask(any_lab.folder, "reset", {})
