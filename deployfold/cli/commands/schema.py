"""Print the JSON schema of a file that deployfold reads or writes.

Editors use a schema to complete and check TOML; pipelines use it to check JSON.

Examples:
  deployfold schema
  deployfold schema profile > deployfold.schema.json
"""

from __future__ import annotations

import pkgutil
from typing import Annotated

import typer

from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session

FORMATS = {
    "report": (
        "report.json, and what build, bench and finish print with --json",
        "deployfold.reporting.report:Report.model_json_schema",
    ),
    "profile": ("a build profile (TOML)", "deployfold.config.schema:profile_schema"),
    "fleet": ("the fleet file of deployfold sweep (TOML)", "deployfold.sweep.schema:fleet_schema"),
    "manifest": (
        "manifest.json of a bundle",
        "deployfold.bundle.manifest:Manifest.model_json_schema",
    ),
    "compare": (
        "what deployfold compare prints with --json",
        "deployfold.compare.changes:Changes.model_json_schema",
    ),
    "run": (
        "what deployfold run prints with --json",
        "deployfold.infer.outputs:RunRecord.model_json_schema",
    ),
}
"""Each format in a phrase, and the function that makes its schema, imported on demand."""


@in_session()
def schema(
    run: Session,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="FORMAT", help=f"{', '.join(FORMATS)}; without it, a list.", show_default=False
        ),
    ] = None,
) -> None:
    """The command ``deployfold schema``."""
    if name is not None:
        print_schema(run, name)
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for key, (summary, _) in FORMATS.items():
        table.add_row(f"[cyan]{key}[/]", summary)
    run.out.print(table)


def print_schema(run: Session, name: str) -> None:
    """Print the schema of a format.

    Raises:
        UsageError: the format is unknown.
    """
    from deployfold.errors import UsageError

    if name not in FORMATS:
        raise UsageError(f"{name!r} has no schema.", hint=f"Use one of {', '.join(FORMATS)}.")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = pkgutil.resolve_name(FORMATS[name][1])()
    run.write_json(dialect | schema | {"title": f"deployfold {name}"})
