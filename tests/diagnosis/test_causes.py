"""Cause told from symptom, on a few findings and facts each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pod_facts import NOW, ago, crashed, facts, pod, workload

from opslib.diagnosis.causes import Graph, explain
from opslib.diagnosis.pods import diagnose
from opslib.diagnosis.pods.facts import Change, Measured
from opslib.diagnosis.pods.graph import hosts
from opslib.findings import Finding, Severity, Subject, by_severity, finding_from_json, finding_to_json
from opslib.sources import objects
from opslib.sources.objects import convert

WEB, SHOP, DB = (Subject("Deployment", "web", "shop"), Subject("Deployment", "shop", "shop"), Subject("StatefulSet", "db", "data"))
NODE = Subject("Node", "node-1")
CALLS = Graph.of([(WEB, SHOP), (SHOP, DB), (DB, NODE)])


def found(check: str, subject: Subject, minutes: float | None = 10, severity: Severity = Severity.WARNING) -> Finding:
    since = None if minutes is None else NOW - timedelta(minutes=minutes)
    return Finding(check=check, severity=severity, subject=subject, title=f"{check} {subject.name}", since=since)


def by_check(findings: list[Finding], check: str, subject: Subject | None = None) -> Finding:
    (one,) = [item for item in findings if item.check == check and (subject is None or item.subject == subject)]
    return one


def test_a_database_explains_the_errors_of_those_that_call_it() -> None:
    volume = found("volume.full", DB, 30)
    answer = explain([found("traffic.errors", WEB, 20, Severity.CRITICAL), found("traffic.errors", SHOP, 22), volume], CALLS)
    assert answer[0].check == "volume.full"
    assert len(answer[0].explains) == 2
    assert answer[0].severity is Severity.CRITICAL  # as bad as what it brings
    assert all(item.explained_by[0] == volume.fingerprint for item in answer[1:])
    assert answer[0].refuted_by


def test_what_began_after_is_no_cause_and_is_ruled_out() -> None:
    answer = explain([found("traffic.errors", WEB, 60), found("volume.full", DB, 10)], CALLS)
    errors = by_check(answer, "traffic.errors")
    assert not errors.explained_by
    assert [str(why) for _cause, why in errors.ruled_out] == ["it began 50 min later"]


def test_a_cause_needs_a_way_to_its_symptom() -> None:
    answer = explain([found("traffic.errors", DB, 10), found("config.missing", WEB, 20, Severity.CRITICAL)], CALLS)
    errors = by_check(answer, "traffic.errors")
    assert not errors.explained_by
    assert "depend on" in str(errors.ruled_out[0][1])


def test_a_family_explains_only_what_it_can_bring() -> None:
    answer = explain([found("image.not_found", SHOP, 10), found("traffic.errors", DB, 20), found("volume.full", DB, 20)], CALLS)
    assert not by_check(answer, "image.not_found").explained_by


def test_two_troubles_of_one_owners_pods_stay_two() -> None:
    answer = explain([found("image.not_found", WEB, 20), found("container.crash_loop", WEB, 10)], Graph())
    assert not any(item.explained_by for item in answer)


def test_services_that_call_each_other_do_not_explain_each_other() -> None:
    both = Graph.of([(WEB, SHOP), (SHOP, WEB)])
    answer = explain([found("traffic.errors", WEB, 10), found("traffic.errors", SHOP, 40)], both)
    assert by_check(answer, "traffic.errors", WEB).explained_by
    assert not by_check(answer, "traffic.errors", SHOP).explained_by


def test_of_competing_causes_the_one_that_explains_more_comes_first() -> None:
    node = found("node.lost", NODE, 30)
    other = found("container.crash_loop", SHOP, 30)
    answer = explain([found("traffic.errors", WEB), found("traffic.errors", SHOP), found("container.crash_loop", DB), node, other], CALLS)
    assert answer[0].fingerprint == node.fingerprint
    assert by_check(answer, "traffic.errors", WEB).explained_by[0] == node.fingerprint


CHECKS = (
    "node.lost",
    "volume.full",
    "traffic.errors",
    "traffic.slow",
    "container.crash_loop",
    "config.missing",
    "gap.prometheus",
    "service.no_pods",
)
FINDINGS = st.builds(
    found,
    st.sampled_from(CHECKS),
    st.sampled_from([WEB, SHOP, DB, NODE]),
    st.sampled_from([None, 1, 10, 60]),
    st.sampled_from([Severity.INFO, Severity.WARNING, Severity.CRITICAL]),
)
LINKS = st.lists(st.tuples(st.sampled_from([WEB, SHOP, DB, NODE]), st.sampled_from([WEB, SHOP, DB, NODE])))


@given(st.lists(FINDINGS, max_size=9, unique_by=lambda item: item.fingerprint), LINKS, st.randoms(use_true_random=False))
def test_order_does_not_matter_nothing_is_dropped_and_nothing_explains_itself(items: list[Finding], links: list, shuffle: object) -> None:  # type: ignore[type-arg]
    once = explain(items, Graph.of(links))
    again, other = list(items), list(links)
    shuffle.shuffle(again)  # type: ignore[attr-defined]
    shuffle.shuffle(other)  # type: ignore[attr-defined]
    assert explain(again, Graph.of(other)) == once
    assert {item.fingerprint for item in once} == {item.fingerprint for item in items}
    known = {item.fingerprint: item for item in once}
    for item in once:
        assert all(item.fingerprint in known[cause].explains for cause in item.explained_by)
        seen, open_ = set(), list(item.explained_by)
        while open_:
            cause = open_.pop()
            assert cause != item.fingerprint, "a finding that follows from itself"
            if cause not in seen:
                seen.add(cause)
                open_ += known[cause].explained_by
        assert finding_from_json(finding_to_json(item)) == item
    assert once == by_severity(once)


def test_documents_of_earlier_versions_are_still_read() -> None:
    content = finding_to_json(found("node.lost", NODE))
    for name in ("confidence", "refuted_by", "explains", "explained_by", "ruled_out"):
        del content[name]
    assert finding_from_json(content) == found("node.lost", NODE)


# --- from facts ---------------------------------------------------------------------------------------------------------------------------


def lost_node() -> objects.Node:
    content = {
        "metadata": {"name": "node-1"},
        "status": {
            "conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "lastTransitionTime": ago(minutes=9)}]
        },
    }
    return convert(content, objects.Node)


def gone_quiet(name: str, owner: str) -> objects.Pod:
    ready = f"conditions: [{{type: Ready, status: 'False', lastTransitionTime: '{ago(minutes=8)}'}}]"
    return pod(
        name, owner, status=f"{ready}\ncontainerStatuses: [{{name: app, ready: true, state: {{running: {{startedAt: '{ago(days=1)}'}}}}}}]"
    )


def test_a_node_explains_the_pods_of_all_its_owners() -> None:
    sets = tuple(
        workload("StatefulSet", name, f"spec: {{template: {{metadata: {{labels: {{app: {name}}}}}}}}}") for name in ("a", "b", "c")
    )
    pods = [gone_quiet(f"{name}-{number}", f"StatefulSet/{name}") for name in ("a", "b", "c") for number in range(14)]
    answer = diagnose(facts(*pods, workloads=sets, nodes={"node-1": lost_node()}))
    assert answer[0].subject == NODE
    assert len(answer[0].affected) == 42
    assert {item.subject.name for item in answer[1:]} == {"a", "b", "c"}
    assert all(item.explained_by == (answer[0].fingerprint,) for item in answer[1:])


def test_a_config_map_change_is_the_cause_of_a_crash_loop() -> None:
    crashing = pod(status=crashed(), spec="containers: [{name: app, image: x, envFrom: [{configMapRef: {name: settings}}]}]")
    written = {"manager": "kubectl-edit", "time": ago(minutes=3)}
    settings = convert(
        {"metadata": {"name": "settings", "namespace": "shop", "creationTimestamp": ago(days=9), "managedFields": [written]}},
        objects.Object,
    )
    (finding,) = diagnose(facts(crashing, found={("ConfigMap", "shop", "settings"): settings}))
    assert "ConfigMap settings was changed by kubectl-edit" in str(finding.cause)
    plain = diagnose(facts(crashing))[0]
    assert (finding.confidence or 0) > (plain.confidence or 0)


def measured(kind: str, name: str, minutes: float, value: float = 0.4, **more: object) -> Measured:
    return Measured(kind=kind, namespace="shop", name=name, value=value, since=NOW - timedelta(minutes=minutes), **more)  # type: ignore[arg-type]


def services(*names: str) -> tuple[objects.Workload, ...]:
    return tuple(workload("Deployment", name, f"spec: {{template: {{metadata: {{labels: {{app: {name}}}}}}}}}") for name in names)


def test_the_first_service_that_one_sees_fail_is_not_blamed_for_what_it_calls() -> None:
    items = (measured("errors", "front", 20), measured("errors", "middle", 20, own=0.0), measured("errors", "pay", 21, own=1.0))
    calls = tuple((Subject("Deployment", a, "shop"), ("shop", b)) for a, b in (("front", "middle"), ("middle", "pay")))
    release = Change(NOW - timedelta(minutes=25), Subject("Deployment", "pay", "shop"), "rollout of pay: image 5.1.0", rollout=True)
    answer = diagnose(facts(workloads=services("front", "middle", "pay"), measured=items, calls=calls, noted=(release,)))
    assert [item.subject.name for item in answer] == ["pay", "middle", "front"]
    assert "5.1.0" in str(answer[0].cause)
    assert any("rollout undo" in step.command for step in answer[0].steps)


def test_a_store_that_nobody_measures_is_suspected_when_nothing_else_is_left() -> None:
    store = workload("StatefulSet", "db", "spec: {template: {metadata: {labels: {app: db}}}}")
    calls = ((Subject("Deployment", "stock", "shop"), ("shop", "db")), (Subject("Deployment", "review", "shop"), ("shop", "db")))
    slow = (measured("slow", "stock", 20, 3.0, usual=0.1),)
    known: dict[str, Any] = {"workloads": (*services("stock", "review"), store), "measured": slow, "calls": calls}
    answer = diagnose(facts(busy={("shop", "stock"): (5.0, 5.0)}, **known))
    assert answer[0].check == "dependency.slow"
    assert answer[0].subject == Subject("StatefulSet", "db", "shop")
    # Another caller of it that is busy and well: then it is not the store.
    well = diagnose(facts(busy={("shop", "stock"): (5.0, 5.0), ("shop", "review"): (5.0, 5.0)}, **known))
    assert [item.check for item in well] == ["traffic.slow"]


def test_a_full_volume_is_its_stateful_sets() -> None:
    items = (measured("volume", "data-order-db-0", 30, 0.0),)
    answer = diagnose(facts(workloads=(workload("StatefulSet", "order-db"),), measured=items))
    assert answer[0].subject == Subject("StatefulSet", "order-db", "shop")


def test_no_metrics_is_not_all_is_well() -> None:
    assert diagnose(facts(measured=None)) == diagnose(facts(measured=())) == []
    assert replace(facts(), measured=None).measured is None


def test_hosts_in_settings() -> None:
    known = frozenset({("data", "db"), ("shop", "stock"), ("shop", "mode")})
    texts = ["postgres://user@db.data.svc.cluster.local:5432/x", "http://stock:8080", "mode", "https://example.com", "stock is a word"]
    assert hosts(texts, "shop", known) == {("data", "db"), ("shop", "stock")}


def test_memory_that_rises_to_every_kill_is_said_to_be_a_leak() -> None:
    import pandas

    def use(values: list[float]) -> pandas.DataFrame:
        times = [pandas.Timestamp(NOW) - pandas.Timedelta(minutes=len(values) - place) for place in range(len(values))]
        return pandas.DataFrame({"namespace": "shop", "pod": "web-1", "container": "app", "time": times, "value": values})

    killed = pod(status=crashed(137, "OOMKilled"), spec="containers: [{name: app, image: x, resources: {limits: {memory: 1Gi}}}]")
    saw = [1e8 + 1e7 * (place % 40) for place in range(120)]
    flat = [9e8 + 1e6 * (place % 2) for place in range(120)]
    assert "leak" in str([str(item.text) for item in diagnose(facts(killed, memory=use(saw)))[0].evidence])
    assert "leak" not in str([str(item.text) for item in diagnose(facts(killed, memory=use(flat)))[0].evidence])


def test_dns_is_what_everybody_depends_on_whatever_it_is_called() -> None:
    dns = workload("Deployment", "coredns", "metadata: {namespace: kube-system}")
    items = (Measured(kind="dns", value=0.3, since=NOW - timedelta(minutes=20)), measured("errors", "a", 19), measured("errors", "b", 19))
    answer = diagnose(facts(workloads=(*services("a", "b"), dns), measured=items))
    assert answer[0].subject == Subject("Deployment", "coredns", "kube-system")
    assert len(answer[0].explains) == 2


def test_stores_are_not_blamed_for_what_services_without_one_in_common_have() -> None:
    stores = tuple(workload("StatefulSet", name) for name in ("db", "cache"))
    calls = tuple((Subject("Deployment", service, "shop"), ("shop", store)) for service, store in (("a", "db"), ("b", "cache")))
    items = (measured("slow", "a", 20, 3.0, usual=0.1), measured("slow", "b", 20, 3.0, usual=0.1))
    answer = diagnose(facts(workloads=(*services("a", "b"), *stores), measured=items, calls=calls))
    assert {item.check for item in answer} == {"traffic.slow"}
