"""Reads the facts of chapter 4.3 memory: sums by workload of everything, curves of the few containers that are conspicuous."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opslib.diagnosis.memory.facts import Curve, Facts, Parameters
from opslib.diagnosis.usage import Change, Place, PodPlace, Series, Use
from opslib.facts import Answer, Questions, containers
from opslib.facts.containers import BY_POD, Asker, Containers, by_place, by_pod, placed, series_of, top, workload_of
from opslib.facts.monitoring import nodes
from opslib.facts.sources import Sources
from opslib.messages import _
from opslib.sources.prometheus import any_of, matcher, selector

if TYPE_CHECKING:
    import pandas

    from opslib.environments import Metrics

    Frames = Mapping[str, pandas.DataFrame | None]

_POINTS = 240  # of a curve
_STEP_MINUTES = 30  # between two values of the history
_PODS_OF_ONE = 3  # pods of one workload that are looked at closely
_WORKING_SET = "container_memory_working_set_bytes"
_LAST_REASON = "kube_pod_container_status_last_terminated_reason"
_RESTARTS = "kube_pod_container_status_restarts_total"


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 4.3 memory, from Prometheus and the cluster at once."""
    what = _("use of memory")
    fields = containers.read(
        sources, parameters, questions, what, lambda metrics, now: _Reader(sources, metrics, parameters, questions, now).read()
    )
    return Facts(**fields, gaps=questions.gaps)


