"""What the lab's Prometheus scrapes: the world's metrics of this moment, for the pods that the cluster has.

Names, labels and values are those of `opslib.lab.world.metrics`, of which the past is made too: gauges as they are now, counters grown by
what they count between two scrapes, from where the past ended. So a change of the world never makes a jump. What kube-state-metrics says
comes from the objects in the API alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import numpy as np

from opslib.lab import state_metrics, strangers
from opslib.lab.api import Api, Object
from opslib.lab.engines.servers import LOOPBACK
from opslib.lab.holds import Holds
from opslib.lab.informer import Informer
from opslib.lab.prometheus import Store
from opslib.lab.rest import Rest
from opslib.lab.serving import Served
from opslib.lab.world import pages, past
from opslib.lab.world.metrics import applications, containers, families, machines
from opslib.lab.world.metrics.families import Family
from opslib.lab.world.model import World
from opslib.lab.world.present import Observed, Seen, observe, on_node, seen

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from opslib.lab.stage import Stage
    from opslib.lab.world.history import History
    from opslib.lab.world.pods import Pod

_HOLD = "lab.opslib/hold"
_PATIENCE_SECONDS = 60.0
_SCRAPE_SECONDS = 10.0  # nobody waits longer for a page
_PODS, _NODES = "/api/v1/pods", "/api/v1/nodes"


@dataclass
class _Now:
    """The world of now, whole and by node, and the pods that are not the world's; `of` is the stage's."""

    of: World
    world: Observed
    nodes: dict[str, Observed]
    others: list[Object]

    @cached_property
    def machines(self) -> list[Family]:
        return list(machines.families(self.world))

    @cached_property
    def _rows(self) -> dict[int, dict[str, list[int]]]:
        found: dict[int, dict[str, list[int]]] = {}
        for family in self.machines:
            rows = found.setdefault(id(family), {})
            for row, labels in enumerate(family.labels):
                rows.setdefault(labels["node"], []).append(row)
        return found

    def rows_of(self, family: Family, node: str) -> Sequence[int]:
        """The rows of a node in a family of `machines`."""
        return self._rows[id(family)].get(node, [])


class Exporter:
    """Serves the metrics.

    Parameters
    ----------
    folder
        The lab's folder, which gets ``data/past.json``.
    routes
        What else to serve.
    history
        Whether the platform has a past.
    prometheus
        The address of a Prometheus that reads the past from here, at ``/past``; empty where it reads the file.
    pods
        All pods, kept by somebody else, who starts and ends it: many take much memory. None: it keeps them itself.
    """

    def __init__(
        self,
        api: Api,
        stage: Stage,
        folder: Path,
        *,
        routes: Sequence[BaseRoute] = (),
        history: bool = True,
        prometheus: str = "",
        pods: Informer | None = None,
    ) -> None:
        self._stage, self._folder, self._routes, self._with_past = stage, folder, routes, history
        self._holds = Holds(folder)
        self._own = {path: Informer(api, path) for path in state_metrics.KINDS if path != _PODS or pods is None}
        self._informers = self._own if pods is None else {**self._own, _PODS: pods}
        self._informers[_PODS].subscribe(self._note)
        self._said: dict[str, tuple[str, str]] = {}  # by an object's uid: its version, and what kube-state-metrics says of it
        self._heads: dict[str, None] = dict.fromkeys(state_metrics.GAUGES)
        self._lock = threading.RLock()
        self._turn = asyncio.Semaphore()
        self._taking, self._counted = threading.Lock(), threading.Event()
        self._stale = threading.Event()
        self._traffic: list[History] = []
        self._now: _Now | None = None
        self._rest = Rest()  # in which the last look is good enough
        self._pages: dict[tuple[str, str], tuple[World, pages.Page]] = {}
        self._before: dict[str, tuple[float, float]] = {}
        self._layers: tuple[past.Layer, ...] = ()
        self._kept: tuple[World | None, dict[str, tuple[Seen, Pod]]] = (None, {})
        self._prometheus = prometheus
        self._store = Store(retention_seconds=math.inf)
        self._shown = past.Shown(self._store)
        self._served: Served | None = None

    def start(self, held: socket.socket) -> None:
        """Take over from the past, and serve on `held`, a socket that listens."""
        for informer in self._own.values():
            informer.start()
        for informer in self._informers.values():
            informer.synced.wait(10)
        self._stale.set()
        self._stage.become(self._stage.world, handover=time.time())
        self._stage.subscribe(self._on_stage)
        self._begin()
        self._served = Served(self._application(), held=held)

    def close(self) -> None:
        """Stop serving."""
        for informer in self._own.values():
            informer.close()
        if self._served is not None:
            self._served.close()

    def usage(self) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
        """Cores and bytes in use now, by namespace and pod, then by container."""
        with self._lock:
            now, moment = self._look(), time.time()
            world, pods = now.world, now.world.pods
            each = np.arange(len(pods))
            rates = world.history.rate("cores", pods.service, np.array([moment]))[:, 0] * pods.share
            bytes_ = pods.working_set(each, np.array([moment]))[:, 0]
            there = pods.seen(each, np.array([moment]))[:, 0]
            found: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
            for number in np.flatnonzero(there).tolist():
                service = world.services[pods.listed[number].service]
                found[service.namespace, pods.listed[number].name] = {service.name: (float(rates[number]), float(bytes_[number]))}
            for pod, name, cores, memory, _started in strangers.running(now.others):
                place = (pod["metadata"]["namespace"], pod["metadata"]["name"])
                found.setdefault(place, {})[name] = (cores, memory)
        return found

    def node_usage(self) -> dict[str, tuple[float, float]]:
        """Cores and bytes in use now, by node."""
        with self._lock:
            now, moment = self._look(), np.array([time.time()])
            rows = np.arange(len(now.world.nodes))
            cores = now.world.history.rate("node_cores", rows, moment)[:, 0] + machines.SYSTEM_CORES
            free = next(family for family in now.machines if family.name == "node_memory_MemAvailable_bytes").values(rows, moment)[:, 0]
            return {
                node.name: (float(cores[row]), float(node.memory_bytes - free[row]))
                for row, node in enumerate(now.world.nodes)
                if not self._lost(node.name)
            }

    # --- the world of now ---

    def _note(self, event: str, obj: Object) -> None:
        self._stale.set()

    def _on_stage(self, world: World) -> None:
        self._stale.set()
        if self._layers and self._stage.handover > self._layers[-1].end:
            self._take_over()

    def _begin(self) -> None:
        """Make the first past. What counters have come to takes a moment to compute, for which scrapes wait and nobody else has to."""
        if not self._with_past:
            past.write(self._folder, ())
            self._counted.set()
            return
        at, world = time.time(), self._stage.world
        adopted = past.adopt(world, self._found(world), at)
        self._lay(adopted, world.start, at)

        def count() -> None:
            adopted.history.resume(world.history, at)
            self._before = pages.Counters(families(adopted, at, at)).at(at)
            adopted.history.forget()
            self._counted.set()

        threading.Thread(target=count, name="counters", daemon=True).start()

    def _take_over(self) -> None:
        """Make the past anew from the world on stage, up to now, and let the pages go on from there."""
        with self._taking:
            self._counted.wait()
            world, now = self._stage.world, time.time()
            adopted = past.adopt(world, self._found(world), now)
            before = self._layers[-1].world
            since = past.differs_since(before, adopted)
            if since >= now:
                return
            adopted.history.resume(before.history, since)
            counters = pages.Counters(families(adopted, now, now))
            counters.at(now)  # the work of this is kept, and scrapes go on meanwhile
            with self._lock:
                at = time.time()
                self._before = counters.at(at)
                self._lay(adopted, since, at)
                self._kept = (None, {})
                self._pages.clear()
                self._stale.set()
                self._rest.end()
            adopted.history.forget()

    def _found(self, world: World) -> list[Seen]:
        return seen(world, self._informers[_PODS].objects())[0]

    def _lay(self, adopted: past.Adopted, since: float, at: float) -> None:
        self._layers = past.lay(self._layers, adopted, since, at)
        if self._prometheus:
            self._shown.show([layer.document() for layer in self._layers])
            self._forget(since, at)
        past.write(self._folder, self._layers)

    def _forget(self, since: float, until: float) -> None:
        """Let Prometheus forget what it scraped of a time whose past is another one now."""
        import urllib3

        form = {"match[]": f'{{__name__!="", instance!~"{LOOPBACK}.*"}}', "start": f"{since:.3f}", "end": f"{until:.3f}"}
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # the two overlap then, which is not worth a failed lesson
            urllib3.request("POST", f"{self._prometheus}/api/v1/admin/tsdb/delete_series?{urlencode(form)}", timeout=5)

    def _look(self) -> _Now:
        """The world of now, made anew where the cluster's pods or the stage's world are others than at the last look.

        While pods come and go by the hundred, that takes no more than a part of the time.
        """
        world = self._stage.world
        if self._now is not None and (not self._stale.is_set() or (self._now.of is world and self._rest.seconds)):
            return self._now
        with self._rest.after():
            self._now = self._seen(world)
        return self._now

    def _seen(self, world: World) -> _Now:
        self._stale.clear()
        found, others = seen(world, self._informers[_PODS].objects())
        whole = observe(world, found, self._known(world), self._traffic)
        known = self._now.nodes if self._now is not None else {}
        nodes = {node.name: on_node(whole, number, known.get(node.name)) for number, node in enumerate(world.nodes)}
        return _Now(world, whole, nodes, others)

    def _known(self, world: World) -> dict[str, tuple[Seen, Pod]]:
        """The pods of the past at its end, by name."""
        if self._layers and self._kept[0] is not world:
            last = self._layers[-1].world
            adopted = past.adopt(world, last.adopted, last.at)
            self._kept = (world, {one.name: (one, pod) for pod, one in adopted.pairs(adopted.pods.listed) if one is not None})
        return self._kept[1]

    # --- the pages ---

    def _application(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.routing import Route

        own = [
            Route("/kube-state", self._kube_state),
            Route("/cadvisor", self._cadvisor),
            Route("/node", self._node),
            Route("/services", self._services),
            Route("/platform", self._platform),
            Route("/past", self._read, methods=["POST"]),
        ]
        return Starlette(routes=[*own, *self._routes])

    async def _read(self, request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse
        from starlette.responses import Response as Answer

        from opslib.lab import remote_read

        try:
            content = await run_in_threadpool(remote_read.answer, self._store, await request.body())
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400)
        return Answer(content, media_type=remote_read.CONTENT_TYPE, headers={"Content-Encoding": "snappy"})

    def _page(self, kind: str, node: str, world: Observed, made: Callable[[Mapping[str, tuple[float, float]]], pages.Page]) -> str:
        known = self._pages.get((kind, node))
        if known is None or known[0] is not world:
            page = made(self._before if known is None else ChainMap(known[1].counters(), self._before))
            for series in page.counters():
                self._before.pop(series, None)  # it is on the page from now on
            known = self._pages[kind, node] = (world, page)
        return known[1].text(time.time())

    async def _services(self, request: Request) -> Response:
        def text(node: str, now: _Now) -> str:
            world = now.nodes[node]
            each = np.arange(len(world.pods))
            return self._page("services", node, world, lambda before: pages.Page(applications.families(world, each), before=before))

        return await self._of_node(request, text)

    async def _cadvisor(self, request: Request) -> Response:
        def text(node: str, now: _Now) -> str:
            world = now.nodes[node]

            def rows_of(family: Family) -> Sequence[int]:
                return [row for row, labels in enumerate(family.labels) if labels["node"] == node]

            def made(before: Mapping[str, tuple[float, float]]) -> pages.Page:
                return pages.Page(containers.families(world, np.arange(len(world.pods))), rows_of, before=before)

            page = self._page("containers", node, world, made)
            others = [pod for pod in now.others if pod["spec"].get("nodeName") == node]
            lines = [f"{pages.written(name, labels)} {value!r}\n" for name, labels, value in strangers.samples(others, node, time.time())]
            return page + "".join(lines)

        return await self._of_node(request, text)

    async def _node(self, request: Request) -> Response:
        def text(node: str, now: _Now) -> str:
            def made(before: Mapping[str, tuple[float, float]]) -> pages.Page:
                return pages.Page(now.machines, lambda family: now.rows_of(family, node), before=before)

            return self._page("machines", node, now.world, made)

        return await self._of_node(request, text)

    async def _of_node(self, request: Request, text: Callable[[str, _Now], str]) -> Response:
        """One after another. Who waits takes no thread, and gives up when Prometheus does: what is late does not pile up."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import PlainTextResponse

        try:
            async with asyncio.timeout(_SCRAPE_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            return PlainTextResponse("others are asked first\n", 503)
        try:
            return await run_in_threadpool(self._told, request.query_params.get("node", ""), text)
        finally:
            self._turn.release()

    def _told(self, node: str, text: Callable[[str, _Now], str]) -> Response:
        from starlette.responses import PlainTextResponse

        self._counted.wait(_PATIENCE_SECONDS)
        with self._lock:
            now = self._look()
            if node not in now.nodes or self._lost(node):
                return PlainTextResponse("the node does not answer\n", 503)
            return _answer(text(node, now))

    def _lost(self, name: str) -> bool:
        """Whether a node is held, or not there: it answers nothing."""
        if self._holds.node(name):
            return True
        found = self._informers[_NODES].get("", name)
        return found is None or found["metadata"].get("annotations", {}).get(_HOLD) == "true"

    def _platform(self, request: Request) -> Response:
        self._counted.wait(_PATIENCE_SECONDS)
        with self._lock:
            world = self._look().world

            def made(before: Mapping[str, tuple[float, float]]) -> pages.Page:
                shown = [*applications.between(world, np.arange(len(world.pods))), *machines.platform(world)]
                return pages.Page(shown, before=before)

            return _answer(self._page("platform", "", world, made))

    def _kube_state(self, request: Request) -> Response:
        with self._lock:
            said: dict[str, tuple[str, str]] = {}
            for path, informer in self._informers.items():
                for obj in informer.objects():
                    uid, version = obj["metadata"]["uid"], obj["metadata"]["resourceVersion"]
                    known = self._said.get(uid)
                    said[uid] = known if known is not None and known[0] == version else (version, self._say(path, obj))
            self._said = said
            heads = [f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}\n" for name in self._heads]
            return _answer("".join([*heads, *(text for _version, text in said.values())]))

    def _say(self, path: str, obj: Object) -> str:
        lines = []
        for name, labels, value in state_metrics.KINDS[path](obj):
            self._heads.setdefault(name)
            lines.append(f"{pages.written(name, labels)} {value!r}\n")
        return "".join(lines)


def _answer(text: str) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
