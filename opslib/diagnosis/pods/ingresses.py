"""Ingresses that lead nowhere: their class, Service, port or certificate is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opslib.diagnosis.pods.cases import kubectl
from opslib.diagnosis.pods.facts import Facts
from opslib.findings import Evidence, Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.objects import Backend, Ingress, Service

_DEFAULT_CLASS = "ingressclass.kubernetes.io/is-default-class"
_OLD_CLASS = "kubernetes.io/ingress.class"


def ingresses(facts: Facts) -> Iterator[Finding]:
    """Ingresses whose class, Service, port or TLS Secret is not there. One finding an Ingress and kind of fault."""
    services = None if facts.services is None else {(item.metadata.namespace, item.metadata.name): item for item in facts.services}
    for ingress in facts.ingresses or ():
        yield from _class(facts, ingress)
        if services is not None:
            yield from _backends(facts, ingress, services)
        yield from _certificates(facts, ingress)


def backends(ingress: Ingress) -> list[Backend]:
    """Everything that an Ingress leads to: its default backend and those of its paths."""
    paths = [path.backend for rule in ingress.spec.rules if rule.http for path in rule.http.paths]
    return [*([ingress.spec.default_backend] if ingress.spec.default_backend else []), *paths]


def _class(facts: Facts, ingress: Ingress) -> Iterator[Finding]:
    classes = facts.ingress_classes
    if classes is None:
        return
    names = sorted(item.metadata.name for item in classes)
    name = ingress.spec.ingress_class_name
    see = Step(_("See the Ingress classes"), kubectl(facts, "", "get", "ingressclass"))
    if name is not None and name not in names:
        yield _finding(
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
        yield _finding(
            facts,
            ingress,
            "ingress.no_class",
            Severity.WARNING,
            _("Ingress {name} names no class, and the cluster has no default one", name=ingress.metadata.name),
            _("Most controllers serve only what names their class."),
            (see, _edit(facts, ingress, _("Name a class"))),
        )


def _backends(facts: Facts, ingress: Ingress, services: Mapping[tuple[str, str], Service]) -> Iterator[Finding]:
    namespace = ingress.metadata.namespace
    gone: list[str] = []
    wrong: list[str] = []
    for backend in backends(ingress):
        if backend.service is None or not backend.service.name:
            continue
        service = services.get((namespace, backend.service.name))
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
        yield _finding(
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
        yield _finding(
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
        yield _finding(
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


def _finding(facts: Facts, ingress: Ingress, check: str, severity: Severity, title: Text, cause: Text, steps: tuple[Step, ...]) -> Finding:
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
