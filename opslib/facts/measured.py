"""What Prometheus and Alertmanager know beside the cluster's objects, for the diagnosis of chapter 4.1.

A dozen aggregated queries, all at once. Each may fail to a gap; a metric that is not there leaves its own kind of trouble unseen, no other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opslib.diagnosis.pods.facts import Alerted, Change, Measured
from opslib.facts import Answer, Questions
from opslib.facts.sources import Sources
from opslib.findings import Subject
from opslib.messages import _
from opslib.sources.monitored import Notified, Silence
from opslib.sources.prometheus import any_of, matcher, selector
from opslib.sources.redaction import redact

if TYPE_CHECKING:
    import pandas

    from opslib.environments import Metrics

SPAN = timedelta(hours=6)
STEP = 120.0
STILL = 3  # steps without a value that are no break
MOST_SERIES = 300  # that are named one by one in a query
_ALL_THE_TIME = {"errors": STEP, "slow": 300.0, "throttled": STEP, "volume": STEP, "dns": STEP}  # asked over the span, with their steps
FEWEST_REQUESTS = 0.2  # a second: of fewer, one failure is a high share
ERRORS = 0.02
SLOW_FACTOR, SLOW_SECONDS = 3.0, 0.3
THROTTLED = 0.5
VOLUME_LEFT = 0.03
DNS_ERRORS = 0.02
PASSED_ON = ("502", "503", "504")  # a gateway's statuses: what it needs did not answer (RFC 9110, 15.6.3 to 15.6.5)

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions that are open; None: this environment has no Prometheus, or no Alertmanager."""

    frames: Mapping[str, Answer[pandas.DataFrame]] | None
    queries: Mapping[str, str]
    alerts: Answer[list[Notified]] | None
    silences: Answer[list[Silence]] | None


def ask(sources: Sources, questions: Questions, namespace: str, now: datetime) -> Asked:
    """Ask everything; nothing is waited for."""
    environment = sources.environment
    alerts = silences = None
    if environment.alertmanager is not None:
        alerts = questions.ask(_("Alertmanager's alerts"), functools.partial(_alerts, sources))
        silences = questions.ask(_("silences"), functools.partial(_silences, sources))
    if environment.prometheus is None:
        return Asked(None, {}, alerts, silences)
    queries = _queries(environment.prometheus, matcher("namespace", namespace) if namespace else "")
    frames = {
        name: questions.ask(_("metrics of services, volumes and DNS"), _query(sources, name, promql, now))
        for name, promql in queries.items()
    }
    return Asked(frames, queries, alerts, silences)


def _alerts(sources: Sources) -> list[Notified]:
    return sources.alertmanager.alerts()


def _silences(sources: Sources) -> list[Silence]:
    return sources.alertmanager.silences()


def _query(sources: Sources, name: str, promql: str, now: datetime) -> Callable[[], pandas.DataFrame]:
    if name in _ALL_THE_TIME:
        return lambda: _history(sources, name, promql, now)
    return lambda: sources.prometheus.query(promql, now)


def _history(sources: Sources, name: str, promql: str, now: datetime) -> pandas.DataFrame:
    """What is so now, and since when: hours are asked of those series alone that are in the answer of the last minutes.

    Over hours an aggregation of all pods' histograms costs Prometheus seconds, and most of the time there is nothing to ask for.
    """
    step = _ALL_THE_TIME[name]
    recent = f"last_over_time(({promql})[{int(STILL * step)}s:{int(step)}s])"
    found = sources.prometheus.query(recent, now)
    if found.empty:
        return found
    metrics = sources.prometheus.settings
    label = {"errors": metrics.service_label, "slow": metrics.service_label, "throttled": "pod", "volume": "persistentvolumeclaim"}.get(
        name
    )
    if label is not None and label in found.columns and "namespace" in found.columns and len(found) <= MOST_SERIES:
        only = ",".join(any_of(each, sorted(set(found[each]))) for each in ("namespace", label))
        promql = _queries(metrics, only)[name]
    return sources.prometheus.query_range(promql, now - SPAN, now, step)


