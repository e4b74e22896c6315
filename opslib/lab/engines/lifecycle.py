"""A lab's life, whatever it runs on: up, status, down.

Everything of a lab is in one folder (default ``.lab`` in the project): the kubeconfig, ``environment.yaml`` with the addresses, data, the
servers' logs, and ``state.json``. Two labs in two folders run side by side. A lab is owned by one supervisor process; when that ends,
however it ends, its servers end with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from opslib.errors import InputError, OpsError
from opslib.lab import processes
from opslib.lab.engines.servers import DEFAULT_ENGINE, DEFAULT_SEED, KEPT, MANY_PODS, PARTS, Options, is_kept, load
from opslib.messages import _

Report = Callable[[str, dict[str, bool], float], None]


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that runs.

    Parameters
    ----------
    folder
        Its state folder.
    addresses
        Base address of each server by its part: "kubernetes", "prometheus", "alertmanager", "elasticsearch".
    already
        Whether it ran before.
    platform
        Whether it has the background platform.
    engine
        What it runs on: "embedded" or "real".
    """

    folder: Path
    addresses: dict[str, str]
    already: bool = False
    platform: bool = True
    engine: str = "real"

    @property
    def kubeconfig(self) -> Path:
        """Contexts "lab" (may do everything), "lab-viewer" (may read, no secrets), "lab-nobody" (may do nothing)."""
        return self.folder / "kubeconfig"

    @property
    def environment(self) -> Path:
        """The addresses, as an environment's `addresses_file`."""
        return self.folder / "environment.yaml"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server of a lab. `health` is "ok", "not ready", "ended" or "no answer"."""

    name: str
    pid: int
    port: int
    health: str
    memory_bytes: int


def state_folder(folder: Path | None = None) -> Path:
    """The lab's folder: `folder`, else OPSLIB_LAB, else ``.lab`` here or in a folder above that has one, else ``.lab`` here."""
    if folder is not None:
        return folder.absolute()
    if os.environ.get("OPSLIB_LAB"):
        return Path(os.environ["OPSLIB_LAB"]).expanduser().absolute()
    here = Path.cwd()
    for place in (here, *here.parents):
        if (place / ".lab").is_dir() or (place / "pyproject.toml").is_file():
            return place / ".lab"
    return here / ".lab"


def up(
    folder: Path | None = None,
    *,
    engine: str = DEFAULT_ENGINE,
    parts: Sequence[str] = PARTS,
    platform: bool = True,
    seed: int = DEFAULT_SEED,
    pods: int = 0,
    report: Report = lambda step, servers, seconds: None,
    deadline_seconds: float = 300,
) -> Lab:
    """Start a lab and return when all of it answers.

    Where `down` has kept a lab's data, that lab goes on: `parts`, `platform`, `seed` and `pods` are its own. An exception,
    KeyboardInterrupt too, ends what was started.

    Parameters
    ----------
    engine
        What it runs on, of `ENGINES`.
    parts
        What to start, of "kubernetes", "prometheus", "alertmanager" and "elasticsearch".
    platform
        Whether to set up the background platform (workloads, logs); without it the cluster has nodes and nothing else.
    seed
        The same seed gives the same platform with the same past.
    pods
        About how many pods the platform shall have; 0: as many as it has by itself.
    report
        Called again and again with what is being done, which servers are ready, and the seconds so far.

    Raises
    ------
    InputError
        A part that is not known, or a server that has not been built.
    OpsError
        A server that did not start; the end of its log says why.
    """
    for part in parts:
        if part not in PARTS:
            raise InputError(_("There is no part {name}", name=part), _("There are {names}", names=list(PARTS)))
    options = Options(engine=engine, parts=tuple(parts), platform=platform, seed=seed, pods=pods)
    place = state_folder(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if is_running(place):
            return _running(place, already=True)
        options = _kept(place, options)
        load(engine).check(options.parts)
        _clear(place, keep_data=is_kept(place))
        for name in ("data", "servers", "logs"):
            (place / name).mkdir(exist_ok=True)
        output = (place / "supervisor.log").open("wb")
    except OSError as problem:
        raise OpsError(
            _("The lab's folder cannot be written: {reason}", reason=str(problem)), _("Make room, or name another folder")
        ) from problem
    with output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "opslib.lab.engines.supervisor", str(place), json.dumps(asdict(options))],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=processes.thrifty() if options.pods > MANY_PODS else None,
            start_new_session=True,
        )
    started = time.monotonic()
    try:
        while True:
            state = _state(place)
            seconds = time.monotonic() - started
            report(state.get("step", ""), {name: one["ready"] for name, one in state.get("servers", {}).items()}, seconds)
            if state.get("phase") == "ready":
                (place / KEPT).unlink(missing_ok=True)  # whether it is kept again is for the next `down` to say
                return _running(place)
            if process.poll() is not None:
                error = _state(place).get("error")
                if error:
                    raise OpsError(error["what"], error["remedy"], error["command"])
                raise OpsError(
                    _(
                        "The lab's supervisor ended with status {status}: {output}",
                        status=process.returncode,
                        output=processes.last_lines(place / "supervisor.log"),
                    )
                )
            if seconds > deadline_seconds:
                raise OpsError(
                    _("The lab was not ready within {seconds} s, at {step}", seconds=deadline_seconds, step=state.get("step", "")),
                    _("The logs of its servers are in {path}", path=place / "servers"),
                )
            time.sleep(0.05)
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()
        _reap(place)
        _clear(place, keep_logs=True, keep_data=is_kept(place))
        raise


