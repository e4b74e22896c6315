"""Which findings follow from which: root cause told from symptom, across objects.

A finding explains another one where three things hold: what the other one is about depends on what this one is about (a path in `Graph`),
this one did not begin after it, and trouble of its family can bring trouble of the other's family (`PRODUCES`). What explains most, with
the best evidence, comes first; nothing is dropped. The same facts give the same answer, in whatever order they come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from opslib.findings import Finding, Severity, Step, Subject, by_severity
from opslib.messages import Message, Text, _

# Onsets are read from events in whole seconds and from rates over minutes: this much later is not later.
SLACK = timedelta(minutes=5)
LONGEST_PATH = 6  # a front end, three services, a database, its node
MOST_RULED_OUT = 5
MOST_COMPARED = 20  # of the worst that nothing leads to, to say so

_SERVING = ("traffic.", "service.", "ingress.", "scaling.")
_PODS = ("container.", "probe.", "init.", "pod.", "owner.no_progress", "lifecycle.", "memory.")

_OWN = ("container.", "probe.", "init.", "image.", "config.", "scheduling.", "owner.", "pod.", "lifecycle.", "memory.", "storage.", "node.")

PRODUCES: Mapping[str, tuple[str, ...]] = {
    "node.": (*_PODS, *_SERVING, "node.", "storage.", "network."),
    "dns.": (*_PODS, *_SERVING, "network."),
    "network.": ("traffic.", "probe.", "container.", "init."),
    "volume.": ("container.", "probe.", "init.", "pod.", *_SERVING),
    "storage.": ("container.", "probe.", "init.", *_SERVING),
    "certificate.": ("container.", "probe.", "init.", *_SERVING),
    "cpu.": ("probe.", "traffic.", "scaling."),
    "memory.": ("probe.", "init.", *_SERVING),
    **dict.fromkeys(
        ("container.", "probe.", "init.", "image.", "config.", "scheduling.", "owner.", "pod.", "lifecycle."),
        ("container.", "probe.", "init.", *_SERVING),
    ),
    "service.": ("container.", "probe.", "init.", "traffic.", "ingress."),
    "scaling.": ("traffic.", "cpu."),
    "dependency.": ("traffic.", "probe."),
    "traffic.": ("traffic.",),
}
"""By the beginning of a cause's check: the checks of what it can bring. One owner's pods bring trouble to another's by the calls."""

# How much a check says by itself. A cause that was read from the system's own words is nearly certain; that something crashes, or that
# requests fail, says little of why.
_STRENGTH: tuple[tuple[str, float], ...] = (
    ("traffic.", 0.4),
    ("dependency.", 0.5),
    ("container.", 0.5),
    ("pod.unknown", 0.3),
    ("probe.", 0.6),
    ("init.waiting", 0.6),
    ("service.pods_not_ready", 0.5),
    ("", 0.85),
)


@dataclass(frozen=True, slots=True)
class Graph:
    """What depends on what.

    Parameters
    ----------
    depends
        By subject, those whose trouble may become its own.
    everywhere
        Those that everybody depends on, such as the cluster's DNS.
    """

    depends: Mapping[Subject, frozenset[Subject]] = field(default_factory=dict)
    everywhere: frozenset[Subject] = frozenset()

    @classmethod
    def of(cls, links: Iterable[tuple[Subject, Subject]], everywhere: Iterable[Subject] = ()) -> Graph:
        """The graph of links (dependent, dependency)."""
        depends: dict[Subject, set[Subject]] = {}
        for dependent, dependency in links:
            if dependent != dependency:
                depends.setdefault(dependent, set()).add(dependency)
        return cls({subject: frozenset(on) for subject, on in depends.items()}, frozenset(everywhere))

    def reach(self, subject: Subject) -> dict[Subject, tuple[Subject, ...]]:
        """All that `subject` depends on, itself too, each with the shortest way to it."""
        ways: dict[Subject, tuple[Subject, ...]] = {subject: (subject,)}
        open_ = deque([subject])
        while open_:
            here = open_.popleft()
            if len(ways[here]) > LONGEST_PATH:
                continue
            for there in sorted(self.depends.get(here, ()), key=str):
                if there not in ways:
                    ways[there] = (*ways[here], there)
                    open_.append(there)
        for there in self.everywhere:
            ways.setdefault(there, (subject, there))
        return ways


