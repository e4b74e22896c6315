"""Where the chapters' notebooks are."""

from __future__ import annotations

import os
from pathlib import Path

import opslib
from opslib.chapters import Chapter
from opslib.errors import InputError
from opslib.messages import _


def folder() -> Path:
    """The folder of the notebooks: $OPSLIB_NOTEBOOKS, else `notebooks` beside the package, else here or in the nearest folder above.

    Raises
    ------
    InputError
        There is no such folder.
    """
    named = os.environ.get("OPSLIB_NOTEBOOKS")
    if named:
        path = Path(named).expanduser()
        if not path.is_dir():
            raise InputError(
                _("OPSLIB_NOTEBOOKS names {folder}, which is not a folder", folder=named), _("Name the folder of the notebooks")
            )
        return path
    here = Path.cwd()
    for above in (Path(opslib.__file__).parent.parent, here, *here.parents):
        if any((above / "notebooks").glob("*.ipynb")) or any((above / "notebooks" / "en").glob("*.ipynb")):
            return above / "notebooks"
    raise InputError(
        _("There is no folder notebooks here or above"), _("Go to the project's folder, or name the folder"), "export OPSLIB_NOTEBOOKS=…"
    )


def find(chapter: Chapter, language: str) -> Path:
    """The chapter's notebook in that language: the Japanese ones stand in the folder itself, the English ones in `en` below it.

    Raises
    ------
    InputError
        It is not there.
    """
    where = folder() / "en" if language == "en" else folder()
    path = where / chapter.notebook
    if not path.is_file():
        raise InputError(_("There is no notebook {path}", path=str(path)), _("Make it"), "make notebooks")
    return path
