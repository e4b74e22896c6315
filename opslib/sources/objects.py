"""Kubernetes objects, only as far as opslib reads them.

Undeclared fields are skipped while decoding, which is what keeps memory small: managed fields, most of a real pod, are never built. Every
field has a default, since an object may lack any of them; `convert` also takes the nulls that Go writes for empty lists.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import msgspec

from opslib.sources.decoding import decoder

T = TypeVar("T")


class Base(msgspec.Struct, rename="camel", kw_only=True, omit_defaults=True):
    """Names in camel case on the wire, snake case here."""


class OwnerReference(Base):
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Metadata(Base):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    finalizers: list[str] = []
    owner_references: list[OwnerReference] = []


class Condition(Base):
    """A condition of any kind of object; the probe and heartbeat times are of pods and nodes."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None
    last_heartbeat_time: datetime | None = None


# --- pods -----------------------------------------------------------------------------------------------------------------------------


class StateWaiting(Base):
    reason: str = ""
    message: str = ""


class StateRunning(Base):
    started_at: datetime | None = None


class StateTerminated(Base):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ContainerState(Base):
    waiting: StateWaiting | None = None
    running: StateRunning | None = None
    terminated: StateTerminated | None = None


class ContainerStatus(Base):
    name: str = ""
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    last_state: ContainerState = msgspec.field(default_factory=ContainerState)


class SecretKeyRef(Base):
    """Also a ConfigMap's key, which has the same shape."""

    name: str = ""
    key: str = ""
    optional: bool = False


class EnvVarSource(Base):
    config_map_key_ref: SecretKeyRef | None = None
    secret_key_ref: SecretKeyRef | None = None


class EnvVar(Base):
    """Only where its value comes from: a literal value may be a secret and is not read."""

    name: str = ""
    value_from: EnvVarSource | None = None


class EnvFromSource(Base):
    config_map_ref: SecretKeyRef | None = None
    secret_ref: SecretKeyRef | None = None


class HTTPGet(Base):
    path: str = ""
    port: int | str = 0
    scheme: str = ""


class PortAction(Base):
    port: int | str = 0
    service: str = ""


class ExecAction(Base):
    command: list[str] = []


class Probe(Base):
    http_get: HTTPGet | None = None
    tcp_socket: PortAction | None = None
    grpc: PortAction | None = None
    exec: ExecAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3


class Resources(Base):
    """Quantities as Kubernetes writes them ("500m", "1Gi")."""

    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class ContainerPort(Base):
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    protocol: str = "TCP"


class VolumeMount(Base):
    name: str = ""
    mount_path: str = ""
    sub_path: str = ""


class Container(Base):
    name: str = ""
    image: str = ""
    image_pull_policy: str = ""
    command: list[str] = []
    args: list[str] = []
    ports: list[ContainerPort] = []
    env: list[EnvVar] = []
    env_from: list[EnvFromSource] = []
    resources: Resources = msgspec.field(default_factory=Resources)
    volume_mounts: list[VolumeMount] = []
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    restart_policy: str = ""  # "Always" makes an init container a sidecar


class NamedReference(Base):
    name: str = ""
    optional: bool = False


class ConfigMapVolume(Base):
    name: str = ""
    optional: bool = False
    items: list[SecretKeyRef] = []


class SecretVolume(Base):
    secret_name: str = ""
    optional: bool = False
    items: list[SecretKeyRef] = []


class ClaimVolume(Base):
    claim_name: str = ""


class Volume(Base):
    name: str = ""
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None
    empty_dir: dict[str, Any] | None = None
    host_path: dict[str, Any] | None = None


class Toleration(Base):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


class PodSpec(Base):
    node_name: str = ""
    service_account_name: str = ""
    restart_policy: str = ""
    termination_grace_period_seconds: int | None = None
    priority_class_name: str = ""
    scheduler_name: str = ""
    host_network: bool = False
    init_containers: list[Container] = []
    containers: list[Container] = []
    volumes: list[Volume] = []
    node_selector: dict[str, str] = {}
    affinity: dict[str, Any] | None = None
    topology_spread_constraints: list[dict[str, Any]] = []
    tolerations: list[Toleration] = []
    image_pull_secrets: list[NamedReference] = []
    readiness_gates: list[dict[str, Any]] = []
    scheduling_gates: list[NamedReference] = []


class PodStatus(Base):
    phase: str = ""
    reason: str = ""
    message: str = ""
    start_time: datetime | None = None
    conditions: list[Condition] = []
    init_container_statuses: list[ContainerStatus] = []
    container_statuses: list[ContainerStatus] = []
    host_ip: str = msgspec.field(default="", name="hostIP")
    pod_ip: str = msgspec.field(default="", name="podIP")
    qos_class: str = msgspec.field(default="", name="qosClass")