def down(folder: Path | None = None, *, keep: bool = False) -> bool:
    """Stop a lab and see that nothing of it is left; False where none was running.

    Parameters
    ----------
    keep
        Keep its data, so that the next `up` goes on with it; and what was kept before, where no lab was running.

    Raises
    ------
    OpsError
        A process of it could not be ended.
    """
    place = state_folder(folder)
    state = _state(place)
    running = is_running(place)
    if keep and running:
        (place / KEPT).write_text(json.dumps({field.name: state[field.name] for field in fields(Options)}) + "\n", "utf-8")
    if state.get("supervisor"):
        processes.end([state["supervisor"]], seconds=15)
    left = _reap(place)
    if left or is_running(place):
        raise OpsError(_("Processes of the lab are left: {pids}", pids=left), _("Its folder is {path}", path=place))
    _clear(place, keep_logs=True, keep_data=keep and is_kept(place))
    return running


def status(folder: Path | None = None) -> list[ServerStatus]:
    """The supervisor and the servers of a lab, each asked now; empty where none is running."""
    place = state_folder(folder)
    state = _state(place)
    if not state or not is_running(place):
        return []
    supervisor = state["supervisor"]
    first = ServerStatus(
        "supervisor",
        supervisor["pid"],
        state["ports"].get("kubelet", 0),
        "ok" if state["phase"] == "ready" else "not ready",
        processes.memory_bytes(supervisor["pid"]),
    )
    servers = state["servers"]
    with ThreadPoolExecutor(max(1, len(servers))) as executor:
        healths = list(executor.map(lambda item: _health(place, item), servers.values()))
    return [
        first,
        *(
            ServerStatus(name, one["pid"], state["ports"][name], health, processes.memory_bytes(one["pid"]))
            for (name, one), health in zip(servers.items(), healths, strict=True)
        ),
    ]


def running(folder: Path | None = None) -> Lab:
    """The lab that runs; InputError where none does."""
    place = state_folder(folder)
    if not is_running(place) or _state(place).get("phase") != "ready":
        raise InputError(_("No lab is running in {path}", path=place), _("Start one"), "opslib lab up")
    return _running(place, already=True)


def is_running(place: Path) -> bool:
    """Whether a supervisor owns the folder: it holds the lock, which the system takes back however it ends."""
    try:
        with (place / "lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _running(place: Path, *, already: bool = False) -> Lab:
    state = _state(place)
    return Lab(place, state.get("addresses", {}), already, state.get("platform", True), state.get("engine", "real"))


def _state(place: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((place / "state.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return state


def _reap(place: Path) -> list[int]:
    """End servers that a supervisor left behind; the pids of those that could not be ended."""
    return [one["pid"] for one in processes.end(_state(place).get("servers", {}).values(), seconds=5)]


def _kept(place: Path, asked: Options) -> Options:
    """The options of the lab whose data is kept in the folder; those that are asked for where there is none."""
    if not is_kept(place):
        return asked
    kept = Options.of((place / KEPT).read_text("utf-8"))
    if kept.engine != asked.engine:
        raise InputError(
            _("{path} keeps a lab of the engine {engine}", path=place, engine=kept.engine),
            _("Start that one, or throw it away"),
            f"opslib lab up --engine {kept.engine}; opslib lab down",
        )
    return kept


def _clear(place: Path, *, keep_logs: bool = False, keep_data: bool = False) -> None:
    _reap(place)
    kept, log = (() if keep_data else (KEPT,)), (() if keep_logs else ("supervisor.log",))
    for name in ("kubeconfig", "environment.yaml", "state.json", "control-token", *kept, *log):
        (place / name).unlink(missing_ok=True)
    data, logs = (() if keep_data else ("data", "pki")), (() if keep_logs or keep_data else ("servers", "logs"))
    for name in (*data, *logs):
        shutil.rmtree(place / name, ignore_errors=True)


def _health(place: Path, server: dict[str, Any]) -> str:
    import urllib3

    if not processes.is_alive(server):
        return "ended"
    address = server["health"]
    options: dict[str, Any] = {}
    if address.startswith("https:"):
        options = {"cert_reqs": "CERT_NONE", "cert_file": str(place / "pki" / "admin.crt"), "key_file": str(place / "pki" / "admin.key")}
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    try:
        answer = urllib3.PoolManager(retries=False, timeout=3, **options).request("GET", address)
    except urllib3.exceptions.HTTPError:
        return "no answer"
    return "ok" if answer.status == 200 else "not ready"
