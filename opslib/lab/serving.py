"""Served from a thread of this process: a web application, or only whether it is well."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette


class Served:
    """Serves `app` on the loopback until closed.

    Parameters
    ----------
    port
        Where; 0 with `held`, a socket that listens already.
    certificate, key, ca
        For TLS, PEM files; clients must then show a certificate of that authority.
    """

    def __init__(
        self,
        app: Starlette,
        port: int = 0,
        *,
        held: socket.socket | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        ca: Path | None = None,
    ) -> None:
        import ssl

        import uvicorn

        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=port,
            lifespan="off",
            ws="websockets-sansio",
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=1,
            timeout_keep_alive=90,  # longer than anyone's interval: who asks every five seconds would meet the moment of closing
            ssl_certfile=certificate,
            ssl_keyfile=key,
            ssl_ca_certs=str(ca) if ca else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if ca else ssl.CERT_NONE,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([held.dup()] if held else None,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; returns when the port is free."""
        self._server.should_exit = True
        self._thread.join(3)


def tell_health(port: int, ready: threading.Event) -> None:
    """Answer on the loopback whether this process is ready, until it ends.

    One answer needs no web framework, which would double the time to the start.
    """
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if ready.is_set() else 503)
            self.end_headers()
            self.wfile.write(b"ok" if ready.is_set() else b"not yet")

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    threading.Thread(target=HTTPServer(("127.0.0.1", port), Health).serve_forever, name="health", daemon=True).start()
