"""The world's logs, audit records, manifests, and the pace of what breaks."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.lab.world import World, volumes
from opslib.lab.world.audit import cloudtrail, kubernetes_audit, lookup_event
from opslib.lab.world.clock import WALL, Pace
from opslib.lab.world.faults import BadDeploy, CertificateExpiry, CpuLimit, DependencyDown, Dns, Fault, MemoryLeak, Slow, VolumeFill
from opslib.lab.world.logs import Density, bulk, lines
from opslib.lab.world.manifests import manifests, nodes
from opslib.lab.world.platform import GIBI, Call, Service, ordered

END = 1_790_604_800.0
BROKEN = END - 4 * 3600
WORLD = World(7, END - 7 * 86400, END)


# --- logs -------------------------------------------------------------------------------------------------------------------------------


@given(offset=st.floats(0, 5 * 86400), length=st.floats(1, 4000), cut=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_logs_of_ranges_that_overlap_agree(offset: float, length: float, cut: float) -> None:
    start, end = WORLD.start + offset, WORLD.start + offset + length
    middle = start + cut * length
    whole = [line.document() for line in lines(WORLD, start, end)]
    assert whole == [line.document() for line in itertools.chain(lines(WORLD, start, middle), lines(WORLD, middle, end))]
    times = [line["@timestamp"] for line in whole]
    assert times == sorted(times)


def test_a_day_of_logs_is_made_in_seconds_in_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.perf_counter()
    text = list(bulk(WORLD, END - 86400, END))
    passed = time.perf_counter() - begin
    with capsys.disabled():
        print(f"\nworld: {len(text)} log lines of a day in {passed:.2f} s, {sum(map(len, text))} characters")
    assert 5_000 < len(text) < 100_000
    documents = [json.loads(one.split("\n")[1]) for one in text]
    assert all(
        json.loads(one.split("\n")[0])["create"]["_index"] == f"logs-{document['@timestamp'][:10].replace('-', '.')}"
        for one, document in zip(text, documents, strict=True)
    )
    assert any(re.search("[ぁ-ん]", document["message"]) for document in documents)
    levels = {document["log"]["level"] for document in documents}
    assert {"info", "warn", "error"} <= levels
    stacks = [document["error"]["stack_trace"] for document in documents if document.get("error", {}).get("stack_trace")]
    for sign in ("\tat com.example.", "Traceback (most recent call last):", "    at async ", "goroutine "):
        assert any(sign in stack for stack in stacks), sign
    names = {pod.name for pod in WORLD.pods.listed}
    assert all(document["kubernetes"]["pod"]["name"] in names for document in documents)


def test_lines_as_containers_write_them() -> None:
    found = {
        line.service.language: line.text()
        for line in lines(WORLD, END - 7200, END, Density(failed=0.5))
        if line.stack or line.service.namespace == "data"
    }
    assert json.loads(found["go"])["trace_id"] and json.loads(found["node"])["stack"]
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z ERROR \[[0-9a-f]{16}\] com\.example\.\w+\.Api - ", found["jvm"])
    assert found["python"].count("\n") >= 4 and " [1] " in found["postgres"]


@pytest.mark.parametrize(
    ("fault", "service", "words"),
    [
        (BadDeploy(service="payment-api", release="5.1.0", error="com.example.Broken: no merchant"), "payment-api", "no merchant"),
        (BadDeploy(service="recommendation", release="1.5.0"), "recommendation", "NoneType"),
        (DependencyDown(service="ledger-db"), "ledger", r"ledger-db\.data\.svc:5432 refused"),
        (VolumeFill(service="order-db", bytes_per_hour=200 * GIBI), "order-db", "No space left on device"),
        (VolumeFill(service="order-db", bytes_per_hour=200 * GIBI), "order", "No space left on device"),
        (Dns(error_ratio=0.5), "gateway", r"lookup [\w.-]+\.svc\.cluster\.local"),
        (CertificateExpiry(service="user"), "gateway", "certificate has expired"),
        (MemoryLeak(service="search", bytes_per_hour=8 * GIBI), "search", "Java heap space"),
    ],
)
def test_a_fault_is_in_the_log_of_whom_it_hits(fault: Fault, service: str, words: str) -> None:
    broken = WORLD.breaks(fault, BROKEN)

    def said(world: World, start: float, end: float) -> list[str]:
        return [line.message for line in lines(world, start, end) if line.service.name == service and re.search(words, line.message)]

    end = BROKEN + 5400
    assert not said(WORLD, BROKEN, end)
    assert not said(broken, BROKEN - 1800, BROKEN)
    assert len(said(broken, BROKEN, end)) >= 3


def test_more_traffic_and_more_errors_make_more_lines() -> None:
    def count(world: World, start: float, level: str) -> int:
        return sum(1 for line in lines(world, start, start + 3600) if (line.level == "error") == (level == "error"))

    night, evening = END - (END + 9 * 3600) % 86400 + 4 * 3600 - 86400, END - (END + 9 * 3600) % 86400 + 21 * 3600 - 86400
    assert count(WORLD, evening, "info") > 3 * count(WORLD, night, "info")
    broken = WORLD.breaks(BadDeploy(service="gateway", release="3.0.0", error_ratio=0.2), BROKEN)
    assert count(broken, BROKEN, "error") > 5 * count(WORLD, BROKEN, "error")


# --- changes, audit ---------------------------------------------------------------------------------------------------------------------


def test_changes_happen_in_office_hours_and_are_in_every_record() -> None:
    world = World(7, END - 28 * 86400, END)
    assert len(world.changes) > 20
    audit = list(kubernetes_audit(world, world.start, END))
    trail = list(cloudtrail(world, world.start, END))
    for change in world.changes:
        local = datetime.fromtimestamp(change.time, timezone(timedelta(hours=9)))
        assert local.weekday() < 4 and 10 <= local.hour < 17
        [patch] = [
            one
            for one in audit
            if one["verb"] == "patch"
            and one["objectRef"]["name"] == change.service
            and one["requestReceivedTimestamp"][:19] == change.document()["@timestamp"][:19]
        ]
        assert patch["user"]["username"] == "system:serviceaccount:ci:ci-deployer"
        assert any(one["eventName"] == "PutImage" and one["requestParameters"]["imageTag"] == change.after for one in trail)
    times = [one["eventTime"] for one in trail]
    assert times == sorted(times) and len({one["eventID"] for one in trail}) == len(trail)
    assert any(one["responseStatus"]["code"] == 403 for one in audit)
    assert {one["eventName"] for one in trail} >= {"ConsoleLogin", "GetSecretValue", "PutImage"}
    listed = lookup_event(trail[0])
    assert json.loads(listed["CloudTrailEvent"]) == trail[0] and listed["Username"]


@given(cut=st.floats(0, 1))
@settings(max_examples=15, deadline=None)
def test_records_of_ranges_that_overlap_agree(cut: float) -> None:
    start, end = END - 2 * 86400, END
    middle = start + cut * (end - start)
    for records in (kubernetes_audit, cloudtrail):
        assert list(records(WORLD, start, end)) == [*records(WORLD, start, middle), *records(WORLD, middle, end)]


# --- manifests --------------------------------------------------------------------------------------------------------------------------


def test_manifests_are_of_the_time_and_agree_with_the_pods() -> None:
    world = WORLD.breaks(CpuLimit(service="catalog", cores=0.2), BROKEN).breaks(BadDeploy(service="user", release="5.0.0"), BROKEN)
    for at in (BROKEN - 60, END):
        found = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in manifests(world, at)}
        assert len(found) == len(manifests(world, at))
        running = world.pods.seen(np.arange(len(world.pods)), np.array([at]))[:, 0]
        for service in world.services:
            workload = found[service.kind, service.namespace, service.name]
            container = workload["spec"]["template"]["spec"]["containers"][0]
            pods = [pod for pod, there in zip(world.pods.listed, running, strict=True) if there and world.services[pod.service] is service]
            assert len(pods) == workload["spec"].get("replicas", len(world.nodes))
            assert {f"{service.image}:{pod.version}" for pod in pods} == {container["image"]}
            assert ("ConfigMap", service.namespace, service.name) in found and ("Namespace", "", service.namespace) in found
        limit = found["Deployment", "shop", "catalog"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
        assert limit == ("1" if at < BROKEN else "200m")
    kinds = {kind for kind, _namespace, _name in found}
    assert kinds == {
        "Namespace", "ServiceAccount", "ConfigMap", "Service", "Deployment", "StatefulSet", "DaemonSet",
        "HorizontalPodAutoscaler", "PodDisruptionBudget", "Ingress", "PersistentVolume", "PersistentVolumeClaim", "CronJob",
    }  # fmt: skip
    assert len({one["metadata"]["labels"]["topology.kubernetes.io/zone"] for one in nodes(world)}) == 3


def test_the_platform_fits_on_its_nodes() -> None:
    for number, node in enumerate(WORLD.nodes):
        there = [WORLD.services[pod.service] for pod in WORLD.pods.listed if pod.node == number and pod.started <= END < pod.ended]
        assert sum(service.cores for service in there) < node.cores and sum(service.memory_bytes for service in there) < node.memory_bytes
        assert len(there) < 58


def test_calls_that_lead_nowhere_or_in_a_circle_are_refused() -> None:
    def service(name: str, *calls: str) -> Service:
        return Service(namespace="x", name=name, team="x", language="go", calls=tuple(Call(call) for call in calls))

    assert ordered((service("b"), service("a", "b"))) == [1, 0]
    with pytest.raises(ValueError, match="circle"):
        ordered((service("a", "b"), service("b", "a")))
    with pytest.raises(ValueError, match="not there"):
        ordered((service("a", "c"),))


# --- the pace of what breaks ------------------------------------------------------------------------------------------------------------


@given(since=st.floats(0, 2e9), speed=st.floats(0.01, 1000), start=st.floats(0, 2e9), seconds=st.floats(0, 1e7))
def test_a_pace_and_back(since: float, speed: float, start: float, seconds: float) -> None:
    pace = Pace(since, speed)
    then = pace.after(start, seconds)
    assert then >= start and abs(pace.passed(start, then) - seconds) < 1e-3 * max(1, speed)
    if then <= since:
        assert abs(then - start - seconds) < 1e-3


def test_what_develops_goes_at_its_pace_and_traffic_does_not() -> None:
    start, now = WORLD.end - 3600, WORLD.end
    leak, fill = MemoryLeak(service="recommendation", bytes_per_hour=100e6), VolumeFill(service="order-db", bytes_per_hour=4e9)
    slow = Slow(service="stock-db", latency_factor=5, ramp_seconds=7200)

    def broken(pace: Pace) -> World:
        return WORLD.breaks(leak, start, pace=pace).breaks(fill, start, pace=pace).breaks(slow, start, pace=pace)

    plain, fast = broken(WALL), broken(Pace(now, 10))
    assert World.of(json.loads(json.dumps(fast.document()))) == fast
    before = np.arange(start, now, 60.0)
    pods = np.flatnonzero(plain.pods.service == WORLD.places["recommendation"])
    assert (plain.pods.working_set(pods, before) == fast.pods.working_set(pods, before)).all()
    assert fast.faults[2].size(np.array([now]))[0] == 0.5
    for seconds in (60.0, 300.0):
        at, then = np.array([now + seconds]), np.array([now + 10 * seconds])
        grown = fast.faults[1].passed(at)
        assert grown == plain.faults[1].passed(then) == 3600 + 10 * seconds
        assert fast.faults[2].size(at) == plain.faults[2].size(then)
    place = WORLD.places["order-db"]
    assert volumes.used(fast, place, 0, np.array([now + 600.0]))[0] - volumes.used(WORLD, place, 0, np.array([now + 600.0]))[0] == (
        pytest.approx(4e9 * (3600 + 6000) / 3600)
    )
    assert fast.full[1] - now == pytest.approx((plain.full[1] - now) / 10, rel=0.02)  # the volume's own growth is the wall's
    [slowly, quickly] = [[kill for pod in pods for kill in world.pods.listed[pod].kills[:1]] for world in (plain, fast)]
    assert all(one > now for one in slowly)
    assert [now + (one - now) / 10 for one in slowly] == pytest.approx(quickly)
    rows = np.array([WORLD.places["web"]])
    later = np.array([now + 300.0])
    assert (fast.history.rate("requests", rows, later) == plain.history.rate("requests", rows, later)).all()


@pytest.mark.parametrize("speed", [0, -1, math.inf, math.nan])
def test_time_that_cannot_go_is_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="does not go"):
        Pace(0, speed)
