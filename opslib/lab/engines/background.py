"""The servers that both engines start in the background, when the lab is ready: the AWS account, and Velero."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from opslib.lab.engines.servers import Setup, Spec

PARTS = ("aws", "velero")
SERVERS = {"aws": "aws", "velero": "velero"}


def specs(setup: Setup, part: str) -> Iterator[Spec]:
    """The server of a part; none for another part."""
    if part == "aws":
        port = setup.ports["aws"]
        command = _command("opslib.lab.aws", str(port), f"--folder={setup.folder}")
        yield Spec(name="aws", part=part, command=command, health=f"http://127.0.0.1:{port}/readyz", background=True)
    elif part == "velero" and "kubernetes" in setup.parts:
        port = setup.ports["velero"]
        command = _command("opslib.lab.velero", str(setup.folder / "kubeconfig"), str(setup.data("velero")), f"--port={port}")
        if "elasticsearch" in setup.parts:
            command += (f"--elasticsearch=http://127.0.0.1:{setup.ports[_elasticsearch(setup)]}", f"--snapshots={setup.data('snapshots')}")
        yield Spec(name="velero", part=part, command=command, health=f"http://127.0.0.1:{port}/healthz", background=True)


def environment(setup: Setup) -> dict[str, Any]:
    """Where they are, under the keys of an environment; the lab's credentials are in a file of their own."""
    from opslib.lab import certificates
    from opslib.lab.world import account

    content: dict[str, Any] = {}
    if "aws" in setup.parts:
        file = setup.data("aws") / "credentials"
        key = account.access_key(account.OPERATOR)
        certificates.write_private(file, f"[default]\naws_access_key_id = {key}\naws_secret_access_key = lab\n")
        content["aws"] = {
            "region": account.REGION,
            "account": account.ACCOUNT,
            "cluster": account.CLUSTER,
            "credentials_file": str(file),
            "endpoint_url": f"http://127.0.0.1:{setup.ports['aws']}",
        }
    if "velero" in setup.parts and "kubernetes" in setup.parts:
        content["velero"] = {"namespace": "velero"}
    return content


def _elasticsearch(setup: Setup) -> str:
    return "elasticsearch" if "elasticsearch" in setup.ports else "opensearch"


def _command(*words: str) -> tuple[str, ...]:
    # -P: the folder in which it runs is not a place to import from
    return (sys.executable, "-P", "-m", *words)
