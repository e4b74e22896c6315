"""The stage: the world of now, kept in a file; what scenarios do to a lab that runs, and how they end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from scenario_fixes import FIXES

from opslib import cli
from opslib.errors import InputError, OpsError
from opslib.lab import catalogue, control, engines, faults, stage
from opslib.lab.engines import background
from opslib.lab.holds import Holds
from opslib.lab.world import World, scenarios
from opslib.lab.world.faults import BadDeploy, NodeDown
from opslib.lab.world.platform import NODES, SERVICES
from opslib.messages import Message, current_language
from tests.conftest import start_lab
from tests.waiting import until

if TYPE_CHECKING:
    from conftest import RealLab

WORLD = World(seed=3, start=1_790_000_000, end=1_790_604_800)


def test_a_world_comes_back_from_its_document() -> None:
    broken = WORLD.breaks(BadDeploy(service="cart", release="2.0.0"), 1_790_600_000).breaks(NodeDown(node=NODES[0].name), 1.5, 2.5)
    bigger = replace(broken, services=tuple(replace(one, replicas=one.replicas * 3) for one in SERVICES), nodes=NODES[:3])
    assert World.of(broken.document()) == broken
    assert World.of(bigger.document()) == bigger


def test_another_world_is_told_and_kept(tmp_path: Path) -> None:
    on = stage.Stage(tmp_path, WORLD, handover=5.0)
    told: list[World] = []
    on.subscribe(told.append)
    broken = WORLD.breaks(BadDeploy(service="cart", release="2.0.0"), 1_790_600_000)
    on.become(broken, handover=7.0)
    assert told == [broken]
    assert (on.world, on.handover) == (broken, 7.0)
    assert stage.read(tmp_path) == (broken, 7.0)
    on.become(WORLD)
    assert stage.read(tmp_path) == (WORLD, 7.0)


def test_holds_are_by_labels_by_uid_and_by_node(tmp_path: Path) -> None:
    holds, other = Holds(tmp_path), Holds(tmp_path)
    pod = {"metadata": {"namespace": "shop", "name": "a", "uid": "1", "labels": {"app": "cart", "release": "2"}}}
    holds.add({"by": "x", "namespace": "shop", "labels": {"app": "cart"}}, {"by": "y", "node": "n"})
    assert (other.pod(pod), other.node("n"), other.node("m")) == ("true", True, False)
    holds.add({"by": "x", "namespace": "shop", "uid": "1", "forever": True}, {"by": "x", "namespace": "shop", "uid": "2"})
    assert other.pod(pod) == "forever"
    assert holds.drop("x") == 3
    assert (other.pod(pod), other.node("n")) == ("", True)


def test_names_are_of_one_space_and_the_nearest_is_named() -> None:
    assert not set(scenarios.names()) & set(faults.names())
    assert len(scenarios.names()) >= 20
    assert catalogue.find("incident").kind == "fault" and catalogue.find("memory-leak").kind == "scenario"
    with pytest.raises(InputError, match="memory-leek") as caught:
        catalogue.find("memory-leek")
    assert "memory-leak" in str(caught.value.message())
    assert catalogue.seconds("1h30m") == 5400
    with pytest.raises(InputError, match="two hours"):
        catalogue.seconds("two hours")


def test_the_catalogue_says_what_the_files_say() -> None:
    for name in scenarios.names():
        one, entry = scenarios.load(name), catalogue.find(name)
        assert (entry.title, entry.story, entry.level) == (
            getattr(one.title, current_language()),
            getattr(one.story, current_language()),
            one.level,
        )
        assert one.look in ("", entry.look)
    for name in faults.names():
        fault = faults.load(name)
        assert (catalogue.find(name).title, catalogue.find(name).namespace) == (str(Message(fault.title)), fault.namespace)


def test_what_is_told_does_not_give_the_cause_away() -> None:
    for name in scenarios.names():
        one = scenarios.load(name)
        for text in (one.story.en, one.story.ja):
            assert not one.diagnosis.fits(text), name


# --- on labs that run -------------------------------------------------------------------------------------------------------------------

RECOVERS = ("bad-deploy", "dns", "no-endpoints", "alert-storm")
"""Those of which it is also waited for that the metrics are well again; tests/lab/world sees to it for all, in the world's own time."""

ON_REAL = ("bad-deploy", "bad-setting", "node-not-ready")


@pytest.fixture(scope="module")
def embedded_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLab]:
    """A lab with all its parts: some scenarios are about backups, or about the account."""
    folder = tmp_path_factory.mktemp("whole-lab")
    for lab in start_lab("embedded", folder, parts=engines.PARTS, platform=True):

        def ready() -> bool:
            return set(background.PARTS) <= {one.name for one in engines.status(folder) if one.health == "ok"}

        until(ready, "what starts in the background is ready", seconds=120)
        yield lab


def shown(lab: RealLab, query: str, condition: str, window: str = "[5m]") -> Callable[[], bool]:
    """Whether Prometheus says so now; with another window for what is there since a moment only."""

    def ask() -> bool:
        fields = {"query": re.sub(r"\[5m\]", window, query)}
        answer = urllib3.request("GET", f"{lab.addresses['prometheus']}/api/v1/query", fields=fields, timeout=30).json()
        values = [float(one["value"][1]) for one in answer["data"]["result"]]
        return bool(values) and all(scenarios.holds(condition, value) for value in values)

    return ask


def broken(lab: RealLab) -> dict[str, Any]:
    found: dict[str, Any] = control.ask(lab.folder, "broken")[-1]
    return found


