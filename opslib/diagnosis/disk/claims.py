"""Claims whose volume is being expanded, waits for it, or cannot be.

The conditions and the fields of the status are those of PersistentVolumeClaimStatus:
https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/persistent-volume-claim-v1/
"""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.disk.facts import Facts, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import Message, _, one_line
from opslib.sources.quantities import value_of

FAILED = ("ControllerResizeError", "NodeResizeError")


def resizing(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A claim that asks for more than its volume has."""
    for claim in facts.claims or ():
        wanted = value_of(claim.spec.resources.requests.get("storage"))
        given = value_of(claim.status.capacity.get("storage"))
        conditions = {one.type: one for one in claim.status.conditions if one.status == "True"}
        pending = conditions.get("FileSystemResizePending")
        failed = next((conditions[name] for name in FAILED if name in conditions), None)
        if claim.status.phase != "Bound" or not (pending or failed or (wanted and given and wanted > given)):
            continue
        name, namespace = claim.metadata.name, claim.metadata.namespace
        said = failed or pending or conditions.get("Resizing")
        yield Finding(
            check="volumes.resize_failed" if failed else "volumes.resize_pending",
            severity=Severity.CRITICAL if failed else Severity.WARNING,
            subject=Subject("PersistentVolumeClaim", name, namespace),
            title=_("The expansion of the volume {name} has failed", name=f"{namespace}/{name}")
            if failed
            else _("The volume {name} is not expanded yet", name=f"{namespace}/{name}"),
            cause=_why(bool(failed), bool(pending)),
            evidence=(
                Evidence(
                    text=_(
                        "It asks for {wanted} and has {given}",
                        wanted=str(claim.spec.resources.requests.get("storage", "-")),
                        given=str(claim.status.capacity.get("storage", "-")),
                    ),
                    quote=one_line(said.message, 400) if said else "",
                    reference=f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}",
                    time=said.last_transition_time if said else None,
                ),
            ),
            steps=(
                Step(_("See its conditions and events"), command("kubectl", *facts.kubectl, "-n", namespace, "describe", "pvc", name)),
                *(_next(bool(pending))),
            ),
        )


def _why(failed: bool, pending: bool) -> Message:
    if failed:
        return _("The storage driver refused it: a limit or quota of the provider, or a volume that was changed only just before.")
    if pending:
        return _("The disk has grown, its file system has not: the kubelet does that when the volume is mounted in a running pod.")
    return _("The storage driver's resizer has not done it yet, or does not run.")


def _next(pending: bool) -> Iterator[Step]:
    if pending:
        yield Step(_("Wait a minute; where it stays so, restart the pod that has the volume"))
    else:
        yield Step(_("See whether the storage driver's controller runs, and what its resizer logs"))
