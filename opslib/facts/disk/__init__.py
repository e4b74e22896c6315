"""Reads what chapter 4.3 looks at of disks: metrics, claims and their classes, nodes and their images, evictions, folders.

First the state of all file systems; then, of those that are full or fill, the history, the pods that have them, and their folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from opslib.diagnosis.disk.facts import Facts, FileSystem, LogVolume, NodeDisk, Parameters, Place
from opslib.errors import SourceError
from opslib.facts import Questions
from opslib.facts.disk import inside, kubelets
from opslib.facts.disk.metrics import Metrics
from opslib.facts.sources import Sources
from opslib.findings import Evidence, Finding, Severity, Subject
from opslib.messages import _
from opslib.sources.elasticsearch import Elasticsearch
from opslib.sources.objects import Claim, Event, Pod, StorageClass
from opslib.sources.redaction import redact

T = TypeVar("T")

_MOST_LOG_PODS = 20
_MOST_NAMESPACES = 20  # whose pods are listed to find who has a volume


def read(sources: Sources, parameters: Parameters, questions: Questions) -> Facts:
    """The facts of chapter 4.3 (disk), from Prometheus, the cluster, its kubelets and containers, and Elasticsearch."""
    environment, now, namespace = sources.environment, sources.now(), parameters.namespace
    ask_list = _lists(sources, questions)
    claims = ask_list(Claim, "persistentvolumeclaims", namespace, "")
    classes = ask_list(StorageClass, "storageclasses.storage.k8s.io", "", "")
    nodes = ask_list(NodeDisk, "nodes", "", "")
    failed = ask_list(Pod, "pods", namespace, "status.phase=Failed")
    node_events = ask_list(Event, "events", "", "involvedObject.kind=Node")
    log_volumes = questions.ask(_("how much each pod logs"), lambda: _log_volumes(sources.elasticsearch, parameters, questions, now))
    measured = questions.ask(_("file systems and what fills them"), lambda: _measured(sources, parameters, questions, now, nodes))
    known = measured.get()
    of_metrics = known or {}
    close: Sequence[FileSystem] = of_metrics.pop("close", ())
    mounts = _mounts(questions, sources, [one.place for one in close if one.place.kind == "volume"])
    full = [(one.place, mounts[one.place]) for one in close if one.place in mounts and (one.share() or 0) >= parameters.use_warning]
    looks = known is not None or bool(parameters.pod)  # else it is not known what is full
    folders = questions.ask(_("the biggest folders"), lambda: inside.read(sources, parameters, questions, full) if looks else None)
    found_nodes = nodes()
    of_kubelets = questions.ask(
        _("the kubelets' settings"), lambda: kubelets.read(sources, questions, _nodes_to_ask(found_nodes or (), close))
    )
    evicted = failed()
    return Facts(
        now=now,
        environment=environment.name,
        zone=environment.zone,
        kubectl=environment.kubernetes.kubectl_options,
        links=environment.links,
        prometheus_url=environment.prometheus.url if environment.prometheus else "",
        claims=claims(),
        classes=classes(),
        nodes=found_nodes,
        evicted=None if evicted is None else tuple(_told(pod) for pod in evicted if pod.status.reason == "Evicted"),
        node_events=node_events(),
        log_volumes=log_volumes.get(),
        mounts=mounts,
        folders=None if (found := folders.get()) is None else tuple(found),
        kubelets=of_kubelets.get(),
        **of_metrics,
        gaps=questions.gaps,
    )


def _lists(sources: Sources, questions: Questions) -> Any:
    """Asks for a list; what is returned gives it as a tuple, or None where it could not be read."""

    def ask_list(kind: type[T], resource: str, namespace: str, fields: str) -> Callable[[], tuple[T, ...] | None]:
        answer = questions.ask(resource, lambda: sources.kubernetes.list(kind, resource, namespace, fields=fields))
        return lambda: None if (found := answer.get()) is None else tuple(found)

    return ask_list


def _measured(
    sources: Sources, parameters: Parameters, questions: Questions, now: datetime, nodes: Callable[[], tuple[NodeDisk, ...] | None]
) -> dict[str, Any]:
    """The fields of `Facts` that come from Prometheus, and, as "close", the file systems to look at closely, the fullest first.

    Raises
    ------
    SourceError
        It does not answer at all.
    """
    sources.prometheus.query("vector(1)")
    metrics = Metrics(sources.prometheus, parameters, questions, now)
    names = {address.address: node.metadata.name for node in nodes() or () for address in node.status.addresses}
    names |= {node.metadata.name: node.metadata.name for node in nodes() or ()}
    what = _("file systems and what fills them")
    of_volumes, of_disks = questions.ask(what, metrics.volumes), questions.ask(what, lambda: metrics.filesystems(names))
    of_filling, writers = questions.ask(what, lambda: metrics.filling(names)), questions.ask(what, metrics.writers)
    images = questions.ask(what, metrics.images)
    volumes, filesystems = of_volumes.get(), of_disks.get()
    filling: set[Place] = set().union(*(of_filling.get() or ()))
    known = [*(volumes or ()), *(filesystems or ())]
    close = sorted(known, key=lambda one: (not _matters(one, parameters), one.place not in filling, -_worst(one)))
    close = close[: parameters.looked_at_closely]
    return {
        "volumes": volumes,
        "filesystems": filesystems,
        "histories": metrics.histories(close, names),
        "writers": writers.get(),
        "images_in_use": images.get(),
        "close": close,
    }


def _worst(one: FileSystem) -> float:
    return max(one.share() or 0.0, one.share("inodes") or 0.0)


def _matters(one: FileSystem, parameters: Parameters) -> bool:
    return _worst(one) >= parameters.use_warning


def _mounts(questions: Questions, sources: Sources, places: Sequence[Place]) -> Mapping[Place, tuple[Pod, ...]]:
    """The pods of each volume's claim."""
    namespaces = list(dict.fromkeys(place.namespace for place in places))[:_MOST_NAMESPACES]
    ask_list = _lists(sources, questions)
    answers = {namespace: ask_list(Pod, "pods", namespace, "") for namespace in namespaces}
    found: dict[Place, tuple[Pod, ...]] = {}
    for namespace, answer in answers.items():
        for pod in answer() or ():
            for volume in pod.spec.volumes:
                if volume.persistent_volume_claim and pod.status.phase not in ("Succeeded", "Failed"):
                    place = Place("volume", namespace, volume.persistent_volume_claim.claim_name)
                    found[place] = (*found.get(place, ()), pod)
    return {place: found[place] for place in places if place in found}


