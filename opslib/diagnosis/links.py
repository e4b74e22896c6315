"""Links to Grafana and Kibana that open with the time range and the query already set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from opslib.environments import Links
from opslib.findings import Link
from opslib.messages import _


def grafana_explore(links: Links, promql: str, start: datetime, end: datetime) -> tuple[Link, ...]:
    """Grafana's Explore page with a Prometheus query; empty where the environment names no Grafana.

    The address is the one that Explore itself writes since Grafana 10 (``schemaVersion=1&panes=…``).
    """
    if links.grafana is None:
        return ()
    source = {"type": "prometheus", "uid": links.grafana_datasource}
    pane = {
        "datasource": links.grafana_datasource,
        "queries": [{"refId": "A", "expr": promql, "datasource": source}],
        "range": {"from": str(_milliseconds(start)), "to": str(_milliseconds(end))},
    }
    query = urlencode({"schemaVersion": 1, "panes": json.dumps({"opslib": pane}, separators=(",", ":"), ensure_ascii=False), "orgId": 1})
    return (Link(_("Grafana, Explore"), f"{links.grafana.rstrip('/')}/explore?{query}"),)


def kibana_discover(links: Links, query: str, start: datetime, end: datetime) -> tuple[Link, ...]:
    """Kibana's Discover page with a KQL query; empty where the environment names no Kibana.

    The data view is the reader's default one: its id is not known here.
    """
    if links.kibana is None:
        return ()
    span = rison({"time": {"from": _iso(start), "to": _iso(end)}})
    state = rison({"query": {"language": "kuery", "query": query}})
    address = f"{links.kibana.rstrip('/')}/app/discover#/?_g={quote(span, safe=_RISON)}&_a={quote(state, safe=_RISON)}"
    return (Link(_("Kibana, Discover"), address),)


def prometheus_graph(url: str, promql: str, start: datetime, end: datetime) -> Link:
    """Prometheus' own page with a query, as a graph over that time."""
    seconds = max(int((end - start).total_seconds()), 1)
    moment = end.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    query = urlencode({"g0.expr": promql, "g0.tab": 0, "g0.range_input": f"{seconds}s", "g0.end_input": moment})
    return Link(_("Prometheus, graph"), f"{url.rstrip('/')}/graph?{query}")


def alertmanager_alerts(url: str, labels: Mapping[str, str]) -> Link:
    """Alertmanager's page with the alerts that have these labels; silenced ones too."""
    matchers = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in sorted(labels.items()))
    query = urlencode({"silenced": "true", **({"filter": "{" + matchers + "}"} if matchers else {})})
    return Link(_("Alertmanager, alerts"), f"{url.rstrip('/')}/#/alerts?{query}")


def aws_console(links: Links, region: str, cluster: str) -> tuple[Link, ...]:
    """The AWS console at the EKS cluster, else at the list of clusters; empty where the environment names no console."""
    if links.aws_console is None:
        return ()
    place = f"/{quote(cluster, safe='')}" if cluster else ""
    return (Link(_("AWS console, EKS"), f"{links.aws_console.rstrip('/')}/eks/home?{urlencode({'region': region})}#/clusters{place}"),)


def kql(field: str, values: Iterable[str] | str) -> str:
    """``field: "value"`` in Kibana's query language; several values are alternatives. Values may be anything."""
    quoted = [_kql_string(value) for value in ([values] if isinstance(values, str) else values)]
    return f"{field}: {quoted[0]}" if len(quoted) == 1 else f"{field}: ({' or '.join(quoted)})"


def rison(value: Any) -> str:
    """`value` (mappings, lists, text, numbers) in RISON, which Kibana keeps its state in (https://github.com/Nanonid/rison)."""
    if isinstance(value, dict):
        return "(" + ",".join(f"{name}:{rison(item)}" for name, item in value.items()) + ")"
    if isinstance(value, list):
        return "!(" + ",".join(rison(item) for item in value) + ")"
    if isinstance(value, bool):
        return "!t" if value else "!f"
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("!", "!!").replace("'", "!'") + "'"


_RISON = "(),:!*'~-_."


def _kql_string(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return f'"{escaped}"'


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
