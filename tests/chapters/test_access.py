"""Chapter 2 on small facts: what each state of a system, of a credential and of the rights is called, and what follows for the chapters."""

from __future__ import annotations

import ast
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from opslib.chapters import CHAPTERS, access
from opslib.chapters.access import Credential, Facts, Kind, Parameters, System, Verdict
from opslib.chapters.rights import ACTIONS, RIGHTS, Right, merged
from opslib.environments import Environment
from opslib.errors import InputError, OpsError, SourceError, Unauthenticated, Unreachable, WrongTarget
from opslib.findings import Finding, Severity
from opslib.messages import Message
from opslib.sources import aws, buckets

NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
PARAMETERS = Parameters()
EVERY = {right.key for rights in RIGHTS.values() for right in rights}
ALL = tuple(access.NAMES)


def environment(**fields: Any) -> Environment:
    return Environment.model_validate({"name": "lab", "language": "en", "timezone": "UTC", **fields})


def facts(*changed: System, **fields: Any) -> Facts:
    """All is well, but for the systems and fields given."""
    systems = {name: System(name=name, address=f"https://{name}", identity="me", connected=0.2, answered=0.01, clock=0) for name in ALL}
    systems |= {system.name: system for system in changed}
    given = {"allowed": dict.fromkeys(EVERY, True), "may_change": True, "environment": environment(), **fields}
    return Facts(now=NOW, systems=tuple(systems.values()), **given)


def found(of: Facts, parameters: Parameters = PARAMETERS) -> list[Finding]:
    return access.findings(of, parameters)


def down(name: str, error: OpsError | None = None) -> System:
    return System(name=name, address=f"https://{name}", error=error or Unreachable(name, "no route"))


def verdicts(of: Facts) -> dict[str, Verdict]:
    return {ability.chapter.slug: ability.verdict for ability in access.abilities(of)}


# --- all is well ----------------------------------------------------------------------------------------------------------------------


def test_where_all_answer_there_is_nothing_to_say_and_every_chapter_runs() -> None:
    assert found(facts()) == []
    assert set(verdicts(facts()).values()) == {Verdict.RUNS}


def test_every_chapter_says_which_rights_it_needs() -> None:
    assert {chapter.slug for chapter in CHAPTERS} == set(RIGHTS)


def test_the_policies_allow_what_the_source_asks_aws_for() -> None:
    """Every operation of EKS in the source's code, under the name that a policy gives it."""
    calls = [node for node in ast.walk(ast.parse(Path(aws.__file__).read_text("utf-8"))) if isinstance(node, ast.Call)]
    named = [[str(one.value) for one in call.args if isinstance(one, ast.Constant)] for call in calls]
    asked = {f"eks:{''.join(part.capitalize() for part in words[1].split('_'))}" for words in named if words[:1] == ["eks"]}
    assert asked
    assert asked == {action for slug in ("patching", "pods") for action in ACTIONS[slug] if action.startswith("eks:")}
    assert {permission for permission, _nothing in buckets.QUESTIONS.values()} == set(ACTIONS["backup"])


def test_no_chapter_names_a_right_twice() -> None:
    for rights in RIGHTS.values():
        keys = [right.key for right in rights]
        assert len(keys) == len(set(keys))


# --- systems --------------------------------------------------------------------------------------------------------------------------


def test_the_cluster_that_is_down_is_critical_since_a_chapter_requires_it() -> None:
    (finding,) = found(facts(down("kubernetes")))
    assert (finding.check, finding.severity) == ("systems.unreachable", Severity.CRITICAL)
    assert finding.cause == "no route"
    assert "4.1 pods" in str(finding.evidence[1].text)


@pytest.mark.parametrize("name", ["prometheus", "alertmanager", "elasticsearch"])
def test_another_that_is_down_is_a_warning(name: str) -> None:
    (finding,) = found(facts(down(name)))
    assert (finding.check, finding.severity) == ("systems.unreachable", Severity.WARNING)


@pytest.mark.parametrize(
    ("error", "check", "severity"),
    [
        (WrongTarget("another"), "systems.wrong_target", Severity.CRITICAL),
        (Unauthenticated("prometheus", "401"), "systems.unauthenticated", Severity.WARNING),
        (SourceError("prometheus", "not JSON"), "systems.refused", Severity.WARNING),
        (InputError("no such file"), "systems.settings", Severity.WARNING),
    ],
)
def test_each_way_of_failing_has_its_name(error: OpsError, check: str, severity: Severity) -> None:
    (finding,) = found(facts(down("prometheus", error)))
    assert (finding.check, finding.severity) == (check, severity)


