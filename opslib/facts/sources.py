"""The systems of one environment, each connected when it is first asked for."""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from opslib.environments import Environment
from opslib.errors import InputError, NotFound, OpsError, SourceError, WrongTarget
from opslib.findings import command
from opslib.messages import Message, _

if TYPE_CHECKING:
    from opslib.sources.alertmanager import Alertmanager
    from opslib.sources.aws import Aws
    from opslib.sources.elasticsearch import Elasticsearch
    from opslib.sources.kubernetes import Kubernetes
    from opslib.sources.prometheus import Prometheus
    from opslib.sources.transport import Exchange, Transport, Wrap

T = TypeVar("T")

# The least that shows that a system answers and accepts the credentials.
_PINGS: dict[str, Callable[[Any], object]] = {
    "kubernetes": lambda source: source.version(),
    "prometheus": lambda source: source.build(),
    "alertmanager": lambda source: source.status(),
    "elasticsearch": lambda source: source.health(),
    "aws": lambda source: source.identity(),
}
SYSTEMS = ("kubernetes", "prometheus", "alertmanager", "elasticsearch", "aws")


def name_of(system: str) -> Message | str:
    """The system's name for a reader."""
    names = {"kubernetes": "Kubernetes", "prometheus": "Prometheus", "alertmanager": "Alertmanager", "elasticsearch": "Elasticsearch"}
    return {**names, "aws": "AWS"}.get(system, system)


