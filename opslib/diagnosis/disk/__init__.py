"""Which disks are full or will be, when, and what fills them.

A rule is a function ``(facts, parameters) -> Iterator[Finding]``; a family of them stands in one file. A field of the facts that is None
was not read: a rule says nothing about it, the gap does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opslib.diagnosis.disk import claims, containers, images, nodes, space
from opslib.diagnosis.disk.facts import Facts, Parameters
from opslib.findings import Finding

Rule = Callable[[Facts, Parameters], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    space.volumes,
    space.filesystems,
    claims.resizing,
    containers.open_files,
    containers.near_limit,
    containers.big_writers,
    containers.loud,
    nodes.pressure,
    nodes.readonly,
    nodes.clean_up_failed,
    nodes.evictions,
    nodes.rotation,
    images.unused,
)


def diagnose(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that any rule finds; gaps are not among them."""
    return [finding for rule in RULES for finding in rule(facts, parameters)]
