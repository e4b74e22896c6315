"""READY, STATUS and RESTARTS are what kubectl prints, for every state that can be made, on the real API server."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
import yaml
from hypothesis import HealthCheck, example, given, reject, settings
from hypothesis import strategies as some

from opslib.lab import player
from opslib.lab.api import ApiError, Object
from opslib.lab.faults import LABEL
from opslib.sources import objects
from opslib.sources.status import pod_status

if TYPE_CHECKING:
    from tests.conftest import RealLab


@pytest.fixture
def cluster(any_cluster: RealLab) -> Iterator[RealLab]:
    yield any_cluster
    player.reset(any_cluster.api, logs=any_cluster.logs)


def test_every_state(cluster: RealLab) -> None:
    player.apply_fault(cluster.api, "states")
    printed, seen = kubectl_lines(cluster, "states")
    assert len(printed) == len(player.load("states").objects)
    statuses = {line[1] for line in printed.values()}
    assert {"Init:1/2", "Terminating", "Unknown", "NodeLost", "SchedulingGated", "Signal:9", "Init:Signal:11", "NotReady"} <= statuses
    assert_like(printed, seen)


def test_every_fault(cluster: RealLab) -> None:
    for name in player.names():
        if name not in ("states", "incident") and not any(node.lost for node in player.load(name).nodes):
            player.apply_fault(cluster.api, name, namespace="shop" if not _has_own(name) else None, logs=cluster.logs)
    printed, seen = kubectl_lines(cluster, "shop")
    assert len(printed) > 100
    assert_like(printed, seen)


def _has_own(name: str) -> bool:
    return player.load(name).namespace != "shop"


def kubectl_lines(cluster: RealLab, namespace: str) -> tuple[dict[str, tuple[str, str, str]], list[Object]]:
    """READY, STATUS and RESTARTS by name, as kubectl prints them; and the pods just before and after it: controllers change them."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    before = cluster.api.list(path)
    lines = [re.split(r"\s{2,}", line.strip()) for line in cluster.kubectl("get", "pods", "-n", namespace, "--no-headers").splitlines()]
    return {name: (ready, status, restarts) for name, ready, status, restarts, _age in lines}, before + cluster.api.list(path)


def assert_like(printed: dict[str, tuple[str, str, str]], pods: list[Object]) -> None:
    """Our line is one that was right at some moment between kubectl's answer and now: "(59s ago)" grows while we look."""
    ended = datetime.now(UTC) + timedelta(seconds=1)
    begun = ended - timedelta(seconds=10)
    ours: dict[str, set[tuple[str, str, str]]] = {}
    for pod in pods:
        ours.setdefault(pod["metadata"]["name"], set()).update(lines_of(pod, begun, ended))
    wrong = [f"{name}: kubectl {line}, ours {sorted(ours[name])[:2]}" for name, line in printed.items() if line not in ours[name]]
    assert not wrong, "\n".join(wrong)


def lines_of(pod: Object, begun: datetime, ended: datetime) -> set[tuple[str, str, str]]:
    line = pod_status(objects.convert(pod, objects.Pod))
    moments = [begun + timedelta(seconds=number) for number in range(int((ended - begun).total_seconds()) + 2)]
    return {(f"{line.ready}/{line.total}", line.status, line.restarts_text(moment)) for moment in moments}


# --- states that nobody thought of ------------------------------------------------------------------------------------------------------

reasons = some.sampled_from(["", "Completed", "Error", "OOMKilled", "ContainerCreating", "PodInitializing", "CrashLoopBackOff", "Odd:1"])
ages = some.one_of(some.integers(0, 200), some.integers(0, 3 * 365 * 86400), some.integers(-100, 0))


def stamps(draw: some.DrawFn) -> str:
    return (datetime.now(UTC) - timedelta(seconds=draw(ages))).strftime("%Y-%m-%dT%H:%M:%SZ")


@some.composite
def ended_states(draw: some.DrawFn) -> Object:
    end: Object = {"exitCode": draw(some.sampled_from([0, 0, 1, 137, 255])), "signal": draw(some.sampled_from([0, 0, 9, 15]))}
    if draw(some.booleans()):
        end["finishedAt"] = stamps(draw)
    return {"terminated": end | {"reason": draw(reasons)}}


@some.composite
def states(draw: some.DrawFn) -> Object:
    kind = draw(some.sampled_from(["running", "waiting", "terminated", "none"]))
    if kind == "running":
        return {"running": {"startedAt": stamps(draw)}}
    if kind == "waiting":
        return {"waiting": {"reason": draw(reasons)}}
    return draw(ended_states()) if kind == "terminated" else {}