def _queries(metrics: Metrics, here: str) -> dict[str, str]:
    """The questions by name, of what the label matchers `here` select."""
    service = f"namespace, {metrics.service_label}"
    failed = matcher(metrics.status_label, metrics.error_status, "=~")

    def requests(*more: str, by: str = service, ending: str = "[5m]") -> str:
        return f"sum by ({by}) (rate({selector(metrics.requests_metric, here, *more)}{ending}))"

    def latency(ending: str) -> str:
        return f"histogram_quantile(0.95, sum by ({service}, le) (rate({selector(f'{metrics.latency_metric}_bucket', here)}{ending})))"

    cpu = "sum by (namespace, pod, container) (rate({}[5m]))"
    volume = "min by (namespace, persistentvolumeclaim) ({} / {})"
    found = {
        "errors": f"({requests(failed)} / {requests()} > {ERRORS}) and ({requests()} > {FEWEST_REQUESTS})",
        "codes": f"{requests(failed, by=f'{service}, {metrics.status_label}')} > 0",
        "slow": f"({latency('[5m]')} > {SLOW_SECONDS}) and ({requests()} > {FEWEST_REQUESTS})",
        "usual": f"{latency('[1h] offset 1d')}",
        "requests": requests(),
        "yesterday": requests(ending="[1h] offset 1d"),
        "throttled": f"{cpu.format(selector('container_cpu_cfs_throttled_periods_total', here))}"
        f" / {cpu.format(selector('container_cpu_cfs_periods_total', here))} > {THROTTLED}",
        "volume": volume.format(
            selector("kubelet_volume_stats_available_bytes", here), selector("kubelet_volume_stats_capacity_bytes", here)
        )
        + f" < {VOLUME_LEFT}",
        "dns": 'sum(rate(coredns_dns_responses_total{rcode="SERVFAIL"}[5m])) / sum(rate(coredns_dns_responses_total[5m]))'
        f" > {DNS_ERRORS}",
        "certificate": "probe_ssl_earliest_cert_expiry - time() <= 0",
    }
    if metrics.calls_metric:
        by = ", ".join((metrics.caller_namespace_label, metrics.caller_label, metrics.callee_namespace_label, metrics.callee_label))
        found["calls"] = f"sum by ({by}) (rate({selector(metrics.calls_metric)}[10m])) > 0"
    return found


def read(asked: Asked, metrics: Metrics | None, namespace: str, now: datetime) -> dict[str, Any]:
    """The fields of `Facts` that come from the answers."""
    alerts = asked.alerts.get() if asked.alerts else None
    silences = asked.silences.get() if asked.silences else None
    found: dict[str, Any] = {
        "alerts": None if alerts is None else tuple(_alerted(alerts)),
        "silences": None if silences is None else tuple(sorted(silences, key=lambda item: item.id)),
    }
    if asked.frames is None or metrics is None:
        return found
    frames = {name: answer.get() for name, answer in asked.frames.items()}
    if all(frame is None for frame in frames.values()):
        return found
    busy = _values(frames["requests"], "namespace", metrics.service_label)
    before = _values(frames["yesterday"], "namespace", metrics.service_label)
    found["busy"] = {key: (value, before.get(key)) for key, value in busy.items()}
    items = [*_errors(frames, asked.queries, metrics), *_slow(frames, asked.queries, metrics)]
    items += _ranged(frames["throttled"], "throttled", asked.queries, ("namespace", "pod", "container"))
    items += _ranged(frames["volume"], "volume", asked.queries, ("namespace", "persistentvolumeclaim"))
    items += _ranged(frames["dns"], "dns", asked.queries, ())
    items += [item for item in _certificates(frames["certificate"], asked.queries, now) if namespace in ("", item.namespace)]
    found["measured"] = tuple(items)
    return found


def traffic(asked: Asked, metrics: Metrics | None) -> list[tuple[Key, Key]]:
    """Who calls which Service, as far as traffic is counted: (namespace, workload), (namespace, Service)."""
    frame = asked.frames["calls"].get() if asked.frames and "calls" in asked.frames else None
    if frame is None or frame.empty or metrics is None:
        return []
    names = (metrics.caller_namespace_label, metrics.caller_label, metrics.callee_namespace_label, metrics.callee_label)
    if any(name not in frame.columns for name in names):
        return []
    rows = {tuple(str(row[name]) for name in names) for row in frame.to_dict("records")}
    return [((space, name), (to_space, to)) for space, name, to_space, to in sorted(rows) if name and to]


def images(sources: Sources, namespaces: Iterable[str], containers: Iterable[str], now: datetime) -> list[tuple[str, str, str, datetime]]:
    """Images of these containers that were not there at the beginning of the span: (namespace, container, image, first seen).

    A rollout tells its time by its ReplicaSet as long as that is there; metrics remember it longer.
    """
    there = any_of("namespace", sorted(namespaces)), any_of("container", sorted(containers))
    series = selector("kube_pod_container_info", *there)
    promql = f"count by (namespace, container, image) ({series})"
    new = f"{promql} unless {promql.removesuffix(')')} offset {int(SPAN.total_seconds() // 3600)}h)"
    frame = sources.prometheus.query(new, now, labels=("namespace", "container", "image"))
    keys = [(row["namespace"], row["container"], row["image"]) for row in frame.to_dict("records")]
    if not keys:
        return []
    wanted = selector("kube_pod_container_info", *there, any_of("image", sorted({image for *_rest, image in keys})))
    history = sources.prometheus.query_range(
        f"count by (namespace, container, image) ({wanted})", now - SPAN, now, STEP, labels=("namespace", "container", "image")
    )
    found = []
    for key, rows in history.groupby(["namespace", "container", "image"]):
        space, container, image = (str(part) for part in key)
        found.append((space, container, image, rows["time"].min().to_pydatetime()))
    return sorted(found)


