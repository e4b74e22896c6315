"""Who is held back, who uses the CPU, and where there is room.

A rule is a function ``(facts, parameters) -> Iterator[Finding]``; a family of them stands in one file. A field of the facts that is None
was not read: a rule says nothing about it, the gap does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opslib.diagnosis.cpu import containers, nodes
from opslib.diagnosis.cpu.facts import Facts, Parameters
from opslib.findings import Finding

Rule = Callable[[Facts, Parameters], Iterator[Finding]]

RULES: tuple[Rule, ...] = (containers.throttled, containers.near_limit, nodes.busy, nodes.at_maximum)


def diagnose(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that any rule finds; gaps are not among them."""
    return [finding for rule in RULES for finding in rule(facts, parameters)]
