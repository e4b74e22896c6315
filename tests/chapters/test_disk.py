"""Chapter 4.3, disk: what is found in a few facts, and what tables and plots show."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from opslib.chapters import disk
from opslib.chapters.disk import Facts, Parameters
from opslib.diagnosis.disk.facts import (
    FileSystem,
    Folder,
    Folders,
    History,
    Image,
    Kubelet,
    LogVolume,
    NodeDisk,
    NodeDiskStatus,
    Place,
    Series,
    What,
    Writer,
)
from opslib.findings import Finding, Severity
from opslib.messages import text_of
from opslib.sources.objects import Claim, Event, Metadata, Pod, StorageClass, convert

NOW = datetime(2026, 4, 1, 3, 0, tzinfo=UTC)
GIB = 2.0**30
ORDERS = Place("volume", "data", "data-order-db-0")
ROOT = Place("node", "node-1", "/")


def volume(share: float, *, place: Place = ORDERS, size: float = 50 * GIB, **more: Any) -> FileSystem:
    return FileSystem(place=place, size=size, available=size * (1 - share), **more)


def history(rate: float, used: float, *, hours: float = 24 * 7) -> History:
    """Bytes an hour, up to what is in use now, for so many hours."""
    end = NOW.timestamp()

    def series(span: float, step: float) -> Series:
        times = [end - span * 3600 + step * number for number in range(round(span * 3600 / step) + 1)]
        noise = [(number * 7919 % 13 - 6) * 1e6 for number in range(len(times))]
        values = [used - rate * min((end - time) / 3600, hours) + extra for time, extra in zip(times, noise, strict=True)]
        return Series(tuple(times), tuple(values))

    return History(series(24 * 7, 1800), series(6, 120))


def facts(**more: Any) -> Facts:
    return Facts(now=NOW, environment="test", kubectl=("--context", "test"), **{"volumes": (), "filesystems": (), **more})


def grows(share: float, rate: float, what: What = "bytes", **more: Any) -> Facts:
    one = volume(share, **more)
    amounts = one.amounts(what)
    assert amounts is not None
    return facts(volumes=(one,), histories={(ORDERS, what): history(rate, amounts[0])})


def found(of: Facts, **parameters: Any) -> list[Finding]:
    return disk.findings(of, Parameters(**parameters))


def claim(asked: str = "50Gi", given: str = "50Gi", *conditions: dict[str, Any]) -> Claim:
    content = {
        "metadata": {"name": ORDERS.name, "namespace": ORDERS.namespace},
        "spec": {"storageClassName": "gp3", "resources": {"requests": {"storage": asked}}},
        "status": {"phase": "Bound", "capacity": {"storage": given}, "conditions": list(conditions)},
    }
    return convert(content, Claim)


def pod(name: str = "order-db-0", **status: Any) -> Pod:
    owner = {"kind": "StatefulSet", "name": "order-db", "controller": True}
    mount = {"name": "data", "mountPath": "/var/lib/postgresql/data"}
    content = {
        "metadata": {"name": name, "namespace": "data", "ownerReferences": [owner]},
        "spec": {
            "nodeName": "node-1",
            "containers": [{"name": "order-db", "volumeMounts": [mount]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": ORDERS.name}}],
        },
        "status": status,
    }
    return convert(content, Pod)


# --- full, and when ---------------------------------------------------------------------------------------------------------------------


def test_nothing_wrong_is_nothing_found() -> None:
    assert found(grows(0.5, 0.01 * GIB)) == []
    assert found(facts()) == []


def test_what_was_not_read_is_not_found_to_be_well() -> None:
    nothing = Facts(now=NOW, environment="test")
    assert found(nothing) == []  # the gaps say why; here are none
    assert text_of(disk.volumes_table(nothing, Parameters()).empty) == text_of(disk.NOT_READ)


@pytest.mark.parametrize(
    ("share", "rate", "severity", "check"),
    [
        (1.0, 0.0, Severity.CRITICAL, "volumes.full"),
        (0.96, 0.0, Severity.CRITICAL, "volumes.nearly_full"),
        (0.9, 0.0, Severity.WARNING, "volumes.nearly_full"),
        (0.6, 2 * GIB, Severity.CRITICAL, "volumes.fills"),  # 20 GiB in 10 hours
        (0.6, 0.2 * GIB, Severity.WARNING, "volumes.fills"),  # in 100 hours
        (0.9, 0.2 * GIB, Severity.WARNING, "volumes.fills"),  # in 25 hours
    ],
)
def test_full_now_or_soon(share: float, rate: float, severity: Severity, check: str) -> None:
    [one] = found(grows(share, rate))
    assert (one.severity, one.check) == (severity, check)
    assert str(one.subject) == "data/PersistentVolumeClaim/data-order-db-0"


def test_a_date_comes_with_its_bounds() -> None:
    [one] = found(grows(0.6, 2 * GIB))
    assert text_of(one.title, "en") == "Volume data/data-order-db-0 is full in 10 h"
    assert any("95 %" in text_of(evidence.text, "en") for evidence in one.evidence)
    assert one.since is not None


def test_without_a_history_what_is_full_is_still_found() -> None:
    [one] = found(facts(volumes=(volume(0.97),), histories=None))
    assert (one.check, one.cause) == ("volumes.nearly_full", None)


def test_inodes_run_out_while_there_is_room() -> None:
    [one] = found(facts(volumes=(volume(0.3, inodes=1000.0, inodes_free=20.0),)))
    assert (one.check, one.severity) == ("volumes.inodes_nearly_full", Severity.CRITICAL)
    assert not found(facts(volumes=(volume(0.3, inodes=0.0, inodes_free=0.0),)))  # a file system without a fixed number of them


def test_a_node_s_disk_is_the_node_s() -> None:
    [one] = found(facts(filesystems=(volume(0.97, place=ROOT),)))
    assert (one.check, str(one.subject)) == ("nodes.nearly_full", "Node/node-1")
    assert any("kubectl --context test describe node node-1" in step.command for step in one.steps)


def test_who_has_the_volume_is_named_and_how_it_is_expanded() -> None:
    kind = StorageClass(metadata=Metadata(name="gp3"), allow_volume_expansion=True)
    of = facts(volumes=(volume(0.97),), claims=(claim(),), classes=(kind,), mounts={ORDERS: (pod(),)})
    [one] = found(of)
    assert [str(each) for each in one.affected] == ["data/Pod/order-db-0", "data/StatefulSet/order-db"]
    commands = [step.command for step in one.steps]
    assert "opslib plan expand-volume data-order-db-0 75Gi -n data --env test" in commands
    assert any("du -x -k -d 3 /var/lib/postgresql/data" in each for each in commands)
    fixed = StorageClass(metadata=Metadata(name="gp3"))
    [one] = found(facts(volumes=(volume(0.97),), claims=(claim(),), classes=(fixed,)))
    assert not any("expand-volume" in step.command for step in one.steps)


@pytest.mark.parametrize(
    ("of", "check", "severity"),
    [
        (claim("80Gi", "50Gi"), "volumes.resize_pending", Severity.WARNING),
        (claim("80Gi", "80Gi", {"type": "FileSystemResizePending", "status": "True"}), "volumes.resize_pending", Severity.WARNING),
        (claim("80Gi", "50Gi", {"type": "ControllerResizeError", "status": "True"}), "volumes.resize_failed", Severity.CRITICAL),
        (claim("50Gi", "53687091200"), "", Severity.OK),
        (claim("40Gi", "50Gi"), "", Severity.OK),
    ],
)
def test_an_expansion_that_does_not_come_to_its_end(of: Claim, check: str, severity: Severity) -> None:
    assert [(one.check, one.severity) for one in found(facts(claims=(of,)))] == ([(check, severity)] if check else [])


# --- what fills it ------------------------------------------------------------------------------------------------------------------------


def test_files_that_are_deleted_and_open_are_suspected() -> None:
    def folders(total: float, used: float, *, cut: bool = False) -> Folders:
        whole = (Folder("/data", int(total)), Folder("/data/log", int(total / 2)))
        return Folders(
            namespace="data", pod="order-db-0", container="db", path="/data", claim="data-order-db-0",
            folders=whole, used=int(used), cut=cut,
        )  # fmt: skip

    assert [one.check for one in found(facts(folders=(folders(5 * GIB, 20 * GIB),)))] == ["volumes.open_files"]
    assert found(facts(folders=(folders(19.5 * GIB, 20 * GIB),))) == []
    assert found(facts(folders=(folders(5 * GIB, 20 * GIB, cut=True),))) == []  # du did not see everything


def test_containers_that_write_much() -> None:
    near = Writer(namespace="shop", pod="web-1", container="web", used=9 * GIB, limit=10 * GIB, growth=GIB / 3600)
    big = Writer(namespace="shop", pod="web-2", container="web", used=8 * GIB, growth=0.0)
    logs = Writer(namespace="shop", pod="web-3", container="web", used=GIB, logs=7 * GIB, growth=GIB / 3600)
    small = Writer(namespace="shop", pod="web-4", container="web", used=GIB, limit=10 * GIB)
    of = {one.subject.name: one for one in found(facts(writers=(near, big, logs, small)))}
    assert {name: one.check for name, one in of.items()} == {
        "web-1": "containers.near_limit", "web-2": "containers.big_writer", "web-3": "containers.big_logs"
    }  # fmt: skip
    assert (of["web-2"].severity, of["web-3"].severity) == (Severity.INFO, Severity.WARNING)  # the one does not grow
    assert any("60 min" in text_of(evidence.text, "en") for evidence in of["web-1"].evidence)


def test_who_logs_far_more_than_usual() -> None:
    loud = LogVolume(namespace="shop", pod="web-1", lines=900_000, before=1000.0)
    always = LogVolume(namespace="shop", pod="web-2", lines=900_000, before=800_000.0)
    few = LogVolume(namespace="shop", pod="web-3", lines=900, before=1.0)
    new = LogVolume(namespace="shop", pod="web-4", lines=900_000, before=None)
    assert [one.subject.name for one in found(facts(log_volumes=(loud, always, few, new)))] == ["web-1"]


def test_images_that_nobody_uses() -> None:
    images = [
        Image(names=["registry.example.com/web@sha256:" + "a" * 64, "registry.example.com/web:1"], size_bytes=int(30 * GIB)),
        Image(names=["docker.io/library/busybox:1"], size_bytes=int(2 * GIB)),
        Image(names=["registry.example.com/old:1"], size_bytes=int(3 * GIB)),
    ]
    node = NodeDisk(metadata=Metadata(name="node-1"), status=NodeDiskStatus(images=images))
    used = frozenset({"busybox:1", "registry.example.com/web@sha256:" + "a" * 64})
    assert found(facts(nodes=(node,), images_in_use=used)) == []  # 3 GiB, and the disk has room
    tight = facts(nodes=(node,), images_in_use=used, filesystems=(volume(0.9, place=ROOT),))
    [one] = disk.about(found(tight), "images")
    assert (one.severity, text_of(one.title, "en")) == (Severity.WARNING, "3Gi of the images on node-1 are used by no pod")
    assert found(facts(nodes=(node,), images_in_use=None)) == []  # not known: nothing is said


def test_nodes_that_are_short_of_disk() -> None:
    pressed = {"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"}
    content = {"metadata": {"name": "node-1"}, "status": {"conditions": [pressed, {"type": "Ready", "status": "True"}]}}
    failed = {
        "reason": "ImageGCFailed", "type": "Warning", "message": "wanted to free 5 bytes, but freed 0",
        "involvedObject": {"kind": "Node", "name": "node-1"},
    }  # fmt: skip
    normal = {**failed, "reason": "NodeReady", "type": "Normal"}
    events = (convert(failed, Event), convert(normal, Event))
    of = facts(nodes=(convert(content, NodeDisk),), node_events=events, filesystems=(volume(0.5, place=ROOT, readonly=True),))
    assert {one.check for one in found(of)} == {"nodes.disk_pressure", "nodes.clean_up_failed", "nodes.readonly"}


def test_evictions_by_what_ran_out() -> None:
    def evicted(name: str, message: str) -> Pod:
        return pod(name, reason="Evicted", message=message, startTime=NOW - timedelta(hours=1))

    node = evicted("a-1", "The node was low on resource: ephemeral-storage. Threshold quantity: 8Gi, available: 7Gi.")
    other = evicted("a-2", "The node was low on resource: ephemeral-storage. Threshold quantity: 8Gi, available: 7Gi.")
    own = evicted("b-1", "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.")
    memory = evicted("c-1", "The node was low on resource: memory.")
    of = {one.check: one for one in found(facts(evicted=(node, other, own, memory)))}
    assert set(of) == {"nodes.evicted", "containers.evicted"}
    assert (str(of["nodes.evicted"].subject), len(of["nodes.evicted"].affected)) == ("Node/node-1", 2)
    assert str(of["containers.evicted"].subject) == "data/StatefulSet/order-db"


def test_a_replica_set_s_pod_is_its_deployment_s() -> None:
    content = {
        "metadata": {
            "name": "web-5d4f8-x2x9q", "namespace": "shop", "labels": {"pod-template-hash": "5d4f8"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4f8", "controller": True}],
        },
        "status": {"reason": "Evicted", "message": "Container web exceeded its local ephemeral storage limit 1Gi."},
    }  # fmt: skip
    [one] = found(facts(evicted=(convert(content, Pod),)))
    assert str(one.subject) == "shop/Deployment/web"


def test_late_rotation_is_one_finding_for_nodes_that_are_alike() -> None:
    late = Kubelet(log_max_bytes=GIB, log_max_files=5)
    usual = Kubelet(log_max_bytes=10 * 2**20, log_max_files=5)
    [one] = found(facts(kubelets={"node-1": late, "node-2": late, "node-3": usual, "node-4": Kubelet()}))
    assert (one.check, len(one.affected)) == ("nodes.rotation", 2)


# --- pages --------------------------------------------------------------------------------------------------------------------------------


def test_the_worst_come_first_and_what_is_not_known_is_none() -> None:
    other = Place("volume", "data", "quiet")
    of = facts(volumes=(volume(0.2, place=other), volume(0.97)), histories={(ORDERS, "bytes"): history(GIB, 48.5 * GIB)})
    rows = disk.volumes_table(of, Parameters()).frame().to_dict("records")
    assert [row["claim"] for row in rows] == ["data-order-db-0", "quiet"]
    assert rows[0]["severity"] == Severity.CRITICAL
    assert rows[0]["earliest"] < rows[0]["full"] < rows[0]["latest"]
    assert rows[1]["growth"] is None or math.isnan(rows[1]["growth"])


def test_plots_say_why_they_are_empty() -> None:
    [figure] = disk.forecast_figures(facts(histories=None), Parameters())
    assert [text.get_text() for text in figure.axes[0].texts]
    figure = disk.use_figure(Facts(now=NOW, environment="test"), Parameters())
    assert [text.get_text() for text in figure.axes[0].texts]


def test_the_plot_has_past_capacity_and_forecast() -> None:
    [figure] = disk.forecast_figures(grows(0.6, 2 * GIB), Parameters())
    axes = figure.axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert len(labels) == 3  # in use, the interval, as it grows
    lines = [line for line in axes.get_lines() if line.get_label() in labels]
    assert lines[0].get_linestyle() != lines[1].get_linestyle()  # told apart without colours
    assert axes.get_ylim()[1] > 50 * GIB


def test_names_from_outside_stay_names() -> None:
    hostile = Place("volume", "data", "x; rm -rf $(pwd)")
    [one] = found(facts(volumes=(volume(0.97, place=hostile),), claims=(), classes=()))
    assert all("rm -rf" not in step.command or "'x; rm -rf $(pwd)'" in step.command for step in one.steps)
