"""Chapter 4.3, memory: who uses it, who leaks it, who ran out of it, and what the limits should be.

Pure functions over `Facts`: findings, tables, plots. The rules stand in `opslib.diagnosis.memory`; `opslib.facts.memory` reads the facts.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.chapters import plotting, sizing
from opslib.chapters.tables import NOT_READ, about, table
from opslib.diagnosis.memory import diagnose
from opslib.diagnosis.memory.facts import Facts, Parameters, of_place, proposal, trends
from opslib.diagnosis.memory.trend import Trend
from opslib.diagnosis.usage import Place, PodPlace, moment
from opslib.findings import Column, Finding, Severity, Table, Unit, by_severity
from opslib.messages import _
from opslib.sources.quantities import text_of_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NOT_READ", "READS", "REQUIRES", "Facts", "Parameters", "about", "findings"]

REQUIRES: tuple[str, ...] = ()  # the nodes' and the workloads' sides each help alone
READS = ("prometheus", "kubernetes")

_KINDS = {
    "leak": _("leak"), "load": _("load"), "cache": _("cache of files"), "warming": _("levelled off after its start"),
    "flat": _("does not grow"), "short": _("too young to say"),
}  # fmt: skip
_NONE = _("No container is conspicuous: none is near its limit, grows or was killed.")
_SHOWN = 4  # curves in one figure


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that the reader should know, worst first; what could not be looked at is among it."""
    return by_severity([*facts.gaps, *diagnose(facts, parameters)])


def use_table(facts: Facts, parameters: Parameters) -> Table:
    """The containers that use most memory, against request and limit."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.uses is not None:
        ordered = sorted(facts.uses.items(), key=lambda item: -(item[1].total or 0))
        rows = [
            (
                _severity(one.of_limit, parameters.use_warning), place.namespace, place.workload, place.container, one.pods, one.total,
                one.highest, one.request, one.limit, one.of_limit, None if facts.kills is None else round(facts.kills.get(place, 0)),
            )
            for place, one in ordered
        ]  # fmt: skip
    return table(
        "memory_use",
        _("Memory by workload"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("namespace", _("Namespace")),
            Column("workload", _("Workload")),
            Column("container", _("Container")),
            Column("pods", _("Pods"), Unit.COUNT),
            Column("total", _("In use, all pods"), Unit.BYTES),
            Column("highest", _("In use, highest pod"), Unit.BYTES),
            Column("request", _("Request of a pod"), Unit.BYTES),
            Column("limit", _("Limit of a pod"), Unit.BYTES),
            Column("of_limit", _("Of the limit"), Unit.RATIO, _("Of the pod that uses most; at 1 it is killed")),
            Column("kills", _("Out of memory"), Unit.COUNT, _("How often containers were killed for it in the hours that are looked at")),
        ),
        rows,
        _("No container uses memory, by the metrics."),
    )


def growth_table(facts: Facts) -> Table:
    """The containers that were looked at closely: what their memory does, and why that is believed."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.uses is not None:
        rows = []
        order = {"leak": 0, "load": 1, "cache": 2, "warming": 3, "flat": 4, "short": 5}
        for pod, one in sorted(trends(facts).items(), key=lambda item: (order[item[1].kind], item[1].seconds, item[0])):
            known = one.kind != "short"
            slopes = [value * 3600 if known else None for value in (one.slope.value, one.slope.low, one.slope.high)]
            ends = [value if math.isfinite(value) else None for value in (one.seconds, one.earliest, one.latest)]
            by_load = None if one.load_share is None else 1 - min(max(one.load_share, 0), 1)
            confidence = one.confidence if known else None
            rows.append(
                (
                    pod.namespace, pod.pod, pod.container, _KINDS[one.kind], confidence, *slopes, facts.curves[pod].limit, *ends,
                    max(one.curves - 1, 0), one.rss_share, by_load,
                )
            )  # fmt: skip
    return table(
        "memory_growth",
        _("Memory that grows, or does not"),
        (
            Column("namespace", _("Namespace")),
            Column("pod", _("Pod")),
            Column("container", _("Container")),
            Column("kind", _("What it is")),
            Column("confidence", _("Confidence"), Unit.RATIO),
            Column("slope", _("Growth an hour"), Unit.BYTES, _("Between restarts; the median of the slopes between all pairs of points")),
            Column("low", _("At least"), Unit.BYTES, _("Interval of 95 %")),
            Column("high", _("At most"), Unit.BYTES, _("Interval of 95 %")),
            Column("limit", _("Limit"), Unit.BYTES),
            Column("seconds", _("Time to limit"), Unit.SECONDS),
            Column("earliest", _("Earliest"), Unit.SECONDS),
            Column("latest", _("Latest"), Unit.SECONDS),
            Column("restarts", _("Restarts"), Unit.COUNT, _("Seen in the curve")),
            Column("rss", _("Resident"), Unit.RATIO, _("Of the growth; the rest is cache of files")),
            Column("load", _("By load"), Unit.RATIO, _("How much of the growth the load explains")),
        ),
        rows,
        _NONE,
    )


def sizing_table(facts: Facts) -> Table:
    """Request and limit from percentiles, and what they save."""
    return sizing.sizing_table(
        "memory_sizing",
        facts.uses,
        proposal,
        unit=Unit.BYTES,
        of_limit=_("The peak and a quarter more"),
        note=lambda saved, more: _(
            "Requests that are too high could give back {saved}; those that are too low want {more} more.",
            saved=text_of_bytes(saved), more=text_of_bytes(more),
        ),
    )  # fmt: skip


