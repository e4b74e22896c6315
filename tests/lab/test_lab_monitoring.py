"""What the lab exports, and that the real Prometheus, Alertmanager and OpenSearch have it."""

from __future__ import annotations

import json
import random
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from opslib.lab import logs, metrics, platform

if TYPE_CHECKING:
    from tests.conftest import RealLab


def until(done: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.2)


def answer(address: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        address, data=json.dumps(body).encode() if body else None, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def query(lab: RealLab, promql: str) -> list[tuple[dict[str, str], float]]:
    found = answer(f"{lab.addresses['prometheus']}/api/v1/query?{urllib.parse.urlencode({'query': promql})}")
    return [(one["metric"], float(one["value"][1])) for one in found["data"]["result"]]


# --- formulas ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "number"), [("250m", 0.25), ("2", 2), ("128Mi", 134217728), ("1G", 1e9), ("1.5Gi", 1610612736), (3, 3)]
)
def test_quantities(quantity: str | int, number: float) -> None:
    assert metrics.amount(quantity) == pytest.approx(number)


@given(some.floats(0.001, 100), some.floats(0.001, 100), some.floats(0.001, 10))
def test_buckets_never_go_down(one: float, other: float, median: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= metrics.below(low, median) <= metrics.below(high, median) <= 1


def test_half_of_the_requests_are_faster_than_the_median() -> None:
    assert metrics.below(0.2, 0.2) == 0.5


@given(some.floats(0, 4e9))
def test_a_day_has_its_tide(now: float) -> None:
    assert 0.4 - 1e-9 <= metrics.daily(now) <= 1.0 + 1e-9
    assert metrics.daily(now) == pytest.approx(metrics.daily(now + 86400), abs=1e-6)


def test_it_is_busiest_at_nine_in_the_evening_in_tokyo() -> None:
    assert metrics.daily(datetime(2026, 4, 1, 12, tzinfo=UTC).timestamp()) == pytest.approx(1.0)


def test_log_lines_are_mostly_good_and_in_two_languages() -> None:
    chance = random.Random(1)
    lines = [logs.line(platform.SERVICES[0], {}, datetime(2026, 4, 1, tzinfo=UTC), chance) for _number in range(4000)]
    levels = Counter(one["log"]["level"] for one in lines)
    assert levels["info"] > 3700
    assert 5 < levels["error"] < 80
    assert any("注文" in one["message"] for one in lines)
    assert not any("{" in one["message"] for one in lines)


# --- the real servers -------------------------------------------------------------------------------------------------------------------


def test_every_target_answers_and_the_names_that_chapters_use_have_data(any_lab: RealLab) -> None:
    until(lambda: len(query(any_lab, "up == 1")) == 2 + 1 + 1 + 4 + 4)
    assert query(any_lab, "up == 0") == []
    names = [
        "kube_pod_info",
        "kube_pod_status_phase",
        "kube_pod_container_status_restarts_total",
        "kube_pod_container_resource_requests",
        "kube_pod_container_resource_limits",
        "kube_deployment_spec_replicas",
        "kube_deployment_status_replicas_available",
        "kube_node_status_condition",
        "kube_node_status_allocatable",
        "container_memory_working_set_bytes",
        "container_cpu_usage_seconds_total",
        "node_cpu_seconds_total",
        "node_memory_MemAvailable_bytes",
        "node_memory_MemTotal_bytes",
        "node_filesystem_avail_bytes",
        "node_filesystem_size_bytes",
        "http_requests_total",
        "http_request_duration_seconds_bucket",
    ]
    until(lambda: {one["__name__"] for one, _value in query(any_lab, f'{{__name__=~"{"|".join(names)}"}}')} == set(names))
    pods = any_lab.api.list("/api/v1/pods", fields="status.phase=Running")
    until(lambda: query(any_lab, 'sum(kube_pod_status_phase{phase="Running"})')[0][1] == len(pods))


def test_rates_are_plausible(any_lab: RealLab) -> None:
    until(lambda: query(any_lab, "count_over_time(http_requests_total[1m]) >= 6"))
    for labels, value in query(any_lab, "sum by (service) (rate(http_requests_total[30s]))"):
        service = next(one for one in platform.SERVICES if one.name == labels["service"])
        assert value == pytest.approx(service.requests_per_second * metrics.daily(time.time()), rel=0.3)
    share = 'sum by (instance) (rate(node_cpu_seconds_total{mode="idle"}[1m])) / sum by (instance) (rate(node_cpu_seconds_total[1m]))'
    until(lambda: len(query(any_lab, share)) == 4)
    assert all(0.3 < value < 1 for _labels, value in query(any_lab, share))


def test_rules_are_as_their_files_say(any_lab: RealLab) -> None:
    def rules() -> dict[str, Any]:
        groups = answer(f"{any_lab.addresses['prometheus']}/api/v1/rules")["data"]["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    until(lambda: all(rule["health"] != "unknown" for rule in rules().values()))
    found = rules()
    assert [name for name, rule in found.items() if rule["health"] == "err"] == ["PodsOnBusyNode"]
    assert [name for name, rule in found.items() if rule["type"] == "alerting" and "runbook_url" not in rule["annotations"]] == [
        "NodeDiskLow"
    ]
    assert query(any_lab, "rabbitmq_queue_messages_ready") == []
    assert [name for name, rule in found.items() if rule.get("state") == "firing"] == ["Watchdog"]


def test_a_service_without_pods_answers_with_errors_and_its_alert_arrives(any_lab: RealLab) -> None:
    path = "/apis/apps/v1/namespaces/shop/deployments/cart"
    any_lab.api.patch(path, {"spec": {"replicas": 0}})
    try:

        def alerts() -> list[Any]:
            found = answer(f"{any_lab.addresses['alertmanager']}/api/v2/alerts")
            return [one for one in found if one["labels"]["alertname"] == "HighErrorRate"]

        until(alerts, seconds=90)
        assert [one["labels"]["service"] for one in alerts()] == ["cart"]
    finally:
        any_lab.api.patch(path, {"spec": {"replicas": 2}})
    until(lambda: any_lab.api.get(path)["status"].get("readyReplicas") == 2)


def test_logs_have_days_of_history_and_go_on(any_lab: RealLab) -> None:
    address = f"{any_lab.addresses['elasticsearch']}/logs-*/_search?size=0"
    days = {"aggs": {"days": {"date_histogram": {"field": "@timestamp", "calendar_interval": "day"}}}}
    assert len(answer(address, days)["aggregations"]["days"]["buckets"]) == 8
    levels = {"aggs": {"levels": {"terms": {"field": "log.level"}}}}
    counts = {one["key"]: one["doc_count"] for one in answer(address, levels)["aggregations"]["levels"]["buckets"]}
    assert counts["info"] > counts["warn"] > counts["error"] > 50
    pods = {one["metadata"]["name"] for one in any_lab.api.list("/api/v1/namespaces/shop/pods")}
    recent = {
        "query": {"range": {"@timestamp": {"gte": "now-20s"}}},
        "aggs": {"pods": {"terms": {"field": "kubernetes.pod.name", "size": 50}}},
    }
    until(lambda: answer(address, recent)["hits"]["total"]["value"] > 0)
    assert pods & {one["key"] for one in answer(address, recent)["aggregations"]["pods"]["buckets"]}
    japanese = {"query": {"match": {"message": "在庫引当"}}}
    assert answer(address, japanese)["hits"]["total"]["value"] > 0
