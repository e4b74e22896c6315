"""papermill as runs need it: there sooner, and a notebook saved as it grows but not twice a cell."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

SAVE_SECONDS = 1.0
"""A notebook that runs is saved so often: what a killed run leaves is no older."""
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
    """Saves when a cell begins or ends, if the last time is `SAVE_SECONDS` ago; papermill itself saves at the end, whatever it is."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **settings: Any) -> Any:
        save = nb_man.save

        def now_and_then(**_cell: Any) -> None:
            if (nb_man.now() - nb_man.last_save_time).total_seconds() >= SAVE_SECONDS:
                save()

        nb_man.save = now_and_then
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, **settings)
        finally:
            del nb_man.save


papermill_engines.register(NAME, Engine)

__all__ = ["NAME", "papermill"]
