"""The report in a real Chromium: nothing of the data runs or is loaded, tables sort and export, Japanese is no boxes."""

from __future__ import annotations

import csv
import io
import re
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hostile import HOSTILE, ZONE, everything_hostile, hostile_finding, hostile_table, notebook_of

from opslib.findings import Column, Severity, Table, Unit
from opslib.reporting import display, html


def _opened(browser: Any, path: Path, page: str) -> tuple[Any, list[str], list[str]]:
    """The page in the browser, what it asked for, and what went wrong in it."""
    path.write_text(page, encoding="utf-8")
    context = browser.new_context(accept_downloads=True)
    tab = context.new_page()
    requests: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("dialog", lambda dialog: errors.append(f"dialog {dialog.message}"))
    tab.goto(path.as_uri())
    return tab, requests, errors


def test_nothing_of_the_data_runs_or_is_loaded(browser: Any, tmp_path: Path) -> None:
    tab, requests, errors = _opened(browser, tmp_path / "report.html", html.report(everything_hostile(), "ja").html)
    for details in tab.query_selector_all("details summary"):
        details.click()
    tab.wait_for_load_state("networkidle")
    assert requests == [(tmp_path / "report.html").as_uri()]
    assert "hacked" not in tab.title()
    # No message of the policy either: nothing was there that it had to stop.
    assert errors == []
    assert tab.locator("img, iframe, svg, form, object, embed, link").count() == 0


def test_the_policy_stops_what_would_come_through(browser: Any, tmp_path: Path) -> None:
    """The second fence alone: markup put into the finished page does nothing."""
    asked: list[str] = []

    class Asked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        markup = "".join(HOSTILE[:6]).replace("127.0.0.1:9", f"127.0.0.1:{server.server_port}")
        page = html.report(notebook_of(), "en").html
        tab, _requests, errors = _opened(browser, tmp_path / "report.html", page.replace("</main>", markup + "</main>"))
        tab.wait_for_load_state("networkidle")
        title = tab.title()
        # Without the policy the same markup does all of it: the test can fail.
        open_page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
        assert asked == []
        other, _requests, _errors = _opened(browser, tmp_path / "open.html", open_page.replace("</main>", markup + "</main>"))
        other.wait_for_load_state("networkidle")
        assert other.title() == "hacked"
        server.shutdown()
    assert title != "hacked"
    assert any("Content Security Policy" in error for error in errors)
    assert "/pixel" in asked


def _table() -> Table:
    return Table(
        name="pods/all",
        title="Pods",
        columns=(
            Column("name", "Name"),
            Column("memory", "Memory", Unit.BYTES),
            Column("start", "Start", Unit.TIME),
            Column("severity", "Severity", Unit.SEVERITY),
        ),
        rows=[
            ("web-10", 900, datetime(2026, 1, 3, tzinfo=UTC), Severity.WARNING),
            ("web-9", 5 * 2**20, datetime(2025, 12, 31, tzinfo=UTC), Severity.CRITICAL),
            ('=HYPERLINK("http://x")', None, None, Severity.OK),
            ('web-1, "quoted"\nline', 2**30, datetime(2026, 1, 1, tzinfo=UTC), Severity.UNKNOWN),
        ],
    )


def _column(tab: Any, number: int) -> list[str]:
    return [text.strip() for text in tab.locator(f"tbody tr td:nth-child({number})").all_inner_texts()]


def test_tables_sort_by_value(browser: Any, tmp_path: Path) -> None:
    page = html.report(notebook_of(*display.bundles([_table()], "en", ZONE)), "en").html
    tab, _requests, errors = _opened(browser, tmp_path / "report.html", page)
    tab.get_by_role("button", name="Memory").click()
    assert _column(tab, 2) == ["900 B", "5 MiB", "1 GiB", "–"]
    tab.get_by_role("button", name="Memory").click()
    assert _column(tab, 2) == ["1 GiB", "5 MiB", "900 B", "–"]
    assert tab.locator("th").nth(1).get_attribute("aria-sort") == "descending"
    # By keyboard too.
    tab.get_by_role("button", name="Start").focus()
    tab.keyboard.press("Enter")
    assert [text[:10] for text in _column(tab, 3)] == ["2025-12-31", "2026-01-01", "2026-01-03", "–"]
    tab.get_by_role("button", name="Severity").click()
    assert _column(tab, 4) == ["ok", "warning", "unknown", "critical"]
    tab.get_by_role("button", name="Name").click()
    assert [text.split(",")[0] for text in _column(tab, 1)][-3:] == ["web-1", "web-9", "web-10"]
    assert errors == []


def test_tables_export_as_csv(browser: Any, tmp_path: Path) -> None:
    page = html.report(notebook_of(*display.bundles([_table()], "en", ZONE)), "en").html
    tab, _requests, _errors = _opened(browser, tmp_path / "report.html", page)
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Save as CSV").click()
    assert waiting.value.suggested_filename == "pods_all.csv"
    content = Path(waiting.value.path()).read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    assert rows[0] == ["Name", "Memory", "Start", "Severity"]
    assert rows[1] == ["web-10", "900", "2026-01-03T00:00:00+00:00", "warning"]
    # Not a formula, and quotes and line ends kept.
    assert rows[3] == ['\'=HYPERLINK("http://x")', "", "", "ok"]
    assert rows[4][0] == 'web-1, "quoted"\nline'


def test_commands_can_be_copied(browser: Any, tmp_path: Path) -> None:
    finding = hostile_finding(1, "web; rm -rf /")
    page = html.report(notebook_of(display.findings_bundle([finding], "en", ZONE)), "en").html
    tab, _requests, _errors = _opened(browser, tmp_path / "report.html", page)
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.get_by_role("button", name="Copy").click()
    tab.get_by_role("button", name="Copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()") == "kubectl logs 'web; rm -rf /'"


def test_japanese_is_drawn_and_the_page_fits(browser: Any, tmp_path: Path) -> None:
    page = html.report(notebook_of(*display.bundles([hostile_table(5)], "ja", ZONE), prose="# 章\n\n## 状態確認\n\nログの確認"), "ja").html
    tab, _requests, errors = _opened(browser, tmp_path / "report.html", page)
    assert tab.evaluate("document.documentElement.lang") == "ja"
    # A character that no font has is drawn as the same box for any of them: two different ones must not look alike.
    drawn = tab.evaluate(
        """() => ["確", "認", "ロ"].map((char) => {
            const canvas = document.createElement("canvas");
            canvas.width = canvas.height = 40;
            const pen = canvas.getContext("2d");
            pen.font = "30px " + getComputedStyle(document.body).fontFamily;
            pen.fillText(char, 2, 32);
            return canvas.toDataURL();
        })"""
    )
    assert len(set(drawn)) == 3
    # No sideways scrolling of the page, on a phone neither: wide tables scroll in themselves.
    for width in (1200, 380):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert errors == []
