"""Which objects are refused with 422: the checks of pkg/apis/*/validation that operators meet, in the API server's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from opslib.lab.kube import events, names, quantities
from opslib.lab.kube.errors import (
    Object,
    Problem,
    duplicate,
    forbidden_field,
    invalid,
    required,
    too_long,
    unknown_object,
    unsupported,
)
from opslib.lab.kube.resources import Resource

Problems = list[Problem]
_IMMUTABLE = "field is immutable"
_SEGMENT_NAMES = {"roles", "rolebindings", "clusterroles", "clusterrolebindings"}
_LABEL_NAMES = {"namespaces"}


# --- all objects ---


def create(resource: Resource, obj: Object) -> Problems:
    """What is wrong with a new object."""
    problems = _metadata(resource, obj["metadata"])
    if resource.custom is not None:
        problems += custom(resource, obj)
    if resource.storage == "events":
        problems += events.problems(obj, strict=resource.group == "events.k8s.io")
    check = _CREATE.get(resource.storage)
    if check is not None:
        problems += check(obj)
    return problems


def update(resource: Resource, live: Object, obj: Object, subresource: str) -> Problems:
    """What is wrong with a change."""
    problems = _metadata(resource, obj["metadata"])
    if live["metadata"].get("deletionTimestamp"):
        added = [one for one in obj["metadata"].get("finalizers") or [] if one not in (live["metadata"].get("finalizers") or [])]
        if added:
            why = f"no new finalizers can be added if the object is being deleted, found new finalizers {_go_list(added)}"
            twice = [forbidden_field("metadata.finalizers", why)] * (1 if resource.custom is not None else 2)
            problems += twice  # the real server says it twice
    if subresource in ("status", "finalize"):
        return problems + (custom(resource, obj) if resource.custom is not None else [])
    if resource.custom is not None:
        problems += custom(resource, obj)
    check = _CREATE.get(resource.storage)
    if check is not None and resource.storage not in ("pods",):
        problems += check(obj)
    change = _UPDATE.get(resource.storage)
    if change is not None:
        problems += change(live, obj)
    return problems


def _go_list(values: Sequence[str]) -> str:
    return "[]string{" + ", ".join(f'"{one}"' for one in values) + "}"


def _metadata(resource: Resource, metadata: Object) -> Problems:
    problems: Problems = []
    name = metadata.get("name") or ""
    if not name:
        problems.append(required("metadata.name", "name or generateName is required"))
    else:
        check: Callable[[str], list[str]] = names.dns_subdomain
        if resource.plural in _SEGMENT_NAMES and resource.group.startswith("rbac."):
            check = names.path_segment
        elif (resource.plural in _LABEL_NAMES and not resource.group) or resource.storage == "services":
            check = names.dns_label
        problems += [invalid("metadata.name", name, text) for text in check(name)]
    for key, value in (metadata.get("labels") or {}).items():
        problems += [invalid("metadata.labels", key, text) for text in names.qualified_name(key)]
        problems += [invalid("metadata.labels", value, text) for text in names.label_value(value)]
    size = 0
    for key, value in (metadata.get("annotations") or {}).items():
        problems += [invalid("metadata.annotations", key, text) for text in names.qualified_name(key.lower())]
        size += len(key) + len(value)
    if size > 262144:
        problems.append(too_long("metadata.annotations", 262144))
    for index, reference in enumerate(metadata.get("ownerReferences") or []):
        for part in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(part):
                words = {"apiVersion": "version must not be empty", "kind": "must not be empty"}.get(part, "must not be empty")
                problems.append(invalid(f"metadata.ownerReferences[{index}].{part}", reference.get(part, ""), words))
    return problems


# --- pods and their templates ---


def pod_spec(
    spec: Object, path: str, *, policies: Sequence[str] = ("Always", "OnFailure", "Never"), claims: Sequence[str] = ()
) -> Problems:
    """A pod's or template's spec. `claims` are volumes that it gets besides its own: a StatefulSet's."""
    problems: Problems = []
    volumes = [*(volume.get("name", "") for volume in spec.get("volumes") or []), *claims]
    for index, volume in enumerate(spec.get("volumes") or []):
        where = f"{path}.volumes[{index}]"
        if not volume.get("name"):
            problems.append(required(f"{where}.name"))
        else:
            problems += [invalid(f"{where}.name", volume["name"], text) for text in names.dns_label(volume["name"])]
            if volumes.index(volume["name"]) < index:
                problems.append(duplicate(f"{where}.name", volume["name"]))
        sources = [one for one in volume if one != "name"]
        problems += [forbidden_field(f"{where}.{one}", "may not specify more than 1 volume type") for one in sources[1:]]
        problems += _volume(volume, where)
    containers = spec.get("containers") or []
    if not containers:
        problems.append(required(f"{path}.containers"))
    seen: set[str] = set()
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(kind) or []):
            where = f"{path}.{kind}[{index}]"
            problems += _container(container, where, volumes)
            name = container.get("name", "")
            if name and name in seen:
                problems.append(duplicate(f"{where}.name", name))
            seen.add(name)
    policy = spec.get("restartPolicy")
    if policy not in policies:
        problems.append(unsupported(f"{path}.restartPolicy", policy, policies))
    if spec.get("dnsPolicy") not in ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"):
        known = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
        problems.append(unsupported(f"{path}.dnsPolicy", spec.get("dnsPolicy"), sorted(known)))
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        problems.append(
            invalid(f"{path}.terminationGracePeriodSeconds", spec["terminationGracePeriodSeconds"], "must be greater than or equal to 0")
        )
    for key, value in (spec.get("nodeSelector") or {}).items():
        problems += [invalid(f"{path}.nodeSelector", key, text) for text in names.qualified_name(key)]
        problems += [invalid(f"{path}.nodeSelector", value, text) for text in names.label_value(value)]
    for index, toleration in enumerate(spec.get("tolerations") or []):
        effect = toleration.get("effect")
        if effect and effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            problems.append(unsupported(f"{path}.tolerations[{index}].effect", effect, ("NoSchedule", "PreferNoSchedule", "NoExecute")))
    return problems


