"""The embedded lab's Prometheus: a column store, PromQL over numpy, rules, and the HTTP API.

What it answers, Prometheus answers to the same samples (the contract tests compare them). What it does not know it refuses, with
Prometheus' kind of error, rather than answer a wrong number.
"""

from opslib.lab.prometheus.api import app
from opslib.lab.prometheus.evaluate import Engine
from opslib.lab.prometheus.rules import Rules
from opslib.lab.prometheus.store import Computed, Scrape, Store, labels_of

__all__ = ["Computed", "Engine", "Rules", "Scrape", "Store", "app", "labels_of"]
