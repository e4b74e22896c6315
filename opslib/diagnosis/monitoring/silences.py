"""Silences: about to end, never ending, too wide."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from opslib.diagnosis.monitoring.facts import Facts, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, _n
from opslib.sources.monitored import Silence


def ending(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A silence that will end soon while the alerts it hides still fire: they will be told about then."""
    for silence in facts.silences or []:
        hidden = [alert for alert in facts.notified or [] if silence.id in alert.status.silenced_by]
        left = silence.ends_at - facts.now if silence.ends_at else None
        if hidden and left is not None and timedelta() < left <= timedelta(hours=parameters.silence_ends_within_hours):
            yield Finding(
                check="silences.ending",
                severity=Severity.WARNING,
                subject=Subject("Silence", silence.id),
                title=_n(
                    "A silence ends soon, and {count} alert under it still fires",
                    "A silence ends soon, and {count} alerts under it still fire",
                    len(hidden),
                ),
                evidence=(_evidence(facts, silence),),
                steps=(
                    Step(
                        _("Put the cause right before it ends, or lengthen it with a reason"),
                        _amtool(facts, "silence", "update", "--duration=4h", silence.id),
                        changes=True,
                    ),
                ),
                affected=tuple(Subject("Alert", name) for name in sorted({alert.name for alert in hidden})),
                since=silence.starts_at,
            )


def endless(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A silence that lasts so long that nobody will remember it."""
    for silence in facts.silences or []:
        if silence.ends_at and silence.ends_at - facts.now > timedelta(days=parameters.silence_long_days):
            yield Finding(
                check="silences.endless",
                severity=Severity.WARNING,
                subject=Subject("Silence", silence.id),
                title=_("A silence by {author} practically never ends", author=silence.created_by or "-"),
                evidence=(_evidence(facts, silence),),
                steps=(
                    Step(
                        _("Ask its author; an alert that nobody wants is removed from the rules, not silenced"),
                        _amtool(facts, "silence", "expire", silence.id),
                        changes=True,
                    ),
                ),
                since=silence.starts_at,
            )


def everything(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A silence that hides every alert."""
    for silence in facts.silences or []:
        if (
            silence.status.state == "active"
            and silence.matchers
            and all(_matches_all(silence, number) for number in range(len(silence.matchers)))
        ):
            yield Finding(
                check="silences.everything",
                severity=Severity.CRITICAL,
                subject=Subject("Silence", silence.id),
                title=_("A silence by {author} hides every alert", author=silence.created_by or "-"),
                evidence=(_evidence(facts, silence),),
                steps=(
                    Step(
                        _("End it unless a maintenance is under way right now"),
                        _amtool(facts, "silence", "expire", silence.id),
                        changes=True,
                    ),
                ),
                since=silence.starts_at,
            )


def _matches_all(silence: Silence, number: int) -> bool:
    """Whether a matcher holds for every alert. Every alert has a name, so "alertname is not empty" is one."""
    matcher = silence.matchers[number]
    if matcher.is_regex and matcher.is_equal:
        return matcher.value in (".*", "(.*)", "^.*$") or (matcher.name == "alertname" and matcher.value in (".+", "(.+)", "^.+$"))
    return not matcher.is_regex and not matcher.is_equal and matcher.name == "alertname" and matcher.value == ""


def _evidence(facts: Facts, silence: Silence) -> Evidence:
    ends = f"{silence.ends_at.astimezone(facts.zone):%Y-%m-%d %H:%M %Z}" if silence.ends_at else "-"
    return Evidence(
        text=_("It was set by {author}, ends at {ends}, and holds for", author=silence.created_by or "-", ends=ends),
        quote=" ".join(str(matcher) for matcher in silence.matchers) + (f"\n{silence.comment}" if silence.comment else ""),
        source="alertmanager",
        reference="/api/v2/silences",
        time=silence.starts_at,
    )


def _amtool(facts: Facts, *words: str) -> str:
    address = ("--alertmanager.url", facts.alertmanager_url) if facts.alertmanager_url else ()
    return command("amtool", *address, *words)
