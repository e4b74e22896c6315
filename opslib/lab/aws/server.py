"""The account's web server: own operations first, moto for the rest."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from opslib.lab.aws import analyzer, credentials, eks, events, scans
from opslib.lab.aws.account import Account, Event
from opslib.lab.aws.protocol import Answer, Call, Protocol, Refusal

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Operation = Callable[[Account, Call], Answer]

# by the name that requests are signed for; beside each its name in botocore
OPERATIONS: Mapping[tuple[str, str], Mapping[str, Operation]] = {
    ("eks", "eks"): {
        "CreateAddon": eks.create_addon,
        "DeleteAddon": eks.delete_addon,
        "DescribeAddon": eks.describe_addon,
        "DescribeAddonVersions": eks.describe_addon_versions,
        "DescribeClusterVersions": eks.describe_cluster_versions,
        "DescribeInsight": eks.describe_insight,
        "DescribeUpdate": eks.describe_update,
        "ListAddons": eks.list_addons,
        "ListInsights": eks.list_insights,
        "ListUpdates": eks.list_updates,
        "UpdateAddon": eks.update_addon,
        "UpdateClusterVersion": eks.update_cluster_version,
        "UpdateNodegroupVersion": eks.update_nodegroup_version,
    },
    ("cloudtrail", "cloudtrail"): {"LookupEvents": events.lookup_events},
    ("access-analyzer", "accessanalyzer"): {
        "GetAnalyzer": analyzer.get_analyzer,
        "GetFinding": analyzer.get_finding,
        "GetFindingV2": analyzer.get_finding_v2,
        "ListAnalyzers": analyzer.list_analyzers,
        "ListFindings": analyzer.list_findings,
        "ListFindingsV2": analyzer.list_findings_v2,
        "UpdateFindings": analyzer.update_findings,
    },
    ("ecr", "ecr"): {"DescribeImageScanFindings": scans.describe_image_scan_findings},
}

_SCOPE = re.compile(r"Credential=([^/,\s]+)/\d{8}/([^/]+)/([^/]+)/aws4_request")
_READS = ("Get", "List", "Describe", "Lookup", "Head", "BatchGet", "Generate", "Simulate")
_GLOBAL = ("iam", "sts")
OWN_KEY = "lab-itself"
"""Access key with which the lab fills the account: what it does stands in no history."""


def app(account: Account) -> WSGIApplication:
    """The WSGI application. What moto held in this process is dropped: the account starts empty."""
    from moto.moto_api._internal.models import moto_api_backend
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    moto_api_backend.reset()
    moto = DomainDispatcherApplication(create_backend_app)
    protocols = {signed: Protocol(service, operations) for (signed, service), operations in OPERATIONS.items()}
    operations = {signed: one for (signed, _), one in OPERATIONS.items()}
    all_eks = Protocol("eks", protocols["eks"].model.operation_names)

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/readyz" and "HTTP_AUTHORIZATION" not in environ:
            ready = account.ready.is_set()
            return _send(start, 200 if ready else 503, {"Content-Type": "text/plain"}, b"ok" if ready else b"not yet")
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = account.account_id
        found = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        if found is None:
            return moto(environ, start)  # type: ignore[no-any-return]
        access_key, region, service = found.groups()
        method, path, target = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_X_AMZ_TARGET", "")
        if access_key in account.expired_keys:
            return _expired(environ, service, start)
        if service == "eks":
            eks.settle(account)
        protocol = protocols.get(service)
        matched = protocol.match(method, path, target) if protocol else None
        if protocol is not None and matched is not None:
            name, in_path = matched
            query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
            headers: dict[str, str] = {}
            status, body, error = 200, b"", ""
            try:
                call = Call(name, protocol.parameters(name, in_path, query, _body(environ)), region, access_key)
                with account.lock:
                    body = protocol.answer(name, operations[service][name](account, call))
            except Refusal as refusal:
                status, headers, body = protocol.refusal(name, refusal)
                error = refusal.code
            _note(account, environ, name, service, region, access_key, error)
            return _send(start, status, {"Content-Type": _content_type(service), **headers}, body)
        name = _operation_of(environ, service, target, all_eks.match(method, path, "") if service == "eks" else None)
        if (service, name) == ("eks", "DescribeCluster"):
            return _changed(moto, environ, start, lambda body: eks.enrich_cluster(account, region, body))
        if (service, name) == ("iam", "GetCredentialReport"):
            return _changed(moto, environ, start, lambda body: credentials.with_root(account, body))
        statuses: list[str] = []

        def start_noted(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            statuses.append(status)
            return start(status, headers, exc_info)

        pieces: Iterable[bytes] = moto(environ, start_noted)
        _note(account, environ, name, service, region, access_key, "" if statuses and statuses[0] < "4" else "Refused")
        return pieces

    return answer


class Server:
    """The account on the loopback, until closed."""

    def __init__(self, account: Account, port: int, held: socket.socket | None) -> None:
        from moto.moto_server.werkzeug_app import MotoRequestHandler
        from werkzeug.serving import make_server

        class Handler(MotoRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, type: str, message: str, *args: Any) -> None:
                """Nothing: requests are not printed."""

        fd = held.fileno() if held is not None else None
        self.account = account
        self._server = make_server("127.0.0.1", port, app(account), threaded=True, request_handler=Handler, fd=fd)
        self._thread = threading.Thread(target=self._server.serve_forever, name="aws", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """For boto3's ``endpoint_url``, or AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop; returns when the port is free."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(3)


