"""The platform's Kubernetes objects, from the same description as its metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opslib.lab.world import account
from opslib.lab.world.changes import Change, limit_at, stamp, version_at
from opslib.lab.world.platform import GIBI, KERNEL, KUBELET_VERSION, MEBI, OS_IMAGE, RUNTIME, TEAMS, Node, Service

if TYPE_CHECKING:
    from opslib.lab.world.model import World

Object = dict[str, Any]

_ENVIRONMENT = {"LOG_LEVEL": "info", "LOG_FORMAT": "json", "TZ": "Asia/Tokyo"}
HOSTS = (("shop.microservices.example.com", "/", "web"), ("api.microservices.example.com", "/", "gateway"))
"""Host, path and service of each Ingress; its certificate is in the Secret ``<service>-tls``."""
CAUSE = "kubernetes.io/change-cause"
"""Annotation: why the last change of a Deployment was made, as `kubectl rollout history` shows it."""
COREFILE = """.:53 {
    errors
    health {
        lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    forward . /etc/resolv.conf
    cache 30
    loop
    reload
    loadbalance
}
"""
"""What the cluster's names are resolved by: the key Corefile of the ConfigMap kube-system/coredns."""
# namespace, name, schedule, image version, what it does
_JOBS = (
    ("shop", "session-cleanup", "17 * * * *", "1.3.0", "delete sessions that nobody used for a month"),
    ("payments", "ledger-export", "30 18 * * *", "2.0.4", "hand the day's entries to accounting"),
)


def manifests(world: World, at: float | None = None) -> list[Object]:
    """The objects of a world at a time (Unix seconds; None: its end), in the order in which they are to be applied.

    Namespaces, ServiceAccounts, ConfigMaps, Services, volumes with their claims, workloads, autoscalers, disruption budgets, CronJobs and
    Ingresses.
    """
    time = world.end if at is None else at
    found = [_namespace(name, teams) for name, teams in _namespaces(world)]
    for service in world.services:
        found += _objects(world, service, time)
    for job in _JOBS:
        found += _cron_job(*job)
    found += _ingresses()
    return found


def nodes(world: World) -> list[Object]:
    """The nodes, as a kubelet registers them, without their status' times."""
    return [node_object(node) for node in world.nodes]


def template(service: Service, version: str, limit: float | None) -> Object:
    """The pod template of a service's workload with this version, and this CPU limit in cores."""
    return {"metadata": {"labels": labels(service, version)}, "spec": _pod(service, version, limit)}


def cause(change: Change | None, service: Service) -> str:
    """What the annotation `CAUSE` says of a change; None: of the first release."""
    if change is None:
        return f"ci-deployer: Release {service.version}"
    return f"{change.actor}: {change.reason} ({change.after})"


def _namespaces(world: World) -> Iterator[tuple[str, str]]:
    seen: dict[str, str] = {}
    for service in world.services:
        seen.setdefault(service.namespace, service.team)
    yield from seen.items()


def _namespace(name: str, team: str) -> Object:
    labels = {"kubernetes.io/metadata.name": name, "team": team}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def labels(service: Service, version: str) -> dict[str, str]:
    """The labels of a service's objects."""
    return {
        "app": service.name,
        "app.kubernetes.io/name": service.name,
        "app.kubernetes.io/part-of": service.namespace,
        "app.kubernetes.io/version": version,
        "team": service.team,
    }


def _objects(world: World, service: Service, time: float) -> Iterator[Object]:
    version = version_at(world, service, time)
    channel, address = TEAMS[service.team]
    metadata: Object = {"namespace": service.namespace, "name": service.name, "labels": labels(service, version)}
    notes = {"lab.opslib/contact": address, "lab.opslib/channel": channel, "lab.opslib/language": service.language}
    selector = {"matchLabels": {"app": service.name}}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    calls = {f"{call.to.upper().replace('-', '_')}_URL": _address(world, call.to) for call in service.calls}
    data = {**_ENVIRONMENT, "PORT": str(service.port), **calls, **({"Corefile": COREFILE} if service.name == "coredns" else {})}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    headless = {"clusterIP": "None"} if service.kind == "StatefulSet" else {}
    if service.kind != "DaemonSet":
        ports = [{"name": "main", "port": service.port, "targetPort": "main"}]
        found = {"selector": {"app": service.name}, "ports": ports, **headless}
        yield {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": found}
    spec: Object = {"selector": selector, "template": template(service, version, limit_at(world, service, time))}
    if service.kind != "DaemonSet":
        spec["replicas"] = service.replicas
    if service.kind == "StatefulSet":
        spec["serviceName"] = service.name
        if service.volume_bytes:
            size = {"requests": {"storage": _bytes(service.volume_bytes)}}
            claim = {"accessModes": ["ReadWriteOnce"], "storageClassName": "gp3", "resources": size}
            spec["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
            for number, zone in enumerate(_zones(world, service)):
                yield from _volume(service, number, claim, zone)
    elif service.kind == "Deployment":
        last = [one for one in world.changes if one.service == service.name and one.kind != "limit" and one.time <= time]
        notes[CAUSE] = cause(last[-1] if last else None, service)
    yield {"apiVersion": "apps/v1", "kind": service.kind, "metadata": {**metadata, "annotations": notes}, "spec": spec}
    if service.max_replicas:
        yield _scaler(service, metadata)
    if service.kind == "Deployment" and service.replicas > 1:
        budget = {"maxUnavailable": 1, "selector": selector}
        yield {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": budget}


def _zones(world: World, service: Service) -> list[str]:
    """The zone of each of a StatefulSet's pods, in order: a volume cannot leave its own."""
    place = world.places[service.name]
    return [world.nodes[pod.node].zone for pod in world.pods.listed if pod.service == place]


def _volume(service: Service, number: int, wanted: Object, zone: str) -> Iterator[Object]:
    """The volume and the claim of a StatefulSet's pod, there before it: so its pods need not wait for a driver."""
    name = f"data-{service.name}-{number}"
    handle = hashlib.sha256(f"{service.namespace}/{name}".encode()).hexdigest()
    in_zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [zone]}
    spec = {
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [in_zone]}]}},
        "capacity": {"storage": _bytes(service.volume_bytes)},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Delete",
        "storageClassName": "gp3",
        "csi": {"driver": "ebs.csi.aws.com", "fsType": "ext4", "volumeHandle": f"vol-0{handle[:16]}"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": service.namespace, "name": name},
    }
    volume = f"pvc-{handle[16:24]}-{handle[24:28]}-4{handle[29:32]}-8{handle[33:36]}-{handle[36:48]}"
    yield {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": spec}
    metadata = {"namespace": service.namespace, "name": name, "labels": {"app": service.name}}
    yield {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {**wanted, "volumeName": volume}}


def _cron_job(namespace: str, name: str, schedule: str, version: str, purpose: str) -> Iterator[Object]:
    metadata: Object = {"namespace": namespace, "name": name, "labels": {"app": name, "app.kubernetes.io/name": name}}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    container = {"name": name, "image": f"registry.example.com/{namespace}/{name}:{version}", "resources": resources}
    pod = {"serviceAccountName": name, "restartPolicy": "OnFailure", "containers": [container]}
    job = {"backoffLimit": 2, "ttlSecondsAfterFinished": 3600, "template": {"metadata": {"labels": {"app": name}}, "spec": pod}}
    spec = {"schedule": schedule, "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": job}}
    annotated = {**metadata, "annotations": {"lab.opslib/purpose": purpose}}
    yield {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": annotated, "spec": spec}


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
    for host, path, name in HOSTS:
        backend = {"service": {"name": name, "port": {"name": "main"}}}
        rule = {"host": host, "http": {"paths": [{"path": path, "pathType": "Prefix", "backend": backend}]}}
        metadata = {"namespace": "shop", "name": name, "labels": {"app": name}}
        spec = {"ingressClassName": "lab", "tls": [{"hosts": [host], "secretName": f"{name}-tls"}], "rules": [rule]}
        yield {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": metadata, "spec": spec}


def node_object(node: Node) -> Object:
    """A node, as its kubelet registers it."""
    marks = {
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": node.zone,
        "topology.kubernetes.io/region": node.zone[:-1],
        "node.kubernetes.io/instance-type": node.instance_type,
        "eks.amazonaws.com/nodegroup": node.group,
        "eks.amazonaws.com/capacityType": "ON_DEMAND",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        # volumes are attached by a controller of the cluster, which leaves nodes without this annotation alone
        "metadata": {"name": node.name, "labels": marks, "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": {"providerID": account.provider_id(node)},
        "status": node_status(node),
    }


def node_status(node: Node) -> Object:
    """What a kubelet says of its machine; its conditions and its port it adds itself."""
    capacity = {
        "cpu": str(node.cores),
        "memory": f"{node.memory_bytes / 1024:.0f}Ki",
        "pods": str(node.most_pods),
        "ephemeral-storage": f"{node.disk_bytes / 1024:.0f}Ki",
    }
    identity = hashlib.sha256(node.name.encode()).hexdigest()
    return {
        "capacity": capacity,
        # what a node keeps for its kubelet and its system
        "allocatable": {
            **capacity,
            "cpu": f"{node.cores * 1000 - 90}m",
            "memory": f"{node.memory_bytes * 0.955 / 1024:.0f}Ki",
            "ephemeral-storage": f"{node.disk_bytes * 0.9:.0f}",
        },
        "addresses": [
            {"type": "InternalIP", "address": node.address},
            # the API server asks for logs at the external one, where the lab's kubelet listens
            {"type": "ExternalIP", "address": "127.0.0.1"},
            {"type": "Hostname", "address": node.name},
        ],
        "declaredFeatures": ["ExtendWebSocketsToKubelet"],  # else the real API server speaks SPDY for commands
        "nodeInfo": {
            "architecture": "amd64",
            "operatingSystem": "linux",
            "osImage": OS_IMAGE,
            "kernelVersion": KERNEL,
            "containerRuntimeVersion": RUNTIME,
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "machineID": identity[:32],
            "systemUUID": f"ec2{identity[32:37]}-{identity[37:41]}-{identity[41:45]}-{identity[45:49]}-{identity[49:61]}",
            "bootID": f"{identity[8:16]}-{identity[16:20]}-{identity[20:24]}-{identity[24:28]}-{identity[28:40]}",
        },
    }


def node_conditions(now: float, since: float) -> list[Object]:
    """What a kubelet says of a node that is well, and has been `since` then; both in Unix seconds."""
    good = (
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    )
    times = {"lastHeartbeatTime": stamp(now), "lastTransitionTime": stamp(since)}
    return [{"type": kind, "status": value, **times, "reason": reason, "message": message} for kind, value, reason, message in good]


def _cores(cores: float) -> str:
    return f"{cores:.0f}" if cores == int(cores) else f"{cores * 1000:.0f}m"


def _bytes(amount: float) -> str:
    return f"{amount / GIBI:.0f}Gi" if amount % GIBI == 0 else f"{amount / MEBI:.0f}Mi"
