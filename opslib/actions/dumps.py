"""What goes on in a container, brought out as a file: heap dumps, and the list of its processes.

A request names every command that is run in the container, in order: ``make`` leaves a file there; ``fetch`` writes it out, the first of
several commands that ends well; ``remove`` takes it away again, whatever happened. What comes out is written to a file of the environment's
folder that its owner alone may read; beside it stands what it is, with its SHA-256. It is whole or it is not there.

A dump holds whatever the program held, passwords and customers' data too: it is sensitive, and is never shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from opslib.actions.kubernetes import KubernetesSystem, absent, services_of
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.actions.systems import ABSENT, Preview
from opslib.environments import Environment
from opslib.errors import Conflict, InputError, NotFound, Refused, SourceError
from opslib.findings import command
from opslib.messages import Message, Text, _, one_line
from opslib.sources.execution import NoSuchProgram, Result
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.objects import Container, Pod
from opslib.sources.quantities import text_of_bytes, value_of

Runtime = Literal["jvm", "go", "python", "node"]
RUNTIMES: tuple[Runtime, ...] = ("jvm", "go", "python", "node")
Progress = Callable[[int, int | None], None]

MI, GI = 2**20, 2**30
_KEPT_SHARE, _KEPT_BYTES = 0.05, 2 * GI  # of the disk here, that is left free: a twentieth, at most 2 GiB
_HEADROOM = 1.1  # of what is expected, that must be free in the container
_LOOK_EACH = 64 * MI  # bytes after which the disk here is looked at again
_SHORT_SECONDS = 30.0
_LIST_BYTES = 4 * MI
_ENDINGS = {"jvm": "hprof", "go": "pb.gz", "python": "txt", "node": "heapsnapshot"}

# Node writes its snapshot where it runs, under a name of its own, and only when it was started with --heapsnapshot-signal; a signal that it
# does not expect ends it, so its command line is looked at first (https://nodejs.org/api/cli.html#--heapsnapshot-signalsignal).
_NODE = """
set -eu
pid=$1; target=$2
settings="$(tr '\\0' ' ' <"/proc/$pid/cmdline") $(tr '\\0' ' ' <"/proc/$pid/environ") "
case "$settings" in
  *--heapsnapshot-signal=*) ;;
  *) echo "process $pid was not started with --heapsnapshot-signal: a signal would end it" >&2; exit 3 ;;
