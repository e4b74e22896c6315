"""How full volumes and nodes are and were, and what containers write: from the kubelet's, node exporter's and kube-state-metrics' metrics.

Prometheus computes which file systems are full or fill; only their history is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.diagnosis.disk.facts import HOURS, FileSystem, History, Parameters, Place, Series, What, Writer, number
from opslib.facts import Answer, Questions
from opslib.facts.containers import Containers
from opslib.findings import Finding, Severity, Step, Subject
from opslib.messages import Text, _
from opslib.sources.prometheus import any_of, matcher, selector

if TYPE_CHECKING:
    import pandas

    from opslib.sources.prometheus import Prometheus

# Not disks: memory, images, and mounts of single pods, which repeat another file system.
_NOT_DISKS = "tmpfs|devtmpfs|overlay|squashfs|ramfs|erofs|iso9660|nsfs|fuse.*|proc|sysfs|cgroup.*"
_NOT_MOUNTS = "/(run|boot|proc|sys|dev)(/.*)?|/var/lib/kubelet/(pods|plugins)/.*|/var/lib/(containerd|docker|containers|rancher)/.+"
_HOSTS = ("node", "nodename", "kubernetes_node", "instance")  # labels that name a node, the best first
_EXPORTED = "exported_namespace"  # where the scraper's own labels win
_DISK = (*_HOSTS, "mountpoint", "device", "fstype")
_NEAR_STEP_SECONDS = 120
_FAR_POINTS = 336  # half an hour apart in a week
MOST_WRITERS = 25


class Metrics:
    """Asks one Prometheus for what this chapter needs."""

    def __init__(self, prometheus: Prometheus, parameters: Parameters, questions: Questions, now: datetime) -> None:
        self._prometheus = prometheus
        self._parameters = parameters
        self._questions = questions
        self._now = now
        self._namespace_label = prometheus.settings.namespace_label
        self._claim = (self._namespace_label, _EXPORTED, "persistentvolumeclaim")

    def _ask(self, what: Text, promql: str, labels: Sequence[str] = ()) -> Answer[pandas.DataFrame]:
        return self._questions.ask(what, lambda: self._prometheus.query(promql, self._now, labels=labels))

    def _where(self) -> str:
        """Of the chosen namespace, by the label that the environment names."""
        namespace = self._parameters.namespace
        return matcher(self._namespace_label, namespace) if namespace else ""

    def _volume_place(self, row: Mapping[str, Any]) -> Place:
        namespace = row.get(_EXPORTED) or row.get(self._namespace_label) or ""
        return Place("volume", str(namespace), str(row.get("persistentvolumeclaim") or ""))

    def _volume_queries(self, place: Place) -> dict[What, str]:
        labels = (matcher(self._namespace_label, place.namespace), matcher("persistentvolumeclaim", place.name))
        return {
            "bytes": f"{_volume('capacity_bytes', *labels)} - {_volume('available_bytes', *labels)}",
            "inodes": f"{_volume('inodes', *labels)} - {_volume('inodes_free', *labels)}",
        }

    # --- volumes ---

    def volumes(self) -> tuple[FileSystem, ...] | None:
        """The volumes that are mounted somewhere; a volume that several nodes have mounted is one."""
        what = _("how full the volumes are")
        answers = {
            name: self._ask(
                what, _by(self._claim, _volume(name, self._where()), least=name in ("available_bytes", "inodes_free")), self._claim
            )
            for name in ("capacity_bytes", "available_bytes", "inodes", "inodes_free")
        }
        frames = {name: answer.get() for name, answer in answers.items()}
        size, available = frames["capacity_bytes"], frames["available_bytes"]
        if size is None or available is None:
            return None
        if size.empty and not self._parameters.namespace:
            self._missing("kubelet_volume_stats_capacity_bytes", _("Scrape the kubelets"))
            return None
        values = {name: _values(frame, self._volume_place) for name, frame in frames.items() if frame is not None}
        return tuple(
            FileSystem(
                place=place, size=whole, available=values["available_bytes"][place],
                inodes=values.get("inodes", {}).get(place), inodes_free=values.get("inodes_free", {}).get(place),
                queries=self._volume_queries(place),
            )
            for place, whole in sorted(values["capacity_bytes"].items(), key=lambda item: str(item[0]))
            if place in values["available_bytes"]
        )  # fmt: skip

    # --- nodes ---

    def filesystems(self, names: Mapping[str, str]) -> tuple[FileSystem, ...] | None:
        """The nodes' own; of a device that is mounted twice the mount with the shortest path. `names` are the nodes' by address."""
        what, disks = _("how full the nodes' disks are"), _disks()
        answers = {
            name: self._ask(what, _by(_DISK, selector(f"node_filesystem_{name}", disks)), _DISK)
            for name in ("size_bytes", "avail_bytes", "files", "files_free", "readonly")
        }
        frames = {name: answer.get() for name, answer in answers.items()}
        size, available = frames["size_bytes"], frames["avail_bytes"]
        if size is None or available is None:
            return None
        if size.empty:
            self._missing("node_filesystem_size_bytes", _("Scrape the node exporter on every node"))
            return None
        values = {name: _values(frame, lambda row: _disk_place(row, names)) for name, frame in frames.items() if frame is not None}
        devices: dict[tuple[str, str], FileSystem] = {}
        for row in _rows(size):
            place = _disk_place(row, names)
            whole, free = values["size_bytes"].get(place), values["avail_bytes"].get(place)
            if not whole or free is None:
                continue
            found = FileSystem(
                place=place, size=whole, available=free, device=str(row["device"]), fstype=str(row["fstype"]),
                inodes=values.get("files", {}).get(place), inodes_free=values.get("files_free", {}).get(place),
                readonly=bool(values.get("readonly", {}).get(place)), queries=_disk_queries(row),
            )  # fmt: skip
            key = (place.namespace, found.device or place.name)
            if key not in devices or len(place.name) < len(devices[key].place.name):
                devices[key] = found
        return tuple(sorted(devices.values(), key=lambda one: (one.place.namespace, one.place.name)))

    # --- which to look at closely, and their past ---

    def filling(self, names: Mapping[str, str]) -> tuple[set[Place], set[Place]]:
        """Volumes and nodes' file systems that are full in time if the last hours go on, as Prometheus computes it."""
        seconds, soon = self._parameters.warning_days * 86400, self._parameters.critical_hours * 3600
        what = _("which file systems fill")

        def falls(metric: str, free: str) -> str:
            return (
                f"{free} < 0.9 * {metric} and "
                f"(predict_linear({free}[{HOURS}h], {seconds:.0f}) < 0 or predict_linear({free}[1h], {soon:.0f}) < 0)"
            )

        asked = [
            (self._ask(what, f"topk(100, -{_by(labels, falls(size, free), least=True)})", labels), place)
            for labels, place, size, free in (
                (self._claim, self._volume_place, _volume("capacity_bytes", self._where()), _volume("available_bytes", self._where())),
                (self._claim, self._volume_place, _volume("inodes", self._where()), _volume("inodes_free", self._where())),
                (_DISK, lambda row: _disk_place(row, names), selector("node_filesystem_size_bytes", _disks()),
                 selector("node_filesystem_avail_bytes", _disks())),
            )
        ]  # fmt: skip
        found = {place(row) for answer, place in asked for row in _rows(answer.get())}
        return {one for one in found if one.kind == "volume"}, {one for one in found if one.kind == "node"}

    def histories(self, chosen: Iterable[FileSystem], names: Mapping[str, str]) -> dict[tuple[Place, What], History] | None:
        """What was in use of each in the past days and hours; inodes where more than half of them are. None: nothing of it answered."""
        chosen = list(chosen)
        asked: list[tuple[What, bool, Answer[pandas.DataFrame], Any]] = []
        for kind in ("volume", "node"):
            for what in ("bytes", "inodes"):
                some = [one for one in chosen if one.place.kind == kind and (what == "bytes" or (one.share("inodes") or 0) > 0.5)]
                if not some:
                    continue
                labels, place, promql = self._in_use(kind, what, some, names)
                asked += [(what, near, self._range(promql, labels, near=near), place) for near in (False, True)]
        found: dict[tuple[Place, What], dict[bool, Series]] = {}
        answered = False
        wanted = {one.place for one in chosen}
        for what, near, answer, place in asked:
            frame = answer.get()
            answered |= frame is not None
            times: dict[Place, dict[float, float]] = {}
            for row in _rows(frame):
                if (value := number(row["value"])) is not None and (where := place(row)) in wanted:
                    series = times.setdefault(where, {})
                    moment = row["time"].timestamp()
                    series[moment] = max(value, series.get(moment, value))
            for where, series in times.items():
                found.setdefault((where, what), {})[near] = Series(tuple(sorted(series)), tuple(series[one] for one in sorted(series)))
        if asked and not answered:
            return None
        return {key: History(parts.get(False, Series()), parts.get(True, Series())) for key, parts in found.items()}

    def _in_use(self, kind: str, what: What, some: list[FileSystem], names: Mapping[str, str]) -> tuple[Sequence[str], Any, str]:
        if kind == "volume":
            claims = any_of("persistentvolumeclaim", sorted({one.place.name for one in some}))
            whole, free = ("capacity_bytes", "available_bytes") if what == "bytes" else ("inodes", "inodes_free")
            return (
                self._claim,
                self._volume_place,
                _by(self._claim, f"{_volume(whole, self._where(), claims)} - {_volume(free, self._where(), claims)}"),
            )
        mounts = any_of("mountpoint", sorted({one.place.name for one in some}))
        whole, free = ("size_bytes", "avail_bytes") if what == "bytes" else ("files", "files_free")
        both = (selector(f"node_filesystem_{name}", _disks(), mounts) for name in (whole, free))
        return _DISK, lambda row: _disk_place(row, names), _by(_DISK, " - ".join(both))

    def _range(self, promql: str, labels: Sequence[str], *, near: bool) -> Answer[pandas.DataFrame]:
        span = timedelta(hours=HOURS) if near else timedelta(days=self._parameters.history_days)
        step = _NEAR_STEP_SECONDS if near else max(300.0, span.total_seconds() / _FAR_POINTS)
        question = lambda: self._prometheus.query_range(promql, self._now - span, self._now, step, labels=labels)  # noqa: E731
        return self._questions.ask(_("how full the file systems were"), question)

    # --- containers ---

    def writers(self) -> tuple[Writer, ...] | None:
        """The containers with the most written outside their volumes, or of logs, and those whose writing grows the most."""
        labels, most, settings = ("namespace", "pod", "container"), MOST_WRITERS, self._prometheus.settings
        containers = Containers(settings, self._parameters.namespace)
        what, written, logged = _("what containers write"), "container_fs_usage_bytes", "kubelet_container_log_filesystem_used_bytes"
        slope = f"deriv(%s[{HOURS}h])"
        # which first, and then the rest about those alone
        asked = [
            self._ask(what, f"topk({most}, {promql})", labels)
            for promql in (containers.usage(written), containers.usage(logged), f"{containers.usage(written, over=slope)} > 0")
        ]
        frames = [answer.get() for answer in asked]
        if frames[0] is None:
            return None
        chosen = list(dict.fromkeys(tuple(str(row[one]) for one in labels) for frame in frames for row in _rows(frame)))
        if not chosen:
            return ()
        pods = sorted({pod for _namespace, pod, _container in chosen})
        those, of_state = any_of(settings.pod_label, pods), any_of(f"{settings.state_prefix}pod", pods)
        of_storage = matcher("resource", "ephemeral_storage")
        limits = _("limits of ephemeral storage")
        answers = {
            "used": self._ask(what, containers.usage(written, those), labels),
            "growth": self._ask(what, containers.usage(written, those, over=slope), labels),
            "logs": self._ask(what, containers.usage(logged, those), labels),
            "limit": self._ask(limits, containers.state("kube_pod_container_resource_limits", of_storage, of_state), labels),
            "request": self._ask(limits, containers.state("kube_pod_container_resource_requests", of_storage, of_state), labels),
        }
        values = {name: _values(answer.get(), lambda row: tuple(str(row[one]) for one in labels)) for name, answer in answers.items()}
        return tuple(
            Writer(namespace=key[0], pod=key[1], container=key[2], **{name: found.get(key) for name, found in values.items()})
            for key in chosen
        )

    def images(self) -> frozenset[str] | None:
        """Names and digests of the images of all containers; None where kube-state-metrics does not say."""
        found: set[str] = set()
        frame = self._ask(_("the images in use"), "count by (image, image_spec, image_id) (kube_pod_container_info)").get()
        if frame is None or frame.empty:
            return None
        for row in frame.to_dict("records"):
            found |= {str(row[name]).rpartition("://")[2] for name in ("image", "image_spec", "image_id") if row.get(name)}
        return frozenset(found)

    def _missing(self, metric: str, remedy: Text) -> None:
        self._questions.gap(
            Finding(
                check="gap.prometheus", severity=Severity.UNKNOWN, subject=Subject("Metric", metric),
                title=_("Could not look at {what}: Prometheus has no such metric, or too few samples of it yet", what=metric),
                steps=(Step(remedy),),
            )
        )  # fmt: skip


