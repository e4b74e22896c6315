"""The platform's Kubernetes objects, from the same description as its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opslib.lab.world.changes import limit_at, version_at
from opslib.lab.world.platform import TEAMS, Node, Service

if TYPE_CHECKING:
    from opslib.lab.world.model import World

Object = dict[str, Any]

_ENVIRONMENT = {"LOG_LEVEL": "info", "LOG_FORMAT": "json", "TZ": "Asia/Tokyo"}
_HOSTS = (("shop.microservices.example.com", "/", "web"), ("api.microservices.example.com", "/", "gateway"))


def manifests(world: World, at: float | None = None) -> list[Object]:
    """The objects of a world at a time (Unix seconds; None: its end), in the order in which they are to be applied.

    Namespaces, ServiceAccounts, ConfigMaps, Services, workloads, autoscalers, disruption budgets and Ingresses.
    """
    time = world.end if at is None else at
    found = [_namespace(name, teams) for name, teams in _namespaces(world)]
    for service in world.services:
        found += _objects(world, service, time)
    found += _ingresses()
    return found


def nodes(world: World) -> list[Object]:
    """The nodes, as a kubelet registers them, without their status' times."""
    return [_node(node) for node in world.nodes]


def _namespaces(world: World) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for service in world.services:
        seen.setdefault(service.namespace, service.team)
    yield from seen.items()


def _namespace(name: str, team: str) -> Object:
    labels = {"kubernetes.io/metadata.name": name, "team": team}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _labels(service: Service, version: str) -> dict[str, str]:
    return {
        "app": service.name,
        "app.kubernetes.io/name": service.name,
        "app.kubernetes.io/part-of": service.namespace,
        "app.kubernetes.io/version": version,
        "team": service.team,
    }


def _objects(world: World, service: Service, time: float) -> Iterator[Object]:
    version = version_at(world, service, time)
    labels = _labels(service, version)
    channel, address = TEAMS[service.team]
    metadata: Object = {"namespace": service.namespace, "name": service.name, "labels": labels}
    notes = {"lab.opslib/contact": address, "lab.opslib/channel": channel, "lab.opslib/language": service.language}
    selector = {"matchLabels": {"app": service.name}}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    calls = {f"{call.to.upper().replace('-', '_')}_URL": _address(world, call.to) for call in service.calls}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {**_ENVIRONMENT, "PORT": str(service.port), **calls}}
    headless = {"clusterIP": "None"} if service.kind == "StatefulSet" else {}
    if service.kind != "DaemonSet":
        ports = [{"name": "main", "port": service.port, "targetPort": "main"}]
        found = {"selector": {"app": service.name}, "ports": ports, **headless}
        yield {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": found}
    template = {"metadata": {"labels": labels}, "spec": _pod(service, version, limit_at(world, service, time))}
    spec: Object = {"selector": selector, "template": template}
    if service.kind != "DaemonSet":
        spec["replicas"] = service.replicas
    if service.kind == "StatefulSet":
        spec["serviceName"] = service.name
        if service.volume_bytes:
            size = {"requests": {"storage": f"{service.volume_bytes / 2**30:.0f}Gi"}}
            claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": "gp3", "resources": size}
            spec["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    yield {"apiVersion": "apps/v1", "kind": service.kind, "metadata": {**metadata, "annotations": notes}, "spec": spec}
    if service.max_replicas:
        yield _scaler(service, metadata)
    if service.kind == "Deployment" and service.replicas > 1:
        budget = {"maxUnavailable": 1, "selector": selector}
        yield {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": budget}


def _address(world: World, name: str) -> str:
    service = world.services[world.places[name]]
    scheme = {"postgres": "postgres", "redis": "redis", "kafka": "kafka"}.get(service.language, "http")
    return f"{scheme}://{service.name}.{service.namespace}.svc:{service.port}"


def _scaler(service: Service, metadata: Object) -> Object:
    target = {"apiVersion": "apps/v1", "kind": service.kind, "name": service.name}
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    spec = {"scaleTargetRef": target, "minReplicas": service.replicas, "maxReplicas": service.max_replicas, "metrics": [metric]}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec}


def _pod(service: Service, version: str, limit: float | None) -> Object:
    resources: Object = {
        "requests": {"cpu": _cores(service.cores), "memory": _bytes(service.memory_bytes)},
        "limits": {"memory": _bytes(service.memory_limit)},
    }
    if limit is not None:
        resources["limits"]["cpu"] = _cores(limit)
    container: Object = {
        "name": service.name,
        "image": f"{service.image}:{version}",
        "ports": [{"name": "main", "containerPort": service.port}],
        "envFrom": [{"configMapRef": {"name": service.name}}],
        "resources": resources,
    }
    if service.serves_http:
        container["readinessProbe"] = {"httpGet": {"path": "/ready", "port": "main"}, "periodSeconds": 5}
        container["livenessProbe"] = {"httpGet": {"path": "/live", "port": "main"}, "periodSeconds": 10, "failureThreshold": 6}
    if service.kind == "StatefulSet" and service.volume_bytes:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    pod: Object = {"serviceAccountName": service.name, "containers": [container]}
    if service.kind == "DaemonSet":
        pod["tolerations"] = [{"operator": "Exists"}]
    else:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"app": service.name}},
            }
        ]
    return pod


def _ingresses() -> Iterator[Object]:
    for host, path, name in _HOSTS:
        backend = {"service": {"name": name, "port": {"name": "main"}}}
        rule = {"host": host, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}
        metadata = {"namespace": "shop", "name": name, "labels": {"app": name}}
        spec = {"ingressClassName": "lab", "tls": [{"hosts": [host], "secretName": f"{name}-tls"}], "rules": [rule]}
        yield {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


def _node(node: Node) -> Object:
    labels = {
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": node.zone,
        "topology.kubernetes.io/region": node.zone[:-1],
        "node.kubernetes.io/instance-type": "m6i.2xlarge",
        "eks.amazonaws.com/nodegroup": "workers",
    }
    capacity = {"cpu": str(node.cores), "memory": _bytes(node.memory_bytes), "ephemeral-storage": _bytes(node.disk_bytes), "pods": "58"}
    addresses = [{"type": "InternalIP", "address": node.address}, {"type": "Hostname", "address": node.name}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"providerID": f"aws:///{node.zone}/i-{node.address.replace('.', '')}"},
        "status": {"capacity": capacity, "allocatable": dict(capacity), "addresses": addresses},
    }


def _cores(cores: float) -> str:
    return f"{cores * 1000:.0f}m"


def _bytes(amount: float) -> str:
    return f"{amount / 2**20:.0f}Mi"
