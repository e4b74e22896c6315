"""Endpoints and EndpointSlices of services (pkg/controller/endpoint, k8s.io/endpointslice)."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable

from opslib.lab.api import Object
from opslib.lab.controllers.cluster import Cluster
from opslib.lab.controllers.objects import (
    annotations_of,
    is_deleted,
    is_ready,
    itself,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
    split,
    uid_of,
)
from opslib.lab.controllers.runner import Controller

_MANAGER = "endpointslice-controller.k8s.io"
_SERVICE = "kubernetes.io/service-name"
_MANAGED = "endpointslice.kubernetes.io/managed-by"
_ENDPOINTS_MANAGED = "endpoints.kubernetes.io/managed-by"
_HEADLESS = "service.kubernetes.io/headless"
_TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"
_MOST = 100  # endpoints in a slice
_MOST_ADDRESSES = 1000  # in an Endpoints object
_OVER = "endpoints.kubernetes.io/over-capacity"


# --- which pods -------------------------------------------------------------------------------------------------------------------------


def _pods_of(cluster: Cluster, service: Object, *, ending: bool) -> list[Object]:
    """The pods that a service selects and that have an address; `ending`: also those that are being deleted."""
    selector = (service["spec"].get("selector") or {}).items()
    found = []
    for pod in cluster["pods"].list(namespace_of(service)):
        status = pod.get("status", {})
        if status.get("phase") in ("Succeeded", "Failed") or not status.get("podIP"):
            continue
        if is_deleted(pod) and not ending and not service["spec"].get("publishNotReadyAddresses"):
            continue
        if selector <= labels_of(pod).items():
            found.append(pod)
    return sorted(found, key=name_of)


def _port_number(pod: Object, port: Object) -> int | None:
    """The number of a service's port on a pod; None where the pod has no port of that name."""
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target or int(port["port"])
    spec = pod["spec"]
    sidecars = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    for container in [*spec["containers"], *sidecars]:
        for one in container.get("ports") or ():
            if one.get("name") == target and one.get("protocol", "TCP") == port.get("protocol", "TCP"):
                return int(one["containerPort"])
    return None


def _ports(pod: Object, service: Object) -> list[Object]:
    found = []
    for port in service["spec"].get("ports") or ():
        number = _port_number(pod, port)
        if number is not None:
            one = {"name": port.get("name", ""), "port": number, "protocol": port.get("protocol", "TCP")}
            found.append(one | ({"appProtocol": port["appProtocol"]} if port.get("appProtocol") else {}))
    return found


def _hostname(pod: Object, service: Object) -> Object:
    spec = pod["spec"]
    return {"hostname": spec["hostname"]} if spec.get("hostname") and spec.get("subdomain") == name_of(service) else {}


def _address(pod: Object, family: str) -> str | None:
    for one in pod["status"].get("podIPs") or [{"ip": pod["status"]["podIP"]}]:
        if (ipaddress.ip_address(one["ip"]).version == 6) is (family == "IPv6"):
            return str(one["ip"])
    return None


def _reference(pod: Object) -> Object:
    return {"kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod), "uid": uid_of(pod)}


def _trigger(service: Object, pods: list[Object]) -> str:
    """When the last of the changes was that led here, as far as one can tell."""
    moments = [
        one["lastTransitionTime"]
        for pod in pods
        for one in pod["status"].get("conditions") or ()
        if one["type"] == "Ready" and one.get("lastTransitionTime")
    ]
    return str(max([service["metadata"]["creationTimestamp"], *moments]))


def _labels(service: Object, own: dict[str, str], reserved: Iterable[str]) -> dict[str, str]:
    labels = {name: value for name, value in labels_of(service).items() if name not in reserved}
    if service["spec"].get("clusterIP") in (None, "", "None"):
        labels[_HEADLESS] = ""
    return labels | own


# --- slices -----------------------------------------------------------------------------------------------------------------------------


def _sync_slices(cluster: Cluster, key: str) -> None:
    service = cluster["services"].get(*split(key))
    if service is None or service["spec"].get("type") == "ExternalName" or not service["spec"].get("selector") or is_deleted(service):
        return
    pods = _pods_of(cluster, service, ending=True)
    there = [
        one
        for one in cluster["endpointslices.discovery.k8s.io"].list(namespace_of(service))
        if labels_of(one).get(_SERVICE) == name_of(service) and labels_of(one).get(_MANAGED) == _MANAGER and not is_deleted(one)
    ]
    for family in service["spec"].get("ipFamilies") or ["IPv4"]:
        _sync_family(cluster, service, family, pods, [one for one in there if one["addressType"] == family])


def _sync_family(cluster: Cluster, service: Object, family: str, pods: list[Object], there: list[Object]) -> None:
    groups: dict[str, tuple[list[Object], list[Object]]] = {}
    for pod in pods:
        address = _address(pod, family)
        if address is not None:
            ports = _ports(pod, service)
            groups.setdefault(json.dumps(ports, sort_keys=True), (ports, []))[1].append(_endpoint(cluster, service, pod, address))
    trigger = _trigger(service, pods)
    labels = _labels(service, {_SERVICE: name_of(service), _MANAGED: _MANAGER}, (_SERVICE, _MANAGED, _HEADLESS))
    wanted: list[tuple[list[Object], list[Object]]] = [
        (ports, list(chunk)) for ports, endpoints in groups.values() for chunk in _chunks(endpoints)
    ]
    if not wanted:
        wanted.append(([], []))
    left = sorted(there, key=lambda one: one["metadata"]["creationTimestamp"])
    for ports, endpoints in wanted:
        # a slice that has these ports already, else any
        old = next((one for one in left if (one.get("ports") or []) == ports), left[0] if left else None)
        if old is None:
            metadata: Object = {"generateName": f"{name_of(service)}-", "namespace": namespace_of(service), "labels": labels}
            metadata |= {"ownerReferences": [owner_reference(service)], "annotations": {_TRIGGER: trigger}}
            body = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": family}
            cluster.create({**body, "endpoints": endpoints, "ports": ports})
            continue
        left.remove(old)
        same = _by_address(old.get("endpoints") or []) == _by_address(endpoints) and (old.get("ports") or []) == ports
        if not same or labels_of(old) != labels:
            metadata = {**old["metadata"], "labels": labels, "annotations": {**annotations_of(old), _TRIGGER: trigger}}
            cluster.replace({**old, "metadata": metadata, "endpoints": endpoints, "ports": ports})
    for one in left:
        cluster.delete(one)


def _endpoint(cluster: Cluster, service: Object, pod: Object, address: str) -> Object:
    serving, ending = is_ready(pod), is_deleted(pod)
    ready = bool(service["spec"].get("publishNotReadyAddresses")) or (serving and not ending)
    endpoint: Object = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": ending},
        "targetRef": _reference(pod),
        **_hostname(pod, service),
    }
    if pod["spec"].get("nodeName"):
        endpoint["nodeName"] = pod["spec"]["nodeName"]
        node = cluster["nodes"].get("", pod["spec"]["nodeName"])
        zone = labels_of(node).get("topology.kubernetes.io/zone") if node is not None else None
        if zone:
            endpoint["zone"] = zone
    return endpoint


