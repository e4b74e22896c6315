"""Putting the parts together, and serving them over TLS with uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from opslib.lab.kube import admission, resources, seeding
from opslib.lab.kube.access import Authenticator, Authorizer, User
from opslib.lab.kube.aggregation import Aggregator
from opslib.lab.kube.api import Api
from opslib.lab.kube.errors import Object
from opslib.lab.kube.keeper import Keeper
from opslib.lab.kube.objects import Objects, Options
from opslib.lab.kube.state import File
from opslib.lab.kube.store import Store
from opslib.lab.kube.streams import Kubelets
from opslib.lab.kube.webhooks import Webhooks

CONTROLLER = User("system:serviceaccount:kube-system:namespace-controller", ("system:masters", "system:authenticated"))


@dataclass(frozen=True, slots=True)
class Settings:
    """How a cluster is set up.

    Parameters
    ----------
    tokens
        Bearer tokens and who they stand for.
    signing_key
        PEM of the RSA key that signs service accounts' tokens; None: there are none.
    root_certificate
        PEM of the authority of the server's certificate.
    host, port
        Where the server is reached.
    state
        The file of the state (`opslib.lab.kube.state`); None keeps it in memory.
    service_range
        The addresses of services.
    kubelets
        How kubelets are called, which have the logs and run commands.
    window_seconds, window_bytes
        How much of the past is kept for watches and for lists by pages.
    """

    tokens: Mapping[str, User] = field(default_factory=dict)
    signing_key: str | None = None
    root_certificate: str = ""
    host: str = "127.0.0.1"
    port: int = 6443
    state: Path | None = None
    service_range: str = "10.96.0.0/16"
    kubelets: Kubelets = field(default_factory=Kubelets)
    window_seconds: float = 300
    window_bytes: int = 64_000_000


def app(settings: Settings) -> Starlette:
    """The API server as an ASGI application. Its state has `store` and `api`."""
    registry = resources.Registry(resources.builtin())

    def fields(storage: str, obj: Object) -> dict[str, str]:
        resource = registry.by_storage(storage)
        return resources.field_values(storage, resource.custom if resource is not None else None, obj)

    file = File(settings.state) if settings.state is not None else None
    store = Store(fields, file, window_seconds=settings.window_seconds, window_bytes=settings.window_bytes)
    first_address = str(ipaddress.ip_network(settings.service_range).network_address + 1)
    keeper = Keeper(store, registry, settings.root_certificate, (settings.host, settings.port), first_address)
    world = admission.World(store, registry, settings.service_range, keeper.changed)
    objects = Objects(store, world, Webhooks(store, registry))
    keeper.objects = objects
    keeper.user_options = lambda: Options(CONTROLLER, "kube-controller-manager")

    def account(namespace: str, name: str) -> str | None:
        record = store.get("serviceaccounts", (namespace, name))
        return record.uid if record is not None else None

    authenticator = Authenticator(settings.tokens, settings.signing_key, account)
    authorizer = Authorizer(store)
    seeding.plant(file.seed() if file is not None else (), store, registry, world, keeper)
    address = f"{settings.host}:{settings.port}"
    aggregator = Aggregator(store, registry, settings.kubelets.certificate)
    api = Api(store, registry, objects, aggregator, authenticator, authorizer, settings.kubelets, address)

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        keeper.resume()
        checks = asyncio.ensure_future(aggregator.run())
        yield
        checks.cancel()
        api.stop()
        store.close()

    application = Starlette(routes=[Mount("/", app=api)], lifespan=lifespan)
    application.state.store = store
    application.state.api = api
    return application


class _Protocol(HttpToolsProtocol):
    """Hands the client's certificate on to the application, which uvicorn does not."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        connection: Any = transport.get_extra_info("ssl_object")
        if connection is not None:
            certificate = connection.getpeercert(binary_form=True)
            if certificate:
                self.app_state = {**self.app_state, "client_certificate": certificate}


class Server(uvicorn.Server):
    """A uvicorn server that tells watches to end when it stops."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api = api

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._api.stop()
        await super().shutdown(sockets)


def server(application: Starlette, *, host: str, port: int, certificate: Path, key: Path, client_authority: Path | None = None) -> Server:
    """A server of `application`; ``run()`` serves it until it is told to stop (SIGINT, SIGTERM, or ``should_exit``)."""
    import ssl

    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        ssl_ca_certs=str(client_authority) if client_authority is not None else None,
        ssl_cert_reqs=ssl.CERT_OPTIONAL if client_authority is not None else ssl.CERT_NONE,
        http=_Protocol,
        ws="websockets-sansio",
        ws_max_size=4 * 1024 * 1024,
        loop="asyncio",
        lifespan="on",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=90,
        timeout_graceful_shutdown=1,
        server_header=False,
        h11_max_incomplete_event_size=None,
    )
    return Server(config, application.state.api)
