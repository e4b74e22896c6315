"""From a plan to the deed: approve, execute, verify, undo; every step in the log before and after it is done.

What has been done is known from the log and from the world, never from memory. A step whose "begins" is in the log without its "done" was
cut off: if the object is like `Step.after` it has been done, if it is like `Step.before` it has not; if it is neither, nobody but a person
can tell, and the pipeline stops. So a run that was killed anywhere goes on where it was when the plan is executed again; so does one with
several steps at the same time (`Step.lane`), of which each has its own records.
"""

from __future__ import annotations

import contextvars
import fcntl
import getpass
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from opslib.actions import plans
from opslib.actions.audit import Log, Record, log_in
from opslib.actions.plans import Condition, Plan, Step
from opslib.actions.systems import ABSENT, Preview, System
from opslib.environments import Environment
from opslib.errors import InputError, NotNow, OpsError, SourceError
from opslib.messages import Message, Text, _, _n, one_line, text_of

Report = Callable[[Text], None]
Progress = Callable[[int, int, int], None]
"""Told how many steps are done, how many are under way, and how many there are."""

MOST_AT_ONCE = 16
"""So many steps are under way at the same time, of all lanes together."""

_POLL_SECONDS = 1.0
_MISSED = 2


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody's word that a plan may be executed; `until` is aware."""

    approver: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Desk:
    """Where an environment's plans are kept, approved and executed.

    Parameters
    ----------
    place
        The folder with ``plans/`` and the log.
    systems
        By name, as plans name them.
    who
        The identity of who is asking (`identity`).
    """

    environment: Environment
    place: Path
    systems: Mapping[str, System]
    who: str

    @property
    def log(self) -> Log:
        """The log of this environment's actions."""
        return log_in(self.place)


def identity(environment: Environment, cluster_user: Callable[[], str]) -> str:
    """Who is asking, as the environment wants people to be known."""
    return cluster_user() if environment.approval.identity == "kubernetes" else getpass.getuser()


# --- plan, approve ----------------------------------------------------------------------------------------------------------------------


def file_plan(desk: Desk, plan: Plan) -> Path:
    """Keep a plan so that it can be approved and executed; the file.

    Raises
    ------
    InputError
        It reaches further than the environment allows.
    """
    plans.check_reach(plan.reach, desk.environment.limits)
    path = plans.write(plan, desk.place)
    desk.log.append("planned", plan.id, desk.who, title=plan.title, action=plan.action)
    return path


def needs_approval(desk: Desk, plan: Plan) -> bool:
    """Whether the environment asks for an approval of such plans."""
    return plan.action in desk.environment.approval.required_for


def approve(desk: Desk, plan: Plan, comment: str = "") -> Approval:
    """Give an approval, as who is asking.

    Raises
    ------
    InputError
        Who is asking may not approve it, or it has been executed.
    """
    rules = desk.environment.approval
    if rules.approvers and desk.who not in rules.approvers:
        raise InputError(
            _("{who} may not approve plans of {environment}", who=desk.who, environment=desk.environment.name),
            _("Ask one of {names}", names=rules.approvers),
        )
    if rules.other_than_requester and desk.who == plan.requester:
        raise InputError(
            _("{who} has asked for this plan; somebody else has to approve it", who=desk.who),
            _("Ask one of {names}", names=rules.approvers),
        )
    records = desk.log.of(plan.id)
    if _state(records) not in ("planned", "refused", "approved", "begun"):
        raise InputError(_("The plan is {state} already", state=_state(records)), _("Make a new plan"))
    until = datetime.now(UTC) + timedelta(minutes=rules.valid_minutes)
    desk.log.append("approved", plan.id, desk.who, until=until.isoformat(), comment=one_line(comment, 500))
    return Approval(desk.who, until)


def approval_of(desk: Desk, plan: Plan, now: datetime | None = None) -> Approval | None:
    """The approval that holds now; None where none does."""
    rules, now = desk.environment.approval, now or datetime.now(UTC)
    for record in reversed(desk.log.of(plan.id)):
        if record.event != "approved":
            continue
        approval = Approval(record.who, datetime.fromisoformat(record.data["until"]))
        allowed = approval.approver in rules.approvers and not (rules.other_than_requester and approval.approver == plan.requester)
        if allowed and now < approval.until:
            return approval
    return None


