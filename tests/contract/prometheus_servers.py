"""A real Prometheus and the embedded one, with the same samples."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette

from opslib.lab import build
from opslib.lab.prometheus.store import STALE_BITS
from tests.ports import free_port

Answer = tuple[int, Any]


@dataclass(frozen=True)
class Client:
    """Asks one of them over HTTP."""

    base: str

    def ask(self, path: str, form: Mapping[str, str] | list[tuple[str, str]] = (), *, post: bool = False) -> Answer:
        """Status and JSON (or text) of an answer."""
        data = urllib.parse.urlencode(list(form.items()) if isinstance(form, Mapping) else form)
        request = urllib.request.Request(f"{self.base}{path}" + ("" if post or not data else f"?{data}"), data.encode() if post else None)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, _decoded(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _decoded(error.read())

    def query(self, text: str, time: float) -> Answer:
        return self.ask("/api/v1/query", {"query": text, "time": f"{time:.3f}"}, post=True)

    def query_range(self, text: str, start: float, end: float, step: float) -> Answer:
        form = {"query": text, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return self.ask("/api/v1/query_range", form, post=True)


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


@dataclass
class History:
    """Samples by series: times in milliseconds, and values, in which a stale marker has its own bits."""

    series: list[tuple[dict[str, str], np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, labels: Mapping[str, str], times: Any, values: Any) -> None:
        self.series.append((dict(labels), np.asarray(times, np.int64), np.asarray(values, np.float64)))


def stale() -> float:
    """The marker of a series' end."""
    return float(np.array([STALE_BITS]).view(np.float64)[0])


# --- the real one: samples go in by remote write (protobuf in a snappy block), which carries stale markers as they are ---


def _varint(number: int) -> bytes:
    result = bytearray()
    number &= (1 << 64) - 1
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _write_request(series: list[tuple[dict[str, str], np.ndarray, np.ndarray]]) -> bytes:
    body = b""
    for labels, times, values in series:
        pairs = b"".join(_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in sorted(labels.items()))
        samples = b"".join(
            _field(2, b"\x09" + values[index : index + 1].tobytes() + b"\x10" + _varint(int(times[index]))) for index in range(len(times))
        )
        body += _field(1, pairs + samples)
    return body


def _snappy(data: bytes) -> bytes:
    """A snappy block of literals alone."""
    blocks = [data[begin : begin + 65536] for begin in range(0, len(data), 65536)]
    return _varint(len(data)) + b"".join(b"\xf4" + (len(block) - 1).to_bytes(2, "little") + block for block in blocks)


@contextlib.contextmanager
def real(folder: Path, history: History, *arguments: str, config: str = "global: {}\n") -> Iterator[Client]:
    """The built Prometheus with a history."""
    (folder / "prometheus.yaml").write_text(config)
    port = free_port()
    command = [
        str(build.program("prometheus")),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--web.enable-remote-write-receiver",
        "--storage.tsdb.retention.time=100y",
        "--log.level=error",
        *arguments,
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{port}"
        wait(f"{base}/-/ready", lambda: process.poll() is None)
        write(base, history)
        yield Client(base)
    finally:
        process.terminate()
        process.wait(20)


def write(base: str, history: History) -> None:
    """Remote write, in the order of time, as the head wants it."""
    moments = sorted({int(moment) for _labels, times, _values in history.series for moment in times})
    for begin in range(0, len(moments), 100):
        low, high = moments[begin], moments[min(begin + 99, len(moments) - 1)]
        piece = []
        for labels, times, values in history.series:
            there = (times >= low) & (times <= high)
            if there.any():
                piece.append((labels, times[there], values[there]))
        headers = {"content-type": "application/x-protobuf", "content-encoding": "snappy", "x-prometheus-remote-write-version": "0.1.0"}
        request = urllib.request.Request(f"{base}/api/v1/write", _snappy(_write_request(piece)), headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status in (200, 204)


# --- the embedded one ---


@contextlib.contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """An application over HTTP."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 10
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def wait(url: str, alive: Any, seconds: float = 30) -> None:
    """Until it answers 200."""
    deadline = time.monotonic() + seconds
    while True:
        assert alive(), f"{url} ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as response:
            if response.status == 200:
                return
        assert time.monotonic() < deadline, f"{url} does not answer"
        time.sleep(0.05)
