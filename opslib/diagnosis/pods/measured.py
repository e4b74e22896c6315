"""Trouble that metrics show and no pod says: failing and slow requests, throttling, full volumes, DNS, certificates.

What these findings follow from, and what follows from them, `opslib.diagnosis.causes` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from opslib.diagnosis.causes import Graph
from opslib.diagnosis.pods.cases import kubectl, titled
from opslib.diagnosis.pods.changes import blamed, changes
from opslib.diagnosis.pods.facts import Alerted, Facts, Measured
from opslib.diagnosis.pods.graph import KINDS, behind, claims_of, dns_of, owner_of_claim
from opslib.diagnosis.pods.services import Network
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Message, Text, _

CRITICAL_ERRORS = 0.05
_WORDS = {"errors": "traffic.errors", "slow": "traffic.slow"}


def measured(network: Network) -> Iterator[Finding]:
    """A finding for each owner and kind of trouble that the metrics show."""
    facts = network.facts
    claims = claims_of(facts)
    grouped: dict[tuple[str, Subject], list[Measured]] = {}
    for item in facts.measured or ():
        grouped.setdefault((item.kind, _subject(network, item, claims)), []).append(item)
    for (kind, subject), items in sorted(grouped.items(), key=lambda entry: (entry[0][0], str(entry[0][1]))):
        items.sort(key=lambda item: (-item.value, item.namespace, item.name, item.container))
        yield _finding(facts, subject, kind, items)


def suspected(facts: Facts, graph: Graph, found: Sequence[Finding]) -> Iterator[Finding]:
    """A store that nobody measures, behind a service that is slow or fails without a reason of its own.

    Said only where all the rest is ruled out: the service was not changed, is not short of CPU, and whom it calls and is measured is well.
    Each store that is left is suspected, one with another caller that is well is not.
    """
    troubled = {finding.subject for finding in found if finding.severity >= Severity.WARNING}
    traffic = {finding.subject: finding for finding in found if finding.check.startswith("traffic.")}
    callers: dict[Subject, set[Subject]] = {}
    for caller, (namespace, name) in facts.calls:
        for kind in KINDS:
            if facts.workload(kind, namespace, name):
                callers.setdefault(Subject(kind, name, namespace), set()).add(caller)
    measured_services = {(namespace, name) for namespace, name in facts.busy}
    blind = {store for store in callers if (store.namespace, store.name) not in measured_services}
    candidates: dict[Subject, list[Finding]] = {}
    for subject, finding in traffic.items():
        below = graph.depends.get(subject, frozenset())
        others = (troubled - {subject}) & graph.reach(subject).keys()
        if finding.cause is not None or others or any(item.subject == subject and item.check not in _WORDS.values() for item in found):
            continue
        for store in below & blind:
            candidates.setdefault(store, []).append(finding)
    if len({finding.subject for items in candidates.values() for finding in items}) > 1 and not any(
        len({finding.subject for finding in items}) > 1 for items in candidates.values()
    ):
        return  # several services and no store in common: what they share is elsewhere (network, DNS), and no store is to be blamed
    for store, symptoms in sorted(candidates.items(), key=lambda entry: str(entry[0])):
        well = sorted(caller.name for caller in callers[store] if caller not in traffic and caller not in troubled)
        busy_well = [name for name in well if any(key[1] == name and value[0] > 0.2 for key, value in facts.busy.items())]
        slow = any(finding.check == "traffic.slow" for finding in symptoms)
        if busy_well:
            continue
        names = sorted(finding.subject.name for finding in symptoms)
        yield Finding(
            check="dependency.slow" if slow else "dependency.failing",
            severity=max(finding.severity for finding in symptoms),
            subject=store,
            title=_("{name} probably answers too slowly (high latency, locks, load)", name=store.name)
            if slow
            else _("{name} probably does not answer as it should", name=store.name),
            cause=_(
                "{services} have no change, no throttling and no troubled service below them; what is left is {name}, which no metric"
                " measures from outside.",
                services=names,
                name=store.name,
            ),
            evidence=tuple(evidence for finding in symptoms for evidence in finding.evidence[:1]),
            steps=(
                Step(_("Look at its log and at what it is busy with (slow queries, locks)"), _logs(facts, store)),
                Step(_("Look at its pods"), kubectl(facts, store.namespace, "describe", store.kind.lower(), store.name)),
            ),
            since=min((finding.since for finding in symptoms if finding.since), default=None),
            ruled_out=tuple((_("a change of {name}", name=name), _("none is known near its beginning")) for name in names),
        )


def lost_nodes(facts: Facts, found: Iterable[Finding]) -> Iterator[Finding]:
    """A node that takes several owners down with it, as a finding of its own: the owners' follow from it."""
    lost: dict[str, list[Finding]] = {}
    have: set[str] = set()
    nodes = {pod.metadata.name: pod.spec.node_name for pod in facts.pods or ()}
    for finding in found:
        if finding.check != "node.lost":
            continue
        if finding.subject.kind == "Node":
            have.add(finding.subject.name)
        for name in {nodes.get(item.name, "") for item in (*finding.affected, finding.subject) if item.kind == "Pod"} - {""}:
            lost.setdefault(name, []).append(finding)
    for name, items in sorted(lost.items()):
        if name in have or len(items) < 2:
            continue
        first = items[0]
        yield replace(
            first,
            subject=Subject("Node", name),
            title=_("Node {node} does not answer", node=name),
            affected=tuple(item for finding in items for item in finding.affected or (finding.subject,)),
            steps=first.steps[:2],
            severity=max(item.severity for item in items),
            since=min((item.since for item in items if item.since), default=None),
        )


