"""The stage: the world of now, kept in a file; what scenarios do to a lab that runs, and how they end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from opslib.lab import stage
from opslib.lab.world import World
from opslib.lab.world.faults import BadDeploy, NodeDown
from opslib.lab.world.platform import NODES, SERVICES

WORLD = World(seed=3, start=1_790_000_000, end=1_790_604_800)


def test_a_world_comes_back_from_its_document() -> None:
    broken = WORLD.breaks(BadDeploy(service="cart", release="2.0.0"), 1_790_600_000).breaks(NodeDown(node=NODES[0].name), 1.5, 2.5)
    bigger = replace(broken, services=tuple(replace(one, replicas=one.replicas * 3) for one in SERVICES), nodes=NODES[:3])
    assert World.of(broken.document()) == broken
    assert World.of(bigger.document()) == bigger


def test_another_world_is_told_and_kept(tmp_path: Path) -> None:
    on = stage.Stage(tmp_path, WORLD, handover=5.0)
    told: list[World] = []
    on.subscribe(told.append)
    broken = WORLD.breaks(BadDeploy(service="cart", release="2.0.0"), 1_790_600_000)
    on.become(broken, handover=7.0)
    assert told == [broken]
    assert (on.world, on.handover) == (broken, 7.0)
    assert stage.read(tmp_path) == (broken, 7.0)
    on.become(WORLD)
    assert stage.read(tmp_path) == (WORLD, 7.0)
