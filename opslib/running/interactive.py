"""A chapter's notebook for a person: a copy to work in, with the environment and parameters filled in."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from opslib.running.runs import Plan


def copy(plan: Plan, outputs: Path) -> Path:
    """A copy of the chapter's notebook below ``outputs/<environment>/notebooks``; the kept one stays as it is.

    Parameters
    ----------
    plan
        What `opslib.running.runs.prepare` gave.
    """
    from opslib.running.engine import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)
    folder = outputs / plan.environment.name / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{plan.chapter.notebook}"
    papermill.execute_notebook(
        str(plan.notebook),
        str(path),
        parameters={"environment": plan.environment_name, "language": plan.language, **plan.parameters},
        kernel_name="python3",
        language="python",
        prepare_only=True,
        progress_bar=False,
    )
    return path
