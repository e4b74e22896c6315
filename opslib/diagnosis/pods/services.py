"""Services that lead nowhere, and Ingresses that lead to no Service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from opslib.diagnosis.pods.cases import kubectl
from opslib.diagnosis.pods.facts import Facts
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.objects import Backend, Ingress, Service, Workload

SERVICE_NAME = "kubernetes.io/service-name"
_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
_OLD_CLASS = "kubernetes.io/ingress.class"
_PART_OF_CONTROL_PLANE = frozenset({("default", "kubernetes")})


def without_endpoints(facts: Facts, explained: Iterable[Finding]) -> Iterator[Finding]:
    """Services with a selector and no ready endpoint, each with the reason; those that an owner's finding explains are left out."""
    if facts.services is None or facts.endpoint_slices is None:
        return
    ready, known = _endpoints(facts)
    troubled = [finding for finding in explained if finding.affected or finding.subject.kind == "Pod"]
    subjects = {finding.subject for finding in troubled if finding.severity >= Severity.WARNING}
    subjects |= {finding.subject for finding in explained if finding.check.startswith(("owner.", "config."))}
    for service in facts.services:
        key = (service.metadata.namespace, service.metadata.name)
        if not service.spec.selector or service.spec.type == "ExternalName" or key in _PART_OF_CONTROL_PLANE or ready.get(key):
            continue
        workloads = selected(facts, service)
        if workloads is None:
            continue
        found = _without_endpoint(facts, service, workloads, known.get(key, 0), subjects)
        if found:
            yield found


def with_services(finding: Finding, facts: Facts) -> Finding:
    """The finding with the Services that have no ready endpoint because of it: who is affected."""
    if facts.services is None or facts.endpoint_slices is None or finding.subject.kind in ("Service", "Ingress", "HorizontalPodAutoscaler"):
        return finding
    ready, _known = _endpoints(facts)
    workload = facts.workload(finding.subject.kind, finding.subject.namespace, finding.subject.name)
    labels = workload.spec.template.metadata.labels if workload else _labels(facts, finding)
    down = [
        service
        for service in facts.services
        if service.metadata.namespace == finding.subject.namespace
        and service.spec.selector
        and service.spec.selector.items() <= labels.items()
        and not ready.get((service.metadata.namespace, service.metadata.name))
    ]
    evidence = tuple(
        Evidence(
            text=_("Service {name} has no ready endpoint: its callers get errors", name=service.metadata.name),
            reference=f"/api/v1/namespaces/{service.metadata.namespace}/services/{service.metadata.name}",
            time=facts.now,
        )
        for service in down[:3]
    )
    return replace(finding, evidence=(*finding.evidence, *evidence)) if evidence else finding


def port_mismatch(facts: Facts) -> Iterator[Finding]:
    """Services whose targetPort is a name that no container of their pods has; for a number that none declares, a warning.

    A number need not be declared to work, so that alone is not proof.
    """
    for service in facts.services or ():
        if not service.spec.selector or service.spec.type == "ExternalName":
            continue
        workloads = selected(facts, service)
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


def ingresses(facts: Facts) -> Iterator[Finding]:
    """Ingresses whose class, Service, port or TLS Secret is not there. One finding an Ingress and kind of fault."""
    for ingress in facts.ingresses or ():
        yield from _class(facts, ingress)
        yield from _backends(facts, ingress)
        yield from _certificates(facts, ingress)


def selected(facts: Facts, service: Service) -> list[Workload] | None:
    """The workloads whose pods a Service selects; None where they could not be read.

    A workload's template tells even when it has no pod at all.
    """
    found = []
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        workloads = facts.workloads.get(kind)
        if workloads is None:
            return None
        found += [
            item
            for (namespace, _name), item in workloads.items()
            if namespace == service.metadata.namespace and service.spec.selector.items() <= item.spec.template.metadata.labels.items()
        ]
    return found


