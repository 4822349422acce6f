"""The typer application: one file a command, and what they share."""

from __future__ import annotations

from typing import Annotated

import typer

from deployfold import __version__

from .bench import bench
from .build import build
from .bundle import bundle
from .compare import compare
from .doctor import doctor
from .export import export
from .finish import finish
from .fold import fold
from .group import Command, Group
from .profile import profile
from .report import report
from .run import run
from .sweep import sweep
from .targets import targets

EXIT_CODES = (
    "Exit codes: 0 done · 1 internal error · 2 usage · 3 loading failed · 4 folding failed or "
    "could not be verified · 5 export or lowering failed · 6 compiling failed · 7 measured, but "
    "past a limit · 8 measuring failed · 9 INT8, FP8 or INT4 loses its accuracy · "
    "10 a bundle is damaged or cannot be made · 11 builds of a sweep failed · 130 interrupted."
)

app = typer.Typer(
    name="deployfold",
    cls=Group,
    help="Fold BatchNorm losslessly, export, build TensorRT engines, and compare every artifact.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"deployfold {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


for command in (build, fold, export, bench, compare, report, run, finish, sweep, targets, doctor):
    app.command(cls=Command, epilog=EXIT_CODES)(command)
app.add_typer(bundle, epilog=EXIT_CODES)
app.add_typer(profile, epilog=EXIT_CODES)
