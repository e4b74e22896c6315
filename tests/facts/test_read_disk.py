"""Reading chapter 4.3's facts of disks: what Prometheus is asked, other names of labels, and what commands in containers say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as some

from opslib.diagnosis.disk.facts import FileSystem, Parameters, Place
from opslib.environments import Metrics as Settings
from opslib.facts import Questions
from opslib.facts.disk import inside, kubelets
from opslib.facts.disk.metrics import Metrics
from opslib.sources.prometheus import Prometheus
from opslib.sources.transport import Request, Response

NOW = datetime(2026, 4, 1, 3, 0, tzinfo=UTC)
GIB = 2.0**30

Series = tuple[dict[str, str], float]
"""Labels and value."""


class Answers:
    """A transport whose Prometheus has these series, by metric; what is computed of them is left out, but for the aggregation's labels."""

    system = "prometheus"

    def __init__(self, **metrics: list[Series]) -> None:
        self.metrics = metrics
        self.asked: list[str] = []

    def send(self, request: Request) -> Response:
        form = dict(request.query) or {name: values[0] for name, values in parse_qs((request.body or b"").decode()).items()}
        promql = form["query"]
        self.asked.append(promql)
        names = re.findall(r'__name__="([a-z_]+)"', promql)
        result: list[dict[str, Any]] = []
        for labels, value in self.metrics.get(names[0], []) if names else []:
            if request.path.endswith("query_range"):
                values = [[time, str(value)] for time in range(int(float(form["start"])), int(float(form["end"])), 3600)]
                result.append({"metric": labels, "values": values})
            else:
                result.append({"metric": labels, "value": [NOW.timestamp(), str(value)]})
        kind = "matrix" if request.path.endswith("query_range") else "vector"
        body = json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()
        return Response(status=200, headers={}, body=body)

    def stream(self, request: Request) -> Iterator[bytes]:
        raise AssertionError("nothing is streamed")


@pytest.fixture
def ask() -> Iterator[Callable[[Answers], tuple[Metrics, Questions]]]:
    with ThreadPoolExecutor(8) as executor:

        def make(answers: Answers, settings: dict[str, str] | None = None, **given: Any) -> tuple[Metrics, Questions]:
            questions = Questions(executor)
            prometheus = Prometheus(answers, Settings.model_validate({"url": "http://prometheus", **(settings or {})}))
            return Metrics(prometheus, Parameters(**given), questions, NOW), questions

        yield make


Ask = Callable[..., tuple[Metrics, Questions]]


def claims(*rows: tuple[dict[str, str], float, float]) -> Answers:
    """Volumes by their labels, with size and available bytes."""
    return Answers(
        kubelet_volume_stats_capacity_bytes=[(labels, size) for labels, size, _left in rows],
        kubelet_volume_stats_available_bytes=[(labels, left) for labels, _size, left in rows],
    )


def test_volumes_with_what_is_measured_of_them(ask: Ask) -> None:
    metrics, questions = ask(claims(({"namespace": "data", "persistentvolumeclaim": "a"}, 10 * GIB, 4 * GIB)))
    [one] = metrics.volumes() or ()
    assert (one.place, one.share(), one.share("inodes")) == (Place("volume", "data", "a"), 0.6, None)
    assert 'persistentvolumeclaim="a"' in one.queries["bytes"]
    assert questions.gaps == ()


def test_a_scraper_that_keeps_its_own_labels_does_not_hide_the_namespace(ask: Ask) -> None:
    labels = {"namespace": "monitoring", "exported_namespace": "data", "persistentvolumeclaim": "a"}
    metrics, _questions = ask(claims((labels, 10 * GIB, 4 * GIB)))
    assert [one.place.namespace for one in metrics.volumes() or ()] == ["data"]


def test_labels_that_the_environment_names_otherwise(ask: Ask) -> None:
    answers = claims(({"kube_namespace": "data", "persistentvolumeclaim": "a"}, 10 * GIB, 4 * GIB))
    metrics, _questions = ask(answers, {"namespace_label": "kube_namespace", "container_label": "container_name"}, namespace="data")
    [one] = metrics.volumes() or ()
    assert one.place.namespace == "data"
    assert all('kube_namespace="data"' in promql for promql in answers.asked)
    metrics.writers()
    assert any('container_name!="POD"' in promql for promql in answers.asked)


def test_no_metric_at_all_is_a_gap_and_not_nothing_full(ask: Ask) -> None:
    metrics, questions = ask(Answers())
    assert metrics.volumes() is None
    assert metrics.filesystems({}) is None
    assert {gap.subject.name for gap in questions.gaps} == {"kubelet_volume_stats_capacity_bytes", "node_filesystem_size_bytes"}


def test_a_namespace_without_volumes_is_no_gap(ask: Ask) -> None:
    metrics, questions = ask(Answers(), namespace="shop")
    assert metrics.volumes() == ()
    assert questions.gaps == ()


