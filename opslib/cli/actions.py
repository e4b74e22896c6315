"""``opslib plan``, ``approve``, ``execute``, ``undo`` and ``audit``: changes, one careful step after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from opslib.cli import environment_option, examples
from opslib.errors import InputError
from opslib.findings import command
from opslib.messages import Text, _, _n, printable, text_of

if TYPE_CHECKING:
    from opslib.actions.pipeline import Desk
    from opslib.actions.plans import Plan
    from opslib.actions.systems import System
    from opslib.facts.sources import Sources


def commands() -> list[click.Command]:
    """The commands; their texts are in the language that is current when this is called."""
    return [_plan(), _approve(), _execute(), _undo(), _audit()]


def _outputs() -> click.Option:
    return click.Option(
        ["--outputs"],
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("outputs"),
        show_default=True,
        help=str(_("Folder for what runs produce; plans and their log are in its folder actions. Share it among operators.")),
    )


def _steady() -> click.Option:
    text = str(_("How long, in seconds, the pods must stay available afterwards for the change to have worked."))
    return click.Option(["--steady", "steady_seconds"], type=click.FloatRange(min=0), default=30, show_default=True, help=text)


def _namespace() -> click.Option:
    return click.Option(["-n", "--namespace"], required=True, help=str(_("Namespace of the object.")))


def _plan_id() -> click.Argument:
    return click.Argument(["plan_id"], metavar="PLAN")


# --- plan -------------------------------------------------------------------------------------------------------------------------------


def _plan() -> click.Command:
    workload = click.Argument(["workload"], metavar="KIND/NAME")
    group = click.Group(
        "plan",
        help=str(_("Plan a change: shows exactly what would change, and changes nothing.")),
        epilog=examples(
            "opslib plan restart deployment/checkout -n shop --env prod",
            "opslib plan scale deployment/web -n shop --replicas 5",
            "opslib plan rollback deployment/checkout -n shop",
        ),
        no_args_is_help=True,
    )
    group.add_command(
        click.Command(
            "restart",
            callback=_planner("workloads.restart"),
            params=[workload, _namespace(), _steady(), environment_option(), _outputs()],
            help=str(_("Replace all pods of a workload, as its update strategy does it.")),
            epilog=examples("opslib plan restart deployment/checkout -n shop --env prod"),
        )
    )
    group.add_command(
        click.Command(
            "scale",
            callback=_planner("workloads.scale"),
            params=[
                workload,
                _namespace(),
                click.Option(["--replicas"], type=int, required=True, help=str(_("How many pods there are to be."))),
                _steady(),
                environment_option(),
                _outputs(),
            ],
            help=str(_("Another number of pods.")),
            epilog=examples("opslib plan scale deployment/web -n shop --replicas 5"),
        )
    )
    group.add_command(
        click.Command(
            "rollback",
            callback=_planner("workloads.rollback"),
            params=[
                workload,
                _namespace(),
                click.Option(["--revision"], type=click.IntRange(min=1), help=str(_("Which; without it the one before the newest."))),
                _steady(),
                environment_option(),
                _outputs(),
            ],
            help=str(_("Back to an earlier revision of a workload.")),
            epilog=examples(
                "opslib plan rollback deployment/checkout -n shop", "opslib plan rollback deployment/checkout -n shop --revision 3"
            ),
        )
    )
    group.add_command(
        click.Command(
            "image",
            callback=_planner("workloads.image"),
            params=[
                workload,
                click.Argument(["container"]),
                click.Argument(["reference"], metavar="IMAGE"),
                _namespace(),
                _steady(),
                environment_option(),
                _outputs(),
            ],
            help=str(_("Another image for one container of a workload.")),
            epilog=examples("opslib plan image deployment/checkout checkout registry.example.com/shop/checkout:4.2.1 -n shop"),
        )
    )
    group.add_command(
        click.Command(
            "delete",
            callback=_planner("workloads.delete_pods"),
            params=[click.Argument(["pods"], metavar="POD...", nargs=-1, required=True), _namespace(), environment_option(), _outputs()],
            help=str(_("Delete single pods; their owners make others.")),
            epilog=examples("opslib plan delete checkout-6d5f-x2x9q -n shop"),
        )
    )
    node = click.Argument(["node"])
    group.add_command(
        click.Command(
            "cordon",
            callback=_planner("nodes.cordon"),
            params=[node, environment_option(), _outputs()],
            help=str(_("No new pods on a node.")),
            epilog=examples("opslib plan cordon ip-10-0-1-17.ap-northeast-1.compute.internal"),
        )
    )
    group.add_command(
        click.Command(
            "uncordon",
            callback=_planner("nodes.uncordon"),
            params=[node, environment_option(), _outputs()],
            help=str(_("New pods on a node again.")),
            epilog=examples("opslib plan uncordon ip-10-0-1-17.ap-northeast-1.compute.internal"),
        )
    )
    group.add_command(
        click.Command(
            "taint",
            callback=_planner("nodes.taint"),
            params=[node, click.Argument(["change"], metavar="TAINT"), environment_option(), _outputs()],
            help=str(_("Add a taint to a node (key=value:Effect), or remove it (key:Effect-), as kubectl taint takes them.")),
            epilog=examples(
                "opslib plan taint ip-10-0-1-17.ap-northeast-1.compute.internal dedicated=batch:NoSchedule --env prod",
                "opslib plan taint ip-10-0-1-17.ap-northeast-1.compute.internal dedicated:NoSchedule-",
            ),
        )
    )
    group.add_command(
        click.Command(
            "drain",
            callback=_planner("nodes.drain"),
            params=[
                node,
                click.Option(
                    ["--delete-emptydir-data"], is_flag=True, help=str(_("Evict pods with emptyDir volumes too: what is in those is lost."))
                ),
                click.Option(["--force"], is_flag=True, help=str(_("Evict pods without an owner too: nobody makes them again."))),
                click.Option(
                    ["--patience", "patience_seconds"],
                    type=click.FloatRange(min=0),
                    default=300,
                    show_default=True,
                    help=str(_("How long, in seconds, an eviction waits for a disruption budget before the drain stops.")),
                ),
                click.Option(
                    ["--grace-period", "grace_seconds"],
                    type=click.IntRange(min=0),
                    help=str(_("How long, in seconds, pods have to end; without it what each says itself.")),
                ),
                click.Option(
                    ["--pod-selector"], default="", help=str(_("Only pods with these labels, as kubectl's -l takes them; without it all."))
                ),
                environment_option(),
                _outputs(),
            ],
            help=str(_("Cordon a node and evict what is on it, within the disruption budgets.")),
            epilog=examples(
                "opslib plan drain ip-10-0-1-17.ap-northeast-1.compute.internal --env prod",
                "opslib plan drain ip-10-0-1-17.ap-northeast-1.compute.internal --pod-selector app=checkout --grace-period 60",
            ),
        )
    )
    for one in (*_backups(), *_eks(), _terraform(), *_disks(), *_dumps()):
        group.add_command(one)
    return group


def _backups() -> list[click.Command]:
    repository = click.Option(["--repository"], default="backup", show_default=True, help=str(_("Elasticsearch's snapshot repository.")))
    named = click.Option(["--name"], default="", help=str(_("Another name than the one with date and time.")))
    into = click.Option(["--into"], default="", help=str(_("Another name for what is restored than the one with date and time.")))
    location = click.Option(["--location"], default="", help=str(_("Velero's storage location; without it the default one.")))
    chosen = click.Option(["-n", "--namespace", "namespaces"], multiple=True, help=str(_("Only this namespace; may be repeated.")))
    kept = click.Option(
        ["--kept", "kept_hours"],
        type=click.FloatRange(min=1),
        default=720,
        show_default=True,
        help=str(_("How long, in hours, it is kept.")),
    )
    return [
        click.Command(
            "backup",
            callback=_planner("backups.backup"),
            params=[chosen, kept, named, location, environment_option(), _outputs()],
            help=str(_("Take a Velero backup, named after date and time, and follow it to its end.")),
            epilog=examples("opslib plan backup --env prod", "opslib plan backup -n shop -n data --kept 168"),
        ),
        click.Command(
            "backup-schedule",
            callback=_planner("backups.backup_schedule"),
            params=[click.Argument(["name"]), click.Argument(["cron"]), chosen, kept, location, environment_option(), _outputs()],
            help=str(_("Let Velero take backups by itself, at the times of CRON (in UTC); `opslib undo` deletes the schedule again.")),
            epilog=examples("opslib plan backup-schedule eks-backup '0 18 * * *' --env prod"),
        ),
        click.Command(
            "backup-delete",
            callback=_planner("backups.backup_delete"),
            params=[click.Argument(["backup"]), environment_option(), _outputs()],
            help=str(_("Delete a Velero backup and its data in the storage, for good.")),
            epilog=examples("opslib plan backup-delete eks-backup-20260401-030000 --env stg"),
        ),
        click.Command(
            "restore-rehearsal",
            callback=_planner("backups.restore_rehearsal"),
            params=[click.Argument(["backup"]), _namespace(), into, environment_option(), _outputs()],
            help=str(_("Restore a namespace of a backup into one of its own and compare the counts; `opslib undo` removes it again.")),
            epilog=examples("opslib plan restore-rehearsal eks-backup-20260401-030000 -n shop --env stg"),
        ),
        click.Command(
            "snapshot",
            callback=_planner("backups.snapshot", "elasticsearch"),
            params=[
                repository,
                click.Option(["--indices"], default="*", show_default=True, help=str(_("Only these indices, as a pattern."))),
                named,
                environment_option(),
                _outputs(),
            ],
            help=str(_("Take a snapshot of Elasticsearch's indices, named after date and time, and follow it to its end.")),
            epilog=examples("opslib plan snapshot --env prod", "opslib plan snapshot --indices 'logs-2026.04.*'"),
        ),
        click.Command(
            "snapshot-rehearsal",
            callback=_planner("backups.snapshot_rehearsal", "elasticsearch"),
            params=[click.Argument(["snapshot"]), click.Argument(["index"]), repository, into, environment_option(), _outputs()],
            help=str(_("Restore an index of a snapshot under a name of its own and compare the counts; `opslib undo` removes it again.")),
            epilog=examples("opslib plan snapshot-rehearsal snapshot-20260401-030000 logs-2026.04.01 --env stg"),
        ),
        click.Command(
            "snapshot-delete",
            callback=_planner("backups.snapshot_delete", "elasticsearch"),
            params=[click.Argument(["snapshot"]), repository, environment_option(), _outputs()],
            help=str(_("Delete a snapshot and its data in the repository, for good.")),
            epilog=examples("opslib plan snapshot-delete snapshot-20260401-030000 --env stg"),
        ),
    ]


def _terraform() -> click.Command:
    return click.Command(
        "terraform",
        callback=_plan_terraform,
        params=[
            click.Option(
                ["--var", "words"], multiple=True, metavar="NAME=VALUE", help=str(_("A variable of the configuration; repeatable."))
            ),
            click.Option(
                ["--allow-destroy"],
                multiple=True,
                metavar="ADDRESS",
                help=str(_("A resource that may be deleted or replaced; repeatable.")),
            ),
            environment_option(),
            _outputs(),
        ],
        help=str(_("Plan with Terraform; executing the plan applies exactly what was shown.")),
        epilog=examples(
            "opslib plan terraform --env stg --var kubernetes_version=1.36",
            "opslib plan terraform --env stg --var database_enabled=false --allow-destroy 'module.platform.module.database[0].…'",
        ),
    )


def _eks() -> list[click.Command]:
    version = click.Option(["--version"], default="", help=str(_("Which; without it the one that comes next.")))
    return [
        click.Command(
            "addon",
            callback=_planner("aws.addon", "aws"),
            params=[click.Argument(["name"]), version, environment_option(), _outputs()],
            help=str(_("Another version of an EKS add-on; without one, the default for the control plane's version.")),
            epilog=examples("opslib plan addon coredns --env prod", "opslib plan addon vpc-cni --version v1.21.2-eksbuild.1 --env stg"),
        ),
        click.Command(
            "node-group",
            callback=_planner("aws.node_group", "aws", "kubernetes"),
            params=[
                click.Argument(["name"]),
                version,
                click.Option(["--release"], default="", help=str(_("A release of the node image, such as 1.36.2-20261101."))),
                environment_option(),
                _outputs(),
            ],
            help=str(_("A managed node group on the control plane's version, or on another release of its node image.")),
            epilog=examples("opslib plan node-group main --env prod", "opslib plan node-group main --release 1.36.2-20261101 --env stg"),
        ),
        click.Command(
            "control-plane",
            callback=_planner("aws.control_plane", "aws", "kubernetes"),
            params=[version, environment_option(), _outputs()],
            help=str(_("The EKS control plane on the next minor version of Kubernetes.")),
            epilog=examples("opslib plan control-plane --env stg", "opslib plan control-plane --version 1.37 --env prod"),
        ),
    ]


def _plan_terraform(words: tuple[str, ...], allow_destroy: tuple[str, ...], environment: str, outputs: Path) -> None:
    from opslib.actions import terraform

    variables = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(_("--var {word} is no NAME=VALUE", word=word), _("Write it like"), "--var kubernetes_version=1.36")
        variables[name] = value
    desk = _desk(environment, outputs)
    plan = terraform.apply(desk.systems["terraform"], desk.environment, desk.who, desk.place, variables, allow_destroy=allow_destroy)  # type: ignore[arg-type]
    _keep(desk, plan)


def _dumps() -> list[click.Command]:
    pod = click.Argument(["pod"])
    container = click.Option(["-c", "--container"], default="", help=str(_("Which of the pod's containers; without it its only one.")))
    return [
        click.Command(
            "heap-dump",
            callback=_planner("dumps.heap_dump", "dumps"),
            params=[
                pod,
                _namespace(),
                container,
                click.Option(
                    ["--runtime"],
                    type=click.Choice(["jvm", "go", "python", "node"]),
                    help=str(_("What the program runs on; without it as image and settings show.")),
                ),
                click.Option(
                    ["--pid"],
                    type=click.IntRange(min=1),
                    default=1,
                    show_default=True,
                    help=str(_("Number of the process in the container.")),
                ),
                click.Option(
                    ["--port"],
                    type=click.IntRange(1, 65535),
                    default=6060,
                    show_default=True,
                    help=str(_("Where a Go program serves net/http/pprof.")),
                ),
                click.Option(
                    ["--folder"],
                    default="/tmp",  # noqa: S108 - in the container
                    show_default=True,
                    help=str(_("Folder in the container that holds the dump until it is fetched.")),
                ),
                click.Option(["--limit"], default="8Gi", show_default=True, help=str(_("The most that is fetched."))),
                environment_option(),
                _outputs(),
            ],
            help=str(
                _("Bring a program's memory out as a file that you alone may read: jcmd, pprof, Node's snapshot; of Python the stacks.")
            ),
            epilog=examples(
                "opslib plan heap-dump order-6d5f-x2x9q -n shop --env prod",
                "opslib plan heap-dump gateway-7c9d-b5k2p -n shop --runtime go --port 6060",
                "opslib plan heap-dump order-6d5f-x2x9q -n shop -c order --runtime jvm --pid 7 --folder /data --limit 16Gi",
            ),
        ),
        click.Command(
            "processes",
            callback=_planner("dumps.processes", "dumps"),
            params=[pod, _namespace(), container, environment_option(), _outputs()],
            help=str(_("List the processes in a container, into a file.")),
            epilog=examples("opslib plan processes catalog-6d5f-x2x9q -n shop --env prod"),
        ),
        click.Command(
            "debug",
            callback=_planner("dumps.debug"),
            params=[
                pod,
                _namespace(),
                container,
                click.Option(["--image"], default="busybox:1.37", show_default=True, help=str(_("Image with the tools."))),
                click.Option(["--minutes"], type=click.IntRange(1, 1440), default=60, show_default=True, help=str(_("How long it stays."))),
                environment_option(),
                _outputs(),
            ],
            help=str(_("Add a debug container beside one whose image has no tools; it ends by itself.")),
            epilog=examples("opslib plan debug gateway-7c9d-b5k2p -n shop -c gateway --env prod"),
        ),
    ]


def _arrived(written: int, expected: int | None) -> None:
    """How far a file is that comes from a container, on one line of a terminal."""
    if sys.stderr.isatty():
        share = f" ({min(100, round(100 * written / expected))} %)" if expected else ""
        click.echo(f"\r\x1b[K{written / 2**20:.1f} MiB{share}", nl=False, err=True)


def _disks() -> list[click.Command]:
    return [
        click.Command(
            "expand-volume",
            callback=_plan_expansion,
            params=[click.Argument(["claim"]), click.Argument(["size"]), _namespace(), environment_option(), _outputs()],
            help=str(_("Make a volume bigger, to a SIZE such as 100Gi or by +20Gi, and follow it until its file system has grown.")),
            epilog=examples(
                "opslib plan expand-volume data-order-db-0 100Gi -n data --env prod", "opslib plan expand-volume data-queue-1 +20Gi -n data"
            ),
        ),
        click.Command(
            "delete-files",
            callback=_plan_deletion,
            params=[
                click.Argument(["pod"]),
                click.Argument(["files"], metavar="[FILE...]", nargs=-1),
                _namespace(),
                click.Option(["--folder"], required=True, help=str(_("Folder in which all of the files are; nothing outside is touched."))),
                click.Option(["-c", "--container"], default="", help=str(_("Which of the pod's containers; without it its only one."))),
                click.Option(
                    ["--from", "listed"],
                    type=click.File("r", encoding="utf-8", errors="surrogateescape"),
                    help=str(_("File with the reviewed list, a whole path a line; - is the standard input.")),
                ),
                click.Option(["--empty"], is_flag=True, help=str(_("Make them empty rather than delete them: for logs that are open."))),
                environment_option(),
                _outputs(),
            ],
            help=str(_("Delete files of a container by a reviewed list: each by its whole path, no patterns, no folders. For good.")),
            epilog=examples(
                "opslib plan delete-files order-db-0 /data/log/server.log.7 -n data --folder /data/log --env prod",
                "opslib plan delete-files order-db-0 -n data --folder /data/log --from reviewed.txt",
                "opslib plan delete-files order-db-0 /data/log/server.log -n data --folder /data/log --empty",
            ),
        ),
    ]


def _plan_expansion(claim: str, size: str, namespace: str, environment: str, outputs: Path) -> None:
    from opslib.actions import volumes

    desk = _desk(environment, outputs)
    metrics = desk.systems["prometheus"] if desk.environment.prometheus else None
    plan = volumes.expand(desk.systems["kubernetes"], desk.environment, desk.who, claim, namespace, size, metrics=metrics)  # type: ignore[arg-type]
    _keep(desk, plan)


def _plan_deletion(
    pod: str,
    files: tuple[str, ...],
    namespace: str,
    folder: str,
    container: str,
    listed: TextIO | None,
    empty: bool,
    environment: str,
    outputs: Path,
) -> None:
    from opslib.actions.files import delete_files

    desk = _desk(environment, outputs)
    names = [*files, *(line for line in (listed.read().split("\n") if listed else []) if line)]
    where = desk.systems["files"]
    plan = delete_files(where, desk.environment, desk.who, pod, names, namespace, folder, container, empty=empty)  # type: ignore[arg-type]
    _keep(desk, plan)


def _planner(name: str, *systems: str) -> Callable[..., None]:
    """The callback of a planning command.

    Parameters
    ----------
    name
        Module and function in `opslib.actions`, whose arguments are the command's.
    systems
        What the function is to change, or to look at; the cluster where none is named.
    """

    def run(environment: str, outputs: Path, **values: Any) -> None:
        import importlib

        desk = _desk(environment, outputs)
        given = {key: value for key, value in values.items() if value is not None}
        module, _dot, function = name.partition(".")
        make: Callable[..., Plan] = getattr(importlib.import_module(f"opslib.actions.{module}"), function)
        _keep(desk, make(*(desk.systems[one] for one in systems or ("kubernetes",)), desk.environment, desk.who, **given))

    return run


def _keep(desk: Desk, plan: Plan) -> None:
    """Keep a plan that was made, show it, and say what comes next."""
    from opslib.actions import pipeline

    path = pipeline.file_plan(desk, plan)
    _show(desk, plan)
    click.echo(str(_("Kept in {file}", file=path)))
    click.echo(str(_("Next: {command}", command=_next(desk, plan))))


def _next(desk: Desk, plan: Plan) -> str:
    from opslib.actions import pipeline

    verb = "approve" if pipeline.needs_approval(desk, plan) and pipeline.approval_of(desk, plan) is None else "execute"
    return f"opslib {verb} {plan.short_id} --env {desk.environment.name}"


def _show(desk: Desk, plan: Plan) -> None:
    """All that somebody needs to know to approve it."""
    click.echo(f"{plan.short_id}  {printable(plan.title)}")
    click.echo(
        str(
            _(
                "Environment {environment}, asked for by {requester}; reaches {pods} pods, {nodes} nodes; services: {services}",
                environment=plan.environment,
                requester=plan.requester,
                pods=plan.reach.pods,
                nodes=plan.reach.nodes,
                services=plan.reach.services or "-",
            )
        )
    )
    for number, step in enumerate(plan.steps, 1):
        beside = f"  ({printable(step.lane)}: {step.at_once})" if step.lane else ""
        click.echo(f"{number}. {printable(step.what)}{beside}")
        click.echo("".join(f"   {printable(line)}\n" for line in step.difference.splitlines()), nl=False)
        if step.command:
            click.echo("   " + str(_("The same as: {command}", command=step.command)))
        if step.inverse is None:
            click.echo("   " + str(_("cannot be taken back: {why}", why=step.why_no_inverse or "-")))
    for caution in plan.cautions:
        click.echo("! " + printable(caution))
    for condition in plan.verify:
        click.echo(str(_("Afterwards: {what}", what=condition.what)))


# --- approve, execute, undo -------------------------------------------------------------------------------------------------------------


def _approve() -> click.Command:
    return click.Command(
        "approve",
        callback=_run_approve,
        params=[
            _plan_id(),
            click.Option(["--comment"], default="", help=str(_("Why, or under what condition."))),
            environment_option(),
            _outputs(),
        ],
        help=str(_("Show a plan and give your approval, which is kept in the log and expires.")),
        epilog=examples("opslib approve 3f2a9c1b77de --env prod --comment 'after 22:00'"),
    )


def _run_approve(plan_id: str, comment: str, environment: str, outputs: Path) -> None:
    from opslib.actions import pipeline

    desk, plan = _opened(plan_id, environment, outputs)
    _show(desk, plan)
    approval = pipeline.approve(desk, plan, comment)
    until = approval.until.astimezone(desk.environment.zone)
    click.echo(str(_("Approved by {who} until {time}", who=approval.approver, time=f"{until:%Y-%m-%d %H:%M %Z}")))
    click.echo(str(_("Next: {command}", command=f"opslib execute {plan.short_id} --env {environment}")))


def _execute() -> click.Command:
    return click.Command(
        "execute",
        callback=_run_execute,
        params=[
            _plan_id(),
            click.Option(
                ["--dry-run/--no-dry-run"],
                default=True,
                show_default=True,
                help=str(_("Check everything and let the systems say what would become of it, or really do it.")),
            ),
            environment_option(),
            _outputs(),
        ],
        help=str(_("Execute a plan, or go on with one that was cut off. Exit status 2 where it was done but did not work.")),
        epilog=examples("opslib execute 3f2a9c1b77de --env prod", "opslib execute 3f2a9c1b77de --env prod --no-dry-run"),
    )


def _run_execute(plan_id: str, dry_run: bool, environment: str, outputs: Path) -> int:
    from opslib.actions import pipeline

    desk, plan = _opened(plan_id, environment, outputs)
    if dry_run:
        outcome = pipeline.rehearse(desk, plan)
        _show(desk, plan)
        for text in outcome.held_up:
            click.echo("! " + printable(text.text()))
        click.echo(str(_n("Dry run: {count} step would be done", "Dry run: {count} steps would be done", len(outcome.previews))))
        really = f"opslib execute {plan.short_id} --env {environment} --no-dry-run"
        needed = pipeline.needs_approval(desk, plan) and pipeline.approval_of(desk, plan) is None
        click.echo(str(_("Next: {command}", command=_next(desk, plan) if needed else really)))
        return 0
    try:
        outcome = pipeline.execute(desk, plan, report=_say, progress=_advanced)
    except KeyboardInterrupt:
        again = f"opslib execute {plan.short_id} --env {environment} --no-dry-run"
        click.echo(str(_("What has been sent goes on by itself. To go on and follow it again: {command}", command=again)))
        raise
    if outcome.verified is False:
        click.echo(str(_("Done, but it did not work: {why}", why=outcome.why or "")))
        click.echo(str(_("Next: {command}", command=f"opslib undo {plan.short_id} --env {environment}")))
        return 2
    click.echo(str(_("Done and verified") if outcome.verified else _("Done")))
    if plan.action == "restore":
        click.echo(
            str(_("Once you have seen enough, remove it again: {command}", command=f"opslib undo {plan.short_id} --env {environment}"))
        )
    for node in [condition.question["empty"] for condition in plan.verify if "empty" in condition.question]:
        back = command("opslib", "plan", "uncordon", node, "--env", environment)
        click.echo(str(_("Once the work on {node} is done, let pods come to it again: {command}", node=node, command=back)))
    return 0


def _undo() -> click.Command:
    return click.Command(
        "undo",
        callback=_run_undo,
        params=[_plan_id(), environment_option(), _outputs()],
        help=str(_("Take back what was done of a plan, the last step first.")),
        epilog=examples("opslib undo 3f2a9c1b77de --env prod"),
    )


def _run_undo(plan_id: str, environment: str, outputs: Path) -> None:
    from opslib.actions import pipeline

    desk, plan = _opened(plan_id, environment, outputs)
    try:
        count = pipeline.undo(desk, plan, report=_say)
    except KeyboardInterrupt:
        again = f"opslib undo {plan.short_id} --env {environment}"
        click.echo(str(_("What has been sent goes on by itself. To go on and follow it again: {command}", command=again)))
        raise
    click.echo(str(_n("{count} step was taken back", "{count} steps were taken back", count)))


# --- audit ------------------------------------------------------------------------------------------------------------------------------


def _audit() -> click.Command:
    return click.Command(
        "audit",
        callback=_run_audit,
        params=[
            click.Argument(["plan_id"], metavar="[PLAN]", required=False),
            click.Option(["--verify"], is_flag=True, help=str(_("Only check the chain; exit status 2 where it is broken."))),
            environment_option(),
            _outputs(),
        ],
        help=str(_("What was planned, approved and done, by whom and when. Its last line is the log's last hash: note it elsewhere.")),
        epilog=examples("opslib audit --env prod", "opslib audit 3f2a9c1b77de --env prod", "opslib audit --verify --env prod"),
    )


def _run_audit(plan_id: str | None, verify: bool, environment: str, outputs: Path) -> int:
    from opslib.actions import audit, plans
    from opslib.environments import load

    loaded = load(environment)
    place = plans.folder(loaded, outputs)
    records, broken = audit.log_in(place).verify()
    if not verify:
        wanted = plans.read(plan_id, place).id if plan_id and records else None
        for one in records if wanted is None else [one for one in records if one.plan == wanted]:
            when = f"{one.time.astimezone(loaded.zone):%Y-%m-%d %H:%M:%S}"
            more = ", ".join(f"{name}={value}" for name, value in one.data.items() if value not in ("", None))
            click.echo(printable(f"{one.number:>5}  {when}  {one.plan[: plans.SHORT]}  {one.who:20}  {one.event:12}  {more}"))
    if broken is not None:
        click.echo(str(_("The log is broken: {what}", what=broken)), err=True)
        return 2
    last = records[-1].hash if records else "-"
    click.echo(
        str(
            _n(
                "{count} record, the chain holds; last hash {hash}",
                "{count} records, the chain holds; last hash {hash}",
                len(records),
                hash=last,
            )
        )
    )
    return 0


# --- parts ------------------------------------------------------------------------------------------------------------------------------


def _desk(environment: str, outputs: Path) -> Desk:
    from opslib.actions import pipeline, plans
    from opslib.environments import load
    from opslib.facts.sources import Sources

    loaded = load(environment)
    sources = Sources(loaded)
    who = pipeline.identity(loaded, lambda: sources.kubernetes.identity().username)
    return pipeline.Desk(loaded, plans.folder(loaded, outputs), _Systems(sources, plans.folder(loaded, outputs)), who)


class _Systems(dict[str, Any]):
    """The systems that can be changed, each connected once, when it is asked for: a plan for the one needs nothing of the other."""

    def __init__(self, sources: Sources, place: Path) -> None:
        super().__init__()
        self._sources, self._place = sources, place

    def __missing__(self, name: str) -> System:
        from opslib.actions.aws import AwsSystem
        from opslib.actions.dumps import Dumps
        from opslib.actions.elasticsearch import ElasticsearchSystem
        from opslib.actions.files import ContainerFiles
        from opslib.actions.kubernetes import KubernetesSystem
        from opslib.actions.prometheus import PrometheusSystem
        from opslib.actions.terraform import TerraformSystem
        from opslib.sources.terraform import Terraform

        made: System
        if name == "kubernetes":
            self._sources.check_cluster()
            made = KubernetesSystem(self._sources.kubernetes)
        elif name == "elasticsearch":
            made = ElasticsearchSystem(self._sources.elasticsearch)
        elif name == "files":
            self._sources.check_cluster()
            made = ContainerFiles(self._sources.kubernetes)
        elif name == "dumps":
            self._sources.check_cluster()
            made = Dumps(self._sources.kubernetes, self._place, _arrived)
        elif name == "prometheus":
            made = PrometheusSystem(self._sources.prometheus)
        elif name == "aws":
            made = AwsSystem(self._sources.aws)
        elif name == "terraform":
            made = TerraformSystem(Terraform.connect(self._sources.environment), _said)
        else:
            raise KeyError(name)
        self[name] = made
        return made


def _opened(plan_id: str, environment: str, outputs: Path) -> tuple[Desk, Plan]:
    from opslib.actions import plans

    desk = _desk(environment, outputs)
    return desk, plans.read(plan_id, desk.place)


def _said(text: Text) -> None:
    """What a program says while it is at work: beside what the command itself says."""
    click.echo("  " + printable(text_of(text)), err=True)


def _say(text: Text) -> None:
    _clear()
    sys.stdout.flush()
    click.echo(text_of(text))


def _advanced(done: int, under_way: int, total: int) -> None:
    """How far an execution is, on one line of a terminal, until something else is said."""
    if sys.stderr.isatty() and total > 1:
        _clear()
        click.echo(str(_("{done} of {total} steps are done, {under_way} are under way", done=done, total=total, under_way=under_way)),
                   nl=False, err=True)  # fmt: skip
        if done == total:
            _clear()


def _clear() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
