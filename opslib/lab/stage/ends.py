"""How what is broken ends: by its nature, or since the cluster is as a scenario's accepted end asks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from opslib.lab.api import Object
from opslib.lab.stage.acts import Cluster
from opslib.lab.world.faults import BadDeploy, CertificateExpiry, CpuLimit, DependencyDown, MemoryLeak, Slow, Timed
from opslib.lab.world.model import World
from opslib.lab.world.platform import Service
from opslib.lab.world.scenarios import Asked, End, ObjectState, fits, holds

Ask = Callable[[Asked], Any]


def by_nature(cluster: Cluster, world: World, timed: Timed, met: Collection[str]) -> bool | None:
    """Whether a fault that met the pods with these UIDs has ended by itself; None for one that does not.

    A release, when no pod that serves runs it and none will; a limit likewise; what hangs, when all that serve have begun anew;
    a certificate, when there is one that is good.
    """
    fault = timed.fault
    if not timed.service:
        return None
    service = world.services[world.places[timed.service]]
    if isinstance(fault, BadDeploy | MemoryLeak):
        bad = f"{service.image}:{fault.release}"
        return _nowhere(cluster, service, lambda container: container.get("image") == bad) if fault.release else None
    if isinstance(fault, CpuLimit):
        limit = f"== {fault.cores}"
        return _nowhere(cluster, service, lambda container: holds(limit, container.get("resources", {}).get("limits", {}).get("cpu")))
    if isinstance(fault, Slow) or (isinstance(fault, DependencyDown) and fault.error_ratio >= 1):
        ready = [pod for pod in cluster.pods(service) if _is_ready(pod)]
        return bool(ready) and not any(pod["metadata"]["uid"] in met for pod in ready)
    if isinstance(fault, CertificateExpiry):
        return _is_good(cluster.get(cluster.path(f"Secret/{service.namespace}/{service.name}-tls")))
    return None


def reached(cluster: Cluster, end: End, ask: Ask) -> bool:
    """Whether the cluster's objects, and the other systems, are as an end state asks."""
    return objects_fit(cluster, end) and all(_answer_fits(state, ask) for state in end.asked)


def objects_fit(cluster: Cluster, end: End) -> bool:
    """Whether the cluster's objects alone are so."""
    return all(_object_fits(cluster, state) for state in end.objects)


def watched(ends: Iterable[End], services: Iterable[Service]) -> set[tuple[str, str, str]]:
    """What has to be watched for it: kind with its version, namespace, and name, "" for all."""
    found = set()
    for end in ends:
        for state in end.objects:
            kind, *rest = state.object.split("/")
            found.add((f"{kind} {state.api}".strip(), rest[0] if len(rest) == 2 else "", rest[-1]))
    for service in services:
        found |= {("Pod", service.namespace, ""), (service.kind, service.namespace, service.name)}
        found.add(("Secret", service.namespace, f"{service.name}-tls"))
    return found


def _object_fits(cluster: Cluster, state: ObjectState) -> bool:
    there = cluster.get(cluster.path(state.object, state.api))
    return there is None if state.gone else there is not None and fits(state, there)


def _answer_fits(state: Asked, ask: Ask) -> bool:
    answer = ask(state)
    return answer is not None and fits(state, answer)


def _nowhere(cluster: Cluster, service: Service, is_bad: Callable[[Object], bool]) -> bool:
    """Whether a service's container is bad neither in its workload nor in a pod that serves, and one does."""

    def bad(spec: Object) -> bool:
        return any(container["name"] == service.name and is_bad(container) for container in spec["containers"])

    workload = cluster.get(cluster.path(f"{service.kind}/{service.namespace}/{service.name}"))
    if workload is None or bad(workload["spec"]["template"]["spec"]):
        return False
    ready = [pod for pod in cluster.pods(service) if _is_ready(pod)]
    return bool(ready) and not any(bad(pod["spec"]) for pod in ready)


def _is_good(secret: Object | None) -> bool:
    """Whether a TLS Secret has a certificate that is good now."""
    import base64
    import binascii

    from cryptography import x509

    try:
        content = base64.b64decode((secret or {}).get("data", {}).get("tls.crt", ""))
        return x509.load_pem_x509_certificate(content).not_valid_after_utc > datetime.now(UTC)
    except (ValueError, binascii.Error):
        return False


def _is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions", []))