def _chunks(endpoints: list[Object]) -> Iterable[list[Object]]:
    for start in range(0, len(endpoints), _MOST):
        yield endpoints[start : start + _MOST]


def _by_address(endpoints: list[Object]) -> dict[str, Object]:
    return {one["addresses"][0]: one for one in endpoints}


# --- endpoints --------------------------------------------------------------------------------------------------------------------------


def _sync_endpoints(cluster: Cluster, key: str) -> None:
    namespace, name = split(key)
    service = cluster["services"].get(namespace, name)
    there = cluster["endpoints"].get(namespace, name)
    if service is None:
        if there is not None and labels_of(there).get(_ENDPOINTS_MANAGED) == "endpoint-controller":
            cluster.delete(there)
        return
    if service["spec"].get("type") == "ExternalName" or not service["spec"].get("selector") or is_deleted(service):
        return
    pods = _pods_of(cluster, service, ending=False)
    subsets = _subsets(service, pods)
    labels = _labels(service, {_ENDPOINTS_MANAGED: "endpoint-controller"}, (_ENDPOINTS_MANAGED, _HEADLESS))
    if there is not None and (there.get("subsets") or []) == subsets and labels_of(there) == labels:
        return
    annotations = {_TRIGGER: _trigger(service, pods)}
    if len(pods) > _MOST_ADDRESSES:
        annotations[_OVER] = "truncated"
    metadata = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
    if there is None:
        body: Object = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
        cluster.create(body | ({"subsets": subsets} if subsets else {}))
    else:
        kept = {field: value for field, value in annotations_of(there).items() if field != _OVER}
        cluster.replace(
            {**there, "metadata": {**there["metadata"], "labels": labels, "annotations": kept | annotations}, "subsets": subsets}
        )


def _subsets(service: Object, pods: list[Object]) -> list[Object]:
    """Addresses that have the same ports stand together; the ports of those that are ready and those that are not in one subset."""
    family = (service["spec"].get("ipFamilies") or ["IPv4"])[0]
    headless = not service["spec"].get("ports")
    grouped: dict[str, Object] = {}
    for pod in pods[:_MOST_ADDRESSES]:
        address = _address(pod, family)
        named = [{field: value for field, value in one.items() if value != ""} for one in _ports(pod, service)]
        ports = sorted(named, key=lambda one: json.dumps(one, sort_keys=True))
        if address is None or (not ports and not headless):
            continue
        subset = grouped.setdefault(json.dumps(ports, sort_keys=True), {"addresses": [], "notReadyAddresses": [], "ports": ports})
        one = {"ip": address, **_hostname(pod, service), "nodeName": pod["spec"].get("nodeName", ""), "targetRef": _reference(pod)}
        ready = is_ready(pod) or service["spec"].get("publishNotReadyAddresses")
        subset["addresses" if ready else "notReadyAddresses"].append(one)
    made = []
    for _ports_text, subset in sorted(grouped.items()):
        for field in ("addresses", "notReadyAddresses"):
            subset[field].sort(key=lambda one: one["ip"])
        made.append({field: value for field, value in subset.items() if value})
    return made


# --- who is concerned -------------------------------------------------------------------------------------------------------------------


def _of_pod(cluster: Cluster, pod: Object) -> Iterable[str]:
    labels = labels_of(pod).items()
    for service in cluster["services"].list(namespace_of(pod)):
        selector = service["spec"].get("selector")
        if selector and selector.items() <= labels:
            yield f"{namespace_of(service)}/{name_of(service)}"


def _of_slice(_cluster: Cluster, one: Object) -> Iterable[str]:
    service = labels_of(one).get(_SERVICE)
    return (f"{namespace_of(one)}/{service}",) if service and labels_of(one).get(_MANAGED) == _MANAGER else ()


ENDPOINTS = Controller(name="endpoints", reconcile=_sync_endpoints, watches={"services": itself, "pods": _of_pod, "endpoints": itself})
ENDPOINT_SLICES = Controller(
    name="endpointslice",
    reconcile=_sync_slices,
    watches={"services": itself, "pods": _of_pod, "endpointslices.discovery.k8s.io": _of_slice, "nodes": lambda cluster, node: ()},
)