def _volume(volume: Object, where: str) -> Problems:
    problems: Problems = []
    if "hostPath" in volume and not volume["hostPath"].get("path"):
        problems.append(required(f"{where}.hostPath.path"))
    if "secret" in volume and not volume["secret"].get("secretName"):
        problems.append(required(f"{where}.secret.secretName"))
    if "configMap" in volume and not volume["configMap"].get("name"):
        problems.append(required(f"{where}.configMap.name"))
    if "persistentVolumeClaim" in volume and not volume["persistentVolumeClaim"].get("claimName"):
        problems.append(required(f"{where}.persistentVolumeClaim.claimName"))
    return problems


def _container(container: Object, where: str, volumes: Sequence[str]) -> Problems:
    problems: Problems = []
    name = container.get("name") or ""
    if not name:
        problems.append(required(f"{where}.name"))
    else:
        problems += [invalid(f"{where}.name", name, text) for text in names.dns_label(name)]
    if (not container.get("image") and ".template." not in where) or not container.get("image"):
        problems.append(required(f"{where}.image"))
    elif container["image"].strip() != container["image"]:
        problems.append(invalid(f"{where}.image", container["image"], "must not have leading or trailing whitespace"))
    for index, port in enumerate(container.get("ports") or []):
        number = port.get("containerPort") or 0
        if not number:
            problems.append(required(f"{where}.ports[{index}].containerPort"))
        elif not 0 < number < 65536:
            problems.append(invalid(f"{where}.ports[{index}].containerPort", number, "must be between 1 and 65535, inclusive"))
        if port.get("protocol") not in ("TCP", "UDP", "SCTP"):
            problems.append(unsupported(f"{where}.ports[{index}].protocol", port.get("protocol"), ("SCTP", "TCP", "UDP")))
    for index, variable in enumerate(container.get("env") or []):
        if not variable.get("name"):
            problems.append(required(f"{where}.env[{index}].name"))
        if variable.get("value") and variable.get("valueFrom"):
            problems.append(invalid(f"{where}.env[{index}].valueFrom", "", "may not be specified when `value` is not empty"))
    paths: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or []):
        place = f"{where}.volumeMounts[{index}]"
        if not mount.get("name"):
            problems.append(required(f"{place}.name"))
        elif mount["name"] not in volumes:
            problems.append(unknown_object(f"{place}.name", mount["name"]))
        if not mount.get("mountPath"):
            problems.append(required(f"{place}.mountPath"))
        elif mount["mountPath"] in paths:
            problems.append(invalid(f"{place}.mountPath", mount["mountPath"], "must be unique"))
        paths.add(mount.get("mountPath", ""))
    problems += resource_requirements(container.get("resources") or {}, f"{where}.resources")
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(kind):
            problems += _probe(container[kind], f"{where}.{kind}", kind)
    if container.get("imagePullPolicy") not in ("Always", "IfNotPresent", "Never", None):
        problems.append(unsupported(f"{where}.imagePullPolicy", container["imagePullPolicy"], ("Always", "IfNotPresent", "Never")))
    return problems


