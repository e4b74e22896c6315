"""Every query of this project, on samples made for it: the embedded Prometheus answers what the real one answers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import promql_parser
import pytest
import yaml
from prometheus_servers import Client, History, real, serving
from test_prometheus_promql import compare_unstable, filled

import opslib
from opslib.diagnosis.monitoring.facts import Parameters
from opslib.environments.model import Metrics
from opslib.facts.monitoring import nodes, services
from opslib.lab.prometheus import Engine, app
from opslib.lab.prometheus.parse import matchers, walk

BASE, MINUTES = 1_700_000_000, 40
VALUES = {
    "le": ("0.1", "0.5", "+Inf"),
    "mode": ("idle", "user"),
    "phase": ("Pending", "Running"),
    "code": ("200", "503"),
    "fstype": ("ext4",),
    "mountpoint": ("/", "/data"),
    "resource": ("cpu", "memory"),
}


def queries() -> list[str]:
    """Queries of the chapters, and of the lab's rules."""
    found = [query for query, _labels in nodes.queries().values()]
    wanted = services.Queries(Metrics(url="http://prometheus"), Parameters(namespace="shop"))
    for then in services.TIMES:
        found += wanted.instant(then).values()
    found += wanted.over_time(["service-a", "b.c"]).values()
    for file in sorted((Path(opslib.__file__).parent / "lab" / "rules").glob("*.yaml")):
        for group in yaml.safe_load(file.read_text("utf-8"))["groups"]:
            found += [str(rule["expr"]) for rule in group["rules"]]
    return list(dict.fromkeys(found))


def samples() -> History:
    """For each selector of each query, series that fulfil it, with all labels that the query speaks of."""
    random = np.random.default_rng(5)
    times = (BASE + np.arange(0, MINUTES * 60, 15)) * 1000
    series: dict[tuple[tuple[str, str], ...], None] = {}
    for query in queries():
        tree = promql_parser.parse(query)
        parts = re.findall(r"(?:by|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", query)
        spoken = {name.strip() for part in parts for name in part.split(",")}
        for node in walk(tree):
            if not isinstance(node, promql_parser.VectorSelector):
                continue
            fixed = {item.name: item.value for item in matchers(node) if item.sign == "="}
            others = {name: VALUES.get(name, (f"{name}-a", f"{name}-b")) for name in spoken - set(fixed) if name}
            for item in matchers(node):
                if item.sign == "=~" and item.name not in fixed:
                    choices = [text for text in item.value.split("|") if re.fullmatch(r"[\w.-]+", text)]
                    others[item.name] = tuple(choices[:2]) or VALUES.get(item.name, ("x",))
                elif item.sign in ("!~", "!=") and item.name not in fixed:
                    others.setdefault(item.name, VALUES.get(item.name, ("x", "y")))
            for values in product(*others.values()):
                labels = {**fixed, **dict(zip(others, values, strict=True))}
                series[tuple(sorted(labels.items()))] = None
    history = History()
    for labels in list(series)[:4000]:
        name = dict(labels).get("__name__", "")
        values = random.uniform(0.2, 5, len(times))
        if name.endswith(("_total", "_count", "_sum", "_bucket")):
            values = np.cumsum(values)
        elif name == "up" or name.startswith("kube_"):
            values = (values > 1).astype(float)
        history.add(dict(labels), times, values)
    return history


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[tuple[Client, Client]]:
    need_servers("prometheus")
    history = samples()
    with real(tmp_path_factory.mktemp("prometheus"), history) as there, serving(app(Engine(filled(history)))) as base:
        yield Client(base), there


@pytest.mark.real
@pytest.mark.parametrize("query", queries())
def test_a_query_of_this_project(both: tuple[Client, Client], query: str) -> None:
    end = BASE + MINUTES * 60 - 20
    answers = [client.query(query, end) for client in both]
    compare_unstable(answers[0], answers[1], query)
    compare_unstable(*(client.query_range(query, BASE, end, 60) for client in both), query)


@pytest.mark.real
def test_most_of_them_have_an_answer(both: tuple[Client, Client]) -> None:
    """Or the comparison would say little."""
    asked = [both[1].query_range(query, BASE, BASE + MINUTES * 60, 300) for query in queries()]
    answers = [answer["data"]["result"] if status == 200 else [] for status, answer in asked]
    assert sum(bool(answer) for answer in answers) > 0.6 * len(answers)
    assert any(math.isfinite(float(value)) for answer in answers for item in answer for _time, value in item["values"])
