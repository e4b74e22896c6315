"""Reads the facts of chapter 4.1, asking for little.

First the unhealthy pods (from tables, `Kubernetes.unhealthy_pods`) and, beside them, the lists that tell of trouble without pods:
workloads, failed Jobs, refused pods' events, Services and their endpoints. Then the pods are put into groups, and only up to three of each
group are looked at closely: events, logs, what they refer to. Secrets are asked for their metadata only.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from opslib.chapters.pods import Facts, Log, Parameters
from opslib.diagnosis.pods import graph
from opslib.diagnosis.pods import measured as measured_rules
from opslib.diagnosis.pods.cases import Case, cases, representatives
from opslib.diagnosis.pods.config import references
from opslib.diagnosis.pods.facts import Reference, controller
from opslib.diagnosis.pods.services import Network, network_of
from opslib.errors import NotFound
from opslib.facts import Answer, Questions, changes, measured
from opslib.facts.sources import Sources
from opslib.findings import Finding, Severity, Subject
from opslib.messages import Text, _
from opslib.sources.objects import (
    Autoscaler,
    Claim,
    ConfigMap,
    EndpointSlice,
    Event,
    Ingress,
    Node,
    Object,
    PersistentVolume,
    Pod,
    Quota,
    Service,
    StorageClass,
    Workload,
)
from opslib.sources.redaction import redact
from opslib.sources.unhealthy import UnhealthyPods

if TYPE_CHECKING:
    import pandas

    from opslib.sources.kubernetes import Kubernetes

T = TypeVar("T")

LOG_BYTES = 256 * 1024  # of one container; 100 lines are rarely more than 20 KB
MOST_NODES_DOWN = 20  # whose pods are listed one by one
MOST_REFUSING = 300  # owners with FailedCreate events that are read
MOST_TROUBLED = 30  # owners whose settings are read to see whom they call
MOST_NAMES = 500  # names in one regular expression for Prometheus
SECONDS = 10.0  # that records of changes are waited for where the environment says nothing of it
MEMORY_SPAN = timedelta(hours=6)
MEMORY_STEP = 60
MOST_DRAWN = 6  # owners whose restarts are drawn over time
RESTART_STEP = 600

RESOURCES = {
    "Deployment": "deployments.apps",
    "StatefulSet": "statefulsets.apps",
    "DaemonSet": "daemonsets.apps",
    "ReplicaSet": "replicasets.apps",
    "Job": "jobs.batch",
    "CronJob": "cronjobs.batch",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "ServiceAccount": "serviceaccounts",
    "PersistentVolumeClaim": "persistentvolumeclaims",
}
# Where a container's own words help: it has run.
_WITH_LOGS = frozenset({"exited", "oom", "not_ready", "init", "restarted", "failed", "start", "other", "terminating"})

Workloads = dict[tuple[str, str], Workload]


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """Read everything that chapter 4.1 needs.

    A piece that cannot be read is None in the facts and a gap; the rest goes on.

    Raises
    ------
    InputError
        The cluster's settings are wrong, or the label selector is.
    """
    return _Reader(sources, parameters, questions).read()


class _Reader:
    """One reading: the questions that are open, and what is known so far."""

    def __init__(self, sources: Sources, parameters: Parameters, questions: Questions) -> None:
        self.sources = sources
        self.parameters = parameters
        self.questions = questions
        self.namespace = parameters.namespace
        self.where: Text = parameters.namespace or _("all namespaces")

    @property
    def kubernetes(self) -> Kubernetes:
        return self.sources.kubernetes

    def read(self) -> Facts:
        settings = self.sources.environment
        now = self.sources.now()  # metrics are stamped by clocks of the cluster rather than by ours
        first = self._lists()  # the cluster answers first: what is looked at closely follows from it
        # Metrics have no labels of pods: of a part of the pods alone they cannot tell.
        asked = measured.ask(self.sources, self.questions, self.namespace, now) if not self.parameters.labels else None
        records = changes.ask(self.sources, self.questions, self.namespace, now)
        unhealthy = first.pop("unhealthy").get()
        nodes_down = first.pop("nodes_down").get()
        pods = self._pods(unhealthy, nodes_down or ())
        workloads = self._workloads(first)
        refused: list[Event] | None = first.pop("refused").get()
        lists: dict[str, Any] = {name: None if (items := answer.get()) is None else tuple(items) for name, answer in first.items()}
        facts = Facts(
            now=self.sources.now(),
            environment=settings.name,
            namespace=self.namespace,
            kubectl=settings.kubernetes.kubectl_options,
            grace=timedelta(seconds=self.parameters.grace_seconds),
            onset_window=timedelta(minutes=self.parameters.window_minutes),
            total=unhealthy.total if unhealthy else None,
            by_status=unhealthy.by_status if unhealthy else None,
            pods=pods,
            workloads=workloads,
            nodes=nodes_down,
            **lists,
        )
        if asked is not None:
            facts = dataclasses.replace(facts, **measured.read(asked, settings.prometheus, self.namespace, now))
        facts = self._look_closely(facts, refused)
        if asked is not None:
            facts = self._troubled(facts, measured.traffic(asked, settings.prometheus))
        noted = changes.read(records, facts, self.questions, settings.aws.deadline_seconds if settings.aws else SECONDS)
        return dataclasses.replace(facts, noted=(*facts.noted, *noted), gaps=self.questions.gaps)

    # --- what is asked for at once ---

    def _lists(self) -> dict[str, Answer[Any]]:
        """The lists: small, or in full because a part of them would have to be found first.

        Workloads are listed in full: the owners of unhealthy pods, the conditions of owners without pods and the templates that Services
        select are all in them. Jobs are asked for without a success only, events by their reason.
        """
        namespace, labels = self.namespace, self.parameters.labels
        ask = self._ask_list
        lists: dict[str, Answer[Any]] = {
            "unhealthy": self.questions.ask(_("pods in {where}", where=self.where), self._unhealthy),
            "nodes_down": self.questions.ask(_("nodes"), self._nodes_down),
            "Deployment": ask(Workload, "deployments.apps", namespace),
            "StatefulSet": ask(Workload, "statefulsets.apps", namespace),
            "DaemonSet": ask(Workload, "daemonsets.apps", namespace),
            "Job": ask(Workload, "jobs.batch", namespace, labels=labels, fields="status.successful=0"),
            "refused": ask(Event, "events", namespace, fields="reason=FailedCreate"),
            "services": ask(Service, "services", namespace, labels=labels),
            "endpoint_slices": ask(EndpointSlice, "endpointslices.discovery.k8s.io", namespace),
            "ingresses": ask(Ingress, "ingresses.networking.k8s.io", namespace, labels=labels),
            "ingress_classes": self.questions.ask(
                "ingressclasses", lambda: self.kubernetes.metadata_list("ingressclasses.networking.k8s.io")
            ),
            "autoscalers": ask(Autoscaler, "horizontalpodautoscalers.autoscaling", namespace, labels=labels),
            "quotas": ask(Quota, "resourcequotas", namespace),
            "storage_classes": ask(StorageClass, "storageclasses.storage.k8s.io"),
        }
        return lists

    def _ask_list(self, kind: type[T], resource: str, namespace: str = "", *, labels: str = "", fields: str = "") -> Answer[list[T]]:
        name = resource.partition(".")[0]
        what: Text = _("{resource} in {where}", resource=name, where=namespace) if namespace else name
        return self.questions.ask(what, lambda: list(self.kubernetes.list(kind, resource, namespace, labels=labels, fields=fields)))

    def _unhealthy(self) -> UnhealthyPods:
        found = self.kubernetes.unhealthy_pods(
            self.namespace, labels=self.parameters.labels, restarted_within_seconds=self.parameters.window_minutes * 60
        )
        for namespace, error in found.unread:
            self.questions.gap(Finding.gap(error, _("pods in {where}", where=namespace), Subject("Namespace", namespace)))
        return found

    def _nodes_down(self) -> dict[str, Node]:
        """The nodes that are not ready. Which ones tells the server's table: nodes in full carry the list of their images."""
        rows = self.kubernetes.table("nodes")
        names = [str(row.get("name", "")) for row in rows if "NotReady" in str(row.get("status", "")).split(",")]
        return {name: node for name in names[:MOST_NODES_DOWN] for node in self._node(name)()}

    def _pods(self, unhealthy: UnhealthyPods | None, nodes_down: Iterable[str]) -> tuple[Pod, ...] | None:
        """The unhealthy pods, and those of nodes that do not answer: for some minutes these still look well."""
        if unhealthy is None:
            return None
        pods = {(pod.metadata.namespace, pod.metadata.name): pod for pod in unhealthy.pods}
        asked = [
            self._ask_list(
                Pod, "pods", self.namespace, labels=self.parameters.labels, fields=f"spec.nodeName={name},status.phase!=Succeeded"
            )
            for name in nodes_down
        ]
        for answer in asked:
            for pod in answer.get() or ():
                pods.setdefault((pod.metadata.namespace, pod.metadata.name), pod)
        for pod in pods.values():
            _redact_pod(pod)
        return tuple(pods[key] for key in sorted(pods))

    def _workloads(self, first: dict[str, Answer[Any]]) -> dict[str, Mapping[tuple[str, str], Workload] | None]:
        found: dict[str, Mapping[tuple[str, str], Workload] | None] = {}
        for kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            items = first.pop(kind).get()
            found[kind] = None if items is None else _by_name(items, kind)
        return found

    # --- what is looked at closely ---

    def _look_closely(self, facts: Facts, refused: list[Event] | None) -> Facts:
        facts = self._with_owners(facts, refused or [])
        groups = sorted(cases(facts), key=lambda case: (-len(case.pods), str(case.owner)))
        most = self.parameters.looked_at_closely
        if len(groups) > most:
            self.questions.gap(_not_all(most, len(groups)))
        close = [dataclasses.replace(case, pod=pod) for case in groups[:most] for pod in representatives(case.pods)]
        pods = {pod.metadata.uid or f"{pod.metadata.namespace}/{pod.metadata.name}": pod for pod in (case.pod for case in close)}
        events = self._ask_events(pods.values(), refused, facts)
        logs = self._ask_logs(close)
        existence = self._ask_existence(pods.values(), facts)
        revisions = self._ask_revisions(close, facts)
        claims = self._ask_claims(pods.values())
        nodes = self._ask_nodes(close, facts.nodes or ())
        # Only where the scheduler finds no node for a pod, all of them are of interest: their labels, taints and cordons.
        all_nodes = self._ask_list(Node, "nodes") if any(case.symptom.kind == "unscheduled" for case in close) else None
        memory, restarts = self._ask_memory(close, facts.now), self._ask_restarts(close, facts.now)
        found, missing = _existing(existence, pods.values(), claims)
        known_claims = {key: claim for answer in claims.values() for key, claim in (answer.get() or {}).items()}
        volumes, claim_events = self._volumes(facts, known_claims, pods.values())
        known_nodes, gone = _nodes(nodes)
        if facts.nodes:
            known_nodes = {**facts.nodes, **(known_nodes or {})}
        if all_nodes is not None and (listed := all_nodes.get()) is not None:
            known_nodes = {**(known_nodes or {}), **{node.metadata.name: node for node in listed}}
        node_events = [(name, answer) for name, (_node, answer) in nodes.items() if answer is not None]
        return dataclasses.replace(
            facts,
            events=_collected([*events.items(), *claim_events.items(), *node_events], refused),
            logs={key: answer.get() or Log() for key, answer in logs.items()},
            found=found,
            missing=facts.missing | missing | gone,
            revisions=_flat(revisions),
            claims=known_claims,
            volumes=volumes,
            nodes=known_nodes,
            memory=memory.get() if memory else None,
            restarts=restarts.get() if restarts else None,
        )

    def _troubled(self, facts: Facts, traffic: list[tuple[tuple[str, str], tuple[str, str]]]) -> Facts:
        """The facts with what stands around owners whose trouble only metrics show: revisions, settings, whom they call."""
        network = network_of(facts)
        owners = self._in_trouble(network)[:MOST_TROUBLED]
        by_name = {(item.metadata.namespace, item.metadata.name): graph.subject_of(item) for item in owners}
        sets = self._revisions_by_selector(
            facts, [("ReplicaSet", item.metadata.namespace, f"{item.metadata.name}-") for item in owners if item.kind == "Deployment"]
        )
        maps = {
            (item.metadata.namespace, name): graph.subject_of(item)
            for item in owners
            for kind, name in references(Pod(spec=item.spec.template.spec))
            if kind == "ConfigMap"
        }
        written = {key: self.questions.ask(_("settings of services"), self._settings(*key)) for key in sorted(maps)}
        seen: list[tuple[str, str, str, datetime]] = []
        if owners and self.sources.environment.prometheus is not None:
            spaces = {item.metadata.namespace for item in owners}
            names = {container.name for item in owners for container in item.spec.template.spec.containers}
            seen = self.questions.ask(_("images in use"), lambda: measured.images(self.sources, spaces, names, facts.now)).get() or []
        services = frozenset((item.metadata.namespace, item.metadata.name) for item in facts.services or ())
        calls = {(by_name.get(caller, Subject("Deployment", caller[1], caller[0])), to) for caller, to in traffic}
        found = dict(facts.found)
        for (namespace, name), answer in written.items():
            settings = answer.get()
            if settings is not None:
                found.setdefault(("ConfigMap", namespace, name), settings[0])
                calls |= {(maps[namespace, name], to) for to in graph.hosts(settings[1], namespace, services)}
        running = {
            (item.metadata.namespace, container.name): (
                graph.subject_of(item),
                {container.name: container.image for container in item.spec.template.spec.containers},
            )
            for item in owners
            for container in item.spec.template.spec.containers
        }
        return dataclasses.replace(
            facts,
            workloads={**facts.workloads, "ReplicaSet": {**sets, **(facts.workloads.get("ReplicaSet") or {})}},
            found=found,
            calls=tuple(sorted(calls, key=str)),
            noted=tuple(measured.rollouts(seen, running)),
        )

    def _in_trouble(self, network: Network) -> list[Workload]:
        facts = network.facts
        troubled = {finding.subject for finding in measured_rules.measured(network)}
        return [
            item
            for kind in graph.KINDS
            for key, item in sorted((facts.workloads.get(kind) or {}).items())
            if Subject(kind, key[1], key[0]) in troubled
        ]

    def _settings(self, namespace: str, name: str) -> Callable[[], tuple[Object, list[str]] | None]:
        """A ConfigMap's metadata, and its values, of which only host names are kept."""

        def question() -> tuple[Object, list[str]] | None:
            try:
                known = self.kubernetes.get(ConfigMap, "configmaps", name, namespace)
                return self.kubernetes.metadata("configmaps", name, namespace), list(known.data.values())
            except NotFound:
                return None

        return question

    def _with_owners(self, facts: Facts, refused: list[Event]) -> Facts:
        """The facts with the owners between pods and workloads: ReplicaSets and their revisions, Jobs with a success, CronJobs."""
        wanted: dict[Reference, None] = {}
        for pod in facts.pods or ():
            owner = controller(pod.metadata.owner_references)
            if owner and owner.kind in ("ReplicaSet", "Job"):
                wanted[owner.kind, pod.metadata.namespace, owner.name] = None
        refusing = {(event.involved_object.kind, event.involved_object.namespace, event.involved_object.name) for event in refused}
        wanted |= dict.fromkeys(sorted(item for item in refusing if item[0] in ("ReplicaSet", "Job"))[:MOST_REFUSING])
        sets = self._revisions_by_selector(facts, wanted)
        workloads = dict(facts.workloads)
        jobs = dict(workloads.get("Job") or {})
        unknown = [item for item in wanted if item[1:] not in (sets if item[0] == "ReplicaSet" else jobs)]
        singles, gone = self._ask_each(unknown, _("owners of pods"))
        for (kind, namespace, name), item in singles.items():
            (sets if kind == "ReplicaSet" else jobs)[namespace, name] = item
        workloads["ReplicaSet"] = sets
        workloads["Job"] = jobs if workloads.get("Job") is not None or jobs else None
        owners = {("CronJob", key[0], owner.name) for key, job in jobs.items() if (owner := controller(job.metadata.owner_references))}
        found, _gone = self._ask_each(sorted(owners), "cronjobs")
        workloads["CronJob"] = {(namespace, name): item for (_kind, namespace, name), item in found.items()}
        for items in workloads.values():
            for item in (items or {}).values():
                _redact_conditions(item)
        gone |= {
            item for item in refusing if (known := facts.workloads.get(item[0])) is not None and item[0] != "Job" and item[1:] not in known
        }
        return dataclasses.replace(facts, workloads=workloads, missing=frozenset(gone))

    def _revisions_by_selector(self, facts: Facts, wanted: Iterable[tuple[str, str, str]]) -> Workloads:
        """All ReplicaSets of the Deployments behind the wanted ones, by the Deployment's own selector: earlier templates are in them."""
        deployments = facts.workloads.get("Deployment") or {}
        asked: dict[tuple[str, str], Answer[list[Workload]]] = {}
        for kind, namespace, name in wanted:
            key = (namespace, name.rpartition("-")[0])
            deployment = deployments.get(key)
            if kind != "ReplicaSet" or deployment is None or key in asked:
                continue
            selector = selector_words(deployment)
            if selector:
                asked[key] = self._ask_list(Workload, "replicasets.apps", namespace, labels=selector)
        sets: Workloads = {}
        for answer in asked.values():
            sets |= _by_name(answer.get() or (), "ReplicaSet")
        return sets

    def _ask_each(self, wanted: list[Reference], what: Text) -> tuple[dict[Reference, Workload], set[Reference]]:
        """Single workloads, and which of them are gone."""
        asked = {item: self.questions.ask(what, self._one_workload(*item)) for item in wanted}
        known = {item: found for item, answer in asked.items() if (found := answer.get()) is not None}
        return {item: found[0] for item, found in known.items() if found}, {item for item, found in known.items() if not found}

    def _one_workload(self, kind: str, namespace: str, name: str) -> Callable[[], tuple[Workload, ...]]:
        def question() -> tuple[Workload, ...]:
            try:
                item = self.kubernetes.get(Workload, RESOURCES[kind], name, namespace)
            except NotFound:
                return ()
            item.kind = kind
            return (item,)

        return question

    def _ask_events(self, pods: Iterable[Pod], refused: list[Event] | None, facts: Facts) -> dict[str, Answer[list[Event]]]:
        """Events by the uid of what they are about: the pods looked at, the Jobs that failed."""
        wanted = {pod.metadata.uid: pod.metadata.namespace for pod in pods if pod.metadata.uid}
        failed = [
            job for job in (facts.workloads.get("Job") or {}).values() if any(item.type == "Failed" for item in job.status.conditions)
        ]
        wanted |= {job.metadata.uid: job.metadata.namespace for job in failed[: self.parameters.looked_at_closely] if job.metadata.uid}
        return {uid: self._ask_list(Event, "events", namespace, fields=f"involvedObject.uid={uid}") for uid, namespace in wanted.items()}

    def _ask_logs(self, close: list[Case]) -> dict[Reference, Answer[Log]]:
        if not self.parameters.log_lines:
            return {}
        asked: dict[Reference, Answer[Log]] = {}
        for case in close:
            metadata = case.pod.metadata
            status = case.status
            if case.symptom.kind not in _WITH_LOGS or status is None:
                continue
            key = (metadata.namespace, metadata.name, status.name)
            if key not in asked:
                previous = status.restart_count > 0 or status.last_state.terminated is not None
                asked[key] = self.questions.ask(_("logs"), self._log(*key, previous))
        return asked

    def _log(self, namespace: str, pod: str, container: str, previous: bool) -> Callable[[], Log]:
        def lines(of_previous: bool) -> str:
            try:
                text = self.kubernetes.logs(
                    namespace, pod, container, previous=of_previous, tail_lines=self.parameters.log_lines, limit_bytes=LOG_BYTES
                )
            except NotFound:
                return ""  # never started, or tidied away on its node
            return redact(text)

        return lambda: Log(current=lines(False), previous=lines(True) if previous else "")

    def _ask_existence(self, pods: Iterable[Pod], facts: Facts) -> dict[tuple[str, str], Answer[dict[str, Object | None]]]:
        """Whether what the pods and Ingresses refer to is there, by kind and namespace: one refusal is one gap."""
        wanted: dict[tuple[str, str], set[str]] = {}
        for pod in pods:
            for kind, name in references(pod):
                if kind != "PersistentVolumeClaim":
                    wanted.setdefault((kind, pod.metadata.namespace), set()).add(name)
        for ingress in facts.ingresses or ():
            for item in ingress.spec.tls:
                if item.secret_name:
                    wanted.setdefault(("Secret", ingress.metadata.namespace), set()).add(item.secret_name)
        return {
            (kind, namespace): self.questions.ask(
                _("{resource} in {where}", resource=RESOURCES[kind], where=namespace), self._existence(kind, namespace, sorted(names))
            )
            for (kind, namespace), names in wanted.items()
        }

    def _existence(self, kind: str, namespace: str, names: list[str]) -> Callable[[], dict[str, Object | None]]:
        def question() -> dict[str, Object | None]:
            found: dict[str, Object | None] = {}
            for name in names:
                try:
                    found[name] = self.kubernetes.metadata(RESOURCES[kind], name, namespace)
                except NotFound:
                    found[name] = None
            return found

        return question

    def _ask_revisions(self, close: list[Case], facts: Facts) -> list[Answer[list[Object]]]:
        """ControllerRevisions of the StatefulSets and DaemonSets with unhealthy pods: when they were last rolled out."""
        asked = []
        for owner in dict.fromkeys(case.owner for case in close if case.owner.kind in ("StatefulSet", "DaemonSet")):
            workload = facts.workload(owner.kind, owner.namespace, owner.name)
            selector = selector_words(workload) if workload else ""
            if selector:
                asked.append(self._ask_revision(owner.namespace, selector))
        return asked

    def _ask_revision(self, namespace: str, selector: str) -> Answer[list[Object]]:
        return self.questions.ask(
            _("{resource} in {where}", resource="controllerrevisions", where=namespace),
            lambda: list(self.kubernetes.metadata_list("controllerrevisions.apps", namespace, labels=selector)),
        )

    def _ask_claims(self, pods: Iterable[Pod]) -> dict[str, Answer[dict[tuple[str, str], Claim]]]:
        """The claims of the namespaces whose pods have some."""
        namespaces = {pod.metadata.namespace for pod in pods if any(volume.persistent_volume_claim for volume in pod.spec.volumes)}
        return {namespace: self._ask_claims_of(namespace) for namespace in sorted(namespaces)}

    def _ask_claims_of(self, namespace: str) -> Answer[dict[tuple[str, str], Claim]]:
        def question() -> dict[tuple[str, str], Claim]:
            claims = self.kubernetes.list(Claim, "persistentvolumeclaims", namespace)
            return {(claim.metadata.namespace, claim.metadata.name): claim for claim in claims}

        return self.questions.ask(_("{resource} in {where}", resource="persistentvolumeclaims", where=namespace), question)

    def _volumes(
        self, facts: Facts, claims: Mapping[tuple[str, str], Claim], pods: Iterable[Pod]
    ) -> tuple[tuple[PersistentVolume, ...] | None, dict[str, Answer[list[Event]]]]:
        """Volumes, and the claims' events, only where a claim of an unhealthy pod is not bound."""
        named = {
            (pod.metadata.namespace, volume.persistent_volume_claim.claim_name)
            for pod in pods
            for volume in pod.spec.volumes
            if volume.persistent_volume_claim
        }
        unbound = [claims[key] for key in sorted(named) if key in claims and claims[key].status.phase != "Bound"]
        if not unbound:
            return None, {}
        answer = self._ask_list(PersistentVolume, "persistentvolumes")
        events = {
            claim.metadata.uid: self._ask_list(Event, "events", claim.metadata.namespace, fields=f"involvedObject.uid={claim.metadata.uid}")
            for claim in unbound
            if claim.metadata.uid
        }
        volumes = answer.get()
        return None if volumes is None else tuple(volumes), events

    def _ask_nodes(
        self, close: list[Case], known: Collection[str]
    ) -> dict[str, tuple[Answer[tuple[Node, ...]], Answer[list[Event]] | None]]:
        """The nodes of the pods looked at that are not `known`; the events of those where a container ran out of memory."""
        short = {case.pod.spec.node_name for case in close if "oom" in (case.symptom.kind, case.symptom.detail)}
        named = dict.fromkeys(case.pod.spec.node_name for case in close if case.pod.spec.node_name)
        names = [name for name in named if name in short or name not in known]
        return {
            name: (
                self.questions.ask(_("nodes"), self._node(name)),
                self._ask_list(Event, "events", fields=f"involvedObject.kind=Node,involvedObject.name={name}") if name in short else None,
            )
            for name in names
        }

    def _node(self, name: str) -> Callable[[], tuple[Node, ...]]:
        def question() -> tuple[Node, ...]:
            try:
                return (self.kubernetes.get(Node, "nodes", name),)
            except NotFound:
                return ()

        return question

    def _ask_memory(self, close: list[Case], now: datetime) -> Answer[pandas.DataFrame] | None:
        """Memory of the containers that ran out of it; nothing is asked where there are none, or where there is no Prometheus."""
        short = [case for case in close if "oom" in (case.symptom.kind, case.symptom.detail)]
        if not short or self.sources.environment.prometheus is None:
            return None

        def question() -> pandas.DataFrame:
            from opslib.sources.prometheus import any_of, selector

            names = sorted({pod.metadata.name for case in short for pod in case.pods})[:MOST_NAMES]
            namespaces = sorted({case.owner.namespace for case in short})
            containers = sorted({case.symptom.container for case in short})
            series = selector(
                "container_memory_working_set_bytes", any_of("namespace", namespaces), any_of("pod", names), any_of("container", containers)
            )
            promql = f"max by (namespace, pod, container) ({series})"
            labels = ("namespace", "pod", "container")
            return self.sources.prometheus.query_range(promql, now - MEMORY_SPAN, now, MEMORY_STEP, labels=labels)

        return self.questions.ask(_("memory of containers"), question)

    def _ask_restarts(self, close: list[Case], now: datetime) -> Answer[pandas.DataFrame] | None:
        """Restarts over time of all pods of owners whose containers restart; the pods' names begin with their owners'."""
        owners = sorted({case.owner for case in close if case.status and case.status.restart_count}, key=str)[:MOST_DRAWN]
        if not owners or self.sources.environment.prometheus is None:
            return None
        prefix = self.sources.environment.prometheus.state_prefix
        labels = (f"{prefix}namespace", f"{prefix}pod")

        def question() -> pandas.DataFrame:
            from opslib.sources.prometheus import any_of, matcher, selector

            names = "|".join(owner.name.replace(".", "[.]") + "(-.+)?" for owner in owners)
            spaces = sorted({owner.namespace for owner in owners})
            series = selector("kube_pod_container_status_restarts_total", any_of(labels[0], spaces), matcher(labels[1], names, "=~"))
            promql = f"sum by ({', '.join(labels)}) (increase({series}[10m])) > 0"
            frame = self.sources.prometheus.query_range(promql, now - MEMORY_SPAN, now, RESTART_STEP, labels=labels)
            return frame.rename(columns=dict(zip(labels, ("namespace", "pod"), strict=True)))

        return self.questions.ask(_("restarts of containers"), question)


