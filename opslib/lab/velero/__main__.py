"""``python -m opslib.lab.velero KUBECONFIG FOLDER``: Velero for a cluster, with a folder as its object store. It ends with SIGTERM.

With ``--port`` it is the lab's: it begins with the backups of the last days, and says at ``/healthz`` when they are there; and images are
scanned here too, since another process would cost more than it does. With ``--elasticsearch`` snapshots of that are taken, as far as the
last days are not there yet.
"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from opslib.lab.api import Api
from opslib.lab.serving import tell_health
from opslib.lab.velero import Velero


def main() -> None:
    """Run it until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m opslib.lab.velero", description="Velero for the lab.")
    parser.add_argument("kubeconfig", type=Path)
    parser.add_argument("folder", type=Path, help="the object store: a folder a bucket")
    parser.add_argument("--namespace", default="velero")
    parser.add_argument("--port", type=int, help="where it says that it is well")
    parser.add_argument("--elasticsearch", metavar="URL", help="take snapshots of this Elasticsearch")
    parser.add_argument("--snapshots", type=Path, help="the folder below which its repositories are")
    chosen = parser.parse_args()
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, frame: stop.set())
    api = Api.from_kubeconfig(chosen.kubeconfig)
    velero = Velero(api, chosen.folder, namespace=chosen.namespace)
    if chosen.port:
        tell_health(chosen.port, velero.ready)
    velero.install()
    if chosen.port:
        velero.remember()
    velero.start()
    if chosen.port:
        from opslib.lab import scanner

        threading.Thread(target=scanner.run, args=(api, stop), name="scanner", daemon=True).start()
    if chosen.elasticsearch:
        from opslib.lab.velero import snapshots

        snapshots.take(chosen.elasticsearch, chosen.snapshots, stop)
    stop.wait()
    velero.close()


if __name__ == "__main__":
    main()
