"""The `opslib` command. Only click and light modules are imported at its start."""

from __future__ import annotations

import gettext
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence

import click

import opslib
from opslib.errors import InputError, OpsError
from opslib.messages import LANGUAGES, LOCALES, Message, _, _n, current_language, one_line, printable, use_language

MODULES = ("run", "doctor", "logs", "actions", "backup", "environment", "lab")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status. 0 ok, 1 warning, 2 critical, 3 could not be done, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = _option(words, "--lang")
    language = given if given in LANGUAGES else current_language()
    # run and open take the environment's language where none is given, on whatever side of their name it stands
    defaults = {command: {"language": given} for command in ("run", "open")} if given else {}
    debug = "--debug" in _before_separator(words) or bool(os.environ.get("OPSLIB_DEBUG"))
    with use_language(language):
        _translate_click(language)
        try:
            status = _group().main(args=words, prog_name="opslib", standalone_mode=False, default_map=defaults)
        except OpsError as error:
            if debug:
                raise
            _say(printable(error))
            return error.exit_status
        except click.exceptions.Exit as error:
            return error.exit_code
        except click.ClickException as error:
            if debug:
                raise
            _say(one_line(_usage(error), 1000))
            return InputError.exit_status
        except (click.Abort, KeyboardInterrupt):
            _say(str(_("interrupted")))
            return 128 + signal.SIGINT
        except BrokenPipeError:
            # The reader of our output (head, less) has gone; what is still buffered must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            if debug:
                raise
            _say(
                str(
                    _(
                        "{kind}: {error}. This is a defect of opslib; with --debug it shows where",
                        kind=type(error).__name__,
                        error=one_line(error),
                    )
                )
            )
            return OpsError.exit_status
    return status if isinstance(status, int) else 0


def _group() -> click.Group:
    group = click.Group(
        "opslib",
        help=str(_("Operations notebooks that really operate: the runbook's chapters, run against an environment.")),
        epilog=examples("opslib list", "opslib run 4.1 --env lab -p namespace=shop", "opslib run --all --env stg --lang en"),
        no_args_is_help=True,
    )
    group.params.append(
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help=str(_("Show the version and exit."))
        )
    )
    for module in MODULES:
        for command in importlib.import_module(f"opslib.cli.{module}").commands():
            group.add_command(command)
    for command in _every(group):
        _add_common_options(command)
    return group


def _version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(opslib.__version__)
        context.exit()


def environment_option() -> click.Option:
    """The option that names the environment."""
    text = str(_("Environment: a name in parameters/, or a file."))
    return click.Option(["--env", "environment"], default="lab", show_default=True, help=text)


def examples(*commands: str) -> str:
    """An epilog that shows `commands`, one a line."""
    lines = "\n".join(f"  {command}" for command in commands)
    # \b tells click to leave the lines as they are.
    return f"\b\n{_('Examples:')}\n{lines}"


def _every(command: click.Command) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.commands:
            yield from _every(command.commands[name])


def _add_common_options(command: click.Command) -> None:
    """Every command takes --lang and --debug, wherever they stand on the line; `main` has read them before the commands were made."""
    taken = {option for parameter in command.params for option in parameter.opts}
    if "--lang" not in taken:
        command.params.append(
            click.Option(
                ["--lang"],
                type=click.Choice(LANGUAGES),
                expose_value=False,
                help=str(_("Language; without it $OPSLIB_LANG, then the system's.")),
            )
        )
    if "--debug" not in taken:
        command.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, help=str(_("Show where an error comes from."))))


def _before_separator(words: Sequence[str]) -> list[str]:
    return list(words[: words.index("--")] if "--" in words else words)


def _option(words: Sequence[str], name: str) -> str:
    words = _before_separator(words)
    for number, word in enumerate(words):
        if word == name and number + 1 < len(words):
            return words[number + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def _say(line: str) -> None:
    click.echo(f"opslib: {line}", err=True)


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return error.format_message()
    return str(
        _("{what} See: {command}", what=error.format_message(), command=f"{context.command_path} --help"),
    )


def _translate_click(language: str) -> None:
    """Click's own words come from our catalogue too: it asks the standard gettext domain."""
    os.environ["LANGUAGE"] = language
    gettext.bindtextdomain("opslib", LOCALES)
    gettext.textdomain("opslib")


def _words_of_click() -> tuple[Message, ...]:
    """Click's texts that a user of ours meets, here so that the catalogue has them."""
    return (
        _("Usage:"),
        _("Options"),
        _("Commands"),
        _("Positional arguments"),
        _("Show this message and exit."),
        _("No such option {name!r}."),
        _("No such command {name!r}."),
        _n("Did you mean {possibility}?", "(Did you mean one of: {possibilities}?)", 1),
        _("Missing argument"),
        _("Missing option"),
        _("Missing command."),
        _("Invalid value: {message}"),
        _("Invalid value for {param_hint}: {message}"),
        _n("Got unexpected extra argument ({args})", "Got unexpected extra arguments ({args})", 1),
        _n("Option {name!r} requires an argument.", "Option {name!r} requires {nargs} arguments.", 1),
        _n("{value!r} is not {choice}.", "{value!r} is not one of {choices}.", 1),
        _("{value!r} is not a valid {number_type}."),
        _("{name} {filename!r} does not exist."),
        _("{name} {filename!r} is a file."),
        _("{name} {filename!r} is not writable."),
        _("default: {default}"),
        _("required"),
    )
