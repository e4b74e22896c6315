"""PromQL about containers by workload, and what chapters 4.3 cpu and memory both ask the cluster.

Everything is added up in Prometheus: a cluster of 20,000 pods comes back as a few hundred rows. A workload is known there by its pods'
names alone, which controllers make from the workload's name with endings of their own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from opslib.diagnosis.usage import Change, Cluster, Place, PodPlace, Series
from opslib.errors import NotFound
from opslib.facts import Answer, Questions
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity, Step, Subject
from opslib.messages import Text, _, one_line
from opslib.sources.objects import Object
from opslib.sources.prometheus import SYSTEM, any_of, matcher, selector, string

if TYPE_CHECKING:
    import pandas

    from opslib.environments import Metrics

MOST = 400  # rows of one answer
BY = "namespace, workload, container"
BY_POD = "namespace, pod, container"
PERCENTILES = {"p95": 0.95, "p99": 0.99}
_KINDS = {"Deployment": "deployments.apps", "StatefulSet": "statefulsets.apps", "DaemonSet": "daemonsets.apps", "CronJob": "cronjobs.batch"}

# Endings of pods' names: a CronJob's time, a ReplicaSet's hash and five characters, both of an alphabet without vowels
# (https://github.com/kubernetes/apimachinery/blob/master/pkg/util/rand/rand.go); a StatefulSet's number.
_SAFE = "[bcdfghjklmnpqrstvwxz2456789]"
_POD_NAME = f"(?:(.+?)(?:-[0-9]{{8,10}})?(?:-{_SAFE}{{6,10}})?-{_SAFE}{{5}}|(.+?)-[0-9]{{1,4}})"


def workload_of(pod: str) -> str:
    """The workload that a pod's name comes from, as the queries have it."""
    found = re.fullmatch(_POD_NAME, pod)
    return (found[1] or found[2]) if found else pod


class Containers:
    """Expressions over containers, with the labels that this Prometheus has.

    Whatever they are called there, what comes back is labelled `namespace`, `pod` and `container`, and is about real containers
    only, neither a pod's sum nor its sandbox.
    """

    def __init__(self, metrics: Metrics, namespace: str = "", places: Iterable[Place] | None = None) -> None:
        self._metrics = metrics
        self._namespace = namespace
        self._places = None if places is None else list(places)

    def usage(self, metric: str, *matchers: str, how: str = "max", over: str = "%s", by: str = BY_POD) -> str:
        """A metric of the kubelet's (cAdvisor) by container: ``how by (namespace, pod, container) (over)``.

        `over` is what is done with the series before: ``rate(%s[5m])``.
        """
        names = (self._metrics.namespace_label, self._metrics.pod_label, self._metrics.container_label)
        return self._by_pod(names, metric, matchers, how, over, by)

    def state(self, metric: str, *matchers: str, how: str = "max", over: str = "%s") -> str:
        """The same of a metric of kube-state-metrics'."""
        prefix = self._metrics.state_prefix
        return self._by_pod((f"{prefix}namespace", f"{prefix}pod", f"{prefix}container"), metric, matchers, how, over, BY_POD)

    def _by_pod(self, names: tuple[str, str, str], metric: str, more: tuple[str, ...], how: str, over: str, by: str) -> str:
        namespace, pod, container = names
        matchers = [matcher(container, "", "!="), matcher(container, "POD", "!=")]
        if self._namespace:
            matchers.append(matcher(namespace, self._namespace))
        if self._places is not None:
            workloads = sorted({place.workload for place in self._places})
            matchers.append(any_of(namespace, sorted({place.namespace for place in self._places})))
            matchers.append(any_of(container, sorted({place.container for place in self._places})))
            matchers.append(matcher(pod, "|".join(f"{_quoted(name)}(-.+)?" for name in workloads), "=~"))
        expression = over % selector(metric, *matchers, *more)
        for wanted, name in zip(("namespace", "pod", "container"), names, strict=True):
            if wanted != name:
                expression = f'label_replace({expression}, "{wanted}", "$1", {string(name)}, "(.*)")'
        return f"{how} by ({by}) ({expression})"


def placed_by_image(containers: Containers, metric: str) -> str:
    """How many pods of each place run which image, as the kubelet's metrics have it."""
    return placed("count", containers.usage(metric, by=f"{BY_POD}, image"), f"{BY}, image")


