"""Containers whose memory grows, and whose memory ends: leaks, load, cache, kills, limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta

from opslib.diagnosis.links import grafana_explore, prometheus_graph
from opslib.diagnosis.memory.facts import Facts, Parameters, in_words, of_place, proposal, since, trends
from opslib.diagnosis.memory.trend import Trend
from opslib.diagnosis.usage import Place, PodPlace, affected, moment
from opslib.findings import Evidence, Finding, Link, Severity, Step, Subject, command
from opslib.messages import Message, Text, _, _n
from opslib.sources.quantities import text_of_bytes

_SURE, _LIKELY = 0.8, 0.6


def growing(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Containers whose memory grows until it is at the limit; and, for the log, those that only look so."""
    for place, members in of_place(facts, trends(facts)).items():
        grown = [(pod, one) for pod, one in members if one.grows]
        if not grown:
            continue
        pod, worst = grown[0]
        kills = (facts.kills or {}).get(place, 0.0)
        if worst.kind == "leak":
            agree = sum(one.kind == "leak" for _pod, one in members)
            yield _leak(
                facts, parameters, place, pod, worst, [pod for pod, one in members if one.kind == "leak"], agree / len(members), kills
            )
        elif worst.kind == "load" and worst.seconds <= parameters.horizon_hours * 3600:
            yield _load(facts, parameters, place, pod, worst, kills)


def _leak(
    facts: Facts, parameters: Parameters, place: Place, pod: PodPlace, worst: Trend, pods: list[PodPlace], agreeing: float, kills: float
) -> Finding:
    confidence = min(0.95, worst.confidence + (0.1 if len(pods) > 1 and agreeing > 0.6 else 0) + (0.1 if kills else 0))
    curve = facts.curves[pod]
    soon = worst.seconds <= parameters.horizon_hours * 360
    severity = Severity.CRITICAL if kills >= 2 or soon else Severity.WARNING
    if not kills and worst.seconds > parameters.horizon_hours * 3600:
        severity = Severity.INFO if confidence < _LIKELY else Severity.WARNING
    begin = moment(worst.begin)
    # what comes after its beginning is not to blame; a new image says more than that there was a rollout
    before = [one for one in facts.changed(place, begin - timedelta(hours=parameters.hours)) if one.time <= begin + timedelta(minutes=10)]
    blamed = sorted(before, key=lambda one: one.kind != "image")
    evidence = [
        Evidence(
            text=_(
                "The working set grows by {rate} an hour (95 % interval {low} to {high}), between restarts",
                rate=text_of_bytes(worst.slope.value * 3600), low=text_of_bytes(worst.slope.low * 3600),
                high=text_of_bytes(worst.slope.high * 3600),
            ),
            source="prometheus", reference=_promql(facts, place), time=facts.now,
        ),
        *_for_and_against(facts, place, worst),
    ]  # fmt: skip
    if worst.curves > 1:
        text = _("It rose in {rising} of {curves} runs between restarts", rising=worst.rising, curves=worst.curves)
        evidence.append(Evidence(text=text, source="prometheus", reference=_promql(facts, place)))
    if kills:
        evidence.append(_killed(parameters, kills))
    for one in blamed[:2]:
        evidence.append(Evidence(text=_("Before it: {change}", change=one.text), time=one.time))
    return Finding(
        check="growth.leak",
        severity=severity,
        subject=facts.cluster.subject(place.namespace, place.workload),
        title=_("{place} leaks memory: {when}", place=str(place), when=_when(worst, curve.limit)),
        cause=_(
            "Memory that is not given back, {confidence} ({percent} %): it grows by itself, not with the load and not as cache of files.",
            confidence=_confidence(confidence), percent=round(confidence * 100),
        ),
        evidence=tuple(evidence),
        steps=tuple(_leak_steps(facts, place, pod, bool(blamed))),
        links=_links(facts, parameters, place),
        affected=affected(pods),
        since=begin,
        confidence=confidence,
        refuted_by=(Step(_("Take the load off one of its pods: memory that it gives back then was no leak")),),
        ruled_out=tuple(_ruled_out(facts, place, worst)),
    )  # fmt: skip


def _ruled_out(facts: Facts, place: Place, one: Trend) -> Iterator[tuple[Message, Text]]:
    """What else makes memory grow, and why it is not that; only what could be looked at."""
    evidence = list(_for_and_against(facts, place, one))
    if one.rss_share is not None:
        yield _("cache of files"), evidence[0].text
    if one.load_share is not None:
        yield _("more load"), evidence[1].text


