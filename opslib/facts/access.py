"""Reads the facts of chapter 2: every system is asked at once, each for the least that shows how it is.

A system that does not answer is no gap here, but what the chapter is about: it stands in the facts with its reason.
"""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opslib.chapters.access import NAMES, Credential, Facts, Kind, Parameters, System
from opslib.chapters.rights import CHANGES, RIGHTS
from opslib.errors import OpsError, SourceError, Unreachable, WrongTarget
from opslib.facts import Answer, Questions
from opslib.facts.sources import SYSTEMS, Sources
from opslib.findings import Finding
from opslib.messages import _
from opslib.sources import certificates

if TYPE_CHECKING:
    from opslib.environments import HttpSystem
    from opslib.sources.kubernetes import Kubernetes, Rules
    from opslib.sources.transport import Exchange

PATIENCE_SECONDS = 120.0
_UNVERIFIED_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Self:
    """What a system says of itself, and as whom it sees us."""

    version: str = ""
    identity: str = ""
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Timed:
    """An answer's time, and the header that tells the server's."""

    started: datetime
    seconds: float
    date: str


@dataclass(slots=True)
class _Seen:
    """The answers so far, and the certificate that the last of them came with, by system."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: dict[str, list[_Timed]] = field(default_factory=dict)
    certificates: dict[str, bytes] = field(default_factory=dict)

    def see(self, exchange: Exchange) -> None:
        self.timed(exchange.system, _Timed(exchange.started, exchange.seconds, exchange.response.headers.get("date", "")))
        with self.lock:
            if exchange.response.certificate:
                self.certificates[exchange.system] = exchange.response.certificate

    def timed(self, system: str, answer: _Timed) -> None:
        with self.lock:
            self.answers.setdefault(system, []).append(answer)

    def of(self, system: str) -> list[_Timed]:
        with self.lock:
            return list(self.answers.get(system, ()))


def read(sources: Sources, parameters: Parameters, questions: Questions, patience_seconds: float = PATIENCE_SECONDS) -> Facts:
    """The facts of chapter 2.

    Parameters
    ----------
    sources
        The environment's systems. They are connected anew, so that the first answer's time has the connection in it.
    patience_seconds
        When to go on without those that have not answered by then, whatever they wait for: a name server, a log-in plug-in.

    Raises
    ------
    InputError
        There is no such namespace in the cluster.
    """
    environment = sources.environment
    give_up = time.monotonic() + patience_seconds
    sources = sources.anew()
    seen = _Seen()
    with sources.watched(seen.see):
        asked = {
            name: questions.ask(NAMES[name], lambda name=name: _system(sources, questions, seen, name))  # type: ignore[misc]
            for name in SYSTEMS
        }
        systems = tuple(_in_time(name, sources, answer, give_up) for name, answer in asked.items())
        cluster = next(system for system in systems if system.name == "kubernetes")
        allowed, may_change = None, None
        if cluster.error is None:
            sources.check_namespace(parameters.namespace)
            allowed, may_change = _rights(sources, parameters.namespace, questions, give_up)
        else:
            questions.gap(_rights_not_read(cluster.error))
        return Facts(
            now=datetime.now(UTC),
            environment=environment,
            systems=systems,
            credentials=_credentials(sources, systems, seen, give_up),
            allowed=allowed,
            may_change=may_change,
            namespace=parameters.namespace,
            gaps=questions.gaps,
        )


def _rights_not_read(error: OpsError) -> Finding:
    wrapped = error if isinstance(error, SourceError) else SourceError("kubernetes", error.what, error.remedy, error.command)
    return Finding.gap(wrapped, _("our rights in the cluster"))


def _in_time(name: str, sources: Sources, answer: Answer[System], give_up: float) -> System:
    try:
        found = answer.get(max(give_up - time.monotonic(), 0))
    except TimeoutError:
        found = None
    if found is not None:
        return found
    address = _address(sources, name)
    error = Unreachable(
        name,
        _("{system} at {address} does not answer ({reason})", system=name, address=address or "-", reason=_("no answer in time")),
        _("Check the address, the network or VPN, and that it runs"),
    )
    return System(name=name, address=address, error=error)


# --- one system -----------------------------------------------------------------------------------------------------------------------


def _system(sources: Sources, questions: Questions, seen: _Seen, name: str) -> System:
    """One system, whatever it does. Asked twice: the second answer comes over the open connection."""
    if getattr(sources.environment, name) is None:
        return System(name=name, named=False)
    error: OpsError | None = None
    itself = _Self()
    try:
        itself = _aws(sources, seen) if name == "aws" else _ASK[name](sources, questions)
    except OpsError as failure:
        error = failure
    answers = seen.of(name)
    return System(
        name=name,
        address=_address(sources, name),
        error=error,
        version=itself.version,
        identity=itself.identity,
        groups=itself.groups,
        connected=answers[0].seconds if answers else None,
        answered=min((one.seconds for one in answers[1:]), default=None),
        clock=_clock(answers),
    )


def _address(sources: Sources, name: str) -> str:
    if name == "aws":
        aws = sources.environment.aws
        return (aws.endpoint_url or aws.region) if aws else ""
    if name != "kubernetes":
        settings = getattr(sources.environment, name)
        return str(settings.url) if settings else ""
    connected = sources.connected(name)
    return connected.address if connected is not None else sources.environment.kubernetes.expected_server or ""


def _kubernetes(sources: Sources, questions: Questions) -> _Self:
    kubernetes = sources.kubernetes
    try:
        sources.verify_cluster()
    except (Unreachable, WrongTarget):
        raise
    except SourceError as error:
        # A user who may not read the namespace kube-system cannot tell which cluster this is, and may still work in it.
        questions.failed(error, _("whether it is the environment's cluster"))
    version = kubernetes.version()
    found = kubernetes.identity()
    return _Self(version, found.username, found.groups)


def _prometheus(sources: Sources, _questions: Questions) -> _Self:
    sources.prometheus.runtime()
    return _Self(sources.prometheus.build().version, _configured(sources.environment.prometheus))


def _alertmanager(sources: Sources, _questions: Questions) -> _Self:
    sources.alertmanager.receivers()
    return _Self(sources.alertmanager.status().version, _configured(sources.environment.alertmanager))


def _elasticsearch(sources: Sources, _questions: Questions) -> _Self:
    version = sources.elasticsearch.version()
    return _Self(version, sources.elasticsearch.identity() or _configured(sources.environment.elasticsearch))


_ASK: Mapping[str, Callable[[Sources, Questions], _Self]] = {
    "kubernetes": _kubernetes,
    "prometheus": _prometheus,
    "alertmanager": _alertmanager,
    "elasticsearch": _elasticsearch,
}


def _configured(settings: HttpSystem | None) -> str:
    """As whom we speak to a system that does not say so: the configured user; empty where that is nobody in particular."""
    return (settings.username or "") if settings else ""


def _aws(sources: Sources, seen: _Seen) -> _Self:
    """As whom AWS sees us, which needs no permission."""
    account = sources.aws
    answer: dict[str, Any] = {}
    for _time in range(2):
        started, began = datetime.now(UTC), time.monotonic()
        answer = account.call("sts", "get_caller_identity")
        date = str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))
        seen.timed("aws", _Timed(started, time.monotonic() - began, date))
    account.check_account()
    return _Self(identity=str(answer.get("Arn", "")))


def _clock(answers: list[_Timed]) -> float | None:
    """How far the server's clock is ahead, from the shortest answer with a Date header, which is cut to the second (RFC 9110, 6.6.1)."""
    for one in sorted(answers, key=lambda one: one.seconds):
        try:
            date = email.utils.parsedate_to_datetime(one.date)
        except ValueError:
            continue
        sent = one.started + timedelta(seconds=one.seconds / 2)
        return round((date + timedelta(seconds=0.5) - sent).total_seconds())
    return None


