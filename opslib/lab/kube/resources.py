"""Every resource that the server has: the built-in ones as a table, and those of the definitions that are in the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from opslib.lab.kube import schema
from opslib.lab.kube.errors import Object

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

# group version | plural kind short-names namespaced category subresources
_TABLE = """
- v1 | componentstatuses ComponentStatus cs - -
- v1 | configmaps ConfigMap cm ns -
- v1 | endpoints Endpoints ep ns -
- v1 | events Event ev ns -
- v1 | limitranges LimitRange limits ns -
- v1 | namespaces Namespace ns - - finalize,status
- v1 | nodes Node no - - proxy,status
- v1 | persistentvolumeclaims PersistentVolumeClaim pvc ns - status
- v1 | persistentvolumes PersistentVolume pv - - status
- v1 | pods Pod po ns all attach,binding,ephemeralcontainers,eviction,exec,log,portforward,proxy,resize,status
- v1 | podtemplates PodTemplate - ns -
- v1 | replicationcontrollers ReplicationController rc ns all scale,status
- v1 | resourcequotas ResourceQuota quota ns - status
- v1 | secrets Secret - ns -
- v1 | serviceaccounts ServiceAccount sa ns - token
- v1 | services Service svc ns all proxy,status
apiregistration.k8s.io v1 | apiservices APIService - - api-extensions status
apps v1 | controllerrevisions ControllerRevision - ns -
apps v1 | daemonsets DaemonSet ds ns all status
apps v1 | deployments Deployment deploy ns all scale,status
apps v1 | replicasets ReplicaSet rs ns all scale,status
apps v1 | statefulsets StatefulSet sts ns all scale,status
events.k8s.io v1 | events Event ev ns -
autoscaling v2 | horizontalpodautoscalers HorizontalPodAutoscaler hpa ns all status
batch v1 | cronjobs CronJob cj ns all status
batch v1 | jobs Job - ns all status
certificates.k8s.io v1 | certificatesigningrequests CertificateSigningRequest csr - - approval,status
networking.k8s.io v1 | ingressclasses IngressClass - - -
networking.k8s.io v1 | ingresses Ingress ing ns - status
networking.k8s.io v1 | ipaddresses IPAddress ip - -
networking.k8s.io v1 | networkpolicies NetworkPolicy netpol ns -
networking.k8s.io v1 | servicecidrs ServiceCIDR - - - status
policy v1 | poddisruptionbudgets PodDisruptionBudget pdb ns - status
rbac.authorization.k8s.io v1 | clusterrolebindings ClusterRoleBinding - - -
rbac.authorization.k8s.io v1 | clusterroles ClusterRole - - -
rbac.authorization.k8s.io v1 | rolebindings RoleBinding - ns -
rbac.authorization.k8s.io v1 | roles Role - ns -
storage.k8s.io v1 | csidrivers CSIDriver - - -
storage.k8s.io v1 | csinodes CSINode - - -
storage.k8s.io v1 | csistoragecapacities CSIStorageCapacity - ns -
storage.k8s.io v1 | storageclasses StorageClass sc - -
storage.k8s.io v1 | volumeattachments VolumeAttachment - - - status
storage.k8s.io v1 | volumeattributesclasses VolumeAttributesClass vac - -
admissionregistration.k8s.io v1 | mutatingadmissionpolicies MutatingAdmissionPolicy - - api-extensions
admissionregistration.k8s.io v1 | mutatingadmissionpolicybindings MutatingAdmissionPolicyBinding - - api-extensions
admissionregistration.k8s.io v1 | validatingadmissionpolicies ValidatingAdmissionPolicy - - api-extensions status
admissionregistration.k8s.io v1 | validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding - - api-extensions
admissionregistration.k8s.io v1 | mutatingwebhookconfigurations MutatingWebhookConfiguration - - api-extensions
admissionregistration.k8s.io v1 | validatingwebhookconfigurations ValidatingWebhookConfiguration - - api-extensions
apiextensions.k8s.io v1 | customresourcedefinitions CustomResourceDefinition crd,crds - api-extensions status
scheduling.k8s.io v1 | priorityclasses PriorityClass pc - -
coordination.k8s.io v1 | leases Lease - ns -
node.k8s.io v1 | runtimeclasses RuntimeClass - - -
discovery.k8s.io v1 | endpointslices EndpointSlice - ns -
"""
# reviews: created, never kept
_REVIEWS = """
authentication.k8s.io v1 | selfsubjectreviews SelfSubjectReview -
authentication.k8s.io v1 | tokenreviews TokenReview -
authorization.k8s.io v1 | localsubjectaccessreviews LocalSubjectAccessReview ns
authorization.k8s.io v1 | selfsubjectaccessreviews SelfSubjectAccessReview -
authorization.k8s.io v1 | selfsubjectrulesreviews SelfSubjectRulesReview -
authorization.k8s.io v1 | subjectaccessreviews SubjectAccessReview -
- v1 | bindings Binding ns
"""
GROUP_ORDER = (
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling", "batch",
    "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io",
    "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io",
    "discovery.k8s.io",
)  # fmt: skip

# fields that selectors may name, besides metadata.name and metadata.namespace: their path and what stands for none
FIELDS: dict[str, dict[str, str]] = {
    "pods": {
        "spec.nodeName": "", "spec.restartPolicy": "", "spec.schedulerName": "", "spec.serviceAccountName": "",
        "spec.hostNetwork": "false", "status.phase": "", "status.podIP": "", "status.podIPs": "", "status.nominatedNodeName": "",
    },
    "events": {
        "involvedObject.kind": "", "involvedObject.namespace": "", "involvedObject.name": "", "involvedObject.uid": "",
        "involvedObject.apiVersion": "", "involvedObject.resourceVersion": "", "involvedObject.fieldPath": "", "reason": "",
        "reportingComponent": "", "source": "", "type": "",
    },
    "nodes": {"spec.unschedulable": "false"},
    "namespaces": {"status.phase": ""},
    "secrets": {"type": ""},
    "services": {"spec.clusterIP": "", "spec.type": ""},
    "replicationcontrollers": {"status.replicas": "0"},
    "replicasets.apps": {"status.replicas": "0"},
    "jobs.batch": {"status.successful": "0"},
    "certificatesigningrequests.certificates.k8s.io": {"spec.signerName": ""},
}  # fmt: skip
_EVENT_FIELDS = {
    "regarding.kind": "involvedObject.kind", "regarding.namespace": "involvedObject.namespace", "regarding.name": "involvedObject.name",
    "regarding.uid": "involvedObject.uid", "regarding.apiVersion": "involvedObject.apiVersion",
    "regarding.resourceVersion": "involvedObject.resourceVersion", "regarding.fieldPath": "involvedObject.fieldPath",
    "reportingController": "reportingComponent",
}  # fmt: skip


@dataclass(frozen=True)
class Resource:
    """One resource in one version.

    Parameters
    ----------
    storage
        Under what name its objects are kept: events of both groups are the same objects.
    custom
        The definition's version entry, for a custom resource.
    remote
        Whether a server behind this one has the objects (`opslib.lab.kube.aggregation`).
    """

    group: str
    version: str
    plural: str
    kind: str
    singular: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    storage: str = ""
    list_kind: str = ""
    custom: Object | None = field(default=None, compare=False, hash=False)
    remote: bool = False

    @property
    def api_version(self) -> str:
        """ "apps/v1", "v1"."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """ "deployments.apps", "pods"."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def root(self) -> str:
        """ "/apis/apps/v1", "/api/v1"."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def selectable(self) -> tuple[str, ...]:
        """What a field selector may name."""
        names = ("metadata.name", "metadata.namespace")
        if self.custom is not None:
            return (*names, *(one["jsonPath"].lstrip(".") for one in self.custom.get("selectableFields") or ()))
        more = FIELDS.get(self.storage, {})
        if self.group == "events.k8s.io":
            return (*names, *_EVENT_FIELDS, "reason", "type")
        return (*names, *more)

    def field_alias(self, name: str) -> str:
        """The kept name of a selectable field."""
        return _EVENT_FIELDS.get(name, name) if self.group == "events.k8s.io" else name

    def node(self) -> schema.Node:
        """The schema of an object."""
        if self.custom is not None:
            definition = (self.custom.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
            return schema.from_definition(definition, root=True)
        return schema.struct(model_of(self.group, self.version, self.kind))

    @property
    def header(self) -> bytes:
        """The start of an object's JSON: its kind and version."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.api_version}",'.encode()


