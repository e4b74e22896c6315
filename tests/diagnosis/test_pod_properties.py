"""What must hold for any pod whatever: nothing crashes, nothing is dropped or told twice, the order is stable."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pod_facts import NOW, ago, container, crashed, facts, only, pod, waiting, workload

from opslib.diagnosis.pods import diagnose
from opslib.diagnosis.pods.cases import cases
from opslib.diagnosis.pods.facts import owner_of
from opslib.diagnosis.pods.scheduling import reasons
from opslib.diagnosis.pods.symptoms import symptoms
from opslib.findings import Severity, Subject, finding_from_json, finding_to_json
from opslib.sources import objects
from opslib.sources.objects import convert

names = st.sampled_from(["", "app", "side", "init", "a-b"])
times = st.sampled_from([None, ago(seconds=2), ago(minutes=9), ago(days=2), "2027-01-01T00:00:00Z"])
words = st.sampled_from(
    [
        "",
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "CreateContainerConfigError",
        "ContainerCreating",
        "PodInitializing",
        "OOMKilled",
        "Error",
        "Completed",
        "Evicted",
        "NodeLost",
        "Terminated",
        "RunContainerError",
        "Brandnew",
        "exec format error",
        "not found",
        "\x1b[31m\u202e",
    ]
)
flags = st.sampled_from(["True", "False", "Unknown", ""])


def maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the fields, or none of them."""
    return st.fixed_dictionaries({}, optional=fields)


ended = maybe(
    exitCode=st.sampled_from([0, 1, 126, 127, 128, 137, 139, 255, -1]),
    signal=st.integers(0, 70),
    reason=words,
    message=words,
    startedAt=times,
    finishedAt=times,
)
state = maybe(waiting=maybe(reason=words, message=words), running=maybe(startedAt=times), terminated=ended)
status = maybe(
    name=names,
    image=words,
    ready=st.booleans(),
    started=st.none() | st.booleans(),
    restartCount=st.integers(0, 9),
    state=state,
    lastState=state,
)
condition = maybe(
    type=st.sampled_from(["Ready", "PodScheduled", "Initialized", "ContainersReady", "DisruptionTarget", "x"]),
    status=flags,
    reason=words,
    message=words,
    lastTransitionTime=times,
)
probe = maybe(
    httpGet=maybe(port=st.sampled_from([80, "http"]), path=words),
    exec=maybe(command=st.lists(words, max_size=2)),
    failureThreshold=st.integers(0, 9),
)
spec_container = maybe(
    name=names,
    image=words,
    restartPolicy=st.sampled_from(["", "Always"]),
    livenessProbe=probe,
    readinessProbe=probe,
    startupProbe=probe,
    env=st.lists(
        maybe(name=names, valueFrom=maybe(secretKeyRef=maybe(name=names, key=names), configMapKeyRef=maybe(name=names))), max_size=2
    ),
    resources=maybe(limits=st.dictionaries(st.just("memory"), st.sampled_from(["1Gi", "x", 5, ""]))),
)
owner = maybe(
    kind=st.sampled_from(["ReplicaSet", "Job", "Node", "Rollout", "StatefulSet", ""]),
    name=st.sampled_from(["", "web", "web-5d9"]),
    controller=st.booleans(),
)
pods = maybe(
    metadata=maybe(
        name=st.text("abc", min_size=1, max_size=3),
        namespace=st.sampled_from(["", "shop"]),
        uid=st.text("xyz", max_size=3),
        creationTimestamp=times,
        deletionTimestamp=times,
        finalizers=st.lists(names, max_size=2),
        labels=st.dictionaries(st.just("pod-template-hash"), st.just("5d9")),
        ownerReferences=st.lists(owner, max_size=2),
    ),
    spec=maybe(
        nodeName=names,
        restartPolicy=st.sampled_from(["", "Always", "Never", "OnFailure"]),
        containers=st.lists(spec_container, max_size=2),
        initContainers=st.lists(spec_container, max_size=2),
        volumes=st.lists(maybe(name=names, persistentVolumeClaim=maybe(claimName=names)), max_size=2),
        readinessGates=st.lists(maybe(conditionType=names), max_size=1),
        schedulingGates=st.lists(maybe(name=names), max_size=1),
    ),
    status=maybe(
        phase=st.sampled_from(["", "Pending", "Running", "Succeeded", "Failed", "Unknown", "Other"]),
        reason=words,
        message=words,
        startTime=times,
        conditions=st.lists(condition, max_size=3),
        containerStatuses=st.lists(status, max_size=2),
        initContainerStatuses=st.lists(status, max_size=2),
    ),
)


