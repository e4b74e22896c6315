"""Every fault, on the real API server: chapter 4.1 names its cause on the right object, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import pytest

from opslib.findings import Finding, Severity
from opslib.lab import player

if TYPE_CHECKING:
    from tests.conftest import RealLab

T = TypeVar("T")


NOT_ALONE = ("incident", "states")  # one needs the platform, the other has one pod in every state
WAIT_SECONDS = 60  # the autoscaler looks every 15 s


@pytest.fixture
def cluster(any_cluster: RealLab) -> Iterator[RealLab]:
    yield any_cluster
    player.reset(any_cluster.api, logs=any_cluster.logs)


@pytest.mark.parametrize("name", [name for name in player.names() if name not in NOT_ALONE])
def test_cause_is_named(name: str, cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    fault = player.apply_fault(cluster.api, name, namespace=name, logs=cluster.logs)
    expected = {(one.check, one.subject) for one in fault.expect}
    found = once(lambda: diagnose(cluster, namespace=name), lambda findings: named(findings) == expected)
    assert named(found) == expected, "\n".join(f"{finding.severity.name} {finding.check} {finding.subject}" for finding in found)
    for finding in found:
        assert finding.subject.namespace == name
        assert finding.evidence, "a finding without evidence"
        assert finding.steps, "a finding that does not say what to do"


def test_causes_are_named_across_the_cluster(cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    """Many faults at once, seen from no namespace: each is found, none hides another, the worst come first."""
    names = ("crash-loop", "image-not-found", "oom-limit", "secret-missing", "unschedulable-memory", "job-backoff-limit", "owner-quota")
    expected = set()
    for name in names:
        fault = player.apply_fault(cluster.api, name, namespace=f"many-{name}", logs=cluster.logs)
        expected |= {(one.check, one.subject) for one in fault.expect}
    found = once(lambda: diagnose(cluster), lambda findings: named(findings) == expected)
    assert named(found) == expected
    assert [finding.severity for finding in found] == sorted((finding.severity for finding in found), reverse=True)


def test_pods_of_one_owner_are_one_finding(cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    player.apply_fault(cluster.api, "crash-loop", namespace="group", logs=cluster.logs)
    (finding,) = diagnose(cluster, namespace="group")
    assert len(finding.affected) == 3
    assert any("panic: rules are required" in piece.quote for piece in finding.evidence), "the last words of the previous container"


@pytest.mark.parametrize(
    ("name", "changed"),
    [("change-config-map", "shopfront-settings"), ("change-image", "wishlist:1.42.0-rc"), ("change-release-crashes", "compare:8.0.0")],
)
def test_the_change_before_it_is_evidence(name: str, changed: str, cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    player.apply_fault(cluster.api, name, namespace=name, logs=cluster.logs)
    (finding,) = diagnose(cluster, namespace=name)
    said = [str(finding.cause), *(f"{piece.text} {piece.quote}" for piece in finding.evidence)]
    assert any(changed in text for text in said), said


def test_old_release_that_serves_makes_it_a_warning(cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    player.apply_fault(cluster.api, "change-image", namespace="serving", logs=cluster.logs)
    (finding,) = diagnose(cluster, namespace="serving")
    assert finding.severity is Severity.WARNING


def test_healthy_platform_has_no_finding(any_lab: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    assert named(diagnose(any_lab)) == set()


def test_incident(any_lab: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    try:
        fault = player.apply_fault(any_lab.api, "incident", logs=any_lab.logs)
        expected = {(one.check, one.subject) for one in fault.expect}
        found = once(lambda: diagnose(any_lab), lambda findings: expected <= named(findings))
        assert expected <= named(found)
        # Requests that fail meanwhile follow from it, and say so.
        assert all(finding.check.startswith("traffic.") and finding.explained_by for finding in found if not named([finding]) <= expected)
        checkout = next(finding for finding in found if finding.subject.name == "checkout" and not finding.check.startswith("traffic."))
        assert checkout.severity is Severity.CRITICAL
        assert any("PAYMENT_TIMEOUT" in piece.quote for piece in checkout.evidence)
    finally:
        player.reset(any_lab.api, logs=any_lab.logs)
    # The share of failed requests is counted over minutes: it goes down after the pods are well.
    rest = once(lambda: named(diagnose(any_lab)), lambda findings: all(check.startswith("traffic.") for check, _subject in findings))
    assert all(check.startswith("traffic.") for check, _subject in rest)


def named(findings: list[Finding]) -> set[tuple[str, str]]:
    """Check and subject of each."""
    return {(finding.check, f"{finding.subject.kind}/{finding.subject.name}") for finding in findings}


def once(look: Callable[[], T], there: Callable[[T], bool]) -> T:
    """What `look` sees once it is `there`, or when the time is over: controllers take a moment."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        seen = look()
        if there(seen) or time.monotonic() > deadline:
            return seen
