"""What Prometheus remembers of the nodes: conditions that were bad for a while, evictions, stalls, and the least that was left."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime, timedelta

from opslib.diagnosis.nodes.facts import Parameters, Past, Spell
from opslib.diagnosis.usage import moment
from opslib.facts import Questions
from opslib.facts.monitoring import nodes as metrics
from opslib.facts.sources import Sources
from opslib.messages import _
from opslib.sources.prometheus import any_of, matcher, selector

STEP = 60.0
MOST = 50  # nodes whose spells are read
GAP = 3  # steps without a value, after which a spell has ended

CONDITION = "kube_node_status_condition"
STALLS = {
    "cpu": "node_pressure_cpu_waiting_seconds_total",
    "memory": "node_pressure_memory_stalled_seconds_total",
    "io": "node_pressure_io_stalled_seconds_total",
}


def queries(hours: float) -> dict[str, str]:
    """Queries by name; each gives a value by node, or by the instance that stands for one."""
    span, here = f"[{round(hours * 60)}m]", "instance, node"
    disks = (matcher("fstype", metrics.NOT_DISKS, "!~"), matcher("mountpoint", metrics.POD_MOUNTS, "!~"))
    free, size = selector("node_filesystem_avail_bytes", *disks), selector("node_filesystem_size_bytes", *disks)
    found = {f"stalled.{kind}": f"max by ({here}) (max_over_time(rate({metric}[5m]){span[:-1]}:5m]))" for kind, metric in STALLS.items()}
    cores = f'count by ({here}) (node_cpu_seconds_total{{mode="idle"}})'
    return found | {
        "load": f"max by ({here}) (max_over_time(node_load5{span})) / {cores}",
        "memory_total": f"max by ({here}) (node_memory_MemTotal_bytes)",
        "memory_least": f"min by ({here}) (min_over_time(node_memory_MemAvailable_bytes{span}))",
        "disk_least": f"min by ({here}) (min_over_time({free}{span}) / {size})",
        "evictions": f"sum by ({here}, eviction_signal) (increase(kubelet_evictions{span})) >= 0.5",
        "info": metrics.queries()["info"][0],
    }


def bad_conditions(hours: float, prefix: str = "") -> str:
    """The conditions that were bad at some time: those that are called ready where they were not true, all others where they were."""
    ready, others = _conditions(prefix)
    span = f"[{round(hours * 60)}m]"
    return f"max by ({prefix}node, condition) (max_over_time({others}{span}) == 1 or min_over_time({ready}{span}) == 0)"


def _conditions(prefix: str, *more: str) -> tuple[str, str]:
    true = (matcher("status", "true"), *more)
    return selector(CONDITION, matcher("condition", ".*Ready", "=~"), *true), selector(
        CONDITION, matcher("condition", ".*Ready", "!~"), *true
    )


def read(sources: Sources, questions: Questions, parameters: Parameters, now: datetime) -> dict[str, Past] | None:
    """The nodes' past; None where none of it could be asked. A part that could not be asked, or is not measured, is empty, or None.

    A node that is gone is in it as long as metrics remember it.
    """
    prometheus, hours = sources.prometheus, parameters.history_hours
    what = _("the nodes' last hours")
    asked = {name: questions.ask(what, functools.partial(prometheus.query, promql, now)) for name, promql in queries(hours).items()}
    spells = questions.ask(_("bad conditions of nodes"), lambda: spells_of(sources, hours, now))
    frames = {name: answer.get() for name, answer in asked.items()}
    found = spells.get()
    if found is None and all(frame is None for frame in frames.values()):
        return None
    info = frames.pop("info")
    evictions = frames.pop("evictions")
    values = {name: metrics.by_node(info, frame) for name, frame in frames.items()}
    by_signal: dict[str, dict[str, float]] = {}
    if evictions is not None and not evictions.empty:
        for signal, rows in evictions.groupby("eviction_signal"):
            for node, value in metrics.by_node(info, rows).items():
                by_signal.setdefault(node, {})[str(signal)] = value
    names = {node for of in values.values() for node in of} | by_signal.keys() | (found or {}).keys()
    return {
        node: Past(
            spells=tuple((found or {}).get(node, ())),
            evictions=by_signal.get(node, {}),
            stalled={kind: values[f"stalled.{kind}"][node] for kind in STALLS if node in values[f"stalled.{kind}"]},
            load=values["load"].get(node),
            memory_total=values["memory_total"].get(node),
            memory_least=values["memory_least"].get(node),
            disk_least=values["disk_least"].get(node),
        )
        for node in sorted(names)
    }


def spells_of(sources: Sources, hours: float, now: datetime) -> dict[str, list[Spell]]:
    """When conditions were bad, by node."""
    prefix = sources.prometheus.settings.state_prefix
    label = f"{prefix}node"
    labels = (label, "condition")
    names = sorted(set(sources.prometheus.query(bad_conditions(hours, prefix), now, labels=labels)[label]))[:MOST]
    if not names:
        return {}
    ready, others = _conditions(prefix, any_of(label, names))
    step = max(STEP, hours * 3600 / 2880)
    begin = now - timedelta(hours=hours)
    frame = sources.prometheus.query_range(f"max by ({label}, condition) ({others} or (1 - {ready}))", begin, now, step, labels=labels)
    found: dict[str, list[Spell]] = {}
    for (node, condition), rows in frame.groupby(list(labels)):
        times = rows["time"].dt.as_unit("ms").astype("int64").to_numpy() / 1000
        spells = _spells(str(condition), dict(zip(times.tolist(), rows["value"].tolist(), strict=True)), step, now)
        if spells:
            found.setdefault(str(node), []).extend(spells)
    return {node: sorted(spells, key=lambda spell: (spell.begin, spell.condition)) for node, spells in found.items()}


def _spells(condition: str, values: Mapping[float, float], step: float, now: datetime) -> list[Spell]:
    found: list[Spell] = []
    begin = last = 0.0
    for time, value in sorted(values.items()):
        if begin and (value < 0.5 or time - last > GAP * step):
            found.append(Spell(condition, moment(begin), moment(min(time, last + step))))
            begin = 0.0
        if value >= 0.5:
            begin, last = begin or time, time
    if begin:
        over = now.timestamp() - last > GAP * step
        found.append(Spell(condition, moment(begin), moment(last + step) if over else None))
    return found
