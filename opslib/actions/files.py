"""Files in containers, deleted or emptied by a list that somebody has reviewed: each file by its name, one step each.

A request is ``{"verb": "delete" or "empty", "namespace", "pod", "container", "folder", "path"}``. A state is the pod's uid with what the
file is: inode, size and time of its last change; of one that is to be emptied only the inode, since somebody writes to it all the time.

Nothing here knows patterns: a path is one file, below the chosen folder, with no link on the way, and is looked at again just before.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import stat
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from opslib.actions.kubernetes import absent, services_of
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.actions.systems import ABSENT, Preview
from opslib.environments import Environment
from opslib.errors import Conflict, InputError, NotFound, Refused, SourceError
from opslib.findings import command
from opslib.messages import Message, _, _n, one_line
from opslib.sources.execution import NoSuchProgram, Result
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.objects import Pod
from opslib.sources.quantities import text_of_bytes

MOST_FILES = 100  # in one plan: more than that nobody reviews

_SYSTEM_FOLDERS = re.compile(r"/(|bin|boot|dev|etc|lib|lib64|opt|proc|root|run|sbin|sys|usr|var|var/lib|var/run)")
_SYSTEM_BELOW = re.compile(r"/(bin|boot|dev|etc|lib|lib64|proc|run|sbin|sys|usr|var/run)/")
_DATABASE = re.compile(
    r"(^|/)(pg_wal|pg_xact|base|global|lost\+found|WAL|wal)(/|$)|\.(ibd|frm|wal|rdb|aof|sst|db|mdb|index|timeindex|snap)$"
)
_FREED_BYTES = 64 * 2**20  # what must come back to be seen among what others write meanwhile
_SECONDS = 20


class ContainerFiles:
    """The files in the containers of one cluster. See `opslib.actions.systems.System`."""

    name = "files"

    def __init__(self, cluster: Kubernetes) -> None:
        self.cluster = cluster

    def target(self) -> str:
        """The UID of the kube-system namespace."""
        return self.cluster.cluster_uid()

    def observe(self, request: dict[str, Any]) -> dict[str, Any]:
        """See `System.observe`. A file behind a link, or what is no file, is no state of it: it is refused.

        Raises
        ------
        Refused
            It is no regular file, or is reached through a link.
        """
        try:
            pod = self.cluster.get(Pod, "pods", request["pod"], request["namespace"])
        except NotFound:
            return ABSENT
        uid, path = pod.metadata.uid, request["path"]
        said = self._said(request, ["stat", "-c", "%f|%s|%Y|%i", "--", path])
        if said is None and self._result(request, ["test", "-e", path]).exit_status != 0:
            return {"pod": uid, "absent": True}
        match = re.fullmatch(r"([0-9a-f]+)\|(\d+)\|(\d+)\|(\d+)\n?", said or "")
        if match is None or not stat.S_ISREG(int(match[1], 16)):
            raise Refused("files", _("{path} is no file, but a folder, a link or a device", path=path), _("Name files only"))
        size, changed, inode = match[2], match[3], match[4]
        real = (self._said(request, ["readlink", "-f", "--", path]) or "").removesuffix("\n")
        if real != path:
            raise Refused("files", _("{path} is reached through a link, and is really {real}", path=path, real=one_line(real)))
        if request["verb"] == "empty":
            return {"pod": uid, "inode": int(inode)}
        return {"pod": uid, "inode": int(inode), "size": int(size), "changed": int(changed)}

    def preview(self, request: dict[str, Any]) -> Preview:
        """What is lost. A container has no dry run: the file is looked at, nothing more."""
        now = self.observe(request)
        if "inode" not in now:
            raise NotFound("files", _("There is no file {path}", path=request["path"]))
        return Preview({"pod": now["pod"], "gone" if request["verb"] == "delete" else "emptied": now["inode"]}, _line(request, now))

    def reached(self, request: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> bool:
        """See `System.reached`. Emptying is done again where it is not known: that harms nobody."""
        return "gone" in after and now.get("pod") == after["pod"] and now.get("inode") != after["gone"]

    def send(self, request: dict[str, Any], before: dict[str, Any]) -> None:
        """Do it, if the file is still the same."""
        if self.observe(request) != before:
            raise Conflict(
                "files", _("{path} is not as it was when the plan was made", path=request["path"]), _("Make the plan again")
            )  # fmt: skip
        words = ["rm", "-f", "--"] if request["verb"] == "delete" else ["truncate", "-c", "-s", "0", "--"]
        words.append(request["path"])
        result = self._result(request, words)
        if result.exit_status != 0:
            raise Refused(
                "files",
                _("{command} in {pod} failed: {reason}", command=command(*words), pod=request["pod"],
                  reason=one_line(result.stderr.decode("utf-8", "replace")) or str(result.exit_status)),
                _("See who owns the file, and whether its file system can be written to"),
            )  # fmt: skip

    def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        """``{"gone": [request, ...]}``: none of the files is there any more; ``{"available": request, "bytes"}``: so much is available
        on the file system of its folder.
        """
        if "gone" in question:
            left = [one["path"] for one in question["gone"] if "inode" in self.observe(one)]
            return not left, _("still there: {names}", names=left[:10])
        request = question["available"]
        now = self.available(request)
        return now is not None and now >= question["bytes"], _(
            "{now} are available; a process may still have the files open: restart it, or let it open its files anew",
            now="-" if now is None else text_of_bytes(now),
        )

    def available(self, request: dict[str, Any]) -> int | None:
        """Bytes available on the file system of a request's folder; None where ``df`` does not say."""
        try:
            said = self._said(request, ["df", "-k", "-P", "--", request["folder"]]) or ""
        except NoSuchProgram:
            return None
        match = re.search(r"\s(\d+)\s+(\d+)\s+(\d+)\s+\d+%\s", said.partition("\n")[2])
        return int(match[3]) * 1024 if match else None

    def opened(self, request: dict[str, Any]) -> set[str] | None:
        """Paths that processes in the container have open; None where that cannot be seen."""
        try:
            said = self._result(request, ["sh", "-c", "ls -l /proc/[0-9]*/fd 2>/dev/null"]).stdout  # processes end meanwhile
        except SourceError:
            return None
        return set(re.findall(r"-> (/.*)$", said.decode("utf-8", "surrogateescape"), re.MULTILINE)) or None

    def _result(self, request: dict[str, Any], words: Sequence[str]) -> Result:
        where = (request["namespace"], request["pod"], request["container"])
        return self.cluster.execution.run(*where, words, deadline_seconds=_SECONDS, limit_bytes=4 * 2**20)

    def _said(self, request: dict[str, Any], words: Sequence[str]) -> str | None:
        """What a command says; None where it fails."""
        result = self._result(request, words)
        return result.stdout.decode("utf-8", "surrogateescape") if result.exit_status == 0 else None


