"""What happens to an object between decoding and storing: values that the server sets itself, admission, and quotas.

Of the admission plugins that are on by default: NamespaceLifecycle, ServiceAccount, LimitRanger, DefaultTolerationSeconds, Priority,
TaintNodesByCondition, DefaultStorageClass, StorageObjectInUseProtection, ResourceQuota; and the allocation of service addresses.
`opslib.lab.kube.webhooks` has the webhooks.
"""

from __future__ import annotations

import copy
import ipaddress
import secrets
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from opslib.lab.kube import defaults, errors, guards, quantities
from opslib.lab.kube.errors import Object, forbidden, not_found
from opslib.lab.kube.resources import Registry, Resource
from opslib.lab.kube.store import Store

if TYPE_CHECKING:
    from opslib.lab.kube.objects import Options

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105
_FIXED_NAMESPACES = ("default", "kube-system", "kube-public")
QUOTAS = "resourcequotas"


def prepare(resource: Resource, obj: Object) -> None:
    """Values that the server alone sets, at creation."""
    storage = resource.storage
    if storage == "pods":
        obj["status"] = {"phase": "Pending"}
    elif storage == "namespaces":
        finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
        if "kubernetes" not in finalizers:
            finalizers.append("kubernetes")
        obj["status"] = {"phase": "Active"}
    elif storage == "jobs.batch":
        _prepare_job(obj)
    elif storage == "persistentvolumes":
        obj["status"] = {"phase": "Pending", "lastPhaseTransitionTime": obj["metadata"]["creationTimestamp"]}
    elif storage == "nodes":
        _taint_new_node(obj)
    protect(resource, obj)


def protect(resource: Resource, obj: Object) -> None:
    """Keep volumes and claims from going while they are used (StorageObjectInUseProtection)."""
    name = {"persistentvolumeclaims": "kubernetes.io/pvc-protection", "persistentvolumes": "kubernetes.io/pv-protection"}.get(
        resource.storage
    )
    finalizers = obj["metadata"].get("finalizers") or []
    if name and name not in finalizers:
        obj["metadata"]["finalizers"] = [*finalizers, name]


def prepare_update(resource: Resource, live: Object, obj: Object) -> None:
    """The same at an update: parts that stay as they are."""
    spec, before = obj.get("spec") or {}, live.get("spec") or {}
    if resource.storage == "services":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"):
            if not spec.get(name) and before.get(name) and spec.get("type") != "ExternalName":
                spec[name] = before[name]
        ports = {(port.get("port"), port.get("protocol", "TCP")): port.get("nodePort") for port in before.get("ports") or []}
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            for port in spec.get("ports") or []:
                known = ports.get((port.get("port"), port.get("protocol", "TCP")))
                if not port.get("nodePort") and known:
                    port["nodePort"] = known
    elif resource.storage == "pods":
        for name in ("nodeName", "priority", "tolerations", "serviceAccountName"):
            if name not in spec and name in before:
                spec[name] = before[name]


def number_template(live: Object, obj: Object) -> None:
    """Count the templates of a daemon set; nobody else may (``daemonSetStrategy.PrepareForUpdate``)."""
    name = "deprecated.daemonset.template.generation"
    number = int((live["metadata"].get("annotations") or {}).get(name, "1"))
    changed = live["spec"]["template"] != obj["spec"]["template"]
    obj["metadata"]["annotations"] = {**(obj["metadata"].get("annotations") or {}), name: str(number + changed)}


def _asked_name(metadata: Object) -> str:
    """What refusals call a new object that come before the server has made a name of generateName."""
    name, prefix = str(metadata.get("name") or ""), str(metadata.get("generateName") or "")
    made = bool(prefix) and name.startswith(prefix[:58]) and len(name) == len(prefix[:58]) + 5
    return prefix if made else name


def _prepare_job(obj: Object) -> None:
    spec, metadata = obj.setdefault("spec", {}), obj["metadata"]
    if spec.get("manualSelector"):
        return
    uid = metadata["uid"]
    labels = spec.setdefault("template", {}).setdefault("metadata", {}).setdefault("labels", {})
    labels["controller-uid"] = labels["batch.kubernetes.io/controller-uid"] = uid
    labels["job-name"] = labels["batch.kubernetes.io/job-name"] = metadata["name"]
    if not obj["metadata"].get("labels"):
        obj["metadata"]["labels"] = dict(labels)
    if not spec.get("selector"):
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}


