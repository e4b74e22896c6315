"""What the played kubelets serve of their containers: logs (`opslib.lab.container_logs`), commands (`opslib.lab.shell`), and their use."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
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
        self.lost: Callable[[str], bool] = lambda node: False  # whether a node answers nothing
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
        now = _now()
        for container in pod["spec"]["containers"]:
            path = folder / f"{container['name']}.log"
            if not path.exists() and not container.get("stdin"):
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
                WebSocketRoute("/attach/{namespace}/{pod}/{container}", self._attach),
                *(
                    Route(f"/{what}/{{namespace}}/{{pod}}/{{container}}", self._without_websocket, methods=["GET", "POST"])
                    for what in ("exec", "attach")
                ),
                *self.usage.routes(),
                Route("/healthz", _healthy),
                Route("/configz", _configz),
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
        if pod is not None and self.lost(pod["spec"].get("nodeName", "")):
            return PlainTextResponse(_unreachable(pod), 500)
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
        if self.lost(pod["spec"].get("nodeName", "")):
            return _unreachable(pod)
        container = parameters["container"]
        spec = spec_of(pod, container)
        life = container_logs.span(pod, container)
        if spec is None or isinstance(life, str) or life[1] != math.inf:
            return f'container not found ("{container}")'
        return pod, spec, life[0]

    async def _exec(self, websocket: WebSocket) -> None:
        words = websocket.query_params.getlist("command")
        await self._talk(websocket, lambda found, channel, stdin, tty: self._run(*found, words, channel, stdin=stdin, tty=tty))

    async def _attach(self, websocket: WebSocket) -> None:
        """Only containers that wait for input can be attached to: their command runs as long as somebody is."""

        async def work(found: tuple[Object, Object, float], channel: Channel, stdin: bool, tty: bool) -> Object:
            pod, spec, started = found
            words = _command(spec)
            if not spec.get("stdin") or not words:
                return errors.internal(f"container {spec['name']} of pod {pod['metadata']['name']} reads no input here").status()
            status = await self._run(pod, spec, started, words, channel, stdin=stdin, tty=tty)
            code = next((int(one["message"]) for one in (status.get("details") or {}).get("causes", []) if one["reason"] == "ExitCode"), 0)
            await asyncio.to_thread(self._ended, pod, spec["name"], code)
            return streams.exit_status(0)  # how it ended is said in the container's status

        from opslib.lab.kube import errors, streams

        await self._talk(websocket, work)

    async def _talk(
        self, websocket: WebSocket, command: Callable[[tuple[Object, Object, float], Channel, bool, bool], Awaitable[Object]]
    ) -> None:
        """Run a command for a client, until it ends or the client is away."""
        from starlette.responses import PlainTextResponse

        from opslib.lab.kube import streams

        offered = websocket.scope.get("subprotocols") or []
        protocol = next((one for one in streams.PROTOCOLS if one in offered), "")
        found = self._running(websocket.path_params)
        if isinstance(found, str) or not protocol:
            await websocket.receive()
            problem = found if isinstance(found, str) else "unable to upgrade: no protocol that is known"
            await websocket.send_denial_response(PlainTextResponse(problem, 500))
            return
        await websocket.accept(subprotocol=protocol)
        channel = streams.Channel(websocket.receive, websocket.send, protocol)
        stdin, tty = (websocket.query_params.get(name) in ("true", "1") for name in ("input", "tty"))
        work = asyncio.ensure_future(command(found, channel, stdin, tty))
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

    async def _without_websocket(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        found = self._running(request.path_params)
        if isinstance(found, str):
            return PlainTextResponse(found, 404 if found.startswith("pod") else 500)
        return PlainTextResponse("unable to upgrade: this kubelet takes commands over WebSocket only", 400)

    # --- containers that end, and those that are added ---

    def begin_added(self, pod: Object) -> None:
        """Start the ephemeral containers of a pod that do not run yet. Those that wait for no input run their command at once."""
        from opslib.lab.api import ApiError

        status = pod.get("status", {})
        there = status.get("ephemeralContainerStatuses") or []
        fresh = [one for one in pod["spec"].get("ephemeralContainers") or [] if one["name"] not in {each["name"] for each in there}]
        if not fresh:
            return
        states = [*there, *(_added(pod, one, {"running": {"startedAt": _now()}}) for one in fresh)]
        try:
            self._api.patch(_path(pod), {"status": {"ephemeralContainerStatuses": states}}, subresource="status")
        except ApiError:
            return  # it is gone, or was changed: another event tells
        for one in fresh:
            if not one.get("stdin") and _command(one):
                threading.Thread(target=self._run_alone, args=(pod, one), name=f"container {one['name']}", daemon=True).start()

    def _run_alone(self, pod: Object, spec: Object) -> None:
        from opslib.lab.shell import box as boxes
        from opslib.lab.shell import runner

        metadata, now = pod["metadata"], time.time()
        path = self._logs / metadata["namespace"] / metadata["name"] / f"{spec['name']}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        world = self.world() if self.world is not None else None
        box = boxes.make(self._api, pod, spec, world, {}, started=now, now=now, used=None)
        try:
            code = asyncio.run(runner.run(box, _command(spec), _ToFile(path), stdin=False, tty=False))
        except runner.CannotStart as error:
            path.write_text(f"{error}\n", "utf-8")
            code = 128
        self._ended(pod, spec["name"], code)

    def _ended(self, pod: Object, container: str, code: int) -> None:
        """A command that was a container's own has ended: so has the container."""
        self._change(pod, container, lambda one, pod: _terminate(one, code, again=_goes_on(pod, container)))

    def _restart(self, pod: Object, container: str, code: int) -> None:
        """The first process of a container has ended: the kubelet starts it again."""
        self._change(pod, container, lambda one, pod: _terminate(one, code, again=True))
        for reason, message in (("Created", "Container created"), ("Started", "Container started")):
            self._say(pod, container, reason, message)

    def _say(self, pod: Object, container: str, reason: str, message: str) -> None:
        """Write an event about a container, as its kubelet."""
        from opslib.lab.api import ApiError

        metadata, now = pod["metadata"], _now()
        about = {"apiVersion": "v1", "kind": "Pod", **{key: metadata[key] for key in ("namespace", "name", "uid")}}
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": metadata["namespace"], "generateName": f"{metadata['name']}."},
            "involvedObject": {**about, "fieldPath": f"spec.containers{{{container}}}"},
            "reason": reason,
            "message": message,
            "type": "Normal",
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": "kubelet", "host": pod["spec"].get("nodeName", "")},
            "reportingComponent": "kubelet",
        }
        with contextlib.suppress(ApiError):  # the pod's namespace goes
            self._api.create(event)

    def _change(self, pod: Object, container: str, change: Callable[[Object, Object], None]) -> None:
        from opslib.lab.api import ApiError

        try:
            fresh = self._api.get(_path(pod))
            body: Object = {}
            for kind in ("containerStatuses", "ephemeralContainerStatuses"):
                for one in fresh["status"].get(kind) or []:
                    if one["name"] == container and "running" in one["state"]:
                        change(one, fresh)
                        body[kind] = fresh["status"][kind]
            states = [one["state"] for one in fresh["status"].get("containerStatuses") or []]
            if states and all("terminated" in state for state in states):
                body["phase"] = "Failed" if any(state["terminated"]["exitCode"] for state in states) else "Succeeded"
            self._api.patch(_path(pod), {"metadata": {"uid": pod["metadata"]["uid"]}, "status": body}, subresource="status")
        except ApiError:
            return  # the pod is gone


