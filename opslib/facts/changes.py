"""What other records than the cluster's own objects tell of changes: metrics, events, EKS, CloudTrail, Terraform's state, opslib's own log.

Each record is asked at once and by itself: one that cannot be read is a gap, and the others still tell. A record that the environment does
not have (no AWS, no Terraform) is not asked.
"""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.actions import audit, plans
from opslib.diagnosis.pods.facts import ACTION, EKS, NODE, SCALING, TERRAFORM, Change, Facts
from opslib.diagnosis.pods.measured import owner_by_name
from opslib.errors import InputError, SourceError, Unreachable
from opslib.facts import Answer, Questions
from opslib.facts.containers import series_of, steps_of
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity, Subject
from opslib.messages import Text, _, one_line
from opslib.sources import terraform
from opslib.sources.objects import Autoscaler, Event
from opslib.sources.prometheus import any_of, matcher, selector
from opslib.sources.versions import NODE_GROUP

if TYPE_CHECKING:
    import pandas

    from opslib.sources.aws import Aws

SPAN = timedelta(hours=6)
STEP = 60.0
ALIKE = timedelta(minutes=3)  # two records of one scaling: a metric is read once a minute
ROLLOUT = timedelta(minutes=10)  # a rollout scales two ReplicaSets of one Deployment within it
PAUSE = timedelta(minutes=10)  # between two things that one apply does
MOST = 200  # workloads whose replicas are read over time
REPLICAS = {"Deployment": ("kube_deployment_spec_replicas", "deployment"), "StatefulSet": ("kube_statefulset_replicas", "statefulset")}
SCALED = re.compile(r"Scaled (?:up|down) replica set (\S+) (?:from (\d+) to (\d+)|to (\d+) from (\d+))")
NEW_SIZE = re.compile(r"New size: (\d+); reason: (.*)", re.DOTALL)

