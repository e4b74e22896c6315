"""``opslib environment``: what is in parameters/, and whether it is right."""

from __future__ import annotations

from pathlib import Path

import click

from opslib.messages import _, _n


def commands() -> list[click.Command]:
    """The group ``environment``; its texts are in the language that is current when this is called."""

    @click.group(name="environment", help=str(_("Environments: parameters/*.yaml, listed, shown, checked.")))
    def group() -> None:
        pass

    @group.command(name="list", help=str(_("All environments, with what is wrong with a file where something is.")))
    def list_() -> None:
        from opslib import environments

        rows = []
        for name in environments.names():
            path = environments.folder() / f"{name}.yaml"
            faults = environments.check(path)
            if faults:
                rows.append(
                    (name, str(_n("{count} fault, see: {command}", "{count} faults, see: {command}", len(faults), command=_check(path))))
                )
            else:
                environment = environments.load_file(path)
                marks = [environment.title, str(_("production")) if environment.production else ""]
                rows.append((name, " · ".join(mark for mark in marks if mark)))
        width = max((len(name) for name, _words in rows), default=0)
        for name, words in rows:
            click.echo(f"{name:{width}}  {words}")

    @group.command(
        name="show",
        help=str(_("One environment as it is understood: every field with its value and what it means.")),
        epilog=str(_("Example: {command}", command="opslib environment show prod")),
    )
    @click.argument("name")
    def show(name: str) -> None:
        from opslib import environments

        environment = environments.load(name)
        for dotted, value, description in environments.fields(environment):
            click.secho(f"# {description}", dim=True)
            click.echo(f"{dotted}: {value}".rstrip())

    @group.command(
        name="check",
        help=str(_("Check environments' files (all, without FILE): every fault with its line; nothing is written or connected to.")),
        epilog=str(_("Example: {command}", command="opslib environment check parameters/*.yaml")),
    )
    @click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.pass_context
    def check(context: click.Context, files: tuple[Path, ...]) -> None:
        from opslib import environments

        paths = files or tuple(environments.folder() / f"{name}.yaml" for name in environments.names())
        faults = [fault for path in paths for fault in environments.check(path)]
        for fault in faults:
            click.echo(str(fault.message()))
        if faults:
            context.exit(3)
        click.echo(str(_n("{count} file, no fault", "{count} files, no fault", len(paths))))

    @group.command(
        name="schema",
        help=str(_("JSON schema of an environment's file, for editors that complete and check YAML.")),
        epilog=str(_("Example: {command}", command="opslib environment schema --write")),
    )
    @click.option("--write", is_flag=True, help=str(_("Write it to schema.json beside the environments' files.")))
    def schema(write: bool) -> None:
        from opslib import environments

        content = environments.schema_text()
        if not write:
            click.echo(content, nl=False)
            return
        path = environments.folder() / "schema.json"
        path.write_text(content, "utf-8")
        click.echo(str(_("Written: {file}", file=str(path))))

    return [group]


def _check(path: Path) -> str:
    from opslib.findings import command

    return command("opslib", "environment", "check", path)