def serve(account: Account, port: int = 0, *, held: socket.socket | None = None) -> Server:
    """Serve the account from threads of this process; `held` is a socket that listens already."""
    return Server(account, port, held)


def _body(environ: WSGIEnvironment) -> bytes:
    data: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(data)  # whoever comes next reads it again
    return data


def _send(start: StartResponse, status: int, headers: Mapping[str, str], body: bytes) -> Iterable[bytes]:
    start(f"{status} {HTTPStatus(status).phrase}", [*headers.items(), ("Content-Length", str(len(body)))])
    return [body]


def _content_type(service: str) -> str:
    return "application/x-amz-json-1.1" if service in ("cloudtrail", "ecr") else "application/json"


def _changed(moto: WSGIApplication, environ: WSGIEnvironment, start: StartResponse, change: Callable[[bytes], bytes]) -> Iterable[bytes]:
    kept: list[tuple[str, list[tuple[str, str]]]] = []

    def keep(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        kept.append((status, headers))
        return lambda data: None

    body = b"".join(moto(environ, keep))
    status, headers = kept[0]
    if status.startswith("200"):
        body = change(body)
    start(status, [(name, value) for name, value in headers if name.lower() != "content-length"] + [("Content-Length", str(len(body)))])
    return [body]


def _operation_of(environ: WSGIEnvironment, service: str, target: str, matched: tuple[str, dict[str, str]] | None) -> str:
    if matched is not None:
        return matched[0]
    if target:
        return target.rpartition(".")[2]
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
        return parse_qs(_body(environ).decode("utf-8", "replace")).get("Action", [""])[0]
    return ""  # S3's and others' data events are not in the event history either


def _note(account: Account, environ: WSGIEnvironment, name: str, service: str, region: str, access_key: str, error: str) -> None:
    # reads are left out: CloudTrail would have them, but a lab that asks itself all day would show little else
    if not name or name.startswith(_READS) or access_key == OWN_KEY:
        return
    user = _user(account, access_key)
    record: dict[str, Any] = {"sourceIPAddress": environ.get("REMOTE_ADDR", ""), "userAgent": environ.get("HTTP_USER_AGENT", "")}
    if error:
        record["errorCode"] = error
    where = "us-east-1" if service in _GLOBAL else region
    event = Event(account.now(), name, f"{service}.amazonaws.com", user, False, access_key, record=record, region=where)
    with account.lock:
        account.events.append(event)


def _user(account: Account, access_key: str) -> str:
    from moto.iam.models import iam_backends

    for user in iam_backends[account.account_id]["aws"].users.values():
        if any(key.access_key_id == access_key for key in user.access_keys):
            return str(user.name)
    return "moto"  # what moto's STS calls the owner of a key that it does not know


def _expired(environ: WSGIEnvironment, service: str, start: StartResponse) -> Iterable[bytes]:
    text = "The security token included in the request is expired"
    if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded") or service == "s3":
        inner = f"<Error><Type>Sender</Type><Code>ExpiredToken</Code><Message>{text}</Message></Error>"
        body = inner if service == "s3" else f"<ErrorResponse>{inner}<RequestId>lab</RequestId></ErrorResponse>"
        if service == "ec2":
            body = f"<Response><Errors>{inner}</Errors><RequestID>lab</RequestID></Response>"
        return _send(start, 403, {"Content-Type": "text/xml"}, body.encode())
    body = json.dumps({"__type": "ExpiredTokenException", "message": text})
    return _send(start, 403, {"Content-Type": "application/json", "x-amzn-ErrorType": "ExpiredTokenException"}, body.encode())
