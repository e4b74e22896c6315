"""What containers write outside their volumes: files, logs, and files that are deleted and still open."""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.disk.facts import Facts, Parameters, Writer
from opslib.diagnosis.disk.space import span
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _
from opslib.sources.quantities import text_of_bytes

NEAR = 0.8  # of a container's limit, from where on that is a warning
_LOUD_LINES = 100_000  # an hour; less fills no disk
_LOUD_FACTOR = 5  # times what was usual
_HIDDEN_BYTES = 2**30  # between what is in use and what all files together have


def near_limit(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A container that has nearly written as much as it may: its pod is evicted when it has."""
    for one in facts.writers or ():
        if one.limit is None or one.used is None or not one.limit or one.used < NEAR * one.limit:
            continue
        left = (one.limit - one.used) / one.growth if one.growth and one.growth > 0 else None
        when = None if left is None else _("As it grows now, that is in {when}", when=span(max(left, 0)))
        yield Finding(
            check="containers.near_limit",
            severity=Severity.WARNING,
            subject=Subject("Pod", one.pod, one.namespace),
            title=_("The container {name} has written nearly as much as it may", name=one.container),
            cause=_("At its limit of ephemeral storage the pod is evicted."),
            evidence=(
                Evidence(
                    text=_(
                        "{used} of {limit} of ephemeral storage are in use, its logs not counted",
                        used=text_of_bytes(one.used),
                        limit=text_of_bytes(one.limit),
                    ),
                    source="prometheus",
                    reference="container_fs_usage_bytes",
                ),
                *((Evidence(text=when, source="prometheus"),) if when else ()),
            ),
            steps=(*_look(facts, one), Step(_("Let it write to a volume, clean up after itself, or raise the limit"))),
        )


def big_writers(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Containers without a limit that have written much to the node's disk."""
    for one in facts.writers or ():
        whole = (one.used or 0) + (one.logs or 0)
        if one.limit is not None or whole < parameters.big_writer_gib * 2**30:
            continue
        logs = one.logs is not None and one.logs > (one.used or 0)
        size = text_of_bytes((one.logs if logs else one.used) or 0)
        yield Finding(
            check="containers.big_logs" if logs else "containers.big_writer",
            severity=Severity.WARNING if (one.growth or 0) * 86400 > 2**30 else Severity.INFO,
            subject=Subject("Pod", one.pod, one.namespace),
            title=_("The logs of the container {name} take {size} of its node's disk", name=one.container, size=size)
            if logs
            else _("The container {name} has written {size} to its node's disk", name=one.container, size=size),
            cause=_("It has no limit of ephemeral storage: it can fill the node's disk, and other pods are evicted with it."),
            evidence=(
                Evidence(
                    text=_("It grows by {rate} an hour", rate=text_of_bytes(max((one.growth or 0) * 3600, 0))),
                    source="prometheus",
                    reference="container_fs_usage_bytes",
                ),
            ),
            steps=(*_look(facts, one), Step(_("Give it a limit of ephemeral storage, and a volume for what it has to keep"))),
        )


def loud(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Pods that log far more than they used to: their logs push out what was there before, and fill the log store."""
    for one in facts.log_volumes or ():
        if one.lines < _LOUD_LINES or one.before is None or one.lines < _LOUD_FACTOR * max(one.before, 1.0):
            continue
        yield Finding(
            check="containers.loud",
            severity=Severity.WARNING,
            subject=Subject("Pod", one.pod, one.namespace),
            title=_("It logs {factor} times as much as usual", factor=round(one.lines / max(one.before, 1.0))),
            evidence=(
                Evidence(
                    text=_("{lines} lines in the last hour, {before} an hour the day before", lines=one.lines, before=round(one.before)),
                    source="elasticsearch",
                ),
            ),
            steps=(
                Step(
                    _("See what it says"),
                    command("kubectl", *facts.kubectl, "-n", one.namespace or "default", "logs", one.pod, "--tail=50"),
                ),
                Step(_("Raise its log level, or mend what it complains about")),
            ),
        )


def open_files(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """More is in use than all files together have: files that are deleted, and that a process still has open."""
    for one in facts.folders or ():
        total = one.total
        if one.cut or total is None or one.used is None or not one.claim:
            continue
        hidden = one.used - total
        if hidden < max(_HIDDEN_BYTES, 0.1 * one.used):
            continue
        yield Finding(
            check="volumes.open_files",
            severity=Severity.WARNING,
            subject=Subject("PersistentVolumeClaim", one.claim, one.namespace),
            title=_("{size} of the volume are in no file that can be seen", size=text_of_bytes(hidden)),
            cause=_("Most likely files were deleted that a process still has open: their space comes back when it closes them or ends."),
            evidence=(
                Evidence(
                    text=_(
                        "{used} are in use, all files below {path} together have {total}",
                        used=text_of_bytes(one.used),
                        path=one.path,
                        total=text_of_bytes(total),
                    ),
                    reference=command("df", "-k", "-P", one.path),
                ),
            ),
            steps=(
                Step(
                    _("Look for open files that are deleted"),
                    command("kubectl", *facts.kubectl, "-n", one.namespace, "exec", one.pod, "-c", one.container, "--",
                            "find", "/proc", "-maxdepth", "3", "-path", "*/fd/*", "-lname", "*(deleted)"),
                ),
                Step(_("Let the process open its files anew (often by a signal), or restart it")),
            ),
            affected=(Subject("Pod", one.pod, one.namespace),),
        )  # fmt: skip


def _look(facts: Facts, one: Writer) -> Iterator[Step]:
    words = ["-n", one.namespace, "exec", one.pod, "-c", one.container, "--", "du", "-x", "-k", "-d", "3", "/"]
    yield Step(_("Look at what it writes"), command("kubectl", *facts.kubectl, *words))
