"""Chapter 4.3, CPU: who uses it, who is held back by a limit, what the limits should be, and where more pods would fit.

Pure functions over `Facts`: findings, tables, plots. The rules stand in `opslib.diagnosis.cpu`; `opslib.facts.cpu` reads the facts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opslib.chapters import plotting, sizing
from opslib.chapters.tables import NOT_READ, about, table
from opslib.diagnosis.cpu import diagnose
from opslib.diagnosis.cpu.facts import Facts, Parameters, cores, effects, proposal, room
from opslib.diagnosis.cpu.nodes import is_at_maximum
from opslib.diagnosis.usage import Place, Series, moment
from opslib.findings import Column, Finding, Severity, Table, Unit, by_severity
from opslib.messages import Message, _

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NOT_READ", "READS", "REQUIRES", "Facts", "Parameters", "about", "findings"]

REQUIRES: tuple[str, ...] = ()  # the metrics' and the cluster's sides each help alone
READS = ("prometheus", "kubernetes")

_SHOWN = 4  # containers in one figure


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that the reader should know, worst first; what could not be looked at is among it."""
    return by_severity([*facts.gaps, *diagnose(facts, parameters)])


def use_table(facts: Facts, parameters: Parameters) -> Table:
    """The containers that use most CPU, against request and limit, and how much they are throttled."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.uses is not None:
        throttled = facts.throttled or {}
        rows = []
        for place, one in sorted(facts.uses.items(), key=lambda item: (-throttled.get(item[0], 0.0), -(item[1].total or 0))):
            share = throttled.get(place, 0.0 if facts.throttled is not None and one.limit else None)
            severity = Severity.OK
            if share is not None and share >= parameters.throttled_warning:
                severity = Severity.CRITICAL if share >= parameters.throttled_critical else Severity.WARNING
            elif one.of_limit is not None and one.of_limit >= parameters.use_warning:
                severity = Severity.WARNING
            rows.append(
                (
                    severity, place.namespace, place.workload, place.container, one.pods, one.total, one.highest, one.request, one.limit,
                    one.of_request, one.of_limit, share,
                )
            )  # fmt: skip
    return table(
        "cpu_use",
        _("CPU by workload"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("namespace", _("Namespace")),
            Column("workload", _("Workload")),
            Column("container", _("Container")),
            Column("pods", _("Pods"), Unit.COUNT),
            Column("total", _("In use, all pods"), Unit.CORES),
            Column("highest", _("In use, highest pod"), Unit.CORES),
            Column("request", _("Request of a pod"), Unit.CORES),
            Column("limit", _("Limit of a pod"), Unit.CORES),
            Column("of_request", _("Of the request"), Unit.RATIO, _("Of the average pod; above 1 it depends on what others leave")),
            Column("of_limit", _("Of the limit"), Unit.RATIO, _("Of the pod that uses most")),
            Column("throttled", _("Throttled"), Unit.RATIO, _("Share of the CPU periods in which it had used up its limit")),
        ),
        rows,
        _("No container uses CPU, by the metrics."),
    )


def changes_table(facts: Facts) -> Table:
    """Throttling before and after each change of the containers that are held back."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.throttled is not None:
        rows = [
            (
                one.change.time,
                place.namespace,
                place.workload,
                place.container,
                one.change.text,
                one.before,
                one.after,
                one.after - one.before,
            )
            for place in sorted(facts.throttling)
            for one in effects(facts, place)
        ]
        rows.sort(key=lambda row: -row[-1])
    return table(
        "cpu_changes",
        _("Throttling before and after a change"),
        (
            Column("time", _("Time"), Unit.TIME),
            Column("namespace", _("Namespace")),
            Column("workload", _("Workload")),
            Column("container", _("Container")),
            Column("change", _("Change")),
            Column("before", _("Hour before"), Unit.RATIO, _("Median share of throttled CPU periods")),
            Column("after", _("Hour after"), Unit.RATIO),
            Column("difference", _("Difference"), Unit.RATIO),
        ),
        rows,
        _("Nothing was changed about the containers that are held back, in the hours that are looked at."),
    )


def sizing_table(facts: Facts) -> Table:
    """Request and limit from percentiles, and what they save."""
    return sizing.sizing_table(
        "cpu_sizing",
        facts.uses,
        proposal,
        unit=Unit.CORES,
        of_limit=_("The peak and half more; too low where it is throttled now"),
        note=lambda saved, more: _(
            "Requests that are too high could give back {saved} cores; those that are too low want {more} more.",
            saved=f"{saved:.1f}", more=f"{more:.1f}",
        ),
    )  # fmt: skip


