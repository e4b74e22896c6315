"""Rules, alerts and templates: one body on the embedded Prometheus and on the real one."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
import yaml
from prometheus_servers import Client, History, real, serving
from test_prometheus_promql import filled

from opslib.lab.prometheus import Engine, Rules, app, rules

ANNOTATIONS = {
    "plain": "nothing to expand",
    "label": "{{ $labels.instance }} of {{ .Labels.job }} has {{ $value }}",
    "missing": "[{{ $labels.nothing }}]",
    "trimmed": "a   {{- $value -}}   b",
    "printf": '{{ printf "%.2f|%5.1f|%s|%v|%d|%g" $value $value $labels.job $value 7 $value }}',
    "piped": '{{ $value | printf "%.3f" }}',
    "humanize": "{{ humanize $value }} {{ $value | humanize1024 }} {{ humanizePercentage 0.12345 }} {{ $value | humanizePercentage }}",
    "small": "{{ humanize 0.00123 }} {{ humanize 0.0 }} {{ humanize 1e9 }} {{ humanize1024 5e9 }} {{ humanizeDuration 0.012 }}",
    "durations": "{{ humanizeDuration 59.7 }} {{ humanizeDuration 61.0 }} {{ humanizeDuration 7261.0 }} {{ humanizeDuration 200000.0 }} "
    "{{ humanizeDuration -75.0 }} {{ humanizeDuration 1.5 }}",
    "timestamp": "{{ humanizeTimestamp 1435065584.128 }} {{ humanizeTimestamp 1435065584.0 }}",
    "condition": '{{ if gt $value 100.0 }}large{{ else if eq $labels.job "app" }}app{{ else }}small{{ end }}',
    "logic": '{{ if and (eq $labels.job "app") (not (lt $value 1.0)) }}both{{ end }}{{ if or false $labels.nothing }}x{{ end }}',
    "query": '{{ range query "sort(rules_gauge)" }}{{ .Labels.instance }}={{ .Value }};{{ end }}',
    "first": "{{ with query \"rules_gauge{instance='a'}\" }}{{ . | first | value | humanize }}{{ end }}",
    "nobody": '{{ with query "nothing" }}some{{ else }}none{{ end }}',
    "sorted": '{{ range query "rules_gauge" | sortByLabel "instance" }}{{ . | label "instance" }} {{ end }}',
    "variable": "{{ $x := 5 }}{{ $x }}{{ $y := $labels.job }}{{ $y }}",
    "texts": '{{ toUpper $labels.job }} {{ title "hello wide world" }} '
    '{{ reReplaceAll "(a)(p+)" "$2-$1" $labels.job }} {{ match "^a.*" "abc" }}',
    "port": '{{ stripPort "host:80" }} {{ stripPort "host" }} {{ stripPort "[::1]:80" }}',
    "numbers": "{{ 1e21 }} {{ 1e-7 }} {{ 123456789.0 }} {{ 0.5 }} {{ 42 }} {{ len $labels.job }}",
    "map": "{{ range $k, $v := $labels }}{{ $k }}:{{ $v }},{{ end }}",
    "comment": "a{{/* nothing */}}b",
    "parse": '{{ parseDuration "1h2m" }}',
    "escape": '{{ urlQueryEscape "a b&c/d" }}',
    "index": '{{ index $labels "job" }}',
}

GROUPS = {
    "groups": [
        {
            "name": "recorded",
            "interval": "1s",
            "rules": [
                {"record": "job:gauge:sum", "expr": "sum by (job) (rules_gauge)", "labels": {"team": "shop"}},
                {"record": "chained", "expr": "job:gauge:sum * 2"},
                {"record": "clash", "expr": 'label_replace(rules_gauge, "instance", "", "job", ".*")'},
                {"record": "fails", "expr": "rules_gauge + on (job) rules_gauge"},
                {"record": "always", "expr": "42"},
            ],
        },
        {
            "name": "alerts",
            "interval": "1s",
            "rules": [
                {
                    "alert": "Firing",
                    "expr": "rules_gauge > 5",
                    "labels": {"severity": "critical", "team": "{{ $labels.job }}-team"},
                    "annotations": ANNOTATIONS,
                },
                {"alert": "Pending", "expr": "rules_gauge > 5", "for": "1h", "annotations": {"summary": "{{ $value }}"}},
                {"alert": "Inactive", "expr": "rules_gauge > 1e9", "keep_firing_for": "5m"},
                {"alert": "Broken", "expr": "rules_gauge", "annotations": {"summary": '{{ query "nothing" | first | value }}'}},
                {"alert": "NaN", "expr": "rules_nan", "annotations": {"summary": "{{ $value }} {{ humanize $value }}"}},
            ],
        },
    ]
}


@dataclass
class Receiver:
    """What was handed over, as an Alertmanager gets it."""

    url: str = ""
    alerts: list[dict[str, Any]] = field(default_factory=list)

    def post(self, alerts: Any) -> None:
        self.alerts += alerts


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    result = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            result.post(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    result.url = f"127.0.0.1:{server.server_address[1]}"
    yield result
    server.shutdown()
    server.server_close()


def recent() -> History:
    """From five minutes ago to five minutes from now."""
    history = History()
    now = int(time.time())
    times = np.arange(now - 300, now + 300, 5) * 1000
    for instance, value in (("a", 1234.5678), ("b", 7.0), ("c", 3.0)):
        labels = {"__name__": "rules_gauge", "job": "app", "instance": instance}
        history.add(labels, times, np.full(len(times), value))
    history.add({"__name__": "rules_nan", "job": "app"}, times, np.full(len(times), math.nan))
    return history


@dataclass(frozen=True)
class Ruled:
    client: Client
    receiver: Receiver
    external: str


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def ruled(
    request: pytest.FixtureRequest, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory, need_servers: Callable[..., None]
) -> Iterator[Ruled]:
    """A Prometheus that has evaluated the rules several times."""
    receiver.alerts.clear()
    history = recent()
    folder = tmp_path_factory.mktemp("rules")
    external = "http://prometheus.example:9090"
    if request.param == "real":
        need_servers("prometheus")
        (folder / "rules.yaml").write_text(yaml.safe_dump(GROUPS))
        config = {
            "global": {"evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yaml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [receiver.url]}]}]},
        }
        with real(folder, history, f"--web.external-url={external}", "--web.route-prefix=/", config=yaml.safe_dump(config)) as client:
            yield from _settled(client, receiver, external)
        return
    engine = Engine(filled(history))
    known = Rules(engine, external_url=external)
    known.load(GROUPS, "rules.yaml")
    stop = threading.Event()
    thread = threading.Thread(target=rules.run, args=(known, time.time, [receiver.post], stop))
    thread.start()
    try:
        with serving(app(engine, known)) as base:
            yield from _settled(Client(base), receiver, external)
    finally:
        stop.set()
        thread.join(5)


def _settled(client: Client, receiver: Receiver, external: str) -> Iterator[Ruled]:
    deadline = time.monotonic() + 20
    wanted = "count(ALERTS) == 8 and on() chained"
    while not (client.query(wanted, time.time())[1]["data"]["result"] and receiver.alerts):
        assert time.monotonic() < deadline, client.ask("/api/v1/rules")
        time.sleep(0.1)
    yield Ruled(client, receiver, external)


def rules_of(ruled: Ruled) -> dict[str, dict[str, Any]]:
    status, answer = ruled.client.ask("/api/v1/rules")
    assert status == 200
    return {rule["name"]: rule for group in answer["data"]["groups"] for rule in group["rules"]}


def test_groups_have_interval_and_times(ruled: Ruled) -> None:
    groups = ruled.client.ask("/api/v1/rules")[1]["data"]["groups"]
    assert [group["name"] for group in groups] == ["alerts", "recorded"]
    for group in groups:
        assert group["interval"] == 1
        assert group["limit"] == 0
        assert 0 < group["evaluationTime"] < 10
        assert group["lastEvaluation"] > "2020"


def test_rules_say_how_they_are(ruled: Ruled) -> None:
    known = rules_of(ruled)
    assert {name: rule["health"] for name, rule in known.items()} == {
        **dict.fromkeys(["job:gauge:sum", "chained", "always", "Firing", "Pending", "Inactive", "Broken", "NaN"], "ok"),
        "clash": "err",
        "fails": "err",
    }
    assert known["fails"]["lastError"].startswith('found duplicate series for the match group {job="app"} on the right hand-side')
    assert known["clash"]["lastError"] == "vector cannot contain metrics with the same labelset"
    assert {name: rule.get("state") for name, rule in known.items() if rule["type"] == "alerting"} == {
        "Firing": "firing",
        "Pending": "pending",
        "Inactive": "inactive",
        "Broken": "firing",
        "NaN": "firing",
    }
    assert known["Pending"]["duration"] == 3600
    assert known["Inactive"]["keepFiringFor"] == 300
    assert known["job:gauge:sum"]["query"] == "sum by (job) (rules_gauge)"
    assert known["clash"]["query"] == 'label_replace(rules_gauge, "instance", "", "job", ".*")'


def test_recorded_series_have_the_rules_labels(ruled: Ruled) -> None:
    result = ruled.client.query("chained", time.time())[1]["data"]["result"]
    assert [item["metric"] for item in result] == [{"__name__": "chained", "job": "app", "team": "shop"}]
    assert float(result[0]["value"][1]) == pytest.approx(2 * 1244.5678)


def test_alerts_are_series_too(ruled: Ruled) -> None:
    result = ruled.client.query('ALERTS{alertname="Firing"}', time.time())[1]["data"]["result"]
    common = {"__name__": "ALERTS", "alertname": "Firing", "alertstate": "firing", "job": "app", "severity": "critical", "team": "app-team"}
    assert sorted(item["metric"]["instance"] for item in result) == ["a", "b"]
    assert all({**common, "instance": item["metric"]["instance"]} == item["metric"] and item["value"][1] == "1" for item in result)
    since = ruled.client.query('ALERTS_FOR_STATE{alertname="Pending",instance="a"}', time.time())[1]["data"]["result"]
    assert time.time() - 60 < float(since[0]["value"][1]) <= time.time()


def test_alerts_endpoint_has_pending_and_firing(ruled: Ruled) -> None:
    alerts = ruled.client.ask("/api/v1/alerts")[1]["data"]["alerts"]
    states = sorted((alert["labels"]["alertname"], alert["state"], alert["value"]) for alert in alerts)
    assert states == [
        ("Broken", "firing", "1.2345678e+03"),
        ("Broken", "firing", "3e+00"),
        ("Broken", "firing", "7e+00"),
        ("Firing", "firing", "1.2345678e+03"),
        ("Firing", "firing", "7e+00"),
        ("NaN", "firing", "NaN"),
        ("Pending", "pending", "1.2345678e+03"),
        ("Pending", "pending", "7e+00"),
    ]


EXPANDED = {
    "plain": "nothing to expand",
    "label": "a of app has 1234.5678",
    "missing": "[]",
    "trimmed": "a1234.5678b",
    "printf": "1234.57|1234.6|app|1234.5678|7|1234.5678",
    "piped": "1234.568",
    "humanize": "1.235k 1.206ki 12.35% 1.235e+05%",
    "small": "1.23m 0 1G 4.657Gi 12ms",
    "durations": "59.7s 1m 1s 2h 1m 1s 2d 7h 33m 20s -1m 15s 1.5s",
    "timestamp": "2015-06-23 13:19:44.128 +0000 UTC 2015-06-23 13:19:44 +0000 UTC",
    "condition": "large",
    "logic": "both",
    "query": "c=3;b=7;a=1234.5678;",
    "first": "1.235k",
    "nobody": "none",
    "sorted": "a b c ",
    "variable": "5app",
    "texts": "APP Hello Wide World pp-a true",
    "port": "host host ::1",
    "numbers": "1e+21 1e-07 1.23456789e+08 0.5 42 3",
    "map": "__name__:rules_gauge,instance:a,job:app,",
    "comment": "ab",
    "parse": "3720",
    "escape": "a+b%26c%2Fd",
    "index": "app",
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_template(ruled: Ruled, name: str) -> None:
    alert = next(item for item in rules_of(ruled)["Firing"]["alerts"] if item["labels"]["instance"] == "a")
    assert alert["annotations"][name] == EXPANDED[name]


def test_a_broken_template_says_so_and_the_alert_fires(ruled: Ruled) -> None:
    for alert in rules_of(ruled)["Broken"]["alerts"]:
        assert alert["annotations"]["summary"].startswith("<error expanding template: ")


def test_firing_alerts_are_handed_over(ruled: Ruled) -> None:
    got = {(alert["labels"]["alertname"], alert["labels"].get("instance")): alert for alert in ruled.receiver.alerts}
    assert set(got) == {("Firing", "a"), ("Firing", "b"), ("Broken", "a"), ("Broken", "b"), ("Broken", "c"), ("NaN", None)}
    alert = got["Firing", "a"]
    assert alert["labels"] == {"alertname": "Firing", "instance": "a", "job": "app", "severity": "critical", "team": "app-team"}
    assert alert["annotations"]["label"] == "a of app has 1234.5678"
    assert alert["generatorURL"] == f"{ruled.external}/graph?g0.expr=rules_gauge+%3E+5&g0.tab=1"
    assert alert["startsAt"] < alert["endsAt"]


def test_rules_can_be_chosen(ruled: Ruled) -> None:
    def names(**form: str) -> list[str]:
        groups = ruled.client.ask("/api/v1/rules", {key.replace("__", "[]"): value for key, value in form.items()})[1]["data"]["groups"]
        return [rule["name"] for group in groups for rule in group["rules"]]

    assert names(type="record") == ["job:gauge:sum", "chained", "clash", "fails", "always"]
    assert names(type="alert", rule_name__="NaN") == ["NaN"]
    assert names(rule_group__="recorded", type="alert") == []
    assert ruled.client.ask("/api/v1/rules", {"type": "x"}) == (
        400,
        {"status": "error", "errorType": "bad_data", "error": 'invalid parameter "type": not supported value "x"'},
    )
