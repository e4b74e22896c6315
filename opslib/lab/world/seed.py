"""The platform's objects as they stand in a cluster in which it has been running all the time: what the embedded API server begins with.

Beside what a user applies (`opslib.lab.world.manifests`) these are all that controllers, scheduler and kubelets have made of it since, so
that they find everything as they want it and do nothing: replica sets of earlier releases, running pods, endpoints, leases, statuses.
"""

from __future__ import annotations

import copy
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from opslib.lab.controllers.attachments import attachment_name
from opslib.lab.kube.defaults import apply_defaults
from opslib.lab.world import account, noise
from opslib.lab.world.changes import stamp
from opslib.lab.world.manifests import CAUSE, Object, cause, node_conditions, node_object, template
from opslib.lab.world.metrics.applications import address_of
from opslib.lab.world.platform import Node, Service
from opslib.lab.world.pods import ROUND_SECONDS, surge

if TYPE_CHECKING:
    from opslib.lab.world.changes import Change
    from opslib.lab.world.model import World
    from opslib.lab.world.pods import Pod

_DAY = 86400.0
_AGE_DAYS = 412.0  # of the cluster
_READY_SECONDS = 5.0
_EVENTS_SECONDS = 3600.0  # so long events are kept
_REVISION = "deployment.kubernetes.io/revision"
_TEMPLATE_HASH, _REVISION_HASH = "pod-template-hash", "controller-revision-hash"
_TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
_TAINTS_ALLOWED = tuple(
    {"key": f"node.kubernetes.io/{name}", "operator": "Exists", "effect": effect}
    for name, effect in (
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    )
)


