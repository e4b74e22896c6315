"""The embedded lab's Prometheus: a column store, PromQL over numpy, rules, and the HTTP API.

What it answers, Prometheus answers to the same samples (the contract tests compare them). What it does not know it refuses, with
Prometheus' kind of error, rather than answer a wrong number.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opslib.lab.prometheus.api import app as app
    from opslib.lab.prometheus.evaluate import Engine as Engine
    from opslib.lab.prometheus.labels import labels_of as labels_of
    from opslib.lab.prometheus.rules import Rules as Rules
    from opslib.lab.prometheus.store import Computed as Computed
    from opslib.lab.prometheus.store import Scrape as Scrape
    from opslib.lab.prometheus.store import Store as Store

_PLACES = {
    "Computed": "store",
    "Engine": "evaluate",
    "Rules": "rules",
    "Scrape": "store",
    "Store": "store",
    "app": "api",
    "labels_of": "labels",
}
__all__ = ["Computed", "Engine", "Rules", "Scrape", "Store", "app", "labels_of"]


def __getattr__(name: str) -> Any:
    # Alertmanager takes its labels from here, and needs neither arrays nor a parser for them.
    if name in _PLACES:
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
