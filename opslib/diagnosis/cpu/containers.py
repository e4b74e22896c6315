"""Containers that are held back by their CPU limit, or use up to it, or far more than they asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.cpu.facts import Effect, Facts, Parameters, better_limit, cores, culprit, room
from opslib.diagnosis.links import grafana_explore, prometheus_graph
from opslib.diagnosis.usage import Place, Use
from opslib.findings import Evidence, Finding, Link, Severity, Step, Subject, command
from opslib.messages import Message, Text, _

THROTTLED = "container_cpu_cfs_throttled_periods_total"
USED = "container_cpu_usage_seconds_total"


def throttled(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Containers that the kernel holds back: they are slow, and their use looks low since it cannot be higher."""
    for place, share in sorted((facts.throttled or {}).items()):
        if share < parameters.throttled_warning:
            continue
        use = (facts.uses or {}).get(place) or Use()
        effect = culprit(facts, place)
        yield Finding(
            check="cpu.throttled",
            severity=Severity.CRITICAL if share >= parameters.throttled_critical else Severity.WARNING,
            subject=facts.cluster.subject(place.namespace, place.workload),
            title=_("{place} is throttled in {percent} % of its CPU periods", place=str(place), percent=round(share * 100)),
            cause=_cause(use, effect),
            evidence=tuple(_evidence(facts, place, use, share, effect)),
            steps=tuple(_steps(facts, place, use, share, effect)),
            links=_links(facts, parameters, place, THROTTLED),
            affected=_busiest(facts, place),
            since=effect.change.time if effect else None,
        )


def near_limit(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Containers that use up to their limit, and are not (or not known to be) throttled."""
    for place, use in (facts.uses or {}).items():
        share = use.of_limit
        if share is None or share < parameters.use_warning or (facts.throttled or {}).get(place, 0) >= parameters.throttled_warning:
            continue
        yield Finding(
            check="cpu.near_limit",
            severity=Severity.WARNING,
            subject=facts.cluster.subject(place.namespace, place.workload),
            title=_("{place} uses {percent} % of its CPU limit", place=str(place), percent=round(share * 100)),
            cause=_("With a little more to do it is throttled, and answers slowly."),
            evidence=tuple(_use_evidence(use)),
            steps=tuple(_steps(facts, place, use, 0.0, None)),
            links=_links(facts, parameters, place, USED),
            affected=_busiest(facts, place),
        )


def _cause(use: Use, effect: Effect | None) -> Text:
    if effect and effect.change.kind == "limit":
        return _("Its CPU limit was changed to less than it needs ({change}).", change=effect.change.text)
    if effect:
        return _("It needs more CPU than its limit gives it since it was changed: {change}.", change=effect.change.text)
    if use.of_limit is not None and use.of_limit < 0.5:
        return _("Bursts that are shorter than the metrics show reach the limit: on average it uses half of it or less.")
    return _("Its CPU limit is lower than what it needs.")


def _evidence(facts: Facts, place: Place, use: Use, share: float, effect: Effect | None) -> Iterator[Evidence]:
    yield Evidence(
        text=_(
            "In {percent} % of its CPU periods it had used up its limit (of the last hour or quarter of an hour, whichever is worse)",
            percent=round(share * 100),
        ),
        source="prometheus", reference=f"{THROTTLED} / container_cpu_cfs_periods_total", time=facts.now,
    )  # fmt: skip
    if effect:
        before, after = round(effect.before * 100), round(effect.after * 100)
        text = _("{change}: throttled in {before} % before, in {after} % after", change=effect.change.text, before=before, after=after)
        yield Evidence(text=text, source="prometheus", reference=THROTTLED, time=effect.change.time)
    yield from _use_evidence(use)


def _use_evidence(use: Use) -> Iterator[Evidence]:
    if use.highest is None or use.limit is None:
        return
    values: dict[str, object] = {"used": cores(use.highest), "limit": cores(use.limit)}
    text = _("The pod that uses most uses {used} of a limit of {limit}", **values)
    if use.peak is not None:
        text = _(
            "The pod that uses most uses {used} of a limit of {limit}; the peak of the last days was {peak}", **values, peak=cores(use.peak)
        )
    yield Evidence(text=text, source="prometheus", reference=USED)


def _steps(facts: Facts, place: Place, use: Use, share: float, effect: Effect | None) -> Iterator[Step]:
    kind = facts.cluster.kinds.get((place.namespace, place.workload), "")
    environment = ("--env", facts.environment)
    if effect and kind and effect.change.kind != "limit":
        plan = command("opslib", "plan", "rollback", f"{kind.lower()}/{place.workload}", "-n", place.namespace, *environment)
        yield Step(_("If it began with a release, go back to the one before"), plan)
    if pod := facts.busiest.get(place):
        words = ("opslib", "plan", "processes", pod, "-n", place.namespace, "-c", place.container, *environment)
        yield Step(_("See which of its processes use it"), command(*words))
    limit = better_limit(use, share)
    if limit is not None:
        yield Step(
            _("Raise the limit to {limit}, best in the manifest it is deployed from; look again afterwards", limit=cores(limit)),
            facts.cluster.set_resources(place, f"--limits=cpu={cores(limit)}"),
            changes=True,
        )
    if kind in ("Deployment", "StatefulSet"):
        yield Step(scale_out(facts, place.namespace, place.workload))


def scale_out(facts: Facts, namespace: str, workload: str) -> Message:
    """Whether more pods are a way, by where they fit."""
    found = room(facts, namespace, workload)
    if found is None:
        return _("Or scale out; where further pods would fit is not known")
    count, nodes = found
    if not count:
        return _("Scaling out needs another node first: no node has room for one more of its pods")
    return _("Or scale out: {count} more of its pods fit, on {nodes} nodes", count=count, nodes=nodes)


def _busiest(facts: Facts, place: Place) -> tuple[Subject, ...]:
    pod = facts.busiest.get(place)
    return (Subject("Pod", pod, place.namespace),) if pod else ()


def _links(facts: Facts, parameters: Parameters, place: Place, metric: str) -> tuple[Link, ...]:
    begin = facts.now - timedelta(hours=parameters.hours)
    promql = f'rate({metric}{{namespace="{place.namespace}",container="{place.container}"}}[5m])'
    own = (prometheus_graph(facts.prometheus_url, promql, begin, facts.now),) if facts.prometheus_url else ()
    return (*grafana_explore(facts.links, promql, begin, facts.now), *own)