def _taint_new_node(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    taints = spec.setdefault("taints", [])
    if not any(one.get("key") == "node.kubernetes.io/not-ready" for one in taints):
        taints.append({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"})


class World:
    """What admission knows of the rest of the cluster, and does in it.

    Parameters
    ----------
    service_range
        The addresses of services.
    on_change
        Called with (what, resource, object) after each change: "created", "updated" or "deleted".
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        service_range: str = "10.96.0.0/16",
        on_change: Callable[[str, Resource, Object], None] | None = None,
    ) -> None:
        self._store = store
        self._registry = registry
        self._network = ipaddress.ip_network(service_range)
        self._addresses: set[str] | None = None
        self._node_ports: set[int] | None = None
        self._on_change = on_change or (lambda what, resource, obj: None)

    # --- admission ---

    def admit_create(self, resource: Resource, obj: Object, options: Options) -> None:
        """Let a new object pass, and put in what belongs to it.

        Raises
        ------
        Refused
            It may not be created now.
        """
        if resource.namespaced:
            self._check_namespace(resource, obj)
        if resource.storage == "pods":
            self.complete_pod(obj)
        elif resource.storage == "services":
            self.allocate(obj, None, dry_run=options.dry_run)
        elif resource.storage == "persistentvolumeclaims":
            self._default_class(obj)

    def complete_again(self, resource: Resource, obj: Object) -> None:
        """Put in once more what belongs to a new object, which a webhook has changed."""
        if resource.storage == "pods":
            self.complete_pod(obj)

    def guard(self, resource: Resource, obj: Object) -> None:
        """See that a new pod keeps to its namespace's pod security level.

        Raises
        ------
        Refused
            It does not.
        """
        if resource.storage == "pods":
            space = self._store.get("namespaces", ("", obj["metadata"].get("namespace", "")))
            guards.pod_security(obj, space.labels if space is not None else {})

    def admit_update(self, resource: Resource, live: Object, obj: Object, options: Options, subresource: str) -> None:
        """The same for a change."""
        if resource.storage == "services" and not subresource:
            self.allocate(obj, live, dry_run=options.dry_run)
        if resource.storage == "persistentvolumeclaims" and not subresource:
            self._check_growth(live, obj)

    def _check_growth(self, live: Object, obj: Object) -> None:
        """A claim may grow where its class allows it (``PersistentVolumeClaimResize``)."""
        before, wanted = (quantities.parse(str(one["spec"]["resources"]["requests"]["storage"])) for one in (live, obj))
        if wanted <= before:
            return
        why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
        found = self._store.get("storageclasses.storage.k8s.io", ("", live["spec"].get("storageClassName") or ""))
        if (live.get("status") or {}).get("phase") != "Bound":
            why = "Only bound persistent volume claims can be expanded"
        elif found is not None and found.object().get("allowVolumeExpansion"):
            return
        raise forbidden("", "persistentvolumeclaims", obj["metadata"]["name"], why)

    def admit_delete(self, resource: Resource, live: Object) -> None:
        """The same for a deletion."""
        name = live["metadata"].get("name", "")
        if resource.storage == "namespaces" and name in _FIXED_NAMESPACES:
            raise forbidden("", "namespaces", name, "this namespace may not be deleted")

    def _check_namespace(self, resource: Resource, obj: Object) -> None:
        name = obj["metadata"].get("namespace", "")
        record = self._store.get("namespaces", ("", name))
        if record is None:
            raise not_found("", "namespaces", name)
        if record.fields.get("status.phase") == "Terminating":
            why = f"unable to create new content in namespace {name} because it is being terminated"
            error = forbidden(resource.group, resource.plural, _asked_name(obj["metadata"]), why)
            cause = {"reason": "NamespaceTerminating", "message": f"namespace {name} is being terminated", "field": "metadata.namespace"}
            error.details = {**(error.details or {}), "causes": [cause]}
            raise error

    def complete_pod(self, obj: Object) -> None:
        """Give a pod what admission gives each."""
        spec, metadata = obj.setdefault("spec", {}), obj["metadata"]
        mirror = "kubernetes.io/config.mirror" in (metadata.get("annotations") or {})
        if not mirror:
            self._service_account(obj)
        self._limit_ranges(obj)
        self._priority(obj)
        tolerations = spec.setdefault("tolerations", [])
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
            if not any(one.get("key") in (key, None, "") and one.get("effect") in ("NoExecute", None, "") for one in tolerations):
                tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})
        if not tolerations:
            del spec["tolerations"]
        obj["status"]["qosClass"] = defaults.quality_of_service(spec)
        if spec.get("schedulingGates"):
            why = {"reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates"}
            gated = {"type": "PodScheduled", "status": "False", "lastProbeTime": None, "lastTransitionTime": None, **why}
            others = [one for one in obj["status"].get("conditions") or [] if one.get("type") != "PodScheduled"]
            obj["status"]["conditions"] = [*others, gated]

    def _service_account(self, obj: Object) -> None:
        spec, metadata = obj["spec"], obj["metadata"]
        name = spec.get("serviceAccountName") or "default"
        record = self._store.get("serviceaccounts", (metadata["namespace"], name))
        if record is None:
            why = f'error looking up service account {metadata["namespace"]}/{name}: serviceaccount "{name}" not found'
            raise forbidden("", "pods", _asked_name(metadata), why)
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = record.object()
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = copy.deepcopy(account["imagePullSecrets"])
        automount = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        if not automount:
            return
        volumes = spec.setdefault("volumes", [])
        volume = next((one["name"] for one in volumes if one.get("name", "").startswith("kube-api-access-")), "")
        mounted = False
        volume = volume or "kube-api-access-" + "".join(secrets.choice(_ALPHABET) for _ in range(5))
        for kind in ("containers", "initContainers"):
            for container in spec.get(kind) or []:
                mounts = container.setdefault("volumeMounts", [])
                if not any(one.get("mountPath") == _TOKEN_PATH for one in mounts):
                    mounts.append({"name": volume, "readOnly": True, "mountPath": _TOKEN_PATH})
                    mounted = True
        if mounted and not any(one.get("name") == volume for one in volumes):
            volumes.append({"name": volume, "projected": {"defaultMode": 420, "sources": copy.deepcopy(_SOURCES)}})
        if not volumes:
            del spec["volumes"]

    def _priority(self, obj: Object) -> None:
        spec, metadata = obj["spec"], obj["metadata"]
        name = spec.get("priorityClassName", "")
        value, policy = 0, "PreemptLowerPriority"
        if name:
            record = self._store.get("priorityclasses.scheduling.k8s.io", ("", name))
            if record is None:
                raise forbidden("", "pods", _asked_name(metadata), f"no PriorityClass with name {name} was found")
            found = record.object()
            value, policy = found.get("value", 0), found.get("preemptionPolicy", policy)
        else:
            for record in self._store.records("priorityclasses.scheduling.k8s.io"):
                found = record.object()
                if found.get("globalDefault"):
                    spec["priorityClassName"] = record.name
                    value, policy = found.get("value", 0), found.get("preemptionPolicy", policy)
        spec.setdefault("priority", value)
        spec.setdefault("preemptionPolicy", policy)

    def _limit_ranges(self, obj: Object) -> None:
        namespace = obj["metadata"]["namespace"]
        problems: list[str] = []
        for record in self._store.records("limitranges", namespace):
            for item in (record.object().get("spec") or {}).get("limits") or []:
                if item.get("type") == "Container":
                    self._limit_containers(obj, item, problems)
        if problems:
            words = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
            raise forbidden("", "pods", obj["metadata"].get("name", ""), words)

    def _limit_containers(self, obj: Object, item: Object, problems: list[str]) -> None:
        notes = []
        for kind in ("containers", "initContainers"):
            for container in obj["spec"].get(kind) or []:
                resources = container.setdefault("resources", {})
                label = "container" if kind == "containers" else "init container"
                for part, given in (("limits", item.get("default") or {}), ("requests", item.get("defaultRequest") or {})):
                    added = [name for name in sorted(given) if name not in (resources.get(part) or {})]
                    for name in added:
                        resources.setdefault(part, {})[name] = given[name]
                    if added:
                        noun = "limit" if part == "limits" else "request"
                        notes.append(f"{', '.join(added)} {noun} for {label} {container.get('name')}")
                limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
                for name, bound in sorted((item.get("max") or {}).items()):
                    if name not in limits:
                        problems.append(f"maximum {name} usage per Container is {bound}.  No limit is specified")
                    elif quantities.parse(limits[name]) > quantities.parse(bound):
                        problems.append(f"maximum {name} usage per Container is {bound}, but limit is {limits[name]}")
                for name, bound in sorted((item.get("min") or {}).items()):
                    if name not in requests:
                        problems.append(f"minimum {name} usage per Container is {bound}.  No request is specified")
                    elif quantities.parse(requests[name]) < quantities.parse(bound):
                        problems.append(f"minimum {name} usage per Container is {bound}, but request is {requests[name]}")
        if notes:
            text = f"LimitRanger plugin set: {'; '.join(notes)}"
            obj["metadata"].setdefault("annotations", {})["kubernetes.io/limit-ranger"] = text

    def _default_class(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if spec.get("storageClassName") is not None:
            return
        for record in self._store.records("storageclasses.storage.k8s.io"):
            found = record.object()
            if (found["metadata"].get("annotations") or {}).get("storageclass.kubernetes.io/is-default-class") == "true":
                spec["storageClassName"] = record.name
                return

    # --- services' addresses ---

    def _known_addresses(self) -> tuple[set[str], set[int]]:
        if self._addresses is None or self._node_ports is None:
            self._addresses, self._node_ports = set(), set()
            for record in self._store.records("services"):
                spec = record.object().get("spec") or {}
                self._addresses.update(one for one in spec.get("clusterIPs") or [] if one != "None")
                self._node_ports.update(port["nodePort"] for port in spec.get("ports") or [] if port.get("nodePort"))
        return self._addresses, self._node_ports

    def allocate(self, obj: Object, live: Object | None = None, *, dry_run: bool = False) -> None:
        """Give a service its addresses and ports."""
        spec = obj["spec"]
        addresses, node_ports = self._known_addresses()
        name = obj["metadata"].get("name", "")
        before = (live or {}).get("spec") or {}
        if spec.get("type") == "ExternalName":
            for one in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(one, None)
            return
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        wanted = spec.get("clusterIP")
        if wanted == "None":
            spec["clusterIPs"] = ["None"]
        elif wanted:
            if wanted != before.get("clusterIP"):
                self._claim(name, wanted, addresses)
            spec["clusterIPs"] = [wanted]
        else:
            wanted = next(str(one) for one in self._free(addresses))
            spec["clusterIP"] = wanted
            spec["clusterIPs"] = [wanted]
        if wanted not in (None, "None") and not dry_run:
            addresses.add(wanted)
        if spec.get("type") not in ("NodePort", "LoadBalancer"):
            for port in spec.get("ports") or []:
                port.pop("nodePort", None)
            return
        mine = {port.get("nodePort") for port in before.get("ports") or []}
        for index, port in enumerate(spec.get("ports") or []):
            given = port.get("nodePort")
            if given:
                if given in node_ports and given not in mine:
                    path = f"spec.ports[{index}].nodePort"
                    problem = errors.invalid(path, given, "provided port is already allocated")
                    raise errors.invalid_object("", "Service", name, [problem])
            else:
                free = [one for one in range(30000, 32768) if one not in node_ports]
                port["nodePort"] = given = secrets.choice(free)
            if not dry_run:
                node_ports.add(given)

    def _free(self, addresses: set[str]) -> Any:
        hosts = self._network.num_addresses
        while True:
            candidate = self._network.network_address + 2 + secrets.randbelow(hosts - 3)
            if str(candidate) not in addresses:
                yield candidate

    def _claim(self, name: str, wanted: str, addresses: set[str]) -> None:
        try:
            address = ipaddress.ip_address(wanted)
        except ValueError:
            why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            raise errors.invalid_object("", "Service", name, [errors.invalid("spec.clusterIPs[0]", [wanted], why)]) from None
        if address not in self._network:
            why = (
                "failed to allocate IP "
                f"{wanted}: the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {self._network}"
            )
            raise errors.invalid_object("", "Service", name, [errors.invalid("spec.clusterIPs", [wanted], why)])
        if wanted in addresses:
            why = f"failed to allocate IP {wanted}: provided IP is already allocated"
            raise errors.invalid_object("", "Service", name, [errors.invalid("spec.clusterIPs", [wanted], why)])

    # --- after the change ---

    def created(self, resource: Resource, obj: Object) -> None:
        """Called when an object has been stored."""
        self._on_change("created", resource, obj)
        self._recount_after(resource, obj)

    def updated(self, resource: Resource, live: Object, obj: Object) -> None:
        """Called when an object has been changed."""
        if resource.storage == "services" and (live.get("spec") or {}) != (obj.get("spec") or {}):
            self._addresses = self._node_ports = None
        self._on_change("updated", resource, obj)
        if (resource.storage == QUOTAS and live.get("spec") != obj.get("spec")) or (
            resource.storage == "pods" and (live.get("status") or {}).get("phase") != (obj.get("status") or {}).get("phase")
        ):
            self._recount_after(resource, obj)

    def deleted(self, resource: Resource, obj: Object) -> None:
        """Called when an object is gone."""
        if resource.storage == "services":
            self._addresses = self._node_ports = None
        self._on_change("deleted", resource, obj)
        if resource.storage != QUOTAS:
            self._recount_after(resource, obj)

    # --- quotas ---

    def check_quota(self, resource: Resource, obj: Object, live: Object | None, *, charge: bool) -> None:
        """Refuse what a quota of the namespace does not allow.

        Raises
        ------
        Refused
            403.
        """
        namespace = obj["metadata"].get("namespace")
        if not namespace or resource.storage == QUOTAS or live is not None:
            return
        wanted = _usage(resource, obj)
        for record in self._store.records(QUOTAS, namespace):
            quota = record.object()
            if not _in_scope(quota, resource, obj):
                continue
            status = quota.get("status") or {}
            hard, used = status.get("hard") or {}, status.get("used") or {}
            if resource.storage == "pods":
                self._check_stated(record.name, hard, obj)
            over = {}
            for name, amount in wanted.items():
                if name in hard and quantities.parse(used.get(name, "0")) + amount > quantities.parse(hard[name]):
                    over[name] = amount
            if over:
                names = sorted(over)
                asked = ",".join(f"{name}={_written(name, over[name])}" for name in names)
                now = ",".join(f"{name}={used.get(name, '0')}" for name in names)
                bound = ",".join(f"{name}={hard[name]}" for name in names)
                why = f"exceeded quota: {record.name}, requested: {asked}, used: {now}, limited: {bound}"
                raise forbidden(resource.group, resource.plural, obj["metadata"].get("name", ""), why)

    @staticmethod
    def _check_stated(quota: str, hard: Object, obj: Object) -> None:
        missing: dict[str, list[str]] = {}
        for container in (obj["spec"].get("containers") or []) + (obj["spec"].get("initContainers") or []):
            resources = container.get("resources") or {}
            for name in hard:
                part, _dot, what = name.partition(".") if "." in name else ("requests", ".", name)
                if part in ("requests", "limits") and what in ("cpu", "memory") and what not in (resources.get(part) or {}):
                    missing.setdefault(name, []).append(container.get("name", ""))
        if missing:
            words = "; ".join(f"{name} for: {','.join(sorted(set(containers)))}" for name, containers in sorted(missing.items()))
            raise forbidden("", "pods", obj["metadata"].get("name", ""), f"failed quota: {quota}: must specify {words}")

    def _recount_after(self, resource: Resource, obj: Object) -> None:
        namespace = obj["metadata"].get("namespace")
        if namespace:
            for record in self._store.records(QUOTAS, namespace):
                self.recount(namespace, record.name)

    def recount(self, namespace: str, name: str) -> None:
        """Write a quota's status from what there is."""
        record = self._store.get(QUOTAS, (namespace, name))
        if record is None:
            return
        quota = record.object()
        hard = (quota.get("spec") or {}).get("hard") or {}
        used: dict[str, Decimal] = {one: Decimal(0) for one in hard}
        for storage in self._store.resources():
            resource = self._registry.by_storage(storage)
            if resource is None or not resource.namespaced or not _counts(storage, hard):
                continue
            for one in self._store.records(storage, namespace):
                obj = one.object()
                if storage == "pods" and (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                    continue
                if not _in_scope(quota, resource, obj):
                    continue
                for what, amount in _usage(resource, obj).items():
                    if what in used:
                        used[what] += amount
        quota["status"] = {"hard": dict(hard), "used": {one: _written(one, amount) for one, amount in used.items()}}
        self._store.update(QUOTAS, quota, record)


_SOURCES: list[Object] = [
    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
    {"configMap": {"items": [{"key": "ca.crt", "path": "ca.crt"}], "name": "kube-root-ca.crt"}},
    {"downwardAPI": {"items": [{"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}, "path": "namespace"}]}},
]
_COUNTED = ("pods", "services", "persistentvolumeclaims", "configmaps", "secrets", "replicationcontrollers", "resourcequotas")


def _counts(storage: str, hard: Object) -> bool:
    if f"count/{storage}" in hard:
        return True
    if storage == "pods":
        return any(name in ("pods", "cpu", "memory") or name.startswith(("requests.", "limits.")) for name in hard)
    if storage == "services":
        return any(name.startswith("services") for name in hard)
    if storage == "persistentvolumeclaims":
        return any(name in ("persistentvolumeclaims", "requests.storage") for name in hard)
    return storage in _COUNTED and storage in hard


def _usage(resource: Resource, obj: Object) -> dict[str, Decimal]:
    """How much of each quota's resource an object takes."""
    storage = resource.storage
    used = {f"count/{storage}": Decimal(1)}
    if storage in _COUNTED:
        used[storage] = Decimal(1)
    spec = obj.get("spec") or {}
    if storage == "pods":
        for part in ("requests", "limits"):
            for what in ("cpu", "memory", "ephemeral-storage"):
                total = _pod_total(spec, part, what)
                used[f"{part}.{what}"] = total
                if part == "requests":
                    used[what] = total
    elif storage == "services":
        if spec.get("type") == "LoadBalancer":
            used["services.loadbalancers"] = Decimal(1)
        used["services.nodeports"] = Decimal(sum(1 for port in spec.get("ports") or [] if port.get("nodePort")))
    elif storage == "persistentvolumeclaims":
        size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
        used["requests.storage"] = quantities.parse(size) if size else Decimal(0)
    return used


def _pod_total(spec: Object, part: str, what: str) -> Decimal:
    def of(container: Object) -> Decimal:
        value = ((container.get("resources") or {}).get(part) or {}).get(what)
        return quantities.parse(value) if value is not None else Decimal(0)

    total = sum((of(one) for one in spec.get("containers") or []), Decimal(0))
    initial = max((of(one) for one in spec.get("initContainers") or []), default=Decimal(0))
    return max(total, initial)


def _written(name: str, amount: Decimal) -> str:
    return quantities.write(amount, "binary" if "memory" in name or "storage" in name else "decimal")


def _in_scope(quota: Object, resource: Resource, obj: Object) -> bool:
    scopes = (quota.get("spec") or {}).get("scopes") or []
    if not scopes:
        return True
    if resource.storage != "pods":
        return False
    best_effort = defaults.quality_of_service(obj.get("spec") or {}) == "BestEffort"
    ends = (obj.get("spec") or {}).get("activeDeadlineSeconds") is not None
    answers = {"BestEffort": best_effort, "NotBestEffort": not best_effort, "Terminating": ends, "NotTerminating": not ends}
    return all(answers.get(scope, True) for scope in scopes)


def new_uid() -> str:
    """A new object's identifier."""
    return str(uuid.uuid4())
