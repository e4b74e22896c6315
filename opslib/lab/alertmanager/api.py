"""Alertmanager's API v2 as a Starlette application."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from opslib.lab.alertmanager import metrics
from opslib.lab.alertmanager.config import ConfigError, matches, parse_matcher
from opslib.lab.alertmanager.state import Alert, Alertmanager, NoSilence, Silence, describe
from opslib.lab.prometheus.labels import Matcher, pattern, regexp_error

VERSION = "0.34.2"
_UUID = re.compile(r"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ORDER = {"active": 0, "pending": 1, "expired": 2}


class Refused(Exception):
    """A request that is answered with an error; `content` is its JSON, None for an empty body."""

    def __init__(self, status: int, content: Any) -> None:
        super().__init__(content)
        self.status = status
        self.content = content


def _invalid(code: int, message: str) -> Refused:
    return Refused(422, {"code": code, "message": message})


Handler = Callable[[Alertmanager, Request, bytes], Any]


def app(manager: Alertmanager, prefix: str = "") -> Starlette:
    """The application that answers for `manager`."""
    table: dict[str, dict[str, Handler]] = {
        "/status": {"GET": _status},
        "/alerts": {"GET": _alerts, "POST": _post_alerts},
        "/alerts/groups": {"GET": _groups},
        "/silences": {"GET": _silences, "POST": _post_silence},
        "/silence/{id}": {"GET": _silence, "DELETE": _delete_silence},
        "/receivers": {"GET": _receivers},
    }
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    routes = [Route(f"{prefix}/api/v2{path}", _endpoint(manager, handlers), methods=methods) for path, handlers in table.items()]
    routes.append(Route(f"{prefix}/api/v2/{{rest:path}}", _unknown, methods=methods))
    for path in ("/-/healthy", "/-/ready"):
        routes.append(Route(prefix + path, lambda request: PlainTextResponse("OK"), methods=["GET", "HEAD"]))
    routes.append(Route(f"{prefix}/-/reload", lambda request: PlainTextResponse(""), methods=["POST"]))
    routes.append(Route(f"{prefix}/metrics", lambda request: PlainTextResponse(metrics.text(manager.metrics()))))
    return Starlette(routes=routes)


def _unknown(request: Request) -> Response:
    path = request.url.path
    return _json(404, {"code": 404, "message": f"path {path} was not found"})


def _json(status: int, content: Any) -> Response:
    body = b"" if content is None else json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return Response(body, status, media_type="application/json")


def _endpoint(manager: Alertmanager, handlers: Mapping[str, Handler]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        body = await request.body()
        method = "GET" if request.method == "HEAD" else request.method
        handler = handlers.get(method)
        if handler is None:
            allowed = ",".join(sorted(handlers))
            return _json(405, {"code": 405, "message": f"method {method} is not allowed, but [{allowed}] are"})
        return await run_in_threadpool(answer, handler, request, body)

    def answer(handler: Handler, request: Request, body: bytes) -> Response:
        try:
            with manager.lock:
                content = handler(manager, request, body)
        except Refused as error:
            return _json(error.status, error.content)
        return _json(200, content)

    return endpoint


# --- parameters ---


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name)
    return text is None or text.lower() in ("true", "1", "yes", "ok", "y", "on", "selected", "checked", "t", "enabled")


def _filter(request: Request) -> list[Matcher]:
    try:
        return [parse_matcher(text) for text in request.query_params.getlist("filter")]
    except ConfigError as error:
        raise Refused(400, str(error)) from error


def _receiver_filter(request: Request) -> Callable[[str], bool]:
    text = request.query_params.get("receiver")
    if text is None:
        return lambda name: True
    reason = regexp_error(text, f"^(?:{text})$")
    if reason:
        raise Refused(400, f"failed to parse receiver param: {reason}")
    compiled = pattern(text)
    return lambda name: compiled.fullmatch(name) is not None


def _content(body: bytes, what: str, kind: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        shown = body[:1].decode("utf-8", "replace")
        reason = f"invalid character '{shown}' looking for beginning of value" if body else "EOF"
        raise Refused(400, {"code": 400, "message": f'parsing {what} body from "" failed, because {reason}'}) from error


def _moment(value: Any, what: str, name: str) -> float:
    """An RFC 3339 time in Unix seconds; 0 where there is none."""
    if value in (None, "", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"):
        return 0
    try:
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", str(value)).upper())
    except ValueError as error:
        raise Refused(400, {"code": 400, "message": f'parsing {what} body from "" failed, because parsing time "{value}"'}) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# --- alerts ---


def _alerts(manager: Alertmanager, request: Request, body: bytes) -> Any:
    conditions, receiver = _filter(request), _receiver_filter(request)
    return [
        describe(alert, manager.status(alert.labels), receivers)
        for alert, receivers in manager.pending()
        if any(map(receiver, receivers)) and _wanted(manager, request, alert, conditions)
    ]


def _wanted(manager: Alertmanager, request: Request, alert: Alert, conditions: list[Matcher]) -> bool:
    if alert.resolved(manager.now()) or not matches(conditions, alert.labels):
        return False
    status = manager.status(alert.labels)
    if not _flag(request, "active") and status.state == "active":
        return False
    if not _flag(request, "silenced") and status.silenced_by:
        return False
    return _flag(request, "inhibited") or not status.inhibited_by


def _groups(manager: Alertmanager, request: Request, body: bytes) -> Any:
    conditions, receiver = _filter(request), _receiver_filter(request)
    chosen = []
    receivers: dict[str, list[str]] = {}
    for group in manager.groups.values():
        if not receiver(group.route.receiver):
            continue
        alerts = [alert for alert in group.alerts.values() if _wanted(manager, request, alert, conditions)]
        for alert in alerts:
            receivers.setdefault(alert.fingerprint, []).append(group.route.receiver)
        if alerts:
            chosen.append((group, alerts))
    chosen.sort(key=lambda item: (tuple(sorted(item[0].labels.items())), item[0].route.receiver))
    return [
        {
            "alerts": [
                describe(alert, manager.status(alert.labels), sorted(receivers[alert.fingerprint]))
                for alert in sorted(alerts, key=_alert_order)
            ],
            "labels": dict(sorted(group.labels.items())),
            "receiver": {"name": group.route.receiver},
            "routeLabels": {},
        }
        for group, alerts in chosen
    ]


def _alert_order(alert: Alert) -> Any:
    first = [(name not in alert.labels, alert.labels.get(name, "")) for name in ("job", "instance")]
    return (*first, sorted(alert.labels.items()))


def _post_alerts(manager: Alertmanager, request: Request, body: bytes) -> Any:
    content = _content(body, "alerts", "PostableAlerts")
    if not isinstance(content, list):
        kind = {dict: "object", str: "string", bool: "bool"}.get(type(content), "number")
        reason = f"json: cannot unmarshal {kind} into Go value of type models.PostableAlerts"
        raise Refused(400, {"code": 400, "message": f'parsing alerts body from "" failed, because {reason}'})
    now = manager.now()
    valid, errors = [], []
    for number, item in enumerate(content):
        alert = _alert(item, number, now, manager.config.resolve_timeout)
        manager.counts["received", "firing" if alert.ends > now else "resolved"] += 1
        if alert.ends < alert.starts:
            errors.append("start time must be before end time")
        elif not alert.labels:
            errors.append("at least one label pair required")
        elif "" in alert.labels:
            errors.append('invalid label set: invalid name ""')
        else:
            valid.append(alert)
            continue
        manager.counts["invalid",] += 1
    manager.put(valid)
    if errors:
        raise Refused(400, "\n".join(errors))


def _alert(item: Any, number: int, now: float, timeout: float) -> Alert:
    if not isinstance(item, dict) or not isinstance(item.get("labels"), dict):
        raise _invalid(602, f"{number}.labels in body is required")
    for part in ("labels", "annotations"):
        for value in (item.get(part) or {}).values():
            if not isinstance(value, str):
                kind = {bool: "bool", dict: "object", list: "array"}.get(type(value), "number")
                message = f"json: cannot unmarshal {kind} into Go struct field Alert.{part} of type string"
                raise Refused(400, {"code": 400, "message": f'parsing alerts body from "" failed, because {message}'})
    labels = {name: value for name, value in item["labels"].items() if value}
    starts, ends = _moment(item.get("startsAt"), "alerts", "startsAt"), _moment(item.get("endsAt"), "alerts", "endsAt")
    starts = starts or ends or now
    return Alert(labels, item.get("annotations") or {}, starts, ends or now + timeout, now, item.get("generatorURL") or "", not ends)


# --- silences ---


def _silences(manager: Alertmanager, request: Request, body: bytes) -> Any:
    conditions = _filter(request)
    now = manager.now()
    chosen = [
        silence
        for silence in manager.silences.values()
        if _flag(request, silence.state(now)) and all(condition in silence.matchers for condition in conditions)
    ]

    def order(silence: Silence) -> tuple[int, float]:
        state = silence.state(now)
        return _ORDER[state], {"active": silence.ends, "pending": silence.starts, "expired": -silence.ends}[state]

    return [_described(silence, now) for silence in sorted(chosen, key=order)]


def _described(silence: Silence, now: float) -> dict[str, Any]:
    return {
        "id": silence.id,
        "status": {"state": silence.state(now)},
        "updatedAt": metrics.iso(silence.updated),
        "comment": silence.comment,
        "createdBy": silence.author,
        "endsAt": metrics.iso(silence.ends),
        "matchers": [
            {"isEqual": not item.sign.startswith("!"), "isRegex": "~" in item.sign, "name": item.name, "value": item.value}
            for item in silence.matchers
        ],
        "startsAt": metrics.iso(silence.starts),
        **({"annotations": dict(silence.annotations)} if silence.annotations else {}),
    }


def _post_silence(manager: Alertmanager, request: Request, body: bytes) -> Any:
    content = _content(body, "silence", "PostableSilence")
    if not isinstance(content, dict):
        raise Refused(400, {"code": 400, "message": 'parsing silence body from "" failed, because it is no object'})
    for name in ("comment", "createdBy", "endsAt", "matchers", "startsAt"):
        if content.get(name) is None:
            raise _invalid(602, f"{name} in body is required")
    if not content["matchers"]:
        raise _invalid(612, "matchers in body should have at least 1 items")
    found = [_silence_matcher(item, number) for number, item in enumerate(content["matchers"])]
    now = manager.now()
    starts, ends = _moment(content["startsAt"], "silence", "startsAt"), _moment(content["endsAt"], "silence", "endsAt")
    if starts >= ends:
        raise Refused(400, "Failed to create silence: start time must be before end time")
    if ends < now:
        raise Refused(400, "Failed to create silence: end time can't be in the past")
    for number, matcher in enumerate(found):
        if not matcher.name:
            raise Refused(400, f'invalid silence: invalid label matcher {number} in set 0: invalid label name ""')
        if "~" in matcher.sign and (reason := regexp_error(matcher.value)):
            reason = f'invalid regular expression "{matcher.value}": {reason}'
            raise Refused(400, f"invalid silence: invalid label matcher {number} in set 0: {reason}")
    if all(matcher("") for matcher in found):
        raise Refused(400, "invalid silence: matcher set 0: at least one matcher must not match the empty string")
    silence = Silence(
        str(content.get("id") or ""),
        tuple(found),
        starts,
        ends,
        now,
        content["createdBy"],
        content["comment"],
        content.get("annotations") or {},
    )
    try:
        return {"silenceID": manager.set_silence(silence)}
    except NoSilence as error:
        raise Refused(404, "silence not found") from error


def _silence_matcher(item: Any, number: int) -> Matcher:
    for name in ("isRegex", "name", "value"):
        if not isinstance(item, dict) or item.get(name) is None:
            raise _invalid(602, f"matchers.{number}.{name} in body is required")
    equal = item.get("isEqual")
    sign = ("=" if equal is None or equal else "!") + ("~" if item["isRegex"] else "")
    return Matcher(item["name"], "!=" if sign == "!" else sign, item["value"])


def _id(request: Request) -> str:
    text: str = request.path_params["id"]
    if not _UUID.fullmatch(text):
        raise _invalid(601, f'silenceID in path must be of type uuid: "{text}"')
    return text


def _silence(manager: Alertmanager, request: Request, body: bytes) -> Any:
    silence = manager.silences.get(_id(request))
    if silence is None:
        raise Refused(404, None)
    return _described(silence, manager.now())


def _delete_silence(manager: Alertmanager, request: Request, body: bytes) -> Any:
    try:
        manager.expire_silence(_id(request))
    except NoSilence as error:
        raise Refused(404, None) from error


# --- the rest ---


def _receivers(manager: Alertmanager, request: Request, body: bytes) -> Any:
    return [{"labels": {"name": receiver.name}, "name": receiver.name} for receiver in manager.config.receivers]


def _status(manager: Alertmanager, request: Request, body: bytes) -> Any:
    names = ("branch", "buildDate", "buildUser", "goVersion", "revision")
    return {
        "cluster": {"peers": [], "status": "disabled"},
        "config": {"original": manager.config.original},
        "uptime": metrics.iso(manager.started),
        "versionInfo": {**dict.fromkeys(names, ""), "version": VERSION},
    }
