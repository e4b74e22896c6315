"""Three hours of samples in which everything occurs that PromQL has a rule for."""

from __future__ import annotations

import numpy as np
from prometheus_servers import History, stale

BASE = 1_700_000_000  # Unix seconds of the first sample
HOURS = 3
END = BASE + HOURS * 3600


def history() -> History:
    """Counters with resets, gauges, histograms, gaps, ends, NaN and infinities; no two values alike where an order would depend on it."""
    random = np.random.default_rng(7)
    result = History()
    times = BASE * 1000 + np.arange(0, HOURS * 3600_000, 15_000)
    count = len(times)

    def counter(rate: float) -> np.ndarray:
        return np.cumsum(random.poisson(rate, count)).astype(float)

    # an application: counters by service, pod and code; pods come, go (with a marker, or silently) and restart
    for number, service in enumerate(("cart", "checkout", "search")):
        for pod in range(3):
            labels = {"job": "app", "service": service, "pod": f"{service}-{pod}", "instance": f"10.0.{number}.{pod}:8080"}
            shift = 137 * (3 * number + pod)
            for code, rate in (("200", 40.0 + 7 * number + pod), ("404", 2.0), ("500", 0.3 * number + 0.2)):
                values = counter(rate)
                if pod == 1:
                    values[count // 3 :] -= values[count // 3]
                begin, end = (count // 4, count) if pod == 2 else (0, count)
                if pod == 0 and service == "search":
                    end = count // 2
                    values[end - 1] = stale()
                result.add({"__name__": "http_requests_total", "code": code, **labels}, times[begin:end] + shift, values[begin:end])
            observations = counter(50.0)
            for bound, share in (("0.05", 0.2), ("0.1", 0.5), ("0.5", 0.9), ("1", 0.97), ("2.5", 0.99), ("+Inf", 1.0)):
                result.add(
                    {"__name__": "http_request_duration_seconds_bucket", "le": bound, **labels},
                    times + shift,
                    np.floor(observations * share),
                )
            result.add({"__name__": "http_request_duration_seconds_count", **labels}, times + shift, observations)
            result.add({"__name__": "http_request_duration_seconds_sum", **labels}, times + shift, observations * 0.173)
            result.add(
                {"__name__": "up", "job": "app", "instance": labels["instance"]},
                times + shift,
                np.where(np.arange(count) % 97 == pod, 0, 1),
            )
            memory = 2e8 + 1e6 * np.arange(count) + random.normal(0, 3e6, count)
            result.add({"__name__": "container_memory_working_set_bytes", **labels}, times + shift, memory)
            result.add(
                {"__name__": "kube_pod_info", "pod": labels["pod"], "node": f"node-{pod}", "namespace": "shop"}, times, np.ones(count)
            )
            result.add(
                {"__name__": "kube_pod_status_phase", "pod": labels["pod"], "namespace": "shop", "phase": "Running"}, times, np.ones(count)
            )
    # nodes
    for node in range(3):
        labels = {"job": "node", "node": f"node-{node}", "instance": f"10.1.0.{node}:9100"}
        for mode, rate in (("idle", 10.0), ("user", 4.0), ("system", 1.0)):
            for cpu in range(2):
                seconds = np.cumsum(random.uniform(0, rate, count))
                result.add({"__name__": "node_cpu_seconds_total", "mode": mode, "cpu": str(cpu), **labels}, times + 11 * node, seconds)
        free = 1e11 - 2e6 * (node + 1) * np.arange(count) + random.normal(0, 1e6, count)
        result.add({"__name__": "node_filesystem_avail_bytes", "mountpoint": "/", **labels}, times, free)
        result.add({"__name__": "node_filesystem_size_bytes", "mountpoint": "/", **labels}, times, np.full(count, 1.2e11))
        result.add({"__name__": "node_load1", **labels}, times, random.normal(2, 1, count))
    # oddities
    odd = random.normal(0, 10, count)
    odd[::17] = np.nan
    odd[5::61] = np.inf
    odd[7::67] = -np.inf
    result.add({"__name__": "odd", "kind": "mixed"}, times, odd)
    result.add({"__name__": "odd", "kind": "nan"}, times, np.full(count, np.nan))
    gaps = (np.arange(count) % 100) < 60
    result.add({"__name__": "odd", "kind": "gaps"}, times[gaps], random.normal(5, 2, int(gaps.sum())))
    result.add({"__name__": "odd", "kind": "sparse"}, times[::20] + 333, random.normal(-5, 2, len(times[::20])))
    flapping = random.normal(1, 1, count)
    flapping[(np.arange(count) % 40) == 39] = stale()
    result.add({"__name__": "odd", "kind": "flapping"}, times, flapping)
    irregular = BASE * 1000 + np.cumsum(random.integers(1000, 60_000, 350))
    result.add({"__name__": "odd", "kind": "irregular"}, irregular, random.normal(0, 1, 350))
    result.add({"__name__": "single"}, times[300:301], np.array([42.0]))
    result.add({"__name__": "tiny"}, times, random.uniform(0, 1e-8, count))
    result.add({"__name__": "huge"}, times, random.uniform(1e22, 1e24, count))
    result.add({"__name__": "moment_timestamp_seconds"}, times, BASE + 86_400 * 11.3 * np.arange(count))
    result.add({"__name__": "two words", "a label": 'é\n"quoted"'}, times, random.normal(0, 1, count))
    # histograms that are not well formed: a falling bucket, a missing +Inf, a wrong bound, the same bound twice
    for bound, value in (("1", 10.0), ("2", 8.0), ("+Inf", 20.0), ("1.0", 1.0)):
        result.add({"__name__": "falling_bucket", "le": bound}, times, np.full(count, value))
    for bound, value in (("1", 10.0), ("2", 12.0), ("x", 3.0)):
        result.add({"__name__": "open_bucket", "le": bound}, times, np.full(count, value))
    for bound, value in (("-2", 3.0), ("-1", 10.0), ("0", 12.0), ("+Inf", 20.0)):
        result.add({"__name__": "negative_bucket", "le": bound}, times, np.full(count, value))
    return result
