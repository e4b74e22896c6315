"""What every kind's fields are: read from the installed ``kubernetes`` package's models, as far as asked for.

The models' source is read as text (importing the package takes most of a second and is not needed). What they do not say (lists that are
merged by a key, whole numbers or text, which zero values are left out) stands in the tables here. Definitions of custom resources become
the same nodes.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# lists of objects that are merged by a key: kind.field, the keys of apply, the key of strategic merge patches
_MERGED = """
Container.env name name
Container.ports containerPort,protocol containerPort
Container.volumeDevices devicePath devicePath
Container.volumeMounts mountPath mountPath
ContainerStatus.allocatedResourcesStatus name name
ContainerStatus.volumeMounts mountPath mountPath
CSINodeSpec.drivers name name
APIServiceStatus.conditions type type
ComponentStatus.conditions type type
CertificateSigningRequestStatus.conditions type -
CustomResourceDefinitionStatus.conditions type -
DaemonSetStatus.conditions type type
DeploymentStatus.conditions type type
EphemeralContainer.env name name
EphemeralContainer.ports containerPort,protocol containerPort
EphemeralContainer.volumeDevices devicePath devicePath
EphemeralContainer.volumeMounts mountPath mountPath
HorizontalPodAutoscalerStatus.conditions type type
JSONSchemaProps.x-kubernetes-validations rule rule
JobStatus.conditions - type
MutatingWebhook.matchConditions name name
MutatingWebhookConfiguration.webhooks name name
NamespaceStatus.conditions type type
NodeStatus.addresses type type
NodeStatus.conditions type type
ObjectMeta.ownerReferences uid uid
PersistentVolumeClaimStatus.conditions type type
PodDisruptionBudgetStatus.conditions type type
PodSpec.containers name name
PodSpec.ephemeralContainers name name
PodSpec.hostAliases ip ip
PodSpec.imagePullSecrets name name
PodSpec.initContainers name name
PodSpec.resourceClaims name name
PodSpec.schedulingGates name name
PodSpec.topologySpreadConstraints topologyKey,whenUnsatisfiable topologyKey
PodSpec.volumes name name
PodStatus.conditions type type
PodStatus.hostIPs - ip
PodStatus.podIPs ip ip
PodStatus.resourceClaimStatuses name name
ReplicaSetStatus.conditions type type
ReplicationControllerStatus.conditions type type
ResourceRequirements.claims name -
ResourceStatus.resources resourceID -
ServiceAccount.secrets name name
ServiceCIDRStatus.conditions type type
ServiceSpec.ports port,protocol port
ServiceStatus.conditions type type
StatefulSetStatus.conditions type type
ValidatingWebhook.matchConditions name name
ValidatingWebhookConfiguration.webhooks name name
"""
_RETAIN_KEYS = {"PodStatus.resourceClaimStatuses", "PodSpec.volumes", "PodSpec.resourceClaims", "DeploymentSpec.strategy"}
_REPLACED = {"PodDisruptionBudgetSpec.selector"}
_MERGED_VALUES = {"ObjectMeta.finalizers", "NodeSpec.podCIDRs"}
_SETS = {
    "Endpoint.addresses",
    "CSIDriverSpec.volumeLifecycleModes",
    "PodFailurePolicyOnExitCodesRequirement.values",
    "ContainerRestartRuleOnExitCodes.values",
    "NodeAllocatableResourceClaimStatus.containers",
    "UncountedTerminatedPods.failed",
    "UncountedTerminatedPods.succeeded",
    *_MERGED_VALUES,
}
_ATOMIC = {
    "ConfigMapKeySelector", "EndpointAddress", "EndpointPort", "FileKeySelector", "LocalObjectReference", "NodeSelector",
    "NodeSelectorTerm", "ObjectFieldSelector", "ObjectReference", "PodSpec.nodeSelector", "ReplicationControllerSpec.selector",
    "ResourceFieldSelector", "ScopeSelector", "SecretKeySelector", "SecretReference", "ServiceSpec.selector",
    "TypedLocalObjectReference", "LabelSelector", "OwnerReference", "ServiceBackendPort",
    "Scheduling.nodeSelector", "RoleRef", "Subject", "TopologySelectorTerm",
}  # fmt: skip
_INT_OR_STRING = {
    "HTTPGetAction.port", "NetworkPolicyPort.port", "PodDisruptionBudgetSpec.maxUnavailable", "PodDisruptionBudgetSpec.minAvailable",
    "RollingUpdateDaemonSet.maxSurge", "RollingUpdateDaemonSet.maxUnavailable", "RollingUpdateDeployment.maxSurge",
    "RollingUpdateDeployment.maxUnavailable", "RollingUpdateStatefulSetStrategy.maxUnavailable", "ServicePort.targetPort",
    "TCPSocketAction.port",
}  # fmt: skip
_QUANTITIES = {
    "CSIStorageCapacity.capacity", "CSIStorageCapacity.maximumVolumeSize", "ContainerStatus.allocatedResources",
    "EmptyDirVolumeSource.sizeLimit", "LimitRangeItem.default", "LimitRangeItem.defaultRequest", "LimitRangeItem.max",
    "LimitRangeItem.maxLimitRequestRatio", "LimitRangeItem.min", "MetricTarget.averageValue", "MetricTarget.value",
    "MetricValueStatus.averageValue", "MetricValueStatus.value", "NodeStatus.allocatable", "NodeStatus.capacity", "Overhead.podFixed",
    "PersistentVolumeClaimStatus.allocatedResources", "PersistentVolumeClaimStatus.capacity", "PersistentVolumeSpec.capacity",
    "PodSpec.overhead", "ResourceFieldSelector.divisor", "ResourceQuotaSpec.hard", "ResourceQuotaStatus.hard",
    "ResourceQuotaStatus.used", "ResourceRequirements.limits", "ResourceRequirements.requests", "VolumeResourceRequirements.limits",
    "VolumeResourceRequirements.requests", "HPAScalingRules.tolerance",
}  # fmt: skip
_MICRO_TIMES = {"Event.eventTime", "EventSeries.lastObservedTime", "LeaseSpec.acquireTime", "LeaseSpec.renewTime"}
# numbers and texts that stand there even where nobody gave them, though the schema does not ask for them
_FILLED = {
    "StatefulSetStatus.availableReplicas", "PodDisruptionBudgetStatus.currentHealthy", "PodDisruptionBudgetStatus.desiredHealthy",
    "PodDisruptionBudgetStatus.disruptionsAllowed", "PodDisruptionBudgetStatus.expectedPods", "Event.reportingComponent",
    "Event.reportingInstance",
}  # fmt: skip
_INT64_NAMES = {
    "observedGeneration", "generation", "startingDeadlineSeconds", "sizeBytes", "gracePeriodSeconds", "activeDeadlineSeconds",
    "deletionGracePeriodSeconds", "runAsUser", "runAsGroup", "fsGroup", "terminationGracePeriodSeconds", "expirationSeconds",
    "tolerationSeconds", "seconds", "revision", "remainingItemCount", "maxItems", "maxLength", "maxProperties", "minItems",
    "minLength", "minProperties",
}  # fmt: skip
# zero values that say the same as no value, and are left out
_FALSE_DROPPED = {
    "readOnly", "stdin", "stdinOnce", "tty", "hostNetwork", "hostPID", "hostIPC", "publishNotReadyAddresses", "unschedulable", "paused",
    "globalDefault",
}  # fmt: skip
_ZERO_DROPPED = {
    "minReadySeconds", "initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold", "hostPort",
    "nodePort", "healthCheckNodePort", "observedGeneration", "readyReplicas", "availableReplicas", "updatedReplicas",
    "unavailableReplicas", "fullyLabeledReplicas", "currentReplicas", "updatedNumberScheduled", "numberAvailable", "numberUnavailable",
    "active", "succeeded", "failed", "count", "deprecatedCount", "signal", "generation", "sizeBytes",
}  # fmt: skip
_ZERO_KEPT = {"JobStatus.ready", "JobStatus.terminating", "DeploymentStatus.terminatingReplicas", "HPAScalingPolicy.periodSeconds"}
_EMPTY_KEPT = {  # texts of which the empty one says something else than none
    "storageClassName", "volumeAttributesClassName", "apiGroup", "runtimeClassName", "hostnameOverride", "loadBalancerClass",
    "ingressClassName", "timeZone", "managedBy", "holderIdentity", "preferredHolder", "appProtocol", "service", "nodeName@Endpoint",
    "zone", "trafficDistribution", "localhostProfile", "value@PodDNSConfigOption", "name@EndpointPort", "preemptionPolicy",
}  # fmt: skip
_STRUCTS_KEPT = {
    "NetworkPolicySpec.podSelector", "HorizontalPodAutoscalerSpec.scaleTargetRef", "StatefulSetSpec.template", "DaemonSetSpec.template",
    "JobSpec.template", "JobTemplateSpec.spec",  # parts that stand there even where they are empty
    "Container.resources", "EphemeralContainer.resources", "ServiceStatus.loadBalancer", "IngressStatus.loadBalancer",
    "DeploymentSpec.strategy", "StatefulSetSpec.updateStrategy", "DaemonSetSpec.updateStrategy", "PersistentVolumeClaimSpec.resources",
    "DeploymentSpec.template", "ReplicaSetSpec.template", "PodTemplateSpec.metadata", "PodTemplateSpec.spec", "ContainerStatus.state",
    "ContainerStatus.lastState", "NodeStatus.daemonEndpoints", "NodeStatus.nodeInfo", "JobTemplateSpec.metadata",
    "DaemonEndpoints.kubeletEndpoint", "NodeDaemonEndpoints.kubeletEndpoint", "Event.source", "CronJobSpec.jobTemplate",
}  # fmt: skip
# times that stand there even where there is none
_TIMES_KEPT = {
    "PersistentVolumeClaimCondition.lastProbeTime", "PersistentVolumeClaimCondition.lastTransitionTime",
    "ContainerStateRunning.startedAt", "ContainerStateTerminated.startedAt", "ContainerStateTerminated.finishedAt",
    "PodCondition.lastProbeTime", "PodCondition.lastTransitionTime", "ReplicationControllerCondition.lastTransitionTime",
    "NodeCondition.lastHeartbeatTime", "NodeCondition.lastTransitionTime", "NamespaceCondition.lastTransitionTime",
    "Event.firstTimestamp", "Event.lastTimestamp", "Event.eventTime", "EventSeries.lastObservedTime",
    "StatefulSetCondition.lastTransitionTime", "DeploymentCondition.lastUpdateTime", "DeploymentCondition.lastTransitionTime",
    "DaemonSetCondition.lastTransitionTime", "ReplicaSetCondition.lastTransitionTime", "JobCondition.lastProbeTime",
    "JobCondition.lastTransitionTime", "HorizontalPodAutoscalerCondition.lastTransitionTime", "VolumeError.time",
    "CertificateSigningRequestCondition.lastUpdateTime", "CertificateSigningRequestCondition.lastTransitionTime",
}  # fmt: skip
_MERGE_KEYS = {
    name: (tuple(keys.split(",")) if keys != "-" else (), key if key != "-" else "")
    for name, keys, key in (line.split() for line in _MERGED.split("\n") if line)
}


class Node:
    """What stands at one place of an object.

    Parameters
    ----------
    kind
        "string", "integer", "number", "boolean", "quantity", "int-or-string", "time", "microtime", "bytes", "any", "map", "list" or
        "struct".
    item
        What a map's or list's members are.
    model
        A struct's type: "PodSpec"; empty for a custom resource's.
    load
        Gives a struct's fields, when first asked.
    """

    __slots__ = (
        "_fields",
        "_load",
        "atomic",
        "description",
        "filled",
        "format",
        "identifier",
        "item",
        "keep_unknown",
        "keep_zero",
        "kind",
        "list_keys",
        "list_type",
        "merge_key",
        "model",
        "replaced",
        "required",
        "retain_keys",
        "rules",
        "struct_doc",
        "values_merged",
    )  # fmt: skip

    def __init__(self, kind: str, *, item: Node | None = None, model: str = "", load: Any = None, description: str = "") -> None:
        self.kind = kind
        self.item = item
        self.model = model
        self._load = load
        self._fields: dict[str, Node] | None = None
        self.description = description
        self.struct_doc = ""
        self.identifier = ""  # of the package's class
        self.required = False
        self.filled = False
        self.format = ""
        self.merge_key = ""
        self.list_keys: tuple[str, ...] = ()
        self.list_type = "atomic" if kind == "list" else ""
        self.atomic = False
        self.retain_keys = False
        self.replaced = False
        self.values_merged = False
        self.keep_unknown = False
        self.keep_zero = True
        self.rules: Mapping[str, Any] = {}

    @property
    def fields(self) -> dict[str, Node]:
        """A struct's fields by their names in JSON."""
        if self._fields is None:
            self._fields = self._load() if self._load is not None else {}
        return self._fields


