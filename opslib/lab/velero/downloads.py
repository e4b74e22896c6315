"""Files behind addresses that are hard to guess: what a bucket's signed addresses are."""

from __future__ import annotations

import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Downloads:
    """Serves single files on the loopback, each below its own secret."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        paths = self._paths

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                """One file, or 404."""
                path = paths.get(self.path.strip("/").split("/")[0])
                try:
                    data = path.read_bytes() if path else None
                except OSError:
                    data = None
                if data is None:
                    self.send_error(HTTPStatus.NOT_FOUND)
                    return
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "application/octet-stream")  # compressed as it is, as from a bucket
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: requests are not printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="velero downloads", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def address(self, path: Path) -> str:
        """A new address of a file."""
        token = secrets.token_urlsafe(24)
        self._paths[token] = path
        return f"http://127.0.0.1:{self._server.server_port}/{token}/{path.name}"

    def close(self) -> None:
        """Stop."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
