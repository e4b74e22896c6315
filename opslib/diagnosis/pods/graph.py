"""What depends on what in a cluster: pods on nodes, owners on what they mount and on whom they call, Services on owners."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from opslib.diagnosis.causes import Graph
from opslib.diagnosis.pods.config import references
from opslib.diagnosis.pods.facts import Facts, owner_of
from opslib.diagnosis.pods.ingresses import backends
from opslib.diagnosis.pods.services import Network, selected
from opslib.findings import Subject
from opslib.sources.objects import Pod, Workload

KINDS = ("Deployment", "StatefulSet", "DaemonSet")
DNS = (("kube-system", "kube-dns"), ("kube-system", "coredns"))
_HOST = re.compile(r"(//|@|^|[\s,=\"'])([a-z0-9][-a-z0-9]*(?:\.[a-z0-9][-a-z0-9]*)*)(:\d+)?")


def graph_of(network: Network) -> Graph:
    """The dependencies that the facts show; what could not be read is a link less, never one too many."""
    return Graph.of(links(network), dns_of(network))


def dns_of(network: Network) -> list[Subject]:
    """Who resolves the cluster's names: installations call the Service, or the Deployment, one of two names."""
    facts = network.facts
    found = [behind(network, *name) for name in DNS if _is_service(facts, *name) or facts.workload("Deployment", *name)]
    return list(dict.fromkeys(found))


def links(network: Network) -> Iterator[tuple[Subject, Subject]]:
    """Each link as (dependent, dependency)."""
    facts = network.facts
    for pod in facts.pods or ():
        owner = owner_of(pod, facts)
        here = Subject("Pod", pod.metadata.name, pod.metadata.namespace)
        yield owner, here
        if pod.spec.node_name:
            yield owner, Subject("Node", pod.spec.node_name)
            yield here, Subject("Node", pod.spec.node_name)
    for workload in _workloads(facts):
        subject = subject_of(workload)
        for kind, name in references(Pod(spec=workload.spec.template.spec)):
            yield subject, Subject(kind, name, subject.namespace)
    for service in facts.services or ():
        here = Subject("Service", service.metadata.name, service.metadata.namespace)
        if service.spec.selector:
            for workload in selected(network, service):
                yield here, subject_of(workload)
    for ingress in facts.ingresses or ():
        here = Subject("Ingress", ingress.metadata.name, ingress.metadata.namespace)
        for backend in backends(ingress):
            if backend.service:
                yield here, Subject("Service", backend.service.name, ingress.metadata.namespace)
    for item in facts.autoscalers or ():
        target = item.spec.scale_target_ref
        namespace = item.metadata.namespace
        yield Subject(target.kind, target.name, namespace), Subject("HorizontalPodAutoscaler", item.metadata.name, namespace)
    for caller, (namespace, name) in facts.calls:
        yield caller, Subject("Service", name, namespace)
        yield caller, behind(network, namespace, name)


def behind(network: Network, namespace: str, name: str) -> Subject:
    """Who answers for a service's name in metrics and addresses: the workload behind it, else, where no Service has a selector for that, a
    workload of that name, else the Service.
    """
    facts = network.facts
    service = next((item for item in facts.services or () if (item.metadata.namespace, item.metadata.name) == (namespace, name)), None)
    if service is not None and service.spec.selector:
        found = selected(network, service)
        nearest = min(found, key=lambda item: (item.metadata.name != name, item.kind, item.metadata.name), default=None)
        return subject_of(nearest) if nearest else Subject("Service", name, namespace)
    for kind in KINDS:
        if facts.workload(kind, namespace, name):
            return Subject(kind, name, namespace)
    return Subject("Service", name, namespace)


def subject_of(workload: Workload) -> Subject:
    """The workload as a subject."""
    return Subject(workload.kind, workload.metadata.name, workload.metadata.namespace)


def hosts(texts: Iterable[str], namespace: str, services: frozenset[tuple[str, str]]) -> set[tuple[str, str]]:
    """The Services, as (namespace, name), whose addresses stand in settings: ``http://stock:8080``, ``db.data.svc``.

    A bare word counts as an address only with a scheme or a port, or where it is the whole value and looks like nothing else.
    """
    found: set[tuple[str, str]] = set()
    for text in texts:
        for before, host, port in _HOST.findall(text):
            name, _dot, rest = host.partition(".")
            place = rest.partition(".")[0]
            if place and (place, name) in services:
                found.add((place, name))
            elif not place and (before in ("//", "@") or port) and (namespace, name) in services:
                found.add((namespace, name))
    return found


def claims_of(facts: Facts) -> dict[tuple[str, str], Subject]:
    """Owner of each claim by (namespace, name): by the template's volumes, and by the names that StatefulSets give to theirs."""
    found: dict[tuple[str, str], Subject] = {}
    for workload in _workloads(facts):
        for volume in workload.spec.template.spec.volumes:
            if volume.persistent_volume_claim:
                found[workload.metadata.namespace, volume.persistent_volume_claim.claim_name] = subject_of(workload)
    return found


def owner_of_claim(namespace: str, name: str, claims: dict[tuple[str, str], Subject], facts: Facts) -> Subject:
    """Who uses a claim: a StatefulSet's are called template-set-ordinal."""
    known = claims.get((namespace, name))
    if known:
        return known
    base, _dash, ordinal = name.rpartition("-")
    if ordinal.isdigit():
        parts = base.split("-")
        for start in range(1, len(parts)):
            subject = Subject("StatefulSet", "-".join(parts[start:]), namespace)
            if facts.workload("StatefulSet", namespace, subject.name):
                return subject
    return Subject("PersistentVolumeClaim", name, namespace)


def _is_service(facts: Facts, namespace: str, name: str) -> bool:
    return any((item.metadata.namespace, item.metadata.name) == (namespace, name) for item in facts.services or ())


def _workloads(facts: Facts) -> Iterator[Workload]:
    for kind in KINDS:
        yield from (facts.workloads.get(kind) or {}).values()
