"""Plans executed on a cluster: checked, approved, done once, verified, undone; and cut off at every step."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from opslib.actions import pipeline, workloads
from opslib.actions.kubernetes import KubernetesSystem
from opslib.actions.pipeline import Desk
from opslib.actions.plans import Plan
from opslib.errors import InputError, OpsError, Refused, SourceError
from opslib.messages import Message
from tests.actions.conftest import Between, Place

RULES = {"approval": {"required_for": ["scale", "delete"], "approvers": ["naoki", "hitomi"]}}


def scaled(place: Place, desk: Desk, replicas: int = 4) -> Plan:
    plan = workloads.scale(place.system(desk), desk.environment, desk.who, "deployment/web", place.namespace, replicas, steady_seconds=1)
    pipeline.file_plan(desk, plan)
    return plan


def events(desk: Desk, plan: Plan) -> list[str]:
    return [record.event for record in desk.log.of(plan.id)]


# --- each kind of change ----------------------------------------------------------------------------------------------------------------


def test_a_plan_and_its_rehearsal_change_nothing(place: Place) -> None:
    desk = place.desk()
    before = place.deployment()["metadata"]["generation"]
    plan = scaled(place, desk)
    outcome = pipeline.rehearse(desk, plan)
    assert (outcome.done, len(outcome.previews)) == (0, 1)
    assert "replicas: 4" in plan.steps[0].difference
    assert plan.reach.services == [f"{place.namespace}/web"]
    assert place.deployment()["metadata"]["generation"] == before


def test_scale_and_back(place: Place) -> None:
    desk = place.desk()
    plan = scaled(place, desk)
    assert pipeline.execute(desk, plan).verified
    assert place.deployment()["status"]["availableReplicas"] == 4
    assert pipeline.undo(desk, plan) == 1
    place.until(lambda: len(place.pods()) == 2, "two pods again")
    assert events(desk, plan) == [
        *("planned", "started", "step.begins", "step.done", "finished"),
        *("undo.started", "undo.begins", "undo.done", "undone"),
    ]
    assert desk.log.verify()[1] is None


def test_restart_replaces_every_pod(place: Place) -> None:
    desk = place.desk()
    before = {pod["metadata"]["uid"] for pod in place.pods()}
    plan = workloads.restart(place.system(desk), desk.environment, desk.who, "deployment/web", place.namespace, steady_seconds=1)
    pipeline.file_plan(desk, plan)
    assert pipeline.execute(desk, plan).verified
    assert not before & {pod["metadata"]["uid"] for pod in place.pods() if "deletionTimestamp" not in pod["metadata"]}
    with pytest.raises(InputError, match="web"):
        pipeline.undo(desk, plan)


def test_another_image_and_the_revision_before(place: Place) -> None:
    desk = place.desk()
    system = place.system(desk)
    image = workloads.image(
        system, desk.environment, desk.who, "deployment/web", place.namespace, "web", "registry.example.com/web:2", steady_seconds=0
    )
    pipeline.file_plan(desk, image)
    assert pipeline.execute(desk, image).verified
    back = workloads.rollback(system, desk.environment, desk.who, "deployment/web", place.namespace, steady_seconds=0)
    pipeline.file_plan(desk, back)
    assert "web:1" in back.steps[0].difference
    assert pipeline.execute(desk, back).verified
    assert place.deployment()["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example.com/web:1"
    pipeline.undo(desk, back)
    assert place.deployment()["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example.com/web:2"


def test_a_rollback_drops_what_the_newer_template_added(place: Place) -> None:
    path = f"/apis/apps/v1/namespaces/{place.namespace}/deployments/web"
    place.lab.api.patch(
        path, {"spec": {"template": {"spec": {"containers": [{"name": "web", "env": [{"name": "NEW", "value": "1"}]}]}}}}, "strategic"
    )
    place.until(lambda: place.deployment()["metadata"]["annotations"].get(workloads.REVISION) == "2", "the second revision")
    desk = place.desk()
    back = workloads.rollback(place.system(desk), desk.environment, desk.who, "deployment/web", place.namespace, 1, steady_seconds=0)
    pipeline.file_plan(desk, back)
    pipeline.execute(desk, back)
    assert "env" not in place.deployment()["spec"]["template"]["spec"]["containers"][0]


def test_pods_are_deleted_and_come_back(place: Place) -> None:
    desk = place.desk()
    names = [pod["metadata"]["name"] for pod in place.pods()]
    plan = workloads.delete_pods(place.system(desk), desk.environment, desk.who, names, place.namespace)
    pipeline.file_plan(desk, plan)
    assert pipeline.execute(desk, plan).verified
    place.until(lambda: place.deployment()["status"].get("availableReplicas") == 2, "two pods run again")
    assert not {pod["metadata"]["name"] for pod in place.pods()} & set(names)


@pytest.mark.parametrize(
    ("workload", "words"),
    [("web", "deployment/web"), ("pod/web", "deployment"), ("deployment/", "kind/name"), ("deployment/none", "kubectl get")],
)
def test_a_workload_that_is_none_is_refused(place: Place, workload: str, words: str) -> None:
    desk = place.desk()
    with pytest.raises(InputError, match=words):
        workloads.scale(place.system(desk), desk.environment, desk.who, workload, place.namespace, 3)


def test_what_makes_no_sense_is_refused(place: Place) -> None:
    desk = place.desk()
    system, environment = place.system(desk), desk.environment
    where = ("deployment/web", place.namespace)
    for make in (
        lambda: workloads.scale(system, environment, "hitomi", *where, -1),
        lambda: workloads.scale(system, environment, "hitomi", *where, 2),
        lambda: workloads.rollback(system, environment, "hitomi", *where),
        lambda: workloads.rollback(system, environment, "hitomi", *where, 99),
        lambda: workloads.image(system, environment, "hitomi", *where, "nginx", "web:2"),
        lambda: workloads.image(system, environment, "hitomi", *where, "web", "web 2"),
        lambda: workloads.image(system, environment, "hitomi", *where, "web", "registry.example.com/web:1"),
        lambda: workloads.delete_pods(system, environment, "hitomi", ["none"], place.namespace),
        lambda: workloads.delete_pods(system, environment, "hitomi", [], place.namespace),
    ):
        with pytest.raises(InputError):
            make()
    assert place.deployment()["metadata"]["generation"] == 1


# --- refusals ---------------------------------------------------------------------------------------------------------------------------


def test_drift_refuses(place: Place) -> None:
    desk = place.desk()
    plan = scaled(place, desk)
    place.lab.api.patch(f"/apis/apps/v1/namespaces/{place.namespace}/deployments/web", {"spec": {"minReadySeconds": 1}})
    with pytest.raises(SourceError, match=plan.short_id):
        pipeline.execute(desk, plan)
    assert place.deployment()["spec"]["replicas"] == 2
    assert events(desk, plan) == ["planned", "refused"]


def test_a_status_that_changes_is_no_drift(place: Place) -> None:
    desk = place.desk()
    plan = scaled(place, desk)
    pod = place.pods()[0]
    place.lab.api.delete(f"/api/v1/namespaces/{place.namespace}/pods/{pod['metadata']['name']}", grace_seconds=0)
    place.until(lambda: place.deployment()["status"].get("availableReplicas") == 2 and len(place.pods()) == 2, "it is back")
    assert pipeline.execute(desk, plan).verified


def test_a_plan_is_executed_once(place: Place) -> None:
    desk = place.desk()
    plan = scaled(place, desk)
    pipeline.execute(desk, plan)
    for again in (pipeline.execute, pipeline.rehearse):
        with pytest.raises(InputError, match=plan.short_id):
            again(desk, plan)


def test_a_plan_for_another_cluster_or_environment_is_refused(place: Place) -> None:
    desk = place.desk()
    plan = scaled(place, desk)
    for other in (plan.model_copy(update={"target": {"kubernetes": "another"}}), plan.model_copy(update={"environment": "prod"})):
        with pytest.raises(InputError):
            pipeline.execute(desk, other)
    assert place.deployment()["spec"]["replicas"] == 2


def test_approval_is_needed_from_somebody_else_and_expires(place: Place) -> None:
    place.settings = RULES
    desk, other = place.desk("hitomi"), place.desk("naoki")
    plan = scaled(place, desk)
    with pytest.raises(InputError, match="opslib approve"):
        pipeline.execute(desk, plan)
    with pytest.raises(InputError, match="hitomi"):
        pipeline.approve(desk, plan)
    with pytest.raises(InputError, match="stranger"):
        pipeline.approve(place.desk("stranger"), plan)
    approval = pipeline.approve(other, plan, "after lunch")
    assert approval.approver == "naoki"
    assert pipeline.approval_of(desk, plan) == approval
    assert pipeline.approval_of(desk, plan, datetime.now(UTC) + timedelta(minutes=61)) is None
    assert pipeline.execute(desk, plan).verified
    started = next(record for record in desk.log.of(plan.id) if record.event == "started")
    assert started.data["approver"] == "naoki"


def test_an_approval_of_another_plan_does_not_do(place: Place) -> None:
    place.settings = RULES
    desk = place.desk("hitomi")
    plan, other = scaled(place, desk, 4), scaled(place, desk, 5)
    pipeline.approve(place.desk("naoki"), other)
    with pytest.raises(InputError, match="opslib approve"):
        pipeline.execute(desk, plan)


def test_a_change_that_does_not_work_says_so(place: Place) -> None:
    """A pod that no node can take."""
    desk = place.desk()
    path = f"/apis/apps/v1/namespaces/{place.namespace}/deployments/web"
    body = {"spec": {"template": {"spec": {"nodeSelector": {"there": "none"}}}}}
    request = {"resource": "deployments.apps", "namespace": place.namespace, "name": "web", "verb": "patch", "body": body}
    system = place.system(desk)
    made = scaled(place, desk)
    preview = system.preview(request)
    step = made.steps[0].model_copy(update={"request": request, "after": preview.after, "inverse": None})
    condition = made.verify[0].model_copy(update={"deadline_seconds": 2})
    plan = made.model_copy(update={"steps": [step], "verify": [condition]})
    pipeline.file_plan(desk, plan)
    outcome = pipeline.execute(desk, plan)
    assert outcome.verified is False
    assert outcome.why is not None and "2" in outcome.why.text("en")
    assert place.lab.api.get(path)["spec"]["template"]["spec"]["nodeSelector"] == {"there": "none"}


def crash(place: Place) -> None:
    """What the kubelet writes of a container that has ended and runs again at once."""
    pod = next(one for one in place.pods() if "deletionTimestamp" not in one["metadata"])
    status = pod["status"]["containerStatuses"][0]
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
    status |= {"restartCount": 1, "lastState": {"terminated": ended}}
    path = f"/api/v1/namespaces/{place.namespace}/pods/{pod['metadata']['name']}"
    place.lab.api.patch(path, {"status": {"containerStatuses": [status]}}, subresource="status")


def upset(place: Place, desk: Desk, change: Callable[[], None]) -> Desk:
    """A desk beside which something happens once the plan has worked for the first time."""

    class Watched(KubernetesSystem):
        happened = False

        def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
            answer = super().holds(question)
            if answer[0] and not self.happened:
                self.happened = True
                change()
            return answer

    return replace(desk, systems={"kubernetes": Watched(place.system(desk).cluster)})


PLANS: dict[str, Callable[[Place, Desk], Plan]] = {
    "restart": lambda place, desk: workloads.restart(
        place.system(desk), desk.environment, desk.who, "deployment/web", place.namespace, steady_seconds=60),
    "scale": lambda place, desk: workloads.scale(
        place.system(desk), desk.environment, desk.who, "deployment/web", place.namespace, 3, steady_seconds=60),
    "image": lambda place, desk: workloads.image(
        place.system(desk), desk.environment, desk.who, "deployment/web", place.namespace, "web", "registry.example.com/web:2",
        steady_seconds=60),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_a_symptom_that_comes_back_in_the_chosen_time_fails_the_execution(place: Place, name: str) -> None:
    """The container runs again before anybody sees the pod unavailable."""
    desk = place.desk()
    plan = PLANS[name](place, desk)
    pipeline.file_plan(desk, plan)
    outcome = pipeline.execute(upset(place, desk, lambda: crash(place)), plan)
    assert outcome.verified is False
    assert "OOMKilled" in str(outcome.why) and "137" in str(outcome.why)
    finished = desk.log.of(plan.id)[-1]
    assert (finished.event, finished.data["verified"]) == ("finished", False)


def test_pods_that_become_unavailable_again_fail_the_execution_too(place: Place) -> None:
    desk = place.desk()
    plan = PLANS["restart"](place, desk)
    pipeline.file_plan(desk, plan)

    def unready() -> None:
        path = f"/apis/apps/v1/namespaces/{place.namespace}/deployments/web"
        place.lab.api.patch(path, {"spec": {"template": {"spec": {"nodeSelector": {"there": "none"}}}}})

    outcome = pipeline.execute(upset(place, desk, unready), plan)
    assert outcome.verified is False
    assert "no longer" in str(outcome.why)


def test_scaling_out_says_where_the_new_pods_fit(place: Place) -> None:
    desk = place.desk()
    nodes = [one["metadata"]["name"] for one in place.lab.api.list("/api/v1/nodes")]

    def cautions() -> list[str]:
        plan = workloads.scale(place.system(desk), desk.environment, desk.who, "deployment/web", place.namespace, 4)
        return list(plan.cautions)

    assert any("would fit on" in one for one in cautions())
    open_ = nodes.pop()
    try:
        for name in nodes:
            place.lab.api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": True}})
        assert any(f"would fit on {open_} (2)" in one for one in cautions())
        path = f"/apis/apps/v1/namespaces/{place.namespace}/deployments/web"
        labels = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}
        alone = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [labels]}}
        place.lab.api.patch(path, {"spec": {"template": {"spec": {"affinity": alone}}}})
        found = next(one for one in cautions() if "Only" in one)
        assert "of 2 new pods fit now" in found
        assert "cordoned" in found and "anti-affinity" in found
    finally:
        for name in nodes:
            place.lab.api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": False}})


def test_what_the_server_refuses_is_said_in_its_words(place: Place) -> None:
    desk = place.desk()
    request = {
        "resource": "deployments.apps",
        "namespace": place.namespace,
        "name": "web",
        "verb": "patch",
        "body": {"spec": {"replicas": -3}},
    }
    with pytest.raises(Refused, match="replicas"):
        place.system(desk).preview(request)


def test_secrets_stay_out_of_differences(place: Place) -> None:
    from opslib.actions.kubernetes import difference

    def secret(**data: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "data": data}

    shown = difference(secret(password="aHVudGVyMg==", user="YQ=="), secret(password="c2VjcmV0", user="YQ=="))
    assert "aHVudGVyMg" not in shown and "c2VjcmV0" not in shown
    assert "password" in shown


# --- cut off, and two at once -----------------------------------------------------------------------------------------------------------


def _run(place: Place, url: str, plan: Plan) -> None:
    pipeline.execute(place.desk(server=url), plan)


def executed_until_killed(place: Place, between: Between, plan: Plan) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=_run, args=(place, between.url, plan))
    process.start()
    assert process.pid is not None
    between.victim = process.pid
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_request_nothing_is_lost_or_done_twice(place: Place, between: Between, when: str) -> None:
    desk = place.desk()
    number = 0
    while True:
        replicas = place.deployment()["spec"]["replicas"]
        generation = place.deployment()["metadata"]["generation"]
        plan = scaled(place, desk, 3 if replicas != 3 else 2).model_copy(update={"verify": []})
        pipeline.file_plan(desk, plan)
        between.seen.clear()
        between.kill, between.victim = (number, when), 0
        status = executed_until_killed(place, between, plan)
        if status == 0:  # it has fewer requests than that
            assert number >= 4
            break
        assert status == -9
        assert pipeline.execute(desk, plan).done == 1
        assert place.deployment()["spec"]["replicas"] == plan.steps[0].request["body"]["spec"]["replicas"]
        assert place.deployment()["metadata"]["generation"] == generation + 1, "done twice, or not at all"
        found = events(desk, plan)
        assert found.count("step.done") == found.count("finished") == 1
        number += 1
    assert desk.log.verify()[1] is None


def test_a_plan_of_several_steps_goes_on_where_it_was_cut_off(place: Place, between: Between) -> None:
    desk = place.desk()
    names = [pod["metadata"]["name"] for pod in place.pods()]
    plan = workloads.delete_pods(place.system(desk), desk.environment, desk.who, names, place.namespace)
    pipeline.file_plan(desk, plan)

    class Deletions(list[tuple[str, str]]):
        def append(self, item: tuple[str, str]) -> None:
            super().append(item)
            if item[0] == "DELETE" and sum(1 for verb, _path in self if verb == "DELETE") == 2:
                between.kill = (len(self) - 1, "after")

    between.seen = Deletions()
    assert executed_until_killed(place, between, plan) == -9
    assert events(desk, plan)[-1] == "step.begins"
    assert pipeline.execute(desk, plan).verified
    place.until(lambda: place.deployment()["status"].get("availableReplicas") == 2, "two pods run again")
    assert len([one for one in events(desk, plan) if one == "step.done"]) == 2


def test_a_run_that_was_cut_off_can_be_undone(place: Place, between: Between) -> None:
    desk = place.desk()
    plan = scaled(place, desk)

    class Patched(list[tuple[str, str]]):
        def append(self, item: tuple[str, str]) -> None:
            super().append(item)
            if item[0] == "PATCH":
                between.kill = (len(self) - 1, "after")

    between.seen = Patched()
    assert executed_until_killed(place, between, plan) == -9
    assert place.deployment()["spec"]["replicas"] == 4
    assert pipeline.undo(desk, plan) == 1
    assert place.deployment()["spec"]["replicas"] == 2


def test_two_at_once_do_not_both_execute(place: Place) -> None:
    desk = place.desk()
    plan = scaled(place, desk)
    with pipeline._alone(desk), pytest.raises(OpsError, match="test"):
        pipeline.execute(desk, plan)
    assert pipeline.execute(desk, plan).verified


def test_two_on_two_machines_do_not_both_execute(place: Place) -> None:
    """With folders of their own they have no lock in common: the object itself says that it has changed."""
    desk = place.desk()
    other = replace(desk, place=desk.place.parent / "other")
    plan = scaled(place, desk)
    pipeline.file_plan(other, plan)
    pipeline.execute(desk, plan)
    with pytest.raises(SourceError, match=plan.short_id):
        pipeline.execute(other, plan)


def test_an_undo_does_not_undo_somebody_elses_change(place: Place) -> None:
    desk = place.desk()
    plan = scaled(place, desk)
    pipeline.execute(desk, plan)
    place.lab.api.patch(f"/apis/apps/v1/namespaces/{place.namespace}/deployments/web", {"spec": {"replicas": 7}})
    with pytest.raises(SourceError):
        pipeline.undo(desk, plan)
    assert place.deployment()["spec"]["replicas"] == 7