# --- execute ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an execution or a dry run.

    Parameters
    ----------
    done
        How many steps are done.
    verified
        None where nothing was to be verified, or in a dry run.
    previews
        What each step would do, in a dry run.
    held_up
        In a dry run: the steps that would have to wait, with what for.
    """

    plan: Plan
    done: int
    verified: bool | None = None
    why: Message | None = None
    previews: tuple[Preview, ...] = ()
    held_up: tuple[Message, ...] = ()


def rehearse(desk: Desk, plan: Plan) -> Outcome:
    """Everything but the deed: the same checks, and the systems' own dry runs.

    Raises
    ------
    InputError
        It is for another environment or another cluster, or has been executed.
    SourceError
        A system does not answer or refuses; the world is not as it was when the plan was made.
    """
    _check_target(desk, plan)
    records = desk.log.of(plan.id)
    _check_open(plan, records)
    previews: list[Preview] = []
    held_up: list[Message] = []
    for number, step in enumerate(plan.steps):
        if _is_settled(desk, step, number, records):
            continue
        try:
            previews.append(desk.systems[step.system].preview(step.request))
        except NotNow as error:
            if not step.patience_seconds:
                raise
            previews.append(Preview(step.after, step.difference))
            held_up.append(_("{what} would have to wait: {why}", what=step.what, why=error.what))
    return Outcome(plan, done=len(plan.steps) - len(previews), previews=tuple(previews), held_up=tuple(held_up))


def execute(
    desk: Desk, plan: Plan, report: Report = lambda text: None, progress: Progress = lambda done, under_way, total: None
) -> Outcome:
    """Do it, or go on where an earlier execution was cut off; then see whether it worked.

    Once a step fails no further one begins; those under way are waited for, and what is left is reported.

    Raises
    ------
    InputError
        It is for another environment, needs an approval that is not there or has expired, has been executed, or is being executed.
    SourceError
        A system does not answer or refuses; the world is not as it was when the plan was made. The steps before are done, and the log
        says so.
    """
    _check_target(desk, plan)
    with _alone(desk):
        records = desk.log.of(plan.id)
        _check_open(plan, records)
        approval = approval_of(desk, plan)
        if needs_approval(desk, plan) and approval is None:
            desk.log.append("refused", plan.id, desk.who, reason="no approval")
            raise InputError(
                _("Plan {id} needs an approval that holds", id=plan.short_id),
                _("Ask one of {names} for", names=desk.environment.approval.approvers),
                f"opslib approve {plan.short_id} --env {desk.environment.name}",
            )
        _check_drift(desk, plan, records)
        desk.log.append("started", plan.id, desk.who, approver=approval.approver if approval else "")
        _Execution(desk, plan, records, report, progress).run()
        verified, why = _verify(desk, plan, report)
        desk.log.append("finished", plan.id, desk.who, verified=verified, why=why.text("en") if why else "")
    return Outcome(plan, done=len(plan.steps), verified=verified, why=why)


class _Execution:
    """The steps of a plan, done once each: those with lanes beside their neighbours, the others alone."""

    def __init__(self, desk: Desk, plan: Plan, records: list[Record], report: Report, progress: Progress) -> None:
        self._desk, self._plan, self._records = desk, plan, records
        self._report, self._progress = report, progress
        self._stop = threading.Event()
        self._done = 0

    def run(self) -> None:
        steps = enumerate(self._plan.steps)
        for _key, batch in itertools.groupby(steps, key=lambda one: "beside" if one[1].lane else one[0]):
            numbers = [number for number, _step in batch]
            if len(numbers) == 1:
                self._begins(numbers[0], under_way=1)
                self._do(numbers[0])
                self._ended(under_way=0)
            else:
                self._do_together(numbers)

    def _do_together(self, waiting: list[int]) -> None:
        """Steps in order, as many at the same time as their lanes have room for."""
        failed: list[BaseException] = []
        left: list[int] = []
        running: dict[Future[None], int] = {}
        with ThreadPoolExecutor(MOST_AT_ONCE, "step") as executor:
            try:
                while running or (waiting and not failed):
                    while not failed and (number := self._next(waiting, running.values())) is not None:
                        waiting.remove(number)
                        self._begins(number, under_way=len(running) + 1)
                        running[executor.submit(contextvars.copy_context().run, self._do, number)] = number
                    for one in wait(running, return_when=FIRST_COMPLETED).done:
                        number = running.pop(one)
                        if (error := one.exception()) is None:
                            self._ended(under_way=len(running))
                            continue
                        failed.append(error)
                        left.append(number)
                        why = error.what if isinstance(error, OpsError) else one_line(error)
                        self._report(_("Failed: {what}: {why}", what=self._plan.steps[number].what, why=why))
            except BaseException:
                self._stop.set()  # so that nobody who waits for something to pass is waited for
                raise
        if failed:
            names = [self._plan.steps[number].what for number in sorted([*left, *waiting])]
            self._report(_n("{count} step of it is left: {names}", "{count} steps of it are left: {names}", len(names), names=names))
            raise failed[0]

    def _next(self, waiting: list[int], running: Iterable[int]) -> int | None:
        """The first step whose lane has room."""
        steps, lanes = self._plan.steps, Counter(self._plan.steps[number].lane for number in running)
        if lanes.total() >= MOST_AT_ONCE:
            return None
        return next((number for number in waiting if lanes[steps[number].lane] < steps[number].at_once), None)

    def _begins(self, number: int, under_way: int) -> None:
        total = len(self._plan.steps)
        self._report(_("Step {number} of {total}: {what}", number=number + 1, total=total, what=self._plan.steps[number].what))
        self._progress(self._done, under_way, total)

    def _ended(self, under_way: int) -> None:
        self._done += 1
        self._progress(self._done, under_way, len(self._plan.steps))

    def _do(self, number: int) -> None:
        desk, plan, step = self._desk, self._plan, self._plan.steps[number]
        if _is_settled(desk, step, number, self._records):
            if number not in _steps(self._records, "step.done"):
                begun = number in _steps(self._records, "step.begins")
                how = "found done after an execution that was cut off" if begun else _GONE
                desk.log.append("step.done", plan.id, desk.who, step=number, how=how)
            return
        desk.log.append("step.begins", plan.id, desk.who, step=number, what=step.what)
        try:
            how = self._send(step)
        except SourceError as error:
            # it may have arrived all the same: what the object is like says so, when the plan is executed again
            desk.log.append("step.failed", plan.id, desk.who, step=number, reason=text_of(error.what, "en"))
            raise
        desk.log.append("step.done", plan.id, desk.who, step=number, how=how)

    def _send(self, step: Step) -> str:
        """Do it, as soon as it is allowed; how it came about, where that was not by us."""
        system, give_up, said = self._desk.systems[step.system], time.monotonic() + step.patience_seconds, False
        while True:
            try:
                system.send(step.request, step.before)
            except SourceError as error:
                if step.may_be_gone and self._is_gone(step):
                    return _GONE
                if not isinstance(error, NotNow) or time.monotonic() >= give_up:
                    raise
                if not said:
                    self._report(_("  {what} waits: {why}", what=step.what, why=error.what))
                    said = True
                if self._stop.wait(_POLL_SECONDS):
                    raise
            else:
                return ""

    def _is_gone(self, step: Step) -> bool:
        try:
            return _is_reached(self._desk, step)
        except SourceError:
            return False


_GONE = "gone already"


def _is_done(desk: Desk, step: Step, number: int, records: list[Record]) -> bool:
    """Whether a step has been done: the log says so, or it was begun and the object is as it is to be then."""
    if number in _steps(records, "step.done"):
        return True
    if number not in _steps(records, "step.begins"):
        return False
    return _is_reached(desk, step)


def _is_settled(desk: Desk, step: Step, number: int, records: list[Record]) -> bool:
    """Whether nothing is to be done for a step any more: it has been done, or came about by itself where that is as good."""
    return number in _steps(records, "step.done") or (_counts(step, number, records) and _is_reached(desk, step))


def _counts(step: Step, number: int, records: list[Record]) -> bool:
    """Whether a step counts as done where its object is as it is to be then."""
    return step.may_be_gone or number in _steps(records, "step.begins")


def _is_reached(desk: Desk, step: Step) -> bool:
    system = desk.systems[step.system]
    return system.reached(step.request, step.after, system.observe(step.request))


def _check_drift(desk: Desk, plan: Plan, records: list[Record]) -> None:
    """Refuse, before anything is done, where an object of a step that is still to do is not as it was."""
    for number, step in enumerate(plan.steps):
        if number in _steps(records, "step.done"):
            continue
        system = desk.systems[step.system]
        now = system.observe(step.request)
        if _counts(step, number, records) and system.reached(step.request, step.after, now):
            continue
        if now != step.before:
            desk.log.append("refused", plan.id, desk.who, reason="drift", step=number, now=now)
            raise SourceError(
                step.system,
                _("The world is not as it was when plan {id} was made: {what}", id=plan.short_id, what=step.what),
                _("See what changed, and make the plan again"),
            )


def _check_target(desk: Desk, plan: Plan) -> None:
    if plan.environment != desk.environment.name:
        raise InputError(
            _("Plan {id} is for {one}, not for {other}", id=plan.short_id, one=plan.environment, other=desk.environment.name),
            _("Name its environment"),
            f"--env {plan.environment}",
        )
    for name, expected in plan.target.items():
        found = desk.systems[name].target()
        if found != expected:
            raise InputError(
                _(
                    "Plan {id} is for {system} {expected}, but {environment} leads to {found}",
                    **{"id": plan.short_id, "system": name, "expected": expected, "environment": desk.environment.name, "found": found},
                ),
                _("Mend the environment's file, or make the plan again"),
            )


def _check_open(plan: Plan, records: list[Record]) -> None:
    state = _state(records)
    if state in ("finished", "undone", "undo.started"):
        raise InputError(_("Plan {id} has been executed", id=plan.short_id), _("Make a new plan"))


# --- verify -----------------------------------------------------------------------------------------------------------------------------


def _verify(desk: Desk, plan: Plan, report: Report) -> tuple[bool | None, Message | None]:
    """Whether all conditions became true in time and stayed so; and what is missing where not."""
    for condition in plan.verify:
        report(_("Waiting: {what}", what=condition.what))
        held, why = _comes_true(desk.systems[condition.system], condition, report)
        if not held:
            return False, why
    return (True if plan.verify else None), None


def _comes_true(system: System, condition: Condition, report: Report) -> tuple[bool, Message]:
    """Whether it became true in time and stayed so, and why not; each change on the way there is reported."""
    said = ""
    deadline = time.monotonic() + condition.deadline_seconds
    since: float | None = None
    missed = 0  # looks in a row at which it did not hold any more: one alone may be a controller that has not counted yet
    held: bool | None
    while True:
        try:
            held, why = system.holds(condition.question)
        except SourceError as error:  # an API server that is busy with the change is no failure of the change
            held, why, since = False, _("could not look: {reason}", reason=error.what), None
        now = time.monotonic()
        if held is None:
            return False, _("{what}: {why}", what=condition.what, why=why)
        if held:
            since, missed = now if since is None or missed else since, 0
            if now - since >= condition.steady_seconds:
                return True, why
        elif since is not None:
            missed += 1
            if missed == _MISSED or now > deadline:
                seconds = round(now - since)
                return False, _("{what}: for {seconds} s, and then no longer: {why}", what=condition.what, seconds=seconds, why=why)
        else:
            if (text := why.text()) != said:
                said = text
                report(_("  so far: {why}", why=why))
            if now > deadline:
                seconds = round(condition.deadline_seconds)
                return False, _("{what}: not after {seconds} s, {why}", what=condition.what, seconds=seconds, why=why)
        time.sleep(min(_POLL_SECONDS, max(0.1, condition.steady_seconds)))


# --- undo -------------------------------------------------------------------------------------------------------------------------------


def undo(desk: Desk, plan: Plan, report: Report = lambda text: None) -> int:
    """Take back what was done of a plan, the last step first; how many steps were taken back.

    The approval of a plan covers this: its inverse was shown with it.

    Raises
    ------
    InputError
        Nothing of it has been done, or nothing that was done can be taken back, or something was lost for good; nothing is taken back
        then.
    SourceError
        A system refuses, or an object has been changed since.
    """
    _check_target(desk, plan)
    with _alone(desk):
        records = desk.log.of(plan.id)
        if _state(records) == "undone":
            raise InputError(_("Plan {id} has been undone", id=plan.short_id))
        undone = _steps(records, "undo.done")
        done = [number for number, step in enumerate(plan.steps) if number not in undone and _is_done(desk, step, number, records)]
        if not done and not undone:
            raise InputError(_("Nothing of plan {id} has been done", id=plan.short_id))
        open_ = [number for number in done if plan.steps[number].inverse is not None]
        final = [plan.steps[number] for number in done if plan.steps[number].final]
        if final or not (open_ or undone):
            step = final[0] if final else plan.steps[done[0]]
            raise InputError(_("{what} cannot be taken back: {why}", what=step.what, why=step.why_no_inverse))
        desk.log.append("undo.started", plan.id, desk.who)
        for number in reversed(open_):
            _take_back(desk, plan, number, records, report)
        desk.log.append("undone", plan.id, desk.who)
    return len(open_)


def _take_back(desk: Desk, plan: Plan, number: int, records: list[Record], report: Report) -> None:
    step = plan.steps[number]
    assert step.inverse is not None
    system = desk.systems[step.system]
    report(_("Taking back: {what}", what=step.what))
    if step.inverse_once is not None:
        report(_("Waiting: {what}", what=step.inverse_once.what))
        held, why = _comes_true(desk.systems[step.inverse_once.system], step.inverse_once, report)
        if not held:
            raise SourceError(step.system, why, _("Undo it again once that is so"), f"opslib undo {plan.short_id} --env {plan.environment}")
    now = system.observe(step.request)
    target = now if _same_object(step.request, step.inverse) else system.observe(step.inverse)
    as_done = system.reached(step.request, step.after, now)
    if number in _steps(records, "undo.begins") and (not as_done or target == ABSENT or "deleting" in target):
        desk.log.append("undo.done", plan.id, desk.who, step=number, how="found done after an undo that was cut off")
        return
    if not as_done:
        raise SourceError(
            step.system,
            _("{what}: somebody has changed the object since, so it is not taken back blindly", what=step.what),
            _("See what changed, and make a plan for it"),
        )
    desk.log.append("undo.begins", plan.id, desk.who, step=number)
    if target != ABSENT:
        system.send(step.inverse, target)
    desk.log.append("undo.done", plan.id, desk.who, step=number)


def _same_object(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(name) == other.get(name) for name in ("resource", "namespace", "name", "path"))


# --- what the log says ------------------------------------------------------------------------------------------------------------------


def state(desk: Desk, plan: Plan) -> Literal["planned", "approved", "refused", "begun", "finished", "undo.started", "undone"]:
    """Where a plan stands, by the log; "begun" is one whose execution did not come to its end."""
    return _state(desk.log.of(plan.id))


def _state(records: list[Record]) -> Literal["planned", "approved", "refused", "begun", "finished", "undo.started", "undone"]:
    for record in reversed(records):
        if record.event in ("finished", "undone", "approved", "planned"):
            return record.event  # type: ignore[return-value]
        if record.event.startswith("undo."):
            return "undo.started"
        if record.event == "refused" and not _is_begun(records):
            return "refused"
        if record.event in ("started", "step.begins", "step.done", "step.failed", "refused"):
            return "begun"
    return "planned"


def _is_begun(records: list[Record]) -> bool:
    return any(record.event == "started" for record in records)


def _steps(records: list[Record], event: str) -> set[int]:
    return {record.data["step"] for record in records if record.event == event}


@contextmanager
def _alone(desk: Desk) -> Iterator[None]:
    """One execution at a time in an environment; the lock goes with the process, however it ends."""
    desk.place.mkdir(parents=True, exist_ok=True)
    with (desk.place / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OpsError(_("Another plan of {name} is being executed", name=desk.environment.name), _("Wait until it is done")) from None
        yield