def _for_and_against(facts: Facts, place: Place, one: Trend) -> Iterator[Evidence]:
    """What tells a leak from cache and from load, or that it was not to be seen."""
    reference = _promql(facts, place)
    if one.rss_share is None:
        yield Evidence(text=_("Whether it is cache cannot be told: there is no metric of the resident set"), source="prometheus")
    else:
        percent = round(100 * min(max(one.rss_share, 0), 1))
        yield Evidence(
            text=_("{percent} % of the growth is in the resident set, the rest is cache of files", percent=percent),
            source="prometheus", reference=reference.replace("working_set_bytes", "rss"),
        )  # fmt: skip
    if one.load_share is None:
        yield Evidence(text=_("Whether it follows the load cannot be told: neither requests nor CPU use are known"), source="prometheus")
    else:
        percent = round(100 * (1 - min(max(one.load_share, 0), 1)))
        what = _("requests") if place in facts.load_is_requests else _("CPU use, since no requests are counted for it")
        text = _("The load explains {percent} % of the growth (measured by {what})", percent=percent, what=what)
        yield Evidence(text=text, source="prometheus")


def _leak_steps(facts: Facts, place: Place, pod: PodPlace, changed: bool) -> Iterator[Step]:
    kind = facts.cluster.kinds.get((place.namespace, place.workload))
    environment = ("--env", facts.environment)
    if changed and kind:
        plan = command("opslib", "plan", "rollback", f"{kind.lower()}/{place.workload}", "-n", place.namespace, *environment)
        yield Step(_("If it began with a release, go back to the one before"), plan)
    dump = ("-n", place.namespace, "-c", place.container, *environment)
    yield Step(
        _("Take a heap dump of the pod that holds most, before it is killed"), command("opslib", "plan", "heap-dump", pod.pod, *dump)
    )
    if kind:
        plan = command("opslib", "plan", "restart", f"{kind.lower()}/{place.workload}", "-n", place.namespace, *environment)
        yield Step(_("Until it is mended: restart it before it reaches its limit; a higher limit only postpones the end"), plan)


def _load(facts: Facts, parameters: Parameters, place: Place, pod: PodPlace, one: Trend, kills: float) -> Finding:
    soon = one.seconds <= parameters.horizon_hours * 360
    evidence = [*_for_and_against(facts, place, one), *([_killed(parameters, kills)] if kills else [])]
    return Finding(
        check="growth.load",
        severity=Severity.WARNING if soon or kills else Severity.INFO,
        subject=facts.cluster.subject(place.namespace, place.workload),
        title=_("The memory of {place} grows with its load: {when}", place=str(place), when=_when(one, facts.curves[pod].limit)),
        cause=_(
            "More is asked of it, and it needs more memory for that; it is no leak ({percent} %).", percent=round(one.confidence * 100)
        ),
        evidence=tuple(evidence),
        steps=(
            Step(_("See whether the load will go on growing; more pods share it"), _scale(facts, place)),
            *_raise(facts, place),
        ),
        links=_links(facts, parameters, place),
        affected=affected([pod]),
        since=moment(one.begin),
        confidence=one.confidence,
    )


