"""Commands on files and text."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import posixpath
import re
import tarfile
from collections.abc import Mapping, Sequence
from typing import Final

from opslib.lab.shell.answer import Answer, Command, failed, options, said
from opslib.lab.shell.box import Box

_FOLDERS = frozenset(
    {"/", "/app", "/bin", "/dev", "/etc", "/home", "/lib", "/opt", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp"}  # noqa: S108
    | {"/usr", "/usr/bin", "/usr/local", "/usr/local/bin", "/usr/sbin", "/var", "/var/log"}
)


def resolve(box: Box, path: str) -> str:
    """A path from the root."""
    return posixpath.normpath(posixpath.join(box.environment.get("PWD", "/"), path))


def folders(box: Box) -> set[str]:
    """All folders of a container."""
    found = set(_FOLDERS) | set(box.mounts)
    for path in [*box.files, *box.mounts]:
        while path not in ("/", ""):
            path = posixpath.dirname(path)
            found.add(path)
    return found


def _below(box: Box, folder: str) -> dict[str, bool]:
    """Names in a folder, and whether each is a folder."""
    base = folder.rstrip("/") + "/"
    found = {path[len(base) :].split("/")[0]: True for path in folders(box) if path.startswith(base) and path != base}
    for path in box.files:
        if path.startswith(base):
            name, _slash, more = path[len(base) :].partition("/")
            found.setdefault(name, bool(more))
    return dict(sorted(found.items()))


def _read(box: Box, name: str, paths: Sequence[str], data: bytes) -> tuple[list[tuple[str, str]], str]:
    """Texts by their paths (the input where there is none), and what is to be said of those that are not there."""
    if not paths:
        return [("", data.decode("utf-8", "surrogateescape"))], ""
    found, problems = [], ""
    for path in paths:
        if path == "-":
            found.append((path, data.decode("utf-8", "surrogateescape")))
            continue
        whole = resolve(box, path)
        if whole in box.files:
            found.append((path, box.files[whole]))
        elif whole in folders(box):
            problems += f"{name}: {path}: Is a directory\n"
        else:
            problems += f"{name}: {path}: No such file or directory\n"
    return found, problems


def _answer(text: str, problems: str = "", status: int = 0) -> Answer:
    return Answer(text.encode("utf-8", "surrogateescape"), problems, status or (1 if problems else 0))


def cat(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Files one after the other."""
    _options, paths = options(words)
    found, problems = _read(box, "cat", paths, data)
    return _answer("".join(text for _path, text in found), problems)


