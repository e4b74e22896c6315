"""Reads the facts of chapter 4.3 CPU: sums by workload of everything, curves of the few containers that are held back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.diagnosis.cpu.facts import Facts, Node, Parameters, cores
from opslib.diagnosis.usage import Change, Cluster, Place, Series, Use
from opslib.errors import NotFound
from opslib.facts import Answer, Questions, containers
from opslib.facts.containers import BY, BY_POD, Asker, Containers, by_place, by_pod, placed, series_of, top, workload_of
from opslib.facts.monitoring import nodes
from opslib.facts.sources import Sources
from opslib.messages import Text, _
from opslib.sources.objects import Autoscaler
from opslib.sources.prometheus import matcher

if TYPE_CHECKING:
    import pandas

    from opslib.environments import Metrics

    Frames = Mapping[str, pandas.DataFrame | None]

_POINTS = 240
_STEP_MINUTES = 20  # between two values of the history
_MOST_CURVES = 12
_USED = "container_cpu_usage_seconds_total"
_THROTTLED, _PERIODS = "container_cpu_cfs_throttled_periods_total", "container_cpu_cfs_periods_total"
_BY_WORKLOAD = "namespace, workload"


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 4.3 CPU, from Prometheus and the cluster at once."""
    environment, now = sources.environment, datetime.now(UTC)
    kinds = containers.ask_kinds(sources, questions, parameters.namespace)
    autoscalers = questions.ask(_("autoscalers"), lambda: _autoscalers(sources, parameters.namespace))
    rollouts = containers.ask_rollouts(sources, questions, parameters.namespace, now - timedelta(hours=2 * parameters.hours))
    facts = Facts(now=now, environment=environment.name, zone=environment.zone, links=environment.links)
    if environment.prometheus is None:
        questions.ask(_("use of CPU"), lambda: sources.prometheus).get()  # says which field is missing
    else:
        reader = _Reader(sources, environment.prometheus, parameters, questions, now)
        facts = dataclasses.replace(facts, prometheus_url=environment.prometheus.url, **reader.read())
    cluster = Cluster(kinds(), environment.kubernetes.kubectl_options)
    changes = tuple(sorted([*rollouts(), *facts.changes], key=lambda change: change.time))
    return dataclasses.replace(facts, cluster=cluster, changes=changes, autoscalers=autoscalers.get(), gaps=questions.gaps)


def _autoscalers(sources: Sources, namespace: str) -> tuple[Autoscaler, ...]:
    try:
        return tuple(sources.kubernetes.list(Autoscaler, "horizontalpodautoscalers.autoscaling", namespace))
    except NotFound:
        return ()


