"""The real engine: the servers that `opslib lab build` made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from opslib.errors import InputError
from opslib.lab import build
from opslib.lab.engines import background
from opslib.lab.engines.servers import SERVICE_RANGE, Setup, Spec, alertmanager_file, prometheus_file
from opslib.messages import _

if TYPE_CHECKING:
    from opslib.lab.world import World

NEEDS = {
    "kubernetes": ("etcd", "kubernetes"),
    "prometheus": ("prometheus",),
    "alertmanager": ("alertmanager",),
    "elasticsearch": ("opensearch",),
}
PORTS = (
    "etcd",
    "etcd-peer",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "prometheus",
    "alertmanager",
    "opensearch",
    "opensearch-transport",
    *background.PARTS,
)
SERVERS = {
    "kubernetes": "kube-apiserver",
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
    "elasticsearch": "opensearch",
    **background.SERVERS,
}


def check(parts: Sequence[str]) -> None:
    """Raise InputError where a server of these parts has not been built."""
    missing = [name for part in parts for name in NEEDS.get(part, ()) if not build.is_built(build.find(name))]
    if missing:
        raise InputError(_("{names} must be built first", names=missing), _("Build the servers, once"), "opslib lab build")


def plant(setup: Setup, world: World, *, platform: bool) -> bool:
    """Nothing can be put into the cluster before its start."""
    return False


def specs(setup: Setup, part: str) -> Iterator[Spec]:
    """The servers of a part."""
    if part == "kubernetes":
        yield from _kubernetes(setup)
    elif part == "prometheus":
        yield _prometheus(setup)
    elif part == "alertmanager":
        yield _alertmanager(setup)
    elif part == "elasticsearch":
        yield _opensearch(setup)
    else:
        yield from background.specs(setup, part)


def _kubernetes(setup: Setup) -> Iterator[Spec]:
    ports, pki = setup.ports, setup.pki
    etcd, peer = f"http://127.0.0.1:{ports['etcd']}", f"http://127.0.0.1:{ports['etcd-peer']}"
    yield Spec(
        name="etcd",
        part="kubernetes",
        command=(
            str(build.program("etcd")),
            f"--data-dir={setup.data('etcd')}",
            *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"),
            *("--unsafe-no-fsync", "--quota-backend-bytes=8589934592", "--log-level=warn"),
        ),
        health=f"{etcd}/health",
    )
    yield Spec(
        name="kube-apiserver",
        part="kubernetes",
        command=(
            str(build.program("kube-apiserver")),
            f"--etcd-servers={etcd}",
            *("--bind-address=127.0.0.1", f"--secure-port={ports['kube-apiserver']}"),
            *(f"--tls-cert-file={pki['apiserver.crt']}", f"--tls-private-key-file={pki['apiserver.key']}"),
            *(f"--client-ca-file={pki['ca.crt']}", f"--token-auth-file={pki['tokens.csv']}", "--authorization-mode=RBAC"),
            *(f"--service-account-key-file={pki['sa.pub']}", f"--service-account-signing-key-file={pki['sa.key']}"),
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--kubelet-client-certificate={pki['kubelet-client.crt']}", f"--kubelet-client-key={pki['kubelet-client.key']}"),
            *(f"--kubelet-certificate-authority={pki['ca.crt']}", "--kubelet-preferred-address-types=ExternalIP,InternalIP"),
            # for metrics.k8s.io, which the kubelets' process serves
            *(f"--proxy-client-cert-file={pki['kubelet-client.crt']}", f"--proxy-client-key-file={pki['kubelet-client.key']}"),
            *(f"--service-cluster-ip-range={SERVICE_RANGE}", "--allow-privileged=true"),
            # a loopback address cannot be the endpoint of the kubernetes Service
            "--endpoint-reconciler-type=none",
        ),
        health=f"https://127.0.0.1:{ports['kube-apiserver']}/readyz",
        after=("etcd",),
    )
    yield Spec(
        name="kube-controller-manager",
        part="kubernetes",
        command=(
            str(build.program("kube-controller-manager")),
            f"--kubeconfig={pki['kube-controller-manager']}",
            *("--bind-address=127.0.0.1", f"--secure-port={ports['kube-controller-manager']}", "--leader-elect=false"),
            *("--use-service-account-credentials", f"--service-account-private-key-file={pki['sa.key']}"),
            *(f"--root-ca-file={pki['ca.crt']}", f"--service-cluster-ip-range={SERVICE_RANGE}"),
        ),
        health=f"https://127.0.0.1:{ports['kube-controller-manager']}/healthz",
        after=("kube-apiserver",),
    )
    yield Spec(
        name="kube-scheduler",
        part="kubernetes",
        command=(
            str(build.program("kube-scheduler")),
            f"--kubeconfig={pki['kube-scheduler']}",
            *("--bind-address=127.0.0.1", f"--secure-port={ports['kube-scheduler']}", "--leader-elect=false"),
        ),
        health=f"https://127.0.0.1:{ports['kube-scheduler']}/healthz",
        after=("kube-apiserver",),
    )


def _prometheus(setup: Setup) -> Spec:
    address = f"127.0.0.1:{setup.ports['prometheus']}"
    return Spec(
        name="prometheus",
        part="prometheus",
        command=(
            str(build.program("prometheus")),
            *(
                f"--config.file={prometheus_file(setup, reads=True)}",
                f"--storage.tsdb.path={setup.data('prometheus')}",
                "--storage.tsdb.retention.time=8d",
            ),
            *(
                f"--web.listen-address={address}",
                f"--web.external-url=http://{address}",
                "--web.enable-lifecycle",
                "--web.enable-admin-api",
                "--log.level=warn",
            ),
        ),
        health=f"http://{address}/-/ready",
    )


def _alertmanager(setup: Setup) -> Spec:
    address = f"127.0.0.1:{setup.ports['alertmanager']}"
    return Spec(
        name="alertmanager",
        part="alertmanager",
        command=(
            str(build.program("alertmanager")),
            *(
                f"--config.file={alertmanager_file(setup)}",
                f"--storage.path={setup.data('alertmanager')}",
                f"--web.listen-address={address}",
            ),
            *(f"--web.external-url=http://{address}", "--cluster.listen-address=", "--log.level=warn"),
        ),
        health=f"http://{address}/-/ready",
    )


def _opensearch(setup: Setup) -> Spec:
    home, snapshots = setup.data("opensearch"), setup.data("snapshots")
    (home / "config").mkdir(exist_ok=True)
    (home / "tmp").mkdir(exist_ok=True)
    port = setup.ports["opensearch"]
    classpath = os.pathsep.join((f"{build.program('lib')}/*", str(build.program("classes"))))
    return Spec(
        name="opensearch",
        part="elasticsearch",
        command=(
            str(build.java()),
            *("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", f"-Djava.io.tmpdir={home / 'tmp'}", "-Dlog4j2.level=WARN"),
            *("-cp", classpath, "LabNode"),
            *("cluster.name=opslib-lab", "node.name=lab-0", "discovery.type=single-node", "network.host=127.0.0.1"),
            *(f"http.port={port}", f"transport.port={setup.ports['opensearch-transport']}"),
            *(f"path.home={home}", f"path.repo={snapshots}"),
            # a machine with a full disk must not turn the lab's indices read-only
            "cluster.routing.allocation.disk.threshold_enabled=false",
        ),
        health=f"http://127.0.0.1:{port}/_cluster/health?wait_for_status=yellow&timeout=1s",
    )
