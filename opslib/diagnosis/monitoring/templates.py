"""Log lines as templates: what stays the same between two lines of one kind.

A word with a digit in it (a number, an address, an id), and what stands in quotes, varies; the rest is the template. Only the first line of
a message counts, so that stack traces of different depth are one template. The words that stay are what Elasticsearch is asked for, as
phrases, so that a template can be counted over days without fetching a line.
"""

from __future__ import annotations

import re

PLACE = "<*>"
LONGEST = 240

_QUOTED = re.compile(r"""(?<![\w])(["'`])(?:(?!\1).){0,80}\1(?![\w])""")
# ASCII only: Japanese text has no spaces, so a number there must not take the words around it with it.
_VARIABLE = re.compile(r"[A-Za-z0-9_.:/@%+*#~-]*[0-9][A-Za-z0-9_.:/@%+*#~-]*")
_HEX = re.compile(r"\b[a-f]{8,}\b", re.IGNORECASE)
_REPEATED = re.compile(rf"{re.escape(PLACE)}(?:[\s,;:|/._-]*{re.escape(PLACE)})+")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_WORD = re.compile(r"\w", re.UNICODE)


def template(message: str) -> str:
    """The template of a log line; empty where nothing in it stays the same.

    >>> template("order 4711 failed: payment declined for user 9f3a")
    'order <*> failed: payment declined for user <*>'
    >>> template("注文12345の処理に失敗しました")
    '注文<*>の処理に失敗しました'
    """
    lines = message.strip().splitlines()
    if not lines:
        return ""
    line = _CONTROL.sub(" ", lines[0])
    if len(line) > LONGEST * 4:
        line = line[: LONGEST * 4].rpartition(" ")[0] or line[: LONGEST * 4]  # no half word at the end: it would not be found
    line = _QUOTED.sub(PLACE, line)
    line = _VARIABLE.sub(PLACE, line)
    line = _HEX.sub(PLACE, line)
    line = " ".join(_REPEATED.sub(PLACE, line).split())
    if len(line) > LONGEST:
        line = line[:LONGEST].rpartition(" ")[0] or line[:LONGEST]
    return line if phrases(line) else ""


def phrases(text: str) -> tuple[str, ...]:
    """The parts of a template that stay the same and hold a word, at most eight, the longest ones, in their order."""
    parts = [part.strip() for part in text.split(PLACE)]
    words = [part for part in parts if _WORD.search(part)]
    longest = sorted(words, key=len, reverse=True)[:8]
    return tuple(part for part in words if part in longest)[:8]
