"""Claims that are not bound, volumes that cannot be attached or mounted."""

from __future__ import annotations

import re

from opslib.diagnosis.pods.cases import Case, Rule, evidence_of
from opslib.diagnosis.pods.facts import Facts
from opslib.diagnosis.pods.scheduling import scheduler_message
from opslib.findings import Evidence, Finding, Severity, Step
from opslib.messages import Text, _
from opslib.sources.objects import Claim, PersistentVolume
from opslib.sources.quantities import text_of_bytes, value_of

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def claim_missing(case: Case) -> Finding | None:
    """A claim that the pod names does not exist."""
    if case.symptom.kind not in ("unscheduled", "creating"):
        return None
    texts = [scheduler_message(case), *case.words()]
    said = [found[1] for text in texts if (found := re.search(r'persistentvolumeclaim "([^"]+)" not found', text, re.IGNORECASE))]
    there = case.facts.claims or {}  # what was said of a claim may be older than the claim
    name = next((item for item in said if (case.owner.namespace, item) not in there), "")
    if not name and case.facts.claims is not None:
        gone = [item for item in claim_names(case) if ("PersistentVolumeClaim", case.owner.namespace, item) in case.facts.missing]
        name = gone[0] if gone else ""
    if not name:
        return None
    return case.finding(
        "storage.claim_missing",
        _("The volume claim {name} does not exist", name=name),
        cause=_("The pods name the PersistentVolumeClaim {name}, and the namespace has none of that name.", name=name),
        evidence=_pod_words(case),
        steps=(
            Step(_("See what there is"), case.kubectl("get", "pvc")),
            Step(_("Create the claim, or name the right one in the template")),
        ),
    )


def claim_unbound(case: Case) -> Finding | None:
    """A claim of the pod is Lost, or Pending for a reason other than waiting for this pod to be scheduled."""
    if case.symptom.kind not in ("unscheduled", "creating"):
        return None
    for name in claim_names(case):
        claim = (case.facts.claims or {}).get((case.owner.namespace, name))
        if claim is None or claim.status.phase in ("Bound", ""):
            continue
        if claim.status.phase == "Lost":
            return _lost(case, claim)
        found = _pending(case, claim)
        if found:
            return found
    if re.search(r"unbound immediate persistentvolumeclaims", scheduler_message(case), re.IGNORECASE):
        return case.finding(
            "storage.claim_pending",
            _("A volume claim of the pods is not bound"),
            evidence=_pod_words(case),
            steps=(Step(_("Look at the claims"), case.kubectl("describe", "pvc")),),
        )
    return None


def multi_attach(case: Case) -> Finding | None:
    """The volume is still attached to another node."""
    said = _failed(case, "FailedAttachVolume", r"multi-attach error")
    if not said:
        return None
    return case.finding(
        "storage.multi_attach",
        _("A volume of the pods is still attached to another node"),
        cause=_(
            "The volume can be attached to one node at a time (ReadWriteOnce), and the node that had it has not let go: the old pod still"
            " runs or ends there, or that node does not answer."
        ),
        evidence=said,
        steps=(
            Step(_("See which node has the volume"), case.kubectl_anywhere("get", "volumeattachments")),
            Step(_("See whether an old pod is left, and whether its node answers"), case.kubectl("get", "pods", "-o", "wide")),
            Step(_("With a Deployment, use the Recreate strategy, or a StatefulSet, for such volumes")),
        ),
    )


def attach(case: Case) -> Finding | None:
    """The volume cannot be attached, for another reason."""
    said = _failed(case, "FailedAttachVolume", "")
    if not said:
        return None
    return case.finding(
        "storage.attach",
        _("A volume of the pods cannot be attached to their node"),
        evidence=said,
        steps=(
            case.describe(),
            Step(_("Look at the attachments and at the storage driver"), case.kubectl_anywhere("get", "volumeattachments")),
        ),
    )


def mount(case: Case) -> Finding | None:
    """The volume cannot be mounted."""
    said = _failed(case, "FailedMount", "") or _failed(case, "FailedMapVolume", "")
    if not said:
        return None
    return case.finding(
        "storage.mount",
        _("A volume of the pods cannot be mounted"),
        evidence=said,
        steps=(
            case.describe(),
            Step(_("Look at the storage driver's pods on node {node}", node=case.pod.spec.node_name or "?"), _on_node(case)),
        ),
    )


RULES: tuple[Rule, ...] = (claim_missing, claim_unbound, multi_attach, attach, mount)


def claim_names(case: Case) -> list[str]:
    """The claims that the pod names."""
    return [volume.persistent_volume_claim.claim_name for volume in case.pod.spec.volumes if volume.persistent_volume_claim]


def _lost(case: Case, claim: Claim) -> Finding:
    return case.finding(
        "storage.claim_lost",
        _("The volume of claim {name} is gone", name=claim.metadata.name),
        cause=_(
            "The claim was bound to the volume {volume}, which no longer exists: its data may be lost.",
            volume=claim.spec.volume_name or "?",
        ),
        evidence=[_claim_evidence(case, claim), *_claim_events(case.facts, claim)],
        steps=(
            Step(_("Do not delete the claim. Look for the volume in the storage system and for its snapshots")),
            Step(_("Look at the claim"), case.kubectl("describe", "pvc", claim.metadata.name)),
        ),
        severity=Severity.CRITICAL,
    )


