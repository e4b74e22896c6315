"""A small chapter with its notebooks, for tests of what runs chapters."""

from __future__ import annotations

from pathlib import Path

import nbformat

from opslib.chapters import Chapter
from opslib.environments import Environment
from opslib.messages import _
from opslib.running.runs import Plan

SAMPLE = Path(__file__).parent / "sample"
CHAPTER = Chapter("9.1", "sample", _("Sample"))

# The chapter is in no table of contents: the kernel is told where it is, and the session is made as `start` makes it.
START = f"""
import opslib.chapters, opslib.facts
opslib.chapters.__path__.append({str(SAMPLE / "chapters")!r})
opslib.facts.__path__.append({str(SAMPLE / "facts")!r})
from opslib.chapters import Chapter, sample
from opslib.environments import Environment
from opslib.messages import _
from opslib.running.session import Session, _show_errors_readably
_show_errors_readably()
lab = Environment(name="lab", title="Lab <b>", timezone="Asia/Tokyo")
ops = Session(Chapter("9.1", "sample", _("Sample")), lab, language, {{"count": count}})
ops.show_header()
"""


def plan(folder: Path, *cells: str, language: str = "ja", count: int = 3) -> Plan:
    """A plan whose notebook, in `folder`, has the given cells: text that begins with # is prose."""
    notebook = nbformat.v4.new_notebook()
    notebook.cells.append(nbformat.v4.new_markdown_cell("# 9.1 サンプル"))
    parameters = nbformat.v4.new_code_cell('environment = "lab"\nlanguage = "ja"\ncount = 1')
    parameters.metadata["tags"] = ["parameters"]
    notebook.cells.append(parameters)
    for cell in cells:
        notebook.cells.append(nbformat.v4.new_markdown_cell(cell) if cell.startswith("#") else nbformat.v4.new_code_cell(cell))
    path = folder / "sample.ipynb"
    nbformat.write(notebook, path)
    environment = Environment(name="lab", title="Lab <b>", timezone="Asia/Tokyo")
    return Plan(CHAPTER, environment, "lab", language, {"count": count}, path)


if __name__ == "__main__":
    # A process of its own, for tests that kill it: the folder for the notebook and outputs, then the cells.
    import sys

    from opslib.running import runs

    where = Path(sys.argv[1])

    sys.exit(runs.execute(plan(where, *sys.argv[2:]), where / "outputs").exit_status())
