"""The world of now, of the pods that a cluster has: the same series as the past's, which go on where those ended."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from opslib.lab import installation, remote_read, state_metrics
from opslib.lab.prometheus import Engine, Rules, Store
from opslib.lab.prometheus.labels import Matcher
from opslib.lab.world import World, pages, past
from opslib.lab.world.changes import stamp
from opslib.lab.world.faults import BadDeploy, MemoryLeak
from opslib.lab.world.history import BOUNDS, MOST_BYTES, History
from opslib.lab.world.metrics import applications, containers, families, load, machines, objects
from opslib.lab.world.platform import MEBI
from opslib.lab.world.present import Observed, Seen, amount, observe, on_node, seen
from opslib.lab.world.seed import Cluster

END = 1_790_604_800.0
RULES = Path(state_metrics.__file__).parent / "rules"
WORLD = World(7, END - 7 * 86400, END)
LEAK = MemoryLeak(service="recommendation", bytes_per_hour=400 * MEBI, release="1.5.0")


@lru_cache(1)
def cluster() -> tuple[dict[str, Any], ...]:
    """The objects of a cluster in which the world has been running."""
    return tuple(Cluster(WORLD, END, 20_001).objects([*installation.permissions(), *installation.objects(WORLD)]))


def pods() -> list[dict[str, Any]]:
    return copy.deepcopy([obj for obj in cluster() if obj["kind"] == "Pod"])


def of(service: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [pod for pod in found if pod["metadata"]["labels"].get("app") == service]


def known(world: World, found: list[Seen]) -> dict[str, tuple[Seen, Any]]:
    adopted = past.adopt(world, found, END)
    return {one.name: (one, pod) for pod, one in adopted.pairs(adopted.pods.listed) if one is not None}


def now(found: list[dict[str, Any]], world: World = WORLD, before: dict[str, tuple[Seen, Any]] | None = None) -> Observed:
    mine, _others = seen(world, found)
    return observe(world, mine, known(world, mine) if before is None else before, [])


def every(world: Observed) -> list[Any]:
    each = np.arange(len(world.pods))
    found = [*applications.families(world, each), *applications.between(world, each), *containers.families(world, each)]
    return [*found, *machines.families(world), *machines.platform(world)]


def samples(text: str) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if not line.startswith("#")}


@pytest.mark.parametrize(
    ("quantity", "number"), [("250m", 0.25), ("2", 2), ("128Mi", 134217728), ("1G", 1e9), ("1.5Gi", 1610612736), (3, 3)]
)
def test_quantities(quantity: str | int, number: float) -> None:
    assert amount(quantity) == pytest.approx(number)


def test_what_is_scraped_is_what_was() -> None:
    moment = END + 5
    page = samples(pages.Page(every(now(pods())), before=pages.Counters(families(WORLD, END, END)).at(END)).text(moment))
    for family in families(WORLD, moment, moment):
        if family.name.startswith("kube_"):
            continue
        values = family.values(np.arange(len(family.labels)), np.array([moment]))[:, 0]
        for labels, value in zip(family.labels, values.tolist(), strict=True):
            mine = page.pop(pages.written(family.name, labels))
            assert mine == pytest.approx(value, rel=2e-3, abs=30), (family.name, labels)
    assert page == {}


def test_kube_state_metrics_says_of_the_objects_what_it_said_of_the_past() -> None:
    told: dict[str, dict[tuple[tuple[str, str], ...], float]] = defaultdict(dict)
    paths = {"Pod": "/api/v1/pods", "Node": "/api/v1/nodes", "PersistentVolumeClaim": "/api/v1/persistentvolumeclaims"}
    paths |= {kind: f"/apis/apps/v1/{kind.lower()}s" for kind in ("Deployment", "StatefulSet", "DaemonSet")}
    paths["HorizontalPodAutoscaler"] = "/apis/autoscaling/v2/horizontalpodautoscalers"
    paths["PodDisruptionBudget"] = "/apis/policy/v1/poddisruptionbudgets"
    for obj in cluster():
        if obj["kind"] in paths:
            for name, labels, value in state_metrics.KINDS[paths[obj["kind"]]](obj):
                told[name][tuple(sorted(labels.items()))] = value
    alive = np.flatnonzero((WORLD.pods.started <= END) & (WORLD.pods.removed > END))
    compared = 0
    for family in objects.families(WORLD, alive):
        values = family.values(np.arange(len(family.labels)), np.array([END]))[:, 0]
        for labels, value in zip(family.labels, values.tolist(), strict=True):
            series = tuple(sorted(labels.items()))
            assert series in told[family.name], (family.name, labels)
            if not family.name.endswith(("_generation", "_created")):
                assert told[family.name][series] == value, (family.name, labels)
            compared += 1
    assert compared > 2000


def test_without_a_ready_pod_a_service_fails_its_callers_and_503_are_counted_in_its_name() -> None:
    found = pods()
    whole = now(found)
    for pod in of("user", found):
        pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    without = now(found)
    user, gateway, moment = WORLD.places["user"], WORLD.places["gateway"], np.array([END + 5])
    for name in ("requests", "unserved"):
        served = [float(world.history.rate(name, np.array([user]), moment)[0, 0]) for world in (whole, without)]
        assert (served[0] > 0) == (name == "requests") and (served[1] > 0) == (name == "unserved")
    errors = [float(world.history.rate("errors", np.array([gateway]), moment)[0, 0]) for world in (whole, without)]
    assert errors[0] < 0.01 < 0.1 < errors[1]


def test_fewer_pods_are_hotter_and_slower() -> None:
    found = pods()
    whole = now(found)
    gone = [pod["metadata"]["name"] for pod in of("payment-api", found)[1:]]
    fewer = now([pod for pod in found if pod["metadata"]["name"] not in gone])
    rows, moment = np.array([WORLD.places["payment-api"]]), np.array([END + 5])
    assert fewer.history.rate("latency", rows, moment) > 1.2 * whole.history.rate("latency", rows, moment)
    each = [
        float((world.history.rate("cores", world.pods.service, moment)[:, 0] * world.pods.share)[world.pods.service == rows[0]].max())
        for world in (whole, fewer)
    ]
    assert each[1] > 1.8 * each[0]


def test_a_lower_limit_throttles() -> None:
    found = pods()
    for pod in of("catalog", found):
        pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "100m"
    rows, moment = np.array([WORLD.places["catalog"]]), np.array([END + 5])
    assert now(found).history.rate("throttled", rows, moment) > 0.5 > now(pods()).history.rate("throttled", rows, moment)


def test_a_container_that_begins_anew_counts_anew_and_others_go_on() -> None:
    found = pods()
    before = known(WORLD, seen(WORLD, found)[0])
    each = pages.Counters(families(WORLD, END, END)).at(END)
    first = pages.Page(every(now(found, before=before)), before=each)
    one = samples(first.text(END + 5))
    killed = of("checkout", found)[0]
    status = killed["status"]["containerStatuses"][0]
    status |= {"restartCount": 1, "state": {"running": {"startedAt": stamp(END + 8)}}}
    other = samples(pages.Page(every(now(found, before=before)), before=first.counters()).text(END + 10))
    anew = 0
    for series, value in other.items():
        if series.startswith(("http_requests_total", "container_cpu_usage", "process_cpu")):
            if killed["metadata"]["name"] in series:
                assert value <= one[series] and value < 400
                anew += 1
            else:
                assert value >= one[series], series
    assert anew >= 5


def test_a_node_s_part_is_kept_while_its_pods_are_the_same() -> None:
    found = pods()
    before = known(WORLD, seen(WORLD, found)[0])
    first = now(found, before=before)
    parts = [on_node(first, number, None) for number in range(len(WORLD.nodes))]
    gone = of("coupon", found)[0]
    left = [pod for pod in found if pod is not gone]
    second = now(left, before=before)
    same = [on_node(second, number, part) is part for number, part in enumerate(parts)]
    home = next(number for number, node in enumerate(WORLD.nodes) if node.name == gone["spec"]["nodeName"])
    assert [number for number, one in enumerate(same) if not one] == [home]
    service = WORLD.places["coupon"]
    rest = [part for number, part in enumerate(parts) if number != home and (part.pods.service == service).any()]
    assert [float(part.pods.share[part.pods.service == service].sum()) for part in rest] == [pytest.approx(1.0)] * len(rest)


def test_the_past_carries_the_cluster_s_names_and_lacks_what_the_cluster_has_not() -> None:
    found = pods()
    for number, pod in enumerate(sorted(of("web", found), key=lambda one: one["metadata"]["name"])):
        pod["metadata"]["name"] = f"web-7d9c8b6f5-{number}"
        pod["metadata"]["ownerReferences"][0]["name"] = "web-7d9c8b6f5"
        pod["status"]["podIP"] = f"10.0.99.{number}"
    missing = of("cart", found)[0]["metadata"]["name"]
    adopted = past.adopt(WORLD, seen(WORLD, [pod for pod in found if pod["metadata"]["name"] != missing])[0], END)
    store = Store()
    load(store, adopted, start=END - 1800, end=lambda: END)
    engine = Engine(store)

    def names(query: str, at: float) -> set[str]:
        return {dict(labels)["pod"] for labels in engine.query(query, int(at * 1000)).value.labels}

    query = 'kube_pod_info{created_by_name=~"web-.*", pod_ip=~"10.0.99.*"} and on (pod) http_requests_total'
    assert names(query, END - 900) == {f"web-7d9c8b6f5-{number}" for number in range(3)}
    cart = 'container_memory_working_set_bytes{container="cart"}'
    assert len(names(cart, END - 900)) == 2 and len(names(cart, END - 1)) == 1


def layers(*worlds: tuple[World, float, float]) -> list[dict[str, Any]]:
    found: tuple[past.Layer, ...] = ()
    mine = seen(WORLD, pods())[0]
    for world, start, end in worlds:
        found = past.lay(found, past.adopt(world, mine, end), start, end)
    return [layer.document() for layer in found]


def test_a_past_is_laid_anew_from_where_something_broke_and_taken_back() -> None:
    store = Store()
    shown, engine = past.Shown(store), Engine(store)
    broken = WORLD.breaks(BadDeploy(service="checkout", release="9.9.9", error_ratio=0.5), END - 3600)
    rate = 'sum(rate(http_requests_total{service="checkout",code="500"}[5m])) / sum(rate(http_requests_total{service="checkout"}[5m]))'

    def share(at: float) -> float:
        return float(engine.query(rate, int(at * 1000)).value.values[0, 0])

    assert shown.show(layers((WORLD, WORLD.start, END))) == WORLD.start
    assert share(END - 60) < 0.01
    assert shown.show(layers((WORLD, WORLD.start, END))) == math.inf
    since = past.differs_since(WORLD, broken)
    assert since == END - 3600
    assert shown.show(layers((WORLD, WORLD.start, END), (broken, since, END + 60))) == since
    assert share(END - 3700) < 0.01 < 0.4 < share(END - 60)
    # nothing counts down or twice where one world follows the other
    resets = engine.query('resets(http_requests_total{service!="checkout"}[2h])', int(END * 1000)).value
    counted = [labels for labels, values in zip(resets.labels, resets.values[:, 0], strict=True) if values]
    assert counted == []
    assert shown.show(layers((WORLD, WORLD.start, END), (broken, since, END + 60), (WORLD, since, END + 120))) == since
    assert share(END - 60) < 0.01 and share(END + 100) < 0.01


def test_a_past_in_which_much_was_broken_and_taken_back_is_as_small_as_a_new_one() -> None:
    store, mine = Store(), seen(WORLD, pods())[0]
    shown, series = past.Shown(store), [Matcher("__name__", "=", "node_load1")]
    found = past.lay((), past.adopt(WORLD, mine, END), WORLD.start, END)
    shown.show([layer.document() for layer in found])
    for number in range(10):  # each later than the one before, so that none covers another
        since, now = END + 1200 * number + 300, END + 1200 * number + 600
        broken = WORLD.breaks(BadDeploy(service="checkout", release=f"9.9.{number}"), since)
        renamed = [replace(one, name=f"{one.name}{number}") for one in mine]
        for world, end, starts in ((broken, now, [WORLD.start, since]), (WORLD, now + 60, [WORLD.start])):
            found = past.lay(found, past.adopt(world, renamed, end), since, end)
            assert [layer.start for layer in found] == starts
            assert shown.show([layer.document() for layer in found]) == since
    assert past.Layer.of(found[0].document()).document() == found[0].document()
    start, until = int((END - 60) * 1000), int((END + 1800) * 1000)
    (samples,) = store.read(store.find(series, start, until), start, until)
    times = (samples.times / 1000 - END).tolist()  # in between, what was scraped is there alone
    assert times == [time for time in range(-50, 1801, 15) if time < 0 or 300 <= time < 660 or time >= 1500]
    names = {dict(labels)["pod"] for labels in store.labels(store.find([Matcher("__name__", "=", "kube_pod_info")], 0, int(END * 1000)))}
    assert {one.name for one in renamed} <= names and not {one.name for one in mine} & names


def test_a_layer_is_cut_inside_a_gap_where_that_begins() -> None:
    layer = past.Layer(past.adopt(WORLD, (), END), 0.0, 90.0, ((10.0, 20.0), (50.0, 60.0)))
    assert (layer.until(100.0).end, layer.until(70.0).gaps) == (90.0, layer.gaps)
    for time in (55.0, 60.0):
        assert (layer.until(time).end, layer.until(time).gaps) == (50.0, ((10.0, 20.0),))
    assert (layer.until(30.0).end, layer.until(30.0).gaps) == (30.0, ((10.0, 20.0),))


def test_what_a_history_keeps_of_its_sums_has_a_bound() -> None:
    history, times = History(WORLD), np.arange(WORLD.start, END, 3600.0)
    rows = np.arange(len(history.edges) * len(BOUNDS))
    for name, count in (("edge_buckets", len(rows)), ("buckets", len(WORLD.services) * len(BOUNDS))):
        history.total(name, rows[:count], times)
    assert MOST_BYTES / 2 < history.summed_bytes <= MOST_BYTES


def test_a_history_that_resumes_another_is_the_same_as_one_that_does_not() -> None:
    broken = WORLD.breaks(LEAK, END - 7200)
    rows, times = np.arange(len(WORLD.services)), np.arange(END - 90_000, END, 3600.0)
    WORLD.history.total("requests", rows, times)
    resumed, alone = History(broken), History(broken)
    resumed.resume(WORLD.history, END - 7200)
    for name in ("requests", "own_failures", "cores"):
        assert np.array_equal(resumed.total(name, rows, times), alone.total(name, rows, times))


def test_when_worlds_differ() -> None:
    leaking = WORLD.breaks(LEAK, END - 3600)
    assert past.differs_since(WORLD, WORLD) == math.inf
    assert past.differs_since(leaking, WORLD) == END - 3600
    assert past.differs_since(leaking, leaking.ended(0, END - 60)) == END - 60
    assert past.differs_since(leaking.ended(0, END - 60), WORLD) == END - 3600


def rules_over(store: Store) -> Rules:
    rules = Rules(Engine(store), default_interval=5)
    for file in sorted(RULES.glob("*.yaml")):
        rules.load(yaml.safe_load(file.read_text("utf-8")), file.name)
    return rules


def test_in_a_healthy_week_nothing_but_the_watchdog_fires() -> None:
    store = Store()
    load(store, WORLD, start=WORLD.start, end=lambda: END)
    rules = rules_over(store)
    for group in rules.groups:
        for rule in group.rules:
            if rule.alerting and group.name != "neglected":
                found = Engine(store).query_range(rule.query, int((WORLD.start + 7200) * 1000), int(END * 1000), 3_600_000)
                assert len(found.value.labels) == (rule.name == "Watchdog"), (rule.name, found.value.labels[:3])


def test_rules_have_been_evaluated_in_a_past_that_was_given_whole() -> None:
    store = Store()
    broken = WORLD.breaks(BadDeploy(service="payment-api", release="9.9.9", error_ratio=0.5), END - 1800)
    load(store, broken, start=END - 7200, end=lambda: END)
    rules = rules_over(store)
    rules.remember(END - 3600, END, 30)
    rule = next(rule for group in rules.groups for rule in group.rules if rule.name == "HighErrorRate")
    [alert] = [alert for labels, alert in rule.alerts.items() if dict(labels)["service"] == "payment-api"]
    assert alert.state == "firing" and abs(alert.active_at - (END - 1800)) < 120
    sent = rules.evaluate(END + 1)
    assert ("HighErrorRate", "payment-api") in {(one["labels"]["alertname"], one["labels"].get("service")) for one in sent}
    engine = Engine(store)
    firing = 'ALERTS{alertname="HighErrorRate", alertstate="firing", service="payment-api"}'
    assert engine.query(firing, int((END - 900) * 1000)).value.labels and not engine.query(firing, int((END - 2000) * 1000)).value.labels
    recorded = engine.query('service:http_errors:ratio_rate1m{service="payment-api"}', int((END - 900) * 1000)).value
    assert 0.4 < recorded.values[0, 0] < 0.6


def test_remote_read_gives_the_samples_of_the_store() -> None:
    import cramjam

    store = Store()
    load(store, WORLD, start=END - 600, end=lambda: END)

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    def varint(value: int) -> bytes:
        return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])

    # start, end, node_load1, node =~ ...
    matchers = field(3, field(2, b"__name__") + field(3, b"node_load1")) + field(
        3, b"\x08\x02" + field(2, b"node") + field(3, b"ip-10-0-1-.*")
    )
    query = b"\x08" + varint(int((END - 300) * 1000)) + b"\x10" + varint(int(END * 1000)) + matchers
    answer = bytes(cramjam.snappy.decompress_raw(remote_read.answer(store, bytes(cramjam.snappy.compress_raw(field(1, query))))))
    expected = Engine(store).query('node_load1{node=~"ip-10-0-1-.*"}[5m]', int(END * 1000)).value
    assert answer.count(b"node_load1") == len(expected) == 2
    for _labels, times, values in expected:
        for time, value in zip(times.tolist(), values.tolist(), strict=True):
            assert b"\x09" + np.float64(value).tobytes() + b"\x10" + varint(time) in answer


@pytest.mark.parametrize("request_", [b"", b"no snappy", b"\x05\x10hello", b"\xff\xff\xff\xff\x7f"])
def test_requests_that_are_none_are_refused_or_empty(request_: bytes) -> None:
    try:
        assert remote_read.answer(Store(), request_) is not None
    except ValueError as error:
        assert str(error)
