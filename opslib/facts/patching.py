"""Reads what chapter 3.3 looks at: EKS through AWS, versions and budgets from the cluster, removed APIs from Prometheus and from who wrote
which object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opslib.diagnosis.patching.facts import DeprecatedApi, Facts, Parameters, Written, control_plane, target
from opslib.environments import Environment
from opslib.errors import InputError, NotFound, Refused, SourceError
from opslib.facts import Questions
from opslib.facts.sources import Sources
from opslib.findings import Subject
from opslib.messages import _, text_of
from opslib.sources.aws import Aws
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.objects import CustomResourceDefinition, DisruptionBudget, Node
from opslib.sources.terraform import Terraform
from opslib.sources.versions import NODE_GROUP, REMOVED

if TYPE_CHECKING:
    from opslib.environments import Aws as Settings


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 3.3, read from AWS, the cluster and Prometheus at once."""
    environment = sources.environment
    version = questions.ask(_("the API server's version"), lambda: sources.kubernetes.version())  # noqa: PLW0108 - connecting may fail, too
    nodes = questions.ask(_("nodes"), lambda: sources.kubernetes.list(Node, "nodes"))
    budgets = questions.ask(_("disruption budgets"), lambda: sources.kubernetes.list(DisruptionBudget, "poddisruptionbudgets.policy"))
    written = [
        questions.ask(_("who wrote objects of {resource}, and how", resource=resource), _written(sources, resource, removed))
        for resource, removed in REMOVED.items()
    ]
    stored = questions.ask(_("versions in which custom resources are stored"), lambda: _stored(sources.kubernetes))
    deprecated = questions.ask(_("deprecated APIs that are called"), lambda: _deprecated(sources))
    of_aws = questions.ask(
        _("EKS (versions, add-ons, node groups, insights)"), lambda: _eks(sources.aws, parameters, questions, version.get())
    )
    of_others = elsewhere(environment, questions)
    drift = questions.ask(_("what was changed outside Terraform"), lambda: _drift(environment)) if parameters.look_for_drift else None
    found, kept = nodes.get(), budgets.get()
    apis = deprecated.get()
    return Facts(
        now=datetime.now(UTC),
        environment=environment.name,
        zone=environment.zone,
        kubectl=environment.kubernetes.kubectl_options,
        region=environment.aws.region if environment.aws else "",
        terraform_folder=str(environment.terraform.folder) if environment.terraform else "",
        server_version=version.get(),
        kubelets=None if found is None else {one.metadata.name: one.status.node_info.kubelet_version for one in found},
        groups=None
        if found is None
        else {one.metadata.name: one.metadata.labels[NODE_GROUP] for one in found if NODE_GROUP in one.metadata.labels},
        budgets=None if kept is None else tuple(one for one in kept if not one.status.disruptions_allowed),
        deprecated=None if apis is None else tuple(apis),
        stored=stored.get(),
        written=tuple(one for answer in written for one in answer.get() or ()),
        elsewhere=of_others(),
        **(of_aws.get() or {}),
        **((drift.get() if drift is not None else None) or {}),
        gaps=questions.gaps,
    )


def elsewhere(environment: Environment, questions: Questions) -> Callable[[], dict[str, tuple[dict[str, Any], ...] | None]]:
    """Ask for the EKS clusters of all other regions and accounts of the environment at once; the answers, once they are wanted.

    They are by region and account (or the role or profile that leads there); None where it could not be looked at, and a gap says why.
    """
    asked = {}
    for place in environment.aws.also if environment.aws else ():
        settings = environment.aws.at(place)  # type: ignore[union-attr]
        name = f"{place.region}, {settings.account or place.role or place.profile or '-'}"
        asked[name] = questions.ask(_("EKS clusters"), _clusters_at(environment, settings), Subject("Region", name))
    return lambda: {name: None if (found := answer.get()) is None else tuple(found) for name, answer in asked.items()}


def _clusters_at(environment: Environment, settings: Settings) -> Callable[[], list[dict[str, Any]]]:
    def ask() -> list[dict[str, Any]]:
        try:
            aws = Aws.connect(environment.model_copy(update={"aws": settings}))
            aws.check_account()
        except InputError as error:  # no such profile, another account: the other regions are still looked at
            raise SourceError("aws", error.what, error.remedy, error.command) from error
        return aws.clusters()

    return ask