def test_a_system_that_the_file_does_not_name_is_no_finding_and_a_gap_of_the_chapters_that_read_it() -> None:
    of = facts(System(name="alertmanager", named=False))
    assert found(of) == []
    assert verdicts(of)["monitoring"] is Verdict.GAPS


@pytest.mark.parametrize(("seconds", "count"), [(1.9, 0), (2.0, 1)])
def test_slow_counts_on_the_open_connection(seconds: float, count: int) -> None:
    assert len(found(facts(System(name="prometheus", address="a", connected=9, answered=seconds)))) == count


@pytest.mark.parametrize(
    ("seconds", "severities"),
    [(30, []), (-30, []), (31, [Severity.WARNING]), (-31, [Severity.WARNING]), (301, [Severity.CRITICAL]), (None, [])],
)
def test_a_clock_that_is_off(seconds: float | None, severities: list[Severity]) -> None:
    of = facts(System(name="kubernetes", address="a", connected=0.1, clock=seconds))
    assert [finding.severity for finding in found(of) if finding.check == "systems.clock"] == severities


def test_the_clock_is_said_to_be_ahead_or_behind() -> None:
    ahead, behind = (found(facts(System(name="kubernetes", address="a", clock=seconds)))[0].title for seconds in (60.0, -60.0))
    assert "60 s ahead" in str(ahead)
    assert "60 s behind" in str(behind)


def test_a_production_that_does_not_say_which_cluster_it_is_is_a_warning() -> None:
    assert [one.check for one in found(facts(environment=environment(production=True)))] == ["systems.target_not_checked"]
    named = environment(production=True, kubernetes={"expected_cluster_uid": "u"})
    assert found(facts(environment=named)) == []


# --- certificates and tokens ----------------------------------------------------------------------------------------------------------


def credential(left: timedelta, kind: Kind = Kind.SERVER, renewed: bool = False) -> Credential:
    return Credential(system="kubernetes", kind=kind, subject="kube-apiserver", issuer="ca", ends=NOW + left, renewed=renewed)


@pytest.mark.parametrize(
    ("one", "severity"),
    [
        (credential(timedelta(days=31)), None),
        (credential(timedelta(days=30)), Severity.WARNING),
        (credential(timedelta(0)), Severity.CRITICAL),
        (credential(timedelta(days=-3)), Severity.CRITICAL),
        (credential(timedelta(days=3), Kind.CLIENT), Severity.WARNING),
        (credential(timedelta(days=3), Kind.CLIENT, renewed=True), None),
        (credential(timedelta(minutes=61), Kind.TOKEN), None),
        (credential(timedelta(minutes=60), Kind.TOKEN), Severity.WARNING),
        (credential(timedelta(minutes=14), Kind.TOKEN, renewed=True), None),
        (credential(timedelta(minutes=-1), Kind.TOKEN, renewed=True), Severity.CRITICAL),
    ],
)
def test_what_ends_soon_is_a_warning_what_has_ended_critical(one: Credential, severity: Severity | None) -> None:
    assert [finding.severity for finding in found(facts(credentials=(one,)))] == ([severity] if severity is not None else [])


# --- rights and chapters --------------------------------------------------------------------------------------------------------------


def without(*keys: tuple[str, str], value: bool | None = False) -> dict[tuple[str, str], bool | None]:
    return {**dict.fromkeys(EVERY, True), **dict.fromkeys(keys, value)}


def test_a_useful_right_that_is_missing_is_information_and_the_chapter_has_gaps() -> None:
    of = facts(allowed=without(("get", "secrets")))
    assert verdicts(of) | {"pods": Verdict.RUNS} == dict.fromkeys(verdicts(of), Verdict.RUNS)
    assert verdicts(of)["pods"] is Verdict.GAPS
    (finding,) = found(of)
    assert (finding.check, finding.severity, str(finding.cause)) == ("rights.missing", Severity.INFO, "get secrets")
    assert "deploy/rbac/4.1_pods.yaml" in finding.steps[0].command


def test_a_needed_right_that_is_missing_stops_the_chapter() -> None:
    of = facts(allowed=without(("list", "pods")))
    assert verdicts(of)["pods"] is Verdict.CANNOT
    severities = [finding.severity for finding in found(of)]  # other chapters want it too, and can do without
    assert severities.count(Severity.WARNING) == 1
    assert max(severities) is Severity.WARNING


