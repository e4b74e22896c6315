"""The one process that owns a lab's servers: it starts them, watches them, plays the kubelet, and takes them with it when it ends.

Started by `opslib.lab.engines.up` as ``python -m opslib.lab.engines.supervisor ENGINE FOLDER PARTS``; what it does is in FOLDER/state.json.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import urllib3
import yaml

from opslib.errors import OpsError
from opslib.lab import certificates, processes
from opslib.lab.api import Api, ApiError
from opslib.lab.engines.servers import Setup, Spec, load
from opslib.messages import _

# Below the range from which the system takes ports for outgoing connections; a lab holds the first port of its block all the time.
_FIRST_PORT, _BLOCK, _BLOCKS = 20000, 20, 500
_OWN_PORTS = ("exporter", "kubelet")
_EXPECTED_SECONDS = 180


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

    def __init__(self, engine: str, folder: Path, parts: tuple[str, ...], *, platform: bool) -> None:
        self.engine = engine
        self.servers = load(engine)
        self.folder = folder
        self.parts = parts
        self.platform = platform
        self.stop = threading.Event()
        self.children: dict[str, Child] = {}
        self.phase = "starting"
        self.step = ""
        self.error: dict[str, str] = {}
        self.ports: dict[str, int] = {}
        self._closing: list[Callable[[], None]] = []
        self._health = urllib3.PoolManager(retries=False, timeout=2)

    # --- state ---

    def write_state(self) -> None:
        """Write state.json whole: whoever reads it sees the old or the new one."""
        state = {
            "engine": self.engine,
            "phase": self.phase,
            "step": self.step,
            "error": self.error,
            "parts": self.parts,
            "platform": self.platform,
            "supervisor": processes.identity(os.getpid()),
            "ports": self.ports,
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
                    self.phase, self.step = "ready", ""
                    self.write_state()
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
        pki = self._certificates() if "kubernetes" in self.parts else {}
        setup = Setup(folder=self.folder, parts=self.parts, ports=self.ports, pki=pki)
        specs = {spec.name: spec for spec in self.servers.specs(setup)}
        waiting = dict(specs)
        deadline = time.monotonic() + _EXPECTED_SECONDS
        while waiting or not all(child.ready for child in self.children.values()):
            for spec in list(waiting.values()):
                if all(name not in specs or (name in self.children and self.children[name].ready) for name in spec.after):
                    del waiting[spec.name]
                    self._spawn(spec)
            for child in self.children.values():
                self._check(child)
            if self.stop.wait(0.1):
                raise InterruptedError("stopped")
            if time.monotonic() > deadline:
                late = [name for name in specs if name not in self.children or not self.children[name].ready]
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
        self._write_addresses()
        self._play(pki, held)

    def _spawn(self, spec: Spec) -> None:
        log = self.folder / "servers" / f"{spec.name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                spec.command,
                cwd=self.folder / "data",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=processes.die_with_parent(),  # noqa: PLW1509 - nothing here holds a lock that the child could need
            )
        known = processes.identity(process.pid) or {"pid": process.pid, "created": 0}
        self.children[spec.name] = Child(spec, process, known, log=log)
        self.step = spec.name
        self.write_state()

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
            self.write_state()

    def _answers(self, address: str) -> bool:
        try:
            return self._health.request("GET", address).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _watch(self) -> None:
        """Until told to stop: note servers that ended, so that `status` can say so."""
        noted: set[str] = set()
        while not self.stop.wait(1):
            for name, child in self.children.items():
                if name not in noted and child.process.poll() is not None:
                    noted.add(name)
                    child.ready = False
                    with contextlib.suppress(OSError):  # a full disk does not end the lab
                        self.write_state()

    def _end(self) -> None:
        for close in reversed(self._closing):
            close()
        # The clients first and etcd last, but without waiting long for any: the data is thrown away.
        for child in reversed(self.children.values()):
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + 1
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
        """The authority and everybody's certificates, as files."""
        pki = self.folder / "pki"
        pki.mkdir(mode=0o700, exist_ok=True)
        ca = certificates.authority("opslib-lab")
        kubelet_hosts = ("127.0.0.1", "localhost")
        api_hosts = (
            *kubelet_hosts,
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "10.96.0.1",
        )
        pairs = {
            "ca": ca,
            "apiserver": certificates.issue(ca, "kube-apiserver", hosts=api_hosts),
            "kubelet": certificates.issue(ca, "system:node:lab", groups=["system:nodes"], hosts=kubelet_hosts),
            "kubelet-client": certificates.issue(ca, "kube-apiserver-kubelet-client"),
            "admin": certificates.issue(ca, "lab-admin", groups=["system:masters"]),
        }
        files: dict[str, Path] = {}
        for name, pair in pairs.items():
            files[f"{name}.crt"], files[f"{name}.key"] = pair.write(pki, name)
        files["sa.key"], files["sa.pub"] = pki / "sa.key", pki / "sa.pub"
        private, public = certificates.signing_key()
        certificates.write_private(files["sa.key"], private)
        files["sa.pub"].write_text(public, "ascii")
        tokens = {name: secrets.token_urlsafe(24) for name in ("viewer", "nobody")}
        files["tokens.csv"] = pki / "tokens.csv"
        certificates.write_private(files["tokens.csv"], "".join(f'{token},{name},{name},"lab:{name}s"\n' for name, token in tokens.items()))
        server = self._address("kubernetes")
        for name in ("kube-controller-manager", "kube-scheduler"):
            user = certificates.issue(ca, f"system:{name}")
            files[name] = pki / f"{name}.kubeconfig"
            certificates.write_private(files[name], certificates.kubeconfig(server, ca.certificate, {name: user}))
        users: Mapping[str, certificates.Pair | str] = {"admin": pairs["admin"], **tokens}
        certificates.write_private(self.folder / "kubeconfig", certificates.kubeconfig(server, ca.certificate, users))
        context = ssl.create_default_context(cafile=str(files["ca.crt"]))
        context.load_cert_chain(files["admin.crt"], files["admin.key"])
        # controller-manager and scheduler sign a certificate for themselves; on the loopback their health needs no proof
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._health = urllib3.PoolManager(retries=False, timeout=2, ssl_context=context)
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return files

    # --- what the lab itself plays ---

    def _write_addresses(self) -> None:
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
        text = "# Written by the lab that runs; gone when it is down.\n" + yaml.safe_dump(content, sort_keys=False)
        temporary = self.folder / "environment.yaml.new"
        temporary.write_text(text, "utf-8")
        temporary.replace(self.folder / "environment.yaml")

    def _play(self, pki: Mapping[str, Path], held: socket.socket) -> None:
        """Play the kubelet, serve metrics, and set up the background platform, as far as the parts go."""
        from opslib.lab import kubelet, logs, metrics, platform

        api = Api.from_kubeconfig(self.folder / "kubeconfig") if "kubernetes" in self.parts else None
        pods = None
        writer, history = None, Future[None]()
        if "elasticsearch" in self.parts and self.platform:
            writer = logs.Writer(self._address("elasticsearch"), api)
            # it takes seconds, in which the platform can be set up; the pods of days ago are not those of now anyway
            threading.Thread(target=_settle, args=(history, writer.history), name="history", daemon=True).start()
        if api is not None:
            self._tell("nodes")
            kubelet_ = kubelet.Kubelet(
                api, self.folder, self.ports["kubelet"], certificate=pki["kubelet.crt"], key=pki["kubelet.key"], ca=pki["ca.crt"]
            )
            self._closing.append(kubelet_.close)
            kubelet_.start()
            pods = kubelet_.pods
            platform.permissions(api)
            if self.platform:
                self._tell("platform")
                platform.apply(api)
        if "prometheus" in self.parts:
            exporter = metrics.Exporter(api, pods)
            self._closing.append(exporter.close)
            exporter.start(held)
        if api is not None and self.platform:
            self._tell("rollout")
            platform.wait(api, deadline_seconds=120, stop=self.stop)
        if writer is not None:
            self._tell("logs")
            history.result(_EXPECTED_SECONDS)
            self._closing.append(writer.close)
            writer.start()

    def _tell(self, step: str) -> None:
        self.step = step
        self.write_state()


def _settle(future: Future[None], work: Callable[[], None]) -> None:
    """Do some work in a thread that nobody has to wait for when the lab ends."""
    try:
        work()
    except Exception as error:  # whoever waits for it reads it
        future.set_exception(error)
    else:
        future.set_result(None)


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
    """Run the supervisor of one lab: ENGINE FOLDER PART[,PART...] [bare]."""
    engine, folder, parts = sys.argv[1], Path(sys.argv[2]), tuple(sys.argv[3].split(","))
    with (folder / "lock").open("w") as lock:
        if not _locked(lock):
            return 75
        supervisor = Supervisor(engine, folder, parts, platform="bare" not in sys.argv[4:])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_arguments: supervisor.stop.set())
        return supervisor.run()


if __name__ == "__main__":
    sys.exit(main())
