"""Chapter 3.1 against the real Prometheus, Alertmanager, OpenSearch and API server: every query and search is answered, and truly."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import urllib3
import yaml

from opslib.chapters import monitoring
from opslib.diagnosis.monitoring.facts import Facts, Parameters
from opslib.diagnosis.monitoring.templates import template
from opslib.environments import Environment, Metrics
from opslib.facts import Questions
from opslib.facts import monitoring as reader
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity
from opslib.sources.prometheus import Prometheus, any_of, matcher, selector, string
from opslib.sources.transport import http

HTTP = urllib3.PoolManager()
DEADLINE_SECONDS = 60


def environment(lab: Any, **changes: dict[str, Any]) -> Environment:
    """The lab's environment. Systems whose deadline is not what the test is about may take their time, as on a busy machine."""
    overlay = yaml.safe_load(lab.environment.read_text())
    for system in ("kubernetes", "prometheus", "alertmanager", "elasticsearch"):
        overlay[system] = overlay.get(system, {}) | {"deadline_seconds": 60} | changes.get(system, {})
    return Environment.model_validate({"name": "lab", "language": "en", **overlay})


def read(where: Environment, parameters: Parameters | None = None) -> tuple[Facts, list[Finding]]:
    parameters = parameters or Parameters()
    with ThreadPoolExecutor(16) as executor:
        facts = reader.read(Sources(where), parameters, Questions(executor))
    return facts, monitoring.findings(facts, parameters)


