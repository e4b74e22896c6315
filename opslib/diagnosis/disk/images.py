"""Images on the nodes that no pod uses. A kubelet lists the 50 biggest of its images (nodeStatusMaxImages)."""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.disk.facts import Facts, Image, NodeDisk, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _
from opslib.sources.quantities import text_of_bytes

_MUCH_BYTES = 20 * 2**30  # of images that nobody uses, on one node


def unused_on(facts: Facts, node: NodeDisk) -> list[Image] | None:
    """The images of a node that no container in the cluster runs, the biggest first; None where that is not known."""
    used = facts.images_in_use
    if used is None:
        return None
    short = {_short(one) for one in used}
    found = [image for image in node.status.images if image.names and not any(_short(name) in short for name in image.names)]
    return sorted(found, key=lambda image: -image.size_bytes)


def unused(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Much room in images that nobody uses: a warning where the node's disk is nearly full."""
    full = {
        one.place.namespace: one.share() or 0.0
        for one in sorted(facts.filesystems or (), key=lambda one: one.share() or 0.0)
    }  # fmt: skip
    for node in facts.nodes or ():
        found = unused_on(facts, node)
        name = node.metadata.name
        size = sum(image.size_bytes for image in found or ())
        tight = full.get(name, 0.0) >= parameters.use_warning
        if not found or size < (_MUCH_BYTES / 20 if tight else _MUCH_BYTES):
            continue
        yield Finding(
            check="images.unused",
            severity=Severity.WARNING if tight else Severity.INFO,
            subject=Subject("Node", name),
            title=_("{size} of the images on {node} are used by no pod", size=text_of_bytes(size), node=name),
            cause=_("The kubelet deletes such images only when its image file system is full to its threshold (85 % by default)."),
            evidence=tuple(
                Evidence(
                    text=_("An image of {size}", size=text_of_bytes(image.size_bytes)),
                    quote=image.names[-1],
                    reference=f"/api/v1/nodes/{name}",
                )
                for image in found[:5]
            ),
            steps=(
                Step(
                    _("Delete them on the node; what is needed later is pulled again"),
                    command("kubectl", *facts.kubectl, "debug", f"node/{name}", "-it", "--profile=sysadmin", "--image=busybox", "--",
                            "chroot", "/host", "crictl", "rmi", "--prune"),
                    changes=True,
                ),
            ),
        )  # fmt: skip


def _short(name: str) -> str:
    """A name without what is said or left out at will, or the digest alone where there is one."""
    digest = name.rpartition("@")[2]
    if digest.startswith("sha256:"):
        return digest
    return name.removeprefix("docker.io/").removeprefix("library/")