class _Reader:
    """One reading of Prometheus."""

    def __init__(self, sources: Sources, metrics: Metrics, parameters: Parameters, questions: Questions, now: datetime) -> None:
        self.sources, self.metrics, self.parameters, self.questions, self.now = sources, metrics, parameters, questions, now
        self.asker = Asker(sources, questions, now)
        self.every = Containers(metrics, parameters.namespace)

    def read(self) -> dict[str, Any]:
        """The fields of `Facts` that come from Prometheus."""
        parameters, every = self.parameters, self.every
        sums = {name: self.asker.ask(_("use of CPU"), top(promql)) for name, promql in self._sums().items()}
        busiest = self.asker.ask(_("use of CPU"), top(_rate(every)), BY_POD)
        asked = {name: self.asker.ask(_("requests"), top(self._of_pods(name)), _BY_WORKLOAD) for name in ("cpu", "memory")}
        of_nodes = self._ask_nodes()
        frames = {name: answer.get() for name, answer in sums.items()}
        remedy = _("Scrape the kubelets' /metrics/cadvisor, or name its labels in the environment's file")
        containers.absent(self.questions, frames["total"], _USED, remedy)
        lately, now = (by_place(frames[name]) for name in ("throttled", "throttled_now"))
        throttled = {place: max(lately.get(place, 0.0), now.get(place, 0.0)) for place in {**lately, **now}}
        rows = self._rows(frames, throttled)
        past = self._ask_history(rows)
        close = [place for place in rows if throttled.get(place, 0) >= parameters.throttled_warning or _near(frames, place)]
        curves, changes = self._curves(close[:_MOST_CURVES])
        history = {name: by_place(answer.get()) for name, answer in past.items()}
        return {
            "uses": None if frames["total"] is None else _uses(frames, rows, history),
            "throttled": None if frames["throttled"] is None else throttled,
            "busiest": _busiest(busiest.get()),
            "requests": _requests({name: answer.get() for name, answer in asked.items()}),
            "nodes": _nodes({name: answer.get() for name, answer in of_nodes.items()}),
            "changes": tuple(changes),
            **curves,
        }

    def _sums(self) -> dict[str, str]:
        """By place: what is in use, what was asked for, and who is held back."""
        every, cpu = self.every, matcher("resource", "cpu")
        value = _rate(every)
        return {
            "total": placed("sum", value),
            "highest": placed("max", value),
            "pods": placed("count", value),
            "limit": placed("max", _limit(every)),
            "request": placed("max", every.state("kube_pod_container_resource_requests", cpu)),
            "throttled": f"{_share(every, '1h')} > 0.01",
            "throttled_now": f"{_share(every, '15m')} > 0.01",
        }

    def _of_pods(self, resource: str) -> str:
        """What one pod of a workload asks for, all its containers together."""
        asked = self.every.state("kube_pod_container_resource_requests", matcher("resource", resource))
        return placed("max", f"sum by (namespace, pod) ({asked})", _BY_WORKLOAD)

    def _rows(self, frames: Frames, throttled: Mapping[Place, float]) -> list[Place]:
        """The places that are shown and whose history is read: the conspicuous, the largest, and those whose requests are least used."""
        most = self.parameters.most
        total, request, pods = (by_place(frames[name]) for name in ("total", "request", "pods"))
        unused = {place: value * pods.get(place, 0) - total.get(place, 0) for place, value in request.items() if place in total}
        saved = [place for place in sorted(unused, key=lambda place: -unused[place])[:most] if unused[place] > 0]
        near = [place for place in total if _near(frames, place)]
        held = sorted(throttled, key=lambda place: -throttled[place])[:most]
        return list(dict.fromkeys([*held, *near, *sorted(total, key=lambda place: -total[place])[:most], *saved]))[: 3 * most]

    def _ask_history(self, rows: list[Place]) -> dict[str, Answer[pandas.DataFrame]]:
        if not rows:
            return {}
        queries = containers.history(
            _rate(Containers(self.metrics, self.parameters.namespace, rows)), self.parameters.history_days, _STEP_MINUTES
        )
        return {name: self.asker.ask(_("CPU over the last days"), promql) for name, promql in queries.items()}

    def _curves(self, places: list[Place]) -> tuple[dict[str, Mapping[Place, Series]], list[Change]]:
        """Throttling, use and limit of the chosen places over time, and when limits and images changed."""
        if not places:
            return {}, []
        close, hours = Containers(self.metrics, self.parameters.namespace, places), self.parameters.hours
        what = _("CPU of the containers that are held back")

        def over_time(promql: str, labels: str = BY) -> Answer[pandas.DataFrame]:
            return self.asker.over_time(what, promql, hours, _POINTS, labels)

        asked = {
            "throttling": over_time(_share(close, "5m")),
            "using": over_time(placed("max", _rate(close))),
            "limits": over_time(placed("max", _limit(close))),
        }
        by_image = f"{BY}, image"
        images = over_time(containers.placed_by_image(close, _USED), by_image)
        curves = {
            name: {Place(*key): one for key, one in series_of(answer.get(), *BY.split(", ")).items() if Place(*key) in places}
            for name, answer in asked.items()
        }
        changes = [
            Change(datetime.fromtimestamp(time, UTC), key[0], key[1], "limit", _limit_text(before, after), key[2])
            for key, steps in containers.steps_of({tuple(key): one for key, one in curves["limits"].items()}).items()
            for time, before, after in steps
        ]
        found = series_of(images.get(), *by_image.split(", "))
        return dict(curves), [*changes, *containers.image_changes(found, self.asker.begin(hours))]

    def _ask_nodes(self) -> dict[str, Answer[pandas.DataFrame]]:
        here = "instance, node"
        queries = {name: (promql, ", ".join(by)) for name, (promql, by) in nodes.queries().items() if not name.startswith("filesystem")}
        queries |= {
            "steal": (f'sum by ({here}) (rate(node_cpu_seconds_total{{mode="steal"}}[5m]))', here),
            "waiting": (f'sum by ({here}) (rate(node_cpu_seconds_total{{mode="iowait"}}[5m]))', here),
            "load": (f"max by ({here}) (node_load5)", here),
            "cordoned": ("max by (node) (kube_node_spec_unschedulable)", "node"),
            "pods": ('count by (node) (kube_pod_info{node!=""})', "node"),
            "most_pods": ('max by (node) (kube_node_status_allocatable{resource="pods"})', "node"),
        }
        return {name: self.asker.ask(_("use of the nodes"), promql, labels) for name, (promql, labels) in queries.items()}


