"""Errors that a person reads: what happened, why, and what to do next."""

from __future__ import annotations

from opslib.messages import Message, Text, _


class OpsError(Exception):
    """Something that the user can put right.

    Parameters
    ----------
    what
        What happened, to which object, and why.
    remedy
        What to do next.
    command
        The command for it, ready to paste; empty where there is none.
    """

    exit_status = 3

    def __init__(self, what: Text, remedy: Text = "", command: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.command = command

    def message(self) -> Message:
        """All of it on one line."""
        if self.remedy and self.command:
            return _("{what}. {remedy}: {command}", what=self.what, remedy=self.remedy, command=self.command)
        if self.remedy:
            return _("{what}. {remedy}", what=self.what, remedy=self.remedy)
        return _("{what}", what=self.what)

    def __str__(self) -> str:
        return str(self.message())


class InputError(OpsError):
    """A parameter, file or argument that cannot be used: nothing has been read or written."""


class WrongTarget(InputError):
    """What is configured leads to another cluster or account than the environment's: nothing may be read or changed there."""


class SourceError(OpsError):
    """A system that did not answer, or refused. `system` names it: "kubernetes", "prometheus", "alertmanager", "elasticsearch", "aws"."""

    def __init__(self, system: str, what: Text, remedy: Text = "", command: str = "") -> None:
        super().__init__(what, remedy, command)
        self.system = system


class Unreachable(SourceError):
    """No answer: refused, timed out, no route, name not found, certificate not trusted."""


class Unauthenticated(SourceError):
    """401: the credentials are missing, wrong or expired."""


class Forbidden(SourceError):
    """403: the credentials are good, a permission is missing; the remedy names it."""


class NotFound(SourceError):
    """404: the object is not there (any more)."""


class Expired(SourceError):
    """410: a list's continue token or a resourceVersion is too old."""


class Conflict(SourceError):
    """409: somebody else changed the object since it was read."""


class Refused(SourceError):
    """The system understood and will not do it: not valid, against a policy, or against a disruption budget. `status` is HTTP's."""

    def __init__(self, system: str, what: Text, remedy: Text = "", command: str = "", *, status: int = 0) -> None:
        super().__init__(system, what, remedy, command)
        self.status = status


class NotNow(Refused):
    """Refused for the time being: the same request may be allowed later, as an eviction is once its disruption budget has room again."""
