"""`opslib lab`: a cluster on this machine that breaks on demand, on embedded or real servers."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opslib.cli import examples
from opslib.errors import InputError, OpsError
from opslib.messages import Message, _, _n

if TYPE_CHECKING:
    from opslib.lab.build import Progress
    from opslib.lab.engines import Lab
    from opslib.lab.stage import Broken


def commands() -> list[click.Command]:
    """The `lab` group; called once the language is known."""
    group = click.Group(
        "lab",
        help=str(_("A cluster with its monitoring on this machine, which breaks on demand.")),
        epilog=examples("opslib lab up", "opslib lab break crash-loop", "opslib lab status", "opslib lab reset", "opslib lab down"),
        no_args_is_help=True,
    )
    for command in (_build(), _up(), _down(), _status(), _break(), _list(), _reset()):
        group.add_command(command)
    return [group]


def _state_dir() -> click.Option:
    return click.Option(
        ["--state-dir", "folder"],
        type=click.Path(file_okay=False, path_type=Path),
        help=str(_("The lab's folder; without it $OPSLIB_LAB, else .lab in the project.")),
    )


# --- build ----------------------------------------------------------------------------------------------------------------------------


def _build() -> click.Command:
    return click.Command(
        "build",
        callback=_run_build,
        params=[
            click.Option(
                ["--only", "names"],
                multiple=True,
                metavar="NAME",
                help=str(_("Build this server alone (etcd, kubernetes, prometheus, alertmanager, opensearch); may be repeated.")),
            ),
            click.Option(["--force"], is_flag=True, help=str(_("Build again what is built."))),
        ],
        help=str(
            _(
                "Build the real servers from the package registries, once. What is finished is kept; a build that was interrupted goes on "
                "where it was. OPSLIB_CACHE names another folder than ~/.cache/opslib."
            )
        ),
        epilog=examples("opslib lab build", "opslib lab build --only opensearch --force"),
    )


def _run_build(names: tuple[str, ...], force: bool) -> None:
    from opslib.lab import build

    plan = build.plan(names, force=force)
    for server in plan.kept:
        click.echo(str(_("{name} {version} is built", name=server.name, version=server.version)))
    if not plan.todo:
        click.echo(str(_("Nothing to build. Next: {command}", command="opslib lab up --engine real")))
        return
    click.echo(str(_("To build: {names}", names=[f"{server.name} {server.version}" for server in plan.todo])))
    if plan.toolchains:
        click.echo(str(_("Missing here, taken from their wheels: {names}", names=list(plan.toolchains))))
    click.echo(
        str(
            _(
                "About {minutes} minutes on two cores and {needed} of disk with empty caches, less otherwise; {free} are free in {path}",
                minutes=max(1, round(plan.seconds / 60)),
                needed=build.size(plan.disk_bytes),
                free=build.size(plan.free_bytes),
                path=plan.folder,
            )
        )
    )
    started = time.monotonic()
    line = _Line()
    try:
        build.build(names, force=force, report=lambda progress: _show(line, progress))
    except BaseException:
        line.end()
        raise
    click.echo(
        str(
            _(
                "Built in {time}, in {path}. Next: {command}",
                time=_clock(time.monotonic() - started),
                path=plan.folder,
                command="opslib lab up --engine real",
            )
        )
    )


def _show(line: _Line, progress: Progress) -> None:
    if progress.state == "kept":
        return
    where = f"[{progress.position}/{progress.total}] {progress.server.name} {progress.server.version}"
    text = _(
        "{where}: {step} {time} of about {expected}",
        where=where,
        step=progress.step,
        time=_clock(progress.seconds),
        expected=_clock(progress.server.seconds),
    )
    if progress.state == "done":
        line.end(_("{where}: built in {time}", where=where, time=_clock(progress.seconds)))
    else:
        line.write(text, key="jars" if "{number}" in progress.step.id else str(progress.step))


class _Line:
    """A line that is written over on a terminal; elsewhere one line whenever `key` changes."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._key = ""
        self._open = False

    def write(self, text: Message, key: str) -> None:
        if self._terminal:
            click.echo(f"\r\033[K{text}", nl=False)
            self._open = True
        elif key != self._key:
            click.echo(str(text))
        self._key = key

    def end(self, text: Message | None = None) -> None:
        if self._open:
            click.echo("\r\033[K", nl=False)
            self._open = False
        if text is not None:
            click.echo(str(text))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