esac
signal=${settings#*--heapsnapshot-signal=}; signal=${signal%% *}
: >"$target.begun"
kill -s "${signal#SIG}" "$pid"
found=; size=-1
while :; do
  sleep 2
  found=$(find "/proc/$pid/cwd/" -maxdepth 1 -name 'Heap*.heapsnapshot' -newer "$target.begun" | head -n 1)
  [ -n "$found" ] || continue
  now=$(wc -c <"$found")
  if [ "$now" -gt 0 ] && [ "$now" = "$size" ]; then break; fi
  size=$now
done
rm -f "$target.begun"
mv "$found" "$target"
"""
# Full ps first, then what small images have.
_PROCESSES = [
    ["ps", "-eo", "pid,ppid,user,pcpu,pmem,rss,etime,args", "--sort=-pcpu"],
    ["ps", "aux"],
    ["ps"],
    ["top", "-b", "-n", "1"],
]


class Dumps:
    """Files that are brought out of the containers of one cluster. See `opslib.actions.systems.System`.

    Parameters
    ----------
    place
        The environment's folder of actions; files go to ``dumps/`` in it.
    progress
        Hears how many bytes have come, and how many are expected (None: not known).
    """

    name = "dumps"

    def __init__(self, cluster: Kubernetes, place: Path, progress: Progress = lambda written, expected: None) -> None:
        self.cluster = cluster
        self.place = place
        self._progress = progress

    def target(self) -> str:
        """The UID of the kube-system namespace."""
        return self.cluster.cluster_uid()

    def observe(self, request: dict[str, Any]) -> dict[str, Any]:
        """The pod's uid, since when the container runs, and whether the file is here. Nothing is run in the container for it."""
        kept = {"file": "kept"} if self._path(request).exists() else {}
        try:
            pod = self.cluster.get(Pod, "pods", request["pod"], request["namespace"])
        except NotFound:
            return {**ABSENT, **kept}
        return {"pod": pod.metadata.uid, "since": _since(pod, request["container"]), **kept}

    def preview(self, request: dict[str, Any]) -> Preview:
        """The commands; there is no dry run of them, and nothing is run."""
        now = self.observe(request)
        if not now.get("since"):
            raise NotFound(
                self.name, _("The container {container} of {pod} does not run", container=request["container"], pod=request["pod"])
            )
        return Preview({**now, "file": "kept"}, _commands(request))

    def reached(self, request: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> bool:
        """See `System.reached`: the file is here, and it is only here whole."""
        return now.get("file") == "kept"

    def send(self, request: dict[str, Any], before: dict[str, Any]) -> None:
        """Bring it out. Whatever happens, nothing half-done stays here, and nothing in the container.

        Raises
        ------
        Conflict
            The container is another one than when the plan was made.
        Refused
            There is too little room, here or there; a command failed; what came is not what was sent.
        SourceError
            As of `opslib.sources.execution`.
        """
        if self.observe(request) != before:
            raise Conflict(
                self.name,
                _(
                    "The container {container} of {pod} is not the one that the plan was made for",
                    container=request["container"],
                    pod=request["pod"],
                ),
                _("Make the plan again"),
            )
        expected = self._expected(request)
        self._check_here(request, expected)
        with self._cleaned(request):
            if request["make"]:
                self._check_there(request, expected)
                self._run(request, request["make"], request["deadline_seconds"])
            self._fetch(request, expected)

    def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        """``{"whole": file}``: the file has the SHA-256 that was noted when it came."""
        path = self.place / question["whole"]
        try:
            noted = json.loads(_note(path).read_text("utf-8"))["sha256"]
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return None, _("{file} cannot be read: {reason}", file=path, reason=error.strerror or str(error))
        return found == noted, _("{file} has another checksum than noted", file=path)

    # --- parts ---

    def _path(self, request: dict[str, Any]) -> Path:
        return self.place / str(request["file"])

    def _run(self, request: dict[str, Any], words: Sequence[str], seconds: float = _SHORT_SECONDS) -> Result:
        """Run a command that must end well."""
        result = self._try(request, words, seconds)
        if result.exit_status != 0:
            raise self._failed(request, words, result)
        return result

    def _try(self, request: dict[str, Any], words: Sequence[str], seconds: float = _SHORT_SECONDS) -> Result:
        where = (request["namespace"], request["pod"], request["container"])
        return self.cluster.execution.run(*where, words, deadline_seconds=seconds, limit_bytes=MI, cut=True)

    def _failed(self, request: dict[str, Any], words: Sequence[str], result: Result) -> Refused:
        said = result.stderr.decode("utf-8", "replace").strip() or result.stdout.decode("utf-8", "replace").strip()
        return Refused(
            self.name,
            _(
                "{command} in {pod} failed ({status}): {reason}",
                command=one_line(command(*words), 120), pod=request["pod"], status=result.exit_status, reason=one_line(said, 300) or "-",
            ),
            _("See that the process has that number and that kind, and that its user may write there"),
        )  # fmt: skip

    def _expected(self, request: dict[str, Any]) -> int | None:
        """Bytes that may come: what the container uses now, as its control group says; else its limit."""
        if not request["make"]:
            return None
        for file in ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"):
            with contextlib.suppress(SourceError):
                result = self._try(request, ["cat", file])
                if result.exit_status == 0 and result.stdout.strip().isdigit():
                    return min(int(result.stdout), int(request["limit_bytes"]))
        return min(int(request["expected_bytes"] or request["limit_bytes"]), int(request["limit_bytes"]))

    def _check_here(self, request: dict[str, Any], expected: int | None) -> None:
        folder = self._path(request).parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        free, least = self._free(folder)
        needed = expected if expected is not None else min(int(request["limit_bytes"]), 64 * MI)
        if free - needed < least:
            raise Refused(
                self.name,
                _(
                    "{folder} has {free} free: {needed} may come, and {least} are to stay free",
                    folder=folder, free=text_of_bytes(free), needed=text_of_bytes(needed), least=text_of_bytes(least),
                ),
                _("Make room, or name another folder with --outputs"),
            )  # fmt: skip

    @staticmethod
    def _free(folder: Path) -> tuple[int, int]:
        """Bytes that are free here, and how many are to stay so."""
        usage = shutil.disk_usage(folder)
        return usage.free, min(int(usage.total * _KEPT_SHARE), _KEPT_BYTES)

    def _check_there(self, request: dict[str, Any], expected: int | None) -> None:
        """The container's file system must hold the dump: one that is full harms more than the program that is looked at."""
        folder = request["folder"]
        result = self._run(request, ["df", "-k", "-P", folder])
        match = re.search(rb"\s\d+\s+\d+\s+(\d+)\s+\d+%\s", result.stdout.partition(b"\n")[2])
        if match is None:
            raise Refused(self.name, _("How much room {folder} of {pod} has cannot be seen", folder=folder, pod=request["pod"]))
        free, needed = int(match[1]) * 1024, int((expected or 0) * _HEADROOM)
        if free < needed:
            raise Refused(
                self.name,
                _(
                    "{folder} of {pod} has {free} free, and the dump may take {needed}",
                    folder=folder, pod=request["pod"], free=text_of_bytes(free), needed=text_of_bytes(needed),
                ),
                _("Name a folder on a volume with more room, with --folder"),
            )  # fmt: skip

    @contextmanager
    def _cleaned(self, request: dict[str, Any]) -> Iterator[None]:
        """Whatever happens inside, an interrupt too: nothing half-done is left, neither here nor there."""
        part = _part(self._path(request))
        if request["remove"]:
            self._remove(request)  # what an execution that was killed may have left
        part.unlink(missing_ok=True)
        try:
            yield
        finally:
            part.unlink(missing_ok=True)
            if request["remove"]:
                self._remove(request)

    def _remove(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(SourceError):  # the pod may be gone, and its file with it
            self._try(request, request["remove"])

    def _fetch(self, request: dict[str, Any], expected: int | None) -> None:
        path = self._path(request)
        part = _part(path)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as file:
            watched = self._streamed(request, file, expected)
            file.flush()
            os.fsync(file.fileno())
        digest = watched.digest.hexdigest()
        if request["source"]:
            self._compare(request, digest, watched.written)
        note = {
            "sensitive": True, "sha256": digest, "bytes": watched.written, "taken": datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: request[name] for name in ("what", "namespace", "pod", "container", "image", "make", "fetch")},
        }  # fmt: skip
        _write_private(_note(path), json.dumps(note, indent=1, ensure_ascii=False) + "\n")
        part.replace(path)  # only now is it there

    def _streamed(self, request: dict[str, Any], file: BinaryIO, expected: int | None) -> _Watched:
        """Write what the first of the commands that ends well says."""
        where = (request["namespace"], request["pod"], request["container"])
        last = len(request["fetch"]) - 1
        for number, words in enumerate(request["fetch"]):
            file.seek(0)
            file.truncate()
            watched = _Watched(file, self, self._path(request).parent)
            try:
                result = self.cluster.execution.stream(
                    *where, words, to=cast(BinaryIO, watched), deadline_seconds=request["deadline_seconds"],
                    limit_bytes=request["limit_bytes"], progress=lambda written: self._progress(written, expected),
                )  # fmt: skip
            except NoSuchProgram:
                if number == last:
                    raise
                continue
            if result.exit_status == 0 and watched.written:
                return watched
            if number == last:
                raise self._failed(request, words, result)
        raise AssertionError("a request has a command to fetch with")

    def _compare(self, request: dict[str, Any], digest: str, written: int) -> None:
        """What came must be what is there: by its checksum, where the image can make one, else by its length."""
        source = request["source"]
        for words, ours in ((["sha256sum", source], digest), (["wc", "-c", source], str(written))):
            try:
                result = self._try(request, words, request["deadline_seconds"])
            except NoSuchProgram:
                continue
            theirs = result.stdout.split()[:1]
            if result.exit_status == 0 and theirs:
                if theirs[0].decode("ascii", "replace") != ours:
                    raise Refused(
                        self.name,
                        _("What came is not what {source} in {pod} is", source=source, pod=request["pod"]),
                        _("Execute the plan again"),
                    )
                return


class _Watched:
    """A file that is written to: its checksum and length, and whether the disk still has room."""

    def __init__(self, file: BinaryIO, dumps: Dumps, folder: Path) -> None:
        self._file, self._dumps, self._folder = file, dumps, folder
        self.digest = hashlib.sha256()
        self.written = 0
        self._look_at = _LOOK_EACH

    def write(self, data: bytes) -> int:
        if self.written + len(data) >= self._look_at:
            self._look_at += _LOOK_EACH
            free, least = Dumps._free(self._folder)
            if free < least:
                raise Refused(
                    self._dumps.name, _("{folder} has only {free} free left: stopped", folder=self._folder, free=text_of_bytes(free)),
                    _("Make room, or name another folder with --outputs"),
                )  # fmt: skip
        self.digest.update(data)
        self.written += len(data)
        return self._file.write(data)


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _since(pod: Pod, container: str) -> str:
    """Since when a container runs; empty where it does not."""
    for one in pod.status.container_statuses:
        if one.name == container and one.state.running is not None:
            started = one.state.running.started_at
            return f"{started.isoformat() if started else '-'}, {one.restart_count}"
    return ""


def _commands(request: dict[str, Any]) -> str:
    """What is run in the container, a command a line."""
    fetches = [f"{'or' if number else '$'} {command(*words)}\n" for number, words in enumerate(request["fetch"])]
    make, remove = (f"$ {command(*words)}\n" if (words := request[name]) else "" for name in ("make", "remove"))
    return "".join([make, *fetches, remove])


# --- plans ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Recipe:
    """The commands for one kind of program, and the file that they leave in the container ("": none)."""

    make: list[str]
    fetch: list[list[str]]
    source: str
    caution: Message


def heap_dump(
    system: Dumps,
    environment: Environment,
    requester: str,
    pod: str,
    namespace: str,
    container: str = "",
    *,
    runtime: str = "",
    pid: int = 1,
    port: int = 6060,
    folder: str = "/tmp",  # noqa: S108 - in the container
    limit: str = "8Gi",
) -> Plan:
    """What a program holds in memory, or of Python what it does: jcmd, pprof, py-spy or node's own snapshot.

    Parameters
    ----------
    container
        Which of the pod's; empty: its only one.
    runtime
        "jvm", "go", "python" or "node"; empty: by the image and the environment of the container.
    pid
        Number of the process in the container.
    port
        Where a Go program serves net/http/pprof.
    folder
        Where the dump is put in the container, before it is fetched.
    limit
        The most that is fetched.

    Raises
    ------
    InputError
        The pod or container is not there or does not run, the runtime is not known, or a value is not one.
    """
    found, chosen = _look(system.cluster, pod, namespace, container)
    limit_bytes = value_of(limit)
    if limit_bytes is None or limit_bytes < 1:
        raise InputError(_("{value} is no size", value=one_line(limit)), _("Write it like 8Gi"))
    if not re.fullmatch(r"/[\w./-]*", folder) or ".." in folder:
        raise InputError(_("folder: {value} is no whole path of a folder", value=one_line(folder)), _("Write it like /data/logs"))
    kind = _runtime(runtime, chosen)
    name = f"{datetime.now(environment.zone):%Y%m%d-%H%M%S}-{pod}-{chosen.name}.{_ENDINGS[kind]}"
    recipe = _recipe(kind, pid, port, f"{folder.rstrip('/')}/opslib-{name}")
    what = _("Take a heap dump of {pod} ({container}, {runtime})", pod=f"{namespace}/{pod}", container=chosen.name, runtime=kind)
    if kind == "python":
        what = _(
            "Take the stacks of all threads of {pod} ({container}, {runtime})",
            pod=f"{namespace}/{pod}",
            container=chosen.name,
            runtime=kind,
        )
    cautions = [
        recipe.caution,
        _("What comes may hold passwords and personal data: it is for your eyes only, and is deleted when done with"),
    ]
    if recipe.source:
        cautions.append(
            _("It takes room in the container's {folder} for a while; a tmpfs counts as memory of the container", folder=folder)
        )
    return _plan(
        system, environment, requester, found, chosen, what, f"dumps/{name}", recipe, folder=folder, limit_bytes=int(limit_bytes),
        cautions=cautions,
    )  # fmt: skip


def processes(system: Dumps, environment: Environment, requester: str, pod: str, namespace: str, container: str = "") -> Plan:
    """The processes in a container, those that use most CPU first where its ``ps`` can sort.

    Raises
    ------
    InputError
        The pod or container is not there or does not run.
    """
    found, chosen = _look(system.cluster, pod, namespace, container)
    name = f"{datetime.now(environment.zone):%Y%m%d-%H%M%S}-{pod}-{chosen.name}-processes.txt"
    what = _("List the processes of {pod} ({container})", pod=f"{namespace}/{pod}", container=chosen.name)
    recipe = _Recipe([], _PROCESSES, "", _("Command lines may hold passwords: the list is for your eyes only"))
    return _plan(
        system, environment, requester, found, chosen, what, f"dumps/{name}", recipe, folder="", limit_bytes=_LIST_BYTES,
        cautions=[recipe.caution],
    )  # fmt: skip


def debug(
    system: KubernetesSystem,
    environment: Environment,
    requester: str,
    pod: str,
    namespace: str,
    container: str = "",
    *,
    image: str = "busybox:1.37",
    minutes: int = 60,
) -> Plan:
    """A debug container beside one whose image has no tools, as ``kubectl debug --target`` makes it; it ends by itself.

    Parameters
    ----------
    image
        With the tools: a shell, ``ps``, ``top``.
    minutes
        How long it stays.

    Raises
    ------
    InputError
        The pod or container is not there or does not run.
    """
    found, chosen = _look(system.cluster, pod, namespace, container)
    name = f"opslib-{datetime.now(environment.zone):%m%d-%H%M%S}"
    body = {
        "name": name, "image": image, "command": ["sleep", str(minutes * 60)], "targetContainerName": chosen.name,
        "imagePullPolicy": "IfNotPresent",
    }  # fmt: skip
    request = {
        "verb": "patch", "resource": "pods", "namespace": namespace, "name": pod, "subresource": "ephemeralcontainers",
        "body": {"spec": {"ephemeralContainers": [body]}},
    }  # fmt: skip
    what = _("Add the debug container {name} ({image}) beside {container} of {pod}", name=name, image=image, container=chosen.name, pod=pod)
    before, preview = system.observe(request), system.preview(request)
    step = Step(
        what=what.text(), system=system.name, request=request, before=before, after=preview.after, difference=preview.difference,
        why_no_inverse=_("a pod keeps its debug containers; this one ends by itself after {count} min", count=minutes).text(),
    )  # fmt: skip
    inside = command("kubectl", *environment.kubernetes.kubectl_options, "exec", "-n", namespace, "-it", pod, "-c", name, "--", "top")
    cautions = [
        _("It sees the processes of {container} and what they hold", container=chosen.name),
        _("Then: {command}", command=inside),
    ]
    reach = Reach(namespaces=[namespace], services=services_of(system.cluster, {namespace: [found.metadata.labels]}))
    return make(system, environment, requester, "exec", what.text(), [step], reach=reach, cautions=cautions)


def _plan(
    system: Dumps, environment: Environment, requester: str, pod: Pod, container: Container, what: Message, file: str, recipe: _Recipe, *,
    folder: str, limit_bytes: int, cautions: list[Message],
) -> Plan:  # fmt: skip
    limit = value_of(container.resources.limits.get("memory"))
    remove = ["rm", "-f", recipe.source, f"{recipe.source}.begun"] if recipe.source else []
    namespace = pod.metadata.namespace
    request = {
        "what": what.text("en"), "namespace": namespace, "pod": pod.metadata.name, "container": container.name, "image": container.image,
        "make": recipe.make, "fetch": recipe.fetch, "remove": remove,
        "source": recipe.source, "folder": folder, "expected_bytes": int(limit) if limit else None, "limit_bytes": limit_bytes,
        "deadline_seconds": 1800.0 if recipe.make else 300.0, "file": file,
    }  # fmt: skip
    now = system.observe(request)
    step = Step(
        what=what.text(), system=system.name, request=request, before=now, after={**now, "file": "kept"}, difference=_commands(request),
        why_no_inverse=_("nothing is changed by it; delete the file when it is done with").text(),
    )  # fmt: skip
    verify = Condition(
        what=_("{file} is whole", file=system.place / file).text(), system=system.name, question={"whole": file}, deadline_seconds=600
    )
    reach = Reach(namespaces=[namespace], services=services_of(system.cluster, {namespace: [pod.metadata.labels]}))
    return make(system, environment, requester, "exec", what.text(), [step], reach=reach, cautions=cautions, verify=[verify])


def _look(cluster: Kubernetes, pod: str, namespace: str, container: str) -> tuple[Pod, Container]:
    try:
        found = cluster.get(Pod, "pods", pod, namespace)
    except NotFound as error:
        raise absent(f"pod/{pod}", "pods", namespace) from error
    known = {one.name: one for one in found.spec.containers}
    if not container and len(known) == 1:
        (container,) = known
    if container not in known:
        what: Text = (
            _("The pod {pod} has no container {name}", pod=pod, name=one_line(container))
            if container
            else _("The pod {pod} has several containers", pod=pod)
        )
        raise InputError(what, _("Name one of {names}", names=sorted(known)), "-c …")
    if not _since(found, container):
        raise InputError(
            _("The container {container} of {pod} does not run", container=container, pod=pod),
            _("See why"),
            command("kubectl", "describe", "pod", "-n", namespace, pod),
        )
    return found, known[container]


def _runtime(wanted: str, container: Container) -> Runtime:
    """What the program is made for, as somebody says or its container shows.

    Raises
    ------
    InputError
        It cannot be told.
    """
    for one in RUNTIMES:
        if wanted == one:
            return one
    if wanted:
        raise InputError(_("There is no runtime {name}", name=one_line(wanted)), _("Name one of {names}", names=list(RUNTIMES)))
    signs: dict[Runtime, str] = {
        "jvm": r"\bjava\b|\bjdk|\bjre|temurin|corretto|JAVA_|JDK_|_JAVA|\.jar\b",
        "node": r"\bnode(js)?\b|NODE_|\bnpm\b|\byarn\b",
        "python": r"\bpython|PYTHON|gunicorn|uvicorn|celery",
        "go": r"\bgolang\b|GOMAXPROCS|GOMEMLIMIT|GODEBUG|GOGC",
    }
    shown = " ".join([container.image, *container.command, *container.args, *(one.name for one in container.env)])
    found = [name for name, pattern in signs.items() if re.search(pattern, shown)]
    if len(found) == 1:
        return found[0]
    raise InputError(
        _("What {container} runs on cannot be told from its image and settings", container=container.name),
        _("Name one of {names}", names=list(RUNTIMES)),
        "--runtime …",
    )


def _recipe(kind: Runtime, pid: int, port: int, target: str) -> _Recipe:
    if kind == "jvm":
        caution = _("The program stands still while its heap is written: seconds for each GiB; a liveness probe may restart it meanwhile")
        return _Recipe(["jcmd", str(pid), "GC.heap_dump", target], [["cat", target]], target, caution)
    if kind == "node":
        caution = _("The program stands still while its snapshot is made, and needs about as much memory again: it may be killed for that")
        return _Recipe(["sh", "-c", _NODE, "sh", str(pid), target], [["cat", target]], target, caution)
    if kind == "python":
        caution = _(
            "py-spy needs the right to trace (SYS_PTRACE); it tells what threads do, what they hold tells tracemalloc in the program"
        )
        return _Recipe([], [["py-spy", "dump", "--nonblocking", "--pid", str(pid)]], "", caution)
    address = f"http://127.0.0.1:{port}/debug/pprof/heap"
    caution = _(
        "It needs net/http/pprof in the program, and curl or wget in the image; else: kubectl port-forward, and fetch it from there"
    )
    fetch = [["curl", "-fsS", "--max-time", "120", address], ["wget", "-q", "-T", "120", "-O", "-", address]]
    return _Recipe([], fetch, "", caution)
