"""What every chapter returns: findings, and the tables they rest on.

A finding says what is wrong, with which object, why that is believed, and what to do next. It holds messages, not strings, so that it can
be read in either language; data from outside (log lines, names) is kept as plain `str` and made printable where it is shown.
"""

from __future__ import annotations

import enum
import hashlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opslib.errors import SourceError
from opslib.messages import Message, Text, _, from_json, to_json

if TYPE_CHECKING:
    import pandas


class Severity(enum.IntEnum):
    """How bad it is, worst last.

    UNKNOWN (could not look) hides what might be there, so it outranks a warning but not a known critical one.
    """

    OK = 0
    INFO = 1
    WARNING = 2
    UNKNOWN = 3
    CRITICAL = 4

    @property
    def exit_status(self) -> int:
        """The exit status that monitoring plugins use: ok and info 0, warning 1, critical 2, unknown 3."""
        return {0: 0, 1: 0, 2: 1, 3: 3, 4: 2}[int(self)]

    @property
    def label(self) -> Message:
        """The name for a reader."""
        return (_("ok"), _("info"), _("warning"), _("unknown"), _("critical"))[int(self)]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a finding is about: a Kubernetes object, an alert rule, a system."""

    kind: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.kind}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One observation that the finding rests on.

    Parameters
    ----------
    text
        What was observed.
    quote
        The words of the system itself (log lines, a condition's message): data from outside.
    source
        The system it came from: "kubernetes", "prometheus", "alertmanager", "elasticsearch".
    reference
        How to see it again: the object's path, or the query.
    time
        When it happened, aware; None where unknown.
    """

    text: Text
    quote: str = ""
    source: str = "kubernetes"
    reference: str = ""
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What to do next. `command` can be pasted into a shell; `changes` says that it changes something outside."""

    text: Text
    command: str = ""
    changes: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A page to open. Only http and https addresses are links."""

    text: Text
    url: str

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise ValueError(f"not a web address: {self.url!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the reader should know.

    Parameters
    ----------
    check
        Which rule found it, as ``family.rule``: "image.not_found". Stable; never shown alone.
    severity, subject
        How bad, and about what. For a workload's pods the subject is the owner: forty pods of one Deployment are one finding.
    title
        One sentence.
    cause
        Why, as far as it is known; None where it is not.
    evidence
        The observations, the strongest first.
    steps
        What to do next, in order.
    affected
        The single objects, where the subject stands for several.
    since
        When it began, aware; None where unknown.
    confidence
        How sure it is that this is the cause of what it explains, 0 to 1; None where nothing was weighed.
    refuted_by
        What would show that it is not so: a sentence, and the command to look.
    explains, explained_by
        Fingerprints of the findings that follow from this one, and of those that this one follows from, the likeliest first.
    ruled_out
        Competing causes that were looked at, each with the observation that excludes it.
    """

    check: str
    severity: Severity
    subject: Subject
    title: Text
    cause: Text | None = None
    evidence: tuple[Evidence, ...] = ()
    steps: tuple[Step, ...] = ()
    links: tuple[Link, ...] = ()
    affected: tuple[Subject, ...] = ()
    since: datetime | None = None
    confidence: float | None = None
    refuted_by: tuple[Step, ...] = ()
    explains: tuple[str, ...] = ()
    explained_by: tuple[str, ...] = ()
    ruled_out: tuple[tuple[Text, Text], ...] = ()

    @property
    def fingerprint(self) -> str:
        """The same between two runs for the same trouble with the same subject: check and subject, hashed (16 hex digits)."""
        return hashlib.sha256(f"{self.check}\n{self.subject}".encode(errors="backslashreplace")).hexdigest()[:16]

    @classmethod
    def gap(cls, error: SourceError, what: Text, subject: Subject | None = None) -> Finding:
        """The finding that something could not be looked at, and why: never to be taken for "nothing found"."""
        return cls(
            check=f"gap.{error.system}",
            severity=Severity.UNKNOWN,
            subject=subject or Subject("System", error.system),
            title=_("Could not look at {what}", what=what),
            cause=error.what,
            steps=(Step(error.remedy, error.command),) if error.remedy else (),
        )


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Worst first; then causes before what they explain, those that explain most first; then by how many are affected, then by subject."""
    return sorted(
        findings,
        key=lambda finding: (
            -finding.severity,
            bool(finding.explained_by),
            -len(finding.explains),
            -len(finding.affected),
            str(finding.subject),
            finding.check,
        ),
    )


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst severity among `findings`; OK where there are none."""
    return max((finding.severity for finding in findings), default=Severity.OK)


def command(*words: object) -> str:
    """A shell command from its words, each quoted: names from a cluster are data."""
    return shlex.join(str(word) for word in words)


class Unit(enum.StrEnum):
    """What a column's values are; decides how they are shown and sorted."""

    TEXT = "text"
    COUNT = "count"
    SECONDS = "seconds"
    BYTES = "bytes"
    CORES = "cores"
    PER_SECOND = "per_second"
    RATIO = "ratio"  # 0 to 1, shown as per cent
    TIME = "time"  # aware datetime
    SEVERITY = "severity"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in frames, its heading, what its values mean."""

    name: str
    label: Text
    unit: Unit = Unit.TEXT
    meaning: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns. None in a cell: not known. `empty` says what having no rows means."""

    name: str
    title: Text
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]] = field(default_factory=tuple)
    empty: Text = _("Nothing found.")
    note: Text = ""

    def frame(self) -> pandas.DataFrame:
        """The same rows as a frame; its columns carry the columns' names."""
        import pandas

        return pandas.DataFrame([list(row) for row in self.rows], columns=[column.name for column in self.columns])


