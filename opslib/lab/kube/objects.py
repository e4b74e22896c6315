"""Creating, changing and deleting objects: what each verb does to the store, whatever came over the wire before."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from opslib.lab.kube import admission, defaults, errors, events, ownership, patches, validation
from opslib.lab.kube.access import User
from opslib.lab.kube.decoding import Found, conform, fill, object_of
from opslib.lab.kube.errors import Object, bad_request, conflict, not_found
from opslib.lab.kube.resources import Resource
from opslib.lab.kube.store import Exists, Record, Store
from opslib.lab.kube.webhooks import Request, Webhooks

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
# kinds whose metadata has a generation
GENERATIONS = {
    "pods", "deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "cronjobs.batch",
    "replicationcontrollers", "ingresses.networking.k8s.io", "networkpolicies.networking.k8s.io", "poddisruptionbudgets.policy",
    "customresourcedefinitions.apiextensions.k8s.io", "endpointslices.discovery.k8s.io", "priorityclasses.scheduling.k8s.io",
    "mutatingwebhookconfigurations.admissionregistration.k8s.io", "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "ingressclasses.networking.k8s.io",
}  # fmt: skip
# kinds that a status is not taken from at creation
_STATUS_RESET = {
    "pods", "deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "cronjobs.batch",
    "replicationcontrollers", "ingresses.networking.k8s.io", "poddisruptionbudgets.policy", "services", "persistentvolumeclaims",
    "persistentvolumes", "namespaces", "horizontalpodautoscalers.autoscaling", "resourcequotas",
    "customresourcedefinitions.apiextensions.k8s.io", "certificatesigningrequests.certificates.k8s.io",
}  # fmt: skip
_CREATED_BY_UPDATE = {
    "events", "endpoints", "leases.coordination.k8s.io", "limitranges", "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io", "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
}  # fmt: skip
_VERSION_NEEDED = {"ingresses.networking.k8s.io", "leases.coordination.k8s.io", "customresourcedefinitions.apiextensions.k8s.io"}
# kinds of which a deletion answers with the object
_DELETED_SHOWN = {
    "pods", "services", "serviceaccounts", "persistentvolumes", "persistentvolumeclaims", "podtemplates", "resourcequotas",
    "replicationcontrollers@",
}  # fmt: skip


_JOBS_KEPT = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set"
    " propagationPolicy=Orphan to suppress this warning"
)


@dataclass(slots=True)
class Options:
    """How a change is to be done.

    Parameters
    ----------
    given
        The options that the request names, as webhooks see them.
    admitted
        Webhooks have been asked already: about a Scale, or an Eviction.
    """

    user: User
    manager: str = ""
    dry_run: bool = False
    validation: str = "Warn"
    force: bool = False
    warnings: list[str] = field(default_factory=list)
    given: Object = field(default_factory=dict)
    admitted: bool = False


@dataclass(slots=True)
class Result:
    """What a change leaves: the object, and whether it is new, or gone."""

    obj: Object
    created: bool = False
    deleted: bool = False
    record: Record | None = None


def now_text() -> str:
    """The time as objects have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """The verbs over one store. They wait for nothing but webhooks."""

    def __init__(self, store: Store, world: admission.World, hooks: Webhooks) -> None:
        self._store = store
        self._world = world
        self.hooks = hooks

    def record(self, resource: Resource, namespace: str, name: str) -> Record:
        """The stored object.

        Raises
        ------
        Refused
            404.
        """
        record = self._store.get(resource.storage, (namespace, name))
        if record is None:
            raise not_found(resource.group, resource.plural, name)
        return record

    def decode(self, resource: Resource, data: Any, options: Options) -> Object:
        """An object from a body."""
        if isinstance(data, dict) and resource.custom is not None:
            for what in ("apiVersion", "kind"):
                if not data.get(what):
                    raise bad_request(f"Object '{'Kind' if what == 'kind' else what}' is missing in '{_compact(data)}'")
        obj, warnings = object_of(
            data, resource.node(), resource.kind, resource.api_version, options.validation, custom=resource.custom is not None
        )
        options.warnings += warnings
        return obj

    # --- create ---

    async def create(
        self, resource: Resource, namespace: str, obj: Object, options: Options, *, fields: Callable[[Object], None] | None = None
    ) -> Result:
        """Add an object."""
        metadata = obj["metadata"]
        self._place(resource, namespace, metadata)
        if metadata.get("resourceVersion") and not options.dry_run:
            raise errors.Refused(500, "InternalError", "resourceVersion should not be set on objects to be created", {})
        metadata.pop("resourceVersion", None)
        for name in ("uid", "creationTimestamp", "generation", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(name, None)
        defaults.apply_defaults(resource.storage, obj)
        if resource.custom is not None:
            validation.custom_defaults(resource, obj)
        noted = copy.deepcopy(obj)  # fields belong to who gave them, before the server adds its own
        if fields is not None:
            fields(noted)
        else:
            if resource.custom is None:
                fill(noted, resource.node())
            self._note(resource, None, noted, options, "")
        generated = not metadata.get("name") and bool(metadata.get("generateName"))
        if generated:
            metadata["name"] = self._free_name(resource, metadata)
        if resource.storage in _STATUS_RESET or (resource.custom is not None and "status" in resource.subresources):
            obj.pop("status", None)
        metadata["creationTimestamp"] = now_text()
        metadata["uid"] = str(uuid.uuid4())
        if resource.storage in GENERATIONS or resource.custom is not None:
            metadata["generation"] = 1
        admission.prepare(resource, obj)
        defaults.apply_defaults(resource.storage, obj)
        self._world.admit_create(resource, obj, options)
        name = "" if generated else metadata.get("name", "")
        made = ("uid", "creationTimestamp", "generation", *(("name",) if generated else ()))
        request = Request(resource, "CREATE", obj, None, options, name, metadata.get("namespace", ""), made=made)
        changed = await self.hooks.mutate(request, lambda changed: self._world.complete_again(resource, changed))
        if changed is not None:
            obj, metadata = changed, changed["metadata"]
        self._world.guard(resource, obj)
        problems = validation.create(resource, obj)
        if problems:
            raise errors.invalid_object(resource.group, resource.kind, metadata.get("name", ""), problems)
        if resource.custom is None:
            fill(obj, resource.node())
        if "managedFields" in noted["metadata"]:
            metadata["managedFields"] = noted["metadata"]["managedFields"]
        await self.hooks.validate(replace(request, obj=obj, name=metadata["name"], made=()))
        key = (metadata.get("namespace", ""), metadata["name"])
        if self._store.get(resource.storage, key) is not None:
            raise errors.already_exists(resource.group, resource.plural, metadata["name"])
        self._world.check_quota(resource, obj, None, charge=not options.dry_run)
        if options.dry_run:
            return Result(obj, created=True)
        try:
            record = self._store.create(resource.storage, key, obj)
        except Exists:
            raise errors.already_exists(resource.group, resource.plural, metadata["name"]) from None
        self._world.created(resource, obj)
        return Result(obj, created=True, record=record)

    def _free_name(self, resource: Resource, metadata: Object) -> str:
        """A name from generateName that is not taken; after eight tries any, as the real server does."""
        name = ""
        for _attempt in range(8):
            name = str(metadata["generateName"])[:58] + "".join(secrets.choice(_SUFFIX) for _ in range(5))
            if self._store.get(resource.storage, (metadata.get("namespace", ""), name)) is None:
                break
        return name

    def _place(self, resource: Resource, namespace: str, metadata: Object) -> None:
        if resource.namespaced:
            if not namespace:
                raise bad_request("an empty namespace may not be set during creation")
            if metadata.get("namespace") and metadata["namespace"] != namespace:
                raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
            metadata["namespace"] = namespace
        elif metadata.get("namespace"):
            metadata.pop("namespace")

    def _note(self, resource: Resource, live: Object | None, obj: Object, options: Options, subresource: str) -> None:
        spoken, before = obj, live
        if resource.group == "events.k8s.io":  # fields are named as the request named them
            spoken = events.spoken(obj)
            before = events.spoken(live) if live is not None else None
        ownership.updated(
            before,
            spoken,
            resource.node(),
            manager=options.manager,
            api_version=resource.api_version,
            subresource=subresource,
            time=now_text(),
            resets_status="status" in resource.subresources,
        )

    # --- update ---

    async def update(
        self, resource: Resource, namespace: str, name: str, obj: Object, options: Options, *, subresource: str = ""
    ) -> Result:
        """Put an object in the place of the stored one."""
        metadata = obj["metadata"]
        if metadata.get("name") and metadata["name"] != name:
            raise bad_request(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
        if not metadata.get("name"):
            raise bad_request("name must be provided")
        if resource.namespaced and metadata.get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        record = self._store.get(resource.storage, (namespace, name))
        if record is None:
            if resource.storage in _CREATED_BY_UPDATE and not subresource:
                return await self.create(resource, namespace, obj, options)
            raise not_found(resource.group, resource.plural, name)
        given = metadata.get("resourceVersion")
        if not given and (resource.custom is not None or resource.storage in _VERSION_NEEDED) and not subresource:
            problem = errors.invalid("metadata.resourceVersion", 0, "must be specified for an update")
            raise errors.invalid_object(resource.group, resource.kind, name, [problem])
        live = record.object()
        if metadata.get("uid") and metadata["uid"] != live["metadata"].get("uid"):
            place = "/".join(part for part in (resource.plural, namespace, name) if part)
            why = (
                f"StorageError: invalid object, Code: 4, Key: /registry/{place}, ResourceVersion: 0, AdditionalErrorMsg: "
                f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {live['metadata'].get('uid')}"
            )
            raise conflict(resource.group, resource.plural, name, why)
        if given and given not in ("0", str(record.version)):
            raise conflict(resource.group, resource.plural, name)
        return await self.change(resource, record, live, obj, options, subresource=subresource)

    async def change(
        self,
        resource: Resource,
        record: Record,
        live: Object,
        obj: Object,
        options: Options,
        *,
        subresource: str = "",
        noted: bool = False,
    ) -> Result:
        """Turn the stored `live` into `obj`, as far as `subresource` (none: the object itself) may.

        Raises
        ------
        Refused
            It may not become so.
        Changed
            It became another one while webhooks were asked (`opslib.lab.kube.store`).
        """
        node = resource.node()
        name = record.name
        given = obj["metadata"]
        obj = self._allowed(resource, live, obj, subresource)
        metadata, before = obj["metadata"], live["metadata"]
        metadata["name"] = name
        if record.namespace:
            metadata["namespace"] = record.namespace
        for one in (
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "selfLink",
            "generateName",
        ):
            if one in before:
                metadata[one] = before[one]
            else:
                metadata.pop(one, None)
        if not noted and "managedFields" not in given and "managedFields" in before:
            metadata["managedFields"] = before["managedFields"]
        if not subresource:
            admission.prepare_update(resource, live, obj)
            defaults.apply_defaults(resource.storage, obj)
            if resource.custom is not None:
                validation.custom_defaults(resource, obj)
        self._world.admit_update(resource, live, obj, options, subresource)
        request = Request(resource, "UPDATE", obj, live, options, name, record.namespace, subresource)
        mine = obj
        changed = None if options.admitted else await self.hooks.mutate(request)
        if changed is not None:
            obj = self._allowed(resource, live, changed, subresource)
            metadata = obj["metadata"]
            if resource.custom is not None:
                validation.custom_defaults(resource, obj)
        problems = validation.update(resource, live, obj, subresource)
        if problems:
            raise errors.invalid_object(resource.group, resource.kind, name, problems)
        if resource.custom is None:
            fill(obj, node)
        if resource.storage == "daemonsets.apps":
            admission.number_template(live, obj)
        if (
            (resource.storage in GENERATIONS or resource.custom is not None)
            and subresource != "status"
            and _content(live, resource) != _content(obj, resource)
        ):
            metadata["generation"] = before.get("generation", 0) + 1
        metadata["resourceVersion"] = str(record.version)
        if not noted:
            if mine is not obj and resource.custom is None:
                fill(mine, node)
            self._note(resource, live, mine, options, subresource)  # what webhooks change belongs to nobody
            if "managedFields" in mine["metadata"]:
                metadata["managedFields"] = mine["metadata"]["managedFields"]
        elif _without_times(obj) == _without_times(live):
            obj = live  # applied again: nothing has changed
        if not options.admitted:
            await self.hooks.validate(replace(request, obj=obj))
        self._world.check_quota(resource, obj, live, charge=not options.dry_run)
        gone = bool(before.get("deletionTimestamp")) and not metadata.get("finalizers") and self._may_go(resource, before, obj)
        if options.dry_run:
            return Result(obj, deleted=gone)
        if gone:
            removed = self._store.delete(resource.storage, record, obj)
            self._world.deleted(resource, obj)
            return Result(obj, deleted=True, record=removed)
        updated = self._store.update(resource.storage, obj, record)
        self._world.updated(resource, live, obj)
        return Result(obj, record=updated)

    def _may_go(self, resource: Resource, before: Object, obj: Object) -> bool:
        """Whether an object under deletion goes once its finalizers are gone."""
        if resource.storage == "namespaces":
            return not (obj.get("spec") or {}).get("finalizers")
        if resource.storage == "pods":
            return not before.get("deletionGracePeriodSeconds")
        return True

    def _allowed(self, resource: Resource, live: Object, obj: Object, subresource: str) -> Object:
        """`obj` with the parts that this way of changing leaves alone as they were."""
        if not subresource:
            if "status" in resource.subresources and resource.storage not in ("nodes@",):
                _keep(live, obj, "status")
            if resource.storage == "namespaces":
                _keep(live, obj, "spec")
            return obj
        changed = copy.deepcopy(live)
        metadata = obj["metadata"]
        if "managedFields" in metadata:
            changed["metadata"]["managedFields"] = metadata["managedFields"]
        if subresource == "status":
            if resource.custom is None:
                for part in (
                    ("annotations", "labels", "finalizers")
                    if resource.storage in ("nodes", "pods", "namespaces", "persistentvolumes")
                    else ("annotations",)
                ):
                    _keep(metadata, changed["metadata"], part)
            _keep(obj, changed, "status")
            if resource.storage == "certificatesigningrequests.certificates.k8s.io":
                _keep(obj, changed, "status")
        elif subresource == "finalize":
            changed.setdefault("spec", {}).pop("finalizers", None)
            finalizers = (obj.get("spec") or {}).get("finalizers")
            if finalizers:
                changed["spec"]["finalizers"] = finalizers
        elif subresource == "ephemeralcontainers":
            there = (obj.get("spec") or {}).get("ephemeralContainers") or []
            if there:
                changed["spec"]["ephemeralContainers"] = there
            for one in there:
                defaults.container(one)
        elif subresource == "resize":
            wanted = {one.get("name"): one.get("resources") for one in (obj.get("spec") or {}).get("containers") or []}
            for one in changed["spec"].get("containers") or []:
                if wanted.get(one.get("name")) is not None:
                    one["resources"] = wanted[one["name"]]
        elif subresource == "approval":
            conditions = (obj.get("status") or {}).get("conditions")
            changed.setdefault("status", {})["conditions"] = conditions or []
        elif subresource == "scale":
            return obj
        return changed

    # --- patch ---

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        kind: str,
        patch: Any,
        options: Options,
        *,
        subresource: str = "",
    ) -> Result:
        """Change an object by a patch of the content type `kind`."""
        record = self._store.get(resource.storage, (namespace, name))
        if kind == patches.APPLY_PATCH:
            return await self._apply(resource, namespace, name, record, patch, options, subresource)
        if record is None:
            raise not_found(resource.group, resource.plural, name)
        live = record.object()
        node = resource.node()
        whole: Object = {"apiVersion": resource.api_version, "kind": resource.kind, **copy.deepcopy(live)}
        if kind == patches.JSON_PATCH:
            patched = patches.json_patch(whole, patch)
        elif kind == patches.MERGE_PATCH:
            if not isinstance(patch, dict):
                raise bad_request("error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}")
            patched = patches.merge_patch(whole, patch)
        elif resource.custom is not None:
            raise errors.Refused(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: "
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )
        else:
            patched = patches.strategic_patch(whole, patch, node)
        obj, warnings = self._decode_patched(resource, patched, options, kind, patch)
        options.warnings += warnings
        given = obj["metadata"].get("resourceVersion")
        if given and given != str(record.version):
            raise conflict(resource.group, resource.plural, name)
        if obj["metadata"].get("name", name) != name:
            raise bad_request(f"the name of the object ({obj['metadata']['name']}) does not match the name on the URL ({name})")
        if obj["metadata"].get("uid") != live["metadata"].get("uid"):
            problem = errors.invalid("metadata.uid", obj["metadata"].get("uid", ""), "field is immutable")
            raise errors.invalid_object(resource.group, resource.kind, name, [problem] * (1 if resource.custom is not None else 2))
        return await self.change(resource, record, live, obj, options, subresource=subresource)

    def _decode_patched(self, resource: Resource, patched: Any, options: Options, kind: str, patch: Any) -> tuple[Object, list[str]]:
        try:
            return object_of(
                patched, resource.node(), resource.kind, resource.api_version, options.validation, custom=resource.custom is not None
            )
        except errors.Refused as error:
            strict = error.message.partition("strict decoding error: ")[2]
            wrong = re.search(r"of type ([\w.]+)$", error.message)
            if strict:
                problem = errors.invalid("patch", _compact(patched), f"strict decoding error: {strict}")
            elif wrong and kind == patches.STRATEGIC_PATCH:
                problem = errors.invalid("patch", patches.shown(patch), f"unrecognized type: {wrong[1]}")
            else:
                raise
            raise errors.invalid_object("", "", "", [problem]) from None

    async def _apply(
        self, resource: Resource, namespace: str, name: str, record: Record | None, config: Any, options: Options, subresource: str
    ) -> Result:
        if not isinstance(config, dict):
            raise bad_request("error decoding YAML: object expected")
        if not options.manager:
            raise bad_request('PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch')
        if (config.get("metadata") or {}).get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        kind, version = config.get("kind"), config.get("apiVersion")
        if kind != resource.kind or version != resource.api_version:
            raise bad_request(
                f"invalid object type: {str(version).rpartition('/')[0] or '/'}{str(version).rpartition('/')[2]}, Kind={kind}"
                if kind
                else "Object 'Kind' is missing in '{}'"
            )
        wanted, warnings = object_of(
            config,
            resource.node(),
            resource.kind,
            resource.api_version,
            options.validation,
            as_written=True,
            custom=resource.custom is not None,
        )
        unknown = [text for text in self._unknown(resource, config) if resource.custom is None]
        if unknown:
            place = f"{(config.get('metadata') or {}).get('namespace', '')}/{(config.get('metadata') or {}).get('name', '')}"
            about = f"({place}; {resource.api_version}, Kind={resource.kind})"
            raise errors.Refused(500, "", f"failed to create typed patch object {about}: .{unknown[0]}: field not declared in schema")
        options.warnings += warnings
        metadata = wanted["metadata"]
        if metadata.get("name", name) != name:
            raise bad_request(f"the name of the object ({metadata.get('name')}) does not match the name on the URL ({name})")
        metadata["name"] = name
        if resource.namespaced:
            metadata["namespace"] = namespace
        given = metadata.pop("resourceVersion", None)
        common: Mapping[str, Any] = {
            "manager": options.manager,
            "api_version": resource.api_version,
            "subresource": subresource,
            "force": options.force,
            "time": now_text(),
        }
        if record is None:
            if subresource:
                raise not_found(resource.group, resource.plural, name)
            if metadata.get("uid"):
                why = f"uid mismatch: the provided object specified uid {metadata['uid']}, and no existing object was found"
                raise conflict(resource.group, resource.plural, name, why)
            obj, _again = object_of(
                config, resource.node(), resource.kind, resource.api_version, "Ignore", custom=resource.custom is not None
            )

            def note(complete: Object) -> None:
                entries = ownership.applied(None, wanted, resource.node(), **common)["metadata"].get("managedFields")
                if entries:  # who applies nothing but a name owns nothing
                    complete["metadata"]["managedFields"] = entries

            return await self.create(resource, namespace, obj, options, fields=note)
        if given and given != str(record.version):
            raise conflict(resource.group, resource.plural, name)
        live = record.object()
        before = (live["metadata"].get("annotations") or {}).get(_LAST_APPLIED) if options.manager == "kubectl" else None
        allowed: set[ownership.Path] = set()
        if (
            before
        ):  # applied by the client until now: what stands there as it left it is taken over (managedfields/internal/lastapplied*.go)
            with contextlib.suppress(ValueError):
                allowed = ownership.agreed(live, json.loads(before), resource.node())
        merged = ownership.applied(live, wanted, resource.node(), **common, allowed=allowed)
        if before:
            merged["metadata"].setdefault("annotations", {})[_LAST_APPLIED] = _last_applied(config)
        entries = merged["metadata"].get("managedFields")
        merged, _again = object_of(
            merged, resource.node(), resource.kind, resource.api_version, "Ignore", custom=resource.custom is not None
        )
        if entries:
            merged["metadata"]["managedFields"] = entries
        return await self.change(resource, record, live, merged, options, subresource=subresource, noted=True)

    @staticmethod
    def _unknown(resource: Resource, config: Object) -> list[str]:
        found = Found()
        conform(config, resource.node(), "", found)
        return found.unknown

    # --- delete ---

    async def delete(self, resource: Resource, record: Record, given: Object, options: Options) -> Result:
        """Delete an object, or begin to. `given` is the DeleteOptions."""
        if not options.admitted:
            asked = Request(resource, "DELETE", None, record.object(), options, record.name, record.namespace, given=given)
            await self.hooks.admit(asked)
            record = self.record(resource, record.namespace, record.name)
        live = record.object()
        metadata = live["metadata"]
        name = record.name
        wanted = given.get("preconditions") or {}
        if wanted.get("uid") is not None and wanted["uid"] != metadata.get("uid"):
            why = (
                f"the UID in the precondition ({wanted['uid']}) does not match the UID in record ({metadata.get('uid')}). "
                "The object might have been deleted and then recreated"
            )
            raise conflict(resource.group, resource.kind, name, why)
        if wanted.get("resourceVersion") is not None and wanted["resourceVersion"] != str(record.version):
            why = (
                f"the ResourceVersion in the precondition ({wanted['resourceVersion']}) does not match the ResourceVersion in record "
                f"({record.version}). The object might have been modified"
            )
            raise conflict(resource.group, resource.kind, name, why)
        self._world.admit_delete(resource, live)
        propagation = _propagation(given)
        finalizers = [one for one in metadata.get("finalizers") or [] if one not in ("orphan", "foregroundDeletion") or propagation is None]
        if propagation == "Orphan" and "orphan" not in finalizers:
            finalizers.append("orphan")
        elif propagation == "Foreground" and "foregroundDeletion" not in finalizers:
            finalizers.append("foregroundDeletion")
        elif propagation is None and resource.storage in ("replicationcontrollers", "jobs.batch") and "orphan" not in finalizers:
            finalizers.append("orphan")
            if resource.storage == "jobs.batch":
                options.warnings.append(_JOBS_KEPT)
        obj = copy.deepcopy(live)
        if finalizers:
            obj["metadata"]["finalizers"] = finalizers
        else:
            obj["metadata"].pop("finalizers", None)
        seconds = self._grace(resource, live, given)
        namespace_stays = resource.storage == "namespaces" and bool((live.get("spec") or {}).get("finalizers"))
        if not finalizers and not seconds and not namespace_stays:
            if resource.storage == "pods":
                obj["metadata"].setdefault("deletionTimestamp", now_text())
                obj["metadata"]["deletionGracePeriodSeconds"] = 0
            if options.dry_run:
                return Result(obj, deleted=True)
            removed = self._store.delete(resource.storage, record, obj)
            self._world.deleted(resource, live)
            return Result(obj, deleted=True, record=removed)
        there = metadata.get("deletionTimestamp")
        if there is None:
            obj["metadata"]["deletionTimestamp"] = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
            obj["metadata"]["deletionGracePeriodSeconds"] = seconds
            if resource.storage in GENERATIONS and obj["metadata"].get("generation"):
                obj["metadata"]["generation"] += 1
        elif seconds < metadata.get("deletionGracePeriodSeconds", 0):
            begun = datetime.fromisoformat(there) - timedelta(seconds=metadata.get("deletionGracePeriodSeconds", 0))
            obj["metadata"]["deletionTimestamp"] = (begun + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
            obj["metadata"]["deletionGracePeriodSeconds"] = seconds
        if resource.storage == "namespaces":
            obj.setdefault("status", {})["phase"] = "Terminating"
        if options.dry_run:
            return Result(obj)
        updated = self._store.update(resource.storage, obj, record)
        self._world.updated(resource, live, obj)
        return Result(obj, record=updated)

    def _grace(self, resource: Resource, live: Object, given: Object) -> int:
        if resource.storage != "pods":
            return 0
        spec, status = live.get("spec") or {}, live.get("status") or {}
        if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
            return 0
        asked = given.get("gracePeriodSeconds")
        if asked is None:
            asked = spec.get("terminationGracePeriodSeconds", 30)
        return max(int(asked), 1 if int(asked) < 0 else 0)

    @staticmethod
    def shows_deleted(resource: Resource) -> bool:
        """Whether an answer to a deletion is the object (else a Status)."""
        return resource.storage in _DELETED_SHOWN


def _propagation(given: Object) -> str | None:
    policy = given.get("propagationPolicy")
    if policy is not None:
        return str(policy)
    if given.get("orphanDependents") is not None:
        return "Orphan" if given["orphanDependents"] else "Background"
    return None


def _keep(source: Object, target: Object, part: str) -> None:
    if part in source:
        target[part] = copy.deepcopy(source[part])
    else:
        target.pop(part, None)


def _content(obj: Object, resource: Resource) -> Object:
    left_out = {"metadata", "status"} if resource.custom is None or "status" in resource.subresources else {"metadata"}
    return {name: value for name, value in obj.items() if name not in left_out}


def _without_times(obj: Object) -> Object:
    metadata = {**obj["metadata"]}
    metadata["managedFields"] = [{**one, "time": ""} for one in metadata.get("managedFields") or []]
    return {**obj, "metadata": metadata}


def _last_applied(config: Object) -> str:
    metadata = {name: value for name, value in config["metadata"].items() if name != "managedFields"}
    annotations = {name: value for name, value in (metadata.get("annotations") or {}).items() if name != _LAST_APPLIED}
    metadata.pop("annotations", None)
    content = {**config, "metadata": {**metadata, "annotations": annotations} if annotations else metadata}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e") + "\n"


def _kind_name(resource: Resource) -> str:
    return f"{resource.kind}.{resource.group}" if resource.group else resource.kind


def _compact(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"))