class Sources:
    """The systems of one environment. Reading an attribute connects; it may be read from several threads.

    A system that the environment's file does not name raises SourceError, with the field to add, when it is asked for: a chapter's question
    to it becomes a gap like any other.
    """

    def __init__(self, environment: Environment, watchers: list[Callable[[Exchange], None]] | None = None) -> None:
        self.environment = environment
        self._watchers = watchers if watchers is not None else []
        self._wrong: WrongTarget | None = None
        self._locks = {system: threading.Lock() for system in SYSTEMS}
        self._connected: dict[str, Any] = {}

    @property
    def kubernetes(self) -> Kubernetes:
        """The cluster.

        Raises
        ------
        InputError
            The kubeconfig cannot be used.
        WrongTarget
            It leads to another cluster than the environment's: nothing is read there.
        """
        from opslib.sources.kubernetes import Kubernetes

        if self._wrong is not None:
            raise self._wrong
        return self._source("kubernetes", Kubernetes.connect)

    @property
    def prometheus(self) -> Prometheus:
        """Prometheus."""
        from opslib.sources.prometheus import Prometheus

        return self._source("prometheus", Prometheus.connect)

    @property
    def alertmanager(self) -> Alertmanager:
        """Alertmanager."""
        from opslib.sources.alertmanager import Alertmanager

        return self._source("alertmanager", Alertmanager.connect)

    @property
    def elasticsearch(self) -> Elasticsearch:
        """Elasticsearch or OpenSearch."""
        from opslib.sources.elasticsearch import Elasticsearch

        return self._source("elasticsearch", Elasticsearch.connect)

    @property
    def aws(self) -> Aws:
        """The AWS account."""
        from opslib.sources.aws import Aws

        return self._source("aws", lambda environment, _wrap: Aws.connect(environment))

    def now(self) -> datetime:
        """The time by the cluster's clock, with which times in its objects are compared; by ours until it has said its own."""
        cluster = self._connected.get("kubernetes")
        return datetime.now(UTC) + (cluster.ahead if cluster is not None else timedelta())

    def anew(self) -> Sources:
        """The same environment's systems, connected anew; who watches these watches those too."""
        return Sources(self.environment, self._watchers)

    @contextlib.contextmanager
    def watched(self, see: Callable[[Exchange], None]) -> Iterator[None]:
        """Within the block, `see` is called for every question that a system has answered, in the thread that asked."""
        self._watchers.append(see)
        try:
            yield
        finally:
            self._watchers.remove(see)

    def _seen(self, exchange: Exchange) -> None:
        for see in tuple(self._watchers):
            see(exchange)

    def _source(self, system: str, connect: Callable[[Environment, Wrap], T]) -> T:
        # One lock a system: a slow credential plugin of the cluster's must not hold up Prometheus.
        with self._locks[system]:
            if system not in self._connected:
                if getattr(self.environment, system) is None:
                    raise SourceError(
                        system,
                        _("The environment {environment} names no {system}", environment=self.environment.name, system=name_of(system)),
                        _("Add the field {field} to its file", field=f"{system}.{'region' if system == 'aws' else 'url'}"),
                    )
                try:
                    self._connected[system] = connect(self.environment, self._wrap)
                except InputError as error:
                    if system == "kubernetes":
                        raise
                    # A password that is not set or a CA file that is not there is that system's trouble alone.
                    raise SourceError(system, error.what, error.remedy, error.command) from error
            source: T = self._connected[system]
            return source

    def connected(self, system: str) -> Any:
        """The system's source where it is connected already, else None."""
        return self._connected.get(system)

    def _wrap(self, transport: Transport) -> Transport:
        from opslib.sources.transport import Watched

        return Watched(transport, self._seen)

    def check_cluster(self) -> None:
        """Make sure that the kubeconfig leads to the environment's own cluster. One that does not answer is not a wrong one.

        Raises
        ------
        InputError
            The kubeconfig cannot be used.
        WrongTarget
            The cluster is another one.
        """
        with contextlib.suppress(SourceError):
            self.verify_cluster()

    def verify_cluster(self) -> None:
        """The same, where a cluster that does not answer, or does not say, is an error too.

        Once it is known to be another one, `kubernetes` cannot be had any more.

        Raises
        ------
        OpsError
            As `check_cluster`, and where the cluster's UID could not be read.
        """
        expected = self.environment.kubernetes.expected_cluster_uid
        kubernetes = self.kubernetes
        found = kubernetes.cluster_uid() if expected else ""
        if expected and found != expected:
            self._wrong = WrongTarget(
                _(
                    "This is not the cluster of environment {environment}: its UID is {found}, expected is {expected}",
                    environment=self.environment.name,
                    found=found,
                    expected=expected,
                ),
                _("Name the right context in kubernetes.context, or mend kubernetes.expected_cluster_uid"),
            )
            raise self._wrong

    def check_namespace(self, namespace: str) -> None:
        """Make sure that a namespace that was asked for exists: one that does not would look healthy, having nothing in it.

        Raises
        ------
        InputError
            There is none of that name.
        """
        if not namespace:
            return
        try:
            self.kubernetes.metadata("namespaces", namespace)
        except NotFound:
            raise InputError(
                _("There is no namespace {name} in this cluster", name=namespace),
                _("Did you mean {names}? All of them", names=self._namespaces_like(namespace) or "-"),
                command("kubectl", "get", "namespaces"),
            ) from None
        except SourceError:
            return  # not to be known now; what cannot be read becomes a gap

    def _namespaces_like(self, name: str) -> list[str]:
        try:
            names = [item.metadata.name for item in self.kubernetes.metadata_list("namespaces")]
        except SourceError:
            return []
        return difflib.get_close_matches(name, names, n=3)

    def ping(self, system: str) -> None:
        """Ask `system` for the least that shows that it answers and accepts the credentials.

        Raises
        ------
        OpsError
            It does not answer, refuses, or is not configured.
        """
        source = getattr(self, system)
        _PINGS[system](source)

    def ping_all(self, systems: tuple[str, ...]) -> dict[str, OpsError | None]:
        """Ping several at once: what went wrong, by system; None where it answered."""

        def error_of(system: str) -> OpsError | None:
            try:
                self.ping(system)
            except OpsError as error:
                return error
            return None

        if not systems:
            return {}
        with ThreadPoolExecutor(len(systems), thread_name_prefix="ping") as executor:
            return dict(zip(systems, executor.map(error_of, systems), strict=True))
