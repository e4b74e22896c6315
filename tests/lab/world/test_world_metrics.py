"""The world's metrics: the same every time, counters that only grow, and faults that touch those who depend on what is broken."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.lab.prometheus import Engine, Store
from opslib.lab.prometheus.store import is_absent, is_stale
from opslib.lab.world import World
from opslib.lab.world.faults import (
    BadDeploy,
    CertificateExpiry,
    CpuLimit,
    DependencyDown,
    Dns,
    Fault,
    MemoryLeak,
    NodeDown,
    Slow,
    TrafficSpike,
    VolumeFill,
)
from opslib.lab.world.history import DAY, SLOT
from opslib.lab.world.metrics import Family, families, load
from opslib.lab.world.platform import GIBI, MEBI, NODES, SERVICES, callers_of

END = 1_790_604_800.0  # 2026-09-28 13:20 in Tokyo, a Monday
BROKEN = END - 6 * 3600
NAMES = [service.name for service in SERVICES]


def world_of(seed: int = 7, days: float = 2) -> World:
    return World(seed, END - days * 86400, END)


def every(family: Family) -> np.ndarray:
    return np.arange(len(family.labels))


def on_of(service: str) -> list[Fault]:
    return [
        BadDeploy(service=service, release="9.9.9", error_ratio=0.4, latency_factor=3),
        DependencyDown(service=service),
        Slow(service=service, latency_factor=50),
        CertificateExpiry(service=service),
        MemoryLeak(service=service, bytes_per_hour=2 * GIBI),
        CpuLimit(service=service, cores=0.02),
    ]


BROKEN_WORLDS = [
    world_of(),
    world_of().breaks(MemoryLeak(service="recommendation", bytes_per_hour=400 * MEBI), BROKEN),
    world_of().breaks(CpuLimit(service="catalog", cores=0.1), BROKEN, END - 3600),
    world_of().breaks(NodeDown(node=NODES[2].name), BROKEN, END - 3600),
    world_of().breaks(BadDeploy(service="checkout", release="4.3.0"), BROKEN).breaks(TrafficSpike(factor=3), BROKEN + 600),
]


@pytest.mark.parametrize("world", BROKEN_WORLDS, ids=lambda world: "+".join(one.fault.kind for one in world.faults) or "whole")
def test_counters_grow_and_begin_anew_with_their_container_only(world: World) -> None:
    times = np.arange(END - 8 * 3600, END, 30.0)
    checked = 0
    for family in families(world):
        if family.kind != "counter":
            continue
        values = family.values(every(family), times)
        assert not is_absent(values).any()
        known = np.where(is_stale(values), np.nan, values)
        assert (np.nan_to_num(known) >= 0).all(), family.name
        fell = np.diff(known, axis=1) < 0
        if not fell.any():
            continue
        names = [labels.get("pod", "") for labels in family.labels]
        for row, column in zip(*np.nonzero(fell), strict=True):
            pod = next(pod for pod in world.pods.listed if pod.name == names[row])
            assert any(times[column] < start <= times[column + 1] for start in pod.starts), (family.name, family.labels[row])
            checked += 1
    if world.faults and world.faults[0].fault.kind == "memory_leak":
        assert checked > 10  # it was killed, and its counters began anew


@given(seed=st.integers(0, 2**40), offset=st.floats(0, 86400), length=st.floats(60, 7200), pick=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_overlapping_ranges_agree_and_the_same_seed_gives_the_same(seed: int, offset: float, length: float, pick: int) -> None:
    one, other = world_of(seed, days=1.2), world_of(seed, days=1.2)
    family, again = (found[pick % len(found)] for found in (list(families(each)) for each in (one, other)))
    assert family.labels == again.labels
    begin = one.start + np.floor(offset)
    rows = every(family)[:20]
    wide = family.values(rows, np.arange(begin, begin + 2 * length, 15.0))
    narrow = again.values(rows, np.arange(begin, begin + length, 15.0))
    if family.name.startswith("node_memory_Mem") or family.name.startswith("node_memory_Cached"):
        np.testing.assert_allclose(wide[:, : narrow.shape[1]], narrow)
    else:
        assert np.array_equal(wide[:, : narrow.shape[1]].view(np.uint64), narrow.view(np.uint64))
    alone = again.values(rows, np.array([begin + 15.0]))
    np.testing.assert_allclose(np.nan_to_num(alone[:, 0]), np.nan_to_num(wide[:, 1]), rtol=1e-12)


def test_another_seed_is_another_world() -> None:
    times = np.arange(END - 3600, END, 30.0)
    rows = np.arange(len(SERVICES))
    assert not np.array_equal(world_of(1).history.rate("requests", rows, times), world_of(2).history.rate("requests", rows, times))


@given(service=st.sampled_from(NAMES), kind=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_fault_touches_the_service_and_its_callers_only_and_nothing_before_it(service: str, kind: int) -> None:
    whole = world_of(days=1)
    fault = on_of(service)[kind]
    if isinstance(fault, CpuLimit) and whole.services[whole.places[service]].kind == "DaemonSet":
        return
    broken = whole.breaks(fault, BROKEN)
    rows = np.arange(len(SERVICES))
    before, after = np.arange(BROKEN - 7200, BROKEN - SLOT, 30.0), np.arange(BROKEN, END, 30.0)
    untouched = [row for row in rows if NAMES[row] not in callers_of(service)]
    for name in ("requests", "errors", "latency", "cores", "throttled"):
        # a new template moves pods, and only the rounding of sums may tell
        assert np.array_equal(whole.history.rate(name, rows, before), broken.history.rate(name, rows, before)), name
        assert np.array_equal(whole.history.rate(name, rows, after)[untouched], broken.history.rate(name, rows, after)[untouched]), name


@pytest.mark.parametrize("service", ["catalog-db", "payment-api", "session-store"])
def test_what_a_service_cannot_do_without_fails_its_callers(service: str) -> None:
    world = world_of(days=1).breaks(DependencyDown(service=service), BROKEN)
    errors = world.history.rate("errors", np.arange(len(SERVICES)), np.array([BROKEN + 600]))[:, 0]
    for caller in SERVICES:
        for call in caller.calls:
            if call.to == service and call.critical == 1:
                assert errors[world.places[caller.name]] > 0.9 * min(1.0, call.per_request), caller.name


@pytest.mark.parametrize("world", BROKEN_WORLDS, ids=lambda world: "+".join(one.fault.kind for one in world.faults) or "whole")
def test_shares_are_between_0_and_1_and_use_within_limits(world: World) -> None:
    rows, times = np.arange(len(SERVICES)), np.arange(BROKEN - 3600, END, 60.0)
    for change in world.changes:  # a roll-out changes a service at once, and its pods one after another
        times = times[(times < change.time) | (times > change.time + 120)]
    for name in ("errors", "throttled"):
        values = world.history.rate(name, rows, times)
        assert (values >= 0).all() and (values <= 1).all(), name
    pods = np.arange(len(world.pods))
    assert (world.pods.working_set(pods, times) <= world.pods.memory[0, :, None]).all()
    per_pod = world.history.rate("cores", world.pods.service, times) * world.pods.share[:, None]
    limits = np.array([np.inf if pod.cores_limit is None else pod.cores_limit for pod in world.pods.listed])
    assert (np.where(world.pods.seen(pods, times), per_pod, 0) <= limits[:, None]).all()
    idle = world.history.rate("node_cores", np.arange(len(world.nodes)), times)
    assert (idle < 8).all()


def test_buckets_hold_what_smaller_ones_hold_and_the_last_is_the_count() -> None:
    found = {}
    times = np.arange(END - 7200, END, 30.0)
    for family in families(world_of()):
        if family.name.startswith("http_request_duration_seconds"):
            for labels, values in zip(family.labels, family.values(every(family), times), strict=True):
                found[family.name, labels["pod"], labels.get("le", "")] = values
    bounds = ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf"]
    for pod in {pod for _name, pod, _le in found}:
        for small, big in itertools.pairwise(bounds):
            assert (
                found["http_request_duration_seconds_bucket", pod, small] <= found["http_request_duration_seconds_bucket", pod, big]
            ).all()
        assert np.array_equal(
            found["http_request_duration_seconds_bucket", pod, "+Inf"], found["http_request_duration_seconds_count", pod, ""]
        )


def test_traffic_follows_the_day_in_japan() -> None:
    world = world_of(days=7)
    times = np.arange(END - 7 * DAY, END, 600.0)
    rate = world.history.rate("requests", np.array([world.places["gateway"]]), times)[0]
    hours = ((times / 3600 + 9) % 24).astype(int)
    mean = {hour: rate[hours == hour].mean() for hour in range(24)}
    assert max(mean, key=mean.__getitem__) in (20, 21)
    assert min(mean, key=mean.__getitem__) in (2, 3, 4, 5)
    assert 2 < mean[13] / mean[4] < 6


def test_a_full_volume_has_nothing_left_and_its_store_fails() -> None:
    world = world_of(days=1).breaks(VolumeFill(service="order-db", bytes_per_hour=15 * GIBI), BROKEN)
    [available] = [family for family in families(world) if family.name == "kubelet_volume_stats_available_bytes"]
    row = next(number for number, labels in enumerate(available.labels) if labels["persistentvolumeclaim"] == "data-order-db-0")
    values = available.values(np.array([row]), np.array([BROKEN, BROKEN + 3600, END]))[0]
    assert values[0] > values[1] > values[2] == 0
    errors = world.history.rate("errors", np.array([world.places["order-db"]]), np.array([BROKEN + 60, END]))[0]
    assert errors[0] < 0.01 < 0.4 < errors[1]


def test_a_lost_node_is_silent_and_its_pods_move() -> None:
    world = world_of().breaks(NodeDown(node=NODES[2].name), BROKEN)
    store = Store()
    load(store, world, start=BROKEN - 1800, step_seconds=30, end=lambda: END)
    engine = Engine(store)

    def number(query: str, at: float) -> float:
        values = engine.query(query, int(at * 1000)).value.values
        return float(values[0, 0]) if values.size else 0.0

    node = f'{{node="{NODES[2].name}"}}'
    assert number(f"count(node_load1{node})", BROKEN - 60) == 1 and number(f"count(node_load1{node})", BROKEN + 60) == 0
    assert number(f"count(container_memory_working_set_bytes{node})", BROKEN + 60) == 0
    ready = f'kube_node_status_condition{{node="{NODES[2].name}", condition="Ready", status="true"}}'
    assert number(ready, BROKEN + 30) == 1 and number(ready, BROKEN + 120) == 0
    assert number(f"count(kube_pod_info{node})", BROKEN + 200) > number(f"count(kube_pod_info{node})", BROKEN + 400)
    missing = "sum(kube_deployment_status_replicas_unavailable)"
    assert number(missing, BROKEN - 60) == 0 < number(missing, BROKEN + 120)
    assert number(missing, BROKEN + 600) == 0


@pytest.mark.parametrize(
    ("fault", "query", "before", "after"),
    [
        (Dns(error_ratio=0.4), 'sum(rate(coredns_dns_responses_total{rcode="SERVFAIL"}[5m]))', (0, 0), (20, 30)),
        (
            Dns(error_ratio=0.4),
            'sum(rate(http_requests_total{service="gateway",code="503"}[5m])) / sum(rate(http_requests_total{service="gateway"}[5m]))',
            (0, 0.01),
            (0.2, 1),
        ),
        (TrafficSpike(factor=3), 'sum(rate(http_requests_total{service="ingress-controller"}[5m]))', (60, 240), (300, 720)),
        (CertificateExpiry(service="user"), "min(probe_ssl_earliest_cert_expiry) - time()", (0, 300), (-1200, 0)),
        (Slow(service="ledger-db", latency_factor=100), "histogram_quantile(0.5, sum by (le) (rate("
         'http_request_duration_seconds_bucket{service="ledger"}[5m])))', (0, 0.1), (0.5, 2)),
        (DependencyDown(service="user"), 'kube_deployment_status_replicas_available{deployment="user"}', (2, 2), (0, 0)),
    ],
    ids=lambda value: str(getattr(value, "kind", "")) or None,
)  # fmt: skip
def test_a_fault_shows_where_operators_look(fault: Fault, query: str, before: tuple[float, float], after: tuple[float, float]) -> None:
    store = Store()
    load(store, world_of(days=1).breaks(fault, BROKEN), start=BROKEN - 3600, step_seconds=30, end=lambda: END)
    for at, (low, high) in ((BROKEN - 60, before), (BROKEN + 900, after)):
        [[value]] = Engine(store).query(query, int(at * 1000)).value.values.tolist() or [[0.0]]
        assert low <= value <= high


def test_names_and_labels_are_unique_and_whole() -> None:
    seen = set()
    for family in families(BROKEN_WORLDS[1]):
        for labels in family.labels:
            series = (family.name, *sorted(labels.items()))
            assert series not in seen, series
            seen.add(series)
            assert all(isinstance(value, str) for value in labels.values())
    names = {name for name, *_labels in seen}
    assert {
        "container_cpu_cfs_throttled_periods_total", "container_memory_working_set_bytes", "kube_pod_container_status_restarts_total",
        "node_cpu_seconds_total", "istio_requests_total", "http_request_duration_seconds_bucket", "kubelet_volume_stats_available_bytes",
        "apiserver_requested_deprecated_apis", "jvm_memory_used_bytes", "go_goroutines",
    } <= names  # fmt: skip


def test_a_world_that_breaks_goes_on_where_the_whole_one_was() -> None:
    whole, store = world_of(), Store()
    broken = whole.breaks(BadDeploy(service="checkout", release="4.9.0", error_ratio=0.5), BROKEN)
    load(store, whole, start=BROKEN - 7200, step_seconds=30, end=lambda: BROKEN)
    load(store, broken, start=BROKEN, step_seconds=30, end=lambda: END)
    straight = Store()
    load(straight, broken, start=BROKEN - 7200, step_seconds=30, end=lambda: END)
    for query in (
        "sum by (service) (rate(http_requests_total[5m]))",
        'sum(rate(http_requests_total{service="checkout", code="500"}[5m]))',
        "resets(container_cpu_usage_seconds_total[10m])",
        "count by (pod) (kube_pod_info)",
    ):
        for at in (BROKEN - 30, BROKEN, BROKEN + 30, BROKEN + 300, END):
            mine, theirs = (Engine(one).query(query, int(at * 1000)).value for one in (store, straight))
            assert mine.labels == theirs.labels
            np.testing.assert_allclose(mine.values, theirs.values)
    image = 'kube_pod_container_info{container="checkout", image=~".*:4.9.0"}'
    assert Engine(store).query(f"count({image})", int((BROKEN + 600) * 1000)).value.values[0, 0] == 3


@pytest.mark.parametrize(
    "query",
    [
        'sum by (instance, node) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[5m]))',
        'node_filesystem_avail_bytes{mountpoint="/"} / node_filesystem_size_bytes{mountpoint="/"} < 1',
        'sum by (node) (kube_pod_container_resource_requests{resource="cpu"}) / on (node) kube_node_status_allocatable{resource="cpu"}',
        "container_memory_working_set_bytes / on (namespace, pod, container) container_spec_memory_limit_bytes < 1",
        "container_memory_working_set_bytes < on (namespace, pod, container) kube_pod_container_resource_limits{resource='memory'}",
        "rate(container_cpu_cfs_throttled_periods_total[5m]) / rate(container_cpu_cfs_periods_total[5m]) < 0.5",
        "histogram_quantile(0.99, sum by (namespace, service, le) (rate(http_request_duration_seconds_bucket[5m]))) > 0",
        'sum by (destination_workload) (rate(istio_requests_total{reporter="destination"}[5m])) > 0',
        "kube_deployment_spec_replicas == kube_deployment_status_replicas_available",
        "kube_persistentvolumeclaim_info * on (namespace, persistentvolumeclaim) group_left () kubelet_volume_stats_used_bytes",
        "increase(kube_pod_container_status_restarts_total[1h]) == 0",
        "probe_ssl_earliest_cert_expiry - time() > 0",
    ],
)
def test_the_names_join_as_those_of_the_exporters_do(query: str) -> None:
    store = Store()
    load(store, BROKEN_WORLDS[0], start=END - 7200, step_seconds=30, end=lambda: END)
    assert len(Engine(store).query(query, int(END * 1000)).value.labels) >= 6


_WEEK = """
import json, pathlib, re, time
from opslib.lab.prometheus import Engine, Store
from opslib.lab.world import World
from opslib.lab.world.metrics import load
end = {end}
begin = time.perf_counter()
world, store = World(7, end - 7 * 86400, end), Store()
groups = load(store, world, start=world.start, step_seconds=30, end=lambda: end)
series = sum(len(group.series) for group in groups)
handed = time.perf_counter() - begin
begin = time.perf_counter()
span = int(world.start * 1000), int(end * 1000)
samples = sum(one.values.size for number in range(0, series, 10) for one in store.read([number], *span))
read = time.perf_counter() - begin
begin = time.perf_counter()
query = "sum by (service) (rate(http_requests_total[5m]))"
shown = Engine(store).query_range(query, *span, 1_200_000)
panel = time.perf_counter() - begin
peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])  # maxrss would be the parent's
points = shown.value.values.shape[1]
print(json.dumps(dict(series=series, handed=handed, samples=samples, read=read, panel=panel, peak=peak, points=points)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel is asked for the most memory that was used")
def test_a_week_of_the_platform_is_there_at_once_and_read_within_a_gigabyte(capsys: pytest.CaptureFixture[str]) -> None:
    answer = subprocess.run([sys.executable, "-c", _WEEK.format(end=END)], capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    with capsys.disabled():
        print(f"\nworld: {found['series']} series of a week at 30 s handed over in {found['handed']:.2f} s;", end=" ")
        print(f"{found['samples']} samples read in {found['read']:.2f} s, a panel in {found['panel']:.2f} s, {found['peak']} bytes at most")
    assert found["series"] > 8000 and found["points"] == 505
    assert found["handed"] < 10
    assert found["peak"] < 0.75 * GIBI
