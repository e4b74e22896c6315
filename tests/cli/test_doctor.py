"""`opslib doctor`: one screen, whatever is down; each reason is named, and the exit status is that of the worst."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from opslib.cli import main

if TYPE_CHECKING:
    from tests.conftest import RealLab

Made = Callable[..., None]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Writes an environment's file into a folder of parameters of its own."""
    folder = tmp_path / "parameters"
    folder.mkdir()
    monkeypatch.setenv("OPSLIB_PARAMETERS", str(folder))
    monkeypatch.setenv("OPSLIB_LANG", "en")
    monkeypatch.delenv("OPSLIB_LAB", raising=False)

    def write(name: str, **content: Any) -> None:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "language": "en", "timezone": "UTC", **content}), "utf-8")

    return write


@pytest.fixture
def refused() -> Iterator[str]:
    """An address at which every connection is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening


def cluster(folder: Path, server: str) -> dict[str, Any]:
    """The `kubernetes` section for a cluster at that address."""
    content = {
        "current-context": "one",
        "clusters": [{"name": "one", "cluster": {"server": server}}],
        "users": [{"name": "me", "user": {"token": "x"}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "me"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(content), "utf-8")
    return {"kubeconfig": str(folder / "kubeconfig"), "deadline_seconds": 300}


def everything_at(folder: Path, address: str) -> dict[str, Any]:
    """Every system at one address, each with a deadline that nobody would wait for."""
    systems = {name: {"url": f"http://{address}", "deadline_seconds": 300} for name in ("prometheus", "alertmanager", "elasticsearch")}
    return {"kubernetes": cluster(folder, f"https://{address}"), **systems}


def as_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[dict[str, Any]]]:
    status = main(["doctor", "--json", *words])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return status, found


def states(one: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {system["system"]: (system["answers"], system["error"] or "") for system in one["systems"] if system["named"]}


def test_where_everything_is_down_each_reason_is_named_and_it_is_critical(
    make: Made, refused: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("dev", title="Development", **everything_at(tmp_path, refused))
    assert main(["doctor", "--env", "dev"]) == 2
    screen = capsys.readouterr().out
    assert screen.splitlines()[0] == "dev · Development"
    assert screen.count("connection refused") >= 4
    assert "[critical] Kubernetes does not answer" in screen
    assert "[warning] Elasticsearch does not answer" in screen
    assert "4.1 Pod failures" in screen
    assert len(screen.splitlines()) <= 40


def test_who_never_answers_is_not_waited_for(make: Made, silent: socket.socket, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("dev", **everything_at(tmp_path, f"127.0.0.1:{silent.getsockname()[1]}"))
    began = time.monotonic()
    status, (one,) = as_json(capsys, "--env", "dev")
    assert time.monotonic() - began < 60, "a deadline of the environment's file was waited for"
    assert status == 2
    assert all("no answer in time" in error for _answers, error in states(one).values())
    assert {chapter["chapter"]: chapter["verdict"] for chapter in one["chapters"]}["pods"] == "cannot"


def test_it_can_be_interrupted(make: Made, silent: socket.socket, tmp_path: Path) -> None:
    make("dev", **everything_at(tmp_path, f"127.0.0.1:{silent.getsockname()[1]}"))
    program = [sys.executable, "-c", "import sys; from opslib.cli import main; sys.exit(main())", "doctor", "--env", "dev"]
    with subprocess.Popen(program, env={**os.environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        silent.settimeout(60)
        silent.accept()  # it is asking now
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error.strip()) == (130, "", "opslib: interrupted")


def test_several_environments_at_once_the_worst_decides(
    make: Made, refused: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make("dev", **everything_at(tmp_path, refused))
    make("lab", addresses_file=str(tmp_path / "none.yaml"))
    status, found = as_json(capsys, "--all")
    assert [one["environment"] for one in found] == ["dev", "lab"]
    assert [one["severity"] for one in found] == ["critical", "unknown"]
    assert "is not running" in found[1]["error"]
    assert status == 2
    assert as_json(capsys, "--env", "lab")[0] == 3


def test_one_environment_that_cannot_be_read_is_an_error(make: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("lab", addresses_file=str(tmp_path / "none.yaml"))
    assert main(["doctor"]) == 3
    assert "opslib lab up" in capsys.readouterr().err


def test_environments_and_all_do_not_go_together(make: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--all", "--env", "dev"]) == 3
    assert "--all" in capsys.readouterr().err


# --- a cluster that answers -----------------------------------------------------------------------------------------------------------


PATIENT = ("--within", "30")  # whether it is quick is not what these are about


def addresses(lab: RealLab, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(lab.environment.read_text("utf-8"))
    return {"kubernetes": {**content["kubernetes"], **changes}}


def test_who_may_everything_has_nothing_to_report(embedded_cluster: RealLab, make: Made, capsys: pytest.CaptureFixture[str]) -> None:
    make("mine", **addresses(embedded_cluster))
    status, (one,) = as_json(capsys, "--env", "mine", *PATIENT)
    assert (status, one["severity"], one["findings"]) == (0, "ok", [])
    assert states(one)["kubernetes"] == (True, "")
    (kubernetes,) = (system for system in one["systems"] if system["system"] == "kubernetes")
    assert (kubernetes["identity"], kubernetes["version"][:2]) == ("lab-admin", "v1")


@pytest.mark.parametrize(("context", "verdict"), [("lab-viewer", "gaps"), ("lab-nobody", "cannot")])
def test_what_others_may_is_told_by_chapter(
    context: str, verdict: str, embedded_cluster: RealLab, make: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    make("mine", **addresses(embedded_cluster, context=context))
    _status, (one,) = as_json(capsys, "--env", "mine", *PATIENT)
    assert {chapter["chapter"]: chapter["verdict"] for chapter in one["chapters"]}["pods"] == verdict
    assert {"rights.missing", "rights.view_only"} <= {finding["check"] for finding in one["findings"]}


def test_a_wrong_cluster_is_critical_and_not_read(embedded_cluster: RealLab, make: Made, capsys: pytest.CaptureFixture[str]) -> None:
    make("mine", **addresses(embedded_cluster, expected_cluster_uid="00000000-0000-0000-0000-000000000000"))
    assert main(["doctor", "--env", "mine", *PATIENT]) == 2
    screen = capsys.readouterr().out
    assert "[critical] Kubernetes is not the environment's: nothing more was read from it" in screen
    assert "lab-admin" not in screen
