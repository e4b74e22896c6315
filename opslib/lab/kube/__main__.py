"""``python -m opslib.lab.kube --port PORT --state FOLDER``: one API server by itself, for tests and for a look at it.

The folder gets certificates, keys, the state, and ``kubeconfig`` with the users "admin" (may do everything) and "viewer" (group "readers",
to which nothing is bound yet).
"""

from __future__ import annotations

import argparse
import secrets
from pathlib import Path

from opslib.lab import certificates
from opslib.lab.kube.access import User
from opslib.lab.kube.server import Settings, app, server


def main() -> None:
    """Run it until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m opslib.lab.kube", description="A Kubernetes API server for the lab.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True, help="folder for certificates, kubeconfig and state")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--memory", action="store_true", help="keep the state in memory only")
    chosen = parser.parse_args()
    folder: Path = chosen.state
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    address = f"https://{chosen.host}:{chosen.port}"
    tokens = _prepare(folder, chosen.host, address)
    application = app(
        Settings(
            tokens={
                tokens["admin"]: User("admin", ("system:masters",), "admin"),
                tokens["viewer"]: User("viewer", ("readers",), "viewer"),
            },
            signing_key=(folder / "sa.key").read_text("ascii"),
            root_certificate=(folder / "ca.crt").read_text("ascii"),
            host=chosen.host,
            port=chosen.port,
            state=None if chosen.memory else folder / "state.db",
        )
    )
    running = server(
        application,
        host=chosen.host,
        port=chosen.port,
        certificate=folder / "server.crt",
        key=folder / "server.key",
        client_authority=folder / "ca.crt",
    )
    running.run()


def _prepare(folder: Path, host: str, address: str) -> dict[str, str]:
    """Certificates, tokens and the kubeconfig, where they are not there."""
    names = ("admin", "viewer")
    kept = folder / "tokens"
    if not kept.exists():
        authority = certificates.authority("lab-ca")
        authority.write(folder, "ca")
        certificates.issue(authority, "kube-apiserver", hosts=[host, "localhost", "kubernetes.default.svc"]).write(folder, "server")
        private, _public = certificates.signing_key()
        certificates.write_private(folder / "sa.key", private)
        certificates.write_private(kept, "\n".join(secrets.token_urlsafe(24) for _name in names))
    tokens = dict(zip(names, kept.read_text("ascii").split("\n"), strict=True))
    certificate = (folder / "ca.crt").read_text("ascii")
    certificates.write_private(folder / "kubeconfig", certificates.kubeconfig(address, certificate, tokens))
    return tokens


if __name__ == "__main__":
    main()
