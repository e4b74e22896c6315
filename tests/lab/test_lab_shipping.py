"""The world's logs on their way to Elasticsearch."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import urllib3

from opslib.lab.elasticsearch import Cluster, app
from opslib.lab.serving import Served
from opslib.lab.shipping import Writer
from opslib.lab.world import World
from opslib.lab.world.changes import iso
from opslib.lab.world.faults import BadDeploy
from opslib.lab.world.manifests import manifests
from tests.waiting import until


class Server:
    """An Elasticsearch that is asked."""

    def __init__(self, address: str) -> None:
        self.address = address

    def count(self, **query: Any) -> int:
        """How many documents a query finds."""
        body = {"query": query or {"match_all": {}}}
        answer = urllib3.request("POST", f"{self.address}/logs-*/_count?ignore_unavailable=true", json=body, timeout=60)
        assert answer.status == 200, answer.data
        return int(answer.json()["count"])

    def pods(self, since: float) -> set[str]:
        """The pods that have written since a time."""
        body = {
            "size": 0,
            "query": {"range": {"@timestamp": {"gte": iso(since)}}},
            "aggs": {"pods": {"terms": {"field": "kubernetes.pod.name", "size": 500}}},
        }
        answer = urllib3.request("POST", f"{self.address}/logs-*/_search", json=body, timeout=60).json()
        return {one["key"] for one in answer["aggregations"]["pods"]["buckets"]}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        served = Served(app(Cluster(repositories=tmp_path)), held=held)
        yield Server(f"http://127.0.0.1:{held.getsockname()[1]}")
        served.close()


def gateway(world: World, number: int = 0) -> dict[str, Any]:
    """A pod of the cluster."""
    [template] = [
        one["spec"]["template"] for one in manifests(world) if one["kind"] == "Deployment" and one["metadata"]["name"] == "gateway"
    ]
    state = {"running": {"startedAt": datetime.fromtimestamp(world.end - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}}
    return {
        "metadata": {"name": f"gateway-new-{number}", "namespace": "shop", "labels": template["metadata"]["labels"]},
        "spec": {**template["spec"], "nodeName": world.nodes[0].name},
        "status": {"containerStatuses": [{"name": "gateway", "state": state}]},
    }


def test_the_newest_lines_are_there_first_and_what_broke_in_the_past_is_added(server: Server) -> None:
    now = time.time()
    worlds = [World(7, now - 7 * 86400, now)]
    pods = [gateway(worlds[0], number) for number in range(100)]  # so many that even at night somebody has something to say
    names = {pod["metadata"]["name"] for pod in pods}
    writer = Writer(server.address, lambda: worlds[-1], lambda: pods, days=2)
    writer.start()
    try:
        assert writer.recent.wait(30)
        assert server.count(range={"@timestamp": {"gte": iso(now - 3000)}}) > 50
        until(lambda: not [thread for thread in threading.enumerate() if thread.name == "logs of the past"])
        assert server.count(range={"@timestamp": {"lt": iso(now - 1.9 * 86400)}}) > 50
        until(lambda: server.pods(now + 0.5))
        assert server.pods(now + 0.5) <= names  # from now on the cluster's pods write
        assert not names & (server.pods(now - 7200) - server.pods(now))
        broken = {"bool": {"filter": [{"match_phrase": {"message": "no price tag"}}, {"range": {"@timestamp": {"lt": iso(now)}}}]}}
        assert server.count(**broken) == 0
        whole = server.count(range={"@timestamp": {"lt": iso(now - 7300)}})
        fault = BadDeploy(service="catalog", release="2.9.0", error_ratio=0.3, error="com.example.Broken: no price tag")
        worlds.append(worlds[0].breaks(fault, now - 7200))
        until(lambda: server.count(**broken) > 20)
        assert server.count(range={"@timestamp": {"lt": iso(now - 7300)}}) == whole  # nothing of before, and nothing twice
    finally:
        writer.close()
