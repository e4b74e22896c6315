"""Plans for nodes: cordon, uncordon, drain, taints.

What a drain takes away and what stops it are `kubectl drain`'s rules (pkg/drain in kubernetes/kubectl): pods of DaemonSets and mirror pods
stay; a pod without an owner, or with an emptyDir volume, is taken away only where the caller says so; what has ended is taken away anyhow.
Pods go through the Eviction API, so that disruption budgets are kept. Where they would fit is `opslib.sources.fitting`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from opslib.actions.kubernetes import KubernetesSystem, Object, controller_of, services_of, state_of
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.environments import Environment
from opslib.errors import InputError, NotFound
from opslib.messages import Message, _, _n, one_line
from opslib.sources.fitting import PlacedPod, Room, selects, tolerates
from opslib.sources.objects import Node, PersistentVolume, Taint

MIRROR = "kubernetes.io/config.mirror"
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

# As kubectl and the API server take them: a key is a qualified name, a value a label's value.
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_TAINT = re.compile(
    rf"(?P<key>(?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME})(?:=(?P<value>(?:{_NAME})?))?(?::(?P<effect>[A-Za-z]+))?(?P<remove>-)?"
)


@dataclass(frozen=True, slots=True)
class Departure:
    """What a drain does with one pod.

    Parameters
    ----------
    fate
        "evict", "stay", or "stop": the drain refuses to begin because of it.
    why
        Why it stays or stops the drain; for one that is evicted what is lost by it, None where nothing is.
    """

    pod: Object
    fate: Literal["evict", "stay", "stop"]
    why: Message | None = None

    @property
    def name(self) -> str:
        """Namespace and name."""
        return f"{self.pod['metadata']['namespace']}/{self.pod['metadata']['name']}"


def cordon(system: KubernetesSystem, environment: Environment, requester: str, node: str) -> Plan:
    """No new pods on a node.

    Raises
    ------
    InputError
        It is not there, or is cordoned already.
    """
    return _only_scheduling(system, environment, requester, node, cordoned=True)


def uncordon(system: KubernetesSystem, environment: Environment, requester: str, node: str) -> Plan:
    """New pods on a node again.

    Raises
    ------
    InputError
        It is not there, or is not cordoned.
    """
    return _only_scheduling(system, environment, requester, node, cordoned=False)


def drain(
    system: KubernetesSystem,
    environment: Environment,
    requester: str,
    node: str,
    *,
    delete_emptydir_data: bool = False,
    force: bool = False,
    patience_seconds: float = 300,
) -> Plan:
    """Cordon a node and evict what is on it, one pod after the other.

    Parameters
    ----------
    delete_emptydir_data
        Evict pods with emptyDir volumes too: what is in those is lost.
    force
        Evict pods without an owner too: nobody makes them again.
    patience_seconds
        How long each eviction waits for a disruption budget that forbids it. Then the execution stops; executed again, it goes on there.

    Raises
    ------
    InputError
        The node is not there, or pods on it stop the drain: all of them are named, with the option that lets them go.
    """
    found = _node(system, node)
    departures = departures_of(system, node, delete_emptydir_data=delete_emptydir_data, force=force)
    stopping = [one for one in departures if one.fate == "stop"]
    if stopping:
        names = [_("{pod} ({why})", pod=one.name, why=one.why or "") for one in stopping]
        raise InputError(
            _n("{count} pod stops the drain: {names}", "{count} pods stop the drain: {names}", len(stopping), names=names),
            _("Move them elsewhere, or let them go with --force or --delete-emptydir-data"),
        )
    going = [one for one in departures if one.fate == "evict"]
    room = _room(system, going)
    places = destinations(room, node, going)
    waiting = _waiting(system, going)
    # What a budget forbids now comes last: it holds up nothing else, and may be allowed by then.
    held = {name for names in waiting.values() for name in names}
    going.sort(key=lambda one: one.name in held)
    steps = [] if found["spec"].get("unschedulable") else [_scheduling(system, found, _("Cordon {node}", node=node), cordoned=True)]
    steps += [_eviction(system, one, patience_seconds, places.get(one.name)) for one in going]
    if not steps:
        raise InputError(_("{node} is cordoned and empty already", node=node))
    verify = Condition(
        what=_("nothing but DaemonSets' pods is on {node}", node=node).text(),
        system=system.name,
        question={"empty": node},
        deadline_seconds=patience_seconds + 120,
    )
    cautions = [_("{pod}: {why}", pod=one.name, why=one.why) for one in going if one.why is not None]
    cautions += [*_homeless(room, node, going, places), *_held_up(waiting), *_lonely(system, going)]
    labels: dict[str, list[dict[str, str]]] = {}
    for one in going:
        labels.setdefault(one.pod["metadata"]["namespace"], []).append(one.pod["metadata"].get("labels", {}))
    reach = Reach(pods=len(going), nodes=1, services=services_of(system.cluster, labels))
    title = _("Drain {node}", node=node).text()
    return make(system, environment, requester, "drain", title, steps, reach=reach, cautions=cautions, verify=[verify])


def taint(system: KubernetesSystem, environment: Environment, requester: str, node: str, change: str) -> Plan:
    """Add or change one taint of a node, or remove it.

    Parameters
    ----------
    change
        As for `kubectl taint`: ``key=value:Effect`` or ``key:Effect`` adds it, or gives it another value; ``key:Effect-`` removes that one,
        ``key-`` all with that key.

    Raises
    ------
    InputError
        The node is not there, `change` is not understood, or it is so already.
    """
    found = _node(system, node)
    before = list(found["spec"].get("taints") or [])
    after = _tainted(before, change)
    if after == before:
        raise InputError(_("Node {node} is like that already: {change}", node=node, change=one_line(change)))
    step = _replacing_taints(system, found, after, _("Set taint {change} on {node}", change=change, node=node))
    leaving = _leaving(system, node, before, after)
    cautions = [
        _n("{count} pod does not tolerate it and is ended at once, without regard for disruption budgets: {pods}",
           "{count} pods do not tolerate it and are ended at once, without regard for disruption budgets: {pods}",
           len(leaving), pods=leaving[:20])
    ] if leaving else []  # fmt: skip
    return make(
        system, environment, requester, "drain", step.what, [step], reach=Reach(pods=len(leaving), nodes=1), cautions=cautions
    )  # fmt: skip


def destinations(room: Room, node: str, going: Iterable[Departure]) -> dict[str, str]:
    """Where what is evicted from a node would fit, one after the other, by its name; not in it: nowhere, or nobody makes it again.

    A replacement takes its room, so that two pods are not promised the same place.
    """
    found: dict[str, str] = {}
    for one in _replaced(going):
        pod = _placed(one.pod)
        fitting = room.where(pod, without=[node])
        if fitting:
            found[one.name] = fitting[0]
            room.put(pod, fitting[0])
    return found


def departures_of(system: KubernetesSystem, node: str, *, delete_emptydir_data: bool = False, force: bool = False) -> list[Departure]:
    """What a drain would do with each pod on a node, by name."""
    pods = system.cluster.whole_list("pods", fields=f"spec.nodeName={node}")
    found = [departure_of(pod, delete_emptydir_data=delete_emptydir_data, force=force) for pod in pods]
    return sorted(found, key=lambda one: one.name)


def departure_of(pod: Object, *, delete_emptydir_data: bool = False, force: bool = False) -> Departure:
    """What a drain does with a pod."""
    owner = controller_of(pod)
    if MIRROR in pod["metadata"].get("annotations", {}):
        return Departure(pod, "stay", _("a mirror pod: the kubelet's own"))
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return Departure(pod, "evict")
    if owner is not None and owner["kind"] == "DaemonSet":
        return Departure(pod, "stay", _("its DaemonSet would make it again on the node"))
    lost = [volume["name"] for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume]
    if lost and not delete_emptydir_data:
        return Departure(pod, "stop", _("it has emptyDir volumes: {names}", names=lost))
    if owner is None and not force:
        return Departure(pod, "stop", _("it has no owner"))
    if owner is None:
        return Departure(pod, "evict", _("nobody makes it again: it has no owner"))
    return Departure(pod, "evict", _("what is in its emptyDir volumes is lost: {names}", names=lost) if lost else None)


def is_left(pod: Object) -> bool:
    """Whether a drained node may still have this pod."""
    return departure_of(pod, delete_emptydir_data=True, force=True).fate == "stay"


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _node(system: KubernetesSystem, name: str) -> Object:
    try:
        return system.cluster.whole("nodes", name)
    except NotFound as error:
        raise InputError(_("There is no node {name}", name=one_line(name)), _("Those that are there"), "kubectl get nodes") from error


def _room(system: KubernetesSystem, going: Iterable[Departure]) -> Room:
    """The nodes with what is on them once those are gone; volumes as far as they may be read."""
    from opslib.errors import Forbidden

    cluster = system.cluster
    pods = cluster.list(PlacedPod, "pods", fields="status.phase!=Succeeded,status.phase!=Failed")
    try:
        volumes = cluster.list(PersistentVolume, "persistentvolumes")
    except Forbidden:
        volumes = []
    leaving = {one.pod["metadata"]["uid"] for one in going}
    return Room(cluster.list(Node, "nodes"), (pod for pod in pods if pod.metadata.uid not in leaving), volumes)


def _placed(pod: Object) -> PlacedPod:
    """A pod as its owner would make it again: without a node."""
    import msgspec

    bare = {**pod, "spec": {name: value for name, value in pod["spec"].items() if name != "nodeName"}}
    return msgspec.convert({"metadata": bare["metadata"], "spec": bare["spec"]}, PlacedPod)


def _replaced(going: Iterable[Departure]) -> list[Departure]:
    """Those that somebody makes again: with an owner, and not ended."""
    return [
        one for one in going if controller_of(one.pod) is not None and one.pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    ]


def _homeless(room: Room, node: str, going: Iterable[Departure], places: Mapping[str, str]) -> list[Message]:
    """The pods that fit on no other node now, with what keeps them off."""
    found = []
    for one in _replaced(going):
        if one.name in places:
            continue
        pod = _placed(one.pod)
        reasons: dict[str, Message] = {}
        for name in room.nodes:
            why = room.why_not(pod, name) if name != node else None
            if why is not None:
                reasons[str(why)] = why
        found.append(
            _("{pod} fits on no other node now and will wait: {reasons}", pod=one.name, reasons=list(reasons.values())[:5])
            if reasons
            else _("{pod}: there is no other node", pod=one.name)
        )
    return found


def _tainted(taints: list[Object], change: str) -> list[Object]:
    """A node's taints after a change that is written as for `kubectl taint`."""
    match = _TAINT.fullmatch(change)
    effect = match["effect"] if match else None
    if match is None or (effect is not None and effect not in EFFECTS) or (effect is None and not match["remove"]):
        raise InputError(
            _("This is no change of a taint: {change}", change=one_line(change)),
            _("key=value:Effect adds one, key:Effect- removes it; effects: {effects}", effects=list(EFFECTS)),
        )
    same = [one for one in taints if one["key"] == match["key"] and effect in (None, one["effect"])]
    if match["remove"]:
        return [one for one in taints if one not in same]
    new = {"key": match["key"], "effect": effect, **({"value": match["value"]} if match["value"] else {})}
    if any({name: one.get(name) for name in ("key", "value", "effect")} == {"value": None, **new} for one in same):
        return taints
    return [*(one for one in taints if one not in same), new]


