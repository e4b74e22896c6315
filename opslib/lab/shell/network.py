"""Commands over the network of the cluster: names by its Services, answers by the world."""

from __future__ import annotations

import ipaddress
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from opslib.lab.api import ApiError, Object
from opslib.lab.shell.answer import Answer, Command, failed, options, said
from opslib.lab.shell.box import Box

_DOMAIN = "cluster.local"
_SERVER = "10.96.0.10"


@dataclass(frozen=True, slots=True)
class Found:
    """What a name leads to: its full name and addresses; why it leads nowhere ("" where it does)."""

    name: str = ""
    addresses: tuple[str, ...] = ()
    why: str = ""
    service: Object | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request ends in: a status and a body, or why there is none."""

    status: int = 0
    body: str = ""
    why: str = ""  # "refused", "timeout", "empty", "certificate", or why the name was not found
    seconds: float = 0.0


def look_up(box: Box, name: str) -> Found:
    """The addresses of a name, as the pod's resolver finds them."""
    import numpy as np

    from opslib.lab.world.faults import Dns

    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        return Found(name, (name,))
    if name in ("localhost", box.name):
        return Found(name, ("127.0.0.1" if name == "localhost" else box.address,))
    for timed in box.world.faults if box.world is not None else ():
        if isinstance(timed.fault, Dns) and random.random() < timed.fault.error_ratio * timed.size(np.array([box.now]))[0]:  # noqa: S311 - a cluster's bad luck
            return Found(why="timeout")
    parts = name.rstrip(".").removesuffix(f".{_DOMAIN}").split(".")
    if len(parts) == 1:
        parts.append(box.namespace)
    if len(parts) > 2 and parts[2] != "svc":
        return Found(why="not found")
    if len(parts) > 3:
        return Found(why="not found")
    service = _get(box, f"/api/v1/namespaces/{parts[1]}/services/{parts[0]}")
    if service is None:
        return Found(why="not found")
    whole = f"{parts[0]}.{parts[1]}.svc.{_DOMAIN}"
    address = service["spec"].get("clusterIP")
    if service["spec"].get("type") == "ExternalName":
        return Found(service["spec"]["externalName"], (), "not found")
    if address and address != "None":
        return Found(whole, (address,), service=service)
    ready = tuple(_ready(box, service))
    return Found(whole, ready, "" if ready else "not found", service)


def _get(box: Box, path: str) -> Object | None:
    try:
        return box.api.get(path)
    except ApiError:
        return None


def _ready(box: Box, service: Object) -> list[str]:
    """Addresses of the ready endpoints of a Service."""
    metadata = service["metadata"]
    path = f"/apis/discovery.k8s.io/v1/namespaces/{metadata['namespace']}/endpointslices"
    try:
        slices = box.api.list(path, labels=f"kubernetes.io/service-name={metadata['name']}")
    except ApiError:
        return []
    ends = [one for each in slices for one in each.get("endpoints") or []]
    return [address for one in ends if (one.get("conditions") or {}).get("ready", True) for address in one["addresses"]]


