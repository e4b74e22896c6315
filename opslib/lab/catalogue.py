"""Everything with which the lab can be broken: scenarios and faults, in one space of names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from opslib.errors import InputError
from opslib.lab import faults, named
from opslib.lab.world import scenarios
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
    lessons = sorted((_scenario(name) for name in scenarios.names()), key=lambda one: (one.level, one.name))
    return [*lessons, *(_fault(name) for name in faults.names())]


def find(name: str) -> Entry:
    """The entry of that name.

    Raises
    ------
    InputError
        There is none; the nearest is named.
    """
    if name in scenarios.names():
        return _scenario(name)
    if name in faults.names():
        return _fault(name)
    known = [*scenarios.names(), *faults.names()]
    raise named.missing(known, name, _("There is no scenario or fault {name}", name=name))


def seconds(text: str) -> float:
    """The seconds of a time like "90m" or "2h".

    Raises
    ------
    InputError
        It is none.
    """
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
    one = scenarios.load(name)
    chosen = current_language()
    return Entry(name, "scenario", getattr(one.title, chosen), one.level, getattr(one.story, chosen), one.look or _LOOK)


_LOOK = "opslib run 3.1 --env lab"


def _fault(name: str) -> Entry:
    one = faults.load(name)
    return Entry(name, "fault", str(Message(one.title)), namespace=one.namespace)
