"""The embedded lab against the real servers: lists of many pods, and what a lab costs in time and memory.

    python benchmarks/lab.py lists --pods 5000      # the two API servers with the same pods, alternating
    python benchmarks/lab.py up --pods 5000         # time to up, memory by process, how soon a break is seen
    python benchmarks/lab.py breaks                 # how soon each scenario's signature is in the metrics

The pods are those of a lab (`opslib lab up --pods`). Each prints a table (median, smallest and largest), and last one line of JSON.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import http.client
import json
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

import pods as other

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
METADATA = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
PODS = "/api/v1/pods"
# name: path, Accept, whether compressed as most clients want it
LISTS = {
    "JSON": (PODS, "application/json", False),
    "JSON, gzip": (PODS, "application/json", True),
    "JSON, from the cache (resourceVersion=0)": (f"{PODS}?resourceVersion=0", "application/json", False),
    "Table, gzip (kubectl get pods -A)": (f"{PODS}?limit=500", TABLE, True),
    "Table without objects": (f"{PODS}?includeObject=None&resourceVersion=0", TABLE, False),
    "metadata": (PODS, METADATA, False),
    "label selector": (f"{PODS}?labelSelector=app%3D{{app}}", "application/json", False),
    "field selector: not running": (f"{PODS}?fieldSelector=status.phase%21%3DRunning", TABLE, True),
    "field selector: one node": (f"{PODS}?fieldSelector=spec.nodeName%3D{{node}}", "application/json", False),
    "one page of 500": (f"{PODS}?limit=500", "application/json", False),
    "all by pages of 500": (f"{PODS}?limit=500&all", "application/json", False),
}
WATCHERS = 20


@dataclass(frozen=True)
class Server:
    """An API server that runs."""

    name: str
    kubeconfig: Path
    process: int
    kept: list[tuple[http.client.HTTPSConnection, dict[str, str]]] = field(default_factory=list)

    def connection(self) -> tuple[http.client.HTTPSConnection, dict[str, str]]:
        """A connection, and the headers that say who asks."""
        import yaml

        config = yaml.safe_load(self.kubeconfig.read_text("utf-8"))
        host = config["clusters"][0]["cluster"]["server"].removeprefix("https://")
        user = config["users"][0]["user"]
        context = ssl._create_unverified_context()
        return http.client.HTTPSConnection(host, context=context, timeout=120), {"Authorization": f"Bearer {user['token']}"}

    def get(self, path: str, accept: str = "application/json", *, packed: bool = False) -> bytes:
        """The body of an answer, unpacked, over a connection that is kept."""
        if not self.kept:
            self.kept.append(self.connection())
        connection, headers = self.kept[0]
        headers = {**headers, "Accept": accept, "Accept-Encoding": "gzip" if packed else "identity"}
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
        except http.client.RemoteDisconnected:  # it was idle for long
            connection.close()
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{self.name}: {path}: {answer.status} {body[:300]!r}")
        return gzip.decompress(body) if answer.getheader("content-encoding") == "gzip" else body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("lists", "up", "breaks"))
    parser.add_argument("--pods", type=int, default=5000, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: %(default)s)")
    parser.add_argument("--state", type=Path, help="lists: a state file of the embedded API server, in the place of a lab's own")
    parser.add_argument("--scenario", default="image-pull", help="up: what is broken (default: %(default)s)")
    parser.add_argument("--after", type=float, default=60, help="breaks: seconds after up (default: %(default)s)")
    chosen = parser.parse_args()
    if chosen.what == "lists":
        lists(chosen.pods, chosen.rounds, chosen.state)
    elif chosen.what == "breaks":
        breaks(chosen.rounds, chosen.after)
    else:
        up(chosen.pods, chosen.rounds, chosen.scenario)


# --- lists ---


def lists(count: int, rounds: int, state: Path | None) -> None:
    """Both API servers with the same pods."""
    with tempfile.TemporaryDirectory(prefix="opslib-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "embedded").mkdir()
        if state is None:
            state = _state_of_a_lab(count, folder / "lab")
        shutil.copyfile(state, folder / "embedded" / "state.db")
        embedded = stack.enter_context(_embedded(folder / "embedded"))
        found = json.loads(embedded.get(PODS))["items"]
        kubeconfig, _kubectl = stack.enter_context(other.cluster())
        real = Server("real", kubeconfig, _listener(kubeconfig))
        _copy(kubeconfig, found)
        app = next(iter(found[len(found) // 2]["metadata"]["labels"].values()))
        label = next(iter(found[len(found) // 2]["metadata"]["labels"]))
        node = found[0]["spec"]["nodeName"]
        _compare((embedded, real), len(found), rounds, f"{label}%3D{app}", node)


def _compare(servers: tuple[Server, Server], count: int, rounds: int, label: str, node: str) -> None:
    seconds: dict[str, dict[str, list[float]]] = {name: {server.name: [] for server in servers} for name in (*LISTS, "watch")}
    spent_cpu: dict[str, dict[str, list[float]]] = {name: {server.name: [] for server in servers} for name in (*LISTS, "watch")}
    for number in range(rounds + 1):
        for name, (path, accept, packed) in LISTS.items():
            wanted = path.replace("app%3D{app}", label).replace("{node}", node)
            sizes = set()
            for server in servers if number % 2 else servers[::-1]:
                begun, busy = time.perf_counter(), _cpu_seconds(server.process)
                items = _read(server, wanted, accept, packed)
                if number:  # the first round warms
                    seconds[name][server.name].append(time.perf_counter() - begun)
                    spent_cpu[name][server.name].append(_cpu_seconds(server.process) - busy)
                sizes.add(items)
            if len(sizes) != 1:
                raise SystemExit(f"the answers differ: {name}: {sizes}")
        for server in servers if number % 2 else servers[::-1]:
            busy = _cpu_seconds(server.process)
            spent = _fan_out(server)
            if number:
                seconds["watch"][server.name].append(spent)
                spent_cpu["watch"][server.name].append(_cpu_seconds(server.process) - busy)
        print(f"  round {number} of {rounds}", file=sys.stderr)
    print(f"{count} pods; {rounds} rounds, alternating; milliseconds: median (smallest - largest)")
    print("CPU: what the servers' own processes used, medians; without etcd, which the real one asks besides")
    print(f"{'':44}{'embedded':>26}{'real':>26}{'real/embedded':>15}{'CPU':>16}")
    ratios, cpu_ratios = {}, {}
    for name, values in seconds.items():
        shown = f"100 changes seen by {WATCHERS} watchers" if name == "watch" else name
        ratios[name] = statistics.median(values["real"]) / statistics.median(values["embedded"])
        cells = [other.spread([one * 1000 for one in values[server.name]], 0) for server in servers]
        busy = {server.name: statistics.median(spent_cpu[name][server.name]) for server in servers}
        cpu_ratios[name] = busy["real"] / busy["embedded"]
        cpu = f"{busy['embedded'] * 1000:.0f}/{busy['real'] * 1000:.0f} {cpu_ratios[name]:.2f}"
        print(f"{shown:44}{cells[0]:>26}{cells[1]:>26}{ratios[name]:>15.2f}{cpu:>16}")
    memory = {server.name: _megabytes(server.process) for server in servers}
    print(f"{'memory of the process, MB':44}{memory['embedded']:>26.0f}{memory['real']:>26.0f}")
    print(
        json.dumps(
            {
                "benchmark": "lab lists",
                "pods": count,
                "real_to_embedded": {name: round(ratio, 2) for name, ratio in ratios.items()},
                "real_to_embedded_cpu": {name: round(ratio, 2) for name, ratio in cpu_ratios.items()},
                "embedded_megabytes": round(memory["embedded"]),
                "real_megabytes": round(memory["real"]),
            }
        )
    )


def _read(server: Server, path: str, accept: str, packed: bool) -> int:
    """Read a list, as a client does that counts what is in it; how many there are."""
    pages = path.endswith("&all")
    path = path.removesuffix("&all")
    if not pages:
        return server.get(path, accept, packed=packed).count(b'"cells":' if "Table" in accept else b'"creationTimestamp":')
    total, token = 0, ""
    while True:
        body = server.get(f"{path}&continue={token}" if token else path, accept, packed=packed)
        total += body.count(b'"creationTimestamp":')
        token = json.loads(body)["metadata"].get("continue", "")
        if not token:
            return total


def _fan_out(server: Server) -> float:
    """Seconds until many watchers have seen changes of one pod."""
    pod = json.loads(server.get(f"{PODS}?limit=1"))
    path = f"/api/v1/namespaces/{pod['items'][0]['metadata']['namespace']}/pods/{pod['items'][0]['metadata']['name']}"
    version = json.loads(server.get(f"{PODS}?limit=1"))["metadata"]["resourceVersion"]
    changes = 100
    connections = []
    for _number in range(WATCHERS):
        connection, headers = server.connection()
        connection.request("GET", f"{PODS}?watch=true&resourceVersion={version}", headers=headers)
        connections.append((connection, connection.getresponse()))

    def read(answer: http.client.HTTPResponse) -> None:
        for _number in range(changes):
            answer.readline()

    readers = [Thread(target=read, args=(answer,)) for _connection, answer in connections]
    for reader in readers:
        reader.start()
    begun = time.perf_counter()
    connection, headers = server.connection()
    for number in range(changes):
        body = json.dumps({"metadata": {"annotations": {"bench": f"{begun} {number}"}}})
        connection.request("PATCH", path, body, {**headers, "Content-Type": "application/merge-patch+json"})
        connection.getresponse().read()
    for reader in readers:
        reader.join(60)
        if reader.is_alive():
            raise SystemExit(f"{server.name}: a watch has missed changes")
    spent = time.perf_counter() - begun
    for one, _answer in connections:
        one.close()
    return spent


def _state_of_a_lab(count: int, folder: Path) -> Path:
    """The state of a lab with that many pods, after a start."""
    copy = folder.with_suffix(".db")
    import sqlite3

    from opslib.lab.kube import state

    with _started(folder, "--only", "kubernetes", "--pods", str(count), output=sys.stderr):
        time.sleep(2)  # what controllers do in a new lab is done, and written
        with contextlib.closing(sqlite3.connect(state.path(folder))) as database, contextlib.closing(sqlite3.connect(copy)) as target:
            database.backup(target)
    return copy


@contextlib.contextmanager
def _embedded(folder: Path) -> Iterator[Server]:
    """The embedded API server alone."""
    port = other.free_port()
    command = [sys.executable, "-m", "opslib.lab.kube", "--port", str(port), "--state", str(folder)]
    with (folder / "log").open("wb") as log:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Server("embedded", folder / "kubeconfig", process.pid)
        while True:
            with contextlib.suppress(OSError, KeyError, http.client.HTTPException):
                server.get("/readyz")
                break
            server.kept.clear()
            if process.poll() is not None:
                raise SystemExit((folder / "log").read_text("utf-8"))
            time.sleep(0.02)
        print(f"embedded: ready after {time.perf_counter() - begun:.2f} s", file=sys.stderr)
        yield server
    finally:
        process.kill()
        process.wait()


def _copy(kubeconfig: Path, found: list[dict[str, Any]]) -> None:
    """Create the pods on the other server, with their statuses."""
    api = other.Api(kubeconfig)
    begun = time.monotonic()
    for namespace in sorted({pod["metadata"]["namespace"] for pod in found} - {"default", "kube-system", "kube-public", "kube-node-lease"}):
        api.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    names = {pod["spec"].get("priorityClassName") for pod in found} - {None, "system-cluster-critical", "system-node-critical"}
    for name in sorted(str(name) for name in names):
        value = next(pod["spec"]["priority"] for pod in found if pod["spec"].get("priorityClassName") == name)
        api.send("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": name}, "value": value})

    def one(pod: dict[str, Any]) -> None:
        metadata = {name: value for name, value in pod["metadata"].items() if name not in ("resourceVersion", "uid", "managedFields")}
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods"
        body = {"metadata": metadata, "spec": pod["spec"]}
        created = json.loads(api.send("POST", f"{path}?fieldManager=kube-controller-manager", body))
        created["status"] = pod["status"]
        api.send("PUT", f"{path}/{metadata['name']}/status?fieldManager=kubelet", created)

    with ThreadPoolExecutor(8) as executor:
        for _done in executor.map(one, found):
            pass
    print(f"real: created {len(found)} pods in {time.monotonic() - begun:.0f} s", file=sys.stderr)


def _listener(kubeconfig: Path) -> int:
    """The process of the server that a kubeconfig of `benchmarks.pods` names."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if f"--cert-dir={kubeconfig.parent}".encode() in words:
                return int(entry.name)
    raise SystemExit("the real API server is not found")