def _without_endpoint(facts: Facts, service: Service, workloads: list[Workload], endpoints: int, troubled: set[Subject]) -> Finding | None:
    namespace, name = service.metadata.namespace, service.metadata.name
    look = (
        Step(_("Compare the selector with the pods' labels"), kubectl(facts, namespace, "describe", "service", name)),
        Step(_("See the pods' labels"), kubectl(facts, namespace, "get", "pods", "--show-labels")),
    )
    if not workloads and not endpoints and not _unhealthy_selected(facts, service):
        near = nearly(facts, service)
        routed = _routed(facts, service)
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
    if any(Subject(item.kind, item.metadata.name, namespace) in troubled for item in workloads) or _unhealthy_selected(facts, service):
        return None
    if any(_young(item.creation_timestamp, facts) for item in (service.metadata, *(workload.metadata for workload in workloads))):
        return None  # its pods may just be starting
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


def nearly(facts: Facts, service: Service) -> tuple[Workload, list[Text]] | None:
    """The workload that a selector most likely means: it shares a label, or the Service's name; and the labels in which it differs."""
    best: tuple[int, str, Workload] | None = None
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        for (namespace, name), item in (facts.workloads.get(kind) or {}).items():
            if namespace != service.metadata.namespace:
                continue
            labels = item.spec.template.metadata.labels
            shared = len(service.spec.selector.items() & labels.items()) + (2 if name == service.metadata.name else 0)
            if shared and (best is None or (-shared, name) < (-best[0], best[1])):
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


def _endpoints(facts: Facts) -> tuple[dict[tuple[str, str], int], dict[tuple[str, str], int]]:
    """Number of ready endpoints, and of all, by Service."""
    ready: dict[tuple[str, str], int] = {}
    known: dict[tuple[str, str], int] = {}
    for item in facts.endpoint_slices or ():
        key = (item.metadata.namespace, item.metadata.labels.get(SERVICE_NAME, ""))
        known[key] = known.get(key, 0) + len(item.endpoints)
        # A ready condition that is absent means ready (discovery/v1).
        ready[key] = ready.get(key, 0) + sum(endpoint.conditions.ready is not False for endpoint in item.endpoints)
    return ready, known


def _labels(facts: Facts, finding: Finding) -> dict[str, str]:
    names = {subject.name for subject in (*finding.affected, finding.subject) if subject.kind == "Pod"}
    for pod in facts.pods or ():
        if pod.metadata.namespace == finding.subject.namespace and pod.metadata.name in names:
            return pod.metadata.labels
    return {}


def _unhealthy_selected(facts: Facts, service: Service) -> bool:
    return any(
        pod.metadata.namespace == service.metadata.namespace and service.spec.selector.items() <= pod.metadata.labels.items()
        for pod in facts.pods or ()
    )


def _routed(facts: Facts, service: Service) -> list[str]:
    return [
        ingress.metadata.name
        for ingress in facts.ingresses or ()
        if ingress.metadata.namespace == service.metadata.namespace
        and any(backend.service and backend.service.name == service.metadata.name for backend in _all_backends(ingress))
    ]


def _all_backends(ingress: Ingress) -> list[Backend]:
    backends = [path.backend for rule in ingress.spec.rules if rule.http for path in rule.http.paths]
    return [*([ingress.spec.default_backend] if ingress.spec.default_backend else []), *backends]


def _class(facts: Facts, ingress: Ingress) -> Iterator[Finding]:
    classes = facts.ingress_classes
    if classes is None:
        return
    names = sorted(item.metadata.name for item in classes)
    name = ingress.spec.ingress_class_name
    see = Step(_("See the Ingress classes"), kubectl(facts, "", "get", "ingressclass"))
    if name is not None and name not in names:
        yield _ingress_finding(
            facts,
            ingress,
            "ingress.class_missing",
            Severity.CRITICAL,
            _("Ingress {name} names a class that does not exist: {ingress_class}", name=ingress.metadata.name, ingress_class=name),
            _("No controller serves it. There are the classes {classes}.", classes=names or ["-"]),
            (see, _edit(facts, ingress, _("Name the right class"))),
        )
    elif (
        name is None
        and _OLD_CLASS not in ingress.metadata.annotations
        and not any(item.metadata.annotations.get(_DEFAULT_CLASS) == "true" for item in classes)
    ):
        yield _ingress_finding(
            facts,
            ingress,
            "ingress.no_class",
            Severity.WARNING,
            _("Ingress {name} names no class, and the cluster has no default one", name=ingress.metadata.name),
            _("Most controllers serve only what names their class."),
            (see, _edit(facts, ingress, _("Name a class"))),
        )


