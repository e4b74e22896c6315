"""Scenarios: what breaks and when, what a right diagnosis names, what a right fix leaves, and what must not be touched.

A scenario is a YAML file in ``opslib/lab/scenarios``, named after it; docs/scenarios.md explains the format. Here it is read and judged,
without a look at anything else; `opslib.lab.stage` puts it on stage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from opslib.errors import InputError
from opslib.lab import faults as plays
from opslib.lab import named
from opslib.lab.world.clock import WALL, Pace
from opslib.lab.world.faults import Fault, service_of
from opslib.lab.world.history import shape
from opslib.lab.world.model import World
from opslib.lab.world.platform import SERVICES
from opslib.messages import _

_DURATION = re.compile(r"^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$")
_CONDITION = re.compile(r"^(==|!=|<=|>=|<|>|=~|!~)\s*(\S.*)$")
_QUANTITY = re.compile(r"^[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")
_UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_DAY, _JST = 86400.0, 9 * 3600.0


def seconds(text: object) -> object:
    """The seconds of a duration as it is written ("1h30m")."""
    if not isinstance(text, str):
        raise ValueError("a time is written like 90s, 10m or 1h30m")  # noqa: TRY004 - pydantic wants it so
    found = _DURATION.match(text)
    if not text or found is None:
        raise ValueError(f"{text!r} is no time: write 90s, 10m or 1h30m")
    return sum(float(number or 0) * unit for number, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))


def _condition(text: str) -> str:
    if _CONDITION.match(text) is None:
        raise ValueError(f"{text!r} is no condition: write ==, !=, <, <=, >, >=, =~ or !~ and a value")
    return text


def _object(text: str) -> str:
    if len(text.split("/")) not in (2, 3) or not all(text.split("/")):
        raise ValueError(f"{text!r} is no object: write Kind/namespace/name, or Kind/name where it is in no namespace")
    return text


def _clock(text: str) -> str:
    if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text) is None:
        raise ValueError(f"{text!r} is no time of day: write it like 14:00, between quotes")
    return text


Seconds = Annotated[float, BeforeValidator(seconds)]
Condition = Annotated[str, AfterValidator(_condition)]
ObjectName = Annotated[str, AfterValidator(_object)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Words(_Part):
    """A text in both languages."""

    en: str = Field(min_length=1)
    ja: str = Field(min_length=1)


class Patch(_Part):
    """A change of an object that is there; `by` made it."""

    object: ObjectName
    api: str = ""  # apiVersion of a kind that Kubernetes itself does not have
    merge: dict[str, Any]
    by: str = "kubectl-edit"


class Silence(_Part):
    """A silence in Alertmanager: matchers by label, as texts or as ``=~...``."""

    matchers: dict[str, str] = Field(min_length=1)
    by: str
    comment: str
    hours: float = 24


class Backups(_Part):
    """Velero's daily backups since then ended so, since their storage location is no longer what it was."""

    phase: Literal["Failed", "PartiallyFailed", "FailedValidation"] = "Failed"
    message: str


class Step(_Part):
    """One thing that breaks: of `fault`, `play`, `apply`, `patch`, `silence` and `backups` exactly one."""

    after: Seconds = 0
    until: Seconds | None = None
    fault: Fault | None = None
    play: str | dict[str, Any] | None = None
    apply: list[dict[str, Any]] = []
    patch: Patch | None = None
    silence: Silence | None = None
    backups: Backups | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Step:
        there = [name for name in ("fault", "play", "apply", "patch", "silence", "backups") if getattr(self, name)]
        if len(there) != 1:
            raise ValueError(f"it is one of fault, play, apply, patch, silence and backups, not {' and '.join(there) or 'none'}")
        if self.until is not None and self.fault is None:
            raise ValueError("only a fault has an end of its own")
        if self.play is not None and self.played("lesson").name != "lesson" and self.patches:
            raise ValueError("a fault of the player's has no patches")
        return self

    def played(self, name: str) -> plays.Fault:
        """The fault that the lab's player plays: a file of opslib/lab/faults by its name, or one that is written out here."""
        if isinstance(self.play, str):
            try:
                return plays.load(self.play)
            except InputError as error:
                raise ValueError(str(error.what)) from None
        content = {key: value for key, value in (self.play or {}).items() if key != "patches"}
        return plays.Fault.model_validate({"name": name, "title": name, "objects": [], **content})

    @property
    def patches(self) -> list[Patch]:
        """The changes of objects that a play begins with, or the only one."""
        if self.patch is not None:
            return [self.patch]
        return [Patch.model_validate(one) for one in self.play.get("patches", [])] if isinstance(self.play, dict) else []


class Misleading(_Part):
    """What it looks like, and is not."""

    subject: ObjectName
    why: Words


