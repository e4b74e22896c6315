"""What the played kubelets serve of their containers: logs.

Logs are the files ``<folder>/<namespace>/<pod>/<container>.log`` and ``<container>.previous.log``. A line may begin with a time in
RFC 3339, as the container runtime keeps it: it is shown only where timestamps are asked for, and decides for ``sinceSeconds``.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from opslib.lab.api import Object
    from opslib.lab.informer import Informer

_LINE = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)) (.*)$", re.DOTALL)


class Containers:
    """The containers of all nodes, as their kubelets serve them.

    Parameters
    ----------
    logs
        The folder with their logs.
    pods
        What runs.
    """

    def __init__(self, logs: Path, pods: Informer) -> None:
        self._logs = logs
        self._pods = pods

    def begin(self, pod: Object) -> None:
        """A pod's containers start: their first lines, so that their logs are not empty."""
        metadata = pod["metadata"]
        folder = self._logs / metadata["namespace"] / metadata["name"]
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for container in pod["spec"]["containers"]:
            path = folder / f"{container['name']}.log"
            if not path.exists():
                image = container.get("image", "")
                lines = ({"level": "info", "msg": f"starting {image}"}, {"level": "info", "msg": "ready"})
                path.write_text("".join(f"{now} {json.dumps(line)}\n" for line in lines), "utf-8")

    def application(self) -> Starlette:
        """What the API server asks."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/containerLogs/{namespace}/{pod}/{container}", self._container_logs),
                Route("/healthz", _healthy),
            ]
        )

    async def _container_logs(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, StreamingResponse

        namespace, name, container = (request.path_params[key] for key in ("namespace", "pod", "container"))
        query = request.query_params
        previous = query.get("previous") in ("true", "1")
        problem = self._no_logs(namespace, name, container, previous=previous)
        path = self._logs / namespace / name / f"{container}{'.previous' if previous else ''}.log"
        if problem and not path.exists():
            return PlainTextResponse(problem, 400)
        since = None
        if query.get("sinceSeconds"):
            since = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
        elif query.get("sinceTime"):
            since = datetime.fromisoformat(query["sinceTime"])
        timestamps = query.get("timestamps") in ("true", "1")
        text = select(
            path.read_text("utf-8", "surrogateescape") if path.exists() else "",
            tail=int(query["tailLines"]) if query.get("tailLines") else None,
            since=since,
            limit_bytes=int(query["limitBytes"]) if query.get("limitBytes") else None,
            timestamps=timestamps,
        )
        if query.get("follow") in ("true", "1") and not previous:
            return StreamingResponse(_follow(path, text, timestamps=timestamps), media_type="text/plain")
        return PlainTextResponse(text)

    def _no_logs(self, namespace: str, name: str, container: str, *, previous: bool) -> str:
        """The kubelet's words where a container has no logs; empty where it has."""
        pod = self._pods.get(namespace, name)
        if pod is None:
            return f'pod "{name}" not found'
        if previous:
            return f'previous terminated container "{container}" in pod "{name}" not found'
        status = pod.get("status", {})
        for one in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
            if one["name"] == container and "waiting" in one.get("state", {}):
                reason = one["state"]["waiting"].get("reason", "")
                return f'container "{container}" in pod "{name}" is waiting to start: {reason}'
        return ""


def select(
    text: str, *, tail: int | None = None, since: datetime | None = None, limit_bytes: int | None = None, timestamps: bool = False
) -> bytes:
    """The lines that a kubelet would send of a log: the last `tail` of those at or after `since`, at most `limit_bytes`."""
    chosen = []
    for line in text.splitlines(keepends=True):
        match = _LINE.match(line)
        if since is not None and match is not None and datetime.fromisoformat(match[1]) < since:
            continue
        chosen.append(line if match is None or timestamps else match[2])
    if tail is not None:
        chosen = chosen[len(chosen) - min(tail, len(chosen)) :]
    content = "".join(chosen).encode("utf-8", "surrogateescape")
    return content if limit_bytes is None else content[:limit_bytes]


async def _follow(path: Path, sent: bytes, *, timestamps: bool) -> AsyncIterator[bytes]:
    yield sent
    place = path.stat().st_size if path.exists() else 0
    while True:
        await asyncio.sleep(0.5)
        if path.exists() and path.stat().st_size > place:
            with path.open("rb") as file:
                file.seek(place)
                fresh = file.read()
            place += len(fresh)
            yield select(fresh.decode("utf-8", "surrogateescape"), timestamps=timestamps)


async def _healthy(request: Request) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse("ok")
