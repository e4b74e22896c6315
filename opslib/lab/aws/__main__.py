"""``python -m opslib.lab.aws PORT``: the account by itself, filled; ``/readyz`` answers 200 when it is. It ends with SIGTERM.

With ``--folder`` it is the account of the lab there: it takes over its world, and whatever becomes of that.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opslib.lab.aws import Server

_POLL_SECONDS, _HOUR = 1.0, 3600


def main() -> None:
    """Serve it until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m opslib.lab.aws", description="An AWS account for the lab.")
    parser.add_argument("port", type=int)
    parser.add_argument("--folder", type=Path, help="a lab's folder")
    parser.add_argument("--region", default="ap-northeast-1")
    parser.add_argument("--cluster-version", default="1.36", help="minor version of the cluster's control plane")
    chosen = parser.parse_args()
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, frame: stop.set())
    os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # before moto is loaded: hundreds of images that nobody looks for
    from opslib.lab import processes, stage
    from opslib.lab.aws import Account, seed, serve

    processes.give_back()
    found = stage.read(chosen.folder) if chosen.folder else None
    server = serve(Account(region=chosen.region), chosen.port)
    seed(server, found[0] if found else None, cluster_version=chosen.cluster_version)
    if chosen.folder:
        _follow(server, chosen.folder, stop)
    stop.wait()
    server.close()


def _follow(server: Server, folder: Path, stop: threading.Event) -> None:
    """Until told to stop: look what has become of the lab's world, and bring the account's logs up to date."""
    from opslib.lab import stage
    from opslib.lab.aws import follow, past

    file = folder / "data" / "world.json"
    seen, logged = 0, time.time()
    while not stop.wait(_POLL_SECONDS):
        try:
            changed = file.stat().st_mtime_ns
        except FileNotFoundError:  # the lab is going down
            continue
        if changed != seen:
            seen = changed
            found = stage.read(folder)
            if found is not None:
                follow(server, found[0])
        now = time.time()
        if now - logged > 60 and server.account.world is not None:
            past.log(server.account, server.account.world, logged, now)
            past.deliver(server.account, server.account.world, logged, now)
            logged = now


if __name__ == "__main__":
    main()
