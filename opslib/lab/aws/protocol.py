"""Requests in and answers out, by botocore's service models: the other end of what a boto3 client does.

Two of the protocols are spoken: "rest-json" (EKS, Access Analyzer) and "json" (CloudTrail, ECR). What they are:
https://smithy.io/2.0/aws/protocols/aws-restjson1-protocol.html and https://smithy.io/2.0/aws/protocols/aws-json-1_1-protocol.html
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Answer = dict[str, Any]


class Refusal(Exception):
    """An error as AWS answers it.

    Parameters
    ----------
    code
        The error's shape: "ResourceNotFoundException".
    members
        Further members of that shape: ``clusterName="lab"``.
    """

    def __init__(self, code: str, message: str, **members: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.members = members


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an operation. `parameters` are named and typed as a boto3 client takes them."""

    operation: str
    parameters: Mapping[str, Any]
    region: str
    access_key: str = ""


class Protocol:
    """Reads and writes one service's requests and answers.

    Parameters
    ----------
    service
        botocore's name of it: "eks".
    operations
        The operations that are answered; `match` knows no other.
    """

    def __init__(self, service: str, operations: Iterable[str]) -> None:
        from botocore.loaders import Loader
        from botocore.model import ServiceModel

        self.model = ServiceModel(Loader().load_service_model(service, "service-2"), service)
        self._json = self.model.metadata["protocol"] == "json"
        self._routes: list[tuple[str, re.Pattern[str], str]] = []
        self._targets: dict[str, str] = {}
        for name in operations:
            http = self.model.operation_model(name).http
            if self._json:
                self._targets[f"{self.model.metadata['targetPrefix']}.{name}"] = name
            else:
                pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(http["requestUri"].split("?")[0]))
                self._routes.append((http["method"], re.compile(pattern + "/?$"), name))

    def match(self, method: str, path: str, target: str) -> tuple[str, dict[str, str]] | None:
        """The operation of a request, and what its path says; None where it is not among those answered."""
        if self._json:
            name = self._targets.get(target)
            return None if name is None else (name, {})
        for verb, pattern, name in self._routes:
            if verb == method and (found := pattern.match(path)):
                return name, found.groupdict()
        return None

    def parameters(self, operation: str, in_path: Mapping[str, str], query: Mapping[str, Sequence[str]], body: bytes) -> dict[str, Any]:
        """The operation's parameters.

        Raises
        ------
        Refusal
            The body is not JSON, or the parameters break the model (a required one is missing, wrong type, out of range).
        """
        from botocore.validate import ParamValidator

        shape = self.model.operation_model(operation).input_shape
        if shape is None:
            return {}
        try:
            content = json.loads(body) if body.strip() else {}
            if not isinstance(content, dict):
                raise TypeError("an object is expected")
            found: dict[str, Any] = {}
            for name, member in shape.members.items():
                key = member.serialization.get("name", name)
                where = member.serialization.get("location", "body")
                if where == "uri" and key in in_path:
                    found[name] = in_path[key]
                elif where == "querystring" and key in query:
                    found[name] = _from_text(member, query[key])
                elif where == "body" and content.get(key) is not None:
                    found[name] = _from_json(member, content[key])
        except (ValueError, TypeError) as error:
            raise Refusal("SerializationException", f"The request cannot be read: {error}") from None
        report = ParamValidator().validate(found, shape)
        if report.has_errors():
            code = next(
                (one for one in ("InvalidParameterException", "ValidationException") if one in self._errors(operation)),
                "ValidationException",
            )
            raise Refusal(code, report.generate_report())
        return found

    def answer(self, operation: str, value: Answer) -> bytes:
        """The body of an answer; a member that the model does not have is a defect of ours (KeyError)."""
        return json.dumps(_to_json(self.model.operation_model(operation).output_shape, value)).encode()

    def refusal(self, operation: str, refusal: Refusal) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an error."""
        status = self._errors(operation).get(refusal.code, 400)
        body = {"__type": refusal.code, "message": refusal.message, **refusal.members}
        return status, {"x-amzn-ErrorType": refusal.code}, json.dumps(body).encode()

    def _errors(self, operation: str) -> dict[str, int]:
        shapes = self.model.operation_model(operation).error_shapes
        return {shape.name: shape.metadata.get("error", {}).get("httpStatusCode", 400) for shape in shapes}


def page(
    items: Sequence[Any],
    parameters: Mapping[str, Any],
    *,
    size: int,
    limit: str = "maxResults",
    token: str = "nextToken",  # noqa: S107 - the name of a parameter
) -> tuple[list[Any], Answer]:
    """One page of `items`, and the token for the next one as a part of the answer (empty on the last).

    A token carries a digest of the question too: with another question it is refused, as AWS does.

    Raises
    ------
    Refusal
        "InvalidParameterException": the token was not given for this question.
    """
    mark = question_mark(parameters, limit, token)
    start = 0
    if parameters.get(token):
        try:
            given, _, offset = base64.urlsafe_b64decode(parameters[token]).decode("ascii").partition(":")
            start = int(offset)
        except (ValueError, UnicodeDecodeError):
            given = ""
        if given != mark or start < 0:
            raise Refusal("InvalidParameterException", "The token is not valid for this request.")
    end = start + int(parameters.get(limit) or size)
    more = {token: base64.urlsafe_b64encode(f"{mark}:{end}".encode()).decode()} if end < len(items) else {}
    return list(items[start:end]), more


def question_mark(parameters: Mapping[str, Any], *left_out: str) -> str:
    """A digest of what is asked for, for tokens that go with one question."""
    question = {name: value for name, value in parameters.items() if name not in left_out}
    return f"{binascii.crc32(repr(sorted(question.items())).encode()):08x}"


def _from_text(shape: Any, values: Sequence[str]) -> Any:
    if shape.type_name == "list":
        return list(values)
    if shape.type_name in ("integer", "long"):
        return int(values[0])
    if shape.type_name == "boolean":
        return values[0].lower() == "true"
    return values[0]


def _from_json(shape: Any, value: Any) -> Any:
    if shape.type_name == "structure" and isinstance(value, dict):
        known = {member.serialization.get("name", name): (name, member) for name, member in shape.members.items()}
        return {known[key][0]: _from_json(known[key][1], one) for key, one in value.items() if key in known and one is not None}
    if shape.type_name == "list" and isinstance(value, list):
        return [_from_json(shape.member, one) for one in value]
    if shape.type_name == "map" and isinstance(value, dict):
        return {key: _from_json(shape.value, one) for key, one in value.items()}
    if shape.type_name == "timestamp":
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return datetime.fromtimestamp(float(value), UTC)
    return value


def _to_json(shape: Any, value: Any) -> Any:
    if shape is None:
        return {}
    if shape.type_name == "structure":
        missing = set(shape.required_members) - {name for name, one in value.items() if one is not None}
        if missing:
            raise KeyError(f"{shape.name} lacks {sorted(missing)}")
        members = {name: shape.members[name] for name in value}
        return {
            members[name].serialization.get("name", name): _to_json(members[name], one) for name, one in value.items() if one is not None
        }
    if shape.type_name == "list":
        return [_to_json(shape.member, one) for one in value]
    if shape.type_name == "map":
        return {key: _to_json(shape.value, one) for key, one in value.items()}
    if shape.type_name == "timestamp":
        if shape.serialization.get("timestampFormat") == "iso8601":
            return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return value.timestamp()
    return value
