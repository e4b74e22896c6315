"""Chapter 4.3, disk: which file systems are full or will be, when, what fills them, and what can be done.

Pure functions over `Facts`: findings, tables, plots. The rules stand in `opslib.diagnosis.disk`; `opslib.facts.disk` reads the facts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from opslib.chapters import plotting
from opslib.chapters.tables import NOT_READ, about, table
from opslib.diagnosis.disk import diagnose
from opslib.diagnosis.disk.facts import Facts, FileSystem, Parameters, What, forecast_of
from opslib.diagnosis.disk.forecast import Forecast
from opslib.diagnosis.disk.images import unused_on
from opslib.diagnosis.disk.nodes import rotation_text
from opslib.diagnosis.disk.space import judge
from opslib.findings import Column, Finding, Severity, Table, Unit, by_severity
from opslib.messages import Message, _

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NOT_READ", "REQUIRES", "Facts", "Parameters", "about", "findings"]

REQUIRES: tuple[str, ...] = ()  # what the one system cannot tell the others still can
READS = ("kubernetes", "prometheus", "elasticsearch")

MOST_ROWS = 500


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that the reader should know, worst first; what could not be looked at is among it."""
    return by_severity([*facts.gaps, *diagnose(facts, parameters)])


# --- tables -------------------------------------------------------------------------------------------------------------------------------


def volumes_table(facts: Facts, parameters: Parameters) -> Table:
    """Every mounted volume, the worst first: how full, how it grows, when it is full, and whether it can be expanded."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.volumes is not None:
        rows = []
        for one in _ordered(facts.volumes, facts, parameters)[:MOST_ROWS]:
            claim = facts.claim(one.place)
            kind = facts.storage_class(claim)
            owner = facts.owner(one.place)
            rows.append(
                (
                    *_judged(facts, parameters, one),
                    one.place.namespace,
                    one.place.name,
                    f"{owner.kind}/{owner.name}" if owner else None,
                    *_amounts(facts, one),
                    one.share("inodes"),
                    claim.spec.storage_class_name if claim else None,
                    None if kind is None else _("yes") if kind.allow_volume_expansion else _("no"),
                )
            )
    return table(
        "volumes",
        _("Volumes"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("namespace", _("Namespace")),
            Column("claim", _("Volume claim")),
            Column("owner", _("Owner")),
            *_AMOUNTS,
            Column("inodes", _("Inodes in use"), Unit.RATIO),
            Column("class", _("Storage class")),
            Column("expandable", _("Can be expanded")),
        ),
        rows,
        _("No volume is mounted."),
    )


def filesystems_table(facts: Facts, parameters: Parameters) -> Table:
    """The nodes' own file systems, the worst first."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.filesystems is not None:
        rows = [
            (
                *_judged(facts, parameters, one),
                one.place.namespace,
                one.place.name,
                one.device,
                *_amounts(facts, one),
                one.share("inodes"),
            )
            for one in _ordered(facts.filesystems, facts, parameters)[:MOST_ROWS]
        ]
    return table(
        "filesystems",
        _("The nodes' disks"),
        (
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("node", _("Node")),
            Column("mount", _("Mounted at")),
            Column("device", _("Device")),
            *_AMOUNTS,
            Column("inodes", _("Inodes in use"), Unit.RATIO),
        ),
        rows,
        _("No node has a disk that is measured."),
    )