def until(found: Callable[[], Any]) -> Any:
    """What `found` gives, as soon as it gives something."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (result := found()):
        assert time.monotonic() < deadline, "it did not come about in time"
        threading.Event().wait(0.5)
    return result


def send(method: str, url: str, content: Any = None, kind: str = "application/json") -> Any:
    body = content if isinstance(content, bytes) else None if content is None else json.dumps(content).encode()
    answer = HTTP.request(method, url, body=body, headers={"content-type": kind})
    assert answer.status < 300, answer.data
    return json.loads(answer.data) if answer.data else None


# --- all systems answer ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything(any_lab: Any) -> tuple[Facts, list[Finding]]:
    """The lab with its background platform, once everything has been scraped, and the first logs are there."""

    def complete() -> tuple[Facts, list[Finding]] | None:
        facts, findings = read(environment(any_lab))
        there = facts.services and facts.nodes and all(node.cpu_used for node in facts.nodes) and not facts.gaps
        return (facts, findings) if there else None

    found: tuple[Facts, list[Finding]] = until(complete)
    return found


def test_every_question_is_answered(everything: tuple[Facts, list[Finding]]) -> None:
    facts, findings = everything
    assert facts.gaps == (), [str(gap.title) for gap in facts.gaps]
    unread = [name for name in Facts.__dataclass_fields__ if getattr(facts, name) is None]
    assert unread == []
    assert all(finding.severity is not Severity.UNKNOWN for finding in findings)


def test_nodes_and_services_have_their_numbers(everything: tuple[Facts, list[Finding]]) -> None:
    facts, _findings = everything
    for node in facts.nodes or []:
        assert node.cpu_allocatable and node.memory_allocatable and node.filesystems
        assert 0 < (node.memory_used or 0) < node.memory_allocatable
        assert 0 < (node.cpu_requested or 0) < node.cpu_allocatable
    for service in facts.services or []:
        assert (service.now.requests or 0) > 0
        assert 0 <= (service.now.error_ratio or 0) <= 1
        assert (service.now.latency or 0) > 0


def test_rules_that_cannot_work_are_found(any_lab: Any) -> None:
    def evaluated() -> list[Finding] | None:
        """Once Prometheus has come to the rule that fails, with the samples at which it does."""
        _facts, findings = read(environment(any_lab))
        return findings if any(finding.check == "rules.failing" for finding in findings) else None

    findings: list[Finding] = until(evaluated)
    subjects = {finding.check: finding.subject.name for finding in findings}
    assert subjects["rules.failing"] == "neglected/PodsOnBusyNode"
    assert "neglected/QueueBacklog" in [finding.subject.name for finding in findings if finding.check == "rules.no_metric"]
    assert "rules.no_runbook" in subjects
    assert "delivery.default_receiver" in subjects


def test_the_operator_s_objects_are_compared_with_what_is_loaded(any_lab: Any) -> None:
    item = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "never-selected", "namespace": "monitoring"},
        "spec": {"groups": [{"name": "never-selected", "rules": [{"alert": "NeverSelected", "expr": "up == 0"}]}]},
    }
    any_lab.api.apply(item)
    _facts, findings = read(environment(any_lab))
    (finding,) = [finding for finding in findings if finding.check == "rules.not_loaded"]
    assert (finding.subject.namespace, finding.subject.name) == ("monitoring", "never-selected")
    for step in finding.steps:
        words = step.command.split(" ", 1)
        assert words[0] == "kubectl"
    shown = any_lab.kubectl("-n", "monitoring", "get", "prometheusrules", "never-selected", "--show-labels")
    assert "never-selected" in shown


def test_silences_and_alerts_of_the_real_alertmanager(any_lab: Any) -> None:
    base = any_lab.addresses["alertmanager"]
    now = datetime.now(UTC)
    labels = {"alertname": "TestOfSilences", "severity": "critical", "pod": "p", "namespace": "shop"}
    send("POST", f"{base}/api/v2/alerts", [{"labels": labels, "annotations": {"summary": "<b>bad</b>"}, "startsAt": now.isoformat()}])

    def silence(ends: timedelta, name: str, value: str, regex: bool = False) -> str:
        matchers = [{"name": name, "value": value, "isRegex": regex, "isEqual": True}]
        content = {
            "matchers": matchers,
            "startsAt": now.isoformat(),
            "endsAt": (now + ends).isoformat(),
            "createdBy": "ops",
            "comment": "test",
        }
        identity: str = send("POST", f"{base}/api/v2/silences", content)["silenceID"]
        return identity

    def seen(check: str) -> list[Finding]:
        return [
            finding
            for finding in read(environment(any_lab))[1]
            if finding.check == check and finding.subject.name in (*silences, "TestOfSilences")
        ]

    silences: list[str] = []
    (finding,) = until(lambda: seen("alerts.firing"))
    assert finding.severity is Severity.CRITICAL
    assert finding.evidence[0].quote == "<b>bad</b>"
    try:
        silences.append(silence(timedelta(hours=2), "alertname", "TestOfSilences"))
        (ending,) = until(lambda: seen("silences.ending"))
        assert ending.affected[0].name == "TestOfSilences"
        assert [finding.severity for finding in seen("alerts.silenced")] == [Severity.INFO]
        silences.append(silence(timedelta(days=4000), "alertname", "Nothing"))
        silences.append(silence(timedelta(hours=1), "alertname", ".+", regex=True))
        assert [finding.subject.name for finding in until(lambda: seen("silences.endless"))] == [silences[1]]
        assert [finding.subject.name for finding in seen("silences.everything")] == [silences[2]]
    finally:
        for identity in silences:
            send("DELETE", f"{base}/api/v2/silence/{identity}")


# --- Prometheus' language -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prometheus(any_lab: Any) -> Prometheus:
    settings = Metrics(url=any_lab.addresses["prometheus"])
    return Prometheus(http("prometheus", settings), settings)


@pytest.mark.parametrize(
    "value",
    ['"} or up{a="', "a\nb", "\\", '\\\\"', "日本語", "\x00", "\x1b[31m", "a|b", ".*", "(", "[", "{}", "\u202e", "$^", "\U0001f600", "`"],
)
def test_hostile_values_select_nothing_but_themselves(prometheus: Prometheus, value: str) -> None:
    assert prometheus.query(selector("up", matcher("job", value))).empty
    assert prometheus.query(selector("up", any_of("job", [value, "also not"]))).empty
    assert prometheus.query(selector("up", any_of("job", [value, "prometheus"])))["job"].unique().tolist() == ["prometheus"]
    found = prometheus.query(f'label_replace(vector(1), "a", {string(value.replace("$", "$$"))}, "", "")')
    assert found["a"].tolist() == [value]
    (parsed,) = prometheus.selectors(selector("up", matcher("job", value)))
    assert [item.value for item in parsed] == ["up", value]


def test_prometheus_takes_expressions_apart(prometheus: Prometheus) -> None:
    expression = 'sum by (x) (rate(a_total{b!="c",d=~"e"}[5m] offset 1h)) / on () absent(f) > max_over_time(g[1h:1m]) or h @ 5'
    found = prometheus.selectors(expression)
    assert [matchers[0].value for matchers in found] == ["a_total", "g", "h"]
    assert [(item.name, item.type, item.value) for item in found[0][1:]] == [("b", "!=", "c"), ("d", "=~", "e")]


# --- logs -----------------------------------------------------------------------------------------------------------------------------

KINDS = [
    "order {n} of user u{n} failed: payment declined",
    "注文{n}の処理に失敗しました: 在庫がありません",
    "connection to db-{n}.internal:5432 refused (attempt {n})",
    "user 'name {n}' not found in \"group {n}\"",
]
NEW = "java.lang.OutOfMemoryError: Java heap space in worker {n}\n\tat x.y.Z(Z.java:{n})"


@pytest.fixture(scope="module", params=["text", "keyword"])
def logs(request: pytest.FixtureRequest, any_lab: Any, everything: Any) -> Iterator[Environment]:
    """Thirty errors a service in this hour of six days; today more, of a kind that is new. The message's field is analysed, or not."""
    base, index = any_lab.addresses["elasticsearch"], f"monitored-{request.param}"
    properties = {
        "@timestamp": {"type": "date"},
        "message": {"type": request.param},
        "log": {"properties": {"level": {"type": "keyword"}}},
        "service": {"properties": {"name": {"type": "keyword"}}},
    }
    send("PUT", f"{base}/{index}", {"settings": {"number_of_replicas": 0}, "mappings": {"properties": properties}})
    now = datetime.now(UTC)
    lines = []

    def add(service: str, moment: datetime, message: str, level: str = "ERROR") -> None:
        lines.append({"index": {"_index": index}})
        lines.append({"@timestamp": moment.isoformat(), "message": message, "log": {"level": level}, "service": {"name": service}})

    for day in range(6):
        for service in ("cart", "orders"):
            for number in range(30):
                add(service, now - timedelta(days=day, minutes=number * 2), KINDS[number % 4].format(n=number + 31 * day))
                add(service, now - timedelta(days=day, minutes=number * 2), "all is well", "info")
    for number in range(90):
        add("orders", now - timedelta(seconds=5 * number), NEW.format(n=number))
    add("cart", now - timedelta(seconds=3), "token=abcdef123456 was refused by the gateway")
    body = "\n".join(json.dumps(line) for line in lines) + "\n"
    assert send("POST", f"{base}/_bulk?refresh=true", body.encode(), "application/x-ndjson")["errors"] is False
    yield environment(any_lab, elasticsearch={"index": index})
    send("DELETE", f"{base}/{index}")


