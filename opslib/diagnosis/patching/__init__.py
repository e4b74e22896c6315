"""What stands before the next version, and what is behind already.

A rule is a function ``(facts, parameters) -> Iterator[Finding]``; a family of them stands in one file. A field of the facts that is None
was not read: a rule says nothing about it, the gap does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opslib.diagnosis.patching import addons, infrastructure, nodes, versions
from opslib.diagnosis.patching.facts import Facts, Parameters
from opslib.findings import Finding

Rule = Callable[[Facts, Parameters], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    versions.support,
    versions.skips,
    versions.removed_apis,
    versions.written,
    versions.stored,
    versions.insights,
    addons.unwell,
    addons.incompatible,
    addons.outdated,
    nodes.groups_unwell,
    nodes.groups_behind,
    nodes.skew,
    nodes.budgets,
    infrastructure.drifted,
    infrastructure.locked,
)


def diagnose(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that any rule finds; gaps are not among them."""
    return [finding for rule in RULES for finding in rule(facts, parameters)]