def folders_table(facts: Facts) -> Table:
    """The biggest folders in the containers that were looked into."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.folders is not None:
        rows = [
            (found.namespace, found.pod, found.claim or None, one.path, one.size, one.size / found.used if found.used else None)
            for found in facts.folders
            for one in found.folders[:25]
        ]
    cut = any(found.cut for found in facts.folders or ())
    return table(
        "folders",
        _("Biggest folders"),
        (
            Column("namespace", _("Namespace")),
            Column("pod", _("Pod")),
            Column("claim", _("Volume claim")),
            Column("path", _("Folder"), meaning=_("A folder counts what is below it")),
            Column("size", _("Size"), Unit.BYTES),
            Column("share", _("Of all in use"), Unit.RATIO),
        ),
        rows,
        _("No volume is so full that its folders were looked at; name a pod to look into it."),
        note=_("Not all of them: du did not end in time, or said more than is kept.") if cut else "",
    )


def files_table(facts: Facts) -> Table:
    """The biggest files in the containers that were looked into."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.folders is not None:
        known = [(found, one) for found in facts.folders for one in found.files or ()]
        rows = [
            (found.namespace, found.pod, found.container, one.path, one.size, one.changed, (facts.now - one.changed).total_seconds())
            for found, one in sorted(known, key=lambda pair: -pair[1].size)
        ]
    return table(
        "files",
        _("Biggest files"),
        (
            Column("namespace", _("Namespace")),
            Column("pod", _("Pod")),
            Column("container", _("Container")),
            Column("path", _("File")),
            Column("size", _("Size"), Unit.BYTES),
            Column("changed", _("Last changed"), Unit.TIME),
            Column("age", _("Age"), Unit.SECONDS),
        ),
        rows,
        _("No big file was seen: there is none of more than 10 MiB, or the image cannot look for it."),
    )


def writers_table(facts: Facts) -> Table:
    """What containers write outside their volumes, and their limits."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.writers is not None:
        rows = [
            (
                one.namespace,
                one.pod,
                one.container,
                one.used,
                one.growth * 3600 if one.growth is not None else None,
                one.logs,
                one.request,
                one.limit,
                one.used / one.limit if one.used is not None and one.limit else None,
            )
            for one in sorted(facts.writers, key=lambda one: -((one.used or 0) + (one.logs or 0)))
        ]
    return table(
        "writers",
        _("What containers write to the nodes' disks"),
        (
            Column("namespace", _("Namespace")),
            Column("pod", _("Pod")),
            Column("container", _("Container")),
            Column("used", _("Written"), Unit.BYTES, _("Outside its volumes")),
            Column("growth", _("Growth an hour"), Unit.BYTES),
            Column("logs", _("Logs"), Unit.BYTES),
            Column("request", _("Requested"), Unit.BYTES),
            Column("limit", _("Limit"), Unit.BYTES, _("Of ephemeral storage: a pod that writes more is evicted")),
            Column("share", _("Of its limit"), Unit.RATIO),
        ),
        rows,
        _("No container is known to write anything."),
    )


def logs_table(facts: Facts) -> Table:
    """The pods that log the most, and whether that is more than usual."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.log_volumes is not None:
        rows = [
            (one.namespace or None, one.pod, one.lines, one.before, one.lines / one.before if one.before else None)
            for one in facts.log_volumes
        ]
    return table(
        "logs",
        _("Who logs the most"),
        (
            Column("namespace", _("Namespace")),
            Column("pod", _("Pod")),
            Column("lines", _("Lines in the last hour"), Unit.COUNT),
            Column("before", _("An hour, the day before"), Unit.COUNT),
            Column("factor", _("Times as many"), Unit.COUNT),
        ),
        rows,
        _("Nothing was logged in the last hour."),
    )


def nodes_table(facts: Facts) -> Table:
    """Each node's images that nobody uses, its log rotation, and its image file system."""
    rows: list[tuple[Any, ...]] | None = None
    if facts.nodes is not None:
        rows = []
        for node in sorted(facts.nodes, key=lambda node: node.metadata.name):
            kubelet = (facts.kubelets or {}).get(node.metadata.name)
            idle = unused_on(facts, node)
            rows.append(
                (
                    node.metadata.name,
                    sum(image.size_bytes for image in node.status.images) if node.status.images else None,
                    None if idle is None or not node.status.images else sum(image.size_bytes for image in idle),
                    rotation_text(kubelet.log_max_bytes, kubelet.log_max_files) if kubelet else None,
                    kubelet.image_gc_high_percent / 100 if kubelet and kubelet.image_gc_high_percent is not None else None,
                    kubelet.image_used / kubelet.image_size if kubelet and kubelet.image_used is not None and kubelet.image_size else None,
                )
            )
    return table(
        "nodes",
        _("Images and log rotation"),
        (
            Column("node", _("Node")),
            Column("images", _("Images"), Unit.BYTES, _("The 50 biggest, as the kubelet lists them")),
            Column("unused", _("Used by no pod"), Unit.BYTES),
            Column("rotation", _("Logs of a container"), meaning=_("As the kubelet rotates them")),
            Column("threshold", _("Images are deleted from"), Unit.RATIO),
            Column("image_fs", _("Image file system in use"), Unit.RATIO),
        ),
        rows,
        _("There are no nodes."),
    )