def delete_files(
    system: ContainerFiles,
    environment: Environment,
    requester: str,
    pod: str,
    files: Iterable[str],
    namespace: str,
    folder: str,
    container: str = "",
    *,
    empty: bool = False,
) -> Plan:
    """Delete files of a container, or empty them, each by its name.

    Parameters
    ----------
    files
        Whole paths, below `folder`.
    container
        Which of the pod's; empty: its only one.
    empty
        Make them 0 bytes long rather than delete them: for a log that a process has open.

    Raises
    ------
    InputError
        A path is no single file below the folder (a pattern, a folder, a link, a path with ``..``), or is not there; the folder is one of
        the system's; the pod is not there or has several containers; there are too many.
    SourceError
        Commands may not be run in the container, or its image lacks ``stat`` or ``readlink``.
    """
    names = list(dict.fromkeys(files))
    _check(names, folder)
    try:
        found = system.cluster.get(Pod, "pods", pod, namespace)
    except NotFound as error:
        raise absent(f"pod/{pod}", "pods", namespace) from error
    chosen = _container(found, container)
    verb = "empty" if empty else "delete"
    base = {"verb": verb, "namespace": namespace, "pod": pod, "container": chosen, "folder": folder}
    requests = [{**base, "path": name} for name in names]
    states = [_state(system, request) for request in requests]
    steps = [
        Step(
            what=(_("Empty {path}", path=request["path"]) if empty else _("Delete {path}", path=request["path"])).text(),
            system=system.name,
            request=request,
            before=system.observe(request) if empty else now,
            after={"pod": now["pod"], "emptied" if empty else "gone": now["inode"]},
            difference=_line(request, now),
            why_no_inverse=_("what was in a file is lost with it").text(),
            final=True,
        )
        for request, now in zip(requests, states, strict=True)
    ]
    size = sum(now["size"] for now in states)
    title = _title(len(names), empty, f"{namespace}/{pod}", size, _listing(requests, states))
    services = services_of(system.cluster, {namespace: [found.metadata.labels]})
    return make(
        system, environment, requester, "exec", title.text(), steps, reach=Reach(namespaces=[namespace], services=services),
        cautions=_cautions(system, requests, empty=empty), verify=_verify(system, requests, size, empty=empty),
    )  # fmt: skip


def _title(count: int, empty: bool, where: str, size: int, listing: str) -> Message:
    amount = text_of_bytes(size) if size >= 1024 else f"{size} B"
    values = {"where": where, "size": amount, "listing": listing[:12]}
    if empty:
        return _n(
            "Empty {count} file ({size}) in {where}, listing {listing}", "Empty {count} files ({size}) in {where}, listing {listing}",
            count, **values,
        )  # fmt: skip
    return _n(
        "Delete {count} file ({size}) in {where}, listing {listing}", "Delete {count} files ({size}) in {where}, listing {listing}",
        count, **values,
    )  # fmt: skip


