"""Probes that fail: which, on which port or command, and whether it gives the container time enough to start."""

from __future__ import annotations

import re
from datetime import timedelta

from opslib.diagnosis.pods.cases import Case, Rule, age
from opslib.findings import Evidence, Finding, Step
from opslib.messages import Text, _
from opslib.sources.objects import Event, Probe

# Killed by a probe, a container ends like this: by the signal, by itself on SIGTERM, or however it likes when asked to.
_TIMEOUT = r"timeout|timed out|deadline exceeded"
_REFUSED = re.compile(r"connection refused", re.IGNORECASE)


def startup(case: Case) -> Finding | None:
    """The startup probe fails until the kubelet kills the container."""
    return _killed(case, "startup")


def liveness(case: Case) -> Finding | None:
    """The liveness probe fails, and the kubelet kills the container again and again."""
    return _killed(case, "liveness")


def readiness(case: Case) -> Finding | None:
    """The readiness probe fails: the container runs and gets no traffic."""
    if case.symptom.kind != "not_ready":
        return None
    failed = _failures(case, "readiness")
    container = case.container
    probe = container.readiness_probe if container else None
    if not failed and probe is None:
        return None
    if not failed and case.events("Unhealthy"):
        return None  # another probe's failures
    return case.finding(
        "probe.readiness",
        _("Container {container} runs but is not ready: its readiness probe fails", container=case.symptom.container),
        cause=_why(case, probe, failed),
        evidence=[*_probe_evidence(case, "readiness", probe, failed), *_dependency_log(case)],
        steps=(case.logs(previous=False), _try(case, probe), case.edit(_("Put right the probe, if the application is well"))),
    )


def _killed(case: Case, kind: str) -> Finding | None:
    if case.symptom.kind not in ("exited", "not_ready", "restarted", "failed"):
        return None
    if case.symptom.kind == "restarted" and case.symptom.detail != "exited":
        return None
    failed = _failures(case, kind)
    killed = [event for event in case.events("Killing") if re.search(rf"failed {kind} probe", event.message, re.IGNORECASE)]
    if not failed and not killed:
        return None
    container = case.container
    probe = (container.startup_probe if kind == "startup" else container.liveness_probe) if container else None
    too_short, other_port = _too_short(case, probe), _wrong_port(case, probe, failed)
    kinds = {"startup": _("startup probe"), "liveness": _("liveness probe")}
    title = _("Container {container} is restarted because its {probe} fails", container=case.symptom.container, probe=kinds[kind])
    return case.finding(
        f"probe.{kind}",
        title,
        cause=too_short or _why(case, probe, failed),
        evidence=[
            *([case.pod_evidence(other_port)] if too_short and other_port else []),
            *_probe_evidence(case, kind, probe, failed),
            *[_event(event) for event in killed[:1]],
            *case.end_evidence(),
            *case.log_evidence(),
        ],
        steps=(
            case.logs(),
            case.edit(
                _("Give the start more time: a startupProbe, or a larger failureThreshold or periodSeconds")
                if too_short
                else _("Put right the probe, if the application is well")
            ),
            case.restart(),
        ),
    )


RULES: tuple[Rule, ...] = (startup, liveness, readiness)


def describe(probe: Probe) -> str:
    """A probe in the words of ``kubectl describe``: "http-get http://:8080/healthz delay=0s timeout=1s ..."."""
    if probe.http_get:
        get = probe.http_get
        what = f"http-get {(get.scheme or 'http').lower()}://:{get.port}{get.path}"
    elif probe.tcp_socket:
        what = f"tcp-socket :{probe.tcp_socket.port}"
    elif probe.grpc:
        what = f"grpc :{probe.grpc.port} {probe.grpc.service}".rstrip()
    elif probe.exec:
        what = f"exec {probe.exec.command}"
    else:
        what = "unknown"
    return (
        f"{what} delay={probe.initial_delay_seconds}s timeout={probe.timeout_seconds}s period={probe.period_seconds}s"
        f" #success={probe.success_threshold} #failure={probe.failure_threshold}"
    )


