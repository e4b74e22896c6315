"""Containers that end, and how: exit codes, signals, memory, commands that are not there."""

from __future__ import annotations

import itertools
import re
from datetime import timedelta

from opslib.diagnosis.pods.cases import Case, Rule, signal_name, signal_of
from opslib.findings import Evidence, Finding, Step
from opslib.messages import Text, _
from opslib.sources.quantities import text_of_bytes, value_of

MIN_POINTS = 15  # of a rise, a minute each
_NO_COMMAND = r"executable file not found|no such file or directory|not found in \$PATH|command not found|permission denied"


def memory(case: Case) -> Finding | None:
    """Killed for lack of memory: at the container's own limit, or because the node had none left.

    The kernel kills within the container's cgroup when its limit is reached. Without a limit, or when the node reports a SystemOOM event
    around that time, it was the node's memory that ran out.
    """
    if case.symptom.kind not in ("oom",) and not (case.symptom.kind == "restarted" and case.symptom.detail == "oom"):
        return None
    limit = value_of(case.container.resources.limits.get("memory")) if case.container else None
    node_events = _node_oom(case)
    evidence = [*case.end_evidence(), *_limit_evidence(case, limit), *_use_evidence(case), *_rise_evidence(case)]
    if limit is None or node_events:
        cause: Text = (
            _("Node {node} ran out of memory, and the kernel chose this container.", node=case.pod.spec.node_name)
            if node_events
            else _("The container has no memory limit, so what ran out was the memory of the node or of a limit above it.")
        )
        return case.finding(
            "memory.node",
            _("Container {container} was killed because its node ran out of memory", container=case.symptom.container),
            cause=cause,
            evidence=[*evidence, *node_events],
            steps=(
                Step(_("Look at the node: who uses the memory"), _top(case, "node")),
                case.edit(_("Give the container a memory request that fits its use, and a limit")),
            ),
        )
    return case.finding(
        "memory.limit",
        _(
            "Container {container} reaches its memory limit of {limit} and is killed",
            container=case.symptom.container,
            limit=text_of_bytes(limit),
        ),
        cause=_("The container needs more memory than its limit allows: too small a limit, a leak, or more load."),
        evidence=[*evidence, *case.log_evidence()],
        steps=(
            Step(
                _("Compare the use with the limit over time: a steady rise is a leak, a step is load or a new version"), _top(case, "pod")
            ),
            case.edit(_("Raise the limit (and the request), or set the runtime's own limit, such as the JVM's heap, below it")),
        ),
    )


def command_not_found(case: Case) -> Finding | None:
    """The command cannot be executed: not in the image, or not executable."""
    if case.symptom.kind not in ("start", "exited", "failed"):
        return None
    ended = case.ended
    said = case.said(_NO_COMMAND) if case.symptom.kind == "start" or (ended and ended.exit_code in (126, 127, 128)) else ""
    logged = re.search(_NO_COMMAND, case.log.of_failure, re.IGNORECASE)
    if not said and not (ended and ended.exit_code in (126, 127) and (logged or case.symptom.kind != "start")):
        return None
    container = case.container
    words = [*container.command, *container.args] if container else []
    return case.finding(
        "container.command_not_found",
        _("Container {container} cannot execute its command", container=case.symptom.container),
        cause=_(
            "The command is not in the image, or may not be executed: a wrong path, a missing shell, or a script without the execute bit."
        ),
        evidence=[
            *case.end_evidence(),
            *([case.waiting_evidence()] if case.waiting_message else []),
            *case.event_evidence("Failed"),
            *([case.pod_evidence(_("The command in the template"), " ".join(words))] if words else []),
            *case.log_evidence(),
        ],
        steps=(case.describe(), case.edit(_("Put right the command in the template, or the image"))),
    )


def cannot_start(case: Case) -> Finding | None:
    """The runtime cannot create or start the container, for another reason."""
    if case.symptom.kind != "start":
        return None
    return case.finding(
        "container.cannot_start",
        _("Container {container} cannot be started", container=case.symptom.container),
        evidence=[
            *([case.waiting_evidence()] if case.waiting_message else []),
            *case.end_evidence(),
            *case.event_evidence("Failed", "FailedPostStartHook", "FailedPreStopHook"),
        ],
        steps=(case.describe(), case.restart()),
    )


