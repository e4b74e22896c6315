"""Images that cannot be pulled or do not run on the node.

The wording is that of containerd and of the registries it asks; older Docker and CRI-O words are known too.
"""

from __future__ import annotations

import re

from opslib.diagnosis.pods.cases import Case, Rule
from opslib.findings import Evidence, Finding, Step
from opslib.messages import _

NOT_FOUND = r"not found|manifest unknown|manifest_unknown|name unknown|name_unknown|does not exist|repository name not known|no such image"
UNAUTHORISED = (
    r"\b401\b|\b403\b|unauthori[sz]ed|authentication required|authorization failed|no basic auth credentials|pull access denied"
    r"|insufficient_scope|access denied|denied:|access forbidden|authorization token has expired|not authorized"
)
RATE_LIMIT = r"\b429\b|toomanyrequests|too many requests|pull rate limit|rate limit exceeded|qps exceeded"
ARCHITECTURE = (
    r"no match(?:ing manifest)? for (?:platform|linux|windows)|no matching manifest"
    r"|does not match the (?:detected|specified) (?:host )?platform|exec format error"
)
UNREACHABLE = (
    r"no such host|i/o timeout|connection refused|connection reset|no route to host|network is unreachable|tls handshake|x509:"
    r"|deadline exceeded|server misbehaving|registryunavailable|\b50[0234]\b|unexpected eof"
)


def never_pulled(case: Case) -> Finding | None:
    """imagePullPolicy is Never, and the node does not have the image."""
    if not _waits_for(case, "ErrImageNeverPull"):
        return None
    return case.finding(
        "image.never_pulled",
        _("{image} is not on the node and may not be pulled", image=image(case)),
        cause=_("The container's imagePullPolicy is Never, and the node does not have the image."),
        evidence=_evidence(case),
        steps=(case.describe(), case.edit(_("Set imagePullPolicy to IfNotPresent, or put the image on the node"))),
    )


def invalid_name(case: Case) -> Finding | None:
    """The image's name cannot be parsed."""
    if not (_waits_for(case, "InvalidImageName", "ErrInvalidImageName") or (_pulls(case) and case.said("invalid reference format"))):
        return None
    return case.finding(
        "image.invalid_name",
        _("{image} is not a valid image name", image=image(case)),
        cause=_(
            "The name cannot be read as registry/repository:tag: often capital letters, a space, or a variable that was not filled in."
        ),
        evidence=_evidence(case),
        steps=(case.edit(_("Put right the image's name in the template")), *_undo(case)),
    )


def rate_limit(case: Case) -> Finding | None:
    """The registry answers 429."""
    if not _pulls(case) or not case.said(RATE_LIMIT):
        return None
    return case.finding(
        "image.rate_limit",
        _("The registry limits pulls of {image}", image=image(case)),
        cause=_("The registry refuses further pulls for now (429): too many from this address or account."),
        evidence=_evidence(case, RATE_LIMIT),
        steps=(
            Step(_("Wait: the kubelet tries again every five minutes at the latest")),
            Step(_("Use an account with a higher limit (imagePullSecrets), or pull through a mirror such as an ECR pull-through cache")),
        ),
    )


def architecture(case: Case) -> Finding | None:
    """The image was built for another processor: no manifest for the node's platform, or the kernel refuses the executable."""
    said = case.said(ARCHITECTURE)
    logged = (
        re.search(r"exec format error", case.log.of_failure, re.IGNORECASE) if case.symptom.kind in ("exited", "start", "failed") else None
    )
    if not (said or logged):
        return None
    node = case.facts.node(case.pod.spec.node_name)
    platform = node.status.node_info.architecture if node else ""
    evidence = [*_evidence(case, ARCHITECTURE), *case.end_evidence(), *case.log_evidence()]
    if platform:
        evidence.append(
            Evidence(
                text=_("Node {node} is {architecture}", node=case.pod.spec.node_name, architecture=platform),
                reference=f"/api/v1/nodes/{case.pod.spec.node_name}",
            )
        )
    return case.finding(
        "image.architecture",
        _("{image} does not run on the node's architecture", image=image(case)),
        cause=_("The image holds no build for the node's processor architecture."),
        evidence=evidence,
        steps=(
            Step(_("Build the image for this architecture as well (a multi-platform image)")),
            case.edit(_("Or keep the pods on nodes of the image's architecture, with a nodeSelector on kubernetes.io/arch")),
            *_undo(case),
        ),
    )