ANY = Node("any")


def empty(node: Node, *, root: bool = True) -> dict[str, Any]:
    """What an object of the kind has in it when nothing has been said: the parts and zero values that always stand there."""
    made: dict[str, Any] = {}
    for name, one in node.fields.items():
        if one.kind == "struct" and (one.keep_zero or (root and name in ("metadata", "spec", "status"))):
            made[name] = empty(one, root=False)
        elif one.kind in ("time", "microtime"):
            if one.keep_zero:
                made[name] = None
        elif one.required and one.kind in ("list", "map"):
            made[name] = None
        elif one.filled and one.kind in ("integer", "boolean", "string"):
            made[name] = {"integer": 0, "boolean": False, "string": ""}[one.kind]
    return made


@functools.cache
def _folder() -> Path:
    spec = importlib.util.find_spec("kubernetes")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the kubernetes package is not installed")
    return Path(spec.submodule_search_locations[0]) / "client" / "models"


@functools.cache
def _files() -> dict[str, str]:
    """The file of each model's class."""
    text = (_folder() / "__init__.py").read_text("utf-8")
    return {name: file for file, name in re.findall(r"from kubernetes\.client\.models\.(\w+) import (\w+)", text)}


@functools.cache
def struct(identifier: str) -> Node:
    """The node of a model's class ("V1PodSpec")."""
    node = Node("struct", model=_title(identifier), load=functools.partial(_read_fields, identifier))
    node.identifier = identifier
    node.atomic = node.model in _ATOMIC
    return node