def post_start(case: Case) -> Finding | None:
    """The command that runs after the start fails: the kubelet ends the container for it, whatever the program itself does."""
    said = case.event_evidence("FailedPostStartHook")
    if case.symptom.kind not in ("exited", "start", "failed", "other") or not said:
        return None
    return case.finding(
        "container.post_start",
        _("Container {container} is ended because its postStart hook fails", container=case.symptom.container),
        cause=_("The kubelet ends a container whose postStart hook fails. The program may be well."),
        evidence=[*said, *case.end_evidence(), *case.log_evidence()],
        steps=(case.describe(), case.edit(_("Put right the hook's command, or take it out"))),
    )


def clean_exit(case: Case) -> Finding | None:
    """Ends with 0, though it should keep running."""
    if case.symptom.kind != "exited" or case.symptom.detail != "0":
        return None
    return case.finding(
        "container.clean_exit",
        _("Container {container} ends without an error, and is started again and again", container=case.symptom.container),
        cause=_(
            "Its main process finishes: a command that runs once, a server that goes to the background, or a shell without a terminal."
        ),
        evidence=[*case.end_evidence(), *case.log_evidence(), *case.event_evidence("BackOff", limit=1)],
        steps=(case.logs(), case.edit(_("Start the server in the foreground, or make it a Job if it should run once"))),
    )


def by_signal(case: Case) -> Finding | None:
    """Ended by a signal that is not an out-of-memory kill."""
    ended = case.ended
    if case.symptom.kind not in ("exited", "failed") or ended is None or not signal_of(ended):
        return None
    signal = signal_of(ended)
    cause: Text | None = None
    if signal in (4, 7, 8, 11):
        cause = _("A fault in native code: the program read or executed memory that it must not.")
    elif signal == 6:
        cause = _("The program ended itself (abort): a failed assertion or a runtime that gave up.")
    elif signal == 9:
        cause = _(
            "It was killed from outside without being out of its own memory limit: a process in it out of memory, a probe or a shutdown"
            " that did not end in time, or somebody on the node."
        )
    return case.finding(
        "container.signal",
        _("Container {container} is ended by {signal}", container=case.symptom.container, signal=signal_name(signal)),
        cause=cause,
        evidence=[*case.end_evidence(), *case.log_evidence(), *case.event_evidence("Killing", "BackOff", limit=2)],
        steps=(case.logs(), case.describe(), case.restart()),
    )


def crash_loop(case: Case) -> Finding | None:
    """Ends with an error again and again."""
    if case.symptom.kind != "exited":
        return None
    ended = case.ended
    if ended is None:
        title = _("Container {container} keeps ending", container=case.symptom.container)
    else:
        title = _("Container {container} keeps ending with exit code {code}", container=case.symptom.container, code=ended.exit_code)
    return case.finding(
        "container.crash_loop",
        title,
        evidence=[*case.end_evidence(), *case.log_evidence(), *case.event_evidence("BackOff", limit=1)],
        steps=(case.logs(), case.describe(), case.restart()),
    )


def failed(case: Case) -> Finding | None:
    """Ended with an error and is not started again."""
    if case.symptom.kind != "failed":
        return None
    return case.finding(
        "container.failed",
        _("Container {container} ended with an error and is not started again", container=case.symptom.container)
        if case.symptom.container
        else _("The pod ended in failure and is not started again"),
        evidence=[*case.end_evidence(), *case.log_evidence()],
        steps=(case.logs(previous=False), case.describe()),
    )


def restarts(case: Case) -> Finding | None:
    """Runs and is ready, but was restarted not long ago."""
    if case.symptom.kind != "restarted":
        return None
    return case.finding(
        "container.restarts",
        _("Container {container} was restarted not long ago and runs now", container=case.symptom.container),
        evidence=[*case.end_evidence(), *case.log_evidence()],
        steps=(case.logs(), case.describe()),
    )