def model_of(group: str, version: str, kind: str) -> str:
    """The class of the package that describes a kind."""
    name = f"V{version[1:]}{kind}"
    special = {("", "Event"): "CoreV1Event", ("events.k8s.io", "Event"): "EventsV1Event", ("", "EndpointPort"): "CoreV1EndpointPort"}
    return special.get((group, kind), name)


def _resource(group: str, version: str, text: str) -> Resource:
    plural, kind, short, scope, category, *rest = text.split()
    subresources = tuple(rest[0].split(",")) if rest else ()
    name = f"{plural}.{group}" if group else plural
    verbs: tuple[str, ...] = ALL_VERBS
    if plural == "namespaces":
        verbs = tuple(verb for verb in ALL_VERBS if verb != "deletecollection")
    if plural == "componentstatuses":
        verbs = ("get", "list")
    return Resource(
        group=group,
        version=version,
        plural=plural,
        kind=kind,
        singular=kind.lower(),
        namespaced=scope == "ns",
        short_names=() if short == "-" else tuple(short.split(",")),
        categories=() if category == "-" else (category,),
        subresources=subresources,
        verbs=verbs,
        storage="events" if plural == "events" else name,
        list_kind=f"{kind}List",
    )


def _review(group: str, version: str, text: str) -> Resource:
    plural, kind, scope = text.split()
    return Resource(
        group=group,
        version=version,
        plural=plural,
        kind=kind,
        singular=kind.lower(),
        namespaced=scope == "ns",
        verbs=("create",),
        storage=f"{plural}.{group}" if group else plural,
        list_kind=f"{kind}List",
    )


