"""Runs what a kubelet is asked to run in a container."""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import Sequence
from typing import Protocol

from opslib.lab.shell import files, grammar, network, system, text
from opslib.lab.shell.answer import Answer, Command, failed
from opslib.lab.shell.box import Box

_SHELLS = ("sh", "bash", "ash", "dash")
_BUILTINS = ("cd", "exit", "export", "pwd", "sleep", "test", "[", "type", "command", "which", "set", "unset", ":", "exec", "xargs", "time")
_FOLDERS = ("/bin", "/usr/bin", "/usr/local/bin", "/sbin", "/usr/sbin")
_LANGUAGES = {"jcmd": "jvm", "redis-cli": "redis", "pg_isready": "postgres"}


class Terminal(Protocol):
    """Who asked for a command: its input and outputs."""

    async def read(self) -> bytes | None:
        """The next bytes of its input; None at the end."""

    async def write(self, data: bytes, *, error: bool = False) -> None:
        """Bytes of its output."""


class CannotStart(Exception):
    """The container has no such program; the message is the runtime's."""

    def __init__(self, box: Box, word: str) -> None:
        path = "/" in word
        why = f'stat {word}: no such file or directory' if path else "executable file not found in $PATH"  # fmt: skip
        super().__init__(
            f'failed to exec in container: failed to start exec "{box.container_id}": OCI runtime exec failed: exec failed: '
            f'unable to start container process: exec: "{word}": {why}'
        )


async def run(box: Box, words: Sequence[str], terminal: Terminal, *, stdin: bool, tty: bool) -> int:
    """Run a command; its exit status.

    Raises
    ------
    CannotStart
        The container has no such program.
    """
    name = _program(box, words[0])
    if name is None:
        raise CannotStart(box, words[0])
    session = _Session(box, terminal, stdin=stdin, tty=tty)
    if name in _SHELLS:
        return await session.shell(words[1:])
    pipeline = grammar.Pipeline(";", (grammar.Command([grammar.Word(((word, False),), quoted=True) for word in [name, *words[1:]]]),))
    return await session.pipeline(pipeline)


def _program(box: Box, word: str) -> str | None:
    """The command of a word; None where the container has none."""
    folder, name = posixpath.split(word)
    if folder and folder not in _FOLDERS:
        return None
    if box.is_bare:
        return None
    builtin = name in ("sleep", "test", "[", "xargs", "which")
    if name in _SHELLS or builtin or _command(box, name) is not None:
        return name
    return None


def _command(box: Box, name: str) -> Command | None:
    wanted = _LANGUAGES.get(name)
    if wanted is not None and (box.service is None or box.service.language != wanted):
        return None
    return system.COMMANDS.get(name) or text.COMMANDS.get(name) or files.COMMANDS.get(name) or network.COMMANDS.get(name)


