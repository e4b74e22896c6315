"""Dumps brought out of a container whose commands are really run: a folder, its programs, and an API server that runs them there."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from opslib.actions import dumps, pipeline
from opslib.actions.dumps import Dumps
from opslib.actions.pipeline import Desk
from opslib.actions.plans import Plan
from opslib.environments import Environment
from opslib.errors import Conflict, InputError, Refused, SourceError, Unreachable
from opslib.sources.execution import NoSuchProgram
from opslib.sources.kubernetes import Kubernetes
from opslib.sources.transport import TooLarge
from tests.waiting import until

HEAP = "".join(f"{number:08x} java.lang.String\n" for number in range(40_000)).encode()


@dataclass
class Container:
    """A container `web` of the pod shop/web-1 whose commands run in a folder of this machine."""

    folder: Path
    place: Path
    since: str = "2026-04-10T12:00:00Z"
    image: str = "eclipse-temurin:21"
    environment: dict[str, Any] = field(default_factory=dict)
    ran: list[list[str]] = field(default_factory=list)
    cut_after: int | None = None  # bytes of one command's output after which the connection breaks
    alter: Callable[[bytes], bytes] = bytes  # what happens to `cat`'s output on the way
    url: str = ""

    @property
    def tmp(self) -> Path:
        return self.folder / "tmp"

    def program(self, name: str, script: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def pod(self) -> dict[str, Any]:
        limits = {"limits": {"memory": "2Mi"}}
        state = {"running": {"startedAt": self.since}} if self.since else {}
        return {
            "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": self.image, "resources": limits}]},
            "status": {
                "phase": "Running",
                "containerStatuses": [{"name": "web", "state": state}],
            },
        }

    def answered(self, link: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path
        if path.endswith("/exec"):
            return None
        known = {
            "/api/v1/namespaces/shop/pods/web-1": self.pod(), "/api/v1/namespaces/kube-system": {"metadata": {"uid": "cluster-1"}},
            "/api/v1/namespaces/shop/services": {"kind": "ServiceList", "metadata": {}, "items": []},
        }  # fmt: skip
        found = known.get(path)
        body = json.dumps(found or {"kind": "Status", "reason": "NotFound", "message": f"{path} not found", "code": 404}).encode()
        headers = Headers({"content-type": "application/json", "content-length": str(len(body)), "connection": "close"})
        return Response(200 if found else 404, "-", headers, body)

    def talk(self, link: ServerConnection) -> None:
        assert link.request is not None
        words = parse_qs(urlsplit(link.request.path).query)["command"]
        self.ran.append(words)
        environment = {"PATH": f"{self.folder}/bin", "HOME": str(self.folder)}
        if shutil.which(words[0], path=environment["PATH"]) is None:
            message = f'exec failed: unable to start container process: exec: "{words[0]}": executable file not found in $PATH'
            link.send(b"\x03" + json.dumps({"status": "Failure", "reason": "InternalError", "message": message}).encode())
            return
        process = subprocess.run(words, capture_output=True, env=environment, cwd=self.folder, check=False)
        output = self.alter(process.stdout) if words[0] == "cat" else process.stdout
        try:
            for begin in range(0, len(output), 64 * 1024):
                if words[0] == "cat" and self.cut_after is not None and begin >= self.cut_after:
                    link.socket.close()
                    return
                link.send(b"\x01" + output[begin : begin + 64 * 1024])
            if process.stderr:
                link.send(b"\x02" + process.stderr)
            causes = {"causes": [{"reason": "ExitCode", "message": str(process.returncode)}]}
            failed = {"status": "Failure", "reason": "NonZeroExitCode", "details": causes}
            link.send(b"\x03" + json.dumps(failed if process.returncode else {"status": "Success"}).encode())
        except (ConnectionClosed, OSError):
            pass  # the client has had enough

    def desk(self, who: str = "hitomi", progress: dumps.Progress = lambda written, expected: None, **settings: Any) -> Desk:
        kubeconfig = self.place / "kubeconfig"
        cluster = {"name": "x", "cluster": {"server": self.url}}
        context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
        config = {"clusters": [cluster], "users": [{"name": "x", "user": {}}], "contexts": [context], "current-context": "x"}
        kubeconfig.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
        environment = Environment.model_validate({"name": "test", "kubernetes": {"kubeconfig": str(kubeconfig)}, **settings})
        place = self.place / "actions"
        return Desk(environment, place, {"dumps": Dumps(Kubernetes.connect(environment), place, progress)}, who)

    def plan(self, desk: Desk, **more: Any) -> Plan:
        system = desk.systems["dumps"]
        assert isinstance(system, Dumps)
        plan = dumps.heap_dump(system, desk.environment, desk.who, "web-1", "shop", folder=str(self.tmp), **more)
        pipeline.file_plan(desk, plan)
        return plan

    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.place / "actions" / "dumps").glob("*"))


def _df(free: int) -> str:
    return f'echo "Filesystem 1024-blocks Used Available Capacity Mounted on"; echo "overlay 10000000 90 {free} 9% /"'


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    found = Container(tmp_path / "container", tmp_path / "here")
    for folder in (found.folder / "bin", found.tmp, found.place):
        folder.mkdir(parents=True)
    for name in ("rm", "sh", "sha256sum", "wc"):
        (found.folder / "bin" / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "heap").write_bytes(HEAP)
    # how much memory and room this machine has is not what is tested
    found.program("cat", f'case "$1" in /sys/*) exit 1 ;; esac; exec {shutil.which("cat")} "$@"')
    found.program("df", _df(9_000_000))
    found.program("jcmd", f'[ "$2" = GC.heap_dump ] && cat {tmp_path}/heap >"$3" && echo Heap dump file created')
    with serve(
        found.talk, "127.0.0.1", 0, process_request=found.answered, subprotocols=["v5.channel.k8s.io"], max_size=None,  # type: ignore[list-item]
    ) as server:  # fmt: skip
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        found.url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        yield found
        server.shutdown()
        thread.join()


def test_a_heap_dump_comes_whole_private_and_with_what_it_is(container: Container) -> None:
    seen: list[tuple[int, int | None]] = []
    desk = container.desk(progress=lambda written, expected: seen.append((written, expected)))
    plan = container.plan(desk)
    [step] = plan.steps
    assert plan.action == "exec"
    assert step.difference.splitlines()[0].startswith(f"$ jcmd 1 GC.heap_dump {container.tmp}/opslib-")
    assert container.ran == []  # a plan runs nothing
    assert len(pipeline.rehearse(desk, plan).previews) == 1
    assert container.ran == []  # nor does a dry run
    assert pipeline.execute(desk, plan).verified is True
    name, note = container.kept()
    path = desk.place / "dumps" / name
    assert path.read_bytes() == HEAP
    assert {stat.S_IMODE((desk.place / "dumps" / one).stat().st_mode) for one in (name, note)} == {0o600}
    said = json.loads((desk.place / "dumps" / note).read_text())
    assert (said["sensitive"], said["sha256"], said["bytes"]) == (True, hashlib.sha256(HEAP).hexdigest(), len(HEAP))
    assert list(container.tmp.iterdir()) == []  # nothing is left there
    assert seen[-1][0] == len(HEAP)
    assert all(one < two for (one, _e), (two, _f) in itertools.pairwise(seen))
    # what ran is what the plan said, and looking
    assert [words[0] for words in container.ran if words[0] in ("jcmd", "rm")] == ["rm", "jcmd", "rm"]
    with pytest.raises(InputError):
        pipeline.execute(desk, plan)
    path.write_bytes(b"spoiled")
    assert desk.systems["dumps"].holds(plan.verify[0].question)[0] is False


def test_production_wants_an_approval(container: Container) -> None:
    rules = {"required_for": ["exec"], "approvers": ["hitomi", "jun"]}
    desk = container.desk(production=True, approval=rules)
    plan = container.plan(desk)
    with pytest.raises(InputError, match="approval"):
        pipeline.execute(desk, plan)
    assert container.ran == []
    assert container.kept() == []
    pipeline.approve(container.desk("jun", production=True, approval=rules), plan)
    assert pipeline.execute(desk, plan).verified is True


@pytest.mark.parametrize("broken", ["cut", "altered", "too long", "nothing"])
def test_what_does_not_come_whole_does_not_come(container: Container, broken: str) -> None:
    desk = container.desk()
    plan = container.plan(desk, limit="100Ki" if broken == "too long" else "8Gi")
    if broken == "cut":
        container.cut_after = 128 * 1024
    elif broken == "altered":
        container.alter = lambda data: data[:-1] + b"x"
    elif broken == "nothing":
        container.alter = lambda data: b""
    error = {"cut": Unreachable, "altered": Refused, "too long": TooLarge, "nothing": Refused}[broken]
    with pytest.raises(error):
        pipeline.execute(desk, plan)
    assert container.kept() == []
    assert list(container.tmp.iterdir()) == []
    assert pipeline.state(desk, plan) == "begun"
    # the same plan goes on once it can
    container.cut_after, container.alter = None, bytes
    if broken != "too long":
        assert pipeline.execute(desk, plan).verified is True


def test_a_command_that_fails_says_why_and_leaves_nothing(container: Container) -> None:
    container.program("jcmd", f'echo half >{container.tmp}/"$(basename "$3")"; echo "Unable to open socket file" >&2; exit 1')
    (container.folder / "bin" / "basename").symlink_to(str(shutil.which("basename")))
    desk = container.desk()
    with pytest.raises(Refused, match="Unable to open socket file"):
        pipeline.execute(desk, container.plan(desk))
    assert container.kept() == []
    assert list(container.tmp.iterdir()) == []


def test_no_dump_is_made_where_there_is_no_room_for_it_there(container: Container) -> None:
    container.program("df", _df(10))
    desk = container.desk()
    with pytest.raises(Refused, match="has 10Ki free"):
        pipeline.execute(desk, container.plan(desk))
    assert "jcmd" not in [words[0] for words in container.ran]
    container.program("df", "exit 0")
    with pytest.raises(Refused, match="cannot be seen"):
        pipeline.execute(desk, container.plan(desk))
    assert "jcmd" not in [words[0] for words in container.ran]


def test_another_container_than_the_plans_is_left_alone(container: Container) -> None:
    desk = container.desk()
    plan = container.plan(desk)
    container.since = "2026-04-10T13:00:00Z"  # restarted since: its memory is another
    with pytest.raises(SourceError, match="not as it was"):
        pipeline.execute(desk, plan)
    with pytest.raises(Conflict):
        desk.systems["dumps"].send(plan.steps[0].request, plan.steps[0].before)
    assert container.ran == []


def test_an_interrupt_leaves_nothing_half_done(container: Container) -> None:
    """Ctrl-C while it comes: no part of it stays here, the container's file is taken away, and the plan can be executed again."""

    def interrupted(written: int, expected: int | None) -> None:
        if written > 256 * 1024:
            raise KeyboardInterrupt

    desk = container.desk(progress=interrupted)
    plan = container.plan(desk)
    with pytest.raises(KeyboardInterrupt):
        pipeline.execute(desk, plan)
    assert container.kept() == []
    assert list(container.tmp.iterdir()) == []
    assert pipeline.execute(container.desk(), plan).verified is True


