"""Services that lead nowhere: no pods, none ready, or a port that the pods do not have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from opslib.diagnosis.pods.cases import kubectl
from opslib.diagnosis.pods.facts import Facts
from opslib.diagnosis.pods.ingresses import backends
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.objects import Pod, Service, Workload

SERVICE_NAME = "kubernetes.io/service-name"
_KINDS = ("Deployment", "StatefulSet", "DaemonSet")
_PART_OF_CONTROL_PLANE = frozenset({("default", "kubernetes")})

T = TypeVar("T")
Name = tuple[str, str]  # namespace, name
Label = tuple[str, str, str]  # namespace, key, value


@dataclass(frozen=True, slots=True)
class Network:
    """Which Services lead to which workloads and pods: looked up by label, since large clusters have thousands of each.

    Parameters
    ----------
    facts
        What it was made from.
    complete
        Whether Services, endpoints and all kinds of workloads could be read: without them nothing can be said of a Service.
    ready, endpoints
        Number of ready endpoints, and of all, by Service.
    services, workloads, pods
        By each label of their selector, template, or own.
    named
        Workloads by name.
    routed
        Names of the Ingresses that lead to a Service.
    """

    facts: Facts
    complete: bool
    ready: dict[Name, int] = field(default_factory=dict)
    endpoints: dict[Name, int] = field(default_factory=dict)
    services: dict[Label, list[Service]] = field(default_factory=dict)
    workloads: dict[Label, list[Workload]] = field(default_factory=dict)
    pods: dict[Label, list[Pod]] = field(default_factory=dict)
    named: dict[Name, list[Workload]] = field(default_factory=dict)
    routed: dict[Name, list[str]] = field(default_factory=dict)


def network_of(facts: Facts) -> Network:
    """The network as the facts show it."""
    complete = (
        facts.services is not None and facts.endpoint_slices is not None and all(facts.workloads.get(kind) is not None for kind in _KINDS)
    )
    network = Network(facts, complete)
    for piece in facts.endpoint_slices or ():
        key = (piece.metadata.namespace, piece.metadata.labels.get(SERVICE_NAME, ""))
        network.endpoints[key] = network.endpoints.get(key, 0) + len(piece.endpoints)
        # A ready condition that is absent means ready (discovery/v1).
        ready = sum(endpoint.conditions.ready is not False for endpoint in piece.endpoints)
        network.ready[key] = network.ready.get(key, 0) + ready
    for service in facts.services or ():
        for label in service.spec.selector.items():
            network.services.setdefault((service.metadata.namespace, *label), []).append(service)
    for kind in _KINDS:
        for name, workload in (facts.workloads.get(kind) or {}).items():
            network.named.setdefault(name, []).append(workload)
            for label in workload.spec.template.metadata.labels.items():
                network.workloads.setdefault((name[0], *label), []).append(workload)
    for pod in facts.pods or ():
        for label in pod.metadata.labels.items():
            network.pods.setdefault((pod.metadata.namespace, *label), []).append(pod)
    for ingress in facts.ingresses or ():
        for backend in backends(ingress):
            if backend.service:
                network.routed.setdefault((ingress.metadata.namespace, backend.service.name), []).append(ingress.metadata.name)
    return network


def without_endpoints(network: Network, explained: Iterable[Finding]) -> Iterator[Finding]:
    """Services with a selector and no ready endpoint, each with the reason; those that an owner's finding explains are left out."""
    if not network.complete:
        return
    troubled = [finding for finding in explained if finding.affected or finding.subject.kind == "Pod"]
    subjects = {finding.subject for finding in troubled if finding.severity >= Severity.WARNING}
    subjects |= {finding.subject for finding in explained if finding.check.startswith(("owner.", "config."))}
    for service in network.facts.services or ():
        key = (service.metadata.namespace, service.metadata.name)
        if not service.spec.selector or service.spec.type == "ExternalName" or key in _PART_OF_CONTROL_PLANE or network.ready.get(key):
            continue
        found = _without_endpoint(network, service, subjects)
        if found:
            yield found


