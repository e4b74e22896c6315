"""The biggest folders in the containers that have a full volume, as ``du`` says, limited in depth, time and output.

It reads the whole folder tree, which a busy disk feels: few mounts are looked at, within `SECONDS`, on one file system (``-x``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from opslib.diagnosis.disk.facts import File, Folder, Folders, Parameters, Place
from opslib.errors import NotFound, SourceError
from opslib.facts import Questions
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity, Step, Subject, command
from opslib.messages import Text, _
from opslib.sources.execution import Execution, NoSuchProgram, Result
from opslib.sources.objects import Pod

MOST_MOUNTS = 4
MOST_FOLDERS = 200
MOST_FILES = 50
BIG_FILE_KIB = 10 * 1024
SECONDS = 20
_BYTES = 512 * 1024

Mount = tuple[str, str, str, str, str]
"""Namespace, pod, container, path, and the claim whose volume is there (empty: none is known)."""


def read(
    sources: Sources, parameters: Parameters, questions: Questions, full: Sequence[tuple[Place, Sequence[Pod]]]
) -> list[Folders] | None:
    """The folders of the pod that was chosen, else of those that have the fullest volumes; None where commands may not be run.

    Parameters
    ----------
    full
        Volumes to look at, the fullest first, each with the pods that have it.
    """
    if not parameters.look_inside:
        return None
    cluster = sources.kubernetes
    if parameters.pod:
        namespace, name = parameters.pod.split("/")
        try:
            pod = cluster.get(Pod, "pods", name, namespace)
        except NotFound as error:
            questions.failed(error, _("the folders of {pod}", pod=parameters.pod))
            return None
        mounts = _of_pod(pod, parameters.path)
    else:
        mounts = [mount for place, pods in full for mount in _of_volume(place, pods)][:MOST_MOUNTS]
    if not mounts:
        return []
    if "exec" in sources.environment.approval.required_for:
        questions.gap(_not_looked(sources, mounts[0], _("Commands in containers need an approval in this environment.")))
        return None
    if not all(cluster.may("create", "pods/exec", namespace) for namespace in {mount[0] for mount in mounts}):
        why = _("That needs the right to create pods/exec, which these credentials do not have.")
        questions.gap(_not_looked(sources, mounts[0], why))
        return None
    execution, depth = cluster.execution, parameters.depth
    asked = [questions.ask(_("the biggest folders"), _question(execution, mount, depth), _subject(mount)) for mount in mounts]
    return [found for answer in asked if (found := answer.get()) is not None]


def _subject(mount: Mount) -> Subject:
    return Subject("Pod", mount[1], mount[0])


def _of_pod(pod: Pod, path: str) -> list[Mount]:
    claims = {one.name: one.persistent_volume_claim.claim_name for one in pod.spec.volumes if one.persistent_volume_claim}
    found = []
    for container in pod.spec.containers:
        if path:
            return [(pod.metadata.namespace, pod.metadata.name, container.name, path.rstrip("/") or "/", "")]
        for mount in container.volume_mounts:
            if mount.name in claims:
                where = mount.mount_path.rstrip("/") or "/"
                found.append((pod.metadata.namespace, pod.metadata.name, container.name, where, claims[mount.name]))
    return found[:MOST_MOUNTS]


def _of_volume(place: Place, pods: Sequence[Pod]) -> Iterable[Mount]:
    """Where a volume is mounted first in a pod that runs."""
    for pod in pods:
        running = {one.name for one in pod.status.container_statuses if one.state.running is not None}
        for mount in _of_pod(pod, ""):
            if mount[4] == place.name and mount[2] in running:
                return [mount]
    return []


def _question(execution: Execution, mount: Mount, depth: int) -> Callable[[], Folders]:
    return lambda: folders(execution, mount, depth)


def folders(execution: Execution, mount: Mount, depth: int) -> Folders:
    """What ``du`` and ``df`` say of a mount.

    Raises
    ------
    SourceError
        The image has no ``du``, or it did not end in time.
    """
    namespace, pod, container, path, claim = mount
    said = _limited(execution, mount, ["du", "-x", "-k", "-d", str(depth), "--", path])
    try:
        used = used_bytes(execution.run(namespace, pod, container, ["df", "-k", "-P", "--", path], limit_bytes=64 * 1024).stdout)
    except NoSuchProgram:
        used = None
    found = sizes(said.stdout)
    biggest = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return Folders(
        namespace=namespace, pod=pod, container=container, path=path, claim=claim, used=used,
        folders=tuple(Folder(name, size) for name, size in biggest[:MOST_FOLDERS]), files=_files(execution, mount),
        cut=said.truncated or said.exit_status == 124,  # timeout's own
    )  # fmt: skip


def _limited(execution: Execution, mount: Mount, words: Sequence[str]) -> Result:
    """What a command says that has a limit of its own, where the image can give it one, so that it ends in the container too."""
    where = mount[:3]
    try:
        limited = ["timeout", str(SECONDS), *words]
        return execution.run(*where, limited, deadline_seconds=SECONDS + 10, limit_bytes=_BYTES, cut=True)
    except NoSuchProgram:
        return execution.run(*where, words, deadline_seconds=SECONDS, limit_bytes=_BYTES, cut=True)


def _files(execution: Execution, mount: Mount) -> tuple[File, ...] | None:
    """The biggest files of a mount; None where the image cannot look for them, or not in time: the folders say the most."""
    find = ["find", mount[3], "-xdev", "-type", "f", "-size", f"+{BIG_FILE_KIB}k", "-exec", "stat", "-c", "%s|%Y|%n", "{}", "+"]
    try:
        said = _limited(execution, mount, find)
    except SourceError:
        return None
    found = files(said.stdout, mount[3])
    return None if not found and said.exit_status != 0 else tuple(sorted(found, key=lambda one: -one.size)[:MOST_FILES])


def files(output: bytes, folder: str) -> list[File]:
    """Files from the lines "size|seconds|path". What is none (a name may have a line's end in it) is left out."""
    found = []
    for line in output.decode("utf-8", "replace").split("\n"):
        match = re.fullmatch(r"(\d{1,18})\|(\d{1,11})\|(/.*)", line)
        if match and match[3].startswith(folder.rstrip("/") + "/"):
            found.append(File(match[3], int(match[1]), datetime.fromtimestamp(int(match[2]), UTC)))
    return found


def sizes(output: bytes) -> Mapping[str, int]:
    """Bytes by folder from ``du -k``. A line that is none (a folder's name may have a line's end in it) is left out."""
    found = {}
    for line in output.decode("utf-8", "replace").split("\n"):
        match = re.fullmatch(r"(\d+)\s+(/.*)", line)
        if match:
            found[match[2].rstrip("/") or "/"] = int(match[1]) * 1024
    return found


def used_bytes(output: bytes) -> int | None:
    """Bytes in use from ``df -k -P``, whose second line has the file system; None where it says something else."""
    lines = output.decode("utf-8", "replace").splitlines()
    match = re.search(r"\s(\d+)\s+(\d+)\s+(\d+)\s+\d+%\s", lines[1]) if len(lines) > 1 else None
    return int(match[2]) * 1024 if match else None


def _not_looked(sources: Sources, mount: Mount, why: Text) -> Finding:
    namespace, pod, container, path, _claim = mount
    options = sources.environment.kubernetes.kubectl_options
    by_hand = command("kubectl", *options, "-n", namespace, "exec", pod, "-c", container, "--", "du", "-x", "-k", "-d", "2", path)
    return Finding(
        check="gap.folders",
        severity=Severity.INFO,
        subject=_subject(mount),
        title=_("The folders of the fullest volumes were not looked at"),
        cause=why,
        steps=(Step(_("Look at them by hand, when you may"), by_hand),),
    )
