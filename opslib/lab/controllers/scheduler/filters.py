"""Why a pod cannot go to a node, in the real scheduler's words and in the order in which it asks.

Each filter answers the reasons (none: it may), and whether ending other pods could help. The texts are those of
pkg/scheduler/framework/plugins of Kubernetes; diagnosis depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from opslib.lab.api import Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import annotations_of, from_object, is_deleted, labels_of, name_of, namespace_of
from opslib.lab.controllers.scheduler.nodes import NodeInfo, PodInfo, collide, in_namespaces
from opslib.lab.controllers.volumes import class_of


class Verdict(NamedTuple):
    """Why not. `final`: ending pods would not help. `plugin` says which changes can help."""

    reasons: tuple[str, ...]
    final: bool
    plugin: str


class Refused(Exception):
    """No node can take the pod, whatever it is like."""

    def __init__(self, message: str, plugin: str) -> None:
        super().__init__(message)
        self.message = message
        self.plugin = plugin


# --- nodes ------------------------------------------------------------------------------------------------------------------------------


def tolerates(tolerations: Iterable[Object], taint: Object) -> bool:
    """Whether one of the tolerations is about this taint."""
    for one in tolerations:
        if one.get("effect") and one["effect"] != taint["effect"]:
            continue
        if one.get("key") and one["key"] != taint["key"]:
            continue
        if one.get("operator", "Equal") == "Exists" or (one.get("key") and one.get("value", "") == taint.get("value", "")):
            return True
    return False


def selects(node: Object, spec: Object) -> bool:
    """Whether a pod's node selector and required node affinity allow the node."""
    labels = labels_of(node)
    if any(labels.get(name) != value for name, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    return affinity is None or any(term_matches(node, term) for term in affinity.get("nodeSelectorTerms") or ())


def term_matches(node: Object, term: Object) -> bool:
    """Whether a node selector term fits a node; an empty one fits none."""
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    labels, names = labels_of(node), {"metadata.name": name_of(node)}
    return all(_expression(labels, one) for one in expressions) and all(_expression(names, one) for one in fields)


def _expression(labels: Mapping[str, str], one: Object) -> bool:
    key, operator, values = one["key"], one["operator"], one.get("values") or []
    there = labels.get(key)
    if operator in ("Gt", "Lt"):
        try:
            number, limit = int(there or ""), int(values[0])
        except ValueError:
            return False
        return number > limit if operator == "Gt" else number < limit
    return {
        "In": there in values,
        "NotIn": there not in values,
        "Exists": there is not None,
        "DoesNotExist": there is None,
    }[operator]


# --- one pod's question -----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Question:
    """Everything about one pod that is the same for all nodes; `prepare` fills it in."""

    cluster: Cluster
    info: PodInfo
    nodes: list[NodeInfo]
    namespace_labels: dict[str, dict[str, str]]
    only: frozenset[str] | None = None
    bound: list[Object] = field(default_factory=list)  # volumes of claims that have one
    waiting: list[Object] = field(default_factory=list)  # claims that wait for the pod's node
    near: list[Term] = field(default_factory=list)
    away: list[Term] = field(default_factory=list)
    spread: list[Spread] = field(default_factory=list)
    existing_places: dict[tuple[str, str], int] = field(default_factory=dict)  # where other pods want this one away

    @property
    def pod(self) -> Object:
        """The pod."""
        return self.info.pod

    @property
    def spec(self) -> Object:
        """Its spec."""
        spec: Object = self.info.pod["spec"]
        return spec


@dataclass(slots=True)
class Term:
    """An affinity term, and how many pods it is about in each place."""

    key: str
    namespaces: frozenset[str]
    matches: Callable[[Mapping[str, str]], bool]
    places: dict[str, int] = field(default_factory=dict)
    itself: bool = False

    def is_about(self, pod: Object) -> bool:
        """Whether the term means this pod."""
        return namespace_of(pod) in self.namespaces and self.matches(labels_of(pod))


@dataclass(slots=True)
class Spread:
    """A topology spread constraint, and how many pods are in each place."""

    key: str
    skew: int
    hard: bool
    least_domains: int
    matches: Callable[[Mapping[str, str]], bool]
    honors_affinity: bool
    honors_taints: bool
    itself: bool
    places: dict[str, int] = field(default_factory=dict)


def prepare(cluster: Cluster, info: PodInfo, nodes: list[NodeInfo]) -> Question:
    """Ask what is the same for all nodes.

    Raises
    ------
    Refused
        A volume claim is not there, or not in a state in which any node could take the pod.
    """
    labels = {name_of(one): labels_of(one) for one in cluster["namespaces"].list()}
    question = Question(cluster, info, nodes, labels)
    question.only = _named_nodes(question.spec)
    _claims(question)
    question.spread = [_spread(question, one) for one in question.spec.get("topologySpreadConstraints") or ()]
    question.near = [_term(question, one) for one in info.required]
    question.away = [_term(question, one) for one in info.required_anti]
    _count(question)
    return question


def _named_nodes(spec: Object) -> frozenset[str] | None:
    """The nodes that a pod names (as a daemon set's pods do); None where it does not."""
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution")
    if affinity is None:
        return None
    names: set[str] = set()
    for term in affinity.get("nodeSelectorTerms") or ():
        fields = [one for one in term.get("matchFields") or () if one["key"] == "metadata.name" and one["operator"] == "In"]
        if not fields:
            return None
        wanted = set(fields[0]["values"])
        for one in fields[1:]:
            wanted &= set(one["values"])
        names |= wanted
    return frozenset(names)


def _claims(question: Question) -> None:
    cluster, pod = question.cluster, question.pod
    immediate = False
    for name in question.info.claims:
        claim = cluster["persistentvolumeclaims"].get(namespace_of(pod), name)
        if claim is None:
            ephemeral = any(f"{name_of(pod)}-{one['name']}" == name for one in question.spec.get("volumes") or () if one.get("ephemeral"))
            start = "waiting for ephemeral volume controller to create the persistentvolumeclaim" if ephemeral else "persistentvolumeclaim"
            raise Refused(f'{start} "{name}"' + ("" if ephemeral else " not found"), "VolumeBinding")
        if claim.get("status", {}).get("phase") == "Lost":
            volume = claim["spec"].get("volumeName", "")
            raise Refused(f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"', "VolumeBinding")
        if is_deleted(claim):
            raise Refused(f'persistentvolumeclaim "{name}" is being deleted', "VolumeBinding")
        if is_bound(claim):
            volume_object = cluster["persistentvolumes"].get("", claim["spec"]["volumeName"])
            question.bound.append(volume_object if volume_object is not None else {})
        elif is_delayed(cluster, claim):
            question.waiting.append(claim)
        else:
            immediate = True
    if immediate:
        raise Refused("pod has unbound immediate PersistentVolumeClaims", "VolumeBinding")


def is_bound(claim: Object) -> bool:
    """Whether a claim has its volume, and both know of it."""
    return bool(claim["spec"].get("volumeName")) and "pv.kubernetes.io/bind-completed" in annotations_of(claim)


def is_delayed(cluster: Cluster, claim: Object) -> bool:
    """Whether a claim waits until its first pod has a node."""
    found = cluster["storageclasses.storage.k8s.io"].get("", class_of(claim))
    return found is not None and found.get("volumeBindingMode") == "WaitForFirstConsumer"


def _term(question: Question, term: Object) -> Term:
    made = Term(
        term["topologyKey"],
        in_namespaces(term, question.pod, question.namespace_labels),
        from_object(_with_keys(term.get("labelSelector"), question.pod, term.get("matchLabelKeys"))),
    )
    made.itself = made.is_about(question.pod)
    return made


def _with_keys(selector: Object | None, pod: Object, keys: Iterable[str] | None) -> Object | None:
    """A selector narrowed to the pod's own values of some labels."""
    if selector is None or not keys:
        return selector
    labels = labels_of(pod)
    added = [{"key": key, "operator": "In", "values": [labels[key]]} for key in keys if key in labels]
    return {**selector, "matchExpressions": [*(selector.get("matchExpressions") or []), *added]}


def _spread(question: Question, one: Object) -> Spread:
    matches = from_object(_with_keys(one.get("labelSelector"), question.pod, one.get("matchLabelKeys")))
    return Spread(
        one["topologyKey"],
        one["maxSkew"],
        one["whenUnsatisfiable"] == "DoNotSchedule",
        one.get("minDomains") or 1,
        matches,
        one.get("nodeAffinityPolicy", "Honor") == "Honor",
        one.get("nodeTaintsPolicy", "Ignore") == "Honor",
        matches(labels_of(question.pod)),
    )


def _count(question: Question) -> None:
    """Count the pods that the terms and constraints are about, place by place."""
    terms = [*question.near, *question.away]
    keys = {one.key for one in question.spread if one.hard}
    for info in question.nodes:
        labels = info.labels
        for term in terms:
            place = labels.get(term.key)
            if place is not None:
                term.places[place] = term.places.get(place, 0) + sum(term.is_about(other.pod) for other in info.pods.values())
        # a node counts where it has all the constraints' keys
        for constraint in question.spread:
            place = labels.get(constraint.key)
            if place is None or (constraint.hard and not keys <= labels.keys()) or not counts_node(question, constraint, info):
                continue
            number = sum(
                namespace_of(other.pod) == namespace_of(question.pod)
                and not is_deleted(other.pod)
                and constraint.matches(labels_of(other.pod))
                for other in info.pods.values()
            )
            constraint.places[place] = constraint.places.get(place, 0) + number
        for other in info.anti.values():
            for term_object in other.required_anti:
                place = labels.get(term_object["topologyKey"])
                if place is not None and _is_about(question, other.pod, term_object):
                    spot = (term_object["topologyKey"], place)
                    question.existing_places[spot] = question.existing_places.get(spot, 0) + 1


def counts_node(question: Question, constraint: Spread, info: NodeInfo) -> bool:
    """Whether a constraint heeds a node."""
    if constraint.honors_affinity and not selects(info.node, question.spec):
        return False
    tolerations = question.spec.get("tolerations") or ()
    taints = info.node["spec"].get("taints") or ()
    return not constraint.honors_taints or all(
        tolerates(tolerations, taint) for taint in taints if taint["effect"] in ("NoSchedule", "NoExecute")
    )


def _is_about(question: Question, other: Object, term: Object) -> bool:
    namespaces = in_namespaces(term, other, question.namespace_labels)
    return namespace_of(question.pod) in namespaces and from_object(term.get("labelSelector"))(labels_of(question.pod))


# --- the filters, in order --------------------------------------------------------------------------------------------------------------


def _unschedulable(question: Question, info: NodeInfo) -> Verdict | None:
    taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if info.node["spec"].get("unschedulable") and not tolerates(question.spec.get("tolerations") or (), taint):
        return Verdict(("node(s) were unschedulable",), True, "node")
    return None


def _taints(question: Question, info: NodeInfo) -> Verdict | None:
    tolerations = question.spec.get("tolerations") or ()
    for taint in info.node["spec"].get("taints") or ():
        if taint["effect"] in ("NoSchedule", "NoExecute") and not tolerates(tolerations, taint):
            return Verdict(("node(s) had untolerated taint(s)",), True, "node")
    return None


def _affinity(question: Question, info: NodeInfo) -> Verdict | None:
    if not selects(info.node, question.spec):
        return Verdict(("node(s) didn't match Pod's node affinity/selector",), True, "node")
    return None


def _ports(question: Question, info: NodeInfo) -> Verdict | None:
    if question.info.ports and collide(question.info.ports, frozenset(info.ports)):
        return Verdict(("node(s) didn't have free ports for the requested pod ports",), False, "pods")
    return None


def _fit(question: Question, info: NodeInfo) -> Verdict | None:
    reasons, final = [], False
    allocatable = info.allocatable
    if len(info.pods) + 1 > allocatable.get("pods", 0):
        reasons.append("Too many pods")
    requests = question.info.requests
    order = sorted(requests, key=lambda name: {"cpu": 0, "memory": 1, "ephemeral-storage": 2}.get(name, 3))
    for name in order:
        wanted = requests[name]
        most = allocatable.get(name, 0)
        if wanted and wanted > most - info.requested.get(name, 0):
            reasons.append(f"Insufficient {name}")
            final = final or wanted > most
    return Verdict(tuple(reasons), final, "count" if "Too many pods" in reasons else "pods") if reasons else None


def _volumes(question: Question, info: NodeInfo) -> Verdict | None:
    if any(not volume for volume in question.bound):
        return Verdict(("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",), True, "volumes")
    for volume in question.bound:
        if not volume_allows(volume, info.node):
            return Verdict(("node(s) didn't match PersistentVolume's node affinity",), True, "volumes")
    if question.waiting:
        from opslib.lab.controllers.scheduler.claims import can_be_had

        if not can_be_had(question.cluster, question.waiting, info.node):
            return Verdict(("node(s) didn't find available persistent volumes to bind",), True, "volumes")
    zones = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/zone")
    for volume in question.bound:
        for key in zones:
            wanted = labels_of(volume).get(key)
            if wanted is not None and key in info.labels and info.labels[key] not in wanted.split("__"):
                return Verdict(("node(s) had no available volume zone",), True, "volumes")
    return None


def volume_allows(volume: Object, node: Object) -> bool:
    """Whether a volume can be used on a node."""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required")
    return required is None or any(term_matches(node, term) for term in required["nodeSelectorTerms"])


def _volume_limits(question: Question, info: NodeInfo) -> Verdict | None:
    csi = question.cluster["csinodes.storage.k8s.io"].get("", info.name)
    drivers = (csi or {}).get("spec", {}).get("drivers") or ()
    limits = {one["name"]: one["allocatable"]["count"] for one in drivers if (one.get("allocatable") or {}).get("count") is not None}
    if not limits or not question.info.claims:
        return None
    wanted = _handles(question.cluster, [question.info], limits)
    there = _handles(question.cluster, info.pods.values(), limits)
    for driver, limit in limits.items():
        new = wanted.get(driver, set()) - there.get(driver, set())
        if new and len(there.get(driver, set())) + len(new) > limit:
            return Verdict(("node(s) exceed max volume count",), False, "pods")
    return None


def _handles(cluster: Cluster, pods: Iterable[PodInfo], drivers: Mapping[str, int]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for info in pods:
        for name in info.claims:
            claim = cluster["persistentvolumeclaims"].get(namespace_of(info.pod), name)
            volume = cluster["persistentvolumes"].get("", (claim or {}).get("spec", {}).get("volumeName", ""))
            csi = (volume or {}).get("spec", {}).get("csi")
            if csi and csi["driver"] in drivers:
                found.setdefault(csi["driver"], set()).add(csi["volumeHandle"])
    return found


def _spreads(question: Question, info: NodeInfo) -> Verdict | None:
    text = "node(s) didn't match pod topology spread constraints"
    for one in question.spread:
        if not one.hard:
            continue
        place = info.labels.get(one.key)
        if place is None:
            return Verdict((f"{text} (missing required label)",), True, "spread")
        least = min(one.places.values(), default=0) if len(one.places) >= one.least_domains else 0
        if one.places.get(place, 0) + one.itself - least > one.skew:
            return Verdict((text,), False, "spread")
    return None


def _pods(question: Question, info: NodeInfo) -> Verdict | None:
    labels = info.labels
    if question.near:
        if any(one.key not in labels for one in question.near):
            return Verdict(("node(s) didn't match pod affinity rules",), True, "affinity")
        missing = any(not one.places.get(labels[one.key]) for one in question.near)
        # the first of a group that wants to stand together may stand anywhere
        first = not any(any(one.places.values()) for one in question.near) and all(one.itself for one in question.near)
        if missing and not first:
            return Verdict(("node(s) didn't match pod affinity rules",), True, "affinity")
    if any(one.key in labels and one.places.get(labels[one.key]) for one in question.away):
        return Verdict(("node(s) didn't match pod anti-affinity rules",), False, "affinity")
    if any(labels.get(key) == place for (key, place), count in question.existing_places.items() if count):
        return Verdict(("node(s) didn't satisfy existing pods anti-affinity rules",), False, "affinity")
    return None


FILTERS: tuple[Callable[[Question, NodeInfo], Verdict | None], ...] = (
    _unschedulable,
    _taints,
    _affinity,
    _ports,
    _fit,
    _volume_limits,
    _volumes,
    _spreads,
    _pods,
)


def refuses(question: Question, info: NodeInfo) -> Verdict | None:
    """Why the node cannot take the pod; None where it can."""
    for one in FILTERS:
        verdict = one(question, info)
        if verdict is not None:
            return verdict
    return None


def without(question: Question, info: NodeInfo, uids: Iterable[str]) -> tuple[Question, NodeInfo]:
    """The same question where some pods of a node have ended."""
    trial = info.copy()
    for uid in uids:
        trial.remove(uid)
    nodes = [trial if one.name == info.name else one for one in question.nodes]
    return prepare(question.cluster, question.info, nodes), trial
