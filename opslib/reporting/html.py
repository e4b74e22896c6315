"""An executed notebook as one HTML page for people: no code, findings and tables and plots, under 2 MB.

The page is made from the data that the session put beside its HTML (`opslib.reporting.data`), from the notebook's prose, and from images.
HTML of other origin is cleaned; scripts, widgets, SVG and the noise that libraries write to stderr are left out.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup, escape

from opslib.findings import Finding, by_severity
from opslib.messages import Text, _, from_json, one_line, printable, text_of
from opslib.reporting import data, render
from opslib.reporting.data import Header
from opslib.reporting.page import clean, page
from opslib.reporting.render import Limits

LIMIT_BYTES = 2_000_000
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_HEADING_ANCHOR = re.compile(r'<a class="anchor-link"[^>]*>[^<]*</a>')
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
_PICTURES = ("image/png", "image/jpeg")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run did not come to its end: which cell, and what it said."""

    what: Text
    why: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A report. `shortened` says that rows, findings or pixels were left out to stay below the limit."""

    html: str
    shortened: bool


@dataclass(frozen=True, slots=True)
class _Size:
    limits: Limits
    picture_scale: float = 1.0
    pictures: int = 60


# Tried in this order until the page is small enough: rows go first, then pixels.
_SIZES = (
    _Size(Limits()),
    _Size(Limits(rows=300, findings=200, characters=2000, affected=50)),
    _Size(Limits(rows=100, findings=100, characters=800, affected=20), 0.75, 40),
    _Size(Limits(rows=30, findings=50, characters=300, affected=10), 0.5, 20),
    _Size(Limits(rows=10, findings=20, characters=150, affected=5), 0.35, 8),
    _Size(Limits(rows=5, findings=10, characters=100, affected=2), 0.35, 0),
)


def report(notebook: Any, language: str, failure: Failure | None = None, limit_bytes: int = LIMIT_BYTES) -> Page:
    """The page of an executed notebook.

    Parameters
    ----------
    notebook
        An nbformat 4 notebook.
    language
        The reader's: texts of findings and tables follow it, prose is what the notebook has.
    failure
        Why the run did not come to its end; None where it did.
    limit_bytes
        The most that the page may have.
    """
    for number, size in enumerate(_SIZES):
        html = _page(notebook, language, failure, size, shortened=number > 0)
        if len(html.encode()) <= limit_bytes:
            return Page(html, number > 0)
    # Nothing of the kind that a notebook of ours shows gets here; the verdict and the way to the rest always fit.
    return Page(_page(notebook, language, failure, None, shortened=True), True)


def collected_header(notebook: Any) -> Header | None:
    """The header that the notebook's first cell left; None where it did not come so far."""
    content = next(_contents(notebook, data.HEADER), None)
    return data.header_from_json(content) if content else None


def collected_findings(notebook: Any) -> list[Finding]:
    """All findings of an executed notebook, worst first: those of its verdict, and those shown before a failure."""
    found: dict[tuple[str, str], Finding] = {}
    for media_type in (data.VERDICT, data.FINDINGS):
        for content in _contents(notebook, media_type):
            for finding in data.findings_from_json(content):
                # Two gaps of one system have one fingerprint and different titles: both count.
                found.setdefault((finding.fingerprint, text_of(finding.title, "en")), finding)
    return by_severity(found.values())


def has_verdict(notebook: Any) -> bool:
    """Whether the notebook came to its last cell."""
    return next(_contents(notebook, data.VERDICT), None) is not None


def heading_of(notebook: Any, index: int) -> str:
    """The heading that cell stands under, for progress and failures; empty where there is none."""
    for cell in reversed(notebook.cells[: index + 1]):
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", cell.source, re.MULTILINE)
            if headings:
                return one_line(headings[-1], 80)
    return ""


def plain(text: Any) -> str:
    """Terminal text without its colours and cursor movements, the rest made printable."""
    joined = "".join(text) if isinstance(text, list) else str(text)
    return printable(_ANSI.sub("", joined))


def _contents(notebook: Any, media_type: str) -> Iterator[Any]:
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if media_type in output.get("data", {}):
                yield output["data"][media_type]


def _page(notebook: Any, language: str, failure: Failure | None, size: _Size | None, *, shortened: bool) -> str:
    header = collected_header(notebook)
    zone = ZoneInfo(header.timezone) if header else ZoneInfo("UTC")
    findings = collected_findings(notebook)
    anchors: set[str] = set()
    parts = list(_parts(notebook, language, zone, size, anchors)) if size else []
    title = f"{header.section} {text_of(header.title, language)} · {header.environment}" if header else _("Report").text(language)
    verdict = Markup("")
    if findings or (failure is None and has_verdict(notebook)):
        verdict = render.verdict_html(findings, language)
    # Only what a card on the page can be jumped to: the rest is in the cards' count.
    listed = list({finding.fingerprint: finding for finding in findings if finding.fingerprint in anchors}.values())[:20]
    return page(
        "report.html.j2",
        title,
        language,
        {
            "heading": title,
            "header": clean(render.header_html(header, language, zone)) if header else "",
            "verdict": clean(verdict),
            "failure": _shown_failure(failure, language),
            "shortened": _("Shortened to stay small: the notebook and findings.json beside this page have everything.")
            if shortened
            else "",
            "summary": [
                {
                    "severity": finding.severity.name.lower(),
                    "label": finding.severity.label.text(language),
                    "fingerprint": finding.fingerprint,
                    "title": one_line(text_of(finding.title, language), 160),
                }
                for finding in listed
            ],
            "summary_label": _("Findings"),
            "parts": parts,
        },
        _("Made by opslib. Times are in {zone}.", zone=str(zone)),
    )