def with_load(finding: Finding, facts: Facts) -> Finding:
    """An autoscaler at its limit, with the requests to its target: more of them than yesterday is load, not a fault."""
    if finding.check != "scaling.at_limit":
        return finding
    target = next(
        (
            item.spec.scale_target_ref.name
            for item in facts.autoscalers or ()
            if (item.metadata.namespace, item.metadata.name) == (finding.subject.namespace, finding.subject.name)
        ),
        "",
    )
    now, before = facts.busy.get((finding.subject.namespace, target), (None, None))
    if now is None or not before:
        return finding
    evidence = Evidence(
        text=_(
            "Requests to {name}: {now}/s, {factor} times the traffic of yesterday at this time",
            name=target,
            now=f"{now:.1f}",
            factor=f"{now / before:.1f}",
        ),
        source="prometheus",
        time=facts.now,
    )
    cause = finding.cause
    if now > 1.5 * before:
        cause = _("More traffic than usual, and maxReplicas does not let the autoscaler follow it.")
    return replace(finding, cause=cause, evidence=(evidence, *finding.evidence))


def _subject(network: Network, item: Measured, claims: dict[tuple[str, str], Subject]) -> Subject:
    facts = network.facts
    if item.kind == "dns":
        return next(iter(dns_of(network)), Subject("Service", "kube-dns", "kube-system"))
    if item.kind == "volume":
        return owner_of_claim(item.namespace, item.name, claims, facts)
    if item.kind == "throttled":
        return owner_by_name(item.namespace, item.name, facts)
    return behind(network, item.namespace, item.name)


def owner_by_name(namespace: str, pod: str, facts: Facts) -> Subject:
    """The owner of a pod that is known by its name alone: controllers name pods after themselves."""
    for kind, parts in (("Deployment", 2), ("StatefulSet", 1), ("DaemonSet", 1)):
        name = pod.rsplit("-", parts)[0]
        if name != pod and facts.workload(kind, namespace, name):
            return Subject(kind, name, namespace)
    return Subject("Pod", pod, namespace)


def _finding(facts: Facts, subject: Subject, kind: str, items: list[Measured]) -> Finding:
    worst = items[0] if kind not in ("volume", "certificate") else items[-1]
    title, cause, severity, steps = _said(facts, subject, kind, worst)
    finding = Finding(
        check={"errors": "traffic.errors", "slow": "traffic.slow"}.get(kind) or _CHECKS[kind],
        severity=severity,
        subject=subject,
        title=titled(subject, title),
        cause=cause,
        evidence=tuple(_evidence(item) for item in items[:3]),
        steps=steps,
        affected=tuple(Subject("Pod", item.name, item.namespace) for item in items)
        if kind == "throttled" and subject.kind != "Pod"
        else (),
        since=min((item.since for item in items if item.since), default=None),
    )
    workload = facts.workload(subject.kind, subject.namespace, subject.name)
    known = changes(facts, subject, workload.spec.template.spec if workload else None)
    finding = blamed(finding, facts, subject, known)
    hidden = _hidden(facts, worst) if kind in ("errors", "slow") else []
    return replace(finding, evidence=(*finding.evidence, *hidden)) if hidden else finding


_CHECKS = {"throttled": "cpu.throttled", "volume": "volume.full", "dns": "dns.errors", "certificate": "certificate.expired"}