def _nodes_to_ask(nodes: Sequence[NodeDisk], close: Sequence[FileSystem]) -> list[str]:
    """Nodes whose disks are among those looked at first, then the others."""
    there = [node.metadata.name for node in nodes]
    first = [one.place.namespace for one in close if one.place.kind == "node" and one.place.namespace in there]
    return list(dict.fromkeys([*first, *there]))


def _told(pod: Pod) -> Pod:
    pod.status.message = redact(pod.status.message)
    return pod


def _log_volumes(elasticsearch: Elasticsearch, parameters: Parameters, questions: Questions, now: datetime) -> tuple[LogVolume, ...]:
    """The pods with the most lines in the last hour, counted by Elasticsearch, and their mean of the day before.

    Raises
    ------
    SourceError
        It does not answer, or the logs do not name pods where the environment says.
    """
    settings = elasticsearch.settings
    _check_field(elasticsearch, settings.pod_field)
    hour, day = now - timedelta(hours=1), now - timedelta(hours=25)

    def counted(start: datetime, end: datetime, *more: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Buckets by pod."""
        span = {"gte": start.isoformat(), "lt": end.isoformat(), "format": "strict_date_optional_time"}
        where = [{"term": {settings.namespace_field: parameters.namespace}}] if parameters.namespace else []
        namespaces = {"namespace": {"terms": {"field": settings.namespace_field, "size": 1}}}
        body = {
            "size": 0,
            "track_total_hits": False,
            "query": {"bool": {"filter": [{"range": {settings.time_field: span}}, *where, *more]}},
            "aggs": {"pods": {"terms": {"field": settings.pod_field, "size": _MOST_LOG_PODS}, "aggs": namespaces}},
        }
        result = elasticsearch.search(body, what=_("how much each pod logs"))
        for reason in result.partial:
            questions.gap(_in_part(reason))
        return {str(one["key"]): one for one in (result.aggregations.get("pods") or {}).get("buckets", []) if "key" in one}

    newest = counted(hour, now)
    before = counted(day, hour, {"terms": {settings.pod_field: list(newest)}}) if newest else {}
    return tuple(
        LogVolume(
            namespace=next((str(each.get("key")) for each in (one.get("namespace") or {}).get("buckets", [])), ""),
            pod=pod,
            lines=int(one.get("doc_count", 0)),
            before=int(before[pod].get("doc_count", 0)) / 24 if pod in before else None,
        )
        for pod, one in newest.items()
    )


def _check_field(elasticsearch: Elasticsearch, name: str) -> None:
    """Pods that are not named would look as if nobody logged."""
    indices, known = elasticsearch.fields([name])
    if indices and any(known.get(name, {}).values()):
        return
    what = (
        _("The logs have no field {field} that can be counted by", field=name)
        if indices
        else _("There are no logs in {index}", index=elasticsearch.settings.index)
    )
    raise SourceError("elasticsearch", what, _("Name the logs' indices and fields in the environment's file, under elasticsearch"))


def _in_part(reason: str) -> Finding:
    return Finding(
        check="gap.elasticsearch",
        severity=Severity.UNKNOWN,
        subject=Subject("System", "elasticsearch"),
        title=_("Elasticsearch could answer only in part: pods that log much may be missing here"),
        evidence=(Evidence(text=_("Its reason"), quote=reason, source="elasticsearch"),),
    )
