"""What the played kubelets serve of their containers: logs (`opslib.lab.container_logs`) and commands (`opslib.lab.shell`)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.lab import container_logs

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from opslib.lab.api import Object
    from opslib.lab.informer import Informer
    from opslib.lab.world import World
    from opslib.lab.world.pods import Pod

_FOLLOW_SECONDS = 0.5


class Containers:
    """The containers of all nodes, as their kubelets serve them.

    Parameters
    ----------
    logs
        The folder with the logs of those that the world does not know.
    pods
        What runs.
    """

    def __init__(self, logs: Path, pods: Informer) -> None:
        self.world: Callable[[], World] | None = None  # gives the world of now; None: the lab has none
        self._logs = logs
        self._pods = pods

    def begin(self, pod: Object) -> None:
        """A pod's containers start: the first lines of those that the world does not know, so that their logs are not empty."""
        if self._of_world(pod) is not None:
            return
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

    def _of_world(self, pod: Object) -> Pod | None:
        return None if self.world is None else container_logs.pod_of(self.world(), pod)

    # --- logs ---

    async def _container_logs(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse, StreamingResponse

        namespace, name, container = (request.path_params[key] for key in ("namespace", "pod", "container"))
        query = request.query_params
        previous, follow = (query.get(key) in ("true", "1") for key in ("previous", "follow"))
        wanted = _wanted(query.get)
        pod = self._pods.get(namespace, name)
        folder = self._logs / namespace / name
        path = folder / f"{container}{'.previous' if previous else ''}.log"
        life = f'pod "{name}" not found' if pod is None else container_logs.span(pod, container, previous=previous)
        known = None if pod is None or (folder / ".fault").exists() else self._of_world(pod)
        if known is None or self.world is None or container != self.world().services[known.service].name:
            if isinstance(life, str) and not path.exists():
                return PlainTextResponse(life, 400)
            text = container_logs.of_file(path, wanted)
            if follow and not previous:
                return StreamingResponse(_follow_file(path, text, timestamps=wanted.timestamps), media_type="text/plain")
            return PlainTextResponse(text)
        if isinstance(life, str):
            return PlainTextResponse(life, 400)
        now = time.time()
        known = container_logs.of_life(known, *life)
        text = await asyncio.to_thread(container_logs.of_world, self.world(), known, wanted, now)
        if follow and not previous:
            return StreamingResponse(self._follow_world(namespace, name, container, known, text, now, wanted), media_type="text/plain")
        return PlainTextResponse(text)

    async def _follow_world(
        self, namespace: str, name: str, container: str, known: Pod, sent: bytes, until: float, wanted: container_logs.Wanted
    ) -> AsyncIterator[bytes]:
        """Until the container ends, as a kubelet does."""
        left = None if wanted.limit_bytes is None else wanted.limit_bytes - len(sent)
        yield sent
        while self.world is not None and (left is None or left > 0):
            await asyncio.sleep(_FOLLOW_SECONDS)
            now = time.time()
            text = await asyncio.to_thread(container_logs.fresh, self.world(), known, until, now, timestamps=wanted.timestamps)
            until = now
            if left is not None:
                text = text[:left]
                left -= len(text)
            if text:
                yield text
            pod = self._pods.get(namespace, name)
            life = "" if pod is None else container_logs.span(pod, container)
            if isinstance(life, str) or life[0] != known.started or life[1] <= now:
                return


def _wanted(asked: Callable[[str], str | None]) -> container_logs.Wanted:
    since = None
    if asked("sinceSeconds"):
        since = time.time() - int(asked("sinceSeconds") or 0)
    elif asked("sinceTime"):
        since = datetime.fromisoformat(asked("sinceTime") or "").timestamp()
    numbers = [int(text) if text else None for text in (asked("tailLines"), asked("limitBytes"))]
    return container_logs.Wanted(tail=numbers[0], since=since, limit_bytes=numbers[1], timestamps=asked("timestamps") in ("true", "1"))


async def _follow_file(path: Path, sent: bytes, *, timestamps: bool) -> AsyncIterator[bytes]:
    yield sent
    place = path.stat().st_size if path.exists() else 0
    while True:
        await asyncio.sleep(_FOLLOW_SECONDS)
        if path.exists() and path.stat().st_size > place:
            with path.open("rb") as file:
                file.seek(place)
                fresh = file.read()
            place += len(fresh)
            yield container_logs.select(fresh.decode("utf-8", "surrogateescape"), container_logs.Wanted(timestamps=timestamps))


async def _healthy(request: Request) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse("ok")
