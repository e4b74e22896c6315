"""The chapters of the runbook, one file each, under one slug everywhere.

A chapter's module gives `Parameters` (a pydantic model), `Facts` (what it must know), `findings(facts)` and its tables and plots: pure
functions, no input or output. What reads the facts stands in `opslib.facts` under the same name.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from opslib.errors import InputError
from opslib.messages import Message, _


@dataclass(frozen=True, slots=True)
class Chapter:
    """One chapter: its section in the runbook, its slug, its title."""

    section: str
    slug: str
    title: Message

    @property
    def notebook(self) -> str:
        """File name of its notebook."""
        return f"{self.section}_{self.slug}.ipynb"


CHAPTERS = (
    Chapter("2", "access", _("Access: who am I, what can I reach")),
    Chapter("3.1", "monitoring", _("Monitoring check")),
    Chapter("3.2", "backup", _("Backup and restore")),
    Chapter("3.3", "patching", _("Patching")),
    Chapter("4.1", "pods", _("Pod failures")),
    Chapter("4.2", "nodes", _("Node failures")),
    Chapter("4.3", "cpu", _("High CPU use")),
    Chapter("4.3", "memory", _("High memory use")),
    Chapter("4.3", "disk", _("High disk use")),
)


def find(name: str) -> Chapter:
    """The one chapter with that slug ("pods"), or section ("4.1") where that section has no other.

    Raises
    ------
    InputError
        There is none (the nearest is named), or the section has several (all are named).
    """
    found = find_all(name)
    if len(found) > 1:
        what = _("Section {name} has several chapters: {slugs}", name=name, slugs=[chapter.slug for chapter in found])
        raise InputError(what, _("Name one of them"), "opslib list")
    return found[0]


def find_all(name: str) -> tuple[Chapter, ...]:
    """The chapters with that section ("4.3" has several) or slug ("pods"); InputError names the nearest where there is none."""
    found = tuple(chapter for chapter in CHAPTERS if name in (chapter.section, chapter.slug))
    if found:
        return found
    names = [word for chapter in CHAPTERS for word in (chapter.section, chapter.slug)]
    near = difflib.get_close_matches(name, names, n=1)
    what = _("There is no chapter {name}", name=name)
    if near:
        raise InputError(what, _("Did you mean {near}? All of them", near=near[0]), "opslib list")
    raise InputError(what, _("All of them"), "opslib list")