# --- up, down, status -----------------------------------------------------------------------------------------------------------------


def _up() -> click.Command:
    from opslib.lab.engines import DEFAULT_ENGINE, DEFAULT_SEED, ENGINES, PARTS

    return click.Command(
        "up",
        callback=_run_up,
        params=[
            click.Option(
                ["--engine"],
                type=click.Choice(ENGINES),
                default=DEFAULT_ENGINE,
                show_default=True,
                help=str(_("What the lab runs on: embedded needs nothing but this package, real what `opslib lab build` has built.")),
            ),
            click.Option(
                ["--only", "parts"],
                help=str(_("Start these parts alone, with commas between: {names}.", names=list(PARTS))),
            ),
            click.Option(["--bare"], is_flag=True, help=str(_("Without the background platform: nodes and nothing on them."))),
            click.Option(["--seed"], type=int, default=DEFAULT_SEED, show_default=True, help=str(_("Another seed gives another past."))),
            click.Option(
                ["--pods"],
                type=click.IntRange(0, 20_000),
                default=0,
                metavar="COUNT",
                help=str(_("About how many pods the platform shall have; without it about a hundred.")),
            ),
            _state_dir(),
        ],
        help=str(
            _(
                "Start the lab; returns when all of it answers. Its addresses are what `--env lab` uses. After `opslib lab down --keep` "
                "the same lab goes on, whatever the other options say."
            )
        ),
        epilog=examples(
            "opslib lab up",
            "opslib lab up --engine real",
            "opslib lab up --seed 12 --pods 5000",
            "opslib lab up --only kubernetes --bare --state-dir /tmp/second",
        ),
    )


def _run_up(engine: str, parts: str | None, bare: bool, seed: int, pods: int, folder: Path | None) -> None:
    from opslib.lab import engines

    line = _Line()

    def report(step: str, servers: dict[str, bool], seconds: float) -> None:
        text = _(
            "{ready} of {total} servers answer, {step} {time}",
            ready=sum(servers.values()),
            total=len(servers),
            step=step,
            time=_clock(seconds),
        )
        line.write(text, key="")

    chosen = tuple(part.strip() for part in parts.split(",")) if parts else engines.PARTS
    try:
        lab = engines.up(folder, engine=engine, parts=chosen, platform=not bare, seed=seed, pods=pods, report=report)
    finally:
        line.end()
    if lab.already:
        click.echo(str(_("The lab is running already")))
    for part, address in lab.addresses.items():
        click.echo(f"{part:15}{address}")
    if "kubernetes" in lab.addresses:
        click.echo(f"{'kubeconfig':15}{lab.kubeconfig}")
    click.echo(str(_("Ready. Next: {command}", command="opslib lab break incident")))


def _down() -> click.Command:
    return click.Command(
        "down",
        callback=_run_down,
        params=[
            click.Option(["--keep"], is_flag=True, help=str(_("Keep its data: the next `opslib lab up` goes on with it."))),
            _state_dir(),
        ],
        help=str(_("Stop the lab and throw its data away. The logs of its servers stay in its folder.")),
        epilog=examples("opslib lab down", "opslib lab down --keep"),
    )


def _run_down(keep: bool, folder: Path | None) -> None:
    from opslib.lab import engines

    running = engines.down(folder, keep=keep)
    click.echo(str(_("No lab was running") if not running else _("The lab is down, its data is kept") if keep else _("The lab is down")))


def _status() -> click.Command:
    return click.Command(
        "status",
        callback=_run_status,
        params=[_state_dir()],
        help=str(_("Each server with its process, port, health and memory. Exit status 2 where one is not well, 3 where no lab runs.")),
        epilog=examples("opslib lab status"),
    )


