"""The one runner of all controllers: a queue of keys, worked on by a few threads, a key by one of them at a time.

A key that changes while it is worked on is worked on again afterwards. A round that fails is tried again, later each time; a conflict,
which only says that somebody was faster, at once.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from opslib.lab.api import ApiError, Object
from opslib.lab.controllers.clock import Clock

if TYPE_CHECKING:
    from opslib.lab.controllers.cluster import Cluster

log = logging.getLogger(__name__)

Keys = Callable[["Cluster", Object], Iterable[str]]

_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.02, 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A controller: what it watches, and what it does for a key.

    Parameters
    ----------
    name
        As the real one's, where there is one: "deployment".
    reconcile
        Brings one key's state nearer to what is wanted. It may be called at any time and as often as one likes. It returns after how many
        seconds to look again; None: when something changes.
    watches
        For each resource ("pods", "deployments.apps"): the keys that a change of an object concerns. It is called with the object as it
        was and as it is now.
    begin
        Keys that are due at the start; resources' objects are told of one by one besides.
    """

    name: str
    reconcile: Callable[[Cluster, str], float | None]
    watches: Mapping[str, Keys]
    begin: tuple[str, ...] = ()


Item = tuple[str, str]  # controller, key


@dataclass(slots=True)
class Runner:
    """See the module's text."""

    cluster: Cluster
    clock: Clock
    controllers: tuple[Controller, ...]
    workers: int = 8
    _queue: deque[Item] = field(default_factory=deque)
    _waiting: set[Item] = field(default_factory=set)
    _working: set[Item] = field(default_factory=set)
    _again: set[Item] = field(default_factory=set)
    _later: list[tuple[datetime, int, Item]] = field(default_factory=list)
    _due: dict[Item, datetime] = field(default_factory=dict)
    _failures: dict[Item, int] = field(default_factory=dict)
    _wake: threading.Condition = field(default_factory=threading.Condition)
    _clock_wake: threading.Condition = field(default_factory=threading.Condition)
    _count: itertools.count[int] = field(default_factory=itertools.count)
    _stopped: bool = False

    def subscribe(self) -> None:
        """Have the caches tell of changes from now on; they are taken up after `start`."""
        for one in self.controllers:
            for resource, keys in one.watches.items():
                self.cluster[resource].subscribe(self._handler(one.name, keys))
            for key in one.begin:
                self.add(one.name, key)

    def start(self) -> None:
        """Begin to work."""
        by_name = {one.name: one for one in self.controllers}
        for number in range(self.workers):
            threading.Thread(target=self._work, args=(by_name,), name=f"controllers {number}", daemon=True).start()
        threading.Thread(target=self._tick, name="controllers' clock", daemon=True).start()

    def close(self) -> None:
        """Stop; rounds that are under way end by themselves."""
        for condition in (self._wake, self._clock_wake):
            with condition:
                self._stopped = True
                condition.notify_all()

    def add(self, name: str, key: str) -> None:
        """Work on a key soon."""
        item = (name, key)
        with self._wake:
            if item in self._working:
                self._again.add(item)
            elif item not in self._waiting:
                self._waiting.add(item)
                self._queue.append(item)
                self._wake.notify()

    def add_after(self, name: str, key: str, seconds: float) -> None:
        """Work on a key in so many seconds of the clock; of several such wishes for one key the earliest counts."""
        item, due = (name, key), self.clock.now() + timedelta(seconds=seconds)
        with self._clock_wake:
            known = self._due.get(item)
            if known is not None and known <= due:
                return
            self._due[item] = due
            heapq.heappush(self._later, (due, next(self._count), item))
            self._clock_wake.notify()

    def idle(self) -> bool:
        """Whether nothing is queued or worked on now (what is due later does not count)."""
        with self._wake:
            return not self._queue and not self._working

    def _handler(self, name: str, keys: Keys) -> Callable[[Object | None, Object | None], None]:
        def changed(before: Object | None, after: Object | None) -> None:
            wanted: dict[str, None] = {}
            for obj in (before, after):
                if obj is not None:
                    wanted.update(dict.fromkeys(keys(self.cluster, obj)))
            for key in wanted:
                self.add(name, key)

        return changed

    def _work(self, by_name: Mapping[str, Controller]) -> None:
        while True:
            with self._wake:
                while not self._queue and not self._stopped:
                    self._wake.wait()
                if self._stopped:
                    return
                item = self._queue.popleft()
                self._waiting.discard(item)
                self._working.add(item)
            name, key = item
            try:
                seconds = by_name[name].reconcile(self.cluster, key)
            except ApiError as error:
                self._retry(item, error, at_once=error.status == 409)
            except Exception as error:  # a defect in one controller must not stop the others
                log.exception("%s failed for %s", name, key)
                self._retry(item, error)
            else:
                self._failures.pop(item, None)
                if seconds is not None:
                    self.add_after(name, key, max(seconds, 0.0))
            with self._wake:
                self._working.discard(item)
                if item in self._again:
                    self._again.discard(item)
                    if item not in self._waiting:
                        self._waiting.add(item)
                        self._queue.append(item)
                        self._wake.notify()

    def _retry(self, item: Item, error: Exception, *, at_once: bool = False) -> None:
        count = self._failures.get(item, 0)
        self._failures[item] = count + 1
        log.debug("%s %s: attempt %d: %s", *item, count + 1, error)
        seconds = min(_FIRST_RETRY_SECONDS * 2.0 ** min(count, 20), _LAST_RETRY_SECONDS)
        if at_once and count < 3:
            seconds = _FIRST_RETRY_SECONDS / 2
        self.add_after(*item, seconds * self.clock.speed if at_once else seconds)

    def _tick(self) -> None:
        """Take up what is due. The clock may change its speed or jump, so it is asked at least once a second where anything is due."""
        with self._clock_wake:
            while not self._stopped:
                now = self.clock.now()
                while self._later and self._later[0][0] <= now:
                    due, _number, item = heapq.heappop(self._later)
                    if self._due.get(item) == due:
                        del self._due[item]
                        self.add(*item)
                if self._later:
                    seconds = (self._later[0][0] - now).total_seconds() / max(self.clock.speed, 1e-9)
                    self._clock_wake.wait(min(max(seconds, 0.001), 1.0))
                else:
                    self._clock_wake.wait()
