"""Hostile text, and notebooks made of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import nbformat

from opslib.findings import Column, Evidence, Finding, Link, Severity, Step, Subject, Table, Unit, command
from opslib.messages import _
from opslib.reporting import display
from opslib.reporting.data import Header

ZONE = ZoneInfo("Asia/Tokyo")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# Each sets the page's title where it runs, or asks for an address that nobody answers.
HOSTILE = (
    "<script>document.title='hacked'</script>",
    '"><img src=x onerror="document.title=\'hacked\'">',
    "'><svg onload=document.title='hacked'>",
    "<a href=\"javascript:document.title='hacked'\">click</a>",
    "</script><script>document.title='hacked'</script>",
    "</pre></div></style><iframe src='http://127.0.0.1:9/frame'></iframe><img src='http://127.0.0.1:9/pixel'>",
    "<link rel=stylesheet href='http://127.0.0.1:9/style'><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "\x1b[31mred\x1b[0m \x1b]8;;http://127.0.0.1:9/\x07link",
    "\u202egnp.exe \u2066hidden\u2069 \u200bzero",
    "null\x00byte and \ud800 half a character",
    "{{ 7*7 }} {% raw %} ${7*7} `code` **bold** [x](javascript:alert(1))",
)


def hostile_finding(number: int, text: str, severity: Severity = Severity.WARNING) -> Finding:
    """A finding with `text` wherever a cluster's text can stand."""
    return Finding(
        check="test.hostile",
        severity=severity,
        subject=Subject("Pod", f"{text}{number}", text),
        title=_("{name} is broken", name=text),
        cause=text,
        evidence=(Evidence(text=text, quote=text, source=text, reference=text, time=NOW),),
        steps=(Step(_("Look"), command("kubectl", "logs", text)),),
        links=(Link(text, "https://grafana.example.com/?q=%22%3E"),),
        affected=(Subject(text, text, text),),
        since=NOW,
    )


def hostile_table(rows: int = 3) -> Table:
    """A table with hostile text in its title, headings, meanings, name and cells."""
    text = " ".join(HOSTILE)
    return Table(
        name=text,
        title=text,
        columns=(Column("a", text, Unit.TEXT, text), Column("b", text, Unit.BYTES, text)),
        rows=[(text, number) for number in range(rows)],
        empty=text,
        note=text,
    )


def notebook_of(*bundles: dict[str, Any], prose: str = "# Title\n\n## 状態確認\n\nText.", outputs: tuple[Any, ...] = ()) -> Any:
    """An executed notebook that shows `bundles`, with a header before and `outputs` after them."""
    header = Header(
        section="4.1",
        slug="pods",
        title=_("Pod failures"),
        environment="lab",
        production=True,
        server="https://127.0.0.1:6443",
        identity=HOSTILE[0],
        time=NOW,
        language="ja",
        timezone="Asia/Tokyo",
        parameters={"namespace": HOSTILE[1]},
    )
    shown = [nbformat.v4.new_output("display_data", bundle) for bundle in (display.header_bundle(header), *bundles)]
    cell = nbformat.v4.new_code_cell("secret_code_of_the_cell()", outputs=[*shown, *outputs])
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), cell])


def everything_hostile() -> Any:
    """A notebook with hostile text in everything that a notebook can hold."""
    findings = [hostile_finding(number, text) for number, text in enumerate(HOSTILE)]
    text = " ".join(HOSTILE)
    outputs = (
        nbformat.v4.new_output("stream", name="stdout", text=text),
        nbformat.v4.new_output("stream", name="stderr", text="noise of a library"),
        nbformat.v4.new_output("display_data", {"text/html": text, "text/plain": text}),
        nbformat.v4.new_output("display_data", {"application/javascript": "document.title='hacked'"}),
        nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg onload=\"document.title='hacked'\"/>"}),
        nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/html": text}),
        nbformat.v4.new_output("display_data", {"image/png": "\"><script>document.title='hacked'</script>"}),
        nbformat.v4.new_output("display_data", {"text/markdown": text, "text/latex": text}),
        nbformat.v4.new_output("error", ename=text, evalue=text, traceback=[text]),
    )
    bundles = [
        display.findings_bundle(findings, "ja", ZONE),
        *display.bundles([hostile_table(), hostile_table(0), text], "ja", ZONE),
        display.verdict_bundle(findings, "ja"),
    ]
    return notebook_of(*bundles, outputs=outputs, prose=f"# Title\n\n{text}\n\n## Part {text}")