def known(identifier: str) -> bool:
    """Whether the package has a class of that name."""
    return identifier in _files()


def _title(identifier: str) -> str:
    """The type's own name: "PodSpec" of "V1PodSpec", "Event" of "CoreV1Event"."""
    return re.sub(
        r"^(?:Core|Events|Discovery|Networking|Storage|Authentication|Admissionregistration|Apiextensions|Apiregistration|Flowcontrol|Rbac)?V\d+(?:(?:alpha|beta)\d+)?(?=[A-Z])",
        "",
        identifier,
    )


@functools.cache
def _source(identifier: str) -> str:
    return (_folder() / f"{_files()[identifier]}.py").read_text("utf-8")


def _table(source: str, name: str) -> dict[str, str]:
    match = re.search(rf"^    {name}(?:: [^=\n]+)? = (\{{.*?\}})", source, re.MULTILINE | re.DOTALL)
    table: dict[str, str] = ast.literal_eval(match[1]) if match else {}
    return table


def struct_description(identifier: str) -> str:
    """What the package says of a type."""
    match = re.search(
        rf"^class {identifier}\b.*?\"\"\"\n?\s*(.*?)\n?\s*(?:\n\s*\n|Attributes:|\"\"\")", _source(identifier), re.MULTILINE | re.DOTALL
    )
    text = match[1].strip() if match else ""
    return "" if "auto generated by OpenAPI Generator" in text else text


