"""What was changed shortly before the trouble began: rollouts, ConfigMaps, Secrets, nodes, and what other records tell of.

A change near the onset is evidence, not proof. Where a rule knows no cause of its own, the nearest change becomes the finding's cause.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from opslib.diagnosis.pods.cases import Case, age, kubectl
from opslib.diagnosis.pods.config import references
from opslib.diagnosis.pods.facts import CONFIGURATION, NODE, Change, Facts
from opslib.findings import Evidence, Finding, Step, Subject
from opslib.messages import Message, Text, _
from opslib.sources.objects import Container, Object, PodSpec, PodTemplate, Workload

REVISION = "deployment.kubernetes.io/revision"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
# A change counts as "before" up to this long after the onset: clocks differ, and events come in whole seconds.
SLACK = timedelta(seconds=30)
MOMENT = timedelta(seconds=10)
SHOWN = 3
NODE_KINDS = frozenset({"creating", "lost", "terminating", "evicted", "start"})


def changes(facts: Facts, owner: Subject, spec: PodSpec | None = None, node: str = "") -> list[Change]:
    """The changes that could bear on an owner's pods, newest first.

    Parameters
    ----------
    spec
        The pods' specification: which ConfigMaps and Secrets they use.
    node
        The node of the pods.
    """
    workload = facts.workload(owner.kind, owner.namespace, owner.name)
    created = workload.metadata.creation_timestamp if workload else None
    found = [*_rollouts(facts, owner), *_referenced(facts, owner.namespace, spec, created)]
    found += _node_changes(facts, node)
    # One change that two records tell of is one: the cluster's own says more.
    about = (owner, Subject("Node", node)) if node else (owner,)
    found += [change for change in facts.noted if change.bears_on(*about) and not any(_same(change, other) for other in found)]
    return sorted(found, key=lambda change: change.time, reverse=True)


def _same(change: Change, other: Change) -> bool:
    alike = (change.rollout and other.rollout) or (change.kind == other.kind == NODE and change.subject == other.subject)
    return alike and abs(change.time - other.time) <= timedelta(minutes=5)


def changes_of(case: Case) -> list[Change]:
    """The changes that could bear on a case; those of the node only where the node has a part in the trouble."""
    node = case.pod.spec.node_name if case.symptom.kind in NODE_KINDS else ""
    return changes(case.facts, case.owner, case.pod.spec, node)


def with_changes(finding: Finding, case: Case) -> Finding:
    """The finding with the changes near its onset: as evidence, and as its cause where it has none."""
    return blamed(finding, case.facts, case.owner, changes_of(case))


def blamed(finding: Finding, facts: Facts, owner: Subject, known: list[Change]) -> Finding:
    """The same for changes that are known already."""
    since = finding.since
    if since is None:
        return finding
    near = [change for change in known if since - facts.onset_window <= change.time <= since + SLACK]
    near = sorted(near, key=lambda change: change.everywhere)[:SHOWN]
    if not near:
        return finding
    evidence = tuple(
        Evidence(
            text=_before(since - change.time, change.text),
            source=change.source,
            reference=change.reference or _reference(change.subject),
            time=change.time,
        )
        for change in near
    )
    suspects = [change for change in near if change.suspect]
    first = next((change for change in suspects if not change.minor), suspects[0] if suspects else None)
    if first is None:
        return replace(finding, evidence=(*finding.evidence, *evidence))
    cause = finding.cause or _after(since - first.time, first.text)
    steps = finding.steps
    if first.rollout and not first.minor and not any("undo" in step.command for step in steps):
        target = f"{owner.kind.lower()}/{owner.name}"
        undo = kubectl(facts, owner.namespace, "rollout", "undo", target)
        steps = (Step(_("If the rollout is the cause, go back to the revision before"), undo, changes=True), *steps)
    elif not first.rollout and finding.cause is None and first.source == "kubernetes":
        look = kubectl(facts, first.subject.namespace, "describe", first.subject.kind.lower(), first.subject.name)
        steps = (Step(_("Look at what was changed"), look), *steps)
    return replace(finding, cause=cause, evidence=(*finding.evidence, *evidence), steps=steps)


def _before(lead: timedelta, change: Text) -> Message:
    if lead < MOMENT:
        return _("When the trouble began: {change}", change=change)
    return _("{age} before the trouble began: {change}", age=age(lead), change=change)


def _after(lead: timedelta, change: Text) -> Message:
    if lead < MOMENT:
        return _("It began right after a change: {change}", change=change)
    return _("It began {age} after a change: {change}", age=age(lead), change=change)


def difference(before: PodTemplate, after: PodTemplate) -> list[Text]:
    """What differs between two templates, as far as it can be told: images, commands, resources, probes, where settings come from."""
    old, new = _containers(before.spec), _containers(after.spec)
    texts: list[Text] = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            texts.append(_("container {name} added", name=name))
        elif name not in new:
            texts.append(_("container {name} removed", name=name))
        else:
            texts += _container_difference(name, old[name], new[name])
    if before.spec.volumes != after.spec.volumes:
        texts.append(_("volumes changed"))
    for label, left, right in (
        (_("node selector changed"), before.spec.node_selector, after.spec.node_selector),
        (_("affinity changed"), before.spec.affinity, after.spec.affinity),
        (_("tolerations changed"), before.spec.tolerations, after.spec.tolerations),
        (_("service account changed"), before.spec.service_account_name, after.spec.service_account_name),
    ):
        if left != right:
            texts.append(label)
    annotations = {
        name
        for name in before.metadata.annotations.keys() | after.metadata.annotations.keys()
        if before.metadata.annotations.get(name) != after.metadata.annotations.get(name)
    }
    if RESTARTED_AT in annotations:
        texts.append(_("restarted by hand (rollout restart)"))
    texts += [_("annotation {name} changed", name=name) for name in sorted(annotations - {RESTARTED_AT})]
    return texts


def _container_difference(name: str, before: Container, after: Container) -> list[Text]:
    texts: list[Text] = []
    if before.image != after.image:
        texts.append(_("image of {name}: {before} → {after}", name=name, before=before.image, after=after.image))
    for label, left, right in (
        (_("command of {name} changed", name=name), (before.command, before.args), (after.command, after.args)),
        (_("environment of {name} changed", name=name), (before.env, before.env_from), (after.env, after.env_from)),
        (_("requests or limits of {name} changed", name=name), before.resources, after.resources),
        (_("ports of {name} changed", name=name), before.ports, after.ports),
        (_("mounts of {name} changed", name=name), before.volume_mounts, after.volume_mounts),
        (
            _("probes of {name} changed", name=name),
            (before.liveness_probe, before.readiness_probe, before.startup_probe),
            (after.liveness_probe, after.readiness_probe, after.startup_probe),
        ),
    ):
        if left != right:
            texts.append(label)
    return texts


def _containers(spec: PodSpec) -> dict[str, Container]:
    return {container.name: container for container in (*spec.init_containers, *spec.containers)}


def revisions_of(facts: Facts, owner: Subject) -> list[Workload]:
    """The ReplicaSets of an owner, newest revision first."""
    mine = [
        item
        for (namespace, _name), item in (facts.workloads.get("ReplicaSet") or {}).items()
        if namespace == owner.namespace
        and any(above.kind == owner.kind and above.name == owner.name for above in item.metadata.owner_references)
    ]
    return sorted(mine, key=lambda item: (_revision(item), str(item.metadata.creation_timestamp)), reverse=True)


def _revision(item: Workload) -> int:
    text = item.metadata.annotations.get(REVISION, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _rollouts(facts: Facts, owner: Subject) -> list[Change]:
    """The newest rollout, where there was an earlier state to come from: the first one is no change."""
    sets = revisions_of(facts, owner)
    if len(sets) >= 2:
        newest, before = sets[0], sets[1]
        created = newest.metadata.creation_timestamp
        if created is None:
            return []
        what = difference(before.spec.template, newest.spec.template) or [_("settings of the template")]
        minor = before.spec.template.spec == newest.spec.template.spec
        text = _(
            "rollout of {owner} to revision {revision}: {what}",
            owner=f"{owner.kind} {owner.name}",
            revision=_revision(newest) or "?",
            what=what,
        )
        return [Change(created, owner, text, rollout=owner.kind == "Deployment", minor=minor)]
    mine = [
        item
        for item in facts.revisions or ()
        if item.metadata.namespace == owner.namespace
        and any(above.kind == owner.kind and above.name == owner.name for above in item.metadata.owner_references)
    ]
    times = sorted((item.metadata.creation_timestamp for item in mine if item.metadata.creation_timestamp), reverse=True)
    if len(times) < 2:
        return []
    return [Change(times[0], owner, _("rollout of {owner}", owner=f"{owner.kind} {owner.name}"), rollout=True)]


def _referenced(facts: Facts, namespace: str, spec: PodSpec | None, owner_created: datetime | None) -> list[Change]:
    """ConfigMaps and Secrets that were written after their user was made: what came with it is no change."""
    if spec is None:
        return []
    from opslib.sources.objects import Pod

    found = []
    for kind, name in dict.fromkeys(references(Pod(spec=spec))):
        if kind not in ("ConfigMap", "Secret"):
            continue
        item = facts.found.get((kind, namespace, name))
        if item is None:
            continue
        time, writer = last_write(item)
        if time is None:
            continue
        made = time == item.metadata.creation_timestamp
        if owner_created and time <= owner_created + (SLACK if made else timedelta(seconds=1)):
            continue
        subject = Subject(kind, name, namespace)
        if made:
            found.append(Change(time, subject, _("{kind} {name} was created", kind=kind, name=name), kind=CONFIGURATION))
        elif writer:
            text = _("{kind} {name} was changed by {writer}", kind=kind, name=name, writer=writer)
            found.append(Change(time, subject, text, kind=CONFIGURATION))
        else:
            found.append(Change(time, subject, _("{kind} {name} was changed", kind=kind, name=name), kind=CONFIGURATION))
    return found


def last_write(item: Object) -> tuple[datetime | None, str]:
    """When an object was last written, and by which program (the managers in its managed fields)."""
    writes = [(field.time, field.manager) for field in item.metadata.managed_fields if field.time and not field.subresource]
    if writes:
        return max(writes)
    return item.metadata.creation_timestamp, ""


def _node_changes(facts: Facts, name: str) -> list[Change]:
    node = facts.node(name)
    if node is None:
        return []
    subject = Subject("Node", name)
    found = [
        Change(taint.time_added, subject, _("node {node} got the taint {taint}", node=name, taint=f"{taint.key}:{taint.effect}"), kind=NODE)
        for taint in node.spec.taints
        if taint.time_added and not taint.key.startswith("node.kubernetes.io/")  # those follow from its conditions, which rules look at
    ]
    if node.metadata.creation_timestamp:
        text = _("node {node} was added", node=name)
        found.append(Change(node.metadata.creation_timestamp, subject, text, suspect=False, kind=NODE))
    return found


def _reference(subject: Subject) -> str:
    paths = {"ConfigMap": "/api/v1", "Secret": "/api/v1", "Node": "/api/v1"}
    root = paths.get(subject.kind, "/apis/apps/v1")
    place = f"/namespaces/{subject.namespace}" if subject.namespace else ""
    return f"{root}{place}/{subject.kind.lower()}s/{subject.name}"
