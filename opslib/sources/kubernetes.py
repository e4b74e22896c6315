"""Kubernetes, asked for as little as answers the question.

Authentication and the address come from the official client's configuration (kubeconfig with exec plugins, client certificates and tokens,
or a pod's service account; proxies; CA bundles); requests go through its connection pool raw, and what comes back is decoded straight into
the few fields that are used (`opslib.sources.objects`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from opslib.errors import Conflict, Expired, Forbidden, NotFound, NotNow, Refused, SourceError, Unauthenticated, Unreachable, WrongTarget
from opslib.findings import command
from opslib.messages import Text, _, one_line
from opslib.sources import objects
from opslib.sources.decoding import decoder
from opslib.sources.kubeconfig import SYSTEM, Credentials, authorization_of, configuration_of, credentials_of
from opslib.sources.objects import Base, Object
from opslib.sources.transport import HttpTransport, Request, Response, Transport, Wrap, parsed_date, unwrapped

if TYPE_CHECKING:
    from opslib.environments import Environment
    from opslib.sources.execution import Execution
    from opslib.sources.unhealthy import UnhealthyPods

T = TypeVar("T")
Many = list[T]  # since `Kubernetes.list` hides the name

PAGE = 500
PARALLEL = 8
VERSIONS = {
    "": "v1",
    "apps": "v1",
    "batch": "v1",
    "autoscaling": "v2",
    "policy": "v1",
    "networking.k8s.io": "v1",
    "discovery.k8s.io": "v1",
    "storage.k8s.io": "v1",
    "coordination.k8s.io": "v1",
    "rbac.authorization.k8s.io": "v1",
    "apiextensions.k8s.io": "v1",
    "authentication.k8s.io": "v1",
    "authorization.k8s.io": "v1",
    "events.k8s.io": "v1",
    "scheduling.k8s.io": "v1",
    "metrics.k8s.io": "v1beta1",
}  # the stable version of each built-in group; others are asked for
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
_METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


class ListMetadata(Base):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")
    remaining_item_count: int | None = None


class Items(Base, Generic[T]):
    metadata: ListMetadata = msgspec.field(default_factory=ListMetadata)
    items: list[T] = []


class ColumnDefinition(Base):
    name: str = ""


class TableRow(Base):
    cells: list[Any] = []


class Table(Base):
    """What the server prints, without the objects."""

    metadata: ListMetadata = msgspec.field(default_factory=ListMetadata)
    column_definitions: list[ColumnDefinition] = []
    rows: list[TableRow] = []


class Status(Base):
    """The API server's word on a request that failed."""

    reason: str = ""
    message: str = ""
    code: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom the API server sees us."""

    username: str
    groups: tuple[str, ...]


class Rule(Base):
    """What may be done with which resources, as a role's rule says it."""

    verbs: list[str] = []
    api_groups: list[str] = []
    resources: list[str] = []
    resource_names: list[str] = []

    def allows(self, verb: str, resource: str) -> bool:
        """Whether it allows `verb` on every object of a resource ("pods", "pods/log", "deployments.apps")."""
        whole, _slash, subresource = resource.partition("/")
        name, _dot, group = whole.partition(".")
        named = {f"{name}/{subresource}", f"*/{subresource}", "*"} if subresource else {name, "*"}
        return (
            not self.resource_names
            and not {verb, "*"}.isdisjoint(self.verbs)
            and not {group, "*"}.isdisjoint(self.api_groups)
            and not named.isdisjoint(self.resources)
        )


class Rules(Base):
    """Our rules in a namespace. `incomplete`: there may be more that the server cannot name."""

    resource_rules: list[Rule] = []
    incomplete: bool = False

    def allow(self, verb: str, resource: str) -> bool:
        """Whether one of them allows `verb` on a resource."""
        return any(rule.allows(verb, resource) for rule in self.resource_rules)