def _cpu_seconds(process: int) -> float:
    """What a process has used of the processors since its start (the clock of clock_getcpuclockid(3))."""
    return time.clock_gettime(~process << 3 | 2)


def _megabytes(process: int) -> float:
    """The memory that a process has for itself, and its part of what it shares."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text("ascii")
    return int(next(line for line in text.split("\n") if line.startswith("Pss:")).split()[1]) / 1024


# --- a whole lab ---


def _command(folder: Path, *words: str) -> list[str]:
    """`opslib lab` with these words, of the lab in a folder."""
    return [str(Path(sys.executable).with_name("opslib")), "lab", *words, "--state-dir", str(folder)]


@contextlib.contextmanager
def _started(folder: Path, *options: str, output: int | TextIO = subprocess.DEVNULL) -> Iterator[dict[str, Any]]:
    """A lab for the time of the block: what its state.json says."""
    subprocess.run(_command(folder, "up", *options), check=True, stdout=output)
    try:
        yield json.loads((folder / "state.json").read_text("utf-8"))
    finally:
        subprocess.run(_command(folder, "down"), check=True, stdout=output)


def up(count: int, rounds: int, scenario: str) -> None:
    """Time to up, memory by process, and how soon a break is seen, with the usual pods and with many."""
    sizes = {"usual": 0, f"{count} pods": count}
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in sizes}
    memory: dict[str, dict[str, list[float]]] = {name: {} for name in sizes}
    for number in range(rounds):
        for name, pods in sizes.items():
            with tempfile.TemporaryDirectory(prefix="opslib-bench-") as folder:
                spent, used = _one_lab(Path(folder) / "lab", pods, scenario)
            for part, value in spent.items():
                seconds[name].setdefault(part, []).append(value)
            for part, value in used.items():
                memory[name].setdefault(part, []).append(value)
            print(f"  round {number + 1} of {rounds}: {name}: {spent}", file=sys.stderr)
    print(f"embedded lab; {rounds} rounds, alternating; median (smallest - largest)")
    print(f"{'':44}" + "".join(f"{name:>26}" for name in sizes))
    for unit, table, digits in (("seconds", seconds, 2), ("MB", memory, 0)):
        for part in dict.fromkeys(part for values in table.values() for part in values):
            cells = [other.spread(table[name][part], digits) if part in table[name] else "-" for name in sizes]
            print(f"{f'{part}, {unit}':44}" + "".join(f"{cell:>26}" for cell in cells))
    print(
        json.dumps(
            {
                "benchmark": "lab up",
                "seconds": {
                    name: {part: round(statistics.median(one), 2) for part, one in parts.items()} for name, parts in seconds.items()
                },
                "megabytes": {name: {part: round(statistics.median(one)) for part, one in parts.items()} for name, parts in memory.items()},
            }
        )
    )


def _one_lab(folder: Path, pods: int, scenario: str) -> tuple[dict[str, float], dict[str, float]]:
    """Start a lab, look at its memory, break it, end it: seconds, and megabytes by process."""
    begun = time.perf_counter()
    with _started(folder, *(["--pods", str(pods)] if pods else [])) as state:
        spent = {"up": time.perf_counter() - begun}
        time.sleep(20)  # what runs behind the start is done
        used = {name: _megabytes(one["pid"]) for name, one in state["servers"].items()}
        used["supervisor"] = _megabytes(state["supervisor"]["pid"])
        used["all"] = sum(used.values())
        lab = _Lab(folder, state["addresses"])
        before = lab.seen()
        begun = time.perf_counter()
        breaking = subprocess.Popen(_command(folder, "break", scenario), stdout=subprocess.DEVNULL)
        while len(spent) < 3 and time.perf_counter() < begun + 120:
            for name, value in lab.seen().items():
                if name not in spent and value != before[name]:
                    spent[name] = time.perf_counter() - begun
            time.sleep(0.05)
        breaking.wait()
    return spent, used


class _Lab:
    """What a notebook sees of a lab: its API server and its Prometheus."""

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        import urllib3
        import yaml

        user = yaml.safe_load((folder / "kubeconfig").read_text("utf-8"))["users"][0]["user"]
        pair = [folder / f"bench.{kind}" for kind in ("crt", "key")]
        for file, name in zip(pair, ("client-certificate-data", "client-key-data"), strict=True):
            file.write_bytes(base64.b64decode(user[name]))
        self._addresses = addresses
        self._pool = urllib3.PoolManager(cert_reqs="CERT_NONE", cert_file=str(pair[0]), key_file=str(pair[1]))
        urllib3.disable_warnings()

    def seen(self) -> dict[str, object]:
        """How many pods are not well, by the API and by a query."""
        path = f"{self._addresses['kubernetes']}{PODS}?includeObject=None&resourceVersion=0"
        rows = self._pool.request("GET", path, headers={"Accept": TABLE}).json()["rows"]
        query = {"query": 'sum(kube_pod_status_ready{condition="false"})'}
        found = self._pool.request("GET", f"{self._addresses['prometheus']}/api/v1/query", fields=query).json()["data"]["result"]
        bad = sum(row["cells"][2] not in ("Running", "Completed") or row["cells"][1].split("/")[0] == "0" for row in rows)
        return {"break to the API": bad, "break to a query": [one["value"][1] for one in found]}


# --- breaks ---


def breaks(rounds: int, after: float) -> None:
    """How long after the command a scenario's signature, as it is when the scenario is first seen, is what Prometheus answers."""
    from opslib.lab.world import scenarios

    signs = {name: _at_first(scenarios.load(name)) for name in scenarios.names()}
    seconds: dict[str, list[float]] = {name: [] for name, mine in signs.items() if mine}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(prefix="opslib-bench-") as name, _started(folder := Path(name) / "lab") as state:
            time.sleep(after)
            prometheus = state["addresses"]["prometheus"]
            for scenario, taken in seconds.items():
                if _shown(prometheus, signs[scenario]):
                    raise SystemExit(f"{scenario} shows before it is broken")
                begun = time.perf_counter()
                breaking = subprocess.Popen(_command(folder, "break", scenario), stdout=subprocess.DEVNULL)
                while not _shown(prometheus, signs[scenario]):
                    if time.perf_counter() > begun + 120:
                        raise SystemExit(f"{scenario} does not show")
                    time.sleep(0.05)
                taken.append(time.perf_counter() - begun)
                breaking.wait()
                subprocess.run(_command(folder, "reset"), check=True, stdout=subprocess.DEVNULL)
                time.sleep(3)
        print(f"  round {number + 1} of {rounds}", file=sys.stderr)
    print(f"embedded lab, {after:g} s after up; from the command to the metrics, seconds; {rounds} rounds; median (smallest - largest)")
    for scenario, taken in seconds.items():
        print(f"{scenario:44}{other.spread(taken, 2):>26}")
    medians = {scenario: round(statistics.median(taken), 2) for scenario, taken in seconds.items()}
    print(json.dumps({"benchmark": "lab breaks", "seconds": medians}))


def _at_first(scenario: Any) -> list[Any]:
    """The signs of a scenario that hold when it is first seen."""
    last = max((sign.after for sign in scenario.signature if sign.after <= scenario.seen_after), default=0)
    return [sign for sign in scenario.signature if sign.after == last]


def _shown(prometheus: str, signs: list[Any]) -> bool:
    import urllib3

    from opslib.lab.world import scenarios

    for sign in signs:
        found = urllib3.request("GET", f"{prometheus}/api/v1/query", fields={"query": sign.query}).json()["data"]["result"]
        if not found or not all(scenarios.holds(sign.is_, float(one["value"][1])) for one in found):
            return False
    return True


if __name__ == "__main__":
    main()
