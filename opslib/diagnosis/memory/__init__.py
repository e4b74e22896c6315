"""Whose memory grows, ends, or is set wrongly.

A rule is a function ``(facts, parameters) -> Iterator[Finding]``; a family of them stands in one file. A field of the facts that is None
was not read: a rule says nothing about it, the gap does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opslib.diagnosis.memory import growth
from opslib.diagnosis.memory.facts import Facts, Parameters
from opslib.findings import Finding

Rule = Callable[[Facts, Parameters], Iterator[Finding]]

RULES: tuple[Rule, ...] = (growth.growing, growth.killed, growth.near_limit, growth.nodes)


def diagnose(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that any rule finds; gaps are not among them."""
    return [finding for rule in RULES for finding in rule(facts, parameters)]
