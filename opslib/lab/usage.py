"""metrics.k8s.io as a metrics server serves it: what pods and nodes use now. The API server asks it as an aggregated API.

Unlike a real one it can be told what a pod uses (PATCH and DELETE of a PodMetrics): the player does that for the pods that it breaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from opslib.lab.rest import Rest
from opslib.lab.world.changes import stamp

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from opslib.lab.api import Api, Object
    from opslib.lab.informer import Informer
    from opslib.lab.kube.selectors import Match
    from opslib.lab.world import World

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
_BASE = f"/apis/{GROUP}/{VERSION}"
_WINDOW = "15s"
_IDLE = (0.002, 16 * 2.0**20)  # cores and bytes of a container that nothing is known of

OfContainer = tuple[float, float]
"""Cores, and bytes of the working set."""


class Usage:
    """What is used now.

    `of_pods` and `of_nodes` may be set: who knows better gives the use by namespace and pod, and container, and by node. Else it is
    computed from the world, and of what that does not know little is said.
    """

    def __init__(self, pods: Informer, nodes: Informer, world: Callable[[], World | None]) -> None:
        self.of_pods: Callable[[], Mapping[tuple[str, str], Mapping[str, OfContainer]]] | None = None
        self.of_nodes: Callable[[], Mapping[str, OfContainer]] | None = None
        self._pods = pods
        self._nodes = nodes
        self._world = world
        self._told: dict[tuple[str, str], Object] = {}
        self._measured: Mapping[tuple[str, str], Mapping[str, OfContainer]] = {}
        self._rest = Rest()  # in which what was measured is good enough

    def of_pod(self, pod: Object) -> Mapping[str, OfContainer]:
        """Cores and bytes by container of a pod."""
        return self._all_pods().get(_key(pod)) or _estimated(self._world(), pod, time.time())

    def routes(self) -> list[BaseRoute]:
        """What is served."""
        from starlette.routing import Route

        in_namespace = f"{_BASE}/namespaces/{{namespace}}/pods"
        return [
            Route(f"/apis/{GROUP}", _group),
            Route(_BASE, _resources),
            Route(f"{_BASE}/nodes", self._serve_nodes),
            Route(f"{_BASE}/nodes/{{name}}", self._serve_nodes),
            Route(f"{_BASE}/pods", self._serve_pods),
            Route(in_namespace, self._serve_pods),
            Route(f"{in_namespace}/{{name}}", self._serve_pods, methods=["GET"]),
            Route(f"{in_namespace}/{{name}}", self._tell, methods=["PATCH", "DELETE"]),
        ]

    def _all_pods(self) -> Mapping[tuple[str, str], Mapping[str, OfContainer]]:
        if self.of_pods is not None and not self._rest.seconds:
            with self._rest.after():
                self._measured = self.of_pods()
        return self._measured

    # --- answers ---

    def _serve_pods(self, request: Request) -> Response:
        namespace, name = request.path_params.get("namespace", ""), request.path_params.get("name", "")
        found = list(self._pod_metrics(namespace, name, _selector(request)))
        return _answer(request, "PodMetrics", found, f"{namespace}/{name}" if name else "")

    def _serve_nodes(self, request: Request) -> Response:
        name = request.path_params.get("name", "")
        return _answer(request, "NodeMetrics", list(self._node_metrics(name, _selector(request))), name)

    async def _tell(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        key = (request.path_params["namespace"], request.path_params["name"])
        if request.method == "DELETE":
            self._told.pop(key, None)
            return JSONResponse({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        self._told[key] = await request.json()
        return JSONResponse({"kind": "PodMetrics", "apiVersion": f"{GROUP}/{VERSION}", **self._told[key]})

    def _pod_metrics(self, namespace: str, name: str, selects: Match) -> Iterator[Object]:
        measured, world, now = self._all_pods(), self._world(), time.time()
        pods = self._pods.objects()
        answers = {node["metadata"]["name"] for node in self._nodes.objects() if _is_ready(node)}
        for gone in set(self._told) - {_key(pod) for pod in pods}:
            self._told.pop(gone, None)
        for pod in pods:
            metadata = pod["metadata"]
            if (namespace and metadata["namespace"] != namespace) or (name and metadata["name"] != name):
                continue
            if not selects(metadata.get("labels", {})):
                continue
            told = self._told.get(_key(pod))
            if told is not None:
                yield _measured(metadata, now, {"containers": told.get("containers", [])})
                continue
            found = measured.get(_key(pod)) or _estimated(world, pod, now)
            if pod.get("status", {}).get("phase") == "Running" and found and pod["spec"].get("nodeName") in answers:
                yield _measured(metadata, now, {"containers": [{"name": one, "usage": _quantities(use)} for one, use in found.items()]})

    def _node_metrics(self, name: str, selects: Match) -> Iterator[Object]:
        measured, world, now = self.of_nodes() if self.of_nodes is not None else {}, self._world(), time.time()
        for node in self._nodes.objects():
            metadata = node["metadata"]
            if not _is_ready(node) or (name and metadata["name"] != name) or not selects(metadata.get("labels", {})):
                continue  # what does not answer is not measured
            use = measured.get(metadata["name"])
            if use is None:
                on_it = [pod for pod in self._pods.objects() if pod["spec"].get("nodeName") == metadata["name"]]
                uses = [each for pod in on_it for each in _estimated(world, pod, now).values()]
                use = (0.15 + sum(cores for cores, _bytes in uses), 1.4 * 2**30 + sum(each for _cores, each in uses))
            yield _measured(metadata, now, {"usage": _quantities(use)})


def register(api: Api, port: int) -> None:
    """Tell the API server who serves metrics.k8s.io: this process, at `port` on the loopback."""
    service = {"namespace": "kube-system", "name": "metrics-server", "port": port}
    metadata = {"namespace": "kube-system", "name": "metrics-server", "labels": {"k8s-app": "metrics-server"}}
    spec: Object = {"type": "ExternalName", "externalName": "localhost", "ports": [{"name": "https", "port": port}]}
    api.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
    priorities = {"groupPriorityMinimum": 100, "versionPriority": 100}
    spec = {"group": GROUP, "version": VERSION, "service": service, "insecureSkipTLSVerify": True, **priorities}
    api.apply({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": f"{VERSION}.{GROUP}"}, "spec": spec})


def _estimated(world: World | None, pod: Object, now: float) -> dict[str, OfContainer]:
    """By the world, where it knows the pod's service."""
    import numpy as np

    from opslib.lab.container_logs import pod_of

    running = [one["name"] for one in pod.get("status", {}).get("containerStatuses", []) if "running" in one.get("state", {})]
    found = dict.fromkeys(running, _IDLE)
    known = None if world is None else pod_of(world, pod)
    if world is None or known is None:
        return found
    service, at = world.services[known.service], np.array([now])
    if service.name in found:
        cores = float(world.history.rate("cores", np.array([known.service]), at)[0, 0]) * known.share
        place = next((number for number, one in enumerate(world.pods.listed) if one.name == known.name), None)
        used = service.memory_limit * 0.5 if place is None else float(world.pods.working_set(np.array([place]), at)[0, 0])
        found[service.name] = (cores, used)
    return found


