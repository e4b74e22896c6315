"""Which nodes would take a pod: the scheduler's filters, over what is known of nodes, pods and volumes.

Filters as kube-scheduler's default plugins have them (https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins):
NodeUnschedulable, TaintToleration, NodeAffinity, NodeResourcesFit, NodePorts, VolumeZone, InterPodAffinity (required terms) and
PodTopologySpread (DoNotSchedule). Not looked at: preferences, preemption, namespace selectors of affinity terms, how many volumes a node
may have, other schedulers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from opslib.messages import Message, _
from opslib.sources.objects import Node, PersistentVolume, Pod, PodSpec, Taint, Toleration
from opslib.sources.quantities import value_of

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
_OLD_ZONE = "failure-domain.beta.kubernetes.io/zone"
CORDONED = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
"""What a pod must tolerate to be put on a cordoned node."""


class PlacedSpec(PodSpec):
    """A pod's spec with what scheduling alone looks at."""

    priority: int = 0
    overhead: dict[str, str | int | float] = {}


class PlacedPod(Pod):
    """A pod as far as it takes room on a node."""

    spec: PlacedSpec = msgspec.field(default_factory=PlacedSpec)


def requests_of(pod: PlacedPod, *, limits: bool = False) -> dict[str, float]:
    """What a pod takes of a node by resource (cores, bytes, pieces), or its limits.

    The greater of what its containers ask for together and what any init container asks for beside the sidecars started before it, and its
    overhead (https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers). One "pods" is in it.
    """
    total: dict[str, float] = defaultdict(float)
    sidecars: dict[str, float] = defaultdict(float)
    peak: dict[str, float] = {}
    for one in pod.spec.init_containers:
        asked = one.resources.limits if limits else one.resources.requests
        for name, quantity in asked.items():
            value = value_of(quantity) or 0.0
            if one.restart_policy == "Always":
                sidecars[name] += value
                value = 0.0
            peak[name] = max(peak.get(name, 0.0), sidecars[name] + value)
    for one in pod.spec.containers:
        for name, quantity in (one.resources.limits if limits else one.resources.requests).items():
            total[name] += value_of(quantity) or 0.0
    names = {*total, *sidecars, *peak, *pod.spec.overhead}
    found = {
        name: max(total.get(name, 0.0) + sidecars.get(name, 0.0), peak.get(name, 0.0)) + (value_of(pod.spec.overhead.get(name)) or 0.0)
        for name in names
    }
    return {**found, "pods": 1.0}


def is_ended(pod: Pod) -> bool:
    """Whether a pod takes no room any more."""
    return pod.status.phase in ("Succeeded", "Failed")


def zone_of(node: Node) -> str:
    """A node's zone; empty where it has none."""
    return node.metadata.labels.get(ZONE) or node.metadata.labels.get(_OLD_ZONE, "")


def tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    """Whether one of the tolerations covers a taint."""
    return any(
        (not one.effect or one.effect == taint.effect)
        and (
            (one.operator == "Exists" and one.key in ("", taint.key))
            or (one.operator in ("", "Equal") and one.key == taint.key and one.value == taint.value)
        )
        for one in tolerations
    )


