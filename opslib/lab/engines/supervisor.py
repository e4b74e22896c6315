"""The one process that owns a lab's servers: it starts them, watches them, plays the kubelet, and takes them with it when it ends.

Started by `opslib.lab.engines.up` as ``python -m opslib.lab.engines.supervisor FOLDER OPTIONS``; what it does is in FOLDER/state.json.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil
import urllib3
import yaml

from opslib.errors import OpsError
from opslib.lab import processes
from opslib.lab.api import Api, ApiError
from opslib.lab.engines import background
from opslib.lab.engines.servers import Options, Setup, Spec, is_kept, load
from opslib.messages import _

if TYPE_CHECKING:
    from opslib.lab.informer import Informer
    from opslib.lab.kubelet import Kubelet
    from opslib.lab.stage import Stage

# Below the range from which the system takes ports for outgoing connections; a lab holds the first port of its block all the time.
_FIRST_PORT, _BLOCK, _BLOCKS = 20000, 20, 500
_OWN_PORTS = ("exporter", "kubelet")
_EXPECTED_SECONDS = 180
_ORDERLY_SECONDS = 10  # to end, where the data is kept
_HISTORY_SECONDS = 7 * 86400
_NICE = 10
_NEEDING_NOTHING = ("elasticsearch", "alertmanager")  # neither certificates nor the world


@dataclass(slots=True)
class Child:
    """A server that was started."""

    spec: Spec
    process: subprocess.Popen[bytes]
    known: dict[str, Any]
    ready: bool = False
    log: Path = field(default_factory=Path)


class Supervisor:
    """A lab's servers, from start to end."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.options = options
        self.servers = load(options.engine)
        self.folder = folder
        self.parts = options.parts
        self.stop = threading.Event()
        self.children: dict[str, Child] = {}
        self.phase = "starting"
        self.step = ""
        self.error: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self.planted = False
        self.times: dict[str, float] = {}  # seconds from the start to each step
        self._waiting: dict[str, Spec] = {}
        self._closing: list[Callable[[], None]] = []
        self._health = urllib3.PoolManager(retries=False, timeout=2)

    # --- state ---

    def write_state(self) -> None:
        """Write state.json whole: whoever reads it sees the old or the new one."""
        state = {
            **asdict(self.options),
            "phase": self.phase,
            "step": self.step,
            "error": self.error,
            "supervisor": processes.identity(os.getpid()),
            "ports": self.ports,
            "times": self.times,
            "addresses": {part: self._address(part) for part in self.parts} if self.ports else {},
            "servers": {
                name: {**child.known, "part": child.spec.part, "health": child.spec.health, "ready": child.ready, "log": str(child.log)}
                for name, child in self.children.items()
            },
        }
        temporary = self.folder / "state.json.new"
        temporary.write_text(json.dumps(state, indent=1) + "\n", "utf-8")
        temporary.replace(self.folder / "state.json")

    def _address(self, part: str) -> str:
        return f"{'https' if part == 'kubernetes' else 'http'}://127.0.0.1:{self.ports[self.servers.SERVERS[part]]}"

    # --- life ---

    def run(self) -> int:
        """Start everything, wait until told to stop, end everything."""
        try:
            with self._claim_ports() as held:
                try:
                    self.write_state()
                    self._start(held)
                    self.phase = "ready"
                    self._tell("")
                except Exception as error:  # whatever it is, the one who started the lab must read it
                    if self.stop.is_set():
                        return 0
                    self.phase = "failed"
                    self.error = _described(error)
                    sys.stderr.write(f"{self.error['what']}\n")  # where the disk is full the state does not say it
                    with contextlib.suppress(OSError):
                        self.write_state()
                    return 1
                self._watch()
                return 0
        finally:
            self._end()

    def _start(self, held: socket.socket) -> None:
        first = [part for part in _NEEDING_NOTHING if part in self.parts]
        setup = Setup(folder=self.folder, parts=self.parts, ports=self.ports)
        self._note("begin")
        for part in first:  # they start while the others are prepared
            self._begin(self.servers.specs(setup, part))
        self.stage = self._stage()
        self._note("world")
        if "kubernetes" in self.parts:
            setup = replace(setup, pki=self._certificates())
            self._note("certificates")
            # what was kept has it all; but nodes, whose kubelets are at another port now, are looked after by the kubelet
            self.planted = is_kept(self.folder) or self.servers.plant(setup, self.stage.world, platform=self.options.platform)
            self._note("platform planted")
        for part in self.parts:
            if part not in first:
                self._begin(self.servers.specs(setup, part))
        threading.Thread(target=_load_ahead, name="load ahead", daemon=True).start()
        self._wait()
        self._write_addresses(setup)
        self._play(setup, held)

    def _stage(self) -> Stage:
        """The world of this lab: the one that was kept, or another one with a week of its own."""
        from opslib.lab import stage
        from opslib.lab.world import World

        kept = stage.read(self.folder)
        if kept is not None:
            return stage.Stage(self.folder, *kept)
        now = time.time()
        world = World(self.options.seed, now - _HISTORY_SECONDS, now)
        if self.options.pods:
            from opslib.lab.world.platform import sized

            services, nodes = sized(self.options.pods)
            world = replace(world, services=services, nodes=nodes)
        return stage.Stage(self.folder, world, now)

    def _begin(self, specs: Iterable[Spec]) -> None:
        """Start what can be started; the others wait for their turn."""
        for spec in specs:
            self._waiting[spec.name] = spec
        self._go_on()

    def _go_on(self) -> None:
        """Start what waited for others that are ready now; what runs in the background waits for all."""
        for spec in list(self._waiting.values()):
            ready = all(name not in self._waiting and self.children[name].ready for name in spec.after)
            if ready and (not spec.background or self.phase == "ready"):
                del self._waiting[spec.name]
                self._spawn(spec)

    def _wait(self) -> None:
        """Until all servers answer but those in the background."""
        deadline = time.monotonic() + _EXPECTED_SECONDS
        while True:
            self._go_on()
            for child in self.children.values():
                self._check(child)
            late = [name for name, spec in self._waiting.items() if not spec.background]
            late += [name for name, child in self.children.items() if not child.ready]
            if not late:
                return
            if self.stop.wait(0.05):
                raise InterruptedError("stopped")
            if time.monotonic() > deadline:
                log = self.children[late[0]].log if late[0] in self.children else Path()
                raise OpsError(
                    _(
                        "{names} did not answer within {seconds} s: {output}",
                        names=late,
                        seconds=_EXPECTED_SECONDS,
                        output=processes.last_lines(log),
                    ),
                    _("Its whole log is in {path}", path=log),
                )

    def _spawn(self, spec: Spec) -> None:
        log = self.folder / "servers" / f"{spec.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                spec.command,
                cwd=self.folder / "data",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=processes.die_with_parent(_NICE if spec.background else 0),  # noqa: PLW1509 - nothing here holds a lock that the child could need
            )
        known = processes.identity(process.pid) or {"pid": process.pid, "created": 0}
        self.children[spec.name] = Child(spec, process, known, log=log)
        self._tell(spec.name)

    def _check(self, child: Child) -> None:
        status = child.process.poll()
        if status is not None:
            raise OpsError(
                _(
                    "{name} ended with status {status}: {output}",
                    name=child.spec.name,
                    status=status,
                    output=processes.last_lines(child.log),
                ),
                _("Its whole log is in {path}", path=child.log),
            )
        if not child.ready and self._answers(child.spec.health):
            child.ready = True
            self._note(f"{child.spec.name} answers")
            self.write_state()

    def _answers(self, address: str) -> bool:
        try:
            return self._health.request("GET", address).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _watch(self) -> None:
        """Until told to stop: start what runs in the background, and note what ends or begins to answer, so that `status` can say so."""
        while True:
            before = {name: child.ready for name, child in self.children.items()}
            with contextlib.suppress(OSError):  # a full disk does not end the lab
                self._go_on()
                for child in self.children.values():
                    alive = child.process.poll() is None
                    child.ready = alive and (child.ready or self._answers(child.spec.health))
                if before != {name: child.ready for name, child in self.children.items()}:
                    self.write_state()
            if self.stop.wait(1):
                return

    def _end(self) -> None:
        for close in reversed(self._closing):
            close()
        # The clients first and etcd last, but without waiting long for any where the data is thrown away.
        for child in reversed(self.children.values()):
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + (_ORDERLY_SECONDS if is_kept(self.folder) else 1)
        for child in self.children.values():
            try:
                child.process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        if self.phase != "failed":
            self.phase = "stopped"
        with contextlib.suppress(OSError):
            self.write_state()

    # --- ports ---

    @contextlib.contextmanager
    def _claim_ports(self) -> Iterator[socket.socket]:
        """A block of free ports. Its first port is bound as long as the lab lives, so that another lab takes another block."""
        names = (*_OWN_PORTS, *self.servers.PORTS)
        for block in range(_BLOCKS):
            first = _FIRST_PORT + block * _BLOCK
            held = _bind(first)
            if held is None:
                continue
            others = [_bind(first + number) for number in range(1, len(names))]
            free = all(others)
            for other in others:
                if other is not None:
                    other.close()
            if free:
                self.ports = {name: first + number for number, name in enumerate(names)}
                with held:
                    yield held
                return
            held.close()
        raise OpsError(_("No block of {count} free ports was found above {first}", count=_BLOCK, first=_FIRST_PORT))

    # --- what is started ---

    def _certificates(self) -> dict[str, Path]:
        """The authority and everybody's certificates, keys and tokens, as files."""
        from opslib.lab import certificates

        pki = self.folder / "pki"
        if not (pki / "tokens.csv").exists():
            _make_certificates(pki)
        names = ("ca", "apiserver", "kubelet", "kubelet-client", "admin", "kube-controller-manager", "kube-scheduler")
        files = {file.name: file for file in pki.iterdir()}
        pairs = {name: certificates.Pair(*(files[f"{name}.{kind}"].read_text("ascii") for kind in ("crt", "key"))) for name in names}
        server, ca = self._address("kubernetes"), pairs["ca"].certificate
        for name in ("kube-controller-manager", "kube-scheduler"):
            files[name] = pki / f"{name}.kubeconfig"
            certificates.write_private(files[name], certificates.kubeconfig(server, ca, {name: pairs[name]}))
        with files["tokens.csv"].open(encoding="utf-8", newline="") as file:
            tokens = {row[1]: row[0] for row in csv.reader(file)}
        users: Mapping[str, certificates.Pair | str] = {"admin": pairs["admin"], **tokens}
        certificates.write_private(self.folder / "kubeconfig", certificates.kubeconfig(server, ca, users))
        context = ssl.create_default_context(cafile=str(files["ca.crt"]))
        context.load_cert_chain(files["admin.crt"], files["admin.key"])
        # controller-manager and scheduler sign a certificate for themselves; on the loopback their health needs no proof
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._health = urllib3.PoolManager(retries=False, timeout=2, ssl_context=context)
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return files

    # --- what the lab itself plays ---

    def _write_addresses(self, setup: Setup) -> None:
        """FOLDER/environment.yaml: the addresses, under the keys of an environment."""
        content: dict[str, Any] = {}
        if "kubernetes" in self.parts:
            api = Api.from_kubeconfig(self.folder / "kubeconfig")
            content["kubernetes"] = {
                "kubeconfig": str(self.folder / "kubeconfig"),
                "context": "lab",
                "expected_server": api.server,
                "expected_cluster_uid": _cluster_uid(api, self.stop),
            }
        for part in ("prometheus", "alertmanager", "elasticsearch"):
            if part in self.parts:
                content[part] = {"url": self._address(part)}
        content |= background.environment(setup)
        text = "# Written by the lab that runs; gone when it is down.\n" + yaml.safe_dump(content, sort_keys=False)
        temporary = self.folder / "environment.yaml.new"
        temporary.write_text(text, "utf-8")
        temporary.replace(self.folder / "environment.yaml")

    def _play(self, setup: Setup, held: socket.socket) -> None:
        """Play the kubelets, set up the platform where it is not there yet, and serve metrics and write logs, as far as the parts go."""
        api = pods = None
        if "kubernetes" in self.parts:
            api = Api.from_kubeconfig(self.folder / "kubeconfig")
            kubelet = self._play_kubelets(api, setup.pki)
            pods = kubelet.pods
            if not self.planted:
                self._install(api)
            self._serve_metrics(api, held, kubelet)
            self.stage.start(api, kubelet, {part: self._address(part) for part in self.parts}, platform=self.options.platform)
            self._closing.append(self.stage.close)
        if "elasticsearch" in self.parts and self.options.platform:
            self._write_logs(pods)

    def _play_kubelets(self, api: Api, pki: Mapping[str, Path]) -> Kubelet:
        """Play the kubelets of all nodes."""
        from opslib.lab import usage
        from opslib.lab.kubelet import Kubelet

        self._tell("nodes")
        files = {"certificate": pki["kubelet.crt"], "key": pki["kubelet.key"], "ca": pki["ca.crt"]}
        kubelet = Kubelet(api, self.folder, self.ports["kubelet"], nodes=self.stage.world.nodes, **files)
        kubelet.containers.world = lambda: self.stage.world
        self._closing.append(kubelet.close)
        kubelet.start()
        usage.register(api, self.ports["kubelet"])
        if self.options.engine == "real":
            self._play_storage(api)
        return kubelet

    def _play_storage(self, api: Api) -> None:
        """Play the driver of volumes, which real servers do not bring along; it is one of the embedded engine's controllers."""
        from opslib.lab.controllers import run
        from opslib.lab.controllers.storage import drivers

        stop = threading.Event()
        self._closing.append(stop.set)
        threading.Thread(target=run, args=(api, stop), kwargs={"chosen": drivers()}, name="storage", daemon=True).start()

    def _install(self, api: Api) -> None:
        """Set the platform up through the API."""
        from opslib.lab import installation

        for obj in installation.permissions():
            api.apply(obj)
        if self.options.platform:
            self._tell("platform")
            installation.apply(api, self.stage.world)
            self._tell("rollout")
            installation.wait(api, self.stage.world, deadline_seconds=_EXPECTED_SECONDS, stop=self.stop)

    def _serve_metrics(self, api: Api, held: socket.socket, kubelet: Kubelet) -> None:
        """Serve the exporter's pages, and what the stage is told to do."""
        from opslib.lab import control
        from opslib.lab.exporter import Exporter

        reader = self._address("prometheus") if self.options.engine == "real" and "prometheus" in self.parts else ""
        routes = control.routes(self.stage)
        past = self.options.platform
        exporter = Exporter(api, self.stage, self.folder, routes=routes, history=past, prometheus=reader, pods=kubelet.pods)
        self._closing.append(exporter.close)
        exporter.start(held)
        kubelet.containers.usage.of_pods, kubelet.containers.usage.of_nodes = exporter.usage, exporter.node_usage

    def _write_logs(self, pods: Informer | None) -> None:
        from opslib.lab.shipping import Writer

        writer = Writer(
            self._address("elasticsearch"),
            lambda: self.stage.world,
            None if pods is None else pods.objects,
            waits=lambda: self.stage.is_acting,
        )
        self._closing.append(writer.close)
        writer.start()

    def _tell(self, step: str) -> None:
        self.step = step
        self._note(step)
        self.write_state()

    def _note(self, what: str) -> None:
        self.times[what or "ready"] = round(time.time() - psutil.Process().create_time(), 2)