def killed(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Containers that ran out of memory, where no growth explains it."""
    grouped = of_place(facts, trends(facts))
    for place, count in (facts.kills or {}).items():
        members = grouped.get(place, [])
        if count < 0.5 or any(one.kind in ("leak", "load") and (one.kind == "leak" or one.seconds < math.inf) for _pod, one in members):
            continue
        use = (facts.uses or {}).get(place)
        cause = _("No growth was seen before it: it needs more than its limit at once (a large request, a start, a batch).")
        if not members:
            cause = _("Its use before that is not known.")
        yield Finding(
            check="memory.killed",
            severity=Severity.CRITICAL if count >= 3 else Severity.WARNING,
            subject=facts.cluster.subject(place.namespace, place.workload),
            title=_n(
                "{place} ran out of memory {count} time", "{place} ran out of memory {count} times", max(1, round(count)), place=str(place)
            ),
            cause=cause,
            evidence=(_killed(parameters, count), *_limit_evidence(use.limit if use else None, use.peak if use else None)),
            steps=(
                Step(
                    _("See what it was asked for when it was killed: its logs from before"),
                    facts.cluster.command(place.namespace, "logs", "--previous", _pod_or_workload(facts, place), "-c", place.container),
                ),
                *_raise(facts, place),
            ),
            links=_links(facts, parameters, place),
            affected=affected(pod for pod, _one in members),
        )


def near_limit(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Containers close to their limit that neither grow nor were killed."""
    grouped = of_place(facts, trends(facts))
    for place, use in (facts.uses or {}).items():
        share = use.of_limit
        members = grouped.get(place, [])
        if share is None or share < parameters.use_warning or (facts.kills or {}).get(place, 0) >= 0.5:
            continue
        if any(one.kind in ("leak", "load") for _pod, one in members):
            continue
        cache = any(one.kind == "cache" for _pod, one in members) or _mostly_cache(facts, [pod for pod, _one in members])
        yield Finding(
            check="memory.cache" if cache else "memory.near_limit",
            severity=Severity.INFO if cache else Severity.WARNING,
            subject=facts.cluster.subject(place.namespace, place.workload),
            title=_("{place} uses {percent} % of its memory limit", place=str(place), percent=round(share * 100)),
            cause=_("Much of it is cache of files, which the kernel takes back before it kills anything.")
            if cache
            else _("It does not grow, but what comes on top of it, such as a burst of requests, ends it."),
            evidence=_limit_evidence(use.limit, use.peak),
            steps=() if cache else _raise(facts, place),
            links=_links(facts, parameters, place),
            affected=affected(pod for pod, _one in members),
        )


def nodes(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Nodes whose memory is nearly used up: the kubelet evicts pods then, whatever their own limits."""
    for node in facts.nodes or ():
        if node.memory_used is None or not node.memory_allocatable or node.memory_used < parameters.use_warning * node.memory_allocatable:
            continue
        share = node.memory_used / node.memory_allocatable
        yield Finding(
            check="nodes.memory",
            severity=Severity.CRITICAL if share >= 0.97 else Severity.WARNING,
            subject=Subject("Node", node.name),
            title=_("The memory of node {node} is nearly used up", node=node.name),
            cause=_("The kubelet evicts pods, those above their requests first, when less than its threshold is left."),
            evidence=(
                Evidence(
                    text=_(
                        "{used} of {size} are in use ({percent} %)",
                        used=text_of_bytes(node.memory_used), size=text_of_bytes(node.memory_allocatable), percent=round(share * 100),
                    ),
                    source="prometheus", reference="node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes",
                ),
            ),
            steps=(Step(_("See what runs there"), facts.cluster.command("", "describe", "node", node.name)),),
        )  # fmt: skip


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _when(one: Trend, limit: float | None) -> Message:
    if limit is None:
        return _("it has no limit, and takes the node's memory")
    if not math.isfinite(one.seconds):
        return _("its limit is not in sight")
    if one.seconds <= 60:
        return _("it is at its limit of {limit}", limit=text_of_bytes(limit))
    if math.isfinite(one.latest):
        early, late = in_words(one.earliest), in_words(one.latest)
        text = _("at its limit of {limit} in {time}", limit=text_of_bytes(limit), time=in_words(one.seconds))
        if early != late:
            return _("{when} (between {early} and {late})", when=text, early=early, late=late)
        return text
    return _("at its limit of {limit} in {time} at the earliest", limit=text_of_bytes(limit), time=in_words(one.earliest))


def _confidence(value: float) -> Message:
    return _("very likely") if value >= _SURE else _("likely") if value >= _LIKELY else _("possibly")


def _killed(parameters: Parameters, count: float) -> Evidence:
    return Evidence(
        text=_n(
            "Killed {count} time for want of memory in the last {hours} h",
            "Killed {count} times for want of memory in the last {hours} h",
            max(1, round(count)),
            hours=f"{parameters.hours:g}",
        ),
        source="prometheus",
        reference='kube_pod_container_status_last_terminated_reason{reason="OOMKilled"}, container_oom_events_total',
    )


def _limit_evidence(limit: float | None, peak: float | None) -> tuple[Evidence, ...]:
    if limit is None:
        return ()
    text = _("Its limit is {limit}", limit=text_of_bytes(limit))
    if peak is not None:
        text = _("Its limit is {limit}, the peak that was measured {peak}", limit=text_of_bytes(limit), peak=text_of_bytes(peak))
    return (Evidence(text=text, source="prometheus", reference="container_memory_working_set_bytes"),)


def _raise(facts: Facts, place: Place) -> tuple[Step, ...]:
    use = (facts.uses or {}).get(place)
    found = proposal(use) if use else None
    if use is None or found is None or found.limit is None:
        return (Step(_("Consider a higher limit")),)
    limit = max(found.limit, (use.limit or 0) * 1.25)
    value = f"{round(limit / 2**20)}Mi"
    return (
        Step(
            _("Raise the limit to {limit} (the measured peak and a quarter more), best in the manifest it is deployed from", limit=value),
            facts.cluster.set_resources(place, f"--limits=memory={value}"),
            changes=True,
        ),
    )


def _scale(facts: Facts, place: Place) -> str:
    kind = facts.cluster.kinds.get((place.namespace, place.workload), "")
    if kind not in ("Deployment", "StatefulSet"):
        return ""
    return facts.cluster.command(place.namespace, "get", f"{kind.lower()}/{place.workload}", "-o", "wide")


def _pod_or_workload(facts: Facts, place: Place) -> str:
    pod = next((pod.pod for pod, one in facts.places.items() if one == place), "")
    return pod or f"{facts.cluster.kinds.get((place.namespace, place.workload), 'deployment').lower()}/{place.workload}"


def _mostly_cache(facts: Facts, pods: list[PodPlace]) -> bool:
    for pod in pods:
        curve = facts.curves[pod]
        if curve.rss is not None and len(curve.rss) and curve.rss[-1] < 0.5 * curve.working_set[-1]:
            return True
    return False


def _promql(facts: Facts, place: Place) -> str:
    return f'container_memory_working_set_bytes{{namespace="{place.namespace}",container="{place.container}"}}'


def _links(facts: Facts, parameters: Parameters, place: Place) -> tuple[Link, ...]:
    begin: datetime = since(facts, parameters.hours)
    promql = _promql(facts, place)
    own = (prometheus_graph(facts.prometheus_url, promql, begin, facts.now),) if facts.prometheus_url else ()
    return (*grafana_explore(facts.links, promql, begin, facts.now), *own)
