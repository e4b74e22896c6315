"""Which of the nodes that can take a pod is the best: the default plugins' scores, 0 to 100 each, by their default weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

from opslib.lab.controllers.objects import controller_of, from_object, is_deleted, labels_of, namespace_of
from opslib.lab.controllers.scheduler.filters import Question, Spread, counts_node, term_matches, tolerates
from opslib.lab.controllers.scheduler.nodes import NodeInfo, in_namespaces

_Scores = dict[str, float]


def best(question: Question, nodes: list[NodeInfo]) -> NodeInfo:
    """The best of the nodes. Of equal ones the one with the fewest pods, then the first by name: the real scheduler throws dice."""
    if len(nodes) == 1:
        return nodes[0]
    total: _Scores = {one.name: 0.0 for one in nodes}
    for weight, scores in (
        (3, _taints(question, nodes)),
        (2, _node_affinity(question, nodes)),
        (1, {one.name: _least_allocated(question, one) for one in nodes}),
        (1, {one.name: _balanced(question, one) for one in nodes}),
        (2, _spread(question, nodes)),
        (2, _pod_affinity(question, nodes)),
    ):
        for name, score in scores.items():
            total[name] += weight * math.floor(score)
    return min(nodes, key=lambda one: (-total[one.name], len(one.pods), one.name))


def _normalized(raw: Mapping[str, float], *, reverse: bool = False) -> _Scores:
    most = max(raw.values(), default=0)
    if most == 0:
        return dict.fromkeys(raw, 100.0 if reverse else 0.0)
    return {name: 100 - 100 * value / most if reverse else 100 * value / most for name, value in raw.items()}


def _taints(question: Question, nodes: list[NodeInfo]) -> _Scores:
    tolerations = [one for one in question.spec.get("tolerations") or () if one.get("effect") in (None, "", "PreferNoSchedule")]
    raw = {
        one.name: float(
            sum(
                taint["effect"] == "PreferNoSchedule" and not tolerates(tolerations, taint)
                for taint in one.node["spec"].get("taints") or ()
            )
        )
        for one in nodes
    }
    return _normalized(raw, reverse=True)


def _node_affinity(question: Question, nodes: list[NodeInfo]) -> _Scores:
    affinity = (question.spec.get("affinity") or {}).get("nodeAffinity") or {}
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    raw = {one.name: float(sum(term["weight"] for term in preferred if term_matches(one.node, term["preference"]))) for one in nodes}
    return _normalized(raw)


def _used(question: Question, info: NodeInfo) -> list[float]:
    allocatable = info.allocatable
    shares = []
    for place, name in enumerate(("cpu", "memory")):
        most = allocatable.get(name, 0)
        if most:
            shares.append(min(1.0, (info.used[place] + question.info.cpu_and_memory[place]) / most))
    return shares


def _least_allocated(question: Question, info: NodeInfo) -> float:
    shares = _used(question, info)
    return sum(math.floor(100 * (1 - share)) for share in shares) / len(shares) if shares else 0.0


def _balanced(question: Question, info: NodeInfo) -> float:
    allocatable = info.allocatable
    shares = [
        min(1.0, (info.requested.get(name, 0) + question.info.requests.get(name, 0)) / allocatable[name])
        for name in ("cpu", "memory")
        if allocatable.get(name)
    ]
    return 100 * (1 - abs(shares[0] - shares[1]) / 2) if len(shares) == 2 else 100.0


def _spread(question: Question, nodes: list[NodeInfo]) -> _Scores:
    soft = [one for one in question.spread if not one.hard]
    if not question.spec.get("topologySpreadConstraints"):
        soft = _defaults(question)
    if not soft:
        return {}
    raw: dict[str, float] = {}
    for info in nodes:
        if all(one.key in info.labels for one in soft):
            raw[info.name] = sum(one.places.get(info.labels[one.key], 0) * math.log(len(one.places) + 2) + one.skew - 1 for one in soft)
    if not raw:
        return {}
    most, least = max(raw.values()), min(raw.values())
    return {name: 100 * (most + least - round(value)) / most if most else 100.0 for name, value in raw.items()}


def _defaults(question: Question) -> list[Spread]:
    """Pods of one service or workload are spread over nodes and zones even where nobody asked for it."""
    cluster, pod = question.cluster, question.pod
    labels = labels_of(pod)
    wanted: dict[str, str] = {}
    for service in cluster["services"].list(namespace_of(pod)):
        selector = service["spec"].get("selector") or {}
        if selector and selector.items() <= labels.items():
            wanted |= selector
    owner = controller_of(pod)
    selectors = [from_object({"matchLabels": wanted})] if wanted else []
    if owner is not None:
        resource = {"ReplicaSet": "replicasets.apps", "StatefulSet": "statefulsets.apps"}.get(owner["kind"])
        above = cluster[resource].by_uid(owner["uid"]) if resource is not None else None
        if above is not None:
            selectors.append(from_object(above["spec"]["selector"]))
    if not selectors:
        return []

    def matches(found: Mapping[str, str]) -> bool:
        return all(selector(found) for selector in selectors)

    place = namespace_of(pod)
    numbers = {
        info.name: sum(not is_deleted(other.pod) and matches(labels_of(other.pod)) for other in info.spaces.get(place, {}).values())
        for info in question.nodes
    }
    made = []
    for key, skew in (("kubernetes.io/hostname", 3), ("topology.kubernetes.io/zone", 5)):
        one = Spread(key, skew, False, 1, matches, True, False, True)
        for info in question.nodes:
            where = info.labels.get(key)
            if where is not None and counts_node(question, one, info):
                one.places[where] = one.places.get(where, 0) + numbers[info.name]
        made.append(one)
    return made


def _pod_affinity(question: Question, nodes: list[NodeInfo]) -> _Scores:
    places: dict[tuple[str, str], float] = {}

    def add(key: str, info: NodeInfo, weight: float) -> None:
        place = info.labels.get(key)
        if place is not None:
            places[key, place] = places.get((key, place), 0.0) + weight

    for weight, term in question.info.preferred:
        namespaces = in_namespaces(term, question.pod, question.namespace_labels)
        matches = from_object(term.get("labelSelector"))
        for info in question.nodes:
            count = sum(namespace_of(one.pod) in namespaces and matches(labels_of(one.pod)) for one in info.pods.values())
            add(term["topologyKey"], info, weight * count)
    for info in question.nodes:
        for other in info.anti.values():
            for weight, term in [*other.preferred, *((1, one) for one in other.required)]:
                namespaces = in_namespaces(term, other.pod, question.namespace_labels)
                if namespace_of(question.pod) in namespaces and from_object(term.get("labelSelector"))(labels_of(question.pod)):
                    add(term["topologyKey"], info, weight)
    if not places:
        return {}
    raw = {one.name: sum(weight for (key, place), weight in places.items() if one.labels.get(key) == place) for one in nodes}
    most, least = max(raw.values()), min(raw.values())
    return {name: 100 * (value - least) / (most - least) for name, value in raw.items()} if most > least else {}