def _read_fields(identifier: str) -> dict[str, Node]:
    source = _source(identifier)
    types, names = _table(source, "openapi_types"), _table(source, "attribute_map")
    title = _title(identifier)
    served = _served(identifier)
    fields: dict[str, Node] = {}
    for attribute, type_text in types.items():
        name = names[attribute]
        path = f"{title}.{name}"
        if served and name not in served and name not in ("apiVersion", "kind"):
            continue  # the package is of a newer release
        field = _field(type_text, path)
        declared = re.search(rf"^    {attribute}: (.*)$", source, re.MULTILINE)
        if declared:  # the package's newer models
            field.required = not declared[1].startswith("Optional")
            text = re.search(r'description=("(?:[^"\\]|\\.)*")', declared[1])
            field.description = ast.literal_eval(text[1]) if text else ""
        else:
            field.required = f"Invalid value for `{attribute}`, must not be `None`" in source
            text = re.search(rf"def {attribute}\(self\):\n\s+\"\"\"[^\n]*\n\n\s+(.*?)\s*# noqa", source, re.DOTALL)
            field.description = text[1] if text else ""
        field.required = field.required or path in _FILLED
        field.filled = field.required
        fields[name] = field
    return {name: fields[name] for name in sorted(fields)}


def _served(identifier: str) -> set[str]:
    from opslib.lab.kube import protobuf

    return protobuf.field_names(protobuf.message_name(struct(identifier)))


