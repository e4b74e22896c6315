"""Chapter 4.1: every unhealthy pod with its cause and the evidence for it, and what to do about it.

Pure functions over `Facts`: findings, tables, plots. The rules stand in `opslib.diagnosis.pods`; `opslib.facts.pods` reads the facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from opslib.diagnosis.pods import diagnose, timeline
from opslib.diagnosis.pods.cases import cases, exit_meaning, onset
from opslib.diagnosis.pods.changes import changes, changes_of
from opslib.diagnosis.pods.facts import (
    ACTION,
    CONFIGURATION,
    EKS,
    NODE,
    ROLLOUT,
    SCALING,
    TERRAFORM,
    Change,
    Facts,
    Log,
    owner_of,
)
from opslib.diagnosis.pods.measured import owner_by_name
from opslib.diagnosis.pods.probes import describe as probe_words
from opslib.findings import Column, Finding, Severity, Subject, Table, Unit, by_severity
from opslib.messages import Message, Text, _, one_line
from opslib.sources.objects import ContainerStatus, Event, Pod
from opslib.sources.status import pod_status

if TYPE_CHECKING:
    from datetime import tzinfo

    from matplotlib.figure import Figure

__all__ = ["REQUIRES", "Facts", "Log", "Parameters", "findings"]

REQUIRES = ("kubernetes",)  # without it there is nothing to say
READS = ("kubernetes", "prometheus", "alertmanager")

MOST_BARS = 15
MOST_LINES = 6
MOST_ROWS = 500


class Parameters(BaseModel):
    """What the reader may choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = Field("", pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", description="Only this namespace; empty: all of them.")
    labels: str = Field("", max_length=500, description="Only pods with these labels, as a label selector: app=checkout,tier!=test.")
    pod: str = Field("", max_length=317, description="Pod to look at closely, as name or namespace/name; empty: one of the worst finding.")
    log_lines: int = Field(100, ge=0, le=5000, description="Lines of a container's log that are read, from its end; 0: none.")
    grace_seconds: int = Field(60, ge=0, le=3600, description="How long a pod may take to start before that is a finding.")
    window_minutes: int = Field(
        60, ge=1, le=10080, description="How long ago a restart still matters, and how long before the trouble a change does."
    )
    looked_at_closely: int = Field(
        200, ge=1, le=5000, description="Groups of pods whose events and logs are read; the largest groups first."
    )

    LABELS: ClassVar[dict[str, Message]] = {
        "namespace": _("Only this namespace; empty: all of them."),
        "labels": _("Only pods with these labels, as a label selector: app=checkout,tier!=test."),
        "pod": _("Pod to look at closely, as name or namespace/name; empty: one of the worst finding."),
        "log_lines": _("Lines of a container's log that are read, from its end; 0: none."),
        "grace_seconds": _("How long a pod may take to start before that is a finding."),
        "window_minutes": _("How long ago a restart still matters, and how long before the trouble a change does."),
        "looked_at_closely": _("Groups of pods whose events and logs are read; the largest groups first."),
    }


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that is wrong, worst first, and what could not be looked at.

    Pods of one owner with one cause are one finding, which names them. Critical: no pod of the owner is known to be ready, data is at risk,
    or a Job failed for good. Warning: others still serve.
    """
    return by_severity([*diagnose(facts), *facts.gaps])


# --- tables -------------------------------------------------------------------------------------------------------------------------------


def status_table(facts: Facts) -> Table:
    """How many pods have which STATUS.

    Columns: status (text), pods (count), share (ratio).
    """
    counts = facts.by_status
    rows = [] if not counts else [(status, count, count / max(1, sum(counts.values()))) for status, count in counts.items()]
    rows.sort(key=lambda row: (-row[1], row[0]))
    return Table(
        name="status",
        title=_("Pods by status"),
        columns=(
            Column("status", _("Status"), meaning=_("STATUS as kubectl prints it")),
            Column("pods", _("Pods"), Unit.COUNT),
            Column("share", _("Share"), Unit.RATIO),
        ),
        rows=rows,
        empty=_("There are no pods.") if counts is not None else _("The pods could not be read."),
    )


def unhealthy_table(facts: Facts, found: Sequence[Finding]) -> Table:
    """Every unhealthy pod on a line, with its owner and cause.

    Columns: namespace, pod, ready, status, restarts (text, as kubectl prints them), age (seconds), node, owner, since (time), severity,
    cause (text: the finding's title).
    """
    causes = _causes(found)
    rows: list[tuple[Any, ...]] = []
    seen = dict.fromkeys(pod.metadata.uid or pod.metadata.name for case in cases(facts) for pod in case.pods)
    for pod in facts.pods or ():
        if (pod.metadata.uid or pod.metadata.name) not in seen:
            continue
        line = pod_status(pod)
        finding = causes.get(Subject("Pod", pod.metadata.name, pod.metadata.namespace))
        owner = owner_of(pod, facts)
        created = pod.metadata.creation_timestamp
        rows.append(
            (
                finding.severity if finding else Severity.INFO,
                pod.metadata.namespace,
                pod.metadata.name,
                f"{line.ready}/{line.total}",
                line.status,
                line.restarts_text(facts.now),
                (facts.now - created).total_seconds() if created else None,
                pod.spec.node_name or None,
                f"{owner.kind}/{owner.name}",
                onset(pod, facts),
                finding.title if finding else None,
            )
        )
    rows.sort(key=lambda row: (-row[0], row[1], row[8], row[2]))
    return Table(
        name="unhealthy",
        title=_("Unhealthy pods"),
        columns=(
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("namespace", _("Namespace")),
            Column("pod", _("Pod")),
            Column("ready", _("Ready"), meaning=_("Containers that are ready, of all")),
            Column("status", _("Status"), meaning=_("STATUS as kubectl prints it")),
            Column("restarts", _("Restarts"), meaning=_("How often, and how long ago the last time")),
            Column("age", _("Age"), Unit.SECONDS),
            Column("node", _("Node")),
            Column("owner", _("Owner"), meaning=_("Who looks after the pod, at the top of the chain")),
            Column("since", _("Since"), Unit.TIME, meaning=_("First warning, or when it stopped being ready")),
            Column("cause", _("Cause")),
        ),
        rows=rows,
        empty=_("All pods are well.") if facts.pods is not None else _("The pods could not be read."),
    )


def events_table(facts: Facts) -> Table:
    """Warnings about the pods and owners that were looked at closely, newest first.

    Columns: time, namespace, object, reason, times (count), message.
    """
    events = [event for items in (facts.events or {}).values() for event in items if event.type != "Normal" and not _gone(event, facts)]
    events.sort(key=lambda event: str(event.seen or ""), reverse=True)
    rows = [
        (
            event.seen,
            event.involved_object.namespace,
            f"{event.involved_object.kind}/{event.involved_object.name}",
            event.reason,
            event.times,
            one_line(event.message, 400),
        )
        for event in events[:MOST_ROWS]
    ]
    return Table(
        name="events",
        title=_("Warnings about these pods and their owners"),
        columns=(
            Column("time", _("Last seen"), Unit.TIME),
            Column("namespace", _("Namespace")),
            Column("object", _("Object")),
            Column("reason", _("Reason")),
            Column("times", _("Times"), Unit.COUNT),
            Column("message", _("Message")),
        ),
        rows=rows,
        empty=_("No warnings; the cluster keeps events for an hour.") if facts.events is not None else _("The events could not be read."),
    )


def _gone(event: Event, facts: Facts) -> bool:
    about = event.involved_object
    return (about.kind, about.namespace, about.name) in facts.missing


def changes_table(facts: Facts) -> Table:
    """What was changed within the window before now or before the trouble, for every owner with unhealthy pods, newest first.

    Columns: time, owner, change (text), before (seconds: how long before the trouble began; negative: after).
    """
    found: dict[tuple[Subject, Any], tuple[Change, datetime | None, Subject]] = {}
    for case in cases(facts):
        since = case.since
        for change in changes_of(case):
            if change.time >= (since or facts.now) - facts.onset_window:
                found.setdefault((case.owner, change.subject), (change, since, case.owner))
    rows = [
        (
            change.time,
            f"{owner.namespace}/{owner.kind}/{owner.name}",
            change.text,
            (since - change.time).total_seconds() if since else None,
        )
        for change, since, owner in found.values()
    ]
    rows.sort(key=lambda row: (str(row[0]), row[1]), reverse=True)
    return Table(
        name="changes",
        title=_("Changes near the beginning of the trouble"),
        columns=(
            Column("time", _("Time"), Unit.TIME),
            Column("owner", _("Owner")),
            Column("change", _("Change")),
            Column("before", _("Before the trouble"), Unit.SECONDS, _("How long before the trouble began; negative: after it")),
        ),
        rows=rows,
        empty=_("No change of a workload, ConfigMap, Secret or node near it is known."),
        note=_("A change near the beginning is a hint, not a proof."),
    )


def timeline_table(facts: Facts, found: Sequence[Finding]) -> Table:
    """Changes, alerts, silences and the beginning of each trouble, the oldest first.

    Columns: time, kind, object, what (text), rank (count: of changes, from the nearest before trouble that depends on it).
    """
    rows = [(item.time, _kinds()[item.kind], str(item.subject), item.text, item.rank or None) for item in timeline.timeline(facts, found)]
    return Table(
        name="timeline",
        title=_("Changes and symptoms"),
        columns=(
            Column("time", _("Time"), Unit.TIME),
            Column("kind", _("Kind")),
            Column("object", _("Object")),
            Column("what", _("What")),
            Column("rank", _("Rank"), Unit.COUNT, _("Of a change: 1 stands nearest before trouble that depends on it")),
        ),
        rows=rows[-MOST_ROWS:],
        empty=_("No change, alert or trouble with a known time."),
        note=_("A change near the beginning is a hint, not a proof."),
    )


def timeline_plot(facts: Facts, found: Sequence[Finding], zone: tzinfo) -> Figure:
    """Changes, alerts, silences and symptoms on one time axis, a row an object, each kind with a mark of its own.

    Where there are too many objects for it, those with trouble and with changes near before it have a row first.
    """
    from opslib.chapters import plotting

    moments = timeline.timeline(facts, found)
    weight = {timeline.SYMPTOM: 0, timeline.ALERT: 2}
    first = sorted(
        (item for item in moments if item.kind != timeline.SILENCE), key=lambda item: 1 if item.rank else weight.get(item.kind, 3)
    )
    kept = set(list(dict.fromkeys(str(item.subject) for item in first))[:MOST_BARS])
    names = [name for name in dict.fromkeys(str(item.subject) for item in moments) if name in kept]
    if any(item.kind == timeline.SILENCE for item in moments):
        names.append(_SILENCES)
    figure, axes = plotting.new_figure(_("Changes and symptoms"), height=max(2.0, 1.1 + 0.32 * len(names)))
    if not names:
        plotting.no_data(axes, _("No change, alert or trouble with a known time."))
        return figure
    rows = {name: number for number, name in enumerate(names)}
    for number, (kind, label) in enumerate(_kinds().items()):
        mine = [(item.time, rows[name]) for item in moments if item.kind == kind and (name := _row(item)) in rows]
        if not mine:
            continue
        thin = _MARKS[number] in "|_+"
        style: dict[str, Any] = {"marker": _MARKS[number], "markersize": 11 if thin else 7, "markeredgewidth": 2 if thin else 1}
        style["color"] = plotting.PALETTE[number % 7]  # but yellow, which is hard to see alone
        times = [time for time, _place in mine]
        axes.plot(times, [place for _time, place in mine], linestyle="none", label=plotting.label(label), **style)  # type: ignore[arg-type]
        if kind not in (timeline.SYMPTOM, timeline.ALERT, timeline.SILENCE):
            axes.vlines(times, -0.6, len(names) - 0.4, color=plotting.GREY, linestyle=":", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_yticks(range(len(names)), [plotting.label(_("Silences") if name == _SILENCES else name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    plotting.time_axis(axes, zone)
    plotting.legend(axes)
    return figure


_SILENCES = ""
_MARKS = "|_+DPp*^Xs"  # of the kinds, in their order


def _row(item: timeline.Moment) -> str:
    return _SILENCES if item.kind == timeline.SILENCE else str(item.subject)


def _kinds() -> dict[str, Message]:
    return {
        ROLLOUT: _("rollout"),
        CONFIGURATION: _("configuration"),
        SCALING: _("scaling"),
        NODE: _("node"),
        EKS: _("EKS"),
        TERRAFORM: _("Terraform"),
        ACTION: _("opslib's own action"),
        timeline.SYMPTOM: _("beginning of trouble"),
        timeline.ALERT: _("alert"),
        timeline.SILENCE: _("silence"),
    }


def restart_table(found: Sequence[Finding]) -> Table:
    """What can be done, in order: the commands that change something, by finding.

    Columns: severity, subject, what (text), command (text).
    """
    rows = [
        (finding.severity, str(finding.subject), step.text, step.command) for finding in found for step in finding.steps if step.changes
    ]
    return Table(
        name="restart",
        title=_("Commands that change something"),
        columns=(
            Column("severity", _("Severity"), Unit.SEVERITY),
            Column("subject", _("Object")),
            Column("what", _("What it does")),
            Column("command", _("Command")),
        ),
        rows=rows[:MOST_ROWS],
        empty=_("There is nothing to restart."),
        note=_("Nothing here has been done. Put right the cause first: a restart alone brings the same trouble back."),
    )


# --- one pod ------------------------------------------------------------------------------------------------------------------------------


def selected(facts: Facts, found: Sequence[Finding], name: str = "") -> Pod | None:
    """The pod called `name` (or ``namespace/name``) among the unhealthy ones; without a name, one of the worst finding."""
    pods = facts.pods or ()
    if name:
        return next((pod for pod in pods if name in (pod.metadata.name, f"{pod.metadata.namespace}/{pod.metadata.name}")), None)
    known = {(pod.metadata.namespace, pod.metadata.name): pod for pod in pods}
    candidates = [
        known[key] for finding in found for item in (finding.subject, *finding.affected) if (key := (item.namespace, item.name)) in known
    ]
    read = [pod for pod in candidates if any(key[:2] == (pod.metadata.namespace, pod.metadata.name) for key in facts.logs)]
    return next(iter(read or candidates), None)


def pod_table(facts: Facts, found: Sequence[Finding], name: str = "") -> Table:
    """One pod in the order of ``kubectl describe pod``.

    Columns: part (text), value (text).
    """
    pod = selected(facts, found, name)
    rows = _described(pod, facts) if pod else []
    return Table(
        name="pod",
        title=_("Pod {name}", name=f"{pod.metadata.namespace}/{pod.metadata.name}") if pod else _("Pod"),
        columns=(Column("part", _("Part")), Column("value", _("Value"))),
        rows=rows,
        empty=_("No unhealthy pod is called {name}.", name=name) if name else _("There is no unhealthy pod to look at."),
    )


def log_table(facts: Facts, found: Sequence[Finding], name: str = "") -> Table:
    """The last lines of the same pod's log, of the run before the last restart first.

    Columns: container, run ("previous" or "current"), line.
    """
    pod = selected(facts, found, name)
    rows: list[tuple[str, Text, str]] = []
    not_read = False
    for (namespace, pod_name, container), log in sorted(facts.logs.items()):
        if pod is None or (namespace, pod_name) != (pod.metadata.namespace, pod.metadata.name):
            continue
        not_read |= log.current is None and log.previous is None
        for run, text in ((_("previous"), log.previous), (_("current"), log.current)):
            rows += [(container, run, line) for line in (text or "").splitlines()]
    return Table(
        name="log",
        title=_("Last lines of the log of {name}", name=f"{pod.metadata.namespace}/{pod.metadata.name}") if pod else _("Log"),
        columns=(
            Column("container", _("Container")),
            Column("run", _("Run"), meaning=_("previous: before the last restart")),
            Column("line", _("Line")),
        ),
        rows=rows[-MOST_ROWS * 2 :],
        empty=_("The log could not be read.") if not_read else _("The container has written nothing, or its log was not read."),
        note=_("What looks like a secret has been taken out."),
    )


def _described(pod: Pod, facts: Facts) -> list[tuple[Text, Text]]:
    line = pod_status(pod)
    owner = owner_of(pod, facts)
    rows: list[tuple[Text, Text]] = [
        (_("Status"), f"{line.status} ({line.ready}/{line.total})"),
        (_("Owner"), f"{owner.kind}/{owner.name}"),
        (_("Node"), pod.spec.node_name or "-"),
        (_("Address"), pod.status.pod_ip or "-"),
        (_("Service account"), pod.spec.service_account_name or "-"),
        (_("Labels"), ", ".join(f"{key}={value}" for key, value in sorted(pod.metadata.labels.items())) or "-"),
    ]
    statuses = {item.name: item for item in (*pod.status.init_container_statuses, *pod.status.container_statuses)}
    init = {container.name for container in pod.spec.init_containers}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        label = _("Init container {name}", name=container.name) if container.name in init else _("Container {name}", name=container.name)
        rows.append((label, container.image))
        status = statuses.get(container.name)
        if status:
            rows.append((_("State of {name}", name=container.name), _state(status)))
        for kind, probe in (
            (_("Liveness probe of {name}", name=container.name), container.liveness_probe),
            (_("Readiness probe of {name}", name=container.name), container.readiness_probe),
            (_("Startup probe of {name}", name=container.name), container.startup_probe),
        ):
            if probe:
                rows.append((kind, probe_words(probe)))
        resources = [f"{name} {value}" for name, value in sorted(container.resources.requests.items())]
        limits = [f"{name} {value}" for name, value in sorted(container.resources.limits.items())]
        if resources or limits:
            rows.append(
                (
                    _("Resources of {name}", name=container.name),
                    _("requests {requests}; limits {limits}", requests=resources or ["-"], limits=limits or ["-"]),
                )
            )
    for item in pod.status.conditions:
        if item.status != "True":
            words = " ".join(word for word in (item.reason, item.message) if word)
            rows.append((_("Condition {type}", type=item.type), f"{item.status} {one_line(words, 300)}".strip()))
    for event in facts.events_of(pod.metadata.uid):
        rows.append((_("Event {reason}", reason=event.reason), one_line(event.message, 300)))
    return rows


def _state(status: ContainerStatus) -> Text:
    state = status.state
    if state.waiting:
        return _("waiting: {reason}; restarts: {restarts}", reason=state.waiting.reason or "-", restarts=status.restart_count)
    if state.running:
        return _("running; restarts: {restarts}", restarts=status.restart_count)
    if state.terminated:
        return _("ended with code {code}: {meaning}", code=state.terminated.exit_code, meaning=exit_meaning(state.terminated))
    return "-"


# --- plots --------------------------------------------------------------------------------------------------------------------------------


def owners_plot(facts: Facts, found: Sequence[Finding]) -> Figure:
    """Unhealthy pods and their restarts by owner, the most first."""
    from opslib.chapters import plotting

    pods: dict[str, int] = {}
    restarts: dict[str, int] = {}
    for pod in {id(pod): pod for case in cases(facts) for pod in case.pods}.values():
        owner = owner_of(pod, facts)
        name = f"{owner.namespace}/{owner.name}"
        pods[name] = pods.get(name, 0) + 1
        restarts[name] = restarts.get(name, 0) + pod_status(pod).restarts
    names = sorted(pods, key=lambda name: (-pods[name], -restarts[name], name))[:MOST_BARS]
    figure, axes = plotting.new_figure(_("Unhealthy pods by owner"), height=max(2.0, 0.9 + 0.45 * len(names)), x_label=_("Pods, restarts"))
    if not names:
        plotting.no_data(axes, _("All pods are well.") if facts.pods is not None else _("The pods could not be read."))
        return figure
    plotting.horizontal_bars(
        axes, names, {_("Unhealthy pods"): [float(pods[name]) for name in names], _("Restarts"): [float(restarts[name]) for name in names]}
    )
    return figure


def restarts_plot(facts: Facts, zone: tzinfo) -> Figure:
    """Restarts over time by owner, a small plot each, with its rollouts as upright lines: restarts that begin at one came with it."""
    from opslib.chapters import plotting

    title = _("Restarts in ten minutes, and rollouts")
    frame = facts.restarts
    if frame is None or frame.empty:
        figure, axes = plotting.new_figure(title)
        plotting.no_data(axes, _("No container restarts, or Prometheus has no measurements of it."))
        return figure
    owners = [owner_by_name(str(space), str(pod), facts) for space, pod in zip(frame["namespace"], frame["pod"], strict=True)]
    counts = frame.assign(owner=[str(owner) for owner in owners]).groupby(["owner", "time"], as_index=False)["value"].sum()
    most = counts.groupby("owner")["value"].sum().sort_values(ascending=False).index[:MOST_LINES]
    subjects = {str(owner): owner for owner in owners}
    figure, rows = plotting.stacked_figure(title, len(most), row_height=1.1)
    begin = facts.now - timedelta(hours=6)
    for axes, name in zip(rows, most, strict=True):
        mine = counts[counts["owner"] == name]
        times = [moment.to_pydatetime() for moment in mine["time"]]
        axes.bar(times, mine["value"].to_numpy(), width=8 / 1440, color="#BBBBBB", edgecolor="black", linewidth=0.6)
        axes.set_title(plotting.label(name, 110), loc="left", fontsize=8, pad=2)
        axes.set_xlim(begin, facts.now)  # type: ignore[arg-type]
        axes.set_ylim(bottom=0)
        workload = facts.workload(subjects[name].kind, subjects[name].namespace, subjects[name].name)
        known = changes(facts, subjects[name], workload.spec.template.spec if workload else None)
        plotting.marks(axes, [(change.time, _kinds()[change.kind]) for change in known if change.subject == subjects[name]])
    plotting.time_axis(rows[-1], zone)
    return figure


def memory_plot(facts: Facts, zone: tzinfo) -> Figure:
    """Memory use of containers that were killed for lack of it, as a share of their limit, over time."""
    from opslib.chapters import plotting
    from opslib.sources.quantities import value_of

    figure, axes = plotting.new_figure(_("Memory against the limit, of containers that ran out of it"), y_label=_("Use / limit"))
    frame = facts.memory
    if frame is None or frame.empty:
        plotting.no_data(axes, _("No container ran out of memory, or Prometheus has no measurements of it."))
        return figure
    limits = {
        (pod.metadata.namespace, pod.metadata.name, container.name): value_of(container.resources.limits.get("memory"))
        for pod in facts.pods or ()
        for container in pod.spec.containers
    }
    ends = _kills(facts)
    kills: list[tuple[datetime, int]] = []
    drawn = 0
    for key, series in frame.groupby(["namespace", "pod", "container"]):
        namespace, pod_name, container_name = (str(part) for part in key)
        limit = limits.get((namespace, pod_name, container_name))
        if not limit or drawn == MOST_LINES:
            continue
        series = series.sort_values("time")
        times = [moment.to_pydatetime() for moment in series["time"]]
        shares = [float(value) / limit for value in series["value"]]
        axes.plot(times, shares, label=plotting.label(f"{pod_name}/{container_name}"), **plotting.line_style(drawn))
        kills += [(moment, drawn) for moment in ends.get((namespace, pod_name, container_name), ()) if times[0] <= moment <= facts.now]
        drawn += 1
    if not drawn:
        plotting.no_data(axes, _("The containers that ran out of memory have no limit."))
        return figure
    plotting.threshold(axes, 1.0, _("limit"))
    if kills:
        text = plotting.label(_("killed for want of memory"))
        axes.plot([moment for moment, _line in kills], [1.0] * len(kills), "X", color="black", markersize=9, label=text)  # type: ignore[arg-type]
    axes.set_ylim(bottom=0)
    plotting.time_axis(axes, zone)
    plotting.unit_axis(axes.yaxis, Unit.RATIO)
    plotting.legend(axes)
    return figure


def _kills(facts: Facts) -> dict[tuple[str, str, str], list[datetime]]:
    """When containers were killed for want of memory, as far as their pods still say it."""
    found: dict[tuple[str, str, str], list[datetime]] = {}
    for pod in facts.pods or ():
        for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
            for ended in (status.state.terminated, status.last_state.terminated):
                if ended and ended.reason == "OOMKilled" and ended.finished_at:
                    found.setdefault((pod.metadata.namespace, pod.metadata.name, status.name), []).append(ended.finished_at)
    return found


def _causes(found: Sequence[Finding]) -> dict[Subject, Finding]:
    """The worst finding of each pod."""
    causes: dict[Subject, Finding] = {}
    for finding in found:
        for item in (*finding.affected, finding.subject):
            if item.kind == "Pod":
                causes.setdefault(item, finding)
    return causes
