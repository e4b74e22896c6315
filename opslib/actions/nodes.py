"""Plans for nodes: cordon, uncordon, drain, taints.

What a drain takes away and what stops it are `kubectl drain`'s rules (pkg/drain in kubernetes/kubectl): pods of DaemonSets and mirror pods
stay; a pod without an owner, or with an emptyDir volume, is taken away only where the caller says so; what has ended is taken away anyhow.
Pods go through the Eviction API, so that disruption budgets are kept: those without a budget several at the same time, those of one never
more than it allows. Where they would fit is `opslib.sources.fitting`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from opslib.actions.kubernetes import KubernetesSystem, Object, controller_of, room_of, services_of, state_of
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.environments import Environment
from opslib.errors import InputError, NotFound
from opslib.messages import Message, _, _n, one_line
from opslib.sources.fitting import CORDONED, PlacedPod, Room, selects, tolerates
from opslib.sources.objects import Taint

MIRROR = "kubernetes.io/config.mirror"
AT_ONCE = 8
"""So many pods are evicted at the same time where no disruption budget says less."""

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
    grace_seconds: int | None = None,
    pod_selector: str = "",
) -> Plan:
    """Cordon a node and evict what is on it.

    Parameters
    ----------
    delete_emptydir_data
        Evict pods with emptyDir volumes too: what is in those is lost.
    force
        Evict pods without an owner, or of a DaemonSet that is gone, too: nobody makes them again.
    patience_seconds
        How long each eviction waits for a disruption budget that forbids it. Then no further one begins, and the execution stops; executed
        again, it goes on there.
    grace_seconds
        How long pods have to end, instead of what each says itself.
    pod_selector
        Only pods with such labels, as ``kubectl get -l`` takes them; empty: all.

    Raises
    ------
    InputError
        The node is not there, or pods on it stop the drain: all of them are named, with the option that lets them go.
    """
    found = _node(system, node)
    departures = departures_of(system, node, delete_emptydir_data=delete_emptydir_data, force=force, pod_selector=pod_selector)
    stopping = [one for one in departures if one.fate == "stop"]
    if stopping:
        names = [_("{pod} ({why})", pod=one.name, why=one.why or "") for one in stopping]
        raise InputError(
            _n("{count} pod stops the drain: {names}", "{count} pods stop the drain: {names}", len(stopping), names=names),
            _("Move them elsewhere, or let them go with --force or --delete-emptydir-data"),
        )
    going = [one for one in departures if one.fate == "evict"]
    room, unseen = room_of(system.cluster, without=[one.pod["metadata"]["uid"] for one in going])
    places = destinations(room, node, going)
    budgets = _budgets(system, going)
    going.sort(key=lambda one: _difficulty(budgets[one.name]))
    steps = [] if found["spec"].get("unschedulable") else [_scheduling(system, found, _("Cordon {node}", node=node), cordoned=True)]
    steps += [_eviction(system, one, budgets[one.name], patience_seconds, grace_seconds, places.get(one.name)) for one in going]
    if not steps:
        raise InputError(_("{node} is cordoned and empty already", node=node))
    verify = Condition(
        what=_("nothing but DaemonSets' pods is on {node}", node=node).text()
        if not pod_selector
        else _("no pods with {labels} are on {node}", labels=pod_selector, node=node).text(),
        system=system.name,
        question={"empty": node, "pods": [one.pod["metadata"]["uid"] for one in going], "selector": pod_selector},
        deadline_seconds=120 + max((_grace(one.pod, grace_seconds) for one in going), default=0),
    )
    cautions = [_("{pod}: {why}", pod=one.name, why=one.why) for one in going if one.why is not None]
    cautions += [*_homeless(room, node, going, places), *unseen, *_returning(going), *_held_up(budgets), *_undecided(budgets)]
    cautions += _lonely(system, going)
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
    replaced = _replaced(going)
    places = room.place([_placed(one.pod) for one in replaced], without=[node])
    return {one.name: place for one, place in zip(replaced, places, strict=True) if place is not None}


def departures_of(
    system: KubernetesSystem, node: str, *, delete_emptydir_data: bool = False, force: bool = False, pod_selector: str = ""
) -> list[Departure]:
    """What a drain would do with each pod on a node, by name."""
    pods = system.cluster.whole_list("pods", labels=pod_selector, fields=f"spec.nodeName={node}")
    gone = {one for one in {_daemonset_of(pod) for pod in pods} if one is not None and not _is_there(system, "daemonsets.apps", *one)}
    found = [departure_of(pod, delete_emptydir_data=delete_emptydir_data, force=force, orphan=_daemonset_of(pod) in gone) for pod in pods]
    return sorted(found, key=lambda one: one.name)


def departure_of(pod: Object, *, delete_emptydir_data: bool = False, force: bool = False, orphan: bool = False) -> Departure:
    """What a drain does with a pod; an `orphan` is one whose DaemonSet is gone."""
    owner = controller_of(pod)
    if MIRROR in pod["metadata"].get("annotations", {}):
        return Departure(pod, "stay", _("a mirror pod: the kubelet's own"))
    if _is_ended(pod):
        return Departure(pod, "evict")
    if orphan and not force:
        return Departure(pod, "stop", _("its DaemonSet is gone"))
    if _daemonset_of(pod) is not None and not orphan:
        return Departure(pod, "stay", _("its DaemonSet would make it again on the node"))
    lost = [volume["name"] for volume in pod["spec"].get("volumes", []) if "emptyDir" in volume]
    if lost and not delete_emptydir_data:
        return Departure(pod, "stop", _("it has emptyDir volumes: {names}", names=lost))
    if owner is None and not force:
        return Departure(pod, "stop", _("it has no owner"))
    if owner is None:
        return Departure(pod, "evict", _("nobody makes it again: it has no owner"))
    if orphan:
        return Departure(pod, "evict", _("nobody makes it again: its DaemonSet is gone"))
    return Departure(pod, "evict", _("what is in its emptyDir volumes is lost: {names}", names=lost) if lost else None)


def is_left(pod: Object) -> bool:
    """Whether a drained node may still have this pod."""
    return departure_of(pod, delete_emptydir_data=True, force=True).fate == "stay"


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _is_ended(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _daemonset_of(pod: Object) -> tuple[str, str] | None:
    """Namespace and name of the DaemonSet that a pod is of."""
    owner = controller_of(pod)
    return (pod["metadata"]["namespace"], owner["name"]) if owner is not None and owner["kind"] == "DaemonSet" else None


def _is_there(system: KubernetesSystem, resource: str, namespace: str, name: str) -> bool:
    try:
        system.cluster.metadata(resource, name, namespace)
    except NotFound:
        return False
    return True


def _grace(pod: Object, given: int | None) -> float:
    """Seconds that a pod has to end once it is evicted."""
    return float(given if given is not None else pod["spec"].get("terminationGracePeriodSeconds", 30))


def _node(system: KubernetesSystem, name: str) -> Object:
    try:
        return system.cluster.whole("nodes", name)
    except NotFound as error:
        raise InputError(_("There is no node {name}", name=one_line(name)), _("Those that are there"), "kubectl get nodes") from error


def _placed(pod: Object) -> PlacedPod:
    """A pod as its owner would make it again: without a node."""
    import msgspec

    bare = {**pod, "spec": {name: value for name, value in pod["spec"].items() if name != "nodeName"}}
    return msgspec.convert({"metadata": bare["metadata"], "spec": bare["spec"]}, PlacedPod)


def _replaced(going: Iterable[Departure]) -> list[Departure]:
    """Those that somebody makes again: with an owner, and not ended."""
    return [one for one in going if controller_of(one.pod) is not None and not _is_ended(one.pod)]


def _homeless(room: Room, node: str, going: Iterable[Departure], places: Mapping[str, str]) -> list[Message]:
    """The pods that fit on no other node now, with what keeps them off."""
    found = []
    for one in _replaced(going):
        if one.name not in places:
            reasons = room.why_nowhere(_placed(one.pod), without=[node])
            found.append(
                _("{pod} fits on no other node now and will wait: {reasons}", pod=one.name, reasons=reasons[:5])
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


def _eviction(
    system: KubernetesSystem, one: Departure, budgets: list[Object], patience_seconds: float, grace_seconds: int | None, place: str | None
) -> Step:
    metadata = one.pod["metadata"]
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}}
    if grace_seconds is not None:
        body["deleteOptions"] = {"gracePeriodSeconds": grace_seconds}
    request = {
        "resource": "pods", "namespace": metadata["namespace"], "name": metadata["name"], "verb": "create", "subresource": "eviction",
        "body": body,
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
        lane=_named(budgets[0]) if budgets else _("no disruption budget").text(),
        at_once=min(AT_ONCE, max(1, _allowed(budgets[0]))) if budgets else AT_ONCE,
        patience_seconds=patience_seconds, may_be_gone=True,
    )  # fmt: skip


def held_up_by(system: KubernetesSystem, going: Iterable[Departure]) -> list[Message]:
    """The budgets that allow nothing now, with the pods that wait for them."""
    return _held_up(_budgets(system, going))


def _budgets(system: KubernetesSystem, going: Iterable[Departure]) -> dict[str, list[Object]]:
    """The disruption budgets that are asked about each pod, by its name: none about one that has ended, waits, or is going already."""
    known = system.cluster.whole_list("poddisruptionbudgets.policy")
    return {one.name: [] if _is_free(one.pod) else [budget for budget in known if _covers(budget, one.pod)] for one in going}


def _is_free(pod: Object) -> bool:
    """Whether no budget is asked about it."""
    return _is_ended(pod) or pod.get("status", {}).get("phase") == "Pending" or "deletionTimestamp" in pod["metadata"]


def _covers(budget: Object, pod: Object) -> bool:
    same = budget["metadata"]["namespace"] == pod["metadata"]["namespace"]
    return same and selects(budget["spec"].get("selector"), pod["metadata"].get("labels", {}))


def _difficulty(budgets: list[Object]) -> int:
    """What is sure to be refused, or is refused for now, comes last: it holds up nothing else, and may be allowed by then."""
    return 2 if len(budgets) > 1 else int(any(not _allowed(one) for one in budgets))


def _allowed(budget: Object) -> int:
    return int(budget.get("status", {}).get("disruptionsAllowed") or 0)


def _named(budget: Object) -> str:
    return f"{budget['metadata']['namespace']}/{budget['metadata']['name']}"


def _held_up(budgets: Mapping[str, list[Object]]) -> list[Message]:
    waiting: dict[str, list[str]] = {}
    for name, found in budgets.items():
        if len(found) == 1 and not _allowed(found[0]):
            waiting.setdefault(_named(found[0]), []).append(name)
    return [
        _("The disruption budget {budget} allows nothing now: {pods} will wait for it", budget=budget, pods=pods)
        for budget, pods in sorted(waiting.items())
    ]


def _undecided(budgets: Mapping[str, list[Object]]) -> list[Message]:
    """Pods of several budgets: the API server does not evict them (pkg/registry/core/pod/storage/eviction.go)."""
    return [
        _("{pod} has several disruption budgets ({budgets}): the cluster refuses its eviction", pod=name, budgets=[*map(_named, found)])
        for name, found in budgets.items()
        if len(found) > 1
    ]


def _returning(going: Iterable[Departure]) -> list[Message]:
    """Pods whose replacement may come to the node again, since it tolerates that it is cordoned."""
    return [
        _("{pod} tolerates cordoned nodes: its replacement may come back to this one", pod=one.name)
        for one in _replaced(going)
        if tolerates(_placed(one.pod).spec.tolerations, CORDONED)
    ]


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