def _replacing_taints(system: KubernetesSystem, node: Object, taints: list[Object], what: Message) -> Step:
    def request(value: list[Object]) -> dict[str, Any]:
        body = {"spec": {"taints": value or None}}
        return {"resource": "nodes", "name": node["metadata"]["name"], "verb": "patch", "patch": "merge-patch", "body": body}

    preview = system.preview(request(taints))
    return Step(
        what=what.text(), system=system.name, request=request(taints), before=state_of(node), after=preview.after,
        inverse=request(list(node["spec"].get("taints") or [])), difference=preview.difference,
    )  # fmt: skip


def _leaving(system: KubernetesSystem, node: str, before: list[Object], after: list[Object]) -> list[str]:
    """The pods that a new NoExecute taint takes off a node."""
    new = [Taint(key=one["key"], value=one.get("value", ""), effect=one["effect"]) for one in after if one not in before]
    ending = [one for one in new if one.effect == "NoExecute"]
    if not ending:
        return []
    pods = system.cluster.list(PlacedPod, "pods", fields=f"spec.nodeName={node}")
    return sorted(
        f"{pod.metadata.namespace}/{pod.metadata.name}"
        for pod in pods
        if MIRROR not in pod.metadata.annotations and not all(tolerates(pod.spec.tolerations, one) for one in ending)
    )


