"""``python -m opslib.lab.velero KUBECONFIG FOLDER``: Velero for a cluster, with a folder as its object store. It ends with SIGTERM."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from opslib.lab.api import Api
from opslib.lab.velero import Velero


def main() -> None:
    """Run it until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m opslib.lab.velero", description="Velero for the lab.")
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("folder", type=Path, help="the object store: a folder a bucket")
    parser.add_argument("--namespace", default="velero")
    chosen = parser.parse_args()
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, frame: stop.set())
    velero = Velero(Api.from_kubeconfig(chosen.kubeconfig), chosen.folder, namespace=chosen.namespace)
    velero.install()
    velero.start()
    stop.wait()
    velero.close()


if __name__ == "__main__":
    main()
