"""``python -m opslib.lab.controllers --kubeconfig FILE``: the controllers as a process of their own."""

from __future__ import annotations

import argparse
import base64
import logging
import signal
import sys
import threading
from pathlib import Path

import yaml

from opslib.lab.api import Api
from opslib.lab.controllers import run


def main() -> None:
    """Run until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m opslib.lab.controllers")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--context")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.WARNING, stream=sys.stderr)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_ignored: stop.set())
    content = yaml.safe_load(options.kubeconfig.read_text("utf-8"))
    data = content["clusters"][0]["cluster"].get("certificate-authority-data")
    certificate = base64.b64decode(data).decode() if data else None
    api = Api.from_kubeconfig(options.kubeconfig, options.context)
    run(api, stop, root_certificate=certificate, ready=lambda: logging.getLogger(__name__).info("ready"))


if __name__ == "__main__":
    main()