def finding_to_json(finding: Finding, language: str | None = None) -> dict[str, Any]:
    """A finding as JSON data: messages whole (for another language, later), and their text in `language` beside them."""

    def text(value: Text) -> dict[str, Any]:
        return {"text": value if isinstance(value, str) else value.text(language), "message": to_json(value)}

    def subject(value: Subject) -> dict[str, str]:
        return {"kind": value.kind, "name": value.name, "namespace": value.namespace}

    return {
        "fingerprint": finding.fingerprint,
        "check": finding.check,
        "severity": finding.severity.name.lower(),
        "subject": subject(finding.subject),
        "title": text(finding.title),
        "cause": text(finding.cause) if finding.cause is not None else None,
        "evidence": [
            {
                "text": text(item.text),
                "quote": item.quote,
                "source": item.source,
                "reference": item.reference,
                "time": item.time.isoformat() if item.time else None,
            }
            for item in finding.evidence
        ],
        "steps": [{"text": text(step.text), "command": step.command, "changes": step.changes} for step in finding.steps],
        "links": [{"text": text(link.text), "url": link.url} for link in finding.links],
        "affected": [subject(item) for item in finding.affected],
        "since": finding.since.isoformat() if finding.since else None,
        "confidence": finding.confidence,
        "refuted_by": [{"text": text(step.text), "command": step.command, "changes": step.changes} for step in finding.refuted_by],
        "explains": list(finding.explains),
        "explained_by": list(finding.explained_by),
        "ruled_out": [{"cause": text(cause), "why": text(why)} for cause, why in finding.ruled_out],
    }


def finding_from_json(content: dict[str, Any]) -> Finding:
    """The finding that `finding_to_json` wrote."""

    def text(value: dict[str, Any]) -> Text:
        return from_json(value["message"])

    def time(value: str | None) -> datetime | None:
        return datetime.fromisoformat(value) if value else None

    return Finding(
        check=content["check"],
        severity=Severity[content["severity"].upper()],
        subject=Subject(**content["subject"]),
        title=text(content["title"]),
        cause=text(content["cause"]) if content["cause"] else None,
        evidence=tuple(
            Evidence(
                text=text(item["text"]), quote=item["quote"], source=item["source"], reference=item["reference"], time=time(item["time"])
            )
            for item in content["evidence"]
        ),
        steps=tuple(Step(text(item["text"]), item["command"], item["changes"]) for item in content["steps"]),
        links=tuple(Link(text(item["text"]), item["url"]) for item in content["links"]),
        affected=tuple(Subject(**item) for item in content["affected"]),
        since=time(content["since"]),
        # Not in documents of earlier versions.
        confidence=content.get("confidence"),
        refuted_by=tuple(Step(text(step["text"]), step["command"], step["changes"]) for step in content.get("refuted_by", ())),
        explains=tuple(content.get("explains", ())),
        explained_by=tuple(content.get("explained_by", ())),
        ruled_out=tuple((text(item["cause"]), text(item["why"])) for item in content.get("ruled_out", ())),
    )
