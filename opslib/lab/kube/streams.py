"""Container logs and commands: handed on to the node's kubelet over TLS, as a real API server does, or to a provider in the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from opslib.lab.kube.errors import Object, Refused, bad_request, internal

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
_DIAL_SECONDS = 30
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Which log is asked for, and how much of it. A field that is None was not asked for."""

    namespace: str
    pod: str
    container: str
    previous: bool = False
    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since_seconds: int | None = None
    since_time: str = ""
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Kubelets:
    """How the nodes' kubelets are called.

    Parameters
    ----------
    certificate
        Paths of the certificate and key that show who calls; servers behind the API (`opslib.lab.kube.aggregation`) are shown it, too.
    addresses
        The types of addresses at which they are called, the best first; empty: the server's usual order.
    """

    certificate: tuple[str, str] | None = None
    addresses: tuple[str, ...] = ()


def container_of(pod: Object, asked: str) -> str:
    """The container that a request for a log or command means.

    Raises
    ------
    Refused
        It is not in the pod, or has to be named.
    """
    spec, name = pod.get("spec") or {}, pod["metadata"].get("name", "")
    containers: list[str] = [one.get("name", "") for one in spec.get("containers") or []]
    initial = [one.get("name", "") for one in spec.get("initContainers") or []]
    ephemeral = [one.get("name", "") for one in spec.get("ephemeralContainers") or []]
    if asked:
        if asked not in (*containers, *initial, *ephemeral):
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(containers) == 1:
        return containers[0]
    names = " ".join((*initial, *containers, *ephemeral))
    text = f"a container name must be specified for pod {name}, choose one of: [{names}]"
    raise bad_request(text)


def log_request(pod: Object, container: str, query: Callable[[str], str]) -> LogRequest:
    """A request for a log from its query.

    Raises
    ------
    Refused
        A number is not one, or not allowed.
    """
    from opslib.lab.kube.errors import invalid, invalid_object

    problems = []

    def number(name: str, least: int) -> int | None:
        text = query(name)
        if not text:
            return None
        try:
            value = int(text)
        except ValueError:
            raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
        if value < least:
            problems.append(invalid(name, value, f"must be greater than {'or equal to ' if least == 0 else ''}0"))
        return value

    request = LogRequest(
        namespace=pod["metadata"]["namespace"],
        pod=pod["metadata"]["name"],
        container=container,
        previous=query("previous") in ("true", "1"),
        follow=query("follow") in ("true", "1"),
        timestamps=query("timestamps") in ("true", "1"),
        tail_lines=number("tailLines", 0),
        since_seconds=number("sinceSeconds", 1),
        since_time=query("sinceTime"),
        limit_bytes=number("limitBytes", 1),
    )
    if problems:
        raise invalid_object("", "PodLogOptions", request.pod, problems)
    return request


def kubelet_of(node: Object, preferred: Sequence[str] = ()) -> tuple[str, int]:
    """Host and port of a node's kubelet; of its addresses the first of the `preferred` types.

    Raises
    ------
    Refused
        The node says no address.
    """
    status = node.get("status") or {}
    addresses = {one.get("type"): one.get("address", "") for one in reversed(status.get("addresses") or [])}
    order = preferred or ("InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP")
    host = next((addresses[kind] for kind in order if addresses.get(kind)), "")
    if not host:
        raise internal(f"no preferred addresses found; known addresses: {sorted(str(kind) for kind in addresses)}")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or 10250
    return host, int(port)


def _tls(certificate: tuple[str, str] | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # as an API server without --kubelet-certificate-authority
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


async def kubelet_log(host: str, port: int, request: LogRequest, certificate: tuple[str, str] | None) -> AsyncIterator[bytes]:
    """A log from the kubelet, in pieces as they come. The first piece is asked for before anything is answered.

    Raises
    ------
    Refused
        The kubelet refuses, or does not answer.
    """
    import h11

    query: Mapping[str, object] = {
        name: value
        for name, value in (
            ("follow", "true" if request.follow else None),
            ("limitBytes", request.limit_bytes),
            ("previous", "true" if request.previous else None),
            ("sinceSeconds", request.since_seconds),
            ("sinceTime", request.since_time or None),
            ("tailLines", request.tail_lines),
            ("timestamps", "true" if request.timestamps else None),
        )
        if value is not None
    }
    path = f"/containerLogs/{request.namespace}/{request.pod}/{request.container}"
    target = path + (f"?{urlencode(query)}" if query else "")
    address = f"https://{host}:{port}{target}"
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=_tls(certificate)), _DIAL_SECONDS)
    except ConnectionRefusedError:
        raise Refused(500, "", f'Get "{address}": dial tcp {host}:{port}: connect: connection refused') from None
    except (OSError, TimeoutError) as error:
        raise Refused(500, "", f'Get "{address}": {str(error) or f"dial tcp {host}:{port}: i/o timeout"}') from None
    try:
        connection = h11.Connection(h11.CLIENT)
        head = h11.Request(method="GET", target=target, headers=[("Host", f"{host}:{port}"), ("Accept", "*/*")])
        writer.write(connection.send(head) + (connection.send(h11.EndOfMessage()) or b""))
        await writer.drain()
        status = 0
        failed = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
                continue
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                if status >= 300:
                    failed += bytes(event.data)
                else:
                    yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                break
        if status >= 300:
            raise _kubelet_refusal(status, failed[:2048].decode("utf-8", "replace").strip(), request.pod)
    except h11.RemoteProtocolError as error:
        raise Refused(500, "", f'Get "{address}": {error}') from None
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


