"""Changes by Terraform: a plan that was saved, and nothing but that plan, is applied.

A bare ``terraform apply`` plans again, and may do something else than what was looked at. A request is ``{"file", "sha256", "variables"}``;
the file holds secrets, so it lies in a folder of the operator's own, beside the plan, and is removed once it is applied. A state is
``{"lineage", "serial"}``: Terraform itself refuses a saved plan for any other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opslib.actions.plans import Condition, Plan, Step, make
from opslib.actions.systems import Preview
from opslib.environments import Environment
from opslib.errors import Conflict, InputError
from opslib.messages import Message, _, _n, one_line
from opslib.sources.terraform import Report, ResourceChange, Terraform, changes_of, rendered


class TerraformSystem:
    """One root module. See `opslib.actions.systems.System`.

    Parameters
    ----------
    report
        Is told what Terraform says while it is at work, line by line.
    """

    name = "terraform"

    def __init__(self, source: Terraform, report: Report = lambda text: None) -> None:
        self.source, self.report = source, report

    def target(self) -> str:
        """Its folder: the lineage of the state is part of what a step expects."""
        return self.source.folder.name

    def observe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Which version of the state it is."""
        serial = self.source.serial()
        return {"lineage": serial.lineage, "serial": serial.number}

    def preview(self, request: dict[str, Any]) -> Preview:
        """What the saved plan does."""
        changes = changes_of(self.source.show(_saved(request)))
        return Preview({"applied": request["sha256"]}, rendered(changes))

    def reached(self, request: dict[str, Any], after: dict[str, Any], now: dict[str, Any]) -> bool:
        """Whether nothing is left to do: the state has changed since, and a plan with the same variables is empty."""
        done = now != request["state"] and self._left(request["file"], request["variables"]) is None
        if done:  # applied by an execution that was cut off before it could remove what holds secrets
            Path(request["file"]).unlink(missing_ok=True)
        return done

    def send(self, request: dict[str, Any], before: dict[str, Any]) -> None:
        """Apply the saved plan, if it is the one that was looked at and the state is still the one that it was made for."""
        if self.observe(request) != before:
            raise Conflict(self.name, _("The state has changed since this was planned"), _("Make the plan again"))
        file = _saved(request)
        self.source.apply(file, self.report)
        file.unlink(missing_ok=True)

    def holds(self, question: dict[str, Any]) -> tuple[bool | None, Message]:
        """``{"nothing_to_do": variables, "file"}``: a plan with these variables is empty."""
        left = self._left(question["file"], question["nothing_to_do"])
        return left is None, _("still to do: {names}", names=[one.address for one in (left or [])[:10]])

    def _left(self, saved: str, variables: Mapping[str, str]) -> list[ResourceChange] | None:
        """The resources that a new plan with these variables would change; None where it is empty (one of outputs alone is not)."""
        file = Path(saved).with_suffix(".check")
        try:
            return changes_of(self.source.show(file)) if self.source.plan(file, variables) else None
        finally:
            file.unlink(missing_ok=True)


def apply(
    system: TerraformSystem,
    environment: Environment,
    requester: str,
    place: Path,
    variables: Mapping[str, str],
    *,
    allow_destroy: Iterable[str] = (),
) -> Plan:
    """Plan with some variables, and make a plan to apply exactly that.

    Parameters
    ----------
    place
        The folder of the environment's plans: the saved plan goes into ``terraform/`` in it, readable by its owner alone.
    allow_destroy
        Addresses of resources that may be deleted or replaced. Without it a plan that destroys anything is refused.

    Raises
    ------
    InputError
        The configuration has faults, there is nothing to do, or something would be destroyed that is not allowed to.
    Refused
        Somebody else has locked the state.
    """
    source = system.source
    source.init(system.report)
    faults = source.validate()
    if faults:
        shown = faults[:5]
        what = _n(
            "The configuration has {count} fault: {faults}", "The configuration has {count} faults: {faults}", len(faults), faults=shown
        )
        raise InputError(what, _("Mend it"))
    folder = place / "terraform"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(prefix=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-", suffix=".tfplan", dir=folder)  # its owner's alone
    os.close(descriptor)
    file = Path(name)
    kept = False
    try:
        if not source.plan(file, variables, report=system.report):
            raise InputError(_("There is nothing to do: the infrastructure is as the configuration says"))
        content = source.show(file)
        changes = changes_of(content)
        _check_destroys(changes, set(allow_destroy))
        made = _plan(system, environment, requester, file, variables, changes, changes_of(content, "resource_drift"))
        kept = True
        return made
    finally:
        if not kept:
            with contextlib.suppress(OSError):
                file.unlink()


def _check_destroys(changes: list[ResourceChange], allowed: set[str]) -> None:
    destroyed = [one for one in changes if one.destroys and one.address not in allowed]
    if destroyed:
        names = [f"{one.address} ({one.action}{', ' + ', '.join(one.reasons) if one.reasons else ''})" for one in destroyed]
        raise InputError(
            _n("{count} resource would be destroyed: {names}", "{count} resources would be destroyed: {names}", len(names), names=names),
            _("Where that is wanted, name each"),
            f"--allow-destroy '{destroyed[0].address}'",
        )


def _plan(
    system: TerraformSystem, environment: Environment, requester: str, file: Path, variables: Mapping[str, str],
    changes: list[ResourceChange], drift: list[ResourceChange],
) -> Plan:  # fmt: skip
    state = system.observe({})
    request = {
        "file": str(file.absolute()), "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "variables": dict(variables), "state": state,
    }  # fmt: skip
    counts = {action: sum(one.action == action for one in changes) for action in ("create", "update", "replace", "delete")}
    what = _(
        "Terraform in {folder}: {create} to create, {update} to update, {replace} to replace, {delete} to delete",
        folder=system.source.folder.name, **counts,
    )  # fmt: skip
    preview = system.preview(request)
    destroyed = [one for one in changes if one.destroys]
    cautions = [_("What is in {address} is lost ({action})", address=one.address, action=one.action) for one in destroyed]
    cautions += [_("{address} is told to the provider, and is no part of the state", address=one.address) for one in changes
                 if one.action == "invoke"]  # fmt: skip
    if drift:
        cautions.append(_("Changed outside Terraform since the last apply: {names}", names=[one.address for one in drift[:10]]))
    step = Step(
        what=what.text(), system=system.name, request=request, before=state, after=preview.after, difference=preview.difference,
        why_no_inverse=_("Terraform has no undo: plan again with the configuration and the variables that were before").text(),
        final=bool(destroyed),
    )  # fmt: skip
    verify = Condition(
        what=_("nothing is left to do").text(), system=system.name, question={"nothing_to_do": dict(variables), "file": request["file"]},
        deadline_seconds=600,
    )  # fmt: skip
    return make(system, environment, requester, "terraform", what.text(), [step], cautions=cautions, verify=[verify])


def _saved(request: Mapping[str, Any]) -> Path:
    """The saved plan, if it is the one that was looked at."""
    file = Path(request["file"])
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(_("The saved plan is gone: {reason}", reason=one_line(error)), _("Make the plan again")) from error
    if hashlib.sha256(content).hexdigest() != request["sha256"]:
        raise InputError(_("The saved plan {file} is not the one that was approved", file=file), _("Make the plan again"))
    return file
