"""``opslib run``, ``list``, ``index`` and ``open``: the chapters, headless and interactive."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opslib.errors import InputError, OpsError
from opslib.messages import LANGUAGES, _, _n, one_line, text_of

if TYPE_CHECKING:
    from opslib.chapters import Chapter
    from opslib.findings import Severity
    from opslib.running.runs import Plan, Run

FAIL_ON = ("critical", "unknown", "warning", "never")


def commands() -> list[click.Command]:
    """The commands; their texts are in the language that is current when this is called."""
    return [_run(), _list(), _index(), _open()]


def _examples(*lines: str) -> str:
    return "\b\n{}\n{}".format(_("Examples:"), "\n".join(f"  {line}" for line in lines))


def _run() -> click.Command:
    @click.command(
        name="run",
        help=str(_("Run chapters and write their reports. Exit status: 0 ok, 1 warning, 2 critical, 3 could not be done.")),
        epilog=_examples(
            "opslib run 4.1 --env lab -p namespace=shop",
            "opslib run 3.1 --env prod --lang en --fail-on critical",
            "opslib run 4.3 --env prod -p namespace=shop",
            "opslib run --all --env stg",
        ),
    )
    @click.argument("chapter", required=False)
    @click.option("--all", "every", is_flag=True, help=str(_("Run all chapters, one after the other.")))
    @click.option("--env", "environment", default="lab", show_default=True, help=str(_("Environment: a name in parameters/, or a file.")))
    @click.option("-p", "--parameter", "words", multiple=True, metavar="NAME=VALUE", help=str(_("A parameter of the chapter; repeatable.")))
    @click.option("--html/--no-html", "with_html", default=True, help=str(_("Whether to write report.html.")))
    @click.option("--open", "opened", is_flag=True, help=str(_("Open the report in a browser.")))
    @click.option(
        "--outputs",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("outputs"),
        show_default=True,
        help=str(_("Folder for what runs produce.")),
    )
    @click.option(
        "--fail-on",
        type=click.Choice(FAIL_ON),
        default="warning",
        show_default=True,
        help=str(_("From which severity on the exit status is not 0. A run that fails is 3 in any case.")),
    )
    @click.option("--lang", "language", type=click.Choice(LANGUAGES), help=str(_("Language; without it the environment's.")))
    def run(
        chapter: str | None,
        every: bool,
        environment: str,
        words: tuple[str, ...],
        with_html: bool,
        opened: bool,
        outputs: Path,
        fail_on: str,
        language: str | None,
    ) -> int:
        from opslib import chapters
        from opslib.findings import Severity

        if every == (chapter is not None):
            raise InputError(_("Name one chapter, or --all"), _("All of them"), "opslib list")
        if opened and not with_html:
            raise InputError(_("--open needs the report that --no-html leaves out"), _("Leave one of them out"))
        least = None if fail_on == "never" else Severity[fail_on.upper()]
        chosen = chapters.find_all(chapter) if chapter is not None else chapters.CHAPTERS
        if every or len(chosen) > 1:
            return _run_several(chosen, environment, words, language or "", outputs, with_html, opened, least)
        assert chapter is not None
        return _run_one(_prepared(chapter, environment, words, language or ""), outputs, with_html, opened).exit_status(least)

    return run


def _prepared(chapter: str, environment: str, words: tuple[str, ...], language: str) -> Plan:
    from opslib import chapters
    from opslib.running import parameters, runs

    return runs.prepare(chapter, environment, parameters.parse(words, chapters.find(chapter)), language)


def _run_one(plan: Plan, outputs: Path, with_html: bool, opened: bool) -> Run:
    from opslib.running import runs

    finished = runs.execute(plan, outputs, with_html=with_html, progress=_progress)
    _end_progress()
    _tell(finished, plan.language)
    if opened and finished.report:
        click.launch(str(finished.report.resolve()))
    return finished


def _run_several(
    chosen: tuple[Chapter, ...],
    environment: str,
    words: tuple[str, ...],
    language: str,
    outputs: Path,
    with_html: bool,
    opened: bool,
    least: Severity | None,
) -> int:
    """All chapters, or those of one section, one after the other; the exit status is the worst."""
    from opslib.findings import Severity
    from opslib.running import parameters, runs

    given = [parameters.parse(words, chapter) for chapter in chosen]
    known = [set(parameters.model(chapter).model_fields) for chapter in chosen]
    for name in given[0]:
        if not any(name in names for names in known):
            raise InputError(_("No chapter has a parameter {name}", name=one_line(name, 60)), _("All of them"), "opslib list")
    own = [{name: value for name, value in values.items() if name in names} for values, names in zip(given, known, strict=True)]
    for chapter, values in zip(chosen, own, strict=True):
        parameters.checked(chapter, values)
    severities = [Severity.OK]
    failed = False
    for chapter, values in zip(chosen, own, strict=True):
        try:
            plan = runs.prepare(chapter.slug, environment, values, language)
            click.echo(f"{chapter.section} {chapter.title.text(plan.language)}", err=True)
            finished = _run_one(plan, outputs, with_html, opened)
        except InputError:
            raise
        except OpsError as error:
            # One chapter's system is down: the others still run.
            click.echo(f"opslib: {error}", err=True)
            failed = True
            continue
        if finished.record.state == "interrupted":
            return runs.INTERRUPTED
        if finished.record.state != "finished":
            failed = True
        severities.append(finished.record.severity or Severity.UNKNOWN)
    worst = max(severities)
    if failed and worst is not Severity.CRITICAL:
        return OpsError.exit_status
    return worst.exit_status if failed or (least is not None and worst >= least) else 0


def _progress(number: int, total: int, heading: str) -> None:
    line = f"[{number}/{total}] {heading}"
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{line}", nl=False, err=True)
    else:
        click.echo(line, err=True)


def _end_progress() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)


def _tell(run: Run, language: str) -> None:
    """Say on standard output what came out of it: the verdict, the worst findings, where everything is."""
    from opslib.reporting.render import verdict_text

    if run.record.state != "finished":
        click.echo(f"opslib: {one_line(text_of(run.record.failure, language), 1000)}", err=True)
    if run.record.state == "finished" or run.findings:
        click.echo(verdict_text(run.findings).text(language))
    shown = [finding for finding in run.findings if finding.severity.exit_status][:10]
    for finding in shown:
        click.echo(f"  [{finding.severity.label.text(language)}] {one_line(text_of(finding.title, language), 160)}")
    hidden = sum(bool(finding.severity.exit_status) for finding in run.findings) - len(shown)
    if hidden > 0:
        click.echo("  " + _n("and {count} more", "and {count} more", hidden).text(language))
    click.echo(str(run.report or run.record.folder / "findings.json"))
    if run.shortened:
        click.echo(_("The report is shortened to stay below 2 MB; the notebook beside it has everything.").text(language), err=True)


def _list() -> click.Command:
    @click.command(
        name="list",
        help=str(_("List the chapters with their parameters and defaults.")),
        epilog=_examples("opslib list", "opslib list --lang en"),
    )
    def list_() -> None:
        from opslib import chapters
        from opslib.running import parameters

        for chapter in chapters.CHAPTERS:
            click.echo(f"{chapter.section:5} {chapter.slug:12} {chapter.title}")
            model = parameters.model(chapter)
            for name, field in model.model_fields.items():
                default = _("required") if field.is_required() else _default(field.get_default(call_default_factory=True))
                kind = parameters.shown_type(field.annotation)
                click.echo(f"        -p {name}={text_of(default)}  {text_of(parameters.label(model, name))} ({text_of(kind)})")

    return list_


def _default(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(str(item) for item in value) if isinstance(value, list | tuple | set | frozenset) else str(value)


def _index() -> click.Command:
    @click.command(
        name="index",
        help=str(_("Write outputs/index.html again: all runs, and what changed between them.")),
        epilog=_examples("opslib index", "opslib index --outputs /var/lib/opslib --open"),
    )
    @click.option(
        "--outputs",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("outputs"),
        show_default=True,
        help=str(_("Folder of what runs produced.")),
    )
    @click.option("--open", "opened", is_flag=True, help=str(_("Open it in a browser.")))
    def index_(outputs: Path, opened: bool) -> None:
        from opslib.reporting import index

        try:
            path = index.build(outputs)
        except OSError as error:
            raise InputError(
                _("Cannot write to {folder}: {why}", folder=str(outputs), why=error.strerror or str(error)),
                _("Name another folder"),
                "--outputs …",
            ) from None
        click.echo(str(path))
        if opened:
            click.launch(str(path.resolve()))

    return index_


def _open() -> click.Command:
    @click.command(
        name="open",
        help=str(_("Open a chapter's notebook in JupyterLab, with the environment and parameters filled in.")),
        epilog=_examples("opslib open 4.1 --env lab", "opslib open pods --env prod -p namespace=shop --lang en"),
    )
    @click.argument("chapter")
    @click.option("--env", "environment", default="lab", show_default=True, help=str(_("Environment: a name in parameters/, or a file.")))
    @click.option("-p", "--parameter", "words", multiple=True, metavar="NAME=VALUE", help=str(_("A parameter of the chapter; repeatable.")))
    @click.option(
        "--outputs",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("outputs"),
        show_default=True,
        help=str(_("Folder for the copy that is opened.")),
    )
    @click.option("--lang", "language", type=click.Choice(LANGUAGES), help=str(_("Language; without it the environment's.")))
    def open_(chapter: str, environment: str, words: tuple[str, ...], outputs: Path, language: str | None) -> None:
        import os

        from opslib.running import interactive

        copy = interactive.copy(_prepared(chapter, environment, words, language or ""), outputs)
        click.echo(str(copy))
        os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(copy)])  # noqa: S606 - the words are ours

    return open_
