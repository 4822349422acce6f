"""List the build profiles, or show the settings of one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from deployfold.cli.group import Command, Group
from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session

profile = typer.Typer(
    name="profile",
    cls=Group,
    no_args_is_help=True,
)


@profile.command("list", cls=Command)
@in_session("json")
def list_profiles(
    run: Session,
) -> None:
    """List the build profiles that come with deployfold."""
    from deployfold.config.build_profiles import read_profile, shipped

    found = {name: str(read_profile(name).get("description", "")) for name in shipped()}
    if run.json:
        run.write_json(found)
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("--profile", style="cyan", no_wrap=True)
    table.add_column("what it is for")
    for name, description in found.items():
        table.add_row(name, description)
    run.out.print(table)
    run.out.print(
        "\nYour own is a TOML file whose keys are the flags of deployfold build: "
        "--profile my.toml.",
        style="dim",
    )


@profile.command("show", cls=Command, context_settings={"ignore_unknown_options": True})
@in_session("json")
def show(
    run: Session,
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", show_default=False)],
    flags: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BUILD FLAGS]", help="Flags of build, to see what they override."),
    ] = None,
) -> None:
    """Show every setting under a profile, and the origin of each value.

    Examples:

      deployfold profile show server-fp16

      deployfold profile show edge-int8 --target jetson-orin-nano --calib pictures/
    """
    from deployfold.config.build_options import profile_options
    from deployfold.config.build_profiles import DEFAULT, merge

    merged = merge(name, _parse(flags or []))
    values = {one.key: merged.values[one.key] for one in profile_options()}
    if run.json:
        run.write_json(
            {"description": {"value": merged.description, "from": f"profile {name}"}}
            | {key: {"value": values[key], "from": merged.origins[key]} for key in values},
        )
        return
    from rich.table import Table
    from rich.text import Text

    from deployfold.reporting.text import clean

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("from", no_wrap=True)
    changed = [key for key in values if merged.origins[key] != DEFAULT]
    for key in (*changed, *(key for key in values if key not in changed)):
        origin = merged.origins[key]
        style = "dim" if origin == DEFAULT else "bold" if origin == "flag" else ""
        table.add_row(key, Text(clean(_shown(values[key]))), clean(origin), style=style)
    if merged.description:
        run.line(merged.description)
    run.out.print(table)


@profile.command("schema", cls=Command)
@in_session()
def schema(run: Session) -> None:
    """Print the JSON schema of a build profile, for editors that complete and check TOML.

    Example:

      deployfold profile schema > deployfold.schema.json
    """
    from .schema import print_schema

    print_schema(run, "profile")


def _parse(flags: list[str]) -> dict[str, Any]:
    """The options of ``build`` that its parser reads from ``flags``."""
    from deployfold.cli.discovery import load

    from .build import given

    return given(load("build").make_context("build", ["model", *flags]))


def _shown(value: object) -> str:
    if value is None or value in ("", [], ()):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