def _is_ready(node: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in node.get("status", {}).get("conditions", []))


def _key(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]


def _quantities(use: OfContainer) -> dict[str, str]:
    return {"cpu": f"{use[0] * 1e9:.0f}n", "memory": f"{use[1] / 1024:.0f}Ki"}


def _measured(metadata: Object, now: float, content: Object) -> Object:
    kept = {name: metadata[name] for name in ("name", "namespace", "labels") if metadata.get(name)}
    return {"metadata": {**kept, "creationTimestamp": stamp(now)}, "timestamp": stamp(now - now % 15), "window": _WINDOW, **content}


def _selector(request: Request) -> Match:
    from opslib.lab.kube import selectors

    return selectors.parse_labels(request.query_params.get("labelSelector", ""))


# --- forms ----------------------------------------------------------------------------------------------------------------------------


def _answer(request: Request, kind: str, found: list[Object], name: str) -> Response:
    """One (where it is named), a list, or a table, as the client asks."""
    from starlette.responses import JSONResponse

    about = {"apiVersion": f"{GROUP}/{VERSION}"}
    if name and not found:
        plural = "pods" if kind == "PodMetrics" else "nodes"
        details = {"name": name, "group": GROUP, "kind": plural}
        message = f'{plural}.{GROUP} "{name}" not found'
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": "NotFound"}
        return JSONResponse({**status, "details": details, "code": 404}, 404)
    if "as=Table" in request.headers.get("accept", "").partition(",")[0]:
        return JSONResponse(_table(found))
    if name:
        return JSONResponse({"kind": kind, **about, **found[0]})
    return JSONResponse({"kind": f"{kind}List", **about, "metadata": {}, "items": found})


def _table(found: list[Object]) -> Object:
    columns = [
        {"name": name, "type": "string", "format": "name" if name == "Name" else "", "description": "", "priority": 0}
        for name in ("Name", "cpu", "memory", "Window")
    ]
    rows = []
    for one in found:
        uses = [one["usage"]] if "usage" in one else [each["usage"] for each in one["containers"]]
        row: list[Any] = [one["metadata"]["name"], *_sums(uses), one["window"]]
        rows.append(
            {"cells": row, "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": one["metadata"]}}
        )
    return {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows}


def _sums(uses: list[Mapping[str, str]]) -> tuple[str, str]:
    from opslib.lab.shell.box import quantity

    cores, size = (sum(quantity(use.get(name, "0")) for use in uses) for name in ("cpu", "memory"))
    return f"{cores * 1000:.0f}m", f"{size / 1024:.0f}Ki"


async def _group(request: Request) -> Response:
    from starlette.responses import JSONResponse

    version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
    return JSONResponse({"kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version})


async def _resources(request: Request) -> Response:
    from starlette.responses import JSONResponse

    resources = [
        {"name": name, "singularName": "", "namespaced": name == "pods", "kind": kind, "verbs": ["get", "list"]}
        for name, kind in (("nodes", "NodeMetrics"), ("pods", "PodMetrics"))
    ]
    return JSONResponse({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": resources})
