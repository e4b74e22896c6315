"""What `Session.show` publishes: for each thing its HTML for JupyterLab, its data for the report, and plain text for terminals."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from datetime import tzinfo
from itertools import groupby
from typing import Any

from opslib.findings import Finding, Link, Table, worst
from opslib.messages import Message, text_of, to_json
from opslib.reporting import data, page, render
from opslib.reporting.data import Header
from opslib.reporting.format import value_text

Bundle = dict[str, Any]  # media type: content


def bundles(things: Iterable[Any], language: str, zone: tzinfo) -> list[Bundle]:
    """One bundle for each thing; neighbouring findings, and neighbouring links, make one together.

    Raises
    ------
    TypeError
        A thing is of no kind that can be shown.
    """
    made = []
    for kind, group in groupby(_flat(things), key=_kind):
        if kind is Finding:
            made.append(findings_bundle([thing for thing in group if isinstance(thing, Finding)], language, zone))
        elif kind is Link:
            made.append(links_bundle(list(group), language))
        else:
            made.extend(_sendable(_bundle(thing, language, zone)) for thing in group)
    return made


def header_bundle(header: Header) -> Bundle:
    """Where one is."""
    from zoneinfo import ZoneInfo

    html = render.header_html(header, header.language, ZoneInfo(header.timezone))
    plain = f"{header.section} {text_of(header.title)}: {header.environment}"
    return _sendable({"text/html": str(html), "text/plain": plain, data.HEADER: data.header_to_json(header)})


def verdict_bundle(findings: Sequence[Finding], language: str) -> Bundle:
    """The verdict, with all findings."""
    content = data.findings_to_json(findings, language) | {"severity": worst(findings).name.lower()}
    plain = render.verdict_text(findings).text(language)
    return _sendable({"text/html": str(render.verdict_html(findings, language)), "text/plain": plain, data.VERDICT: content})


def findings_bundle(findings: Sequence[Finding], language: str, zone: tzinfo) -> Bundle:
    """Findings as cards."""
    plain = "\n".join(f"[{finding.severity.label.text(language)}] {text_of(finding.title, language)}" for finding in findings)
    return _sendable(
        {
            "text/html": str(render.findings_html(findings, language, zone)),
            "text/plain": plain or text_of(render.verdict_text(findings), language),
            data.FINDINGS: data.findings_to_json(findings, language),
        }
    )


def links_bundle(links: Sequence[Link], language: str) -> Bundle:
    """Links to pages elsewhere."""
    plain = "\n".join(f"{text_of(link.text, language)}: {link.url}" for link in links)
    return _sendable({"text/html": str(render.links_html(links, language)), "text/plain": plain, data.LINKS: data.links_to_json(links)})


def style() -> str:
    """The style element that the fragments need in JupyterLab: every rule is below the class `opslib`, nothing else changes there."""
    return f"<style>{page.own('fragments.css')}</style>"


def script(language: str) -> str:
    """The script element with which tables sort and export there, and commands are copied: those that stand, and those that come."""
    return f"<script{page.script_words(language)} data-watch>{page.own('fragments.js')}</script>"


def _sendable(content: Bundle) -> Bundle:
    return {name: _whole(value) for name, value in content.items()}


def _whole(content: Any) -> Any:
    r"""The same with half characters (lone surrogates, which JSON can carry) written out: they cannot be sent or stored."""
    if isinstance(content, str):
        return content.encode(errors="backslashreplace").decode()
    if isinstance(content, dict):
        return {name: _whole(value) for name, value in content.items()}
    return [_whole(item) for item in content] if isinstance(content, list | tuple) else content


def _flat(things: Iterable[Any]) -> Iterable[Any]:
    for thing in things:
        if isinstance(thing, list | tuple):
            # An empty list of findings is an answer: it says that nothing was found.
            yield from _flat(thing) if thing else [()]
        else:
            yield thing


def _kind(thing: Any) -> type:
    return Finding if isinstance(thing, tuple) else type(thing)


def _bundle(thing: Any, language: str, zone: tzinfo) -> Bundle:
    if isinstance(thing, Table):
        return {
            "text/html": str(render.table_html(thing, language, zone)),
            "text/plain": _plain_table(thing, language, zone),
            data.TABLE: data.table_to_json(thing),
        }
    if isinstance(thing, Message | str):
        return {
            "text/html": str(render.text_html(thing, language)),
            "text/plain": text_of(thing, language),
            data.TEXT: {"text": to_json(thing)},
        }
    module = type(thing).__module__.partition(".")[0]
    if module == "matplotlib" and hasattr(thing, "savefig"):
        return _figure_bundle(thing)
    if module == "pandas" and hasattr(thing, "itertuples"):
        return _bundle(data.frame_table(thing), language, zone)
    if module == "pandas" and hasattr(thing, "to_frame"):
        return _bundle(data.frame_table(thing.to_frame()), language, zone)
    raise TypeError(f"cannot show a {type(thing).__name__}: give findings, tables, links, texts, figures or frames")


def _figure_bundle(figure: Any) -> Bundle:
    from io import BytesIO

    picture = BytesIO()
    engine = figure.get_layout_engine()
    if engine is not None:  # laid out once; left to itself, it draws everything a second time for that
        engine.execute(figure)
        figure.set_layout_engine("none")
    try:
        # No software, no date: the same facts give the same bytes.
        figure.savefig(picture, format="png", metadata={"Software": None})
    finally:
        figure.set_layout_engine(engine)
    titles = [axes.get_title(loc) for axes in figure.axes for loc in ("left", "center", "right")]
    title = " / ".join(text for text in [figure.get_suptitle(), *titles] if text)
    return {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/plain": title.replace(r"\$", "$")}


def _plain_table(table: Table, language: str, zone: tzinfo, rows: int = 20) -> str:
    lines = ["\t".join(text_of(column.label, language) for column in table.columns)]
    lines += [
        "\t".join(value_text(cell, column.unit, language, zone) for cell, column in zip(row, table.columns, strict=True))
        for row in table.rows[:rows]
    ]
    if len(table.rows) > rows:
        lines.append(f"… ({len(table.rows)})")
    return "\n".join(lines if table.rows else [text_of(table.empty, language)])