def unauthorised(case: Case) -> Finding | None:
    """The registry refuses the credentials, or got none. Docker Hub says the same of a repository that does not exist."""
    if not _pulls(case) or not case.said(UNAUTHORISED):
        return None
    namespace = case.pod.metadata.namespace
    names = [secret.name for secret in case.pod.spec.image_pull_secrets if secret.name]
    gone = [name for name in names if ("Secret", namespace, name) in case.facts.missing]
    if gone:
        cause = _("The pull secret {names} does not exist, so the registry is asked without credentials.", names=gone)
    elif names:
        cause = _("The registry refuses the credentials in {names}: wrong, expired, or without the right to this repository.", names=names)
    else:
        cause = _(
            "The registry wants credentials and the pod names no pull secret; or the node's role may not pull; or the repository does not"
            " exist, of which some registries say the same."
        )
    steps = [
        Step(
            _("See which pull secrets the service account adds"),
            case.kubectl("get", "serviceaccount", case.pod.spec.service_account_name or "default", "-o", "yaml"),
        )
    ]
    steps += [Step(_("See whether the pull secret exists and of which type it is"), case.kubectl("get", "secret", name)) for name in names]
    return case.finding(
        "image.unauthorised",
        _("The registry refuses access to {image}", image=image(case)),
        cause=cause,
        evidence=[*_evidence(case, UNAUTHORISED), *case.event_evidence("FailedToRetrieveImagePullSecret", limit=1)],
        steps=(*steps, case.edit(_("Put right the image's name or the pull secret"))),
    )


def not_found(case: Case) -> Finding | None:
    """The repository or tag does not exist."""
    if not _pulls(case) or not case.said(NOT_FOUND):
        return None
    if re.search(r"no such host|lookup ", case.said(NOT_FOUND), re.IGNORECASE):
        return None
    return case.finding(
        "image.not_found",
        _("{image} does not exist in the registry", image=image(case)),
        cause=_("The registry has no such repository or tag: a wrong name, a tag that was never pushed, or one that was cleaned up."),
        evidence=_evidence(case, NOT_FOUND),
        steps=(
            Step(_("Check the tag in the registry, and whether the build that pushes it has finished")),
            *_undo(case),
            case.edit(_("Put right the image's name in the template")),
        ),
    )


def registry_unreachable(case: Case) -> Finding | None:
    """The registry does not answer, or its certificate is not trusted."""
    if not _pulls(case) or not (case.said(UNREACHABLE) or _waits_for(case, "RegistryUnavailable")):
        return None
    return case.finding(
        "image.registry_unreachable",
        _("The registry of {image} cannot be reached", image=image(case)),
        cause=_("The node gets no usable answer from the registry: name, network, proxy, certificate, or the registry is down."),
        evidence=_evidence(case, UNREACHABLE),
        steps=(
            Step(_("See whether other pulls on the same node work"), _events(case)),
            Step(_("Check the registry, and the node's way to it (DNS, NAT, VPC endpoint, proxy)")),
        ),
    )


def pull(case: Case) -> Finding | None:
    """Any other failure of a pull."""
    if case.symptom.kind != "image":
        return None
    return case.finding(
        "image.pull",
        _("{image} cannot be pulled", image=image(case)),
        evidence=_evidence(case),
        steps=(case.describe(), *_undo(case)),
    )


RULES: tuple[Rule, ...] = (never_pulled, invalid_name, rate_limit, architecture, unauthorised, registry_unreachable, not_found, pull)


def image(case: Case) -> str:
    """The image as the template names it."""
    if case.container and case.container.image:
        return case.container.image
    return case.status.image if case.status else ""


def _pulls(case: Case) -> bool:
    return case.symptom.kind == "image"


def _waits_for(case: Case, *reasons: str) -> bool:
    waiting = case.status.state.waiting if case.status else None
    return waiting is not None and waiting.reason in reasons


def _evidence(case: Case, pattern: str = "") -> list[Evidence]:
    """The words that the rule rests on come first: a back-off message alone says nothing."""
    events = case.event_evidence("Failed", "InspectFailed", "ErrImageNeverPull", "BackOff", limit=4)
    events.sort(key=lambda item: re.search(pattern or "failed to pull", item.quote, re.IGNORECASE) is None)
    waiting = [case.waiting_evidence()] if case.symptom.kind == "image" else []
    said_by_kubelet = not pattern or re.search(pattern, case.waiting_message, re.IGNORECASE)
    return [*waiting, *events[:2]] if said_by_kubelet else [*events[:2], *waiting]


def _undo(case: Case) -> tuple[Step, ...]:
    if case.owner.kind not in ("Deployment", "StatefulSet", "DaemonSet"):
        return ()
    target = f"{case.owner.kind.lower()}/{case.owner.name}"
    return (
        Step(_("See the earlier revisions"), case.kubectl("rollout", "history", target)),
        Step(_("If the last rollout brought this image, go back to the one before"), case.kubectl("rollout", "undo", target), changes=True),
    )


def _events(case: Case) -> str:
    return case.kubectl("get", "events", "--field-selector", f"involvedObject.name={case.pod.metadata.name}", "--sort-by=.lastTimestamp")