def _pending(case: Case, claim: Claim) -> Finding | None:
    facts = case.facts
    events = _claim_events(facts, claim)
    classes = facts.storage_classes
    name = claim.spec.storage_class_name
    described = Step(_("Look at the claim"), case.kubectl("describe", "pvc", claim.metadata.name))
    evidence = [_claim_evidence(case, claim), *events, *_pod_words(case)]
    chosen = next((item for item in classes or () if item.metadata.name == name), None)
    if (
        chosen
        and chosen.volume_binding_mode == "WaitForFirstConsumer"
        and not any(item.quote and "failed" in item.quote.lower() for item in events)
    ):
        return None  # it waits for the pod, not the pod for it
    # Free volumes of another class say nothing about this claim: any cluster may have some.
    volumes = [
        item
        for item in facts.volumes or ()
        if _is_for(item, claim) or (item.status.phase == "Available" and name in (None, item.spec.storage_class_name))
    ]
    misfits = [(volume, why) for volume in volumes if (why := misfit(volume, claim))]
    has_no_provisioner = chosen is None or chosen.provisioner == "kubernetes.io/no-provisioner"
    if misfits and has_no_provisioner:
        shown: list[Text] = [_("{volume}: {why}", volume=volume.metadata.name, why=why) for volume, why in misfits[:3]]
        return case.finding(
            "storage.claim_mismatch",
            _("No volume fits the claim {name}", name=claim.metadata.name),
            cause=_("There are volumes, and none fits: {volumes}", volumes=shown),
            evidence=evidence,
            steps=(
                described,
                Step(_("Compare with the volumes"), case.kubectl_anywhere("get", "pv")),
                Step(_("Make a volume that fits, or a claim that fits a volume")),
            ),
        )
    cause: Text | None = None
    if classes is not None and name and chosen is None:
        cause = _("The storage class {name} does not exist.", name=name)
    elif classes is not None and name is None and not any(item.metadata.annotations.get(_DEFAULT_CLASS) == "true" for item in classes):
        cause = _("The claim names no storage class, and the cluster has no default one.")
    elif chosen and not has_no_provisioner:
        cause = _("The provisioner {provisioner} has not made the volume.", provisioner=chosen.provisioner)
    elif chosen:
        cause = _("Volumes of the class {name} are made by hand, and none is free.", name=name or "")
    return case.finding(
        "storage.claim_pending",
        _("The volume claim {name} is not bound", name=claim.metadata.name),
        cause=cause,
        evidence=evidence,
        steps=(described, Step(_("See the storage classes"), case.kubectl_anywhere("get", "storageclass"))),
    )


def misfit(volume: PersistentVolume, claim: Claim) -> Text | None:
    """Why a volume does not fit a claim; None where it does, as far as can be told."""
    wanted_class = claim.spec.storage_class_name
    if wanted_class is not None and volume.spec.storage_class_name != wanted_class:
        return _("class {has} instead of {wants}", has=volume.spec.storage_class_name or "-", wants=wanted_class or "-")
    lacking = [mode for mode in claim.spec.access_modes if mode not in volume.spec.access_modes]
    if lacking:
        return _("access mode {wants} instead of {has}", wants=lacking, has=volume.spec.access_modes)
    wants, has = value_of(claim.spec.resources.requests.get("storage")), value_of(volume.spec.capacity.get("storage"))
    if wants is not None and has is not None and has < wants:
        return _("{has} instead of {wants}", has=text_of_bytes(has), wants=text_of_bytes(wants))
    if volume.spec.claim_ref and volume.spec.claim_ref.name and not _is_for(volume, claim):
        return _("kept for claim {name}", name=f"{volume.spec.claim_ref.namespace}/{volume.spec.claim_ref.name}")
    return None


def _is_for(volume: PersistentVolume, claim: Claim) -> bool:
    reference = volume.spec.claim_ref
    return claim.spec.volume_name == volume.metadata.name or bool(
        reference and reference.name == claim.metadata.name and reference.namespace == claim.metadata.namespace
    )


def _claim_evidence(case: Case, claim: Claim) -> Evidence:
    return Evidence(
        text=_(
            "Claim {name}: {phase}; class {storage_class}, {size}, {modes}",
            name=claim.metadata.name,
            phase=claim.status.phase,
            storage_class=claim.spec.storage_class_name if claim.spec.storage_class_name is not None else _("none named"),
            size=str(claim.spec.resources.requests.get("storage", "?")),
            modes=claim.spec.access_modes,
        ),
        reference=f"/api/v1/namespaces/{claim.metadata.namespace}/persistentvolumeclaims/{claim.metadata.name}",
        time=case.facts.now,
    )


def _claim_events(facts: Facts, claim: Claim) -> list[Evidence]:
    return [evidence_of(event) for event in reversed(facts.events_of(claim.metadata.uid))][:2]


def _pod_words(case: Case) -> list[Evidence]:
    message = scheduler_message(case)
    if case.symptom.kind == "unscheduled" and message:
        return [case.pod_evidence(_("The scheduler's words"), message)]
    return case.event_evidence("FailedMount", "FailedAttachVolume", limit=2)


def _failed(case: Case, reason: str, pattern: str) -> list[Evidence]:
    if case.symptom.kind != "creating":
        return []
    return [item for item in case.event_evidence(reason, limit=6) if re.search(pattern, item.quote, re.IGNORECASE)][:3]


def _on_node(case: Case) -> str:
    from opslib.diagnosis.pods.cases import kubectl

    return kubectl(case.facts, "", "get", "pods", "-A", "-o", "wide", "--field-selector", f"spec.nodeName={case.pod.spec.node_name}")
