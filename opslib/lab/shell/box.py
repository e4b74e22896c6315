"""A container as those see it who are inside."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.kube import quantities

if TYPE_CHECKING:
    from opslib.lab.world import World
    from opslib.lab.world.platform import Service

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a container."""

    pid: int
    command: str
    share: float = 1.0  # of the container's CPU and memory


@dataclass(slots=True, kw_only=True)
class Box:
    """A container that runs.

    Parameters
    ----------
    started, now
        Unix seconds.
    service
        The world's service whose container it is; None where it is another one's.
    files
        Texts by path; what commands write is put in.
    cores, memory_bytes
        What it uses now.
    node_cores, node_memory_bytes
        What its node has.
    """

    api: Api
    pod: Object
    container: Object
    started: float
    now: float
    world: World | None
    service: Service | None
    environment: dict[str, str]
    files: MutableMapping[str, str]
    cores: float = 0.01
    memory_bytes: float = 24 * 2.0**20
    node_cores: int = 8
    node_memory_bytes: float = 32 * 2.0**30
    mounts: dict[str, str] = field(default_factory=dict)  # the volume by the path
    killed: int = 0  # the exit status of its first process, once a command has ended that

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.pod["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return str(self.pod["metadata"]["namespace"])

    @property
    def address(self) -> str:
        """The pod's address."""
        return str(self.pod.get("status", {}).get("podIP", "127.0.0.1"))

    @property
    def memory_limit(self) -> float:
        """Memory limit in bytes; infinite where there is none."""
        text = self.container.get("resources", {}).get("limits", {}).get("memory", "")
        return quantity(text) if text else math.inf

    @property
    def cores_limit(self) -> float:
        """CPU limit in cores; infinite where there is none."""
        text = self.container.get("resources", {}).get("limits", {}).get("cpu", "")
        return quantity(text) if text else math.inf

    @property
    def user(self) -> tuple[int, str]:
        """Number and name of the user whose the processes are."""
        for context in (self.container.get("securityContext") or {}, self.pod["spec"].get("securityContext") or {}):
            if "runAsUser" in context:
                number = int(context["runAsUser"])
                return number, "root" if number == 0 else "app"
        language = self.service.language if self.service is not None else ""
        names = {"": (0, "root"), "nginx": (0, "root"), "postgres": (999, "postgres"), "redis": (999, "redis")}
        return names.get(language, (1000, "app"))

    @property
    def is_bare(self) -> bool:
        """Whether its image has nothing but the program: no shell, no tools."""
        return self.service is not None and self.service.language == "go" and self.service.namespace not in ("shop", "payments")

    @property
    def processes(self) -> list[Process]:
        """What runs in it."""
        words = [*(self.container.get("command") or ()), *(self.container.get("args") or ())]
        if words:
            return [Process(1, " ".join(words))]
        if self.service is None:
            return [Process(1, f"/{self.container['name']}")]
        name, port = self.service.name, self.service.port
        found = {
            "jvm": [f"java -XX:MaxRAMPercentage=75.0 -jar /app/{name}.jar"],
            "go": [f"/app/{name}" if self.service.namespace in ("shop", "payments") else f"/{name}"],
            "node": ["node /app/src/server.js"],
            "python": [f"gunicorn: master [{name}.api:app]", *["gunicorn: worker [" + name + ".api:app]"] * 2],
            "nginx": ["nginx: master process nginx -g daemon off;", *["nginx: worker process"] * 2],
            "postgres": ["postgres", *(f"postgres: {name}" for name in ("checkpointer", "background writer", "walwriter"))],
            "redis": [f"redis-server *:{port}"],
            "kafka": ["java -Xmx1G -XX:+UseG1GC kafka.Kafka /etc/kafka/server.properties"],
            "opensearch": ["java -Xms1g -Xmx1g -XX:+UseG1GC org.opensearch.bootstrap.OpenSearch"],
        }[self.service.language]  # fmt: skip
        rest = 0.9 / max(1, len(found) - 1)
        return [
            Process(1 if not place else 6 + place, text, 1.0 if len(found) == 1 else 0.1 if not place else rest)
            for place, text in enumerate(found)
        ]

    @property
    def container_id(self) -> str:
        """Its identity in the runtime."""
        for kind in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
            for one in self.pod.get("status", {}).get(kind) or []:
                if one["name"] == self.container["name"]:
                    return str(one.get("containerID", "")).rpartition("/")[2]
        return hashlib.sha256(self.name.encode()).hexdigest()


def spec_of(pod: Object, container: str) -> Object | None:
    """The spec of a container of a pod, of whatever kind."""
    kinds = ("containers", "initContainers", "ephemeralContainers")
    return next((one for kind in kinds for one in pod["spec"].get(kind) or [] if one["name"] == container), None)


def quantity(text: str) -> float:
    """The number of a Kubernetes quantity."""
    return float(quantities.parse(text))


def make(
    api: Api,
    pod: Object,
    container: Object,
    world: World | None,
    written: dict[str, str],
    *,
    started: float,
    now: float,
    used: tuple[float, float] | None,
) -> Box:
    """A container of the cluster as a box; asks the API for what it is configured by.

    Parameters
    ----------
    written
        What commands have written in it so far.
    used
        Cores and bytes; None: little.
    """
    from opslib.lab.container_logs import pod_of

    known = pod_of(world, pod) if world is not None else None
    service = world.services[known.service] if world is not None and known is not None else None
    if service is not None and service.name != container["name"]:
        service = None
    box = Box(api=api, pod=pod, container=container, started=started, now=now, world=world, service=service, environment={}, files={})
    if used is not None:
        box.cores, box.memory_bytes = used
    node = _get(api, f"/api/v1/nodes/{pod['spec'].get('nodeName', '')}") or {}
    capacity = node.get("status", {}).get("capacity", {})
    if capacity:
        box.node_cores, box.node_memory_bytes = int(quantity(capacity["cpu"])), quantity(capacity["memory"])
    box.environment = _environment(box)
    box.files = ChainMap(written, _files(box))
    return box


def _environment(box: Box) -> dict[str, str]:
    found = {"PATH": _PATH, "HOSTNAME": box.name, "HOME": "/root" if box.user[0] == 0 else "/home/app"}
    if box.pod["spec"].get("enableServiceLinks", True):
        found |= _links(box)
    for source in box.container.get("envFrom") or []:
        kind = "configmaps" if "configMapRef" in source else "secrets"
        reference = source.get("configMapRef") or source.get("secretRef") or {}
        for key, value in _data(box, kind, reference.get("name", "")).items():
            found[source.get("prefix", "") + key] = value
    for one in box.container.get("env") or []:
        found[one["name"]] = one.get("value", "") if "valueFrom" not in one else _from(box, one["valueFrom"])
    return found


def _links(box: Box) -> dict[str, str]:
    """What the kubelet says of the services of the namespace, and of the API server's."""
    found: dict[str, str] = {}
    for one in [
        _get(box.api, "/api/v1/namespaces/default/services/kubernetes"),
        *_list(box.api, f"/api/v1/namespaces/{box.namespace}/services"),
    ]:
        address = (one or {}).get("spec", {}).get("clusterIP")
        if one is None or address in (None, "", "None"):
            continue
        prefix = one["metadata"]["name"].upper().replace("-", "_")
        port = one["spec"]["ports"][0]["port"]
        found |= {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(port), f"{prefix}_PORT": f"tcp://{address}:{port}"}
    return found


def _from(box: Box, source: dict[str, Any]) -> str:
    if "configMapKeyRef" in source:
        return _data(box, "configmaps", source["configMapKeyRef"]["name"]).get(source["configMapKeyRef"]["key"], "")
    if "secretKeyRef" in source:
        return _data(box, "secrets", source["secretKeyRef"]["name"]).get(source["secretKeyRef"]["key"], "")
    if "resourceFieldRef" in source:
        field_ = source["resourceFieldRef"]["resource"].split(".")
        value: Any = box.container.get("resources", {})
        for part in field_:
            value = value.get(part, {}) if isinstance(value, dict) else {}
        number = quantity(value) if isinstance(value, str) else box.node_memory_bytes if field_[-1] == "memory" else box.node_cores
        return f"{math.ceil(number)}"
    path = source.get("fieldRef", {}).get("fieldPath", "")
    if path.startswith("metadata.labels['") or path.startswith("metadata.annotations['"):
        return str((box.pod["metadata"].get(path.split(".")[1].partition("[")[0]) or {}).get(path.partition("'")[2].rstrip("']"), ""))
    here: Any = box.pod
    for part in path.split("."):
        here = here.get(part, "") if isinstance(here, dict) else ""
    return str(here)


def _data(box: Box, kind: str, name: str) -> dict[str, str]:
    found = _get(box.api, f"/api/v1/namespaces/{box.namespace}/{kind}/{name}") or {}
    data = found.get("data") or {}
    return {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in data.items()} if kind == "secrets" else data


def _files(box: Box) -> dict[str, str]:
    """The files that Kubernetes, the image and the kernel put there."""
    limit, cores, (number, user) = box.memory_limit, box.cores_limit, box.user
    memory, uptime = box.node_memory_bytes / 1024, box.now - box.started
    first = box.processes[0].command
    program = first.split()[0].rpartition("/")[2]
    loads = " ".join(f"{box.node_cores * part:.2f}" for part in (0.28, 0.26, 0.25))
    domains = f"{box.namespace}.svc.cluster.local svc.cluster.local cluster.local"
    found = {
        "/etc/hostname": f"{box.name}\n",
        "/etc/hosts": f"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{box.address}\t{box.name}\n",
        "/etc/resolv.conf": f"search {domains}\nnameserver 10.96.0.10\noptions ndots:5\n",
        "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n',
        "/etc/passwd": f"root:x:0:0:root:/root:/bin/sh\n{user}:x:{number}:{number}::/home/{user}:/bin/sh\n",
        "/proc/1/cmdline": first.replace(" ", "\0"),
        "/proc/1/status": f"Name:\t{program}\nState:\tS (sleeping)\nPid:\t1\nUid:\t{number}\nVmRSS:\t{box.memory_bytes / 1024:.0f} kB\n",
        "/proc/1/environ": "\0".join(f"{key}={value}" for key, value in box.environment.items()) + "\0",
        "/proc/uptime": f"{uptime:.2f} {uptime * box.node_cores * 0.8:.2f}\n",
        "/proc/loadavg": f"{loads} 2/812 {int(uptime) % 30000 + 40}\n",
        "/proc/meminfo": f"MemTotal: {memory:.0f} kB\nMemFree: {memory * 0.31:.0f} kB\nMemAvailable: {memory * 0.52:.0f} kB\n",
        "/sys/fs/cgroup/memory.max": "max\n" if math.isinf(limit) else f"{limit:.0f}\n",
        "/sys/fs/cgroup/memory.current": f"{box.memory_bytes:.0f}\n",
        "/sys/fs/cgroup/cpu.max": "max 100000\n" if math.isinf(cores) else f"{cores * 100000:.0f} 100000\n",
    }
    for one in box.container.get("volumeMounts") or []:
        volume: Object = next((each for each in box.pod["spec"].get("volumes") or [] if each["name"] == one["name"]), {})
        path = one["mountPath"].rstrip("/")
        box.mounts[path] = one["name"]
        sources = [volume, *volume.get("projected", {}).get("sources", [])]
        for source in sources:
            found |= {f"{path}/{key}": text for key, text in _projected(box, source, one.get("subPath", "")).items()}
    program = box.processes[0].command.split()[-1 if box.service is not None and box.service.language in ("jvm", "node") else 0]
    if program.startswith("/"):
        found[program] = "\x7fELF\n"
    return found


def _projected(box: Box, source: dict[str, Any], only: str) -> dict[str, str]:
    if "configMap" in source:
        data = _data(box, "configmaps", source["configMap"].get("name", ""))
    elif "secret" in source:
        data = _data(box, "secrets", source["secret"].get("secretName") or source["secret"].get("name", ""))
    elif "serviceAccountToken" in source:
        data = {"token": "eyJhbGciOiJSUzI1NiJ9." + base64.urlsafe_b64encode(box.pod["metadata"]["uid"].encode()).decode() + ".lab"}
    elif "downwardAPI" in source:
        fields = source["downwardAPI"].get("items") or []
        data = {one["path"]: _from(box, {"fieldRef": one.get("fieldRef", {})}) for one in fields}
    else:
        return {}
    paths = {one["key"]: one["path"] for kind in ("configMap", "secret") for one in (source.get(kind) or {}).get("items") or []}
    chosen = {paths.get(key, key): text for key, text in data.items() if not paths or key in paths}
    return {"": chosen[only]} if only in chosen else chosen


def _get(api: Api, path: str) -> Object | None:
    try:
        return api.get(path)
    except ApiError:
        return None  # not there, or the server is away: the container does without


def _list(api: Api, path: str) -> list[Object]:
    try:
        return api.list(path)
    except ApiError:
        return []