def builtin() -> list[Resource]:
    """All built-in resources."""
    found = []
    for table, make in ((_TABLE, _resource), (_REVIEWS, _review)):
        for line in table.strip().split("\n"):
            place, _bar, text = line.partition(" | ")
            group, version = place.split()
            found.append(make("" if group == "-" else group, version, text))
    return found


def of_definition(definition: Object) -> list[Resource]:
    """The resources of a custom resource definition: one for each served version."""
    spec = definition["spec"]
    names = ((definition.get("status") or {}).get("acceptedNames")) or spec["names"]
    group, plural = spec["group"], names["plural"]
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        found.append(
            Resource(
                group=group,
                version=version["name"],
                plural=plural,
                kind=names["kind"],
                singular=names.get("singular") or names["kind"].lower(),
                namespaced=spec["scope"] == "Namespaced",
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                subresources=tuple(name for name in ("scale", "status") if name in subresources),
                storage=f"{plural}.{group}",
                list_kind=names.get("listKind") or f"{names['kind']}List",
                custom=version,
            )
        )
    return found


def _priority(version: str) -> tuple[int, int, int]:
    """Versions in order of preference: v2 before v1 before v1beta1 (k8s.io/apimachinery, pkg/version)."""
    import re

    match = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if not match:
        return (3, 0, 0)
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return (stage, -int(match[1]), -int(match[3] or 0))


class Registry:
    """The resources by group and version."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._all: dict[tuple[str, str, str], Resource] = {}
        self._by_storage: dict[str, Resource | None] = {}
        self.generation = 0
        for resource in resources:
            self.add(resource)

    def add(self, resource: Resource) -> None:
        """Serve a resource (in the place of the one of that name)."""
        self._all[(resource.group, resource.version, resource.plural)] = resource
        self._by_storage.clear()
        self.generation += 1

    def remove_custom(self, group: str, plural: str) -> None:
        """Serve a custom resource no longer."""
        for key in [key for key, one in self._all.items() if one.custom is not None and key[0] == group and key[2] == plural]:
            del self._all[key]
        self._by_storage.clear()
        self.generation += 1

    def remove_remote(self, group: str, version: str) -> None:
        """Serve no longer what a server behind this one had."""
        for key in [key for key, one in self._all.items() if one.remote and key[:2] == (group, version)]:
            del self._all[key]
        self._by_storage.clear()
        self.generation += 1

    def get(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource of that name."""
        return self._all.get((group, version, plural))

    def by_storage(self, storage: str) -> Resource | None:
        """The (preferred) resource whose objects are kept under that name."""
        if storage not in self._by_storage:
            found = [one for one in self._all.values() if one.storage == storage]
            first = min(found, key=lambda one: (one.group != "" and storage == "events", _priority(one.version))) if found else None
            self._by_storage[storage] = first
        return self._by_storage[storage]

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource of objects of that kind."""
        return next((one for one in self._all.values() if one.api_version == api_version and one.kind == kind and "get" in one.verbs), None)

    def find(self, group: str, plural: str) -> Resource | None:
        """The resource of that group and name in its preferred version."""
        found = [one for one in self._all.values() if one.group == group and one.plural == plural]
        return min(found, key=lambda one: _priority(one.version)) if found else None

    def groups(self) -> dict[str, list[str]]:
        """Groups with their versions, the preferred ones first."""
        versions: dict[str, set[str]] = {}
        for one in self._all.values():
            versions.setdefault(one.group, set()).add(one.version)
        order = {group: number for number, group in enumerate(GROUP_ORDER)}
        names = sorted(versions, key=lambda group: (order.get(group, len(order)), group))
        return {group: sorted(versions[group], key=_priority) for group in names}

    def of_version(self, group: str, version: str) -> list[Resource]:
        """The resources of a group's version, by name."""
        found = [one for one in self._all.values() if one.group == group and one.version == version]
        return sorted(found, key=lambda one: one.plural)

    def __iter__(self) -> Any:
        return iter([*self._all.values()])


def field_values(storage: str, custom: Object | None, obj: Object) -> dict[str, str]:
    """The values that field selectors compare."""
    metadata = obj["metadata"]
    values = {"metadata.name": metadata.get("name", ""), "metadata.namespace": metadata.get("namespace", "")}
    if custom is not None:
        paths = {one["jsonPath"].lstrip("."): "" for one in custom.get("selectableFields") or ()}
    else:
        paths = FIELDS.get(storage, {})
    for path, default in paths.items():
        values[path] = _value_at(obj, path, default)
    if storage == "jobs.batch":  # the selector's name is not the field's
        values["status.successful"] = _value_at(obj, "status.succeeded", "0")
    if storage == "events":
        source = obj.get("source") or {}
        values["source"] = source.get("component", "") or obj.get("reportingComponent", "")
    return values


def _value_at(obj: Object, path: str, default: str) -> str:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None or value == "":
        return default
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else default
