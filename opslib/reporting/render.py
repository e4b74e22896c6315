"""Findings, tables and headers as HTML fragments. JupyterLab and the report show the same.

Text from a cluster is hostile: everything goes through `_text`, which makes it printable and escapes it. The fragments carry no script, no
style attribute and no address but http and https; `opslib.reporting.html` cleans them again, as it does all HTML.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from markupsafe import Markup, escape

from opslib.findings import Evidence, Finding, Link, Severity, Step, Subject, Table, Unit
from opslib.messages import Message, _, _n, one_line, text_of
from opslib.reporting.data import Header
from opslib.reporting.format import is_unknown, time_text, value_text

NUMBERS = frozenset({Unit.COUNT, Unit.SECONDS, Unit.BYTES, Unit.CORES, Unit.PER_SECOND, Unit.RATIO})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is shown; what is left out is counted, and the notebook has all of it."""

    rows: int = 1000
    findings: int = 500
    characters: int = 4000
    affected: int = 200


ALL = Limits()


def findings_html(
    findings: Sequence[Finding],
    language: str,
    zone: tzinfo,
    *,
    limits: Limits = ALL,
    anchors: set[str] | None = None,
) -> Markup:
    """Findings as cards, in the order given; what follows from another one stands folded in that one's card.

    Parameters
    ----------
    anchors
        Fingerprints that the page already has an anchor for; those rendered are added. None: no anchors.
    """
    if not findings:
        return _paragraph(_("Nothing to report."), language, "opslib none")
    shown = findings[: limits.findings]
    below = _beneath(shown)
    inside = {id(item) for items in below.values() for item in items}
    cards = Markup("").join(
        _card(finding, language, zone, limits, anchors, below.get(finding.fingerprint, ()))
        for finding in shown
        if id(finding) not in inside
    )
    hidden = len(findings) - limits.findings
    more = (
        _paragraph(_n("{count} more finding is in findings.json", "{count} more findings are in findings.json", hidden), language, "note")
        if hidden > 0
        else ""
    )
    return Markup('<div class="opslib findings">{}{}</div>').format(cards, more)


def table_html(table: Table, language: str, zone: tzinfo, *, limits: Limits = ALL) -> Markup:
    """A table with its title, the meaning of its columns, and values that sort and export by what they are rather than how they look."""
    head = Markup('<div class="caption">{}</div>').format(_text(table.title, language)) if table.title else Markup("")
    note = _paragraph(table.note, language, "note") if table.note else ""
    if not table.rows:
        return Markup('<div class="opslib table">{}<p class="none">{}</p>{}</div>').format(head, _text(table.empty, language), note)
    headings = Markup("").join(
        Markup('<th scope="col" class="{}" title="{}">{}</th>').format(
            _kind(column.unit), _text(column.meaning, language), _text(column.label, language)
        )
        for column in table.columns
    )
    shown = list(table.rows[: limits.rows])
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(_cell(cell, column.unit, language, zone, limits) for cell, column in zip(row, table.columns, strict=True))
        )
        for row in shown
    )
    cut = Markup("")
    if len(shown) < len(table.rows):
        text = _("{shown} of {total} rows are shown; the notebook has all of them", shown=len(shown), total=len(table.rows))
        cut = _paragraph(text, language, "note cut")
    return Markup(
        '<div class="opslib table">{}{}<div class="scroll"><table class="sortable" data-name="{}"><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>{}{}</div>"
    ).format(head, cut, _text(table.name, language), headings, body, note, _meanings(table, language))


def header_html(header: Header, language: str, zone: tzinfo) -> Markup:
    """Where one is. Production is said first, in words and not by colour alone."""
    warning = Markup("")
    if header.production:
        warning = _paragraph(_("Production: what you change here, customers feel."), language, "production")
    unknown = _("not known").text(language)
    cluster = text_of(header.server) or unknown
    rows: list[tuple[Message, str]] = [
        (
            _("Environment"),
            f"{text_of(header.environment_title)} ({header.environment})" if header.environment_title else header.environment,
        ),
        (_("Cluster"), cluster),
        (_("As"), text_of(header.identity) or unknown),
        (_("Time"), time_text(header.time, zone)),
    ]
    if header.parameters:
        rows.append((_("Parameters"), parameters_text(header.parameters)))
    facts = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(_text(name, language), escape(value)) for name, value in rows)
    title = Markup('<p class="chapter">{} {}</p>').format(escape(header.section), _text(header.title, language))
    return Markup('<div class="opslib header">{}{}<dl>{}</dl></div>').format(warning, title, facts)