def test_what_an_execution_that_was_killed_has_left_is_no_dump(container: Container) -> None:
    desk = container.desk()
    plan = container.plan(desk)
    request = plan.steps[0].request
    part = desk.place / f"{request['file']}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half")
    Path(request["source"]).write_bytes(b"half")
    desk.log.append("started", plan.id, desk.who)
    desk.log.append("step.begins", plan.id, desk.who, step=0, what="-")
    assert pipeline.execute(desk, plan).verified is True
    assert (desk.place / request["file"]).read_bytes() == HEAP
    assert not part.exists()


def test_processes_are_listed_with_the_ps_that_there_is(container: Container) -> None:
    container.program("ps", '[ "$#" = 0 ] || { echo "ps: bad option" >&2; exit 1; }; echo "PID USER COMMAND"; echo "1 app java"')
    desk = container.desk()
    system = desk.systems["dumps"]
    assert isinstance(system, Dumps)
    plan = dumps.processes(system, desk.environment, desk.who, "web-1", "shop")
    pipeline.file_plan(desk, plan)
    assert pipeline.execute(desk, plan).verified is True
    assert (desk.place / plan.steps[0].request["file"]).read_text() == "PID USER COMMAND\n1 app java\n"
    assert [words for words in container.ran if words[0] == "ps"] == [
        ["ps", "-eo", "pid,ppid,user,pcpu,pmem,rss,etime,args", "--sort=-pcpu"], ["ps", "aux"], ["ps"],
    ]  # fmt: skip