def _stored(cluster: Kubernetes) -> dict[str, tuple[str, ...]]:
    """The versions in which objects are stored and that nobody can ask for any more, by custom resource."""
    found = {}
    for one in cluster.iterate(CustomResourceDefinition, "customresourcedefinitions.apiextensions.k8s.io"):
        served = {version.name for version in one.spec.versions if version.served}
        if gone := tuple(version for version in one.status.stored_versions if version not in served):
            found[one.metadata.name] = gone
    return found


def _written(sources: Sources, resource: str, removed: Mapping[str, int]) -> Callable[[], list[Written]]:
    def ask() -> list[Written]:
        try:
            return written_through(sources.kubernetes, resource, removed)
        except NotFound:  # a cluster that has no such kind has no such objects
            return []

    return ask


def written_through(cluster: Kubernetes, resource: str, removed: Mapping[str, int]) -> list[Written]:
    """The objects of a resource whose last write by somebody went through one of these versions.

    Metadata alone is asked for. One writer may have several entries, since fields that did not change keep their older one; what the status
    was written through is its controller's affair.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for one in cluster.metadata_list(resource):
        by_time = sorted(one.metadata.managed_fields, key=lambda field: field.time.timestamp() if field.time else 0.0)
        newest = {field.manager: field.api_version for field in by_time if not field.subresource}
        name = "/".join(part for part in (one.metadata.namespace, one.metadata.name) if part)
        for manager, api in newest.items():
            if api in removed:
                found.setdefault(api, {}).setdefault(manager, []).append(name)
    return [
        Written(resource=resource, api=api, removed=removed[api], objects={manager: tuple(names) for manager, names in by.items()})
        for api, by in sorted(found.items())
    ]


def _drift(environment: Environment) -> dict[str, Any]:
    """The fields of `Facts` that come from Terraform. That somebody else has locked the state is an answer, too."""
    try:
        source = Terraform.connect(environment)
        source.init()
        return {"drift": tuple((one.address, one.action) for one in source.drift())}
    except Refused as error:
        return {"state_lock": text_of(error.what)}
    except InputError as error:  # not installed, or no configuration: what is missing of the environment is a gap here
        raise SourceError("terraform", error.what, error.remedy, error.command) from error


def _deprecated(sources: Sources) -> list[DeprecatedApi]:
    query = "group by (group, version, resource, removed_release) (apiserver_requested_deprecated_apis == 1)"
    frame = sources.prometheus.query(query)
    return [
        DeprecatedApi(**{name: str(row.get(name) or "") for name in ("group", "version", "resource", "removed_release")})
        for row in frame.to_dict("records")
    ]


def _eks(aws: Aws, parameters: Parameters, questions: Questions, server_version: str | None) -> dict[str, Any]:
    """The fields of `Facts` that come from EKS."""
    aws.check_account()
    cluster = aws.cluster()
    lists = {
        "versions": questions.ask(_("the versions that EKS offers"), aws.cluster_versions),
        "addons": questions.ask(_("add-ons"), aws.addons),
        "node_groups": questions.ask(_("node groups"), aws.node_groups),
        "insights": questions.ask(_("upgrade insights"), aws.insights),
    }
    known = Facts(now=datetime.now(UTC), environment="", server_version=server_version, cluster=cluster)
    wanted = [one for one in dict.fromkeys((control_plane(known), target(known, parameters))) if one]
    offers = {one: questions.ask(_("add-on versions for Kubernetes {version}", version=one), _offer(aws, one)) for one in wanted}
    answers = {name: answer.get() for name, answer in lists.items()}
    found = {one: answer.get() for one, answer in offers.items()}
    return {
        "cluster": cluster,
        **{name: None if one is None else tuple(one) for name, one in answers.items()},
        "addon_versions": {one: tuple(versions) for one, versions in found.items() if versions is not None},
    }


def _offer(aws: Aws, version: str) -> Any:
    return lambda: aws.addon_versions(version)
