"""How the command line asks the stage."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from starlette.applications import Starlette

from opslib.errors import InputError, OpsError
from opslib.lab import control
from opslib.lab.serving import Served
from opslib.lab.stage import Broken, Stage


class Acts:
    """A stage on which everything goes wrong in its own way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broken: list[Broken] = []

    def play(self, name: str, ago: float | None, speed: float) -> Broken:
        raise {"wrong": InputError("no such scenario"), "refused": OpsError("the API server refused")}.get(name, ValueError("no node n"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        (tmp_path / "state.json").write_text(json.dumps({"ports": {"exporter": held.getsockname()[1]}}))
        served = Served(Starlette(routes=control.routes(cast("Stage", Acts(tmp_path)))), held=held)
        yield tmp_path
        served.close()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("wrong", InputError, "no such scenario"),
        ("refused", OpsError, "the API server refused"),
        ("odd", OpsError, "ValueError: no node n"),
    ],
)
def test_what_goes_wrong_in_a_break_is_said(folder: Path, name: str, kind: type[OpsError], said: str) -> None:
    with pytest.raises(OpsError, match=said) as caught:
        control.ask(folder, "break", {"kind": "scenario", "name": name})
    assert type(caught.value) is kind


def test_without_its_token_the_stage_says_nothing(folder: Path) -> None:
    (folder / control.TOKEN).write_text("another")
    with pytest.raises(OpsError, match="no or another token"):
        control.ask(folder, "broken")
