"""The state on disk: what a restart finds, whatever has happened before it."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.lab.kube import state
from opslib.lab.kube.server import Settings, app
from opslib.lab.kube.store import Compacted, Store


def fields(resource: str, obj: dict[str, Any]) -> dict[str, str]:
    return {"metadata.name": obj["metadata"]["name"]}


def thing(name: str, value: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "value": value}


def values(store: Store) -> dict[str, tuple[int, int]]:
    return {one.name: (one.version, one.object()["value"]) for one in store.records("things")}


steps = st.lists(st.tuples(st.sampled_from(["change", "change", "remove", "restart"]), st.sampled_from("abcd")), max_size=30)


@settings(max_examples=40, deadline=None)
@given(steps)
def test_a_restart_finds_the_same_objects(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("state") / "state.db"
    store = Store(fields, state.File(path))
    for number, (step, name) in enumerate(steps):
        record = store.get("things", ("", name))
        if step == "restart":
            before, version = values(store), store.version
            store.close()
            store = Store(fields, state.File(path))
            assert values(store) == before
            assert store.version >= version
        elif step == "remove":
            if record is not None:
                store.delete("things", record)
        elif record is None:
            store.create("things", ("", name), thing(name, number))
        else:
            store.update("things", thing(name, number), record)
    store.close()


_WRITER = """
import sys
from pathlib import Path
from opslib.lab.kube import state
from opslib.lab.kube.store import Store

store = Store(lambda resource, obj: {}, state.File(Path(sys.argv[1])))
number = 0
while True:
    number += 1
    name = f"n{number % 7}"
    record = store.get("things", ("", name))
    obj = {"metadata": {"name": name}, "value": number}
    record = store.update("things", obj, record) if record else store.create("things", ("", name), obj)
    print(record.version, flush=True)
"""


def test_killed_while_it_writes(tmp_path: Path) -> None:
    """The file is sound, has what it had, and no version that somebody has seen comes again."""
    path = tmp_path / "state.db"
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = seen = 0
    deadline = time.monotonic() + 60
    while seen < 200:  # several writes of the file
        assert time.monotonic() < deadline
        last = int(process.stdout.readline())
        if last % 50 == 0:
            with contextlib.closing(sqlite3.connect(path)) as database:
                seen = database.execute("SELECT version FROM revision").fetchone()[0]
    process.send_signal(signal.SIGKILL)
    last = max([last, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    process.wait(10)
    store = Store(fields, state.File(path))
    assert seen <= max(version for version, _value in values(store).values()) <= last
    assert store.version > last
    for resource in ("things", "others"):
        with pytest.raises(Compacted):
            list(store.changes_since(resource, last))
    store.close()


def test_what_is_older_than_the_start_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = Store(fields, state.File(path))
    store.create("things", ("", "a"), thing("a", 1))
    version = store.version
    store.close()
    again = Store(fields, state.File(path))
    with pytest.raises(Compacted):
        list(again.changes_since("things", version))
    assert list(again.changes_since("things", again.version)) == []
    again.close()


def test_a_broken_file_does_not_stop_the_start(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"not a database" * 100)
    store = Store(fields, state.File(path))
    store.create("things", ("", "a"), thing("a"))
    store.close()
    assert (tmp_path / "state.unreadable").read_bytes().startswith(b"not a database")
    assert Store(fields, state.File(path)).count("things") == 1


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server goes on in memory and says so; once there is room, what it owes is written."""
    path = tmp_path / "state.db"
    store = Store(fields, state.File(path))
    other = sqlite3.connect(path)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON objects BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END")
    other.commit()
    store.create("things", ("", "a"), thing("a"))
    deadline = time.monotonic() + 10
    while "goes on in memory" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert store.create("things", ("", "b"), thing("b")).version == 2
    assert list(values(store)) == ["a", "b"]
    other.execute("DROP TRIGGER full")
    other.commit()
    other.close()
    store.close()
    assert list(values(Store(fields, state.File(path)))) == ["a", "b"]


_READER = """
import resource, sys
from pathlib import Path
from opslib.lab.kube import state
from opslib.lab.kube.store import Store

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
store = Store(lambda resource, obj: {}, state.File(Path(sys.argv[1])))
store.create("things", ("", "b"), {"metadata": {"name": "b"}})
print(*(one.name for one in store.records("things")))
store.close()
"""


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    """The server begins with what it had, and leaves the file as it was."""
    path = tmp_path / "state.db"
    store = Store(fields, state.File(path))
    store.create("things", ("", "a"), thing("a"))
    store.close()
    before = path.read_bytes()
    answer = subprocess.run([sys.executable, "-c", _READER, str(path)], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout == "a b\n"
    assert "cannot be written" in answer.stderr
    assert path.read_bytes() == before


# --- what a lab begins with ---

_TIME = "2026-01-02T03:04:05Z"
_SEED = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system", "creationTimestamp": "2025-01-01T00:00:00Z"}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "creationTimestamp": _TIME}},
    {
        "apiVersion": "example.org/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "shop"}, "spec": {"color": "red"},
    },
    {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.org"},
        "spec": {
            "group": "example.org", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{
                "name": "v1", "served": True, "storage": True, "selectableFields": [{"jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }],
        },
    },
    {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-1", "namespace": "shop", "creationTimestamp": _TIME,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web"}],
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "web:1"}]},
        "status": {"phase": "Running", "podIP": "10.0.0.9"},
    },
    {
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": _TIME},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}},
        },
        "status": {"replicas": 1, "readyReplicas": 1},
    },
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}},
]  # fmt: skip


def test_a_seed_is_completed_once(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state.write(path, _SEED)
    first: Store = app(Settings(state=path)).state.store
    pod, owner = first.records("pods")[0].object(), first.records("replicasets.apps")[0]
    assert pod["metadata"]["creationTimestamp"] == _TIME
    assert pod["metadata"]["ownerReferences"][0]["uid"] == owner.uid
    assert pod["status"] == {"phase": "Running", "podIP": "10.0.0.9", "qosClass": "BestEffort"}
    assert pod["spec"]["restartPolicy"] == "Always"
    assert [one["name"].rpartition("-")[0] for one in pod["spec"]["volumes"]] == ["kube-api-access"]
    assert [(one["manager"], one.get("subresource")) for one in pod["metadata"]["managedFields"]] == [
        ("kube-controller-manager", None),
        ("kubelet", "status"),
    ]
    assert first.get("services", ("shop", "web")).object()["spec"]["clusterIP"].startswith("10.96.")  # type: ignore[union-attr]
    role = first.get("clusterroles.rbac.authorization.k8s.io", ("", "cluster-admin"))
    assert role is not None
    assert role.object()["metadata"]["creationTimestamp"] == "2025-01-01T00:00:00Z"
    assert [one.fields["spec.color"] for one in first.records("widgets.example.org")] == ["red"]
    before = {(storage, one.key): (one.version, one.body) for storage in first.resources() for one in first.records(storage)}
    first.close()
    again: Store = app(Settings(state=path)).state.store
    assert {(storage, one.key): (one.version, one.body) for storage in again.resources() for one in again.records(storage)} == before
    assert [one.fields["spec.color"] for one in again.records("widgets.example.org")] == ["red"]
    again.close()


def test_a_seed_of_an_unknown_kind(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state.write(path, [{"apiVersion": "v9", "kind": "Nothing", "metadata": {"name": "x"}}])
    with pytest.raises(ValueError, match="Nothing in v9 of x is not known"):
        app(Settings(state=path))