# What EKS' own add-ons run, and whether everything in the cluster goes through them.
ADDONS: Mapping[str, tuple[tuple[Subject, ...], bool]] = {
    "coredns": ((Subject("Deployment", "coredns", "kube-system"), Subject("Service", "kube-dns", "kube-system")), True),
    "kube-proxy": ((Subject("DaemonSet", "kube-proxy", "kube-system"),), True),
    "vpc-cni": ((Subject("DaemonSet", "aws-node", "kube-system"),), True),
    "aws-ebs-csi-driver": (
        (Subject("Deployment", "ebs-csi-controller", "kube-system"), Subject("DaemonSet", "ebs-csi-node", "kube-system")),
        False,
    ),
    "metrics-server": ((Subject("Deployment", "metrics-server", "kube-system"),), False),
}
KINDS = {"deployments": "Deployment", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet", "nodes": "Node", "pods": "Pod"}


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions that are open since `began` (`time.monotonic`); None: the environment does not have that record."""

    began: float

    replicas: Mapping[str, Answer[pandas.DataFrame]] | None
    rescales: Answer[list[Event]]
    resized: Answer[list[Event]]
    nodes: Answer[list[Change]] | None
    eks: Answer[list[Change]] | None
    terraform: tuple[Answer[list[Change]], ...]
    actions: Answer[list[tuple[Change, tuple[Subject, ...]]]]


def ask(sources: Sources, questions: Questions, namespace: str, now: datetime) -> Asked:
    """Ask all of them; nothing is waited for."""
    environment, since = sources.environment, now - SPAN
    replicas = nodes = eks = None
    if environment.prometheus is not None:
        prefix = environment.prometheus.state_prefix
        replicas = {
            kind: questions.ask(
                _("how workloads were scaled"), functools.partial(_replicas, sources, namespace, metric, label, prefix, now)
            )
            for kind, (metric, label) in REPLICAS.items()
        }
        nodes = questions.ask(_("nodes that came or went"), functools.partial(_nodes, sources, prefix, now))
    writes = []
    if environment.terraform is not None:
        writes.append(questions.ask(_("when Terraform's state was written"), functools.partial(_states, sources, since)))
    if environment.aws is not None:
        writes.append(questions.ask(_("what Terraform changed in AWS"), functools.partial(_applies, sources, questions, since, now)))
        if environment.aws.cluster:
            eks = questions.ask(_("updates of EKS"), functools.partial(_updates, sources, since))

    def events(reason: str) -> Answer[list[Event]]:
        def question() -> list[Event]:
            return list(sources.kubernetes.list(Event, "events", namespace, fields=f"reason={reason}"))

        return questions.ask(_("events of scaling"), question)

    return Asked(
        time.monotonic(),
        replicas,
        events("SuccessfulRescale"),
        events("ScalingReplicaSet"),
        nodes,
        eks,
        tuple(writes),
        questions.ask(_("what opslib itself did"), functools.partial(_actions, environment, questions, since)),
    )


def read(asked: Asked, facts: Facts, questions: Questions, seconds: float) -> tuple[Change, ...]:
    """The changes, once they are known.

    AWS and Terraform are waited for until so many seconds after they were asked and no longer: the page is not about them.
    """
    until = asked.began + seconds
    frames = None if asked.replicas is None else {kind: answer.get() for kind, answer in asked.replicas.items()}
    found = scalings(frames, asked.rescales.get() or (), asked.resized.get() or (), facts)
    found += (asked.nodes.get() or []) if asked.nodes else []
    for what, answer in ((_("updates of EKS"), asked.eks), *((_("what Terraform changed"), one) for one in asked.terraform)):
        found += _in_time(answer, until, what, questions) if answer else []
    groups: dict[str, set[Subject]] = {}
    for node in (facts.nodes or {}).values():
        groups.setdefault(node.metadata.labels.get(NODE_GROUP, ""), set()).add(Subject("Node", node.metadata.name))
    found = [_with(change, groups.get(change.subject.name, ())) if change.subject.kind == "NodeGroup" else change for change in found]
    for change, pods in asked.actions.get() or ():
        found.append(_with(change, {owner_by_name(pod.namespace, pod.name, facts) for pod in pods}))
    return tuple(sorted(found, key=lambda change: (change.time, str(change.subject), change.kind)))


def _with(change: Change, about: Iterable[Subject]) -> Change:
    return replace(change, about=change.about | frozenset(about))


def _in_time(answer: Answer[list[Change]], until: float, what: Text, questions: Questions) -> list[Change]:
    try:
        return answer.get(max(0.1, until - time.monotonic())) or []
    except TimeoutError:
        questions.failed(Unreachable("aws", _("It does not answer in time")), what)
        return []


# --- scaling ----------------------------------------------------------------------------------------------------------------------------


def _replicas(sources: Sources, namespace: str, metric: str, label: str, prefix: str, now: datetime) -> pandas.DataFrame:
    """How many replicas were asked for over time, of the workloads for which that changed: namespace, name, time, value."""
    place = f"{prefix}namespace"
    here = [matcher(place, namespace)] if namespace else []
    by = f"max by ({place}, {label})"
    changed = f"topk({MOST}, {by} (changes({selector(metric, *here)}[{_span()}])) > 0)"
    names = sources.prometheus.query(changed, now, labels=(place, label))
    if names.empty:
        return names
    wanted = selector(metric, any_of(place, sorted(set(names[place]))), any_of(label, sorted(set(names[label]))))
    frame = sources.prometheus.query_range(f"{by} ({wanted})", now - SPAN, now, STEP, labels=(place, label))
    return frame.rename(columns={place: "namespace", label: "name"})


def _span() -> str:
    return f"{int(SPAN.total_seconds())}s"


def scalings(
    frames: Mapping[str, pandas.DataFrame | None] | None, rescales: Iterable[Event], resized: Iterable[Event], facts: Facts
) -> list[Change]:
    """Scaled workloads, by whom as far as it is known.

    Parameters
    ----------
    frames
        By kind, replicas over time (columns namespace, name, time, value). Without them the Deployments' events tell, for an hour.
    rescales
        What autoscalers say that they did.
    resized
        What Deployments say of their ReplicaSets: a rollout says it of two of them.
    """
    autoscalers = {(one.metadata.namespace, one.metadata.name): one for one in facts.autoscalers or ()}
    targets = {_target(one): one for one in autoscalers.values()}
    rescaled = [one for event in rescales if (one := _rescale(event, autoscalers)) is not None]
    found = [change for change, _size in rescaled]
    steps = [
        (datetime.fromtimestamp(moment, UTC), Subject(kind, name, namespace), int(before), int(after), "prometheus")
        for kind, frame in (frames or {}).items()
        if frame is not None
        for (namespace, name), moments in steps_of(series_of(frame, "namespace", "name")).items()
        for moment, before, after in moments
    ]
    if frames is None or frames.get("Deployment") is None:
        steps += [(*step, "kubernetes") for step in _resized(resized, facts)]
    for moment, owner, before, after, source in steps:
        if any((owner, after) == (change.subject, size) and abs(moment - change.time) <= ALIKE for change, size in rescaled):
            continue
        name, by_itself = f"{owner.kind} {owner.name}", owner in targets
        text = (
            _(
                "{owner} was scaled from {before} to {after}, by its autoscaler unless somebody did it by hand",
                owner=name,
                before=before,
                after=after,
            )
            if by_itself
            else _("{owner} was scaled from {before} to {after}", owner=name, before=before, after=after)
        )
        reference = REPLICAS[owner.kind][0] if source == "prometheus" else ""
        found.append(Change(moment, owner, text, suspect=not by_itself, kind=SCALING, source=source, reference=reference))
    return found


def _target(autoscaler: Autoscaler) -> Subject:
    target = autoscaler.spec.scale_target_ref
    return Subject(target.kind, target.name, autoscaler.metadata.namespace)


def _rescale(event: Event, autoscalers: Mapping[tuple[str, str], Autoscaler]) -> tuple[Change, int] | None:
    about, size = event.involved_object, NEW_SIZE.match(event.message)
    autoscaler = autoscalers.get((about.namespace, about.name))
    if autoscaler is None or size is None or event.seen is None:
        return None
    owner = _target(autoscaler)
    text = _(
        "autoscaler {name} scaled {owner} to {after}: {reason}",
        name=about.name, owner=f"{owner.kind} {owner.name}", after=size[1], reason=one_line(size[2], 200),
    )  # fmt: skip
    path = f"/apis/autoscaling/v2/namespaces/{about.namespace}/horizontalpodautoscalers/{about.name}"
    return Change(event.seen, owner, text, suspect=False, kind=SCALING, reference=path), int(size[1])


def _resized(events: Iterable[Event], facts: Facts) -> list[tuple[datetime, Subject, int, int]]:
    """Deployments that were scaled: only one ReplicaSet grew or shrank, and the Deployment was not just made."""
    known: dict[Subject, list[tuple[datetime, str, int, int]]] = {}
    for event in events:
        words = SCALED.match(event.message)
        if words and event.seen:
            before, after = (words[2], words[3]) if words[2] else (words[5], words[4])
            owner = Subject("Deployment", event.involved_object.name, event.involved_object.namespace)
            known.setdefault(owner, []).append((event.seen, words[1], int(before), int(after)))
    found = []
    for owner, items in known.items():
        workload = facts.workload(owner.kind, owner.namespace, owner.name)
        made = workload.metadata.creation_timestamp if workload else None
        for moment, name, before, after in items:
            others = {other for time, other, *_sizes in items if abs(time - moment) <= ROLLOUT}
            if others == {name} and not (made and before == 0 and moment - made <= ALIKE):
                found.append((moment, owner, before, after))
    return found


# --- nodes ------------------------------------------------------------------------------------------------------------------------------


def _nodes(sources: Sources, prefix: str, now: datetime) -> list[Change]:
    """Nodes that came or went within the span, with the owners of the pods that were on those that went: metrics remember both.

    Of a Prometheus that is younger than the span nothing is said: all its nodes are new to it.
    """
    label, place = f"{prefix}node", f"{prefix}namespace"
    by = f"count by ({label})"
    now_too = f"({by} (kube_node_info) and {by} (kube_node_info offset {_span()}))"
    moved = f"{by} (last_over_time(kube_node_info[{_span()}])) unless {now_too} and on () count(kube_node_info offset {_span()})"
    names = sorted(set(sources.prometheus.query(moved, now, labels=(label,))[label]))
    if not names:
        return []
    wanted = selector("kube_node_info", any_of(label, names))
    seen = sources.prometheus.query_range(f"max by ({label}) (timestamp({wanted}))", now - SPAN, now, STEP, labels=(label,))
    times = {str(name): (rows["value"].min(), rows["value"].max()) for name, rows in seen.groupby(label)}
    gone = [name for name, (_first, last) in times.items() if now.timestamp() - last > ALIKE.total_seconds()]
    owners = _owners_on(sources, label, place, gone, now)
    found = []
    for name, (first, last) in sorted(times.items()):
        known = functools.partial(Change, subject=Subject("Node", name), kind=NODE, source="prometheus", reference=wanted)
        if first - (now - SPAN).timestamp() > ALIKE.total_seconds():
            found.append(known(time=datetime.fromtimestamp(first, UTC), text=_("node {node} was added", node=name), suspect=False))
        if name in gone:
            text = _("node {node} is gone", node=name)
            found.append(known(time=datetime.fromtimestamp(last, UTC), text=text, about=frozenset(owners.get(name, ()))))
    return found


def _owners_on(sources: Sources, label: str, place: str, nodes: Sequence[str], now: datetime) -> dict[str, set[Subject]]:
    """The owners of the pods that were on nodes within the span."""
    if not nodes:
        return {}
    labels = (label, place, "created_by_kind", "created_by_name")
    series = selector("kube_pod_info", any_of(label, nodes))
    frame = sources.prometheus.query(f"count by ({', '.join(labels)}) (last_over_time({series}[{_span()}]))", now, labels=labels)
    found: dict[str, set[Subject]] = {}
    for node, namespace, kind, name in zip(*(frame[one].astype(str) for one in labels), strict=True):
        owner = Subject("Deployment", name.rpartition("-")[0], namespace) if kind == "ReplicaSet" else Subject(kind, name, namespace)
        found.setdefault(node, set()).add(owner)
    return found


# --- AWS and Terraform ------------------------------------------------------------------------------------------------------------------


def _aws(sources: Sources) -> Aws:
    """The environment's account, and no other one."""
    try:
        sources.aws.check_account()
    except InputError as error:
        raise SourceError("aws", error.what, error.remedy, error.command) from error
    return sources.aws


def _updates(sources: Sources, since: datetime) -> list[Change]:
    """Updates of the control plane, node groups and add-ons that began or ended since a time."""
    found = []
    for kind, name, update, moment in _aws(sources).updates(since):
        about, everywhere = ADDONS.get(name, ((), False)) if kind == "Addon" else ((), kind == "Cluster")
        text = _(
            "EKS: {update} of {kind} {name}, {what}: {status}",
            update=one_line(update.get("type", "-"), 60), kind=kind, name=name, status=one_line(update.get("status", "-"), 30),
            what=[one_line(f"{one.get('type')} {one.get('value')}", 80) for one in update.get("params", ())][:3] or ["-"],
        )  # fmt: skip
        found.append(
            Change(
                moment,
                Subject(kind, name),
                text,
                suspect=kind != "Cluster",
                kind=EKS,
                about=frozenset(about),
                everywhere=everywhere,
                source="aws",
                reference=f"eks describe-update {update.get('id', '')}",
            )
        )
    return found


def _applies(sources: Sources, questions: Questions, since: datetime, now: datetime) -> list[Change]:
    """What Terraform changed in the account, by whom, as CloudTrail tells: what follows within some minutes is one apply."""
    events, whole = _aws(sources).changes_by("Terraform", since, now)
    if not whole:
        questions.gap(
            Finding(
                check="gap.aws",
                severity=Severity.INFO,
                subject=Subject("System", "aws"),
                title=_("CloudTrail has more than {count} changes of these hours: the earlier ones were not read", count=len(events)),
            )
        )
    groups: list[list[dict[str, Any]]] = []
    for event in sorted(events, key=lambda one: (str(one.get("Username")), one["EventTime"])):
        last = groups[-1][-1] if groups else None
        if last and last.get("Username") == event.get("Username") and event["EventTime"] - last["EventTime"] <= PAUSE:
            groups[-1].append(event)
        else:
            groups.append([event])
    found = []
    for group in groups:
        first = group[0]
        text = _(
            "Terraform, as {who}, changed AWS: {what}",
            who=one_line(first.get("Username", "-"), 80),
            what=[one_line(name, 60) for name in dict.fromkeys(str(one.get("EventName")) for one in group)][:5],
        )
        found.append(
            Change(
                first["EventTime"].astimezone(UTC),
                Subject("Terraform", "AWS"),
                text,
                suspect=False,
                kind=TERRAFORM,
                everywhere=True,
                source="aws",
                reference=f"cloudtrail lookup-events EventId={first.get('EventId', '')}",
            )
        )
    return found


def _states(sources: Sources, since: datetime) -> list[Change]:
    """When Terraform's state was written: the file's time, or the versions that its bucket keeps."""
    settings = sources.environment.terraform
    assert settings is not None
    state = terraform.state_of(settings.folder)
    if state is None:
        return []
    if state.bucket:
        written = [(moment, "") for moment in _aws(sources).written(state.bucket, state.key)]
    else:
        written = terraform.written(state)
    name = settings.folder.name
    return [
        Change(
            moment, Subject("Terraform", name),
            _("Terraform wrote the state of {name}, serial {serial}", name=name, serial=serial)
            if serial
            else _("Terraform wrote the state of {name}", name=name),
            suspect=False, kind=TERRAFORM, everywhere=True, source="terraform", reference=str(state),
        )
        for moment, serial in written
        if moment >= since
    ]  # fmt: skip


# --- opslib's own actions ---------------------------------------------------------------------------------------------------------------


def outputs(environment_file: Path | None) -> Path:
    """Where opslib keeps what it did: $OPSLIB_OUTPUTS, else outputs here, else outputs of the project that the environment's file is in."""
    given = os.environ.get("OPSLIB_OUTPUTS")
    here = Path(given or "outputs")
    if given or here.exists() or environment_file is None:
        return here
    return environment_file.resolve().parent.parent / "outputs"


def _actions(environment: Any, questions: Questions, since: datetime) -> list[tuple[Change, tuple[Subject, ...]]]:
    """What was executed and taken back since a time, and the pods that it was about."""
    place = plans.folder(environment, outputs(environment.source))
    try:
        records, broken = audit.log_in(place).verify()
    except OSError as error:
        raise SourceError("opslib", _("The log of actions cannot be read: {why}", why=error.strerror or str(error))) from error
    if broken is not None:
        questions.failed(SourceError("opslib", broken, _("Find out who changed it"), "opslib audit --verify"), _("what opslib itself did"))
    titles = {record.plan: record for record in records if record.event == "planned"}
    found = []
    for record in records:
        if record.event not in ("started", "undo.started") or record.time < since:
            continue
        planned = titles.get(record.plan)
        title = one_line(planned.data.get("title", ""), 200) if planned else record.plan[: plans.SHORT]
        action = str(planned.data.get("action", "")) if planned else ""
        text = (
            _("opslib: {who} executed {title}", who=one_line(record.who, 80), title=title)
            if record.event == "started"
            else _("opslib: {who} took back {title}", who=one_line(record.who, 80), title=title)
        )
        subjects = _subjects(record.plan, place)
        about = tuple(subject for subject in subjects if subject.kind != "Pod")
        subject = next(iter(about), Subject("Plan", record.plan[: plans.SHORT]))
        change = Change(
            record.time, subject, text, minor=action == "restart", kind=ACTION, about=frozenset(about), everywhere=action == "terraform",
            suspect=action != "terraform", source="opslib", reference=f"opslib audit {record.plan[: plans.SHORT]}",
        )  # fmt: skip
        found.append((change, tuple(one for one in subjects if one.kind == "Pod")))
    return found


def _subjects(plan: str, place: Path) -> tuple[Subject, ...]:
    """What the steps of a plan change; nothing where its file is gone: the log still tells when it was executed."""
    try:
        steps = plans.read(plan, place).steps
    except InputError:
        return ()
    found = []
    for step in steps:
        request = step.request
        if step.system == "kubernetes":
            kind = KINDS.get(str(request.get("resource", "")).partition(".")[0])
            if kind:
                found.append(Subject(kind, str(request.get("name", "")), str(request.get("namespace", ""))))
        elif step.system == "aws":
            kind, name = request["object"]
            found.append(Subject({"addon": "Addon", "nodegroup": "NodeGroup"}.get(kind, "Cluster"), name))
    return tuple(dict.fromkeys(found))
