"""Templates of many lines, online, in bounded memory.

What makes it fast: two lines that differ only in digits are one key, which costs one pass of `bytes.translate` over a whole batch and one
look-up a line. Only lines with a new key are masked (`masks`); only distinct masked lines, the shapes, are compared with each other, and
only when the templates are asked for.

Shapes with the same number of words are split by the word that has the fewest different values, again and again (the idea of IPLoM:
Makanju, Zincir-Heywood, Milios 2009), until the words that still differ have so many values that they can only be variables. The result
depends on the set of lines, not on their order, as long as the shapes fit into the memory that is allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from opslib.mining.masks import LONGEST, PLACE, clean, mask, together

MOST_VALUES = 6
"""A word with so many different values or more is a variable."""
LEAST_CONSTANT = 0.5
"""... where at least this share of the words is the same in all of them."""
MOST_WORDS = 64
"""Words of a line that are compared."""
MOST_LABELS = 200
OTHERS = "-"
"""The label of all labels beyond `MOST_LABELS`."""

_DIGITS = b"0123456789"
_HEXADECIMAL = frozenset("abcdef")
_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)


@dataclass(slots=True)
class Shape:
    """Lines that are the same once masked. `labels` counts them by whatever the caller tells them apart by."""

    number: int
    words: tuple[str, ...]
    example: str
    count: int = 0
    labels: Counter[str] | None = None

    def take(self, other: Shape) -> None:
        """Count the other's lines as its own."""
        self.count += other.count
        if other.labels:
            self.labels = (self.labels or Counter()) + other.labels


@dataclass(slots=True)
class Template:
    """Lines of one kind: what stays the same in them (`<*>` elsewhere), how many, of which shapes, by label, and one of them."""

    text: str
    count: int
    example: str
    numbers: tuple[int, ...]
    labels: dict[str, int]


