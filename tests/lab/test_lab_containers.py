"""What the played kubelets serve of containers: which lines of a log."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from opslib.lab import container_logs
from opslib.lab.container_logs import Wanted, select
from opslib.lab.world import World
from opslib.lab.world.changes import stamp
from opslib.lab.world.faults import BadDeploy
from opslib.lab.world.logs import Density, lines
from opslib.lab.world.manifests import manifests

LINES = "".join(f"2026-04-01T00:00:{second:02d}Z line {second}\n" for second in range(60))
NOW = 1_790_604_800.0
WORLD = World(7, NOW - 7 * 86400, NOW)

# --- files ----------------------------------------------------------------------------------------------------------------------------


def test_times_are_shown_only_where_they_are_asked_for() -> None:
    assert select(LINES, Wanted(tail=2)) == b"line 58\nline 59\n"
    assert select(LINES, Wanted(tail=1, timestamps=True)) == b"2026-04-01T00:00:59Z line 59\n"
    assert select("no time\n", Wanted(timestamps=True)) == b"no time\n"


def test_since_and_limit(tmp_path: Path) -> None:
    moment = datetime(2026, 4, 1, 0, 0, 57, tzinfo=UTC).timestamp()
    assert select(LINES, Wanted(since=moment)) == b"line 57\nline 58\nline 59\n"
    assert select(LINES, Wanted(since=moment + 3600)) == b""
    assert select(LINES, Wanted(since=moment, limit_bytes=10)) == b"line 57\nli"
    assert select("日本語\n", Wanted(limit_bytes=4)) == "日".encode() + b"\xe6"
    assert container_logs.of_file(tmp_path / "nothing.log", Wanted()) == b""


@given(some.text(), some.integers(0, 50))
def test_a_tail_is_the_end_of_the_whole(text: str, tail: int) -> None:
    whole = select(text, Wanted())
    end = select(text, Wanted(tail=tail))
    assert whole.endswith(end)
    assert len(end.decode("utf-8", "surrogateescape").splitlines()) <= tail


# --- the world's ----------------------------------------------------------------------------------------------------------------------


def pod(app: str, state: dict[str, Any], last: dict[str, Any] | None = None, *, name: str = "") -> dict[str, Any]:
    """A pod of the cluster, of one of the world's services."""
    [workload] = [one for one in manifests(WORLD) if one["kind"] in ("Deployment", "StatefulSet") and one["metadata"]["name"] == app]
    template = workload["spec"]["template"]
    status = {"name": app, "state": state} | ({"lastState": {"terminated": last}} if last else {})
    return {
        "metadata": {"name": name or f"{app}-1", "namespace": workload["metadata"]["namespace"], "labels": template["metadata"]["labels"]},
        "spec": {**template["spec"], "nodeName": WORLD.nodes[0].name},
        "status": {"containerStatuses": [status]},
    }


def running(seconds: float) -> dict[str, Any]:
    return {"running": {"startedAt": stamp(NOW - seconds)}}


def text_of(one: dict[str, Any], wanted: Wanted | None = None, *, world: World = WORLD, previous: bool = False) -> list[str]:
    """The log of a pod's container as a kubelet sends it."""
    known = container_logs.pod_of(world, one)
    life = container_logs.span(one, one["status"]["containerStatuses"][0]["name"], previous=previous)
    assert known is not None and not isinstance(life, str)
    return container_logs.of_world(world, container_logs.of_life(known, *life), wanted or Wanted(), NOW).decode().splitlines()


def test_a_log_begins_with_its_container_and_ends_now() -> None:
    found = text_of(pod("gateway", running(3600)))
    times = [json.loads(line)["time"] for line in found]
    assert times == sorted(times)
    assert datetime.fromisoformat(times[0]).timestamp() == NOW - 3600 and "started, listening on :8080" in found[0]
    assert NOW - 120 < datetime.fromisoformat(times[-1]).timestamp() < NOW


