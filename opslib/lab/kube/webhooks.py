"""Admission webhooks: who is asked about a request, over HTTPS with an AdmissionReview, and what comes of the answers.

The rules are those of k8s.io/apiserver (pkg/admission/plugin/webhook, pkg/util/webhook). What is different: ``matchConditions`` need CEL,
which is not evaluated here, so configurations that have them are refused; and nothing is behind a Service but what its external name names,
so one that has an address of the cluster is not reached.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import copy
import json
import socket
import ssl
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from opslib.lab.kube import events, patches, selectors
from opslib.lab.kube.decoding import object_of
from opslib.lab.kube.defaults import apply_defaults
from opslib.lab.kube.errors import Object, Refused, bad_request, internal
from opslib.lab.kube.resources import Registry, Resource
from opslib.lab.kube.store import Store
from opslib.lab.kube.validation import NO_SIDE_EFFECTS, REVIEW_VERSIONS

if TYPE_CHECKING:
    from opslib.lab.kube.objects import Options

GROUP = "admissionregistration.k8s.io"
MUTATING, VALIDATING = (f"{kind}webhookconfigurations.{GROUP}" for kind in ("mutating", "validating"))
_BODY_LIMIT = 4 * 2**20
# what a client of the API server says of a status that comes without words (apimachinery, pkg/api/errors: NewGenericServerResponse)
_STATUSES = {
    400: "the server rejected our request for an unknown reason",
    401: "the server has asked for the client to provide credentials",
    404: "the server could not find the requested resource",
    405: "the server does not allow this method on the requested resource",
    409: "the server reported a conflict",
    422: "the server rejected our request due to an error in our request",
    429: "the server has received too many requests and has asked us to try again later",
    503: "the server is currently unable to handle the request",
    504: "the server was unable to return a response in the time allotted, but may still be processing the request",
}


@dataclass(slots=True)
class Request:
    """What webhooks are asked about.

    Parameters
    ----------
    operation
        "CREATE", "UPDATE", "DELETE" or "CONNECT".
    obj, old
        The object as it would be, and as it is; None where there is none.
    kind
        Its version and kind, where they are not the resource's: those of a Scale, an Eviction...
    made
        Names in its metadata that the server has filled in already and shows no webhook yet, nor its status.
    given
        The DeleteOptions of a deletion.
    """

    resource: Resource
    operation: str
    obj: Object | None
    old: Object | None
    options: Options
    name: str = ""
    namespace: str = ""
    subresource: str = ""
    kind: tuple[str, str] | None = None
    made: tuple[str, ...] = ()
    given: Object = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Hook:
    """One webhook of a configuration; `key` tells it from all others."""

    key: tuple[str, int]
    spec: Object

    @property
    def name(self) -> str:
        return str(self.spec.get("name", ""))


class _Failed(Exception):
    """A webhook could not be asked, or did not answer as it has to."""


class Webhooks:
    """The webhooks of the cluster."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._known: dict[str, list[_Hook]] = {}
        for storage in (MUTATING, VALIDATING):
            store.listen(storage, lambda change: self._known.clear())

    def _hooks(self, storage: str) -> list[_Hook]:
        """All of a kind, in the order in which they are asked: by the configuration's name."""
        if storage not in self._known:
            records = sorted(self._store.records(storage), key=lambda one: one.name)
            self._known[storage] = [
                _Hook((record.name, number), spec)
                for record in records
                for number, spec in enumerate(record.object().get("webhooks") or [])
            ]
        return self._known[storage]

    # --- asking ---

    async def mutate(self, request: Request, again: Callable[[Object], None] | None = None) -> Object | None:
        """Let mutating webhooks change `request.obj`; what it is then, None where none changed it.

        `again` does once more what the server itself puts into an object: after a change. Then webhooks that want to see it are asked a
        second time, and never a third.

        Raises
        ------
        Refused
            One denies the request, or must be asked and does not answer.
        """
        seen: list[_Hook] = []
        due: set[tuple[str, int]] = set()
        changed = False

        async def ask(hook: _Hook, place: Resource) -> None:
            nonlocal changed
            if await self._change(hook, request, place):
                changed = True
                due.update(one.key for one in seen)
                seen.clear()
            if hook.spec.get("reinvocationPolicy") == "IfNeeded":
                seen.append(hook)

        for hook, place in self._asked(MUTATING, request):
            await ask(hook, place)
        if changed:
            if again is not None and request.obj is not None:
                before = copy.deepcopy(request.obj)
                again(request.obj)
                if request.obj != before:
                    due.update(one.key for one in seen)
                    seen.clear()
            for hook, place in self._asked(MUTATING, request):
                if hook.key in due:
                    await ask(hook, place)
        return request.obj if changed else None

    async def validate(self, request: Request) -> None:
        """Ask the validating webhooks, all at once.

        Raises
        ------
        Refused
            One denies the request, or must be asked and does not answer.
        """
        asked = [*self._asked(VALIDATING, request)]
        if asked:
            found = await asyncio.gather(*(self._ask(*one, request, VALIDATING) for one in asked), return_exceptions=True)
            for error in found:
                if isinstance(error, BaseException):
                    raise error

    async def admit(self, request: Request) -> None:
        """Ask all webhooks about a request whose object they may change: `request.obj`."""
        await self.mutate(request)
        await self.validate(request)

    async def _ask(self, hook: _Hook, place: Resource, request: Request, storage: str) -> Object:
        """What a webhook responds that allows the request; nothing where it may be passed over and does not answer."""
        try:
            response = await self._call(hook, place, request, storage)
        except _Failed as error:
            if hook.spec.get("failurePolicy") == "Ignore":
                return {}
            raise internal(f'failed calling webhook "{hook.name}": {error}') from None
        warnings = response.get("warnings")
        request.options.warnings += [str(one) for one in warnings] if isinstance(warnings, list) else []
        if response.get("allowed") is not True:
            raise _denied(hook.name, response.get("status") or response.get("result"))
        return response

    async def _change(self, hook: _Hook, request: Request, place: Resource) -> bool:
        response = await self._ask(hook, place, request, MUTATING)
        if not response.get("patch"):
            return False
        try:
            operations = _operations(response["patch"])
        except _Failed as error:
            if hook.spec.get("failurePolicy") == "Ignore":
                return False
            raise internal(f'failed calling webhook "{hook.name}": {error}') from None
        if not operations:
            return False
        if request.obj is None:
            raise internal(f'admission webhook "{hook.name}" attempted to modify the object, which is not supported for this operation')
        try:
            patched = patches.json_patch(_shown(place, request, request.obj), operations)
            obj = _taken(place, request, patched)
        except Refused as error:
            raise internal(error.message) from None
        changed = obj != request.obj
        request.obj = obj
        return changed

    # --- who is asked ---

    def _asked(self, storage: str, request: Request) -> Iterator[tuple[_Hook, Resource]]:
        """The webhooks that a request is for, each with the resource in whose form it sees the object.

        Made one by one: what one changes counts for the next.
        """
        if request.resource.group == GROUP:  # a webhook cannot stand in the way of its own end
            return
        for hook in self._hooks(storage):
            place = self._place(hook.spec, request)
            if place is not None and self._selects(hook.spec, request):
                yield hook, place

    def _place(self, spec: Object, request: Request) -> Resource | None:
        rules = spec.get("rules") or []
        if any(_rule_fits(rule, request, request.resource) for rule in rules):
            return request.resource
        if spec.get("matchPolicy", "Equivalent") == "Equivalent":
            others = [
                one for one in self._registry if one.storage == request.resource.storage and one != request.resource and not one.remote
            ]
            return next((one for rule in rules for one in others if _rule_fits(rule, request, one)), None)
        return None

    def _selects(self, spec: Object, request: Request) -> bool:
        objects = spec.get("objectSelector") or {}
        if objects and not any(
            one is not None and selectors.from_object(objects)((one.get("metadata") or {}).get("labels") or {})
            for one in (request.obj, request.old)
        ):
            return False
        spaces = spec.get("namespaceSelector") or {}
        is_space = request.resource.storage == "namespaces"
        if not spaces or not (request.namespace or is_space):
            return True
        if is_space and not request.subresource and request.operation in ("CREATE", "UPDATE"):
            labels = ((request.obj or {}).get("metadata") or {}).get("labels") or {}
        else:
            record = self._store.get("namespaces", ("", request.name if is_space else request.namespace))
            labels = record.labels if record is not None else {}
        return selectors.from_object(spaces)(labels)

    # --- the call ---

    async def _call(self, hook: _Hook, place: Resource, request: Request, storage: str) -> Object:
        if request.options.dry_run and hook.spec.get("sideEffects") not in NO_SIDE_EFFECTS:
            raise bad_request(f'admission webhook "{hook.name}" does not support dry run')
        version = next((one for one in hook.spec.get("admissionReviewVersions") or [] if one in REVIEW_VERSIONS), "")
        if not version:
            raise _Failed("could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)")
        identifier = str(uuid.uuid4())
        review = {"kind": "AdmissionReview", "apiVersion": f"admission.k8s.io/{version}", "request": _review(identifier, place, request)}
        try:
            answer = await self._post(hook.spec, msgspec.json.encode(review))
        except _Failed as error:
            raise _Failed(f"failed to call webhook: {error}") from None
        try:
            return _checked(answer, identifier, version, mutating=storage == MUTATING)
        except _Failed as error:
            raise _Failed(f"received invalid webhook response: {error}") from None

    async def _post(self, spec: Object, body: bytes) -> Object:
        client, seconds = spec.get("clientConfig") or {}, spec.get("timeoutSeconds", 10)
        service = client.get("service")
        if service is not None:
            server, port = f"{service['name']}.{service['namespace']}.svc", int(service.get("port") or 443)
            address = f"https://{server}:{port}{service.get('path') or '/'}"
        else:
            address = str(client.get("url", ""))
            parts = urlsplit(address)
            server, port = parts.hostname or "", parts.port or 443
            address += "" if parts.path else "/"
        address += f"?timeout={seconds}s"
        parts = urlsplit(address)
        try:
            host = server if service is None else self._host(service, port)
            async with asyncio.timeout(seconds):
                status, kind, content = await _exchange(
                    host, port, _tls(client.get("caBundle")), server, f"{parts.path}?{parts.query}", parts.netloc, body
                )
        except TimeoutError:
            raise _Failed(f'Post "{address}": context deadline exceeded') from None
        except _Failed as error:
            raise _Failed(f'Post "{address}": {error}') from None
        if not 200 <= status <= 206:
            text = content.decode("utf-8", "replace").strip() if kind.startswith("text/") or not kind else "unknown"
            unknown = f"the server responded with the status code {status} but did not return more information"
            if status >= 500:
                unknown = f"an error on the server ({json.dumps(text, ensure_ascii=False)}) has prevented the request from succeeding"
            raise _Failed(text if status in (403, 406, 415) else _STATUSES.get(status, unknown))
        try:
            answer = json.loads(content)
        except ValueError as error:
            raise _Failed(f"couldn't get version/kind; json parse error: {error}") from None
        if not isinstance(answer, dict):
            raise _Failed("couldn't get version/kind; json parse error: it is no object")
        return answer

    def _host(self, service: Object, port: int) -> str:
        """Where a Service is: what its external name names. The addresses of the cluster lead nowhere."""
        record = self._store.get("services", (service["namespace"], service["name"]))
        if record is None:
            raise _Failed(f'service "{service["name"]}" not found')
        spec = record.object()["spec"]
        if spec.get("type") == "ExternalName":
            return str(spec["externalName"])
        if not any(one.get("port") == port for one in spec.get("ports") or []):
            raise _Failed(f'no service port {port} found for service "{service["name"]}"')
        raise _Failed(f"dial tcp {spec.get('clusterIP')}:{port}: connect: no route to host")


