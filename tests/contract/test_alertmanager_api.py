"""Alertmanager's API, routing, grouping, silences, inhibition: one body on the embedded one and on the real one."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prometheus_servers import serving, wait

from opslib.lab import build
from opslib.lab.alertmanager import Alertmanager, Config, ConfigError, app
from tests.ports import free_port

CONFIG = """
global: {{resolve_timeout: 3s}}
route:
  receiver: default
  group_by: [alertname, namespace]
  group_wait: 500ms
  group_interval: 1s
  repeat_interval: 1h
  routes:
  - {{receiver: critical, matchers: ['severity="critical"'], continue: true}}
  - {{receiver: team, matchers: ['team=~"a|b"', 'kind!="quiet"'], group_by: ['...']}}
  - {{receiver: old, match: {{old: "yes"}}, match_re: {{zone: "[ab]"}}}}
  - {{receiver: failing, matchers: [route="failing"]}}
receivers:
- {{name: default}}
- {{name: critical, webhook_configs: [{{url: 'http://{hook}/critical'}}]}}
- {{name: team, webhook_configs: [{{url: 'http://{hook}/team', send_resolved: false}}]}}
- {{name: old}}
- {{name: failing, webhook_configs: [{{url: 'http://{hook}/failing'}}]}}
inhibit_rules:
- {{source_matchers: ['severity="critical"'], target_matchers: ['severity="warning"'], equal: [namespace]}}
"""

_numbers = count()


@dataclass
class Hook:
    """What arrived at the receivers."""

    url: str = ""
    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def of(self, receiver: str, name: str) -> list[tuple[int, int]]:
        """Firing and resolved alerts a message, of those about one alertname."""
        result = []
        for path, content in list(self.got):
            states = [alert["status"] for alert in content["alerts"] if alert["labels"]["alertname"] == name]
            if path == f"/{receiver}" and states:
                result.append((states.count("firing"), states.count("resolved")))
        return result


@contextmanager
def hooked() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.got.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(400 if self.path == "/failing" else 200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    hook.url = f"127.0.0.1:{server.server_address[1]}"
    yield hook
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Manager:
    """Asks one of them."""

    base: str
    sent: Callable[[str, str], list[tuple[int, int]]]

    def ask(self, method: str, path: str, content: Any = None, raw: bytes | None = None) -> tuple[int, Any]:
        data = raw if raw is not None else None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.base}{path}", data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, _decoded(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _decoded(error.read())

    def get(self, path: str, **query: str) -> Any:
        status, content = self.ask("GET", f"/api/v2{path}?{urllib.parse.urlencode(query)}")
        assert status == 200, content
        return content

    def fire(self, *alerts: dict[str, str], **more: Any) -> None:
        assert self.ask("POST", "/api/v2/alerts", [{"labels": labels, **more} for labels in alerts]) == (200, None)

    def silence(self, *matchers: tuple[str, str, bool, bool], **more: Any) -> tuple[int, Any]:
        content = {
            "matchers": [{"name": name, "value": value, "isRegex": regex, "isEqual": equal} for name, value, regex, equal in matchers],
            "startsAt": moment(-60),
            "endsAt": moment(3600),
            "createdBy": "tester",
            "comment": "why",
            **more,
        }
        return self.ask("POST", "/api/v2/silences", {key: value for key, value in content.items() if value is not None})


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode()


def moment(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def manager(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[Manager]:
    if request.param == "real":
        need_servers("alertmanager")
        with hooked() as hook, real(tmp_path_factory.mktemp("alertmanager"), CONFIG.format(hook=hook.url)) as base:
            yield Manager(base, hook.of)
        return
    known = Alertmanager(
        Config.load(CONFIG.format(hook="127.0.0.1:1")),
        time.time,
        lambda receiver, integration, alerts: "clientError" if receiver.name == "failing" else "",
    )
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.02):
            known.tick()

    def sent(receiver: str, name: str) -> list[tuple[int, int]]:
        found = []
        for item in list(known.notifications):
            firing = sum(labels["alertname"] == name for labels in item.firing)
            resolved = sum(labels["alertname"] == name for labels in item.resolved)
            if item.receiver == receiver and firing + resolved:
                found.append((firing, resolved))
        return found

    thread = threading.Thread(target=run)
    thread.start()
    with serving(app(known)) as base:
        yield Manager(base, sent)
    stop.set()
    thread.join(5)


@contextmanager
def real(folder: Path, config: str) -> Iterator[str]:
    (folder / "config.yaml").write_text(config)
    port = free_port()
    command = [
        str(build.program("alertmanager")),
        f"--config.file={folder / 'config.yaml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        "--log.level=error",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait(f"http://127.0.0.1:{port}/-/ready", lambda: process.poll() is None)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"Alert{next(_numbers)}"


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alerts(manager: Manager, name: str, **query: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = manager.get("/alerts", filter=f'alertname="{name}"', **query)
    return result


# --- alerts ---


def test_an_alert_comes_back_with_its_fingerprint_and_receivers(manager: Manager, name: str) -> None:
    labels = {"alertname": "Fixed", "severity": "critical", "namespace": "x", "é": "ü"}
    manager.fire({**labels, "empty": ""}, annotations={"summary": "s"}, generatorURL="http://prometheus/x")
    (alert,) = alerts(manager, "Fixed")
    assert alert["labels"] == labels
    assert alert["annotations"] == {"summary": "s"}
    assert alert["generatorURL"] == "http://prometheus/x"
    assert alert["receivers"] == [{"name": "critical"}]
    assert alert["status"] == {"inhibitedBy": [], "mutedBy": [], "silencedBy": [], "state": "active"}
    assert alert["fingerprint"] == "4b418a96578d86e8"
    assert alert["updatedAt"][-1] == "Z"
    assert len(alert["startsAt"]) == len("2026-11-24T23:04:38.464Z")


def test_the_tree_of_routes(manager: Manager, name: str) -> None:
    def receivers(**labels: str) -> list[str]:
        labels = {"alertname": name, "case": str(next(_numbers)), **labels}
        manager.fire(labels)
        (alert,) = manager.get("/alerts", filter=f"case={labels['case']}")
        return [item["name"] for item in alert["receivers"]]

    assert receivers() == ["default"]
    assert receivers(severity="critical") == ["critical"]
    assert receivers(severity="critical", team="a") == ["critical", "team"]
    assert receivers(team="b") == ["team"]
    assert receivers(team="ab") == ["default"]
    assert receivers(team="b", kind="quiet") == ["default"]
    assert receivers(old="yes", zone="a") == ["old"]
    assert receivers(old="yes", zone="c") == ["default"]


def test_an_alert_without_end_resolves_after_the_timeout(manager: Manager, name: str) -> None:
    manager.fire({"alertname": name})
    assert alerts(manager, name)
    eventually(lambda: not alerts(manager, name))


def test_an_alert_can_be_resolved(manager: Manager, name: str) -> None:
    manager.fire({"alertname": name}, startsAt=moment(-60), endsAt=moment(600))
    assert alerts(manager, name)
    manager.fire({"alertname": name}, startsAt=moment(-60), endsAt=moment(-0.1))
    assert alerts(manager, name) == []


def test_a_later_message_moves_start_and_annotations(manager: Manager, name: str) -> None:
    first = moment(-60)
    manager.fire({"alertname": name}, startsAt=first, endsAt=moment(600), annotations={"a": "1"})
    manager.fire({"alertname": name}, startsAt=moment(-30), endsAt=moment(300), annotations={"a": "2"})
    (alert,) = alerts(manager, name)
    assert alert["startsAt"][:19] == first[:19]
    assert alert["annotations"] == {"a": "2"}
    assert alert["endsAt"][:19] > moment(500)[:19]


def test_filters(manager: Manager, name: str) -> None:
    end = moment(600)
    manager.fire({"alertname": name, "zone": "a"}, endsAt=end)
    manager.fire({"alertname": name, "zone": "b", "team": "a"}, endsAt=end)

    def zones(*filters: str, **query: str) -> list[str]:
        pairs = [("filter", text) for text in (f'alertname="{name}"', *filters)]
        status, found = manager.ask("GET", "/api/v2/alerts?" + urllib.parse.urlencode([*pairs, *query.items()]))
        assert status == 200
        return sorted(alert["labels"].get("zone", "") for alert in found)

    assert zones() == ["a", "b"]
    assert zones("zone=a") == ["a"]
    assert zones("zone!=a") == ["b"]
    assert zones('zone=~"[ab]"') == ["a", "b"]
    assert zones('zone!~"a|c"') == ["b"]
    assert zones("team=") == ["a"]
    assert zones(receiver="team") == ["b"]
    assert zones(receiver="te.*|default") == ["a", "b"]
    assert zones(receiver="tea") == []
    assert zones(active="false") == []


def unparsed(reason: str) -> tuple[int, Any]:
    return 400, {"code": 400, "message": f'parsing alerts body from "" failed, because {reason}'}


REFUSED: list[tuple[str, str, bytes | None]] = [
    ("GET", "/api/v2/alerts?filter=x", None),
    ("GET", "/api/v2/alerts?filter=a%3D~%22(%22", None),
    ("GET", "/api/v2/alerts?receiver=(", None),
    ("GET", "/api/v2/alerts/groups?filter=x", None),
    ("GET", "/api/v2/silences?filter=x", None),
    ("GET", "/api/v2/nothing", None),
    ("PUT", "/api/v2/alerts", b"[]"),
    ("GET", "/api/v2/silence/x", None),
    ("GET", "/api/v2/silence/d1a47e3a-1d3c-4b0d-9b7e-1c9d7a5e3b11", None),
    ("DELETE", "/api/v2/silence/d1a47e3a-1d3c-4b0d-9b7e-1c9d7a5e3b11", None),
    ("POST", "/api/v2/alerts", b'[{"labels":{}}]'),
    ("POST", "/api/v2/alerts", b'[{"labels":{"a":""}}]'),
    ("POST", "/api/v2/alerts", b'[{"annotations":{}}]'),
    ("POST", "/api/v2/alerts", b'[{"labels":{"a":1}}]'),
    ("POST", "/api/v2/alerts", b"{}"),
    ("POST", "/api/v2/alerts", b"x"),
    ("POST", "/api/v2/alerts", b'[{"labels":{"a":"b"},"startsAt":"2020-01-02T00:00:00Z","endsAt":"2020-01-01T00:00:00Z"}]'),
]
EXPECTED: list[tuple[int, Any]] = [
    (400, "bad matcher format: x"),
    (400, "error parsing regexp: missing closing ): `^(?:()$`"),
    (400, "failed to parse receiver param: error parsing regexp: missing closing ): `^(?:()$`"),
    (400, "bad matcher format: x"),
    (400, "bad matcher format: x"),
    (404, {"code": 404, "message": "path /api/v2/nothing was not found"}),
    (405, {"code": 405, "message": "method PUT is not allowed, but [GET,POST] are"}),
    (422, {"code": 601, "message": 'silenceID in path must be of type uuid: "x"'}),
    (404, None),
    (404, None),
    (400, "at least one label pair required"),
    (400, "at least one label pair required"),
    (422, {"code": 602, "message": "0.labels in body is required"}),
    unparsed("json: cannot unmarshal number into Go struct field Alert.labels of type string"),
    unparsed("json: cannot unmarshal object into Go value of type models.PostableAlerts"),
    unparsed("invalid character 'x' looking for beginning of value"),
    (400, "start time must be before end time"),
]


@pytest.mark.parametrize(("request_", "expected"), list(zip(REFUSED, EXPECTED, strict=True)))
def test_refusals(manager: Manager, request_: tuple[str, str, bytes | None], expected: tuple[int, Any]) -> None:
    method, path, raw = request_
    status, content = manager.ask(method, path, raw=raw)
    if status == 405:  # the real one lists the methods in any order
        content["message"] = content["message"].replace("[POST,GET]", "[GET,POST]")
    assert (status, content) == expected


# --- groups, messages ---


def test_alerts_are_grouped_by_route(manager: Manager, name: str) -> None:
    end = moment(600)
    manager.fire({"alertname": name, "namespace": "x", "pod": "1"}, {"alertname": name, "namespace": "x", "pod": "2"}, endsAt=end)
    manager.fire({"alertname": name, "namespace": "y", "pod": "3"}, {"alertname": name, "team": "a", "severity": "critical"}, endsAt=end)

    def groups() -> list[Any]:
        return [
            (group["receiver"]["name"], group["labels"], [alert["labels"].get("pod") for alert in group["alerts"]])
            for group in manager.get("/alerts/groups", filter=f"alertname={name}")
        ]

    eventually(lambda: len(groups()) == 4)
    assert groups() == [
        ("critical", {"alertname": name}, [None]),
        ("default", {"alertname": name, "namespace": "x"}, ["1", "2"]),
        ("default", {"alertname": name, "namespace": "y"}, ["3"]),
        ("team", {"alertname": name, "team": "a", "severity": "critical"}, [None]),
    ]
    both = manager.get("/alerts/groups", filter=f"alertname={name}", receiver="team")
    assert [group["receiver"]["name"] for group in both] == ["team"]


def test_a_group_is_sent_once_and_again_when_it_changes(manager: Manager, name: str) -> None:
    end = moment(600)
    manager.fire(
        {"alertname": name, "severity": "critical", "pod": "1"}, {"alertname": name, "severity": "critical", "pod": "2"}, endsAt=end
    )
    eventually(lambda: manager.sent("critical", name) == [(2, 0)])
    manager.fire({"alertname": name, "severity": "critical", "pod": "1"}, endsAt=end)
    manager.fire({"alertname": name, "severity": "critical", "pod": "3"}, endsAt=end)
    eventually(lambda: manager.sent("critical", name) == [(2, 0), (3, 0)])
    manager.fire({"alertname": name, "severity": "critical", "pod": "1"}, endsAt=moment(-0.1))
    eventually(lambda: manager.sent("critical", name) == [(2, 0), (3, 0), (2, 1)])
    for pod in ("2", "3"):
        manager.fire({"alertname": name, "severity": "critical", "pod": pod}, endsAt=moment(-0.1))
    eventually(lambda: manager.sent("critical", name) == [(2, 0), (3, 0), (2, 1), (0, 2)])


def test_resolved_alerts_are_not_sent_to_who_does_not_want_them(manager: Manager, name: str) -> None:
    labels = {"alertname": name, "team": "a", "severity": "critical"}
    manager.fire(labels, endsAt=moment(600))
    eventually(lambda: manager.sent("team", name) == manager.sent("critical", name) == [(1, 0)])
    manager.fire(labels, endsAt=moment(-0.1))
    eventually(lambda: manager.sent("critical", name) == [(1, 0), (0, 1)])
    manager.fire(labels, endsAt=moment(600))
    eventually(lambda: manager.sent("critical", name) == [(1, 0), (0, 1), (1, 0)])
    assert manager.sent("team", name)[0] == (1, 0)
    assert all(resolved == 0 for _firing, resolved in manager.sent("team", name))


def test_silenced_alerts_are_not_sent(manager: Manager, name: str) -> None:
    assert manager.silence(("alertname", name, False, True))[0] == 200
    manager.fire({"alertname": name, "severity": "critical", "pod": "1"}, endsAt=moment(600))
    other = f"{name}other"
    manager.fire({"alertname": other, "severity": "critical"}, endsAt=moment(600))
    eventually(lambda: manager.sent("critical", other) == [(1, 0)])
    assert manager.sent("critical", name) == []


def test_messages_that_fail_are_counted(manager: Manager, name: str) -> None:
    manager.fire({"alertname": name, "route": "failing"}, endsAt=moment(600))

    def counted(metric: str) -> float:
        lines = manager.ask("GET", "/metrics")[1].splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(metric)))

    eventually(lambda: counted('alertmanager_notifications_failed_total{integration="webhook",reason="clientError"}') >= 1)
    assert counted('alertmanager_notifications_total{integration="webhook"}') >= 1
    assert counted('alertmanager_notifications_failed_total{integration="slack",reason="other"}') == 0
    assert counted("alertmanager_receivers") == 5


# --- inhibition ---


def test_a_critical_alert_inhibits_warnings_of_its_namespace(manager: Manager, name: str) -> None:
    end = moment(600)
    manager.fire({"alertname": name, "severity": "critical", "namespace": name}, endsAt=end)
    manager.fire({"alertname": name, "severity": "warning", "namespace": name}, endsAt=end)
    manager.fire({"alertname": name, "severity": "warning", "namespace": "elsewhere"}, endsAt=end)
    eventually(lambda: sorted(alert["status"]["state"] for alert in alerts(manager, name)) == ["active", "active", "suppressed"])
    found = {(alert["labels"]["severity"], alert["labels"]["namespace"]): alert for alert in alerts(manager, name)}
    muted = found["warning", name]
    assert muted["status"]["inhibitedBy"] == [found["critical", name]["fingerprint"]]
    assert found["warning", "elsewhere"]["status"]["state"] == "active"
    assert len(alerts(manager, name, inhibited="false")) == 2
    manager.fire({"alertname": name, "severity": "critical", "namespace": name}, endsAt=moment(-0.1))
    eventually(lambda: [alert["status"]["state"] for alert in alerts(manager, name)] == ["active", "active"])


# --- silences ---


def test_a_silence_lives_and_ends(manager: Manager, name: str) -> None:
    manager.fire({"alertname": name}, endsAt=moment(600))
    status, content = manager.silence(("alertname", name, False, True))
    assert status == 200
    id = content["silenceID"]
    silence = manager.get(f"/silence/{id}")
    assert silence["status"] == {"state": "active"}
    assert silence["matchers"] == [{"isEqual": True, "isRegex": False, "name": "alertname", "value": name}]
    assert (silence["createdBy"], silence["comment"]) == ("tester", "why")
    assert silence["startsAt"] > moment(-30)  # not before it was made
    (alert,) = alerts(manager, name)
    assert alert["status"] == {"inhibitedBy": [], "mutedBy": [], "silencedBy": [id], "state": "suppressed"}
    assert alerts(manager, name, silenced="false") == []
    assert manager.ask("DELETE", f"/api/v2/silence/{id}") == (200, None)
    assert manager.get(f"/silence/{id}")["status"] == {"state": "expired"}
    assert alerts(manager, name)[0]["status"]["state"] == "active"
    assert manager.ask("DELETE", f"/api/v2/silence/{id}") == (200, None)


def test_a_silence_that_is_to_come(manager: Manager, name: str) -> None:
    id = manager.silence(("alertname", name, False, True), startsAt=moment(600))[1]["silenceID"]
    assert manager.get(f"/silence/{id}")["status"] == {"state": "pending"}
    manager.ask("DELETE", f"/api/v2/silence/{id}")
    ended = manager.get(f"/silence/{id}")
    assert ended["status"] == {"state": "expired"}
    assert ended["startsAt"] == ended["endsAt"]


def test_a_silence_is_changed_in_place_or_replaced(manager: Manager, name: str) -> None:
    matcher = ("alertname", name, False, True)
    id = manager.silence(matcher)[1]["silenceID"]
    start = manager.get(f"/silence/{id}")["startsAt"]
    longer = manager.silence(matcher, id=id, startsAt=start, endsAt=moment(7200), comment="longer")
    assert longer == (200, {"silenceID": id})
    assert manager.get(f"/silence/{id}")["comment"] == "longer"
    replaced = manager.silence(("alertname", name + "x", False, True), id=id, startsAt=start)[1]["silenceID"]
    assert replaced != id
    assert manager.get(f"/silence/{id}")["status"] == {"state": "expired"}
    assert manager.silence(matcher, id="d1a47e3a-1d3c-4b0d-9b7e-1c9d7a5e3b11") == (404, "silence not found")


def test_silences_are_listed_in_order_and_filtered(manager: Manager, name: str) -> None:
    mark = ("mark", name, False, True)
    late = manager.silence(mark, endsAt=moment(7200))[1]["silenceID"]
    soon = manager.silence(mark, ("x", "y", True, False), endsAt=moment(600))[1]["silenceID"]
    pending = manager.silence(mark, startsAt=moment(600))[1]["silenceID"]
    over = manager.silence(mark)[1]["silenceID"]
    manager.ask("DELETE", f"/api/v2/silence/{over}")

    def ids(*filters: str, **query: str) -> list[str]:
        pairs = [("filter", text) for text in (f'mark="{name}"', *filters)]
        return [item["id"] for item in manager.ask("GET", "/api/v2/silences?" + urllib.parse.urlencode([*pairs, *query.items()]))[1]]

    assert ids() == [soon, late, pending, over]
    assert ids('x!~"y"') == [soon]
    assert ids("x!=y") == []
    assert ids(expired="false", active="false") == [pending]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"endsAt": "2020-01-01T00:00:00Z"}, (400, "Failed to create silence: start time must be before end time")),
        (
            {"startsAt": "2019-01-01T00:00:00Z", "endsAt": "2020-01-01T00:00:00Z"},
            (400, "Failed to create silence: end time can't be in the past"),
        ),
        ({"matchers": []}, (422, {"code": 612, "message": "matchers in body should have at least 1 items"})),
        ({"comment": None}, (422, {"code": 602, "message": "comment in body is required"})),
        ({"createdBy": None}, (422, {"code": 602, "message": "createdBy in body is required"})),
        (
            {"matchers": [{"name": "a", "value": ".*", "isRegex": True}]},
            (400, "invalid silence: matcher set 0: at least one matcher must not match the empty string"),
        ),
        (
            {"matchers": [{"name": "a", "value": "(", "isRegex": True}]},
            (
                400,
                'invalid silence: invalid label matcher 0 in set 0: invalid regular expression "(": '
                "error parsing regexp: missing closing ): `(`",
            ),
        ),
        (
            {"matchers": [{"name": "", "value": "x", "isRegex": False}]},
            (400, 'invalid silence: invalid label matcher 0 in set 0: invalid label name ""'),
        ),
        ({"matchers": [{"name": "a", "isRegex": True}]}, (422, {"code": 602, "message": "matchers.0.value in body is required"})),
    ],
)
def test_a_silence_is_refused(manager: Manager, change: dict[str, Any], expected: tuple[int, Any]) -> None:
    assert manager.silence(("alertname", "x", False, True), **change) == expected


# --- the rest ---


def test_receivers_and_status(manager: Manager) -> None:
    assert [item["name"] for item in manager.get("/receivers")] == ["default", "critical", "team", "old", "failing"]
    status = manager.get("/status")
    assert status["cluster"] == {"peers": [], "status": "disabled"}
    assert status["versionInfo"]["version"] == "0.34.2"
    assert "url: <secret>" in status["config"]["original"]
    assert "127.0.0.1" not in status["config"]["original"]
    for path in ("/-/ready", "/-/healthy"):
        assert manager.ask("GET", path) == (200, "OK")


WRONG = {
    "receivers: []": "no routes provided",
    "route: {receiver: x}\nreceivers: []": 'undefined receiver "x" used in route',
    "route: {}\nreceivers: [{name: x}]": "root route must specify a default receiver",
    "route: {receiver: x, matchers: [a=b]}\nreceivers: [{name: x}]": "root route must not have any matchers",
    "route: {receiver: x}\nreceivers: [{name: x}, {name: x}]": 'notification config name "x" is not unique',
    "route: {receiver: x, routes: [{matchers: ['a']}]}\nreceivers: [{name: x}]": "bad matcher format: a",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Config.load(text)
    assert str(raised.value) == WRONG[text]


@pytest.mark.real
@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_configuration_is_refused_by_the_real_one_in_the_same_words(text: str, tmp_path: Path, need_servers: Any) -> None:
    need_servers("alertmanager")
    (tmp_path / "config.yaml").write_text(text)
    command = [str(build.program("alertmanager")), f"--config.file={tmp_path / 'config.yaml'}", f"--storage.path={tmp_path}"]
    answer = subprocess.run(
        [*command, "--web.listen-address=127.0.0.1:0", "--cluster.listen-address="], capture_output=True, text=True, timeout=30, check=False
    )
    assert answer.returncode != 0
    assert json.dumps(WRONG[text])[1:-1] in answer.stderr