class Kubernetes:
    """One cluster, read.

    Parameters
    ----------
    transport
        Where requests go.
    context
        Context's name in the kubeconfig, for the commands that are shown; empty where there is none.
    address
        The API server's address, for the reader.
    credentials
        What is known of the credentials without asking; None where that is nothing.
    execution
        Runs commands in its containers; None where that cannot be done.
    """

    def __init__(
        self,
        transport: Transport,
        context: str = "",
        address: str = "",
        credentials: Credentials | None = None,
        execution: Execution | None = None,
    ) -> None:
        self._transport = transport
        self._execution = execution
        self.context = context
        self.address = address
        self.credentials = credentials
        self.ahead = timedelta()
        """How far the API server's clock is ahead of ours, as it last answered; nothing where both may well show the same."""
        self._versions = dict(VERSIONS)

    @classmethod
    def connect(cls, environment: Environment, wrap: Wrap = unwrapped) -> Kubernetes:
        """The cluster of an environment. No request is sent yet, except what an exec plugin does to get a token.

        Raises
        ------
        InputError
            The kubeconfig is missing or not valid, or the context is not in it.
        WrongTarget
            The context has another address than the environment expects.
        Unauthenticated
            The kubeconfig's exec plugin gave no credentials.
        """
        settings = environment.kubernetes
        configuration, context = configuration_of(settings.kubeconfig, settings.context)
        expected = settings.expected_server
        if expected and configuration.host.rstrip("/") != expected.rstrip("/"):
            raise WrongTarget(
                _(
                    "The context {context} leads to {address}, but the environment {environment} is at {expected}",
                    context=context or "-",
                    address=configuration.host,
                    environment=environment.name,
                    expected=expected,
                ),
                _("Name the right context in kubernetes.context, or mend kubernetes.expected_server"),
            )
        from kubernetes.client.rest import RESTClientObject

        from opslib.sources.execution import Execution

        configuration.connection_pool_maxsize = PARALLEL * 2
        pool = RESTClientObject(configuration).pool_manager
        transport = HttpTransport(SYSTEM, configuration.host, pool, authorization_of(configuration), settings.deadline_seconds)
        credentials = credentials_of(configuration, settings.kubeconfig, context)
        return cls(wrap(transport), context, configuration.host, credentials, Execution(configuration))

    @property
    def execution(self) -> Execution:
        """Runs commands in the cluster's containers.

        Raises
        ------
        SourceError
            This is no live cluster.
        """
        if self._execution is None:
            raise SourceError(SYSTEM, _("Commands in containers can only be run in a live cluster"))
        return self._execution

    # --- one object, many objects ---

    def get(self, kind: type[T], resource: str, name: str, namespace: str = "") -> T:
        """One object in full.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        path = f"{self._path(resource, namespace)}/{quote(name, safe='')}"
        response = self._send(Request(path=path, what=_what(resource, namespace, name)), "get", resource, namespace)
        return _decode(response.body, kind)

    def metadata(self, resource: str, name: str, namespace: str = "") -> Object:
        """The metadata of one object, without its content: this is how Secrets are looked at."""
        path = f"{self._path(resource, namespace)}/{quote(name, safe='')}"
        request = Request(path=path, headers={"accept": _METADATA}, what=_what(resource, namespace, name))
        return _decode(self._send(request, "get", resource, namespace).body, Object)

    def list(self, kind: type[T], resource: str, namespace: str = "", *, labels: str = "", fields: str = "") -> Many[T]:
        """All objects of a resource ("pods", "deployments.apps"), page by page; of all namespaces where none is named."""
        return [*self.iterate(kind, resource, namespace, labels=labels, fields=fields)]

    def iterate(self, kind: type[T], resource: str, namespace: str = "", *, labels: str = "", fields: str = "") -> Iterator[T]:
        """The same one after the other, a page in memory at a time."""
        for page in self._pages(Items[kind], resource, namespace, "application/json", labels, fields):  # type: ignore[valid-type]
            yield from page.items

    def metadata_list(self, resource: str, namespace: str = "", *, labels: str = "", fields: str = "") -> Many[Object]:
        """The metadata of all objects of a resource, without their content."""
        pages = self._pages(Items[Object], resource, namespace, _METADATA_LIST, labels, fields)
        return [item for page in pages for item in page.items]

    def table(self, resource: str, namespace: str = "", *, labels: str = "", fields: str = "") -> Many[dict[str, Any]]:
        """The rows that ``kubectl get -o wide`` prints, by column name in lower case, as the server makes them from its cache.

        Rows carry no namespace; ask one namespace at a time where it matters.
        """
        table = self.print_table(resource, namespace, labels=labels, fields=fields)
        names = [column.name.lower() for column in table.column_definitions]
        return [dict(zip(names, row.cells, strict=False)) for row in table.rows]

    def print_table(self, resource: str, namespace: str = "", *, labels: str = "", fields: str = "") -> Table:
        """The same as the server sends it: columns and cells."""
        query = [("includeObject", "None"), ("resourceVersion", "0"), *_selectors(labels, fields)]
        request = Request(
            path=self._path(resource, namespace), query=tuple(query), headers={"accept": _TABLE}, what=_what(resource, namespace)
        )
        return _decode(self._send(request, "list", resource, namespace).body, Table)

    def _pages(self, kind: type[T], resource: str, namespace: str, accept: str, labels: str, fields: str) -> Iterator[T]:
        """The pages of a list. Where a continue token has expired half-way (410), the server's fresh one goes on from the same place."""
        token = ""
        while True:
            query = [("limit", str(PAGE)), *_selectors(labels, fields)]
            if token:
                query.append(("continue", token))
            request = Request(
                path=self._path(resource, namespace), query=tuple(query), headers={"accept": accept}, what=_what(resource, namespace)
            )
            try:
                page = _decode(self._send(request, "list", resource, namespace).body, kind)
            except _ExpiredToken as error:
                token = error.token
                continue
            yield page
            token = page.metadata.continue_  # type: ignore[attr-defined]
            if not token:
                return

    # --- pods ---

    def unhealthy_pods(self, namespace: str = "", *, labels: str = "", restarted_within_seconds: float = 3600) -> UnhealthyPods:
        """Every pod that is not well, in full: see `opslib.sources.unhealthy.unhealthy_pods`."""
        from opslib.sources.unhealthy import unhealthy_pods

        return unhealthy_pods(self, namespace, labels=labels, restarted_within_seconds=restarted_within_seconds)

    def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        previous: bool = False,
        tail_lines: int = 100,
        since_seconds: int | None = None,
        limit_bytes: int = 1_000_000,
    ) -> str:
        """The last lines of a container's log; of the one before the last restart with `previous`.

        Bytes that are not UTF-8 become replacement characters. What is longer than `limit_bytes` is cut off.

        Raises
        ------
        NotFound
            There is no such container, or no log of it (any more).
        """
        query = [("container", container), ("tailLines", str(tail_lines)), ("limitBytes", str(limit_bytes))]
        if previous:
            query.append(("previous", "true"))
        if since_seconds is not None:
            query.append(("sinceSeconds", str(since_seconds)))
        request = Request(
            path=f"{self._path('pods', namespace)}/{quote(pod, safe='')}/log",
            query=tuple(query),
            what=_("the log of {container} in {namespace}/{pod}", container=container, namespace=namespace, pod=pod),
            limit_bytes=limit_bytes,
            cut=True,
        )
        return self._send(request, "get", "pods/log", namespace).body.decode(errors="replace")

    # --- the cluster and us ---

    def version(self) -> str:
        """The API server's version: "v1.36.3"."""
        answer = self._send(Request(path="/version", what=_("the version")), "get", "/version", "")
        return str(json.loads(answer.body).get("gitVersion", ""))

    def of_kubelet(self, node: str, path: str) -> dict[str, Any]:
        """What a node's kubelet serves at a path ("configz", "stats/summary"), through the API server; needs ``get nodes/proxy``."""
        request = Request(path=f"/api/v1/nodes/{quote(node, safe='')}/proxy/{path}", what=_what("nodes/proxy", "", node))
        return _decode(self._send(request, "get", "nodes/proxy", "").body, dict[str, Any])

    def knows(self, group: str) -> bool:
        """Whether the cluster has kinds of an API group, such as "velero.io"."""
        try:
            self._preferred_version(group)
        except NotFound:
            return False
        return True

    def cluster_uid(self) -> str:
        """What identifies the cluster: the UID of its kube-system namespace."""
        return self.metadata("namespaces", "kube-system").metadata.uid

    def identity(self) -> Identity:
        """As whom the API server sees us (SelfSubjectReview)."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        info = self._review("selfsubjectreviews.authentication.k8s.io", body)["status"]["userInfo"]
        return Identity(str(info.get("username", "")), tuple(info.get("groups", ())))

    def rules(self, namespace: str) -> Rules:
        """What we may do in a namespace, and in the whole cluster as far as it holds there too (SelfSubjectRulesReview)."""
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
        status = self._review("selfsubjectrulesreviews.authorization.k8s.io", body)["status"]
        return msgspec.convert(status, Rules)

    def may(self, verb: str, resource: str, namespace: str = "") -> bool:
        """Whether we may (SelfSubjectAccessReview). `resource` as elsewhere, with a subresource after a slash: "pods/log"."""
        name, _slash, subresource = resource.partition("/")
        name, _dot, group = name.partition(".")
        attributes = {"verb": verb, "resource": name, "group": group, "subresource": subresource, "namespace": namespace}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {key: value for key, value in attributes.items() if value}},
        }
        return bool(self._review("selfsubjectaccessreviews.authorization.k8s.io", body)["status"].get("allowed"))

    def _review(self, resource: str, body: dict[str, Any]) -> dict[str, Any]:
        request = Request(
            method="POST",
            path=self._path(resource, ""),
            headers={"content-type": "application/json"},
            body=json.dumps(body).encode(),
            what=_("our permissions"),
            safe=True,
        )
        answer: dict[str, Any] = json.loads(self._send(request, "create", resource, "").body)
        return answer

    # --- whole objects, and changing them (`opslib.actions` alone does) ---

    def whole(self, resource: str, name: str, namespace: str = "") -> dict[str, Any]:
        """One object with all its fields, as JSON data.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        return self.get(dict[str, Any], resource, name, namespace)

    def whole_list(self, resource: str, namespace: str = "", *, labels: str = "", fields: str = "") -> Many[dict[str, Any]]:
        """All objects of a resource with all their fields, as JSON data."""
        return self.list(dict[str, Any], resource, namespace, labels=labels, fields=fields)

    def change(
        self,
        verb: str,
        resource: str,
        name: str,
        namespace: str = "",
        body: dict[str, Any] | None = None,
        *,
        subresource: str = "",
        patch: str = "strategic-merge-patch",
        dry_run: bool = False,
    ) -> dict[str, Any]:
        """Send one change; what the server answers.

        Parameters
        ----------
        verb
            "patch", "update", "create" or "delete".
        patch
            Kind of a patch's body: "strategic-merge-patch", "merge-patch", "json-patch" or "apply-patch".
        dry_run
            Whether the server only says what would become of it (``dryRun=All``).

        Raises
        ------
        Conflict
            The object is not as the body (resourceVersion, uid) expects it.
        Refused
            Not valid, or against a policy; `NotNow` where a disruption budget or a namespace that goes away forbids it for the time being.
        """
        collection = self._path(resource, namespace)
        path = f"{collection}/{quote(name, safe='')}"
        if subresource:
            path = f"{path}/{subresource}"
        elif verb == "create":
            path = collection
        query = [("dryRun", "All")] if dry_run and verb != "delete" else []
        if verb != "delete":
            query.append(("fieldManager", "opslib"))
        elif dry_run:
            body = {**(body or {"apiVersion": "v1", "kind": "DeleteOptions"}), "dryRun": ["All"]}
        kind = f"application/{patch}+{'yaml' if patch == 'apply-patch' else 'json'}" if verb == "patch" else "application/json"
        request = Request(
            method={"patch": "PATCH", "update": "PUT", "create": "POST", "delete": "DELETE"}[verb],
            path=path,
            query=tuple(query),
            headers={"content-type": kind},
            body=None if body is None else json.dumps(body).encode(),
            what=_what(resource, namespace, name),
            safe=dry_run,
        )
        target = f"{resource}/{subresource}" if subresource else resource
        answer: dict[str, Any] = json.loads(self._send(request, verb, target, namespace, changes=True).body)
        return answer

    # --- requests ---

    def _path(self, resource: str, namespace: str) -> str:
        name, _dot, group = resource.partition(".")
        version = self._versions.get(group) or self._preferred_version(group)
        root = f"/apis/{quote(group, safe='')}/{version}" if group else "/api/v1"
        return f"{root}/namespaces/{quote(namespace, safe='')}/{name}" if namespace else f"{root}/{name}"

    def _preferred_version(self, group: str) -> str:
        answer = self._send(Request(path=f"/apis/{quote(group, safe='')}", what=group), "get", f"/apis/{group}", "")
        version = str(json.loads(answer.body)["preferredVersion"]["version"])
        self._versions[group] = version
        return version

    def _send(self, request: Request, verb: str, resource: str, namespace: str, *, changes: bool = False) -> Response:
        sent = datetime.now(UTC)
        response = self._transport.send(request)
        date = parsed_date(response.headers.get("date", ""))
        if date is not None:  # in whole seconds, and some servers write one twice
            self.ahead = timedelta() if sent - timedelta(seconds=2) <= date <= datetime.now(UTC) else date - sent
        if response.status < 400:
            return response
        status = _as_far_as_understood(response, Status)
        what = request.what or resource
        if changes and (response.status in (400, 409, 422, 429) or (response.status == 403 and not _NO_RIGHT.search(status.message))):
            raise _not_changed(response.status, what, status)
        if response.status == 401:
            raise Unauthenticated(
                SYSTEM,
                _("The cluster does not accept the credentials: {message}", message=one_line(status.message or "401")),
                _("They are missing, wrong or expired: log in again"),
                command("aws", "eks", "update-kubeconfig", "--name", "…") if "eks" in self.context else "",
            )
        if response.status == 403:
            raise forbidden(verb, resource, namespace, what, status.message)
        if response.status == 404 or (response.status == 400 and resource == "pods/log"):
            raise NotFound(SYSTEM, _("There is no {what}: {message}", what=what, message=one_line(status.message or "404")))
        if response.status == 410:
            token = _as_far_as_understood(response, Items[Object]).metadata.continue_
            if token:
                raise _ExpiredToken(token)
            raise Expired(SYSTEM, _("The list of {what} has expired", what=what), _("Ask again"))
        kind = Unreachable if response.status in (429, 502, 503, 504) else SourceError
        message = one_line(status.message or response.body.decode(errors="replace"), 300)
        raise kind(
            SYSTEM,
            _("The cluster answered {status} for {what}: {message}", status=response.status, what=what, message=message),
            _("Try again; where it stays so, look at the API server"),
        )


