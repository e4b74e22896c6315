"""Plans that make a volume bigger, followed until its file system has grown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from opslib.actions.kubernetes import KubernetesSystem, Object, absent, services_of, state_of
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.environments import Environment
from opslib.errors import InputError, NotFound, SourceError
from opslib.findings import command
from opslib.messages import Message, _, one_line
from opslib.sources.prometheus import matcher, selector
from opslib.sources.quantities import text_of_bytes, value_of

if TYPE_CHECKING:
    from opslib.actions.prometheus import PrometheusSystem

_DEADLINE_SECONDS = 900  # a provider may take minutes, the kubelet and the scrape a minute each
_EBS = ("ebs.csi.aws.com", "kubernetes.io/aws-ebs")


def expand(
    system: KubernetesSystem,
    environment: Environment,
    requester: str,
    claim: str,
    namespace: str,
    size: str,
    *,
    metrics: PrometheusSystem | None = None,
) -> Plan:
    """Ask for more in a volume claim, where its storage class allows that.

    Parameters
    ----------
    size
        As Kubernetes writes it, "100Gi", or by how much more, "+20Gi".
    metrics
        Where the file system's size is followed; None: the claim's own word has to do.

    Raises
    ------
    InputError
        There is no such claim; it has no volume; its class does not allow it, or is not there; the size is none, or not more than now; or
        it is being expanded already.
    """
    where = {"resource": "persistentvolumeclaims", "namespace": namespace, "name": claim}
    try:
        found = system.cluster.whole(where["resource"], claim, namespace)
    except NotFound as error:
        raise absent(f"pvc/{claim}", "pvc", namespace) from error
    kind = _class_of(system, found)
    before, wanted = _sizes(found, size)
    amount = size if not size.startswith("+") else f"{math.ceil(wanted / 2**30)}Gi"
    body = {"spec": {"resources": {"requests": {"storage": amount}}}}
    request = {**where, "verb": "patch", "patch": "merge-patch", "body": body}
    preview = system.preview(request)
    title = _("Expand the volume {name} in {namespace} from {before} to {after}",
              name=claim, namespace=namespace, before=text_of_bytes(before), after=amount)  # fmt: skip
    step = Step(
        what=title.text(),
        system=system.name,
        request=request,
        before=state_of(found),
        after=preview.after,
        difference=preview.difference,
        why_no_inverse=_("a volume can be made bigger only, never smaller").text(),
    )
    exact = value_of(amount) or wanted
    grown = Condition(
        what=_("the volume has {size}, and its file system has grown", size=amount).text(),
        system=system.name,
        question={"grown": where, "bytes": exact},
        deadline_seconds=_DEADLINE_SECONDS,
    )
    pods = [one for one in system.cluster.whole_list("pods", namespace) if claim in _claims_of(one)]
    followed, cautions = _followed(metrics, claim, namespace, exact - before)
    reach = Reach(
        namespaces=[namespace], services=services_of(system.cluster, {namespace: [one["metadata"].get("labels", {}) for one in pods]})
    )
    return make(
        system, environment, requester, "scale", title.text(), [step], reach=reach,
        cautions=[*_cautions(system, found, kind, pods), *cautions], verify=[grown, *followed],
    )  # fmt: skip


def _class_of(system: KubernetesSystem, found: Object) -> Object:
    """The claim's storage class, which must allow it."""
    name, namespace = found["metadata"]["name"], found["metadata"]["namespace"]
    status = found.get("status", {})
    if status.get("phase") != "Bound" or not found["spec"].get("volumeName"):
        raise InputError(
            _("The claim {name} has no volume (it is {phase}): there is nothing to expand", name=name, phase=status.get("phase", "-")),
            _("See why it is not bound"),
            command("kubectl", "-n", namespace, "describe", "pvc", name),
        )
    class_name = found["spec"].get("storageClassName")
    if not class_name:
        raise InputError(_("The claim {name} has no storage class: its volume was made by hand and is expanded by hand", name=name))
    try:
        kind = system.cluster.whole("storageclasses.storage.k8s.io", class_name)
    except NotFound as error:
        raise InputError(_("The storage class {name} of the claim is not there any more", name=class_name)) from error
    if not kind.get("allowVolumeExpansion"):
        raise InputError(
            _("The storage class {name} does not allow to expand volumes", name=class_name),
            _("Move the data to a bigger volume; or, where its driver can do it, allow it in the class"),
            command("kubectl", "patch", "storageclass", class_name, "-p", '{"allowVolumeExpansion": true}'),
        )
    return kind