def _only_scheduling(system: KubernetesSystem, environment: Environment, requester: str, node: str, *, cordoned: bool) -> Plan:
    found = _node(system, node)
    if bool(found["spec"].get("unschedulable")) == cordoned:
        raise InputError(_("{node} is cordoned already", node=node) if cordoned else _("{node} is not cordoned", node=node))
    what = _("Cordon {node}", node=node) if cordoned else _("Uncordon {node}", node=node)
    step = _scheduling(system, found, what, cordoned=cordoned)
    return make(system, environment, requester, "drain", step.what, [step], reach=Reach(nodes=1))


def _scheduling(system: KubernetesSystem, node: Object, what: Message, *, cordoned: bool) -> Step:
    def request(value: bool) -> dict[str, Any]:
        body = {"spec": {"unschedulable": value}}
        return {"resource": "nodes", "name": node["metadata"]["name"], "verb": "patch", "patch": "strategic-merge-patch", "body": body}

    preview = system.preview(request(cordoned))
    return Step(
        what=what.text(), system=system.name, request=request(cordoned), before=state_of(node), after=preview.after,
        inverse=request(not cordoned), difference=preview.difference,
    )  # fmt: skip


def _eviction(system: KubernetesSystem, one: Departure, patience_seconds: float, place: str | None) -> Step:
    metadata = one.pod["metadata"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}}
    request = {
        "resource": "pods", "namespace": metadata["namespace"], "name": metadata["name"], "verb": "create", "subresource": "eviction",
        "body": body, "patience_seconds": patience_seconds,
    }  # fmt: skip
    why = one.why or (
        _("its owner makes another, which would fit on {node}", node=place)
        if place
        else _("its owner, if it has one, makes another once a node has room for it")
    )
    # no dry run of each: a budget that allows one eviction now allows the next one later, which a dry run of all would not see
    return Step(
        what=_("Evict {pod}", pod=one.name).text(), system=system.name, request=request, before=state_of(one.pod),
        after={"gone": metadata["uid"]}, why_no_inverse=why.text(), final=one.why is not None,
    )  # fmt: skip


