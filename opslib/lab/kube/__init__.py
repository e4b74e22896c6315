"""A Kubernetes API server of our own: pip alone, ready in a second, and for what the runbook needs not to be told from the real one.

`server.app` makes it as an ASGI application, `server.server` serves that over TLS. ``python -m opslib.lab.kube`` runs one by itself.
Nothing but the API leads in: controllers, kubelets and the world talk to it as they would to a real server. Nothing is imported here: the
controllers, too, use selectors and quantities, and need no web server for that.
"""
