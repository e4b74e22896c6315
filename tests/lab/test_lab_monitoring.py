"""What the lab's Prometheus has: a week that was, and from then on what is scraped, as one."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from opslib.lab.engines.servers import SELF_SCRAPED
from opslib.lab.world import past
from tests.waiting import until

if TYPE_CHECKING:
    from tests.conftest import RealLab

# what chapter 3.1 asks, and other questions that look back over a window
QUESTIONS = (
    'sum by (instance, node) (rate(node_cpu_seconds_total{mode!~"idle|iowait|steal"}[1m]))',
    "sum by (instance, node) (node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes)",
    'max by (instance, node, mountpoint) (node_filesystem_avail_bytes{mountpoint="/"})',
    'max by (node) (kube_node_status_allocatable{resource="cpu"})',
    'max by (namespace, pod) (kube_pod_status_phase{phase=~"Pending|Running"} == 1)',
    'sum by (node) (kube_pod_container_resource_requests{resource="memory",node!=""})',
    "sum by (namespace, service) (rate(http_requests_total[1m]))",
    'sum by (namespace, service) (rate(http_requests_total{code=~"2.."}[1m]))',
    "histogram_quantile(0.95, sum by (namespace, le) (rate(http_request_duration_seconds_bucket[1m])))",
    "sum by (namespace, pod) (rate(container_cpu_usage_seconds_total[1m]))",
    "max by (namespace, pod, container) (container_memory_working_set_bytes)",
    'sum by (destination_workload) (rate(istio_requests_total{reporter="destination"}[1m]))',
    "sum by (namespace, persistentvolumeclaim) (kubelet_volume_stats_available_bytes)",
    "sum by (namespace, horizontalpodautoscaler) (kube_horizontalpodautoscaler_status_current_replicas)",
    'service:http_errors:ratio_rate1m{service!="settlement"}',
)


def answer(address: str, **parameters: object) -> Any:
    with urllib.request.urlopen(f"{address}?{urllib.parse.urlencode(parameters)}", timeout=60) as response:
        return json.load(response)


def query(lab: RealLab, promql: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
    moment = {} if at is None else {"time": at}
    found = answer(f"{lab.addresses['prometheus']}/api/v1/query", query=promql, **moment)
    return [(one["metric"], float(one["value"][1])) for one in found["data"]["result"]]


def query_range(lab: RealLab, promql: str, start: float, end: float, step: float) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
    found = answer(f"{lab.addresses['prometheus']}/api/v1/query_range", query=promql, start=start, end=end, step=step)
    return [(one["metric"], [(time_, float(value)) for time_, value in one["values"]]) for one in found["data"]["result"]]


def rules(lab: RealLab) -> dict[str, Any]:
    groups = answer(f"{lab.addresses['prometheus']}/api/v1/rules")["data"]["groups"]
    return {rule["name"]: rule for group in groups for rule in group["rules"]}


@pytest.fixture(scope="module")
def handed_over(any_lab: RealLab) -> float:
    """When the past of the lab ended, some scrapes ago."""
    handover: float = past.read(any_lab.folder / "data" / "past.json")[-1]["end"]
    until(lambda: time.time() > handover + 75, seconds=90)  # windows of a minute lie on both sides of it, and behind it
    return handover


def test_every_target_answers(any_lab: RealLab, handed_over: float) -> None:
    nodes = len(any_lab.api.list("/api/v1/nodes"))

    def targets() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = answer(f"{any_lab.addresses['prometheus']}/api/v1/targets")["data"]["activeTargets"]
        return found

    assert len(targets()) == len(SELF_SCRAPED) + 2 + 3 * nodes
    until(lambda: all(one["health"] == "up" for one in targets()))
    until(lambda: query(any_lab, "up == 0") == [])


def test_pods_are_those_of_the_cluster(any_lab: RealLab, handed_over: float) -> None:
    pods = {
        (pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in any_lab.api.list("/api/v1/pods", fields="status.phase=Running")
    }
    assert len(pods) > 80
    for name in ("kube_pod_info", "container_memory_working_set_bytes"):

        def found(at: float, name: str = name) -> set[tuple[str, str]]:
            return {(labels["namespace"], labels["pod"]) for labels, _value in query(any_lab, f"group by (namespace, pod) ({name})", at)}

        assert found(handed_over - 600) == pods, name
        until(lambda: found(time.time()) == pods)


@pytest.mark.parametrize("question", QUESTIONS)
def test_nothing_is_missing_or_doubled_where_the_past_ends(any_lab: RealLab, handed_over: float, question: str) -> None:
    start, end = int(handed_over) - 300, int(handed_over) + 60
    if any_lab.engine == "real" and ":" in question.partition("{")[0]:
        start = int(handed_over) + 30  # the real Prometheus records from its start on only
    found = query_range(any_lab, question, start, end, 15)
    assert found
    times = set(range(start, end + 1, 15))
    # a scrape that a busy machine has missed is a hole that is none of ours
    missed = {int(at) for _labels, values in query_range(any_lab, "min(up) == 0", start, end, 15) for at, _value in values}
    assert len(missed) < len(times) / 3  # the real Prometheus scrapes before there is anything to be scraped
    for labels, values in found:
        assert times - {int(at) for at, _value in values} <= missed, (labels, values)
        assert min(value for _time, value in values) >= 0
        before = [value for time_, value in values if time_ < handed_over] or [value for _time, value in values]
        # a minute's rate may wander, but makes no jump
        assert all(value <= 3 * max(before) + 0.5 for _time, value in values), labels


def test_no_counter_begins_anew_where_the_past_ends(any_lab: RealLab, handed_over: float) -> None:
    window = f"[{int(time.time() - handed_over + 120)}s]"
    for name in (
        "container_cpu_usage_seconds_total",
        "http_requests_total",
        "http_request_duration_seconds_bucket",
        "istio_requests_total",
        "kube_pod_container_status_restarts_total",
        "node_cpu_seconds_total",
        "process_cpu_seconds_total",
    ):
        assert query(any_lab, f"min(count_over_time({name}{window}))")[0][1] > 8, name
        assert [labels for labels, _value in query(any_lab, f"resets({name}{window}) > 0")] == [], name


def test_a_week_is_there(any_lab: RealLab, handed_over: float) -> None:
    end = time.time()
    [(_labels, values)] = query_range(any_lab, "sum(rate(http_requests_total[5m]))", end - 6.9 * 86400, end, 3600)
    assert len(values) == 166
    assert 2 < max(value for _time, value in values) / min(value for _time, value in values) < 20


def test_rules_are_as_their_files_say(any_lab: RealLab, handed_over: float) -> None:
    until(lambda: all(rule["health"] != "unknown" for rule in rules(any_lab).values()))
    found = rules(any_lab)
    assert [name for name, rule in found.items() if rule["health"] == "err"] == ["PodsOnBusyNode"]
    assert [name for name, rule in found.items() if rule["type"] == "alerting" and "runbook_url" not in rule["annotations"]] == [
        "NodeDiskLow"
    ]
    assert query(any_lab, "rabbitmq_queue_messages_ready") == []


def test_nothing_but_the_watchdog_fires_in_a_healthy_lab(any_lab: RealLab, handed_over: float) -> None:
    assert [name for name, rule in rules(any_lab).items() if rule.get("state") == "firing"] == ["Watchdog"]
    assert {labels["alertname"] for labels, _value in query(any_lab, 'ALERTS{alertstate="firing"}')} == {"Watchdog"}


def test_a_service_without_pods_answers_with_errors_and_its_alert_arrives(any_lab: RealLab, handed_over: float) -> None:
    path = "/apis/apps/v1/namespaces/shop/deployments/cart"
    any_lab.api.patch(path, {"spec": {"replicas": 0}})
    try:

        def alerts() -> list[Any]:
            found = answer(f"{any_lab.addresses['alertmanager']}/api/v2/alerts")
            return [one for one in found if one["labels"]["alertname"] == "HighErrorRate" and one["labels"]["service"] == "cart"]

        until(alerts, seconds=90)
        assert query(any_lab, 'rate(http_requests_total{service="cart", code="503", pod=""}[30s]) > 0')
        assert query(any_lab, 'rate(http_requests_total{service="checkout", code="503"}[30s]) > 0')  # it cannot do without
    finally:
        any_lab.api.patch(path, {"spec": {"replicas": 2}})
    until(lambda: any_lab.api.get(path)["status"].get("readyReplicas") == 2)
    until(lambda: not query(any_lab, 'rate(http_requests_total{service="cart", code="503", pod=""}[15s]) > 0'))
    until(lambda: len(query(any_lab, 'rate(http_requests_total{service="cart", code="200", method="GET"}[15s]) > 0')) == 2)


def test_containers_that_are_not_the_platform_s_have_numbers_too(any_lab: RealLab, handed_over: float) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger", "namespace": "shop"},
        "spec": {"containers": [{"name": "main", "image": "registry.example.com/stranger:1", "resources": {"requests": {"cpu": "100m"}}}]},
    }
    any_lab.api.apply(pod)
    try:
        until(lambda: query(any_lab, 'rate(container_cpu_usage_seconds_total{pod="stranger"}[15s]) > 0.03'))
        assert query(any_lab, 'kube_pod_container_resource_requests{pod="stranger", resource="cpu"}')[0][1] == 0.1
    finally:
        any_lab.api.delete("/api/v1/namespaces/shop/pods/stranger")
    until(lambda: not query(any_lab, 'container_cpu_usage_seconds_total{pod="stranger"}'))


def test_what_prometheus_runs_with_is_what_it_says(any_lab: RealLab) -> None:
    shown = yaml.safe_load(answer(f"{any_lab.addresses['prometheus']}/api/v1/status/config")["data"]["yaml"])
    assert {job["job_name"] for job in shown["scrape_configs"]} >= {"kube-state-metrics", "kubelet", "node-exporter", "pods", "platform"}
