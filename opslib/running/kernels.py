"""The kernel that notebooks run on: always the interpreter that opslib itself runs on.

A kernelspec named python3 may belong to another environment, without opslib; none is looked up here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


def kernel_manager(variables: Mapping[str, str], folder: Path) -> type[AsyncKernelManager]:
    """A kernel manager class: nbclient takes a class.

    Parameters
    ----------
    variables
        What its kernels have in their environment beside what this process has.
    folder
        Where the sockets are made, readable to this user alone: what a kernel is sent and answers crosses no port that others can open.
    """

    class ThisInterpreter(AsyncKernelManager):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings | {"transport": "ipc", "connection_file": str(folder / "kernel.json")})

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                argv=[
                    sys.executable,
                    "-Xfrozen_modules=off",
                    "-m",
                    "ipykernel_launcher",
                    "-f",
                    "{connection_file}",
                    # Runs beside each other must not wait for one history database.
                    "--HistoryManager.enabled=False",
                ],
                display_name="opslib",
                language="python",
                env=dict(variables),
            )

    return ThisInterpreter