def rollouts(seen: list[tuple[str, str, str, datetime]], owners: Mapping[Key, tuple[Subject, Mapping[str, str]]]) -> list[Change]:
    """New images as changes of their owners. `owners`: by namespace and container, the owner and the image that it has now."""
    found = []
    for namespace, container, image, time in seen:
        owner = owners.get((namespace, container))
        if owner is not None and owner[1].get(container) == image:
            text = _("rollout of {owner}: image {image} was first seen", owner=f"{owner[0].kind} {owner[0].name}", image=image)
            found.append(Change(time, owner[0], text, rollout=owner[0].kind == "Deployment"))
    return found


def _alerted(alerts: list[Notified]) -> Iterator[Alerted]:
    for alert in sorted(alerts, key=lambda item: (item.name, sorted(item.labels.items()))):
        labels = {name: redact(value) for name, value in alert.labels.items()}
        yield Alerted(name=alert.name, labels=labels, since=alert.starts_at, silenced_by=tuple(alert.status.silenced_by))


def _values(frame: pandas.DataFrame | None, *names: str) -> dict[Key, float]:
    if frame is None or frame.empty or any(name not in frame.columns for name in names):
        return {}
    return {(str(row[names[0]]), str(row[names[1]])): float(row["value"]) for row in frame.to_dict("records")}


def _ranged(frame: pandas.DataFrame | None, kind: str, queries: Mapping[str, str], names: tuple[str, ...]) -> Iterator[Measured]:
    """What is so now, and since when without a break."""
    for labels, value, since in _until_now(frame, names):
        namespace, name, container = (*labels, "", "", "")[:3]
        yield Measured(kind=kind, namespace=namespace, name=name, container=container, value=value, since=since, query=queries[kind])


def _until_now(
    frame: pandas.DataFrame | None, names: tuple[str, ...], least: Mapping[Key, float] | None = None
) -> Iterator[tuple[tuple[str, ...], float, datetime | None]]:
    """Labels, the newest value, and since when each series goes on without a break; None: all the time.

    `least`: values below it, by the first two labels, count as a break.
    """
    if frame is None or frame.empty or any(name not in frame.columns for name in names):
        return
    step = timedelta(seconds=float(frame.attrs.get("step_seconds", STEP)))
    first, last = frame["time"].min(), frame["time"].max()
    end = max(last.to_pydatetime(), first.to_pydatetime())
    for key, rows in frame.groupby(list(names)) if names else [((), frame)]:
        labels = tuple(str(part) for part in (key if isinstance(key, tuple) else (key,)))
        floor = (least or {}).get((labels[0], labels[1]), 0.0) if least is not None else None
        points = [
            (time.to_pydatetime(), float(value))
            for time, value in zip(rows["time"], rows["value"], strict=True)
            if value == value and (floor is None or value >= floor)
        ]
        points.sort()
        if not points or end - points[-1][0] > STILL * step:
            continue
        begin = points[-1][0]
        for time, _value in reversed(points):
            if begin - time > STILL * step:
                break
            begin = time
        span = end - begin
        yield labels, points[-1][1], None if span >= SPAN - 2 * step else begin


def _errors(frames: Mapping[str, Any], queries: Mapping[str, str], metrics: Metrics) -> Iterator[Measured]:
    names = ("namespace", metrics.service_label)
    own: dict[Key, list[float]] = {}
    codes = frames["codes"]
    if codes is not None and not codes.empty and metrics.status_label in codes.columns:
        for row in codes.to_dict("records"):
            entry = own.setdefault((str(row.get("namespace", "")), str(row.get(metrics.service_label, ""))), [0.0, 0.0])
            entry[str(row[metrics.status_label]) in PASSED_ON] += float(row["value"])
    for labels, value, since in _until_now(frames["errors"], names):
        mine, passed = own.get((labels[0], labels[1]), [0.0, 0.0])
        share = mine / (mine + passed) if mine + passed else None
        yield Measured(kind="errors", namespace=labels[0], name=labels[1], value=value, since=since, own=share, query=queries["errors"])


def _slow(frames: Mapping[str, Any], queries: Mapping[str, str], metrics: Metrics) -> Iterator[Measured]:
    usual = _values(frames["usual"], "namespace", metrics.service_label)
    least = {key: max(SLOW_SECONDS, SLOW_FACTOR * value) if value == value else float("inf") for key, value in usual.items()}
    for labels, value, since in _until_now(frames["slow"], ("namespace", metrics.service_label), least):
        before = usual.get((labels[0], labels[1]))
        if before is None or before != before:
            continue  # without a yesterday nobody knows what is slow for it
        yield Measured(kind="slow", namespace=labels[0], name=labels[1], value=value, usual=before, since=since, query=queries["slow"])


def _certificates(frame: pandas.DataFrame | None, queries: Mapping[str, str], now: datetime) -> Iterator[Measured]:
    if frame is None or frame.empty or "instance" not in frame.columns:
        return
    for row in frame.to_dict("records"):
        address = str(row["instance"])
        host = urlsplit(address if "//" in address else f"//{address}").hostname or address
        name, _dot, rest = host.partition(".")
        yield Measured(
            kind="certificate",
            namespace=rest.partition(".")[0],
            name=name,
            value=float(row["value"]),
            since=now + timedelta(seconds=float(row["value"])),
            query=queries["certificate"],
        )
