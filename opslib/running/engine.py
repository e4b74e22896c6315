"""papermill as runs need it: there sooner, and a notebook saved once a cell instead of twice."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

NAME = "opslib"


@contextlib.contextmanager
def _without(module: str) -> Iterator[None]:
    """Within the block the module cannot be imported, where it has not been."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


# jsonschema builds a grammar of IRIs as it is imported, where it can, for longer than all the rest of papermill takes: notebooks have none.
with _without("rfc3987_syntax"):
    import papermill
    from papermill.engines import NBClientEngine, papermill_engines


class Engine(NBClientEngine):  # type: ignore[misc]
    """Saves the notebook before each cell that has code, and at the end, whatever that is: what a killed run leaves has all before."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **settings: Any) -> Any:
        save, begin = nb_man.save, nb_man.cell_start

        def cell_start(cell: Any, *where: Any) -> None:
            begin(cell, *where)
            if cell.cell_type == "code":
                save()

        nb_man.save, nb_man.cell_start = (lambda **_cell: None), cell_start
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, **settings)
        finally:
            del nb_man.save, nb_man.cell_start


papermill_engines.register(NAME, Engine)

__all__ = ["NAME", "papermill"]
