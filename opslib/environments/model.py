"""What stands in an environment's file: every field, its type, what it means."""

from __future__ import annotations

import difflib
import os
import typing
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator

from opslib.errors import InputError
from opslib.messages import _, one_line


class Section(BaseModel):
    """A part of an environment's file. Nothing in it can be changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# No user name in it: a password would come with it, and would be shown wherever the address is.
HttpAddress = Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$")]
_SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
EnvironmentVariable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Kubernetes(Section):
    """The cluster, and what must be true of it before anything is believed or changed."""

    kubeconfig: Path | None = Field(
        None,
        description=(
            "Kubeconfig file, relative to this file; without it $KUBECONFIG, ~/.kube/config, or the service account of the pod that this "
            "runs in."
        ),
    )
    context: str | None = Field(None, description="Context in the kubeconfig; without it the current one.")
    expected_server: HttpAddress | None = Field(
        None, description="Address that the context must have: a mismatch stops everything in production."
    )
    expected_cluster_uid: str | None = Field(None, description="UID of the kube-system namespace, which identifies a cluster.")
    deadline_seconds: float = Field(10, gt=0, le=600, description="Time for one question, retries included.")

    @property
    def kubectl_options(self) -> tuple[str, ...]:
        """The options that lead kubectl to this cluster: of kubeconfig and context those that are named."""
        kubeconfig = ("--kubeconfig", str(self.kubeconfig)) if self.kubeconfig else ()
        return (*kubeconfig, *(("--context", self.context) if self.context else ()))


class HttpSystem(Section):
    """A system with an HTTP interface."""

    url: HttpAddress = Field(description="Base address, with any path prefix.")
    ca_file: Path | None = Field(None, description="CA bundle (PEM) to trust, relative to this file; without it the system's.")
    client_certificate: Path | None = Field(None, description="Client certificate (PEM).")
    client_key: Path | None = Field(None, description="Key of the client certificate (PEM).")
    username: str | None = Field(None, description="User name for basic authentication.")
    password_env: EnvironmentVariable | None = Field(None, description="Environment variable that holds the password.")
    token_env: EnvironmentVariable | None = Field(None, description="Environment variable that holds a bearer token.")
    proxy: HttpAddress | None = Field(None, description="HTTP proxy to go through; without it $HTTPS_PROXY and $NO_PROXY.")
    headers: dict[str, str] = Field(default_factory=dict, description="Further request headers, such as X-Scope-OrgID; no secrets.")
    deadline_seconds: float = Field(10, gt=0, le=600, description="Time for one question, retries included.")

    @field_validator("headers")
    @classmethod
    def _no_secret_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if name.lower() in _SECRET_HEADERS:
                raise ValueError(_("the header {name} holds a secret; use token_env, or username and password_env", name=name))
        return headers

    @model_validator(mode="after")
    def _whole_credentials(self) -> typing.Self:
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError(_("client_certificate and client_key belong together"))
        if (self.username is None) != (self.password_env is None):
            raise ValueError(_("username and password_env belong together"))
        if self.username is not None and self.token_env is not None:
            raise ValueError(_("either username and password_env, or token_env, not both"))
        return self

    def secret(self, variable: EnvironmentVariable | None) -> SecretStr | None:
        """The value of the environment variable that the file names; InputError where it is named and not set."""
        if variable is None:
            return None
        value = os.environ.get(variable)
        if not value:
            raise InputError(
                _("The environment variable {name} is not set", name=variable), _("Set it, for example"), f"export {variable}=…"
            )
        return SecretStr(value)


class Logs(HttpSystem):
    """Elasticsearch or OpenSearch with the application logs, and what its fields are called."""

    index: str = Field("logs-*", description="Index pattern of the application logs.")
    time_field: str = Field("@timestamp", description="Field with the time of a log line.")
    message_field: str = Field("message", description="Field with the text of a log line.")
    level_field: str = Field("log.level", description="Field (keyword) with the level.")
    error_levels: list[str] = Field(
        ["error", "ERROR", "fatal", "FATAL", "critical", "CRITICAL"], description="Levels that count as errors."
    )
    service_field: str = Field("service.name", description="Field (keyword) with the service.")
    version_field: str = Field(
        "service.version",
        description="Field (keyword) with the service's version; where no index has it, the tags of the pods' images tell.",
    )
    namespace_field: str = Field("kubernetes.namespace", description="Field (keyword) with the namespace.")
    pod_field: str = Field("kubernetes.pod.name", description="Field (keyword) with the pod.")


class Metrics(HttpSystem):
    """Prometheus, and what the application's own metrics are called."""

    requests_metric: str = Field("http_requests_total", description="Counter of requests, a sample a service.")
    service_label: str = Field("service", description="Label of that counter that names the service.")
    status_label: str = Field("code", description="Label of that counter with the HTTP status.")
    error_status: str = Field("5..", description="Statuses that are errors, as a regular expression.")
    latency_metric: str = Field("http_request_duration_seconds", description="Histogram of latency in seconds, without _bucket.")
    calls_metric: str = Field("istio_requests_total", description="Counter of requests between workloads; empty: there is none.")
    caller_label: str = Field("source_workload", description="Label of that counter with the workload that calls.")
    caller_namespace_label: str = Field("source_workload_namespace", description="Label of that counter with the caller's namespace.")
    callee_label: str = Field("destination_service_name", description="Label of that counter with the Service that is called.")
    callee_namespace_label: str = Field(
        "destination_service_namespace", description="Label of that counter with the namespace of the Service that is called."
    )
    namespace_label: str = Field("namespace", description="Label of the kubelet's container metrics (cAdvisor) that names the namespace.")
    pod_label: str = Field("pod", description="Label of the same that names the pod; older set-ups have pod_name.")
    container_label: str = Field("container", description="Label of the same that names the container; older set-ups have container_name.")
    state_prefix: str = Field(
        "",
        description=(
            "What precedes those labels' usual names in kube-state-metrics' metrics: exported_ where Prometheus does not honour its labels."
        ),
    )


