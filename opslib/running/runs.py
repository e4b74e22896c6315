"""Chapters run headless: parameters checked, systems asked whether they answer, the notebook executed by papermill, the report written.

Nothing is written until it is known that the run can begin. From then on a folder stands that tells how it went, whatever happens.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from opslib import chapters, environments
from opslib.chapters import Chapter
from opslib.environments import Environment
from opslib.errors import InputError, OpsError, SourceError
from opslib.facts.sources import SYSTEMS, Sources, name_of
from opslib.findings import Finding, Severity
from opslib.messages import Message, _, one_line
from opslib.reporting import html, index, records
from opslib.reporting.records import Record
from opslib.running import notebooks
from opslib.running.parameters import checked
from opslib.running.session import HEADLESS

Progress = Callable[[int, int, str], None]  # cell, of how many, the heading it stands under
INTERRUPTED = 128 + signal.SIGINT


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP came while a notebook ran."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that can begin: everything about it is checked."""

    chapter: Chapter
    environment: Environment
    environment_name: str
    language: str
    parameters: dict[str, Any]
    notebook: Path
    chosen: tuple[str, ...] = ()  # names of the parameters that were given


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended. `report` is None where none was wanted; `shortened` says that it leaves things out to stay small."""

    record: Record
    findings: list[Finding]
    report: Path | None
    shortened: bool = False

    def exit_status(self, fail_on: Severity | None = Severity.WARNING) -> int:
        """The exit status: 130 interrupted, 3 failed, else that of the worst finding; 0 where it is below `fail_on` (None: always)."""
        if self.record.state == "interrupted":
            return INTERRUPTED
        if self.record.state != "finished" or self.record.severity is None:
            return OpsError.exit_status
        return self.record.severity.exit_status if fail_on is not None and self.record.severity >= fail_on else 0


def prepare(chapter: str, environment: str, parameters: Mapping[str, Any], language: str = "") -> Plan:
    """Check everything about a run and ask its systems whether they answer; nothing is written.

    Parameters
    ----------
    chapter
        Section ("4.1") or slug ("pods").
    environment
        Name of an environment, or the path of its file.
    parameters
        Values for the chapter's parameters, as Python values or as text.
    language
        "ja" or "en"; empty: the environment's.

    Raises
    ------
    OpsError
        A name or value is wrong, or a system without which the chapter is nothing does not answer.
    """
    which = chapters.find(chapter)
    loaded = environments.load(environment)
    chosen = checked(which, parameters)
    values = chosen.model_dump(mode="json")
    # The kernel starts in the same folder, and a name means the same there; a path is made whole all the same.
    name = environment if environment == loaded.name else str(Path(environment).resolve())
    language = language or loaded.language
    plan = Plan(which, loaded, name, language, values, notebooks.find(which, language), tuple(sorted(chosen.model_fields_set)))
    check_systems(which, loaded, str(values.get("namespace") or ""))
    return plan


def check_systems(chapter: Chapter, environment: Environment, namespace: str = "") -> None:
    """Ask the chapter's systems whether they answer, and whether the namespace that it is to look at exists.

    A chapter's module may say `REQUIRES`, the systems without which it is nothing; of the others one must answer (`READS`, by default all).
    One that says `REPORTS_WRONG_TARGET` looks at all of this itself.

    Raises
    ------
    OpsError
        One of the required does not answer, none of the others does, the kubeconfig leads to the wrong cluster, or there is no such
        namespace.
    """
    module = importlib.import_module(f"opslib.chapters.{chapter.slug}")
    required: tuple[str, ...] = getattr(module, "REQUIRES", ())
    reads: tuple[str, ...] = getattr(module, "READS", SYSTEMS)
    sources = Sources(environment)
    if getattr(module, "REPORTS_WRONG_TARGET", False):
        return
    sources.check_cluster()
    errors = sources.ping_all(required or reads)
    failed = {system: error for system, error in errors.items() if error is not None}
    for system, error in failed.items():
        if system in required or isinstance(error, InputError):
            raise error
    if failed and len(failed) == len(errors):
        first = next(iter(failed.values()))
        raise SourceError(
            next(iter(failed)),
            _("None of {systems} answers; {first}", systems=[name_of(system) for system in failed], first=first.what),
            first.remedy,
            first.command,
        )
    if "kubernetes" not in failed:
        sources.check_namespace(namespace)


def execute(plan: Plan, outputs: Path, *, with_html: bool = True, progress: Progress | None = None) -> Run:
    """Run a chapter's notebook; its folder below `outputs` tells how it went.

    Raises
    ------
    InputError
        The folder cannot be written.
    """
    started = datetime.now(UTC)
    folder = records.new_folder(outputs, plan.environment.name, plan.chapter, started)
    record = Record(
        folder=folder,
        section=plan.chapter.section,
        slug=plan.chapter.slug,
        environment=plan.environment.name,
        language=plan.language,
        timezone=plan.environment.timezone,
        parameters=plan.parameters,
        chosen=plan.chosen,
        started=started,
    )
    with records.lock(folder), _signals() as hold:
        records.write_record(record)
        try:
            state, failure = _execute(plan, outputs, folder, progress or (lambda number, total, heading: None))
        except KeyboardInterrupt:
            state, failure = "interrupted", html.Failure(_("Interrupted before the first cell"))
        hold()
        run = _close(record, state, failure, with_html)
    index.build(outputs, plan.language)
    return run


def _execute(plan: Plan, outputs: Path, folder: Path, progress: Progress) -> tuple[str, html.Failure | None]:
    from opslib.running.engine import NAME, papermill
    from opslib.running.kernels import kernel_manager

    # papermill logs each cell; its warnings are for people who write notebooks.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    # An interrupted kernel leaves tasks behind whose end asyncio would report on stderr.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    unfinished = str(folder / "running.ipynb")
    kernel = {"kernel_name": "python3", "language": "python"}
    parameters = {"environment": plan.environment_name, "language": plan.language, **plan.parameters}
    prepared = papermill.execute_notebook(
        str(plan.notebook), unfinished, parameters=parameters, prepare_only=True, progress_bar=False, **kernel
    )
    total = len(prepared.cells)
    at = 0

    def cell_starts(cell: Any, cell_index: int) -> None:
        nonlocal at
        at = cell_index
        if cell.cell_type == "code":
            progress(cell_index + 1, total, html.heading_of(prepared, cell_index))

    variables = {HEADLESS: "1", "OPSLIB_LANG": plan.language, "OPSLIB_OUTPUTS": str(outputs.resolve())}
    try:
        with tempfile.TemporaryDirectory(prefix="opslib-") as sockets:
            papermill.execute_notebook(
                prepared,
                unfinished,
                engine_name=NAME,
                progress_bar=False,
                kernel_manager_class=kernel_manager(variables, Path(sockets)),
                on_cell_start=cell_starts,
                shutdown_kernel="immediate",
                **kernel,
            )
    except papermill.PapermillExecutionError as error:
        return "failed", html.Failure(
            _cell_failed(error.cell_index, total, html.heading_of(prepared, error.cell_index), error.ename, error.evalue),
            "" if _is_ours(error.ename) else "\n".join(error.traceback),
        )
    except KeyboardInterrupt:
        heading = html.heading_of(prepared, at)
        return "interrupted", html.Failure(
            _("Interrupted at cell {number} of {total} ({heading})", number=at + 1, total=total, heading=heading)
        )
    except Exception as error:
        # The kernel died, did not start, or sent what nobody understands: the folder says so like any other failure.
        return "failed", html.Failure(
            _cell_failed(
                at, total, html.heading_of(prepared, at), type(error).__name__, str(error) or _("no reason given").text(plan.language)
            )
        )
    return "finished", None


def _close(record: Record, state: str, failure: html.Failure | None, with_html: bool) -> Run:
    """Write what the run found, whatever its end."""
    import nbformat

    unfinished = record.folder / "running.ipynb"
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    if unfinished.is_file():
        with contextlib.suppress(ValueError, nbformat.reader.NotJSONError):
            notebook = nbformat.read(unfinished, as_version=4)  # type: ignore[no-untyped-call]
        unfinished.replace(record.folder / "notebook.ipynb")
    findings = html.collected_findings(notebook)
    if state == "finished" and not html.has_verdict(notebook):
        # Nothing found and nothing looked at must not look the same.
        state, failure = "failed", html.Failure(_("The notebook ended without a verdict: its last cell must call ops.finish()"))
    ended = records.closed(record, state, findings, failure.what if failure else "")
    records.write_findings(ended, findings)
    page = html.report(notebook, record.language, failure) if with_html else None
    if page:
        records.write(record.folder / "report.html", page.html)
    # Last: who sees "finished" finds everything.
    records.write_record(ended)
    return Run(ended, findings, record.folder / "report.html" if page else None, page.shortened if page else False)


def _cell_failed(number: int, total: int, heading: str, kind: str, text: str) -> Message:
    why = one_line(text, 500) if _is_ours(kind) else f"{kind}: {one_line(text, 500)}"
    if heading:
        return _("Cell {number} of {total} ({heading}) failed: {why}", number=number + 1, total=total, heading=heading, why=why)
    return _("Cell {number} of {total} failed: {why}", number=number + 1, total=total, why=why)


def _is_ours(kind: str) -> bool:
    """Whether an error of that class carries its own explanation."""
    known = [OpsError]
    for error in known:
        known.extend(error.__subclasses__())
    return kind in {error.__name__ for error in known}


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """Within the block the first SIGINT, SIGTERM or SIGHUP raises Interrupted; further ones do nothing: the kernel is being shut down.

    Gives a function after whose call none raises: what is left to do is short and must be done. In a thread other than the main one
    signals cannot be caught, and are not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    held = False

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal held
        if not held:
            held = True
            raise Interrupted

    def hold() -> None:
        nonlocal held
        held = True

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield hold
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
