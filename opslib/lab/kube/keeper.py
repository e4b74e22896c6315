"""What the cluster does by itself: default service accounts, the root certificate in every namespace, emptying of namespaces that are
deleted, definitions that become resources. In a real cluster some of it is done by controllers; here it happens with the change.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable

from opslib.lab.kube import bootstrap, defaults, resources
from opslib.lab.kube.errors import Object, Refused
from opslib.lab.kube.objects import Objects, Options, now_text
from opslib.lab.kube.resources import Registry, Resource
from opslib.lab.kube.store import Exists, Store

DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
_LEFT_ALONE = ("events",)
_AGAIN_SECONDS = 1.0


class Keeper:
    """See the module's text.

    Parameters
    ----------
    root_certificate
        PEM of the authority that signed the server's certificate.
    address
        Host and port under which the server is reached, for the service ``kubernetes``.
    """

    def __init__(self, store: Store, registry: Registry, root_certificate: str, address: tuple[str, int], service_address: str) -> None:
        self._store = store
        self._registry = registry
        self._certificate = root_certificate
        self._address = address
        self._service_address = service_address
        self._waiting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun = ""  # while the cluster is set up: when that was
        self.objects: Objects | None = None
        self.user_options: Callable[[], Options] | None = None

    # --- the first start ---

    def begin(self) -> None:
        """Put in what a cluster starts with, where it is not there; it is as old as the namespace kube-system."""
        system = self._store.get("namespaces", ("", "kube-system"))
        self._begun = system.object()["metadata"]["creationTimestamp"] if system is not None else ""
        for record in self._store.records(DEFINITIONS):
            self.serve(record.object())
        for name in bootstrap.NAMESPACES:
            if self._store.get("namespaces", ("", name)) is None:
                obj: Object = {"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
                defaults.apply_defaults("namespaces", obj)
                self._put("namespaces", "", obj)
        for record in self._store.records("namespaces"):
            self._furnish(record.name)
        rbac = "rbac.authorization.k8s.io"
        for storage, objects in (
            (f"clusterroles.{rbac}", bootstrap.cluster_roles()),
            (f"clusterrolebindings.{rbac}", bootstrap.cluster_role_bindings()),
            ("priorityclasses.scheduling.k8s.io", bootstrap.priority_classes()),
        ):
            for one in objects:
                self._put(storage, "", one)
        self._renew("services", "default", self._kubernetes_service())
        host, port = self._address
        self._renew(
            "endpoints",
            "default",
            {
                "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
                "subsets": [{"addresses": [{"ip": host}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
            },
        )
        self._renew(
            "endpointslices.discovery.k8s.io",
            "default",
            {
                "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}, "generation": 1},
                "addressType": "IPv4",
                "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            },
        )
        self._begun = ""

    def resume(self) -> None:
        """Go on with the namespaces that were being emptied; called in the event loop."""
        for record in self._store.records("namespaces"):
            if record.fields.get("status.phase") == "Terminating":
                self._later(record.name)

    def _kubernetes_service(self) -> Object:
        return {
            "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "clusterIP": self._service_address,
                "clusterIPs": [self._service_address],
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": self._address[1]}],
                "sessionAffinity": "None",
                "type": "ClusterIP",
            },
            "status": {"loadBalancer": {}},
        }

    def _put(self, storage: str, namespace: str, obj: Object) -> None:
        metadata = obj["metadata"]
        metadata |= {"creationTimestamp": self._begun or now_text(), "uid": str(uuid.uuid4())}
        if namespace:
            metadata["namespace"] = namespace
        with contextlib.suppress(Exists):
            self._store.create(storage, (namespace, metadata["name"]), obj)

    def _renew(self, storage: str, namespace: str, obj: Object) -> None:
        """Put an object in; one that is there from a start with other addresses or certificates gets what has changed."""
        record = self._store.get(storage, (namespace, obj["metadata"]["name"]))
        if record is None:
            self._put(storage, namespace, obj)
        else:
            self._store.update(storage, {**record.object(), **obj, "metadata": record.object()["metadata"]}, record)

    def _furnish(self, namespace: str) -> None:
        record = self._store.get("namespaces", ("", namespace))
        if record is None or record.fields.get("status.phase") == "Terminating":
            return
        self._put("serviceaccounts", namespace, {"metadata": {"name": "default"}})
        note = (
            "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service"
        )
        annotation = {
            "kubernetes.io/description": f"{note} IP or kubernetes.default.svc. No other usage is guaranteed across distributions of "
            "Kubernetes clusters."
        }
        self._renew(
            "configmaps",
            namespace,
            {"metadata": {"name": "kube-root-ca.crt", "annotations": annotation}, "data": {"ca.crt": self._certificate}},
        )

    # --- after each change ---

    def changed(self, what: str, resource: Resource, obj: Object) -> None:
        """Called after each change."""
        metadata = obj["metadata"]
        storage = resource.storage
        if storage == "namespaces":
            if what == "created":
                self._furnish(metadata["name"])
            elif metadata.get("deletionTimestamp"):
                self._later(metadata["name"])
        elif what == "deleted" and storage in ("serviceaccounts", "configmaps") and metadata["name"] in ("default", "kube-root-ca.crt"):
            self._furnish(metadata.get("namespace", ""))
        elif storage == DEFINITIONS:
            if what == "deleted":
                self._stop_serving(obj)
            else:
                self._establish(obj)
        namespace = metadata.get("namespace")
        if what == "deleted" and namespace:
            record = self._store.get("namespaces", ("", namespace))
            if record is not None and record.fields.get("status.phase") == "Terminating":
                self._later(namespace)

    # --- namespaces ---

    def _later(self, namespace: str, seconds: float = 0.01) -> None:
        if namespace in self._waiting:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._waiting.add(namespace)

        def begin() -> None:
            task = loop.create_task(self._empty(namespace))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        loop.call_later(seconds, begin)

    async def _empty(self, namespace: str) -> None:
        """Delete what is in a namespace under deletion; when nothing is left, let it go."""
        self._waiting.discard(namespace)
        record = self._store.get("namespaces", ("", namespace))
        if record is None or record.fields.get("status.phase") != "Terminating" or self.objects is None or self.user_options is None:
            return
        left: dict[str, int] = {}
        held: dict[str, int] = {}
        for storage in sorted(self._store.resources(), key=lambda one: one != "pods"):
            resource = self._registry.by_storage(storage)
            if resource is None or not resource.namespaced:
                continue
            for one in self._store.records(storage, namespace):
                if not (one.object()["metadata"]).get("deletionTimestamp"):
                    try:
                        await self.objects.delete(resource, one, {}, self.user_options())
                    except Refused as error:
                        if error.code != 404:  # a webhook forbids it
                            self._later(namespace, _AGAIN_SECONDS)
                there = self._store.get(storage, one.key)
                if there is not None:
                    name = f"{resource.plural}.{resource.group}"
                    left[name] = left.get(name, 0) + 1
                    for finalizer in there.object()["metadata"].get("finalizers") or ():
                        held[finalizer] = held.get(finalizer, 0) + 1
            if left and storage == "pods":
                break  # what pods may still need goes after them
        record = self._store.get("namespaces", ("", namespace))
        if record is None:
            return
        obj = record.object()
        if not left:
            obj["spec"] = {name: value for name, value in (obj.get("spec") or {}).items() if name != "finalizers"}
            if not obj["metadata"].get("finalizers") and not obj["spec"]:
                self._store.delete("namespaces", record, obj)
                return
        obj["status"] = {"phase": "Terminating", "conditions": _conditions(obj, left, held)}
        self._store.update("namespaces", obj, record)

    # --- definitions ---

    def _establish(self, obj: Object) -> None:
        """Accept a definition's names and serve it."""
        record = self._store.get(DEFINITIONS, ("", obj["metadata"]["name"]))
        if record is None:
            return
        stored = record.object()
        establish(stored)
        self._store.update(DEFINITIONS, stored, record)
        self.serve(stored)

    def serve(self, definition: Object) -> None:
        """Serve the resource that a definition describes."""
        spec = definition["spec"]
        self._registry.remove_custom(spec["group"], spec["names"]["plural"])
        for resource in resources.of_definition(definition):
            self._registry.add(resource)
        self._store.look_again(f"{spec['names']['plural']}.{spec['group']}")

    def _stop_serving(self, definition: Object) -> None:
        spec = definition["spec"]
        self._store.forget(f"{spec['names']['plural']}.{spec['group']}")
        self._registry.remove_custom(spec["group"], spec["names"]["plural"])


