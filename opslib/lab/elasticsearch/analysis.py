"""The standard analyzer: words by Unicode's rules (UAX 29), in lower case. Chinese characters and hiragana are a word each."""

from __future__ import annotations

import re

_HAN = "\u2e80-\u2eff\u3005\u3007\u3021-\u3029\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_HIRAGANA = "\u3041-\u3096\u309d-\u309f"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
# Letters join over an apostrophe, a dot or a colon; digits over a dot, comma or semicolon; underscores join everything.
_LETTER = f"[^\\W\\d_{_HAN}{_HIRAGANA}{_KATAKANA}]"
_KATA = f"[{_KATAKANA}\u3099-\u309c]"
_MARK = "[\u0300-\u036f\u200d\ufe0e\ufe0f]*"
_UNIT = f"(?:{_LETTER}{_MARK}|\\d)"
_BETWEEN_LETTERS = "['.:\u00b7\u2019\u2018\u2024\u2027\uff0e\uff1a]"
_BETWEEN_DIGITS = "['.,;\u2019\u2018\u2024\uff0c\uff0e\uff1b]"
_JOINT = f"(?<=[^\\W\\d_]){_BETWEEN_LETTERS}(?={_LETTER})|(?<=\\d){_BETWEEN_DIGITS}(?=\\d)|_+"
_WORD = f"(?:_*(?:{_UNIT}+(?:{_JOINT})?)+)"
_TOKEN = re.compile(f"{_WORD}|[{_HAN}{_HIRAGANA}]{_MARK}|{_KATA}+(?:_+{_KATA}+)*")
_LONGEST = 255


def tokens(text: str) -> list[str]:
    """The words of a text."""
    found = [match.lower() for match in _TOKEN.findall(text)]
    if all(len(word) <= _LONGEST for word in found):
        return found
    return [word[begin : begin + _LONGEST] for word in found for begin in range(0, len(word), _LONGEST)]