def _load_ahead() -> None:
    """Load what is played once the servers answer, in the time in which they do not yet."""
    from opslib.lab import control, exporter, kubelet, shipping, usage

    del exporter, kubelet, shipping, usage, control


def _make_certificates(pki: Path) -> None:
    """Make the authority, everybody's certificates and keys, and last the tokens, which say that all is there."""
    from opslib.lab import certificates

    pki.mkdir(mode=0o700, exist_ok=True)
    ca = certificates.authority("opslib-lab")
    kubelet_hosts = ("127.0.0.1", "localhost")
    kubernetes = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    pairs = {
        "ca": ca,
        "apiserver": certificates.issue(ca, "kube-apiserver", hosts=(*kubelet_hosts, *kubernetes, "10.96.0.1")),
        "kubelet": certificates.issue(ca, "system:node:lab", groups=["system:nodes"], hosts=kubelet_hosts),
        "kubelet-client": certificates.issue(ca, "kube-apiserver-kubelet-client"),
        "admin": certificates.issue(ca, "lab-admin", groups=["system:masters"]),
        "kube-controller-manager": certificates.issue(ca, "system:kube-controller-manager"),
        "kube-scheduler": certificates.issue(ca, "system:kube-scheduler"),
    }
    for name, pair in pairs.items():
        pair.write(pki, name)
    private, public = certificates.signing_key()
    certificates.write_private(pki / "sa.key", private)
    (pki / "sa.pub").write_text(public, "ascii")
    tokens = {name: secrets.token_urlsafe(24) for name in ("viewer", "nobody")}
    certificates.write_private(pki / "tokens.csv", "".join(f'{token},{name},{name},"lab:{name}s"\n' for name, token in tokens.items()))


