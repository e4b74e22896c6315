"""A chapter for tests of what runs and shows chapters: findings and a table with hostile text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from opslib.findings import Column, Evidence, Finding, Link, Severity, Step, Subject, Table, Unit, by_severity, command
from opslib.messages import _

HOSTILE = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>\x1b[31mred\x00 \u202eevil</script><a href='javascript:alert(3)'>x</a>"


class Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    namespace: str = Field("", description="Namespace; empty: all of them.")
    count: int = Field(3, ge=0, description="How many.")
    names: list[str] = Field(default_factory=list, description="Names.")
    mode: Literal["fast", "full"] = Field("fast", description="How.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    now: datetime
    environment: str
    gaps: tuple[Finding, ...]
    text: str | None
    count: int


def findings(facts: Facts, parameters: Parameters) -> list[Finding]:
    found = list(facts.gaps)
    for number in range(facts.count):
        found.append(
            Finding(
                check="sample.text",
                severity=Severity.CRITICAL if number == 0 else Severity.WARNING,
                subject=Subject("Pod", f"web-{number}", "shop"),
                title=_("{name} is broken", name=f"web-{number} {facts.text}"),
                cause=_("The container exits at once."),
                evidence=(Evidence(text=_("The last log lines"), quote=f"line one\n{facts.text}\n" + "x" * 20_000, time=facts.now),),
                steps=(Step(_("Look at the logs"), command("kubectl", "logs", f"web-{number}; rm -rf /"), changes=False),),
                links=(Link(_("Dashboard"), "https://grafana.example.com/d/1?var=%22%3E"),),
                affected=(Subject("Pod", f"web-{number}", "shop"),),
                since=facts.now,
            )
        )
    return by_severity(found)


def table(facts: Facts) -> Table:
    return Table(
        name="pods",
        title=_("Pods"),
        columns=(
            Column("name", _("Pod"), Unit.TEXT, _("Its name")),
            Column("memory", _("Memory"), Unit.BYTES, _("Working set")),
            Column("share", _("Share"), Unit.RATIO),
            Column("age", _("Age"), Unit.SECONDS),
            Column("start", _("Started"), Unit.TIME),
            Column("severity", _("Severity"), Unit.SEVERITY),
        ),
        rows=[
            (
                f"web-{number} {facts.text}",
                number * 1e8 if number != 1 else None,
                number / 10,
                number * 1000.0,
                datetime(2026, 1, 1 + number, tzinfo=UTC),
                Severity(number % 5),
            )
            for number in range(12)
        ],
    )
