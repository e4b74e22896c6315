"""A lab starts whole, ends whole, and leaves nothing, however it ends, on each engine. Kubernetes' part only, which is the quickest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from opslib.errors import InputError, OpsError
from opslib.lab import build, engines
from opslib.lab.api import Api
from tests.waiting import until

PARTS = ("kubernetes",)
SERVERS = {
    "real": ["supervisor", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"],
    "embedded": ["supervisor", "kube-apiserver", "controllers"],
}


@pytest.fixture
def folder(engine: str, tmp_path: Path, need_servers: Callable[..., None]) -> Iterator[Path]:
    if engine == "real":
        need_servers("etcd", "kubernetes")
    yield tmp_path / "lab"
    engines.down(tmp_path / "lab")


def state(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return content


def of_lab(folder: Path) -> list[psutil.Process]:
    """Every process whose command line names the lab's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(str(folder) in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_up_status_and_down_leave_nothing(engine: str, folder: Path) -> None:
    lab = engines.up(folder, engine=engine, parts=PARTS, platform=False)
    servers = engines.status(folder)
    assert [one.name for one in servers] == SERVERS[engine]
    assert {one.health for one in servers} == {"ok"}
    assert all(one.memory_bytes > 10_000_000 for one in servers)
    overlay = yaml.safe_load(lab.environment.read_text())
    api = Api.from_kubeconfig(lab.kubeconfig)
    assert overlay == {
        "kubernetes": {
            "kubeconfig": str(lab.kubeconfig),
            "context": "lab",
            "expected_server": lab.addresses["kubernetes"],
            "expected_cluster_uid": api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"],
        }
    }
    assert lab.kubeconfig.stat().st_mode & 0o077 == 0
    assert engines.up(folder, engine=engine, parts=PARTS, platform=False).already
    ports = state(folder)["ports"].values()
    assert engines.down(folder)
    assert of_lab(folder) == []
    assert not any(listens(port) for port in ports)
    assert not lab.kubeconfig.exists()
    assert not lab.environment.exists()
    assert engines.status(folder) == []
    assert not engines.down(folder)


def test_a_killed_supervisor_takes_its_servers_with_it_and_the_next_lab_starts(engine: str, folder: Path) -> None:
    engines.up(folder, engine=engine, parts=PARTS, platform=False)
    before = state(folder)
    os.kill(before["supervisor"]["pid"], signal.SIGKILL)
    until(lambda: not of_lab(folder) and engines.status(folder) == [], seconds=30)
    with pytest.raises(InputError, match="No lab is running"):
        engines.running(folder)
    again = engines.up(folder, engine=engine, parts=PARTS, platform=False)
    assert not again.already
    assert state(folder)["supervisor"]["pid"] != before["supervisor"]["pid"]
    assert len(Api.from_kubeconfig(again.kubeconfig).list("/api/v1/nodes")) == 6


def test_what_is_kept_goes_on_and_what_is_not_is_gone(engine: str, folder: Path) -> None:
    def note() -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "note", "namespace": "default"}, "data": {"a": "b"}}

    lab = engines.up(folder, engine=engine, parts=PARTS, platform=False, seed=11)
    api = Api.from_kubeconfig(lab.kubeconfig)
    made, cluster = api.create(note()), api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    viewer = yaml.safe_load(lab.kubeconfig.read_text())["users"]
    assert engines.down(folder, keep=True)
    assert of_lab(folder) == []
    with pytest.raises(InputError, match=f"keeps a lab of the engine {engine}"):
        engines.up(folder, engine="real" if engine == "embedded" else "embedded")
    lab = engines.up(folder, engine=engine)
    api = Api.from_kubeconfig(lab.kubeconfig)
    there = api.get(api.path_of(made))
    assert [there["metadata"][key] for key in ("uid", "creationTimestamp", "resourceVersion")] == [
        made["metadata"][key] for key in ("uid", "creationTimestamp", "resourceVersion")
    ]
    assert api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"] == cluster
    assert yaml.safe_load(lab.kubeconfig.read_text())["users"] == viewer
    assert (state(folder)["parts"], state(folder)["seed"]) == (list(PARTS), 11)
    kubelet = {node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] for node in api.list("/api/v1/nodes")}
    assert kubelet == {state(folder)["ports"]["kubelet"]}
    engines.down(folder)
    lab = engines.up(folder, engine=engine, parts=PARTS, platform=False)
    api = Api.from_kubeconfig(lab.kubeconfig)
    assert "note" not in {one["metadata"]["name"] for one in api.list("/api/v1/namespaces/default/configmaps")}