def resource_requirements(resources: Object, where: str) -> Problems:
    """Requests and limits."""
    problems: Problems = []
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for part, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            if "/" not in name and name not in ("cpu", "memory", "ephemeral-storage") and not name.startswith("hugepages-"):
                problems.append(invalid(f"{where}.{part}[{name}]", name, "must be a standard resource type or fully qualified"))
                problems.append(invalid(f"{where}.{part}[{name}]", name, "must be a standard resource for containers"))
            if quantities.parse(value) < 0:
                problems.append(invalid(f"{where}.{part}[{name}]", value, "must be greater than or equal to 0"))
    for name, value in requests.items():
        if name in limits and quantities.parse(value) > quantities.parse(limits[name]):
            problems.append(invalid(f"{where}.requests", value, f"must be less than or equal to {name} limit of {limits[name]}"))
    return problems


def _probe(probe: Object, where: str, kind: str) -> Problems:
    problems: Problems = []
    handlers = [one for one in ("exec", "httpGet", "tcpSocket", "grpc") if one in probe]
    if not handlers:
        problems.append(required(where, "must specify a handler type"))
    problems += [forbidden_field(f"{where}.{one}", "may not specify more than 1 handler type") for one in handlers[1:]]
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if (probe.get(name) or 0) < 0:
            problems.append(invalid(f"{where}.{name}", probe[name], "must be greater than or equal to 0"))
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        problems.append(invalid(f"{where}.successThreshold", probe["successThreshold"], "must be 1"))
    return problems


def _pod(obj: Object) -> Problems:
    return pod_spec(obj.get("spec") or {}, "spec")


