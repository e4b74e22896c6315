"""A server at the socket that says what a test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from opslib.environments import HttpSystem
from opslib.sources.transport import HttpTransport, http

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers the n-th request with the n-th function, the last one for all that follow; `seen` keeps what was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.says, self.hangs_up = says, hangs_up
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length", 0))
                self.rfile.read(length)
                server.seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
                server.answers[min(len(server.seen), len(server.answers)) - 1](self)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that gave up is what several tests are about."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def transport(self, deadline_seconds: float = 5, **settings: object) -> HttpTransport:
        return http("prometheus", HttpSystem.model_validate({"url": self.url, "deadline_seconds": deadline_seconds, **settings}))


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection with half an answer sent."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b"half")
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()
