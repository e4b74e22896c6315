"""Everything with which the lab can be broken: scenarios and faults, in one space of names.

The command line asks it, which does not wait for the models of these files: `opslib.lab.world.scenarios` and `opslib.lab.faults` have them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from opslib.errors import InputError
from opslib.lab import named
from opslib.messages import Message, _, current_language

MOST_SPEED = 1000
"""Metrics are read every few seconds: what goes faster would be over between two readings."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A scenario or a fault, as who wants to break the lab sees it: nothing about the cause.

    Parameters
    ----------
    story, look
        What whoever is on call is told, and the command with which to begin; empty for a fault.
    level
        From 1 (easy) to 3; 0 for a fault.
    """

    name: str
    kind: Literal["scenario", "fault"]
    title: str
    level: int = 0
    story: str = ""
    look: str = ""
    namespace: str = ""


def everything() -> list[Entry]:
    """All entries: scenarios by level, faults by name."""
    lessons = sorted((_scenario(name) for name in named.names(named.SCENARIOS)), key=lambda one: (one.level, one.name))
    return [*lessons, *(_fault(name) for name in named.names(named.FAULTS))]


def find(name: str) -> Entry:
    """The entry of that name.

    Raises
    ------
    InputError
        There is none; the nearest is named.
    """
    lessons, faults = named.names(named.SCENARIOS), named.names(named.FAULTS)
    if name in lessons:
        return _scenario(name)
    if name in faults:
        return _fault(name)
    raise named.missing([*lessons, *faults], name, _("There is no scenario or fault {name}", name=name))


def seconds(text: str) -> float:
    """The seconds of a time like "90m" or "2h".

    Raises
    ------
    InputError
        It is none.
    """
    from opslib.lab.world import scenarios

    try:
        found = scenarios.seconds(text)
    except ValueError:
        found = None
    if not isinstance(found, float):
        raise InputError(_("{text} is no time", text=text), _("Write it like 90s, 10m or 1h30m"))
    return found


def speed(text: str) -> float:
    """The speed of a text like "10" or "0.5".

    Raises
    ------
    InputError
        It is none, or one at which nothing can be seen.
    """
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.01 <= found <= MOST_SPEED:
        raise InputError(_("{text} is no speed", text=text), _("Write a number from 0.01 to {most}", most=MOST_SPEED))
    return found


def _scenario(name: str) -> Entry:
    one, chosen = _content(named.SCENARIOS, name), current_language()
    return Entry(name, "scenario", one["title"][chosen], one.get("level", 1), one["story"][chosen], one.get("look") or _LOOK)


_LOOK = "opslib run 3.1 --env lab"


def _fault(name: str) -> Entry:
    one = _content(named.FAULTS, name)
    return Entry(name, "fault", str(Message(one["title"])), namespace=one.get("namespace", named.NAMESPACE))


def _content(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = named.content((folder / f"{name}.yaml").read_text("utf-8"))
    return found
