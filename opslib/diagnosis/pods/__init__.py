"""Why pods are not well. A family of causes a file; `RULES` is the order in which they are asked.

The first rule that knows the cause of a case names the finding. The order goes from what says most (the node is gone, an image is missing)
to what says least (it keeps crashing); `unknown` stands last and drops nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from opslib.diagnosis.causes import explain
from opslib.diagnosis.pods import (
    config,
    containers,
    images,
    ingresses,
    jobs,
    lifecycle,
    measured,
    network,
    nodes,
    owners,
    probes,
    scaling,
    scheduling,
    services,
    storage,
    unknown,
)
from opslib.diagnosis.pods.cases import Case, Rule, cases, representatives
from opslib.diagnosis.pods.changes import with_changes
from opslib.diagnosis.pods.facts import Facts
from opslib.diagnosis.pods.graph import graph_of
from opslib.findings import Evidence, Finding, Subject

__all__ = ["RULES", "Case", "Facts", "Rule", "cases", "diagnose", "diagnose_case"]

RULES: tuple[Rule, ...] = (
    *lifecycle.TERMINATING_RULES,
    *nodes.LOST_RULES,
    *nodes.RULES,
    *containers.MEMORY_RULES,
    *images.RULES,
    *config.RULES,
    *storage.RULES,
    *scheduling.RULES,
    *network.RULES,
    *probes.RULES[:2],  # a startup or liveness probe that kills explains an exit better than its code does
    *network.LOG_RULES,
    *lifecycle.INIT_RULES,
    *containers.RULES,
    *probes.RULES[2:],
    *unknown.RULES,
)


def diagnose(facts: Facts) -> list[Finding]:
    """All findings about `facts`, worst first; what could not be looked at is not among them.

    Every unhealthy pod is in at least one of them: pods of one owner with one cause are one finding, different causes stay separate.
    """
    found = merged((*map(diagnose_case, cases(facts)), *jobs.failed_jobs(facts), *owners.refusals(facts)))
    found = folded_into_jobs(found)
    found += list(owners.no_progress(facts, found))
    links = services.network_of(facts)
    found += list(measured.lost_nodes(facts, found))
    found += list(services.without_endpoints(links, found))
    found += list(services.port_mismatch(links))
    found += list(ingresses.ingresses(facts))
    found += list(scaling.autoscalers(facts))
    found = [measured.with_load(services.with_services(finding, links), facts) for finding in found]
    found += list(measured.measured(links))
    dependencies = graph_of(links)
    found += list(measured.suspected(facts, dependencies, found))
    return explain(found, dependencies)


def diagnose_case(case: Case) -> Finding:
    """The finding about one case: the first rule that knows the cause, tried on each pod that was looked at closely."""
    looked_at = [replace(case, pod=pod) for pod in representatives(case.pods, case.facts)]
    for rule in RULES:
        for view in looked_at:
            finding = rule(view)
            if finding is not None:
                return with_changes(view.told(finding) if finding.cause is None else finding, view)
    return with_changes(unknown.unknown(case), case)


def folded_into_jobs(findings: list[Finding]) -> list[Finding]:
    """Without the crashes of pods whose Job has failed for good: the Job's finding tells how its pods ended."""
    failed = {finding.subject: finding for finding in findings if finding.check.startswith("job.")}
    told = ("container.failed", "container.crash_loop")
    rest = [finding for finding in findings if not (finding.check in told and finding.subject in failed)]
    pods: dict[Subject, tuple[Subject, ...]] = {}
    for finding in findings:
        if finding.check in told and finding.subject in failed:
            pods[finding.subject] = (*pods.get(finding.subject, ()), *finding.affected)
    return [
        replace(finding, affected=tuple(dict.fromkeys((*finding.affected, *pods.get(finding.subject, ())))))
        if finding.check.startswith("job.")
        else finding
        for finding in rest
    ]


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding a check and subject: the pods of both are affected, what the second saw beyond the first is added."""
    found: dict[tuple[str, Subject], Finding] = {}
    for finding in findings:
        key = (finding.check, finding.subject)
        first = found.get(key)
        if first is None:
            found[key] = finding
            continue
        affected = tuple(dict.fromkeys((*first.affected, *finding.affected)))
        known = {(item.text, item.quote) for item in first.evidence}
        evidence: tuple[Evidence, ...] = (*first.evidence, *(item for item in finding.evidence if (item.text, item.quote) not in known))
        since = min((time for time in (first.since, finding.since) if time), default=None)
        found[key] = replace(first, affected=affected, evidence=evidence[:12], severity=max(first.severity, finding.severity), since=since)
    return list(found.values())
