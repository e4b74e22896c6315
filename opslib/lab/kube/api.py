"""The server's requests: from a path and a method to the store, and back (k8s.io/apiserver, pkg/endpoints)."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import random
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import msgspec
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from opslib.lab.kube import (
    decoding,
    discovery,
    errors,
    events,
    openapi,
    patches,
    protobuf,
    reading,
    resources,
    reviews,
    schema,
    selectors,
    streams,
    subresources,
    swagger,
    webhooks,
)
from opslib.lab.kube.access import Attributes, Authenticator, Authorizer, User
from opslib.lab.kube.aggregation import Aggregator, Unavailable
from opslib.lab.kube.errors import Object, Refused, bad_request
from opslib.lab.kube.objects import Objects, Options, Result
from opslib.lab.kube.reading import Form, Lists, Selection, Watch
from opslib.lab.kube.resources import Registry, Resource
from opslib.lab.kube.store import Changed, Store

_log = logging.getLogger(__name__)
_JSON = "application/json"
_YAML = "application/yaml"
_ACCEPTED = (_JSON, _YAML, "application/vnd.kubernetes.protobuf")
_DISCOVERY = "apidiscovery.k8s.io"
_PRETTY_AGENTS = ("curl/", "Wget/", "Mozilla/")
_COMPRESS_FROM = 128 * 1024
_BODY_LIMIT = 3 * 1024 * 1024
_ATTEMPTS = 5
_METHODS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

Headers = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Answer:
    """A response: its body at once, or in parts."""

    status: int
    body: bytes | Iterator[bytes] | AsyncIterator[bytes]
    content_type: str = _JSON
    headers: Headers = field(default_factory=list)


_NO_PAGE = Answer(404, b"404 page not found\n", "text/plain; charset=utf-8")


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class Api:
    """The API server as an ASGI application.

    Parameters
    ----------
    authenticator, authorizer
        Who asks, and whether that is allowed.
    aggregator
        The APIs that other servers serve.
    kubelets
        How kubelets are called.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        objects: Objects,
        aggregator: Aggregator,
        authenticator: Authenticator,
        authorizer: Authorizer,
        kubelets: streams.Kubelets,
        address: str,
    ) -> None:
        self._store = store
        self._registry = registry
        self._objects = objects
        self._aggregator = aggregator
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._kubelets = kubelets
        self._address = address
        self._lists = Lists(store)
        self._documents: dict[str, tuple[int, bytes]] = {}
        self._queues: set[asyncio.Queue[Any]] = set()

    def stop(self) -> None:
        """End all watches."""
        for queue in self._queues:
            queue.put_nowait(None)

    # --- ASGI ---

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except Refused as error:
            answer = self._failure(request, error)
        except Exception as error:  # a defect of ours must not look like a lost connection
            _log.exception("%s %s", request.method, request.url.path)
            answer = self._failure(request, errors.internal(f"{type(error).__name__}: {error}"))
        await self._send(request, answer, receive, send)

    async def _send(self, request: Request, answer: Answer, receive: Receive, send: Send) -> None:
        headers: Headers = [(b"content-type", answer.content_type.encode()), (b"cache-control", b"no-cache, private"), *answer.headers]
        body = answer.body
        if isinstance(body, bytes):
            if _pretty(request) and answer.content_type == _JSON:
                body = json.dumps(json.loads(body), indent=2, ensure_ascii=False).encode() + b"\n"
            if len(body) > _COMPRESS_FROM and _takes_gzip(request):
                body = await asyncio.to_thread(_gzip, body)
                headers += [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
            headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
        elif isinstance(body, Iterator):
            await self._send_parts(request, answer.status, headers, body, send)
        else:
            await self._send_stream(answer.status, headers, body, receive, send)

    async def _send_parts(self, request: Request, status: int, headers: Headers, parts: Iterator[bytes], send: Send) -> None:
        """A body that is made part by part; compressed where it is long and the client takes that."""
        gathered = bytearray()
        for part in parts:
            gathered += part
            if len(gathered) > _COMPRESS_FROM:
                break
        long = len(gathered) > _COMPRESS_FROM
        if not long:
            headers.append((b"content-length", str(len(gathered)).encode()))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": bytes(gathered)})
            return
        packer = zlib.compressobj(1, zlib.DEFLATED, 31) if _takes_gzip(request) else None
        if packer is not None:
            headers += [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        data: bytes | None = bytes(gathered)
        while data is not None:
            packed = await asyncio.to_thread(packer.compress, data) if packer is not None else data
            if packed:
                await send({"type": "http.response.body", "body": packed, "more_body": True})
            data = next(parts, None)
        await send({"type": "http.response.body", "body": packer.flush() if packer is not None else b""})

    async def _send_stream(self, status: int, headers: Headers, body: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
        """A body that goes on until it ends or the client leaves."""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        # nothing is sent to the client before the first bytes are: an empty part makes the headers go out now
        await send({"type": "http.response.body", "body": b"", "more_body": True})

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async def write() -> None:
            async for part in body:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        writer, leaving = asyncio.ensure_future(write()), asyncio.ensure_future(gone())
        done, pending = await asyncio.wait((writer, leaving), return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*pending)
        closing = getattr(body, "aclose", None)
        if closing is not None:
            with contextlib.suppress(RuntimeError):
                await closing()
        if writer in done and not writer.cancelled() and writer.exception() is not None:
            _log.info("a stream ended early: %s", writer.exception())

    def _failure(self, request: Request, error: Refused) -> Answer:
        headers: Headers = []
        seconds = (error.details or {}).get("retryAfterSeconds")
        if seconds:
            headers.append((b"retry-after", str(seconds).encode()))
        headers += _warnings(request.scope.get("warnings") or ())
        status = error.status()
        return _encoded(request, error.code, msgspec.json.encode(status), headers)

    # --- who asks, and for what ---

    def _user(self, scope: Scope, headers: Mapping[str, str], request: Request | None = None) -> User:
        certificate = (scope.get("state") or {}).get("client_certificate")
        user = self._authenticator.user(headers.get("authorization", ""), certificate)
        name = headers.get("impersonate-user")
        if name:
            groups = [value.decode() for key, value in scope["headers"] if key == b"impersonate-group"]
            try:
                self._check_impersonation(user, name, groups)
            except Refused:
                raise self._attributes(scope).constrained().refusal(user, "") from None
            if name.startswith("system:serviceaccount:") and not groups:
                namespace = name.split(":")[2]
                groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
            if name != "system:anonymous":
                groups.append("system:authenticated")
            user = User(name, tuple(dict.fromkeys(groups)))
        return user

    def _check_impersonation(self, user: User, name: str, groups: Sequence[str]) -> None:
        if name.startswith("system:serviceaccount:") and name.count(":") == 3:
            _system, _account, namespace, account = name.split(":")
            wanted = [Attributes("impersonate", version="v1", resource="serviceaccounts", namespace=namespace, name=account)]
        else:
            wanted = [Attributes("impersonate", version="v1", resource="users", name=name)]
        wanted += [Attributes("impersonate", version="v1", resource="groups", name=group) for group in groups]
        for one in wanted:
            self._authorizer.check(user, one)

    async def _answer(self, request: Request) -> Answer:
        user = self._user(request.scope, request.headers)
        attributes = self._attributes(request.scope)
        self._authorizer.check(user, attributes)
        parts = _parts(request.scope)
        if len(parts) >= 3 and parts[0] == "apis" and self._aggregator.serves(parts[1], parts[2]):
            return await self._hand_on(request, parts, user)
        placed = self._place(parts)
        if placed is None:
            return self._no_resource(request, parts)
        group, version, namespace, plural, name, subresource = placed
        verb = attributes.verb
        resource = self._registry.get(group, version, plural)
        if resource is None or (namespace and not resource.namespaced):
            if group not in self._registry.groups():
                return _NO_PAGE
            raise errors.no_such_resource()
        if resource.namespaced and not namespace and verb not in ("list", "watch", "deletecollection", "create"):
            raise errors.no_such_resource()
        target = Target(resource, namespace, name, subresource)
        if subresource:
            return await self._subresource(request, target, user, verb)
        return await self._object(request, target, user, verb)

    async def _hand_on(self, request: Request, parts: Sequence[str], user: User) -> Answer:
        """A request to a server behind this one."""
        target = (request.scope.get("raw_path") or request.scope["path"].encode()).decode("ascii").partition("?")[0]
        query = sorted(parse_qs(request.scope["query_string"].decode("ascii"), keep_blank_values=True).items())
        target += f"?{urlencode(query, doseq=True)}" if query else ""
        body = await self._raw_body(request)
        try:
            reply = await self._aggregator.call(parts[1], parts[2], request.method, target, request.scope["headers"], body, user)
            content = reply.body if reply.endless else b"".join([part async for part in reply.body])
        except Unavailable as error:
            return Answer(503, f"{error.told}\n".encode(), "text/plain; charset=utf-8", [(b"x-content-type-options", b"nosniff")])
        return Answer(reply.status, content, reply.content_type, reply.headers)

    @staticmethod
    def _place(parts: Sequence[str]) -> tuple[str, str, str, str, str, str] | None:
        """Group, version, namespace, resource, name and subresource of a path; None where it names no resource."""
        if len(parts) >= 3 and parts[0] == "api":
            group, version, rest = "", parts[1], [*parts[2:]]
        elif len(parts) >= 4 and parts[0] == "apis":
            group, version, rest = parts[1], parts[2], [*parts[3:]]
        else:
            return None
        if rest[0] == "watch" and len(rest) > 1:
            rest = rest[1:]
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 1:
            if len(rest) == 2 or rest[2] in ("status", "finalize"):
                return group, version, "", "namespaces", rest[1], "/".join(rest[2:])
            namespace, rest = rest[1], rest[2:]
        plural = rest[0]
        name = rest[1] if len(rest) > 1 else ""
        return group, version, namespace, plural, name, rest[2] if len(rest) > 2 else ""

    def _attributes(self, scope: Scope) -> Attributes:
        """What a request asks for, as authorization sees it."""
        method = scope.get("method", "GET")
        placed = self._place(_parts(scope))
        if placed is None:
            return Attributes(verb=_METHODS.get(method, "get"), path=scope["path"])
        group, version, namespace, plural, name, subresource = placed
        query = parse_qs(scope["query_string"].decode("ascii", "replace"))
        watched = (query.get("watch") or [""])[0].lower() in ("true", "1")
        verb = _METHODS.get(method, method.lower())
        if method in ("GET", "HEAD") and (watched or not name):
            verb = "watch" if watched else "list"
        elif method == "DELETE" and not name:
            verb = "deletecollection"
        if not name and verb in ("list", "watch", "deletecollection"):
            match = re.fullmatch(r"metadata\.name==?([^,!=]+)", (query.get("fieldSelector") or [""])[0])
            name = match[1] if match else ""
        return Attributes(verb, group, version, plural, subresource, namespace, name)

    # --- what is no resource ---

    def _no_resource(self, request: Request, parts: Sequence[str]) -> Answer:
        path = "/" + "/".join(parts)
        if path in ("/livez", "/readyz", "/healthz") or path.startswith(("/livez/", "/readyz/", "/healthz/")):
            return Answer(200, b"ok", "text/plain; charset=utf-8")
        if path == "/version":
            return _encoded(request, 200, json.dumps(discovery.version(), indent=2).encode())
        if path == "/":
            return self._paths(request)
        if path == "/api":
            return self._discover(request, core=True)
        if path == "/apis":
            return self._discover(request, core=False)
        if len(parts) in (2, 3) and parts[0] in ("api", "apis"):
            return self._group(request, parts)
        if path == "/openapi/v3":
            return _encoded(request, 200, msgspec.json.encode(openapi.index(self._registry)))
        if len(parts) >= 4 and parts[:2] == ["openapi", "v3"]:
            return self._document(request, parts)
        if path == "/openapi/v2":
            return self._swagger(request)
        if path == "/metrics":
            return Answer(200, self._metrics(), "text/plain; version=0.0.4; charset=utf-8")
        return _NO_PAGE

    def _paths(self, request: Request) -> Answer:
        paths = ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
        for group, versions in self._registry.groups().items():
            if group:
                paths += [f"/apis/{group}", *(f"/apis/{group}/{version}" for version in versions)]
        return _encoded(request, 200, msgspec.json.encode({"paths": sorted(paths)}))

    def _metrics(self) -> bytes:
        lines = ["# TYPE apiserver_storage_objects gauge"]
        for storage in self._store.resources():
            lines.append(f'apiserver_storage_objects{{resource="{storage}"}} {self._store.count(storage)}')
        return ("\n".join(lines) + "\n").encode()

    def _discover(self, request: Request, *, core: bool) -> Answer:
        for media, parameters in _accepted(request):
            if media not in (_JSON, "*/*", "application/*"):
                continue
            if parameters.get("g") == _DISCOVERY and parameters.get("as") == "APIGroupDiscoveryList":
                version = parameters.get("v", "")
                if version in ("v2", "v2beta1"):
                    key = f"aggregated {core} {version}"
                    api_version = f"{_DISCOVERY}/{version}"
                    make = functools.partial(discovery.aggregated, self._registry, core=core, api_version=api_version)
                    made = self._cached(key, make)
                    return _tagged(request, made, f"{_JSON};g={_DISCOVERY};v={version};as=APIGroupDiscoveryList")
                continue
            if core:
                return _encoded(request, 200, msgspec.json.encode(discovery.core_versions(self._address)))
            return _encoded(request, 200, self._cached("groups", lambda: discovery.group_list(self._registry)))
        raise errors.not_acceptable(_ACCEPTED)

    def _group(self, request: Request, parts: Sequence[str]) -> Answer:
        groups = self._registry.groups()
        if parts[0] == "api":
            if len(parts) == 2 and parts[1] == "v1":
                made = self._cached("api/v1", lambda: discovery.resource_list("", "v1", self._registry.of_version("", "v1")))
                return _encoded(request, 200, made)
        elif parts[1] in groups and parts[1]:
            group = parts[1]
            if len(parts) == 2:
                return _encoded(request, 200, msgspec.json.encode(discovery.group_object(group, groups[group], alone=True)))
            if parts[2] in groups[group]:
                version = parts[2]
                key = f"apis/{group}/{version}"
                made = self._cached(key, lambda: discovery.resource_list(group, version, self._registry.of_version(group, version)))
                return _encoded(request, 200, made)
        return _NO_PAGE

    def _document(self, request: Request, parts: Sequence[str]) -> Answer:
        group, version = ("", parts[3]) if parts[2] == "api" else (parts[3], parts[4] if len(parts) > 4 else "")
        if version not in self._registry.groups().get(group, ()):
            return _NO_PAGE
        wanted = openapi.digest(self._registry, group, version)
        asked = request.query_params.get("hash")
        if asked and asked != wanted:
            where = f"{request.url.path}?hash={wanted}"
            return Answer(301, b"", headers=[(b"location", where.encode())])
        made = self._cached(f"openapi {group}/{version}", lambda: openapi.document(self._registry, group, version))
        headers: Headers = [(b"etag", f'"{wanted}"'.encode())]
        if request.headers.get("if-none-match") == f'"{wanted}"':
            return Answer(304, b"", headers=headers)
        if asked:
            headers.append((b"expires", b"Thu, 31 Dec 2099 23:59:59 GMT"))
        return _encoded(request, 200, made, headers)

    def _swagger(self, request: Request) -> Answer:
        for media, _parameters in _accepted(request):
            if media in (_JSON, "*/*", "application/*"):
                return _tagged(request, self._cached("swagger", lambda: openapi.swagger(self._registry)), _JSON)
            if media in swagger.MEDIA_TYPES:
                made = self._cached("swagger as protobuf", lambda: openapi.swagger(self._registry), swagger.encode)
                return _tagged(request, made, swagger.MEDIA_TYPE)
        raise errors.not_acceptable((_JSON, swagger.MEDIA_TYPE))

    def _cached(self, key: str, make: Callable[[], Object], encode: Callable[[Object], bytes] = msgspec.json.encode) -> bytes:
        known = self._documents.get(key)
        if known is None or known[0] != self._registry.generation:
            known = self._documents[key] = (self._registry.generation, encode(make()))
        return known[1]

    # --- resources ---

    async def _object(self, request: Request, target: Target, user: User, verb: str) -> Answer:
        resource = target.resource
        if verb not in resource.verbs and not (verb == "watch" and target.name):
            raise errors.method_not_allowed()
        if not target.name and verb in ("update", "patch"):
            raise errors.method_not_allowed()
        if "get" not in resource.verbs:
            return await self._review(request, target, user)
        if verb == "list":
            return self._list(request, target)
        if verb == "watch":
            return await self._watch(request, target)
        if verb == "get":
            record = self._objects.record(resource, target.namespace, target.name)
            return self._one(request, resource, record)
        options = self._options(request, user)
        if verb == "create":
            return await self._create(request, target, options)
        if verb == "update":
            return await self._update(request, target, options)
        if verb == "patch":
            return await self._patch(request, target, options)
        if verb == "delete":
            given = await self._delete_options(request)
            options.dry_run = options.dry_run or given.get("dryRun") == ["All"]
            record = self._objects.record(resource, target.namespace, target.name)
            return self._deleted(request, resource, await self._objects.delete(resource, record, given, options), options)
        if verb == "deletecollection":
            return await self._delete_many(request, target, options)
        raise errors.method_not_allowed()

    def _deprecated(self, resource: Resource) -> list[str]:
        if resource.storage == "endpoints":
            return ["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"]
        return []

    def _one(self, request: Request, resource: Resource, record: Any) -> Answer:
        form = self._form(request)
        if form.kind == "table":
            body = reading.Tables(resource, form).whole(record)
        elif form.kind == "metadata":
            body = reading.partial(resource, record, form)
        else:
            body = reading.whole(resource, record)
        return _encoded(request, 200, body, _warnings(self._deprecated(resource)))

    def _selection(self, request: Request, target: Target) -> Selection:
        resource = target.resource
        labels = selectors.parse_labels(request.query_params.get("labelSelector", ""))
        text = request.query_params.get("fieldSelector", "")
        fields, name = selectors.parse_fields(
            text, resource.selectable(), listed=resource.custom is None and resource.storage not in resources.FIELDS
        )
        if resource.group == "events.k8s.io" and text:
            plain = fields
            aliases = {known: resource.field_alias(known) for known in resource.selectable()}
            fields = lambda values: plain({known: values.get(kept, "") for known, kept in aliases.items()})  # noqa: E731
        if target.name:
            wanted = target.name
            return Selection(target.namespace, labels, lambda values: values.get("metadata.name") == wanted, wanted)
        return Selection(target.namespace, labels, fields, name)

    def _list(self, request: Request, target: Target) -> Answer:
        query = request.query_params
        asked = query.get("resourceVersion", "")
        if asked.isdigit() and int(asked) > self._store.version:
            raise reading.too_new(int(asked), self._store.version)
        selection = self._selection(request, target)
        form = self._form(request)
        parts = self._lists.read(target.resource, selection, lambda name: query.get(name, ""), form)
        if _wants_yaml(request):
            return _encoded(request, 200, b"".join(parts))
        headers = _warnings(self._deprecated(target.resource))
        return Answer(200, b"".join(parts) if _pretty(request) else parts, headers=headers)

    async def _watch(self, request: Request, target: Target) -> Answer:
        query = request.query_params
        start, initial, bookmarks = reading.check_watch(lambda name: query.get(name, ""))
        if start is not None and start > self._store.version:
            raise reading.too_new(start, self._store.version)
        seconds = query.get("timeoutSeconds", "")
        watch = Watch(
            self._store,
            target.resource,
            self._selection(request, target),
            self._form(request),
            start=start,
            initial_events=initial and bookmarks,
            bookmarks=bookmarks,
            seconds=float(seconds) if seconds.isdigit() and int(seconds) else random.uniform(1800, 3600),  # noqa: S311
            queues=self._queues,
        )
        return Answer(200, watch.lines(), _JSON, _warnings(self._deprecated(target.resource)))

    async def _create(self, request: Request, target: Target, options: Options) -> Answer:
        resource = target.resource
        data = await self._body(request, resource.kind)
        obj = self._objects.decode(resource, data, options)
        if resource.group == "events.k8s.io":
            obj = events.to_core(obj)
        namespace = target.namespace
        if resource.namespaced and not namespace:
            raise errors.method_not_allowed()
        return self._changed(request, resource, await self._objects.create(resource, namespace, obj, options), options)

    async def _update(self, request: Request, target: Target, options: Options) -> Answer:
        resource, data = target.resource, await self._body(request)

        async def update() -> Result:
            obj = self._objects.decode(resource, data, options)
            obj = events.to_core(obj) if resource.group == "events.k8s.io" else obj
            return await self._objects.update(resource, target.namespace, target.name, obj, options, subresource=target.subresource)

        return self._changed(request, resource, await _insist(target, update), options)

    async def _patch(self, request: Request, target: Target, options: Options) -> Answer:
        resource = target.resource
        kind, patch = await self._patch_body(request, options)

        async def change() -> Result:
            return await self._objects.patch(resource, target.namespace, target.name, kind, patch, options, subresource=target.subresource)

        return self._changed(request, resource, await _insist(target, change), options)

    async def _patch_body(self, request: Request, options: Options) -> tuple[str, Any]:
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        known = (patches.JSON_PATCH, patches.MERGE_PATCH, patches.STRATEGIC_PATCH, patches.APPLY_PATCH, patches.APPLY_CBOR)
        if kind not in known or kind == patches.APPLY_CBOR:
            raise errors.Refused(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
        body = await self._raw_body(request)
        if kind == patches.APPLY_PATCH:
            if not request.query_params.get("fieldManager"):
                problem = errors.required("fieldManager", "is required for apply patch")
                raise errors.invalid_object("meta.k8s.io", "PatchOptions", "", [problem])
            return kind, decoding.parse(body, "application/apply-patch+yaml")
        if options.force:
            problem = errors.forbidden_field("force", "may not be specified for non-apply patch")
            raise errors.invalid_object("meta.k8s.io", "PatchOptions", "", [problem])
        try:
            return kind, json.loads(body)
        except ValueError as error:
            raise bad_request(f"error decoding patch: {error}") from None

    async def _delete_many(self, request: Request, target: Target, options: Options) -> Answer:
        resource = target.resource
        if resource.namespaced and not target.namespace:
            raise errors.method_not_allowed()
        given = await self._delete_options(request)
        options.dry_run = options.dry_run or given.get("dryRun") == ["All"]
        selection = self._selection(request, target)
        bodies = []
        for record in self._store.records(resource.storage, target.namespace):
            if not selection.takes(record):
                continue
            with contextlib.suppress(Refused):
                result = await self._objects.delete(resource, record, given, options)
                bodies.append(resource.header + msgspec.json.encode(result.obj, order="sorted")[1:])
        head = {"kind": resource.list_kind, "apiVersion": resource.api_version, "metadata": {"resourceVersion": str(self._store.version)}}
        return _encoded(request, 200, msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(bodies) + b"]}")

    def _changed(self, request: Request, resource: Resource, result: Result, options: Options) -> Answer:
        headers = _warnings([*self._deprecated(resource), *options.warnings])
        status = 201 if result.created else 200
        if result.record is not None:
            form = self._form(request)
            if form.kind == "table":
                body = reading.Tables(resource, form).whole(result.record)
            elif form.kind == "metadata":
                body = reading.partial(resource, result.record, form)
            else:
                body = reading.whole(resource, result.record)
        else:
            obj = events.from_core(result.obj) if resource.group == "events.k8s.io" else result.obj
            body = resource.header + msgspec.json.encode(obj, order="sorted")[1:]
        return _encoded(request, status, body, headers)

    def _deleted(self, request: Request, resource: Resource, result: Result, options: Options) -> Answer:
        headers = _warnings(options.warnings)
        if result.deleted and not self._objects.shows_deleted(resource):
            metadata = result.obj["metadata"]
            details = errors.details_of(metadata.get("name", ""), resource.group, resource.plural, uid=metadata.get("uid", ""))
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
            return _encoded(request, 200, msgspec.json.encode(status), headers)
        body = resource.header + msgspec.json.encode(result.obj, order="sorted")[1:]
        return _encoded(request, 200, body, headers)

    # --- subresources ---

    async def _subresource(self, request: Request, target: Target, user: User, verb: str) -> Answer:
        resource, name = target.resource, target.subresource
        if name not in resource.subresources:
            raise errors.no_such_resource()
        if name in ("exec", "attach", "portforward"):
            if verb in ("get", "create"):
                self._check_starting(user, self._attributes(request.scope))
                pod = self._objects.record(resource, target.namespace, target.name).object()
                node = (pod.get("spec") or {}).get("nodeName", "")
                if node:
                    self._node(node)
                raise bad_request("Upgrade request required")
            raise errors.method_not_allowed()
        if verb not in discovery.subresource_kind(resource, name)[3]:
            raise errors.method_not_allowed()
        record = self._objects.record(resource, target.namespace, target.name)
        options = self._options(request, user)
        if name == "log":
            return await self._logs(request, record.object())
        if name == "scale":
            return await self._scale(request, target, record, options, verb)
        if name == "binding":
            binding = await self._admitted(target, await self._body(request), options, ("v1", "Binding"))
            subresources.bind(self._objects, self._store, resource, record, binding, options)
            return _encoded(request, 201, msgspec.json.encode(_success(201)))
        if name == "eviction":
            eviction = await self._body(request)
            options.dry_run = options.dry_run or (eviction.get("deleteOptions") or {}).get("dryRun") == ["All"]
            eviction = await self._admitted(target, eviction, options, ("policy/v1", "Eviction"))
            record = self._objects.record(resource, target.namespace, target.name)
            await subresources.evict(self._objects, self._store, resource, record, eviction, options)
            return _encoded(request, 201, msgspec.json.encode(_success(201)))
        if name == "token":
            asked = await self._admitted(target, await self._body(request), options, ("authentication.k8s.io/v1", "TokenRequest"))
            made = subresources.token(self._authenticator, record, asked)
            return _encoded(request, 201, msgspec.json.encode({**made, "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}))
        if name == "proxy":
            return await self._proxied(request, target)
        if verb == "get":
            return self._one(request, resource, record)
        if verb == "patch":
            return await self._patch(request, target, options)
        return await self._update(request, target, options)

    async def _proxied(self, request: Request, target: Target) -> Answer:
        """What a node's kubelet serves; Services and pods have nothing behind them here."""
        if target.resource.plural != "nodes" or request.method != "GET":
            raise errors.Refused(503, "ServiceUnavailable", "no endpoints available: the lab serves no proxied requests", {})
        host, port = self._kubelet_of(target.name)
        path = "/" + request.url.path.partition("/proxy/")[2] + (f"?{request.url.query}" if request.url.query else "")
        status, kind, body = await asyncio.to_thread(streams.kubelet_page, host, port, path, self._kubelets.certificate)
        return Answer(status, body, kind)

    async def _scale(self, request: Request, target: Target, record: Any, options: Options, verb: str) -> Answer:
        resource = target.resource
        live = record.object()
        if verb != "get":
            whole = subresources.scale_of(resource, live)
            if verb == "patch":
                kind, patch = await self._patch_body(request, options)
                if kind == patches.JSON_PATCH:
                    whole = patches.json_patch(whole, patch)
                else:
                    whole = patches.merge_patch(whole, patch)
            else:
                whole = await self._body(request)
                given = (whole.get("metadata") or {}).get("resourceVersion")
                if given and given != str(record.version):
                    raise errors.conflict(resource.group, resource.plural, record.name)
            kind_of_scale = ("autoscaling/v1", "Scale")
            whole = await self._admitted(
                target, whole, options, kind_of_scale, operation="UPDATE", old=subresources.scale_of(resource, live)
            )
            record = self._objects.record(resource, target.namespace, target.name)
            live = record.object()
            obj = subresources.with_scale(resource, live, whole)
            result = await self._objects.change(resource, record, live, obj, options, subresource="scale")
            live = result.obj
        scale = subresources.scale_of(resource, live)
        form = self._form(request)
        body = reading.table_of("scales.autoscaling", form, [scale]) if form.kind == "table" else msgspec.json.encode(scale)
        return _encoded(request, 200, body, _warnings(options.warnings))

    async def _admitted(
        self, target: Target, obj: Object, options: Options, kind: tuple[str, str], *, operation: str = "CREATE", old: Object | None = None
    ) -> Object:
        """What webhooks let through of something that is about an object and is not kept itself."""
        asked = webhooks.Request(target.resource, operation, obj, old, options, target.name, target.namespace, target.subresource, kind)
        await self._objects.hooks.admit(asked)
        options.admitted = True
        return asked.obj or {}

    def _kubelet_of(self, node: str) -> tuple[str, int]:
        return streams.kubelet_of(self._node(node), self._kubelets.addresses)

    async def _logs(self, request: Request, pod: Object) -> Answer:
        query = request.query_params
        container = streams.container_of(pod, query.get("container", ""))
        wanted = streams.log_request(pod, container, lambda name: query.get(name, ""))
        node = (pod.get("spec") or {}).get("nodeName")
        if not node:
            return Answer(200, b"", "text/plain")
        host, port = self._kubelet_of(node)
        source = streams.kubelet_log(host, port, wanted, self._kubelets.certificate)
        first = await anext(source, None)  # what goes wrong at the beginning is an answer of its own
        if first is None:
            return Answer(200, b"", "text/plain")

        async def all_of_it() -> AsyncIterator[bytes]:
            try:
                yield first
                async for piece in source:
                    yield piece
            finally:
                closing = getattr(source, "aclose", None)
                if closing is not None:
                    await closing()

        return Answer(200, all_of_it(), "text/plain")

    def _node(self, name: str) -> Object:
        record = self._store.get("nodes", ("", name))
        if record is None:
            raise errors.not_found("", "pods", name)  # so the real server says: the request was for a pod
        return record.object()

    def _known(self, storage: str) -> Resource:
        resource = self._registry.by_storage(storage)
        assert resource is not None
        return resource

    # --- commands ---

    def _check_starting(self, user: User, asked: Attributes) -> None:
        """A GET that starts something needs the right to create as well; which one is missing is not said (authorize.go in pod/rest)."""
        allowed, reason = self._authorizer.allowed(user, replace(asked, verb="create"))
        if not allowed:
            raise errors.forbidden(asked.group, asked.resource, asked.name, reason)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        try:
            await self._exec(scope, receive, send)
        except Refused as error:
            body = msgspec.json.encode(error.status())
            headers = [(b"content-type", _JSON.encode()), (b"content-length", str(len(body)).encode())]
            await send({"type": "websocket.http.response.start", "status": error.code, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": body})

    async def _exec(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        user = self._user(scope, headers)
        raw = (scope.get("raw_path") or scope["path"].encode()).decode("ascii").partition("?")[0]
        placed = self._place([unquote(part) for part in raw.split("/") if part])
        if placed is None or placed[3] != "pods" or placed[5] not in ("exec", "attach"):
            raise errors.no_such_resource()
        group, version, namespace, plural, name, subresource = placed
        asked_for = Attributes("get", group, version, plural, subresource, namespace, name)
        self._authorizer.check(user, asked_for)
        self._check_starting(user, asked_for)
        pod = self._objects.record(self._known("pods"), namespace, name).object()
        query_text = scope["query_string"].decode("ascii")
        query = parse_qs(query_text)
        container = streams.container_of(pod, (query.get("container") or [""])[0])
        words = query.get("command") or []
        if not words and subresource == "exec":
            problem = errors.required("command")
            raise errors.invalid_object("", "PodExecOptions", "", [problem])
        if not any((query.get(one) or [""])[0] in ("true", "1") for one in ("stdin", "stdout", "stderr")):
            raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
        offered = scope.get("subprotocols") or []
        protocol = next((one for one in streams.PROTOCOLS if one in offered), "")
        if not protocol:
            raise bad_request(
                f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts {[*streams.PROTOCOLS]}"
            )
        phase = (pod.get("status") or {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            raise bad_request(f"cannot exec into a container in a completed pod; current phase is {phase}")
        node = (pod.get("spec") or {}).get("nodeName")
        if not node:
            raise bad_request(f"pod {name} does not have a host assigned")
        connects = {
            **{one: (query.get(one) or [""])[0] in ("true", "1") for one in ("stdin", "stdout", "stderr", "tty")},
            "container": container,
            **({"command": words} if subresource == "exec" else {}),
        }
        asked = Target(self._known("pods"), namespace, name, subresource)
        await self._admitted(asked, connects, Options(user), ("v1", f"Pod{subresource.capitalize()}Options"), operation="CONNECT")
        host, port = self._kubelet_of(node)
        target = f"/{subresource}/{namespace}/{name}/{container}?{_kubelet_query(query)}"
        await streams.relay(host, port, target, protocol, receive, send, self._kubelets.certificate)

    # --- reviews ---

    async def _review(self, request: Request, target: Target, user: User) -> Answer:
        resource = target.resource
        options = self._options(request, user)
        data = await self._body(request)
        if resource.kind == "Binding":
            data = await self._admitted(target, data, options, ("v1", "Binding"))
            name = (data.get("metadata") or {}).get("name", "")
            pods = self._known("pods")
            record = self._objects.record(pods, target.namespace, name)
            subresources.bind(self._objects, self._store, pods, record, data, options)
            return _encoded(request, 201, msgspec.json.encode(_success(201)))
        obj = self._objects.decode(resource, data, options)
        obj = await self._admitted(target, obj, options, (resource.api_version, resource.kind))
        if resource.kind == "SelfSubjectReview":
            from opslib.lab.kube.objects import now_text

            obj["metadata"]["creationTimestamp"] = now_text()
        made = reviews.answer(resource.kind, obj, user, self._authenticator, self._authorizer, target.namespace)
        body = msgspec.json.encode({"kind": resource.kind, "apiVersion": resource.api_version, **made})
        return _encoded(request, 201, body, _warnings(options.warnings))

    # --- parts of requests ---

    def _form(self, request: Request) -> Form:
        accepted = _accepted(request)
        for media, parameters in accepted:
            if media not in (_JSON, _YAML, "*/*", "application/*"):
                continue
            wanted, group, version = parameters.get("as", ""), parameters.get("g", ""), parameters.get("v", "v1")
            if not wanted:
                return Form()
            if group == "meta.k8s.io" and version in ("v1", "v1beta1"):
                if wanted == "Table":
                    include = request.query_params.get("includeObject", "") or "Metadata"
                    if include not in ("None", "Metadata", "Object"):
                        raise bad_request(
                            f'Unable to convert to Table as requested: includeObject: Invalid value: "{include}": '
                            "must be 'Metadata', 'Object', 'None', or empty"
                        )
                    return Form("table", include, version)
                if wanted in ("PartialObjectMetadata", "PartialObjectMetadataList"):
                    return Form("metadata", "Metadata", version)
        raise errors.not_acceptable(_ACCEPTED)

    def _options(self, request: Request, user: User) -> Options:
        query = request.query_params
        dry_run = query.getlist("dryRun")
        if dry_run and dry_run != ["All"]:
            problem = errors.unsupported("dryRun", dry_run, ("All",))
            raise errors.invalid_object("meta.k8s.io", "CreateOptions", "", [problem])
        manager = query.get("fieldManager", "")
        if len(manager) > 128:
            problem = errors.too_long("fieldManager", 128)
            raise errors.invalid_object("meta.k8s.io", "CreateOptions", "", [problem])
        kind = query.get("fieldValidation", "") or "Warn"
        if kind not in ("Ignore", "Warn", "Strict"):
            problem = errors.unsupported("fieldValidation", kind, ("", "Ignore", "Strict", "Warn"))
            raise errors.invalid_object("meta.k8s.io", "CreateOptions", "", [problem])
        if not manager:
            manager = request.headers.get("user-agent", "").partition("/")[0][:128] or "unknown"
        given = {name: query[name] for name in ("fieldManager", "fieldValidation") if query.get(name)}
        options = Options(user, manager, bool(dry_run), kind, query.get("force", "") in ("true", "1"), given=given)
        request.scope["warnings"] = options.warnings  # they go out with a refusal, too
        return options

    async def _raw_body(self, request: Request) -> bytes:
        parts = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > _BODY_LIMIT:
                message = f"Request entity too large: limit is {_BODY_LIMIT}"
                raise errors.Refused(413, "RequestEntityTooLarge", message, {})
            parts.append(part)
        return b"".join(parts)

    async def _body(self, request: Request, expected: str = "Object") -> Any:
        body = await self._raw_body(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind == protobuf.PROTOBUF:
            return protobuf.parse(body, self._node_of)
        if not body:
            raise bad_request(
                "the object provided is unrecognized (must be of type Object): couldn't get version/kind; json parse error: EOF"
            )
        return decoding.parse(body, kind, expected)

    def _node_of(self, api_version: str, kind: str) -> schema.Node | None:
        group, _slash, version = api_version.rpartition("/")
        special = {"TokenRequest": "AuthenticationV1TokenRequest"}
        identifier = special.get(kind) or resources.model_of(group, version, kind)
        return schema.struct(identifier) if schema.known(identifier) else None

    async def _delete_options(self, request: Request) -> Object:
        body = await self._raw_body(request)
        given: Object = {}
        if body:
            kind = request.headers.get("content-type", "").partition(";")[0].strip()
            given = protobuf.parse(body, self._node_of) if kind == protobuf.PROTOBUF else decoding.parse(body, kind)
            if not isinstance(given, dict):
                raise bad_request("could not find the requested delete options")
            if given.get("kind") not in (None, "", "DeleteOptions"):
                given = {}
        query = request.query_params
        for name in ("gracePeriodSeconds", "propagationPolicy", "orphanDependents"):
            if name in query and not body:
                text = query[name]
                given[name] = int(text) if text.lstrip("-").isdigit() else text == "true" if name == "orphanDependents" else text
        policy = given.get("propagationPolicy")
        if policy is not None and policy not in ("Foreground", "Background", "Orphan"):
            problem = errors.unsupported("propagationPolicy", policy, ("Foreground", "Background", "Orphan", "nil"))
            raise errors.invalid_object("meta.k8s.io", "DeleteOptions", "", [problem])
        if policy is not None and given.get("orphanDependents") is not None:
            problem = errors.invalid("propagationPolicy", policy, "orphanDependents and deletionPropagation cannot be both set")
            raise errors.invalid_object("meta.k8s.io", "DeleteOptions", "", [problem])
        return given


# --- small parts ---


async def _insist(target: Target, change: Callable[[], Awaitable[Result]]) -> Result:
    """Make a change to what is there, and again where that became another one while webhooks were asked."""
    for _attempt in range(_ATTEMPTS):
        with contextlib.suppress(Changed):
            return await change()
    raise errors.conflict(target.resource.group, target.resource.plural, target.name)


def _parts(scope: Scope) -> list[str]:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return [unquote(part) for part in raw.decode("ascii", "replace").partition("?")[0].split("/") if part]


def _success(code: int) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code}


def _kubelet_query(query: Mapping[str, Sequence[str]]) -> str:
    from urllib.parse import urlencode

    pairs = [("command", word) for word in query.get("command") or []]
    for asked, sent in (("stderr", "error"), ("stdin", "input"), ("stdout", "output"), ("tty", "tty")):
        if (query.get(asked) or [""])[0] in ("true", "1"):
            pairs.append((sent, "1"))
    return urlencode(pairs)


def _warnings(texts: Sequence[str]) -> Headers:
    headers: Headers = []
    for text in dict.fromkeys(texts):
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        headers.append((b"warning", f'299 - "{quoted}"'.encode()))
    return headers


def _accepted(request: Request) -> list[tuple[str, dict[str, str]]]:
    """The media types that a client takes, in its order, with their parameters."""
    found = []
    for one in request.headers.get("accept", "*/*").split(",") or ["*/*"]:
        media, *parameters = (part.strip() for part in one.split(";"))
        pairs = dict(part.partition("=")[::2] for part in parameters)
        found.append((media or "*/*", pairs))
    return found


def _wants_yaml(request: Request) -> bool:
    first = next((media for media, _parameters in _accepted(request) if media in (_JSON, _YAML, "*/*", "application/*")), None)
    return first == _YAML


def _pretty(request: Request) -> bool:
    asked = request.query_params.get("pretty")
    if asked is not None:
        return asked in ("true", "1")
    return request.headers.get("user-agent", "").startswith(_PRETTY_AGENTS)


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def _encoded(request: Request, status: int, body: bytes, headers: Headers | None = None) -> Answer:
    """A JSON body in the form that the client takes."""
    if _wants_yaml(request):
        import yaml

        text = yaml.safe_dump(msgspec.json.decode(body), sort_keys=True, allow_unicode=True)
        return Answer(status, text.encode(), _YAML, headers or [])
    return Answer(status, body, _JSON, headers or [])


def _tagged(request: Request, body: bytes, content_type: str) -> Answer:
    """A document with its ETag; 304 where the client has it."""
    tag = f'"{hashlib.sha512(body).hexdigest().upper()}"'
    headers: Headers = [(b"etag", tag.encode()), (b"vary", b"Accept")]
    if request.headers.get("if-none-match") == tag:
        return Answer(304, b"", content_type, headers)
    return Answer(200, body, content_type, headers)