def selector_words(workload: Workload) -> str:
    """A workload's selector as a query parameter; empty where it has a part that is not understood."""
    words = [f"{key}={value}" for key, value in sorted(workload.spec.selector.match_labels.items())]
    for item in workload.spec.selector.match_expressions:
        key, operator, values = item.get("key", ""), item.get("operator", ""), item.get("values") or []
        if operator in ("In", "NotIn"):
            words.append(f"{key} {operator.lower()} ({','.join(map(str, values))})")
        elif operator == "Exists":
            words.append(str(key))
        elif operator == "DoesNotExist":
            words.append(f"!{key}")
        else:
            return ""
    return ",".join(words)


def _by_name(items: Iterable[Workload], kind: str) -> Workloads:
    found: Workloads = {}
    for item in items:
        item.kind = kind
        found[item.metadata.namespace, item.metadata.name] = item
    return found


def _existing(
    existence: Mapping[tuple[str, str], Answer[dict[str, Object | None]]],
    pods: Iterable[Pod],
    claims: Mapping[str, Answer[dict[tuple[str, str], Claim]]],
) -> tuple[dict[Reference, Object], set[Reference]]:
    found: dict[Reference, Object] = {}
    missing: set[Reference] = set()
    for (kind, namespace), answer in existence.items():
        for name, item in (answer.get() or {}).items():
            if item is None:
                missing.add((kind, namespace, name))
            else:
                found[kind, namespace, name] = item
    for pod in pods:
        namespace = pod.metadata.namespace
        known = claims[namespace].get() if namespace in claims else None
        if known is None:
            continue
        for kind, name in references(pod):
            if kind == "PersistentVolumeClaim" and (namespace, name) not in known:
                missing.add((kind, namespace, name))
    return found, missing


