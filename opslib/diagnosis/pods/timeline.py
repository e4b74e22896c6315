"""Changes and symptoms on one time axis: what was changed, what rang, what was silenced, and when each trouble began."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from opslib.diagnosis.pods.cases import cases
from opslib.diagnosis.pods.changes import changes, changes_of
from opslib.diagnosis.pods.facts import SCALING, Change, Facts
from opslib.findings import Finding, Severity, Subject
from opslib.messages import Text, _

SYMPTOM, ALERT, SILENCE = "symptom", "alert", "silence"


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened.

    `kind` is a change's own, or one of the three above. `rank`: of changes, how near it stands to the trouble that depends on it, from 1;
    0: of no account.
    """

    time: datetime
    kind: str
    subject: Subject
    text: Text
    rank: int = 0


def timeline(facts: Facts, found: Iterable[Finding]) -> list[Moment]:
    """Everything with a time between the first trouble less the onset window, and now; the oldest first.

    A change ranks by the time between it and the trouble of the owner that it could bear on; one that came later than the trouble has no
    rank. What may bear on everything ranks after all that bears on the owner. What an autoscaler did to an owner that is well is left out.
    Alerts of one name on one subject are one moment.
    """
    troubles = [
        item for item in found if item.since is not None and item.severity >= Severity.WARNING and not item.check.startswith("gap.")
    ]
    first = min((item.since for item in troubles if item.since), default=facts.now)
    begin = first - facts.onset_window
    ranked = _ranked(facts, troubles)
    moments = [Moment(item.since, SYMPTOM, item.subject, item.title) for item in troubles if item.since]
    moments += [Moment(change.time, change.kind, change.subject, change.text, rank) for change, rank in ranked]
    alerts: dict[tuple[str, Subject], datetime] = {}
    for alert in facts.alerts or ():
        if alert.since is not None:
            key = (alert.name, _about(alert.labels))
            alerts[key] = min(alerts.get(key, alert.since), alert.since)
    moments += [Moment(time, ALERT, subject, name) for (name, subject), time in alerts.items()]
    for silence in facts.silences or ():
        if silence.starts_at is not None:
            text = _("silence by {who}: {what}", who=silence.created_by or "-", what=", ".join(map(str, silence.matchers)) or "-")
            moments.append(Moment(silence.starts_at, SILENCE, Subject("Silence", silence.id or "-"), text))
    kept = [item for item in moments if begin <= item.time <= facts.now + timedelta(minutes=1)]
    return sorted(kept, key=lambda item: (item.time, item.kind, str(item.subject), str(item.text)))


def _ranked(facts: Facts, troubles: list[Finding]) -> list[tuple[Change, int]]:
    def key_of(change: Change) -> tuple[datetime, Subject, str]:
        return change.time, change.subject, change.kind

    known = {key_of(change): change for change in facts.noted if change.suspect or change.kind != SCALING}
    lead: dict[tuple[datetime, Subject, str], timedelta] = {}

    def near(change: Change, since: datetime | None) -> None:
        key = key_of(change)
        known.setdefault(key, change)
        if since is not None and (change.suspect or change.everywhere) and change.time <= since + timedelta(seconds=30):
            lead[key] = min(lead.get(key, since - change.time), since - change.time)

    for case in cases(facts):
        for change in changes_of(case):
            near(change, case.since)
    for item in troubles:
        workload = facts.workload(item.subject.kind, item.subject.namespace, item.subject.name)
        if workload is not None:
            for change in changes(facts, item.subject, workload.spec.template.spec):
                near(change, item.since)
    order = sorted(lead, key=lambda key: (known[key].everywhere, lead[key], str(key[1])))
    return [(change, order.index(key) + 1 if key in lead else 0) for key, change in known.items()]


def _about(labels: object) -> Subject:
    known = dict(labels) if isinstance(labels, dict) else {}
    for kind, label in (("Service", "service"), ("Pod", "pod"), ("Node", "node"), ("PersistentVolumeClaim", "persistentvolumeclaim")):
        if known.get(label):
            return Subject(kind, str(known[label]), str(known.get("namespace", "")) if kind != "Node" else "")
    return Subject("Alert", str(known.get("alertname", "-")))
