"""Volumes of claims that wait for their first pod: whether a node can have them, and getting them once it is chosen."""

from __future__ import annotations

from opslib.lab.api import Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import annotations_of, labels_of, name_of
from opslib.lab.controllers.scheduler.filters import volume_allows
from opslib.lab.controllers.volumes import BOUND_BY, SELECTED, best_match, claim_reference, class_of

_NO_PROVISIONER = "kubernetes.io/no-provisioner"


def can_be_had(cluster: Cluster, claims: list[Object], node: Object) -> bool:
    """Whether every claim can get a volume that the node can use: one that is there, or a new one."""
    taken: set[str] = set()
    for claim in claims:
        chosen = annotations_of(claim).get(SELECTED)
        if chosen is not None and chosen != name_of(node):
            return False
        volume = _match(cluster, claim, node, taken)
        if volume is not None:
            taken.add(name_of(volume))
        elif not _can_be_made(cluster, claim, node):
            return False
    return True


def ask_for(cluster: Cluster, claims: list[Object], node: Object) -> None:
    """Choose a volume for each claim, or ask the provisioner for one on this node; the volume controllers do the rest."""
    taken: set[str] = set()
    for claim in claims:
        volume = _match(cluster, claim, node, taken)
        if volume is not None:
            taken.add(name_of(volume))
            body = {"metadata": {"annotations": {BOUND_BY: "yes"}}, "spec": {"claimRef": claim_reference(claim)}}
            cluster.patch(volume, body, "merge")
        elif annotations_of(claim).get(SELECTED) != name_of(node):
            cluster.patch(claim, {"metadata": {"annotations": {SELECTED: name_of(node)}}}, "merge")


def give_up(cluster: Cluster, claims: list[Object]) -> None:
    """Take the chosen node back, so that another one can be tried."""
    for claim in claims:
        if SELECTED in annotations_of(claim):
            cluster.patch(claim, {"metadata": {"annotations": {SELECTED: None}}}, "merge")


def _match(cluster: Cluster, claim: Object, node: Object, taken: set[str]) -> Object | None:
    free = [one for one in cluster["persistentvolumes"].list() if name_of(one) not in taken and volume_allows(one, node)]
    return best_match(claim, free)


def _can_be_made(cluster: Cluster, claim: Object, node: Object) -> bool:
    found = cluster["storageclasses.storage.k8s.io"].get("", class_of(claim))
    if found is None or found["provisioner"] in ("", _NO_PROVISIONER) or claim["spec"].get("selector"):
        return False
    topologies = found.get("allowedTopologies") or ()
    labels = labels_of(node)
    return not topologies or any(
        all(labels.get(one["key"]) in one["values"] for one in term.get("matchLabelExpressions") or ()) for term in topologies
    )
