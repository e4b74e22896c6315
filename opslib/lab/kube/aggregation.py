"""APIs that other servers serve, behind this one: an APIService with a service is called for its version (k8s.io/kube-aggregator).

The server that stands behind is asked what it has; that takes part in discovery like everything else. All requests below its group and
version are handed on, with the user's name in headers, once this server has authorized them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from opslib.lab.kube.access import User
from opslib.lab.kube.errors import Object
from opslib.lab.kube.objects import now_text
from opslib.lab.kube.resources import Registry, Resource
from opslib.lab.kube.store import Change, Changed, Record, Store

STORAGE = "apiservices.apiregistration.k8s.io"
DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
_MANAGED = "kube-aggregator.kubernetes.io/automanaged"
# the order of groups in what kubectl prints (pkg/controlplane/apiserver/aggregator.go)
_PRIORITIES = {
    "": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600, "autoscaling": 17500,
    "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100, "rbac.authorization.k8s.io": 17000,
    "storage.k8s.io": 16800, "apiextensions.k8s.io": 16700, "admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600,
    "coordination.k8s.io": 16500, "node.k8s.io": 16300, "discovery.k8s.io": 16200,
}  # fmt: skip
_VERSIONS = {("", "v1"): 1, ("autoscaling", "v2"): 30}
_CHECK_SECONDS, _CHECK_AGAIN_SECONDS = 30.0, 1.0
_HANDED_ON = {b"accept", b"content-type", b"user-agent", b"if-none-match"}
_GIVEN_BACK = {b"etag", b"warning", b"vary", b"cache-control", b"retry-after", b"audit-id"}

Headers = list[tuple[bytes, bytes]]


class Unavailable(Exception):
    """The server behind an API does not answer: what is said of the API, and what its client is told."""

    def __init__(self, reason: str, message: str, told: str = "service unavailable") -> None:
        super().__init__(message)
        self.reason = reason
        self.told = told


class Reply:
    """What the server behind answers: status and headers, and the body as it comes."""

    def __init__(self, status: int, headers: Headers, body: AsyncIterator[bytes]) -> None:
        self.status = status
        self.body = body
        self.content_type = next((value.decode() for name, value in headers if name == b"content-type"), "application/json")
        self.headers = [(name, value) for name, value in headers if name in _GIVEN_BACK and name != b"cache-control"]
        self.endless = not any(name == b"content-length" for name, _value in headers)


class Aggregator:
    """The APIs behind this server.

    Parameters
    ----------
    certificate
        Paths of the certificate and key that show the servers behind who calls.
    """

    def __init__(self, store: Store, registry: Registry, certificate: tuple[str, str] | None) -> None:
        self._store = store
        self._registry = registry
        self._certificate = certificate
        self._wake = asyncio.Event()
        self._known: dict[tuple[str, str], Object] = {}
        self._look()
        self._register()
        store.listen(STORAGE, lambda change: self._look())
        store.listen(DEFINITIONS, lambda change: self._register())
        for storage in ("services", "endpoints"):
            store.listen(storage, self._moved)

    def _look(self) -> None:
        specs = [record.object()["spec"] for record in self._store.records(STORAGE)]
        found = {(spec.get("group", ""), spec["version"]): spec for spec in specs if spec.get("service")}
        for group, version in self._known.keys() - found.keys():
            self._registry.remove_remote(group, version)
        self._known = found
        self._wake.set()

    def serves(self, group: str, version: str) -> bool:
        """Whether a server behind this one has that group and version."""
        return (group, version) in self._known

    def _moved(self, change: Change) -> None:
        names = {(spec["service"]["namespace"], spec["service"]["name"]) for spec in self._known.values()}
        if change.record.key in names:
            self._wake.set()

    def _register(self) -> None:
        """Keep an APIService for each group and version that this server has itself."""
        system = self._store.get("namespaces", ("", "kube-system"))
        begun = system.object()["metadata"]["creationTimestamp"] if system is not None else now_text()
        own = {(one.group, one.version): _PRIORITIES.get(one.group) for one in self._registry if one.custom is None}
        wanted = {place: (priority, 15, "onstart", begun) for place, priority in own.items() if priority is not None}
        for record in self._store.records(DEFINITIONS):
            obj = record.object()
            spec, made = obj["spec"], obj["metadata"]["creationTimestamp"]
            wanted |= {(spec["group"], one["name"]): (1000, 100, "true", made) for one in spec["versions"] if one.get("served")}
        there = {record.name: record for record in self._store.records(STORAGE)}
        for (group, version), (minimum, priority, kind, made) in wanted.items():
            name = f"{version}.{group}"
            if name not in there:
                self._store.create(STORAGE, ("", name), _local(name, group, version, minimum, priority, kind, made))
        names = {f"{version}.{group}" for group, version in wanted}
        for name, record in there.items():
            if record.labels.get(_MANAGED) == "true" and name not in names:
                self._store.delete(STORAGE, record)

    # --- requests ---

    async def call(self, group: str, version: str, method: str, target: str, headers: Headers, body: bytes, user: User) -> Reply:
        """Hand a request on.

        Raises
        ------
        Unavailable
            There is no answer.
        """
        handed = [(name, value) for name, value in headers if name in _HANDED_ON]
        handed += [(b"x-remote-user", user.name.encode()), *((b"x-remote-group", one.encode()) for one in user.groups)]
        return await self._call(self._known[(group, version)], method, target, handed, body)

    async def _call(self, spec: Object, method: str, target: str, headers: Headers, body: bytes = b"") -> Reply:
        import h11

        host, port = self._address(spec["service"])
        try:
            opening = asyncio.open_connection(host, port, ssl=self._tls(spec), server_hostname=_server_name(spec["service"]))
            reader, writer = await asyncio.wait_for(opening, 5)
        except (OSError, TimeoutError) as error:
            raise self._silent(spec, f"dial tcp {host}:{port}: {_words(error)}") from None
        connection = h11.Connection(h11.CLIENT)
        sent = [(b"host", f"{host}:{port}".encode()), (b"content-length", str(len(body)).encode()), *headers]
        data = connection.send(h11.Request(method=method, target=target, headers=sent)) or b""
        writer.write(data + ((connection.send(h11.Data(data=body)) or b"") if body else b"") + (connection.send(h11.EndOfMessage()) or b""))

        async def events() -> AsyncIterator[Any]:
            try:
                await writer.drain()
                while True:
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        connection.receive_data(await reader.read(65536))
                    elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                        return
                    else:
                        yield event
            except (OSError, h11.RemoteProtocolError) as error:
                raise self._silent(spec, _words(error)) from None
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        stream = events()
        try:
            head = await asyncio.wait_for(anext(stream), 60)
        except (StopAsyncIteration, TimeoutError) as error:
            await stream.aclose()  # type: ignore[attr-defined]
            raise self._silent(spec, _words(error)) from None

        async def rest() -> AsyncIterator[bytes]:
            try:
                async for event in stream:
                    if isinstance(event, h11.Data):
                        yield bytes(event.data)
            finally:
                await stream.aclose()  # type: ignore[attr-defined]

        return Reply(head.status_code, [(bytes(name), bytes(value)) for name, value in head.headers], rest())

    @staticmethod
    def _silent(spec: Object, why: str) -> Unavailable:
        address = f"https://{_server_name(spec['service'])}/apis/{spec['group']}/{spec['version']}"
        message = f'failing or missing response from {address}: Get "{address}": {why}'
        return Unavailable("FailedDiscoveryCheck", message, f"error trying to reach service: {why}")

    def _address(self, service: Object) -> tuple[str, int]:
        """Where a service is: what its external name names, or its first endpoint that is ready."""
        port = int(service.get("port") or 443)
        key = (service["namespace"], service["name"])
        record = self._store.get("services", key)
        if record is None:
            raise Unavailable("ServiceNotFound", f'service/{service["name"]} in "{service["namespace"]}" is not present')
        spec = record.object()["spec"]
        if spec.get("type") == "ExternalName":
            return str(spec["externalName"]), port
        names = [one.get("name", "") for one in spec.get("ports") or [] if one.get("port") == port]
        if not names:
            about = f'service/{service["name"]} in "{service["namespace"]}"'
            raise Unavailable("ServicePortError", f"{about} is not listening on port {port}")
        there = self._store.get("endpoints", key)
        for subset in (there.object().get("subsets") or []) if there is not None else []:
            for one in subset.get("ports") or []:
                if subset.get("addresses") and one.get("name", "") == names[0]:
                    return str(subset["addresses"][0]["ip"]), int(one["port"])
        about = f'endpointslices for service/{service["name"]} in "{service["namespace"]}"'
        raise Unavailable("MissingEndpoints", f'{about} have no addresses with port name "{names[0]}"')

    def _tls(self, spec: Object) -> ssl.SSLContext:
        bundle = spec.get("caBundle")
        context = ssl.create_default_context(cadata=base64.b64decode(bundle).decode("ascii") if bundle else None)
        if spec.get("insecureSkipTLSVerify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self._certificate is not None:
            context.load_cert_chain(*self._certificate)
        return context

    # --- whether they answer, and what they have ---

    async def run(self) -> None:
        """Ask the servers behind what they have, at each change of an APIService and now and then."""
        while True:
            self._wake.clear()
            well = [await self._check(record) for record in self._store.records(STORAGE) if record.object()["spec"].get("service")]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _CHECK_SECONDS if all(well) else _CHECK_AGAIN_SECONDS)

    async def _check(self, record: Record) -> bool:
        obj = record.object()
        spec = obj["spec"]
        group, version = spec["group"], spec["version"]
        target = f"/apis/{group}/{version}"
        try:
            reply = await self._call(spec, "GET", target, [(b"accept", b"application/json"), (b"x-remote-user", b"system:kube-aggregator")])
            content = b"".join([part async for part in reply.body])
            if not 200 <= reply.status < 300:
                address = f"https://{_server_name(spec['service'])}{target}"
                raise Unavailable("FailedDiscoveryCheck", f"bad status from {address}: {reply.status}")
            resources = _resources(group, version, msgspec.json.decode(content))
        except Unavailable as error:
            self._report(record, "False", error.reason, str(error))
            return False
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            self._report(record, "False", "FailedDiscoveryCheck", f"what {target} answers is no list of resources: {error}")
            return False
        if {one for one in self._registry if one.remote and (one.group, one.version) == (group, version)} != {*resources}:
            self._registry.remove_remote(group, version)
            for one in resources:
                self._registry.add(one)
        self._report(record, "True", "Passed", "all checks passed")
        return True

    def _report(self, record: Record, status: str, reason: str, message: str) -> None:
        obj = record.object()
        there: Object = next((one for one in (obj.get("status") or {}).get("conditions") or [] if one.get("type") == "Available"), {})
        if (there.get("status"), there.get("reason"), there.get("message")) == (status, reason, message):
            return
        since = there["lastTransitionTime"] if there.get("status") == status else now_text()
        condition = {"type": "Available", "status": status, "reason": reason, "message": message, "lastTransitionTime": since}
        obj["status"] = {**(obj.get("status") or {}), "conditions": [condition]}
        with contextlib.suppress(Changed):  # changed meanwhile: it is looked at again at once
            self._store.update(STORAGE, obj, record)


def _resources(group: str, version: str, listed: Object) -> list[Resource]:
    """The resources of a list of them, as discovery has it."""
    entries: Sequence[Object] = listed["resources"]
    return [
        Resource(
            group=one.get("group") or group,
            version=one.get("version") or version,
            plural=one["name"],
            kind=one["kind"],
            singular=one.get("singularName", ""),
            namespaced=bool(one["namespaced"]),
            short_names=tuple(one.get("shortNames") or ()),
            categories=tuple(one.get("categories") or ()),
            verbs=tuple(one["verbs"]),
            storage=f"{one['name']}.{group}",
            list_kind=f"{one['kind']}List",
            remote=True,
        )
        for one in entries
        if "/" not in one["name"]
    ]


def _local(name: str, group: str, version: str, minimum: int, priority: int, kind: str, made: str) -> Object:
    """The APIService of what the server has itself."""
    spec: Object = {"groupPriorityMinimum": minimum, "version": version, "versionPriority": _VERSIONS.get((group, version), priority)}
    condition = {"type": "Available", "status": "True", "reason": "Local", "message": "Local APIServices are always available"}
    return {
        "metadata": {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": made, "labels": {_MANAGED: kind}},
        "spec": {**spec, "group": group} if group else spec,
        "status": {"conditions": [{**condition, "lastTransitionTime": made}]},
    }


def _server_name(service: Object) -> str:
    return f"{service['name']}.{service['namespace']}.svc"


def _words(error: BaseException) -> str:
    return "connect: connection refused" if isinstance(error, ConnectionRefusedError) else str(error) or "i/o timeout"