def lesson(lab: RealLab, name: str) -> None:
    """Break the lab, see it, put it right, and take it back."""
    scenario = scenarios.load(name)
    try:
        control.ask(lab.folder, "break", {"kind": "scenario", "name": name})
        until(lambda: not broken(lab)["due"], f"all of {name} is on", seconds=150)  # backups: once Velero is up
        last = max((sign.after for sign in scenario.signature), default=0)
        for sign in scenario.signature:
            if sign.after == last:
                until(shown(lab, sign.query, sign.is_), f"{sign.query} {sign.is_}")
        assert broken(lab)["ended"] is None
        FIXES[name](lab.api, lab.addresses)
        until(lambda: broken(lab)["ended"], f"{name} has ended")
        for state in scenario.accepted[broken(lab)["end"]].metrics if name in RECOVERS else ():
            until(shown(lab, state.query, state.is_, "[15s]"), f"{state.query} {state.is_}")
        world, _handover = stage.read(lab.folder) or pytest.fail("no world")
        assert all(timed.end <= time.time() for timed in world.faults)
    finally:
        control.ask(lab.folder, "reset", {})
    world, _handover = stage.read(lab.folder) or pytest.fail("no world")
    assert not world.faults and not control.ask(lab.folder, "broken")


@pytest.mark.parametrize("name", scenarios.names())
@pytest.mark.timeout(300)
def test_a_scenario_breaks_and_a_right_fix_ends_it(name: str, embedded_lab: RealLab) -> None:
    lesson(embedded_lab, name)


@pytest.mark.real
@pytest.mark.parametrize("name", ON_REAL)
@pytest.mark.timeout(300)
def test_it_does_so_on_real_servers_too(name: str, real_lab: RealLab) -> None:
    lesson(real_lab, name)


def test_what_began_a_while_ago_shows_its_past(embedded_lab: RealLab) -> None:
    lab = embedded_lab
    try:
        began = control.ask(lab.folder, "break", {"kind": "scenario", "name": "memory-leak", "ago": 4 * 3600})["began"]
        assert abs(began - (time.time() - 4 * 3600)) < 60

        def restarted() -> bool:
            pods = lab.api.list("/api/v1/namespaces/shop/pods", labels="app=recommendation")
            statuses = [one for pod in pods if "deletionTimestamp" not in pod["metadata"] for one in pod["status"]["containerStatuses"]]
            return all(one["restartCount"] >= 2 and one["lastState"]["terminated"]["reason"] == "OOMKilled" for one in statuses)

        until(restarted, "its containers were killed")
        hours_ago = 'max(max_over_time(container_memory_working_set_bytes{container="recommendation"}[30m] offset 2h))'
        until(shown(lab, hours_ago, "> 4e8"), hours_ago)
        with pytest.raises(InputError, match="on already"):
            control.ask(lab.folder, "break", {"kind": "scenario", "name": "memory-leak"})
    finally:
        control.ask(lab.folder, "reset", {})
    until(lambda: not shown(lab, hours_ago, "> 4e8")(), "its past is taken back")


def develops(lab: RealLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A leak that needs an hour to its first kill: broken from now on at 300 times the speed."""
    monkeypatch.setenv("OPSLIB_LANG", "en")
    restarts = 'kube_pod_container_status_restarts_total{container="recommendation"}'
    try:
        assert cli.main(["lab", "break", "memory-leak", "--ago", "0s", "--speed", "300", "--state-dir", str(lab.folder)]) == 0
        assert "From now on it goes 300 times as fast as the clock" in capsys.readouterr().out
        began = broken(lab)["began"]
        until(lambda: not broken(lab)["due"], "the release is out")
        assert time.time() - began < 600  # of its own time it is ten minutes

        def killed() -> bool:
            pods = lab.api.list("/api/v1/namespaces/shop/pods", labels="app=recommendation")
            states = [one["lastState"] for pod in pods for one in pod["status"].get("containerStatuses", ())]
            return bool(states) and all(state.get("terminated", {}).get("reason") == "OOMKilled" for state in states)

        until(killed, "all its containers were killed", seconds=90)
        until(shown(lab, f"max({restarts})", ">= 1"), "the metrics say so too")
        cli.main(["lab", "status", "--state-dir", str(lab.folder)])
        said = capsys.readouterr().out
        state = re.search(r"(\d+)h(\d\d)m of its own time; 300 times as fast as the clock; 1 of 1 steps", said)
        assert state is not None, said
        assert int(state[1]) * 60 + int(state[2]) > 30  # of the wall's it is one minute
    finally:
        control.ask(lab.folder, "reset", {})


def test_a_scenario_develops_at_another_speed(
    embedded_lab: RealLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    develops(embedded_lab, monkeypatch, capsys)


@pytest.mark.real
def test_it_develops_so_on_real_servers_too(real_lab: RealLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    develops(real_lab, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["memory-leak", "--speed", "fast"], "fast is no speed"),
        (["memory-leak", "--speed", "0"], "0 is no speed"),
        (["image-not-found", "--speed", "10"], "does not develop"),
    ],
)
def test_a_speed_that_means_nothing_is_refused(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], embedded_lab: RealLab
) -> None:
    monkeypatch.setenv("OPSLIB_LANG", "en")
    assert cli.main(["lab", "break", *arguments, "--state-dir", str(embedded_lab.folder)]) != 0
    assert said in capsys.readouterr().err


def test_nobody_breaks_a_lab_without_its_token(embedded_lab: RealLab, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes((embedded_lab.folder / "state.json").read_bytes())
    (tmp_path / control.TOKEN).write_text("another", "utf-8")
    with pytest.raises(OpsError, match="token"):
        control.ask(tmp_path, "reset", {})
    assert (embedded_lab.folder / control.TOKEN).stat().st_mode & 0o777 == 0o600
