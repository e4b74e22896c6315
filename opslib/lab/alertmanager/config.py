"""Alertmanager's configuration: the tree of routes, receivers, inhibition (config/config.go, dispatch/route.go)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from opslib.lab.prometheus.labels import Matcher, regexp_error
from opslib.lab.prometheus.parse import duration

INTEGRATIONS = (
    "discord",
    "email",
    "incidentio",
    "jira",
    "mattermost",
    "msteams",
    "msteamsv2",
    "opsgenie",
    "pagerduty",
    "pushover",
    "rocketchat",
    "slack",
    "sns",
    "telegram",
    "victorops",
    "webex",
    "webhook",
    "wechat",
)
_SILENT_ON_RESOLVED = frozenset({"email", "slack", "wechat"})  # their send_resolved is false where nothing is said
_SECRET = re.compile(r"(^|_)(url|password|secret|token|key|credentials)$")
_PUBLIC = re.compile(r"^(slack_app|pagerduty|opsgenie_api|wechat_api|victorops_api|telegram_api|webex_api|rocketchat_api)_url$")


class ConfigError(ValueError):
    """A configuration that Alertmanager would not load, or that the embedded one does not know."""


@dataclass(frozen=True, slots=True)
class Route:
    """A node of the tree, with what it inherits filled in; durations are in seconds. `group_by` None: by all labels."""

    receiver: str
    group_by: tuple[str, ...] | None
    group_wait: float
    group_interval: float
    repeat_interval: float
    matchers: tuple[Matcher, ...] = ()
    further: bool = False
    routes: tuple[Route, ...] = ()
    key: str = "{}"

    def match(self, labels: Mapping[str, str]) -> list[Route]:
        """The routes that an alert takes: the deepest that match, the first of its siblings unless that continues."""
        if not matches(self.matchers, labels):
            return []
        found: list[Route] = []
        for route in self.routes:
            below = route.match(labels)
            found += below
            if below and not route.further:
                break
        return found or [self]


@dataclass(frozen=True, slots=True)
class Inhibition:
    """Alerts that match `target` are muted while one that matches `source` fires, where both have the same `equal` labels."""

    source: tuple[Matcher, ...]
    target: tuple[Matcher, ...]
    equal: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Receiver:
    """A receiver and its integrations: kind, and whether that sends resolved alerts."""

    name: str
    integrations: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration. `original` is how the API shows it, without secrets."""

    route: Route
    receivers: tuple[Receiver, ...]
    inhibitions: tuple[Inhibition, ...] = ()
    resolve_timeout: float = 300
    original: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, text: str) -> Config:
        """Read a configuration in YAML.

        Raises
        ------
        ConfigError
            It is not valid, or needs what is not there: time intervals.
        """
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"yaml: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("route"), dict):
            raise ConfigError("no routes provided")
        if content.get("time_intervals") or content.get("mute_time_intervals"):
            raise ConfigError("time intervals are not there in the embedded Alertmanager")
        receivers = tuple(_receiver(item) for item in content.get("receivers") or [])
        names = [receiver.name for receiver in receivers]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f'notification config name "{name}" is not unique')
        if not content["route"].get("receiver"):
            raise ConfigError("root route must specify a default receiver")
        if content["route"].get("match") or content["route"].get("match_re") or content["route"].get("matchers"):
            raise ConfigError("root route must not have any matchers")
        root = _route(content["route"], None, names, "{}")
        timeout = (content.get("global") or {}).get("resolve_timeout", "5m")
        inhibitions = tuple(_inhibition(item) for item in content.get("inhibit_rules") or [])
        shown = yaml.safe_dump(_without_secrets(content), sort_keys=False)
        return cls(root, receivers, inhibitions, _seconds(timeout), shown, content)


def _receiver(item: Mapping[str, Any]) -> Receiver:
    found = []
    for key, value in item.items():
        if not key.endswith("_configs"):
            continue
        kind = key.removesuffix("_configs")
        if kind not in INTEGRATIONS:
            raise ConfigError(f"field {key} not found in type config.plain")
        for one in value or []:
            found.append((kind, bool(one.get("send_resolved", kind not in _SILENT_ON_RESOLVED))))
    if not item.get("name"):
        raise ConfigError("missing name in receiver")
    return Receiver(str(item["name"]), tuple(found))


