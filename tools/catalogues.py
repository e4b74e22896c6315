"""The texts of opslib and their Japanese: `extract` collects them, `compile` builds what is loaded, `check` says what is missing.

Texts are found in the code (`_("…")`, `_n("…", "…", n)` and a pydantic field's `description="…"`), in the paragraphs of the notebooks in
notebooks/en/ and in the titles of the lab's faults. Each lands in opslib/locales/ja/<part>.po, where part is the chapter's slug, else the
package it stands in; what several parts say lives in common.po. Translations are never lost when a text moves from one part to another, and
a text that was reworded keeps its old translation as a fuzzy one, to be looked at.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import re
import string
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml
from babel.messages.catalog import Catalog
from babel.messages.catalog import Message as Entry
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from opslib.chapters import CHAPTERS

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "opslib"
NOTEBOOKS = PROJECT / "notebooks" / "en"
FOLDER = PACKAGE / "locales" / "ja"
COMPILED = FOLDER / "LC_MESSAGES" / "opslib.mo"

# What is built must be the same whenever it is built.
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

Key = tuple[str, str]  # the English, and its plural or ""


@dataclass(slots=True)
class Found:
    """One text: where it stands, and whether it is prose (braces in it mean themselves)."""

    key: Key
    parts: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    prose: bool = True


# --- collecting -----------------------------------------------------------------------------------------------------------------------


def collect(faults: list[str]) -> dict[Key, Found]:
    """Every text that a person may read, by its English. What is wrong with one is added to `faults`."""
    found: dict[Key, Found] = {}

    def add(key: Key, part: str, place: Path, prose: bool = False) -> None:
        text = found.setdefault(key, Found(key))
        text.parts.add(part)
        text.places.add(place.relative_to(PROJECT).as_posix())
        text.prose = text.prose and prose

    for path in sorted(PACKAGE.rglob("*.py")):
        for key in in_code(path.read_text("utf-8"), path.relative_to(PROJECT).as_posix(), faults):
            add(key, part_of(path), path)
    for chapter in CHAPTERS:
        path = NOTEBOOKS / chapter.notebook
        if path.exists():
            for paragraph in in_notebook(path):
                add((paragraph, ""), chapter.slug, path, prose=True)
    for path in sorted((PACKAGE / "lab" / "faults").glob("*.yaml")):
        title = yaml.load(path.read_text("utf-8"), yaml.CSafeLoader).get("title")
        if title:
            add((title, ""), "lab", path)
    singulars: dict[str, str] = {}
    for one, many in found:
        if many and singulars.setdefault(one, many) != many:
            faults.append(f"{one!r} has two plurals: {singulars[one]!r} and {many!r}")
    return found


def part_of(path: Path) -> str:
    """The catalogue of a module: the chapter's, where its name begins with a slug; else that of the package below opslib."""
    inside = path.relative_to(PACKAGE).with_suffix("").parts
    if inside[0] in ("chapters", "facts", "diagnosis") and len(inside) > 1:
        for chapter in CHAPTERS:
            if inside[1].startswith(chapter.slug):
                return chapter.slug
    return inside[0]