class _Reader:
    """One reading of Prometheus."""

    def __init__(self, sources: Sources, metrics: Metrics, parameters: Parameters, questions: Questions, now: datetime) -> None:
        self.sources, self.metrics, self.parameters, self.questions, self.now = sources, metrics, parameters, questions, now
        self.asker = Asker(sources, questions, now)
        self.every = Containers(metrics, parameters.namespace)
        self.hours = f"[{round(parameters.hours * 60)}m]"

    def read(self) -> dict[str, Any]:
        """The fields of `Facts` that come from Prometheus."""
        ask, parameters = self.asker.ask, self.parameters
        sums = {name: ask(_("use of memory"), top(promql)) for name, promql in self._sums().items()}
        suspects = [ask(_("containers whose memory grows"), promql, BY_POD) for promql in self._suspects()]
        of_nodes = self._ask_nodes()
        frames = {name: answer.get() for name, answer in sums.items()}
        remedy = _("Scrape the kubelets' /metrics/cadvisor, or name its labels in the environment's file")
        containers.absent(self.questions, frames["total"], _WORKING_SET, remedy)
        pods = _chosen([by_pod(answer.get()) for answer in suspects], parameters.most)
        places = {pod: Place(pod.namespace, workload_of(pod.pod), pod.container) for pod in pods}
        events, reasons = by_place(frames["events"]), by_place(frames["reasons"])
        rows = _rows(frames, [*places.values(), *events, *reasons], parameters.most)
        past = self._ask_history(rows)
        curves, of_requests, images = self._curves(pods, places)
        history = {name: by_place(answer.get()) for name, answer in past.items()}
        known = frames["reasons"] is not None or frames["events"] is not None
        return {
            "uses": None if frames["total"] is None else _uses(frames, rows, history),
            "kills": {place: max(events.get(place, 0), reasons.get(place, 0)) for place in {*events, *reasons}} if known else None,
            "curves": curves,
            "places": places,
            "load_is_requests": of_requests,
            "changes": tuple(images),
            "nodes": _nodes({name: answer.get() for name, answer in of_nodes.items()}),
        }

    def _sums(self) -> dict[str, str]:
        """By place: what is in use, what was asked for, and who ran out of it."""
        every, memory = self.every, matcher("resource", "memory")
        value = every.usage(_WORKING_SET)
        killed = every.state(_LAST_REASON, matcher("reason", "OOMKilled"))
        restarts = every.state(_RESTARTS, over=f"increase(%s{self.hours})")
        events = every.usage("container_oom_events_total", how="sum", over=f"increase(%s{self.hours})")
        return {
            "total": placed("sum", value),
            "highest": placed("max", value),
            "pods": placed("count", value),
            "limit": placed("max", every.state("kube_pod_container_resource_limits", memory)),
            "set_limit": placed("max", f"({every.usage('container_spec_memory_limit_bytes')} > 0)"),
            "request": placed("max", every.state("kube_pod_container_resource_requests", memory)),
            "events": f"{placed('sum', events)} > 0.5",
            "reasons": f"{placed('sum', f'({restarts} and on ({BY_POD}) ({killed} == 1))')} > 0.5",
        }

    def _suspects(self) -> list[str]:
        """Pods to look at closely: near their limit, growing, killed, largest of those without a limit."""
        every, most = self.every, self.parameters.most
        value = every.usage(_WORKING_SET)
        limit = f"(({every.usage('container_spec_memory_limit_bytes')} > 0) or {self._limits()})"
        # of a pod that is hours old, against the middle of that time; of a younger one, by its slope
        half = round(self.parameters.hours * 30)
        growing = f"({value} - {every.usage(_WORKING_SET, over=f'%s offset {half}m')})"
        slope = every.usage(_WORKING_SET, over="deriv(%s[30m])")
        killed = every.state(_LAST_REASON, matcher("reason", "OOMKilled"))
        restarts = every.state(_RESTARTS, over=f"increase(%s{self.hours})")
        return [
            f"topk({most}, ({restarts} and on ({BY_POD}) ({killed} == 1)) > 0.5)",
            f"topk({most}, {value} / on ({BY_POD}) {limit} > 0.7)",
            f"topk({most}, {growing} / on ({BY_POD}) {limit} > 0.05)",
            f"topk({most}, {slope} * 3600 / on ({BY_POD}) {limit} > 0.02)",
            f"topk(5, {growing} unless on ({BY_POD}) {limit})",
        ]

    def _limits(self) -> str:
        return self.every.state("kube_pod_container_resource_limits", matcher("resource", "memory"))

    def _ask_nodes(self) -> dict[str, Answer[pandas.DataFrame]]:
        if self.parameters.namespace:
            return {}
        queries = {name: pair for name, pair in nodes.queries().items() if not name.startswith("filesystem")}
        return {name: self.asker.ask(_("use of the nodes"), promql, ", ".join(by)) for name, (promql, by) in queries.items()}

    def _ask_history(self, rows: list[Place]) -> dict[str, Answer[pandas.DataFrame]]:
        if not rows:
            return {}
        some, days = Containers(self.metrics, self.parameters.namespace, rows), self.parameters.history_days
        queries = containers.history(some.usage(_WORKING_SET), days, _STEP_MINUTES)
        queries["peak"] = placed("max", some.usage(_WORKING_SET, over=f"max_over_time(%s[{days}d])"))  # every sample, and cheaper
        return {name: self.asker.ask(_("memory over the last days"), promql) for name, promql in queries.items()}

    def _curves(
        self, pods: list[PodPlace], places: Mapping[PodPlace, Place]
    ) -> tuple[dict[PodPlace, Curve], frozenset[Place], list[Change]]:
        """What the chosen pods used over time, what was asked of them, and their images."""
        if not pods:
            return {}, frozenset(), []
        close, hours = Containers(self.metrics, self.parameters.namespace, places.values()), self.parameters.hours
        these = any_of(self.metrics.pod_label, sorted({pod.pod for pod in pods}))
        those = any_of(f"{self.metrics.state_prefix}pod", sorted({pod.pod for pod in pods}))
        what = _("memory of the containers that grow")

        def over_time(promql: str, labels: str = BY_POD) -> Answer[pandas.DataFrame]:
            return self.asker.over_time(what, promql, hours, _POINTS, labels)

        by_image = f"{containers.BY}, image"
        asked = {
            "working_set": over_time(close.usage(_WORKING_SET, these)),
            "rss": over_time(close.usage("container_memory_rss", these)),
            "cache": over_time(close.usage("container_memory_cache", these)),
            "start": over_time(close.usage("container_start_time_seconds", these)),
            "restarts": over_time(close.state(_RESTARTS, those)),
            "killed": over_time(close.state(_LAST_REASON, matcher("reason", "OOMKilled"), those)),
            "limit": over_time(close.usage("container_spec_memory_limit_bytes", these)),
            "limit_set": over_time(close.state("kube_pod_container_resource_limits", matcher("resource", "memory"), those)),
        }
        cores = over_time(placed("sum", close.usage("container_cpu_usage_seconds_total", how="sum", over="rate(%s[5m])")), containers.BY)
        requests = over_time(self._requests({place.workload for place in places.values()}), self.metrics.service_label)
        images = over_time(containers.placed_by_image(close, _WORKING_SET), by_image)
        series = {name: series_of(answer.get(), *BY_POD.split(", ")) for name, answer in asked.items()}
        of_cpu = series_of(cores.get(), *containers.BY.split(", "))
        of_requests = series_of(requests.get(), self.metrics.service_label)
        curves = {}
        for pod, place in places.items():
            load = of_requests.get((place.workload,)) or of_cpu.get(tuple(place))
            found = _curve(series, pod, load)
            if found is not None:
                curves[pod] = found
        counted = frozenset(place for place in places.values() if (place.workload,) in of_requests)
        changes = containers.image_changes(series_of(images.get(), *by_image.split(", ")), self.asker.begin(hours))
        return curves, counted, changes

    def _requests(self, workloads: Iterable[str]) -> str:
        """Requests a second of the services that are called as the workloads are."""
        metrics = self.metrics
        chosen = selector(metrics.requests_metric, any_of(metrics.service_label, sorted(workloads)))
        return f"sum by ({metrics.service_label}) (rate({chosen}[5m]))"


