"""The world's logs, audit records, manifests and clock."""

from __future__ import annotations

import itertools
import json
import re
import time
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.lab.controllers import clock as controllers_clock
from opslib.lab.world import World
from opslib.lab.world.audit import cloudtrail, kubernetes_audit, lookup_event
from opslib.lab.world.clock import Clock
from opslib.lab.world.faults import BadDeploy, CertificateExpiry, CpuLimit, DependencyDown, Dns, Fault, MemoryLeak, VolumeFill
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


# --- the clock --------------------------------------------------------------------------------------------------------------------------


@given(steps=st.lists(st.tuples(st.floats(0, 1e4), st.floats(0.01, 1e4)), min_size=1, max_size=20))
def test_the_clock_never_jumps(steps: list[tuple[float, float]]) -> None:
    ticks = 0.0
    start = datetime(2026, 3, 1, 9, tzinfo=timezone(timedelta(hours=9)))
    clock, expected = Clock(start, 1.0, ticks=lambda: ticks), 0.0
    for passed, speed in steps:
        ticks += passed
        expected += passed * clock.speed
        assert abs((clock.now() - start).total_seconds() - expected) < 1e-3
        clock.speed = speed
        assert abs((clock.now() - start).total_seconds() - expected) < 1e-3
    assert clock.now().tzinfo is UTC


def test_controllers_take_the_clock() -> None:
    clock: controllers_clock.Clock = Clock(datetime(2026, 3, 1, 3, tzinfo=UTC), 60, ticks=lambda: 5.0)
    assert controllers_clock.stamp(clock.now()) == "2026-03-01T03:00:00Z" and clock.speed == 60


def test_a_clock_that_cannot_run_is_refused() -> None:
    with pytest.raises(ValueError, match="does not run"):
        Clock(datetime(2026, 3, 1, tzinfo=UTC), 0)
    with pytest.raises(ValueError, match="no zone"):
        Clock(datetime(2026, 3, 1))  # noqa: DTZ001 - the point
    clock = Clock(datetime(2026, 3, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="does not run"):
        clock.speed = -1
    assert clock.time() >= datetime(2026, 3, 1, tzinfo=UTC).timestamp()
