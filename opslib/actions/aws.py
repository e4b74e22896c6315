"""Changes of the EKS cluster: the version of an add-on, of a node group, of the control plane.

A request is ``{"object": ["addon" | "nodegroup" | "cluster", name], "operation", "parameters"}``. Its parameters hold a token that was made
with the plan, by which EKS knows a request that is sent again. EKS has no dry run: a preview says what would be sent, and what makes EKS
refuse or fail is looked for when the plan is made. What comes first is https://docs.aws.amazon.com/eks/latest/userguide/update-cluster.html:
the control plane, one minor version at a time, then the add-ons, then the node groups.
"""

from __future__ import annotations

import difflib
import hashlib
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from opslib.actions.kubernetes import KubernetesSystem, services_of
from opslib.actions.nodes import Departure, departure_of, held_up_by
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.actions.systems import ABSENT, Preview
from opslib.environments import Environment
from opslib.errors import Conflict, InputError, NotFound
from opslib.findings import command
from opslib.messages import Message, _, _n, one_line
from opslib.sources.aws import Aws
from opslib.sources.versions import NODE_GROUP, SKEW, default_of

_HOURS = {"addon": 0.5, "nodegroup": 6, "cluster": 2}  # what an update may take; a node group's waits for budgets
_READY = ("ACTIVE", "DEGRADED", "UPDATE_FAILED", "CREATE_FAILED")


