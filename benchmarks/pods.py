"""Every unhealthy pod of a large cluster, in full: opslib against kubectl and the official client, on a real API server.

    python benchmarks/pods.py --pods 20000

Starts its own etcd and API server (built by `opslib lab build`), or uses the cluster of --kubeconfig; creates the pods (about 20 KB each
with managed fields, one in a hundred unhealthy); then runs each contender as a process of its own, in turn, several times. All of them
must name the same pods. Prints a table of seconds and peak memory (median, smallest and largest), and last one line of JSON with the
ratios of medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Process
from pathlib import Path

NAMESPACES = 50
SICK = ("CrashLoopBackOff", "ImagePullBackOff", "not ready", "Pending", "Evicted")

OPSLIB = """
import sys
from opslib.environments import Environment, Kubernetes as Settings
from opslib.sources.kubernetes import Kubernetes
environment = Environment(name="bench", kubernetes=Settings(kubeconfig=sys.argv[1], deadline_seconds=120))
pods = Kubernetes.connect(environment).unhealthy_pods().pods
print(*sorted(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in pods), sep="\\n")
"""

OFFICIAL = """
import sys
from kubernetes import client, config
config.load_kube_config(sys.argv[1])
sick = []
for pod in client.CoreV1Api().list_pod_for_all_namespaces().items:
    statuses = pod.status.container_statuses or []
    if pod.status.phase != "Succeeded" and (pod.status.phase != "Running" or not all(status.ready for status in statuses)):
        sick.append(f"{pod.metadata.namespace}/{pod.metadata.name}")
print(*sorted(sick), sep="\\n")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=20_000, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each contender (default: %(default)s)")
    parser.add_argument(
        "--kubeconfig", type=Path, help="use this cluster instead of one of our own; pods are created in namespaces bench-*"
    )
    parser.add_argument(
        "--kubectl", default=shutil.which("kubectl"), help="the kubectl to compare with (default: that of the lab's servers)"
    )
    arguments = parser.parse_args()
    with contextlib.nullcontext((arguments.kubeconfig, arguments.kubectl)) if arguments.kubeconfig else cluster() as (kubeconfig, kubectl):
        load(kubeconfig, arguments.pods)
        compare(kubeconfig, str(kubectl), arguments.pods, arguments.rounds)


