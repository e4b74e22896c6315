"""Chapter 2: what of an environment answers, as whom we speak to it, and which chapters that is enough for."""

from __future__ import annotations

import enum
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from opslib import chapters
from opslib.chapters import Chapter
from opslib.chapters.rights import RIGHTS, Right
from opslib.chapters.tables import about
from opslib.diagnosis.links import alertmanager_alerts, aws_console, grafana_explore, kibana_discover, kql, prometheus_graph
from opslib.environments import Environment
from opslib.errors import InputError, OpsError, Unauthenticated, Unreachable, WrongTarget
from opslib.findings import Column, Evidence, Finding, Link, Severity, Step, Subject, Table, Unit, by_severity, command
from opslib.messages import Message, _, _n

__all__ = ["READS", "REPORTS_WRONG_TARGET", "Facts", "Parameters", "about", "findings"]

READS: tuple[str, ...] = ()  # that none of the systems answers is no reason not to run: it is what this chapter is for
REPORTS_WRONG_TARGET = True

NAMES: Mapping[str, str] = {
    "kubernetes": "Kubernetes",
    "prometheus": "Prometheus",
    "alertmanager": "Alertmanager",
    "elasticsearch": "Elasticsearch",
    "aws": "AWS",
}
AWS_REFUSES_FROM = timedelta(minutes=5)  # a signature whose time is off by more is refused


class Parameters(BaseModel):
    """What the reader may choose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    namespace: str = Field(
        "", pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$", description="Namespace to have rights in; empty: all of them."
    )
    service: str = Field("", max_length=253, description="Service that the links are about; empty: all of them.")
    window_minutes: int = Field(60, ge=1, le=10080, description="How far back the links look.")
    slow_seconds: float = Field(2.0, gt=0, le=60, description="From how long an answer on an open connection counts as slow.")
    certificate_days: int = Field(30, ge=0, le=3650, description="How long before its end a certificate is a warning.")
    token_minutes: int = Field(60, ge=0, le=525600, description="How long before its end a token that nothing renews is a warning.")
    clock_seconds: float = Field(30, gt=0, le=86400, description="How far a system's clock may be from this machine's.")

    LABELS: ClassVar[dict[str, Message]] = {
        "namespace": _("Namespace to have rights in; empty: all of them."),
        "service": _("Service that the links are about; empty: all of them."),
        "window_minutes": _("How far back the links look."),
        "slow_seconds": _("From how long an answer on an open connection counts as slow."),
        "certificate_days": _("How long before its end a certificate is a warning."),
        "token_minutes": _("How long before its end a token that nothing renews is a warning."),
        "clock_seconds": _("How far a system's clock may be from this machine's."),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system of the environment, asked for the least that shows how it is.

    Parameters
    ----------
    name, address
        "kubernetes", and where it is; the address is empty where it is not known.
    named
        Whether the environment's file names it.
    error
        Why it did not answer, or not to us; None where it did.
    version, identity, groups
        What it says of itself, and as whom it sees us; an empty identity is not known.
    connected, answered
        Seconds that the first answer took, connecting included, and an answer on the open connection.
    clock
        Seconds that its clock is ahead of ours, give or take one; None where it does not say.
    """

    name: str
    address: str = ""
    named: bool = True
    error: OpsError | None = None
    version: str = ""
    identity: str = ""
    groups: tuple[str, ...] = ()
    connected: float | None = None
    answered: float | None = None
    clock: float | None = None


class Kind(enum.StrEnum):
    """What a credential is."""

    SERVER = "server"
    CLIENT = "client"
    TOKEN = "token"  # noqa: S105

    @property
    def label(self) -> Message:
        """The name for a reader."""
        return {Kind.SERVER: _("server certificate"), Kind.CLIENT: _("client certificate"), Kind.TOKEN: _("token")}[self]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A certificate or token that ends. `renewed`: something makes a new one when it does."""

    system: str
    kind: Kind
    subject: str
    issuer: str = ""
    ends: datetime
    renewed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What chapter 2 must know.

    Parameters
    ----------
    environment
        The environment; its file is what is looked at.
    allowed
        Whether we have each right that a chapter needs, by verb and resource: in the chosen namespace, or in the whole cluster. None in
        place of one, or of all, that is not known.
    may_change
        Whether we may change workloads at all; None where that is not known.
    """

    now: datetime
    environment: Environment
    systems: tuple[System, ...] = ()
    credentials: tuple[Credential, ...] = ()
    allowed: Mapping[tuple[str, str], bool | None] | None = None
    may_change: bool | None = None
    namespace: str = ""
    gaps: tuple[Finding, ...] = ()

    @property
    def zone(self) -> tzinfo:
        """The reader's."""
        return self.environment.zone

    def system(self, name: str) -> System | None:
        """The system with that name."""
        return next((system for system in self.systems if system.name == name), None)


