"""The platform's application logs in OpenSearch: a few days of history at the start, then lines as time goes by."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import urllib3

from opslib.errors import OpsError
from opslib.lab.api import Api, ApiError
from opslib.lab.metrics import daily
from opslib.lab.platform import SERVICES, Workload
from opslib.messages import _

HISTORY = timedelta(days=7)

# level, how often of a thousand, wording; what stands in braces is filled with numbers and names
_WORDING = (
    ("info", 600, "GET /{noun}/{number} 200 in {milliseconds} ms"),
    ("info", 250, "POST /{noun} 201 in {milliseconds} ms"),
    ("info", 100, "注文 {number} を受け付けました"),
    ("info", 20, "cache refreshed: {number} entries"),
    ("warn", 15, "slow query on {noun}: {milliseconds}00 ms"),
    ("warn", 8, "在庫サービスの応答が遅延しています ({milliseconds} ms)"),
    ("error", 4, "request to {noun} failed: context deadline exceeded after {milliseconds}0 ms, attempt {digit}"),
    ("error", 2, "在庫引当に失敗しました: 商品 {number}"),
    ("error", 1, "could not publish event {number}: connection reset by peer"),
)
_NOUNS = ("items", "orders", "carts", "users", "prices", "coupons")

_TEMPLATE = {
    "index_patterns": ["logs-*"],
    "template": {
        "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "1s"},
        "mappings": {
            "properties": {
                "@timestamp": {"type": "date"},
                "message": {"type": "text"},
                "log": {"properties": {"level": {"type": "keyword"}}},
                "service": {"properties": {"name": {"type": "keyword"}}},
                "kubernetes": {
                    "properties": {
                        "namespace": {"type": "keyword"},
                        "pod": {"properties": {"name": {"type": "keyword"}}},
                        "node": {"properties": {"name": {"type": "keyword"}}},
                    }
                },
                "trace": {"properties": {"id": {"type": "keyword"}}},
            }
        },
    },
}


class Writer:
    """Writes logs to ``logs-YYYY.MM.DD``.

    Parameters
    ----------
    address
        OpenSearch's base address.
    api
        Where the pods' names are read; None: names are made up.
    """

    def __init__(self, address: str, api: Api | None) -> None:
        self._address = address
        self._api = api
        self._pool = urllib3.PoolManager(retries=False, timeout=60)
        self._stop = threading.Event()
        self._random = random.Random(20260401)  # noqa: S311 - the same history every time is the point

    def history(self) -> None:
        """Write the days before now.

        Raises
        ------
        OpsError
            OpenSearch refused.
        """
        self._send("PUT", "/_index_template/logs", json.dumps(_TEMPLATE))
        now = datetime.now(UTC)
        pods = self._pods()
        batch: list[dict[str, Any]] = []
        moment = now - HISTORY
        while moment < now:
            moment += timedelta(minutes=2)
            for service in SERVICES:
                if self._random.random() < daily(moment.timestamp()):
                    batch.append(line(service, pods, moment, self._random))
            if len(batch) >= 4000:
                self._write(batch)
                batch = []
        self._write(batch)
        self._send("POST", "/logs-*/_refresh", "")

    def start(self) -> None:
        """Go on in the background."""
        threading.Thread(target=self._run, name="log writer", daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(3):
            pods = self._pods()
            chosen = (service for service in SERVICES if self._random.random() < 0.5)
            try:
                self._write([line(service, pods, datetime.now(UTC), self._random) for service in chosen])
            except OpsError:
                continue  # it is away, perhaps on purpose; the next round tries again

    def _pods(self) -> dict[tuple[str, str], list[tuple[str, str]]]:
        """Names of the pods that run, with their nodes, by namespace and app."""
        found: dict[tuple[str, str], list[tuple[str, str]]] = {}
        if self._api is None:
            return found
        try:
            pods = self._api.list("/api/v1/pods", fields="status.phase=Running")
        except ApiError:
            return found
        for pod in pods:
            metadata = pod["metadata"]
            key = (metadata["namespace"], metadata.get("labels", {}).get("app", ""))
            found.setdefault(key, []).append((metadata["name"], pod["spec"].get("nodeName", "")))
        return found

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        body = "".join(_bulk(lines))
        if not body:
            return
        answer = self._send("POST", "/_bulk", body)
        if answer.get("errors"):
            first = next(item["create"]["error"] for item in answer["items"] if "error" in item["create"])
            raise OpsError(_("OpenSearch refused log lines: {reason}", reason=json.dumps(first)))

    def _send(self, method: str, path: str, body: str) -> dict[str, Any]:
        headers = {"Content-Type": "application/x-ndjson" if path == "/_bulk" else "application/json"}
        try:
            answer = self._pool.request(method, f"{self._address}{path}", body=body.encode() or None, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise OpsError(_("OpenSearch does not answer: {reason}", reason=str(error))) from error
        if answer.status >= 300:
            raise OpsError(_("OpenSearch refused {path}: {reason}", path=path, reason=answer.data.decode("utf-8", "replace")[:500]))
        content: dict[str, Any] = answer.json()
        return content


def line(service: Workload, pods: dict[tuple[str, str], list[tuple[str, str]]], moment: datetime, chance: random.Random) -> dict[str, Any]:
    """One log line of a service, in the field names of the Elastic Common Schema."""
    [(level, _often, wording)] = chance.choices(_WORDING, [often for _level, often, _wording in _WORDING])
    pod, node = chance.choice(pods.get((service.namespace, service.name)) or [(f"{service.name}-0", "")])
    text = wording.format(
        noun=chance.choice(_NOUNS),
        number=chance.randrange(10_000, 99_999),
        digit=chance.randrange(1, 4),
        milliseconds=chance.randrange(3, 90),
    )
    return {
        "@timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "message": text,
        "log": {"level": level},
        "service": {"name": service.name},
        "kubernetes": {"namespace": service.namespace, "pod": {"name": pod}, "node": {"name": node}},
        "trace": {"id": f"{chance.getrandbits(64):016x}"},
    }


def _bulk(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    for one in lines:
        index = f"logs-{one['@timestamp'][:10].replace('-', '.')}"
        yield json.dumps({"create": {"_index": index}}) + "\n" + json.dumps(one, ensure_ascii=False) + "\n"