def test_errors_are_compared_with_the_same_hours_of_the_days_that_have_logs(logs: Environment) -> None:
    facts, findings = read(logs)
    assert facts.logs is not None
    by_service = {count.service: count for count in facts.logs.errors}
    assert 118 <= by_service["orders"].now <= 120
    assert by_service["orders"].earlier[5:] == (None, None)
    assert all(29 <= (count or 0) <= 30 for count in by_service["orders"].earlier[:5])
    assert [finding.subject.name for finding in findings if finding.check == "logs.more_errors"] == ["orders"]
    assert [finding.subject.name for finding in findings if finding.check == "logs.spike"] == ["orders"]


def test_only_the_kind_that_was_never_seen_is_new(logs: Environment) -> None:
    facts, findings = read(logs)
    assert facts.logs is not None
    kinds = {found.text: found for found in facts.logs.templates or ()}
    for kind in KINDS:
        found = kinds[template(kind.format(n=7))]
        assert set(found.services) == {"cart", "orders"}
        assert found.now + (found.earlier or 0) == 2 * 6 * len(range(KINDS.index(kind), 30, 4))
        assert 0 < sum(found.same_hours) <= (found.earlier or 0)
    new = kinds[template(NEW.format(n=7))]
    assert (new.now, new.earlier, new.services) == (90, 0, {"orders": 90})
    assert sum(new.same_hours) == 0
    rates = facts.logs.templates_over_time
    assert rates is not None
    assert rates[rates["template"] == new.text]["count"].sum() == 90
    assert facts.logs.uncovered == 0
    found_new = {finding.subject.name: finding for finding in findings if finding.check == "logs.new"}
    assert found_new[new.text].severity is Severity.WARNING
    assert all("abcdef123456" not in item.quote for finding in findings for item in finding.evidence)


