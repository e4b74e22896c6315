"""Commands in containers, over the API server's WebSocket (``pods/exec``).

The command is a list of words and goes to the container as it is: no shell reads it, unless the list names one. What it writes comes
back in frames, each with the number of its channel (subprotocol ``v5.channel.k8s.io``, or ``v4`` with older servers:
https://github.com/kubernetes/apimachinery/blob/master/pkg/util/remotecommand/constants.go).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, urlencode

import msgspec

from opslib.errors import Forbidden, NotFound, SourceError, Unauthenticated, Unreachable
from opslib.findings import command
from opslib.messages import Text, _, one_line
from opslib.sources.kubeconfig import SYSTEM, authorization_of
from opslib.sources.transport import TooLarge

if TYPE_CHECKING:
    from kubernetes.client import Configuration
    from websocket import WebSocket

_PROTOCOLS = "v5.channel.k8s.io,v4.channel.k8s.io"
_STDOUT, _STDERR, _ERROR = 1, 2, 3
_STDERR_BYTES = 64 * 1024  # what is kept of the error output
_MISSING = ("executable file not found", "no such file or directory", "not found in $PATH")


@dataclass(frozen=True, slots=True)
class Result:
    """What a command wrote, and how it ended.

    Parameters
    ----------
    stdout, stderr
        Bytes; `stderr` is cut off after 64 KiB; `stdout` is empty where it went to a file.
    exit_status
        The command's own; None where it was cut off, since it was not waited for then.
    truncated
        Whether `stdout` was cut off at the limit.
    """

    stdout: bytes
    stderr: bytes
    exit_status: int | None
    truncated: bool = False


class NoSuchProgram(SourceError):
    """The container's image does not have the program."""


