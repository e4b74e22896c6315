"""Plans for workloads: restart, scale, roll back, another image; and for single pods: delete.

Each function asks the cluster, changes nothing, and returns a `Plan`.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from opslib.actions.kubernetes import KubernetesSystem, Object, absent, controller_of, room_of, services_of, state_of
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.environments import Action, Environment
from opslib.errors import Forbidden, InputError, NotFound
from opslib.findings import command
from opslib.messages import Message, _, _n, one_line
from opslib.sources.fitting import PlacedPod

RESTARTED = "kubectl.kubernetes.io/restartedAt"
"""The annotation that `kubectl rollout restart` sets, so that both look the same to who comes after."""

REVISION = "deployment.kubernetes.io/revision"

RESOURCES = {"deployment": "deployments.apps", "statefulset": "statefulsets.apps", "daemonset": "daemonsets.apps"}
"""Workloads that can be named, as ``kind/name``."""


def restart(
    system: KubernetesSystem, environment: Environment, requester: str, workload: str, namespace: str, *, steady_seconds: float = 30
) -> Plan:
    """Replace all pods of a workload, as its update strategy does it.

    Parameters
    ----------
    workload
        ``kind/name``: deployment, statefulset or daemonset.
    steady_seconds
        How long its pods must then stay available for the plan to have worked.

    Raises
    ------
    InputError
        The workload is not named so, is not there, or its strategy does not replace pods.
    """
    where, found = _workload(system, workload, namespace)
    if found["spec"].get("updateStrategy", {}).get("type") == "OnDelete":
        raise InputError(
            _("{workload} replaces pods only when they are deleted (OnDelete)", workload=workload), _("Delete its pods one by one"),
            command("opslib", "plan", "delete", "POD", "-n", namespace, "--env", environment.name),
        )  # fmt: skip
    if found["spec"].get("paused"):
        raise InputError(
            _("The rollout of {workload} is paused", workload=workload),
            _("Resume it first"),
            command("kubectl", "rollout", "resume", workload, "-n", namespace),
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    request = _patch(where, {"spec": {"template": {"metadata": {"annotations": {RESTARTED: now}}}}})
    step = _step(system, _("Restart {workload} in {namespace}", workload=workload, namespace=namespace), request, found)
    step = step.model_copy(
        update={"inverse": None, "why_no_inverse": _("pods that were replaced do not come back; the new ones are alike").text()}
    )
    return _plan(
        system, environment, requester, "restart", step, found, namespace,
        cautions=_risks(found), verify=[_rolled_out(workload, where, found["spec"].get("replicas"), steady_seconds)],
    )  # fmt: skip


def scale(
    system: KubernetesSystem, environment: Environment, requester: str, workload: str, namespace: str, replicas: int,
    *, steady_seconds: float = 30,
) -> Plan:  # fmt: skip
    """Another number of pods; of more it says where they would fit.

    Raises
    ------
    InputError
        The workload is not there, has no replicas (a DaemonSet), has that many already, or the number is below 0.
    """
    where, found = _workload(system, workload, namespace)
    if replicas < 0:
        raise InputError(_("replicas: {value} is below 0", value=replicas))
    if "replicas" not in found["spec"]:
        raise InputError(_("{workload} has a pod on each node, not a number of them", workload=workload))
    before = found["spec"]["replicas"]
    if before == replicas:
        raise InputError(_("{workload} has {count} replicas already", workload=workload, count=replicas))
    step = _step(
        system,
        _("Scale {workload} in {namespace} from {before} to {after} replicas",
          workload=workload, namespace=namespace, before=before, after=replicas),
        _patch(where, {"spec": {"replicas": replicas}}), found, inverse=_patch(where, {"spec": {"replicas": before}}),
    )  # fmt: skip
    cautions = [
        _("The autoscaler {name} sets the number itself, between {low} and {high}, and will overrule this",
          name=one["metadata"]["name"], low=one["spec"].get("minReplicas", 1), high=one["spec"]["maxReplicas"])
        for one in system.cluster.whole_list("horizontalpodautoscalers.autoscaling", namespace)
        if _is_target(one["spec"]["scaleTargetRef"], found)
    ]  # fmt: skip
    if replicas == 0:
        cautions.append(_("Nothing will answer for it any more"))
    elif replicas > before:
        cautions += _places(system, found, replicas - before)
    return _plan(
        system, environment, requester, "scale", step, found, namespace,
        pods=abs(replicas - before), cautions=cautions, verify=[_rolled_out(workload, where, replicas, steady_seconds if replicas else 0)],
    )  # fmt: skip


def rollback(
    system: KubernetesSystem,
    environment: Environment,
    requester: str,
    workload: str,
    namespace: str,
    revision: int = 0,
    *,
    steady_seconds: float = 30,
) -> Plan:
    """Back to an earlier template of a Deployment, StatefulSet or DaemonSet, as `kubectl rollout undo` does it.

    Parameters
    ----------
    revision
        Of `kubectl rollout history`; 0: the one before the newest.

    Raises
    ------
    InputError
        There is no such revision; those that are there are named.
    """
    where, found = _workload(system, workload, namespace)
    known = _revisions(system, found, namespace)
    wanted = revision or max((number for number in known if number != max(known)), default=0)
    if wanted not in known:
        raise InputError(
            _("{workload} has no revision {revision} to go back to", workload=workload, revision=revision or "-"),
            _("It has {names}", names=sorted(known)),
            command("kubectl", "rollout", "history", workload, "-n", namespace),
        )
    template = known[wanted]
    if template == _without_hash(found["spec"]["template"]):
        raise InputError(_("{workload} is like revision {revision} already", workload=workload, revision=wanted))
    request = _replacement(where, template)
    step = _step(
        system, _("Roll {workload} in {namespace} back to revision {revision}", workload=workload, namespace=namespace, revision=wanted),
        request, found, inverse=_replacement(where, found["spec"]["template"]),
    )  # fmt: skip
    return _plan(
        system, environment, requester, "rollback", step, found, namespace,
        cautions=_risks(found), verify=[_rolled_out(workload, where, found["spec"].get("replicas"), steady_seconds)],
    )  # fmt: skip


def image(
    system: KubernetesSystem, environment: Environment, requester: str, workload: str, namespace: str, container: str, reference: str,
    *, steady_seconds: float = 30,
) -> Plan:  # fmt: skip
    """Another image for one container.

    Raises
    ------
    InputError
        There is no such container (those that are there are named), it has that image already, or the reference has a blank in it.
    """
    where, found = _workload(system, workload, namespace)
    if not reference or reference != one_line(reference, 1000) or " " in reference:
        raise InputError(_("image: {value} is no image reference", value=one_line(reference)), _("Write it like registry/name:tag"))
    spec = found["spec"]["template"]["spec"]
    images = {one["name"]: (group, one["image"]) for group in ("containers", "initContainers") for one in spec.get(group, [])}
    if container not in images:
        raise InputError(
            _("{workload} has no container {name}", workload=workload, name=one_line(container)), _("It has {names}", names=sorted(images))
        )
    group, before = images[container]
    if before == reference:
        raise InputError(_("{container} has the image {image} already", container=container, image=reference))

    def body(value: str) -> Object:
        return {"spec": {"template": {"spec": {group: [{"name": container, "image": value}]}}}}

    step = _step(
        system,
        _("Set the image of {container} in {workload} ({namespace}) to {image}",
          container=container, workload=workload, namespace=namespace, image=reference),
        _patch(where, body(reference)), found, inverse=_patch(where, body(before)),
    )  # fmt: skip
    return _plan(
        system, environment, requester, "image", step, found, namespace,
        cautions=_risks(found), verify=[_rolled_out(workload, where, found["spec"].get("replicas"), steady_seconds)],
    )  # fmt: skip


def delete_pods(system: KubernetesSystem, environment: Environment, requester: str, pods: Iterable[str], namespace: str) -> Plan:
    """Delete single pods, each a step; their owners make others.

    Raises
    ------
    InputError
        None is named, or one is not there.
    """
    names = list(dict.fromkeys(pods))
    if not names:
        raise InputError(_("Name the pods to delete"))
    steps, verify, cautions, labels = [], [], [], []
    for name in names:
        where = {"resource": "pods", "namespace": namespace, "name": name}
        found = _found(system, where, f"pod/{name}")
        metadata = found["metadata"]
        labels.append(metadata.get("labels", {}))
        request = {**where, "verb": "delete", "body": {"apiVersion": "v1", "kind": "DeleteOptions"}}
        step = _step(system, _("Delete pod {name} in {namespace}", name=name, namespace=namespace), request, found)
        why = _("a pod that was deleted does not come back; its owner makes another").text()
        steps.append(step.model_copy(update={"why_no_inverse": why}))
        question = {"gone": where, "uid": metadata["uid"]}
        verify.append(Condition(what=_("{name} is gone", name=name).text(), system=system.name, question=question, deadline_seconds=180))
        if controller_of(found) is None:
            cautions.append(_("Nobody will make {name} again: it has no owner", name=name))
        if any("emptyDir" in volume for volume in found["spec"].get("volumes", [])):
            cautions.append(_("What {name} keeps in an emptyDir volume is lost", name=name))
        if metadata.get("finalizers"):
            cautions.append(_("{name} has finalizers and may stay until they are gone", name=name))
    title = _n("Delete {count} pod in {namespace}", "Delete {count} pods in {namespace}", len(names), namespace=namespace).text()
    reach = Reach(pods=len(names), namespaces=[namespace], services=services_of(system.cluster, {namespace: labels}))
    return make(system, environment, requester, "delete", title, steps, reach=reach, cautions=cautions, verify=verify)


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _workload(system: KubernetesSystem, workload: str, namespace: str) -> tuple[dict[str, str], Object]:
    kind, _slash, name = workload.partition("/")
    resource = RESOURCES.get(kind.lower())
    if resource is None or not name:
        raise InputError(
            _("{value} is no workload", value=one_line(workload)),
            _("Write kind/name, with a kind of {kinds}", kinds=list(RESOURCES)),
            f"deployment/{one_line(name or workload)}",
        )
    where = {"resource": resource, "namespace": namespace, "name": name}
    return where, _found(system, where, workload)


def _found(system: KubernetesSystem, where: dict[str, str], shown: str) -> Object:
    try:
        return system.cluster.whole(where["resource"], where["name"], where["namespace"])
    except NotFound as error:
        raise absent(shown, where["resource"], where["namespace"]) from error


def _patch(where: dict[str, str], body: Object) -> dict[str, Any]:
    return {**where, "verb": "patch", "patch": "strategic-merge-patch", "body": body}


def _replacement(where: dict[str, str], template: Object) -> dict[str, Any]:
    """Another template as a whole: a merge would keep what the one that is there has added."""
    return _patch(where, {"spec": {"template": {**template, "$patch": "replace"}}})


def _step(
    system: KubernetesSystem, what: Message, request: dict[str, Any], found: Object, *, inverse: dict[str, Any] | None = None
) -> Step:
    preview = system.preview(request)
    return Step(
        what=what.text(), system=system.name, request=request, before=state_of(found), after=preview.after,
        inverse=inverse, difference=preview.difference,
    )  # fmt: skip


def _plan(
    system: KubernetesSystem, environment: Environment, requester: str, action: Action, step: Step, found: Object, namespace: str,
    *, pods: int | None = None, cautions: Iterable[Message] = (), verify: Iterable[Condition] = (),
) -> Plan:  # fmt: skip
    labels = found["spec"]["template"]["metadata"].get("labels", {})
    all_pods = found["spec"].get("replicas", found.get("status", {}).get("desiredNumberScheduled", 0))
    services = services_of(system.cluster, {namespace: [labels]})
    reach = Reach(pods=all_pods if pods is None else pods, namespaces=[namespace], services=services)
    return make(system, environment, requester, action, step.what, [step], reach=reach, cautions=cautions, verify=verify)


def _rolled_out(workload: str, where: dict[str, str], replicas: int | None, steady_seconds: float) -> Condition:
    what = _("all pods of {workload} are of its newest revision and available", workload=workload).text()
    question = {"rolled_out": where, "replicas": replicas, "calm_seconds": steady_seconds}
    return Condition(what=what, system="kubernetes", question=question, deadline_seconds=600, steady_seconds=steady_seconds)


def _places(system: KubernetesSystem, found: Object, count: int) -> list[Message]:
    """Where so many further pods of a workload would fit now, and what keeps off those that do not."""
    try:
        room, unseen = room_of(system.cluster)
    except Forbidden as error:
        return [_("Where the new pods would fit could not be looked at: {reason}", reason=error.what)]
    template = found["spec"]["template"]
    metadata = {"namespace": found["metadata"]["namespace"], "labels": template["metadata"].get("labels", {})}
    pod = msgspec.convert({"metadata": metadata, "spec": template["spec"]}, PlacedPod)
    places = Counter(itertools.takewhile(lambda place: place is not None, room.place(itertools.repeat(pod, count))))
    nodes = [f"{name} ({number})" for name, number in places.most_common()]
    if places.total() == count:
        return [_("The new pods would fit on {nodes}", nodes=nodes), *unseen]
    why = room.why_nowhere(pod)[:5]
    values = {"fitting": places.total(), "count": count, "nodes": nodes or "-", "reasons": why or "-"}
    return [_("Only {fitting} of {count} new pods fit now, on {nodes}; the others will wait: {reasons}", **values), *unseen]


def _risks(found: Object) -> list[Message]:
    """What may go wrong when all pods of a workload are replaced."""
    cautions = []
    spec = found["spec"]
    if spec.get("strategy", {}).get("type") == "Recreate":
        cautions.append(_("All pods go before the first new one comes (Recreate): it is away in between"))
    elif spec.get("replicas") == 1 and found["kind"] == "StatefulSet":
        cautions.append(_("Its only pod goes before the new one comes: it is away in between"))
    if not any("readinessProbe" in one for one in spec["template"]["spec"]["containers"]):
        cautions.append(_("It has no readiness probe: a pod that does not work yet counts as available"))
    return cautions


def _revisions(system: KubernetesSystem, found: Object, namespace: str) -> dict[int, Object]:
    """The templates that were, by revision."""
    of_deployment = found["kind"] == "Deployment"
    listed = system.cluster.whole_list("replicasets.apps" if of_deployment else "controllerrevisions.apps", namespace)
    owned = [one for one in listed if (controller_of(one) or {}).get("uid") == found["metadata"]["uid"]]
    if of_deployment:
        return {int(one["metadata"].get("annotations", {}).get(REVISION, 0)): _without_hash(one["spec"]["template"]) for one in owned}
    return {int(one["revision"]): _revised(one["data"]) for one in owned}


def _revised(data: Object) -> Object:
    template: Object = json.loads(json.dumps(data["spec"]["template"]))
    template.pop("$patch", None)
    return template


def _without_hash(template: Object) -> Object:
    copy: Object = json.loads(json.dumps(template))
    copy.get("metadata", {}).get("labels", {}).pop("pod-template-hash", None)
    return copy


def _is_target(reference: Object, found: Object) -> bool:
    return bool(reference["kind"] == found["kind"] and reference["name"] == found["metadata"]["name"])
