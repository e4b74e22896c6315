"""The notebooks in two languages from one source: notebooks/en/*.ipynb are written by hand, notebooks/*.ipynb are made from them.

Only text cells differ: their paragraphs come from the catalogues (see tools/catalogues.py). Both are kept without outputs, and with the
same metadata whatever editor they were saved in. `build` writes them, `check` says what is not as `build` would write it.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import nbformat
from catalogues import NOTEBOOKS, is_code, paragraphs, translations

JAPANESE = NOTEBOOKS.parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = ("tags", "slideshow")


def normalised(notebook: Any) -> Any:
    """A notebook without what running or an editor leaves in it; cells that lack an id are numbered."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken = {cell.get("id") for cell in notebook.cells}
    for number, cell in enumerate(notebook.cells):
        if not cell.get("id"):
            cell["id"] = next(name for name in (f"cell-{number}", f"cell-{number}-new") if name not in taken)
        cell.metadata = nbformat.from_dict({name: cell.metadata[name] for name in KEPT if cell.metadata.get(name)})
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    return notebook


def translated(notebook: Any, japanese: dict[str, str], missing: list[str]) -> Any:
    """The same notebook with its text cells in Japanese; paragraphs that have none are added to `missing`."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            blocks = paragraphs(cell.source)
            missing += [block for block in blocks if not is_code(block) and block not in japanese]
            cell.source = "\n\n".join(block if is_code(block) else japanese.get(block, block) for block in blocks)
    return notebook


def wanted(missing: list[str]) -> dict[Path, str]:
    """Every notebook's file as it should be."""
    japanese = translations()
    files = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        english = normalised(nbformat.read(path, as_version=4))
        nbformat.validate(english)
        files[path] = nbformat.writes(english) + "\n"
        files[JAPANESE / path.name] = nbformat.writes(translated(english, japanese, missing)) + "\n"
    return files


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    if arguments not in (["build"], ["check"]):
        print("usage: tools/notebooks.py build|check", file=sys.stderr)
        return 2
    missing: list[str] = []
    files = wanted(missing)
    faults = [f"not translated: {paragraph!r}" for paragraph in missing]
    for path in sorted(JAPANESE.glob("*.ipynb")):
        if path not in files:
            faults.append(f"notebooks/{path.name}: there is no notebooks/en/{path.name} that it is made from")
    for path, content in files.items():
        if not path.exists() or path.read_text("utf-8") != content:
            if arguments == ["build"]:
                path.write_text(content, "utf-8")
            else:
                faults.append(f"{path.relative_to(JAPANESE.parent)}: not as `make notebooks` writes it")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