def _bind(port: int) -> socket.socket | None:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind(("127.0.0.1", port))
        one.listen(64)  # bound alone does not keep a second one with SO_REUSEADDR from binding
    except OSError:
        one.close()
        return None
    return one


def _cluster_uid(api: Api, stop: threading.Event) -> str:
    """The UID of kube-system, which the API server creates a moment after it is ready."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return str(api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"])
        except ApiError as error:
            if error.status != 404 or time.monotonic() > deadline or stop.wait(0.1):
                raise


def _described(error: Exception) -> dict[str, str]:
    if isinstance(error, OpsError):
        return {"what": str(error.what), "remedy": str(error.remedy), "command": error.command}
    return {"what": f"{type(error).__name__}: {error}", "remedy": "", "command": ""}


def _locked(lock: IO[str]) -> bool:
    """Take the lock that says that this lab runs; who only asks whether it does holds it for a moment, too."""
    for _attempt in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def main() -> int:
    """Run the supervisor of one lab: FOLDER OPTIONS."""
    folder, options = Path(sys.argv[1]), Options.of(sys.argv[2])
    with (folder / "lock").open("w") as lock:
        if not _locked(lock):
            return 75
        sys.setswitchinterval(0.001)  # what is computed here in the background must not hold up each step of a break for five milliseconds
        supervisor = Supervisor(folder, options)
        processes.give_back()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_arguments: supervisor.stop.set())
        return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
