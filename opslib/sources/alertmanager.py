"""Alertmanager: what happens to alerts after Prometheus has raised them. Its API v2 is read only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from opslib.errors import SourceError
from opslib.messages import Text, _
from opslib.sources.answers import decode, send
from opslib.sources.monitored import AlertmanagerStatus, Cluster, Notified, Silence
from opslib.sources.objects import Base
from opslib.sources.transport import Request, Transport, Wrap, http, unwrapped

if TYPE_CHECKING:
    from opslib.environments import Environment

T = TypeVar("T")

SYSTEM = "alertmanager"


class _Version(Base):
    version: str = ""


class _Config(Base):
    original: str = ""


class _Status(Base):
    cluster: Cluster = msgspec.field(default_factory=Cluster)
    version_info: _Version = msgspec.field(default_factory=_Version)
    config: _Config = msgspec.field(default_factory=_Config)
    uptime: Any = None


class Alertmanager:
    """One Alertmanager of a cluster of them, read through `transport`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def connect(cls, environment: Environment, wrap: Wrap = unwrapped) -> Alertmanager:
        """The Alertmanager of an environment, which must name one. No request is sent yet."""
        if environment.alertmanager is None:
            raise SourceError(
                SYSTEM,
                _("The environment {name} has no Alertmanager", name=environment.name),
                _("Add the field {field}", field="alertmanager.url"),
            )
        return cls(wrap(http(SYSTEM, environment.alertmanager)))

    def status(self) -> AlertmanagerStatus:
        """Its cluster, and which receivers its configuration has.

        The configuration itself, which may hold addresses with tokens, is not kept.
        """
        content = self._get(_Status, "/api/v2/status", _("the status"))
        started = msgspec.convert(content.uptime, Any)
        return AlertmanagerStatus(
            cluster=content.cluster,
            version=content.version_info.version,
            start_time=_moment(started),
            **_receivers(content.config.original),
        )

    def alerts(self) -> list[Notified]:
        """Every alert that it has: active, silenced and inhibited."""
        return self._get(list[Notified], "/api/v2/alerts", _("the alerts"))

    def silences(self) -> list[Silence]:
        """Silences that are active or will be; those that are over are left out."""
        return [item for item in self._get(list[Silence], "/api/v2/silences", _("the silences")) if item.status.state != "expired"]

    def receivers(self) -> list[str]:
        """Names of the receivers."""
        return [str(item.get("name", "")) for item in self._get(list[dict[str, Any]], "/api/v2/receivers", _("the receivers"))]

    def _get(self, kind: type[T], path: str, what: Text) -> T:
        return decode(SYSTEM, send(self._transport, Request(path=path, what=what)).body, kind)


def _moment(value: object) -> Any:
    """The time that Alertmanager calls its uptime; None where it is not one."""
    from datetime import datetime

    try:
        return msgspec.convert(value, datetime, strict=False)
    except msgspec.ValidationError:
        return None


def _receivers(original: str) -> dict[str, Any]:
    """Receivers, those of them without any integration, and the default one, from the configuration as Alertmanager shows it."""
    import yaml

    try:
        content = yaml.safe_load(original)
    except yaml.YAMLError:
        return {}
    if not isinstance(content, dict):
        return {}
    named = {str(item.get("name", "")): item for item in content.get("receivers") or [] if isinstance(item, dict)}
    route = content.get("route")
    return {
        "receivers": list(named),
        "silent_receivers": [
            name for name, item in named.items() if not any(key.endswith("_configs") and value for key, value in item.items())
        ],
        "default_receiver": str(route.get("receiver", "")) if isinstance(route, dict) else "",
    }