@dataclass(frozen=True)
class Cluster:
    """A cluster in which a world has been running.

    Parameters
    ----------
    now
        Unix seconds.
    kubelet_port
        Where the API server finds the kubelets, on the loopback.
    """

    world: World
    now: float
    kubelet_port: int

    def objects(self, applied: Iterable[Object]) -> list[Object]:
        """All objects of the cluster.

        Parameters
        ----------
        applied
            What users have applied; it is completed in place.
        """
        found = [*(self._node(node) for node in self.world.nodes), *(self._lease(node) for node in self.world.nodes)]
        for obj in applied:
            found.append(self._settled(obj))
            service = self._workload(obj)
            if obj["kind"] == "PersistentVolume":
                found += self._attachment(obj)
            elif service is None:
                if obj["kind"] == "Service":
                    found += self._endpoints(obj)
            elif service.kind == "Deployment":
                found += self._deployment(obj, service)
            else:
                found += self._set(obj, service)
        return found

    def age(self, *names: object, least: float, most: float) -> float:
        """When something was made, in Unix seconds: between `least` and `most` days before the world's start."""
        return float(int(self.world.start - _DAY * (least + (most - least) * noise.one(self.world.seed, "age", *names))))

    def uid(self, kind: str, namespace: str, name: str) -> str:
        """The uid of an object: the same whenever the same world is made."""
        return str(uuid.UUID(bytes=hashlib.sha256(f"{self.world.seed}/{kind}/{namespace}/{name}".encode()).digest()[:16], version=4))

    # --- what users applied -----------------------------------------------------------------------------------------------------------

    def _settled(self, obj: Object) -> Object:
        """An object with its uid, its time, and the status that controllers have given it."""
        kind, metadata = obj["kind"], dict(obj["metadata"])
        obj["metadata"] = metadata  # a copy: others share it
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        if kind in ("Namespace", "CustomResourceDefinition", "StorageClass", "IngressClass"):
            made = self.age(kind, least=_AGE_DAYS - 1, most=_AGE_DAYS)
        else:
            made = self.age(namespace, metadata.get("labels", {}).get("app", ""), least=90, most=_AGE_DAYS - 20)
        metadata |= {"uid": self.uid(kind, namespace, name), "creationTimestamp": stamp(made)}
        if kind == "PersistentVolume":
            reference = obj["spec"]["claimRef"]
            reference["uid"] = self.uid("PersistentVolumeClaim", reference["namespace"], reference["name"])
            metadata["annotations"] = {"pv.kubernetes.io/provisioned-by": obj["spec"]["csi"]["driver"]}
            obj["status"] = {"phase": "Bound", "lastPhaseTransitionTime": stamp(made)}
        elif kind == "PersistentVolumeClaim":
            notes = ("pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller")
            metadata["annotations"] = dict.fromkeys(notes, "yes")
            spec = obj["spec"]
            obj["status"] = {"phase": "Bound", "accessModes": spec["accessModes"], "capacity": spec["resources"]["requests"]}
        elif kind == "PodDisruptionBudget":
            obj["status"] = self._budget(obj, made)
        elif kind == "HorizontalPodAutoscaler":
            obj["status"] = self._scaler(obj, made)
        elif kind == "CronJob":
            obj["status"] = _last_run(obj["spec"]["schedule"], self.now)
        return obj

    def _attachment(self, volume: Object) -> Iterator[Object]:
        """That the volume of a running pod is attached to its node."""
        name = volume["spec"]["claimRef"]["name"].removeprefix("data-")
        for _number, pod in self.alive.get(name.rpartition("-")[0], ()):
            if pod.name == name:
                node = self.world.nodes[pod.node].name
                source, driver = {"persistentVolumeName": volume["metadata"]["name"]}, volume["spec"]["csi"]["driver"]
                yield {
                    "apiVersion": "storage.k8s.io/v1",
                    "kind": "VolumeAttachment",
                    "metadata": {
                        "name": attachment_name(volume, node),
                        "creationTimestamp": stamp(pod.started),
                        "finalizers": ["external-attacher/ebs-csi-aws-com"],
                        "annotations": {"csi.alpha.kubernetes.io/node-id": account.instance_id(self.world.nodes[pod.node])},
                    },
                    "spec": {"attacher": driver, "nodeName": node, "source": source},
                    "status": {"attached": True},
                }

    def _workload(self, obj: Object) -> Service | None:
        """The service whose workload an object is."""
        place = self.world.places.get(obj["metadata"]["name"])
        if place is None or obj["kind"] != self.world.services[place].kind:
            return None
        return self.world.services[place] if obj["metadata"].get("namespace") == self.world.services[place].namespace else None

    def _budget(self, obj: Object, made: float) -> Object:
        count = self.world.services[self.world.places[obj["metadata"]["name"]]].replicas
        condition = {"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods", "message": ""}
        return {
            "observedGeneration": 1,
            "currentHealthy": count,
            "desiredHealthy": count - 1,
            "expectedPods": count,
            "disruptionsAllowed": 1,
            "conditions": [condition | {"lastTransitionTime": stamp(made), "observedGeneration": 1}],
        }

    def _scaler(self, obj: Object, made: float) -> Object:
        service = self.world.services[self.world.places[obj["metadata"]["name"]]]
        used = 0.4 + 0.15 * noise.one(self.world.seed, "scaler", service.name)
        current = {"averageUtilization": int(100 * used), "averageValue": f"{1000 * service.cores * used:.0f}m"}
        conditions = (
            ("AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size"),
            (
                "ScalingActive",
                "True",
                "ValidMetricFound",
                "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)",
            ),
            ("ScalingLimited", "False", "DesiredWithinRange", "the desired count is within the acceptable range"),
        )
        return {
            "currentReplicas": service.replicas,
            "desiredReplicas": service.replicas,
            "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": current}}],
            "conditions": [
                {"type": kind, "status": status, "lastTransitionTime": stamp(made), "reason": reason, "message": message}
                for kind, status, reason, message in conditions
            ],
        }

    # --- nodes ------------------------------------------------------------------------------------------------------------------------

    def _node(self, node: Node) -> Object:
        obj = node_object(node)
        made = self.age("node", node.name, least=4, most=24)
        notes = {"node.alpha.kubernetes.io/ttl": "0", "volumes.kubernetes.io/controller-managed-attach-detach": "true"}
        obj["metadata"] |= {"uid": self.uid("Node", "", node.name), "creationTimestamp": stamp(made), "annotations": notes}
        obj["status"] |= {
            "conditions": node_conditions(self.now, since=made + 20),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.kubelet_port}},
        }
        return obj

    def _lease(self, node: Node) -> Object:
        owner = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": self.uid("Node", "", node.name)}
        made = self.age("node", node.name, least=4, most=24)
        metadata = {"name": node.name, "namespace": "kube-node-lease", "ownerReferences": [owner], "creationTimestamp": stamp(made)}
        renewed = datetime.fromtimestamp(self.now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": node.name, "leaseDurationSeconds": 40, "renewTime": renewed}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}

    # --- workloads --------------------------------------------------------------------------------------------------------------------

    @cached_property
    def alive(self) -> dict[str, list[tuple[int, Pod]]]:
        """The pods that are there now, with their numbers, by service. Of a rollout that is not over, those that it will leave."""
        found: dict[str, list[tuple[int, Pod]]] = defaultdict(list)
        for number, pod in enumerate(self.world.pods.listed):
            if pod.removed > self.now and pod.started < self.world.end + 3600:
                found[self.world.services[pod.service].name].append((number, pod))
        return {name: [one for one in pods if one[1].revision == pods[-1][1].revision] for name, pods in found.items()}

    def _owned(self, owner: Object) -> list[Object]:
        metadata = owner["metadata"]
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"], "uid": metadata["uid"]}
        return [reference | {"controller": True, "blockOwnerDeletion": True}]

    def _deployment(self, obj: Object, service: Service) -> Iterator[Object]:
        world, metadata = self.world, obj["metadata"]
        changes = [one for one in world.changes if one.service == service.name and one.kind != "limit" and one.time <= self.now]
        pods = self.alive[service.name]
        revisions = list(dict.fromkeys(pod.revision for pod in world.pods.listed if world.services[pod.service].name == service.name))
        first = noise.name_part(world.seed, service.name, "template", "before", length=10)
        # revision, version, when, why; one from before the world began is first
        history: list[tuple[str, str, float, str]] = [
            (first, _before(service.version), self.age("before", service.name, least=30, most=80), "ci-deployer: Release"),
            (revisions[0], service.version, self.age("release", service.name, least=8, most=22), cause(None, service)),
            *((revision, one.after, one.time, cause(one, service)) for revision, one in zip(revisions[1:], changes, strict=False)),
        ]
        generation = len(changes) + 1
        replicas, new = service.replicas, history[-1]
        at_once = surge(replicas)
        counts = {"replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas}
        metadata["annotations"] = {**metadata["annotations"], _REVISION: str(len(history))}
        metadata["generation"] = generation
        started, rolled = metadata["creationTimestamp"], stamp(min(self.now, new[2] + ROUND_SECONDS * -(-replicas // at_once) + 20))
        available = {"status": "True", "lastUpdateTime": started, "lastTransitionTime": started, "reason": "MinimumReplicasAvailable"}
        done = f'ReplicaSet "{service.name}-{new[0]}" has successfully progressed.'
        progress = {"status": "True", "lastUpdateTime": rolled, "lastTransitionTime": started, "reason": "NewReplicaSetAvailable"}
        obj["status"] = {
            "observedGeneration": generation,
            **counts,
            "terminatingReplicas": 0,
            "conditions": [
                {"type": "Available", **available, "message": "Deployment has minimum availability."},
                {"type": "Progressing", **progress, "message": done},
            ],
        }
        sizes = {
            "deployment.kubernetes.io/desired-replicas": str(replicas),
            "deployment.kubernetes.io/max-replicas": str(replicas + at_once),
        }
        limit = service.cores_limit
        for number, (revision, version, made, why) in enumerate(history, start=1):
            is_new = number == len(history)
            made_template = obj["spec"]["template"] if is_new else template(service, version, limit)
            notes = {**metadata["annotations"], CAUSE: why, _REVISION: str(number), **sizes}
            yield self._replica_set(obj, made_template, revision, made, notes, size=replicas if is_new else 0)
        name = f"{service.name}-{new[0]}"
        above = {"name": name, "uid": self.uid("ReplicaSet", service.namespace, name)}
        owner: Object = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": above}
        for place, pod in pods:
            yield self._pod(
                service, place, pod, obj["spec"]["template"], owner, {_TEMPLATE_HASH: new[0]}, generate=f"{service.name}-{new[0]}-"
            )
        if changes and self.now - changes[-1].time < _EVENTS_SECONDS:
            yield from self._rollout_events(obj, service, changes[-1], [one[0] for one in history[-2:]])

    def _replica_set(self, owner: Object, made_template: Object, revision: str, made: float, notes: dict[str, str], *, size: int) -> Object:
        whole = copy.deepcopy(made_template)
        whole["metadata"]["labels"][_TEMPLATE_HASH] = revision
        namespace, name = owner["metadata"]["namespace"], f"{owner['metadata']['name']}-{revision}"
        selector = {"matchLabels": {**owner["spec"]["selector"]["matchLabels"], _TEMPLATE_HASH: revision}}
        counts = dict.fromkeys(("fullyLabeledReplicas", "readyReplicas", "availableReplicas"), size) if size else {}
        return {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "namespace": namespace,
                "name": name,
                "uid": self.uid("ReplicaSet", namespace, name),
                "creationTimestamp": stamp(made),
                "labels": whole["metadata"]["labels"],
                "annotations": notes,
                "ownerReferences": self._owned(owner),
            },
            "spec": {"replicas": size, "selector": selector, "template": whole},
            "status": {"replicas": size, "terminatingReplicas": 0, **counts, "observedGeneration": 1},
        }

    def _set(self, obj: Object, service: Service) -> Iterator[Object]:
        """What belongs to a StatefulSet or DaemonSet: the revision of its template, and its pods."""
        apply_defaults(f"{service.kind.lower()}s.apps", obj)
        metadata, pods = obj["metadata"], self.alive.get(service.name, [])
        revision = noise.name_part(self.world.seed, service.name, "template", 0, length=10)
        name, daemon = f"{service.name}-{revision}", service.kind == "DaemonSet"
        count = len(pods)
        notes = dict(metadata["annotations"])
        if daemon:
            metadata["annotations"] = notes = {**notes, "deprecated.daemonset.template.generation": "1"}
            numbers = ("currentNumberScheduled", "desiredNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable")
            obj["status"] = {**dict.fromkeys(numbers, count), "numberMisscheduled": 0, "observedGeneration": 1}
            marks = {_REVISION_HASH: revision, "pod-template-generation": "1"}
        else:
            numbers = ("replicas", "readyReplicas", "availableReplicas", "currentReplicas", "updatedReplicas")
            names = {"currentRevision": name, "updateRevision": name}
            obj["status"] = {**dict.fromkeys(numbers, count), **names, "observedGeneration": 1, "collisionCount": 0}
            marks = {_REVISION_HASH: name}
        hashed = {_REVISION_HASH: revision} if daemon else {"controller.kubernetes.io/hash": revision}
        yield {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "namespace": service.namespace,
                "name": name,
                "creationTimestamp": metadata["creationTimestamp"],
                "labels": {**obj["spec"]["template"]["metadata"]["labels"], **hashed},
                "annotations": notes,
                "ownerReferences": self._owned(obj),
            },
            "data": {"spec": {"template": {**copy.deepcopy(obj["spec"]["template"]), "$patch": "replace"}}},
            "revision": 1,
        }
        for place, pod in pods:
            if daemon:
                made = self._pod(service, place, pod, obj["spec"]["template"], obj, marks, generate=f"{service.name}-")
                _on_its_node(made)
            else:
                index = {"statefulset.kubernetes.io/pod-name": pod.name, "apps.kubernetes.io/pod-index": str(pod.ordinal)}
                made = self._pod(service, place, pod, obj["spec"]["template"], obj, marks | index, generate=f"{service.name}-")
                _with_volume(made, bool(service.volume_bytes), service.name)
            yield made

    def _pod(
        self, service: Service, place: int, pod: Pod, made_template: Object, owner: Object, marks: dict[str, str], *, generate: str
    ) -> Object:
        world, node = self.world, self.world.nodes[pod.node]
        begun = [time for time in pod.starts if time <= self.now] or [self.now - 60]
        started, made = stamp(begun[-1]), stamp(min(pod.started, begun[-1]))
        ready = stamp(min(self.now, begun[-1] + _READY_SECONDS))
        uid, address = self.uid("Pod", service.namespace, pod.name), address_of(world, place)
        container = made_template["spec"]["containers"][0]
        kills = [time for time in pod.kills if time <= self.now]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": service.namespace,
                "name": pod.name,
                "generateName": generate,
                "uid": uid,
                "creationTimestamp": made,
                "labels": {**made_template["metadata"]["labels"], **marks},
                "ownerReferences": self._owned(owner),
            },
            "spec": {**copy.deepcopy(made_template["spec"]), "nodeName": node.name},
            "status": {
                "phase": "Running",
                "conditions": [
                    {"type": kind, "status": "True", "observedGeneration": 1, "lastProbeTime": None, "lastTransitionTime": since}
                    for kind, since in (
                        ("PodReadyToStartContainers", made),
                        ("Initialized", made),
                        ("Ready", ready),
                        ("ContainersReady", ready),
                        ("PodScheduled", made),
                    )
                ],
                "observedGeneration": 1,
                "startTime": made,
                "hostIP": node.address,
                "hostIPs": [{"ip": node.address}],
                "podIP": address,
                "podIPs": [{"ip": address}],
                "containerStatuses": [
                    {
                        "name": service.name,
                        "image": container["image"],
                        "imageID": f"{service.image}@sha256:{_digest(container['image'])}",
                        "containerID": f"containerd://{_digest(f'{uid}{service.name}{len(begun)}')}",
                        "ready": True,
                        "started": True,
                        "restartCount": len(kills),
                        "state": {"running": {"startedAt": started}},
                    }
                ],
            },
        }

    def _rollout_events(self, obj: Object, service: Service, change: Change, revisions: list[str]) -> Iterator[Object]:
        """The events of a release that was made a moment ago."""
        old, new = (f"{service.name}-{one}" for one in revisions)
        replicas, at_once = service.replicas, surge(service.replicas)
        for number, before_it in enumerate(range(0, replicas, at_once)):
            time, after_it = min(self.now, change.time + ROUND_SECONDS * number), min(before_it + at_once, replicas)
            for word, name, before, after in (
                ("up", new, before_it, after_it),
                ("down", old, replicas - before_it, replicas - after_it),
            ):
                message = f"Scaled {word} replica set {name} from {before} to {after}"
                yield self._event(obj, "ScalingReplicaSet", message, time, "deployment-controller")

    def _event(self, about: Object, reason: str, message: str, time: float, source: str) -> Object:
        metadata = about["metadata"]
        reference = {"apiVersion": about["apiVersion"], "kind": about["kind"], "namespace": metadata["namespace"], "name": metadata["name"]}
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "namespace": metadata["namespace"],
                "name": f"{metadata['name']}.{_digest(message)[:16]}",
                "creationTimestamp": stamp(time),
            },
            "involvedObject": {**reference, "uid": metadata["uid"]},
            "reason": reason,
            "message": message,
            "type": "Normal",
            "count": 1,
            "firstTimestamp": stamp(time),
            "lastTimestamp": stamp(time),
            "source": {"component": source},
            "reportingComponent": source,
        }

    # --- endpoints --------------------------------------------------------------------------------------------------------------------

    def _endpoints(self, obj: Object) -> Iterator[Object]:
        """A Service's endpoints, both kinds, as their controllers write them."""
        place = self.world.places.get(obj["metadata"]["name"])
        if place is None or self.world.services[place].namespace != obj["metadata"].get("namespace"):
            return
        world, service = self.world, self.world.services[place]
        metadata = obj["metadata"]
        pods = sorted(self.alive.get(service.name, []), key=lambda one: one[1].name)
        headless = {"service.kubernetes.io/headless": ""} if obj["spec"].get("clusterIP") == "None" else {}
        own = {**metadata["labels"], **headless}
        changed = stamp(max([self.age("release", service.name, least=8, most=22), *(self._ready_since(pod) for _number, pod in pods)]))
        port = {"name": "main", "port": service.port, "protocol": "TCP"}
        for number, start in enumerate(range(0, len(pods), 100)):
            yield {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "namespace": service.namespace,
                    "name": f"{service.name}-{noise.name_part(world.seed, 'slice', service.name, number, length=5)}",
                    "generateName": f"{service.name}-",
                    "creationTimestamp": metadata["creationTimestamp"],
                    "labels": {
                        **own,
                        "kubernetes.io/service-name": service.name,
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    },
                    "annotations": {_TRIGGER: changed},
                    "ownerReferences": self._owned(obj),
                },
                "addressType": "IPv4",
                "endpoints": [self._endpoint(service, number, pod) for number, pod in pods[start : start + 100]],
                "ports": [port],
            }
        addresses = [
            {
                "ip": address_of(world, number),
                **({"hostname": pod.name} if service.kind == "StatefulSet" else {}),
                "nodeName": world.nodes[pod.node].name,
                "targetRef": self._reference(service, pod),
            }
            for number, pod in pods[:1000]
        ]
        notes = {_TRIGGER: changed, **({"endpoints.kubernetes.io/over-capacity": "truncated"} if len(pods) > 1000 else {})}
        yield {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "namespace": service.namespace,
                "name": service.name,
                "creationTimestamp": metadata["creationTimestamp"],
                "labels": {**own, "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
                "annotations": notes,
            },
            "subsets": [{"addresses": sorted(addresses, key=lambda one: str(one["ip"])), "ports": [port]}],
        }

    def _ready_since(self, pod: Pod) -> float:
        return min(self.now, max([time for time in pod.starts if time <= self.now] or [self.now]) + _READY_SECONDS)

    def _endpoint(self, service: Service, number: int, pod: Pod) -> Object:
        node = self.world.nodes[pod.node]
        return {
            "addresses": [address_of(self.world, number)],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": self._reference(service, pod),
            **({"hostname": pod.name} if service.kind == "StatefulSet" else {}),
            "nodeName": node.name,
            "zone": node.zone,
        }

    def _reference(self, service: Service, pod: Pod) -> Object:
        return {"kind": "Pod", "namespace": service.namespace, "name": pod.name, "uid": self.uid("Pod", service.namespace, pod.name)}