def matches(pod: Pod, node: Node) -> bool:
    """Whether a node has the labels that a pod's nodeSelector and required node affinity ask for."""
    if not pod.spec.node_selector.items() <= node.metadata.labels.items():
        return False
    required = _of(_of(pod.spec.affinity, "nodeAffinity"), "requiredDuringSchedulingIgnoredDuringExecution")
    return _any_term(required, node)


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (matchLabels and matchExpressions) takes an object with these labels; an empty one takes all, None none."""
    if selector is None:
        return False
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    return all(_holds(one, labels) for one in selector.get("matchExpressions") or ())


class Room:
    """Nodes with what is on them, to ask what would fit beside it."""

    def __init__(self, nodes: Iterable[Node], pods: Iterable[PlacedPod], volumes: Iterable[PersistentVolume] = ()) -> None:
        self.nodes = {node.metadata.name: node for node in nodes}
        self.pods: dict[str, list[PlacedPod]] = {name: [] for name in self.nodes}
        self.taken: dict[str, dict[str, float]] = {name: defaultdict(float) for name in self.nodes}
        self._allocatable = {
            name: {resource: value_of(quantity) or 0.0 for resource, quantity in node.status.allocatable.items()}
            for name, node in self.nodes.items()
        }
        self._volumes = {(one.spec.claim_ref.namespace, one.spec.claim_ref.name): one for one in volumes if one.spec.claim_ref}
        for pod in pods:
            if pod.spec.node_name in self.nodes and not is_ended(pod):
                self.put(pod, pod.spec.node_name)

    def put(self, pod: PlacedPod, node: str) -> None:
        """A pod takes its room on a node."""
        self.pods[node].append(pod)
        self.take(node, requests_of(pod))

    def take(self, node: str, amounts: Mapping[str, float]) -> None:
        """Some of a node's resources are taken, by whatever it is."""
        for name, value in amounts.items():
            self.taken[node][name] += value

    def allocatable(self, node: str, resource: str) -> float | None:
        """What a node has for pods; None where it does not say."""
        return self._allocatable[node].get(resource)

    def free(self, node: str, resource: str) -> float | None:
        """What is left of it; None where the node does not say what it has."""
        whole = self.allocatable(node, resource)
        return None if whole is None else whole - self.taken[node][resource]

    def where(self, pod: PlacedPod, *, without: Iterable[str] = ()) -> list[str]:
        """The nodes that would take a pod, most free first."""
        left_out = set(without)
        fitting = [name for name in self.nodes if name not in left_out and self.why_not(pod, name) is None]
        return sorted(fitting, key=lambda name: (-(self.free(name, "cpu") or 0.0), name))

    def how_many(self, pod: PlacedPod, node: str) -> int:
        """How many such pods a node would take; rules about other pods are not looked at."""
        if self.why_not(pod, node, others=False) is not None:
            return 0
        room = [free / value for name, value in requests_of(pod).items() if value > 0 and (free := self.free(node, name)) is not None]
        return min([1 if _ports(pod) else math.inf, *(math.floor(one + 1e-9) for one in room)])  # type: ignore[return-value]

    def place(self, pods: Iterable[PlacedPod], *, without: Iterable[str] = ()) -> Iterator[str | None]:
        """Where each of some pods would fit once those before it are there; None for one that fits nowhere."""
        left_out = list(without)
        for pod in pods:
            node = next(iter(self.where(pod, without=left_out)), None)
            if node is not None:
                self.put(pod, node)
            yield node

    def why_nowhere(self, pod: PlacedPod, *, without: Iterable[str] = ()) -> list[Message]:
        """What keeps a pod off the nodes, each reason once; nothing where there is no node."""
        left_out = set(without)
        reasons = {str(why): why for name in self.nodes if name not in left_out and (why := self.why_not(pod, name)) is not None}
        return list(reasons.values())

    def why_not(self, pod: PlacedPod, name: str, *, others: bool = True) -> Message | None:
        """Why a node does not take a pod; None where it does. Without `others`, rules about other pods are not looked at."""
        node = self.nodes[name]
        if node.spec.unschedulable and not tolerates(pod.spec.tolerations, CORDONED):
            return _("cordoned")
        for taint in node.spec.taints:
            if taint.effect in ("NoSchedule", "NoExecute") and not tolerates(pod.spec.tolerations, taint):
                return _("taint {taint}", taint=taint.key)
        if not matches(pod, node):
            return _("labels")
        for resource, value in sorted(requests_of(pod).items()):
            free = self.free(name, resource)
            if value > 0 and (free is None or value > free + 1e-9):
                if free is None and not node.status.allocatable:
                    continue  # a node that says nothing of itself
                return _("too little {resource}", resource=resource)
        return (
            self._why_not_of_ports(pod, name)
            or self._why_not_of_volumes(pod, node)
            or (self._why_not_beside(pod, node) if others else None)
        )

    def _why_not_of_ports(self, pod: PlacedPod, name: str) -> Message | None:
        wanted = _ports(pod)
        return _("host port") if wanted and any(wanted & _ports(one) for one in self.pods[name]) else None

    def _why_not_of_volumes(self, pod: PlacedPod, node: Node) -> Message | None:
        for one in pod.spec.volumes:
            claim = one.persistent_volume_claim
            volume = self._volumes.get((pod.metadata.namespace, claim.claim_name)) if claim else None
            if volume and volume.spec.node_affinity and not _any_term(_of(volume.spec.node_affinity, "required"), node):
                return _("volume of another zone or node")
        return None

    def _why_not_beside(self, pod: PlacedPod, node: Node) -> Message | None:
        required = "requiredDuringSchedulingIgnoredDuringExecution"
        for term in _list(_of(pod.spec.affinity, "podAntiAffinity"), required):
            if self._near(term, pod, node):
                return _("anti-affinity")
        for term in _list(_of(pod.spec.affinity, "podAffinity"), required):
            # the first of a group that wants to be together may go anywhere
            first = _takes(term, pod, pod) and not any(_takes(term, pod, one) for pods in self.pods.values() for one in pods)
            if not first and not self._near(term, pod, node):
                return _("affinity")
        for constraint in pod.spec.topology_spread_constraints:
            if constraint.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule" and not self._spreads(constraint, pod, node):
                return _("spread over zones or nodes")
        return None

    def _near(self, term: Mapping[str, Any], pod: PlacedPod, node: Node) -> bool:
        key = str(term.get("topologyKey", ""))
        domain = node.metadata.labels.get(key)
        return domain is not None and any(
            _takes(term, pod, one)
            for name, other in self.nodes.items()
            if other.metadata.labels.get(key) == domain
            for one in self.pods[name]
        )

    def _spreads(self, constraint: Mapping[str, Any], pod: PlacedPod, node: Node) -> bool:
        key, selector = str(constraint.get("topologyKey", "")), constraint.get("labelSelector")
        if key not in node.metadata.labels:
            return False
        counts: dict[str, int] = {}
        for name, other in self.nodes.items():
            domain = other.metadata.labels.get(key)
            if domain is not None and matches(pod, other):
                alike = [one for one in self.pods[name] if one.metadata.namespace == pod.metadata.namespace]
                counts[domain] = counts.get(domain, 0) + sum(selects(selector, one.metadata.labels) for one in alike)
        here = counts.get(node.metadata.labels[key], 0) + selects(selector, pod.metadata.labels)
        return here - min(counts.values(), default=0) <= int(constraint.get("maxSkew", 1))


