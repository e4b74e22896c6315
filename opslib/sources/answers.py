"""What Prometheus, Alertmanager and Elasticsearch have in common: JSON answers, and refusals with a reason."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from opslib.errors import Forbidden, NotFound, SourceError, Unauthenticated, Unreachable
from opslib.messages import Text, _, one_line
from opslib.sources.decoding import decoder
from opslib.sources.transport import Request, Response, Transport

T = TypeVar("T")


def decode(system: str, body: bytes, kind: type[T]) -> T:
    """An answer's body as `kind`.

    Raises
    ------
    SourceError
        It is something else: not JSON (a proxy's page), or JSON of another shape.
    """
    try:
        answer: T = decoder(kind).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        start = one_line(bytes(body[:200]).decode(errors="replace"), 80)
        raise SourceError(
            system,
            _("{system} answered with something else than its API does ({reason}): {start}", system=system, reason=str(error), start=start),
            _("Check that the field {field} is the address of its API, not of a log-in page or another server", field=f"{system}.url"),
        ) from error
    return answer


def send(transport: Transport, request: Request, reason: str = "") -> Response:
    """Send `request`; an answer of 400 and more becomes the error that it stands for."""
    response = transport.send(request)
    if response.status >= 400:
        raise refusal(transport.system, request, response, reason)
    return response


def refusal(system: str, request: Request, response: Response, reason: Text = "") -> SourceError:
    """The error that a refused request stands for; `reason` is the system's own word, else the start of the answer."""
    reason = reason or one_line(response.body[:300].decode(errors="replace")) or "-"
    what = _(
        "{system} answered {status} to {what}: {reason}",
        system=system,
        status=response.status,
        what=request.what or request.path,
        reason=reason,
    )
    if response.status == 401:
        return Unauthenticated(
            system,
            what,
            _(
                "Check the credentials that {username}, {password} and {token} name",
                username=f"{system}.username",
                password=f"{system}.password_env",
                token=f"{system}.token_env",
            ),
        )
    if response.status == 403:
        return Forbidden(system, what, _("Give these credentials the right to read {path}", path=request.path))
    if response.status == 404:
        return NotFound(system, what, _("Check the path in the field {field}", field=f"{system}.url"))
    if response.status in (502, 503, 504):
        return Unreachable(system, what, _("Check that it runs and is ready"))
    return SourceError(system, what)