def unique(contents: list[dict[str, Any]]) -> tuple[objects.Pod, ...]:
    """The pods, each with a name and namespace of its own, as in a cluster."""
    made = {}
    for content in contents:
        item = convert(content, objects.Pod)
        made[item.metadata.namespace, item.metadata.name] = item
    return tuple(made.values())


@settings(max_examples=150, deadline=None)
@given(st.lists(pods, max_size=6))
def test_any_pods_are_diagnosed_and_none_is_dropped(contents: list[dict[str, Any]]) -> None:
    given_facts = facts(*unique(contents))
    found = diagnose(given_facts)
    told = {(item.namespace, item.name) for finding in found for item in (*finding.affected, finding.subject) if item.kind == "Pod"}
    for item in given_facts.pods or ():
        if symptoms(item, NOW, given_facts.grace, given_facts.onset_window):
            assert (item.metadata.namespace, item.metadata.name) in told
    keys = [(finding.check, finding.subject) for finding in found]
    assert len(keys) == len(set(keys))
    for finding in found:
        assert finding_from_json(finding_to_json(finding, "en")).fingerprint == finding.fingerprint


@settings(max_examples=100, deadline=None)
@given(st.lists(pods, max_size=8))
def test_cases_are_a_partition_of_the_symptoms(contents: list[dict[str, Any]]) -> None:
    given_facts = facts(*unique(contents))
    told = [(case.symptom, item.metadata.namespace, item.metadata.name) for case in cases(given_facts) for item in case.pods]
    expected = [
        (symptom, item.metadata.namespace, item.metadata.name)
        for item in given_facts.pods or ()
        for symptom in symptoms(item, NOW, given_facts.grace, given_facts.onset_window)
    ]
    assert sorted(told) == sorted(expected)
    for case in cases(given_facts):
        assert {owner_of(item, given_facts) for item in case.pods} == {case.owner}


