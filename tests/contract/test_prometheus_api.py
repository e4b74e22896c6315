"""The HTTP API of the embedded Prometheus against the real one's: same samples, same requests, same answers."""

from __future__ import annotations

from typing import Any

import prometheus_history as samples
import pytest
from prometheus_servers import Client, serving
from test_prometheus_promql import LATE, QUERIES, REFUSED, both, filled  # noqa: F401 - a fixture

from opslib.lab.prometheus import Engine, app

T = str(LATE)
EARLY = {"start": str(samples.BASE), "end": str(samples.BASE + 60)}

REQUESTS: list[tuple[str, list[tuple[str, str]]]] = [
    ("/api/v1/series", [("match[]", "up")]),
    ("/api/v1/series", [("match[]", 'http_requests_total{code="200"}'), ("match[]", '{__name__=~"node_.*"}')]),
    ("/api/v1/series", [("match[]", "up"), ("match[]", "up")]),
    ("/api/v1/series", [("match[]", 'http_requests_total{pod=~".*-2"}'), *EARLY.items()]),
    ("/api/v1/series", [("match[]", "nothing")]),
    ("/api/v1/series", []),
    ("/api/v1/series", [("match[]", "up"), ("limit", "-1")]),
    ("/api/v1/series", [("match[]", "up"), ("limit", "x")]),
    ("/api/v1/series", [("match[]", "up"), ("start", "x")]),
    ("/api/v1/labels", []),
    ("/api/v1/labels", [("match[]", "up")]),
    ("/api/v1/labels", [("match[]", "up"), ("match[]", "node_load1")]),
    ("/api/v1/labels", [("limit", "3")]),
    ("/api/v1/label/service/values", []),
    ("/api/v1/label/service/values", [("match[]", 'http_requests_total{code="200",pod=~".*-1"}')]),
    ("/api/v1/label/__name__/values", [("match[]", '{job="node"}')]),
    ("/api/v1/label/nothing/values", []),
    ("/api/v1/label/a label/values", []),
    ("/api/v1/label/pod/values", [("limit", "2")]),
    ("/api/v1/metadata", []),
    ("/api/v1/metadata", [("limit", "x")]),
    ("/api/v1/rules", []),
    ("/api/v1/alerts", []),
    ("/api/v1/alertmanagers", []),
    ("/api/v1/scrape_pools", []),
    ("/api/v1/query_exemplars", [("query", "up"), ("start", T), ("end", T)]),
    ("/api/v1/query", [("query", "up"), ("time", "yesterday")]),
    ("/api/v1/query", [("query", "up"), ("time", "2023-11-15T01:00:00Z")]),
    ("/api/v1/query", [("query", "up"), ("time", "2023-11-15T01:00:00.5+01:00")]),
    ("/api/v1/query", [("query", "up"), ("time", "1700003600.1234")]),
    ("/api/v1/query", [("query", ""), ("time", T)]),
    ("/api/v1/query", [("time", T)]),
    ("/api/v1/query", [("query", "up"), ("time", T), ("limit", "x")]),
    ("/api/v1/query", [("query", "odd"), ("time", str(LATE + 400)), ("lookback_delta", "10m")]),
    ("/api/v1/query", [("query", "odd"), ("time", str(LATE)), ("lookback_delta", "x")]),
    ("/api/v1/query_range", [("query", "up"), ("start", T), ("end", T)]),
    ("/api/v1/query_range", [("query", "up"), ("start", T), ("end", T), ("step", "0")]),
    ("/api/v1/query_range", [("query", "up"), ("start", T), ("end", T), ("step", "-1")]),
    ("/api/v1/query_range", [("query", "up"), ("start", T), ("end", T), ("step", "x")]),
    ("/api/v1/query_range", [("query", "up"), ("start", T), ("end", str(LATE - 1)), ("step", "1")]),
    ("/api/v1/query_range", [("query", "up"), ("start", "x"), ("end", T), ("step", "1")]),
    ("/api/v1/query_range", [("query", "up"), ("end", T), ("step", "1")]),
    ("/api/v1/query_range", [("query", "up"), ("start", "0"), ("end", T), ("step", "1")]),
    ("/api/v1/query_range", [("query", "up"), ("start", str(LATE - 11001)), ("end", T), ("step", "1")]),
    ("/api/v1/query_range", [("query", "vector(1)"), ("start", str(LATE - 11000)), ("end", T), ("step", "1")]),
    ("/api/v1/query_range", [("query", "up[5m]"), ("start", T), ("end", T), ("step", "1m")]),
    ("/api/v1/query_range", [("query", '"x"'), ("start", T), ("end", T), ("step", "1m")]),
    ("/api/v1/query_range", [("query", "odd"), ("start", str(LATE - 600)), ("end", T), ("step", "1m30s")]),
    ("/api/v1/query_range", [("query", "odd"), ("start", str(LATE - 600)), ("end", T), ("step", "0.5")]),
    ("/api/v1/nothing", []),
    ("/-/healthy", []),
    ("/-/ready", []),
]


