"""Environments: parameters/*.yaml as typed, documented objects.

One file an environment. Secrets are never in it: a field that ends in ``_env`` names the environment variable that holds one. A file with a
field that is unknown, missing or wrong is refused with its line and the nearest valid name, before anything starts.
"""

from __future__ import annotations

from opslib.environments.files import Fault, check, fields, folder, load, load_file, names, schema, schema_text
from opslib.environments.model import (
    Action,
    Approval,
    Aws,
    Environment,
    HttpAddress,
    HttpSystem,
    Kubernetes,
    Limits,
    Links,
    Logs,
    Metrics,
    Section,
    Terraform,
    Velero,
)

__all__ = [
    "Action",
    "Approval",
    "Aws",
    "Environment",
    "Fault",
    "HttpAddress",
    "HttpSystem",
    "Kubernetes",
    "Limits",
    "Links",
    "Logs",
    "Metrics",
    "Section",
    "Terraform",
    "Velero",
    "check",
    "fields",
    "folder",
    "load",
    "load_file",
    "names",
    "schema",
    "schema_text",
]