# --- which chapters can run -----------------------------------------------------------------------------------------------------------


class Verdict(enum.StrEnum):
    """What can be done of a chapter."""

    RUNS = "runs"
    GAPS = "gaps"
    CANNOT = "cannot"

    @property
    def label(self) -> Message:
        """The name for a reader."""
        return {Verdict.RUNS: _("can run"), Verdict.GAPS: _("runs with gaps"), Verdict.CANNOT: _("cannot run")}[self]


@dataclass(frozen=True, slots=True)
class Ability:
    """What can be done of a chapter, the systems that do not answer, the rights that are missing, and those that are not known."""

    chapter: Chapter
    verdict: Verdict
    without: tuple[str, ...] = ()
    missing: tuple[Right, ...] = ()
    unknown: tuple[Right, ...] = field(default=())


def abilities(facts: Facts) -> list[Ability]:
    """What can be done of each chapter, with these systems and these rights."""
    return [_ability(facts, chapter) for chapter in chapters.CHAPTERS]


def _ability(facts: Facts, chapter: Chapter) -> Ability:
    required, reads = needs(chapter)
    up = {system.name for system in facts.systems if system.error is None and system.named}
    asked = {system.name for system in facts.systems}
    without = tuple(name for name in dict.fromkeys((*required, *reads)) if name in asked and name not in up)
    rights = RIGHTS.get(chapter.slug, ()) if "kubernetes" in up else ()
    allowed = facts.allowed or {}
    missing = tuple(right for right in rights if allowed.get(right.key) is False)
    unknown = tuple(right for right in rights if allowed.get(right.key) is None)
    nothing_left = bool(reads) and set(reads) <= set(without)
    cluster = facts.system("kubernetes")
    refused = cluster is not None and isinstance(cluster.error, InputError) and chapter.slug != "access"  # where others do not begin
    if nothing_left or refused or not set(without).isdisjoint(required) or any(right.needed for right in missing):
        verdict = Verdict.CANNOT
    else:
        verdict = Verdict.GAPS if without or missing or unknown else Verdict.RUNS
    return Ability(chapter, verdict, without, missing, unknown)