class Pod(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


# --- events ---------------------------------------------------------------------------------------------------------------------------


class ObjectReference(Base):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    field_path: str = ""


class EventSource(Base):
    component: str = ""
    host: str = ""


class EventSeries(Base):
    count: int = 0
    last_observed_time: datetime | None = None


class Event(Base):
    """A core/v1 event; `seen` and `times` fold the two ways in which repeats are written."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    involved_object: ObjectReference = msgspec.field(default_factory=ObjectReference)
    reason: str = ""
    message: str = ""
    type: str = ""
    count: int = 0
    first_timestamp: datetime | None = None
    last_timestamp: datetime | None = None
    event_time: datetime | None = None
    series: EventSeries | None = None
    source: EventSource = msgspec.field(default_factory=EventSource)
    reporting_component: str = ""

    @property
    def seen(self) -> datetime | None:
        """When it was last seen."""
        series = self.series.last_observed_time if self.series else None
        return series or self.last_timestamp or self.event_time or self.first_timestamp or self.metadata.creation_timestamp

    @property
    def times(self) -> int:
        """How often it was seen."""
        return max(self.series.count if self.series else 0, self.count, 1)


# --- workloads ------------------------------------------------------------------------------------------------------------------------


class LabelSelector(Base):
    match_labels: dict[str, str] = {}
    match_expressions: list[dict[str, Any]] = []


class PodTemplate(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)


class WorkloadSpec(Base):
    """Of a Deployment, ReplicaSet, StatefulSet, DaemonSet or Job, as far as they share it."""

    replicas: int | None = None
    selector: LabelSelector = msgspec.field(default_factory=LabelSelector)
    template: PodTemplate = msgspec.field(default_factory=PodTemplate)
    paused: bool = False
    suspend: bool = False
    progress_deadline_seconds: int | None = None
    backoff_limit: int | None = None
    active_deadline_seconds: int | None = None
    completions: int | None = None
    parallelism: int | None = None
    service_name: str = ""


class WorkloadStatus(Base):
    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    desired_number_scheduled: int = 0
    number_ready: int = 0
    number_unavailable: int = 0
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    start_time: datetime | None = None
    last_successful_time: datetime | None = None  # of a CronJob
    conditions: list[Condition] = []


class Workload(Base):
    """`kind` is set by the reader, since items of a list lack it."""

    kind: str = ""
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: WorkloadSpec = msgspec.field(default_factory=WorkloadSpec)
    status: WorkloadStatus = msgspec.field(default_factory=WorkloadStatus)


class Taint(Base):
    key: str = ""
    value: str = ""
    effect: str = ""
    time_added: datetime | None = None


class NodeSpec(Base):
    unschedulable: bool = False
    taints: list[Taint] = []
    provider_id: str = msgspec.field(default="", name="providerID")


class NodeInfo(Base):
    kubelet_version: str = ""
    architecture: str = ""
    operating_system: str = ""
    os_image: str = ""
    container_runtime_version: str = ""


class NodeStatus(Base):
    capacity: dict[str, str | int | float] = {}
    allocatable: dict[str, str | int | float] = {}
    conditions: list[Condition] = []
    node_info: NodeInfo = msgspec.field(default_factory=NodeInfo)


class Node(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class ManagedField(Base):
    """Who wrote to an object last, and when; which fields is not read."""

    manager: str = ""
    operation: str = ""
    api_version: str = ""
    time: datetime | None = None
    subresource: str = ""


class ObjectMetadata(Metadata):
    """Metadata with the times of the last writes, for objects that are read one by one."""

    managed_fields: list[ManagedField] = []


class Object(Base):
    """Any object, its metadata only: for existence, and for Secrets, whose content is never read."""

    kind: str = ""
    metadata: ObjectMetadata = msgspec.field(default_factory=ObjectMetadata)


class ConfigMap(Base):
    """Names of its keys only matter; values are kept out of findings."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}


# --- storage --------------------------------------------------------------------------------------------------------------------------


class ClaimSpec(Base):
    storage_class_name: str | None = None
    volume_name: str = ""
    volume_mode: str = ""
    access_modes: list[str] = []
    resources: Resources = msgspec.field(default_factory=Resources)


class ClaimStatus(Base):
    phase: str = ""
    capacity: dict[str, str | int | float] = {}
    conditions: list[Condition] = []


class Claim(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: ClaimSpec = msgspec.field(default_factory=ClaimSpec)
    status: ClaimStatus = msgspec.field(default_factory=ClaimStatus)


class PersistentVolumeSpec(Base):
    storage_class_name: str = ""
    access_modes: list[str] = []
    capacity: dict[str, str | int | float] = {}
    claim_ref: ObjectReference | None = None
    node_affinity: dict[str, Any] | None = None


class PersistentVolumeStatus(Base):
    phase: str = ""
    reason: str = ""
    message: str = ""


class PersistentVolume(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: PersistentVolumeSpec = msgspec.field(default_factory=PersistentVolumeSpec)
    status: PersistentVolumeStatus = msgspec.field(default_factory=PersistentVolumeStatus)


class StorageClass(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    provisioner: str = ""
    volume_binding_mode: str = ""
    allow_volume_expansion: bool = False


# --- network --------------------------------------------------------------------------------------------------------------------------


class ServicePort(Base):
    name: str = ""
    port: int = 0
    target_port: int | str = 0
    protocol: str = "TCP"


class ServiceSpec(Base):
    type: str = ""
    selector: dict[str, str] = {}
    ports: list[ServicePort] = []
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    external_name: str = ""


class Service(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)


class EndpointConditions(Base):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(Base):
    addresses: list[str] = []
    conditions: EndpointConditions = msgspec.field(default_factory=EndpointConditions)
    target_ref: ObjectReference | None = None


class EndpointSlice(Base):
    """The Service is named by the label kubernetes.io/service-name."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    endpoints: list[Endpoint] = []


class BackendPort(Base):
    name: str = ""
    number: int = 0


class BackendService(Base):
    name: str = ""
    port: BackendPort = msgspec.field(default_factory=BackendPort)


class Backend(Base):
    service: BackendService | None = None


class IngressPath(Base):
    path: str = ""
    backend: Backend = msgspec.field(default_factory=Backend)


class IngressHTTP(Base):
    paths: list[IngressPath] = []


class IngressRule(Base):
    host: str = ""
    http: IngressHTTP | None = None


class IngressTLS(Base):
    hosts: list[str] = []
    secret_name: str = ""


class IngressSpec(Base):
    ingress_class_name: str | None = None
    default_backend: Backend | None = None
    rules: list[IngressRule] = []
    tls: list[IngressTLS] = []


class Ingress(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: IngressSpec = msgspec.field(default_factory=IngressSpec)


# --- scaling and quotas ---------------------------------------------------------------------------------------------------------------


class ScaleTarget(Base):
    kind: str = ""
    name: str = ""


class AutoscalerSpec(Base):
    min_replicas: int | None = None
    max_replicas: int = 0
    scale_target_ref: ScaleTarget = msgspec.field(default_factory=ScaleTarget)


class AutoscalerStatus(Base):
    current_replicas: int = 0
    desired_replicas: int = 0
    conditions: list[Condition] = []


class Autoscaler(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: AutoscalerSpec = msgspec.field(default_factory=AutoscalerSpec)
    status: AutoscalerStatus = msgspec.field(default_factory=AutoscalerStatus)


class QuotaStatus(Base):
    hard: dict[str, str | int | float] = {}
    used: dict[str, str | int | float] = {}


class Quota(Base):
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    status: QuotaStatus = msgspec.field(default_factory=QuotaStatus)


# --- reading them ---------------------------------------------------------------------------------------------------------------------


def convert(content: Any, kind: type[T]) -> T:
    """Decoded JSON or YAML as `kind`; nulls count as absent.

    Raises
    ------
    msgspec.ValidationError
        A field has another type than Kubernetes gives it.
    """
    decoder(kind)  # learns the class, alone
    return msgspec.convert(_without_nulls(content), kind, strict=False)


def _without_nulls(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_nulls(value) for name, value in content.items() if value is not None}
    return [_without_nulls(item) for item in content] if isinstance(content, list) else content


class BudgetStatus(Base):
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0


class DisruptionBudget(Base):
    """A PodDisruptionBudget."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    status: BudgetStatus = msgspec.field(default_factory=BudgetStatus)


class CustomVersion(Base):
    """A version of a custom resource."""

    name: str = ""
    served: bool = False


class CustomSpec(Base):
    versions: list[CustomVersion] = []


class CustomStatus(Base):
    stored_versions: list[str] = []


class CustomResourceDefinition(Base):
    """A CustomResourceDefinition, as far as its versions go; the schemas are not read."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)
    spec: CustomSpec = msgspec.field(default_factory=CustomSpec)
    status: CustomStatus = msgspec.field(default_factory=CustomStatus)
