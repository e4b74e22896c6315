"""A real API server on which our controllers run, to be compared with one on which the real ones do."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import urllib3

from opslib.lab import build, certificates, usage
from opslib.lab.api import Api
from opslib.lab.kubelet import Kubelet

_SERVICES = "10.96.0.0/16"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Engine:
    """A cluster: `api` may do everything, `kubeconfig` is that user's."""

    name: str
    api: Api
    kubeconfig: Path

    def kubectl(self, *words: str, check: bool = True) -> str:
        """What the real kubectl prints."""
        command = [str(build.program("kubectl")), "--kubeconfig", str(self.kubeconfig), *words]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert not check or answer.returncode == 0, answer.stderr
        return answer.stdout + answer.stderr


Engines = tuple[Engine, Engine]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody has now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _number in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[tuple[Path, dict[str, Path], int]]:
    """etcd and kube-apiserver alone: the kubeconfig, the certificates, and a port for the kubelet."""
    etcd_port, peer_port, port, kubelet_port = free_ports(4)
    pki = folder / "pki"
    pki.mkdir()
    ca = certificates.authority("controllers")
    hosts = ("127.0.0.1", "localhost")
    pairs = {
        "ca": ca,
        "apiserver": certificates.issue(ca, "kube-apiserver", hosts=(*hosts, "10.96.0.1")),
        "kubelet": certificates.issue(ca, "system:node:lab", groups=["system:nodes"], hosts=hosts),
        "kubelet-client": certificates.issue(ca, "kube-apiserver-kubelet-client"),
        "admin": certificates.issue(ca, "lab-admin", groups=["system:masters"]),
    }
    files: dict[str, Path] = {}
    for name, pair in pairs.items():
        files[f"{name}.crt"], files[f"{name}.key"] = pair.write(pki, name)
    private, public = certificates.signing_key()
    certificates.write_private(pki / "sa.key", private)
    (pki / "sa.pub").write_text(public, "ascii")
    server = f"https://127.0.0.1:{port}"
    kubeconfig = folder / "kubeconfig"
    certificates.write_private(kubeconfig, certificates.kubeconfig(server, ca.certificate, {"admin": pairs["admin"]}))
    etcd, peer = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    commands = {
        "etcd": [
            f"--data-dir={folder / 'etcd'}",
            *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}", f"--listen-peer-urls={peer}"),
            *(f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}", "--unsafe-no-fsync", "--log-level=warn"),
        ],
        "kube-apiserver": [
            *(f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
            *(f"--tls-cert-file={files['apiserver.crt']}", f"--tls-private-key-file={files['apiserver.key']}"),
            *(f"--client-ca-file={files['ca.crt']}", "--authorization-mode=RBAC"),
            *(f"--service-account-key-file={pki / 'sa.pub'}", f"--service-account-signing-key-file={pki / 'sa.key'}"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-cluster-ip-range={_SERVICES}"),
            *(f"--kubelet-client-certificate={files['kubelet-client.crt']}", f"--kubelet-client-key={files['kubelet-client.key']}"),
            *(f"--kubelet-certificate-authority={files['ca.crt']}", "--kubelet-preferred-address-types=ExternalIP,InternalIP"),
            *("--endpoint-reconciler-type=none", "--allow-privileged=true"),
            *(f"--proxy-client-cert-file={files['kubelet-client.crt']}", f"--proxy-client-key-file={files['kubelet-client.key']}"),
        ],
    }
    with contextlib.ExitStack() as stack:
        for name, options in commands.items():
            stack.enter_context(running(folder / f"{name}.log", str(build.program(name)), *options))
        _wait_for(server, files, "/readyz")
        yield kubeconfig, files, kubelet_port


@contextlib.contextmanager
def running(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended at the end; what it writes is in `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(server: str, files: dict[str, Path], path: str) -> None:
    pool = urllib3.PoolManager(
        retries=False, timeout=2, ca_certs=str(files["ca.crt"]), cert_file=str(files["admin.crt"]), key_file=str(files["admin.key"])
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            if pool.request("GET", f"{server}{path}").status == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"kube-apiserver does not serve {path}")


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Engine]:
    """A real API server with our controllers, and nodes that the lab's kubelet plays."""
    with api_server(folder) as (kubeconfig, files, port):
        command = [sys.executable, "-m", "opslib.lab.controllers", "--kubeconfig", str(kubeconfig)]
        with running(folder / "controllers.log", *command):
            api = Api.from_kubeconfig(kubeconfig)
            kubelet = Kubelet(api, folder, port, certificate=files["kubelet.crt"], key=files["kubelet.key"], ca=files["ca.crt"])
            kubelet.start()
            usage.register(api, port)
            _wait_for(api.server, files, f"/apis/{usage.GROUP}/{usage.VERSION}")
            try:
                yield Engine("ours", api, kubeconfig)
            finally:
                kubelet.close()


def on_both(engines: Engines, step: Callable[[Engine], Result]) -> list[Result]:
    """Do something on both at the same time."""
    with ThreadPoolExecutor(2) as executor:
        return list(executor.map(step, engines))
