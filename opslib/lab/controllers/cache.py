"""Copies of collections, kept up to date by watches and by the controllers' own writes.

A controller that has made a pod sees it in its next round, whether or not the watch has told of it yet: answers of the API server go into
the cache at once, and whatever is older than what is there is not heeded. This replaces the "expectations" of the real controllers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from opslib.lab.api import Api, Object, Objects
from opslib.lab.informer import Informer

Handler = Callable[[Object | None, Object | None], None]  # before, after; None: not there

_REMEMBERED = 10_000


class Cache:
    """One collection's objects, all namespaces.

    Parameters
    ----------
    path
        The collection: ``/api/v1/pods``.
    fields
        A field selector; "" for all.
    """

    def __init__(self, api: Api, path: str, *, fields: str = "") -> None:
        self.path = path
        self._lock = threading.Lock()
        self._objects: dict[str, dict[str, Object]] = {}  # by namespace and name
        self._uids: dict[str, Object] = {}
        self._owned: dict[str, dict[str, Object]] = {}  # by an owner's uid and the own one
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._handlers: list[Handler] = []
        self._informer = Informer(api, path, self._told, fields=fields)

    # --- life ---

    def start(self) -> None:
        """Begin to list and watch."""
        self._informer.start()

    def wait(self, seconds: float) -> bool:
        """Whether the first list came in time."""
        return self._informer.synced.wait(seconds)

    @property
    def synced(self) -> bool:
        """Whether the first list is in."""
        return self._informer.synced.is_set()

    def close(self) -> None:
        """Stop watching."""
        self._informer.close()

    def subscribe(self, handler: Handler) -> None:
        """Call `handler` with what an object was and is now, at each change."""
        self._handlers.append(handler)

    # --- reading: objects are not to be changed ---

    def get(self, namespace: str, name: str) -> Object | None:
        """One object by its name; namespace "" for what has none."""
        with self._lock:
            return self._objects.get(namespace, {}).get(name)

    def by_uid(self, uid: str) -> Object | None:
        """One object by its uid."""
        with self._lock:
            return self._uids.get(uid)

    def list(self, namespace: str | None = None) -> Objects:
        """The objects of a namespace; None: of all."""
        with self._lock:
            if namespace is None:
                return [*self._uids.values()]
            return [*self._objects.get(namespace, {}).values()]

    def owned(self, uid: str) -> Objects:
        """The objects whose controller (ownerReferences) has this uid."""
        return [obj for obj in self.dependents(uid) if controller_uid(obj) == uid]

    def dependents(self, uid: str) -> Objects:
        """The objects that have an owner with this uid."""
        with self._lock:
            return [*self._owned.get(uid, {}).values()]

    def orphans(self, namespace: str) -> Objects:
        """The objects of a namespace that have no controller."""
        return self.dependents(_nobody(namespace))

    # --- writing ---

    def note(self, obj: Object) -> None:
        """An object as the server answered it."""
        self._told("MODIFIED", obj)

    def forget(self, obj: Object) -> None:
        """The server says that this object is gone."""
        self._told("DELETED", obj)

    def _told(self, event: str, obj: Object) -> None:
        metadata = obj["metadata"]
        metadata.pop("managedFields", None)
        uid = metadata["uid"]
        with self._lock:
            before = self._uids.get(uid)
            if event == "DELETED":
                self._gone[uid] = None
                if len(self._gone) > _REMEMBERED:
                    self._gone.popitem(last=False)
                if before is None:
                    return
                self._take_out(before)
                after = None
            else:
                if uid in self._gone or (before is not None and _version(before) > _version(obj)):
                    return
                known = before is not None and _version(before) == _version(obj)  # the informer's takes its place, which is kept anyway
                if before is not None:
                    self._take_out(before)
                self._put_in(obj)
                if known:
                    return
                after = obj
        for handler in self._handlers:
            handler(before, after)

    def _put_in(self, obj: Object) -> None:
        metadata = obj["metadata"]
        self._objects.setdefault(metadata.get("namespace", ""), {})[metadata["name"]] = obj
        self._uids[metadata["uid"]] = obj
        for owner in _owners(obj):
            self._owned.setdefault(owner, {})[metadata["uid"]] = obj

    def _take_out(self, obj: Object) -> None:
        metadata = obj["metadata"]
        named = self._objects[metadata.get("namespace", "")]
        if named.get(metadata["name"]) is obj:  # another one may have the name by now
            del named[metadata["name"]]
        del self._uids[metadata["uid"]]
        for owner in _owners(obj):
            owned = self._owned[owner]
            del owned[metadata["uid"]]
            if not owned:
                del self._owned[owner]


def controller_uid(obj: Object) -> str:
    """The uid of the object's controller; "" where it has none."""
    for reference in obj["metadata"].get("ownerReferences", ()):
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def _owners(obj: Object) -> set[str]:
    owners = {reference["uid"] for reference in obj["metadata"].get("ownerReferences") or ()}
    return owners if controller_uid(obj) else owners | {_nobody(obj["metadata"].get("namespace", ""))}


def _nobody(namespace: str) -> str:
    """What stands for the owner of objects that no controller has."""
    return f"nobody's in {namespace}"


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])