def _takes(term: Mapping[str, Any], pod: PlacedPod, other: PlacedPod) -> bool:
    namespaces = term.get("namespaces") or [pod.metadata.namespace]
    return other.metadata.namespace in namespaces and selects(term.get("labelSelector"), other.metadata.labels)


def _ports(pod: PlacedPod) -> set[tuple[int, str]]:
    return {(port.host_port, port.protocol) for one in pod.spec.containers for port in one.ports if port.host_port}


def _any_term(required: Mapping[str, Any], node: Node) -> bool:
    """Whether a node is taken by one of a node selector's terms; one without terms takes all."""
    terms = required.get("nodeSelectorTerms") or []
    fields = {"metadata.name": node.metadata.name}
    return not terms or any(
        all(_holds(item, node.metadata.labels) for item in term.get("matchExpressions") or ())
        and all(_holds(item, fields) for item in term.get("matchFields") or ())
        for term in terms
    )


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(str(expression.get("key", ""))), [str(item) for item in expression.get("values") or ()]
    operator = expression.get("operator")
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    if operator in ("Exists", "DoesNotExist"):
        return bool((value is not None) == (operator == "Exists"))
    if operator in ("Gt", "Lt") and value is not None and len(values) == 1:
        try:
            return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])
        except ValueError:
            return False
    return False


def _of(value: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    found = (value or {}).get(name)
    return found if isinstance(found, Mapping) else {}


def _list(value: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return [one for one in value.get(name) or () if isinstance(one, Mapping)]
