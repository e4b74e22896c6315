"""Alertmanager at the socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opslib.errors import SourceError
from opslib.sources.alertmanager import Alertmanager

CONFIG = """
route: {receiver: pager}
receivers:
- name: pager
  webhook_configs: [{url: "http://hook/SECRET-IN-THE-PATH"}]
- name: nowhere
- name: emptied
  email_configs: []
"""


def connected(server: Any) -> Alertmanager:
    return Alertmanager(server.transport())


def status(config: str) -> bytes:
    content = {
        "cluster": {"status": "ready", "name": "a", "peers": [{"name": "a", "address": "10.0.0.1:9094"}]},
        "config": {"original": config},
        "uptime": "2026-01-02T03:04:05Z",
        "versionInfo": {"version": "0.34.2"},
    }
    return json.dumps(content).encode()


def test_the_status_tells_receivers_apart_and_keeps_no_configuration(server: Any) -> None:
    server.answers = [server.says(200, status(CONFIG))]
    found = connected(server).status()
    assert found.default_receiver == "pager"
    assert found.receivers == ["pager", "nowhere", "emptied"]
    assert found.silent_receivers == ["nowhere", "emptied"]
    assert found.cluster.peers[0].address == "10.0.0.1:9094"
    assert "SECRET" not in repr(found)


@pytest.mark.parametrize("config", ["", "{", "- a", "route: 7", "receivers: [7]"])
def test_a_configuration_that_cannot_be_read_leaves_the_rest(server: Any, config: str) -> None:
    server.answers = [server.says(200, status(config))]
    found = connected(server).status()
    assert found.cluster.status == "ready"
    assert found.silent_receivers == []


def test_silences_that_are_over_are_left_out_and_read_as_they_are_written(server: Any) -> None:
    matchers = [
        {"name": "alertname", "value": "A.*", "isRegex": True, "isEqual": True},
        {"name": "team", "value": "shop", "isRegex": False, "isEqual": False},
    ]
    silences = [
        {"id": "1", "status": {"state": "active"}, "matchers": matchers, "endsAt": "2026-01-02T03:04:05Z"},
        {"id": "2", "status": {"state": "expired"}, "matchers": matchers},
        {"id": "3", "status": {"state": "pending"}, "matchers": matchers},
    ]
    server.answers = [server.says(200, json.dumps(silences).encode())]
    found = connected(server).silences()
    assert [silence.id for silence in found] == ["1", "3"]
    assert [str(matcher) for matcher in found[0].matchers] == ['alertname=~"A.*"', 'team!="shop"']


def test_another_server_is_named_as_such(server: Any) -> None:
    server.answers = [server.says(200, b'{"status":"success"}')]
    with pytest.raises(SourceError) as caught:
        connected(server).alerts()
    assert "alertmanager.url" in caught.value.message().text("en")