def ls(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """What is in folders."""
    chosen, paths = options(words)
    lines, problems, status = [], "", 0
    for path in paths or ["."]:
        whole = resolve(box, path)
        if whole in box.files:
            entries = {path: False}
        elif whole in folders(box):
            entries = _below(box, whole)
            if len(paths) > 1:
                lines.append(f"{path}:")
        else:
            problems += f"ls: cannot access '{path}': No such file or directory\n"
            status = 2
            continue
        if "a" in chosen:
            entries = {".": True, "..": True, **entries}
        for name, is_folder in entries.items():
            if "a" not in chosen and name.startswith("."):
                continue
            if "l" not in chosen:
                lines.append(name)
                continue
            size = (
                4096 if is_folder else len(box.files.get(resolve(box, posixpath.join(path, name) if whole not in box.files else path), ""))
            )
            lines.append(f"{'drwxr-xr-x' if is_folder else '-rw-r--r--'} 1 {box.user[1]} {box.user[1]} {size:>8} {_date(box)} {name}")
    return _answer("".join(f"{line}\n" for line in lines), problems, status)


def _date(box: Box) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(box.started, UTC).strftime("%b %e %H:%M")


def _part(name: str, box: Box, words: Sequence[str], data: bytes) -> Answer:
    words = [f"-n{word[1:]}" if re.fullmatch(r"-\d+", word) else word for word in words]
    chosen, paths = options(words, "nc")
    found, problems = _read(box, name, paths, data)
    output = []
    for path, text in found:
        if len(found) > 1:
            output.append(f"==> {path} <==\n")
        try:
            number = int((chosen.get("n") or chosen.get("c") or "10").lstrip("+"))
        except ValueError:
            return failed(f"{name}: invalid number of lines: '{chosen.get('n')}'")
        units: Sequence[str] = text if "c" in chosen else text.splitlines(keepends=True)
        if name == "head":
            part = units[:number]
        elif chosen.get("n", "").startswith("+"):
            part = units[number - 1 :]
        else:
            part = units[max(0, len(units) - number) :]
        output.append("".join(part))
    return _answer("".join(output), problems)


def head(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The first lines."""
    return _part("head", box, words, data)


def tail(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """The last lines."""
    return _part("tail", box, words, data)


def grep(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Lines that a pattern is found in."""
    chosen, others = options(words, "eABCm")
    pattern = chosen.get("e") or (others.pop(0) if others else None)
    if pattern is None:
        return failed("Usage: grep [OPTION]... PATTERNS [FILE]...", 2)
    if "F" in chosen:
        pattern = re.escape(pattern)
    elif "E" not in chosen:
        pattern = re.sub(r"\\?([|+?(){}])", lambda found: found[1] if found[0].startswith("\\") else f"\\{found[1]}", pattern)
    try:
        matches = re.compile(rf"\b(?:{pattern})\b" if "w" in chosen else pattern, re.IGNORECASE if "i" in chosen else 0)
    except re.error as error:
        return failed(f"grep: {error}", 2)
    if "r" in chosen or "R" in chosen:
        others = sorted(path for path in box.files for one in others if path.startswith(resolve(box, one)))
    found, problems = _read(box, "grep", others, data)
    lines, any_found = [], False
    around = int(chosen.get("C") or 0)
    before, after = int(chosen.get("B") or around), int(chosen.get("A") or around)
    for path, text in found:
        rows = text.splitlines()
        hits = [number for number, row in enumerate(rows) if (matches.search(row) is None) == ("v" in chosen)]
        hits = hits[: int(chosen["m"])] if chosen.get("m") else hits
        any_found = any_found or bool(hits)
        prefix = f"{path}:" if len(found) > 1 and "h" not in chosen else ""
        if "l" in chosen:
            lines += [path] if hits else []
        elif "c" in chosen:
            lines.append(f"{prefix}{len(hits)}")
        elif "o" in chosen:
            lines += [f"{prefix}{one[0]}" for number in hits for one in matches.finditer(rows[number]) if one[0]]
        else:
            shown = sorted({one for number in hits for one in range(max(0, number - before), min(len(rows), number + after + 1))})
            lines += [f"{prefix}{number + 1}:{rows[number]}" if "n" in chosen else f"{prefix}{rows[number]}" for number in shown]
    output = "" if "q" in chosen else "".join(f"{line}\n" for line in lines)
    return _answer(output, problems, 2 if problems else 0 if any_found else 1)


def wc(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Lines, words and bytes."""
    chosen, paths = options(words)
    found, problems = _read(box, "wc", paths, data)
    rows = []
    for path, text in found:
        counts = {"l": text.count("\n"), "w": len(text.split()), "c": len(text.encode("utf-8", "surrogateescape"))}
        shown = [number for name, number in counts.items() if name in chosen or not chosen]
        row = str(shown[0]) if len(shown) == 1 else " ".join(f"{number:>7}" for number in shown)
        rows.append(f"{row} {path}".rstrip())
    return _answer("".join(f"{row}\n" for row in rows), problems)


def sort(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Lines in order."""
    chosen, paths = options(words, "k")
    found, problems = _read(box, "sort", paths, data)
    rows = [row for _path, text in found for row in text.splitlines()]
    place = int(re.match(r"\d+", chosen["k"])[0]) - 1 if re.match(r"\d+", chosen.get("k", "")) else None  # type: ignore[index]

    def key(row: str) -> tuple[float, str]:
        part = row if place is None else (row.split() + [""] * (place + 1))[place]
        number = re.match(r"\s*-?\d+(?:\.\d+)?", part)
        return (float(number[0]) if number else 0.0, part) if "n" in chosen else (0.0, part)

    rows.sort(key=key, reverse="r" in chosen)
    if "u" in chosen:
        rows = list(dict.fromkeys(rows))
    return _answer("".join(f"{row}\n" for row in rows), problems)


def uniq(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Lines without those that are as the one before."""
    chosen, paths = options(words)
    found, problems = _read(box, "uniq", paths, data)
    rows: list[tuple[str, int]] = []
    for row in found[0][1].splitlines() if found else []:
        if rows and rows[-1][0] == row:
            rows[-1] = (row, rows[-1][1] + 1)
        else:
            rows.append((row, 1))
    return _answer("".join(f"{count:>7} {row}\n" if "c" in chosen else f"{row}\n" for row, count in rows), problems)


def cut(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Fields of lines."""
    chosen, paths = options(words, "dfc")
    found, problems = _read(box, "cut", paths, data)
    wanted: set[int] = set()
    for part in (chosen.get("f") or chosen.get("c") or "").split(","):
        first, dash, last = part.partition("-")
        if not (first + last).isdigit():
            return failed("cut: you must specify a list of bytes, characters, or fields")
        wanted |= set(range(int(first or 1), int(last or (999 if dash else first)) + 1))
    sign = chosen.get("d") or "\t"
    rows = []
    for _path, text in found:
        for row in text.splitlines():
            parts: Sequence[str] = row if "c" in chosen else row.split(sign)
            kept = [part for number, part in enumerate(parts, 1) if number in wanted]
            rows.append(("" if "c" in chosen else sign).join(kept) if len(parts) > 1 or "c" in chosen else row)
    return _answer("".join(f"{row}\n" for row in rows), problems)


def tr(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Letters for others."""
    chosen, sets = options(words)
    text = data.decode("utf-8", "surrogateescape")
    names = [one.encode().decode("unicode_escape") for one in sets]
    if "d" in chosen and names:
        return _answer(text.translate({ord(letter): None for letter in names[0]}))
    if len(names) < 2:
        return failed("tr: missing operand")
    last = names[1][-1:]
    return _answer(
        text.translate({ord(letter): names[1][place] if place < len(names[1]) else last for place, letter in enumerate(names[0])})
    )


def base64_(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """To base64, and back."""
    chosen, paths = options(words, "w")
    found, problems = _read(box, "base64", paths, data)
    content = "".join(text for _path, text in found).encode("utf-8", "surrogateescape")
    try:
        return Answer(base64.b64decode(content, validate=False) if "d" in chosen else base64.b64encode(content) + b"\n", problems)
    except ValueError:
        return failed("base64: invalid input")


def sha256sum(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Digests of files."""
    found, problems = _read(box, "sha256sum", words, data)
    rows = (f"{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}  {path or '-'}\n" for path, text in found)
    return _answer("".join(rows), problems)


def tar(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Archives to and from the standard streams: what ``kubectl cp`` asks for."""
    letters = words[0].lstrip("-") if words else ""
    chosen, others = options(words[1:], "Cf")
    place = resolve(box, chosen.get("C") or ".")
    if "c" in letters:
        buffer = io.BytesIO()
        names = [one for one in others if one != "-"]
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name in names:
                whole = posixpath.normpath(posixpath.join(place, name))
                inside = [path for path in sorted(box.files) if path == whole or path.startswith(whole.rstrip("/") + "/")]
                if not inside and whole not in folders(box):
                    return failed(
                        f"tar: {name}: Cannot stat: No such file or directory\ntar: Exiting with failure status due to previous errors", 2
                    )
                for path in inside:
                    content = box.files[path].encode("utf-8", "surrogateescape")
                    entry = tarfile.TarInfo((name + path[len(whole) :]).lstrip("/"))
                    entry.size, entry.mtime = len(content), int(box.started)
                    archive.addfile(entry, io.BytesIO(content))
        return Answer(buffer.getvalue())
    if "x" not in letters:
        return failed("tar: You must specify one of the '-Acdtrux', '--delete' or '--test-label' options", 2)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|*") as archive:
            for entry in archive:
                content_of = archive.extractfile(entry) if entry.isfile() else None
                if content_of is not None:
                    box.files[posixpath.normpath(posixpath.join(place, entry.name))] = content_of.read().decode("utf-8", "surrogateescape")
    except tarfile.TarError as error:
        return failed(f"tar: {error}", 2)
    return Answer()


def find(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Paths below a folder."""
    import fnmatch

    places = [word for word in words if not word.startswith("-")]
    start = places[0] if words and not words[0].startswith("-") else "."
    whole = resolve(box, start)
    if whole not in folders(box) and whole not in box.files:
        return failed(f"find: '{start}': No such file or directory")
    found = dict.fromkeys(folders(box), True) | dict.fromkeys(box.files, False)
    wanted = {word: value for word, value in itertools.pairwise(words) if word in ("-name", "-type", "-maxdepth")}
    rows = []
    for path, is_folder in sorted(found.items()):
        if path != whole and not path.startswith(whole.rstrip("/") + "/"):
            continue
        depth = path[len(whole.rstrip("/")) :].count("/")
        if "-name" in wanted and not fnmatch.fnmatchcase(posixpath.basename(path), wanted["-name"]):
            continue
        if ("-type" in wanted and (wanted["-type"] == "d") != is_folder) or depth > int(wanted.get("-maxdepth", "99")):
            continue
        rows.append(start.rstrip("/") + path[len(whole.rstrip("/")) :] if start != "/" else path)
    return said("".join(f"{row}\n" for row in rows))


def rm(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Take files away."""
    chosen, paths = options(words)
    problems = ""
    for path in paths:
        whole = resolve(box, path)
        inside = [one for one in box.files if one == whole or ("r" in chosen and one.startswith(f"{whole}/"))]
        for one in inside:
            try:
                del box.files[one]
            except KeyError:  # not written here: of the image, or mounted
                problems += f"rm: cannot remove '{one}': Read-only file system\n"
        if not inside and "f" not in chosen:
            problems += f"rm: cannot remove '{path}': No such file or directory\n"
    return _answer("", problems)


def echo(box: Box, words: Sequence[str], data: bytes) -> Answer:
    """Its words."""
    ends = not (words and words[0] == "-n")
    return said(" ".join(words if ends else words[1:]) + ("\n" if ends else ""))


COMMANDS: Final[Mapping[str, Command]] = {
    "base64": base64_, "cat": cat, "cut": cut, "echo": echo, "egrep": grep, "find": find, "grep": grep, "head": head, "ls": ls, "rm": rm,
    "sha256sum": sha256sum, "sort": sort, "tail": tail, "tar": tar, "tr": tr, "uniq": uniq, "wc": wc,
}  # fmt: skip
