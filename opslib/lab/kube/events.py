"""Events have two forms, of the core group and of events.k8s.io; the core one is kept (pkg/apis/core/v1/conversion.go and events/v1)."""

from __future__ import annotations

from opslib.lab.kube.errors import Object

_NAMES = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_BACK = {kept: name for name, kept in _NAMES.items()}


def to_core(event: Object) -> Object:
    """The kept form of an event of events.k8s.io."""
    return {_NAMES.get(name, name): value for name, value in event.items()}


def from_core(event: Object) -> Object:
    """The form of events.k8s.io of a kept event."""
    return {_BACK.get(name, name): value for name, value in event.items()}
