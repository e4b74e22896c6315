"""What the played kubelets serve of their containers: logs (`opslib.lab.container_logs`), commands (`opslib.lab.shell`), and their use."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.lab import container_logs, usage

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    from opslib.lab.api import Api, Object
    from opslib.lab.informer import Informer
    from opslib.lab.kube.streams import Channel
    from opslib.lab.world import World
    from opslib.lab.world.pods import Pod

_FOLLOW_SECONDS = 0.5


class Containers:
    """The containers of all nodes, as their kubelets serve them.

    Parameters
    ----------
    api
        Where commands in containers find what they ask for.
    logs
        The folder with the logs of those that the world does not know.
    pods, nodes
        What runs, and where.
    """

    def __init__(self, api: Api, logs: Path, pods: Informer, nodes: Informer) -> None:
        self.world: Callable[[], World] | None = None  # gives the world of now; None: the lab has none
        self.usage = usage.Usage(pods, nodes, lambda: self.world() if self.world is not None else None)
        self._api = api
        self._logs = logs
        self._pods = pods
        self._written: dict[tuple[str, str, float], dict[str, str]] = {}  # files by uid, container, and when it started

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
        from starlette.routing import Route, WebSocketRoute

        return Starlette(
            routes=[
                Route("/containerLogs/{namespace}/{pod}/{container}", self._container_logs),
                WebSocketRoute("/exec/{namespace}/{pod}/{container}", self._exec),
                Route("/exec/{namespace}/{pod}/{container}", self._exec_without_websocket, methods=["GET", "POST"]),
                *self.usage.routes(),
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

    # --- commands ---

    def _running(self, parameters: Mapping[str, str]) -> tuple[Object, Object, float] | str:
        """The pod, the container's spec, and since when it runs; the kubelet's words where it does not."""
        from opslib.lab.shell.box import spec_of

        pod = self._pods.get(parameters["namespace"], parameters["pod"])
        if pod is None:
            return "pod does not exist"
        container = parameters["container"]
        spec = spec_of(pod, container)
        life = container_logs.span(pod, container)
        if spec is None or isinstance(life, str) or life[1] != math.inf:
            return f'container not found ("{container}")'
        return pod, spec, life[0]

    async def _exec(self, websocket: WebSocket) -> None:
        from starlette.responses import PlainTextResponse

        from opslib.lab.kube import streams

        offered = websocket.scope.get("subprotocols") or []
        protocol = next((one for one in streams.PROTOCOLS if one in offered), "")
        words = websocket.query_params.getlist("command")
        found = self._running(websocket.path_params)
        problem = found if isinstance(found, str) else "" if protocol and words else "unable to upgrade: no protocol that is known"
        if isinstance(found, str) or problem:
            await websocket.receive()
            await websocket.send_denial_response(PlainTextResponse(problem, 500))
            return
        await websocket.accept(subprotocol=protocol)
        channel = streams.Channel(websocket.receive, websocket.send, protocol)
        asked = {name: websocket.query_params.get(name) in ("true", "1") for name in ("input", "tty")}
        work = asyncio.ensure_future(self._run(*found, words, channel, stdin=asked["input"], tty=asked["tty"]))
        gone = asyncio.ensure_future(channel.gone.wait())
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if work.done():
            await channel.finish(work.result())
        else:
            work.cancel()

    async def _run(
        self, pod: Object, spec: Object, started: float, words: Sequence[str], channel: Channel, *, stdin: bool, tty: bool
    ) -> Object:
        """Run a command in a container; how it ended, as a Status."""
        from opslib.lab.kube import errors, streams
        from opslib.lab.shell import box as boxes
        from opslib.lab.shell import runner

        metadata, now = pod["metadata"], time.time()
        written = self._written.setdefault((metadata["uid"], spec["name"], started), {})
        world = self.world() if self.world is not None else None
        box = await asyncio.to_thread(
            boxes.make, self._api, pod, spec, world, written, started=started, now=now, used=self.usage.of_pod(pod).get(spec["name"])
        )  # fmt: skip
        try:
            code = await runner.run(box, words, channel, stdin=stdin, tty=tty)
        except runner.CannotStart as error:
            return errors.internal(f"error executing command in container: {error}").status()
        if box.killed:
            await asyncio.to_thread(self._restart, pod, spec["name"], box.killed)
        return streams.exit_status(code)

    async def _exec_without_websocket(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        found = self._running(request.path_params)
        if isinstance(found, str):
            return PlainTextResponse(found, 404 if found.startswith("pod") else 500)
        return PlainTextResponse("unable to upgrade: this kubelet takes commands over WebSocket only", 400)

    def _restart(self, pod: Object, container: str, status: int) -> None:
        """A container has ended by itself: the kubelet starts it again."""
        from opslib.lab.api import ApiError

        name, namespace, now = pod["metadata"]["name"], pod["metadata"]["namespace"], datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        try:
            fresh = self._api.get(path)
            states = fresh["status"]["containerStatuses"]
            for one in states:
                if one["name"] == container and "running" in one["state"]:
                    ended = {"exitCode": status, "reason": "Error", "startedAt": one["state"]["running"]["startedAt"], "finishedAt": now}
                    one["lastState"] = {"terminated": {**ended, "containerID": one.get("containerID", "")}}
                    one["state"] = {"running": {"startedAt": now}}
                    one["restartCount"] += 1
                    one["containerID"] = f"containerd://{hashlib.sha256(f'{name} {container} {now}'.encode()).hexdigest()}"
            self._api.patch(
                path, {"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"containerStatuses": states}}, subresource="status"
            )
        except (ApiError, KeyError):
            return  # the pod is gone


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
