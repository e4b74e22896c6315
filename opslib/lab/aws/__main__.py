"""``python -m opslib.lab.aws PORT``: the account by itself, filled; ``/readyz`` answers 200 when it is. It ends with SIGTERM."""

from __future__ import annotations

import argparse
import signal
import threading

from opslib.lab.aws import Account, seed, serve


def main() -> None:
    """Serve it until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m opslib.lab.aws", description="An AWS account for the lab.")
    parser.add_argument("port", type=int)
    parser.add_argument("--region", default="ap-northeast-1")
    parser.add_argument("--cluster-version", default="1.36", help="minor version of the cluster's control plane")
    chosen = parser.parse_args()
    stop = threading.Event()
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, frame: stop.set())
    server = serve(Account(region=chosen.region), chosen.port)
    seed(server, cluster_version=chosen.cluster_version)
    stop.wait()
    server.close()


if __name__ == "__main__":
    main()
