"""``opslib doctor``: one screen that says what of an environment answers, as whom, and which chapters that is enough for."""

from __future__ import annotations

import sys
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from opslib.chapters import CHAPTERS
from opslib.errors import InputError, OpsError
from opslib.messages import Message, _, _n, one_line, text_of

if TYPE_CHECKING:
    from opslib.chapters.access import Facts
    from opslib.environments import Environment
    from opslib.findings import Finding, Severity

P = ParamSpec("P")
T = TypeVar("T")

WITHIN_SECONDS = 2.4  # one screen in under three seconds, whatever is down
QUESTION = 0.8  # of that time for one question, so that its own reason is there in time
LEAST_SECONDS = 1.5  # on a machine that is too busy to load our own modules in time
MOST_FINDINGS = 12
WIDTH = 110


@dataclass(slots=True)
class _Examined:
    """One environment: what was found, or why it could not be looked at."""

    name: str
    environment: Environment | None = None
    facts: Facts | None = None
    findings: list[Finding] = field(default_factory=list)
    error: OpsError | None = None

    @property
    def severity(self) -> Severity:
        from opslib.findings import Severity, worst

        return worst(self.findings) if self.error is None else max(Severity.UNKNOWN, worst(self.findings))


class _Daemons(Executor):
    """A thread a question, which nobody waits for at the end: one that hangs in a name server's answer must not hold up the shell."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run it in a thread of its own."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name="doctor", daemon=True).start()
        return future


def commands() -> list[click.Command]:
    """The command; its texts are in the language that is current when this is called."""
    from opslib.cli import examples

    @click.command(
        name="doctor",
        help=str(
            _(
                "Show what of an environment answers, as whom, and which chapters that is enough for, in under three seconds. "
                "Exit status: 0 ok, 1 warning, 2 critical, 3 could not be looked at."
            )
        ),
        epilog=examples("opslib doctor --env prod", "opslib doctor --env dev --env stg", "opslib doctor --all --json"),
    )
    @click.option(
        "--env",
        "names",
        multiple=True,
        default=(),
        metavar="NAME",
        help=str(_("An environment's name, or its file; repeatable.")),
    )
    @click.option("--all", "every", is_flag=True, help=str(_("All environments in parameters/, at once.")))
    @click.option("--namespace", "-n", default="", help=str(_("Namespace to have rights in; without it all of them.")))
    @click.option(
        "--within",
        type=click.FloatRange(0.5, 300),
        default=WITHIN_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help=str(_("How long to wait for answers.")),
    )
    @click.option("--json", "as_json", is_flag=True, help=str(_("Print JSON.")))
    def doctor(names: tuple[str, ...], every: bool, namespace: str, within: float, as_json: bool) -> int:
        from opslib import environments

        if every and names:
            raise InputError(_("Name environments, or --all"), _("Leave one of them out"))
        chosen = tuple(environments.names()) if every else names or ("lab",)
        examined = _examine_all(list(dict.fromkeys(chosen)), namespace, within)
        if len(examined) == 1 and examined[0].error is not None and not as_json:
            raise examined[0].error
        if as_json:
            _print_json(examined)
        else:
            for number, one in enumerate(examined):
                if number:
                    click.echo()
                _print(one)
        return max(one.severity for one in examined).exit_status

    return [doctor]


def _examine_all(names: list[str], namespace: str, within: float) -> list[_Examined]:
    """All of them at once, each within the same time, which the modules that are loaded first do not use up."""
    began = time.monotonic()
    _load_modules()
    executor = _Daemons()
    give_up = max(began + within, time.monotonic() + min(LEAST_SECONDS, within))
    asked = [executor.submit(_examine, name, namespace, executor, give_up) for name in names]
    return [future.result() for future in asked]


def _load_modules() -> None:
    """What the questions need: loaded at once, in their threads it would count as the systems' time."""
    import kubernetes.config as official  # noqa: F401
    import urllib3  # noqa: F401

    from opslib.chapters import access
    from opslib.facts import access as reader  # noqa: F401
    from opslib.sources import alertmanager, elasticsearch, kubernetes, prometheus  # noqa: F401

    for chapter in CHAPTERS:
        access.needs(chapter)


def _examine(name: str, namespace: str, executor: Executor, give_up: float) -> _Examined:
    from opslib import environments
    from opslib.chapters import access
    from opslib.facts import Questions
    from opslib.facts import access as reader
    from opslib.facts.sources import Sources

    examined = _Examined(name)
    try:
        loaded = environments.load(name)
        examined.name, examined.environment = loaded.name, _hasty(loaded, max(give_up - time.monotonic(), 0.1) * QUESTION)
        parameters = access.Parameters(namespace=namespace)
        left = max(give_up - time.monotonic(), 0.1)
        examined.facts = reader.read(Sources(examined.environment), parameters, Questions(executor), left)
        examined.findings = access.findings(examined.facts, parameters)
    except OpsError as error:
        examined.error = error
    return examined


def _hasty(environment: Environment, seconds: float) -> Environment:
    """The same environment with no deadline longer than there is time."""
    shortened: dict[str, Any] = {}
    for name in ("kubernetes", "prometheus", "alertmanager", "elasticsearch", "aws"):
        section = getattr(environment, name)
        if section is not None and section.deadline_seconds > seconds:
            shortened[name] = section.model_copy(update={"deadline_seconds": seconds})
    return environment.model_copy(update=shortened)