def _last_run(schedule: str, now: float) -> Object:
    """The status of a CronJob whose jobs have all worked and are gone: its schedule is at a minute of each hour, or of one hour a day."""
    minute, hour = schedule.split()[:2]
    step, into = (3600, 60 * int(minute)) if hour == "*" else (86400, 3600 * int(hour) + 60 * int(minute))
    last = (now - into) // step * step + into
    return {"lastScheduleTime": stamp(last), "lastSuccessfulTime": stamp(min(now, last + 8))}


def _before(version: str) -> str:
    """The version before one of the form 1.2.3."""
    major, minor, patch = (int(part) for part in f"{version}.0".split(".")[:3])
    older = f"{major}.{minor}.{patch - 1}" if patch else f"{major}.{minor - 1}.0" if minor else f"{major - 1}.9.0"
    return older if version.count(".") == 2 else older.rpartition(".")[0]


def _on_its_node(pod: Object) -> None:
    """What the DaemonSet's controller gives its pods: tolerations, and a node."""
    spec = pod["spec"]
    spec["tolerations"] = [*spec.get("tolerations", []), *(dict(one) for one in _TAINTS_ALLOWED)]
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [spec["nodeName"]]}]}]
    spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _with_volume(pod: Object, has_volume: bool, service: str) -> None:
    """What the StatefulSet's controller gives its pods: a name in DNS, and a volume."""
    name = pod["metadata"]["name"]
    pod["spec"] |= {"hostname": name, "subdomain": service}
    if has_volume:
        pod["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-{name}"}}, *pod["spec"].get("volumes", [])]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