class Diagnosis(_Part):
    """What a right diagnosis names."""

    cause: str
    subjects: list[ObjectName] = Field(min_length=1)
    words: list[list[str]] = []
    misleading: list[Misleading] = []

    def fits(self, text: str) -> bool:
        """Whether a diagnosis that someone wrote names the subjects (by their names) and has the words."""
        low = text.casefold()
        named = all(subject.rpartition("/")[2].casefold() in low for subject in self.subjects)
        return named and all(any(word.casefold() in low for word in group) for group in self.words)


class Sign(_Part):
    """What the metrics show at a time."""

    after: Seconds
    query: str
    is_: Condition = Field(alias="is")


class ObjectState(_Part):
    """What an object must be like: every value that the JSONPath finds, and it must find one; or that it must be gone."""

    object: ObjectName
    api: str = ""  # apiVersion of a kind that Kubernetes itself does not have
    path: str = "$.metadata.name"
    is_: Condition = Field(default="!= -", alias="is")
    absent: bool = False  # the path must find nothing
    gone: bool = False  # the object must not be there


class Asked(_Part):
    """What another system must answer, asked every few seconds: `get` of a part of the lab, or `call` of an AWS service."""

    part: Literal["alertmanager", "aws"]
    get: str = ""
    service: str = ""
    call: str = ""
    parameters: dict[str, Any] = {}
    path: str
    is_: Condition = Field(default="!= -", alias="is")
    absent: bool = False  # the path must find nothing


class MetricState(_Part):
    """What the metrics must show within a time after the objects are so."""

    within: Seconds
    query: str
    is_: Condition = Field(alias="is")


class End(_Part):
    """An end state that is accepted."""

    title: Words
    ends: list[int] = []
    objects: list[ObjectState] = []
    asked: list[Asked] = []
    metrics: list[MetricState] = []


class Forbidden(_Part):
    """An act that fails the lesson. An empty field stands for all."""

    verbs: list[Literal["create", "update", "patch", "delete", "deletecollection", "scale", "exec", "evict"]] = Field(min_length=1)
    resource: str
    namespace: str = ""
    name: str = ""
    why: Words

    def covers(self, verb: str, resource: str, namespace: str = "", name: str = "") -> bool:
        """Whether it forbids this act."""
        wanted = ((self.resource, resource), (self.namespace, namespace), (self.name, name))
        return verb in self.verbs and all(mine in ("", theirs) for mine, theirs in wanted)


class Scenario(_Part):
    """A lesson. `name` is that of its file."""

    name: str
    title: Words
    story: Words
    look: str = ""
    level: Literal[1, 2, 3] = 1
    clock: Annotated[str, AfterValidator(_clock)] = "14:00"
    seen_after: Seconds = 3600.0
    timeline: list[Step] = Field(min_length=1)
    diagnosis: Diagnosis
    signature: list[Sign] = []
    accepted: list[End] = Field(min_length=1)
    forbidden: list[Forbidden] = []

    @model_validator(mode="after")
    def _agrees(self) -> Scenario:
        kinds = [step.fault.kind for step in self.timeline if step.fault]
        if self.diagnosis.cause not in kinds and len(kinds) == len(self.timeline):
            raise ValueError(f"diagnosis.cause: {self.diagnosis.cause} is none of the faults in the timeline ({', '.join(kinds)})")
        for number, step in enumerate(self.timeline):
            if step.until is not None and step.until <= step.after:
                raise ValueError(f"timeline.{number}.until: it ends before it begins")
        for number, end in enumerate(self.accepted):
            if any(not 0 <= one < len(self.timeline) or not self.timeline[one].fault for one in end.ends):
                raise ValueError(
                    f"accepted.{number}.ends: the timeline has {len(self.timeline)} steps, counted from 0, of which faults end"
                )
            if not end.objects and not end.metrics and not end.asked and not end.ends:
                raise ValueError(f"accepted.{number}: it needs objects, metrics or an answer to be known by")
        world = self.world(seed=0, now=0.0)
        known = {f"{service.kind}/{service.namespace}/{service.name}" for service in world.services}
        known |= {f"Node/{node.name}" for node in world.nodes}
        known |= {f"{obj.get('kind')}/{obj['metadata'].get('namespace', 'shop')}/{obj['metadata']['name']}" for obj in self._made()}
        for subject in [*self.diagnosis.subjects, *(one.subject for one in self.diagnosis.misleading)]:
            if subject.partition("/")[0] in ("Deployment", "StatefulSet", "DaemonSet", "Node") and subject not in known:
                raise ValueError(f"diagnosis: the platform has no {subject}")
        return self

    def _made(self) -> list[dict[str, Any]]:
        played = [obj for step in self.timeline if step.play is not None for obj in step.played("lesson").objects]
        return [*played, *(obj for step in self.timeline for obj in step.apply)]

    def begins(self, now: float) -> float:
        """The last time before `now` (Unix seconds) at which its clock says so: when the timeline begins."""
        hours, minutes = self.clock.split(":")
        of_day = int(hours) * 3600 + int(minutes) * 60
        return (now + _JST - of_day) // _DAY * _DAY + of_day - _JST

    def world(self, seed: int, now: float, *, history_days: float = 7) -> World:
        """The world in which it happens.

        Parameters
        ----------
        now
            Unix seconds; the timeline begins at the last time that the scenario's clock says so.
        history_days
            How long the world has been before.
        """
        begin = self.begins(now)
        world = World(seed, begin - history_days * _DAY, begin)
        return self.broken(world, begin)

    def broken(self, world: World, begin: float, pace: Pace = WALL) -> World:
        """`world` with the faults of the timeline, which begins at a time in Unix seconds and goes on at a pace.

        What depends on traffic is as big as it must be to be noticed at that hour as at the hour of the scenario's clock, and in a larger
        platform, where each pod has less of it, as in the usual one.
        """
        noticed = np.array([begin, self.begins(begin)]) + self.seen_after
        now, meant = shape(noticed).tolist()
        for step in self.timeline:
            if step.fault:
                end = float("inf") if step.until is None else pace.after(begin, step.until)
                share = now / meant * _of_usual(world, service_of(step.fault))
                world = world.breaks(step.fault.at_traffic(share), pace.after(begin, step.after), end, pace)
        return world