_AMOUNTS = (
    Column("size", _("Size"), Unit.BYTES),
    Column("available", _("Available"), Unit.BYTES),
    Column("share", _("Of it in use"), Unit.RATIO),
    Column("kind", _("How it grows")),
    Column("growth", _("Growth an hour"), Unit.BYTES),
    Column("full", _("Full in"), Unit.SECONDS),
    Column("earliest", _("At the earliest"), Unit.SECONDS, _("Bounds of 95 per cent")),
    Column("latest", _("At the latest"), Unit.SECONDS, _("Bounds of 95 per cent")),
)

KINDS: dict[str, Message] = {
    "steady": _("steadily"),
    "sawtooth": _("sawtooth"),
    "step": _("in a step"),
    "flat": _("does not grow"),
    "shrinking": _("shrinks"),
    "short": _("too few points"),
}


def _amounts(facts: Facts, one: FileSystem) -> tuple[Any, ...]:
    seen = forecast_of(facts, one)
    known = seen is not None and seen.is_sure and math.isfinite(seen.seconds)
    return (
        one.size,
        one.available,
        one.share(),
        KINDS[seen.kind] if seen else None,
        seen.slope * 3600 if seen and seen.kind in ("steady", "sawtooth", "shrinking") else None,
        *((seen.seconds, seen.earliest, _finite(seen.latest)) if seen and known else (None, None, None)),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _judged(facts: Facts, parameters: Parameters, one: FileSystem) -> tuple[Severity]:
    """The worse of bytes and inodes."""
    shares: list[tuple[What, float | None]] = [(what, one.share(what)) for what in ("bytes", "inodes")]
    found = [judge(share, forecast_of(facts, one, what), parameters)[0] for what, share in shares if share is not None]
    return (max(found, default=Severity.UNKNOWN),)


def _ordered(found: Iterable[FileSystem], facts: Facts, parameters: Parameters) -> list[FileSystem]:
    return sorted(found, key=lambda one: (-_judged(facts, parameters, one)[0], -(one.share() or 0.0), str(one.place)))


# --- plots --------------------------------------------------------------------------------------------------------------------------------


def worth_a_plot(facts: Facts, parameters: Parameters, most: int = 6) -> list[FileSystem]:
    """Those with a history that are not well, the worst first; where all are well, the two fullest."""
    known = [one for one in (*(facts.volumes or ()), *(facts.filesystems or ())) if (one.place, "bytes") in (facts.histories or {})]
    ordered = _ordered(known, facts, parameters)
    return [one for one in ordered if _judged(facts, parameters, one)[0] > Severity.OK][:most] or ordered[:2]


def forecast_figures(facts: Facts, parameters: Parameters) -> list[Figure]:
    """One of each of the worst; one that says why it is empty where there are none."""
    worst: list[FileSystem | None] = [*worth_a_plot(facts, parameters)]
    return [forecast_figure(facts, one) for one in worst or [None]]


def forecast_figure(facts: Facts, one: FileSystem | None) -> Figure:
    """What was in use, all there is, and how it goes on, with the interval of 95 per cent. None: nothing to draw."""
    figure, axes = plotting.new_figure(_("In use, and when it is full: {name}", name=str(one.place)) if one else _("In use"), height=3.6)
    history = (facts.histories or {}).get((one.place, "bytes")) if one else None
    seen = forecast_of(facts, one) if one else None
    if one is None or history is None or seen is None or not (history.days.times or history.hours.times):
        plotting.no_data(axes, NOT_READ if facts.histories is None else _("There is no history to draw."))
        return figure
    near_from = history.hours.times[0] if history.hours.times else math.inf
    points = [pair for pair in zip(history.days.times, history.days.used, strict=True) if pair[0] < near_from]
    points += list(zip(history.hours.times, history.hours.used, strict=True))
    begin = _begin(seen, points[0][0], points[-1][0])
    points = [pair for pair in points if pair[0] >= begin]
    axes.plot(_at([time for time, _used in points]), [used for _time, used in points], label=plotting.label(_("In use")), **_line(0))
    plotting.threshold(axes, one.size, _("All there is"))
    last, used = points[-1]
    _draw_forecast(axes, seen, last, used, one.size, last - points[0][0])
    axes.set_ylim(0, one.size * 1.12)
    plotting.time_axis(axes, facts.zone)
    plotting.unit_axis(axes.yaxis, Unit.BYTES)
    plotting.legend(axes)
    return figure


def _begin(seen: Forecast, first: float, last: float) -> float:
    """From when on the past is drawn: what began an hour ago is not seen in a week."""
    ago = last - seen.since if seen.kind in ("steady", "step") and math.isfinite(seen.since) else math.inf
    return max(first, last - max(4 * ago, 6 * 3600))


def _draw_forecast(axes: Axes, seen: Forecast, last: float, used: float, size: float, past: float) -> None:
    """On from the last point: until it is full where that is near, else as long again as the past."""
    goes_on = seen.is_sure if seen.kind in ("steady", "sawtooth") else seen.kind == "shrinking"
    if not goes_on or math.isfinite(seen.full_since):
        return
    begin = seen.used if seen.kind == "sawtooth" else used
    span = max(past, 3600.0)
    ahead = 1.15 * seen.seconds if 0 < seen.seconds <= 2 * span else span
    ends = [min(max(begin + rate * ahead, 0.0), size * 1.12) for rate in (seen.slope, seen.low, seen.high)]
    moments = _at([last, last + ahead])
    axes.fill_between(
        moments, [begin, ends[1]], [begin, ends[2]], alpha=0.25, hatch="...", facecolor=plotting.PALETTE[1], edgecolor=plotting.GREY,
        linewidth=0, label=plotting.label(_("Interval of 95 %")),
    )  # fmt: skip
    axes.plot(moments, [begin, ends[0]], label=plotting.label(_("As it grows now")), **_line(1))
    if math.isfinite(seen.seconds) and seen.seconds <= ahead:
        plotting.threshold(axes, _at([last + seen.seconds])[0], _("full"), vertical=True)


def _line(number: int) -> dict[str, Any]:
    return {name: value for name, value in plotting.line_style(number).items() if not name.startswith("mark")}


def _at(seconds: Sequence[float]) -> list[float]:
    """Unix seconds as matplotlib counts days."""
    return [one / 86400 for one in seconds]


def use_figure(facts: Facts, parameters: Parameters) -> Figure:
    """The fullest file systems, as bars, with the limits from which on that is a warning or critical."""
    found: Sequence[FileSystem] = [*(facts.volumes or ()), *(facts.filesystems or ())]
    some = sorted(found, key=lambda one: -(one.share() or 0.0))[:15]
    figure, axes = plotting.new_figure(_("The fullest file systems"), height=1.4 + 0.28 * max(len(some), 2))
    if not some:
        plotting.no_data(axes, NOT_READ if facts.volumes is None and facts.filesystems is None else _("No volume is mounted."))
        return figure
    groups: dict[Severity, list[int]] = {}
    for row, one in enumerate(some):
        groups.setdefault(_judged(facts, parameters, one)[0], []).append(row)
    for severity, rows in sorted(groups.items()):
        shares = [some[row].share() or 0.0 for row in rows]
        axes.barh(rows, shares, 0.8, label=plotting.label(severity.label), **plotting.severity_style(severity))
    axes.set_yticks(range(len(some)), [plotting.label(str(one.place)) for one in some])
    axes.set_ylim(len(some) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.grid(False, axis="y")
    plotting.threshold(axes, parameters.use_warning, _("warning"), vertical=True)
    plotting.unit_axis(axes.xaxis, Unit.RATIO)
    plotting.legend(axes)
    return figure