def _nodes(answers: Mapping[str, tuple[Answer[tuple[Node, ...]], Any]]) -> tuple[dict[str, Node] | None, set[Reference]]:
    """The nodes by name, and those that are known to be gone."""
    known = {name: found for name, (answer, _events) in answers.items() if (found := answer.get()) is not None}
    if answers and not known:
        return None, set()
    return {name: found[0] for name, found in known.items() if found}, {("Node", "", name) for name, found in known.items() if not found}


def _collected(answers: Iterable[tuple[str, Answer[list[Event]]]], refused: list[Event] | None) -> dict[str, tuple[Event, ...]] | None:
    """All events by the uid of what they are about, oldest first, without secrets; None where none of the questions was answered."""
    lists = [(uid, answer.get()) for uid, answer in answers]
    if refused is None and all(items is None for _uid, items in lists):
        return None
    found: dict[str, dict[str, Event]] = {uid: {} for uid, items in lists if items is not None}
    for event in itertools.chain(refused or (), *(items or () for _uid, items in lists)):
        about = event.involved_object
        key = about.uid or f"{about.namespace}/{about.kind}/{about.name}"
        event.message = redact(event.message)
        found.setdefault(key, {})[event.metadata.uid or f"{event.metadata.namespace}/{event.metadata.name}"] = event
    return {uid: tuple(sorted(events.values(), key=lambda event: str(event.seen or ""))) for uid, events in found.items()}