@settings(max_examples=30, deadline=None)
@given(st.lists(pods, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_pods_does_not_matter(contents: list[dict[str, Any]], shuffle: random.Random) -> None:
    items = list(unique(contents))
    once = diagnose(facts(*items))
    shuffle.shuffle(items)
    assert [(finding.check, finding.subject, finding.affected) for finding in diagnose(facts(*items))] == [
        (finding.check, finding.subject, finding.affected) for finding in once
    ]


WORDS = {
    "cpu": "Insufficient cpu",
    "memory": "Insufficient memory",
    "pod_limit": "Too many pods",
    "resources": "Insufficient nvidia.com/gpu",
    "taints": "node(s) had untolerated taint {dedicated: gpu, batch}",
    "cordoned": "node(s) were unschedulable",
    "node_selector": "node(s) didn't match Pod's node affinity/selector",
    "affinity": "node(s) didn't match pod affinity rules",
    "anti_affinity": "node(s) didn't satisfy existing pods anti-affinity rules",
    "spread": "node(s) didn't match pod topology spread constraints (missing required label)",
    "volumes": "node(s) had volume node affinity conflict",
    "ports": "node(s) didn't have free ports for the requested pod ports",
}
TAILS = [
    "",
    ". preemption: 0/9 nodes are available: 2 No preemption victims found, 7 Preemption is not helpful for scheduling",
    ", no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never",
]


@given(
    st.dictionaries(st.sampled_from(sorted(WORDS)), st.integers(1, 5000), min_size=1),
    st.sampled_from(TAILS),
    st.randoms(use_true_random=False),
)
def test_a_schedulers_message_is_taken_apart_and_put_together(counts: dict[str, int], tail: str, shuffle: random.Random) -> None:
    total = sum(counts.values())
    parts = [f"{count} {WORDS[check]}" for check, count in counts.items()]
    shuffle.shuffle(parts)
    nodes, found = reasons(f"0/{total} nodes are available: {', '.join(parts)}{tail}.")
    assert nodes == total
    assert {reason.check: reason.nodes for reason in found} == counts
    assert {reason.words for reason in found} == {WORDS[check] for check in counts}
    assert [reason.nodes for reason in found] == sorted(counts.values(), reverse=True)


@given(st.text(max_size=300))
def test_any_message_can_be_taken_apart(message: str) -> None:
    total, found = reasons(message)
    assert total is None or total >= 0
    assert all(reason.words in message for reason in found)


# --- grouping ---------------------------------------------------------------------------------------------------------------------------


def test_forty_pods_of_one_deployment_are_one_finding() -> None:
    found = only(diagnose(facts(*[pod(f"web-{number}", status=crashed()) for number in range(40)])))
    assert found.subject == Subject("Deployment", "web", "shop")
    assert len(found.affected) == 40


def test_pods_between_two_starts_stand_with_those_that_wait() -> None:
    ended = f"{{terminated: {{exitCode: 1, reason: Error, finishedAt: '{ago(seconds=1)}'}}}}"
    ended_now = pod("web-2", status=container(ended, restarts=3))
    assert len(only(diagnose(facts(pod("web-1", status=crashed()), ended_now))).affected) == 2


def test_two_causes_of_one_owner_stay_apart() -> None:
    found = diagnose(facts(pod("web-1", status=crashed()), pod("web-2", status=waiting("ErrImagePull", "x: not found"))))
    assert sorted(finding.check for finding in found) == ["container.crash_loop", "image.not_found"]


def test_severity_follows_what_still_serves() -> None:
    serving = (workload("Deployment", "web", "status: {readyReplicas: 1}"), workload("ReplicaSet", "web-5d9", owner="Deployment/web"))
    assert only(diagnose(facts(pod(status=crashed()), workloads=serving))).severity is Severity.WARNING
    assert only(diagnose(facts(pod(status=crashed())))).severity is Severity.CRITICAL


def test_owners_of_every_kind() -> None:
    known = facts(workloads=(workload("ReplicaSet", "web-5d9", owner="Rollout/web"), workload("Job", "load-1", owner="CronJob/load")))
    assert owner_of(pod(), known) == Subject("Rollout", "web", "shop")
    assert owner_of(pod(owner="Job/load-1"), known) == Subject("CronJob", "load", "shop")
    assert owner_of(pod(owner="Job/gone"), known) == Subject("Job", "gone", "shop")
    assert owner_of(pod(owner="StatefulSet/db"), known) == Subject("StatefulSet", "db", "shop")
    assert owner_of(pod("etcd-node-1", "Node/node-1"), known) == Subject("Pod", "etcd-node-1", "shop")
    assert owner_of(pod("alone", ""), known) == Subject("Pod", "alone", "shop")
    # A ReplicaSet that could not be read: its name tells, with the hash that is in the pod's label.
    assert owner_of(pod(owner="ReplicaSet/api-5d9"), facts()) == Subject("Deployment", "api", "shop")


def test_what_is_well_is_no_finding() -> None:
    young = pod("young", status="phase: Pending\n" + waiting("ContainerCreating"), meta=f"creationTimestamp: '{ago(seconds=5)}'")
    young.status.start_time = young.metadata.creation_timestamp
    done = pod(
        "done",
        "Job/x",
        status="{phase: Succeeded, containerStatuses: [{name: app, state: {terminated: {exitCode: 0, reason: Completed}}}]}",
    )
    ending = pod("ending", meta=f"deletionTimestamp: '{ago(seconds=5)}'")
    well = pod("well", status=f"containerStatuses: [{{name: app, ready: true, state: {{running: {{startedAt: '{ago(days=1)}'}}}}}}]")
    assert diagnose(facts(young, done, ending, well)) == []