def test_fields_that_are_not_there_are_gaps_that_name_the_parameter(logs: Environment, any_lab: Any) -> None:
    assert logs.elasticsearch is not None
    where = environment(any_lab, elasticsearch={"index": logs.elasticsearch.index, "level_field": "severity"})
    facts, _findings = read(where)
    assert facts.logs is None
    (gap,) = facts.gaps
    assert gap.subject.name == "severity"
    assert "elasticsearch.level_field" in str(gap.steps[0].text)
    facts, _findings = read(environment(any_lab, elasticsearch={"index": "no-such-index-*"}))
    (gap,) = facts.gaps
    assert "elasticsearch.index" in str(gap.steps[0].text)


# --- some systems do not --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken() -> Iterator[str]:
    """A server that answers everything with 503, or, under /slow, never."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/slow"):
                stop.wait()
                return
            self.send_response(503)
            self.send_header("content-length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that gave up is what this server is for."""

    server: socketserver.BaseServer = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("system", ["prometheus", "alertmanager", "elasticsearch"])
@pytest.mark.parametrize("path", ["", "/slow"])
def test_one_system_that_fails_is_one_gap_and_the_rest_is_there(everything: Any, any_lab: Any, broken: str, system: str, path: str) -> None:
    began = time.monotonic()
    facts, findings = read(environment(any_lab, **{system: {"url": broken + path, "deadline_seconds": 1}}))
    assert [gap.check for gap in facts.gaps] == [f"gap.{system}"]
    assert facts.gaps[0] in findings
    here = {"prometheus": facts.groups, "alertmanager": facts.notified, "elasticsearch": facts.logs, "kubernetes": facts.prometheus_rules}
    assert [name for name, answer in here.items() if answer is None] == [system]
    assert time.monotonic() - began < 60


def test_everything_down_is_four_gaps_and_nothing_else(any_lab: Any) -> None:
    closed = {"url": "http://127.0.0.1:9", "deadline_seconds": 1}
    where = environment(any_lab, prometheus=closed, alertmanager=closed, elasticsearch=closed)
    cluster = where.kubernetes.model_copy(update={"context": "refused", "expected_server": None, "kubeconfig": _nowhere(any_lab)})
    _facts, findings = read(where.model_copy(update={"kubernetes": cluster}))
    assert sorted(finding.check for finding in findings) == ["gap.alertmanager", "gap.elasticsearch", "gap.kubernetes", "gap.prometheus"]


def _nowhere(any_lab: Any) -> Any:
    path = any_lab.folder / "nowhere.kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "refused", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "refused",
    }
    path.write_text(yaml.safe_dump(content))
    return path