@contextlib.contextmanager
def cluster() -> Iterator[tuple[Path, str]]:
    """An etcd and an API server alone, for the time of the benchmark: the kubeconfig, and the kubectl of the same version.

    No controllers: they would tidy away pods on nodes that do not exist.
    """
    from opslib.lab.build import program
    from opslib.lab.certificates import signing_key

    with tempfile.TemporaryDirectory(prefix="opslib-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        client, peer, secure = (free_port() for _port in range(3))
        token = secrets.token_urlsafe(16)
        (folder / "tokens.csv").write_text(f"{token},bench,bench,system:masters\n")
        key, public = signing_key()
        (folder / "sa.key").write_text(key)
        (folder / "sa.pub").write_text(public)
        start(
            stack,
            folder / "etcd.log",
            [
                program("etcd"),
                f"--data-dir={folder / 'etcd'}",
                *(f"--{kind}-client-urls=http://127.0.0.1:{client}" for kind in ("listen", "advertise")),
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster=default=http://127.0.0.1:{peer}",
                f"--quota-backend-bytes={8 << 30}",
                "--unsafe-no-fsync",
            ],
        )
        start(
            stack,
            folder / "kube-apiserver.log",
            [
                program("kube-apiserver"),
                f"--etcd-servers=http://127.0.0.1:{client}",
                f"--secure-port={secure}",
                "--bind-address=127.0.0.1",
                f"--cert-dir={folder}",
                f"--service-account-key-file={folder / 'sa.pub'}",
                f"--service-account-signing-key-file={folder / 'sa.key'}",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--disable-admission-plugins=ServiceAccount",
                "--authorization-mode=RBAC",
                f"--token-auth-file={folder / 'tokens.csv'}",
            ],
        )
        kubeconfig = folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": f"https://127.0.0.1:{secure}", "certificate-authority": "apiserver.crt"}}],
            "users": [{"name": "bench", "user": {"token": token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        }
        kubeconfig.write_text(json.dumps(content))
        kubectl = str(program("kubectl"))
        give_up = time.monotonic() + 120
        while subprocess.run(
            [kubectl, "--kubeconfig", kubeconfig, "get", "namespace", "default"], capture_output=True, check=False
        ).returncode:
            if time.monotonic() > give_up:
                raise SystemExit((folder / "kube-apiserver.log").read_text()[-2000:])
            time.sleep(0.5)
        yield kubeconfig, kubectl


def start(stack: contextlib.ExitStack, log: Path, words: list[object]) -> None:
    """Start a server whose end is the stack's."""
    process = subprocess.Popen([str(word) for word in words], stdout=stack.enter_context(log.open("wb")), stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- loading ---


def load(kubeconfig: Path, count: int) -> None:
    """Create the pods, in two processes of a few threads each."""
    started = time.monotonic()
    api = Api(kubeconfig)
    for namespace in range(NAMESPACES):
        api.send("POST", "/api/v1/namespaces", {"metadata": {"name": f"bench-{namespace:02}"}})
    workers = [Process(target=_create, args=(kubeconfig, range(start, count, 2), start == 0)) for start in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit("loading failed")
    print(f"created {count} pods in {time.monotonic() - started:.0f} s", file=sys.stderr)


def _create(kubeconfig: Path, indices: range, report: bool) -> None:
    api = Api(kubeconfig)

    def one(index: int) -> None:
        namespace = f"bench-{index % NAMESPACES:02}"
        body = pod(index)
        status = body.pop("status")
        created = json.loads(api.send("POST", f"/api/v1/namespaces/{namespace}/pods?fieldManager=kube-controller-manager", body) or "{}")
        if not created:
            return  # there from an earlier run
        created["status"] = status
        name = created["metadata"]["name"]
        api.send("PUT", f"/api/v1/namespaces/{namespace}/pods/{name}/status?fieldManager=kubelet", created)
        if report and index % 2000 == 0:
            print(f"  {index} …", file=sys.stderr)

    with ThreadPoolExecutor(6) as executor:
        for _done in executor.map(one, indices):
            pass


class Api:
    """The few requests that loading needs."""

    def __init__(self, kubeconfig: Path) -> None:
        from opslib.sources.kubeconfig import authorization_of, configuration_of

        configuration, _context = configuration_of(kubeconfig, None)
        from kubernetes.client.rest import RESTClientObject

        configuration.connection_pool_maxsize = 8
        self.host = configuration.host
        self.pool = RESTClientObject(configuration).pool_manager
        self.headers = authorization_of(configuration)

    def send(self, method: str, path: str, body: object) -> bytes:
        """The answer; nothing where the object is there already."""
        headers = {"content-type": "application/json", **self.headers()}
        answer = self.pool.request(method, self.host + path, body=json.dumps(body).encode(), headers=headers)
        if answer.status == 409:
            return b""
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {answer.data[:300]!r}")
        return bytes(answer.data)


def pod(index: int) -> dict[str, object]:
    """A pod as a shop's cluster has them: three containers with probes, resources and many variables, volumes, conditions."""
    chance = random.Random(index)
    app = f"app-{index % 400:03}"
    sick = SICK[index // 100 % len(SICK)] if index % 100 == 7 else ""
    containers = [_container(name, chance) for name in ("app", "istio-proxy", "log-agent")]
    return {
        "metadata": {
            "name": f"{app}-{chance.getrandbits(40):010x}-{index:05}",
            "labels": {
                "app": app,
                "app.kubernetes.io/name": app,
                "app.kubernetes.io/part-of": "shop",
                "pod-template-hash": f"{chance.getrandbits(40):010x}",
            },
            "annotations": {f"example.com/annotation-{number}": f"{chance.getrandbits(256):064x}" for number in range(8)},
        },
        "spec": {
            "nodeName": f"node-{index % 600:04}",
            "containers": containers,
            "volumes": [{"name": f"config-{number}", "configMap": {"name": f"{app}-{number}"}} for number in range(6)],
            "tolerations": [{"key": f"example.com/pool-{number}", "operator": "Exists", "effect": "NoSchedule"} for number in range(4)],
        },
        "status": _status(sick, [str(container["name"]) for container in containers]),
    }


def _container(name: str, chance: random.Random) -> dict[str, object]:
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10, "timeoutSeconds": 3}
    return {
        "name": name,
        "image": f"registry.example.com/shop/{name}:1.{chance.randrange(99)}.{chance.randrange(99)}",
        "env": [{"name": f"SETTING_{number:02}", "value": f"{chance.getrandbits(160):040x}"} for number in range(24)],
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "livenessProbe": probe,
        "readinessProbe": probe,
        "volumeMounts": [{"name": f"config-{number}", "mountPath": f"/etc/app/{number}"} for number in range(6)],
    }


def _status(sick: str, names: list[str]) -> dict[str, object]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if sick == "Evicted":
        return {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.", "startTime": now}
    if sick == "Pending":
        return {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True", "lastTransitionTime": now}]}
    waiting = {"waiting": {"reason": sick, "message": "back-off 5m0s"}} if sick.endswith("BackOff") else None
    statuses = [
        {
            "name": name,
            "image": f"registry.example.com/shop/{name}:1",
            "imageID": f"registry.example.com/shop/{name}@sha256:{'0' * 64}",
            "containerID": f"containerd://{'0' * 64}",
            "ready": not (sick and name == "app"),
            "started": True,
            "restartCount": 0,
            "state": waiting if waiting and name == "app" else {"running": {"startedAt": now}},
        }
        for name in names
    ]
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    conditions = [{"type": kind, "status": "False" if sick and "Ready" in kind else "True", "lastTransitionTime": now} for kind in kinds]
    return {
        "phase": "Running",
        "startTime": now,
        "podIP": "10.1.2.3",
        "podIPs": [{"ip": "10.1.2.3"}],
        "conditions": conditions,
        "containerStatuses": statuses,
    }


# --- comparing ---


def compare(kubeconfig: Path, kubectl: str, count: int, rounds: int) -> None:
    config = str(kubeconfig)
    contenders = {
        "opslib": [sys.executable, "-c", OPSLIB, config],
        "kubectl get pods -A": [kubectl, "--kubeconfig", config, "get", "pods", "-A"],
        "official Python client": [sys.executable, "-c", OFFICIAL, config],
    }
    run(contenders["opslib"])  # warms the server's cache for all of them
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    megabytes: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, set[str]] = {}
    for number in range(rounds):
        for name, words in contenders.items():
            elapsed, peak, output = run(words)
            seconds[name].append(elapsed)
            megabytes[name].append(peak)
            answers[name] = set(output.split())
            print(f"  round {number + 1}: {name}: {elapsed:.2f} s, {peak:.0f} MB", file=sys.stderr)
    sick = answers["opslib"]
    if sick != answers["official Python client"]:
        raise SystemExit(f"the answers differ: {sorted(sick ^ answers['official Python client'])[:10]}")
    print(f"{len(sick)} unhealthy among {count} pods, in full; {rounds} rounds; median (smallest - largest)")
    print(f"{'':26}{'seconds':>26}{'peak MB':>26}{'times slower':>14}")
    base = statistics.median(seconds["opslib"])
    for name in contenders:
        ratio = statistics.median(seconds[name]) / base
        print(f"{name:26}{spread(seconds[name], 2):>26}{spread(megabytes[name], 0):>26}{ratio:>14.1f}")
    print(
        json.dumps(
            {
                "benchmark": "pods",
                "pods": count,
                "unhealthy": len(sick),
                "official_seconds_ratio": round(statistics.median(seconds["official Python client"]) / base, 1),
                "kubectl_seconds_ratio": round(statistics.median(seconds["kubectl get pods -A"]) / base, 1),
                "official_memory_ratio": round(
                    statistics.median(megabytes["official Python client"]) / statistics.median(megabytes["opslib"]), 1
                ),
                "opslib_peak_megabytes": round(statistics.median(megabytes["opslib"])),
            }
        )
    )


def run(words: list[str]) -> tuple[float, float, str]:
    """Seconds from start to end of the process, its peak memory in megabytes, and what it printed."""
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        process = subprocess.Popen(words, stdout=output)
        _pid, status, usage = os.wait4(process.pid, 0)
        elapsed = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{words[:3]} failed with {process.returncode}")
        output.seek(0)
        return elapsed, usage.ru_maxrss / 1024, output.read()


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