def verdict_html(findings: Sequence[Finding], language: str) -> Markup:
    """The verdict: how many of each severity."""
    badges = Markup(" ").join(
        Markup('<span class="badge {}">{} {}</span>').format(severity.name.lower(), _text(severity.label, language), count)
        for severity, count in counts(findings)
    )
    text = _("Nothing to report.") if not findings else _("Verdict")
    return Markup('<div class="opslib verdict"><span class="words">{}</span> {}</div>').format(_text(text, language), badges)


def links_html(links: Sequence[Link], language: str) -> Markup:
    """Links, each to a page elsewhere."""
    items = Markup("").join(Markup("<li>{}</li>").format(_link(link, language)) for link in links)
    return Markup('<ul class="opslib links">{}</ul>').format(items)


def text_html(text: Any, language: str) -> Markup:
    """A text: a message as a paragraph, data from outside as it is written."""
    if isinstance(text, Message):
        return _paragraph(text, language, "opslib text")
    return Markup('<pre class="opslib text">{}</pre>').format(_text(text, language))


def counts(findings: Iterable[Finding]) -> list[tuple[Severity, int]]:
    """How many findings of each severity, worst first; only those that there are."""
    found = Counter(finding.severity for finding in findings)
    return sorted(found.items(), reverse=True)


def verdict_text(findings: Sequence[Finding]) -> Message:
    """The verdict on one line: ``critical 2, warning 1``."""
    if not findings:
        return _("Nothing to report.")
    return _("{counts}", counts=[_("{severity} {count}", severity=severity.label, count=count) for severity, count in counts(findings)])


def parameters_text(parameters: dict[str, Any]) -> str:
    """Parameters on one line, as they are written on the command line."""
    words = []
    for name, value in parameters.items():
        shown = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        words.append(f"{name}={text_of(shown)}")
    return " ".join(words)


