"""What a user may not read is a gap that names verb, resource and the rule to add; the rest of the chapter works."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from opslib.findings import Finding, Severity
from opslib.lab import player

if TYPE_CHECKING:
    from tests.conftest import RealLab


# everything that chapter 4.1 reads, by API group
RULES = {
    "": "pods pods/log events nodes namespaces services configmaps secrets serviceaccounts persistentvolumeclaims persistentvolumes "
    "resourcequotas",
    "apps": "deployments replicasets statefulsets daemonsets controllerrevisions",
    "batch": "jobs cronjobs",
    "autoscaling": "horizontalpodautoscalers",
    "networking.k8s.io": "ingresses ingressclasses",
    "discovery.k8s.io": "endpointslices",
    "storage.k8s.io": "storageclasses",
}
ROLE = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "all-but"}}
BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "all-but"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "all-but"},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody"}],
}


@pytest.fixture
def cluster(any_cluster: RealLab) -> Iterator[RealLab]:
    yield any_cluster
    player.reset(any_cluster.api, logs=any_cluster.logs)
    for obj in (BINDING, ROLE):
        any_cluster.api.delete(any_cluster.api.path_of(obj))


def allow(cluster: RealLab, *, but: str = "") -> None:
    """Let the user "nobody" read all that the chapter reads, except one resource."""
    rules = [
        {"apiGroups": [group], "resources": [name for name in names.split() if name != but], "verbs": ["get", "list"]}
        for group, names in RULES.items()
    ]
    cluster.api.apply({**ROLE, "rules": [rule for rule in rules if rule["resources"]]})
    cluster.api.apply(BINDING)


def gaps(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.check.startswith("gap.")]


def causes(found: list[Finding]) -> set[tuple[str, str]]:
    return {(finding.check, f"{finding.subject.kind}/{finding.subject.name}") for finding in found if not finding.check.startswith("gap.")}


def once(look: Callable[[], list[Finding]], there: Callable[[list[Finding]], bool]) -> list[Finding]:
    """What `look` sees once it is `there`; else, after a minute, what it sees then."""
    give_up = time.monotonic() + 60
    while not there(seen := look()) and time.monotonic() < give_up:
        pass
    return seen


def test_rights_that_suffice(cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    """The rules above are all that is needed: no gap, and the cause is found."""
    allow(cluster)
    player.apply_fault(cluster.api, "secret-key-missing", namespace="rights", logs=cluster.logs)
    found = diagnose(cluster, "lab-nobody", namespace="rights")
    assert causes(found) == {("config.key_missing", "Deployment/webhook-sender")}
    assert not gaps(found)


@pytest.mark.parametrize(
    ("resource", "fault", "verb"),
    [
        ("pods", "crash-loop", "list"),
        ("pods/log", "crash-loop", "get"),
        ("secrets", "secret-missing", "get"),
        ("configmaps", "config-map-missing", "get"),
        ("events", "image-not-found", "list"),
        ("deployments", "crash-loop", "list"),
        ("replicasets", "change-release-crashes", "list"),
        ("services", "service-selector-wrong", "list"),
        ("endpointslices", "service-selector-wrong", "list"),
        ("ingresses", "ingress-class-missing", "list"),
        ("horizontalpodautoscalers", "crash-loop", "list"),
        ("persistentvolumeclaims", "claim-pending", "list"),
        ("nodes", "crash-loop", "list"),
        ("jobs", "job-backoff-limit", "list"),
    ],
)
def test_missing_right_is_named(resource: str, fault: str, verb: str, cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    allow(cluster, but=resource)
    applied = player.apply_fault(cluster.api, fault, namespace="rights", logs=cluster.logs)
    expected = {one.subject for one in applied.expect}
    # The fault's healthy pods take a moment to be ready, on a busy machine several: until then they are findings of their own.
    found = once(
        lambda: diagnose(cluster, "lab-nobody", namespace="rights"),
        lambda seen: {subject for _check, subject in causes(seen)} <= expected,
    )
    named = [gap for gap in gaps(found) if f"{verb} {resource}" in str(gap.cause)]
    assert named, [f"{gap.title}: {gap.cause}" for gap in gaps(found)]
    group = next(group for group, names in RULES.items() if resource in names.split())
    step = named[0].steps[0]
    rule = json.loads(str(step.text)[str(step.text).index("{") :])
    assert (rule["apiGroups"], rule["resources"], verb in rule["verbs"]) == ([group], [resource], True)
    assert re.search(rf"--resource={resource}\b", step.command)
    assert all(gap.severity is Severity.UNKNOWN for gap in gaps(found))
    # what is left does not lie: the subject is still found where it can be, and nothing is invented
    assert {subject for _check, subject in causes(found)} <= expected
    if resource in ("pods/log", "secrets", "configmaps", "events", "horizontalpodautoscalers", "nodes", "persistentvolumeclaims"):
        assert {(one.check, one.subject) for one in applied.expect} <= causes(found)


def test_user_who_may_nothing(cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    player.apply_fault(cluster.api, "crash-loop", namespace="rights", logs=cluster.logs)
    found = diagnose(cluster, "lab-nobody", namespace="rights")
    assert causes(found) == set()
    assert any("pods" in str(gap.cause) for gap in gaps(found)), "no pods could be read, and it must say so"


def test_viewer_finds_causes_without_secrets(cluster: RealLab, diagnose: Callable[..., list[Finding]]) -> None:
    """The built-in view role may not read secrets, nodes and some more: each is a gap, none hides the cause."""
    player.apply_fault(cluster.api, "secret-missing", namespace="rights", logs=cluster.logs)
    found = diagnose(cluster, "lab-viewer", namespace="rights")
    assert causes(found) == {("config.secret_missing", "Deployment/account")}
    assert any("secrets" in str(gap.cause) for gap in gaps(found))