def ask(box: Box, address: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, timeout: float = 30.0) -> Reply:
    """What a request to an address ends in."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return Reply(why="not found")
    found = look_up(box, parts.hostname or "")
    if not found.addresses:
        return Reply(why=found.why or "not found")
    service = found.service if found.service is not None else _service_at(box, found.addresses[0])
    if service is None:
        labels = _labels_at(box, found.addresses[0])
        if labels is None:
            return Reply(why="timeout", seconds=timeout)
        return _of_world(box, labels, port, parts.path, secure=parts.scheme == "https", timeout=timeout)
    if service["metadata"]["name"] == "kubernetes" and service["metadata"]["namespace"] == "default":
        return _of_api(parts.path, headers or {})
    wanted = next((one for one in service["spec"].get("ports") or [] if one["port"] == port), None)
    if wanted is None:
        return Reply(why="timeout", seconds=timeout)  # nothing listens at that port of a cluster address
    if not _ready(box, service):
        return Reply(why="refused")
    return _of_world(box, service["spec"].get("selector") or {}, port, parts.path, secure=parts.scheme == "https", timeout=timeout)


def _service_at(box: Box, address: str) -> Object | None:
    try:
        services = box.api.list("/api/v1/services")
    except ApiError:
        return None
    return next((one for one in services if one["spec"].get("clusterIP") == address), None)


def _labels_at(box: Box, address: str) -> Mapping[str, str] | None:
    if address in ("127.0.0.1", box.address):
        return box.pod["metadata"].get("labels") or {}
    try:
        pods = box.api.list("/api/v1/pods", fields=f"status.podIP={address}")
    except ApiError:
        return None
    return next((one["metadata"].get("labels") or {} for one in pods if one.get("status", {}).get("phase") == "Running"), None)


def _of_world(box: Box, labels: Mapping[str, str], port: int, path: str, *, secure: bool, timeout: float) -> Reply:
    """As the world has it: errors and time as often and as long as the service's requests of now."""
    import numpy as np

    from opslib.lab.world.changes import version_at
    from opslib.lab.world.faults import CertificateExpiry, DependencyDown

    world = box.world
    place = world.places.get(labels.get("app", "")) if world is not None else None
    if world is None or place is None:
        return Reply(200, "ok\n", seconds=0.002)
    service = world.services[place]
    if port != service.port:
        return Reply(why="refused")
    for timed in world.faults:
        if timed.service == service.name and timed.start <= box.now < timed.end:
            if isinstance(timed.fault, CertificateExpiry) and secure:
                return Reply(why="certificate")
            if isinstance(timed.fault, DependencyDown) and timed.fault.error_ratio >= 1:
                return Reply(why="refused")
    if not service.serves_http:
        return Reply(why="empty") if service.namespace == "data" and service.language != "opensearch" else Reply(200, "ok\n", seconds=0.002)
    row, at = np.array([place]), np.array([box.now])
    errors, latency = (float(world.history.rate(name, row, at)[0, 0]) for name in ("errors", "latency"))
    drawn = random.random()  # noqa: S311 - a cluster's bad luck
    seconds = latency * (drawn / max(1e-3, 1 - drawn)) ** (1 / 3)
    if seconds > timeout:
        return Reply(why="timeout", seconds=timeout)
    if path.rstrip("/") in ("/live", "/healthz", "/health") or random.random() >= errors:  # noqa: S311
        body = {"service": service.name, "version": version_at(world, service, box.now), "status": "ok"}
        return Reply(200, json.dumps(body) + "\n", seconds=seconds)
    return Reply(
        503 if path.rstrip("/") == "/ready" else 500, json.dumps({"service": service.name, "status": "error"}) + "\n", seconds=seconds
    )


def _of_api(path: str, headers: Mapping[str, str]) -> Reply:
    if path in ("/healthz", "/livez", "/readyz"):
        return Reply(200, "ok")
    known = any(key.lower() == "authorization" for key in headers)
    code, reason = (403, "Forbidden") if known else (401, "Unauthorized")
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason, "code": code}
    return Reply(code, json.dumps(body, indent=2) + "\n")


def _wait(reply: Reply) -> None:
    time.sleep(min(reply.seconds, 10.0))  # a slow service is felt as such


