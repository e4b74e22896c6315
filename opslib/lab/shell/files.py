"""Commands on single files: what they are, and making them shorter."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from typing import Final

from opslib.lab.shell.answer import Answer, Command, failed, options, said
from opslib.lab.shell.box import Box
from opslib.lab.shell.text import folders, resolve


def stat(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """What a file is, in the letters of ``-c``; files were all changed when the container started."""
    chosen, paths = options(words, "c")
    lines, problems = [], ""
    for path in paths:
        whole = resolve(box, path)
        is_folder = whole in folders(box)
        if whole not in box.files and not is_folder:
            problems += f"stat: cannot statx '{path}': No such file or directory\n"
            continue
        size = 4096 if is_folder else len(box.files[whole].encode("utf-8", "surrogateescape"))
        values = {
            "%F": "directory" if is_folder else "regular file" if size else "regular empty file",
            "%f": "41ed" if is_folder else "81a4",
            "%s": str(size),
            "%Y": str(int(box.started)),
            "%i": str(int(hashlib.sha256(whole.encode()).hexdigest()[:8], 16)),
            "%n": path,
        }
        line = chosen.get("c") or "%n %s %Y"
        for letter, value in values.items():
            line = line.replace(letter, value)
        lines.append(f"{line}\n")
    return Answer("".join(lines).encode("utf-8", "surrogateescape"), problems, 1 if problems else 0)


def readlink(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Where a path leads; there are no links here."""
    chosen, paths = options(words)
    wholes = [resolve(box, path) for path in paths]
    if "f" not in chosen or any(posixpath.dirname(whole) not in folders(box) for whole in wholes):
        return Answer(status=1)
    return said("".join(f"{whole}\n" for whole in wholes))


def truncate(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Make files shorter."""
    chosen, paths = options(words, "s")
    size = chosen.get("s", "")
    if not size.isdigit():
        return failed("truncate: you must specify either '--size' or '--reference'")
    for path in paths:
        whole = resolve(box, path)
        if whole in box.files:
            box.files[whole] = box.files[whole][: int(size)]
        elif "c" not in chosen:
            box.files[whole] = ""
    return Answer()


COMMANDS: Final[Mapping[str, Command]] = {"readlink": readlink, "stat": stat, "truncate": truncate}