def _run_status(folder: Path | None) -> int:
    from opslib.lab import engines

    servers = engines.status(folder)
    if not servers:
        raise OpsError(_("No lab is running in {path}", path=engines.state_folder(folder)), _("Start one"), "opslib lab up")
    healths = {"ok": _("ok"), "not ready": _("not ready"), "ended": _("ended"), "no answer": _("no answer")}
    click.echo(f"{_('SERVER')!s:26}{_('PID')!s:>8}{_('PORT')!s:>8}  {_('HEALTH')!s:12}{_('MEMORY')!s:>8}")
    for one in servers:
        click.echo(f"{one.name:26}{one.pid:>8}{one.port:>8}  {healths[one.health]!s:12}{one.memory_bytes / 1e6:>5.0f} MB")
    total = sum(one.memory_bytes for one in servers)
    click.echo(str(_n("{count} process, {memory} MB", "{count} processes, {memory} MB", len(servers), memory=round(total / 1e6))))
    _tell_what_is_on(engines.state_folder(folder))
    return 0 if all(one.health == "ok" for one in servers) else 2


def _tell_what_is_on(folder: Path) -> None:
    """What was broken since the last reset, without its cause."""
    from opslib.lab import catalogue, control, stage

    try:
        broken = [stage.Broken(**one) for one in control.ask(folder, "broken")]
    except OpsError:  # it is starting, or has no cluster
        return
    for one in broken:
        title = catalogue.find(one.name).title
        if one.ended is not None:
            click.echo(str(_("Over since {time}: {title}", time=_hour(one.ended), title=title)))
            continue
        click.echo(str(_("On since {time}: {title}", time=_hour(one.began), title=title)))
        if one.kind == "scenario":
            _tell_where_it_stands(one)


def _tell_where_it_stands(one: Broken) -> None:
    """How far a scenario's own time has come, how fast that goes, and when the next thing happens; not what."""
    from opslib.lab.world import scenarios

    timeline = scenarios.load(one.name).timeline
    said = [_("{passed} of its own time", passed=_long(one.passed(time.time())))]
    if one.speed != 1:
        said.append(_("{speed} times as fast as the clock", speed=f"{one.speed:g}"))
    said.append(_("{done} of {total} steps", done=len(timeline) - len(one.due), total=len(timeline)))
    click.echo("  " + "; ".join(map(str, said)))
    moment = min((one.at(timeline[number].after) for number in one.due), default=0.0)
    if moment > time.time():
        click.echo(f"  {_('The next step is due at {time}', time=_hour(moment))}")


