"""Show the reports of builds again, or write them as one HTML page.

Examples:
  deployfold report build/resnet50 --open
  deployfold report build/v1 build/v2 build/v3 --html --output releases.html
  deployfold report build/resnet50 --svg table.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployfold.cli import options as opt
from deployfold.cli.in_session import in_session
from deployfold.cli.render import show_overview, show_report, write_page
from deployfold.cli.session import Session, session
from deployfold.errors import UsageError


def _print_schema(asked: bool) -> None:
    if asked:
        with session() as run:
            from .schema import print_schema

            print_schema(run, "report")
        raise typer.Exit


@in_session("json", "verbose")
def report(
    run: Session,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|FILE",
            help="The directory of a build, or its report.json; several make one page.",
            show_default=False,
        ),
    ],
    html: Annotated[
        bool,
        opt.option(
            "Write report.html beside report.json; of several reports, into this directory.",
            "--html",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        opt.option("Write the HTML page there instead.", "--output", "-o", metavar="FILE"),
    ] = None,
    open_page: Annotated[
        bool, opt.option("Write the HTML page, and open it in the browser.", "--open")
    ] = False,
    svg: Annotated[
        Path | None, opt.option("Write the table as an SVG picture of a terminal.", metavar="FILE")
    ] = None,
    width: Annotated[int, opt.option("Width of the SVG.", metavar="COLUMNS", min=40)] = 100,
    schema: Annotated[
        bool,
        opt.option(
            "Print the JSON schema of report.json.",
            "--schema",
            callback=_print_schema,
            is_eager=True,
        ),
    ] = False,
    layers: opt.Layers = False,
    sort: opt.Sort = None,
) -> None:
    """The command ``deployfold report``."""
    from deployfold.reporting.report import REPORT_HTML, load_report
    from deployfold.reporting.select import check_column
    from deployfold.util.files import write_text

    if sort is not None:
        check_column(sort)
    _check_paths(paths)
    several = len(paths) > 1
    if several and (svg is not None or layers or sort is not None or run.json):
        raise UsageError(
            "--svg, --layers, --sort and --json are for one report.",
            hint="Give the reports one by one, or all of them with --html.",
        )
    found = [(load_report(path), path if path.is_dir() else path.parent) for path in paths]
    written = []
    if html or open_page or output is not None:
        page = output or (Path() if several else found[0][1]) / REPORT_HTML
        write_page(found, page)
        written.append(page)
    if svg is not None:
        from deployfold.reporting.terminal import table_svg

        write_text(svg, table_svg(found[0][0], width=width))
        written.append(svg)
    if several and not written:
        show_overview(run, [one for one, _ in found])
    elif not written or run.json:
        show_report(run, *found[0], sort=sort, layers=layers)
    for one in written:
        run.wrote(one)
    if open_page:
        _open(run, written[0])


def _check_paths(paths: list[Path]) -> None:
    """Refuse a page among the reports.

    Raises:
        UsageError: names the page.
    """
    for path in paths:
        if path.suffix.lower() in (".html", ".htm"):
            raise UsageError(
                f"{path} is a page, not a report.",
                hint="Set the page to write with --output, and give reports as directories.",
            )


def _open(run: Session, page: Path) -> None:
    """Open a page in the browser, or say how to."""
    import webbrowser

    address = page.resolve().as_uri()
    if not webbrowser.open(address):
        run.err.print(
            f"This machine has no browser. Open {address} in another one.",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
