"""``opslib backup``: Velero's backups and Elasticsearch's snapshots, listed, described with their errors by resource, and followed.

Nothing here changes anything; ``opslib plan backup`` and its neighbours do.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import click

from opslib.cli import environment_option, examples
from opslib.findings import command
from opslib.messages import _, _n, one_line, printable

if TYPE_CHECKING:
    from opslib.facts.sources import Sources
    from opslib.sources.progress import Progress
    from opslib.sources.velero import Backup

_WIDTH = 30


def commands() -> list[click.Command]:
    """The group ``backup``; its texts are in the language that is current when this is called."""
    name = click.Argument(["name"])
    restore = click.Option(["--restore"], is_flag=True, help=str(_("It is a restore, not a backup.")))
    repository = click.Option(
        ["--repository"], default="", help=str(_("It is a snapshot of Elasticsearch, in this repository, not a Velero backup."))
    )
    group = click.Group(
        "backup",
        help=str(_("Backups and snapshots: listed, described, followed. They are made and deleted by plans: opslib plan --help.")),
        epilog=examples("opslib backup list --env prod", "opslib backup follow eks-backup-20260401-030000 --env prod"),
        no_args_is_help=True,
    )
    group.add_command(
        click.Command(
            "list",
            callback=_list,
            params=[repository, environment_option()],
            help=str(_("All backups, newest first, with their phases, errors and expiry.")),
            epilog=examples("opslib backup list --env prod", "opslib backup list --repository backup"),
        )
    )
    group.add_command(
        click.Command(
            "describe",
            callback=_describe,
            params=[name, restore, environment_option()],
            help=str(_("One backup or restore: what is in it, and what went wrong by resource. Exit status 2 where it is not Completed.")),
            epilog=examples("opslib backup describe eks-backup-20260401-030000 --env prod"),
        )
    )
    group.add_command(
        click.Command(
            "logs",
            callback=_logs,
            params=[name, restore, environment_option()],
            help=str(_("Velero's log of one backup or restore.")),
            epilog=examples("opslib backup logs eks-backup-20260401-030000 | grep level=error"),
        )
    )
    group.add_command(
        click.Command(
            "follow",
            callback=_follow,
            params=[
                name,
                restore,
                repository,
                click.Option(
                    ["--every", "every_seconds"],
                    type=click.FloatRange(min=0.05),
                    default=1,
                    show_default=True,
                    help=str(_("Seconds between two looks.")),
                ),
                environment_option(),
            ],
            help=str(_("Follow a backup, restore or snapshot to its end; Ctrl-C stops following alone. Exit status 2 where it failed.")),
            epilog=examples(
                "opslib backup follow eks-backup-20260401-030000 --env prod",
                "opslib backup follow snapshot-20260401-030000 --repository backup",
            ),
        )
    )
    return [group]


def _sources(environment: str) -> Sources:
    from opslib.environments import load
    from opslib.facts.sources import Sources

    return Sources(load(environment))


def _list(repository: str, environment: str) -> None:
    from opslib.sources.velero import Backup

    sources = _sources(environment)
    zone = sources.environment.zone
    if repository:
        for snapshot in reversed(sources.elasticsearch.snapshots(repository)):
            begun = f"{snapshot.taken.astimezone(zone):%Y-%m-%d %H:%M}" if snapshot.taken else "-"
            failed = str(_n("{count} failed shard", "{count} failed shards", snapshot.shards.failed))
            click.echo(printable(f"{begun:16}  {snapshot.state:12}  {snapshot.snapshot:40}  {failed}"))
        return
    sources.check_cluster()
    backups = sources.kubernetes.list(Backup, "backups.velero.io", sources.environment.velero_namespace)
    for one in sorted(backups, key=_when, reverse=True):
        status = one.status
        begun, ends = (f"{time.astimezone(zone):%Y-%m-%d %H:%M}" if time else "-" for time in (one.taken, status.expiration))
        words = _("{errors} errors, {warnings} warnings", errors=status.errors, warnings=status.warnings)
        expires = _("expires {time}", time=ends)
        click.echo(printable(f"{begun:16}  {status.phase or 'New':18}  {one.metadata.name:40}  {words}, {expires}"))


def _when(one: Backup) -> tuple[float, str]:
    return (one.taken.timestamp() if one.taken else 0.0, one.metadata.name)


def _describe(name: str, restore: bool, environment: str) -> int:
    from opslib.errors import SourceError
    from opslib.sources.velero import GOOD, Backup, Restore, velero_command

    sources = _sources(environment)
    sources.check_cluster()
    where, zone, cluster = sources.environment.velero_namespace, sources.environment.zone, sources.kubernetes
    kind, resource = ("Restore", "restores.velero.io") if restore else ("Backup", "backups.velero.io")
    found = cluster.get(Restore, resource, name, where) if restore else cluster.get(Backup, resource, name, where)
    status = found.status
    click.echo(printable(f"{name}: {status.phase or 'New'}"))
    times = [("begun", status.start_timestamp), ("ended", status.completion_timestamp)]
    if isinstance(found, Backup):
        click.echo(str(_("Namespaces: {names}", names=found.spec.included_namespaces or ["*"])))
        click.echo(str(_("Storage location {name}, kept for {ttl}", name=found.spec.storage_location or "-", ttl=found.spec.ttl or "-")))
        times.append(("expires", found.status.expiration))
    words = {"begun": _("Begun"), "ended": _("Ended"), "expires": _("Expires")}
    for what, time in times:
        click.echo(f"{words[what]}: {time.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}" if time else f"{words[what]}: -")
    click.echo(str(_("{errors} errors, {warnings} warnings", errors=status.errors, warnings=status.warnings)))
    if reason := status.failure_reason or (found.status.validation_errors if isinstance(found, Backup) else []):
        click.echo(printable("  " + (reason if isinstance(reason, str) else "; ".join(reason))))
    if status.start_timestamp is not None and status.completion_timestamp is not None:
        for part in (_say_problems, _say_content):
            try:
                part(sources, where, kind, name)
            except SourceError as error:
                click.echo(str(_("Could not be read: {what}", what=error.message)))
    same = velero_command(where, kind.lower(), "describe", name, "--details")
    click.echo(str(_("The same as: {command}", command=same)))
    return 0 if status.phase == GOOD else 2


def _say_problems(sources: Sources, where: str, kind: str, name: str) -> None:
    from opslib.sources import velero_files

    for one in velero_files.results(sources.kubernetes, where, kind, name):
        about = "/".join(part for part in (one.namespace, one.resource, one.name) if part) or "-"
        mark = _("warning") if one.warning else _("error")
        click.echo(f"  {mark}  {printable(about)}: {one_line(one.text, 500)}")


def _say_content(sources: Sources, where: str, kind: str, name: str) -> None:
    from opslib.sources import velero_files

    counts = Counter({kind_: len(names) for kind_, names in velero_files.resource_list(sources.kubernetes, where, kind, name).items()})
    for kind_, count in counts.most_common():
        click.echo(f"  {count:>6}  {printable(kind_)}")


def _logs(name: str, restore: bool, environment: str) -> None:
    from opslib.sources import velero_files

    sources = _sources(environment)
    sources.check_cluster()
    where = sources.environment.velero_namespace
    data = velero_files.download(sources.kubernetes, where, "RestoreLog" if restore else "BackupLog", name)
    for line in data.decode(errors="replace").splitlines():
        click.echo(printable(line))


def _follow(name: str, restore: bool, repository: str, every_seconds: float, environment: str) -> int:
    from opslib.sources import progress

    sources = _sources(environment)
    if repository:
        source = sources.elasticsearch

        def ask() -> Progress:
            return progress.of_snapshot(source, repository, name)
    else:
        sources.check_cluster()

        def ask() -> Progress:
            return progress.of_velero(sources.kubernetes, sources.environment.velero_namespace, name, restore=restore)

    screen = sys.stdout.isatty()
    last: Progress | None = None
    try:
        for last in progress.follow(ask, every_seconds=every_seconds):
            click.echo(("\r" if screen else "") + _bar(last) + ("\x1b[K" if screen else ""), nl=not screen)
    except KeyboardInterrupt:
        click.echo()
        options = ["--restore"] if restore else ["--repository", repository] if repository else []
        again = command("opslib", "backup", "follow", name, *options, "--env", environment)
        click.echo(str(_("No longer followed; {name} itself goes on. To follow it again: {command}", name=one_line(name), command=again)))
        raise
    if screen:
        click.echo()
    if last is not None and last.good:
        return 0
    if not repository:
        again = command("opslib", "backup", "describe", name, *(["--restore"] if restore else []), "--env", environment)
        click.echo(str(_("See what went wrong: {command}", command=again)))
    return 2


def _bar(now: Progress) -> str:
    """One line: a bar, what is done of how much, the phase."""
    share = min(now.done / now.total, 1.0) if now.total else 1.0 if now.good else 0.0
    filled = round(_WIDTH * share)
    counts = f"{now.done}/{now.total or '?'}"
    if now.total_bytes:
        counts += f", {now.done_bytes / 2**20:.1f}/{now.total_bytes / 2**20:.1f} MiB"
    words = f"  {_n('{count} error', '{count} errors', now.errors)}" if now.errors else ""
    return printable(f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {share:4.0%}  {counts}  {now.phase}{words}")