def explain(findings: Sequence[Finding], graph: Graph) -> list[Finding]:
    """The findings, causes first, each with what it explains, what explains it, and what was ruled out.

    A cause is as severe as the worst that it explains. Gaps and what is merely told (info) explain nothing.
    """
    weighed = sorted((item for item in findings if _may_explain(item)), key=_order)
    reach = {subject: graph.reach(subject) for subject in {item.subject for item in weighed}}
    at: dict[Subject, list[int]] = {}
    for number, item in enumerate(weighed):
        at.setdefault(item.subject, []).append(number)
    worst = [number for number, item in enumerate(weighed) if item.severity is Severity.CRITICAL and _strength(item) >= 0.8][:MOST_COMPARED]
    pairs: set[tuple[int, int]] = set()
    ruled_out: dict[int, list[tuple[Text, Text]]] = {}
    for s, symptom in enumerate(weighed):
        ways = reach[symptom.subject]
        for subject in sorted(ways, key=str):
            for c in at.get(subject, ()):
                cause = weighed[c]
                if s == c or not produces(cause, symptom):
                    continue
                late = _later(cause.since, symptom.since)
                if late is None:
                    pairs.add((c, s))
                else:
                    why = _("it began {minutes} min later", minutes=round(late.total_seconds() / 60))
                    ruled_out.setdefault(s, []).append((cause.title, why))
        for c in worst:
            cause = weighed[c]
            if cause.subject not in ways and produces(cause, symptom) and _later(cause.since, symptom.since) is None:
                why = _("nothing that {name} is known to depend on leads there", name=symptom.subject.name)
                ruled_out.setdefault(s, []).append((cause.title, why))
    # Two that could each explain the other (services that call each other): the one that began first, else the stronger one.
    pairs -= {(c, s) for c, s in pairs if (s, c) in pairs and _rank(weighed[s]) < _rank(weighed[c])}
    explains: dict[int, list[int]] = {}
    explained_by: dict[int, list[int]] = {}
    for c, s in sorted(pairs):
        explains.setdefault(c, []).append(s)
        explained_by.setdefault(s, []).append(c)
    result = [item for item in findings if not _may_explain(item)]
    for number, item in enumerate(weighed):
        below, above = explains.get(number, []), explained_by.get(number, [])
        above.sort(
            key=lambda c: (bool(explained_by.get(c)), -len(explains[c]), -confidence(weighed[c], len(explains[c])), str(weighed[c].subject))
        )
        severity = max([item.severity, *(weighed[s].severity for s in below)])
        result.append(
            replace(
                item,
                severity=item.severity if above else severity,
                confidence=confidence(item, len(below)),
                refuted_by=item.refuted_by or _refutation(item, len(below)),
                explains=tuple(dict.fromkeys(weighed[s].fingerprint for s in below)),
                explained_by=tuple(dict.fromkeys(weighed[c].fingerprint for c in above)),
                ruled_out=(*item.ruled_out, *ruled_out.get(number, ()))[:MOST_RULED_OUT] if not above else item.ruled_out,
            )
        )
    return by_severity(result)


def produces(cause: Finding, symptom: Finding) -> bool:
    """Whether trouble like `cause` can bring trouble like `symptom`. Two troubles of one owner's pods stay two."""
    if cause.subject == symptom.subject and cause.check.startswith(_OWN) and not symptom.check.startswith(_SERVING):
        return False
    return any(cause.check.startswith(family) and symptom.check.startswith(brought) for family, brought in PRODUCES.items())


def confidence(cause: Finding, explained: int) -> float:
    """How sure a cause is, 0 to 1: what its evidence says, raised by each symptom that it explains, by its known onset, and by a change."""
    strength = _strength(cause)
    if strength < 0.8 and cause.cause is not None:
        strength += 0.2
    doubt = (1 - strength) * 0.85 ** min(explained, 6)
    return round((1 - doubt) * (0.95 if cause.since is None else 1.0), 2)


def _strength(cause: Finding) -> float:
    return next(value for beginning, value in _STRENGTH if cause.check.startswith(beginning))


def _may_explain(item: Finding) -> bool:
    return item.severity >= Severity.WARNING and not item.check.startswith("gap.")


def _later(cause: datetime | None, symptom: datetime | None) -> timedelta | None:
    """How much later the cause began; None where it did not, or where it is not known."""
    if cause is None or symptom is None or cause - symptom <= SLACK:
        return None
    return cause - symptom


def _order(item: Finding) -> tuple[str, str, str]:
    return str(item.subject), item.check, str(item.title)


def _rank(item: Finding) -> tuple[bool, float, float, str, str]:
    """Earlier, then stronger, comes first: an order without cycles. Onsets within the slack count as one."""
    moment = int(item.since.timestamp() // SLACK.total_seconds()) if item.since else 0
    return item.since is None, moment, -confidence(item, 0), str(item.subject), item.check


_REFUTATIONS: tuple[tuple[str, Message], ...] = (
    ("node.", _("Pods of the same owners fail on other nodes too")),
    ("dns.", _("Names are resolved from inside a pod while the errors go on")),
    ("network.", _("Names are resolved from inside a pod while the errors go on")),
    ("volume.", _("The volume has room again and the writes still fail")),
    ("storage.", _("The claim is bound and mounted and the pods still fail")),
    ("certificate.", _("The certificate that the service really shows is still valid")),
    ("cpu.", _("The containers are no longer throttled and still slow")),
    ("memory.", _("The containers end while they stand well below their limit")),
    ("image.", _("The node can pull this image by its name")),
    ("config.", _("The object with the key is there and the container still does not start")),
    ("scheduling.", _("A node has what the pods ask for and they stay Pending")),
    ("service.", _("The Service has ready endpoints and the calls still fail")),
    ("scaling.", _("With more replicas the latency stays as it is")),
    ("dependency.", _("The store answers its other clients at once")),
    ("traffic.", _("The errors go on after the change before them was taken back")),
    ("", _("The pods are ready and what follows from it goes on")),
)


def _refutation(item: Finding, explained: int) -> tuple[Step, ...]:
    text = next(text for beginning, text in _REFUTATIONS if item.check.startswith(beginning))
    look = next((step.command for step in item.steps if step.command and not step.changes), "")
    steps = [Step(text, look)]
    if explained:
        steps.append(Step(_("What it explains goes on after it is over")))
    return tuple(steps)