_POD_MUTABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds`"
    " (allow it to be set to 1 if it was previously negative)"
)


def _pod_change(live: Object, obj: Object) -> Problems:
    before, after = _frozen_pod(live.get("spec") or {}), _frozen_pod(obj.get("spec") or {})
    if before == after:
        return []
    return [forbidden_field("spec", f"{_POD_MUTABLE}\n{_difference(before, after)}")]


def _difference(before: Object, after: Object) -> str:
    lines = []
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            lines.append(f"- {name}: {before.get(name)}")
            lines.append(f"+ {name}: {after.get(name)}")
    return "\n".join(lines)


def _frozen_pod(spec: Object) -> Object:
    frozen = {
        name: value
        for name, value in spec.items()
        if name not in ("activeDeadlineSeconds", "tolerations", "schedulingGates", "ephemeralContainers") and value not in (None, [], {})
    }
    for kind in ("containers", "initContainers"):
        if kind in frozen:
            frozen[kind] = [
                {name: value for name, value in one.items() if name != "image" and value not in (None, [], {})} for one in frozen[kind]
            ]
    return frozen


def _template(spec: Object, *, policies: Sequence[str] = ("Always",)) -> Problems:
    template = spec.get("template") or {}
    problems: Problems = []
    path = "spec.template"
    for key, value in ((template.get("metadata") or {}).get("labels") or {}).items():
        problems += [invalid(f"{path}.labels", key, text) for text in names.qualified_name(key)]
        problems += [invalid(f"{path}.labels", value, text) for text in names.label_value(value)]
    claims = [(one.get("metadata") or {}).get("name", "") for one in spec.get("volumeClaimTemplates") or []]
    return problems + pod_spec(template.get("spec") or {}, f"{path}.spec", policies=policies, claims=claims)


def _selected(obj: Object) -> Problems:
    from opslib.lab.kube import selectors

    spec = obj.get("spec") or {}
    problems: Problems = []
    selector = spec.get("selector")
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if selector is None:
        problems.append(required("spec.selector"))
        problems.append(invalid("spec.template.metadata.labels", labels or {}, "`selector` does not match template `labels`"))
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        problems.append(invalid("spec.selector", selector, "empty selector is invalid for deployment"))
    elif not selectors.from_object(selector)(labels):
        problems.append(invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"))
    return problems


def _not_negative(spec: Object, *fields: str) -> Problems:
    return [invalid(f"spec.{name}", spec[name], "must be greater than or equal to 0") for name in fields if (spec.get(name) or 0) < 0]


def _workload(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    return _not_negative(spec, "replicas", "minReadySeconds", "revisionHistoryLimit") + _selected(obj) + _template(spec)


def _selector_fixed(live: Object, obj: Object) -> Problems:
    before, after = (live.get("spec") or {}).get("selector"), (obj.get("spec") or {}).get("selector")
    return [] if before == after else [invalid("spec.selector", after, _IMMUTABLE)]


_STATEFUL_MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)


def _stateful_change(live: Object, obj: Object) -> Problems:
    before = {name: value for name, value in (live.get("spec") or {}).items() if name not in _STATEFUL_MUTABLE}
    after = {name: value for name, value in (obj.get("spec") or {}).items() if name not in _STATEFUL_MUTABLE}
    if before == after:
        return []
    listed = ", ".join(f"'{name}'" for name in _STATEFUL_MUTABLE[:-1])
    return [forbidden_field("spec", f"updates to statefulset spec for fields other than {listed} and 'minReadySeconds' are forbidden")]


def _job(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    problems = _not_negative(spec, "parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished")
    template = (spec.get("template") or {}).get("spec") or {}
    return problems + _template(spec, policies=("Always", "OnFailure", "Never")) + _job_policy(template, "spec.template.spec")


def _job_policy(template: Object, path: str) -> Problems:
    if template.get("restartPolicy") == "Always":
        return [required(f"{path}.restartPolicy", 'valid values: "OnFailure", "Never"')]
    return []


def _job_change(live: Object, obj: Object) -> Problems:
    before, after = live.get("spec") or {}, obj.get("spec") or {}
    problems = []
    for name in ("completions", "selector", "template", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"):
        if before.get(name) != after.get(name) and not (name == "template" and before.get("suspend")):
            problems.append(invalid(f"spec.{name}", after.get(name), _IMMUTABLE))
    return problems


_CRON_FIELD = re.compile(r"[\d*/,\-?LW#A-Za-z]+")


def _cron_job(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    problems: Problems = []
    schedule = spec.get("schedule") or ""
    if not schedule:
        problems.append(required("spec.schedule"))
    elif not schedule.startswith("@"):
        fields = schedule.split()
        if len(fields) != 5 or not all(_CRON_FIELD.fullmatch(one) for one in fields):
            why = f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]"
            problems.append(invalid("spec.schedule", schedule, why))
    if spec.get("concurrencyPolicy") not in ("Allow", "Forbid", "Replace"):
        problems.append(unsupported("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), ("Allow", "Forbid", "Replace")))
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    template = (job.get("template") or {}).get("spec") or {}
    path = "spec.jobTemplate.spec.template.spec"
    return problems + pod_spec(template, path) + _job_policy(template, path)


# --- the rest ---


def _service(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    problems: Problems = []
    ports = spec.get("ports") or []
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        problems.append(required("spec.ports"))
    seen: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        where = f"spec.ports[{index}]"
        if len(ports) > 1 and not port.get("name"):
            problems.append(required(f"{where}.name"))
        number = port.get("port") or 0
        if not 0 < number < 65536:
            problems.append(invalid(f"{where}.port", number, "must be between 1 and 65535, inclusive"))
        if port.get("protocol") not in ("TCP", "UDP", "SCTP"):
            problems.append(unsupported(f"{where}.protocol", port.get("protocol"), ("SCTP", "TCP", "UDP")))
        key = (port.get("protocol"), number)
        if key in seen:
            problems.append(duplicate(where, {"port": number, "protocol": port.get("protocol")}))
        seen.add(key)
    if spec.get("type") not in ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"):
        problems.append(unsupported("spec.type", spec.get("type"), ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")))
    if spec.get("type") == "ExternalName" and not spec.get("externalName"):
        problems.append(required("spec.externalName"))
    return problems


def _service_change(live: Object, obj: Object) -> Problems:
    before, after = live.get("spec") or {}, obj.get("spec") or {}
    if before.get("type") == "ExternalName" or after.get("type") == "ExternalName":
        return []
    if before.get("clusterIP") and before["clusterIP"] != after.get("clusterIP"):
        return [invalid("spec.clusterIPs[0]", after.get("clusterIPs") or [], "may not change once set")]
    return []


def _data(obj: Object, parts: Sequence[str]) -> Problems:
    problems: Problems = []
    size = 0
    for part in parts:
        for key, value in (obj.get(part) or {}).items():
            problems += [invalid(f"{part}[{key}]", key, text) for text in names.data_key(key)]
            size += len(value) * 3 // 4 if part != "data" or parts == ("data",) else len(value.encode())
    if size > 1048576:
        problems.append(too_long("data" if parts == ("data",) else "", 1048576))
    return problems


def _config_map(obj: Object) -> Problems:
    return _data(obj, ("data", "binaryData"))


def _secret(obj: Object) -> Problems:
    problems = _data(obj, ("data",))
    needed = {
        "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
        "kubernetes.io/tls": ("tls.crt", "tls.key"),
    }.get(obj.get("type", ""), ())
    problems += [required(f"data[{key}]") for key in needed if key not in (obj.get("data") or {})]
    return problems


def _content_fixed(parts: Sequence[str]) -> Callable[[Object, Object], Problems]:
    def check(live: Object, obj: Object) -> Problems:
        problems: Problems = []
        if "type" in live and live.get("type") != obj.get("type"):
            problems.append(invalid("type", obj.get("type"), _IMMUTABLE))
        if live.get("immutable"):
            if not obj.get("immutable"):
                problems.append(forbidden_field("immutable", "field is immutable when `immutable` is set"))
            problems += [
                forbidden_field(part, "field is immutable when `immutable` is set") for part in parts if live.get(part) != obj.get(part)
            ]
        return problems

    return check


def _claim(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    problems: Problems = []
    if not spec.get("accessModes"):
        problems.append(required("spec.accessModes", "at least 1 access mode is required"))
    known = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
    problems += [unsupported("spec.accessModes", mode, known) for mode in spec.get("accessModes") or [] if mode not in known]
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    if size is None:
        problems.append(required("spec.resources[storage]"))
    elif quantities.parse(size) <= 0:
        problems.append(invalid("spec.resources[storage]", size, "must be greater than zero"))
    return problems


def _claim_change(live: Object, obj: Object) -> Problems:
    before, after = dict(live.get("spec") or {}), dict(obj.get("spec") or {})
    problems: Problems = []
    sizes = [((spec.pop("resources", None) or {}).get("requests") or {}).get("storage", "0") for spec in (before, after)]
    if not before.get("volumeName"):
        before.pop("volumeName", None)
        after.pop("volumeName", None)
    for name in ("volumeAttributesClassName",):
        before.pop(name, None)
        after.pop(name, None)
    bound = (live.get("status") or {}).get("phase") == "Bound"
    if before != after or (sizes[0] != sizes[1] and not bound):
        why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        difference = _difference(live.get("spec") or {}, obj.get("spec") or {})
        problems.append(forbidden_field("spec", f"{why}\n{difference}"))
    elif quantities.parse(sizes[1]) < quantities.parse(sizes[0]):
        problems.append(forbidden_field("spec.resources.requests.storage", "field can not be less than status.capacity"))
    return problems


def _volume_object(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    problems: Problems = []
    if not spec.get("accessModes"):
        problems.append(required("spec.accessModes"))
    if not spec.get("capacity"):
        problems.append(required("spec.capacity"))
    return problems


def _role_change(live: Object, obj: Object) -> Problems:
    if live.get("roleRef") != obj.get("roleRef"):
        given = obj.get("roleRef") or {}
        shown = {"APIGroup": given.get("apiGroup", ""), "Kind": given.get("kind", ""), "Name": given.get("name", "")}
        return [invalid("roleRef", shown, "cannot change roleRef")]
    return []


def _rules(obj: Object) -> Problems:
    problems: Problems = []
    for index, rule in enumerate(obj.get("rules") or []):
        if not rule.get("verbs"):
            problems.append(required(f"rules[{index}].verbs", "verbs must contain at least one value"))
        if not rule.get("nonResourceURLs"):
            if not rule.get("apiGroups"):
                problems.append(required(f"rules[{index}].apiGroups", "resource rules must supply at least one api group"))
            if not rule.get("resources"):
                problems.append(required(f"rules[{index}].resources", "resource rules must supply at least one resource"))
    return problems


def _budget(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        shown = {
            "MinAvailable": spec["minAvailable"],
            "Selector": spec.get("selector"),
            "MaxUnavailable": spec["maxUnavailable"],
            "UnhealthyPodEvictionPolicy": spec.get("unhealthyPodEvictionPolicy"),
        }
        return [invalid("spec", shown, "minAvailable and maxUnavailable cannot be both set")]
    return []


def _autoscaler(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    problems: Problems = []
    if (spec.get("minReplicas") or 0) < 1:
        problems.append(invalid("spec.minReplicas", spec.get("minReplicas"), "must be greater than or equal to 1"))
    if (spec.get("maxReplicas") or 0) < 1:
        problems.append(invalid("spec.maxReplicas", spec.get("maxReplicas", 0), "must be greater than 0"))
    if (spec.get("maxReplicas") or 0) < (spec.get("minReplicas") or 0):
        problems.append(invalid("spec.maxReplicas", spec.get("maxReplicas", 0), "must be greater than or equal to `minReplicas`"))
    target = spec.get("scaleTargetRef") or {}
    problems += [required(f"spec.scaleTargetRef.{name}") for name in ("kind", "name") if not target.get(name)]
    return problems


def _ingress(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    problems: Problems = []
    if not spec.get("rules") and not spec.get("defaultBackend"):
        problems.append(invalid("spec", spec, "either `defaultBackend` or `rules` must be specified"))
    for number, rule in enumerate(spec.get("rules") or []):
        for index, path in enumerate((rule.get("http") or {}).get("paths") or []):
            where = f"spec.rules[{number}].http.paths[{index}]"
            if not path.get("pathType"):
                problems.append(required(f"{where}.pathType", "pathType must be specified"))
            elif path["pathType"] not in ("Exact", "Prefix", "ImplementationSpecific"):
                problems.append(unsupported(f"{where}.pathType", path["pathType"], ("Exact", "ImplementationSpecific", "Prefix")))
    return problems


def _storage_class_change(live: Object, obj: Object) -> Problems:
    problems: Problems = []
    if live.get("parameters") != obj.get("parameters"):
        problems.append(forbidden_field("parameters", "updates to parameters are forbidden."))
    if live.get("provisioner") != obj.get("provisioner"):
        problems.append(forbidden_field("provisioner", "updates to provisioner are forbidden."))
    if live.get("reclaimPolicy") != obj.get("reclaimPolicy"):
        problems.append(forbidden_field("reclaimPolicy", "updates to reclaimPolicy are forbidden."))
    return problems


def _storage_class(obj: Object) -> Problems:
    return [] if obj.get("provisioner") else [required("provisioner")]


def _definition(obj: Object) -> Problems:
    spec = obj.get("spec") or {}
    problems: Problems = []
    names_of = spec.get("names") or {}
    wanted = f"{names_of.get('plural', '')}.{spec.get('group', '')}"
    if obj["metadata"].get("name") != wanted:
        problems.append(invalid("metadata.name", obj["metadata"].get("name", ""), 'must be spec.names.plural+"."+spec.group'))
    for index, version in enumerate(spec.get("versions") or []):
        if not (version.get("schema") or {}).get("openAPIV3Schema"):
            problems.append(required(f"spec.versions[{index}].schema.openAPIV3Schema", "schemas are required"))
    if sum(1 for version in spec.get("versions") or [] if version.get("storage")) != 1:
        problems.append(invalid("spec.versions", spec.get("versions"), "must have exactly one version marked as storage version"))
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        problems.append(unsupported("spec.scope", spec.get("scope", ""), ("Cluster", "Namespaced")))
    return problems


# --- webhooks ---

REVIEW_VERSIONS = ("v1", "v1beta1")
NO_SIDE_EFFECTS = ("None", "NoneOnDryRun")


def _webhooks(configuration: Object) -> Problems:
    found: Problems = []
    for number, hook in enumerate(configuration.get("webhooks") or []):
        where = f"webhooks[{number}]"
        effects, versions, seconds = hook.get("sideEffects"), hook.get("admissionReviewVersions") or [], hook.get("timeoutSeconds", 10)
        if effects is None:
            found.append(required(f"{where}.sideEffects", f"must specify one of {', '.join(NO_SIDE_EFFECTS)}"))
        elif effects not in NO_SIDE_EFFECTS:
            found.append(unsupported(f"{where}.sideEffects", effects, NO_SIDE_EFFECTS))
        if not 1 <= seconds <= 30:
            found.append(invalid(f"{where}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds"))
        client = hook.get("clientConfig") or {}
        address = urlsplit(client.get("url") or "")
        if (client.get("url") is None) == (client.get("service") is None):
            found.append(required(f"{where}.clientConfig", "exactly one of url or service is required"))
        elif client.get("url") is not None and address.scheme != "https":
            why = "'https' is the only allowed URL scheme; desired format: https://host[/path]"
            found.append(invalid(f"{where}.clientConfig.url", address.scheme, why))
        if hook.get("matchConditions"):  # the one refusal that is not the API server's own
            found.append(forbidden_field(f"{where}.matchConditions", "the lab's own API server does not evaluate CEL expressions"))
        if not versions:
            found.append(required(f"{where}.admissionReviewVersions", f"must specify one of {', '.join(REVIEW_VERSIONS)}"))
        elif not set(versions) & set(REVIEW_VERSIONS):
            why = f"must include at least one of {', '.join(REVIEW_VERSIONS)}"
            found.append(invalid(f"{where}.admissionReviewVersions", versions, why))
    return found


_CREATE: dict[str, Callable[[Object], Problems]] = {
    "pods": _pod,
    "deployments.apps": _workload,
    "replicasets.apps": _workload,
    "statefulsets.apps": _workload,
    "daemonsets.apps": _workload,
    "jobs.batch": _job,
    "cronjobs.batch": _cron_job,
    "services": _service,
    "configmaps": _config_map,
    "secrets": _secret,
    "persistentvolumeclaims": _claim,
    "persistentvolumes": _volume_object,
    "roles.rbac.authorization.k8s.io": _rules,
    "clusterroles.rbac.authorization.k8s.io": _rules,
    "poddisruptionbudgets.policy": _budget,
    "horizontalpodautoscalers.autoscaling": _autoscaler,
    "ingresses.networking.k8s.io": _ingress,
    "storageclasses.storage.k8s.io": _storage_class,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
    "validatingwebhookconfigurations.admissionregistration.k8s.io": _webhooks,
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": _webhooks,
}
_UPDATE: dict[str, Callable[[Object, Object], Problems]] = {
    "pods": _pod_change,
    "deployments.apps": _selector_fixed,
    "replicasets.apps": _selector_fixed,
    "daemonsets.apps": _selector_fixed,
    "statefulsets.apps": _stateful_change,
    "jobs.batch": _job_change,
    "services": _service_change,
    "configmaps": _content_fixed(("data", "binaryData")),
    "secrets": _content_fixed(("data",)),
    "persistentvolumeclaims": _claim_change,
    "rolebindings.rbac.authorization.k8s.io": _role_change,
    "clusterrolebindings.rbac.authorization.k8s.io": _role_change,
    "storageclasses.storage.k8s.io": _storage_class_change,
}


# --- custom resources ---


def custom_defaults(resource: Resource, obj: Object) -> None:
    """Fill in the defaults of a definition's schema."""
    schema = ((resource.custom or {}).get("schema") or {}).get("openAPIV3Schema") or {}
    _fill_defaults(obj, schema)


def _fill_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    import copy

    if isinstance(value, dict):
        for name, one in (schema.get("properties") or {}).items():
            if name not in value and "default" in one:
                value[name] = copy.deepcopy(one["default"])
            if name in value and name != "metadata":
                _fill_defaults(value[name], one)
        additional = schema.get("additionalProperties")
        if isinstance(additional, Mapping):
            for name, one in value.items():
                if name not in (schema.get("properties") or {}):
                    _fill_defaults(one, additional)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for one in value:
            _fill_defaults(one, schema["items"])


def custom(resource: Resource, obj: Object) -> Problems:
    """What a definition's schema finds wrong."""
    schema = ((resource.custom or {}).get("schema") or {}).get("openAPIV3Schema") or {}
    problems: Problems = []
    _check(obj, schema, "", problems, root=True)
    return problems


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,),
}  # fmt: skip


def _check(value: Any, schema: Mapping[str, Any], path: str, problems: Problems, *, root: bool = False) -> None:
    kind = schema.get("type")
    shown = path or "<nil>"
    if value is None and schema.get("nullable"):
        return
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            problems.append(_wrong_type(shown, value, "integer,string"))
        return
    if kind in _TYPES and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        problems.append(_wrong_type(shown, value, kind))
        return
    if schema.get("enum") and value not in schema["enum"]:
        problems.append(unsupported(shown, value, [str(one) for one in schema["enum"]]))
    if isinstance(value, dict):
        for name in schema.get("required") or ():
            if name not in value and not (root and name in ("apiVersion", "kind", "metadata")):
                problems.append(required(f"{path}.{name}" if path else name))
        properties = schema.get("properties") or {}
        for name, one in value.items():
            if root and name in ("apiVersion", "kind", "metadata"):
                continue
            if name in properties:
                _check(one, properties[name], f"{path}.{name}" if path else name, problems)
            elif isinstance(schema.get("additionalProperties"), Mapping):
                _check(one, schema["additionalProperties"], f"{path}.{name}" if path else name, problems)
    elif isinstance(value, list):
        if "minItems" in schema and len(value) < schema["minItems"]:
            problems.append(invalid(shown, len(value), f"{path} in body should have at least {schema['minItems']} items"))
        if "maxItems" in schema and len(value) > schema["maxItems"]:
            problems.append(Problem("FieldValueTooMany", shown, f"Too many: {len(value)}: must have at most {schema['maxItems']} items"))
        for index, one in enumerate(value):
            _check(one, schema.get("items") or {}, f"{path}[{index}]", problems)
    elif isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            problems.append(invalid(shown, value, f"{path} in body should match '{schema['pattern']}'"))
        if "minLength" in schema and len(value) < schema["minLength"]:
            problems.append(invalid(shown, value, f"{path} in body should be at least {schema['minLength']} chars long"))
        if "maxLength" in schema and len(value) > schema["maxLength"]:
            problems.append(too_long(shown, schema["maxLength"]))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            problems.append(invalid(shown, value, f"{path} in body should be greater than or equal to {schema['minimum']}"))
        if "maximum" in schema and value > schema["maximum"]:
            problems.append(invalid(shown, value, f"{path} in body should be less than or equal to {schema['maximum']}"))


def _wrong_type(path: str, value: Any, kind: str) -> Problem:
    given = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}.get(type(value), "null")
    return Problem("FieldValueTypeInvalid", path, f'Invalid value: "{given}": {path} in body must be of type {kind}: "{given}"')