@pytest.mark.parametrize("app", ["gateway", "catalog", "order-db", "web"])
def test_tail_and_since_are_parts_of_the_whole(app: str) -> None:
    one = pod(app, running(5 * 3600))
    whole = text_of(one)
    assert len(whole) > 60
    for tail in (0, 1, 17, 50):
        assert text_of(one, Wanted(tail=tail)) == (whole[-tail:] if tail else [])
    assert text_of(one, Wanted(tail=len(whole) + 9)) == whole
    assert text_of(one, Wanted(since=NOW - 1800)) == whole[-len(text_of(one, Wanted(since=NOW - 1800))) :]
    timed = text_of(one, Wanted(timestamps=True))
    assert [line.partition(" ")[2] for line in timed] == whole
    assert text_of(one, Wanted(limit_bytes=100)) == "\n".join(whole).encode()[:100].decode("utf-8", "ignore").splitlines()


def test_what_followers_get_is_what_the_whole_has() -> None:
    known = container_logs.pod_of(WORLD, pod("web", running(7200)))
    assert known is not None
    parts = b"".join(
        container_logs.fresh(WORLD, known, NOW - 7200 + at, NOW - 7200 + at + 450, timestamps=False) for at in range(0, 7200, 450)
    )
    assert parts.decode().splitlines() == text_of(pod("web", running(7200)))


def test_the_previous_log_is_that_of_the_container_that_was_killed() -> None:
    last = {"startedAt": stamp(NOW - 7200), "finishedAt": stamp(NOW - 60), "exitCode": 137, "reason": "OOMKilled"}
    one = pod("gateway", running(58), last)
    before = [json.loads(line)["time"] for line in text_of(one, previous=True)]
    assert stamp(NOW - 7200)[:19] == before[0][:19] and before[-1] < stamp(NOW - 60)
    assert all(json.loads(line)["time"][:19] >= stamp(NOW - 58)[:19] for line in text_of(one))
    waiting = pod("gateway", {"waiting": {"reason": "CrashLoopBackOff"}}, last)
    assert text_of(waiting) == text_of(one, previous=True)


@pytest.mark.parametrize(
    ("state", "previous", "words"),
    [
        ({"waiting": {"reason": "ContainerCreating"}}, False, 'container "web" in pod "web-1" is waiting to start: ContainerCreating'),
        ({"waiting": {"reason": "ImagePullBackOff"}}, False, 'is waiting to start: trying and failing to pull image'),
        ({"running": {"startedAt": stamp(NOW)}}, True, 'previous terminated container "web" in pod "web-1" not found'),
    ],
)  # fmt: skip
def test_where_there_is_no_log_the_kubelet_says_why(state: dict[str, Any], previous: bool, words: str) -> None:
    found = container_logs.span(pod("web", state), "web", previous=previous)
    assert isinstance(found, str) and found.endswith(words)
    assert container_logs.span(pod("web", state), "other") == 'container "other" in pod "web-1" is not available'


def test_only_pods_of_the_worlds_services_have_its_logs() -> None:
    other = pod("web", running(60))
    other["metadata"]["namespace"] = "elsewhere"
    assert container_logs.pod_of(WORLD, other) is None
    assert container_logs.pod_of(WORLD, {"metadata": {"name": "x", "namespace": "shop"}, "spec": {"containers": []}}) is None


def test_a_broken_service_says_so_until_it_is_fixed() -> None:
    broken = WORLD.breaks(BadDeploy(service="catalog", release="2.9.0", error="com.example.Broken: no price"), NOW - 3600, NOW - 1800)
    one = pod("catalog", running(7200))
    said = [line for line in text_of(one, Wanted(timestamps=True), world=broken) if "no price" in line and "Broken" not in line]
    assert said and all(stamp(NOW - 3600)[:19] <= line[:19] <= stamp(NOW - 1800)[:19] for line in said)
    assert not [line for line in text_of(one) if "no price" in line]


def test_what_is_kept_is_a_part_of_what_containers_write() -> None:
    [known] = [one for one in WORLD.pods.listed if WORLD.services[one.service].name == "stock" and one.ended == math.inf][:1]
    thin = {line.number for line in lines(WORLD, NOW - 6 * 3600, NOW, pods=[known])}
    dense = {line.number for line in lines(WORLD, NOW - 6 * 3600, NOW, Density(served=0.004, failed=0.2), pods=[known])}
    assert 3 < len(thin) < len(dense) and thin < dense