def ordered(answer: Any) -> Any:
    """Series in the order of their labels: Prometheus promises none."""
    if isinstance(answer, dict):
        data = answer.get("data")
        items = data.get("result") if isinstance(data, dict) else data
        if isinstance(items, list) and items and isinstance(items[0], dict):
            items.sort(key=lambda item: sorted(item.get("metric", item).items()))
    return answer


@pytest.mark.real
@pytest.mark.parametrize(("path", "form"), REQUESTS)
def test_request(both: tuple[Client, Client], path: str, form: list[tuple[str, str]]) -> None:  # noqa: F811
    ours, theirs = (client.ask(path.replace(" ", "%20"), form) for client in both)
    assert ours[0] == theirs[0]
    if ("limit", "3") in form or ("limit", "2") in form:
        assert len(ours[1]["data"]) == len(theirs[1]["data"])
        assert ours[1]["warnings"] == theirs[1]["warnings"]
        return
    assert ordered(ours[1]) == ordered(theirs[1])


@pytest.mark.real
@pytest.mark.parametrize("query", QUERIES)
def test_query_is_parsed_and_written_alike(both: tuple[Client, Client], query: str) -> None:  # noqa: F811
    ours, theirs = (client.ask("/api/v1/parse_query", {"query": query}) for client in both)
    if theirs[0] == 400:
        assert _words(ours) == _words(theirs)
        return
    assert _matchers_sorted(ours) == _matchers_sorted(theirs)
    ours, theirs = (client.ask("/api/v1/format_query", {"query": query}) for client in both)
    if "\n" not in theirs[1]["data"] and not _a_duration_as_number(query):
        assert ours == theirs


def _words(answer: tuple[int, Any]) -> str:
    """What is wrong, without the place."""
    return str(answer[1]["error"]).partition("parse error: ")[2]


def _a_duration_as_number(query: str) -> bool:
    """Prometheus remembers that a number was written as a duration; the parser used here does not tell."""
    return query == "1h30m"


def _matchers_sorted(tree: Any) -> Any:
    if isinstance(tree, list | tuple):
        return [_matchers_sorted(item) for item in tree]
    if isinstance(tree, dict):
        result = {key: _matchers_sorted(value) for key, value in tree.items()}
        if isinstance(result.get("matchers"), list):
            result["matchers"].sort(key=lambda item: (item["name"], item["value"], item["type"]))
        return result
    return tree


SAME_WORDS = [
    'up{job=~"("}',
    'up{job=~"a**"}',
    "sum(",
    "foo{",
    "rate(up)",
    "sum(1)",
    "nosuch(up)",
    "{}",
    "up and 1",
    "rate(up[5m]",
    '{job=~".*"}',
    "abs()",
]


@pytest.mark.real
@pytest.mark.parametrize("query", SAME_WORDS)
def test_refusal_has_the_same_words(both: tuple[Client, Client], query: str) -> None:  # noqa: F811
    ours, theirs = (client.query(query, LATE) for client in both)
    assert ours == theirs


# --- the embedded one alone: what other tests and the notebooks stand on, without the real server ---


@pytest.fixture(scope="module")
def embedded() -> Any:
    with serving(app(Engine(filled(samples.history())))) as base:
        yield Client(base)


@pytest.mark.parametrize("query", REFUSED)
def test_embedded_refuses(embedded: Client, query: str) -> None:
    status, answer = embedded.query(query, LATE)
    assert status == 400
    assert answer["errorType"] == "bad_data"
    assert answer["error"].startswith('invalid parameter "query": ')


def test_embedded_answers_by_hand(embedded: Client) -> None:
    """A few values that can be worked out without any engine."""

    def value(query: str) -> str:
        return str(embedded.query(query, LATE)[1]["data"]["result"][0]["value"][1])

    assert value("count(up)") == "9"
    assert value("sum(kube_pod_info)") == "9"
    assert value("avg(node_filesystem_size_bytes)") == "120000000000"
    assert value("sum_over_time(kube_pod_info{pod='cart-0'}[1m])") == "4"
    assert value("count_over_time(kube_pod_info{pod='cart-0'}[1m])") == "4"
    assert value("histogram_quantile(0.25, negative_bucket)") == "-1.7142857142857144"
    assert value("absent(single)") == "1"
    assert float(value("rate(moment_timestamp_seconds[5m])")) == pytest.approx(86_400 * 11.3 / 15)
    assert value("day_of_week(vector(1700000000))") == "2"
    assert value("changes(kube_pod_info{pod='cart-0'}[1h])") == "0"
    assert value("topk(1, node_filesystem_size_bytes) / 1.2e11") == "1"


def test_embedded_shows_how_it_is(embedded: Client) -> None:
    assert embedded.ask("/api/v1/status/buildinfo")[1]["data"]["version"].startswith("3.")
    runtime = embedded.ask("/api/v1/status/runtimeinfo")[1]["data"]
    assert runtime["reloadConfigSuccess"] is True
    counts = embedded.ask("/api/v1/status/tsdb")[1]["data"]
    assert counts["headStats"]["numSeries"] > 100
    assert counts["seriesCountByMetricName"][0] == {"name": "http_request_duration_seconds_bucket", "value": 54}
    assert embedded.ask("/api/v1/targets")[1]["data"] == {"activeTargets": [], "droppedTargets": [], "droppedTargetCounts": {}}