@pytest.mark.parametrize(
    ("labels", "node"),
    [
        ({"instance": "10.0.1.17:9100"}, "node-1"),
        ({"instance": "[fd00::17]:9100"}, "fd00::17"),
        ({"instance": "node-1"}, "node-1"),
        ({"node": "node-1", "instance": "10.0.1.99:9100"}, "node-1"),
        ({"nodename": "node-1", "instance": "10.0.1.99:9100"}, "node-1"),
        ({"kubernetes_node": "node-1"}, "node-1"),
        ({"instance": "elsewhere:9100"}, "elsewhere"),
    ],
)
def test_nodes_by_whatever_label_names_them(ask: Ask, labels: dict[str, str], node: str) -> None:
    disk = {**labels, "mountpoint": "/", "device": "/dev/nvme0n1p1", "fstype": "xfs"}
    metrics, _questions = ask(
        Answers(node_filesystem_size_bytes=[(disk, 80 * GIB)], node_filesystem_avail_bytes=[(disk, 8 * GIB)])
    )  # fmt: skip
    [one] = metrics.filesystems({"10.0.1.17": "node-1", "node-1": "node-1"}) or ()
    assert (one.place.namespace, one.share()) == (node, 0.9)


def test_a_disk_that_is_mounted_twice_is_one(ask: Ask) -> None:
    def disk(mount: str, device: str) -> dict[str, str]:
        return {"instance": "node-1", "mountpoint": mount, "device": device, "fstype": "xfs"}

    disks = [disk("/var/lib/kubelet", "/dev/a"), disk("/", "/dev/a"), disk("/data", "/dev/b")]
    metrics, _questions = ask(
        Answers(
            node_filesystem_size_bytes=[(one, 80 * GIB) for one in disks],
            node_filesystem_avail_bytes=[(one, 8 * GIB) for one in disks],
        )
    )
    assert [one.place.name for one in metrics.filesystems({}) or ()] == ["/", "/data"]


def test_the_history_is_asked_of_those_chosen_alone(ask: Ask) -> None:
    hostile = 'a"} or vector(1) #'
    answers = claims(({"namespace": "data", "persistentvolumeclaim": hostile}, 10 * GIB, 4 * GIB))
    metrics, _questions = ask(answers)
    chosen = list(metrics.volumes() or ())
    answers.asked.clear()
    found = metrics.histories(chosen, {})
    assert found is not None
    assert set(found) == {(Place("volume", "data", hostile), "bytes")}
    assert len(answers.asked) == 2  # days and hours; no inodes, since none are measured
    assert all('a\\"\\\\} or vector\\\\(1\\\\) #' in promql for promql in answers.asked)  # a name stays a name


def test_nothing_chosen_is_nothing_asked(ask: Ask) -> None:
    answers = Answers()
    metrics, _questions = ask(answers)
    assert metrics.histories([], {}) == {}
    assert answers.asked == []


def test_writers_with_their_limits(ask: Ask) -> None:
    labels = {"namespace": "shop", "pod": "web-1", "container": "web"}
    metrics, _questions = ask(
        Answers(
            container_fs_usage_bytes=[(labels, 3 * GIB)],
            kube_pod_container_resource_limits=[(labels, 4 * GIB)],
        )
    )
    [one] = metrics.writers() or ()
    assert (one.pod, one.used, one.limit, one.request, one.logs) == ("web-1", 3 * GIB, 4 * GIB, None, None)


def test_a_file_system_without_a_number_of_inodes_has_none() -> None:
    one = FileSystem(place=Place("volume", "data", "a"), size=10, available=5, inodes=0, inodes_free=0)
    assert one.share("inodes") is None


# --- what commands and kubelets say -------------------------------------------------------------------------------------------------------


def test_what_du_says() -> None:
    said = b"8\t/data/a b\n4\t/data/odd\nname\n12\t/data\nnonsense\n999 relative\n"
    assert inside.sizes(said) == {"/data/a b": 8192, "/data/odd": 4096, "/data": 12288}


def test_what_df_says() -> None:
    gnu = (
        b"Filesystem     1024-blocks     Used Available Capacity Mounted on\n/dev/nvme1n1      51290688 20000000  31290688      39% /data\n"
    )
    assert inside.used_bytes(gnu) == 20000000 * 1024
    assert inside.used_bytes(b"") is None
    assert inside.used_bytes(b"df: unknown\nwhat is this\n") is None


def test_what_find_says_and_only_of_the_folder() -> None:
    said = b"200|1790000000|/data/b.log\n100|1790000000|/data/a|b.log\nx\n5|1790000000|/etc/passwd\n1|1|/database/x\n"
    assert [(one.path, one.size) for one in inside.files(said, "/data")] == [("/data/b.log", 200), ("/data/a|b.log", 100)]


@given(some.binary(max_size=200))
def test_whatever_commands_say_is_read_or_left_out(said: bytes) -> None:
    assert all(path.startswith("/") and size >= 0 for path, size in inside.sizes(said).items())
    assert inside.files(said, "/data") is not None
    inside.used_bytes(said)


def test_what_a_kubelet_says() -> None:
    config = {"kubeletconfig": {"containerLogMaxSize": "50Mi", "containerLogMaxFiles": 3, "evictionHard": {"nodefs.available": "10%"}}}
    summary = {"node": {"runtime": {"imageFs": {"capacityBytes": 100, "usedBytes": 40}}}}
    found = kubelets.kubelet(config, summary)
    assert (found.log_max_bytes, found.log_max_files, found.image_used, found.image_size) == (50 * 2**20, 3, 40, 100)
    assert found.eviction_hard == {"nodefs.available": "10%"}


@pytest.mark.parametrize("config", [{}, {"kubeletconfig": None}, {"kubeletconfig": {"evictionHard": None}}, {"other": 1}])
def test_a_kubelet_that_says_little(config: dict[str, Any]) -> None:
    assert kubelets.kubelet(config, {}).log_max_bytes is None
    assert kubelets.kubelet(config, {"node": {"runtime": None}}).image_size is None
