"""The platform in a cluster: what users have applied there, on the real engine through the API, on the embedded one before its start."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.errors import OpsError
from opslib.lab.api import Api, ApiError, Object
from opslib.messages import _

if TYPE_CHECKING:
    from opslib.lab.world.model import World

MANIFESTS = Path(__file__).parent / "manifests"
_STAGES = (
    ("CustomResourceDefinition", "Namespace", "StorageClass"),
    ("PersistentVolume", "PersistentVolumeClaim", "ServiceAccount", "ConfigMap", "Secret"),
)


def permissions() -> list[Object]:
    """What the test users may: `viewer` reads all but secrets, `nobody` nothing."""
    role: dict[str, Any] = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "viewer"}
    version = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": version, "kind": "ClusterRoleBinding", "metadata": {"name": "lab-viewer"}, "roleRef": role, "subjects": [subject]}
    ]


def objects(world: World) -> list[Object]:
    """All that users apply, in the order in which it is to be done: the files of ``manifests``, certificates, and the world's workloads."""
    from opslib.lab.world.manifests import manifests

    return [*_files(), *manifests(world), *_certificates()]


def _files() -> list[Object]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [obj for path in sorted(MANIFESTS.glob("*.yaml")) for obj in yaml.load_all(path.read_bytes(), loader) if obj]


def _certificates() -> list[Object]:
    """A certificate for each host of the Ingresses."""
    from opslib.lab import certificates
    from opslib.lab.world.manifests import HOSTS

    authority = certificates.authority("Example Trust Services")
    made = []
    for host, _path, service in HOSTS:
        pair = certificates.issue(authority, host, hosts=[host])
        data = {name: base64.b64encode(text.encode()).decode() for name, text in (("tls.crt", pair.certificate), ("tls.key", pair.key))}
        metadata = {"namespace": "shop", "name": f"{service}-tls", "labels": {"app": service}}
        made.append({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data})
    return made


def apply(api: Api, world: World) -> None:
    """Set the platform up, or put back what is not as it was applied.

    Definitions and namespaces come first, claims are bound before the pods that need them, so that no pod has a failure in its past.
    """
    found = objects(world)
    with ThreadPoolExecutor(8, thread_name_prefix="installation") as executor:
        for kinds in _STAGES:
            list(executor.map(lambda obj: _apply(api, obj), [obj for obj in found if obj["kind"] in kinds]))
        there = {kind for kinds in _STAGES for kind in kinds}
        list(executor.map(lambda obj: _apply(api, obj), [obj for obj in found if obj["kind"] not in there]))


def _apply(api: Api, obj: Object) -> None:
    """Apply; a kind that was just defined is known to the server after a moment only."""

    def bound() -> bool:
        return bool(api.get(api.path_of(obj)).get("status", {}).get("phase") == "Bound")

    deadline = time.monotonic() + 15
    while True:
        try:
            applied = api.apply(obj)
        except ApiError as error:
            if error.status != 404 or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            if "status" in obj:  # of an operator, which no lab has
                api.patch(api.path_of(obj), {"status": obj["status"]}, subresource="status")
            if obj["kind"] == "PersistentVolumeClaim" and applied.get("status", {}).get("phase") != "Bound":
                _poll(bound, deadline)
            return


def _poll(done: Callable[[], bool], deadline: float) -> None:
    while not done() and time.monotonic() < deadline:
        time.sleep(0.1)


def wait(api: Api, world: World, *, deadline_seconds: float = 120, stop: threading.Event | None = None) -> None:
    """Wait until every workload has all its pods ready.

    Raises
    ------
    OpsError
        Some have not within `deadline_seconds`; they are named.
    """
    deadline = time.monotonic() + deadline_seconds
    while True:
        late = _late(api, world)
        if not late:
            return
        if time.monotonic() > deadline:
            raise OpsError(_("The platform's workloads are not ready: {names}", names=late))
        if (stop or threading.Event()).wait(0.3):
            raise InterruptedError("stopped")


def _late(api: Api, world: World) -> list[str]:
    """The workloads that have not all their pods ready."""
    status = {
        (kind, obj["metadata"]["namespace"], obj["metadata"]["name"]): obj.get("status", {})
        for kind in ("Deployment", "StatefulSet", "DaemonSet")
        for obj in api.list(f"/apis/apps/v1/{kind.lower()}s")
    }
    late = []
    for service in world.services:
        found = status.get((service.kind, service.namespace, service.name), {})
        if service.kind == "DaemonSet":
            well = found.get("desiredNumberScheduled") and found.get("numberReady") == found["desiredNumberScheduled"]
        else:
            well = found.get("readyReplicas", 0) == found.get("replicas", 0) == service.replicas
        if not well:
            late.append(f"{service.namespace}/{service.name}")
    return late