def _long(seconds: float) -> str:
    """A time as scenarios write it."""
    minutes = int(seconds // 60)
    return f"{minutes // 60}h{minutes % 60:02d}m"


# --- break, list, reset ---------------------------------------------------------------------------------------------------------------


def _break() -> click.Command:
    return click.Command(
        "break",
        callback=_run_break,
        params=[
            click.Argument(["name"]),
            click.Option(["--ago"], metavar="TIME", help=str(_("How long ago a scenario began, like 90m; without it as its file says."))),
            click.Option(
                ["--speed"],
                metavar="FACTOR",
                help=str(
                    _(
                        "How many times as fast as the clock the scenario goes on from now: what is still to come of it, leaks, filling "
                        "volumes. Everything else keeps the clock's time."
                    )
                ),
            ),
            click.Option(["-n", "--namespace"], help=str(_("Where a fault is; without it the fault's own namespace."))),
            click.Option(["--wait"], is_flag=True, help=str(_("Return when the first alert about it fires, at most three minutes later."))),
            _state_dir(),
        ],
        help=str(_("Break the lab with a scenario or a fault; `opslib lab list` names them. It says what whoever is on call is told.")),
        epilog=examples(
            "opslib lab break memory-leak",
            "opslib lab break bad-deploy --ago 2h",
            "opslib lab break full-volume --ago 0s --speed 10",
            "opslib lab break image-not-found -n payments",
        ),
    )


ALERT_SECONDS = 180


def _run_break(name: str, ago: str | None, speed: str | None, namespace: str | None, wait: bool, folder: Path | None) -> None:
    from opslib.lab import catalogue, engines

    found = catalogue.find(name)
    if found.kind == "fault" and ago is not None:
        raise InputError(_("{name} is a fault, which begins now", name=name), _("Leave --ago out"))
    if found.kind == "fault" and speed is not None:
        raise InputError(_("{name} is a fault, which does not develop", name=name), _("Leave --speed out"))
    if found.kind == "scenario" and namespace is not None:
        raise InputError(_("{name} is a scenario, which has its places", name=name), _("Leave --namespace out"))
    seconds = None if ago is None else catalogue.seconds(ago)
    factor = 1.0 if speed is None else catalogue.speed(speed)
    lab = engines.running(folder)
    before = _firing(lab) if wait else set()
    began = _ask(lab, "break", {"kind": found.kind, "name": name, "ago": seconds, "speed": factor, "namespace": namespace})["began"]
    if found.kind == "scenario":
        click.echo(str(found.title))
        click.echo(str(found.story))
        click.echo(str(_("It was first seen at {time}. Look: {command}", time=_hour(began), command=found.look)))
        if factor != 1:
            click.echo(str(_("From now on it goes {speed} times as fast as the clock", speed=f"{factor:g}")))
    else:
        command = f"opslib run 4.1 --env lab -p namespace={namespace or found.namespace}"
        click.echo(str(_("Broken: {title}. Look: {command}", title=str(found.title), command=command)))
    if wait:
        _wait_for_alert(lab, before)


def _ask(lab: Lab, what: str, content: dict[str, object] | None = None) -> Any:
    from opslib.lab import control

    return control.ask(lab.folder, what, content)


def _hour(moment: float) -> str:
    """A time (Unix seconds) in the reader's zone; with its date where that is not today's."""
    from datetime import datetime

    then, now = datetime.fromtimestamp(moment).astimezone(), datetime.now().astimezone()
    return f"{then:%H:%M}" if then.date() == now.date() else f"{then:%Y-%m-%d %H:%M}"


def _wait_for_alert(lab: Lab, before: set[str]) -> None:
    began = time.monotonic()
    while time.monotonic() - began < ALERT_SECONDS:
        fresh = sorted(_firing(lab) - before)
        if fresh:
            click.echo(str(_("Firing after {seconds} seconds: {names}", seconds=round(time.monotonic() - began), names=fresh)))
            return
        time.sleep(1)
    raise OpsError(
        _("No alert about it fires after {seconds} seconds", seconds=ALERT_SECONDS),
        _("Not every fault has an alert; see the rules"),
        f"{lab.addresses['prometheus']}/alerts",
    )


def _firing(lab: Lab) -> set[str]:
    """Names of the alerts that fire in the lab's Prometheus, but for what fires always and warns of nothing."""
    import urllib3

    if "prometheus" not in lab.addresses:
        raise OpsError(_("This lab has no Prometheus"), _("Start it whole, or leave --wait out"), "opslib lab up")
    answer = urllib3.request("GET", f"{lab.addresses['prometheus']}/api/v1/alerts", timeout=10)
    return {
        alert["labels"]["alertname"]
        for alert in answer.json()["data"]["alerts"]
        if alert["state"] == "firing" and alert["labels"].get("severity") != "none"
    }


def _list() -> click.Command:
    return click.Command(
        "list",
        callback=_run_list,
        params=[
            click.Option(["--kind"], type=click.Choice(["scenario", "fault"]), help=str(_("Only these."))),
        ],
        help=str(_("The scenarios and the faults with which the lab can be broken.")),
        epilog=examples("opslib lab list", "opslib lab list --kind scenario"),
    )


def _run_list(kind: str | None) -> None:
    from opslib.lab import catalogue

    found = catalogue.everything()
    width = max(len(one.name) for one in found)
    heads = {
        "scenario": _("SCENARIOS: stories with a cause to find and an end; from easy (1) to hard (3)"),
        "fault": _("FAULTS: one way each in which pods, nodes and services break"),
    }
    for each, head in heads.items():
        if kind not in (None, each):
            continue
        click.echo(str(head))
        for one in found:
            if one.kind == each:
                click.echo(f"  {one.name:{width}}  {one.level or '':1}  {one.title}")


def _reset() -> click.Command:
    return click.Command(
        "reset",
        callback=_run_reset,
        params=[_state_dir()],
        help=str(_("Take back all that was broken, its traces in the past too; returns when the platform is well again.")),
        epilog=examples("opslib lab reset"),
    )


def _run_reset(folder: Path | None) -> None:
    from opslib.lab import engines

    lab = engines.running(folder)
    count = _ask(lab, "reset", {})["count"]
    click.echo(str(_n("{count} object taken back", "{count} objects taken back", count)))