def _volume(name: str, *matchers: str) -> str:
    return selector(f"kubelet_volume_stats_{name}", *matchers)


def _disk_queries(row: Mapping[str, Any]) -> dict[What, str]:
    host = next((name for name in _HOSTS if row.get(name)), "instance")
    labels = (matcher(host, str(row.get(host, ""))), matcher("mountpoint", str(row.get("mountpoint", ""))))

    def in_use(whole: str, free: str) -> str:
        return f"{selector(f'node_filesystem_{whole}', *labels)} - {selector(f'node_filesystem_{free}', *labels)}"

    return {"bytes": in_use("size_bytes", "avail_bytes"), "inodes": in_use("files", "files_free")}


def _disks() -> str:
    return f"{matcher('fstype', _NOT_DISKS, '!~')},{matcher('mountpoint', _NOT_MOUNTS, '!~')}"


def _by(labels: Sequence[str], promql: str, *, least: bool = False) -> str:
    return f"{'min' if least else 'max'} by ({', '.join(labels)}) ({promql})"


def _rows(frame: pandas.DataFrame | None) -> list[dict[str, Any]]:
    return [] if frame is None else [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _values(frame: pandas.DataFrame | None, key: Any) -> dict[Any, float]:
    return {key(row): value for row in _rows(frame) if (value := number(row["value"])) is not None}


def _disk_place(row: Mapping[str, Any], names: Mapping[str, str]) -> Place:
    host = next((str(row[name]) for name in _HOSTS if row.get(name)), "")
    bare = host if host in names else (host.rpartition(":")[0].strip("[]") or host if host.rpartition(":")[2].isdigit() else host)
    return Place("node", names.get(bare, bare), str(row.get("mountpoint") or ""))