def _shown_failure(failure: Failure | None, language: str) -> dict[str, str] | None:
    if failure is None:
        return None
    so = _("What stands below was read before that; what is missing was not looked at.")
    return {"what": text_of(failure.what, language), "why": plain(failure.why), "so": so.text(language)}


def _parts(notebook: Any, language: str, zone: tzinfo, size: _Size, anchors: set[str]) -> Iterator[dict[str, Any]]:
    pictures = 0
    first_heading = True
    for number, cell in enumerate(notebook.cells):
        if "papermill-error-cell-tag" in cell.metadata.get("tags", ()):
            continue  # papermill's own word on a failure; the page has a better one at its top
        if cell.cell_type == "markdown":
            html = _markdown(cell.source)
            if first_heading and "<h1" in html:
                # The page has its own.
                html, first_heading = re.sub(r"<h1[^>]*>.*?</h1>", "", html, count=1, flags=re.DOTALL), False
            if html.strip():
                yield {"html": clean(html)}
        elif cell.cell_type == "code":
            for output in cell.get("outputs", ()):
                picture = _picture(output, size.picture_scale)
                if picture:
                    pictures += 1
                    if pictures <= size.pictures:
                        yield picture
                    continue
                html = _output(output, number, language, zone, size.limits, anchors)
                if html:
                    yield {"html": clean(html)}


def _markdown(source: str) -> str:
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    return _HEADING_ANCHOR.sub("", str(markdown2html_mistune(source)))


def _output(output: Any, number: int, language: str, zone: tzinfo, limits: Limits, anchors: set[str]) -> str:
    kind = output.output_type
    if kind == "stream":
        # stderr is what libraries say to developers.
        return _preformatted(output.text, limits) if output.name == "stdout" else ""
    if kind == "error":
        return _error(output, number, limits)
    content = output.get("data", {})
    if data.HEADER in content or data.VERDICT in content:
        return ""  # both stand at the top of the page
    if data.FINDINGS in content:
        return render.findings_html(data.findings_from_json(content[data.FINDINGS]), language, zone, limits=limits, anchors=anchors)
    if data.TABLE in content:
        return render.table_html(data.table_from_json(content[data.TABLE]), language, zone, limits=limits)
    if data.LINKS in content:
        return render.links_html(data.links_from_json(content[data.LINKS]), language)
    if data.TEXT in content:
        return render.text_html(from_json(content[data.TEXT]["text"]), language)
    if any(name.startswith(("application/vnd.jupyter.widget", "application/javascript")) for name in content):
        return ""
    if "text/html" in content:
        html = "".join(content["text/html"])
        if len(html) <= 200_000:
            return html
    return _preformatted(content["text/plain"], limits) if content.get("text/plain") else ""


def _error(output: Any, number: int, limits: Limits) -> str:
    trace = plain("\n".join(output.get("traceback", ())))
    return Markup(
        '<div class="opslib failed" id="cell-{}"><p><strong>{}: {}</strong></p>'
        "<details><summary>traceback</summary><pre>{}</pre></details></div>"
    ).format(number, plain(output.ename), one_line(plain(output.evalue), 1000), _cut(trace, limits))


def _preformatted(text: Any, limits: Limits) -> str:
    shown = plain(text)
    return Markup('<div class="opslib"><pre>{}</pre></div>').format(_cut(shown, limits)) if shown.strip() else ""


def _cut(text: str, limits: Limits) -> Markup:
    return escape(render.shortened(text, replace(limits, characters=limits.characters * 4)))


def _picture(output: Any, scale: float) -> dict[str, Any] | None:
    content = output.get("data", {})
    media_type = next((name for name in _PICTURES if name in content), None)
    if media_type is None:
        return None
    encoded = "".join(content[media_type])
    if not _BASE64.fullmatch(encoded):
        return None
    if scale < 1:
        encoded = _smaller(encoded, scale)
        media_type = "image/png"
    alternative = one_line(plain(content.get("text/plain", "")), 200)
    return {"picture": "".join(encoded.split()), "media_type": media_type, "alternative": alternative}


def _smaller(encoded: str, scale: float) -> str:
    from io import BytesIO

    from PIL import Image

    image = Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    smaller = BytesIO()
    # Plots have few colours; a palette makes them several times smaller.
    image.quantize(64).save(smaller, format="png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()
