"""Templates of many lines, online, in bounded memory.

What makes it fast: two lines that differ only in digits are one key, which costs one pass of `bytes.translate` over a whole batch and one
look-up a line. Only lines with a new key are masked (`masks`); only distinct masked lines, the shapes, are compared with each other, and
only when the templates are asked for.

Shapes with the same number of words are split by the word that has the fewest different values, again and again (the idea of IPLoM:
Makanju, Zincir-Heywood, Milios 2009), until the words that still differ have so many values that they can only be variables. The result
depends on the set of lines, not on their order, as long as the shapes fit into the memory that is allowed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, starmap
from operator import itemgetter

from opslib.mining.masks import LONGEST, PLACE, clean, may_vary, places, together

MOST_VALUES = 6
"""A word with so many different values or more is a variable."""
LEAST_CONSTANT = 0.5
"""... where at least this share of the words is the same in all of them."""
LEAST_AROUND = 3
"""So many words have to be the same for one that differs to be a variable because it is one in another line."""
MOST_WORDS = 64
"""Words of a line that are compared."""
AT_ONCE = 1_000
"""Lines that go through together: the memory that they take is small enough to be used again for the next ones."""
MOST_LABELS = 200
OTHERS = "-"
"""The label of all labels beyond `MOST_LABELS`."""

_EMPTY = {"()": f"({PLACE})", "[]": f"[{PLACE}]", "{}": f"{{{PLACE}}}"}
"""Brackets with nothing in them are a value too."""
_DIGITS = b"0123456789"
_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)


@dataclass(slots=True)
class Shape:
    """Lines that are the same once masked. `labels` counts them by whatever the caller tells them apart by."""

    number: int
    text: str
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
        self._keys: defaultdict[bytes, int] = defaultdict()
        self._keys.default_factory = self._keys.__len__
        self._numbers_of: list[int] = []
        self._shapes: dict[str, Shape] = {}
        self._by_number: dict[int, Shape] = {}
        self._words = dict(_EMPTY)
        self._next = 0

    def add(self, lines: Sequence[str], labels: Sequence[str] | None = None) -> list[int]:
        """Take lines, and give the number of each one's shape, under which its template has it (`Template.numbers`).

        Numbers of an earlier batch are no longer known once shapes had to be merged. Of a text of several lines only the first counts.
        """
        if len(self._keys) > 4 * self._most:
            self._forget()
        if len(self._shapes) >= self._most:
            self._compact()
        known: list[int] = []
        for start in range(0, len(lines), AT_ONCE):
            known += self._numbers(lines[start : start + AT_ONCE])
        for number, count in Counter(known).items():
            self._by_number[number].count += count
        if labels is not None:
            for (number, label), count in Counter(zip(known, labels, strict=True)).items():
                shape = self._by_number[number]
                shape.labels = shape.labels if shape.labels is not None else Counter()
                # Labels are bounded too: what is beyond is counted, without its name.
                shape.labels[label if label in shape.labels or len(shape.labels) < MOST_LABELS else OTHERS] += count
        return known

    def templates(self) -> list[Template]:
        """The templates of all lines so far, the most frequent first."""
        return sorted(starmap(_template, groups(self._shapes.values()).items()), key=lambda template: (-template.count, template.text))

    def _numbers(self, lines: Sequence[str]) -> Iterator[int]:
        """The numbers of the lines' shapes."""
        keys = list(map(self._keys.__getitem__, _keys(lines)))
        if new := range(len(self._numbers_of), len(self._keys)):
            # Keys are numbered as they come, so each new one is first seen behind the one before.
            at, first = 0, []
            for key in new:
                at = keys.index(key, at)
                first.append(lines[at])
            self._numbers_of += self._learn(first)
        return map(self._numbers_of.__getitem__, keys)

    def _learn(self, lines: Sequence[str]) -> Iterator[int]:
        block = "\n".join(lines)
        if block.count("\n") != len(lines) - 1 or max(map(len, lines)) > LONGEST:
            block = "\n".join([line.partition("\n")[0][:LONGEST] for line in lines])
        if not block.replace("\n", "").isprintable():
            block = clean(block)
        # For words with a digit it does not matter which, and so fewer different ones are left.
        block = block.encode("utf-8", "replace").translate(_TO_ZERO).decode()
        of_lines = [line.split()[:MOST_WORDS] for line in block.split("\n")]
        self._mask(set(chain.from_iterable(of_lines)).difference(self._words))
        word = self._words.__getitem__
        masked = [" ".join(map(word, words)) for words in of_lines]
        examples = dict(zip(masked, lines, strict=True))
        numbers = {}
        for (text, example), whole in zip(examples.items(), together("\n".join(examples)).split("\n"), strict=True):
            shape = self._shapes.get(whole)
            if shape is None:
                shape = self._shapes[whole] = self._by_number[self._next] = Shape(self._next, whole, example[:LONGEST])
                self._next += 1
            numbers[text] = shape.number
        if len(self._words) > 4 * self._most:
            self._words = dict(_EMPTY)
        return map(numbers.__getitem__, masked)

    def _mask(self, words: Iterable[str]) -> None:
        """Learn words as they are once masked, all in one pass: a mask never reaches over a space."""
        new = list(words)
        self._words.update(zip(new, new, strict=True))
        if varying := list(filter(may_vary, new)):
            self._words.update(zip(varying, places("\n".join(varying)).split("\n"), strict=True))

    def _forget(self) -> None:
        self._keys.clear()
        self._numbers_of.clear()

    def _compact(self) -> None:
        """Make room: of each template only so many shapes that they are recognised as one, and half of the room at most."""
        merged = []
        for group in groups(self._shapes.values()).values():
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
        self._forget()
        self._shapes = {shape.text: shape for shape in kept}
        self._by_number = {shape.number: shape for shape in kept}