def placed(how: str, by_pod: str, by: str = BY) -> str:
    """``how by (namespace, workload, container)`` of what is by container of a pod."""
    whole = f'label_replace({by_pod}, "workload", "$1", "pod", "(.*)")'
    return f'{how} by ({by}) (label_replace({whole}, "workload", "$1$2", "pod", {string(_POD_NAME)}))'


def _quoted(name: str) -> str:
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", name)


def top(expression: str, most: int = MOST) -> str:
    """The largest of them: an answer stays small whatever the cluster is."""
    return f"topk({most}, {expression})"


def history(by_pod: str, days: int, minutes: int) -> dict[str, str]:
    """Queries for percentiles and peak over days, of the pod that used most at each time; p50 of the average pod."""
    span = f"[{days}d:{minutes}m]"
    highest, average = placed("max", by_pod), placed("avg", by_pod)
    found = {name: f"quantile_over_time({share}, {highest}{span})" for name, share in PERCENTILES.items()}
    return found | {"peak": f"max_over_time({highest}{span})", "p50": f"quantile_over_time(0.5, {average}{span})"}


# --- answers ----------------------------------------------------------------------------------------------------------------------------


def by_place(frame: pandas.DataFrame | None) -> dict[Place, float]:
    """Values by place; nothing where it was not read."""
    if frame is None:
        return {}
    import math

    rows = zip(*(frame[name].tolist() for name in ("namespace", "workload", "container", "value")), strict=True)
    return {Place(namespace, workload, container): value for namespace, workload, container, value in rows if math.isfinite(value)}


def by_pod(frame: pandas.DataFrame | None) -> dict[PodPlace, float]:
    """Values by pod, largest first."""
    if frame is None:
        return {}
    ordered = frame.sort_values("value", ascending=False)
    rows = zip(*(ordered[name].tolist() for name in ("namespace", "pod", "container", "value")), strict=True)
    return {PodPlace(namespace, pod, container): value for namespace, pod, container, value in rows}


def series_of(frame: pandas.DataFrame | None, *labels: str) -> dict[tuple[str, ...], Series]:
    """Series by the labels' values."""
    if frame is None or frame.empty:
        return {}
    found = {}
    for key, group in frame.groupby(list(labels), sort=False):
        times = group["time"].dt.as_unit("ms").astype("int64").to_numpy() / 1000
        found[tuple(str(part) for part in key)] = Series(times, group["value"].to_numpy(dtype=float))
    return found


class Asker:
    """Asks Prometheus in the background; labels that the answer must have as columns come with each question."""

    def __init__(self, sources: Sources, questions: Questions, now: datetime) -> None:
        self._sources, self._questions, self.now = sources, questions, now

    def ask(self, what: Text, promql: str, labels: str = BY) -> Answer[pandas.DataFrame]:
        """A value now."""
        names = labels.split(", ")
        return self._questions.ask(what, lambda: self._sources.prometheus.query(promql, self.now, labels=names))

    def over_time(self, what: Text, promql: str, hours: float, points: int = 288, labels: str = BY) -> Answer[pandas.DataFrame]:
        """Values over the last hours, so many of each series."""
        names, start = labels.split(", "), self.now - timedelta(hours=hours)
        step = max(60.0, round(hours * 3600 / points))
        return self._questions.ask(what, lambda: self._sources.prometheus.query_range(promql, start, self.now, step, labels=names))

    def begin(self, hours: float) -> float:
        """That many hours ago, in Unix seconds."""
        return (self.now - timedelta(hours=hours)).timestamp()


def absent(questions: Questions, frame: pandas.DataFrame | None, metric: str, remedy: Text) -> None:
    """Where a metric that all else rests on has no series, say so: that is not "nothing is used"."""
    if frame is not None and frame.empty:
        questions.gap(
            Finding(
                check=f"gap.{SYSTEM}",
                severity=Severity.UNKNOWN,
                subject=Subject("System", SYSTEM),
                title=_("Prometheus has no {metric}", metric=metric),
                cause=_("What this page says of containers rests on it; nothing can be said without it."),
                steps=(Step(remedy),),
            )
        )


# --- what both chapters begin with ------------------------------------------------------------------------------------------------------


class Chosen(Protocol):
    """What both chapters let a reader choose."""

    @property
    def namespace(self) -> str:
        """Only this one; empty: all."""

    @property
    def hours(self) -> float:
        """How far back is looked for changes, by half."""


