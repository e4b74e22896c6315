"""Chapter 3.1 on small facts: every rule with what it must find and what it must leave alone."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.chapters import monitoring
from opslib.diagnosis.links import grafana_explore, kibana_discover, kql, rison
from opslib.diagnosis.monitoring.facts import (
    Delivery,
    ErrorCount,
    Facts,
    LogFacts,
    LogTemplate,
    Lost,
    MissingSeries,
    NodeUse,
    Parameters,
    Run,
    ServiceUse,
    Then,
)
from opslib.diagnosis.monitoring.templates import PLACE, families, phrases, template
from opslib.environments import Links, Logs, Metrics
from opslib.findings import Finding, Severity, Subject, Table
from opslib.messages import text_of, use_language
from opslib.sources.monitored import (
    AlertmanagerObject,
    AlertmanagerStatus,
    Notified,
    PrometheusRule,
    RuleGroup,
    Runtime,
    Silence,
    Target,
)
from opslib.sources.objects import convert

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
AGO = {"5m": "2026-01-02T11:55:00Z", "1h": "2026-01-02T11:00:00Z", "1d": "2026-01-01T12:00:00Z"}
PARAMETERS = Parameters()


def facts(**fields: Any) -> Facts:
    return Facts(now=NOW, environment="lab", metrics=Metrics(url="http://p"), logs_settings=Logs(url="http://e"), **fields)


def found(check: str, parameters: Parameters = PARAMETERS, **fields: Any) -> list[Finding]:
    return [finding for finding in monitoring.findings(facts(**fields), parameters) if finding.check == check]


def rule(name: str = "R", **fields: Any) -> dict[str, Any]:
    return {"name": name, "type": "alerting", "query": "up", "health": "ok", "annotations": {"runbook_url": "http://r"}, **fields}


def groups(*rules: dict[str, Any], **fields: Any) -> list[RuleGroup]:
    content = {
        "name": "g",
        "file": "f",
        "interval": 15,
        "evaluationTime": 0.1,
        "lastEvaluation": "2026-01-02T11:59:50Z",
        "rules": list(rules),
    }
    return [convert(content | fields, RuleGroup)]


def notified(name: str = "R", state: str = "active", silences: tuple[str, ...] = (), **labels: str) -> Notified:
    status = {"state": state, "silencedBy": list(silences)}
    return convert({"labels": {"alertname": name, **labels}, "startsAt": AGO["1h"], "status": status}, Notified)


# --- nothing is known, nothing is wrong -----------------------------------------------------------------------------------------------


def test_what_was_not_read_is_neither_found_nor_denied() -> None:
    unknown = facts()
    assert monitoring.findings(unknown, PARAMETERS) == []
    for table in tables(unknown):
        assert table.empty == monitoring.NOT_READ, table.name


def test_what_was_read_and_is_empty_is_said_to_be_empty() -> None:
    empty = facts(
        groups=[], targets=[], runtime=Runtime(), missing=[], alertmanagers=[], alertmanager=AlertmanagerStatus(), notified=[], silences=[],
        deliveries=[], lost=[], nodes=[], services=[], prometheus_rules=[], alertmanager_objects=[],
        logs=LogFacts(lines=9, newest=NOW, earlier_lines=(9,), errors=(), templates=()),
    )  # fmt: skip
    assert monitoring.findings(empty, PARAMETERS) == []
    for table in tables(empty):
        assert table.rows == [], table.name
        assert table.empty != monitoring.NOT_READ, table.name


def tables(of: Facts) -> list[Table]:
    return [
        monitoring.nodes_table(of),
        monitoring.services_table(of),
        monitoring.alerts_table(of),
        monitoring.rules_table(of),
        monitoring.targets_table(of),
        monitoring.silences_table(of),
        monitoring.deliveries_table(of, PARAMETERS),
        monitoring.errors_table(of),
        monitoring.templates_table(of),
    ]


# --- alerts ---------------------------------------------------------------------------------------------------------------------------


def firing(name: str = "R", active: str = "1h", **labels: str) -> dict[str, Any]:
    return {"state": "firing", "labels": {"alertname": name, **labels}, "annotations": {"summary": "it is bad"}, "activeAt": AGO[active]}


def test_forty_series_of_one_alert_are_one_finding_with_the_oldest_start() -> None:
    alerts = [firing(severity="critical", pod=f"p{number}", namespace="shop") for number in range(40)]
    alerts[7]["activeAt"] = AGO["1d"]
    (finding,) = found("alerts.firing", groups=groups(rule(alerts=alerts)))
    assert finding.severity is Severity.CRITICAL
    assert len(finding.affected) == 40
    assert finding.affected[0].namespace == "shop"
    assert finding.since == NOW - timedelta(days=1)
    assert finding.evidence[0].quote == "it is bad"


@pytest.mark.parametrize(
    ("label", "severity"),
    [
        ("critical", Severity.CRITICAL),
        ("WARNING", Severity.WARNING),
        ("info", Severity.INFO),
        ("none", Severity.INFO),
        ("urgent?", Severity.WARNING),
    ],
)
def test_severity_follows_the_label_and_an_unknown_one_is_a_warning(label: str, severity: Severity) -> None:
    (finding,) = found("alerts.firing", groups=groups(rule(alerts=[firing(severity=label)])))
    assert finding.severity is severity


def test_pending_alerts_do_not_fire() -> None:
    assert not found("alerts.firing", groups=groups(rule(alerts=[firing() | {"state": "pending"}])))


def test_a_silenced_alert_is_information_and_a_partly_silenced_one_still_fires() -> None:
    both = [notified("R", "suppressed", ("s1",), severity="critical", pod="a"), notified("R", severity="critical", pod="b")]
    (finding,) = found("alerts.firing", groups=groups(rule()), notified=both)
    assert finding.severity is Severity.CRITICAL
    (finding,) = found("alerts.silenced", groups=groups(rule()), notified=both[:1])
    assert finding.severity is Severity.INFO
    assert any(item.quote == "s1" for item in finding.evidence)


def test_an_alert_that_alertmanager_does_not_know_reaches_nobody() -> None:
    old, young = groups(rule("Old", alerts=[firing("Old")])), groups(rule("Young", duration=240, alerts=[firing("Young", "5m")]))
    (finding,) = found("alerts.not_delivered", groups=old + young, notified=[])
    assert [subject.name for subject in finding.affected] == ["Old"]
    assert not found("alerts.not_delivered", groups=old, notified=[notified("Old")])
    assert not found("alerts.not_delivered", groups=old, notified=None)


def test_a_runbook_that_is_no_web_address_is_no_link() -> None:
    alert = firing() | {"annotations": {"runbook_url": "javascript:alert(1)"}}
    (finding,) = found("alerts.firing", groups=groups(rule(alerts=[alert])))
    assert finding.links == ()


# --- rules, targets, Prometheus -------------------------------------------------------------------------------------------------------


def test_a_rule_that_fails_is_critical_where_its_alert_would_be() -> None:
    failing = groups(
        rule("A", health="err", lastError="many-to-many", labels={"severity": "critical"}),
        rule("B", health="err", type="recording"),
        rule("C", health="unknown"),
    )
    first, second = found("rules.failing", groups=failing)
    assert (first.subject.name, first.severity) == ("g/A", Severity.CRITICAL)
    assert first.evidence[0].quote == "many-to-many"
    assert (second.subject.name, second.severity) == ("g/B", Severity.WARNING)


@pytest.mark.parametrize(("seconds", "count"), [(11, 0), (12.1, 1), (40, 1)])
def test_a_group_is_slow_from_four_fifths_of_its_interval_on(seconds: float, count: int) -> None:
    assert len(found("rules.slow", groups=groups(rule(), evaluationTime=seconds))) == count


@pytest.mark.parametrize(("last", "count"), [("2026-01-02T11:59:00Z", 0), ("2026-01-02T11:50:00Z", 1), ("0001-01-01T00:00:00Z", 0)])
def test_a_group_that_is_not_evaluated_any_more_stands_still_one_not_yet_evaluated_does_not(last: str, count: int) -> None:
    assert len(found("rules.stalled", groups=groups(rule(), lastEvaluation=last))) == count


def test_a_metric_that_never_was_is_a_warning_one_without_series_now_is_information() -> None:
    def missing(rule: str, *, known: bool, declared: bool = False) -> MissingSeries:
        return MissingSeries(group="g", rule=rule, selector="{}", metric="m", metric_known=known, metric_declared=declared)

    fields = [missing("Never", known=False), missing("Offered", known=False, declared=True), missing("Labels", known=True)]
    (never,) = found("rules.no_metric", missing=fields)
    assert never.subject.name == "g/Never"
    assert [finding.subject.name for finding in found("rules.no_series", missing=fields)] == ["g/Labels", "g/Offered"]


def test_a_prometheusrule_counts_as_loaded_only_with_all_its_rules() -> None:
    def item(*names: str) -> PrometheusRule:
        spec = {"groups": [{"name": "g", "rules": [{"alert": name} for name in names]}]}
        return convert({"metadata": {"name": "x", "namespace": "monitoring"}, "spec": spec}, PrometheusRule)

    loaded = groups(rule("A"), rule("B"))
    assert not found("rules.not_loaded", groups=loaded, prometheus_rules=[item("A")])
    assert len(found("rules.not_loaded", groups=loaded, prometheus_rules=[item("A", "C")])) == 1
    assert len(found("rules.not_loaded", groups=[], prometheus_rules=[item("A")])) == 1
    assert not found("rules.not_loaded", groups=None, prometheus_rules=[item("A")])


def test_alert_rules_without_a_runbook_are_one_finding_whose_subject_does_not_change() -> None:
    one = groups(
        rule("A", annotations={}),
        rule("B"),
        rule("W", annotations={}, labels={"severity": "none"}),
        rule("Rec", type="recording", annotations={}),
    )
    two = groups(rule("A", annotations={}), rule("B", annotations={}))
    (first,), (second,) = found("rules.no_runbook", groups=one), found("rules.no_runbook", groups=two)
    assert [subject.name for subject in first.affected] == ["g/A"]
    assert len(second.affected) == 2
    assert first.fingerprint == second.fingerprint


def test_targets_are_grouped_by_job_and_a_whole_job_down_is_critical() -> None:
    def target(job: str, number: int, health: str) -> Target:
        return convert({"labels": {"job": job, "instance": f"i{number}"}, "health": health, "lastError": "refused"}, Target)

    targets = [target("part", 1, "up"), target("part", 2, "down"), target("all", 1, "down"), target("new", 1, "unknown")]
    by_job = {finding.subject.name: finding for finding in found("targets.down", targets=targets)}
    assert {job: finding.severity for job, finding in by_job.items()} == {"part": Severity.WARNING, "all": Severity.CRITICAL}
    assert [subject.name for subject in by_job["part"].affected] == ["i2"]


def test_a_configuration_that_prometheus_did_not_take() -> None:
    assert len(found("prometheus.reload", runtime=Runtime(reload_config_success=False))) == 1
    assert not found("prometheus.reload", runtime=Runtime())


# --- delivery and silences ------------------------------------------------------------------------------------------------------------


def test_an_integration_is_critical_when_nothing_gets_through() -> None:
    deliveries = [
        Delivery(integration="webhook", reason="clientError", tried=10, failed=4),
        Delivery(integration="webhook", reason="serverError", tried=10, failed=6),
        Delivery(integration="email", tried=10, failed=1),
        Delivery(integration="slack", tried=10, failed=0),
        Delivery(integration="sns", tried=0, failed=0),
    ]
    by_name = {finding.subject.name: finding for finding in found("delivery.receiver_failing", deliveries=deliveries)}
    assert {name: finding.severity for name, finding in by_name.items()} == {"webhook": Severity.CRITICAL, "email": Severity.WARNING}
    assert by_name["webhook"].evidence[0].quote == "clientError\nserverError"


def test_alerts_lost_to_one_alertmanager_are_a_warning_to_all_critical() -> None:
    half = [Lost(alertmanager="a", tried=10, failed=10), Lost(alertmanager="b", tried=10, failed=0)]
    (finding,) = found("delivery.lost", lost=half)
    assert (finding.subject.name, finding.severity) == ("a", Severity.WARNING)
    assert [finding.severity for finding in found("delivery.lost", lost=half[:1])] == [Severity.CRITICAL]


def test_no_alertmanager_matters_where_there_are_alert_rules() -> None:
    assert len(found("delivery.no_alertmanager", groups=groups(rule()), alertmanagers=[])) == 1
    assert not found("delivery.no_alertmanager", groups=groups(rule(type="recording")), alertmanagers=[])
    assert not found("delivery.no_alertmanager", groups=groups(rule()), alertmanagers=None)


@pytest.mark.parametrize(
    ("state", "peers", "known", "count"),
    [("ready", 2, 2, 0), ("ready", 1, 2, 1), ("disabled", 0, 2, 1), ("disabled", 0, 1, 0), ("settling", 1, 1, 1)],
)
def test_alertmanagers_that_do_not_see_each_other(state: str, peers: int, known: int, count: int) -> None:
    status = convert({"cluster": {"status": state, "peers": [{"address": str(number)} for number in range(peers)]}}, AlertmanagerStatus)
    assert len(found("delivery.cluster", alertmanager=status, alertmanagers=[f"http://{number}" for number in range(known)])) == count


def test_alertmanager_objects_with_pods_missing() -> None:
    def item(replicas: int, available: int | None) -> AlertmanagerObject:
        status = {} if available is None else {"status": {"availableReplicas": available}}
        return convert(
            {"metadata": {"name": "main", "namespace": "monitoring"}, "spec": {"replicas": replicas}, **status}, AlertmanagerObject
        )

    assert [finding.severity for finding in found("delivery.object", alertmanager_objects=[item(3, 2)])] == [Severity.WARNING]
    assert [finding.severity for finding in found("delivery.object", alertmanager_objects=[item(3, 0)])] == [Severity.CRITICAL]
    assert not found("delivery.object", alertmanager_objects=[item(3, 3), item(3, None)])


def silence(ends: timedelta, **matcher: Any) -> Silence:
    matchers = [{"name": "alertname", "value": "R", "isRegex": False, "isEqual": True} | matcher]
    content = {"id": "s1", "status": {"state": "active"}, "endsAt": (NOW + ends).isoformat(), "createdBy": "ops", "matchers": matchers}
    return convert(content, Silence)


def test_a_silence_that_ends_soon_matters_while_its_alert_fires() -> None:
    soon, later = silence(timedelta(hours=1)), silence(timedelta(hours=9))
    hidden = [notified("R", "suppressed", ("s1",))]
    (finding,) = found("silences.ending", silences=[soon], notified=hidden)
    assert [subject.name for subject in finding.affected] == ["R"]
    assert finding.steps[0].changes
    assert not found("silences.ending", silences=[later], notified=hidden)
    assert not found("silences.ending", silences=[soon], notified=[])


def test_a_silence_for_years_never_ends() -> None:
    assert len(found("silences.endless", silences=[silence(timedelta(days=3650))])) == 1
    assert not found("silences.endless", silences=[silence(timedelta(days=7))])


@pytest.mark.parametrize(
    ("matcher", "count"),
    [
        ({"value": ".+", "isRegex": True}, 1),
        ({"name": "team", "value": ".*", "isRegex": True}, 1),
        ({"name": "team", "value": ".+", "isRegex": True}, 0),
        ({"value": "", "isEqual": False}, 1),
        ({"value": ".+", "isRegex": True, "isEqual": False}, 0),
        ({}, 0),
    ],
)
def test_a_silence_for_every_alert(matcher: dict[str, Any], count: int) -> None:
    assert len(found("silences.everything", silences=[silence(timedelta(hours=1), **matcher)])) == count


def test_a_default_receiver_that_sends_nowhere() -> None:
    status = AlertmanagerStatus(default_receiver="null", receivers=["null", "pager"], silent_receivers=["null"])
    assert len(found("delivery.default_receiver", alertmanager=status)) == 1


# --- nodes ----------------------------------------------------------------------------------------------------------------------------


def node(name: str = "n1", **fields: Any) -> NodeUse:
    values = {"cpu_used": 1.0, "cpu_allocatable": 4.0, "memory_used": 1e9, "memory_allocatable": 8e9, "filesystems": {"/": (1e9, 1e11)}}
    return NodeUse(name=name, **values | fields)


def test_nodes_near_their_limits() -> None:
    nodes = [
        node("a", cpu_used=3.9),
        node("b", memory_used=7e9),
        node("c", memory_used=7.9e9),
        node("d", filesystems={"/": (1, 100), "/var": (92, 100)}),
        node("e"),
    ]
    assert [(finding.subject.name, finding.severity) for finding in found("nodes.cpu", nodes=nodes)] == [("a", Severity.WARNING)]
    memory = {finding.subject.name: finding.severity for finding in found("nodes.memory", nodes=nodes)}
    assert memory == {"b": Severity.WARNING, "c": Severity.CRITICAL}
    (disk,) = found("nodes.filesystem", nodes=nodes)
    assert (disk.subject.name, disk.severity) == ("d", Severity.CRITICAL)
    assert "/var" in str(disk.title)


def test_a_node_of_which_nothing_is_known_is_not_full() -> None:
    assert monitoring.findings(facts(nodes=[NodeUse(name="n", filesystems={})]), PARAMETERS) == []


def test_requests_that_leave_no_room() -> None:
    full = [node(cpu_requested=3.9), node(cpu_requested=3.9)]
    assert [finding.severity for finding in found("nodes.requests_cpu", nodes=full)] == [Severity.WARNING]
    no_spare = [node(cpu_requested=2.5), node(cpu_requested=2.5)]
    assert [finding.severity for finding in found("nodes.requests_cpu", nodes=no_spare)] == [Severity.INFO]
    assert not found("nodes.requests_cpu", nodes=[node(cpu_requested=1.0), node(cpu_requested=1.0)])


# --- services -------------------------------------------------------------------------------------------------------------------------


def service(now: Then, yesterday: Then | None = None, last_week: Then | None = None) -> ServiceUse:
    return ServiceUse(name="cart", namespace="shop", now=now, yesterday=yesterday or Then(), last_week=last_week or Then())


@pytest.mark.parametrize(
    ("ratio", "requests", "severity"),
    [(0.005, 10, None), (0.02, 10, Severity.WARNING), (0.2, 10, Severity.CRITICAL), (1.0, 0.001, None), (None, 10, None)],
)
def test_error_ratios(ratio: float | None, requests: float, severity: Severity | None) -> None:
    findings = found("services.errors", services=[service(Then(requests=requests, error_ratio=ratio))])
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("now", "yesterday", "last_week", "count"),
    [(1.0, 0.2, 0.3, 1), (1.0, 0.2, 0.6, 0), (1.0, None, 0.3, 1), (1.0, None, None, 0), (0.09, 0.01, 0.01, 0)],
)
def test_latency_is_compared_with_the_worse_of_the_earlier_days(
    now: float, yesterday: float | None, last_week: float | None, count: int
) -> None:
    use = service(Then(requests=5, latency=now), Then(latency=yesterday), Then(latency=last_week))
    assert len(found("services.latency", services=[use])) == count


def test_a_service_that_is_asked_nothing_any_more() -> None:
    before, nothing = Then(requests=10), Then(requests=0.0)

    def severities(**times: Then) -> list[Severity]:
        use = ServiceUse(name="cart", **{"now": Then(), "yesterday": Then(), "last_week": Then()} | times)
        return [finding.severity for finding in found("services.traffic", services=[use])]

    assert severities(now=nothing, recent=nothing, yesterday=before, last_week=before) == [Severity.CRITICAL]
    assert severities(now=Then(requests=5), recent=nothing) == [Severity.CRITICAL]  # it stopped within the window
    assert severities(now=Then(requests=3), recent=Then(requests=3), yesterday=before, last_week=before) == [Severity.WARNING]
    assert severities(now=Then(requests=3), yesterday=before, last_week=Then(requests=4)) == []  # a quiet day last week too
    assert severities(now=Then(requests=3), recent=Then(requests=3)) == []  # new
    assert severities(now=Then(), recent=Then(), yesterday=before, last_week=before) == []  # could not be asked
    assert severities(now=nothing, recent=nothing) == []


def test_an_outage_that_began_a_minute_ago_shows() -> None:
    use = ServiceUse(
        name="cart", now=Then(requests=5, error_ratio=0.008), recent=Then(requests=5, error_ratio=0.5), yesterday=Then(), last_week=Then()
    )
    assert [finding.severity for finding in found("services.errors", services=[use])] == [Severity.CRITICAL]


# --- logs -----------------------------------------------------------------------------------------------------------------------------


def logs(**fields: Any) -> LogFacts:
    values: dict[str, Any] = {"lines": 1000, "newest": NOW, "earlier_lines": (1000,) * 7, "errors": (), "templates": ()}
    return LogFacts(**values | fields)


@pytest.mark.parametrize(
    ("now", "earlier", "count"),
    [
        (100, (10, 12, 9), 1),
        (19, (0, 0, 0), 0),  # too few to matter
        (100, (10, 12, 150), 0),  # as bad on a day before
        (100, (None, None), 0),  # no logs to compare with
        (100, (None, 10), 1),
        (100, (), 0),
        (25, (0, 0), 1),
    ],
)
def test_more_errors_than_in_the_same_hours(now: int, earlier: tuple[int | None, ...], count: int) -> None:
    counts = (ErrorCount(service="cart", now=now, earlier=earlier),)
    assert len(found("logs.more_errors", logs=logs(errors=counts))) == count


def test_logs_that_stopped_are_critical_and_late_ones_are_not() -> None:
    assert found("logs.stopped", logs=logs(newest=NOW - timedelta(hours=1)))[0].severity is Severity.CRITICAL
    assert found("logs.stopped", logs=logs(newest=None))
    assert not found("logs.stopped", logs=logs(newest=NOW - timedelta(minutes=3)))


def over_time(*counts: int) -> pandas.DataFrame:
    times = [NOW - timedelta(minutes=15 * (len(counts) - number)) for number in range(len(counts))]
    return pandas.DataFrame({"service": "cart", "time": pandas.to_datetime(times, utc=True), "count": counts})


@pytest.mark.parametrize(
    ("counts", "count"),
    [((1,) * 40 + (2, 80, 3, 1), 1), ((1, 90) * 20 + (2, 80, 3, 1), 0), ((1,) * 40 + (2, 8, 3, 1), 0), ((80, 80, 80, 80), 0)],
)
def test_a_burst_stands_out_of_the_service_s_own_day(counts: tuple[int, ...], count: int) -> None:
    findings = found("logs.spike", logs=logs(over_time=over_time(*counts)))
    assert len(findings) == count
    assert all(finding.since == NOW - timedelta(minutes=45) for finding in findings)


def kind(now: int, earlier: int | None) -> LogTemplate:
    return LogTemplate(text="boom <*>", services={"cart": now}, now=now, earlier=earlier, example="boom 1", first=NOW)


def test_a_kind_is_new_only_where_the_earlier_days_could_be_searched() -> None:
    assert [finding.severity for finding in found("logs.new", logs=logs(templates=(kind(50, 0),)))] == [Severity.WARNING]
    assert [finding.severity for finding in found("logs.new", logs=logs(templates=(kind(2, 0),)))] == [Severity.INFO]
    assert not found("logs.new", logs=logs(templates=(kind(50, 1), kind(50, None))))
    assert not found("logs.new", logs=logs(templates=None))


def test_a_kind_that_is_new_since_a_release_says_so_and_where_chance_would_do_it_does_not() -> None:
    runs = {"cart": {"1.0": Run(NOW - timedelta(days=6), 9_000), "1.1": Run(NOW - timedelta(days=1), 1_000)}}
    only = replace(kind(50, 120), versions={"cart": {"1.1": 50}}, versions_before={"cart": {"1.1": 120}})
    (finding,) = found("logs.new_since_release", logs=logs(templates=(only,), runs=runs))
    assert (finding.severity, [item.time for item in finding.evidence][-1]) == (Severity.WARNING, NOW - timedelta(days=1))
    (finding,) = found("logs.new", logs=logs(templates=(replace(only, earlier=0, versions_before={}),), runs=runs))
    assert "1.1" in text_of(finding.title, "en")
    for other in (
        replace(only, versions_before={"cart": {"1.1": 119, "1.0": 1}}),  # the older one had it, too
        replace(only, versions={"cart": {"1.1": 49, "-": 1}}),  # of one line it is not known
        replace(only, versions={}, versions_before={}),
    ):
        assert not found("logs.new_since_release", logs=logs(templates=(other,), runs=runs))
    assert not found("logs.new_since_release", logs=logs(templates=(only,), runs=None))
    rare = {"cart": {"1.0": Run(NOW - timedelta(days=6), 10), "1.1": Run(NOW - timedelta(days=1), 1_000)}}
    assert not found("logs.new_since_release", logs=logs(templates=(only,), runs=rare))  # 1.0 hardly ran
    row = monitoring.templates_table(Facts(now=NOW, environment="x", logs=logs(templates=(only,), runs=runs))).rows[0]
    assert row[2:4] == ("1.1 (50)", "cart 1.1")


@pytest.mark.parametrize(
    ("now", "same_hours", "lines", "count"),
    [
        (100, (10, 12, 9), (1, 1, 1), 1),
        (100, (0, 0, 1), (1, 1, 1), 1),
        (100, (0, 99, 0), (1, 1, 1), 0),  # it comes in bursts
        (100, (10, 0, 0), (1, 0, 0), 0),  # one day of logs is no comparison
        (25, (10, 12, 9), (1, 1, 1), 0),  # not so many times as much
        (19, (0, 1, 0), (1, 1, 1), 0),  # too few to matter
        (100, (), (1, 1, 1), 0),  # not known
    ],
)
def test_a_kind_that_became_more_frequent(now: int, same_hours: tuple[int, ...], lines: tuple[int, ...], count: int) -> None:
    kinds = (replace(kind(now, 500), same_hours=same_hours),)
    assert len(found("logs.more_of_a_kind", logs=logs(templates=kinds, earlier_lines=lines))) == count


def test_each_kind_has_its_own_small_plot_and_new_ones_say_so() -> None:
    frame = pandas.concat([over_time(1, 2, 3), over_time(0, 0, 9)]).rename(columns={"service": "template"})
    frame["template"] = ["boom <*>"] * 3 + ["注文<*>の失敗"] * 3
    of = logs(templates=(kind(9, 0),), templates_over_time=frame)
    figure = monitoring.templates_figure(Facts(now=NOW, environment="x", logs=of))
    new, known = (axes.get_title(loc="left") for axes in figure.axes)
    assert new.endswith(": boom <*>")
    assert known == "注文<*>の失敗"
    assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] == [[1, 2, 3], [0, 0, 9]]


def test_templates_that_differ_in_names_are_one_family_and_others_stay() -> None:
    people = [f"no right for {who} here" for who in ("ann", "bob", "cid", "dan", "eve", "fay")]
    others = ["disk is full now", "disk is gone now", *(f"{word} failed" for word in "abcdefgh")]
    found = families([*people, *others])
    assert {found[text] for text in people} == {"no right for <*> here"}
    assert all(found[text] == text for text in others)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("order 4711 failed", "order <*> failed"),
        ("注文12345の処理に失敗しました", "注文<*>の処理に失敗しました"),
        ("GET http://10.0.0.1:80/a?x=9 took 12ms", "GET <*> took <*>"),
        ("user 'Ann' can't log in", "user <*> can't log in"),
        ("java.lang.NullPointerException\n\tat a.B(B.java:1)", "java.lang.NullPointerException"),
        ("id=3f2a9c, host=db-1", "id=<*>, host=<*>"),
        ("1 2 3", ""),
        ("", ""),
    ],
)
def test_templates(line: str, text: str) -> None:
    assert template(line) == text


def test_colours_of_a_terminal_are_no_part_of_a_template() -> None:
    assert phrases(template("\x1b[31mERROR\x1b[0m disk 7 is full")) == ("disk", "is full")


@given(st.text(max_size=3000))
def test_a_template_is_stable_one_line_and_made_of_the_line_itself(line: str) -> None:
    text = template(line)
    assert "\n" not in text
    first = " ".join(line.strip().splitlines()[0].split()) if line.strip() else ""
    for part in phrases(text):
        assert PLACE not in part
        if line.isprintable() and PLACE not in line:
            assert part in first
    assert bool(text) == bool(phrases(text))


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_numbers_do_not_make_new_templates(one: int, other: int) -> None:
    assert template(f"order {one} of user u{other} failed") == template(f"order {other} of user u{one} failed")


# --- links ----------------------------------------------------------------------------------------------------------------------------


def test_links_carry_query_and_time_and_hostile_names_stay_inside() -> None:
    pages = Links(grafana="http://g/sub/", kibana="http://k")
    (grafana,) = grafana_explore(pages, 'up{a="\u3042&x=1#"}', NOW - timedelta(hours=1), NOW)
    assert grafana.url.startswith("http://g/sub/explore?schemaVersion=1&panes=%7B")
    assert "#" not in grafana.url
    assert "1767351600000" in grafana.url
    hostile = kql("service.name", 'a" or *:* or "\'!&#) b')
    (kibana,) = kibana_discover(pages, hostile, NOW - timedelta(hours=1), NOW)
    assert kibana.url.startswith("http://k/app/discover#/?_g=(time:(from:'2026-01-02T11:00:00.000Z'")
    assert kibana.url.count("#") == 1
    assert kibana.url.count("&") == 1
    assert hostile == 'service.name: "a\\" or *:* or \\"\'!&#) b"'
    assert grafana_explore(Links(), "up", NOW, NOW) == ()


@given(st.text())
def test_a_text_cannot_leave_its_place_in_rison(text: str) -> None:
    quoted = rison(text)
    inside = quoted[1:-1].replace("!!", "").replace("!'", "")
    assert quoted[0] == quoted[-1] == "'"
    assert "'" not in inside
    assert "!" not in inside


# --- what is shown --------------------------------------------------------------------------------------------------------------------


def full() -> Facts:
    times = pandas.to_datetime([NOW - timedelta(minutes=5 * number) for number in range(12, 0, -1)], utc=True)
    lines = pandas.concat(
        [pandas.DataFrame({"service": name, "time": times, "value": 0.1}) for name in ("shop/cart", "$x$ <b>\u0000", "決済")]
    )
    return facts(
        groups=groups(rule("A", alerts=[firing("A", severity="critical")]), rule("B", alerts=[firing("B", "1d")])),
        targets=[convert({"labels": {"job": "j", "instance": "i"}, "health": "down"}, Target)],
        notified=[notified("C", "suppressed", ("s1",))],
        silences=[silence(timedelta(hours=1))],
        deliveries=[Delivery(integration="webhook", tried=3, failed=1)],
        nodes=[node("a", memory_used=7.9e9), NodeUse(name="$\\alpha$", filesystems={})],
        services=[service(Then(requests=1.0, error_ratio=0.5, latency=0.2))],
        requests_over_time=lines,
        errors_over_time=lines,
        logs=logs(
            errors=(ErrorCount(service="cart", now=3, earlier=(1, None)),),
            templates=(kind(3, 0),),
            over_time=over_time(1, 2, 3),
            uncovered=4,
        ),
    )


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("of", [full, facts], ids=["full", "unread"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of what other tests left, which is collected meanwhile
@pytest.mark.filterwarnings("error")
def test_every_figure_is_drawn_in_both_languages_from_any_facts(language: str, of: Any) -> None:
    with use_language(language):
        for figure in (
            monitoring.nodes_figure(of(), PARAMETERS),
            monitoring.requests_figure(of()),
            monitoring.errors_figure(of(), PARAMETERS),
            monitoring.alerts_figure(of(), PARAMETERS),
            monitoring.log_errors_figure(of()),
            monitoring.templates_figure(of()),
        ):
            picture = io.BytesIO()
            figure.savefig(picture, format="png")
            assert picture.getvalue().startswith(b"\x89PNG")
            assert len(picture.getvalue()) < 150_000


def test_every_table_has_as_many_cells_as_columns() -> None:
    for table in tables(full()):
        assert table.rows, table.name
        assert all(len(row) == len(table.columns) for row in table.rows), table.name
        assert len({column.name for column in table.columns}) == len(table.columns)


def test_gaps_are_among_the_findings_and_the_order_is_by_severity() -> None:
    gap = Finding(check="gap.x", severity=Severity.UNKNOWN, subject=Subject("System", "x"), title="gap")
    findings = monitoring.findings(dataclasses.replace(full(), gaps=(gap,)), PARAMETERS)
    assert gap in findings
    assert [finding.severity for finding in findings] == sorted((finding.severity for finding in findings), reverse=True)
    assert monitoring.about(findings, "gap") == [gap]
    assert len({finding.fingerprint for finding in findings}) == len(findings)
