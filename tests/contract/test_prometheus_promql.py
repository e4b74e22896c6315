"""The embedded PromQL against the real one, on the same samples: equal within rounding, or refused alike."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import prometheus_history as samples
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from prometheus_servers import Client, History, real, serving

from opslib.lab.prometheus import Engine, Store, app
from opslib.lab.prometheus.labels import labels_of

MIDDLE, LATE = samples.BASE + 5400, samples.END - 60


def filled(history: History) -> Store:
    """A store with a history: half of the series loaded at once, half appended one scrape after another."""
    store = Store(retention_seconds=10**9)
    for number, (labels, times, values) in enumerate(history.series):
        if number % 2:
            store.load([labels], times.tolist(), values[None, :])
        else:
            scrape = store.scrape()
            for time, value in zip(times.tolist(), values, strict=True):
                scrape.append(time, {labels_of(labels): value})
    return store


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[tuple[Client, Client]]:
    need_servers("prometheus")
    history = samples.history()
    folder = tmp_path_factory.mktemp("prometheus")
    engine = Engine(filled(history), experimental=True)
    with real(folder, history, "--enable-feature=promql-experimental-functions") as there, serving(app(engine)) as base:
        yield Client(base), there


QUERIES = """
http_requests_total
http_requests_total{service="cart",code=~"4..|5.."}
http_requests_total{service!="cart",pod!~".*-[01]"}
{__name__=~"http_requests_.*",code="200"}
{"two words"}
{"two words", "a label"=~"é.*"}
up == 0
up == bool 0
rate(http_requests_total[5m])
rate(http_requests_total[1m])
rate(http_requests_total[20s])
rate(http_requests_total[5m] offset 10m)
rate(http_requests_total[5m] offset -10m)
rate(http_requests_total[5m] @ end())
rate(http_requests_total[5m] @ start() offset 3m)
rate(http_requests_total[5m] @ 1700003000)
increase(http_requests_total[1h])
increase(http_requests_total[7m13s])
delta(node_load1[10m])
idelta(odd[5m])
irate(http_requests_total[5m])
irate(odd[5m])
rate(odd[10m])
increase(odd[10m])
delta(odd[10m])
deriv(container_memory_working_set_bytes[30m])
deriv(odd[5m])
predict_linear(node_filesystem_avail_bytes[1h], 4 * 3600)
predict_linear(odd[5m], 60)
predict_linear(node_filesystem_avail_bytes[1h] offset 10m, 600)
sum_over_time(odd[10m])
avg_over_time(odd[10m])
avg_over_time(huge[10m])
min_over_time(odd[10m])
max_over_time(odd[10m])
count_over_time(odd[10m])
stddev_over_time(odd[10m])
stdvar_over_time(node_load1[10m])
last_over_time(odd[10m])
present_over_time(odd[2m])
quantile_over_time(0.9, odd[10m])
quantile_over_time(1.1, node_load1[10m])
quantile_over_time(-1, node_load1[10m])
quantile_over_time(scalar(node_load1{node="node-1"}) / 10, node_load1[10m])
changes(up[1h])
changes(odd[1h])
resets(http_requests_total[2h])
resets(odd[10m])
mad_over_time(odd[10m])
first_over_time(odd[10m])
ts_of_min_over_time(odd[10m])
ts_of_max_over_time(odd[10m])
ts_of_first_over_time(odd[10m])
ts_of_last_over_time(odd[10m])
double_exponential_smoothing(odd[10m], 0.3, 0.7)
double_exponential_smoothing(node_load1[10m], 1.3, 0.7)
absent(nothing{job="x",pod=~"y"})
absent(up{job="app"})
absent(up{job="app",job="app"})
absent(sum(nothing))
absent(odd{kind="sparse"})
absent_over_time(nothing{job="x"}[5m])
absent_over_time(odd{kind="sparse"}[2m])
absent_over_time(rate(nothing[5m])[10m:])
sum(http_requests_total)
sum by (service) (rate(http_requests_total[5m]))
sum without (pod, instance) (rate(http_requests_total[5m]))
avg by (node, mode) (rate(node_cpu_seconds_total[5m]))
1 - avg by (node) (rate(node_cpu_seconds_total{mode="idle"}[5m]))
min(odd)
max(odd)
max by (kind) (odd)
avg(huge)
count by (job) (up)
count(odd)
group by (kind) (odd)
stddev(odd)
stdvar by (node) (rate(node_cpu_seconds_total[5m]))
quantile(0.75, rate(http_requests_total[5m]))
quantile by (node) (0.3, rate(node_cpu_seconds_total[5m]))
quantile(NaN, node_load1)
quantile(7, node_load1)
quantile(0.5, odd)
topk(3, rate(http_requests_total[5m]))
bottomk(2, rate(node_cpu_seconds_total[5m]))
topk by (service) (1, rate(http_requests_total[5m]))
topk(0, up)
topk(5, odd)
bottomk(5, odd)
topk(scalar(count(node_load1)), node_load1)
topk(NaN, up)
topk(1e30, up)
limitk(2, node_load1)
count_values("value", up)
count_values by (job) ("value", up)
count_values without (instance) ("value", up)
count_values("value", tiny)
count_values("value", huge)
count_values("", huge)
sum(rate(http_requests_total{code=~"5.."}[5m])) by (service) / sum(rate(http_requests_total[5m])) by (service)
http_requests_total / on (pod) group_left kube_pod_info
rate(http_requests_total[5m]) * on (pod) group_left (node) kube_pod_info
kube_pod_info * on (pod) group_right (node) rate(http_requests_total[5m])
kube_pod_info * on (pod) rate(http_requests_total[5m])
rate(http_requests_total[5m]) * on (pod) kube_pod_info
node_filesystem_avail_bytes / node_filesystem_size_bytes
node_filesystem_avail_bytes / ignoring (node) node_filesystem_size_bytes
node_filesystem_avail_bytes > ignoring (node) node_filesystem_size_bytes * 0.5
node_filesystem_avail_bytes > bool node_filesystem_size_bytes * 0.8
up * on (job) up
up + on (instance) group_left (pod) http_requests_total
http_requests_total + ignoring (code) group_left up
http_requests_total + ignoring (code, pod, service) group_left up
http_requests_total % 7
-node_load1
-http_requests_total{service="cart"}
2 ^ node_load1
node_load1 ^ 2
node_load1 % 0.7
10 / (node_load1 - node_load1)
node_load1 atan2 2
1 > bool 2
2 == bool 2
3 % 2 ^ 2
node_load1 > 2
2 < node_load1
node_load1 > 1 < 3
node_load1 != 2
up and on (instance) http_requests_total{code="500"}
up unless on (instance) http_requests_total{pod=~".*-1"}
up or node_load1
up or on (job) node_load1
vector(1) or up
http_requests_total{code="500"} and rate(http_requests_total[5m]) > 0.01
node_load1 and vector(1)
node_load1 unless ignoring (instance) node_load1 > 2
max_over_time(rate(http_requests_total{service="cart"}[1m])[30m:1m])
avg_over_time((sum by (service) (rate(http_requests_total[2m])))[20m:30s])
sum_over_time(up[1h:5m] offset 20m)
rate((http_requests_total)[10m:])
min_over_time(time()[5m:1m])
count_over_time(odd[10m:7s])
max_over_time(odd[10m:15s] @ end())
quantile_over_time(0.5, deriv(node_load1[5m])[15m:1m])
avg_over_time(max_over_time(node_load1[2m:10s])[10m:1m])
histogram_quantile(0.95, sum by (le, service) (rate(http_request_duration_seconds_bucket[5m])))
histogram_quantile(0.5, http_request_duration_seconds_bucket)
histogram_quantile(1.5, http_request_duration_seconds_bucket)
histogram_quantile(-0.5, http_request_duration_seconds_bucket)
histogram_quantile(NaN, http_request_duration_seconds_bucket)
histogram_quantile(0.99, rate(http_request_duration_seconds_bucket[5m]))
histogram_quantile(0, falling_bucket)
histogram_quantile(0.7, falling_bucket)
histogram_quantile(0.7, open_bucket)
histogram_quantile(0.2, negative_bucket)
histogram_quantile(0.05, negative_bucket)
histogram_quantile(0.7, negative_bucket)
histogram_quantile(0.7, node_load1)
histogram_fraction(0, 0.1, rate(http_request_duration_seconds_bucket[5m]))
histogram_fraction(0.07, 0.8, http_request_duration_seconds_bucket)
histogram_fraction(-Inf, +Inf, negative_bucket)
histogram_fraction(-5, 3, negative_bucket)
histogram_fraction(-1.5, -0.5, negative_bucket)
histogram_fraction(2, 1, negative_bucket)
histogram_fraction(0.5, 7, falling_bucket)
histogram_count(node_load1)
rate(http_request_duration_seconds_sum[5m]) / rate(http_request_duration_seconds_count[5m])
label_replace(up, "host", "$1", "instance", "(.*):.*")
label_replace(up, "host", "x-${2}-$1-$$", "instance", "(10)[.](?P<rest>.*):.*")
label_replace(up, "host", "$rest$none", "instance", "(10)[.](?P<rest>.*):.*")
label_replace(up, "instance", "", "job", "app")
label_replace(up, "job", "x", "nothing", "")
label_replace(up, "", "x", "job", "(")
label_replace(up, "__name__", "down", "job", ".*")
label_join(up, "both", "-", "job", "instance", "nothing")
label_join(up, "instance", "-")
clamp(node_load1, 1, 2)
clamp(odd, 1, 2)
clamp(node_load1, 2, 1)
clamp_min(node_load1, 2)
clamp_max(odd, 0)
round(node_load1)
round(node_load1, 0.25)
round(odd, 5)
round(-node_load1 * 10, 3)
ceil(node_load1)
floor(odd)
abs(odd)
sqrt(odd)
exp(node_load1)
ln(odd)
log2(node_load1)
log10(node_load1)
sgn(odd)
deg(node_load1)
rad(node_load1)
sin(node_load1)
acos(odd)
tanh(node_load1)
pi() * node_load1
scalar(node_load1)
scalar(node_load1{node="node-0"})
vector(time())
time()
timestamp(odd)
timestamp(odd offset 10m)
timestamp(up @ 1700003000)
timestamp(-odd)
timestamp(timestamp(up))
minute()
hour(moment_timestamp_seconds)
minute(moment_timestamp_seconds)
day_of_week(moment_timestamp_seconds)
day_of_month(moment_timestamp_seconds)
day_of_year(moment_timestamp_seconds)
days_in_month(moment_timestamp_seconds)
month(moment_timestamp_seconds)
year(moment_timestamp_seconds)
hour()
day_of_week()
year(vector(-86400 * 400.5))
sort(node_load1)
sort_desc(odd)
sort_by_label(up, "instance")
sort_by_label_desc(up, "job", "instance")
single
sum(single)
tiny
tiny * 1e-3
huge
huge * huge
odd @ start()
odd @ end() - odd
odd[2m]
http_requests_total{pod="search-0"}[2m] offset 88m
odd[2m:40s]
max_over_time(odd[5m:17s] offset 1m)
"a text"
42
1e-9
1e30
-Inf
0x1F
1h30m
count({__name__=~".+"})
sum by (__name__) ({job="node"})
count by (__name__, job) ({__name__!=""})
max without (mode) (node_cpu_seconds_total) - on (node, cpu) group_left max by (node, cpu) (node_cpu_seconds_total{mode="idle"})
(sum by (node) (node_load1) > 1) * on (node) group_left (pod) kube_pod_info
(sum by (node) (node_load1)) * on (node) group_right () kube_pod_info
sum(rate({__name__=~"http_request_duration_seconds_(sum|count)"}[5m]))
rate({__name__=~"http_request_duration_seconds_(sum|count)"}[5m])
label_replace(rate({__name__=~"http_request_duration_seconds_(sum|count)"}[5m]), "x", "y", "job", ".*")
{__name__=~"node_filesystem_.*"} + 1
-{__name__=~"node_filesystem_.*"}
{__name__=~"node_filesystem_.*"} > 1
nothing
nothing + up
sum(nothing)
nothing or vector(0)
""".strip().splitlines()

REFUSED = """
sum(
foo{
rate(up)
sum(1)
nosuch(up)
1 + "a"
up{a=~"("}
up and 1
{}
1 > 2
up[5m] + 1
rate(up[5m]
up + on(x) group_left(x) up
topk(up)
histogram_quantile(up)
"abc
abs()
rate(up[5m], 1)
count_values(up, up)
up offset
sum by (up)
{job=~".*"}
up{job="a"}{x="y"}
up[5m][5m]
(up)[5m]
up == bool
1 +
""".strip().splitlines()


def close(first: str, second: str) -> bool:
    """Equal within rounding."""
    a, b = float(first), float(second)
    return a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12 * max(abs(a), abs(b), 1))


def points(item: dict[str, Any]) -> list[tuple[float, str]]:
    return [(float(time), value) for time, value in item.get("values", [item.get("value")])]


def compare(embedded: tuple[int, Any], there: tuple[int, Any], query: str) -> None:
    """Both answers say the same."""
    (status, ours), (other_status, theirs) = embedded, there
    assert (status, ours.get("errorType")) == (other_status, theirs.get("errorType")), (query, ours, theirs)
    if other_status != 200:
        if theirs["errorType"] == "execution":
            assert ours["error"] == theirs["error"], query
        return
    assert ours["data"]["resultType"] == theirs["data"]["resultType"], query
    mine, yours = ours["data"]["result"], theirs["data"]["result"]
    if ours["data"]["resultType"] in ("scalar", "string"):
        assert float(mine[0]) == float(yours[0])
        assert mine[1] == yours[1] or close(mine[1], yours[1]), (query, mine, yours)
        return
    by_labels = [{tuple(sorted(item["metric"].items())): points(item) for item in items} for items in (mine, yours)]
    assert len(by_labels[0]) == len(mine), f"{query}: the same labels twice"
    assert by_labels[0].keys() == by_labels[1].keys(), query
    for labels, values in by_labels[1].items():
        got = by_labels[0][labels]
        assert [time for time, _value in got] == [time for time, _value in values], (query, labels)
        for (time, value), (_time, expected) in zip(got, values, strict=True):
            assert close(value, expected), (query, labels, time, value, expected)
    if query.startswith(("sort", "topk(3")) and "value" in (mine or [{}])[0]:
        assert [item["metric"] for item in mine] == [item["metric"] for item in yours], query


@pytest.mark.real
@pytest.mark.parametrize("query", QUERIES)
def test_query_gives_what_the_real_one_gives(both: tuple[Client, Client], query: str) -> None:
    ours, theirs = both
    for moment in (MIDDLE, LATE + 0.123, samples.BASE + 100, samples.END + 200):
        first, second = ours.query(query, moment), theirs.query(query, moment)
        compare(first, second, query)
        assert _notes(first) == _notes(second), query
    for start, end, step in ((MIDDLE, LATE, 60), (samples.BASE - 300, samples.END + 600, 97), (MIDDLE, MIDDLE + 300, 7)):
        compare(ours.query_range(query, start, end, step), theirs.query_range(query, start, end, step), query)


def _notes(answer: tuple[int, Any]) -> list[str]:
    """Warnings and remarks without their places in the query, which the embedded one does not always know."""
    import re

    texts = [text for name in ("warnings", "infos") for text in answer[1].get(name, [])]
    return sorted(re.sub(r",? (\(\d+:\d+\)|over|with|after|from|between|for).*$|\(\d+:\d+\)$", "", text)[:90] for text in texts)


@pytest.mark.real
@pytest.mark.parametrize("query", REFUSED)
def test_query_is_refused_as_by_the_real_one(both: tuple[Client, Client], query: str) -> None:
    ours, theirs = both
    first, second = ours.query(query, LATE), theirs.query(query, LATE)
    assert first[0] == second[0] == 400, (first, second)
    assert first[1]["errorType"] == second[1]["errorType"] == "bad_data"


# --- random queries ---

GAUGES = ["odd", "node_load1", "container_memory_working_set_bytes", "node_filesystem_avail_bytes", "tiny"]
COUNTERS = ["http_requests_total", "node_cpu_seconds_total", "http_request_duration_seconds_count", "http_request_duration_seconds_bucket"]
NAMES = ["job", "service", "pod", "instance", "node", "code", "mode", "kind", "le"]
SPANS = ["20s", "1m", "2m30s", "5m", "17m", "1h"]


def labels_lists() -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(NAMES), unique=True, max_size=3).map(", ".join)


conditions = st.sampled_from(
    ["", '{code="200"}', '{service=~"c.*"}', '{pod!~".*-1"}', '{node="node-1"}', '{kind!="nan"}', '{mode=~"idle|user",cpu="0"}']
)
shifts = st.sampled_from(["", "", "", " offset 7m", " offset -3m", f" @ {samples.BASE + 4000}", " @ end()", " @ start() offset 1m"])
selectors = st.builds("{}{}".format, st.sampled_from(GAUGES + COUNTERS), conditions)
numbers = st.sampled_from(["0.5", "2", "-1", "0", "1e3", "time()", "pi()", "NaN", "scalar(node_load1{node='node-2'})", "300"])
over_time = st.sampled_from(
    [
        "rate",
        "increase",
        "delta",
        "irate",
        "idelta",
        "deriv",
        "changes",
        "resets",
        "sum_over_time",
        "avg_over_time",
        "min_over_time",
        "max_over_time",
        "count_over_time",
        "stddev_over_time",
        "stdvar_over_time",
        "last_over_time",
        "present_over_time",
    ]
)
simple = st.sampled_from(["abs", "ceil", "floor", "round", "sqrt", "sgn", "exp", "ln", "-"])
ranged = st.one_of(
    st.builds("{}({}[{}]{})".format, over_time, selectors, st.sampled_from(SPANS), shifts),
    st.builds(
        "quantile_over_time({}, {}[{}]{})".format, st.sampled_from(["0.1", "0.5", "0.95"]), selectors, st.sampled_from(SPANS), shifts
    ),
    st.builds("predict_linear({}[{}]{}, {})".format, selectors, st.sampled_from(SPANS), shifts, st.sampled_from(["60", "3600"])),
)


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from(["+", "-", "*", "/", "%", "^", "atan2", "==", "!=", ">", "<", ">=", "<="])
    compared = st.sampled_from(["==", "!=", ">", "<", ">=", "<="])
    groupings = st.builds("{} ({})".format, st.sampled_from(["by", "without"]), labels_lists()) | st.just("")
    matching = st.builds("{} ({})".format, st.sampled_from(["on", "ignoring"]), labels_lists()) | st.just("")
    sides = st.sampled_from(["", "group_left", "group_right"])
    return st.one_of(
        st.builds(
            "{} {} ({})".format, st.sampled_from(["sum", "avg", "min", "max", "count", "group", "stddev", "stdvar"]), groupings, inner
        ),
        st.builds("quantile {} (0.7, {})".format, groupings, inner),
        st.builds("{}({})".format, simple, inner),
        st.builds("({} {} {})".format, inner, operators, numbers),
        st.builds("({} {} {})".format, numbers, operators, inner),
        st.builds("({} {} bool {})".format, inner, compared, numbers),
        st.builds(
            lambda left, op, match, side, right: f"({left} {op} {match} {side if match else ''} {right})",
            inner,
            operators,
            matching,
            sides,
            inner,
        ),
        st.builds("({} {} {} {})".format, inner, st.sampled_from(["and", "or", "unless"]), matching, inner),
        st.builds("{}(({})[{}:{}])".format, over_time, inner, st.sampled_from(SPANS[1:]), st.sampled_from(["", "13s", "1m"])),
        st.builds("clamp({}, -1, 3)".format, inner),
        st.builds("absent({})".format, inner),
        st.builds("label_replace({}, 'job', '$1', 'instance', '(.*):.*')".format, inner),
        st.builds("histogram_quantile(0.9, {})".format, inner),
        st.builds("timestamp({})".format, inner),
    )


queries = st.recursive(st.one_of(st.builds("{}{}".format, selectors, shifts), ranged), larger, max_leaves=4)


@pytest.mark.real
@settings(
    max_examples=int(os.environ.get("PROMQL_EXAMPLES", "400")), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(query=queries, moment=st.integers(samples.BASE - 100, samples.END + 400), step=st.sampled_from([15, 61, 300]))
def test_random_queries_give_what_the_real_one_gives(both: tuple[Client, Client], query: str, moment: int, step: int) -> None:
    note(query)
    ours, theirs = both
    compare_unstable(ours.query(query, moment), theirs.query(query, moment), query)
    compare_unstable(ours.query_range(query, moment, moment + 1800, step), theirs.query_range(query, moment, moment + 1800, step), query)


def compare_unstable(first: tuple[int, Any], second: tuple[int, Any], query: str) -> None:
    """As `compare`, but which of two ambiguous pairs an error names may differ."""
    if first[0] == second[0] == 422:
        assert first[1]["error"][:40] == second[1]["error"][:40], query
        return
    compare(first, second, query)


def test_the_history_has_what_it_says() -> None:
    history = samples.history()
    assert any(np.isnan(values).any() for _labels, _times, values in history.series)
    assert all((np.diff(times) > 0).all() for _labels, times, _values in history.series)
