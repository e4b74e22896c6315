"""File systems that are full, or will be: of volumes and of nodes, their bytes and their inodes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from opslib.diagnosis.disk.facts import HOURS, Facts, FileSystem, Parameters, What, forecast_of
from opslib.diagnosis.disk.forecast import FULL, Forecast
from opslib.diagnosis.links import grafana_explore, prometheus_graph
from opslib.findings import Evidence, Finding, Link, Severity, Step, Subject, command
from opslib.messages import Message, Text, _
from opslib.sources.quantities import text_of_bytes, value_of

_GROW = 1.5  # to how much of what is in use a volume is best expanded


def volumes(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Volumes of claims."""
    for one in facts.volumes or ():
        yield from _findings(facts, parameters, one, "volumes")


def filesystems(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """The nodes' own file systems."""
    for one in facts.filesystems or ():
        yield from _findings(facts, parameters, one, "nodes")


def _findings(facts: Facts, parameters: Parameters, one: FileSystem, family: str) -> Iterator[Finding]:
    for what in ("bytes", "inodes"):
        found = _finding(facts, parameters, one, what, family)
        if found is not None:
            yield found


def _finding(facts: Facts, parameters: Parameters, one: FileSystem, what: What, family: str) -> Finding | None:
    share = one.share(what)
    if share is None:
        return None
    seen = forecast_of(facts, one, what)
    severity, rule = judge(share, seen, parameters)
    if severity is Severity.OK:
        return None
    name = _("Volume {name}", name=str(one.place)) if one.place.kind == "volume" else _("Disk {name}", name=str(one.place))
    owner = facts.owner(one.place) if one.place.kind == "volume" else None
    pods = tuple(Subject("Pod", pod.metadata.name, pod.metadata.namespace) for pod in facts.mounts.get(one.place, ()))
    promql = one.queries.get(what, "")
    start = facts.now - timedelta(days=parameters.history_days)
    links: tuple[Link, ...] = grafana_explore(facts.links, promql, start, facts.now) if promql else ()
    if facts.prometheus_url and promql:
        links = (*links, prometheus_graph(facts.prometheus_url, promql, start, facts.now))
    return Finding(
        check=f"{family}.{rule}" if what == "bytes" else f"{family}.inodes_{rule}",
        severity=severity,
        subject=one.place.subject,
        title=_title(rule, what, name, share, seen),
        cause=cause_of(seen),
        evidence=(_amount(one, what, promql), *_past(one, what, seen, promql)),
        steps=tuple(_steps(facts, parameters, one, what)),
        links=links,
        affected=(*pods, *((owner,) if owner else ())),
        since=_began(seen),
    )


def judge(share: float, seen: Forecast | None, parameters: Parameters) -> tuple[Severity, str]:
    """How bad it is, and by which rule: "full", "fills" or "nearly_full".

    A growth counts only when it is sure; what is a sawtooth is judged by its peaks' trend.
    """
    seconds = seen.seconds if seen is not None and seen.is_sure else math.inf
    if share >= FULL:
        return Severity.CRITICAL, "full"
    if seconds <= parameters.critical_hours * 3600:
        return Severity.CRITICAL, "fills"
    if share >= parameters.use_critical:
        return Severity.CRITICAL, "nearly_full"
    if seconds <= parameters.warning_days * 86400:
        return Severity.WARNING, "fills"
    if share >= parameters.use_warning:
        return Severity.WARNING, "nearly_full"
    return Severity.OK, ""


# --- texts --------------------------------------------------------------------------------------------------------------------------------


def span(seconds: float) -> Message:
    """A time, in the unit that a person would say it in."""
    if seconds == math.inf:
        return _("never")
    if seconds < 2 * 3600:
        return _("{count} min", count=max(1, round(seconds / 60)))
    if seconds < 2 * 86400:
        return _("{count} h", count=round(seconds / 3600))
    return _("{count} days", count=round(seconds / 86400)) if seconds < 1000 * 86400 else _("years")


def amount(value: float, what: What) -> str:
    """Bytes as Kubernetes writes them, inodes in figures."""
    return text_of_bytes(value) if what == "bytes" else f"{value:,.0f}"


def _title(rule: str, what: What, name: Message, share: float, seen: Forecast | None) -> Message:
    percent = round(share * 100, 1)
    if rule == "fills":
        assert seen is not None
        when = span(seen.seconds)
        if what == "inodes":
            return _("{name}: the inodes are used up in {when}", name=name, when=when)
        return _("{name} is full in {when}", name=name, when=when)
    if what == "inodes":
        return _("{name}: {percent} % of the inodes are in use", percent=percent, name=name)
    return _("{name} is full", name=name) if rule == "full" else _("{name} is full to {percent} %", name=name, percent=percent)


def cause_of(seen: Forecast | None) -> Message | None:
    """What kind of growth it is, in words."""
    if seen is None or seen.kind == "short":
        return None
    if seen.kind == "sawtooth":
        if seen.is_sure:
            return _("Files are cleaned up or rotated in turn, but each time it gets fuller than the time before.")
        return _("Files are cleaned up or rotated in turn; its peaks do not get higher.")
    if seen.kind == "steady":
        return _("It grew steadily until it was full.") if math.isfinite(seen.full_since) else _("It grows steadily.")
    if seen.kind == "step":
        return _("Something was put there at once; since then it does not grow.")
    return _("It does not grow.") if seen.kind == "flat" else _("It gets emptier.")


def _amount(one: FileSystem, what: What, promql: str) -> Evidence:
    amounts = one.amounts(what)
    assert amounts is not None
    used, whole = (amount(value, what) for value in amounts)
    free = amount(amounts[1] - amounts[0], what)
    text = (
        _("{used} of {whole} are in use, {free} are left", used=used, whole=whole, free=free)
        if what == "bytes"
        else _("{used} of {whole} inodes are in use, {free} are left", used=used, whole=whole, free=free)
    )
    return Evidence(text=text, source="prometheus", reference=promql)


def _past(one: FileSystem, what: What, seen: Forecast | None, promql: str) -> Iterator[Evidence]:
    if seen is None:
        return
    if math.isfinite(seen.full_since):
        rate = amount(max(seen.slope, 0.0) * 3600, what)
        yield Evidence(
            text=_("It is full; before, it grew by {rate} an hour", rate=rate), source="prometheus", time=_moment(seen.full_since)
        )
    elif seen.kind in ("steady", "sawtooth") and seen.is_sure:
        yield Evidence(
            text=_(
                "It grows by {rate} an hour (95 %: {low} to {high}); that is full in {when}, between {earliest} and {latest}",
                rate=amount(seen.slope * 3600, what),
                low=amount(seen.low * 3600, what),
                high=amount(seen.high * 3600, what),
                when=span(seen.seconds),
                earliest=span(seen.earliest),
                latest=span(seen.latest),
            ),
            source="prometheus",
            reference=f"predict_linear(({promql})[{HOURS}h:2m], {seen.seconds:.0f})" if promql and math.isfinite(seen.seconds) else promql,
            time=_moment(seen.since),
        )
    rises = [size for size in seen.steps if size > 0]
    if rises:
        yield Evidence(
            text=_("At once {size} more were in use", size=amount(rises[-1], what)), source="prometheus", time=_moment(seen.since)
        )
    if seen.kind == "sawtooth":
        freed = -sum(seen.steps) / len(seen.steps)
        yield Evidence(
            text=_("It was cleaned up {count} times, by {size} each time", count=len(seen.steps), size=amount(freed, what)),
            source="prometheus",
        )


def _began(seen: Forecast | None) -> datetime | None:
    """Since when it is full, else since when it grows so."""
    if seen is None or not (math.isfinite(seen.full_since) or seen.kind in ("steady", "step")):
        return None
    return _moment(seen.full_since if math.isfinite(seen.full_since) else seen.since)


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if math.isfinite(seconds) and seconds > 0 else None


# --- what to do ---------------------------------------------------------------------------------------------------------------------------


def _steps(facts: Facts, parameters: Parameters, one: FileSystem, what: What) -> Iterator[Step]:
    if one.place.kind == "node":
        node = one.place.namespace
        yield Step(_("See what is on the node, and what its kubelet says"), command("kubectl", *facts.kubectl, "describe", "node", node))
        yield Step(
            _("Look at the node's biggest folders"),
            command(
                "kubectl", *facts.kubectl, "debug", f"node/{node}", "-it", "--image=busybox", "--",
                "du", "-x", "-k", "-d", "3", f"/host{one.place.name}",
            ),
        )  # fmt: skip
        yield Step(_("See below which containers write the most, which images nobody uses, and whether logs are rotated"))
        return
    pods = facts.mounts.get(one.place, ())
    if pods:
        metadata = pods[0].metadata
        path = _mount_path(one, facts) or "/"
        words = ["du", "-x", "-k", "-d", str(parameters.depth), path] if what == "bytes" else ["df", "-i", path]
        where = ["-n", metadata.namespace, "exec", metadata.name, "--"]
        yield Step(_("Look at what fills it"), command("kubectl", *facts.kubectl, *where, *words))
    if what == "inodes":
        yield Step(_("Look for folders with very many small files; a bigger volume helps only where it gets more inodes"))
    yield from expansion(facts, one)
    if pods:
        yield Step(
            _("Delete what is not needed any more, by a reviewed list"),
            command("opslib", "plan", "delete-files", pods[0].metadata.name, "FILE", "-n", one.place.namespace,
                    "--folder", _mount_path(one, facts) or "/", "--env", facts.environment),
            changes=True,
        )  # fmt: skip


def expansion(facts: Facts, one: FileSystem) -> Iterator[Step]:
    """How the volume is made bigger, or why it cannot be."""
    claim = facts.claim(one.place)
    kind = facts.storage_class(claim)
    if claim is None or (facts.classes is None):
        return
    if kind is None or not kind.allow_volume_expansion:
        name: Text = claim.spec.storage_class_name or "-"
        yield Step(_("Its storage class {name} allows no expansion: move the data to a bigger volume, or make room", name=name))
        return
    now = value_of(claim.spec.resources.requests.get("storage")) or one.size
    wanted = math.ceil(max(now, one.size) * _GROW / 2**30)
    yield Step(
        _("Expand it; it can never be made smaller again"),
        command("opslib", "plan", "expand-volume", one.place.name, f"{wanted}Gi", "-n", one.place.namespace, "--env", facts.environment),
        changes=True,
    )


def _mount_path(one: FileSystem, facts: Facts) -> str:
    for pod in facts.mounts.get(one.place, ()):
        names = {
            each.name
            for each in pod.spec.volumes
            if each.persistent_volume_claim and each.persistent_volume_claim.claim_name == one.place.name
        }
        for container in pod.spec.containers:
            for mount in container.volume_mounts:
                if mount.name in names:
                    return mount.mount_path
    return ""