def establish(definition: Object) -> None:
    """Accept a definition's names."""
    spec, status = definition["spec"], definition.setdefault("status", {})
    storage_version = next(one["name"] for one in spec["versions"] if one.get("storage"))
    status["acceptedNames"] = dict(spec["names"])
    status["storedVersions"] = list(dict.fromkeys([*(status.get("storedVersions") or []), storage_version]))
    if any(one.get("type") == "Established" for one in status.get("conditions") or []):
        return
    now = now_text()
    status["conditions"] = [
        {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        for kind, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]


def _conditions(obj: Object, left: dict[str, int], held: dict[str, int]) -> list[Object]:
    before = {one.get("type"): one for one in (obj.get("status") or {}).get("conditions") or []}
    remaining = ", ".join(f"{name} has {count} resource instances" for name, count in sorted(left.items()))
    finalizers = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(held.items()))
    wanted = [
        ("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered"),
        ("NamespaceDeletionGroupVersionParsingFailure", "False", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ("NamespaceDeletionContentFailure", "False", "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        (
            "NamespaceContentRemaining",
            "True" if left else "False",
            "SomeResourcesRemain" if left else "ContentRemoved",
            f"Some resources are remaining: {remaining}" if left else "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            "True" if held else "False",
            "SomeFinalizersRemain" if held else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {finalizers}"
            if held
            else "All content-preserving finalizers finished",
        ),
    ]
    conditions = []
    for kind, status, reason, message in wanted:
        one = before.get(kind)
        if one is None or one.get("status") != status or one.get("message") != message:
            one = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now_text()}
        conditions.append(one)
    return conditions
