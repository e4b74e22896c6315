"""The commands that plan, approve, execute, undo and show changes, on a cluster."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from opslib.cli import main
from tests.conftest import RealLab
from tests.waiting import until


@pytest.fixture(scope="module")
def environment(embedded_cluster: RealLab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which scaling needs an approval; `web` runs in it."""
    api = embedded_cluster.api
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "acts"}})
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    api.create({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "acts", "name": "web"}, "spec": spec})
    deadline = time.monotonic() + 60
    while not api.get("/apis/apps/v1/namespaces/acts/deployments/web").get("status", {}).get("availableReplicas"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    path = tmp_path_factory.mktemp("environment") / "acts.yaml"
    content = {
        "name": "acts",
        "kubernetes": {"kubeconfig": str(embedded_cluster.kubeconfig), "context": "lab"},
        "approval": {"required_for": ["scale"], "approvers": ["lab-admin"], "other_than_requester": False},
    }
    path.write_text(yaml.safe_dump(content), "utf-8")
    return path


def test_from_the_plan_to_the_undo(environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, status: int = 0) -> str:
        assert main([*words, "--env", str(environment), "--outputs", str(tmp_path), "--lang", "en"]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    shown = run("plan", "scale", "deployment/web", "-n", "acts", "--replicas", "3", "--steady", "0")
    plan = shown.split()[0]
    assert "+  replicas: 3" in shown and f"opslib approve {plan}" in shown
    assert f"opslib approve {plan}" in run("execute", plan, "--no-dry-run", status=3)
    assert "Approved by lab-admin until" in run("approve", plan)
    assert "Dry run: 1 step" in run("execute", plan)
    assert "Done and verified" in run("execute", plan, "--no-dry-run")
    assert "has been executed" in run("execute", plan, "--no-dry-run", status=3)
    assert "1 step was taken back" in run("undo", plan)
    log = run("audit", plan)
    assert [line.split()[5] for line in log.splitlines()[:-1]] == [
        *("planned", "refused", "approved", "started", "step.begins", "step.done", "finished"),
        *("undo.started", "undo.begins", "undo.done", "undone"),
    ]
    assert "the chain holds" in run("audit", "--verify")
    path = tmp_path / "actions" / "acts" / "audit.jsonl"
    path.write_text(path.read_text("utf-8").replace("lab-admin", "nobody", 1), "utf-8")
    assert "line 1" in run("audit", "--verify", status=2)


def test_a_drain_on_a_terminal_says_how_far_it_is_and_what_comes_next(
    environment: Path, embedded_cluster: RealLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api, deployment = embedded_cluster.api, "/apis/apps/v1/namespaces/acts/deployments/web"
    until(lambda: api.get(deployment)["status"].get("availableReplicas"), "it runs")
    node = api.list("/api/v1/namespaces/acts/pods")[0]["spec"]["nodeName"]
    where = ["--env", str(environment), "--outputs", str(tmp_path), "--lang", "en"]
    assert main(["plan", "drain", node, *where]) == 0
    shown = capsys.readouterr().out
    assert "Evict acts/web-" in shown and "(no disruption budget: 8)" in shown and "would fit on" in shown
    ours, theirs = pty.openpty()
    command = [str(Path(sys.prefix) / "bin" / "opslib"), "execute", shown.split()[0], "--no-dry-run", *where]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # so ends what comes from a terminal
            while chunk := os.read(ours, 4096):
                said += chunk
    os.close(ours)
    text = said.decode()
    assert process.returncode == 0, text
    assert "1 of 2 steps are done, 1 are under way\r\x1b[K" in text
    assert f"opslib plan uncordon {node} --env" in text
    api.patch(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": False}})


@pytest.mark.parametrize(
    "words", [["execute", "zzz"], ["undo", "zzz"], ["approve", "zzz"], ["plan", "scale", "web", "-n", "acts", "--replicas", "3"]]
)
def test_what_cannot_be_is_one_line(environment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main([*words, "--env", str(environment), "--outputs", str(tmp_path)]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_files_are_deleted_by_a_list_from_a_file(
    environment: Path, embedded_cluster: RealLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str, status: int = 0) -> str:
        assert main([*words, "--env", str(environment), "--outputs", str(tmp_path), "--lang", "en"]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    pods = "/api/v1/namespaces/acts/pods"  # one that is left from another number of replicas is on its way out
    wanted = embedded_cluster.api.get("/apis/apps/v1/namespaces/acts/deployments/web")["spec"]["replicas"]
    until(lambda: len(embedded_cluster.api.list(pods)) == wanted, "the pods are those that stay")
    pod = embedded_cluster.api.list(pods)[0]["metadata"]["name"]
    embedded_cluster.kubectl(
        "-n", "acts", "exec", pod, "--", "sh", "-c", "echo 1 > /data/a.log; echo 2 > /data/b.log; echo 3 > /data/c.log"
    )
    reviewed = tmp_path / "reviewed.txt"
    reviewed.write_text("/data/a.log\n/data/b.log\n")
    files = ("plan", "delete-files", pod, "-n", "acts", "--folder", "/data")
    assert "is a pattern" in run(*files, "/data/*.log", status=3)
    shown = run(*files, "--from", str(reviewed))
    assert "1. Delete /data/a.log" in shown and "2. Delete /data/b.log" in shown
    assert "Done and verified" in run("execute", shown.split()[0], "--no-dry-run")
    assert embedded_cluster.kubectl("-n", "acts", "exec", pod, "--", "ls", "/data").split() == ["c.log"]
    assert "There is no pvc/none" in run("plan", "expand-volume", "none", "20Gi", "-n", "acts", status=3)
