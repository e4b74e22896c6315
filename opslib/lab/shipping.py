"""The world's logs in Elasticsearch: a week of history, the newest first, then lines as time goes by."""

from __future__ import annotations

import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import urllib3

from opslib.errors import OpsError
from opslib.lab.container_logs import pods_of
from opslib.lab.rest import Rest
from opslib.messages import _

if TYPE_CHECKING:
    from opslib.lab.api import Object
    from opslib.lab.world import World

_HOUR, _DAY = 3600.0, 86400.0
_STEPS = (_HOUR, 5 * _HOUR, 6 * _HOUR, 12 * _HOUR)  # the newest are there first, in small steps
_LIVE_SECONDS = 3.0
_LINES = 2000  # of a request
_REST = 2.0  # times as long as work took: the days before the last one are for who looks back, and come when there is time

_TEMPLATE = {
    "index_patterns": ["logs-*"],
    "template": {
        "settings": {"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "1s"},
        "mappings": {
            "properties": {
                "@timestamp": {"type": "date"},
                "message": {"type": "text"},
                "log": {"properties": {"level": {"type": "keyword"}, "logger": {"type": "keyword"}}},
                "service": {"properties": {"name": {"type": "keyword"}, "version": {"type": "keyword"}}},
                "error": {"properties": {"type": {"type": "keyword"}, "message": {"type": "text"}, "stack_trace": {"type": "text"}}},
                "kubernetes": {
                    "properties": {
                        "namespace": {"type": "keyword"},
                        "pod": {"properties": {"name": {"type": "keyword"}}},
                        "container": {"properties": {"name": {"type": "keyword"}}},
                        "node": {"properties": {"name": {"type": "keyword"}}},
                        "labels": {"properties": {"app": {"type": "keyword"}, "team": {"type": "keyword"}}},
                    }
                },
                "trace": {"properties": {"id": {"type": "keyword"}}},
            }
        },
    },
}


class Writer:
    """Writes logs to ``logs-YYYY.MM.DD``, from threads of its own. When something breaks in the past, what it wrote since then is added.

    Parameters
    ----------
    address
        Elasticsearch's base address.
    world
        Gives the world of now.
    pods
        Gives the pods of the cluster, which write from now on; None: the world's own do.
    days
        How much history there is.
    waits
        Whether something is going on for which the past has to wait: to write it takes most of a processor for a minute.
    """

    def __init__(
        self,
        address: str,
        world: Callable[[], World],
        pods: Callable[[], list[Object]] | None,
        *,
        days: int = 7,
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self.recent = threading.Event()
        """Set when the last hours are in."""
        self._address = address
        self._world = world
        self._pods = pods
        self._days = days
        self._waits = waits
        self._begun = time.time()
        self._stop = threading.Event()
        self._pool = urllib3.PoolManager(retries=False, timeout=60, maxsize=2)

    def start(self) -> None:
        """Begin; returns at once."""
        threading.Thread(target=self._past, name="logs of the past", daemon=True).start()
        threading.Thread(target=self._live, name="logs of now", daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()

    def _past(self) -> None:
        """The days before the start. It goes on until all is written: what is written twice is refused by its id."""
        if not self._until_done(lambda: self._send("PUT", "/_index_template/logs", json.dumps(_TEMPLATE))):
            return
        end = self._begun
        for step, times in (*((step, 0.0) for step in _STEPS), *itertools.repeat((_DAY, _REST), self._days - 1)):
            begin = end - step
            if not self._until_done(functools.partial(self._write, begin, end, Rest(times))):
                return
            self.recent.set()
            end = begin

    def _live(self) -> None:
        from opslib.lab.world import logs

        until, known = self._begun, self._world().faults
        while not self._stop.wait(_LIVE_SECONDS):
            world, now = self._world(), time.time()
            added = [timed for timed in world.faults if timed not in known]
            pods = None if self._pods is None else pods_of(world, self._pods())
            try:
                if added:
                    # as if they had begun then: by the pods of that time, and by those of now since the start
                    since = min(timed.start for timed in added)
                    self._bulk(logs.bulk(world, since, min(self._begun, until)))
                    self._bulk(logs.bulk(world, max(since, self._begun), until, pods=pods))
                self._bulk(logs.bulk(world, until, now, pods=pods))
            except OpsError:
                continue  # it is away, perhaps on purpose; the next round tries again
            until, known = now, world.faults

    def _until_done(self, work: Callable[[], object]) -> bool:
        """Whether it was done; it is tried until then, or until the lab ends."""
        while not self._stop.is_set():
            try:
                work()
            except OpsError:
                self._stop.wait(2)
            else:
                return True
        return False

    def _write(self, begin: float, end: float, rest: Rest) -> None:
        from opslib.lab.world import logs

        # a copy: what it keeps of those days goes with it
        self._bulk(self._patiently(logs.bulk(replace(self._world()), begin, end)), rest)

    def _patiently(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            yield line
            while self._waits() and not self._stop.wait(0.05):
                pass

    def _bulk(self, pairs: Iterable[str], rest: Rest | None = None) -> None:
        rest, batches = rest or Rest(0), _batches(pairs)
        while not self._stop.is_set():
            with rest.after():
                batch = next(batches, None)
                if batch is None:
                    return
                self._post(batch)
            self._stop.wait(rest.seconds)

    def _post(self, batch: list[str]) -> None:
        answer = self._send("POST", "/_bulk?filter_path=errors,items.create.status,items.create.error", "".join(batch))
        refused = [item["create"] for item in answer.get("items", ()) if item["create"]["status"] >= 300]
        wrong = next((one for one in refused if one["status"] != 409), None)  # 409: it is there already
        if wrong is not None:
            raise OpsError(_("OpenSearch refused log lines: {reason}", reason=json.dumps(wrong.get("error", {}))))

    def _send(self, method: str, path: str, body: str) -> dict[str, Any]:
        headers = {"Content-Type": "application/x-ndjson" if path.startswith("/_bulk") else "application/json"}
        try:
            answer = self._pool.request(method, f"{self._address}{path}", body=body.encode() or None, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise OpsError(_("OpenSearch does not answer: {reason}", reason=str(error))) from error
        if answer.status >= 300:
            raise OpsError(_("OpenSearch refused {path}: {reason}", path=path, reason=answer.data.decode("utf-8", "replace")[:500]))
        content: dict[str, Any] = answer.json()
        return content


def _batches(pairs: Iterable[str]) -> Iterator[list[str]]:
    found = iter(pairs)
    while batch := list(itertools.islice(found, _LINES)):
        yield batch
