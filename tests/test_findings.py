"""Findings: order, fingerprints, JSON and back in either language."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.errors import Forbidden, Unreachable
from opslib.findings import (
    Column,
    Evidence,
    Finding,
    Link,
    Severity,
    Step,
    Subject,
    Table,
    Unit,
    by_severity,
    command,
    finding_from_json,
    finding_to_json,
    worst,
)
from opslib.messages import Message, Text, _, _n, use_language

words = st.text(max_size=20)
texts: st.SearchStrategy[Text] = (
    words
    | st.builds(lambda word: _("Could not look at {what}", what=word), words)
    | st.builds(lambda count: _n("{count} fault, see: {command}", "{count} faults, see: {command}", count, command="x"), st.integers(0, 3))
)
subjects = st.builds(Subject, words, words, words)
times = st.none() | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=9))]))
findings = st.builds(
    Finding,
    check=words,
    severity=st.sampled_from(Severity),
    subject=subjects,
    title=texts,
    cause=st.none() | texts,
    evidence=st.lists(st.builds(Evidence, text=texts, quote=words, source=words, reference=words, time=times), max_size=2).map(tuple),
    steps=st.lists(st.builds(Step, texts, words, st.booleans()), max_size=2).map(tuple),
    links=st.lists(st.builds(Link, texts, st.just("https://example.com/?q=%E3%81%82")), max_size=2).map(tuple),
    affected=st.lists(subjects, max_size=3).map(tuple),
    since=times,
)


@given(findings)
def test_a_finding_survives_json(finding: Finding) -> None:
    again = finding_from_json(json.loads(json.dumps(finding_to_json(finding, "en"))))
    assert again == finding
    assert again.fingerprint == finding.fingerprint
    for language in ("ja", "en"):
        assert finding_to_json(again, language) == finding_to_json(finding, language)


def test_a_finding_made_in_one_language_is_read_in_the_other() -> None:
    finding = Finding(check="a.b", severity=Severity.WARNING, subject=Subject("Pod", "web"), title=_("Could not look at {what}", what="x"))
    with use_language("en"):
        written = json.loads(json.dumps(finding_to_json(finding)))
    assert written["title"]["text"] == "Could not look at x"
    title = finding_from_json(written).title
    assert isinstance(title, Message)
    assert "Could not" not in title.text("ja")
    assert "x" in title.text("ja")


def test_a_fingerprint_is_of_check_and_subject_and_the_same_in_every_process() -> None:
    def made(check: str = "image.not_found", name: str = "web", **others: object) -> str:
        fields: dict[str, object] = {"severity": Severity.INFO, "title": "t", **others}
        return Finding(check=check, subject=Subject("Deployment", name, "shop"), **fields).fingerprint  # type: ignore[arg-type]

    assert made() == made(severity=Severity.CRITICAL, title="other", since=datetime.now(UTC)) == "a7c2c4d75770811c"
    assert len({made(), made(check="image.rate_limit"), made(name="web2")}) == 3
    code = (
        "from opslib.findings import *; print(Finding(check='image.not_found', severity=Severity.OK, title='',"
        " subject=Subject('Deployment', 'web', 'shop')).fingerprint)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert run.stdout.strip() == made()


@given(st.lists(findings, max_size=8))
def test_the_worst_come_first_and_nothing_is_lost(several: list[Finding]) -> None:
    ordered = by_severity(several)
    assert sorted(map(repr, ordered)) == sorted(map(repr, several))
    assert [finding.severity for finding in ordered] == sorted((finding.severity for finding in several), reverse=True)
    assert worst(several) == (ordered[0].severity if ordered else Severity.OK)


@given(st.permutations([("b", 2), ("a", 2), ("c", 3), ("d", 0)]))
def test_the_order_does_not_depend_on_the_order_before(shuffled: list[tuple[str, int]]) -> None:
    made = [
        Finding(check="x.y", severity=Severity.WARNING, subject=Subject("Pod", name), title="", affected=(Subject("Pod", "p"),) * count)
        for name, count in shuffled
    ]
    assert [finding.subject.name for finding in by_severity(made)] == ["c", "a", "b", "d"]


def test_exit_statuses_are_those_of_monitoring_plugins() -> None:
    assert [severity.exit_status for severity in Severity] == [0, 0, 1, 3, 2]
    assert len({severity.label.text("ja") for severity in Severity}) == len(Severity)


def test_a_gap_says_what_why_and_what_to_do() -> None:
    error = Forbidden("kubernetes", _("Could not look at {what}", what="secrets"), _("Start it"), "kubectl create role")
    gap = Finding.gap(error, "secrets")
    assert gap.severity is Severity.UNKNOWN
    assert gap.severity.exit_status == 3
    assert gap.cause == error.what
    assert gap.steps == (Step(error.remedy, "kubectl create role"),)
    assert Finding.gap(Unreachable("prometheus", "down"), "alerts").steps == ()


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "//example.com", ""])
def test_only_web_addresses_are_links(url: str) -> None:
    with pytest.raises(ValueError, match="not a web address"):
        Link("page", url)


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10), min_size=1, max_size=4))
def test_a_shell_gives_back_the_words_of_a_command(words: list[str]) -> None:
    import shlex

    assert shlex.split(command(*words)) == words


def test_a_name_from_the_cluster_cannot_leave_its_word() -> None:
    run = subprocess.run(
        ["/bin/sh", "-c", command("printf", "%s", "$(id); `id` 'x' \" & | > /tmp/x")], capture_output=True, text=True, check=True
    )
    assert run.stdout == "$(id); `id` 'x' \" & | > /tmp/x"


def test_a_table_becomes_a_frame() -> None:
    table = Table(name="t", title="t", columns=(Column("pod", "Pod"), Column("age", "Age", Unit.SECONDS)), rows=[("a", 1.5), ("b", None)])
    frame = table.frame()
    assert list(frame.columns) == ["pod", "age"]
    assert frame["pod"].tolist() == ["a", "b"]
    assert Table(name="e", title="e", columns=table.columns).frame().shape == (0, 2)