def _sizes(found: Object, size: str) -> tuple[float, float]:
    """What the claim asks for now, and what it is to ask for."""
    asked = value_of(found["spec"].get("resources", {}).get("requests", {}).get("storage"))
    given = value_of(found.get("status", {}).get("capacity", {}).get("storage"))
    before = max(asked or 0.0, given or 0.0)
    amount = value_of(size.removeprefix("+"))
    if amount is None or amount <= 0 or amount < 1024:
        raise InputError(_("size: {value} is no size", value=one_line(size)), _("Write it like 100Gi, or +20Gi for so much more"))
    if asked and given and asked > given:
        raise InputError(
            _("The volume is being expanded already: it asks for {asked} and has {given}",
              asked=text_of_bytes(asked), given=text_of_bytes(given)),
            _("See how far it is"),
            command("kubectl", "-n", found["metadata"]["namespace"], "describe", "pvc", found["metadata"]["name"]),
        )  # fmt: skip
    wanted = before + amount if size.startswith("+") else amount
    if wanted < before:
        raise InputError(
            _("A volume cannot be made smaller: it has {before}, and {after} is less", before=text_of_bytes(before), after=size),
            _("Move the data to a smaller volume, if it must be"),
        )
    if wanted == before:
        raise InputError(_("The volume has {size} already", size=text_of_bytes(before)))
    return before, wanted


def _claims_of(pod: Object) -> set[str]:
    return {
        one["persistentVolumeClaim"]["claimName"] for one in pod["spec"].get("volumes", []) if one.get("persistentVolumeClaim")
    }  # fmt: skip


def _followed(
    metrics: PrometheusSystem | None, claim: str, namespace: str, more: float
) -> tuple[list[Condition], list[Message]]:  # fmt: skip
    """The condition that there is room: the file system is bigger, or more of it is available, by half of what was asked for at least.

    Not by all of it: a part is the file system's own, and what waited for room may be written at once.
    """
    if metrics is None:
        return [], []
    labels = (matcher(metrics.prometheus.settings.namespace_label, namespace), matcher("persistentvolumeclaim", claim))
    names = [f"max({selector(f'kubelet_volume_stats_{name}_bytes', *labels)})" for name in ("capacity", "available")]
    try:
        size, available = (metrics.value(promql) for promql in names)
    except SourceError as error:
        return [], [_("Whether the file system grows cannot be followed: {reason}", reason=error.what)]
    if size is None or available is None:
        return [], [_("Whether the file system grows cannot be followed: no pod has the volume mounted, or the kubelet is not scraped")]
    wanted = [{"promql": promql, "at_least": now + more / 2} for promql, now in zip(names, (size, available), strict=True)]
    what = _(
        "the file system is bigger than {size}, or more than {available} of it are available",
        size=text_of_bytes(size),
        available=text_of_bytes(available),
    ).text()
    return [Condition(what=what, system=metrics.name, question={"any": wanted}, deadline_seconds=_DEADLINE_SECONDS)], []


def _cautions(system: KubernetesSystem, found: Object, kind: Object, pods: list[Object]) -> Iterator[Message]:
    name, namespace = found["metadata"]["name"], found["metadata"]["namespace"]
    yield _("A volume can be made bigger only, never smaller")
    if kind.get("provisioner") in _EBS:
        yield _("AWS lets a volume be changed again only hours later: choose a size that lasts")
    if not any(one.get("status", {}).get("phase") == "Running" for one in pods):
        yield _("No pod that runs has it mounted: its file system grows only when one does")
    if "ReadWriteMany" in found["spec"].get("accessModes", []):
        yield _("It is shared: everybody who has it mounted gets the new size")
    for one in system.cluster.whole_list("statefulsets.apps", namespace):
        for template in one["spec"].get("volumeClaimTemplates") or []:
            owner, prefix = one["metadata"]["name"], template["metadata"]["name"]
            if re.fullmatch(rf"{re.escape(prefix)}-{re.escape(owner)}-\d+", name):
                yield _(
                    "It belongs to the StatefulSet {name}, whose template keeps {size} and cannot be changed: expand its other replicas "
                    "alike, and make it anew with another template (kubectl delete --cascade=orphan, then apply), or the next replica is "
                    "small",
                    name=owner,
                    size=str(template["spec"].get("resources", {}).get("requests", {}).get("storage", "-")),
                )