@some.composite
def statuses(draw: some.DrawFn, names: list[str]) -> list[Object]:
    """Of some of the containers, in any order, perhaps of one that the pod does not have."""
    chosen = draw(some.lists(some.sampled_from([*names, "stray"]), unique=True, max_size=len(names) + 1)) if names else []
    if names and draw(some.booleans()):
        chosen = names
    return [
        {
            "name": name,
            "image": "app",
            "imageID": "",
            "ready": draw(some.booleans()),
            "started": draw(some.sampled_from([True, False, None])),
            "restartCount": draw(some.sampled_from([0, 0, 1, 17])),
            "state": draw(states()),
            "lastState": draw(some.one_of(some.just({}), ended_states())),
        }
        for name in chosen
    ]


@some.composite
def pods(draw: some.DrawFn) -> Object:
    inits = [{"name": f"init-{number}", "image": "app"} for number in range(draw(some.integers(0, 3)))]
    for container in inits:
        if draw(some.booleans()):
            container["restartPolicy"] = "Always"
    mains = [{"name": f"main-{number}", "image": "app"} for number in range(draw(some.integers(1, 3)))]
    conditions = [
        {
            "type": type,
            "status": draw(some.sampled_from(["True", "False", "Unknown"])),
            "reason": draw(some.sampled_from(["", "SchedulingGated"])),
        }
        for type in draw(some.lists(some.sampled_from(["PodScheduled", "Initialized", "Ready", "ContainersReady"]), unique=True))
    ]
    return {
        "spec": {"initContainers": inits, "containers": mains, "restartPolicy": draw(some.sampled_from(["Always", "Never", "OnFailure"]))},
        "status": {
            "phase": draw(some.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"])),
            "reason": draw(some.sampled_from(["", "", "", "Evicted", "NodeLost", "Terminated"])),
            "conditions": conditions,
            "initContainerStatuses": draw(statuses([container["name"] for container in inits])),
            "containerStatuses": draw(statuses([container["name"] for container in mains])),
        },
        "deleted": draw(some.sampled_from([False, False, True])),
    }


def test_any_state(cluster: RealLab) -> None:
    """Hundreds of random states, each written to the server and compared with its own table; then all of them with kubectl's."""
    api = cluster.api
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "random", "labels": {LABEL: "random"}}})
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": "random"}})
    tables = Tables.of(cluster)
    made = written = 0

    @settings(max_examples=400, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(pods())
    @example({"spec": {"containers": [{"name": "main-0", "image": "app"}]}, "status": {"phase": "Running"}, "deleted": True})
    def like_the_server(pod: dict[str, Any]) -> None:
        nonlocal made, written
        made += 1
        name = f"pod-{made}"
        manifest = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "random", "labels": {LABEL: "random"}, "finalizers": ["example.com/keep"]},
            # a scheduler that does not run: nobody but the test writes the status
            "spec": {**pod["spec"], "schedulerName": "nobody", "serviceAccountName": "nobody"},
        }
        path = api.path_of(api.create(manifest))
        try:
            api.patch(path, {"status": pod["status"]}, subresource="status")
        except ApiError as error:
            assert error.status == 422, error
            reject()
        written += 1
        if pod["deleted"]:
            api.delete(path, grace_seconds=30)
        begun = datetime.now(UTC) - timedelta(seconds=1)
        server = tables.line(path)
        ours = lines_of(api.get(path), begun, datetime.now(UTC) + timedelta(seconds=1))
        assert server in ours

    like_the_server()
    assert written > 300, f"the server refused too many: {made - written} of {made}"
    printed, seen = kubectl_lines(cluster, "random")
    assert len(printed) >= written
    assert_like(printed, seen)


@dataclass(frozen=True, slots=True)
class Tables:
    """The API server, asked for what it would print of one pod, not from its cache."""

    server: str
    pool: urllib3.PoolManager

    @classmethod
    def of(cls, cluster: RealLab) -> Tables:
        config = yaml.safe_load(cluster.kubeconfig.read_text("utf-8"))
        entry = config["clusters"][0]["cluster"]
        context = ssl.create_default_context(cadata=base64.b64decode(entry["certificate-authority-data"]).decode())
        token = next(user["user"]["token"] for user in config["users"] if user["name"] == "lab-viewer")
        headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io", "Authorization": f"Bearer {token}"}
        return cls(entry["server"], urllib3.PoolManager(ssl_context=context, headers=headers))

    def line(self, path: str) -> tuple[str, str, str]:
        """READY, STATUS and RESTARTS."""
        answer = self.pool.request("GET", f"{self.server}{path}?includeObject=None")
        assert answer.status == 200, answer.data
        _name, ready, status, restarts, *_rest = answer.json()["rows"][0]["cells"]
        return ready, status, str(restarts)