class _ExpiredToken(Exception):
    """A continue token that is too old; `token` goes on from the same place, from a newer state."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token


# --- requests and answers ---


def _selectors(labels: str, fields: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in (("labelSelector", labels), ("fieldSelector", fields)) if value]


def _what(resource: str, namespace: str, name: str = "") -> Text:
    if name:
        return f"{resource} {namespace}/{name}" if namespace else f"{resource} {name}"
    return _("{resource} in {namespace}", resource=resource, namespace=namespace) if namespace else resource


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        answer: T = decoder(kind).decode(body)
    except msgspec.ValidationError:
        try:
            answer = objects.convert(json.loads(body), kind)  # the slow way, which takes nulls
        except (msgspec.ValidationError, ValueError) as error:
            raise _not_understood(error) from error
    except msgspec.DecodeError as error:
        raise _not_understood(error) from error
    return answer


def _not_understood(error: Exception) -> SourceError:
    return SourceError(
        SYSTEM,
        _("The answer is not what a Kubernetes API server sends ({reason})", reason=one_line(error)),
        _("Check the address, and what stands between"),
    )


def _as_far_as_understood(response: Response, kind: type[T]) -> T:
    """What the body of a refusal says; an empty `kind` where it is something else, as from a proxy between."""
    try:
        answer: T = decoder(kind).decode(response.body)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return kind()
    return answer


_ENDING = "being terminated"  # a namespace, and with it what is refused in it
_NO_RIGHT = re.compile(r'User "[^"]*" cannot ')  # other refusals with 403 come from admission: a quota, a policy


def _not_changed(code: int, what: Text, status: Status) -> SourceError:
    message = one_line(status.message or str(code), 400)
    if code == 409:
        return Conflict(SYSTEM, _("{what} has changed since it was read: {message}", what=what, message=message), _("Make the plan again"))
    if code == 429 or (code == 403 and _ENDING in message):
        return NotNow(
            SYSTEM,
            _("The cluster does not allow it for {what} now: {message}", what=what, message=message),
            _("Wait until the disruption budget has room, or until the server has time"),
            status=code,
        )
    return Refused(
        SYSTEM, _("The cluster refuses the change of {what}: {message}", what=what, message=message), _("Mend what it names"), status=code
    )


def forbidden(verb: str, resource: str, namespace: str, what: Text, message: str) -> Forbidden:
    """What is missing where the API server refuses a request with `message`, and the command that gives it."""
    if resource.startswith("/"):
        return Forbidden(SYSTEM, _("Not allowed to read {what}: {message}", what=what, message=one_line(message)))
    whole, _slash, subresource = resource.partition("/")
    name, _dot, group = whole.partition(".")
    rule = json.dumps({"apiGroups": [group], "resources": [f"{name}/{subresource}" if subresource else name], "verbs": [verb]})
    user = re.search(r'User "([^"]+)"', message)
    values = {"user": user[1] if user else "-", "verb": verb, "resource": resource, "namespace": namespace}
    problem = (
        _("{user} may not {verb} {resource} in {namespace}", **values)
        if namespace
        else _("{user} may not {verb} {resource} in the whole cluster", **values)
    )
    kind = "role" if namespace else "clusterrole"
    return Forbidden(
        SYSTEM,
        problem,
        _("Have this rule added to a role of {user}: {rule}", user=values["user"], rule=rule),
        command(
            "kubectl", *(["-n", namespace] if namespace else []), "create", kind,
            "-".join(["opslib", verb, name, *([subresource] if subresource else [])]),
            f"--verb={verb}", f"--resource={resource}",
        ),
    )  # fmt: skip
