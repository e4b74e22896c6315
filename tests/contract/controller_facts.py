"""What controllers made of a cluster, without what differs from run to run: times, uids, addresses, random names, nodes."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from opslib.lab.api import Api, Object

KINDS = (
    "/api/v1/pods",
    "/api/v1/endpoints",
    "/api/v1/persistentvolumeclaims",
    "/api/v1/persistentvolumes",
    "/api/v1/resourcequotas",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/replicasets",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/controllerrevisions",
    "/apis/batch/v1/jobs",
    "/apis/batch/v1/cronjobs",
    "/apis/autoscaling/v2/horizontalpodautoscalers",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/discovery.k8s.io/v1/endpointslices",
)

_DROPPED = {
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "selfLink",
    "generation",
    "observedGeneration",
    "nodeName",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "ip",
    "addresses",
    "zone",
    "clusterIP",
    "clusterIPs",
    "containerID",
    "volumeHandle",
    "imageID",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
}
# what is told again and again, each time as it is then: what came before depends on who looked when
_LAST_COUNTS = {"FailedScheduling", "FailedGetResourceMetric", "FailedComputeMetricsReplicas"}
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ADDRESS = re.compile(r"\b10\.\d+\.\d+\.\d+\b")
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_MINUTE = re.compile(r"(?<=-)[23]\d{7}\b")  # since 1970, in the names of cron jobs' jobs
_RANDOM = "[bcdfghjklmnpqrstvwxz2456789]{5}"


def settled(content: Any, names: dict[str, str]) -> Any:
    """An object's content without what differs from run to run; `names` says what random names stand for."""
    if isinstance(content, dict):
        if content.get("type") == "Progressing" and content.get("reason") in ("NewReplicaSetCreated", "ReplicaSetUpdated"):
            return {"type": "Progressing", "status": content["status"]}  # which of the two depends on who looks first
        kept = {key: settled(one, names) for key, one in content.items() if key not in _DROPPED and not key.endswith(("Time", "Timestamp"))}
        return {key: one for key, one in kept.items() if one or key != "annotations"}
    if isinstance(content, list):
        items = [settled(one, names) for one in content]
        return sorted(items, key=lambda one: json.dumps(one, sort_keys=True)) if all(isinstance(one, dict) for one in items) else items
    if isinstance(content, str):
        return text_of(content, names)
    return content


def text_of(text: str, names: dict[str, str]) -> str:
    """A text, likewise."""
    text = _DIGEST.sub("<digest>", _ADDRESS.sub("<address>", _UID.sub("<uid>", _TIME.sub("<time>", text))))
    # pods that are gone, and those that were never made, which the server names all the same
    text = re.sub(rf'(pod: |pods ")([-a-z0-9.]+-){_RANDOM}\b', r"\1\2*", text)
    text = re.sub(rf"kube-api-access-{_RANDOM}", "kube-api-access-*", text)
    text = re.sub(r"ip-10-0-\d+-\d+\.ap-northeast-1\.compute\.internal", "<node>", text)
    text = re.sub(r"\bap-northeast-1[acd]\b", "<zone>", text)
    if names:
        text = re.sub(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", lambda match: names.get(match[0], match[0]), text)
    return _MINUTE.sub("<minute>", text)


def random_names(objects: Iterable[Object]) -> dict[str, str]:
    """The names that the server made, and what stands for them."""
    names = {}
    for obj in objects:
        prefix = obj["metadata"].get("generateName")
        if prefix and "statefulset.kubernetes.io/pod-name" not in obj["metadata"].get("labels", {}):
            names[obj["metadata"]["name"]] = f"{prefix}*"
    return names


def facts(api: Api, *, labels: str, namespace: str) -> dict[str, Any]:
    """Everything with these labels that controllers made or wrote to, and the events about it.

    Without labels it is everything of the namespace; volumes, which have none, are its own where their names or their claims say so.
    """
    objects = []
    for path in KINDS:
        collection = path.rpartition("/")
        if collection[2] != "persistentvolumes":
            path = f"{collection[0]}/namespaces/{namespace}/{collection[2]}"
        found = api.list(path, labels=labels)
        if collection[2] == "persistentvolumes" and not labels:
            found = [one for one in found if _is_of(one, namespace)]
        objects += found
    names = random_names(objects)
    seen = Counter(json.dumps(settled(obj, names), sort_keys=True) for obj in objects)
    return {"objects": seen, "events": events(api, objects, names, namespace)}


def _is_of(volume: Object, namespace: str) -> bool:
    claim = volume["spec"].get("claimRef") or {}
    return bool(volume["metadata"]["name"].startswith(f"{namespace}-") or claim.get("namespace") == namespace)


def events(api: Api, objects: list[Object], names: dict[str, str], namespace: str) -> list[tuple[str, ...]]:
    """The events about the objects, each once; of those that tell how it is now, as long as it is so, the last."""
    uids = {obj["metadata"]["uid"] for obj in objects}
    found: set[tuple[str, ...]] = set()
    last: dict[tuple[str, str], tuple[str, Object]] = {}
    for event in api.list(f"/api/v1/namespaces/{namespace}/events"):
        about = event["involvedObject"]
        if about.get("uid") not in uids:
            continue
        if event["reason"] in _LAST_COUNTS:
            moment = (event.get("series") or {}).get("lastObservedTime") or event["eventTime"] or event["lastTimestamp"]
            key = (about["uid"], event["reason"])
            if key not in last or last[key][0] < moment:
                last[key] = (moment, event)
            continue
        found.add(_event(event, names))
    found |= {_event(event, names) for _moment, event in last.values()}
    return sorted(found)


def _event(event: Object, names: dict[str, str]) -> tuple[str, ...]:
    about = event["involvedObject"]
    message = event["message"].removeprefix("(combined from similar events): ")
    source = (event.get("source") or {}).get("component", "") or event.get("reportingComponent", "")
    name = text_of(about["name"], names)
    return (event["type"], event["reason"], about["kind"], name, text_of(message, names), source, event.get("action", ""))


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """What is on one side only, short enough to read; "" where nothing is."""
    lines = []
    left, right = ours["objects"] - theirs["objects"], theirs["objects"] - ours["objects"]
    for text in list(left):
        one = json.loads(text)
        like = next((other for other in right if _same_object(one, json.loads(other))), None)
        if like is not None:
            lines += [f"{one['kind']}/{one['metadata']['name']}{line}" for line in _paths(one, json.loads(like))]
            del left[text], right[like]
    for word, rest in (("ours", left), ("theirs", right)):
        lines += [f"only {word}: {number} x {one}" for one, number in rest.items()]
    for word, has, lacks in (("ours", ours, theirs), ("theirs", theirs, ours)):
        lines += [f"only {word}: {one}" for one in has["events"] if one not in lacks["events"]]
    return "\n".join(lines)


def _same_object(one: Object, other: Object) -> bool:
    return bool(one["kind"] == other["kind"] and one["metadata"]["name"] == other["metadata"]["name"])


def _paths(ours: Any, theirs: Any, path: str = "") -> Iterable[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            if ours.get(key) != theirs.get(key):
                yield from _paths(ours.get(key), theirs.get(key), f"{path}.{key}")
    else:
        yield f"{path}: ours {json.dumps(ours)} theirs {json.dumps(theirs)}"