# --- requests and answers ---


def _rule_fits(rule: Object, request: Request, resource: Resource) -> bool:
    def among(value: str, names: Sequence[str] | None) -> bool:
        return "*" in (names or ()) or value in (names or ())

    def named(text: str) -> bool:
        plural, _slash, part = text.partition("/")
        return plural in ("*", resource.plural) and part in ("*", request.subresource)

    clusterwide = resource.storage == "namespaces" or not request.namespace
    return (
        rule.get("scope", "*") in ("*", "Cluster" if clusterwide else "Namespaced")
        and among(request.operation, rule.get("operations"))
        and among(resource.group, rule.get("apiGroups"))
        and among(resource.version, rule.get("apiVersions"))
        and any(named(text) for text in rule.get("resources") or ())
    )


def _kind(resource: Resource, request: Request) -> tuple[str, str]:
    return request.kind or (resource.api_version, resource.kind)


def _shown(place: Resource, request: Request, obj: Object) -> Object:
    """An object as a webhook sees it."""
    version, kind = _kind(place, request)
    shown = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind")}
    if place.group == "events.k8s.io" and request.kind is None:
        shown = events.from_core(shown)
    if request.made:
        shown["metadata"] = {name: value for name, value in shown["metadata"].items() if name not in request.made}
        if "status" in shown:
            shown["status"] = {}
    return {"kind": kind, "apiVersion": version, **shown}