def read(
    sources: Sources, parameters: Chosen, questions: Questions, what: Text, measure: Callable[[Metrics, datetime], Mapping[str, Any]]
) -> dict[str, Any]:
    """The fields that the facts of both chapters have, the cluster asked while Prometheus is.

    Parameters
    ----------
    what
        What is missing where the environment has no Prometheus.
    measure
        Asks Prometheus; the fields that come of it, "changes" among them.
    """
    environment, now = sources.environment, sources.now()
    kinds = ask_kinds(sources, questions, parameters.namespace)
    rollouts = ask_rollouts(sources, questions, parameters.namespace, now - timedelta(hours=2 * parameters.hours))
    measured: Mapping[str, Any] = {}
    if environment.prometheus is None:
        questions.ask(what, lambda: sources.prometheus).get()  # says which field is missing
    else:
        measured = {"prometheus_url": environment.prometheus.url, **measure(environment.prometheus, now)}
    return {
        "now": now,
        "environment": environment.name,
        "zone": environment.zone,
        "links": environment.links,
        **measured,
        "cluster": Cluster(kinds(), environment.kubernetes.kubectl_options),
        "changes": tuple(sorted([*rollouts(), *measured.get("changes", ())], key=lambda change: change.time)),
    }


# --- the cluster ------------------------------------------------------------------------------------------------------------------------


def ask_kinds(sources: Sources, questions: Questions, namespace: str) -> Callable[[], dict[tuple[str, str], str]]:
    """The kinds of the workloads by namespace and name, asked for in the background."""
    answers = {kind: questions.ask(resource, functools.partial(_list, sources, resource, namespace)) for kind, resource in _KINDS.items()}
    return lambda: {
        (one.metadata.namespace, one.metadata.name): kind for kind, answer in reversed(answers.items()) for one in answer.get() or ()
    }


def ask_rollouts(sources: Sources, questions: Questions, namespace: str, since: datetime) -> Callable[[], list[Change]]:
    """Rollouts of workloads, asked for in the background: when ReplicaSets and controller revisions were made. A roll-back makes none."""
    resources = ("replicasets.apps", "controllerrevisions.apps")
    answers = [questions.ask(resource, functools.partial(_list, sources, resource, namespace)) for resource in resources]

    def get() -> list[Change]:
        found = []
        for one in (one for answer in answers for one in answer.get() or ()):
            made, owners = one.metadata.creation_timestamp, one.metadata.owner_references
            if made is not None and made >= since and owners:
                revision = one.metadata.annotations.get("deployment.kubernetes.io/revision", "")
                text = _("rollout, revision {number}", number=one_line(revision, 20)) if revision else _("rollout")
                found.append(Change(made.astimezone(UTC), one.metadata.namespace, owners[0].name, "rollout", text))
        return sorted(found, key=lambda change: change.time)

    return get


def _list(sources: Sources, resource: str, namespace: str) -> list[Object]:
    try:
        return list(sources.kubernetes.metadata_list(resource, namespace))
    except NotFound:
        return []


def steps_of(
    series: Mapping[tuple[str, ...], Series], *, tolerance: float = 0.01
) -> dict[tuple[str, ...], list[tuple[float, float, float]]]:
    """Where a series that is otherwise constant changes: time, value before, value after."""
    import numpy as np

    found = {}
    for key, (times, values) in series.items():
        known = np.isfinite(values)
        times, values = times[known], values[known]
        places = np.flatnonzero(np.abs(np.diff(values)) > tolerance * np.abs(values[:-1]))
        found[key] = [(float(times[place + 1]), float(values[place]), float(values[place + 1])) for place in places]
    return found


def image_changes(series: Mapping[tuple[str, ...], Series], begin: float) -> list[Change]:
    """New images: series with an image (namespace, workload, container, image) that begins where another had been before."""
    found = []
    first = {key: float(one.times[0]) for key, one in series.items() if len(one.times)}
    for (namespace, workload, container, image), start in first.items():
        others = [other for other, time in first.items() if other[:3] == (namespace, workload, container) and time < start]
        if image and others and start > begin:
            text = _("new image {image}", image=one_line(image.rpartition("/")[2], 60))
            found.append(Change(datetime.fromtimestamp(start, UTC), namespace, workload, "image", text, container))
    return sorted(found, key=lambda change: change.time)
