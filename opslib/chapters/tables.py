"""What the chapters' pages have in common: tables that say why they are empty, and the findings of some families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opslib.findings import Column, Finding, Table
from opslib.messages import Message, Text, _

NOT_READ = _("Could not be read; the findings say why.")


def about(findings: Sequence[Finding], *families: str) -> list[Finding]:
    """Those of `findings` whose check is of one of the families: "rules", "alerts", "gap"."""
    return [finding for finding in findings if finding.check.partition(".")[0] in families]


def table(
    name: str, title: Message, columns: tuple[Column, ...], rows: list[tuple[Any, ...]] | None, empty: Text, note: Text = ""
) -> Table:
    """A table that says, where it has no rows, whether there is nothing or nothing could be read."""
    return Table(name=name, title=title, columns=columns, rows=rows or [], empty=NOT_READ if rows is None else empty, note=note)