def _rate(some: Containers) -> str:
    """Cores of each container of each pod."""
    return some.usage(_USED, how="sum", over="rate(%s[5m])")


def _share(some: Containers, span: str) -> str:
    """Share of the CPU periods in which containers were held back, by place."""
    held, all_ = (placed("sum", some.usage(metric, how="sum", over=f"increase(%s[{span}])")) for metric in (_THROTTLED, _PERIODS))
    return f"{held} / ({all_} > 0)"


def _limit(some: Containers) -> str:
    """Limits in cores: kube-state-metrics', else the kubelet's own."""
    state = some.state("kube_pod_container_resource_limits", matcher("resource", "cpu"))
    quota, period = (some.usage(f"container_spec_cpu_{name}") for name in ("quota", "period"))
    return f"({state} or (({quota} > 0) / {period}))"


def _limit_text(before: float, after: float) -> Text:
    return _("limit changed from {before} to {after}", before=cores(before), after=cores(after))


def _near(frames: Frames, place: Place) -> bool:
    highest, limit = (by_place(frames[name]).get(place) for name in ("highest", "limit"))
    return bool(highest and limit and highest / limit >= 0.8)


def _uses(frames: Frames, rows: list[Place], history: Mapping[str, Mapping[Place, float]]) -> dict[Place, Use]:
    total, highest, pods, limit, request = (by_place(frames[name]) for name in ("total", "highest", "pods", "limit", "request"))
    return {
        place: Use(
            pods=round(pods[place]) if place in pods else None,
            highest=highest.get(place),
            total=total.get(place),
            request=request.get(place),
            limit=limit.get(place),
            **{name: values.get(place) for name, values in history.items()},
        )
        for place in rows
    }


def _busiest(frame: pandas.DataFrame | None) -> dict[Place, str]:
    found: dict[Place, str] = {}
    for pod in by_pod(frame):  # largest first
        found.setdefault(Place(pod.namespace, workload_of(pod.pod), pod.container), pod.pod)
    return found


def _requests(frames: Frames) -> dict[tuple[str, str], tuple[float, float]]:
    values: dict[str, dict[tuple[str, str], float]] = {}
    for name, frame in frames.items():
        rows = () if frame is None else zip(*(frame[label].tolist() for label in ("namespace", "workload", "value")), strict=True)
        values[name] = {(namespace, workload): value for namespace, workload, value in rows}
    return {key: (asked, values["memory"].get(key, 0.0)) for key, asked in values["cpu"].items()}


def _nodes(frames: Frames) -> tuple[Node, ...] | None:
    if all(frame is None for frame in frames.values()):
        return None
    more = ("steal", "waiting", "load", "cordoned", "pods", "most_pods")
    base = nodes.nodes({"info": None, **{name: frame for name, frame in frames.items() if name not in more}})

    def named(name: str) -> dict[str, float | None]:
        # read as the use of CPU is, so that a node has one name whatever labels a metric has
        return {one.name: one.cpu_used for one in nodes.nodes({"info": frames.get("info"), "cpu_used": frames[name]}) or ()}

    steal, waiting, load, cordoned, pods, most = (named(name) for name in more)
    return tuple(
        Node(
            name=one.name, cores=one.cpu_allocatable, used=one.cpu_used, requested=one.cpu_requested, memory=one.memory_allocatable,
            memory_requested=one.memory_requested, steal=steal.get(one.name), waiting=waiting.get(one.name), load=load.get(one.name),
            pods=pods.get(one.name), most_pods=most.get(one.name), cordoned=bool(cordoned.get(one.name)),
        )
        for one in base or ()
    )  # fmt: skip
