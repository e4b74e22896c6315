"""Refusals in the API server's own words: each is a ``Status`` object (k8s.io/apimachinery, pkg/api/errors)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


class Refused(Exception):
    """A request that is answered with a failure.

    Parameters
    ----------
    code
        HTTP status.
    reason
        The machine's word: "NotFound", "Conflict"...
    message
        The words for a person.
    details
        The Status' details; None leaves them out.
    metadata
        The Status' metadata (a list that has expired carries its new continue token there).
    """

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None, metadata: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata or {}

    def status(self) -> Object:
        """The Status object."""
        content: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if not self.reason:
            del content["reason"]
        if self.details is not None:
            content["details"] = self.details
        return {**content, "code": self.code}


def details_of(name: str, group: str, kind: str, **more: Any) -> Object:
    """Details without the empty ones."""
    return {key: value for key, value in {"name": name, "group": group, "kind": kind, **more}.items() if value}


def _qualified(resource: str, group: str) -> str:
    return f"{resource}.{group}" if group else resource


def not_found(group: str, resource: str, name: str) -> Refused:
    """404 for an object."""
    return Refused(404, "NotFound", f'{_qualified(resource, group)} "{name}" not found', details_of(name, group, resource))


def no_such_resource() -> Refused:
    """404 for a resource that is not served."""
    return Refused(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(group: str, resource: str, name: str) -> Refused:
    """409 for a name that is taken."""
    return Refused(409, "AlreadyExists", f'{_qualified(resource, group)} "{name}" already exists', details_of(name, group, resource))


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(group: str, resource: str, name: str, why: str = MODIFIED) -> Refused:
    """409 for an update that does not start from the present state."""
    message = f'Operation cannot be fulfilled on {_qualified(resource, group)} "{name}": {why}'
    return Refused(409, "Conflict", message, details_of(name, group, resource))


def bad_request(message: str) -> Refused:
    """400."""
    return Refused(400, "BadRequest", message)


def forbidden(group: str, resource: str, name: str, why: str) -> Refused:
    """403 for an object or a resource."""
    subject = f'{_qualified(resource, group)} "{name}"' if name else _qualified(resource, group)
    return Refused(403, "Forbidden", f"{subject} is forbidden: {why}", details_of(name, group, resource))


def unauthorized() -> Refused:
    """401."""
    return Refused(401, "Unauthorized", "Unauthorized")


def method_not_supported(group: str, resource: str, verb: str) -> Refused:
    """405 of a resource that has other verbs."""
    message = f"{verb} is not supported on resources of kind {json.dumps(_qualified(resource, group))}"
    return Refused(405, "MethodNotAllowed", message, details_of("", group, resource))


def method_not_allowed() -> Refused:
    """405 of a path that is not served for the method."""
    return Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def gone(message: str, continue_token: str = "") -> Refused:
    """410: the version asked for is no longer kept."""
    return Refused(410, "Expired", message, metadata={"continue": continue_token} if continue_token else None)


def internal(message: str) -> Refused:
    """500."""
    text = f"Internal error occurred: {message}"
    return Refused(500, "InternalError", text, {"causes": [{"message": message}]})


def unsupported_media_type(accepted: Sequence[str]) -> Refused:
    """415."""
    text = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return Refused(415, "UnsupportedMediaType", text)


def not_acceptable(accepted: Sequence[str]) -> Refused:
    """406."""
    return Refused(406, "NotAcceptable", "only the following media types are accepted: " + ", ".join(accepted))


def too_many_requests(message: str, seconds: int = 0, causes: Sequence[Object] = ()) -> Refused:
    """429."""
    details: Object = {}
    if causes:
        details["causes"] = [*causes]
    if seconds:
        details["retryAfterSeconds"] = seconds
    return Refused(429, "TooManyRequests", message, details)


def forbidden_field(path: str, detail: str) -> Problem:
    """A field that may not be set or changed."""
    return Problem("FieldValueForbidden", path, f"Forbidden: {detail}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One field that is wrong: ``field.Error`` of k8s.io/apimachinery."""

    reason: str
    path: str
    detail: str

    @property
    def text(self) -> str:
        """The words with the path."""
        return f"{self.path}: {self.detail}"


def quoted(value: Any) -> str:
    """A value as the API server puts it into its words."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def required(path: str, detail: str = "") -> Problem:
    """A field that is missing."""
    return Problem("FieldValueRequired", path, "Required value" + (f": {detail}" if detail else ""))


def invalid(path: str, value: Any, detail: str) -> Problem:
    """A value that is not valid."""
    return Problem("FieldValueInvalid", path, f"Invalid value: {quoted(value)}" + (f": {detail}" if detail else ""))


def unsupported(path: str, value: Any, supported: Sequence[str]) -> Problem:
    """A value that is not one of the known ones."""
    known = ", ".join(json.dumps(one) for one in supported)
    return Problem("FieldValueNotSupported", path, f"Unsupported value: {quoted(value)}: supported values: {known}")


def duplicate(path: str, value: Any) -> Problem:
    """A value that stands there twice."""
    return Problem("FieldValueDuplicate", path, f"Duplicate value: {quoted(value)}")


def too_long(path: str, size: int) -> Problem:
    """A text that is too long."""
    return Problem("FieldValueTooLong", path, f"Too long: may not be more than {size} bytes")


def unknown_object(path: str, value: Any) -> Problem:
    """A reference to something that is not there."""
    return Problem("FieldValueNotFound", path, f"Not found: {quoted(value)}")


def invalid_object(group: str, kind: str, name: str, problems: Sequence[Problem]) -> Refused:
    """422: an object with fields that are wrong."""
    texts = [problem.text for problem in dict.fromkeys(problems)]
    words = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    causes = [{"reason": problem.reason, "message": problem.detail, "field": problem.path} for problem in problems]
    qualified = f"{kind}.{group}" if group else kind
    return Refused(422, "Invalid", f'{qualified} "{name}" is invalid: {words}', details_of(name, group, kind, causes=causes))