def _flat(answers: Iterable[Answer[list[Object]]]) -> tuple[Object, ...] | None:
    lists = [answer.get() for answer in answers]
    return None if any(items is None for items in lists) else tuple(itertools.chain.from_iterable(items or () for items in lists))


def _not_all(most: int, groups: int) -> Finding:
    return Finding(
        check="gap.pods",
        severity=Severity.INFO,
        subject=Subject("Chapter", "pods"),
        title=_("Of {groups} groups of unhealthy pods the largest {most} were looked at closely", groups=groups, most=most),
        cause=_("The others are named by their status alone, without events and logs."),
    )


def _redact_pod(pod: Pod) -> None:
    """What containers and controllers wrote into a pod's status, without secrets."""
    pod.status.message = redact(pod.status.message)
    for condition in pod.status.conditions:
        condition.message = redact(condition.message)
    for status in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        for state in (status.state, status.last_state):
            if state.waiting:
                state.waiting.message = redact(state.waiting.message)
            if state.terminated:
                state.terminated.message = redact(state.terminated.message)


def _redact_conditions(workload: Workload) -> None:
    """Only those that quote a refusal or failure: the others are Kubernetes' own words."""
    for condition in workload.status.conditions:
        if condition.type in ("ReplicaFailure", "Failed"):
            condition.message = redact(condition.message)
