"""Plans: what would be changed, exactly, as a file that a person can read and a machine can check."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from opslib.actions.systems import System
from opslib.environments import Action, Environment, Limits
from opslib.errors import InputError
from opslib.messages import Message, _, _n, one_line

SHORT = 12  # hex digits of an id that people type and read


class Part(BaseModel):
    """A part of a plan's file. Nothing in it can be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(Part):
    """What must be true once all steps are done, for the plan to have worked.

    Parameters
    ----------
    system, question
        Whom to ask, and what in that system's own terms.
    deadline_seconds
        How long it may take to become true.
    steady_seconds
        How long it must then stay true.
    """

    what: str
    system: str
    question: dict[str, Any]
    deadline_seconds: float = Field(300, gt=0)
    steady_seconds: float = Field(0, ge=0)


class Step(Part):
    """One request to one system.

    Parameters
    ----------
    request
        What is sent, in the system's own terms.
    before, after
        What the object is like before and after, as the system's `observe` says it; ``{"gone": uid}`` for one that is to be deleted. A
        step whose object is like `after` has been done.
    inverse
        The request that takes it back; None where there is none, and `why_no_inverse` says why.
    final
        Whether something is lost for good by it: then the plan as a whole cannot be undone. A pod that was evicted has no inverse, but
        nothing is lost either, since its owner makes another.
    difference
        What changes, as a unified diff, for people.
    inverse_once
        What must be true before the inverse is sent: what is still under way would come back after it.
    command
        The command of the system's own tool that does the same, for people.
    lane, at_once
        Neighbours that have a lane are done at the same time, of each lane at most so many. A step without one is done alone.
    patience_seconds
        How long a refusal that may pass (`opslib.errors.NotNow`) is waited out.
    may_be_gone
        Whether the step counts as done where its object goes by itself before: nobody minds then.
    """

    what: str
    system: str
    request: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]
    inverse: dict[str, Any] | None = None
    why_no_inverse: str = ""
    final: bool = False
    difference: str = ""
    inverse_once: Condition | None = None
    command: str = ""
    lane: str = ""
    at_once: int = Field(1, ge=1)
    patience_seconds: float = Field(0, ge=0)
    may_be_gone: bool = False


class Reach(Part):
    """How far a plan reaches: what is restarted, moved or removed by it."""

    pods: int = 0
    nodes: int = 0
    namespaces: list[str] = []
    services: list[str] = []


class Plan(Part):
    """What would be changed, and all that somebody needs to know to approve it.

    Parameters
    ----------
    target
        Which systems it is for, by name: what identifies each, such as the cluster's UID. A plan is executed nowhere else.
    cautions
        What a reader should know before approving.
    """

    version: Literal[1] = 1
    action: Action
    title: str
    environment: str
    target: dict[str, str]
    requester: str
    created: datetime
    reach: Reach
    cautions: list[str] = []
    steps: list[Step] = Field(min_length=1)
    verify: list[Condition] = []

    @property
    def id(self) -> str:
        """SHA-256 of everything in it (64 hex digits)."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def short_id(self) -> str:
        """As much of the id as people type."""
        return self.id[:SHORT]


def make(
    system: System,
    environment: Environment,
    requester: str,
    action: Action,
    title: str,
    steps: list[Step],
    *,
    reach: Reach | None = None,
    cautions: Iterable[Message] = (),
    verify: Iterable[Condition] = (),
) -> Plan:
    """A plan for one system, made now. Its texts are in the language that is current."""
    return Plan(
        action=action,
        title=title,
        environment=environment.name,
        target={system.name: system.target()},
        requester=requester,
        created=datetime.now(UTC),
        reach=reach or Reach(),
        cautions=[one.text() for one in cautions],
        steps=steps,
        verify=list(verify),
    )


def check_reach(reach: Reach, limits: Limits) -> None:
    """Refuse what reaches further than the environment allows in one plan.

    Raises
    ------
    InputError
        The limit, by its field.
    """
    for field, count, limit in (
        ("pods", reach.pods, limits.pods),
        ("nodes", reach.nodes, limits.nodes),
        ("namespaces", len(set(reach.namespaces)), limits.namespaces),
    ):
        if count > limit:
            raise InputError(
                _("The plan reaches {count} {field}, and one plan may reach {limit}", count=count, field=field, limit=limit),
                _("Make it smaller, or raise limits.{field} in the environment's file", field=field),
            )


# --- files ------------------------------------------------------------------------------------------------------------------------------


def folder(environment: Environment, outputs: Path) -> Path:
    """Where an environment's plans and its log are."""
    return outputs / "actions" / environment.name


def write(plan: Plan, place: Path) -> Path:
    """Write a plan to ``<place>/plans/<id>.yaml``, whole or not at all; the file."""
    path = place / "plans" / f"{plan.id}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump(plan.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    temporary = path.with_suffix(f".{os.getpid()}.new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(f"# opslib: {plan.id}\n{text}")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def read(id: str, place: Path) -> Plan:
    """The plan with that id, or whose id begins so.

    Raises
    ------
    InputError
        There is none, or several; its file is not a plan, or has been changed since it was written.
    """
    known = sorted(path.stem for path in (place / "plans").glob("*.yaml"))
    found = [one for one in known if one.startswith(id)] if id else []
    if len(found) != 1:
        what = (
            _n("There is no plan {id} among {count} plan", "There is no plan {id} among {count} plans", len(known), id=one_line(id))
            if not found
            else _("{id} begins several plans: {names}", id=one_line(id), names=[name[:SHORT] for name in found])
        )
        raise InputError(what, _("All of them"), "opslib audit")
    path = place / "plans" / f"{found[0]}.yaml"
    try:
        plan = Plan.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _spoiled(path, one_line(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise _spoiled(path, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    if plan.id != found[0]:
        raise _spoiled(path, _("its content is not what its id was made of"))
    return plan


def _spoiled(path: Path, reason: Message | str) -> InputError:
    return InputError(_("{file} is no plan to trust: {reason}", file=path, reason=reason), _("Make the plan again"), "opslib plan --help")


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a difference reads as one."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # YAML takes other characters, too, for the end of a line, and does not keep them but between double quotes
    plain = value.replace("\n", "").isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if not plain else "|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