def test_two_labs_run_side_by_side(engine: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    first = engines.up(folder, engine=engine, parts=PARTS, platform=False)
    try:
        second = engines.up(other, engine=engine, parts=PARTS, platform=False)
        assert first.addresses != second.addresses
        assert not set(state(folder)["ports"].values()) & set(state(other)["ports"].values())
        Api.from_kubeconfig(first.kubeconfig).apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "only-here"}})
        names = {one["metadata"]["name"] for one in Api.from_kubeconfig(second.kubeconfig).list("/api/v1/namespaces")}
        assert "only-here" not in names
    finally:
        engines.down(other)
    assert {one.health for one in engines.status(folder)} == {"ok"}


def test_ctrl_c_while_starting_leaves_nothing(engine: str, folder: Path) -> None:
    program = "import sys, opslib.cli; sys.exit(opslib.cli.main())"
    command = [sys.executable, "-c", program, "lab", "up", "--engine", engine, "--only", "kubernetes", "--state-dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: (folder / "state.json").exists() and "kube-apiserver" in state(folder)["servers"], seconds=30)
    ports = state(folder)["ports"].values()
    process.send_signal(signal.SIGINT)
    _output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert of_lab(folder) == []
    assert not any(listens(port) for port in ports)
    assert not (folder / "kubeconfig").exists()


@pytest.mark.real
def test_a_server_that_does_not_start_is_named_with_its_last_words(
    tmp_path: Path, need_servers: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API server of another processor, say: what stands in the cache does not run."""
    need_servers("etcd", "kubernetes")
    folder = tmp_path / "lab"
    cache = tmp_path / "cache"
    shutil.copytree(build.folder(build.find("kubernetes")), cache / "servers" / "kubernetes-1.36.3", copy_function=os.symlink)
    shutil.copytree(build.folder(build.find("etcd")), cache / "servers" / "etcd-3.6.16", copy_function=os.symlink)
    program = cache / "servers" / "kubernetes-1.36.3" / "kube-apiserver"
    program.unlink()
    program.write_text("#!/bin/sh\necho this machine is too old\nexit 7\n")
    program.chmod(0o755)
    monkeypatch.setenv("OPSLIB_CACHE", str(cache))
    with pytest.raises(OpsError, match="kube-apiserver ended with status 7: this machine is too old") as caught:
        engines.up(folder, engine="real", parts=PARTS, platform=False)
    assert "kube-apiserver.log" in str(caught.value.remedy)
    assert (folder / "servers" / "kube-apiserver.log").read_text() == "this machine is too old\n"
    assert of_lab(folder) == []


def test_a_server_that_ends_is_told_by_status(engine: str, folder: Path) -> None:
    engines.up(folder, engine=engine, parts=PARTS, platform=False)
    last = SERVERS[engine][-1]
    os.kill(state(folder)["servers"][last]["pid"], signal.SIGKILL)
    until(lambda: {one.name: one.health for one in engines.status(folder)}[last] == "ended", seconds=30)
    assert {one.name: one.health for one in engines.status(folder)}["kube-apiserver"] == "ok"


def test_an_unknown_part_is_refused_before_anything_starts(engine: str, folder: Path) -> None:
    with pytest.raises(InputError, match="grafana"):
        engines.up(folder, engine=engine, parts=("grafana",))
    assert not folder.exists()


def test_a_full_disk_does_not_stop_the_next_lab(engine: str, folder: Path) -> None:
    """No file may grow beyond 512 bytes, as if the disk were full: the lab does not start, says so in one line, and leaves nothing."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (512, resource.RLIM_INFINITY))"
    program = f"import resource, sys, opslib.cli; {limit}; sys.exit(opslib.cli.main())"
    command = [sys.executable, "-c", program, "lab", "up", "--engine", engine, "--only", "kubernetes", "--state-dir", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode not in (0, 130)
    assert "Traceback" not in answer.stderr
    assert of_lab(folder) == []
    assert not engines.up(folder, engine=engine, parts=PARTS, platform=False).already
    assert {one.health for one in engines.status(folder)} == {"ok"}