def test_a_right_that_is_not_known_is_neither_there_nor_missing() -> None:
    of = facts(allowed=without(("list", "pods"), value=None))
    assert verdicts(of)["pods"] is Verdict.GAPS
    assert found(of) == []
    assert {row[3] for row in access.rights_table(of).rows} == {Message("not known")}


def test_the_table_of_rights_has_the_rule_to_add() -> None:
    rows = access.rights_table(facts(allowed=without(("list", "deployments.apps")))).rows
    assert rows  # one a chapter that wants it
    assert {row[-1] for row in rows} == {'{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]}'}


def test_where_the_cluster_is_down_its_chapters_cannot_run_and_rights_are_not_asked_about() -> None:
    of = facts(down("kubernetes"), allowed=None, may_change=None)
    assert verdicts(of)["pods"] is Verdict.CANNOT
    assert verdicts(of)["monitoring"] is Verdict.GAPS
    assert access.rights_table(of).empty == Message("The rights could not be read.")


def test_where_everything_is_down_only_this_chapter_runs() -> None:
    of = facts(*(down(name) for name in ALL), allowed=None)
    assert {slug for slug, verdict in verdicts(of).items() if verdict is not Verdict.CANNOT} == {"access"}


@pytest.mark.parametrize("error", [WrongTarget("another"), InputError("no such context")])
def test_where_the_cluster_is_another_or_not_to_be_had_no_other_chapter_begins(error: OpsError) -> None:
    of = facts(down("kubernetes", error), allowed=None)
    assert {slug for slug, verdict in verdicts(of).items() if verdict is not Verdict.CANNOT} == {"access"}


def test_who_may_not_change_anything_is_told_so() -> None:
    assert [(one.check, one.severity) for one in found(facts(may_change=False))] == [("rights.view_only", Severity.INFO)]
    assert found(facts(may_change=None)) == []


def test_rules_are_put_together_by_group_and_verbs() -> None:
    why = Message("x")
    rights = [Right("list", "pods", why), Right("get", "pods", why), Right("get", "pods/log", why), Right("list", "deployments.apps", why)]
    assert merged(rights) == [
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
    ]


# --- tables and links -----------------------------------------------------------------------------------------------------------------


def test_tables_have_a_cell_for_every_column() -> None:
    of = facts(down("prometheus"), credentials=(credential(timedelta(days=1)),), allowed=without(("get", "secrets")))
    for table in (access.systems_table(of), access.credentials_table(of), access.chapters_table(of), access.rights_table(of)):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}


PAGES = {
    "prometheus": {"url": "http://p/prom/", "service_label": "svc"},
    "alertmanager": {"url": "http://am"},
    "elasticsearch": {"url": "http://es"},
    "aws": {"region": "ap-northeast-1", "cluster": "prod"},
    "links": {"grafana": "http://g", "kibana": "http://k", "aws_console": "https://console.aws.amazon.com/"},
}


def test_links_open_with_time_range_service_and_query() -> None:
    chosen = Parameters(namespace="shop", service='a"b', window_minutes=30)
    pages = {str(link.text): link.url for link in access.links(facts(environment=environment(**PAGES)), chosen)}
    assert pages["AWS console, EKS"] == "https://console.aws.amazon.com/eks/home?region=ap-northeast-1#/clusters/prod"
    graph = urlsplit(pages["Prometheus, graph"])
    query = parse_qs(graph.query)
    assert graph.path == "/prom/graph"
    assert query["g0.expr"] == [r'sum by (svc) (rate(http_requests_total{namespace="shop",svc="a\"b"}[5m]))']
    assert (query["g0.range_input"], query["g0.end_input"]) == (["1800s"], ["2026-01-02 12:00:00"])
    alerts = urlsplit(pages["Alertmanager, alerts"]).fragment
    assert parse_qs(alerts.partition("?")[2])["filter"] == [r'{namespace="shop",service="a\"b"}']
    assert "2026-01-02T11:30:00.000Z" in pages["Kibana, Discover"]
    assert "service.name" in pages["Kibana, Discover"]
    assert str(int((NOW - timedelta(minutes=30)).timestamp() * 1000)) in pages["Grafana, Explore"]


def test_an_environment_without_pages_has_no_links() -> None:
    assert access.links(facts(), PARAMETERS) == []
