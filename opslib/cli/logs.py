"""``opslib logs``: the kinds of lines in logs that come as files or through a pipe, whatever their size."""

from __future__ import annotations

import gzip
import json
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from opslib.errors import InputError
from opslib.messages import _, _n, one_line

if TYPE_CHECKING:
    from opslib.mining.events import Mined

WIDTH = 200
EVERY_SECONDS = 0.5


def commands() -> list[click.Command]:
    """The command; its texts are in the language that is current when this is called."""
    from opslib.cli import examples

    @click.command(
        name="logs",
        help=str(
            _(
                "Show what kinds of lines logs have, the most frequent first, each with one of its lines: of files (.gz too), or of "
                "what is piped in. A stack trace is one event. Plain lines and lines of JSON are understood."
            )
        ),
        epilog=examples(
            "kubectl logs -n shop deploy/checkout --since=1h | opslib logs",
            "opslib logs app.log app.log.1.gz --level error --level fatal --top 5",
            "opslib logs app.log --json",
        ),
    )
    @click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.option(
        "--level", "levels", multiple=True, metavar="NAME", help=str(_("Only lines of this level, and those that name none; repeatable."))
    )
    @click.option("--top", type=click.IntRange(1), default=20, show_default=True, metavar="COUNT", help=str(_("How many kinds to show.")))
    @click.option("--json", "as_json", is_flag=True, help=str(_("Print JSON.")))
    def logs(files: tuple[Path, ...], levels: tuple[str, ...], top: int, as_json: bool) -> int:
        from opslib.mining.events import mine

        if not files and sys.stdin.isatty():
            raise InputError(_("No log to read"), _("Name files, or pipe one in"), "kubectl logs POD | opslib logs")
        lines = _watched(_lines(files))
        mined = mine(lines, now=datetime.now(UTC), levels=frozenset(level.lower() for level in levels))
        (_print_json if as_json else _print)(mined, top)
        return 0

    return [logs]


def _lines(files: Sequence[Path]) -> Iterator[bytes]:
    """The lines of the files one after the other, or of standard input; of one that is very long only its beginning."""
    if not files:
        yield from _cut(sys.stdin.buffer)
    for path in files:
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                yield from _cut(file)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(_("{file} cannot be read: {why}", file=str(path), why=one_line(error, 200)), _("Name another file")) from error


def _cut(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    from opslib.mining.events import MOST_BYTES

    begins = True
    while line := file.readline(MOST_BYTES):
        if begins:
            yield line
        begins = line.endswith(b"\n")


def _watched(lines: Iterator[bytes]) -> Iterator[bytes]:
    """The same, and how far it is on a terminal."""
    if not sys.stderr.isatty():
        yield from lines
        return
    shown = time.monotonic()
    for number, line in enumerate(lines, 1):
        yield line
        if number % 1_000 == 0 and time.monotonic() - shown > EVERY_SECONDS:
            shown = time.monotonic()
            click.echo(f"\r{_n('{count} line', '{count} lines', number)}\x1b[K", nl=False, err=True)
    click.echo("\r\x1b[K", nl=False, err=True)


def _print(mined: Mined, top: int) -> None:
    """Each kind with its count and share, one of its lines, and who wrote it."""
    total = sum(template.count for template in mined.templates)
    for template in mined.templates[:top]:
        click.echo(f"{template.count:>9}  {template.count / total:>4.0%}  {click.style(one_line(template.text, WIDTH), bold=True)}")
        if template.example != template.text:
            click.echo(f"{'':17}{one_line(template.example, WIDTH)}")
        writers = [name for name in template.labels if name]
        if writers:
            click.echo(f"{'':17}{one_line(', '.join(sorted(writers)[:10]), WIDTH)}")
    hidden = len(mined.templates) - top
    if hidden > 0:
        click.echo(_n("... and {count} more kind; --top shows more", "... and {count} more kinds; --top shows more", hidden).text())
    said = [_n("{count} event", "{count} events", mined.events), _n("{count} kind", "{count} kinds", len(mined.templates))]
    if mined.binary:
        said.append(_n("{count} line that is no text", "{count} lines that are no text", mined.binary))
    if mined.future:
        said.append(_n("{count} event of a time to come", "{count} events of a time to come", mined.future))
    if mined.dropped:
        said.append(_n("{count} event left out for want of room", "{count} events left out for want of room", mined.dropped))
    click.echo(_("{counts}", counts=said).text())


def _print_json(mined: Mined, top: int) -> None:
    counts = {"events": mined.events, "kinds": len(mined.templates)}
    counts |= {"binary": mined.binary, "future": mined.future, "dropped": mined.dropped}
    kinds = [
        {"count": one.count, "template": one.text, "example": one.example, "labels": {name: n for name, n in one.labels.items() if name}}
        for one in mined.templates[:top]
    ]
    click.echo(json.dumps({**counts, "templates": kinds}, ensure_ascii=False, indent=2))