def in_code(code: str, place: str, faults: list[str]) -> Iterator[Key]:
    """The texts in Python code."""
    tree = ast.parse(code, place)
    # Texts of other libraries, listed in a function of that name so that the catalogue has them: their places are not ours to check.
    others = {
        call
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and function.name.startswith("_words_of_")
        for call in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        where = f"{place}:{node.lineno}"
        if name in ("_", "_n"):
            texts = [_literal(argument) for argument in node.args[: 1 if name == "_" else 2]]
            if None in texts or not texts:
                faults.append(f"{where}: the text must be a literal, so that it can be collected")
                continue
            one, many = texts[0] or "", (texts[1] or "") if name == "_n" else ""
            if node not in others:
                _check_values(node, one, many, where, faults)
            yield one, many
        elif name == "Field":
            for keyword in node.keywords:
                text = _literal(keyword.value) if keyword.arg == "description" else None
                if text:
                    yield text, ""


def _literal(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _check_values(call: ast.Call, one: str, many: str, where: str, faults: list[str]) -> None:
    """Each place in the text has a value, and each value a place."""
    given = {keyword.arg for keyword in call.keywords if keyword.arg} | ({"count"} if many else set())
    if any(keyword.arg is None for keyword in call.keywords):
        return
    if not given and "{" not in one:
        return
    for text in filter(None, (one, many)):
        try:
            wanted = places_in(text)
        except ValueError as error:
            faults.append(f"{where}: {text!r}: {error}")
            return
        if wanted - given:
            faults.append(f"{where}: {text!r} has no value for {', '.join(sorted(wanted - given))}")
    unused = given - places_in(one) - (places_in(many) if many else set()) - {"count"}
    if unused:
        faults.append(f"{where}: {one!r} does not show {', '.join(sorted(unused))}")


def places_in(text: str) -> set[str]:
    """The names of the places in a text; ValueError where one is more than a name."""
    names = set()
    for _words, name, spec, conversion in string.Formatter().parse(text):
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise ValueError(f"{{{name}}} must be a bare name: values are text when they are put in")
        names.add(name)
    return names


def in_notebook(path: Path) -> Iterator[str]:
    """The paragraphs of a notebook's text cells; code blocks are the same in every language."""
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "markdown":
            for paragraph in paragraphs("".join(cell["source"])):
                if not is_code(paragraph):
                    yield paragraph


def paragraphs(source: str) -> list[str]:
    """A cell's text cut at its empty lines, but not inside of a fenced code block."""
    blocks: list[list[str]] = [[]]
    fenced = False
    for line in source.strip("\n").split("\n"):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        if line.strip() or fenced:
            blocks[-1].append(line.rstrip())
        elif blocks[-1]:
            blocks.append([])
    return ["\n".join(block) for block in blocks if block]


def is_code(paragraph: str) -> bool:
    """Whether a paragraph is a fenced code block and nothing else."""
    return paragraph.startswith("```") and paragraph.endswith("```") and paragraph.count("```") == 2


# --- reading and writing --------------------------------------------------------------------------------------------------------------


def key_of(entry: Entry) -> Key:
    """An entry's English, and its plural."""
    return (entry.id, "") if isinstance(entry.id, str) else (entry.id[0], entry.id[1])


def japanese(entry: Entry) -> str:
    """An entry's translation; Japanese has one form for every number."""
    return entry.string if isinstance(entry.string, str) else (entry.string or ("",))[0]


def read_parts() -> dict[str, Catalog]:
    """The catalogues as they are, by part."""
    parts = {}
    for path in sorted(FOLDER.glob("*.po")):
        with path.open("rb") as file:
            parts[path.stem] = read_po(file, locale="ja")
    return parts


def translations() -> dict[str, str]:
    """English to Japanese, from all parts, without what is fuzzy or missing: what the notebooks are translated with."""
    return {
        key_of(entry)[0]: japanese(entry)
        for catalog in read_parts().values()
        for entry in catalog
        if entry.id and not entry.fuzzy and japanese(entry)
    }


def wanted(found: dict[Key, Found]) -> dict[str, Catalog]:
    """The catalogues as they should be: every text found, with the translation that it has."""
    known: dict[Key, Entry] = {}
    for catalog in read_parts().values():
        for entry in catalog:
            if entry.id and (japanese(entry) or key_of(entry) not in known):
                known[key_of(entry)] = entry
    left = {key[0]: entry for key, entry in known.items() if key not in found and japanese(entry)}
    parts: dict[str, Catalog] = defaultdict(lambda: Catalog(locale="ja", fuzzy=False))
    for key, text in sorted(found.items(), key=lambda item: (min(item[1].places), item[0])):
        part = "common" if len(text.parts) > 1 else next(iter(text.parts))
        old = known.get(key)
        words, fuzzy = (japanese(old), old.fuzzy) if old else ("", False)
        if not words:
            near = difflib.get_close_matches(key[0], left, n=1, cutoff=0.75)
            words, fuzzy = (japanese(left[near[0]]), True) if near else ("", False)
        flags = {"fuzzy"} if fuzzy else set()
        parts[part].add(
            key[0] if not key[1] else key,
            words if not key[1] else (words,),
            locations=[(place, 0) for place in sorted(text.places)],
            flags=flags | ({"python-brace-format"} if not text.prose and "{" in key[0] else set()),
        )
    return dict(parts)


def text_of(catalog: Catalog) -> str:
    """A part as it stands in its file: no dates and no line numbers, so that it changes with the texts only."""
    buffer = io.BytesIO()
    write_po(buffer, catalog, width=0, omit_header=True, include_lineno=False, ignore_obsolete=True)
    header = (
        'msgid ""\nmsgstr ""\n"Language: ja\\n"\n"Content-Type: text/plain; charset=utf-8\\n"\n"Plural-Forms: nplurals=1; plural=0;\\n"\n'
    )
    return header + "\n" + buffer.getvalue().decode("utf-8").strip("\n") + "\n"


def compiled(parts: dict[str, Catalog]) -> bytes:
    """All parts as the one file that gettext loads."""
    whole = Catalog(locale="ja", project="opslib", version="", creation_date=BEGINNING, revision_date=BEGINNING, fuzzy=False)
    for part in sorted(parts):
        for entry in parts[part]:
            if entry.id and not entry.fuzzy and japanese(entry):
                whole.add(entry.id, entry.string)
    buffer = io.BytesIO()
    write_mo(buffer, whole)
    return buffer.getvalue()


# --- checking -------------------------------------------------------------------------------------------------------------------------


def check() -> list[str]:
    """What is wrong with the texts and their Japanese, one line each."""
    faults: list[str] = []
    found = collect(faults)
    parts = read_parts()
    should = wanted(found)
    for part in sorted(parts.keys() | should.keys()):
        old = {key_of(entry): entry for entry in parts.get(part, ()) if entry.id}
        new = {key_of(entry) for entry in should.get(part, ()) if entry.id}
        place = f"opslib/locales/ja/{part}.po"
        faults += [f"{place}: missing: {key[0]!r}" for key in new if key not in old or not japanese(old[key])]
        faults += [f"{place}: stale: {key[0]!r}" for key in old if key not in new]
        for key, entry in old.items():
            if key in new:
                faults += [f"{place}: {fault}: {key[0]!r}" for fault in _entry_faults(key, entry, found[key])]
    if not COMPILED.exists() or COMPILED.read_bytes() != compiled(parts):
        faults.append("opslib/locales/ja/LC_MESSAGES/opslib.mo: older than the catalogues")
    return faults


def _entry_faults(key: Key, entry: Entry, found: Found) -> Iterator[str]:
    words = japanese(entry)
    if not words:
        return
    if entry.fuzzy:
        yield "fuzzy, to be looked at"
    if not found.prose and set(_PLACE.findall(words)) not in (set(_PLACE.findall(key[0])), set(_PLACE.findall(key[1] or key[0]))):
        yield f"other places than in English ({words!r})"
    if words == key[0] and re.search(r"[a-z]{2,} [a-z]{2,}", re.sub(r"\{\w+\}|`[^`]*`", "", words)):
        yield "not translated"
    if words.count("\n") != key[0].count("\n") and not found.prose:
        yield "another number of lines"


_PLACE = re.compile(r"\{[^{}]*\}")


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    if arguments == ["extract"]:
        faults: list[str] = []
        parts = wanted(collect(faults))
        FOLDER.mkdir(parents=True, exist_ok=True)
        for part, catalog in parts.items():
            (FOLDER / f"{part}.po").write_text(text_of(catalog), "utf-8")
        for path in FOLDER.glob("*.po"):
            if path.stem not in parts:
                path.unlink()
        missing = sum(1 for catalog in parts.values() for entry in catalog if entry.id and (entry.fuzzy or not japanese(entry)))
        print(f"{sum(map(len, parts.values()))} texts in {len(parts)} parts, {missing} to be translated")
    elif arguments == ["compile"]:
        COMPILED.parent.mkdir(parents=True, exist_ok=True)
        COMPILED.write_bytes(compiled(read_parts()))
        return 0
    elif arguments == ["check"]:
        faults = check()
    else:
        print("usage: tools/catalogues.py extract|compile|check", file=sys.stderr)
        return 2
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