# --- certificates and tokens ----------------------------------------------------------------------------------------------------------


def _credentials(sources: Sources, systems: tuple[System, ...], seen: _Seen, give_up: float) -> tuple[Credential, ...]:
    found: list[Credential] = []
    for system in systems:
        of_server = _server_certificate(system, seen, give_up)
        if of_server is not None:
            found.append(_from_certificate(system.name, Kind.SERVER, of_server))
        if system.name == "kubernetes":
            found += _of_cluster(sources)
        elif system.named and system.name != "aws":
            found += _of_settings(system.name, getattr(sources.environment, system.name))
    return tuple(found)


def _server_certificate(system: System, seen: _Seen, give_up: float) -> certificates.Certificate | None:
    """That of the answers; where TLS failed, that which the server shows, whoever it is."""
    with seen.lock:
        shown = seen.certificates.get(system.name, b"")
    if shown:
        return certificates.from_der(shown)
    if not isinstance(system.error, Unreachable) or not _is_tls(system.error):
        return None
    parts = urlsplit(system.address)
    seconds = min(max(give_up - time.monotonic(), 0.2), _UNVERIFIED_SECONDS)
    try:
        import ssl

        pem = ssl.get_server_certificate((parts.hostname or "", parts.port or 443), timeout=seconds)
    except (OSError, ValueError):
        return None
    return certificates.from_pem(pem.encode("ascii"))