def nslookup(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The addresses of a name."""
    _options, names = options(words)
    if not names:
        return failed("Usage: nslookup HOST", 1)
    found = look_up(box, names[0])
    if found.why == "timeout":
        return Answer(b";; connection timed out; no servers could be reached\n", "", 1)
    top = f"Server:\t\t{_SERVER}\nAddress:\t{_SERVER}#53\n\n"
    if not found.addresses:
        return Answer(f"{top}** server can't find {names[0]}: NXDOMAIN\n".encode(), "", 1)
    return said(top + "".join(f"Name:\t{found.name}\nAddress: {address}\n" for address in found.addresses))


def getent(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The addresses of a name, or a user."""
    if len(words) < 2:
        return failed("getent: wrong number of arguments", 1)
    if words[0] == "passwd":
        rows = [row for row in box.files.get("/etc/passwd", "").splitlines() if row.split(":")[0] == words[1]]
        return said("".join(f"{row}\n" for row in rows)) if rows else Answer(status=2)
    found = look_up(box, words[1])
    return said("".join(f"{address:<15} {found.name}\n" for address in found.addresses)) if found.addresses else Answer(status=2)


def curl(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """A request."""
    headers = {}
    rest: list[str] = []
    kept = list(words)
    while kept:
        word = kept.pop(0)
        if word in ("-H", "--header") and kept:
            key, _colon, value = kept.pop(0).partition(":")
            headers[key.strip()] = value.strip()
        elif word in ("--max-time", "--connect-timeout") and kept:
            rest.append(f"-m{kept.pop(0)}")
        elif word in ("--write-out", "--output", "--request", "--cacert", "--data", "--retry", "--resolve", "--user") and kept:
            value = kept.pop(0)
            letter = {"--write-out": "w", "--output": "o", "--request": "X"}.get(word)
            rest += [f"-{letter}", value] if letter else []
        else:
            rest.append(word)
    chosen, addresses = options(rest, "owXmdEu")
    if not addresses:
        return failed("curl: (2) no URL specified", 2)
    try:
        timeout = float(chosen.get("m") or 30)
    except ValueError:
        return failed("curl: option -m: expected a proper numerical parameter", 2)
    parts = urlsplit(addresses[0] if "://" in addresses[0] else f"http://{addresses[0]}")
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    reply = ask(box, addresses[0], method=chosen.get("X", "GET"), headers=headers, timeout=timeout)
    _wait(reply)
    silent = ("s" in chosen or "silent" in chosen) and "S" not in chosen
    shown = _written_out(chosen.get("w", ""), reply)
    if reply.why:
        code, text = {
            "refused": (7, f"Failed to connect to {host} port {port} after 0 ms: Couldn't connect to server"),
            "timeout": (28, f"Connection timed out after {timeout * 1000:.0f} milliseconds"),
            "empty": (52, "Empty reply from server"),
            "certificate": (60, "SSL certificate problem: certificate has expired"),
        }.get(reply.why, (6, f"Could not resolve host: {host}"))
        return Answer(shown.encode(), "" if silent else f"curl: ({code}) {text}\n", code)
    if ("f" in chosen or "fail" in chosen) and reply.status >= 400:
        return Answer(shown.encode(), "" if silent else f"curl: (22) The requested URL returned error: {reply.status}\n", 22)
    first = f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, '')}"
    top = f"{first}\r\ncontent-type: application/json\r\ncontent-length: {len(reply.body)}\r\n\r\n"
    body = (top if "i" in chosen or "I" in chosen else "") + ("" if "I" in chosen or chosen.get("o") else reply.body)
    return said(body + shown)


_REASONS = {200: "OK", 401: "Unauthorized", 403: "Forbidden", 500: "Internal Server Error", 503: "Service Unavailable"}


def _written_out(shape: str, reply: Reply) -> str:
    text = shape.replace("\\n", "\n").replace("%{http_code}", f"{reply.status:03d}").replace("%{response_code}", f"{reply.status:03d}")
    return text.replace("%{time_total}", f"{reply.seconds:.6f}")


