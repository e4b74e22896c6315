"""Plans for backups: take one, take a snapshot, rehearse a restore.

The rehearsal of a restore goes into a namespace, or an index, of its own; undoing the plan removes it. Names have the date and the time
(the runbook's have the date alone: a second one in a day would collide).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from urllib.parse import quote

from opslib.actions.elasticsearch import ElasticsearchSystem
from opslib.actions.kubernetes import KubernetesSystem, Object
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.actions.systems import ABSENT
from opslib.environments import Environment
from opslib.errors import InputError, NotFound
from opslib.findings import command
from opslib.messages import Message, _, one_line
from opslib.sources.velero import BAD, GOOD, Backup

VELERO = "velero"
_COMPARED = ("deployments.apps", "statefulsets.apps", "services", "configmaps", "secrets", "persistentvolumeclaims")
_DAY = 86400.0


def backup(
    system: KubernetesSystem, environment: Environment, requester: str, namespaces: Iterable[str] = (), *, kept_hours: float = 720
) -> Plan:
    """A Velero backup of some namespaces; of all where none is named.

    Raises
    ------
    InputError
        A namespace is not there, or Velero is not installed.
    """
    _check_velero(system)
    chosen = list(dict.fromkeys(namespaces))
    for one in chosen:
        _check_namespace(system, one)
    name = f"eks-backup-{_now(environment)}"
    spec: Object = {"includedNamespaces": chosen or ["*"], "ttl": f"{round(kept_hours)}h0m0s"}
    what = _("Take the backup {name} of {namespaces}", name=name, namespaces=chosen or "*")
    step = _create(system, what, "Backup", "backups.velero.io", name, spec)
    step = step.model_copy(update={"why_no_inverse": _("a backup more does no harm; it expires by itself").text()})
    verify = _phase(system, "backups.velero.io", name, _("the backup {name} is Completed", name=name))
    return make(system, environment, requester, "backup", what.text(), [step], verify=[verify])


def restore_rehearsal(system: KubernetesSystem, environment: Environment, requester: str, backup: str, namespace: str) -> Plan:
    """Restore one namespace of a backup into a namespace of its own, and compare the counts. Undoing the plan deletes that namespace.

    Raises
    ------
    InputError
        The backup is not there, is not Completed, or does not have the namespace.
    """
    _check_velero(system)
    try:
        found = system.cluster.get(Backup, "backups.velero.io", backup, VELERO)
    except NotFound as error:
        raise InputError(
            _("There is no backup {name}", name=one_line(backup)),
            _("Those that are there"),
            command("kubectl", "get", "backups.velero.io", "-n", VELERO),
        ) from error
    if found.status.phase != GOOD:
        raise InputError(
            _("The backup {name} is {phase}: only a Completed one can be relied on", name=backup, phase=found.status.phase or "New")
        )
    if not found.spec.covers(namespace):
        raise InputError(
            _("The backup {name} does not have the namespace {namespace}", name=backup, namespace=one_line(namespace)),
            _("It has {names}", names=found.spec.included_namespaces or ["*"]),
        )
    name = f"rehearsal-{_now(environment)}"
    into = f"{namespace[:40]}-{name}"
    spec = {"backupName": backup, "includedNamespaces": [namespace], "namespaceMapping": {namespace: into}}
    what = _("Restore {namespace} of {backup} into {into}", namespace=namespace, backup=backup, into=into)
    step = _create(system, what, "Restore", "restores.velero.io", name, spec)
    inverse = {"resource": "namespaces", "name": into, "verb": "delete", "body": {"apiVersion": "v1", "kind": "DeleteOptions"}}
    verify = [
        _phase(system, "restores.velero.io", name, _("the restore {name} is Completed", name=name)),
        Condition(
            what=_("{into} has as many objects as {namespace}", into=into, namespace=namespace).text(), system=system.name,
            question={"alike": [namespace, into], "resources": list(_COMPARED)}, deadline_seconds=120,
        ),
    ]  # fmt: skip
    cautions = [_("The restored pods run: they may take work from queues and call others, as those of {namespace} do", namespace=namespace)]
    step = step.model_copy(update={"inverse": inverse})
    reach = Reach(namespaces=[into])
    return make(system, environment, requester, "restore", what.text(), [step], reach=reach, cautions=cautions, verify=verify)


def snapshot(system: ElasticsearchSystem, environment: Environment, requester: str, repository: str, indices: str = "*") -> Plan:
    """A snapshot of some indices.

    Raises
    ------
    InputError
        The repository is not there, or no index is named so.
    """
    _check_repository(system, repository)
    names = [one.index for one in system.source.indices(indices)]
    if not names:
        raise InputError(_("No index is named {pattern}", pattern=one_line(indices)), _("Those that are there"), "GET _cat/indices")
    name = f"snapshot-{_now(environment)}"
    path = f"/_snapshot/{quote(repository, safe='')}/{name}"
    request = {
        "method": "PUT", "path": path, "object": path,
        "body": {"indices": indices, "include_global_state": False, "metadata": {"taken_by": requester}},
    }  # fmt: skip
    what = _("Take the snapshot {name} of {count} indices ({pattern})", name=name, count=len(names), pattern=indices)
    preview = system.preview(request)
    step = Step(
        what=what.text(), system=system.name, request=request, before=ABSENT, after=preview.after, difference=preview.difference,
        inverse={"method": "DELETE", "path": path, "object": path},
    )  # fmt: skip
    question = {"snapshot": [repository, name]}
    verify = Condition(
        what=_("the snapshot {name} is whole", name=name).text(), system=system.name, question=question, deadline_seconds=_DAY
    )
    return make(system, environment, requester, "backup", what.text(), [step], verify=[verify])


def snapshot_rehearsal(
    system: ElasticsearchSystem, environment: Environment, requester: str, repository: str, snapshot: str, index: str
) -> Plan:
    """Restore one index of a snapshot under a name of its own, and compare the number of documents. Undoing the plan deletes it.

    Raises
    ------
    InputError
        The repository, the snapshot or the index in it is not there, or the snapshot is not whole.
    """
    _check_repository(system, repository)
    found = next((one for one in system.source.snapshots(repository) if one.snapshot == snapshot), None)
    if found is None or index not in found.indices:
        raise InputError(
            _("There is no snapshot {name} with the index {index}", name=one_line(snapshot), index=one_line(index)),
            _("Those that are there"),
            f"GET _snapshot/{repository}/_all",
        )
    if found.state != "SUCCESS" and any(failure.index == index for failure in found.failures):
        raise InputError(_("The snapshot {name} lacks shards of {index}", name=snapshot, index=index))
    into = f"rehearsal-{_now(environment)}-{index}"
    request = {
        "method": "POST", "path": f"/_snapshot/{quote(repository, safe='')}/{quote(snapshot, safe='')}/_restore",
        "object": f"/{quote(into, safe='')}",
        "body": {
            "indices": index, "include_global_state": False, "include_aliases": False, "rename_pattern": "(.+)",
            "rename_replacement": f"rehearsal-{into.split('-', 1)[1][: -len(index) - 1]}-$1",
        },
    }  # fmt: skip
    what = _("Restore {index} of {snapshot} as {into}", index=index, snapshot=snapshot, into=into)
    preview = system.preview(request)
    step = Step(
        what=what.text(), system=system.name, request=request, before=ABSENT, after=preview.after, difference=preview.difference,
        inverse={"method": "DELETE", "path": f"/{quote(into, safe='')}", "object": f"/{quote(into, safe='')}"},
    )  # fmt: skip
    verify = Condition(
        what=_("{into} has as many documents as {index}", into=into, index=index).text(), system=system.name,
        question={"documents": [index, into]}, deadline_seconds=3600,
    )  # fmt: skip
    cautions = [_("Documents that were written after the snapshot are in {index} alone: the counts are then not equal", index=index)]
    return make(system, environment, requester, "restore", what.text(), [step], cautions=cautions, verify=[verify])


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _now(environment: Environment) -> str:
    return f"{datetime.now(environment.zone):%Y%m%d-%H%M%S}"


def _check_velero(system: KubernetesSystem) -> None:
    if not system.cluster.knows("velero.io"):
        raise InputError(_("Velero is not installed in this cluster"), _("Install it first"))


def _check_namespace(system: KubernetesSystem, name: str) -> None:
    try:
        system.cluster.metadata("namespaces", name)
    except NotFound as error:
        raise InputError(
            _("There is no namespace {name}", name=one_line(name)), _("Those that are there"), "kubectl get namespaces"
        ) from error


def _check_repository(system: ElasticsearchSystem, name: str) -> None:
    known = system.source.repositories()
    if name not in known:
        raise InputError(
            _("Elasticsearch has no snapshot repository {name}", name=one_line(name)), _("It has {names}", names=sorted(known) or ["-"])
        )


def _create(system: KubernetesSystem, what: Message, kind: str, resource: str, name: str, spec: Object) -> Step:
    body = {"apiVersion": "velero.io/v1", "kind": kind, "metadata": {"name": name, "namespace": VELERO}, "spec": spec}
    request = {"resource": resource, "namespace": VELERO, "name": name, "verb": "create", "body": body}
    preview = system.preview(request)
    return Step(what=what.text(), system=system.name, request=request, before=ABSENT, after=preview.after, difference=preview.difference)


def _phase(system: KubernetesSystem, resource: str, name: str, what: Message) -> Condition:
    where = {"resource": resource, "namespace": VELERO, "name": name}
    question = {"field": where, "path": ["status", "phase"], "wanted": [GOOD], "never": sorted(BAD)}
    return Condition(what=what.text(), system=system.name, question=question, deadline_seconds=_DAY)