class Execution:
    """Runs commands in the containers of one cluster."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._headers = authorization_of(configuration)

    def run(
        self,
        namespace: str,
        pod: str,
        container: str,
        words: Sequence[str],
        *,
        deadline_seconds: float = 30,
        limit_bytes: int = 1024 * 1024,
        cut: bool = False,
    ) -> Result:
        """Run a command and keep what it writes.

        Parameters
        ----------
        words
            The program and its arguments.
        deadline_seconds
            For all of it. The connection is closed then; whether the command ends with it is the container runtime's affair, so that a
            command that may take long is best given a limit of its own (``timeout 20 du …``).
        limit_bytes, cut
            The most that is kept of its output. A longer one is refused, or, with `cut`, cut off there.

        Raises
        ------
        NoSuchProgram
            The image does not have the program.
        NotFound
            There is no such pod, or the container does not run.
        Forbidden
            No right to ``create`` (before 1.35: ``get``) ``pods/exec``.
        TooLarge, Unreachable, SourceError
            Its output is too long; no end in time; the kubelet's own words.
        """
        kept = bytearray()

        def keep(data: bytes) -> int:
            kept.extend(data)
            return len(kept)

        stderr, status, truncated = self._run((namespace, pod, container), words, keep, deadline_seconds, limit_bytes, cut=cut)
        return Result(bytes(kept[:limit_bytes]), stderr, status, truncated)

    def stream(
        self,
        namespace: str,
        pod: str,
        container: str,
        words: Sequence[str],
        *,
        to: BinaryIO,
        deadline_seconds: float = 600,
        limit_bytes: int,
        progress: Callable[[int], None] = lambda written: None,
    ) -> Result:
        """The same, its output written to a file as it comes; `progress` hears after each piece how many bytes there are.

        A longer output than `limit_bytes` is refused once that many have come. The errors are those of `run`.
        """
        written = 0

        def keep(data: bytes) -> int:
            nonlocal written
            if written + len(data) <= limit_bytes:
                to.write(data)
            written += len(data)
            progress(written)
            return written

        stderr, status, _cut = self._run((namespace, pod, container), words, keep, deadline_seconds, limit_bytes, cut=False)
        return Result(b"", stderr, status)

    def _run(
        self,
        where: tuple[str, str, str],
        words: Sequence[str],
        keep: Callable[[bytes], int],
        deadline_seconds: float,
        limit_bytes: int,
        *,
        cut: bool,
    ) -> tuple[bytes, int | None, bool]:
        """Error output, exit status, and whether the output was cut off."""
        give_up = time.monotonic() + deadline_seconds
        link = self._open(where, words, deadline_seconds)
        stderr = bytearray()
        try:
            while True:
                data = self._next(link, where, words, give_up)
                channel, content = data[0], data[1:]
                if channel == _STDOUT and content:
                    if keep(content) > limit_bytes:
                        if cut:
                            return bytes(stderr), None, True
                        what = _("The output of {command} is longer than {limit} bytes", command=command(*words[:3]), limit=limit_bytes)
                        raise TooLarge(SYSTEM, what, _("Ask for less of it"))
                elif channel == _STDERR:
                    stderr += content[: _STDERR_BYTES - len(stderr)]
                elif channel == _ERROR:
                    return bytes(stderr), _ended(content, where, words), False
        finally:
            link.close(timeout=1)

    def _open(self, where: tuple[str, str, str], words: Sequence[str], deadline_seconds: float) -> WebSocket:
        from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

        namespace, pod, container = where
        query = [("container", container), ("stdin", "false"), ("stdout", "true"), ("stderr", "true"), ("tty", "false")]
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/exec"
        address = "ws" + self._configuration.host.rstrip("/").removeprefix("http")
        link = WebSocket(sslopt=self._tls(), skip_utf8_validation=True)
        headers = [f"{name}: {value}" for name, value in self._headers().items()]
        try:
            link.connect(  # type: ignore[no-untyped-call]
                f"{address}{path}?{urlencode([*query, *(('command', word) for word in words)])}",
                header=[*headers, f"sec-websocket-protocol: {_PROTOCOLS}", "user-agent: opslib"],
                timeout=deadline_seconds,
                suppress_origin=True,
                **self._proxy(),
            )
        except WebSocketBadStatusException as error:
            raise _refusal(error.status_code, error.resp_body or b"", where) from error
        except (WebSocketException, OSError, ValueError) as error:
            raise self._unreachable(error) from error
        return link

    def _next(self, link: WebSocket, where: tuple[str, str, str], words: Sequence[str], give_up: float) -> bytes:
        """The next frame with something in it."""
        from websocket import ABNF, WebSocketException, WebSocketTimeoutException

        while True:
            left = give_up - time.monotonic()
            try:
                if left <= 0:
                    raise WebSocketTimeoutException
                link.settimeout(left)
                kind, data = link.recv_data()
            except WebSocketTimeoutException as error:
                raise Unreachable(
                    SYSTEM,
                    _("{command} in {pod} has not ended in time", command=command(*words[:3]), pod="/".join(where)),
                    _("Look whether it still runs there, and ask for less"),
                ) from error
            except (WebSocketException, OSError) as error:
                raise self._unreachable(error) from error
            if kind == ABNF.OPCODE_CLOSE:
                raise self._unreachable(ConnectionError("closed before the command had ended"))
            if data:
                return bytes(data)

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(
            SYSTEM,
            _(
                "The connection to the container through {address} broke ({reason})",
                address=self._configuration.host,
                reason=one_line(error),
            ),
            _("Check the network or VPN, and whether the pod's node is ready"),
        )

    def _tls(self) -> dict[str, Any]:
        import ssl

        import certifi

        configuration = self._configuration
        options: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
        if configuration.verify_ssl:
            options = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": configuration.ssl_ca_cert or certifi.where()}
            if configuration.assert_hostname is not None:
                options["check_hostname"] = configuration.assert_hostname
        if configuration.cert_file:
            options |= {"certfile": configuration.cert_file, "keyfile": configuration.key_file}
        if configuration.tls_server_name:
            options["server_hostname"] = configuration.tls_server_name
        return options

    def _proxy(self) -> Mapping[str, Any]:
        from urllib.parse import urlsplit

        configuration = self._configuration
        if not configuration.proxy:
            return {}
        proxy = urlsplit(configuration.proxy)
        bypassed = [one.strip() for one in (configuration.no_proxy or "").split(",") if one.strip()]
        found = {"http_proxy_host": proxy.hostname, "http_proxy_port": proxy.port or 80, "proxy_type": "http", "http_no_proxy": bypassed}
        return found | ({"http_proxy_auth": (proxy.username, proxy.password or "")} if proxy.username else {})


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] = []


class _Status(msgspec.Struct):
    """How a command ended, or why it could not begin (``meta/v1.Status``)."""

    status: str = ""
    reason: str = ""
    message: str = ""
    details: _Details | None = None


def _ended(content: bytes, where: tuple[str, str, str], words: Sequence[str]) -> int:
    """The exit status that the server says.

    Raises
    ------
    SourceError
        The command was not run.
    """
    try:
        status = msgspec.json.decode(content, type=_Status)
    except msgspec.DecodeError:
        status = _Status(message=content.decode(errors="replace"))
    if status.status == "Success":
        return 0
    if status.reason == "NonZeroExitCode" and status.details:
        for cause in status.details.causes:
            if cause.reason == "ExitCode" and cause.message.lstrip("-").isdigit():
                return int(cause.message)
    raise _not_run(status.message, where, words[0] if words else "")


def _not_run(message: str, where: tuple[str, str, str], program: str) -> SourceError:
    namespace, pod, container = where
    place = f"{namespace}/{pod} ({container})"
    if "exec failed" in message and any(sign in message for sign in _MISSING):
        return NoSuchProgram(
            SYSTEM,
            _("The image of {place} has no program {program}", place=place, program=program),
            _("Look with a debug container that has it"),
            command("kubectl", "debug", "-n", namespace, pod, "-it", "--image=busybox", f"--target={container}"),
        )
    if "container not found" in message or "pod does not exist" in message:
        return NotFound(SYSTEM, _("The container {place} does not run: {message}", place=place, message=one_line(message, 300)))
    return SourceError(
        SYSTEM,
        _("The command was not run in {place}: {message}", place=place, message=one_line(message or "-", 300)),
        _("See that the node's kubelet answers"),
    )


def _refusal(code: int, body: bytes, where: tuple[str, str, str]) -> SourceError:
    """The error that a refused connection stands for."""
    try:
        message = msgspec.json.decode(body, type=_Status).message
    except msgspec.DecodeError:
        message = body.decode(errors="replace")
    namespace, pod, _container = where
    what: Text = f"pods/exec {namespace}/{pod}"
    if code == 401:
        return Unauthenticated(SYSTEM, _("The cluster does not accept the credentials: {message}", message=one_line(message or "401")))
    if code == 403:
        refused = re.search(r'cannot (\w+) resource "pods/exec"', message)
        # that `create` is missing besides `get`, the server (1.35 and later) says without a word
        verb = refused[1] if refused else "create" if message.rstrip().endswith("is forbidden:") else ""
        if verb:
            from opslib.sources.kubernetes import forbidden

            return forbidden(verb, "pods/exec", namespace, what, message)
        rule = json.dumps({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create", "get"]})
        return Forbidden(
            SYSTEM,
            _("Not allowed to run commands in {namespace}: {message}", namespace=namespace, message=one_line(message, 300)),
            _("Have this rule added to your role: {rule}", rule=rule),
        )
    if code in (404, 400):
        return NotFound(SYSTEM, _("There is no {what}: {message}", what=what, message=one_line(message or str(code), 300)))
    if code in (429, 502, 503, 504):
        return Unreachable(
            SYSTEM, _("The cluster answered {status} for {what}: {message}", status=code, what=what, message=one_line(message, 300))
        )
    return _not_run(message or str(code), where, "")
