"""What the answers of Prometheus mean: since when, for whom, and what is too little to say anything."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pandas

from opslib.environments import Environment, Metrics
from opslib.facts import Answer, Questions, measured
from opslib.facts.sources import Sources
from opslib.findings import Subject

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
METRICS = Metrics(url="http://prometheus:9090")
ERRORS, SLOW = {"namespace": "shop", "service": "cart"}, {"namespace": "shop", "service": "web"}


def series(labels: dict[str, str], values: dict[float, float]) -> list[dict[str, Any]]:
    """One row a value, by how many minutes before now it was."""
    return [{**labels, "time": pandas.Timestamp(NOW - timedelta(minutes=minutes)), "value": value} for minutes, value in values.items()]


def answers(**frames: list[dict[str, Any]] | None) -> measured.Asked:
    names = ("errors", "codes", "slow", "usual", "requests", "yesterday", "throttled", "volume", "dns", "certificate", "calls")
    answered = {}
    for name in names:
        future: Future[Any] = Future()
        rows = frames.get(name, [])
        frame = None if rows is None else pandas.DataFrame(rows)
        if frame is not None:
            frame.attrs["step_seconds"] = 120.0
        future.set_result(frame)
        answered[name] = Answer(future)
    return measured.Asked(answered, dict.fromkeys(names, "query"), None, None)


def read(**frames: list[dict[str, Any]] | None) -> dict[str, Any]:
    return measured.read(answers(**frames), METRICS, "", NOW)


def test_trouble_began_where_it_goes_on_without_a_break() -> None:
    (item,) = read(errors=series(ERRORS, {0: 0.4, 2: 0.4, 4: 0.3, 6: 0.1, 90: 0.2}))["measured"]
    assert (item.kind, item.name, item.value) == ("errors", "cart", 0.4)
    assert item.since == NOW - timedelta(minutes=6)


def test_trouble_that_is_over_is_none() -> None:
    other = {"namespace": "shop", "service": "web"}
    items = read(errors=[*series(ERRORS, {40: 0.4, 42: 0.4}), *series(other, {0: 0.1})])["measured"]
    assert [item.name for item in items] == ["web"]


def test_what_was_so_all_the_time_has_no_known_beginning() -> None:
    (item,) = read(errors=series(ERRORS, dict.fromkeys(range(0, 361, 2), 0.4)))["measured"]
    assert item.since is None


def test_errors_of_its_own_are_told_from_those_passed_on() -> None:
    codes = [{**ERRORS, "code": "500", "value": 3.0, "time": NOW}, {**ERRORS, "code": "503", "value": 1.0, "time": NOW}]
    (item,) = read(errors=series(ERRORS, {0: 0.4}), codes=codes)["measured"]
    assert item.own == 0.75


def test_slow_is_against_yesterday_and_without_one_nothing_is_said() -> None:
    slow = series(SLOW, {0: 1.2, 2: 1.2, 4: 0.5})
    (item,) = read(slow=slow, usual=[{**SLOW, "value": 0.2, "time": NOW}])["measured"]
    assert (item.usual, item.since) == (0.2, NOW - timedelta(minutes=2))
    assert read(slow=slow, usual=[{**SLOW, "value": 0.9, "time": NOW}])["measured"] == ()
    assert read(slow=slow)["measured"] == ()


def test_a_certificate_tells_its_service_and_the_second() -> None:
    rows = [{"instance": "https://pay.payments.svc:8443/healthz", "value": -600.0, "time": NOW}]
    (item,) = read(certificate=rows)["measured"]
    assert (item.namespace, item.name, item.since) == ("payments", "pay", NOW - timedelta(minutes=10))


def test_one_failed_question_leaves_the_others_and_all_failed_is_not_known() -> None:
    (item,) = read(errors=None, codes=None, volume=series({"namespace": "data", "persistentvolumeclaim": "db-0"}, {0: 0.0}))["measured"]
    assert item.kind == "volume"
    names = ("errors", "codes", "slow", "usual", "requests", "yesterday", "throttled", "volume", "dns", "certificate", "calls")
    assert "measured" not in read(**dict.fromkeys(names))


def test_metrics_with_other_labels_say_nothing_of_nobody() -> None:
    assert read(errors=series({"job": "cart"}, {0: 0.4}))["measured"] == ()
    assert measured.traffic(answers(calls=[{"from": "a", "to": "b", "value": 1.0, "time": NOW}]), METRICS) == []


def test_the_image_that_an_owner_has_now_is_its_rollout() -> None:
    owner = Subject("Deployment", "pay", "shop")
    seen = [("shop", "pay", "pay:2", NOW), ("shop", "pay", "pay:1", NOW - timedelta(hours=1)), ("shop", "other", "x", NOW)]
    (change,) = measured.rollouts(seen, {("shop", "pay"): (owner, {"pay": "pay:2"})})
    assert (change.time, change.subject, change.rollout) == (NOW, owner, True)


def asked_with(*services: str) -> list[tuple[str, str]]:
    """What Prometheus is asked ("now" or "range", and the query) where its answer to all is these services."""
    asked: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _mark, form = self.path.partition("?")
            self.answer(path, form)

        def do_POST(self) -> None:
            self.answer(self.path, self.rfile.read(int(self.headers["content-length"])).decode())

        def answer(self, path: str, form: str) -> None:
            over_time = path.endswith("query_range")
            asked.append(("range" if over_time else "now", parse_qs(form)["query"][0]))
            value = [NOW.timestamp(), "0.4"]
            series = [{"metric": {"namespace": "shop", "service": name}, "value": value, "values": [value]} for name in services]
            data = {"resultType": "matrix" if over_time else "vector", "result": series}
            body = json.dumps({"status": "success", "data": data}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, ThreadPoolExecutor(12) as executor:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        metrics = Metrics(url=f"http://127.0.0.1:{server.server_address[1]}")
        frames = measured.ask(Sources(Environment(name="test", prometheus=metrics)), Questions(executor), "", NOW).frames
        assert all(answer.get() is not None for answer in (frames or {}).values())
        server.shutdown()
    return asked


def test_hours_are_not_asked_for_where_nothing_is_wrong_now() -> None:
    assert {kind for kind, _query in asked_with()} == {"now"}


def test_hours_are_asked_of_the_services_alone_that_are_in_trouble_now() -> None:
    ranges = [query for kind, query in asked_with("cart", "web") if kind == "range"]
    errors = next(query for query in ranges if "histogram" not in query and METRICS.requests_metric in query)
    assert errors.count('namespace=~"shop",service=~"cart|web"') == 3
