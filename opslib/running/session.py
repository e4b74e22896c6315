"""What a notebook talks to: ``ops = opslib.start("pods", environment=environment, ...)``.

The same cells serve a person in JupyterLab and a scheduler through papermill. Everything that is shown goes out twice: as HTML for
JupyterLab, and as data from which the report is made (`opslib.reporting.data`).
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Any, TypeVar

from opslib import chapters, environments
from opslib.chapters import Chapter
from opslib.environments import Environment
from opslib.errors import InputError, OpsError, SourceError
from opslib.facts import Answer, Questions
from opslib.facts.sources import Sources
from opslib.findings import Finding, Subject, by_severity
from opslib.messages import Message, Text, _, text_of, use_language
from opslib.running.parameters import checked

T = TypeVar("T")

# Set by the runner for its kernels: nobody is watching, so no progress is shown.
HEADLESS = "OPSLIB_HEADLESS"
# Questions are short and wait for the network; more at once would only be a burden to systems that are in trouble already.
WORKERS = 32  # they wait for answers, and what is asked of one system must not wait for another one's
DEADLINE_SECONDS = 300.0


def start(
    chapter: str,
    environment: str | Environment = "lab",
    language: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> Session:
    """Begin a chapter: check its parameters, load the environment, show where one is.

    Parameters
    ----------
    chapter
        Its slug ("pods") or section ("4.1").
    environment
        Name of an environment ("lab"), the path of its file, or one already loaded.
    language
        "ja" or "en"; empty: the environment's.
    parameters
        The chapter's parameters by name; those left out have their defaults.

    Raises
    ------
    InputError
        The chapter, the environment or a parameter is not known or not valid.
    """
    _show_errors_readably()
    which = chapters.find(chapter)
    loaded = environment if isinstance(environment, Environment) else environments.load(environment)
    session = Session(which, loaded, language or loaded.language, dict(parameters or {}))
    session.check_target()
    session.show_header()
    return session


class Session:
    """One chapter on one environment. Made by `start`.

    Attributes
    ----------
    chapter, environment, language
        Which chapter, where, and the reader's language.
    parameters
        The chapter's `Parameters`, checked.
    sources
        The environment's systems (`opslib.facts.sources.Sources`), connected when first used.
    """

    def __init__(self, chapter: Chapter, environment: Environment, language: str, parameters: Mapping[str, Any]) -> None:
        self.chapter = chapter
        self.environment = environment
        self.language = language
        # Plots and errors take the language from the process: a kernel may run each cell in a context of its own, in which a context
        # variable that another cell has set is not seen.
        os.environ["OPSLIB_LANG"] = language
        self.parameters = checked(chapter, parameters)
        self.sources = Sources(environment)
        self._module: Any = importlib.import_module(f"opslib.chapters.{chapter.slug}")
        self._facts: Any = None
        self._findings: list[Finding] | None = None
        self._shown_style = False

    def check_target(self) -> None:
        """Make sure that this is the environment's cluster, and that it has the namespace; InputError where not.

        A chapter that says `REPORTS_WRONG_TARGET` finds that itself: it goes on, and nothing is read from a wrong cluster.
        """
        try:
            self.sources.check_cluster()
            self.sources.check_namespace(getattr(self.parameters, "namespace", ""))
        except InputError:
            if not getattr(self._module, "REPORTS_WRONG_TARGET", False):
                raise

    @property
    def facts(self) -> Any:
        """The chapter's facts (`opslib.chapters.<slug>.Facts`), read when first asked for.

        Raises
        ------
        OpsError
            They could not be read at all. A system that does not answer is a gap in them, no error.
        """
        if self._facts is None:
            self._facts = self._read()
        return self._facts

    @property
    def findings(self) -> list[Finding]:
        """What the chapter finds in the facts, worst first; what could not be looked at is among them."""
        if self._findings is None:
            facts = self.facts
            with use_language(self.language):
                self._findings = by_severity(self._module.findings(facts, self.parameters))
        return self._findings

    def refresh(self) -> None:
        """Read the facts again, now; what was shown before stays as it is."""
        self._facts = self._findings = None
        self.show_header()

    def show(self, *things: Any) -> None:
        """Show findings, tables, figures, texts or frames, each as the report shows it.

        Parameters
        ----------
        things
            `Finding`, `Table`, `Link`, `Message`, a matplotlib `Figure`, a pandas `DataFrame`, plain str (data from outside), or
            sequences of these.
        """
        from opslib.reporting import display

        with use_language(self.language):
            for bundle in display.bundles(things, self.language, self.environment.zone):
                self._publish(bundle)

    def show_header(self) -> None:
        """Show where one is: chapter, environment, cluster, as whom, when."""
        from opslib.reporting import data, display

        server, identity = self._whereabouts()
        header = data.Header(
            section=self.chapter.section,
            slug=self.chapter.slug,
            title=self.chapter.title,
            environment=self.environment.name,
            environment_title=self.environment.title,
            production=self.environment.production,
            server=server,
            identity=identity,
            time=datetime.now(UTC),
            language=self.language,
            timezone=self.environment.timezone,
            parameters=self.parameters.model_dump(mode="json"),
        )
        with use_language(self.language):
            self._publish(display.header_bundle(header))

    def finish(self) -> None:
        """Show the verdict, and hand all findings to the report. The last cell of every notebook."""
        from opslib.reporting import display

        findings = self.findings
        with use_language(self.language):
            self._publish(display.verdict_bundle(findings, self.language))

    def _whereabouts(self) -> tuple[str, str]:
        """The cluster's address and as whom we speak to it; empty where it does not answer: the facts' gaps say why."""
        try:
            kubernetes = self.sources.kubernetes
        except OpsError:
            return "", ""
        try:
            return kubernetes.address, kubernetes.identity().username
        except SourceError:
            return kubernetes.address, ""

    def _read(self) -> Any:
        reader = importlib.import_module(f"opslib.facts.{self.chapter.slug}")
        executor = ThreadPoolExecutor(WORKERS + 2, thread_name_prefix="facts")
        questions = WatchedQuestions(executor)
        progress = _Progress(self.language)
        give_up = time.monotonic() + DEADLINE_SECONDS
        reading = executor.submit(reader.read, self.sources, self.parameters, questions)
        # Plots need it next, and it takes a second that would be waited for anyway.
        executor.submit(importlib.import_module, "matplotlib.figure")
        try:
            while not wait([reading], timeout=0.5).done:
                progress.show(questions)
                if time.monotonic() > give_up:
                    raise OpsError(
                        _(
                            "Reading took longer than {seconds} seconds; still asking for {what}",
                            seconds=DEADLINE_SECONDS,
                            what=questions.open,
                        ),
                        _("Lower deadline_seconds in the environment's file, or narrow the parameters"),
                    )
            return reading.result()
        finally:
            progress.close()
            # What still hangs has a deadline of its own in the transport; nobody waits for it.
            executor.shutdown(wait=False, cancel_futures=True)

    def _publish(self, bundle: Mapping[str, Any]) -> None:
        from IPython.display import publish_display_data

        if _in_kernel():
            if not self._shown_style:
                if "text/html" in bundle:
                    bundle = {**bundle, "text/html": self._dress() + bundle["text/html"]}
                self._shown_style = True
            publish_display_data(dict(bundle))  # type: ignore[no-untyped-call]

    def _dress(self) -> str:
        """What everything that is shown needs once. JupyterLab asks its reader before it runs a script that another run left: there is none
        in what runs headless.
        """
        from opslib.reporting import display

        return display.style() + ("" if os.environ.get(HEADLESS) else display.script(self.language))


class WatchedQuestions(Questions):
    """`Questions` that know which are still open, for progress and for the deadline."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        self._open: dict[int, Text] = {}
        self._asked = 0
        self._watch = threading.Lock()

    def ask(self, what: Text, question: Callable[[], T], subject: Subject | None = None) -> Answer[T]:
        """Ask in the background."""
        with self._watch:
            number = self._asked
            self._asked += 1
            self._open[number] = what

        def watched() -> T:
            try:
                return question()
            finally:
                with self._watch:
                    del self._open[number]

        return super().ask(what, watched, subject)

    @property
    def open(self) -> list[Text]:
        """What is being asked for now."""
        with self._watch:
            return list(self._open.values())

    @property
    def asked(self) -> int:
        """How many questions there were so far."""
        return self._asked


