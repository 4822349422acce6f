"""Print the JSON schema of a file that deployfold reads or writes.

Editors use a schema to complete and check TOML; pipelines use it to check JSON.

Examples:
  deployfold schema
  deployfold schema profile > deployfold.schema.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from deployfold.cli.in_session import in_session
from deployfold.cli.session import Session


@dataclass(frozen=True)
class Format:
    """A format with a schema; ``make`` imports its model on demand."""

    summary: str
    make: Callable[[], dict[str, Any]]


def _report() -> dict[str, Any]:
    from deployfold.reporting.report import Report

    return Report.model_json_schema()


def _profile() -> dict[str, Any]:
    from deployfold.config.schema import profile_model

    return profile_model().model_json_schema(by_alias=True)


def _fleet() -> dict[str, Any]:
    from deployfold.sweep.schema import fleet_schema

    return fleet_schema()


def _manifest() -> dict[str, Any]:
    from deployfold.bundle.manifest import Manifest

    return Manifest.model_json_schema()


def _compare() -> dict[str, Any]:
    from deployfold.compare.changes import Changes

    return Changes.model_json_schema()


def _run() -> dict[str, Any]:
    from deployfold.infer.record import RunRecord

    return RunRecord.model_json_schema()


FORMATS = {
    "report": Format("report.json, and what build, bench and finish print with --json", _report),
    "profile": Format("a build profile (TOML)", _profile),
    "fleet": Format("the fleet file of deployfold sweep (TOML)", _fleet),
    "manifest": Format("manifest.json of a bundle", _manifest),
    "compare": Format("what deployfold compare prints with --json", _compare),
    "run": Format("what deployfold run prints with --json", _run),
}


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
    for key, one in FORMATS.items():
        table.add_row(f"[cyan]{key}[/]", one.summary)
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
    run.write_json(dialect | FORMATS[name].make() | {"title": f"deployfold {name}"})
