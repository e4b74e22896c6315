"""Requests, errors and latency of the services, from the applications' own metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from opslib.diagnosis.monitoring.facts import (
    Parameters,
    ServiceUse,
    Then,
)
from opslib.sources.prometheus import any_of, matcher, selector

if TYPE_CHECKING:
    import pandas

    from opslib.environments import Metrics

RECENT = "5m"
TIMES = {"now": "", "recent": "", "yesterday": " offset 1d", "last_week": " offset 1w"}
PLOTTED = 8  # services in a plot: as many as can be told apart


class Queries:
    """The queries on the applications' own metrics, as the environment names them."""

    def __init__(self, metrics: Metrics, parameters: Parameters) -> None:
        self._metrics = metrics
        self._window = f"{parameters.window_minutes}m"
        self._namespace = matcher("namespace", parameters.namespace) if parameters.namespace else ""
        self._by = f"namespace, {metrics.service_label}"
        self._failed = matcher(metrics.status_label, metrics.error_status, "=~")

    def instant(self, then: str) -> dict[str, str]:
        """Requests a second, errors a second and latency at one of `TIMES`."""
        metrics = self._metrics
        ending = f"[{RECENT}]" if then == "recent" else f"[{self._window}]{TIMES[then]}"
        buckets = selector(f"{metrics.latency_metric}_bucket", self._namespace)
        native = selector(metrics.latency_metric, self._namespace)
        return {
            "requests": f"sum by ({self._by}) (rate({selector(metrics.requests_metric, self._namespace)}{ending}))",
            "errors": f"sum by ({self._by}) (rate({selector(metrics.requests_metric, self._namespace, self._failed)}{ending})) > 0",
            "latency": f"histogram_quantile(0.95, sum by ({self._by}, le) (rate({buckets}{ending})))"
            f" or histogram_quantile(0.95, sum by ({self._by}) (rate({native}{ending})))",
        }

    def over_time(self, services: Iterable[str]) -> dict[str, str]:
        """Requests a second, and the share that failed, of these services, in steps of five minutes."""
        these = any_of(self._metrics.service_label, services)
        requests = f"sum by ({self._by}) (rate({selector(self._metrics.requests_metric, self._namespace, these)}[5m]))"
        errors = f"sum by ({self._by}) (rate({selector(self._metrics.requests_metric, self._namespace, these, self._failed)}[5m]))"
        return {"requests": requests, "errors": f"({errors} or {requests} * 0) / ({requests} > 0)"}


def top(requests: pandas.DataFrame | None, metrics: Metrics) -> list[str]:
    """The services with most requests."""
    if requests is None or requests.empty:
        return []
    ordered = requests.sort_values("value", ascending=False)[metrics.service_label]
    return list(dict.fromkeys(ordered.tolist()))[:PLOTTED]


def services(frames: Mapping[tuple[str, str], pandas.DataFrame | None], metrics: Metrics, most: int) -> list[ServiceUse] | None:
    """One entry a service, at most `most`: those with most errors, then those with most requests, now or before."""
    if frames["now", "requests"] is None:
        return None
    values: dict[tuple[str, str], dict[tuple[str, str], float]] = {
        key: {} if frame is None else {(row["namespace"], row[metrics.service_label]): row["value"] for row in frame.to_dict("records")}
        for key, frame in frames.items()
    }

    def then(when: str, service: tuple[str, str]) -> Then:
        requests, errors, latency = (values[when, name].get(service) for name in ("requests", "errors", "latency"))
        if requests is None and when in ("now", "recent") and frames[when, "requests"] is not None:
            requests = 0.0  # of earlier times it is not known whether Prometheus was there to see
        # No series of errors means no errors, where there are requests and the errors could be asked for.
        ratio = (errors or 0) / requests if requests and frames[when, "errors"] is not None else None
        return Then(requests=requests, error_ratio=ratio, latency=None if latency is None or latency != latency else latency)

    names = dict.fromkeys(service for when in TIMES for service in values[when, "requests"])
    found = [ServiceUse(name=service[1], namespace=service[0], **{when: then(when, service) for when in TIMES}) for service in names]
    found.sort(key=_weight, reverse=True)
    return found[:most]


def _weight(service: ServiceUse) -> tuple[float, float]:
    times = (service.now, service.recent, service.yesterday, service.last_week)
    failed = max((time.error_ratio or 0) * (time.requests or 0) for time in times[:2])
    return failed, max(time.requests or 0 for time in times)


def over_time(frame: pandas.DataFrame | None, metrics: Metrics) -> pandas.DataFrame | None:
    """The frame with the columns service (namespace/name), time and value."""
    import pandas

    if frame is None:
        return None
    labels = [f"{space}/{name}" if space else name for space, name in zip(frame["namespace"], frame[metrics.service_label], strict=True)]
    return pandas.DataFrame({"service": labels, "time": frame["time"], "value": frame["value"]})
