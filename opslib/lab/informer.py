"""The objects of one collection, kept up to date by list and watch, as controllers do it."""

from __future__ import annotations

import itertools
import operator
import sys
import threading
from collections.abc import Callable
from typing import Any

from opslib.lab.api import Api, ApiError, Object

_PAGE = 250  # what is read at a time, before what it shares with others is given back
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.05, 1.0  # short at first: at the start of a lab its server is a moment away


def shared(new: Any, known: Any) -> Any:
    """What came from a server, with everything that is in `known` at the same place too in the place of its own copy of it.

    Pods of one workload are the same but for a few lines, and a change leaves most of an object as it was.
    """
    if isinstance(new, dict) and isinstance(known, dict):
        fields = {sys.intern(name): shared(value, known.get(name)) for name, value in new.items()}
        return known if len(fields) == len(known) and all(name in known and fields[name] is known[name] for name in fields) else fields
    if isinstance(new, list) and isinstance(known, list):
        items = [shared(value, other) for value, other in zip(new, itertools.chain(known, itertools.repeat(None)), strict=False)]
        return known if len(items) == len(known) and all(map(operator.is_, items, known)) else items
    return known if type(new) is type(known) and new == known else new  # 1 is not True here


def lean(obj: Object, like: dict[str, Object], before: Object | None = None) -> Object:
    """An object without its managedFields, that shares what it can with the one `before`, or the last one of its owner in `like`."""
    obj["metadata"].pop("managedFields", None)
    owner = _owner(obj)
    known = like.get(owner) if before is None else before
    like[owner] = obj = obj if known is None else shared(obj, known)
    return obj


class Informer:
    """Keeps the objects of a collection; tells of each that is new, changed or gone.

    Parameters
    ----------
    path
        The collection: ``/api/v1/pods``.
    on_change
        Called from the informer's thread with "ADDED", "MODIFIED" or "DELETED" and the object (its managedFields left out).

    Objects share what is the same in them (see `shared`), so they are not to be changed.
    """

    def __init__(
        self, api: Api, path: str, on_change: Callable[[str, Object], None] = lambda event, obj: None, *, fields: str = ""
    ) -> None:
        self._api = api
        self._path = path
        self._listeners = [on_change]
        self._fields = fields
        self._objects: dict[str, Object] = {}
        self._like: dict[str, Object] = {}  # by an owner's uid: the object that came last
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.synced = threading.Event()

    def start(self) -> None:
        """Begin; `synced` is set when the first list is in."""
        threading.Thread(target=self._run, name=f"informer {self._path}", daemon=True).start()

    def subscribe(self, listener: Callable[[str, Object], None]) -> None:
        """Tell `listener` too from now on, as `on_change`."""
        self._listeners.append(listener)

    def close(self) -> None:
        """Stop telling."""
        self._stop.set()

    def objects(self) -> list[Object]:
        """The objects as they are now; not to be changed."""
        with self._lock:
            return list(self._objects.values())

    def get(self, namespace: str, name: str) -> Object | None:
        """One of them by its name; namespace "" for what has none."""
        with self._lock:
            for obj in self._objects.values():
                if obj["metadata"]["name"] == name and obj["metadata"].get("namespace", "") == namespace:
                    return obj
        return None

    def _run(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            try:
                listed: list[Object] = []
                version = ""
                for page, at in self._api.pages(self._path, fields=self._fields, limit=_PAGE):
                    listed += [self._lean(obj) for obj in page]
                    version = at
                fresh = {obj["metadata"]["uid"] for obj in listed}
                with self._lock:
                    gone = [obj for uid, obj in self._objects.items() if uid not in fresh]
                for obj in gone:
                    self._note("DELETED", obj)
                for obj in listed:
                    self._note("ADDED", obj)
                self.synced.set()
                pause = _FIRST_PAUSE_SECONDS
                while not self._stop.is_set():
                    for event, obj in self._api.watch(self._path, version, fields=self._fields):
                        version = obj["metadata"]["resourceVersion"]
                        self._note(event, self._lean(obj))
            except ApiError:  # the version is too old, or the server is away: list again
                self._stop.wait(pause)
                pause = min(2 * pause, _LAST_PAUSE_SECONDS)

    def _lean(self, obj: Object) -> Object:
        return lean(obj, self._like, self._objects.get(obj["metadata"]["uid"]))

    def _note(self, event: str, obj: Object) -> None:
        if self._stop.is_set():
            return
        uid = obj["metadata"]["uid"]
        with self._lock:
            if event == "DELETED":
                self._objects.pop(uid, None)
                self._like.pop(_owner(obj), None)  # it may have been the last one of that owner
            else:
                self._objects[uid] = obj
        for listener in self._listeners:
            listener(event, obj)


def _owner(obj: Object) -> str:
    return next((str(one["uid"]) for one in obj["metadata"].get("ownerReferences") or ()), "")