def needs(chapter: Chapter) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The systems without which a chapter is nothing, and those that it reads."""
    module = importlib.import_module(f"opslib.chapters.{chapter.slug}")
    required: tuple[str, ...] = getattr(module, "REQUIRES", ())
    reads: tuple[str, ...] = getattr(module, "READS", tuple(NAMES))
    return required, reads


# --- findings -------------------------------------------------------------------------------------------------------------------------


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    """Everything that keeps somebody from working, or soon will, worst first; what could not be looked at is among it."""
    return by_severity(
        [*facts.gaps, *_of_systems(facts, parameters), *_of_credentials(facts, parameters), *_of_target(facts), *_of_rights(facts)]
    )


def _of_systems(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    for system in facts.systems:
        subject = Subject("System", system.name)
        if system.error is not None:
            yield _failed(system, system.error, subject)
            continue
        seconds = system.answered if system.answered is not None else system.connected
        if seconds is not None and seconds >= parameters.slow_seconds:
            yield Finding(
                check="systems.slow",
                severity=Severity.WARNING,
                subject=subject,
                title=_("{system} answers slowly: {seconds} s for a small question", system=NAMES[system.name], seconds=f"{seconds:.1f}"),
                evidence=(Evidence(text=_("Address: {address}", address=system.address), source=system.name),),
                steps=(Step(_("Compare from another place: the network or VPN, or the system itself, is slow")),),
            )
        if system.clock is not None and abs(system.clock) > parameters.clock_seconds:
            yield _clock_off(system, system.clock, subject)


def _failed(system: System, error: OpsError, subject: Subject) -> Finding:
    name = NAMES[system.name]
    without = [chapter for chapter in chapters.CHAPTERS if system.name in needs(chapter)[0]]
    severity = Severity.CRITICAL if without else Severity.WARNING
    evidence: list[Evidence] = []
    if system.address:
        evidence.append(Evidence(text=_("Address: {address}", address=system.address), source=system.name))
    if without:
        names = [f"{chapter.section} {chapter.slug}" for chapter in without]
        evidence.append(Evidence(text=_("Chapters that cannot run without it: {chapters}", chapters=names), source=system.name))
    check, title = "systems.refused", _("{system} answers, but not as it should", system=name)
    if isinstance(error, WrongTarget):
        severity = Severity.CRITICAL
        check, title = "systems.wrong_target", _("{system} is not the environment's: nothing more was read from it", system=name)
    elif isinstance(error, Unreachable):
        check, title = "systems.unreachable", _("{system} does not answer", system=name)
    elif isinstance(error, Unauthenticated):
        check, title = "systems.unauthenticated", _("{system} does not accept the credentials", system=name)
    elif isinstance(error, InputError) or not system.address:
        check, title = "systems.settings", _("{system} cannot be asked: what the environment's file says cannot be used", system=name)
    return Finding(
        check=check,
        severity=severity,
        subject=subject,
        title=title,
        cause=error.what,
        evidence=tuple(evidence),
        steps=(Step(error.remedy, error.command),) if error.remedy else (),
    )


def _clock_off(system: System, seconds: float, subject: Subject) -> Finding:
    name = NAMES[system.name]
    amount = f"{abs(seconds):.0f}"
    title = (
        _("The clock of {system} is {seconds} s ahead of this machine's", system=name, seconds=amount)
        if seconds > 0
        else _("The clock of {system} is {seconds} s behind this machine's", system=name, seconds=amount)
    )
    far = abs(seconds) > AWS_REFUSES_FROM.total_seconds()
    return Finding(
        check="systems.clock",
        severity=Severity.CRITICAL if far else Severity.WARNING,
        subject=subject,
        title=title,
        cause=_("Signatures are refused from five minutes on, tokens end early or late, and times of different systems cannot be compared")
        if far
        else _("Times of different systems cannot be compared to the second"),
        evidence=(Evidence(text=_("From the Date header of its answer"), source=system.name),),
        steps=(Step(_("See whether this machine's clock is right"), command("timedatectl", "timesync-status")),),
    )


def _of_credentials(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    for one in facts.credentials:
        left = one.ends - facts.now
        if one.renewed and left > timedelta(0):
            continue
        soon = timedelta(minutes=parameters.token_minutes) if one.kind is Kind.TOKEN else timedelta(days=parameters.certificate_days)
        if left > soon:
            continue
        values = {"kind": one.kind.label, "system": NAMES[one.system]}
        over = left <= timedelta(0)
        yield Finding(
            check="credentials.ended" if over else "credentials.ending",
            severity=Severity.CRITICAL if over else Severity.WARNING,
            subject=Subject(one.kind.value.capitalize(), one.subject or one.system, one.system),
            title=_("The {kind} of {system} has ended", **values)
            if over
            else _("The {kind} of {system} ends in {left}", left=_duration(left), **values),
            cause=_("Connections with it are refused") if over else _("From then on connections with it are refused"),
            evidence=(
                Evidence(
                    text=_("{subject}, issued by {issuer}", subject=one.subject or "-", issuer=one.issuer or "-"),
                    source=one.system,
                    time=one.ends,
                ),
            ),
            steps=(
                Step(
                    _("Have it renewed by whoever issued it, before its end")
                    if one.kind is Kind.SERVER
                    else _("Log in again, or have new credentials made")
                ),
            ),
        )


def _duration(left: timedelta) -> Message:
    if left >= timedelta(days=2):
        return _("{count} days", count=left.days)
    minutes = int(left.total_seconds() // 60)
    return _("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60)


def _of_target(facts: Facts) -> Iterator[Finding]:
    """A production that does not say which cluster it is cannot be told from another one."""
    settings = facts.environment.kubernetes
    cluster = facts.system("kubernetes")
    if not facts.environment.production or settings.expected_server or settings.expected_cluster_uid:
        return
    if cluster is None or cluster.error is not None:
        return
    yield Finding(
        check="systems.target_not_checked",
        severity=Severity.WARNING,
        subject=Subject("Environment", facts.environment.name),
        title=_("Nothing says which cluster {environment} is: a wrong context would not be noticed", environment=facts.environment.name),
        evidence=(Evidence(text=_("The context leads to {address}", address=cluster.address)),),
        steps=(
            Step(
                _("If this is the right cluster, write its UID into {field}", field="kubernetes.expected_cluster_uid"),
                command("kubectl", *settings.kubectl_options, "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"),
            ),
        ),
    )


def _of_rights(facts: Facts) -> Iterator[Finding]:
    kubectl = facts.environment.kubernetes.kubectl_options
    for ability in abilities(facts):
        if not ability.missing:
            continue
        chapter = ability.chapter
        cannot = any(right.needed for right in ability.missing)
        count, section = len(ability.missing), chapter.section
        title = (
            _n(
                "Chapter {section} cannot run: {count} right is missing",
                "Chapter {section} cannot run: {count} rights are missing",
                count,
                section=section,
            )
            if cannot
            else _n(
                "Chapter {section} runs with gaps: {count} right is missing",
                "Chapter {section} runs with gaps: {count} rights are missing",
                count,
                section=section,
            )
        )
        yield Finding(
            check="rights.missing",
            severity=Severity.WARNING if cannot else Severity.INFO,
            subject=Subject("Chapter", f"{chapter.section} {chapter.slug}", facts.namespace),
            title=title,
            cause=_("{rights}", rights=[str(right) for right in ability.missing]),
            evidence=(Evidence(text=_("As whom: {identity}", identity=identity(facts) or "-")),),
            steps=(
                Step(
                    _("Have the role of this chapter bound to these credentials; the single rules stand in the table"),
                    command("kubectl", *kubectl, "apply", "-f", f"deploy/rbac/{chapter.section}_{chapter.slug}.yaml"),
                    changes=True,
                ),
            ),
        )
    if facts.may_change is False:
        yield Finding(
            check="rights.view_only",
            severity=Severity.INFO,
            subject=Subject("User", identity(facts) or "-"),
            title=_("These credentials may only look: plans can be made, not executed"),
            steps=(Step(_("Log in with other credentials before something has to be changed")),),
        )


def identity(facts: Facts) -> str:
    """As whom the cluster sees us; empty where that is not known."""
    cluster = facts.system("kubernetes")
    return cluster.identity if cluster else ""


# --- tables ---------------------------------------------------------------------------------------------------------------------------


def systems_table(facts: Facts) -> Table:
    """Each system: whether it answers, how fast, as whom."""
    rows = [
        (
            NAMES[system.name],
            state(system),
            system.address or None,
            system.identity or None,
            system.version or None,
            system.connected,
            system.answered,
            system.clock,
        )
        for system in facts.systems
    ]
    return Table(
        name="systems",
        title=_("Systems"),
        columns=(
            Column("system", _("System")),
            Column("state", _("State")),
            Column("address", _("Address")),
            Column("identity", _("As whom"), meaning=_("As whom it sees us")),
            Column("version", _("Version")),
            Column("connected", _("First answer"), Unit.SECONDS, _("Connecting included")),
            Column("answered", _("Answer"), Unit.SECONDS, _("On the open connection")),
            Column("clock", _("Clock"), Unit.SECONDS, _("How far its clock is ahead of this machine's; to the second")),
        ),
        rows=rows,
        empty=_("The environment names no system."),
    )


def state(system: System) -> Message:
    """How it is, in a few words."""
    if not system.named:
        return _("not in the environment's file")
    if system.error is None:
        return _("answers")
    if isinstance(system.error, WrongTarget):
        return _("wrong target")
    if isinstance(system.error, Unauthenticated):
        return _("does not accept the credentials")
    if isinstance(system.error, Unreachable):
        return _("does not answer")
    return _("cannot be used")


def credentials_table(facts: Facts) -> Table:
    """Certificates and tokens, those that end first."""
    rows: list[tuple[Any, ...]] = [
        (NAMES[one.system], one.kind.label, one.subject or None, one.issuer or None, one.ends, (one.ends - facts.now).days, one.renewed)
        for one in sorted(facts.credentials, key=lambda one: (one.ends, one.system, one.kind))
    ]
    return Table(
        name="credentials",
        title=_("Certificates and tokens"),
        columns=(
            Column("system", _("System")),
            Column("kind", _("Kind")),
            Column("subject", _("Whose")),
            Column("issuer", _("Issued by")),
            Column("ends", _("Ends"), Unit.TIME),
            Column("days", _("Days left"), Unit.COUNT),
            Column("renewed", _("Renewed"), meaning=_("Whether a plug-in or the cluster makes a new one by itself")),
        ),
        rows=rows,
        empty=_("No certificate and no token with an end was seen."),
    )


def chapters_table(facts: Facts) -> Table:
    """What can be done of each chapter, and what is missing for the rest."""
    rows = [
        (
            ability.chapter.section,
            ability.chapter.title,
            ability.verdict.label,
            [NAMES[name] for name in ability.without] or None,
            len(ability.missing) if facts.allowed is not None else None,
            [str(right) for right in ability.missing] or None,
        )
        for ability in abilities(facts)
    ]
    return Table(
        name="chapters",
        title=_("Chapters with these credentials"),
        columns=(
            Column("section", _("Chapter")),
            Column("title", _("Title")),
            Column("verdict", _("Verdict")),
            Column("without", _("Without"), meaning=_("Systems that it reads and that cannot be used now")),
            Column("missing", _("Rights missing"), Unit.COUNT),
            Column("rights", _("Which")),
        ),
        rows=rows,
        note=_("In namespace {namespace}", namespace=facts.namespace) if facts.namespace else _("In the whole cluster"),
    )


def rights_table(facts: Facts) -> Table:
    """Each right that is missing or not known, what it is for, and the rule to add."""
    import json

    rows: list[tuple[Any, ...]] = []
    for ability in abilities(facts):
        for right in (*ability.missing, *ability.unknown):
            known = right in ability.missing
            rows.append(
                (
                    ability.chapter.section,
                    right.verb,
                    right.resource,
                    _("missing") if known else _("not known"),
                    _("needed") if right.needed else _("useful"),
                    right.why,
                    json.dumps(right.rule),
                )
            )
    unread = facts.allowed is None
    return Table(
        name="rights",
        title=_("Rights that are missing"),
        columns=(
            Column("section", _("Chapter")),
            Column("verb", _("Verb")),
            Column("resource", _("Resource")),
            Column("state", _("State")),
            Column("needed", _("For the chapter")),
            Column("why", _("What for")),
            Column("rule", _("Rule to add"), meaning=_("To a Role of the namespace, or to a ClusterRole")),
        ),
        rows=rows,
        empty=_("The rights could not be read.") if unread else _("No right is missing."),
    )


# --- pages for people -----------------------------------------------------------------------------------------------------------------


def links(facts: Facts, parameters: Parameters) -> list[Link]:
    """The runbook's pages, with time range, service and query set: AWS console, Kibana, Grafana, and Prometheus and Alertmanager."""
    environment = facts.environment
    start = facts.now - timedelta(minutes=parameters.window_minutes)
    found: list[Link] = []
    if environment.aws is not None:
        found += aws_console(environment.links, environment.aws.region, environment.aws.cluster or "")
    if environment.elasticsearch is not None:
        logs = environment.elasticsearch
        parts = [kql(logs.level_field, logs.error_levels)]
        if parameters.namespace:
            parts.append(kql(logs.namespace_field, parameters.namespace))
        if parameters.service:
            parts.append(kql(logs.service_field, parameters.service))
        found += kibana_discover(environment.links, " and ".join(parts), start, facts.now)
    if environment.prometheus is not None:
        query = _requests(environment, parameters)
        found += grafana_explore(environment.links, query, start, facts.now)
        found.append(prometheus_graph(environment.prometheus.url, query, start, facts.now))
    if environment.alertmanager is not None:
        labels = {"namespace": parameters.namespace, "service": parameters.service}
        found.append(alertmanager_alerts(environment.alertmanager.url, {name: value for name, value in labels.items() if value}))
    return found


def _requests(environment: Environment, parameters: Parameters) -> str:
    """Requests by service, of the chosen one and namespace."""
    import json

    assert environment.prometheus is not None
    metrics = environment.prometheus
    chosen = {"namespace": parameters.namespace, metrics.service_label: parameters.service}
    matchers = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in chosen.items() if value)
    selector = f"{metrics.requests_metric}{{{matchers}}}" if matchers else metrics.requests_metric
    return f"sum by ({metrics.service_label}) (rate({selector}[5m]))"
