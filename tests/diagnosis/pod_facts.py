"""Facts for the rules of chapter 4.1 in a few lines of YAML."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from opslib.diagnosis.pods import Facts
from opslib.diagnosis.pods.facts import Log
from opslib.findings import Finding
from opslib.sources import objects
from opslib.sources.objects import convert

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def ago(**duration: float) -> str:
    """A time before now, as Kubernetes writes it: ``ago(minutes=5)``."""
    return (NOW - timedelta(**duration)).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod(name: str = "web-1", owner: str = "ReplicaSet/web-5d9", *, status: str = "", spec: str = "", meta: str = "") -> objects.Pod:
    """A pod of namespace shop, ten minutes old, with one container "app"; `status`, `spec` and `meta` are YAML that is laid over it."""
    kind, _slash, owner_name = owner.partition("/")
    owners = [{"kind": kind, "name": owner_name, "controller": True}] if owner else []
    content: dict[str, Any] = {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "creationTimestamp": ago(minutes=10),
            "labels": {"app": "web", "pod-template-hash": "5d9"},
            "ownerReferences": owners,
            **(yaml.safe_load(meta) or {}),
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": "app", "image": "shop/web:1.2"}], **(yaml.safe_load(spec) or {})},
        "status": {"phase": "Running", "startTime": ago(minutes=10), **(yaml.safe_load(status) or {})},
    }
    return convert(content, objects.Pod)


def container(state: str, last: str = "{}", *, name: str = "app", restarts: int = 0, ready: bool = False) -> str:
    """The status of a pod with one container in `state` (YAML, in flow style)."""
    return (
        f"containerStatuses: [{{name: {name}, image: 'shop/web:1.2', ready: {str(ready).lower()}, restartCount: {restarts},"
        f" state: {state}, lastState: {last}}}]"
    )


def waiting(reason: str, message: str = "", last: str = "{}", restarts: int = 0) -> str:
    """The status of a pod whose container waits."""
    return container(f"{{waiting: {{reason: {reason}, message: {yaml_text(message)}}}}}", last, restarts=restarts)


def crashed(code: int = 1, reason: str = "Error", message: str = "") -> str:
    """The status of a pod whose container crashes in a loop."""
    times = f"startedAt: '{ago(minutes=2)}', finishedAt: '{ago(minutes=1)}'"
    ended = f"{{terminated: {{exitCode: {code}, reason: {reason}, message: {yaml_text(message)}, {times}}}}}"
    return container("{waiting: {reason: CrashLoopBackOff, message: back-off 5m0s restarting failed container}}", ended, restarts=7)


def yaml_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def event(reason: str, message: str, about: str = "Pod/web-1", **more: Any) -> objects.Event:
    """A warning about an object of namespace shop, five minutes ago."""
    kind, _slash, name = about.partition("/")
    content = {
        "metadata": {"name": f"{name}.{reason}", "namespace": "shop"},
        "involvedObject": {"kind": kind, "name": name, "namespace": "shop", "uid": f"uid-{name}"},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "firstTimestamp": ago(minutes=8),
        "lastTimestamp": ago(minutes=5),
        **more,
    }
    return convert(content, objects.Event)


def workload(kind: str, name: str, text: str = "", *, owner: str = "", created: str = "") -> objects.Workload:
    """A workload of namespace shop from YAML with spec and status; its template has the label app=web."""
    content: dict[str, Any] = {
        "kind": kind,
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "creationTimestamp": created or ago(days=3)},
        "spec": {
            "replicas": 2,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": "shop/web:1.2"}]}},
        },
    }
    for key, value in (yaml.safe_load(text) or {}).items():
        content[key] = {**content.get(key, {}), **value}
    if owner:
        above, _slash, above_name = owner.partition("/")
        content["metadata"]["ownerReferences"] = [{"kind": above, "name": above_name, "controller": True}]
    return convert(content, objects.Workload)


def facts(
    *pods: objects.Pod,
    events: tuple[objects.Event, ...] = (),
    workloads: tuple[objects.Workload, ...] = (),
    logs: dict[str, str] | None = None,
    **more: Any,
) -> Facts:
    """Facts with these pods. Without workloads there is the Deployment web with no ready pod, over the ReplicaSet web-5d9.

    `logs` holds the previous log of the container "app" by pod.
    """
    known = workloads or (workload("Deployment", "web"), workload("ReplicaSet", "web-5d9", owner="Deployment/web"))
    by_kind: dict[str, dict[tuple[str, str], objects.Workload]] = {
        kind: {} for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob")
    }
    for item in known:
        by_kind[item.kind][item.metadata.namespace, item.metadata.name] = item
    by_uid: dict[str, tuple[objects.Event, ...]] = {item.metadata.uid: () for item in pods}
    for item in events:
        by_uid[item.involved_object.uid] = (*by_uid.get(item.involved_object.uid, ()), item)
    return Facts(
        **{
            "now": NOW,
            "environment": "test",
            "pods": pods,
            "events": by_uid,
            "workloads": by_kind,
            "logs": {("shop", name, "app"): Log(current="", previous=text) for name, text in (logs or {}).items()},
            "total": len(pods),
            "by_status": {},
            **more,
        }
    )


def only(found: list[Finding]) -> Finding:
    """The one finding that there is."""
    assert len(found) == 1, [(item.check, str(item.subject), item.title.text("en")) for item in found]  # type: ignore[union-attr]
    return found[0]


def words(finding: Finding) -> str:
    """All that a finding says, in English."""
    from opslib.findings import finding_to_json

    return str(finding_to_json(finding, "en"))