def _failures(case: Case, kind: str) -> list[Event]:
    """Events of that probe, newest first."""
    return [
        event
        for event in case.events("Unhealthy", "ProbeWarning", "ProbeError")
        if event.message.lower().startswith((f"{kind} probe failed", f"{kind} probe errored", f"{kind} probe warning"))
    ]


def _too_short(case: Case, probe: Probe | None) -> Text | None:
    """Whether the container was killed as soon as the probe allows, without ever having been ready: it may only need longer to start."""
    ended, status = case.ended, case.status
    if probe is None or ended is None or status is None or ended.started_at is None or ended.finished_at is None:
        return None
    allowed = timedelta(seconds=probe.initial_delay_seconds + probe.period_seconds * probe.failure_threshold)
    ran = ended.finished_at - ended.started_at
    grace = timedelta(seconds=(case.pod.spec.termination_grace_period_seconds or 30) + 2 * probe.period_seconds + probe.timeout_seconds)
    if ran > allowed + grace or status.ready:
        return None
    return _(
        "It was killed {ran} after its start. The probe allows {allowed} ({delay} s delay, then {failures} failures {period} s apart): if"
        " the application needs longer to start, it never gets there.",
        ran=age(ran),
        allowed=age(allowed),
        delay=probe.initial_delay_seconds,
        failures=probe.failure_threshold,
        period=probe.period_seconds,
    )


def _why(case: Case, probe: Probe | None, failed: list[Event]) -> Text | None:
    """What the failure itself says."""
    said = failed[0].message if failed else ""
    port = _port(probe)
    status = re.search(r"statuscode: (\d+)", said)
    if status:
        return _(
            "The application answers, with HTTP status {status}: it says itself that it is not well, or the path is wrong.",
            status=status[1],
        )
    if _REFUSED.search(said):
        return _wrong_port(case, probe, failed) or _(
            "Nothing listens on port {port}: the application has not started to listen, or listens elsewhere.", port=port or "?"
        )
    if re.search(_TIMEOUT, said, re.IGNORECASE):
        seconds = probe.timeout_seconds if probe else 1
        return _(
            "No answer within {seconds} s: the application is overloaded or hangs, or the probe's timeout is too short.", seconds=seconds
        )
    if probe and probe.exec and failed:
        return _("The probe's command ends with an error.")
    return None


def _wrong_port(case: Case, probe: Probe | None, failed: list[Event]) -> Text | None:
    """That nothing listens where the probe asks, while the container declares other ports."""
    port = _port(probe)
    declared = case.container.ports if case.container else []
    known = {str(item.container_port) for item in declared} | {item.name for item in declared if item.name}
    if not port or not known or port in known or not failed or not _REFUSED.search(failed[0].message):
        return None
    return _(
        "Nothing listens on port {port}, and the container declares {ports}: the probe asks the wrong port.",
        port=port,
        ports=", ".join(sorted(known)),
    )


def _port(probe: Probe | None) -> str:
    if probe is None:
        return ""
    action = probe.http_get or probe.tcp_socket or probe.grpc
    return str(action.port) if action else ""


def _probe_evidence(case: Case, kind: str, probe: Probe | None, failed: list[Event]) -> list[Evidence]:
    evidence = [_event(event) for event in failed[:1]]
    if probe:
        evidence.append(case.pod_evidence(_("The probe in the template ({kind})", kind=kind), describe(probe)))
    return evidence


def _event(event: Event) -> Evidence:
    from opslib.diagnosis.pods.cases import evidence_of

    return evidence_of(event)


def _dependency_log(case: Case) -> list[Evidence]:
    return case.log_evidence()


def _try(case: Case, probe: Probe | None) -> Step:
    if probe and probe.http_get:
        get = probe.http_get
        address = f"{(get.scheme or 'http').lower()}://localhost:{get.port}{get.path}"
        return Step(
            _("Ask the probe's address from within the pod"),
            case.kubectl("exec", case.pod.metadata.name, "-c", case.symptom.container, "--", "wget", "-qO-", address),
        )
    return case.describe()
