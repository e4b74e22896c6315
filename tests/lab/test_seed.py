"""A cluster in which the platform has been running all the time: the embedded engine begins with it."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from opslib.lab import engines, installation, stage
from opslib.lab.api import Api
from opslib.lab.kube.quantities import parse
from opslib.lab.world import World
from opslib.lab.world.platform import sized
from opslib.lab.world.seed import Cluster
from tests.conftest import RealLab

NOW = 1_790_604_800.0
WORLD = World(7, NOW - 7 * 86400, NOW)
Object = dict[str, Any]


def objects(world: World = WORLD) -> list[Object]:
    return Cluster(world, NOW, 20_001).objects([*installation.permissions(), *installation.objects(world)])


def place(obj: Object) -> tuple[str, str, str]:
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


@pytest.fixture(scope="module")
def planted() -> dict[tuple[str, str, str], Object]:
    return {place(obj): obj for obj in objects()}


# --- what is planted ------------------------------------------------------------------------------------------------------------------


def test_the_same_world_gives_the_same_objects(planted: dict[tuple[str, str, str], Object]) -> None:
    again = {place(obj): obj for obj in objects()}
    assert len(again) == len(objects())
    for key, obj in planted.items():
        if key[0] != "Secret":  # keys and certificates are drawn anew
            assert again[key] == obj


def test_owners_are_there_and_have_made_what_they_want(planted: dict[tuple[str, str, str], Object]) -> None:
    owned: dict[str, list[Object]] = defaultdict(list)
    uids = {obj["metadata"].get("uid") for obj in planted.values()}
    for (kind, _namespace, _name), obj in planted.items():
        for owner in obj["metadata"].get("ownerReferences", ()):
            assert owner["uid"] in uids
            owned[owner["uid"]].append(obj)
            if kind == "Pod":
                assert obj["status"]["containerStatuses"][0]["image"] == obj["spec"]["containers"][0]["image"]
    for (kind, _namespace, name), obj in planted.items():
        if kind == "Deployment":
            sets = sorted(
                owned[obj["metadata"]["uid"]], key=lambda one: int(one["metadata"]["annotations"]["deployment.kubernetes.io/revision"])
            )
            assert len(sets) >= 2, "there must be a release to go back to"
            assert [one["spec"]["replicas"] for one in sets] == [0] * (len(sets) - 1) + [obj["spec"]["replicas"]]
            assert len({one["spec"]["template"]["spec"]["containers"][0]["image"] for one in sets}) == len(sets)
            assert len(owned[sets[-1]["metadata"]["uid"]]) == obj["spec"]["replicas"], name
        elif kind in ("StatefulSet", "DaemonSet"):
            kinds = Counter(one["kind"] for one in owned[obj["metadata"]["uid"]])
            assert kinds == {"ControllerRevision": 1, "Pod": obj["spec"].get("replicas", len(WORLD.nodes))}


@pytest.mark.parametrize("world", [WORLD, World(12, NOW - 7 * 86400, NOW)], ids=["seed 7", "seed 12"])
def test_nodes_have_room_for_their_pods(world: World) -> None:
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    found = objects(world)
    for obj in found:
        if obj["kind"] == "Pod":
            for container in obj["spec"]["containers"]:
                for name, amount in container["resources"]["requests"].items():
                    asked[obj["spec"]["nodeName"]][name] += int(parse(amount) * 1000)
            asked[obj["spec"]["nodeName"]]["pods"] += 1000
    for obj in found:
        if obj["kind"] == "Node":
            has = obj["status"]["allocatable"]
            for name, amount in asked[obj["metadata"]["name"]].items():
                assert amount <= parse(has[name]) * 1000, name


def test_pods_have_addresses_of_their_own(planted: dict[tuple[str, str, str], Object]) -> None:
    addresses = Counter(obj["status"]["podIP"] for (kind, _namespace, _name), obj in planted.items() if kind == "Pod")
    assert set(addresses.values()) == {1}


def test_a_release_of_this_minute_is_over_and_has_its_events() -> None:
    change = WORLD.changes[-1]
    now = change.time + 30
    world = World(7, now - 7 * 86400, now)
    assert world.changes[-1] == change
    found = Cluster(world, now, 20_001).objects(installation.objects(world))
    pods = [obj for obj in found if obj["kind"] == "Pod" and obj["metadata"]["labels"].get("app") == change.service]
    deployment = next(obj for obj in found if place(obj) == ("Deployment", change.namespace, change.service))
    assert len(pods) == deployment["spec"]["replicas"]
    assert {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in pods} == {change.after}
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    assert all(condition["lastTransitionTime"] <= moment for pod in pods for condition in pod["status"]["conditions"])
    assert all(pod["metadata"]["creationTimestamp"] <= moment for pod in pods)
    events = [obj for obj in found if obj["kind"] == "Event" and obj["involvedObject"]["name"] == change.service]
    assert {event["reason"] for event in events} == {"ScalingReplicaSet"}
    assert len(events) == 2 * len(pods)


def test_a_larger_platform_has_about_as_many_pods_as_asked_for() -> None:
    services, nodes = sized(5000)
    pods = sum(service.replicas or len(nodes) for service in services)
    assert 4750 < pods < 5250
    assert len({node.name for node in nodes}) == len(nodes)
    cores = sum(service.cores * (service.replicas or len(nodes)) for service in services)
    assert cores < 0.8 * sum(node.cores for node in nodes)


def test_no_two_pods_of_a_large_platform_have_the_same_name() -> None:
    services, nodes = sized(20_000)
    pods = World(1, NOW - 86400, NOW, services=services, nodes=nodes).pods.listed
    assert len({(services[pod.service].namespace, pod.name) for pod in pods}) == len(pods) > 19_000


# --- what becomes of it ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    folder = tmp_path_factory.mktemp("planted")
    lab = engines.up(folder, parts=("kubernetes",))
    try:
        yield RealLab(lab.folder, lab.kubeconfig, lab.environment, lab.addresses, Api.from_kubeconfig(lab.kubeconfig), "embedded")
    finally:
        engines.down(folder)


def test_the_cluster_has_the_pods_of_its_world_and_controllers_leave_all_as_it_is(lab: RealLab) -> None:
    found = stage.read(lab.folder)
    assert found is not None
    world, _handover = found
    wanted = {pod.name for pod in world.pods.listed if pod.started <= world.end < pod.removed}
    pods = lab.api.list("/api/v1/pods")
    assert {pod["metadata"]["name"] for pod in pods} == wanted
    # a round of every controller has been made when each of these was looked at: a change that nobody else makes is answered
    lab.kubectl("scale", "deployment/coupon", "-n", "shop", "--replicas=3")
    lab.kubectl("rollout", "status", "deployment/coupon", "-n", "shop", "--timeout=60s")
    changed = {
        event["involvedObject"]["name"]
        for event in lab.api.list("/api/v1/events")
        if event["reason"] in ("ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete", "Killing")
        and event["lastTimestamp"] >= time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(world.end))
    }
    assert {name.partition("-")[0] for name in changed} == {"coupon"}
    assert wanted <= {pod["metadata"]["name"] for pod in lab.api.list("/api/v1/pods")}
    generations = {
        (one["metadata"]["generation"], one["status"]["observedGeneration"]) for one in lab.api.list("/apis/apps/v1/statefulsets")
    }
    assert generations == {(1, 1)}


def test_a_release_can_be_undone(lab: RealLab) -> None:
    path = "/apis/apps/v1/namespaces/shop/deployments/search"
    before = lab.api.get(path)["spec"]["template"]["spec"]["containers"][0]["image"]
    history = lab.kubectl("rollout", "history", "deployment/search", "-n", "shop")
    assert "ci-deployer" in history
    lab.kubectl("rollout", "undo", "deployment/search", "-n", "shop")
    lab.kubectl("rollout", "status", "deployment/search", "-n", "shop", "--timeout=60s")
    after = lab.api.get(path)["spec"]["template"]["spec"]["containers"][0]["image"]
    assert after != before
    assert after.partition(":")[0] == before.partition(":")[0]


def test_the_viewer_may_look_but_sees_no_secrets(lab: RealLab) -> None:
    assert "catalog" in lab.kubectl("get", "deployments", "-n", "shop", context="lab-viewer")
    assert "forbidden" in lab.kubectl("get", "secrets", "-n", "shop", context="lab-viewer", check=False)
    assert "forbidden" in lab.kubectl("get", "pods", "-n", "shop", context="lab-nobody", check=False)
