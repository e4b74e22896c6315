"""Texts that a person reads: written once in English, shown in the reader's language.

A text is a `Message`: its English wording and the values that go into it, kept apart until it is shown. That way a finding made on one
machine can be read in either language on another, and a value that came from a cluster is never taken for wording.

>>> from opslib.messages import _, use_language
>>> text = _("{count} pods are not ready", count=3)
>>> with use_language("en"):
...     str(text)
'3 pods are not ready'
"""

from __future__ import annotations

import functools
import gettext
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LANGUAGES = ("ja", "en")
LOCALES = Path(__file__).parent / "locales"

_language: ContextVar[str | None] = ContextVar("opslib_language", default=None)

# Control characters, and the invisible ones that reorder or break text: a log line must not be able to move the cursor or to hide what it
# says. Variation selectors stay, since names in Japanese use them.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(value: object) -> str:
    """Text from outside, safe to show: control and direction-changing characters are written out as escapes; newline and tab stay."""
    return _UNPRINTABLE.sub(lambda match: _escape(ord(match[0])), str(value))


def _escape(point: int) -> str:
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def one_line(value: object, width: int = 200) -> str:
    """The same on one line, shortened in the middle where it is longer than `width` characters."""
    line = " ".join(printable(value).split())
    if len(line) <= width:
        return line
    half = (width - 3) // 2
    return f"{line[:half]} … {line[-half:]}"


@dataclass(frozen=True, slots=True)
class Message:
    """A text for a person: English wording with ``{name}`` places, and the values for them."""

    id: str
    values: tuple[tuple[str, object], ...] = ()
    plural: str = ""
    count: int = 0

    def text(self, language: str | None = None) -> str:
        """The text in `language` ("ja" or "en"; None: the current one)."""
        if not self.id:
            return ""  # gettext keeps a catalogue's header under the empty text
        language = language or current_language()
        catalogue = _catalogue(language)
        wording = catalogue.ngettext(self.id, self.plural, self.count) if self.plural else catalogue.gettext(self.id)
        if not self.values:
            return wording
        return wording.format_map({name: _shown(value, language) for name, value in self.values})

    def __str__(self) -> str:
        return self.text()


Text = Message | str  # a plain str is data from outside (a log line, a name): shown printable, never translated


def _(id: str, /, **values: object) -> Message:
    """A translatable text. `id` must be a literal, so that the catalogues can be checked against the code."""
    return Message(id, tuple(values.items()))


def _n(one: str, many: str, count: int, /, **values: object) -> Message:
    """A translatable text that depends on a number, which ``{count}`` shows."""
    return Message(one, (("count", count), *values.items()), many, count)


def text_of(value: Message | str | object, language: str | None = None) -> str:
    """A message in the reader's language, or data from outside made printable."""
    return value.text(language) if isinstance(value, Message) else printable(value)


def _shown(value: object, language: str) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(text_of(item, language) for item in value)
    return text_of(value, language)


def current_language() -> str:
    """The language of the reader: what `use_language` set, else OPSLIB_LANG, else the system's, else English."""
    chosen = _language.get()
    if chosen:
        return chosen
    for name in ("OPSLIB_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name, "")
        if value[:2] in LANGUAGES:
            return value[:2]
    return "en"


@contextmanager
def use_language(language: str) -> Iterator[None]:
    """Within the block, texts are shown in `language`."""
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


@functools.cache
def _catalogue(language: str) -> gettext.NullTranslations:
    return gettext.translation("opslib", LOCALES, [language], fallback=True)


def to_json(message: Message | str) -> Any:
    """What `from_json` reads: a plain str for data from outside, a mapping for a message."""
    if isinstance(message, str):
        return message
    content: dict[str, Any] = {"id": message.id}
    if message.values:
        content["values"] = {name: _value_to_json(value) for name, value in message.values}
    if message.plural:
        content |= {"plural": message.plural, "count": message.count}
    return content


def _value_to_json(value: object) -> Any:
    if isinstance(value, Message):
        return to_json(value)
    if isinstance(value, list | tuple):
        return [_value_to_json(item) for item in value]
    return value if isinstance(value, int | float | str | bool) or value is None else str(value)


def from_json(content: Any) -> Message | str:
    """The message that `to_json` wrote."""
    if isinstance(content, str):
        return content
    values = tuple((name, _value_from_json(value)) for name, value in content.get("values", {}).items())
    return Message(content["id"], values, content.get("plural", ""), content.get("count", 0))


def _value_from_json(value: Any) -> object:
    if isinstance(value, Mapping):
        return from_json(value)
    return tuple(_value_from_json(item) for item in value) if isinstance(value, list) else value
