"""Which nodes are ill, which are full, which were forgotten, and what that means for the pods on them.

A rule is a function ``(facts, parameters) -> Iterator[Finding]``; a family of them stands in one file. A field of the facts that is None
was not read: a rule says nothing about it, the gap does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opslib.diagnosis.nodes import capacity, health, history, upkeep
from opslib.diagnosis.nodes.facts import Facts, Parameters
from opslib.findings import Finding

Rule = Callable[[Facts, Parameters], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    health.not_ready,
    health.silent,
    health.pressure,
    history.flapping,
    history.evicted,
    history.stalled,
    history.near_eviction,
    upkeep.cordoned,
    upkeep.version_skew,
    upkeep.clock,
    upkeep.certificate,
    upkeep.agents_missing,
    capacity.full,
    capacity.overcommitted,
    capacity.disks,
    capacity.zones,
)


def diagnose(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that any rule finds; gaps are not among them."""
    return [finding for rule in RULES for finding in rule(facts, parameters)]
