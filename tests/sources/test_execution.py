"""Commands in containers: what the server's frames mean, and what can go wrong on the way. A server here talks like a kubelet's."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes.client import Configuration
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from opslib.errors import Forbidden, NotFound, SourceError, Unauthenticated, Unreachable
from opslib.sources.execution import Execution, NoSuchProgram
from opslib.sources.transport import TooLarge

SUCCESS = {"status": "Success"}


def exited(code: int) -> dict[str, Any]:
    return {"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]}}


@contextmanager
def server(talk: Callable[[ServerConnection], None], refuse: tuple[int, str] | None = None) -> Iterator[tuple[Execution, list[str]]]:
    """Commands that `talk` answers, or that are refused with a status and a message; and the addresses that were asked for."""
    asked: list[str] = []

    def answered(link: ServerConnection, request: Request) -> Response | None:
        asked.append(request.path)
        return link.respond(refuse[0], json.dumps({"kind": "Status", "message": refuse[1]})) if refuse else None

    protocols: Any = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
    with serve(talk, "127.0.0.1", 0, process_request=answered, subprotocols=protocols) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{http.socket.getsockname()[1]}"
        configuration.proxy = None
        yield Execution(configuration), asked
        http.shutdown()
        thread.join()


def says(*frames: tuple[int, bytes], end: dict[str, Any] | None = None) -> Callable[[ServerConnection], None]:
    """A container that writes these frames; without an end the connection just closes."""

    def talk(link: ServerConnection) -> None:
        for channel, content in frames:
            link.send(bytes([channel]) + content)
        if end is not None:
            link.send(b"\x03" + json.dumps(end).encode())

    return talk


def test_output_and_exit_status_come_apart() -> None:
    with server(says((1, b""), (2, b""), (1, b"one\n"), (2, b"hm\n"), (1, b"two \xff\n"), end=exited(3))) as (execution, asked):
        result = execution.run("shop", "web-1", "web", ["ls", "-l", "a b;c"])
    assert (result.stdout, result.stderr, result.exit_status, result.truncated) == (b"one\ntwo \xff\n", b"hm\n", 3, False)
    parts = urlsplit(asked[0])
    assert parts.path == "/api/v1/namespaces/shop/pods/web-1/exec"
    assert parse_qs(parts.query)["command"] == ["ls", "-l", "a b;c"]


def test_a_name_cannot_lead_to_another_path() -> None:
    with server(says(end=SUCCESS)) as (execution, asked):
        execution.run("shop", "../nodes/x", "web?command=rm", ["true"])
    assert urlsplit(asked[0]).path == "/api/v1/namespaces/shop/pods/..%2Fnodes%2Fx/exec"
    assert parse_qs(urlsplit(asked[0]).query)["command"] == ["true"]


def test_output_is_cut_off_or_refused_at_its_limit() -> None:
    with server(says(*[(1, b"x" * 1000)] * 5, end=SUCCESS)) as (execution, _asked):
        result = execution.run("shop", "web", "web", ["cat"], limit_bytes=1500, cut=True)
        assert (len(result.stdout), result.exit_status, result.truncated) == (1500, None, True)
        with pytest.raises(TooLarge):
            execution.run("shop", "web", "web", ["cat"], limit_bytes=1500)
        assert len(execution.run("shop", "web", "web", ["cat"], limit_bytes=5000).stdout) == 5000


def test_a_stream_goes_to_the_file_and_tells_how_far_it_is() -> None:
    with server(says((1, b"abc"), (1, b"def"), end=SUCCESS)) as (execution, _asked):
        file, seen = io.BytesIO(), list[int]()
        result = execution.stream("shop", "web", "web", ["dump"], to=file, limit_bytes=6, progress=seen.append)
        assert (file.getvalue(), seen, result.exit_status) == (b"abcdef", [3, 6], 0)
        file = io.BytesIO()
        with pytest.raises(TooLarge):
            execution.stream("shop", "web", "web", ["dump"], to=file, limit_bytes=5)
        assert file.getvalue() == b"abc"


def test_a_command_that_does_not_end_is_given_up() -> None:
    ended = threading.Event()

    def waits(link: ServerConnection) -> None:
        link.send(b"\x01begun")
        for _message in link:  # until the client closes
            pass
        ended.set()

    with server(waits) as (execution, _asked):
        with pytest.raises(Unreachable, match="not ended in time"):
            execution.run("shop", "web", "web", ["sleep", "600"], deadline_seconds=0.2)
        assert ended.wait(30)


def test_a_connection_that_breaks_is_no_success() -> None:
    with server(says((1, b"half"))) as (execution, _asked), pytest.raises(Unreachable, match="broke"):
        execution.run("shop", "web", "web", ["cat"])


def test_nobody_answers() -> None:
    with server(says(end=SUCCESS)) as (execution, _asked):
        pass
    with pytest.raises(Unreachable, match="broke"):
        execution.run("shop", "web", "web", ["true"])


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (
            'error executing command in container: failed to exec in container: failed to start exec "ab": OCI runtime exec failed: '
            'exec failed: unable to start container process: exec: "du": executable file not found in $PATH',
            NoSuchProgram,
        ),
        ('container not found ("web")', NotFound),
        ("error sending request: dial tcp 10.0.0.1:10250: connect: connection refused", SourceError),
    ],
)
def test_what_was_not_run_says_why(message: str, kind: type[SourceError]) -> None:
    with server(says(end={"status": "Failure", "reason": "InternalError", "message": message})) as (execution, _asked):
        with pytest.raises(kind) as caught:
            execution.run("shop", "web", "web", ["du"])
        assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("message", "verb"),
    [
        ('pods "web-1" is forbidden: User "eve" cannot get resource "pods/exec" in API group ""', "get"),
        ('pods "web-1" is forbidden: ', "create"),
    ],
)
def test_a_right_that_is_missing_is_named(message: str, verb: str) -> None:
    with server(says(end=SUCCESS), refuse=(403, message)) as (execution, _asked):
        with pytest.raises(Forbidden, match=f"may not {verb} pods/exec in shop") as caught:
            execution.run("shop", "web-1", "web", ["true"])
        assert f"--verb={verb} --resource=pods/exec" in caught.value.command


def test_what_a_policy_forbids_is_said_in_its_words() -> None:
    words = 'pods "web-1" is forbidden: admission webhook "policy.example.com" denied the request: no shells here'
    with server(says(end=SUCCESS), refuse=(403, words)) as (execution, _asked), pytest.raises(Forbidden, match="no shells here"):
        execution.run("shop", "web-1", "web", ["true"])


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthenticated), (403, Forbidden), (404, NotFound), (503, Unreachable), (500, SourceError)]
)
def test_a_refused_connection_is_the_error_that_it_stands_for(status: int, kind: type[SourceError]) -> None:
    with server(says(end=SUCCESS), refuse=(status, 'User "eve" cannot create resource "pods/exec"')) as (execution, _asked):
        with pytest.raises(kind, match="eve") as caught:
            execution.run("shop", "web", "web", ["true"])
        assert type(caught.value) is kind
        assert status != 403 or '"pods/exec"' in str(caught.value)
