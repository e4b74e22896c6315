"""Log lines as templates: what stays the same between two lines of one kind.

What varies by its form (`opslib.mining.masks`), and what stands in quotes, is left out; the rest is the template. Only the first line of a
message counts, so that stack traces of different depth are one template. The words that stay are what Elasticsearch is asked for, as
phrases, so that a template can be counted over days without fetching a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from opslib.mining.masks import PLACE, mask, together
from opslib.mining.miner import Miner

__all__ = ["PLACE", "families", "phrases", "template"]

LONGEST = 240

_QUOTED = re.compile(r"""(?<![\w])(["'`])(?:(?!\1).){0,80}\1(?![\w])""")
# Colours of a terminal stay, as digits: to Elasticsearch they are one word with what they colour, which could not be found without them.
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
    line = " ".join(together(mask(_QUOTED.sub(PLACE, line))).split())
    if len(line) > LONGEST:
        line = line[:LONGEST].rpartition(" ")[0] or line[:LONGEST]
    return line if phrases(line) else ""


def phrases(text: str) -> tuple[str, ...]:
    """The parts of a template that stay the same and hold a word, at most eight, the longest ones, in their order."""
    parts = [part.strip() for part in text.split(PLACE)]
    words = [part for part in parts if _WORD.search(part)]
    longest = sorted(words, key=len, reverse=True)[:8]
    return tuple(part for part in words if part in longest)[:8]


def families(texts: Iterable[str]) -> dict[str, str]:
    """For each template that of its family: templates that differ only in words that vary, such as names of users, are one.

    >>> sorted(set(families(f"no right for {who}" for who in ("ann", "bob", "cid", "dan", "eve", "fay")).values()))
    ['no right for <*>']
    """
    known = list(dict.fromkeys(texts))
    miner = Miner()
    numbers = miner.add(known)
    family = {number: template.text for template in miner.templates() if len(template.numbers) > 1 for number in template.numbers}
    # A family of which little stays the same would count lines of other kinds too.
    return {
        text: family[number] if number in family and len(" ".join(phrases(family[number])).split()) > 2 else text
        for text, number in zip(known, numbers, strict=True)
    }
