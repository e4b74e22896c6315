"""ConfigMaps, Secrets, keys and service accounts that a pod needs and that are not there; and settings that the kubelet refuses.

A missing one shows in two places: as the container's waiting message (environment variables), or as FailedMount events (volumes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from opslib.diagnosis.pods.cases import Case, Rule
from opslib.findings import Evidence, Finding, Step
from opslib.messages import _
from opslib.sources.objects import Container, Pod

_MISSING = re.compile(r"\b(configmap|secret)s? \"([^\"]+)\" not found", re.IGNORECASE)
_MISSING_KEY = re.compile(
    r"couldn't find key \"?(?P<key>[^\s\"]+)\"? in (?P<kind>ConfigMap|Secret) (?:[^\s/]+/)?(?P<name>[^\s,\"]+)"
    r"|references non-existent (?P<what>config|secret) key: (?P<path>\S+)",
    re.IGNORECASE,
)


def key_missing(case: Case) -> Finding | None:
    """The ConfigMap or Secret is there, the key is not."""
    said = _said(case, _MISSING_KEY)
    if said is None:
        return None
    text, match = said
    key = match["key"] or (match["path"] or "").rstrip(".,;")
    kind = match["kind"] or ("ConfigMap" if (match["what"] or "").lower() == "config" else "Secret")
    kind = "ConfigMap" if kind.lower() == "configmap" else "Secret"
    name = match["name"] or _volume_source(case.pod, text, kind)
    return case.finding(
        "config.key_missing",
        _("{kind} {name} has no key {key}", kind=kind, name=name or "?", key=key),
        cause=_(
            "The pod needs the key {key} of {kind} {name}: renamed, misspelt, or not written yet.", key=key, kind=kind, name=name or "?"
        ),
        evidence=_evidence(case, text),
        steps=(
            Step(_("See which keys it has (values stay hidden)"), case.kubectl("describe", kind.lower(), name or "")),
            case.edit(_("Add the key, or name the right one in the template")),
            case.restart(),
        ),
    )


def object_missing(case: Case) -> Finding | None:
    """A ConfigMap or Secret that the pod needs does not exist: the kubelet says so, or the pod waits and the API server has none."""
    said = _said(case, _MISSING)
    if said is not None:
        text, match = said
        kind, name = ("ConfigMap" if match[1].lower() == "configmap" else "Secret"), match[2]
    elif case.symptom.kind in ("config", "creating"):
        namespace = case.pod.metadata.namespace
        gone = next(
            (
                item
                for item in references(case.pod)
                if item[0] in ("ConfigMap", "Secret") and (item[0], namespace, item[1]) in case.facts.missing
            ),
            None,
        )
        if gone is None:
            return None
        text, (kind, name) = "", gone
    else:
        return None
    evidence = _evidence(case, text) if text else []
    if (kind, case.pod.metadata.namespace, name) in case.facts.missing:
        evidence.append(
            Evidence(
                text=_("The API server has no {kind} {name}", kind=kind, name=name),
                reference=f"/api/v1/namespaces/{case.pod.metadata.namespace}/{kind.lower()}s/{name}",
                time=case.facts.now,
            )
        )
    return case.finding(
        "config.config_map_missing" if kind == "ConfigMap" else "config.secret_missing",
        _("{kind} {name} does not exist", kind=kind, name=name),
        cause=_(
            "The pods need {kind} {name}, and the namespace {namespace} has none of that name.",
            kind=kind,
            name=name,
            namespace=case.pod.metadata.namespace,
        ),
        evidence=evidence,
        steps=(
            Step(_("See what there is"), case.kubectl("get", kind.lower())),
            Step(_("Create it, or name the right one in the template; the pods then start by themselves")),
        ),
    )


def invalid(case: Case) -> Finding | None:
    """Anything else that the kubelet refuses in a container's settings."""
    if case.symptom.kind != "config":
        return None
    message = case.waiting_message
    cause = None
    if re.search(r"runAsNonRoot", message):
        cause = _("The pod must not run as root (runAsNonRoot), and the image would: set runAsUser, or a numeric USER in the image.")
    return case.finding(
        "config.invalid",
        _("Container {container} has settings that the kubelet refuses", container=case.symptom.container),
        cause=cause,
        evidence=[case.waiting_evidence(), *case.event_evidence("Failed")],
        steps=(case.describe(), case.edit(_("Put right the template"))),
    )


RULES: tuple[Rule, ...] = (key_missing, object_missing, invalid)


def references(pod: Pod) -> Iterator[tuple[str, str]]:
    """(kind, name) of everything that must exist in the pod's namespace before the pod can start; optional ones left out."""
    spec = pod.spec
    for volume in spec.volumes:
        if volume.config_map and volume.config_map.name and not volume.config_map.optional:
            yield "ConfigMap", volume.config_map.name
        if volume.secret and volume.secret.secret_name and not volume.secret.optional:
            yield "Secret", volume.secret.secret_name
        if volume.persistent_volume_claim and volume.persistent_volume_claim.claim_name:
            yield "PersistentVolumeClaim", volume.persistent_volume_claim.claim_name
    for container in (*spec.init_containers, *spec.containers):
        yield from _container_references(container)
    for secret in spec.image_pull_secrets:
        if secret.name:
            yield "Secret", secret.name
    if spec.service_account_name:
        yield "ServiceAccount", spec.service_account_name


def _container_references(container: Container) -> Iterator[tuple[str, str]]:
    for source in container.env_from:
        if source.config_map_ref and source.config_map_ref.name and not source.config_map_ref.optional:
            yield "ConfigMap", source.config_map_ref.name
        if source.secret_ref and source.secret_ref.name and not source.secret_ref.optional:
            yield "Secret", source.secret_ref.name
    for variable in container.env:
        value = variable.value_from
        if value and value.config_map_key_ref and value.config_map_key_ref.name and not value.config_map_key_ref.optional:
            yield "ConfigMap", value.config_map_key_ref.name
        if value and value.secret_key_ref and value.secret_key_ref.name and not value.secret_key_ref.optional:
            yield "Secret", value.secret_key_ref.name


def _said(case: Case, pattern: re.Pattern[str]) -> tuple[str, re.Match[str]] | None:
    """Only where the pod cannot start: a container that runs may log such words for reasons of its own."""
    if case.symptom.kind not in ("config", "creating", "start"):
        return None
    for text in case.words():
        match = pattern.search(text)
        if match:
            return text, match
    return None


def _volume_source(pod: Pod, text: str, kind: str) -> str:
    """Name of the ConfigMap or Secret behind the volume that a mount message names."""
    named = re.search(r'volume "([^"]+)"', text)
    for volume in pod.spec.volumes:
        if named and volume.name == named[1]:
            if kind == "ConfigMap" and volume.config_map:
                return volume.config_map.name
            if kind == "Secret" and volume.secret:
                return volume.secret.secret_name
    return ""


def _evidence(case: Case, text: str) -> list[Evidence]:
    if text == case.waiting_message:
        return [case.waiting_evidence()]
    return [item for item in case.event_evidence("FailedMount", "Failed", limit=6) if item.quote == text][:1]