def test_an_image_without_the_program_says_how_to_look_all_the_same(container: Container) -> None:
    desk = container.desk()
    plan = container.plan(desk, runtime="python")
    with pytest.raises(NoSuchProgram) as caught:
        pipeline.execute(desk, plan)
    assert "kubectl debug" in caught.value.command
    assert container.kept() == []


def test_go_is_asked_over_its_port_by_whichever_program_there_is(container: Container) -> None:
    container.program("wget", 'for last; do :; done; echo "heap of $last"')
    desk = container.desk()
    plan = container.plan(desk, runtime="go", port=8081)
    assert pipeline.execute(desk, plan).verified is True
    kept = (desk.place / plan.steps[0].request["file"]).read_text()
    assert kept == "heap of http://127.0.0.1:8081/debug/pprof/heap\n"


_PROGRAM = """
import os, signal, sys, time
def snapshot(number, frame):
    with open("Heap.20260410.120000.1.0.001.heapsnapshot", "w") as file:
        file.write("{}" * 1000)
if "expects" in sys.argv:
    signal.signal(signal.SIGUSR2, snapshot)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def node(container: Container, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A program that does with a signal what Node does: writes a snapshot where it runs, or ends where it does not expect it."""
    for name in ("tr", "find", "head", "sleep", "mv", "kill", "env"):
        (container.folder / "bin" / name).symlink_to(str(shutil.which(name)))
    words = [sys.executable, "-c", _PROGRAM, *request.param]
    cwd = container.folder / "app"
    cwd.mkdir()
    process = subprocess.Popen(words, cwd=cwd, stdout=subprocess.PIPE, text=True, env={})
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("node", [["expects", "--heapsnapshot-signal=SIGUSR2"]], indirect=True)
def test_node_writes_its_snapshot_when_it_was_started_for_it(container: Container, node: subprocess.Popen[str]) -> None:
    desk = container.desk()
    plan = container.plan(desk, runtime="node", pid=node.pid)
    assert pipeline.execute(desk, plan).verified is True
    assert (desk.place / plan.steps[0].request["file"]).read_text() == "{}" * 1000
    assert list((container.folder / "app").iterdir()) == []
    assert list(container.tmp.iterdir()) == []
    assert node.poll() is None


