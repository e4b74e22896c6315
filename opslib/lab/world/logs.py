"""What the services write to their logs: more when there is traffic, errors where the simulation has them.

Only a part of the requests is written (`Density`), since a whole week of all of them would be a hundred million lines. A line depends on
the world, the pod, the slot of 30 seconds and its number there alone: ranges of time that overlap agree, what other pods there are does not
matter, and what a thinner density leaves is a part of what a denser one has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from opslib.lab.world import noise
from opslib.lab.world.changes import iso
from opslib.lab.world.faults import BadDeploy, CertificateExpiry, DependencyDown, Dns, MemoryLeak, Timed, VolumeFill
from opslib.lab.world.history import DAY, SLOT
from opslib.lab.world.platform import Service
from opslib.lab.world.pods import Pod

if TYPE_CHECKING:
    from opslib.lab.world.model import World


@dataclass(frozen=True, slots=True)
class Density:
    """Lines for each request that is served, and for each that fails; stores write less of what they serve."""

    served: float = 0.0003
    failed: float = 0.03
    most: int = 60  # lines of a service in a slot: what floods is cut, as log shippers do


CONTAINERS = Density(served=0.004, failed=0.2, most=200)
"""What containers write; `Density()` is the part of it that is kept in Elasticsearch."""

_CELLS = 600_000  # pods times slots that are looked at together
_OF_STORES = 0.15
_CHATTER = 2.5  # what those without traffic write, as if they served so many requests a second


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log; `stack` is empty where there is none, and `number` is one that no other line of its pod has."""

    time: float
    service: Service
    pod: Pod
    node: str
    level: str
    logger: str
    message: str
    trace: str
    error: str = ""
    stack: str = ""
    number: str = ""

    def document(self) -> dict[str, Any]:
        """It in the field names of the Elastic Common Schema."""
        document: dict[str, Any] = {
            "@timestamp": iso(self.time),
            "message": self.message,
            "log": {"level": self.level, "logger": self.logger},
            "service": {"name": self.service.name, "version": self.pod.version},
            "kubernetes": {
                "namespace": self.service.namespace,
                "pod": {"name": self.pod.name},
                "container": {"name": self.service.name},
                "node": {"name": self.node},
                "labels": {"app": self.service.name, "team": self.service.team},
            },
            "trace": {"id": self.trace},
        }
        if self.error:
            document["error"] = {"type": self.error, "message": self.message, "stack_trace": self.stack}
        return document

    def text(self) -> str:
        """It as the container writes it: JSON where the service's library does so, else plain, with its stack on lines of its own."""
        when = iso(self.time)
        if self.service.language in ("go", "node"):
            fields: dict[str, Any] = {"time": when, "level": self.level, "msg": self.message, "trace_id": self.trace}
            if self.stack:
                fields["stack"] = self.stack
            return json.dumps(fields, ensure_ascii=False)
        if self.service.language == "postgres":
            return f"{when} [1] {self.level.upper()}:  {self.message}"
        head = f"{when} {self.level.upper():5} [{self.trace[:16]}] {self.logger} - {self.message}"
        return f"{head}\n{self.stack}" if self.stack else head