class _Exit(Exception):
    """The shell ends."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class _Session:
    """A shell, or a single command, for one terminal."""

    def __init__(self, box: Box, terminal: Terminal, *, stdin: bool, tty: bool) -> None:
        self.box = box
        self._terminal = terminal
        self._stdin = stdin
        self._tty = tty
        self._status = 0
        self._shell = "sh"

    # --- the shell ---

    async def shell(self, words: Sequence[str]) -> int:
        """``sh``, ``sh -c SCRIPT``, or a script from its input."""
        try:
            letters = words[0] if words and words[0].startswith("-") else ""
            if "c" in letters:
                if len(words) < 2:
                    await self._say(Answer(error="sh: -c requires an argument\n"))
                    return 2
                return await self.script(words[1])
            if self._tty and self._stdin:
                return await self._talk()
            rest = b""
            while self._stdin and (data := await self._terminal.read()) is not None:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    await self.script(line.decode("utf-8", "replace"))
            return await self.script(rest.decode("utf-8", "replace")) if rest.strip() else self._status
        except _Exit as end:
            return end.status

    async def _talk(self) -> int:
        """A shell at a terminal: it echoes what is typed."""
        prompt = ("# " if self.box.user[0] == 0 else "$ ").encode()
        line = ""
        await self._terminal.write(prompt)
        while (data := await self._terminal.read()) is not None:
            typed = re.sub(r"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Z])", "", data.decode("utf-8", "replace"))
            for letter in typed:
                if letter in "\r\n":
                    await self._terminal.write(b"\r\n")
                    await self.script(line)
                    line = ""
                    if self.box.killed:
                        return 137
                    await self._terminal.write(prompt)
                elif letter in "\x7f\b":
                    if line:
                        line = line[:-1]
                        await self._terminal.write(b"\b \b")
                elif letter == "\x03":
                    line = ""
                    await self._terminal.write(b"^C\r\n" + prompt)
                elif letter == "\x04":
                    if not line:
                        await self._terminal.write(b"\r\n")
                        return self._status
                elif letter == "\x0c":
                    await self._terminal.write(b"\x1b[H\x1b[2J" + prompt + line.encode())
                elif letter.isprintable():
                    line += letter
                    await self._terminal.write(letter.encode())
        return self._status

    async def script(self, script: str) -> int:
        """Run a script; its exit status."""
        try:
            pipelines = grammar.parse(script)
        except grammar.Wrong as error:
            await self._say(Answer(error=f"{self._shell}: {error}\n"))
            self._status = 2
            return 2
        for one in pipelines:
            if (one.after == "&&" and self._status) or (one.after == "||" and not self._status):
                continue
            await self.pipeline(one)
            if self.box.killed:
                break
        return self._status

    async def pipeline(self, pipeline: grammar.Pipeline) -> int:
        """Run commands, each on the output of the one before; the exit status of the last."""
        data: bytes | None = None
        for number, command in enumerate(pipeline.commands):
            answer = self._directed(command, await self._one(command, data))
            if number < len(pipeline.commands) - 1:
                data = answer.output
                answer = Answer(b"", answer.error, answer.status)
            await self._say(answer)
            self._status = answer.status
        return self._status

    async def _one(self, command: grammar.Command, data: bytes | None) -> Answer:
        variables = {**self.box.environment, "?": str(self._status), "$": "1", "#": "0"}
        words = list(command.words)
        given: dict[str, str] = {}
        while words and (found := grammar.assignment(words[0])) is not None:
            given[found[0]] = words.pop(0).filled(variables).partition("=")[2]
        if not words:
            self.box.environment |= given
            return Answer()
        name, *rest = [filled for word in words if (filled := word.filled(variables)) or word.quoted] or [""]
        if command.input:
            path = text.resolve(self.box, command.input)
            if path not in self.box.files and path != "/dev/null":
                return failed(f"{self._shell}: can't open {command.input}: no such file")
            data = self.box.files.get(path, "").encode("utf-8", "surrogateescape")
        kept = self.box.environment
        self.box.environment = {**kept, **given} if given else kept
        try:
            return await self._run(name, rest, data)
        finally:
            if given:
                self.box.environment = kept

    async def _run(self, name: str, words: list[str], data: bytes | None) -> Answer:
        folder, base = posixpath.split(name)
        known = base if folder in _FOLDERS else name
        if known in _BUILTINS:
            return await self._builtin(known, words, data)
        if known in _SHELLS:
            inner = _Session(self.box, self._terminal, stdin=self._stdin and data is None, tty=self._tty)
            return Answer(status=await inner.shell(words))
        command = None if folder and folder not in _FOLDERS else _command(self.box, known)
        if command is None:
            missing = bool(folder) and text.resolve(self.box, name) not in self.box.files
            return failed(
                f"{self._shell}: {name}: {'No such file or directory' if missing else 'not found' if not folder else 'Permission denied'}",
                127 if missing or not folder else 126,
            )
        if data is None:
            data = await self._input(known, words)
        return await asyncio.to_thread(command, self.box, words, data)

    async def _input(self, name: str, words: list[str]) -> bytes:
        """All of the input, where a command reads it."""
        reads = name in text.COMMANDS and name not in ("echo", "ls", "find", "rm") and (name != "tar" or "x" in "".join(words[:1]))
        files = [word for word in words if not word.startswith("-")]
        if name in ("grep", "egrep", "cut", "tr", "head", "tail", "sort"):
            files = files[1:] if name in ("grep", "egrep") else [word for word in files if "/" in word]
        if not self._stdin or not reads or (files and name not in ("tar", "tr")):
            return b""
        found = b""
        while (data := await self._terminal.read()) is not None:
            if self._tty and b"\x04" in data:
                break
            found += data
        return found

    async def _builtin(self, name: str, words: list[str], data: bytes | None) -> Answer:
        box = self.box
        if name == "exit":
            raise _Exit(int(words[0]) % 256 if words and words[0].isdigit() else self._status)
        if name == "sleep":
            try:
                await asyncio.sleep(sum(float(word.removesuffix("s")) for word in words))
            except ValueError:
                return failed(f"sleep: invalid number '{words[0]}'")
        elif name == "cd":
            path = text.resolve(box, words[0] if words else box.environment.get("HOME", "/"))
            if path not in text.folders(box):
                return failed(f"{self._shell}: cd: can't cd to {words[0] if words else path}: No such file or directory", 2)
            box.environment["PWD"] = path
        elif name == "pwd":
            return Answer(f"{box.environment.get('PWD', '/')}\n".encode())
        elif name == "export":
            box.environment |= {word.partition("=")[0]: word.partition("=")[2] for word in words if "=" in word}
        elif name == "unset":
            for word in words:
                box.environment.pop(word, None)
        elif name in ("test", "["):
            return Answer(status=0 if _holds(box, [word for word in words if word != "]"]) else 1)
        elif name in ("type", "command", "which"):
            wanted = [word for word in words if not word.startswith("-")]
            found = [word for word in wanted if _program(box, word) or word in _BUILTINS]
            return Answer("".join(f"/usr/bin/{word}\n" for word in found).encode(), "", 0 if len(found) == len(wanted) else 1)
        elif name in ("exec", "time"):
            return await self._run(words[0], words[1:], data) if words else Answer()
        elif name == "xargs":
            more = (data or await self._input("cat", [])).decode("utf-8", "replace").split()
            return await self._run(words[0] if words else "echo", [*words[1:], *more], b"")
        return Answer()

    # --- outputs ---

    def _directed(self, command: grammar.Command, answer: Answer) -> Answer:
        """What is left of an answer when its outputs went where they were told to."""
        output, error = answer.output, answer.error
        if command.error == "&1" and command.output != "&2":
            output, error = output + error.encode(), ""
        elif command.error and command.error != "&1":
            self._write(command.error, error.encode(), appends=False)
            error = ""
        if command.output == "&2":
            output, error = b"", error + output.decode("utf-8", "replace")
        elif command.output:
            self._write(command.output, output, appends=command.appends)
            output = b""
        return Answer(output, error, answer.status)

    def _write(self, name: str, data: bytes, *, appends: bool) -> None:
        path = text.resolve(self.box, name)
        if path.startswith("/dev/"):
            return
        before = self.box.files.get(path, "") if appends else ""
        self.box.files[path] = before + data.decode("utf-8", "surrogateescape")

    async def _say(self, answer: Answer) -> None:
        for data, error in ((answer.output, False), (answer.error.encode("utf-8", "surrogateescape"), True)):
            if not data:
                continue
            if self._tty:
                data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            await self._terminal.write(data, error=error and not self._tty)


def _holds(box: Box, words: list[str]) -> bool:
    """Whether a test holds."""
    if words[:1] == ["!"]:
        return not _holds(box, words[1:])
    if len(words) == 2 and words[0] in ("-f", "-e", "-d", "-s", "-r", "-z", "-n"):
        path = text.resolve(box, words[1])
        is_file, is_folder = path in box.files, path in text.folders(box)
        return {
            "-f": is_file, "-e": is_file or is_folder, "-r": is_file or is_folder, "-d": is_folder,
            "-s": bool(box.files.get(path)), "-z": not words[1], "-n": bool(words[1]),
        }[words[0]]  # fmt: skip
    if len(words) == 3:
        first, sign, second = words
        if sign in ("=", "==", "!="):
            return (first == second) == (sign != "!=")
        if first.lstrip("-").isdigit() and second.lstrip("-").isdigit():
            a, b = int(first), int(second)
            return {"-eq": a == b, "-ne": a != b, "-lt": a < b, "-le": a <= b, "-gt": a > b, "-ge": a >= b}.get(sign, False)
        return False
    return len(words) == 1 and bool(words[0])
