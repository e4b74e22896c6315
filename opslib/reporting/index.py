"""outputs/index.html: all runs, newest first, with what is new, resolved or still there since the run before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from opslib.chapters import CHAPTERS
from opslib.findings import Finding, Severity
from opslib.messages import Message, _, _n, current_language, one_line, text_of
from opslib.reporting import records, render
from opslib.reporting.format import UNKNOWN, duration_text, time_text
from opslib.reporting.page import page
from opslib.reporting.records import Record

MOST = 1000


@dataclass(frozen=True, slots=True)
class Changes:
    """A run against the run before it: titles of findings that are new, gone, or still there.

    `resolved` is None where the later run could not look at everything: what it does not name may still be there.
    """

    new: list[Finding]
    still: list[Finding]
    resolved: list[Finding] | None


def changes(before: Sequence[Finding], now: Sequence[Finding]) -> Changes:
    """What changed between two runs, by the findings' fingerprints."""
    known = {finding.fingerprint: finding for finding in before}
    seen = {finding.fingerprint: finding for finding in now}
    gone = [finding for fingerprint, finding in known.items() if fingerprint not in seen and not finding.check.startswith("gap.")]
    could_look = not any(finding.severity is Severity.UNKNOWN for finding in now)
    return Changes(
        new=[finding for fingerprint, finding in seen.items() if fingerprint not in known],
        still=[finding for fingerprint, finding in seen.items() if fingerprint in known],
        resolved=gone if could_look else None,
    )


def build(outputs: Path, language: str | None = None) -> Path:
    """Write the index of all runs below `outputs`; the path of the page.

    Parameters
    ----------
    language
        The reader's; None: the current one.
    """
    language = language or current_language()
    runs = records.read_all(outputs)
    content = {
        "heading": _("Runs"),
        "headings": [
            text.text(language)
            for text in (_("Time"), _("Chapter"), _("Environment"), _("Parameters"), _("Verdict"), _("Changes"), _("Took"), _("Files"))
        ],
        "runs": [_row(run, _before(run, runs[number + 1 :]), outputs, language) for number, run in enumerate(runs[:MOST])],
        "hidden": _n("{count} older run is not listed", "{count} older runs are not listed", len(runs) - MOST) if len(runs) > MOST else "",
        "nothing": _("No runs yet. Start one: {command}", command="opslib run 4.1 --env lab"),
    }
    path = outputs / "index.html"
    outputs.mkdir(parents=True, exist_ok=True)
    records.write(path, page("index.html.j2", _("Runs").text(language), language, content, _("Made by opslib.")))
    return path


def _before(run: Record, older: Sequence[Record]) -> Record | None:
    """The last run before this one that asked the same and came to its end."""
    return next((other for other in older if _asked(other) == _asked(run) and other.state == "finished"), None)


def _asked(run: Record) -> tuple[Any, ...]:
    return run.environment, run.slug, render.parameters_text(dict(run.parameters))


def _row(run: Record, before: Record | None, outputs: Path, language: str) -> dict[str, Any]:
    try:
        zone = ZoneInfo(run.timezone)
    except (ZoneInfoNotFoundError, ValueError):
        zone = ZoneInfo("UTC")
    return {
        "severity": run.severity.name.lower() if run.severity is not None else "info",
        "rank": int(run.severity) if run.severity is not None else -1,
        "state": _state(run).text(language) if run.state != "finished" else "",
        "failure": one_line(text_of(run.failure, language), 300),
        "time": time_text(run.started, zone),
        "started": run.started.isoformat(),
        "chapter": f"{run.section} {_title(run, language)}",
        "environment": run.environment,
        "parameters": one_line(render.parameters_text({name: run.parameters[name] for name in run.chosen if name in run.parameters}), 200),
        "counts": [
            {"severity": severity.name.lower(), "text": f"{severity.label.text(language)} {run.counts[severity.name.lower()]}"}
            for severity in sorted(Severity, reverse=True)
            if severity.name.lower() in run.counts
        ],
        "ok": _("ok").text(language) if run.state == "finished" and not run.counts else "",
        "changes": _changes(run, before, language),
        "took": duration_text((run.finished - run.started).total_seconds()) if run.finished else UNKNOWN,
        "seconds": (run.finished - run.started).total_seconds() if run.finished else "",
        "files": [
            {"name": name, "address": quote(str((run.folder / name).relative_to(outputs)))}
            for name in ("report.html", "notebook.ipynb", "running.ipynb", "findings.json")
            if (run.folder / name).is_file()
        ],
    }


def _title(run: Record, language: str) -> str:
    """The chapter's title; its slug where there is no such chapter any more."""
    return next((chapter.title.text(language) for chapter in CHAPTERS if chapter.slug == run.slug), run.slug)


def _state(run: Record) -> Message:
    return {
        "running": _("running"),
        "failed": _("failed"),
        "interrupted": _("interrupted"),
        "unfinished": _("did not finish"),
        "finished": _("finished"),
    }[run.state]


def _changes(run: Record, before: Record | None, language: str) -> list[dict[str, Any]]:
    if run.state != "finished" or before is None:
        return []
    now, then = run.findings, before.findings
    if now is None or then is None:
        return []
    found = changes(then, now)
    groups: list[tuple[str, Message, list[Finding]]] = [
        ("new", _n("{count} new", "{count} new", len(found.new)), found.new),
        ("resolved", _n("{count} resolved", "{count} resolved", len(found.resolved or ())), found.resolved or []),
        ("still", _n("{count} still there", "{count} still there", len(found.still)), found.still),
    ]
    shown = [
        {
            "kind": kind,
            "text": text.text(language),
            "titles": [one_line(text_of(finding.title, language), 160) for finding in findings[:50]],
        }
        for kind, text, findings in groups
        if findings
    ]
    if found.resolved is None:
        shown.append(
            {"kind": "unsure", "text": _("what is resolved is not known: not everything could be looked at").text(language), "titles": []}
        )
    return shown
