"""A real OpenSearch node and the embedded one, and documents for both."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_servers import serving, wait

from opslib.lab import build
from opslib.lab.elasticsearch import Cluster, app
from tests.ports import free_port


@dataclass(frozen=True)
class Node:
    """Asks one of them. `repositories` is its path.repo."""

    base: str
    repositories: Path

    def ask(self, method: str, path: str, content: Any = None) -> tuple[int, Any]:
        """Status, and JSON or text."""
        data = content if isinstance(content, bytes) else None if content is None else json.dumps(content).encode()
        kind = "application/x-ndjson" if "_bulk" in path or "_msearch" in path else "application/json"
        request = urllib.request.Request(f"{self.base}{path}", data, {"content-type": kind}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, _decoded(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _decoded(error.read())

    def search(self, index: str, body: Any, **query: str) -> tuple[int, Any]:
        more = "&".join(f"{key}={value}" for key, value in query.items())
        return self.ask("POST", f"/{index}/_search?{more}", body)


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode()


@contextlib.contextmanager
def real(folder: Path) -> Iterator[Node]:
    """The built node."""
    port, transport = free_port(), free_port()
    for name in ("config", "tmp", "repositories"):
        (folder / name).mkdir()
    command = [
        str(build.java()),
        *("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", f"-Djava.io.tmpdir={folder / 'tmp'}", "-Dlog4j2.level=WARN"),
        *("-cp", os.pathsep.join((f"{build.program('lib')}/*", str(build.program("classes")))), "LabNode"),
        *("cluster.name=opslib-lab", "node.name=lab-0", "discovery.type=single-node", "network.host=127.0.0.1"),
        *(f"http.port={port}", f"transport.port={transport}", f"path.home={folder}", f"path.repo={folder / 'repositories'}"),
        "cluster.routing.allocation.disk.threshold_enabled=false",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{port}"
        wait(f"{base}/_cluster/health?wait_for_status=yellow&timeout=1s", lambda: process.poll() is None, 120)
        yield Node(base, folder / "repositories")
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def embedded(folder: Path) -> Iterator[Node]:
    """The embedded one."""
    (folder / "repositories").mkdir()
    with serving(app(Cluster(repositories=folder / "repositories"))) as base:
        yield Node(base, folder / "repositories")


MAPPING = {
    "settings": {"number_of_replicas": 0},
    "mappings": {
        "properties": {
            "@timestamp": {"type": "date"},
            "message": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 80}}},
            "log": {"properties": {"level": {"type": "keyword"}}},
            "service": {"properties": {"name": {"type": "keyword"}}},
            "kubernetes": {"properties": {"namespace": {"type": "keyword"}, "pod": {"properties": {"name": {"type": "keyword"}}}}},
            "size": {"type": "double"},
        }
    },
}
_WORDS = (
    "GET /items/{n} 200 in {m} ms",
    "request to orders failed: context deadline exceeded after {m} ms, attempt {n}",
    "注文 {n} を受け付けました",
    "在庫引当に失敗しました: 商品 {n}",
    "could not publish event {n}: connection reset by peer",
    "java.lang.NullPointerException: null at com.example.Cart(Cart.java:{n})",
    "user@example.com signed in from 10.0.0.{m}",
    "slow query on carts",
)


def documents() -> dict[str, list[dict[str, Any]]]:
    """By index: two days of logs, and one of oddities."""
    chance = random.Random(11)
    result: dict[str, list[dict[str, Any]]] = {"logs-2026.01.01": [], "logs-2026.01.02": [], "odd": []}
    for number in range(300):
        day, minutes = divmod(number * 9, 1440)
        service = chance.choice(["cart", "checkout", "search"])
        document: dict[str, Any] = {
            "@timestamp": f"2026-01-0{day + 1}T{minutes // 60:02d}:{minutes % 60:02d}:{number % 60:02d}.{number:03d}Z",
            "message": chance.choice(_WORDS).format(n=chance.randrange(10, 99), m=chance.randrange(3, 30)),
            "log": {"level": chance.choice(["info", "info", "warn", "error"])},
            "service": {"name": service},
            "kubernetes": {"namespace": "shop" if service != "search" else "tools", "pod": {"name": f"{service}-{chance.randrange(3)}"}},
            "spent": chance.randrange(1, 500),
            "size": round(chance.uniform(0, 100), 2),
            "ok": chance.random() < 0.7,
            "trace": f"{chance.getrandbits(48):012x}",
        }
        if number % 7 == 0:
            del document["service"]
        if number % 5 == 0:
            document["tags"] = chance.sample(["a", "b", "c"], 2)
        result[f"logs-2026.01.0{day + 1}"].append(document)
    result["odd"] = [
        {"n": 1, "text": "One two three", "when": "2026-02-01"},
        {"n": -5, "text": ["two texts", "one of three"], "when": "2026-02-28T10:00:00+09:00", "deep": {"er": {"x": 1}}},
        {"n": 3, "text": "three three three four", "deep.er.x": 2, "list": [{"k": "a"}, {"k": "b"}]},
        {"text": "", "empty": None, "nothing": []},
        {"n": 9007199254740993, "f": 0.1, "b": False},
    ]
    return result


def fill(node: Node) -> None:
    """Write the documents."""
    assert node.ask("PUT", "/_index_template/logs", {"index_patterns": ["logs-*"], "template": MAPPING})[0] == 200
    lines = []
    for index, documents_ in documents().items():
        for number, document in enumerate(documents_):
            lines += [json.dumps({"index": {"_index": index, "_id": f"{index[-2:]}-{number}"}}), json.dumps(document, ensure_ascii=False)]
    status, answer = node.ask("POST", "/_bulk?refresh=true", ("\n".join(lines) + "\n").encode())
    assert status == 200, answer
    assert answer["errors"] is False, [item for item in answer["items"] if "error" in item["index"]][:3]
