"""The stage: the world of now, and who has to know when it becomes another one.

It lives in the supervisor. Other processes of the lab read it from ``<folder>/data/world.json``, which is always whole:
``{"world": World.document(), "handover": Unix seconds}``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

from opslib.lab.world.model import World

Listener = Callable[[World], None]


def read(folder: Path) -> tuple[World, float] | None:
    """The world of a lab's folder and its handover; None where there is none."""
    try:
        content = json.loads((folder / "data" / "world.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    return World.of(content["world"]), content["handover"]


class Stage:
    """The world of now. May be used from several threads.

    Parameters
    ----------
    folder
        The lab's folder.
    handover
        Unix seconds: up to here what the lab shows is computed, from here on it is observed.
    """

    def __init__(self, folder: Path, world: World, handover: float) -> None:
        self._file = folder / "data" / "world.json"
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._world, self._handover = world, handover
        self._write()

    @property
    def world(self) -> World:
        """The world of now. A world never changes: when something breaks or ends, this is another one."""
        with self._lock:
            return self._world

    @property
    def handover(self) -> float:
        """Up to here the past is computed, in Unix seconds: when the lab came up, or the last break."""
        with self._lock:
            return self._handover

    def subscribe(self, listener: Listener) -> None:
        """Tell `listener` of every other world from now on; in the thread that makes it, so it should only take a note."""
        with self._lock:
            self._listeners.append(listener)

    def become(self, world: World, handover: float | None = None) -> None:
        """Put another world on stage; with `handover`, its past up to there is computed anew."""
        with self._lock:
            self._world = world
            if handover is not None:
                self._handover = handover
            self._write()
            listeners = list(self._listeners)
        for listener in listeners:
            listener(world)

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".json.new")
        temporary.write_text(json.dumps({"world": self._world.document(), "handover": self._handover}) + "\n", "utf-8")
        temporary.replace(self._file)
