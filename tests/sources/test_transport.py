"""The transport against servers that misbehave, at the socket."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from opslib.environments import HttpSystem
from opslib.errors import InputError, Unreachable
from opslib.sources.transport import Request, TooLarge, http


def test_what_it_asks_and_gets(server: Any) -> None:
    server.answers = [server.says(200, b"pong", x_answer="1")]
    answer = server.transport().send(Request(path="/api", query=(("query", "a{b='ü&'}"), ("query", "2"))))
    assert (answer.status, answer.body, answer.headers["x-answer"]) == (200, b"pong", "1")
    method, path, headers = server.seen[0]
    assert (method, path) == ("GET", "/api?query=a%7Bb%3D%27%C3%BC%26%27%7D&query=2")
    assert headers["accept-encoding"] == "gzip"


def test_statuses_are_the_sources_business(server: Any) -> None:
    server.answers = [server.says(404, b"no")]
    assert server.transport().send(Request(path="/")).status == 404
    assert len(server.seen) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize(("method", "safe", "sent"), [("GET", None, 2), ("POST", None, 1), ("POST", True, 2)])
def test_a_busy_server_is_asked_again_only_where_that_changes_nothing(
    server: Any, status: int, method: str, safe: bool | None, sent: int
) -> None:
    server.answers = [server.says(status), server.says(200, b"now")]
    server.transport().send(Request(method=method, path="/", safe=safe, body=b"x" if method == "POST" else None))
    assert len(server.seen) == sent


def test_429_says_that_nothing_was_done_and_when_to_come_back(server: Any) -> None:
    server.answers = [server.says(429, retry_after="1"), server.says(200, b"now")]
    started = time.monotonic()
    assert server.transport().send(Request(method="POST", path="/", body=b"x")).body == b"now"
    assert time.monotonic() - started >= 1


def test_a_wait_beyond_the_deadline_is_not_begun(server: Any) -> None:
    server.answers = [server.says(429, b"later", retry_after="3600")]
    started = time.monotonic()
    answer = server.transport(deadline_seconds=2).send(Request(path="/"))
    assert (answer.status, answer.body) == (429, b"later")
    assert time.monotonic() - started < 2
    assert len(server.seen) == 1


def test_a_server_that_stays_busy_is_left_alone_after_a_few_times(server: Any) -> None:
    server.answers = [server.says(503, b"busy")]
    assert server.transport().send(Request(path="/")).status == 503
    assert len(server.seen) == 4


def test_a_lost_connection_is_repeated_only_where_that_changes_nothing(server: Any) -> None:
    server.answers = [server.hangs_up, server.says(200, b"whole")]
    assert server.transport().send(Request(path="/")).body == b"whole"
    server.seen.clear()
    with pytest.raises(Unreachable, match="connection broke"):
        server.transport().send(Request(method="POST", path="/", body=b"x"))
    assert len(server.seen) == 1


def test_a_refused_connection_names_the_address_and_the_reason() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        transport = http("alertmanager", HttpSystem(url=url, deadline_seconds=5))
        with pytest.raises(Unreachable) as error:
            transport.send(Request(path="/"))
    assert error.value.system == "alertmanager"
    assert url in str(error.value)
    assert "connection refused" in error.value.what.text("en")  # type: ignore[union-attr]


def test_a_connection_refused_at_first_is_tried_again(server: Any) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def open_late() -> None:
        time.sleep(0.15)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        connection, _address = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nup")

    thread = threading.Thread(target=open_late, daemon=True)
    thread.start()
    transport = http("prometheus", HttpSystem(url=f"http://127.0.0.1:{port}", deadline_seconds=10))
    assert transport.send(Request(method="POST", path="/", body=b"x")).body == b"up"
    thread.join()
    listener.close()


def test_silence_ends_at_the_deadline(server: Any) -> None:
    done = threading.Event()

    def silent(_handler: BaseHTTPRequestHandler) -> None:
        done.wait(30)

    server.answers = [silent]
    started = time.monotonic()
    with pytest.raises(Unreachable, match="in time"):
        server.transport(deadline_seconds=0.5).send(Request(path="/"))
    done.set()
    assert time.monotonic() - started < 3


def test_an_answer_that_drips_ends_at_the_deadline(server: Any) -> None:
    done = threading.Event()

    def drips(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "100000")
        handler.end_headers()
        try:
            while not done.wait(0.05):
                handler.wfile.write(b".")
        except OSError:
            pass

    server.answers = [drips]
    started = time.monotonic()
    with pytest.raises(Unreachable, match="in time"):
        server.transport(deadline_seconds=0.5).send(Request(path="/"))
    done.set()
    assert time.monotonic() - started < 3


def test_gzip_is_undone_and_a_bomb_is_not_kept(server: Any) -> None:
    server.answers = [server.says(200, gzip.compress(b"x" * 10_000), content_encoding="gzip")]
    assert server.transport().send(Request(path="/")).body == b"x" * 10_000
    server.answers = [server.says(200, gzip.compress(bytes(50_000_000)), content_encoding="gzip")]
    with pytest.raises(TooLarge):
        server.transport().send(Request(path="/", limit_bytes=1_000_000))
    cut = server.transport().send(Request(path="/", limit_bytes=1_000_000, cut=True))
    assert (len(cut.body), cut.truncated) == (1_000_000, True)


def test_what_has_not_changed_is_not_sent_again(server: Any) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("if-none-match") == '"1"':
            server.says(304)(handler)
        else:
            server.says(200, b"long", etag='"1"')(handler)

    server.answers = [answer]
    transport = server.transport()
    assert [transport.send(Request(path="/openapi")).body for _time in range(3)] == [b"long"] * 3
    assert ["if-none-match" in headers for _method, _path, headers in server.seen] == [False, True, True]
    transport.send(Request(path="/openapi", headers={"accept": "other"}))
    assert "if-none-match" not in server.seen[-1][2]


def test_a_redirect_is_not_followed_with_the_credentials(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "s3cret")
    server.answers = [server.says(302, location="https://login.example.com/?next=1")]
    with pytest.raises(Unreachable, match=r"login\.example\.com") as error:
        server.transport(username="ops", password_env="PASSWORD").send(Request(path="/"))
    assert len(server.seen) == 1
    assert server.seen[0][2]["authorization"].startswith("Basic ")
    assert "s3cret" not in str(error.value)


def test_lines_come_one_by_one(server: Any) -> None:
    server.answers = [server.says(200, b"one\ntwo\n\xff\xfe\nrest")]
    assert list(server.transport().stream(Request(path="/log"))) == [b"one", b"two", b"\xff\xfe", b"rest"]


def test_secrets_come_from_the_environment_or_are_asked_for(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(InputError, match="TOKEN"):
        server.transport(token_env="TOKEN")
    monkeypatch.setenv("TOKEN", "abc")
    server.answers = [server.says(200)]
    server.transport(token_env="TOKEN", headers={"X-Scope-OrgID": "shop"}).send(Request(path="/"))
    assert server.seen[0][2]["authorization"] == "Bearer abc"
    assert server.seen[0][2]["x-scope-orgid"] == "shop"


def test_a_missing_certificate_file_is_named(server: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.pem"):
        server.transport(ca_file=tmp_path / "none.pem")


def test_a_proxy_is_used_where_the_file_names_one(server: Any) -> None:
    server.answers = [server.says(200, b"through")]
    transport = http("prometheus", HttpSystem(url="http://prometheus.example.com", proxy=server.url))
    assert transport.send(Request(path="/api")).body == b"through"
    assert server.seen[0][1] == "http://prometheus.example.com/api"
