"""The files of faults, and what a kubelet would write for them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from opslib.errors import InputError
from opslib.lab.faults import HOLD, LABEL, Fault, complete, load, merged, names, parse
from opslib.lab.faults.kubelet import event_of, pod_status

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def fault(text: str) -> Fault:
    return parse(text, "test.yaml")


def pod(*containers: str, inits: tuple[str, ...] = (), sidecars: tuple[str, ...] = (), **spec: Any) -> dict[str, Any]:
    before = [{"name": name, "image": "b", "restartPolicy": "Always"} for name in sidecars] + [
        {"name": name, "image": "a"} for name in inits
    ]
    return {
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "1234", "labels": {"app": "web", LABEL: "test"}},
        "spec": {
            "nodeName": "node-a",
            "containers": [{"name": name, "image": f"{name}:1"} for name in containers],
            "initContainers": before,
            **spec,
        },
    }


def status(rule: str, of: dict[str, Any]) -> dict[str, Any]:
    """What is written for the pod by a rule given as YAML."""
    text = f"{{name: test, title: test, objects: [], pods: [{rule}]}}"
    return pod_status(fault(text).pods[0], of, NOW)


def conditions(content: dict[str, Any]) -> dict[str, str]:
    return {one["type"]: one["status"] for one in content["conditions"]}


# --- files ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_file_is_one_that_can_be_read(name: str) -> None:
    found = load(name)
    assert found.name == name
    assert found.title[0].isupper() and not found.title.endswith(".")
    assert found.expect or name == "states"
    kinds = {(obj["kind"], obj["metadata"]["name"]) for obj in [*found.objects, *found.edits]}
    for expected in found.expect:
        kind, _slash, subject = expected.subject.partition("/")
        assert (kind, subject) in kinds, "the subject is none of the fault's objects"
    for change in found.changes:
        assert (change["kind"], change["metadata"]["name"]) in kinds


def test_no_two_faults_use_the_same_object() -> None:
    """So that several can be applied to one namespace."""
    seen: dict[tuple[str, str, str], str] = {}
    for name in names():
        found = load(name)
        for obj in found.objects:
            if obj["kind"] in ("IngressClass", "CustomResourceDefinition", "Namespace"):
                continue
            key = (found.namespace, obj["kind"], obj["metadata"]["name"])
            assert key not in seen, f"{key} is in {seen[key]} and in {name}"
            seen[key] = name


def test_no_fault_uses_the_name_of_a_workload_of_the_platform() -> None:
    from opslib.lab.world.platform import SERVICES

    taken = {service.name for service in SERVICES}
    for name in names():
        own = {
            obj["metadata"]["name"] for obj in load(name).objects if obj["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Service")
        }
        assert not own & taken, name


def test_unknown_name_has_the_nearest() -> None:
    with pytest.raises(InputError, match="crash-loop"):
        load("crash-lop")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: [", "YAML"),
        ("{name: a, title: b}", "objects"),
        ("{name: a, title: b, objects: [], pods: [{of: web, contaners: {}}]}", "contaners"),
        ("{name: a, title: b, objects: [], pods: [{of: web, started: soon}]}", "soon"),
        ("{name: a, title: b, objects: [], pods: [{of: web, containers: {web: {last: {finished: 5x}}}}]}", "5x"),
        ("just words", "dictionary"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(text: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        fault(text)
    assert "test.yaml" in str(caught.value)


# --- whole objects ----------------------------------------------------------------------------------------------------------------------


def test_what_is_left_out_is_filled_in() -> None:
    one = fault("{name: test, title: t, objects: [{kind: Deployment, metadata: {name: web}, spec: {template: {spec: {}}}}]}")
    obj = complete(one.objects[0], one, "shop")
    assert obj["apiVersion"] == "apps/v1"
    assert obj["metadata"] == {"name": "web", "namespace": "shop", "labels": {LABEL: "test"}}
    assert obj["spec"]["selector"] == {"matchLabels": {"app": "web"}}
    assert obj["spec"]["template"]["metadata"] == {"labels": {"app": "web", LABEL: "test"}}


def test_only_pods_that_are_played_are_held() -> None:
    one = fault("{name: test, title: t, objects: [], pods: [{of: web, labels: {release: two}}]}")
    old = complete({"kind": "Pod", "metadata": {"name": "web", "labels": {"release": "one"}}, "spec": {}}, one, "shop")
    new = complete({"kind": "Pod", "metadata": {"name": "web", "labels": {"release": "two"}}, "spec": {}}, one, "shop")
    assert "annotations" not in old["metadata"]
    assert new["metadata"]["annotations"][HOLD] == "true"


def test_pods_that_must_not_end_are_held_for_ever() -> None:
    one = fault("{name: test, title: t, objects: [], pods: [{of: web, deleted_grace_seconds: 1}]}")
    obj = complete({"kind": "Pod", "metadata": {"name": "web"}, "spec": {}}, one, "shop")
    assert obj["metadata"]["annotations"][HOLD] == "forever"


def test_cluster_wide_objects_have_no_namespace_and_may_carry_it_in_their_name() -> None:
    one = fault("{name: test, title: t, objects: []}")
    obj = complete(
        {"kind": "PersistentVolume", "metadata": {"name": "data-$namespace"}, "spec": {"claimRef": {"namespace": "$namespace"}}}, one, "x"
    )
    assert obj["metadata"]["name"] == "data-x"
    assert "namespace" not in obj["metadata"]
    assert obj["spec"]["claimRef"] == {"namespace": "x"}


def test_merge() -> None:
    assert merged({"a": {"b": 1, "c": [1, 2]}, "d": 1}, {"a": {"c": [3], "e": None}, "d": None}) == {"a": {"b": 1, "c": [3]}}


# --- the kubelet's part -----------------------------------------------------------------------------------------------------------------


def test_all_well() -> None:
    found = status("{of: web}", pod("web", inits=("setup",)))
    assert found["phase"] == "Running"
    assert set(conditions(found).values()) == {"True"}
    assert found["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"
    assert found["containerStatuses"][0]["ready"]


def test_crash_loop() -> None:
    container = "{waiting: CrashLoopBackOff, message: 'back-off failed pod=$pod_id', restarts: 3, last: {exit: 1, finished: -5m}}"
    rule = f"{{of: web, containers: {{web: {container}}}}}"
    found = status(rule, pod("web"))
    (written,) = found["containerStatuses"]
    assert found["phase"] == "Running"
    assert written["state"]["waiting"] == {"reason": "CrashLoopBackOff", "message": "back-off failed pod=web-1_shop(1234)"}
    assert written["lastState"]["terminated"]["finishedAt"] == "2026-03-01T11:55:00Z"
    assert written["lastState"]["terminated"]["reason"] == "Error"
    assert conditions(found)["Ready"] == conditions(found)["ContainersReady"] == "False"
    assert next(one for one in found["conditions"] if one["type"] == "Ready")["message"] == "containers with unready status: [web]"


@pytest.mark.parametrize(
    ("policy", "exits", "phase"),
    [("Never", (0, 0), "Succeeded"), ("Never", (0, 1), "Failed"), ("OnFailure", (0, 1), "Running"), ("Always", (0, 0), "Running")],
)
def test_phase_of_ended_containers(policy: str, exits: tuple[int, int], phase: str) -> None:
    one, two = exits
    rule = f"{{of: web, containers: {{a: {{terminated: {{exit: {one}}}}}, b: {{terminated: {{exit: {two}}}}}}}}}"
    assert status(rule, pod("a", "b", restartPolicy=policy))["phase"] == phase


def test_init_containers_wait_for_the_one_before() -> None:
    found = status("{of: web, containers: {one: {waiting: ImagePullBackOff, ready: false}}}", pod("web", inits=("zero", "one", "two")))
    states = [next(iter(container["state"])) for container in found["initContainerStatuses"]]
    assert states == ["terminated", "waiting", "waiting"]
    assert found["containerStatuses"][0]["state"]["waiting"] == {"reason": "PodInitializing"}
    assert (found["phase"], conditions(found)["Initialized"]) == ("Pending", "False")


def test_sidecar_that_runs_does_not_hold_back_the_rest() -> None:
    found = status("{of: web}", pod("web", inits=("setup",), sidecars=("proxy",)))
    assert (found["phase"], conditions(found)["Initialized"]) == ("Running", "True")
    held = status("{of: web, containers: {proxy: {started: false, ready: false}}}", pod("web", sidecars=("proxy",)))
    assert (held["phase"], conditions(held)["Initialized"]) == ("Pending", "False")


def test_pod_without_a_sandbox_has_no_address() -> None:
    found = status("{of: web, sandbox: false}", pod("web", inits=("setup",)))
    assert "podIP" not in found
    assert found["initContainerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
    assert found["containerStatuses"][0]["state"]["waiting"]["reason"] in ("ContainerCreating", "PodInitializing")


def test_readiness_gate_that_nobody_opened() -> None:
    found = status("{of: web}", pod("web", readinessGates=[{"conditionType": "example.com/lb"}]))
    assert (conditions(found)["ContainersReady"], conditions(found)["Ready"]) == ("True", "False")
    opened = status("{of: web, conditions: {example.com/lb: 'True'}}", pod("web", readinessGates=[{"conditionType": "example.com/lb"}]))
    assert conditions(opened)["Ready"] == "True"


def test_container_that_the_pod_does_not_have() -> None:
    with pytest.raises(InputError, match="wbe"):
        status("{of: web, containers: {wbe: {}}}", pod("web"))


def test_event_names_the_container_and_is_cut_as_the_server_wants() -> None:
    text = (
        "{name: t, title: t, objects: [], pods: [{of: web, events: [{reason: BackOff, container: setup, message: '$image %s', count: 3}]}]}"
    )
    event = event_of(fault(text % ("x" * 2000)).pods[0].events[0], pod("web", inits=("setup",)), NOW)
    assert event["involvedObject"]["fieldPath"] == "spec.initContainers{setup}"
    assert event["message"].startswith("a x")
    assert len(event["message"]) == 1024
    assert (event["count"], event["source"]) == (3, {"component": "kubelet", "host": "node-a"})
