"""What the lab's Velero works out without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from opslib.lab.velero import backups, restores, selection, times

NOW = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(("text", "seconds"), [("720h0m0s", 2_592_000), ("90m", 5400), ("1h30m", 5400), ("0.5s", 0.5), ("100ms", 0.1)])
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert times.duration(text).total_seconds() == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30d", "5", "h", "1h 30m", "-1h", "1h30"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        times.duration(text)


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("0 3 * * *", datetime(2026, 11, 25, 3, tzinfo=UTC)),
        ("*/20 * * * *", datetime(2026, 11, 24, 9, 40, tzinfo=UTC)),
        ("0 3 * * 0", datetime(2026, 11, 29, 3, tzinfo=UTC)),
        ("@daily", datetime(2026, 11, 25, tzinfo=UTC)),
        ("@every 6h", NOW + timedelta(hours=6)),
        ("CRON_TZ=Asia/Tokyo 0 3 * * *", datetime(2026, 11, 24, 18, tzinfo=UTC)),
    ],
)
def test_schedules_are_due_when_cron_says(schedule: str, due: datetime) -> None:
    assert times.next_due(schedule, NOW) == due


@pytest.mark.parametrize("schedule", ["", "every day", "0 3 * *", "0 25 * * *", "@every soon", "0 0 3 * * *", "TZ=Mars/Olympus 0 3 * * *"])
def test_schedules_that_cannot_be_read_are_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.next_due(schedule, NOW)


def test_lists_of_names_may_hold_patterns_and_exclusion_wins() -> None:
    names = frozenset({"deployments.apps", "deployments", "deployment", "deploy"})
    assert selection.includes(names, [], [])
    assert selection.includes(names, ["*"], [])
    assert selection.includes(names, ["deploy"], [])
    assert selection.includes(names, ["deployments.*"], [])
    assert not selection.includes(names, ["pods"], [])
    assert not selection.includes(names, ["*"], ["deployments.apps"])
    assert selection.namespaces({"includedNamespaces": ["shop*"], "excludedNamespaces": ["shop-test"]}, ["shop", "shop-test", "web"]) == [
        "shop"
    ]


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        (None, True),
        ({"matchLabels": {"app": "web"}}, True),
        ({"matchLabels": {"app": "cart"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "cart"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Near", "values": ["web"]}]}, False),
    ],
)
def test_label_selectors_match_as_the_api_servers_do(selector: dict[str, object] | None, matches: bool) -> None:
    assert selection.label_matches(selector, {"app": "web"}) is matches


def test_a_backup_that_contradicts_itself_names_every_reason() -> None:
    spec = {
        "includedNamespaces": ["shop"],
        "excludedNamespaces": ["shop"],
        "excludedResources": ["*"],
        "labelSelector": {"matchLabels": {"a": "b"}},
        "orLabelSelectors": [{}],
        "ttl": "30d",
    }
    found = backups.problems(spec, "nowhere", None, None)
    assert len(found) == 5
    assert "nowhere" in found[0]


def test_an_object_leaves_its_former_life_behind() -> None:
    service = {
        "metadata": {"name": "web", "namespace": "shop", "uid": "1", "resourceVersion": "2", "ownerReferences": [{}], "labels": {"a": "b"}},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80, "nodePort": 30080}]},
        "status": {"loadBalancer": {}},
    }
    fresh = restores.prepared("services", service, {"shop": "rehearsal"})
    assert fresh == {"metadata": {"name": "web", "namespace": "rehearsal", "labels": {"a": "b"}}, "spec": {"ports": [{"port": 80}]}}
    assert service["metadata"]["namespace"] == "shop"  # type: ignore[index]
    headless = {"metadata": {"name": "db", "namespace": "shop"}, "spec": {"clusterIP": "None", "clusterIPs": ["None"]}}
    assert restores.prepared("services", headless, {})["spec"] == headless["spec"]
    token = {"name": "kube-api-access-x7"}
    pod = {
        "metadata": {"name": "web-1", "namespace": "shop"},
        "spec": {
            "nodeName": "n",
            "volumes": [token, {"name": "data"}],
            "containers": [{"name": "c", "volumeMounts": [token, {"name": "data"}]}],
        },
    }
    assert restores.prepared("pods", pod, {})["spec"] == {
        "volumes": [{"name": "data"}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "data"}]}],
    }
    binding = {"metadata": {"name": "b", "namespace": "shop"}, "subjects": [{"name": "web", "namespace": "shop"}, {"name": "u"}]}
    bound = restores.prepared("rolebindings.rbac.authorization.k8s.io", binding, {"shop": "rehearsal"})
    assert [one.get("namespace") for one in bound["subjects"]] == ["rehearsal", None]