def _is_tls(error: Unreachable) -> bool:
    import ssl

    from urllib3.exceptions import SSLError

    return isinstance(error.__cause__, SSLError | ssl.SSLError)


def _of_cluster(sources: Sources) -> list[Credential]:
    kubernetes: Kubernetes | None = sources.connected("kubernetes")
    known = kubernetes.credentials if kubernetes is not None else None
    if known is None:
        return []
    found = []
    certificate = certificates.from_pem(known.certificate)
    if certificate is not None:
        found.append(replace(_from_certificate("kubernetes", Kind.CLIENT, certificate), renewed=known.renewed))
    if known.token_ends is not None:
        found.append(Credential(system="kubernetes", kind=Kind.TOKEN, subject="", ends=known.token_ends, renewed=known.renewed))
    return found


def _of_settings(system: str, settings: HttpSystem) -> list[Credential]:
    from opslib.sources.kubeconfig import end_of_token

    found = []
    if settings.client_certificate is not None and settings.client_certificate.is_file():
        certificate = certificates.from_pem(settings.client_certificate.read_bytes())
        if certificate is not None:
            found.append(_from_certificate(system, Kind.CLIENT, certificate))
    try:
        token = settings.secret(settings.token_env)
    except OpsError:
        return found  # that it is not set, the system's own question has said
    ends = end_of_token(token.get_secret_value()) if token is not None else None
    if ends is not None:
        found.append(Credential(system=system, kind=Kind.TOKEN, subject="", ends=ends))
    return found


def _from_certificate(system: str, kind: Kind, one: certificates.Certificate) -> Credential:
    return Credential(system=system, kind=kind, subject=one.subject, issuer=one.issuer, ends=one.ends)


# --- rights ---------------------------------------------------------------------------------------------------------------------------


def _rights(
    sources: Sources, namespace: str, questions: Questions, give_up: float
) -> tuple[Mapping[tuple[str, str], bool | None] | None, bool | None]:
    """Whether we have each right that some chapter needs, and whether we may change anything.

    The rules of the namespace, in one answer, say of most of them that they are missing, and of those of the namespace that they are there.
    What they leave open is asked for one by one: what holds in the whole cluster, and what the server cannot list.
    """
    kubernetes = sources.kubernetes
    what = _("our rights in the cluster")
    rules: Rules | None = _late(questions.ask(what, lambda: kubernetes.rules(namespace or "default")), give_up)
    if rules is None:
        return None, None
    wanted = {right.key: right.everywhere or not namespace for rights in RIGHTS.values() for right in rights}
    wanted |= dict.fromkeys(CHANGES, not namespace)
    allowed: dict[tuple[str, str], bool | None] = {}
    open_: dict[tuple[str, str], Answer[bool]] = {}
    for (verb, resource), everywhere in wanted.items():
        listed = rules.allow(verb, resource)
        if listed and not everywhere:
            allowed[verb, resource] = True
        elif not listed and not rules.incomplete:
            allowed[verb, resource] = False
        else:
            where = "" if everywhere else namespace
            open_[verb, resource] = questions.ask(what, _question(kubernetes, verb, resource, where))
    for key, answer in open_.items():
        allowed[key] = _late(answer, give_up)
    changes = [allowed.pop(key) for key in CHANGES]
    may_change = True if any(changes) else None if None in changes else False
    return allowed, may_change


def _question(kubernetes: Kubernetes, verb: str, resource: str, namespace: str) -> Callable[[], bool]:
    return lambda: kubernetes.may(verb, resource, namespace)


def _late(answer: Answer[Any], give_up: float) -> Any:
    """The answer; None where it failed, which is a gap, or is not there when it is time to give up."""
    try:
        return answer.get(max(give_up - time.monotonic(), 0))
    except TimeoutError:
        return None