# --- for a person ---------------------------------------------------------------------------------------------------------------------


def _print(examined: _Examined) -> None:
    from opslib.findings import Severity

    environment, facts = examined.environment, examined.facts
    title = environment.title if environment else ""
    mark = _("production").text() if environment and environment.production else ""
    click.secho(" · ".join(part for part in (examined.name, title, mark) if part), bold=True)
    if examined.error is not None:
        click.echo(f"  {_mark(Severity.UNKNOWN)} {one_line(examined.error, 300)}")
    if facts is None:
        return
    for line in _columns(_system_cells(facts)):
        click.echo(f"  {line}")
    click.echo()
    for line in _columns(_chapter_cells(facts)):
        click.echo(f"  {line}")
    if examined.findings:
        click.echo()
    for finding in examined.findings[:MOST_FINDINGS]:
        click.echo(f"  {_mark(finding.severity)} {one_line(text_of(finding.title), WIDTH)}")
        if finding.cause is not None and finding.severity is not Severity.INFO:
            click.echo(f"      {one_line(text_of(finding.cause), WIDTH * 2)}")
    if len(examined.findings) > MOST_FINDINGS:
        click.echo(f"  {_('and {count} more', count=len(examined.findings) - MOST_FINDINGS)}")
    click.echo(f"  {_verdict(examined.findings)}")


def _mark(severity: Severity) -> str:
    from opslib.findings import Severity

    colour = {Severity.CRITICAL: "red", Severity.WARNING: "yellow", Severity.UNKNOWN: "magenta"}.get(severity)
    return click.style(f"[{severity.label}]", fg=colour, bold=colour is not None)


def _system_cells(facts: Facts) -> list[tuple[str, ...]]:
    from opslib.chapters import access

    rows: list[tuple[str, ...]] = []
    for system in facts.systems:
        seconds = system.answered if system.answered is not None else system.connected
        rows.append(
            (
                access.NAMES[system.name],
                access.state(system).text(),
                f"{seconds * 1000:.0f} ms" if seconds is not None and system.error is None else "",
                system.version,
                system.identity,
                system.address,
            )
        )
    return rows


def _chapter_cells(facts: Facts) -> list[tuple[str, ...]]:
    from opslib.chapters import access

    rows: list[tuple[str, ...]] = []
    for ability in access.abilities(facts):
        reasons = [access.NAMES[name] for name in ability.without]
        if ability.unknown:
            reasons.append(_n("{count} right not known", "{count} rights not known", len(ability.unknown)).text())
        if ability.missing:
            reasons.append(_n("{count} right missing", "{count} rights missing", len(ability.missing)).text())
        title = f"{ability.chapter.section} {ability.chapter.title}"
        rows.append((title, ability.verdict.label.text(), _("without: {what}", what=reasons).text() if reasons else ""))
    return rows


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Cells below each other."""
    shown = [[one_line(cell, 60) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _width(text: str) -> int:
    """Places that it takes on a screen: two for a Japanese character."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _verdict(findings: list[Finding]) -> Message:
    from opslib.findings import Severity

    if not findings:
        return _("Nothing to report.")
    counts = [(severity, sum(finding.severity is severity for finding in findings)) for severity in sorted(Severity, reverse=True)]
    return _("{counts}", counts=[_("{severity} {count}", severity=severity.label, count=count) for severity, count in counts if count])


# --- for a program --------------------------------------------------------------------------------------------------------------------


def _print_json(examined: list[_Examined]) -> None:
    import json

    json.dump([_as_json(one) for one in examined], sys.stdout, ensure_ascii=False, indent=2)
    click.echo()


def _as_json(examined: _Examined) -> dict[str, Any]:
    from opslib.chapters import access
    from opslib.findings import finding_to_json

    facts = examined.facts
    return {
        "environment": examined.name,
        "severity": examined.severity.name.lower(),
        "error": text_of(examined.error.what) if examined.error else None,
        "systems": [
            {
                "system": system.name,
                "named": system.named,
                "answers": system.named and system.error is None,
                "error": text_of(system.error.what) if system.error else None,
                "address": system.address,
                "identity": system.identity,
                "groups": list(system.groups),
                "version": system.version,
                "first_answer_seconds": system.connected,
                "answer_seconds": system.answered,
                "clock_seconds": system.clock,
            }
            for system in (facts.systems if facts else ())
        ],
        "credentials": [
            {
                "system": one.system,
                "kind": one.kind.value,
                "subject": one.subject,
                "issuer": one.issuer,
                "ends": one.ends.isoformat(),
                "renewed": one.renewed,
            }
            for one in (facts.credentials if facts else ())
        ],
        "chapters": [
            {
                "section": ability.chapter.section,
                "chapter": ability.chapter.slug,
                "verdict": ability.verdict.value,
                "without": list(ability.without),
                "missing_rights": [str(right) for right in ability.missing],
                "unknown_rights": [str(right) for right in ability.unknown],
            }
            for ability in (access.abilities(facts) if facts else ())
        ],
        "findings": [finding_to_json(finding) for finding in examined.findings],
    }
