"""What chapter 4.1 must know: the unhealthy pods in full, and what stands around them.

A field that is None could not be read; an empty one was read and holds nothing. Rules take None for "not known", never for "not there".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from opslib.findings import Finding, Subject
from opslib.messages import Text
from opslib.sources.monitored import Silence
from opslib.sources.objects import (
    Autoscaler,
    Claim,
    EndpointSlice,
    Event,
    Ingress,
    Node,
    Object,
    OwnerReference,
    PersistentVolume,
    Pod,
    Quota,
    Service,
    StorageClass,
    Workload,
)

if TYPE_CHECKING:
    import pandas

Reference = tuple[str, str, str]  # kind, namespace, name

# Kinds whose status says how many of their pods are ready.
CONTROLLERS = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController")


@dataclass(frozen=True, slots=True)
class Log:
    """The last lines of a container's log, secrets taken out; None where it could not be read, empty where there is none."""

    current: str | None = None
    previous: str | None = None

    @property
    def of_failure(self) -> str:
        """What it said before it ended: the previous run's lines, else the current ones."""
        return self.previous or self.current or ""


ROLLOUT, CONFIGURATION, SCALING, NODE = "rollout", "configuration", "scaling", "node"
EKS, TERRAFORM, ACTION = "eks", "terraform", "action"


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was changed: when, what, and in whose words.

    Parameters
    ----------
    kind
        What kind of change: one of the names above.
    about
        What else it bears on at once, beside its subject: the owners whose pods were on a node that is gone.
    everywhere
        Whether it may bear on everything: the control plane, the network, whatever Terraform did. It is evidence, after all that is nearer.
    source, reference
        Whose record it is, and how to see it again; without a reference, the subject's path in the cluster's API.
    """

    time: datetime
    subject: Subject
    text: Text
    rollout: bool = False  # undone with `kubectl rollout undo`
    suspect: bool = True  # may stand as a cause; what is merely new (a node) is evidence only
    minor: bool = False  # a rollout of the same template (restarted by hand, a new checksum): what it picked up says more
    kind: str = ROLLOUT
    about: frozenset[Subject] = frozenset()
    everywhere: bool = False
    source: str = "kubernetes"
    reference: str = ""

    def bears_on(self, *subjects: Subject) -> bool:
        """Whether it bears on one of these."""
        return self.everywhere or any(subject == self.subject or subject in self.about for subject in subjects)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One thing that Prometheus measured and that is not as it should be.

    Parameters
    ----------
    kind
        "errors", "slow", "throttled", "volume", "dns", "certificate".
    namespace, name
        Service (errors, slow), pod (throttled), claim (volume), host (certificate); empty for DNS.
    value, usual
        Now, and at the same time on earlier days, in the kind's unit: ratios 0 to 1, seconds, bytes. None: not known.
    since
        When it began to be so, without a break until now; None where it was so all the time that was looked at.
    own
        Of errors: the share that is the service's own (500), and not passed on from others (502 to 504).
    query
        The expression that shows it.
    """

    kind: str
    namespace: str = ""
    name: str = ""
    container: str = ""
    value: float
    usual: float | None = None
    since: datetime | None = None
    own: float | None = None
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alerted:
    """An alert that Alertmanager has: name, labels, since when, and the ids of the silences that hide it."""

    name: str
    labels: Mapping[str, str]
    since: datetime | None = None
    silenced_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the chapter's findings, tables and plots rest on.

    Parameters
    ----------
    now, environment, namespace
        When it was read, of which environment, of which namespace (empty: all).
    kubectl
        Further words of every command that is shown: ("--context", "prod").
    grace
        How long a pod may take to start before that is a finding.
    onset_window
        How long before the trouble began a change still counts as near.
    total, by_status
        Pods looked at, and how many of each STATUS (as kubectl prints it).
    pods
        The unhealthy pods in full.
    events
        By uid of the object that they are about, oldest first. An object that is not in it was not asked about.
    logs
        By (namespace, pod, container), for the pods that were looked at closely.
    workloads
        By kind, then by (namespace, name). Deployment, StatefulSet and DaemonSet: all of the namespaces looked at. ReplicaSet: the
        revisions of their Deployments. Job: those without a success, and those of unhealthy pods. CronJob: those of these Jobs.
    revisions
        ControllerRevisions (metadata) of the StatefulSets and DaemonSets with unhealthy pods.
    found, missing
        Objects that pods and Ingresses refer to by (kind, namespace, name): metadata, or known not to exist. In neither: not known.
    nodes
        By name, in full: those that do not answer, and those of unhealthy pods.
    claims, volumes, storage_classes
        By (namespace, name), and by name.
    services, endpoint_slices, ingresses, ingress_classes, autoscalers, quotas
        Of the namespaces looked at.
    memory
        Tidy frame with columns namespace, pod, container, time, value (bytes): working set of containers that ran out of memory.
    restarts
        Tidy frame with columns namespace, pod, time, value: restarts of containers in the ten minutes before, of the pods (also those that
        are gone) of owners whose containers restart.
    measured
        What is not as it should be by Prometheus' metrics; None where it could not be asked.
    busy
        Requests a second of services by (namespace, name): now, and yesterday at this time.
    calls
        Who calls whom: (owner, (namespace, name) of the Service), from traffic and from addresses in settings.
    alerts, silences
        Alertmanager's: alerts by name, and who silenced what, until when.
    noted
        Changes from other records: images first seen in metrics, scaling, nodes that came or went, EKS' updates, what Terraform wrote, what
        opslib itself did.
    gaps
        What could not be looked at, and why.
    """

    now: datetime
    environment: str
    namespace: str = ""
    kubectl: tuple[str, ...] = ()
    grace: timedelta = timedelta(minutes=2)
    onset_window: timedelta = timedelta(hours=1)
    total: int | None = None
    by_status: Mapping[str, int] | None = None
    pods: tuple[Pod, ...] | None = None
    events: Mapping[str, tuple[Event, ...]] | None = None
    logs: Mapping[Reference, Log] = field(default_factory=dict)
    workloads: Mapping[str, Mapping[tuple[str, str], Workload] | None] = field(default_factory=dict)
    revisions: tuple[Object, ...] | None = None
    found: Mapping[Reference, Object] = field(default_factory=dict)
    missing: frozenset[Reference] = frozenset()
    nodes: Mapping[str, Node] | None = None
    claims: Mapping[tuple[str, str], Claim] | None = None
    volumes: tuple[PersistentVolume, ...] | None = None
    storage_classes: tuple[StorageClass, ...] | None = None
    services: tuple[Service, ...] | None = None
    endpoint_slices: tuple[EndpointSlice, ...] | None = None
    ingresses: tuple[Ingress, ...] | None = None
    ingress_classes: tuple[Object, ...] | None = None
    autoscalers: tuple[Autoscaler, ...] | None = None
    quotas: tuple[Quota, ...] | None = None
    memory: pandas.DataFrame | None = None
    restarts: pandas.DataFrame | None = None
    measured: tuple[Measured, ...] | None = None
    busy: Mapping[tuple[str, str], tuple[float, float | None]] = field(default_factory=dict)
    calls: tuple[tuple[Subject, tuple[str, str]], ...] = ()
    alerts: tuple[Alerted, ...] | None = None
    silences: tuple[Silence, ...] | None = None
    noted: tuple[Change, ...] = ()
    gaps: tuple[Finding, ...] = ()

    def workload(self, kind: str, namespace: str, name: str) -> Workload | None:
        """One workload; None where it is not known."""
        return (self.workloads.get(kind) or {}).get((namespace, name))

    def node(self, name: str) -> Node | None:
        """One node; None where it is not known."""
        return (self.nodes or {}).get(name)

    def events_of(self, uid: str, *reasons: str) -> tuple[Event, ...]:
        """The events about one object, oldest first; only those with one of `reasons`, where some are named."""
        events = (self.events or {}).get(uid, ()) if uid else ()
        return tuple(event for event in events if event.reason in reasons) if reasons else events


def controller(owners: list[OwnerReference]) -> OwnerReference | None:
    """The owner that manages an object, else the only one there is."""
    for owner in owners:
        if owner.controller:
            return owner
    return owners[0] if len(owners) == 1 else None


def owner_of(pod: Pod, facts: Facts) -> Subject:
    """Who looks after a pod, at the top of the chain: Deployment over ReplicaSet, CronJob over Job, any other kind as it is named.

    A static pod is owned by its node, which does not look after it: it is its own subject, like a pod without an owner.
    """
    metadata = pod.metadata
    owner = controller(metadata.owner_references)
    if owner is None or owner.kind == "Node" or not owner.name:
        return Subject("Pod", metadata.name, metadata.namespace)
    return top_of(owner, metadata.namespace, facts, pod_template_hash=metadata.labels.get("pod-template-hash", ""))


def top_of(owner: OwnerReference, namespace: str, facts: Facts, pod_template_hash: str = "") -> Subject:
    """The top of an owner chain that begins with `owner`."""
    middle = facts.workload(owner.kind, namespace, owner.name)
    if middle is not None:
        above = controller(middle.metadata.owner_references)
        if above is not None and above.name:
            return Subject(above.kind, above.name, namespace)
    elif owner.kind == "ReplicaSet" and pod_template_hash and owner.name.endswith(f"-{pod_template_hash}"):
        # The ReplicaSet could not be read: a Deployment names its ReplicaSets after itself and the hash of the template.
        return Subject("Deployment", owner.name.removesuffix(f"-{pod_template_hash}"), namespace)
    return Subject(owner.kind, owner.name, namespace)


def ready_pods(owner: Subject, facts: Facts) -> int | None:
    """How many pods of an owner are ready, from its own status; None where it is not known."""
    workload = facts.workload(owner.kind, owner.namespace, owner.name)
    if workload is not None and owner.kind in CONTROLLERS:
        return workload.status.number_ready if owner.kind == "DaemonSet" else workload.status.ready_replicas
    below = [
        item
        for item in (facts.workloads.get("ReplicaSet") or {}).values()
        if item.metadata.namespace == owner.namespace
        and any(reference.kind == owner.kind and reference.name == owner.name for reference in item.metadata.owner_references)
    ]
    return sum(item.status.ready_replicas for item in below) if below else None
