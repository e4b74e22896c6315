"""Stack traces of Java, Python, Go, Node, .NET and Ruby: many lines become one event, and of an event only what it is about is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MOST_LINES = 500
"""Lines of one event; what comes beyond is left out."""
MOST_CHARACTERS = 4_000
"""Characters of a line; what comes beyond is left out."""
MOST_OF_JSON = 64_000
"""... of one that may be JSON, which holds a whole stack trace."""

# Lines that go on with the event before them. Python ends a trace with a line of its own ("ValueError: ..."), which _ENDS tells.
_GOES_ON = re.compile(
    r"\s+\S|Caused by: |Wrapped by: |Suppressed: |\.\.\. \d+ (?:more|common)|goroutine \d+ |\[signal |created by |exit status \d"
    r"|The above exception was |During handling of the above |\}$|\S{1,300}:\d+:in ['`][^'`]{1,200}'$"
)
_CHAINS = ("The above exception was ", "During handling of the above ")
_STARTS = re.compile(r"Traceback \(most recent call last\)|panic: |fatal error: ")
_GO_CALL = re.compile(r"[\w./*()\-]{1,200}\(.{0,200}\)$")
_ENDS = re.compile(r"[A-Za-z_][\w.]{0,120}(?:: |$)")

_CAUSE = re.compile(r"\s*(?:Caused by: |\[cause\]: |---> )(.+)")
_JAVA_FRAME = re.compile(r"\s*at ([\w$.<>/@\-]{1,200})\(([^()]{0,120})\)")
_NODE_FRAME = re.compile(r"\s*at (?:async |new )*(?:([^()\s]{1,200}(?: \[as \w+\])?) )?\(?((?:file://)?[^()\s]{1,300}:\d+:\d+)\)?(?: \{)?$")
_PYTHON_FRAME = re.compile(r'\s*File "([^"]{1,300})", line (\d+), in (\S{1,200})')
_DOTNET_FRAME = re.compile(r"\s*at ([^()\s][^()]{0,300}(?<!\s))\([^()]{0,300}\)(?: in (.{1,300}):line (\d+))?$")
_RUBY_FRAME = re.compile(r"\s*(?:from )?(\S{1,300}:\d+):in ['`]([^'`]{1,200})'")
_GO_FILE = re.compile(r"\s+(\S{1,300}\.go:\d+)")
_GO_FUNCTION = re.compile(r"([\w./*()\-]{1,200}?)(?:\([^()]{0,200}\))?$")

# Frames of a language or of a framework say little: the application's own frame is what somebody can mend.
_FOREIGN = re.compile(
    r"^(?:(?:java|javax|jdk|sun|com\.sun|jakarta|kotlin|kotlinx|scala|reactor|io\.netty|io\.grpc|com\.zaxxer|com\.fasterxml|com\.mysql"
    r"|com\.amazonaws|software\.amazon|org\.(?:springframework|apache|hibernate|eclipse|junit|jboss|postgresql|elasticsearch|opensearch))\."
    r"|(?:System|Microsoft|Npgsql|Newtonsoft)\.|lambda_method\b|runtime[./]|net/http\.|database/sql\.)"
    r"|(?:^|[( /])(?:node:|node_modules/|internal/)|site-packages/|dist-packages/|/lib/python\d|/usr/local/go/src/|/pkg/mod/"
    r"|/lib/ruby/|/gems/|\(<internal:"
)


@dataclass(frozen=True, slots=True)
class Essence:
    """What a stack trace is about.

    `first` is its first line; `frame` the application's own innermost frame; `root` the innermost cause, where it has one; `foreign`: the
    frame is a library's, as none is the application's.
    """

    first: str
    frame: str = ""
    root: str = ""
    foreign: bool = False

    @property
    def text(self) -> str:
        """In one line; the first line comes first."""
        root = self.root if self.root and self.root not in self.first else ""
        return " | ".join(part for part in (self.first, root, self.frame) if part)


def fold(lines: Iterable[str]) -> Iterator[str]:
    """Events: lines of which the further ones of a stack trace belong to the first. Reads one line after the other, and keeps one event.

    >>> list(fold(["ERROR a", "java.lang.Error: b", "\\tat c.D.e(D.java:1)", "INFO f"]))
    ['ERROR a', 'java.lang.Error: b\\n\\tat c.D.e(D.java:1)', 'INFO f']
    """
    event: list[str] = []
    empty = 0  # lines, that belong to the event if more of it follows
    trace = go = False
    for line in lines:
        line = line[: MOST_OF_JSON if line[:1] == "{" else MOST_CHARACTERS].rstrip("\r\n")
        if not line.strip():
            empty += 1
            continue
        more = bool(event) and _GOES_ON.match(line) is not None
        if event and not more:
            last = event[-1]
            if go := go or last.startswith("goroutine "):  # a call and its file, in turn
                more = _GO_CALL.match(line) is not None
            elif trace:  # one of Python's ends with the exception
                more = last[:1] == " " and not empty and _ENDS.match(line) is not None
                trace = False
            else:
                more = last.startswith(_CHAINS) and _STARTS.match(line) is not None
                trace = more
        if more:
            if len(event) < MOST_LINES:
                event += [""] * min(empty, 1) + [line]
        else:
            if event:
                yield "\n".join(event)
            event, go, trace = [line], False, _STARTS.match(line) is not None
        empty = 0
    if event:
        yield "\n".join(event)


def essence(text: str) -> Essence:
    """What a stack trace is about; of a text that is none, its first line.

    Python puts the innermost frame last, the others first; its cause comes before what it caused, with the others after ("Caused by",
    "[cause]", "--->").
    """
    lines = [line[:MOST_CHARACTERS] for line in text.split("\n", MOST_LINES)[:MOST_LINES] if line.strip()]
    if not lines:
        return Essence("")
    python = any(_PYTHON_FRAME.match(line) for line in lines)
    frames: list[str] = []
    root = ""
    for number, line in enumerate(lines):
        if (found := _CAUSE.match(line)) and not python:
            root, frames = found[1], []
        elif line.startswith("   --- End of inner exception"):  # .NET: what follows are frames of what the cause caused
            break
        elif found := _PYTHON_FRAME.match(line):
            frames.insert(0, f"{found[3]} ({found[1]}:{found[2]})")
        elif found := _NODE_FRAME.match(line):
            frames.append(f"{found[1]} ({found[2]})" if found[1] else found[2])
        elif (found := _DOTNET_FRAME.match(line)) and found[2]:
            frames.append(f"{found[1]} ({found[2]}:{found[3]})")
        elif found := _JAVA_FRAME.match(line):
            frames.append(f"{found[1]} ({found[2]})")
        elif found := _DOTNET_FRAME.match(line):
            frames.append(found[1])
        elif found := _RUBY_FRAME.match(line):
            frames.append(f"{found[2]} ({found[1]})")
        elif number and (found := _GO_FILE.match(line)) and (called := _GO_FUNCTION.match(lines[number - 1].strip())):
            frames.append(f"{called[1]} ({found[1]})")
    if python:
        # With a chain of exceptions the first is the root, and the frames that count are those before it.
        exceptions = [(number, line) for number, line in enumerate(lines) if number and lines[number - 1][:1] == " " and _ENDS.match(line)]
        if exceptions:
            end, root = exceptions[0]
            matches = [found for line in lines[:end] if (found := _PYTHON_FRAME.match(line))]
            frames = [f"{found[3]} ({found[1]}:{found[2]})" for found in reversed(matches)]
    own = next((frame for frame in frames if not _FOREIGN.search(frame)), "")
    first = root if python and _STARTS.match(lines[0]) and root else lines[0].strip()
    return Essence(first, own or (frames[0] if frames else ""), root.strip(), bool(frames) and not own)