def _route(item: Mapping[str, Any], parent: Route | None, receivers: Sequence[str], above: str) -> Route:
    receiver = item.get("receiver") or (parent.receiver if parent else "")
    if receiver not in receivers:
        raise ConfigError(f'undefined receiver "{receiver}" used in route')
    group_by: tuple[str, ...] | None = parent.group_by if parent else ()
    if item.get("group_by"):
        names = [str(name) for name in item["group_by"]]
        group_by = None if names == ["..."] else tuple(names)
    found = [Matcher(str(name), "=", str(value)) for name, value in (item.get("match") or {}).items()]
    found += [_checked(Matcher(str(name), "=~", str(value))) for name, value in (item.get("match_re") or {}).items()]
    found += [one for text in item.get("matchers") or [] for one in parse_matchers(text)]
    found.sort(key=lambda one: (one.name, one.value, one.sign))
    key = above if parent is None else f"{above}/{{{','.join(map(shown, found))}}}"
    route = Route(
        receiver,
        group_by,
        _seconds(item.get("group_wait", parent.group_wait if parent else 30)),
        _seconds(item.get("group_interval", parent.group_interval if parent else 300)),
        _seconds(item.get("repeat_interval", parent.repeat_interval if parent else 4 * 3600)),
        tuple(found),
        bool(item.get("continue", False)),
        (),
        key,
    )
    from dataclasses import replace

    return replace(route, routes=tuple(_route(below, route, receivers, key) for below in item.get("routes") or []))


def _inhibition(item: Mapping[str, Any]) -> Inhibition:
    sides = []
    for side in ("source", "target"):
        found = [Matcher(str(name), "=", str(value)) for name, value in (item.get(f"{side}_match") or {}).items()]
        found += [_checked(Matcher(str(name), "=~", str(value))) for name, value in (item.get(f"{side}_match_re") or {}).items()]
        found += [one for text in item.get(f"{side}_matchers") or [] for one in parse_matchers(text)]
        sides.append(tuple(found))
    return Inhibition(sides[0], sides[1], tuple(map(str, item.get("equal") or ())))


def _seconds(value: object) -> float:
    if isinstance(value, int | float):
        return float(value)
    try:
        return duration(str(value)) / 1000
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _without_secrets(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_secrets(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, key) for item in value]
    return "<secret>" if isinstance(value, str) and _SECRET.search(key) and not _PUBLIC.search(key) else value


# --- matchers ---

_MATCHER = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([a-zA-Z_:][a-zA-Z0-9_:]*))\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\]|\\.)*)"|([^",{}]*?))\s*')


def parse_matcher(text: str) -> Matcher:
    """A condition as in amtool and filters: name=value, name=~"value".

    Raises
    ------
    ConfigError
        It is not one, in Alertmanager's words.
    """
    match = _MATCHER.fullmatch(text)
    if not match:
        raise ConfigError(f"bad matcher format: {text}")
    name = _unescaped(match[1]) if match[1] is not None else match[2]
    value = _unescaped(match[4]) if match[4] is not None else match[5]
    return _checked(Matcher(name, match[3], value))


def parse_matchers(text: str) -> list[Matcher]:
    """Several of them, in braces or not."""
    inside = text.strip()
    if inside.startswith("{") and inside.endswith("}"):
        inside = inside[1:-1]
    parts = re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+', inside)
    return [parse_matcher(part) for part in parts if part.strip()]


def _checked(matcher: Matcher) -> Matcher:
    if "~" in matcher.sign:
        reason = regexp_error(matcher.value, f"^(?:{matcher.value})$")
        if reason:
            raise ConfigError(reason)
    return matcher


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), text)


def matches(matchers: Sequence[Matcher], labels: Mapping[str, str]) -> bool:
    """Whether every condition holds; a label that is missing is empty."""
    return all(matcher(labels.get(matcher.name, "")) for matcher in matchers)


def shown(matcher: Matcher) -> str:
    """A condition as Alertmanager prints it."""
    from json import dumps

    return f"{matcher.name}{matcher.sign}{dumps(matcher.value, ensure_ascii=False)}"
