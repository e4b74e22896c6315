"""The grammar of the shell: lists (``;  &&  ||``) of pipelines of commands, quotes, variables, redirections. No loops, no substitutions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

_OPERATORS = ("&&", "||", "2>&1", "2>>", "2>", ">>", ">&2", "1>&2", ">", "<", ";", "|", "&", "\n")
_RESERVED = {"for", "while", "until", "if", "case", "do", "done", "then", "fi", "function", "{", "}", "!"}
_VARIABLE = re.compile(r"\$(?:(\w+|[?$#])|\{(\w+)(?::-([^}]*))?\})")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


After = Literal[";", "&&", "||"]


class Wrong(ValueError):
    """The text is not in the grammar."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word: pieces of text, of which those that are open have their variables filled in."""

    pieces: tuple[tuple[str, bool], ...]
    quoted: bool

    def filled(self, variables: Mapping[str, str]) -> str:
        """The word with its variables."""

        def value(found: re.Match[str]) -> str:
            return variables.get(found[1] or found[2]) or found[3] or ""

        return "".join(_VARIABLE.sub(value, text) if is_open else text for text, is_open in self.pieces)


@dataclass(slots=True)
class Command:
    """A command with its words; where its outputs go ("" as they are, "&1" and "&2" to the other one, or a file's name)."""

    words: list[Word] = field(default_factory=list)
    output: str = ""
    error: str = ""
    appends: bool = False
    input: str = ""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each of which reads what the one before writes; run after what came before it, or only if that went well (or not)."""

    after: After
    commands: tuple[Command, ...]


def parse(text: str) -> list[Pipeline]:
    """The pipelines of a script.

    Raises
    ------
    Wrong
        It is not in the grammar; the message is what a shell says.
    """
    found: list[Pipeline] = []
    after: After = ";"
    commands = [Command()]
    pending = ""
    for part in [*_tokens(text), ";"]:
        if isinstance(part, Word):
            name = part.filled({})
            if pending:
                _redirect(commands[-1], pending, name)
                pending = ""
                continue
            if not commands[-1].words and not part.quoted and name in _RESERVED:
                raise Wrong(f'syntax error: unexpected "{name}"')
            commands[-1].words.append(part)
        elif pending:
            raise Wrong(f'syntax error: unexpected "{part}"' if part != "\n" else "syntax error: unexpected newline")
        elif part in ("2>&1", ">&2", "1>&2"):
            _redirect(commands[-1], part, "")
        elif part in ("2>>", "2>", ">>", ">", "<"):
            pending = part
        elif part == "|":
            if not commands[-1].words:
                raise Wrong('syntax error: unexpected "|"')
            commands.append(Command())
        elif commands[-1].words:
            found.append(Pipeline(after, tuple(commands)))
            commands = [Command()]
            after = cast("After", part) if part in ("&&", "||") else ";"
        elif len(commands) > 1 or part in ("&&", "||"):
            raise Wrong("syntax error: unexpected end of file" if part == ";" else f'syntax error: unexpected "{part}"')
    if after != ";":
        raise Wrong("syntax error: unexpected end of file")
    return found


def assignment(word: Word) -> tuple[str, str] | None:
    """Name and value where a word is an assignment, its variables not filled in."""
    head, is_open = word.pieces[0] if word.pieces else ("", False)
    match = _ASSIGNMENT.fullmatch(head) if is_open else None
    return (match[1], match[2]) if match is not None else None


def _redirect(command: Command, operator: str, target: str) -> None:
    if operator == "2>&1":
        command.error = "&1"
    elif operator in (">&2", "1>&2"):
        command.output = "&2"
    elif operator == "<":
        command.input = target
    elif operator.startswith("2"):
        command.error = target
    else:
        command.output, command.appends = target, operator == ">>"


def _tokens(text: str) -> list[Word | str]:
    found: list[Word | str] = []
    pieces: list[tuple[str, bool]] = []
    quoted = False
    place = 0

    def end() -> None:
        nonlocal quoted
        if pieces or quoted:
            found.append(Word(tuple(pieces), quoted))
        pieces.clear()
        quoted = False

    while place < len(text):
        letter = text[place]
        operator = next((one for one in _OPERATORS if text.startswith(one, place)), "")
        if operator[:1].isdigit() and (pieces or quoted):
            operator = ""
        if letter == "#" and not pieces and not quoted:
            place = text.find("\n", place) if "\n" in text[place:] else len(text)
            continue
        if operator:
            end()
            found.append(operator)
            place += len(operator)
        elif letter in " \t\r":
            end()
            place += 1
        elif letter in "'\"":
            close = _closing(text, place)
            inside = text[place + 1 : close]
            if letter == '"':
                inside = re.sub(r'\\([\\"`])', r"\1", inside)
            pieces.append((inside, letter == '"'))
            quoted = True
            place = close + 1
        elif letter == "\\" and place + 1 < len(text):
            pieces.append((text[place + 1], False))
            place += 2
        elif letter == "`" or text.startswith("$(", place):
            raise Wrong("syntax error: command substitution is not supported here")
        else:
            stop = re.compile(r"[\s'\"\\`;|&<>]|\$\(").search(text, place)
            close = max(stop.start() if stop else len(text), place + 1)
            pieces.append((text[place:close], True))
            place = close
    end()
    return found


def _closing(text: str, place: int) -> int:
    quote, here = text[place], place + 1
    while here < len(text):
        if quote == '"' and text[here] == "\\":
            here += 2
            continue
        if text[here] == quote:
            return here
        here += 1
    raise Wrong("syntax error: unterminated quoted string")
