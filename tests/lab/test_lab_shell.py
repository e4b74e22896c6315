"""Commands of the lab's shell, each by itself, in a container of a world."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from opslib.lab import certificates
from opslib.lab.api import Api
from opslib.lab.shell import box as boxes
from opslib.lab.shell import grammar, runner
from opslib.lab.world import World
from opslib.lab.world.faults import Fault, VolumeFill
from opslib.lab.world.manifests import manifests

NOW = 1_790_604_800.0
WORLD = World(7, NOW - 7 * 86400, NOW)
NOBODY = Api("https://127.0.0.1:1", certificates.authority("nobody").certificate)  # answers nothing: a container does without


@dataclass
class Typed:
    """Somebody at a terminal: what they type, and what they see."""

    keys: list[bytes] = field(default_factory=list)
    output: bytes = b""
    error: bytes = b""

    async def read(self) -> bytes | None:
        return self.keys.pop(0) if self.keys else None

    async def write(self, data: bytes, *, error: bool = False) -> None:
        if error:
            self.error += data
        else:
            self.output += data


def container(app: str, fault: Fault | None = None, start: float = NOW - 7200) -> boxes.Box:
    """A container of one of the world's services."""
    world = WORLD if fault is None else WORLD.breaks(fault, start)
    kinds = ("Deployment", "StatefulSet", "DaemonSet")
    [workload] = [one for one in manifests(WORLD) if one["kind"] in kinds and one["metadata"]["name"] == app]
    template = workload["spec"]["template"]
    spec: dict[str, Any] = {**template["spec"], "nodeName": WORLD.nodes[0].name}
    if "volumeClaimTemplates" in workload["spec"]:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": f"data-{app}-0"}}]
    status = {"podIP": "10.0.0.9", "containerStatuses": [{"name": app, "containerID": "containerd://abc"}]}
    metadata = {"name": f"{app}-0", "namespace": workload["metadata"]["namespace"], "uid": "u", "labels": template["metadata"]["labels"]}
    pod = {"metadata": metadata, "spec": spec, "status": status}
    return boxes.make(NOBODY, pod, spec["containers"][0], world, {}, started=NOW - 3600, now=NOW, used=(0.25, 300 * 2.0**20))


def run(box: boxes.Box, *words: str, keys: list[bytes] | None = None, tty: bool = False) -> tuple[int, str, str]:
    """Exit status and outputs."""
    terminal = Typed(list(keys or []))
    code = asyncio.run(runner.run(box, words, terminal, stdin=keys is not None, tty=tty))
    return code, terminal.output.decode(), terminal.error.decode()


@pytest.fixture(scope="module")
def shell() -> boxes.Box:
    return container("web")


@settings(deadline=None)
@given(some.text(max_size=60))
def test_any_text_is_run_or_is_a_syntax_error(text: str) -> None:
    try:
        grammar.parse(text)
    except grammar.Wrong as error:
        assert str(error).startswith("syntax error")


@settings(deadline=None, max_examples=40)
@given(lines=some.lists(some.text(some.characters(exclude_categories=["C", "Z"]), max_size=8), max_size=12), number=some.integers(0, 15))
def test_heads_and_tails(shell: boxes.Box, lines: list[str], number: int) -> None:
    text = "".join(f"{line}\n" for line in lines)
    shell.files["/tmp/x"] = text
    assert run(shell, "sh", "-c", f"cat /tmp/x | head -n {number}")[1].splitlines() == lines[:number]
    assert run(shell, "tail", f"-{number}", "/tmp/x")[1].splitlines() == (lines[-number:] if number else [])
    assert run(shell, "sh", "-c", "wc -l < /tmp/x")[1] == f"{len(lines)}\n"
    assert run(shell, "sh", "-c", "sort -u /tmp/x | wc -l")[1] == f"{len(set(lines))}\n"


def test_variables_files_and_redirections(shell: boxes.Box) -> None:
    script = "A=1; echo $A > /tmp/a; echo two >> /tmp/a; cat /tmp/a; rm /tmp/a; ls /tmp/a || echo gone; cd /tmp && pwd"
    assert run(shell, "sh", "-c", script) == (0, "1\ntwo\ngone\n/tmp\n", "ls: cannot access '/tmp/a': No such file or directory\n")
    assert run(shell, "sh", "-c", "nope 2>/dev/null; echo $?")[1] == "127\n"
    assert run(shell, "sh", "-c", "test -f /etc/hosts && [ 3 -gt 2 ] && echo yes")[1] == "yes\n"
    assert run(shell, "sh", "-c", "rm /etc/hosts")[0] == 1  # of the image, or mounted
    assert run(shell, "sh", "-c", "echo a b c | cut -d' ' -f2 | tr b X; which curl nothing")[1] == "X\n/usr/bin/curl\n"


def test_what_is_typed_is_echoed(shell: boxes.Box) -> None:
    code, output, _error = run(shell, "sh", keys=[b"echo hx", b"\x7fi\r", b"false\r", b"\x04"], tty=True)
    assert code == 1 and output == "$ echo hx\b \bi\r\nhi\r\n$ false\r\n$ \r\n"
    assert run(shell, "bash", keys=[b"exit 3\r"], tty=True)[0] == 3


@pytest.mark.parametrize(
    ("app", "command", "words"),
    [
        ("catalog", "ps", "java -XX:MaxRAMPercentage=75.0 -jar /app/catalog.jar"),
        ("catalog", "jcmd 1 GC.heap_info", "garbage-first heap"),
        ("order-db", "ps aux", "postgres: checkpointer"),
        ("session-store", "redis-cli ping", "PONG"),
        ("session-store", "redis-cli info memory", "used_memory_human:"),
        ("recommendation", "ps", "gunicorn: worker"),
        ("web", "top -b -n 1", "node"),
        ("web", "cat /etc/resolv.conf", "search shop.svc.cluster.local"),
        ("web", "free -h", "Mem:"),
    ],
)
def test_each_kind_of_container_has_its_own(app: str, command: str, words: str) -> None:
    code, output, error = run(container(app), "sh", "-c", command)
    assert code == 0 and words in output, error


@pytest.mark.parametrize(("app", "command"), [("web", "jcmd"), ("web", "redis-cli"), ("catalog", "pg_isready"), ("coredns", "sh")])
def test_what_an_image_lacks_cannot_start(app: str, command: str) -> None:
    with pytest.raises(runner.CannotStart, match=f'exec: "{command}": executable file not found'):
        run(container(app), command)


def test_a_full_volume_is_full() -> None:
    def used(box: boxes.Box) -> int:
        _code, output, _error = run(box, "df", "/data")
        return int(output.splitlines()[1].split()[4].removesuffix("%"))

    assert used(container("order-db")) < 90
    assert used(container("order-db", VolumeFill(service="order-db", bytes_per_hour=200 * 2.0**30))) == 100


def test_its_limits_are_in_its_files(shell: boxes.Box) -> None:
    assert run(shell, "cat", "/sys/fs/cgroup/cpu.max")[1] == "100000 100000\n"
    assert int(run(shell, "cat", "/sys/fs/cgroup/memory.current")[1]) == 300 * 2**20
    assert shell.environment["HOSTNAME"] == "web-0" and json.loads(json.dumps(shell.environment))
