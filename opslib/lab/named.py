"""Files of the lab that are asked for by name: faults, scenarios."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from opslib.errors import InputError
from opslib.messages import Message, _

SCENARIOS = Path(__file__).parent / "scenarios"
FAULTS = Path(__file__).parent / "faults"
NAMESPACE = "shop"  # of a fault that names none


def names(folder: Path) -> list[str]:
    """The names of a folder's YAML files, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def content(text: str) -> Any:
    """What the YAML of such a file says, read by libyaml where it is there: there are more than a hundred files, and all are listed.

    Raises
    ------
    yaml.YAMLError
        It is none.
    """
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe


def path_of(folder: Path, name: str, message: Message) -> Path:
    """The file of that name; InputError says `message`, and the nearest name, where there is none."""
    known = names(folder)
    if name in known:
        return folder / f"{name}.yaml"
    raise missing(known, name, message)


def missing(known: list[str], name: str, message: Message) -> InputError:
    """What to say where nothing is called `name`: `message`, and the nearest name."""
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return InputError(message, _("Did you mean {near}? All of them", near=near[0]), "opslib lab list")
    return InputError(message, _("All of them"), "opslib lab list")