def _taken(place: Resource, request: Request, patched: Any) -> Object:
    """The object that a webhook's patch makes of the one it saw."""
    before = request.obj or {}
    if request.kind is not None:  # a Scale, an Eviction: whoever takes it looks at what is in it
        if not isinstance(patched, dict):
            raise bad_request("the patched object is none")
        return patched
    version, kind = _kind(place, request)
    obj, _warnings = object_of(patched, place.node(), kind, version, "Ignore", custom=place.custom is not None)
    if place.group == "events.k8s.io":
        obj = events.to_core(obj)
    if request.made:
        obj["metadata"] = {**{name: before["metadata"][name] for name in request.made if name in before["metadata"]}, **obj["metadata"]}
        if "status" in before:
            obj["status"] = copy.deepcopy(before["status"])
    if "namespace" in before.get("metadata", {}):
        obj["metadata"]["namespace"] = before["metadata"]["namespace"]
    apply_defaults(request.resource.storage, obj)
    return obj


def _review(identifier: str, place: Resource, request: Request) -> Object:
    def kind_of(resource: Resource) -> Object:
        version, kind = _kind(resource, request)
        group, _slash, number = version.rpartition("/")
        return {"group": group, "version": number, "kind": kind}

    def resource_of(resource: Resource) -> Object:
        return {"group": resource.group, "version": resource.version, "resource": resource.plural}

    options: Object = {**request.options.given}
    if request.operation == "DELETE":
        options = {name: value for name, value in request.given.items() if name not in ("kind", "apiVersion")}
    if request.options.dry_run:
        options["dryRun"] = ["All"]
    content: Object = {
        "uid": identifier,
        "kind": kind_of(place),
        "resource": resource_of(place),
        "subResource": request.subresource,
        "requestKind": kind_of(request.resource),
        "requestResource": resource_of(request.resource),
        "requestSubResource": request.subresource,
        "name": request.name,
        "namespace": request.name if request.resource.storage == "namespaces" else request.namespace,
        "operation": request.operation,
        "userInfo": request.options.user.as_object(),
        "object": None if request.obj is None else _shown(place, request, request.obj),
        "oldObject": None if request.old is None else _shown(place, request, request.old),
        "dryRun": request.options.dry_run,
        "options": None
        if request.operation == "CONNECT"
        else {"kind": f"{request.operation.capitalize()}Options", "apiVersion": "meta.k8s.io/v1", **options},
    }
    return {name: value for name, value in content.items() if value != ""}