def _beneath(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    """By fingerprint of a cause what stands beneath it: what it explains first of all, where it is not itself beneath another one."""
    tops = {finding.fingerprint for finding in findings if not finding.explained_by}
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        cause = next((item for item in finding.explained_by if item in tops), None)
        if cause is not None:
            found.setdefault(cause, []).append(finding)
    return found


def _card(
    finding: Finding, language: str, zone: tzinfo, limits: Limits, anchors: set[str] | None, beneath: Sequence[Finding] = ()
) -> Markup:
    severity = finding.severity.name.lower()
    anchor = Markup("")
    if anchors is not None and finding.fingerprint not in anchors:
        anchors.add(finding.fingerprint)
        anchor = Markup(' id="f-{}"').format(finding.fingerprint)
    about = [Markup("<code>{}</code>").format(_name(finding.subject))]
    if finding.since:
        about.append(_text(_("since {time}", time=time_text(finding.since, zone)), language))
    parts = [
        Markup('<p class="title"><span class="badge {}">{}</span> <span class="words">{}</span></p>').format(
            severity, _text(finding.severity.label, language), _cut(finding.title, language, limits)
        ),
        Markup('<p class="about">{}</p>').format(Markup(" · ").join(about)),
    ]
    if finding.cause is not None:
        parts.append(
            Markup('<p class="cause"><span class="key">{}</span> {}</p>').format(
                _text(_("Cause"), language), _cut(finding.cause, language, limits)
            )
        )
    if finding.evidence:
        items = Markup("").join(_evidence(item, language, zone, limits) for item in finding.evidence)
        parts.append(Markup('<p class="key">{}</p><ul class="evidence">{}</ul>').format(_text(_("Evidence"), language), items))
    if finding.steps:
        items = Markup("").join(_step(step, language, limits) for step in finding.steps)
        parts.append(Markup('<p class="key">{}</p><ol class="steps">{}</ol>').format(_text(_("Next steps"), language), items))
    if finding.links:
        parts.append(links_html(finding.links, language))
    if finding.affected:
        parts.append(_affected(finding.affected, language, limits))
    if finding.refuted_by or finding.ruled_out:
        parts.append(_weighed(finding, language, limits))
    if beneath:
        cards = Markup("").join(_card(item, language, zone, limits, anchors) for item in beneath)
        words = _n("This explains {count} other finding", "This explains {count} other findings", len(beneath))
        parts.append(Markup('<details class="explained"><summary>{}</summary>{}</details>').format(_text(words, language), cards))
    return Markup('<div class="finding {}"{}>{}</div>').format(severity, anchor, Markup("").join(parts))


def _weighed(finding: Finding, language: str, limits: Limits) -> Markup:
    """How sure it is, what would refute it, and which other causes were ruled out: folded."""
    parts = []
    if finding.refuted_by:
        items = Markup("").join(_step(step, language, limits) for step in finding.refuted_by)
        parts.append(Markup('<p class="key">{}</p><ul class="steps">{}</ul>').format(_text(_("What would refute it"), language), items))
    if finding.ruled_out:
        items = Markup("").join(
            Markup("<li>{}: {}</li>").format(_cut(cause, language, limits), _cut(why, language, limits)) for cause, why in finding.ruled_out
        )
        parts.append(Markup('<p class="key">{}</p><ul class="ruled">{}</ul>').format(_text(_("Ruled out"), language), items))
    words = _("How sure this is") if finding.confidence is None else _("How sure this is: {share}", share=f"{finding.confidence:.0%}")
    return Markup('<details class="weighed"><summary>{}</summary>{}</details>').format(_text(words, language), Markup("").join(parts))


def _evidence(item: Evidence, language: str, zone: tzinfo, limits: Limits) -> Markup:
    time = Markup(' <span class="time">{}</span>').format(time_text(item.time, zone)) if item.time else ""
    reference = Markup(' <code class="reference">{}</code>').format(_cut(item.reference, language, limits)) if item.reference else ""
    quote = Markup('<pre class="quote">{}</pre>').format(_cut(item.quote, language, limits)) if item.quote else ""
    return Markup('<li>{}{} <span class="source">{}{}</span>{}</li>').format(
        _cut(item.text, language, limits), time, escape(one_line(item.source)), reference, quote
    )


def _step(step: Step, language: str, limits: Limits) -> Markup:
    changes = Markup(' <span class="changes">{}</span>').format(_text(_("changes something"), language)) if step.changes else ""
    command = Markup("")
    if len(step.command) > max(2000, limits.characters):
        # A command is never cut: half of one is dangerous.
        command = _paragraph(_("The command is too long for this page; findings.json has it"), language, "note")
    elif step.command:
        command = Markup('<pre class="command">{}</pre>').format(_text(step.command, language))
    return Markup("<li>{}{}{}</li>").format(_cut(step.text, language, limits), changes, command)


def _affected(subjects: Sequence[Subject], language: str, limits: Limits) -> Markup:
    items = Markup("").join(Markup("<li><code>{}</code></li>").format(_name(subject)) for subject in subjects[: limits.affected])
    hidden = len(subjects) - limits.affected
    more = Markup("<li>{}</li>").format(_text(_("and {count} more", count=hidden), language)) if hidden > 0 else ""
    return Markup('<details class="affected"><summary>{}</summary><ul>{}{}</ul></details>').format(
        _text(_n("{count} object affected", "{count} objects affected", len(subjects)), language), items, more
    )


def _cell(value: Any, unit: Unit, language: str, zone: tzinfo, limits: Limits) -> Markup:
    if isinstance(value, Link):
        return Markup("<td>{}</td>").format(_link(value, language))
    shown = escape(shortened(value_text(value, unit, language, zone), limits))
    if is_unknown(value):
        return Markup('<td class="unknown">{}</td>').format(shown)
    if isinstance(value, Severity):
        return Markup('<td data-s="{}"><span class="badge {}">{}</span></td>').format(int(value), value.name.lower(), shown)
    if isinstance(value, datetime):
        return Markup('<td class="time" data-v="{}">{}</td>').format(value.isoformat(), shown)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Markup('<td class="number" data-v="{}">{}</td>').format(repr(value), shown)
    return Markup("<td>{}</td>").format(shown)


def _meanings(table: Table, language: str) -> Markup:
    explained = [column for column in table.columns if column.meaning]
    if not explained:
        return Markup("")
    items = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(_text(column.label, language), _text(column.meaning, language)) for column in explained
    )
    return Markup('<details class="meanings"><summary>{}</summary><dl>{}</dl></details>').format(
        _text(_("What the columns mean"), language), items
    )


def _kind(unit: Unit) -> str:
    return "number" if unit in NUMBERS else "time" if unit is Unit.TIME else "severity" if unit is Unit.SEVERITY else "words"


def _link(link: Link, language: str) -> Markup:
    # `Link` refuses other schemes than http and https.
    return Markup('<a href="{}" target="_blank" rel="noopener noreferrer">{}</a>').format(
        link.url, escape(one_line(text_of(link.text, language)))
    )


def _name(subject: Subject) -> Markup:
    # Names in Kubernetes have 253 characters at most; other systems promise nothing.
    return escape(one_line(subject, 600))


def _paragraph(text: Any, language: str, classes: str) -> Markup:
    return Markup('<p class="{}">{}</p>').format(classes, _text(text, language))


def _text(value: Any, language: str) -> Markup:
    return escape(text_of(value, language))


def _cut(value: Any, language: str, limits: Limits) -> Markup:
    return escape(shortened(text_of(value, language), limits))


def shortened(text: str, limits: Limits) -> str:
    """`text` with its middle left out where it is longer than the limit."""
    if len(text) <= limits.characters:
        return text
    half = limits.characters // 2
    return f"{text[:half]}\n… ({len(text) - 2 * half:,}) …\n{text[-half:]}"