def lines(world: World, start: float, end: float, density: Density | None = None, *, pods: Sequence[Pod] | None = None) -> Iterator[Line]:
    """All lines from `start` up to `end` (Unix seconds), by time; of these pods only, or of all that the world ever had."""
    density = density or Density()
    listed = world.pods.listed if pods is None else pods
    step = max(1, min(int(DAY / SLOT), _CELLS // max(1, len(listed))))
    first, last = math.floor((start - world.start) / SLOT), math.ceil((end - world.start) / SLOT)
    for begin in range(max(first, 0), max(last, 0), step):
        slots = np.arange(begin, min(begin + step, last))
        since, until = max(start, world.start + begin * SLOT), min(end, world.start + (begin + step) * SLOT)
        there = [pod for pod in listed if pod.started < until and pod.ended > since]
        if there:
            yield from _of_slots(world, slots, there, density, start, end)


def _of_slots(world: World, slots: noise.Integers, pods: list[Pod], density: Density, start: float, end: float) -> Iterator[Line]:
    times = np.asarray(world.start + slots * SLOT, np.float64)
    writers = sorted({pod.service for pod in pods})
    rows = np.array([writers.index(pod.service) for pod in pods], np.int64)
    served, own, called = (
        world.history.rate(name, np.array(writers, np.int64), times) for name in ("requests", "own_failures", "called_failures")
    )
    edges = world.history.rate("edge_failures", np.arange(len(world.history.edges)), times)
    factors = np.array([_OF_STORES if world.services[number].namespace == "data" else 1.0 for number in writers])[:, None]
    failed = own + called
    shares = np.array([pod.share for pod in pods])[:, None]
    keys = noise.keys(world.seed, "logs", rows=[pod.name for pod in pods])[:, None]
    chatter = np.where(served == 0, _CHATTER, 0.0)
    # as many as expected, and one more as often as the rest of the number says
    good = (((served - failed) * factors + chatter)[rows] * shares * SLOT * density.served) + noise.uniform(keys, slots)
    bad = failed[rows] * shares * SLOT * density.failed + noise.uniform(keys, slots + (1 << 40))
    counts = [np.minimum(np.floor(one), density.most).astype(int) for one in (good, bad)]
    for column in np.flatnonzero((counts[0] + counts[1]).any(axis=0) | _starts(pods, times)).tolist():
        slot, found = int(slots[column]), []
        for place in np.flatnonzero(counts[0][:, column] + counts[1][:, column]).tolist():
            pod, row = pods[place], rows[place]
            failing = _Failing(float(own[row, column]), float(called[row, column]), edges[:, column])
            for one in range(counts[0][place, column]):
                found.append(_line(world, pod, slot, one, None))
            for one in range(counts[1][place, column]):
                found.append(_line(world, pod, slot, one, failing))
        found += _notices(world, pods, float(times[column]))
        kept = [line for line in found if start <= line.time < end and _runs(line.pod, line.time)]
        yield from sorted(kept, key=lambda line: (line.time, line.pod.name))


def _runs(pod: Pod, time: float) -> bool:
    return pod.started <= time < pod.ended and not pod.gap[0] <= time < pod.gap[1]


def _starts(pods: list[Pod], times: noise.Floats) -> Any:
    """For each slot, whether a container begins in it."""
    begun = np.array([one for pod in pods for one in pod.starts])
    found = np.zeros(len(times), bool)
    places = np.floor((begun - times[0]) / SLOT)
    places = places[(places >= 0) & (places < len(times))].astype(int)
    found[places] = True
    return found


def bulk(
    world: World, start: float, end: float, density: Density | None = None, *, pods: Sequence[Pod] | None = None, prefix: str = "logs"
) -> Iterator[str]:
    """Pairs of lines for Elasticsearch's _bulk, into an index a day (UTC). What is written twice is refused the second time (409)."""
    for line in lines(world, start, end, density, pods=pods):
        document = line.document()
        index = f"{prefix}-{document['@timestamp'][:10].replace('-', '.')}"
        action = {"create": {"_index": index, "_id": line.number}}
        yield f"{json.dumps(action)}\n{json.dumps(document, ensure_ascii=False)}\n"


# --- one line ---------------------------------------------------------------------------------------------------------------------------


class _Chance:
    """Numbers for one line, one after another."""

    def __init__(self, key: int) -> None:
        self._numbers = iter(noise.uniform(np.uint64(key), np.arange(16)).tolist())

    def draw(self) -> float:
        return float(next(self._numbers))

    def number(self, low: int, high: int) -> int:
        return low + int((high - low) * self.draw())

    def choice(self, items: tuple[Any, ...]) -> Any:
        return items[int(len(items) * self.draw())]


_SERVED = {
    "default": (
        ("info", "GET /{noun}/{number} 200 {milliseconds}ms"),
        ("info", "GET /{noun} 200 {milliseconds}ms"),
        ("info", "POST /{noun} 201 {milliseconds}ms"),
        ("info", "{noun}の一覧を返しました（{digit}件）"),
        ("debug", "cache hit for {noun}:{number}"),
        ("warn", "slow call: {noun} took {milliseconds}0ms"),
        ("warn", "再試行しました: {noun} {digit}回目"),
    ),
    "order": (("info", "注文 {number} を受け付けました"), ("info", "order {number} accepted, {digit} items")),
    "payment-api": (("info", "決済 {number} を承認しました"), ("info", "payment {number} authorised in {milliseconds}ms")),
    "stock": (("info", "在庫を引き当てました: 商品 {number}, {digit}点"), ("info", "reserved {digit} of item {number}")),
    "mail": (("info", "注文確認メールを送信しました: {number}"), ("info", "sent order confirmation {number}")),
    "postgres": (("log", "checkpoint complete: wrote {number} buffers"), ("log", 'automatic vacuum of table "shop.public.{noun}"')),
    "redis": (("info", "Background saving terminated with success"), ("info", "DB saved on disk")),
    "kafka": (("info", "Rolled new log segment at offset {number}"),),
    "opensearch": (("info", "[{noun}] refresh took {milliseconds}ms"),),
}
_AGENTS = {
    "coredns": (("info", "plugin/reload: Running configuration SHA512 = {number}"), ("info", "plugin/ready: Still waiting on: none")),
    "kube-proxy": (("info", "Syncing iptables rules"), ("info", "Reloading service iptables data, services={digit}")),
    "aws-node": (("info", "Successfully assigned addresses to the pool, {digit} left"), ("info", "Reconciling existing ENI eth0")),
    "kube-state-metrics": (("info", "Started metric generation for resources, {number} series"),),
    "node-exporter": (("info", "collector run completed in {milliseconds}ms"),),
    "prometheus": (("info", "compact: head GC completed, duration={milliseconds}ms"), ("info", "Write block, size={number}")),
    "fluent-bit": (("info", "[output:es:es.0] flushed chunk of {number} bytes"), ("warn", "[engine] chunk is retried, {digit} left")),
}
_NOUNS = ("items", "orders", "carts", "users", "prices", "coupons")
_OWN = {
    # the error's type, its message, and the function that it comes from
    "jvm": ("java.lang.IllegalStateException", "unexpected state {digit} of {noun} {number}", "handle"),
    "go": ("*errors.errorString", "invalid {noun} {number}: empty response", "ServeHTTP"),
    "python": ("KeyError", "'{noun}_{number}'", "handle"),
    "node": ("TypeError", "Cannot read properties of undefined (reading '{noun}')", "handle"),
    "nginx": ("upstream", "upstream prematurely closed connection while reading response header", ""),
    "postgres": ("ERROR", "canceling statement due to statement timeout", ""),
    "redis": ("OOM", "command not allowed when used memory > 'maxmemory'", ""),
    "kafka": ("NotLeaderForPartitionException", "not the leader for partition {noun}-{digit}", ""),
    "opensearch": ("CircuitBreakingException", "[parent] Data too large, data for [<http_request>]", ""),
}
_CALLED = {
    "jvm": ("java.net.SocketTimeoutException", "Read timed out calling {callee}"),
    "go": ("*url.Error", 'Post "http://{callee}.{namespace}.svc:{port}/v1": context deadline exceeded'),
    "python": ("requests.exceptions.ConnectionError", "{callee}への接続に失敗しました: Max retries exceeded"),
    "node": ("Error", "connect ECONNREFUSED {callee}:{port}"),
    "nginx": ("upstream", "connect() failed (111: Connection refused) while connecting to upstream {callee}"),
}


def _line(world: World, pod: Pod, slot: int, one: int, failing: _Failing | None) -> Line:
    """Line `one` of a pod in a slot; `failing` where its request failed."""
    service = world.services[pod.service]
    key = noise.key(world.seed, "line", pod.name, slot, one, failing is not None)
    chance = _Chance(key)
    time = world.start + (slot + chance.draw()) * SLOT
    trace = f"{noise.key(key, 1):016x}{noise.key(key, 2):016x}"
    node = world.nodes[pod.node].name
    filled = {
        "noun": chance.choice(_NOUNS),
        "number": chance.number(10_000, 99_999),
        "digit": chance.number(1, 9),
        "milliseconds": chance.number(3, 90),
    }
    logger = f"com.example.{service.name.replace('-', '')}.Api" if service.language == "jvm" else service.name.replace("-", "_")
    number = f"{key:016x}"
    if failing is None:
        said = _chatter(world, service, time, chance)
        if said is None:
            choices = _SERVED.get(service.name) or _SERVED.get(service.language) or _SERVED["default"]
            if choices is _SERVED["default"] or chance.draw() < 0.4:
                choices = choices if service.namespace == "data" else _SERVED["default"]
            # what is rare among the choices is rare in the log
            said = choices[int(len(choices) * chance.draw() ** 2)]
        level, wording = said
        return Line(time, service, pod, node, level, logger, wording.format(**filled), trace, number=number)
    error, wording, where = _failure(world, pod.service, time, failing, chance)
    message = wording.format(**filled) if "{" in wording else wording
    stack = _stack(service, error, message, where, chance)
    return Line(time, service, pod, node, "error", logger, message, trace, error, stack, number=number)


def _chatter(world: World, service: Service, time: float, chance: _Chance) -> tuple[str, str] | None:
    """What those write that serve no requests of the shop; None for all others."""
    choices = _AGENTS.get(service.name)
    if choices is None:
        return None
    if service.name == "coredns" and any(isinstance(timed.fault, Dns) and timed.start <= time < timed.end for timed in world.faults):
        asked = world.services[int(len(world.services) * chance.draw())]
        return "error", f"plugin/errors: 2 {asked.name}.{asked.namespace}.svc.cluster.local. A: read udp 10.0.0.2:53: i/o timeout"
    return choices[int(len(choices) * chance.draw())]


@dataclass(frozen=True, slots=True)
class _Failing:
    """What fails in a slot, each a second: for a service itself, for what it calls, and on every edge of the call graph."""

    own: float
    called: float
    edges: noise.Floats


def _failure(world: World, number: int, time: float, failing: _Failing, chance: _Chance) -> tuple[str, str, str]:
    """The error of a request that fails: of the service itself, or of what it calls, as often as the simulation has it."""
    service = world.services[number]
    history = world.history
    if service.calls and chance.draw() * (failing.own + failing.called) >= failing.own:
        edges = [edge for edge, (caller, _callee, call) in enumerate(history.edges) if caller == number and call.critical > 0]
        weights = failing.edges[edges] * [history.edges[edge][2].critical for edge in edges]
        picked = int(np.searchsorted(np.cumsum(weights), chance.draw() * weights.sum()))
        callee = world.services[history.edges[edges[min(picked, len(edges) - 1)]][1]]
        return _of_call(world, service, callee, time)
    for timed in world.faults:
        if timed.service == service.name and timed.start <= time < timed.end:
            found = _of_fault(world, timed, service, time)
            if found is not None:
                return found
    return _OWN[service.language]


def _of_call(world: World, service: Service, callee: Service, time: float) -> tuple[str, str, str]:
    for timed in world.faults:
        if not timed.start <= time < timed.end:
            continue
        if isinstance(timed.fault, Dns):
            return "DNS", f"lookup {callee.name}.{callee.namespace}.svc.cluster.local: i/o timeout", "resolve"
        if isinstance(timed.fault, CertificateExpiry) and timed.service == callee.name:
            when = iso(timed.start)[:19] + "Z"
            return (
                "x509.CertificateInvalidError",
                f"{callee.name}: certificate has expired or is not yet valid: it was valid until {when}",
                "dial",
            )
        if isinstance(timed.fault, DependencyDown) and timed.service == callee.name:
            return "ConnectException", f"connect to {callee.name}.{callee.namespace}.svc:{callee.port} refused: Connection refused", "dial"
        if isinstance(timed.fault, VolumeFill) and timed.service == callee.name and time >= world.full[world.faults.index(timed)]:
            return "PSQLException", f'ERROR: could not extend file "base/16384/24601": No space left on device ({callee.name})', "execute"
    error, wording = _CALLED.get(service.language, _CALLED["go"])
    return error, wording.format(callee=callee.name, namespace=callee.namespace, port=callee.port), "call"


def _of_fault(world: World, timed: Timed, service: Service, time: float) -> tuple[str, str, str] | None:
    fault = timed.fault
    if isinstance(fault, BadDeploy):
        if fault.error:
            error, _colon, message = fault.error.partition(": ")
            return error, message or error, "authorise"
        return {
            "jvm": ("java.lang.NullPointerException", 'Cannot invoke "String.length()" because "code" is null', "parse"),
            "python": ("AttributeError", "'NoneType' object has no attribute 'price'", "render"),
        }.get(service.language, _OWN[service.language])
    if isinstance(fault, MemoryLeak):
        return {
            "jvm": ("java.lang.OutOfMemoryError", "Java heap space", "allocate"),
            "python": ("MemoryError", "", "load"),
            "node": ("RangeError", "Array buffer allocation failed", "load"),
        }.get(service.language)
    if isinstance(fault, VolumeFill) and time >= world.full[world.faults.index(timed)]:
        return "53100", 'could not extend file "base/16384/24601": No space left on device', ""
    return None


def _stack(service: Service, error: str, message: str, where: str, chance: _Chance) -> str:
    """A stack trace as the language writes it; empty where it has none."""
    name, at = service.name.replace("-", ""), chance.number(20, 400)
    if not where:
        return ""
    rows: tuple[str, ...] = ()
    if service.language == "jvm":
        rows = (
            f"{error}: {message}",
            f"\tat com.example.{name}.Service.{where}(Service.java:{at})",
            f"\tat com.example.{name}.Api.post(Api.java:{at // 2})",
            "\tat org.springframework.web.servlet.DispatcherServlet.doDispatch(DispatcherServlet.java:1089)",
            "\tat java.base/java.lang.Thread.run(Thread.java:1583)",
        )
    elif service.language == "python":
        rows = (
            "Traceback (most recent call last):",
            f'  File "/app/{name}/api.py", line {at // 2}, in post',
            f"    return {where}(request)",
            f'  File "/app/{name}/service.py", line {at}, in {where}',
            "    value = found[key]",
            f"{error}: {message}",
        )
    elif service.language == "node":
        rows = (
            f"{error}: {message}",
            f"    at {where} (/app/src/service.js:{at}:17)",
            f"    at async /app/src/api.js:{at // 2}:5",
            "    at process.processTicksAndRejections (node:internal/process/task_queues:105:5)",
        )
    elif service.language == "go":
        rows = (
            f"goroutine {at} [running]:",
            f"main.{where}(0xc000{at:03x}000)",
            f"\t/src/{name}/service.go:{at} +0x1f4",
            "net/http.HandlerFunc.ServeHTTP(0x0?)",
            "\t/usr/local/go/src/net/http/server.go:2294 +0x29",
        )
    return "\n".join(rows)


def _notices(world: World, pods: list[Pod], slot: float) -> list[Line]:
    """Lines at starts of containers, in the slot that begins then."""
    found = []
    for pod in pods:
        for began in pod.starts:
            if slot <= began < slot + SLOT:
                service = world.services[pod.service]
                message = f"{service.name} {pod.version} started, listening on :{service.port}"
                key = noise.key(world.seed, "start", pod.name, round(began))
                logger, node = service.name.replace("-", "_"), world.nodes[pod.node].name
                trace = f"{noise.key(key, 1):016x}{noise.key(key, 2):016x}"
                found.append(Line(began, service, pod, node, "info", logger, message, trace, number=f"{key:016x}"))
    return found