MEMORY_RULES: tuple[Rule, ...] = (memory,)
RULES: tuple[Rule, ...] = (post_start, command_not_found, cannot_start, clean_exit, by_signal, crash_loop, failed, restarts)


def _node_oom(case: Case) -> list[Evidence]:
    """SystemOOM events of the node within five minutes of the kill."""
    ended = case.ended
    node = case.facts.node(case.pod.spec.node_name)
    if node is None or ended is None or ended.finished_at is None:
        return []
    # The kubelet writes the node's name as the uid of the events about it.
    events = [event for uid in (node.metadata.uid, node.metadata.name) for event in case.facts.events_of(uid, "SystemOOM")]
    return [
        Evidence(
            text=_("Event {reason} about {kind} {name}", reason=event.reason, kind="Node", name=node.metadata.name),
            quote=event.message,
            reference=f"/api/v1/nodes/{node.metadata.name}",
            time=event.seen,
        )
        for event in events
        if event.seen and abs(event.seen - ended.finished_at) <= timedelta(minutes=5)
    ][:1]


def _limit_evidence(case: Case, limit: float | None) -> list[Evidence]:
    container = case.container
    if container is None:
        return []
    request = value_of(container.resources.requests.get("memory"))
    return [
        case.pod_evidence(
            _(
                "Memory of {container}: request {request}, limit {limit}",
                container=container.name,
                request=text_of_bytes(request) if request is not None else "-",
                limit=text_of_bytes(limit) if limit is not None else "-",
            )
        )
    ]


def _use_evidence(case: Case) -> list[Evidence]:
    """The highest use that Prometheus saw."""
    frame = case.facts.memory
    if frame is None or frame.empty:
        return []
    metadata = case.pod.metadata
    mine = frame[
        (frame["namespace"] == metadata.namespace) & (frame["pod"] == metadata.name) & (frame["container"] == case.symptom.container)
    ]
    if mine.empty:
        return []
    peak = mine.sort_values("value").iloc[-1]
    return [
        Evidence(
            text=_("Highest use that was measured: {use}", use=text_of_bytes(float(peak["value"]))),
            source="prometheus",
            reference=f'container_memory_working_set_bytes{{namespace="{metadata.namespace}",pod="{metadata.name}",container="{case.symptom.container}"}}',
            time=peak["time"].to_pydatetime(),
        )
    ]


def _rise_evidence(case: Case) -> list[Evidence]:
    """That the use rose steadily: between two restarts nearly always upwards, by a third of its peak at least."""
    frame = case.facts.memory
    if frame is None or frame.empty:
        return []
    pods = {pod.metadata.name for pod in case.pods}
    mine = frame[
        (frame["namespace"] == case.pod.metadata.namespace) & frame["pod"].isin(pods) & (frame["container"] == case.symptom.container)
    ]
    for _pod, series in sorted(mine.groupby("pod"), key=lambda item: str(item[0])):
        series = series.sort_values("time")
        values, times = [float(value) for value in series["value"]], list(series["time"])
        begin = 0
        for place in range(1, len(values) + 1):
            if place < len(values) and values[place] > 0.7 * values[place - 1]:
                continue
            part = values[begin:place]
            hours = (times[place - 1] - times[begin]).total_seconds() / 3600
            rises = sum(after >= before for before, after in itertools.pairwise(part))
            gain = part[-1] - part[0]
            if len(part) >= MIN_POINTS and gain > part[-1] / 3 and rises >= 0.6 * (len(part) - 1):
                text = _(
                    "Its use rose steadily, by {rate} an hour over {hours} h: a leak, or a cache without bound",
                    rate=text_of_bytes(gain / hours),
                    hours=f"{hours:.1f}",
                )
                return [Evidence(text=text, source="prometheus", time=times[begin].to_pydatetime())]
            begin = place
    return []


def _top(case: Case, what: str) -> str:
    if what == "node":
        from opslib.diagnosis.pods.cases import kubectl

        return kubectl(case.facts, "", "describe", "node", case.pod.spec.node_name)
    return case.kubectl("top", "pod", case.pod.metadata.name, "--containers")