def autoscalers_table(facts: Facts) -> Table:
    """Autoscalers, whether they are at their maximum, and where more of their pods would fit."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.autoscalers is not None:
        rows = []
        for one in sorted(facts.autoscalers, key=lambda one: (not is_at_maximum(one), one.metadata.namespace, one.metadata.name)):
            fits = room(facts, one.metadata.namespace, one.spec.scale_target_ref.name)
            rows.append(
                (
                    Severity.WARNING if is_at_maximum(one) else Severity.OK, one.metadata.namespace, one.metadata.name,
                    f"{one.spec.scale_target_ref.kind}/{one.spec.scale_target_ref.name}", one.spec.min_replicas or 1,
                    one.status.current_replicas, one.status.desired_replicas, one.spec.max_replicas, fits[0] if fits else None,
                )
            )  # fmt: skip
    return table(
        "autoscalers",
        _("Autoscalers"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("namespace", _("Namespace")),
            Column("name", _("Autoscaler")),
            Column("target", _("Workload")),
            Column("least", _("Minimum"), Unit.COUNT),
            Column("current", _("Pods"), Unit.COUNT),
            Column("wanted", _("Wanted"), Unit.COUNT),
            Column("most", _("Maximum"), Unit.COUNT),
            Column(
                "fit",
                _("More would fit"),
                Unit.COUNT,
                _("By requests, taints and node labels; rules about other pods and the zones of volumes are not looked at"),
            ),
        ),
        rows,
        _("There are no autoscalers."),
    )


def nodes_table(facts: Facts, parameters: Parameters) -> Table:
    """CPU of the nodes: in use, requested, kept back, waited for."""
    rows: list[tuple[Any, ...]] | None = None
    cordoned = {one.metadata.name for one in facts.schedulable or () if one.spec.unschedulable}
    if facts.nodes is not None:
        rows = []
        for one in facts.nodes:
            shares = [
                None if value is None or not one.cores else value / one.cores
                for value in (one.used, one.requested, one.steal, one.waiting, one.load)
            ]
            used, _requested, steal, _waiting, load = shares
            bad = (
                (used or 0) >= parameters.use_warning or (steal or 0) >= parameters.steal_warning or (load or 0) >= parameters.load_warning
            )
            shown = None if load is None else f"{load:.2f}"
            note = _("cordoned") if one.name in cordoned else None
            rows.append((Severity.WARNING if bad else Severity.OK, one.name, one.cores, *shares[:-1], shown, note))
    return table(
        "cpu_nodes",
        _("CPU of the nodes"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("node", _("Node")),
            Column("cores", _("Cores"), Unit.CORES, _("That pods may ask for")),
            Column("used", _("In use"), Unit.RATIO),
            Column("requested", _("Requested"), Unit.RATIO),
            Column("steal", _("Kept back"), Unit.RATIO, _("By the hypervisor (steal)")),
            Column("waiting", _("Waiting for disks"), Unit.RATIO, _("iowait")),
            Column("load", _("Load a core"), Unit.TEXT, _("Processes that run or wait, over five minutes")),
            Column("note", _("Note")),
        ),
        rows,
        _("There are no metrics of nodes."),
    )


def throttling_figure(facts: Facts, parameters: Parameters) -> Figure:
    """The containers that are held back: use with request and limit, and the throttled share below, with changes marked."""
    wanted = [place for place in facts.using if (facts.throttled or {}).get(place, 0) >= parameters.throttled_warning]
    ranked = sorted(wanted, key=lambda place: -(facts.throttled or {}).get(place, 0))[:_SHOWN]
    title = _("Containers that are throttled")
    figure, axes = plotting.new_figure(title, height=3.6 * max(1, len(ranked)))
    if not ranked:
        plotting.no_data(axes, NOT_READ if facts.throttled is None else _("No container is throttled much."))
        return figure
    figure.clear()
    figure.suptitle(plotting.label(title, 100), x=0.01, ha="left", fontsize=11)
    grid = figure.subplots(2 * len(ranked), 1, squeeze=False, gridspec_kw={"height_ratios": [2, 1] * len(ranked)})[:, 0]
    for number, place in enumerate(ranked):
        _draw(facts, place, grid[2 * number], grid[2 * number + 1])
    return figure


def _draw(facts: Facts, place: Place, upper: Axes, lower: Axes) -> None:
    use = (facts.uses or {}).get(place)
    using, limits = facts.using[place], facts.limits.get(place)
    for axes in (upper, lower):
        plotting.plain(axes)
    upper.set_title(plotting.label(str(place), 90), loc="left", fontsize=9)
    _line(upper, using, _("in use, highest pod"), color="black", linewidth=1.4)
    if limits is not None:
        _line(upper, limits, _("limit"), color=plotting.PALETTE[1], linestyle="--", linewidth=1.4, drawstyle="steps-post")
    if use and use.request:
        plotting.threshold(upper, use.request, _("request {cores}", cores=cores(use.request)))
    upper.set_ylim(bottom=0)
    plotting.unit_axis(upper.yaxis, Unit.CORES)
    if place in facts.throttling:
        _line(lower, facts.throttling[place], _("throttled"), color=plotting.PALETTE[0], linestyle=":", linewidth=1.6)
    lower.set_ylim(0, 1)
    plotting.unit_axis(lower.yaxis, Unit.RATIO)
    begin, end = moment(using.times[0]), moment(using.times[-1])
    for axes in (upper, lower):
        axes.set_xlim(begin, end)  # type: ignore[arg-type]
        plotting.time_axis(axes, facts.zone)
        own = [(one.time, one.text) for one in facts.changes if (one.namespace, one.workload) == (place.namespace, place.workload)]
        plotting.marks(axes, own, named=axes is upper)
        plotting.legend(axes)


def _line(axes: Axes, series: Series, label: Message, **style: Any) -> None:
    axes.plot([moment(value) for value in series.times], series.values, label=plotting.label(label), **style)  # type: ignore[arg-type]