def _check(names: Sequence[str], folder: str) -> None:
    """Refuse what is not certainly one file below the folder, before anybody is asked."""
    if not names:
        raise InputError(_("Name the files"), _("Each by its whole path"))
    if len(names) > MOST_FILES:
        raise InputError(_("{count} files are more than one plan may have ({most})", count=len(names), most=MOST_FILES), _("Make several"))
    if not folder.startswith("/") or posixpath.normpath(folder) != folder or folder.startswith("//"):
        raise InputError(_("folder: {value} is no whole path of a folder", value=one_line(folder)), _("Write it like /data/logs"))
    if _SYSTEM_FOLDERS.fullmatch(folder) or _SYSTEM_BELOW.match(f"{folder}/"):
        raise InputError(_("Nothing is deleted in {folder}: it belongs to the image or the system", folder=folder))
    for name in names:
        shown = one_line(name)
        if re.search(r"[*?\[\]{}]", name):
            raise InputError(_("{path} is a pattern: only single files are deleted, each by its name", path=shown))
        if not name.isprintable() or "\ufffd" in name or any("\udc80" <= char <= "\udcff" for char in name):
            raise InputError(_("{path} has a character that cannot be shown, so that nobody can review it", path=shown))
        if not name.startswith("/") or posixpath.normpath(name) != name or name.startswith("//"):
            raise InputError(_("{path} is no whole path without detours", path=shown), _("Write it as find prints it"))
        if not name.startswith(f"{folder}/"):
            raise InputError(_("{path} is not in {folder}", path=shown, folder=folder), _("Choose the folder that has all of them"))


def _container(pod: Pod, wanted: str) -> str:
    names = [one.name for one in pod.spec.containers]
    if wanted in names:
        return wanted
    if not wanted and len(names) == 1:
        return names[0]
    what = (
        _("The pod {pod} has no container {name}", pod=pod.metadata.name, name=one_line(wanted))
        if wanted
        else _("The pod {pod} has several containers", pod=pod.metadata.name)
    )
    raise InputError(what, _("Name one of {names}", names=names))


def _state(system: ContainerFiles, request: dict[str, Any]) -> dict[str, Any]:
    """Inode, size and time of the file."""
    try:
        now = system.observe({**request, "verb": "delete"})
    except Refused as error:
        raise InputError(error.what, error.remedy) from error
    if "inode" not in now:
        where = ["-n", request["namespace"], "exec", request["pod"], "-c", request["container"], "--"]
        raise InputError(
            _("There is no file {path}", path=request["path"]),
            _("Those that are there"),
            command("kubectl", *where, "find", request["folder"], "-xdev", "-type", "f"),
        )
    return now


def _line(request: dict[str, Any], now: dict[str, Any]) -> str:
    if "size" not in now:
        return f"- {request['path']}\n"
    changed = datetime.fromtimestamp(now["changed"], UTC)
    return f"- {request['path']}  {now['size']} B  {changed:%Y-%m-%d %H:%M:%S} UTC\n"


def _listing(requests: Sequence[dict[str, Any]], states: Sequence[dict[str, Any]]) -> str:
    """SHA-256 of the list: the same list of the same files gives the same."""
    lines = sorted(
        f"{now['size']} {now['changed']} {now['inode']} {request['path']}\n" for request, now in zip(requests, states, strict=True)
    )
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _cautions(system: ContainerFiles, requests: Sequence[dict[str, Any]], *, empty: bool) -> list[Message]:
    cautions = []
    opened = system.opened(requests[0])
    held = [one["path"] for one in requests if one["path"] in (opened or ())]
    data = [one["path"] for one in requests if _DATABASE.search(one["path"])]
    if data:
        cautions.append(_("{names} look like the data of a database: let the database itself delete them", names=data[:5]))
    if empty:
        cautions.append(_("A program that does not append writes on where it was, and the file is as long as before, with nothing in it"))
    elif held:
        cautions.append(
            _("A process has {names} open: their space comes back only when it closes them; empty them instead", names=held[:5])
        )
    elif opened is None:
        cautions.append(_("Whether a process has them open could not be seen: then their space comes back only when it closes them"))
    return cautions


def _verify(system: ContainerFiles, requests: Sequence[dict[str, Any]], size: int, *, empty: bool) -> list[Condition]:
    found = []
    if not empty:
        what = _("the files are gone").text()
        found.append(Condition(what=what, system=system.name, question={"gone": list(requests)}, deadline_seconds=60))
    now = system.available(requests[0]) if size >= _FREED_BYTES else None
    if now is not None:
        question = {"available": requests[0], "bytes": now + size // 2}
        what = _("about {size} more are available", size=text_of_bytes(size)).text()
        found.append(Condition(what=what, system=system.name, question=question, deadline_seconds=60))
    return found