class _ToFile:
    """The terminal of a container that nobody is attached to: its log."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> bytes | None:
        return None

    async def write(self, data: bytes, *, error: bool = False) -> None:
        with self._path.open("ab") as file:
            for line in data.splitlines(keepends=True):
                file.write(f"{_now()} ".encode() + line)


def _goes_on(pod: Object, container: str) -> bool:
    """Whether a container is started again when it has ended."""
    is_own = any(one["name"] == container for one in pod["spec"]["containers"])
    return is_own and pod["spec"].get("restartPolicy", "Always") == "Always"


def _terminate(one: Object, code: int, *, again: bool) -> None:
    now = _now()
    ended = {
        "exitCode": code, "reason": "Error" if code else "Completed", "startedAt": one["state"]["running"]["startedAt"], "finishedAt": now,
        "containerID": one.get("containerID", ""),
    }  # fmt: skip
    if not again:
        one["state"] = {"terminated": ended}
        one["ready"] = False
        return
    one["lastState"] = {"terminated": ended}
    one["state"] = {"running": {"startedAt": now}}
    one["restartCount"] += 1
    one["containerID"] = _container_id(one["name"], one.get("containerID", ""), now)


def _added(pod: Object, spec: Object, state: Object) -> Object:
    image = spec.get("image", "")
    return {
        "name": spec["name"],
        "image": image,
        "imageID": f"{image.partition(':')[0]}@sha256:{hashlib.sha256(image.encode()).hexdigest()}",
        "containerID": _container_id(pod["metadata"]["uid"], spec["name"]),
        "ready": False,
        "restartCount": 0,
        "state": state,
    }


def _container_id(*parts: str) -> str:
    return f"containerd://{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"


def _unreachable(pod: Object) -> str:
    """What is said of a pod whose node does not answer."""
    return f"dial tcp {pod.get('status', {}).get('hostIP', '')}:10250: i/o timeout"


def _command(spec: Object) -> list[str]:
    """What a container runs; images of tools run a shell."""
    words = [*(spec.get("command") or ()), *(spec.get("args") or ())]
    tools = spec.get("image", "").partition(":")[0].rpartition("/")[2] in (
        "busybox",
        "alpine",
        "ubuntu",
        "debian",
        "netshoot",
        "bash",
        "curl",
    )
    return words or (["sh"] if tools else [])


def _path(pod: Object) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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


async def _configz(request: Request) -> Response:
    """A kubelet's settings, as far as anybody asks for them: the defaults of a node that EKS sets up."""
    from starlette.responses import JSONResponse

    eviction = {"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%"}
    logs = {"containerLogMaxSize": "10Mi", "containerLogMaxFiles": 5}
    images = {"imageGCHighThresholdPercent": 85, "imageGCLowThresholdPercent": 80, "imageMinimumGCAge": "2m0s"}
    return JSONResponse({"kubeletconfig": {"evictionHard": eviction, **logs, **images, "maxPods": 110}})


async def _healthy(request: Request) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse("ok")
