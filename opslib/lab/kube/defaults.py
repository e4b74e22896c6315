"""What the API server fills in where an object leaves it open (pkg/apis/*/v1/defaults.go and the registries' strategies)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from opslib.lab.kube.errors import Object


def _set(obj: Object, **values: Any) -> None:
    for name, value in values.items():
        if obj.get(name) is None:
            obj[name] = copy.deepcopy(value)


def pod_spec(spec: Object) -> None:
    """A pod's or template's spec."""
    _set(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        securityContext={},
        schedulerName="default-scheduler",
    )
    if spec.get("serviceAccountName") and not spec.get("serviceAccount"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    elif spec.get("serviceAccount") and not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    for name in ("containers", "initContainers", "ephemeralContainers"):
        for one in spec.get(name) or []:
            container(one)
            if spec.get("hostNetwork"):
                for port in one.get("ports") or []:
                    if not port.get("hostPort"):
                        port["hostPort"] = port.get("containerPort")
    for volume in spec.get("volumes") or []:
        _volume(volume)
    for constraint in spec.get("topologySpreadConstraints") or []:
        del constraint  # its own defaults are none that show


def container(one: Object) -> None:
    """One container."""
    image = one.get("image") or ""
    if "imagePullPolicy" not in one:
        tag = image.rpartition("/")[2].partition("@")[0].partition(":")[2]
        fixed = "@" in image or tag not in ("", "latest")
        one["imagePullPolicy"] = "IfNotPresent" if fixed else "Always"
    _set(one, terminationMessagePath="/dev/termination-log", terminationMessagePolicy="File", resources={})
    for port in one.get("ports") or []:
        _set(port, protocol="TCP")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if one.get(name):
            _probe(one[name])
    for hook in (one.get("lifecycle") or {}).values():
        if isinstance(hook, dict) and hook.get("httpGet"):
            _set(hook["httpGet"], scheme="HTTP", path="/")
    for variable in one.get("env") or []:
        source = variable.get("valueFrom") or {}
        if source.get("fieldRef"):
            _set(source["fieldRef"], apiVersion="v1")
        if source.get("resourceFieldRef"):
            _set(source["resourceFieldRef"], divisor="0")


def _probe(probe: Object) -> None:
    _set(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    if probe.get("httpGet"):
        _set(probe["httpGet"], scheme="HTTP", path="/")
    if "grpc" in probe:
        _set(probe["grpc"], service="")


def _volume(volume: Object) -> None:
    if not set(volume) - {"name"}:
        volume["emptyDir"] = {}
    for name in ("configMap", "secret", "downwardAPI", "projected"):
        if name in volume:
            _set(volume[name], defaultMode=420)
    if "hostPath" in volume:
        _set(volume["hostPath"], type="")
    files = [*((volume.get("downwardAPI") or {}).get("items") or [])]
    for source in (volume.get("projected") or {}).get("sources") or []:
        if "serviceAccountToken" in source:
            _set(source["serviceAccountToken"], expirationSeconds=3600)
        files += (source.get("downwardAPI") or {}).get("items") or []
    for file in files:
        if file.get("fieldRef"):
            _set(file["fieldRef"], apiVersion="v1")
    if "ephemeral" in volume:
        claim = (volume["ephemeral"].get("volumeClaimTemplate") or {}).get("spec")
        if claim is not None:
            _set(claim, volumeMode="Filesystem")


def _pod(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    pod_spec(spec)
    _set(spec, enableServiceLinks=True)
    for name in ("containers", "initContainers"):
        for one in spec.get(name) or []:
            resources = one["resources"]
            for key, value in (resources.get("limits") or {}).items():
                resources.setdefault("requests", {}).setdefault(key, value)


def _template(spec: Object) -> None:
    pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))
    spec["template"].setdefault("metadata", {})


def _deployment(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = spec.setdefault("strategy", {})
    _set(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _set(strategy, rollingUpdate={})
        _set(strategy["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")
    _template(spec)


def _replica_set(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1)
    _template(spec)


def _replication_controller(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, replicas=1)
    _template(spec)
    labels = spec["template"]["metadata"].get("labels")
    if labels:
        _set(spec, selector=labels)
        _set(obj["metadata"], labels=labels)


def _stateful_set(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(
        spec,
        replicas=1,
        revisionHistoryLimit=10,
        podManagementPolicy="OrderedReady",
        persistentVolumeClaimRetentionPolicy={},
    )
    _set(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")
    strategy = spec.setdefault("updateStrategy", {})
    _set(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _set(strategy, rollingUpdate={})
        _set(strategy["rollingUpdate"], partition=0)
    _template(spec)
    for claim in spec.get("volumeClaimTemplates") or []:
        claim.setdefault("kind", "PersistentVolumeClaim")
        claim.setdefault("apiVersion", "v1")
        _set(claim.setdefault("spec", {}), volumeMode="Filesystem")
        claim.setdefault("status", {})
        _set(claim["status"], phase="Pending")


def _daemon_set(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, revisionHistoryLimit=10)
    strategy = spec.setdefault("updateStrategy", {})
    _set(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _set(strategy, rollingUpdate={})
        _set(strategy["rollingUpdate"], maxUnavailable=1, maxSurge=0)
    _template(spec)
    obj["metadata"].setdefault("annotations", {}).setdefault("deprecated.daemonset.template.generation", "1")


def job_spec(spec: Object) -> None:
    """A job's spec, or that of a cron job's template."""
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
        spec["parallelism"] = 1
    _set(spec, parallelism=1, backoffLimit=6, completionMode="NonIndexed", suspend=False)
    if spec.get("podReplacementPolicy") is None:
        spec["podReplacementPolicy"] = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    _template(spec)


def _job(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    job_spec(spec)
    _set(spec, manualSelector=False)


def _cron_job(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    template = spec.setdefault("jobTemplate", {})
    template.setdefault("metadata", {})
    _template(template.setdefault("spec", {}))


def _service(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, sessionAffinity="None", type="ClusterIP")
    if spec["sessionAffinity"] == "ClientIP":
        _set(spec, sessionAffinityConfig={"clientIP": {"timeoutSeconds": 10800}})
    for port in spec.get("ports") or []:
        _set(port, protocol="TCP")
        if port.get("targetPort") in (None, "", 0):
            port["targetPort"] = port.get("port")
    if spec["type"] != "ExternalName":
        _set(spec, internalTrafficPolicy="Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _set(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _set(spec, allocateLoadBalancerNodePorts=True)
    obj.setdefault("status", {}).setdefault("loadBalancer", {})


def _claim(obj: Object) -> None:
    _set(obj.setdefault("spec", {}), volumeMode="Filesystem")
    _set(obj.setdefault("status", {}), phase="Pending")


def _volume_object(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")
    if "hostPath" in spec:
        _set(spec["hostPath"], type="")
    _set(obj.setdefault("status", {}), phase="Pending")


def _network_policy(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, podSelector={})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in (spec.get("ingress") or []) + (spec.get("egress") or []):
        for port in rule.get("ports") or []:
            _set(port, protocol="TCP")


def _autoscaler(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    _set(spec, minReplicas=1)
    if not spec.get("metrics"):
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]
    behaviour = spec.get("behavior")
    if behaviour is not None:
        for name, policies in (
            ("scaleUp", [{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            ("scaleDown", [{"type": "Percent", "value": 100, "periodSeconds": 15}]),
        ):
            rules = behaviour.setdefault(name, {})
            _set(rules, selectPolicy="Max", policies=policies)
            if name == "scaleUp":
                _set(rules, stabilizationWindowSeconds=0)


def _secret(obj: Object) -> None:
    import base64

    _set(obj, type="Opaque")
    for key, value in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def _storage_class(obj: Object) -> None:
    _set(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _namespace(obj: Object) -> None:
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")


def _binding(obj: Object) -> None:
    reference = obj.get("roleRef")
    if reference is not None and not reference.get("apiGroup"):
        reference["apiGroup"] = "rbac.authorization.k8s.io"
    for subject in obj.get("subjects") or []:
        if subject.get("kind") in ("User", "Group") and not subject.get("apiGroup"):
            subject["apiGroup"] = "rbac.authorization.k8s.io"


def _endpoints(obj: Object) -> None:
    for subset in obj.get("subsets") or []:
        for port in subset.get("ports") or []:
            _set(port, protocol="TCP")


def _slice(obj: Object) -> None:
    for port in obj.get("ports") or []:
        _set(port, name="", protocol="TCP")
    for endpoint in obj.get("endpoints") or []:
        _set(endpoint.setdefault("conditions", {}), ready=True) if "conditions" in endpoint else None


def _limit_range(obj: Object) -> None:
    for item in (obj.get("spec") or {}).get("limits") or []:
        if item.get("type") != "Container":
            continue
        for name, value in (item.get("max") or {}).items():
            item.setdefault("default", {}).setdefault(name, value)
        for name, value in (item.get("default") or {}).items():
            item.setdefault("defaultRequest", {}).setdefault(name, value)
        for name, value in (item.get("min") or {}).items():
            item.setdefault("defaultRequest", {}).setdefault(name, value)


def _priority_class(obj: Object) -> None:
    _set(obj, preemptionPolicy="PreemptLowerPriority")


def _definition(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if names.get("kind"):
        _set(names, singular=names["kind"].lower(), listKind=f"{names['kind']}List")
    _set(spec, conversion={"strategy": "None"})


def _driver(obj: Object) -> None:
    _set(
        obj.setdefault("spec", {}),
        attachRequired=True,
        podInfoOnMount=False,
        storageCapacity=False,
        requiresRepublish=False,
        fsGroupPolicy="ReadWriteOnceWithFSType",
        volumeLifecycleModes=["Persistent"],
        seLinuxMount=False,
    )


def _node(obj: Object) -> None:
    status = obj.get("status") or {}
    for name, value in (status.get("capacity") or {}).items():
        status.setdefault("allocatable", {}).setdefault(name, value)


def _webhooks(configuration: Object) -> None:
    for hook in configuration.get("webhooks") or []:
        _set(hook, failurePolicy="Fail", matchPolicy="Equivalent", namespaceSelector={}, objectSelector={}, timeoutSeconds=10)
        for rule in hook.get("rules") or []:
            _set(rule, scope="*")
        service = (hook.get("clientConfig") or {}).get("service")
        if service:
            _set(service, port=443)


def _mutating_webhooks(configuration: Object) -> None:
    _webhooks(configuration)
    for hook in configuration.get("webhooks") or []:
        _set(hook, reinvocationPolicy="Never")


DEFAULTS: dict[str, Callable[[Object], None]] = {
    "pods": _pod,
    "podtemplates": _template,
    "replicationcontrollers": _replication_controller,
    "deployments.apps": _deployment,
    "replicasets.apps": _replica_set,
    "statefulsets.apps": _stateful_set,
    "daemonsets.apps": _daemon_set,
    "jobs.batch": _job,
    "cronjobs.batch": _cron_job,
    "services": _service,
    "persistentvolumeclaims": _claim,
    "persistentvolumes": _volume_object,
    "networkpolicies.networking.k8s.io": _network_policy,
    "horizontalpodautoscalers.autoscaling": _autoscaler,
    "secrets": _secret,
    "nodes": _node,
    "storageclasses.storage.k8s.io": _storage_class,
    "csidrivers.storage.k8s.io": _driver,
    "namespaces": _namespace,
    "rolebindings.rbac.authorization.k8s.io": _binding,
    "clusterrolebindings.rbac.authorization.k8s.io": _binding,
    "endpoints": _endpoints,
    "endpointslices.discovery.k8s.io": _slice,
    "limitranges": _limit_range,
    "priorityclasses.scheduling.k8s.io": _priority_class,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
    "validatingwebhookconfigurations.admissionregistration.k8s.io": _webhooks,
    "mutatingwebhookconfigurations.admissionregistration.k8s.io": _mutating_webhooks,
}


def apply_defaults(storage: str, obj: Object) -> None:
    """Fill in the defaults of an object of that resource."""
    if storage in DEFAULTS:
        DEFAULTS[storage](obj)


def quality_of_service(spec: Object) -> str:
    """A pod's QoS class (pkg/apis/core/v1/helper/qos)."""
    from opslib.lab.kube import quantities

    requests: dict[str, bool] = {}
    any_request = False
    guaranteed = True
    for one in (spec.get("containers") or []) + (spec.get("initContainers") or []):
        resources = one.get("resources") or {}
        limits, wanted = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, request = limits.get(name), wanted.get(name)
            if request is not None and quantities.parse(request) > 0:
                any_request = True
            if limit is not None and quantities.parse(limit) > 0:
                any_request = True
                if request is not None and quantities.parse(request) != quantities.parse(limit):
                    guaranteed = False
            else:
                guaranteed = False
        requests[one.get("name", "")] = True
    if not any_request:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
