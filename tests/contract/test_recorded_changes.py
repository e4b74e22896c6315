"""What metrics tell of changes, asked of the embedded Prometheus and of the real one: who was scaled, which nodes came and went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from prometheus_servers import History, real, serving, stale
from test_prometheus_promql import filled

from opslib.diagnosis.pods.facts import NODE, SCALING, Change, Facts
from opslib.environments import Environment
from opslib.facts import changes
from opslib.facts.sources import Sources
from opslib.findings import Subject
from opslib.lab.prometheus import Engine, app
from opslib.messages import text_of

END = 1_700_000_000
NOW = datetime.fromtimestamp(END, UTC)
HOURS = 8


def history() -> History:
    """Eight hours: a Deployment and a StatefulSet that were scaled, one that was not, a node that went, one that came."""
    found = History()
    times = (END + np.arange(-HOURS * 3600, 1, 30)) * 1000
    ago = (END * 1000 - times) / 60_000  # minutes

    def add(name: str, values: Any, where: Any = slice(None), **labels: str) -> None:
        found.add(
            {"__name__": name, "job": "ksm", "instance": "ksm:8080", **labels}, times[where], np.broadcast_to(values, times.shape)[where]
        )

    add("kube_deployment_spec_replicas", np.where(ago > 90, 3, np.where(ago > 30, 1, 4)), namespace="shop", deployment="web")
    add("kube_deployment_spec_replicas", 2.0, namespace="shop", deployment="quiet")
    add("kube_statefulset_replicas", np.where(ago > 20, 3, 2), namespace="data", statefulset="db")
    for node, lives in (("stays", ago >= 0), ("went", ago >= 45), ("came", ago <= 100)):
        values = np.ones(len(times))
        if node == "went":
            values[np.flatnonzero(lives)[-1] + 1] = stale()
            lives = ago >= 44.5
        add("kube_node_info", values, lives, node=node)
        owner = {"created_by_kind": "ReplicaSet", "created_by_name": "web-5d9"}
        add("kube_pod_info", values, lives, namespace="shop", pod=f"web-5d9-{node}", node=node, **owner)
    return found


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def sources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[Sources]:
    with ExitStack() as stack:
        if request.param == "real":
            need_servers("prometheus")
            base = stack.enter_context(real(tmp_path_factory.mktemp("prometheus"), history())).base
        else:
            base = stack.enter_context(serving(app(Engine(filled(history())))))
        yield Sources(Environment.model_validate({"name": "test", "prometheus": {"url": base, "deadline_seconds": 60}}))


def minutes(change: Change) -> float:
    return (NOW - change.time) / timedelta(minutes=1)


def scaled(sources: Sources, namespace: str = "") -> list[Change]:
    frames = {kind: changes._replicas(sources, namespace, metric, label, "", NOW) for kind, (metric, label) in changes.REPLICAS.items()}
    return changes.scalings(frames, (), (), Facts(now=NOW, environment="test"))


def test_replicas_that_were_changed_are_changes_of_their_owner(sources: Sources) -> None:
    found = sorted(scaled(sources), key=lambda change: change.time)
    assert {change.kind for change in found} == {SCALING}
    web, db = Subject("Deployment", "web", "shop"), Subject("StatefulSet", "db", "data")
    assert [change.subject for change in found] == [web, web, db]
    assert [text_of(change.text, "en").partition("scaled ")[2] for change in found] == ["from 3 to 1", "from 1 to 4", "from 3 to 2"]
    assert [minutes(change) for change in found] == pytest.approx([90, 30, 20], abs=2)
    assert [change.subject for change in scaled(sources, "data")] == [db]


def test_nodes_that_came_and_went_with_whose_pods_were_there(sources: Sources) -> None:
    found = {change.subject.name: change for change in changes._nodes(sources, "", NOW)}
    assert set(found) == {"went", "came"}
    assert {change.kind for change in found.values()} == {NODE}
    assert minutes(found["went"]) == pytest.approx(45, abs=1.5)
    assert minutes(found["came"]) == pytest.approx(100, abs=1.5)
    assert found["went"].bears_on(Subject("Deployment", "web", "shop"))
    assert found["went"].suspect
    assert not found["came"].suspect


def test_a_prometheus_younger_than_the_span_takes_no_node_for_new(sources: Sources) -> None:
    young = NOW - timedelta(hours=HOURS) + timedelta(hours=5)
    assert changes._nodes(sources, "", young) == []