def _field(type_text: str, path: str) -> Node:
    name = path.rpartition(".")[2]
    node = _of_type(type_text, path)
    keys, merge_key = _MERGE_KEYS.get(path, ((), ""))
    if keys:
        node.list_type, node.list_keys = "map", keys
    elif path in _SETS:
        node.list_type = "set"
    node.merge_key = merge_key
    node.values_merged = path in _MERGED_VALUES
    node.retain_keys = path in _RETAIN_KEYS
    node.replaced = path in _REPLACED
    if path in _ATOMIC:
        node.atomic = True
    if node.kind == "boolean":
        node.keep_zero = name not in _FALSE_DROPPED
    elif node.kind == "integer":
        node.format = "int64" if name in _INT64_NAMES else "int32"
        node.keep_zero = name not in _ZERO_DROPPED or path in _ZERO_KEPT
    elif node.kind == "string":
        node.keep_zero = name in _EMPTY_KEPT or f"{name}@{path.partition('.')[0]}" in _EMPTY_KEPT
    elif node.kind in ("list", "map", "bytes"):
        node.keep_zero = False
    elif node.kind == "struct":
        node.keep_zero = path in _STRUCTS_KEPT
    elif node.kind in ("time", "microtime"):
        node.keep_zero = path in _TIMES_KEPT
    return node


def _of_type(type_text: str, path: str) -> Node:
    match = re.fullmatch(r"(?:[Ll]ist)\[(.*)\]", type_text)
    if match:
        return Node("list", item=_of_type(match[1], path))
    match = re.fullmatch(r"(?:[Dd]ict)[\[(]str, (.*)[\])]", type_text)
    if match:
        return Node("map", item=_of_type(match[1], path))
    if path in _INT_OR_STRING:
        return Node("int-or-string")
    if path in _QUANTITIES:
        return Node("quantity")
    simple = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "object": "any", "bytes": "bytes"}
    if type_text in simple:
        return Node(simple[type_text])
    if type_text == "datetime":
        return Node("microtime" if path in _MICRO_TIMES else "time")
    shared = struct(type_text)
    node = Node("struct", model=shared.model, load=lambda: shared.fields)
    node.identifier = type_text
    node.atomic = shared.atomic
    return node


# --- custom resources ---


def from_definition(schema: Mapping[str, Any], *, root: bool = False) -> Node:
    """The node of a custom resource definition's OpenAPI schema."""
    node = _from_definition(schema)
    if root:
        fields = dict(node.fields)
        for name in ("apiVersion", "kind"):
            fields[name] = Node("string")
        fields["metadata"] = struct("V1ObjectMeta")
        node._fields = fields
    return node


def _from_definition(schema: Mapping[str, Any]) -> Node:
    kind = schema.get("type", "")
    additional = schema.get("additionalProperties")
    if schema.get("x-kubernetes-int-or-string"):
        node = Node("int-or-string")
    elif kind == "object" and (isinstance(additional, Mapping) or additional is True) and not schema.get("properties"):
        node = Node("map", item=_from_definition(additional) if isinstance(additional, Mapping) else ANY)
        node.atomic = schema.get("x-kubernetes-map-type") == "atomic"
    elif kind == "object":
        node = Node("struct", load=lambda: {name: _from_definition(one) for name, one in (schema.get("properties") or {}).items()})
        node.atomic = schema.get("x-kubernetes-map-type") == "atomic"
        if schema.get("x-kubernetes-embedded-resource"):
            node.keep_unknown = True
    elif kind == "array":
        node = Node("list", item=_from_definition(schema.get("items") or {}))
        node.list_type = schema.get("x-kubernetes-list-type", "atomic")
        node.list_keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
    elif kind in ("string", "integer", "number", "boolean"):
        node = Node(kind)
        node.format = schema.get("format", "")
    else:
        node = Node("any")
    node.description = schema.get("description", "")
    node.keep_unknown = node.keep_unknown or bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    node.rules = schema
    return node