def _said(facts: Facts, subject: Subject, kind: str, worst: Measured) -> tuple[Message, Text | None, Severity, tuple[Step, ...]]:
    share = f"{worst.value:.0%}"
    look = Step(_("Look at it"), kubectl(facts, subject.namespace, "describe", subject.kind.lower(), subject.name))
    if kind == "errors":
        title = _("{share} of the requests fail", share=share)
        severity = Severity.CRITICAL if worst.value >= CRITICAL_ERRORS else Severity.WARNING
        return title, None, severity, (Step(_("Read its log"), _logs(facts, subject)), look)
    if kind == "slow":
        return (
            _("one request in twenty takes longer than {seconds} s", seconds=f"{worst.value:.2g}"),
            None,
            Severity.WARNING,
            (Step(_("Read its log"), _logs(facts, subject)), look),
        )
    if kind == "throttled":
        return (
            _("{share} of the CPU periods are throttled", share=share),
            _("The CPU limit of container {name} is too low for what it does: the kernel holds it back.", name=worst.container or "-"),
            Severity.WARNING,
            (
                Step(_("Compare use and limit"), kubectl(facts, subject.namespace, "top", "pod", "--containers")),
                Step(
                    _("Raise or remove the CPU limit"),
                    kubectl(facts, subject.namespace, "edit", f"{subject.kind.lower()}/{subject.name}"),
                    True,
                ),
            ),
        )
    if kind == "volume":
        return (
            _("volume {name} is full ({share} of its space left)", name=worst.name, share=f"{worst.value:.1%}"),
            _("There is no space left on it: whatever writes there fails."),
            Severity.CRITICAL,
            (
                Step(
                    _("See whether its storage class allows it to grow"),
                    kubectl(facts, worst.namespace, "describe", "persistentvolumeclaim", worst.name),
                ),
                Step(_("Go on with the runbook's section 4.3 (disk)")),
            ),
        )
    if kind == "dns":
        return (
            _("{share} of the cluster's DNS questions fail", share=share),
            _("Names outside the cluster are asked of the resolvers that the forward line of the Corefile names: one does not answer."),
            Severity.CRITICAL,
            (
                Step(
                    _("Read the Corefile: where does forward lead"),
                    kubectl(facts, "kube-system", "get", "configmap", "coredns", "-o", "yaml"),
                ),
                Step(_("Read CoreDNS' log"), _logs(facts, subject)),
            ),
        )
    return (
        _("its TLS certificate has expired"),
        _("Whoever checks certificates no longer connects."),
        Severity.CRITICAL,
        (
            Step(
                _("See which Secrets hold certificates"),
                kubectl(facts, subject.namespace, "get", "secrets", "--field-selector=type=kubernetes.io/tls"),
            ),
            Step(_("Renew the certificate, and see why it was not renewed by itself")),
        ),
    )


def _evidence(item: Measured) -> Evidence:
    text: Message
    if item.kind == "errors":
        own = item.own or 0.0
        if own >= 0.5:
            text = _(
                "{share} of the requests to {name} fail, mostly with errors of its own (500)", share=f"{item.value:.1%}", name=item.name
            )
        else:
            text = _(
                "{share} of the requests to {name} fail, mostly since something that it needs does not answer (502 to 504)",
                share=f"{item.value:.1%}",
                name=item.name,
            )
    elif item.kind == "slow":
        text = _(
            "95th percentile of the latency of {name}: {now} s; usually {usual} s",
            name=item.name,
            now=f"{item.value:.3g}",
            usual="-" if item.usual is None else f"{item.usual:.3g}",
        )
    elif item.kind == "throttled":
        text = _(
            "Container {container} of {pod} is held back in {share} of its CPU periods",
            container=item.container,
            pod=item.name,
            share=f"{item.value:.0%}",
        )
    elif item.kind == "volume":
        text = _("Claim {name} has {share} of its space left", name=item.name, share=f"{item.value:.1%}")
    elif item.kind == "dns":
        text = _("{share} of CoreDNS' answers are SERVFAIL", share=f"{item.value:.1%}")
    else:
        text = _("The certificate of {name} expired", name=item.name)
    return Evidence(text=text, source="prometheus", reference=item.query, time=item.since)


def _hidden(facts: Facts, item: Measured) -> list[Evidence]:
    """Silences that keep its alerts from anybody."""
    mine = [alert for alert in facts.alerts or () if _about(alert, item)]
    ids = {id_ for alert in mine for id_ in alert.silenced_by}
    return [
        Evidence(
            text=_(
                "A silence by {who} hides its alerts until {until}", who=silence.created_by or "-", until=str(silence.ends_at or "-")[:16]
            ),
            quote=silence.comment,
            source="alertmanager",
            reference=f"/api/v2/silence/{silence.id}",
            time=silence.starts_at,
        )
        for silence in facts.silences or ()
        if silence.id in ids
    ]


def _about(alert: Alerted, item: Measured) -> bool:
    return item.name in alert.labels.values() and alert.labels.get("namespace", item.namespace) == item.namespace


def _logs(facts: Facts, subject: Subject) -> str:
    return kubectl(facts, subject.namespace, "logs", f"{subject.kind.lower()}/{subject.name}", "--since=1h", "--tail=200")