def _keys(lines: Sequence[str]) -> list[bytes]:
    """The lines without their digits."""
    block = "\n".join(lines)
    keys = _without_digits(block)
    if len(keys) != len(lines) or len(block) > 4 * LONGEST * len(lines):
        keys = _without_digits("\n".join([line[: 4 * LONGEST].partition("\n")[0][:LONGEST] for line in lines]))
    return keys


def _without_digits(block: str) -> list[bytes]:
    return block.encode("utf-8", "replace").translate(None, _DIGITS).split(b"\n")


def groups(shapes: Iterable[Shape]) -> dict[str, list[Shape]]:
    """Shapes that are one template, by its text."""
    by_length: dict[int, list[_Row]] = {}
    for shape in shapes:
        words = shape.text.split(" ")
        by_length.setdefault(len(words), []).append((words, shape))
    found: dict[str, list[Shape]] = {}
    _split_each(by_length.values(), found)
    return found


_Row = tuple[list[str], Shape]


def _split_each(parts: Iterable[list[_Row]], found: dict[str, list[Shape]]) -> None:
    for rows in parts:
        if len(rows) > 1:
            _split(rows, found)
        else:
            found.setdefault(rows[0][1].text, []).append(rows[0][1])


def _split(rows: list[_Row], found: dict[str, list[Shape]]) -> None:
    values = list(map(set, zip(*[words for words, _ in rows], strict=True)))
    differ = [at for at, some in enumerate(values) if len(some) > 1]
    # A word that has a value in one of the lines may have one in the others too: it is the last to split by.
    few = [at for at in differ if len(values[at]) < MOST_VALUES and PLACE not in "".join(values[at])]
    if not few:
        at = min(differ, key=lambda at: (PLACE in "".join(values[at]), len(values[at])))
        if len(values) - len(differ) >= LEAST_CONSTANT * len(values):
            if at > 0 and len(values[at]) >= MOST_VALUES:
                text = together(" ".join(map(_common, values)))
                found.setdefault(text, []).extend([shape for _, shape in rows])
                return
            if len(differ) == 1 and sum(len(some) == 1 and PLACE not in "".join(some) for some in values) >= LEAST_AROUND:
                _fit(rows, at, found)
                return
        few = [at]
    words_at = itemgetter(*few)
    parts: dict[object, list[_Row]] = {}
    for row in rows:
        parts.setdefault(words_at(row[0]), []).append(row)
    _split_each(parts.values(), found)


def _fit(rows: list[_Row], at: int, found: dict[str, list[Shape]]) -> None:
    """Where one line has a value (`chdir(<*>)`), another has one too (`chdir(pwd)`), as enough words around it are the same."""
    ends = {tuple(words[at].split(PLACE)) for words, _ in rows if words[at].count(PLACE) == 1}
    shortest = sorted(ends, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))[:MOST_VALUES]
    for words, shape in rows:
        word = words[at]
        for head, tail in shortest:
            if len(word) >= len(head) + len(tail) and word.startswith(head) and word.endswith(tail):
                word = head + PLACE + tail
                break
        found.setdefault(together(" ".join([*words[:at], word, *words[at + 1 :]])), []).append(shape)


def _template(text: str, group: list[Shape]) -> Template:
    whole = group[0]
    if len(group) > 1:
        group.sort(key=lambda shape: shape.number)
        whole = Shape(group[0].number, text, group[0].example)
        for shape in group:
            whole.take(shape)
    return Template(text, whole.count, whole.example, tuple([shape.number for shape in group]), dict(whole.labels or ()))


def _common(words: set[str]) -> str:
    """What words have in common: a place, and the name before its `=`."""
    some = next(iter(words))
    if len(words) == 1:
        return some
    name, equals, _ = some.partition("=")
    return name + equals + PLACE if equals and all(word.startswith(name + equals) for word in words) else PLACE