class _Progress:
    """One line under the cell that says what is being asked for, while somebody is watching; gone when all is read."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._handle: Any = None
        self._watched = not os.environ.get(HEADLESS) and _in_kernel()

    def show(self, questions: WatchedQuestions) -> None:
        """Show how far it is."""
        if not self._watched:
            return
        from IPython.display import display

        content = {"text/plain": _progress_line(questions).text(self._language)}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(content, raw=True)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)


def _progress_line(questions: WatchedQuestions) -> Message:
    still = questions.open
    return _(
        "Reading: {done} of {asked} answers; waiting for {what}", done=questions.asked - len(still), asked=questions.asked, what=still[:3]
    )


def _in_kernel() -> bool:
    from IPython.core.interactiveshell import InteractiveShell

    return InteractiveShell.initialized()


def _show_errors_readably() -> None:
    """In a notebook an OpsError is one clear block, without a traceback; $OPSLIB_DEBUG brings the traceback back."""
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    if shell is None or os.environ.get("OPSLIB_DEBUG"):
        return

    def handler(shell: Any, kind: type[BaseException], error: BaseException, trace: Any, tb_offset: int | None = None) -> list[str]:
        assert isinstance(error, OpsError)
        lines = [text_of(error.what)]
        if error.remedy:
            lines.append(text_of(error.remedy))
        if error.command:
            lines.append(f"  {text_of(error.command)}")
        shell._showtraceback(kind, error, lines)
        return lines

    shell.set_custom_exc((OpsError,), handler)