class AwsSystem:
    """One EKS cluster of one account. See `opslib.actions.systems.System`."""

    name = "aws"

    def __init__(self, source: Aws) -> None:
        self.source = source
        self._ended: dict[str, dict[str, Any]] = {}  # updates that have ended do not change any more, by id

    def target(self) -> str:
        """The cluster's ARN: account, region and name."""
        self.source.check_account()
        return str(self.source.cluster()["arn"])

    def observe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Its version, whether it can be changed, a digest of how it is set up, and the version of an update that is under way."""
        kind, name = request["object"]
        try:
            found = self._found(kind, name)
        except NotFound:
            return ABSENT
        version = found.get("addonVersion") or found.get("releaseVersion") or found.get("version")
        state: dict[str, Any] = {
            "version": str(version),
            "kubernetes": str(found.get("version", "")),
            "status": "ready",
            "settings": _settings(found),
        }
        if found.get("status") not in _READY:
            newest = self._newest(kind, name)
            state |= {"status": str(found.get("status")), "to": _wanted(newest) if newest else []}
        return state

    def preview(self, request: dict[str, Any]) -> Preview:
        """What would be sent."""
        kind, name = request["object"]
        now = self.observe(request)
        wanted = _versions(request)
        shown = {key: value for key, value in request["parameters"].items() if key != "clientRequestToken"}
        before = [f"{kind} {name}: {now.get('version', '-')}"]
        lines = difflib.unified_diff(before, [f"{kind} {name}: {', '.join(wanted)}"], lineterm="", n=0)
        difference = "\n".join([line for line in lines if not line.startswith(("---", "+++", "@@"))])
        return Preview({"version": wanted}, f"{difference}\n{request['operation']} {shown}\n")

    def reached(self, request: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> bool:
        """Whether it has the versions that were asked for, or is on the way there."""
        there = {now.get("version"), now.get("kubernetes"), *now.get("to", ())}
        return bool(there) and set(_versions(request)) <= there

    def send(self, request: dict[str, Any], before: dict[str, Any]) -> None:
        """See `System.send`."""
        if self.observe(request) != before:
            raise Conflict(
                self.name,
                _("{kind} {name} is not as it was when the plan was made", kind=request["object"][0], name=request["object"][1]),
                _("Look at what changed, and make the plan again"),
            )
        self.source.call("eks", request["operation"], **request["parameters"])

    def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        """``{"object": [kind, name], "versions", "since"}``: the update that began since then has ended, and it has the versions."""
        kind, name = question["object"]
        found = self._found(kind, name)
        there = {str(found.get(key)) for key in ("addonVersion", "releaseVersion", "version")}
        status = str(found.get("status"))
        update = self._newest(kind, name, datetime.fromisoformat(question["since"]))
        if update is not None and update.get("status") in ("Failed", "Cancelled"):
            errors = [_("{code}: {words}", code=one.get("errorCode", "-"), words=one_line(one.get("errorMessage", ""), 300))
                      for one in update.get("errors", ())]  # fmt: skip
            return None, _("EKS says that the update is {status}: {errors}", status=update["status"], errors=errors or "-")
        if set(question["versions"]) <= there and status == "ACTIVE":
            return True, _("it is {status}", status=status)
        return False, _("the update is {update}, it is {status}", update=str((update or {}).get("status", "-")), status=status)

    def _found(self, kind: str, name: str) -> dict[str, Any]:
        cluster = self.source.cluster_name
        if kind == "addon":
            found: dict[str, Any] = self.source.call("eks", "describe_addon", clusterName=cluster, addonName=name)["addon"]
            return found
        if kind == "nodegroup":
            group: dict[str, Any] = self.source.call("eks", "describe_nodegroup", clusterName=cluster, nodegroupName=name)["nodegroup"]
            return group
        return self.source.cluster()

    def _newest(self, kind: str, name: str, since: datetime | None = None) -> dict[str, Any] | None:
        """The newest update of an object that began since a time; None where there is none."""
        which = {"addon": {"addonName": name}, "nodegroup": {"nodegroupName": name}}.get(kind, {})
        where = {"name": self.source.cluster_name, **which}
        ids = self.source.pages("eks", "list_updates", "updateIds", **where)
        updates = [self._ended.get(id) or self.source.call("eks", "describe_update", updateId=id, **where)["update"] for id in ids[:20]]
        self._ended |= {one["id"]: one for one in updates if one["status"] != "InProgress"}
        known = [one for one in updates if since is None or one["createdAt"] >= since]
        newest: dict[str, Any] | None = max(known, key=lambda one: one["createdAt"], default=None)
        return newest


# --- plans ------------------------------------------------------------------------------------------------------------------------------


def addon(system: AwsSystem, environment: Environment, requester: str, name: str, *, version: str = "") -> Plan:
    """Another version of an add-on; without one, the default for the control plane's version.

    Raises
    ------
    InputError
        It is not installed, cannot be changed now, has that version, or EKS does not offer it for the control plane's version.
    """
    source = system.source
    plane = _control_plane(source)
    found = _one(system, "addon", name, [one["addonName"] for one in source.addons()])
    now = str(found.get("addonVersion", ""))
    offered = [one for kind in source.addon_versions(plane) if kind.get("addonName") == name for one in kind.get("addonVersions", ())]
    names = [str(one.get("addonVersion")) for one in offered]
    version = version or default_of(offered, plane)
    if version not in names:
        raise InputError(
            _("EKS does not offer {name} {version} for Kubernetes {plane}", name=name, version=one_line(version) or "-", plane=plane),
            _("One of {versions}", versions=names[:8]),
        )
    if version == now:
        raise InputError(_("{name} has the version {version} already", name=name, version=version))

    def request(wanted: str) -> dict[str, Any]:
        parameters = {"addonName": name, "addonVersion": wanted, "resolveConflicts": "PRESERVE"}
        return _request("addon", name, "update_addon", {"clusterName": source.cluster_name, **parameters})

    cautions = [_("{version} is older than {now}", version=version, now=now)] if names.index(version) > _place(names, now) else []
    what = _("Add-on {name}: {now} becomes {version}", name=name, now=now, version=version)
    words = ("--addon-name", name, "--addon-version", version, "--resolve-conflicts", "PRESERVE")
    return _plan(
        system, environment, requester, what, request(version), inverse=request(now) if now in names else None,
        why=_("EKS no longer offers {version}", version=now), cautions=cautions, shown=_shown(source, "update-addon", *words),
    )  # fmt: skip


def node_group(
    system: AwsSystem,
    cluster: KubernetesSystem,
    environment: Environment,
    requester: str,
    name: str,
    *,
    version: str = "",
    release: str = "",
) -> Plan:
    """A node group on another version of Kubernetes (without one, the control plane's), or on another release of its node image.

    EKS drains its nodes one after the other and keeps to disruption budgets; where one allows nothing, the update fails after a while.

    Raises
    ------
    InputError
        It is not there or not active; the version is newer than the control plane's, or older than its own; add-ons have to be updated
        first; a disruption budget would stop it.
    """
    source = system.source
    plane = _control_plane(source)
    found = _one(system, "nodegroup", name, source.pages("eks", "list_nodegroups", "nodegroups", clusterName=source.cluster_name))
    now = str(found.get("version", ""))
    wanted = version or (".".join(release.split(".")[:2]) if release else plane)
    if _minor(wanted) > _minor(plane):
        raise InputError(
            _("{name} may not be newer than the control plane: {version}, and that is {plane}", name=name, version=wanted, plane=plane),
            _("Update the control plane first"),
            f"opslib plan control-plane --env {environment.name}",
        )
    if _minor(wanted) < _minor(now):
        raise InputError(_("EKS takes no node group back: {name} has {now}, not {version}", name=name, now=now, version=wanted),
                         _("Make another node group with the older version"))  # fmt: skip
    if (release or wanted) == (found.get("releaseVersion") if release else now):
        image = f"/aws/service/eks/optimized-ami/{now}/amazon-linux-2023/x86_64/standard/recommended/release_version"
        raise InputError(
            _("{name} has {version} already", name=name, version=release or now),
            _("Name a newer release of its node image with --release; AWS says which is the newest"),
            command("aws", "ssm", "get-parameter", "--region", source.settings.region, "--name", image, "--query", "Parameter.Value"),
        )
    late = [f"{one['addonName']} {one['addonVersion']}" for one in _unfit(source, plane)] if wanted != now else []
    if late:
        raise InputError(_("Add-ons that do not go with Kubernetes {plane} come before the nodes: {names}", plane=plane, names=late),
                         _("Update them first"), f"opslib plan addon {late[0].split()[0]} --env {environment.name}")  # fmt: skip
    nodes = [one["metadata"]["name"] for one in cluster.cluster.whole_list("nodes", labels=f"{NODE_GROUP}={name}")]
    pods = [pod for node in nodes for pod in cluster.cluster.whole_list("pods", fields=f"spec.nodeName={node}")]
    going = [one for pod in pods if (one := departure_of(pod, delete_emptydir_data=True, force=True)).fate == "evict"]
    stopping = held_up_by(cluster, going)
    if stopping:
        raise InputError(
            _("Disruption budgets would stop the update: {budgets}", budgets=stopping),
            _("Make room first: more ready pods, or a budget that allows one to go"),
        )
    parameters = {"nodegroupName": name, **({"version": wanted} if not release else {"releaseVersion": release})}
    request = _request("nodegroup", name, "update_nodegroup_version", {"clusterName": source.cluster_name, **parameters})
    what = _("Node group {name}: {now} ({release}) becomes {version}",
             name=name, now=now, release=str(found.get("releaseVersion", "-")), version=release or wanted)  # fmt: skip
    words = ("--nodegroup-name", name, *(("--release-version", release) if release else ("--kubernetes-version", wanted)))
    return _plan(
        system, environment, requester, what, request, why=_("EKS takes no node group back to an older version"),
        reach=_reach(cluster, nodes, going), cautions=[_("{pod}: {why}", pod=one.name, why=one.why) for one in going if one.why],
        shown=_shown(source, "update-nodegroup-version", *words),
    )  # fmt: skip


def control_plane(system: AwsSystem, cluster: KubernetesSystem, environment: Environment, requester: str, *, version: str = "") -> Plan:
    """The control plane's next minor version.

    Raises
    ------
    InputError
        It is not the next one, or EKS does not offer it; kubelets would be too old for it; an upgrade insight says that it would fail.
    """
    source = system.source
    found = source.cluster()
    now = str(found["version"])
    version = version or f"1.{_minor(now) + 1}"
    if _minor(version) != _minor(now) + 1:
        raise InputError(
            _("EKS goes one minor version at a time: {now} becomes 1.{next}, not {version}",
              now=now, next=_minor(now) + 1, version=one_line(version)),
            _("Go there step by step"), f"opslib plan control-plane --version 1.{_minor(now) + 1} --env {environment.name}",
        )  # fmt: skip
    offered = [str(one.get("clusterVersion")) for one in source.cluster_versions()]
    if version not in offered:
        raise InputError(_("EKS does not offer Kubernetes {version}", version=version), _("One of {versions}", versions=offered))
    _check_status("cluster", source.cluster_name, found)
    kubelets = {one["metadata"]["name"]: str(one["status"].get("nodeInfo", {}).get("kubeletVersion", ""))
                for one in cluster.cluster.whole_list("nodes")}  # fmt: skip
    late = [f"{node} ({kubelet})" for node, kubelet in sorted(kubelets.items()) if _minor(version) - _minor(kubelet) > SKEW]
    if late:
        raise InputError(
            _n("{count} kubelet would be too old for {version}: {names}", "{count} kubelets would be too old for {version}: {names}",
               len(late), version=version, names=late[:10]),
            _("Update their node groups first: a kubelet may trail by {skew} minor versions", skew=SKEW),
        )  # fmt: skip
    bad = [one for one in source.insights()
           if one.get("insightStatus", {}).get("status") == "ERROR" and one.get("kubernetesVersion", version) == version]  # fmt: skip
    if bad:
        raise InputError(
            _("Upgrade insights say that {version} would fail: {names}", version=version,
              names=[f"{one.get('name')}: {one_line(one.get('insightStatus', {}).get('reason', ''), 200)}" for one in bad]),
            _("Put right what they name; EKS looks again once a day"), "opslib run 3.3 --env " + environment.name,
        )  # fmt: skip
    cautions = [_("The API server is away for moments while it is replaced")]
    cautions += [_("{name} {version} has to be updated afterwards: it does not go with Kubernetes {target}",
                   name=one["addonName"], version=one["addonVersion"], target=version) for one in _unfit(source, version)]  # fmt: skip
    request = _request("cluster", source.cluster_name, "update_cluster_version", {"name": source.cluster_name, "version": version})
    what = _("Control plane of {name}: {now} becomes {version}", name=source.cluster_name, now=now, version=version)
    return _plan(
        system, environment, requester, what, request, why=_("EKS takes no control plane back to an older version"), cautions=cautions,
        shown=_shown(source, "update-cluster-version", "--kubernetes-version", version),
    )  # fmt: skip


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _plan(
    system: AwsSystem, environment: Environment, requester: str, what: Message, request: dict[str, Any], *, shown: str, why: Message,
    inverse: dict[str, Any] | None = None, cautions: Iterable[Message] = (), reach: Reach | None = None,
) -> Plan:  # fmt: skip
    preview, (kind, name) = system.preview(request), request["object"]
    step = Step(
        what=what.text(), system=system.name, request=request, before=system.observe(request), after=preview.after, inverse=inverse,
        why_no_inverse="" if inverse else why.text(), difference=preview.difference, command=shown,
    )  # fmt: skip
    question = {"object": [kind, name], "versions": _versions(request), "since": datetime.now(UTC).isoformat()}
    done = _("EKS says that {kind} {name} is updated", kind=kind, name=name).text()
    verify = Condition(what=done, system=system.name, question=question, deadline_seconds=_HOURS[kind] * 3600)
    return make(system, environment, requester, "patch", step.what, [step], reach=reach, cautions=cautions, verify=[verify])


def _request(kind: str, name: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"object": [kind, name], "operation": operation, "parameters": {**parameters, "clientRequestToken": str(uuid.uuid4())}}


def _one(system: AwsSystem, kind: str, name: str, there: list[str]) -> dict[str, Any]:
    """The add-on or node group of that name, which can be changed now."""
    if name not in there:
        near = difflib.get_close_matches(name, there, n=1)
        raise InputError(
            _("The cluster has no {kind} {name}", kind=kind, name=one_line(name)),
            _("Did you mean {near}? There are {names}", near=near[0], names=there) if near else _("There are {names}", names=there),
        )
    found = system._found(kind, name)
    _check_status(kind, name, found)
    return found


def _check_status(kind: str, name: str, found: Mapping[str, Any]) -> None:
    if found.get("status") not in _READY:
        raise InputError(
            _("{kind} {name} is {status}: it cannot be changed now", kind=kind, name=name, status=str(found.get("status"))),
            _("Wait until what is under way has come to its end"),
        )


def _control_plane(source: Aws) -> str:
    return str(source.cluster()["version"])


def _unfit(source: Aws, version: str) -> list[dict[str, Any]]:
    """The add-ons whose version EKS does not offer for a version of Kubernetes; those that it does not know are left out."""
    offered = {str(kind.get("addonName")): [one.get("addonVersion") for one in kind.get("addonVersions", ())]
               for kind in source.addon_versions(version)}  # fmt: skip
    return [one for one in source.addons() if offered.get(one["addonName"]) and one["addonVersion"] not in offered[one["addonName"]]]


def _reach(cluster: KubernetesSystem, nodes: list[str], going: list[Departure]) -> Reach:
    labels: dict[str, list[dict[str, str]]] = {}
    for one in going:
        labels.setdefault(one.pod["metadata"]["namespace"], []).append(one.pod["metadata"].get("labels", {}))
    return Reach(pods=len(going), nodes=len(nodes), services=services_of(cluster.cluster, labels))


def _versions(request: Mapping[str, Any]) -> list[str]:
    """What a request asks for: a version of an add-on, of Kubernetes, or of a node image."""
    return [str(request["parameters"][key]) for key in ("addonVersion", "version", "releaseVersion") if key in request["parameters"]]


def _wanted(update: Mapping[str, Any]) -> list[str]:
    return [str(one.get("value")) for one in update.get("params", ()) if one.get("type") in ("AddonVersion", "Version", "ReleaseVersion")]


def _settings(found: Mapping[str, Any]) -> str:
    """A digest of how it is set up: what others may have changed since, none of it shown (settings of add-ons may hold secrets)."""
    known = ("configurationValues", "serviceAccountRoleArn", "scalingConfig", "updateConfig", "launchTemplate", "labels", "taints")
    return hashlib.sha256(repr([(key, found.get(key)) for key in known]).encode()).hexdigest()[:16]


def _shown(source: Aws, *words: str) -> str:
    where = (
        "--region",
        source.settings.region,
        "--name" if words[0] == "update-cluster-version" else "--cluster-name",
        source.cluster_name,
    )
    return command("aws", "eks", words[0], *where, *words[1:])


def _place(names: list[str], name: str) -> int:
    """Where a version stands among those that EKS lists, newest first; after all of them where it does not."""
    return names.index(name) if name in names else len(names)


def _minor(version: str) -> int:
    """The minor number of "1.36" or "v1.36.2-eks-1a2b".

    Raises
    ------
    InputError
        It is no version.
    """
    parts = version.removeprefix("v").split(".")
    if len(parts) < 2 or parts[0] != "1" or not parts[1].isdigit():
        raise InputError(
            _("{version} is no version of Kubernetes", version=one_line(version)), _("Write it like {example}", example="1.36")
        )
    return int(parts[1])
