"""The one way out: every source sends its requests through a `Transport`.

Here retries, deadlines, decompression and the bound on memory live, once; and here responses can be recorded and replayed, since
another `Transport` is all that a source needs.
"""

from __future__ import annotations

import email.utils
import threading
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

from opslib.errors import InputError, SourceError, Unreachable
from opslib.messages import Message, Text, _, one_line

if TYPE_CHECKING:
    import tenacity
    import urllib3

    from opslib.environments import HttpSystem

Answer = TypeVar("Answer")

ATTEMPTS = 4
LONGEST_LINE_BYTES = 1_000_000
_CHUNK_BYTES = 64 * 1024
_ETAGS = 64
_ETAG_BODY_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a system.

    Parameters
    ----------
    method, path
        The path is relative to the system's base address and starts with a slash.
    query
        Query parameters in order; repeated names are allowed.
    what
        What is asked for, for the reader of an error: "pods in shop".
    safe
        Whether repeating it changes nothing. None: true for GET and HEAD; a POST that only searches says so.
    deadline_seconds
        Time for the whole question, retries included; None: the transport's own.
    limit_bytes
        The most that is kept of the answer, decompressed. A longer answer is refused, or, with `cut`, cut off there.
    """

    method: str = "GET"
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    what: Text = ""
    safe: bool | None = None
    deadline_seconds: float | None = None
    limit_bytes: int = 256 * 1024 * 1024
    cut: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when it is not known whether it arrived."""
        return self.method in ("GET", "HEAD") if self.safe is None else self.safe

    @property
    def target(self) -> str:
        """Path and query, as they go on the wire."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer, whole and decompressed. `certificate` is the server's (DER), empty where the connection has none."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    truncated: bool = False
    certificate: bytes = b""


class Transport(Protocol):
    """What a source sends through. Statuses of 400 and more come back as responses: the source knows what they mean in its system."""

    system: str

    def send(self, request: Request) -> Response:
        """Answer `request`; `opslib.errors.Unreachable` where no answer came in time."""

    def stream(self, request: Request) -> Iterator[bytes]:
        """The answer's lines as they come, for logs and watches; the same errors."""


Wrap = Callable[[Transport], Transport]
"""What a source may be given to put between itself and its transport."""