def with_services(finding: Finding, network: Network) -> Finding:
    """The finding with the Services that have no ready endpoint because of it: who is affected."""
    if not network.complete or finding.subject.kind in ("Service", "Ingress", "HorizontalPodAutoscaler"):
        return finding
    facts, namespace = network.facts, finding.subject.namespace
    workload = facts.workload(finding.subject.kind, namespace, finding.subject.name)
    labels = workload.spec.template.metadata.labels if workload else _labels(facts, finding)
    down = {
        service.metadata.name: None
        for label in labels.items()
        for service in network.services.get((namespace, *label), ())
        if service.spec.selector.items() <= labels.items() and not network.ready.get((namespace, service.metadata.name))
    }
    evidence = tuple(
        Evidence(
            text=_("Service {name} has no ready endpoint: its callers get errors", name=name),
            reference=f"/api/v1/namespaces/{namespace}/services/{name}",
            time=facts.now,
        )
        for name in list(down)[:3]
    )
    return replace(finding, evidence=(*finding.evidence, *evidence)) if evidence else finding


def port_mismatch(network: Network) -> Iterator[Finding]:
    """Services whose targetPort is a name that no container of their pods has; for a number that none declares, a warning.

    A number need not be declared to work, so that alone is not proof.
    """
    facts = network.facts
    for service in facts.services or ():
        if not service.spec.selector or service.spec.type == "ExternalName":
            continue
        workloads = selected(network, service)
        if not workloads:
            continue
        containers = [
            container for item in workloads for container in (*item.spec.template.spec.init_containers, *item.spec.template.spec.containers)
        ]
        declared = [port for container in containers for port in container.ports]
        names = {port.name for port in declared if port.name}
        numbers = {port.container_port for port in declared}
        for port in service.spec.ports:
            target = port.target_port or port.port
            if isinstance(target, str) and target.isdigit():
                target = int(target)
            by_name = isinstance(target, str)
            if (target in names) if by_name else (target in numbers or not numbers):
                continue
            shown = ", ".join(sorted(f"{item.name or '-'}:{item.container_port}" for item in declared)) or "-"
            yield _finding(
                facts,
                service,
                "service.port_mismatch",
                Severity.CRITICAL if by_name else Severity.WARNING,
                _("Service {name} leads to port {port}, which its pods do not have", name=service.metadata.name, port=target)
                if by_name
                else _("Service {name} leads to port {port}, which its pods do not declare", name=service.metadata.name, port=target),
                _("The targetPort is {target}; the containers have {ports}.", target=target, ports=shown),
                [],
                (
                    Step(
                        _("Put right the Service's targetPort, or the container's port"),
                        kubectl(facts, service.metadata.namespace, "edit", f"service/{service.metadata.name}"),
                        changes=True,
                    ),
                ),
            )
            break


def selected(network: Network, service: Service) -> list[Workload]:
    """The workloads whose pods a Service selects: a template tells even where there is no pod at all."""
    return [
        workload
        for workload in _smallest(network.workloads, service)
        if service.spec.selector.items() <= workload.spec.template.metadata.labels.items()
    ]


def _without_endpoint(network: Network, service: Service, troubled: set[Subject]) -> Finding | None:
    facts = network.facts
    namespace, name = service.metadata.namespace, service.metadata.name
    workloads = selected(network, service)
    endpoints = network.endpoints.get((namespace, name), 0)
    unhealthy = _has_unhealthy(network, service)
    look = (
        Step(_("Compare the selector with the pods' labels"), kubectl(facts, namespace, "describe", "service", name)),
        Step(_("See the pods' labels"), kubectl(facts, namespace, "get", "pods", "--show-labels")),
    )
    if not workloads and not endpoints and not unhealthy:
        near = nearly(network, service)
        routed = list(dict.fromkeys(network.routed.get((namespace, name), ())))
        evidence = [
            Evidence(
                text=_("Ingress {name} routes to it", name=item),
                reference=f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/{item}",
            )
            for item in routed
        ]
        cause: Text
        if near:
            item, differs = near
            cause = _(
                "{kind} {name} nearly matches, but differs in {labels}.", kind=item.kind or "?", name=item.metadata.name, labels=differs
            )
        else:
            cause = _("No workload of the namespace has pods with these labels.")
        return _finding(
            facts,
            service,
            "service.no_pods",
            Severity.CRITICAL if near or routed else Severity.WARNING,
            _("Service {name} selects no pods", name=name),
            cause,
            evidence,
            look,
        )
    wanted = [
        item
        for item in workloads
        if item.status.desired_number_scheduled or (item.spec.replicas is None and item.kind != "DaemonSet") or item.spec.replicas
    ]
    if not wanted and not endpoints:
        if not workloads:
            return None
        return _finding(
            facts,
            service,
            "service.scaled_to_zero",
            Severity.INFO,
            _("Service {name} has no pods: its workload is scaled to zero", name=name),
            None,
            [],
            (
                Step(
                    _("Scale it up, if it should serve"),
                    kubectl(facts, namespace, "scale", f"{workloads[0].kind.lower()}/{workloads[0].metadata.name}", "--replicas=1"),
                    changes=True,
                ),
            ),
        )
    if any(Subject(item.kind, item.metadata.name, namespace) in troubled for item in workloads) or unhealthy:
        return None
    made = [item.creation_timestamp for item in (service.metadata, *(workload.metadata for workload in workloads))]
    lost = [
        condition.last_transition_time
        for workload in workloads
        for condition in workload.status.conditions
        if condition.type == "Available" and condition.status == "False"
    ]
    if any(_young(time, facts) for time in (*made, *lost)):
        return None  # its pods may just be starting, as when they are new or had to leave their node
    # Endpoints and workloads are read one after the other: where pods are ready, the endpoints may only have been a moment behind.
    serving = any(item.status.ready_replicas or item.status.number_ready for item in workloads)
    return _finding(
        facts,
        service,
        "service.pods_not_ready",
        Severity.WARNING if serving else Severity.CRITICAL,
        _("Service {name} has pods, and none of them is ready", name=name),
        _("Where it stays so, look at the pods' readiness, and at whether they have the Service's port."),
        [],
        look,
    )