def wget(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """A request."""
    chosen, addresses = options([word for word in words if word not in ("--spider", "--no-check-certificate")], "OTt")
    if not addresses:
        return failed("wget: missing URL", 1)
    parts = urlsplit(addresses[0] if "://" in addresses[0] else f"http://{addresses[0]}")
    host = parts.netloc if parts.port else f"{parts.hostname}:{443 if parts.scheme == 'https' else 80}"
    headers = {"Authorization": chosen["header"]} if "uthorization" in chosen.get("header", "") else {}
    timeout = float(chosen.get("T") or chosen.get("timeout") or 30)
    reply = ask(box, addresses[0], headers=headers, timeout=timeout)
    _wait(reply)
    found = look_up(box, parts.hostname or "") if reply.why in ("refused", "") else Found()
    start = "" if "q" in chosen else f"Connecting to {host} ({found.addresses[0] if found.addresses else host}:{host.rpartition(':')[2]})\n"
    if reply.why:
        text = {
            "refused": f"wget: can't connect to remote host ({found.addresses[0] if found.addresses else host}): Connection refused",
            "timeout": "wget: download timed out",
            "empty": "wget: error getting response: Connection reset by peer",
            "certificate": "wget: certificate verify failed: certificate has expired",
        }.get(reply.why, f"wget: bad address '{host}'")
        return Answer(b"", f"{start}{text}\n", 1)
    if reply.status >= 400:
        return Answer(b"", f"{start}wget: server returned error: HTTP/1.1 {reply.status} {_REASONS.get(reply.status, '')}\n", 1)
    if "--spider" in words:
        return Answer(b"", f"{start}remote file exists\n")
    name = chosen.get("O", "index.html")
    if name == "-":
        return Answer(reply.body.encode(), start)
    if name != "/dev/null":
        box.files[f"{box.environment.get('PWD', '/').rstrip('/')}/{name}" if not name.startswith("/") else name] = reply.body
    return Answer(
        b"", f"{start}saving to '{name}'\n{name} 100% |{'*' * 32}| {len(reply.body)}  0:00:00 ETA\n'{name}' saved\n" if start else ""
    )


def nc(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Whether a port is open (``-z``)."""
    chosen, others = options(words, "w")
    if len(others) != 2 or not others[1].isdigit():
        return failed("usage: nc [-vz] [-w timeout] destination port", 1)
    reply = ask(box, f"http://{others[0]}:{others[1]}/live", timeout=float(chosen.get("w") or 10))
    shown = "v" in chosen
    if reply.why in ("", "empty", "certificate"):
        return Answer(b"", f"{others[0]} ({others[0]}:{others[1]}) open\n" if shown else "")
    if reply.why == "timeout":
        _wait(reply)
    text = {"refused": "Connection refused", "timeout": "Operation timed out"}.get(reply.why)
    return failed(f"nc: {others[0]} ({others[0]}:{others[1]}): {text}" if text else f"nc: bad address '{others[0]}'")


def redis_cli(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Questions to Redis."""
    if box.service is None or box.service.language != "redis":
        return failed("Could not connect to Redis at 127.0.0.1:6379: Connection refused")
    question = [word.lower() for word in words if not word.startswith("-")]
    if question[:1] == ["ping"]:
        return said("PONG\n")
    if question[:1] == ["info"]:
        used, limit = box.memory_bytes * 0.9, box.memory_limit
        rows: Mapping[str, Any] = {
            "redis_version": box.service.version,
            "uptime_in_seconds": int(box.now - box.started),
            "used_memory": int(used),
            "used_memory_human": f"{used / 2**20:.2f}M",
            "maxmemory": int(limit * 0.8),
            "maxmemory_policy": "noeviction",
        }
        return said("".join(f"{key}:{value}\r\n" for key, value in rows.items()))
    return failed(f"(error) ERR unknown command '{question[0] if question else ''}'")


def pg_isready(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Whether PostgreSQL answers."""
    if box.service is None or box.service.language != "postgres":
        return Answer(b"localhost:5432 - no response\n", "", 2)
    reply = ask(box, "http://127.0.0.1:5432/")
    if reply.why == "refused":
        return Answer(b"localhost:5432 - no response\n", "", 2)
    return said("/var/run/postgresql:5432 - accepting connections\n")


COMMANDS: Final[Mapping[str, Command]] = {
    "curl": curl, "dig": nslookup, "getent": getent, "host": nslookup, "nc": nc, "nslookup": nslookup, "pg_isready": pg_isready,
    "redis-cli": redis_cli, "wget": wget,
}  # fmt: skip