def held_up_by(system: KubernetesSystem, going: Iterable[Departure]) -> list[Message]:
    """The budgets that allow nothing now, with the pods that wait for them."""
    return _held_up(_waiting(system, going))


def _held_up(waiting: Mapping[str, list[str]]) -> list[Message]:
    return [
        _("The disruption budget {budget} allows nothing now: {pods} will wait for it", budget=budget, pods=pods)
        for budget, pods in sorted(waiting.items())
    ]


def _waiting(system: KubernetesSystem, going: Iterable[Departure]) -> dict[str, list[str]]:
    """The pods that wait for each budget which allows nothing now."""
    waiting: dict[str, list[str]] = {}
    full = [one for one in system.cluster.whole_list("poddisruptionbudgets.policy") if not one.get("status", {}).get("disruptionsAllowed")]
    for one in going:
        labels, namespace = one.pod["metadata"].get("labels", {}), one.pod["metadata"]["namespace"]
        for budget in full:
            if budget["metadata"]["namespace"] == namespace and selects(budget["spec"].get("selector"), labels):
                waiting.setdefault(f"{namespace}/{budget['metadata']['name']}", []).append(one.name)
    return waiting


def _lonely(system: KubernetesSystem, going: Iterable[Departure]) -> list[Message]:
    """The pods whose workload has no other one that is ready."""
    found = []
    for one in going:
        owner = controller_of(one.pod)
        if owner is None or owner["kind"] not in ("ReplicaSet", "StatefulSet"):
            continue
        shown = f"{owner['kind']}/{owner['name']}"
        resource = "replicasets.apps" if owner["kind"] == "ReplicaSet" else "statefulsets.apps"
        try:
            workload = system.cluster.whole(resource, owner["name"], one.pod["metadata"]["namespace"])
        except NotFound:
            found.append(_("{pod}: its owner {owner} is gone, nobody makes it again", pod=one.name, owner=shown))
            continue
        if workload.get("status", {}).get("readyReplicas", 0) <= 1:
            found.append(_("{pod} is the only ready one of {owner}: it is away until another is ready", pod=one.name, owner=shown))
    return found