def curves_figure(facts: Facts, parameters: Parameters) -> Figure:
    """The containers that are worst off: working set with request, limit, restarts, releases, and what is expected."""
    grouped = of_place(facts, trends(facts))
    order = {"leak": 0, "load": 1, "cache": 2}
    ranked = sorted(
        (members[0] for place, members in grouped.items() if _conspicuous(facts, place, *members[0])),
        key=lambda member: (order.get(member[1].kind, 3), member[1].seconds, -_share(facts, member[0])),
    )[:_SHOWN]
    figure, axes = plotting.new_figure(_("Memory of the containers that are worst off"), height=3.2 * max(1, len(ranked)))
    if not ranked:
        text = NOT_READ if facts.uses is None else _NONE
        plotting.no_data(axes, text)
        return figure
    figure.clear()
    figure.suptitle(plotting.label(_("Memory of the containers that are worst off"), 100), x=0.01, ha="left", fontsize=11)
    for part, (pod, one) in zip(figure.subplots(len(ranked), 1, squeeze=False)[:, 0], ranked, strict=True):
        _draw(part, facts, parameters, pod, one)
    return figure


def _draw(axes: Axes, facts: Facts, parameters: Parameters, pod: PodPlace, one: Trend) -> None:
    from matplotlib.ticker import MultipleLocator

    curve, place = facts.curves[pod], facts.places[pod]
    use = (facts.uses or {}).get(place)
    times = [moment(value) for value in curve.times]
    plotting.plain(axes)
    axes.set_title(plotting.label(f"{pod.namespace}/{pod.pod} ({pod.container})", 90), loc="left", fontsize=9)
    axes.plot(times, curve.working_set, label=plotting.label(_("working set")), color="black", linewidth=1.4)  # type: ignore[arg-type]
    if curve.rss is not None:
        axes.plot(times, curve.rss, label=plotting.label(_("resident set")), color=plotting.PALETTE[0], linestyle=":", linewidth=1.2)  # type: ignore[arg-type]
    if curve.limit:
        plotting.threshold(axes, curve.limit, _("limit {size}", size=text_of_bytes(curve.limit)))
    if use and use.request:
        plotting.threshold(axes, use.request, _("request {size}", size=text_of_bytes(use.request)))
    begin, end = times[0], _draw_forecast(axes, facts, parameters, one)
    top = max(curve.limit or 0, float(max(curve.working_set)))
    others = sorted({*curve.restarts} - {*curve.kills})
    for moments, style, text in ((others, "v", _("restart")), (curve.kills, "X", _("killed for want of memory"))):
        marks = [moment(value) for value in moments if begin <= moment(value) <= facts.now]
        if marks:
            axes.plot(marks, [top] * len(marks), style, color="black", markersize=8, label=plotting.label(text))  # type: ignore[arg-type]
    highest = max(curve.limit or 0, (use.request or 0) if use else 0, float(max(curve.working_set)))
    axes.set_ylim(0, 1.15 * highest)
    axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(max(highest, 1024) / 5))))  # binary steps read as whole numbers
    axes.set_xlim(begin, end)  # type: ignore[arg-type]
    plotting.marks(axes, [(one.time, one.text) for one in facts.changed(place, begin)])
    plotting.unit_axis(axes.yaxis, Unit.BYTES)
    plotting.time_axis(axes, facts.zone)
    plotting.legend(axes)


def _draw_forecast(axes: Axes, facts: Facts, parameters: Parameters, one: Trend) -> datetime:
    """The line on from now and its interval, as far as a quarter of what was seen; the time at which the plot ends."""
    now = facts.now
    if one.kind not in ("leak", "load"):
        return now
    ahead = min(parameters.hours * 3600 / 3, max(one.seconds * 1.2, 900) if math.isfinite(one.seconds) else math.inf)
    end = now + timedelta(seconds=ahead)
    ends = [now, end]
    low, middle, high = (one.level + slope * ahead for slope in (one.slope.low, one.slope.value, one.slope.high))
    axes.plot(ends, [one.level, middle], label=plotting.label(_("if it goes on")), color=plotting.PALETTE[1], linestyle="--", linewidth=1.4)  # type: ignore[arg-type]
    axes.fill_between(
        ends, [one.level, low], [one.level, high], label=plotting.label(_("95 % interval")),  # type: ignore[arg-type]
        facecolor="none", edgecolor=plotting.GREY, hatch="////", linewidth=0,
    )  # fmt: skip
    return end


def _conspicuous(facts: Facts, place: Place, pod: PodPlace, one: Trend) -> bool:
    return one.grows or (facts.kills or {}).get(place, 0) >= 0.5 or _share(facts, pod) >= 0.7


def _share(facts: Facts, pod: PodPlace) -> float:
    curve = facts.curves[pod]
    return float(curve.working_set[-1]) / curve.limit if curve.limit else 0.0


def _severity(share: float | None, warning: float) -> Severity:
    if share is None:
        return Severity.INFO
    return Severity.CRITICAL if share >= (1 + warning) / 2 else Severity.WARNING if share >= warning else Severity.OK