def _checked(answer: Object, identifier: str, version: str, *, mutating: bool) -> Object:
    response = answer.get("response")
    if not isinstance(response, dict):
        raise _Failed("webhook response was absent")
    if version == "v1":
        if response.get("uid") != identifier:
            raise _Failed(f'expected response.uid="{identifier}", got "{response.get("uid") or ""}"')
        group, _slash, number = str(answer.get("apiVersion") or "").rpartition("/")
        got = f"{group}/{number}, Kind={answer.get('kind') or ''}"
        if got != "admission.k8s.io/v1, Kind=AdmissionReview":
            raise _Failed(f"expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {got}")
        patch, kind = response.get("patch"), response.get("patchType")
        if not mutating and patch:
            raise _Failed("validating webhook may not return response.patch")
        if not mutating and kind is not None:
            raise _Failed("validating webhook may not return response.patchType")
        if patch and kind is None:
            raise _Failed("webhook returned response.patch but not response.patchType")
        if kind is not None and not patch:
            raise _Failed("webhook returned response.patchType but not response.patch")
        if kind == "":
            raise _Failed('webhook returned invalid response.patchType of ""')
        if kind not in (None, "JSONPatch"):
            raise _Failed(f'unsupported patch type "{kind}"')
    return response


def _operations(patch: object) -> list[Object]:
    try:
        found = json.loads(base64.b64decode(str(patch), validate=True))
    except (ValueError, binascii.Error) as error:
        raise _Failed(f"received undecodable patch in webhook response: {error}") from None
    if not isinstance(found, list):
        raise _Failed("received undecodable patch in webhook response: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    return found


def _denied(name: str, result: object) -> Refused:
    """The Status of a denial, as the webhook worded it."""
    given = result if isinstance(result, dict) else {}
    code, reason, message = given.get("code"), str(given.get("reason") or ""), str(given.get("message") or "")
    what = f": {message or reason}" if message or reason else " without explanation"
    details = given.get("details")
    return Refused(
        code if isinstance(code, int) and 400 <= code <= 599 else 400,
        reason,
        f'admission webhook "{name}" denied the request{what}',
        details if isinstance(details, dict) else None,
    )


# --- over the wire ---


def _tls(bundle: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=base64.b64decode(bundle).decode("ascii") if bundle else None)
    except (ValueError, ssl.SSLError):
        raise _Failed("unable to load root certificates: unable to parse bytes as PEM block") from None


async def _exchange(
    host: str, port: int, context: ssl.SSLContext, server: str, target: str, named: str, body: bytes
) -> tuple[int, str, bytes]:
    """Status, content type and body of what a webhook's server answers to a POST; what goes wrong is said as Go's client says it."""
    import h11

    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=server)
    except socket.gaierror:
        raise _Failed(f"dial tcp: lookup {host}: no such host") from None
    except ssl.SSLCertVerificationError as error:
        raise _Failed(f"tls: failed to verify certificate: x509: {_doubt(error)}") from None
    except ConnectionRefusedError:
        raise _Failed(f"dial tcp {host}:{port}: connect: connection refused") from None
    except OSError as error:
        raise _Failed(f"dial tcp {host}:{port}: {error.strerror or error}") from None
    try:
        connection = h11.Connection(h11.CLIENT)
        headers = [
            ("host", named), ("user-agent", "kube-apiserver-admission"), ("content-length", str(len(body))),
            ("accept", "application/json, */*"), ("content-type", "application/json"), ("connection", "close"),
        ]  # fmt: skip
        request = connection.send(h11.Request(method="POST", target=target, headers=headers)) or b""
        writer.write(request + (connection.send(h11.Data(data=body)) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        status, kind, content = 0, "", bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                kind = next((value.decode("ascii", "replace") for name, value in event.headers if name == b"content-type"), "")
            elif isinstance(event, h11.Data):
                content += event.data
                if len(content) > _BODY_LIMIT:
                    raise _Failed("the answer is too large")
            elif isinstance(event, h11.EndOfMessage):
                return status, kind, bytes(content)
            elif isinstance(event, h11.ConnectionClosed):
                raise _Failed("EOF")
    except (OSError, h11.RemoteProtocolError):
        raise _Failed("EOF") from None
    finally:
        writer.close()


def _doubt(error: ssl.SSLCertVerificationError) -> str:
    words = {10: "certificate has expired or is not yet valid", 9: "certificate has expired or is not yet valid"}
    if error.verify_code in (18, 19, 20, 21):
        return "certificate signed by unknown authority"
    return words.get(error.verify_code, error.verify_message)
