"""Prometheus at the socket: frames from answers, errors from refusals, queries from hostile names."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.environments import Metrics
from opslib.errors import Forbidden, NotFound, SourceError, Unauthenticated, Unreachable
from opslib.sources import prometheus
from opslib.sources.prometheus import Prometheus

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def answer(result: list[Any], kind: str = "vector", **more: Any) -> bytes:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}, **more}).encode()


def connected(server: Any, **settings: Any) -> Prometheus:
    return Prometheus(server.transport(**settings), Metrics(url=server.url))


def test_a_vector_becomes_a_row_a_series(server: Any) -> None:
    rows = [
        {"metric": {"service": "cart", "code": "200"}, "value": [1767323045.123, "1.5"]},
        {"metric": {"service": "web"}, "value": [1767323045.123, "NaN"]},
        {"metric": {"service": "api"}, "value": [1767323045.123, "+Inf"]},
        {"metric": {"service": "old"}, "value": [1767323045.123, "-Inf"]},
    ]
    server.answers = [server.says(200, answer(rows))]
    frame = connected(server).query("x", NOW)
    assert frame["service"].tolist() == ["cart", "web", "api", "old"]
    assert frame["code"].tolist() == ["200", "", "", ""]
    assert frame["value"].tolist()[0] == 1.5
    assert math.isnan(frame["value"].tolist()[1])
    assert frame["value"].tolist()[2:] == [math.inf, -math.inf]
    assert frame["time"][0] == datetime(2026, 1, 2, 3, 4, 5, 123000, tzinfo=UTC)


def test_an_empty_answer_has_the_columns_that_were_asked_for(server: Any) -> None:
    server.answers = [server.says(200, answer([]))]
    frame = connected(server).query("x", labels=("service", "namespace"))
    assert list(frame.columns) == ["service", "namespace", "value", "time"]
    assert frame.empty


def test_a_scalar_is_one_row_and_a_text_is_refused(server: Any) -> None:
    server.answers = [server.says(200, answer([1767323045, "7"], "scalar")), server.says(200, answer([1767323045, "seven"], "string"))]
    source = connected(server)
    assert source.query("scalar(x)")["value"].tolist() == [7.0]
    with pytest.raises(SourceError, match="text"):
        source.query("'seven'")


def test_labels_called_like_our_columns_keep_their_values(server: Any) -> None:
    server.answers = [server.says(200, answer([{"metric": {"value": "v", "time": "t"}, "value": [1, "2"]}]))]
    frame = connected(server).query("x")
    assert frame.loc[0, "label_value"] == "v"
    assert frame.loc[0, "label_time"] == "t"
    assert frame.loc[0, "value"] == 2.0


def test_native_histograms_are_left_out_and_counted_and_warnings_kept(server: Any) -> None:
    rows = [{"metric": {"a": "1"}, "histogram": [1, {"count": "3"}]}, {"metric": {"a": "2"}, "value": [1, "4"]}]
    server.answers = [server.says(200, answer(rows, warnings=["one store did not answer"], infos=["not a counter"]))]
    frame = connected(server).query("x")
    assert frame["value"].tolist() == [4.0]
    assert frame.attrs["histograms"] == 1
    assert frame.attrs["warnings"] == ("one store did not answer",)
    assert frame.attrs["infos"] == ("not a counter",)


def test_a_range_is_a_row_a_sample_and_the_step_is_raised_to_what_prometheus_allows(server: Any) -> None:
    rows = [{"metric": {"a": "1"}, "values": [[1, "1"], [2, "2"]]}, {"metric": {"a": "2"}, "values": [[1, "3"]]}]
    server.answers = [server.says(200, answer(rows, "matrix"))]
    frame = connected(server).query_range("x", NOW - timedelta(days=30), NOW, 1)
    assert frame[["a", "value"]].to_numpy().tolist() == [["1", 1.0], ["1", 2.0], ["2", 3.0]]
    asked = parse_qs(urlsplit(server.seen[0][1]).query)
    step = float(asked["step"][0])
    assert 30 * 86400 / step + 1 <= prometheus.MOST_POINTS
    assert frame.attrs["step_seconds"] == step


def test_a_refused_query_is_named_with_prometheus_own_words(server: Any) -> None:
    body = b'{"status":"error","errorType":"bad_data","error":"1:5: parse error: unclosed left parenthesis"}'
    server.answers = [server.says(400, body)]
    with pytest.raises(SourceError) as caught:
        connected(server).query("sum(")
    text = caught.value.message().text("en")
    assert "sum(" in text
    assert "unclosed left parenthesis" in text


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthenticated), (403, Forbidden), (404, NotFound), (503, Unreachable), (500, SourceError)]
)
def test_statuses_become_the_errors_that_they_stand_for(server: Any, status: int, kind: type[SourceError]) -> None:
    server.answers = [server.says(status, b"<html>no</html>")]
    with pytest.raises(kind) as caught:
        connected(server, deadline_seconds=1).query("up")
    assert str(status) in caught.value.message().text("en")


@pytest.mark.parametrize(
    "body", [b"<html>log in</html>", b"", b"[]", b'{"status":"success"}', b'{"status":"success","data":{"resultType":"vector","result":7}}']
)
def test_an_answer_that_is_not_prometheus_names_the_field_to_check(server: Any, body: bytes) -> None:
    server.answers = [server.says(200, body)]
    with pytest.raises(SourceError) as caught:
        connected(server).query("up")
    assert "prometheus.url" in caught.value.message().text("en")


def test_a_long_query_is_posted_and_repeated_where_that_is_safe(server: Any) -> None:
    server.answers = [server.says(503, b""), server.says(200, answer([]))]
    connected(server).query(" or ".join(f"metric_{number}" for number in range(400)))
    assert [method for method, _path, _headers in server.seen] == ["POST", "POST"]


def test_selectors_come_from_prometheus_own_tree_without_those_in_absent(server: Any) -> None:
    def selects(name: str, **more: Any) -> dict[str, Any]:
        return {"type": "vectorSelector", "name": name, "matchers": [{"name": "__name__", "type": "=", "value": name}], **more}

    tree = {
        "type": "binaryExpr",
        "lhs": {"type": "call", "func": {"name": "absent"}, "args": [selects("gone")]},
        "rhs": {"type": "aggregation", "expr": {"type": "call", "func": {"name": "rate"}, "args": [selects("b"), selects("a")]}},
    }
    server.answers = [server.says(200, json.dumps({"status": "success", "data": tree}).encode())]
    assert [found[0].value for found in connected(server).selectors("…")] == ["b", "a"]


@given(st.text())
def test_a_value_cannot_leave_its_string(value: str) -> None:
    quoted = prometheus.string(value)
    inside = quoted[1:-1]
    assert quoted[0] == quoted[-1] == '"'
    assert "\n" not in quoted
    assert '"' not in inside.replace("\\\\", "").replace('\\"', "")
    readable = value.encode("utf-8", "replace").decode()
    if value.isprintable() and readable == value:
        assert json.loads(quoted) == value


@pytest.mark.parametrize("sign", ["==", "", '=~"} or up{a', ","])
def test_only_promql_s_signs_are_signs(sign: str) -> None:
    with pytest.raises(ValueError, match="sign"):
        prometheus.matcher("a", "b", sign)
