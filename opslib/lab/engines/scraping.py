"""Scrapes targets into the embedded Prometheus' store, as the configuration of a real one says.

What it notes beside the samples is what Prometheus notes: ``up``, ``scrape_duration_seconds``, ``scrape_samples_scraped``.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import urllib3

from opslib.lab.prometheus import Store, labels_of
from opslib.lab.prometheus.api import Target
from opslib.lab.prometheus.labels import Labels
from opslib.lab.prometheus.parse import duration
from opslib.lab.prometheus.store import Floats, Integers

_ACCEPT = {"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "gzip"}
_PARAMETER = "__param_"
_PAIR = re.compile(r'([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"')
_SERIES = re.compile(rf"[a-zA-Z_:][\w:]*\s*(?:\{{\s*(?:{_PAIR.pattern}\s*,?\s*)*\}})?\s*")
_LINE = re.compile(r"[^\n]+")
_ESCAPE = re.compile(r"\\(.)")


@dataclass(slots=True)
class Scraper:
    """Scrapes the targets of a configuration, each in a thread of its own. `metadata` fills as pages tell of their families."""

    store: Store
    config: Mapping[str, Any]
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    _targets: dict[str, Target] = field(default_factory=dict)

    def targets(self) -> list[Target]:
        """What is scraped, and how that went the last time."""
        return list(self._targets.values())

    def start(self, stop: threading.Event, wanted: Callable[[str], bool] = lambda job: True) -> None:
        """Begin with the jobs that are wanted; it ends with `stop`."""
        for job in self.config.get("scrape_configs", []):
            if not wanted(job["job_name"]):
                continue
            for target, honor, seconds, timeout in _targets_of(job, self.config.get("global", {})):
                self._targets[target.url] = replace(target, health="unknown")
                arguments = (target, honor, seconds, timeout, stop)
                threading.Thread(target=self._run, args=arguments, name=f"scrape {target.url}", daemon=True).start()

    def _run(self, target: Target, honor: bool, seconds: float, timeout: float, stop: threading.Event) -> None:
        # a connection at a time is enough, and targets keep their places within the interval so that they do not all come at once
        pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False, timeout=timeout)
        scrape = self.store.scrape()
        known = _Known(np.zeros(0, np.int64), np.zeros(0, np.int64))
        wait = zlib.crc32(target.url.encode()) % 1000 / 1000 * min(seconds, 1.0)
        while not stop.wait(wait):
            began, clock = time.time(), time.perf_counter()
            error, rows, values = "", known.rows[:0], np.zeros(0)
            try:
                answer = pool.request("GET", target.url, headers=_ACCEPT)
                if answer.status != 200:
                    error = f"server returned HTTP status {answer.status} {answer.reason}"
                else:
                    known, rows, values = self._read(answer.data.decode(), known, lambda text: scrape.row(_labels(text, target, honor)))
                del answer  # which has the page, until the next one
            except urllib3.exceptions.HTTPError as problem:
                error = f'Get "{target.url}": {_reason(problem)}'
            except ValueError as problem:
                error = str(problem)
            took = time.perf_counter() - clock
            own = {"up": float(not error), "scrape_duration_seconds": took, "scrape_samples_scraped": float(len(rows))}
            own_rows = [scrape.row(labels_of({"__name__": name, **target.labels})) for name in own]
            if not stop.is_set():
                scrape.append_rows(int(began * 1000), np.append(rows, own_rows), np.append(values, list(own.values())))
            health = "down" if error else "up"
            self._targets[target.url] = replace(target, health=health, error=error, last_scrape=began, duration_seconds=took)
            wait = max(0.05, began + seconds - time.time())

    def _read(self, text: str, known: _Known, row_of: Callable[[str], int]) -> tuple[_Known, Integers, Floats]:
        """The rows and values of a page, and what is known for the next one. How a series is written seldom changes: each is read once."""
        hashes, values = array("q"), array("d")
        unknown: dict[int, int] = {}
        there = set(known.hashes.tolist())
        for found in _LINE.finditer(text):  # one at a time: all lines of a big page at once take twice its memory
            line = found[0]
            if line.startswith("# TYPE "):
                _hash, _type, name, kind = line.split(" ", 3)
                self.metadata.setdefault(name, {"type": kind, "help": "", "unit": ""})
            if line.startswith("#"):
                continue
            series, _space, value = line.rpartition(" ")
            values.append(float(value))
            hashes.append(hash(series))
            if hashes[-1] not in there and hashes[-1] not in unknown:
                unknown[hashes[-1]] = row_of(series)
        added = np.fromiter(unknown, np.int64, len(unknown)), np.fromiter(unknown.values(), np.int64, len(unknown))
        known = known.merged(*added)
        asked = np.array(hashes, np.int64)
        places = np.searchsorted(known.hashes, asked)
        kept = np.unique(places)
        return _Known(known.hashes[kept], known.rows[kept]), known.rows[places], np.array(values)


@dataclass(frozen=True, slots=True)
class _Known:
    """The rows of series by the hash of how they are written, ascending: the texts would take more memory than their samples."""

    hashes: Integers
    rows: Integers

    def merged(self, hashes: Integers, rows: Integers) -> _Known:
        """With others too."""
        every = np.concatenate([self.hashes, hashes])
        order = np.argsort(every)
        return _Known(every[order], np.concatenate([self.rows, rows])[order])


def _labels(series: str, target: Target, honor: bool) -> Labels:
    name, _brace, inside = series.partition("{")
    pairs = _PAIR.findall(inside)
    if not _SERIES.fullmatch(series):
        raise ValueError(f"expected a series, got {series!r}")
    own = {label: _ESCAPE.sub(_unescaped, value) if "\\" in value else value for label, value in pairs if value}
    if honor:
        merged = {**target.labels, **own}
    else:  # what the page says of a label that the target has stands under another name
        merged = {(f"exported_{name}" if name in target.labels else name): value for name, value in own.items()} | dict(target.labels)
    return labels_of({"__name__": name.strip(), **merged})


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def _targets_of(job: Mapping[str, Any], common: Mapping[str, str]) -> Iterator[tuple[Target, bool, float, float]]:
    interval = job.get("scrape_interval", common.get("scrape_interval", "15s"))
    timeout = job.get("scrape_timeout", common.get("scrape_timeout", "10s"))
    for group in job.get("static_configs", []):
        labels = group.get("labels", {})
        query = {name.removeprefix(_PARAMETER): value for name, value in labels.items() if name.startswith(_PARAMETER)}
        shown = {name: value for name, value in labels.items() if not name.startswith("__")}
        for address in group["targets"]:
            url = f"http://{address}{job.get('metrics_path', '/metrics')}" + (f"?{urlencode(query)}" if query else "")
            target = Target(
                labels={"job": job["job_name"], "instance": address} | shown,
                url=url,
                interval=interval,
                discovered={"__address__": address, "job": job["job_name"], **labels},
            )
            yield target, bool(job.get("honor_labels")), duration(interval) / 1000, duration(timeout) / 1000


def _reason(problem: Exception) -> str:
    if isinstance(problem, urllib3.exceptions.TimeoutError):
        return "context deadline exceeded"
    if isinstance(problem, urllib3.exceptions.NewConnectionError):
        return "connect: connection refused"
    return str(problem)