def unwrapped(transport: Transport) -> Transport:
    """The transport as it is."""
    return transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question with its answer: when it was sent, and how long the answer took, connecting and repeating included."""

    system: str
    request: Request
    response: Response
    started: datetime
    seconds: float


class Watched:
    """A transport whose questions are seen with their answers. Questions without an answer, and streams, are not."""

    def __init__(self, transport: Transport, see: Callable[[Exchange], None]) -> None:
        self.system = transport.system
        self._transport = transport
        self._see = see

    def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        started, began = datetime.now(UTC), time.monotonic()
        response = self._transport.send(request)
        seconds = time.monotonic() - began
        self._see(Exchange(system=self.system, request=request, response=response, started=started, seconds=seconds))
        return response

    def stream(self, request: Request) -> Iterator[bytes]:
        """See `Transport.stream`."""
        return self._transport.stream(request)


class HttpTransport:
    """A system over HTTP, through a urllib3 pool.

    Parameters
    ----------
    system
        Its name in errors and gaps.
    base
        Base address; paths are appended to it.
    pool
        Where connections come from; it carries TLS and proxy settings.
    headers
        Called for each attempt, since tokens expire: the headers that authenticate.
    deadline_seconds
        For requests that bring none.

    Notes
    -----
    What is repeated, with a growing and jittered pause, within the deadline: a refused connection (nothing was sent); 429, which says
    that nothing was done, after its Retry-After; and where repeating changes nothing (`Request.repeatable`) also 502, 503, 504 and a
    connection lost half-way. A time-out is not repeated: the deadline is over by then.
    """

    def __init__(
        self,
        system: str,
        base: str,
        pool: urllib3.PoolManager,
        headers: Callable[[], Mapping[str, str]] = dict,
        deadline_seconds: float = 10,
    ) -> None:
        self.system = system
        self.base = base.rstrip("/")
        self._pool = pool
        self._headers = headers
        self._deadline_seconds = deadline_seconds
        self._lock = threading.Lock()
        self._etags: OrderedDict[str, Response] = OrderedDict()

    def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        known = self._known(request)
        headers = {"if-none-match": known.headers["etag"]} if known else {}
        deadline = self._deadline(request)
        response = self._repeated(request, deadline, lambda: self._read(self._open(request, headers, deadline), request, deadline))
        if response.status == 304 and known:
            return known
        if 300 <= response.status < 400:
            where = one_line(response.headers.get("location", ""))
            raise Unreachable(
                self.system,
                _("{address} redirects to {where} instead of answering", address=self.base, where=where),
                _("It may be a log-in page: check the address and the credentials"),
            )
        self._remember(request, response)
        return response

    def stream(self, request: Request) -> Iterator[bytes]:
        """See `Transport.stream`. A line of more than `LONGEST_LINE_BYTES` comes in pieces; the deadline is for the first byte."""
        deadline = self._deadline(request)
        answer = self._repeated(request, deadline, lambda: self._open(request, {}, deadline))
        try:
            if answer.status >= 300:
                text = one_line(answer.read(_CHUNK_BYTES).decode(errors="replace"))
                raise Unreachable(self.system, _("{address} answered {status}: {text}", address=self.base, status=answer.status, text=text))
            rest = b""
            while chunk := self._next(answer, request, None):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
                if len(rest) > LONGEST_LINE_BYTES:
                    yield rest
                    rest = b""
            if rest:
                yield rest
        finally:
            answer.close()

    # --- one attempt ---

    def _deadline(self, request: Request) -> float:
        return time.monotonic() + (request.deadline_seconds or self._deadline_seconds)

    def _open(self, request: Request, headers: Mapping[str, str], deadline: float) -> urllib3.BaseHTTPResponse:
        """Send it, and read the answer's headers."""
        from urllib3.exceptions import HTTPError
        from urllib3.util import Timeout

        left = max(deadline - time.monotonic(), 0.001)
        try:
            return self._pool.request(
                request.method,
                self.base + request.target,
                body=request.body,
                headers={"user-agent": "opslib", "accept-encoding": "gzip", **self._headers(), **headers, **request.headers},
                timeout=Timeout(connect=left, read=left),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (HTTPError, OSError) as error:
            raise self._unreachable(error, request) from error

    def _next(self, answer: urllib3.BaseHTTPResponse, request: Request, deadline: float | None) -> bytes:
        """What has come since, decompressed; empty at the end."""
        from urllib3.exceptions import HTTPError

        try:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
            return answer.read1(_CHUNK_BYTES, decode_content=True)
        except (HTTPError, OSError) as error:
            raise self._unreachable(error, request) from error

    def _read(self, answer: urllib3.BaseHTTPResponse, request: Request, deadline: float) -> Response:
        """The whole answer, as far as it may be kept."""
        body = bytearray()
        truncated = False
        certificate = _peer_certificate(answer)
        try:
            while chunk := self._next(answer, request, deadline):
                body += chunk
                if len(body) > request.limit_bytes:
                    if not request.cut:
                        raise TooLarge(
                            self.system,
                            _(
                                "The answer for {what} is longer than {limit} bytes",
                                what=request.what or request.path,
                                limit=request.limit_bytes,
                            ),
                            _("Ask for less: name a namespace or a shorter time"),
                        )
                    truncated = True
                    del body[request.limit_bytes :]
                    break
        except BaseException:
            answer.close()
            raise
        if truncated:
            answer.close()
        answer.release_conn()
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(status=answer.status, headers=headers, body=bytes(body), truncated=truncated, certificate=certificate)

    def _unreachable(self, error: Exception, request: Request) -> Unreachable:
        return Unreachable(
            self.system,
            _("{system} at {address} does not answer ({reason})", system=self.system, address=self.base, reason=_reason(error)),
            _("Check the address, the network or VPN, and that it runs"),
        )

    # --- repeating ---

    def _repeated(self, request: Request, deadline: float, attempt: Callable[[], Answer]) -> Answer:
        """What `attempt` brings, begun again where that helps. Mostly it need not be: only then is the library that repeats loaded."""
        first: Answer | Unreachable
        try:
            first = attempt()
        except Unreachable as error:
            if not _is_lost(error, request):
                raise
            first = error
        else:
            if not _is_busy(first, request):
                return first
        import tenacity

        known = [first]

        def next_attempt() -> Answer:
            if not known:
                return attempt()
            outcome = known.pop()
            if isinstance(outcome, Unreachable):
                raise outcome
            return outcome

        def pause(state: tenacity.RetryCallState) -> float:
            answer = state.outcome.result() if state.outcome and not state.outcome.failed else None
            asked = _retry_after(answer.headers.get("retry-after", "")) if answer is not None else None
            return backoff(state) if asked is None else asked

        backoff = tenacity.wait_random_exponential(multiplier=0.2, max=2)
        left = max(deadline - time.monotonic(), 0)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_any(
                tenacity.retry_if_exception(lambda error: _is_lost(error, request)),
                tenacity.retry_if_result(lambda answer: _is_busy(answer, request)),
            ),
            stop=tenacity.stop_any(tenacity.stop_after_attempt(ATTEMPTS), tenacity.stop_before_delay(left)),
            wait=pause,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        return retrying(next_attempt)

    # --- what the server says has not changed ---

    def _known(self, request: Request) -> Response | None:
        with self._lock:
            return self._etags.get(_etag_key(request)) if request.method == "GET" else None

    def _remember(self, request: Request, response: Response) -> None:
        if request.method != "GET" or response.status != 200 or "etag" not in response.headers or len(response.body) > _ETAG_BODY_BYTES:
            return
        with self._lock:
            self._etags[_etag_key(request)] = response
            while len(self._etags) > _ETAGS:
                self._etags.popitem(last=False)


class TooLarge(SourceError):
    """The answer is longer than may be kept."""


def _is_lost(error: BaseException, request: Request) -> bool:
    """Whether the connection failed in a way that allows to ask again."""
    from urllib3.exceptions import NewConnectionError, ProtocolError, ProxyError

    cause = error.__cause__
    if isinstance(cause, ProxyError):
        cause = cause.original_error
    return isinstance(cause, NewConnectionError) or (request.repeatable and isinstance(cause, ProtocolError))


def _is_busy(answer: object, request: Request) -> bool:
    """Whether the server asks to come back."""
    status = getattr(answer, "status", 0)
    return status == 429 or (request.repeatable and status in (502, 503, 504))


def _peer_certificate(answer: urllib3.BaseHTTPResponse) -> bytes:
    """The server's certificate (DER) of the connection that an answer comes over; empty without TLS."""
    ask = getattr(getattr(answer.connection, "sock", None), "getpeercert", None)
    return (ask(binary_form=True) if ask else None) or b""


def _etag_key(request: Request) -> str:
    return f"{request.headers.get('accept', '')} {request.target}"


def _retry_after(value: str) -> float | None:
    """Seconds to wait, from a Retry-After header in either of its forms (RFC 9110, 10.2.3)."""
    if value.isdigit():
        return float(value)
    when = parsed_date(value)
    return None if when is None else max((when - datetime.now(UTC)).total_seconds(), 0)


def parsed_date(value: str) -> datetime | None:
    """The time of a Date header (RFC 9110, 5.6.7), aware; None where it is none."""
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _reason(error: Exception) -> Message:
    """Why there was no answer, in words."""
    import ssl

    from urllib3.exceptions import DecodeError, NameResolutionError, NewConnectionError, ProxyError, SSLError
    from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

    if isinstance(error, ProxyError):
        return _("the proxy does not answer: {reason}", reason=_reason(error.original_error))
    if isinstance(error, NameResolutionError):
        return _("its name is not known here")
    if isinstance(error, NewConnectionError):
        return (
            _("connection refused")
            if "refused" in str(error)
            else _("no connection: {reason}", reason=one_line(str(error).partition(": ")[2]))
        )
    if isinstance(error, SSLError | ssl.SSLError):
        return _("its certificate or TLS is not accepted: {reason}", reason=one_line(error))
    if isinstance(error, Urllib3TimeoutError | TimeoutError):
        return _("no answer in time")
    if isinstance(error, DecodeError):
        return _("the answer cannot be decompressed")
    return _("the connection broke: {reason}", reason=one_line(error))


def http(system: str, settings: HttpSystem) -> HttpTransport:
    """The transport to a system with an HTTP interface, as an environment's file describes it.

    Raises
    ------
    InputError
        An environment variable with a secret is not set, or a certificate file cannot be read.
    """
    import urllib3

    for file in (settings.ca_file, settings.client_certificate, settings.client_key):
        if file is not None and not file.is_file():
            raise InputError(_("The certificate file {file} of {system} does not exist", file=file, system=system))
    password, token = settings.secret(settings.password_env), settings.secret(settings.token_env)
    headers = dict(settings.headers)
    if token is not None:
        headers["authorization"] = f"Bearer {token.get_secret_value()}"
    elif settings.username is not None and password is not None:
        headers |= urllib3.make_headers(basic_auth=f"{settings.username}:{password.get_secret_value()}")
    tls: dict[str, Any] = {"maxsize": 32}  # as many as a chapter asks at once: urllib3 warns of more
    if settings.ca_file:
        tls["ca_certs"] = str(settings.ca_file)
    if settings.client_certificate:
        tls |= {"cert_file": str(settings.client_certificate), "key_file": str(settings.client_key or settings.client_certificate)}
    proxy = settings.proxy or _proxy_of_system(settings.url)
    pool = urllib3.ProxyManager(proxy, **tls) if proxy else urllib3.PoolManager(**tls)
    return HttpTransport(system, settings.url, pool, lambda: headers, settings.deadline_seconds)


def _proxy_of_system(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY ask for."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)