def kubelet_page(host: str, port: int, target: str, certificate: tuple[str, str] | None) -> tuple[int, str, bytes]:
    """Status, type and content of a page of the kubelet's.

    Raises
    ------
    Refused
        The kubelet does not answer.
    """
    import http.client

    connection = http.client.HTTPSConnection(host, port, timeout=_DIAL_SECONDS, context=_tls(certificate))
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type") or "text/plain", answer.read()
    except (OSError, http.client.HTTPException) as error:
        text = f"error trying to reach service: {error}"
        raise Refused(503, "ServiceUnavailable", text) from None
    finally:
        connection.close()


def _kubelet_refusal(status: int, text: str, pod: str) -> Refused:
    if status == 400:
        return bad_request(text)
    if status == 500:
        return internal(text)
    words = {
        404: "the server could not find the requested resource",
        403: "the server rejected our request",
        503: "the server is currently unable to handle the request",
    }
    reason = {404: "NotFound", 403: "Forbidden", 503: "ServiceUnavailable", 401: "Unauthorized"}.get(status, "")
    message = f"{words.get(status, 'an error on the server (' + text + ') has prevented the request from succeeding')} ( pods/log {pod})"
    return Refused(status, reason, message, {"name": pod, "kind": "pods/log"})


# --- commands, over WebSocket ---


class Channel:
    """The server's end of an exec connection, for a command. It reads from when it is made; `gone` is set when the client is away."""

    def __init__(self, receive: Any, send: Any, protocol: str) -> None:
        self.gone = asyncio.Event()
        self._receive = receive
        self._send = send
        self._closes = protocol.startswith("v5")
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended = False
        self._reader = asyncio.ensure_future(self._read_all())

    async def read(self) -> bytes | None:
        """The next bytes of input; None at the end."""
        if self._ended:
            return None
        found = await self._input.get()
        self._ended = found is None
        return found

    async def _read_all(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._input.put_nowait(None)
                self.gone.set()
                return
            data = message.get("bytes") or (message.get("text") or "").encode()
            if not data:
                continue
            channel, content = data[0], data[1:]
            if channel == STDIN and content:
                self._input.put_nowait(bytes(content))
            elif channel == CLOSE and self._closes and content[:1] == b"\x00":
                self._input.put_nowait(None)

    async def write(self, data: bytes, *, error: bool = False) -> None:
        """Bytes of output."""
        await self._send({"type": "websocket.send", "bytes": bytes([STDERR if error else STDOUT]) + data})

    async def finish(self, status: Object) -> None:
        """Say how the command ended."""
        self._reader.cancel()
        content = json.dumps(status, separators=(",", ":")).encode()
        with contextlib.suppress(RuntimeError):
            await self._send({"type": "websocket.send", "bytes": bytes([ERROR]) + content})
            await self._send({"type": "websocket.close", "code": 1000})


def exit_status(code: int) -> Object:
    """How a command ended, as a Status."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with exit code {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


async def relay(host: str, port: int, target: str, protocol: str, receive: Any, send: Any, certificate: tuple[str, str] | None) -> None:
    """Hand the frames of a WebSocket to the kubelet's and back.

    A kubelet that does not answer is said on the error channel, since the client's connection stands by then.
    """
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

    address = f"wss://{host}:{port}{target}"
    try:
        link = await connect(address, ssl=_tls(certificate), subprotocols=[protocol], max_size=None, open_timeout=_DIAL_SECONDS)  # type: ignore[list-item]
    except InvalidStatus as error:
        words = (error.response.body or b"").decode("utf-8", "replace").strip()
        await send({"type": "websocket.accept", "subprotocol": protocol})
        await Channel(receive, send, protocol).finish(internal(f"unable to upgrade connection: {words}").status())
        return
    except (OSError, TimeoutError, InvalidHandshake) as error:
        why = "connect: connection refused" if isinstance(error, ConnectionRefusedError) else str(error) or "i/o timeout"
        refused = internal(f'error sending request: Post "https://{host}:{port}{target}": dial tcp {host}:{port}: {why}')
        await send({"type": "websocket.accept", "subprotocol": protocol})
        await Channel(receive, send, protocol).finish(refused.status())
        return
    async with link:
        await send({"type": "websocket.accept", "subprotocol": protocol})

        async def outward() -> None:
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    await link.close()
                    return
                await link.send(message.get("bytes") or message.get("text") or b"")

        sender = asyncio.ensure_future(outward())
        try:
            async for frame in link:
                data = frame if isinstance(frame, bytes) else frame.encode()
                await send({"type": "websocket.send", "bytes": data})
        except ConnectionClosed:
            pass
        finally:
            sender.cancel()
        with contextlib.suppress(RuntimeError):
            await send({"type": "websocket.close", "code": 1000})