@pytest.mark.parametrize("node", [["other"]], indirect=True)
def test_a_signal_that_would_end_a_program_is_not_sent(container: Container, node: subprocess.Popen[str]) -> None:
    desk = container.desk()
    with pytest.raises(Refused, match="a signal would end it"):
        pipeline.execute(desk, container.plan(desk, runtime="node", pid=node.pid))
    until(lambda: node.poll() is None, "it still runs")
    assert container.kept() == []


@pytest.mark.parametrize(
    ("image", "runtime"),
    [("eclipse-temurin:21", "jvm"), ("docker.io/library/node:22-alpine", "node"), ("python:3.13-slim", "python"), ("golang:1.25", "go")],
)
def test_what_a_program_runs_on_shows(container: Container, image: str, runtime: str) -> None:
    container.image = image
    assert f", {runtime})" in container.plan(container.desk()).title or runtime == "python"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"container": "db"}, "no container db"),
        ({"runtime": "perl"}, "no runtime perl"),
        ({"limit": "much"}, "no size"),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(container: Container, more: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        container.plan(container.desk(), **more)
    assert container.ran == []


def test_what_is_not_there_is_named(container: Container) -> None:
    desk = container.desk()
    system = desk.systems["dumps"]
    assert isinstance(system, Dumps)
    with pytest.raises(InputError, match="pod/web-2"):
        dumps.heap_dump(system, desk.environment, desk.who, "web-2", "shop")
    container.image = "registry.example.com/shop/web:1"
    with pytest.raises(InputError, match="cannot be told"):
        container.plan(desk)
    with pytest.raises(InputError, match="no whole path"):
        dumps.heap_dump(system, desk.environment, desk.who, "web-1", "shop", runtime="jvm", folder="/tmp/../etc")
    container.since = ""
    with pytest.raises(InputError, match="does not run"):
        container.plan(desk, runtime="jvm")