def _young(created: datetime | None, facts: Facts) -> bool:
    return created is not None and facts.now - created < max(facts.grace, timedelta(seconds=30))


def nearly(network: Network, service: Service) -> tuple[Workload, list[Text]] | None:
    """The workload that a selector most likely means: it shares a label, or the Service's name; and the labels in which it differs."""
    namespace = service.metadata.namespace
    candidates = {id(item): item for label in service.spec.selector.items() for item in network.workloads.get((namespace, *label), ())}
    candidates |= {id(item): item for item in network.named.get((namespace, service.metadata.name), ())}
    best: tuple[int, str, Workload] | None = None
    for item in candidates.values():
        name = item.metadata.name
        shared = len(service.spec.selector.items() & item.spec.template.metadata.labels.items()) + (
            2 if name == service.metadata.name else 0
        )
        if best is None or (-shared, name) < (-best[0], best[1]):
            best = (shared, name, item)
    if best is None:
        return None
    labels = best[2].spec.template.metadata.labels
    differs: list[Text] = [
        _("{label} (its pods have {value})", label=f"{key}={value}", value=labels[key])
        if key in labels
        else _("{label} (its pods have no such label)", label=f"{key}={value}")
        for key, value in sorted(service.spec.selector.items())
        if labels.get(key) != value
    ]
    return best[2], differs


def _labels(facts: Facts, finding: Finding) -> dict[str, str]:
    names = {subject.name for subject in (*finding.affected, finding.subject) if subject.kind == "Pod"}
    for pod in facts.pods or ():
        if pod.metadata.namespace == finding.subject.namespace and pod.metadata.name in names:
            return pod.metadata.labels
    return {}


def _has_unhealthy(network: Network, service: Service) -> bool:
    return any(service.spec.selector.items() <= pod.metadata.labels.items() for pod in _smallest(network.pods, service))


def _smallest(by_label: dict[Label, list[T]], service: Service) -> list[T]:
    """What has one of the selector's labels: that of the fewest."""
    return min((by_label.get((service.metadata.namespace, *label), []) for label in service.spec.selector.items()), key=len, default=[])


def _finding(
    facts: Facts,
    service: Service,
    check: str,
    severity: Severity,
    title: Text,
    cause: Text | None,
    evidence: list[Evidence],
    steps: tuple[Step, ...],
) -> Finding:
    metadata = service.metadata
    selector = ", ".join(f"{key}={value}" for key, value in sorted(service.spec.selector.items()))
    return Finding(
        check=check,
        severity=severity,
        subject=Subject("Service", metadata.name, metadata.namespace),
        title=title,
        cause=cause,
        evidence=(
            Evidence(
                text=_("The selector of Service {name}", name=metadata.name),
                quote=selector,
                reference=f"/api/v1/namespaces/{metadata.namespace}/services/{metadata.name}",
                time=facts.now,
            ),
            *evidence,
        ),
        steps=steps,
    )
