"""Events have two forms, of the core group and of events.k8s.io; the core one is kept (pkg/apis/core/v1/conversion.go and events/v1)."""

from __future__ import annotations

from opslib.lab.kube import names
from opslib.lab.kube.errors import Object, Problem, invalid, required

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
    always: Object = {"firstTimestamp": None, "lastTimestamp": None, "source": {}, "reportingComponent": "", "reportingInstance": ""}
    return always | {_NAMES.get(name, name): value for name, value in event.items()}


def from_core(event: Object) -> Object:
    """The form of events.k8s.io of a kept event."""
    left_out = [name for name in ("reportingComponent", "reportingInstance") if not event.get(name)]
    return {_BACK.get(name, name): value for name, value in event.items() if name not in left_out}


def spoken(event: Object) -> Object:
    """What an event of events.k8s.io says in that form; its metadata are the same."""
    return {name: value for name, value in from_core(event).items() if value}


def problems(event: Object, *, strict: bool) -> list[Problem]:
    """What is wrong with a new event in its kept form; `strict`: it came through events.k8s.io (pkg/apis/core/validation/events.go)."""
    namespace, about = event["metadata"].get("namespace", ""), (event.get("involvedObject") or {}).get("namespace", "")
    found = []
    elsewhere = invalid("involvedObject.namespace", about, "does not match event.namespace")
    if not event.get("eventTime"):
        if namespace != (about or "default"):
            found.append(elsewhere)
    else:
        if not about and namespace not in ("default", "kube-system"):
            found.append(elsewhere)
        controller = "reportingController" if strict else "reportingComponent"
        given = event.get("reportingComponent") or ""
        found += [] if given else [required(controller)]
        found += [invalid(controller, given, why) for why in names.qualified_name(given)]
        for name, most in (("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)):
            value = event.get(name) or ""
            if not value and name != "message":
                found.append(required(name))
            if len(value.encode()) > most:
                found.append(invalid(name, "", f"can have at most {most} characters"))
    return found + (_strict(event) if strict else [])


def _strict(event: Object) -> list[Problem]:
    found = []
    series = event.get("series")
    if series is not None:
        if (series.get("count") or 0) < 2:
            found.append(invalid("series.count", "", "should be at least 2"))
        if not series.get("lastObservedTime"):
            found.append(required("series.lastObservedTime"))
    if not event.get("eventTime"):
        found.append(required("eventTime"))
    if event.get("type") not in ("Normal", "Warning"):
        found.append(invalid("type", "", f"has invalid value: {event.get('type') or ''}"))
    found += [invalid(name, "", "needs to be unset") for name in ("firstTimestamp", "lastTimestamp", "count") if event.get(name)]
    source = event.get("source") or {}
    if source.get("component") or source.get("host"):
        found.append(invalid("source", "", "needs to be unset"))
    return found
