"""Texts: two languages, values that are data, JSON and back."""

from __future__ import annotations

import json
import threading
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.messages import Message, _, _n, current_language, from_json, one_line, printable, text_of, to_json, use_language

names = st.from_regex(r"\A[a-z_]{1,8}\Z")
scalars = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
values = st.recursive(
    scalars | st.builds(lambda word: _("unknown"), st.none()),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.builds(lambda value: _("{what}", what=value), inner),
    max_leaves=6,
)
messages = st.dictionaries(names, values, max_size=4).map(
    lambda given_: Message("".join(f"<{{{name}}}>" for name in given_) or "plain", tuple(given_.items()))
)


@given(messages)
def test_a_message_survives_json_in_both_languages(message: Message) -> None:
    again = from_json(json.loads(json.dumps(to_json(message))))
    assert again == message
    for language in ("ja", "en"):
        assert text_of(again, language) == text_of(message, language)


@given(st.integers(min_value=0, max_value=10**9))
def test_a_plural_survives_json(count: int) -> None:
    message = _n("{count} pod", "{count} pods", count)
    assert from_json(json.loads(json.dumps(to_json(message)))) == message
    assert message.text("en") == f"{count} pod" + ("" if count == 1 else "s")


@given(st.text())
def test_what_is_printable_cannot_move_the_cursor_or_turn_text_round(text: str) -> None:
    shown = printable(text)
    assert not [character for character in shown if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in "\n\t"]
    assert not [
        character
        for character in shown
        if unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]
    assert printable(shown) == shown
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\x00b", r"a\x00b"),
        ("evil\u202etxt.exe", r"evil\u202etxt.exe"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\U000e0041tag", r"\U000e0041tag"),
        ("progress\r100%", r"progress\x0d100%"),
        ("日本語 🚀 ok\n", "日本語 🚀 ok\n"),
    ],
)
def test_hostile_characters_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(_("{value}", value=text)) == shown


def test_a_value_is_never_taken_for_wording() -> None:
    assert _("{value} failed", value="{value.__class__} {0} %s").text("en") == "{value.__class__} {0} %s failed"


@given(st.text(), st.integers(min_value=10, max_value=80))
def test_one_line_is_one_short_line(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= width
    assert len(line.splitlines()) <= 1


def test_a_message_inside_a_message_is_shown_in_the_same_language() -> None:
    message = _("{what}. {remedy}", what=_("unknown"), remedy="x")
    assert message.text("en") == "unknown. x"
    assert "unknown" not in message.text("ja")


def test_the_language_ends_with_its_block_and_stays_in_its_thread() -> None:
    before = current_language()
    seen: list[str] = []
    with use_language("ja"):
        assert str(_("warning")) == "警告"
        with use_language("en"):
            assert str(_("warning")) == "warning"
            thread = threading.Thread(target=lambda: seen.append(current_language()))
            thread.start()
            thread.join()
        assert current_language() == "ja"
    assert seen == [before]


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"OPSLIB_LANG": "ja", "LANG": "en_US.UTF-8"}, "ja"),
        ({"LC_ALL": "ja_JP.UTF-8", "LANG": "en_US.UTF-8"}, "ja"),
        ({"LANG": "fr_FR.UTF-8"}, "en"),
        ({}, "en"),
    ],
)
def test_the_reader_s_language_comes_from_the_process(environment: dict[str, str], language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPSLIB_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert current_language() == language
