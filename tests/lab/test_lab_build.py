"""What the build decides, keeps and refuses, without building: toolchains here are small scripts that a user could have on PATH."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from opslib.errors import InputError
from opslib.lab import build, processes

COMMAND = [sys.executable, "-c", "import sys, opslib.cli; sys.exit(opslib.cli.main())", "lab", "build", "--lang", "en"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPSLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def go_that(tools: Path, rest: str) -> None:
    """A Go that says its version and, asked to list modules or build, does `rest`; $out is the file to write."""
    script(
        tools / "go",
        f'if [ "$1" = env ]; then echo go1.99.0; exit; fi\nwhile [ "$1" != -o ] && [ $# -gt 1 ]; do shift; done\nout=$2\n{rest}',
    )


def pretend(server: build.Server) -> Path:
    """A server in the cache as a finished build leaves it."""
    place = build.folder(server)
    place.mkdir(parents=True)
    for name in server.files:
        (place / name).write_text("binary")
    (place / "manifest.json").write_text(json.dumps({"recipe": server.recipe}))
    return place


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in (cache / "servers").iterdir()]


def test_a_server_is_built_only_when_it_is_whole_and_of_this_recipe(cache: Path) -> None:
    server = build.find("prometheus")
    assert not build.is_built(server)
    place = pretend(server)
    assert build.is_built(server)
    assert build.program("promtool") == place / "promtool"
    (place / "promtool").unlink()
    assert not build.is_built(server)
    with pytest.raises(InputError, match="promtool has not been built"):
        build.program("promtool")
    (place / "promtool").write_text("binary")
    (place / "manifest.json").write_text(json.dumps({"recipe": "of an older opslib"}))
    assert not build.is_built(server)
    (place / "manifest.json").write_text('{"recip')
    assert not build.is_built(server)


def test_every_go_sum_stands_beside_its_module_and_every_jar_has_a_hash() -> None:
    for server in build.SERVERS:
        files = {path.name for path in (build.RECIPES / server.name).iterdir()}
        assert files == ({"go.mod", "go.sum"} if server.toolchain == "go" else {"jars.txt", "LabNode.java"})
    jars = build.jars()
    assert {name.rpartition(":")[0] for name, _sha256 in jars} >= {"org.opensearch:opensearch", "org.eclipse.jdt:ecj"}
    assert all(len(sha256) == 64 for _name, sha256 in jars)


def test_the_plan_says_what_it_takes_before_anything_is_built(cache: Path, tools: Path) -> None:
    go_that(tools, "exit 1")
    pretend(build.find("etcd"))
    plan = build.plan(["etcd", "alertmanager"])
    assert [server.name for server in plan.kept] == ["etcd"]
    assert [server.name for server in plan.todo] == ["alertmanager"]
    assert plan.toolchains == ()
    assert plan.disk_bytes == build.find("alertmanager").disk_bytes
    assert plan.seconds == build.find("alertmanager").seconds
    assert plan.free_bytes == pytest.approx(shutil.disk_usage(cache.parent).free, rel=0.1)
    assert [server.name for server in build.plan(["etcd"], force=True).todo] == ["etcd"]
    assert not (cache / "lock").exists()


def test_a_go_that_is_too_old_is_as_good_as_none(cache: Path, tools: Path) -> None:
    script(tools / "go", "echo go1.21.4")
    assert build.toolchain("go") is None
    assert build.plan(["etcd"]).toolchains == ("go",)
    script(tools / "go", "echo go1.26.7")
    assert build.toolchain("go") == tools / "go"
    script(tools / "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    assert build.toolchain("java") is None
    script(tools / "java", "echo 'openjdk version \"21\" 2023-09-19' >&2")
    assert build.toolchain("java") == tools / "java"


def test_too_little_disk_is_refused(tmp_path: Path) -> None:
    plan = build.Plan((build.find("etcd"),), (), (), 60, 600_000_000, 599_999_999, tmp_path)
    with pytest.raises(InputError, match="needs 600 MB of disk"):
        build.require_room(plan)
    build.require_room(build.Plan((build.find("etcd"),), (), (), 60, 600_000_000, 600_000_000, tmp_path))


def test_an_unknown_server_is_named_with_those_that_there_are(cache: Path) -> None:
    answer = subprocess.run([*COMMAND, "--only", "grafana"], capture_output=True, text=True, check=False)
    assert answer.returncode == 3
    assert "There is no server grafana" in answer.stderr
    assert "etcd, kubernetes, prometheus, alertmanager, opensearch" in answer.stderr
    assert not cache.exists()


def test_a_build_is_kept_with_its_manifest_and_not_done_twice(cache: Path, tools: Path) -> None:
    go_that(tools, '[ -n "$out" ] && echo made > "$out"; exit 0')
    first = subprocess.run([*COMMAND, "--only", "etcd"], capture_output=True, text=True, check=True)
    assert "of disk with empty caches" in first.stdout
    assert "compiling etcd" in first.stdout
    place = build.folder(build.find("etcd"))
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["toolchain"] == "go 1.99.0"
    assert manifest["sha256"] == {"etcd": hashlib.sha256(b"made\n").hexdigest()}
    go_that(tools, "exit 1")
    second = subprocess.run([*COMMAND, "--only", "etcd"], capture_output=True, text=True, check=True)
    assert "etcd 3.6.16 is built" in second.stdout
    failed = subprocess.run([*COMMAND, "--only", "etcd", "--force"], capture_output=True, text=True, check=False)
    assert failed.returncode == 3
    assert (place / "etcd").read_text() == "made\n"  # the old one stays until a new one is whole


def test_a_step_that_fails_is_told_with_its_last_words_and_leaves_no_half_server(cache: Path, tools: Path) -> None:
    go_that(tools, "echo main.go:7: syntax error; exit 2")
    answer = subprocess.run([*COMMAND, "--only", "etcd"], capture_output=True, text=True, check=False)
    assert answer.returncode == 3
    assert "etcd 3.6.16 could not be built: go ended with status 2" in answer.stderr
    assert "main.go:7: syntax error" in answer.stderr
    assert str(cache / "logs" / "etcd-3.6.16.log") in answer.stderr
    assert leftovers(cache) == []


def test_ctrl_c_ends_the_whole_family_of_processes_and_leaves_no_half_server(cache: Path, tools: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    go_that(tools, f'[ -n "$out" ] && echo half > "$out"; sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait')
    process = subprocess.Popen([*COMMAND, "--only", "etcd"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not pid.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert processes.identity(int(pid.read_text())) is None
    assert leftovers(cache) == []


def test_what_a_killed_build_left_is_cleared_by_the_next(cache: Path, tools: Path) -> None:
    left = cache / "servers" / ".etcd-3.6.16.abc.tmp"
    left.mkdir(parents=True)
    go_that(tools, '[ -n "$out" ] && echo made > "$out"; exit 0')
    build.build(["etcd"])
    assert leftovers(cache) == ["etcd-3.6.16"]


def test_two_builds_at_once_do_not_meet(cache: Path, tools: Path) -> None:
    go_that(tools, "exit 1")
    cache.mkdir()
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Another build is running"):
            build.build(["etcd"])


# --- jars -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Maven repository with one jar, "right"; the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path.endswith("/org/example/tool/1.0/tool-1.0.jar")
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", "5" if found else "0")
            self.end_headers()
            if found:
                self.wfile.write(b"right")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPSLIB_MAVEN_REPOSITORY", f"http://127.0.0.1:{server.server_address[1]}/maven/")
    yield asked
    server.shutdown()
    server.server_close()


def test_a_jar_is_taken_from_the_named_repository_and_must_have_its_hash(cache: Path, repository: list[str]) -> None:
    right = hashlib.sha256(b"right").hexdigest()
    path = build.jar("org.example:tool:1.0", right)
    assert path.read_bytes() == b"right"
    assert repository[0] == "/maven/org/example/tool/1.0/tool-1.0.jar"
    path.write_bytes(b"ri")  # as an interrupted download leaves it
    assert build.jar("org.example:tool:1.0", right).read_bytes() == b"right"
    with pytest.raises(build.BuildError, match="is not what it was"):
        build.jar("org.example:tool:1.0", hashlib.sha256(b"other").hexdigest())
    with pytest.raises(build.BuildError, match=r"org\.example:gone:1\.0 could not be downloaded"):
        build.jar("org.example:gone:1.0", right)


def test_the_users_own_mirror_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPSLIB_MAVEN_REPOSITORY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.maven_repository() is None
    (tmp_path / ".m2").mkdir()
    (tmp_path / ".m2" / "settings.xml").write_text(
        '<settings xmlns="http://maven.apache.org/SETTINGS/1.0.0"><mirrors>'
        "<mirror><mirrorOf>snapshots</mirrorOf><url>https://other.example.com/</url></mirror>"
        "<mirror><mirrorOf>central</mirrorOf><url> https://maven.example.com/all/ </url></mirror></mirrors></settings>"
    )
    assert build.maven_repository() == "https://maven.example.com/all"
    (tmp_path / ".m2" / "settings.xml").write_text("<settings>")
    assert build.maven_repository() is None


def test_the_toolchains_are_those_of_the_lock() -> None:
    """`make lock` writes the lock; what an installed opslib uses are the same lines, a file a toolchain."""
    ours = {line.strip(" \\") for path in (build.RECIPES / "toolchains").iterdir() for line in path.read_text().splitlines()}
    lock = (Path(__file__).parents[2] / "requirements-toolchains.lock").read_text().splitlines()
    assert ours == {line.strip(" \\") for line in lock}