def _chosen(found: list[dict[PodPlace, float]], most: int) -> list[PodPlace]:
    """Pods of all questions in turn, so that none of them crowds out the others; few of each workload."""
    queues = [list(one) for one in found]
    chosen: list[PodPlace] = []
    of_place: Counter[Place] = Counter()
    for rank in range(max(map(len, queues), default=0)):
        for queue in queues:
            if rank < len(queue) and queue[rank] not in chosen:
                pod = queue[rank]
                place = Place(pod.namespace, workload_of(pod.pod), pod.container)
                if of_place[place] < _PODS_OF_ONE:
                    of_place[place] += 1
                    chosen.append(pod)
    return chosen[:most]


def _rows(frames: Frames, conspicuous: Iterable[Place], most: int) -> list[Place]:
    """The places that are shown and whose history is read: the conspicuous, the largest, and those whose requests are least used."""
    total, request, pods = (by_place(frames[name]) for name in ("total", "request", "pods"))
    unused = {place: value * pods.get(place, 0) - total.get(place, 0) for place, value in request.items() if place in total}
    largest = sorted(total, key=lambda place: -total[place])[:most]
    saved = [place for place in sorted(unused, key=lambda place: -unused[place])[:most] if unused[place] > 0]
    return list(dict.fromkeys([*conspicuous, *largest, *saved]))[: 3 * most]


def _uses(frames: Frames, rows: list[Place], history: Mapping[str, Mapping[Place, float]]) -> dict[Place, Use]:
    total, highest, pods, limit, set_limit, request = (
        by_place(frames[name]) for name in ("total", "highest", "pods", "limit", "set_limit", "request")
    )
    return {
        place: Use(
            pods=round(pods[place]) if place in pods else None,
            highest=highest.get(place),
            total=total.get(place),
            request=request.get(place),
            limit=limit.get(place, set_limit.get(place)),
            **{name: values.get(place) for name, values in history.items()},
        )
        for place in rows
    }


def _curve(series: Mapping[str, Mapping[tuple[str, ...], Series]], pod: PodPlace, load: Series | None) -> Curve | None:
    """The series of one pod on the times of its working set."""
    import numpy as np

    own = series["working_set"].get(tuple(pod))
    if own is None:
        return None

    def beside(one: Series | None) -> Any:
        if one is None or not len(one.times):
            return None
        places = np.searchsorted(one.times, own.times)
        places = places.clip(0, len(one.times) - 1)
        return np.where(np.abs(one.times[places] - own.times) < 1, one.values[places], np.nan)

    limits = [
        float(one.values[-1]) for name in ("limit_set", "limit") if (one := series[name].get(tuple(pod))) is not None and len(one.values)
    ]
    limit = next((value for value in limits if value > 0), None)
    starts = series["start"].get(tuple(pod))
    restarts = series["restarts"].get(tuple(pod))
    begun = {float(value) for value in starts.values if value > 0} if starts is not None else set()
    if restarts is not None and not begun:
        begun = {float(restarts.times[place + 1]) for place in np.flatnonzero(np.diff(restarts.values) > 0)}
    rss, cache = (beside(series[name].get(tuple(pod))) for name in ("rss", "cache"))
    killed = beside(series["killed"].get(tuple(pod)))
    # the reason of the last end stands from the container's new beginning on
    after = {time: own.times.searchsorted(time) for time in begun}
    kills = [time for time, place in after.items() if killed is not None and np.nansum(killed[place : place + 2]) > 0]
    return Curve(
        times=own.times,
        working_set=own.values,
        rss=rss,
        cache=cache,
        load=beside(load),
        limit=limit,
        restarts=tuple(sorted(begun)),
        kills=tuple(sorted(kills)),
    )


def _nodes(frames: Frames) -> tuple[Any, ...] | None:
    found = nodes.nodes({"info": None, **frames})
    return None if found is None else tuple(found)
