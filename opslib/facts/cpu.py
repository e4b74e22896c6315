"""Reads the facts of chapter 4.3 CPU: sums by workload of everything, curves of the few containers that are held back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opslib.diagnosis.cpu.facts import Facts, Node, Parameters, cores
from opslib.diagnosis.usage import Change, Place, Series, Use
from opslib.errors import NotFound
from opslib.facts import Answer, Questions, containers
from opslib.facts.containers import BY, BY_POD, Asker, Containers, by_place, by_pod, placed, series_of, top, workload_of
from opslib.facts.monitoring import nodes
from opslib.facts.sources import Sources
from opslib.messages import Text, _
from opslib.sources.fitting import PlacedPod
from opslib.sources.objects import Autoscaler
from opslib.sources.objects import Node as ClusterNode
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


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 4.3 CPU, from Prometheus and the cluster at once."""
    autoscalers = questions.ask(_("autoscalers"), lambda: _autoscalers(sources, parameters.namespace))
    schedulable = questions.ask(_("nodes"), lambda: sources.kubernetes.list(ClusterNode, "nodes"))
    what = _("use of CPU")
    fields = containers.read(
        sources, parameters, questions, what, lambda metrics, now: _Reader(sources, metrics, parameters, questions, now).read()
    )
    nodes = schedulable.get()
    facts = Facts(**fields, autoscalers=autoscalers.get(), schedulable=None if nodes is None else tuple(nodes))
    examples = _examples(sources, facts, parameters, questions)
    return dataclasses.replace(facts, examples=examples, gaps=questions.gaps)


def _examples(sources: Sources, facts: Facts, parameters: Parameters, questions: Questions) -> dict[tuple[str, str], PlacedPod]:
    """One pod of each workload of which more may be wanted: those at their autoscaler's maximum first, then those that are throttled."""
    scalers = sorted(facts.autoscalers or (), key=lambda one: one.status.current_replicas < one.spec.max_replicas)
    throttled = facts.throttled or {}
    wanted = dict.fromkeys(
        [
            *((one.metadata.namespace, one.spec.scale_target_ref.name) for one in scalers),
            *((place.namespace, place.workload) for place in sorted(throttled, key=lambda place: -throttled[place])),
        ]
    )
    pods = {(place.namespace, place.workload): pod for place, pod in facts.busiest.items()}
    chosen = [key for key in wanted if key in pods][: parameters.most]

    def example(namespace: str, pod: str) -> PlacedPod | None:
        try:
            return sources.kubernetes.get(PlacedPod, "pods", pod, namespace)
        except NotFound:  # it has gone since Prometheus saw it
            return None

    asked = {key: questions.ask(_("what pods ask for"), functools.partial(example, key[0], pods[key])) for key in chosen}
    return {key: found for key, answer in asked.items() if (found := answer.get()) is not None}


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
            "pods": ('count by (node) (kube_pod_info{node!=""})', "node"),
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


def _nodes(frames: Frames) -> tuple[Node, ...] | None:
    if all(frame is None for frame in frames.values()):
        return None
    more = ("steal", "waiting", "load", "pods")
    base = nodes.nodes({"info": None, **{name: frame for name, frame in frames.items() if name not in more}})
    steal, waiting, load, pods = (nodes.by_node(frames.get("info"), frames[name]) for name in more)
    return tuple(
        Node(
            name=one.name, cores=one.cpu_allocatable, used=one.cpu_used, requested=one.cpu_requested, memory_requested=one.memory_requested,
            steal=steal.get(one.name), waiting=waiting.get(one.name), load=load.get(one.name), pods=pods.get(one.name),
        )
        for one in base or ()
    )  # fmt: skip
