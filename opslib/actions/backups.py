"""Plans for backups: take one, by schedule too, delete one, and rehearse a restore; the same for snapshots of Elasticsearch.

The rehearsal of a restore goes into a namespace, or an index, of its own; undoing the plan removes it. Names have the date and the time
(the runbook's have the date alone: a second one in a day would collide).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import quote

from opslib.actions.elasticsearch import ElasticsearchSystem
from opslib.actions.kubernetes import KubernetesSystem, Object
from opslib.actions.plans import Condition, Plan, Reach, Step, make
from opslib.actions.systems import ABSENT, CREATED
from opslib.environments import Environment
from opslib.errors import Forbidden, InputError, NotFound, SourceError, Unauthenticated, Unreachable
from opslib.findings import command
from opslib.messages import Message, _, one_line
from opslib.sources.snapshots import Snapshot
from opslib.sources.velero import BAD, GOOD, UNDER_WAY, Backup, BackupStorageLocation, velero_command

_BACKUPS, _RESTORES, _SCHEDULES = "backups.velero.io", "restores.velero.io", "schedules.velero.io"
_COMPARED = ("deployments.apps", "statefulsets.apps", "services", "configmaps", "secrets", "persistentvolumeclaims")
_SAMPLE = {"configmaps": ["data"], "deployments.apps": ["spec", "template"]}
_DOCUMENTS = 100  # so many documents of a restored index are compared in full
_DAY = 86400.0
# five fields, or a word such as @daily and @every 6h: Velero reads it as robfig/cron does
_CRON = re.compile(
    r"(CRON_)?(TZ=\S+ +)?(@(yearly|annually|monthly|weekly|daily|midnight|hourly|every +\S+)|[\d*/,\-?A-Za-z]+( +[\d*/,\-?A-Za-z]+){4})"
)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def backup(
    system: KubernetesSystem,
    environment: Environment,
    requester: str,
    namespaces: Iterable[str] = (),
    *,
    kept_hours: float = 720,
    name: str = "",
    location: str = "",
) -> Plan:
    """A Velero backup of some namespaces; of all where none is named.

    Raises
    ------
    InputError
        A namespace is not there, Velero is not installed, its storage location cannot be written to, or there is a backup of that name.
    """
    chosen, where = _checked(system, environment, namespaces, location), environment.velero_namespace
    name = _new_name(system, _BACKUPS, name or f"eks-backup-{_now(environment)}", where)
    spec = _template(chosen, kept_hours, location)
    what = _("Take the backup {name} of {namespaces}", name=name, namespaces=chosen or "*")
    step = _create(system, where, what, "Backup", _BACKUPS, name, spec)
    options = _options(chosen, kept_hours, location)
    step = step.model_copy(
        update={
            "why_no_inverse": _("a backup more does no harm; it expires by itself").text(),
            "command": velero_command(where, "backup", "create", name, *options),
        }
    )
    verify = _phase(system, where, _BACKUPS, name, _("the backup {name} is Completed", name=name))
    return make(system, environment, requester, "backup", what.text(), [step], verify=[verify])


def backup_schedule(
    system: KubernetesSystem,
    environment: Environment,
    requester: str,
    name: str,
    cron: str,
    namespaces: Iterable[str] = (),
    *,
    kept_hours: float = 720,
    location: str = "",
) -> Plan:
    """A Velero schedule that takes backups by itself. Undoing the plan deletes it; the backups that it took stay until they expire.

    Parameters
    ----------
    cron
        When, as cron writes it, in Velero's zone (UTC): ``0 3 * * *``.

    Raises
    ------
    InputError
        As for `backup`; and where `cron` is none.
    """
    if not _CRON.fullmatch(cron.strip()):
        raise InputError(_("{cron} says no time as cron writes it", cron=one_line(cron)), _("Write it like"), "0 3 * * *")
    chosen, where = _checked(system, environment, namespaces, location), environment.velero_namespace
    name = _new_name(system, _SCHEDULES, name, where)
    spec = {"schedule": cron.strip(), "template": _template(chosen, kept_hours, location)}
    what = _("Back up {namespaces} by the schedule {name} ({cron}, UTC)", name=name, namespaces=chosen or "*", cron=cron.strip())
    step = _create(system, where, what, "Schedule", _SCHEDULES, name, spec)
    options = [f"--schedule={cron.strip()}", *_options(chosen, kept_hours, location)]
    step = step.model_copy(
        update={
            "inverse": {"resource": _SCHEDULES, "namespace": where, "name": name, "verb": "delete", "body": _DELETE},
            "command": velero_command(where, "schedule", "create", name, *options),
        }
    )
    question = {
        "field": {"resource": _SCHEDULES, "namespace": where, "name": name}, "path": ["status", "phase"],
        "wanted": ["Enabled"], "never": ["FailedValidation"],
    }  # fmt: skip
    accepted = Condition(
        what=_("Velero accepts the schedule {name}", name=name).text(), system=system.name, question=question, deadline_seconds=300
    )
    return make(system, environment, requester, "backup", what.text(), [step], verify=[accepted])


def backup_delete(system: KubernetesSystem, environment: Environment, requester: str, backup: str) -> Plan:
    """Delete a backup for good, from the storage too: by a DeleteBackupRequest, since Velero brings back one of which only the object is
    deleted.

    Raises
    ------
    InputError
        The backup is not there or under way, or its storage location is missing, not available or read-only.
    """
    where = environment.velero_namespace
    found = _backup(system, where, backup)
    if found.status.phase in UNDER_WAY - {"Deleting"} and found.status.phase not in ("", "New"):
        raise InputError(_("The backup {name} is {phase}: wait until it is done", name=backup, phase=found.status.phase))
    if found.status.phase != "FailedValidation":  # that has nothing in a store
        _check_location(system, environment, found.spec.storage_location)
    name = f"{backup[:200]}-{_now(environment)}"
    target = {"resource": _BACKUPS, "namespace": where, "name": backup}
    labels = {"velero.io/backup-name": backup[:63].rstrip("-."), "velero.io/backup-uid": found.metadata.uid}
    what = _("Delete the backup {name} and its data", name=backup)
    step = _create(system, where, what, "DeleteBackupRequest", "deletebackuprequests.velero.io", name, {"backupName": backup}, labels)
    step = step.model_copy(
        update={
            "request": {**step.request, "takes_away": target}, "final": True,
            "why_no_inverse": _("what is deleted from the storage does not come back").text(),
            "command": velero_command(where, "backup", "delete", backup, "--confirm"),
        }
    )  # fmt: skip
    request = {"resource": "deletebackuprequests.velero.io", "namespace": where, "name": name}
    question = {"gone": target, "uid": found.metadata.uid, "refused": request}
    verify = Condition(
        what=_("the backup {name} is gone", name=backup).text(), system=system.name, question=question, deadline_seconds=3600
    )
    cautions = _last_of(system, where, found)
    return make(system, environment, requester, "delete", what.text(), [step], cautions=cautions, verify=[verify])


def restore_rehearsal(
    system: KubernetesSystem, environment: Environment, requester: str, backup: str, namespace: str, *, into: str = ""
) -> Plan:
    """Restore one namespace of a backup into a namespace of its own, and compare counts and a sample. Undoing the plan deletes that
    namespace.

    Raises
    ------
    InputError
        The backup is not there, is not Completed, or does not have the namespace; its storage cannot be read; `into` is there already.
    """
    where = environment.velero_namespace
    found = _backup(system, where, backup)
    if found.status.phase != GOOD:
        raise InputError(
            _("The backup {name} is {phase}: only a Completed one can be relied on", name=backup, phase=found.status.phase or "New")
        )
    if not found.spec.covers(namespace):
        raise InputError(
            _("The backup {name} does not have the namespace {namespace}", name=backup, namespace=one_line(namespace)),
            _("It has {names}", names=found.spec.included_namespaces or ["*"]),
        )
    _check_location(system, environment, found.spec.storage_location, write=False)
    into = _new_name(system, "namespaces", into or f"{namespace[:37]}-rehearsal-{_now(environment)}", "")
    name = _new_name(system, _RESTORES, into, where)
    spec = {"backupName": backup, "includedNamespaces": [namespace], "namespaceMapping": {namespace: into}}
    what = _("Restore {namespace} of {backup} into {into}", namespace=namespace, backup=backup, into=into)
    step = _create(system, where, what, "Restore", _RESTORES, name, spec)
    restore = {"resource": _RESTORES, "namespace": where, "name": name}
    verify = [
        _phase(system, where, _RESTORES, name, _("the restore {name} is Completed", name=name)),
        Condition(
            what=_("{into} has as many objects as {namespace}, and a sample is the same", into=into, namespace=namespace).text(),
            system=system.name, question={"alike": [namespace, into], "resources": list(_COMPARED), "sample": _SAMPLE},
            deadline_seconds=120,
        ),
    ]  # fmt: skip
    over = {"field": restore, "path": ["status", "phase"], "wanted": sorted({GOOD, *BAD} - UNDER_WAY), "never": [], "or_gone": True}
    cautions = [_("The restored pods run: they may take work from queues and call others, as those of {namespace} do", namespace=namespace)]
    options = ["--from-backup", backup, "--include-namespaces", namespace, "--namespace-mappings", f"{namespace}:{into}"]
    step = step.model_copy(
        update={
            "inverse": {"resource": "namespaces", "name": into, "verb": "delete", "body": _DELETE},
            # a restore that is under way makes the namespace again
            "inverse_once": Condition(
                what=_("the restore {name} is over", name=name).text(), system=system.name, question=over, deadline_seconds=1800
            ),
            "command": velero_command(where, "restore", "create", name, *options),
        }
    )
    reach = Reach(namespaces=[into])
    return make(system, environment, requester, "restore", what.text(), [step], reach=reach, cautions=cautions, verify=verify)


def snapshot(
    system: ElasticsearchSystem, environment: Environment, requester: str, repository: str, indices: str = "*", *, name: str = ""
) -> Plan:
    """A snapshot of some indices.

    Raises
    ------
    InputError
        The repository is not there, is read-only or does not verify; no index is named so; there is a snapshot of that name.
    """
    cautions = _check_repository(system, repository, write=True)
    names = [one.index for one in system.source.indices(indices)]
    if not names:
        raise InputError(_("No index is named {pattern}", pattern=one_line(indices)), _("Those that are there"), "GET _cat/indices")
    name = name or f"snapshot-{_now(environment)}"
    if any(one.snapshot == name for one in system.source.snapshots(repository)):
        raise InputError(_("There is a snapshot {name} already", name=one_line(name)), _("Choose another name, or leave it out"))
    path = _snapshot_path(repository, name)
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
    verify = Condition(
        what=_("the snapshot {name} is whole", name=name).text(), system=system.name, question={"snapshot": [repository, name]},
        deadline_seconds=_DAY,
    )  # fmt: skip
    return make(system, environment, requester, "backup", what.text(), [step], cautions=cautions, verify=[verify])


def snapshot_delete(system: ElasticsearchSystem, environment: Environment, requester: str, repository: str, snapshot: str) -> Plan:
    """Delete a snapshot for good.

    Raises
    ------
    InputError
        The repository or the snapshot is not there, the repository is read-only or does not verify, or the snapshot is under way.
    """
    cautions = _check_repository(system, repository, write=True)
    found = _snapshot(system, repository, snapshot)
    if found.state == "IN_PROGRESS":
        raise InputError(_("The snapshot {name} is {phase}: wait until it is done", name=snapshot, phase=found.state))
    path = _snapshot_path(repository, snapshot)
    request = {"method": "DELETE", "path": path, "object": path}
    preview = system.preview(request)
    what = _("Delete the snapshot {name} and its data", name=snapshot)
    step = Step(
        what=what.text(), system=system.name, request=request, before=CREATED, after=preview.after, difference=preview.difference,
        final=True, why_no_inverse=_("what is deleted from the storage does not come back").text(),
    )  # fmt: skip
    verify = Condition(
        what=_("the snapshot {name} is gone", name=snapshot).text(), system=system.name, question={"absent": path}, deadline_seconds=3600
    )
    others = {
        index for one in system.source.snapshots(repository) if one.snapshot != snapshot and one.state == "SUCCESS" for index in one.indices
    }
    alone = sorted(set(found.indices) - others)
    if alone:
        cautions.append(_("No other whole snapshot in {repository} has {names}", repository=repository, names=alone[:20]))
    return make(system, environment, requester, "delete", what.text(), [step], cautions=cautions, verify=[verify])


def snapshot_rehearsal(
    system: ElasticsearchSystem, environment: Environment, requester: str, repository: str, snapshot: str, index: str, *, into: str = ""
) -> Plan:
    """Restore one index of a snapshot under a name of its own, and compare the number of documents and a sample. Undoing the plan deletes
    it.

    Raises
    ------
    InputError
        The repository, the snapshot or the index in it is not there, the snapshot is not whole, or `into` is there already.
    """
    cautions = _check_repository(system, repository, write=False)
    found = _snapshot(system, repository, snapshot)
    if index not in found.indices:
        raise InputError(
            _("There is no snapshot {name} with the index {index}", name=one_line(snapshot), index=one_line(index)),
            _("It has {names}", names=found.indices[:20] or ["-"]),
        )
    if found.state != "SUCCESS":
        if found.state != "PARTIAL":
            raise InputError(_("The snapshot {name} is {phase}: only a whole one can be relied on", name=snapshot, phase=found.state))
        if any(failure.index == index for failure in found.failures) or not found.failures:
            raise InputError(_("The snapshot {name} lacks shards of {index}", name=snapshot, index=index))
        cautions.append(_("The snapshot {name} is PARTIAL: all shards of {index} are in it, others are not", name=snapshot, index=index))
    into = into or f"rehearsal-{_now(environment)}-{index}"
    target = f"/{quote(into, safe='')}"
    if system.observe({"object": target}) != ABSENT:
        raise InputError(_("There is an index {name} already", name=one_line(into)), _("Choose another name, or leave it out"))
    request = {
        "method": "POST", "path": f"{_snapshot_path(repository, snapshot)}/_restore", "object": target,
        "body": {
            "indices": index, "include_global_state": False, "include_aliases": False,
            # in a replacement $ and \\ are not themselves
            "rename_pattern": ".+", "rename_replacement": re.sub(r"([\\$])", r"\\\1", into),
        },
    }  # fmt: skip
    what = _("Restore {index} of {snapshot} as {into}", index=index, snapshot=snapshot, into=into)
    preview = system.preview(request)
    step = Step(
        what=what.text(), system=system.name, request=request, before=ABSENT, after=preview.after, difference=preview.difference,
        inverse={"method": "DELETE", "path": target, "object": target},
    )  # fmt: skip
    verify = Condition(
        what=_("{into} has as many documents as {index}, and a sample is the same", into=into, index=index).text(), system=system.name,
        question={"documents": [index, into], "sample": _DOCUMENTS}, deadline_seconds=3600,
    )  # fmt: skip
    cautions.append(_("Documents that were written after the snapshot are in {index} alone: the counts are then not equal", index=index))
    return make(system, environment, requester, "restore", what.text(), [step], cautions=cautions, verify=[verify])


# --- parts ------------------------------------------------------------------------------------------------------------------------------

_DELETE = {"apiVersion": "v1", "kind": "DeleteOptions"}


def _now(environment: Environment) -> str:
    return f"{datetime.now(environment.zone):%Y%m%d-%H%M%S}"


def _checked(system: KubernetesSystem, environment: Environment, namespaces: Iterable[str], location: str) -> list[str]:
    """The namespaces, each once, when all of them are there and there is a place for their backup."""
    _check_location(system, environment, location)
    chosen = list(dict.fromkeys(namespaces))
    for one in chosen:
        _check_namespace(system, one)
    return chosen


def _check_location(system: KubernetesSystem, environment: Environment, name: str, *, write: bool = True) -> None:
    """Refuse a storage location that is not there, cannot be reached, or (to write) is read-only; without a name the default one."""
    if not system.cluster.knows("velero.io"):
        raise InputError(_("Velero is not installed in this cluster"), _("Install it first"))
    where = environment.velero_namespace
    look = command("kubectl", *environment.kubernetes.kubectl_options, "get", "backupstoragelocations.velero.io", "-n", where)
    known = system.cluster.list(BackupStorageLocation, "backupstoragelocations.velero.io", where)
    # one that says so, else the one of the name that Velero's server takes unless it is told another
    defaults = [one for one in known if one.spec.default] or [one for one in known if one.metadata.name == "default"]
    found = next(iter(defaults if not name else [one for one in known if one.metadata.name == name]), None)
    if found is None:
        what = _("Velero has no storage location {name}", name=one_line(name)) if name else _("Velero has no default storage location")
        raise InputError(what, _("Those that are there"), look)
    if found.status.phase != "Available":
        words = one_line(found.status.message, 300) or _("Velero has not checked it yet")
        raise InputError(
            _("The storage location {name} is not available: {why}", name=found.metadata.name, why=words), _("Mend it first"), look
        )
    if write and found.spec.access_mode == "ReadOnly":
        raise InputError(_("The storage location {name} is read-only", name=found.metadata.name), _("Choose another one"), look)


def _check_namespace(system: KubernetesSystem, name: str) -> None:
    try:
        found = system.cluster.metadata("namespaces", name)
    except NotFound as error:
        raise InputError(
            _("There is no namespace {name}", name=one_line(name)), _("Those that are there"), "kubectl get namespaces"
        ) from error
    if found.metadata.deletion_timestamp:
        raise InputError(_("The namespace {name} is being deleted", name=name))


def _new_name(system: KubernetesSystem, resource: str, name: str, namespace: str) -> str:
    """The name, when it is a valid one that nothing has yet."""
    if not _NAME.fullmatch(name):
        raise InputError(
            _("{name} is no name for an object", name=one_line(name)), _("Small letters, digits and hyphens, 63 of them at most")
        )
    try:
        system.cluster.metadata(resource, name, namespace)
    except NotFound:
        return name
    kind = resource.partition(".")[0]
    raise InputError(_("There is one of the {kind} named {name} already", kind=kind, name=name), _("Choose another name, or leave it out"))


def _backup(system: KubernetesSystem, where: str, name: str) -> Backup:
    if not system.cluster.knows("velero.io"):
        raise InputError(_("Velero is not installed in this cluster"), _("Install it first"))
    try:
        return system.cluster.get(Backup, _BACKUPS, name, where)
    except NotFound as error:
        raise InputError(
            _("There is no backup {name}", name=one_line(name)),
            _("Those that are there"),
            command("kubectl", "get", _BACKUPS, "-n", where),
        ) from error


def _last_of(system: KubernetesSystem, where: str, found: Backup) -> list[Message]:
    """A caution where no other good backup has a namespace that this one has."""
    if found.status.phase != GOOD:
        return []
    others = [one for one in system.cluster.list(Backup, _BACKUPS, where) if one.metadata.name != found.metadata.name]
    good = [one for one in others if one.status.phase == GOOD]
    names = [one.metadata.name for one in system.cluster.metadata_list("namespaces") if found.spec.covers(one.metadata.name)]
    alone = [name for name in names if not any(one.spec.covers(name) for one in good)]
    return [_("No other Completed backup has {names}", names=alone[:20])] if alone else []


def _check_repository(system: ElasticsearchSystem, name: str, *, write: bool) -> list[Message]:
    """Refuse a repository that is not there, does not verify, or (to write) is read-only; what the reader should know all the same."""
    known = system.source.repositories()
    if name not in known:
        raise InputError(
            _("Elasticsearch has no snapshot repository {name}", name=one_line(name)), _("It has {names}", names=sorted(known) or ["-"])
        )
    settings = known[name].settings
    if write and str(settings.get("readonly", settings.get("read_only", ""))).lower() == "true":
        raise InputError(_("The snapshot repository {name} is read-only", name=name), _("Choose another one"))
    try:
        system.source.verify_repository(name)
    except (Unreachable, Unauthenticated):
        raise
    except Forbidden:
        return [_("Whether the repository {name} can be used could not be verified: these credentials may not", name=name)]
    except SourceError as error:
        raise InputError(
            _("The snapshot repository {name} does not verify: {why}", name=name, why=error.what),
            _("See its settings, and whether bucket or path are there and writable"),
            f"GET _snapshot/{name}",
        ) from error
    return []


def _snapshot(system: ElasticsearchSystem, repository: str, name: str) -> Snapshot:
    found = next((one for one in system.source.snapshots(repository) if one.snapshot == name), None)
    if found is None:
        raise InputError(
            _("There is no snapshot {name} in {repository}", name=one_line(name), repository=repository),
            _("Those that are there"),
            f"GET _snapshot/{repository}/_all",
        )
    return found


def _snapshot_path(repository: str, name: str) -> str:
    return f"/_snapshot/{quote(repository, safe='')}/{quote(name, safe='')}"


def _template(namespaces: list[str], kept_hours: float, location: str) -> Object:
    """What a backup takes, as Backup and Schedule have it."""
    spec: Object = {"includedNamespaces": namespaces or ["*"], "ttl": _ttl(kept_hours)}
    return {**spec, "storageLocation": location} if location else spec


def _options(namespaces: list[str], kept_hours: float, location: str) -> list[str]:
    """The same as options of velero's command."""
    options = [f"--include-namespaces={','.join(namespaces)}"] if namespaces else []
    return [*options, f"--ttl={_ttl(kept_hours)}", *([f"--storage-location={location}"] if location else [])]


def _ttl(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60}h{minutes % 60}m0s"


def _create(
    system: KubernetesSystem,
    where: str,
    what: Message,
    kind: str,
    resource: str,
    name: str,
    spec: Object,
    labels: Object | None = None,
) -> Step:
    metadata = {"name": name, "namespace": where, **({"labels": labels} if labels else {})}
    body = {"apiVersion": "velero.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
    request = {"resource": resource, "namespace": where, "name": name, "verb": "create", "body": body}
    preview = system.preview(request)
    return Step(what=what.text(), system=system.name, request=request, before=ABSENT, after=preview.after, difference=preview.difference)


def _phase(system: KubernetesSystem, where: str, resource: str, name: str, what: Message) -> Condition:
    target = {"resource": resource, "namespace": where, "name": name}
    question = {"field": target, "path": ["status", "phase"], "wanted": [GOOD], "never": sorted(BAD)}
    return Condition(what=what.text(), system=system.name, question=question, deadline_seconds=_DAY)
