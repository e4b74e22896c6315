"""The report as a document: what stands in it, what never does, how large it gets. `test_browser` looks at the same in Chromium."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser

import nbformat
import pytest
from hostile import HOSTILE, NOW, ZONE, everything_hostile, hostile_finding, hostile_table, notebook_of

from opslib.findings import Column, Finding, Severity, Subject, Table, Unit
from opslib.messages import _, text_of
from opslib.reporting import data, display, html
from opslib.reporting.page import ATTRIBUTES, TAGS, clean

PAGE_TAGS = TAGS | {"html", "head", "body", "meta", "title", "style", "script", "main", "nav", "footer", "img"}


class Document(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _harmless(page: str) -> Document:
    document = Document(page)
    for tag, attributes in document.tags:
        assert tag in PAGE_TAGS, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag
            if name in ("href", "src"):
                assert str(value).startswith(("https://", "http://", "#f-", "data:image/png;base64,", "data:image/jpeg;base64,")), value
    assert len(document.named("script")) == 1
    assert len(document.named("style")) == 1
    for link in document.named("a"):
        if not str(link.get("href", "#")).startswith("#"):
            assert link["rel"] == "noopener noreferrer"
    policy = next(tag["content"] for tag in document.named("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not set("\x00\x1b\u202e\u2066\u200b") & set(page)
    return document


def test_no_text_from_a_cluster_becomes_markup() -> None:
    failure = html.Failure(_("Cell {number} failed: {why}", number=3, why=HOSTILE[0]), "\n".join(HOSTILE))
    page = html.report(everything_hostile(), "ja", failure)
    document = _harmless(page.html)
    # What was meant to be markup is there to be read.
    shown = "".join(document.text)
    assert "<script>document.title='hacked'</script>" in shown
    assert "noise of a library" not in shown
    assert "secret_code_of_the_cell" not in page.html


def test_fragments_for_jupyterlab_are_harmless_before_they_are_cleaned() -> None:
    """JupyterLab shows them in a trusted notebook as they are: the first fence must hold alone."""
    findings = [hostile_finding(number, text) for number, text in enumerate(HOSTILE)]
    for bundle in [*display.bundles([findings, hostile_table(), *HOSTILE], "en", ZONE), display.verdict_bundle(findings, "en")]:
        for tag, attributes in Document(bundle["text/html"]).tags:
            assert tag in TAGS
            allowed = ATTRIBUTES["*"] | ATTRIBUTES.get(tag, set()) | {"rel"}
            assert set(attributes) <= allowed, (tag, attributes)
            assert str(attributes.get("href", "https://")).startswith("https://")


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_cleaned_html_keeps_nothing_active(number: int) -> None:
    for tag, attributes in Document(str(clean(HOSTILE[number]))).tags:
        assert tag in TAGS
        assert not any(name.startswith("on") or name in ("style", "src", "id") for name in attributes)
        assert str(attributes.get("href", "https://")).startswith("https://")


def test_our_own_fragments_come_through_the_cleaner_unchanged() -> None:
    """The allow-list knows every element that we make: a class or a sort key that it drops would break the page silently."""
    finding = hostile_finding(1, "web")
    table = Table(
        name="t", title="T", columns=(Column("n", "N", Unit.COUNT, "M"), Column("s", "S", Unit.SEVERITY)), rows=[(1, Severity.OK)]
    )
    for bundle in display.bundles([finding, table, _("text")], "en", ZONE):
        before, after = Document(bundle["text/html"]), Document(str(clean(bundle["text/html"])))
        assert after.tags == before.tags
        assert after.text == before.text


def test_findings_of_the_page_can_be_read_again() -> None:
    findings = [hostile_finding(number, text) for number, text in enumerate(HOSTILE)]
    notebook = notebook_of(display.verdict_bundle(findings, "ja"))
    stored = nbformat.reads(nbformat.writes(notebook), as_version=4)
    titles = {text_of(finding.title, "en") for finding in html.collected_findings(stored)}
    assert titles == {text_of(finding.title, "en") for finding in findings}
    assert html.collected_header(stored) == html.collected_header(notebook)
    assert html.has_verdict(stored)


def test_two_gaps_of_one_system_both_count() -> None:
    gaps = [
        Finding(check="gap.prometheus", severity=Severity.UNKNOWN, subject=Subject("System", "prometheus"), title=title)
        for title in (_("Could not look at {what}", what="alerts"), _("Could not look at {what}", what="rules"))
    ]
    notebook = notebook_of(display.findings_bundle(gaps[:1], "en", ZONE), display.verdict_bundle(gaps, "en"))
    assert len(html.collected_findings(notebook)) == 2


def test_a_table_survives_the_notebook_with_its_values() -> None:
    table = Table(
        name="all",
        title=_("{count} of all", count=2),
        columns=(Column("v", _("Value"), Unit.TEXT, _("Any")),),
        rows=[(None,), ("x",), (1,), (1.5,), (float("inf"),), (True,), (NOW,), (Severity.WARNING,), (_("text"),), (["a", 1],)],
    )
    again = data.table_from_json(json.loads(json.dumps(data.table_to_json(table), allow_nan=False)))
    assert [tuple(row) for row in again.rows] == table.rows
    assert dataclasses.replace(again, rows=()) == dataclasses.replace(table, rows=())


def test_nothing_found_differs_from_nothing_looked_at() -> None:
    found_nothing = html.report(notebook_of(display.findings_bundle([], "en", ZONE), display.verdict_bundle([], "en")), "en").html
    assert "Nothing to report." in found_nothing
    not_looked = html.report(notebook_of(), "en", html.Failure(_("Cell {number} failed", number=2), "why")).html
    assert "Nothing to report." not in not_looked
    assert "Cell 2 failed" in not_looked
    assert "what is missing was not looked at" in not_looked


def test_a_frame_and_an_empty_list_can_be_shown() -> None:
    import pandas

    frame = pandas.DataFrame({"name": ["<b>"], "value": [1.5], "time": pandas.to_datetime(["2026-01-02T03:04:05Z"], utc=True)})
    frame_bundle, empty = display.bundles([frame, []], "en", ZONE)
    assert "2026-01-02 12:04:05 JST" in frame_bundle["text/html"]
    assert "&lt;b&gt;" in frame_bundle["text/html"]
    assert "Nothing to report." in empty["text/html"]
    with pytest.raises(TypeError, match="cannot show a dict"):
        display.bundles([{}], "en", ZONE)


def test_the_same_finding_twice_has_one_anchor() -> None:
    finding = hostile_finding(1, "web", Severity.CRITICAL)
    page = html.report(notebook_of(*[display.findings_bundle([finding], "en", ZONE)] * 2), "en").html
    document = Document(page)
    assert sum(tag.get("id") == f"f-{finding.fingerprint}" for tag in document.named("div")) == 1
    assert any(tag["href"] == f"#f-{finding.fingerprint}" for tag in document.named("a"))


def test_a_large_run_stays_below_the_limit_and_says_so() -> None:
    line = "OOMKilled <b> " * 75_000  # a line of 1 MB
    findings = [hostile_finding(number, line[:20_000], Severity.CRITICAL) for number in range(60)] + [hostile_finding(99, line)]
    noise = bytes(range(256)) * 4
    picture = _noisy_picture(noise)
    outputs = tuple(nbformat.v4.new_output("display_data", {"image/png": picture, "text/plain": "Plot"}) for _number in range(12))
    notebook = notebook_of(
        display.findings_bundle(findings, "ja", ZONE),
        *display.bundles([hostile_table(3000)], "ja", ZONE),
        display.verdict_bundle(findings, "ja"),
        outputs=(*outputs, nbformat.v4.new_output("stream", name="stdout", text=line)),
    )
    page = html.report(notebook, "en")
    assert page.shortened
    assert len(page.html.encode()) <= html.LIMIT_BYTES
    document = _harmless(page.html)
    shown = "".join(document.text)
    assert "of 3000 rows are shown" in shown
    assert "Shortened to stay small" in shown
    assert "61" in shown  # the verdict counts all of them


def test_what_no_shortening_makes_small_still_has_a_page() -> None:
    prose = "# Title\n\n" + "word " * 500_000
    page = html.report(notebook_of(display.verdict_bundle([hostile_finding(1, "web")], "en"), prose=prose), "en")
    assert len(page.html.encode()) <= html.LIMIT_BYTES
    assert "Shortened to stay small" in page.html
    assert "warning 1" in page.html


def test_what_is_small_is_not_shortened() -> None:
    page = html.report(notebook_of(*display.bundles([hostile_table(200)], "ja", ZONE)), "ja")
    assert not page.shortened
    assert page.html.count("<tr>") == 201


def test_the_page_is_in_the_readers_language() -> None:
    notebook = notebook_of(display.verdict_bundle([hostile_finding(1, "web", Severity.CRITICAL)], "ja"))
    assert '<html lang="ja">' in html.report(notebook, "ja").html
    assert "critical 1" in html.report(notebook, "en").html


def test_headings_for_progress() -> None:
    notebook = notebook_of(prose="# Title\n\n## 状態確認 ##\ntext\n")
    assert html.heading_of(notebook, 1) == "状態確認"
    assert html.heading_of(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x")]), 0) == ""


def _noisy_picture(seed: bytes) -> str:
    """A PNG that does not compress: 400 by 300 pixels of noise, a third of a megabyte."""
    import base64
    import hashlib
    from io import BytesIO

    from PIL import Image

    noise = b"".join(hashlib.sha256(seed + number.to_bytes(4)).digest() for number in range(400 * 300 * 3 // 32))
    buffer = BytesIO()
    Image.frombytes("RGB", (400, 300), noise).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
