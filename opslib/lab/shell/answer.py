"""What a command answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opslib.lab.shell.box import Box


@dataclass(frozen=True, slots=True)
class Answer:
    """Output, error output, and exit status of a command."""

    output: bytes = b""
    error: str = ""
    status: int = 0


Command = Callable[[Box, Sequence[str], bytes], Answer]
"""A command: its container, the words after its name, and its input."""


def said(text: str) -> Answer:
    """It went well and said this."""
    return Answer(text.encode("utf-8", "surrogateescape"))


def failed(text: str, status: int = 1) -> Answer:
    """It went wrong."""
    return Answer(error=text if text.endswith("\n") else f"{text}\n", status=status)


def options(words: Sequence[str], with_value: str = "") -> tuple[Mapping[str, str], list[str]]:
    """Options (long ones by their name; "" where they have no value) and the other words.

    `with_value` are the letters of the short options that have a value, in the same word or the next.
    """
    found: dict[str, str] = {}
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return found, others + rest
        if word.startswith("--"):
            name, _equals, value = word[2:].partition("=")
            found[name] = value
        elif len(word) > 1 and word[0] == "-":
            letters = word[1:]
            while letters:
                letter, letters = letters[0], letters[1:]
                found[letter] = ""
                if letter in with_value:
                    found[letter] = letters or (rest.pop(0) if rest else "")
                    break
        else:
            others.append(word)
    return found, others