class AwsPlace(Section):
    """Another region, or another account, with EKS clusters to look after."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="Region.")
    account: str | None = Field(
        None, pattern=r"^\d{12}$", description="Number of the account; without it the environment's own, unless role or profile is named."
    )
    profile: str | None = Field(None, description="Profile of the AWS configuration; without it the environment's own.")
    role: str | None = Field(
        None, pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/\S+$", description="ARN of a role to assume; without it the environment's own."
    )


class Aws(Section):
    """The AWS account, and what must be true of it before anything is believed or changed."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$", description="Region of the cluster.")
    account: str | None = Field(None, pattern=r"^\d{12}$", description="Number of the account: credentials of another one stop everything.")
    cluster: str | None = Field(None, description="Name of the EKS cluster.")
    profile: str | None = Field(None, description="Profile of the AWS configuration; without it the usual search for credentials.")
    role: str | None = Field(None, pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/\S+$", description="ARN of a role to assume.")
    credentials_file: Path | None = Field(
        None, description="Shared credentials file, relative to this file; without it $AWS_SHARED_CREDENTIALS_FILE or ~/.aws/credentials."
    )
    endpoint_url: HttpAddress | None = Field(None, description="Address that takes the place of AWS's own, as of the lab's account.")
    also: list[AwsPlace] = Field(default_factory=list, description="Other regions and accounts whose EKS clusters chapter 3.3 lists.")
    deadline_seconds: float = Field(10, gt=0, le=600, description="Time for one question, retries included.")

    def at(self, place: AwsPlace) -> Aws:
        """The settings with which another region or account is asked: what `place` does not say is as here, but for the cluster."""
        other = bool(place.profile or place.role)
        return self.model_copy(
            update={
                "region": place.region,
                "account": place.account or (None if other else self.account),
                "profile": place.profile or self.profile,
                "role": place.role if other else self.role,
                "cluster": None,
                "also": [],
            }
        )


class Velero(Section):
    """Velero, which backs the cluster up."""

    namespace: str = Field("velero", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="Namespace of its objects.")


class Terraform(Section):
    """Terraform, from which the infrastructure is made."""

    folder: Path = Field(description="Folder of this environment's root module, relative to this file.")


class Links(Section):
    """Pages for people; links open them at the right time range and query."""

    grafana: HttpAddress | None = Field(None, description="Grafana's base address.")
    grafana_datasource: str = Field("prometheus", description="UID of Grafana's Prometheus data source, for Explore links.")
    kibana: HttpAddress | None = Field(None, description="Kibana's (or OpenSearch Dashboards') base address.")
    aws_console: HttpAddress | None = Field(None, description="AWS console's address.")


Action = Literal["restart", "delete", "scale", "rollback", "image", "drain", "backup", "restore", "patch", "terraform", "exec", "silence"]
"""Kinds of changes, as approvals and plans name them."""


class Approval(Section):
    """What needs an approval, and who may give it."""

    required_for: list[Action] = Field(default_factory=list, description="Actions that need an approval.")
    approvers: list[str] = Field(default_factory=list, description="Who may approve.")
    other_than_requester: bool = Field(True, description="Whether the approver must differ from the requester.")
    valid_minutes: int = Field(60, gt=0, description="How long an approval holds.")
    identity: Literal["kubernetes", "login"] = Field(
        "kubernetes",
        description="How requesters and approvers are known: by the user that the cluster sees, or by the login name on this machine.",
    )

    @model_validator(mode="after")
    def _somebody_may_approve(self) -> typing.Self:
        if self.required_for and not self.approvers:
            raise ValueError(_("required_for is set, but approvers names nobody"))
        if self.required_for and self.other_than_requester and len(set(self.approvers)) < 2:
            raise ValueError(_("other_than_requester needs at least two approvers: one cannot approve their own request"))
        return self


class Limits(Section):
    """How far one plan may reach. What is larger has to be planned in parts."""

    pods: int = Field(50, gt=0, description="Pods that one plan may restart, move or remove.")
    nodes: int = Field(1, gt=0, description="Nodes that one plan may change.")
    namespaces: int = Field(1, gt=0, description="Namespaces in which one plan may change something.")


class Environment(Section):
    """One environment: dev, stg, prod, lab, or your own."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="Short name, the same as the file's.")
    title: str = Field("", description="Name for people.")
    production: bool = Field(False, description="Whether this is production: changes then need what `approval` says.")
    language: Literal["ja", "en"] = Field("ja", description="Language of reports; --lang overrides it.")
    timezone: str = Field("Asia/Tokyo", description="Zone in which times are shown.")
    addresses_file: Path | None = Field(
        None, description="File that a running lab writes with the addresses of its servers, relative to this file; it takes precedence."
    )
    kubernetes: Kubernetes = Field(default_factory=Kubernetes, description="The cluster.")
    prometheus: Metrics | None = Field(None, description="Prometheus.")
    alertmanager: HttpSystem | None = Field(None, description="Alertmanager.")
    elasticsearch: Logs | None = Field(None, description="Elasticsearch or OpenSearch.")
    aws: Aws | None = Field(None, description="The AWS account.")
    velero: Velero | None = Field(None, description="Velero, which backs the cluster up.")
    terraform: Terraform | None = Field(None, description="Terraform, from which the infrastructure is made.")
    links: Links = Field(default_factory=Links, description="Pages for people.")
    approval: Approval = Field(default_factory=Approval, description="What needs an approval.")
    limits: Limits = Field(default_factory=Limits, description="How far one plan may reach.")

    _source: Path | None = PrivateAttr(None)

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, name: str) -> str:
        known = available_timezones()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            if near:
                raise ValueError(_("{value} is not a time zone; the nearest is {near}", value=one_line(name), near=near[0]))
            raise ValueError(_("{value} is not a time zone, such as Asia/Tokyo", value=one_line(name)))
        return name

    @property
    def velero_namespace(self) -> str:
        """Namespace of Velero's objects."""
        return (self.velero or Velero()).namespace

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which times are shown."""
        return ZoneInfo(self.timezone)

    @property
    def source(self) -> Path | None:
        """The file that it was read from; None where it was made in memory."""
        return self._source
