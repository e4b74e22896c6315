"""What varies within a log line, by its form alone: numbers, ids, addresses, paths, times, what stands in quotes, values behind `=`.

Each pattern starts at a place that can only be reached once and never goes back (possessive), so that the time is linear in the length of
the line, whatever is in it. Letters are ASCII's on purpose: Japanese text has no spaces, and a number there must not take the words around
it with it.
"""

from __future__ import annotations

import re

PLACE = "<*>"
LONGEST = 2_000
"""Characters of a line that are looked at."""

_WORD = r"A-Za-z_.:/@%+*#~\-\\$&?!^"
_REST = r"[^\s\"'<>,;()\[\]{}|\x80-\U0010ffff]*+"
_MASK = re.compile(
    rf"""
    (?<![A-Za-z0-9])(?:"[^"\s]{{0,120}}+"|'[^'\s]{{0,120}}+'(?![A-Za-z0-9])|`[^`\s]{{0,120}}+`)    # one word in quotes
    | (?:(?<![{_WORD}0-9])(?![A-Za-z_]{{2,}}+:[^/:\s])|(?<=[A-Za-z_]{{2}}:)(?<!://))(?:       # from the start of a word, or after `name:`
        /[A-Za-z0-9_.%~\-]++/{_REST}                          # a path, with its query
        | [A-Za-z]++://{_REST}                                # a URL
        | [{_WORD}]*+[0-9][{_WORD}0-9]*+                      # a word with a digit: numbers, ids, addresses, times, durations
        | [A-Za-z_.+\-]++@[A-Za-z.\-]++                     # an address of mail, or user@host
        | [a-f]{{8,}}+(?![{_WORD}0-9])                      # hexadecimal digits that happen to be letters
      )
    """,
    re.VERBOSE,
)
may_vary = re.compile("[0-9/\"'`@]|[a-f]{8}").search
"""Whether there may be anything to mask in a text."""
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_UNIT = "(?:[kKMGTP]?i?B|[mµun]?s|secs?|[AP]M|UTC|GMT|[ECMP][DS]T|CES?T|[BIJK]ST)"
_REPEATED = re.compile(rf"<\*>(?:[ ,;:|/._\-]*+<\*>|[ ](?:{_UNIT}|{_DAY})(?![A-Za-z0-9_]))++")
_DATE = re.compile(rf"{_DAY}(?<![A-Za-z0-9_]...),?[ ](?:{_DAY},?[ ])*+(?=<\*>)")
_CONTROL = re.compile("\x1b\\[[0-9;]{0,12}[A-Za-z]|[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def clean(text: str) -> str:
    """The text without colours of a terminal and control characters; line feeds stay."""
    return _CONTROL.sub(" ", text)


def mask(text: str) -> str:
    """The text with a `<*>` in place of all that varies by its form.

    >>> mask("order 4711 failed: payment declined for user 9f3a")
    'order <*> failed: payment declined for user <*>'
    >>> mask("注文12345の処理に失敗しました")
    '注文<*>の処理に失敗しました'
    """
    return together(places(text))


def places(text: str) -> str:
    """The same, each place by itself."""
    return _MASK.sub(PLACE, text)


def together(text: str) -> str:
    """A list of variables as one, and each with its unit and the day and month beside it."""
    return _REPEATED.sub(PLACE, _DATE.sub("", text))