def _of_usual(world: World, service: str) -> float:
    """How much of a pod's usual traffic a service's pods have: in a larger platform there are more of them for the same."""
    usual = next((one.replicas for one in SERVICES if one.name == service), 0)
    return usual / world.services[world.places[service]].replicas if usual else 1.0


# --- the catalogue ----------------------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """The names of all scenarios, sorted."""
    return named.names(named.SCENARIOS)


def load(name: str) -> Scenario:
    """The scenario of that name.

    Raises
    ------
    InputError
        There is none (the nearest is named), or its file is not in the format.
    """
    path = named.path_of(named.SCENARIOS, name, _("There is no scenario {name}", name=name))
    return parse(path.read_text("utf-8"), path.name)


def parse(text: str, file: str) -> Scenario:
    """A scenario from its YAML; `file` is named in errors, and names it.

    Raises
    ------
    InputError
        The text is not YAML, or not in the format; the first field that is wrong is named.
    """
    try:
        content = named.content(text)
    except yaml.YAMLError as error:
        raise InputError(_("{file} is not YAML: {reason}", file=file, reason=str(error))) from None
    if isinstance(content, dict):
        content.setdefault("name", Path(file).stem)
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "scenario"
        raise InputError(_("{file}: {field}: {reason}", file=file, field=field, reason=first["msg"])) from None


# --- judging ----------------------------------------------------------------------------------------------------------------------------


def holds(condition: str, value: object) -> bool:
    """Whether a value fulfils a condition: as numbers where both are, else as texts, which are only equal or not."""
    found = _CONDITION.match(condition)
    if found is None:
        raise ValueError(f"{condition!r} is no condition")
    sign, wanted = found.groups()
    if sign in ("=~", "!~"):
        return (re.search(wanted, str(value)) is not None) == (sign == "=~")
    mine, theirs = _number(value), _number(wanted)
    if mine is None or theirs is None:
        return (str(value) == wanted) == (sign == "==") if sign in ("==", "!=") else False
    return {
        "==": mine == theirs, "!=": mine != theirs, "<": mine < theirs, "<=": mine <= theirs, ">": mine > theirs, ">=": mine >= theirs,
    }[sign]  # fmt: skip


def objects_fit(end: End, objects: Iterable[dict[str, Any]]) -> bool:
    """Whether the cluster's objects are as an end state asks. One that is not there fits nothing, unless it must be gone."""
    by_name = {_name_of(one): one for one in objects}
    return all(
        state.object not in by_name if state.gone else state.object in by_name and fits(state, by_name[state.object])
        for state in end.objects
    )


def fits(state: ObjectState | Asked, content: Any) -> bool:
    """Whether an object, or an answer, is as a condition asks."""
    import jsonpath

    found = jsonpath.findall(state.path, content)
    if state.absent:
        return not found
    return bool(found) and all(holds(state.is_, value) for value in found)


def _name_of(one: dict[str, Any]) -> str:
    metadata = one.get("metadata", {})
    return "/".join(part for part in (one.get("kind", ""), metadata.get("namespace", ""), metadata.get("name", "")) if part)


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    found = _QUANTITY.match(str(value))
    if found is None:
        return None
    unit = found[1] or ""
    return float(str(value).removesuffix(unit)) * _UNITS.get(unit, 1.0)
