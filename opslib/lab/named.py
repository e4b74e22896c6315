"""Files of the lab that are asked for by name: faults, scenarios."""

from __future__ import annotations

import difflib
from pathlib import Path

from opslib.errors import InputError
from opslib.messages import Message, _


def names(folder: Path) -> list[str]:
    """The names of a folder's YAML files, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def path_of(folder: Path, name: str, missing: Message) -> Path:
    """The file of that name; InputError says `missing`, and the nearest name, where there is none."""
    known = names(folder)
    if name in known:
        return folder / f"{name}.yaml"
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        raise InputError(missing, _("Did you mean {near}? All of them", near=near[0]), "opslib lab list")
    raise InputError(missing, _("All of them"), "opslib lab list")
