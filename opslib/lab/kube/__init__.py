"""A Kubernetes API server of our own: pip alone, ready in a second, and for what the runbook needs not to be told from the real one.

`app` makes it as an ASGI application, `server` serves that over TLS. ``python -m opslib.lab.kube`` runs one by itself.
Nothing but the API leads in: controllers, kubelets and the world talk to it as they would to a real server.
"""

from __future__ import annotations

from opslib.lab.kube.access import User
from opslib.lab.kube.errors import Refused
from opslib.lab.kube.server import Server, Settings, app, server
from opslib.lab.kube.streams import LogRequest, Providers, Terminal

__all__ = ["LogRequest", "Providers", "Refused", "Server", "Settings", "Terminal", "User", "app", "server"]