class Miner:
    """Takes lines in batches and gives their templates.

    Parameters
    ----------
    most_shapes
        How many distinct masked lines are kept. Beyond it they are merged into their templates, and if that does not help, those with
        the fewest lines go; `dropped` counts their lines.
    """

    def __init__(self, *, most_shapes: int = 20_000) -> None:
        self.dropped = 0
        self._most = most_shapes
        self._keys: dict[bytes, int] = {}
        self._shapes: dict[tuple[str, ...], Shape] = {}
        self._by_number: dict[int, Shape] = {}
        self._words = _Masked()
        self._next = 0

    def add(self, lines: Sequence[str], labels: Sequence[str] | None = None) -> list[int]:
        """Take lines, and give the number of each one's shape, under which its template has it (`Template.numbers`).

        Numbers of an earlier batch are no longer known once shapes had to be merged. Of a text of several lines only the first counts.
        """
        if not lines:
            return []
        if len(self._keys) > 4 * self._most:
            self._keys.clear()
        keys = _keys(lines)
        counts = Counter(keys)
        if not self._keys.keys() >= counts.keys():
            if len(self._shapes) >= self._most:
                self._compact()
            some = dict(zip(keys, lines, strict=True))
            self._learn({key: some[key] for key in counts if key not in self._keys})
        for key, count in counts.items():
            self._by_number[self._keys[key]].count += count
        known = list(map(self._keys.__getitem__, keys))
        if labels is not None:
            for (number, label), count in Counter(zip(known, labels, strict=True)).items():
                shape = self._by_number[number]
                shape.labels = shape.labels if shape.labels is not None else Counter()
                # Labels are bounded too: what is beyond is counted, without its name.
                shape.labels[label if label in shape.labels or len(shape.labels) < MOST_LABELS else OTHERS] += count
        return known

    def templates(self) -> list[Template]:
        """The templates of all lines so far, the most frequent first."""
        found = [_template(group) for group in groups(self._shapes.values())]
        found.sort(key=lambda template: (-template.count, template.text))
        return found

    def _learn(self, fresh: dict[bytes, str]) -> None:
        block = "\n".join(fresh.values())
        if block.count("\n") != len(fresh) - 1 or max(map(len, fresh.values())) > LONGEST:
            block = "\n".join(line.partition("\n")[0][:LONGEST] for line in fresh.values())
        if not block.replace("\n", "").isprintable():
            block = clean(block)
        # For words with a digit it does not matter which, and so fewer different ones are left.
        block = block.encode("utf-8", "replace").translate(_TO_ZERO).decode()
        masked = self._words.__getitem__
        for key, line, text in zip(fresh, fresh.values(), block.split("\n"), strict=True):
            words = tuple(map(masked, text.split()[:MOST_WORDS]))
            shape = self._shapes.get(words)
            if shape is None:
                shape = self._shapes[words] = self._by_number[self._next] = Shape(self._next, words, line[:LONGEST])
                self._next += 1
            self._keys[key] = shape.number
        if len(self._words) > 4 * self._most:
            self._words.clear()

    def _compact(self) -> None:
        """Make room: of each template only so many shapes that they are recognised as one, and half of the room at most."""
        merged = []
        for group in groups(self._shapes.values()):
            few = group[: 2 * MOST_VALUES]
            for shape in group[len(few) :]:
                few[0].take(shape)
            merged.append(few)
        merged.sort(key=lambda few: -sum(shape.count for shape in few))
        kept: list[Shape] = []
        for few in merged:
            if len(kept) + len(few) <= max(1, self._most // 2):
                kept.extend(few)
            else:
                self.dropped += sum(shape.count for shape in few)
        self._keys.clear()
        self._shapes = {shape.words: shape for shape in kept}
        self._by_number = {shape.number: shape for shape in kept}


class _Masked(dict[str, str]):
    """Words as they are once masked, each of them masked once."""

    def __missing__(self, word: str) -> str:
        masked = self[word] = word if word.isalpha() and not _HEXADECIMAL.issuperset(word) else mask(word)
        return masked


def _keys(lines: Sequence[str]) -> list[bytes]:
    """The lines without their digits."""
    block = "\n".join(lines)
    if block.count("\n") != len(lines) - 1 or len(block) > 4 * LONGEST * len(lines):
        lines = [line[: 4 * LONGEST].partition("\n")[0][:LONGEST] for line in lines]
        block = "\n".join(lines)
    return block.encode("utf-8", "replace").translate(None, _DIGITS).split(b"\n")


def groups(shapes: Iterable[Shape]) -> Iterator[list[Shape]]:
    """Shapes that are one template, together."""
    by_length: dict[int, list[Shape]] = {}
    for shape in shapes:
        by_length.setdefault(len(shape.words), []).append(shape)
    for group in by_length.values():
        yield from _split(group)


def _split(group: list[Shape]) -> Iterator[list[Shape]]:
    if len(group) < MOST_VALUES:  # no word can have so many values: each of them stays for itself
        yield from ([shape] for shape in group)
        return
    values = list(map(len, map(set, zip(*(shape.words for shape in group), strict=True))))
    fewest, at = min((count, column) for column, count in enumerate(values) if count > 1)
    if at > 0 and fewest >= MOST_VALUES and values.count(1) >= LEAST_CONSTANT * len(values):
        yield group
        return
    parts: dict[str, list[Shape]] = {}
    for shape in group:
        parts.setdefault(shape.words[at], []).append(shape)
    for part in parts.values():
        yield from _split(part)


def _template(group: list[Shape]) -> Template:
    whole = group[0]
    if len(group) == 1:
        return Template(_text(whole.words), whole.count, whole.example, (whole.number,), dict(whole.labels or ()))
    group.sort(key=lambda shape: shape.number)
    words = [values[0] if len(set(values)) == 1 else PLACE for values in zip(*(shape.words for shape in group), strict=True)]
    whole = Shape(group[0].number, (), group[0].example)
    for shape in group:
        whole.take(shape)
    return Template(_text(words), whole.count, whole.example, tuple(shape.number for shape in group), dict(whole.labels or ()))


def _text(words: Iterable[str]) -> str:
    text = " ".join(words)
    return together(text) if text.count(PLACE) > 1 else text
