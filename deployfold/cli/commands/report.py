"""Show the report of a build again, or write it as HTML or SVG.

Examples:
  deployfold report build/resnet50
  deployfold report build/resnet50 --html report.html --svg table.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.render import show_report, write_page
from deployfold.cli.session import Session, session
from deployfold.config.option_field import Panel


def _print_schema(asked: bool) -> None:
    if asked:
        with session() as run:
            from deployfold.reporting.report import json_schema

            run.out.file.write(json_schema())
        raise typer.Exit


@in_session("json", "verbose")
def report(
    run: Session,
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE",
            help="The directory of a build, or its report.json.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write it as one HTML page: table, charts, fold map, graph.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the table as an SVG picture of a terminal.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = None,
    width: Annotated[
        int,
        typer.Option(
            metavar="COLUMNS", min=40, help="Width of the SVG.", rich_help_panel=Panel.OUTPUT
        ),
    ] = 100,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            callback=_print_schema,
            is_eager=True,
            help="Print the JSON schema that every report.json keeps, and end.",
            rich_help_panel=Panel.OUTPUT,
        ),
    ] = False,
    layers: opt.Layers = False,
    sort: opt.Sort = None,
) -> None:
    """The command ``deployfold report``."""
    from deployfold.reporting.report import load_report
    from deployfold.reporting.select import check_column
    from deployfold.reporting.text import clean
    from deployfold.util.files import write_text

    if sort is not None:
        check_column(sort)
    found = load_report(path)
    written = []
    if html is not None:
        write_page(found, path if path.is_dir() else path.parent, html)
        written.append(html)
    if svg is not None:
        from deployfold.reporting.terminal import table_svg

        write_text(svg, table_svg(found, width=width))
        written.append(svg)
    if not written or run.json:
        show_report(run, found, None, sort=sort, layers=layers)
    for one in written:
        run.err.print(f"Wrote {clean(str(one))}", markup=False, highlight=False)
