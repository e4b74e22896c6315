"""Subresources that are more than a part of the object: scale, binding, eviction, tokens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from opslib.lab.kube import errors, selectors
from opslib.lab.kube.access import ISSUER, Authenticator
from opslib.lab.kube.errors import Object, bad_request, conflict, too_many_requests
from opslib.lab.kube.objects import Objects, Options, Result, now_text
from opslib.lab.kube.resources import Resource
from opslib.lab.kube.store import Record, Store

BUDGETS = "poddisruptionbudgets.policy"
_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."


# --- scale ---


def scale_of(resource: Resource, obj: Object) -> Object:
    """The Scale of an object."""
    metadata = obj["metadata"]
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    kept = {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp") if name in metadata}
    if resource.custom is not None:
        paths = resource.custom["subresources"]["scale"]
        wanted, there = _at(obj, paths["specReplicasPath"]), _at(obj, paths["statusReplicasPath"])
        selector = _at(obj, paths["labelSelectorPath"]) if paths.get("labelSelectorPath") else ""
    else:
        wanted, there = spec.get("replicas"), status.get("replicas")
        given = spec.get("selector") or {}
        selector = selectors.describe(given if "matchLabels" in given or "matchExpressions" in given else {"matchLabels": given})
    content: Object = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": kept, "spec": {}, "status": {"replicas": there or 0}}
    if wanted:
        content["spec"]["replicas"] = wanted
    if selector and selector != "<none>":
        content["status"]["selector"] = selector
    return content


def with_scale(resource: Resource, live: Object, scale: Object) -> Object:
    """The object with the replicas of a Scale."""
    import copy

    replicas = (scale.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise bad_request('Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal string into Go struct field '
                          "ScaleSpec.spec.replicas of type int32")  # fmt: skip
    if replicas < 0:
        problem = errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise errors.invalid_object("autoscaling", "Scale", live["metadata"].get("name", ""), [problem])
    obj = copy.deepcopy(live)
    path = resource.custom["subresources"]["scale"]["specReplicasPath"] if resource.custom is not None else ".spec.replicas"
    *parents, last = path.strip(".").split(".")
    here = obj
    for part in parents:
        here = here.setdefault(part, {})
    here[last] = replicas
    return obj


def _at(obj: Object, path: str) -> Any:
    value: Any = obj
    for part in path.strip(".").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


# --- binding ---


def bind(objects: Objects, store: Store, resource: Resource, record: Record, binding: Object, options: Options) -> None:
    """Put a pod on a node.

    Raises
    ------
    Refused
        It has one, or is being deleted.
    """
    target = (binding.get("target") or {}).get("name", "")
    if not target:
        problem = errors.required("target.name")
        raise errors.invalid_object("", "Binding", record.name, [problem])
    pod = record.object()
    there = (pod.get("spec") or {}).get("nodeName")
    if pod["metadata"].get("deletionTimestamp"):
        raise conflict("", "pods/binding", record.name, f"pod {record.name} is being deleted, cannot be assigned to a host")
    if there:
        raise conflict("", "pods/binding", record.name, f'pod {record.name} is already assigned to node "{there}"')
    if (pod.get("spec") or {}).get("schedulingGates"):
        raise conflict("", "pods/binding", record.name, f"pod {record.name} has non-empty .spec.schedulingGates")
    pod["spec"]["nodeName"] = target
    pod["metadata"].setdefault("annotations", {}).update((binding.get("metadata") or {}).get("annotations") or {})
    if not pod["metadata"]["annotations"]:
        del pod["metadata"]["annotations"]
    status = pod.setdefault("status", {})
    status.pop("nominatedNodeName", None)  # what was hoped for counts no more
    conditions = [one for one in status.get("conditions") or [] if one.get("type") != "PodScheduled"]
    condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now_text()}
    status["conditions"] = [*conditions, condition]
    if not options.dry_run:
        store.update(resource.storage, pod, record)


# --- eviction ---


async def evict(objects: Objects, store: Store, pods: Resource, record: Record, eviction: Object, options: Options) -> Result:
    """Delete a pod if the disruption budgets allow it (pkg/registry/core/pod/storage/eviction.go).

    Raises
    ------
    Refused
        429 while a budget forbids it.
    """
    pod = record.object()
    given = eviction.get("deleteOptions") or {}
    named = (eviction.get("metadata") or {}).get("name", "")
    if named and named != record.name:
        raise bad_request(f"name in URL does not match name in Eviction object: {record.name}, {named}")
    phase = (pod.get("status") or {}).get("phase")
    done = phase in ("Succeeded", "Failed", "Pending") or pod["metadata"].get("deletionTimestamp")
    if not done:
        _use_budget(store, pod, record, options)
    fresh = store.get(pods.storage, record.key) or record
    return await objects.delete(pods, fresh, given, options)


def _use_budget(store: Store, pod: Object, record: Record, options: Options) -> None:
    budgets = []
    for one in store.records(BUDGETS, record.namespace):
        budget = one.object()
        selector = (budget.get("spec") or {}).get("selector")
        if selector is not None and selectors.from_object(selector)(record.labels):
            budgets.append((one, budget))
    if len(budgets) > 1:
        message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise errors.Refused(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})
    if not budgets:
        return
    kept, budget = budgets[0]
    status = budget.setdefault("status", {})
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in (pod.get("status") or {}).get("conditions") or [])
    if not ready:
        policy = (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy", "IfHealthyBudget")
        healthy, wanted = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
        if policy == "AlwaysAllow" or (healthy >= wanted and wanted > 0):
            return
    name = kept.name
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 0):
        cause = {"reason": "DisruptionBudget", "message": f"The disruption budget {name} is still being processed by the server."}
        raise too_many_requests(_REFUSED, 10, [cause])
    allowed = status.get("disruptionsAllowed", 0)
    if allowed <= 0:
        text = f"The disruption budget {name} does not allow evicting pods currently"
        if status.get("currentHealthy", 0) <= status.get("desiredHealthy", 0):
            text = (
                f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy pods and has "
                f"{status.get('currentHealthy', 0)} currently"
            )
        raise too_many_requests(_REFUSED, 0, [{"reason": "DisruptionBudget", "message": text}])
    if options.dry_run:
        return
    status["disruptionsAllowed"] = allowed - 1
    status.setdefault("disruptedPods", {})[record.name] = now_text()
    conditions = [one for one in status.get("conditions") or [] if one.get("type") != "DisruptionAllowed"]
    if allowed - 1 == 0 and status.get("conditions"):
        conditions.append({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
                           "lastTransitionTime": now_text(), "observedGeneration": status.get("observedGeneration", 0)})  # fmt: skip
        status["conditions"] = conditions
    store.update(BUDGETS, budget, kept)


# --- tokens ---


def token(authenticator: Authenticator, record: Record, request: Object) -> Object:
    """A TokenRequest with its token.

    Raises
    ------
    Refused
        The token would be too short-lived.
    """
    spec = request.setdefault("spec", {})
    seconds = spec.get("expirationSeconds") or 3600
    if seconds < 600:
        problem = errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
        raise errors.invalid_object("authentication.k8s.io", "TokenRequest", "", [problem])
    audiences = spec.get("audiences") or [ISSUER]
    bound = spec.get("boundObjectRef")
    claims: Object = {}
    if bound:
        claims = {str(bound.get("kind", "")).lower(): {"name": bound.get("name", ""), "uid": bound.get("uid", "")}}
    text = authenticator.issue(record.namespace, record.name, record.uid, audiences, seconds, claims)
    ends = datetime.now(UTC) + timedelta(seconds=seconds)
    spec |= {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound}
    request["status"] = {"token": text, "expirationTimestamp": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
    request["metadata"] = {"name": record.name, "namespace": record.namespace, "creationTimestamp": now_text()}
    return request
