"""Changes of Kubernetes objects.

A request is ``{"verb", "resource", "namespace", "name", "subresource", "patch", "body"}``, as `opslib.sources.kubernetes.Kubernetes.change`
takes them. A state is ``{"uid", "digest"}``: the digest leaves out what changes by itself (status,
managed fields, the resource version, the taints that controllers set).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from opslib.actions.systems import ABSENT, CREATED, Preview
from opslib.errors import Conflict, Forbidden, InputError, NotFound
from opslib.findings import command
from opslib.messages import Message, _, one_line
from opslib.sources.fitting import PlacedPod, Room, selects
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.objects import Node, PersistentVolume, Pod
from opslib.sources.quantities import text_of_bytes, value_of
from opslib.sources.redaction import redact

Object = dict[str, Any]

TAKEN: Object = {"taken": True}
"""The state of a request for a deletion that is gone like what it took away."""

_ATTEMPTS = 5
_SAMPLE = 100  # so many objects of a resource are compared in full
_BY_ITSELF = ("managedFields", "resourceVersion", "generation", "selfLink", "creationTimestamp", "uid", "ownerReferences")
_NOTED = ("deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration")  # controllers and kubectl write them


class KubernetesSystem:
    """One cluster, changed through its API. See `opslib.actions.systems.System`."""

    name = "kubernetes"

    def __init__(self, cluster: Kubernetes) -> None:
        self.cluster = cluster

    def target(self) -> str:
        """The UID of the kube-system namespace."""
        return self.cluster.cluster_uid()

    def observe(self, request: dict[str, Any]) -> dict[str, Any]:
        """See `System.observe`."""
        try:
            return state_of(self.cluster.whole(request["resource"], request["name"], request.get("namespace", "")))
        except NotFound:
            target = request.get("takes_away")
            return ABSENT if target is None or self.observe(target) != ABSENT else TAKEN

    def preview(self, request: dict[str, Any]) -> Preview:
        """The server's own dry run."""
        before: Object | None = None
        if request["verb"] != "create" or request.get("subresource"):
            before = self.cluster.whole(request["resource"], request["name"], request.get("namespace", ""))
        after = self._change(request, request.get("body"), dry_run=True)
        if before is None:
            return Preview(CREATED, difference(None, after))
        if request["verb"] == "delete" or request.get("subresource") == "eviction":
            return Preview({"gone": before["metadata"]["uid"]}, difference(before, None))
        if request.get("subresource") == "scale":
            after = {**before, "spec": {**before["spec"], "replicas": after["spec"].get("replicas", 0)}}
        return Preview(state_of(after), difference(before, after))

    def reached(self, request: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> bool:
        """See `System.reached`."""
        if "gone" in after:
            return bool(now.get("uid") != after["gone"] or now.get("deleting"))
        if after == CREATED:
            return now != ABSENT and "deleting" not in now  # TAKEN, too: it was there, and has done its work
        return now == after

    def send(self, request: dict[str, Any], before: dict[str, Any]) -> None:
        """Send it for the version of the object that is like `before`; somebody else's change in between is a conflict, not lost."""
        for attempt in range(_ATTEMPTS):
            try:
                self._change(request, self._bound(request, before), dry_run=False)
            except Conflict:
                # a status that was written in between is no drift: see whether the object is still the same, and try again
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return

    def _bound(self, request: dict[str, Any], before: dict[str, Any]) -> Object | None:
        """The body, bound to the version of the object that was looked at just now."""
        body: Object = json.loads(json.dumps(request.get("body") or {}))
        if request["verb"] == "create" and not request.get("subresource"):
            return body
        try:
            now = self.cluster.whole(request["resource"], request["name"], request.get("namespace", ""))
        except NotFound:
            now = {}
        if not now or state_of(now) != before:
            raise _drifted(request)
        metadata = now["metadata"]
        if request["verb"] == "delete":
            return {"apiVersion": "v1", "kind": "DeleteOptions", **body, "preconditions": {"uid": metadata["uid"]}}
        if request.get("subresource") == "eviction":
            return {**body, "deleteOptions": {**body.get("deleteOptions", {}), "preconditions": {"uid": metadata["uid"]}}}
        bound = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        return {**body, "metadata": {**body.get("metadata", {}), **bound}}

    def _change(self, request: dict[str, Any], body: Object | None, *, dry_run: bool) -> Object:
        return self.cluster.change(
            request["verb"],
            request["resource"],
            request["name"],
            request.get("namespace", ""),
            body,
            subresource=request.get("subresource", ""),
            patch=request.get("patch", "strategic-merge-patch"),
            dry_run=dry_run,
        )

    # --- conditions ---

    def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        """``{"rolled_out": R, "replicas", "calm_seconds"}``: R's pods, or so many of them, are all of its newest revision and available,
        and none of their containers has ended in so many seconds before;
        ``{"gone": R, "uid"}``: that object is gone, and will not be where the request ``"refused": R`` for its deletion has errors;
        ``{"empty": node, "pods", "selector"}``: none of those pods (UIDs) is on the node any more, and will not be where others that a
        drain takes away have come to it; ``{"field": R, "path", "wanted", "never"}``: the value
        at the path (names) is one of those wanted, and will not be where it is one of those that are never left, or where R is gone
        (but with ``"or_gone": true``);
        ``{"alike": [namespace, namespace], "resources", "sample"}``: the second namespace has as many objects of each resource as the
        first, and those of the sample (by resource the field that is compared) are the same;
        ``{"grown": R, "bytes"}``: the claim R has a volume of that size, whose file system has grown too.

        R is ``{"resource", "namespace", "name"}``.
        """
        if "gone" in question:
            return self._gone(question)
        if "empty" in question:
            return self._empty(question["empty"], set(question["pods"]), question.get("selector", ""))
        if "field" in question:
            return self._field(question)
        if "alike" in question:
            return self._alike(question["alike"], question["resources"], question.get("sample", {}))
        if "grown" in question:
            return self._grown(question["grown"], question["bytes"])
        return self._rolled_out(question["rolled_out"], question["replicas"], question["calm_seconds"])

    def _field(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        where = question["field"]
        try:
            found = self.cluster.whole(where["resource"], where["name"], where.get("namespace", ""))
        except NotFound:
            return (True if question.get("or_gone") else None), _("it is gone")
        value = _at(found, question["path"])
        why = _("{field} is {value}", field=".".join(question["path"]), value="-" if value is None else str(value))
        if total := _at(found, ["status", "progress", "totalItems"]):
            progress = found["status"]["progress"]
            done = progress.get("itemsBackedUp") or progress.get("itemsRestored") or 0
            why = _("{state}, {done} of {total} objects", state=why, done=done, total=total)
        return (True if value in question["wanted"] else None if value in question["never"] else False), why

    def _alike(self, namespaces: list[str], resources: list[str], sample: dict[str, list[str]]) -> tuple[bool | None, Message]:
        counts = {name: [len(self.cluster.metadata_list(name, one)) for one in namespaces] for name in resources}
        differing = [f"{name}: {one} / {other}" for name, (one, other) in counts.items() if one != other]
        if differing:
            return False, _("objects differ in number: {differing}", differing=differing)
        for resource, path in sample.items():
            one, other = (
                {each["metadata"]["name"]: _at(each, path) for each in self.cluster.whole_list(resource, name)} for name in namespaces
            )
            differing += [f"{resource} {name}" for name in sorted(one)[:_SAMPLE] if name not in other or one[name] != other[name]]
        return not differing, _("objects differ in content: {differing}", differing=differing[:10])

    def _grown(self, where: dict[str, str], wanted: float) -> tuple[bool | None, Message]:
        found = self.cluster.whole(where["resource"], where["name"], where["namespace"])
        status = found.get("status", {})
        given = value_of(status.get("capacity", {}).get("storage")) or 0.0
        conditions = {one["type"]: one.get("message", "") for one in status.get("conditions") or [] if one.get("status") == "True"}
        state = str((status.get("allocatedResourceStatuses") or {}).get("storage", ""))
        values = {"given": text_of_bytes(given), "state": state or "-"}
        if state.endswith("Infeasible"):
            return None, _("it has {given}, and the storage driver says that it cannot have more ({state})", **values)
        if "FileSystemResizePending" in conditions:
            return False, _("the disk has grown; the kubelet grows its file system when a running pod has it mounted")
        failed = next((conditions[name] for name in ("ControllerResizeError", "NodeResizeError") if name in conditions), "")
        if failed:
            return False, _("it has {given}; the storage driver failed, and tries again: {why}", given=values["given"], why=failed)
        return given >= wanted, _("it has {given} ({state})", **values)

    def _gone(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        where = question["gone"]
        try:
            now = self.cluster.metadata(where["resource"], where["name"], where.get("namespace", ""))
        except NotFound:
            return True, _("it is gone")
        if "refused" in question and (errors := self._errors(question["refused"])):
            return None, _("it is still there: {errors}", errors=[one_line(one, 300) for one in errors])
        return now.metadata.uid != question["uid"], _("it is still there")

    def _errors(self, where: dict[str, str]) -> list[Any]:
        try:
            status = self.cluster.whole(where["resource"], where["name"], where.get("namespace", "")).get("status") or {}
        except NotFound:
            return []
        return list(status.get("errors") or [])

    def _empty(self, node: str, planned: set[str], selector: str) -> tuple[bool | None, Message]:
        from opslib.actions.nodes import is_left

        here = self.cluster.whole_list("pods", labels=selector, fields=f"spec.nodeName={node}")
        leaving = [pod for pod in here if pod["metadata"]["uid"] in planned]
        if leaving:
            return False, _("still there: {names}", names=_names(leaving))
        come = [pod for pod in here if "deletionTimestamp" not in pod["metadata"] and not is_left(pod)]
        if come:
            return None, _("pods have come to it since the plan was made: {names}", names=_names(come))
        return True, _("nothing is left")

    def _rolled_out(self, where: dict[str, str], replicas: int | None, calm_seconds: float) -> tuple[bool, Message]:
        found = self.cluster.whole(where["resource"], where["name"], where.get("namespace", ""))
        spec, status = found["spec"], found.get("status", {})
        if status.get("observedGeneration", 0) < found["metadata"].get("generation", 0):
            return False, _("its controller has not seen the change yet")
        if found["kind"] == "DaemonSet":
            wanted = status.get("desiredNumberScheduled", 0)
            updated, available = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
            extra = 0
        else:
            wanted = spec.get("replicas", 1)
            updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
            extra = status.get("replicas", 0) - updated
        if replicas is not None:  # an autoscaler may want more of them meanwhile
            wanted = min(wanted, replicas)
        numbers = {"updated": updated, "available": available, "wanted": wanted}
        done = updated >= wanted and available >= wanted and extra <= 0
        if done and calm_seconds and (ended := self._ended(found, calm_seconds)) is not None:
            return False, ended
        return done, _("{updated} of {wanted} pods are updated, {available} are available", **numbers)

    def _ended(self, workload: Object, seconds: float) -> Message | None:
        """A container of a workload's pods that has ended lately: one that is started again at once is hardly ever seen unavailable."""
        namespace, selector = workload["metadata"]["namespace"], workload["spec"]["selector"]
        labels = ",".join(f"{name}={value}" for name, value in sorted((selector.get("matchLabels") or {}).items()))
        for pod in self.cluster.list(Pod, "pods", namespace, labels=labels):
            if pod.metadata.deletion_timestamp is not None or not selects(selector, pod.metadata.labels):
                continue
            for one in (*pod.status.init_container_statuses, *pod.status.container_statuses):
                last, now = one.last_state.terminated, datetime.now(UTC) + self.cluster.ahead
                if last is None or last.finished_at is None or (now - last.finished_at).total_seconds() > seconds:
                    continue
                return _(
                    "{container} of {pod} ended and was started again: {reason}, exit code {code}",
                    container=one.name, pod=pod.metadata.name, reason=last.reason or "-", code=last.exit_code,
                )  # fmt: skip
        return None


def _names(pods: Sequence[Object]) -> list[str]:
    return [f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods[:10]]


def _at(obj: Object, path: Sequence[str]) -> Any:
    value: Any = obj
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def absent(what: str, resource: str, namespace: str) -> InputError:
    """That an object of a plan is not there, and the command that lists those that are."""
    return InputError(
        _("There is no {what} in {namespace}", what=one_line(what), namespace=one_line(namespace)),
        _("Those that are there"),
        command("kubectl", "get", resource, "-n", namespace),
    )


def controller_of(obj: Object) -> Object | None:
    """The owner reference of who makes an object again when it is gone; None where nobody does."""
    return next((one for one in obj["metadata"].get("ownerReferences", []) if one.get("controller")), None)


def services_of(cluster: Kubernetes, pods: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """The Services, as namespace/name, that lead to pods with such labels; `pods` has the labels of each by namespace."""
    return sorted(
        f"{namespace}/{service['metadata']['name']}"
        for namespace, labels in pods.items()
        for service in cluster.whole_list("services", namespace)
        if (selector := service["spec"].get("selector")) and any(selector.items() <= each.items() for each in labels)
    )


def room_of(cluster: Kubernetes, *, without: Iterable[str] = ()) -> tuple[Room, list[Message]]:
    """The nodes with what runs on them, as if some pods (UIDs) were gone; and what of it could not be looked at."""
    gone, unseen = set(without), []
    pods = cluster.list(PlacedPod, "pods", fields="status.phase!=Succeeded,status.phase!=Failed")
    volumes: list[PersistentVolume] = []
    try:
        volumes = cluster.list(PersistentVolume, "persistentvolumes")
    except Forbidden as error:
        unseen.append(_("Which zones volumes are in could not be looked at: {reason}", reason=error.what))
    return Room(cluster.list(Node, "nodes"), (pod for pod in pods if pod.metadata.uid not in gone), volumes), unseen


def state_of(obj: Object) -> dict[str, Any]:
    """An object's state: its uid, and a digest of what does not change by itself; of one that is being deleted, that it is."""
    if "deletionTimestamp" in obj["metadata"]:
        return {"uid": obj["metadata"]["uid"], "deleting": True}
    # the items of a list do not say their kind, an object by itself does
    kept = {name: value for name, value in essence(obj).items() if name not in ("apiVersion", "kind")}
    content = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return {"uid": obj["metadata"].get("uid", ""), "digest": hashlib.sha256(content.encode()).hexdigest()}


def essence(obj: Object) -> Object:
    """An object without what changes by itself."""
    metadata = {name: value for name, value in obj.get("metadata", {}).items() if name not in _BY_ITSELF}
    notes = {name: value for name, value in metadata.pop("annotations", {}).items() if name not in _NOTED}
    if notes:
        metadata["annotations"] = notes
    shown = {**{name: value for name, value in obj.items() if name not in ("status", "metadata")}, "metadata": metadata}
    taints = shown["spec"].get("taints") if shown.get("kind") == "Node" else None
    if taints:
        kept = [one for one in taints if not one["key"].startswith("node.kubernetes.io/")]
        shown["spec"] = {**{name: value for name, value in shown["spec"].items() if name != "taints"}, **({"taints": kept} if kept else {})}
    return shown


def difference(before: Object | None, after: Object | None) -> str:
    """What changes, as a unified diff of YAML, without secrets: of a Secret it shows which keys change. Empty where nothing does."""
    one, other = (essence(obj) if obj is not None else {} for obj in (before, after))
    if "Secret" in (one.get("kind"), other.get("kind")):
        _hide(one, other)
    lines = difflib.unified_diff(_lines(one), _lines(other), "now", "then", n=3)
    return redact("".join(lines))


def _hide(one: Object, other: Object) -> None:
    """Put words in the place of a Secret's values: the same words where they stay the same."""
    for field in ("data", "stringData"):
        before, after = one.get(field) or {}, other.get(field) or {}
        one[field] = dict.fromkeys(before, "(hidden)")
        other[field] = {name: "(hidden)" if before.get(name) == value else "(hidden, another one)" for name, value in after.items()}


def _lines(obj: Object) -> list[str]:
    return yaml.safe_dump(obj, sort_keys=True, allow_unicode=True).splitlines(keepends=True) if obj else []


def _drifted(request: dict[str, Any]) -> Conflict:
    return Conflict(
        "kubernetes",
        _(
            "{resource} {name} is not as it was when the plan was made",
            resource=request["resource"],
            name="/".join(part for part in (request.get("namespace"), request["name"]) if part),
        ),
        _("Look at what changed, and make the plan again"),
    )
