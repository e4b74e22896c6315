"""A small client of the Kubernetes API, for what plays the kubelet and for what breaks the cluster.

Objects are plain dicts, as they stand in a manifest. It is apart from `opslib.sources` on purpose: the lab uses nothing of what it tests.

>>> api = Api.from_kubeconfig(Path(".lab/kubeconfig"))  # doctest: +SKIP
>>> api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})  # doctest: +SKIP
>>> api.patch("/api/v1/namespaces/shop/pods/web-1", {"status": {"phase": "Failed"}}, subresource="status")  # doctest: +SKIP
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

import urllib3
import yaml

from opslib.errors import InputError, OpsError
from opslib.messages import _

Object = dict[str, Any]
Objects = list[Object]  # a name of its own: within Api, `list` is a method

_PATCHES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}


class ApiError(OpsError):
    """The API server refused, or did not answer.

    Parameters
    ----------
    status
        HTTP status; 0 where there was no answer.
    reason
        The server's word for it: "NotFound", "AlreadyExists", "Conflict", "Forbidden", "Invalid"...
    """

    def __init__(self, request: str, status: int, reason: str, message: str) -> None:
        super().__init__(_("{request}: {status} {reason}: {message}", request=request, status=status, reason=reason, message=message))
        self.status = status
        self.reason = reason
        self.server_message = message


class Api:
    """One API server, as one user. May be used from several threads.

    Parameters
    ----------
    server
        Base address, "https://127.0.0.1:6443".
    ca
        PEM of the authority that signed the server's certificate.
    certificate
        Client certificate and key, both PEM; None where a token is used.
    token
        Bearer token; None where a certificate is used.
    """

    def __init__(self, server: str, ca: str, certificate: tuple[str, str] | None = None, token: str | None = None) -> None:
        context = ssl.create_default_context(cadata=ca)
        if certificate is not None:
            _load_certificate(context, *certificate)
        headers = {"Accept": "application/json", "User-Agent": "opslib-lab"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self.server = server.rstrip("/")
        self._pool = urllib3.PoolManager(ssl_context=context, headers=headers, maxsize=16, retries=urllib3.Retry(3, other=0, redirect=0))
        self._lock = threading.Lock()
        self._resources: dict[str, dict[str, tuple[str, bool]]] = {}

    @classmethod
    def from_kubeconfig(cls, path: Path | str, context: str | None = None) -> Api:
        """The server and user of a kubeconfig's context (None: the current one).

        Client certificates and tokens are read, in the file or beside it; exec plugins are not.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
            name = context or content["current-context"]
            chosen = _named(content["contexts"], name)["context"]
            cluster = _named(content["clusters"], chosen["cluster"])["cluster"]
            user = _named(content["users"], chosen["user"])["user"]
            ca = _pem(cluster, "certificate-authority", path.parent)
            certificate = None
            if "client-certificate-data" in user or "client-certificate" in user:
                certificate = (_pem(user, "client-certificate", path.parent), _pem(user, "client-key", path.parent))
            return cls(cluster["server"], ca, certificate, user.get("token"))
        except FileNotFoundError as error:
            raise InputError(_("There is no file {path}", path=error.filename), _("Start the lab"), "opslib lab up") from None
        except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            raise InputError(_("{path} is not a kubeconfig that can be used: {reason}", path=path, reason=error)) from None

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        query: Mapping[str, object] | None = None,
        timeout_seconds: float = 30,
    ) -> Any:
        """Send one request; the decoded JSON answer (text where the answer is not JSON).

        Raises
        ------
        ApiError
            Status 400 or above, or no answer.
        """
        address = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        payload = None if body is None else json.dumps(body).encode()
        headers = {**self._pool.headers, **({"Content-Type": content_type} if payload is not None else {})}
        try:
            response = self._pool.request(method, address, body=payload, headers=headers, timeout=timeout_seconds)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"{method} {path}", 0, "NoAnswer", str(error)) from error
        return _answer(method, path, response.status, response.headers.get("Content-Type", ""), response.data)

    def apply(self, obj: Object, *, field_manager: str = "opslib-lab") -> Object:
        """Create or change an object by server-side apply; the object as it is now. `status` in it is ignored by the server."""
        query = {"fieldManager": field_manager, "force": "true"}
        answer: Object = self.request("PATCH", self.path_of(obj), obj, content_type="application/apply-patch+yaml", query=query)
        return answer

    def create(self, obj: Object) -> Object:
        """Create an object (`metadata.generateName` works too); the object as it is now."""
        answer: Object = self.request("POST", self.path_of(obj, collection=True), obj)
        return answer

    def replace(self, obj: Object, *, subresource: str = "") -> Object:
        """Replace an object, or its `subresource`, by `obj`; the object as it is now."""
        answer: Object = self.request("PUT", self.path_of(obj) + (f"/{subresource}" if subresource else ""), obj)
        return answer

    def get(self, path: str) -> Object:
        """The object at `path` (`path_of` gives it)."""
        answer: Object = self.request("GET", path)
        return answer

    def patch(self, path: str, body: object, type: Literal["merge", "strategic", "json"] = "merge", *, subresource: str = "") -> Object:
        """Change a part of the object at `path`, or of its `subresource` ("status", "scale"); the object as it is now."""
        answer: Object = self.request("PATCH", path + (f"/{subresource}" if subresource else ""), body, content_type=_PATCHES[type])
        return answer

    def delete(self, path: str, *, grace_seconds: int | None = None, missing_ok: bool = True) -> None:
        """Delete the object at `path`, its dependents in the background."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self.request("DELETE", path, options)
        except ApiError as error:
            if error.status != 404 or not missing_ok:
                raise

    def list(self, path: str, *, labels: str = "", fields: str = "") -> Objects:
        """All objects of a collection: ``/api/v1/pods``, ``/apis/apps/v1/namespaces/shop/deployments``.

        Their apiVersion and kind, which lists leave out, are put in.
        """
        return self.list_with_version(path, labels=labels, fields=fields)[0]

    def list_with_version(self, path: str, *, labels: str = "", fields: str = "") -> tuple[Objects, str]:
        """The same with the collection's resourceVersion, from which `watch` goes on."""
        objects: Objects = []
        version = ""
        for page, at in self.pages(path, labels=labels, fields=fields):
            objects += page
            version = at
        return objects, version

    def pages(self, path: str, *, labels: str = "", fields: str = "", limit: int = 1000) -> Iterator[tuple[Objects, str]]:
        """The same, `limit` objects at a time; the version is that of the whole."""
        query: dict[str, object] = {"limit": limit}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        while True:
            page = self.request("GET", path, query=query)
            kind = {"apiVersion": page["apiVersion"], "kind": page["kind"].removesuffix("List")}
            yield [kind | item for item in page["items"]], page["metadata"].get("resourceVersion", "")  # a metrics server has none
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def watch(self, path: str, version: str, *, labels: str = "", fields: str = "", seconds: int = 300) -> Iterator[tuple[str, Object]]:
        """Changes after `version`, as ("ADDED" | "MODIFIED" | "DELETED", object), until the server ends it after `seconds`.

        Raises
        ------
        ApiError
            Status 410 where `version` is too old (list again), 0 where the connection broke.
        """
        query: dict[str, object] = {"watch": "1", "resourceVersion": version, "timeoutSeconds": seconds}
        if labels:
            query["labelSelector"] = labels
        if fields:
            query["fieldSelector"] = fields
        timeout = urllib3.Timeout(connect=10, read=seconds + 10)
        try:
            address = f"{self.server}{path}?{urlencode(query)}"
            response = self._pool.request("GET", address, preload_content=False, timeout=timeout)
            try:
                if response.status >= 400:
                    _answer("WATCH", path, response.status, response.headers.get("Content-Type", ""), response.read())
                for line in _lines(response):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        raise ApiError(f"WATCH {path}", status.get("code", 500), status.get("reason", ""), status.get("message", ""))
                    yield event["type"], event["object"]
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, json.JSONDecodeError) as error:
            raise ApiError(f"WATCH {path}", 0, "NoAnswer", str(error)) from error

    def path_of(self, obj: Object, *, collection: bool = False) -> str:
        """Where an object lives: ``/apis/apps/v1/namespaces/shop/deployments/web``; with `collection`, without its name.

        A namespaced object without a namespace is in "default". Which resource a kind is, and whether it has namespaces, is asked of the
        server once a group and version.

        Raises
        ------
        ApiError
            The server does not know the kind (status 404).
        """
        version, kind = obj["apiVersion"], obj["kind"]
        resource, namespaced = self._resource(version, kind)
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if namespaced:
            base += f"/namespaces/{quote(obj['metadata'].get('namespace') or 'default', safe='')}"
        return f"{base}/{resource}" if collection else f"{base}/{resource}/{quote(obj['metadata']['name'], safe='')}"

    def _resource(self, version: str, kind: str) -> tuple[str, bool]:
        with self._lock:
            known = self._resources.get(version, {}).get(kind)
        if known is None:  # not asked yet, or a definition that was made since
            answer = self.request("GET", f"/apis/{version}" if "/" in version else f"/api/{version}")
            resources = {item["kind"]: (item["name"], item["namespaced"]) for item in answer["resources"] if "/" not in item["name"]}
            with self._lock:
                self._resources[version] = resources
            known = resources.get(kind)
        if known is None:
            raise ApiError(f"GET {version}", 404, "NotFound", f"no kind {kind} in {version}")
        return known


def _answer(method: str, path: str, status: int, content_type: str, data: bytes) -> Any:
    content: Any = json.loads(data) if content_type.startswith("application/json") else data.decode("utf-8", "replace")
    if status < 400:
        return content
    if isinstance(content, dict):
        raise ApiError(f"{method} {path}", status, str(content.get("reason", "")), str(content.get("message", "")))
    raise ApiError(f"{method} {path}", status, "", str(content)[:500])


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    while piece := response.read1(65536):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line for line in lines if line)


def _named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise ValueError(f"nothing is called {name}")


def _pem(section: Mapping[str, str], field: str, folder: Path) -> str:
    data = section.get(f"{field}-data")
    return base64.b64decode(data).decode() if data else (folder / section[field]).read_text("utf-8")


def _load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    # ssl reads these from a file only; the file is readable by its owner alone and gone at once
    with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="ascii") as file:
        file.write(f"{certificate}\n{key}")
        file.flush()
        context.load_cert_chain(file.name)
