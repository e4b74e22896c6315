"""How the command line asks the stage: over HTTP on the supervisor's port, with the token in ``<folder>/control-token``."""

from __future__ import annotations

import json
import secrets
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.errors import InputError, OpsError
from opslib.messages import _

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from opslib.lab.stage import Stage

TOKEN = "control-token"  # noqa: S105 - the name of its file
SECONDS = 150


def routes(stage: Stage) -> list[BaseRoute]:
    """What the supervisor serves below ``/lab/``: what is broken, breaking, resetting. Writes the token."""
    from anyio import CapacityLimiter, to_thread
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from opslib.lab.certificates import write_private

    token = secrets.token_urlsafe(24)
    write_private(stage.folder / TOKEN, token)
    own = CapacityLimiter(4)  # threads of its own: scrapes may have all the others, for as long as they wait

    def guarded(work: Callable[[dict[str, Any]], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            if not secrets.compare_digest(request.headers.get("authorization", ""), f"Bearer {token}"):
                return JSONResponse({"what": "no or another token"}, 401)
            try:
                asked = json.loads(await request.body() or b"{}")
                return JSONResponse(await to_thread.run_sync(work, asked, limiter=own))
            except InputError as error:
                return JSONResponse(_said(error), 400)
            except OpsError as error:
                return JSONResponse(_said(error), 500)
            except Exception as error:  # whoever asked must read it, too
                sys.stderr.write(traceback.format_exc())
                return JSONResponse({"what": f"{type(error).__name__}: {error}"}, 500)

        return answer

    def broken(asked: dict[str, Any]) -> Any:
        return [asdict(one) for one in stage.broken]

    def play(asked: dict[str, Any]) -> Any:
        if asked["kind"] == "fault":
            return asdict(stage.fault(asked["name"], asked.get("namespace")))
        return asdict(stage.play(asked["name"], asked.get("ago"), asked.get("speed", 1.0)))

    def reset(asked: dict[str, Any]) -> Any:
        return {"count": stage.reset()}

    return [
        Route("/lab/broken", guarded(broken), methods=["GET"]),
        Route("/lab/break", guarded(play), methods=["POST"]),
        Route("/lab/reset", guarded(reset), methods=["POST"]),
    ]


def ask(folder: Path, what: str, content: dict[str, Any] | None = None) -> Any:
    """Ask the stage of a lab that runs: "broken", or with content "break" or "reset".

    Raises
    ------
    InputError, OpsError
        What the stage says; or it does not answer.
    """
    import urllib3

    try:
        token = (folder / TOKEN).read_text("utf-8")
        port = json.loads((folder / "state.json").read_text("utf-8"))["ports"]["exporter"]
        answer = urllib3.request(
            "GET" if content is None else "POST",
            f"http://127.0.0.1:{port}/lab/{what}",
            body=None if content is None else json.dumps(content),
            headers={"Authorization": f"Bearer {token}"},
            timeout=SECONDS,
            retries=False,
        )
    except (OSError, urllib3.exceptions.HTTPError) as error:
        raise OpsError(
            _("The lab does not answer: {reason}", reason=str(error)), _("See which of its servers answer"), "opslib lab status"
        ) from None
    if answer.status == 200:
        return answer.json()
    try:
        said = answer.json()
    except ValueError:
        said = {"what": answer.data.decode("utf-8", "replace")[:200]}
    kind = InputError if answer.status == 400 else OpsError
    raise kind(_("{text}", text=said["what"]), said.get("remedy", ""), said.get("command", ""))


def _said(error: OpsError) -> dict[str, str]:
    return {"what": str(error.what), "remedy": str(error.remedy), "command": error.command}
