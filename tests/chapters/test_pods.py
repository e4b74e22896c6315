"""Chapter 4.1 as a reader meets it: tables, one pod in detail, plots, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pandas
import pytest
from pydantic import ValidationError

from opslib.chapters import pods
from opslib.diagnosis.pods.facts import ACTION, CONFIGURATION, EKS, NODE, ROLLOUT, SCALING, TERRAFORM, Alerted, Change
from opslib.findings import Finding, Severity, Subject, Table
from opslib.messages import text_of
from opslib.sources import objects
from opslib.sources.monitored import Silence, SilenceMatcher
from opslib.sources.objects import convert

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOSTILE = "</script><b>\x1b[31m\u202e"


def ago(**duration: float) -> str:
    return (NOW - timedelta(**duration)).isoformat()


def pod(name: str, restarts: int = 3, node: str = "node-1") -> objects.Pod:
    ended = {"exitCode": 137, "reason": "OOMKilled", "startedAt": ago(minutes=6), "finishedAt": ago(minutes=5)}
    content = {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": name,
            "creationTimestamp": ago(hours=1),
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-2", "controller": True}],
        },
        "spec": {
            "nodeName": node,
            "containers": [
                {
                    "name": "app",
                    "image": "shop/web:2",
                    "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"path": "/live", "port": 8080}},
                    "envFrom": [{"configMapRef": {"name": "settings"}}],
                }
            ],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "lastTransitionTime": ago(minutes=20)}],
            "containerStatuses": [
                {
                    "name": "app",
                    "restartCount": restarts,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": ended},
                }
            ],
        },
    }
    return convert(content, objects.Pod)


def replica_set(revision: int, image: str, created: str) -> objects.Workload:
    content = {
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"web-{revision}",
            "namespace": "shop",
            "creationTimestamp": created,
            "annotations": {"deployment.kubernetes.io/revision": str(revision)},
            "ownerReferences": [{"kind": "Deployment", "name": "web", "controller": True}],
        },
        "spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}},
    }
    return convert(content, objects.Workload)


def make(**more: Any) -> pods.Facts:
    deployment = convert(
        {"kind": "Deployment", "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": ago(days=9)}}, objects.Workload
    )
    sets = [replica_set(1, "shop/web:1", ago(days=9)), replica_set(2, "shop/web:2", ago(minutes=25))]
    event = {
        "involvedObject": {"kind": "Pod", "name": "web-a", "namespace": "shop", "uid": "web-a"},
        "reason": "BackOff",
        "message": f"Back-off {HOSTILE}",
        "type": "Warning",
        "count": 7,
        "firstTimestamp": ago(minutes=20),
        "lastTimestamp": ago(minutes=1),
    }
    content: dict[str, Any] = {
        "now": NOW,
        "environment": "test",
        "kubectl": ("--context", "it's prod"),
        "total": 5,
        "by_status": {"Running": 3, "CrashLoopBackOff": 2},
        "pods": (pod("web-a"), pod("web-b", 5)),
        "events": {"web-a": (convert(event, objects.Event),), "web-b": ()},
        "logs": {("shop", "web-a", "app"): pods.Log(current="starting\n", previous=f"starting\n{HOSTILE}\nout of memory\n")},
        "workloads": {"Deployment": {("shop", "web"): deployment}, "ReplicaSet": {("shop", item.metadata.name): item for item in sets}},
        **more,
    }
    return pods.Facts(**content)


def found(facts: pods.Facts) -> list[Finding]:
    return pods.findings(facts, pods.Parameters())


def column(table: Table, name: str) -> list[Any]:
    at = [item.name for item in table.columns].index(name)
    return [row[at] for row in table.rows]


def english(items: Sequence[Any]) -> list[str]:
    return [text_of(item, "en") for item in items]


def test_the_finding_shows_the_rollout_that_came_just_before() -> None:
    (finding,) = found(make())
    assert (finding.check, finding.subject) == ("memory.limit", Subject("Deployment", "web", "shop"))
    assert finding.since == NOW - timedelta(minutes=20)
    told = english([item.text for item in finding.evidence])
    assert "5m before the trouble began: rollout of Deployment web to revision 2: image of app: shop/web:1 → shop/web:2" in told
    assert "kubectl rollout undo deployment/web -n shop --context 'it'\"'\"'s prod'" in [
        step.command for step in finding.steps if step.changes
    ]


@pytest.mark.parametrize("minutes", [10, 200])
def test_a_change_counts_only_near_the_beginning(minutes: int) -> None:
    written = {"manager": "kubectl-edit", "operation": "Update", "time": ago(minutes=20 + minutes)}
    settings = convert(
        {"metadata": {"name": "settings", "namespace": "shop", "creationTimestamp": ago(days=9), "managedFields": [written]}},
        objects.Object,
    )
    (finding,) = found(make(found={("ConfigMap", "shop", "settings"): settings}))
    told = english([item.text for item in finding.evidence])
    assert any("ConfigMap settings was changed by kubectl-edit" in text for text in told) is (minutes == 10)


def test_gaps_are_among_the_findings() -> None:
    gap = Finding(check="gap.kubernetes", severity=Severity.UNKNOWN, subject=Subject("System", "kubernetes"), title="x")
    assert gap in found(make(gaps=(gap,)))


def test_the_tables_tell_what_was_read() -> None:
    facts = make()
    status = pods.status_table(facts)
    assert [tuple(row) for row in status.rows] == [("Running", 3, 0.6), ("CrashLoopBackOff", 2, 0.4)]
    unhealthy = pods.unhealthy_table(facts, found(facts))
    assert column(unhealthy, "pod") == ["web-a", "web-b"]
    assert column(unhealthy, "status") == ["CrashLoopBackOff"] * 2
    assert column(unhealthy, "restarts") == ["3 (5m ago)", "5 (5m ago)"]
    assert column(unhealthy, "owner") == ["Deployment/web"] * 2
    assert column(unhealthy, "since") == [NOW - timedelta(minutes=20)] * 2
    assert english(column(unhealthy, "cause"))[0].startswith("web: Container app reaches its memory limit")
    assert column(pods.events_table(facts), "times") == [7]
    (change,) = english(column(pods.changes_table(facts), "change"))
    assert "revision 2" in change
    commands = column(pods.restart_table(found(facts)), "command")
    assert any("rollout undo" in command for command in commands)
    for table in (status, unhealthy, pods.events_table(facts)):
        assert list(table.frame().columns) == [item.name for item in table.columns]


def test_not_read_is_not_nothing_found() -> None:
    nothing = pods.Facts(now=NOW, environment="test", pods=(), by_status={}, events={})
    unread = pods.Facts(now=NOW, environment="test")
    for table in (pods.status_table, lambda facts: pods.unhealthy_table(facts, []), pods.events_table):
        assert english([table(nothing).empty]) != english([table(unread).empty])
    assert "could not be read" in text_of(pods.unhealthy_table(unread, []).empty, "en")


def test_one_pod_in_detail_is_that_of_the_worst_finding_or_the_one_named() -> None:
    facts = make()
    first = pods.pod_table(facts, found(facts))
    assert text_of(first.title, "en") == "Pod shop/web-a"  # the one whose log was read
    parts = dict(zip(english(column(first, "part")), english(column(first, "value")), strict=True))
    assert parts["Status"] == "CrashLoopBackOff (0/1)"
    assert parts["Liveness probe of app"].startswith("http-get http://:8080/live")
    assert "memory 256Mi" in parts["Resources of app"]
    for name in ("web-b", "shop/web-b"):
        assert text_of(pods.pod_table(facts, found(facts), name).title, "en") == "Pod shop/web-b"
    other = pods.pod_table(facts, found(facts), "other/web-b")
    assert not other.rows
    assert "other/web-b" in text_of(other.empty, "en")


def test_the_log_before_the_restart_comes_first() -> None:
    facts = make()
    table = pods.log_table(facts, found(facts))
    assert [(text_of(run, "en"), line) for _container, run, line in table.rows] == [
        ("previous", "starting"),
        ("previous", HOSTILE),
        ("previous", "out of memory"),
        ("current", "starting"),
    ]
    unread = make(logs={("shop", "web-a", "app"): pods.Log()})
    assert "could not be read" in text_of(pods.log_table(unread, found(unread)).empty, "en")


def test_plots_are_drawn_with_and_without_data() -> None:
    facts = make()
    times = [NOW - timedelta(minutes=minute) for minute in range(30, 0, -1)]
    memory = pandas.DataFrame(
        {
            "namespace": "shop",
            "pod": "web-a",
            "container": "app",
            "time": pandas.to_datetime(times, utc=True),
            "value": [8e6 * n for n in range(30)],
        }
    )
    drawn = pods.memory_plot(make(memory=memory), ZoneInfo("Asia/Tokyo")).axes[0]
    (line,) = [item for item in drawn.lines if len(item.get_xdata()) == 30]
    assert max(line.get_ydata()) == pytest.approx(8e6 * 29 / (256 * 1024**2))
    bars = pods.owners_plot(facts, found(facts)).axes[0]
    assert sorted(bar.get_width() for bar in bars.patches) == [2, 8]
    for empty in (pods.memory_plot(facts, ZoneInfo("UTC")), pods.owners_plot(pods.Facts(now=NOW, environment="test"), [])):
        assert not empty.axes[0].lines
        assert empty.axes[0].texts
    (finding,) = found(make(memory=memory))
    assert any("Highest use that was measured" in text_of(item.text, "en") for item in finding.evidence)


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": "Shop"},
        {"namespace": "a/b"},
        {"log_lines": -1},
        {"grace_seconds": "soon"},
        {"window_minutes": 0},
        {"nmaespace": "shop"},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        pods.Parameters(**wrong)


def test_every_parameter_is_described_in_both_languages() -> None:
    assert {name: field.description for name, field in pods.Parameters.model_fields.items()} == {
        name: text.text("en") for name, text in pods.Parameters.LABELS.items()
    }


def test_changes_and_symptoms_stand_on_one_axis() -> None:
    facts = make(
        alerts=(Alerted(name="CrashLooping", labels={"namespace": "shop", "pod": "web-a"}, since=NOW - timedelta(minutes=18)),),
        silences=(
            Silence(
                id="1", created_by="tanaka", starts_at=NOW - timedelta(minutes=10), matchers=[SilenceMatcher(name="service", value="web")]
            ),
        ),
    )
    table = pods.timeline_table(facts, found(facts))
    kinds = [text_of(row[1], "en") for row in table.rows]
    assert [kind for kind in kinds if kind not in ("rollout", "configuration")] == ["beginning of trouble", "alert", "silence"]
    rollout = next(row for row in table.rows if "revision 2" in text_of(row[3], "en"))
    assert rollout[4] == 1
    assert "tanaka" in text_of(table.rows[-1][3], "en")
    axes = pods.timeline_plot(facts, found(facts), UTC).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == len(set(kinds))
    assert pods.timeline_plot(make(pods=(), workloads={}), [], UTC).axes[0].texts


def test_a_container_that_was_killed_has_a_mark_at_its_limit() -> None:
    facts = make()
    ended = objects.StateTerminated(reason="OOMKilled", exit_code=137, finished_at=NOW - timedelta(minutes=7))
    for pod in facts.pods or ():
        for status in pod.status.container_statuses:
            status.last_state.terminated = ended
    times = pandas.to_datetime([NOW - timedelta(minutes=minute) for minute in range(30, 0, -1)], utc=True)
    memory = pandas.DataFrame({"namespace": "shop", "pod": "web-a", "container": "app", "time": times, "value": 60e6})
    axes = pods.memory_plot(make(pods=facts.pods, memory=memory), UTC).axes[0]
    (mark,) = [line for line in axes.lines if line.get_marker() == "X"]
    assert list(mark.get_ydata()) == [1.0]


def test_restarts_stand_beside_the_rollouts_of_their_owner() -> None:
    times = [NOW - timedelta(minutes=minutes) for minutes in (30, 20, 10)]
    rows = [{"namespace": "shop", "pod": pod, "time": time, "value": 2.0} for pod in ("web-5d9-a", "web-7f1-b") for time in times]
    facts = make(restarts=pandas.DataFrame(rows).assign(time=lambda frame: pandas.to_datetime(frame["time"], utc=True)))
    (axes,) = pods.restarts_plot(facts, UTC).axes
    assert sorted(bar.get_height() for bar in axes.patches) == [4.0, 4.0, 4.0]
    assert [line.get_linestyle() for line in axes.lines] == ["--"]
    assert pods.restarts_plot(make(), UTC).axes[0].texts


def test_each_kind_of_change_has_a_mark_of_its_own_and_what_matters_keeps_its_row() -> None:
    noted = tuple(
        Change(NOW - timedelta(minutes=30 + number), Subject("Deployment", f"idle-{number}", "shop"), "x", kind=kind)
        for number, kind in enumerate((ROLLOUT, CONFIGURATION, SCALING, NODE, EKS, TERRAFORM, ACTION) * 4)
    )
    facts = make(noted=noted)
    axes = pods.timeline_plot(facts, found(facts), UTC).axes[0]
    marks = [(line.get_marker(), line.get_color()) for line in axes.lines]
    assert len({marker for marker, _color in marks}) == len(marks) >= 6
    assert any("web" in label.get_text() for label in axes.get_yticklabels())
    assert len(axes.get_yticks()) == pods.MOST_BARS
