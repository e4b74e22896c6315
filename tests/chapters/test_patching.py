"""Chapter 3.3 on small facts: every rule with what it must find and what it must leave alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.chapters import patching
from opslib.diagnosis.patching.facts import DeprecatedApi, Facts, Parameters, Written, ordered
from opslib.findings import Finding, Severity
from opslib.sources.objects import DisruptionBudget, convert
from opslib.sources.versions import default_of, minor

NOW = datetime(2026, 4, 10, 12, 0, tzinfo=UTC)
PARAMETERS = Parameters()


def offer(name: str, *versions: tuple[str, str]) -> dict[str, Any]:
    """An add-on with versions, and for which Kubernetes each is the default (empty: for none)."""
    return {
        "addonName": name,
        "addonVersions": [
            {"addonVersion": version, "compatibilities": [{"clusterVersion": default or "1.0", "defaultVersion": bool(default)}]}
            for version, default in versions
        ],
    }


def facts(**fields: Any) -> Facts:
    """A cluster that is well and up to date: each test breaks one thing."""
    well: dict[str, Any] = {
        "server_version": "v1.35.2-eks-1", "kubelets": {"a": "v1.35.1-eks-1", "b": "v1.35.1-eks-1"}, "groups": {"a": "main", "b": "main"},
        "budgets": (), "deprecated": (), "cluster": {"name": "shop", "version": "1.35"},
        "versions": tuple(
            {
                "clusterVersion": version,
                "endOfStandardSupportDate": NOW + timedelta(days=days),
                "endOfExtendedSupportDate": NOW + timedelta(days=days + 365),
            }
            for version, days in (("1.34", 240), ("1.35", 365), ("1.36", 480))
        ),
        "addons": ({"addonName": "coredns", "addonVersion": "v1.12.0-eksbuild.1", "status": "ACTIVE"},),
        "addon_versions": {
            "1.35": (offer("coredns", ("v1.12.0-eksbuild.1", "1.35")),),
            "1.36": (offer("coredns", ("v1.13.0-eksbuild.1", "1.36"), ("v1.12.0-eksbuild.1", "")),),
        },
        "node_groups": ({"nodegroupName": "main", "version": "1.35", "status": "ACTIVE"},),
        "insights": ({"name": "Kubelet version skew", "insightStatus": {"status": "PASSING"}},),
    }  # fmt: skip
    return Facts(now=NOW, environment="lab", **{**well, **fields})


def found(check: str, parameters: Parameters = PARAMETERS, **fields: Any) -> list[Finding]:
    return [finding for finding in patching.findings(facts(**fields), parameters) if finding.check == check]


def test_nothing_is_found_where_all_is_well() -> None:
    assert patching.findings(facts(), PARAMETERS) == []


def test_what_was_not_read_is_not_judged() -> None:
    nothing = Facts(now=NOW, environment="lab")
    assert patching.findings(nothing, PARAMETERS) == []
    for table in (
        patching.versions_table(nothing), patching.addons_table(nothing, PARAMETERS), patching.node_groups_table(nothing),
        patching.kubelets_table(nothing), patching.work_table(nothing, PARAMETERS),
    ):  # fmt: skip
        assert table.empty == patching.NOT_READ, table.name


@pytest.mark.parametrize(
    ("standard", "extended", "severity"),
    [(100, 465, Severity.WARNING), (-10, 355, Severity.WARNING), (-300, 65, Severity.CRITICAL), (181, 546, None)],
)
def test_the_end_of_support(standard: int, extended: int, severity: Severity | None) -> None:
    row = {
        "clusterVersion": "1.35",
        "endOfStandardSupportDate": NOW + timedelta(days=standard),
        "endOfExtendedSupportDate": NOW + timedelta(days=extended),
    }
    assert [one.severity for one in found("versions.support", versions=(row,))] == ([] if severity is None else [severity])


def test_a_version_is_not_skipped_nor_gone_back_from() -> None:
    assert found("versions.skips", Parameters(target_version="1.37"))
    assert found("versions.skips", Parameters(target_version="1.34"))
    assert not found("versions.skips", Parameters(target_version="1.36"))
    assert found("versions.not_offered", Parameters(target_version="1.36"), versions=({"clusterVersion": "1.35"},))


def test_removed_apis_that_are_called() -> None:
    api = DeprecatedApi(group="flowcontrol.apiserver.k8s.io", version="v1beta3", resource="flowschemas", removed_release="1.36")
    [finding] = found("versions.removed_api", deprecated=(api,))
    assert finding.severity is Severity.CRITICAL
    assert finding.subject.name == "flowschemas.v1beta3.flowcontrol.apiserver.k8s.io"
    [finding] = found("versions.removed_api", Parameters(target_version="1.35"), deprecated=(api,))
    assert finding.severity is Severity.INFO


def test_objects_that_were_last_written_through_a_removed_api() -> None:
    hpa = "horizontalpodautoscalers.autoscaling"
    writers = {"helm": ("shop/a", "shop/b"), "kubectl-client-side-apply": ("shop/b",)}
    gone = Written(resource=hpa, api="autoscaling/v2beta2", removed=26, objects=writers)
    [finding] = found("versions.written", written=(gone,))
    assert (finding.severity, finding.subject.name) == (Severity.WARNING, f"{hpa} autoscaling/v2beta2")
    assert [one.name for one in finding.affected] == ["shop/a", "shop/b"]
    assert "2 objects" in finding.title.text("en") and "1.26" in finding.title.text("en")
    assert [str(one.text) for one in finding.evidence] == ["helm wrote shop/a, shop/b", "kubectl-client-side-apply wrote shop/b"]
    later = Written(resource="servicecidrs.networking.k8s.io", api="networking.k8s.io/v1beta1", removed=37, objects={"helm": ("wide",)})
    [finding] = found("versions.written", written=(later,))
    assert finding.severity is Severity.INFO


def test_clusters_in_other_regions_are_judged_by_their_version_and_what_could_not_be_looked_at_is_said() -> None:
    old = {"name": "batch", "arn": "arn:aws:eks:eu-west-1:1:cluster/batch", "version": "1.33", "status": "ACTIVE"}
    versions = ({"clusterVersion": "1.33", "endOfStandardSupportDate": NOW - timedelta(days=3)},)
    known = facts(versions=versions, elsewhere={"eu-west-1": (old,), "us-east-1": None, "ap-northeast-3": ()})
    [finding] = [one for one in patching.findings(known, PARAMETERS) if one.check == "versions.support"]
    assert finding.subject.name == old["arn"]
    assert finding.steps[0].command == ""
    table = patching.elsewhere_table(known)
    assert [(row[0], row[1], row[2]) for row in table.rows] == [
        (Severity.WARNING, "eu-west-1", "batch"), (Severity.UNKNOWN, "us-east-1", None), (Severity.OK, "ap-northeast-3", None),
    ]  # fmt: skip


def test_versions_that_are_stored_and_not_served_any_more() -> None:
    [finding] = found("versions.stored", stored={"certificates.cert-manager.io": ("v1alpha2", "v1beta1")})
    assert finding.subject.name == "certificates.cert-manager.io"
    assert "v1alpha2" in str(finding.title) and "v1beta1" in str(finding.title)
    assert finding.steps[-1].changes
    assert not found("versions.stored", stored={})


def test_insights_that_do_not_pass() -> None:
    insight = {
        "name": "EKS add-on version compatibility",
        "insightStatus": {"status": "ERROR", "reason": "too old"},
        "kubernetesVersion": "1.36",
        "resources": [{"arn": "arn:aws:eks:r:1:addon/shop/coredns"}],
    }
    [finding] = found("versions.insight", insights=(insight,))
    assert (finding.severity, finding.cause) == (Severity.CRITICAL, "too old")
    assert finding.affected[0].name == "arn:aws:eks:r:1:addon/shop/coredns"


def test_addons() -> None:
    bad = {
        "addonName": "coredns",
        "addonVersion": "v1.12.0-eksbuild.1",
        "status": "DEGRADED",
        "health": {"issues": [{"message": "no pods"}]},
    }
    [finding] = found("addons.unwell", addons=(bad,))
    assert finding.cause == "no pods"
    versions = {"1.35": (offer("coredns", ("v1.12.0-eksbuild.1", "1.35")),), "1.36": (offer("coredns", ("v1.13.0-eksbuild.1", "1.36")),)}
    [finding] = found("addons.incompatible", addon_versions=versions)
    assert "v1.13.0-eksbuild.1" in finding.steps[0].command
    versions = {"1.35": (offer("coredns", ("v1.12.0-eksbuild.12", "1.35"), ("v1.12.0-eksbuild.1", "")),)}
    [finding] = found("addons.outdated", addon_versions=versions)
    assert finding.severity is Severity.INFO


def test_node_groups() -> None:
    [finding] = found("nodes.group_behind", node_groups=({"nodegroupName": "main", "version": "1.33", "status": "ACTIVE"},))
    assert finding.severity is Severity.WARNING
    [finding] = found("nodes.group_behind", node_groups=({"nodegroupName": "main", "version": "1.31", "status": "ACTIVE"},))
    assert finding.severity is Severity.CRITICAL
    [finding] = found("nodes.group_unwell", node_groups=({"nodegroupName": "main", "version": "1.35", "status": "DEGRADED"},))
    assert finding.severity is Severity.CRITICAL


@pytest.mark.parametrize(
    ("version", "check"),
    [("v1.36.0", "nodes.ahead"), ("v1.31.0", "nodes.too_old"), ("v1.32.0", "nodes.would_be_too_old"), ("v1.33.0", None), ("unknown", None)],
)
def test_kubelets(version: str, check: str | None) -> None:
    of_nodes = [one.check for one in patching.findings(facts(kubelets={"a": version}), PARAMETERS) if one.check.startswith("nodes.")]
    assert of_nodes == ([check] if check else [])


def test_budgets_without_room() -> None:
    def budget(**status: int) -> DisruptionBudget:
        return convert({"metadata": {"name": "checkout", "namespace": "shop"}, "status": status}, DisruptionBudget)

    [finding] = found("nodes.budget", budgets=(budget(disruptionsAllowed=0, expectedPods=2, currentHealthy=2, desiredHealthy=2),))
    assert str(finding.subject) == "shop/PodDisruptionBudget/checkout"
    assert not found("nodes.budget", budgets=(budget(disruptionsAllowed=1, expectedPods=2), budget(disruptionsAllowed=0, expectedPods=0)))


def test_what_terraform_says() -> None:
    [finding] = found("terraform.drift", terraform_folder="terraform/prod", drift=(("aws_db_instance.main", "update"),))
    assert "-refresh-only" in (finding.steps[0].command or "")
    assert [str(one.name) for one in finding.affected] == ["aws_db_instance.main"]
    [finding] = found("terraform.locked", terraform_folder="terraform/prod", state_lock="Who: naoki@desk")
    assert finding.evidence[0].quote == "Who: naoki@desk"
    assert not found("terraform.drift", drift=()) and not found("terraform.drift", drift=None) and not found("terraform.locked")


def test_the_order_of_work() -> None:
    rows = patching.work_table(facts(), PARAMETERS).frame()
    assert list(rows["step"]) == [1, 2, 3]
    assert list(rows["then"]) == ["1.36", "v1.13.0-eksbuild.1", "1.36"]
    assert list(rows["how"]) == [
        "opslib plan control-plane --version 1.36 --env lab",
        "opslib plan addon coredns --version v1.13.0-eksbuild.1 --env lab",
        "opslib plan node-group main --version 1.36 --env lab",
    ]
    managed = patching.work_table(facts(terraform_folder="terraform/lab"), PARAMETERS).frame()
    assert managed["how"][0] == "opslib plan terraform --env lab --var kubernetes_version=1.36"
    assert list(patching.kubelets_table(facts()).frame()["behind"]) == [0]
    assert list(patching.node_groups_table(facts()).frame()["nodes"]) == [2]


@given(st.integers(0, 99), st.integers(0, 99))
def test_versions_are_read_and_ordered_by_their_numbers(one: int, other: int) -> None:
    assert minor(f"v1.{one}.3-eks-abc") == minor(f"1.{one}") == one
    assert (ordered(f"v1.{one}.0-eksbuild.1") < ordered(f"v1.{other}.0-eksbuild.1")) == (one < other)
    assert default_of([], "1.35") == ""
    assert minor("latest") is None