def _backends(facts: Facts, ingress: Ingress) -> Iterator[Finding]:
    if facts.services is None:
        return
    namespace = ingress.metadata.namespace
    services = {service.metadata.name: service for service in facts.services if service.metadata.namespace == namespace}
    gone: list[str] = []
    wrong: list[str] = []
    for backend in _all_backends(ingress):
        if backend.service is None or not backend.service.name:
            continue
        service = services.get(backend.service.name)
        port = backend.service.port
        if service is None:
            gone.append(backend.service.name)
        elif (
            service.spec.type != "ExternalName"
            and (port.name or port.number)
            and not any((port.name and item.name == port.name) or (port.number and item.port == port.number) for item in service.spec.ports)
        ):
            shown = ", ".join(f"{item.name or '-'}:{item.port}" for item in service.spec.ports)
            wrong.append(f"{backend.service.name}:{port.name or port.number} ({shown})")
    if gone:
        yield _ingress_finding(
            facts,
            ingress,
            "ingress.service_missing",
            Severity.CRITICAL,
            _(
                "Ingress {name} leads to a Service that does not exist: {services}",
                name=ingress.metadata.name,
                services=list(dict.fromkeys(gone)),
            ),
            _("Its callers get 503, or what the controller answers without a backend."),
            (
                Step(_("See what there is"), kubectl(facts, namespace, "get", "services")),
                _edit(facts, ingress, _("Name the right Service")),
            ),
        )
    if wrong:
        yield _ingress_finding(
            facts,
            ingress,
            "ingress.port_missing",
            Severity.CRITICAL,
            _("Ingress {name} leads to a port that the Service does not have", name=ingress.metadata.name),
            _("The Service and port, and in brackets the ports that there are: {ports}", ports=list(dict.fromkeys(wrong))),
            (_edit(facts, ingress, _("Name the right port")),),
        )


def _certificates(facts: Facts, ingress: Ingress) -> Iterator[Finding]:
    gone = [
        item.secret_name
        for item in ingress.spec.tls
        if item.secret_name and ("Secret", ingress.metadata.namespace, item.secret_name) in facts.missing
    ]
    if gone:
        yield _ingress_finding(
            facts,
            ingress,
            "ingress.tls_secret_missing",
            Severity.WARNING,
            _(
                "The certificate of Ingress {name} is missing: Secret {secrets}",
                name=ingress.metadata.name,
                secrets=list(dict.fromkeys(gone)),
            ),
            _("The controller shows its own certificate instead, which browsers refuse."),
            (
                Step(
                    _("Create the Secret, or see why cert-manager has not"),
                    kubectl(facts, ingress.metadata.namespace, "get", "certificates"),
                ),
            ),
        )


def _edit(facts: Facts, ingress: Ingress, text: Text) -> Step:
    return Step(text, kubectl(facts, ingress.metadata.namespace, "edit", f"ingress/{ingress.metadata.name}"), changes=True)


def _ingress_finding(
    facts: Facts, ingress: Ingress, check: str, severity: Severity, title: Text, cause: Text, steps: tuple[Step, ...]
) -> Finding:
    metadata = ingress.metadata
    hosts = ", ".join(rule.host or "*" for rule in ingress.spec.rules)
    return Finding(
        check=check,
        severity=severity,
        subject=Subject("Ingress", metadata.name, metadata.namespace),
        title=title,
        cause=cause,
        evidence=(
            Evidence(
                text=_("Ingress {name} for {hosts}", name=metadata.name, hosts=hosts or "*"),
                reference=f"/apis/networking.k8s.io/v1/namespaces/{metadata.namespace}/ingresses/{metadata.name}",
                time=facts.now,
            ),
        ),
        steps=steps,
    )


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
