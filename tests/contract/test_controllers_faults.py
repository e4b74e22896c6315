"""Every fault ends in the same state with our controllers as with the real ones: objects, names, conditions, events."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from controller_engines import Engine, Engines, on_both
from controller_facts import difference, facts

from opslib.lab import player
from opslib.lab.faults import LABEL, load, names

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.compare, pytest.mark.timeout(600)]

_SECONDS = 60
_OF_THE_PLATFORM = {"incident", "change-config-map"} & {name for name in names() if load(name).edits}
_ALONE = sorted(name for name in names() if load(name).nodes)
_TOGETHER = sorted(set(names()) - set(_ALONE) - _OF_THE_PLATFORM)


def apply(engine: Engine, chosen: list[str]) -> dict[str, str]:
    """Break the cluster; what went wrong, by fault."""
    trouble = {}
    for name in chosen:
        try:
            player.apply_fault(engine.api, name, timeout_seconds=60)
        except Exception as error:  # told by the test of that fault
            trouble[name] = str(error)
    return trouble


@pytest.fixture(scope="module")
def broken(engines: Engines) -> Iterator[tuple[list[dict[str, str]], float]]:
    """All faults that leave the nodes alone, at once: what went wrong, and until when controllers may take to settle."""
    trouble = on_both(engines, lambda engine: apply(engine, _TOGETHER))
    yield trouble, time.monotonic() + _SECONDS
    on_both(engines, lambda engine: player.reset(engine.api, timeout_seconds=120))


def compare(engines: Engines, name: str, seconds: float) -> None:
    """Wait until both clusters show the same for a fault."""
    namespace = load(name).namespace
    deadline = time.monotonic() + seconds
    while True:
        found = difference(*on_both(engines, lambda engine: facts(engine.api, labels=f"{LABEL}={name}", namespace=namespace)))
        if not found:
            return
        if time.monotonic() > deadline:
            pytest.fail(found, pytrace=False)
        time.sleep(0.5)


@pytest.mark.parametrize("name", _TOGETHER)
def test_fault(name: str, engines: Engines, broken: tuple[list[dict[str, str]], float]) -> None:
    trouble, settled = broken
    assert [one.get(name) for one in trouble] == [None, None]
    compare(engines, name, max(3.0, settled - time.monotonic()))


@pytest.mark.parametrize("name", _ALONE)
def test_fault_of_a_node(name: str, engines: Engines) -> None:
    try:
        assert on_both(engines, lambda engine: apply(engine, [name])) == [{}, {}]
        compare(engines, name, _SECONDS)
    finally:
        on_both(engines, lambda engine: player.reset(engine.api, timeout_seconds=120))
